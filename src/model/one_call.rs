//! Models that give their log-density in one call: normalizing flows (`kind: flow`), whose graph maps
//! a sample to a latent and a log-determinant, and graphs of the log-density itself
//! (`kind: density`).
//!
//! Such a model has no path, no velocity and no sampler. It stands beside diffusion models in one
//! table of log-likelihoods.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::conditions::ConditionSpec;
use super::constants::Constant;
use super::data_spec::DataSpec;

/// The card of a model that gives its log-density in one call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OneCallCard {
    /// What the graph gives: `flow` or `density`.
    pub kind: OneCallKind,
    /// The model's name: letters, digits, spaces and any of `_-.,()[]+`, beginning with a letter, a
    /// digit or `_`, at most 100 bytes.
    pub name: String,
    /// The shape of one sample, without the batch axis.
    pub shape: Vec<usize>,
    /// The graph and its outputs.
    pub network: OneCallNetworkSpec,
    /// The distribution N(0, std²·I) of the latents of a `flow`. Default: `std: 1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior: Option<OneCallPriorSpec>,
    /// The range and the number of levels of the data; needed for bits/dim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataSpec>,
    /// Free notes on the origin of the files. If a file is missing, the message quotes `source`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub provenance: BTreeMap<String, serde_json::Value>,
}

/// What the graph of a one-call model gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum OneCallKind {
    /// A latent z(x) and log |det dz/dx|, of a normalizing flow.
    Flow,
    /// The log-density of the sample.
    Density,
}

/// The distribution of the latents of a normalizing flow.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OneCallPriorSpec {
    /// The standard deviation of the latents.
    pub std: f64,
}

/// The graph of a one-call model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OneCallNetworkSpec {
    /// The ONNX file, relative to the card's folder; it must lie in that folder or below it.
    pub file: PathBuf,
    /// The expected SHA-256 hash of the file, in hexadecimal digits. A file with another hash is
    /// refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The graph's name of the sample.
    pub inputs: OneCallInputs,
    /// Values of further inputs; every sample gets the same values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub constants: BTreeMap<String, Constant>,
    /// Further inputs with one value per sample, by the names that configs and `--condition` use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, ConditionSpec>,
    /// The graph's names of what it gives: `latent` and `log_det` of a `flow`, `log_density` of a
    /// `density`.
    pub outputs: OneCallOutputs,
    /// The batch size of a graph that takes no other. Samples are evaluated in calls of that many
    /// rows. Default: the graph takes any batch size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
}

/// The name of the input of a one-call model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OneCallInputs {
    /// The input that takes the sample.
    pub x: String,
}

/// The names of the outputs of a one-call model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OneCallOutputs {
    /// The output with the latent z, as many values per sample as the sample has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latent: Option<String>,
    /// The output with log |det dz/dx| in nats, one number per sample. Its sign is that of the map
    /// from the sample to the latent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_det: Option<String>,
    /// The output with log p(x) in nats, one number per sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_density: Option<String>,
}

/// The outputs of a one-call model, as its kind needs them.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OneCall {
    /// The names of the outputs with the latent and with the log-determinant.
    Flow { latent: String, log_det: String },
    /// The name of the output with the log-density.
    Density { log_density: String },
}

impl OneCall {
    /// The word of the card's key `kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            OneCall::Flow { .. } => "flow",
            OneCall::Density { .. } => "density",
        }
    }

    /// What the graph gives, in words.
    pub fn describe(&self) -> String {
        match self {
            OneCall::Flow { latent, log_det } => format!(
                "one call gives the latent `{latent}` and the log-determinant `{log_det}` of the map \
                 to it"
            ),
            OneCall::Density { log_density } => {
                format!("one call gives the log-density `{log_density}`")
            }
        }
    }

    /// The output with one number per sample.
    pub(super) fn number_output(&self) -> &str {
        match self {
            OneCall::Flow { log_det, .. } => log_det,
            OneCall::Density { log_density } => log_density,
        }
    }
}
