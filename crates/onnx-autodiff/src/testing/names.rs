//! Names in models that are written anew: no two values and no two nodes of one graph have the same.

use std::collections::HashSet;

use super::fuzz::Dice;
use super::random::random_network;
use super::*;
use crate::{ElemType, differentiate, quadratic_forms};

/// Panics if two values or two nodes of the model have one name.
fn check_names(model: &Model, made: &str) {
    let graph = model.graph();
    let mut values = HashSet::new();
    let ports = graph.input.iter().map(|port| port.name());
    let stored = graph.initializer.iter().map(|tensor| tensor.name());
    let outputs = graph.node.iter().flat_map(|node| &node.output);
    for name in ports
        .chain(stored)
        .chain(outputs.map(String::as_str).filter(|name| !name.is_empty()))
    {
        assert!(values.insert(name), "{made}: two values are `{name}`");
    }
    let mut nodes = HashSet::new();
    for node in graph.node.iter().filter(|node| !node.name().is_empty()) {
        let name = node.name();
        assert!(nodes.insert(name), "{made}: two nodes are `{name}`");
    }
}

/// The ways in which a model is written anew.
const REWRITINGS: [&str; 8] = [
    "double",
    "part",
    "weights",
    "jvp",
    "vjp",
    "trace",
    "directions",
    "rest",
];

/// Returns what each way makes of a model. Some ways do not apply to every model.
fn rewritings(model: &Model) -> Vec<(&'static str, Model)> {
    let derived = |mode| differentiate(model, mode, Some("x"), Some("y")).ok();
    let forms = quadratic_forms(model, "x", "y").ok().flatten();
    let (directions, rest) = forms.map(|forms| (forms.directions, forms.rest)).unzip();
    let made = [
        model.in_precision(ElemType::DOUBLE).ok(),
        model.with_output_range("y", 0, 0, 1).ok(),
        model.with_separate_weights(),
        derived(Mode::Jvp),
        derived(Mode::Vjp),
        derived(Mode::Trace),
        directions,
        rest,
    ];
    let named = REWRITINGS.into_iter().zip(made);
    named.filter_map(|(way, made)| Some((way, made?))).collect()
}

/// A network with operators that have no float64 kernel, and a weight that is read transposed too.
fn small() -> Model {
    let nodes = vec![
        node("DequantizeLinear", "bytes step", "weight", vec![]),
        node("MatMul", "x weight", "a", vec![]),
        node("Erf", "a", "b", vec![]),
        node("Gemm", "b other", "c", vec![]),
        node(
            "Gemm",
            "c other",
            "y",
            vec![crate::graph::emit::int("transB", 1)],
        ),
    ];
    let bytes_of_weight = TensorProto {
        name: Some("bytes".into()),
        dims: vec![4, 4],
        data_type: Some(ElemType::UINT8.0),
        raw_data: Some((0..16u8).collect::<Vec<_>>().into()),
        ..Default::default()
    };
    let stored = vec![
        bytes_of_weight,
        floats("step", &[], &[0.01]),
        floats("other", &[4, 4], &[0.1; 16]),
    ];
    let network = graph(&["x: N 4"], &["y: N 4"], stored, nodes);
    Model::from_bytes("small", &bytes(network, 17)).expect("a model")
}

/// ONNX Runtime refuses a graph in which a name occurs twice, and a model that was written once is
/// written again: derived, then lifted to float64, then derived again.
#[test]
fn models_that_are_written_twice_have_each_name_once() {
    let mut dice = Dice(17);
    let mut networks = vec![small()];
    for _ in 0..20 {
        let mut network = random_network(&mut dice);
        network.initializer.push(integers("six", &[1], &[6]));
        networks.push(Model::from_bytes("random", &bytes(network, 17)).expect("a model"));
    }
    let mut seen = HashSet::new();
    for network in &networks {
        for (first, once) in rewritings(network) {
            check_names(&once, first);
            for (second, twice) in rewritings(&once) {
                check_names(&twice, &format!("{first}, then {second}"));
                seen.insert((first, second));
            }
        }
    }
    // A part has not the shape of the state, directions have neither state nor output, and weights
    // that were separated are separate.
    let excluded = |first: &str, second: &str| match first {
        "part" => ["trace", "directions", "rest"].contains(&second),
        "weights" => second == "weights",
        other => other == "directions",
    };
    for first in REWRITINGS {
        for second in REWRITINGS
            .into_iter()
            .filter(|second| !excluded(first, second))
        {
            let came = seen.contains(&(first, second));
            assert!(came, "{first}, then {second}, never came");
        }
    }
}
