//! Rows of numbers that can be read several times, from memory or from a file.

use ndarray::{Array2, ArrayBase, Axis, Data, Ix2};

/// A table of numbers from which a few rows are read at a time.
pub trait RowSource: Sync {
    /// The number of rows and of columns.
    fn size(&self) -> (usize, usize);

    /// The rows with the given indices, in that order.
    ///
    /// # Errors
    /// Fails if the rows cannot be read.
    fn read_rows(&self, at: &[usize]) -> Result<Array2<f64>, String>;
}

impl<S> RowSource for ArrayBase<S, Ix2>
where
    S: Data + Sync,
    S::Elem: Copy + Into<f64>,
{
    fn size(&self) -> (usize, usize) {
        self.dim()
    }

    fn read_rows(&self, at: &[usize]) -> Result<Array2<f64>, String> {
        let mut out = Array2::zeros((at.len(), self.ncols()));
        for (mut row, i) in out.rows_mut().into_iter().zip(at) {
            row.zip_mut_with(&self.index_axis(Axis(0), *i), |to, from| {
                *to = (*from).into()
            });
        }
        Ok(out)
    }
}
