//! The coder of a latent model as a card describes it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::defaults::{is_zero, unit_scale};

/// The coder of a latent model. The state of the ODE is scale · (latent − shift).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LatentSpec {
    /// The network from data to latents. Default: none; likelihoods then take latents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<EncoderSpec>,
    /// The network from latents to data. Default: none; samples then stay latents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<DecoderSpec>,
    /// The factor of latents in the state (default: 1).
    #[serde(default = "unit_scale")]
    pub scale: f64,
    /// The number that is subtracted from latents before they are scaled (default: 0).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shift: f64,
    /// The shape of one decoded sample, without the batch axis. `data` speaks of these.
    pub shape: Vec<usize>,
}

/// The network from data to latents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncoderSpec {
    /// The ONNX file, relative to the card's folder.
    pub file: PathBuf,
    /// The expected SHA-256 hash of the file, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The graph's input: data, [N, …].
    pub input: String,
    /// The graph's output.
    pub output: String,
    /// What the output is (default: `moments`).
    #[serde(default)]
    pub kind: EncoderKind,
}

/// What the output of an encoder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum EncoderKind {
    /// The mean and the log-variance of the latent, one after the other along the first axis behind
    /// the batch.
    #[default]
    Moments,
    /// The latent itself.
    Mean,
}

/// The network from latents to data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecoderSpec {
    /// The ONNX file, relative to the card's folder.
    pub file: PathBuf,
    /// The expected SHA-256 hash of the file, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The graph's input: latents, [N, …].
    pub input: String,
    /// The graph's output: data, [N, …].
    pub output: String,
}

/// How data become latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum LatentEncoding {
    /// The mean of the encoder's distribution.
    #[default]
    Mean,
    /// A draw from the encoder's distribution, which depends on the seed and the sample alone.
    Draw,
}

impl LatentEncoding {
    /// The name in configs and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            LatentEncoding::Mean => "mean",
            LatentEncoding::Draw => "draw",
        }
    }
}

impl LatentSpec {
    /// Checks the numbers of the coder.
    ///
    /// # Errors
    /// Fails if one is out of range. The message names the key and says what is expected.
    pub(super) fn check(&self) -> Result<(), String> {
        if !self.scale.is_finite() || self.scale == 0.0 {
            return Err(format!(
                "scale: {}, expected a number other than 0",
                self.scale
            ));
        }
        if !self.shift.is_finite() {
            return Err(format!("shift: {}, expected a number", self.shift));
        }
        let size = self.shape.iter().try_fold(1usize, |a, b| a.checked_mul(*b));
        if self.shape.is_empty() || !size.is_some_and(|n| (1..=1 << 28).contains(&n)) {
            return Err(format!(
                "shape: {:?}, expected one or more sizes, each at least 1",
                self.shape
            ));
        }
        if self.encoder.is_none() && self.decoder.is_none() {
            return Err("expected `encoder`, `decoder` or both".to_owned());
        }
        Ok(())
    }
}
