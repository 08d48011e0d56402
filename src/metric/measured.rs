//! A statistic with what its row says beside the value.

use super::feature_set::FeatureSet;
use super::{Metric, SampleSets, measure_all, notes};
use crate::num::key::RngKey;
use crate::num::stats::Estimate;

/// A statistic with its standard error, the numbers of samples behind it, and notes for the reader.
pub struct MeasuredStatistic {
    pub estimate: Estimate,
    pub n_generated: usize,
    /// The number of samples in the set that the generated samples are compared with.
    pub n_reference: usize,
    pub notes: Vec<String>,
}

/// Floor data that stand beside generated samples.
pub struct FloorSamples<'a> {
    /// The number of generated samples.
    pub generated_count: usize,
    /// As many of the floor data, for statistics whose bias depends on the number of samples.
    /// `None` if there are no more floor data than generated samples.
    pub truncated: Option<FeatureSet<'a>>,
}

impl<'a> FloorSamples<'a> {
    /// Floor data beside `generated_count` generated samples.
    pub fn new(floor: FeatureSet<'a>, generated_count: usize) -> FloorSamples<'a> {
        let has_more = generated_count < floor.len();
        FloorSamples {
            generated_count,
            truncated: has_more.then(|| floor.truncated(generated_count)),
        }
    }
}

/// Computes a statistic and its notes. `floor` is given if the generated set holds floor data.
///
/// # Errors
/// Fails with the reason if the statistic cannot be computed on these sets.
pub fn measure_with_notes<'s, 'f>(
    metric: &Metric,
    sets: SampleSets<&'s FeatureSet<'f>>,
    floor: Option<&'s FloorSamples<'f>>,
    key: RngKey,
) -> Result<MeasuredStatistic, String> {
    let truncated = floor.and_then(|floor| floor.truncated.as_ref());
    let sets = match truncated {
        Some(generated) if metric.is_biased() => SampleSets { generated, ..sets },
        _ => sets,
    };
    let n = sets.map(FeatureSet::len);
    let mut notes = notes::statistic_notes(metric, sets);
    notes.extend(
        floor.and_then(|floor| {
            notes::floor_count_mismatch(metric, n.generated, floor.generated_count)
        }),
    );
    Ok(MeasuredStatistic {
        estimate: measure_all(metric, sets, key)?,
        n_generated: n.generated,
        n_reference: n.for_role(metric.comparison_role()),
        notes,
    })
}
