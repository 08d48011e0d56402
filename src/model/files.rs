//! The files of a card: read, hashed, held against what the card says of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::card::Card;
use super::library::hex;
use crate::graph;

/// One file of a card.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFile {
    /// The card's key: `network.file`, `divergence_heads.stad.file`.
    pub key: String,
    /// As the card names it.
    pub name: PathBuf,
    pub sha256: String,
    pub(super) content: FileContent,
    /// What the file holds, where `content` computes in another floating-point type.
    pub(super) original_content: Option<FileContent>,
}

impl ModelFile {
    /// Whether it is an ONNX model, and not an array or the weights of one.
    pub fn is_network(&self) -> bool {
        !matches!(
            self.content,
            FileContent::ConstantArray(_) | FileContent::ExternalData
        )
    }
}

/// What is kept of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FileContent {
    /// A model as one message, with the data of the files beside it.
    Network(Arc<Vec<u8>>),
    /// A model of more than a message holds: it is opened where it lies.
    OversizedNetwork,
    /// External data of a model.
    ExternalData,
    /// The values of a constant.
    ConstantArray(Vec<u8>),
}

/// The external data of the model in `bytes`, which lies at `at` and is called `name` in the card.
pub(super) fn external_data_files(
    key: &str,
    name: &Path,
    at: &Path,
    bytes: &[u8],
) -> Result<Vec<ModelFile>> {
    let folder = |path: &Path| path.parent().unwrap_or(Path::new("")).to_owned();
    let mut found = Vec::new();
    for location in graph::external_files(&at.display().to_string(), bytes)? {
        let file = folder(at).join(&location);
        let refused = || format!("{}: the model's external data", file.display());
        if !file.metadata().with_context(refused)?.is_file() {
            bail!("{}: it is no file", refused());
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
            sha256: hex(&hash.finalize()),
            content: FileContent::ExternalData,
            original_content: None,
        });
    }
    Ok(found)
}

/// A model with its external data, as one message where it fits into one.
pub(super) fn load_content(at: &Path) -> Result<FileContent> {
    let message = graph::load_onnx(at).and_then(|model| model.to_bytes());
    match message {
        Ok(bytes) => Ok(FileContent::Network(Arc::new(bytes))),
        Err(graph::GraphError::TooLarge { .. }) => Ok(FileContent::OversizedNetwork),
        Err(error) => Err(error.into()),
    }
}

/// Why a card's file cannot be read and, where the card knows, how one comes by it.
pub(super) fn unreadable_file_message(card: &Card, file: &Path, error: &std::io::Error) -> String {
    let source = card.provenance.get("source").and_then(|s| s.as_str());
    match source.filter(|_| error.kind() == std::io::ErrorKind::NotFound) {
        Some(source) => format!(
            "{} is not there; {}",
            file.display(),
            printable_excerpt(source)
        ),
        None => format!("{}: {error}", file.display()),
    }
}

/// A card's words in a message: nothing that would move a terminal's cursor, and not a page of it.
fn printable_excerpt(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect()
}

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
    match key {
        "closed_form.file" => card.closed_form.as_ref()?.sha256.as_deref(),
        "network.file" => card.network.sha256.as_deref(),
        _ => None,
    }
}
