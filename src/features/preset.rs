//! Presets of feature extractors: how images are converted to the input of the network, and where
//! its file comes from.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::resize::Resize;
use crate::host::{hex, user_cache_folder};
use crate::hub;
use crate::signature::{self, ExpectedFile};

/// A preset file: the conventions of a feature extractor. They are part of the definition of every
/// statistic of its features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// The name of the extractor.
    pub name: String,
    /// The path of the ONNX file, relative to the folder of the preset.
    pub file: PathBuf,
    /// The SHA-256 of the ONNX file. Without it, the file itself is not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The published weights from which the ONNX file is exported. If `sha256` is absent, a record
    /// beside the ONNX file (`FILE.json`) must name these weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PublishedWeights>,
    /// The command that writes the ONNX file.
    pub export: String,
    /// How images are converted to the input of the network.
    pub input: PresetInput,
    /// The names of the network's outputs.
    #[serde(default)]
    pub outputs: PresetOutputs,
}

/// Published weights. Their bytes are fixed, while the bytes of an ONNX file depend on the version
/// of the exporter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishedWeights {
    /// The name of the published file.
    pub file: String,
    /// The SHA-256 of the published file.
    pub sha256: String,
}

/// The record that an export writes beside its ONNX file, as `FILE.json`.
#[derive(Debug, Deserialize)]
struct ExportRecord {
    /// The SHA-256 of the ONNX file.
    sha256: String,
    /// The SHA-256 of the weights from which it was exported.
    weights_sha256: String,
}

/// How images of bytes are converted to the input of the network: resizing, range, normalization
/// and layout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PresetInput {
    /// The channels (1 or 3), the height and the width of the input. A grey image is repeated in
    /// three channels.
    pub shape: [usize; 3],
    /// The order of the axes: `nchw` (the default) or `nhwc`.
    #[serde(default)]
    pub layout: TensorLayout,
    /// How images are resized. The default `none` takes only images of the right size.
    #[serde(default)]
    pub resize: Resize,
    /// The values to which the bytes 0 and 255 are mapped, the smaller first.
    pub range: [f64; 2],
    /// The mean of each channel. It is subtracted after the mapping to `range`; the default is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f64>>,
    /// The standard deviation of each channel, by which values are divided after `mean` is
    /// subtracted; the default is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f64>>,
}

/// The order of the axes of the network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum TensorLayout {
    /// The axes are N, channels, height, width.
    #[default]
    Nchw,
    /// The axes are N, height, width, channels.
    Nhwc,
}

/// The names of the network's outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PresetOutputs {
    /// The output with the features. The default is `features`.
    pub features: String,
    /// The output with the class logits, if there is one.
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

/// The built-in presets, as name and YAML text. Their ONNX files are expected in `extractors/`
/// below the working folder or below the cache folder.
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

/// Whether a built-in preset has this name.
pub fn is_built_in_preset(spec: &Path) -> bool {
    BUILT_IN_PRESETS
        .iter()
        .any(|(known, _)| Path::new(known) == spec)
}

/// The extractor that `--extractor` names: an ONNX file, a preset file, or a built-in preset.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedExtractor {
    /// The path of the ONNX file.
    pub onnx: PathBuf,
    /// The preset, if the user named one.
    pub preset: Option<Preset>,
}

impl ResolvedExtractor {
    /// Finds the ONNX file and the preset for an ONNX file, a preset file or the name of a built-in
    /// preset. If there is a preset, its ONNX file is verified.
    ///
    /// # Errors
    /// Fails if no extractor has this name or the preset is invalid. Also fails if the preset's
    /// ONNX file is missing or is not the file that the preset describes.
    pub fn resolve(spec: &Path) -> Result<ResolvedExtractor> {
        let spec = &hub::local_path(spec)?;
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
        let is_preset_file = spec.extension().is_some_and(|e| e == "yaml" || e == "yml");
        if !is_preset_file {
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
            hub::local_path(&hub::beside(
                spec.parent().unwrap_or(Path::new("")),
                &preset.file,
            ))?,
            preset,
        )
    }

    /// Verifies the ONNX file of a preset by its SHA-256, or by the record of its export.
    ///
    /// # Errors
    /// Fails if the file is missing, or if a hash differs from the expected one.
    fn with_verified_file(onnx: PathBuf, preset: Preset) -> Result<ResolvedExtractor> {
        if !onnx.is_file() {
            let of = preset
                .weights
                .as_ref()
                .map(|w| format!(" from {} (SHA-256 {})", w.file, w.sha256));
            bail!(
                "{}: the file of the extractor `{}` is missing; make it with `{}`{}",
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
                    "{}: its SHA-256 is {found}, but the preset `{}` expects {expected}",
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

/// Checks that the record beside an ONNX file names the expected weights and the present bytes of
/// the file. `export` is the command that writes both files.
///
/// # Errors
/// Fails if the record is missing or invalid, or if a hash differs from the expected one.
fn check_export_record(onnx: &Path, weights: &PublishedWeights, export: &str) -> Result<()> {
    let record = PathBuf::from(format!("{}.json", onnx.display()));
    let name = record.display();
    let remedy = || format!("make both files again with `{export}`");
    let text = std::fs::read(&record).with_context(|| {
        format!(
            "{name}: the record of the export cannot be read; {}",
            remedy()
        )
    })?;
    let record: ExportRecord =
        serde_json::from_slice(&text).with_context(|| format!("{name}: {}", remedy()))?;
    if record.weights_sha256 != weights.sha256 {
        bail!(
            "{name}: the export was made from weights with SHA-256 {}, but {} has {}; {}",
            record.weights_sha256,
            weights.file,
            weights.sha256,
            remedy()
        );
    }
    let found = hex(&Sha256::digest(
        std::fs::read(onnx).with_context(|| onnx.display().to_string())?,
    ));
    if found != record.sha256 {
        bail!(
            "{}: its SHA-256 is {found}, but the record of the export says {}; {}",
            onnx.display(),
            record.sha256,
            remedy()
        );
    }
    Ok(())
}

impl Preset {
    /// Parses the YAML text of a preset. `name` is the file or the preset, for error messages.
    ///
    /// # Errors
    /// Fails if the text is not valid YAML of this form, or if a number under `input` is out of
    /// range.
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
                    "{name}: input.{key} is {values:?}, expected {channels} numbers, one per \
                     channel"
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
