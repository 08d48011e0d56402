//! How long one row takes in one thread: a few calls of each network, so that the time left can be told.

use std::time::Instant;

use anyhow::Result;

use super::pool::{WorkerPool, WorkerSpec};
use crate::flow::field::{EvalError, VectorField};
use crate::num::{Batch, TangentBatch};
use crate::plan::SecondsPerRow;

/// Rows of a call, and how many more a call has that was quick.
const FEW_ROWS: usize = 4;
const MANY_ROWS: usize = 32;
/// A call of few rows below this, in seconds, is made once more with many.
const QUICK_CALL_SECONDS: f64 = 0.02;
/// Calls of which the quickest counts, at most, and seconds of them after which no other follows.
const MAX_CALLS: usize = 6;
const MAX_TIMING_SECONDS: f64 = 0.1;
/// Directions of a Jacobian product, at most.
const MAX_DIRECTIONS: usize = 8;

impl WorkerPool<'_> {
    /// Seconds per row of every network that work on so many `samples` needs, which have been called before.
    ///
    /// # Errors
    /// Where a network cannot be called.
    pub fn measure_seconds_per_row(
        &self,
        needs: WorkerSpec,
        samples: usize,
    ) -> Result<SecondsPerRow> {
        let mut worker = self.acquire_worker(needs, self.batch_split(samples).threads_per_call)?;
        let (dim, start, end) = (
            self.model.dim(),
            self.model.curve.data_end(),
            self.model.curve.prior_end(),
        );
        let at = |rows: usize| (vec![start; rows], Batch::zeros((rows, dim)));
        let mut pace = SecondsPerRow::default();
        if let Some(velocity) = &mut worker.velocity {
            pace.evaluation = fastest_seconds_per_row(|rows| {
                let (t, x) = at(rows);
                velocity.velocity(&t, &x).map(drop)
            })?;
        }
        if let Some(tangents) = &mut worker.sources.jacobian {
            let k = dim.clamp(1, MAX_DIRECTIONS);
            let each = fastest_seconds_per_row(|rows| {
                let (t, x) = at(rows);
                tangents
                    .quadratic_form(&t, &x, &TangentBatch::ones((k, rows, dim)))
                    .map(drop)
            })?;
            pace.product = each / k as f64;
        }
        for head in worker.sources.heads.values_mut() {
            let each = fastest_seconds_per_row(|rows| {
                let (t, x) = at(rows);
                head.eval(&t, &x).map(drop)
            })?;
            pace.head = pace.head.max(each);
        }
        for (name, map) in &mut worker.sources.flow_maps {
            let to_data = self.model.flow_map_spec(name)?.direction()
                == crate::model::card::FlowMapDirection::ToData;
            let each = fastest_seconds_per_row(|rows| {
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
        self.release_worker(worker);
        tracing::debug!(model = self.model.card.name, ?pace, "what a row takes");
        Ok(pace)
    }
}

/// Seconds per row of a call, the quickest of a few; of many rows where few are quick.
fn fastest_seconds_per_row(
    mut call: impl FnMut(usize) -> Result<(), EvalError>,
) -> Result<f64, EvalError> {
    let mut seconds = |rows: usize| {
        let began = Instant::now();
        call(rows).map(|()| began.elapsed().as_secs_f64())
    };
    // The first call of a new shape settles the runtime's memory, and any call may have to wait for other programs.
    let mut quickest = |rows: usize| -> Result<f64, EvalError> {
        let (mut least, mut spent) = (f64::INFINITY, 0.0);
        for _ in 0..MAX_CALLS {
            let took = seconds(rows)?;
            (least, spent) = (least.min(took), spent + took);
            if spent > MAX_TIMING_SECONDS {
                break;
            }
        }
        Ok(least)
    };
    let few = quickest(FEW_ROWS)?;
    if few > QUICK_CALL_SECONDS {
        return Ok(few / FEW_ROWS as f64);
    }
    Ok(quickest(MANY_ROWS)? / MANY_ROWS as f64)
}
