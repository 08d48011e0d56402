//! The kernel distance (KID): the unbiased squared maximum mean discrepancy with the kernel k(x,
//! y) = (x·y/D + 1)³ (Bińkowski et al. 2018).

use ndarray::{ArrayView2, Axis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_set::FeatureSet;
use super::mmd::{self, MmdEstimate};
use super::{Influences, Statistic, permutation};
use crate::num::key::RngKey;
use crate::num::linalg;
use crate::num::stats::{self, Estimate};

/// The kernel distance (KID): the unbiased squared maximum mean discrepancy with the kernel
/// (x·y/D + 1)³. It is computed from all samples or, if `subsets` or `subset_size` is set, as the
/// mean over random subsets of both sets.
///
/// With all samples, the standard error is that of the U-statistic. It includes the second-order
/// term, so it is also valid for equal distributions. With subsets, the standard error is the
/// standard deviation over subsets divided by √subsets, which ignores that subsets overlap.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KernelDistance {
    /// The number of random subsets, at least 1. The default is 100 if `subset_size` is set;
    /// without both keys, all samples are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subsets: Option<usize>,
    /// The number of samples per subset and set, at least 2 and at most the size of the smaller
    /// set. The default is 1000, or the size of the smaller set, if `subsets` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subset_size: Option<usize>,
}

impl Statistic for KernelDistance {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        mmd::check_mmd_counts("kernel", generated, reference)?;
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

    fn is_biased(&self) -> bool {
        false
    }

    fn compute(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        key: RngKey,
    ) -> Result<Estimate, String> {
        let (generated, reference) = (generated.all_rows()?, reference.all_rows()?);
        if self.subsets.is_none() && self.subset_size.is_none() {
            return Ok(kernel_distance(generated, reference));
        }
        let subsets = self.subsets.unwrap_or(100) as u64;
        let size = self
            .subset_size
            .unwrap_or(1000)
            .min(generated.nrows())
            .min(reference.nrows());
        let values: Vec<f64> = (0..subsets)
            .map(|b| {
                let x = generated.select(
                    Axis(0),
                    &permutation::random_subset(generated.nrows(), size, key, 2 * b),
                );
                let y = reference.select(
                    Axis(0),
                    &permutation::random_subset(reference.nrows(), size, key, 2 * b + 1),
                );
                kernel_distance(x.view(), y.view()).value
            })
            .collect();
        let mean = stats::mean_estimate(&values).ok_or("kernel: no subset")?;
        Ok(Estimate {
            n: generated.nrows(),
            ..mean
        })
    }

    fn influences(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        _key: RngKey,
    ) -> Result<Option<Influences>, String> {
        if self.subsets.is_some() || self.subset_size.is_some() {
            return Ok(None);
        }
        let all = cubic_kernel_mmd(generated.all_rows()?, reference.all_rows()?);
        Ok(Some(all.influences(1.0, generated, reference)))
    }
}

/// The kernel distance of all rows, with the standard error of the U-statistic.
fn kernel_distance(x: ArrayView2<f64>, y: ArrayView2<f64>) -> Estimate {
    let all = cubic_kernel_mmd(x, y);
    Estimate {
        value: all.unbiased(),
        stderr: Some(all.stderr()),
        n: x.nrows(),
    }
}

/// The kernel means, computed with the centred kernel k(x, y) − k(x, p) − k(p, y) + k(p, p). Here p
/// is the mean of all rows. Centring does not change the discrepancy.
///
/// Far from the origin, k is nearly the same large number for all pairs, and a variance from its
/// squares would consist of rounding errors. Let a = p·p/D + 1, α = (x − p)·p/D, β = (y − p)·p/D,
/// γ = (x − p)·(y − p)/D and w = a + α + β. The centred kernel is then 3αβ(2a + α + β) + γ(3w² +
/// 3wγ + γ²), in which no large terms cancel.
fn cubic_kernel_mmd(x: ArrayView2<f64>, y: ArrayView2<f64>) -> MmdEstimate {
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
    MmdEstimate::from_kernel(x.view(), y.view(), &kernel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::{self, assert_stderr_calibrated, normal_samples};

    #[test]
    fn kernel_distance_matches_definition() {
        let (x, y) = (
            normal_samples(1, 7, 3, 0.0, 1.0),
            normal_samples(2, 5, 3, 0.4, 1.0),
        );
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
        assert!((kernel_distance(x.view(), y.view()).value - want).abs() < 1e-12 * want.abs());
    }

    #[test]
    fn kernel_distance_is_unbiased_with_calibrated_stderr() {
        for shift in [0.0, 0.5] {
            let results: Vec<Estimate> = (0..300)
                .map(|i| {
                    kernel_distance(
                        normal_samples(2 * i, 60, 4, 0.0, 1.0).view(),
                        normal_samples(2 * i + 1, 90, 4, shift, 1.0).view(),
                    )
                })
                .collect();
            let values: Vec<f64> = results.iter().map(|e| e.value).collect();
            let mean = stats::mean_estimate(&values).expect("many");
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

    /// The standard error is also right far from the origin, where features without negative
    /// numbers are.
    #[test]
    fn kernel_distance_stderr_matches_spread_at_any_mean() {
        for mean in [0.0, 10.0, 1000.0] {
            assert_stderr_calibrated(0.15, |i| {
                kernel_distance(
                    normal_samples(2 * i, 80, 4, mean, 1.0).view(),
                    normal_samples(2 * i + 1, 100, 4, mean + 0.1, 1.0).view(),
                )
            });
        }
    }

    #[test]
    fn kernel_distance_subsets_match_full_estimate() {
        let (x, y) = (
            normal_samples(1, 200, 3, 0.0, 1.0),
            normal_samples(2, 200, 3, 0.5, 1.0),
        );
        let subsets = KernelDistance {
            subsets: Some(200),
            subset_size: Some(100),
        };
        let some = testing::compute(&subsets, &x, &y, 5).expect("fine");
        let all = kernel_distance(x.view(), y.view());
        assert!((some.value - all.value).abs() < 4.0 * some.stderr.expect("many"));
    }
}
