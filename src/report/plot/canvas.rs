//! The only module that draws. It wraps the backends of `plotters` with a few operations in logical
//! pixels.
//!
//! Both backends round to whole numbers. SVG is therefore drawn on a grid ten times finer than its
//! pixels. PNG is drawn at twice its size, and each square of four pixels is averaged.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use anyhow::{Context, Result, anyhow};
use image::codecs::png::CompressionType;
use ndarray::{ArrayView, Axis};
use plotters::coord::Shift;
use plotters::element::{Drawable, PointCollection};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub(super) use super::backend::Backend;
use super::backend::BackendCall;
use super::encode::{encode_png, escaped};
use super::font::FigureFont;
use super::pdf::PdfBackend;
use super::svg::SvgBackend;
use crate::report::figure_spec::{Fill, Raster};
use crate::report::palette::{Colour, MarkerShape, PAPER};

/// The steps of the grid of SVG and PDF in one pixel.
pub(super) const GRID_PER_PIXEL: f64 = 10.0;
/// The pixels of the PNG per logical pixel.
const PNG_SCALE: u32 = 2;
/// The drawn pixels per pixel of the PNG, in each direction. The average makes lines evenly thick.
/// Tests do not look at this and draw faster without.
const PNG_SUPERSAMPLING: u32 = if cfg!(test) { 1 } else { 2 };
/// The lengths of the dashes of a line and of the gaps between them, in pixels.
const DASHES: [f64; 2] = [4.0, 3.0];
/// The distance from a value within which the pointer shows it, in pixels.
const VALUE_RADIUS: f64 = 8.0;

/// Which part of a text lies at the given point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// The size in logical pixels, the weight and the colour of a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct FontSpec {
    pub size: f64,
    pub bold: bool,
    pub colour: Colour,
}

/// A rectangle in logical pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Rect {
    /// The distance between the vertical sides.
    pub(super) fn width(&self) -> f64 {
        self.right - self.left
    }

    /// The distance between the horizontal sides.
    pub(super) fn height(&self) -> f64 {
        self.bottom - self.top
    }
}

/// Draws in logical pixels on one backend.
pub(super) struct Canvas<'a, DB: Backend> {
    area: DrawingArea<DB, Shift>,
    font: &'a FigureFont,
    /// The backend's units per logical pixel.
    scale: f64,
}

impl<DB: Backend> Canvas<'_, DB> {
    /// The font of all texts.
    pub(super) fn font(&self) -> &FigureFont {
        self.font
    }

    fn to_backend(&self, (x, y): (f64, f64)) -> (i32, i32) {
        (
            (x * self.scale).round() as i32,
            (y * self.scale).round() as i32,
        )
    }

    fn line_style(&self, colour: Colour, opacity: f64, width: f64) -> ShapeStyle {
        let width = (width * self.scale).round().max(1.0) as u32;
        ShapeStyle {
            color: to_rgb(colour).mix(opacity),
            filled: false,
            stroke_width: width,
        }
    }

    fn draw_element<E>(&self, element: &E) -> Result<()>
    where
        for<'b> &'b E: PointCollection<'b, (i32, i32)>,
        E: Drawable<DB>,
    {
        self.area
            .draw(element)
            .map_err(|error| anyhow!("drawing: {error}"))
    }

    /// Calls the backend between the marks.
    fn ask_backend(&self, call: impl Fn(&mut DB) -> bool) -> Result<bool> {
        let answer = Cell::new(false);
        self.draw_element(&BackendCall(|backend: &mut DB| answer.set(call(backend))))?;
        Ok(answer.get())
    }

    /// Draws a group with these attributes. A format without groups shows only what is in it.
    pub(super) fn group(
        &self,
        attributes: &[(&str, &str)],
        draw: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.draw_element(&BackendCall(|b: &mut DB| b.open_group(attributes)))?;
        draw()?;
        self.draw_element(&BackendCall(|b: &mut DB| b.close_group()))
    }

    /// Marks a point with a text that a page shows when the pointer is near.
    pub(super) fn value_text(&self, at: (f64, f64), text: &str) -> Result<()> {
        let (at, radius) = (self.to_backend(at), VALUE_RADIUS * self.scale);
        self.draw_element(&BackendCall(|b: &mut DB| {
            b.write_value(at, radius as u32, text);
        }))
    }

    /// Draws a line through the points.
    pub(super) fn line(&self, points: &[(f64, f64)], colour: Colour, width: f64) -> Result<()> {
        let mut path: Vec<(i32, i32)> = points.iter().map(|&p| self.to_backend(p)).collect();
        // The rasterizer needs the direction between neighbours, which equal points do not have.
        path.dedup();
        if path.len() < 2 {
            return Ok(());
        }
        self.draw_element(&PathElement::new(path, self.line_style(colour, 1.0, width)))
    }

    /// Draws a dashed line through the points.
    pub(super) fn dashed_line(
        &self,
        points: &[(f64, f64)],
        colour: Colour,
        width: f64,
    ) -> Result<()> {
        let [dash, gap] = DASHES;
        let lengths = DASHES.map(|length| (length * self.scale).round() as u32);
        if self.ask_backend(|b| b.set_dashes(Some(lengths)))? {
            self.line(points, colour, width)?;
            return self.ask_backend(|b| b.set_dashes(None)).map(drop);
        }
        for pair in points.windows(2) {
            let (dx, dy) = (pair[1].0 - pair[0].0, pair[1].1 - pair[0].1);
            let length = dx.hypot(dy);
            let at = |s: f64| (pair[0].0 + dx * s / length, pair[0].1 + dy * s / length);
            let count = (length / (dash + gap)).ceil().min(1000.0) as usize;
            for start in (0..count).map(|i| (dash + gap) * i as f64) {
                self.line(&[at(start), at((start + dash).min(length))], colour, width)?;
            }
        }
        Ok(())
    }

    /// Draws a filled polygon.
    pub(super) fn polygon(
        &self,
        points: &[(f64, f64)],
        colour: Colour,
        opacity: f64,
    ) -> Result<()> {
        let mut path: Vec<(i32, i32)> = points.iter().map(|&p| self.to_backend(p)).collect();
        path.dedup();
        if path.len() < 3 {
            return Ok(());
        }
        self.draw_element(&Polygon::new(path, to_rgb(colour).mix(opacity).filled()))
    }

    /// Draws a marker around a centre. A hollow marker is a filled one with a smaller white marker
    /// on top.
    pub(super) fn marker(
        &self,
        centre: (f64, f64),
        (shape, fill): (MarkerShape, Fill),
        radius: f64,
        (colour, opacity): (Colour, f64),
    ) -> Result<()> {
        let inner = if fill == Fill::Hollow {
            Some((radius - 1.4).max(0.6))
        } else {
            None
        };
        self.filled_marker(centre, shape, radius, colour, opacity)?;
        inner.map_or(Ok(()), |radius| {
            self.filled_marker(centre, shape, radius, PAPER, 1.0)
        })
    }

    fn filled_marker(
        &self,
        centre: (f64, f64),
        shape: MarkerShape,
        r: f64,
        colour: Colour,
        opacity: f64,
    ) -> Result<()> {
        let around = |offsets: &[(f64, f64)]| -> Vec<(f64, f64)> {
            offsets
                .iter()
                .map(|(x, y)| (centre.0 + x * r, centre.1 + y * r))
                .collect()
        };
        let corners: &[(f64, f64)] = match shape {
            MarkerShape::Circle => {
                let radius = (r * self.scale).round().max(1.0) as u32;
                let style = to_rgb(colour).mix(opacity).filled();
                return self.draw_element(&Circle::new(self.to_backend(centre), radius, style));
            }
            MarkerShape::Square => &[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
            MarkerShape::Diamond => &[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)],
            MarkerShape::Triangle => &[(0.0, -1.25), (1.2, 0.9), (-1.2, 0.9)],
        };
        self.polygon(&around(corners), colour, opacity)
    }

    /// Draws a text. The start, middle or end of its baseline lies at the point.
    pub(super) fn text(
        &self,
        text: &str,
        at: (f64, f64),
        anchor: Anchor,
        font: FontSpec,
    ) -> Result<()> {
        self.draw_text(
            text,
            (at.0, at.1 + 0.32 * font.size),
            anchor,
            font,
            FontTransform::None,
        )
    }

    /// Draws a text that reads upwards, centred at the point.
    pub(super) fn vertical_text(&self, text: &str, at: (f64, f64), font: FontSpec) -> Result<()> {
        let at = (at.0 + 0.32 * font.size, at.1);
        self.draw_text(text, at, Anchor::Middle, font, FontTransform::Rotate270)
    }

    fn draw_text(
        &self,
        text: &str,
        at: (f64, f64),
        anchor: Anchor,
        font: FontSpec,
        rotation: FontTransform,
    ) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let horizontal = match anchor {
            Anchor::Start => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::End => HPos::Right,
        };
        let style = self
            .font
            .description(font.size * self.scale, font.bold)?
            .transform(rotation)
            .color(&to_rgb(font.colour))
            .pos(Pos::new(horizontal, VPos::Bottom));
        self.draw_element(&Text::new(text.to_string(), self.to_backend(at), style))
    }

    /// Draws a raster, stretched over a rectangle without smoothing.
    pub(super) fn raster(&self, rect: Rect, raster: &Raster) -> Result<()> {
        if raster.pixels.is_empty() || raster.pixels.len() != raster.width * raster.height {
            return Ok(());
        }
        let (from, to) = (
            self.to_backend((rect.left, rect.top)),
            self.to_backend((rect.right, rect.bottom)),
        );
        if self.ask_backend(|b| b.draw_raster(from, to, raster))? {
            return Ok(());
        }
        let (w, h) = (
            (to.0 - from.0).max(1) as usize,
            (to.1 - from.1).max(1) as usize,
        );
        let mut bytes = Vec::with_capacity(3 * w * h);
        for y in 0..h {
            let row = y * raster.height / h * raster.width;
            bytes.extend((0..w).flat_map(|x| raster.pixels[row + x * raster.width / w]));
        }
        let bitmap = BitMapElement::with_owned_buffer(from, (w as u32, h as u32), bytes)
            .context("the size of a raster does not match its pixels")?;
        self.draw_element(&bitmap)
    }
}

/// The drawing as SVG text of this size in pixels. `label` describes it to screen readers.
///
/// # Errors
/// Fails if `draw` fails or a raster cannot be encoded.
pub(super) fn draw_svg(
    (width, height): (f64, f64),
    label: &str,
    font: &FigureFont,
    draw: impl FnOnce(&Canvas<SvgBackend>) -> Result<()>,
) -> Result<String> {
    let mut drawn = String::new();
    let size = (
        (width * GRID_PER_PIXEL).ceil() as u32,
        (height * GRID_PER_PIXEL).ceil() as u32,
    );
    {
        let area = SvgBackend::new(&mut drawn, size).into_drawing_area();
        let canvas = Canvas {
            area,
            font,
            scale: GRID_PER_PIXEL,
        };
        draw(&canvas)?;
        canvas
            .area
            .present()
            .map_err(|error| anyhow!("drawing: {error}"))?;
    }
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {} {}\" font-family=\"{},Verdana,sans-serif\" \
         stroke-linejoin=\"round\" role=\"img\" aria-label=\"{}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#FFFFFF\"/>\n{drawn}</svg>\n",
        size.0,
        size.1,
        escaped(font.family()),
        escaped(label),
    ))
}

/// The drawing as a PDF file with one page, on which a pixel is `points_per_pixel` points.
///
/// # Errors
/// Fails if `draw` fails or the font cannot be embedded.
pub(super) fn draw_pdf(
    (width, height): (f64, f64),
    points_per_pixel: f64,
    font: &FigureFont,
    draw: impl FnOnce(&Canvas<PdfBackend>) -> Result<()>,
) -> Result<Vec<u8>> {
    let size = (
        (width * GRID_PER_PIXEL).ceil() as u32,
        (height * GRID_PER_PIXEL).ceil() as u32,
    );
    let points = (f64::from(size.0) / GRID_PER_PIXEL * points_per_pixel) as f32;
    let backend = RefCell::new(PdfBackend::new(size, points, font));
    let backend = Rc::new(backend);
    {
        let canvas = Canvas {
            area: DrawingArea::from(&backend),
            font,
            scale: GRID_PER_PIXEL,
        };
        draw(&canvas)?;
    }
    let backend = Rc::into_inner(backend).context("a drawing that is still open")?;
    backend.into_inner().into_file(points)
}

/// The drawing as PNG bytes, with [`PNG_SCALE`] pixels per logical pixel.
///
/// # Errors
/// Fails if `draw` fails or the image cannot be encoded.
pub(super) fn draw_png(
    (width, height): (f64, f64),
    font: &FigureFont,
    draw: impl FnOnce(&Canvas<BitMapBackend>) -> Result<()>,
) -> Result<Vec<u8>> {
    let (w, h) = (
        (width * f64::from(PNG_SCALE)).ceil() as u32,
        (height * f64::from(PNG_SCALE)).ceil() as u32,
    );
    let (wide, high) = (w * PNG_SUPERSAMPLING, h * PNG_SUPERSAMPLING);
    let mut pixels = vec![255; 3 * wide as usize * high as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (wide, high)).into_drawing_area();
        let canvas = Canvas {
            area,
            font,
            scale: f64::from(PNG_SCALE * PNG_SUPERSAMPLING),
        };
        draw(&canvas)?;
        canvas
            .area
            .present()
            .map_err(|error| anyhow!("drawing: {error}"))?;
    }
    encode_png(
        &downsampled(&pixels, wide as usize, PNG_SUPERSAMPLING as usize)?,
        (w, h),
        CompressionType::Default,
    )
}

/// The means over squares of `side` × `side` pixels. `pixels` contains rows of `wide` pixels with
/// three levels each.
fn downsampled(pixels: &[u8], wide: usize, side: usize) -> Result<Vec<u8>> {
    let shape = (pixels.len() / (3 * wide * side), side, wide / side, side, 3);
    let squares = ArrayView::from_shape(shape, pixels)?.mapv(u32::from);
    let area = (side * side) as u32;
    let means = squares
        .sum_axis(Axis(3))
        .sum_axis(Axis(1))
        .mapv(|sum| ((sum + area / 2) / area) as u8);
    Ok(means.into_iter().collect())
}

fn to_rgb([r, g, b]: Colour) -> RGBColor {
    RGBColor(r, g, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downsampling_averages_pixel_squares() {
        let rows = [
            [0, 10, 20, 4, 10, 20, 9, 9, 9, 1, 1, 1],
            [0, 10, 20, 4, 10, 23, 9, 9, 9, 1, 1, 2],
        ];
        assert_eq!(
            downsampled(rows.as_flattened(), 4, 2).expect("whole squares"),
            [2, 10, 21, 5, 5, 5]
        );
        assert_eq!(downsampled(&[1, 2, 3], 1, 1).expect("one pixel"), [1, 2, 3]);
    }
}
