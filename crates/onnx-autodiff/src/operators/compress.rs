//! `Compress`: the elements that a condition selects.

use super::operator::{DecompositionResult, Operator};
use super::parts::finished;
use crate::graph::emit::int;
use crate::graph::{Graph, Node, Shape};
use crate::inference;
use crate::inference::axis_of;
use crate::jvp_context::JvpContext;

/// The declaration of `Compress`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("Compress")
    .shape(compress_shape)
    .decomposition(compress_decomposition)
    .smooth_in(&[0])];

/// Returns the shape of the output, with a new symbol for the number of selected elements.
fn compress_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let some = g.symbols.fresh();
    if node.attribute("axis").is_none() {
        return Some(vec![some]);
    }
    let mut shape = g.shape(node.input(0)?)?.clone();
    let axis = axis_of(node.int("axis", 0), shape.len())?;
    shape[axis] = some;
    Some(shape)
}

/// Gathers the selected elements along an axis, or of the flattened tensor.
fn compress_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let (x, condition) = (s.x(0)?, s.node.input(1).ok_or("its condition is missing")?);
    let places = s.g.op("NonZero", &[condition]);
    let places = s.g.squeeze(places, &[0]);
    let (x, axis) = match s.node.attribute("axis") {
        Some(_) => (x, s.axis("axis", 0, s.rank(0)?)?),
        None => {
            let all = inference::size_product(s.g, &s.shape(x)?);
            (s.g.reshape(x, &[all]), 0)
        }
    };
    let picked =
        s.g.op_with("Gather", &[x, places], vec![int("axis", axis as i64)]);
    finished(s, picked)
}
