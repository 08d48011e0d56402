//! The continuous variational bound: log p(x₀) ≥ −(prior + diffusion + reconstruction), from
//! denoising errors at random times, without a path and without a divergence.
//!
//! With the log-SNR λ = ln(α²/σ²), the diffusion term is ½∫ e^λ E‖x̂ − x₀‖² dλ over the noise, in
//! which x̂ is the denoiser. The denoiser of N(0, v·I) with v = ‖x₀‖²/D has the known integral
//! ½D ln(1 + v e^λ). Only the difference of its error from the network's is estimated, with the same
//! noise: the large constant parts of both cancel.

use std::time::Instant;

use ndarray::Axis;

use super::{BoundTerms, LikelihoodResult, LikelihoodTask};
use crate::divergence::{BoundTimes, ContinuousBound, DivergenceEstimator};
use crate::flow::field::{EvalError, Points, VectorField};
use crate::flow::path::PathCurve;
use crate::num::key::{Purpose, SampleId};
use crate::num::{Batch, stats};
use crate::rows::Status;

/// The signal-to-noise ratio times the sample's mean square below which a denoiser knows nothing,
/// and above which it knows everything, to double precision. Paths go further only if their noise
/// or their data vanish.
const KNOWABLE_SNR: [f64; 2] = [1e-8, 1e12];

/// The shares of a density of times that are spread evenly over all parts.
const EVEN_SHARE: f64 = 0.2;

/// Evaluates the continuous bounds among the estimators of the task.
///
/// # Errors
/// Fails if the model cannot be evaluated.
pub fn evaluate_continuous_bounds(
    field: &mut dyn VectorField,
    task: &LikelihoodTask,
    samples: &[SampleId],
    x: &Batch,
) -> Result<Vec<LikelihoodResult>, EvalError> {
    let mut rows = Vec::new();
    for (estimator, spec) in task.estimators.iter().enumerate() {
        let DivergenceEstimator::ContinuousBound(bound) = spec else {
            continue;
        };
        let began = Instant::now();
        let mut measured = SampleBound::for_batch(task, samples, x);
        take_draws(field, task, bound, &mut measured)?;
        let seconds = began.elapsed().as_secs_f64() / samples.len().max(1) as f64;
        rows.extend(measured.into_iter().map(|sample| LikelihoodResult {
            estimator,
            path_seconds: seconds,
            entry_seconds: seconds,
            ..sample.result(task)
        }));
    }
    Ok(rows)
}

/// The integrand of a bound at one pair of draws: the rate at which the diffusion term grows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoundIntegrand {
    /// The index of the estimator in the task.
    pub estimator: usize,
    /// The sample's number.
    pub sample: SampleId,
    /// The log-SNR λ = ln(α²/σ²).
    pub log_snr: f64,
    /// ½ e^λ ‖x̂ − x₀‖², which is ½ ‖ε̂ − ε‖², in nats per unit of λ: the mean of two draws of
    /// opposite noise.
    pub rate: f64,
    /// What the rate would be for the denoiser of a normal distribution as large as the sample.
    pub normal_rate: f64,
}

/// The integrands of the continuous bounds among the estimators of the task, at all their draws.
///
/// # Errors
/// Fails if the model cannot be evaluated.
pub fn continuous_bound_integrands(
    field: &mut dyn VectorField,
    task: &LikelihoodTask,
    samples: &[SampleId],
    x: &Batch,
) -> Result<Vec<BoundIntegrand>, EvalError> {
    let mut found = Vec::new();
    for (estimator, spec) in task.estimators.iter().enumerate() {
        let DivergenceEstimator::ContinuousBound(bound) = spec else {
            continue;
        };
        let mut measured = SampleBound::for_batch(task, samples, x);
        take_draws(field, task, bound, &mut measured)?;
        for sample in measured {
            let dim = task.prior.degrees_of_freedom(sample.clean.len()) as f64;
            found.extend(sample.rates.iter().map(|[log_snr, difference]| {
                let signal = sample.scale * log_snr.exp();
                let normal_rate = 0.5 * dim * signal / (1.0 + signal);
                BoundIntegrand {
                    estimator,
                    sample: sample.sample,
                    log_snr: *log_snr,
                    rate: difference + normal_rate,
                    normal_rate,
                }
            }));
        }
    }
    Ok(found)
}

/// The integrand of pairs of draws in one part of the log-SNR.
#[derive(Debug, Clone)]
struct Stratum {
    /// The values of pairs, each divided by the density of its log-SNR.
    values: [f64; 2],
}

/// A set of pairs whose mean estimates the integral: two pairs in every stratum, or independent
/// pairs.
#[derive(Debug, Clone, Default)]
struct PairMean {
    strata: Vec<Stratum>,
    /// Whether the two pairs of a stratum are only two of many independent ones.
    independent: bool,
}

impl PairMean {
    /// The mean, its variance and the degrees of freedom of the variance.
    fn estimate(&self) -> (f64, f64, f64) {
        let values: Vec<f64> = self.strata.iter().flat_map(|s| s.values).collect();
        if self.independent {
            let found = stats::mean_estimate(&values);
            let stderr = found.and_then(|e| e.stderr).unwrap_or(f64::INFINITY);
            let mean = found.map_or(f64::NAN, |e| e.value);
            return (mean, stderr * stderr, values.len() as f64 - 1.0);
        }
        let n = self.strata.len() as f64;
        let variances: Vec<f64> = self
            .strata
            .iter()
            .map(|s| (s.values[0] - s.values[1]).powi(2) / (4.0 * n * n))
            .collect();
        let within: f64 = variances.iter().sum();
        let squares: f64 = variances.iter().map(|v| v * v).sum();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        // Welch and Satterthwaite: each stratum has one degree of freedom.
        let freedom = if squares > 0.0 {
            within * within / squares
        } else {
            n
        };
        (mean, spread_to_neighbours(&variances), freedom)
    }
}

/// The sum of the variances of neighbouring strata, of which each is at least half of its
/// neighbours'.
///
/// Both pairs of a stratum may miss what is rare there, which its neighbours tell. For samples
/// between the components of a mixture, intervals of two standard errors cover 96 % with 64 strata
/// so, and 92 % with the plain sum.
fn spread_to_neighbours(variances: &[f64]) -> f64 {
    let near = |i: Option<usize>| i.and_then(|i| variances.get(i)).copied().unwrap_or(0.0);
    (0..variances.len())
        .map(|i| {
            let beside = near(i.checked_sub(1)).max(near(i.checked_add(1)));
            variances[i].max(0.5 * beside)
        })
        .sum()
}

/// One sample's bound while it is measured.
struct SampleBound {
    sample: SampleId,
    /// The data point.
    clean: Vec<f64>,
    /// Its square divided by the number of dimensions in which it has a density.
    scale: f64,
    /// The range of the log-SNR, from the prior end to the data end.
    range: [f64; 2],
    /// The pairs with a density of times that is known beforehand.
    first: PairMean,
    /// The pairs whose times depend on the first ones.
    second: PairMean,
    /// The log-SNR of every pair, and the difference of its integrand from that of the normal
    /// distribution's denoiser, in nats per unit of the log-SNR.
    rates: Vec<[f64; 2]>,
    evaluations: u64,
}

/// A density of the log-SNR that is constant on equal parts of the range.
struct TimeDensity {
    /// The probability of each part.
    shares: Vec<f64>,
}

impl TimeDensity {
    /// The position of a quantile in the range, as a share of its length, and the density there
    /// relative to a uniform one.
    fn at(&self, quantile: f64) -> (f64, f64) {
        let parts = self.shares.len() as f64;
        let mut below = 0.0;
        for (i, share) in self.shares.iter().enumerate() {
            if quantile < below + share || i + 1 == self.shares.len() {
                let inside = ((quantile - below) / share).clamp(0.0, 1.0);
                return ((i as f64 + inside) / parts, share * parts);
            }
            below += share;
        }
        (quantile, 1.0)
    }
}

impl SampleBound {
    fn for_batch(task: &LikelihoodTask, samples: &[SampleId], x: &Batch) -> Vec<SampleBound> {
        let rows = x.rows().into_iter().zip(samples);
        rows.map(|(row, sample)| SampleBound::new(task, *sample, row.to_vec()))
            .collect()
    }

    fn new(task: &LikelihoodTask, sample: SampleId, clean: Vec<f64>) -> SampleBound {
        let curve = task.curve;
        let dim = task.prior.degrees_of_freedom(clean.len());
        let mean_square = clean.iter().map(|v| v * v).sum::<f64>() / dim.max(1) as f64;
        // A sample of zeros has no size of its own.
        let size = if mean_square > 0.0 { mean_square } else { 1.0 };
        let known = KNOWABLE_SNR.map(|snr| (snr / size).ln());
        let log_snr = |t: f64| 2.0 * curve.at(t).half_log_snr();
        let low = log_snr(curve.prior_end()).max(known[0]);
        let high = log_snr(curve.data_end()).min(known[1]);
        SampleBound {
            sample,
            clean,
            scale: mean_square,
            range: [low, high],
            first: PairMean::default(),
            second: PairMean::default(),
            rates: Vec::new(),
            evaluations: 0,
        }
    }

    fn length(&self) -> f64 {
        self.range[1] - self.range[0]
    }

    /// A density of times in proportion to the root mean square of the first pairs' values.
    fn importance(&self) -> TimeDensity {
        let sizes: Vec<f64> = self
            .first
            .strata
            .iter()
            .map(|s| (0.5 * (s.values[0].powi(2) + s.values[1].powi(2))).sqrt())
            .collect();
        // Two pairs may miss what lies in their part: neighbours lend it half their size.
        let smooth: Vec<f64> = (0..sizes.len())
            .map(|i| {
                let near = |j: Option<usize>| j.and_then(|j| sizes.get(j)).copied().unwrap_or(0.0);
                sizes[i]
                    .max(0.5 * near(i.checked_sub(1)))
                    .max(0.5 * near(i.checked_add(1)))
            })
            .collect();
        let total: f64 = smooth.iter().sum();
        let even = 1.0 / sizes.len() as f64;
        let shares = smooth
            .iter()
            .map(|size| match total > 0.0 && total.is_finite() {
                true => EVEN_SHARE * even + (1.0 - EVEN_SHARE) * size / total,
                false => even,
            });
        TimeDensity {
            shares: shares.collect(),
        }
    }

    /// The bound with its terms and its error.
    fn result(self, task: &LikelihoodTask) -> LikelihoodResult {
        let dim = task.prior.degrees_of_freedom(self.clean.len()) as f64;
        let [low, high] = self.range;
        let square: f64 = self.clean.iter().map(|v| v * v).sum();
        let end = task.curve.at(task.curve.prior_end());
        let ratio = (end.sigma / task.prior.std).powi(2);
        let prior = 0.5 * dim * (ratio - 1.0 - ratio.ln())
            + 0.5 * square * (end.alpha / task.prior.std).powi(2);
        let reconstruction = 0.5 * dim * (1.0 + std::f64::consts::TAU.ln() - high);
        let known =
            0.5 * dim * ((self.scale * high.exp()).ln_1p() - (self.scale * low.exp()).ln_1p());
        let count = |pairs: &PairMean| pairs.strata.len() as f64;
        let all = count(&self.first) + count(&self.second);
        let (mut mean, mut variance, mut freedom) = (0.0, 0.0, 0.0);
        for part in [&self.first, &self.second] {
            if part.strata.is_empty() {
                continue;
            }
            let share = count(part) / all;
            let (value, error, degrees) = part.estimate();
            mean += share * value;
            let error = share * share * error;
            variance += error;
            freedom += error * error / degrees;
        }
        let degrees = if freedom > 0.0 {
            variance * variance / freedom
        } else {
            all
        };
        let diffusion = known + mean;
        let value = -(prior + diffusion + reconstruction);
        let ok = value.is_finite();
        let stderr = variance.sqrt();
        let quantile = stats::student_t_quantile(0.95, (degrees.floor() as usize).max(1));
        LikelihoodResult {
            sample: self.sample,
            log_likelihood: ok.then_some(value),
            stderr: ok.then_some(stderr),
            half_width: ok.then_some(stderr * quantile),
            bound_terms: ok.then_some(BoundTerms {
                prior,
                diffusion,
                reconstruction,
            }),
            evaluations: self.evaluations,
            status: if ok { Status::Ok } else { Status::NonFinite },
            ..LikelihoodResult::default()
        }
    }
}

/// Takes all draws of a bound for the samples of one batch.
fn take_draws(
    field: &mut dyn VectorField,
    task: &LikelihoodTask,
    bound: &ContinuousBound,
    measured: &mut [SampleBound],
) -> Result<(), EvalError> {
    let strata = bound.draws / 4;
    let first = match bound.times {
        BoundTimes::Importance => (strata / 4).max(1),
        _ => strata,
    };
    let independent = bound.times == BoundTimes::Uniform;
    let even = TimeDensity { shares: vec![1.0] };
    for stratum in 0..first {
        let position = |draw: f64| match independent {
            true => even.at(draw),
            false => even.at((stratum as f64 + draw) / first as f64),
        };
        let values = pairs_of_stratum(field, task, stratum, measured, |_, draw| position(draw))?;
        for (sample, values) in measured.iter_mut().zip(values) {
            sample.first.independent = independent;
            sample.first.strata.push(Stratum { values });
        }
    }
    let rest = strata - first;
    let densities: Vec<TimeDensity> = measured.iter().map(SampleBound::importance).collect();
    for stratum in 0..rest {
        let values = pairs_of_stratum(field, task, first + stratum, measured, |i, draw| {
            densities[i].at((stratum as f64 + draw) / rest as f64)
        })?;
        for (sample, values) in measured.iter_mut().zip(values) {
            sample.second.strata.push(Stratum { values });
        }
    }
    Ok(())
}

/// The values of two pairs for every sample. `position` turns the sample's place in the batch and a
/// uniform draw into a place in the range of the log-SNR, and the density there.
fn pairs_of_stratum(
    field: &mut dyn VectorField,
    task: &LikelihoodTask,
    stratum: usize,
    measured: &mut [SampleBound],
    position: impl Fn(usize, f64) -> (f64, f64),
) -> Result<Vec<[f64; 2]>, EvalError> {
    let mut values = vec![[0.0; 2]; measured.len()];
    for pair in [0, 1] {
        let number = (2 * stratum + pair) as u64;
        let placed: Vec<PlacedPair> = measured
            .iter()
            .enumerate()
            .map(|(i, sample)| {
                let draw = task
                    .key
                    .uniform_at(Purpose::Bound, sample.sample, number, 1);
                let (place, density) = position(i, draw);
                let log_snr = sample.range[0] + place * sample.length();
                PlacedPair::new(task, sample, number, log_snr, density)
            })
            .collect();
        for sign in [1.0, -1.0] {
            let errors = denoising_differences(field, task.curve, measured, &placed, sign)?;
            for (i, error) in errors.into_iter().enumerate() {
                values[i][pair] += 0.5 * error;
            }
        }
        for (i, (sample, placed)) in measured.iter_mut().zip(&placed).enumerate() {
            sample.evaluations += 2 * field.calls_at(placed.t);
            sample
                .rates
                .push([placed.log_snr, values[i][pair] / placed.weight]);
        }
    }
    Ok(values)
}

/// One pair of draws of a sample: a time, and noise with both signs.
struct PlacedPair {
    t: f64,
    log_snr: f64,
    noise: Vec<f64>,
    /// The length of the range of the log-SNR divided by the density.
    weight: f64,
}

impl PlacedPair {
    fn new(
        task: &LikelihoodTask,
        sample: &SampleBound,
        number: u64,
        log_snr: f64,
        density: f64,
    ) -> PlacedPair {
        let noise = task
            .key
            .normal(Purpose::Bound, sample.sample, number, sample.clean.len());
        let noise = task.prior.project(noise.insert_axis(Axis(0)));
        PlacedPair {
            t: task.curve.time_of_ratio((-0.5 * log_snr).exp()),
            log_snr,
            noise: noise.into_iter().collect(),
            weight: sample.length() / density,
        }
    }
}

/// The weighted differences ½ e^λ (‖x̂ − x₀‖² − ‖x̂_v − x₀‖²) of the network's denoising error from
/// that of the denoiser of N(0, v·I).
fn denoising_differences(
    field: &mut dyn VectorField,
    curve: &PathCurve,
    measured: &[SampleBound],
    placed: &[PlacedPair],
    sign: f64,
) -> Result<Vec<f64>, EvalError> {
    let dim = field.dim();
    let mut states = Batch::zeros((measured.len(), dim));
    for ((mut row, sample), pair) in states.rows_mut().into_iter().zip(measured).zip(placed) {
        let s = curve.at(pair.t);
        for ((state, clean), noise) in row.iter_mut().zip(&sample.clean).zip(&pair.noise) {
            *state = s.alpha * clean + sign * s.sigma * noise;
        }
    }
    let samples: Vec<SampleId> = measured.iter().map(|m| m.sample).collect();
    let times: Vec<f64> = placed.iter().map(|p| p.t).collect();
    let velocity = field.velocity(Points::new(&samples, &times, &states))?;
    let difference = |i: usize| {
        let (sample, pair) = (&measured[i], &placed[i]);
        let s = curve.at(pair.t);
        // The state and the velocity are α x̂ + σ ε̂ and α' x̂ + σ' ε̂.
        let determinant = s.alpha * s.sigma_dot - s.alpha_dot * s.sigma;
        let noise_level = s.sigma / s.alpha;
        let gain = sample.scale / (sample.scale + noise_level * noise_level);
        let rows = states.row(i);
        let errors = rows.iter().zip(velocity.row(i)).zip(&sample.clean);
        let squares = errors.map(|((x, v), clean)| {
            let own = (s.sigma_dot * x - s.sigma * v) / determinant - clean;
            let normal = gain * x / s.alpha - clean;
            own * own - normal * normal
        });
        0.5 * pair.weight * squares.sum::<f64>() / (noise_level * noise_level)
    };
    Ok((0..measured.len()).map(difference).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::path::ProbabilityPath;
    use crate::flow::prior::Prior;
    use crate::model::analytic::{self, AnalyticMixture};
    use crate::num::key::RngKey;
    use crate::solve::Solver;

    const TIMES: [&str; 3] = ["stratified", "uniform", "importance"];

    /// The bounds of some samples under an analytic model.
    fn measured(
        model: &AnalyticMixture,
        spec: &str,
        seed: u64,
        samples: &[SampleId],
        x: &Batch,
    ) -> Vec<LikelihoodResult> {
        let estimators: Vec<DivergenceEstimator> = vec![serde_yaml::from_str(spec).expect(spec)];
        assert_eq!(estimators[0].check(x.ncols()), Ok(()));
        let solver = Solver::defaults().remove(0);
        let task = LikelihoodTask {
            curve: &model.curve,
            prior: Prior::isotropic(model.curve.prior_std()),
            solver: &solver,
            estimators: &estimators,
            key: RngKey { seed },
        };
        evaluate_continuous_bounds(&mut model.clone(), &task, samples, x).expect("analytic")
    }

    fn model(path: ProbabilityPath, dim: usize) -> AnalyticMixture {
        analytic::example_mixture(path.curve().expect("a path"), dim)
    }

    /// Draws of the example's first component and points between the components.
    fn points(rows: usize, dim: usize) -> (Vec<SampleId>, Batch) {
        let mut x = Batch::zeros((rows, dim));
        for (i, mut row) in x.rows_mut().into_iter().enumerate() {
            let noise = RngKey { seed: 4 }.normal(Purpose::Check, i as u64, 0, dim);
            row.assign(&(noise * 0.6));
        }
        ((0..rows as SampleId).collect(), x)
    }

    /// With the exact score the bound is tight for every sample. What is left are the width of the
    /// last noise level and the mismatch of the prior, which both have known sizes.
    #[test]
    fn exact_scores_give_the_log_density() {
        let (samples, x) = points(40, 3);
        let (mut checked, mut beyond) = (0, 0);
        for path in ProbabilityPath::defaults() {
            let model = model(path.clone(), 3);
            let (first, last) = (
                model.curve.at(model.curve.data_end()),
                model.curve.at(model.curve.prior_end()),
            );
            let width = (first.sigma / first.alpha).powi(2) / 0.05;
            let left = 12.0 * width + 20.0 * (last.alpha / last.sigma).powi(2);
            let mut truth = model.clone();
            truth.curve = ProbabilityPath::FlowMatching {
                data_at: 0,
                t_min: 0.0,
                t_max: 1.0,
            }
            .curve()
            .expect("a path");
            for times in TIMES {
                let spec = format!("{{nelbo: {{draws: 256, times: {times}}}}}");
                let rows = measured(&model, &spec, 0, &samples, &x);
                let mut gaps = Vec::new();
                for (row, x) in rows.iter().zip(x.rows()) {
                    let gap = row.log_likelihood.expect("ok") - truth.log_density(0.0, x);
                    let stderr = row.stderr.expect("random");
                    checked += 1;
                    beyond += usize::from(gap.abs() > 4.0 * stderr + left + 1e-3);
                    assert!(
                        gap.abs() <= 10.0 * stderr + left + 1e-3,
                        "{path:?} {times}: {gap} ± {stderr}, allowed beside {left}"
                    );
                    let terms = row.bound_terms.expect("a bound");
                    let sum = terms.prior + terms.diffusion + terms.reconstruction;
                    assert!((sum + row.log_likelihood.expect("ok")).abs() < 1e-12);
                    assert_eq!((row.evaluations, row.jvps), (256, 0));
                    gaps.push(gap);
                }
                let mean = stats::mean_estimate(&gaps).expect("rows");
                let stderr = mean.stderr.expect("rows");
                assert!(
                    mean.value.abs() <= 4.0 * stderr + left + 1e-3,
                    "{path:?} {times}: {} ± {stderr}, allowed beside {left}",
                    mean.value
                );
            }
        }
        // The draws have heavy tails.
        assert!(100 * beyond <= checked, "{beyond} of {checked}");
    }

    /// The integrands add up to the diffusion term, and their mean over many draws is the known error of
    /// the exact denoiser of a normal distribution.
    #[test]
    fn integrands_are_denoising_errors_and_add_up() {
        let (samples, x) = points(3, 4);
        let path = ProbabilityPath::defaults().remove(0);
        let variance = 0.7;
        let model = AnalyticMixture {
            curve: path.curve().expect("a path"),
            weights: vec![1.0],
            means: ndarray::Array2::zeros((1, 4)),
            variances: vec![variance],
        };
        let estimators: Vec<DivergenceEstimator> =
            vec![serde_yaml::from_str("{nelbo: {draws: 8192}}").expect("a bound")];
        let solver = Solver::defaults().remove(0);
        let task = LikelihoodTask {
            curve: &model.curve,
            prior: Prior::isotropic(model.curve.prior_std()),
            solver: &solver,
            estimators: &estimators,
            key: RngKey { seed: 2 },
        };
        let found =
            continuous_bound_integrands(&mut model.clone(), &task, &samples, &x).expect("analytic");
        let rows =
            evaluate_continuous_bounds(&mut model.clone(), &task, &samples, &x).expect("analytic");
        assert_eq!(found.len(), 3 * 4096);
        for (row, x) in rows.iter().zip(x.rows()) {
            let own: Vec<&BoundIntegrand> = found
                .iter()
                .filter(|one| one.sample == row.sample)
                .collect();
            let square = x.dot(&x);
            let bound = SampleBound::new(&task, row.sample, x.to_vec());
            let [low, high] = bound.range;
            let known = |log_snr: f64| 2.0 * (bound.scale * log_snr.exp()).ln_1p();
            let excess: f64 = own.iter().map(|one| one.rate - one.normal_rate).sum();
            let diffusion = known(high) - known(low) + excess * (high - low) / own.len() as f64;
            let terms = row.bound_terms.expect("a bound");
            assert!((diffusion - terms.diffusion).abs() < 1e-9 * diffusion.abs());

            let [mut sum, mut truth, mut squares] = [0.0; 3];
            for one in &own {
                let noise = (-one.log_snr).exp();
                let gain = variance / (variance + noise);
                let error = (gain - 1.0).powi(2) * square + gain * gain * noise * 4.0;
                sum += one.rate;
                truth += 0.5 * error / noise;
                squares += (one.rate - 0.5 * error / noise).powi(2);
            }
            assert!((sum - truth).abs() < 5.0 * squares.sqrt(), "{sum} {truth}");
            assert!(squares.sqrt() < 0.05 * truth, "{squares} {truth}");
        }
    }

    /// The reported standard errors are those of the spread over seeds, and better draws have
    /// smaller ones.
    #[test]
    fn standard_errors_are_those_over_seeds() {
        let (samples, x) = points(1, 6);
        let model = model(ProbabilityPath::defaults().remove(0), 6);
        let mut spreads = Vec::new();
        for times in TIMES {
            let spec = format!("{{nelbo: {{draws: 64, times: {times}}}}}");
            let rows: Vec<LikelihoodResult> = (0..400)
                .flat_map(|seed| measured(&model, &spec, seed, &samples, &x))
                .collect();
            let values: Vec<f64> = rows.iter().filter_map(|r| r.log_likelihood).collect();
            let mean = stats::mean_estimate(&values).expect("rows");
            let spread = mean.stderr.expect("rows") * (values.len() as f64).sqrt();
            let errors: Vec<f64> = rows.iter().filter_map(|r| r.stderr).collect();
            let reported = stats::rms(&errors).expect("rows");
            assert!(
                (0.85..1.5).contains(&(reported / spread)),
                "{times}: {reported} reported, {spread} over seeds"
            );
            let inside = rows
                .iter()
                .filter(|r| {
                    let gap = r.log_likelihood.expect("ok") - mean.value;
                    gap.abs() <= r.half_width.expect("random")
                })
                .count();
            // Independent draws of a skewed integrand cover less.
            let least = if times == "uniform" { 348 } else { 368 };
            assert!(inside >= least, "{times}: {inside} of 400 intervals cover");
            let truth = model.log_density(model.curve.data_end(), x.row(0));
            assert!((mean.value - truth).abs() < 4.0 * mean.stderr.expect("rows") + 1e-3);
            spreads.push(spread);
        }
        assert!(
            spreads[0] < 0.8 * spreads[1] && spreads[2] < 0.8 * spreads[1],
            "{spreads:?}"
        );
    }

    /// In the log-SNR the integral knows no schedule: paths with the same ends agree.
    #[test]
    fn schedules_with_the_same_ends_have_the_same_bound() {
        let (samples, x) = points(16, 3);
        let ends = [0.01, 50.0];
        let edm = ProbabilityPath::Edm {
            sigma_min: ends[0],
            sigma_max: ends[1],
        };
        let flow = ProbabilityPath::FlowMatching {
            data_at: 1,
            t_min: 1.0 / (1.0 + ends[1]),
            t_max: 1.0 / (1.0 + ends[0]),
        };
        let rows = [edm, flow]
            .map(|path| measured(&model(path, 3), "{nelbo: {draws: 64}}", 2, &samples, &x));
        for (a, b) in rows[0].iter().zip(&rows[1]) {
            let diffusion = |r: &LikelihoodResult| r.bound_terms.expect("a bound").diffusion;
            // The draws are the same, too.
            assert!((diffusion(a) - diffusion(b)).abs() < 1e-8, "{a:?} {b:?}");
        }
    }

    #[test]
    fn bounds_depend_on_no_batch_and_zeros_have_one() {
        let (samples, mut x) = points(7, 4);
        x.row_mut(3).fill(0.0);
        let model = model(ProbabilityPath::defaults().remove(2), 4);
        let spec = "{nelbo: {draws: 512, times: importance}}";
        let all = measured(&model, spec, 1, &samples, &x);
        for (i, row) in all.iter().enumerate() {
            let one = x.select(ndarray::Axis(0), &[i]);
            let alone = measured(&model, spec, 1, &samples[i..=i], &one);
            let value = |r: &LikelihoodResult| r.log_likelihood.expect("ok");
            assert!((value(row) - value(&alone[0])).abs() < 1e-9);
        }
        let gap = all[3].log_likelihood.expect("ok")
            - model.log_density(model.curve.data_end(), x.row(3));
        assert!(
            gap.abs() < 5.0 * all[3].stderr.expect("random") + 0.01,
            "{gap}"
        );
    }

    #[test]
    fn wrong_numbers_of_draws_are_refused() {
        for (spec, words) in [
            ("{nelbo: {draws: 30}}", "multiple of 4"),
            ("{nelbo: {draws: 0}}", "draws"),
            ("{nelbo: {draws: 4, times: importance}}", "draws"),
        ] {
            let estimator: DivergenceEstimator = serde_yaml::from_str(spec).expect(spec);
            let refused = estimator.check(3).expect_err(spec);
            assert!(refused.contains(words), "{refused}");
        }
    }
}
