//! Values that are there again and again, on no lattice in particular: two values, half precision, and any function
//! of a few levels.

use std::collections::{HashMap, HashSet};

use half::{bf16, f16};

use super::subsample::{Subsample, distinct_values, is_regular_pattern};

/// Below so many numbers a regular pattern is a grid, an example or a checkerboard by hand.
const REGULAR_PATTERN_LIMIT: usize = 1 << 14;

/// Numbers in cells with others, below which chance explains as much.
const MIN_SHARED_NUMBERS: usize = 32;

/// The two values of binary or one-hot data, in words.
pub(super) fn detect_two_values(look: &Subsample) -> Option<String> {
    let [a, b] = look.distinct[..] else {
        return None;
    };
    let count = look.numbers.len();
    let by_hand = count < 64 || (count < 1024 && is_regular_pattern(&look.numbers, &look.distinct));
    (!by_hand)
        .then(|| format!("there are only two values, {a} and {b}, as in binary or one-hot data"))
}

/// The half-precision format that holds every number exactly, in words.
pub(super) fn detect_half_precision(look: &Subsample) -> Option<String> {
    // Quarters and sixty-fourths are in every format, whoever wrote them.
    let written = |v: &f64| (v * 64.0).fract() == 0.0;
    let telling = look.distinct.iter().filter(|v| !written(v)).count();
    if look.numbers.len() < 32 || telling < 16 || is_regular_pattern(&look.numbers, &look.distinct)
    {
        return None;
    }
    let all = |of: fn(f64) -> f64| look.distinct.iter().all(|v| of(*v) == *v);
    match () {
        () if all(|v| bf16::from_f64(v).to_f64()) => {
            Some("they are rounded to bfloat16".to_owned())
        }
        () if all(|v| f16::from_f64(v).to_f64()) => Some("they are rounded to float16".to_owned()),
        () => None,
    }
}

/// How often numbers are equal that uniform noise of one level would have made different, in words.
///
/// Positions at which every sample holds the same number are left out: they may be a frame, or fixed. So are samples
/// that are there again. Channels may repeat each other, as those of a grey picture do.
pub(super) fn detect_repeated_values(
    look: &Subsample,
    [low, high]: [f64; 2],
    cell: f64,
) -> Option<String> {
    let moving = look.varying_positions();
    let numbers = look.values_at(&moving);
    let seen = distinct_values(numbers.iter().copied());
    if numbers.len() < REGULAR_PATTERN_LIMIT && is_regular_pattern(&numbers, &seen) {
        return None;
    }
    let rare = |channels: &dyn Fn(usize) -> usize| {
        let mut cells = HashMap::new();
        for sample in look.distinct_samples() {
            for place in &moving {
                count_in_cell(
                    &mut cells,
                    channels(look.positions[*place]),
                    sample[*place],
                    low,
                    cell,
                );
            }
        }
        has_too_few_distinct(&cells, low, high, cell)
    };
    let by_channel = || match look.shape[..] {
        [_, .., last] if look.shape.len() > 2 => {
            let inner: usize = look.shape[1..].iter().product();
            rare(&|p| p / inner) && (last > 4 || rare(&|p| p % last))
        }
        _ => true,
    };
    (rare(&|_| 0) && by_channel()).then(|| {
        format!(
            "only {} of {} numbers looked at are different; uniform noise of one level leaves hardly two of them equal",
            seen.len(),
            numbers.len()
        )
    })
}

/// How many numbers of a channel lie in a cell of one level, and which.
type LevelCells = HashMap<(usize, i64), (usize, HashSet<u64>)>;

fn count_in_cell(cells: &mut LevelCells, channel: usize, value: f64, low: f64, cell: f64) {
    let (count, values) = cells
        .entry((channel, ((value - low) / cell).floor() as i64))
        .or_default();
    *count += 1;
    values.insert((value + 0.0).to_bits());
}

/// Whether less than half of the different values are there that noise leaves: where float32 has `g` numbers in a cell,
/// `m` draws are `g (1 − exp(−m/g))` different ones. Numbers at an end of the range may be clipped ones: where there are
/// hardly any others that could be equal, and most lie elsewhere, they tell nothing.
fn has_too_few_distinct(cells: &LevelCells, low: f64, high: f64, cell: f64) -> bool {
    let ends = [low, high].map(|v| (v + 0.0).to_bits());
    let is_end =
        |values: &HashSet<u64>| values.len() == 1 && values.iter().all(|v| ends.contains(v));
    let (mut met, mut at_ends, mut all, mut distinct, mut expected) = (0, 0, 0, 0, 0.0);
    for ((_, at), (count, values)) in cells {
        all += count;
        if *count < 2 {
            continue;
        }
        let largest = (low + cell * (*at as f64))
            .abs()
            .max((low + cell * (*at as f64 + 1.0)).abs());
        // Programs lose a few of the last bits on the way.
        let possible = (cell / (largest * f64::from(f32::EPSILON)) / 16.0).max(1.0);
        (met, distinct) = (met + count, distinct + values.len());
        at_ends += if is_end(values) { *count } else { 0 };
        expected += possible * (1.0 - (-(*count as f64) / possible).exp());
    }
    let clipped = met - at_ends < MIN_SHARED_NUMBERS && 2 * at_ends < all;
    met >= MIN_SHARED_NUMBERS && !clipped && (distinct as f64) < 0.45 * expected
}
