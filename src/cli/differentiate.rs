//! `flowgauge differentiate MODEL.onnx --out OUT.onnx`

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::Exit;
use crate::graph;
use crate::journal::{check_writable, write_whole};

#[derive(Debug, Args)]
pub struct Differentiate {
    /// The ONNX file to differentiate
    model: PathBuf,
    /// The ONNX file to write
    #[arg(long, value_name = "ONNX")]
    out: PathBuf,
    /// Forward (J·V for k tangents at once) or reverse (Vᵀ·J)
    #[arg(long, value_enum, default_value = "jvp")]
    mode: Mode,
    /// The input to differentiate by [default: the first of floating point]
    #[arg(long, value_name = "NAME")]
    input: Option<String>,
    /// The output to differentiate [default: the first]
    #[arg(long, value_name = "NAME")]
    output: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    Jvp,
    Vjp,
}

impl Differentiate {
    pub fn execute(self) -> Result<Exit> {
        check_writable(&self.out)?;
        let model = graph::Model::load(&self.model)?;
        let mode = match self.mode {
            Mode::Jvp => graph::Mode::Jvp,
            Mode::Vjp => graph::Mode::Vjp,
        };
        let derived = graph::differentiate(&model, mode, self.input.as_deref(), self.output.as_deref())?;
        write_whole(&self.out, &derived.to_bytes()?)?;
        Ok(Exit::Well)
    }
}
