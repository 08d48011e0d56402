//! Helpers that several operators share.

use super::operator::Lowered;
use super::operator::{DecompositionResult, TangentResult};
use crate::elem::ElemType;
use crate::graph::emit::int;
use crate::graph::{Graph, Node, Shape, Val};
use crate::jvp_context::JvpContext;
use crate::size::Size;
use crate::transpose_context::{CONTRADICTION, TransposeContext};

/// Returns the inferred shape of a node's first output.
pub(super) fn output_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    g.operators.infer(g, node, 1).into_iter().next()?.1
}

/// Appends `c - v`.
pub(super) fn from(s: &mut JvpContext, c: f64, v: Val) -> Val {
    let c = s.g.real_like(c, v);
    s.g.sub(c, v)
}

/// Appends `v²`.
pub(super) fn square(s: &mut JvpContext, v: Val) -> Val {
    s.g.mul(v, v)
}

/// Appends the slice of a value from `start` up to `end` along an axis.
pub(super) fn cut(g: &mut Graph, v: Val, axis: usize, start: i64, end: i64) -> Val {
    let [start, end, axis] = [start, end, axis as i64].map(|n| g.integers(&[n]));
    g.op("Slice", &[v, start, end, axis])
}

/// Appends the slice at an index of the first axis, without that axis.
pub(super) fn at(g: &mut Graph, v: Val, index: i64) -> Val {
    let index = g.integer(index);
    g.op_with("Gather", &[v, index], vec![int("axis", 0)])
}

/// Splits a value into `count` parts of the size `length` along an axis.
pub(super) fn equal_parts(
    g: &mut Graph,
    v: Val,
    axis: usize,
    count: usize,
    length: i64,
) -> Vec<Val> {
    if count == 1 {
        return vec![v];
    }
    let lengths = g.integers(&vec![length; count]);
    g.push(
        "Split",
        &[Some(v), Some(lengths)],
        vec![int("axis", axis as i64)],
        count,
    )
}

/// Appends a size without axes: as a number of the type `elem`, or as an int64.
pub(super) fn size_value(g: &mut Graph, size: &Size, elem: ElemType) -> Val {
    match size.as_fixed() {
        Some(n) if elem.is_float() => g.real(n as f64, elem),
        Some(n) => g.integer(n),
        None => {
            let list = g.sizes(std::slice::from_ref(size));
            let one = g.squeeze(list, &[0]);
            g.cast(one, elem)
        }
    }
}

/// Appends `[0, 1, …, n - 1]`.
pub(super) fn range_to(g: &mut Graph, n: &Size) -> Val {
    let (zero, length, one) = (
        g.integer(0),
        size_value(g, n, ElemType::INT64),
        g.integer(1),
    );
    let counted = g.op("Range", &[zero, length, one]);
    g.set_shape(counted, std::slice::from_ref(n));
    counted
}

/// Appends a value, clipped to the range between `low` and `high`.
pub(super) fn clipped(g: &mut Graph, v: Val, low: Val, high: Val) -> Val {
    g.op("Clip", &[v, low, high])
}

/// Concatenates values along a new first axis.
pub(super) fn stacked(g: &mut Graph, parts: &[Val]) -> Val {
    let parts: Vec<Val> = parts.iter().map(|v| g.unsqueeze(*v, &[0])).collect();
    g.concat(&parts, 0)
}

/// Appends the sum over the first axis.
pub(super) fn total(g: &mut Graph, v: Val) -> Val {
    g.reduce("ReduceSum", v, &[0], false)
}

/// Returns `v` as the only output of a decomposition, with the shape of the node's output.
pub(super) fn finished(s: &mut JvpContext, v: Val) -> DecompositionResult {
    let shape = s.y_shape()?;
    if s.g.rank(v) == Some(shape.len()) {
        s.g.set_shape(v, &shape);
    }
    Ok(vec![Some(v)])
}

/// Returns the shape of an output whose directions are merged into the batch.
pub(super) fn merged(s: &mut JvpContext, shape: &[Size]) -> Vec<Size> {
    let batch = s.g.symbols.mul(&s.k, &shape[0]);
    std::iter::once(batch)
        .chain(shape[1..].iter().cloned())
        .collect()
}

/// Returns the tangent of a linear operator: the operator itself, applied with the directions
/// merged into the batch.
pub(super) fn folded_tangent(s: &mut JvpContext) -> TangentResult {
    let d = s.dx()?;
    let (shape, y) = (s.x_shape(0)?, s.y_shape()?);
    if shape.len() != y.len() || shape.len() < 2 {
        return Err(CONTRADICTION.into());
    }
    let d = s.merge_directions(d, &shape)?;
    let op = s.node.op.clone();
    let attributes = s.node.attributes.clone();
    let result = s.g.op_with(&op, &[d], attributes);
    let known = merged(s, &y);
    s.g.set_shape(result, &known);
    s.split_directions(result)
}

/// Appends pairs of indices, which lie along a new last axis.
pub(super) fn pairs(g: &mut Graph, first: Val, second: Val, shape: &[Size]) -> Val {
    let parts = [first, second].map(|v| {
        let whole = g.expand(v, shape);
        g.unsqueeze(whole, &[2])
    });
    g.concat(&parts, 2)
}

/// Appends `[0, 1, …, n - 1]`.
pub(super) fn index_range(t: &mut TransposeContext, n: &Size) -> Val {
    let (zero, one) = (t.g.integer(0), t.g.integer(1));
    let length = t.g.sizes(std::slice::from_ref(n));
    let length = t.g.squeeze(length, &[0]);
    let indices = t.g.op("Range", &[zero, length, one]);
    t.g.set_shape(indices, std::slice::from_ref(n));
    indices
}

/// Appends a polynomial in float64 by Horner's rule. The highest power comes first.
pub(super) fn polynomial(g: &mut Graph, x: Val, coefficients: &[f64]) -> Val {
    let (first, rest) = coefficients.split_first().unwrap_or((&0.0, &[]));
    let mut sum = g.real(*first, ElemType::DOUBLE);
    for coefficient in rest {
        let product = g.mul(sum, x);
        sum = g.shift(product, *coefficient);
    }
    sum
}

/// Appends `yes` for elements of `x` that are greater than `bound`, and `no` for the others.
pub(super) fn where_greater(g: &mut Graph, x: Val, bound: f64, yes: Val, no: Val) -> Val {
    let bound = g.real(bound, ElemType::DOUBLE);
    let greater = g.op("Greater", &[x, bound]);
    g.op("Where", &[greater, yes, no])
}

/// Appends `min(x, bound)`. Its derivative is zero beyond the bound.
pub(super) fn at_most(g: &mut Graph, x: Val, bound: f64) -> Val {
    let bound = g.real(bound, ElemType::DOUBLE);
    g.op("Min", &[x, bound])
}

/// Appends `max(x, bound)`. Its derivative is zero below the bound.
pub(super) fn at_least(g: &mut Graph, x: Val, bound: f64) -> Val {
    let bound = g.real(bound, ElemType::DOUBLE);
    g.op("Max", &[x, bound])
}

/// Returns a replacement with one output.
pub(super) fn one(v: Val) -> Lowered {
    Some(vec![Some(v)])
}

/// Appends a number of the type of `like`.
pub(super) fn number_like(g: &mut Graph, value: f64, like: Val) -> Val {
    let elem = g.elem(like);
    let number = g.real(value, elem);
    g.cast(number, elem)
}

/// Appends a value times a number of its type.
pub(super) fn scaled(g: &mut Graph, v: Val, by: f64) -> Val {
    if by == 1.0 {
        return v;
    }
    let by = number_like(g, by, v);
    g.mul(v, by)
}

/// Appends a value plus a number of its type.
pub(super) fn shifted(g: &mut Graph, v: Val, by: f64) -> Val {
    let by = number_like(g, by, v);
    g.add(v, by)
}

/// Appends the sum of two values, or returns `v` if there is no second one.
pub(super) fn plus(g: &mut Graph, v: Val, more: Option<Val>) -> Val {
    more.map_or(v, |more| g.add(v, more))
}

/// Appends the slice from `start` up to `end` along an axis.
pub(super) fn part(g: &mut Graph, v: Val, axis: i64, start: i64, end: i64) -> Val {
    let [start, end, axis] = [start, end, axis].map(|n| g.integers(&[n]));
    g.op("Slice", &[v, start, end, axis])
}
