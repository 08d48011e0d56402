//! Stein tests of a learned divergence head: whether it is the divergence of the velocity, without
//! any Jacobian.
//!
//! For every density p and test function g, integration by parts gives E_p[g·div v] = −E_p[v·∇g +
//! g·v·∇log p]. The residual r = g·D + v·∇g + g·v·s of a head D therefore has the mean E_p[g·(D −
//! div v)]. This mean is 0 for every g if D is the divergence.
//!
//! p is the distribution of noised data x = α x₀ + σ ε. The score s may be replaced by −ε/σ, whose
//! mean given x is the score. With −ε/σ the identity holds for each x₀ by itself, so an x₀ may be
//! used several times.
//!
//! The test function g = 1 tests only the head's bias. A head trained on −v·s has the right mean
//! but is wrong for single samples. It passes the test with g = 1 and fails others.

use ndarray::{Array1, Array3, Axis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::flow::field::{EvalError, Points, ScalarField, VectorField};
use crate::flow::path::PathCurve;
use crate::flow::prediction::Prediction;
use crate::num::Batch;
use crate::num::key::{Purpose, RngKey, SampleId};
use crate::num::stats::{self, Estimate};

/// The Stein tests of one head, as `stein:` of a likelihood entry describes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SteinTest {
    /// The name of the head under the card's `divergence_heads`. Default: `stad`.
    pub head: String,
    /// The number of strata of time, 1 to 1000. Default: 8. The strata are equally wide in ln(σ/α)
    /// if that is finite at both ends of the path, otherwise in time.
    pub times: usize,
    /// The number of states per stratum, 10 to 1000000. Default: 2000. Each state has a mirror
    /// image with the noise −ε. If there are fewer data, they are used several times.
    pub samples: usize,
    /// The number of random Fourier features among the test functions, 0 to 1000. Default: 16.
    pub features: usize,
    /// What replaces the score in the residual. Default: `noise`.
    pub score: SteinScore,
}

impl Default for SteinTest {
    fn default() -> Self {
        SteinTest {
            head: "stad".to_owned(),
            times: 8,
            samples: 2000,
            features: 16,
            score: SteinScore::Noise,
        }
    }
}

/// What replaces the score in the residual of a Stein test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum SteinScore {
    /// −ε/σ. It is right for any model, but its noise makes the test less sensitive.
    #[default]
    Noise,
    /// The model's own score. It is right only if the score is exact, as for a card with a
    /// `closed_form`, and only for states from the model's own distribution.
    Model,
}

/// The largest number of coordinates among the test functions. They are spread evenly over a
/// sample's numbers.
const MAX_COORDINATES: usize = 8;

/// A test function g.
#[derive(Debug, Clone, PartialEq)]
enum TestFunction {
    /// g = 1.
    Constant,
    /// One coordinate of x, divided by the scale s of the states.
    Coordinate(usize),
    /// x|²/(d s²).
    Square,
    /// cos(ωᵀx/s + b). ω has the variance 1/d per coordinate, and s is the scale of the states.
    FourierFeature {
        number: usize,
        omega: Array1<f64>,
        phase: f64,
    },
}

impl TestFunction {
    /// The name in tables.
    fn name(&self) -> String {
        match self {
            TestFunction::Constant => "1".to_owned(),
            TestFunction::Coordinate(a) => format!("x[{a}]"),
            TestFunction::Square => "x.x/d".to_owned(),
            TestFunction::FourierFeature { number, .. } => format!("cos {number}"),
        }
    }

    /// g(x) and v·∇g(x), for states of scale `s`.
    fn value_and_directional_derivative(
        &self,
        x: ndarray::ArrayView1<f64>,
        v: ndarray::ArrayView1<f64>,
        s: f64,
    ) -> (f64, f64) {
        let d = x.len() as f64;
        match self {
            TestFunction::Constant => (1.0, 0.0),
            TestFunction::Coordinate(a) => (x[*a] / s, v[*a] / s),
            TestFunction::Square => (x.dot(&x) / (d * s * s), 2.0 * x.dot(&v) / (d * s * s)),
            TestFunction::FourierFeature { omega, phase, .. } => {
                let angle = omega.dot(&x) / s + phase;
                (angle.cos(), -angle.sin() * omega.dot(&v) / s)
            }
        }
    }
}

/// Strata of time. They are equally wide in a variable u that runs from the data end to the prior
/// end.
struct TimeStrata<'a> {
    /// The path (α, σ).
    curve: &'a PathCurve,
    /// u at the data end.
    first: f64,
    /// u at the prior end.
    last: f64,
    /// Whether u is ln(σ/α). Otherwise u is the time, because ln(σ/α) is infinite at an end of the
    /// path.
    logarithmic: bool,
    /// The number of strata.
    count: usize,
}

impl<'a> TimeStrata<'a> {
    /// `count` strata of the path's time.
    fn new(curve: &'a PathCurve, count: usize) -> TimeStrata<'a> {
        let (start, end) = (curve.data_end(), curve.prior_end());
        let of = |t: f64| -curve.at(t).half_log_snr();
        let logarithmic = of(start).is_finite() && of(end).is_finite();
        let (first, last) = if logarithmic {
            (of(start), of(end))
        } else {
            (start, end)
        };
        TimeStrata {
            curve,
            first,
            last,
            logarithmic,
            count,
        }
    }

    /// The width of a stratum in u. It is negative if u falls from the data end to the prior end.
    fn width(&self) -> f64 {
        (self.last - self.first) / self.count as f64
    }

    /// The time at the fraction `u` of stratum `k`, and dt/du there.
    fn time(&self, k: usize, u: f64) -> (f64, f64) {
        let at = self.first + (k as f64 + u) * self.width();
        if !self.logarithmic {
            return (at, 1.0);
        }
        let t = self.curve.time_of_ratio(at.exp());
        let s = self.curve.at(t);
        (t, 1.0 / (s.sigma_dot / s.sigma - s.alpha_dot / s.alpha))
    }
}

/// The result of one test function in one stratum.
#[derive(Debug, Clone, PartialEq)]
pub struct SteinResidual {
    /// The stratum's end on the data side, in the card's own time.
    pub from: f64,
    /// The stratum's end on the prior side, in the card's own time.
    pub to: f64,
    /// The name of the test function.
    pub function: String,
    /// The mean of r·dt/du over the states, in nats per unit of ln(σ/α) or of time.
    pub mean: Estimate,
    /// The mean divided by its standard error. NaN if the standard error is not defined.
    pub z: f64,
    /// The two-sided p-value of z if the head is right, times the number of tests (Bonferroni), at
    /// most 1.
    pub p: f64,
}

/// The results of all tests of one head.
#[derive(Debug, Clone, PartialEq)]
pub struct SteinTestResults {
    /// One result for each stratum and test function.
    pub residuals: Vec<SteinResidual>,
    /// The mean over the data of log p by the head minus log p by the true divergence, in nats.
    pub bias: Estimate,
}

impl SteinTest {
    /// Checks the parameters.
    ///
    /// # Errors
    /// Fails if a parameter is out of range. The message names the key and says what is expected.
    pub fn check(&self) -> Result<(), String> {
        for (key, value, least, most) in [
            ("times", self.times, 1, 1000),
            ("samples", self.samples, 10, 1_000_000),
            ("features", self.features, 0, 1000),
        ] {
            crate::registry::check_bounds(key, value, least, most)?;
        }
        Ok(())
    }

    /// The test functions for samples of `dim` numbers. The Fourier features depend only on the
    /// seed.
    fn test_functions(&self, key: RngKey, dim: usize) -> Vec<TestFunction> {
        let count = dim.min(MAX_COORDINATES);
        let coordinates = (0..count).map(|i| TestFunction::Coordinate(i * dim / count));
        let features = (0..self.features).map(|number| {
            // No sample has an index this large, so the feature's draws are its own.
            let address = (1u64 << 60) + number as u64;
            let omega = key.normal(Purpose::SteinTest, address, 0, dim) / (dim as f64).sqrt();
            let phase = std::f64::consts::TAU * key.uniform_at(Purpose::SteinTest, address, 0, 1);
            TestFunction::FourierFeature {
                number,
                omega,
                phase,
            }
        });
        [TestFunction::Constant]
            .into_iter()
            .chain(coordinates)
            .chain([TestFunction::Square])
            .chain(features)
            .collect()
    }

    /// The residuals r·dt/du of samples: samples × strata × test functions.
    ///
    /// `clean` holds the data x₀ of the samples, rows × dim. The noise and the times of a sample
    /// depend only on the seed and its index.
    ///
    /// # Errors
    /// Fails if the velocity or the head cannot be evaluated.
    pub fn residuals(
        &self,
        field: &mut dyn VectorField,
        head: &mut dyn ScalarField,
        curve: &PathCurve,
        key: RngKey,
        samples: &[SampleId],
        clean: &Batch,
    ) -> Result<Array3<f64>, EvalError> {
        let (n, dim) = clean.dim();
        let (functions, strata) = (
            self.test_functions(key, dim),
            TimeStrata::new(curve, self.times),
        );
        let mut out = Array3::zeros((n, self.times, functions.len()));
        for k in 0..self.times {
            let times: Vec<(f64, f64)> = (samples.iter())
                .map(|s| strata.time(k, key.uniform_at(Purpose::SteinTest, *s, k as u64, 1)))
                .collect();
            for sign in [1.0, -1.0] {
                let (mut x, mut noise) = (clean.clone(), Batch::zeros(clean.raw_dim()));
                for (i, sample) in samples.iter().enumerate() {
                    let s = curve.at(times[i].0);
                    noise
                        .row_mut(i)
                        .assign(&(key.normal(Purpose::SteinTest, *sample, k as u64, dim) * sign));
                    let mut row = x.row_mut(i);
                    row *= s.alpha;
                    row.scaled_add(s.sigma, &noise.row(i));
                }
                let t: Vec<f64> = times.iter().map(|p| p.0).collect();
                let at = Points::new(samples, &t, &x);
                let v = field.velocity(at)?;
                let divergence = head.eval(at)?;
                for i in 0..n {
                    let s = curve.at(t[i]);
                    let scale = (s.alpha * s.alpha + s.sigma * s.sigma).sqrt();
                    let (x, v) = (x.row(i), v.row(i));
                    let velocity_score = match self.score {
                        SteinScore::Noise => -v.dot(&noise.row(i)) / s.sigma,
                        SteinScore::Model => {
                            let view = Prediction::Velocity.denoised(&s);
                            let denoised = &x * view.a + &v * view.b;
                            v.dot(&(denoised * s.alpha - x)) / (s.sigma * s.sigma)
                        }
                    };
                    for (j, function) in functions.iter().enumerate() {
                        let (g, along) = function.value_and_directional_derivative(x, v, scale);
                        // A state and its mirror image are averaged into one draw. They depend on
                        // each other, and the terms that are odd in ε cancel.
                        out[[i, k, j]] +=
                            0.5 * times[i].1 * (g * (divergence[i] + velocity_score) + along);
                    }
                }
            }
        }
        Ok(out)
    }

    /// The results of the tests, from the residuals of all samples. Residuals that are not finite
    /// are excluded.
    pub fn summarize(
        &self,
        curve: &PathCurve,
        key: RngKey,
        dim: usize,
        residuals: &Array3<f64>,
    ) -> SteinTestResults {
        let (functions, strata) = (
            self.test_functions(key, dim),
            TimeStrata::new(curve, self.times),
        );
        let tests = (self.times * functions.len()) as f64;
        let undefined = Estimate {
            value: f64::NAN,
            stderr: None,
            n: 0,
        };
        let mut found = Vec::new();
        for k in 0..self.times {
            for (j, function) in functions.iter().enumerate() {
                let values: Vec<f64> = residuals
                    .slice(ndarray::s![.., k, j])
                    .iter()
                    .copied()
                    .filter(|v| v.is_finite())
                    .collect();
                let mean = stats::mean_estimate(&values).unwrap_or(undefined);
                // If every residual is zero, the head passes: z is 0 rather than 0/0.
                let z = match mean.stderr {
                    Some(e) if e > 0.0 => mean.value / e,
                    _ if mean.value == 0.0 => 0.0,
                    _ => f64::NAN,
                };
                let (from, to) = (strata.time(k, 0.0).0, strata.time(k, 1.0).0);
                let p = (tests * stats::normal_two_sided_p(z)).min(1.0);
                found.push(SteinResidual {
                    from,
                    to,
                    function: function.name(),
                    mean,
                    z,
                    p,
                });
            }
        }
        let bias = residuals.index_axis(Axis(2), 0).sum_axis(Axis(1)) * strata.width();
        let bias: Vec<f64> = bias.iter().copied().filter(|v| v.is_finite()).collect();
        SteinTestResults {
            residuals: found,
            bias: stats::mean_estimate(&bias).unwrap_or(undefined),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::field::JacobianOperator;
    use crate::flow::path::ProbabilityPath;
    use crate::model::analytic::{self, AnalyticMixture};
    use crate::num::TangentBatch;

    fn divergence(model: &mut AnalyticMixture, t: &[f64], x: &Batch) -> Vec<f64> {
        let d = x.ncols();
        let basis =
            TangentBatch::from_shape_fn((d, x.nrows(), d), |(i, _, j)| f64::from(u8::from(i == j)));
        model
            .quadratic_form(Points::of_first_samples(t, x), &basis)
            .expect("analytic")
            .sum_axis(Axis(0))
            .to_vec()
    }

    /// A head that is given by a formula.
    struct Head<F>(AnalyticMixture, F);

    impl<F: Fn(&mut AnalyticMixture, &[f64], &Batch) -> Vec<f64> + Send> ScalarField for Head<F> {
        fn eval(&mut self, at: Points) -> Result<Vec<f64>, EvalError> {
            let Points { t, x, .. } = at;
            Ok(self.1(&mut self.0, t, x))
        }
    }

    /// Data from the model's own distribution.
    fn data(model: &AnalyticMixture, n: usize) -> Batch {
        let (key, d) = (RngKey { seed: 31 }, model.means.ncols());
        let mut x = Batch::zeros((n, d));
        for (i, mut row) in x.rows_mut().into_iter().enumerate() {
            let u = key.uniform(Purpose::Check, i as u64, 1, 1)[0];
            let k = usize::from(u > 0.5) + usize::from(u > 0.8);
            let noise = key.normal(Purpose::Check, i as u64, 2, d) * model.variances[k].sqrt();
            row.assign(&(noise + model.means.row(k)));
        }
        x
    }

    fn test<F>(path: &ProbabilityPath, spec: &SteinTest, head: F) -> SteinTestResults
    where
        F: Fn(&mut AnalyticMixture, &[f64], &Batch) -> Vec<f64> + Send,
    {
        let curve = path.curve().expect("right");
        let (mut model, key) = (
            analytic::example_mixture(curve.clone(), 3),
            RngKey { seed: 7 },
        );
        let (x, ids) = (
            data(&model, spec.samples),
            (0..spec.samples as u64).collect::<Vec<_>>(),
        );
        let mut head = Head(model.clone(), head);
        let residuals = spec
            .residuals(&mut model, &mut head, &curve, key, &ids, &x)
            .expect("analytic");
        spec.summarize(&curve, key, 3, &residuals)
    }

    fn paths() -> Vec<ProbabilityPath> {
        let mut paths = ProbabilityPath::defaults();
        paths.push(ProbabilityPath::Edm {
            sigma_min: 0.05,
            sigma_max: 20.0,
        });
        paths
    }

    fn small(score: SteinScore) -> SteinTest {
        SteinTest {
            times: 3,
            samples: 1500,
            features: 4,
            score,
            ..SteinTest::default()
        }
    }

    fn worst(findings: &SteinTestResults, of: impl Fn(&str) -> bool) -> f64 {
        let z = findings
            .residuals
            .iter()
            .filter(|r| of(&r.function))
            .map(|r| r.z.abs());
        z.fold(0.0, f64::max)
    }

    /// T12: the true divergence passes on every path with either score, and has no bias.
    #[test]
    fn stein_test_passes_for_the_true_divergence() {
        for path in paths() {
            for score in [SteinScore::Noise, SteinScore::Model] {
                let found = test(&path, &small(score), divergence);
                assert_eq!(found.residuals.len(), 3 * (1 + 3 + 1 + 4));
                assert!(
                    worst(&found, |_| true) < 4.3,
                    "{path:?} {score:?}: {}",
                    worst(&found, |_| true)
                );
                assert!(
                    found.residuals.iter().all(|r| r.p > 1e-3),
                    "{path:?} {score:?}"
                );
                let z = found.bias.value / found.bias.stderr.expect("many");
                assert!(z.abs() < 4.0, "{path:?} {score:?}: {:?}", found.bias);
            }
        }
    }

    /// A head trained on −v·s has the right mean and is wrong for single samples. It passes the
    /// test with g = 1 and fails others.
    ///
    /// The mean of its residual is E[v·∇g]. With g = x this is E[v], which is not zero if α scales
    /// data with a mean. E[v] is zero on edm paths, where the test with |x|² rejects the head.
    #[test]
    fn stein_test_rejects_a_head_that_is_unbiased_only_in_the_mean() {
        let wrong = |m: &mut AnalyticMixture, t: &[f64], x: &Batch| -> Vec<f64> {
            let v = m
                .velocity(Points::of_first_samples(t, x))
                .expect("analytic");
            (0..t.len())
                .map(|i| {
                    let s = m.curve.at(t[i]);
                    let view = Prediction::Velocity.denoised(&s);
                    let denoised = &x.row(i) * view.a + &v.row(i) * view.b;
                    v.row(i).dot(&(&x.row(i) - &(denoised * s.alpha))) / (s.sigma * s.sigma)
                })
                .collect()
        };
        let flow = ProbabilityPath::FlowMatching {
            data_at: 1,
            t_min: 0.02,
            t_max: 0.98,
        };
        for (path, caught) in [
            (flow, "x["),
            (
                ProbabilityPath::Edm {
                    sigma_min: 0.05,
                    sigma_max: 20.0,
                },
                "x.x/d",
            ),
        ] {
            for score in [SteinScore::Noise, SteinScore::Model] {
                let found = test(&path, &small(score), wrong);
                let largest = |name: &str| {
                    worst(&found, |f| f.starts_with(name) && (name != "1" || f == "1"))
                };
                assert!(
                    largest("1") < 4.0,
                    "{path:?} {score:?}: g = 1 has |z| {}",
                    largest("1")
                );
                assert!(
                    largest(caught) > 8.0,
                    "{path:?} {score:?}: g = {caught} has |z| {}",
                    largest(caught)
                );
                assert!(
                    found.residuals.iter().any(|r| r.p < 1e-6),
                    "{path:?} {score:?}"
                );
                // With the model's score this head's residual for g = 1 is zero for every state.
                let allowed = 4.0 * found.bias.stderr.expect("many") + 1e-12;
                assert!(
                    found.bias.value.abs() <= allowed,
                    "{path:?} {score:?}: {:?}",
                    found.bias
                );
            }
        }
    }

    /// A constant error per unit of ln σ (or of time) is a known bias, which the test measures.
    #[test]
    fn stein_test_measures_a_known_bias() {
        for path in [
            ProbabilityPath::Edm {
                sigma_min: 0.05,
                sigma_max: 20.0,
            },
            ProbabilityPath::FlowMatching {
                data_at: 1,
                t_min: 0.0,
                t_max: 1.0,
            },
        ] {
            let of_time = matches!(path, ProbabilityPath::FlowMatching { .. });
            let biased = |m: &mut AnalyticMixture, t: &[f64], x: &Batch| -> Vec<f64> {
                let error = t.iter().map(|t| if of_time { 0.5 } else { 0.5 / t });
                divergence(m, t, x)
                    .iter()
                    .zip(error)
                    .map(|(d, e)| d + e)
                    .collect()
            };
            // ∫ 0.5 dt from t = 1 to 0, and ∫ 0.5 dσ/σ from 0.05 to 20.
            let known = if of_time { -0.5 } else { 0.5 * 400f64.ln() };
            let found = test(&path, &small(SteinScore::Noise), biased).bias;
            let error = found.stderr.expect("many");
            assert!(
                (found.value - known).abs() < 4.0 * error && error < 0.3,
                "{path:?}: {found:?} {known}"
            );
        }
    }

    #[test]
    fn test_function_gradients_match_finite_differences() {
        let spec = SteinTest {
            features: 3,
            ..SteinTest::default()
        };
        let x = RngKey { seed: 1 }.normal(Purpose::Check, 0, 0, 5);
        let v = RngKey { seed: 1 }.normal(Purpose::Check, 1, 0, 5);
        for function in spec.test_functions(RngKey { seed: 2 }, 5) {
            let value = |h: f64| {
                function
                    .value_and_directional_derivative((&x + &(&v * h)).view(), v.view(), 1.7)
                    .0
            };
            let slope = (value(1e-5) - value(-1e-5)) / 2e-5;
            assert!(
                (function
                    .value_and_directional_derivative(x.view(), v.view(), 1.7)
                    .1
                    - slope)
                    .abs()
                    < 1e-8,
                "{}",
                function.name()
            );
        }
    }

    #[test]
    fn stein_residuals_are_batch_independent_and_data_may_repeat() {
        let curve = ProbabilityPath::Edm {
            sigma_min: 0.05,
            sigma_max: 20.0,
        }
        .curve()
        .expect("right");
        let mut model = analytic::example_mixture(curve.clone(), 3);
        let (spec, key) = (small(SteinScore::Noise), RngKey { seed: 7 });
        let x = data(&model, 4);
        let mut run = |ids: &[u64], x: &Batch| {
            let mut head = Head(
                model.clone(),
                |m: &mut AnalyticMixture, t: &[f64], x: &Batch| divergence(m, t, x),
            );
            spec.residuals(&mut model, &mut head, &curve, key, ids, x)
                .expect("analytic")
        };
        let all = run(&[0, 1, 2, 3], &x);
        let one = run(&[2], &x.slice(ndarray::s![2..3, ..]).to_owned());
        assert_eq!(all.index_axis(Axis(0), 2), one.index_axis(Axis(0), 0));
        let again = run(&[6], &x.slice(ndarray::s![2..3, ..]).to_owned());
        assert!(one != again);
    }
}
