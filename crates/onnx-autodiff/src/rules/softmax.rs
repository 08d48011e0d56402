//! Softmax and its logarithm.

use super::Rule;
use crate::error::Refusal;
use crate::ir::Centred;
use crate::step::{Step, Tangent};

pub const RULES: &[(&str, Rule)] = &[("LogSoftmax", Rule::Single(log_softmax)), ("Softmax", Rule::Single(softmax))];

type Output = Result<Option<Tangent>, Refusal>;

/// `y (d - Σ y d)`
fn softmax(s: &mut Step) -> Output {
    let Some(tangent) = s.lazy(0) else {
        return Err("only its first input may depend on the differentiated input".into());
    };
    let (d, y) = (s.whole(tangent), s.y()?);
    let axis = s.axis("axis", -1, s.rank(0)?)?;
    let weight = match tangent.factor {
        Some(factor) => s.g.mul(y, factor),
        None => y,
    };
    let weighted = s.g.mul(tangent.base, weight);
    let sums = s.g.reduce("ReduceSum", weighted, &[axis as i64 + 1], true);
    let base = s.g.sub(d, sums);
    s.g.centred.insert(base, Centred { y, axis, weighted, sums });
    Ok(Some(Tangent { base, factor: Some(y) }))
}

/// `d - Σ exp(y) d`
fn log_softmax(s: &mut Step) -> Output {
    let (d, y) = (s.dx()?, s.y()?);
    let axis = s.axis("axis", -1, s.rank(0)?)? as i64 + 1;
    let probability = s.g.op("Exp", &[y]);
    let weighted = s.g.mul(d, probability);
    let mean = s.g.reduce("ReduceSum", weighted, &[axis], true);
    Ok(Some(Tangent::plain(s.g.sub(d, mean))))
}
