//! Jacobian products of a network, from the graphs that were derived from it.

use ndarray::{Array2, ArrayD, Axis, Ix2, Ix3};

use super::network::{Network, Seed};
use crate::flow::field::EvalError;
use crate::flow::view::Differentiated;
use crate::num::{Batch, Blocks};

/// Numbers in one call of the tangent graph: bounds memory, and changes no result.
const TANGENT_NUMBERS: usize = 1 << 18;

/// A network's tangent graph, and its reverse where it was asked for.
pub struct Derived {
    pub(super) tangent: Network,
    pub(super) cotangent: Option<Network>,
}

impl Differentiated for Derived {
    fn dim(&self) -> usize {
        self.tangent.shape.iter().product()
    }

    fn products(&mut self, t: &[f64], x: &Batch, z: &Blocks) -> Result<Blocks, EvalError> {
        self.tangent.products(t, x, z)
    }

    fn quadratic(&mut self, t: &[f64], x: &Batch, z: &Blocks) -> Result<Array2<f64>, EvalError> {
        self.tangent.quadratic(t, x, z)
    }

    fn transposed(&mut self, t: &[f64], x: &Batch, w: &Blocks) -> Result<Option<Blocks>, EvalError> {
        self.cotangent.as_mut().map(|network| network.transposed(t, x, w)).transpose()
    }
}

impl Network {
    /// J_F·z, k × rows × dim.
    fn products(&mut self, t: &[f64], x: &Batch, z: &Blocks) -> Result<Blocks, EvalError> {
        let mut out = Blocks::zeros(z.raw_dim());
        self.tangent_calls(t, x, z, "tangent", |block, rows, y, network| {
            let expected = network.shaped(&[block.len(), rows.len()]);
            if y.shape() != expected {
                return Err(network.shape_error(y.shape(), expected));
            }
            let y = y.into_shape_with_order((block.len(), rows.len(), x.ncols())).expect("the shape was just compared");
            let y = y.into_dimensionality::<Ix3>().expect("three axes");
            for (j, row) in rows.iter().enumerate() {
                let mut target = out.slice_mut(ndarray::s![block.clone(), *row, ..]);
                target.assign(&y.index_axis(Axis(1), j));
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// zᵀJ_F z, k × rows, summed inside the graph.
    fn quadratic(&mut self, t: &[f64], x: &Batch, z: &Blocks) -> Result<Array2<f64>, EvalError> {
        let mut out = Array2::zeros((z.shape()[0], z.shape()[1]));
        self.tangent_calls(t, x, z, "quadratic", |block, rows, y, network| {
            let found = y.shape().to_vec();
            let y = y.into_dimensionality::<Ix2>().ok().filter(|y| y.dim() == (block.len(), rows.len()));
            let y = y.ok_or_else(|| network.shape_error(&found, vec![block.len(), rows.len()]))?;
            for (j, row) in rows.iter().enumerate() {
                out.slice_mut(ndarray::s![block.clone(), *row]).assign(&y.column(j));
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// J_Fᵀ·w, k × rows × dim, from the cotangent graph: one cotangent per row of a call.
    fn transposed(&mut self, t: &[f64], x: &Batch, w: &Blocks) -> Result<Blocks, EvalError> {
        let wanted = [format!("{}_cotangent", self.x)];
        let mut out = Blocks::zeros(w.raw_dim());
        for group in self.groups(t) {
            let pairs: Vec<(usize, usize)> =
                (0..w.shape()[0]).flat_map(|j| group.iter().map(move |i| (j, *i))).collect();
            for pairs in pairs.chunks((TANGENT_NUMBERS / x.ncols()).max(1)) {
                let rows: Vec<usize> = pairs.iter().map(|p| p.1).collect();
                let times: Vec<f64> = rows.iter().map(|i| t[*i]).collect();
                let mut given = Batch::zeros((pairs.len(), x.ncols()));
                for (mut row, (j, i)) in given.rows_mut().into_iter().zip(pairs) {
                    row.assign(&w.slice(ndarray::s![*j, *i, ..]));
                }
                let y = self.call(&times, &x.select(Axis(0), &rows), Seed::Cotangents(&given), &wanted)?.remove(0);
                let expected = self.shaped(&[pairs.len()]);
                if y.shape() != expected {
                    return Err(self.shape_error(y.shape(), expected));
                }
                let y = y.into_shape_with_order((pairs.len(), x.ncols())).expect("the shape was just compared");
                for (row, (j, i)) in y.rows().into_iter().zip(pairs) {
                    out.slice_mut(ndarray::s![*j, *i, ..]).assign(&row);
                }
            }
        }
        Ok(out)
    }

    /// Calls the tangent graph in blocks of directions, and in blocks of rows for very many numbers.
    fn tangent_calls(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &Blocks,
        suffix: &str,
        mut take: impl FnMut(std::ops::Range<usize>, &[usize], ArrayD<f64>, &Network) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let wanted = [format!("{}_{suffix}", self.output)];
        for group in self.groups(t) {
            for rows in group.chunks((TANGENT_NUMBERS / x.ncols()).max(1)) {
                let times: Vec<f64> = rows.iter().map(|i| t[*i]).collect();
                let part = x.select(Axis(0), rows);
                let width = (TANGENT_NUMBERS / (rows.len() * x.ncols())).max(1);
                for first in (0..z.shape()[0]).step_by(width) {
                    let block = first..(first + width).min(z.shape()[0]);
                    let tangents = z.slice(ndarray::s![block.clone(), .., ..]).select(Axis(1), rows);
                    let y = self.call(&times, &part, Seed::Tangents(&tangents), &wanted)?.remove(0);
                    take(block, rows, y, self)?;
                }
            }
        }
        Ok(())
    }
}
