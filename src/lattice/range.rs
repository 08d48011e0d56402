//! Numbers that do not lie where the card says: outside its range, in half of it, or of another depth.

use ndarray::ArrayD;

use super::subsample::Subsample;

/// Why floats are not in a card's range of so many levels, in words; `None` where they are.
pub(super) fn float_range_mismatch(
    values: &ArrayD<f64>,
    look: &Subsample,
    [low, high]: [f64; 2],
    levels: u32,
) -> Option<String> {
    let (least, most) = min_and_max(values);
    let half_level = (high - low) / f64::from(levels) / 2.0;
    if least < low - half_level || most > high + half_level {
        return Some(format!(
            "its floats go from {} to {}, beyond the card's range [{low}, {high}] by more than half of one of its \
             {levels} levels",
            four_decimals(least),
            four_decimals(most)
        ));
    }
    if look.numbers.len() < 64 || look.distinct.len() < 4 {
        return None;
    }
    // Usual ranges that fit into half of the card's: numbers that lie in one of them and reach both of its ends.
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
        "its floats go from {} to {}, as data of the range [{a}, {b}] do, but the card's range is [{low}, {high}]",
        four_decimals(least),
        four_decimals(most)
    ))
}

/// Why integers are not of a card's depth, in words; `None` where they may be. `bytes` where the file's own type holds
/// no number above 255.
pub(super) fn integer_depth_mismatch(
    values: &ArrayD<f64>,
    bytes: bool,
    levels: u32,
) -> Option<String> {
    let (least, most) = min_and_max(values);
    let card = format!("the card has {levels} levels, 0 to {}", levels - 1);
    if bytes && levels > 256 {
        return Some(format!("its integers are bytes, 0 to 255, but {card}"));
    }
    // A file in whose numbers the first bits are never set is of another depth, or all but black.
    let dark = values.len() >= 64 && least < most && 16.0 * most <= f64::from(levels);
    dark.then(|| {
        format!(
            "its integers go from {least} to {most}, in the lowest sixteenth of the card's: {card}"
        )
    })
}

fn min_and_max(values: &ArrayD<f64>) -> (f64, f64) {
    values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| {
            (a.min(*v), b.max(*v))
        })
}

/// Four decimals at most.
fn four_decimals(v: f64) -> String {
    let text = format!("{v:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
