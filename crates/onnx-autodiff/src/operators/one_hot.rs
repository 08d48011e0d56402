//! `OneHot`: indices as rows of a unit matrix.

use super::operator::{DecompositionResult, Operator};
use super::parts::at;
use crate::content::Item;
use crate::elem::ElemType;
use crate::graph::{Graph, Node, Shape};
use crate::inference::{axis_of, size_of};
use crate::jvp_context::JvpContext;

/// The declaration of `OneHot`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("OneHot")
    .kinked()
    .element(third_input)
    .shape(one_hot_shape)
    .decomposition(one_hot_decomposition)
    .computes_as(2)
    .float64_by_decomposition()];

fn third_input(g: &Graph, node: &Node) -> ElemType {
    node.input(2).map_or(ElemType::UNKNOWN, |v| g.elem(v))
}

fn one_hot_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let axis = axis_of(node.int("axis", -1), shape.len() + 1)?;
    let depth = node
        .input(1)
        .and_then(|v| g.content(v))
        .and_then(|c| c.items.first().cloned());
    let depth = size_of(g, depth.unwrap_or(Item::Unknown));
    shape.insert(axis, depth);
    Some(shape)
}

/// Appends `off + hot (on - off)`. The two values may have a derivative; the indices have none.
fn one_hot_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let [Some(places), Some(depth)] = [0, 1].map(|place| s.node.input(place)) else {
        return Err("its indices or its depth are missing".into());
    };
    let (values, y) = (s.x(2)?, s.y_shape()?);
    let places = s.g.cast(places, ElemType::INT64);
    let ends = [0.0, 1.0].map(|end| {
        let end = s.g.real(end, ElemType::FLOAT);
        s.g.unsqueeze(end, &[0])
    });
    let ends = s.g.concat(&ends, 0);
    let attributes = s.node.attributes.clone();
    let hot = s.g.op_with("OneHot", &[places, depth, ends], attributes);
    s.g.set_shape(hot, &y);
    let hot = s.g.cast(hot, s.g.elem(values));
    let [off, on] = [0, 1].map(|place| at(s.g, values, place));
    let span = s.g.sub(on, off);
    let raised = s.g.mul(span, hot);
    Ok(vec![Some(s.g.add(raised, off))])
}
