//! The energy distance 2E|X − Y| − E|X − X'| − E|Y − Y'| (Székely & Rizzo 2013).

use ndarray::ArrayView2;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::discrepancy::{self, Discrepancy};
use super::pairs;
use super::sample::Sample;
use super::{Influences, Statistic, at_least};
use crate::num::key::Key;
use crate::num::stats::Estimate;

/// No parameters; no root is taken.
///
/// Means run over all pairs, a sample with itself included, as for two empirical laws: the value is never
/// negative, and for equal laws it is not 0 but about E|X − X'| (1/m + 1/n). It is the squared
/// discrepancy with kernel −|x − y|, whose standard error it has.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Energy {}

impl Statistic for Energy {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        discrepancy::at_least_two("energy", generated, reference)
    }

    fn biased(&self) -> bool {
        true
    }

    fn compute(
        &self,
        generated: &Sample,
        reference: &Sample,
        _key: Key,
    ) -> Result<Estimate, String> {
        let all = lengths(generated, reference)?;
        let with_itself = |mean: f64, n: usize| mean * (n - 1) as f64 / n as f64;
        let [a, b] = [
            with_itself(all.within[0], generated.len()),
            with_itself(all.within[1], reference.len()),
        ];
        let value = at_least(2.0 * all.between - a - b, 0.0);
        Ok(Estimate {
            value,
            stderr: Some(all.stderr()),
            n: generated.len(),
        })
    }

    fn influences(
        &self,
        generated: &Sample,
        reference: &Sample,
        _key: Key,
    ) -> Result<Option<Influences>, String> {
        Ok(Some(
            lengths(generated, reference)?.influences(-1.0, generated, reference),
        ))
    }
}

/// The discrepancy of kernel |x − y|: minus the energy distance, but for a sample with itself.
fn lengths(generated: &Sample, reference: &Sample) -> Result<Discrepancy, String> {
    let lengths =
        |x: ArrayView2<f64>, y: ArrayView2<f64>| pairs::squared(x, y).mapv_into(f64::sqrt);
    Ok(Discrepancy::of(
        generated.all()?,
        reference.all()?,
        &lengths,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::{self, honest, normal};

    #[test]
    fn two_points_against_two() {
        let (x, y) = (ndarray::array![[0.0], [1.0]], ndarray::array![[3.0], [5.0]]);
        // E|X − Y| = (3 + 5 + 2 + 4)/4, E|X − X'| = 1/2, E|Y − Y'| = 1.
        let got = testing::compute(&Energy {}, &x, &y, 0).expect("fine");
        assert!((got.value - (7.0 - 0.5 - 1.0)).abs() < 1e-15);
        let same = testing::compute(&Energy {}, &x, &x, 0).expect("fine");
        assert_eq!(same.value, 0.0);
    }

    #[test]
    fn the_standard_error_is_the_spread_over_repeated_draws() {
        honest(0.2, |i| {
            let (x, y) = (
                normal(2 * i, 80, 3, 0.0, 1.0),
                normal(2 * i + 1, 60, 3, 0.7, 1.0),
            );
            testing::compute(&Energy {}, &x, &y, 0).expect("fine")
        });
    }
}
