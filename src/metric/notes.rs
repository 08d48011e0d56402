//! What a reader should know before trusting a statistic of the sets at hand.

use super::feature_set::FeatureSet;
use super::{Metric, SampleRole, SampleSets};

/// All that is to be said about one statistic of these sets; most often nothing.
pub fn statistic_notes(metric: &Metric, sets: SampleSets<&FeatureSet>) -> Vec<String> {
    metric.notes(sets)
}

/// A floor is what a perfect model would give, of as many samples as the model's: of other counts a biased statistic has
/// another bias.
pub fn floor_count_mismatch(metric: &Metric, floor: usize, generated: usize) -> Option<String> {
    (metric.is_biased() && floor != generated).then(|| {
        format!(
            "the floor is of {floor} samples and beside it stand {generated} generated ones: their difference is in part \
             one of bias"
        )
    })
}

/// Balls of no radius hold nothing: those around samples that are there more than k times.
pub fn zero_radius_balls(name: &str, sample: &FeatureSet, k: usize) -> Option<String> {
    let empty = sample.count_repeated(k + 1);
    (empty > 0).then(|| {
        format!(
            "{empty} of {} {name} samples are there more than {k} times each, and balls around them have no radius: \
             leave copies out, or take a larger k",
            sample.len()
        )
    })
}

/// Training samples with exact copies among the training data.
pub fn training_duplicates(train: &FeatureSet) -> Option<String> {
    let repeated = train.count_repeated(2);
    (repeated > 0).then(|| {
        format!(
            "{repeated} of {} training samples have exact copies among the training data, which hide copies of them: \
             leave those out",
            train.len()
        )
    })
}

/// Copies within the sets that are divided into one part to learn from and another to be tested on.
pub fn duplicates_across_split(sets: &[(&str, &FeatureSet)], what: &str) -> Option<String> {
    let found = sets
        .iter()
        .filter(|(_, sample)| sample.count_repeated(2) > 0);
    let named: Vec<String> = found
        .map(|(name, sample)| {
            format!(
                "{} of {} {name} samples",
                sample.count_repeated(2),
                sample.len()
            )
        })
        .collect();
    (!named.is_empty()).then(|| {
        format!(
            "{} have exact copies in their own set, {what}",
            named.join(" and ")
        )
    })
}

/// Held-out data that were trained on.
pub fn held_out_overlap(sets: SampleSets<&FeatureSet>) -> Option<String> {
    let (train, test) = (
        sets.for_role(SampleRole::Train),
        sets.for_role(SampleRole::Test),
    );
    let shared = test.count_shared(train);
    (shared > 0).then(|| {
        format!(
            "{shared} of {} held-out samples are exact copies of training samples",
            test.len()
        )
    })
}

/// Fewer samples than twice the numbers that vary, with which a covariance is far from the law's; of how many samples
/// statistics are is not known.
pub fn too_few_for_covariance(
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
