//! The floating-point types in which networks compute.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::graph::ElemType;

/// The floating-point type in which the networks of a card compute, if it is not that of their
/// files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkPrecision {
    /// Networks in float16 and bfloat16 compute in float32; other networks are not changed.
    Float32,
    /// All networks compute in float64, with the weights of their files.
    Float64,
}

impl NetworkPrecision {
    /// Returns the name that users write.
    pub fn name(self) -> &'static str {
        match self {
            NetworkPrecision::Float32 => "float32",
            NetworkPrecision::Float64 => "float64",
        }
    }

    /// Returns the ONNX element type.
    pub(super) fn elem(self) -> ElemType {
        match self {
            NetworkPrecision::Float32 => ElemType::FLOAT,
            NetworkPrecision::Float64 => ElemType::DOUBLE,
        }
    }
}
