//! Features kept between calls, by the hashes of all that they come from.
//!
//! An entry is a folder: `provenance.json` says what the features are of, and holds the hash of their file. An entry
//! that is not whole, or whose provenance is not the one that was asked for to the last byte, is made again.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ndarray::Array2;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ExtractedFeatures;
use super::images::PixelCoding;
use super::preset::Preset;
use crate::model::library::{hex, processor_name};
use crate::model::onnx::Provider;

/// All that features depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Of this format.
    pub version: u32,
    /// Of the data's bytes.
    pub data_sha256: String,
    /// Samples first; n and the split are those of the data.
    pub shape: Vec<usize>,
    /// How numbers became bytes, in words.
    pub coding: String,
    pub extractor_sha256: String,
    /// Resize, range, layout and outputs, where there is a preset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// What else rounds: the runtime's version, its provider and the processor.
    pub machine: String,
}

impl Provenance {
    pub const VERSION: u32 = 1;

    pub fn describe_coding(coding: Option<PixelCoding>) -> String {
        coding.map_or("as they are".to_owned(), |c| format!("{c:?}"))
    }

    /// What rounds besides the network.
    pub fn describe_machine(runtime: &str, provider: Provider) -> String {
        format!("{runtime} {provider:?} {}", processor_name())
    }

    /// Where an entry with this provenance lies below the cache's root.
    fn entry_folder(&self, root: &Path) -> Result<PathBuf> {
        Ok(root
            .join("features")
            .join(hex(&Sha256::digest(serde_json::to_vec(self)?))))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct FeatureCacheEntry {
    provenance: Provenance,
    /// Names and SHA-256 of the files beside it.
    files: Vec<(String, String)>,
    /// What the user called the data when the entry was made; says nothing about whether it fits.
    data_name: String,
}

/// Features from the cache below `root`, or computed and kept there; just computed where there is no root.
///
/// # Errors
/// Where they cannot be computed. A cache that cannot be written is told of, and no error.
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
            "flowgauge: {}: the features cannot be kept: {error:#}",
            root.display()
        );
    }
    Ok(extracted)
}

/// The entry of that provenance; `None` where there is none or it cannot be trusted.
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

fn read_cache_entry(folder: &Path, provenance: &Provenance) -> Result<ExtractedFeatures> {
    let entry: FeatureCacheEntry =
        serde_json::from_slice(&std::fs::read(folder.join("provenance.json"))?)?;
    anyhow::ensure!(entry.provenance == *provenance, "its provenance is another");
    let file = |name: &str| -> Result<Option<Array2<f64>>> {
        let Some((_, expected)) = entry.files.iter().find(|(file, _)| file == name) else {
            return Ok(None);
        };
        let bytes = std::fs::read(folder.join(name)).with_context(|| name.to_owned())?;
        anyhow::ensure!(
            hex(&Sha256::digest(&bytes)) == *expected,
            "{name} is not the file that was written"
        );
        let array = <Array2<f64> as ndarray_npy::ReadNpyExt>::read_npy(&bytes[..])?;
        anyhow::ensure!(
            array.nrows() == provenance.shape[0],
            "{name} has {} rows",
            array.nrows()
        );
        Ok(Some(array))
    };
    let features = file("features.npy")?.context("it has no features")?;
    Ok(ExtractedFeatures {
        features,
        logits: file("logits.npy")?,
    })
}

/// Keeps features; whole or not at all.
///
/// # Errors
/// Where the cache cannot be written.
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
    // What lies there was not trusted, or another process was faster: either way this one is as good.
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
