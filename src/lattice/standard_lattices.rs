//! The lattices that quantization usually leaves: the card's levels, bytes scaled to [0, 1] or to
//! [−1, 1], and whole numbers.

use super::subsample::Subsample;
use crate::model::card::DataSpec;

/// Equally spaced values low, low + step, …, low + count·step, and how many numbers must lie on
/// them.
struct CandidateLattice {
    /// The description for a message.
    description: String,
    /// The smallest value.
    low: f64,
    /// The distance between neighbouring values.
    step: f64,
    /// The number of steps between the smallest and the largest value.
    count: f64,
    /// The smallest number of values and of different values. With fewer of them, chance or
    /// rounding by hand explains them as well.
    min_counts: (usize, usize),
    /// Whether a value must occur twice. A ramp may lie on the lattice without any repeat.
    needs_repeat: bool,
    /// Whether the values must reach into the first and the last quarter of the lattice. Values of
    /// images do, but counts and ages do not.
    must_span: bool,
}

/// The largest number of different values of any lattice that is looked for.
const MAX_DISTINCT: usize = 1 << 16;

/// A description of the usual lattice on which all values lie. `None` if there is none.
pub(super) fn detect_standard_lattice(
    subsample: &Subsample,
    data: Option<DataSpec>,
) -> Option<String> {
    let distinct = &subsample.distinct;
    if distinct.len() > MAX_DISTINCT {
        return None;
    }
    let counts = (subsample.numbers.len(), distinct.len());
    let enough = |c: &CandidateLattice| {
        counts.0 >= c.min_counts.0
            && counts.1 >= c.min_counts.1
            && !(c.needs_repeat && counts.0 == counts.1)
    };
    let reaches = |c: &CandidateLattice| {
        let (first, last) = (distinct[0], distinct[distinct.len() - 1]);
        !c.must_span
            || (first <= c.low + c.step * c.count / 4.0 && last >= c.low + c.step * c.count * 0.75)
    };
    let on = |c: &CandidateLattice| {
        // The rounding error of float32 in units of one step.
        let slack = 4.0 * f64::from(f32::EPSILON) * (c.low.abs() / c.step + c.count);
        let place = |v: f64| (v - c.low) / c.step;
        let sits = |v: &f64| {
            let k = place(*v);
            (k - k.round()).abs() <= slack.max(1e-6) && (-0.5..=c.count + 0.5).contains(&k)
        };
        slack < 0.05 && distinct.iter().all(sits)
    };
    let known = candidate_lattices(data)
        .into_iter()
        .find(|c| enough(c) && reaches(c) && on(c))
        .map(|c| c.description);
    known.or_else(|| few_equally_spaced_values(counts, distinct))
}

/// The lattices that are looked for, in the order in which they are tried.
fn candidate_lattices(data: Option<DataSpec>) -> Vec<CandidateLattice> {
    let mut all = Vec::new();
    let mut add = |what: String, low: f64, step: f64, count: f64, least: (usize, usize)| {
        // Nobody writes multiples of 1/255 by hand, so these lattices need no repeated value.
        let needs_repeat = least.0 > 8;
        all.push(CandidateLattice {
            description: what,
            low,
            step,
            count,
            min_counts: least,
            needs_repeat,
            must_span: false,
        });
    };
    if let Some(DataSpec {
        range: [low, high],
        levels: Some(levels),
    }) = data
    {
        let (last, width) = (f64::from(levels) - 1.0, high - low);
        // A few numbers may be halves and quarters by habit, but nobody writes multiples of 1/255.
        let least = if levels >= 64 { (8, 4) } else { (64, 4) };
        add(
            format!("the card's {levels} levels, {low} + {width}·k/{last}"),
            low,
            width / last,
            last,
            least,
        );
        let cell = width / f64::from(levels);
        add(
            format!("the card's {levels} levels, {low} + {width}·k/{levels}"),
            low,
            cell,
            last + 1.0,
            (64, 8),
        );
        let centre = low + cell / 2.0;
        add(
            format!("the centres of the card's {levels} levels"),
            centre,
            cell,
            last,
            (64, 8),
        );
        add(
            format!("the whole numbers from 0 to {last}"),
            0.0,
            1.0,
            last,
            (16, 4),
        );
    }
    add(
        "the 256 values k/255 from 0 to 1".to_owned(),
        0.0,
        1.0 / 255.0,
        255.0,
        (8, 4),
    );
    add(
        "the 256 values 2k/255 − 1 from −1 to 1".to_owned(),
        -1.0,
        2.0 / 255.0,
        255.0,
        (8, 4),
    );
    let what = "the whole numbers from 0 to 255".to_owned();
    all.push(CandidateLattice {
        description: what,
        low: 0.0,
        step: 1.0,
        count: 255.0,
        min_counts: (256, 32),
        needs_repeat: true,
        must_span: true,
    });
    all
}

/// A description of a few equally spaced values in an array too large to be a grid or an example.
/// `None` for other data.
fn few_equally_spaced_values(counts: (usize, usize), distinct: &[f64]) -> Option<String> {
    if counts.0 < 1 << 14 || !(4..=256).contains(&counts.1) {
        return None;
    }
    let step = distinct
        .windows(2)
        .map(|p| p[1] - p[0])
        .fold(f64::INFINITY, f64::min);
    let largest = distinct.iter().fold(0.0, |a: f64, v| a.max(v.abs()));
    let slack = 8.0 * f64::from(f32::EPSILON) * largest / step + 1e-4;
    let place = |v: &f64| (v - distinct[0]) / step;
    let even = slack < 0.02
        && distinct
            .iter()
            .all(|v| (place(v) - place(v).round()).abs() <= slack * place(v).max(1.0));
    (even && place(&distinct[counts.1 - 1]) < 1024.0)
        .then(|| format!("{} equally spaced values, {step:.6} apart", counts.1))
}
