//! `Unique`: the distinct elements of a tensor. Each one is the first of its value, whose tangent
//! it has.

use super::operator::Operator;
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::emit::int;
use crate::graph::{Graph, Inferred, Node};
use crate::inference;
use crate::inference::axis_of;
use crate::jvp_context::{JvpContext, Tangent};
use crate::size::Size;

/// The declaration of `Unique`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("Unique")
    .kinked()
    .shapes(unique_shapes)
    .tangents(unique_tangents)];

/// Returns the types and shapes of the distinct elements, of their first indices, of the indices of
/// all elements, and of how often each one occurs.
fn unique_shapes(g: &mut Graph, node: &Node, _: usize) -> Option<Vec<Inferred>> {
    let x = node.input(0)?;
    let (elem, shape) = (g.elem(x), g.shape(x)?.clone());
    let some = g.symbols.fresh();
    let (picked, all) = match node.attribute("axis") {
        None => (vec![some.clone()], inference::size_product(g, &shape)),
        Some(_) => {
            let axis = axis_of(node.int("axis", 0), shape.len())?;
            let mut picked = shape.clone();
            picked[axis] = some.clone();
            (picked, shape[axis].clone())
        }
    };
    let list = |length: Size| (ElemType::INT64, Some(vec![length]));
    Some(vec![
        (elem, Some(picked)),
        list(some.clone()),
        list(all),
        list(some),
    ])
}

/// Returns the tangent of the elements, or of the slices along an axis, gathered at their first
/// indices. The number of distinct elements is constant wherever the output is continuous.
fn unique_tangents(s: &mut JvpContext) -> Result<Vec<Option<Tangent>>, Refusal> {
    let (d, shape, y) = (s.dx()?, s.x_shape(0)?, s.y_shape()?);
    let first = match s.node.output(1) {
        Some(first) => first,
        None => s.g.push(
            "Unique",
            &s.node.inputs.clone(),
            s.node.attributes.clone(),
            2,
        )[1],
    };
    let (d, axis) = match s.node.attribute("axis") {
        Some(_) => (d, s.axis("axis", 0, shape.len())?),
        None => {
            let all = inference::size_product(s.g, &shape);
            let flat = [s.k.clone(), all];
            (s.g.reshape(d, &flat), 0)
        }
    };
    let picked =
        s.g.op_with("Gather", &[d, first], vec![int("axis", axis as i64 + 1)]);
    let target = s.tangent_shape(&y);
    s.g.set_shape(picked, &target);
    Ok(vec![Some(Tangent::plain(picked)), None, None, None])
}
