//! What a figure needs of a backend of `plotters` besides marks: groups, values, dashes and rasters.

use plotters::element::{Drawable, PointCollection};
use plotters::prelude::{BitMapBackend, DrawingBackend};
use plotters_backend::DrawingErrorKind;

use crate::report::figure_spec::Raster;

/// A backend of figures. Positions and lengths are in its own units.
pub(super) trait Backend: DrawingBackend {
    /// Starts a group with these attributes, where the format has groups.
    fn open_group(&mut self, _attributes: &[(&str, &str)]) {}

    /// Ends the last group.
    fn close_group(&mut self) {}

    /// Gives a point a text that a page shows when the pointer is near, where the format has such
    /// texts.
    fn write_value(&mut self, _at: (i32, i32), _radius: u32, _text: &str) {}

    /// Makes the lines that follow dashed, with these lengths of dash and gap, or solid again. False
    /// if the backend has no dashes of its own.
    fn set_dashes(&mut self, dashes: Option<[u32; 2]>) -> bool;

    /// Draws a raster, stretched from the upper left to the lower right corner. False if the backend
    /// has no rasters of its own.
    fn draw_raster(&mut self, from: (i32, i32), to: (i32, i32), raster: &Raster) -> bool;
}

impl Backend for BitMapBackend<'_> {
    fn set_dashes(&mut self, _dashes: Option<[u32; 2]>) -> bool {
        false
    }

    fn draw_raster(&mut self, _from: (i32, i32), _to: (i32, i32), _raster: &Raster) -> bool {
        false
    }
}

/// A call of the backend between the marks, as an element that `plotters` draws.
pub(super) struct BackendCall<F>(pub F);

impl<'a, F> PointCollection<'a, (i32, i32)> for &'a BackendCall<F> {
    type Point = (i32, i32);
    type IntoIter = std::iter::Empty<(i32, i32)>;

    fn point_iter(self) -> Self::IntoIter {
        std::iter::empty()
    }
}

impl<DB: Backend, F: Fn(&mut DB)> Drawable<DB> for BackendCall<F> {
    fn draw<I: Iterator<Item = (i32, i32)>>(
        &self,
        _points: I,
        backend: &mut DB,
        _size: (u32, u32),
    ) -> Result<(), DrawingErrorKind<DB::ErrorType>> {
        (self.0)(backend);
        Ok(())
    }
}
