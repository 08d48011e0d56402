//! `DepthToSpace` and `SpaceToDepth`: channels as blocks of pixels, and back.

use super::operator::Operator;
use super::parts::folded_tangent;
use crate::error::Refusal;
use crate::graph::emit::int;
use crate::graph::{Graph, Node, Shape};
use crate::size::Size;
use crate::transpose_context::{Cotangents, TransposeContext};

/// The declarations of `DepthToSpace` and `SpaceToDepth`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("DepthToSpace")
        .shape(depth_to_space_shape)
        .tangent(folded_tangent)
        .transpose(depth_to_space_cotangent)
        .smooth(),
    Operator::new("SpaceToDepth")
        .shape(depth_to_space_shape)
        .tangent(folded_tangent)
        .transpose(space_to_depth_cotangent)
        .smooth(),
];

fn depth_to_space_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let x = g.shape(node.input(0)?)?.clone();
    let block = Size::fixed(node.int("blocksize", 1));
    let square = block.times(&block)?;
    let [n, c, h, w] = x.as_slice() else {
        return None;
    };
    Some(if node.op == "DepthToSpace" {
        vec![
            n.clone(),
            g.symbols.div(c, &square),
            g.symbols.mul(h, &block),
            g.symbols.mul(w, &block),
        ]
    } else {
        vec![
            n.clone(),
            g.symbols.mul(c, &square),
            g.symbols.div(h, &block),
            g.symbols.div(w, &block),
        ]
    })
}

/// Returns the cotangent. Only the standard arrangement has an inverse operator.
fn depth_to_space_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (c, (x, _)) = (t.c()?, t.shapes(4)?);
    let block = t.node.int("blocksize", 1);
    if t.node.text("mode", "DCR") == "DCR" {
        let result =
            t.g.op_with("SpaceToDepth", &[c], vec![int("blocksize", block)]);
        t.g.set_shape(result, &x);
        return Ok(vec![(0, result)]);
    }
    let b = Size::fixed(block);
    let channels = x[1]
        .over(&Size::fixed(block.saturating_mul(block)))
        .ok_or("its channels do not divide by its blocks")?;
    let parts = [
        x[0].clone(),
        channels,
        x[2].clone(),
        b.clone(),
        x[3].clone(),
        b,
    ];
    let split = t.g.reshape(c, &parts);
    let turned = t.g.transpose(split, &[0, 1, 3, 5, 2, 4]);
    Ok(vec![(0, t.g.reshape(turned, &x))])
}

fn space_to_depth_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (c, (x, _)) = (t.c()?, t.shapes(4)?);
    let kept = ["blocksize", "mode"];
    let attributes = t
        .node
        .attributes
        .iter()
        .filter(|a| kept.contains(&a.name()))
        .cloned()
        .collect();
    let result = t.g.op_with("DepthToSpace", &[c], attributes);
    t.g.set_shape(result, &x);
    Ok(vec![(0, result)])
}
