//! `Where`: a choice between two tensors, element by element.

use super::operator::{Operator, TangentResult, second_input};
use crate::content::{Content, Item, broadcast_dims, followed_count};
use crate::error::Refusal;
use crate::folding::broadcast_source;
use crate::graph::{Graph, Node};
use crate::inference::broadcast_all;
use crate::jvp_context::JvpContext;
use crate::transpose_context::{Cotangents, Mask, TransposeContext};

/// The declaration of `Where`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("Where")
    .element(second_input)
    .shape(broadcast_all)
    .content(where_content)
    .tangent(where_tangent)
    .transpose(where_cotangent)
    .smooth_in(&[1, 2])
    .elementwise()];

fn where_content(_: &mut Graph, _: &Node, inputs: &[Content]) -> Option<Content> {
    let [condition, yes, no] = inputs else {
        return None;
    };
    let dims = broadcast_dims(&broadcast_dims(&condition.dims, &yes.dims)?, &no.dims)?;
    let pick =
        |i: usize| match condition.items[broadcast_source(i, &dims, &condition.dims)].as_fixed() {
            Some(0) => no.items[broadcast_source(i, &dims, &no.dims)].clone(),
            Some(_) => yes.items[broadcast_source(i, &dims, &yes.dims)].clone(),
            None => Item::Unknown,
        };
    Some(Content {
        items: (0..followed_count(&dims)?).map(pick).collect(),
        dims,
    })
}

fn where_tangent(s: &mut JvpContext) -> TangentResult {
    let condition = s.node.input(0).ok_or("its condition is missing")?;
    let (yes, no) = (s.aligned(1)?, s.aligned(2)?);
    let Some(like) = yes.or(no) else {
        return Ok(None);
    };
    let zero = s.g.real_like(0.0, like);
    let chosen = s.g.op(
        "Where",
        &[condition, yes.unwrap_or(zero), no.unwrap_or(zero)],
    );
    s.finish(chosen)
}

fn where_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (c, condition) = (t.c()?, t.input(0)?);
    let mut parts = Vec::new();
    for index in (1..3)
        .filter(|index| t.is_linear(*index))
        .collect::<Vec<_>>()
    {
        let mask = Mask {
            condition,
            chosen: index == 1,
        };
        let chosen = t.chosen(condition, mask.chosen, c);
        t.put_mask(chosen, mask);
        parts.push((index, t.unbroadcast(chosen, index)?));
    }
    Ok(parts)
}
