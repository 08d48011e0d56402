//! Names in models that are written anew: no two values and no two nodes of one graph have the same.

use std::collections::HashSet;

use super::fuzz::Dice;
use super::random::random_network;
use super::*;
use crate::names::subgraphs;
use crate::{ElemType, differentiate, quadratic_forms};

/// Panics if two values that see each other, or two nodes of one graph, have one name.
pub(super) fn check_names(model: &Model, made: &str) {
    check_graph(model.graph(), &HashSet::new(), made);
}

/// Checks a graph that sees the values `outside` of it.
fn check_graph(graph: &GraphProto, outside: &HashSet<&str>, made: &str) {
    let mut values = outside.clone();
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
    for node in &graph.node {
        let name = node.name();
        let new = name.is_empty() || nodes.insert(name);
        assert!(new, "{made}: two nodes are `{name}`");
        for subgraph in subgraphs(node) {
            check_graph(subgraph, &values, made);
        }
    }
}

/// The ways in which a model is written anew.
const REWRITINGS: [&str; 9] = [
    "double",
    "part",
    "weights",
    "jvp",
    "vjp",
    "trace",
    "jacobian",
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
        derived(Mode::Jacobian),
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

/// A network with a choice and a loop. They are decided when the graph is read if `known`, and
/// otherwise by further inputs. Values before them have the names that the values of their bodies
/// get when these are derived.
fn with_bodies(known: bool) -> Model {
    let body = |name: &str, graph| crate::graph::subgraph::graph_attribute(name, graph);
    let branch = |name: &str, op: &str| {
        let nodes = vec![
            node(op, "last", "h", vec![]),
            node("Mul", "h last", "b", vec![]),
        ];
        body(name, graph(&[], &["b: N 4"], vec![], nodes))
    };
    let mut step = graph(
        &["h: N 4"],
        &["h_out: N 4"],
        vec![],
        vec![
            node("Mul", "h chosen", "product", vec![]),
            node("Sin", "product", "h_out", vec![]),
            node("Identity", "on", "goes_on", vec![]),
        ],
    );
    step.input.splice(0..0, [port("i:", 7), port("on:", 9)]);
    step.output.insert(0, port("goes_on:", 9));
    let yes = |name: &str| TensorProto {
        name: Some(name.into()),
        data_type: Some(9),
        int32_data: vec![1],
        ..Default::default()
    };
    let branches = vec![branch("then_branch", "Exp"), branch("else_branch", "Sin")];
    let mut nodes = Vec::new();
    let mut last = "x".to_owned();
    for i in 1..80 {
        for inner in ["then_branch.N/h", "else_branch.N/h", "step.N/product"] {
            let name = format!("d.{}", inner.replace('N', &i.to_string()));
            nodes.push(node("Identity", &last, &name, vec![]));
            last = name;
        }
    }
    nodes.extend([
        node("Identity", &last, "last", vec![]),
        node("If", "flag", "chosen", branches),
        node("Loop", "steps all chosen", "y", vec![body("body", step)]),
    ]);
    let mut network = graph(&["x: N 4"], &["y: N 4"], vec![yes("all")], nodes);
    match known {
        true => network
            .initializer
            .extend([yes("flag"), integers("steps", &[], &[3])]),
        false => network.input.extend([port("flag:", 9), port("steps:", 7)]),
    }
    Model::from_bytes("bodies", &bytes(network, 17)).expect("a model")
}

/// ONNX Runtime refuses a graph in which a name occurs twice, and a model that was written once is
/// written again: derived, then lifted to float64, then derived again.
#[test]
fn models_that_are_written_twice_have_each_name_once() {
    let mut dice = Dice(17);
    let mut networks = vec![small(), with_bodies(true), with_bodies(false)];
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
