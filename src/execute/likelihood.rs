//! Log-likelihoods, as rows.

use anyhow::{Result, anyhow};

use super::{ExecuteWork, Executor, TrialOutput, TrialTask, write_rows};
use crate::likelihood::{self, LikelihoodResult};
use crate::num::key::SampleId;
use crate::plan::LikelihoodWork;
use crate::rows::{BoundKind, LikelihoodRow};

impl ExecuteWork for LikelihoodWork {
    fn execute(&self, executor: &Executor, task: &TrialTask) -> Result<TrialOutput> {
        let plan = &executor.prepared.plan;
        let mut rows: Vec<LikelihoodResult> = Vec::new();
        executor.for_each_likelihood(self, task.samples, |results| {
            rows.extend(results);
            Ok(())
        })?;
        rows.sort_by_key(|row| (row.estimator, row.sample));
        let model = &executor.prepared.models[self.model];
        let card = &model.card;
        let bound = match &self.dequantization {
            _ if plan.data[self.data].unbounded => BoundKind::None,
            _ if card.latent.is_some() => BoundKind::Latent,
            Some(dequantization) => dequantization.bound_kind(),
            None if executor.prepared.data[self.data].is_quantized(card) => BoundKind::Elbo,
            None => BoundKind::Density,
        };
        let kind = |r: &LikelihoodResult| {
            let kind = self.estimators[r.estimator].kind();
            match model.guidance {
                Some(_) => kind.guided(),
                None => kind,
            }
        };
        let bound_of = |r: &LikelihoodResult| {
            let estimator = &self.estimators[r.estimator];
            match bound {
                BoundKind::Density if estimator.is_variational_bound() => BoundKind::Elbo,
                bound => bound,
            }
        };
        let label = |r: &LikelihoodResult| self.estimators[r.estimator].label();
        write_rows(rows.iter().map(|r| {
            let per_dim = r
                .log_likelihood
                .map(|l| likelihood::nats_per_dim(l, card.degrees_of_freedom()));
            let bits = r.log_likelihood.zip(card.bits_offset());
            LikelihoodRow {
                trial: task.id.to_owned(),
                model: plan.models[self.model].name.clone(),
                dataset: plan.data[self.data].name.clone(),
                estimator: label(r),
                kind: kind(r),
                solver: self.solver.label(),
                sample: r.sample as usize,
                log_likelihood: r.log_likelihood,
                stderr: r.stderr,
                half_width: r.half_width,
                prior_log_density: r.prior_log_density,
                divergence_integral: r.divergence_integral,
                bits_per_dim: bits
                    .map(|(l, offset)| likelihood::bits_per_dim(l, card.dim(), offset)),
                nats_per_dim: per_dim,
                evaluations: r.evaluations,
                jvps: r.jvps,
                head_calls: r.head_calls,
                status: r.status,
                path_seconds: r.path_seconds,
                divergence_seconds: r.divergence_seconds,
                entry_seconds: Some(r.entry_seconds),
                bound: bound_of(r),
                draws: self.draws(),
                dequantization_stderr: r.dequantization_stderr,
                solver_error: r.solver_error,
                conditions: model.conditions.describe_sample(r.sample),
                bound_prior: r.bound_terms.map(|terms| terms.prior),
                bound_diffusion: r.bound_terms.map(|terms| terms.diffusion),
                bound_reconstruction: r.bound_terms.map(|terms| terms.reconstruction),
                inverse_residual: r.inverse_residual,
            }
        }))
    }
}

impl Executor<'_> {
    /// Computes the log-likelihoods of samples, and hands the results of a sample on as soon as
    /// they and those of all samples before it are there.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated, or with the error of `take`.
    pub fn for_each_likelihood(
        &self,
        work: &LikelihoodWork,
        samples: &[SampleId],
        take: impl FnMut(Vec<LikelihoodResult>) -> Result<()> + Send,
    ) -> Result<()> {
        let (model, data) = (
            &self.prepared.models[work.model],
            self.state_data(work.data)?,
        );
        let noise = match &work.dequantization {
            Some(dequantization) if data.is_quantized(&model.card) => dequantization
                .cell_noise(&model.curve, model.card.data)
                .map_err(|e| anyhow!("dequantization: {e}"))?,
            _ => None,
        };
        self.pools[work.model].for_each_dequantized_log_likelihood(
            &self.likelihood_task(work),
            work.dequantization.as_ref(),
            samples,
            |batch| match &noise {
                Some(noise) => data.states_with_cell_noise(&model.card, self.key(), batch, noise),
                None => {
                    let states = data.states(&model.card, self.key(), batch);
                    (states, vec![0.0; batch.len()])
                }
            },
            take,
        )
    }
}
