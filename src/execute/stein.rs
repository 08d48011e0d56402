//! Execution of the Stein tests of a divergence head, which gives rows.

use anyhow::Result;
use ndarray::{Array3, Axis};

use super::pool::{Worker, WorkerPool, WorkerSpec};
use super::{ExecuteWork, Executor, TrialOutput, TrialTask, write_rows};
use crate::divergence::{DivergenceEstimator, Learned};
use crate::flow::field::EvalError;
use crate::num::Batch;
use crate::num::key::{RngKey, SampleId};
use crate::num::stats::Estimate;
use crate::plan::SteinWork;
use crate::rows;
use crate::stein::SteinTest;

impl WorkerPool<'_> {
    /// The residuals of Stein tests: samples × strata × test functions. `clean` gives the data x₀
    /// of a batch, rows × dim.
    ///
    /// # Errors
    /// Fails if the velocity or the head cannot be opened or evaluated.
    pub fn stein_residuals(
        &self,
        spec: &SteinTest,
        key: RngKey,
        samples: &[SampleId],
        clean: impl Fn(&[SampleId]) -> Batch + Sync,
    ) -> Result<Array3<f64>> {
        let wanted = [DivergenceEstimator::Learned(Learned {
            head: spec.head.clone(),
        })];
        let needs = WorkerSpec {
            estimators: &wanted,
            ..WorkerSpec::default()
        };
        let parts = self.map_batches(samples, needs, |worker, batch| {
            let Worker {
                velocity: Some(velocity),
                sources,
                ..
            } = worker
            else {
                return Err(EvalError::Missing("the velocity was not opened".to_owned()));
            };
            let missing =
                || EvalError::Missing(format!("this model has no divergence head `{}`", spec.head));
            let head = sources.heads.get_mut(&spec.head).ok_or_else(missing)?;
            spec.residuals(
                velocity,
                &mut **head,
                &self.model.curve,
                key,
                batch,
                &clean(batch),
            )
        })?;
        let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
        Ok(ndarray::concatenate(Axis(0), &views)?)
    }
}

impl ExecuteWork for SteinWork {
    fn execute(&self, executor: &Executor, _task: &TrialTask) -> Result<TrialOutput> {
        let spec = &self.stein;
        let (opened, set, key) = (
            &executor.prepared.models[self.model],
            executor.state_data(self.data)?,
            executor.key(),
        );
        let samples = Executor::sample_ids(0, spec.samples);
        let clean = |batch: &[SampleId]| {
            let again: Vec<SampleId> = batch.iter().map(|i| i % set.len() as u64).collect();
            set.states(&opened.card, key, &again)
        };
        let residuals = executor.pools[self.model].stein_residuals(spec, key, &samples, clean)?;
        let found = spec.summarize(&opened.curve, key, opened.dim(), &residuals);
        let plan = &executor.prepared.plan;
        let row = |function: String, from: f64, to: f64, mean: Estimate| rows::SteinRow {
            model: plan.models[self.model].name.clone(),
            dataset: plan.data[self.data].name.clone(),
            head: spec.head.clone(),
            from,
            to,
            function,
            n: mean.n,
            mean: Some(mean.value).filter(|v| v.is_finite()),
            stderr: mean.stderr,
            z: None,
            p: None,
            bits_per_dim: None,
            bits_per_dim_stderr: None,
        };
        let tests = found.residuals.into_iter().map(|r| rows::SteinRow {
            z: Some(r.z).filter(|z| z.is_finite()),
            p: Some(r.p).filter(|p| p.is_finite()),
            ..row(r.function, r.from, r.to, r.mean)
        });
        let bits = |nats: f64| nats / (opened.dim() as f64 * std::f64::consts::LN_2);
        let levels = opened.card.bits_offset().is_some();
        let bias = rows::SteinRow {
            // Bits per dimension measure the negative log-likelihood, so the sign changes.
            bits_per_dim: levels
                .then(|| -bits(found.bias.value))
                .filter(|v| v.is_finite()),
            bits_per_dim_stderr: found.bias.stderr.filter(|_| levels).map(bits),
            ..row(
                "bias".to_owned(),
                opened.curve.data_end(),
                opened.curve.prior_end(),
                found.bias,
            )
        };
        write_rows(tests.chain([bias]))
    }
}
