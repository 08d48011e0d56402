//! The times at which schedulers of other programs evaluate a network, and where their steps end.
//!
//! A grid here is a list of evaluations, from the prior end to the data end, and an end point. The
//! evaluations are at chosen indices of a discrete path, at chosen times, or at chosen noise levels
//! σ/α.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PathPoint, SamplerSchedule};
use crate::flow::grid::GridSpacing;
use crate::flow::path::{IndexInterpolation, PathCurve, ProbabilityPath};
use crate::num::npy::parse_npy;
use crate::registry;

/// How indices of a discrete path are chosen (Lin et al. 2024, Table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum TimestepSpacing {
    /// Multiples of ⌊N/steps⌋ from 0 on, to which `steps_offset` is added.
    Leading,
    /// N − 1 and lower indices at distances of N/steps, rounded to whole numbers.
    Trailing,
    /// Equal distances from N − 1 to 0.
    Linspace,
}

/// How indices are rounded to whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum IndexRounding {
    /// To the nearest whole number, and from halves to the nearest even one.
    Nearest,
    /// To the next lower whole number.
    Down,
}

/// Where the last step of a grid ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum FinalNoise {
    /// At σ = 0.
    Zero,
    /// At the data end of the path, which is index 0 of a discrete path.
    SigmaMin,
    /// At the last point that was chosen.
    None,
}

/// Noise levels σ/α, from the prior end to the data end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "NoiseLevelsSource")]
#[schemars(with = "NoiseLevelsSource")]
pub struct NoiseLevels(pub Vec<f64>);

/// Noise levels as a user writes them. A file is read where the name is read, so that a plan records
/// the numbers.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a list of noise levels sigma/alpha or the name of a .npy file"
)]
enum NoiseLevelsSource {
    /// A list of noise levels.
    List(Vec<f64>),
    /// The name of a `.npy` file with one axis.
    File(PathBuf),
}

impl TryFrom<NoiseLevelsSource> for NoiseLevels {
    type Error = String;

    fn try_from(source: NoiseLevelsSource) -> Result<NoiseLevels, String> {
        let file = match source {
            NoiseLevelsSource::List(levels) => return Ok(NoiseLevels(levels)),
            NoiseLevelsSource::File(file) => file,
        };
        let read = || -> anyhow::Result<Vec<f64>> {
            let values = parse_npy(&std::fs::read(&file)?)?.0.into_array();
            anyhow::ensure!(
                values.ndim() == 1,
                "it has shape {:?}, expected one axis",
                values.shape()
            );
            Ok(values.into_iter().collect())
        };
        read()
            .map(NoiseLevels)
            .map_err(|e| format!("sigmas: {}: {e:#}", file.display()))
    }
}

impl SamplerSchedule {
    /// Whether the grid is only one between the two ends of the path.
    fn is_plain(&self) -> bool {
        let plain = SamplerSchedule {
            steps: self.steps,
            schedule: self.schedule,
            rho: self.rho,
            lower_order_final: self.lower_order_final,
            denoise_to_zero: self.denoise_to_zero,
            lower_order_below: self.lower_order_below,
            euler_at_final: self.euler_at_final,
            ..SamplerSchedule::default()
        };
        *self == plain
    }

    /// Whether the evaluations are chosen by `spacing`, `times` or `sigmas`.
    fn chooses_evaluations(&self) -> bool {
        self.spacing.is_some() || self.times.is_some() || self.sigmas.is_some()
    }

    /// Where the last step ends.
    fn final_noise(&self) -> FinalNoise {
        self.final_sigmas_type
            .unwrap_or(if self.chooses_evaluations() {
                FinalNoise::Zero
            } else {
                FinalNoise::None
            })
    }

    /// Checks that no two options contradict each other, and that each has a meaning on the path.
    ///
    /// # Errors
    /// Fails if one has none. The message names the key and says what is expected.
    fn check_options(&self, curve: &PathCurve) -> Result<(), String> {
        let (discrete, flow) = (
            is_discrete(curve),
            matches!(curve.path(), ProbabilityPath::FlowMatching { .. }),
        );
        let kind = curve.path().kind();
        let chosen = [
            ("spacing", self.spacing.is_some()),
            ("times", self.times.is_some()),
            ("sigmas", self.sigmas.is_some()),
        ];
        let chosen: Vec<&str> = chosen
            .iter()
            .filter(|(_, given)| *given)
            .map(|(k, _)| *k)
            .collect();
        if chosen.len() > 1 {
            return Err(format!(
                "{} are given, expected one of spacing, times and sigmas",
                chosen.join(" and ")
            ));
        }
        let only = |key: &str, given: bool, allowed: bool, expected: &str| {
            (!given || allowed)
                .then_some(())
                .ok_or_else(|| format!("{key} is given, but {expected}"))
        };
        let is_linspace = self.spacing == Some(TimestepSpacing::Linspace);
        only(
            "spacing",
            self.spacing.is_some(),
            discrete || (flow && is_linspace),
            &format!(
                "it chooses indices of a discrete path (or is linspace on a flow-matching path), \
                 and this path is {kind}"
            ),
        )?;
        let spaced = self.spacing.is_some() && discrete;
        let levels = matches!(
            self.schedule,
            Some(GridSpacing::Karras | GridSpacing::LogSnr)
        );
        only(
            "schedule",
            self.schedule.is_some(),
            !self.chooses_evaluations() || (spaced && levels),
            "the evaluations are chosen by another key; expected schedule: karras or log-snr with \
             spacing, or no schedule",
        )?;
        only(
            "steps_offset",
            self.steps_offset > 0,
            self.spacing == Some(TimestepSpacing::Leading),
            "it belongs to spacing: leading",
        )?;
        only(
            "drop_last",
            self.drop_last,
            self.spacing.is_some(),
            "it belongs to spacing",
        )?;
        only(
            "index_count",
            self.index_count.is_some(),
            spaced || (flow && self.rounding.is_some()),
            "it belongs to spacing on a discrete path, or to rounding on a flow-matching path",
        )?;
        only(
            "rounding",
            self.rounding.is_some(),
            discrete || (flow && self.index_count.is_some()),
            &format!(
                "it needs indices, which a discrete path has, or index_count on a flow-matching \
                 path, and this path is {kind}"
            ),
        )?;
        only(
            "stride",
            self.stride,
            spaced && self.schedule.is_none(),
            "it belongs to spacing on a discrete path, without a schedule",
        )?;
        for (key, value) in [
            ("shift", self.shift),
            ("mu", self.mu),
            ("shift_terminal", self.shift_terminal),
            ("below_one", self.below_one),
        ] {
            only(
                key,
                value.is_some(),
                flow,
                &format!("only flow-matching grids are shifted, and this path is {kind}"),
            )?;
        }
        only(
            "mu",
            self.mu.is_some(),
            self.shift.is_none(),
            "shift is given too; expected one of them",
        )?;
        for (key, value) in [("sigma_min", self.sigma_min), ("sigma_max", self.sigma_max)] {
            only(
                key,
                value.is_some(),
                (levels && !flow) || (flow && is_linspace),
                "it belongs to schedule: karras or log-snr, or to spacing: linspace on a \
                 flow-matching path",
            )?;
        }
        let may_be_zero = flow && self.drop_last;
        let positive = [
            ("shift", self.shift),
            (
                "sigma_min",
                self.sigma_min.filter(|s| !may_be_zero || *s != 0.0),
            ),
            ("sigma_max", self.sigma_max),
        ];
        for (key, value) in positive {
            if let Some(value) = value.filter(|v| !(v.is_finite() && *v > 0.0)) {
                return Err(format!("{key} is {value}, expected a number above 0"));
            }
        }
        if let Some(mu) = self.mu.filter(|v| !v.is_finite()) {
            return Err(format!("mu is {mu}, expected a number"));
        }
        let shares = [
            ("shift_terminal", self.shift_terminal),
            ("below_one", self.below_one),
        ];
        for (key, value) in shares {
            if let Some(value) = value.filter(|v| !(*v > 0.0 && *v < 1.0)) {
                return Err(format!(
                    "{key} is {value}, expected a number between 0 and 1"
                ));
            }
        }
        Ok(())
    }
}

/// Whether the path has indices.
fn is_discrete(curve: &PathCurve) -> bool {
    matches!(curve.path(), ProbabilityPath::Discrete { .. })
}

/// The number N of indices of a discrete path; 0 on other paths.
fn index_total(curve: &PathCurve) -> usize {
    match curve.path() {
        ProbabilityPath::Discrete { steps, .. } => *steps,
        _ => 0,
    }
}

/// The point of a discrete path at an index.
fn point_at_index(curve: &PathCurve, index: f64) -> PathPoint {
    PathPoint::at_time(curve, (index + 1.0) / index_total(curve) as f64)
}

/// The rounded index.
fn round_index(index: f64, rounding: IndexRounding) -> f64 {
    match rounding {
        IndexRounding::Nearest => index.round_ties_even(),
        // A whole number that rounding errors made smaller stays what it is.
        IndexRounding::Down => (index + 1e-9).floor(),
    }
}

/// The points of a sampler's grid, from the prior end to the data end.
///
/// # Errors
/// Fails if an option of the schedule is out of range or has no meaning on the path. The message
/// names the key and says what is expected.
pub(super) fn grid_points(
    schedule: &SamplerSchedule,
    curve: &PathCurve,
) -> Result<Vec<PathPoint>, String> {
    if schedule.is_plain() {
        let times = schedule.times(curve)?;
        return Ok(times
            .into_iter()
            .map(|t| PathPoint::at_time(curve, t))
            .collect());
    }
    schedule.check_options(curve)?;
    let mut points = chosen_points(schedule, curve)?;
    shift_points(schedule, curve, &mut points);
    let last = points[points.len() - 1];
    match schedule.final_noise() {
        FinalNoise::Zero if last.sigma > 0.0 => points.push(noiseless_point(curve)),
        // Noise levels whose times are rounded are evaluations too.
        FinalNoise::SigmaMin if schedule.chooses_evaluations() || schedule.rounding.is_some() => {
            points.push(PathPoint::at_time(curve, curve.data_end()));
        }
        _ => {}
    }
    if points.len() < 2 {
        return Err(
            "the grid has one point and therefore no step; expected at least two points, or \
             final_sigmas_type: zero"
                .to_owned(),
        );
    }
    check_order(schedule, &points)?;
    Ok(points)
}

/// Checks that the noise level never rises along the grid. It may stay only in the last step.
///
/// # Errors
/// Fails if it rises. The message names both points.
fn check_order(schedule: &SamplerSchedule, points: &[PathPoint]) -> Result<(), String> {
    for (i, pair) in points.windows(2).enumerate() {
        let (from, to) = (pair[0].half_log_snr(), pair[1].half_log_snr());
        let last = i + 2 == points.len() && schedule.final_noise() == FinalNoise::SigmaMin;
        if !(from < to || (last && from == to)) {
            let level = |p: &PathPoint| p.sigma / p.alpha;
            return Err(format!(
                "step {} goes from sigma/alpha = {} to {}; expected a lower noise level in every \
                 step, from the prior end to the data end",
                i + 1,
                level(&pair[0]),
                level(&pair[1])
            ));
        }
    }
    Ok(())
}

/// The ends of the steps of a grid with `stride`.
///
/// # Errors
/// Fails as [`grid_points`] does.
pub(super) fn strided_steps(
    schedule: &SamplerSchedule,
    curve: &PathCurve,
) -> Result<Vec<(PathPoint, PathPoint)>, String> {
    schedule.check_options(curve)?;
    let stride = (index_total(curve) / schedule.steps.max(1)) as f64;
    let end = match schedule.final_noise() {
        FinalNoise::Zero => noiseless_point(curve),
        _ => PathPoint::at_time(curve, curve.data_end()),
    };
    let indices = chosen_indices(schedule, curve)?;
    Ok(indices
        .into_iter()
        .map(|index| {
            let to = if index < stride {
                end
            } else {
                point_at_index(curve, index - stride)
            };
            (point_at_index(curve, index), to)
        })
        .collect())
}

/// The point without noise at which a grid ends. Nothing is evaluated there.
fn noiseless_point(curve: &PathCurve) -> PathPoint {
    let end = PathPoint::at_time(curve, curve.data_end());
    if end.sigma == 0.0 {
        return end;
    }
    let t = match curve.path() {
        ProbabilityPath::FlowMatching { data_at, .. } => f64::from(*data_at),
        ProbabilityPath::Edm { .. } => 0.0,
        _ => curve.data_end(),
    };
    PathPoint {
        t,
        alpha: 1.0,
        sigma: 0.0,
    }
}

/// The points that a schedule chooses, before any shift and without the end that is appended.
fn chosen_points(schedule: &SamplerSchedule, curve: &PathCurve) -> Result<Vec<PathPoint>, String> {
    let levels = |schedule: &SamplerSchedule, levels: &[f64]| {
        levels
            .iter()
            .map(|level| point_at_level(curve, *level, schedule.rounding))
            .collect::<Result<Vec<PathPoint>, String>>()
    };
    if let Some(times) = &schedule.times {
        check_count(schedule, "times", times.len())?;
        return given_times(schedule, curve, times);
    }
    if let Some(NoiseLevels(sigmas)) = &schedule.sigmas {
        if let Some(bad) = sigmas.iter().find(|s| !(s.is_finite() && **s >= 0.0)) {
            return Err(format!(
                "sigmas holds {bad}, expected finite noise levels of at least 0"
            ));
        }
        let ends_at_zero = sigmas.last() == Some(&0.0);
        check_count(schedule, "sigmas", sigmas.len() - usize::from(ends_at_zero))?;
        let mut points = levels(
            schedule,
            &sigmas[..sigmas.len() - usize::from(ends_at_zero)],
        )?;
        if ends_at_zero {
            points.push(noiseless_point(curve));
        }
        return Ok(points);
    }
    if matches!(curve.path(), ProbabilityPath::FlowMatching { .. }) && schedule.spacing.is_some() {
        return flow_linspace(schedule, curve);
    }
    let by_level = matches!(
        schedule.grid_spacing(curve),
        GridSpacing::Karras | GridSpacing::LogSnr
    );
    let own_ends = schedule.sigma_min.is_some() || schedule.sigma_max.is_some();
    if by_level && (schedule.spacing.is_some() || own_ends || schedule.rounding.is_some()) {
        let [low, high] = level_ends(schedule, curve)?;
        return levels(schedule, &level_grid(schedule, curve, low, high)?);
    }
    let points: Vec<PathPoint> = match schedule.spacing {
        Some(_) => chosen_indices(schedule, curve)?
            .into_iter()
            .map(|index| point_at_index(curve, index))
            .collect(),
        None => {
            let times = schedule.times(curve)?;
            let rounded = |t: f64| match schedule.rounding {
                Some(rounding) => {
                    point_at_index(curve, round_index(curve.discrete_time_index(t), rounding))
                }
                None => PathPoint::at_time(curve, t),
            };
            times.into_iter().map(rounded).collect()
        }
    };
    Ok(points)
}

/// Checks a list of evaluations against `steps`.
///
/// # Errors
/// Fails if the list is empty, or if `steps` was given and differs.
fn check_count(schedule: &SamplerSchedule, key: &str, count: usize) -> Result<(), String> {
    if count == 0 {
        return Err(format!("{key} is empty, expected at least one evaluation"));
    }
    if schedule.steps != count && schedule.steps != SamplerSchedule::default().steps {
        return Err(format!(
            "steps is {}, but {key} gives {count} evaluations; leave steps out",
            schedule.steps
        ));
    }
    Ok(())
}

/// The points at given times: indices on a discrete path, the card's times on others.
fn given_times(
    schedule: &SamplerSchedule,
    curve: &PathCurve,
    times: &[f64],
) -> Result<Vec<PathPoint>, String> {
    let discrete = is_discrete(curve);
    let (low, high) = if discrete {
        (0.0, (index_total(curve) - 1) as f64)
    } else {
        let (a, b) = (curve.data_end(), curve.prior_end());
        (a.min(b), a.max(b))
    };
    if let Some(bad) = times.iter().find(|t| !(low..=high).contains(*t)) {
        let what = if discrete { "indices" } else { "times" };
        return Err(format!(
            "times holds {bad}, expected {what} of the path from {low} to {high}"
        ));
    }
    let point = |t: &f64| match (discrete, schedule.rounding) {
        (true, Some(rounding)) => point_at_index(curve, round_index(*t, rounding)),
        (true, None) => point_at_index(curve, *t),
        (false, _) => PathPoint::at_time(curve, *t),
    };
    Ok(times.iter().map(point).collect())
}

/// The indices that `spacing` chooses, as diffusers computes them.
///
/// # Errors
/// Fails if `steps` is out of range, or if an index is beyond the last one.
fn chosen_indices(schedule: &SamplerSchedule, curve: &PathCurve) -> Result<Vec<f64>, String> {
    let total = index_total(curve);
    let used = schedule.index_count.unwrap_or(total);
    registry::check_bounds("index_count", used, 1, total)?;
    registry::check_bounds("steps", schedule.steps, 1, used)?;
    let count = schedule.steps + usize::from(schedule.drop_last);
    let mut indices: Vec<f64> = match schedule.spacing {
        Some(TimestepSpacing::Trailing) => {
            // As numpy.arange(used, 0, −N/steps) computes it.
            let ratio = total as f64 / schedule.steps as f64;
            let first = used as f64;
            let (length, difference) = ((first / ratio).ceil() as usize, (first - ratio) - first);
            (0..length)
                .map(|i| (first + i as f64 * difference).round_ties_even() - 1.0)
                .collect()
        }
        Some(TimestepSpacing::Leading) => {
            let ratio = used / count;
            (0..count)
                .rev()
                .map(|i| (i * ratio + schedule.steps_offset) as f64)
                .collect()
        }
        _ => {
            let last = (used - 1) as f64;
            let step = last / (count.max(2) - 1) as f64;
            let mut up: Vec<f64> = (0..count).map(|i| i as f64 * step).collect();
            if count > 1 {
                up[count - 1] = last;
            }
            up.into_iter().rev().collect()
        }
    };
    if schedule.drop_last && schedule.spacing != Some(TimestepSpacing::Trailing) {
        indices.pop();
    }
    // With a schedule of noise levels the indices are only its ends, and the level is not rounded.
    if let Some(rounding) = schedule.rounding.filter(|_| schedule.schedule.is_none()) {
        for index in &mut indices {
            *index = round_index(*index, rounding);
        }
    }
    match indices
        .iter()
        .find(|i| **i < 0.0 || **i > (total - 1) as f64)
    {
        Some(bad) => Err(format!(
            "spacing with {} steps and steps_offset {} chooses index {bad}, but the path has \
             indices 0 to {}",
            schedule.steps,
            schedule.steps_offset,
            total - 1
        )),
        None => Ok(indices),
    }
}

/// The lowest and the highest noise level of a grid of noise levels.
fn level_ends(schedule: &SamplerSchedule, curve: &PathCurve) -> Result<[f64; 2], String> {
    let level = |p: PathPoint| p.sigma / p.alpha;
    let [low, high] = if schedule.spacing.is_some() {
        let indices = chosen_indices(schedule, curve)?;
        [indices[indices.len() - 1], indices[0]].map(|i| level(point_at_index(curve, i)))
    } else {
        [curve.data_end(), curve.prior_end()].map(|t| level(PathPoint::at_time(curve, t)))
    };
    let (low, high) = (
        schedule.sigma_min.unwrap_or(low),
        schedule.sigma_max.unwrap_or(high),
    );
    (low > 0.0 && low < high && high.is_finite())
        .then_some([low, high])
        .ok_or_else(|| {
            format!(
                "the noise levels sigma/alpha go from {high} to {low}, expected finite levels, the \
                 lowest above 0 and below the highest; give sigma_min and sigma_max"
            )
        })
}

/// `steps` noise levels from `high` to `low`, equally spaced in the power 1/ρ or in the logarithm.
fn level_grid(
    schedule: &SamplerSchedule,
    curve: &PathCurve,
    low: f64,
    high: f64,
) -> Result<Vec<f64>, String> {
    registry::check_bounds("steps", schedule.steps, 1, 1_000_000)?;
    if !(schedule.rho.is_finite() && schedule.rho > 0.0) {
        return Err(format!(
            "rho is {}, expected a number above 0",
            schedule.rho
        ));
    }
    let spacing = schedule.grid_spacing(curve);
    let last = schedule.steps - 1;
    let at = |i: usize| {
        let u = i as f64 / last.max(1) as f64;
        match spacing {
            GridSpacing::Karras => {
                let (a, b) = (high.powf(1.0 / schedule.rho), low.powf(1.0 / schedule.rho));
                (a + u * (b - a)).powf(schedule.rho)
            }
            _ => (high.ln() + u * (low.ln() - high.ln())).exp(),
        }
    };
    let mut levels: Vec<f64> = (0..schedule.steps).map(at).collect();
    levels[0] = high;
    if last > 0 {
        levels[last] = low;
    }
    Ok(levels)
}

/// `steps` times in σ from the prior end, or `sigma_max`, to `sigma_min` on a flow-matching path.
fn flow_linspace(schedule: &SamplerSchedule, curve: &PathCurve) -> Result<Vec<PathPoint>, String> {
    registry::check_bounds("steps", schedule.steps, 1, 1_000_000)?;
    let Some(low) = schedule.sigma_min else {
        return Err(
            "spacing is linspace on a flow-matching path, which needs sigma_min, the sigma of the \
             last evaluation before any shift (0.001 for 1000 training steps without a shift)"
                .to_owned(),
        );
    };
    let high = schedule
        .sigma_max
        .unwrap_or(curve.at(curve.prior_end()).sigma);
    if low >= high || high > 1.0 {
        return Err(format!(
            "sigma_min is {low} and sigma_max is {high}, expected sigma_min < sigma_max <= 1"
        ));
    }
    let last = schedule.steps - 1 + usize::from(schedule.drop_last);
    let at = |i: usize| {
        if i == last && last > 0 {
            low
        } else {
            high + i as f64 * ((low - high) / last.max(1) as f64)
        }
    };
    Ok((0..schedule.steps)
        .map(|i| flow_point(curve, at(i)))
        .collect())
}

/// The point of a flow-matching path at σ.
fn flow_point(curve: &PathCurve, sigma: f64) -> PathPoint {
    let data_at_one = matches!(
        curve.path(),
        ProbabilityPath::FlowMatching { data_at: 1, .. }
    );
    PathPoint::at_time(curve, if data_at_one { 1.0 - sigma } else { sigma })
}

/// Shifts the points of a flow-matching grid, and rounds the times that the network gets.
fn shift_points(schedule: &SamplerSchedule, curve: &PathCurve, points: &mut [PathPoint]) {
    if !matches!(curve.path(), ProbabilityPath::FlowMatching { .. }) {
        return;
    }
    let shift = schedule.shift.or(schedule.mu.map(f64::exp));
    let shift = shift.unwrap_or(1.0);
    let moved = |sigma: f64| shift * sigma / (1.0 + (shift - 1.0) * sigma);
    // A point without noise is the end of the grid, which no shift moves.
    let evaluations = points.len() - usize::from(points[points.len() - 1].sigma == 0.0);
    let evaluated = &mut points[..evaluations];
    let stretch = schedule
        .shift_terminal
        .zip(evaluated.last())
        .map(|(end, last)| (1.0 - moved(last.sigma)) / (1.0 - end));
    for point in evaluated {
        let sigma = moved(point.sigma);
        let sigma = stretch.map_or(sigma, |scale| 1.0 - (1.0 - sigma) / scale);
        let sigma = match schedule.below_one {
            Some(gap) if 1.0 - sigma < gap => sigma - gap,
            _ => sigma,
        };
        if sigma != point.sigma {
            *point = flow_point(curve, sigma);
        }
        if let (Some(rounding), Some(count)) = (schedule.rounding, schedule.index_count) {
            let count = count as f64;
            let rounded = round_index(point.sigma * count, rounding) / count;
            point.t = flow_point(curve, rounded).t;
        }
    }
}

/// The point at a noise level σ/α.
///
/// The time is the one at which the path has this level, or that of the rounded index. Beyond the
/// ends of the path it is the time of the end. On a path whose `interpolation` is `sigma`, the index
/// is found in ln(σ/α), as diffusers finds it.
///
/// # Errors
/// Fails if the level is beyond the ends of a path whose α and σ do not follow from their ratio.
pub(super) fn point_at_level(
    curve: &PathCurve,
    level: f64,
    rounding: Option<IndexRounding>,
) -> Result<PathPoint, String> {
    let ratio = |t: f64| {
        let s = curve.at(t);
        s.sigma / s.alpha
    };
    let t = curve.time_of_ratio(level);
    let within = ratio(curve.data_end()) <= level && level <= ratio(curve.prior_end());
    let in_log = matches!(
        curve.path(),
        ProbabilityPath::Discrete {
            interpolation: IndexInterpolation::Sigma,
            ..
        }
    );
    if within && rounding.is_none() && !in_log {
        return Ok(PathPoint::at_time(curve, t));
    }
    let mut index = curve.discrete_time_index(t);
    if in_log && within {
        let below = index.floor();
        let [low, high] = [below, below + 1.0].map(|i| {
            let p = point_at_index(curve, i.min((index_total(curve) - 1) as f64));
            (p.sigma / p.alpha).ln()
        });
        if high > low && high.is_finite() {
            index = below + ((level.ln() - low) / (high - low)).clamp(0.0, 1.0);
        }
    }
    if let Some(rounding) = rounding {
        index = round_index(index, rounding);
    }
    let t = if is_discrete(curve) {
        point_at_index(curve, index).t
    } else {
        t
    };
    let (alpha, sigma) = match curve.path() {
        ProbabilityPath::Edm { .. } | ProbabilityPath::Ve { .. } => (1.0, level),
        ProbabilityPath::FlowMatching { .. } => (1.0 / (1.0 + level), level / (1.0 + level)),
        ProbabilityPath::SubVp { .. } => {
            return Err(format!(
                "sigma/alpha = {level} is beyond the ends of the path; expected levels from {} to \
                 {}",
                ratio(curve.data_end()),
                ratio(curve.prior_end())
            ));
        }
        _ => {
            let alpha = 1.0 / (1.0 + level * level).sqrt();
            (alpha, level * alpha)
        }
    };
    let on_path = PathPoint::at_time(curve, t);
    let close = |a: f64, b: f64| (a - b).abs() <= 4.0 * f64::EPSILON * b.abs();
    // A point of the path up to rounding is the point itself, and needs no reading.
    if close(on_path.alpha, alpha) && close(on_path.sigma, sigma) {
        return Ok(on_path);
    }
    Ok(PathPoint { t, alpha, sigma })
}
