//! Convolutions from fewer products are the same convolutions. The networks of tests/data/convolutions are made by
//! `scripts/make_convolutions.py`; in float64 nothing is rewritten, and that is what results are compared with.

use std::path::Path;

use flowgauge::graph::{self, Dim, ElemType, Mode, Model};
use flowgauge::model::onnx::{Provider, Runtime, Session};
use flowgauge::num::key::{Purpose, RngKey};
use ndarray::{ArrayD, Axis, IxDyn};

const BATCH: usize = 3;
const DIRECTIONS: usize = 2;

/// The networks with the number of convolutions that they are rewritten to; 0 for those that stay.
const NETWORKS: [(&str, usize); 19] = [
    ("four", 12),
    ("two", 8),
    ("wide", 12),
    ("tall", 12),
    ("tall_two", 8),
    ("transposed", 12),
    ("shared", 36),
    ("enlarged", 17),
    ("enlarged_also_read", 17),
    ("enlarged_upwards", 12),
    ("enlarged_smoothly", 12),
    ("few_channels", 0),
    ("groups", 0),
    ("steps", 0),
    ("holes", 0),
    ("no_margin", 0),
    ("odd_height", 0),
    ("small", 0),
    ("computed", 0),
];

fn network(name: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/convolutions");
    Model::load(&folder.join(format!("{name}.onnx"))).expect("a model")
}

fn open(model: &Model, threads: usize) -> Session {
    let runtime = Runtime::get(None).expect("ONNX Runtime is found or fetched");
    let bytes = model.to_bytes().expect("the graph is written");
    runtime
        .open(model.file(), &bytes, Provider::Cpu, threads)
        .unwrap_or_else(|e| panic!("{e:#}"))
}

/// Numbers that float32 has, for all inputs of a model.
fn feeds(model: &Model) -> Vec<(String, ArrayD<f64>)> {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(n) => *n as usize,
        Dim::Symbol(name) if name == "K" => DIRECTIONS,
        _ => BATCH,
    };
    let input = |(place, port): (usize, graph::Port)| {
        let shape: Vec<usize> = port.dims.iter().map(size).collect();
        let key = RngKey { seed: 3 };
        let drawn = key.normal(Purpose::Check, place as u64, 0, shape.iter().product());
        let single = drawn.mapv(|x| f64::from(x as f32));
        let shaped = single.into_shape_with_order(IxDyn(&shape));
        (port.name, shaped.expect("as many numbers"))
    };
    model.inputs().into_iter().enumerate().map(input).collect()
}

fn run(
    session: &mut Session,
    feeds: &[(String, ArrayD<f64>)],
    wanted: &[&str],
) -> Vec<ArrayD<f64>> {
    let feeds = feeds
        .iter()
        .map(|(name, numbers)| (name.as_str(), numbers.view()));
    session
        .run(feeds.collect(), wanted)
        .unwrap_or_else(|e| panic!("{e}"))
}

fn root_mean_square(a: &ArrayD<f64>) -> f64 {
    (a.iter().map(|x| x * x).sum::<f64>() / a.len() as f64).sqrt()
}

#[test]
fn rewritten_convolutions_and_their_derivatives_are_those_of_float64() {
    let modes = [None, Some(Mode::Jvp), Some(Mode::Vjp)];
    for (name, convolutions) in NETWORKS {
        let model = network(name);
        let wide = model
            .in_precision(ElemType::DOUBLE)
            .unwrap_or_else(|e| panic!("{e}"));
        for mode in modes {
            let derived = |of: &Model| {
                let made = |mode| graph::differentiate(of, mode, Some("x"), Some("y"));
                mode.map(|mode| made(mode).unwrap_or_else(|e| panic!("{e}")))
            };
            let (single, double) = (derived(&model), derived(&wide));
            let (single, double) = (
                single.as_ref().unwrap_or(&model),
                double.as_ref().unwrap_or(&wide),
            );
            if mode.is_none() {
                let rewritten = single.with_winograd_convolutions();
                let found = rewritten.map_or(0, |m| m.operators()["Conv"]);
                assert_eq!(found, convolutions, "{name}");
            }
            assert!(double.with_winograd_convolutions().is_none());
            let feeds = feeds(single);
            let outputs: Vec<String> = single.outputs().into_iter().map(|p| p.name).collect();
            let wanted: Vec<&str> = (outputs.iter().map(String::as_str))
                .filter(|output| !output.ends_with("_quadratic"))
                .collect();
            let right = run(&mut open(double, 1), &feeds, &wanted);
            let found = run(&mut open(single, 1), &feeds, &wanted);
            for ((found, right), output) in found.iter().zip(&right).zip(&wanted) {
                let error = root_mean_square(&(found - right)) / root_mean_square(right);
                // The rounding errors of layers add up like those of independent steps.
                let layers = if name == "shared" { 3.0f64 } else { 1.0 };
                assert!(
                    error < 5e-7 * layers.sqrt(),
                    "{name}, {mode:?}, {output}: {error:e}"
                );
            }
        }
    }
}

#[test]
fn a_rewritten_network_gives_each_sample_the_same_bytes_in_any_call() {
    for (name, convolutions) in NETWORKS {
        if convolutions == 0 {
            continue;
        }
        let model = network(name);
        let all = feeds(&model);
        let whole = run(&mut open(&model, 1), &all, &["y"]).remove(0);
        for threads in [1, 2] {
            let mut session = open(&model, threads);
            for rows in [vec![2], vec![1, 0], vec![0, 1, 2]] {
                let part: Vec<_> = (all.iter())
                    .map(|(name, numbers)| (name.clone(), numbers.select(Axis(0), &rows)))
                    .collect();
                let found = run(&mut session, &part, &["y"]).remove(0);
                let right = whole.select(Axis(0), &rows);
                let same = (found.iter().zip(&right)).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{name}, {threads} threads, rows {rows:?}");
            }
        }
    }
}
