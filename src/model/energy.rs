//! The energy of a target as a card describes it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::defaults::unit_scale;

/// The energy u(x) of a target with the unnormalized density exp(−u), for reweighting samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnergySpec {
    /// The ONNX file, relative to the card's folder; it must lie in that folder or below it.
    pub file: PathBuf,
    /// The expected SHA-256 hash of the file, in hexadecimal digits. A file with another hash is
    /// refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The graph's input: states, [N, …].
    pub input: String,
    /// The graph's output: one energy per sample.
    pub output: String,
    /// The factor of the graph's output (default: 1), such as 1/kT for energies in the unit of kT;
    /// it must not be 0.
    #[serde(default = "unit_scale")]
    pub scale: f64,
}
