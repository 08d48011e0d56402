//! The two ends at which a path is cut off, and the effect on a log-likelihood.
//!
//! A likelihood integrates from the path's data end, where σ is small but not zero, to its prior
//! end, where α is small but not zero. The result is therefore the log-density of data with a small
//! amount of noise, under a prior that the state follows only approximately.

use super::path::PathCurve;
use super::prediction::Prediction;
use super::prior::Prior;

/// One end of a path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Endpoint {
    /// The card's time.
    pub t: f64,
    /// The scale α of the data.
    pub alpha: f64,
    /// The standard deviation σ of the noise.
    pub sigma: f64,
}

impl Endpoint {
    /// Returns the signal-to-noise ratio (α/σ)²; it is infinite at σ = 0.
    pub fn snr(&self) -> f64 {
        (self.alpha / self.sigma).powi(2)
    }
}

/// Both ends of a path, with the prior at the prior end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truncation {
    /// The data end.
    pub data: Endpoint,
    /// The prior end.
    pub prior: Endpoint,
    /// The prior's standard deviation.
    prior_std: f64,
}

impl Truncation {
    /// Returns the two ends of `curve` under `prior`.
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

    /// Returns KL(p_T ‖ π) in nats per dimension for data N(0, c²I). The mean log-likelihood under
    /// the prior π is lower by this amount than under the exact marginal p_T.
    pub fn gaussian_prior_kl(&self, c: f64) -> f64 {
        gaussian_kl(
            (self.prior.alpha * c).powi(2) + self.prior.sigma.powi(2),
            self.prior_std,
        )
    }

    /// Returns an upper bound on KL(p_T ‖ π) in nats per dimension, for any data whose components
    /// have the given mean square. KL is convex, so the KL of a mixture of N(αx₀, σ²I) is at most
    /// the mean of the KLs of the components.
    pub fn prior_kl_bound(&self, mean_square: f64) -> f64 {
        gaussian_kl(self.prior.sigma.powi(2), self.prior_std)
            + 0.5 * mean_square * (self.prior.alpha / self.prior_std).powi(2)
    }

    /// Describes both ends in one sentence for the user.
    ///
    /// The noise and the KL are properties of the path. They apply to the model if the network
    /// follows the path. A denoiser does so by its definition; an arbitrary velocity need not.
    pub fn describe(&self, prediction: Prediction) -> String {
        let (d, p) = (self.data, self.prior);
        let assumed = match prediction {
            Prediction::Velocity => {
                "; both hold only if the velocity belongs to this path, which cannot be verified"
            }
            _ => "; both describe the path, and the network is assumed to have learned it",
        };
        format!(
            "from t = {} (sigma {}, alpha {}, SNR {}): log-densities are of data with that noise; \
             to t = {} (sigma {}, alpha {}, SNR {}), where KL(p_T || prior) is {} nats/dim for \
             data N(0, I), and at most {} for any data of mean square 1{assumed}",
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

/// Formats a number with four significant digits, without an exponent if it is of moderate size.
fn format_four_digits(value: f64) -> String {
    let rounded: f64 = format!("{value:.3e}").parse().unwrap_or(value);
    if (1e-4..1e6).contains(&rounded.abs()) || rounded == 0.0 {
        rounded.to_string()
    } else {
        format!("{rounded:e}")
    }
}

/// Returns KL(N(0, v) ‖ N(0, s²)) in nats, for the variance `v` and the standard deviation `s`.
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
            let ends = Truncation::new(&curve, Prior::isotropic(curve.prior_std()));
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

    /// On the path edm σ_T is the prior's standard deviation. The KL of data N(0, c²I) is therefore
    /// ½(c²/σ² − ln(1 + c²/σ²)).
    #[test]
    fn edm_prior_kl_of_a_gaussian_matches_formula() {
        let curve = ProbabilityPath::Edm {
            sigma_min: 0.02,
            sigma_max: 2.0,
        }
        .curve()
        .expect("right");
        let ends = Truncation::new(&curve, Prior::isotropic(2.0));
        assert!((ends.gaussian_prior_kl(1.0) - 0.5 * (0.25 - 1.25f64.ln())).abs() < 1e-15);
        assert!((ends.prior_kl_bound(1.0) - 0.125).abs() < 1e-15);
        let sentence = ends.describe(Prediction::Denoised);
        assert!(
            sentence.contains("t = 0.02")
                && sentence.contains("t = 2")
                && sentence.contains("assumed to have learned")
        );
        assert!(
            ends.describe(Prediction::Velocity)
                .contains("if the velocity belongs to this path")
        );
    }
}
