//! Cumulative sums and products.

use super::operator::{Operator, TangentResult};
use crate::error::Refusal;
use crate::graph::Val;
use crate::graph::emit::int;
use crate::inference;
use crate::jvp_context::{JvpContext, Tangent};
use crate::transpose_context::{Cotangents, TransposeContext};

/// The declarations of `CumProd` and `CumSum`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("CumProd")
        .same_shape()
        .tangent(cum_prod_tangent)
        .smooth(),
    Operator::new("CumSum")
        .same_shape()
        .tangent(cum_sum_tangent)
        .transpose(cum_sum_cotangent)
        .smooth(),
];

fn cum_sum_tangent(s: &mut JvpContext) -> TangentResult {
    let d = s.dx()?;
    let rank = s.rank(0)?;
    let axis = s.known(1)?.first().copied().ok_or("its axis is missing")?;
    let axis = inference::axis_of(axis, rank).ok_or("its axis does not fit its input")?;
    let axis = s.g.integer(axis as i64 + 1);
    let attributes = ["exclusive", "reverse"].map(|name| int(name, s.node.int(name, 0)));
    Ok(Some(Tangent::plain(s.g.op_with(
        "CumSum",
        &[d, axis],
        attributes.to_vec(),
    ))))
}

fn cum_sum_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (c, axis) = (t.c()?, t.input(1)?);
    let attributes = vec![
        int("exclusive", t.node.int("exclusive", 0)),
        int("reverse", i64::from(t.node.int("reverse", 0) == 0)),
    ];
    Ok(vec![(0, t.g.op_with("CumSum", &[c, axis], attributes))])
}

/// Appends a cumulative sum or product of a value with the node's attributes.
fn running(s: &mut JvpContext, op: &str, v: Val, axis: usize) -> Val {
    let axis = s.g.integer(axis as i64);
    let attributes = ["exclusive", "reverse"].map(|name| int(name, s.node.int(name, 0)));
    s.g.op_with(op, &[v, axis], attributes.to_vec())
}

/// Returns the tangent of a cumulative product. Let `s` be the factors, with 1 in place of each
/// zero. If no factor so far is zero, the tangent is `y Σ d / s`. If one is, it is the product of
/// the others times the `d` of that factor. If several are, it is zero.
fn cum_prod_tangent(s: &mut JvpContext) -> TangentResult {
    let (x, d, rank) = (s.x(0)?, s.dx()?, s.rank(0)?);
    let axis = s
        .known(1)?
        .first()
        .and_then(|axis| inference::axis_of(*axis, rank))
        .ok_or("its axis does not fit its input")?;
    let elem = s.g.elem(x);
    let (zero, one) = (s.g.real(0.0, elem), s.g.real(1.0, elem));
    let is_zero = s.g.op("Equal", &[x, zero]);
    let safe = s.g.op("Where", &[is_zero, one, x]);
    let mine = s.g.cast(is_zero, elem);
    let product = running(s, "CumProd", safe, axis);
    let zeros = running(s, "CumSum", mine, axis);
    let mut total = None;
    for (count, weight) in [(zero, s.g.op("Reciprocal", &[safe])), (one, mine)] {
        let weighted = s.g.mul(d, weight);
        let sum = running(s, "CumSum", weighted, axis + 1);
        let here = s.g.op("Equal", &[zeros, count]);
        let factor = s.g.op("Where", &[here, product, zero]);
        let part = Some(Tangent {
            base: sum,
            factor: Some(factor),
        });
        total = s.sum(total, part);
    }
    Ok(total)
}
