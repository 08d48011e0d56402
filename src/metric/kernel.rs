//! The kernel distance: unbiased squared MMD with k(x, y) = (x·y/D + 1)³ (Bińkowski et al. 2018).

use ndarray::{ArrayView2, Axis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::discrepancy::{self, Discrepancy};
use super::sample::Sample;
use super::{Influences, Statistic, draws};
use crate::num::key::Key;
use crate::num::linalg;
use crate::num::stats::{self, Estimate};

/// The full sample, or the mean over `subsets` random subsets of `subset_size` of each side.
///
/// `stderr` of the full sample is the U-statistic's own, second-order term included, so that it
/// holds under equal laws as well; with subsets it is sd over subsets / √subsets, which ignores
/// that subsets overlap.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Kernel {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subsets: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subset_size: Option<usize>,
}

impl Statistic for Kernel {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        discrepancy::at_least_two("kernel", generated, reference)?;
        if self.subsets == Some(0) {
            return Err("kernel: subsets is 0, expected at least 1".to_owned());
        }
        let size = self.subset_size.unwrap_or(2);
        let fine = (2..=generated.min(reference)).contains(&size);
        fine.then_some(()).ok_or_else(|| {
            format!(
                "kernel: subset_size is {size}, expected 2 to {} (the smaller of the two sets)",
                generated.min(reference)
            )
        })
    }

    fn biased(&self) -> bool {
        false
    }

    fn compute(
        &self,
        generated: &Sample,
        reference: &Sample,
        key: Key,
    ) -> Result<Estimate, String> {
        let (generated, reference) = (generated.all()?, reference.all()?);
        if self.subsets.is_none() && self.subset_size.is_none() {
            return Ok(full(generated, reference));
        }
        let subsets = self.subsets.unwrap_or(100) as u64;
        let size = self
            .subset_size
            .unwrap_or(1000)
            .min(generated.nrows())
            .min(reference.nrows());
        let values: Vec<f64> = (0..subsets)
            .map(|b| {
                let x =
                    generated.select(Axis(0), &draws::subset(generated.nrows(), size, key, 2 * b));
                let y = reference.select(
                    Axis(0),
                    &draws::subset(reference.nrows(), size, key, 2 * b + 1),
                );
                full(x.view(), y.view()).value
            })
            .collect();
        let mean = stats::mean(&values).ok_or("kernel: no subset")?;
        Ok(Estimate {
            n: generated.nrows(),
            ..mean
        })
    }

    fn influences(
        &self,
        generated: &Sample,
        reference: &Sample,
        _key: Key,
    ) -> Result<Option<Influences>, String> {
        if self.subsets.is_some() || self.subset_size.is_some() {
            return Ok(None);
        }
        let all = cubic(generated.all()?, reference.all()?);
        Ok(Some(all.influences(1.0, generated, reference)))
    }
}

fn full(x: ArrayView2<f64>, y: ArrayView2<f64>) -> Estimate {
    let all = cubic(x, y);
    Estimate {
        value: all.unbiased(),
        stderr: Some(all.stderr()),
        n: x.nrows(),
    }
}

/// The discrepancy of the kernel around a common centre p, k(x, y) − k(x, p) − k(p, y) + k(p, p), which is the same one.
///
/// Far from the origin k is the same large number for all pairs but for its last digits, and a spread taken from its
/// squares is rounding. With a = p·p/D + 1 and α, β, γ = (x − p)·p/D, (y − p)·p/D, (x − p)·(y − p)/D it is
/// 3αβ(2a + α + β) + γ(3w² + 3wγ + γ²), w = a + α + β, in which nothing large cancels.
fn cubic(x: ArrayView2<f64>, y: ArrayView2<f64>) -> Discrepancy {
    let d = x.ncols() as f64;
    let centre = (x.sum_axis(Axis(0)) + y.sum_axis(Axis(0))) / (x.nrows() + y.nrows()) as f64;
    let a = centre.dot(&centre) / d + 1.0;
    let (x, y) = (&x - &centre, &y - &centre);
    let kernel = |x: ArrayView2<f64>, y: ArrayView2<f64>| {
        let (alpha, beta) = (x.dot(&centre) / d, y.dot(&centre) / d);
        let mut k = linalg::matmul(x, y.t());
        for (mut row, alpha) in k.rows_mut().into_iter().zip(&alpha) {
            row.zip_mut_with(&beta, |v, beta| {
                let (gamma, sum) = (*v / d, alpha + beta);
                let w = a + sum;
                *v = 3.0 * alpha * beta * (a + w) + gamma * (3.0 * w * (w + gamma) + gamma * gamma);
            });
        }
        k
    };
    Discrepancy::of(x.view(), y.view(), &kernel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::{self, honest, normal};

    #[test]
    fn matches_the_definition_pair_by_pair() {
        let (x, y) = (normal(1, 7, 3, 0.0, 1.0), normal(2, 5, 3, 0.4, 1.0));
        let k = |a: ndarray::ArrayView1<f64>, b: ndarray::ArrayView1<f64>| {
            (a.dot(&b) / 3.0 + 1.0).powi(3)
        };
        let mut want = 0.0;
        for i in 0..7 {
            (0..7)
                .filter(|j| *j != i)
                .for_each(|j| want += k(x.row(i), x.row(j)) / 42.0);
            (0..5).for_each(|j| want -= 2.0 * k(x.row(i), y.row(j)) / 35.0);
        }
        for i in 0..5 {
            (0..5)
                .filter(|j| *j != i)
                .for_each(|j| want += k(y.row(i), y.row(j)) / 20.0);
        }
        assert!((full(x.view(), y.view()).value - want).abs() < 1e-12 * want.abs());
    }

    #[test]
    fn unbiased_and_with_an_honest_error_under_equal_and_unequal_laws() {
        for shift in [0.0, 0.5] {
            let results: Vec<Estimate> = (0..300)
                .map(|i| {
                    full(
                        normal(2 * i, 60, 4, 0.0, 1.0).view(),
                        normal(2 * i + 1, 90, 4, shift, 1.0).view(),
                    )
                })
                .collect();
            let values: Vec<f64> = results.iter().map(|e| e.value).collect();
            let mean = stats::mean(&values).expect("many");
            let error = mean.stderr.expect("many");
            if shift == 0.0 {
                assert!(mean.value.abs() < 4.0 * error, "{mean:?}");
            }
            let spread = error * (values.len() as f64).sqrt();
            let claimed = stats::rms(&results.iter().filter_map(|e| e.stderr).collect::<Vec<_>>())
                .expect("many");
            assert!(
                (claimed / spread - 1.0).abs() < 0.2,
                "shift {shift}: {claimed} {spread}"
            );
        }
    }

    /// Far from the origin as near it, as features without negative numbers are.
    #[test]
    fn the_error_is_the_spread_at_any_mean() {
        for mean in [0.0, 10.0, 1000.0] {
            honest(0.15, |i| {
                full(
                    normal(2 * i, 80, 4, mean, 1.0).view(),
                    normal(2 * i + 1, 100, 4, mean + 0.1, 1.0).view(),
                )
            });
        }
    }

    #[test]
    fn subsets_estimate_the_same_number() {
        let (x, y) = (normal(1, 200, 3, 0.0, 1.0), normal(2, 200, 3, 0.5, 1.0));
        let subsets = Kernel {
            subsets: Some(200),
            subset_size: Some(100),
        };
        let some = testing::compute(&subsets, &x, &y, 5).expect("fine");
        let all = full(x.view(), y.view());
        assert!((some.value - all.value).abs() < 4.0 * some.stderr.expect("many"));
    }
}
