//! Measures the time per row of each network with a few calls, so that the remaining time of a run
//! can be estimated.

use std::time::Instant;

use anyhow::Result;

use super::pool::{Worker, WorkerPool, WorkerSpec};
use crate::flow::field::{EvalError, Points, VectorField};
use crate::num::key::SampleId;
use crate::num::{Batch, TangentBatch};
use crate::plan::SecondsPerRow;

/// The number of rows of a first, small call.
const FEW_ROWS: usize = 4;
/// The number of rows of the second, larger call.
const MANY_ROWS: usize = 32;
/// If a small call takes less than this many seconds, a larger one is timed instead.
const QUICK_CALL_SECONDS: f64 = 0.02;
/// The maximum number of calls; the fastest counts.
const MAX_CALLS: usize = 6;
/// The total time in seconds after which no further call is made.
const MAX_TIMING_SECONDS: f64 = 0.1;
/// The maximum number of directions of a Jacobian product.
const MAX_DIRECTIONS: usize = 8;

impl WorkerPool<'_> {
    /// Measures the seconds per row of every network that work on `samples` samples needs.
    ///
    /// # Errors
    /// Fails if a network cannot be opened or called.
    pub fn measure_seconds_per_row(
        &self,
        needs: WorkerSpec,
        samples: usize,
    ) -> Result<SecondsPerRow> {
        let mut worker = self.acquire_worker(needs, self.batch_split(samples).threads_per_call)?;
        let seconds_per_row = self.time_networks(&mut worker, &fastest_seconds_per_row)?;
        self.release_worker(worker);
        tracing::debug!(
            model = self.model.card.name,
            ?seconds_per_row,
            "measured seconds per row"
        );
        Ok(seconds_per_row)
    }

    /// The seconds per row of every network of a worker, each timed by `time`, which calls a network
    /// with numbers of rows of its choice.
    ///
    /// # Errors
    /// Fails if a network cannot be called.
    pub(super) fn time_networks(
        &self,
        worker: &mut Worker,
        time: &dyn Fn(&mut NetworkCall) -> Result<f64, EvalError>,
    ) -> Result<SecondsPerRow> {
        let (dim, start, end) = (
            self.model.dim(),
            self.model.curve.data_end(),
            self.model.curve.prior_end(),
        );
        let states = |rows: usize| {
            let samples: Vec<SampleId> = (0..rows as SampleId).collect();
            (samples, vec![start; rows], Batch::zeros((rows, dim)))
        };
        let mut seconds_per_row = SecondsPerRow::default();
        if let Some(velocity) = &mut worker.velocity {
            seconds_per_row.evaluation = time(&mut |rows| {
                let (samples, t, x) = states(rows);
                velocity.velocity(Points::new(&samples, &t, &x)).map(drop)
            })?;
        }
        if let Some(tangents) = &mut worker.sources.jacobian {
            let k = dim.clamp(1, MAX_DIRECTIONS);
            let each = time(&mut |rows| {
                let (samples, t, x) = states(rows);
                let z = TangentBatch::ones((k, rows, dim));
                tangents
                    .quadratic_form(Points::new(&samples, &t, &x), &z)
                    .map(drop)
            })?;
            seconds_per_row.product = each / k as f64;
        }
        for head in worker.sources.heads.values_mut() {
            let each = time(&mut |rows| {
                let (samples, t, x) = states(rows);
                head.eval(Points::new(&samples, &t, &x)).map(drop)
            })?;
            seconds_per_row.head = seconds_per_row.head.max(each);
        }
        for (name, map) in &mut worker.sources.flow_maps {
            let to_data = self.model.flow_map_spec(name)?.direction()
                == crate::model::card::FlowMapDirection::ToData;
            let each = time(&mut |rows| {
                let (samples, near, x) = states(rows);
                let far = vec![end; rows];
                let (from, to) = if to_data {
                    (&far, &near)
                } else {
                    (&near, &far)
                };
                map.averages(Points::new(&samples, from, &x), to).map(drop)
            })?;
            seconds_per_row.evaluation = seconds_per_row.evaluation.max(each);
        }
        if let Some(density) = &mut worker.sources.one_call {
            let each = time(&mut |rows| {
                let (samples, t, x) = states(rows);
                density.log_density(Points::new(&samples, &t, &x)).map(drop)
            })?;
            seconds_per_row.evaluation = seconds_per_row.evaluation.max(each);
        }
        Ok(seconds_per_row)
    }
}

/// Calls a network with a number of rows.
pub(super) type NetworkCall<'a> = dyn FnMut(usize) -> Result<(), EvalError> + 'a;

/// The seconds per row of the fastest of a few calls. Networks with fast calls are timed with more
/// rows.
fn fastest_seconds_per_row(call: &mut NetworkCall) -> Result<f64, EvalError> {
    let mut seconds = |rows: usize| {
        let began = Instant::now();
        call(rows).map(|()| began.elapsed().as_secs_f64())
    };
    // The first call with a new shape allocates memory, and other programs can delay any call, so
    // the fastest call counts.
    let mut quickest = |rows: usize| -> Result<f64, EvalError> {
        let (mut least, mut total) = (f64::INFINITY, 0.0);
        for _ in 0..MAX_CALLS {
            let took = seconds(rows)?;
            (least, total) = (least.min(took), total + took);
            if total > MAX_TIMING_SECONDS {
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
