//! What can be wrong with a model, in words that help to mend it.

use std::fmt;
use std::path::PathBuf;

/// Why a model could not be read, differentiated or written.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    #[error("{}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{file}: not an ONNX model: {reason}")]
    Malformed { file: String, reason: String },
    #[error(
        "{file}: opset {found} of the standard domain; models of opset {low} to {high} can be differentiated: export the model again with one of these"
    )]
    Opset {
        file: String,
        found: i64,
        low: i64,
        high: i64,
    },
    #[error("{file}: no {role} is named `{name}`; the model has {present}")]
    UnknownPort {
        file: String,
        role: &'static str,
        name: String,
        present: String,
    },
    #[error("{file}: {role} `{name}` {reason}")]
    Port {
        file: String,
        role: &'static str,
        name: String,
        reason: String,
    },
    #[error(
        "{file}: cannot be differentiated with respect to `{input}`:{}",
        listing(obstacles)
    )]
    Obstacles {
        file: String,
        input: String,
        obstacles: Vec<Obstacle>,
    },
    #[error("{file}: cannot be computed in float64:{}", listing(obstacles))]
    SinglePrecision {
        file: String,
        obstacles: Vec<Obstacle>,
    },
    #[error(
        "{file}: the derived graph could not be loaded, which is a mistake of this program and not of the model: node `{node}` ({op}): {reason}"
    )]
    Derived {
        file: String,
        node: String,
        op: String,
        reason: String,
    },
    #[error(
        "{file}: the model takes {bytes} bytes, and an ONNX file can hold at most 2147483647: use a smaller model, or one in float16"
    )]
    TooLarge { file: String, bytes: u64 },
}

/// One node that stands in the way of differentiation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The node's name, or its first output where it has none.
    pub node: String,
    /// The operator, with its domain where that is not the standard one.
    pub op: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match (self.node.as_str(), self.op.as_str()) {
            ("", "") => f.write_str(&self.reason),
            (name, "") => write!(f, "`{name}`: {}", self.reason),
            (name, op) => write!(f, "node `{name}` ({op}): {}", self.reason),
        }
    }
}

fn listing(obstacles: &[Obstacle]) -> String {
    obstacles
        .iter()
        .map(|obstacle| format!("\n  {obstacle}"))
        .collect()
}

/// Why one node has no derivative here; the driver adds the node's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl From<&str> for Refusal {
    fn from(reason: &str) -> Refusal {
        Refusal(reason.to_string())
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Refusal {
        Refusal(reason)
    }
}
