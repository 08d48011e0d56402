//! Choices, loops and scans that are decided at run time, held against dual numbers in both modes.

use super::*;
use crate::differentiate;

fn subgraph(name: &str, graph: GraphProto) -> AttributeProto {
    crate::graph::subgraph::graph_attribute(name, graph)
}

/// A body that is given the number of the step and whether it goes on, and goes on as long as it is told to.
fn body(inputs: &[&str], outputs: &[&str], mut nodes: Vec<NodeProto>) -> AttributeProto {
    nodes.push(node("Identity", "on", "goes_on", vec![]));
    let mut inner = graph(inputs, outputs, vec![], nodes);
    inner.input.splice(0..0, [port("i:", 7), port("on:", 9)]);
    inner.output.insert(0, port("goes_on:", 9));
    subgraph("body", inner)
}

/// A model of `x` `[N, 2]` and the number of steps `n`.
fn model(nodes: Vec<NodeProto>) -> Model {
    let constants = vec![
        floats("w", &[2, 2], &[0.4, -0.7, 0.9, 0.3]),
        floats("half", &[], &[0.5]),
        integers("one", &[], &[1]),
        integers("first", &[1], &[0]),
    ];
    let mut made = graph(&["x: N 2"], &["y: N 2"], constants, nodes);
    made.input.push(port("n:", 7));
    made.output[0].r#type = None;
    Model::from_bytes("loop.onnx", &bytes(made, 18)).expect("a model")
}

/// Holds both modes against duals, for a number of rows and steps.
fn agrees(model: &Model, rows: usize, steps: i64) {
    let dims = [rows, 2];
    let numbers = |pace: f64| {
        (0..2 * rows)
            .map(|i| (i as f64 * pace).sin())
            .collect::<Vec<f64>>()
    };
    let (x, v, u) = (numbers(1.3), numbers(2.1), numbers(0.7));
    let plain = |values: &[f64], dims: &[usize]| {
        Tensor::new(dims, values.iter().map(|x| number(*x)).collect())
    };
    let n = || Tensor::new(&[], vec![number(steps as f64)]);
    let along = |slopes: &[f64]| {
        let dual = x
            .iter()
            .zip(slopes)
            .map(|(value, slope)| Dual {
                value: *value,
                slope: *slope,
            })
            .collect();
        evaluate(model, vec![("x", Tensor::new(&dims, dual)), ("n", n())])["y"].clone()
    };
    let differentiated =
        |mode| differentiate(model, mode, Some("x"), Some("y")).expect("differentiated");
    let close = |found: f64, expected: f64| {
        assert!(
            (found - expected).abs() <= 1e-12,
            "{steps} steps: {found} is not {expected}"
        );
    };
    let jvp = differentiated(Mode::Jvp);
    let two: Vec<f64> = v.iter().chain(&u).copied().collect();
    let feeds = vec![
        ("x", plain(&x, &dims)),
        ("n", n()),
        ("x_tangent", plain(&two, &[2, rows, 2])),
    ];
    let found = &evaluate(&jvp, feeds)["y_tangent"];
    let expected = along(&v).data.into_iter().chain(along(&u).data);
    assert_eq!(found.data.len(), 4 * rows);
    found
        .data
        .iter()
        .zip(expected)
        .for_each(|(found, expected)| close(found.value, expected.slope));
    let vjp = differentiated(Mode::Vjp);
    let feeds = vec![
        ("x", plain(&x, &dims)),
        ("n", n()),
        ("y_cotangent", plain(&u, &dims)),
    ];
    for (place, found) in evaluate(&vjp, feeds)["x_cotangent"].data.iter().enumerate() {
        let unit: Vec<f64> = (0..x.len())
            .map(|i| f64::from(u8::from(i == place)))
            .collect();
        close(
            found.value,
            along(&unit)
                .data
                .iter()
                .zip(&u)
                .map(|(y, u)| y.slope * u)
                .sum(),
        );
    }
}

/// Two carried values, one of which does not depend on the input, an outer value of both kinds, and the step's number.
fn carrying(stacked: bool) -> Model {
    let steps = vec![
        node("MatMul", "s w", "m", vec![]),
        node("Cast", "i", "number", vec![int("to", 1)]),
        node("Mul", "m gate", "gated", vec![]),
        node("Mul", "pace number", "angle", vec![]),
        node("Sin", "angle", "wave", vec![]),
        node("Add", "gated wave", "sum", vec![]),
        node("Tanh", "sum", "next", vec![]),
        node("Mul", "pace half", "slower", vec![]),
        node("Mul", "next s", "kept", vec![]),
    ];
    let body = body(
        &["s: N 2", "pace:"],
        &["next: N 2", "slower:", "kept: N 2"],
        steps,
    );
    let mut nodes = vec![
        node("Sigmoid", "x", "gate", vec![]),
        node("Loop", "n - x half", "last pace_ all", vec![body]),
        node("ReduceSum", "all first", "total", vec![int("keepdims", 0)]),
    ];
    let second = if stacked { "total" } else { "x" };
    nodes.push(node("Mul", &format!("last {second}"), "y", vec![]));
    model(nodes)
}

#[test]
fn a_loop_of_unknown_length_is_differentiated_in_both_modes() {
    for steps in [1, 4] {
        agrees(&carrying(true), 3, steps);
    }
    for steps in [0, 2] {
        agrees(&carrying(false), 1, steps);
    }
    for mode in MODES {
        let operators = differentiate(&carrying(true), mode, None, Some("y"))
            .expect("differentiated")
            .operators();
        assert_eq!(
            operators["Loop"], 2,
            "the network's own and that of the products"
        );
    }
}

#[test]
fn a_loop_that_stops_early_is_followed_as_far_as_it_went() {
    let steps = vec![
        node("MatMul", "s w", "m", vec![]),
        node("Sin", "m", "next", vec![]),
        node("Add", "count one", "counted", vec![]),
        node("Greater", "n counted", "goes_on", vec![]),
    ];
    let mut inner = graph(&["s: N 2"], &["next: N 2"], vec![], steps);
    inner.input.splice(0..0, [port("i:", 7), port("on:", 9)]);
    inner.input.push(port("count:", 7));
    inner.output.insert(0, port("goes_on:", 9));
    inner.output.push(port("counted:", 7));
    let nodes = vec![
        node("Sub", "one one", "zero", vec![]),
        node("Greater", "n zero", "begins", vec![]),
        node(
            "Loop",
            "- begins x zero",
            "y counted_",
            vec![subgraph("body", inner)],
        ),
    ];
    let model = model(nodes);
    [0, 1, 3]
        .into_iter()
        .for_each(|steps| agrees(&model, 2, steps));
}

#[test]
fn loops_and_choices_lie_within_each_other() {
    let inner = body(
        &["t: N 2"],
        &["t1: N 2"],
        vec![
            node("Mul", "t s", "p", vec![]),
            node("Tanh", "p", "t1", vec![]),
        ],
    );
    let choose = |name: &str, nodes: Vec<NodeProto>| {
        subgraph(name, graph(&[], &["chosen: N 2"], vec![], nodes))
    };
    let branches = vec![
        choose(
            "then_branch",
            vec![node("Loop", "n - gate", "chosen", vec![inner])],
        ),
        choose("else_branch", vec![node("Mul", "s gate", "chosen", vec![])]),
    ];
    let steps = vec![
        node("Greater", "i one", "late", vec![]),
        node("If", "late", "picked", branches),
        node("MatMul", "picked w", "m", vec![]),
        node("Sin", "m", "next", vec![]),
    ];
    let outer = body(&["s: N 2"], &["next: N 2"], steps);
    let model = model(vec![
        node("Sigmoid", "x", "gate", vec![]),
        node("Loop", "n - x", "y", vec![outer]),
    ]);
    [0, 1, 4]
        .into_iter()
        .for_each(|steps| agrees(&model, 2, steps));
}

#[test]
fn a_scan_of_unknown_length_goes_along_its_axes_in_its_directions() {
    for directions in 0..4i64 {
        let steps = vec![
            node("Mul", "s e", "p", vec![]),
            node("Add", "p f", "sum", vec![]),
            node("Tanh", "sum", "next", vec![]),
            node("Mul", "next e", "kept", vec![]),
        ];
        let inner = graph(
            &["s: 2", "e: 2", "f: 2"],
            &["next: 2", "kept: 2"],
            vec![],
            steps,
        );
        let attributes = vec![
            subgraph("body", inner),
            int("num_scan_inputs", 2),
            ints("scan_input_axes", &[0, 1]),
            ints("scan_input_directions", &[directions & 1, directions >> 1]),
            ints("scan_output_axes", &[1]),
            ints("scan_output_directions", &[directions >> 1]),
        ];
        let nodes = vec![
            node("Transpose", "x", "turned", vec![ints("perm", &[1, 0])]),
            node("ReduceSum", "x first", "start", vec![int("keepdims", 0)]),
            node("Scan", "start x turned", "last all", attributes),
            node("Transpose", "all", "back", vec![ints("perm", &[1, 0])]),
            node("Mul", "back last", "y", vec![]),
        ];
        let model = model(nodes);
        [1, 3].into_iter().for_each(|rows| agrees(&model, rows, 0));
    }
}

/// A row for each step, of more rows than there are steps: nothing is put among zeros at every step.
#[test]
fn values_taken_by_the_number_of_the_step_are_sequences() {
    let steps = vec![
        node("Gather", "x i", "row", vec![int("axis", 0)]),
        node("Mul", "s row", "p", vec![]),
        node("Tanh", "p", "next", vec![]),
    ];
    let nodes = vec![
        node("ReduceSum", "x first", "start", vec![int("keepdims", 0)]),
        node(
            "Loop",
            "n - start",
            "end",
            vec![body(&["s: 2"], &["next: 2"], steps)],
        ),
        node("Add", "x end", "y", vec![]),
    ];
    let model = model(nodes);
    [0, 1, 3, 4]
        .into_iter()
        .for_each(|steps| agrees(&model, 4, steps));
    let derived = differentiate(&model, Mode::Vjp, Some("x"), Some("y")).expect("differentiated");
    let bodies = derived
        .graph()
        .node
        .iter()
        .flat_map(|node| &node.attribute)
        .filter_map(|a| a.g.as_ref());
    assert!(
        bodies
            .flat_map(|graph| &graph.node)
            .all(|node| !node.op_type().starts_with("Scatter"))
    );
}

/// The products have the shapes that the loop's body tells, where the file tells none.
#[test]
fn shapes_behind_a_loop_are_told_by_its_body() {
    let derived =
        differentiate(&carrying(true), Mode::Jvp, None, Some("y")).expect("differentiated");
    let outputs: Vec<String> = derived
        .outputs()
        .into_iter()
        .map(|port| port.name)
        .collect();
    assert_eq!(outputs, ["y", "y_tangent", "y_quadratic"]);
}

#[test]
fn loops_that_are_not_differentiated_say_why() {
    let said = |nodes: Vec<NodeProto>| -> Vec<String> {
        let model = model(nodes);
        let said = |mode| {
            differentiate(&model, mode, None, Some("y"))
                .err()
                .expect("refused")
                .to_string()
        };
        MODES.map(said).to_vec()
    };
    let wide = vec![node("Concat", "s s", "next", vec![int("axis", 1)])];
    let grows = said(vec![node(
        "Loop",
        "n - x",
        "y",
        vec![body(&["s: N D"], &["next: N D"], wide)],
    )]);
    let noisy = vec![
        node("RandomNormalLike", "w", "r", vec![]),
        node("MatMul", "s r", "next", vec![]),
    ];
    let draws = said(vec![node(
        "Loop",
        "n - x",
        "y",
        vec![body(&["s: N 2"], &["next: N 2"], noisy)],
    )]);
    let rounded = vec![
        node("RandomNormalLike", "s", "r", vec![]),
        node("Add", "s r", "next", vec![]),
    ];
    let inside = said(vec![node(
        "Loop",
        "n - x",
        "y",
        vec![body(&["s: N 2"], &["next: N 2"], rounded)],
    )]);
    for (said, parts) in [
        (
            grows,
            [
                "node `node_y` (Loop): its carried value 0, `s`",
                "keeps its shape",
            ],
        ),
        (
            draws,
            [
                "node `node_y` (Loop): its derivative would compute",
                "`node_r` (RandomNormalLike)",
            ],
        ),
        (
            inside,
            [
                "node `node_y` (Loop): in its body, node `node_r` (RandomNormalLike)",
                "evaluation mode",
            ],
        ),
    ] {
        for said in said {
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        }
    }
}

/// Loops within loops cost no more than their number, and what lies too deep is refused.
#[test]
fn deeply_nested_loops_end() {
    let mut nodes = vec![node("Tanh", "s", "next", vec![])];
    for _ in 0..24 {
        let inner = body(&["s: N 2"], &["next: N 2"], nodes);
        nodes = vec![node("Loop", "n - s", "next", vec![inner])];
    }
    let steps = body(&["s: N 2"], &["next: N 2"], nodes);
    let model = model(vec![node("Loop", "n - x", "y", vec![steps])]);
    for mode in MODES {
        let said = differentiate(&model, mode, None, Some("y"))
            .err()
            .expect("refused")
            .to_string();
        assert!(said.contains("(Loop)"), "{said}");
    }
    assert!(model.in_precision(crate::ElemType::DOUBLE).is_ok());
}

/// Loops and scans whose bodies, counts and axes do not fit them.
#[test]
fn nonsense_does_not_panic() {
    let numbers = [0, 1, -1, 3, i64::MAX, i64::MIN];
    let inner = |inputs: usize, outputs: usize| {
        let names = ["s: N 2", "e:", "f: 3", "g: N"];
        let made = ["a: N 2", "b: N 2", "c: N 2"];
        let nodes = vec![
            node("Identity", "s", "a", vec![]),
            node("Tanh", "x", "b", vec![]),
            node("MatMul", "s x", "c", vec![]),
        ];
        graph(&names[..inputs], &made[..outputs], vec![], nodes)
    };
    for op in ["Loop", "Scan", "If"] {
        for (inputs, outputs) in (0..=4).flat_map(|i| (0..=3).map(move |o| (i, o))) {
            for number in numbers {
                for list in [
                    "", "n", "n - x", "x x", "- - x", "n x x x", "x - n", "x x x",
                ] {
                    for given in ["y", "y b", "y - b", "- - y"] {
                        let attributes = vec![
                            subgraph(
                                if op == "If" { "then_branch" } else { "body" },
                                inner(inputs, outputs),
                            ),
                            subgraph("else_branch", inner(0, outputs)),
                            int("num_scan_inputs", number),
                            ints("scan_input_axes", &[number, 1]),
                            ints("scan_output_axes", &[number]),
                            ints("scan_output_directions", &[1, number]),
                        ];
                        let mut made = graph(
                            &["x: N 2"],
                            &["y: N 2"],
                            vec![],
                            vec![node(op, list, given, attributes)],
                        );
                        made.input.push(port("n:", 7));
                        let Ok(model) = Model::from_bytes("net.onnx", &bytes(made, 18)) else {
                            continue;
                        };
                        MODES.iter().for_each(|mode| {
                            drop(crate::obstacles(&model, *mode, Some("x"), None))
                        });
                        drop(model.in_precision(crate::ElemType::DOUBLE));
                    }
                }
            }
        }
    }
}
