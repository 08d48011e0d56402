//! `TopK`, `ArgMax` and `ArgMin`: the largest elements and their indices.

use super::gather::for_each_direction;
use super::operator::{Operator, integers};
use crate::content::Item;
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::emit::int;
use crate::graph::{Graph, Inferred, Node, Shape};
use crate::inference::{axis_of, reduced_shape};
use crate::jvp_context::{JvpContext, Tangent};

/// The declarations of `ArgMax`, `ArgMin` and `TopK`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("ArgMax")
        .element(integers)
        .shape(arg_shape)
        .constant(),
    Operator::new("ArgMin")
        .element(integers)
        .shape(arg_shape)
        .constant(),
    Operator::new("TopK")
        .kinked()
        .shapes(top_k_shapes)
        .tangents(top_k_tangent),
];

fn arg_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let rank = g.rank(node.input(0)?)?;
    let axis = axis_of(node.int("axis", 0), rank)?;
    reduced_shape(
        g.shape(node.input(0)?)?,
        &[axis],
        node.int("keepdims", 1) != 0,
    )
}

/// Returns the types and shapes of the largest elements and of their indices.
fn top_k_shapes(g: &mut Graph, node: &Node, _: usize) -> Option<Vec<Inferred>> {
    let x = node.input(0)?;
    let mut shape = g.shape(x)?.clone();
    let axis = axis_of(node.int("axis", -1), shape.len())?;
    let k = node
        .input(1)
        .and_then(|k| g.content(k))
        .and_then(|c| c.items.first().cloned());
    shape[axis] = match k {
        Some(Item::Int(size)) => size,
        _ => g.symbols.fresh(),
    };
    Some(vec![
        (g.elem(x), Some(shape.clone())),
        (ElemType::INT64, Some(shape)),
    ])
}

fn top_k_tangent(s: &mut JvpContext) -> Result<Vec<Option<Tangent>>, Refusal> {
    let d = s.dx()?;
    let axis = s.axis("axis", -1, s.rank(0)?)? as i64;
    let indices = match s.node.output(1) {
        Some(indices) => indices,
        None => {
            s.g.push("TopK", &s.node.inputs.clone(), s.node.attributes.clone(), 2)[1]
        }
    };
    let indices = for_each_direction(s, indices)?;
    let picked =
        s.g.op_with("GatherElements", &[d, indices], vec![int("axis", axis + 1)]);
    Ok(vec![Some(Tangent::plain(picked)), None])
}
