//! What cannot be differentiated, and in which words that is said.

use super::*;
use crate::{differentiate, obstacles};

fn model(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>, opset: i64) -> Model {
    Model::from_bytes(
        "net.onnx",
        &bytes(graph(&["x: N 4"], &["y: N 4"], initializer, nodes), opset),
    )
    .unwrap()
}

#[test]
fn all_offending_nodes_are_listed() {
    let fused = NodeProto {
        domain: Some("com.microsoft".into()),
        ..node("Inverse", "a", "b", vec![])
    };
    let nodes = vec![
        node("RandomNormalLike", "x", "noise", vec![]),
        node("Add", "x noise", "a", vec![]),
        fused,
        node("QuantizeLinear", "b s", "q", vec![]),
        node("DequantizeLinear", "q s", "y", vec![]),
    ];
    let model = model(nodes, vec![floats("s", &[], &[0.1])], 17);
    for mode in MODES {
        let found = obstacles(&model, mode, None, None);
        let named: Vec<(&str, &str)> = found
            .iter()
            .map(|o| (o.node.as_str(), o.op.as_str()))
            .collect();
        let expected = [
            ("node_b", "com.microsoft.Inverse"),
            ("node_noise", "RandomNormalLike"),
            ("node_q", "QuantizeLinear"),
        ];
        for pair in expected {
            assert!(named.contains(&pair), "{pair:?} is missing in {named:?}");
        }
        assert_eq!(named.len(), expected.len());
    }
    let error = differentiate(&model, Mode::Jvp, None, None)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.starts_with("net.onnx: cannot be differentiated with respect to `x`:\n  node `"),
        "{error}"
    );
    assert!(
        error.contains("export the model again without graph optimization"),
        "{error}"
    );
}

#[test]
fn what_does_not_depend_on_the_input_is_no_obstacle() {
    let nodes = vec![
        node("Multinomial", "w", "r", vec![]),
        node("Cast", "r", "f", vec![int("to", 1)]),
        node("Add", "x f", "y", vec![]),
    ];
    let model = model(nodes, vec![floats("w", &[1, 4], &[1.0; 4])], 17);
    assert_eq!(obstacles(&model, Mode::Jvp, None, None), []);
}

#[test]
fn weights_made_by_the_network_are_differentiated() {
    let nodes = vec![
        node("Conv", "w x", "c", vec![]),
        node("Flatten", "c", "y", vec![]),
    ];
    let graph = graph(
        &["x: 1 1 3"],
        &["y: 1 2"],
        vec![floats("w", &[1, 1, 4], &[1.0; 4])],
        nodes,
    );
    let model = Model::from_bytes("net.onnx", &bytes(graph, 17)).unwrap();
    for mode in MODES {
        assert_eq!(obstacles(&model, mode, None, None), []);
    }
}

#[test]
fn unknown_ports_are_refused_by_their_name() {
    let model = model(vec![node("Exp", "x", "y", vec![])], vec![], 17);
    let error = |input, output| {
        differentiate(&model, Mode::Jvp, input, output)
            .err()
            .unwrap()
            .to_string()
    };
    assert_eq!(
        error(Some("z"), None),
        "net.onnx: no input is named `z`; the model has `x`"
    );
    assert_eq!(
        error(None, Some("eps")),
        "net.onnx: no output is named `eps`; the model has `y`"
    );
}

#[test]
fn opsets_out_of_range_are_told() {
    for opset in [0, 8, 29, 99] {
        let error = differentiate(
            &model(vec![node("Exp", "x", "y", vec![])], vec![], opset),
            Mode::Jvp,
            None,
            None,
        );
        let error = error.err().unwrap().to_string();
        assert!(
            error.contains(&format!("opset {opset} of the standard domain")),
            "{error}"
        );
    }
}
