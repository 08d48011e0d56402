//! Cards whose networks need more than a state and a time: fixed inputs, and weights in files of their own.

use std::path::Path;

use flowgauge::flow::field::Points;
use flowgauge::flow::field::{JacobianOperator, VectorField};
use flowgauge::model::loaded::{JacobianOptions, Model, SessionOptions};
use flowgauge::model::onnx::{Provider, Runtime, Session};
use flowgauge::num::key::{Purpose, RngKey};
use flowgauge::num::{Batch, TangentBatch};
use ndarray::{ArrayD, IxDyn};
use ndarray_npy::write_npy;

use crate::cli::{flowgauge, refused};

const OPTIONS: SessionOptions = SessionOptions {
    provider: Provider::Cpu,
    threads: 1,
};

fn runtime() -> &'static Runtime {
    Runtime::get(None).expect("ONNX Runtime is found or fetched")
}

fn data(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(file)
}

fn card(shape: &str, network: &str) -> String {
    let roles = "inputs: {x: x, time: t}, output: y, prediction: velocity";
    format!(
        "name: it\nshape: {shape}\nnetwork: {{file: {network}, {roles}}}\npath: {{kind: flow-matching, data_at: 1}}\n"
    )
}

fn states(rows: usize, dim: usize) -> Batch {
    RngKey { seed: 3 }
        .normal(Purpose::Check, 0, 0, rows * dim)
        .into_shape_with_order((rows, dim))
        .expect("as many")
}

/// The card's velocity against the network run by hand.
fn agrees(model: &Model, file: &str, x: &Batch, extra: (&str, ArrayD<f64>)) {
    let shape: Vec<usize> = std::iter::once(x.nrows())
        .chain(model.card.shape.iter().copied())
        .collect();
    let image = x.to_shape(shape).expect("dim numbers per row").into_owned();
    let bytes = std::fs::read(data(file)).expect("test data");
    let mut session: Session = runtime()
        .open(file, &bytes, Provider::Cpu, 1)
        .expect("it opens");
    let t = ArrayD::from_elem(IxDyn(&[x.nrows()]), 0.5);
    let feeds = vec![
        ("x", image.view()),
        ("t", t.view()),
        (extra.0, extra.1.view()),
    ];
    let by_hand = session.run(feeds, &["y"]).expect("it runs").remove(0);
    let found = model
        .velocity(runtime(), OPTIONS)
        .and_then(|mut v| Ok(v.velocity(Points::of_first_samples(&vec![0.5; x.nrows()], x))?));
    let found = found.expect("a velocity");
    assert_eq!(
        found.iter().collect::<Vec<_>>(),
        by_hand.iter().collect::<Vec<_>>()
    );
    assert!(found.iter().any(|v| *v != 0.0));
}

/// The products agree with central differences of the velocity, to the precision that those have in float32.
fn is_differentiated(model: &Model, x: &Batch) {
    let t = vec![0.5; x.nrows()];
    let z = RngKey { seed: 4 }.normal(Purpose::Check, 0, 0, x.len());
    let z = TangentBatch::from_shape_vec((1, x.nrows(), x.ncols()), z.to_vec()).expect("as many");
    let products = model
        .jacobian(runtime(), OPTIONS, JacobianOptions::default())
        .expect("differentiable")
        .jvp(Points::of_first_samples(&t, x), &z)
        .expect("products");
    let mut field = model.velocity(runtime(), OPTIONS).expect("a velocity");
    let step = 1e-2;
    let z = z.index_axis(ndarray::Axis(0), 0);
    let mut at = |s: f64| {
        field
            .velocity(Points::of_first_samples(&t, &(x + &(&z * s))))
            .expect("it runs")
    };
    let slope = (at(step) - at(-step)) / (2.0 * step);
    let error = (&slope - &products.index_axis(ndarray::Axis(0), 0))
        .mapv(f64::abs)
        .fold(0.0f64, |a, b| a.max(*b));
    let size = slope.mapv(f64::abs).fold(0.0f64, |a, b| a.max(*b));
    assert!(size > 0.0 && error < 2e-3 * size, "{error} of {size}");
}

#[test]
fn a_label_is_fixed_by_the_card() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = "graph/flow_matching-unet-ts-op17.onnx";
    std::fs::copy(data(file), folder.path().join("network.onnx")).expect("copied");
    let at = folder.path().join("card.yaml");
    let x = states(4, 64);
    for label in [0, 1] {
        let text = card("[1, 8, 8]", "network.onnx, constants: {label: LABEL}")
            .replace("LABEL", &label.to_string());
        std::fs::write(&at, text).expect("written");
        let model = Model::open(&at).expect("a model");
        agrees(
            &model,
            file,
            &x,
            ("label", ArrayD::from_elem(IxDyn(&[4]), f64::from(label))),
        );
        is_differentiated(&model, &x);
    }
}

#[test]
fn an_embedding_is_read_from_beside_the_card() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = "graph/diffusers-conditional-dynamo-op20.onnx";
    std::fs::copy(data(file), folder.path().join("network.onnx")).expect("copied");
    let context = RngKey { seed: 5 }.normal(Purpose::Check, 0, 0, 60);
    let context = context
        .mapv(|v| v as f32)
        .into_shape_with_order((5, 12))
        .expect("60 numbers");
    write_npy(folder.path().join("context.npy"), &context).expect("written");
    let at = folder.path().join("card.yaml");
    std::fs::write(
        &at,
        card(
            "[2, 8, 8]",
            "network.onnx, constants: {context: context.npy}",
        ),
    )
    .expect("written");
    let model = Model::open(&at).expect("a model");
    assert!(
        model
            .files
            .iter()
            .any(|f| f.key == "network.constants.context" && f.sha256.len() == 64)
    );
    let repeated = context
        .mapv(f64::from)
        .broadcast((4, 5, 12))
        .expect("a leading axis")
        .to_owned()
        .into_dyn();
    let x = states(4, 128);
    agrees(&model, file, &x, ("context", repeated));
    is_differentiated(&model, &x);
}

#[test]
fn constants_that_do_not_fit_are_told_by_their_key() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(
        data("graph/flow_matching-unet-ts-op17.onnx"),
        folder.path().join("network.onnx"),
    )
    .expect("copied");
    let check = |constants: &str, words: &[&str]| {
        let text = card("[1, 8, 8]", &format!("network.onnx{constants}"));
        std::fs::write(folder.path().join("card.yaml"), text).expect("written");
        refused(folder.path(), &["inspect", "card.yaml"], words);
    };
    check("", &["`label` has no role", "constants: {label: …}"]);
    check(
        ", constants: {label: 0.5}",
        &["network.constants.label", "holds 0.5", "whole numbers"],
    );
    check(
        ", constants: {label: [1, 2]}",
        &[
            "network.constants.label",
            "[2]",
            "one number for each sample",
        ],
    );
    check(
        ", constants: {label: none.npy}",
        &["network.constants.label", "none.npy"],
    );
    check(
        ", constants: {label: network.onnx}",
        &["network.constants.label", "not a .npy array"],
    );
    check(
        ", constants: {label: ../label.npy}",
        &["network.constants.label", "leaves the card's folder"],
    );
    check(
        ", constants: {label: {a: 1}}",
        &["label", "expected a number"],
    );
    check(
        ", constants: {label: 1, x: 2}",
        &["network.constants.x", "state or the time"],
    );
    check(
        ", constants: {label: 1, more: 2}",
        &["no input `more`", "label"],
    );
}

#[test]
fn weights_beside_the_network_are_read_and_hashed() {
    let folder = tempfile::tempdir().expect("a folder");
    let below = folder.path().join("below");
    std::fs::create_dir(&below).expect("a folder");
    for file in ["network.onnx", "network.onnx.data"] {
        std::fs::copy(data("external").join(file), below.join(file)).expect("copied");
    }
    std::fs::copy(
        data("graph/plain-mlp-ts-op13.onnx"),
        folder.path().join("one.onnx"),
    )
    .expect("copied");
    std::fs::write(
        folder.path().join("card.yaml"),
        card("[5]", "below/network.onnx"),
    )
    .expect("written");
    std::fs::write(folder.path().join("one.yaml"), card("[5]", "one.onnx")).expect("written");
    let model = Model::open(&folder.path().join("card.yaml")).expect("a model");
    let keys: Vec<&str> = model.files.iter().map(|f| f.key.as_str()).collect();
    assert_eq!(keys, ["network.file", "network.file data"]);
    assert_eq!(model.files[1].name, Path::new("below/network.onnx.data"));
    write_npy(folder.path().join("x.npy"), &states(4, 5)).expect("written");
    for (name, out) in [("card.yaml", "a.csv"), ("one.yaml", "b.csv")] {
        let args = [
            "likelihood",
            "--model",
            name,
            "--data",
            "x.npy",
            "--divergence",
            "exact",
        ];
        let rest = ["--solver", "{heun: {steps: 4}}", "--out", out];
        flowgauge(folder.path(), &[&args[..], &rest[..]].concat()).is(0);
    }
    let rows = |file: &str| std::fs::read_to_string(folder.path().join(file)).expect("rows");
    assert_eq!(rows("a.csv"), rows("b.csv"));
    flowgauge(folder.path(), &["inspect", "card.yaml"]).is(0);

    let network = std::fs::read(below.join("network.onnx")).expect("it was copied");
    let (inside, outside) = (b"network.onnx.data", b"../ork.onnx.data1");
    let starts: Vec<usize> = (0..network.len() - 16)
        .filter(|i| network[*i..].starts_with(inside))
        .collect();
    assert!(!starts.is_empty());
    let mut moved = network;
    starts
        .iter()
        .for_each(|i| moved[*i..i + 17].copy_from_slice(outside));
    std::fs::write(below.join("network.onnx"), moved).expect("written");
    refused(
        folder.path(),
        &["inspect", "card.yaml"],
        &["card.yaml", "network.file", "outside the model's folder"],
    );
    std::fs::copy(data("external/network.onnx"), below.join("network.onnx")).expect("copied");
    std::fs::remove_file(below.join("network.onnx.data")).expect("it was there");
    refused(
        folder.path(),
        &["inspect", "card.yaml"],
        &["network.file", "network.onnx.data"],
    );
}

/// A file with a hole of 2.3 GB takes no room on disk.
#[test]
fn weights_that_no_message_holds_stay_where_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let weights = at.join("large.bin");
    std::fs::copy(data("external/large.onnx"), at.join("large.onnx")).expect("copied");
    std::fs::File::create(&weights)
        .and_then(|f| f.set_len(4 * 64 * 9_000_000))
        .expect("a hole");
    std::fs::create_dir(at.join("other")).expect("a folder");
    let args =
        |out: &'static str, mode| ["differentiate", "large.onnx", "--mode", mode, "--out", out];
    refused(
        at,
        &args("other/out.onnx", "jvp"),
        &["large.onnx", "2304000000", "own folder"],
    );
    refused(
        at,
        &args("large.bin", "jvp"),
        &["large.bin", "ends in .onnx"],
    );
    std::fs::hard_link(&weights, at.join("weights.onnx")).expect("another name of the weights");
    refused(
        at,
        &args("weights.onnx", "jvp"),
        &["large.bin", "also reads"],
    );
    assert_eq!(
        std::fs::metadata(&weights).expect("the weights").len(),
        4 * 64 * 9_000_000
    );
    for (mode, port) in [("jvp", "x_tangent"), ("vjp", "x_cotangent")] {
        flowgauge(at, &args("out.onnx", mode)).is(0);
        assert!(
            std::fs::metadata(at.join("out.onnx"))
                .expect("a graph")
                .len()
                < 10_000
        );
        let seen = flowgauge(at, &["inspect", "out.onnx"]);
        assert!(
            seen.is(0).stdout.contains(port) && seen.stdout.contains("576000000 parameters"),
            "{}",
            seen.stdout
        );
    }
}
