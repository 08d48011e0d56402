//! Equally spaced values with any origin and any step: of all numbers, of each channel, of each position, of each
//! sample. A mean taken off and a deviation divided by leave such lattices.

use super::look::{Look, different, regular};

/// Steps between the ends of a lattice, at most: 16 bits, and some more for values beyond both ends.
const STEPS: f64 = 98_304.0;

/// What the smallest difference of two values is divided by in the search for the step, at most.
const DIVISORS: usize = 256;

/// Values of one group, and groups, looked at, at most.
const VALUES: usize = 2048;
const GROUPS: usize = 64;

/// Log10 of the probability of chance, from which on it is none.
const CHANCE: f64 = -12.0;

/// The affine lattice of the whole, of the channels, of the positions or of the samples, in words.
pub(super) fn found(look: &Look) -> Option<String> {
    let places = |of: &dyn Fn(usize) -> usize, group: usize| -> Vec<usize> {
        (0..look.positions.len())
            .filter(|p| of(look.positions[*p]) == group)
            .collect()
    };
    let all: Vec<usize> = (0..look.positions.len()).collect();
    if let Some(spacing) = lattice(&look.numbers).filter(Spacing::telling) {
        return Some(format!(
            "they are equally spaced, {} apart",
            short(spacing.step)
        ));
    }
    let channel = |channels: usize, of: &dyn Fn(usize) -> usize| {
        (0..channels).find_map(|c| {
            let spacing = lattice(&look.at_places(&places(of, c))).filter(Spacing::telling)?;
            Some(format!(
                "those of channel {c} are equally spaced, {} apart",
                short(spacing.step)
            ))
        })
    };
    if let [first, .., last] = look.shape[..]
        && look.shape.len() > 2
    {
        let inner: usize = look.shape[1..].iter().product();
        let found = (first <= GROUPS)
            .then(|| channel(first, &|p| p / inner))
            .flatten();
        let found = found.or_else(|| (last <= 4).then(|| channel(last, &|p| p % last)).flatten());
        if found.is_some() {
            return found;
        }
    }
    let step = all.len().div_ceil(GROUPS);
    let positions = all.iter().step_by(step).map(|p| look.at_places(&[*p]));
    if let Some(step) = of_all(positions) {
        return Some(format!(
            "those of each position are equally spaced, {} apart at one of them",
            short(step)
        ));
    }
    let step = look.samples().count().div_ceil(GROUPS).max(1);
    let samples = look.samples().step_by(step).map(<[f64]>::to_vec);
    of_all(samples).map(|step| {
        format!(
            "those of each sample are equally spaced, {} apart in one of them",
            short(step)
        )
    })
}

/// The step of the first of many small groups, where every group lies on a lattice of its own.
fn of_all(groups: impl Iterator<Item = Vec<f64>>) -> Option<f64> {
    let (mut chance, mut step) = (0.0, None);
    for group in groups.filter(|g| g.iter().any(|v| *v != g[0])) {
        // Two values lie on a lattice in any case, and say nothing.
        if group.len() < 3 || different(group.iter().copied()).len() < 3 {
            continue;
        }
        let spacing = lattice(&group)?;
        chance += spacing.chance;
        step = step.or(Some(spacing.step));
    }
    step.filter(|_| chance < CHANCE)
}

/// A lattice that holds all of some values.
struct Spacing {
    step: f64,
    /// Log10 of the probability that as many continuous numbers lie as near to some lattice.
    chance: f64,
}

impl Spacing {
    fn telling(&self) -> bool {
        self.chance < CHANCE
    }
}

/// The coarsest lattice of at most [`STEPS`] steps that all numbers lie on, to the precision of float32.
fn lattice(numbers: &[f64]) -> Option<Spacing> {
    let values = different(numbers.iter().copied());
    if values.len() < 3
        || regular(numbers, &values)
        || (numbers.len() < 256 && values.iter().all(by_hand))
    {
        return None;
    }
    let values: Vec<f64> = values
        .iter()
        .copied()
        .step_by(values.len().div_ceil(VALUES))
        .collect();
    let (first, last) = (values[0], values[values.len() - 1]);
    // What a rounding or two to float32 leave of the difference of two numbers.
    let slack = 2.0 * f64::from(f32::EPSILON) * first.abs().max(last.abs());
    let mut gaps: Vec<f64> = values.windows(2).map(|p| p[1] - p[0]).collect();
    gaps.sort_by(f64::total_cmp);
    let smallest = gaps[0];
    let distances: Vec<f64> = gaps
        .into_iter()
        .chain(values.iter().map(|v| v - first))
        .collect();
    for divisor in 1..=DIVISORS {
        let tried = smallest / divisor as f64;
        if (last - first) / tried > STEPS {
            return None;
        }
        let Some(step) = refined(&distances, tried, slack / divisor as f64, slack) else {
            continue;
        };
        let near = nearness(slack, step) / step;
        let off = |v: &f64| ((v - first) / step - ((v - first) / step).round()).abs();
        if near < 0.06 && values.iter().all(|v| off(v) <= near) {
            let free = values.len() as f64 - 2.0;
            return Some(Spacing {
                step,
                chance: (divisor as f64).log10() + free * (2.0 * near).log10(),
            });
        }
    }
    None
}

/// How near to a multiple of the step a distance must be: data that were divided by a small deviation have lost more
/// digits than their size tells.
fn nearness(slack: f64, step: f64) -> f64 {
    slack.max(5e-4 * step)
}

/// A step, known up to a doubt, held against longer and longer distances, each of which makes it more precise; `None`
/// where one is no multiple of it.
fn refined(distances: &[f64], mut step: f64, mut doubt: f64, slack: f64) -> Option<f64> {
    for distance in distances {
        let times = (distance / step).round();
        let near = nearness(slack, step);
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

/// A number with few digits, which somebody may have written: up to three decimals, or sixty-fourths.
fn by_hand(v: &f64) -> bool {
    let whole = |v: f64| (v - v.round()).abs() <= f64::from(f32::EPSILON) * v.abs().max(1.0);
    whole(v * 1000.0) || (v * 64.0).fract() == 0.0
}

/// Five significant digits.
fn short(step: f64) -> String {
    let digits = (4.0 - step.abs().log10().floor()).clamp(0.0, 12.0) as usize;
    let text = format!("{step:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}
