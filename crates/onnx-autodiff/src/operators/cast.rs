//! Casts: the same numbers in another type.

use super::operator::{Operator, TangentResult, second_input};
use crate::content::{Content, Item};
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::folding::{integer_item, map};
use crate::graph::{Graph, Node};
use crate::jvp_context::{JvpContext, Tangent};
use crate::transpose_context::{Cotangents, TransposeContext};

/// The declarations of `BitCast`, `Cast` and `CastLike`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("BitCast")
        .element(cast_element)
        .same_shape()
        .constant(),
    Operator::new("Cast")
        .names_type()
        .element(cast_element)
        .same_shape()
        .content(cast_content)
        .tangent(cast_tangent)
        .transpose(cast_cotangent)
        .smooth_between_floats()
        .same_order(),
    Operator::new("CastLike")
        .element(second_input)
        .same_shape()
        .tangent(cast_tangent)
        .smooth_between_floats(),
];

fn cast_element(_: &Graph, node: &Node) -> ElemType {
    ElemType(node.int("to", 0) as i32)
}

fn cast_content(_: &mut Graph, node: &Node, inputs: &[Content]) -> Option<Content> {
    let to = ElemType(node.int("to", 0) as i32);
    Some(map(&inputs[0], |item| match item {
        Item::Int(size) if to.is_float() => size
            .as_fixed()
            .map_or_else(|| item.clone(), |n| Item::Real(n as f64)),
        Item::Int(size) if to == ElemType::BOOL => size
            .as_fixed()
            .map_or(Item::Unknown, |n| Item::fixed(i64::from(n != 0))),
        Item::Real(x) if to.is_integer() => integer_item(x.trunc()),
        Item::Real(x) if to == ElemType::BOOL => Item::fixed(i64::from(*x != 0.0)),
        _ => item.clone(),
    }))
}

fn cast_tangent(s: &mut JvpContext) -> TangentResult {
    let to = s.node.output(0).map_or(ElemType::UNKNOWN, |v| s.g.elem(v));
    if to == ElemType::UNKNOWN || to.is_quantized() {
        return Err(format!(
            "a cast to {to} is not differentiated; export the model without quantization"
        )
        .into());
    }
    let Some(tangent) = s.lazy(0).filter(|_| to.is_float()) else {
        return Ok(None);
    };
    if s.g.elem(tangent.base) == to.tangent() {
        return Ok(Some(tangent));
    }
    let whole = s.materialize(tangent);
    Ok(Some(Tangent::plain(s.g.cast(whole, to.tangent()))))
}

fn cast_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (c, x) = (t.c()?, t.input(0)?);
    let cast = t.g.cast(c, t.g.elem(x));
    t.pass_mask(c, cast);
    Ok(vec![(0, cast)])
}
