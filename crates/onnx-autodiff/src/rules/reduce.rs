//! Reductions along axes, and running sums.

use super::Rule;
use crate::emit::int;
use crate::error::Refusal;
use crate::ir::Val;
use crate::shapes;
use crate::step::{Step, Tangent};

pub const RULES: &[(&str, Rule)] = &[
    ("CumSum", Rule::Single(running_sum)),
    ("ReduceL1", Rule::Single(l1)),
    ("ReduceL2", Rule::Single(l2)),
    ("ReduceLogSum", Rule::Single(log_sum)),
    ("ReduceLogSumExp", Rule::Single(log_sum_exp)),
    ("ReduceMax", Rule::Single(extremum)),
    ("ReduceMean", Rule::Single(linear)),
    ("ReduceMin", Rule::Single(extremum)),
    ("ReduceProd", Rule::Single(product)),
    ("ReduceSum", Rule::Single(linear)),
    ("ReduceSumSquare", Rule::Single(sum_square)),
];

type Output = Result<Option<Tangent>, Refusal>;

/// The reduced axes of the primal; none where the operator does nothing.
fn axes(s: &Step) -> Result<Vec<i64>, Refusal> {
    let rank = s.rank(0)?;
    let given = shapes::axes(s.g, &s.node, rank).ok_or("its axes are computed at run time, or do not fit its input")?;
    let axes = match given {
        Some(axes) if !axes.is_empty() => axes,
        _ if s.node.int("noop_with_empty_axes", 0) != 0 => Vec::new(),
        _ => (0..rank).collect(),
    };
    Ok(axes.into_iter().map(|axis| axis as i64).collect())
}

/// Sums `d` over the reduced axes into the output's shape.
fn collect(s: &mut Step, op: &str, d: Val) -> Output {
    let axes: Vec<i64> = axes(s)?.iter().map(|axis| axis + 1).collect();
    let keep = s.node.int("keepdims", 1) != 0;
    Ok(Some(Tangent::plain(s.g.reduce(op, d, &axes, keep))))
}

/// A value of the output's shape, with the reduced axes kept.
fn kept(s: &mut Step, v: Val) -> Result<Val, Refusal> {
    if s.node.int("keepdims", 1) != 0 {
        return Ok(v);
    }
    let axes = axes(s)?;
    Ok(s.g.unsqueeze(v, &axes))
}

fn linear(s: &mut Step) -> Output {
    let d = s.dx()?;
    let op = s.node.op.clone();
    match axes_at_run_time(s) {
        Some(axes) => summed_at_run_time(s, d, axes),
        None => collect(s, &op, d),
    }
}

/// The axes of a sum that only the run tells, as reverse mode writes it for operands that may have been broadcast: an
/// empty list sums nothing, and every axis is kept.
fn axes_at_run_time(s: &Step) -> Option<Val> {
    let axes = s.node.input(1).filter(|_| s.node.op == "ReduceSum")?;
    let known = s.g.content(axes).and_then(|c| c.fixed()).is_some();
    let plain = s.node.int("keepdims", 1) != 0 && s.node.int("noop_with_empty_axes", 0) != 0;
    (plain && !known).then_some(axes)
}

/// Axes from the front are one further behind in tangents.
fn summed_at_run_time(s: &mut Step, d: Val, axes: Val) -> Output {
    let (zero, one) = (s.g.integer(0), s.g.integer(1));
    let behind = s.g.op("Less", &[axes, zero]);
    let next = s.g.add(axes, one);
    let axes = s.g.op("Where", &[behind, axes, next]);
    let sum = s.g.op_with("ReduceSum", &[d, axes], s.node.attributes.clone());
    let shape = s.lead(&s.y_shape()?);
    s.g.set_shape(sum, &shape);
    Ok(Some(Tangent::plain(sum)))
}

/// `Σ d · weight`, and then a factor of the output's size.
fn weighted(s: &mut Step, weight: Val, factor: Option<Val>) -> Output {
    let d = s.dx()?;
    let product = s.g.mul(d, weight);
    let sum = collect(s, "ReduceSum", product)?;
    Ok(sum.map(|sum| Tangent { base: sum.base, factor }))
}

fn l1(s: &mut Step) -> Output {
    let x = s.x(0)?;
    let sign = s.g.op("Sign", &[x]);
    weighted(s, sign, None)
}

/// At the origin, where the norm has a kink, its tangent is 0.
fn l2(s: &mut Step) -> Output {
    let (x, y) = (s.x(0)?, s.y()?);
    let inverse = s.inverse_or_zero(y);
    weighted(s, x, Some(inverse))
}

fn sum_square(s: &mut Step) -> Output {
    let x = s.x(0)?;
    let double = s.g.scale(x, 2.0);
    weighted(s, double, None)
}

fn log_sum(s: &mut Step) -> Output {
    let (d, y) = (s.dx()?, s.y()?);
    let sum = collect(s, "ReduceSum", d)?;
    let minus = s.g.neg(y);
    let inverse = s.g.op("Exp", &[minus]);
    Ok(sum.map(|sum| Tangent { base: sum.base, factor: Some(inverse) }))
}

fn log_sum_exp(s: &mut Step) -> Output {
    let (x, y) = (s.x(0)?, s.y()?);
    let y = kept(s, y)?;
    let below = s.g.sub(x, y);
    let weight = s.g.op("Exp", &[below]);
    weighted(s, weight, None)
}

/// Where several elements are extremal they share the tangent.
fn extremum(s: &mut Step) -> Output {
    let (x, y) = (s.x(0)?, s.y()?);
    let y = kept(s, y)?;
    let hit = s.g.op("Equal", &[x, y]);
    let mask = s.g.cast(hit, s.g.elem(x));
    let axes = axes(s)?;
    let count = s.g.reduce("ReduceSum", mask, &axes, true);
    let weight = s.g.div(mask, count);
    weighted(s, weight, None)
}

/// `Σ d_i ∏ x_j` over j other than i: the product of what is not zero, divided by the element itself, counts where all
/// others are not zero.
fn product(s: &mut Step) -> Output {
    let x = s.x(0)?;
    let (axes, elem) = (axes(s)?, s.g.elem(x));
    let (zero, one) = (s.g.real(0.0, elem), s.g.real(1.0, elem));
    let is_zero = s.g.op("Equal", &[x, zero]);
    let safe = s.g.op("Where", &[is_zero, one, x]);
    let all = s.g.reduce("ReduceProd", safe, &axes, true);
    let others = s.g.div(all, safe);
    let mine = s.g.cast(is_zero, elem);
    let zeros = s.g.reduce("ReduceSum", mine, &axes, true);
    let alone = s.g.op("Equal", &[zeros, mine]);
    let weight = s.g.op("Where", &[alone, others, zero]);
    weighted(s, weight, None)
}

fn running_sum(s: &mut Step) -> Output {
    let d = s.dx()?;
    let rank = s.rank(0)?;
    let axis = s.known(1)?.first().copied().ok_or("its axis is missing")?;
    let axis = shapes::axis_of(axis, rank).ok_or("its axis does not fit its input")?;
    let axis = s.g.integer(axis as i64 + 1);
    let attributes = ["exclusive", "reverse"].map(|name| int(name, s.node.int(name, 0)));
    Ok(Some(Tangent::plain(s.g.op_with("CumSum", &[d, axis], attributes.to_vec()))))
}
