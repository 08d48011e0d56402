//! Statistics of one set of feature vectors against another, each with its standard error.

use self::sample::Sample;
use crate::num::key::Key;
use crate::num::stats::Estimate;
use crate::registry;

mod balls;
pub mod c2st;
pub mod cmmd;
mod discrepancy;
mod draws;
pub mod energy;
pub mod frechet;
pub mod frechet_infinity;
pub mod inception_score;
pub mod kernel;
mod logistic;
pub mod mmd_rbf;
pub mod neighbours;
pub mod paired;
mod pairs;
pub mod prdc;
#[cfg(test)]
mod references;
pub mod sample;
pub mod sliced_wasserstein;
mod transport;
pub mod vendi;

registry! {
    /// The sample statistics, as `metrics:` and `--metric` name them.
    pub enum Metric: Statistic {
        "frechet" => Frechet(frechet::Frechet),
        "frechet-infinity" => FrechetInfinity(frechet_infinity::FrechetInfinity),
        "kernel" => Kernel(kernel::Kernel),
        "precision" => Precision(prdc::Precision),
        "recall" => Recall(prdc::Recall),
        "density" => Density(prdc::Density),
        "coverage" => Coverage(prdc::Coverage),
        "energy" => Energy(energy::Energy),
        "mmd-rbf" => MmdRbf(mmd_rbf::MmdRbf),
        "sliced-wasserstein" => SlicedWasserstein(sliced_wasserstein::SlicedWasserstein),
        "c2st" => C2st(c2st::C2st),
        "cmmd" => Cmmd(cmmd::Cmmd),
        "inception-score" => InceptionScore(inception_score::InceptionScore),
        "vendi" => Vendi(vendi::Vendi),
        "authenticity" => Authenticity(neighbours::Authenticity),
        "memorization" => Memorization(neighbours::Memorization),
    }
}

/// How one law differs from another, estimated from samples of both.
pub trait Statistic: Sync {
    /// Refuses parameters or sample counts that make no sense.
    ///
    /// # Errors
    /// A sentence with the key and what would be right.
    fn check(&self, generated: usize, reference: usize) -> Result<(), String>;

    /// Whether it is one of classes, which only an extractor's logits give.
    fn needs_logits(&self) -> bool {
        false
    }

    /// The statistic in f64, and its standard error over both sets of samples.
    ///
    /// # Errors
    /// A sentence that says why it cannot be computed.
    fn compute(&self, generated: &Sample, reference: &Sample, key: Key) -> Result<Estimate, String>;

    /// The first-order influence of every sample of both sides, in the order in which they came: leaving sample i of n
    /// out takes about its influence/(n − 1) from the statistic. `None` where no formula is known.
    ///
    /// # Errors
    /// As [`Statistic::compute`].
    fn influences(&self, _generated: &Sample, _reference: &Sample, _key: Key) -> Result<Option<Influences>, String> {
        Ok(None)
    }
}

/// What the samples of the generated and of the reference side do to a statistic; each side's sum to 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Influences {
    pub generated: Vec<f64>,
    pub reference: Vec<f64>,
}

/// Computes one statistic after checking that the two sets can be compared.
///
/// # Errors
/// A sentence with both widths, or what the statistic says.
pub fn measure(metric: &Metric, generated: &Sample, reference: &Sample, key: Key) -> Result<Estimate, String> {
    if generated.width() != reference.width() {
        return Err(format!(
            "generated samples have {} numbers each and reference samples {}: they cannot be compared",
            generated.width(),
            reference.width()
        ));
    }
    metric.check(generated.len(), reference.len())?;
    let estimate = metric.compute(generated, reference, key)?;
    if !estimate.value.is_finite() {
        return Err("the result is not finite".to_owned());
    }
    Ok(estimate)
}

#[cfg(test)]
pub mod testing {
    use ndarray::Array2;

    use super::sample::Sample;
    use super::{Metric, Statistic, measure};
    use crate::num::key::{Key, Purpose};
    use crate::num::stats::{self, Estimate};

    /// n draws of N(mean, std²·I).
    pub fn normal(seed: u64, n: usize, d: usize, mean: f64, std: f64) -> Array2<f64> {
        let draws = Key { seed }.normal(Purpose::Check, 77, 0, n * d);
        draws.into_shape_with_order((n, d)).expect("n·d draws") * std + mean
    }

    /// One statistic of two arrays.
    pub fn compute(of: &dyn Statistic, x: &Array2<f64>, y: &Array2<f64>, seed: u64) -> Result<Estimate, String> {
        of.compute(&Sample::new(x)?, &Sample::new(y)?, Key { seed })
    }

    /// One metric of two arrays, whose numbers are taken for logits too.
    pub fn measured(metric: &Metric, x: &Array2<f64>, y: &Array2<f64>) -> Result<Estimate, String> {
        let (a, b) = (Sample::new(x)?.with_logits(Some(x.view())), Sample::new(y)?.with_logits(Some(y.view())));
        measure(metric, &a, &b, Key { seed: 0 })
    }

    /// The claimed standard error over `n` repetitions (its root mean square), divided by their spread.
    pub fn repeated(n: u64, estimate: impl Fn(u64) -> Estimate) -> f64 {
        let results: Vec<Estimate> = (0..n).map(estimate).collect();
        let values: Vec<f64> = results.iter().map(|e| e.value).collect();
        let mean = stats::mean(&values).expect("many");
        let spread = mean.stderr.expect("many") * (n as f64).sqrt();
        let ratio = stats::rms(&results.iter().filter_map(|e| e.stderr).collect::<Vec<_>>()).expect("errors") / spread;
        let held = |e: &&Estimate| (e.value - mean.value).abs() < stats::Z95 * e.stderr.unwrap_or(0.0);
        let held = results.iter().filter(held).count();
        println!("claimed / spread {ratio:.3}; 95 % intervals hold the mean in {held} of {n}");
        ratio
    }

    /// Holds a claimed standard error to within `tolerance` of the spread over 300 repetitions.
    pub fn honest(tolerance: f64, estimate: impl Fn(u64) -> Estimate) {
        let ratio = repeated(300, estimate);
        assert!((ratio - 1.0).abs() < tolerance, "claimed / spread = {ratio}");
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Axis, s};

    use super::testing::{measured, normal};
    use super::*;

    #[test]
    fn neither_the_order_of_samples_nor_threads_change_a_bit() {
        // More rows than any block, a constant column, and a sample that is there twice.
        let mut a = normal(1, 300, 3, 0.0, 1.0);
        let b = normal(2, 1100, 3, 0.3, 1.2);
        a.column_mut(1).fill(0.1);
        let twice = a.row(7).to_owned();
        a.row_mut(70).assign(&twice);
        let shuffled = a.select(Axis(0), &draws::order(300, Key { seed: 9 }, 0));
        let backwards = b.slice(s![..;-1, ..]).to_owned();
        for metric in Metric::defaults() {
            let on = |threads: usize, x, y| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
                let got = pool.install(|| measured(&metric, x, y)).expect("defined");
                (got.value.to_bits(), got.stderr.map(f64::to_bits))
            };
            let one = on(1, &a, &b);
            assert_eq!(one, on(3, &shuffled, &b), "{}", metric.name());
            assert_eq!(one, on(2, &a, &backwards), "{}", metric.name());
        }
    }

    /// Of those statistics that know their influences, leaving one sample out says the same, on both sides.
    #[test]
    fn influences_are_what_leaving_one_out_takes_away() {
        let (x, y) = (normal(1, 120, 3, 0.4, 1.0), normal(2, 150, 3, 0.0, 1.3));
        let bounded = [Metric::MmdRbf(mmd_rbf::MmdRbf { bandwidth: Some(1.5) })];
        let mut known = Vec::new();
        for metric in Metric::defaults().into_iter().chain(bounded) {
            let (a, b) = (Sample::new(&x).expect("finite"), Sample::new(&y).expect("finite"));
            let Ok(Some(found)) = metric.influences(&a, &b, Key { seed: 0 }) else { continue };
            known.push(metric.name());
            let all = measured(&metric, &x, &y).expect("fine").value;
            let drop = |from: &ndarray::Array2<f64>, i: usize| {
                from.select(Axis(0), &(0..from.nrows()).filter(|j| *j != i).collect::<Vec<_>>())
            };
            for (side, influences, n) in [(0, &found.generated, 120), (1, &found.reference, 150)] {
                assert!(influences.len() == n && influences.iter().sum::<f64>().abs() < 1e-8 * all.abs() * n as f64);
                let size = crate::num::stats::rms(influences).expect("many");
                for i in (0..n).step_by(11) {
                    let less = match side {
                        0 => measured(&metric, &drop(&x, i), &y),
                        _ => measured(&metric, &x, &drop(&y, i)),
                    };
                    let taken = (all - less.expect("fine").value) * (n as f64 - 1.0);
                    // What is left out is of second order, 1/n.
                    assert!(
                        (taken - influences[i]).abs() < 0.1 * size.max(influences[i].abs()),
                        "{metric:?} {side} {i}: {taken} {}",
                        influences[i]
                    );
                }
            }
        }
        assert_eq!(known, ["frechet", "kernel", "energy", "cmmd", "mmd-rbf"]);
    }

    #[test]
    fn every_statistic_sees_a_shift_or_copies() {
        let (fine, reference) = (normal(1, 300, 3, 0.0, 1.0), normal(2, 300, 3, 0.0, 1.0));
        let mut shifted = normal(3, 300, 3, 0.0, 1.0);
        shifted.column_mut(0).mapv_inplace(|v| v + 3.0);
        let copies = &reference + 1e-3;
        for metric in Metric::defaults() {
            let null = measured(&metric, &fine, &reference).expect("fine");
            let error = null.stderr.expect("an error");
            // Shares fall with the shift, distances rise; what looks for copies sees those.
            let seen = [&shifted, &copies].map(|x| measured(&metric, x, &reference).expect("fine"));
            let far = |e: &Estimate| (e.value - null.value).abs() > 5.0 * error;
            assert!(seen.iter().any(far), "{} {null:?} {seen:?}", metric.name());
        }
    }

    #[test]
    fn unequal_widths_are_refused_with_both() {
        let metric = Metric::defaults().remove(0);
        let error = measured(&metric, &normal(1, 9, 3, 0.0, 1.0), &normal(1, 9, 4, 0.0, 1.0));
        let text = error.expect_err("widths differ");
        assert!(text.contains('3') && text.contains('4'));
    }
}
