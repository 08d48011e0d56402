//! `AffineGrid`: the positions of all pixels, moved by an affine map.

use super::operator::{DecompositionResult, Operator};
use super::parts::{finished, range_to, size_value};
use crate::graph::{Graph, Node, Shape, Val};
use crate::inference;
use crate::inference::sizes_held_by;
use crate::jvp_context::JvpContext;
use crate::size::Size;

/// The declaration of `AffineGrid`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("AffineGrid")
    .shape(affine_grid_shape)
    .decomposition(affine_grid_decomposition)
    .smooth()];

/// Returns the shape `[N, …, axes]` of the grid for an image of the given size.
fn affine_grid_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let size = sizes_held_by(g, node.input(1)?)?;
    let lengths = size.get(2..)?;
    let axes = Size::fixed(lengths.len() as i64);
    Some([&size[..1], lengths, &[axes]].concat())
}

/// Multiplies the positions of all pixels by an affine map. A position lies between -1 and 1 along
/// each axis; it lists the last axis first and ends with a 1.
fn affine_grid_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let (theta, y) = (s.x(0)?, s.y_shape()?);
    let (elem, axes) = (s.g.elem(theta), y.len().saturating_sub(2));
    if s.rank(0)? != 3 || !(2..=3).contains(&axes) {
        return Err("its map does not fit its size".into());
    }
    let lengths = y[1..=axes].to_vec();
    let aligned = s.node.int("align_corners", 0) != 0;
    let one = s.g.real(1.0, elem);
    let mut columns = Vec::new();
    for (axis, length) in lengths.iter().enumerate().rev() {
        let places = range_to(s.g, length);
        let places = s.g.cast(places, elem);
        let count = size_value(s.g, length, elem);
        let (from, span) = if aligned {
            let steps = s.g.shift(count, -1.0);
            (places, s.g.op("Max", &[steps, one]))
        } else {
            (s.g.shift(places, 0.5), count)
        };
        let ratio = s.g.div(from, span);
        let double = s.g.scale(ratio, 2.0);
        let places = s.g.shift(double, -1.0);
        let behind: Vec<i64> = (1..(axes - axis) as i64).collect();
        let places = s.g.unsqueeze(places, &behind);
        columns.push(s.g.expand(places, &lengths));
    }
    columns.push(s.g.expand(one, &lengths));
    let columns: Vec<Val> = columns
        .into_iter()
        .map(|v| s.g.unsqueeze(v, &[axes as i64]))
        .collect();
    let grid = s.g.concat(&columns, axes as i64);
    let pixels = inference::size_product(s.g, &lengths);
    let grid = s.g.reshape(grid, &[pixels, Size::fixed(axes as i64 + 1)]);
    let map = s.g.transpose(theta, &[0, 2, 1]);
    let product = s.g.op("MatMul", &[grid, map]);
    let result = s.g.reshape(product, &y);
    finished(s, result)
}
