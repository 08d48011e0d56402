//! Jacobian products of a network, from graphs that are derived from it by differentiation.

use ndarray::{Array2, ArrayD, Axis, CowArray, Ix2, Ix3};

use super::network::{DerivativeSeed, Network};
use crate::flow::field::{EvalError, Points};
use crate::flow::network_velocity::NetworkJacobianOperator;
use crate::num::{Batch, TangentBatch};

/// The tangent graph of a network, and the other derived graphs that were requested.
pub struct DerivedNetworks {
    /// The graph of Jacobian products J·z.
    pub(super) tangent: Network,
    /// The graph of quadratic forms, split so that the part that depends only on the directions is
    /// cached along a path. It is `None` if there is no such part; then the tangent graph is used.
    pub(super) quadratic_forms: Option<Network>,
    /// The graph of Jacobian products Jᵀ·w, if it was requested.
    pub(super) cotangent: Option<Network>,
    /// The graph of the exact trace, if it was requested and has few enough terms.
    pub(super) trace: Option<Network>,
    /// The graph of the whole Jacobian, if it was requested.
    pub(super) jacobian: Option<Network>,
}

impl NetworkJacobianOperator for DerivedNetworks {
    fn dim(&self) -> usize {
        self.tangent.shape.iter().product()
    }

    fn calls_at(&self, t: f64) -> u64 {
        self.tangent.calls_per_row(t)
    }

    fn jvp(&mut self, at: Points, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        self.tangent.jvp(at, z)
    }

    fn quadratic_form(&mut self, at: Points, z: &TangentBatch) -> Result<Array2<f64>, EvalError> {
        self.quadratic_forms
            .as_mut()
            .unwrap_or(&mut self.tangent)
            .quadratic_forms(at, z)
    }

    fn output_and_quadratic_form(
        &mut self,
        at: Points,
        z: &TangentBatch,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        self.quadratic_forms
            .as_mut()
            .unwrap_or(&mut self.tangent)
            .value_and_quadratic_forms(at, z)
            .map(Some)
    }

    fn output_and_jvp(
        &mut self,
        at: Points,
        z: &TangentBatch,
    ) -> Result<Option<(Batch, TangentBatch)>, EvalError> {
        self.tangent.value_and_jvp(at, z).map(Some)
    }

    fn jacobian(&mut self, at: Points) -> Result<Option<TangentBatch>, EvalError> {
        self.jacobian
            .as_mut()
            .map(|network| network.jacobian(at))
            .transpose()
    }

    fn output_and_jacobian(
        &mut self,
        at: Points,
    ) -> Result<Option<(Batch, TangentBatch)>, EvalError> {
        self.jacobian
            .as_mut()
            .map(|network| network.value_and_jacobian(at))
            .transpose()
    }

    fn trace_terms(&mut self, at: Points) -> Result<Option<Array2<f64>>, EvalError> {
        self.trace
            .as_mut()
            .map(|network| network.trace_terms(at))
            .transpose()
    }

    fn output_and_trace_terms(
        &mut self,
        at: Points,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        self.trace
            .as_mut()
            .map(|network| network.value_and_trace_terms(at))
            .transpose()
    }

    fn vjp(&mut self, at: Points, w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError> {
        self.cotangent
            .as_mut()
            .map(|network| network.vjp(at, w))
            .transpose()
    }
}

impl Network {
    /// Returns J_F·z, k × rows × dim, from the tangent graph.
    fn jvp(&mut self, at: Points, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        let mut out = TangentBatch::zeros(z.raw_dim());
        self.call_tangent_graph(at, z, &["tangent"], |block, rows, mut outputs, network| {
            network.store_products(block, rows, outputs.remove(0), &mut out)
        })?;
        Ok(out)
    }

    /// Returns zᵀJ_F z, k × rows. The graph itself sums over the components.
    fn quadratic_forms(&mut self, at: Points, z: &TangentBatch) -> Result<Array2<f64>, EvalError> {
        let mut out = Array2::zeros((z.shape()[0], z.shape()[1]));
        self.call_tangent_graph(
            at,
            z,
            &["quadratic"],
            |block, rows, mut outputs, network| {
                network.store_row_values(block, rows, outputs.remove(0), &mut out)
            },
        )?;
        Ok(out)
    }

    /// Returns F and zᵀJ_F z. The tangent graph outputs both, because it contains the network.
    fn value_and_quadratic_forms(
        &mut self,
        at: Points,
        z: &TangentBatch,
    ) -> Result<(Batch, Array2<f64>), EvalError> {
        let Points { x, .. } = at;
        let mut values = Batch::zeros(x.raw_dim());
        let mut out = Array2::zeros((z.shape()[0], z.shape()[1]));
        self.call_tangent_graph(
            at,
            z,
            &["", "quadratic"],
            |block, rows, mut outputs, network| {
                let quadratic = outputs.remove(1);
                network.store_values(rows, outputs.remove(0), &mut values)?;
                network.store_row_values(block, rows, quadratic, &mut out)
            },
        )?;
        Ok((values, out))
    }

    /// Returns F and J_F·z from the same calls of the tangent graph.
    fn value_and_jvp(
        &mut self,
        at: Points,
        z: &TangentBatch,
    ) -> Result<(Batch, TangentBatch), EvalError> {
        let Points { x, .. } = at;
        let mut values = Batch::zeros(x.raw_dim());
        let mut out = TangentBatch::zeros(z.raw_dim());
        self.call_tangent_graph(
            at,
            z,
            &["", "tangent"],
            |block, rows, mut outputs, network| {
                let products = outputs.remove(1);
                network.store_values(rows, outputs.remove(0), &mut values)?;
                network.store_products(block, rows, products, &mut out)
            },
        )?;
        Ok((values, out))
    }

    /// Returns terms whose sum is the trace of J_F, terms × rows, from a trace graph.
    fn trace_terms(&mut self, at: Points) -> Result<Array2<f64>, EvalError> {
        let Points { x, .. } = at;
        let terms = self.trace_term_count();
        let mut out = Array2::zeros((terms, x.nrows()));
        self.call_whole_graph(at, terms, &["trace_terms"], |rows, mut outputs, network| {
            network.store_row_values(0..terms, rows, outputs.remove(0), &mut out)
        })?;
        Ok(out)
    }

    /// Returns F and the trace terms from the same calls of a trace graph.
    fn value_and_trace_terms(&mut self, at: Points) -> Result<(Batch, Array2<f64>), EvalError> {
        let Points { x, .. } = at;
        let terms = self.trace_term_count();
        let mut values = Batch::zeros(x.raw_dim());
        let mut out = Array2::zeros((terms, x.nrows()));
        self.call_whole_graph(
            at,
            terms,
            &["", "trace_terms"],
            |rows, mut outputs, network| {
                let diagonal = outputs.remove(1);
                network.store_values(rows, outputs.remove(0), &mut values)?;
                network.store_row_values(0..terms, rows, diagonal, &mut out)
            },
        )?;
        Ok((values, out))
    }

    /// Returns J_F·e for every unit vector e, dim × rows × dim, from a graph of the Jacobian.
    fn jacobian(&mut self, at: Points) -> Result<TangentBatch, EvalError> {
        let (rows, dim) = at.x.dim();
        let mut out = TangentBatch::zeros((dim, rows, dim));
        self.call_whole_graph(at, dim, &["jacobian"], |rows, mut outputs, network| {
            network.store_products(0..dim, rows, outputs.remove(0), &mut out)
        })?;
        Ok(out)
    }

    /// Returns F and J_F·e for every unit vector e from the same calls of a graph of the Jacobian.
    fn value_and_jacobian(&mut self, at: Points) -> Result<(Batch, TangentBatch), EvalError> {
        let (rows, dim) = at.x.dim();
        let mut values = Batch::zeros((rows, dim));
        let mut out = TangentBatch::zeros((dim, rows, dim));
        self.call_whole_graph(at, dim, &["", "jacobian"], |rows, mut outputs, network| {
            let columns = outputs.remove(1);
            network.store_values(rows, outputs.remove(0), &mut values)?;
            network.store_products(0..dim, rows, columns, &mut out)
        })?;
        Ok((values, out))
    }

    /// Returns the number of terms that a trace graph outputs.
    fn trace_term_count(&self) -> usize {
        let port = self
            .session
            .outputs
            .iter()
            .find(|port| port.name == format!("{}_trace_terms", self.output_name));
        port.and_then(|port| usize::try_from(*port.shape.first()?).ok())
            .unwrap_or_default()
    }

    /// Stores outputs in the given rows of `out`, after a check of their shape.
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

    /// Stores products in the given directions and rows of `out`, after a check of their shape.
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

    /// Stores one value per direction and row in `out`, after a check of their shape.
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

    /// Returns J_Fᵀ·w, k × rows × dim, from the cotangent graph. Each row of a call takes one
    /// cotangent, so a state with k cotangents fills k rows.
    fn vjp(&mut self, at: Points, w: &TangentBatch) -> Result<TangentBatch, EvalError> {
        let Points { t, x, .. } = at;
        let wanted = [format!("{}_cotangent", self.x_name)];
        let mut out = TangentBatch::zeros(w.raw_dim());
        for group in self.call_groups(t) {
            let pairs: Vec<(usize, usize)> = (0..w.shape()[0])
                .flat_map(|j| group.iter().map(move |i| (j, *i)))
                .collect();
            let max_rows = self.call_size.rows(
                1,
                x.ncols(),
                self.max_activation_size,
                self.row_invariance.small_calls,
            );
            for pairs in pairs.chunks(max_rows) {
                let rows: Vec<usize> = pairs.iter().map(|p| p.1).collect();
                let part = at.select(&rows);
                let mut given = Batch::zeros((pairs.len(), x.ncols()));
                for (mut row, (j, i)) in given.rows_mut().into_iter().zip(pairs) {
                    row.assign(&w.slice(ndarray::s![*j, *i, ..]));
                }
                let y = self
                    .call_padded(part.points(), DerivativeSeed::Cotangents(&given), &wanted)?
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

    /// Returns the names of outputs with the given suffixes. The empty suffix stands for the output
    /// that was differentiated.
    fn suffixed_output_names(&self, suffixes: &[&str]) -> Vec<String> {
        let named = |suffix: &&str| match *suffix {
            "" => self.output_name.clone(),
            suffix => format!("{}_{suffix}", self.output_name),
        };
        suffixes.iter().map(named).collect()
    }

    /// Calls a graph that holds its own directions, so many of them, in blocks of rows. `take` gets
    /// the rows and the outputs with the given suffixes.
    fn call_whole_graph(
        &mut self,
        at: Points,
        directions: usize,
        suffixes: &[&str],
        mut take: impl FnMut(&[usize], Vec<ArrayD<f64>>, &Network) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let Points { t, x, .. } = at;
        let wanted = self.suffixed_output_names(suffixes);
        let max_rows = self.call_size.rows(
            directions,
            x.ncols(),
            self.max_activation_size,
            self.row_invariance.small_calls,
        );
        for group in self.call_groups(t) {
            for rows in group.chunks(max_rows) {
                let part = at.select(rows);
                let outputs = self.call_padded(part.points(), DerivativeSeed::Nothing, &wanted)?;
                take(rows, outputs, self)?;
            }
        }
        Ok(())
    }

    /// Calls the tangent graph in blocks of rows and of directions. `take` gets the directions, the
    /// rows and the outputs with the given suffixes. The empty suffix stands for the output that
    /// was differentiated.
    fn call_tangent_graph(
        &mut self,
        at: Points,
        z: &TangentBatch,
        suffixes: &[&str],
        mut take: impl FnMut(
            std::ops::Range<usize>,
            &[usize],
            Vec<ArrayD<f64>>,
            &Network,
        ) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let Points { t, x, .. } = at;
        let wanted = self.suffixed_output_names(suffixes);
        for group in self.call_groups(t) {
            let (max_rows, width) = self.call_size.tangents(
                z.shape()[0],
                x.ncols(),
                self.max_activation_size,
                self.row_invariance.small_calls,
            );
            let max_rows = self.fixed_batch.unwrap_or(max_rows);
            for rows in group.chunks(max_rows) {
                let part = at.select(rows);
                let in_order = rows.windows(2).all(|pair| pair[1] == pair[0] + 1);
                for first in (0..z.shape()[0]).step_by(width) {
                    let block = first..(first + width).min(z.shape()[0]);
                    let directions = z.slice(ndarray::s![block.clone(), .., ..]);
                    let tangents = if in_order {
                        let rows = rows[0]..rows[0] + rows.len();
                        CowArray::from(directions.slice_move(ndarray::s![.., rows, ..]))
                    } else {
                        CowArray::from(directions.select(Axis(1), rows))
                    };
                    let outputs = self.call_padded(
                        part.points(),
                        DerivativeSeed::Tangents(tangents.view()),
                        &wanted,
                    )?;
                    take(block, rows, outputs, self)?;
                }
            }
        }
        Ok(())
    }
}
