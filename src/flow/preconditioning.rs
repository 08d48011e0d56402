//! Scalings around a network that are not part of its graph.
//!
//! What a card calls the prediction is then P(x) = `skip`·x + `out`·F(`input`·x), F being the graph. Done here,
//! in f64, P keeps the digits that a graph in f32 loses where `skip`·x and P nearly cancel.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::path::{PathCoefficients, ProbabilityPath};
use super::prediction::Prediction;

/// The scalings, as a card's `network.preconditioning` names them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum Preconditioning {
    /// D = c_skip·x + c_out·F(c_in·x) with c_skip = σ_d²/(σ² + σ_d²), c_out = σσ_d/√(σ² + σ_d²) and
    /// c_in = 1/√(σ² + σ_d²) (Karras et al. 2022, Table 1). The time fed is ln(σ)/4 unless the card says otherwise.
    Edm {
        #[serde(default = "default_edm_sigma_data")]
        sigma_data: f64,
    },
    /// P = F(c_in·x) with c_in = 1/√(σ² + α²σ_d²): a network for states of unit variance, whose output is the
    /// card's prediction as it stands. On `edm` and `ve` this is how networks of DDPM are wrapped.
    ScaledInput {
        #[serde(default = "default_scaled_input_sigma_data")]
        sigma_data: f64,
    },
}

fn default_edm_sigma_data() -> f64 {
    0.5
}

fn default_scaled_input_sigma_data() -> f64 {
    1.0
}

/// The prediction is `skip`·x + `out`·F(`input`·x).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PreconditioningScales {
    pub skip: f64,
    pub out: f64,
    pub input: f64,
}

impl Preconditioning {
    pub fn at(self, s: &PathCoefficients) -> PreconditioningScales {
        match self {
            Preconditioning::Edm { sigma_data: d } => {
                let power = s.sigma * s.sigma + d * d;
                PreconditioningScales {
                    skip: d * d / power,
                    out: s.sigma * d / power.sqrt(),
                    input: 1.0 / power.sqrt(),
                }
            }
            Preconditioning::ScaledInput { sigma_data: d } => {
                let power = s.sigma * s.sigma + (s.alpha * d).powi(2);
                PreconditioningScales {
                    skip: 0.0,
                    out: 1.0,
                    input: 1.0 / power.sqrt(),
                }
            }
        }
    }

    /// Refuses what the scalings are not defined for, by the card's key.
    ///
    /// # Errors
    /// A sentence with the key and what would be right.
    pub fn check(self, prediction: Prediction, path: &ProbabilityPath) -> Result<(), String> {
        let (Preconditioning::Edm { sigma_data } | Preconditioning::ScaledInput { sigma_data }) =
            self;
        if !(sigma_data > 0.0 && sigma_data.is_finite()) {
            return Err(format!(
                "network.preconditioning: sigma_data is {sigma_data}, expected a number above 0"
            ));
        }
        if !matches!(self, Preconditioning::Edm { .. }) {
            return Ok(());
        }
        if prediction != Prediction::Denoised {
            return Err(
                "network.preconditioning: edm makes a denoiser of the graph's output; \
                        expected `prediction: denoised`"
                    .to_owned(),
            );
        }
        let unscaled = matches!(
            path,
            ProbabilityPath::Edm { .. } | ProbabilityPath::Ve { .. }
        );
        unscaled.then_some(()).ok_or_else(|| {
            format!(
                "network.preconditioning: edm is defined where alpha = 1, on the paths edm and ve; the path is {}",
                path.kind()
            )
        })
    }
}
