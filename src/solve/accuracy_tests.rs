//! Tests that errors stay within the tolerance on smooth and kinked networks, at few evaluations,
//! and that the estimated errors are realistic.

use ndarray::{Array1, Array2, Axis, s};

use super::*;
use crate::flow::field::{Evaluation, EvaluationPurpose, Points};
use crate::flow::path::ProbabilityPath;
use crate::flow::prior::Prior;
use crate::num::key::{Purpose, RngKey};

/// The activation functions of a network, with their derivatives.
#[derive(Debug, Clone, Copy)]
enum Activation {
    Tanh,
    Silu,
    Relu,
    Elu,
    Selu,
}

impl Activation {
    fn at(self, u: f64) -> (f64, f64) {
        match self {
            Activation::Tanh => (u.tanh(), 1.0 - u.tanh().powi(2)),
            Activation::Silu => {
                let g = 1.0 / (1.0 + (-u).exp());
                (u * g, g * (1.0 + u * (1.0 - g)))
            }
            Activation::Relu => (u.max(0.0), f64::from(u8::from(u > 0.0))),
            Activation::Elu if u > 0.0 => (u, 1.0),
            Activation::Elu => (u.exp_m1(), u.exp()),
            Activation::Selu if u > 0.0 => (1.0507009873554805 * u, 1.0507009873554805),
            Activation::Selu => (
                1.7580993408473766 * u.exp_m1(),
                1.7580993408473766 * u.exp(),
            ),
        }
    }
}

/// A perceptron of state and time with random weights. Its exact trace controls the steps.
#[derive(Debug, Clone)]
struct Perceptron {
    layers: Vec<(Array2<f64>, Array1<f64>)>,
    activation: Activation,
    dim: usize,
}

impl Perceptron {
    fn new(
        dim: usize,
        width: usize,
        hidden: usize,
        activation: Activation,
        gain: f64,
        seed: u64,
    ) -> Perceptron {
        let sizes: Vec<usize> = [vec![dim + 1], vec![width; hidden], vec![dim]].concat();
        let layer = |(i, pair): (usize, &[usize])| {
            let draws =
                RngKey { seed }.normal(Purpose::Check, i as u64, 0, pair[1] * (pair[0] + 1));
            let weights =
                draws.slice(s![..pair[0] * pair[1]]).to_owned() * (gain / (pair[0] as f64).sqrt());
            let weights = weights
                .into_shape_with_order((pair[1], pair[0]))
                .expect("a matrix");
            (
                weights,
                draws.slice(s![pair[0] * pair[1]..]).to_owned() * 0.3,
            )
        };
        Perceptron {
            layers: sizes.windows(2).enumerate().map(layer).collect(),
            activation,
            dim,
        }
    }

    /// The velocity and the trace of its Jacobian.
    fn both(&self, t: f64, x: ndarray::ArrayView1<f64>) -> (Array1<f64>, f64) {
        let mut a = Array1::from_iter(x.iter().copied().chain([t]));
        let mut jacobian = Array2::eye(self.dim + 1).slice_move(s![.., ..self.dim]);
        for (i, (weights, shift)) in self.layers.iter().enumerate() {
            (a, jacobian) = (weights.dot(&a) + shift, weights.dot(&jacobian));
            if i + 1 < self.layers.len() {
                for (j, u) in a.iter_mut().enumerate() {
                    let (value, slope) = self.activation.at(*u);
                    *u = value;
                    jacobian.row_mut(j).mapv_inplace(|v| v * slope);
                }
            }
        }
        (a, jacobian.diag().sum())
    }
}

impl VectorField for Perceptron {
    fn dim(&self) -> usize {
        self.dim
    }

    fn is_smooth(&self) -> bool {
        matches!(self.activation, Activation::Tanh | Activation::Silu)
    }

    fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
        Ok(self.evaluate(EvaluationPurpose::StepControl, at)?.velocity)
    }

    fn evaluate(&mut self, _: EvaluationPurpose, at: Points) -> Result<Evaluation, EvalError> {
        let Points { t, x, .. } = at;
        let (mut v, mut traces) = (Batch::zeros(x.raw_dim()), Vec::new());
        for (i, mut row) in v.rows_mut().into_iter().enumerate() {
            let (velocity, trace) = self.both(t[i], x.row(i));
            row.assign(&velocity);
            traces.push(trace);
        }
        Ok(Evaluation {
            velocity: v,
            divergence: Some(traces),
            products: None,
        })
    }
}

/// Coordinate 0 is the time. Every other coordinate stays below a threshold until the time passes
/// it; there the divergence jumps by the coordinate's rate: x₀' = 1, xⱼ' = rⱼ·max(x₀ + xⱼ − aⱼ, 0).
#[derive(Debug, Clone)]
struct Ramps(Vec<(f64, f64)>);

impl Ramps {
    fn new(count: usize, seed: u64) -> Ramps {
        let one = |i: usize| {
            let u = RngKey { seed }.uniform(Purpose::Check, i as u64, 0, 2);
            (4.0 * u[0] - 2.0, u[1])
        };
        Ramps((0..count).map(one).collect())
    }

    /// The solution from the origin at time 0 to time 1. With y = x₀ + xⱼ − aⱼ the equation is y' =
    /// 1 + r·max(y, 0).
    fn truth(&self) -> (Array1<f64>, f64) {
        let mut end = Array1::ones(self.0.len() + 1);
        for (j, (rate, place)) in self.0.iter().enumerate() {
            let left = 1.0 - place;
            end[j + 1] = (rate * left).exp_m1() / rate - left;
        }
        (
            end,
            self.0
                .iter()
                .map(|(rate, place)| rate * (1.0 - place))
                .sum(),
        )
    }
}

impl VectorField for Ramps {
    fn dim(&self) -> usize {
        self.0.len() + 1
    }

    fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
        let Points { x, .. } = at;
        let behind = |row: usize, j: usize| x[[row, 0]] + x[[row, j]] - self.0[j - 1].1;
        Ok(Batch::from_shape_fn(x.raw_dim(), |(i, j)| {
            if j == 0 {
                1.0
            } else {
                self.0[j - 1].0 * behind(i, j).max(0.0)
            }
        }))
    }

    fn evaluate(&mut self, _: EvaluationPurpose, at: Points) -> Result<Evaluation, EvalError> {
        let Points { x, .. } = at;
        let passed = |row: ndarray::ArrayView1<f64>| {
            let rate = |(j, (rate, place)): (usize, &(f64, f64))| {
                if row[0] + row[j + 1] > *place {
                    *rate
                } else {
                    0.0
                }
            };
            self.0.iter().enumerate().map(rate).sum()
        };
        let traces = x.rows().into_iter().map(passed).collect();
        Ok(Evaluation {
            velocity: self.velocity(at)?,
            divergence: Some(traces),
            products: None,
        })
    }
}

/// log p of each row and the solver's estimate of its error, from the divergence that controls the
/// steps.
fn solve(solver: &str, field: &mut dyn VectorField, x: &Batch) -> (Vec<f64>, Solution) {
    let solver: Solver = serde_yaml::from_str(solver).expect(solver);
    let curve = ProbabilityPath::FlowMatching {
        data_at: 0,
        t_min: 0.0,
        t_max: 1.0,
    }
    .curve()
    .expect("a path");
    let span = TimeSpan {
        curve: &curve,
        to_prior: true,
    };
    let ids: Vec<u64> = (0..x.nrows() as u64).collect();
    let mut integral = vec![0.0; x.nrows()];
    let solution = solver
        .solve(field, &ids, x.clone(), span, &mut |nodes: &Nodes| {
            for (i, slot) in nodes.batch_index.iter().enumerate() {
                integral[*slot] += nodes.weight[i] * nodes.divergence.expect("it controls")[i];
            }
            Ok(())
        })
        .expect("analytic");
    assert!(
        solution.status.iter().all(|s| *s == Status::Ok),
        "{solver:?} {:?}",
        solution.status
    );
    let prior = Prior::isotropic(1.0).log_density(&solution.x);
    (
        prior.iter().zip(&integral).map(|(p, i)| p + i).collect(),
        solution,
    )
}

fn normal(rows: usize, dim: usize) -> Batch {
    let mut x = Batch::zeros((rows, dim));
    for (i, mut row) in x.rows_mut().into_iter().enumerate() {
        row.assign(&RngKey { seed: 4 }.normal(Purpose::Check, i as u64, 1, dim));
    }
    x
}

fn worst(a: &[f64], b: &[f64]) -> f64 {
    a.iter()
        .zip(b)
        .fold(0.0, |m: f64, (a, b)| m.max((a - b).abs()))
}

fn mean(counts: &[u64]) -> f64 {
    counts.iter().sum::<u64>() as f64 / counts.len() as f64
}

/// Two stages of Dormand & Prince have a wide gap; their error weights hardly detect a jump in it.
#[test]
fn simpson_rule_shows_jumps_that_embedded_pairs_miss() {
    for (tableau, blind) in [
        (&tableau::BOSH3, 0.2),
        (&tableau::DOPRI5, 0.9),
        (&tableau::TSIT5, 0.9),
    ] {
        let Some(tableau::EmbeddedErrorWeights::One(weights)) = &tableau.error_weights else {
            panic!("one estimate")
        };
        let (mut unseen, mut unseen_still, n) = (0, 0, 1000);
        for i in 0..n {
            let place = (f64::from(i) + 0.5) / f64::from(n);
            let over = |w: &[f64]| {
                w.iter()
                    .zip(tableau.c)
                    .filter(|(_, c)| **c > place)
                    .map(|(w, _)| w)
                    .sum::<f64>()
            };
            let (quadrature, embedded) = (over(tableau.b), over(weights).abs());
            let simpson = 1.0 / 6.0 + if place < 0.5 { 4.0 / 6.0 } else { 0.0 };
            let error = (quadrature - (1.0 - place)).abs();
            unseen += u32::from(error > 3.0 * embedded);
            let either = embedded.max((quadrature - simpson).abs());
            unseen_still += u32::from(error > 3.0 * either);
            assert!(error < 4.1 * either, "{} at {place}", tableau.order);
        }
        assert!(
            f64::from(unseen) > blind * f64::from(n)
                && f64::from(unseen_still) < 0.1 * f64::from(n)
        );
    }
}

#[test]
fn smooth_flows_take_few_evaluations() {
    let field = Perceptron::new(32, 64, 2, Activation::Tanh, 1.0, 1);
    let x = normal(6, 32);
    let (truth, _) = solve(
        "{dop853: {rtol: 1e-12, atol: 1e-12}}",
        &mut field.clone(),
        &x,
    );
    for (solver, most, allowed) in [
        ("{dopri5: {rtol: 1e-3, atol: 1e-3}}", 24, 5e-3),
        ("{dopri5: {rtol: 1e-5, atol: 1e-5}}", 32, 1e-4),
        ("{dopri5: {tol: 1e-3}}", 40, 5e-3),
    ] {
        let (values, solution) = solve(solver, &mut field.clone(), &x);
        let error = worst(&values, &truth);
        println!(
            "{solver}: {error:.1e} nats, {:?} evaluations, estimated {:?}",
            solution.evaluations, solution.solver_error[0]
        );
        assert!(error <= allowed, "{solver}: {error}");
        assert!(
            solution.evaluations.iter().all(|n| *n <= most),
            "{solver}: {:?}",
            solution.evaluations
        );
    }
}

/// Jumps at known positions, in a field whose log p is known.
#[test]
fn jumps_at_known_places_meet_the_tolerance() {
    let (mut covered, mut within, mut all) = (0, 0, 0);
    for seed in 0..4 {
        let field = Ramps::new(12, seed);
        let (end, integral) = field.truth();
        let truth = Prior::isotropic(1.0).log_density(&end.insert_axis(Axis(0)))[0] + integral;
        for name in ["bosh3", "dopri5", "tsit5", "dop853"] {
            for tol in [1e-2, 1e-4, 1e-6] {
                let spec = format!("{{{name}: {{tol: {tol:e}}}}}");
                let (values, solution) = solve(&spec, &mut field.clone(), &Batch::zeros((1, 13)));
                let (error, estimated) = (
                    (values[0] - truth).abs(),
                    solution.solver_error[0].expect("estimated"),
                );
                println!(
                    "{seed} {spec}: {error:.1e}, estimated {estimated:.1e}, {} evaluations",
                    solution.evaluations[0]
                );
                // No check detects two jumps between neighbouring positions that cancel each other.
                within += u32::from(error <= 5.0 * tol);
                all += 1;
                covered += u32::from(error <= 3.0 * estimated + 1e-9);
                // Each of the twelve jumps takes a few steps and a bisection; not every step
                // becomes short.
                let most = if name == "dop853" { 2800 } else { 1500 };
                assert!(
                    solution.evaluations[0] < most,
                    "{spec}: {}",
                    solution.evaluations[0]
                );
            }
        }
    }
    println!(
        "{within} within the tolerance and {covered} within three times the estimate, of {all}"
    );
    assert!(
        f64::from(covered.min(within)) >= 0.9 * f64::from(all),
        "{within} and {covered} of {all}"
    );
}

/// On perceptrons, the error is within five times the requested tolerance in nats, and the
/// estimated error is realistic.
#[test]
fn adaptive_solver_error_covers_true_error_on_networks() {
    let kinds = [
        Activation::Tanh,
        Activation::Silu,
        Activation::Relu,
        Activation::Elu,
        Activation::Selu,
    ];
    let (mut covered, mut within, mut all) = (0, 0, 0);
    for (i, activation) in kinds.into_iter().enumerate() {
        for (dim, gain) in [(3, 1.5), (8, 1.2)] {
            let field = Perceptron::new(dim, 32, 2, activation, gain, 10 + i as u64);
            let x = normal(6, dim);
            let (truth, _) = solve(
                "{dopri5: {tol: 1e-7, max_steps: 100000}}",
                &mut field.clone(),
                &x,
            );
            for tol in [1e-1, 1e-2, 1e-3, 1e-4] {
                for name in ["dopri5", "tsit5", "bosh3"] {
                    let spec = format!("{{{name}: {{tol: {tol:e}}}}}");
                    let (values, solution) = solve(&spec, &mut field.clone(), &x);
                    let error = worst(&values, &truth);
                    let n = mean(&solution.evaluations);
                    let estimated = solution
                        .solver_error
                        .iter()
                        .flatten()
                        .fold(0.0, |m: f64, e| m.max(*e));
                    println!(
                        "{activation:?} {dim} {spec}: {error:.1e} nats, estimated {estimated:.1e}, {n:.0} evaluations"
                    );
                    for (j, estimated) in solution.solver_error.iter().enumerate() {
                        all += 1;
                        within += u32::from((values[j] - truth[j]).abs() <= 5.0 * tol);
                        covered += u32::from(
                            (values[j] - truth[j]).abs()
                                <= 3.0 * estimated.expect("estimated") + 1e-7,
                        );
                    }
                }
            }
        }
    }
    println!(
        "{within} within the tolerance and {covered} within three times the estimate, of {all}"
    );
    assert!(
        f64::from(covered.min(within)) >= 0.95 * f64::from(all),
        "{within} and {covered} of {all}"
    );
}

/// On the same networks with fixed steps, whose score is not known, the estimated error is
/// realistic in spite of jumps.
#[test]
fn fixed_step_error_covers_true_error_on_networks() {
    let kinds = [
        Activation::Tanh,
        Activation::Silu,
        Activation::Relu,
        Activation::Elu,
        Activation::Selu,
    ];
    for name in ["euler", "midpoint", "heun", "rk4"] {
        let (mut covered, mut all) = (0, 0);
        for (i, activation) in kinds.into_iter().enumerate() {
            for (dim, gain) in [(3, 1.5), (8, 1.2)] {
                let field = Perceptron::new(dim, 32, 2, activation, gain, 10 + i as u64);
                let x = normal(6, dim);
                let (truth, _) = solve(
                    "{dopri5: {tol: 1e-7, max_steps: 100000}}",
                    &mut field.clone(),
                    &x,
                );
                for steps in [10, 20, 40, 100] {
                    let (values, estimated) =
                        fixed(&format!("{{{name}: {{steps: {steps}}}}}"), &field, &x);
                    let rms =
                        |v: &[f64]| (v.iter().map(|v| v * v).sum::<f64>() / v.len() as f64).sqrt();
                    let errors: Vec<f64> = values
                        .iter()
                        .zip(&truth)
                        .map(|(a, b)| (a - b).abs())
                        .collect();
                    println!(
                        "{activation:?} {dim} {name} {steps}: {:.1e}, estimated {:.1e}",
                        rms(&errors),
                        rms(&estimated)
                    );
                    covered += errors
                        .iter()
                        .zip(&estimated)
                        .filter(|(error, estimated)| **error <= 3.0 * **estimated + 1e-7)
                        .count();
                    all += estimated.len();
                }
            }
        }
        println!("{name}: {covered} of {all}");
        assert!(
            covered as f64 >= 0.93 * all as f64,
            "{name}: {covered} of {all}"
        );
    }
}

/// log p of each row by fixed steps and the exact trace, and the estimate of its error.
fn fixed(solver: &str, field: &Perceptron, x: &Batch) -> (Vec<f64>, Vec<f64>) {
    let solver: Solver = serde_yaml::from_str(solver).expect(solver);
    let curve = ProbabilityPath::FlowMatching {
        data_at: 0,
        t_min: 0.0,
        t_max: 1.0,
    }
    .curve()
    .expect("a path");
    let span = TimeSpan {
        curve: &curve,
        to_prior: true,
    };
    let ids: Vec<u64> = (0..x.nrows() as u64).collect();
    let (mut integral, mut seen) = (Array1::<f64>::zeros(x.nrows()), Vec::new());
    let visit = &mut |nodes: &Nodes| {
        let traces = field
            .clone()
            .evaluate(EvaluationPurpose::StepControl, nodes.points())?
            .divergence
            .expect("a trace");
        integral = &integral + &(Array1::from(traces.clone()) * nodes.weight[0]);
        seen.extend(traces);
        Ok(())
    };
    let solution = solver
        .solve(&mut field.clone(), &ids, x.clone(), span, visit)
        .expect("analytic");
    let seen =
        Array2::from_shape_vec((seen.len() / x.nrows(), x.nrows()), seen).expect("nodes × rows");
    let estimated = solution
        .fixed_step_error
        .expect("fixed steps")
        .log_density_errors(seen.view());
    let prior = Prior::isotropic(1.0).log_density(&solution.x);
    (
        prior.iter().zip(&integral).map(|(p, i)| p + i).collect(),
        estimated
            .into_iter()
            .map(|t| t.expect("estimated"))
            .collect(),
    )
}

/// With a field in single precision and a tolerance below its rounding, the solver ends early with
/// a status; in double precision it continues.
#[test]
fn tolerance_below_rounding_is_reported_early() {
    #[derive(Clone)]
    struct Single(Perceptron);
    impl VectorField for Single {
        fn dim(&self) -> usize {
            self.0.dim
        }
        fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
            let Points { t, x, .. } = at;
            Ok(self
                .0
                .velocity(Points::of_first_samples(
                    t,
                    &x.mapv(|v| f64::from(v as f32)),
                ))?
                .mapv(|v| f64::from(v as f32)))
        }
    }
    let field = Single(Perceptron::new(3, 32, 2, Activation::Tanh, 1.5, 10));
    let curve = ProbabilityPath::FlowMatching {
        data_at: 0,
        t_min: 0.0,
        t_max: 1.0,
    }
    .curve()
    .expect("a path");
    let span = TimeSpan {
        curve: &curve,
        to_prior: true,
    };
    let run = |field: &mut dyn VectorField, spec: &str| {
        let solver: Solver = serde_yaml::from_str(spec).expect(spec);
        solver
            .solve(field, &[0, 1], normal(2, 3), span, &mut |_| Ok(()))
            .expect("analytic")
    };
    let fine = "{dopri5: {rtol: 1e-13, atol: 1e-13}}";
    let lost = run(&mut field.clone(), fine);
    assert_eq!(lost.status, [Status::BelowRounding; 2]);
    assert!(
        lost.evaluations.iter().all(|n| *n < 2000),
        "{:?}",
        lost.evaluations
    );
    assert_eq!(run(&mut field.0.clone(), fine).status, [Status::Ok; 2]);
    assert_eq!(
        run(&mut field.clone(), "{dopri5: {rtol: 1e-5, atol: 1e-5}}").status,
        [Status::Ok; 2]
    );
}
