//! Operators of numbers of eight and four bits.

use super::conv::conv_shape;
use super::matmul::product_shape;
use super::operator::Operator;
use crate::elem::ElemType;
use crate::graph::{Graph, Inferred, Node, Shape};

/// The declarations of `ConvInteger`, `DynamicQuantizeLinear`, `MatMulInteger`, `QLinearConv`,
/// `QLinearMatMul` and `QuantizeLinear`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("ConvInteger")
        .element(int32)
        .shape(conv_shape)
        .refused(REASON),
    Operator::new("DynamicQuantizeLinear")
        .shapes(dynamic_shapes)
        .refused(REASON),
    Operator::new("MatMulInteger")
        .element(int32)
        .shape(integer_product_shape)
        .refused(REASON),
    Operator::new("QLinearConv")
        .element(eighth_input)
        .refused(REASON),
    Operator::new("QLinearMatMul")
        .element(eighth_input)
        .shape(quantized_product_shape)
        .refused(REASON),
    Operator::new("QuantizeLinear")
        .single_inputs(&[1])
        .element(quantized_element)
        .same_shape()
        .refused(REASON),
];

/// The reason for operators that round to few bits.
const REASON: &str =
    "quantization has derivative zero almost everywhere; export the model without quantization";

/// Returns the type that the node names, or that of its zero point.
fn quantized_element(g: &Graph, node: &Node) -> ElemType {
    match (node.int("output_dtype", 0), node.input(2)) {
        (0, Some(zero)) => g.elem(zero),
        (0, None) => ElemType::UINT8,
        (n, _) => ElemType(n as i32),
    }
}

fn eighth_input(g: &Graph, node: &Node) -> ElemType {
    node.input(7).map_or(ElemType::UNKNOWN, |v| g.elem(v))
}

fn int32(_: &Graph, _: &Node) -> ElemType {
    ElemType::INT32
}

fn integer_product_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    product_shape(g, node.input(0)?, node.input(1)?)
}

fn quantized_product_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    product_shape(g, node.input(0)?, node.input(3)?)
}

/// Returns the types and shapes of the quantized input, of its scale and of its zero point.
fn dynamic_shapes(g: &mut Graph, node: &Node, _: usize) -> Option<Vec<Inferred>> {
    let number = || Some(Vec::new());
    let shape = g.shape(node.input(0)?).cloned();
    Some(vec![
        (ElemType::UINT8, shape),
        (ElemType::FLOAT, number()),
        (ElemType::UINT8, number()),
    ])
}
