//! `Trilu`: one triangle of matrices.

use super::operator::{Operator, TangentResult};
use crate::error::Refusal;
use crate::jvp_context::{JvpContext, Tangent};
use crate::transpose_context::{Cotangents, TransposeContext};

/// The declaration of `Trilu`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("Trilu")
    .same_shape()
    .tangent(trilu_tangent)
    .transpose(trilu_cotangent)
    .smooth()];

fn trilu_tangent(s: &mut JvpContext) -> TangentResult {
    let d = s.dx()?;
    let inputs = [Some(d), s.node.input(1)];
    let used = if s.node.input(1).is_some() { 2 } else { 1 };
    let attributes = s.node.attributes.clone();
    Ok(Some(Tangent::plain(s.g.op_optional(
        "Trilu",
        &inputs[..used],
        attributes,
    ))))
}

fn trilu_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let mut inputs = t.node.inputs.clone();
    inputs[0] = Some(t.c()?);
    let attributes = t.node.attributes.clone();
    Ok(vec![(0, t.g.op_optional("Trilu", &inputs, attributes))])
}
