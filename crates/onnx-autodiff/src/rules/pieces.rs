//! What rules write that say what an operator consists of.

use crate::elem::ElemType;
use crate::emit::int;
use crate::error::Refusal;
use crate::ir::{Graph, Val};
use crate::size::Size;
use crate::step::Step;

/// The outputs of an operator, as others make them.
pub type Made = Result<Vec<Option<Val>>, Refusal>;

/// The part of a value from `start` to `end` along an axis.
pub fn cut(g: &mut Graph, v: Val, axis: usize, start: i64, end: i64) -> Val {
    let [start, end, axis] = [start, end, axis as i64].map(|n| g.integers(&[n]));
    g.op("Slice", &[v, start, end, axis])
}

/// One place along the first axis, which goes.
pub fn at(g: &mut Graph, v: Val, place: i64) -> Val {
    let place = g.integer(place);
    g.op_with("Gather", &[v, place], vec![int("axis", 0)])
}

/// A value in equal parts along an axis.
pub fn equal_parts(g: &mut Graph, v: Val, axis: usize, count: usize, length: i64) -> Vec<Val> {
    if count == 1 {
        return vec![v];
    }
    let lengths = g.integers(&vec![length; count]);
    g.push("Split", &[Some(v), Some(lengths)], vec![int("axis", axis as i64)], count)
}

/// A size as a number of a floating-point type, or as an integer.
pub fn number(g: &mut Graph, size: &Size, elem: ElemType) -> Val {
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

/// `[0, 1, …, n - 1]`
pub fn counted(g: &mut Graph, n: &Size) -> Val {
    let (zero, length, one) = (g.integer(0), number(g, n, ElemType::INT64), g.integer(1));
    let counted = g.op("Range", &[zero, length, one]);
    g.set_shape(counted, std::slice::from_ref(n));
    counted
}

/// A value between two others.
pub fn clipped(g: &mut Graph, v: Val, low: Val, high: Val) -> Val {
    g.op("Clip", &[v, low, high])
}

/// Values joined along a new first axis.
pub fn stacked(g: &mut Graph, parts: &[Val]) -> Val {
    let parts: Vec<Val> = parts.iter().map(|v| g.unsqueeze(*v, &[0])).collect();
    g.concat(&parts, 0)
}

/// The sum over the first axis.
pub fn total(g: &mut Graph, v: Val) -> Val {
    g.reduce("ReduceSum", v, &[0], false)
}

/// An output whose shape is the one that the node's has.
pub fn finished(s: &mut Step, v: Val) -> Made {
    let shape = s.y_shape()?;
    if s.g.rank(v) == Some(shape.len()) {
        s.g.set_shape(v, &shape);
    }
    Ok(vec![Some(v)])
}
