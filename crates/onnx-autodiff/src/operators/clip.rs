//! `Clip`: numbers between two bounds.

use super::operator::{DerivativeResult, Operator};
use crate::jvp_context::JvpContext;

/// The declaration of `Clip`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("Clip")
    .kinked()
    .same_shape()
    .derivative(clip_derivative)];

/// Returns 1 between the bounds and 0 beyond them. A bound may be absent, and may be a tensor.
fn clip_derivative(s: &mut JvpContext) -> DerivativeResult {
    s.only(&[0], "clip with constant bounds, or use Max and Min")?;
    let x = s.x(0)?;
    let mut factor = None;
    for (place, op) in [(1, "GreaterOrEqual"), (2, "LessOrEqual")] {
        if s.node.input(place).is_some() {
            let bound = s.x(place)?;
            let mask = s.g.op(op, &[x, bound]);
            let mask = s.g.cast(mask, s.g.elem(x));
            factor = Some(factor.map_or(mask, |f| s.g.mul(f, mask)));
        }
    }
    Ok(factor.unwrap_or_else(|| s.g.real_like(1.0, x)))
}
