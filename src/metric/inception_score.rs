//! The inception score exp(E KL(p(y|x) ‖ p(y))) of the generated samples (Salimans et al. 2016).

use ndarray::{Array1, Array2, ArrayView2, Axis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_set::FeatureSet;
use super::{Statistic, permutation};
use crate::num::key::RngKey;
use crate::num::stats::{self, Estimate};

/// What the rows are, where they are not features with logits beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[("probabilities", &["probs"])]))]
pub enum ClassScoreKind {
    Logits,
    Probabilities,
}

/// The mean over `splits` disjoint random parts, as the field reports it.
///
/// Classes are those of the extractor's output `logits`; `of` says that the samples' own numbers are logits or
/// probabilities. The reference is not looked at. The score is biased downwards by about (classes − 1)/2n in its
/// logarithm, n the samples of a split: `splits: 1` has the least bias, 10 is the field's convention.
///
/// The standard error is the delta method's over samples: the influence of a sample on the mean divergence is
/// its own divergence. The spread over splits, which the field prints after ±, is no error of their mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InceptionScore {
    pub splits: usize,
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
                "inception-score: it needs class logits: name an extractor with an output `logits`, or say with \
                 `{inception-score: {of: logits}}` or `of: probabilities` that the samples' own numbers are such",
            )?),
            Some(ClassScoreKind::Logits) => log_softmax(generated.all_rows()?.to_owned()),
            Some(ClassScoreKind::Probabilities) => checked_log_probabilities(generated.all_rows()?)?,
        };
        Ok(inception_score(
            &logs,
            &permutation::random_permutation(generated.len(), key, 0),
            self.splits,
        ))
    }
}

/// The score of log-probabilities whose rows are split in the given order.
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
        let divergence = |row: ndarray::ArrayView1<f64>| -> f64 {
            // A class of probability 0 adds nothing.
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

/// Logarithms of the probabilities of each row.
pub fn log_softmax(mut logits: Array2<f64>) -> Array2<f64> {
    for mut row in logits.rows_mut() {
        let most = row.fold(f64::NEG_INFINITY, |a, b| a.max(*b));
        let sum = row.iter().map(|v| (v - most).exp()).sum::<f64>().ln() + most;
        row -= sum;
    }
    logits
}

fn checked_log_probabilities(rows: ArrayView2<f64>) -> Result<Array2<f64>, String> {
    for row in rows.rows() {
        let sum = row.sum();
        if row.iter().any(|p| *p < 0.0) || (sum - 1.0).abs() > 1e-3 {
            return Err(format!(
                "inception-score: a row sums to {sum} with a smallest number of {}; probabilities are not negative and sum to 1",
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
