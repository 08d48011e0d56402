//! Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).
//!
//! Definitions, strict inequalities and the number of neighbours are those of the `prdc` package.
//! The radius of the ball around a sample is the distance to its k-th nearest neighbour. The sample
//! itself does not count as a neighbour. A ball does not contain its boundary.
//!
//! Standard errors come from [`super::random_groups`] and include the randomness of both sets,
//! because radii vary with the set of the centres. There is no standard error if a quarter of
//! either set has fewer than 2 (k + 1) samples.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_set::FeatureSet;
use super::knn_balls::{BallCounting, KnnBalls, PartitionedRows};
use super::random_groups::{PartReplicates, RandomDivisions};
use super::{SampleSets, Statistic, notes};
use crate::num::key::RngKey;
use crate::num::stats::Estimate;

/// Declares the structs of the four statistics, which have the same parameter, and their
/// implementations.
macro_rules! knn_statistics {
    ($($(#[$meta:meta])* $Name:ident: $name:literal, $which:expr, biased: $biased:literal, $compute:expr;)+) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $Name {
            /// The number of neighbours k that defines the radius of a ball, at least 1. The set of
            /// the centres must have more than k samples. The default is 5.
            pub k: usize,
        }

        impl Default for $Name {
            fn default() -> Self {
                $Name { k: 5 }
            }
        }

        impl Statistic for $Name {
            fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
                check_knn_counts($name, self.k, $which, [generated, reference])
            }

            fn is_biased(&self) -> bool {
                $biased
            }

            fn compute(&self, generated: &FeatureSet, reference: &FeatureSet, key: RngKey) -> Result<Estimate, String> {
                let parts = RandomDivisions::draw(generated.len(), reference.len(), 2 * (self.k + 1), key);
                let found = self.replicates(generated, reference, parts.as_ref())?;
                Ok(Estimate { value: found.whole(), stderr: found.stderr(), n: generated.len() })
            }

            fn replicates_on_parts(&self, generated: &FeatureSet, reference: &FeatureSet, parts: &RandomDivisions) -> Result<Option<PartReplicates>, String> {
                self.replicates(generated, reference, Some(parts)).map(Some)
            }

            fn min_part_size(&self) -> usize {
                2 * (self.k + 1)
            }

            fn notes(&self, sets: SampleSets<&FeatureSet>) -> Vec<String> {
                let (name, sample) = match $which {
                    BallCentres::Reference => ("reference", sets.reference),
                    BallCentres::Generated => ("generated", sets.generated),
                };
                notes::zero_radius_balls(name, sample, self.k).into_iter().collect()
            }
        }

        impl $Name {
            /// The statistic of the whole sets and, if `parts` are given, of each part.
            fn replicates(&self, generated: &FeatureSet, reference: &FeatureSet, parts: Option<&RandomDivisions>) -> Result<PartReplicates, String> {
                let generated = PartitionedRows { rows: generated.all_rows()?, quarters: parts.map(|p| &p.generated[..]) };
                let reference = PartitionedRows { rows: reference.all_rows()?, quarters: parts.map(|p| &p.reference[..]) };
                let statistic: fn(PartitionedRows, PartitionedRows, usize) -> PartReplicates = $compute;
                Ok(statistic(generated, reference, self.k))
            }
        }
    )+ };
}

/// The set whose samples are the centres of the balls.
#[derive(Clone, Copy)]
enum BallCentres {
    /// The reference samples.
    Reference,
    /// The generated samples.
    Generated,
}

knn_statistics! {
    /// Precision: the share of generated samples that lie in a ball around a reference sample. The
    /// radius of a ball is the distance to the k-th nearest neighbour.
    Precision: "precision", BallCentres::Reference, biased: false, share_covered;
    /// Recall: the share of reference samples that lie in a ball around a generated sample. The
    /// radius of a ball is the distance to the k-th nearest neighbour.
    Recall: "recall", BallCentres::Generated, biased: true, |generated, reference, k| share_covered(reference, generated, k);
    /// Density: the mean number of balls around reference samples that contain a generated sample,
    /// divided by k. The radius of a ball is the distance to the k-th nearest neighbour. The value
    /// may exceed 1.
    Density: "density", BallCentres::Reference, biased: false, density;
    /// Coverage: the share of balls around reference samples that contain at least one generated
    /// sample. The radius of a ball is the distance to the k-th nearest neighbour.
    Coverage: "coverage", BallCentres::Reference, biased: true, coverage;
}

/// Fails if k is 0, if the set of the centres has at most k samples, or if the other set is empty.
fn check_knn_counts(
    name: &str,
    k: usize,
    around: BallCentres,
    [generated, reference]: [usize; 2],
) -> Result<(), String> {
    let (centres, which, points) = match around {
        BallCentres::Reference => (reference, "reference", generated),
        BallCentres::Generated => (generated, "generated", reference),
    };
    if k == 0 {
        return Err(format!("{name}: k is 0, expected at least 1"));
    }
    if centres <= k {
        return Err(format!(
            "{name}: k is {k}, but there are only {centres} {which} samples; expected at least {}",
            k + 1
        ));
    }
    (points > 0)
        .then_some(())
        .ok_or_else(|| format!("{name}: one of the two sets is empty, expected samples in both"))
}

/// The share of points that lie in at least one ball around the centres.
fn share_covered(points: PartitionedRows, centres: PartitionedRows, k: usize) -> PartReplicates {
    let covered = KnnBalls::around(centres, k).tally_points(points, BallCounting::Any);
    covered.to_replicates(points.rows.nrows(), points.quarters, 1.0)
}

/// The mean number of reference balls that contain a generated sample, divided by k.
fn density(generated: PartitionedRows, reference: PartitionedRows, k: usize) -> PartReplicates {
    let balls = KnnBalls::around(reference, k).tally_points(generated, BallCounting::All);
    balls.to_replicates(generated.rows.nrows(), generated.quarters, 1.0 / k as f64)
}

/// The share of reference balls that contain at least one generated sample.
fn coverage(generated: PartitionedRows, reference: PartitionedRows, k: usize) -> PartReplicates {
    let occupied = KnnBalls::around(reference, k).tally_occupied_balls(generated);
    occupied.to_replicates(reference.rows.nrows(), reference.quarters, 1.0)
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::metric::Metric;
    use crate::metric::testing::{measure_arrays, normal_samples};

    const SPECS: [&str; 4] = ["precision", "recall", "density", "coverage"];

    fn metric(name: &str, k: usize) -> Metric {
        serde_json::from_str(&format!("{{\"{name}\": {{\"k\": {k}}}}}")).expect(name)
    }

    /// The four statistics, computed directly from their definitions.
    fn plain(name: &str, generated: &Array2<f64>, reference: &Array2<f64>, k: usize) -> f64 {
        let distance = |a: ndarray::ArrayView1<f64>, b: ndarray::ArrayView1<f64>| {
            a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>()
        };
        let radius = |x: &Array2<f64>, i: usize| {
            let mut all: Vec<f64> = (0..x.nrows())
                .filter(|j| *j != i)
                .map(|j| distance(x.row(i), x.row(j)))
                .collect();
            all.sort_by(f64::total_cmp);
            all[k - 1]
        };
        let (r, g) = (reference.nrows(), generated.nrows());
        let within = |i: usize, j: usize| {
            distance(reference.row(i), generated.row(j)) < radius(reference, i)
        };
        match name {
            "precision" => {
                (0..g).filter(|j| (0..r).any(|i| within(i, *j))).count() as f64 / g as f64
            }
            "recall" => plain("precision", reference, generated, k),
            "density" => {
                (0..g)
                    .map(|j| (0..r).filter(|i| within(*i, j)).count())
                    .sum::<usize>() as f64
                    / (k * g) as f64
            }
            _ => (0..r).filter(|i| (0..g).any(|j| within(*i, j))).count() as f64 / r as f64,
        }
    }

    #[test]
    fn prdc_matches_definitions() {
        for (seed, n, m, k) in [(1, 13, 11, 2), (2, 9, 17, 3), (3, 12, 12, 1), (4, 7, 20, 5)] {
            let (x, mut y) = (
                normal_samples(seed, n, 2, 0.0, 1.0),
                normal_samples(seed + 50, m, 2, 0.8, 1.0),
            );
            // One point is the centre of a ball and lies on the boundary of others, so strict
            // inequalities matter.
            y.row_mut(0).assign(&x.row(1));
            for name in SPECS {
                let got = measure_arrays(&metric(name, k), &x, &y).expect(name);
                assert!((got.value - plain(name, &x, &y, k)).abs() < 1e-14, "{name}");
            }
        }
    }

    /// The value on a part equals the statistic computed from the samples of this part only.
    #[test]
    fn prdc_on_parts_matches_separate_evaluation() {
        let (x, y) = (
            normal_samples(1, 70, 3, 0.0, 1.0),
            normal_samples(2, 90, 3, 0.4, 1.2),
        );
        let parts = RandomDivisions::draw(70, 90, 8, RngKey { seed: 5 }).expect("enough");
        let sides = [(&x, &parts.generated), (&y, &parts.reference)];
        for name in SPECS {
            let samples = sides.map(|(rows, _)| FeatureSet::new(rows).expect("finite"));
            let found = metric(name, 3)
                .replicates_on_parts(&samples[0], &samples[1], &parts)
                .expect("fine")
                .expect("parts");
            let whole = samples
                .each_ref()
                .map(|s| s.all_rows().expect("in memory").to_owned());
            assert!((found.whole() - plain(name, &whole[0], &whole[1], 3)).abs() < 1e-14);
            for (division, of_quarters) in [
                (0, [0u8].as_slice()),
                (9, &[3]),
                (9, &[0, 1]),
                (17, &[1, 3]),
                (31, &[1, 2]),
            ] {
                let some = [0, 1].map(|side| {
                    let inside = |i: &usize| of_quarters.contains(&sides[side].1[*i][division]);
                    whole[side].select(
                        ndarray::Axis(0),
                        &(0..whole[side].nrows()).filter(inside).collect::<Vec<_>>(),
                    )
                });
                let got = found.value_on_quarters(division, of_quarters);
                assert!(
                    (got - plain(name, &some[0], &some[1], 3)).abs() < 1e-14,
                    "{name} {division} {of_quarters:?}"
                );
            }
        }
    }

    #[test]
    fn coverage_and_density_of_equal_distributions() {
        // Naeem et al. 2020, Lemma 2: the expected coverage is 1 − Π (n − i)/(n + m − i) over i = 1
        // … k. It tends to 1 − 2⁻ᵏ for many samples and n = m.
        let (x, y) = (
            normal_samples(1, 2000, 3, 0.0, 1.0),
            normal_samples(2, 2000, 3, 0.0, 1.0),
        );
        let value = |name| measure_arrays(&metric(name, 5), &x, &y).expect(name).value;
        assert!((value("coverage") - (1.0 - 0.5f64.powi(5))).abs() < 0.02);
        assert!((value("density") - 1.0).abs() < 0.05);
    }

    #[test]
    fn prdc_refuses_too_few_samples() {
        for name in SPECS {
            let refused = metric(name, 5).check(5, 5).expect_err(name);
            assert!(
                refused.contains("k is 5") && refused.contains(name),
                "{refused}"
            );
            assert!(metric(name, 0).check(9, 9).is_err());
            assert!(metric(name, 5).check(6, 6).is_ok());
            let (x, y) = (
                normal_samples(1, 6, 2, 0.0, 1.0),
                normal_samples(2, 6, 2, 0.0, 1.0),
            );
            assert_eq!(
                measure_arrays(&metric(name, 5), &x, &y).expect(name).stderr,
                None
            );
        }
    }
}
