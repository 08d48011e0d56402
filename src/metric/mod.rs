//! Statistics of one set of feature vectors against another, each with its standard error.

use ndarray::ArrayView2;

use crate::num::key::Key;
use crate::num::stats::Estimate;
use crate::registry;

pub mod frechet;
pub mod kernel;

registry! {
    /// The sample statistics, as `metrics:` and `--metric` name them.
    pub enum Metric: Statistic {
        "frechet" => Frechet(frechet::Frechet),
        "kernel" => Kernel(kernel::Kernel),
    }
}

/// A distance between two laws, estimated from samples of both.
pub trait Statistic: Sync {
    /// Refuses parameters or sample counts that make no sense.
    ///
    /// # Errors
    /// A sentence with the key and what would be right.
    fn check(&self, generated: usize, reference: usize) -> Result<(), String>;

    /// The statistic in f64, and its standard error over both sets of samples.
    ///
    /// # Errors
    /// A sentence that says why it cannot be computed.
    fn compute(&self, generated: ArrayView2<f64>, reference: ArrayView2<f64>, key: Key) -> Result<Estimate, String>;
}

/// Computes one statistic after checking that the two sets can be compared.
///
/// # Errors
/// A sentence with both widths, or what the statistic says.
pub fn measure(metric: &Metric, generated: ArrayView2<f64>, reference: ArrayView2<f64>, key: Key) -> Result<Estimate, String> {
    if generated.ncols() != reference.ncols() {
        return Err(format!(
            "generated samples have {} numbers each and reference samples {}: they cannot be compared",
            generated.ncols(),
            reference.ncols()
        ));
    }
    if let Some(which) = [("generated", &generated), ("reference", &reference)]
        .iter()
        .find(|(_, a)| a.iter().any(|v| !v.is_finite()))
        .map(|(name, _)| *name)
    {
        return Err(format!("the {which} samples hold numbers that are not finite"));
    }
    metric.check(generated.nrows(), reference.nrows())?;
    let estimate = metric.compute(generated, reference, key)?;
    if !estimate.value.is_finite() {
        return Err("the result is not finite".to_owned());
    }
    Ok(estimate)
}

#[cfg(test)]
pub mod testing {
    use ndarray::Array2;

    use crate::num::key::{Key, Purpose};

    /// n draws of N(mean, std²·I).
    pub fn normal(seed: u64, n: usize, d: usize, mean: f64, std: f64) -> Array2<f64> {
        let draws = Key { seed }.normal(Purpose::Check, 77, 0, n * d);
        draws.into_shape_with_order((n, d)).expect("n·d draws") * std + mean
    }
}

#[cfg(test)]
mod tests {
    use super::testing::normal;
    use super::*;

    #[test]
    fn every_statistic_ignores_the_order_of_samples() {
        for metric in Metric::defaults() {
            let (a, b) = (normal(1, 40, 3, 0.0, 1.0), normal(2, 50, 3, 0.3, 1.2));
            let reversed = a.slice(ndarray::s![..;-1, ..]).to_owned();
            let key = Key { seed: 0 };
            let one = measure(&metric, a.view(), b.view(), key).expect("fine");
            let two = measure(&metric, reversed.view(), b.view(), key).expect("fine");
            assert!((one.value - two.value).abs() < 1e-10 * one.value.abs().max(1.0), "{}", metric.name());
        }
    }

    #[test]
    fn every_statistic_sees_a_shift() {
        for metric in Metric::defaults() {
            let (a, b, c) = (normal(1, 300, 3, 0.0, 1.0), normal(2, 300, 3, 0.0, 1.0), normal(3, 300, 3, 2.0, 1.0));
            let key = Key { seed: 0 };
            let null = measure(&metric, a.view(), b.view(), key).expect("fine");
            let shifted = measure(&metric, a.view(), c.view(), key).expect("fine");
            assert!(shifted.value > null.value + 5.0 * shifted.stderr.expect("an error"), "{}", metric.name());
        }
    }

    #[test]
    fn unequal_widths_are_refused_with_both() {
        let metric = Metric::defaults().remove(0);
        let error = measure(&metric, normal(1, 9, 3, 0.0, 1.0).view(), normal(1, 9, 4, 0.0, 1.0).view(), Key { seed: 0 });
        let text = error.expect_err("widths differ");
        assert!(text.contains('3') && text.contains('4'));
    }
}
