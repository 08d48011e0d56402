//! The classifier two-sample test (Lopez-Paz & Oquab 2017): how well a classifier distinguishes
//! generated samples from reference samples.

use ndarray::{Array1, Array2, ArrayView2, Axis, concatenate, s};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_set::FeatureSet;
use super::{SampleSets, Statistic, notes, permutation};
use crate::num::key::RngKey;
use crate::num::logistic::{self, mean_and_inverse_std, standardize_columns};
use crate::num::stats::Estimate;

/// The classifier two-sample test: the accuracy of a classifier that is trained on one half of both
/// sets and tested on the other half. The value is ½ for equal distributions and 1 for disjoint
/// ones. There are no parameters.
///
/// Both sets contribute the same number of samples: the size of the smaller set, at most 10,000.
/// The seed decides which samples are used, and which of them are trained on. The classifier is a
/// logistic regression with a unit ridge penalty. Its inputs are the standardized features and
/// their standardized squares, so it detects shifts and changes of scale. For two normal
/// distributions with the same covariance, its accuracy tends to the best possible value, Φ(|δ|/2).
/// It does not detect differences that are in the dependence between features alone; `energy` and
/// `mmd-rbf` do.
///
/// The standard error is binomial over the held-out samples and treats the fitted classifier as
/// given.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct C2st {}

/// The largest number of samples used from each set.
const MAX_SAMPLES_PER_SET: usize = 10_000;

impl Statistic for C2st {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        let fine = generated >= 4 && reference >= 4;
        fine.then_some(()).ok_or_else(|| {
            format!(
                "c2st: {generated} generated and {reference} reference samples, \
                 expected at least 4 of each"
            )
        })
    }

    fn is_biased(&self) -> bool {
        true
    }

    fn notes(&self, sets: SampleSets<&FeatureSet>) -> Vec<String> {
        let both = [("generated", sets.generated), ("reference", sets.reference)];
        let what = "so the same vector may be both trained on and held out";
        notes::duplicates_across_split(&both, what)
            .into_iter()
            .collect()
    }

    fn compute(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        key: RngKey,
    ) -> Result<Estimate, String> {
        let (generated, reference) = (generated.all_rows()?, reference.all_rows()?);
        let size = generated
            .nrows()
            .min(reference.nrows())
            .min(MAX_SAMPLES_PER_SET);
        let drawn = |x: ArrayView2<f64>, side| {
            x.select(
                Axis(0),
                &permutation::random_permutation(x.nrows(), key, side)[..size],
            )
        };
        let sides = [drawn(generated, 0), drawn(reference, 1)];
        let join = |range: std::ops::Range<usize>| {
            let parts = sides
                .each_ref()
                .map(|side| side.slice(s![range.clone(), ..]));
            let classes = (0..2 * range.len())
                .map(|i| i < range.len())
                .collect::<Vec<_>>();
            concatenate(Axis(0), &parts)
                .map(|x| (x, classes))
                .map_err(|e| e.to_string())
        };
        let ((train, classes), (test, truth)) = (join(0..size / 2)?, join(size / 2..size)?);
        let features = StandardizedFeatures::fit(train.view());
        let model = logistic::fit_logistic_regression(features.apply(train).view(), &classes);
        let scores = features.apply(test).dot(&model.weights) + model.intercept;
        // A score of exactly 0 favours neither class: it counts as half correct.
        let point = |(score, first): (&f64, &bool)| match *score {
            0.0 => 0.5,
            score => f64::from(u8::from((score > 0.0) == *first)),
        };
        let tested = truth.len() as f64;
        let value = scores.iter().zip(&truth).map(point).sum::<f64>() / tested;
        Ok(Estimate {
            value,
            stderr: Some((value * (1.0 - value) / tested).sqrt()),
            n: generated.nrows(),
        })
    }
}

/// The standardization of features and of their squares, fitted to the training half.
struct StandardizedFeatures {
    /// Mean and inverse standard deviation of each feature.
    linear: [Array1<f64>; 2],
    /// Mean and inverse standard deviation of each standardized feature's square.
    square: [Array1<f64>; 2],
}

impl StandardizedFeatures {
    /// Fits the standardization to rows of features.
    fn fit(train: ArrayView2<f64>) -> StandardizedFeatures {
        let linear = mean_and_inverse_std(train);
        let square = mean_and_inverse_std(
            standardize_columns(train.to_owned(), &linear)
                .mapv_into(|z| z * z)
                .view(),
        );
        StandardizedFeatures { linear, square }
    }

    /// The standardized features and squares of n rows, shape (n, 2D).
    fn apply(&self, x: Array2<f64>) -> Array2<f64> {
        let z = standardize_columns(x, &self.linear);
        let squares = standardize_columns(z.mapv(|z| z * z), &self.square);
        let mut out = Array2::zeros((z.nrows(), 2 * z.ncols()));
        out.slice_mut(s![.., ..z.ncols()]).assign(&z);
        out.slice_mut(s![.., z.ncols()..]).assign(&squares);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::{self, assert_stderr_calibrated, normal_samples};
    use crate::num::stats;

    fn accuracy(x: &Array2<f64>, y: &Array2<f64>, seed: u64) -> Estimate {
        testing::compute(&C2st {}, x, y, seed).expect("finite")
    }

    #[test]
    fn c2st_reaches_bayes_accuracy_for_normals() {
        // The accuracy is Φ(|δ|/2) for a shift by δ. Here |δ| = 1, and Φ(½) = 0.6915.
        let (x, y) = (
            normal_samples(1, 8000, 4, 0.0, 1.0),
            normal_samples(2, 9000, 4, 0.5, 1.0),
        );
        let got = accuracy(&x, &y, 0);
        assert!(
            (got.value - 0.691_462_461).abs() < 4.0 * got.stderr.expect("defined"),
            "{got:?}"
        );
        // For N(0, 1) against N(0, 4), the best threshold is |x|² = 8 ln 2 / 3, which gives the
        // accuracy ½(P(|Z| < c) + P(|Z| > c/2)) = 0.6612.
        let (x, y) = (
            normal_samples(3, 8000, 1, 0.0, 1.0),
            normal_samples(4, 8000, 1, 0.0, 2.0),
        );
        let got = accuracy(&x, &y, 0);
        assert!(
            (got.value - 0.6612).abs() < 4.0 * got.stderr.expect("defined"),
            "{got:?}"
        );
    }

    #[test]
    fn c2st_equal_distributions_give_one_half() {
        let draw = |i| {
            accuracy(
                &normal_samples(2 * i, 120, 3, 0.0, 1.0),
                &normal_samples(2 * i + 1, 80, 3, 0.0, 1.0),
                i,
            )
        };
        assert_stderr_calibrated(0.15, draw);
        let values: Vec<f64> = (0..300).map(|i| draw(i).value).collect();
        let mean = stats::mean_estimate(&values).expect("many");
        assert!(
            (mean.value - 0.5).abs() < 4.0 * mean.stderr.expect("many"),
            "{mean:?}"
        );
    }

    #[test]
    fn c2st_handles_constant_columns_and_identical_sets() {
        let same = Array2::<f64>::ones((20, 3));
        assert_eq!(accuracy(&same, &same, 0).value, 0.5);
        let far = accuracy(&same, &(&same + 1.0), 0);
        assert_eq!((far.value, far.stderr), (1.0, Some(0.0)));
    }
}
