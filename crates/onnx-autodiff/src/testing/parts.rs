//! Operators that are differentiated by what they consist of: what is refused of them, and that nothing panics.

use super::*;
use crate::{differentiate, obstacles};

/// The first reason for which one node from `x` (of the given axes) to `y` is not differentiated.
fn refused(
    op: &str,
    x: &str,
    more: &str,
    constants: Vec<TensorProto>,
    attributes: Vec<AttributeProto>,
) -> String {
    let inputs = format!("x {more}");
    let graph = graph(
        &[&format!("x: {x}")],
        &["y: N"],
        constants,
        vec![node(op, &inputs, "y", attributes)],
    );
    let model = Model::from_bytes("net.onnx", &bytes(graph, 18)).unwrap();
    let told = |mode| {
        obstacles(&model, mode, None, None)
            .first()
            .map(|o| o.reason.clone())
            .unwrap_or_default()
    };
    let (forward, reverse) = (told(Mode::Jvp), told(Mode::Vjp));
    assert_eq!(forward, reverse, "{op}");
    forward
}

#[test]
fn forms_that_are_not_differentiated_are_told_precisely() {
    let weights = || {
        vec![
            floats("w", &[1, 2, 3], &[0.5; 6]),
            floats("r", &[1, 2, 2], &[0.5; 4]),
        ]
    };
    let said = refused(
        "RNN",
        "4 2 3",
        "w r",
        weights(),
        vec![text("direction", "sideways")],
    );
    assert!(said.contains("`sideways` is not known"), "{said}");
    let said = refused("LSTM", "4 2 3", "w r", weights(), vec![]);
    assert!(said.contains("do not fit its number of gates"), "{said}");
    let grid = || vec![floats("g", &[1, 2, 2, 2], &[0.5; 8])];
    let said = refused(
        "GridSample",
        "1 2 3 3",
        "g",
        grid(),
        vec![text("mode", "fancy")],
    );
    assert!(said.contains("`fancy` is not known"), "{said}");
    let rois = || vec![floats("r", &[1, 4], &[0.5; 4]), integers("b", &[1], &[0])];
    let said = refused("RoiAlign", "1 2 3 3", "r b", rois(), vec![]);
    assert!(said.contains("sampling ratio"), "{said}");
    let said = refused(
        "MaxUnpool",
        "1 1 2 2",
        "i",
        vec![integers("i", &[1, 1, 2, 2], &[0, 1, 2, 3])],
        vec![ints("kernel_shape", &[2, 2])],
    );
    assert!(said.contains("overlap"), "{said}");
    let said = refused("Det", "1 9 9", "", vec![], vec![]);
    assert!(said.contains("up to four by four"), "{said}");
}

#[test]
fn a_layer_beside_the_input_keeps_its_operator() {
    let constants = vec![
        floats("c", &[4, 2, 3], &[0.1; 24]),
        floats("w", &[1, 2, 3], &[0.5; 6]),
        floats("r", &[1, 2, 2], &[0.5; 4]),
    ];
    let layer = |x: &str, y: &str| node("RNN", &format!("{x} w r"), y, vec![int("hidden_size", 2)]);
    let nodes = vec![
        layer("c", "a"),
        layer("x", "b"),
        node("Add", "a b", "y", vec![]),
    ];
    let graph = graph(&["x: 4 2 3"], &["y: 4 1 2 2"], constants, nodes);
    let model = Model::from_bytes("net.onnx", &bytes(graph, 18)).unwrap();
    for mode in MODES {
        let derived = differentiate(&model, mode, None, None).unwrap();
        let count = |op: &str| {
            derived
                .graph()
                .node
                .iter()
                .filter(|node| node.op_type() == op)
                .count()
        };
        // One step after another of the layer that depends on the input, whose own output stays as it is.
        assert_eq!((count("RNN"), count("Tanh")), (2, 4), "{mode:?}");
    }
}

#[test]
fn a_layer_over_a_sequence_of_unknown_length_or_a_long_one_is_a_loop() {
    for (x, y) in [("T 2 3", "T 1 2 2"), ("600 2 3", "600 1 2 2")] {
        let constants = vec![
            floats("w", &[1, 6, 3], &[0.5; 18]),
            floats("r", &[1, 6, 2], &[0.5; 12]),
        ];
        let layer = node("GRU", "x w r", "y", vec![int("hidden_size", 2)]);
        let graph = graph(
            &[&format!("x: {x}")],
            &[&format!("y: {y}")],
            constants,
            vec![layer],
        );
        let model = Model::from_bytes("net.onnx", &bytes(graph, 18)).unwrap();
        for mode in MODES {
            let operators = differentiate(&model, mode, None, None).unwrap().operators();
            // The layer itself, its steps once more, and their products.
            assert_eq!(
                (operators["GRU"], operators["Loop"]),
                (1, 2),
                "{x} {mode:?}"
            );
        }
    }
}

#[test]
fn a_part_that_the_graph_has_already_keeps_its_tangent() {
    // The determinant of one by one consists of the very nodes that the graph has behind it.
    let constants = vec![integers("zero", &[], &[0])];
    let nodes = vec![
        node("Det", "x", "d", vec![]),
        node("Gather", "x zero", "row", vec![int("axis", -2)]),
        node("Gather", "row zero", "element", vec![int("axis", -1)]),
        node("Mul", "d element", "y", vec![]),
    ];
    let graph = graph(&["x: 3 1 1"], &["y: 3"], constants, nodes);
    let model = Model::from_bytes("net.onnx", &bytes(graph, 22)).unwrap();
    let derived = differentiate(&model, Mode::Jvp, None, None).unwrap();
    let products = derived
        .graph()
        .node
        .iter()
        .filter(|node| node.op_type() == "Mul")
        .count();
    assert!(products >= 3, "both factors have tangents");
}

/// Operators with nonsense for attributes and inputs.
#[test]
fn nonsense_does_not_panic() {
    let ops = [
        "AffineGrid",
        "CenterCropPad",
        "Col2Im",
        "Compress",
        "Conv",
        "ConvTranspose",
        "DFT",
        "DeformConv",
        "Det",
        "GRU",
        "GlobalLpPool",
        "GridSample",
        "LSTM",
        "LpPool",
        "MaxRoiPool",
        "MaxUnpool",
        "Mod",
        "NegativeLogLikelihoodLoss",
        "RNN",
        "Range",
        "ReverseSequence",
        "RoiAlign",
        "STFT",
        "ScatterElements",
        "ScatterND",
        "SoftmaxCrossEntropyLoss",
        "TensorScatter",
    ];
    let numbers = [0, 1, -1, 2, i64::MAX, i64::MIN, 1 << 40];
    let names = [
        "axis",
        "time_axis",
        "batch_axis",
        "group",
        "offset_group",
        "p",
        "sampling_ratio",
        "hidden_size",
    ];
    let shapes = [
        "",
        "2",
        "2 3",
        "0 2 2",
        "2 4 1",
        "1 2 3 3",
        "2 3 4 5 6",
        "N 2 N",
        "A B C D",
    ];
    for op in ops {
        for (i, shape) in shapes.iter().enumerate() {
            for (j, number) in numbers.iter().enumerate() {
                let name = names[(i + j) % names.len()];
                let list = vec![*number; 1 + (i + j) % 4];
                let attributes = vec![
                    int(name, *number),
                    ints("kernel_shape", &list),
                    ints("pads", &list),
                    ints("pooled_shape", &list),
                    ints("axes", &list),
                    int("output_height", *number),
                    int("inverse", 1),
                    int("onesided", i as i64 % 2),
                    text("reduction", ["mul", "max", "mean"][j % 3]),
                ];
                let constants = vec![
                    integers("a", &[2], &[*number, 3]),
                    floats("f", &[2, 1, 2], &[0.5; 4]),
                    integers("one", &[], &[*number]),
                ];
                for inputs in [
                    "x",
                    "x a",
                    "x a a",
                    "a x",
                    "x x x",
                    "x f f",
                    "f x f",
                    "x x f a a x x x",
                    "x one",
                    "x a one",
                ] {
                    let nodes = vec![node(op, inputs, "y", attributes.clone())];
                    let graph = graph(
                        &[&format!("x: {shape}")],
                        &["y: 2"],
                        constants.clone(),
                        nodes,
                    );
                    for opset in [17, 25] {
                        let Ok(model) = Model::from_bytes("net.onnx", &bytes(graph.clone(), opset))
                        else {
                            continue;
                        };
                        MODES
                            .iter()
                            .for_each(|mode| drop(obstacles(&model, *mode, Some("x"), None)));
                    }
                }
            }
        }
    }
}
