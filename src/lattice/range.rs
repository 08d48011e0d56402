//! Checks of a card's range and depth: numbers outside the range, numbers in one half of it, and
//! integers of another depth.

use super::subsample::Subsample;
use crate::num::stored_values::StoredValues;

/// Why floats do not match a card's range with `levels` levels, in words. `None` if they match.
pub(super) fn float_range_mismatch(
    values: &StoredValues,
    subsample: &Subsample,
    [low, high]: [f64; 2],
    levels: u32,
) -> Option<String> {
    let (least, most) = values.min_and_max();
    let half_level = (high - low) / f64::from(levels) / 2.0;
    if least < low - half_level || most > high + half_level {
        return Some(format!(
            "its floats go from {} to {}, beyond the card's range [{low}, {high}] by more than \
             half the width of one of its {levels} levels",
            four_decimals(least),
            four_decimals(most)
        ));
    }
    if subsample.numbers.len() < 64 || subsample.distinct.len() < 4 {
        return None;
    }
    // The numbers lie in a usual range that fits into about half of the card's range, and they
    // reach both of its ends: they were probably scaled to the usual range instead of the card's.
    let usual = [([0.0, 1.0], 0.05), ([-0.5, 0.5], 0.01), ([-1.0, 1.0], 0.01)];
    let (_, [a, b]) = usual
        .into_iter()
        .map(|([a, b], near)| (near * (b - a), [a, b]))
        .find(|(near, [a, b])| {
            let inside = *a >= low && *b <= high && b - a <= 0.55 * (high - low);
            let reached = least <= a + near && most >= b - near;
            inside && reached && least >= a - half_level && most <= b + half_level
        })?;
    Some(format!(
        "its floats go from {} to {}, like data of the range [{a}, {b}], but the card's range is \
         [{low}, {high}]",
        four_decimals(least),
        four_decimals(most)
    ))
}

/// Why integers do not have the depth of a card with `levels` levels, in words. `None` if they may
/// have it.
///
/// `bytes` says that the file's number type holds only 0 to 255.
pub(super) fn integer_depth_mismatch(
    values: &StoredValues,
    bytes: bool,
    levels: u32,
) -> Option<String> {
    let (least, most) = values.min_and_max();
    let card = format!("the card has {levels} levels, 0 to {}", levels - 1);
    if bytes && levels > 256 {
        return Some(format!("its integers are bytes, 0 to 255, but {card}"));
    }
    // If the highest bits are never set, the file has another depth, or its images are dark.
    let dark = values.len() >= 64 && least < most && 16.0 * most <= f64::from(levels);
    dark.then(|| {
        format!(
            "its integers go from {least} to {most}, which is only the lowest sixteenth of the \
             levels: {card}"
        )
    })
}

/// A number with at most four decimals.
fn four_decimals(v: f64) -> String {
    let text = format!("{v:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
