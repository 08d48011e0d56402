//! `Split`: a tensor cut in parts along an axis.

use super::concat::concat_axis;
use super::operator::Operator;
use crate::content::Content;
use crate::error::Refusal;
use crate::folding::take;
use crate::graph::emit::int;
use crate::graph::{Graph, Inferred, Node, Val};
use crate::inference::{axis_of, sizes_held_by};
use crate::jvp_context::{JvpContext, Tangent};
use crate::size::Size;
use crate::transpose_context::{Cotangents, TransposeContext};

/// The declaration of `Split`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("Split")
    .shapes(split_shapes)
    .contents(split_content)
    .tangents(split_tangent)
    .transpose(split_cotangent)
    .smooth()];

fn split_shapes(g: &mut Graph, node: &Node, outputs: usize) -> Option<Vec<Inferred>> {
    let x = node.input(0)?;
    let (elem, shape) = (g.elem(x), g.shape(x)?.clone());
    let axis = axis_of(node.int("axis", 0), shape.len())?;
    let parts: Vec<Size> = match node.input(1) {
        Some(v) => sizes_held_by(g, v)?,
        None => {
            let n = outputs as i64;
            let part = match shape[axis].as_fixed() {
                Some(length) => Size::fixed(length.checked_add(n - 1)?.checked_div(n)?),
                None => g.symbols.div(&shape[axis], &Size::fixed(n)),
            };
            let last = match part.times(&Size::fixed(n - 1)) {
                Some(rest) => g.symbols.sub(&shape[axis], &rest),
                None => g.symbols.fresh(),
            };
            let mut parts = vec![part; outputs.saturating_sub(1)];
            parts.push(last);
            parts
        }
    };
    let with = |part: Size| {
        let mut shape = shape.clone();
        shape[axis] = part;
        (elem, Some(shape))
    };
    Some(parts.into_iter().map(with).collect())
}

fn split_content(g: &mut Graph, node: &Node) -> Option<Vec<Option<Content>>> {
    let content = node.input(0).and_then(|v| g.content(v))?;
    let axis = axis_of(node.int("axis", 0), content.dims.len())?;
    let parts = node.outputs.len().max(1);
    let lengths: Vec<usize> = match node.input(1) {
        Some(v) => g
            .content(v)?
            .fixed()?
            .iter()
            .map(|n| usize::try_from(*n).ok())
            .collect::<Option<_>>()?,
        None => vec![content.dims[axis].div_ceil(parts); parts],
    };
    let mut start = 0usize;
    let mut outputs = Vec::new();
    for length in lengths {
        let end = start.checked_add(length)?.min(content.dims[axis]);
        outputs.push(take(content, axis, &(start..end).collect::<Vec<_>>()));
        start = end;
    }
    Some(outputs)
}

fn split_tangent(s: &mut JvpContext) -> Result<Vec<Option<Tangent>>, Refusal> {
    let d = s.dx()?;
    let axis = s.axis("axis", 0, s.rank(0)?)?;
    let mut attributes = vec![int("axis", axis as i64 + 1)];
    attributes.extend(s.node.attribute("num_outputs").cloned());
    let inputs: Vec<Option<Val>> = match s.node.input(1) {
        Some(parts) => vec![Some(d), Some(parts)],
        None => vec![Some(d)],
    };
    let parts = s.g.push("Split", &inputs, attributes, s.node.outputs.len());
    Ok(parts
        .into_iter()
        .map(|part| Some(Tangent::plain(part)))
        .collect())
}

fn split_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let axis = concat_axis(t, t.input_shape(0)?.len())?;
    let mut parts = Vec::new();
    for (index, output) in t.node.outputs.clone().into_iter().enumerate() {
        let output = output.ok_or("one of its outputs is missing")?;
        let shape = t.shape(output)?;
        parts.push(match t.output_cotangents[index] {
            Some(c) => c,
            None => t.g.zeros(&shape, t.g.elem(output)),
        });
    }
    let joined = t.g.concat(&parts, axis as i64);
    let shape = t.input_shape(0)?;
    t.g.set_shape(joined, &shape);
    Ok(vec![(0, joined)])
}
