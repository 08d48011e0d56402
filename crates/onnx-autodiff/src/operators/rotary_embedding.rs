//! `RotaryEmbedding`: pairs of numbers, rotated by angles that depend on the position in the
//! sequence.

use super::attention::positions_up_to;
use super::operator::{Lowered, Operator};
use super::parts::one;
use crate::graph::emit::int;
use crate::graph::{Graph, Node, Val};
use crate::size::Size;

/// The reason for forms that are not replaced.
const FORM: &str = "this form of the operator is not differentiated (its heads do not fit, or its shapes cannot be told); export the model with its parts";

/// The declarations of `RotaryEmbedding` of the standard domain and of ONNX Runtime.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("RotaryEmbedding")
        .kinked()
        .lowered(rotary_embedding)
        .refused(FORM),
    Operator::fused("RotaryEmbedding", microsoft_rotary_embedding),
];

/// Returns the replacement of `RotaryEmbedding` of the standard domain.
pub(super) fn rotary_embedding(g: &mut Graph, node: &Node) -> Lowered {
    let tables = [angle_table(g, node, 1)?, angle_table(g, node, 2)?];
    rotated_heads(g, node, node.int("num_heads", 0), tables)
}

/// Appends the cosines or sines `[N, S, 1, D/2]`, selected by position if the node has positions.
fn angle_table(g: &mut Graph, node: &Node, index: usize) -> Option<Val> {
    let table = node.input(index)?;
    let taken = match node.input(3) {
        Some(positions) => g.op_with("Gather", &[table, positions], vec![int("axis", 0)]),
        None => table,
    };
    Some(g.unsqueeze(taken, &[2]))
}

/// Returns the replacement of `RotaryEmbedding` of ONNX Runtime. Its positions come first, and may
/// be the position of the first token alone.
pub(super) fn microsoft_rotary_embedding(g: &mut Graph, node: &Node) -> Lowered {
    if node.int("is_packed_batching", 0) != 0 || node.float("scale", 1.0) != 1.0 {
        return None;
    }
    let (x, given) = (node.input(0)?, node.input(1)?);
    let shape = g.shape(x)?.clone();
    let length = shape.get(shape.len().checked_sub(2)?)?.clone();
    let width = match node.int("rotary_embedding_dim", 0) {
        0 => Some(g.shape(node.input(2)?)?.get(1)?.times(&Size::fixed(2))?),
        _ => None,
    };
    let count = match width {
        Some(width) if shape.len() == 3 => shape[2].over(&width)?.as_fixed()?,
        _ => node.int("num_heads", 0),
    };
    let positions = positions(g, given, &length)?;
    let tables = [2, 3].map(|index| {
        let taken = g.op_with(
            "Gather",
            &[node.input(index)?, positions],
            vec![int("axis", 0)],
        );
        Some(g.unsqueeze(taken, &[-2]))
    });
    let [cos, sin] = tables;
    rotated_heads(g, node, count, [cos?, sin?])
}

/// Returns the positions `[N, S]`. If only the position of the first token is given, returns `[S]`.
fn positions(g: &mut Graph, given: Val, length: &Size) -> Option<Val> {
    match g.shape(given)?.len() {
        2 => Some(given),
        1 if g.shape(given)?[0].is(1) => {
            let indices = positions_up_to(g, length);
            Some(g.add(indices, given))
        }
        _ => None,
    }
}

/// Rotates `[N, S, H·D]` or `[N, H, S, D]` head by head.
fn rotated_heads(g: &mut Graph, node: &Node, count: i64, tables: [Val; 2]) -> Lowered {
    let x = node.input(0)?;
    let shape = g.shape(x)?.clone();
    let apart = match shape.len() {
        4 => g.transpose(x, &[0, 2, 1, 3]),
        3 => {
            let count = Size::fixed(count);
            let width = shape[2].over(&count)?;
            g.reshape(x, &[shape[0].clone(), shape[1].clone(), count, width])
        }
        _ => return None,
    };
    let y = rotated(g, node, apart, tables)?;
    one(if shape.len() == 4 {
        g.transpose(y, &[0, 2, 1, 3])
    } else {
        g.reshape(y, &shape)
    })
}

/// Rotates `[N, S, H, D]` by angles whose cosines and sines are `[N, S, 1, D/2]`.
fn rotated(g: &mut Graph, node: &Node, x: Val, tables: [Val; 2]) -> Option<Val> {
    let interleaved = node.int("interleaved", 0) != 0;
    let turned = node.int("rotary_embedding_dim", 0);
    let parts = g.shape(x)?.clone();
    let width = parts[3].as_fixed()?;
    let turned = if turned == 0 { width } else { turned };
    let (angle, rest) = (
        last_axis_slice(g, x, 0, turned, 1),
        last_axis_slice(g, x, turned, width, 1),
    );
    let (a, b) = if interleaved {
        (
            last_axis_slice(g, angle, 0, turned, 2),
            last_axis_slice(g, angle, 1, turned, 2),
        )
    } else {
        (
            last_axis_slice(g, angle, 0, turned / 2, 1),
            last_axis_slice(g, angle, turned / 2, turned, 1),
        )
    };
    let [cos, sin] = tables;
    let (a_cos, a_sin, b_cos, b_sin) = (g.mul(a, cos), g.mul(a, sin), g.mul(b, cos), g.mul(b, sin));
    let (real, imaginary) = (g.sub(a_cos, b_sin), g.add(a_sin, b_cos));
    let mut y = if interleaved {
        let pair = [real, imaginary].map(|v| g.unsqueeze(v, &[-1]));
        let joined = g.concat(&pair, -1);
        let mut whole = parts.clone();
        whole[3] = Size::fixed(turned);
        g.reshape(joined, &whole)
    } else {
        g.concat(&[real, imaginary], -1)
    };
    if turned < width {
        y = g.concat(&[y, rest], -1);
    }
    Some(y)
}

/// Appends a slice of the last axis of `[N, S, H, D]`.
fn last_axis_slice(g: &mut Graph, v: Val, start: i64, end: i64, step: i64) -> Val {
    let bounds = [start, end, 3, step].map(|n| g.integers(&[n]));
    g.op("Slice", &[v, bounds[0], bounds[1], bounds[2], bounds[3]])
}
