//! CMMD, the squared maximum mean discrepancy of CLIP embeddings (Jayasumana et al. 2024).

use ndarray::{Array2, ArrayView2};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_set::FeatureSet;
use super::mmd::{self, MmdEstimate};
use super::pairwise_distance;
use super::{Influences, Statistic, max_keeping_nan};
use crate::num::key::RngKey;
use crate::num::stats::Estimate;

/// CMMD: 1000 times the squared maximum mean discrepancy of rows scaled to length 1, with the
/// kernel k(x, y) = exp(−|x − y|²/(2·bandwidth²)). The value is comparable with published CMMD
/// values only for CLIP embeddings.
///
/// As the authors define it, means include the pairs of a sample with itself. The value is
/// therefore never negative, and for equal distributions it is about 1000 (1 − E k)(1/m + 1/n)
/// instead of 0. The standard error is that of the U-statistic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cmmd {
    /// The kernel's bandwidth, above 0. The default is 10.
    pub bandwidth: f64,
}

impl Default for Cmmd {
    fn default() -> Self {
        Cmmd { bandwidth: 10.0 }
    }
}

/// The factor by which the authors multiply MMD².
const CMMD_SCALE: f64 = 1000.0;

impl Statistic for Cmmd {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        mmd::check_mmd_counts("cmmd", generated, reference)?;
        let fine = self.bandwidth.is_finite() && self.bandwidth > 0.0;
        fine.then_some(()).ok_or_else(|| {
            format!(
                "cmmd: bandwidth is {}, expected a number above 0",
                self.bandwidth
            )
        })
    }

    fn is_biased(&self) -> bool {
        true
    }

    fn compute(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        _key: RngKey,
    ) -> Result<Estimate, String> {
        let all = self.gaussian_mmd(generated, reference)?;
        // The kernel here is k − 1, which is 0 for a sample with itself: including those pairs only
        // changes the number of terms.
        let with_itself = |mean: f64, n: usize| mean * (n - 1) as f64 / n as f64;
        let [a, b] = [
            with_itself(all.within[0], generated.len()),
            with_itself(all.within[1], reference.len()),
        ];
        let value = max_keeping_nan(CMMD_SCALE * (a + b - 2.0 * all.between), 0.0);
        Ok(Estimate {
            value,
            stderr: Some(CMMD_SCALE * all.stderr()),
            n: generated.len(),
        })
    }

    fn influences(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        _key: RngKey,
    ) -> Result<Option<Influences>, String> {
        Ok(Some(
            self.gaussian_mmd(generated, reference)?
                .influences(CMMD_SCALE, generated, reference),
        ))
    }
}

impl Cmmd {
    /// The three kernel means, and their errors, of k − 1 for the normalized rows.
    fn gaussian_mmd(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
    ) -> Result<MmdEstimate, String> {
        let (x, y) = (
            normalize_rows("cmmd", generated.all_rows()?)?,
            normalize_rows("cmmd", reference.all_rows()?)?,
        );
        let rate = -0.5 / (self.bandwidth * self.bandwidth);
        // The kernel is replaced by k − 1, which leaves MMD² unchanged: k is close to 1, and its
        // means would lose the digits in which the two sets differ.
        let bells = |x: ArrayView2<f64>, y: ArrayView2<f64>| {
            pairwise_distance::squared_distances(x, y).mapv_into(|d| (rate * d).exp_m1())
        };
        Ok(MmdEstimate::from_kernel(x.view(), y.view(), &bells))
    }
}

/// Scales every row to Euclidean length 1. `name` is the statistic, for the error message.
///
/// # Errors
/// Fails if a row contains only zeros.
pub fn normalize_rows(name: &str, rows: ArrayView2<f64>) -> Result<Array2<f64>, String> {
    let mut out = rows.to_owned();
    for mut row in out.rows_mut() {
        let length = row.dot(&row).sqrt();
        if length == 0.0 {
            return Err(format!(
                "{name}: a sample consists of zeros only, so it has no direction"
            ));
        }
        row /= length;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::{self, assert_stderr_calibrated, normal_samples};

    #[test]
    fn cmmd_matches_closed_form_for_orthogonal_rows() {
        // All rows of x have the same direction, all rows of y are orthogonal to it, and lengths do
        // not matter.
        let (x, y) = (
            ndarray::array![[1.0, 0.0], [5.0, 0.0]],
            ndarray::array![[0.0, 0.1], [0.0, 2.0], [0.0, 3.0]],
        );
        let got = testing::compute(&Cmmd::default(), &x, &y, 0)
            .expect("fine")
            .value;
        let want = 1000.0 * (2.0 - 2.0 * (-2.0f64 / 200.0).exp());
        assert!((got - want).abs() < 1e-10 * want, "{got} {want}");
        assert!(
            testing::compute(&Cmmd::default(), &(&x * 0.0), &y, 0)
                .is_err_and(|e| e.contains("zeros"))
        );
    }

    #[test]
    fn cmmd_stderr_matches_spread() {
        for shift in [0.0, 0.4] {
            assert_stderr_calibrated(0.2, |i| {
                let (x, y) = (
                    normal_samples(2 * i, 80, 5, 0.3, 1.0),
                    normal_samples(2 * i + 1, 60, 5, 0.3 + shift, 1.0),
                );
                testing::compute(&Cmmd::default(), &x, &y, 0).expect("fine")
            });
        }
    }
}
