//! Checks what a card says of its network by data.
//!
//! Data are noised at several noise levels, and the network is read in every way in which it could
//! be meant: what it predicts, with which sign, on which path, with which time and scalings. The
//! right reading denoises the data best. If another reading denoises them better than the card's,
//! by a large factor and by far more than its standard error, the card is wrong.
//!
//! One number compares two readings: the geometric mean over the noise levels of the ratio of their
//! denoising errors. Errors count at most `ERROR_CAP` times the error of a denoiser that knows
//! only the mean and the variance of the data. Near the data end even a good denoiser may have a
//! large error relative to the noise, and near the prior end relative to the data; without the cap
//! a reading that leaves the noised state as it is would win there.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Result, bail};

use super::card::TimeVariable;
use super::loaded::{Model, SessionOptions};
use super::onnx::Runtime;
use super::time::is_integer_format;
use crate::flow::field::EvalError;
use crate::flow::path::{Betas, PathCurve, ProbabilityPath};
use crate::flow::prediction::Prediction;
use crate::num::key::SampleId;
use crate::num::{Batch, stats};

mod candidates;
mod denoising;
pub use candidates::InputReading;
use candidates::{CandidateFacts, InputCandidate, candidates};
use denoising::{CleanRows, InputValues, LevelErrors, OutputProducts, linear_denoiser_errors};

/// The largest number of samples that a check uses.
pub const MAX_CHECKED_SAMPLES: usize = 64;
/// The smallest number of samples with which a check says anything.
pub const MIN_CHECKED_SAMPLES: usize = 8;
/// The number of noise levels.
const LEVELS: usize = 12;
/// The noise levels at which all readings are compared first.
const FIRST_LEVELS: [usize; 3] = [2, 5, 8];
/// The range of noise levels, in standard deviations of the data. Beyond it all readings are alike.
const LEVEL_RANGE: [f64; 2] = [0.03, 30.0];
/// No row's error counts more than this many times that of the baseline.
const ERROR_CAP: f64 = 4.0;
/// The error of another reading is at most this share of the error of the card's reading.
const MAX_RATIO: f64 = 0.8;
/// The error of another reading is at most this share of the baseline's, or it is the baseline's.
const MAX_BASELINE_SHARE: f64 = 0.95;
/// A reading that is nowhere worse refutes the card by this number of consecutive levels alone.
const WINDOW: usize = 3;
/// The error of such a reading at these levels is at most this share of the error of the card's.
const MAX_WINDOW_RATIO: f64 = 0.9;
/// The largest ratio of errors at one level at which a reading counts as nowhere worse.
const NOWHERE_LARGER: f64 = 1.03;
/// The error with the outputs of other samples is at least this many times larger, at the
/// [`WINDOW`] consecutive levels where it is largest.
const MIN_SHUFFLED_RATIO: f64 = 1.25;
/// The two-sided probability of five standard errors under a normal distribution.
const FALSE_ALARM_PROBABILITY: f64 = 5.7e-7;
/// Of two readings whose errors differ by this factor or less, the simpler one is named.
const SIMPLER_WITHIN: f64 = 1.05;

/// How many evaluations of the network a check may cost, each on one batch of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckEffort {
    /// At most 200, for `inspect`: all readings, and a table of the best.
    Full,
    /// At most 60, before other work: the likely readings, and only the verdict.
    Short,
}

impl CheckEffort {
    /// The largest number of evaluations.
    fn evaluations(self) -> usize {
        match self {
            CheckEffort::Full => 200,
            CheckEffort::Short => 60,
        }
    }

    /// The number of readings of the inputs that are evaluated at all noise levels, besides the
    /// card's.
    fn finalists(self) -> usize {
        match self {
            CheckEffort::Full => 5,
            CheckEffort::Short => 1,
        }
    }
}

/// One way to understand a network: how its inputs are meant, and what its output is.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// How the inputs are meant.
    pub input: InputReading,
    /// What the output estimates.
    pub prediction: Prediction,
    /// Whether the output has the opposite sign.
    pub negated: bool,
}

/// A reading with its denoising errors.
#[derive(Debug, Clone)]
pub struct ReadingScore {
    /// The reading.
    pub reading: Reading,
    /// Whether time runs against the direction that the card says.
    pub time_reversed: bool,
    /// The error by noise level, relative to the error of the best constant predictor; `None` where
    /// the path does not reach the level.
    pub errors: Vec<Option<f64>>,
    /// The error relative to that of the card's reading: the geometric mean over the levels.
    pub ratio: f64,
    /// The difference from the card's reading in ln error, in standard errors; 0 for the card's.
    pub standard_errors: f64,
    /// Where the reading refutes the card; `None` if it does not.
    pub refutation: Option<Refutation>,
}

/// The noise levels at which a reading is so much better than the card's that the card is wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Refutation {
    /// The error relative to that of the card's reading: the geometric mean over these levels.
    pub ratio: f64,
    /// The lowest and the highest of these noise levels σ/α; `None` if they are all levels.
    pub levels: Option<[f64; 2]>,
}

/// What the data say of the card.
#[derive(Debug, Clone)]
pub enum ReadingVerdict {
    /// No reading is better than the card's.
    Agrees,
    /// This reading is better than the card's.
    Disagrees(Box<ReadingScore>),
    /// Neither the card's reading nor another one is better than a denoiser that knows only the
    /// mean and the variance of the data.
    Undecided,
}

/// The result of a check.
#[derive(Debug, Clone)]
pub struct ReadingReport {
    /// The noise levels σ/α.
    pub ratios: Vec<f64>,
    /// The number of samples.
    pub samples: usize,
    /// The number of evaluations of the network, each on one batch of all samples.
    pub evaluations: usize,
    /// The error of the best linear denoiser by noise level, relative to the best constant
    /// predictor; empty after a short check.
    pub linear: Vec<f64>,
    /// The readings that were evaluated at all noise levels, best first. The card's is among them.
    pub scores: Vec<ReadingScore>,
    /// The card's reading.
    pub card: Reading,
    /// What the data say of the card.
    pub verdict: ReadingVerdict,
}

impl ReadingReport {
    /// The verdict in one line.
    pub fn sentence(&self) -> String {
        match &self.verdict {
            ReadingVerdict::Agrees => "card agrees with the data".to_owned(),
            ReadingVerdict::Disagrees(better) => {
                let at = better.refutation.and_then(|found| found.levels);
                let place = at.map_or(String::new(), |[low, high]| {
                    format!(
                        " at σ/α from {} to {}, and nowhere larger",
                        two_digits(low),
                        two_digits(high)
                    )
                });
                format!(
                    "card disagrees: read {} the error is {} of what the card's reading gives{place}",
                    better.reading.difference_from(&self.card),
                    two_digits(better.refutation.map_or(better.ratio, |found| found.ratio))
                )
            }
            ReadingVerdict::Undecided => {
                "undecided: no reading denoises the data better than their mean and variance alone; \
                 the network, the data or both are others than the card means"
                    .to_owned()
            }
        }
    }

    /// Whether the card is wrong.
    pub fn disagrees(&self) -> bool {
        matches!(self.verdict, ReadingVerdict::Disagrees(_))
    }

    /// Whether no reading is better than the card's.
    pub fn agrees(&self) -> bool {
        matches!(self.verdict, ReadingVerdict::Agrees)
    }
}

/// A number with two significant digits.
pub fn two_digits(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let exponent = value.abs().log10().floor();
    if (-4.0..4.0).contains(&exponent) {
        let places = (1.0 - exponent).max(0.0) as usize;
        format!("{value:.places$}")
    } else {
        format!("{value:.1e}")
    }
}

impl Reading {
    /// The prediction with its sign, as `read as …` continues.
    pub fn output_name(&self) -> String {
        let name = prediction_name(self.prediction);
        let sign = if self.negated { "-" } else { "" };
        format!("{sign}{name}")
    }

    /// The number of respects in which the reading differs from another.
    fn distance(&self, other: &Reading) -> usize {
        let different = [
            self.prediction != other.prediction,
            self.negated != other.negated,
            self.input.path != other.input.path,
            self.input.time != other.input.time,
            self.input.preconditioning != other.input.preconditioning,
            self.input.rescaled_data != other.input.rescaled_data,
        ];
        different.into_iter().filter(|d| *d).count()
    }

    /// Names everything in which the reading differs from the card's, as `read …` continues.
    pub fn difference_from(&self, card: &Reading) -> String {
        let (input, own) = (&self.input, &card.input);
        let mut parts = Vec::new();
        if self.output_name() != card.output_name() {
            parts.push(format!("as {}", self.output_name()));
        }
        if input.path != own.path {
            parts.push(match (&input.path, &own.path) {
                (
                    ProbabilityPath::FlowMatching { data_at, .. },
                    ProbabilityPath::FlowMatching { .. },
                ) => format!("with data_at: {data_at}"),
                (path, _) => format!("on the path {}", path_name(path)),
            });
        }
        if input.preconditioning != own.preconditioning {
            parts.push(match input.preconditioning {
                None => "without preconditioning".to_owned(),
                Some(p) => format!(
                    "with preconditioning: {}",
                    serde_json::to_string(&p)
                        .unwrap_or_default()
                        .replace('"', "")
                ),
            });
        }
        if input.time != own.time {
            parts.push(format!("with the time fed as {}", input.time.formula()));
        }
        if let Some([scale, shift]) = input.rescaled_data {
            let range = if shift < 0.0 { "[-1, 1]" } else { "[0, 1]" };
            parts.push(format!(
                "with the data moved to {range} ({scale} x + {shift})"
            ));
        }
        parts.join(" ")
    }
}

/// The name of a prediction in a card.
pub fn prediction_name(prediction: Prediction) -> &'static str {
    match prediction {
        Prediction::Denoised => "denoised",
        Prediction::Noise => "noise",
        Prediction::Velocity => "velocity",
        Prediction::Score => "score",
        Prediction::V => "v",
    }
}

/// The kind of a path, with what distinguishes it from others of its kind.
pub fn path_name(path: &ProbabilityPath) -> String {
    match path {
        ProbabilityPath::FlowMatching { data_at, .. } => {
            format!("flow-matching with data_at: {data_at}")
        }
        ProbabilityPath::Discrete { betas, .. } => {
            let betas = match betas {
                Betas::Linear([first, last]) => format!("linear [{first}, {last}]"),
                Betas::ScaledLinear([first, last]) => format!("scaled-linear [{first}, {last}]"),
                Betas::Squaredcos => "squaredcos".to_owned(),
                Betas::Sigmoid => "sigmoid".to_owned(),
                Betas::Values(_) | Betas::File(_) => "of a list".to_owned(),
            };
            format!("discrete with betas {betas}")
        }
        other => other.kind().to_owned(),
    }
}

impl Model {
    /// Compares the card's reading of the network with other readings, on clean data. `x` has the
    /// samples of these numbers as rows, in the coordinates of the model.
    ///
    /// # Errors
    /// Fails if there are fewer than [`MIN_CHECKED_SAMPLES`] samples, if they are all zero, or if
    /// the network cannot be run as the card says.
    pub fn check_readings(
        &self,
        runtime: &Runtime,
        options: SessionOptions,
        samples: &[SampleId],
        x: &Batch,
        effort: CheckEffort,
    ) -> Result<ReadingReport> {
        if samples.len() < MIN_CHECKED_SAMPLES {
            bail!(
                "{} samples are too few to check the card; expected at least {MIN_CHECKED_SAMPLES}",
                samples.len()
            );
        }
        let rows = CleanRows::new(samples, x);
        let variance = rows.variance + 1e-4 * rows.mean_square();
        if !(variance > 0.0 && variance.is_finite()) {
            bail!("the data are all zero or not finite; expected samples of the model's data");
        }
        let mut network = self.velocity(runtime, options)?.field.network;
        let facts = CandidateFacts {
            whole_times: network
                .time_port()
                .is_some_and(|port| is_integer_format(port.format)),
            data_std: rows.variance.sqrt(),
            data_range: rows.range(),
        };
        let ratios = noise_levels(&self.curve, self.card.time_input().feed, variance.sqrt());
        let baselines: Vec<f64> = ratios
            .iter()
            .enumerate()
            .map(|(level, ratio)| rows.baseline_error(level, *ratio, variance))
            .collect();
        let mut check = ReadingCheck {
            candidates: candidates(&self.card, facts, &ratios),
            ratios: &ratios,
            rows: &rows,
            baselines,
            known: BTreeMap::new(),
            errors: Vec::new(),
            evaluations: 0,
            left: effort.evaluations(),
        };
        let card = Reading {
            input: check.candidates[0].reading.clone(),
            prediction: self.card.network.prediction,
            negated: false,
        };
        check.remove_equal_candidates(network.time_name.is_some());
        let batch = self.default_batch_size(options.provider);
        let mut evaluate = |at: InputValues, noise: &Batch| {
            OutputProducts::evaluate(&mut network, batch, &rows, noise, at)
        };
        check.run(&card, effort, &mut evaluate)?;
        check.report(card, effort)
    }
}

/// The noise levels σ/α at which a card is checked: equal steps of the logarithm over the part of
/// the path where data of the standard deviation `scale` can be told from noise and noise from
/// data. On a discrete path whose network gets indices these are levels of whole indices.
fn noise_levels(curve: &PathCurve, feed: TimeVariable, scale: f64) -> Vec<f64> {
    let ratio_at = |t: f64| {
        let s = curve.at(t);
        s.sigma / s.alpha
    };
    let (first, last) = (ratio_at(curve.data_end()), ratio_at(curve.prior_end()));
    let mut low = first.max(LEVEL_RANGE[0] * scale);
    let mut high = last.min(LEVEL_RANGE[1] * scale);
    if low >= high {
        // The card's path is far from the scale of the data: its own range is all there is.
        (low, high) = (first.max(1e-6 * scale), last.min(1e6 * scale));
    }
    let level = |i: usize| {
        let share = (i as f64 + 0.5) / LEVELS as f64;
        let ratio = (low.ln() + share * (high.ln() - low.ln())).exp();
        let ProbabilityPath::Discrete { steps, .. } = curve.path() else {
            return ratio;
        };
        if feed != TimeVariable::Index {
            return ratio;
        }
        let index = curve
            .discrete_time_index(curve.time_of_ratio(ratio))
            .round();
        ratio_at((index + 1.0) / *steps as f64)
    };
    (0..LEVELS).map(level).collect()
}

/// A key of an evaluation: the number of the noise level and the bits of all that is given.
type EvaluationKey = (usize, [u64; 4]);

/// An evaluation of the network with given inputs on rows with given noise.
type Evaluate<'a> = dyn FnMut(InputValues, &Batch) -> Result<OutputProducts, EvalError> + 'a;

/// The errors of one reading at all noise levels.
struct ReadingErrors {
    /// The number of the candidate, and the reading of the output.
    candidate: usize,
    prediction: Prediction,
    negated: bool,
    /// The errors by noise level; `None` where the reading was not evaluated.
    levels: Vec<Option<LevelErrors>>,
}

/// A check in progress.
struct ReadingCheck<'a> {
    /// The readings of the inputs; the first is the card's.
    candidates: Vec<InputCandidate>,
    /// The noise levels.
    ratios: &'a [f64],
    /// The data.
    rows: &'a CleanRows,
    /// The error by noise level of a denoiser that knows only the mean and the variance of the
    /// data: the baseline.
    baselines: Vec<f64>,
    /// The evaluations so far; `None` for a failed one.
    known: BTreeMap<EvaluationKey, Option<OutputProducts>>,
    /// The readings of the candidates that were evaluated at all noise levels.
    errors: Vec<ReadingErrors>,
    /// The number of evaluations so far.
    evaluations: usize,
    /// The number of evaluations that are left.
    left: usize,
}

impl ReadingCheck<'_> {
    /// Removes candidates that give the network nearly the inputs of an earlier one and read its
    /// outputs alike.
    fn remove_equal_candidates(&mut self, has_time: bool) {
        let describe = |candidate: &InputCandidate| -> Vec<Option<Vec<f64>>> {
            let at = |level: &usize| {
                let input = candidate.input_values(*level)?;
                let fed = if has_time { input.fed } else { 0.0 };
                let mut numbers = vec![input.factor, fed, input.data[0], input.data[1]];
                for prediction in Prediction::ALL {
                    let factors = candidate.output_factors(*level, prediction, false);
                    numbers.extend(factors.map_or([f64::MAX; 2], |f| [f.state, f.output]));
                }
                Some(numbers)
            };
            FIRST_LEVELS.iter().map(at).collect()
        };
        let near = |a: &f64, b: &f64| a == b || (a - b).abs() <= 5e-3 * a.abs().max(b.abs());
        let equal = |a: &[Option<Vec<f64>>], b: &[Option<Vec<f64>>]| {
            a.iter().zip(b).all(|pair| match pair {
                (Some(a), Some(b)) => a.iter().zip(b).all(|(a, b)| near(a, b)),
                (None, None) => true,
                _ => false,
            })
        };
        let mut seen: Vec<Vec<Option<Vec<f64>>>> = Vec::new();
        let mut kept = Vec::new();
        for candidate in &self.candidates {
            let found = describe(candidate);
            let new = kept.is_empty() || !seen.iter().any(|known| equal(known, &found));
            kept.push(new && found.iter().flatten().count() >= 2);
            if new {
                seen.push(found);
            }
        }
        kept[0] = true;
        let mut keep = kept.into_iter();
        self.candidates.retain(|_| keep.next().unwrap_or(false));
    }

    /// Evaluates all candidates at a few noise levels, and the best ones at all.
    ///
    /// # Errors
    /// Fails if the card's own reading cannot be evaluated.
    fn run(
        &mut self,
        card: &Reading,
        effort: CheckEffort,
        evaluate: &mut Evaluate,
    ) -> Result<(), EvalError> {
        let rest = LEVELS - FIRST_LEVELS.len();
        let reserved = rest * (1 + effort.finalists());
        let all: Vec<usize> = (0..LEVELS).collect();
        self.left -= reserved;
        let mut screened = Vec::new();
        for candidate in 0..self.candidates.len() {
            screened.extend(self.screen(candidate, evaluate)?);
        }
        self.left += reserved;
        self.evaluate_levels(0, &all, evaluate)?;
        let own = self.screening_score(0, card.prediction, false);
        screened.sort_by(|a, b| a.1.total_cmp(&b.1));
        let hopeful = screened
            .into_iter()
            .filter(|(candidate, score)| match effort {
                CheckEffort::Full => *candidate != 0,
                CheckEffort::Short => {
                    *candidate != 0 && own.is_none_or(|own| score - own < 0.97f64.ln())
                }
            });
        let mut chosen = vec![0];
        let mut costly = 0;
        for (candidate, _) in hopeful.collect::<Vec<_>>() {
            // Candidates whose evaluations are known cost nothing.
            let cost = self.new_evaluations(candidate);
            if cost > 0 && (costly == effort.finalists() || cost > self.left) {
                continue;
            }
            costly += usize::from(cost > 0);
            self.evaluate_levels(candidate, &all, evaluate)?;
            chosen.push(candidate);
        }
        for candidate in chosen {
            let found = self.readings_of(candidate, &all);
            self.errors.extend(found);
        }
        Ok(())
    }

    /// Evaluates a candidate at the first noise levels, and returns its number and the score of its
    /// best reading. `None` if no evaluations are left, or if the network cannot take the inputs.
    fn screen(
        &mut self,
        candidate: usize,
        evaluate: &mut Evaluate,
    ) -> Result<Option<(usize, f64)>, EvalError> {
        if self.left < FIRST_LEVELS.len() {
            return Ok(None);
        }
        self.evaluate_levels(candidate, &FIRST_LEVELS, evaluate)?;
        let best = output_readings()
            .filter_map(|(prediction, negated)| {
                self.screening_score(candidate, prediction, negated)
            })
            .min_by(f64::total_cmp);
        Ok(best.map(|best| (candidate, best)))
    }

    /// The mean logarithm of a reading's error at the first noise levels, relative to the baseline.
    fn screening_score(
        &self,
        candidate: usize,
        prediction: Prediction,
        negated: bool,
    ) -> Option<f64> {
        let found: Vec<f64> = FIRST_LEVELS
            .iter()
            .filter_map(|level| {
                let errors = self.level_errors(candidate, prediction, negated, *level)?;
                Some(self.log_share(&errors.samples, *level))
            })
            .collect();
        (found.len() >= 2).then(|| found.iter().sum::<f64>() / found.len() as f64)
    }

    /// The logarithm of a mean error relative to the baseline.
    fn log_share(&self, samples: &[f64], level: usize) -> f64 {
        let mean = samples.iter().sum::<f64>() / samples.len() as f64;
        (mean / self.baselines[level]).max(1e-6).ln()
    }

    /// Evaluates the network for a candidate at noise levels where that was not done yet.
    ///
    /// # Errors
    /// Fails if the card's own reading cannot be evaluated, or if a signal stopped the program.
    fn evaluate_levels(
        &mut self,
        candidate: usize,
        levels: &[usize],
        evaluate: &mut Evaluate,
    ) -> Result<(), EvalError> {
        for level in levels {
            let Some((key, at)) = self.evaluation(candidate, *level) else {
                continue;
            };
            if self.known.contains_key(&key) || self.left == 0 {
                continue;
            }
            self.evaluations += 1;
            self.left -= 1;
            let outcome = evaluate(at, &self.rows.noise(*level));
            let failed = matches!(outcome, Err(EvalError::Stopped)) || candidate == 0;
            let products = match outcome {
                Err(error) if failed => return Err(error),
                outcome => outcome.ok(),
            };
            self.known.insert(key, products);
        }
        Ok(())
    }

    /// The number of evaluations that a candidate needs besides those that are known.
    fn new_evaluations(&self, candidate: usize) -> usize {
        (0..LEVELS)
            .filter_map(|level| self.evaluation(candidate, level))
            .filter(|(key, _)| !self.known.contains_key(key))
            .count()
    }

    /// The inputs of a candidate at a noise level, and the key of the evaluation.
    fn evaluation(&self, candidate: usize, level: usize) -> Option<(EvaluationKey, InputValues)> {
        let at = self.candidates[candidate].input_values(level)?;
        let numbers = [at.factor, at.fed, at.data[0], at.data[1]];
        Some(((level, numbers.map(f64::to_bits)), at))
    }

    /// The errors of one reading at one noise level; `None` if it was not evaluated there.
    fn level_errors(
        &self,
        candidate: usize,
        prediction: Prediction,
        negated: bool,
        level: usize,
    ) -> Option<LevelErrors> {
        let (key, _) = self.evaluation(candidate, level)?;
        let products = self.known.get(&key)?.as_ref()?;
        let factors = self.candidates[candidate].output_factors(level, prediction, negated)?;
        let cap = ERROR_CAP * self.baselines[level];
        Some(products.errors(self.rows, factors.state, factors.output, cap))
    }

    /// The errors of all readings of a candidate's outputs.
    fn readings_of(&self, candidate: usize, levels: &[usize]) -> Vec<ReadingErrors> {
        let reading = |(prediction, negated)| ReadingErrors {
            candidate,
            prediction,
            negated,
            levels: levels
                .iter()
                .map(|level| self.level_errors(candidate, prediction, negated, *level))
                .collect(),
        };
        output_readings()
            .map(reading)
            .filter(|found| found.levels.iter().any(Option::is_some))
            .collect()
    }

    /// Compares all readings with the card's.
    ///
    /// # Errors
    /// Fails if the card's reading reaches no noise level.
    fn report(self, card: Reading, effort: CheckEffort) -> Result<ReadingReport> {
        let constant = self.rows.constant_error();
        let Some(own) = self.errors.iter().find(|errors| {
            errors.candidate == 0 && errors.prediction == card.prediction && !errors.negated
        }) else {
            bail!("the card's path reaches none of the noise levels of the data");
        };
        let mut scores: Vec<ReadingScore> = self
            .errors
            .iter()
            .filter_map(|errors| self.score(errors, own, constant))
            .collect();
        scores.sort_by(|a, b| a.ratio.total_cmp(&b.ratio));
        let refuting = scores.iter().filter(|score| score.refutation.is_some());
        let best = refuting.min_by(|a, b| {
            let cost = |score: &ReadingScore| {
                score.ratio * SIMPLER_WITHIN.powi(score.reading.distance(&card) as i32)
            };
            cost(a).total_cmp(&cost(b))
        });
        let verdict = match best {
            Some(best) => ReadingVerdict::Disagrees(Box::new(best.clone())),
            None if self.baseline_comparison(own).0 > 0.2 => ReadingVerdict::Undecided,
            None => ReadingVerdict::Agrees,
        };
        let linear = match effort {
            CheckEffort::Full => linear_denoiser_errors(self.rows, self.ratios)
                .into_iter()
                .map(|error| error / constant)
                .collect(),
            CheckEffort::Short => Vec::new(),
        };
        Ok(ReadingReport {
            ratios: self.ratios.to_vec(),
            samples: self.rows.distinct(),
            evaluations: self.evaluations,
            linear,
            scores,
            card,
            verdict,
        })
    }

    /// The score of a reading beside the card's; `None` if they share no noise levels.
    fn score(
        &self,
        errors: &ReadingErrors,
        own: &ReadingErrors,
        constant: f64,
    ) -> Option<ReadingScore> {
        let candidate = &self.candidates[errors.candidate];
        let shared: Vec<usize> = (0..LEVELS)
            .filter(|level| errors.levels[*level].is_some() && own.levels[*level].is_some())
            .collect();
        if shared.len() < LEVELS / 2 {
            return None;
        }
        let of = |errors: &ReadingErrors, level: &usize| -> Vec<f64> {
            errors.levels[*level]
                .as_ref()
                .map(|e| e.samples.clone())
                .unwrap_or_default()
        };
        let differences: Vec<f64> = shared
            .iter()
            .map(|level| {
                self.log_share(&of(errors, level), *level) - self.log_share(&of(own, level), *level)
            })
            .collect();
        // The mean difference over consecutive levels, and how many standard errors it is.
        let over = |levels: Range<usize>| {
            let mean = differences[levels.clone()].iter().sum::<f64>() / levels.len() as f64;
            let terms = |errors: &ReadingErrors| -> Vec<Vec<f64>> {
                shared[levels.clone()]
                    .iter()
                    .map(|level| of(errors, level))
                    .collect()
            };
            let stderr = log_difference_stderr(&terms(errors), Some(&terms(own)));
            (mean, if mean == 0.0 { 0.0 } else { mean / stderr })
        };
        let (difference, standard_errors) = over(0..shared.len());
        let threshold =
            stats::student_t_quantile(1.0 - FALSE_ALARM_PROBABILITY, self.rows.distinct() - 1);
        let significant = |(mean, standard_errors): (f64, f64), most: f64| {
            mean <= most.ln() && standard_errors <= -threshold
        };
        let nowhere_larger = (0..shared.len()).all(|i| {
            let (mean, standard_errors) = over(i..i + 1);
            mean <= NOWHERE_LARGER.ln() || (standard_errors <= 2.0 && mean <= 1.1f64.ln())
        });
        // Where the reading itself is worse than the baseline, the network knows nothing.
        let knows = |window: &Range<usize>| {
            let shares = window
                .clone()
                .map(|i| self.log_share(&of(errors, &shared[i]), shared[i]));
            shares.sum::<f64>() <= WINDOW as f64 * 1.02f64.ln()
        };
        let window = (0..=shared.len() - WINDOW)
            .map(|first| first..first + WINDOW)
            .filter(|window| nowhere_larger && knows(window))
            .filter(|window| significant(over(window.clone()), MAX_WINDOW_RATIO))
            .min_by(|a, b| over(a.clone()).0.total_cmp(&over(b.clone()).0));
        let refutation = if significant((difference, standard_errors), MAX_RATIO) {
            Some(Refutation {
                ratio: difference.exp(),
                levels: None,
            })
        } else {
            window.map(|window| Refutation {
                ratio: over(window.clone()).0.exp(),
                levels: Some([window.start, window.end - 1].map(|i| self.ratios[shared[i]])),
            })
        };
        Some(ReadingScore {
            reading: Reading {
                input: candidate.reading.clone(),
                prediction: errors.prediction,
                negated: errors.negated,
            },
            time_reversed: candidate.time_falls() != self.candidates[0].time_falls(),
            errors: errors
                .levels
                .iter()
                .map(|level| level.as_ref().map(|e| e.mean / constant))
                .collect(),
            ratio: difference.exp(),
            standard_errors,
            refutation: refutation.filter(|_| self.shows_knowledge(errors)),
        })
    }

    /// The mean logarithm of a reading's errors relative to the baseline, with its standard error.
    fn baseline_comparison(&self, errors: &ReadingErrors) -> (f64, f64) {
        let found: Vec<(usize, &LevelErrors)> = errors
            .levels
            .iter()
            .enumerate()
            .filter_map(|(level, found)| Some((level, found.as_ref()?)))
            .collect();
        let shares = found
            .iter()
            .map(|(level, found)| self.log_share(&found.samples, *level));
        let mean = shares.sum::<f64>() / found.len().max(1) as f64;
        let terms: Vec<Vec<f64>> = found.iter().map(|(_, e)| e.samples.clone()).collect();
        (mean, log_difference_stderr(&terms, None))
    }

    /// Whether a reading knows the data: its errors are below the baseline's, or at no level above
    /// them, as those of an exact model of a normal distribution, and they need the outputs of the
    /// right rows. A network without knowledge, such as an untrained one, has no such reading.
    fn shows_knowledge(&self, errors: &ReadingErrors) -> bool {
        let (mean, stderr) = self.baseline_comparison(errors);
        let better = mean <= MAX_BASELINE_SHARE.ln() && mean <= -3.0 * stderr;
        let levels = || errors.levels.iter().enumerate();
        let never_above = levels().all(|(level, found)| {
            found.as_ref().is_none_or(|found| {
                // The mean and the variance come from the same few samples.
                let slack = 0.03 + 1.5 / self.rows.distinct() as f64;
                self.log_share(&found.samples, level) <= slack
            })
        });
        let shuffled: Vec<f64> = levels()
            .filter_map(|(level, found)| {
                let found = found.as_ref()?;
                let own = self.log_share(&found.samples, level);
                Some(self.log_share(&[found.shuffled], level) - own)
            })
            .collect();
        // Near the ends of a path the state, or the mean of the data, is nearly all of the denoiser.
        let shuffled = shuffled
            .windows(WINDOW)
            .map(|window| window.iter().sum::<f64>() / WINDOW as f64)
            .fold(f64::NEG_INFINITY, f64::max);
        (better || never_above) && shuffled >= MIN_SHUFFLED_RATIO.ln()
    }
}

/// Every prediction with both signs.
fn output_readings() -> impl Iterator<Item = (Prediction, bool)> {
    [false, true]
        .into_iter()
        .flat_map(|negated| Prediction::ALL.map(|prediction| (prediction, negated)))
}

/// The standard error of the mean over levels of ln(mean of `a`), or of its difference from that of
/// `b`, by the delta method. Both have the same samples at each level.
fn log_difference_stderr(a: &[Vec<f64>], b: Option<&[Vec<f64>]>) -> f64 {
    let samples = a.first().map_or(0, Vec::len);
    let mut influence = vec![0.0; samples];
    let mut add = |terms: &[Vec<f64>], sign: f64| {
        for level in terms {
            let mean = level.iter().sum::<f64>() / samples as f64;
            if mean > 0.0 {
                influence
                    .iter_mut()
                    .zip(level)
                    .for_each(|(sum, e)| *sum += sign * (e / mean - 1.0) / terms.len() as f64);
            }
        }
    };
    add(a, 1.0);
    if let Some(b) = b {
        add(b, -1.0);
    }
    stats::mean_estimate(&influence)
        .and_then(|estimate| estimate.stderr)
        .unwrap_or(f64::INFINITY)
}
