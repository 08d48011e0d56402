//! What holds of the list of operators as a whole.

use std::collections::HashSet;
use std::path::Path;

use super::operator::Float64;
use super::*;
use crate::Model;
use crate::graph::emit::{int, ints, text};
use crate::proto::NodeProto;
use crate::testing::{bytes, floats, graph, node};

/// Files of this folder that hold no operators.
const HELPERS: &[&str] = &[
    "attention_mask",
    "fused_activation",
    "fused_tests",
    "mod",
    "operator",
    "parts",
    "tests",
];

#[test]
fn an_operator_is_one_file_and_one_line() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/operators");
    let entries = std::fs::read_dir(folder).expect("the folder of operators");
    let stem = |entry: std::fs::DirEntry| Some(entry.path().file_stem()?.to_str()?.to_string());
    let mut files: Vec<String> = entries.filter_map(|entry| stem(entry.ok()?)).collect();
    files.retain(|file| !HELPERS.contains(&file.as_str()));
    files.sort_unstable();
    assert_eq!(
        files, FILES,
        "every file of operators is one line of the list, in alphabetical order"
    );
    let declared: Vec<(&str, &str)> = all()
        .map(|operator| (operator.domain, operator.name))
        .collect();
    let distinct: HashSet<&(&str, &str)> = declared.iter().collect();
    assert_eq!(
        distinct.len(),
        declared.len(),
        "an operator is declared once"
    );
    assert_eq!(FILES.len(), FAMILIES.len());
}

/// A list of operators elsewhere would be a second place to add one to.
#[test]
fn no_other_file_lists_operators() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut open = vec![source.clone()];
    while let Some(folder) = open.pop() {
        for path in std::fs::read_dir(&folder)
            .expect("the sources")
            .flatten()
            .map(|entry| entry.path())
        {
            if path.is_dir()
                && !["operators", "testing"]
                    .iter()
                    .any(|name| path == source.join(name))
            {
                open.push(path);
                continue;
            }
            let Ok(text) = std::fs::read_to_string(&path) else {
                continue;
            };
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let named = |line: &str| {
                let word = line.trim().trim_end_matches(',').trim_matches('"');
                line.trim().starts_with('"') && find("", word).is_some()
            };
            let listed = code.lines().filter(|line| named(line)).count();
            assert!(
                listed < 3,
                "{} lists operators by their names",
                path.display()
            );
        }
    }
}

fn by_formula() -> impl Iterator<Item = &'static str> {
    all()
        .filter(|operator| matches!(operator.float64, Float64::Formula(_)))
        .map(|operator| operator.name)
}

/// A node of each operator, of images `[N, 4, 6, 6]`.
fn case(op: &str) -> NodeProto {
    let window = || vec![ints("kernel_shape", &[3, 3]), ints("pads", &[1, 1, 1, 1])];
    match op {
        "Conv" | "ConvTranspose" => node(op, "x w", "y", window()),
        "AveragePool" => node(op, "x", "y", window()),
        "GroupNormalization" => node(op, "x c c", "y", vec![int("num_groups", 2)]),
        "InstanceNormalization" => node(op, "x c c", "y", vec![]),
        "LRN" => node(op, "x", "y", vec![int("size", 3)]),
        "Mean" => node(op, "x x", "y", vec![]),
        "PRelu" => node(op, "x s", "y", vec![]),
        "Resize" => node(op, "x - r", "y", vec![text("mode", "linear")]),
        _ => node(op, "x", "y", vec![]),
    }
}

fn model(node: NodeProto) -> Model {
    let weights = vec![
        floats("w", &[4, 4, 3, 3], &[0.1; 144]),
        floats("c", &[4], &[0.5; 4]),
        floats("s", &[4, 1, 1], &[0.25; 4]),
        floats("r", &[4], &[1.0, 1.0, 2.0, 2.0]),
    ];
    let made = graph(&["x: N 4 6 6"], &["y: N 4 H W"], weights, vec![node]);
    Model::from_bytes("net.onnx", &bytes(made, 22)).expect("a model")
}

#[test]
fn every_replacement_leaves_no_operator_without_a_kernel() {
    for op in by_formula() {
        let lifted = model(case(op))
            .in_precision(ElemType::DOUBLE)
            .unwrap_or_else(|e| panic!("{op}: {e}"));
        let left: Vec<String> = lifted
            .operators()
            .into_keys()
            .filter(|left| by_formula().any(|op| op == left))
            .collect();
        assert!(left.is_empty(), "{op} leaves {left:?}");
        assert_eq!(lifted.inputs()[0].elem, ElemType::DOUBLE, "{op}");
        assert_eq!(lifted.outputs()[0].elem, ElemType::DOUBLE, "{op}");
    }
}

#[test]
fn what_cannot_be_replaced_is_named() {
    let smooth = node(
        "Resize",
        "x - r",
        "y",
        vec![text("mode", "linear"), int("antialias", 1)],
    );
    let error = model(smooth)
        .in_precision(ElemType::DOUBLE)
        .err()
        .expect("refused")
        .to_string();
    assert!(
        error.contains("net.onnx: cannot be computed in float64:\n  node `node_y` (Resize)"),
        "{error}"
    );
}

#[test]
fn half_precision_becomes_single() {
    let mut half = graph(
        &["x: N 2"],
        &["y: N 2"],
        vec![],
        vec![
            node("Exp", "x", "h", vec![]),
            node("Cast", "h", "y", vec![int("to", 10)]),
        ],
    );
    for port in half.input.iter_mut().chain(&mut half.output) {
        *port = crate::testing::port(&format!("{}: N 2", port.name()), 10);
    }
    let lifted = Model::from_bytes("m", &bytes(half, 17))
        .expect("a model")
        .in_precision(ElemType::FLOAT)
        .expect("lifted");
    assert_eq!(
        (lifted.inputs()[0].elem, lifted.outputs()[0].elem),
        (ElemType::FLOAT, ElemType::FLOAT)
    );
    assert_eq!(lifted.coarsest_spacing(), f64::powi(0.5, 23));
}
