//! How long one row takes in one thread: a few calls of each network, so that the time left can be told.

use std::time::Instant;

use anyhow::Result;

use super::pool::{Needs, Pool};
use crate::flow::field::{EvalError, VectorField};
use crate::num::{Batch, Blocks};
use crate::plan::Pace;

/// Rows of a call, and how many more a call has that was quick.
const FEW: usize = 4;
const MANY: usize = 32;
/// A call of few rows below this, in seconds, is made once more with many.
const QUICK: f64 = 0.02;
/// Calls of which the quickest counts, at most, and seconds of them after which no other follows.
const CALLS: usize = 6;
const ENOUGH: f64 = 0.1;
/// Directions of a Jacobian product, at most.
const DIRECTIONS: usize = 8;

impl Pool<'_> {
    /// Seconds per row of every network that work on so many `samples` needs, which have been called before.
    ///
    /// # Errors
    /// Where a network cannot be called.
    pub fn pace(&self, needs: Needs, samples: usize) -> Result<Pace> {
        let mut worker = self.worker(needs, self.division(samples).inside)?;
        let (dim, start, end) = (
            self.model.dim(),
            self.model.curve.data_end(),
            self.model.curve.prior_end(),
        );
        let at = |rows: usize| (vec![start; rows], Batch::zeros((rows, dim)));
        let mut pace = Pace::default();
        if let Some(velocity) = &mut worker.velocity {
            pace.evaluation = per_row(|rows| {
                let (t, x) = at(rows);
                velocity.velocity(&t, &x).map(drop)
            })?;
        }
        if let Some(tangents) = &mut worker.sources.tangents {
            let k = dim.clamp(1, DIRECTIONS);
            let each = per_row(|rows| {
                let (t, x) = at(rows);
                tangents
                    .quadratic(&t, &x, &Blocks::ones((k, rows, dim)))
                    .map(drop)
            })?;
            pace.product = each / k as f64;
        }
        for head in worker.sources.heads.values_mut() {
            let each = per_row(|rows| {
                let (t, x) = at(rows);
                head.eval(&t, &x).map(drop)
            })?;
            pace.head = pace.head.max(each);
        }
        for (name, map) in &mut worker.sources.maps {
            let to_data =
                self.model.map_spec(name)?.direction() == crate::model::card::Direction::ToData;
            let each = per_row(|rows| {
                let (near, x) = at(rows);
                let far = vec![end; rows];
                let (from, to) = if to_data {
                    (&far, &near)
                } else {
                    (&near, &far)
                };
                map.averages(from, to, &x).map(drop)
            })?;
            pace.evaluation = pace.evaluation.max(each);
        }
        self.give(worker);
        tracing::debug!(model = self.model.card.name, ?pace, "what a row takes");
        Ok(pace)
    }
}

/// Seconds per row of a call, the quickest of a few; of many rows where few are quick.
fn per_row(mut call: impl FnMut(usize) -> Result<(), EvalError>) -> Result<f64, EvalError> {
    let mut seconds = |rows: usize| {
        let began = Instant::now();
        call(rows).map(|()| began.elapsed().as_secs_f64())
    };
    // The first call of a new shape settles the runtime's memory, and any call may have to wait for other programs.
    let mut quickest = |rows: usize| -> Result<f64, EvalError> {
        let (mut least, mut spent) = (f64::INFINITY, 0.0);
        for _ in 0..CALLS {
            let took = seconds(rows)?;
            (least, spent) = (least.min(took), spent + took);
            if spent > ENOUGH {
                break;
            }
        }
        Ok(least)
    };
    let few = quickest(FEW)?;
    if few > QUICK {
        return Ok(few / FEW as f64);
    }
    Ok(quickest(MANY)? / MANY as f64)
}
