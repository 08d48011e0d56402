//! The range and the levels of the data, as a card says them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The range of the data in the model's coordinates, and the number of levels that they were
/// quantized to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// The lowest and the highest value of the data.
    pub range: [f64; 2],
    /// The number of levels that the data were quantized to, such as 256 for bytes; at least 2.
    /// Default: the data are continuous, and bits/dim are not defined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub levels: Option<u32>,
}
