//! Sums of all elements before each.

use super::operator::{Operator, TangentResult};
use crate::inference;
use crate::graph::emit::int;
use crate::error::Refusal;
use crate::step::{Step, Tangent};
use crate::transposition::{Cotangents, Transposition};

pub const OPERATORS: &[Operator] = &[
    Operator::new("CumSum").same_shape().tangent(cum_sum_tangent).transpose(cum_sum_cotangent).smooth(),
];

fn cum_sum_tangent(s: &mut Step) -> TangentResult {
    let d = s.dx()?;
    let rank = s.rank(0)?;
    let axis = s.known(1)?.first().copied().ok_or("its axis is missing")?;
    let axis = inference::axis_of(axis, rank).ok_or("its axis does not fit its input")?;
    let axis = s.g.integer(axis as i64 + 1);
    let attributes = ["exclusive", "reverse"].map(|name| int(name, s.node.int(name, 0)));
    Ok(Some(Tangent::plain(s.g.op_with("CumSum", &[d, axis], attributes.to_vec()))))
}

fn cum_sum_cotangent(t: &mut Transposition) -> Result<Cotangents, Refusal> {
    let (c, axis) = (t.c()?, t.input(1)?);
    let attributes =
        vec![int("exclusive", t.node.int("exclusive", 0)), int("reverse", i64::from(t.node.int("reverse", 0) == 0))];
    Ok(vec![(0, t.g.op_with("CumSum", &[c, axis], attributes))])
}
