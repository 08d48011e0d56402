//! The rows of log-likelihoods, with what their comparison needs.

use anyhow::Result;

use super::{CollectedRows, TabulateWork, TrialFiles};
use crate::divergence::DivergenceEstimator;
use crate::plan::LikelihoodWork;
use crate::rows::{LikelihoodRow, SampleLikelihoodRow};

impl TabulateWork for LikelihoodWork {
    fn add_rows(&self, files: &TrialFiles, collected: &mut CollectedRows) -> Result<()> {
        let (estimator, solver) = match &self.against {
            Some(against) => (&against.estimator, &against.solver),
            None => (&self.estimators[self.reference], &self.solver),
        };
        collected
            .references
            .insert(files.trial.id.clone(), [estimator.label(), solver.label()]);
        let solver = self.solver.label();
        collected
            .trajectories
            .insert(solver, self.solver.trajectory());
        for estimator in &self.estimators {
            if let DivergenceEstimator::FlowMap(few) = estimator {
                let trajectory = few.trajectory();
                collected.trajectories.insert(estimator.label(), trajectory);
            }
            if let Some((parameter, count)) = estimator.averaging_parameter() {
                let counted = (parameter.to_owned(), count);
                collected.averaging.insert(estimator.label(), counted);
            }
        }
        collected.likelihoods.extend(files.rows()?);
        Ok(())
    }
}

/// The rows of `samples.csv`, sorted by model, data, solver, estimator and sample.
pub(super) fn sample_rows(likelihoods: &[LikelihoodRow]) -> Vec<SampleLikelihoodRow> {
    let mut rows: Vec<_> = likelihoods.iter().map(sample_from_likelihood_row).collect();
    rows.sort_by(|a, b| sample_sort_key(a).cmp(&sample_sort_key(b)));
    rows
}

fn sample_sort_key(s: &SampleLikelihoodRow) -> (&str, &str, &str, &str, usize) {
    (&s.model, &s.dataset, &s.solver, &s.estimator, s.sample)
}

fn sample_from_likelihood_row(r: &LikelihoodRow) -> SampleLikelihoodRow {
    SampleLikelihoodRow {
        model: r.model.clone(),
        dataset: r.dataset.clone(),
        estimator: r.estimator.clone(),
        solver: r.solver.clone(),
        sample: r.sample,
        log_likelihood: r.log_likelihood,
        stderr: r.stderr,
        half_width: r.half_width,
        prior_log_density: r.prior_log_density,
        divergence_integral: r.divergence_integral,
        bits_per_dim: r.bits_per_dim,
        nats_per_dim: r.nats_per_dim,
        evaluations: r.evaluations,
        jvps: r.jvps,
        status: r.status,
        bound: r.bound,
        dequantization_stderr: r.dequantization_stderr,
        solver_error: r.solver_error,
        guidance: String::new(),
        conditions: r.conditions.clone(),
        bound_prior: r.bound_prior,
        bound_diffusion: r.bound_diffusion,
        bound_reconstruction: r.bound_reconstruction,
        inverse_residual: r.inverse_residual,
    }
}
