//! Log-likelihoods: log p = log prior + ∫div, for every estimator over one path, and their
//! conversion to the units of tables.
//!
//! # Example
//!
//! Two estimators on one path see the same nodes, so that their difference is that of the
//! divergences alone. The front page of the crate compares a log-likelihood with a density that is
//! known.
//!
//! ```
//! use flowgauge::divergence::{DivergenceEstimator, ModelHandles};
//! use flowgauge::flow::{path::ProbabilityPath, prior::Prior};
//! use flowgauge::likelihood::{LikelihoodTask, evaluate_likelihoods};
//! use flowgauge::{model::analytic::example_mixture, num::key::RngKey, solve::Solver, yaml};
//!
//! let curve = ProbabilityPath::FlowMatching { data_at: 0, t_min: 0.0, t_max: 1.0 }.curve()?;
//! let model = example_mixture(curve.clone(), 4);
//! let estimators: Vec<DivergenceEstimator> =
//!     yaml::from_yaml_str("[exact, {hutchinson: {probes: 32}}]")?;
//! let solver: Solver = yaml::from_yaml_str("{heun: {steps: 20}}")?;
//! let (prior, key) = (Prior::isotropic(1.0), RngKey { seed: 1 });
//! let task = LikelihoodTask { curve: &curve, prior, solver: &solver, estimators: &estimators, key };
//! let jacobian: Box<dyn flowgauge::flow::field::JacobianOperator> = Box::new(model.clone());
//! let mut handles = ModelHandles { jacobian: Some(jacobian), ..Default::default() };
//!
//! let x = ndarray::array![[0.6, 1.1, 0.9, -0.1]];
//! let rows = evaluate_likelihoods(&mut model.clone(), &mut handles, &task, &[0], x, None)?;
//! let [exact, hutchinson] = &rows[..] else { panic!("one row per estimator") };
//! let difference = hutchinson.log_likelihood.unwrap() - exact.log_likelihood.unwrap();
//! assert!(difference.abs() < 4.0 * hutchinson.stderr.unwrap());
//! assert_eq!(exact.evaluations, hutchinson.evaluations);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod continuous_bound;
pub mod discrete_bound;
pub mod few_step;
pub mod flow_map_checks;
pub mod one_call;

use std::sync::Mutex;
use std::time::Instant;

use ndarray::{Array2, Axis};

use crate::divergence::{
    ControlDivergence, ControlledVelocity, DivergenceEstimator, DivergenceIntegral,
    DivergenceIntegrator, EvaluationCost, ModelHandles, ProductPlan, lock_model_handles,
};
use crate::flow::field::{EvalError, JacobianProducts, Points, VectorField};
use crate::flow::path::PathCurve;
use crate::flow::prior::Prior;
use crate::num::Batch;
use crate::num::key::{RngKey, SampleId};
use crate::rows::Status;
use crate::solve::{Nodes, Solution, Solver, TimeSpan, local_error};

/// One measurement of log-likelihoods, without the data.
pub struct LikelihoodTask<'a> {
    /// The probability path of the model.
    pub curve: &'a PathCurve,
    /// The distribution of states at the prior end.
    pub prior: Prior,
    /// The ODE solver.
    pub solver: &'a Solver,
    /// The divergence estimators; all use the same path.
    pub estimators: &'a [DivergenceEstimator],
    /// The random key of the probes.
    pub key: RngKey,
}

impl LikelihoodTask<'_> {
    /// The divergence that controls the steps of a path in `dim` dimensions; fixed steps have no
    /// control.
    pub fn control(&self, dim: usize) -> ControlDivergence {
        match self.solver.fixed_evaluations() {
            Some(_) => ControlDivergence::State,
            None => ControlDivergence::for_estimators(self.estimators, dim),
        }
    }

    /// Whether the products that estimators share are computed together with the velocity in `dim`
    /// dimensions.
    pub fn has_joint_products(&self, dim: usize) -> bool {
        let control = self.control(dim);
        let adaptive = self.solver.fixed_evaluations().is_none();
        ProductPlan::for_estimators(self.estimators, dim, &control)
            .is_joint_with_velocity(dim, adaptive, &control)
    }
}

/// The terms of a variational bound −log p ≤ `prior` + `diffusion` + `reconstruction`, in nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoundTerms {
    /// KL(q(x_T|x₀) ‖ π), the divergence of the noised sample from the prior.
    pub prior: f64,
    /// The sum or integral over the noise levels.
    pub diffusion: f64,
    /// The expected −log p(x₀|x_t₀) at the data end.
    pub reconstruction: f64,
}

/// The result of one estimator for one sample. Numbers are `None` unless the status is `ok`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LikelihoodResult {
    /// The index of the estimator in the task.
    pub estimator: usize,
    /// The sample's number.
    pub sample: SampleId,
    /// The log-likelihood, in nats.
    pub log_likelihood: Option<f64>,
    /// The standard error over probes or replicates, in nats; `None` for a deterministic estimator.
    pub stderr: Option<f64>,
    /// The standard error over draws of dequantization noise, in nats; `None` for a single draw.
    pub dequantization_stderr: Option<f64>,
    /// Half the width of the 95 % confidence interval over probes by Student's t, in nats.
    pub half_width: Option<f64>,
    /// The log-density of the end state under the prior, in nats.
    pub prior_log_density: Option<f64>,
    /// The integral of the divergence, in nats.
    pub divergence_integral: Option<f64>,
    /// How far a flow map takes the found noise from the sample, as the root mean square over the
    /// components; `None` unless a flow map was inverted.
    pub inverse_residual: Option<f64>,
    /// The terms of a variational bound; `None` for other estimators.
    pub bound_terms: Option<BoundTerms>,
    /// The estimated error of the log-likelihood due to the steps, in nats. It is an estimate for
    /// this path and not a bound. `None` if there is no estimate: for adaptive steps that no
    /// divergence controls, and for fixed steps if the divergence has new random draws at every
    /// node or the steps are very few.
    pub solver_error: Option<f64>,
    /// The number of velocity evaluations, of the path and of this estimator on its nodes.
    pub evaluations: u64,
    /// The number of Jacobian products.
    pub jvps: u64,
    /// The number of calls of divergence heads.
    pub head_calls: u64,
    /// How the path ended.
    pub status: Status,
    /// The time to follow the path, in seconds: the batch's time divided by its samples.
    pub path_seconds: f64,
    /// The time to estimate the divergence, in seconds per sample.
    pub divergence_seconds: f64,
    /// The time of all estimators together, in seconds per sample: one path, and the products that
    /// they share.
    pub entry_seconds: f64,
}

/// The divergence of one estimator at one node, for figures.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeDivergence {
    /// The index of the estimator in the task.
    pub estimator: usize,
    /// The sample's number.
    pub sample: SampleId,
    /// The node's time.
    pub t: f64,
    /// The divergence, per unit of the card's time.
    pub divergence: f64,
}

/// Evaluates log p(data end) = log π(x at the prior end) + ∫div dt for each sample and each
/// estimator that needs a solver.
///
/// If `record` is given, it receives every estimator's divergence at every node.
///
/// # Errors
/// Fails if the model cannot be evaluated. A failed path is not an error; it has a status.
pub fn evaluate_likelihoods(
    field: &mut dyn VectorField,
    sources: &mut ModelHandles,
    task: &LikelihoodTask,
    sample: &[SampleId],
    x: Batch,
    record: Option<&mut Vec<NodeDivergence>>,
) -> Result<Vec<LikelihoodResult>, EvalError> {
    let span = TimeSpan {
        curve: task.curve,
        to_prior: true,
    };
    let (rows, _) = follow_paths(field, sources, task, span, sample, x, record)?;
    Ok(rows)
}

/// Draws samples along the path from the prior end to the data end, and evaluates the log p of each
/// by every estimator that needs a solver: log π(x at the prior end) − ∫div dt over the same path.
///
/// `noise` holds the states at the prior end, rows × dim. Returns the log-likelihoods with the
/// samples, rows × dim. A sample whose path has failed may hold numbers that are not finite.
///
/// # Errors
/// Fails if the model cannot be evaluated. A failed path is not an error; it has a status.
pub fn draw_with_log_likelihoods(
    field: &mut dyn VectorField,
    sources: &mut ModelHandles,
    task: &LikelihoodTask,
    sample: &[SampleId],
    noise: Batch,
) -> Result<(Vec<LikelihoodResult>, Batch), EvalError> {
    let span = TimeSpan {
        curve: task.curve,
        to_prior: false,
    };
    follow_paths(field, sources, task, span, sample, noise, None)
}

/// Follows the path of each sample in the direction of `span`. Returns the log-likelihoods at the
/// data end, and the states at the end of the paths.
///
/// # Errors
/// Fails if the model cannot be evaluated.
fn follow_paths(
    field: &mut dyn VectorField,
    sources: &mut ModelHandles,
    task: &LikelihoodTask,
    span: TimeSpan,
    sample: &[SampleId],
    x: Batch,
    mut record: Option<&mut Vec<NodeDivergence>>,
) -> Result<(Vec<LikelihoodResult>, Batch), EvalError> {
    let start = x.clone();
    let dim = x.ncols();
    let control = task.control(dim);
    let plan = ProductPlan::for_estimators(task.estimators, dim, &control);
    let along = task.has_joint_products(dim);
    let start_integrator = |spec| {
        DivergenceIntegrator::new(spec, task.key, sample.len())
            .with_shared_products(&control, &plan)
    };
    let mut integrators: Vec<DivergenceIntegrator> =
        task.estimators.iter().map(start_integrator).collect();
    // The error of fixed steps needs the values at all nodes, in the order of the nodes.
    let fixed = task
        .solver
        .fixed_node_count()
        .is_some_and(|nodes| nodes <= 4 * local_error::MAX_ESTIMATED_STEPS as u64);
    let mut node_values: Vec<Option<Vec<f64>>> = task
        .estimators
        .iter()
        .map(|e| (fixed && e.is_continuous_along_path()).then(Vec::new))
        .collect();
    let (mut estimating, mut sharing, mut shared_products) = (0.0, 0.0, 0);
    let began = Instant::now();
    let shared = Mutex::new(&mut *sources);
    let mut field = ControlledVelocity {
        velocity: field,
        sources: &shared,
        control: &control,
        plan: if along { &plan } else { &ProductPlan::Separate },
        key: task.key,
        cost: EvaluationCost::default(),
        cached_directions: None,
    };
    let solution = task
        .solver
        .solve(&mut field, sample, x, span, &mut |nodes: &Nodes| {
            let entered = Instant::now();
            let mut sources = lock_model_handles(&shared);
            let taken = shared_products_at(&plan, task.key, nodes, &mut sources)?;
            if taken.is_some() {
                sharing += entered.elapsed().as_secs_f64();
                shared_products += (plan.jvps_per_node(dim) * nodes.batch_index.len()) as u64;
            }
            let nodes = &Nodes {
                products: nodes.products.or(taken.as_ref()),
                ..*nodes
            };
            for (index, integrator) in integrators
                .iter_mut()
                .enumerate()
                .filter(|(i, _)| task.estimators[*i].needs_solver())
            {
                let values = integrator.visit(nodes, &mut sources)?;
                if let Some(node_values) = &mut node_values[index] {
                    node_values.extend(&values);
                }
                if let Some(record) = record.as_deref_mut() {
                    record.extend(values.iter().enumerate().map(|(i, v)| NodeDivergence {
                        estimator: index,
                        sample: nodes.sample[i],
                        t: nodes.t[i],
                        divergence: *v,
                    }));
                }
            }
            estimating += entered.elapsed().as_secs_f64();
            Ok(())
        })?;
    let share = 1.0 / sample.len().max(1) as f64;
    // The cost of the control belongs to the divergence, because every estimator on its own would
    // have it too.
    let [control_seconds, joint_seconds] = field.cost.extra_seconds();
    let timing = field.cost.timing_seconds;
    let path_seconds =
        (began.elapsed().as_secs_f64() - timing - estimating - control_seconds - joint_seconds)
            * share;
    // The time of shared products is divided by product, and every estimator counts the products
    // that it would need on its own.
    let shared_seconds = sharing + joint_seconds;
    let per_product =
        shared_seconds / ((shared_products + field.cost.estimator_jvps) as f64).max(1.0);
    // Towards the data end, the integral over the path is that from the prior end to the data end.
    let (at_prior, sign) = if span.to_prior {
        (&solution.x, 1.0)
    } else {
        (&start, -1.0)
    };
    let prior = task.prior.log_density(at_prior);
    let mut rows = Vec::with_capacity(task.estimators.len() * sample.len());
    for (index, integrator) in integrators
        .iter_mut()
        .enumerate()
        .filter(|(i, _)| task.estimators[*i].needs_solver())
    {
        integrator.add_head_residuals(sources)?;
        let integrals = match &task.estimators[index] {
            DivergenceEstimator::ClosedForm(_) => {
                closed_form_integrals(sources, span, sample, &start, &solution.x)?
            }
            _ => integrator.integrals(),
        };
        let spec = &task.estimators[index];
        let errors = solver_errors(&solution, node_values[index].take(), sample.len());
        let separate_calls = |head: &str| u64::from(!sources.joint_heads.contains(head));
        // An estimator whose values control the steps needs no products of its own.
        let (own, own_head) = match control.is_estimator(spec) {
            true => (0, 0),
            false => (
                spec.jvps_per_node(start.ncols()),
                spec.head().map_or(0, separate_calls),
            ),
        };
        let takes_shared = plan.products_of(spec).is_some() && !control.is_estimator(spec);
        let visited: u64 = integrator.calls.iter().sum();
        let own_seconds = if takes_shared {
            per_product * (own * visited) as f64
        } else {
            0.0
        };
        let path_head = if let ControlDivergence::Head(head) = &control {
            separate_calls(head)
        } else {
            0
        };
        for (i, integral) in integrals.into_iter().enumerate() {
            let integral_value = sign * integral.value;
            let value = prior[i] + integral_value;
            let status = match solution.status[i] {
                Status::Ok if !value.is_finite() => Status::NonFinite,
                status => status,
            };
            let ok = status == Status::Ok;
            let calls = integrator.calls[i];
            rows.push(LikelihoodResult {
                estimator: index,
                sample: sample[i],
                log_likelihood: ok.then_some(value),
                stderr: integral.stderr.filter(|_| ok),
                dequantization_stderr: None,
                half_width: integral.half_width.filter(|_| ok),
                prior_log_density: ok.then_some(prior[i]),
                divergence_integral: ok.then_some(integral_value),
                inverse_residual: None,
                bound_terms: None,
                solver_error: errors[i]
                    .filter(|_| ok && !matches!(spec, DivergenceEstimator::ClosedForm(_))),
                evaluations: solution.evaluations[i] + calls * spec.evaluations_per_node(),
                jvps: solution.control_evaluations[i] * control.jvps_per_evaluation(start.ncols())
                    + calls * own
                    + integrator.residual_jvps[i],
                head_calls: solution.control_evaluations[i] * path_head + calls * own_head,
                status,
                path_seconds,
                divergence_seconds: (integrator.seconds + control_seconds + own_seconds) * share,
                entry_seconds: 0.0,
            });
        }
    }
    let entry_seconds = (began.elapsed().as_secs_f64() - timing) * share;
    rows.iter_mut()
        .for_each(|row| row.entry_seconds = entry_seconds);
    Ok((rows, solution.x))
}

/// Computes the products that estimators share at some nodes, if they were not computed with the
/// velocity. `None` if a state is not finite; then every estimator computes its own products for
/// the finite rows.
fn shared_products_at(
    plan: &ProductPlan,
    key: RngKey,
    nodes: &Nodes,
    sources: &mut ModelHandles,
) -> Result<Option<JacobianProducts>, EvalError> {
    let finite = nodes.x.iter().all(|v| v.is_finite());
    if *plan == ProductPlan::Separate
        || nodes.products.is_some()
        || nodes.batch_index.is_empty()
        || !finite
    {
        return Ok(None);
    }
    match &mut sources.jacobian {
        Some(tangents) => plan.evaluate(key, nodes, &mut **tangents).map(Some),
        None => Ok(None),
    }
}

/// The estimated error of the steps per sample, in nats. For fixed steps it is completed by one
/// estimator's values at all nodes; for adaptive steps the solver gives it.
fn solver_errors(
    solution: &Solution,
    node_values: Option<Vec<f64>>,
    samples: usize,
) -> Vec<Option<f64>> {
    let values = node_values
        .and_then(|v| Array2::from_shape_vec((v.len() / samples.max(1), samples), v).ok());
    match (&solution.fixed_step_error, values) {
        (Some(error), Some(values)) => error.log_density_errors(values.view()),
        _ => solution.solver_error.clone(),
    }
}

/// The integral of the divergence in closed form: log p(data end) − log p(prior end), at the two
/// ends of each path.
fn closed_form_integrals(
    sources: &mut ModelHandles,
    span: TimeSpan,
    sample: &[SampleId],
    start: &Batch,
    end: &Batch,
) -> Result<Vec<DivergenceIntegral>, EvalError> {
    let missing = || EvalError::Missing("this model has no closed form".to_owned());
    let density = sources.closed_form.as_mut().ok_or_else(missing)?;
    let rows = start.len_of(Axis(0));
    let first = density.eval(Points::new(sample, &vec![span.start(); rows], start))?;
    let last = density.eval(Points::new(sample, &vec![span.end(); rows], end))?;
    Ok(first
        .iter()
        .zip(last)
        .map(|(a, b)| DivergenceIntegral::exact(a - b))
        .collect())
}

/// Converts a log-likelihood in nats into −log p / D, in nats per dimension.
pub fn nats_per_dim(log_likelihood: f64, dim: usize) -> f64 {
    // Subtraction from zero avoids a negative zero.
    (0.0 - log_likelihood) / dim as f64
}

/// Converts a log-likelihood in nats into bits per dimension of the quantized data: −log p / (D ln
/// 2) + `offset`, with the offset log₂(levels / range).
pub fn bits_per_dim(log_likelihood: f64, dim: usize, offset: f64) -> f64 {
    nats_per_dim(log_likelihood, dim) / std::f64::consts::LN_2 + offset
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::path::ProbabilityPath;
    use crate::model::analytic::{self, AnalyticMixture};
    use crate::num::stats;

    fn setting(path: ProbabilityPath, d: usize) -> (AnalyticMixture, Prior, Batch) {
        let curve = path.curve().expect("right");
        let prior = Prior::isotropic(curve.prior_std());
        let model = analytic::example_mixture(curve, d);
        let key = RngKey { seed: 17 };
        let mut x = Batch::zeros((6, d));
        for (i, mut row) in x.rows_mut().into_iter().enumerate() {
            row.assign(&(key.normal(crate::num::key::Purpose::Check, i as u64, 0, d) * 0.8));
        }
        (model, prior, x)
    }

    fn run(
        model: &AnalyticMixture,
        prior: Prior,
        solver: &str,
        estimators: &str,
        x: &Batch,
    ) -> Vec<LikelihoodResult> {
        let solver: Solver = serde_yaml::from_str(solver).expect(solver);
        let estimators: Vec<DivergenceEstimator> =
            serde_yaml::from_str(estimators).expect(estimators);
        let task = LikelihoodTask {
            curve: &model.curve,
            prior,
            solver: &solver,
            estimators: &estimators,
            key: RngKey { seed: 3 },
        };
        let mut sources = ModelHandles {
            jacobian: Some(Box::new(model.clone())),
            closed_form: Some(Box::new(model.clone())),
            ..Default::default()
        };
        let sample: Vec<u64> = (0..x.nrows() as u64).collect();
        evaluate_likelihoods(
            &mut model.clone(),
            &mut sources,
            &task,
            &sample,
            x.clone(),
            None,
        )
        .expect("analytic")
    }

    fn pick(rows: &[LikelihoodResult], estimator: usize) -> Vec<f64> {
        rows.iter()
            .filter(|r| r.estimator == estimator)
            .map(|r| r.log_likelihood.expect("ok"))
            .collect()
    }

    /// Test cases T5 and T9: on every path, the exact trace gives the closed form, even with a
    /// mismatched prior.
    #[test]
    fn exact_trace_gives_the_closed_form_on_every_path() {
        for path in ProbabilityPath::defaults() {
            if path.kind() == "discrete" {
                continue; // kinks in ln α at 1,000 times: convergence is tested on the smooth paths
            }
            let (model, prior, x) = setting(path.clone(), 3);
            let rows = run(
                &model,
                prior,
                "{dopri5: {rtol: 1e-9, atol: 1e-9}}",
                "[exact, closed-form]",
                &x,
            );
            for (got, want) in pick(&rows, 0).iter().zip(pick(&rows, 1)) {
                assert!((got - want).abs() < 1e-5, "{path:?}: {got} {want}");
            }
        }
    }

    /// The error of fixed steps falls at the method's order.
    #[test]
    fn fixed_steps_converge_at_their_order() {
        let (model, prior, x) = setting(
            ProbabilityPath::Vp {
                beta_min: 0.1,
                beta_max: 20.0,
                t_min: 1e-2,
            },
            3,
        );
        for (name, order, coarse) in [
            ("euler", 1.0, 400),
            ("midpoint", 2.0, 100),
            ("heun", 2.0, 100),
            ("rk4", 4.0, 100),
        ] {
            let error = |steps: usize| {
                let solver = format!("{{{name}: {{steps: {steps}, grid: log-snr}}}}");
                let rows = run(&model, prior, &solver, "[exact]", &x);
                let fine = run(
                    &model,
                    prior,
                    "{dopri5: {rtol: 1e-11, atol: 1e-11}}",
                    "[closed-form]",
                    &x,
                );
                let gaps: Vec<f64> = pick(&rows, 0)
                    .iter()
                    .zip(pick(&fine, 0))
                    .map(|(a, b)| a - b)
                    .collect();
                stats::rms(&gaps).expect("six samples")
            };
            let observed = (error(coarse) / error(2 * coarse)).log2();
            assert!((observed - order).abs() < 0.25, "{name}: {observed}");
        }
    }

    #[test]
    fn likelihoods_are_independent_of_the_batch() {
        let (model, prior, x) = setting(
            ProbabilityPath::Edm {
                sigma_min: 0.01,
                sigma_max: 30.0,
            },
            3,
        );
        for solver in [
            "{dopri5: {rtol: 1e-4, atol: 1e-4}}",
            "{bosh3: {rtol: 1e-3, atol: 1e-3}}",
            "{heun: {steps: 20}}",
        ] {
            let estimators =
                "[exact, {hutchinson: {probes: 2}}, {hutchinson: {probes: 2, along: fresh}}]";
            let together = run(&model, prior, solver, estimators, &x);
            let alone = run(
                &model,
                prior,
                solver,
                estimators,
                &x.slice(ndarray::s![0..1, ..]).to_owned(),
            );
            for row in &alone {
                let same = together
                    .iter()
                    .find(|r| r.estimator == row.estimator && r.sample == 0)
                    .expect("sample 0");
                assert_eq!(row.evaluations, same.evaluations, "{solver}");
                let (a, b) = (
                    row.log_likelihood.expect("ok"),
                    same.log_likelihood.expect("ok"),
                );
                assert!((a - b).abs() < 1e-10, "{solver}: {a} {b}");
            }
        }
    }

    #[test]
    fn finite_differences_agree_with_the_exact_trace_within_their_error() {
        let (model, prior, x) = setting(
            ProbabilityPath::Edm {
                sigma_min: 0.05,
                sigma_max: 30.0,
            },
            3,
        );
        let mut sources = ModelHandles {
            jacobian: Some(Box::new(model.clone())),
            difference_velocity: Some((Box::new(model.clone()), model.curve.clone())),
            ..Default::default()
        };
        let solver: Solver = serde_yaml::from_str("{heun: {steps: 24}}").expect("a solver");
        let estimators: Vec<DivergenceEstimator> = serde_yaml::from_str(
            "[{hutchinson: {probes: 4}}, {finite-difference: {step: 0.01, probes: 4}}]",
        )
        .expect("specs");
        let task = LikelihoodTask {
            curve: &model.curve,
            prior,
            solver: &solver,
            estimators: &estimators,
            key: RngKey { seed: 3 },
        };
        let sample: Vec<u64> = (0..x.nrows() as u64).collect();
        let rows = evaluate_likelihoods(&mut model.clone(), &mut sources, &task, &sample, x, None)
            .expect("analytic");
        // Both estimators use the same probes, so they differ only by the truncation error of the
        // differences.
        for (exact, difference) in pick(&rows, 0).iter().zip(pick(&rows, 1)) {
            assert!((exact - difference).abs() < 1e-3, "{exact} {difference}");
        }
        assert!(
            rows.iter()
                .filter(|r| r.estimator == 1)
                .all(|r| r.jvps == 0 && r.evaluations == 48 + 48 * 16)
        );
    }

    /// The divergence of a mixture with errors such as a head could have: a bias, and an error that
    /// depends on the state.
    #[derive(Clone)]
    struct Head(AnalyticMixture);

    impl crate::flow::field::ScalarField for Head {
        fn eval(&mut self, at: Points) -> Result<Vec<f64>, EvalError> {
            let Points { t, x, .. } = at;
            let d = x.ncols();
            let basis = crate::num::TangentBatch::from_shape_fn((d, x.nrows(), d), |(i, _, j)| {
                f64::from(u8::from(i == j))
            });
            let exact =
                crate::flow::field::JacobianOperator::quadratic_form(&mut self.0, at, &basis)?
                    .sum_axis(Axis(0));
            let s = t.iter().map(|t| self.0.curve.at(*t));
            let errors = s
                .zip(x.rows())
                .map(|(s, x)| (0.1 + 0.2 * x[0] / (1.0 + s.sigma)) / (s.sigma + 0.1));
            Ok(exact.iter().zip(errors).map(|(v, e)| v + e).collect())
        }
    }

    /// Measures one model with estimators that may need any part of a model.
    fn measured(
        model: &AnalyticMixture,
        solver: &str,
        estimators: &str,
        x: &Batch,
    ) -> Vec<LikelihoodResult> {
        let (solver, estimators): (Solver, Vec<DivergenceEstimator>) = (
            serde_yaml::from_str(solver).expect(solver),
            serde_yaml::from_str(estimators).expect(estimators),
        );
        let prior = Prior::isotropic(model.curve.prior_std());
        let task = LikelihoodTask {
            curve: &model.curve,
            prior,
            solver: &solver,
            estimators: &estimators,
            key: RngKey { seed: 3 },
        };
        let mut sources = ModelHandles {
            jacobian: Some(Box::new(model.clone())),
            curve: Some(model.curve.clone()),
            ..Default::default()
        };
        sources
            .heads
            .insert("stad".to_owned(), Box::new(Head(model.clone())));
        let sample: Vec<u64> = (0..x.nrows() as u64).collect();
        evaluate_likelihoods(
            &mut model.clone(),
            &mut sources,
            &task,
            &sample,
            x.clone(),
            None,
        )
        .expect("analytic")
    }

    /// The differences from the first estimator, and the rows of the estimator `index`.
    fn against_the_first(
        rows: &[LikelihoodResult],
        index: usize,
    ) -> (Vec<f64>, Vec<&LikelihoodResult>) {
        let of = |i| {
            rows.iter()
                .filter(move |r: &&LikelihoodResult| r.estimator == i)
                .collect::<Vec<_>>()
        };
        let value = |r: &LikelihoodResult| r.log_likelihood.expect("ok");
        let gaps = of(index)
            .iter()
            .zip(of(0))
            .map(|(a, b)| value(a) - value(b))
            .collect();
        (gaps, of(index))
    }

    /// The correction makes a biased head unbiased, with a realistic standard error, for fixed and
    /// adaptive steps.
    #[test]
    fn debiased_head_is_unbiased() {
        for path in [
            ProbabilityPath::Edm {
                sigma_min: 0.02,
                sigma_max: 20.0,
            },
            ProbabilityPath::defaults().remove(2),
        ] {
            let (model, _, x) = setting(path, 3);
            let x = x.select(Axis(0), &(0..600).map(|i| i % 6).collect::<Vec<_>>());
            for solver in [
                "{heun: {steps: 20, grid: log-snr}}",
                "{bosh3: {rtol: 1e-3, atol: 1e-3}}",
            ] {
                let rows = measured(
                    &model,
                    solver,
                    "[exact, learned, {debiased: {probes: 12}}]",
                    &x,
                );
                let bias = stats::mean_estimate(&against_the_first(&rows, 1).0)
                    .expect("rows")
                    .value;
                assert!(
                    bias.abs() > 0.05,
                    "the head of this test should be wrong: {bias}"
                );
                // The exact trace controls the steps here, so its products are those of the path.
                let of_path = |sample: u64| match solver.contains("bosh3") {
                    true => rows
                        .iter()
                        .find(|r| r.estimator == 0 && r.sample == sample)
                        .map_or(0, |r| r.jvps),
                    false => 0,
                };
                let (gaps, others) = against_the_first(&rows, 2);
                assert!(
                    others
                        .iter()
                        .all(|r| r.jvps == 12 + of_path(r.sample) && r.head_calls > 12),
                    "{solver}"
                );
                let rows = others;
                let mean = stats::mean_estimate(&gaps).expect("rows");
                assert!(
                    mean.value.abs() < 4.0 * mean.stderr.expect("600"),
                    "{solver}: {mean:?}"
                );
                let scaled: Vec<f64> = gaps
                    .iter()
                    .zip(&rows)
                    .map(|(g, r)| g / r.stderr.expect("12"))
                    .collect();
                let rms = stats::rms(&scaled).expect("rows") / (11.0f64 / 9.0).sqrt();
                assert!((0.85..1.2).contains(&rms), "{solver}: {rms}");
            }
        }
    }

    /// The control of the steps is independent of the estimators: adding others does not change a
    /// node.
    #[test]
    fn adding_an_estimator_leaves_the_path_unchanged() {
        for (dim, path) in [
            (
                3,
                ProbabilityPath::Edm {
                    sigma_min: 0.05,
                    sigma_max: 30.0,
                },
            ),
            (20, ProbabilityPath::defaults().remove(2)),
        ] {
            let (model, prior, x) = setting(path, dim);
            for solver in ["{dopri5: {tol: 1e-2}}", "{bosh3: {rtol: 1e-3, atol: 1e-3}}"] {
                let alone = run(&model, prior, solver, "[{hutchinson: {probes: 2}}]", &x);
                let among = run(
                    &model,
                    prior,
                    solver,
                    "[closed-form, exact, {hutchinson: {probes: 2}}, xtrace]",
                    &x,
                );
                let same: Vec<&LikelihoodResult> =
                    among.iter().filter(|r| r.estimator == 2).collect();
                for (a, b) in alone.iter().zip(same) {
                    assert_eq!(a.prior_log_density, b.prior_log_density, "{solver}");
                    // With other estimators its products come from the shared Jacobian, so they are
                    // equal up to rounding.
                    let (one, other) =
                        (a.log_likelihood.expect("ok"), b.log_likelihood.expect("ok"));
                    assert!(
                        (one - other).abs() < 1e-12 * one.abs(),
                        "{solver}: {one} {other}"
                    );
                    assert_eq!(
                        (a.evaluations, a.jvps, a.solver_error),
                        (b.evaluations, b.jvps, b.solver_error)
                    );
                    assert!(a.solver_error.is_some_and(|e| e > 0.0), "{solver}");
                }
                assert!(
                    among
                        .iter()
                        .all(|r| (r.estimator == 0) == r.solver_error.is_none()),
                    "{solver}"
                );
            }
        }
    }

    /// Fixed steps have an error estimate for every estimator whose values along a path are one
    /// function of time.
    #[test]
    fn fixed_steps_report_solver_error_per_estimator() {
        let estimators = "[exact, {hutchinson: {probes: 2}}, {hutchinson: {along: fresh}}, xtrace, learned, debiased]";
        let (model, _, x) = setting(
            ProbabilityPath::Edm {
                sigma_min: 0.02,
                sigma_max: 20.0,
            },
            16,
        );
        let fine = measured(&model, "{rk4: {steps: 800}}", estimators, &x);
        let (mut honest, mut all) = (0, 0);
        for solver in [
            "{euler: {steps: 40}}",
            "{midpoint: {steps: 40}}",
            "{heun: {steps: 40}}",
            "{rk4: {steps: 40}}",
        ] {
            let rows = measured(&model, solver, estimators, &x);
            for (row, truth) in rows.iter().zip(&fine) {
                assert_eq!(
                    row.solver_error.is_some(),
                    ![2, 5].contains(&row.estimator),
                    "{solver} {row:?}"
                );
                let Some(estimated) = row.solver_error else {
                    continue;
                };
                let error =
                    (row.log_likelihood.expect("ok") - truth.log_likelihood.expect("ok")).abs();
                println!(
                    "{solver} {}: {error:.1e}, estimated {estimated:.1e}",
                    row.estimator
                );
                honest += u32::from(error <= 3.0 * estimated);
                all += 1;
            }
        }
        assert!(
            f64::from(honest) >= 0.93 * f64::from(all),
            "{honest} of {all}"
        );
        let prior = Prior::isotropic(model.curve.prior_std());
        assert!(
            run(&model, prior, "heun", "[closed-form]", &x)
                .iter()
                .all(|r| r.solver_error.is_none())
        );
    }

    #[test]
    fn likelihood_costs_are_counted() {
        let (model, prior, x) = setting(
            ProbabilityPath::Edm {
                sigma_min: 0.01,
                sigma_max: 30.0,
            },
            3,
        );
        let rows = run(
            &model,
            prior,
            "{heun: {steps: 10}}",
            "[exact, {hutchinson: {probes: 2}}]",
            &x,
        );
        assert!(rows.iter().all(|r| r.evaluations == 20));
        assert!(
            rows.iter()
                .filter(|r| r.estimator == 0)
                .all(|r| r.jvps == 60)
        );
        assert!(
            rows.iter()
                .filter(|r| r.estimator == 1)
                .all(|r| r.jvps == 40)
        );
    }

    #[test]
    fn failed_path_gives_a_row_without_numbers() {
        struct Broken;
        impl VectorField for Broken {
            fn dim(&self) -> usize {
                1
            }
            fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
                let Points { t, x, .. } = at;
                let mut v = Batch::zeros(x.raw_dim());
                for (i, t) in t.iter().enumerate() {
                    v[[i, 0]] = if x[[i, 0]] > 0.5 && *t > 0.4 {
                        f64::NAN
                    } else {
                        0.1
                    };
                }
                Ok(v)
            }
        }
        let curve = ProbabilityPath::FlowMatching {
            data_at: 0,
            t_min: 0.0,
            t_max: 1.0,
        }
        .curve()
        .expect("right");
        let x = ndarray::array![[1.0], [-1.0]];
        for solver in ["{heun: {steps: 10}}", "dopri5"] {
            let solver: Solver = serde_yaml::from_str(solver).expect(solver);
            let estimators = vec![DivergenceEstimator::ClosedForm(Default::default())];
            let zero = analytic::example_mixture(curve.clone(), 1);
            let mut sources = ModelHandles {
                closed_form: Some(Box::new(zero)),
                ..Default::default()
            };
            let task = LikelihoodTask {
                curve: &curve,
                prior: Prior::isotropic(1.0),
                solver: &solver,
                estimators: &estimators,
                key: RngKey { seed: 0 },
            };
            let rows =
                evaluate_likelihoods(&mut Broken, &mut sources, &task, &[0, 1], x.clone(), None)
                    .expect("no model error");
            assert_eq!(rows[0].status, Status::NonFinite, "{solver:?}");
            assert_eq!(rows[0].log_likelihood, None);
            assert_eq!(rows[1].status, Status::Ok, "{solver:?}");
        }
    }

    /// Test case T8: uniform bytes under a density of one half per dimension have eight bits per
    /// dimension.
    #[test]
    fn bits_per_dim_of_known_densities() {
        let log_density = 10.0 * 0.5f64.ln();
        assert!((bits_per_dim(log_density, 10, 7.0) - 8.0).abs() < 1e-14);
        let normal = -(0.5 * (2.0 * std::f64::consts::PI).ln() + 1.0 / 6.0);
        assert!((bits_per_dim(normal, 1, 7.0) - 8.566197).abs() < 1e-6);
    }
}
