//! The squared maximum mean discrepancy with a Gaussian kernel (Gretton et al. 2012).

use ndarray::{ArrayView2, Axis, concatenate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_set::FeatureSet;
use super::mmd::{self, MmdEstimate};
use super::pairwise_distance;
use super::{Influences, Statistic};
use crate::num::key::RngKey;
use crate::num::stats::Estimate;

/// The squared maximum mean discrepancy with the Gaussian kernel k(x, y) = exp(−|x − y|²/(2b²)), as
/// an unbiased estimate without a square root.
///
/// Without `bandwidth`, b is the median distance between two samples of both sets together (Gretton
/// et al. 2012, section 8). Values with different b are not comparable, so set `bandwidth` to
/// compare runs. The standard error is that of the U-statistic for a fixed b.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MmdRbf {
    /// The kernel's bandwidth b, above 0. The default is the median distance between two samples of
    /// both sets together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<f64>,
}

impl Statistic for MmdRbf {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        mmd::check_mmd_counts("mmd-rbf", generated, reference)?;
        match self.bandwidth {
            Some(b) if !(b.is_finite() && b > 0.0) => Err(format!(
                "mmd-rbf: bandwidth is {b}, expected a number above 0"
            )),
            _ => Ok(()),
        }
    }

    fn is_biased(&self) -> bool {
        false
    }

    fn compute(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        _key: RngKey,
    ) -> Result<Estimate, String> {
        let (generated, reference) = (generated.all_rows()?, reference.all_rows()?);
        let square = match self.bandwidth {
            Some(b) => b * b,
            None => {
                let both =
                    concatenate(Axis(0), &[generated, reference]).map_err(|e| e.to_string())?;
                pairwise_distance::median_squared_distance(both.view())
            }
        };
        if square == 0.0 {
            return Err(
                "mmd-rbf: more than half of all distances are 0, so their median cannot be the \
                 bandwidth; set `bandwidth` to a number above 0"
                    .to_owned(),
            );
        }
        let all = rbf_kernel_mmd(generated, reference, square);
        Ok(Estimate {
            value: all.unbiased(),
            stderr: Some(all.stderr()),
            n: generated.nrows(),
        })
    }

    /// The influences for a given bandwidth. Without one the result is `None`, because the median
    /// distance also depends on the samples.
    ///
    /// # Errors
    /// Fails if rows cannot be read.
    fn influences(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        _key: RngKey,
    ) -> Result<Option<Influences>, String> {
        let Some(bandwidth) = self.bandwidth else {
            return Ok(None);
        };
        let all = rbf_kernel_mmd(
            generated.all_rows()?,
            reference.all_rows()?,
            bandwidth * bandwidth,
        );
        Ok(Some(all.influences(1.0, generated, reference)))
    }
}

/// The kernel means with the squared bandwidth `square`.
fn rbf_kernel_mmd(x: ArrayView2<f64>, y: ArrayView2<f64>, square: f64) -> MmdEstimate {
    let bells = |x: ArrayView2<f64>, y: ArrayView2<f64>| {
        pairwise_distance::squared_distances(x, y).mapv_into(|d| (-0.5 * d / square).exp())
    };
    MmdEstimate::from_kernel(x, y, &bells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::{self, assert_stderr_calibrated, normal_samples};

    #[test]
    fn mmd_rbf_matches_closed_form_for_normals() {
        // For X − Y ~ N(δ, 2I) in d dimensions, E k(X, Y) = (b²/(b² + 2))^{d/2} exp(−|δ|²/(2(b² +
        // 2))).
        let (b, shift, d) = (1.5f64, 0.8f64, 3);
        let mean = |gap: f64| {
            (b * b / (b * b + 2.0)).powf(d as f64 / 2.0) * (-gap / (2.0 * (b * b + 2.0))).exp()
        };
        let want = 2.0 * mean(0.0) - 2.0 * mean(d as f64 * shift * shift);
        let (x, y) = (
            normal_samples(1, 3000, d, 0.0, 1.0),
            normal_samples(2, 2500, d, shift, 1.0),
        );
        let metric = MmdRbf { bandwidth: Some(b) };
        let got = testing::compute(&metric, &x, &y, 0).expect("fine");
        assert!(
            (got.value - want).abs() < 4.0 * got.stderr.expect("defined"),
            "{got:?} {want}"
        );
    }

    #[test]
    fn mmd_rbf_stderr_matches_spread() {
        for shift in [0.0, 0.5] {
            assert_stderr_calibrated(0.2, |i| {
                let (x, y) = (
                    normal_samples(2 * i, 60, 3, 0.0, 1.0),
                    normal_samples(2 * i + 1, 90, 3, shift, 1.0),
                );
                testing::compute(
                    &MmdRbf {
                        bandwidth: Some(1.0),
                    },
                    &x,
                    &y,
                    0,
                )
                .expect("fine")
            });
        }
    }

    #[test]
    fn mmd_rbf_defaults_to_median_bandwidth() {
        let (x, y) = (
            normal_samples(1, 30, 3, 0.0, 1.0),
            normal_samples(2, 20, 3, 0.5, 1.0),
        );
        let both = concatenate(Axis(0), &[x.view(), y.view()]).expect("one width");
        let median = pairwise_distance::median_squared_distance(both.view()).sqrt();
        let value = |bandwidth| {
            testing::compute(&MmdRbf { bandwidth }, &x, &y, 0)
                .expect("fine")
                .value
        };
        assert!((value(None) - value(Some(median))).abs() < 1e-12);
        let same = ndarray::Array2::<f64>::ones((5, 2));
        let error = testing::compute(&MmdRbf::default(), &same, &same, 0).expect_err("no distance");
        assert!(error.contains("bandwidth"));
    }
}
