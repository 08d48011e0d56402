//! Broadcasting.

use super::operator::{Operator, TangentResult};
use crate::content;
use crate::content::{Content, count};
use crate::error::Refusal;
use crate::folding::{lengths, source};
use crate::graph::{Graph, Node, Shape};
use crate::inference::{broadcast, sizes};
use crate::jvp_context::JvpContext;
use crate::transpose_context::{Cotangents, TransposeContext};

pub const OPERATORS: &[Operator] = &[Operator::new("Expand")
    .shape(expand_shape)
    .content(expand_content)
    .tangent(expand_tangent)
    .transpose(expand_cotangent)
    .smooth_in(&[0])];

fn expand_content(_: &mut Graph, _: &Node, inputs: &[Content]) -> Option<Content> {
    let dims = content::broadcast(&inputs[0].dims, &lengths(inputs.get(1)?)?)?;
    let item = |i| inputs[0].items[source(i, &dims, &inputs[0].dims)].clone();
    Some(Content {
        items: (0..count(&dims)?).map(item).collect(),
        dims,
    })
}

fn expand_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?.clone();
    let target = sizes(g, node.input(1)?)?;
    Some(broadcast(g, &shape, &target))
}

fn expand_tangent(s: &mut JvpContext) -> TangentResult {
    let d = s
        .aligned(0)?
        .ok_or("its shape depends on the differentiated input")?;
    s.done(d)
}

fn expand_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let c = t.c()?;
    Ok(vec![(0, t.unbroadcast(c, 0)?)])
}
