//! Authenticity (Alaa et al. 2022) and memorization (Yoon et al. 2023): which share of generated
//! samples is suspiciously close to training data.
//!
//! The reference counts as the training data if no training data are given. Standard errors come
//! from [`super::random_groups`]. They include the randomness of the generated samples and of the
//! training data, and allow generated samples to depend on the training data. There is no standard
//! error if either set has fewer than 16 samples.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_set::FeatureSet;
use super::nearest_neighbours::NearestNeighbours;
use super::random_groups::{
    DIVISIONS, GROUPINGS, PARTS_PER_DIVISION, PartReplicates, QuarterByDivision, RandomDivisions,
    SampleTerm, part_index,
};
use super::{SampleRole, SampleSets, Statistic, notes, pairwise_distance};
use crate::num::key::RngKey;
use crate::num::stats::Estimate;

/// Authenticity: the share of generated samples that are farther from their nearest training sample
/// than this training sample is from its own nearest neighbour in the training data. The published
/// AuthPct is 100 times this share. There are no parameters.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Authenticity {}

/// Memorization: the share of generated samples whose distance to the nearest training sample is
/// less than `ratio` times the distance to the second nearest.
///
/// In D dimensions a smooth distribution gives about ratio^D without any copying, which is
/// negligible only if D is large. If the training data contain a sample twice, copies of this
/// sample do not count; a note in the output warns of this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Memorization {
    /// A sample counts as a copy if the ratio of the two distances is below this number, above 0
    /// and at most 1. The default is 1/3.
    pub ratio: f64,
}

impl Default for Memorization {
    fn default() -> Self {
        Memorization { ratio: 1.0 / 3.0 }
    }
}

/// The smallest number of samples in a quarter with which there is a standard error.
const MIN_QUARTER_SIZE: usize = 4;

impl Statistic for Authenticity {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        check_neighbour_counts("authenticity", generated, reference)
    }

    fn comparison_role(&self) -> SampleRole {
        SampleRole::Train
    }

    fn is_biased(&self) -> bool {
        false
    }

    fn compute(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        key: RngKey,
    ) -> Result<Estimate, String> {
        let parts = RandomDivisions::draw(generated.len(), reference.len(), MIN_QUARTER_SIZE, key);
        let found = self.replicates(generated, reference, parts.as_ref())?;
        Ok(Estimate {
            value: found.whole(),
            stderr: found.stderr(),
            n: generated.len(),
        })
    }

    fn min_part_size(&self) -> usize {
        MIN_QUARTER_SIZE
    }

    fn replicates_on_parts(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        parts: &RandomDivisions,
    ) -> Result<Option<PartReplicates>, String> {
        self.replicates(generated, reference, Some(parts)).map(Some)
    }

    fn notes(&self, sets: SampleSets<&FeatureSet>) -> Vec<String> {
        notes::training_duplicates(sets.for_role(SampleRole::Train))
            .into_iter()
            .collect()
    }
}

impl Authenticity {
    /// The share on the whole sets and, if `parts` are given, on each part of the training data.
    fn replicates(
        &self,
        generated: &FeatureSet,
        train: &FeatureSet,
        parts: Option<&RandomDivisions>,
    ) -> Result<PartReplicates, String> {
        let own = nearest_other_distances(train, parts)?;
        neighbour_share_replicates(
            generated,
            train,
            parts,
            1,
            |found, division_and_grouping| {
                found.first().is_some_and(|(distance, at)| {
                    own[*at].for_part(division_and_grouping) < *distance
                })
            },
        )
    }
}

impl Statistic for Memorization {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        check_neighbour_counts("memorization", generated, reference)?;
        let fine = self.ratio > 0.0 && self.ratio <= 1.0;
        fine.then_some(()).ok_or_else(|| {
            format!(
                "memorization: ratio is {}, expected above 0 and up to 1",
                self.ratio
            )
        })
    }

    fn comparison_role(&self) -> SampleRole {
        SampleRole::Train
    }

    fn is_biased(&self) -> bool {
        false
    }

    fn compute(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        key: RngKey,
    ) -> Result<Estimate, String> {
        let parts = RandomDivisions::draw(generated.len(), reference.len(), MIN_QUARTER_SIZE, key);
        let found = self.replicates(generated, reference, parts.as_ref())?;
        Ok(Estimate {
            value: found.whole(),
            stderr: found.stderr(),
            n: generated.len(),
        })
    }

    fn min_part_size(&self) -> usize {
        MIN_QUARTER_SIZE
    }

    fn replicates_on_parts(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        parts: &RandomDivisions,
    ) -> Result<Option<PartReplicates>, String> {
        self.replicates(generated, reference, Some(parts)).map(Some)
    }

    fn notes(&self, sets: SampleSets<&FeatureSet>) -> Vec<String> {
        notes::training_duplicates(sets.for_role(SampleRole::Train))
            .into_iter()
            .collect()
    }
}

impl Memorization {
    /// The share on the whole sets and, if `parts` are given, on each part of the training data.
    fn replicates(
        &self,
        generated: &FeatureSet,
        train: &FeatureSet,
        parts: Option<&RandomDivisions>,
    ) -> Result<PartReplicates, String> {
        let square = self.ratio * self.ratio;
        neighbour_share_replicates(generated, train, parts, 2, |found, _| {
            let [first, second] = [0, 1].map(|i| found.get(i).map_or(f64::INFINITY, |(d, _)| *d));
            first < square * second
        })
    }
}

/// Fails if a set has too few samples for nearest and second nearest neighbours.
fn check_neighbour_counts(name: &str, generated: usize, reference: usize) -> Result<(), String> {
    let fine = generated >= 2 && reference >= 3;
    fine.then_some(()).ok_or_else(|| {
        format!(
            "{name}: {generated} generated and {reference} reference samples, \
             expected at least 2 generated and 3 reference samples"
        )
    })
}

/// The squared distance of one training sample to its nearest neighbour in the training data.
struct NearestOtherDistance {
    /// The distance within all training data.
    whole: f64,
    /// The distance within each part that contains the sample, by division and grouping.
    parts: [[f64; GROUPINGS]; DIVISIONS],
}

impl NearestOtherDistance {
    /// The distance within the part of a division and grouping; `None` stands for all training
    /// data.
    fn for_part(&self, division_and_grouping: Option<(usize, usize)>) -> f64 {
        division_and_grouping.map_or(self.whole, |(division, grouping)| {
            self.parts[division][grouping]
        })
    }
}

/// The number of neighbours that are sorted in advance if parts are evaluated. The nearest
/// neighbour within a quarter is almost always among them.
const INITIAL_NEIGHBOURS: usize = 32;

/// The squared distance of every training sample to its nearest neighbour in the training data.
fn nearest_other_distances(
    train: &FeatureSet,
    parts: Option<&RandomDivisions>,
) -> Result<Vec<NearestOtherDistance>, String> {
    let rows = train.all_rows()?;
    let found = pairwise_distance::map_distance_blocks(rows, rows, |first, distances| {
        let of_row = |(i, row): (usize, _)| {
            let mut nearest = NearestNeighbours::from_distances(
                row,
                Some(first + i),
                if parts.is_some() {
                    INITIAL_NEIGHBOURS
                } else {
                    1
                },
            );
            let distance = |found: Option<(f64, usize)>| found.map_or(f64::INFINITY, |(d, _)| d);
            let mut own = NearestOtherDistance {
                whole: distance(nearest.get(0)),
                parts: [[0.0; GROUPINGS]; DIVISIONS],
            };
            if let Some(quarters) = parts.map(|parts| &parts.reference) {
                nearest.for_each_part(
                    &quarters[first + i],
                    quarters,
                    1,
                    |division, grouping, found| {
                        own.parts[division][grouping] = distance(found.first().copied());
                    },
                );
            }
            own
        };
        distances
            .rows()
            .into_iter()
            .enumerate()
            .map(of_row)
            .collect::<Vec<_>>()
    });
    Ok(found.into_iter().flatten().collect())
}

/// The share of generated samples for which the predicate `yes` holds, on all training data and on
/// each part of them.
///
/// `yes` receives the `count` nearest training samples as pairs of squared distance and position,
/// nearest first. Its second argument is the division and the grouping of the part, or `None` for
/// all training data.
fn neighbour_share_replicates(
    generated: &FeatureSet,
    train: &FeatureSet,
    parts: Option<&RandomDivisions>,
    count: usize,
    yes: impl Fn(&[(f64, usize)], Option<(usize, usize)>) -> bool + Sync,
) -> Result<PartReplicates, String> {
    let quarters = parts.map(|parts| &parts.reference[..]);
    let yes = |found: &[(f64, usize)], of| i8::from(yes(found, of));
    let found = pairwise_distance::map_distance_blocks(
        generated.all_rows()?,
        train.all_rows()?,
        |_, distances| {
            let term = |row| {
                let mut nearest = NearestNeighbours::from_distances(
                    row,
                    None,
                    if parts.is_some() {
                        INITIAL_NEIGHBOURS
                    } else {
                        count
                    },
                );
                let all: Vec<(f64, usize)> = (0..count).map_while(|i| nearest.get(i)).collect();
                let in_parts = quarters.map(|quarters| {
                    std::array::from_fn(|division| {
                        evaluate_on_division(&mut nearest, quarters, division, count, &yes)
                    })
                });
                SampleTerm {
                    whole: yes(&all, None),
                    parts: in_parts,
                }
            };
            distances.rows().into_iter().map(term).collect::<Vec<_>>()
        },
    );
    Ok(PartReplicates::Terms(
        generated.in_input_order(&found.concat()),
    ))
}

/// Evaluates the predicate `yes` for one generated sample on each part of one division of the
/// training data.
fn evaluate_on_division(
    nearest: &mut NearestNeighbours,
    quarters: &[QuarterByDivision],
    division: usize,
    count: usize,
    yes: &impl Fn(&[(f64, usize)], Option<(usize, usize)>) -> i8,
) -> [i8; PARTS_PER_DIVISION] {
    let mut found: [Vec<(f64, usize)>; PARTS_PER_DIVISION] = Default::default();
    let (mut i, mut open) = (0, PARTS_PER_DIVISION);
    while open > 0 {
        let Some((distance, at)) = nearest.get(i) else {
            break;
        };
        for grouping in 0..GROUPINGS {
            let list = &mut found[part_index(quarters[at][division], grouping)];
            if list.len() < count {
                list.push((distance, at));
                open -= usize::from(list.len() == count);
            }
        }
        i += 1;
    }
    let grouping = |part: usize| if part < 4 { 0 } else { (part - 2) / 2 };
    std::array::from_fn(|part| yes(&found[part], Some((division, grouping(part)))))
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, concatenate};

    use super::*;
    use crate::metric::testing::{self, normal_samples};

    fn both(x: &Array2<f64>, y: &Array2<f64>) -> [f64; 2] {
        let authenticity = testing::compute(&Authenticity {}, x, y, 0)
            .expect("fine")
            .value;
        [
            authenticity,
            testing::compute(&Memorization::default(), x, y, 0)
                .expect("fine")
                .value,
        ]
    }

    #[test]
    fn copies_lower_authenticity_and_raise_memorization() {
        let (train, fresh) = (
            normal_samples(1, 50, 8, 0.0, 1.0),
            normal_samples(2, 30, 8, 9.0, 1.0),
        );
        let copies = train.slice(ndarray::s![..30, ..]).to_owned() + 1e-3;
        assert_eq!(both(&copies, &train), [0.0, 1.0]);
        assert_eq!(both(&fresh, &train), [1.0, 0.0]);
        let half = concatenate![ndarray::Axis(0), copies, fresh];
        assert_eq!(both(&half, &train), [0.5, 0.5]);
    }

    #[test]
    fn memorization_of_smooth_density_is_ratio_to_dimension() {
        let (x, y) = (
            normal_samples(1, 3000, 2, 0.0, 1.0),
            normal_samples(2, 4000, 2, 0.0, 1.0),
        );
        let got = testing::compute(&Memorization { ratio: 0.5 }, &x, &y, 0).expect("fine");
        assert!(
            (got.value - 0.25).abs() < 4.0 * got.stderr.expect("many"),
            "{got:?}"
        );
    }

    #[test]
    fn training_duplicates_hide_copies_and_are_noted() {
        let train = normal_samples(1, 50, 8, 0.0, 1.0);
        let copies = train.slice(ndarray::s![..30, ..]).to_owned() + 1e-3;
        let twice = concatenate![ndarray::Axis(0), train, train.slice(ndarray::s![..20, ..])];
        let [authenticity, memorization] = both(&copies, &twice);
        assert!(
            authenticity == 20.0 / 30.0 && memorization == 10.0 / 30.0,
            "{authenticity} {memorization}"
        );
        let (x, y) = (
            FeatureSet::new(&copies).expect("finite"),
            FeatureSet::new(&twice).expect("finite"),
        );
        for metric in [&Authenticity {} as &dyn Statistic, &Memorization::default()] {
            let notes = metric.notes(SampleSets::generated_and_reference(&x, &y));
            assert!(
                notes.len() == 1 && notes[0].contains("40 of 70"),
                "{notes:?}"
            );
            assert!(
                metric
                    .notes(SampleSets::generated_and_reference(&y, &x))
                    .is_empty()
            );
        }
    }

    /// Some samples are copies of training samples, and each repetition draws new training data.
    #[test]
    fn copy_detection_stderr_matches_spread() {
        use crate::num::key::Purpose;
        let draw = |i: u64| {
            let (train, mut x) = (
                normal_samples(2 * i, 80, 6, 0.0, 1.0),
                normal_samples(2 * i + 1, 100, 6, 0.0, 1.0),
            );
            let chosen = RngKey { seed: i }.uniform(Purpose::Check, 1, 0, 200);
            for (j, mut row) in x
                .rows_mut()
                .into_iter()
                .enumerate()
                .filter(|(j, _)| chosen[*j] < 0.2)
            {
                row *= 0.1;
                row += &train.row((80.0 * chosen[100 + j]) as usize);
            }
            (x, train)
        };
        for metric in [&Authenticity {} as &dyn Statistic, &Memorization::default()] {
            testing::assert_stderr_calibrated(0.15, |i| {
                let (x, train) = draw(i);
                testing::compute(metric, &x, &train, i).expect("fine")
            });
        }
    }
}
