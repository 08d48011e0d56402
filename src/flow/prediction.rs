//! What a network predicts, and how velocity and denoiser follow from it.
//!
//! On a path x = α x₀ + σ ε every prediction F determines the conditional means of x₀ and ε, and
//! v = α' x₀ + σ' ε. Velocity and denoiser are therefore both of the form a·x + b·F, with scalars a
//! and b that depend only on time. For data of d dimensions, tr J_v = a·d + b·tr J_F.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::path::PathCoefficients;

/// The quantity that a network's output estimates, on the path x = α x₀ + σ ε.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[("denoised", &["sample", "x0", "x-0", "x-start", "xstart", "pred-x0", "pred-xstart"]), ("noise", &["epsilon", "eps"]), ("velocity", &["flow", "flow-prediction", "vector-field"]), ("v", &["v-prediction"])]))]
pub enum Prediction {
    /// The clean data: the conditional mean of x₀ given x.
    Denoised,
    /// The noise: the conditional mean of ε given x.
    Noise,
    /// The velocity dx/dt in the card's own time.
    Velocity,
    /// The score ∇ log p_t(x).
    Score,
    /// The v-prediction α ε − σ x₀ (Salimans & Ho 2022).
    V,
}

crate::registry::describe_kinds! { Prediction {
    "denoised" {
        what: "The network gives the clean data, the mean of x₀ given x.",
        when: "Networks of EDM, and those whose prediction is called `sample` or `x0`.",
        source: "Karras et al. 2022, arXiv:2206.00364",
    },
    "noise" {
        what: "The network gives the noise, the mean of ε given x.",
        when: "DDPM networks, whose prediction is called `epsilon`.",
        source: "Ho et al. 2020, arXiv:2006.11239",
    },
    "velocity" {
        what: "The network gives dx/dt in the card's own time.",
        when: "Flow matching and rectified flows.",
        source: "Lipman et al. 2023, arXiv:2210.02747",
    },
    "score" {
        what: "The network gives the gradient of the log-density of the noised data.",
        when: "Networks of score matching.",
        source: "Song et al. 2021, arXiv:2011.13456",
    },
    "v" {
        what: "The network gives α ε − σ x₀.",
        when: "Networks whose prediction is called `v_prediction`.",
        source: "Salimans & Ho 2022, arXiv:2202.00512",
    },
} }

/// A function `a`·x + `b`·F of the state x and the network's output F.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// The factor of the state x.
    pub a: f64,
    /// The factor of the network's output F.
    pub b: f64,
}

impl Prediction {
    /// Every prediction.
    pub const ALL: [Prediction; 5] = [
        Prediction::Denoised,
        Prediction::Noise,
        Prediction::Velocity,
        Prediction::Score,
        Prediction::V,
    ];

    /// Returns dx/dt as a function of x and the prediction.
    pub fn velocity(self, s: &PathCoefficients) -> Affine {
        // With q = α' σ − σ' α: v = (σ'/σ) x + (q/σ) x₀ = (α'/α) x − (q/α) ε.
        let q = s.alpha_dot * s.sigma - s.sigma_dot * s.alpha;
        match self {
            Prediction::Velocity => Affine { a: 0.0, b: 1.0 },
            Prediction::Denoised => Affine {
                a: s.sigma_dot / s.sigma,
                b: q / s.sigma,
            },
            Prediction::Noise => Affine {
                a: s.alpha_dot / s.alpha,
                b: -q / s.alpha,
            },
            Prediction::Score => Affine {
                a: s.alpha_dot / s.alpha,
                b: q * s.sigma / s.alpha,
            },
            Prediction::V => {
                let power = s.alpha * s.alpha + s.sigma * s.sigma;
                Affine {
                    a: (s.alpha_dot * s.alpha + s.sigma_dot * s.sigma) / power,
                    b: -q / power,
                }
            }
        }
    }

    /// Returns the denoiser, the conditional mean of x₀ given x, as a function of x and the
    /// prediction.
    pub fn denoised(self, s: &PathCoefficients) -> Affine {
        let q = s.alpha_dot * s.sigma - s.sigma_dot * s.alpha;
        match self {
            Prediction::Denoised => Affine { a: 0.0, b: 1.0 },
            Prediction::Noise => Affine {
                a: 1.0 / s.alpha,
                b: -s.sigma / s.alpha,
            },
            Prediction::Velocity => Affine {
                a: -s.sigma_dot / q,
                b: s.sigma / q,
            },
            Prediction::Score => Affine {
                a: 1.0 / s.alpha,
                b: s.sigma * s.sigma / s.alpha,
            },
            Prediction::V => {
                let power = s.alpha * s.alpha + s.sigma * s.sigma;
                Affine {
                    a: s.alpha / power,
                    b: -s.sigma / power,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::path::ProbabilityPath;

    /// The exact prediction of each kind for a standard normal x₀, for which D = αx/(α² + σ²).
    fn prediction(kind: Prediction, s: &PathCoefficients, x: f64) -> f64 {
        let variance = s.alpha * s.alpha + s.sigma * s.sigma;
        let (x0, eps) = (s.alpha * x / variance, s.sigma * x / variance);
        match kind {
            Prediction::Denoised => x0,
            Prediction::Noise => eps,
            Prediction::Velocity => s.alpha_dot * x0 + s.sigma_dot * eps,
            Prediction::Score => -x / variance,
            Prediction::V => s.alpha * eps - s.sigma * x0,
        }
    }

    #[test]
    fn velocity_and_denoised_agree_for_all_predictions() {
        for path in ProbabilityPath::defaults() {
            let curve = path.curve().expect("defaults are right");
            for u in [0.05, 0.3, 0.62, 0.95] {
                let s = curve.at(curve.data_end() + u * (curve.prior_end() - curve.data_end()));
                let x = 1.3;
                let truth_v = prediction(Prediction::Velocity, &s, x);
                let truth_d = prediction(Prediction::Denoised, &s, x);
                for kind in Prediction::ALL {
                    let f = prediction(kind, &s, x);
                    let (v, d) = (kind.velocity(&s), kind.denoised(&s));
                    let scale = 1.0 + truth_v.abs() + v.a.abs() + (v.b * f).abs();
                    assert!(
                        (v.a * x + v.b * f - truth_v).abs() <= 1e-12 * scale,
                        "{path:?} {kind:?}"
                    );
                    let scale = 1.0 + truth_d.abs() + (d.a * x).abs() + (d.b * f).abs();
                    assert!(
                        (d.a * x + d.b * f - truth_d).abs() <= 1e-12 * scale,
                        "{path:?} {kind:?}"
                    );
                }
            }
        }
    }
}
