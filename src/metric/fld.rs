//! The feature likelihood divergence (FLD) and two related statistics (Jiralerspong et al. 2023):
//! log-likelihoods under a mixture of normal distributions around samples.
//!
//! The mixture has one isotropic normal component around each sample of one set. These samples are
//! its centres, and the variances of the components are fitted to the training data. If generated
//! samples are very close to training data, the fitted variances are small and held-out data become
//! unlikely. The value therefore rises with copies, as it does with bad samples and with missing
//! modes. All sets are standardized with the mean and the standard deviation (divisor n − 1) of the
//! held-out data. Values are in nats per dimension, times 100.
//!
//! The default, `fit: reference`, follows the authors' package (github.com/marcojira/fld) step by
//! step. Variances start from the distance to the nearest training sample. Up to 50 epochs of Adam
//! follow, with early stopping. During the fit, the mixture has one more component around the mean
//! of the training data; likelihoods are evaluated without it. So few steps end near an optimum,
//! but not at it. `fit: converged` reaches a local optimum by expectation maximization; its values
//! are not comparable with published ones.
//!
//! Unlike the package, this implementation computes distances without cancellation, and the seed
//! determines all random choices:
//!
//! - the half of the training data that the baseline uses as centres,
//! - the centres, if there are more than `centres` samples,
//! - the batches of Adam, if there are more than 10,000 training samples.
//!
//! The standard error comes from the delta method, over the samples whose likelihood is evaluated
//! and over the centres. For the baseline, the variance over random halves replaces the variance
//! over centres if it is larger. The standard error neglects that the fitted variances depend on
//! the training data. This matters if there are few samples for the dimension and Adam stops early.
//! In simulations in 3 to 30 dimensions, the standard error is 0.8 to 1.2 times the true standard
//! deviation.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_set::FeatureSet;
use super::mixture::{IsotropicMixture, MixtureFit, MixtureScores};
use super::{SampleRole, SampleSets, Statistic, max_keeping_nan, notes, permutation};
use crate::num::key::RngKey;
use crate::num::stats::Estimate;

/// Declares the structs of the three statistics, which have the same parameters, and their
/// implementations.
macro_rules! fld_statistics {
    ($($(#[$meta:meta])* $Name:ident: $name:literal, $compute:expr;)+) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $Name {
            /// The largest number of samples that serve as centres of the mixture, at least 2. The
            /// default is 10,000. The authors' package calls it `gen_size`.
            pub centres: usize,
            /// How the variances of the mixture are fitted: `reference` (the default) or
            /// `converged`.
            pub fit: MixtureFit,
        }

        impl Default for $Name {
            fn default() -> Self {
                $Name { centres: 10_000, fit: MixtureFit::Reference }
            }
        }

        impl Statistic for $Name {
            fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
                self.check_all(SampleSets::generated_and_reference(generated, reference))
            }

            fn check_all(&self, n: SampleSets<usize>) -> Result<(), String> {
                check_fld_sets($name, self.centres, n)
            }

            fn comparison_role(&self) -> SampleRole {
                SampleRole::Test
            }

            fn is_biased(&self) -> bool {
                true
            }

            fn notes(&self, sets: SampleSets<&FeatureSet>) -> Vec<String> {
                let copies = [("training", sets.for_role(SampleRole::Train))];
                let what = "so both halves of the baseline may contain them";
                let copies = notes::duplicates_across_split(&copies, what).filter(|_| $name != "fld-gap");
                notes::held_out_overlap(sets).into_iter().chain(copies).collect()
            }

            fn compute(&self, _generated: &FeatureSet, _reference: &FeatureSet, _key: RngKey) -> Result<Estimate, String> {
                Err(three_sets_required($name))
            }

            fn compute_all(&self, sets: SampleSets<&FeatureSet>, key: RngKey) -> Result<Estimate, String> {
                Ok(self.evaluate(&NormalizedSets::from_sets($name, sets, key)?))
            }
        }

        impl $Name {
            /// The statistic of standardized sets.
            fn evaluate(&self, sets: &NormalizedSets) -> Estimate {
                let compute: fn(&NormalizedSets, usize, MixtureFit) -> Estimate = $compute;
                compute(sets, self.centres, self.fit)
            }
        }
    )+ };
}

fld_statistics! {
    /// FLD, the feature likelihood divergence: how much less likely held-out data are under a
    /// mixture of normal distributions around generated samples than under one around half of the
    /// training data. The variances of both mixtures are fitted to training data.
    ///
    /// Fresh samples of the data distribution reach 0; larger values are worse. The value is in
    /// nats per dimension, times 100. The statistic needs training data and held-out data.
    Fld: "fld", |sets, centres, fit| {
        let generated = sets.subsample(&sets.generated, centres);
        let got = IsotropicMixture::fit(generated.view(), sets.train.view(), fit).score(sets.test.view());
        let (base, spread) = sets.baseline(centres, |base, rest| {
            IsotropicMixture::fit(base, rest, fit).score(sets.test.view())
        });
        let gaps: Vec<f64> = base.log_densities.iter().zip(&got.log_densities).map(|(b, g)| b - g).collect();
        sets.estimate(&[&gaps], variance_over_centres(&[&got]) + variance_over_centres(&[&base]).max(spread))
    };
    /// The generalization gap of FLD: the mean log-likelihood of held-out data minus that of
    /// training data, under a mixture of normal distributions around generated samples.
    ///
    /// The more negative the value, the more training data were copied. The value is in nats per
    /// dimension, times 100. The statistic needs training data and held-out data.
    FldGap: "fld-gap", |sets, centres, fit| {
        let generated = sets.subsample(&sets.generated, centres);
        let mixture = IsotropicMixture::fit(generated.view(), sets.train.view(), fit);
        let [seen, unseen] = [&sets.train, &sets.test].map(|set| mixture.score(set.view()));
        sets.estimate(&[&negated_log_densities(&seen), &unseen.log_densities], variance_over_centres(&[&seen, &unseen]))
    };
    /// The quality part of FLD: how much less likely generated samples are than training data,
    /// under a mixture of normal distributions around held-out data. The variances are fitted to
    /// training data.
    ///
    /// The value is in nats per dimension, times 100; it does not react to copies. The statistic
    /// needs training data and held-out data.
    FldPrecision: "fld-precision", |sets, centres, fit| {
        let (held, generated) = (sets.subsample(&sets.test, centres), sets.subsample(&sets.generated, centres));
        let got = IsotropicMixture::fit(held.view(), sets.train.view(), fit).score(generated.view());
        let (base, spread) = sets.baseline(centres, |base, rest| IsotropicMixture::fit(held.view(), rest, fit).score(base));
        sets.estimate(&[&negated_log_densities(&got), &base.log_densities], variance_over_centres(&[&got, &base]).max(spread))
    };
}

/// The largest number of distances between training samples and centres. All of them are in memory,
/// with 8 bytes each.
const MAX_DISTANCES: usize = 1 << 30;

/// Fails if a set is missing or too small, or if the distances do not fit in memory.
fn check_fld_sets(name: &str, centres: usize, n: SampleSets<usize>) -> Result<(), String> {
    if n.train.is_none() && n.test.is_none() {
        return Err(three_sets_required(name));
    }
    let (train, test) = (n.for_role(SampleRole::Train), n.for_role(SampleRole::Test));
    if train < 4 || test < 2 || n.generated < 2 {
        return Err(format!(
            "{name}: {} generated, {train} training and {test} held-out samples, \
             expected at least 2, 4 and 2",
            n.generated
        ));
    }
    if centres < 2 {
        return Err(format!("{name}: centres is {centres}, expected at least 2"));
    }
    let at = centres.min(n.generated.max(test));
    if train.saturating_mul(at) > MAX_DISTANCES {
        return Err(format!(
            "{name}: {train} training samples and {at} centres have more than {MAX_DISTANCES} \
             distances; expected fewer training samples, or `centres` of at most {}",
            MAX_DISTANCES / train
        ));
    }
    Ok(())
}

/// The error message if training data or held-out data are missing.
fn three_sets_required(name: &str) -> String {
    format!(
        "{name}: it needs training data and held-out data that the model has not seen; name the \
         training data (`train`) or the held-out data (`test`): the reference serves as the other"
    )
}

/// Minus the log-density of each point.
fn negated_log_densities(scores: &MixtureScores) -> Vec<f64> {
    scores.log_densities.iter().map(|l| -l).collect()
}

/// The three sets, standardized with the mean and the standard deviation of the held-out data.
struct NormalizedSets {
    train: Array2<f64>,
    test: Array2<f64>,
    generated: Array2<f64>,
    key: RngKey,
}

impl NormalizedSets {
    /// Standardizes the sets, with the training data in a random order that depends on `key`.
    ///
    /// # Errors
    /// Fails if samples cannot be read, if training and held-out data are the same, or if a column
    /// of the held-out data is constant.
    fn from_sets(
        name: &str,
        sets: SampleSets<&FeatureSet>,
        key: RngKey,
    ) -> Result<NormalizedSets, String> {
        let (train, test) = (
            sets.for_role(SampleRole::Train).all_rows()?,
            sets.for_role(SampleRole::Test).all_rows()?,
        );
        if train == test {
            return Err(format!(
                "{name}: the training data and the held-out data are the same samples, expected \
                 different ones"
            ));
        }
        let constant = test.ncols() - sets.for_role(SampleRole::Test).varying_columns().len();
        if constant > 0 {
            return Err(format!(
                "{name}: {constant} of {} numbers are the same in all held-out samples, so their \
                 standard deviation is 0 and cannot be a unit; expected more held-out samples, or \
                 other features",
                test.ncols()
            ));
        }
        let train = train.select(
            Axis(0),
            &permutation::random_permutation(train.nrows(), key, 2),
        );
        Ok(NormalizedSets::new(
            train.view(),
            test,
            sets.generated.all_rows()?,
            key,
        ))
    }

    /// Standardizes the sets. The first half of `train` serves as centres of the baseline.
    fn new(
        train: ArrayView2<f64>,
        test: ArrayView2<f64>,
        generated: ArrayView2<f64>,
        key: RngKey,
    ) -> NormalizedSets {
        let (mean, std) = (
            test.mean_axis(Axis(0)).expect("samples"),
            test.std_axis(Axis(0), 1.0),
        );
        let units = |x: ArrayView2<f64>| (&x - &mean) / &std;
        NormalizedSets {
            train: units(train),
            test: units(test),
            generated: units(generated),
            key,
        }
    }

    /// At most `most` samples of a set; a random subset that depends on the seed if there are more.
    fn subsample(&self, of: &Array2<f64>, most: usize) -> Array2<f64> {
        match of.nrows() <= most {
            true => of.clone(),
            false => of.select(
                Axis(0),
                &permutation::random_subset(of.nrows(), most, self.key, 0),
            ),
        }
    }

    /// The baseline: scores of mixtures around training data instead of generated samples.
    ///
    /// `of` receives one half of the training data, or fewer if there are fewer generated samples
    /// or centres, and the remaining training data. The result is its scores for the first half,
    /// and the variance of their mean over random halves.
    fn baseline(
        &self,
        centres: usize,
        of: impl Fn(ArrayView2<f64>, ArrayView2<f64>) -> MixtureScores,
    ) -> (MixtureScores, f64) {
        let n = self.train.nrows();
        let half = centres.min(self.generated.nrows()).min(n / 2);
        let split =
            |train: ArrayView2<f64>| of(train.slice(s![..half, ..]), train.slice(s![half.., ..]));
        let first = split(self.train.view());
        let mut means = vec![term_mean(&first.log_densities)];
        for repeat in 1..BASELINE_SPLITS {
            let order = permutation::random_permutation(n, self.key, 2 + repeat);
            means.push(term_mean(
                &split(self.train.select(Axis(0), &order).view()).log_densities,
            ));
        }
        (first, term_variance(&means))
    }

    /// The estimate 100/D times the sum of the means of `terms`. Its standard error combines the
    /// variance over samples with `over_centres`, the variance due to the centres.
    fn estimate(&self, terms: &[&[f64]], over_centres: f64) -> Estimate {
        let value: f64 = terms.iter().map(|term| term_mean(term)).sum();
        let over_samples: f64 = terms
            .iter()
            .map(|term| term_variance(term) / term.len() as f64)
            .sum();
        let scale = 100.0 / self.test.ncols() as f64;
        let stderr = scale * (over_samples + max_keeping_nan(over_centres, 0.0)).sqrt();
        Estimate {
            value: scale * value,
            stderr: Some(stderr),
            n: self.generated.nrows(),
        }
    }
}

/// The number of random halves of the training data for which the baseline is evaluated. The first
/// one gives the value; all of them give the variance.
const BASELINE_SPLITS: u64 = 4;

/// The mean of some numbers.
fn term_mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The sample variance of some numbers, with divisor n − 1.
fn term_variance(values: &[f64]) -> f64 {
    let mean = term_mean(values);
    values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)
}

/// The variance, due to the random centres, of a mean log-density. Of two scores under the same
/// centres, it is the variance of their difference.
///
/// The influence of centre j of N is N times its mean responsibility for the points. A mean over
/// few points is noisy, which makes the square of the influence too large. This noise is
/// subtracted, because the variance over points already contains it.
fn variance_over_centres(scores: &[&MixtureScores]) -> f64 {
    let n = scores[0].responsibilities.len() as f64;
    let mut influence = Array1::<f64>::zeros(scores[0].responsibilities.len());
    let mut noise = 0.0;
    for (scores, sign) in scores.iter().zip([1.0, -1.0]) {
        let points = scores.log_densities.len() as f64;
        influence.scaled_add(sign * n / points, &scores.responsibilities);
        let squares = (scores.squared_responsibilities.iter())
            .zip(&scores.responsibilities)
            .map(|(square, share)| square - share * share / points);
        noise += n * squares.sum::<f64>() / (points * (points - 1.0));
    }
    let mean = influence.sum() / n;
    (influence.mapv(|v| (v - mean).powi(2)).sum() / (n - 1.0) - noise) / n
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use ndarray_npy::NpzReader;

    use super::*;
    use crate::metric::Metric;
    use crate::metric::testing::{measure_three_sets, normal_samples, stderr_to_spread_ratio};

    fn metric(name: &str, fit: MixtureFit) -> Metric {
        match name {
            "fld" => Metric::Fld(Fld {
                fit,
                ..Fld::default()
            }),
            "fld-gap" => Metric::FldGap(FldGap {
                fit,
                ..FldGap::default()
            }),
            _ => Metric::FldPrecision(FldPrecision {
                fit,
                ..FldPrecision::default()
            }),
        }
    }

    #[test]
    fn fld_matches_authors_package() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/metrics/fld.npz");
        let mut archive = NpzReader::new(File::open(path).expect(path)).expect("an archive");
        for name in ["full", "wide", "copies"] {
            let mut rows = |part: &str| -> Array2<f64> {
                archive.by_name(&format!("{name}_{part}")).expect(part)
            };
            let [generated, train, test] = ["generated", "train", "test"].map(&mut rows);
            let sets = NormalizedSets::new(
                train.view(),
                test.view(),
                generated.view(),
                RngKey { seed: 0 },
            );
            let got = [
                Fld::default().evaluate(&sets),
                FldGap::default().evaluate(&sets),
                FldPrecision::default().evaluate(&sets),
            ];
            for (metric, got) in ["fld", "fld-gap", "fld-precision"].into_iter().zip(got) {
                let want: Array1<f64> = archive.by_name(&format!("{name}_{metric}")).expect(metric);
                println!(
                    "{name} {metric} {} {:.1e} ± {:?}",
                    want[0],
                    (got.value - want[0]).abs(),
                    got.stderr
                );
                assert!(
                    (got.value - want[0]).abs() < 1e-5,
                    "{name} {metric}: {} {}",
                    got.value,
                    want[0]
                );
            }
        }
    }

    #[test]
    fn fld_stderr_matches_spread() {
        let sets = |i, d| {
            [
                normal_samples(3 * i, 60, d, 0.2, 1.0),
                normal_samples(3 * i + 1, 120, d, 0.0, 1.0),
                normal_samples(3 * i + 2, 60, d, 0.0, 1.0),
            ]
        };
        for (name, d) in [
            ("fld", 3),
            ("fld-gap", 3),
            ("fld-precision", 3),
            ("fld", 10),
        ] {
            let ratio = stderr_to_spread_ratio(100, |i| {
                measure_three_sets(
                    &metric(name, MixtureFit::Reference),
                    sets(i, d).each_ref(),
                    i,
                )
                .expect("fine")
            });
            assert!((0.7..1.3).contains(&ratio), "{name} {d}: {ratio}");
        }
    }

    #[test]
    fn fld_penalizes_copies_and_bad_samples() {
        let (train, test, fresh) = (
            normal_samples(1, 200, 5, 0.0, 1.0),
            normal_samples(2, 100, 5, 0.0, 1.0),
            normal_samples(3, 100, 5, 0.0, 1.0),
        );
        let copies = &train.slice(s![..100, ..]) + 1e-3;
        let bad = normal_samples(4, 100, 5, 1.5, 1.0);
        for fit in [MixtureFit::Reference, MixtureFit::Converged] {
            let of = |name, x| {
                let got =
                    measure_three_sets(&metric(name, fit), [x, &train, &test], 0).expect("fine");
                (got.value, got.stderr.expect("an error"))
            };
            let (fld, error) = of("fld", &fresh);
            assert!(fld.abs() < 4.0 * error, "{fld} {error}");
            assert!(
                of("fld", &copies).0 > fld + 5.0 * error && of("fld", &bad).0 > fld + 5.0 * error
            );
            // Copies have the quality of data: among the parts of FLD only the gap reacts to them.
            assert!(of("fld-precision", &copies).0.abs() < 4.0 * of("fld-precision", &copies).1);
            assert!(of("fld-precision", &bad).0 > 5.0 * of("fld-precision", &bad).1);
            assert!(of("fld-gap", &copies).0 < 4.0 * of("fld-gap", &fresh).0 - 20.0);
        }
    }

    #[test]
    fn fld_refuses_invalid_sets() {
        let (x, y, z) = (
            normal_samples(1, 20, 3, 0.0, 1.0),
            normal_samples(2, 20, 3, 0.0, 1.0),
            normal_samples(3, 20, 3, 0.0, 1.0),
        );
        let refused = |sets: [&Array2<f64>; 3]| {
            measure_three_sets(&metric("fld", MixtureFit::Reference), sets, 0).expect_err("refused")
        };
        assert!(refused([&x, &y, &y]).contains("same samples"));
        let mut constant = z.clone();
        constant.column_mut(1).fill(0.1);
        assert!(refused([&x, &y, &constant]).contains("1 of 3 numbers"));
        let few = y.slice(s![..3, ..]).to_owned();
        assert!(refused([&x, &few, &z]).contains("3 training"));
        let two =
            crate::metric::testing::measure_arrays(&metric("fld", MixtureFit::Reference), &x, &y)
                .expect_err("two sets");
        assert!(two.contains("`train`") && two.contains("`test`"), "{two}");
        let many = SampleSets {
            generated: 20_000,
            reference: 2_000_000,
            train: None,
            test: Some(9),
        };
        assert!(
            Fld::default()
                .check_all(many)
                .is_err_and(|e| e.contains("at most 536"))
        );
        assert!(
            Fld {
                centres: 1,
                ..Fld::default()
            }
            .check_all(SampleSets {
                test: Some(9),
                ..SampleSets::generated_and_reference(9, 9)
            })
            .is_err()
        );
    }
}
