//! Sample statistics: how generated samples compare with reference samples, each statistic with its
//! standard error.
//!
//! A statistic only sees rows of numbers, one row per sample. The rows are the features that an
//! extractor computed, or the samples themselves.
//!
//! # Example
//!
//! The Fréchet distance of samples of N(0, I) and of N(1, 4·I) in the plane, which is
//! |μ₁ − μ₂|² + Σ (σ₁ − σ₂)² = 2 + 2.
//!
//! ```
//! use flowgauge::metric::{Metric, feature_set::FeatureSet, measure};
//! use flowgauge::num::key::{Purpose, RngKey};
//!
//! let draw = |seed, mean: f64, std: f64| {
//!     let normal = RngKey { seed }.normal(Purpose::Noise, 0, 0, 4000);
//!     normal.into_shape_with_order((2000, 2)).expect("2000 × 2 numbers") * std + mean
//! };
//! let (x, y) = (draw(1, 0.0, 1.0), draw(2, 1.0, 2.0));
//! let (generated, reference) = (FeatureSet::new(&x)?, FeatureSet::new(&y)?);
//! let frechet = Metric::from_name("frechet").expect("a metric");
//! let distance = measure(&frechet, &generated, &reference, RngKey { seed: 3 })?;
//! assert!((distance.value - 4.0).abs() < 4.0 * distance.stderr.unwrap());
//! # Ok::<(), String>(())
//! ```

use self::feature_set::FeatureSet;
use self::random_groups::{PartReplicates, RandomDivisions};
pub use self::sample_sets::{SampleRole, SampleSets};
use crate::num::key::RngKey;
use crate::num::stats::Estimate;
use crate::registry;

pub mod c2st;
pub mod cmmd;
pub mod copy_detection;
pub mod energy;
pub mod feature_set;
pub mod fld;
pub mod frechet;
pub mod frechet_infinity;
pub mod frechet_min;
pub mod inception_score;
pub mod kernel;
mod knn_balls;
pub mod measured;
mod mixture;
mod mmd;
pub mod mmd_rbf;
mod nearest_neighbours;
pub mod notes;
mod optimal_transport;
pub mod pair_distances;
pub mod paired;
mod pairwise_distance;
mod permutation;
pub mod prdc;
pub mod random_groups;
#[cfg(test)]
mod reference_packages;
mod sample_sets;
pub mod sliced_wasserstein;
#[cfg(test)]
mod stderr_calibration;
pub mod vendi;

registry! {
    /// The sample statistics. Users name them under `metrics:` in a config and after `--metric`.
    pub enum Metric: Statistic {
        "frechet" | "fid" | "frechet-distance" => Frechet(frechet::Frechet) {
            what: "The distance of two normal distributions fitted to features; with Inception features the FID.",
            when: "To compare with published FID, at the same number of samples.",
            source: "Heusel et al. 2017, arXiv:1706.08500",
        },
        "frechet-infinity" | "fid-infinity" => FrechetInfinity(frechet_infinity::FrechetInfinity) {
            what: "The Fréchet distance extrapolated to infinitely many generated samples.",
            when: "Where the numbers of samples differ.",
            source: "Chong & Forsyth 2020, arXiv:1911.07023",
        },
        "frechet-min" | "fid-min" | "min-of" => FrechetMin(frechet_min::FrechetMin) {
            what: "The smallest Fréchet distance of several disjoint parts of the samples.",
            when: "To compare with values that were published as the least of several.",
            source: "Karras et al. 2022, arXiv:2206.00364",
        },
        "kernel" | "kid" | "kernel-distance" => Kernel(kernel::KernelDistance) {
            what: "The squared maximum mean discrepancy with a cubic kernel; with Inception features the KID.",
            when: "Few samples: its mean does not depend on their number.",
            source: "Bińkowski et al. 2018, arXiv:1801.01401",
        },
        "precision" => Precision(prdc::Precision) {
            what: "The share of generated samples within the neighbourhoods of reference samples.",
            when: "To tell quality from diversity.",
            source: "Kynkäänniemi et al. 2019, arXiv:1904.06991",
        },
        "recall" => Recall(prdc::Recall) {
            what: "The share of reference samples within the neighbourhoods of generated samples.",
            when: "To tell diversity from quality.",
            source: "Kynkäänniemi et al. 2019, arXiv:1904.06991",
        },
        "density" => Density(prdc::Density) {
            what: "Precision with counted neighbourhoods, which outliers disturb less.",
            when: "In the place of `precision` where the reference has outliers.",
            source: "Naeem et al. 2020, arXiv:2002.09797",
        },
        "coverage" => Coverage(prdc::Coverage) {
            what: "The share of reference samples whose neighbourhood holds a generated sample.",
            when: "In the place of `recall` where the generated samples have outliers.",
            source: "Naeem et al. 2020, arXiv:2002.09797",
        },
        "energy" | "energy-distance" => Energy(energy::Energy) {
            what: "The energy distance 2E|X − Y| − E|X − X'| − E|Y − Y'|.",
            when: "Raw numbers in few dimensions: it is zero only for equal distributions.",
            source: "Székely & Rizzo 2013, doi:10.1016/j.jspi.2013.03.018",
        },
        "mmd-rbf" | "mmd" | "rbf-mmd" => MmdRbf(mmd_rbf::MmdRbf) {
            what: "The squared maximum mean discrepancy with a Gaussian kernel.",
            when: "Raw numbers in few dimensions, at the scale of the bandwidth.",
            source: "Gretton et al. 2012, JMLR 13:723–773",
        },
        "sliced-wasserstein" | "swd" | "sliced-wasserstein-distance" => SlicedWasserstein(sliced_wasserstein::SlicedWasserstein) {
            what: "The Wasserstein distance averaged over projections on random directions.",
            when: "Raw numbers, in their own unit.",
            source: "Bonneel et al. 2015, doi:10.1007/s10851-014-0506-3",
        },
        "pair-distances" | "interatomic-distances" => PairDistances(pair_distances::PairDistances) {
            what: "The Wasserstein distance of the distributions of distances between particles.",
            when: "Systems of particles, whose positions and orientations do not matter.",
            source: "",
        },
        "c2st" => C2st(c2st::C2st) {
            what: "The accuracy of a classifier that tells generated from reference samples.",
            when: "To find any difference: one half means that none was found.",
            source: "Lopez-Paz & Oquab 2017, arXiv:1610.06545",
        },
        "cmmd" => Cmmd(cmmd::Cmmd) {
            what: "The maximum mean discrepancy with a Gaussian kernel of fixed bandwidth, made for CLIP embeddings.",
            when: "To compare with published CMMD.",
            source: "Jayasumana et al. 2024, arXiv:2401.09603",
        },
        "inception-score" | "is" | "isc" => InceptionScore(inception_score::InceptionScore) {
            what: "The exponential of the mean divergence of class probabilities from their mean.",
            when: "To compare with published values; it sees no reference.",
            source: "Salimans et al. 2016, arXiv:1606.03498",
        },
        "vendi" | "vendi-score" => Vendi(vendi::Vendi) {
            what: "The effective number of distinct samples, from the eigenvalues of their similarities.",
            when: "Diversity without a reference.",
            source: "Friedman & Dieng 2023, arXiv:2210.02410",
        },
        "authenticity" => Authenticity(copy_detection::Authenticity) {
            what: "The share of generated samples that are farther from their nearest training sample than that one from its own neighbour.",
            when: "To look for copies of training data.",
            source: "Alaa et al. 2022, arXiv:2102.08921",
        },
        "memorization" => Memorization(copy_detection::Memorization) {
            what: "The share of generated samples much nearer to one training sample than to any other.",
            when: "To count copies of training data in many dimensions.",
            source: "Yoon et al. 2023, workshop on structured probabilistic inference at ICML",
        },
        "fld" => Fld(fld::Fld) {
            what: "A divergence of feature likelihoods of held-out data, which also rises with copies of training data.",
            when: "To see quality, diversity and copies in one number.",
            source: "Jiralerspong et al. 2023, arXiv:2302.04440",
        },
        "fld-gap" => FldGap(fld::FldGap) {
            what: "The log-likelihood of held-out data minus that of training data, around the generated samples.",
            when: "To find copies: negative values are copies.",
            source: "Jiralerspong et al. 2023, arXiv:2302.04440",
        },
        "fld-precision" => FldPrecision(fld::FldPrecision) {
            what: "The part of `fld` that is quality, which does not react to copies.",
            when: "Beside `fld`, to say where it comes from.",
            source: "Jiralerspong et al. 2023, arXiv:2302.04440",
        },
    }
}

/// A statistic of generated samples, usually a distance to or a comparison with reference samples.
pub trait Statistic: Sync {
    /// Checks the parameters of the statistic and the numbers of samples; `reference` counts the
    /// samples of the set named by [`Statistic::comparison_role`].
    ///
    /// # Errors
    /// Fails if a parameter is out of range or a set has too few samples. The message names the key
    /// and what was expected.
    fn check(&self, generated: usize, reference: usize) -> Result<(), String>;

    /// Checks the parameters of the statistic and the numbers of samples in all sets. Statistics
    /// that need more than two sets override this method.
    ///
    /// # Errors
    /// Fails if a parameter is out of range, a set has too few samples, or a required set is
    /// missing.
    fn check_all(&self, n: SampleSets<usize>) -> Result<(), String> {
        self.check(n.generated, n.for_role(self.comparison_role()))
    }

    /// The role of the set that the generated samples are compared with.
    fn comparison_role(&self) -> SampleRole {
        SampleRole::Reference
    }

    /// Whether the statistic needs class logits, which only an extractor with a logits output
    /// provides.
    fn needs_logits(&self) -> bool {
        false
    }

    /// Computes the statistic in f64, with its standard error. Random choices of the statistic
    /// itself, such as subsets, depend only on `key` and on the samples.
    ///
    /// # Errors
    /// Fails if the samples cannot be read or the statistic is undefined for them; the message says
    /// why.
    fn compute(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        key: RngKey,
    ) -> Result<Estimate, String>;

    /// The first-order influence of every sample of both sets on the statistic, in the input order
    /// of the samples. Leaving out sample i of n reduces the statistic by about influence/(n − 1).
    /// The result is `None` if no formula is known.
    ///
    /// # Errors
    /// Fails if the samples cannot be read or the statistic is undefined for them.
    fn influences(
        &self,
        _generated: &FeatureSet,
        _reference: &FeatureSet,
        _key: RngKey,
    ) -> Result<Option<Influences>, String> {
        Ok(None)
    }

    /// The statistic of the whole sets and of each random part of them. The result is `None` for a
    /// statistic whose standard error does not come from random parts.
    ///
    /// # Errors
    /// Fails if the samples cannot be read or the statistic is undefined for them.
    fn replicates_on_parts(
        &self,
        _generated: &FeatureSet,
        _reference: &FeatureSet,
        _parts: &RandomDivisions,
    ) -> Result<Option<PartReplicates>, String> {
        Ok(None)
    }

    /// The smallest number of samples per part with which a value on random parts is meaningful.
    fn min_part_size(&self) -> usize {
        1
    }

    /// Whether the expected value of the statistic depends on the number of generated samples.
    fn is_biased(&self) -> bool;

    /// Warnings about the value of the statistic on these sets, one sentence each.
    fn notes(&self, _sets: SampleSets<&FeatureSet>) -> Vec<String> {
        Vec::new()
    }

    /// Computes the statistic from all given sets. Statistics that need more than two sets override
    /// this method.
    ///
    /// # Errors
    /// Fails if the samples cannot be read or the statistic is undefined for them.
    fn compute_all(&self, sets: SampleSets<&FeatureSet>, key: RngKey) -> Result<Estimate, String> {
        self.compute(sets.generated, sets.for_role(self.comparison_role()), key)
    }
}

/// The first-order influences of all samples on a statistic. The influences of each set sum to 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Influences {
    /// One influence per generated sample, in input order.
    pub generated: Vec<f64>,
    /// One influence per reference sample, in input order.
    pub reference: Vec<f64>,
}

/// Computes one statistic of two sets, after checking the widths, the parameters and the numbers of
/// samples.
///
/// # Errors
/// Fails if the sets differ in width, or if the statistic refuses its parameters or the numbers of
/// samples. Also fails if the statistic cannot be computed or the result is not finite.
pub fn measure(
    metric: &Metric,
    generated: &FeatureSet,
    reference: &FeatureSet,
    key: RngKey,
) -> Result<Estimate, String> {
    check_feature_width(generated, "reference", reference)?;
    metric.check(generated.len(), reference.len())?;
    check_estimate_finite(metric.compute(generated, reference, key)?)
}

/// Computes one statistic of two to four sets, after checking the widths, the parameters and the
/// numbers of samples.
///
/// # Errors
/// Fails if the sets differ in width, or if the statistic refuses its parameters or the numbers of
/// samples. Also fails if the statistic cannot be computed or the result is not finite.
pub fn measure_all(
    metric: &Metric,
    sets: SampleSets<&FeatureSet>,
    key: RngKey,
) -> Result<Estimate, String> {
    for (name, other) in [
        ("reference", Some(sets.reference)),
        ("training", sets.train),
        ("held-out", sets.test),
    ] {
        other.map_or(Ok(()), |other| {
            check_feature_width(sets.generated, name, other)
        })?;
    }
    metric.check_all(sets.map(FeatureSet::len))?;
    check_estimate_finite(metric.compute_all(sets, key)?)
}

/// Fails unless both sets have the same number of numbers per sample.
fn check_feature_width(
    generated: &FeatureSet,
    name: &str,
    other: &FeatureSet,
) -> Result<(), String> {
    let (width, other_width) = (generated.width(), other.width());
    (width == other_width).then_some(()).ok_or_else(|| {
        format!(
            "the generated samples have {width} numbers each, but the {name} samples have \
             {other_width}; expected the same number in both sets"
        )
    })
}

/// Fails if the value or the standard error is not finite.
fn check_estimate_finite(estimate: Estimate) -> Result<Estimate, String> {
    let fine = estimate.value.is_finite() && estimate.stderr.is_none_or(f64::is_finite);
    fine.then_some(estimate).ok_or_else(|| {
        "the result is not finite because its sums are beyond double precision; \
         divide all sets by the same factor"
            .to_owned()
    })
}

/// The larger of `value` and `floor`. A NaN in `value` stays a NaN, which `f64::max` would hide.
fn max_keeping_nan(value: f64, floor: f64) -> f64 {
    if value < floor { floor } else { value }
}

/// Helpers for the tests of the statistics.
#[cfg(test)]
pub mod testing {
    use ndarray::Array2;

    use super::feature_set::FeatureSet;
    use super::{Metric, SampleSets, Statistic, measure, measure_all};
    use crate::num::key::{Purpose, RngKey};
    use crate::num::stats::{self, Estimate};

    /// Draws n samples of N(mean, std²·I) in d dimensions; the result has shape (n, d).
    pub fn normal_samples(seed: u64, n: usize, d: usize, mean: f64, std: f64) -> Array2<f64> {
        let draws = RngKey { seed }.normal(Purpose::Check, 77, 0, n * d);
        draws.into_shape_with_order((n, d)).expect("n·d draws") * std + mean
    }

    /// Computes one statistic of two arrays, without the checks of [`measure`].
    pub fn compute(
        of: &dyn Statistic,
        x: &Array2<f64>,
        y: &Array2<f64>,
        seed: u64,
    ) -> Result<Estimate, String> {
        of.compute(&FeatureSet::new(x)?, &FeatureSet::new(y)?, RngKey { seed })
    }

    /// Measures one metric of two arrays. The arrays also serve as logits.
    pub fn measure_arrays(
        metric: &Metric,
        x: &Array2<f64>,
        y: &Array2<f64>,
    ) -> Result<Estimate, String> {
        let (a, b) = (
            FeatureSet::new(x)?.with_logits(Some(x.view())),
            FeatureSet::new(y)?.with_logits(Some(y.view())),
        );
        measure(metric, &a, &b, RngKey { seed: 0 })
    }

    /// Measures one metric of generated samples, training data (as the reference) and held-out
    /// data.
    pub fn measure_three_sets(
        metric: &Metric,
        sets: [&Array2<f64>; 3],
        seed: u64,
    ) -> Result<Estimate, String> {
        fn sample(x: &Array2<f64>) -> Result<FeatureSet<'_>, String> {
            Ok(FeatureSet::new(x)?.with_logits(Some(x.view())))
        }
        let [generated, train, test] = sets;
        let (generated, train, test) = (sample(generated)?, sample(train)?, sample(test)?);
        let sets = SampleSets {
            generated: &generated,
            reference: &train,
            train: None,
            test: Some(&test),
        };
        measure_all(metric, sets, RngKey { seed })
    }

    /// The root mean square of the claimed standard errors over `n` repetitions, divided by the
    /// standard deviation of the values.
    pub fn stderr_to_spread_ratio(n: u64, estimate: impl Fn(u64) -> Estimate) -> f64 {
        let results: Vec<Estimate> = (0..n).map(estimate).collect();
        let values: Vec<f64> = results.iter().map(|e| e.value).collect();
        let mean = stats::mean_estimate(&values).expect("many");
        let spread = mean.stderr.expect("many") * (n as f64).sqrt();
        let ratio = stats::rms(&results.iter().filter_map(|e| e.stderr).collect::<Vec<_>>())
            .expect("errors")
            / spread;
        let covers =
            |e: &&Estimate| (e.value - mean.value).abs() < stats::Z95 * e.stderr.unwrap_or(0.0);
        let covered = results.iter().filter(covers).count();
        println!(
            "claimed / spread {ratio:.3}; 95 % intervals contain the mean in {covered} of {n}"
        );
        ratio
    }

    /// Asserts that the claimed standard error differs from the standard deviation over 300
    /// repetitions by less than the relative `tolerance`.
    pub fn assert_stderr_calibrated(tolerance: f64, estimate: impl Fn(u64) -> Estimate) {
        let ratio = stderr_to_spread_ratio(300, estimate);
        assert!(
            (ratio - 1.0).abs() < tolerance,
            "claimed / spread = {ratio}"
        );
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Axis, s};

    use super::testing::{measure_arrays, measure_three_sets, normal_samples};
    use super::*;
    use crate::num::stats;

    #[test]
    fn statistics_ignore_sample_order_and_threads() {
        // The sets have more rows than one block, a constant column, and a duplicate sample.
        let mut a = normal_samples(1, 300, 3, 0.0, 1.0);
        let (b, c) = (
            normal_samples(2, 1100, 3, 0.3, 1.2),
            normal_samples(3, 150, 3, 0.3, 1.2),
        );
        a.column_mut(1).fill(0.1);
        let twice = a.row(7).to_owned();
        a.row_mut(70).assign(&twice);
        let shuffled = a.select(
            Axis(0),
            &permutation::random_permutation(300, RngKey { seed: 9 }, 0),
        );
        let [backwards, turned] = [&b, &c].map(|x| x.slice(s![..;-1, ..]).to_owned());
        for metric in Metric::defaults() {
            let on = |threads: usize, x, y, z| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .expect("threads");
                let got = pool
                    .install(|| measure_three_sets(&metric, [x, y, z], 0))
                    .expect("defined");
                (got.value.to_bits(), got.stderr.map(f64::to_bits))
            };
            let one = on(1, &a, &b, &c);
            assert_eq!(one, on(3, &shuffled, &b, &turned), "{}", metric.name());
            assert_eq!(one, on(2, &a, &backwards, &c), "{}", metric.name());
        }
    }

    /// The influences agree with the effect of leaving out one sample, for both sets and for every
    /// statistic that has influences.
    #[test]
    fn influences_match_leave_one_out() {
        let (x, y) = (
            normal_samples(1, 120, 3, 0.4, 1.0),
            normal_samples(2, 150, 3, 0.0, 1.3),
        );
        let bounded = [Metric::MmdRbf(mmd_rbf::MmdRbf {
            bandwidth: Some(1.5),
        })];
        let mut known = Vec::new();
        for metric in Metric::defaults().into_iter().chain(bounded) {
            let (a, b) = (
                FeatureSet::new(&x).expect("finite"),
                FeatureSet::new(&y).expect("finite"),
            );
            let Ok(Some(found)) = metric.influences(&a, &b, RngKey { seed: 0 }) else {
                continue;
            };
            known.push(metric.name());
            let all = measure_arrays(&metric, &x, &y).expect("fine").value;
            let drop = |from: &ndarray::Array2<f64>, i: usize| {
                from.select(
                    Axis(0),
                    &(0..from.nrows()).filter(|j| *j != i).collect::<Vec<_>>(),
                )
            };
            for (side, influences, n) in [(0, &found.generated, 120), (1, &found.reference, 150)] {
                assert!(
                    influences.len() == n
                        && influences.iter().sum::<f64>().abs() < 1e-8 * all.abs() * n as f64
                );
                let size = stats::rms(influences).expect("many");
                for i in (0..n).step_by(11) {
                    let less = match side {
                        0 => measure_arrays(&metric, &drop(&x, i), &y),
                        _ => measure_arrays(&metric, &x, &drop(&y, i)),
                    };
                    let taken = (all - less.expect("fine").value) * (n as f64 - 1.0);
                    // The influences neglect terms of second order, which are smaller by 1/n.
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

    /// For numbers of any magnitude a statistic either scales as its unit does, or it fails with a
    /// message.
    #[test]
    fn extreme_scales_are_exact_or_refused() {
        let sets = [
            normal_samples(1, 90, 3, 0.3, 1.0),
            normal_samples(2, 110, 3, 0.0, 1.0),
            normal_samples(3, 70, 3, 0.0, 1.0),
        ];
        for metric in Metric::defaults() {
            let by = |scale: f64, seed: u64| {
                measure_three_sets(&metric, sets.each_ref().map(|x| x * scale).each_ref(), seed)
            };
            let of = |scale: f64| by(scale, 0);
            let one = of(1.0).expect("fine");
            // Scaled numbers have other hashes, so random parts drawn by the order of hashes
            // change. For statistics with such parts the test compares means over seeds, within
            // their standard errors.
            let drawn = [
                "frechet-infinity",
                "frechet-min",
                "c2st",
                "fld",
                "fld-precision",
            ]
            .contains(&metric.name());
            let over_seeds = |scale: f64, unit: f64| {
                let values: Vec<f64> = (0..16)
                    .map(|seed| by(scale, seed).expect("fine").value / unit)
                    .collect();
                stats::mean_estimate(&values).expect("sixteen")
            };
            let mean = drawn.then(|| over_seeds(1.0, 1.0));
            // The value scales with this power of the unit. `None`: it depends on the unit in
            // another way.
            let power = match metric.name() {
                "frechet" | "frechet-infinity" | "frechet-min" => Some(2),
                "energy" | "sliced-wasserstein" | "pair-distances" => Some(1),
                "kernel" | "inception-score" => None,
                _ => Some(0),
            };
            let mut refused = Vec::new();
            for exponent in [-200, -140, -60, -29, -20, 20, 29, 60, 140, 200, 300] {
                let scale = 10f64.powi(exponent);
                match of(scale) {
                    Ok(got) => {
                        assert!(
                            got.value.is_finite() && got.stderr.is_some_and(f64::is_finite),
                            "{metric:?} {got:?}"
                        );
                        let Some(power) = power else { continue };
                        let unit = 10f64.powi(power * exponent);
                        let value = got.value / unit;
                        let fine = match &mean {
                            None => (value - one.value).abs() < 1e-6 * one.value.abs(),
                            Some(mean) => {
                                let other = over_seeds(scale, unit);
                                let error = mean
                                    .stderr
                                    .expect("many")
                                    .hypot(other.stderr.expect("many"));
                                (other.value - mean.value).abs() < 4.0 * error
                            }
                        };
                        assert!(fine, "{metric:?} {scale:e}: {value} {one:?} {mean:?}");
                    }
                    Err(reason) => {
                        assert!(
                            reason.contains("beyond double precision") || reason.contains("vanish"),
                            "{reason}"
                        );
                        refused.push(exponent);
                    }
                }
            }
            println!("{:18} refused at 10^{refused:?}", metric.name());
            assert!(
                refused.contains(&200) && !refused.contains(&20) && !refused.contains(&-20),
                "{metric:?} {refused:?}"
            );
        }
    }

    /// A NaN never counts as a small number.
    #[test]
    fn max_keeping_nan_propagates_nan() {
        assert!(max_keeping_nan(f64::NAN, 0.0).is_nan());
        assert_eq!(
            (max_keeping_nan(-1.0, 0.0), max_keeping_nan(2.0, 0.0)),
            (0.0, 2.0)
        );
    }

    #[test]
    fn every_statistic_detects_shift_or_copies() {
        let (fine, reference) = (
            normal_samples(1, 300, 3, 0.0, 1.0),
            normal_samples(2, 300, 3, 0.0, 1.0),
        );
        let mut shifted = normal_samples(3, 300, 3, 0.0, 1.0);
        shifted.column_mut(0).mapv_inplace(|v| v + 3.0);
        let (copies, test) = (&reference + 1e-3, normal_samples(4, 300, 3, 0.0, 1.0));
        for metric in Metric::defaults() {
            let measured = |x| measure_three_sets(&metric, [x, &reference, &test], 0);
            let null = measured(&fine).expect("fine");
            let error = null.stderr.expect("an error");
            // With the shift, shares fall and distances rise. Statistics of copying react to the
            // copies.
            let seen = [&shifted, &copies].map(|x| measured(x).expect("fine"));
            let far = |e: &Estimate| (e.value - null.value).abs() > 5.0 * error;
            assert!(seen.iter().any(far), "{} {null:?} {seen:?}", metric.name());
        }
    }

    #[test]
    fn unequal_feature_widths_are_refused() {
        let metric = Metric::defaults().remove(0);
        let error = measure_arrays(
            &metric,
            &normal_samples(1, 9, 3, 0.0, 1.0),
            &normal_samples(1, 9, 4, 0.0, 1.0),
        );
        let text = error.expect_err("widths differ");
        assert!(text.contains('3') && text.contains('4'));
    }
}
