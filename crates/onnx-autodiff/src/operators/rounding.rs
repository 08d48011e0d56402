//! Rounding, signs and remainders.

use super::arithmetic::broadcast_tangent;
use super::operator::{Operator, TangentResult};
use crate::folding::{binary, unary};
use crate::inference::broadcast_all;
use crate::jvp_context::JvpContext;

/// The declarations of `Ceil`, `Floor`, `Mod`, `Round` and `Sign`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Ceil").same_shape().content(unary).constant(),
    Operator::new("Floor")
        .same_shape()
        .content(unary)
        .constant(),
    Operator::new("Mod")
        .kinked()
        .shape(broadcast_all)
        .content(binary)
        .tangent(mod_tangent),
    Operator::new("Round")
        .same_shape()
        .content(unary)
        .constant(),
    Operator::new("Sign").same_shape().constant(),
];

/// Returns the tangent of `a - n b` with an integer n.
fn mod_tangent(s: &mut JvpContext) -> TangentResult {
    let (a, b, y) = (s.x(0)?, s.x(1)?, s.y()?);
    let left = broadcast_tangent(s, 0)?;
    if s.lazy(1).is_none() {
        return Ok(left);
    }
    let whole = s.g.sub(y, a);
    let ratio = s.g.div(whole, b);
    let slope = s.g.op("Round", &[ratio]);
    let right = s.times(1, slope)?;
    Ok(s.sum(left, right))
}
