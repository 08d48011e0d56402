//! What a network predicts, as affine views of one another.
//!
//! On a path x = α x₀ + σ ε every prediction F fixes the conditional means of x₀ and ε, and
//! v = α' x₀ + σ' ε. So velocity = a·x + b·F and denoised = a·x + b·F with scalars of time
//! alone, and tr J_v = a·D + b·tr J_F.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::path::PathCoefficients;

/// The quantity that a network's output estimates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[("denoised", &["sample", "x0", "x-0", "x-start", "xstart", "pred-x0", "pred-xstart"]), ("noise", &["epsilon", "eps"]), ("velocity", &["flow", "flow-prediction", "vector-field"]), ("v", &["v-prediction"])]))]
pub enum Prediction {
    /// E\[x₀ | x\]
    Denoised,
    /// E\[ε | x\]
    Noise,
    /// dx/dt in the card's own time.
    Velocity,
    /// ∇ log p_t(x)
    Score,
    /// α ε − σ x₀ (Salimans & Ho 2022).
    V,
}

/// `a`·x + `b`·F.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    pub a: f64,
    pub b: f64,
}

impl Prediction {
    pub const ALL: [Prediction; 5] = [
        Prediction::Denoised,
        Prediction::Noise,
        Prediction::Velocity,
        Prediction::Score,
        Prediction::V,
    ];

    /// dx/dt from x and the prediction.
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

    /// E\[x₀ | x\] from x and the prediction.
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

    /// The prediction of a standard normal x₀ (D = αx/(α²+σ²)) in each view, from its closed forms.
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
