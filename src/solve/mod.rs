//! ODE solvers, which follow the state of each sample along the probability-flow ODE.
//!
//! A solver passes each accepted stage to a visitor, as a quadrature node with its weight.
//! Everything that is integrated along the path, above all a divergence, is evaluated on those
//! nodes. No estimator influences the step control. An adaptive solver controls the error of the
//! state, and of a divergence that the velocity field returns with its velocity; that divergence is
//! the same for all estimators. Time, step, status and cost belong to a sample, never to a batch.
//!
//! # Example
//!
//! dx/dt = −x from t = 0 to t = 1, whose solution is x(0)/e.
//!
//! ```
//! use flowgauge::flow::field::{EvalError, Points, VectorField};
//! use flowgauge::flow::path::ProbabilityPath;
//! use flowgauge::num::Batch;
//! use flowgauge::solve::{Solver, TimeSpan};
//!
//! struct Decay;
//!
//! impl VectorField for Decay {
//!     fn dim(&self) -> usize {
//!         1
//!     }
//!     fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
//!         Ok(-at.x)
//!     }
//! }
//!
//! let curve = ProbabilityPath::FlowMatching { data_at: 0, t_min: 0.0, t_max: 1.0 }.curve()?;
//! let span = TimeSpan { curve: &curve, to_prior: true };
//! let solver: Solver = flowgauge::yaml::from_yaml_str("{rk4: {steps: 20}}")?;
//! let solution = solver.solve(&mut Decay, &[0], ndarray::array![[2.0]], span, &mut |_| Ok(()))?;
//! assert!((solution.x[[0, 0]] - 2.0 / std::f64::consts::E).abs() < 1e-6);
//! assert_eq!(solution.evaluations, [80]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use ndarray::Axis;

use crate::flow::field::{EvalError, JacobianProducts, Points, VectorField};
use crate::flow::grid;
use crate::flow::grid::GridSpacing;
use crate::flow::path::PathCurve;
use crate::num::Batch;
use crate::num::key::SampleId;
use crate::registry;
use crate::rows::Status;
use local_error::FixedStepError;

pub mod adaptive;
pub mod dop853;
pub mod fixed;
pub mod jump;
pub mod local_error;
pub mod quadrature_bound;
pub mod step_count;
mod switches;
pub mod tableau;
pub mod time_change;

registry! {
    /// The ODE solvers, by the names that `solvers:` and `--solver` accept.
    pub enum Solver: OdeSolver {
        "euler" => Euler(fixed::Euler) {
            what: "The first-order method with one evaluation per step.",
            when: "To repeat what a sampler with Euler steps does; for accuracy take another.",
            source: "Hairer, Nørsett & Wanner 1993, doi:10.1007/978-3-540-78862-1",
        },
        "midpoint" | "rk2" => Midpoint(fixed::Midpoint) {
            what: "The second-order method with an evaluation in the middle of each step.",
            when: "A fixed number of evaluations with moderate accuracy.",
            source: "Hairer, Nørsett & Wanner 1993, doi:10.1007/978-3-540-78862-1",
        },
        "heun" | "heun2" => Heun(fixed::Heun) {
            what: "The second-order method with evaluations at both ends of each step.",
            when: "A fixed number of evaluations, or `steps: auto` for a wanted accuracy.",
            source: "Hairer, Nørsett & Wanner 1993, doi:10.1007/978-3-540-78862-1; Karras et al. 2022, arXiv:2206.00364",
        },
        "rk4" | "runge-kutta-4" => Rk4(fixed::Rk4) {
            what: "The classical fourth-order method with four evaluations per step.",
            when: "A fixed number of evaluations on a smooth network.",
            source: "Hairer, Nørsett & Wanner 1993, doi:10.1007/978-3-540-78862-1",
        },
        "bosh3" | "rk23" | "bogacki-shampine" => Bosh3(adaptive::Bosh3) {
            what: "An adaptive pair of orders 3 and 2.",
            when: "Networks with kinks, such as ReLU, and low accuracy.",
            source: "Bogacki & Shampine 1989, doi:10.1016/0893-9659(89)90079-7",
        },
        "dopri5" | "rk45" | "ode45" | "dormand-prince" => Dopri5(adaptive::Dopri5) {
            what: "An adaptive pair of orders 5 and 4.",
            when: "Smooth networks; the usual choice.",
            source: "Dormand & Prince 1980, doi:10.1016/0771-050X(80)90013-3",
        },
        "tsit5" | "tsitouras5" => Tsit5(adaptive::Tsit5) {
            what: "An adaptive pair of orders 5 and 4 with smaller error constants than `dopri5`.",
            when: "Smooth networks, in the place of `dopri5`.",
            source: "Tsitouras 2011, doi:10.1016/j.camwa.2011.06.002",
        },
        "dop853" | "dopri853" => Dop853(adaptive::Dop853) {
            what: "An adaptive method of order 8 with estimates of orders 5 and 3.",
            when: "Smooth networks and tolerances below about 1e-8.",
            source: "Hairer, Nørsett & Wanner 1993, doi:10.1007/978-3-540-78862-1",
        },
    }
}

impl Solver {
    /// The label in tables: the name with the parameters that are not the defaults.
    pub fn label(&self) -> String {
        let default = Solver::from_name(self.name()).unwrap_or_else(|| self.clone());
        registry::kind_label(self.name(), self, &default)
    }

    /// The name of the states that the solver visits; see [`grid::trajectory_name`]. `None` if the
    /// steps are adaptive.
    pub fn trajectory(&self) -> Option<String> {
        self.fixed_evaluations()
            .map(|_| grid::trajectory_name(self.name(), self.grid_spacing()))
    }
}

/// Quadrature nodes: accepted stages of some samples, one entry or row per node.
pub struct Nodes<'a> {
    /// The sample's number.
    pub sample: &'a [SampleId],
    /// The index of the node on its sample's path.
    pub node: &'a [u64],
    /// The position of the sample in the batch that is solved.
    pub batch_index: &'a [usize],
    /// The time of the node.
    pub t: &'a [f64],
    /// The state at the node, nodes × dim.
    pub x: &'a Batch,
    /// The quadrature weight, in units of time; it is negative if time decreases along the path.
    pub weight: &'a [f64],
    /// The divergence that controlled the steps, if a divergence controls them.
    pub divergence: Option<&'a [f64]>,
    /// The Jacobian products that the velocity field returned with its velocity, if it returned
    /// any.
    pub products: Option<&'a JacobianProducts>,
}

impl Nodes<'_> {
    /// The samples, times and states of the nodes.
    pub fn points(&self) -> Points<'_> {
        Points::new(self.sample, self.t, self.x)
    }
}

/// The callback that receives a path's nodes.
pub type NodeVisitor<'a> = dyn FnMut(&Nodes) -> Result<(), EvalError> + 'a;

/// The result of a solve: the end states with their status and cost, one entry or row per sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Solution {
    /// The states at the end of the paths, samples × dim.
    pub x: Batch,
    /// How each path ended.
    pub status: Vec<Status>,
    /// The number of velocity evaluations, including those of rejected steps.
    pub evaluations: Vec<u64>,
    /// The number of evaluations that also gave the divergence that controls the steps.
    pub control_evaluations: Vec<u64>,
    /// The estimated absolute error in log p due to the steps, in nats; `None` if no divergence
    /// controls the steps.
    pub solver_error: Vec<Option<f64>>,
    /// The error of fixed steps, as far as the states show it. It becomes complete with the
    /// divergences at the nodes.
    pub fixed_step_error: Option<FixedStepError>,
}

/// An interval of the card's time between the data end and the prior end, with its direction.
#[derive(Debug, Clone, Copy)]
pub struct TimeSpan<'a> {
    /// The probability path that gives the two ends.
    pub curve: &'a PathCurve,
    /// `true` if time runs from the data end to the prior end, `false` if it runs back.
    pub to_prior: bool,
}

impl TimeSpan<'_> {
    /// The time at which the path starts.
    pub fn start(&self) -> f64 {
        if self.to_prior {
            self.curve.data_end()
        } else {
            self.curve.prior_end()
        }
    }

    /// The time at which the path ends.
    pub fn end(&self) -> f64 {
        if self.to_prior {
            self.curve.prior_end()
        } else {
            self.curve.data_end()
        }
    }

    /// Returns a grid of `steps` steps in the direction of travel. The default spacing is Karras
    /// for `edm` and `ve` paths, and uniform for all others.
    ///
    /// # Errors
    /// Fails if no grid of that spacing exists for the path.
    fn grid(&self, spacing: Option<GridSpacing>, steps: usize) -> Result<Vec<f64>, String> {
        let spacing = spacing.unwrap_or_else(|| GridSpacing::default_for(self.curve.path()));
        let mut times = grid::grid_times(self.curve, spacing, steps, 7.0)?;
        if !self.to_prior {
            times.reverse();
        }
        Ok(times)
    }
}

/// A method that solves dx/dt = v(x, t).
pub trait OdeSolver: Sync {
    /// Checks the parameters of the solver for this span.
    ///
    /// # Errors
    /// Fails if a parameter is invalid. The message names the parameter's key.
    fn check(&self, span: TimeSpan) -> Result<(), String>;

    /// The order of the method: the error is proportional to this power of the step.
    fn order(&self) -> u32;

    /// The tolerance for `steps: auto`, in nats: the log-likelihoods of two grids must agree within
    /// it. `None` if the number of steps is given.
    fn auto_steps_tolerance(&self) -> Option<f64> {
        None
    }

    /// The number of evaluations per sample, or `None` if it is not known before solving.
    fn fixed_evaluations(&self) -> Option<u64>;

    /// The relative and the absolute tolerance, or `None` if the steps are fixed.
    fn tolerances(&self) -> Option<[f64; 2]> {
        None
    }

    /// The number of nodes per sample that the visitor receives, or `None` if it is not known
    /// before solving.
    fn fixed_node_count(&self) -> Option<u64>;

    /// The solver with `steps` fixed steps and without `tol`, which only `steps: auto` uses. `None`
    /// if the solver is adaptive.
    fn with_steps(&self, _steps: usize) -> Option<Solver> {
        None
    }

    /// The solver with twice the fixed steps, or with tolerances divided by
    /// [`TOLERANCE_DIVISOR`](adaptive::TOLERANCE_DIVISOR). `None` if the number of steps is not
    /// known yet.
    fn finer(&self) -> Option<Solver>;

    /// The solver with half the fixed steps. `None` if their number is odd, or if the solver is
    /// adaptive.
    fn coarser(&self) -> Option<Solver> {
        None
    }

    /// The spacing of a fixed grid. `None` for the path's default, or if the steps are adaptive.
    fn grid_spacing(&self) -> Option<GridSpacing> {
        None
    }

    /// Solves the ODE over the span for every row of `x`, and passes the nodes to `visit`.
    ///
    /// # Errors
    /// Fails if the velocity field cannot be evaluated, or if `visit` fails.
    fn solve(
        &self,
        field: &mut dyn VectorField,
        sample: &[SampleId],
        x: Batch,
        span: TimeSpan,
        visit: &mut NodeVisitor,
    ) -> Result<Solution, EvalError>;
}

/// Returns the rows of `x` with the indices `keep`.
fn select_rows(x: &Batch, keep: &[usize]) -> Batch {
    x.select(Axis(0), keep)
}

#[cfg(test)]
mod accuracy_tests;

/// Tells for each row whether all its numbers are finite.
fn finite_rows(x: &Batch) -> Vec<bool> {
    x.rows()
        .into_iter()
        .map(|r| r.iter().all(|v| v.is_finite()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::flow::field::JacobianOperator;
    use crate::flow::field::{Evaluation, EvaluationPurpose};
    use crate::flow::path::ProbabilityPath;
    use crate::flow::prior::Prior;
    use crate::model::analytic::{self, AnalyticMixture};
    use crate::num::TangentBatch;
    use crate::num::key::{Purpose, RngKey};
    use crate::num::stats;

    fn read(spec: &str) -> Solver {
        serde_yaml::from_str(spec).expect(spec)
    }

    fn adaptive(tolerance: f64) -> Vec<Solver> {
        let all = Solver::defaults()
            .into_iter()
            .filter(|s| s.fixed_evaluations().is_none());
        all.map(|s| {
            read(&format!(
                "{{{}: {{rtol: {tolerance:e}, atol: {tolerance:e}}}}}",
                s.name()
            ))
        })
        .collect()
    }

    fn curve(path: &str) -> PathCurve {
        serde_yaml::from_str::<ProbabilityPath>(path)
            .expect(path)
            .curve()
            .expect(path)
    }

    /// Draws samples from the model at its data end.
    fn draws(model: &AnalyticMixture, rows: usize) -> Batch {
        let key = RngKey { seed: 5 };
        let (d, end) = (model.means.ncols(), model.curve.at(model.curve.data_end()));
        let mut x = Batch::zeros((rows, d));
        for (i, mut row) in x.rows_mut().into_iter().enumerate() {
            let k = i % model.weights.len();
            let std = (end.alpha * end.alpha * model.variances[k] + end.sigma * end.sigma).sqrt();
            row.assign(
                &(key.normal(Purpose::Check, i as u64, 0, d) * std
                    + &model.means.row(k) * end.alpha),
            );
        }
        x
    }

    /// A mixture of one component. Its flow map x_s = α_s m + √(V_s/V_t)·(x_t − α_t m) is known
    /// (test case T1).
    fn gaussian(curve: PathCurve, d: usize) -> AnalyticMixture {
        let example = analytic::example_mixture(curve, d);
        AnalyticMixture {
            weights: vec![1.0],
            means: example.means.slice(ndarray::s![..1, ..]).to_owned(),
            variances: vec![0.12],
            curve: example.curve,
        }
    }

    fn flow_map(model: &AnalyticMixture, x: &Batch, from: f64, to: f64) -> Batch {
        let (a, b) = (model.curve.at(from), model.curve.at(to));
        let variance = |s: &crate::flow::path::PathCoefficients| {
            s.alpha * s.alpha * model.variances[0] + s.sigma * s.sigma
        };
        let stretch = (variance(&b) / variance(&a)).sqrt();
        (x - &(&model.means.row(0) * a.alpha)) * stretch + &model.means.row(0) * b.alpha
    }

    /// A mixture whose exact trace controls the steps.
    struct Held(AnalyticMixture);

    impl VectorField for Held {
        fn dim(&self) -> usize {
            VectorField::dim(&self.0)
        }
        fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
            self.0.velocity(at)
        }
        fn evaluate(&mut self, _: EvaluationPurpose, at: Points) -> Result<Evaluation, EvalError> {
            let Points { x, .. } = at;
            let d = x.ncols();
            let basis = TangentBatch::from_shape_fn((d, x.nrows(), d), |(i, _, j)| {
                f64::from(u8::from(i == j))
            });
            let trace = self
                .0
                .quadratic_form(at, &basis)?
                .sum_axis(Axis(0))
                .to_vec();
            Ok(Evaluation {
                velocity: self.0.velocity(at)?,
                divergence: Some(trace),
                products: None,
            })
        }
    }

    /// Solves the ODE and integrates the exact trace over the nodes: the solution and ∫div per
    /// sample.
    fn solve(
        solver: &Solver,
        model: &AnalyticMixture,
        x: &Batch,
        to_prior: bool,
    ) -> (Solution, Vec<f64>) {
        let (rows, d) = x.dim();
        let span = TimeSpan {
            curve: &model.curve,
            to_prior,
        };
        let ids: Vec<u64> = (0..rows as u64).collect();
        let (mut integral, mut tangents) = (vec![0.0; rows], model.clone());
        let solution = solver
            .solve(
                &mut Held(model.clone()),
                &ids,
                x.clone(),
                span,
                &mut |nodes: &Nodes| {
                    let basis = TangentBatch::from_shape_fn(
                        (d, nodes.batch_index.len(), d),
                        |(i, _, j)| f64::from(u8::from(i == j)),
                    );
                    let trace = tangents
                        .quadratic_form(nodes.points(), &basis)?
                        .sum_axis(Axis(0));
                    for (i, slot) in nodes.batch_index.iter().enumerate() {
                        integral[*slot] += nodes.weight[i] * trace[i];
                    }
                    Ok(())
                },
            )
            .expect("analytic");
        (solution, integral)
    }

    /// Records every node of each sample's path, bit for bit.
    fn traces(
        solver: &Solver,
        model: &AnalyticMixture,
        ids: &[u64],
        x: &Batch,
    ) -> (Solution, BTreeMap<u64, Vec<u64>>) {
        let mut seen: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let span = TimeSpan {
            curve: &model.curve,
            to_prior: true,
        };
        let solution = solver
            .solve(
                &mut Held(model.clone()),
                ids,
                x.clone(),
                span,
                &mut |nodes: &Nodes| {
                    for (i, sample) in nodes.sample.iter().enumerate() {
                        let record = seen.entry(*sample).or_default();
                        record.extend([
                            nodes.node[i],
                            nodes.t[i].to_bits(),
                            nodes.weight[i].to_bits(),
                        ]);
                        record.extend(nodes.x.row(i).iter().map(|v| v.to_bits()));
                    }
                    Ok(())
                },
            )
            .expect("analytic");
        (solution, seen)
    }

    #[test]
    fn every_solver_can_be_refined_and_only_fixed_steps_halved() {
        for solver in Solver::defaults() {
            let fine = solver.finer().expect("finer");
            assert_eq!(fine.name(), solver.name());
            assert_ne!(fine, solver);
            let fixed = solver.fixed_evaluations();
            assert_eq!(fine.fixed_evaluations(), fixed.map(|n| 2 * n));
            assert_eq!(
                fine.coarser().filter(|_| fixed.is_some()),
                fixed.map(|_| solver.clone())
            );
            assert_eq!(solver.coarser().is_some(), fixed.is_some());
        }
        let nats: Solver = serde_yaml::from_str("{dopri5: {tol: 0.01}}").expect("a solver");
        let finer: Option<Solver> = nats.finer();
        assert_eq!(finer, serde_yaml::from_str("{dopri5: {tol: 0.001}}").ok());
        let odd: Solver = serde_yaml::from_str("{rk4: {steps: 7}}").expect("a solver");
        assert_eq!(odd.coarser(), None);
    }

    #[test]
    fn sample_path_is_independent_of_its_batch() {
        for solver in Solver::defaults() {
            for path in [
                "{kind: edm, sigma_min: 0.01}",
                "{kind: vp}",
                "{kind: discrete}",
                "{kind: flow-matching}",
            ] {
                let model = analytic::example_mixture(curve(path), 3);
                let x = draws(&model, 5);
                let (together, seen) = traces(&solver, &model, &[10, 11, 12, 13, 14], &x);
                for i in 0..5 {
                    let alone = x.slice(ndarray::s![i..i + 1, ..]).to_owned();
                    let (one, path_of_one) = traces(&solver, &model, &[10 + i as u64], &alone);
                    assert_eq!(one.x.row(0), together.x.row(i), "{solver:?} {path}");
                    assert_eq!(
                        one.evaluations[0], together.evaluations[i],
                        "{solver:?} {path}"
                    );
                    assert_eq!(
                        path_of_one[&(10 + i as u64)],
                        seen[&(10 + i as u64)],
                        "{solver:?} {path}"
                    );
                }
            }
        }
    }

    #[test]
    fn node_weights_sum_to_the_time_span() {
        for solver in Solver::defaults() {
            for path in ProbabilityPath::defaults() {
                for to_prior in [true, false] {
                    let model = gaussian(path.curve().expect("defaults are right"), 2);
                    let span = TimeSpan {
                        curve: &model.curve,
                        to_prior,
                    };
                    let (start, end) = (span.start(), span.end());
                    // Adaptive steps on a `discrete` path use −ln α as the integration variable
                    // instead of time.
                    let in_log_alpha =
                        path.kind() == "discrete" && solver.fixed_evaluations().is_none();
                    let at = |t: f64| model.curve.at(t);
                    let rate = |t: f64| {
                        if in_log_alpha {
                            -at(t).alpha_dot / at(t).alpha
                        } else {
                            1.0
                        }
                    };
                    let expected = if in_log_alpha {
                        (at(start).alpha / at(end).alpha).ln()
                    } else {
                        end - start
                    };
                    let (mut sum, mut first, mut count) = (0.0, f64::NAN, 0);
                    let x = flow_map(&model, &draws(&model, 1), model.curve.data_end(), start);
                    let visit = &mut |nodes: &Nodes| {
                        assert_eq!(nodes.node[0], count, "{solver:?} {path:?}");
                        let outside =
                            (nodes.t[0] - nodes.t[0].clamp(start.min(end), start.max(end))).abs();
                        assert!(
                            outside <= f64::EPSILON * end.max(start),
                            "{solver:?} {path:?}: {outside}"
                        );
                        first = if count == 0 { nodes.t[0] } else { first };
                        (sum, count) = (sum + nodes.weight[0] * rate(nodes.t[0]), count + 1);
                        Ok(())
                    };
                    let solution = solver
                        .solve(&mut model.clone(), &[0], x, span, visit)
                        .expect("analytic");
                    assert_eq!(solution.status[0], Status::Ok, "{solver:?} {path:?}");
                    assert!(
                        (sum - expected).abs() < 1e-9 * expected.abs(),
                        "{solver:?} {path:?}: {sum}"
                    );
                    assert!(
                        solver.name() == "midpoint" || (first - start).abs() < 1e-12,
                        "{solver:?} {path:?}"
                    );
                    assert!(
                        solver.fixed_node_count().is_none_or(|n| n == count),
                        "{solver:?} {count}"
                    );
                }
            }
        }
    }

    #[test]
    fn evaluation_counts_match_velocity_calls() {
        struct Counting(AnalyticMixture, u64);
        impl VectorField for Counting {
            fn dim(&self) -> usize {
                2
            }
            fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
                let Points { t, .. } = at;
                self.1 += t.len() as u64;
                self.0.velocity(at)
            }
        }
        for solver in Solver::defaults() {
            let model = analytic::example_mixture(curve("{kind: edm, sigma_min: 0.01}"), 2);
            let span = TimeSpan {
                curve: &model.curve,
                to_prior: true,
            };
            let (x, mut counting) = (draws(&model, 4), Counting(model.clone(), 0));
            let solution = solver
                .solve(&mut counting, &[0, 1, 2, 3], x, span, &mut |_| Ok(()))
                .expect("analytic");
            assert_eq!(
                solution.evaluations.iter().sum::<u64>(),
                counting.1,
                "{solver:?}"
            );
            assert!(
                solver
                    .fixed_evaluations()
                    .is_none_or(|e| solution.evaluations.iter().all(|s| *s == e)),
                "{solver:?}"
            );
        }
    }

    /// Compares both directions of travel with the known flow map.
    #[test]
    fn solvers_match_the_gaussian_flow_in_both_directions() {
        let specs = [
            "{euler: {steps: N}}",
            "{midpoint: {steps: N}}",
            "{heun: {steps: N}}",
            "{rk4: {steps: N}}",
        ];
        for (spec, order, steps) in specs
            .iter()
            .zip([1.0, 2.0, 2.0, 4.0])
            .zip([800, 200, 200, 60])
            .map(|((s, o), n)| (s, o, n))
        {
            for path in [
                "{kind: vp, t_min: 0.01}",
                "{kind: cosine, t_min: 0.05, t_max: 0.9}",
                "{kind: edm, sigma_min: 0.05}",
            ] {
                for to_prior in [true, false] {
                    let error = |steps: usize| {
                        one_way(
                            &read(&spec.replace('N', &steps.to_string())),
                            path,
                            to_prior,
                        )
                    };
                    let observed = (error(steps) / error(2 * steps)).log2();
                    // Some methods solve the flow of a Gaussian with a higher order than on other
                    // fields.
                    assert!(
                        observed > order - 0.25,
                        "{spec} {path} {to_prior}: {observed}"
                    );
                }
            }
        }
        for solver in adaptive(1e-8) {
            for path in ProbabilityPath::defaults() {
                let path = serde_json::to_string(&path).expect("serializes");
                for to_prior in [true, false] {
                    let error = one_way(&solver, &path, to_prior);
                    assert!(error < 1e-5, "{solver:?} {path} {to_prior}: {error}");
                }
            }
        }
    }

    /// The largest error at the end of a path, in units of the standard deviation there.
    fn one_way(solver: &Solver, path: &str, to_prior: bool) -> f64 {
        let model = gaussian(curve(path), 2);
        let span = TimeSpan {
            curve: &model.curve,
            to_prior,
        };
        let start = flow_map(
            &model,
            &draws(&model, 3),
            model.curve.data_end(),
            span.start(),
        );
        let end = model.curve.at(span.end());
        let std = (end.alpha * end.alpha * model.variances[0] + end.sigma * end.sigma).sqrt();
        let gap = &solve(solver, &model, &start, to_prior).0.x
            - &flow_map(&model, &start, span.start(), span.end());
        gap.iter().fold(0.0, |a: f64, e| a.max(e.abs())) / std
    }

    /// Test case T2: Gaussian data of variances ¼, 1 and 4. The flow map of each axis and the
    /// integral are known.
    #[test]
    fn diagonal_gaussian_matches_reference_integrals() {
        struct Diagonal(PathCurve);
        const AXES: [(f64, f64, f64); 3] = [(0.25, 0.5, 0.7), (1.0, -1.0, 0.3), (4.0, 0.0, -2.0)];
        impl Diagonal {
            /// ½S'/S, α' and S of one axis.
            fn axis(&self, t: f64, variance: f64) -> (f64, f64, f64) {
                let s = self.0.at(t);
                let spread = s.alpha * s.alpha * variance + s.sigma * s.sigma;
                (
                    (s.alpha * s.alpha_dot * variance + s.sigma * s.sigma_dot) / spread,
                    s.alpha_dot,
                    spread,
                )
            }
        }
        impl VectorField for Diagonal {
            fn dim(&self) -> usize {
                3
            }
            fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
                let Points { t, x, .. } = at;
                Ok(Batch::from_shape_fn(x.raw_dim(), |(i, j)| {
                    let ((variance, mean, _), alpha) = (AXES[j], self.0.at(t[i]).alpha);
                    let (slope, alpha_dot, _) = self.axis(t[i], variance);
                    alpha_dot * mean + slope * (x[[i, j]] - alpha * mean)
                }))
            }
        }
        for (path, expected, digits) in [
            ("{kind: vp, t_min: 1.0e-3}", -7.50785e-5, 1e-9),
            (
                "{kind: edm, sigma_min: 0.02, sigma_max: 20}",
                8.992683510,
                1e-9,
            ),
            (
                "{kind: flow-matching, t_min: 1.0e-3, t_max: 0.98}",
                -0.0565166959,
                1e-10,
            ),
        ] {
            let mut field = Diagonal(curve(path));
            let known = Diagonal(curve(path));
            let span = TimeSpan {
                curve: &known.0,
                to_prior: true,
            };
            for solver in adaptive(1e-11).iter().filter(|s| s.name() != "bosh3") {
                let mut integral = 0.0;
                let x = Batch::from_shape_fn((1, 3), |(_, j)| AXES[j].2);
                let visit = &mut |nodes: &Nodes| {
                    integral += nodes.weight[0]
                        * AXES
                            .iter()
                            .map(|a| known.axis(nodes.t[0], a.0).0)
                            .sum::<f64>();
                    Ok(())
                };
                let end = solver
                    .solve(&mut field, &[0], x, span, visit)
                    .expect("analytic")
                    .x;
                assert!(
                    (integral - expected).abs() < digits,
                    "{solver:?} {path}: {integral}"
                );
                for (j, (variance, mean, start)) in AXES.into_iter().enumerate() {
                    let (first, last) = (known.0.at(span.start()), known.0.at(span.end()));
                    let stretch =
                        known.axis(span.end(), variance).2 / known.axis(span.start(), variance).2;
                    let want = last.alpha * mean + stretch.sqrt() * (start - first.alpha * mean);
                    assert!(
                        (end[[0, j]] - want).abs() < 1e-8 * want.abs().max(1.0),
                        "{solver:?} {path} {j}"
                    );
                }
            }
        }
    }

    /// Test case T3: two Gaussians in one dimension, whose quantiles the flow preserves. The
    /// reference values are exact to their last digit.
    #[test]
    fn mixture_on_a_line_matches_reference_values() {
        let starts = [-1.1, 0.1, 0.9];
        for (path, ends, densities) in [
            (
                "{kind: vp, t_min: 1.0e-3}",
                [-1.323186529, -0.502953223, 0.649313587],
                [-0.639599157, -2.791051194, -0.127738879],
            ),
            (
                "{kind: edm, sigma_min: 0.02, sigma_max: 20}",
                [-26.236457683, -9.838759154, 13.213064396],
                [-0.642210963, -2.784031941, -0.129167706],
            ),
            (
                "{kind: flow-matching, t_min: 1.0e-3, t_max: 0.98}",
                [-1.297085204, -0.489504820, 0.642390321],
                [-0.640250154, -2.792056530, -0.127206175],
            ),
        ] {
            let model = AnalyticMixture {
                curve: curve(path),
                weights: vec![0.3, 0.7],
                means: ndarray::array![[-1.0], [0.8]],
                variances: vec![0.04, 0.09],
            };
            let x = Batch::from_shape_fn((3, 1), |(i, _)| starts[i]);
            for solver in adaptive(1e-12).iter().filter(|s| s.name() != "bosh3") {
                let (solution, integral) = solve(solver, &model, &x, true);
                for i in 0..3 {
                    let end = solution.x[[i, 0]];
                    assert!(
                        (end - ends[i]).abs() < 1e-9,
                        "{solver:?} {path}: {end} {}",
                        ends[i]
                    );
                    let density =
                        integral[i] + model.log_density(model.curve.prior_end(), solution.x.row(i));
                    assert!(
                        (density - densities[i]).abs() < 1e-9,
                        "{solver:?} {path}: {density} {}",
                        densities[i]
                    );
                }
            }
        }
    }

    #[test]
    fn errors_are_proportional_to_the_tolerance() {
        let model = analytic::example_mixture(curve("{kind: vp, t_min: 1.0e-3}"), 4);
        let x = draws(&model, 6);
        let (truth, _) = solve(
            &read("{dop853: {rtol: 1e-13, atol: 1e-13}}"),
            &model,
            &x,
            true,
        );
        for name in ["bosh3", "dopri5", "tsit5", "dop853"] {
            let error = |tolerance: f64| {
                let solver = adaptive(tolerance)
                    .into_iter()
                    .find(|s| s.name() == name)
                    .expect("listed");
                let (ids, span) = (
                    (0..6).collect::<Vec<u64>>(),
                    TimeSpan {
                        curve: &model.curve,
                        to_prior: true,
                    },
                );
                let state = solver
                    .solve(&mut model.clone(), &ids, x.clone(), span, &mut |_| Ok(()))
                    .expect("analytic");
                let gaps: Vec<f64> = (&state.x - &truth.x).into_iter().collect();
                stats::rms(&gaps).expect("six samples")
            };
            let (coarse, fine) = (error(1e-4), error(1e-8));
            let slope = (coarse / fine).log10() / 4.0;
            assert!(
                (0.7..1.3).contains(&slope),
                "{name}: error ∝ tolerance^{slope}"
            );
            assert!(coarse < 1e-2 && fine < 1e-6, "{name}: {coarse} {fine}");
        }
    }

    /// Every controller reaches the same end state within its tolerance, and their costs are
    /// similar.
    #[test]
    fn controllers_agree_on_end_states() {
        let model = analytic::example_mixture(curve("{kind: edm, sigma_min: 0.01}"), 3);
        let x = draws(&model, 4);
        let truth = solve(
            &read("{dop853: {rtol: 1e-12, atol: 1e-12}}"),
            &model,
            &x,
            true,
        )
        .0
        .x;
        for name in ["bosh3", "dopri5", "tsit5", "dop853"] {
            let run = |controller: &str| {
                let spec =
                    format!("{{{name}: {{rtol: 1e-6, atol: 1e-6, controller: {controller}}}}}");
                let solution = solve(&read(&spec), &model, &x, true).0;
                let worst = (&solution.x - &truth)
                    .iter()
                    .fold(0.0, |a: f64, e| a.max(e.abs()));
                assert!(worst < 1e-3, "{spec}: {worst}");
                assert!(solution.status.iter().all(|s| *s == Status::Ok), "{spec}");
                solution
            };
            let pi = run("pi");
            assert_eq!(
                run("{coefficients: [0.4, 0.3, 0]}").evaluations,
                pi.evaluations,
                "{name}"
            );
            for other in ["pid", "{coefficients: [0, 1, 0]}"] {
                let ratio = run(other).evaluations[0] as f64 / pi.evaluations[0] as f64;
                assert!((0.5..2.0).contains(&ratio), "{name} {other}: {ratio}");
            }
        }
        // On an easy path the quadrature bound limits every step; on a hard path the controller
        // does.
        struct Waves;
        impl VectorField for Waves {
            fn dim(&self) -> usize {
                1
            }
            fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
                let Points { t, x, .. } = at;
                Ok(Batch::from_shape_fn(x.raw_dim(), |(i, _)| {
                    20.0 * (200.0 * t[i] * t[i]).cos()
                }))
            }
        }
        let curve = curve("{kind: flow-matching}");
        let hard = |controller: &str| {
            let spec = format!("{{dopri5: {{rtol: 1e-6, atol: 1e-6, controller: {controller}}}}}");
            let (x, span) = (
                ndarray::array![[1.0]],
                TimeSpan {
                    curve: &curve,
                    to_prior: true,
                },
            );
            let solution = read(&spec)
                .solve(&mut Waves, &[0], x, span, &mut |_| Ok(()))
                .expect("mock");
            assert_eq!(solution.status[0], Status::Ok, "{spec}");
            solution.evaluations[0]
        };
        assert_ne!(hard("pi"), hard("pid"));
    }

    #[test]
    fn empty_batches_and_zero_dimensions_are_solved() {
        let model = analytic::example_mixture(curve("{kind: vp}"), 3);
        struct Still;
        impl VectorField for Still {
            fn dim(&self) -> usize {
                0
            }
            fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
                let Points { x, .. } = at;
                Ok(Batch::zeros(x.raw_dim()))
            }
        }
        let span = TimeSpan {
            curve: &model.curve,
            to_prior: true,
        };
        for solver in Solver::defaults() {
            let none = solver
                .solve(
                    &mut model.clone(),
                    &[],
                    Batch::zeros((0, 3)),
                    span,
                    &mut |_| Ok(()),
                )
                .expect("no rows");
            assert!(
                none.status.is_empty() && none.x.dim() == (0, 3),
                "{solver:?}"
            );
            let flat = solver
                .solve(&mut Still, &[0, 1], Batch::zeros((2, 0)), span, &mut |_| {
                    Ok(())
                })
                .expect("no columns");
            assert_eq!(flat.status, [Status::Ok, Status::Ok], "{solver:?}");
        }
    }

    /// Four fields in one batch, selected by the state's first coordinate. Each path ends with a
    /// different status.
    struct Mixed;

    impl VectorField for Mixed {
        fn dim(&self) -> usize {
            2
        }
        fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
            let Points { t, x, .. } = at;
            let mut v = Batch::zeros(x.raw_dim());
            for (i, t) in t.iter().enumerate() {
                v[[i, 1]] = match x[[i, 0]].round() {
                    1.0 => {
                        if *t > 0.5 {
                            f64::NAN
                        } else {
                            1.0
                        }
                    }
                    // The solution diverges before t = 1/2.
                    2.0 => 2.0 * x[[i, 1]] * x[[i, 1]],
                    // Two thousand oscillations need many steps, and each step is valid.
                    3.0 => 1e4 * (12566.0 * t).cos(),
                    _ => x[[i, 1]],
                };
            }
            Ok(v)
        }
    }

    #[test]
    fn each_sample_has_its_own_status() {
        let curve = curve("{kind: flow-matching}");
        let span = TimeSpan {
            curve: &curve,
            to_prior: true,
        };
        let x = ndarray::array![
            [0.0, 1.0],
            [1.0, 1.0],
            [2.0, 1.0],
            [3.0, 1.0],
            [0.0, f64::NAN]
        ];
        for solver in adaptive(1e-6) {
            let spec = serde_json::to_string(&solver)
                .expect("serializes")
                .replace("10000", "3000");
            let solution = read(&spec)
                .solve(&mut Mixed, &[0, 1, 2, 3, 4], x.clone(), span, &mut |_| {
                    Ok(())
                })
                .expect("mock");
            let expected = [
                Status::Ok,
                Status::NonFinite,
                Status::StepTooSmall,
                Status::MaxSteps,
                Status::NonFinite,
            ];
            assert_eq!(solution.status, expected, "{spec}");
            assert!((solution.x[[0, 1]] - 1f64.exp()).abs() < 1e-4, "{spec}");
        }
        for solver in Solver::defaults()
            .iter()
            .filter(|s| s.fixed_evaluations().is_some())
        {
            let solution = solver
                .solve(&mut Mixed, &[0, 1, 2, 3, 4], x.clone(), span, &mut |_| {
                    Ok(())
                })
                .expect("mock");
            assert_eq!(
                (solution.status[0], solution.status[1]),
                (Status::Ok, Status::NonFinite),
                "{solver:?}"
            );
            assert_eq!(solution.status[4], Status::NonFinite, "{solver:?}");
        }
    }

    #[test]
    fn invalid_solver_parameters_are_refused_by_key() {
        let curve = curve("{kind: vp}");
        let span = TimeSpan {
            curve: &curve,
            to_prior: true,
        };
        for solver in Solver::defaults() {
            let name = solver.name();
            assert!(solver.check(span).is_ok(), "{name}");
            let wrong: &[(&str, &str)] = match solver.fixed_evaluations() {
                Some(_) => &[
                    ("steps: 0", "steps"),
                    ("steps: 8, tol: 0.1", "tol"),
                    ("steps: auto, tol: .nan", "tol"),
                ],
                None => &[
                    ("rtol: 0, atol: 0", "rtol"),
                    ("rtol: -1e-6", "rtol"),
                    ("atol: -1e-6", "atol"),
                    ("atol: .inf", "atol"),
                    ("tol: 0", "tol"),
                    ("tol: .inf", "tol"),
                    ("tol: 1e-3, rtol: 1e-6", "tol"),
                    ("clock: 0", "clock"),
                    ("clock: -1e-3", "clock"),
                    ("max_steps: 0", "max_steps"),
                    ("controller: {coefficients: [0.4, 0, 0]}", "controller"),
                    ("controller: {coefficients: [0.4, .nan, 0]}", "controller"),
                ],
            };
            for (parameters, key) in wrong {
                let refusal = read(&format!("{{{name}: {{{parameters}}}}}"))
                    .check(span)
                    .expect_err(parameters);
                assert!(
                    refusal.contains(key) && refusal.contains("expected"),
                    "{name}: {refusal}"
                );
            }
        }
    }

    /// At a tolerance of 1e-6, log-likelihoods from the exact trace are right to 2e-3 nats. The
    /// data are wide, narrow or in several modes.
    #[test]
    fn divergence_error_is_within_the_state_tolerance() {
        let paths = [
            "{kind: edm, sigma_min: 0.002}",
            "{kind: edm, sigma_min: 0.02}",
            "{kind: ve}",
            "{kind: vp}",
            "{kind: sub-vp}",
            "{kind: cosine}",
            "{kind: discrete}",
            "{kind: flow-matching, data_at: 0}",
            "{kind: flow-matching, data_at: 1}",
            "{kind: flow-matching, data_at: 1, t_min: 0.001, t_max: 0.99}",
        ];
        for path in paths {
            let curve = curve(path);
            let prior = Prior::isotropic(curve.prior_std());
            let narrow = AnalyticMixture {
                variances: vec![1e-4, 1e-6, 1e-2],
                ..analytic::example_mixture(curve.clone(), 8)
            };
            let examples = [2, 8, 64].map(|d| analytic::example_mixture(curve.clone(), d));
            for model in examples.into_iter().chain([narrow]) {
                let x = draws(&model, 4);
                let end = solve(
                    &read("{dop853: {rtol: 1e-12, atol: 1e-12}}"),
                    &model,
                    &x,
                    true,
                )
                .0
                .x;
                let (first, last, log_prior) =
                    (curve.data_end(), curve.prior_end(), prior.log_density(&end));
                for solver in adaptive(1e-6) {
                    let (solution, integral) = solve(&solver, &model, &x, true);
                    for (i, ours) in prior.log_density(&solution.x).iter().enumerate() {
                        let known = model.log_density(first, x.row(i))
                            - model.log_density(last, end.row(i));
                        let error = ours + integral[i] - log_prior[i] - known;
                        assert!(
                            error.abs() < 2e-3,
                            "{solver:?} {path} {:?}: {error} nats",
                            model.variances
                        );
                    }
                }
            }
        }
    }
}
