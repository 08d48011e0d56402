//! The energy distance 2E|X − Y| − E|X − X'| − E|Y − Y'| (Székely & Rizzo 2013).

use ndarray::ArrayView2;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_set::FeatureSet;
use super::mmd::{self, MmdEstimate};
use super::pairwise_distance;
use super::{Influences, Statistic, max_keeping_nan};
use crate::num::key::RngKey;
use crate::num::stats::Estimate;

/// The energy distance 2E|X − Y| − E|X − X'| − E|Y − Y'|, without a square root. There are no
/// parameters.
///
/// Means include the pairs of a sample with itself: the value is the distance of the two empirical
/// distributions. It is therefore never negative, and for equal distributions it is about E|X − X'|
/// (1/m + 1/n) instead of 0. The energy distance is the squared maximum mean discrepancy with the
/// kernel −|x − y|, and its standard error is computed as such.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Energy {}

impl Statistic for Energy {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        mmd::check_mmd_counts("energy", generated, reference)
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
        let all = distance_kernel_mmd(generated, reference)?;
        // A sample has distance 0 to itself: including those pairs only changes the number of
        // terms.
        let with_itself = |mean: f64, n: usize| mean * (n - 1) as f64 / n as f64;
        let [a, b] = [
            with_itself(all.within[0], generated.len()),
            with_itself(all.within[1], reference.len()),
        ];
        let value = max_keeping_nan(2.0 * all.between - a - b, 0.0);
        Ok(Estimate {
            value,
            stderr: Some(all.stderr()),
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
            distance_kernel_mmd(generated, reference)?.influences(-1.0, generated, reference),
        ))
    }
}

/// The kernel means of |x − y|, over pairs of distinct samples. Their squared discrepancy is minus
/// the unbiased energy distance.
fn distance_kernel_mmd(
    generated: &FeatureSet,
    reference: &FeatureSet,
) -> Result<MmdEstimate, String> {
    let lengths = |x: ArrayView2<f64>, y: ArrayView2<f64>| {
        pairwise_distance::squared_distances(x, y).mapv_into(f64::sqrt)
    };
    Ok(MmdEstimate::from_kernel(
        generated.all_rows()?,
        reference.all_rows()?,
        &lengths,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::{self, assert_stderr_calibrated, normal_samples};

    #[test]
    fn energy_distance_of_two_points_each() {
        let (x, y) = (ndarray::array![[0.0], [1.0]], ndarray::array![[3.0], [5.0]]);
        // E|X − Y| = (3 + 5 + 2 + 4)/4, E|X − X'| = 1/2, E|Y − Y'| = 1.
        let got = testing::compute(&Energy {}, &x, &y, 0).expect("fine");
        assert!((got.value - (7.0 - 0.5 - 1.0)).abs() < 1e-15);
        let same = testing::compute(&Energy {}, &x, &x, 0).expect("fine");
        assert_eq!(same.value, 0.0);
    }

    #[test]
    fn energy_stderr_matches_spread() {
        assert_stderr_calibrated(0.2, |i| {
            let (x, y) = (
                normal_samples(2 * i, 80, 3, 0.0, 1.0),
                normal_samples(2 * i + 1, 60, 3, 0.7, 1.0),
            );
            testing::compute(&Energy {}, &x, &y, 0).expect("fine")
        });
    }
}
