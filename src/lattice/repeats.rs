//! Values that repeat without lying on a particular lattice: two values, half precision, and any
//! function of a few levels.

use std::collections::{HashMap, HashSet};

use half::{bf16, f16};

use super::subsample::{Subsample, distinct_values, is_regular_pattern};

/// Arrays with fewer numbers may be a grid, an example or a checkerboard written by hand.
const REGULAR_PATTERN_LIMIT: usize = 1 << 14;

/// The smallest number of values in shared cells. With fewer values, repeats may be chance.
const MIN_SHARED_NUMBERS: usize = 32;

/// A description of binary or one-hot data, which have only two values. `None` for other data.
pub(super) fn detect_two_values(subsample: &Subsample) -> Option<String> {
    let [a, b] = subsample.distinct[..] else {
        return None;
    };
    let count = subsample.numbers.len();
    let by_hand =
        count < 64 || (count < 1024 && is_regular_pattern(&subsample.numbers, &subsample.distinct));
    (!by_hand)
        .then(|| format!("there are only two values, {a} and {b}, as in binary or one-hot data"))
}

/// A description of the half-precision format that holds every number exactly. `None` if neither
/// format does.
pub(super) fn detect_half_precision(subsample: &Subsample) -> Option<String> {
    // Multiples of 1/64 are exact in every format and say nothing about the format.
    let exact_anywhere = |v: &f64| (v * 64.0).fract() == 0.0;
    let informative = subsample
        .distinct
        .iter()
        .filter(|v| !exact_anywhere(v))
        .count();
    if subsample.numbers.len() < 32
        || informative < 16
        || is_regular_pattern(&subsample.numbers, &subsample.distinct)
    {
        return None;
    }
    let all = |of: fn(f64) -> f64| subsample.distinct.iter().all(|v| of(*v) == *v);
    match () {
        () if all(|v| bf16::from_f64(v).to_f64()) => {
            Some("they are rounded to bfloat16".to_owned())
        }
        () if all(|v| f16::from_f64(v).to_f64()) => Some("they are rounded to float16".to_owned()),
        () => None,
    }
}

/// A description of numbers that are equal more often than uniform noise of one level's width
/// allows. `None` for other data.
///
/// Positions at which every sample holds the same number are excluded, because they may be a frame
/// or fixed. Repeated samples are excluded as well. Channels may repeat each other, as the channels
/// of a grey image do.
pub(super) fn detect_repeated_values(
    subsample: &Subsample,
    [low, high]: [f64; 2],
    cell: f64,
) -> Option<String> {
    let varying = subsample.varying_positions();
    let numbers = subsample.values_at(&varying);
    let distinct = distinct_values(numbers.iter().copied());
    if numbers.len() < REGULAR_PATTERN_LIMIT && is_regular_pattern(&numbers, &distinct) {
        return None;
    }
    let repeats_within = |channels: &dyn Fn(usize) -> usize| {
        let mut cells = HashMap::new();
        for sample in subsample.distinct_samples() {
            for position in &varying {
                count_in_cell(
                    &mut cells,
                    channels(subsample.positions[*position]),
                    sample[*position],
                    low,
                    cell,
                );
            }
        }
        has_too_few_distinct(&cells, low, high, cell)
    };
    let by_channel = || match subsample.shape[..] {
        [_, .., last] if subsample.shape.len() > 2 => {
            let inner: usize = subsample.shape[1..].iter().product();
            repeats_within(&|p| p / inner) && (last > 4 || repeats_within(&|p| p % last))
        }
        _ => true,
    };
    (repeats_within(&|_| 0) && by_channel()).then(|| {
        format!(
            "only {} of {} examined numbers are different, but uniform noise of one level's width \
             makes almost all numbers different",
            distinct.len(),
            numbers.len()
        )
    })
}

/// For each channel and cell (the width of one level): how many numbers lie in it, and the bit
/// patterns of its different numbers.
type LevelCells = HashMap<(usize, i64), (usize, HashSet<u64>)>;

/// Adds a value to its cell.
fn count_in_cell(cells: &mut LevelCells, channel: usize, value: f64, low: f64, cell: f64) {
    let (count, values) = cells
        .entry((channel, ((value - low) / cell).floor() as i64))
        .or_default();
    *count += 1;
    values.insert((value + 0.0).to_bits());
}

/// Whether fewer than half of the different values are present that uniform noise would leave.
///
/// If float32 has `g` numbers in a cell, `m` draws are expected to be `g (1 − exp(−m/g))` different
/// ones. Numbers at an end of the range may have been clipped. They are ignored if hardly any other
/// numbers share a cell and most numbers lie elsewhere.
fn has_too_few_distinct(cells: &LevelCells, low: f64, high: f64, cell: f64) -> bool {
    let ends = [low, high].map(|v| (v + 0.0).to_bits());
    let is_end =
        |values: &HashSet<u64>| values.len() == 1 && values.iter().all(|v| ends.contains(v));
    let (mut shared, mut at_ends, mut all, mut distinct, mut expected) = (0, 0, 0, 0, 0.0);
    for ((_, at), (count, values)) in cells {
        all += count;
        if *count < 2 {
            continue;
        }
        let largest = (low + cell * (*at as f64))
            .abs()
            .max((low + cell * (*at as f64 + 1.0)).abs());
        // Programs lose the last few bits in their arithmetic: a cell has fewer possible values.
        let possible = (cell / (largest * f64::from(f32::EPSILON)) / 16.0).max(1.0);
        (shared, distinct) = (shared + count, distinct + values.len());
        at_ends += if is_end(values) { *count } else { 0 };
        expected += possible * (1.0 - (-(*count as f64) / possible).exp());
    }
    let clipped = shared - at_ends < MIN_SHARED_NUMBERS && 2 * at_ends < all;
    shared >= MIN_SHARED_NUMBERS && !clipped && (distinct as f64) < 0.45 * expected
}
