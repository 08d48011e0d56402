//! `SwiGLU`: a gated activation.

use super::operator::{DecompositionResult, Operator};
use crate::jvp_context::JvpContext;

/// The declaration of `SwiGLU`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("SwiGLU")
    .same_shape()
    .decomposition(swiglu)
    .smooth()];

/// Appends `a sigmoid(α a) b`.
fn swiglu(s: &mut JvpContext) -> DecompositionResult {
    let (a, b) = (s.x(0)?, s.x(1)?);
    let scaled = s.g.scale(a, s.node.float("alpha", 1.0));
    let open = s.g.op("Sigmoid", &[scaled]);
    let gate = s.g.mul(a, open);
    Ok(vec![Some(s.g.mul(gate, b))])
}
