//! What is done for speed alone changes no result: derived graphs with each pass switched off, against those with all.

use std::fs::File;
use std::path::{Path, PathBuf};

use flowgauge::graph::{self, Dim, ElemType, Mode, Model, Pass, Passes};
use flowgauge::model::onnx::{Provider, Runtime};
use flowgauge::num::key::{Purpose, RngKey};
use ndarray::{ArrayD, IxDyn};
use ndarray_npy::NpzReader;

const BATCH: usize = 2;
const DIRECTIONS: usize = 3;
/// Graphs on which a pass is held against itself switched off.
const ENOUGH: usize = 2;

/// The networks of the tests, smallest first, a shipped one that scales its input, and behind them single operators.
fn models() -> Vec<Model> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/graph");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&data)
        .expect("test data")
        .flatten()
        .map(|e| e.path())
        .collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "onnx"));
    files.sort_by_key(|file| file.metadata().map_or(0, |m| m.len()));
    files.extend(
        ["long_rows", "tokens"]
            .map(|name| data.with_file_name("edges").join(format!("{name}.onnx"))),
    );
    files.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits/denoiser.onnx"));
    let mut models: Vec<Model> = files
        .iter()
        .map(|file| Model::load(file).expect("a model"))
        .collect();
    let mut cases =
        NpzReader::new(File::open(data.join("rules.npz")).expect("rules.npz")).expect("rules.npz");
    let names: Vec<String> = cases
        .names()
        .expect("names")
        .into_iter()
        .filter(|name| name.ends_with(".onnx"))
        .collect();
    for name in names.iter().take(60) {
        let bytes: ndarray::Array1<u8> = cases.by_name(name).expect("a case");
        models.push(Model::from_bytes(name, &bytes.to_vec()).expect("a model"));
    }
    models
}

/// The same in float64, where any difference beyond this is one of method, and behind them the networks as they are: some
/// operators are written with others in float64.
fn with_bounds() -> Vec<(Model, f64)> {
    let models = models();
    let wide = models
        .iter()
        .filter_map(|model| Some((model.in_precision(ElemType::DOUBLE).ok()?, 1e-10)));
    let mut all: Vec<(Model, f64)> = wide.collect();
    all.extend(models.into_iter().map(|model| (model, 2e-5)));
    all
}

fn derived(model: &Model, mode: Mode, passes: Passes) -> Option<Model> {
    graph::differentiate_with(model, mode, None, None, passes).ok()
}

/// All outputs that a derived graph adds to its model's, for inputs without a pattern.
fn outputs(model: &Model, derived: &Model) -> Vec<ArrayD<f64>> {
    let runtime = Runtime::get(None).expect("ONNX Runtime is found or fetched");
    let written = derived.to_bytes().expect("the graph is written");
    let mut session = runtime
        .open(model.file(), &written, Provider::Cpu, 1)
        .expect("the graph loads");
    let size = |dim: &Dim| match dim {
        Dim::Fixed(n) => *n as usize,
        Dim::Symbol(name) if name == "K" => DIRECTIONS,
        _ => BATCH,
    };
    let mut feeds: Vec<(String, ArrayD<f64>)> = Vec::new();
    for (place, port) in derived.inputs().iter().enumerate() {
        let shape: Vec<usize> = port.dims.iter().map(size).collect();
        let count = shape.iter().product();
        let numbers = match port.elem.is_float() {
            true => RngKey { seed: 7 }
                .normal(Purpose::Check, place as u64, 0, count)
                .mapv(|x| 0.5 + 0.25 * x),
            false => ndarray::Array1::zeros(count),
        };
        feeds.push((
            port.name.clone(),
            numbers
                .into_shape_with_order(IxDyn(&shape))
                .expect("as many numbers"),
        ));
    }
    let own: Vec<String> = model.outputs().into_iter().map(|port| port.name).collect();
    let wanted: Vec<String> = derived
        .outputs()
        .into_iter()
        .map(|port| port.name)
        .filter(|n| !own.contains(n))
        .collect();
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let feeds = feeds
        .iter()
        .map(|(name, numbers)| (name.as_str(), numbers.view()))
        .collect();
    session
        .run(feeds, &wanted)
        .unwrap_or_else(|e| panic!("{}: {e}", model.file()))
}

fn difference(a: &ArrayD<f64>, b: &ArrayD<f64>) -> f64 {
    let scale = a.iter().fold(1e-3, |m: f64, x| m.max(x.abs()));
    assert_eq!(a.shape(), b.shape());
    assert!(a.iter().all(|x| x.is_finite()), "{a}");
    a.iter()
        .zip(b)
        .fold(0.0, |m: f64, (x, y)| m.max((x - y).abs() / scale))
}

#[test]
fn no_pass_changes_a_result() {
    let models = with_bounds();
    for pass in Pass::ALL {
        let mut compared = 0;
        for mode in [
            Mode::Jvp,
            Mode::Trace,
            Mode::Jacobian,
            Mode::Quadratic,
            Mode::Vjp,
        ] {
            for (model, bound) in &models {
                if compared == ENOUGH {
                    break;
                }
                let (Some(with), Some(without)) = (
                    derived(model, mode, Passes::all()),
                    derived(model, mode, Passes::all().without(pass)),
                ) else {
                    continue;
                };
                let written = |model: &Model| model.to_bytes().expect("the graph is written");
                if written(&with) == written(&without) {
                    continue;
                }
                let (a, b) = (outputs(model, &with), outputs(model, &without));
                // The terms of a trace are other sums where axes share directions; their sum is not.
                let found = a
                    .iter()
                    .zip(&b)
                    .filter(|(a, b)| a.shape() == b.shape())
                    .map(|(a, b)| difference(a, b));
                let worst = found.fold(0.0, f64::max);
                assert!(
                    worst <= *bound,
                    "{} on {} in {mode:?}: {worst:.1e}",
                    pass.name(),
                    model.file()
                );
                compared += 1;
            }
        }
        assert!(
            compared > 0,
            "no graph of the tests is another without {}",
            pass.name()
        );
    }
}
