//! The Fréchet distance extrapolated to infinitely many generated samples (Chong & Forsyth 2020).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_set::FeatureSet;
use super::frechet::{self, FrechetInfluence, GaussianFit};
use super::{Statistic, max_keeping_nan, permutation};
use crate::num::key::RngKey;
use crate::num::stats::{self, Estimate};

/// The Fréchet distance extrapolated to infinitely many generated samples: the intercept of a line
/// fitted to distances over 1/n, for n = N, N/2, …, N/`points` generated samples.
///
/// For each m from 2 to `points`, the generated samples are split at random into m disjoint blocks.
/// The distances of the blocks to the whole reference are averaged. The average over m blocks has
/// weight 1/m in the fit: the second-order noise of a block grows as m/N, and averaging m blocks
/// reduces it by √m. As in the paper, the reference is not split, so the bias due to its own size
/// remains.
///
/// Every average uses all generated samples, so to first order each has the same error as the
/// distance itself. The weights of the intercept sum to 1, so the intercept also has this error.
/// Its standard error is that of `frechet`, combined with the second-order noise, which is
/// estimated from the spread of the blocks. A fit through overlapping subsets would have no such
/// standard error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FrechetInfinity {
    /// The number of sample sizes in the fit, from 2 to 100 and at most half the number of
    /// generated samples. The default is 5.
    pub points: usize,
}

impl Default for FrechetInfinity {
    fn default() -> Self {
        FrechetInfinity { points: 5 }
    }
}

impl Statistic for FrechetInfinity {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        frechet::check_covariance_counts("frechet-infinity", generated, reference)?;
        let fine = (2..=100).contains(&self.points) && generated >= 2 * self.points;
        fine.then_some(()).ok_or_else(|| {
            format!(
                "frechet-infinity: points is {} for {generated} generated samples, \
                 expected 2 to {}",
                self.points,
                (generated / 2).min(100)
            )
        })
    }

    fn is_biased(&self) -> bool {
        false
    }

    fn compute(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        key: RngKey,
    ) -> Result<Estimate, String> {
        let n = generated.len();
        // With fewer samples than columns, the distance is not linear in 1/n.
        let (smallest, width) = (n / self.points, generated.width());
        if smallest <= width {
            return Err(format!(
                "frechet-infinity: with points {}, the smallest blocks have {smallest} samples of \
                 {width} numbers each; expected more samples than numbers: draw at least {} \
                 samples, or lower `points`",
                self.points,
                self.points * (width + 1)
            ));
        }
        let r = GaussianFit::fit_all_rows(reference)?;
        let g = GaussianFit::fit_all_rows(generated)?;
        let coupling = FrechetInfluence::between_fits(&g, &r)?;
        let of_generated = coupling.variance(generated, &g, 0, key)?;
        let first = of_generated + coupling.variance(reference, &r, 1, key)?;

        let mut line = vec![ExtrapolationPoint {
            inverse_size: 1.0 / n as f64,
            weight: 1.0,
            distance: coupling.distance,
            second_order_variance: None,
        }];
        for m in 2..=self.points {
            let order = permutation::random_permutation(n, key, 1000 + m as u64);
            let distances: Vec<f64> = (0..m)
                .map(|b| {
                    frechet::frechet_distance(
                        &GaussianFit::fit_rows(generated, &order[b * n / m..(b + 1) * n / m])?,
                        &r,
                    )
                })
                .collect::<Result<_, String>>()?;
            let mean = stats::mean_estimate(&distances).ok_or("frechet-infinity: no block")?;
            // The squared standard error over blocks also contains the first-order variance, which
            // the distance of all samples already has. Subtracting it leaves the second-order
            // noise.
            let noise = mean
                .stderr
                .map(|e| max_keeping_nan(e * e - of_generated, 0.0));
            line.push(ExtrapolationPoint {
                inverse_size: m as f64 / n as f64,
                weight: 1.0 / m as f64,
                distance: mean.value,
                second_order_variance: noise,
            });
        }
        let (value, weights) = weighted_intercept(&line);
        // The noise variance of the average over m blocks is c·m/N². One constant is estimated from
        // all points.
        let scale = line
            .iter()
            .filter_map(|p| Some(p.second_order_variance? * p.weight))
            .sum::<f64>()
            / (line.len() - 1) as f64;
        let second: f64 = line
            .iter()
            .zip(&weights)
            .map(|(p, w)| w * w * scale / p.weight)
            .sum();
        Ok(Estimate {
            value,
            stderr: Some((first + second).sqrt()),
            n,
        })
    }
}

/// One point of the fit: the average distance of the blocks of one size.
struct ExtrapolationPoint {
    /// The number 1/n for blocks of n samples.
    inverse_size: f64,
    /// The weight in the fit.
    weight: f64,
    /// The average distance of the blocks.
    distance: f64,
    /// The second-order part of the variance of `distance`; `None` if there is only one block.
    second_order_variance: Option<f64>,
}

/// The value at 0 of the weighted least-squares line, and the weight of each distance in this
/// value. These weights sum to 1.
fn weighted_intercept(line: &[ExtrapolationPoint]) -> (f64, Vec<f64>) {
    let total: f64 = line.iter().map(|p| p.weight).sum();
    let centre = line.iter().map(|p| p.weight * p.inverse_size).sum::<f64>() / total;
    let spread: f64 = line
        .iter()
        .map(|p| p.weight * (p.inverse_size - centre).powi(2))
        .sum();
    let weights: Vec<f64> = line
        .iter()
        .map(|p| p.weight * (1.0 / total - centre * (p.inverse_size - centre) / spread))
        .collect();
    (
        line.iter().zip(&weights).map(|(p, w)| p.distance * w).sum(),
        weights,
    )
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::metric::testing::{self, normal_samples};

    #[test]
    fn intercept_of_exact_line() {
        let line: Vec<ExtrapolationPoint> = (1..=4)
            .map(|m| {
                let m = f64::from(m);
                ExtrapolationPoint {
                    inverse_size: m / 40.0,
                    weight: 1.0 / m,
                    distance: 3.0 + 5.0 * m / 40.0,
                    second_order_variance: None,
                }
            })
            .collect();
        let (value, weights) = weighted_intercept(&line);
        assert!((value - 3.0).abs() < 1e-12);
        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn frechet_infinity_is_unbiased_and_covers_truth() {
        // Samples of N(0, I) against a reference with exactly the mean 0.1 and the covariance 1.2²
        // I, so the true distance is known.
        let (d, repeats) = (8, 500);
        let reach = 1.2 * ((2 * d * repeats - 1) as f64 / (2 * repeats) as f64).sqrt();
        let reference = Array2::from_shape_fn((2 * d * repeats, d), |(i, j)| {
            let on = i % d == j;
            0.1 + if on {
                reach * if i / d % 2 == 0 { 1.0 } else { -1.0 }
            } else {
                0.0
            }
        });
        let truth = d as f64 * (0.01 + 0.04);
        let results: Vec<(f64, f64, f64)> = (0..100)
            .map(|i| {
                let x = normal_samples(i + 10, 400, d, 0.0, 1.0);
                let plain = testing::compute(&frechet::Frechet {}, &x, &reference, 0)
                    .expect("fine")
                    .value;
                let got =
                    testing::compute(&FrechetInfinity::default(), &x, &reference, i).expect("fine");
                (
                    plain - truth,
                    got.value - truth,
                    got.stderr.expect("defined"),
                )
            })
            .collect();
        let mean = |f: &dyn Fn(&(f64, f64, f64)) -> f64| {
            stats::mean_estimate(&results.iter().map(f).collect::<Vec<_>>()).expect("many")
        };
        let (plain, bias) = (mean(&|r| r.0), mean(&|r| r.1));
        let error = bias.stderr.expect("many");
        assert!(plain.value > 4.0 * error, "nothing to remove: {plain:?}");
        assert!(bias.value.abs() < 4.0 * error, "{plain:?} {bias:?}");
        let covered = results
            .iter()
            .filter(|r| r.1.abs() < stats::Z95 * r.2)
            .count();
        println!(
            "covered {covered} of 100; biases {} {}",
            plain.value, bias.value
        );
        assert!(
            (88..=100).contains(&covered),
            "{covered} of 100 intervals contain the true distance"
        );
    }

    #[test]
    fn blocks_smaller_than_feature_width_are_refused() {
        let (x, y) = (
            normal_samples(1, 40, 9, 0.0, 1.0),
            normal_samples(2, 40, 9, 0.0, 1.0),
        );
        let refused =
            testing::compute(&FrechetInfinity::default(), &x, &y, 0).expect_err("8 samples");
        assert!(refused.contains("at least 50 samples"), "{refused}");
    }
}
