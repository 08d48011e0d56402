//! Warnings about statistics: properties of the sets that make a value less trustworthy than it
//! looks.

use super::feature_set::FeatureSet;
use super::{Metric, SampleRole, SampleSets};

/// All warnings about one statistic of these sets, one sentence each; usually none.
pub fn statistic_notes(metric: &Metric, sets: SampleSets<&FeatureSet>) -> Vec<String> {
    metric.notes(sets)
}

/// A warning if the floor of a biased statistic comes from another number of samples than the
/// model's value.
///
/// A floor is the value that a perfect model would reach with as many samples as the model. With
/// another number of samples, a biased statistic has another bias.
pub fn floor_count_mismatch(metric: &Metric, floor: usize, generated: usize) -> Option<String> {
    (metric.is_biased() && floor != generated).then(|| {
        format!(
            "the floor comes from {floor} samples, but the value beside it comes from {generated} \
             generated samples: part of their difference is bias"
        )
    })
}

/// A warning if balls around samples have radius 0 and therefore contain nothing. This happens for
/// samples that occur more than k times.
pub fn zero_radius_balls(name: &str, sample: &FeatureSet, k: usize) -> Option<String> {
    let empty = sample.count_repeated(k + 1);
    (empty > 0).then(|| {
        format!(
            "{empty} of {} {name} samples occur more than {k} times each, so the balls around them \
             have no radius: remove the copies, or use a larger `k`",
            sample.len()
        )
    })
}

/// A warning if training samples have exact copies among the training data.
pub fn training_duplicates(train: &FeatureSet) -> Option<String> {
    let repeated = train.count_repeated(2);
    (repeated > 0).then(|| {
        format!(
            "{repeated} of {} training samples have exact copies among the training data, which \
             hide generated copies of these samples: remove the duplicates",
            train.len()
        )
    })
}

/// A warning if sets that a statistic splits in two contain copies within themselves, so that
/// copies may end up on both sides of the split. `what` completes the sentence.
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

/// A warning if held-out samples are exact copies of training samples.
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

/// A warning if a set has fewer samples than twice `width`, the number of columns that vary. With
/// so few samples the covariance is far from that of the distribution. A count is `None` if only
/// the moments of a set are known.
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
            "{} samples of {width} numbers each are fewer than twice that number, so the distance \
             is far too large; `frechet-infinity` removes this bias if there are at least {} \
             generated samples (with `points: 2` at least {})",
            few.join(" and "),
            5 * (width + 1),
            2 * (width + 1)
        )
    })
}
