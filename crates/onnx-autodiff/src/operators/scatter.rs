//! Scatter operators: elements and slices written to indices.

use super::gather::{directions_first, directions_last, for_each_direction, indices};
use super::operator::{DecompositionResult, Operator, TangentResult};
use super::parts::{finished, pairs, range_to, size_value};
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::Val;
use crate::graph::emit::{int, text};
use crate::inference::axis_of;
use crate::jvp_context::{JvpContext, Tangent};
use crate::proto::AttributeProto;
use crate::transpose_context::{Cotangents, TransposeContext};

/// The declarations of `Scatter`, `ScatterElements`, `ScatterND` and `TensorScatter`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Scatter").refused("it is read as ScatterElements in files of opset 9 and 10, and newer ones lack it; export the model with ScatterElements"),
    Operator::new("ScatterElements").same_shape().tangent(scatter_elements_tangent).transpose(scatter_elements_cotangent).smooth_in(&[0, 2]),
    Operator::new("ScatterND").same_shape().tangent(scatter_nd_tangent).transpose(scatter_nd_cotangent).smooth_in(&[0, 2]),
    Operator::new("TensorScatter").same_shape().decomposition(tensor_scatter_decomposition).smooth_in(&[0, 1]),
];

fn data_and_updates(s: &mut JvpContext) -> Result<(Val, Val), Refusal> {
    let data = match s.d(0) {
        Some(d) => d,
        None => s.zero(0)?,
    };
    let updates = match s.d(2) {
        Some(d) => d,
        None => s.zero(2)?,
    };
    Ok((data, updates))
}

/// Adds the tangents of the updates to zeros of the data's shape.
fn added(s: &mut JvpContext, updates: Val) -> Result<Val, Refusal> {
    let (zeros, sum) = (s.zero(0)?, text("reduction", "add"));
    if s.node.op == "ScatterElements" {
        by_elements(s, zeros, updates, Some(sum))
    } else {
        by_slices(s, zeros, updates, vec![sum])
    }
}

fn scatter_elements_tangent(s: &mut JvpContext) -> TangentResult {
    if let Some(reduced) = reduction_tangent(s)? {
        return Ok(Some(reduced));
    }
    let (data, updates) = data_and_updates(s)?;
    let reduction = s.node.attribute("reduction").cloned();
    Ok(Some(Tangent::plain(by_elements(
        s, data, updates, reduction,
    )?)))
}

fn by_elements(
    s: &mut JvpContext,
    data: Val,
    updates: Val,
    reduction: Option<AttributeProto>,
) -> Result<Val, Refusal> {
    let indices = indices(s)?;
    let axis = s.axis("axis", 0, s.rank(0)?)? as i64;
    let indices = for_each_direction(s, indices)?;
    let mut attributes = vec![int("axis", axis + 1)];
    attributes.extend(reduction);
    Ok(s.g.op_with("ScatterElements", &[data, indices, updates], attributes))
}

fn scatter_nd_tangent(s: &mut JvpContext) -> TangentResult {
    if let Some(reduced) = reduction_tangent(s)? {
        return Ok(Some(reduced));
    }
    let (data, updates) = data_and_updates(s)?;
    let attributes = s.node.attributes.clone();
    Ok(Some(Tangent::plain(by_slices(
        s, data, updates, attributes,
    )?)))
}

fn by_slices(
    s: &mut JvpContext,
    data: Val,
    updates: Val,
    attributes: Vec<AttributeProto>,
) -> Result<Val, Refusal> {
    let indices = indices(s)?;
    let (rank, update_rank) = (s.rank(0)?, s.rank(2)?);
    let data = directions_last(s, data, rank);
    let updates = directions_last(s, updates, update_rank);
    let scattered =
        s.g.op_with("ScatterND", &[data, indices, updates], attributes);
    Ok(directions_first(s, scattered, rank))
}

/// Returns the tangent of a scatter with a reduction that is not linear. Returns `None` if the
/// tangents are scattered like the primal.
fn reduction_tangent(s: &mut JvpContext) -> Result<Option<Tangent>, Refusal> {
    let (of_data, of_updates) = match s.node.text("reduction", "none").as_str() {
        "none" | "add" => return Ok(None),
        "mul" => product_slopes(s)?,
        "max" | "min" => extremum_slopes(s)?,
        other => return Err(format!("its reduction `{other}` is not known").into()),
    };
    let data = s.d(0).map(|d| s.g.mul(d, of_data));
    let updates = match s.d(2) {
        Some(d) => {
            let weighted = s.g.mul(d, of_updates);
            Some(added(s, weighted)?)
        }
        None => None,
    };
    Ok(s.sum(data.map(Tangent::plain), updates.map(Tangent::plain)))
}

/// Appends the updates, scattered into data with a reduction.
fn scattered(s: &mut JvpContext, data: Val, updates: Val, reduction: &str) -> Result<Val, Refusal> {
    let indices = s.node.input(1).ok_or("its indices are missing")?;
    let mut attributes: Vec<AttributeProto> =
        s.node.attribute("axis").cloned().into_iter().collect();
    attributes.push(text("reduction", reduction));
    let op = s.node.op.clone();
    Ok(s.g.op_with(&op, &[data, indices, updates], attributes))
}

/// Appends the elements of `data` at the indices of the updates.
fn gathered(s: &mut JvpContext, data: Val) -> Result<Val, Refusal> {
    let indices = s.node.input(1).ok_or("its indices are missing")?;
    let by_elements = s.node.op == "ScatterElements";
    let attributes = s.node.attribute("axis").cloned().into_iter().collect();
    Ok(s.g.op_with(
        if by_elements {
            "GatherElements"
        } else {
            "GatherND"
        },
        &[data, indices],
        attributes,
    ))
}

/// Appends, for each factor, the product of the other factors at the same index: the product of all
/// factors that are not zero, divided by the factor itself. It counts only if no other factor is
/// zero.
fn product_slopes(s: &mut JvpContext) -> Result<(Val, Val), Refusal> {
    let (x, u) = (s.x(0)?, s.x(2)?);
    let (zero, one) = (s.g.real_like(0.0, x), s.g.real_like(1.0, x));
    let mut parts = Vec::new();
    for v in [x, u] {
        let hit = s.g.op("Equal", &[v, zero]);
        parts.push((s.g.cast(hit, s.g.elem(x)), s.g.op("Where", &[hit, one, v])));
    }
    let [(x_zero, x_safe), (u_zero, u_safe)] = parts[..] else {
        return Err("its inputs are missing".into());
    };
    let product = scattered(s, x_safe, u_safe, "mul")?;
    let zeros = scattered(s, x_zero, u_zero, "add")?;
    let (product_there, zeros_there) = (gathered(s, product)?, gathered(s, zeros)?);
    let mut weight = |product: Val, safe: Val, zeros: Val, mine: Val| {
        let others = s.g.div(product, safe);
        let alone = s.g.op("Equal", &[zeros, mine]);
        s.g.op("Where", &[alone, others, zero])
    };
    Ok((
        weight(product, x_safe, zeros, x_zero),
        weight(product_there, u_safe, zeros_there, u_zero),
    ))
}

/// Appends the shares of the elements that equal the result, which share its tangent equally.
fn extremum_slopes(s: &mut JvpContext) -> Result<(Val, Val), Refusal> {
    let (x, u, y) = (s.x(0)?, s.x(2)?, s.y()?);
    let there = gathered(s, y)?;
    let mut hits = Vec::new();
    for (v, result) in [(x, y), (u, there)] {
        let hit = s.g.op("Equal", &[v, result]);
        hits.push(s.g.cast(hit, s.g.elem(x)));
    }
    let count = scattered(s, hits[0], hits[1], "add")?;
    let count_there = gathered(s, count)?;
    Ok((s.g.div(hits[0], count), s.g.div(hits[1], count_there)))
}

/// Writes the updates over a cache, from an index of each sample on.
fn tensor_scatter_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let (cache, update) = (s.x(0)?, s.x(1)?);
    let (shape, new) = (s.shape(cache)?, s.shape(update)?);
    let axis = axis_of(s.node.int("axis", -2), shape.len()).filter(|axis| *axis > 0);
    let axis = axis
        .filter(|_| new.len() == shape.len())
        .ok_or("its axis does not fit its cache")?;
    let mut order: Vec<usize> = (0..shape.len()).collect();
    order.swap(1, axis);
    let (cache, update) = (s.g.transpose(cache, &order), s.g.transpose(update, &order));
    let steps = range_to(s.g, &new[axis]);
    let mut places = s.g.unsqueeze(steps, &[0]);
    if let Some(starts) = s.node.input(2) {
        let starts = s.g.cast(starts, ElemType::INT64);
        let starts = s.g.unsqueeze(starts, &[1]);
        places = s.g.add(places, starts);
    }
    if s.node.text("mode", "linear") == "circular" {
        let length = size_value(s.g, &shape[axis], ElemType::INT64);
        places = s.g.op("Mod", &[places, length]);
    }
    let samples = range_to(s.g, &shape[0]);
    let samples = s.g.unsqueeze(samples, &[1]);
    let indices = pairs(s.g, samples, places, &[shape[0].clone(), new[axis].clone()]);
    let result = s.g.op("ScatterND", &[cache, indices, update]);
    let result = s.g.transpose(result, &order);
    finished(s, result)
}

/// Returns the cotangents. Data that were overwritten have a zero cotangent, and the updates have
/// that of their index.
fn scatter_elements_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (c, indices) = (t.c()?, t.input(1)?);
    let axis = int("axis", t.node.int("axis", 0));
    let updates =
        t.g.op_with("GatherElements", &[c, indices], vec![axis.clone()]);
    let data = if t.node.text("reduction", "none") == "add" {
        c
    } else {
        let zeros = t.g.zeros(&t.input_shape(2)?, t.g.elem(c));
        t.g.op_with("ScatterElements", &[c, indices, zeros], vec![axis])
    };
    Ok(vec![(0, data), (2, updates)])
}

fn scatter_nd_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (c, indices) = (t.c()?, t.input(1)?);
    let updates = t.g.op("GatherND", &[c, indices]);
    let data = if t.node.text("reduction", "none") == "add" {
        c
    } else {
        let zeros = t.g.zeros(&t.input_shape(2)?, t.g.elem(c));
        t.g.op("ScatterND", &[c, indices, zeros])
    };
    Ok(vec![(0, data), (2, updates)])
}
