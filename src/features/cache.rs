//! A cache of features on disk. Its keys are hashes of everything that features depend on.
//!
//! An entry is a folder. Its `provenance.json` describes the origin of the features and holds the
//! hashes of their files. Features are computed again if the entry is incomplete or damaged, or if
//! its provenance differs from the requested one.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ndarray::Array2;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ExtractedFeatures;
use super::images::PixelCoding;
use super::preset::Preset;
use crate::host::{hex, processor_name};
use crate::model::onnx::Provider;

/// Everything that features depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The version of this format.
    pub version: u32,
    /// The SHA-256 of the data file.
    pub data_sha256: String,
    /// The shape of the data, with the axis of samples first.
    pub shape: Vec<usize>,
    /// How numbers were converted to the extractor's input, in words.
    pub coding: String,
    /// The SHA-256 of the extractor's ONNX file.
    pub extractor_sha256: String,
    /// The preset of the extractor, if it has one: resizing, range, layout and outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// Everything else that affects rounding: the version of ONNX Runtime, the execution provider
    /// and the processor.
    pub machine: String,
}

impl Provenance {
    /// The present version of this format, and of the rows of an extractor's calls.
    pub const VERSION: u32 = 2;

    /// The text for [`Provenance::coding`]; without a coding, numbers are used as they are.
    pub fn describe_coding(coding: Option<PixelCoding>) -> String {
        coding.map_or("as they are".to_owned(), |c| format!("{c:?}"))
    }

    /// The text for [`Provenance::machine`].
    pub fn describe_machine(runtime: &str, provider: Provider) -> String {
        format!("{runtime} {provider:?} {}", processor_name())
    }

    /// The folder of the entry with this provenance, below the root of the cache.
    fn entry_folder(&self, root: &Path) -> Result<PathBuf> {
        Ok(root
            .join("features")
            .join(hex(&Sha256::digest(serde_json::to_vec(self)?))))
    }
}

/// The content of `provenance.json`.
#[derive(Debug, Serialize, Deserialize)]
struct FeatureCacheEntry {
    /// The origin of the features.
    provenance: Provenance,
    /// The name and the SHA-256 of each file in the folder.
    files: Vec<(String, String)>,
    /// The name of the data when the entry was written, for readers only: it is not part of the
    /// key.
    data_name: String,
}

/// Returns features from the cache below `root`, or computes and caches them. Without a root, it
/// only computes them.
///
/// # Errors
/// Fails if the features cannot be computed. If the cache cannot be written, a warning goes to
/// standard error instead.
pub fn cached_or_computed(
    root: Option<&Path>,
    provenance: impl FnOnce() -> Provenance,
    data_name: &str,
    compute: impl FnOnce() -> Result<ExtractedFeatures>,
) -> Result<ExtractedFeatures> {
    let Some(root) = root else { return compute() };
    let provenance = provenance();
    if let Some(extracted) = load_cached_features(root, &provenance) {
        return Ok(extracted);
    }
    let extracted = compute()?;
    if let Err(error) = store_cached_features(root, &provenance, data_name, &extracted) {
        errln!(
            "flowgauge: {}: the features cannot be cached: {error:#}",
            root.display()
        );
    }
    Ok(extracted)
}

/// The cached features with the given provenance; `None` if there is no such entry or it is
/// damaged. A damaged entry causes a warning on standard error.
pub fn load_cached_features(root: &Path, provenance: &Provenance) -> Option<ExtractedFeatures> {
    let folder = provenance.entry_folder(root).ok()?;
    if !folder.exists() {
        return None;
    }
    match read_cache_entry(&folder, provenance) {
        Ok(extracted) => Some(extracted),
        Err(error) => {
            errln!(
                "flowgauge: {}: {error:#}; the features are computed again",
                folder.display()
            );
            None
        }
    }
}

/// Reads the entry in `folder` and verifies it.
///
/// # Errors
/// Fails if a file is missing or unreadable, or if a hash, the provenance or the number of rows
/// differs from what is expected.
fn read_cache_entry(folder: &Path, provenance: &Provenance) -> Result<ExtractedFeatures> {
    let entry: FeatureCacheEntry =
        serde_json::from_slice(&std::fs::read(folder.join("provenance.json"))?)?;
    anyhow::ensure!(
        entry.provenance == *provenance,
        "its provenance differs from the expected one"
    );
    let file = |name: &str| -> Result<Option<Array2<f64>>> {
        let Some((_, expected)) = entry.files.iter().find(|(file, _)| file == name) else {
            return Ok(None);
        };
        let bytes = std::fs::read(folder.join(name)).with_context(|| name.to_owned())?;
        anyhow::ensure!(
            hex(&Sha256::digest(&bytes)) == *expected,
            "the SHA-256 of {name} differs from the recorded one"
        );
        let array = <Array2<f64> as ndarray_npy::ReadNpyExt>::read_npy(&bytes[..])?;
        anyhow::ensure!(
            array.nrows() == provenance.shape[0],
            "{name} has {} rows, expected {}",
            array.nrows(),
            provenance.shape[0]
        );
        Ok(Some(array))
    };
    let features = file("features.npy")?.context("it has no features.npy")?;
    Ok(ExtractedFeatures {
        features,
        logits: file("logits.npy")?,
    })
}

/// Writes features to the cache. An entry is written completely or not at all.
///
/// # Errors
/// Fails if the cache cannot be written.
pub fn store_cached_features(
    root: &Path,
    provenance: &Provenance,
    data_name: &str,
    extracted: &ExtractedFeatures,
) -> Result<()> {
    let folder = provenance.entry_folder(root)?;
    let parent = root.join("features");
    std::fs::create_dir_all(&parent)?;
    let work = tempfile::Builder::new()
        .prefix("part-")
        .tempdir_in(&parent)?;
    let mut files = Vec::new();
    for (name, array) in [
        ("features.npy", Some(&extracted.features)),
        ("logits.npy", extracted.logits.as_ref()),
    ] {
        let Some(array) = array else { continue };
        let path = work.path().join(name);
        ndarray_npy::WriteNpyExt::write_npy(array, std::io::BufWriter::new(File::create(&path)?))?;
        files.push((name.to_owned(), hex(&Sha256::digest(std::fs::read(&path)?))));
    }
    let entry = FeatureCacheEntry {
        provenance: provenance.clone(),
        files,
        data_name: data_name.to_owned(),
    };
    std::fs::write(
        work.path().join("provenance.json"),
        serde_json::to_vec_pretty(&entry)?,
    )?;
    // An existing entry is damaged, or another process has just written it. In both cases this
    // entry can replace it.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::rename(work.path(), &folder)
        .or_else(|e| if folder.is_dir() { Ok(()) } else { Err(e) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provenance() -> Provenance {
        Provenance {
            version: Provenance::VERSION,
            data_sha256: "d".repeat(64),
            shape: vec![3, 8],
            coding: Provenance::describe_coding(Some(PixelCoding::Range([-1.0, 1.0]))),
            extractor_sha256: "e".repeat(64),
            preset: None,
            machine: "this one".to_owned(),
        }
    }

    #[test]
    fn damaged_cache_entries_are_ignored() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let features = Array2::from_shape_fn((3, 2), |(i, j)| (i + j) as f64 / 3.0);
        let extracted = ExtractedFeatures {
            logits: Some(&features * 2.0),
            features,
        };
        let wanted = provenance();
        assert_eq!(load_cached_features(root.path(), &wanted), None);
        store_cached_features(root.path(), &wanted, "test.npy", &extracted).expect("written");
        assert_eq!(
            load_cached_features(root.path(), &wanted),
            Some(extracted.clone())
        );

        let others = [
            Provenance {
                data_sha256: "f".repeat(64),
                ..provenance()
            },
            Provenance {
                coding: Provenance::describe_coding(None),
                ..provenance()
            },
            Provenance {
                extractor_sha256: "f".repeat(64),
                ..provenance()
            },
            Provenance {
                machine: "another".to_owned(),
                ..provenance()
            },
        ];
        others
            .iter()
            .for_each(|other| assert_eq!(load_cached_features(root.path(), other), None));

        let folder = wanted.entry_folder(root.path()).expect("a name");
        let damage = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
            store_cached_features(root.path(), &wanted, "test.npy", &extracted).expect("written");
            let mut bytes = std::fs::read(folder.join(name)).expect("there");
            change(&mut bytes);
            std::fs::write(folder.join(name), bytes).expect("written");
            assert_eq!(load_cached_features(root.path(), &wanted), None, "{name}");
        };
        damage("features.npy", &|b| *b.last_mut().expect("bytes") ^= 1);
        damage("logits.npy", &|b| b.truncate(100));
        damage("provenance.json", &|b| b.truncate(50));
        damage("provenance.json", &|b| {
            *b = String::from_utf8_lossy(b)
                .replace(&"d".repeat(64), &"c".repeat(64))
                .into_bytes();
        });
        store_cached_features(root.path(), &wanted, "test.npy", &extracted).expect("written");
        assert_eq!(load_cached_features(root.path(), &wanted), Some(extracted));
    }
}
