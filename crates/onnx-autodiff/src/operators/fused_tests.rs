//! Every operator of the list, lowered, differentiated and evaluated, against a formula and its differences.

use super::MICROSOFT;
use super::all;
use crate::graph::emit::{float, int, ints, text};
use crate::proto::*;
use crate::testing::{Tensor, bytes, evaluate, floats, graph, integers, node, number};
use crate::{Mode, Model, differentiate, obstacles};

/// What an operator makes of its state.
type Formula = fn(&[f64]) -> Vec<f64>;

struct Case {
    domain: &'static str,
    op: &'static str,
    /// The shape of the state, which is the first input `x`.
    shape: &'static [usize],
    /// All inputs; names other than `x` are constants.
    inputs: &'static str,
    outputs: &'static str,
    attributes: Vec<AttributeProto>,
    opset: i64,
    formula: Formula,
}

fn case(op: &'static str, shape: &'static [usize], inputs: &'static str, formula: Formula) -> Case {
    Case {
        domain: MICROSOFT,
        op,
        shape,
        inputs,
        outputs: "y",
        attributes: vec![],
        opset: 17,
        formula,
    }
}

impl Case {
    fn with(mut self, attributes: Vec<AttributeProto>) -> Case {
        self.attributes = attributes;
        self
    }

    fn standard(mut self, opset: i64) -> Case {
        (self.domain, self.opset) = ("", opset);
        self
    }
}

/// Two numbers, and what makes four of them.
const PAIR: [f64; 2] = [0.5, -1.5];
const FOUR: [f64; 4] = [0.5, -1.5, 2.0, 1.0];

fn constants() -> Vec<TensorProto> {
    let codes = TensorProto {
        name: Some("codes".into()),
        dims: vec![1, 1, 8],
        data_type: Some(2),
        int32_data: vec![0x9A; 8],
        ..Default::default()
    };
    let single = |values: &[f64]| values.iter().map(|x| *x as f32).collect::<Vec<f32>>();
    vec![
        floats("pair", &[2], &single(&PAIR)),
        floats("four", &[2, 2], &single(&FOUR)),
        floats("image", &[1, 1, 1, 2], &single(&PAIR)),
        floats("kernel", &[1, 1, 1, 1], &[2.0]),
        floats("row", &[1, 2], &single(&PAIR)),
        floats("half", &[1], &[0.5]),
        floats(
            "six",
            &[2, 6],
            &[1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0],
        ),
        floats("none", &[6], &[0.0; 6]),
        floats("cos", &[2, 1], &[0.6, 0.8]),
        floats("sin", &[2, 1], &[0.8, 0.6]),
        integers("first", &[1], &[0]),
        integers("words", &[1, 1], &[1]),
        codes,
    ]
}

fn erf(x: f64) -> f64 {
    let terms = (0..60).scan(x, |term, n| {
        let this = *term / (2 * n + 1) as f64;
        *term *= -x * x / (n + 1) as f64;
        Some(this)
    });
    2.0 / std::f64::consts::PI.sqrt() * terms.sum::<f64>()
}

fn gelu(x: f64) -> f64 {
    x * (1.0 + erf(x / 2f64.sqrt())) / 2.0
}

fn tanh_gelu(x: f64) -> f64 {
    x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x * x * x)).tanh()) / 2.0
}

fn sum(x: &[f64]) -> Vec<f64> {
    x.iter().enumerate().map(|(i, x)| x + PAIR[i % 2]).collect()
}

/// Rows of two, with or without their mean, divided by their deviation, times [`PAIR`].
fn normal(x: &[f64], centre: bool, epsilon: f64) -> Vec<f64> {
    let row = |row: &[f64]| {
        let mean = if centre { (row[0] + row[1]) / 2.0 } else { 0.0 };
        let deviation =
            (row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 2.0 + epsilon).sqrt();
        [0, 1].map(|i| (row[i] - mean) / deviation * PAIR[i])
    };
    x.chunks(2).flat_map(row).collect()
}

fn by_four(x: &[f64]) -> Vec<f64> {
    let row = |r: &[f64]| [0, 1].map(|j| r[0] * FOUR[j] + r[1] * FOUR[2 + j]);
    x.chunks(2).flat_map(row).collect()
}

fn relu(x: Vec<f64>) -> Vec<f64> {
    x.into_iter().map(|x| x.max(0.0)).collect()
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let row = |r: &[f64]| {
        let total: f64 = r.iter().map(|x| x.exp()).sum();
        r.iter().map(|x| x.exp() / total).collect::<Vec<f64>>()
    };
    x.chunks(2).flat_map(row).collect()
}

/// One head of two rows of width two that attend to one another.
fn self_attention(x: &[f64]) -> Vec<f64> {
    let rows: Vec<&[f64]> = x.chunks(2).collect();
    let score = |a: &[f64], b: &[f64]| (a[0] * b[0] + a[1] * b[1]) / 2f64.sqrt();
    let scores: Vec<f64> = rows
        .iter()
        .flat_map(|a| [score(a, rows[0]), score(a, rows[1])])
        .collect();
    let weights = softmax(&scores);
    weights
        .chunks(2)
        .flat_map(|w| [0, 1].map(|j| w[0] * rows[0][j] + w[1] * rows[1][j]))
        .collect()
}

/// The channels of one place, as two groups have them: alone, without deviation.
fn one_group(x: &[f64]) -> Vec<f64> {
    normal(x, true, 1e-5f32 as f64)
        .iter()
        .zip(PAIR.iter().cycle())
        .map(|(x, beta)| x + beta)
        .collect()
}

const SMALL: f64 = 1e-12f32 as f64;
const USUAL: f64 = 1e-5f32 as f64;

fn turned(x: &[f64]) -> Vec<f64> {
    let (cos, sin) = ([0.6, 0.8], [0.8, 0.6]);
    let row =
        |(i, r): (usize, &[f64])| [r[0] * cos[i] - r[1] * sin[i], r[0] * sin[i] + r[1] * cos[i]];
    x.chunks(2).enumerate().flat_map(row).collect()
}

fn cases() -> Vec<Case> {
    let heads = |name: &str| vec![int(name, 1)];
    let both = || vec![int("q_num_heads", 1), int("kv_num_heads", 1)];
    let bits = || {
        vec![
            int("N", 1),
            int("K", 16),
            int("bits", 4),
            int("block_size", 16),
        ]
    };
    let groups = || vec![int("groups", 1), int("activation", 0)];
    vec![
        case("Attention", &[1, 2, 2], "x x x", self_attention)
            .with(both())
            .standard(23),
        case("LayerNormalization", &[2, 2], "x pair", |x| {
            normal(x, true, USUAL)
        })
        .standard(16),
        case("RotaryEmbedding", &[1, 2, 2], "x cos sin words2", turned)
            .with(heads("num_heads"))
            .standard(23),
        case("SimplifiedLayerNormalization", &[2, 2], "x pair", |x| {
            normal(x, false, USUAL)
        })
        .standard(17),
        case("Attention", &[1, 2, 2], "x six none", self_attention).with(heads("num_heads")),
        case("BiasAdd", &[2, 2], "x pair x", |x| {
            sum(x).iter().zip(x).map(|(a, b)| a + b).collect()
        }),
        case("BiasDropout", &[2, 2], "x pair", sum),
        case("BiasGelu", &[2, 2], "x pair", |x| {
            sum(x).into_iter().map(gelu).collect()
        }),
        case("BiasSoftmax", &[2, 2], "x pair", |x| softmax(&sum(x)))
            .with(vec![int("axis", 1), int("is_inner_broadcast", 0)]),
        case("BiasSplitGelu", &[2, 2], "x pair", |x| {
            sum(x).chunks(2).map(|row| row[0] * gelu(row[1])).collect()
        }),
        // The state is the scale: tables of embeddings have derivatives by scattering.
        case(
            "EmbedLayerNormalization",
            &[2],
            "words - four row - x pair",
            |x| {
                let hat = normal(&[FOUR[2] + PAIR[0], FOUR[3] + PAIR[1]], true, SMALL);
                [0, 1].map(|i| hat[i] / PAIR[i] * x[i] + PAIR[i]).to_vec()
            },
        ),
        case("FastGelu", &[2, 2], "x pair", |x| {
            sum(x).into_iter().map(tanh_gelu).collect()
        }),
        case("FusedConv", &[1, 1, 1, 2], "x kernel half image", |x| {
            relu(x.iter().zip(PAIR).map(|(x, z)| 2.0 * x + 0.5 + z).collect())
        })
        .with(vec![text("activation", "Relu")]),
        case("FusedGemm", &[2, 2], "x four pair", |x| {
            relu(sum(&by_four(x)))
        })
        .with(vec![text("activation", "Relu")]),
        case("FusedMatMul", &[2, 2], "x four", |x| {
            by_four(x).iter().map(|y| 0.5 * y).collect()
        })
        .with(vec![float("alpha", 0.5)]),
        case("FusedMatMulActivation", &[2, 2], "x four", |x| {
            relu(by_four(x))
        })
        .with(vec![text("activation", "Relu")]),
        case("Gelu", &[2, 2], "x", |x| {
            x.iter().copied().map(gelu).collect()
        }),
        case("GroupNorm", &[1, 1, 1, 2], "x pair pair", one_group).with(groups()),
        case("MatMulNBits", &[2, 16], "x codes half", |x| {
            let weight = |i: usize| 0.5 * if i.is_multiple_of(2) { 2.0 } else { 1.0 };
            x.chunks(16)
                .map(|row| row.iter().enumerate().map(|(i, x)| weight(i) * x).sum())
                .collect()
        })
        .with(bits()),
        case("MultiHeadAttention", &[1, 2, 2], "x x x", self_attention).with(heads("num_heads")),
        case("NhwcConv", &[1, 1, 2, 1], "x kernel half", |x| {
            x.iter().map(|x| 2.0 * x + 0.5).collect()
        }),
        case("QuickGelu", &[2, 2], "x", |x| {
            x.iter().map(|x| x / (1.0 + (-0.5 * x).exp())).collect()
        })
        .with(vec![float("alpha", 0.5)]),
        case("RotaryEmbedding", &[1, 2, 2], "x first cos sin", turned),
        case("SimplifiedLayerNormalization", &[2, 2], "x pair", |x| {
            normal(x, false, USUAL)
        }),
        case("SkipGroupNorm", &[1, 1, 1, 2], "x pair pair image", |x| {
            one_group(&sum(x))
        })
        .with(groups()),
        case("SkipLayerNormalization", &[2, 2], "x pair pair", |x| {
            normal(&sum(x), true, SMALL)
        }),
        case(
            "SkipSimplifiedLayerNormalization",
            &[2, 2],
            "x pair pair",
            |x| normal(&sum(x), false, SMALL),
        ),
        case("TransposeMatMul", &[2, 2], "x four", |x| {
            by_four(&[x[0], x[2], x[1], x[3]])
        })
        .with(vec![int("transA", 1)]),
    ]
}

fn model(case: &Case) -> Model {
    let dims: Vec<String> = case.shape.iter().map(usize::to_string).collect();
    let fused = NodeProto {
        domain: Some(case.domain.into()),
        ..node(case.op, case.inputs, case.outputs, case.attributes.clone())
    };
    let mut graph = graph(
        &[&format!("x: {}", dims.join(" "))],
        &[],
        constants(),
        vec![fused],
    );
    graph.initializer.push(integers("words2", &[1, 2], &[0, 1]));
    graph.output = case
        .outputs
        .split(' ')
        .filter(|name| *name != "-")
        .map(untyped)
        .collect();
    Model::from_bytes("m.onnx", &bytes(graph, case.opset)).unwrap()
}

fn untyped(name: &str) -> ValueInfoProto {
    ValueInfoProto {
        name: Some(name.into()),
        r#type: None,
    }
}

fn tensor(shape: &[usize], values: &[f64]) -> Tensor {
    Tensor::new(shape, values.iter().map(|x| number(*x)).collect())
}

fn close(found: &[f64], expected: &[f64], bound: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (a, b) in found.iter().zip(expected) {
        assert!(
            (a - b).abs() <= bound * (1.0 + b.abs()),
            "{what}: {a} for {b}"
        );
    }
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.data.iter().map(|x| x.value).collect()
}

#[test]
fn every_lowered_operator_computes_its_formula_and_its_derivative() {
    for case in cases() {
        let what = format!("{} {}", case.domain, case.op);
        let count: usize = case.shape.iter().product();
        let x: Vec<f64> = (0..count).map(|i| (i as f64 * 1.7 + 0.4).sin()).collect();
        let v: Vec<f64> = (0..count).map(|i| (i as f64 * 2.3 + 1.0).cos()).collect();
        let moved = |step: f64| {
            (case.formula)(
                &x.iter()
                    .zip(&v)
                    .map(|(x, v)| x + step * v)
                    .collect::<Vec<f64>>(),
            )
        };
        let expected = (case.formula)(&x);
        let slopes: Vec<f64> = moved(1e-5)
            .iter()
            .zip(moved(-1e-5))
            .map(|(a, b)| (a - b) / 2e-5)
            .collect();
        let model = model(&case);

        let jvp = differentiate(&model, Mode::Jvp, None, None).unwrap();
        let seeds = [&[1], case.shape].concat();
        let found = evaluate(
            &jvp,
            vec![
                ("x", tensor(case.shape, &x)),
                ("x_tangent", tensor(&seeds, &v)),
            ],
        );
        // The numbers in the graph are of single precision.
        close(&values(&found["y"]), &expected, 1e-6, &what);
        close(&values(&found["y_tangent"]), &slopes, 1e-5, &what);

        let vjp = differentiate(&model, Mode::Vjp, None, None).unwrap();
        let w: Vec<f64> = (0..expected.len())
            .map(|i| (i as f64 * 0.9 + 0.2).cos())
            .collect();
        let cotangent = tensor(&found["y"].dims, &w);
        let back = evaluate(
            &vjp,
            vec![("x", tensor(case.shape, &x)), ("y_cotangent", cotangent)],
        );
        let pulled: f64 = values(&back["x_cotangent"])
            .iter()
            .zip(&v)
            .map(|(a, b)| a * b)
            .sum();
        close(
            &[pulled],
            &[slopes.iter().zip(&w).map(|(a, b)| a * b).sum()],
            1e-5,
            &what,
        );
    }
}

#[test]
fn every_entry_of_the_list_has_a_case() {
    let cases = cases();
    for operator in all().filter(|operator| operator.lowering.is_some()) {
        let tested = cases
            .iter()
            .any(|case| case.domain == operator.domain && case.op == operator.name);
        assert!(
            tested,
            "{} {} is not tested",
            operator.domain, operator.name
        );
    }
}

#[test]
fn forms_that_are_not_known_are_refused_by_their_node() {
    let unknown = [
        case("FusedConv", &[1, 1, 1, 2], "x kernel", |_| vec![])
            .with(vec![text("activation", "Unheard")]),
        case("FusedConv", &[1, 1, 1, 2], "x kernel", |_| vec![])
            .with(vec![text("activation", "LeakyRelu")]),
        case("FusedGemm", &[2, 2], "x four", |_| vec![]).with(vec![text("activation", "Elu")]),
        case("GroupNorm", &[1, 1, 1, 2], "x pair pair", |_| vec![]).with(vec![int("groups", 3)]),
        case("GroupNorm", &[1, 1, 1, 2], "x pair pair", |_| vec![])
            .with(vec![int("groups", 1), int("activation", 2)]),
        case("MultiHeadAttention", &[1, 2, 2], "x x x", |_| vec![]).with(vec![int("num_heads", 0)]),
        case(
            "MultiHeadAttention",
            &[1, 2, 2],
            "x x x - words2",
            |_| vec![],
        )
        .with(vec![int("num_heads", 3), ints("other", &[1])]),
        case("Attention", &[1, 2, 2], "x six none", |_| vec![])
            .with(vec![int("num_heads", 1), int("do_rotary", 1)]),
        case("MatMulNBits", &[2, 16], "x codes half", |_| vec![])
            .with(vec![int("N", 1), int("K", i64::MAX)]),
        case("RotaryEmbedding", &[1, 2, 2], "x first cos sin", |_| vec![])
            .with(vec![int("is_packed_batching", 1)]),
        case("QuickGelu", &[2, 2], "-", |_| vec![]),
    ];
    for case in unknown {
        let found = obstacles(&model(&case), Mode::Jvp, None, None);
        let named = found.first().map(|obstacle| obstacle.op.as_str());
        assert_eq!(named, Some(format!("com.microsoft.{}", case.op).as_str()));
        assert!(
            found[0].reason.contains("this form of a fused operator"),
            "{}",
            found[0].reason
        );
    }
}

#[test]
fn outputs_beyond_the_first_are_made_where_they_are_named() {
    let mut case = case("SkipLayerNormalization", &[2, 2], "x pair pair", sum);
    case.outputs = "y - - total";
    let x = [0.3, -0.2, 0.9, 0.4];
    let derived = differentiate(&model(&case), Mode::Jvp, Some("x"), Some("total")).unwrap();
    let feeds = vec![
        ("x", tensor(&[2, 2], &x)),
        ("x_tangent", tensor(&[1, 2, 2], &x)),
    ];
    close(
        &values(&evaluate(&derived, feeds)["total"]),
        &sum(&x),
        1e-6,
        "the sum",
    );
    case.outputs = "y mean";
    assert_eq!(
        obstacles(&model(&case), Mode::Jvp, None, Some("y"))[0].op,
        "com.microsoft.SkipLayerNormalization"
    );
}

#[test]
fn what_lies_in_blocks_is_refused_with_advice() {
    let mut case = case("ReorderInput", &[1, 1, 1, 2], "x", |_| vec![]);
    case.domain = "com.microsoft.nchwc";
    let found = obstacles(&model(&case), Mode::Jvp, None, None);
    assert!(
        found[0].reason.contains("at the extended level or below"),
        "{}",
        found[0].reason
    );
}
