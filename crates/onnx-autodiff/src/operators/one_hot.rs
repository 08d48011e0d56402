//! Indices as rows of a unit matrix.

use super::operator::{Operator, TangentResult};
use crate::graph::content::Item;
use crate::elem::ElemType;
use crate::inference::{axis_of, size_of};
use crate::graph::{Graph, Node, Shape};
use crate::step::Step;

pub const OPERATORS: &[Operator] = &[
    Operator::new("OneHot").element(third_input).shape(one_hot_shape).tangent(one_hot_tangent),
];

fn third_input(g: &Graph, node: &Node) -> ElemType {
    node.input(2).map_or(ElemType::UNKNOWN, |v| g.elem(v))
}

fn one_hot_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let axis = axis_of(node.int("axis", -1), shape.len() + 1)?;
    let depth = node.input(1).and_then(|v| g.content(v)).and_then(|c| c.items.first().cloned());
    let depth = size_of(g, depth.unwrap_or(Item::Unknown));
    shape.insert(axis, depth);
    Some(shape)
}

/// Where an index points has no derivative; the two values might have one.
fn one_hot_tangent(s: &mut Step) -> TangentResult {
    s.only(&[0, 1], "its two values must be constant")?;
    Ok(None)
}
