//! Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).
//!
//! Definitions, strict inequalities and the neighbour count are those of the `prdc` package: a ball
//! around a sample reaches to its k-th nearest neighbour, the sample itself not counted, and does not hold
//! its own boundary.
//!
//! Standard errors come from disjoint blocks: both sets are split into B blocks by the seed, and the spread
//! of the statistic over pairs of blocks, divided by √B, is its error, averaged (its square) over eight
//! splits. Binomial errors would take the balls as fixed, and the jackknife, which leaves a few samples out, gives up
//! to twice the spread, for k-th neighbours are no smooth function of the samples. The error is
//! absent where four blocks of 4(k + 1) samples cannot be had. For precision and recall near 1 it is up to
//! half too large, for blocks know less of the border than the whole does.

use ndarray::{ArrayView2, Axis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::balls::Balls;
use super::sample::Sample;
use super::{Statistic, draws};
use crate::num::key::Key;
use crate::num::stats::{self, Estimate};

macro_rules! neighbours {
    ($($(#[$meta:meta])* $Name:ident: $name:literal, $both:expr, $compute:expr;)+) => { $(
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
                let balls: (usize, &str, usize) = $both(generated, reference);
                check($name, self.k, balls)
            }

            fn compute(&self, generated: &Sample, reference: &Sample, key: Key) -> Result<Estimate, String> {
                let (generated, reference) = (generated.all()?, reference.all()?);
                let statistic: Share = $compute;
                let value = statistic(generated, reference, self.k);
                Ok(Estimate { value, stderr: spread(statistic, generated, reference, self.k, key), n: generated.nrows() })
            }
        }
    )+ };
}

/// A statistic of generated samples against reference samples with k neighbours.
type Share = fn(ArrayView2<f64>, ArrayView2<f64>, usize) -> f64;

fn around_reference(generated: usize, reference: usize) -> (usize, &'static str, usize) {
    (reference, "reference", generated)
}

fn around_generated(generated: usize, reference: usize) -> (usize, &'static str, usize) {
    (generated, "generated", reference)
}

neighbours! {
    /// The share of generated samples that lie in a ball around a reference sample.
    Precision: "precision", around_reference, share_covered;
    /// The share of reference samples that lie in a ball around a generated sample.
    Recall: "recall", around_generated, |generated, reference, k| share_covered(reference, generated, k);
    /// The mean number of reference balls around a generated sample, divided by k; it may exceed 1.
    Density: "density", around_reference, density;
    /// The share of reference balls that hold a generated sample.
    Coverage: "coverage", around_reference, coverage;
}

fn check(name: &str, k: usize, (centres, which, points): (usize, &str, usize)) -> Result<(), String> {
    if k == 0 {
        return Err(format!("{name}: k is 0, expected at least 1"));
    }
    if centres <= k {
        return Err(format!(
            "{name}: k is {k}, but there are only {centres} {which} samples; expected at least {}",
            k + 1
        ));
    }
    (points > 0).then_some(()).ok_or_else(|| format!("{name}: one of the two sets is empty"))
}

fn share_covered(points: ArrayView2<f64>, centres: ArrayView2<f64>, k: usize) -> f64 {
    let inside = Balls::around(centres, k).around_points(points);
    inside.iter().filter(|balls| **balls > 0).count() as f64 / inside.len() as f64
}

fn density(generated: ArrayView2<f64>, reference: ArrayView2<f64>, k: usize) -> f64 {
    let inside = Balls::around(reference, k).around_points(generated);
    inside.iter().sum::<usize>() as f64 / (inside.len() * k) as f64
}

fn coverage(generated: ArrayView2<f64>, reference: ArrayView2<f64>, k: usize) -> f64 {
    let holding = Balls::around(reference, k).holding(generated);
    holding.iter().filter(|holds| **holds).count() as f64 / holding.len() as f64
}

/// The standard error by disjoint blocks.
fn spread(statistic: Share, generated: ArrayView2<f64>, reference: ArrayView2<f64>, k: usize, key: Key) -> Option<f64> {
    const SPLITS: u64 = 8;
    let fewest = generated.nrows().min(reference.nrows());
    let blocks = (fewest / (4 * (k + 1))).min(16);
    if blocks < 4 {
        return None;
    }
    let part = |x: ArrayView2<f64>, order: &[usize], b: usize| {
        let rows: Vec<usize> = order.iter().copied().skip(b).step_by(blocks).collect();
        x.select(Axis(0), &rows)
    };
    let variances = (0..SPLITS).map(|split| {
        let orders =
            [draws::order(generated.nrows(), key, 2 * split), draws::order(reference.nrows(), key, 2 * split + 1)];
        let values = (0..blocks).map(|b| {
            let (x, y) = (part(generated, &orders[0], b), part(reference, &orders[1], b));
            statistic(x.view(), y.view(), k)
        });
        stats::mean(&values.collect::<Vec<_>>()).and_then(|m| m.stderr).map(|e| e * e)
    });
    let sum = variances.sum::<Option<f64>>()?;
    Some((sum / SPLITS as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use crate::metric::Metric;
    use crate::metric::testing::{measured, normal, repeated};

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
            let mut all: Vec<f64> = (0..x.nrows()).filter(|j| *j != i).map(|j| distance(x.row(i), x.row(j))).collect();
            all.sort_by(f64::total_cmp);
            all[k - 1]
        };
        let (r, g) = (reference.nrows(), generated.nrows());
        let within = |i: usize, j: usize| distance(reference.row(i), generated.row(j)) < radius(reference, i);
        match name {
            "precision" => (0..g).filter(|j| (0..r).any(|i| within(i, *j))).count() as f64 / g as f64,
            "recall" => plain("precision", reference, generated, k),
            "density" => {
                (0..g).map(|j| (0..r).filter(|i| within(*i, j)).count()).sum::<usize>() as f64 / (k * g) as f64
            }
            _ => (0..r).filter(|i| (0..g).any(|j| within(*i, j))).count() as f64 / r as f64,
        }
    }

    #[test]
    fn values_are_those_of_the_definitions() {
        for (seed, n, m, k) in [(1, 13, 11, 2), (2, 9, 17, 3), (3, 12, 12, 1), (4, 7, 20, 5)] {
            let (x, mut y) = (normal(seed, n, 2, 0.0, 1.0), normal(seed + 50, m, 2, 0.8, 1.0));
            // A ball's centre and its boundary among the points: strict inequalities decide.
            y.row_mut(0).assign(&x.row(1));
            for name in SPECS {
                let got = measured(&metric(name, k), &x, &y).expect(name);
                assert!((got.value - plain(name, &x, &y, k)).abs() < 1e-14, "{name}");
            }
        }
    }

    #[test]
    fn the_standard_error_covers_the_spread_over_repeated_draws() {
        for name in SPECS {
            for shift in [0.0, 0.6] {
                let ratio = repeated(200, |i| {
                    let (x, y) = (normal(2 * i, 150, 2, 0.0, 1.0), normal(2 * i + 1, 120, 2, shift, 1.0));
                    measured(&metric(name, 3), &x, &y).expect(name)
                });
                assert!((0.8..1.6).contains(&ratio), "{name} at {shift}: {ratio}");
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
            assert!(refused.contains("k is 5") && refused.contains(name), "{refused}");
            assert!(metric(name, 0).check(9, 9).is_err());
            assert!(metric(name, 5).check(6, 6).is_ok());
            let (x, y) = (normal(1, 6, 2, 0.0, 1.0), normal(2, 6, 2, 0.0, 1.0));
            assert_eq!(measured(&metric(name, 5), &x, &y).expect(name).stderr, None);
        }
    }
}
