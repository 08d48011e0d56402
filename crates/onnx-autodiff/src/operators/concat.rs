//! `Concat`: tensors concatenated along an axis.

use super::operator::{Operator, TangentResult};
use crate::content::{Content, followed_count};
use crate::error::Refusal;
use crate::graph::emit::int;
use crate::graph::{Graph, Node, Shape, Val};
use crate::inference::axis_of;
use crate::jvp_context::{JvpContext, Tangent};
use crate::passes::Pass;
use crate::transpose_context::{CONTRADICTION, Cotangents, TransposeContext};

/// The declaration of `Concat`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("Concat")
    .shape(concat_shape)
    .content(concat_content)
    .tangent(concat_tangent)
    .transpose(concat_cotangent)
    .smooth()];

fn concat_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let axis = axis_of(node.int("axis", 0), shape.len())?;
    for v in node.inputs.iter().skip(1) {
        let next = g.shape((*v)?)?.clone();
        if next.len() != shape.len() {
            return None;
        }
        shape[axis] = g.symbols.add(&shape[axis], &next[axis]);
        for i in (0..shape.len()).filter(|i| *i != axis) {
            if shape[i].as_fixed().is_none() && next[i].as_fixed().is_some() {
                shape[i] = next[i].clone();
            }
        }
    }
    Some(shape)
}

fn concat_content(_: &mut Graph, node: &Node, inputs: &[Content]) -> Option<Content> {
    let rank = inputs[0].dims.len();
    let axis = axis_of(node.int("axis", 0), rank)?;
    if inputs.iter().any(|c| c.dims.len() != rank) {
        return None;
    }
    let mut dims = inputs[0].dims.clone();
    dims[axis] = inputs
        .iter()
        .try_fold(0usize, |n, c| n.checked_add(c.dims[axis]))?;
    followed_count(&dims)?;
    let outer: usize = dims[..axis].iter().product();
    let mut items = Vec::new();
    for i in 0..outer {
        for c in inputs {
            let run = c.items.len() / outer.max(1);
            items.extend_from_slice(c.items.get(i * run..(i + 1) * run)?);
        }
    }
    (items.len() == dims.iter().product::<usize>()).then_some(Content { dims, items })
}

fn concat_tangent(s: &mut JvpContext) -> TangentResult {
    let axis = s.axis("axis", 0, s.rank(0)?)?;
    let mut parts = Vec::new();
    for index in 0..s.node.inputs.len() {
        parts.push(match s.d(index) {
            Some(d) => d,
            None => s.zero(index)?,
        });
    }
    if let Some(folded) = folded(s, &parts, axis)? {
        return s.split_directions(folded);
    }
    Ok(Some(Tangent::plain(s.g.concat(&parts, axis as i64 + 1))))
}

/// Concatenates tangents whose directions are merged into the batch, without splitting them first.
/// Returns `None` if that is not possible.
fn folded(s: &mut JvpContext, parts: &[Val], axis: usize) -> Result<Option<Val>, Refusal> {
    if axis == 0 || !s.g.passes.has(Pass::MergedDirections) {
        return Ok(None);
    }
    let mut sources = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let shape = s.x_shape(index)?;
        let wanted = s.merged_shape(&shape);
        match s.g.reshaped_from(*part) {
            Some(source) if s.g.shape(source) == wanted.as_ref() => sources.push(source),
            _ => return Ok(None),
        }
    }
    Ok(Some(s.g.concat(&sources, axis as i64)))
}

/// Returns the axis of a node that concatenates or splits tensors of `rank` axes.
///
/// # Errors
///
/// Refuses an axis that does not exist.
pub(super) fn concat_axis(t: &TransposeContext, rank: usize) -> Result<usize, Refusal> {
    axis_of(t.node.int("axis", 0), rank).ok_or_else(|| "its axis is out of range".into())
}

fn concat_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let c = t.c()?;
    let axis = concat_axis(t, t.input_shape(0)?.len())?;
    let mut lengths = Vec::new();
    for index in 0..t.node.inputs.len() {
        lengths.push(
            t.input_shape(index)?
                .get(axis)
                .ok_or(CONTRADICTION)?
                .clone(),
        );
    }
    let lengths = t.g.sizes(&lengths);
    let parts = t.g.push(
        "Split",
        &[Some(c), Some(lengths)],
        vec![int("axis", axis as i64)],
        t.node.inputs.len(),
    );
    for (index, part) in parts.iter().enumerate() {
        let shape = t.input_shape(index)?;
        t.g.set_shape(*part, &shape);
    }
    Ok(parts
        .into_iter()
        .enumerate()
        .filter(|(index, _)| t.is_linear(*index))
        .collect())
}
