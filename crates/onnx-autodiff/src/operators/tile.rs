//! `Tile`: copies along axes.

use super::operator::{Operator, TangentResult};
use crate::content::{Content, followed_count};
use crate::error::Refusal;
use crate::folding::{axis_lengths, take};
use crate::graph::{Graph, Node, Shape};
use crate::inference::sizes_held_by;
use crate::jvp_context::{JvpContext, Tangent};
use crate::transpose_context::{Cotangents, TransposeContext};

/// The declaration of `Tile`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("Tile")
    .shape(tile_shape)
    .content(tile_content)
    .tangent(tile_tangent)
    .transpose(tile_cotangent)
    .smooth_in(&[0])];

fn tile_content(_: &mut Graph, _: &Node, inputs: &[Content]) -> Option<Content> {
    let repeats = axis_lengths(inputs.get(1)?)?;
    let mut content = inputs[0].clone();
    for (axis, repeat) in repeats
        .iter()
        .enumerate()
        .filter(|(axis, _)| *axis < inputs[0].dims.len())
    {
        let length = content.dims[axis];
        followed_count(&[length, *repeat])?;
        let places: Vec<usize> = (0..length * repeat).map(|i| i % length).collect();
        content = take(&content, axis, &places)?;
    }
    Some(content)
}

fn tile_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?.clone();
    let repeats = sizes_held_by(g, node.input(1)?)?;
    (repeats.len() == shape.len()).then(|| {
        shape
            .iter()
            .zip(&repeats)
            .map(|(d, n)| g.symbols.mul(d, n))
            .collect()
    })
}

fn tile_tangent(s: &mut JvpContext) -> TangentResult {
    let d = s.dx()?;
    let repeats = s.node.input(1).ok_or("its repeats are missing")?;
    let one = s.g.integers(&[1]);
    let repeats = s.g.concat(&[one, repeats], 0);
    let tiled = s.g.op("Tile", &[d, repeats]);
    let shape = s.tangent_shape(&s.y_shape()?);
    s.g.set_shape(tiled, &shape);
    Ok(Some(Tangent::plain(tiled)))
}

/// Returns the sum of the copies' cotangents, along an axis of their own.
fn tile_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (c, (shape, all)) = (t.c()?, t.shapes(0)?);
    let mut split = Vec::new();
    for (whole, part) in all.iter().zip(&shape) {
        split.push(t.g.symbols.div(whole, part));
        split.push(part.clone());
    }
    let axes: Vec<i64> = (0..shape.len() as i64).map(|i| 2 * i).collect();
    let c = t.g.reshape(c, &split);
    Ok(vec![(0, t.g.reduce("ReduceSum", c, &axes, false))])
}
