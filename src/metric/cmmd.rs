//! CMMD: the squared maximum mean discrepancy of CLIP embeddings (Jayasumana et al. 2024).

use ndarray::{Array2, ArrayView2};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_set::FeatureSet;
use super::mmd::{self, MmdEstimate};
use super::pairwise_distance;
use super::{Influences, Statistic, max_keeping_nan};
use crate::num::key::RngKey;
use crate::num::stats::Estimate;

/// 1000 · MMD² with exp(−|x − y|²/(2·bandwidth²)) of rows scaled to length 1.
///
/// As its authors define it, means run over all pairs, a sample with itself included: the value is never negative,
/// and for equal laws it is not 0 but about 1000 (1 − E k)(1/m + 1/n). It is CMMD only of CLIP's embeddings. The
/// standard error is the U-statistic's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cmmd {
    pub bandwidth: f64,
}

impl Default for Cmmd {
    fn default() -> Self {
        Cmmd { bandwidth: 10.0 }
    }
}

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
        // k − 1: the mean of numbers near 1 would lose what tells the two sets apart.
        let bells = |x: ArrayView2<f64>, y: ArrayView2<f64>| {
            pairwise_distance::squared_distances(x, y).mapv_into(|d| (rate * d).exp_m1())
        };
        Ok(MmdEstimate::from_kernel(x.view(), y.view(), &bells))
    }
}

/// Rows scaled to length 1.
///
/// # Errors
/// For a row of zeros.
pub fn normalize_rows(name: &str, rows: ArrayView2<f64>) -> Result<Array2<f64>, String> {
    let mut out = rows.to_owned();
    for mut row in out.rows_mut() {
        let length = row.dot(&row).sqrt();
        if length == 0.0 {
            return Err(format!(
                "{name}: a sample is all zeros and has no direction"
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
        // Lengths do not matter: all of x points one way, all of y at a right angle to it.
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
