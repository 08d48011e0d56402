//! Writes the graph that also computes a Jacobian product.
//!
//! `cargo run --release -p onnx-autodiff --example differentiate -- net.onnx jvp net-jvp.onnx [INPUT OUTPUT]`

#![expect(clippy::print_stderr, reason = "an example prints why it failed")]

use std::path::Path;
use std::process::ExitCode;

use onnx_autodiff::{ElemType, Mode, Model, Pass, Passes, differentiate_with};

const USAGE: &str = "usage: differentiate MODEL.onnx jvp|vjp|trace|jacobian|quadratic OUT.onnx [INPUT [OUTPUT]] [--float64] [--without PASS]";

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
    let mut arguments = arguments.to_vec();
    let float64 = arguments
        .iter()
        .position(|a| a == "--float64")
        .map(|place| arguments.remove(place));
    let passes = passes(&mut arguments)?;
    let [model, mode, out, ports @ ..] = &arguments[..] else {
        return Err(USAGE.into());
    };
    let mode = match mode.as_str() {
        "jvp" => Mode::Jvp,
        "vjp" => Mode::Vjp,
        "trace" => Mode::Trace,
        "jacobian" => Mode::Jacobian,
        "quadratic" => Mode::Quadratic,
        other => return Err(format!("no mode is called `{other}`; {USAGE}").into()),
    };
    let port = |place: usize| ports.get(place).map(String::as_str);
    let mut model = Model::load(Path::new(model))?;
    if float64.is_some() {
        model = model.in_precision(ElemType::DOUBLE)?;
    }
    let derived = differentiate_with(&model, mode, port(0), port(1), passes)?;
    std::fs::write(out, derived.to_bytes()?)?;
    Ok(())
}

/// What is done for speed, but for what `--without` names.
fn passes(arguments: &mut Vec<String>) -> Result<Passes, String> {
    let mut passes = Passes::all();
    while let Some(place) = arguments.iter().position(|a| a == "--without") {
        let named: Vec<String> = arguments
            .drain(place..arguments.len().min(place + 2))
            .skip(1)
            .collect();
        let pass = Pass::ALL
            .into_iter()
            .find(|pass| named.iter().any(|name| name == pass.name()));
        let names: Vec<&str> = Pass::ALL.iter().map(|pass| pass.name()).collect();
        passes = passes
            .without(pass.ok_or_else(|| format!("--without takes one of {}", names.join(", ")))?);
    }
    Ok(passes)
}
