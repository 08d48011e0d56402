//! Sums, differences, products, quotients and means, with broadcasting.

use super::activation::swish_slope;
use super::operator::{Operator, TangentResult};
use crate::error::Refusal;
use crate::folding::{binary, unary};
use crate::graph::{Graph, Node, Val};
use crate::inference::broadcast_all;
use crate::jvp_context::{JvpContext, Tangent};
use crate::passes::Pass;
use crate::transpose_context::{Cotangents, TransposeContext};

/// The declarations of this file's operators.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Add")
        .shape(broadcast_all)
        .content(binary)
        .tangent(sum_tangent)
        .transpose(add_cotangent)
        .smooth()
        .elementwise(),
    Operator::new("Div")
        .shape(broadcast_all)
        .content(binary)
        .tangent(div_tangent)
        .smooth()
        .elementwise(),
    Operator::new("Mean")
        .shape(broadcast_all)
        .tangent(mean_tangent)
        .float64(mean_float64)
        .smooth()
        .elementwise(),
    Operator::new("Mul")
        .shape(broadcast_all)
        .content(binary)
        .tangent(mul_tangent)
        .transpose(mul_cotangent)
        .smooth()
        .elementwise(),
    Operator::new("Neg")
        .same_shape()
        .content(unary)
        .tangent(neg_tangent)
        .transpose(neg_cotangent)
        .smooth(),
    Operator::new("Sub")
        .shape(broadcast_all)
        .content(binary)
        .tangent(sub_tangent)
        .transpose(sub_cotangent)
        .smooth()
        .elementwise(),
    Operator::new("Sum")
        .shape(broadcast_all)
        .tangent(sum_tangent)
        .smooth()
        .elementwise(),
];

/// Returns the tangent of an operand, broadcast to the output. If no axis is broadcast, the tangent
/// keeps its factor.
pub(super) fn broadcast_tangent(s: &mut JvpContext, index: usize) -> TangentResult {
    if s.same_shape(index) {
        return Ok(s.lazy(index));
    }
    match s.aligned(index)? {
        Some(d) => s.finish(d),
        None => Ok(None),
    }
}

fn sum_tangent(s: &mut JvpContext) -> TangentResult {
    let mut total: Option<Tangent> = None;
    for index in 0..s.node.inputs.len() {
        let next = match (total, s.same_shape(index)) {
            // `Add` broadcasts by itself.
            (Some(_), false) => s.aligned(index)?.map(Tangent::plain),
            _ => broadcast_tangent(s, index)?,
        };
        total = s.sum(total, next);
    }
    Ok(total)
}

fn mean_tangent(s: &mut JvpContext) -> TangentResult {
    let count = s.node.inputs.len() as f64;
    let Some(total) = sum_tangent(s)? else {
        return Ok(None);
    };
    let total = s.materialize(total);
    Ok(Some(Tangent::plain(s.g.scale(total, 1.0 / count))))
}

fn sub_tangent(s: &mut JvpContext) -> TangentResult {
    let a = broadcast_tangent(s, 0)?;
    let Some(b) = broadcast_tangent(s, 1)? else {
        return Ok(a);
    };
    match a {
        Some(a) if a.base != b.base => {
            let (a, b) = (s.materialize(a), s.materialize(b));
            Ok(Some(Tangent::plain(s.elementwise("Sub", a, b))))
        }
        _ => {
            let minus = s.negative(b);
            // The difference of two equal bases without factors is zero.
            Ok(if a == Some(b) {
                None
            } else {
                minus_of(s, a, b, minus)
            })
        }
    }
}

fn minus_of(s: &mut JvpContext, a: Option<Tangent>, b: Tangent, minus: Tangent) -> Option<Tangent> {
    let Some(a) = a else { return Some(minus) };
    let one = s.g.real_like(1.0, a.base);
    let factor = s.g.sub(a.factor.unwrap_or(one), b.factor.unwrap_or(one));
    Some(Tangent {
        base: a.base,
        factor: Some(factor),
    })
}

fn neg_tangent(s: &mut JvpContext) -> TangentResult {
    Ok(s.lazy(0).map(|tangent| s.negative(tangent)))
}

fn mul_tangent(s: &mut JvpContext) -> TangentResult {
    if let Some((gated, sigmoid)) = gate(s) {
        let slope = swish_slope(s, 1.0, sigmoid)?;
        return s.times(gated, slope);
    }
    let (a, b) = (s.x(0)?, s.x(1)?);
    let left = s.times(0, b)?;
    let right = s.times(1, a)?;
    Ok(s.sum(left, right))
}

/// Returns the operand that the other operand is the sigmoid of, and that sigmoid.
fn gate(s: &mut JvpContext) -> Option<(usize, Val)> {
    let operands = [s.node.input(0)?, s.node.input(1)?];
    let gated = (0..2).find(|index| {
        let maker = s.g.maker(operands[1 - index]);
        maker.is_some_and(|node| {
            node.standard() == "Sigmoid" && node.input(0) == Some(operands[*index])
        })
    })?;
    let sigmoid = s.primal(operands[1 - gated]);
    s.g.passes
        .has(Pass::GatedSlopes)
        .then_some((gated, sigmoid))
}

/// Returns `d(a / b) = da / b - y db / b`.
fn div_tangent(s: &mut JvpContext) -> TangentResult {
    let (b, y) = (s.x(1)?, s.y()?);
    let inverse = match s.g.content(b).and_then(|c| c.reals()) {
        Some(number) if number.len() == 1 && number[0] != 0.0 && s.g.rank(b) == Some(0) => {
            s.g.real_like(1.0 / number[0], b)
        }
        _ => s.g.op("Reciprocal", &[b]),
    };
    let left = s.times(0, inverse)?;
    if s.tangents.get(1).copied().flatten().is_none() {
        return Ok(left);
    }
    let slope = s.g.mul(y, inverse);
    let slope = s.g.neg(slope);
    let right = s.times(1, slope)?;
    Ok(s.sum(left, right))
}

fn neg_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let c = t.c()?;
    let minus = t.g.neg(c);
    t.pass_mask(c, minus);
    Ok(vec![(0, minus)])
}

fn add_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let c = t.c()?;
    let linear: Vec<usize> = (0..2).filter(|index| t.is_linear(*index)).collect();
    linear
        .into_iter()
        .map(|index| Ok((index, t.unbroadcast(c, index)?)))
        .collect()
}

fn sub_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let mut parts = add_cotangent(t)?;
    for (index, part) in &mut parts {
        if *index == 1 {
            let minus = t.g.neg(*part);
            t.pass_mask(*part, minus);
            *part = minus;
        }
    }
    Ok(parts)
}

/// Returns the cotangent of a product in which one operand is linear in the seed and the other is a
/// weight.
fn mul_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let c = t.c()?;
    let index = usize::from(!t.is_linear(0));
    let weight = t.input(1 - index)?;
    let product = t.weighted(c, weight);
    Ok(vec![(index, t.unbroadcast(product, index)?)])
}

fn mean_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let parts: Vec<Val> = node.inputs.iter().flatten().copied().collect();
    if parts.is_empty() {
        return None;
    }
    let sum = g.combine("Add", &parts);
    Some(g.scale(sum, 1.0 / parts.len() as f64))
}
