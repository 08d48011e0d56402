//! Random small graphs of the rule set, in both modes, against dual numbers.

use super::evaluate::Dual;
use super::fuzz::Dice;
use super::*;
use crate::differentiate;

pub(super) const DIMS: [usize; 3] = [2, 3, 4];

fn real(dice: &mut Dice) -> f64 {
    dice.roll(2000) as f64 / 1000.0 - 1.0
}

/// A double tensor under a name.
fn doubles(name: &str, dims: &[i64], dice: &mut Dice) -> TensorProto {
    let count: i64 = dims.iter().product();
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(11),
        double_data: (0..count).map(|_| real(dice)).collect(),
        ..Default::default()
    }
}

/// A chain of random operators; every value has the shape of the input, so that any may follow any.
pub(super) fn random_network(dice: &mut Dice) -> GraphProto {
    let mut graph = graph(&[], &[], vec![], vec![]);
    graph.input = vec![port("x: 2 3 4", 11)];
    graph.initializer = vec![
        doubles("square", &[4, 4], dice),
        doubles("row", &[4], dice),
        doubles("column", &[3, 1], dice),
        integers("flat", &[2], &[6, 4]),
        integers("whole", &[3], &[2, 3, 4]),
        integers("zero", &[1], &[0]),
        integers("one", &[1], &[1]),
        integers("four", &[1], &[4]),
        integers("two", &[1], &[2]),
    ];
    let mut names = vec!["x".to_string()];
    for step in 0..4 + dice.roll(8) {
        let pick = |dice: &mut Dice| names[dice.roll(names.len())].clone();
        let (a, b, y) = (pick(dice), pick(dice), format!("v{step}"));
        graph.node.extend(random_step(dice.roll(18), &a, &b, &y));
        names.push(y);
    }
    let last = names.last().cloned().unwrap_or_default();
    graph.node.push(node("Identity", &last, "y", vec![]));
    graph.output = vec![port("y: 2 3 4", 11)];
    graph
}

fn random_step(kind: usize, a: &str, b: &str, y: &str) -> Vec<NodeProto> {
    let both = format!("{a} {b}");
    let inner =
        |op: &str, inputs: String, attributes| node(op, &inputs, &format!("{y}_i"), attributes);
    let outer = |op: &str, inputs: String, attributes| node(op, &inputs, y, attributes);
    let i = format!("{y}_i");
    match kind {
        0 => vec![outer("Add", both, vec![])],
        1 => vec![outer("Sub", both, vec![])],
        2 => vec![outer("Mul", both, vec![])],
        3 => vec![
            inner("Sigmoid", b.into(), vec![]),
            outer("Div", format!("{a} {i}"), vec![]),
        ],
        4 => vec![outer("Tanh", a.into(), vec![])],
        5 => vec![outer("Sigmoid", a.into(), vec![])],
        6 => vec![outer("Sin", a.into(), vec![])],
        7 => vec![inner("Tanh", a.into(), vec![]), outer("Exp", i, vec![])],
        8 => vec![outer("MatMul", format!("{a} square"), vec![])],
        9 => vec![outer("Mul", format!("{a} row"), vec![])],
        10 => vec![outer("Sub", format!("column {a}"), vec![])],
        11 => vec![outer("Softmax", a.into(), vec![int("axis", 1)])],
        12 => vec![
            inner("ReduceMean", a.into(), vec![ints("axes", &[1])]),
            outer("Mul", format!("{i} {b}"), vec![]),
        ],
        13 => vec![
            inner("ReduceSum", format!("{a} two"), vec![]),
            outer("Add", format!("{b} {i}"), vec![]),
        ],
        14 => vec![
            node(
                "Transpose",
                b,
                &format!("{y}_t"),
                vec![ints("perm", &[0, 2, 1])],
            ),
            inner("MatMul", format!("{a} {y}_t"), vec![]),
            outer("MatMul", format!("{i} {a}"), vec![]),
        ],
        15 => vec![
            inner("Reshape", format!("{a} flat"), vec![]),
            outer("Reshape", format!("{i} whole"), vec![]),
        ],
        16 => vec![
            inner("Concat", both, vec![int("axis", 2)]),
            outer("Slice", format!("{i} two six two"), vec![]),
        ],
        _ => vec![inner("Cos", a.into(), vec![]), outer("Neg", i, vec![])],
    }
}

pub(super) fn tensor(dice: &mut Dice, lead: &[usize]) -> Tensor {
    let dims = [lead, &DIMS].concat();
    let count = dims.iter().product();
    Tensor::new(&dims, (0..count).map(|_| number(real(dice))).collect())
}

#[test]
fn random_graphs_agree_with_dual_numbers() {
    let mut dice = Dice(0x2545_F491_4F6C_DD1D);
    for trial in 0..150 {
        let mut network = random_network(&mut dice);
        network.initializer.push(integers("six", &[1], &[6]));
        let model = Model::from_bytes("random", &bytes(network, 17)).unwrap();
        let (x, v) = (tensor(&mut dice, &[]), tensor(&mut dice, &[2]));
        let jvp = differentiate(&model, Mode::Jvp, None, None).unwrap();
        let found = evaluate(&jvp, vec![("x", x.clone()), ("x_tangent", v.clone())]);
        let mut slopes = Vec::new();
        for direction in v.data.chunks(x.data.len()) {
            let dual = |(x, v): (&Dual, &Dual)| Dual {
                value: x.value,
                slope: v.value,
            };
            let along = Tensor::new(&DIMS, x.data.iter().zip(direction).map(dual).collect());
            slopes.extend(
                evaluate(&model, vec![("x", along)])["y"]
                    .data
                    .iter()
                    .map(|y| y.slope),
            );
        }
        let tangents: Vec<f64> = found["y_tangent"].data.iter().map(|d| d.value).collect();
        let scale = slopes.iter().fold(1e-6, |m: f64, s| m.max(s.abs()));
        let worst = slopes
            .iter()
            .zip(&tangents)
            .fold(0.0, |m: f64, (a, b)| m.max((a - b).abs()));
        assert!(
            worst <= 1e-10 * scale,
            "trial {trial}: {worst:e} of {scale:e}"
        );
        let forms = differentiate(&model, Mode::Quadratic, None, None).unwrap();
        let forms = evaluate(&forms, vec![("x", x.clone()), ("x_tangent", v.clone())]);
        let alike = forms["y_quadratic"]
            .data
            .iter()
            .zip(&found["y_quadratic"].data);
        assert!(
            alike
                .into_iter()
                .all(|(a, b)| (a.value - b.value).abs() <= 1e-9 * scale),
            "trial {trial}"
        );
        trace_by_unit_vectors(&model, &DIMS);
        let vjp = differentiate(&model, Mode::Vjp, None, None).unwrap();
        let u = tensor(&mut dice, &[]);
        let g = evaluate(&vjp, vec![("x", x.clone()), ("y_cotangent", u.clone())])["x_cotangent"]
            .clone();
        let dot = |a: &[Dual], b: &[f64]| a.iter().zip(b).map(|(a, b)| a.value * b).sum::<f64>();
        let back: Vec<f64> = g.data.iter().map(|d| d.value).collect();
        let (forward, backward) = (dot(&u.data, &tangents[..24]), dot(&v.data[..24], &back));
        assert!(
            (forward - backward).abs() <= 1e-9 * scale,
            "trial {trial}: {forward} and {backward}"
        );
    }
}
