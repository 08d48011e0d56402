//! Jacobian products of a network, from the graphs that were derived from it.

use std::borrow::Cow;

use ndarray::{Array2, ArrayD, Axis, Ix2, Ix3};

use super::network::{Network, Seed};
use super::opened::CACHED;
use crate::flow::field::EvalError;
use crate::flow::view::Differentiated;
use crate::num::{Batch, Blocks};

/// Numbers of tangents in one call of the tangent graph: bounds memory, and changes no result.
const TANGENT_NUMBERS: usize = 1 << 18;

/// Directions in one call below which what it computes of the network itself is a noticeable part of it.
const FEW_DIRECTIONS: usize = 16;

/// Directions in one call beyond which that part is nothing.
const MANY_DIRECTIONS: usize = 64;

/// Rows and directions of one call of a tangent graph, for so many directions in all: as many directions as pay for the
/// network itself, and as many rows, in fours, as then stay in a core's cache.
fn call_size(directions: usize, dim: usize, widest: u64) -> (usize, usize) {
    let cached = |count: usize| (CACHED / (count.max(1) as u64 * widest)) as usize;
    let many = directions.min(MANY_DIRECTIONS);
    let width = if cached(many) >= 4 {
        many
    } else {
        directions.min(cached(4).max(FEW_DIRECTIONS))
    };
    let rows = rows_of_a_call(width, dim, widest);
    (rows, width.min(TANGENT_NUMBERS / (rows * dim)).max(1))
}

/// Rows of one call with so many directions: as many, in fours, as stay in a core's cache.
fn rows_of_a_call(width: usize, dim: usize, widest: u64) -> usize {
    let cached = (CACHED / (width.max(1) as u64 * widest)) as usize;
    (cached / 4 * 4).max(4).min((TANGENT_NUMBERS / dim).max(1))
}

/// A network's tangent graph, and what else of its derivatives was asked for.
pub struct Derived {
    pub(super) tangent: Network,
    /// For quadratic forms alone, where a part of them depends on the directions alone and is kept along a path.
    pub(super) forms: Option<Network>,
    pub(super) cotangent: Option<Network>,
    pub(super) trace: Option<Network>,
}

impl Differentiated for Derived {
    fn dim(&self) -> usize {
        self.tangent.shape.iter().product()
    }

    fn products(&mut self, t: &[f64], x: &Batch, z: &Blocks) -> Result<Blocks, EvalError> {
        self.tangent.products(t, x, z)
    }

    fn quadratic(&mut self, t: &[f64], x: &Batch, z: &Blocks) -> Result<Array2<f64>, EvalError> {
        self.forms
            .as_mut()
            .unwrap_or(&mut self.tangent)
            .quadratic(t, x, z)
    }

    fn with_value(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &Blocks,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        self.forms
            .as_mut()
            .unwrap_or(&mut self.tangent)
            .with_value(t, x, z)
            .map(Some)
    }

    fn products_with_value(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &Blocks,
    ) -> Result<Option<(Batch, Blocks)>, EvalError> {
        self.tangent.products_with_value(t, x, z).map(Some)
    }

    fn trace_terms(&mut self, t: &[f64], x: &Batch) -> Result<Option<Array2<f64>>, EvalError> {
        self.trace
            .as_mut()
            .map(|network| network.trace_terms(t, x))
            .transpose()
    }

    fn trace_terms_with_value(
        &mut self,
        t: &[f64],
        x: &Batch,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        self.trace
            .as_mut()
            .map(|network| network.trace_terms_with_value(t, x))
            .transpose()
    }

    fn transposed(
        &mut self,
        t: &[f64],
        x: &Batch,
        w: &Blocks,
    ) -> Result<Option<Blocks>, EvalError> {
        self.cotangent
            .as_mut()
            .map(|network| network.transposed(t, x, w))
            .transpose()
    }
}

impl Network {
    /// J_F·z, k × rows × dim.
    fn products(&mut self, t: &[f64], x: &Batch, z: &Blocks) -> Result<Blocks, EvalError> {
        let mut out = Blocks::zeros(z.raw_dim());
        self.tangent_calls(t, x, z, &["tangent"], |block, rows, mut said, network| {
            network.keep_products(block, rows, said.remove(0), &mut out)
        })?;
        Ok(out)
    }

    /// zᵀJ_F z, k × rows, summed inside the graph.
    fn quadratic(&mut self, t: &[f64], x: &Batch, z: &Blocks) -> Result<Array2<f64>, EvalError> {
        let mut out = Array2::zeros((z.shape()[0], z.shape()[1]));
        self.tangent_calls(t, x, z, &["quadratic"], |block, rows, mut said, network| {
            network.keep_quadratic(block, rows, said.remove(0), &mut out)
        })?;
        Ok(out)
    }

    /// F and zᵀJ_F z: the tangent graph gives what it was derived from beside the products.
    fn with_value(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &Blocks,
    ) -> Result<(Batch, Array2<f64>), EvalError> {
        let mut values = Batch::zeros(x.raw_dim());
        let mut out = Array2::zeros((z.shape()[0], z.shape()[1]));
        self.tangent_calls(
            t,
            x,
            z,
            &["", "quadratic"],
            |block, rows, mut said, network| {
                let quadratic = said.remove(1);
                network.keep_values(rows, said.remove(0), &mut values)?;
                network.keep_quadratic(block, rows, quadratic, &mut out)
            },
        )?;
        Ok((values, out))
    }

    /// F and J_F·z.
    fn products_with_value(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &Blocks,
    ) -> Result<(Batch, Blocks), EvalError> {
        let mut values = Batch::zeros(x.raw_dim());
        let mut out = Blocks::zeros(z.raw_dim());
        self.tangent_calls(
            t,
            x,
            z,
            &["", "tangent"],
            |block, rows, mut said, network| {
                let products = said.remove(1);
                network.keep_values(rows, said.remove(0), &mut values)?;
                network.keep_products(block, rows, products, &mut out)
            },
        )?;
        Ok((values, out))
    }

    /// Terms whose sum is the trace of J_F, terms × rows, from a trace graph.
    fn trace_terms(&mut self, t: &[f64], x: &Batch) -> Result<Array2<f64>, EvalError> {
        let terms = self.terms();
        let mut out = Array2::zeros((terms, x.nrows()));
        self.trace_calls(t, x, &["trace_terms"], |rows, mut said, network| {
            network.keep_quadratic(0..terms, rows, said.remove(0), &mut out)
        })?;
        Ok(out)
    }

    /// F and those terms.
    fn trace_terms_with_value(
        &mut self,
        t: &[f64],
        x: &Batch,
    ) -> Result<(Batch, Array2<f64>), EvalError> {
        let terms = self.terms();
        let mut values = Batch::zeros(x.raw_dim());
        let mut out = Array2::zeros((terms, x.nrows()));
        self.trace_calls(t, x, &["", "trace_terms"], |rows, mut said, network| {
            let diagonal = said.remove(1);
            network.keep_values(rows, said.remove(0), &mut values)?;
            network.keep_quadratic(0..terms, rows, diagonal, &mut out)
        })?;
        Ok((values, out))
    }

    /// How many terms a trace graph gives.
    fn terms(&self) -> usize {
        let port = self
            .session
            .outputs
            .iter()
            .find(|port| port.name == format!("{}_trace_terms", self.output));
        port.and_then(|port| usize::try_from(*port.shape.first()?).ok())
            .unwrap_or_default()
    }

    fn keep_values(
        &self,
        rows: &[usize],
        y: ArrayD<f64>,
        out: &mut Batch,
    ) -> Result<(), EvalError> {
        let expected = self.shaped(&[rows.len()]);
        if y.shape() != expected {
            return Err(self.shape_error(y.shape(), expected));
        }
        let y = y
            .into_shape_with_order((rows.len(), out.ncols()))
            .expect("the shape was just compared");
        rows.iter()
            .zip(y.rows())
            .for_each(|(i, row)| out.row_mut(*i).assign(&row));
        Ok(())
    }

    fn keep_products(
        &self,
        block: std::ops::Range<usize>,
        rows: &[usize],
        y: ArrayD<f64>,
        out: &mut Blocks,
    ) -> Result<(), EvalError> {
        let expected = self.shaped(&[block.len(), rows.len()]);
        if y.shape() != expected {
            return Err(self.shape_error(y.shape(), expected));
        }
        let dim = out.shape()[2];
        let y = y
            .into_shape_with_order((block.len(), rows.len(), dim))
            .expect("the shape was just compared");
        let y = y.into_dimensionality::<Ix3>().expect("three axes");
        for (j, row) in rows.iter().enumerate() {
            out.slice_mut(ndarray::s![block.clone(), *row, ..])
                .assign(&y.index_axis(Axis(1), j));
        }
        Ok(())
    }

    fn keep_quadratic(
        &self,
        block: std::ops::Range<usize>,
        rows: &[usize],
        y: ArrayD<f64>,
        out: &mut Array2<f64>,
    ) -> Result<(), EvalError> {
        let found = y.shape().to_vec();
        let y = y
            .into_dimensionality::<Ix2>()
            .ok()
            .filter(|y| y.dim() == (block.len(), rows.len()));
        let y = y.ok_or_else(|| self.shape_error(&found, vec![block.len(), rows.len()]))?;
        for (j, row) in rows.iter().enumerate() {
            out.slice_mut(ndarray::s![block.clone(), *row])
                .assign(&y.column(j));
        }
        Ok(())
    }

    /// J_Fᵀ·w, k × rows × dim, from the cotangent graph: one cotangent per row of a call.
    fn transposed(&mut self, t: &[f64], x: &Batch, w: &Blocks) -> Result<Blocks, EvalError> {
        let wanted = [format!("{}_cotangent", self.x)];
        let mut out = Blocks::zeros(w.raw_dim());
        for group in self.groups(t) {
            let pairs: Vec<(usize, usize)> = (0..w.shape()[0])
                .flat_map(|j| group.iter().map(move |i| (j, *i)))
                .collect();
            for pairs in pairs.chunks((TANGENT_NUMBERS / x.ncols()).max(1)) {
                let rows: Vec<usize> = pairs.iter().map(|p| p.1).collect();
                let times: Vec<f64> = rows.iter().map(|i| t[*i]).collect();
                let mut given = Batch::zeros((pairs.len(), x.ncols()));
                for (mut row, (j, i)) in given.rows_mut().into_iter().zip(pairs) {
                    row.assign(&w.slice(ndarray::s![*j, *i, ..]));
                }
                let y = self
                    .call(
                        &times,
                        &x.select(Axis(0), &rows),
                        Seed::Cotangents(&given),
                        &wanted,
                    )?
                    .remove(0);
                let expected = self.shaped(&[pairs.len()]);
                if y.shape() != expected {
                    return Err(self.shape_error(y.shape(), expected));
                }
                let y = y
                    .into_shape_with_order((pairs.len(), x.ncols()))
                    .expect("the shape was just compared");
                for (row, (j, i)) in y.rows().into_iter().zip(pairs) {
                    out.slice_mut(ndarray::s![*j, *i, ..]).assign(&row);
                }
            }
        }
        Ok(out)
    }

    /// The outputs whose names end so; without an end it is the output that was differentiated.
    fn named(&self, suffixes: &[&str]) -> Vec<String> {
        let named = |suffix: &&str| match *suffix {
            "" => self.output.clone(),
            suffix => format!("{}_{suffix}", self.output),
        };
        suffixes.iter().map(named).collect()
    }

    /// Calls the trace graph in blocks of rows, for the outputs whose names end so.
    fn trace_calls(
        &mut self,
        t: &[f64],
        x: &Batch,
        suffixes: &[&str],
        mut take: impl FnMut(&[usize], Vec<ArrayD<f64>>, &Network) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let wanted = self.named(suffixes);
        let most = rows_of_a_call(self.terms(), x.ncols(), self.widest);
        for group in self.groups(t) {
            for rows in group.chunks(most) {
                let times: Vec<f64> = rows.iter().map(|i| t[*i]).collect();
                let all = rows.len() == t.len();
                let part = if all {
                    Cow::Borrowed(x)
                } else {
                    Cow::Owned(x.select(Axis(0), rows))
                };
                let said = self.call(&times, &part, Seed::Nothing, &wanted)?;
                take(rows, said, self)?;
            }
        }
        Ok(())
    }

    /// Calls the tangent graph in blocks of directions, and in blocks of rows for very many numbers, for the outputs
    /// whose names end so; without an end it is the output that was differentiated.
    fn tangent_calls(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &Blocks,
        suffixes: &[&str],
        mut take: impl FnMut(
            std::ops::Range<usize>,
            &[usize],
            Vec<ArrayD<f64>>,
            &Network,
        ) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let wanted = self.named(suffixes);
        for group in self.groups(t) {
            let (most, width) = call_size(z.shape()[0], x.ncols(), self.widest);
            for rows in group.chunks(most) {
                let times: Vec<f64> = rows.iter().map(|i| t[*i]).collect();
                // All rows together need no copies.
                let all = rows.len() == t.len();
                let part = if all {
                    Cow::Borrowed(x)
                } else {
                    Cow::Owned(x.select(Axis(0), rows))
                };
                for first in (0..z.shape()[0]).step_by(width) {
                    let block = first..(first + width).min(z.shape()[0]);
                    let tangents = match all && block.len() == z.shape()[0] {
                        true => Cow::Borrowed(z),
                        false => Cow::Owned(
                            z.slice(ndarray::s![block.clone(), .., ..])
                                .select(Axis(1), rows),
                        ),
                    };
                    let said = self.call(&times, &part, Seed::Tangents(&tangents), &wanted)?;
                    take(block, rows, said, self)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_as_large_as_pays() {
        // A perceptron: all directions, and rows that fit; one probe, as many rows as there are.
        assert_eq!(call_size(64, 64, 256), (16, 64));
        assert_eq!(call_size(1, 64, 256), (1024, 1));
        // A U-Net: few rows, and directions that pay for the network.
        assert_eq!(call_size(16, 3072, 1 << 16), (4, 16));
        assert_eq!(call_size(3072, 3072, 1 << 16), (4, 16));
        // States so large that one direction fills a call.
        assert_eq!(call_size(8, 1 << 20, 1 << 22), (1, 1));
    }
}
