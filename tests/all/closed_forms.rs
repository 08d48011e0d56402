//! Cases whose likelihoods are known, in float64 to 1e-7 nats and through ONNX in float32 to 1e-4·(1 + |log p|).
//!
//! Always log p̂(x) = log p(data end) + log π(x_T) − log p(prior end): what an exact model under a wrong prior
//! says (T9), with x_T from the flow's own map where there is one.

use std::path::Path as FilePath;

use flowgauge::divergence::{DivergenceEstimator, ModelHandles};
use flowgauge::flow::field::{EvalError, JacobianOperator, Points, ScalarField, VectorField};
use flowgauge::flow::path::{PathCoefficients, PathCurve, ProbabilityPath};
use flowgauge::flow::prior::Prior;
use flowgauge::likelihood::{self, LikelihoodResult, LikelihoodTask};
use flowgauge::model::analytic::{self, AnalyticMixture};
use flowgauge::model::loaded::Model;
use flowgauge::num::key::{Purpose, RngKey};
use flowgauge::num::{Batch, TangentBatch, linalg, stats};
use flowgauge::solve::Solver;
use ndarray::{Array1, Array2, ArrayView1, Axis, s};

use crate::oracle;

const TIGHT: [&str; 3] = [
    "{dop853: {rtol: 1.0e-11, atol: 1.0e-11}}",
    "{tsit5: {rtol: 1.0e-10, atol: 1.0e-10}}",
    "{dopri5: {rtol: 1.0e-10, atol: 1.0e-10}}",
];

/// A flow that is known: its velocity, its Jacobian, its densities, and where it carries a point.
trait Known: VectorField + JacobianOperator + Clone + 'static {
    fn log_density(&self, t: f64, x: ArrayView1<f64>) -> f64;

    /// The state at `to` of the path through `x` at `from`; `None` where no formula says.
    fn carried(&self, from: f64, to: f64, x: ArrayView1<f64>) -> Option<Array1<f64>>;
}

fn paths() -> Vec<ProbabilityPath> {
    let cut = |path: ProbabilityPath| match path {
        ProbabilityPath::FlowMatching { data_at, .. } => ProbabilityPath::FlowMatching {
            data_at,
            t_min: 1e-3,
            t_max: 0.98,
        },
        other => other,
    };
    let more = ProbabilityPath::Edm {
        sigma_min: 0.02,
        sigma_max: 20.0,
    };
    ProbabilityPath::defaults()
        .into_iter()
        .map(cut)
        .chain([more])
        .collect()
}

fn curves() -> impl Iterator<Item = PathCurve> {
    paths().into_iter().map(|p| p.curve().expect("right"))
}

fn normal(address: u64, rows: usize, dim: usize) -> Batch {
    let draws = RngKey { seed: 40 }.normal(Purpose::Check, address, 0, rows * dim);
    draws.into_shape_with_order((rows, dim)).expect("rows·dim")
}

fn turn(dim: usize) -> Array2<f64> {
    linalg::thin_q(normal(9, dim, dim).view())
}

fn evaluate<F: Known>(
    field: &F,
    curve: &PathCurve,
    prior: Prior,
    solver: &str,
    estimators: &str,
    x: &Batch,
) -> Vec<LikelihoodResult> {
    let solver: Solver = serde_yaml::from_str(solver).expect(solver);
    let estimators: Vec<DivergenceEstimator> = serde_yaml::from_str(estimators).expect(estimators);
    let task = LikelihoodTask {
        curve,
        prior,
        solver: &solver,
        estimators: &estimators,
        key: RngKey { seed: 4 },
    };
    let mut sources = ModelHandles {
        jacobian: Some(Box::new(field.clone())),
        ..Default::default()
    };
    let sample: Vec<u64> = (0..x.nrows() as u64).collect();
    likelihood::evaluate_likelihoods(
        &mut field.clone(),
        &mut sources,
        &task,
        &sample,
        x.clone(),
        None,
    )
    .expect("analytic")
}

/// What an exact model says of `x` under `prior`.
fn truth<F: Known>(field: &F, curve: &PathCurve, prior: Prior, x: ArrayView1<f64>) -> f64 {
    let (from, to) = (curve.data_end(), curve.prior_end());
    let end = field.carried(from, to, x).expect("a known map");
    let log_prior = prior.log_density(&end.clone().insert_axis(Axis(0)))[0];
    field.log_density(from, x) + log_prior - field.log_density(to, end.view())
}

/// The largest error in nats of the exact trace under every tight solver.
fn worst<F: Known>(field: &F, curve: &PathCurve, x: &Batch) -> f64 {
    let prior = Prior::isotropic(curve.prior_std());
    let known: Vec<f64> = x
        .rows()
        .into_iter()
        .map(|row| truth(field, curve, prior, row))
        .collect();
    let mut worst = 0.0f64;
    for solver in TIGHT {
        for (row, known) in evaluate(field, curve, prior, solver, "[exact]", x)
            .iter()
            .zip(&known)
        {
            let value = row
                .log_likelihood
                .unwrap_or_else(|| panic!("{solver} {:?}: {:?}", curve.path(), row.status));
            worst = worst.max((value - known).abs());
        }
    }
    worst
}

fn held(case: &str, error: f64, bound: f64) {
    println!("{case}: largest error {error:.1e}, allowed {bound:.0e}");
    assert!(error <= bound, "{case}: {error} nats");
}

/// N(m, U diag(c) Uᵀ).
#[derive(Clone)]
struct Gaussian {
    curve: PathCurve,
    u: Array2<f64>,
    c: Array1<f64>,
    m: Array1<f64>,
}

impl Gaussian {
    fn spread(&self, s: &PathCoefficients) -> Array1<f64> {
        self.c.mapv(|c| s.alpha * s.alpha * c + s.sigma * s.sigma)
    }

    fn turned(&self, s: &PathCoefficients, x: ArrayView1<f64>) -> Array1<f64> {
        (&x - &(&self.m * s.alpha)).dot(&self.u)
    }

    /// ½S'S⁻¹, axis by axis.
    fn slope(&self, s: &PathCoefficients) -> Array1<f64> {
        self.c
            .mapv(|c| s.alpha * s.alpha_dot * c + s.sigma * s.sigma_dot)
            / self.spread(s)
    }
}

impl VectorField for Gaussian {
    fn dim(&self) -> usize {
        self.m.len()
    }

    fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
        let Points { t, x, .. } = at;
        let mut v = x.clone();
        for (i, mut row) in v.rows_mut().into_iter().enumerate() {
            let s = self.curve.at(t[i]);
            row.assign(
                &(self.u.dot(&(self.turned(&s, x.row(i)) * self.slope(&s)))
                    + &self.m * s.alpha_dot),
            );
        }
        Ok(v)
    }
}

impl JacobianOperator for Gaussian {
    fn dim(&self) -> usize {
        self.m.len()
    }

    fn jvp(&mut self, at: Points, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        let Points { t, .. } = at;
        let mut out = z.clone();
        for mut block in out.outer_iter_mut() {
            for (mut row, t) in block.rows_mut().into_iter().zip(t) {
                let product = self
                    .u
                    .dot(&(row.dot(&self.u) * self.slope(&self.curve.at(*t))));
                row.assign(&product);
            }
        }
        Ok(out)
    }

    fn vjp(&mut self, at: Points, w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError> {
        self.jvp(at, w).map(Some)
    }
}

impl Known for Gaussian {
    fn log_density(&self, t: f64, x: ArrayView1<f64>) -> f64 {
        let s = self.curve.at(t);
        let (y, spread) = (self.turned(&s, x), self.spread(&s));
        -0.5 * (&y * &y / &spread + spread.mapv(f64::ln) + std::f64::consts::TAU.ln()).sum()
    }

    fn carried(&self, from: f64, to: f64, x: ArrayView1<f64>) -> Option<Array1<f64>> {
        let (a, b) = (self.curve.at(from), self.curve.at(to));
        let stretch = (self.spread(&b) / self.spread(&a)).mapv(f64::sqrt);
        Some(self.u.dot(&(self.turned(&a, x) * stretch)) + &self.m * b.alpha)
    }
}

/// T1: an isotropic Gaussian, on every path and in both directions of time.
#[test]
fn t1_isotropic_gaussians() {
    for curve in curves() {
        let dim = 5;
        let (u, c, m) = (
            Array2::eye(dim),
            Array1::from_elem(dim, 0.3),
            Array1::linspace(-1.0, 1.0, dim),
        );
        let x = normal(1, 3, dim) * 0.6 + &m;
        let case = format!(
            "T1 {}",
            serde_json::to_string(curve.path()).expect("serializes")
        );
        held(
            &case,
            worst(
                &Gaussian {
                    curve: curve.clone(),
                    u,
                    c,
                    m,
                },
                &curve,
                &x,
            ),
            1e-7,
        );
    }
}

/// T2: full covariance, the reference's three variances turned by a random rotation.
#[test]
fn t2_gaussians_of_full_covariance() {
    for curve in curves() {
        let (u, c, m) = (
            turn(3),
            ndarray::array![0.25, 1.0, 4.0],
            ndarray::array![0.5, -1.0, 0.0],
        );
        let x = ndarray::array![[0.7, 0.3, -2.0], [0.0, 0.0, 0.0]].dot(&u.t());
        let m = u.dot(&m);
        let case = format!(
            "T2 {}",
            serde_json::to_string(curve.path()).expect("serializes")
        );
        held(
            &case,
            worst(
                &Gaussian {
                    curve: curve.clone(),
                    u,
                    c,
                    m,
                },
                &curve,
                &x,
            ),
            1e-7,
        );
    }
}

/// Independent mixtures on lines, turned by U: nonlinear, with a dense Jacobian.
#[derive(Clone)]
struct Product {
    line: AnalyticMixture,
    u: Array2<f64>,
}

impl Product {
    fn standard(curve: PathCurve, u: Array2<f64>) -> Product {
        let (means, weights) = (ndarray::array![[-1.0], [0.8]], vec![0.3, 0.7]);
        Product {
            line: AnalyticMixture {
                curve,
                weights,
                means,
                variances: vec![0.04, 0.09],
            },
            u,
        }
    }

    /// F_t and 1 − F_t of one coordinate: each of both tails with all its digits.
    fn tails(&self, t: f64, y: f64) -> [f64; 2] {
        let s = self.line.curve.at(t);
        let mut tails = [0.0; 2];
        for k in 0..self.line.weights.len() {
            let std = (s.alpha * s.alpha * self.line.variances[k] + s.sigma * s.sigma).sqrt();
            let z = (y - s.alpha * self.line.means[[k, 0]]) / std;
            let small = 0.5 * stats::normal_two_sided_p(z);
            let sides = if z < 0.0 {
                [small, 1.0 - small]
            } else {
                [1.0 - small, small]
            };
            (0..2).for_each(|i| tails[i] += self.line.weights[k] * sides[i]);
        }
        tails
    }

    /// F_s⁻¹(F_t(y)): the flow on a line keeps quantiles.
    fn quantile(&self, from: f64, to: f64, y: f64) -> f64 {
        let wanted = self.tails(from, y);
        let lower = wanted[0] < wanted[1];
        let (mut low, mut high) = (-1e4, 1e4);
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            let tails = self.tails(to, middle);
            let below = if lower {
                tails[0] < wanted[0]
            } else {
                tails[1] > wanted[1]
            };
            if below { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    }

    /// One coordinate of every row as a batch of points on a line, and its time per row.
    fn each(&self, x: &Batch, mut f: impl FnMut(usize, &Batch) -> Array1<f64>) -> Batch {
        let y = x.dot(&self.u);
        let mut out = y.clone();
        for j in 0..y.ncols() {
            out.column_mut(j)
                .assign(&f(j, &y.slice(s![.., j..=j]).to_owned()));
        }
        out
    }
}

impl VectorField for Product {
    fn dim(&self) -> usize {
        self.u.nrows()
    }

    fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
        let Points { t, x, .. } = at;
        let mut line = self.line.clone();
        let v = self.each(x, |_, y| {
            line.velocity(Points::of_first_samples(t, y))
                .expect("analytic")
                .column(0)
                .to_owned()
        });
        Ok(v.dot(&self.u.t()))
    }
}

impl JacobianOperator for Product {
    fn dim(&self) -> usize {
        self.u.nrows()
    }

    fn jvp(&mut self, at: Points, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        let Points { t, x, .. } = at;
        let mut line = self.line.clone();
        let one = TangentBatch::ones((1, x.nrows(), 1));
        let slopes = self.each(x, |_, y| {
            line.quadratic_form(Points::of_first_samples(t, y), &one)
                .expect("analytic")
                .row(0)
                .to_owned()
        });
        let mut out = z.clone();
        for mut block in out.outer_iter_mut() {
            let product = (block.dot(&self.u) * &slopes).dot(&self.u.t());
            block.assign(&product);
        }
        Ok(out)
    }

    fn vjp(&mut self, at: Points, w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError> {
        self.jvp(at, w).map(Some)
    }
}

impl Known for Product {
    fn log_density(&self, t: f64, x: ArrayView1<f64>) -> f64 {
        let y = x.dot(&self.u);
        y.iter()
            .map(|y| self.line.log_density(t, ndarray::aview1(&[*y])))
            .sum()
    }

    fn carried(&self, from: f64, to: f64, x: ArrayView1<f64>) -> Option<Array1<f64>> {
        Some(
            self.u
                .dot(&x.dot(&self.u).mapv(|y| self.quantile(from, to, y))),
        )
    }
}

/// T3: the printed values of the mixture on a line, from the quantile map alone and from the solvers.
#[test]
fn t3_a_mixture_on_a_line_to_all_printed_digits() {
    for (path, ends, densities) in [
        (
            ProbabilityPath::Vp {
                beta_min: 0.1,
                beta_max: 20.0,
                t_min: 1e-3,
            },
            [-1.323186529, -0.502953223, 0.649313587],
            [-0.639599157, -2.791051194, -0.127738879],
        ),
        (
            ProbabilityPath::Edm {
                sigma_min: 0.02,
                sigma_max: 20.0,
            },
            [-26.236457683, -9.838759154, 13.213064396],
            [-0.642210963, -2.784031941, -0.129167706],
        ),
        (
            ProbabilityPath::FlowMatching {
                data_at: 0,
                t_min: 1e-3,
                t_max: 0.98,
            },
            [-1.297085204, -0.489504820, 0.642390321],
            [-0.640250154, -2.792056530, -0.127206175],
        ),
    ] {
        let curve = path.curve().expect("right");
        let model = Product::standard(curve.clone(), Array2::eye(1));
        let (from, to) = (curve.data_end(), curve.prior_end());
        for (i, start) in [-1.1, 0.1, 0.9].into_iter().enumerate() {
            let end = model.quantile(from, to, start);
            assert!(
                (end - ends[i]).abs() <= 6e-10,
                "{path:?}: {end} {}",
                ends[i]
            );
            let density = model.log_density(from, ndarray::aview1(&[start]));
            assert!(
                (density - densities[i]).abs() <= 6e-10,
                "{path:?}: {density} {}",
                densities[i]
            );
        }
        let x = ndarray::array![[-1.1], [0.1], [0.9]];
        held(
            &format!("T3 {}", path.kind()),
            worst(&model, &curve, &x),
            1e-8,
        );
    }
}

/// T4: the same mixture in every one of four turned coordinates: a nonlinear flow with a dense Jacobian.
#[test]
fn t4_turned_products_of_mixtures() {
    for curve in curves() {
        let model = Product::standard(curve.clone(), turn(4));
        let x = (normal(2, 2, 4) * 0.6).dot(&model.u.t());
        let case = format!(
            "T4 {}",
            serde_json::to_string(curve.path()).expect("serializes")
        );
        held(&case, worst(&model, &curve, &x), 1e-7);
    }
}

/// T4: on that dense Jacobian Hutchinson has its variance, 2(‖J‖² − Σ Jᵢᵢ²), and every estimator its mean.
#[test]
fn t4_estimators_on_a_dense_jacobian() {
    let curve = ProbabilityPath::Edm {
        sigma_min: 0.05,
        sigma_max: 20.0,
    }
    .curve()
    .expect("right");
    let model = Product::standard(curve.clone(), turn(6));
    // One Euler step sees one Jacobian: that at the data end.
    let rows = 2500;
    let x = Batch::from_shape_fn((rows, 6), |(_, j)| 0.3 * j as f64 - 0.5);
    let estimators = "[exact, {hutchinson: {probes: 1}}, {hutchinson: {probes: 1, distribution: gaussian}}, \
                      {hutch++: {matvecs: 6}}, {na-hutch++: {matvecs: 6}}, {xtrace: {matvecs: 6}}, xnystrace]";
    let all = evaluate(
        &model,
        &curve,
        Prior::isotropic(1.0),
        "{euler: {steps: 1}}",
        estimators,
        &x,
    );
    let of = |i: usize| {
        all.iter()
            .filter(move |r| r.estimator == i)
            .map(|r| r.divergence_integral.expect("ok"))
    };
    let exact = of(0).next().expect("rows");
    let basis = TangentBatch::from_shape_fn((6, 1, 6), |(i, _, j)| f64::from(u8::from(i == j)));
    let first = x.slice(s![..1, ..]).to_owned();
    let jacobian = model
        .clone()
        .jvp(
            Points::of_first_samples(&[curve.data_end()], &first),
            &basis,
        )
        .expect("analytic");
    let jacobian =
        jacobian.index_axis(Axis(1), 0).to_owned() * (curve.prior_end() - curve.data_end());
    let whole: f64 = jacobian.iter().map(|v| v * v).sum();
    let diagonal: f64 = jacobian.diag().iter().map(|v| v * v).sum();
    for i in 1..=6 {
        let gaps: Vec<f64> = of(i).map(|v| v - exact).collect();
        let mean = stats::mean_estimate(&gaps).expect("rows");
        let bound = 4.0 * mean.stderr.expect("rows") + 1e-9 * exact.abs();
        assert!(mean.value.abs() <= bound, "estimator {i}: {mean:?}");
        let expected = match i {
            1 => 2.0 * (whole - diagonal),
            2 => 2.0 * whole,
            _ => continue,
        };
        let variance = gaps.iter().map(|g| g * g).sum::<f64>() / rows as f64;
        assert!(
            (variance / expected - 1.0).abs() < 0.12,
            "estimator {i}: {variance} {expected}"
        );
    }
}

impl Known for AnalyticMixture {
    fn log_density(&self, t: f64, x: ArrayView1<f64>) -> f64 {
        AnalyticMixture::log_density(self, t, x)
    }

    fn carried(&self, _: f64, _: f64, _: ArrayView1<f64>) -> Option<Array1<f64>> {
        None
    }
}

/// The largest error against the identity of T9, with x_T where a solution of 1e-12 ends.
fn worst_of_mixture(model: &AnalyticMixture, x: &Batch) -> f64 {
    let (curve, prior) = (&model.curve, Prior::isotropic(model.curve.prior_std()));
    let span = flowgauge::solve::TimeSpan {
        curve,
        to_prior: true,
    };
    let best: Solver =
        serde_yaml::from_str("{dop853: {rtol: 1.0e-13, atol: 1.0e-13}}").expect("a solver");
    let ids: Vec<u64> = (0..x.nrows() as u64).collect();
    let ends = best
        .solve(&mut model.clone(), &ids, x.clone(), span, &mut |_| Ok(()))
        .expect("analytic")
        .x;
    let log_prior = prior.log_density(&ends);
    let mut worst = 0.0f64;
    for solver in TIGHT {
        for (i, row) in evaluate(model, curve, prior, solver, "[exact]", x)
            .iter()
            .enumerate()
        {
            let known = model.log_density(curve.data_end(), x.row(i)) + log_prior[i]
                - model.log_density(curve.prior_end(), ends.row(i));
            worst = worst.max((row.log_likelihood.expect("ok") - known).abs());
        }
    }
    worst
}

/// T5 and T9: mixtures in several dimensions under the prior of their path, which is not p_T.
#[test]
fn t5_t9_mixtures_under_a_wrong_prior() {
    for curve in curves() {
        let model = analytic::example_mixture(curve.clone(), 4);
        let case = format!(
            "T5, T9 {}",
            serde_json::to_string(curve.path()).expect("serializes")
        );
        held(
            &case,
            worst_of_mixture(&model, &(normal(3, 3, 4) * 0.8)),
            1e-7,
        );
    }
}

/// T5, T12: div v = (d − tr J_D)-type formula of the mixture, (α'/α)d − (σσ' − (α'/α)σ²) div s, is the exact trace.
#[test]
fn t5_the_divergence_of_the_score_has_its_formula() {
    for curve in curves() {
        let mut model = analytic::example_mixture(curve.clone(), 4);
        let t = curve.data_end() + 0.37 * (curve.prior_end() - curve.data_end());
        let s = curve.at(t);
        let x = normal(4, 1, 4) * (s.alpha + s.sigma);
        let basis = TangentBatch::from_shape_fn((4, 1, 4), |(i, _, j)| f64::from(u8::from(i == j)));
        let trace = model
            .quadratic_form(Points::of_first_samples(&[t], &x), &basis)
            .expect("analytic")
            .sum();
        let log_density = |x: &Array1<f64>| AnalyticMixture::log_density(&model, t, x.view());
        // Σ r_k(|g_k|² − d/V_k) − |s|², from the components alone.
        let x = x.row(0).to_owned();
        let v: Vec<f64> = model
            .variances
            .iter()
            .map(|c| s.alpha * s.alpha * c + s.sigma * s.sigma)
            .collect();
        let g: Vec<Array1<f64>> = (0..3)
            .map(|k| (&(&model.means.row(k) * s.alpha) - &x) / v[k])
            .collect();
        let peak = |k: usize| {
            (model.weights[k].ln() - 2.0 * (std::f64::consts::TAU * v[k]).ln())
                - 0.5 * v[k] * g[k].dot(&g[k])
        };
        let r: Vec<f64> = (0..3).map(|k| (peak(k) - log_density(&x)).exp()).collect();
        let score = (0..3)
            .map(|k| &g[k] * r[k])
            .fold(Array1::zeros(4), |a: Array1<f64>, b| a + b);
        let spread: f64 = (0..3).map(|k| r[k] * (g[k].dot(&g[k]) - 4.0 / v[k])).sum();
        let div_score = spread - score.dot(&score);
        let f = s.alpha_dot / s.alpha;
        let known = 4.0 * f - (s.sigma * s.sigma_dot - f * s.sigma * s.sigma) * div_score;
        assert!(
            (trace - known).abs() < 1e-9 * (1.0 + known.abs()),
            "{:?}: {trace} {known}",
            curve.path()
        );
    }
}

/// T6: two points ±a: the denoiser is a·tanh(αaᵀx/σ²), and p_t a mixture of two normals of width σ.
#[test]
fn t6_points_are_carried_as_their_tanh_says() {
    let a = ndarray::array![0.6, -0.5, 0.9];
    for path in [
        ProbabilityPath::Edm {
            sigma_min: 0.1,
            sigma_max: 20.0,
        },
        ProbabilityPath::Vp {
            beta_min: 0.1,
            beta_max: 20.0,
            t_min: 1e-2,
        },
        ProbabilityPath::FlowMatching {
            data_at: 1,
            t_min: 0.0,
            t_max: 0.9,
        },
    ] {
        let curve = path.curve().expect("right");
        let means = ndarray::stack![Axis(0), a, -&a];
        let mut model = AnalyticMixture {
            curve: curve.clone(),
            weights: vec![0.5; 2],
            means,
            variances: vec![0.0; 2],
        };
        let (t, x) = (
            0.5 * (curve.data_end() + curve.prior_end()),
            normal(5, 2, 3),
        );
        let s = curve.at(t);
        let got = model
            .velocity(Points::of_first_samples(&[t, t], &x))
            .expect("analytic");
        for (i, row) in x.rows().into_iter().enumerate() {
            let denoised = &a * (s.alpha * a.dot(&row) / (s.sigma * s.sigma)).tanh();
            let noise = (&row - &(&denoised * s.alpha)) / s.sigma;
            let known = &denoised * s.alpha_dot + noise * s.sigma_dot;
            assert!(
                (&got.row(i) - &known).iter().all(|e| e.abs() < 1e-10),
                "{path:?}"
            );
        }
        let end = curve.at(curve.data_end());
        let x = normal(6, 4, 3) * end.sigma + &a * end.alpha;
        held(
            &format!("T6 {}", path.kind()),
            worst_of_mixture(&model, &x),
            1e-7,
        );
    }
}

/// dx/dt = (1 + t) A x + b: commuting, so the map is the exponential of (t + t²/2) A, and b's part is a quadrature.
#[derive(Clone)]
struct Linear {
    a: Array2<f64>,
    b: Array1<f64>,
}

fn exponential(a: &Array2<f64>) -> Array2<f64> {
    let small = a / 1024.0;
    let mut term: Array2<f64> = Array2::eye(a.nrows());
    let mut sum = term.clone();
    for k in 1..20 {
        term = term.dot(&small) / f64::from(k);
        sum += &term;
    }
    (0..10).fold(sum, |e, _| e.dot(&e))
}

impl Linear {
    fn clock(t: f64) -> f64 {
        t + 0.5 * t * t
    }

    /// x(1) = e^{A(c(1) − c(0))} x + ∫₀¹ e^{A(c(1) − c(t))} b dt, by Gauss's rule on 40 intervals.
    fn end(&self, x: ArrayView1<f64>) -> Array1<f64> {
        let to = |t: f64| exponential(&(&self.a * (Linear::clock(1.0) - Linear::clock(t))));
        let mut end = to(0.0).dot(&x);
        let nodes = [
            (-0.6f64.sqrt(), 5.0 / 9.0),
            (0.0, 8.0 / 9.0),
            (0.6f64.sqrt(), 5.0 / 9.0),
        ];
        for i in 0..40 {
            for (z, w) in nodes {
                end = end + to((i as f64 + 0.5 + 0.5 * z) / 40.0).dot(&self.b) * (w / 80.0);
            }
        }
        end
    }
}

impl VectorField for Linear {
    fn dim(&self) -> usize {
        self.b.len()
    }

    fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
        let Points { t, x, .. } = at;
        let mut v = x.dot(&self.a.t());
        v.rows_mut()
            .into_iter()
            .zip(t)
            .for_each(|(mut row, t)| row *= 1.0 + t);
        Ok(v + &self.b)
    }
}

impl JacobianOperator for Linear {
    fn dim(&self) -> usize {
        self.b.len()
    }

    fn jvp(&mut self, at: Points, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        let Points { t, .. } = at;
        let mut out = z.clone();
        for mut block in out.outer_iter_mut() {
            let v = Linear {
                a: self.a.clone(),
                b: Array1::zeros(self.b.len()),
            }
            .velocity(Points::of_first_samples(t, &block.to_owned()))?;
            block.assign(&v);
        }
        Ok(out)
    }

    fn vjp(&mut self, at: Points, w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError> {
        Linear {
            a: self.a.t().to_owned(),
            b: self.b.clone(),
        }
        .jvp(at, w)
        .map(Some)
    }
}

impl Known for Linear {
    fn log_density(&self, _: f64, _: ArrayView1<f64>) -> f64 {
        unreachable!("a linear flow is known by its map")
    }

    fn carried(&self, _: f64, _: f64, x: ArrayView1<f64>) -> Option<Array1<f64>> {
        Some(self.end(x))
    }
}

fn nonsymmetric() -> Linear {
    let a = ndarray::array![[0.3, 1.0, 0.0], [-0.4, -0.6, 0.5], [0.2, 0.0, 0.1]];
    Linear {
        a,
        b: ndarray::array![0.1, -0.2, 0.3],
    }
}

fn plain() -> (PathCurve, Prior) {
    (
        ProbabilityPath::FlowMatching {
            data_at: 0,
            t_min: 0.0,
            t_max: 1.0,
        }
        .curve()
        .expect("right"),
        Prior::isotropic(1.0),
    )
}

/// T7: log p = log π(Φx + c) + ∫ tr A, for a nonsymmetric A.
#[test]
fn t7_a_linear_flow_has_its_exponential() {
    let ((curve, prior), field) = (plain(), nonsymmetric());
    let x = normal(7, 4, 3);
    for solver in TIGHT {
        for (i, row) in evaluate(&field, &curve, prior, solver, "[exact]", &x)
            .iter()
            .enumerate()
        {
            let end = field.end(x.row(i)).insert_axis(Axis(0));
            let known = prior.log_density(&end)[0] + field.a.diag().sum() * Linear::clock(1.0);
            held(
                &format!("T7 {solver}"),
                (row.log_likelihood.expect("ok") - known).abs(),
                1e-9,
            );
        }
    }
    // Estimators see A or its transpose, and both have one trace.
    let x = normal(7, 1, 3).select(Axis(0), &[0; 3000]);
    let estimators = "[exact, hutchinson, {na-hutch++: {matvecs: 6}}, {na-hutch++: {matvecs: 6, transposed: false}}, \
                      {xtrace: {matvecs: 4}}]";
    let rows = evaluate(&field, &curve, prior, "{heun: {steps: 2}}", estimators, &x);
    let of = |i: usize| {
        rows.iter()
            .filter(move |r| r.estimator == i)
            .map(|r| r.log_likelihood.expect("ok"))
    };
    for i in 1..=4 {
        let mean = stats::mean_estimate(&of(i).zip(of(0)).map(|(a, b)| a - b).collect::<Vec<_>>())
            .expect("rows");
        assert!(
            mean.value.abs() <= 4.0 * mean.stderr.expect("rows") + 1e-12,
            "estimator {i}: {mean:?}"
        );
    }
}

/// T7: a rotation has no divergence, and Rademacher probes say so one by one.
#[test]
fn t7_a_rotation_has_no_divergence_under_any_probe() {
    let (curve, prior) = plain();
    let a = ndarray::array![[0.0, 3.0, -1.0], [-3.0, 0.0, 2.0], [1.0, -2.0, 0.0]];
    let field = Linear {
        a,
        b: Array1::zeros(3),
    };
    let rows = evaluate(
        &field,
        &curve,
        prior,
        TIGHT[2],
        "[exact, {hutchinson: {probes: 3}}]",
        &normal(8, 20, 3),
    );
    assert!(
        rows.iter()
            .all(|r| r.divergence_integral.expect("ok").abs() < 1e-12)
    );
}

/// T7: Euler's quadrature of the trace is Σ h tr A exactly, though the density its map has is Σ log det(I + hA).
#[test]
fn t7_eulers_quadrature_is_that_of_the_trace() {
    let ((curve, prior), field, n) = (plain(), nonsymmetric(), 8);
    let rows = evaluate(
        &field,
        &curve,
        prior,
        &format!("{{euler: {{steps: {n}}}}}"),
        "[exact]",
        &normal(8, 2, 3),
    );
    let times = (0..n).map(|i| f64::from(i) / f64::from(n));
    let known: f64 = times
        .map(|t| (1.0 + t) * field.a.diag().sum() / f64::from(n))
        .sum();
    assert!(
        rows.iter()
            .all(|r| (r.divergence_integral.expect("ok") - known).abs() < 1e-12),
        "{known}"
    );
}

/// T8: bits per dimension of densities whose code lengths are known.
#[test]
fn t8_bits_per_dim_of_known_densities() {
    let dim = 12;
    let uniform = likelihood::bits_per_dim(dim as f64 * 0.5f64.ln(), dim, 7.0);
    assert!((uniform - 8.0).abs() < 1e-13, "{uniform}");
    // v = 0 leaves the prior: N(0, 1) under uniform data on [−1, 1] has ½ln 2π + ⅙ nats.
    let (curve, prior) = plain();
    let still = Linear {
        a: Array2::zeros((1, 1)),
        b: Array1::zeros(1),
    };
    let n = 4000;
    let x = Batch::from_shape_fn((n, 1), |(i, _)| -1.0 + 2.0 * (i as f64 + 0.5) / n as f64);
    let rows = evaluate(&still, &curve, prior, "{euler: {steps: 1}}", "[exact]", &x);
    let bits = rows
        .iter()
        .map(|r| likelihood::bits_per_dim(r.log_likelihood.expect("ok"), 1, 7.0));
    let mean = bits.sum::<f64>() / n as f64;
    let known = 7.0 + (0.5 * std::f64::consts::TAU.ln() + 1.0 / 6.0) / std::f64::consts::LN_2;
    assert!(
        (mean - known).abs() < 1e-7 && (known - 8.566197).abs() < 5e-7,
        "{mean} {known}"
    );
}

/// T12: E|x − αD|² = σ²(d − α E tr J_D) under the model's own law, within four standard errors.
#[test]
fn t12_states_and_denoisers_are_coupled() {
    let d = 3;
    for curve in curves() {
        let model = analytic::example_mixture(curve.clone(), d);
        for part in [0.05, 0.5] {
            let t = curve.data_end() + part * (curve.prior_end() - curve.data_end());
            let s = curve.at(t);
            let (n, key) = (2000, RngKey { seed: 41 });
            let mut x = Batch::zeros((n, d));
            for (i, mut row) in x.rows_mut().into_iter().enumerate() {
                let u = key.uniform(Purpose::Check, i as u64, 1, 1)[0];
                let k = if u < 0.5 {
                    0
                } else if u < 0.8 {
                    1
                } else {
                    2
                };
                let std = (s.alpha * s.alpha * model.variances[k] + s.sigma * s.sigma).sqrt();
                row.assign(
                    &(key.normal(Purpose::Check, i as u64, 2, d) * std
                        + &model.means.row(k) * s.alpha),
                );
            }
            let kind = flowgauge::flow::prediction::Prediction::Denoised;
            let mut view = analytic::AnalyticNetwork::as_velocity(model.clone(), kind, None);
            let t = vec![t; n];
            let denoised = view
                .denoised(Points::of_first_samples(&t, &x))
                .expect("analytic");
            let basis =
                TangentBatch::from_shape_fn((d, n, d), |(i, _, j)| f64::from(u8::from(i == j)));
            let mut network = view.network;
            let traces = flowgauge::flow::network_velocity::NetworkJacobianOperator::quadratic_form(
                &mut network,
                Points::of_first_samples(&t, &x),
                &basis,
            );
            let traces = traces.expect("analytic").sum_axis(Axis(0));
            let gaps: Vec<f64> = (0..n)
                .map(|i| {
                    let rest = &x.row(i) - &(&denoised.row(i) * s.alpha);
                    rest.dot(&rest) - s.sigma * s.sigma * (d as f64 - s.alpha * traces[i])
                })
                .collect();
            let mean = stats::mean_estimate(&gaps).expect("rows");
            assert!(
                mean.value.abs() < 4.0 * mean.stderr.expect("rows"),
                "{:?} {part}: {mean:?}",
                curve.path()
            );
        }
    }
}

/// The divergence of a Gaussian's velocity with an error that changes from place to place.
struct Off(Gaussian);

impl ScalarField for Off {
    fn eval(&mut self, at: Points) -> Result<Vec<f64>, EvalError> {
        let Points { t, x, .. } = at;
        let one = |(row, t): (ArrayView1<f64>, &f64)| {
            let s = self.0.curve.at(*t);
            self.0.slope(&s).sum() + 0.2 * row[0] / (1.0 + s.sigma) / (0.1 + s.sigma)
        };
        Ok(x.rows().into_iter().zip(t).map(one).collect())
    }
}

/// 95 % intervals hold the exact trace's value in 93 to 97 % of 2,000 trials, which differ in state and probes.
///
/// Jacobians of many directions, as here: on one of rank two zᵀJz is skewed as χ² is, and twelve probes then
/// cover 91 to 92 %, as any interval that trusts a mean of twelve to be normal.
#[test]
fn intervals_cover_what_they_say() {
    let (n, d) = (2000, 16);
    let curve = ProbabilityPath::Edm {
        sigma_min: 0.05,
        sigma_max: 20.0,
    }
    .curve()
    .expect("right");
    let c = Array1::from_iter((0..d).map(|i| 0.05 * 1.35f64.powi(i)));
    let field = Gaussian {
        curve: curve.clone(),
        u: turn(d as usize),
        c,
        m: Array1::zeros(d as usize),
    };
    let x = (normal(15, n, d as usize) * &field.c.mapv(f64::sqrt)).dot(&field.u.t());
    let specs = [
        "{hutchinson: {probes: 12}}",
        "{hutchinson: {probes: 4, along: fresh}}",
        "{hutchinson: {probes: 12, distribution: gaussian}}",
        "{hutchinson: {probes: 8, distribution: sphere, orthogonal: true}}",
        "{hutch++: {matvecs: 6, replicates: 8}}",
        "{na-hutch++: {matvecs: 6, replicates: 8}}",
        "{xtrace: {matvecs: 6, replicates: 8}}",
        "{xnystrace: {matvecs: 4, replicates: 8}}",
        "{debiased: {probes: 24}}",
    ];
    let solver: Solver =
        serde_yaml::from_str("{heun: {steps: 3, grid: log-snr}}").expect("a solver");
    let estimators: Vec<DivergenceEstimator> =
        serde_yaml::from_str(&format!("[exact, {}]", specs.join(", "))).expect("estimators");
    let prior = Prior::isotropic(20.0);
    let task = LikelihoodTask {
        curve: &curve,
        prior,
        solver: &solver,
        estimators: &estimators,
        key: RngKey { seed: 4 },
    };
    let (tangents, curve) = (
        Some(Box::new(field.clone()) as Box<dyn JacobianOperator>),
        Some(curve.clone()),
    );
    let mut sources = ModelHandles {
        jacobian: tangents,
        curve,
        ..Default::default()
    };
    sources
        .heads
        .insert("stad".to_owned(), Box::new(Off(field.clone())));
    let sample: Vec<u64> = (0..n as u64).collect();
    let rows =
        likelihood::evaluate_likelihoods(&mut field.clone(), &mut sources, &task, &sample, x, None)
            .expect("analytic");
    let of = |i: usize| rows.iter().filter(move |r| r.estimator == i);
    let mut wrong = Vec::new();
    for (i, spec) in specs.iter().enumerate() {
        let value = |r: &LikelihoodResult| r.log_likelihood.expect("ok");
        let covered = of(i + 1)
            .zip(of(0))
            .filter(|(a, b)| (value(a) - value(b)).abs() <= a.half_width.expect("several chains"));
        let coverage = covered.count() as f64 / n as f64;
        println!("{spec}: {coverage}");
        if !(0.93..=0.97).contains(&coverage) {
            wrong.push((spec, coverage));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// A number or a table of `closed_forms.json`.
fn numbers(name: &str) -> Vec<Vec<f64>> {
    let text = std::fs::read_to_string(folder().join("closed_forms.json")).expect("the numbers");
    let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let row = |v: &serde_json::Value| {
        v.as_array()
            .expect("a list")
            .iter()
            .map(|v| v.as_f64().expect("a number"))
            .collect()
    };
    match all[name].as_array().expect("a list") {
        rows if rows[0].is_array() => rows.iter().map(row).collect(),
        _ => vec![row(&all[name])],
    }
}

fn vector(name: &str) -> Array1<f64> {
    Array1::from(numbers(name).remove(0))
}

fn matrix(name: &str) -> Array2<f64> {
    let rows = numbers(name);
    Array2::from_shape_fn((rows.len(), rows[0].len()), |(i, j)| rows[i][j])
}

fn folder() -> std::path::PathBuf {
    FilePath::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/closed_forms")
}

fn opened(name: &str) -> Model {
    Model::open(&folder().join(format!("{name}.yaml"))).expect(name)
}

/// Holds an ONNX model's rows to 1e-4·(1 + |log p|) of the truth, estimator by estimator.
fn held_in_single(name: &str, estimators: &str, x: &Batch, truth: &[f64]) -> Vec<LikelihoodResult> {
    let model = opened(name);
    let rows = oracle::rows(
        &model,
        "{dopri5: {rtol: 1.0e-6, atol: 1.0e-6}}",
        estimators,
        x,
        8,
    );
    for row in &rows {
        let known = truth[row.sample as usize];
        let relative = (row.log_likelihood.expect("ok") - known).abs() / (1.0 + known.abs());
        held(
            &format!("{name} in float32, estimator {}", row.estimator),
            relative,
            1e-4,
        );
    }
    rows
}

/// The graphs' inputs are float32, so the states are too.
fn single(x: Batch) -> Batch {
    x.mapv(|v| f64::from(v as f32))
}

/// T2 through ONNX, on two paths, by the trace and by heads of all kinds.
#[test]
fn gaussians_through_onnx() {
    for (name, estimators) in [
        (
            "gaussian",
            "[exact, {learned: {head: joint}}, {learned: {head: apart}}]",
        ),
        ("flow", "[exact, {learned: {head: joint}}]"),
    ] {
        let model = opened(name);
        let curve = model.curve.clone();
        let known = Gaussian {
            curve: curve.clone(),
            u: matrix("u"),
            c: vector("c"),
            m: vector("m"),
        };
        let x = single((normal(10, 6, 3) * &known.c.mapv(f64::sqrt)).dot(&known.u.t()) + &known.m);
        let prior = Prior::isotropic(curve.prior_std());
        let truth: Vec<f64> = x
            .rows()
            .into_iter()
            .map(|row| truth(&known, &curve, prior, row))
            .collect();
        let rows = held_in_single(name, estimators, &x, &truth);
        // A joint head is evaluated in the velocity's calls, one apart in calls of its own.
        for row in &rows {
            let apart = name == "gaussian" && row.estimator == 2;
            assert_eq!(
                row.head_calls > 0,
                apart,
                "{name}: estimator {}",
                row.estimator
            );
        }
        // Around an exact head what is left is the probes' own noise.
        let spec = "[{debiased: {head: joint, probes: 32}}]";
        for row in oracle::rows(&model, "{heun: {steps: 40, grid: log-snr}}", spec, &x, 8) {
            let (value, known) = (row.log_likelihood.expect("ok"), truth[row.sample as usize]);
            let allowed = 5.0 * row.stderr.expect("32 draws") + 0.02;
            assert!(
                (value - known).abs() < allowed,
                "{name}: {value} {known}, allowed {allowed}"
            );
            assert_eq!((row.jvps, row.head_calls), (32, 0), "{name}");
        }
    }
}

/// T4 through ONNX.
#[test]
fn a_turned_product_of_mixtures_through_onnx() {
    let curve = opened("product").curve;
    let weights = vector("weights").to_vec();
    let (means, variances) = (
        vector("means").insert_axis(Axis(1)),
        vector("variances").to_vec(),
    );
    let known = Product {
        line: AnalyticMixture {
            curve: curve.clone(),
            weights,
            means,
            variances,
        },
        u: matrix("u"),
    };
    let x = single((normal(11, 6, 3) * 0.6).dot(&known.u.t()));
    let prior = Prior::isotropic(curve.prior_std());
    let truth: Vec<f64> = x
        .rows()
        .into_iter()
        .map(|row| truth(&known, &curve, prior, row))
        .collect();
    held_in_single(
        "product",
        "[exact, {xtrace: {matvecs: 6}}, {hutch++: {matvecs: 9, distribution: gaussian}}]",
        &x,
        &truth,
    );
}

/// T6 through ONNX: x_T from a float64 solution of the same two points.
#[test]
fn two_points_through_onnx() {
    let (curve, a) = (opened("dirac").curve, vector("a"));
    let means = ndarray::stack![Axis(0), a, -&a];
    let model = AnalyticMixture {
        curve: curve.clone(),
        weights: vec![0.5; 2],
        means,
        variances: vec![0.0; 2],
    };
    let x = single(normal(12, 6, 3) * 0.1 + &a);
    let prior = Prior::isotropic(curve.prior_std());
    let truth: Vec<f64> = evaluate(&model, &curve, prior, TIGHT[0], "[exact]", &x)
        .iter()
        .map(|r| r.log_likelihood.expect("ok"))
        .collect();
    held_in_single("dirac", "[exact]", &x, &truth);
}

/// T7 through ONNX: the exponential of a nonsymmetric matrix; NA-Hutch++ by the network's reverse mode.
#[test]
fn a_linear_flow_through_onnx() {
    let field = Linear {
        a: matrix("matrix"),
        b: vector("shift"),
    };
    let x = single(normal(13, 6, 3));
    let prior = Prior::isotropic(1.0);
    let ends: Vec<f64> = (x.rows().into_iter())
        .map(|row| {
            prior.log_density(&field.end(row).insert_axis(Axis(0)))[0]
                + field.a.diag().sum() * Linear::clock(1.0)
        })
        .collect();
    held_in_single("linear", "[exact, {xtrace: {matvecs: 6}}]", &x, &ends);
    let many = x.select(Axis(0), &[0; 400]);
    let specs =
        "[exact, {na-hutch++: {matvecs: 9}}, {na-hutch++: {matvecs: 9, transposed: false}}]";
    let rows = oracle::rows(&opened("linear"), "{heun: {steps: 3}}", specs, &many, 50);
    let of = |i: usize| {
        rows.iter()
            .filter(move |r| r.estimator == i)
            .map(|r| r.log_likelihood.expect("ok"))
    };
    for i in [1, 2] {
        let mean = stats::mean_estimate(&of(i).zip(of(0)).map(|(a, b)| a - b).collect::<Vec<_>>())
            .expect("rows");
        assert!(
            mean.value.abs() <= 4.0 * mean.stderr.expect("rows") + 1e-6,
            "estimator {i}: {mean:?}"
        );
    }
}

/// A network wrapped as EDM does outside its graph, and the same network wrapped inside it.
///
/// NA-Hutch++ leaves out small singular values, so that it jumps along a path: it is compared on the same nodes.
#[test]
fn preconditioning_outside_the_graph_is_preconditioning_inside_it() {
    let x = single(normal(14, 6, 3) * 0.5);
    for (solver, estimators) in [
        (
            "{dopri5: {rtol: 1.0e-6, atol: 1.0e-6}}",
            "[exact, {hutchinson: {probes: 2}}, {hutch++: {matvecs: 6}}]",
        ),
        (
            "{heun: {steps: 20, grid: log-snr}}",
            "[exact, {na-hutch++: {matvecs: 6, shift: false}}]",
        ),
    ] {
        let of = |name: &str| oracle::rows(&opened(name), solver, estimators, &x, 8);
        for (a, b) in of("outside").iter().zip(&of("inside")) {
            let (u, v) = (a.log_likelihood.expect("ok"), b.log_likelihood.expect("ok"));
            assert!(
                (u - v).abs() <= 2e-4 * (1.0 + v.abs()),
                "{solver} estimator {}: {u} {v}",
                a.estimator
            );
        }
    }
}
