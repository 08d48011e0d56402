//! Samples together with their log-densities, along one path.

use anyhow::Result;

use super::pool::{Worker, WorkerPool, WorkerSpec};
use crate::flow::field::EvalError;
use crate::likelihood::{LikelihoodTask, draw_with_log_likelihoods};
use crate::num::Batch;
use crate::num::key::SampleId;
use crate::rows::Status;
use crate::sample::DrawnSamples;
use crate::sample::ode::invalidate_failed;

impl WorkerPool<'_> {
    /// Draws samples from their initial noise by the solver of `task`, with the log-density of each
    /// by the task's only estimator. Each batch is passed to `take` in the order of the samples, as
    /// soon as all earlier ones have been passed.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated, or if `take` fails.
    pub fn for_each_sample_with_density(
        &self,
        task: &LikelihoodTask,
        samples: &[SampleId],
        noise: impl Fn(&[SampleId]) -> Batch + Sync,
        take: impl FnMut(DrawnSamples) -> Result<()> + Send,
    ) -> Result<()> {
        let needs = WorkerSpec {
            estimators: task.estimators,
            ..WorkerSpec::default()
        };
        let work = |worker: &mut Worker, batch: &[SampleId]| {
            let Worker {
                velocity: Some(velocity),
                sources,
                ..
            } = worker
            else {
                return Err(EvalError::Missing("the velocity was not opened".to_owned()));
            };
            let (rows, mut x) =
                draw_with_log_likelihoods(velocity, sources, task, batch, noise(batch))?;
            let status: Vec<Status> = rows.iter().map(|row| row.status).collect();
            invalidate_failed(&mut x, &status);
            let number = |value: Option<f64>| value.unwrap_or(f64::NAN);
            Ok(DrawnSamples {
                x,
                evaluations: rows.iter().map(|row| row.evaluations).collect(),
                products: rows.iter().map(|row| row.jvps).collect(),
                log_density: Some(rows.iter().map(|row| number(row.log_likelihood)).collect()),
                log_density_stderrs: rows.iter().map(|row| number(row.stderr)).collect(),
                step_logs: Vec::new(),
            })
        };
        self.for_each_batch(samples, needs, work, take)
    }
}
