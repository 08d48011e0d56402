//! Operators whose outputs do not depend on the elements of floating-point inputs: constants,
//! shapes, and the indices of elements that are not zero.

use super::operator::{Operator, integers};
use super::random::like_element;
use crate::content::{Content, Item, followed_count};
use crate::elem::ElemType;
use crate::folding::axis_lengths;
use crate::graph::{Graph, Node, Shape};
use crate::inference::sizes_held_by;
use crate::proto::TensorProto;
use crate::size::Size;

/// The declarations of `Constant`, `ConstantOfShape`, `EyeLike`, `NonZero`, `Shape` and `Size`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Constant")
        .element(constant_element)
        .shape(constant_node_shape)
        .content_of_node(constant_content)
        .constant(),
    Operator::new("ConstantOfShape")
        .element(filled_element)
        .shape(filled_shape)
        .content(filled_content)
        .constant()
        .reads_only_shapes(),
    Operator::new("EyeLike")
        .names_type()
        .element(like_element)
        .same_shape()
        .constant(),
    Operator::new("NonZero")
        .element(integers)
        .shape(non_zero_shape)
        .constant(),
    Operator::new("Shape")
        .element(integers)
        .shape(shape_shape)
        .content_of_node(shape_content)
        .constant()
        .reads_only_shapes(),
    Operator::new("Size")
        .element(integers)
        .shape(size_shape)
        .content_of_node(size_content)
        .constant()
        .reads_only_shapes(),
];

fn constant_element(_: &Graph, node: &Node) -> ElemType {
    constant_type(node)
}

fn filled_element(_: &Graph, node: &Node) -> ElemType {
    match node.attribute("value").and_then(|a| a.t.as_ref()) {
        Some(tensor) => ElemType(tensor.data_type()),
        None => ElemType::FLOAT,
    }
}

fn constant_node_shape(_: &mut Graph, node: &Node) -> Option<Shape> {
    constant_shape(node)
}

fn shape_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let content = shape_content(g, node)?;
    Some(vec![Size::fixed(content.items.len() as i64)])
}

fn size_shape(_: &mut Graph, _: &Node) -> Option<Shape> {
    Some(Vec::new())
}

fn filled_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    sizes_held_by(g, node.input(0)?)
}

fn non_zero_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let rank = g.rank(node.input(0)?)?;
    Some(vec![Size::fixed(rank as i64), g.symbols.fresh()])
}

fn filled_content(_: &mut Graph, node: &Node, inputs: &[Content]) -> Option<Content> {
    let dims = axis_lengths(&inputs[0])?;
    let value = node.attribute("value").and_then(|a| a.t.as_ref());
    let item = value.map_or(Some(Item::Real(0.0)), |t| {
        Content::of_tensor(t)?.items.first().cloned()
    })?;
    Some(Content {
        items: vec![item; followed_count(&dims)?],
        dims,
    })
}

fn constant_type(node: &Node) -> ElemType {
    let Some(attribute) = node.attributes.first() else {
        return ElemType::UNKNOWN;
    };
    match attribute.name() {
        "value" => attribute
            .t
            .as_ref()
            .map_or(ElemType::UNKNOWN, |t| ElemType(t.data_type())),
        "value_int" | "value_ints" => ElemType::INT64,
        "value_float" | "value_floats" => ElemType::FLOAT,
        "value_string" | "value_strings" => ElemType::STRING,
        _ => ElemType::UNKNOWN,
    }
}

fn constant_shape(node: &Node) -> Option<Shape> {
    let attribute = node.attributes.first()?;
    let list = |n: usize| Some(vec![Size::fixed(n as i64)]);
    match attribute.name() {
        "value" => Some(tensor_shape(attribute.t.as_ref()?)),
        "value_int" | "value_float" | "value_string" => Some(Vec::new()),
        "value_ints" => list(attribute.ints.len()),
        "value_floats" => list(attribute.floats.len()),
        "value_strings" => list(attribute.strings.len()),
        _ => None,
    }
}

fn tensor_shape(tensor: &TensorProto) -> Shape {
    tensor.dims.iter().map(|d| Size::fixed(*d)).collect()
}

fn shape_content(g: &mut Graph, node: &Node) -> Option<Content> {
    let shape = g.shape(node.input(0)?)?;
    let rank = shape.len() as i64;
    let clamp = |n: i64| (if n < 0 { n.saturating_add(rank) } else { n }).clamp(0, rank) as usize;
    let (start, end) = (clamp(node.int("start", 0)), clamp(node.int("end", rank)));
    let part = shape.get(start..end.max(start))?;
    Some(Content::list(part.iter().cloned().map(Item::Int).collect()))
}

fn size_content(g: &mut Graph, node: &Node) -> Option<Content> {
    let shape = g.shape(node.input(0)?)?.clone();
    let product = shape.iter().try_fold(Size::fixed(1), |n, d| n.times(d))?;
    Some(Content::scalar(Item::Int(product)))
}

fn constant_content(_: &mut Graph, node: &Node) -> Option<Content> {
    let attribute = node.attributes.first()?;
    match attribute.name() {
        "value" => Content::of_tensor(attribute.t.as_ref()?),
        "value_int" => Some(Content::scalar(Item::fixed(attribute.i?))),
        "value_ints" => Some(Content::list(
            attribute.ints.iter().map(|n| Item::fixed(*n)).collect(),
        )),
        "value_float" => Some(Content::scalar(Item::Real(f64::from(attribute.f?)))),
        "value_floats" => Some(Content::list(
            attribute
                .floats
                .iter()
                .map(|x| Item::Real(f64::from(*x)))
                .collect(),
        )),
        _ => None,
    }
}
