//! Lattices that quantization usually leaves: the card's levels, bytes from 0 to 1 or from −1 to 1, whole numbers.

use super::subsample::Subsample;
use crate::model::card::DataSpec;

/// Equally spaced values low, low + step, …, low + count·step, and how much must lie on them.
struct CandidateLattice {
    description: String,
    low: f64,
    step: f64,
    count: f64,
    /// Numbers in all, and different ones among them, below which chance or habit explains as much.
    min_counts: (usize, usize),
    /// Whether some value must be there twice, since a ramp may lie on such a lattice as well.
    needs_repeat: bool,
    /// Whether numbers must reach into the first and the last quarter of it, as counts and ages do not.
    must_span: bool,
}

/// More different values than any quantization that is looked for.
const MAX_DISTINCT: usize = 1 << 16;

/// The usual lattice that all numbers lie on, in words.
pub(super) fn detect_standard_lattice(look: &Subsample, data: Option<DataSpec>) -> Option<String> {
    let different = &look.distinct;
    if different.len() > MAX_DISTINCT {
        return None;
    }
    let counts = (look.numbers.len(), different.len());
    let enough = |c: &CandidateLattice| {
        counts.0 >= c.min_counts.0
            && counts.1 >= c.min_counts.1
            && !(c.needs_repeat && counts.0 == counts.1)
    };
    let reaches = |c: &CandidateLattice| {
        let (first, last) = (different[0], different[different.len() - 1]);
        !c.must_span
            || (first <= c.low + c.step * c.count / 4.0 && last >= c.low + c.step * c.count * 0.75)
    };
    let on = |c: &CandidateLattice| {
        // What float32 makes of one step.
        let slack = 4.0 * f64::from(f32::EPSILON) * (c.low.abs() / c.step + c.count);
        let place = |v: f64| (v - c.low) / c.step;
        let sits = |v: &f64| {
            let k = place(*v);
            (k - k.round()).abs() <= slack.max(1e-6) && (-0.5..=c.count + 0.5).contains(&k)
        };
        slack < 0.05 && different.iter().all(sits)
    };
    let known = candidate_lattices(data)
        .into_iter()
        .find(|c| enough(c) && reaches(c) && on(c))
        .map(|c| c.description);
    known.or_else(|| few_equally_spaced_values(counts, different))
}

fn candidate_lattices(data: Option<DataSpec>) -> Vec<CandidateLattice> {
    let mut all = Vec::new();
    let mut add = |what: String, low: f64, step: f64, count: f64, least: (usize, usize)| {
        // Nobody writes 255ths by hand: those need no repeats.
        let twice = least.0 > 8;
        all.push(CandidateLattice {
            description: what,
            low,
            step,
            count,
            min_counts: least,
            needs_repeat: twice,
            must_span: false,
        });
    };
    if let Some(DataSpec {
        range: [low, high],
        levels: Some(levels),
    }) = data
    {
        let (last, width) = (f64::from(levels) - 1.0, high - low);
        // A handful of numbers may be halves and quarters by habit; nobody writes 255ths.
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

/// Any few equally spaced values, where there are so many numbers that it cannot be a grid or an example.
fn few_equally_spaced_values(counts: (usize, usize), different: &[f64]) -> Option<String> {
    if counts.0 < 1 << 14 || !(4..=256).contains(&counts.1) {
        return None;
    }
    let step = different
        .windows(2)
        .map(|p| p[1] - p[0])
        .fold(f64::INFINITY, f64::min);
    let largest = different.iter().fold(0.0, |a: f64, v| a.max(v.abs()));
    let slack = 8.0 * f64::from(f32::EPSILON) * largest / step + 1e-4;
    let place = |v: &f64| (v - different[0]) / step;
    let even = slack < 0.02
        && different
            .iter()
            .all(|v| (place(v) - place(v).round()).abs() <= slack * place(v).max(1.0));
    (even && place(&different[counts.1 - 1]) < 1024.0)
        .then(|| format!("{} equally spaced values, {step:.6} apart", counts.1))
}
