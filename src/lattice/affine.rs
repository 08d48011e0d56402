//! Equally spaced values with any origin and any step: of all numbers, of each channel, of each
//! position, or of each sample.
//!
//! Such lattices remain if a mean was subtracted from quantized data and the result was divided by
//! a standard deviation.

use super::subsample::{Subsample, distinct_values, is_regular_pattern};

/// The largest number of steps between the ends of a lattice: 16 bits, and half as many again for
/// values beyond both ends.
const MAX_STEPS: f64 = 98_304.0;

/// The largest divisor of the smallest difference in the search for the step.
const MAX_DIVISOR: usize = 256;

/// The largest number of examined values in a group.
const MAX_GROUP_VALUES: usize = 2048;
/// The largest number of examined groups.
const MAX_GROUPS: usize = 64;

/// The log10 of the largest probability at which a lattice is no longer considered chance.
const MAX_LOG10_CHANCE: f64 = -12.0;

/// A description of the affine lattice of all values, of a channel, of the positions or of the
/// samples. `None` if there is none.
pub(super) fn detect_affine_lattice(subsample: &Subsample) -> Option<String> {
    let places = |group_of: &dyn Fn(usize) -> usize, group: usize| -> Vec<usize> {
        (0..subsample.positions.len())
            .filter(|p| group_of(subsample.positions[*p]) == group)
            .collect()
    };
    let all: Vec<usize> = (0..subsample.positions.len()).collect();
    if let Some(lattice) =
        fit_affine_lattice(&subsample.numbers).filter(AffineLattice::is_significant)
    {
        return Some(format!(
            "they are equally spaced, {} apart",
            five_significant_digits(lattice.step)
        ));
    }
    let channel = |channels: usize, channel_of: &dyn Fn(usize) -> usize| {
        (0..channels).find_map(|c| {
            let lattice = fit_affine_lattice(&subsample.values_at(&places(channel_of, c)))
                .filter(AffineLattice::is_significant)?;
            Some(format!(
                "the values of channel {c} are equally spaced, {} apart",
                five_significant_digits(lattice.step)
            ))
        })
    };
    if let [first, .., last] = subsample.shape[..]
        && subsample.shape.len() > 2
    {
        let inner: usize = subsample.shape[1..].iter().product();
        let found = (first <= MAX_GROUPS)
            .then(|| channel(first, &|p| p / inner))
            .flatten();
        let found = found.or_else(|| (last <= 4).then(|| channel(last, &|p| p % last)).flatten());
        if found.is_some() {
            return found;
        }
    }
    let step = all.len().div_ceil(MAX_GROUPS);
    let positions = all.iter().step_by(step).map(|p| subsample.values_at(&[*p]));
    if let Some(step) = step_of_separate_lattices(positions) {
        return Some(format!(
            "the values at each position are equally spaced, {} apart at one of them",
            five_significant_digits(step)
        ));
    }
    let step = subsample.samples().count().div_ceil(MAX_GROUPS).max(1);
    let samples = subsample.samples().step_by(step).map(<[f64]>::to_vec);
    step_of_separate_lattices(samples).map(|step| {
        format!(
            "the values of each sample are equally spaced, {} apart in one of them",
            five_significant_digits(step)
        )
    })
}

/// The step of the first of many small groups, provided that every group lies on a lattice of its
/// own.
fn step_of_separate_lattices(groups: impl Iterator<Item = Vec<f64>>) -> Option<f64> {
    let (mut chance, mut step) = (0.0, None);
    for group in groups.filter(|g| g.iter().any(|v| *v != g[0])) {
        // Two values always lie on a lattice and say nothing.
        if group.len() < 3 || distinct_values(group.iter().copied()).len() < 3 {
            continue;
        }
        let lattice = fit_affine_lattice(&group)?;
        chance += lattice.log10_chance;
        step = step.or(Some(lattice.step));
    }
    step.filter(|_| chance < MAX_LOG10_CHANCE)
}

/// A lattice on which all values of a group lie.
struct AffineLattice {
    /// The distance between neighbouring values.
    step: f64,
    /// The log10 of the probability that as many continuous numbers lie as close to some lattice.
    log10_chance: f64,
}

impl AffineLattice {
    /// Whether chance can be excluded.
    fn is_significant(&self) -> bool {
        self.log10_chance < MAX_LOG10_CHANCE
    }
}

/// The coarsest lattice of at most [`MAX_STEPS`] steps on which all numbers lie, to the precision
/// of float32.
fn fit_affine_lattice(numbers: &[f64]) -> Option<AffineLattice> {
    let values = distinct_values(numbers.iter().copied());
    if values.len() < 3
        || is_regular_pattern(numbers, &values)
        || (numbers.len() < 256 && values.iter().all(has_few_digits))
    {
        return None;
    }
    let values: Vec<f64> = values
        .iter()
        .copied()
        .step_by(values.len().div_ceil(MAX_GROUP_VALUES))
        .collect();
    let (first, last) = (values[0], values[values.len() - 1]);
    // One or two roundings to float32 change the difference of two numbers by this much.
    let slack = 2.0 * f64::from(f32::EPSILON) * first.abs().max(last.abs());
    let mut gaps: Vec<f64> = values.windows(2).map(|p| p[1] - p[0]).collect();
    gaps.sort_by(f64::total_cmp);
    let smallest = gaps[0];
    let distances: Vec<f64> = gaps
        .into_iter()
        .chain(values.iter().map(|v| v - first))
        .collect();
    for divisor in 1..=MAX_DIVISOR {
        let tried = smallest / divisor as f64;
        if (last - first) / tried > MAX_STEPS {
            return None;
        }
        let Some(step) = refine_step(&distances, tried, slack / divisor as f64, slack) else {
            continue;
        };
        let near = lattice_tolerance(slack, step) / step;
        let off = |v: &f64| ((v - first) / step - ((v - first) / step).round()).abs();
        if near < 0.06 && values.iter().all(|v| off(v) <= near) {
            let free = values.len() as f64 - 2.0;
            return Some(AffineLattice {
                step,
                log10_chance: (divisor as f64).log10() + free * (2.0 * near).log10(),
            });
        }
    }
    None
}

/// The largest distance from a multiple of the step that counts as being on the lattice.
///
/// The second term allows for data that were divided by a small standard deviation. They have lost
/// more digits than their size suggests.
fn lattice_tolerance(slack: f64, step: f64) -> f64 {
    slack.max(5e-4 * step)
}

/// Refines a step, known up to `doubt`, with longer and longer distances.
///
/// Each distance makes the step more precise. Returns `None` if a distance is not a multiple of the
/// step.
fn refine_step(distances: &[f64], mut step: f64, mut doubt: f64, slack: f64) -> Option<f64> {
    for distance in distances {
        let times = (distance / step).round();
        let near = lattice_tolerance(slack, step);
        let allowed = near + times * doubt;
        if allowed > 0.3 * step || (distance - times * step).abs() > allowed {
            return None;
        }
        if near < times * doubt {
            (step, doubt) = (distance / times, near / times);
        }
    }
    Some(step)
}

/// Whether a number has few digits and may have been written by hand: at most three decimals, or a
/// multiple of 1/64.
fn has_few_digits(v: &f64) -> bool {
    let whole = |v: f64| (v - v.round()).abs() <= f64::from(f32::EPSILON) * v.abs().max(1.0);
    whole(v * 1000.0) || (v * 64.0).fract() == 0.0
}

/// A number with five significant digits.
fn five_significant_digits(step: f64) -> String {
    let digits = (4.0 - step.abs().log10().floor()).clamp(0.0, 12.0) as usize;
    let text = format!("{step:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}
