//! `flowgauge differentiate MODEL.onnx --out OUT.onnx`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::Exit;
use crate::graph;
use crate::output::{Output, OutputKind};

#[derive(Debug, Args)]
pub struct DifferentiateArgs {
    /// The ONNX file to differentiate
    model: PathBuf,
    /// The ONNX file to write
    #[arg(long, value_name = "ONNX")]
    out: PathBuf,
    /// Forward (J·V for k tangents at once), reverse (Vᵀ·J), or the trace of J
    #[arg(long, value_enum, default_value = "jvp")]
    mode: DifferentiateMode,
    /// The input to differentiate by [default: the first of floating point]
    #[arg(long, value_name = "NAME")]
    input: Option<String>,
    /// The output to differentiate [default: the first]
    #[arg(long, value_name = "NAME")]
    output: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DifferentiateMode {
    Jvp,
    Vjp,
    Trace,
}

impl DifferentiateArgs {
    pub fn execute(self) -> Result<Exit> {
        let out = Output::new(OutputKind::Onnx, "--out", &self.out, &self.input_files()?)?;
        let model = self.read_model()?;
        let mode = match self.mode {
            DifferentiateMode::Jvp => graph::Mode::Jvp,
            DifferentiateMode::Vjp => graph::Mode::Vjp,
            DifferentiateMode::Trace => graph::Mode::Trace,
        };
        let derived =
            graph::differentiate(&model, mode, self.input.as_deref(), self.output.as_deref())?;
        out.write(&derived.to_bytes()?)?;
        Ok(Exit::Success)
    }

    /// The model's file and those of its weights.
    fn input_files(&self) -> Result<Vec<PathBuf>> {
        let name = self.model.display().to_string();
        let bytes =
            std::fs::read(&self.model).with_context(|| format!("{name}: it cannot be read"))?;
        let home = self.model.parent().unwrap_or(Path::new(""));
        let weights = graph::external_files(&name, &bytes)?;
        Ok(weights
            .into_iter()
            .map(|file| home.join(file))
            .chain([self.model.clone()])
            .collect())
    }

    /// The model whole; one that no message can hold, with its weights left in the files that the result names as well.
    fn read_model(&self) -> Result<graph::Model> {
        let too_large = match graph::load_onnx(&self.model) {
            Err(error @ graph::GraphError::TooLarge { .. }) => error,
            read => return Ok(read?),
        };
        let (Some(home), Some(out)) = (canonical_folder(&self.model), canonical_folder(&self.out))
        else {
            return Err(too_large.into());
        };
        if home != out {
            bail!(
                "{too_large}; or write --out into the model's own folder, where the result can name the same weights"
            );
        }
        Ok(graph::skim_onnx(&self.model)?)
    }
}

/// The folder of a file, by one name of it.
fn canonical_folder(file: &Path) -> Option<PathBuf> {
    let folder = file.parent()?;
    if folder == Path::new("") {
        Path::new(".").canonicalize()
    } else {
        folder.canonicalize()
    }
    .ok()
}
