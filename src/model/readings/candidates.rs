//! The ways in which a network's inputs may be meant: the card's own, and what people mix up with it.

use crate::flow::path::{Betas, PathCoefficients, PathCurve, ProbabilityPath};
use crate::flow::preconditioning::Preconditioning;
use crate::flow::prediction::Prediction;
use crate::model::card::{Card, TimeInputSpec, TimeVariable};
use crate::model::time::TimeInput;

use super::denoising::InputValues;

/// How the inputs of a network are meant: the path on which it was trained, the values of its time
/// input, the scalings outside its graph, and the scale of its data.
#[derive(Debug, Clone, PartialEq)]
pub struct InputReading {
    /// The path on which the network was trained.
    pub path: ProbabilityPath,
    /// The values of the time input.
    pub time: TimeInput,
    /// The scalings outside the graph.
    pub preconditioning: Option<Preconditioning>,
    /// The scale and the shift that turn the card's data into those of the network; `None` if the
    /// data are as they should be.
    pub rescaled_data: Option<[f64; 2]>,
}

/// A reading of the inputs with the curve of its path.
pub(super) struct InputCandidate {
    /// The reading.
    pub(super) reading: InputReading,
    /// The curve of the reading's path.
    curve: PathCurve,
    /// The noise levels σ/α of the card's data, each with the time and the coefficients of the
    /// path; `None` where the path does not reach the level.
    points: Vec<(f64, Option<(f64, PathCoefficients)>)>,
}

/// How the output is read at one noise level: the denoiser is `state`·y + `output`·F, in which y is
/// the clean state plus noise of the level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct OutputFactors {
    /// The factor of the noised state y.
    pub(super) state: f64,
    /// The factor of the output F.
    pub(super) output: f64,
}

impl InputCandidate {
    /// Returns the candidate; `None` if the path or the scalings are not valid.
    fn new(reading: InputReading, ratios: &[f64]) -> Option<InputCandidate> {
        let curve = reading.path.curve().ok()?;
        let mut candidate = InputCandidate {
            reading,
            curve,
            points: Vec::new(),
        };
        let points = ratios.iter().map(|ratio| (*ratio, candidate.find(*ratio)));
        candidate.points = points.collect();
        Some(candidate)
    }

    /// The time and the coefficients of the path at the noise level; `None` if the path does not
    /// reach it.
    fn find(&self, ratio: f64) -> Option<(f64, PathCoefficients)> {
        let ratio = ratio * self.data()[0];
        let end = |t: f64| {
            let s = self.curve.at(t);
            s.sigma / s.alpha
        };
        let (low, high) = (
            end(self.curve.data_end()) * (1.0 - 1e-9),
            end(self.curve.prior_end()) * (1.0 + 1e-9),
        );
        // At α = 0 the ratio is not finite, and every level is below it.
        if ratio < low || ratio > high {
            return None;
        }
        let t = self.curve.time_of_ratio(ratio);
        let s = self.curve.at(t);
        (s.alpha > 0.0 && s.sigma > 0.0).then_some((t, s))
    }

    /// The scale and the shift of the data.
    fn data(&self) -> [f64; 2] {
        self.reading.rescaled_data.unwrap_or([1.0, 0.0])
    }

    /// How the network is called at the noise level; `None` if the path does not reach it.
    pub(super) fn input_values(&self, level: usize) -> Option<InputValues> {
        let (ratio, point) = self.points[level];
        let (t, s) = point?;
        let input = self.reading.preconditioning.map_or(1.0, |p| p.at(&s).input);
        let fed = self.reading.time.value_at(&self.curve, t);
        fed.is_finite().then_some(InputValues {
            ratio,
            factor: s.alpha * input,
            fed,
            data: self.data(),
        })
    }

    /// How the output is read at the noise level as a prediction; `None` if the path does not reach
    /// the level, or if the scalings do not know the prediction.
    pub(super) fn output_factors(
        &self,
        level: usize,
        prediction: Prediction,
        negated: bool,
    ) -> Option<OutputFactors> {
        let (_, s) = self.points[level].1?;
        let affine = prediction.denoised(&s);
        let sign = if negated { -1.0 } else { 1.0 };
        let (skip, out) = match self.reading.preconditioning {
            None => (0.0, 1.0),
            Some(p) => {
                p.check(prediction, &self.reading.path).ok()?;
                let scales = p.at(&s);
                (scales.skip, scales.out)
            }
        };
        Some(OutputFactors {
            state: s.alpha * (affine.a + affine.b * skip),
            output: sign * affine.b * out,
        })
    }

    /// Whether the value of the time input falls from the data end to the prior end.
    pub(super) fn time_falls(&self) -> bool {
        let [from, to] = [self.curve.data_end(), self.curve.prior_end()]
            .map(|t| self.reading.time.value_at(&self.curve, t));
        to < from
    }

    /// Whether an input of whole numbers can take the values: they differ by 2 or more.
    fn fits_whole_numbers(&self) -> bool {
        let [from, to] = [self.curve.data_end(), self.curve.prior_end()]
            .map(|t| self.reading.time.value_at(&self.curve, t));
        (to - from).abs() >= 2.0
    }
}

/// What is known of the network and the data besides the card.
#[derive(Debug, Clone, Copy)]
pub(super) struct CandidateFacts {
    /// Whether the time input takes whole numbers only.
    pub(super) whole_times: bool,
    /// The standard deviation of the components of the data.
    pub(super) data_std: f64,
    /// The lowest and the highest component of the data.
    pub(super) data_range: [f64; 2],
}

/// Returns the card's reading, and then the others, the likely ones first.
pub(super) fn candidates(
    card: &Card,
    facts: CandidateFacts,
    ratios: &[f64],
) -> Vec<InputCandidate> {
    let own = InputReading {
        path: card.path.clone(),
        time: card.time_input(),
        preconditioning: card.network.preconditioning,
        rescaled_data: None,
    };
    let mut readings = vec![own.clone()];
    let with_time = |time: TimeInput| InputReading {
        time,
        ..own.clone()
    };
    let usual = usual_times(&own.path);
    readings.extend(usual.iter().copied().map(with_time));
    readings.extend(flipped(&own));
    readings.extend(scalings(&own, facts));
    let mirrored = mirrored_time(&own.path, own.time).into_iter().chain(
        usual
            .iter()
            .filter_map(|time| mirrored_time(&own.path, *time)),
    );
    readings.extend(mirrored.map(with_time));
    readings.extend(rescaled_data(&own, facts));
    readings.extend(neighbouring_paths(&own));
    readings.extend(usual_models(&own.path));
    readings.extend(rare_times(&own.path).into_iter().map(with_time));
    let whole = facts.whole_times;
    let mut found: Vec<InputCandidate> = Vec::new();
    for (i, reading) in readings.into_iter().enumerate() {
        let known = found.iter().any(|c| c.reading == reading);
        let Some(candidate) = InputCandidate::new(reading, ratios).filter(|_| !known) else {
            continue;
        };
        if i == 0 || !whole || candidate.fits_whole_numbers() {
            found.push(candidate);
        }
    }
    found
}

/// The time input scale · feed + offset.
fn time_input(feed: TimeVariable, scale: f64, offset: f64) -> TimeInput {
    TimeInput {
        feed,
        scale,
        offset,
        interpolate: TimeInputSpec::default().interpolate,
        ignored: false,
    }
}

/// The time inputs that networks on a path usually have.
fn usual_times(path: &ProbabilityPath) -> Vec<TimeInput> {
    use TimeVariable::{Index, LogSigmaOver4, Sigma, T};
    let plain = |feed| time_input(feed, 1.0, 0.0);
    match path {
        ProbabilityPath::Edm { .. } => vec![plain(Sigma), plain(LogSigmaOver4)],
        ProbabilityPath::Ve { .. } => vec![plain(T), plain(Sigma), plain(LogSigmaOver4)],
        ProbabilityPath::Vp { .. } | ProbabilityPath::SubVp { .. } => {
            vec![plain(T), time_input(T, 999.0, 0.0)]
        }
        ProbabilityPath::Cosine { .. } | ProbabilityPath::FlowMatching { .. } => {
            vec![plain(T), time_input(T, 1000.0, 0.0)]
        }
        ProbabilityPath::Discrete { steps, .. } => {
            let mut found = vec![plain(Index), plain(T)];
            if *steps < 500 {
                found.push(time_input(Index, 1.0, 1.0));
            }
            if *steps != 1000 {
                found.push(time_input(T, 1000.0, -1.0));
            }
            found
        }
    }
}

/// Time inputs that only a few networks on a path have.
fn rare_times(path: &ProbabilityPath) -> Vec<TimeInput> {
    use TimeVariable::{LogSigmaOver4, Sigma, T};
    let logarithm = time_input(LogSigmaOver4, 4.0, 0.0);
    match path {
        ProbabilityPath::Edm { .. } => vec![logarithm],
        ProbabilityPath::Ve { .. } => vec![logarithm, time_input(T, 999.0, 0.0)],
        _ => [Sigma, LogSigmaOver4]
            .map(|feed| time_input(feed, 1.0, 0.0))
            .to_vec(),
    }
}

/// The same time input with time running the other way; `None` if it is not a function of the
/// card's time itself, or if another reading says the same.
fn mirrored_time(path: &ProbabilityPath, time: TimeInput) -> Option<TimeInput> {
    let ends = match (path, time.feed) {
        (ProbabilityPath::Edm { .. } | ProbabilityPath::FlowMatching { .. }, _) => return None,
        (ProbabilityPath::Discrete { steps, .. }, TimeVariable::Index) => *steps as f64 - 1.0,
        (ProbabilityPath::Discrete { steps, .. }, TimeVariable::T) => 1.0 + 1.0 / *steps as f64,
        (_, TimeVariable::T) => 1.0,
        _ => return None,
    };
    Some(TimeInput {
        scale: -time.scale,
        offset: time.offset + time.scale * ends,
        ..time
    })
}

/// The readings of flow matching with the data at the other end.
fn flipped(own: &InputReading) -> Vec<InputReading> {
    let ProbabilityPath::FlowMatching {
        data_at,
        t_min,
        t_max,
    } = own.path
    else {
        return Vec::new();
    };
    let path = ProbabilityPath::FlowMatching {
        data_at: 1 - data_at,
        t_min: t_min.min(1.0 - t_max),
        t_max: t_max.max(1.0 - t_min),
    };
    std::iter::once(own.time)
        .chain(usual_times(&path))
        .map(|time| InputReading {
            path: path.clone(),
            time,
            ..own.clone()
        })
        .collect()
}

/// The readings on the card's path with other scalings outside the graph.
fn scalings(own: &InputReading, facts: CandidateFacts) -> Vec<InputReading> {
    let unscaled = matches!(
        own.path,
        ProbabilityPath::Edm { .. } | ProbabilityPath::Ve { .. }
    );
    let logarithm = time_input(TimeVariable::LogSigmaOver4, 1.0, 0.0);
    let mut found = Vec::new();
    let mut add = |preconditioning, time| {
        found.push(InputReading {
            preconditioning,
            time,
            ..own.clone()
        });
    };
    if own.preconditioning.is_some() {
        add(None, own.time);
        usual_times(&own.path)
            .into_iter()
            .for_each(|time| add(None, time));
    }
    if !unscaled {
        return found;
    }
    // Two digits are enough: the scalings depend weakly on the deviation.
    let measured = (facts.data_std * 100.0).round() / 100.0;
    let deviations = [0.5, 1.0, measured];
    let distinct = deviations
        .iter()
        .enumerate()
        .filter(|(i, d)| **d > 0.0 && !deviations[..*i].contains(d));
    for (_, sigma_data) in distinct {
        let edm = Some(Preconditioning::Edm {
            sigma_data: *sigma_data,
        });
        add(edm, logarithm);
        add(edm, own.time);
    }
    add(
        Some(Preconditioning::ScaledInput { sigma_data: 1.0 }),
        own.time,
    );
    found
}

/// The card's reading with the data moved between [0, 1] and [−1, 1], if they can be meant so.
fn rescaled_data(own: &InputReading, facts: CandidateFacts) -> Vec<InputReading> {
    let [low, high] = facts.data_range;
    let mut maps = Vec::new();
    if low >= -0.01 && high <= 1.01 {
        maps.push([2.0, -1.0]);
    }
    if low >= -1.01 && high <= 1.01 {
        maps.push([0.5, 0.5]);
    }
    maps.into_iter()
        .map(|map| InputReading {
            rescaled_data: Some(map),
            ..own.clone()
        })
        .collect()
}

/// The readings on paths with the same time and the same state as the card's, or nearly.
fn neighbouring_paths(own: &InputReading) -> Vec<InputReading> {
    let paths: Vec<ProbabilityPath> = match own.path.clone() {
        ProbabilityPath::Edm {
            sigma_min,
            sigma_max,
        } => vec![ProbabilityPath::Ve {
            sigma_min,
            sigma_max,
        }],
        ProbabilityPath::Ve {
            sigma_min,
            sigma_max,
        } => vec![ProbabilityPath::Edm {
            sigma_min,
            sigma_max,
        }],
        ProbabilityPath::Vp {
            beta_min,
            beta_max,
            t_min,
        } => vec![ProbabilityPath::SubVp {
            beta_min,
            beta_max,
            t_min,
        }],
        ProbabilityPath::SubVp {
            beta_min,
            beta_max,
            t_min,
        } => vec![ProbabilityPath::Vp {
            beta_min,
            beta_max,
            t_min,
        }],
        ProbabilityPath::Discrete {
            ref betas,
            steps,
            zero_terminal_snr,
            last_alpha_bar,
            interpolation,
        } => {
            let same_ends = match betas {
                Betas::Linear(ends) => Some(Betas::ScaledLinear(*ends)),
                Betas::ScaledLinear(ends) => Some(Betas::Linear(*ends)),
                _ => None,
            };
            let usual = [
                Betas::default(),
                Betas::ScaledLinear([8.5e-4, 0.012]),
                Betas::Squaredcos,
            ];
            usual
                .into_iter()
                .chain(same_ends)
                .filter(|other| other != betas)
                .map(|betas| ProbabilityPath::Discrete {
                    betas,
                    steps,
                    zero_terminal_snr,
                    last_alpha_bar,
                    interpolation,
                })
                .collect()
        }
        ProbabilityPath::Cosine { .. } | ProbabilityPath::FlowMatching { .. } => Vec::new(),
    };
    // Whatever is fed on a path with a time from 0 to 1 can be fed on another.
    let bounded = !matches!(
        own.path,
        ProbabilityPath::Edm { .. } | ProbabilityPath::Ve { .. } | ProbabilityPath::Discrete { .. }
    );
    let others = ProbabilityPath::defaults().into_iter().filter(|path| {
        bounded
            && path.kind() != own.path.kind()
            && !matches!(
                path,
                ProbabilityPath::Edm { .. }
                    | ProbabilityPath::Ve { .. }
                    | ProbabilityPath::Discrete { .. }
            )
    });
    paths
        .into_iter()
        .chain(others)
        .map(|path| InputReading {
            path,
            preconditioning: None,
            ..own.clone()
        })
        .collect()
}

/// Models as the field has them, whatever the card says.
fn usual_models(own: &ProbabilityPath) -> Vec<InputReading> {
    let steps = match own {
        ProbabilityPath::Discrete { steps, .. } => *steps,
        _ => 1000,
    };
    let mut paths = ProbabilityPath::defaults();
    paths.push(ProbabilityPath::Discrete {
        betas: Betas::ScaledLinear([8.5e-4, 0.012]),
        steps,
        zero_terminal_snr: false,
        last_alpha_bar: None,
        interpolation: Default::default(),
    });
    let plain = paths.iter().flat_map(|path| {
        usual_times(path).into_iter().map(|time| InputReading {
            path: path.clone(),
            time,
            preconditioning: None,
            rescaled_data: None,
        })
    });
    let edm = InputReading {
        path: paths[0].clone(),
        time: time_input(TimeVariable::LogSigmaOver4, 1.0, 0.0),
        preconditioning: Some(Preconditioning::Edm { sigma_data: 0.5 }),
        rescaled_data: None,
    };
    std::iter::once(edm).chain(plain).collect()
}
