//! `Max` and `Min` of several tensors, element by element.

use super::operator::{Operator, TangentResult};
use crate::folding::binary;
use crate::inference::broadcast_all;
use crate::jvp_context::JvpContext;

/// The declarations of `Max` and `Min`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Max")
        .kinked()
        .shape(broadcast_all)
        .content(binary)
        .tangent(extremum_tangent)
        .elementwise(),
    Operator::new("Min")
        .kinked()
        .shape(broadcast_all)
        .content(binary)
        .tangent(extremum_tangent)
        .elementwise(),
];

/// Returns the mean of the tangents of the operands that equal the result.
fn extremum_tangent(s: &mut JvpContext) -> TangentResult {
    let y = s.y()?;
    let mut hits = Vec::new();
    for index in 0..s.node.inputs.len() {
        let x = s.x(index)?;
        let hit = s.g.op("Equal", &[x, y]);
        hits.push(s.g.cast(hit, s.g.elem(y)));
    }
    let count = s.g.combine("Add", &hits);
    let mut total = None;
    for (index, hit) in hits.into_iter().enumerate() {
        let weight = s.g.div(hit, count);
        let part = s.times(index, weight)?;
        total = s.sum(total, part);
    }
    Ok(total)
}
