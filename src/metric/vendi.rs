//! The Vendi score, the effective number of distinct samples (Friedman & Dieng 2023).

use ndarray::{Array1, Array2, s};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Statistic;
use super::cmmd::normalize_rows;
use super::feature_set::{FeatureSet, READ_BLOCK_ROWS};
use crate::num::key::RngKey;
use crate::num::linalg::{self, Gram};
use crate::num::stats::Estimate;

/// The Vendi score: the exponential of the Rényi entropy of order q of the eigenvalues of K/n. The
/// matrix K contains the cosine similarities between the n generated samples.
///
/// For q = 1 the entropy is Shannon's. The nonzero eigenvalues are those of the D × D matrix ρ = Σ
/// x xᵀ/n for rows x of unit length, so K is never stored. The reference samples are not used. For
/// few samples the score is too small: it cannot exceed their number.
///
/// The standard error comes from the delta method. The influence of x is −xᵀ ln ρ x for q = 1, and
/// q/(1 − q) · xᵀ ρ^{q−1} x / tr ρ^q otherwise. Near the largest possible score the influences
/// vanish, and their estimates consist of the noise of ρ. If there are at least 4D samples, this
/// noise is removed with the covariance of influences under the ρ of two halves of the samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Vendi {
    /// The order q of the Rényi entropy, above 0. The default is 1.
    pub q: f64,
}

impl Default for Vendi {
    fn default() -> Self {
        Vendi { q: 1.0 }
    }
}

impl Statistic for Vendi {
    fn check(&self, generated: usize, _reference: usize) -> Result<(), String> {
        if generated < 2 {
            return Err(format!(
                "vendi: {generated} generated samples, expected at least 2"
            ));
        }
        let fine = self.q.is_finite() && self.q > 0.0;
        fine.then_some(())
            .ok_or_else(|| format!("vendi: q is {}, expected a number above 0", self.q))
    }

    fn is_biased(&self) -> bool {
        true
    }

    fn compute(
        &self,
        generated: &FeatureSet,
        _reference: &FeatureSet,
        _key: RngKey,
    ) -> Result<Estimate, String> {
        let n = generated.len();
        let rows = |block: &usize| -> Result<Array2<f64>, String> {
            let positions: Vec<usize> = (*block..n.min(block + READ_BLOCK_ROWS)).collect();
            normalize_rows("vendi", generated.rows_at(&positions)?.view())
        };
        let blocks: Vec<usize> = (0..n).step_by(READ_BLOCK_ROWS).collect();
        // One sum over the samples at even positions and one over the rest. Rows are in hash order,
        // so these are random halves.
        let parts: Vec<[Gram; 2]> = blocks
            .par_chunks(blocks.len().div_ceil(4))
            .map(|part| {
                let mut sums = [0, 1].map(|_| Gram::zeros(generated.width()));
                for block in part {
                    let rows = rows(block)?;
                    (0..2).for_each(|half| sums[half].add_rows(rows.slice(s![half..;2, ..])));
                }
                Ok(sums)
            })
            .collect::<Result<_, String>>()?;
        let mut halves = [0, 1].map(|_| Gram::zeros(generated.width()));
        for part in &parts {
            (0..2).for_each(|half| halves[half].add(&part[half]));
        }
        let halves = halves.map(|half| half.symmetric());
        let spectrum = |sum: Array2<f64>, of: usize| {
            let (values, vectors) =
                linalg::eigh((sum / of as f64).view()).map_err(str::to_owned)?;
            Ok::<_, String>((SpectrumEntropy::new(values, self.q), vectors))
        };
        let whole = spectrum(&halves[0] + &halves[1], n)?;
        let influences =
            |(spectrum, vectors): &(SpectrumEntropy, Array2<f64>)| -> Result<Array1<f64>, String> {
                let parts: Vec<Vec<f64>> = blocks
                    .par_iter()
                    .map(|block| {
                        let along = linalg::matmul(rows(block)?.view(), vectors.view());
                        Ok(along
                            .mapv_into(|v| v * v)
                            .dot(&spectrum.derivative)
                            .to_vec())
                    })
                    .collect::<Result<_, String>>()?;
                Ok(parts.concat().into())
            };
        let plain = influences(&whole)?;
        let mut variance = sample_covariance(&plain, &plain) / n as f64;
        if n >= 4 * generated.width() {
            let [a, b] = halves;
            let (a, b) = (
                influences(&spectrum(a, n.div_ceil(2))?)?,
                influences(&spectrum(b, n / 2)?)?,
            );
            let first = sample_covariance(&a, &b) / n as f64;
            // The plug-in variance contains the second-order term twice, and the covariance of the
            // halves does not contain it. The term belongs in the variance once, which the mean of
            // the two gives.
            variance = (0.5 * (variance + first)).clamp(0.5 * variance, variance);
        }
        let value = whole.0.entropy.exp();
        Ok(Estimate {
            value,
            stderr: Some(value * variance.sqrt()),
            n,
        })
    }
}

/// The sample covariance of two vectors, with divisor n − 1.
fn sample_covariance(a: &Array1<f64>, b: &Array1<f64>) -> f64 {
    let n = a.len() as f64;
    let (one, other) = (a.sum() / n, b.sum() / n);
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - one) * (b - other))
        .sum::<f64>()
        / (n - 1.0)
}

/// The Rényi entropy of a spectrum, and its derivatives.
struct SpectrumEntropy {
    /// The entropy in nats.
    entropy: f64,
    /// The derivative with respect to each eigenvalue, up to a common constant.
    derivative: Array1<f64>,
}

impl SpectrumEntropy {
    /// The entropy of order `q` of the eigenvalues `values`, which sum to 1.
    fn new(values: Array1<f64>, q: f64) -> SpectrumEntropy {
        // Eigenvalues below the rounding error of the largest one are treated as 0.
        let least = values.len() as f64 * f64::EPSILON * values.fold(0.0f64, |a, b| a.max(*b));
        let of = |f: &dyn Fn(f64) -> f64| values.mapv(|v| if v > least { f(v) } else { 0.0 });
        if q == 1.0 {
            let entropy = -of(&|v| v * v.ln()).sum();
            return SpectrumEntropy {
                entropy,
                derivative: -of(&f64::ln),
            };
        }
        let power = of(&|v| v.powf(q)).sum();
        SpectrumEntropy {
            entropy: power.ln() / (1.0 - q),
            derivative: of(&|v| v.powf(q - 1.0)) * (q / (1.0 - q) / power),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::{self, assert_stderr_calibrated, normal_samples};

    #[test]
    fn vendi_counts_orthogonal_samples() {
        // Four directions occur five times each, with different lengths: the score is 4 for every
        // order.
        let x = Array2::from_shape_fn(
            (20, 6),
            |(i, j)| if i % 4 == j { 1.0 + i as f64 } else { 0.0 },
        );
        for q in [0.5, 1.0, 2.0, 7.0] {
            let got = testing::compute(&Vendi { q }, &x, &x, 0).expect("fine");
            assert!((got.value - 4.0).abs() < 1e-10, "{q} {got:?}");
        }
        let same = Array2::<f64>::ones((9, 3));
        assert!(
            (testing::compute(&Vendi::default(), &same, &same, 0)
                .expect("fine")
                .value
                - 1.0)
                .abs()
                < 1e-12
        );
    }

    #[test]
    fn vendi_matches_gram_spectrum_for_few_samples() {
        let x = normal_samples(1, 7, 30, 0.2, 1.0);
        let u = normalize_rows("vendi", x.view()).expect("not zero");
        let values = linalg::eigvalsh((u.dot(&u.t()) / 7.0).view()).expect("finite");
        let want = (-values.iter().map(|v| v * v.ln()).sum::<f64>()).exp();
        let got = testing::compute(&Vendi::default(), &x, &x, 0)
            .expect("fine")
            .value;
        assert!((got - want).abs() < 1e-11 * want, "{got} {want}");
    }

    #[test]
    fn vendi_stderr_matches_spread() {
        for q in [1.0, 2.0] {
            assert_stderr_calibrated(0.15, |i| {
                let mut x = normal_samples(i, 300, 4, 0.0, 1.0);
                x.column_mut(0).mapv_inplace(|v| 3.0 * v + 1.0);
                testing::compute(&Vendi { q }, &x, &x, 0).expect("fine")
            });
        }
    }
}
