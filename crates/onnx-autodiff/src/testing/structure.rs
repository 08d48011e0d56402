//! The form of what comes out.

use super::*;
use crate::{Dim, ElemType, Port, differentiate};

fn symbol(name: &str) -> Dim {
    Dim::Symbol(name.into())
}

fn names(ports: &[Port]) -> Vec<&str> {
    ports.iter().map(|port| port.name.as_str()).collect()
}

#[test]
fn forward_mode_adds_a_tangent_and_two_outputs() {
    for opset in [13, 17, 20, 23] {
        let mut network = small_network();
        if opset >= 18 {
            network.node.retain(|node| {
                node.op_type() != "ReduceMean"
                    && node.op_type() != "Split"
                    && node.op_type() != "Where"
            });
            network
                .node
                .retain(|node| node.op_type() != "Greater" && node.op_type() != "Einsum");
            network.output.retain(|output| output.name() == "y");
        }
        let model = Model::from_bytes("m", &bytes(network, opset)).unwrap();
        let derived = differentiate(&model, Mode::Jvp, None, None).unwrap();
        assert_eq!(names(&derived.inputs()), ["x", "x_tangent"]);
        let dims = [
            symbol("K"),
            symbol("N"),
            Dim::Fixed(2),
            Dim::Fixed(4),
            Dim::Fixed(4),
        ];
        assert_eq!(derived.inputs()[1].dims, dims);
        let outputs = derived.outputs();
        let tangent = outputs
            .iter()
            .find(|port| port.name == "y_tangent")
            .unwrap();
        assert_eq!(
            (tangent.dims.as_slice(), tangent.elem),
            (dims.as_slice(), ElemType::FLOAT)
        );
        let quadratic = outputs
            .iter()
            .find(|port| port.name == "y_quadratic")
            .unwrap();
        assert_eq!(quadratic.dims, [symbol("K"), symbol("N")]);
        assert_eq!(derived.opset(), opset.max(16));
    }
}

#[test]
fn reverse_mode_computes_no_tangent() {
    let model = Model::from_bytes("m", &bytes(small_network(), 17)).unwrap();
    let derived = differentiate(&model, Mode::Vjp, None, Some("e")).unwrap();
    assert_eq!(names(&derived.inputs()), ["x", "e_cotangent"]);
    assert_eq!(
        names(&derived.outputs()),
        ["y", "m", "r", "e", "x_cotangent"]
    );
    assert_eq!(derived.outputs()[4].dims, model.inputs()[0].dims);
    // Only the primal's convolution and its transpose are left.
    assert_eq!(
        (
            derived.operators()["Conv"],
            derived.operators()["ConvTranspose"]
        ),
        (1, 1)
    );
}

#[test]
fn the_result_reads_as_a_model_and_can_be_differentiated_again() {
    let model = Model::from_bytes("m", &bytes(small_network(), 17)).unwrap();
    let once = differentiate(&model, Mode::Jvp, None, None).unwrap();
    let again = Model::from_bytes("again", &once.to_bytes().unwrap()).unwrap();
    let twice = differentiate(&again, Mode::Jvp, Some("x_tangent"), Some("y_quadratic")).unwrap();
    assert!(Model::from_bytes("twice", &twice.to_bytes().unwrap()).is_ok());
}

#[test]
fn a_size_called_k_keeps_its_name() {
    let graph = graph(
        &["x: K 4"],
        &["y: K 4"],
        vec![],
        vec![node("Exp", "x", "y", vec![])],
    );
    let model = Model::from_bytes("m", &bytes(graph, 17)).unwrap();
    let derived = differentiate(&model, Mode::Jvp, None, None).unwrap();
    assert_eq!(
        derived.inputs()[1].dims,
        [symbol("K_"), symbol("K"), Dim::Fixed(4)]
    );
}

#[test]
fn chains_of_elementwise_operators_cost_one_tangent_product() {
    let nodes = vec![
        node("Sigmoid", "x", "s", vec![]),
        node("Mul", "x s", "a", vec![]),
        node("Tanh", "a", "t", vec![]),
        node("Mul", "t t", "y", vec![]),
    ];
    let model = Model::from_bytes(
        "m",
        &bytes(graph(&["x: N 4"], &["y: N 4"], vec![], nodes), 17),
    )
    .unwrap();
    let graph = crate::differentiate(&model, Mode::Jvp, None, None).unwrap();
    let of_tangents = graph
        .graph()
        .node
        .iter()
        .filter(|node| node.input.iter().any(|name| name == "x_tangent"));
    // The tangent itself, and the quadratic form.
    assert_eq!(of_tangents.count(), 2);
}

/// Exporters write such factors where a network's scale is left at its default.
#[test]
fn factors_of_one_cost_no_tangent_product() {
    let nodes = vec![
        node("Div", "x one", "a", vec![]),
        node("Mul", "one a", "y", vec![]),
    ];
    let model = Model::from_bytes(
        "m",
        &bytes(
            graph(
                &["x: N 4"],
                &["y: N 4"],
                vec![floats("one", &[], &[1.0])],
                nodes,
            ),
            17,
        ),
    );
    let graph = crate::differentiate(&model.unwrap(), Mode::Jvp, None, None).unwrap();
    let products = |node: &&NodeProto| {
        node.op_type() == "Mul" && node.input.iter().any(|name| name == "x_tangent")
    };
    // The quadratic form alone.
    assert_eq!(graph.graph().node.iter().filter(products).count(), 1);
}

#[test]
fn an_output_that_does_not_depend_on_the_input_has_zero_tangents() {
    let nodes = vec![node("Exp", "x", "y", vec![]), node("Neg", "w", "z", vec![])];
    let graph = graph(
        &["x: N 4"],
        &["y: N 4", "z: 4"],
        vec![floats("w", &[4], &[1.0; 4])],
        nodes,
    );
    let model = Model::from_bytes("m", &bytes(graph, 17)).unwrap();
    for mode in MODES {
        assert!(differentiate(&model, mode, None, Some("z")).is_ok());
    }
}

#[test]
fn initializers_that_are_listed_as_inputs_are_not_inputs() {
    let mut graph = graph(
        &["x: N 4", "w: 4"],
        &["y: N 4"],
        vec![floats("w", &[4], &[1.0; 4])],
        vec![node("Mul", "x w", "y", vec![])],
    );
    graph.input.swap(0, 1);
    let model = Model::from_bytes("m", &bytes(graph, 17)).unwrap();
    assert_eq!(names(&model.inputs()), ["x"]);
    assert_eq!(
        names(
            &differentiate(&model, Mode::Jvp, None, None)
                .unwrap()
                .inputs()
        ),
        ["x", "x_tangent"]
    );
    assert_eq!(
        (model.opset(), model.parameters(), model.operators()["Mul"]),
        (17, 4, 1)
    );
}

#[test]
fn functions_of_the_model_are_inlined() {
    let function = FunctionProto {
        name: Some("Silu".into()),
        domain: Some("local".into()),
        input: vec!["a".into()],
        output: vec!["c".into()],
        node: vec![
            node("Sigmoid", "a", "b", vec![]),
            node("Mul", "a b", "c", vec![]),
        ],
        ..Default::default()
    };
    let call = |input: &str, output: &str| NodeProto {
        domain: Some("local".into()),
        ..node("Silu", input, output, vec![])
    };
    let graph = graph(
        &["x: N 4"],
        &["y: N 4"],
        vec![],
        vec![call("x", "h"), call("h", "y")],
    );
    let mut proto = ModelProto::decode(bytes(graph, 17).as_slice()).unwrap();
    proto.functions = vec![function];
    let model = Model::from_bytes("m", &proto.encode_to_vec()).unwrap();
    assert_eq!(
        (model.operators()["Sigmoid"], model.operators()["Mul"]),
        (2, 2)
    );
    assert!(differentiate(&model, Mode::Jvp, None, None).is_ok());
}

/// A call's number and a function's own names make names that the file may have too.
#[test]
fn names_of_inlined_functions_are_new() {
    let function = |name: &str, nodes| FunctionProto {
        name: Some(name.into()),
        domain: Some("local".into()),
        input: vec!["a".into()],
        output: vec!["c".into()],
        node: nodes,
        ..Default::default()
    };
    let call = |name: &str, label: &str, input: &str, output: &str| NodeProto {
        domain: Some("local".into()),
        name: (!label.is_empty()).then(|| label.to_owned()),
        ..node(name, input, output, vec![])
    };
    let named = |name: &str, op: &str, inputs: &str, output: &str| NodeProto {
        name: Some(name.into()),
        ..node(op, inputs, output, vec![])
    };
    let inner = function(
        "Inner",
        vec![
            named("twice", "Add", "a a", "b"),
            named("square", "Mul", "b a", "c"),
        ],
    );
    let outer = function(
        "Outer",
        vec![
            named("sine", "Sin", "a", "Inner.2/b"),
            call("Inner", "", "Inner.2/b", "c"),
        ],
    );
    // With names of the first call of `Outer`, of the call in it, and of a node in that.
    let nodes = vec![
        named("Outer.1/sine", "Exp", "x", "Outer.1/Inner.2/b"),
        named("Inner.2/twice", "Neg", "Outer.1/Inner.2/b", "Inner.2/b"),
        call("Outer", "", "Inner.2/b", "h"),
        call("Outer", "", "h", "y"),
    ];
    let mut proto =
        ModelProto::decode(bytes(graph(&["x: N 4"], &["y: N 4"], vec![], nodes), 17).as_slice())
            .unwrap();
    proto.functions = vec![inner, outer];
    let model = Model::from_bytes("m", &proto.encode_to_vec()).unwrap();
    super::names::check_names(&model, "inlined");
    let x = Tensor::new(&[1, 4], [0.1, 0.2, 0.3, 0.4].map(number).to_vec());
    let found = evaluate(&model, vec![("x", x)])["y"].data[3].value;
    let outer = |a: f64| 2.0 * a.sin() * a.sin();
    assert_eq!(found, outer(outer(-0.4f64.exp())));
}

/// `y` is `x²` or `-x`, as a condition says.
fn choice(condition: &str, initializer: Vec<TensorProto>, before: Vec<NodeProto>) -> Model {
    let branch = |name: &str, op: &str, inputs: &str| {
        let graph = graph(
            &[],
            &["b: N 4"],
            vec![],
            vec![node(op, inputs, "b", vec![])],
        );
        AttributeProto {
            name: Some(name.into()),
            g: Some(graph),
            kind: Some(5),
            ..Default::default()
        }
    };
    let branches = vec![
        branch("then_branch", "Mul", "x x"),
        branch("else_branch", "Neg", "x"),
    ];
    let nodes = before
        .into_iter()
        .chain([node("If", condition, "y", branches)])
        .collect();
    Model::from_bytes(
        "m",
        &bytes(graph(&["x: N 4"], &["y: N 4"], initializer, nodes), 17),
    )
    .unwrap()
}

#[test]
fn a_choice_that_is_known_leaves_one_branch() {
    for holds in [0, 1] {
        let flag = TensorProto {
            name: Some("c".into()),
            data_type: Some(9),
            int32_data: vec![holds],
            ..Default::default()
        };
        let model = choice("c", vec![flag], vec![]);
        for mode in MODES {
            let operators = differentiate(&model, mode, None, None).unwrap().operators();
            assert!(!operators.contains_key("If"));
            // Only the tangents of the square need its derivative; those of the negation are a negation.
            assert_eq!(operators.contains_key("Neg"), holds == 0);
        }
    }
}

#[test]
fn a_choice_at_run_time_is_differentiated_in_both_branches() {
    let before = vec![
        node("ReduceSum", "x", "sum", vec![int("keepdims", 0)]),
        node("Greater", "sum zero", "c", vec![]),
    ];
    let model = choice("c", vec![floats("zero", &[], &[0.0])], before);
    for mode in MODES {
        let derived = differentiate(&model, mode, None, None).unwrap();
        assert_eq!(derived.operators()["If"], 2);
        assert!(Model::from_bytes("again", &derived.to_bytes().unwrap()).is_ok());
    }
}

/// Branches may leave the types of their outputs to inference; they are not those of the condition.
#[test]
fn a_choice_without_declared_types_has_tangents() {
    let branch = |name: &str, op: &str| {
        let mut inner = graph(&[], &["b: N 4"], vec![], vec![node(op, "x", "b", vec![])]);
        inner.output[0].r#type = None;
        AttributeProto {
            name: Some(name.into()),
            g: Some(inner),
            kind: Some(5),
            ..Default::default()
        }
    };
    let branches = vec![branch("then_branch", "Exp"), branch("else_branch", "Neg")];
    let nodes = vec![
        node("ReduceSum", "x", "sum", vec![int("keepdims", 0)]),
        node("Greater", "sum zero", "c", vec![]),
        node("If", "c", "chosen", branches),
        node("Mul", "chosen chosen", "y", vec![]),
    ];
    let constants = vec![floats("zero", &[], &[0.0])];
    let model = Model::from_bytes(
        "m",
        &bytes(graph(&["x: N 4"], &["y: N 4"], constants, nodes), 17),
    )
    .unwrap();
    let derived = differentiate(&model, Mode::Jvp, None, None).unwrap();
    assert_eq!(derived.operators()["If"], 2);
}

/// Regions were aligned otherwise before opset 16, as which the file is written.
#[test]
fn a_default_that_changed_is_written_out() {
    let nodes = vec![
        node("RoiAlign", "image regions places", "cut", vec![]),
        node("ReduceSum", "cut", "s", vec![int("keepdims", 0)]),
        node("Mul", "x s", "y", vec![]),
    ];
    let constants = vec![
        floats("image", &[1, 1, 2, 2], &[1.0; 4]),
        floats("regions", &[1, 4], &[0.0; 4]),
        integers("places", &[1], &[0]),
    ];
    for (opset, attributes) in [(13, 1), (16, 0)] {
        let graph = graph(&["x: N 4"], &["y: N 4"], constants.clone(), nodes.clone());
        let model = Model::from_bytes("m", &bytes(graph, opset)).unwrap();
        let derived = differentiate(&model, Mode::Jvp, None, None).unwrap();
        let aligned = derived
            .graph()
            .node
            .iter()
            .find(|node| node.op_type() == "RoiAlign")
            .unwrap();
        assert_eq!(aligned.attribute.len(), attributes, "opset {opset}");
    }
}

#[test]
fn places_of_a_one_hot_tensor_carry_no_derivative_and_its_values_do() {
    let nodes = vec![node("OneHot", "i depth x", "y", vec![])];
    let constants = vec![
        integers("i", &[3], &[0, 1, 2]),
        integers("depth", &[], &[4]),
    ];
    let model = Model::from_bytes(
        "m",
        &bytes(graph(&["x: 2"], &["y: 3 4"], constants, nodes), 17),
    )
    .unwrap();
    for mode in MODES {
        // One for the tensor itself and one for where its values go.
        assert_eq!(
            differentiate(&model, mode, None, None).unwrap().operators()["OneHot"],
            2
        );
    }
    let nodes = vec![node("OneHot", "x depth ends", "y", vec![])];
    let constants = vec![
        floats("ends", &[2], &[0.0, 1.0]),
        integers("depth", &[], &[4]),
    ];
    let model = Model::from_bytes(
        "m",
        &bytes(graph(&["x: 3"], &["y: 3 4"], constants, nodes), 17),
    )
    .unwrap();
    let derived = differentiate(&model, Mode::Jvp, None, None).unwrap();
    assert_eq!(derived.operators()["OneHot"], 1);
}
