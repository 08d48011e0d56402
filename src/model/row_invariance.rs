//! Whether a row's output depends on the rest of its call, found by calls of the network.

use ndarray::{ArrayD, Axis};

use super::call_rows::{self, ROWS_TOGETHER, RowInvariance, RowPlaces};
use super::network::{DerivativeSeed, Network};
use crate::flow::field::Points;
use crate::flow::network_velocity::ForwardNetwork;
use crate::graph::Mode;
use crate::num::key::{Purpose, RngKey, SampleId};
use crate::num::{Batch, TangentBatch};

/// The inputs of a call that is tried.
struct TriedCall {
    samples: Vec<SampleId>,
    t: Vec<f64>,
    x: Batch,
    tangents: TangentBatch,
}

impl Network {
    /// Returns what the rows of this network depend on. `mode` is the kind of derived graph, `None`
    /// for the original one. If the calls fail, nothing is known to depend on anything; the first
    /// user of the network gets the error.
    pub(super) fn find_row_invariance(&mut self, mode: Option<Mode>, large: bool) -> RowInvariance {
        if large && self.fixed_batch.is_none() && self.small_calls_agree(mode) {
            return RowInvariance {
                small_calls: true,
                places: RowPlaces::Free,
            };
        }
        let rows = self.fixed_batch.unwrap_or(ROWS_TOGETHER);
        let trials = call_rows::trial_count(ForwardNetwork::dim(self));
        let depends = (0..trials).any(|trial| {
            let call = self.tried_call(rows, trial, trials);
            self.agrees(mode, &call, &call_rows::rotations(rows)) == Some(false)
        });
        RowInvariance {
            small_calls: false,
            places: if depends {
                RowPlaces::BySample
            } else {
                RowPlaces::Free
            },
        }
    }

    /// Whether one row, and two rows, get the same bytes in a call of their own as in a call with
    /// four rows.
    fn small_calls_agree(&mut self, mode: Option<Mode>) -> bool {
        let call = self.tried_call(ROWS_TOGETHER, 0, 1);
        self.agrees(mode, &call, &[vec![3], vec![1, 2]]) == Some(true)
    }

    /// Returns the inputs of one of the calls that are tried. Their times are spread over the path.
    fn tried_call(&self, rows: usize, trial: usize, trials: usize) -> TriedCall {
        let dim = ForwardNetwork::dim(self);
        let draws = |input: u64| {
            let drawn = RngKey { seed: 0 }.normal(Purpose::Check, input, trial as u64, rows * dim);
            drawn
                .into_shape_with_order((rows, dim))
                .expect("rows of dim")
        };
        let part = (trial as f64 + 0.5) / trials as f64;
        let [from, to] = [self.curve.data_end(), self.curve.prior_end()];
        TriedCall {
            samples: (0..rows as SampleId).collect(),
            t: vec![from + part * (to - from); rows],
            x: draws(0),
            tangents: draws(1).insert_axis(Axis(0)),
        }
    }

    /// Whether calls with these selections of the rows give each row the same bytes; `None` if a
    /// call fails.
    fn agrees(
        &mut self,
        mode: Option<Mode>,
        call: &TriedCall,
        selections: &[Vec<usize>],
    ) -> Option<bool> {
        let cotangents = call.tangents.index_axis(Axis(0), 0).to_owned();
        let suffixed = |suffix: &str| format!("{}_{suffix}", self.output_name);
        let output = self.output_name.clone();
        let (seed, wanted) = match mode {
            None => (DerivativeSeed::Nothing, vec![output]),
            Some(Mode::Jvp | Mode::Quadratic) => (
                DerivativeSeed::Tangents(call.tangents.view()),
                vec![output, suffixed("quadratic")],
            ),
            Some(Mode::Vjp) => (
                DerivativeSeed::Cotangents(&cotangents),
                vec![format!("{}_cotangent", self.x_name)],
            ),
            Some(Mode::Trace) => (
                DerivativeSeed::Nothing,
                vec![output, suffixed("trace_terms")],
            ),
            Some(Mode::Jacobian) => (DerivativeSeed::Nothing, vec![output, suffixed("jacobian")]),
        };
        let at = Points::new(&call.samples, &call.t, &call.x);
        let whole = self.call_interpolated(at, seed, &wanted).ok()?;
        for rows in selections {
            let part = self.call_rows(rows, at, seed, &wanted).ok()?;
            let same = |((whole, part), name): ((&ArrayD<f64>, &ArrayD<f64>), &String)| {
                let axis = self.sample_axis(name, seed);
                call_rows::rows_agree(whole, part, (axis, at.rows()), rows)
            };
            if !whole.iter().zip(&part).zip(&wanted).all(same) {
                return Some(false);
            }
        }
        Some(true)
    }
}
