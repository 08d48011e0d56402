//! What deriving a graph costs: time by mode, and nodes before and after.
//!
//! `cargo bench -p onnx-autodiff --bench derivation [-- MODEL.onnx ...]` prints a table: for each network its nodes, and for
//! each mode the nodes of the derived graph and the shortest of several times in milliseconds. Reading and writing of
//! files are not counted. Without arguments it runs on some networks of the tests, which takes a few seconds.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use onnx_autodiff::{GraphError, Mode, Model, differentiate};

const MODES: [(&str, Mode); 5] = [
    ("jvp", Mode::Jvp),
    ("vjp", Mode::Vjp),
    ("trace", Mode::Trace),
    ("jacobian", Mode::Jacobian),
    ("quadratic", Mode::Quadratic),
];

/// A perceptron, transformers, U-Nets.
const NETWORKS: [&str; 6] = [
    "torchcfm-mlp-ts-op17",
    "plain-dit-dynamo-op20",
    "diffusers-dit-ts-op20",
    "plain-unet-ts-op17",
    "diffusers-conditional-dynamo-op20",
    "ddpm_pytorch-unet-ts-op17",
];

const ROUNDS: usize = 7;

fn main() {
    let named: Vec<PathBuf> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .map(PathBuf::from)
        .collect();
    let files = if named.is_empty() {
        of_the_tests()
    } else {
        named
    };
    let columns: Vec<String> = MODES
        .iter()
        .map(|(name, _)| format!("{name}: nodes, ms"))
        .collect();
    println!("| network | nodes | {} |", columns.join(" | "));
    println!("|---|---|{}", "---|".repeat(MODES.len()));
    for file in files {
        match Model::load(&file) {
            Ok(model) => println!("{}", row(&file, &model)),
            Err(error) => println!("| {} | {error} |", file.display()),
        }
    }
}

fn of_the_tests() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/graph");
    NETWORKS
        .iter()
        .map(|name| folder.join(format!("{name}.onnx")))
        .collect()
}

fn row(file: &Path, model: &Model) -> String {
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let cells: Vec<String> = MODES.iter().map(|(_, mode)| cell(model, *mode)).collect();
    format!("| {name} | {} | {} |", nodes(model), cells.join(" | "))
}

/// Nodes of the derived graph and the shortest time, or a dash where the mode does not apply.
fn cell(model: &Model, mode: Mode) -> String {
    match shortest(model, mode) {
        Ok((derived, time)) => format!("{}, {:.1}", nodes(&derived), 1e3 * time.as_secs_f64()),
        Err(_) => "–".into(),
    }
}

fn shortest(model: &Model, mode: Mode) -> Result<(Model, Duration), GraphError> {
    let timed = || {
        let start = Instant::now();
        let derived = differentiate(model, mode, None, None)?;
        Ok((derived, start.elapsed()))
    };
    let mut best: (Model, Duration) = timed()?;
    for _ in 1..ROUNDS {
        let next = timed()?;
        if next.1 < best.1 {
            best = next;
        }
    }
    Ok(best)
}

fn nodes(model: &Model) -> usize {
    model.operators().values().sum()
}
