//! `Softmax`, `LogSoftmax` and `Hardmax`.

use super::operator::{Operator, TangentResult};
use crate::graph::SoftmaxTangent;
use crate::jvp_context::{JvpContext, Tangent};

/// The declarations of `Hardmax`, `LogSoftmax` and `Softmax`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Hardmax").same_shape().constant(),
    Operator::new("LogSoftmax")
        .same_shape()
        .tangent(log_softmax_tangent)
        .smooth(),
    Operator::new("Softmax")
        .same_shape()
        .tangent(softmax_tangent)
        .smooth(),
];

/// Returns `y (d - Σ y d)`.
fn softmax_tangent(s: &mut JvpContext) -> TangentResult {
    let Some(tangent) = s.lazy(0) else {
        return Err("only its first input may depend on the differentiated input".into());
    };
    let (d, y) = (s.materialize(tangent), s.y()?);
    let axis = s.axis("axis", -1, s.rank(0)?)?;
    let weight = match tangent.factor {
        Some(factor) => s.g.mul(y, factor),
        None => y,
    };
    let weighted = s.g.mul(tangent.base, weight);
    let sums = s.g.reduce("ReduceSum", weighted, &[axis as i64 + 1], true);
    let base = s.g.sub(d, sums);
    s.g.softmax_tangents.insert(
        base,
        SoftmaxTangent {
            y,
            axis,
            weighted,
            sums,
        },
    );
    Ok(Some(Tangent {
        base,
        factor: Some(y),
    }))
}

/// Returns `d - Σ exp(y) d`.
fn log_softmax_tangent(s: &mut JvpContext) -> TangentResult {
    let (d, y) = (s.dx()?, s.y()?);
    let axis = s.axis("axis", -1, s.rank(0)?)? as i64 + 1;
    let probability = s.g.op("Exp", &[y]);
    let weighted = s.g.mul(d, probability);
    let mean = s.g.reduce("ReduceSum", weighted, &[axis], true);
    Ok(Some(Tangent::plain(s.g.sub(d, mean))))
}
