//! The inception score exp(E KL(p(y|x) ‖ p(y))) of generated samples (Salimans et al. 2016).

use ndarray::{Array1, Array2, ArrayView2, Axis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_set::FeatureSet;
use super::{Statistic, permutation};
use crate::num::key::RngKey;
use crate::num::stats::{self, Estimate};

/// The meaning of the samples' own numbers, if the classes do not come from an extractor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[("probabilities", &["probs"])]))]
pub enum ClassScoreKind {
    /// The numbers are class logits.
    Logits,
    /// The numbers are class probabilities.
    Probabilities,
}

/// The inception score exp(E KL(p(y|x) ‖ p(y))) of the generated samples, averaged over `splits`
/// disjoint random parts.
///
/// Class probabilities come from the extractor's output `logits`, or from the samples' own numbers
/// if `of` is set. The reference samples are not used. The logarithm of the score is biased
/// downwards by about (classes − 1)/2n with n samples per split. `splits: 1` has the smallest bias;
/// 10 is the usual convention.
///
/// The standard error comes from the delta method over samples: the influence of a sample on the
/// mean divergence is its own divergence. The standard deviation over splits, which papers print
/// after ±, is not a standard error of the mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InceptionScore {
    /// The number of disjoint random parts, from 1 to half the number of generated samples. The
    /// default is 10.
    pub splits: usize,
    /// The meaning of the samples' own numbers: `logits` or `probabilities`. Without it, class
    /// logits come from the extractor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<ClassScoreKind>,
}

impl Default for InceptionScore {
    fn default() -> Self {
        InceptionScore {
            splits: 10,
            of: None,
        }
    }
}

impl Statistic for InceptionScore {
    fn check(&self, generated: usize, _reference: usize) -> Result<(), String> {
        let fine = self.splits > 0 && generated >= 2 * self.splits;
        fine.then_some(()).ok_or_else(|| {
            format!(
                "inception-score: splits is {} for {generated} generated samples, expected 1 to {}",
                self.splits,
                generated / 2
            )
        })
    }

    fn needs_logits(&self) -> bool {
        self.of.is_none()
    }

    fn is_biased(&self) -> bool {
        true
    }

    fn compute(
        &self,
        generated: &FeatureSet,
        _reference: &FeatureSet,
        key: RngKey,
    ) -> Result<Estimate, String> {
        let logs = match self.of {
            None => log_softmax(generated.logits().ok_or(
                "inception-score: it needs class logits; name an extractor with an output \
                 `logits`, or say with `{inception-score: {of: logits}}` or `of: probabilities` \
                 that the samples' own numbers are logits or probabilities",
            )?),
            Some(ClassScoreKind::Logits) => log_softmax(generated.all_rows()?.to_owned()),
            Some(ClassScoreKind::Probabilities) => {
                checked_log_probabilities(generated.all_rows()?)?
            }
        };
        Ok(inception_score(
            &logs,
            &permutation::random_permutation(generated.len(), key, 0),
            self.splits,
        ))
    }
}

/// The inception score of log-probabilities, shape (n, classes), averaged over `splits` consecutive
/// parts of the rows in the given order.
pub fn inception_score(logs: &Array2<f64>, order: &[usize], splits: usize) -> Estimate {
    let n = order.len();
    let (mut scores, mut divergences) = (Vec::new(), Vec::with_capacity(n));
    for split in 0..splits {
        let logs = logs.select(
            Axis(0),
            &order[split * n / splits..(split + 1) * n / splits],
        );
        let marginal: Array1<f64> = logs.mapv(f64::exp).sum_axis(Axis(0)) / logs.nrows() as f64;
        let log_marginal = marginal.mapv(f64::ln);
        // The Kullback–Leibler divergence of one row from the marginal, in nats.
        let divergence = |row: ndarray::ArrayView1<f64>| -> f64 {
            // A class of probability 0 contributes 0, but would give 0 · (−∞).
            let terms = row
                .iter()
                .zip(&log_marginal)
                .filter(|(l, _)| **l > f64::NEG_INFINITY);
            terms.map(|(l, m)| l.exp() * (l - m)).sum()
        };
        let of_split: Vec<f64> = logs.rows().into_iter().map(divergence).collect();
        let mean = of_split.iter().sum::<f64>() / of_split.len() as f64;
        scores.push(mean.exp());
        divergences.extend(of_split.iter().map(|d| (d - mean) * mean.exp()));
    }
    let value = scores.iter().sum::<f64>() / splits as f64;
    Estimate {
        value,
        stderr: stats::mean_estimate(&divergences).and_then(|e| e.stderr),
        n,
    }
}

/// The log-probabilities of each row of logits.
pub fn log_softmax(mut logits: Array2<f64>) -> Array2<f64> {
    for mut row in logits.rows_mut() {
        let most = row.fold(f64::NEG_INFINITY, |a, b| a.max(*b));
        let sum = row.iter().map(|v| (v - most).exp()).sum::<f64>().ln() + most;
        row -= sum;
    }
    logits
}

/// The logarithms of rows of probabilities, normalized to a sum of exactly 1.
///
/// # Errors
/// Fails if a number is negative or a row does not sum to 1 within 1e-3.
fn checked_log_probabilities(rows: ArrayView2<f64>) -> Result<Array2<f64>, String> {
    for row in rows.rows() {
        let sum = row.sum();
        if row.iter().any(|p| *p < 0.0) || (sum - 1.0).abs() > 1e-3 {
            return Err(format!(
                "inception-score: the numbers of a sample sum to {sum}, and the smallest is {}; \
                 expected probabilities, which are not negative and sum to 1",
                row.fold(f64::INFINITY, |a, b| a.min(*b))
            ));
        }
    }
    let sums = rows.sum_axis(Axis(1)).insert_axis(Axis(1));
    Ok((&rows / &sums).mapv_into(f64::ln))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::{self, assert_stderr_calibrated, normal_samples};

    #[test]
    fn inception_score_of_certain_and_uniform_classes() {
        let certain = Array2::from_shape_fn((40, 4), |(i, j)| f64::from(u8::from(i % 4 == j)));
        let of = |x: &Array2<f64>, of| {
            testing::compute(
                &InceptionScore {
                    splits: 1,
                    of: Some(of),
                },
                x,
                x,
                0,
            )
        };
        assert!(
            (of(&certain, ClassScoreKind::Probabilities)
                .expect("fine")
                .value
                - 4.0)
                .abs()
                < 1e-12
        );
        let equal = Array2::from_elem((40, 4), 0.7);
        assert!((of(&equal, ClassScoreKind::Logits).expect("fine").value - 1.0).abs() < 1e-12);
        assert!(of(&equal, ClassScoreKind::Probabilities).is_err_and(|e| e.contains("sum to 1")));
        let without = testing::compute(&InceptionScore::default(), &certain, &certain, 0);
        assert!(without.is_err_and(|e| e.contains("logits")));
    }

    #[test]
    fn inception_score_stderr_matches_spread() {
        for splits in [1, 5] {
            let metric = InceptionScore {
                splits,
                of: Some(ClassScoreKind::Logits),
            };
            assert_stderr_calibrated(0.15, |i| {
                let x = normal_samples(i, 200, 4, 0.0, 2.0);
                testing::compute(&metric, &x, &x, i).expect("fine")
            });
        }
    }
}
