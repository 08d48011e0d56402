//! What belongs to a feature extractor besides its network: how images become its input, and where it comes from.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::resize::Resize;
use crate::model::library::{hex, user_cache_folder};
use crate::signature::{self, ExpectedFile};

/// A preset file: the extractor's conventions, which are part of every statistic's definition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    pub name: String,
    /// The ONNX file, from the preset's folder.
    pub file: PathBuf,
    /// Of the ONNX file; not checked where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The published weights that the file is made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PublishedWeights>,
    /// The command that makes the file.
    pub export: String,
    pub input: PresetInput,
    #[serde(default)]
    pub outputs: PresetOutputs,
}

/// Published weights. The bytes of an export depend on the version that exports, those of the weights do not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishedWeights {
    pub file: String,
    pub sha256: String,
}

/// What an export leaves beside its file, as `FILE.json`.
#[derive(Debug, Deserialize)]
struct ExportRecord {
    /// Of the ONNX file that it wrote.
    sha256: String,
    /// Of the weights that it read.
    weights_sha256: String,
}

/// From images of bytes to what the network is fed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PresetInput {
    /// Channels, height, width; grey images fill three channels.
    pub shape: [usize; 3],
    #[serde(default)]
    pub layout: TensorLayout,
    #[serde(default)]
    pub resize: Resize,
    /// Where 0 and 255 go.
    pub range: [f64; 2],
    /// Then (value − mean)/std by channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum TensorLayout {
    /// [N, channels, height, width]
    #[default]
    Nchw,
    /// [N, height, width, channels]
    Nhwc,
}

/// Names of the network's outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PresetOutputs {
    pub features: String,
    /// Class logits, where the network classifies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logits: Option<String>,
}

impl Default for PresetOutputs {
    fn default() -> Self {
        PresetOutputs {
            features: "features".to_owned(),
            logits: None,
        }
    }
}

/// Presets that come with the program, by name; their ONNX files lie in `extractors/` of the working folder or of the cache.
const BUILT_IN_PRESETS: &[(&str, &str)] = &[
    (
        "inception-v3",
        include_str!("../../extractors/inception-v3.yaml"),
    ),
    (
        "inception-v3-clean",
        include_str!("../../extractors/inception-v3-clean.yaml"),
    ),
    (
        "dinov2-vitl14",
        include_str!("../../extractors/dinov2-vitl14.yaml"),
    ),
    (
        "clip-vitl14-336",
        include_str!("../../extractors/clip-vitl14-336.yaml"),
    ),
];

/// Whether the program has a preset of that name.
pub fn is_built_in_preset(spec: &Path) -> bool {
    BUILT_IN_PRESETS
        .iter()
        .any(|(known, _)| Path::new(known) == spec)
}

/// What `--extractor` names: an ONNX file, a preset file, or a preset of the program.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedExtractor {
    pub onnx: PathBuf,
    pub preset: Option<Preset>,
}

impl ResolvedExtractor {
    /// # Errors
    /// Where a preset is wrong, or its file is absent or another than it says.
    pub fn resolve(spec: &Path) -> Result<ResolvedExtractor> {
        let name = spec.display().to_string();
        if let Some((_, text)) = BUILT_IN_PRESETS.iter().find(|(known, _)| *known == name) {
            let folders = [
                Some(PathBuf::from("extractors")),
                user_cache_folder().ok().map(|c| c.join("extractors")),
            ];
            let preset = Preset::parse(&name, text)?;
            let found = folders
                .into_iter()
                .flatten()
                .map(|f| f.join(&preset.file))
                .find(|f| f.is_file());
            let onnx = found.unwrap_or_else(|| Path::new("extractors").join(&preset.file));
            return ResolvedExtractor::with_verified_file(onnx, preset);
        }
        let written = spec.extension().is_some_and(|e| e == "yaml" || e == "yml");
        if !written {
            if !spec.exists() && !name.contains(['/', '.']) {
                let known: Vec<&str> = BUILT_IN_PRESETS.iter().map(|p| p.0).collect();
                bail!(
                    "{name}: no such extractor; expected an ONNX file, a preset file or one of {}",
                    known.join(", ")
                );
            }
            return Ok(ResolvedExtractor {
                onnx: spec.to_owned(),
                preset: None,
            });
        }
        let text = signature::read_yaml_text(spec, ExpectedFile::Preset)
            .map_err(|e| anyhow!("{name}: {e}"))?;
        let preset = Preset::parse(&name, &text)?;
        ResolvedExtractor::with_verified_file(
            spec.parent().unwrap_or(Path::new("")).join(&preset.file),
            preset,
        )
    }

    fn with_verified_file(onnx: PathBuf, preset: Preset) -> Result<ResolvedExtractor> {
        if !onnx.is_file() {
            let of = preset
                .weights
                .as_ref()
                .map(|w| format!(" from {} (SHA-256 {})", w.file, w.sha256));
            bail!(
                "{}: the extractor `{}` is not there; make it with `{}`{}",
                onnx.display(),
                preset.name,
                preset.export,
                of.unwrap_or_default()
            );
        }
        if let (Some(weights), None) = (&preset.weights, &preset.sha256) {
            check_export_record(&onnx, weights, &preset.export)?;
        }
        if let Some(expected) = &preset.sha256 {
            let bytes = std::fs::read(&onnx).with_context(|| onnx.display().to_string())?;
            let found = hex(&Sha256::digest(&bytes));
            if found != *expected {
                bail!(
                    "{}: its SHA-256 is {found}, but the preset `{}` says {expected}",
                    onnx.display(),
                    preset.name
                );
            }
        }
        Ok(ResolvedExtractor {
            onnx,
            preset: Some(preset),
        })
    }
}

/// Refuses a file that its own record does not say to be an export of the weights.
fn check_export_record(onnx: &Path, weights: &PublishedWeights, export: &str) -> Result<()> {
    let record = PathBuf::from(format!("{}.json", onnx.display()));
    let name = record.display();
    let again = || format!("make both files again with `{export}`");
    let text = std::fs::read(&record).with_context(|| {
        format!(
            "{name}: the record of the export cannot be read; {}",
            again()
        )
    })?;
    let record: ExportRecord =
        serde_json::from_slice(&text).with_context(|| format!("{name}: {}", again()))?;
    if record.weights_sha256 != weights.sha256 {
        bail!(
            "{name}: the export was made of weights with SHA-256 {}, but those of {} have {}; {}",
            record.weights_sha256,
            weights.file,
            weights.sha256,
            again()
        );
    }
    let found = hex(&Sha256::digest(
        std::fs::read(onnx).with_context(|| onnx.display().to_string())?,
    ));
    if found != record.sha256 {
        bail!(
            "{}: its SHA-256 is {found}, but the export wrote {}; {}",
            onnx.display(),
            record.sha256,
            again()
        );
    }
    Ok(())
}

impl Preset {
    fn parse(name: &str, text: &str) -> Result<Preset> {
        let preset: Preset =
            crate::yaml::from_yaml_str(text).map_err(|e| anyhow!("{name}: {e}"))?;
        let input = &preset.input;
        let [channels, height, width] = input.shape;
        if ![1, 3].contains(&channels) || height == 0 || width == 0 {
            bail!(
                "{name}: input.shape is {:?}, expected [1 or 3 channels, height, width]",
                input.shape
            );
        }
        let finite = |v: &f64| v.is_finite();
        if !input.range.iter().all(finite) || input.range[0] >= input.range[1] {
            bail!(
                "{name}: input.range is {:?}, expected two numbers, the smaller first",
                input.range
            );
        }
        for (key, values) in [("mean", &input.mean), ("std", &input.std)] {
            let fine = |v: &Vec<f64>| {
                v.len() == channels && v.iter().all(|v| finite(v) && (key == "mean" || *v > 0.0))
            };
            if !values.as_ref().is_none_or(fine) {
                bail!(
                    "{name}: input.{key} is {values:?}, expected {channels} numbers, one per channel"
                );
            }
        }
        Ok(preset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_presets_are_valid() {
        for (name, text) in BUILT_IN_PRESETS {
            let preset = Preset::parse(name, text).expect(name);
            assert_eq!(preset.name, *name);
            assert!(
                preset.export.contains("scripts/export_extractors.py")
                    && preset.export.contains(name),
                "{name}"
            );
            let absent = ResolvedExtractor::with_verified_file(
                PathBuf::from("nowhere/x.onnx"),
                preset.clone(),
            )
            .expect_err("absent");
            let text = absent.to_string();
            assert!(
                text.contains("nowhere/x.onnx") && text.contains(&preset.export),
                "{text}"
            );
            let weights = preset.weights.expect("named");
            assert!(
                weights.sha256.len() == 64
                    && text.contains(&weights.sha256)
                    && text.contains(&weights.file)
            );
        }
        assert!(
            ResolvedExtractor::resolve(Path::new("inception"))
                .is_err_and(|e| e.to_string().contains("inception-v3"))
        );
    }

    #[test]
    fn invalid_presets_are_refused_by_key() {
        let whole = BUILT_IN_PRESETS[0].1;
        for (from, to, word) in [
            (
                "shape: [3, 299, 299]",
                "shape: [2, 299, 299]",
                "input.shape",
            ),
            ("range: [-1, 0.9921875]", "range: [1, -1]", "input.range"),
            (
                "range: [-1, 0.9921875]",
                "range: [-1, 0.9921875]\n  mean: [0.5]",
                "input.mean",
            ),
            (
                "range: [-1, 0.9921875]",
                "range: [-1, 0.9921875]\n  std: [1, 0, 1]",
                "input.std",
            ),
            (
                "range: [-1, 0.9921875]",
                "range: [-1, 0.9921875]\n  crop: 3",
                "crop",
            ),
            ("resize: tensorflow", "resize: nope", "nope"),
        ] {
            assert!(whole.contains(from), "{from}");
            let error = Preset::parse("p.yaml", &whole.replacen(from, to, 1))
                .expect_err(word)
                .to_string();
            assert!(error.contains(word) && error.contains("p.yaml"), "{error}");
        }
    }

    #[test]
    fn preset_refuses_wrong_onnx_hash() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("x.onnx"), b"other").expect("written");
        let text = BUILT_IN_PRESETS[0].1.replacen(
            "file: inception-v3.onnx",
            &format!("file: x.onnx\nsha256: {}", "0".repeat(64)),
            1,
        );
        let path = folder.path().join("p.yaml");
        std::fs::write(&path, text).expect("written");
        assert!(
            ResolvedExtractor::resolve(&path).is_err_and(|e| e.to_string().contains("SHA-256"))
        );
    }

    #[test]
    fn preset_refuses_export_of_other_weights() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("inception-v3.onnx"), b"exported").expect("written");
        std::fs::write(at("p.yaml"), BUILT_IN_PRESETS[0].1).expect("written");
        let weights = Preset::parse("p", BUILT_IN_PRESETS[0].1)
            .expect("whole")
            .weights
            .expect("named")
            .sha256;
        let exported = hex(&Sha256::digest(b"exported"));
        let found = |record: Option<[&str; 2]>| {
            if let Some([sha256, weights]) = record {
                let text =
                    serde_json::json!({"sha256": sha256, "weights_sha256": weights, "torch": "2"})
                        .to_string();
                std::fs::write(at("inception-v3.onnx.json"), text).expect("written");
            }
            ResolvedExtractor::resolve(&at("p.yaml")).map_err(|e| format!("{e:#}"))
        };
        assert!(found(None).is_err_and(
            |e| e.contains("inception-v3.onnx.json") && e.contains("export_extractors")
        ));
        assert!(found(Some([&exported, "0"])).is_err_and(|e| e.contains(&weights)));
        assert!(found(Some(["0", &weights])).is_err_and(|e| e.contains(&exported)));
        assert!(found(Some([&exported, &weights])).is_ok());
    }
}
