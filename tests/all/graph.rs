//! Derived graphs run by ONNX Runtime: every rule against a case of its own, made by `scripts/rule_cases.py`.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use flowgauge::graph::{self, ElemType, Mode, Model};
use flowgauge::model::onnx::{Provider, Runtime, Session};
use ndarray::{ArrayD, ArrayViewD, Axis, IxDyn};
use ndarray_npy::NpzReader;

fn open(model: &Model) -> Session {
    let runtime = Runtime::get(None).expect("ONNX Runtime is found or fetched");
    let bytes = model.to_bytes().expect("the graph is written");
    runtime.open(model.file(), &bytes, Provider::Cpu, 1).expect("the graph loads")
}

fn derived(model: &Model, mode: Mode) -> Session {
    open(&graph::differentiate(model, mode, None, None).unwrap_or_else(|e| panic!("{e}")))
}

fn run(session: &mut Session, feeds: &[(&str, ArrayViewD<f64>)], wanted: &str) -> ArrayD<f64> {
    session.run(feeds.to_vec(), &[wanted]).unwrap_or_else(|e| panic!("{e}")).remove(0)
}

fn norm(a: &ArrayD<f64>) -> f64 {
    a.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Numbers without a pattern, for cotangents.
fn irregular(shape: &[usize]) -> ArrayD<f64> {
    let mut place = 0.0f64;
    ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        place += 1.0;
        (place * 1.7 + 0.3).sin() + 0.25 * (place * 0.61).cos()
    })
}

/// How far the graphs of one case are from the references: the tangents, and the inner products of both modes.
fn rule_errors(model: &Model, xv: &ArrayD<f64>, jv: &ArrayD<f64>) -> (f64, f64) {
    let (x, v) = (xv.index_axis(Axis(0), 0), xv.slice_axis(Axis(0), (1..).into()));
    let mut forward = derived(model, Mode::Jvp);
    let found = run(&mut forward, &[("x", x.view()), ("x_tangent", v.view())], "y_tangent");
    let scale = jv.iter().fold(1e-3, |m: f64, x| m.max(x.abs()));
    let tangent = (&found - jv).iter().fold(0.0, |m: f64, x| m.max(x.abs())) / scale;
    let u = irregular(&jv.shape()[1..]);
    let mut reverse = derived(model, Mode::Vjp);
    let g = run(&mut reverse, &[("x", x.view()), ("y_cotangent", u.view())], "x_cotangent");
    let mut product = 0.0f64;
    for (direction, image) in v.outer_iter().zip(found.outer_iter()) {
        let (a, b) = ((&image * &u).sum(), (&direction * &g).sum());
        product = product.max((a - b).abs() / (norm(&u) * norm(&image.to_owned())).max(1e-3));
    }
    (tangent, product)
}

#[test]
fn every_rule_agrees_with_differences_and_with_its_transpose() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/graph/rules.npz");
    let mut cases = NpzReader::new(File::open(&path).expect("rules.npz")).expect("rules.npz");
    let names: Vec<String> =
        cases.names().expect("names").into_iter().filter_map(|n| Some(n.strip_suffix(".onnx")?.to_string())).collect();
    let mut wrong = Vec::new();
    let mut tested: BTreeSet<String> = BTreeSet::new();
    // Cases in double precision whose references are right to 1e-12.
    let mut exact = 0;
    for name in &names {
        let bytes: ndarray::Array1<u8> = cases.by_name(&format!("{name}.onnx")).expect(name);
        let model = Model::from_bytes(name, &bytes.to_vec()).expect(name);
        let [xv, jv]: [ArrayD<f64>; 2] = ["xv", "jv"].map(|a| cases.by_name(&format!("{name}.{a}")).expect(name));
        let double = model.inputs()[0].elem == ElemType::DOUBLE;
        let right: ndarray::Array1<f64> = cases.by_name(&format!("{name}.right")).expect(name);
        exact += usize::from(double && right[0] <= 1e-12);
        // ONNX Runtime's attention rounds its scale to single precision.
        let bounds = match (double, name.ends_with("Attention")) {
            (true, false) => (right[0], 1e-12),
            (true, true) => (1e-6, 1e-7),
            (false, _) => (5e-6, 2e-6),
        };
        let (tangent, product) = rule_errors(&model, &xv, &jv);
        if !(tangent <= bounds.0 && product <= bounds.1) {
            wrong.push(format!("{name}: tangent {tangent:.1e}, product {product:.1e}"));
        }
        tested.extend(model.operators().into_keys());
    }
    assert!(exact > 400, "{exact} of {} cases are held to 1e-12", names.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), names.len(), wrong.join("\n"));
    // Their tests are beside the module: no derivative passes through one, and the other is no single operator.
    let elsewhere = ["If", "OneHot"];
    let untested: Vec<&str> =
        graph::operators().into_iter().filter(|op| !tested.contains(*op) && !elsewhere.contains(op)).collect();
    assert!(untested.is_empty(), "rules without a case: {untested:?}");
}
