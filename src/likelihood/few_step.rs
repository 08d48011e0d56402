//! Few-step likelihoods of flow maps: log p = log π(x at the map's own prior end) + Σ (t' − t)·D
//! over a few times.
//!
//! The value belongs to the flow map and not to the ODE, and it is not the logarithm of a
//! normalised density. It must be compared by its bias and correlation against a full trajectory; a
//! lower value is not better.
//!
//! With exact log-determinants instead of D the value is the log-density of the map's own samples,
//! which is normalised if the map is one-to-one (FALCON, Rehman et al. 2025).

use std::time::Instant;

use super::{LikelihoodResult, LikelihoodTask};
use crate::divergence::{DivergenceEstimator, ModelHandles};
use crate::flow::field::{EvalError, FlowMap};
use crate::flow::{flow_map, map_volume};
use crate::num::Batch;
use crate::num::key::SampleId;
use crate::rows::Status;

/// Evaluates the estimators of the task that use a flow map.
///
/// # Errors
/// Fails if a flow map is missing, cannot be evaluated or gives no divergence.
pub fn evaluate_few_step_likelihoods(
    sources: &mut ModelHandles,
    task: &LikelihoodTask,
    sample: &[SampleId],
    x: &Batch,
) -> Result<Vec<LikelihoodResult>, EvalError> {
    let mut rows = Vec::new();
    for (estimator, spec) in task.estimators.iter().enumerate() {
        let DivergenceEstimator::FlowMap(few) = spec else {
            continue;
        };
        let began = Instant::now();
        let times = few.times(task.curve).map_err(EvalError::Missing)?;
        if few.has_log_determinants() {
            let inverted = sources.maps_to_data.contains(&few.map);
            let map = sources.flow_map(&few.map)?;
            let found = log_determinant_results(map, task, &times, inverted, sample, x)?;
            let seconds = began.elapsed().as_secs_f64() / sample.len().max(1) as f64;
            rows.extend(found.into_iter().map(|row| LikelihoodResult {
                estimator,
                path_seconds: seconds,
                entry_seconds: seconds,
                ..row
            }));
            continue;
        }
        let map = sources.flow_map(&few.map)?;
        let end = flow_map::apply_flow_map_steps(
            map,
            task.curve,
            &times,
            few.rule.unwrap_or_default(),
            sample,
            x.clone(),
        )?;
        let seconds = began.elapsed().as_secs_f64() / sample.len().max(1) as f64;
        let missing =
            || EvalError::Missing(format!("the flow map `{}` gives no divergence", few.map));
        let integral = end.divergence_integral.ok_or_else(missing)?;
        let prior = task.prior.log_density(&end.x);
        for (i, sample) in sample.iter().enumerate() {
            let value = prior[i] + integral[i];
            let finite = value.is_finite();
            rows.push(LikelihoodResult {
                estimator,
                sample: *sample,
                log_likelihood: finite.then_some(value),
                prior_log_density: finite.then_some(prior[i]),
                divergence_integral: finite.then_some(integral[i]),
                evaluations: spec.evaluations_without_solver(task.curve),
                status: if finite {
                    Status::Ok
                } else {
                    Status::NonFinite
                },
                path_seconds: seconds,
                entry_seconds: seconds,
                ..LikelihoodResult::default()
            });
        }
    }
    Ok(rows)
}

/// The log-densities of rows under a flow map by exact log-determinants, along `times` from the data
/// end to the prior end. A map that leads only to data is `inverted`.
fn log_determinant_results(
    map: &mut dyn FlowMap,
    task: &LikelihoodTask,
    times: &[f64],
    inverted: bool,
    samples: &[SampleId],
    x: &Batch,
) -> Result<Vec<LikelihoodResult>, EvalError> {
    let (walk, sign) = if inverted {
        let to_data: Vec<f64> = times.iter().rev().copied().collect();
        let walk =
            map_volume::invert_with_volume(map, task.prior.centred, &to_data, samples, x.clone())?;
        (walk, -1.0)
    } else {
        let walk =
            map_volume::walk_with_volume(map, task.prior.centred, times, samples, x.clone())?;
        (walk, 1.0)
    };
    let prior = task.prior.log_density(&walk.x);
    let result = |i: usize| {
        let volume = sign * walk.log_volume[i];
        let value = prior[i] + volume;
        let status = match walk.status[i] {
            Status::Ok if !value.is_finite() => Status::NonFinite,
            status => status,
        };
        let ok = status == Status::Ok;
        LikelihoodResult {
            sample: samples[i],
            log_likelihood: ok.then_some(value),
            prior_log_density: ok.then_some(prior[i]),
            divergence_integral: ok.then_some(volume),
            inverse_residual: walk.inverse_residual.as_ref().map(|r| r[i]),
            evaluations: walk.evaluations[i],
            jvps: walk.products[i],
            status,
            ..LikelihoodResult::default()
        }
    };
    Ok((0..samples.len()).map(result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::field::{FlowMap, Points};
    use crate::flow::path::ProbabilityPath;
    use crate::flow::prior::Prior;
    use crate::model::analytic::{self, AnalyticGaussian};
    use crate::num::key::RngKey;
    use crate::solve::Solver;

    /// The log-likelihoods of rows under N(m, C), with the flow map in closed form.
    fn run(model: &AnalyticGaussian, std: f64, spec: &str, x: &Batch) -> Vec<f64> {
        let rows = results_of(model, std, spec, false, x);
        rows.iter().map(|r| r.log_likelihood.expect("ok")).collect()
    }

    /// The results of one estimator, with a map that leads only to data if `to_data` is set.
    fn results_of(
        model: &AnalyticGaussian,
        std: f64,
        spec: &str,
        to_data: bool,
        x: &Batch,
    ) -> Vec<LikelihoodResult> {
        let estimators: Vec<DivergenceEstimator> = vec![serde_yaml::from_str(spec).expect(spec)];
        let mut sources = ModelHandles::default();
        sources
            .flow_maps
            .insert("f2d2".to_owned(), Box::new(model.clone()));
        if to_data {
            sources.maps_to_data.insert("f2d2".to_owned());
        }
        let solver = Solver::defaults().remove(0);
        let (prior, key) = (Prior::isotropic(std), RngKey { seed: 0 });
        let task = LikelihoodTask {
            curve: &model.curve,
            prior,
            solver: &solver,
            estimators: &estimators,
            key,
        };
        let sample: Vec<u64> = (0..x.nrows() as u64).collect();
        evaluate_few_step_likelihoods(&mut sources, &task, &sample, x).expect("analytic")
    }

    fn flow_matching(data_at: u8) -> AnalyticGaussian {
        analytic::example_gaussian(
            ProbabilityPath::FlowMatching {
                data_at,
                t_min: 0.0,
                t_max: 1.0,
            }
            .curve()
            .expect("right"),
        )
    }

    /// Test case T13: the value of T2 in flow matching, for every number of steps and both
    /// directions of time.
    #[test]
    fn exact_flow_map_is_exact_in_any_number_of_steps() {
        let x = ndarray::array![[0.7, 0.3, -2.0]];
        for model in [flow_matching(0), flow_matching(1)] {
            for steps in [1, 2, 3, 4, 8, 64] {
                let got = run(
                    &model,
                    1.0,
                    &format!("{{flow-map: {{steps: {steps}}}}}"),
                    &x,
                )[0];
                assert!((got + 4.181816).abs() < 1e-6, "{steps}: {got}");
                // At the prior end, the distribution is the prior itself, so this is the exact
                // density of the data.
                let gap = &x.row(0) - &model.mean;
                let density: f64 = gap
                    .iter()
                    .zip(&model.variance)
                    .map(|(g, c)| -0.5 * (g * g / c + (std::f64::consts::TAU * c).ln()))
                    .sum();
                assert!((got - density).abs() < 1e-12, "{steps}: {got} {density}");
            }
        }
    }

    /// Test cases T13 and T9: on every path and grid, only the mismatch of the prior is left.
    #[test]
    fn every_path_and_grid_give_the_closed_form() {
        let x = ndarray::array![[0.7, 0.3, -2.0], [-1.0, 2.0, 0.5]];
        for path in ProbabilityPath::defaults() {
            let curve = path.curve().expect("defaults are right");
            let (std, mut model) = (curve.prior_std(), analytic::example_gaussian(curve));
            let density = |model: &AnalyticGaussian, t: f64, x: &Batch| -> Vec<f64> {
                let s = model.curve.at(t);
                let (mean, variance) = (
                    &model.mean * s.alpha,
                    &model.variance * s.alpha.powi(2) + s.sigma.powi(2),
                );
                let one = |row: ndarray::ArrayView1<f64>| -> f64 {
                    let gap = &row - &mean;
                    gap.iter()
                        .zip(&variance)
                        .map(|(g, v)| -0.5 * (g * g / v + (std::f64::consts::TAU * v).ln()))
                        .sum()
                };
                x.rows().into_iter().map(one).collect()
            };
            let (start, end) = (model.curve.data_end(), model.curve.prior_end());
            let u = model
                .averages(Points::of_first_samples(&[start; 2], &x), &[end; 2])
                .expect("analytic")
                .velocity;
            let last = &x + &(u * (end - start));
            let (first, there) = (density(&model, start, &x), density(&model, end, &last));
            let prior = Prior::isotropic(std).log_density(&last);
            for grid in ["uniform", "karras", "log-snr"] {
                for steps in [1, 2, 7] {
                    let spec = format!("{{flow-map: {{steps: {steps}, grid: {grid}}}}}");
                    let few: DivergenceEstimator = serde_yaml::from_str(&spec).expect("a spec");
                    let DivergenceEstimator::FlowMap(few) = few else {
                        panic!("a flow map")
                    };
                    if few.times(&model.curve).is_err() {
                        assert_eq!(path.kind(), "flow-matching");
                        continue;
                    }
                    for (i, got) in run(&model, std, &spec, &x).into_iter().enumerate() {
                        let want = first[i] + prior[i] - there[i];
                        assert!(
                            (got - want).abs() < 1e-8 * (1.0 + want.abs()),
                            "{path:?} {spec}: {got} {want}"
                        );
                    }
                }
            }
        }
    }

    /// §4.4 of the project's notes: the result of the authors' rule with the same exact map.
    #[test]
    fn forward_average_rule_has_its_known_bias() {
        let x = ndarray::array![[0.7, 0.3, -2.0]];
        for (steps, want) in [
            (1, -5.393),
            (2, -5.112),
            (4, -4.504),
            (8, -4.215),
            (64, -4.159),
        ] {
            let spec = format!("{{flow-map: {{steps: {steps}, rule: forward-average}}}}");
            let got = run(&flow_matching(1), 1.0, &spec, &x)[0];
            assert!((got - want).abs() < 5e-4, "{steps}: {got}, expected {want}");
        }
    }

    #[test]
    fn failed_flow_map_gives_a_row_without_numbers() {
        let x = ndarray::array![[0.7, 0.3, -2.0], [f64::INFINITY, 0.0, 0.0]];
        let estimators = vec![DivergenceEstimator::FlowMap(Default::default())];
        let model = flow_matching(1);
        let mut sources = ModelHandles::default();
        sources
            .flow_maps
            .insert("f2d2".to_owned(), Box::new(model.clone()));
        let solver = Solver::defaults().remove(0);
        let (prior, key) = (Prior::isotropic(1.0), RngKey { seed: 0 });
        let task = LikelihoodTask {
            curve: &model.curve,
            prior,
            solver: &solver,
            estimators: &estimators,
            key,
        };
        let rows =
            evaluate_few_step_likelihoods(&mut sources, &task, &[0, 1], &x).expect("analytic");
        assert_eq!(
            (rows[0].status, rows[1].status),
            (Status::Ok, Status::NonFinite)
        );
        assert_eq!((rows[1].log_likelihood, rows[0].evaluations), (None, 8));
    }

    /// Exact log-determinants need no divergence, and a map that leads only to data is inverted.
    #[test]
    fn log_determinants_are_exact_for_any_number_of_steps() {
        for path in ProbabilityPath::defaults() {
            let model = analytic::example_gaussian(path.curve().expect("right"));
            let x = ndarray::array![[0.3, -0.2, 1.0], [1.1, 0.4, -2.0], [-0.8, 0.9, 0.1]];
            let std = model.curve.prior_std();
            let want = run(&model, std, "{flow-map: {steps: 1}}", &x);
            for steps in [1, 2, 5] {
                let spec = format!("{{flow-map: {{steps: {steps}, volume: log-det}}}}");
                for to_data in [false, true] {
                    let rows = results_of(&model, std, &spec, to_data, &x);
                    for (row, want) in rows.iter().zip(&want) {
                        let found = row.log_likelihood.expect("ok");
                        let allowed = 1e-8 * (1.0 + want.abs());
                        assert!(
                            (found - want).abs() < allowed,
                            "{path:?} {steps}: {found} {want}"
                        );
                        assert_eq!(row.inverse_residual.is_some(), to_data);
                        if !to_data {
                            let dim = x.ncols() as u64;
                            assert_eq!((row.evaluations, row.jvps), (steps, steps * dim));
                        }
                    }
                }
            }
        }
    }
}
