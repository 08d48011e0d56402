//! The discrete variational bound of a DDPM: a sum over the reverse steps of a discrete path.
//!
//! Every term has one draw of noise, as in the codes of DDPM and improved-diffusion, and that of the
//! last step has two, so that its error is known. The conventions
//! follow improved-diffusion's `gaussian_diffusion.py`: β̃ of the first step is replaced by that of
//! the second one, and the decoder of the last step takes the variance of the reverse step.

use std::ops::Range;
use std::time::Instant;

use super::{BoundTerms, LikelihoodResult, LikelihoodTask};
use crate::divergence::{
    BoundDecoder, DiscreteBound, DivergenceEstimator, ModelHandles, ReverseVariance,
};
use crate::flow::field::{EvalError, Points, VectorField};
use crate::flow::path::{PathCurve, ProbabilityPath};
use crate::model::card::DataSpec;
use crate::num::key::{Purpose, RngKey, SampleId};
use crate::num::{Batch, stats};
use crate::rows::Status;

/// The smallest probability whose logarithm is taken, as in both codes.
const MIN_PROBABILITY: f64 = 1e-12;

/// The number of the first draw of noise of the steps. The draws of continuous bounds are below it.
const STEP_NOISE: u64 = 1 << 32;

/// The number of the first draw of steps of a subset.
const STEP_CHOICE: u64 = 1 << 33;

/// Evaluates the discrete bounds among the estimators of the task.
///
/// # Errors
/// Fails if the model cannot be evaluated or lacks what the bound needs.
pub fn evaluate_discrete_bounds(
    field: &mut dyn VectorField,
    sources: &mut ModelHandles,
    task: &LikelihoodTask,
    samples: &[SampleId],
    x: &Batch,
) -> Result<Vec<LikelihoodResult>, EvalError> {
    let mut rows = Vec::new();
    for (estimator, spec) in task.estimators.iter().enumerate() {
        let DivergenceEstimator::DiscreteBound(bound) = spec else {
            continue;
        };
        let began = Instant::now();
        let mut terms = StepTerms::new(task, bound, sources.data, samples, x)?;
        let found = terms.measure(field, sources)?;
        let seconds = began.elapsed().as_secs_f64() / samples.len().max(1) as f64;
        rows.extend(found.into_iter().map(|row| LikelihoodResult {
            estimator,
            path_seconds: seconds,
            entry_seconds: seconds,
            ..row
        }));
    }
    Ok(rows)
}

/// The β schedule of a path and what follows from it, by the index of the step from 0.
#[derive(Debug, Clone)]
struct Schedule {
    /// The times of the steps.
    times: Vec<f64>,
    /// α and σ after the forward steps.
    alphas: Vec<f64>,
    sigmas: Vec<f64>,
    /// β.
    betas: Vec<f64>,
    /// β̃, with that of step 1 at step 0 too.
    posteriors: Vec<f64>,
}

impl Schedule {
    /// The schedule of a discrete path.
    ///
    /// # Errors
    /// Fails if the path is not discrete.
    fn new(curve: &PathCurve) -> Result<Schedule, EvalError> {
        let ProbabilityPath::Discrete { steps, .. } = curve.path() else {
            return Err(EvalError::Missing(
                "vlb: the path is not `discrete`".to_owned(),
            ));
        };
        let times: Vec<f64> = (1..=*steps).map(|i| i as f64 / *steps as f64).collect();
        let at: Vec<_> = times.iter().map(|t| curve.at(*t)).collect();
        let alphas: Vec<f64> = at.iter().map(|s| s.alpha).collect();
        let sigmas: Vec<f64> = at.iter().map(|s| s.sigma).collect();
        let before = |i: usize| match i {
            0 => (1.0, 0.0),
            _ => (alphas[i - 1], sigmas[i - 1]),
        };
        let betas: Vec<f64> = (0..alphas.len())
            .map(|i| 1.0 - (alphas[i] / before(i).0).powi(2))
            .collect();
        let mut posteriors: Vec<f64> = (0..alphas.len())
            .map(|i| betas[i] * (before(i).1 / sigmas[i]).powi(2))
            .collect();
        if posteriors.len() > 1 {
            posteriors[0] = posteriors[1];
        }
        Ok(Schedule {
            times,
            alphas,
            sigmas,
            betas,
            posteriors,
        })
    }

    /// The weights of x₀ and x_t in the mean of q(x_{t−1}|x_t, x₀).
    fn posterior_weights(&self, step: usize) -> [f64; 2] {
        let (alpha, sigma) = match step {
            0 => (1.0, 0.0),
            _ => (self.alphas[step - 1], self.sigmas[step - 1]),
        };
        let variance = self.sigmas[step].powi(2);
        [
            alpha * self.betas[step] / variance,
            (1.0 - self.betas[step]).sqrt() * sigma.powi(2) / variance,
        ]
    }

    /// The logarithm of the variance of a reverse step; `output` is the network's, if it is learned.
    fn log_variance(&self, step: usize, variance: ReverseVariance, output: f64) -> f64 {
        let small = self.posteriors[step].ln();
        match variance {
            ReverseVariance::FixedSmall => small,
            ReverseVariance::FixedLarge if step == 0 => small,
            ReverseVariance::FixedLarge => self.betas[step].ln(),
            ReverseVariance::Learned => {
                let share = 0.5 * (output + 1.0);
                share * self.betas[step].ln() + (1.0 - share) * small
            }
        }
    }
}

/// The levels of integers in the range of the data.
#[derive(Debug, Clone, Copy)]
struct Levels {
    low: f64,
    high: f64,
    /// The distance of two levels.
    width: f64,
    /// The number of levels.
    count: f64,
}

impl Levels {
    fn new(data: DataSpec) -> Option<Levels> {
        let [low, high] = data.range;
        let count = f64::from(data.levels?);
        Some(Levels {
            low,
            high,
            width: (high - low) / (count - 1.0),
            count,
        })
    }

    /// The level of an integer from its dequantized value lo + (hi − lo)(X + u)/levels.
    fn level(&self, dequantized: f64) -> f64 {
        let share = (dequantized - self.low) / (self.high - self.low);
        let integer = (share * self.count + 1e-9).floor();
        self.low + self.width * integer.clamp(0.0, self.count - 1.0)
    }

    /// The logarithm of the density, in the units of the states, that has the probability 1 of a level
    /// spread over its share of the range, as dequantized data have it.
    fn log_unit_density(&self) -> f64 {
        (self.count / (self.high - self.low)).ln()
    }

    /// The logarithm of the mass that a normal distribution gives to a level. The lowest and the
    /// highest level have the tails.
    fn log_mass(&self, level: f64, mean: f64, std: f64, cdf: fn(f64) -> f64) -> f64 {
        let below = cdf((level - mean - 0.5 * self.width) / std);
        let above = cdf((level - mean + 0.5 * self.width) / std);
        // The codes compare with −0.999 and 0.999, which separates 255 levels and fewer.
        let edge = 0.25 * self.width;
        let mass = match level {
            _ if level < self.low + edge => above,
            _ if level > self.high - edge => 1.0 - below,
            _ => above - below,
        };
        mass.max(MIN_PROBABILITY).ln()
    }
}

/// The normal distribution function as the DDPM and improved-diffusion codes approximate it.
fn approximate_cdf(x: f64) -> f64 {
    0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

/// The terms of the bound for the samples of one batch.
struct StepTerms<'a> {
    task: &'a LikelihoodTask<'a>,
    bound: &'a DiscreteBound,
    schedule: Schedule,
    /// The range to which estimates of x₀ are limited.
    clip: Option<[f64; 2]>,
    /// The levels of the data under a discretized decoder.
    levels: Option<Levels>,
    samples: &'a [SampleId],
    /// The clean states: the levels themselves under a discretized decoder.
    clean: Batch,
    evaluations: Vec<u64>,
}

impl<'a> StepTerms<'a> {
    /// # Errors
    /// Fails if the path is not discrete, or if the card does not say the levels of the data that
    /// the decoder needs.
    fn new(
        task: &'a LikelihoodTask<'a>,
        bound: &'a DiscreteBound,
        data: Option<DataSpec>,
        samples: &'a [SampleId],
        x: &Batch,
    ) -> Result<StepTerms<'a>, EvalError> {
        let levels = data
            .and_then(Levels::new)
            .filter(|_| bound.is_discretized());
        if bound.is_discretized() && levels.is_none() {
            return Err(EvalError::Missing(
                "vlb: the card does not say the range and the levels of the data".to_owned(),
            ));
        }
        let clip = data
            .map(|data| data.range)
            .filter(|_| bound.clip != Some(false));
        Ok(StepTerms {
            task,
            bound,
            schedule: Schedule::new(task.curve)?,
            clip,
            samples,
            clean: match levels {
                Some(levels) => x.mapv(|v| levels.level(v)),
                None => x.clone(),
            },
            levels,
            evaluations: vec![0; samples.len()],
        })
    }

    /// Measures the bound of every sample.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    fn measure(
        &mut self,
        field: &mut dyn VectorField,
        sources: &mut ModelHandles,
    ) -> Result<Vec<LikelihoodResult>, EvalError> {
        let all = self.schedule.times.len();
        let parts = match self.bound.steps {
            None => Vec::new(),
            Some(steps) => parts_of_steps(all, steps / 2 - 1),
        };
        // The noise of the last step can only be seen from a second draw.
        let mut last = Vec::new();
        for draw in 0..2 {
            last.push(self.terms_at(field, sources, &vec![0; self.samples.len()], draw)?);
        }
        let mut sums: Vec<StepSum> = vec![StepSum::default(); self.samples.len()];
        if self.bound.steps.is_none() {
            for step in 1..all {
                let terms = self.terms_at(field, sources, &vec![step; self.samples.len()], 0)?;
                for (sum, term) in sums.iter_mut().zip(terms) {
                    sum.add_step(term);
                }
            }
        }
        for (part, range) in parts.into_iter().enumerate() {
            let chosen: Vec<[usize; 2]> = self
                .samples
                .iter()
                .map(|sample| two_of(self.task.key, *sample, part, &range))
                .collect();
            let values = [0, 1].map(|i| {
                let steps: Vec<usize> = chosen.iter().map(|pair| pair[i]).collect();
                self.terms_at(field, sources, &steps, 0)
            });
            let [first, second] = values;
            for ((sum, a), b) in sums.iter_mut().zip(first?).zip(second?) {
                sum.add_pair([a.value, b.value], range.len());
            }
        }
        let pairs: Vec<[f64; 2]> = (0..self.samples.len())
            .map(|i| [last[0][i].value, last[1][i].value])
            .collect();
        Ok(self.results(&pairs, &sums))
    }

    /// The terms of one step per sample, in nats: the decoder's at step 0, and divergences at the
    /// others. `draw` is the number of the draw of the step's noise.
    fn terms_at(
        &mut self,
        field: &mut dyn VectorField,
        sources: &mut ModelHandles,
        steps: &[usize],
        draw: u64,
    ) -> Result<Vec<StepTerm>, EvalError> {
        let dim = self.clean.ncols();
        let mut states = Batch::zeros(self.clean.raw_dim());
        for (i, mut row) in states.rows_mut().into_iter().enumerate() {
            let step = STEP_NOISE + steps[i] as u64;
            let noise = self
                .task
                .key
                .normal_at(Purpose::Bound, self.samples[i], step, draw, dim);
            let (alpha, sigma) = (
                self.schedule.alphas[steps[i]],
                self.schedule.sigmas[steps[i]],
            );
            row.assign(&(&self.clean.row(i) * alpha + noise * sigma));
        }
        self.terms_of(field, sources, steps, &states)
    }

    /// The terms for noised states.
    fn terms_of(
        &mut self,
        field: &mut dyn VectorField,
        sources: &mut ModelHandles,
        steps: &[usize],
        states: &Batch,
    ) -> Result<Vec<StepTerm>, EvalError> {
        let schedule = &self.schedule;
        let dim = self.clean.ncols();
        let times: Vec<f64> = steps.iter().map(|step| schedule.times[*step]).collect();
        let at = Points::new(self.samples, &times, states);
        let velocity = field.velocity(at)?;
        let outputs = match (self.bound.variance, sources.variances.as_mut()) {
            (ReverseVariance::Learned, Some(network)) => Some(network.forward(at)?),
            (ReverseVariance::Learned, None) => {
                return Err(EvalError::Missing(
                    "vlb: the card has no `network.variance_channels`".to_owned(),
                ));
            }
            _ => None,
        };
        let calls: Vec<u64> = times
            .iter()
            .map(|t| {
                let variances = sources.variances.as_ref().filter(|_| outputs.is_some());
                field.calls_at(*t) + variances.map_or(0, |network| network.calls_at(*t))
            })
            .collect();
        let term = |i: usize| {
            let (step, s) = (steps[i], self.task.curve.at(times[i]));
            let determinant = s.alpha * s.sigma_dot - s.alpha_dot * s.sigma;
            let [of_clean, of_state] = schedule.posterior_weights(step);
            let own = schedule.posteriors[step].ln();
            let mut found = StepTerm::default();
            for j in 0..dim {
                let (state, clean) = (states[[i, j]], self.clean[[i, j]]);
                let mut estimate = (s.sigma_dot * state - s.sigma * velocity[[i, j]]) / determinant;
                if let Some([low, high]) = self.clip {
                    estimate = estimate.clamp(low, high);
                }
                let output = outputs.as_ref().map_or(0.0, |o| o[[i, j]]);
                let log_variance = schedule.log_variance(step, self.bound.variance, output);
                if step == 0 {
                    let mean = of_clean * estimate + of_state * state;
                    found.value += self.decoder_loss(clean, mean, log_variance);
                    continue;
                }
                let error = (estimate - clean).powi(2);
                let of_error = 0.5 * of_clean * of_clean * error * (-log_variance).exp();
                let of_width = 0.5 * (log_variance - own - 1.0 + (own - log_variance).exp());
                found.value += of_width + of_error;
                found.of_error += of_error;
                found.squared_error += error;
            }
            found
        };
        let terms = (0..self.samples.len()).map(term).collect();
        for (sum, calls) in self.evaluations.iter_mut().zip(calls) {
            *sum += calls;
        }
        Ok(terms)
    }

    /// −ln p(x₀|x₁) of one component, in nats.
    fn decoder_loss(&self, clean: f64, mean: f64, log_variance: f64) -> f64 {
        let std = (0.5 * log_variance).exp();
        let cdf = match self.bound.decoder {
            BoundDecoder::DiscretizedExact => stats::normal_cdf,
            _ => approximate_cdf,
        };
        match &self.levels {
            Some(levels) => -levels.log_mass(clean, mean, std, cdf),
            None => {
                0.5 * (std::f64::consts::TAU.ln() + log_variance + ((clean - mean) / std).powi(2))
            }
        }
    }

    /// The results from two draws of the term of the last step and the sums over the others.
    fn results(&self, last: &[[f64; 2]], sums: &[StepSum]) -> Vec<LikelihoodResult> {
        let dim = self.clean.ncols() as f64;
        let end = self.schedule.times.len() - 1;
        let prior_std = self.task.prior.std;
        let (alpha, sigma) = (self.schedule.alphas[end], self.schedule.sigmas[end]);
        let ratio = (sigma / prior_std).powi(2);
        let result = |i: usize| {
            let clean = self.clean.row(i);
            let prior = 0.5 * dim * (ratio - 1.0 - ratio.ln())
                + 0.5 * clean.dot(&clean) * (alpha / prior_std).powi(2);
            let terms = BoundTerms {
                prior,
                diffusion: sums[i].total,
                reconstruction: 0.5 * (last[i][0] + last[i][1]),
            };
            let unit = self.levels.map_or(0.0, |levels| levels.log_unit_density());
            let value = dim * unit - (terms.prior + terms.diffusion + terms.reconstruction);
            let ok = value.is_finite();
            let of_last = 0.25 * (last[i][0] - last[i][1]).powi(2);
            let stderr = (sums[i].variance() + of_last).sqrt();
            let freedom = sums[i].freedom(of_last);
            let quantile = stats::student_t_quantile(0.95, freedom);
            LikelihoodResult {
                sample: self.samples[i],
                log_likelihood: ok.then_some(value),
                stderr: ok.then_some(stderr),
                half_width: ok.then_some(quantile * stderr),
                bound_terms: ok.then_some(terms),
                evaluations: self.evaluations[i],
                status: if ok { Status::Ok } else { Status::NonFinite },
                ..LikelihoodResult::default()
            }
        };
        (0..self.samples.len()).map(result).collect()
    }
}

/// The term of one step for one sample, in nats.
#[derive(Debug, Clone, Copy, Default)]
struct StepTerm {
    /// The term.
    value: f64,
    /// The part of the term that is in proportion to the squared error of the estimate of x₀.
    of_error: f64,
    /// That squared error.
    squared_error: f64,
}

impl StepTerm {
    /// The factor of the squared error.
    fn weight(&self) -> f64 {
        if self.squared_error > 0.0 {
            self.of_error / self.squared_error
        } else {
            0.0
        }
    }
}

/// The sum over the steps of one sample, with its variance.
#[derive(Debug, Clone, Default)]
struct StepSum {
    total: f64,
    /// Consecutive terms that are not yet part of a difference.
    waiting: Vec<StepTerm>,
    /// The variance of each part of the sum.
    variances: Vec<f64>,
}

impl StepSum {
    /// Adds the term of one step, in the order of the steps. The noise of three neighbouring squared
    /// errors is that of the second difference of their logarithms, because these lie nearly on a
    /// line. The weights of the errors are known.
    fn add_step(&mut self, term: StepTerm) {
        self.total += term.value;
        self.waiting.push(term);
        if let [a, b, c] = self.waiting[..] {
            let logs = [a, b, c].map(|term| term.squared_error.ln());
            let mut variance = 0.0;
            if logs.iter().all(|log| log.is_finite()) {
                let relative = (logs[0] - 2.0 * logs[1] + logs[2]).powi(2) / 6.0;
                let (middle, slope) = (logs.iter().sum::<f64>() / 3.0, 0.5 * (logs[2] - logs[0]));
                for (term, place) in [a, b, c].iter().zip([-1.0, 0.0, 1.0]) {
                    let level = (middle + slope * place).exp();
                    variance += relative * (term.weight() * level).powi(2);
                }
            }
            self.variances.push(variance);
            self.waiting.clear();
        }
    }

    /// Adds two terms that stand for a part with `steps` steps.
    fn add_pair(&mut self, [a, b]: [f64; 2], steps: usize) {
        let n = steps as f64;
        self.total += 0.5 * n * (a + b);
        // The terms have noise of their own, so that no correction for a finite number of steps
        // is made.
        self.variances.push(0.25 * n * n * (a - b).powi(2));
    }

    /// The variance of the sum. Two terms that are left over count like the mean of the others.
    fn variance(&self) -> f64 {
        let sum: f64 = self.variances.iter().sum();
        let parts = self.variances.len() as f64;
        let waiting = self.waiting.len() as f64 / 3.0;
        if parts == 0.0 {
            return f64::INFINITY;
        }
        sum * (1.0 + waiting / parts)
    }

    /// The degrees of freedom of the variance and another one with one degree, by Welch and
    /// Satterthwaite; at least 1.
    fn freedom(&self, other: f64) -> usize {
        let sum: f64 = self.variances.iter().sum::<f64>() + other;
        let squares: f64 = self.variances.iter().map(|v| v * v).sum::<f64>() + other * other;
        match squares > 0.0 {
            true => ((sum * sum / squares).floor() as usize).max(1),
            false => self.variances.len().max(1),
        }
    }
}

/// Divides the steps 1 to `all` − 1 into parts of at least two. Near the data, where terms are large
/// and change by factors, parts are short: their ends lie as the squares of whole numbers do.
fn parts_of_steps(all: usize, parts: usize) -> Vec<Range<usize>> {
    let mut begin = 1;
    let end_of = |k: usize| 1.0 + (all - 1) as f64 * (k as f64 / parts as f64).powi(2);
    (1..=parts)
        .map(|k| {
            let end = (end_of(k).round() as usize).clamp(begin + 2, all - 2 * (parts - k));
            let part = begin..end;
            begin = end;
            part
        })
        .collect()
}

/// Two different steps of a part, at random.
fn two_of(key: RngKey, sample: SampleId, part: usize, range: &Range<usize>) -> [usize; 2] {
    let draw = |node: u64, count: usize| {
        let u = key.uniform_at(Purpose::Bound, sample, STEP_CHOICE + part as u64, node);
        ((u * count as f64) as usize).min(count - 1)
    };
    let first = draw(0, range.len());
    let mut second = draw(1, range.len() - 1);
    if second >= first {
        second += 1;
    }
    [range.start + first, range.start + second]
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use ndarray::{Array1, Array2, Array3, Axis};
    use ndarray_npy::NpzReader;

    use super::*;
    use crate::flow::network_velocity::ForwardNetwork;
    use crate::flow::path::Betas;
    use crate::flow::prior::Prior;
    use crate::model::analytic::{self, AnalyticMixture};
    use crate::solve::Solver;

    /// Predictions of the noise and outputs for the variances, as functions of the step from 0.
    struct NoisePredictor<P, V> {
        curve: PathCurve,
        dim: usize,
        noise: P,
        variance: V,
    }

    type Function = fn(&Weights, f64, &[f64]) -> Vec<f64>;

    impl<P, V> VectorField for NoisePredictor<P, V>
    where
        P: FnMut(f64, &[f64]) -> Vec<f64> + Send,
        V: Send,
    {
        fn dim(&self) -> usize {
            self.dim
        }

        fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
            let mut v = Batch::zeros(at.x.raw_dim());
            let steps = self.curve_steps();
            for ((mut row, x), t) in v.rows_mut().into_iter().zip(at.x.rows()).zip(at.t) {
                let s = self.curve.at(*t);
                let noise = (self.noise)(t * steps - 1.0, &x.to_vec());
                for ((v, x), noise) in row.iter_mut().zip(x).zip(noise) {
                    *v = s.alpha_dot * (x - s.sigma * noise) / s.alpha + s.sigma_dot * noise;
                }
            }
            Ok(v)
        }
    }

    impl<P, V> NoisePredictor<P, V> {
        fn curve_steps(&self) -> f64 {
            match self.curve.path() {
                ProbabilityPath::Discrete { steps, .. } => *steps as f64,
                _ => f64::NAN,
            }
        }
    }

    impl<P: Send, V: FnMut(f64, &[f64]) -> Vec<f64> + Send> ForwardNetwork for NoisePredictor<P, V> {
        fn dim(&self) -> usize {
            self.dim
        }

        fn forward(&mut self, at: Points) -> Result<Batch, EvalError> {
            let mut out = Batch::zeros(at.x.raw_dim());
            let steps = self.curve_steps();
            for ((mut row, x), t) in out.rows_mut().into_iter().zip(at.x.rows()).zip(at.t) {
                let values = (self.variance)(t * steps - 1.0, &x.to_vec());
                row.assign(&Array1::from(values));
            }
            Ok(out)
        }
    }

    fn discrete(betas: Betas, steps: usize) -> PathCurve {
        ProbabilityPath::Discrete {
            betas,
            steps,
            zero_terminal_snr: false,
            last_alpha_bar: None,
            interpolation: Default::default(),
        }
        .curve()
        .expect("a path")
    }

    fn task<'a>(
        curve: &'a PathCurve,
        solver: &'a Solver,
        estimators: &'a [DivergenceEstimator],
        seed: u64,
    ) -> LikelihoodTask<'a> {
        LikelihoodTask {
            curve,
            prior: Prior::isotropic(1.0),
            solver,
            estimators,
            key: RngKey { seed },
        }
    }

    fn estimator(spec: &str) -> DivergenceEstimator {
        serde_yaml::from_str(spec).expect(spec)
    }

    fn bound_of(estimator: &DivergenceEstimator) -> &DiscreteBound {
        match estimator {
            DivergenceEstimator::DiscreteBound(bound) => bound,
            _ => panic!("{}", estimator.label()),
        }
    }

    const BYTES: DataSpec = DataSpec {
        range: [-1.0, 1.0],
        levels: Some(256),
    };

    /// Dequantized values of integers below 256.
    fn dequantized(integers: &Array2<f64>) -> Batch {
        integers.mapv(|v| (v + 0.3) / 128.0 - 1.0)
    }

    /// The weights of the tiny network of `scripts/vlb_references.py`.
    #[derive(Clone)]
    struct Weights(Vec<f64>);

    const DIM: usize = 4;

    impl Weights {
        fn layer(&self, from: usize, t: f64, x: &[f64], f: fn(f64) -> f64) -> Vec<f64> {
            let row = |i: usize| {
                let own = &self.0[from + i * DIM..from + (i + 1) * DIM];
                let sum: f64 = own.iter().zip(x).map(|(w, x)| w * x).sum();
                f(sum + t * self.0[from + DIM * DIM + i])
            };
            (0..DIM).map(row).collect()
        }
    }

    /// Every term equals improved-diffusion's own code on the same network and noise: in double
    /// precision to rounding, and as shipped to single precision.
    #[test]
    fn terms_are_those_of_improved_diffusion() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/data/vlb/improved_diffusion.npz"
        );
        let mut file = NpzReader::new(File::open(path).expect(path)).expect("an archive");
        let weights: Array1<f64> = file.by_name("weights").expect("weights");
        let integers: Array2<f64> = file.by_name("integers").expect("integers");
        let steps = 24;
        let solver = Solver::defaults().remove(0);
        let samples: Vec<SampleId> = (0..3).collect();
        let noise: Function = |w, step, x| w.layer(0, step / 24.0, x, f64::tanh);
        let variance: Function = |w, step, x| w.layer(DIM * (DIM + 1), step / 24.0, x, f64::sin);
        for schedule in ["linear", "cosine"] {
            let betas: Array1<f64> = file.by_name(&format!("{schedule}.betas")).expect("betas");
            let states: Array3<f64> = file.by_name(&format!("{schedule}.states")).expect("states");
            let curve = discrete(Betas::Values(betas.to_vec()), steps);
            for (theirs, ours) in [
                ("FIXED_SMALL", "fixed-small"),
                ("FIXED_LARGE", "fixed-large"),
                ("LEARNED_RANGE", "learned"),
            ] {
                for (theirs_clip, clip) in [("clip", true), ("free", false)] {
                    let estimators = [estimator(&format!(
                        "{{vlb: {{variance: {ours}, clip: {clip}}}}}"
                    ))];
                    let task = task(&curve, &solver, &estimators, 0);
                    let bound = bound_of(&estimators[0]);
                    let x = dequantized(&integers);
                    let predictor = || {
                        let (a, b) = (Weights(weights.to_vec()), Weights(weights.to_vec()));
                        NoisePredictor {
                            curve: curve.clone(),
                            dim: DIM,
                            noise: move |t: f64, x: &[f64]| noise(&a, t, x),
                            variance: move |t: f64, x: &[f64]| variance(&b, t, x),
                        }
                    };
                    let mut sources = ModelHandles {
                        variances: Some(Box::new(predictor())),
                        ..ModelHandles::default()
                    };
                    let mut terms =
                        StepTerms::new(&task, bound, Some(BYTES), &samples, &x).expect("terms");
                    for (kind, tolerance) in [("f64", 1e-9), ("f32", 1e-5)] {
                        // In single precision their decoder subtracts two nearly equal masses.
                        let decoder = if kind == "f32" { 5e-5 } else { tolerance };
                        let name = format!("{schedule}.{theirs}.{theirs_clip}.{kind}");
                        let want: Array2<f64> =
                            file.by_name(&format!("{name}.terms")).expect("terms");
                        for step in 0..steps {
                            let states = states.index_axis(Axis(0), step).to_owned();
                            let found = terms
                                .terms_of(&mut predictor(), &mut sources, &[step; 3], &states)
                                .expect("terms");
                            for (found, want) in
                                found.iter().map(|term| term.value).zip(want.row(step))
                            {
                                let gap = (found - want).abs() / (1.0 + want.abs());
                                let allowed = if step == 0 { decoder } else { tolerance };
                                assert!(gap <= allowed, "{name} {step}: {found} {want}");
                            }
                        }
                        let want: Array1<f64> =
                            file.by_name(&format!("{name}.prior")).expect("prior");
                        let sums = StepSum {
                            variances: vec![0.0],
                            ..StepSum::default()
                        };
                        let rows = terms.results(&[[0.0; 2]; 3], &vec![sums; 3]);
                        for (row, want) in rows.iter().zip(&want) {
                            let prior = row.bound_terms.expect("a bound").prior;
                            assert!((prior - want).abs() <= tolerance * (1.0 + want), "{name}");
                        }
                    }
                }
            }
        }
    }

    /// A network that always expects the same data has terms without noise. Their sum is known.
    #[test]
    fn a_constant_expectation_has_a_known_bound() {
        let curve = discrete(Betas::Linear([1e-3, 0.2]), 40);
        let solver = Solver::defaults().remove(0);
        let integers = ndarray::array![[0.0, 100.0], [255.0, 30.0]];
        let center = 0.25;
        let estimators = [
            estimator("{vlb: {variance: fixed-large, decoder: discretized-exact}}"),
            estimator("{vlb: {decoder: continuous}}"),
        ];
        let task = task(&curve, &solver, &estimators, 3);
        let points = curve.clone();
        let mut field = NoisePredictor {
            curve: curve.clone(),
            dim: 2,
            noise: move |step: f64, x: &[f64]| {
                let s = points.at((step + 1.0) / 40.0);
                x.iter().map(|x| (x - s.alpha * center) / s.sigma).collect()
            },
            variance: (),
        };
        let mut sources = ModelHandles {
            data: Some(BYTES),
            ..ModelHandles::default()
        };
        let x = dequantized(&integers);
        let rows =
            evaluate_discrete_bounds(&mut field, &mut sources, &task, &[4, 9], &x).expect("bounds");
        let at: Vec<_> = (1..=40).map(|i| curve.at(i as f64 / 40.0)).collect();
        let beta = |i: usize| 1e-3 + (0.2 - 1e-3) * i as f64 / 39.0;
        let small = |i: usize| {
            let before = if i == 0 { 0.0 } else { at[i - 1].sigma.powi(2) };
            beta(i) * before / at[i].sigma.powi(2)
        };
        for row in &rows {
            let i = usize::from(row.sample == 9);
            let discretized = row.estimator == 0;
            let clean = match discretized {
                true => integers.row(i).mapv(|v| v / 127.5 - 1.0),
                false => x.row(i).to_owned(),
            };
            let squares: f64 = clean.iter().map(|v| (v - center).powi(2)).sum();
            let mut diffusion = 0.0;
            for step in 1..40 {
                let variance = if discretized { beta(step) } else { small(step) };
                let ratio: f64 = small(step) / variance;
                let gain = at[step - 1].alpha * beta(step) / at[step].sigma.powi(2);
                diffusion += (ratio - 1.0 - ratio.ln()) + 0.5 * squares * gain * gain / variance;
            }
            let std = small(1).sqrt();
            let reconstruction: f64 = clean
                .iter()
                .map(|v| {
                    let z = |shift: f64| stats::normal_cdf((v - center + shift) / std);
                    let step = 1.0 / 255.0;
                    -match (discretized, *v) {
                        (false, v) => {
                            -0.5 * ((v - center) / std).powi(2)
                                - (std * std::f64::consts::TAU.sqrt()).ln()
                        }
                        (_, -1.0) => z(step).max(1e-12).ln(),
                        (_, 1.0) => (1.0 - z(-step)).max(1e-12).ln(),
                        _ => (z(step) - z(-step)).max(1e-12).ln(),
                    }
                })
                .sum();
            let alpha_bar = at[39].alpha.powi(2);
            let prior = -0.5 * 2.0 * (alpha_bar + (1.0 - alpha_bar).ln())
                + 0.5 * alpha_bar * clean.dot(&clean);
            let terms = row.bound_terms.expect("a bound");
            for (found, want) in [
                (terms.prior, prior),
                (terms.diffusion, diffusion),
                (terms.reconstruction, reconstruction),
            ] {
                assert!((found - want).abs() < 1e-8 * (1.0 + want), "{found} {want}");
            }
            let unit = if discretized { 2.0 * 128f64.ln() } else { 0.0 };
            let value = unit - prior - diffusion - reconstruction;
            assert!((row.log_likelihood.expect("ok") - value).abs() < 1e-7 * value.abs());
            assert_eq!(row.evaluations, 41);
        }
    }

    fn mixture(steps: usize, dim: usize) -> AnalyticMixture {
        let betas = Betas::Linear([0.1, 20.0].map(|beta| beta / steps as f64));
        analytic::example_mixture(discrete(betas, steps), dim)
    }

    /// The bounds of one point over seeds.
    fn over_seeds(
        model: &AnalyticMixture,
        spec: &str,
        x: &Batch,
        seeds: u64,
    ) -> Vec<LikelihoodResult> {
        let estimators = [estimator(spec)];
        let solver = Solver::defaults().remove(0);
        let mut rows = Vec::new();
        for seed in 0..seeds {
            let task = task(&model.curve, &solver, &estimators, seed);
            let mut sources = ModelHandles::default();
            rows.extend(
                evaluate_discrete_bounds(&mut model.clone(), &mut sources, &task, &[0], x)
                    .expect("bounds"),
            );
        }
        rows
    }

    /// A subset of the steps estimates the same sum, and both report their errors.
    #[test]
    fn subsets_are_unbiased_and_errors_are_those_over_seeds() {
        let (model, dim) = (mixture(100, 24), 24);
        let x = Batch::from_shape_fn((1, dim), |(_, j)| {
            model.means[[1, j]] + 0.3 * (1.7 * j as f64).cos()
        });
        let mut means = Vec::new();
        for spec in [
            "{vlb: {decoder: continuous}}",
            "{vlb: {decoder: continuous, steps: 22}}",
        ] {
            let rows = over_seeds(&model, spec, &x, 400);
            let values: Vec<f64> = rows.iter().filter_map(|r| r.log_likelihood).collect();
            let mean = stats::mean_estimate(&values).expect("rows");
            let spread = mean.stderr.expect("rows") * (values.len() as f64).sqrt();
            let errors: Vec<f64> = rows.iter().filter_map(|r| r.stderr).collect();
            let reported = stats::rms(&errors).expect("rows") / spread;
            // Pairs of different steps also contain the trend of the terms.
            let most = if spec.contains("steps") { 2.8 } else { 1.4 };
            assert!((0.85..most).contains(&reported), "{spec}: {reported}");
            let inside = rows
                .iter()
                .filter(|r| {
                    let gap = r.log_likelihood.expect("ok") - mean.value;
                    gap.abs() <= r.half_width.expect("random")
                })
                .count();
            assert!(inside >= 368, "{spec}: {inside} of 400 intervals cover");
            means.push(mean);
        }
        let gap = means[0].value - means[1].value;
        let error = means[0]
            .stderr
            .expect("rows")
            .hypot(means[1].stderr.expect("rows"));
        assert!(gap.abs() < 4.0 * error, "{gap} ± {error}");
    }

    /// Under the exact denoiser of N(0, v·I) the expectation of every term is known, and the bound lies
    /// below the log-density.
    #[test]
    fn the_bound_of_a_normal_distribution_is_known() {
        let point = [0.4, -0.3, 0.2];
        let x = ndarray::array![point];
        let square: f64 = point.iter().map(|x| x * x).sum();
        let spread = 0.3;
        let density = -0.5 * square / spread - 1.5 * (std::f64::consts::TAU * spread).ln();
        for (name, large) in [("fixed-small", false), ("fixed-large", true)] {
            let mut gaps = Vec::new();
            for steps in [40, 160, 640] {
                let mut model = mixture(steps, 3);
                model.weights = vec![1.0];
                model.means = Array2::zeros((1, 3));
                model.variances = vec![spread];
                let schedule = Schedule::new(&model.curve).expect("discrete");
                let mut want = 0.0;
                for step in 0..steps {
                    let (alpha, sigma) = (schedule.alphas[step], schedule.sigmas[step]);
                    let gain = spread * alpha / (alpha * alpha * spread + sigma * sigma);
                    let error =
                        (gain * alpha - 1.0).powi(2) * square + 3.0 * (gain * sigma).powi(2);
                    let small = schedule.posteriors[step];
                    let variance = if large && step > 0 {
                        schedule.betas[step]
                    } else {
                        small
                    };
                    let weight = schedule.posterior_weights(step)[0];
                    want += if step == 0 {
                        0.5 * (3.0 * (std::f64::consts::TAU * variance).ln() + error / variance)
                    } else {
                        let ratio = small / variance;
                        1.5 * (ratio - 1.0 - ratio.ln()) + 0.5 * weight * weight * error / variance
                    };
                }
                let last = schedule.alphas[steps - 1].powi(2);
                want += 0.5 * (-3.0 * last - 3.0 * (1.0 - last).ln() + last * square);
                let spec = format!("{{vlb: {{decoder: continuous, variance: {name}}}}}");
                let rows = over_seeds(&model, &spec, &x, 60);
                let values: Vec<f64> = rows.iter().filter_map(|r| r.log_likelihood).collect();
                let mean = stats::mean_estimate(&values).expect("rows");
                let error = mean.stderr.expect("rows");
                assert!(
                    (mean.value + want).abs() < 4.0 * error,
                    "{name} {steps}: {mean:?} {want}"
                );
                gaps.push(want + density);
            }
            assert!(gaps.iter().all(|gap| *gap > 0.0), "{gaps:?}");
        }
    }

    #[test]
    fn parts_cover_every_step_once() {
        for (all, parts) in [
            (3, 1),
            (5, 2),
            (100, 10),
            (1000, 100),
            (1000, 499),
            (41, 20),
        ] {
            let found = parts_of_steps(all, parts);
            assert_eq!((found.len(), found[0].start), (parts, 1));
            assert_eq!(found[parts - 1].end, all);
            assert!(found.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(found.iter().all(|part| part.len() >= 2), "{found:?}");
        }
    }

    #[test]
    fn wrong_numbers_of_steps_are_refused() {
        for (spec, words) in [
            ("{vlb: {steps: 5}}", "even"),
            ("{vlb: {steps: 2}}", "steps"),
            ("{vlb: {steps: 42}}", "steps"),
        ] {
            let estimator = estimator(spec);
            let refused = bound_of(&estimator).check_steps(40).expect_err(spec);
            assert!(refused.contains(words), "{refused}");
        }
    }
}
