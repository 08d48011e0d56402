//! Where a path is cut off, and what that costs a log-likelihood.
//!
//! A likelihood integrates from the path's data end, where σ is small and not zero, to its prior end, where α is
//! small and not zero: it is the log-density of data with that much noise, under a prior that the state does not
//! quite follow.

use super::path::PathCurve;
use super::prediction::Prediction;
use super::prior::Prior;

/// One end of a path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Endpoint {
    pub t: f64,
    pub alpha: f64,
    pub sigma: f64,
}

impl Endpoint {
    /// (α/σ)²; infinite where no noise is left.
    pub fn snr(&self) -> f64 {
        (self.alpha / self.sigma).powi(2)
    }
}

/// Both ends of a path under a prior.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truncation {
    pub data: Endpoint,
    pub prior: Endpoint,
    prior_std: f64,
}

impl Truncation {
    pub fn new(curve: &PathCurve, prior: Prior) -> Truncation {
        let end = |t: f64| {
            let s = curve.at(t);
            Endpoint {
                t,
                alpha: s.alpha,
                sigma: s.sigma,
            }
        };
        Truncation {
            data: end(curve.data_end()),
            prior: end(curve.prior_end()),
            prior_std: prior.std,
        }
    }

    /// KL(p_T ‖ π) in nats per dimension for data N(0, c²I): by so much does a mean log-likelihood fall short of
    /// that of the right prior.
    pub fn gaussian_prior_kl(&self, c: f64) -> f64 {
        gaussian_kl(
            (self.prior.alpha * c).powi(2) + self.prior.sigma.powi(2),
            self.prior_std,
        )
    }

    /// A bound on KL(p_T ‖ π) in nats per dimension for any data of that mean square per number: KL is convex, so
    /// that of a mixture of N(αx₀, σ²I) is at most the mean of theirs.
    pub fn prior_kl_bound(&self, mean_square: f64) -> f64 {
        gaussian_kl(self.prior.sigma.powi(2), self.prior_std)
            + 0.5 * mean_square * (self.prior.alpha / self.prior_std).powi(2)
    }

    /// Both ends in one sentence. Noise and mismatch are those of the path, and the network's where it follows the
    /// path: a denoiser does so by what it predicts, an arbitrary velocity need not.
    pub fn describe(&self, prediction: Prediction) -> String {
        let (d, p) = (self.data, self.prior);
        let assumed = match prediction {
            Prediction::Velocity => {
                "; both hold if the velocity is of this path, which cannot be told from it"
            }
            _ => "; both are of the path, which the network is taken to have learned",
        };
        format!(
            "from t = {} (sigma {}, alpha {}, SNR {}): log-densities are of data with that noise; \
             to t = {} (sigma {}, alpha {}, SNR {}), where KL(p_T || prior) is {} nats/dim for data \
             N(0, I), and at most {} for any data of mean square 1{assumed}",
            d.t,
            format_four_digits(d.sigma),
            format_four_digits(d.alpha),
            format_four_digits(d.snr()),
            p.t,
            format_four_digits(p.sigma),
            format_four_digits(p.alpha),
            format_four_digits(p.snr()),
            format_four_digits(self.gaussian_prior_kl(1.0)),
            format_four_digits(self.prior_kl_bound(1.0))
        )
    }
}

/// Four significant digits, written out where that is short.
fn format_four_digits(value: f64) -> String {
    let rounded: f64 = format!("{value:.3e}").parse().unwrap_or(value);
    if (1e-4..1e6).contains(&rounded.abs()) || rounded == 0.0 {
        rounded.to_string()
    } else {
        format!("{rounded:e}")
    }
}

/// KL(N(0, v) ‖ N(0, s²)).
fn gaussian_kl(v: f64, s: f64) -> f64 {
    let ratio = v / (s * s);
    0.5 * (ratio - 1.0 - ratio.ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::path::ProbabilityPath;

    #[test]
    fn four_digit_numbers_are_short() {
        let written: Vec<String> = [20.0, 0.02, 1.0 / 3.0, 1.5624e-4, 2.5e-7, 0.0]
            .map(format_four_digits)
            .to_vec();
        assert_eq!(
            written,
            ["20", "0.02", "0.3333", "0.0001562", "2.5e-7", "0"]
        );
    }

    #[test]
    fn prior_kl_bound_holds_and_is_tight_for_a_point_mass() {
        for path in ProbabilityPath::defaults() {
            let curve = path.curve().expect("right");
            let ends = Truncation::new(
                &curve,
                Prior {
                    std: curve.prior_std(),
                },
            );
            assert!(
                ends.gaussian_prior_kl(1.0) <= ends.prior_kl_bound(1.0) + 1e-15,
                "{path:?}"
            );
            assert!(
                (ends.gaussian_prior_kl(0.0) - ends.prior_kl_bound(0.0)).abs() < 1e-15,
                "{path:?}"
            );
            assert!(
                ends.prior_kl_bound(1.0) < 0.05 && ends.data.snr() > ends.prior.snr(),
                "{path:?} {ends:?}"
            );
        }
    }

    /// On edm σ_T is the prior's width, so N(0, c²I) is off by ½(c²/σ² − ln(1 + c²/σ²)).
    #[test]
    fn edm_prior_kl_of_a_gaussian_matches_formula() {
        let curve = ProbabilityPath::Edm {
            sigma_min: 0.02,
            sigma_max: 2.0,
        }
        .curve()
        .expect("right");
        let ends = Truncation::new(&curve, Prior { std: 2.0 });
        assert!((ends.gaussian_prior_kl(1.0) - 0.5 * (0.25 - 1.25f64.ln())).abs() < 1e-15);
        assert!((ends.prior_kl_bound(1.0) - 0.125).abs() < 1e-15);
        let sentence = ends.describe(Prediction::Denoised);
        assert!(
            sentence.contains("t = 0.02")
                && sentence.contains("t = 2")
                && sentence.contains("taken to have")
        );
        assert!(
            ends.describe(Prediction::Velocity)
                .contains("if the velocity is of this path")
        );
    }
}
