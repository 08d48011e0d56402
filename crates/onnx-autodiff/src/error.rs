//! The errors of this crate. Each message says what is wrong and how to correct it.

use std::fmt;
use std::path::PathBuf;

/// The reason why a model could not be read, differentiated or written.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// The file could not be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The file holds no valid model.
    #[error("{file}: not an ONNX model: {reason}")]
    Malformed {
        /// The name of the model.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The model's opset of the standard domain is not supported.
    #[error(
        "{file}: opset {found} of the standard domain; models of opset {low} to {high} can be differentiated: export the model again with one of these"
    )]
    Opset {
        /// The name of the model.
        file: String,
        /// The opset of the model.
        found: i64,
        /// The oldest supported opset.
        low: i64,
        /// The newest supported opset.
        high: i64,
    },
    /// The model has no input or output of the name that was asked for.
    #[error("{file}: no {role} is named `{name}`; the model has {present}")]
    UnknownPort {
        /// The name of the model.
        file: String,
        /// Whether an input or an output is meant.
        role: &'static str,
        /// The name of the port.
        name: String,
        /// The ports that the model has.
        present: String,
    },
    /// An input or output cannot be differentiated.
    #[error("{file}: {role} `{name}` {reason}")]
    Port {
        /// The name of the model.
        file: String,
        /// Whether an input or an output is meant.
        role: &'static str,
        /// The name of the port.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Nodes stand in the way of the derivative.
    #[error(
        "{file}: cannot be differentiated with respect to `{input}`:{}",
        listing(obstacles)
    )]
    Obstacles {
        /// The name of the model.
        file: String,
        /// The differentiated input.
        input: String,
        /// The nodes, with what to do about each.
        obstacles: Vec<Obstacle>,
    },
    /// Nodes cannot be computed in float64.
    #[error("{file}: cannot be computed in float64:{}", listing(obstacles))]
    SinglePrecision {
        /// The name of the model.
        file: String,
        /// The nodes, with what to do about each.
        obstacles: Vec<Obstacle>,
    },
    /// The derived graph breaks a rule of the format, which is a defect of this crate.
    #[error(
        "{file}: the derived graph is not valid, which is a defect of this program and not of the model: node `{node}` ({op}): {reason}"
    )]
    Derived {
        /// The name of the model.
        file: String,
        /// The node.
        node: String,
        /// The operator of the node.
        op: String,
        /// What is wrong.
        reason: String,
    },
    /// The model does not fit in one file.
    #[error(
        "{file}: the model takes {bytes} bytes, and an ONNX file can hold at most 2147483647: use a smaller model, or one in float16"
    )]
    TooLarge {
        /// The name of the model.
        file: String,
        /// The size of the model in bytes.
        bytes: u64,
    },
}

/// A node that stands in the way of differentiation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The name of the node, or of its first output if the node has none.
    pub node: String,
    /// The operator, with its domain unless that is the standard one.
    pub op: String,
    /// What is wrong, and how to export the model instead.
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

/// Returns the obstacles as indented lines.
fn listing(obstacles: &[Obstacle]) -> String {
    obstacles
        .iter()
        .map(|obstacle| format!("\n  {obstacle}"))
        .collect()
}

/// The reason why a rule refuses a node. The caller adds the name of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub String);

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
