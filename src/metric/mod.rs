//! Statistics of one set of feature vectors against another, each with its standard error.

use ndarray::ArrayView2;

use crate::num::key::Key;
use crate::num::stats::Estimate;
use crate::registry;

mod balls;
pub mod c2st;
mod discrepancy;
mod draws;
pub mod energy;
pub mod frechet;
pub mod kernel;
mod logistic;
pub mod mmd_rbf;
mod pairs;
pub mod prdc;
#[cfg(test)]
mod references;
pub mod sliced_wasserstein;
mod transport;

registry! {
    /// The sample statistics, as `metrics:` and `--metric` name them.
    pub enum Metric: Statistic {
        "frechet" => Frechet(frechet::Frechet),
        "kernel" => Kernel(kernel::Kernel),
        "precision" => Precision(prdc::Precision),
        "recall" => Recall(prdc::Recall),
        "density" => Density(prdc::Density),
        "coverage" => Coverage(prdc::Coverage),
        "energy" => Energy(energy::Energy),
        "mmd-rbf" => MmdRbf(mmd_rbf::MmdRbf),
        "sliced-wasserstein" => SlicedWasserstein(sliced_wasserstein::SlicedWasserstein),
        "c2st" => C2st(c2st::C2st),
    }
}

/// How one law differs from another, estimated from samples of both.
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
pub fn measure(
    metric: &Metric,
    generated: ArrayView2<f64>,
    reference: ArrayView2<f64>,
    key: Key,
) -> Result<Estimate, String> {
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
    use crate::num::stats::{self, Estimate};

    /// n draws of N(mean, std²·I).
    pub fn normal(seed: u64, n: usize, d: usize, mean: f64, std: f64) -> Array2<f64> {
        let draws = Key { seed }.normal(Purpose::Check, 77, 0, n * d);
        draws.into_shape_with_order((n, d)).expect("n·d draws") * std + mean
    }

    /// The claimed standard error over `n` repetitions (its root mean square), divided by their spread.
    pub fn repeated(n: u64, estimate: impl Fn(u64) -> Estimate) -> f64 {
        let results: Vec<Estimate> = (0..n).map(estimate).collect();
        let values: Vec<f64> = results.iter().map(|e| e.value).collect();
        let spread = stats::mean(&values).and_then(|e| e.stderr).expect("many") * (n as f64).sqrt();
        stats::rms(&results.iter().filter_map(|e| e.stderr).collect::<Vec<_>>()).expect("errors") / spread
    }

    /// Holds a claimed standard error to within `tolerance` of the spread over 300 repetitions.
    pub fn honest(tolerance: f64, estimate: impl Fn(u64) -> Estimate) {
        let ratio = repeated(300, estimate);
        assert!((ratio - 1.0).abs() < tolerance, "claimed / spread = {ratio}");
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
            let error = null.stderr.expect("an error");
            // Shares fall with the shift, distances rise.
            assert!((shifted.value - null.value).abs() > 5.0 * error, "{} {null:?} {shifted:?}", metric.name());
        }
    }

    #[test]
    fn unequal_widths_are_refused_with_both() {
        let metric = Metric::defaults().remove(0);
        let error =
            measure(&metric, normal(1, 9, 3, 0.0, 1.0).view(), normal(1, 9, 4, 0.0, 1.0).view(), Key { seed: 0 });
        let text = error.expect_err("widths differ");
        assert!(text.contains('3') && text.contains('4'));
    }
}
