//! `Expand`: broadcasting to a shape.

use super::operator::{Operator, TangentResult};
use crate::content;
use crate::content::{Content, followed_count};
use crate::error::Refusal;
use crate::folding::{axis_lengths, broadcast_source};
use crate::graph::{Graph, Node, Shape};
use crate::inference::{broadcast_shapes, sizes_held_by};
use crate::jvp_context::JvpContext;
use crate::transpose_context::{Cotangents, TransposeContext};

/// The declaration of `Expand`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("Expand")
    .shape(expand_shape)
    .content(expand_content)
    .tangent(expand_tangent)
    .transpose(expand_cotangent)
    .smooth_in(&[0])];

fn expand_content(_: &mut Graph, _: &Node, inputs: &[Content]) -> Option<Content> {
    let dims = content::broadcast_dims(&inputs[0].dims, &axis_lengths(inputs.get(1)?)?)?;
    let item = |i| inputs[0].items[broadcast_source(i, &dims, &inputs[0].dims)].clone();
    Some(Content {
        items: (0..followed_count(&dims)?).map(item).collect(),
        dims,
    })
}

fn expand_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?.clone();
    let target = sizes_held_by(g, node.input(1)?)?;
    Some(broadcast_shapes(g, &shape, &target))
}

fn expand_tangent(s: &mut JvpContext) -> TangentResult {
    let d = s
        .aligned(0)?
        .ok_or("its shape depends on the differentiated input")?;
    s.finish(d)
}

fn expand_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let c = t.c()?;
    Ok(vec![(0, t.unbroadcast(c, 0)?)])
}
