//! Importance weights: effective sample size, normalizing constant and weighted means, with errors
//! that know of weights which the samples have not shown.
//!
//! Kish's effective sample size is too large as a rule, because the largest weights are rare. Its
//! interval comes from the generalized Pareto distribution of the largest weights, as in
//! Pareto-smoothed importance sampling (Vehtari, Simpson, Gelman, Yao & Gabry, JMLR 25, 2024).
//!
//! # Example
//!
//! Samples of N(0, 1.2²) stand for N(0, 1); the share is √(2·1.2² − 1)/1.2².
//!
//! ```
//! use flowgauge::num::importance_weights::WeightStatistics;
//! use flowgauge::num::key::{Purpose, RngKey};
//!
//! let (n, s) = (2000, 1.2f64);
//! let z = RngKey { seed: 1 }.normal(Purpose::Check, 0, 0, n);
//! let log_weights: Vec<f64> = z.iter().map(|z| 0.5 * (1.0 - s * s) * z * z + s.ln()).collect();
//! let found = WeightStatistics::new(&log_weights, None)?;
//! let share = (2.0 * s * s - 1.0).sqrt() / (s * s);
//! assert!(found.ess.low.unwrap() < share && share < found.ess.high.unwrap());
//! assert!(found.log_z.value.abs() < 4.0 * found.log_z.stderr.unwrap());
//! # Ok::<(), String>(())
//! ```

use super::pareto::ParetoFit;
use super::stats::{Estimate, Z95, normal_two_sided_p};

/// The shape k̂ above which the weights say nothing about the end of their distribution: the
/// interval of the effective sample size has no lower end then.
pub const MAX_RELIABLE_SHAPE: f64 = 0.7;

/// The shape k̂ from which E\[w²\] is infinite for the fitted tail, so that the error of a mean is
/// larger than its delta method says.
pub const FINITE_VARIANCE_SHAPE: f64 = 0.5;

/// The shape k̂ from which E\[w\] itself is infinite for the fitted tail: log Z has no error then.
const FINITE_MEAN_SHAPE: f64 = 1.0;

/// The mean squared standard error of log-densities above which the noise takes a tenth of the
/// effective sample size.
pub const MAX_NOISE_VARIANCE: f64 = 0.1;

/// The tail is followed to the weight that n to this power samples exceed once on average. The
/// moments of a tail with k ≥ ½ would be infinite without an end. This one is for the interval of
/// the effective sample size.
const ESS_TAIL_POWER: f64 = 4.0;

/// As [`ESS_TAIL_POWER`], for the error of log Z, on which weights of that rarity have no effect in
/// any other set of samples.
const LOG_Z_TAIL_POWER: f64 = 2.0;

/// An estimate with a 95 % interval that need not be symmetric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IntervalEstimate {
    /// The estimated value.
    pub value: f64,
    /// The standard error. `None` if it is not defined.
    pub stderr: Option<f64>,
    /// The lower end of the interval. `None` if the samples cannot show one.
    pub low: Option<f64>,
    /// The upper end of the interval. `None` if the samples cannot show one.
    pub high: Option<f64>,
    /// The number of values behind the estimate.
    pub n: usize,
}

impl IntervalEstimate {
    /// The estimate of minus the quantity.
    pub fn negated(self) -> IntervalEstimate {
        IntervalEstimate {
            value: 0.0 - self.value,
            low: self.high.map(|v| 0.0 - v),
            high: self.low.map(|v| 0.0 - v),
            ..self
        }
    }
}

/// What the weights of some samples say about their proposal and their target.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightStatistics {
    /// Kish's effective sample size as a share of the samples, (Σw)²/(n Σw²), of the weights as
    /// they are. Its limit for many samples is E\[w\]²/E\[w²\].
    pub ess: IntervalEstimate,
    /// The share that the same samples would have if their log-densities had no noise. `None` if
    /// they have none.
    pub corrected_ess: Option<IntervalEstimate>,
    /// log Z = log E\[w\], in nats, corrected for the bias of the logarithm and for noise of the
    /// log-densities.
    pub log_z: IntervalEstimate,
    /// The logarithm of the mean weight, corrected for noise but not for the bias of the logarithm:
    /// its exponential is an unbiased estimate of Z.
    pub log_mean: f64,
    /// log Z without the correction for noise. `None` if there is no noise.
    pub naive_log_z: Option<IntervalEstimate>,
    /// k̂, the shape of the generalized Pareto distribution of the largest weights. `None` if the
    /// weights are too few or are all equal.
    pub shape: Option<IntervalEstimate>,
    /// The mean squared standard error of the log-densities. `None` if they have no noise.
    pub noise_variance: Option<f64>,
}

impl WeightStatistics {
    /// The statistics of log-weights log w = −u(x) − log q(x). `noise` holds the variance of the
    /// error of each log q, which is taken as normal.
    ///
    /// With log q + e in place of log q, a weight is w·exp(−e), whose mean is w·exp(v/2) and whose
    /// mean square is w²·exp(2v). The corrected quantities divide by these factors.
    ///
    /// # Errors
    /// Fails if there are fewer than two weights, if a log-weight is NaN or +∞, or if all are −∞.
    pub fn new(log_weights: &[f64], noise: Option<&[f64]>) -> Result<WeightStatistics, String> {
        if log_weights.len() < 2 {
            return Err(format!(
                "{} weights, expected at least 2",
                log_weights.len()
            ));
        }
        if let Some(bad) = log_weights
            .iter()
            .find(|l| l.is_nan() || **l == f64::INFINITY)
        {
            return Err(format!("a log-weight is {bad}, expected a number"));
        }
        if log_weights.iter().all(|l| *l == f64::NEG_INFINITY) {
            return Err("all weights are 0".to_owned());
        }
        let plain = WeightMoments::of_log_weights(log_weights);
        let Some(noise) = noise.filter(|v| v.iter().any(|v| *v > 0.0)) else {
            return Ok(WeightStatistics {
                ess: plain.ess,
                corrected_ess: None,
                log_z: plain.log_z,
                log_mean: plain.log_mean,
                naive_log_z: None,
                shape: plain.shape,
                noise_variance: None,
            });
        };
        let unbiased = WeightMoments::of_log_weights(&without_noise_bias(log_weights, noise));
        let squares: Vec<f64> = log_weights
            .iter()
            .zip(noise)
            .map(|(l, v)| 2.0 * (l - v))
            .collect();
        let share = (2.0 * unbiased.log_mean - log_mean_exp(&squares)).exp();
        let mean_noise = noise.iter().sum::<f64>() / noise.len() as f64;
        let factor = share / plain.ess.value;
        // Errors that were estimated from few probes make the factor too small, by the curvature of
        // the exponential; their mean does not, but it neglects how they differ. The interval covers
        // both.
        let factors = [factor, mean_noise.exp()];
        let (least, most) = (factors[0].min(factors[1]), factors[0].max(factors[1]));
        let scaled = |v: f64, factor: f64| (v * factor).min(1.0);
        Ok(WeightStatistics {
            corrected_ess: Some(IntervalEstimate {
                value: scaled(plain.ess.value, factor),
                stderr: plain.ess.stderr.map(|e| e * factor),
                low: plain.ess.low.map(|low| scaled(low, least)),
                high: plain.ess.high.map(|high| scaled(high, most)),
                n: plain.ess.n,
            }),
            ess: plain.ess,
            log_z: unbiased.log_z,
            log_mean: unbiased.log_mean,
            naive_log_z: Some(plain.log_z),
            shape: plain.shape,
            noise_variance: Some(mean_noise),
        })
    }

    /// Whether the samples can bound their effective sample size from below.
    pub fn bounds_ess(&self) -> bool {
        self.ess.low.is_some()
    }
}

/// Log-weights without the factor exp(v/2) that noise of variance v gives their mean.
pub fn without_noise_bias(log_weights: &[f64], noise: &[f64]) -> Vec<f64> {
    log_weights
        .iter()
        .zip(noise)
        .map(|(l, v)| l - 0.5 * v)
        .collect()
}

/// The self-normalized mean Σ w f/Σ w with the standard error of its linearization. `None` if there
/// are fewer than two values, or no weight is above 0.
pub fn weighted_mean(log_weights: &[f64], values: &[f64]) -> Option<Estimate> {
    let top = largest(log_weights);
    if values.len() < 2 || top == f64::NEG_INFINITY {
        return None;
    }
    let weights: Vec<f64> = log_weights.iter().map(|l| (l - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    // A value without weight has no part, even if it is not a number.
    let pairs = || weights.iter().zip(values).filter(|(w, _)| **w > 0.0);
    let value = pairs().map(|(w, f)| w * f).sum::<f64>() / total;
    let n = values.len() as f64;
    let square: f64 = pairs().map(|(w, f)| (w * (f - value)).powi(2)).sum();
    Some(Estimate {
        value,
        stderr: Some((square * n / (n - 1.0)).sqrt() / total),
        n: values.len(),
    })
}

/// The largest of some numbers.
fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// The logarithm of the mean of exp(v).
fn log_mean_exp(values: &[f64]) -> f64 {
    let top = largest(values);
    let sum: f64 = values.iter().map(|v| (v - top).exp()).sum();
    top + (sum / values.len() as f64).ln()
}

/// The statistics of one set of weights, without regard to noise.
struct WeightMoments {
    ess: IntervalEstimate,
    log_z: IntervalEstimate,
    shape: Option<IntervalEstimate>,
    /// The logarithm of the mean weight, without a correction.
    log_mean: f64,
}

impl WeightMoments {
    /// The statistics of at least two log-weights, of which one is finite.
    fn of_log_weights(log_weights: &[f64]) -> WeightMoments {
        let count = log_weights.len();
        let n = count as f64;
        let top = largest(log_weights);
        let mut w: Vec<f64> = log_weights.iter().map(|l| (l - top).exp()).collect();
        w.sort_by(f64::total_cmp);
        let mean = w.iter().sum::<f64>() / n;
        let square = w.iter().map(|w| w * w).sum::<f64>() / n;
        let share = (mean * mean / square).min(1.0);
        let influence = |w: &f64| 2.0 * w / mean - w * w / square - 1.0;
        let influences: f64 = w.iter().map(|w| influence(w).powi(2)).sum();
        let relative_error = (influences / (n * (n - 1.0))).sqrt();
        let [mut low, mut high] =
            [-1.0, 1.0].map(|side| share * (side * Z95 * relative_error).exp());

        let tail = (n / 5.0).min(3.0 * n.sqrt()).ceil() as usize;
        let threshold = w[count - tail - 1];
        let exceedances: Vec<f64> = w[count - tail..].iter().map(|w| w - threshold).collect();
        let fit = ParetoFit::new(&exceedances);
        let (mut typical, mut least) = (share, low);
        if let Some(fit) = &fit {
            let quantiles = |power: f64| smoothed_share_quantiles(&w, tail, fit, power);
            let [lowest, _, highest] = quantiles(ESS_TAIL_POWER);
            (low, high) = (low.min(lowest), high.max(highest));
            let [lowest, median, _] = quantiles(LOG_Z_TAIL_POWER);
            (typical, least) = (typical.min(median), least.min(lowest));
        }
        let bounded = fit
            .as_ref()
            .is_none_or(|fit| fit.best.shape <= MAX_RELIABLE_SHAPE);
        // A few weights have no tail that could be fitted, unless they are all equal.
        let known = fit.is_some() || w[0] == w[count - 1];

        let variance = |share: f64| (1.0 / share - 1.0).max(0.0) / (n - 1.0);
        let log_mean = top + mean.ln();
        let log_z = log_mean + 0.5 * variance(share);
        let stderr = variance(typical).sqrt();
        let has_mean = known
            && fit
                .as_ref()
                .is_none_or(|fit| fit.best.shape < FINITE_MEAN_SHAPE);
        WeightMoments {
            ess: IntervalEstimate {
                value: share,
                stderr: Some(share * relative_error),
                low: (bounded && known).then_some(low),
                high: Some(high.min(1.0)),
                n: count,
            },
            log_z: IntervalEstimate {
                value: log_z,
                stderr: has_mean.then_some(stderr),
                low: has_mean.then_some(log_z - Z95 * stderr),
                high: (bounded && known).then(|| log_z + Z95 * variance(least).sqrt().max(stderr)),
                n: count,
            },
            shape: fit.map(|fit| IntervalEstimate {
                value: fit.best.shape,
                stderr: Some(fit.shape_stderr()),
                low: Some(fit.shape_quantile(0.025)),
                high: Some(fit.shape_quantile(0.975)),
                n: fit.n,
            }),
            log_mean,
        }
    }
}

/// The quantiles 2.5 %, 50 % and 97.5 % of E\[w\]²/E\[w²\] if the `tail` largest of the `sorted` weights are replaced by the
/// distributions of a fit, up to the weight that n to the power `power` samples exceed once.
///
/// Each distribution of the fit gives a normal distribution of the share's logarithm, whose spread
/// is that of the other weights; the quantiles are those of their mixture.
fn smoothed_share_quantiles(sorted: &[f64], tail: usize, fit: &ParetoFit, power: f64) -> [f64; 3] {
    let count = sorted.len();
    let n = count as f64;
    let (body, threshold) = (&sorted[..count - tail], sorted[count - tail - 1]);
    let probability = tail as f64 / n;
    let beyond = (n.powf(-power) / probability).min(1.0);
    // Means of powers of the weights, with those of the tail as large as the threshold.
    let mean_power =
        |k: i32| body.iter().map(|w| w.powi(k)).sum::<f64>() / n + probability * threshold.powi(k);
    let powers = [1, 2, 3, 4].map(mean_power);
    let body_power = |k: i32| powers[k as usize - 1] - probability * threshold.powi(k);
    let [p1, p2, p3, p4] = powers;
    let normals: Vec<(f64, f64, f64)> = fit
        .posterior
        .iter()
        .map(|(weight, pareto)| {
            let [first, second] = pareto.truncated_moments(beyond);
            let mean = body_power(1) + probability * (threshold + first);
            let squares = threshold * threshold + 2.0 * threshold * first + second;
            let square = body_power(2) + probability * squares;
            // The variance of 2w/mean − w²/square over the weights below the threshold.
            let (a, b) = (2.0 / mean, 1.0 / square);
            let variance =
                a * a * (p2 - p1 * p1) - 2.0 * a * b * (p3 - p1 * p2) + b * b * (p4 - p2 * p2);
            let spread = (variance.max(0.0) / n).sqrt();
            (*weight, 2.0 * mean.ln() - square.ln(), spread)
        })
        .collect();
    [0.025, 0.5, 0.975].map(|share| mixture_quantile(&normals, share).exp().min(1.0))
}

/// The quantile of a mixture of normal distributions, given as weight, mean and standard deviation.
fn mixture_quantile(normals: &[(f64, f64, f64)], share: f64) -> f64 {
    let below = |x: f64| -> f64 {
        let one = |(weight, mean, spread): &(f64, f64, f64)| {
            let z = (x - mean) / spread.max(f64::MIN_POSITIVE);
            let outside = 0.5 * normal_two_sided_p(z.min(1e3));
            weight * if z > 0.0 { 1.0 - outside } else { outside }
        };
        normals.iter().map(one).sum()
    };
    let ends = |side: f64| {
        normals
            .iter()
            .map(move |(_, m, s)| m + side * (9.0 * s + 1e-12))
    };
    let mut low = ends(-1.0).fold(f64::INFINITY, f64::min);
    let mut high = ends(1.0).fold(f64::NEG_INFINITY, f64::max);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if below(middle) < share {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::key::{Purpose, RngKey};
    use crate::num::stats::mean_estimate;

    /// Log-weights of `n` samples of N(0, s²) in `dim` dimensions for the target N(0, 1), whose log
    /// Z is 0.
    fn gaussian_log_weights(seed: u64, n: usize, dim: usize, s: f64) -> Vec<f64> {
        let key = RngKey { seed };
        let one = |i: usize| {
            let z = key.normal(Purpose::Check, i as u64, 0, dim);
            0.5 * (1.0 - s * s) * z.dot(&z) + dim as f64 * s.ln()
        };
        (0..n).map(one).collect()
    }

    /// E\[w\]²/E\[w²\] of these weights.
    fn gaussian_share(dim: usize, s: f64) -> f64 {
        ((2.0 * s * s - 1.0).sqrt() / (s * s)).powi(dim as i32)
    }

    /// The intervals of the share cover the closed form at n = 1,000 where Kish's value is too
    /// large by a factor, and log Z is within 4 errors of 0. An interval without a lower end is one
    /// that covers whatever is below its upper end.
    #[test]
    fn intervals_cover_the_closed_form() {
        let trials = 60;
        let (mut all, mut of_log_z, mut unbounded) = (0, 0, 0);
        let cases = [
            (1, 0.75),
            (2, 0.8),
            (4, 0.72),
            (8, 0.75),
            (8, 1.5),
            (16, 0.75),
            (16, 0.95),
            (32, 0.9),
            (32, 1.2),
            (64, 0.85),
            (64, 1.1),
            (128, 0.95),
        ];
        for (dim, s) in cases {
            let share = gaussian_share(dim, s);
            let (mut covered, mut kish) = (0, Vec::new());
            for trial in 0..trials {
                let weights = gaussian_log_weights(100 + trial, 1000, dim, s);
                let found = WeightStatistics::new(&weights, None).expect("numbers");
                let IntervalEstimate { low, high, .. } = found.ess;
                kish.push(found.ess.value);
                unbounded += u32::from(low.is_none());
                assert_eq!(
                    low.is_none(),
                    found.shape.expect("a tail").value > MAX_RELIABLE_SHAPE
                );
                covered +=
                    u32::from(low.unwrap_or(0.0) <= share && share <= high.expect("an upper end"));
                if let (Some(low), Some(stderr)) = (found.log_z.low, found.log_z.stderr) {
                    of_log_z +=
                        u32::from(low <= 0.0 && found.log_z.high.is_none_or(|high| high >= 0.0));
                    assert!(
                        found.log_z.value.abs() < 5.5 * stderr,
                        "{dim} {s}: {:?}",
                        found.log_z
                    );
                } else {
                    of_log_z += 1;
                }
            }
            let kish = mean_estimate(&kish).expect("trials").value;
            println!("{dim} {s}: {share:.5}, Kish {kish:.5}, covered {covered} of {trials}");
            assert!(
                f64::from(covered) >= 0.86 * trials as f64,
                "{dim} {s}: {covered}"
            );
            all += covered;
        }
        let total = (trials * cases.len() as u64) as f64;
        assert!(f64::from(all) >= 0.93 * total, "{all} of {total}");
        assert!(f64::from(of_log_z) >= 0.95 * total, "{of_log_z} of {total}");
        // Most intervals do have a lower end.
        assert!(f64::from(unbounded) < 0.15 * total, "{unbounded}");
        // A pilot of 1,000 samples is wrong by a factor of more than 50 here.
        let pilot = WeightStatistics::new(&gaussian_log_weights(1, 1000, 16, 0.75), None);
        let pilot = pilot.expect("numbers").ess;
        assert!(pilot.value > 50.0 * gaussian_share(16, 0.75), "{pilot:?}");
    }

    /// k̂ of ArviZ 0.17 (`psislw`) for weights at 400 quantiles.
    #[test]
    fn shape_agrees_with_arviz() {
        let quantiles = (0..400).map(|i| (f64::from(i) + 0.5) / 400.0);
        let exponential = |u: f64| -(1.0 - u).ln();
        type LogWeight<'a> = &'a dyn Fn(f64) -> f64;
        let cases: [(LogWeight, f64); 4] = [
            (
                &|u| 1.2 * exponential(u).powf(0.7),
                0.492_757_905_746_758_65,
            ),
            (&|u| 0.3 * exponential(u), 0.335_608_320_582_316_6),
            (&|u| 0.9 * exponential(u), 0.818_370_416_894_215_5),
            (&|u| 2.0 * u.powi(3), -0.465_718_334_799_762_43),
        ];
        for (log_weight, expected) in cases {
            let weights: Vec<f64> = quantiles.clone().map(log_weight).collect();
            let shape = WeightStatistics::new(&weights, None)
                .expect("numbers")
                .shape
                .expect("a tail");
            assert!(
                (shape.value - expected).abs() < 1e-9,
                "{shape:?} {expected}"
            );
            assert!(shape.low < Some(shape.value) && Some(shape.value) < shape.high);
            assert_eq!(shape.n, 60);
        }
    }

    /// Noise of variance v takes the factor exp(−v) from the share and adds v/2 to log Z; both
    /// corrections restore the values without noise, also where v differs between samples.
    #[test]
    fn noise_is_corrected() {
        let (dim, s, n) = (8, 0.95, 40_000);
        let share = gaussian_share(dim, s);
        let exact = gaussian_log_weights(9, n, dim, s);
        for (v, varies) in [(0.05, false), (0.1, false), (0.5, false), (0.5, true)] {
            let variance = |i: usize| {
                if varies && i.is_multiple_of(2) {
                    0.2 * v
                } else {
                    v
                }
            };
            let noise: Vec<f64> = (0..n).map(variance).collect();
            let draw = RngKey { seed: 4 }.normal(Purpose::Check, 1, 1, n);
            let noisy: Vec<f64> = (0..n)
                .map(|i| exact[i] - noise[i].sqrt() * draw[i])
                .collect();
            let found = WeightStatistics::new(&noisy, Some(&noise)).expect("numbers");
            let corrected = found.corrected_ess.expect("noise");
            let naive = found.naive_log_z.expect("noise");
            println!(
                "v {v} {varies}: share {share:.4}, naive {:.4}, corrected {:.4}; log Z naive {:.4}, \
                 corrected {:.4} ± {:.4}",
                found.ess.value,
                corrected.value,
                naive.value,
                found.log_z.value,
                found.log_z.stderr.expect("finite")
            );
            if !varies {
                assert!(
                    (found.ess.value / share / (-v).exp() - 1.0).abs() < 0.03,
                    "{v}"
                );
                assert!((naive.value - 0.5 * v).abs() < 0.02, "{v} {naive:?}");
                assert!((found.noise_variance.expect("noise") - v).abs() < 1e-12);
            }
            assert!(
                (corrected.value / share - 1.0).abs() < 0.03,
                "{v} {corrected:?}"
            );
            assert!(corrected.low < Some(share) && Some(share) < corrected.high);
            let stderr = found.log_z.stderr.expect("finite");
            assert!(
                found.log_z.value.abs() < 4.0 * stderr,
                "{v} {:?}",
                found.log_z
            );
        }
    }

    /// The weights of a perfect proposal are equal; those of a useless one are a single number.
    #[test]
    fn extreme_weights_have_honest_intervals() {
        let equal = WeightStatistics::new(&[-3.0; 100], None).expect("numbers");
        assert_eq!(
            (equal.ess.value, equal.ess.low, equal.ess.high),
            (1.0, Some(1.0), Some(1.0))
        );
        assert_eq!((equal.log_z.value, equal.log_z.stderr), (-3.0, Some(0.0)));
        assert_eq!((equal.shape, equal.corrected_ess), (None, None));
        let useless: Vec<f64> = (0..100).map(|i| -f64::from(i * i)).collect();
        let useless = WeightStatistics::new(&useless, None).expect("numbers");
        assert_eq!((useless.ess.low, useless.log_z.stderr), (None, None));
        assert!(useless.shape.expect("a tail").value > 5.0);
        // Half of the samples lie outside the target.
        let mut half = vec![0.0; 100];
        half[..50].fill(f64::NEG_INFINITY);
        let half = WeightStatistics::new(&half, None).expect("numbers");
        assert!((half.ess.value - 0.5).abs() < 1e-12);
        assert!((half.log_z.value - 0.5f64.ln()).abs() < 0.01, "{half:?}");
        for wrong in [
            &[1.0][..],
            &[0.0, f64::NAN],
            &[f64::INFINITY, 0.0],
            &[f64::NEG_INFINITY; 3],
        ] {
            assert!(WeightStatistics::new(wrong, None).is_err(), "{wrong:?}");
        }
    }

    /// Weighted means of x² under N(0, 1) from samples of N(0, 1.3²): the truth is 1.
    #[test]
    fn weighted_mean_covers_the_truth() {
        let (n, s, trials) = (500, 1.3, 400);
        let covered = (0..trials).filter(|trial| {
            let z = RngKey { seed: *trial }.normal(Purpose::Check, 7, 0, n);
            let weights: Vec<f64> = z.iter().map(|z| 0.5 * (1.0 - s * s) * z * z).collect();
            let squares: Vec<f64> = z.iter().map(|z| s * s * z * z).collect();
            let found = weighted_mean(&weights, &squares).expect("values");
            (found.value - 1.0).abs() < Z95 * found.stderr.expect("values")
        });
        let share = covered.count() as f64 / trials as f64;
        assert!((0.92..0.975).contains(&share), "{share}");
        let zero = weighted_mean(&[f64::NEG_INFINITY, 0.0, 0.0], &[f64::NAN, 1.0, 3.0]);
        assert_eq!(zero.map(|e| e.value), Some(2.0));
    }
}
