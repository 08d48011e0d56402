//! `Transpose`: permuted axes.

use super::operator::{Operator, TangentResult};
use crate::content::{Content, followed_count};
use crate::error::Refusal;
use crate::graph::{Graph, Node, Shape};
use crate::inference::axis_of;
use crate::jvp_context::{JvpContext, Tangent};
use crate::transpose_context::{Cotangents, TransposeContext};

/// The declaration of `Transpose`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("Transpose")
    .shape(transpose_shape)
    .content(transpose_content)
    .tangent(transpose_tangent)
    .transpose(transpose_cotangent)
    .smooth()];

fn transpose_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?;
    match node.ints("perm") {
        None => Some(shape.iter().rev().cloned().collect()),
        Some(perm) if perm.len() != shape.len() => None,
        Some(perm) => perm
            .iter()
            .map(|p| shape.get(usize::try_from(*p).ok()?).cloned())
            .collect(),
    }
}

fn transpose_content(_: &mut Graph, node: &Node, inputs: &[Content]) -> Option<Content> {
    let content = &inputs[0];
    let rank = content.dims.len();
    let perm = node
        .ints("perm")
        .unwrap_or_else(|| (0..rank as i64).rev().collect());
    let perm: Option<Vec<usize>> = perm.iter().map(|p| axis_of(*p, rank)).collect();
    let perm = perm.filter(|perm| perm.len() == rank)?;
    let dims: Vec<usize> = perm.iter().map(|p| content.dims[*p]).collect();
    let strides: Vec<usize> = (0..rank)
        .map(|axis| content.dims[axis + 1..].iter().product())
        .collect();
    let mut items = Vec::new();
    for i in 0..followed_count(&dims)? {
        let (mut rest, mut place) = (i, 0);
        for axis in (0..rank).rev() {
            place += rest % dims[axis].max(1) * strides[perm[axis]];
            rest /= dims[axis].max(1);
        }
        items.push(content.items.get(place)?.clone());
    }
    Some(Content { dims, items })
}

fn transpose_tangent(s: &mut JvpContext) -> TangentResult {
    let d = s.dx()?;
    let rank = s.rank(0)?;
    let perm = s
        .node
        .ints("perm")
        .unwrap_or_else(|| (0..rank as i64).rev().collect());
    let places: Option<Vec<usize>> = perm.iter().map(|p| Some(axis_of(*p, rank)? + 1)).collect();
    let places = places
        .filter(|p| p.len() == rank)
        .ok_or("its permutation does not fit its input")?;
    let perm: Vec<usize> = std::iter::once(0).chain(places).collect();
    Ok(Some(Tangent::plain(s.g.transpose(d, &perm))))
}

fn transpose_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let c = t.c()?;
    let perm = t.node.ints("perm").ok_or("its permutation is missing")?;
    let mut inverse = vec![0; perm.len()];
    for (i, p) in perm.iter().enumerate() {
        inverse[axis_of(*p, perm.len()).ok_or("its permutation is out of range")?] = i;
    }
    Ok(vec![(0, t.g.transpose(c, &inverse))])
}
