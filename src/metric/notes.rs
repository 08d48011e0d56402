//! What a reader should know before trusting a statistic of the sets at hand.

use super::sample::Sample;
use super::{Metric, Role, Sets};

/// All that is to be said about one statistic of these sets; most often nothing.
pub fn of(metric: &Metric, sets: Sets<&Sample>) -> Vec<String> {
    metric.notes(sets)
}

/// A floor is what a perfect model would give, of as many samples as the model's: of other counts a biased statistic has
/// another bias.
pub fn other_count(metric: &Metric, floor: usize, generated: usize) -> Option<String> {
    (metric.biased() && floor != generated).then(|| {
        format!(
            "the floor is of {floor} samples and beside it stand {generated} generated ones: their difference is in part \
             one of bias"
        )
    })
}

/// Balls of no radius hold nothing: those around samples that are there more than k times.
pub fn empty_balls(name: &str, sample: &Sample, k: usize) -> Option<String> {
    let empty = sample.repeated(k + 1);
    (empty > 0).then(|| {
        format!(
            "{empty} of {} {name} samples are there more than {k} times each, and balls around them have no radius: \
             leave copies out, or take a larger k",
            sample.len()
        )
    })
}

/// Training samples with exact copies among the training data.
pub fn copies_that_hide(train: &Sample) -> Option<String> {
    let repeated = train.repeated(2);
    (repeated > 0).then(|| {
        format!(
            "{repeated} of {} training samples have exact copies among the training data, which hide copies of them: \
             leave those out",
            train.len()
        )
    })
}

/// Copies within the sets that are divided into one part to learn from and another to be tested on.
pub fn copies_on_both_sides(sets: &[(&str, &Sample)], what: &str) -> Option<String> {
    let found = sets.iter().filter(|(_, sample)| sample.repeated(2) > 0);
    let named: Vec<String> = found
        .map(|(name, sample)| format!("{} of {} {name} samples", sample.repeated(2), sample.len()))
        .collect();
    (!named.is_empty()).then(|| {
        format!(
            "{} have exact copies in their own set, {what}",
            named.join(" and ")
        )
    })
}

/// Held-out data that were trained on.
pub fn not_held_out(sets: Sets<&Sample>) -> Option<String> {
    let (train, test) = (sets.of(Role::Train), sets.of(Role::Test));
    let shared = test.shared(train);
    (shared > 0).then(|| {
        format!(
            "{shared} of {} held-out samples are exact copies of training samples",
            test.len()
        )
    })
}

/// Fewer samples than twice the numbers that vary, with which a covariance is far from the law's; of how many samples
/// statistics are is not known.
pub fn few_for_a_covariance(
    width: usize,
    generated: Option<usize>,
    reference: Option<usize>,
) -> Option<String> {
    let few: Vec<String> = [("generated", generated), ("reference", reference)]
        .iter()
        .filter_map(|(name, n)| n.filter(|n| *n < 2 * width).map(|n| format!("{n} {name}")))
        .collect();
    (!few.is_empty()).then(|| {
        format!(
            "{} samples of {width} numbers each are fewer than twice their width: the distance is far too large; \
             `frechet-infinity` takes the bias away, from {} generated samples on (with `points: 2` from {})",
            few.join(" and "),
            5 * (width + 1),
            2 * (width + 1)
        )
    })
}
