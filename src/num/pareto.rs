//! The generalized Pareto distribution, which the largest of many values exceed a threshold by, and
//! its fit to such values.

use super::stats::weighted_quantile;

/// A generalized Pareto distribution of exceedances y ≥ 0, with the distribution function
/// 1 − (1 + k·y/σ)^(−1/k).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GeneralizedPareto {
    /// The shape k. Moments of order 1/k and above are infinite; below 0 the exceedances are
    /// bounded.
    pub shape: f64,
    /// The scale σ, in the unit of the exceedances.
    pub scale: f64,
}

/// A shape closer to 0 than this is that of the exponential distribution.
const EXPONENTIAL_SHAPE: f64 = 1e-4;

impl GeneralizedPareto {
    /// E\[y\] and E\[y²\] over all exceedances but the largest, which have the probability
    /// `beyond`. They are finite for every shape if `beyond` is above 0.
    pub fn truncated_moments(self, beyond: f64) -> [f64; 2] {
        let (k, log) = (self.shape, beyond.min(1.0).ln());
        if k.abs() < EXPONENTIAL_SHAPE {
            let first = 1.0 - beyond * (1.0 - log);
            let second = 2.0 - beyond * (log * log - 2.0 * log + 2.0);
            return [self.scale * first, self.scale.powi(2) * second];
        }
        // y = σ (v^(−k) − 1)/k for uniform v, so that the moments are sums of ∫ v^(−a) dv.
        let integral = |a: f64| {
            let b = 1.0 - a;
            if (b * log).abs() < 1e-8 {
                -log
            } else {
                -(b * log).exp_m1() / b
            }
        };
        let (all, once, twice) = (integral(0.0), integral(k), integral(2.0 * k));
        let unit = self.scale / k;
        [
            unit * (once - all),
            unit * unit * (twice - 2.0 * once + all),
        ]
    }
}

/// A fit of the generalized Pareto distribution to exceedances: the weights that the data give to
/// distributions on a grid.
#[derive(Debug, Clone, PartialEq)]
pub struct ParetoFit {
    /// The distribution at the mean of the grid, which is Zhang & Stephens' estimate.
    pub best: GeneralizedPareto,
    /// The distributions of the grid with their weights, which sum to 1.
    pub posterior: Vec<(f64, GeneralizedPareto)>,
    /// The number of exceedances.
    pub n: usize,
}

/// The smallest number of exceedances that is fitted, as in PSIS.
pub const MIN_EXCEEDANCES: usize = 5;

impl ParetoFit {
    /// Fits the distribution by the profile likelihood on a grid (Zhang & Stephens, Technometrics
    /// 51, 2009). The shape is drawn towards 0.5 as by ten further exceedances (Vehtari et al.,
    /// JMLR 25, 2024).
    ///
    /// `sorted` are exceedances in ascending order. `None` for fewer than [`MIN_EXCEEDANCES`], and
    /// if all of them are 0, as those of equal values are.
    pub fn new(sorted: &[f64]) -> Option<ParetoFit> {
        let n = sorted.len();
        let largest = sorted
            .last()
            .copied()
            .filter(|y| y.is_finite() && *y > 0.0)?;
        if n < MIN_EXCEEDANCES {
            return None;
        }
        // Exceedances can be too small beside the largest for their ratio to be a number.
        let tiny = largest * 1e-290;
        let y: Vec<f64> = sorted.iter().map(|y| y.max(tiny)).collect();
        let quartile = y[((n as f64 / 4.0 + 0.5) as usize).max(1) - 1];
        let grid = 30 + (n as f64).sqrt() as usize;
        let shape_at = |theta: f64| y.iter().map(|y| (-theta * y).ln_1p()).sum::<f64>() / n as f64;
        let thetas: Vec<f64> = (1..=grid)
            .map(|j| {
                let spread = (grid as f64 / (j as f64 - 0.5)).sqrt();
                1.0 / largest + (1.0 - spread) / (3.0 * quartile)
            })
            .collect();
        let log_likelihoods: Vec<f64> = thetas
            .iter()
            .map(|theta| {
                let k = shape_at(*theta);
                n as f64 * ((-theta / k).ln() - k - 1.0)
            })
            .collect();
        let finite = log_likelihoods.iter().copied().filter(|l| l.is_finite());
        let top = finite.fold(f64::NEG_INFINITY, f64::max);
        let weight = |l: f64| if l.is_finite() { (l - top).exp() } else { 0.0 };
        let total: f64 = log_likelihoods.iter().map(|l| weight(*l)).sum();
        let weighted = || {
            let weights = log_likelihoods.iter().map(|l| weight(*l) / total);
            weights
                .zip(&thetas)
                .filter(|(w, _)| *w > 10.0 * f64::EPSILON)
        };
        let at = |theta: f64| {
            let k = shape_at(theta);
            GeneralizedPareto {
                shape: (n as f64 * k + 10.0 * 0.5) / (n as f64 + 10.0),
                scale: -k / theta,
            }
        };
        let kept: f64 = weighted().map(|(w, _)| w).sum();
        Some(ParetoFit {
            best: at(weighted().map(|(w, theta)| w / kept * theta).sum()),
            posterior: weighted()
                .map(|(w, theta)| (w / kept, at(*theta)))
                .collect(),
            n,
        })
    }

    /// The standard deviation of the shape.
    pub fn shape_stderr(&self) -> f64 {
        let mean: f64 = self.posterior.iter().map(|(w, p)| w * p.shape).sum();
        let square = |p: &GeneralizedPareto| (p.shape - mean).powi(2);
        self.posterior
            .iter()
            .map(|(w, p)| w * square(p))
            .sum::<f64>()
            .sqrt()
    }

    /// The shape below which the probability is `share`.
    pub fn shape_quantile(&self, share: f64) -> f64 {
        let shapes = self.posterior.iter().map(|(w, p)| (*w, p.shape));
        weighted_quantile(shapes.collect(), share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::key::{Purpose, RngKey};

    /// The truncated moments are the means of y and y² over the quantiles below 1 − p.
    #[test]
    fn truncated_moments_agree_with_quadrature() {
        for shape in [-0.7, -1e-5, 0.0, 0.3, 0.5, 0.9, 1.0, 2.0] {
            for beyond in [0.1, 1e-3] {
                let pareto = GeneralizedPareto { shape, scale: 1.7 };
                let n = 2_000_000;
                let quantile = |i: usize| {
                    let v = beyond + (1.0 - beyond) * (i as f64 + 0.5) / n as f64;
                    match shape {
                        0.0 => -1.7 * v.ln(),
                        k => 1.7 * (-k * v.ln()).exp_m1() / k,
                    }
                };
                let [first, second] = (0..n).map(quantile).fold([0.0; 2], |[a, b], y| {
                    let share = (1.0 - beyond) / n as f64;
                    [a + share * y, b + share * y * y]
                });
                let found = pareto.truncated_moments(beyond);
                assert!((found[0] / first - 1.0).abs() < 1e-4, "{shape} {beyond}");
                assert!((found[1] / second - 1.0).abs() < 1e-4, "{shape} {beyond}");
            }
        }
    }

    /// The fit finds the shape of its own distribution within the spread that it states, and a
    /// larger scale scales it alone.
    #[test]
    fn fit_finds_the_shape_of_its_distribution() {
        for shape in [-0.3, 0.2, 0.6] {
            let mut scaled_errors = Vec::new();
            for trial in 0..60 {
                let uniform = RngKey { seed: 3 }.uniform(Purpose::Check, trial, 0, 400);
                let mut y: Vec<f64> = uniform
                    .iter()
                    .map(|v| 2.0 * (-shape * (1.0 - v).ln()).exp_m1() / shape)
                    .collect();
                y.sort_by(f64::total_cmp);
                let fit = ParetoFit::new(&y).expect("exceedances");
                // The prior draws the shape towards 0.5.
                let expected = (400.0 * shape + 5.0) / 410.0;
                scaled_errors.push((fit.best.shape - expected) / fit.shape_stderr());
                let large: Vec<f64> = y.iter().map(|y| 1e5 * y).collect();
                let other = ParetoFit::new(&large).expect("exceedances").best;
                assert!((other.shape - fit.best.shape).abs() < 1e-9);
                assert!((other.scale / fit.best.scale / 1e5 - 1.0).abs() < 1e-9);
            }
            let rms = crate::num::stats::rms(&scaled_errors).expect("trials");
            assert!((0.8..1.25).contains(&rms), "{shape}: {rms}");
        }
        assert_eq!(ParetoFit::new(&[0.0; 9]), None);
        assert_eq!(ParetoFit::new(&[1.0; 4]), None);
    }
}
