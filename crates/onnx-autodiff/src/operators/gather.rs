//! Gather operators: elements and slices that indices select.

use super::operator::{Operator, TangentResult};
use super::parts::index_range;
use crate::content::Content;
use crate::error::Refusal;
use crate::folding::take;
use crate::graph::emit::{int, text};
use crate::graph::{Graph, Node, Shape, Val};
use crate::inference;
use crate::inference::axis_of;
use crate::jvp_context::{JvpContext, Tangent};
use crate::size::Size;
use crate::transpose_context::{CONTRADICTION, Cotangents, TransposeContext};

/// The declarations of `Gather`, `GatherElements` and `GatherND`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Gather")
        .shape(gather_shape)
        .content(gather_content)
        .tangent(gather_tangent)
        .transpose(gather_cotangent)
        .smooth_in(&[0]),
    Operator::new("GatherElements")
        .shape(gather_elements_shape)
        .tangent(gather_elements_tangent)
        .transpose(gather_elements_cotangent)
        .smooth_in(&[0]),
    Operator::new("GatherND")
        .shape(gather_nd_shape)
        .tangent(gather_nd_tangent)
        .transpose(gather_nd_cotangent)
        .smooth_in(&[0]),
];

/// Returns the shape of the indices.
fn gather_elements_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    g.shape(node.input(1)?).cloned()
}

fn gather_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let indices = g.shape(node.input(1)?)?.clone();
    let axis = axis_of(node.int("axis", 0), shape.len())?;
    shape.splice(axis..=axis, indices);
    Some(shape)
}

fn gather_nd_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (data, indices) = (g.shape(node.input(0)?)?, g.shape(node.input(1)?)?);
    let batch = usize::try_from(node.int("batch_dims", 0)).ok()?;
    let (last, leading) = indices.split_last()?;
    let depth = usize::try_from(last.as_fixed()?).ok()?;
    let rest = data.get(batch.checked_add(depth)?..)?;
    Some(leading.iter().chain(rest).cloned().collect())
}

fn gather_content(_: &mut Graph, node: &Node, inputs: &[Content]) -> Option<Content> {
    let (data, indices) = (&inputs[0], inputs.get(1)?);
    let axis = axis_of(node.int("axis", 0), data.dims.len())?;
    let places: Option<Vec<usize>> = indices
        .fixed()?
        .iter()
        .map(|i| axis_of(*i, data.dims[axis]))
        .collect();
    let mut taken = take(data, axis, &places?)?;
    taken.dims.splice(axis..=axis, indices.dims.iter().copied());
    Some(taken)
}

/// Returns the indices of a node, its second input.
///
/// # Errors
///
/// Refuses a node without indices.
pub(super) fn indices(s: &JvpContext) -> Result<Val, Refusal> {
    s.node
        .input(1)
        .ok_or_else(|| "its indices are missing".into())
}

fn gather_tangent(s: &mut JvpContext) -> TangentResult {
    let (d, indices) = (s.dx()?, indices(s)?);
    let axis = s.axis("axis", 0, s.rank(0)?)? as i64;
    Ok(Some(Tangent::plain(s.g.op_with(
        "Gather",
        &[d, indices],
        vec![int("axis", axis + 1)],
    ))))
}

/// Repeats indices of the primal's shape for each direction.
pub(super) fn for_each_direction(s: &mut JvpContext, indices: Val) -> Result<Val, Refusal> {
    let shape = s.tangent_shape(&s.shape(indices)?);
    Ok(s.g.expand(indices, &shape))
}

fn gather_elements_tangent(s: &mut JvpContext) -> TangentResult {
    let (d, indices) = (s.dx()?, indices(s)?);
    let axis = s.axis("axis", 0, s.rank(0)?)? as i64;
    let indices = for_each_direction(s, indices)?;
    Ok(Some(Tangent::plain(s.g.op_with(
        "GatherElements",
        &[d, indices],
        vec![int("axis", axis + 1)],
    ))))
}

/// Returns the tangent. The directions become the last axis meanwhile, where they are part of each
/// selected slice.
fn gather_nd_tangent(s: &mut JvpContext) -> TangentResult {
    let (d, indices) = (s.dx()?, indices(s)?);
    let last = directions_last(s, d, s.rank(0)?);
    let attributes = s.node.attributes.clone();
    let picked = s.g.op_with("GatherND", &[last, indices], attributes);
    let rank = s.y_shape()?.len();
    Ok(Some(Tangent::plain(directions_first(s, picked, rank))))
}

/// Moves the directions of a tangent behind its other axes. `rank` is the rank of the primal.
pub(super) fn directions_last(s: &mut JvpContext, d: Val, rank: usize) -> Val {
    let perm: Vec<usize> = (1..=rank).chain([0]).collect();
    s.g.transpose(d, &perm)
}

/// Moves the directions of a tangent from the last axis to the first. `rank` is the rank of the
/// primal.
pub(super) fn directions_first(s: &mut JvpContext, d: Val, rank: usize) -> Val {
    let perm: Vec<usize> = std::iter::once(rank).chain(0..rank).collect();
    s.g.transpose(d, &perm)
}

/// Adds the slices of `c` along an axis to zeros, at the given indices along it. The result has the
/// size `length` along the axis.
pub(super) fn add_along(
    t: &mut TransposeContext,
    c: Val,
    axis: usize,
    places: Val,
    length: &Size,
) -> Result<Val, Refusal> {
    let shape = t.shape(c)?;
    if axis >= shape.len() {
        return Err(CONTRADICTION.into());
    }
    let mut order: Vec<usize> = (0..shape.len()).collect();
    order.swap(0, axis);
    let front = t.g.transpose(c, &order);
    let mut whole: Vec<Size> = order.iter().map(|i| shape[*i].clone()).collect();
    whole[0] = length.clone();
    let zeros = t.g.zeros(&whole, t.g.elem(c));
    let indices = t.g.unsqueeze(places, &[1]);
    let summed = t.g.op_with(
        "ScatterND",
        &[zeros, indices, front],
        vec![text("reduction", "add")],
    );
    t.g.set_shape(summed, &whole);
    Ok(t.g.transpose(summed, &order))
}

fn gather_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (c, indices, shape) = (t.c()?, t.input(1)?, t.input_shape(0)?);
    let axis = axis_of(t.node.int("axis", 0), shape.len()).ok_or("its axis is out of range")?;
    let sizes = t.input_shape(1)?;
    let count = inference::size_product(t.g, &sizes);
    let places = t.g.reshape(indices, std::slice::from_ref(&count));
    let mut flat = shape.clone();
    flat[axis] = count;
    let c = t.g.reshape(c, &flat);
    Ok(vec![(0, add_along(t, c, axis, places, &shape[axis])?)])
}

fn gather_elements_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (c, indices, shape) = (t.c()?, t.input(1)?, t.input_shape(0)?);
    let zeros = t.g.zeros(&shape, t.g.elem(c));
    let attributes = vec![int("axis", t.node.int("axis", 0)), text("reduction", "add")];
    Ok(vec![(
        0,
        t.g.op_with("ScatterElements", &[zeros, indices, c], attributes),
    )])
}

fn gather_nd_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (c, shape) = (t.c()?, t.input_shape(0)?);
    let indices = with_batch(t)?;
    let zeros = t.g.zeros(&shape, t.g.elem(c));
    Ok(vec![(
        0,
        t.g.op_with(
            "ScatterND",
            &[zeros, indices, c],
            vec![text("reduction", "add")],
        ),
    )])
}

/// Returns the indices of `GatherND` with the indices of the batch axes in front of them.
fn with_batch(t: &mut TransposeContext) -> Result<Val, Refusal> {
    let indices = t.input(1)?;
    let batch = usize::try_from(t.node.int("batch_dims", 0)).unwrap_or(0);
    let mut shape = t.shape(indices)?;
    let rank = shape.len();
    if batch >= rank {
        return Err("its batch_dims do not fit its indices".into());
    }
    shape[rank - 1] = Size::fixed(1);
    let mut parts = Vec::new();
    for axis in 0..batch {
        let places = index_range(t, &shape[axis].clone());
        let axes: Vec<i64> = (0..rank as i64).filter(|i| *i != axis as i64).collect();
        let places = t.g.unsqueeze(places, &axes);
        parts.push(t.g.expand(places, &shape));
    }
    parts.push(indices);
    Ok(t.g.concat(&parts, rank as i64 - 1))
}
