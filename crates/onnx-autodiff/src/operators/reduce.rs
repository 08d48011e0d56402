//! Reductions over axes: sums, means, norms, products and extrema.

use super::operator::{Operator, TangentResult};
use crate::content::{Content, Item};
use crate::error::Refusal;
use crate::graph::{Graph, Node, Shape, Val};
use crate::inference::{self, reduced_shape};
use crate::jvp_context::{JvpContext, Tangent};
use crate::size::Size;
use crate::transpose_context::{Cotangents, TransposeContext};

/// The declarations of this file's operators.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("ReduceL1")
        .kinked()
        .shape(reduce_shape)
        .tangent(reduce_l1_tangent),
    Operator::new("ReduceL2")
        .shape(reduce_shape)
        .tangent(reduce_l2_tangent)
        .smooth(),
    Operator::new("ReduceLogSum")
        .shape(reduce_shape)
        .tangent(log_sum_tangent)
        .smooth(),
    Operator::new("ReduceLogSumExp")
        .shape(reduce_shape)
        .tangent(log_sum_exp_tangent)
        .smooth(),
    Operator::new("ReduceMax")
        .kinked()
        .shape(reduce_shape)
        .content(reduce_content)
        .tangent(reduced_extremum_tangent),
    Operator::new("ReduceMean")
        .shape(reduce_shape)
        .tangent(linear_tangent)
        .transpose(reduce_mean_cotangent)
        .smooth(),
    Operator::new("ReduceMin")
        .kinked()
        .shape(reduce_shape)
        .content(reduce_content)
        .tangent(reduced_extremum_tangent),
    Operator::new("ReduceProd")
        .shape(reduce_shape)
        .content(reduce_content)
        .tangent(product_tangent)
        .smooth(),
    Operator::new("ReduceSum")
        .shape(reduce_shape)
        .content(reduce_content)
        .tangent(linear_tangent)
        .transpose(reduce_sum_cotangent)
        .smooth(),
    Operator::new("ReduceSumSquare")
        .shape(reduce_shape)
        .tangent(sum_square_tangent)
        .smooth(),
];

fn reduce_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?.clone();
    let keep = node.int("keepdims", 1) != 0;
    match inference::known_axes(g, node, shape.len()) {
        Some(Some(axes)) if !axes.is_empty() => reduced_shape(&shape, &axes, keep),
        Some(_) if node.int("noop_with_empty_axes", 0) != 0 => Some(shape),
        Some(_) => reduced_shape(&shape, &(0..shape.len()).collect::<Vec<_>>(), keep),
        None if keep => Some(shape.iter().map(|_| g.symbols.fresh()).collect()),
        None => None,
    }
}

/// Returns the known result of a reduction of a whole list to one number.
fn reduce_content(g: &mut Graph, node: &Node, inputs: &[Content]) -> Option<Content> {
    let (op, content) = (node.op.as_str(), &inputs[0]);
    if content.dims.len() > 1 || content.items.is_empty() {
        return None;
    }
    let mut total = content.items[0].clone();
    for item in &content.items[1..] {
        total = match (op, &total, item) {
            ("ReduceProd", Item::Int(a), Item::Int(b)) => Item::Int(g.symbols.mul(a, b)),
            ("ReduceSum", Item::Int(a), Item::Int(b)) => Item::Int(g.symbols.add(a, b)),
            ("ReduceMax", ..) => total
                .as_fixed()
                .zip(item.as_fixed())
                .map_or(Item::Unknown, |(a, b)| Item::fixed(a.max(b))),
            ("ReduceMin", ..) => total
                .as_fixed()
                .zip(item.as_fixed())
                .map_or(Item::Unknown, |(a, b)| Item::fixed(a.min(b))),
            _ => Item::Unknown,
        };
    }
    let dims = if node.int("keepdims", 1) != 0 {
        vec![1; content.dims.len()]
    } else {
        Vec::new()
    };
    Some(Content {
        dims,
        items: vec![total],
    })
}

/// Returns the reduced axes of the primal. The list is empty if the operator does nothing.
fn reduced_axes(s: &JvpContext) -> Result<Vec<i64>, Refusal> {
    let rank = s.rank(0)?;
    let given = inference::known_axes(s.g, &s.node, rank)
        .ok_or("its axes are computed at run time, or do not fit its input")?;
    let axes = match given {
        Some(axes) if !axes.is_empty() => axes,
        _ if s.node.int("noop_with_empty_axes", 0) != 0 => Vec::new(),
        _ => (0..rank).collect(),
    };
    Ok(axes.into_iter().map(|axis| axis as i64).collect())
}

/// Reduces `d` over the reduced axes to the shape of the output.
fn reduced_tangent(s: &mut JvpContext, op: &str, d: Val) -> TangentResult {
    let axes: Vec<i64> = reduced_axes(s)?.iter().map(|axis| axis + 1).collect();
    let keep = s.node.int("keepdims", 1) != 0;
    Ok(Some(Tangent::plain(s.g.reduce(op, d, &axes, keep))))
}

/// Gives a value of the output's shape the reduced axes, with size 1.
fn with_reduced_axes(s: &mut JvpContext, v: Val) -> Result<Val, Refusal> {
    if s.node.int("keepdims", 1) != 0 {
        return Ok(v);
    }
    let axes = reduced_axes(s)?;
    Ok(s.g.unsqueeze(v, &axes))
}

fn linear_tangent(s: &mut JvpContext) -> TangentResult {
    let d = s.dx()?;
    let op = s.node.op.clone();
    match axes_at_run_time(s) {
        Some(axes) => summed_at_run_time(s, d, axes),
        None => reduced_tangent(s, &op, d),
    }
}

/// Returns the axes of a sum that are known only when the graph runs. Reverse mode writes such sums
/// for operands that may have been broadcast. An empty list then sums over no axis, and every axis
/// is kept.
fn axes_at_run_time(s: &JvpContext) -> Option<Val> {
    let axes = s.node.input(1).filter(|_| s.node.op == "ReduceSum")?;
    let known = s.g.content(axes).and_then(|c| c.fixed()).is_some();
    let plain = s.node.int("keepdims", 1) != 0 && s.node.int("noop_with_empty_axes", 0) != 0;
    (plain && !known).then_some(axes)
}

/// Returns the tangent of a sum over such axes. An axis that is counted from the front is one
/// further behind in tangents.
fn summed_at_run_time(s: &mut JvpContext, d: Val, axes: Val) -> TangentResult {
    let (zero, one) = (s.g.integer(0), s.g.integer(1));
    let behind = s.g.op("Less", &[axes, zero]);
    let next = s.g.add(axes, one);
    let axes = s.g.op("Where", &[behind, axes, next]);
    let sum =
        s.g.op_with("ReduceSum", &[d, axes], s.node.attributes.clone());
    let shape = s.tangent_shape(&s.y_shape()?);
    s.g.set_shape(sum, &shape);
    Ok(Some(Tangent::plain(sum)))
}

/// Returns `Σ d · weight`, times a factor of the output's size if there is one.
fn weighted_sum(s: &mut JvpContext, weight: Val, factor: Option<Val>) -> TangentResult {
    let d = s.dx()?;
    let product = s.g.mul(d, weight);
    let sum = reduced_tangent(s, "ReduceSum", product)?;
    Ok(sum.map(|sum| Tangent {
        base: sum.base,
        factor,
    }))
}

fn reduce_l1_tangent(s: &mut JvpContext) -> TangentResult {
    let x = s.x(0)?;
    let sign = s.g.op("Sign", &[x]);
    weighted_sum(s, sign, None)
}

/// Returns the tangent of the 2-norm. At the origin, where the norm has a kink, the tangent is 0.
fn reduce_l2_tangent(s: &mut JvpContext) -> TangentResult {
    let (x, y) = (s.x(0)?, s.y()?);
    let inverse = s.inverse_or_zero(y);
    weighted_sum(s, x, Some(inverse))
}

fn sum_square_tangent(s: &mut JvpContext) -> TangentResult {
    let x = s.x(0)?;
    let double = s.g.scale(x, 2.0);
    weighted_sum(s, double, None)
}

fn log_sum_tangent(s: &mut JvpContext) -> TangentResult {
    let (d, y) = (s.dx()?, s.y()?);
    let sum = reduced_tangent(s, "ReduceSum", d)?;
    let minus = s.g.neg(y);
    let inverse = s.g.op("Exp", &[minus]);
    Ok(sum.map(|sum| Tangent {
        base: sum.base,
        factor: Some(inverse),
    }))
}

fn log_sum_exp_tangent(s: &mut JvpContext) -> TangentResult {
    let (x, y) = (s.x(0)?, s.y()?);
    let y = with_reduced_axes(s, y)?;
    let below = s.g.sub(x, y);
    let weight = s.g.op("Exp", &[below]);
    weighted_sum(s, weight, None)
}

/// Returns the mean of the tangents of the elements that equal the extremum.
fn reduced_extremum_tangent(s: &mut JvpContext) -> TangentResult {
    let (x, y) = (s.x(0)?, s.y()?);
    let y = with_reduced_axes(s, y)?;
    let hit = s.g.op("Equal", &[x, y]);
    let mask = s.g.cast(hit, s.g.elem(x));
    let axes = reduced_axes(s)?;
    let count = s.g.reduce("ReduceSum", mask, &axes, true);
    let weight = s.g.div(mask, count);
    weighted_sum(s, weight, None)
}

/// Returns `Σ d_i ∏ x_j` over all j other than i. The product without factor i is the product of
/// the factors that are not zero, divided by factor i. It counts only if all other factors are not
/// zero.
fn product_tangent(s: &mut JvpContext) -> TangentResult {
    let x = s.x(0)?;
    let (axes, elem) = (reduced_axes(s)?, s.g.elem(x));
    let (zero, one) = (s.g.real(0.0, elem), s.g.real(1.0, elem));
    let is_zero = s.g.op("Equal", &[x, zero]);
    let safe = s.g.op("Where", &[is_zero, one, x]);
    let all = s.g.reduce("ReduceProd", safe, &axes, true);
    let others = s.g.div(all, safe);
    let mine = s.g.cast(is_zero, elem);
    let zeros = s.g.reduce("ReduceSum", mine, &axes, true);
    let alone = s.g.op("Equal", &[zeros, mine]);
    let weight = s.g.op("Where", &[alone, others, zero]);
    weighted_sum(s, weight, None)
}

fn reduce_sum_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (c, shape) = (t.c()?, t.input_shape(0)?);
    let keeps_axes = t.node.int("keepdims", 1) != 0;
    if keeps_axes
        && t.node
            .input(1)
            .is_some_and(|axes| t.g.content(axes).and_then(|c| c.fixed()).is_none())
    {
        // The cotangent has size 1 along every axis that was summed.
        return Ok(vec![(0, t.g.expand(c, &shape))]);
    }
    let axes = inference::known_axes(t.g, &t.node, shape.len())
        .flatten()
        .ok_or("its axes are not known")?;
    let kept = inference::reduced_shape(&shape, &axes, true).unwrap_or_default();
    let wide = t.g.reshape(c, &kept);
    let spread = t.g.expand(wide, &shape);
    if wide == c {
        t.pass_mask(c, spread);
    }
    Ok(vec![(0, spread)])
}

fn reduce_mean_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let shape = t.input_shape(0)?;
    let axes = inference::known_axes(t.g, &t.node, shape.len())
        .flatten()
        .ok_or("its axes are not known")?;
    let sizes: Vec<Size> = axes.iter().map(|axis| shape[*axis].clone()).collect();
    let count = inference::size_product(t.g, &sizes);
    let c = t.c()?;
    let scaled = match count.as_fixed() {
        Some(n) => t.g.scale(c, 1.0 / n as f64),
        None => {
            let count = t.g.sizes(&[count]);
            let count = t.g.squeeze(count, &[0]);
            let count = t.g.cast(count, t.g.elem(c));
            t.g.div(c, count)
        }
    };
    t.output_cotangents[0] = Some(scaled);
    reduce_sum_cotangent(t)
}
