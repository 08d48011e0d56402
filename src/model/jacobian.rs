//! Jacobian products of a network, from the graphs that were derived from it.

use std::borrow::Cow;

use ndarray::{Array2, ArrayD, Axis, Ix2, Ix3};

use super::loaded::CORE_CACHE_VALUES;
use super::network::{DerivativeSeed, Network};
use crate::flow::field::EvalError;
use crate::flow::network_velocity::NetworkJacobianOperator;
use crate::num::{Batch, TangentBatch};

/// Numbers of tangents in one call of the tangent graph: bounds memory, and changes no result.
const MAX_TANGENT_VALUES: usize = 1 << 18;

/// Directions in one call below which what it computes of the network itself is a noticeable part of it.
const FEW_DIRECTIONS: usize = 16;

/// Directions in one call beyond which that part is nothing.
const MANY_DIRECTIONS: usize = 64;

/// Rows and directions of one call of a tangent graph, for so many directions in all: as many directions as pay for the
/// network itself, and as many rows, in fours, as then stay in a core's cache.
fn tangent_call_size(directions: usize, dim: usize, widest: u64) -> (usize, usize) {
    let cached = |count: usize| (CORE_CACHE_VALUES / (count.max(1) as u64 * widest)) as usize;
    let many = directions.min(MANY_DIRECTIONS);
    let width = if cached(many) >= 4 {
        many
    } else {
        directions.min(cached(4).max(FEW_DIRECTIONS))
    };
    let rows = rows_per_call(width, dim, widest);
    (rows, width.min(MAX_TANGENT_VALUES / (rows * dim)).max(1))
}

/// Rows of one call with so many directions: as many, in fours, as stay in a core's cache.
fn rows_per_call(width: usize, dim: usize, widest: u64) -> usize {
    let cached = (CORE_CACHE_VALUES / (width.max(1) as u64 * widest)) as usize;
    (cached / 4 * 4)
        .max(4)
        .min((MAX_TANGENT_VALUES / dim).max(1))
}

/// A network's tangent graph, and what else of its derivatives was asked for.
pub struct DerivedNetworks {
    pub(super) tangent: Network,
    /// For quadratic forms alone, where a part of them depends on the directions alone and is kept along a path.
    pub(super) quadratic_forms: Option<Network>,
    pub(super) cotangent: Option<Network>,
    pub(super) trace: Option<Network>,
}

impl NetworkJacobianOperator for DerivedNetworks {
    fn dim(&self) -> usize {
        self.tangent.shape.iter().product()
    }

    fn jvp(&mut self, t: &[f64], x: &Batch, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        self.tangent.jvp(t, x, z)
    }

    fn quadratic_form(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &TangentBatch,
    ) -> Result<Array2<f64>, EvalError> {
        self.quadratic_forms
            .as_mut()
            .unwrap_or(&mut self.tangent)
            .quadratic_forms(t, x, z)
    }

    fn output_and_quadratic_form(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &TangentBatch,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        self.quadratic_forms
            .as_mut()
            .unwrap_or(&mut self.tangent)
            .value_and_quadratic_forms(t, x, z)
            .map(Some)
    }

    fn output_and_jvp(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &TangentBatch,
    ) -> Result<Option<(Batch, TangentBatch)>, EvalError> {
        self.tangent.value_and_jvp(t, x, z).map(Some)
    }

    fn trace_terms(&mut self, t: &[f64], x: &Batch) -> Result<Option<Array2<f64>>, EvalError> {
        self.trace
            .as_mut()
            .map(|network| network.trace_terms(t, x))
            .transpose()
    }

    fn output_and_trace_terms(
        &mut self,
        t: &[f64],
        x: &Batch,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        self.trace
            .as_mut()
            .map(|network| network.value_and_trace_terms(t, x))
            .transpose()
    }

    fn vjp(
        &mut self,
        t: &[f64],
        x: &Batch,
        w: &TangentBatch,
    ) -> Result<Option<TangentBatch>, EvalError> {
        self.cotangent
            .as_mut()
            .map(|network| network.vjp(t, x, w))
            .transpose()
    }
}

impl Network {
    /// J_F·z, k × rows × dim.
    fn jvp(&mut self, t: &[f64], x: &Batch, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        let mut out = TangentBatch::zeros(z.raw_dim());
        self.call_tangent_graph(t, x, z, &["tangent"], |block, rows, mut said, network| {
            network.store_products(block, rows, said.remove(0), &mut out)
        })?;
        Ok(out)
    }

    /// zᵀJ_F z, k × rows, summed inside the graph.
    fn quadratic_forms(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &TangentBatch,
    ) -> Result<Array2<f64>, EvalError> {
        let mut out = Array2::zeros((z.shape()[0], z.shape()[1]));
        self.call_tangent_graph(t, x, z, &["quadratic"], |block, rows, mut said, network| {
            network.store_row_values(block, rows, said.remove(0), &mut out)
        })?;
        Ok(out)
    }

    /// F and zᵀJ_F z: the tangent graph gives what it was derived from beside the products.
    fn value_and_quadratic_forms(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &TangentBatch,
    ) -> Result<(Batch, Array2<f64>), EvalError> {
        let mut values = Batch::zeros(x.raw_dim());
        let mut out = Array2::zeros((z.shape()[0], z.shape()[1]));
        self.call_tangent_graph(
            t,
            x,
            z,
            &["", "quadratic"],
            |block, rows, mut said, network| {
                let quadratic = said.remove(1);
                network.store_values(rows, said.remove(0), &mut values)?;
                network.store_row_values(block, rows, quadratic, &mut out)
            },
        )?;
        Ok((values, out))
    }

    /// F and J_F·z.
    fn value_and_jvp(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &TangentBatch,
    ) -> Result<(Batch, TangentBatch), EvalError> {
        let mut values = Batch::zeros(x.raw_dim());
        let mut out = TangentBatch::zeros(z.raw_dim());
        self.call_tangent_graph(
            t,
            x,
            z,
            &["", "tangent"],
            |block, rows, mut said, network| {
                let products = said.remove(1);
                network.store_values(rows, said.remove(0), &mut values)?;
                network.store_products(block, rows, products, &mut out)
            },
        )?;
        Ok((values, out))
    }

    /// Terms whose sum is the trace of J_F, terms × rows, from a trace graph.
    fn trace_terms(&mut self, t: &[f64], x: &Batch) -> Result<Array2<f64>, EvalError> {
        let terms = self.trace_term_count();
        let mut out = Array2::zeros((terms, x.nrows()));
        self.call_trace_graph(t, x, &["trace_terms"], |rows, mut said, network| {
            network.store_row_values(0..terms, rows, said.remove(0), &mut out)
        })?;
        Ok(out)
    }

    /// F and those terms.
    fn value_and_trace_terms(
        &mut self,
        t: &[f64],
        x: &Batch,
    ) -> Result<(Batch, Array2<f64>), EvalError> {
        let terms = self.trace_term_count();
        let mut values = Batch::zeros(x.raw_dim());
        let mut out = Array2::zeros((terms, x.nrows()));
        self.call_trace_graph(t, x, &["", "trace_terms"], |rows, mut said, network| {
            let diagonal = said.remove(1);
            network.store_values(rows, said.remove(0), &mut values)?;
            network.store_row_values(0..terms, rows, diagonal, &mut out)
        })?;
        Ok((values, out))
    }

    /// How many terms a trace graph gives.
    fn trace_term_count(&self) -> usize {
        let port = self
            .session
            .outputs
            .iter()
            .find(|port| port.name == format!("{}_trace_terms", self.output_name));
        port.and_then(|port| usize::try_from(*port.shape.first()?).ok())
            .unwrap_or_default()
    }

    fn store_values(
        &self,
        rows: &[usize],
        y: ArrayD<f64>,
        out: &mut Batch,
    ) -> Result<(), EvalError> {
        let expected = self.with_state_shape(&[rows.len()]);
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

    fn store_products(
        &self,
        block: std::ops::Range<usize>,
        rows: &[usize],
        y: ArrayD<f64>,
        out: &mut TangentBatch,
    ) -> Result<(), EvalError> {
        let expected = self.with_state_shape(&[block.len(), rows.len()]);
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

    fn store_row_values(
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
    fn vjp(&mut self, t: &[f64], x: &Batch, w: &TangentBatch) -> Result<TangentBatch, EvalError> {
        let wanted = [format!("{}_cotangent", self.x_name)];
        let mut out = TangentBatch::zeros(w.raw_dim());
        for group in self.call_groups(t) {
            let pairs: Vec<(usize, usize)> = (0..w.shape()[0])
                .flat_map(|j| group.iter().map(move |i| (j, *i)))
                .collect();
            for pairs in pairs.chunks((MAX_TANGENT_VALUES / x.ncols()).max(1)) {
                let rows: Vec<usize> = pairs.iter().map(|p| p.1).collect();
                let times: Vec<f64> = rows.iter().map(|i| t[*i]).collect();
                let mut given = Batch::zeros((pairs.len(), x.ncols()));
                for (mut row, (j, i)) in given.rows_mut().into_iter().zip(pairs) {
                    row.assign(&w.slice(ndarray::s![*j, *i, ..]));
                }
                let y = self
                    .call_padded(
                        &times,
                        &x.select(Axis(0), &rows),
                        DerivativeSeed::Cotangents(&given),
                        &wanted,
                    )?
                    .remove(0);
                let expected = self.with_state_shape(&[pairs.len()]);
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
    fn suffixed_output_names(&self, suffixes: &[&str]) -> Vec<String> {
        let named = |suffix: &&str| match *suffix {
            "" => self.output_name.clone(),
            suffix => format!("{}_{suffix}", self.output_name),
        };
        suffixes.iter().map(named).collect()
    }

    /// Calls the trace graph in blocks of rows, for the outputs whose names end so.
    fn call_trace_graph(
        &mut self,
        t: &[f64],
        x: &Batch,
        suffixes: &[&str],
        mut take: impl FnMut(&[usize], Vec<ArrayD<f64>>, &Network) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let wanted = self.suffixed_output_names(suffixes);
        let most = rows_per_call(self.trace_term_count(), x.ncols(), self.max_activation_size);
        for group in self.call_groups(t) {
            for rows in group.chunks(most) {
                let times: Vec<f64> = rows.iter().map(|i| t[*i]).collect();
                let all = rows.len() == t.len();
                let part = if all {
                    Cow::Borrowed(x)
                } else {
                    Cow::Owned(x.select(Axis(0), rows))
                };
                let said = self.call_padded(&times, &part, DerivativeSeed::Nothing, &wanted)?;
                take(rows, said, self)?;
            }
        }
        Ok(())
    }

    /// Calls the tangent graph in blocks of directions, and in blocks of rows for very many numbers, for the outputs
    /// whose names end so; without an end it is the output that was differentiated.
    fn call_tangent_graph(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &TangentBatch,
        suffixes: &[&str],
        mut take: impl FnMut(
            std::ops::Range<usize>,
            &[usize],
            Vec<ArrayD<f64>>,
            &Network,
        ) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let wanted = self.suffixed_output_names(suffixes);
        for group in self.call_groups(t) {
            let (most, width) =
                tangent_call_size(z.shape()[0], x.ncols(), self.max_activation_size);
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
                    let said = self.call_padded(
                        &times,
                        &part,
                        DerivativeSeed::Tangents(&tangents),
                        &wanted,
                    )?;
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
    fn tangent_call_size_fits_cache() {
        // A perceptron: all directions, and rows that fit; one probe, as many rows as there are.
        assert_eq!(tangent_call_size(64, 64, 256), (16, 64));
        assert_eq!(tangent_call_size(1, 64, 256), (1024, 1));
        // A U-Net: few rows, and directions that pay for the network.
        assert_eq!(tangent_call_size(16, 3072, 1 << 16), (4, 16));
        assert_eq!(tangent_call_size(3072, 3072, 1 << 16), (4, 16));
        // States so large that one direction fills a call.
        assert_eq!(tangent_call_size(8, 1 << 20, 1 << 22), (1, 1));
    }
}
