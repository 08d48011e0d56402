//! ONNX graphs and their derivatives, from the crate `onnx-autodiff`.
//!
//! That crate knows only ONNX. This module adds advice for files that are not ONNX: a file whose
//! first bytes show another format (a checkpoint, a web page, a pointer of Git LFS) is refused with
//! a message that says what to do about it.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use onnx_autodiff::{
    Dim, ElemType, GraphError, Kink, KnownPort, Mode, Model, Obstacle, Pass, Passes, Port,
    QuadraticForms, Scaling, differentiate, differentiate_with, listed, obstacles, operators,
    quadratic_forms, several_outputs,
};

use crate::signature::{self, ExpectedFile};

/// The number of bytes at the start of a file that are enough to identify its format. An archive is
/// identified by the first names in it.
const SIGNATURE_BYTES: u64 = 1 << 16;

/// Reads a model and its external data.
///
/// # Errors
/// Fails if a file cannot be read or is not an ONNX model.
pub fn load_onnx(path: &Path) -> Result<Model, GraphError> {
    check_file_signature(path)?;
    Model::load(path)
}

/// Reads a model of any size for inspection, without the weights in external files.
///
/// # Errors
/// Fails if the file cannot be read or is not an ONNX model.
pub fn skim_onnx(path: &Path) -> Result<Model, GraphError> {
    check_file_signature(path)?;
    Model::skim(path)
}

/// Returns the external data files of the model in `bytes`, relative to the model's folder. `name`
/// stands for the model in messages.
///
/// # Errors
/// Fails if the bytes are not an ONNX model, or if a file would lie outside the folder.
pub fn external_files(name: &str, bytes: &[u8]) -> Result<BTreeSet<PathBuf>, GraphError> {
    check_onnx_signature(name, bytes)?;
    onnx_autodiff::external_files(name, bytes)
}

/// Refuses a file whose first bytes show another format than ONNX.
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

/// Refuses bytes that show another format than ONNX.
fn check_onnx_signature(name: &str, bytes: &[u8]) -> Result<(), GraphError> {
    // An empty file has no format; the crate `onnx-autodiff` reports that it is empty.
    match signature::explain_mismatch(bytes, ExpectedFile::Onnx) {
        Some(reason) if !bytes.is_empty() => Err(GraphError::Malformed {
            file: name.to_owned(),
            reason,
        }),
        _ => Ok(()),
    }
}
