//! Derivatives of derivatives: a derived graph is a graph, and can be derived again.

use super::evaluate::Dual;
use super::fuzz::Dice;
use super::random::{DIMS, random_network, tensor};
use super::*;
use crate::{Port, differentiate};

fn names(ports: &[Port]) -> Vec<&str> {
    ports.iter().map(|port| port.name.as_str()).collect()
}

/// The model derived twice, with the file written and read in between.
fn derived_twice(model: &Model, first: Mode, of: &str, second: Mode) -> (Model, Model) {
    let read = |derived: Model| Model::from_bytes("derived", &derived.to_bytes().unwrap()).unwrap();
    let once = read(differentiate(model, first, Some("x"), Some("y")).unwrap());
    let twice = read(differentiate(&once, second, Some("x"), Some(of)).unwrap());
    (once, twice)
}

fn square() -> Model {
    let nodes = vec![
        node("Tanh", "x", "t", vec![]),
        node("Mul", "t x", "y", vec![]),
    ];
    Model::from_bytes(
        "square",
        &bytes(graph(&["x: N 4"], &["y: N 4"], vec![], nodes), 17),
    )
    .unwrap()
}

/// New ports come last; those whose names are taken are numbered.
#[test]
fn ports_of_second_derivatives_have_names_of_their_own() {
    let (_, twice) = derived_twice(&square(), Mode::Jvp, "y_tangent", Mode::Jvp);
    assert_eq!(names(&twice.inputs()), ["x", "x_tangent", "x_tangent_2"]);
    assert_eq!(
        names(&twice.outputs()),
        ["y", "y_tangent", "y_quadratic", "y_tangent_tangent"]
    );
    let dims = twice.outputs()[3]
        .dims
        .iter()
        .map(|dim| dim.to_string())
        .collect::<Vec<_>>();
    assert_eq!(dims, ["K_", "K", "N", "4"]);

    let (_, twice) = derived_twice(&square(), Mode::Vjp, "x_cotangent", Mode::Jvp);
    assert_eq!(names(&twice.inputs()), ["x", "y_cotangent", "x_tangent"]);
    let outputs = twice.outputs();
    assert_eq!(
        names(&outputs),
        [
            "y",
            "x_cotangent",
            "x_cotangent_tangent",
            "x_cotangent_quadratic"
        ]
    );

    let (_, twice) = derived_twice(&square(), Mode::Jvp, "y_tangent", Mode::Vjp);
    assert_eq!(
        names(&twice.inputs()),
        ["x", "x_tangent", "y_tangent_cotangent"]
    );
    assert_eq!(
        names(&twice.outputs()),
        ["y", "y_tangent", "y_quadratic", "x_cotangent"]
    );

    let (_, twice) = derived_twice(&square(), Mode::Vjp, "x_cotangent", Mode::Vjp);
    assert_eq!(
        names(&twice.inputs()),
        ["x", "y_cotangent", "x_cotangent_cotangent"]
    );
    assert_eq!(
        names(&twice.outputs()),
        ["y", "x_cotangent", "x_cotangent_2"]
    );
}

/// Messages name nodes: no two of a derived graph may have one name.
#[test]
fn nodes_of_second_derivatives_have_names_of_their_own() {
    for (first, of) in [(Mode::Jvp, "y_tangent"), (Mode::Vjp, "x_cotangent")] {
        for second in MODES {
            let (_, twice) = derived_twice(&square(), first, of, second);
            let mut known = std::collections::HashSet::new();
            for node in &twice.graph().node {
                assert!(
                    known.insert(node.name()),
                    "{first:?}, {second:?}: `{}` is there twice",
                    node.name()
                );
            }
        }
    }
}

/// A port that has the name of an inner value gets a number.
#[test]
fn names_of_inner_values_are_not_taken() {
    let nodes = vec![
        node("Exp", "x", "x_tangent", vec![]),
        node("Neg", "x_tangent", "y", vec![]),
    ];
    let model = Model::from_bytes(
        "m",
        &bytes(graph(&["x: N 4"], &["y: N 4"], vec![], nodes), 17),
    )
    .unwrap();
    assert_eq!(
        names(
            &differentiate(&model, Mode::Jvp, None, None)
                .unwrap()
                .inputs()
        ),
        ["x", "x_tangent_2"]
    );
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.data.iter().map(|d| d.value).collect()
}

fn slopes(tensor: &Tensor) -> Vec<f64> {
    tensor.data.iter().map(|d| d.slope).collect()
}

/// `x` along a direction.
fn along(x: &Tensor, direction: &[Dual]) -> Tensor {
    let dual = |(x, v): (&Dual, &Dual)| Dual {
        value: x.value,
        slope: v.value,
    };
    Tensor::new(&x.dims, x.data.iter().zip(direction).map(dual).collect())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// Of random graphs both modes are derived in both modes again, and held to the derivative of the first derived graph in
/// dual numbers.
#[test]
fn second_derivatives_of_random_graphs_agree_with_dual_numbers() {
    let mut dice = Dice(0x5851_F42D_4C95_7F2D);
    for trial in 0..60 {
        let mut network = random_network(&mut dice);
        network.initializer.push(integers("six", &[1], &[6]));
        let model = Model::from_bytes("random", &bytes(network, 17)).unwrap();
        let x = tensor(&mut dice, &[]);
        for (first, given, of) in [
            (Mode::Jvp, "x_tangent", "y_tangent"),
            (Mode::Vjp, "y_cotangent", "x_cotangent"),
        ] {
            let lead: &[usize] = if first == Mode::Jvp { &[2] } else { &[] };
            let (v, u, w) = (
                tensor(&mut dice, lead),
                tensor(&mut dice, &[3]),
                tensor(&mut dice, lead),
            );
            let (once, forward) = derived_twice(&model, first, of, Mode::Jvp);
            let expected: Vec<f64> = u
                .data
                .chunks(x.data.len())
                .flat_map(|u| {
                    slopes(&evaluate(&once, vec![("x", along(&x, u)), (given, v.clone())])[of])
                })
                .collect();
            let seed = forward.inputs()[2].name.clone();
            let feeds = vec![
                ("x", x.clone()),
                (given, v.clone()),
                (seed.as_str(), u.clone()),
            ];
            let found = evaluate(&forward, feeds)[&format!("{of}_tangent")].clone();
            assert_eq!(found.dims, [&[3], lead, &DIMS].concat());
            let found = values(&found);
            let scale = expected.iter().fold(1e-6, |m: f64, s| m.max(s.abs()));
            let worst = expected
                .iter()
                .zip(&found)
                .fold(0.0, |m: f64, (a, b)| m.max((a - b).abs()));
            assert!(
                worst <= 1e-9 * scale,
                "trial {trial}, {first:?}: {worst:e} of {scale:e}"
            );

            let (_, reverse) = derived_twice(&model, first, of, Mode::Vjp);
            let seed = format!("{of}_cotangent");
            let feeds = vec![
                ("x", x.clone()),
                (given, v.clone()),
                (seed.as_str(), w.clone()),
            ];
            let result = reverse.outputs().last().unwrap().name.clone();
            let g = values(&evaluate(&reverse, feeds)[&result]);
            let w = values(&w);
            for (u, image) in u.data.chunks(g.len()).zip(expected.chunks(w.len())) {
                let u: Vec<f64> = u.iter().map(|d| d.value).collect();
                let (forward, backward) = (dot(&w, image), dot(&u, &g));
                let scale = 1e-6 + norm(&w) * norm(image) + norm(&u) * norm(&g);
                assert!(
                    (forward - backward).abs() <= 1e-9 * scale,
                    "trial {trial}, {first:?}: {forward}, {backward}"
                );
            }
        }
    }
}
