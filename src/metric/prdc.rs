//! Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).
//!
//! Definitions, strict inequalities and the neighbour count are those of the `prdc` package: a ball
//! around a sample reaches to its k-th nearest neighbour, the sample itself not counted, and does not hold
//! its own boundary.
//!
//! Standard errors are those of [`super::parts`], over both sets: radii vary with the set that they come from. They
//! are absent where a quarter of either set has fewer than 2 (k + 1) samples.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::balls::{Balls, Count, Side};
use super::parts::{Parts, Replicates};
use super::sample::Sample;
use super::{Sets, Statistic, notes};
use crate::num::key::Key;
use crate::num::stats::Estimate;

macro_rules! neighbours {
    ($($(#[$meta:meta])* $Name:ident: $name:literal, $which:expr, biased: $biased:literal, $compute:expr;)+) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $Name {
            pub k: usize,
        }

        impl Default for $Name {
            fn default() -> Self {
                $Name { k: 5 }
            }
        }

        impl Statistic for $Name {
            fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
                check($name, self.k, $which, [generated, reference])
            }

            fn biased(&self) -> bool {
                $biased
            }

            fn compute(&self, generated: &Sample, reference: &Sample, key: Key) -> Result<Estimate, String> {
                let parts = Parts::drawn(generated.len(), reference.len(), 2 * (self.k + 1), key);
                let found = self.replicates(generated, reference, parts.as_ref())?;
                Ok(Estimate { value: found.whole(), stderr: found.stderr(), n: generated.len() })
            }

            fn on_parts(&self, generated: &Sample, reference: &Sample, parts: &Parts) -> Result<Option<Replicates>, String> {
                self.replicates(generated, reference, Some(parts)).map(Some)
            }

            fn least_part(&self) -> usize {
                2 * (self.k + 1)
            }

            fn notes(&self, sets: Sets<&Sample>) -> Vec<String> {
                let (name, sample) = match $which {
                    Around::Reference => ("reference", sets.reference),
                    Around::Generated => ("generated", sets.generated),
                };
                notes::empty_balls(name, sample, self.k).into_iter().collect()
            }
        }

        impl $Name {
            fn replicates(&self, generated: &Sample, reference: &Sample, parts: Option<&Parts>) -> Result<Replicates, String> {
                let generated = Side { rows: generated.all()?, quarters: parts.map(|p| &p.generated[..]) };
                let reference = Side { rows: reference.all()?, quarters: parts.map(|p| &p.reference[..]) };
                let statistic: fn(Side, Side, usize) -> Replicates = $compute;
                Ok(statistic(generated, reference, self.k))
            }
        }
    )+ };
}

/// The set that balls are around.
#[derive(Clone, Copy)]
enum Around {
    Reference,
    Generated,
}

neighbours! {
    /// The share of generated samples that lie in a ball around a reference sample.
    Precision: "precision", Around::Reference, biased: false, share_covered;
    /// The share of reference samples that lie in a ball around a generated sample.
    Recall: "recall", Around::Generated, biased: true, |generated, reference, k| share_covered(reference, generated, k);
    /// The mean number of reference balls around a generated sample, divided by k; it may exceed 1.
    Density: "density", Around::Reference, biased: false, density;
    /// The share of reference balls that hold a generated sample.
    Coverage: "coverage", Around::Reference, biased: true, coverage;
}

fn check(
    name: &str,
    k: usize,
    around: Around,
    [generated, reference]: [usize; 2],
) -> Result<(), String> {
    let (centres, which, points) = match around {
        Around::Reference => (reference, "reference", generated),
        Around::Generated => (generated, "generated", reference),
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
        .ok_or_else(|| format!("{name}: one of the two sets is empty"))
}

fn share_covered(points: Side, centres: Side, k: usize) -> Replicates {
    let covered = Balls::around(centres, k).around_points(points, Count::Any);
    covered.shares(points.rows.nrows(), points.quarters, 1.0)
}

fn density(generated: Side, reference: Side, k: usize) -> Replicates {
    let balls = Balls::around(reference, k).around_points(generated, Count::All);
    balls.shares(generated.rows.nrows(), generated.quarters, 1.0 / k as f64)
}

fn coverage(generated: Side, reference: Side, k: usize) -> Replicates {
    let holding = Balls::around(reference, k).holding(generated);
    holding.shares(reference.rows.nrows(), reference.quarters, 1.0)
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::metric::Metric;
    use crate::metric::testing::{measured, normal};

    const SPECS: [&str; 4] = ["precision", "recall", "density", "coverage"];

    fn metric(name: &str, k: usize) -> Metric {
        serde_json::from_str(&format!("{{\"{name}\": {{\"k\": {k}}}}}")).expect(name)
    }

    /// The four definitions, word by word.
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
    fn values_are_those_of_the_definitions() {
        for (seed, n, m, k) in [(1, 13, 11, 2), (2, 9, 17, 3), (3, 12, 12, 1), (4, 7, 20, 5)] {
            let (x, mut y) = (
                normal(seed, n, 2, 0.0, 1.0),
                normal(seed + 50, m, 2, 0.8, 1.0),
            );
            // A ball's centre and its boundary among the points: strict inequalities decide.
            y.row_mut(0).assign(&x.row(1));
            for name in SPECS {
                let got = measured(&metric(name, k), &x, &y).expect(name);
                assert!((got.value - plain(name, &x, &y, k)).abs() < 1e-14, "{name}");
            }
        }
    }

    /// What is counted in a part is the statistic of that part alone.
    #[test]
    fn parts_are_what_they_would_be_alone() {
        let (x, y) = (normal(1, 70, 3, 0.0, 1.0), normal(2, 90, 3, 0.4, 1.2));
        let parts = Parts::drawn(70, 90, 8, Key { seed: 5 }).expect("enough");
        let sides = [(&x, &parts.generated), (&y, &parts.reference)];
        for name in SPECS {
            let samples = sides.map(|(rows, _)| Sample::new(rows).expect("finite"));
            let found = metric(name, 3)
                .on_parts(&samples[0], &samples[1], &parts)
                .expect("fine")
                .expect("parts");
            let whole = samples
                .each_ref()
                .map(|s| s.all().expect("in memory").to_owned());
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
                let got = found.of_quarters(division, of_quarters);
                assert!(
                    (got - plain(name, &some[0], &some[1], 3)).abs() < 1e-14,
                    "{name} {division} {of_quarters:?}"
                );
            }
        }
    }

    #[test]
    fn identical_laws_are_covered_as_expected() {
        // Naeem et al. 2020, Lemma 2: E coverage = 1 − Π (n − i)/(n + m − i) over i = 1 … k, or 1 − 2⁻ᵏ for many.
        let (x, y) = (normal(1, 2000, 3, 0.0, 1.0), normal(2, 2000, 3, 0.0, 1.0));
        let value = |name| measured(&metric(name, 5), &x, &y).expect(name).value;
        assert!((value("coverage") - (1.0 - 0.5f64.powi(5))).abs() < 0.02);
        assert!((value("density") - 1.0).abs() < 0.05);
    }

    #[test]
    fn too_few_samples_are_refused_with_their_count() {
        for name in SPECS {
            let refused = metric(name, 5).check(5, 5).expect_err(name);
            assert!(
                refused.contains("k is 5") && refused.contains(name),
                "{refused}"
            );
            assert!(metric(name, 0).check(9, 9).is_err());
            assert!(metric(name, 5).check(6, 6).is_ok());
            let (x, y) = (normal(1, 6, 2, 0.0, 1.0), normal(2, 6, 2, 0.0, 1.0));
            assert_eq!(measured(&metric(name, 5), &x, &y).expect(name).stderr, None);
        }
    }
}
