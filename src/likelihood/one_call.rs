//! Log-densities of models that give them in one call, such as normalizing flows.

use std::time::Instant;

use super::{LikelihoodResult, LikelihoodTask};
use crate::divergence::{DivergenceEstimator, ModelHandles};
use crate::flow::field::{EvalError, LogDensityTerms, Points};
use crate::num::Batch;
use crate::num::key::SampleId;
use crate::rows::Status;

/// Evaluates the estimators of the task that take one call of a one-call model.
///
/// # Errors
/// Fails if the model was not opened or cannot be evaluated.
pub fn evaluate_one_call_densities(
    sources: &mut ModelHandles,
    task: &LikelihoodTask,
    samples: &[SampleId],
    x: &Batch,
) -> Result<Vec<LikelihoodResult>, EvalError> {
    let mut rows = Vec::new();
    for (estimator, spec) in task.estimators.iter().enumerate() {
        if !matches!(spec, DivergenceEstimator::OneCall(_)) {
            continue;
        }
        let began = Instant::now();
        let missing = || EvalError::Missing("this model gives no density in one call".to_owned());
        let model = sources.one_call.as_mut().ok_or_else(missing)?;
        let times = vec![task.curve.data_end(); samples.len()];
        let terms = model.log_density(Points::new(samples, &times, x))?;
        let seconds = began.elapsed().as_secs_f64() / samples.len().max(1) as f64;
        let result = |(sample, terms): (&SampleId, LogDensityTerms)| {
            let finite = terms.log_density.is_finite();
            let parts = terms.prior_and_log_det.filter(|_| finite);
            LikelihoodResult {
                estimator,
                sample: *sample,
                log_likelihood: finite.then_some(terms.log_density),
                prior_log_density: parts.map(|[prior, _]| prior),
                divergence_integral: parts.map(|[_, log_det]| log_det),
                evaluations: spec.evaluations_without_solver(task.curve),
                status: match finite {
                    true => Status::Ok,
                    false => Status::NonFinite,
                },
                path_seconds: seconds,
                entry_seconds: seconds,
                ..LikelihoodResult::default()
            }
        };
        rows.extend(samples.iter().zip(terms).map(result));
    }
    Ok(rows)
}
