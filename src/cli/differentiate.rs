//! `flowgauge differentiate MODEL.onnx --out OUT.onnx`: writes a derived ONNX graph.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::Exit;
use super::console::{Answer, JsonArgs};
use crate::graph;
use crate::output::{Output, OutputKind};

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge differentiate models/moons/velocity.onnx --out jvp.onnx
  flowgauge differentiate models/digits/denoiser.onnx --mode vjp --input x --output denoised --out vjp.onnx";

/// The arguments of `flowgauge differentiate`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DifferentiateArgs {
    /// The ONNX file to differentiate
    model: PathBuf,
    /// The ONNX file to write
    #[arg(long, value_name = "ONNX")]
    out: PathBuf,
    /// What the new graph computes besides the output, with J the Jacobian of output by input
    #[arg(long, value_enum, default_value = "jvp")]
    mode: DifferentiateMode,
    /// The input to differentiate with respect to [default: the first floating-point input]
    #[arg(long, value_name = "NAME")]
    input: Option<String>,
    /// The output to differentiate [default: the first output]
    #[arg(long, value_name = "NAME")]
    output: Option<String>,
    #[command(flatten)]
    json: JsonArgs,
}

/// What the derived graph computes.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum DifferentiateMode {
    /// J·V for k tangents V at once (forward mode)
    Jvp,
    /// Vᵀ·J (reverse mode)
    Vjp,
    /// The trace of J
    Trace,
    /// J itself
    Jacobian,
}

impl DifferentiateArgs {
    /// Writes the derived graph.
    ///
    /// # Errors
    /// Fails if the model cannot be read or differentiated, or if the result cannot be written.
    pub(super) fn execute(self) -> Result<Exit> {
        let out = Output::new(OutputKind::Onnx, "--out", &self.out, &self.input_files()?)?;
        self.json.check(Some(&out))?;
        let model = self.read_model()?;
        let mode = match self.mode {
            DifferentiateMode::Jvp => graph::Mode::Jvp,
            DifferentiateMode::Vjp => graph::Mode::Vjp,
            DifferentiateMode::Trace => graph::Mode::Trace,
            DifferentiateMode::Jacobian => graph::Mode::Jacobian,
        };
        let derived =
            graph::differentiate(&model, mode, self.input.as_deref(), self.output.as_deref())?;
        out.write(&derived.to_bytes()?)?;
        let ports = |ports: Vec<graph::Port>| -> Vec<String> {
            ports.into_iter().map(|port| port.name).collect()
        };
        let (inputs, outputs) = (ports(derived.inputs()), ports(derived.outputs()));
        let mode = match self.mode {
            DifferentiateMode::Jvp => "jvp",
            DifferentiateMode::Vjp => "vjp",
            DifferentiateMode::Trace => "trace",
            DifferentiateMode::Jacobian => "jacobian",
        };
        let mut answer = Answer::new(
            "differentiate",
            format!(
                "{mode} of {} with inputs {} and outputs {}: {}",
                self.model.display(),
                inputs.join(", "),
                outputs.join(", "),
                self.out.display()
            ),
        );
        answer.set_path("model", &self.model);
        answer.set("mode", mode);
        answer.set("inputs", inputs);
        answer.set("outputs", outputs);
        answer.set_path("graph", &self.out);
        Ok(answer.show(self.json, Some(&out), Exit::Success))
    }

    /// The model's file and the files of its weights, which the result must not overwrite.
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

    /// The model with its weights.
    ///
    /// If the weights are too large for one protobuf message, they stay in their files. The result
    /// then names the same files, so that it must be written into the folder of the model.
    ///
    /// # Errors
    /// Fails if the model cannot be read, or if it is too large and the result lies elsewhere.
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
                "{too_large}; or write --out into the model's own folder, \
                 where the result can use the same files of weights"
            );
        }
        Ok(graph::skim_onnx(&self.model)?)
    }
}

/// The canonical path of a file's folder; `None` if the folder does not exist.
fn canonical_folder(file: &Path) -> Option<PathBuf> {
    let folder = file.parent()?;
    if folder == Path::new("") {
        Path::new(".").canonicalize()
    } else {
        folder.canonicalize()
    }
    .ok()
}
