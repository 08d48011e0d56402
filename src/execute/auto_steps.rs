//! The choice of the number of steps for `steps: auto`, made on the first few samples before
//! anything else runs.

use anyhow::{Context, Result, bail};

use super::latent::encode_data;
use super::{ComputeOptions, WorkerPool};
use crate::divergence::DivergenceEstimator;
use crate::likelihood::LikelihoodTask;
use crate::model::onnx::Runtime;
use crate::num::key::SampleId;
use crate::num::stats;
use crate::plan::{AutoStepsRequest, ChosenSteps};
use crate::solve::Solver;
use crate::solve::step_count::{DEFAULT_AUTO_TOLERANCE, FIRST_AUTO_STEPS, MAX_AUTO_STEPS};

/// The number of samples on which two grids are compared.
const COMPARED_SAMPLES: usize = 8;

/// Chooses the number of steps at which two grids of a solver agree on the first samples of the
/// data. The result does not depend on batches, threads or shards.
///
/// # Errors
/// Fails if no estimator follows a path, if the grids do not agree with the maximum number of
/// steps, or if the model cannot be evaluated.
pub fn choose_steps(
    request: &AutoStepsRequest,
    runtime: &Runtime,
    machine: ComputeOptions,
) -> Result<ChosenSteps> {
    let mut estimators: Vec<DivergenceEstimator> = Vec::new();
    for estimator in request
        .estimators
        .iter()
        .filter_map(DivergenceEstimator::without_node_draws)
    {
        if !estimators.contains(&estimator) {
            estimators.push(estimator);
        }
    }
    if estimators.is_empty() {
        bail!(
            "steps: auto has no log-likelihoods to compare, because no estimator of this entry \
             follows a solver's path; expected a number"
        );
    }
    let (model, data, key) = (request.model, request.data, request.key);
    let samples: Vec<SampleId> = (0..request.samples.min(COMPARED_SAMPLES) as SampleId).collect();
    let encoded = match request.encode {
        Some(encoding) => Some(encode_data(
            model,
            data,
            encoding,
            &samples,
            key,
            (runtime, machine),
        )?),
        None => None,
    };
    let states = encoded.as_ref().unwrap_or(data);
    let pool = WorkerPool::new(model, runtime, machine);
    let values = |solver: &Solver| -> Result<Vec<Option<f64>>> {
        let task = LikelihoodTask {
            curve: &model.curve,
            prior: model.prior,
            solver,
            estimators: &estimators,
            key,
        };
        let states = |batch: &[SampleId]| states.states(&model.card, key, batch);
        let (rows, _) = pool.log_likelihoods(&task, &samples, false, states)?;
        Ok(rows.iter().map(|row| row.log_likelihood).collect())
    };
    let (steps, gap) = double_steps_until_agreement(request.solver, samples.len(), values)?;
    Ok(ChosenSteps {
        model: model.label(),
        data_sha256: data.sha256.clone(),
        solver: request.solver.clone(),
        estimators: request.estimators.to_vec(),
        samples: samples.len(),
        steps,
        gap,
    })
}

/// Doubles the steps of a solver until the log-likelihoods of two grids agree within its tolerance.
/// Returns the steps of the finer grid, and the difference in nats.
fn double_steps_until_agreement(
    solver: &Solver,
    samples: usize,
    mut values: impl FnMut(&Solver) -> Result<Vec<Option<f64>>>,
) -> Result<(usize, f64)> {
    let tol = solver
        .auto_steps_tolerance()
        .unwrap_or(DEFAULT_AUTO_TOLERANCE);
    let mut on = |steps: usize| {
        values(
            &solver
                .with_steps(steps)
                .context("steps: the solver has no fixed number of steps")?,
        )
    };
    let (mut steps, mut coarse, mut last) = (FIRST_AUTO_STEPS, on(FIRST_AUTO_STEPS)?, None);
    while steps < MAX_AUTO_STEPS {
        let fine = on(2 * steps)?;
        steps *= 2;
        last = max_rms_difference(&coarse, &fine, samples);
        if let Some(gap) = last.filter(|gap| *gap <= tol) {
            return Ok((steps, gap));
        }
        coarse = fine;
    }
    let found = last.map_or("some paths failed".to_owned(), |gap| {
        format!("they differ by {gap:.1e} nats")
    });
    bail!(
        "steps: auto found no number of steps: {} and {steps} steps of {} do not agree within \
         tol {tol}, {found}; expected a larger tol, a method of higher order, another grid, or a \
         number",
        steps / 2,
        solver.name()
    )
}

/// The largest root mean square difference over the estimators, in nats. The values are ordered by
/// estimator, then by sample. `None` if a value is missing.
fn max_rms_difference(coarse: &[Option<f64>], fine: &[Option<f64>], samples: usize) -> Option<f64> {
    let differences: Option<Vec<f64>> = coarse
        .iter()
        .zip(fine)
        .map(|(a, b)| Some((*a)? - (*b)?))
        .collect();
    let sizes: Option<Vec<f64>> = differences?
        .chunks(samples.max(1))
        .map(stats::rms)
        .collect();
    sizes.map(|sizes| sizes.into_iter().fold(0.0, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::divergence::ModelHandles;
    use crate::flow::path::ProbabilityPath;
    use crate::flow::prior::Prior;
    use crate::likelihood::evaluate_likelihoods;
    use crate::model::analytic;
    use crate::num::Batch;
    use crate::num::key::{Purpose, RngKey};

    /// Every fixed-step solver has an error within the tolerance at the number of steps that is
    /// chosen.
    #[test]
    fn auto_steps_meet_tolerance_for_every_fixed_step_solver() {
        let curve = ProbabilityPath::Vp {
            beta_min: 0.1,
            beta_max: 20.0,
            t_min: 1e-2,
        }
        .curve()
        .expect("right");
        let (model, prior) = (
            analytic::example_mixture(curve.clone(), 3),
            Prior::isotropic(curve.prior_std()),
        );
        let mut x = Batch::zeros((6, 3));
        for (i, mut row) in x.rows_mut().into_iter().enumerate() {
            row.assign(&(RngKey { seed: 17 }.normal(Purpose::Check, i as u64, 0, 3) * 0.8));
        }
        let values = |solver: &Solver| -> Result<Vec<Option<f64>>> {
            let estimators: Vec<DivergenceEstimator> =
                serde_yaml::from_str("[exact, {hutchinson: {probes: 2}}]")?;
            let task = LikelihoodTask {
                curve: &curve,
                prior,
                solver,
                estimators: &estimators,
                key: RngKey { seed: 3 },
            };
            let mut sources = ModelHandles {
                jacobian: Some(Box::new(model.clone())),
                ..Default::default()
            };
            let rows = evaluate_likelihoods(
                &mut model.clone(),
                &mut sources,
                &task,
                &[0, 1, 2, 3, 4, 5],
                x.clone(),
                None,
            )?;
            Ok(rows.iter().map(|r| r.log_likelihood).collect())
        };
        let truth = values(&serde_yaml::from_str("{rk4: {steps: 1000}}").expect("a solver"))
            .expect("analytic");
        let mut found = Vec::new();
        for solver in Solver::defaults()
            .into_iter()
            .filter(|s| s.fixed_evaluations().is_some())
        {
            for tol in [0.1, 0.01] {
                let spec = format!("{{{}: {{steps: auto, tol: {tol}}}}}", solver.name());
                let auto: Solver = serde_yaml::from_str(&spec).expect("a solver");
                let (steps, between) =
                    double_steps_until_agreement(&auto, 6, values).expect("a number of steps");
                let chosen = auto.with_steps(steps).expect("fixed steps");
                let error = max_rms_difference(&values(&chosen).expect("analytic"), &truth, 6)
                    .expect("successful paths");
                assert!(
                    between <= tol && error <= 1.1 * tol,
                    "{spec}: {steps} steps, {between}, {error}"
                );
                assert!(
                    steps.is_power_of_two() && steps > FIRST_AUTO_STEPS,
                    "{spec}: {steps}"
                );
                found.push((solver.order(), steps));
            }
        }
        let steps = |order: u32| found.iter().filter(|f| f.0 == order).map(|f| f.1).max();
        assert!(steps(1) > steps(2) && steps(2) > steps(4), "{found:?}");
    }

    #[test]
    fn auto_steps_without_agreement_are_refused() {
        for solver in Solver::defaults()
            .into_iter()
            .filter(|s| s.fixed_evaluations().is_some())
        {
            let spec = format!("{{{}: {{steps: auto, tol: 1.0e-3}}}}", solver.name());
            let auto: Solver = serde_yaml::from_str(&spec).expect("a solver");
            let mut grids = Vec::new();
            let refusal = double_steps_until_agreement(&auto, 1, |solver| {
                grids.push(solver.fixed_evaluations());
                Ok(vec![Some(grids.len() as f64)])
            });
            let refusal = refusal.expect_err("one nat from grid to grid").to_string();
            assert!(
                refusal.starts_with("steps: auto") && refusal.contains("tol 0.001"),
                "{refusal}"
            );
            assert!(
                refusal.contains("2048 and 4096") && refusal.contains(solver.name()),
                "{refusal}"
            );
            assert_eq!(grids.len(), 10, "8 to 4096");
            let broken = double_steps_until_agreement(&auto, 1, |_| Ok(vec![None]))
                .expect_err("no numbers")
                .to_string();
            assert!(broken.contains("some paths failed"), "{broken}");
        }
    }
}
