//! Estimates how long a plan takes, from a short measurement of each network with the batches and the
//! threads of a run.

use std::time::Instant;

use anyhow::Result;

use super::Executor;
use super::pool::{WorkerPool, WorkerSpec};
use super::row_timing::NetworkCall;
use crate::flow::field::EvalError;
use crate::plan::{SecondsPerRow, Trial};

/// How long a network is called for the measurement, in seconds, after a first call.
const MEASURED_SECONDS: f64 = 0.2;
/// The most calls of a measurement.
const MOST_CALLS: usize = 50;
/// The factors by which work with fixed steps may take shorter and longer than estimated.
const FIXED_RANGE: [f64; 2] = [0.6, 1.8];
/// Likewise for work with adaptive steps, whose number is guessed.
const ADAPTIVE_RANGE: [f64; 2] = [0.25, 3.0];
/// Likewise for statistics and feature extractors, of which only the order of magnitude is known.
const STATISTICS_RANGE: [f64; 2] = [0.1, 10.0];

/// An estimate of the time of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct TimeEstimate {
    /// The number of threads that the estimate is for.
    pub threads: usize,
    /// How long the measurement took, in seconds, with the opening of the networks.
    pub measuring_seconds: f64,
    /// The estimated seconds of the whole plan.
    pub seconds: f64,
    /// The least and the most seconds that the plan may take.
    pub range: [f64; 2],
    /// The kinds of work of each model, in the order of the plan.
    pub works: Vec<WorkEstimate>,
}

/// An estimate of the time of one kind of work of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkEstimate {
    /// The name of the model.
    pub model: String,
    /// The kind of work, such as `likelihood`.
    pub kind: &'static str,
    /// The number of trials.
    pub trials: usize,
    /// The calls of networks for one sample each, with shared products counted once.
    pub calls: u64,
    /// The estimated seconds.
    pub seconds: f64,
    /// The least and the most seconds that the work may take.
    pub range: [f64; 2],
}

impl Executor<'_> {
    /// Estimates how long the trials of the plan take, by a few calls of each network.
    ///
    /// # Errors
    /// Fails if a network cannot be opened or called.
    pub fn estimate_time(&self) -> Result<TimeEstimate> {
        let began = Instant::now();
        let measure = |(index, pool): (usize, &WorkerPool)| {
            let (estimators, samplers) = self.estimators_and_samplers(index);
            let needs = WorkerSpec {
                estimators: &estimators,
                samplers: &samplers,
            };
            let measured = pool.measure_batches(needs, self.largest_trial_samples(index));
            pool.close_idle_workers();
            measured
        };
        let paces: Vec<SecondsPerRow> = (self.pools.iter().enumerate())
            .map(measure)
            .collect::<Result<_>>()?;
        let mut works: Vec<WorkEstimate> = Vec::new();
        for trial in &self.prepared.plan.trials {
            let one = self.estimate_trial(trial, &paces);
            let same = |work: &&mut WorkEstimate| work.model == one.model && work.kind == one.kind;
            match works.iter_mut().find(same) {
                Some(work) => work.add(&one),
                None => works.push(one),
            }
        }
        let total = |of: fn(&WorkEstimate) -> f64| works.iter().map(of).sum();
        Ok(TimeEstimate {
            threads: self.machine.threads,
            measuring_seconds: began.elapsed().as_secs_f64(),
            seconds: total(|work| work.seconds),
            range: [total(|work| work.range[0]), total(|work| work.range[1])],
            works,
        })
    }

    /// The estimate of one trial. `paces` has the seconds per row of each model.
    fn estimate_trial(&self, trial: &Trial, paces: &[SecondsPerRow]) -> WorkEstimate {
        let (work, prepared) = (&trial.work, self.prepared);
        let cost = work.shared_cost(prepared);
        let calls = cost.evaluations + cost.products;
        let pace = paces.get(work.model_index()).copied().unwrap_or_default();
        let (seconds, [least, most]) = match calls {
            0 => (work.workload(prepared, pace).units, STATISTICS_RANGE),
            _ => {
                let products = cost.products.saturating_sub(cost.head_calls) as f64;
                let seconds = cost.evaluations as f64 * pace.evaluation
                    + products * pace.product
                    + cost.head_calls as f64 * pace.head;
                let range = match cost.guessed {
                    true => ADAPTIVE_RANGE,
                    false => FIXED_RANGE,
                };
                (seconds, range)
            }
        };
        WorkEstimate {
            model: prepared.plan.models[work.model_index()].name.clone(),
            kind: work.kind_name(),
            trials: 1,
            calls,
            seconds,
            range: [least * seconds, most * seconds],
        }
    }
}

impl WorkEstimate {
    /// Adds other work of the same kind.
    fn add(&mut self, other: &WorkEstimate) {
        self.trials += other.trials;
        self.calls += other.calls;
        self.seconds += other.seconds;
        self.range[0] += other.range[0];
        self.range[1] += other.range[1];
    }
}

impl WorkerPool<'_> {
    /// The seconds per row of every network, with all workers of a run of `samples` samples calling at
    /// the same time and with the batches of that run: the time by the clock, which all workers share.
    ///
    /// # Errors
    /// Fails if a network cannot be opened or called.
    fn measure_batches(&self, needs: WorkerSpec, samples: usize) -> Result<SecondsPerRow> {
        let split = self.batch_split(samples);
        let rows = split.batch_size.min(samples.max(1));
        let paces = self.in_every_worker(split.workers, || {
            let mut worker = self.acquire_worker(needs, split.threads_per_call)?;
            let paces = self.time_networks(&mut worker, &|call| seconds_per_row(call, rows))?;
            self.release_worker(worker);
            Ok(paces)
        })?;
        // Each worker has its own pace, and together they are faster by their number.
        let count = (paces.len() * paces.len()).max(1) as f64;
        let mean = |of: fn(&SecondsPerRow) -> f64| paces.iter().map(of).sum::<f64>() / count;
        Ok(SecondsPerRow {
            evaluation: mean(|pace| pace.evaluation),
            product: mean(|pace| pace.product),
            head: mean(|pace| pace.head),
        })
    }
}

/// The mean seconds per row of calls with this many rows, after a first call, which allocates memory.
fn seconds_per_row(call: &mut NetworkCall, rows: usize) -> Result<f64, EvalError> {
    call(rows)?;
    let (began, mut calls) = (Instant::now(), 0);
    while calls == 0 || (calls < MOST_CALLS && began.elapsed().as_secs_f64() < MEASURED_SECONDS) {
        call(rows)?;
        calls += 1;
    }
    Ok(began.elapsed().as_secs_f64() / (calls * rows) as f64)
}
