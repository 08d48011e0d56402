//! The files of a card: they are read, hashed and compared with the hashes in the card.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::card::Card;
use crate::graph;
use crate::host::hex;
use crate::hub;

/// A file that belongs to a card.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFile {
    /// The card's key of the file, such as `network.file` or `divergence_heads.stad.file`.
    pub key: String,
    /// The file's path in the card, relative to the card's folder.
    pub name: PathBuf,
    /// The file's path.
    pub path: PathBuf,
    /// The SHA-256 hash of the file in hexadecimal digits.
    pub sha256: String,
    /// The content that the model computes with.
    pub(super) content: FileContent,
    /// The content of the file, if `content` was converted to another floating-point type.
    pub(super) original_content: Option<FileContent>,
}

impl ModelFile {
    /// Whether the file is an ONNX model, and not an array or external data of a model.
    pub fn is_network(&self) -> bool {
        !matches!(
            self.content,
            FileContent::ConstantArray(_) | FileContent::ExternalData
        )
    }
}

/// The content of a file as it is stored in memory.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FileContent {
    /// A serialized ONNX model that includes its external data.
    Network(Arc<Vec<u8>>),
    /// A model that is too large for one message. It is opened from its file.
    OversizedNetwork,
    /// External data of a model. Its bytes are part of the model's content.
    ExternalData,
    /// The bytes of a `.npy` file with the values of a constant.
    ConstantArray(Vec<u8>),
}

impl FileContent {
    /// Returns a network with the part `range` of the first axis behind the batch of an output in
    /// place of the whole. `at` names the file.
    ///
    /// # Errors
    /// Fails if the graph has no such output or the range does not lie in it.
    pub(super) fn with_output_range(
        &self,
        at: &Path,
        output: &str,
        [from, to]: [usize; 2],
    ) -> Result<FileContent> {
        let FileContent::Network(bytes) = self else {
            bail!(
                "{}: more than 2 GB; only a smaller model can have channels taken from its output",
                at.display()
            );
        };
        let graph = graph::Model::from_bytes(&at.display().to_string(), bytes)?;
        let part = graph.with_output_range(output, 1, from, to)?;
        Ok(FileContent::Network(Arc::new(part.to_bytes()?)))
    }
}

/// Returns the external data files of the model in `bytes`. The model lies at the path `at`. In the
/// card it has the name `name` and the key `key`.
///
/// # Errors
/// Fails if the model cannot be parsed or an external data file cannot be read.
pub(super) fn external_data_files(
    key: &str,
    name: &Path,
    at: &Path,
    bytes: &[u8],
) -> Result<Vec<ModelFile>> {
    let folder = |path: &Path| path.parent().unwrap_or(Path::new("")).to_owned();
    let mut found = Vec::new();
    for location in graph::external_files(&at.display().to_string(), bytes)? {
        let file = hub::local_path(&folder(at).join(&location))?;
        let refused = || format!("{}: the model's external data", file.display());
        if !file.metadata().with_context(refused)?.is_file() {
            bail!("{}: it is not a regular file", refused());
        }
        let mut hash = Sha256::new();
        std::io::copy(
            &mut std::fs::File::open(&file).with_context(refused)?,
            &mut hash,
        )
        .with_context(refused)?;
        let (key, name) = (format!("{key} data"), folder(name).join(&location));
        found.push(ModelFile {
            key,
            name,
            path: file,
            sha256: hex(&hash.finalize()),
            content: FileContent::ExternalData,
            original_content: None,
        });
    }
    Ok(found)
}

/// Reads a model with its external data. The content is one message if it fits into one.
///
/// # Errors
/// Fails if a file cannot be read or is not an ONNX model.
pub(super) fn load_content(at: &Path) -> Result<FileContent> {
    let message = graph::load_onnx(at).and_then(|model| model.to_bytes());
    match message {
        Ok(bytes) => Ok(FileContent::Network(Arc::new(bytes))),
        Err(graph::GraphError::TooLarge { .. }) => Ok(FileContent::OversizedNetwork),
        Err(error) => Err(error.into()),
    }
}

/// Explains why a file of the card cannot be read. If the file is missing, the message quotes the
/// card's `provenance.source`.
pub(super) fn unreadable_file_message(card: &Card, file: &Path, error: &std::io::Error) -> String {
    let source = card.provenance.get("source").and_then(|s| s.as_str());
    match source.filter(|_| error.kind() == std::io::ErrorKind::NotFound) {
        Some(source) => format!(
            "{} does not exist; {}",
            file.display(),
            printable_excerpt(source)
        ),
        None => format!("{}: {error}", file.display()),
    }
}

/// Returns at most 300 characters of a text from a card, without control characters, which could
/// move a terminal's cursor.
fn printable_excerpt(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect()
}

/// Returns the SHA-256 hash that the card declares for the file at `key`, if it declares one.
pub(super) fn expected_sha256<'a>(card: &'a Card, key: &str) -> Option<&'a str> {
    let named = |prefix: &str| {
        key.strip_prefix(prefix)
            .and_then(|k| k.strip_suffix(".file"))
    };
    if let Some(name) = named("divergence_heads.") {
        return card.divergence_heads.get(name)?.sha256.as_deref();
    }
    if let Some(name) = named("flow_maps.") {
        return card.flow_maps.get(name)?.sha256.as_deref();
    }
    let latent = card.latent.as_ref();
    match key {
        "latent.encoder.file" => latent?.encoder.as_ref()?.sha256.as_deref(),
        "latent.decoder.file" => latent?.decoder.as_ref()?.sha256.as_deref(),
        "energy.file" => card.energy.as_ref()?.sha256.as_deref(),
        "closed_form.file" => card.closed_form.as_ref()?.sha256.as_deref(),
        "network.file" => card.network.sha256.as_deref(),
        _ => None,
    }
}
