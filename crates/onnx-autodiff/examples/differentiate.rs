//! Writes the graph that also computes a Jacobian product.
//!
//! `cargo run --release -p onnx-autodiff --example differentiate -- net.onnx jvp net-jvp.onnx [INPUT OUTPUT]`

use std::path::Path;
use std::process::ExitCode;

use onnx_autodiff::{ElemType, Mode, Model, differentiate};

const USAGE: &str = "usage: differentiate MODEL.onnx jvp|vjp|trace|quadratic OUT.onnx [INPUT [OUTPUT]] [--float64]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match derive(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn derive(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let (options, arguments): (Vec<String>, Vec<String>) = arguments.iter().cloned().partition(|a| a == "--float64");
    let [model, mode, out, ports @ ..] = &arguments[..] else { return Err(USAGE.into()) };
    let mode = match mode.as_str() {
        "jvp" => Mode::Jvp,
        "vjp" => Mode::Vjp,
        "trace" => Mode::Trace,
        "quadratic" => Mode::Quadratic,
        other => return Err(format!("no mode is called `{other}`; {USAGE}").into()),
    };
    let port = |place: usize| ports.get(place).map(String::as_str);
    let mut model = Model::load(Path::new(model))?;
    if !options.is_empty() {
        model = model.in_precision(ElemType::DOUBLE)?;
    }
    let derived = differentiate(&model, mode, port(0), port(1))?;
    std::fs::write(out, derived.to_bytes()?)?;
    Ok(())
}
