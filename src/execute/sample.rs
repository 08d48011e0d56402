//! Samples, as an array with a row each.

use anyhow::Result;
use ndarray::Axis;

use super::{ExecuteWork, Executor, TrialOutput, TrialTask, write_rows};
use crate::data::encode_npy_f32;
use crate::likelihood::LikelihoodTask;
use crate::num::key::SampleId;
use crate::plan::{SampleWork, initial_states, sample_density_solver};
use crate::rows::{self, SampleRow, Status};
use crate::sample::steindiff::{SteinDiff, SteinDiffStepLog};
use crate::sample::{self, DrawnSamples, Sampler};

impl ExecuteWork for SampleWork {
    fn execute(&self, executor: &Executor, task: &TrialTask) -> Result<TrialOutput> {
        let (opened, count) = (&executor.prepared.models[self.model], task.samples.len());
        let began = std::time::Instant::now();
        let mut drawn = DrawnSamples::empty();
        let product_seconds = executor.for_each_sample_batch(self, task.samples, |batch| {
            drawn.append(batch);
            Ok(())
        })?;
        let seconds = began.elapsed().as_secs_f64() / count as f64;
        let x = &drawn.x;
        let finite = |i: usize| x.row(i).iter().all(|v| v.is_finite());
        let name = &executor.prepared.plan.models[self.model].name;
        let mut output = write_rows(task.samples.iter().enumerate().map(|(i, s)| {
            SampleRow {
                trial: task.id.to_owned(),
                model: name.clone(),
                sampler: self.sampler.label(),
                sample: *s as usize,
                status: if finite(i) {
                    Status::Ok
                } else {
                    Status::NonFinite
                },
                evaluations: drawn.evaluations[i],
                jvps: drawn.products[i],
                seconds,
                log_density: drawn
                    .log_density
                    .as_ref()
                    .map(|d| d[i])
                    .filter(|d| d.is_finite()),
                jvp_seconds: product_seconds / count as f64,
                conditions: opened.conditions.describe_sample(*s),
            }
        }))?;
        let decoded = executor.decode(self.model, task.samples, drawn.x.clone())?;
        output.array = Some(encode_npy_f32(&decoded, &opened.sample_shape())?);
        if let Sampler::SteinDiff(around) = &self.sampler {
            output.steps = Some(
                write_rows(
                    drawn
                        .step_logs
                        .iter()
                        .map(|step| step_log_row(name, around, step)),
                )?
                .csv,
            );
        }
        Ok(output)
    }
}

/// The log of one step as a row.
fn step_log_row(model: &str, around: &SteinDiff, step: &SteinDiffStepLog) -> rows::StepRow {
    let known = step.statistics;
    let mode = serde_json::to_value(around.mode).unwrap_or_default();
    rows::StepRow {
        model: model.to_owned(),
        sampler: around.label(),
        inner: around.sampler.name().to_owned(),
        mode: mode.as_str().unwrap_or_default().to_owned(),
        population: step.population,
        n: step.n,
        step: step.step,
        t: step.from.t,
        alpha: step.from.alpha,
        sigma: step.from.sigma,
        t_next: step.to.t,
        alpha_next: step.to.alpha,
        sigma_next: step.to.sigma,
        gamma: step.gamma,
        gamma_raw: known.map(|s| s.unclamped_gamma),
        gamma_probe_stderr: known.and_then(|s| s.probe_stderr),
        gamma_stderr: known.and_then(|s| s.stderr),
        action: step.action.as_str().to_owned(),
        divergence: known
            .map_or("", |s| {
                if s.from_jacobian_products {
                    "jacobian"
                } else {
                    "linear"
                }
            })
            .to_owned(),
        s_xu: known.map(|s| s.mean_xu),
        s_uu: known.map(|s| s.mean_uu),
        s_div: known.map(|s| s.mean_divergence),
        coupling: known.and_then(|s| s.coupling),
        blend: step.mean_blend_weight,
        lipschitz: step.lipschitz.map(|found| found.mean.value),
        lipschitz_stderr: step.lipschitz.and_then(|found| found.mean.stderr),
        lipschitz_max: step.lipschitz.map(|found| found.largest),
        lipschitz_residual: step.lipschitz.map(|found| found.residual),
        evaluations: step.evaluations,
        jvps: step.products,
    }
}

impl Executor<'_> {
    /// Draws samples, and hands each batch or population on as soon as it and all before it are
    /// there. Returns the seconds that went into Jacobian products.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated, or with the error of `take`.
    pub fn for_each_sample_batch(
        &self,
        work: &SampleWork,
        samples: &[SampleId],
        take: impl FnMut(DrawnSamples) -> Result<()> + Send,
    ) -> Result<f64> {
        let model = &self.prepared.models[work.model];
        let given = work
            .noise
            .map(|data| initial_states(&self.prepared.data[data], model))
            .transpose()?;
        let noise = |batch: &[SampleId]| match &given {
            Some(states) => {
                let rows: Vec<usize> = batch.iter().map(|sample| *sample as usize).collect();
                states.select(Axis(0), &rows)
            }
            None => {
                let (prior, dim) = (model.prior, model.dim());
                prior.project(sample::initial_noise(self.key(), batch, dim, prior.std))
            }
        };
        if let Some(density) = &work.density
            && let Some(solver) = sample_density_solver(model, &work.sampler, density)?
        {
            let task = LikelihoodTask {
                curve: &model.curve,
                prior: model.prior,
                solver: &solver,
                estimators: std::slice::from_ref(density),
                key: self.key(),
            };
            let pool = &self.pools[work.model];
            pool.for_each_sample_with_density(&task, samples, noise, take)?;
            return Ok(0.0);
        }
        self.pools[work.model].for_each_sample_batch(
            &work.sampler,
            samples,
            self.key(),
            noise,
            self.step_noise.as_ref(),
            take,
        )
    }
}
