//! ONNX graphs and their derivatives, by the crate `onnx-autodiff`.
//!
//! The crate knows ONNX alone. What is added here is advice: a file that is no ONNX model by its first bytes (a
//! checkpoint, a web page, a pointer of git-lfs) is refused with what to do about it.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use onnx_autodiff::{
    Dim, ElemType, GraphError, Kink, KnownPort, Mode, Model, Obstacle, Pass, Passes, Port,
    QuadraticForms, Scaling, differentiate, differentiate_with, listed, obstacles, operators,
    quadratic_forms, several_outputs,
};

use crate::signature::{self, ExpectedFile};

/// This much of a file tells what it is, also of an archive by the first names in it.
const SIGNATURE_BYTES: u64 = 1 << 16;

/// Reads a model and the external data beside it.
///
/// # Errors
/// Where the file cannot be read or is no ONNX model.
pub fn load_onnx(path: &Path) -> Result<Model, GraphError> {
    check_file_signature(path)?;
    Model::load(path)
}

/// Reads a model of whatever size to be looked at: weights that lie in other files stay there.
///
/// # Errors
/// As [`load_onnx`].
pub fn skim_onnx(path: &Path) -> Result<Model, GraphError> {
    check_file_signature(path)?;
    Model::skim(path)
}

/// The files beside a model that hold its data, relative to its folder; `name` stands for it in messages.
///
/// # Errors
/// Where the bytes are no model, or a file would lie outside the folder.
pub fn external_files(name: &str, bytes: &[u8]) -> Result<BTreeSet<PathBuf>, GraphError> {
    check_onnx_signature(name, bytes)?;
    onnx_autodiff::external_files(name, bytes)
}

fn check_file_signature(path: &Path) -> Result<(), GraphError> {
    let unreadable = |source| GraphError::Read {
        path: path.to_path_buf(),
        source,
    };
    let mut head = Vec::new();
    std::fs::File::open(path)
        .map_err(unreadable)?
        .take(SIGNATURE_BYTES)
        .read_to_end(&mut head)
        .map_err(unreadable)?;
    check_onnx_signature(&path.display().to_string(), &head)
}

fn check_onnx_signature(name: &str, bytes: &[u8]) -> Result<(), GraphError> {
    // Of an empty file the crate itself says so.
    match signature::explain_mismatch(bytes, ExpectedFile::Onnx) {
        Some(reason) if !bytes.is_empty() => Err(GraphError::Malformed {
            file: name.to_owned(),
            reason,
        }),
        _ => Ok(()),
    }
}
