//! What a draft needs to know of a graph: its file and its ports.

use std::path::Path;

use anyhow::{Result, bail};

use crate::graph::{self, Dim, Port};

/// A graph's file and its ports.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GraphFacts {
    /// The file as the card names it: relative to the card's folder, with `/`.
    pub(crate) file: String,
    /// The inputs.
    pub(crate) inputs: Vec<Port>,
    /// The outputs.
    pub(crate) outputs: Vec<Port>,
    /// Whether a node of the graph draws random numbers.
    pub(crate) draws: bool,
}

/// The suffixes of checkpoints, which are never opened: a pickle can run code.
const CHECKPOINT_SUFFIXES: [&str; 7] = ["pt", "pth", "pkl", "pickle", "ckpt", "bin", "safetensors"];

impl GraphFacts {
    /// Reads the ports of the graph at `path`, without its weights. The card names it `file`.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is not an ONNX model. A checkpoint is refused without
    /// being opened.
    pub(crate) fn read(path: &Path, file: String) -> Result<GraphFacts> {
        let suffix = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        if suffix.is_some_and(|s| CHECKPOINT_SUFFIXES.contains(&s.as_str())) {
            bail!(
                "{}: it is a checkpoint by its name, which is not opened because it can run code; \
                 expected an ONNX file: export the network with `torch.onnx.export` and name the \
                 .onnx file",
                path.display()
            );
        }
        let metadata = std::fs::metadata(path);
        if metadata.is_ok_and(|m| !m.is_file()) {
            bail!("{}: it is no file, expected an ONNX file", path.display());
        }
        let model = graph::skim_onnx(path)?;
        Ok(GraphFacts {
            file,
            inputs: model.inputs(),
            outputs: model.outputs(),
            draws: model.operators().keys().any(|op| op.contains("Random")),
        })
    }

    /// Returns the input with this name.
    pub(super) fn input(&self, name: &str) -> Option<&Port> {
        self.inputs.iter().find(|port| port.name == name)
    }

    /// Describes all inputs for messages.
    pub(super) fn list_inputs(&self) -> String {
        let inputs: Vec<String> = self.inputs.iter().map(describe_port).collect();
        match inputs.is_empty() {
            true => "no inputs".to_owned(),
            false => inputs.join(", "),
        }
    }
}

/// Describes a port as in `x float32 [N, 3, 32, 32]`.
pub(super) fn describe_port(port: &Port) -> String {
    let dims = match port.ranked {
        true => graph::listed(&port.dims),
        false => "of unknown rank".to_owned(),
    };
    format!("`{}` {} {dims}", port.name, port.elem)
}

/// Returns the size of an axis if the graph fixes it.
pub(super) fn fixed_size(dim: &Dim) -> Option<usize> {
    match dim {
        Dim::Fixed(size) => usize::try_from(*size).ok(),
        Dim::Symbol(_) | Dim::Unknown => None,
    }
}
