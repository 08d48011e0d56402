//! Small models for tests, and the tests that concern the module as a whole.

mod evaluate;
mod fuzz;
mod hostile;
mod layers;
mod loops;
mod names;
mod parts;
mod random;
mod refusals;
mod second;
mod structure;

use prost::Message;
use prost::bytes::Bytes;

use crate::graph::emit::{int, ints, text};
use crate::proto::*;
use crate::{Mode, Model, differentiate};
use evaluate::Dual;
pub(crate) use evaluate::{Tensor, evaluate, number};

/// A node as `(operator, inputs, outputs, attributes)`; names are separated by spaces, `-` leaves one out.
pub(crate) fn node(
    op: &str,
    inputs: &str,
    outputs: &str,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    let names = |list: &str| {
        list.split_whitespace()
            .map(|n| {
                if n == "-" {
                    String::new()
                } else {
                    n.to_string()
                }
            })
            .collect()
    };
    NodeProto {
        op_type: Some(op.into()),
        name: Some(format!("node_{}", outputs.replace(' ', "_"))),
        input: names(inputs),
        output: names(outputs),
        attribute,
        ..Default::default()
    }
}

/// A declaration such as `x: N 3 28 28`, of the given element type.
pub(crate) fn port(declaration: &str, elem: i32) -> ValueInfoProto {
    let (name, dims) = declaration.split_once(':').unwrap_or((declaration, ""));
    let dim = |d: &str| DimensionProto {
        value: Some(match d.parse() {
            Ok(n) => DimensionValue::Value(n),
            Err(_) => DimensionValue::Param(d.to_string()),
        }),
    };
    let shape = TensorShapeProto {
        dim: dims.split_whitespace().map(dim).collect(),
    };
    let tensor = TensorTypeProto {
        elem_type: Some(elem),
        shape: Some(shape),
    };
    ValueInfoProto {
        name: Some(name.trim().into()),
        r#type: Some(TypeProto {
            value: Some(TypeValue::Tensor(tensor)),
        }),
    }
}

/// An initializer of float32.
pub(crate) fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(1),
        float_data: values.to_vec(),
        ..Default::default()
    }
}

/// An initializer of int64.
pub(crate) fn integers(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(7),
        raw_data: Some(Bytes::from(
            values
                .iter()
                .flat_map(|n| n.to_le_bytes())
                .collect::<Vec<u8>>(),
        )),
        ..Default::default()
    }
}

pub(crate) fn graph(
    inputs: &[&str],
    outputs: &[&str],
    initializer: Vec<TensorProto>,
    node: Vec<NodeProto>,
) -> GraphProto {
    GraphProto {
        name: Some("test".into()),
        input: inputs.iter().map(|d| port(d, 1)).collect(),
        output: outputs.iter().map(|d| port(d, 1)).collect(),
        initializer,
        node,
        ..Default::default()
    }
}

pub(crate) fn bytes(graph: GraphProto, opset: i64) -> Vec<u8> {
    let opset = OperatorSetIdProto {
        domain: None,
        version: Some(opset),
    };
    ModelProto {
        ir_version: Some(9),
        graph: Some(graph),
        opset_import: vec![opset],
        ..Default::default()
    }
    .encode_to_vec()
}

/// The message of the error that reading gives.
pub(crate) fn reading_error(bytes: &[u8]) -> String {
    match Model::from_bytes("m.onnx", bytes) {
        Ok(_) => "no error".into(),
        Err(error) => error.to_string(),
    }
}

/// A convolution, a normalization, an attention and the shape arithmetic that exporters write around them.
pub(crate) fn small_network() -> GraphProto {
    let weights: Vec<f32> = (0..36).map(|i| (i as f32 * 0.7).sin()).collect();
    let constants = vec![
        floats("w", &[2, 2, 3, 3], &weights),
        floats("scale", &[2], &[1.0, 1.0]),
        floats("bias", &[2], &[0.0, 0.5]),
        integers("zero", &[1], &[0]),
        integers("one", &[1], &[1]),
        integers("two", &[1], &[2]),
        integers("all", &[1], &[-1]),
    ];
    let nodes = vec![
        node("Conv", "x w", "c", vec![ints("pads", &[1, 1, 1, 1])]),
        node("InstanceNormalization", "c scale bias", "n", vec![]),
        node("Sigmoid", "n", "s", vec![]),
        node("Mul", "n s", "a", vec![]),
        node("Shape", "a", "shape", vec![]),
        node("Gather", "shape zero", "batch", vec![int("axis", 0)]),
        node("Concat", "batch two all", "target", vec![int("axis", 0)]),
        node("Reshape", "a target", "tokens", vec![]),
        node(
            "Transpose",
            "tokens",
            "turned",
            vec![ints("perm", &[0, 2, 1])],
        ),
        node("MatMul", "turned tokens", "scores", vec![]),
        node("Softmax", "scores", "weights", vec![int("axis", -1)]),
        node("MatMul", "tokens weights", "mixed", vec![]),
        node("Slice", "shape one all", "tail", vec![]),
        node("Reshape", "mixed shape", "back", vec![]),
        node("Add", "back x", "y", vec![]),
        node(
            "ReduceMean",
            "y",
            "m",
            vec![ints("axes", &[1, 2, 3]), int("keepdims", 0)],
        ),
        node("Resize", "y - four", "r", vec![text("mode", "nearest")]),
        node("Split", "y", "p q", vec![int("axis", 1)]),
        node("Where", "flag p q", "chosen", vec![]),
        node("Greater", "p q", "flag", vec![]),
        node(
            "Einsum",
            "chosen chosen",
            "e",
            vec![text("equation", "bchw,bchw->bh")],
        ),
    ];
    let mut graph = graph(
        &["x: N 2 4 4"],
        &["y: N 2 4 4", "m: N", "r: N 2 8 8", "e: N 4"],
        constants,
        nodes,
    );
    graph
        .initializer
        .push(floats("four", &[4], &[1.0, 1.0, 2.0, 2.0]));
    graph
}

/// Holds the graphs of trace and Jacobian of a model with one output of the input's shape against duals along every
/// unit vector.
pub(crate) fn trace_by_unit_vectors(model: &Model, dims: &[usize]) {
    let count: usize = dims.iter().product();
    let x: Vec<f64> = (0..count).map(|i| (i as f64 * 1.3).sin() * 0.9).collect();
    let feed = |slopes: &dyn Fn(usize) -> f64| {
        let numbers = x
            .iter()
            .enumerate()
            .map(|(i, value)| Dual {
                value: *value,
                slope: slopes(i),
            })
            .collect();
        vec![("x", Tensor::new(dims, numbers))]
    };
    let (rows, size) = (dims[0], count / dims[0]);
    let close = |found: f64, expected: f64| {
        assert!(
            (found - expected).abs() <= 1e-9 * (1.0 + expected.abs()),
            "{found} for {expected}"
        );
    };
    let derived = |mode| {
        let made = differentiate(model, mode, None, None).expect("derived");
        evaluate(&made, feed(&|_| 0.0))
    };
    let jacobian = derived(Mode::Jacobian)["y_jacobian"].clone();
    assert_eq!(jacobian.dims, [&[size], dims].concat());
    let mut expected = vec![0.0; rows];
    for place in 0..size {
        let along = evaluate(model, feed(&|i| f64::from(u8::from(i % size == place))))["y"].clone();
        for (i, number) in along.data.iter().enumerate() {
            close(jacobian.data[place * count + i].value, number.slope);
        }
        expected
            .iter_mut()
            .enumerate()
            .for_each(|(row, sum)| *sum += along.data[row * size + place].slope);
    }
    let found = derived(Mode::Trace);
    let (trace, terms) = (&found["y_trace"], &found["y_trace_terms"]);
    for (row, expected) in expected.iter().enumerate() {
        let terms = terms.data.iter().skip(row).step_by(rows);
        close(terms.map(|d| d.value).sum(), *expected);
        close(trace.data[row].value, *expected);
    }
}

pub(crate) const MODES: [Mode; 2] = [Mode::Jvp, Mode::Vjp];
