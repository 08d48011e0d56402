//! Scalings of a network's input and output that are not part of its ONNX graph.
//!
//! If F is the graph, the prediction is P(x) = `skip`·x + `out`·F(`input`·x). The scalings are
//! applied here in f64. A graph that applies them in f32 loses digits if `skip`·x and P nearly
//! cancel.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::path::{PathCoefficients, ProbabilityPath};
use super::prediction::Prediction;

/// Scalings of the network's input and output that are not part of its graph.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum Preconditioning {
    /// The denoiser is D(x) = c_skip·x + c_out·F(c_in·x), with c_skip = σ_d²/(σ² + σ_d²),
    /// c_out = σσ_d/√(σ² + σ_d²) and c_in = 1/√(σ² + σ_d²) (Karras et al. 2022, Table 1). The
    /// time input of the graph gets ln(σ)/4 unless `network.time` says otherwise. This form needs
    /// `prediction: denoised` and the path `edm` or `ve`.
    Edm {
        /// σ_d, the standard deviation of the data (default: 0.5).
        #[serde(default = "default_edm_sigma_data")]
        sigma_data: f64,
    },
    /// The prediction is P(x) = F(c_in·x), with c_in = 1/√(σ² + α²σ_d²): the graph takes states of
    /// unit variance, and its output is the prediction without further scaling. On the paths `edm`
    /// and `ve` this is how DDPM networks are used.
    ScaledInput {
        /// σ_d, the standard deviation of the data (default: 1).
        #[serde(default = "default_scaled_input_sigma_data")]
        sigma_data: f64,
    },
}

crate::registry::describe_kinds! { Preconditioning {
    "edm" {
        what: "The denoiser is c_skip·x + c_out·F(c_in·x), with EDM's scalings.",
        when: "A graph that is EDM's inner network, without its scalings.",
        source: "Karras et al. 2022, arXiv:2206.00364",
    },
    "scaled-input" {
        what: "The graph takes states of unit variance, and its output is the prediction.",
        when: "DDPM networks on the paths `edm` and `ve`.",
        source: "",
    },
} }

/// The default σ_d of [`Preconditioning::Edm`].
fn default_edm_sigma_data() -> f64 {
    0.5
}

/// The default σ_d of [`Preconditioning::ScaledInput`].
fn default_scaled_input_sigma_data() -> f64 {
    1.0
}

/// The scalings at one time: the prediction is `skip`·x + `out`·F(`input`·x).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PreconditioningScales {
    /// The factor of the state x in the prediction.
    pub skip: f64,
    /// The factor of the network's output F in the prediction.
    pub out: f64,
    /// The factor of the state in the network's input.
    pub input: f64,
}

impl Preconditioning {
    /// Returns the scalings for the given α and σ.
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

    /// Checks that the scalings are defined for the prediction and the path.
    ///
    /// # Errors
    /// Fails if they are not. The message names the card's key and what is expected.
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
                "network.preconditioning: edm turns the graph's output into a denoiser; \
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
                "network.preconditioning: edm is defined only on the paths edm and ve, \
                 where alpha = 1; the path is {}",
                path.kind()
            )
        })
    }
}
