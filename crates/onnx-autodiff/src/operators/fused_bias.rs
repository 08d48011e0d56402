//! `BiasAdd`, `BiasDropout` and `BiasSoftmax`: sums with a bias, and what follows them.

use super::operator::{Lowered, Operator};
use super::parts::{one, plus};
use crate::graph::emit::int;
use crate::graph::{Graph, Node, Val};
use crate::size::Size;

/// The declarations of `BiasAdd`, `BiasDropout` and `BiasSoftmax`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::fused("BiasAdd", bias_add),
    Operator::fused("BiasDropout", bias_dropout),
    Operator::fused("BiasSoftmax", bias_softmax),
];

/// Appends `x + bias + skip`.
pub(super) fn bias_add(g: &mut Graph, node: &Node) -> Lowered {
    let sum = g.add(node.input(0)?, node.input(1)?);
    one(g.add(sum, node.input(2)?))
}

/// Appends `x + bias + residual`, which is what a dropout leaves outside training.
pub(super) fn bias_dropout(g: &mut Graph, node: &Node) -> Lowered {
    let training = node.input(4).map(|v| {
        g.content(v)
            .and_then(|content| content.items.first()?.as_fixed())
    });
    if training.is_some_and(|flag| flag != Some(0)) {
        return None;
    }
    let sum = g.add(node.input(0)?, node.input(1)?);
    one(plus(g, sum, node.input(2)))
}

/// Appends the softmax of `x + bias` over all axes from the attribute `axis` on.
pub(super) fn bias_softmax(g: &mut Graph, node: &Node) -> Lowered {
    let (x, bias) = (node.input(0)?, node.input(1)?);
    let shape = g.shape(x)?.clone();
    let (rank, axis) = (shape.len() as i64, node.int("axis", 1));
    let axis = if axis < 0 { axis + rank } else { axis };
    let inner = node.int("is_inner_broadcast", 0) != 0;
    if !(0..rank).contains(&axis)
        || g.rank(bias)? > shape.len()
        || inner && g.rank(bias)? != shape.len()
    {
        return None;
    }
    let sum = g.add(x, bias);
    one(if axis == rank - 1 {
        last_axis_softmax(g, sum)
    } else {
        flat_softmax(g, sum, axis as usize, &shape)
    })
}

/// Appends the softmax over all axes from `axis` on, by merging them into one.
fn flat_softmax(g: &mut Graph, v: Val, axis: usize, shape: &[Size]) -> Val {
    let width = shape[axis..]
        .iter()
        .fold(Size::fixed(1), |all, size| g.symbols.mul(&all, size));
    let flat = g.reshape(v, &[&shape[..axis], &[width]].concat());
    let weights = last_axis_softmax(g, flat);
    g.reshape(weights, shape)
}

/// Appends the softmax over the last axis.
fn last_axis_softmax(g: &mut Graph, v: Val) -> Val {
    g.op_with("Softmax", &[v], vec![int("axis", -1)])
}
