//! Reshapes: the same elements in the same order, with other axes.

use super::RANK_LIMIT;
use super::operator::{Operator, TangentResult};
use crate::content::{Content, followed_count};
use crate::error::Refusal;
use crate::graph::{Graph, Node, Shape, Val};
use crate::inference::{axis_of, known_axes, reduced_shape, size_of, size_product, sizes_held_by};
use crate::jvp_context::{JvpContext, Tangent};
use crate::passes::Pass;
use crate::size::Size;
use crate::transpose_context::{Cotangents, TransposeContext};

/// The declarations of `Flatten`, `Reshape`, `Squeeze` and `Unsqueeze`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Flatten")
        .shape(flatten_shape)
        .content(flatten_content)
        .tangent(reshape_tangent)
        .smooth()
        .same_order(),
    Operator::new("Reshape")
        .shape(reshape_shape)
        .content(reshape_content)
        .tangent(reshape_tangent)
        .transpose(reshape_cotangent)
        .smooth_in(&[0])
        .same_order(),
    Operator::new("Squeeze")
        .shape(squeeze_shape)
        .content(squeeze_content)
        .tangent(reshape_tangent)
        .transpose(reshape_cotangent)
        .smooth()
        .same_order(),
    Operator::new("Unsqueeze")
        .shape(unsqueeze_shape)
        .content(unsqueeze_content)
        .tangent(reshape_tangent)
        .transpose(reshape_cotangent)
        .smooth()
        .same_order(),
];

fn reshape_content(g: &mut Graph, node: &Node, inputs: &[Content]) -> Option<Content> {
    let shape = reshape_shape(g, node)?;
    same_elements(&inputs[0], shape)
}

fn flatten_content(g: &mut Graph, node: &Node, inputs: &[Content]) -> Option<Content> {
    let shape = flatten_shape(g, node)?;
    same_elements(&inputs[0], shape)
}

fn squeeze_content(g: &mut Graph, node: &Node, inputs: &[Content]) -> Option<Content> {
    let shape = squeeze_shape(g, node)?;
    same_elements(&inputs[0], shape)
}

fn unsqueeze_content(g: &mut Graph, node: &Node, inputs: &[Content]) -> Option<Content> {
    let shape = unsqueeze_shape(g, node)?;
    same_elements(&inputs[0], shape)
}

/// Returns the same elements with another shape.
fn same_elements(content: &Content, shape: Shape) -> Option<Content> {
    let dims: Option<Vec<usize>> = shape
        .iter()
        .map(|d| usize::try_from(d.as_fixed()?).ok())
        .collect();
    let dims = dims.filter(|_| shape.len() <= RANK_LIMIT)?;
    (followed_count(&dims)? == content.items.len()).then(|| Content {
        dims,
        items: content.items.clone(),
    })
}

fn reshape_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (x, target) = (node.input(0)?, node.input(1)?);
    let Some(items) = g.content(target).map(|c| c.items.clone()) else {
        return sizes_held_by(g, target);
    };
    let from = g.shape(x).cloned();
    let copies = node.int("allowzero", 0) == 0;
    let mut shape = Vec::new();
    let mut wildcard = None;
    for (i, item) in items.iter().enumerate() {
        shape.push(match (item.as_fixed(), &from) {
            (Some(0), Some(from)) if copies => from.get(i).cloned()?,
            (Some(-1), _) => {
                wildcard = Some(i);
                Size::fixed(1)
            }
            _ => size_of(g, item.clone()),
        });
    }
    if let Some(i) = wildcard {
        let part = size_product(g, &shape);
        let whole = from.map(|from| size_product(g, &from));
        shape[i] = match whole {
            Some(whole) => g.symbols.div(&whole, &part),
            None => g.symbols.fresh(),
        };
    }
    Some(shape)
}

fn flatten_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?.clone();
    let axis = node.int("axis", 1);
    let axis = if axis == shape.len() as i64 {
        shape.len()
    } else {
        axis_of(axis, shape.len())?
    };
    Some(vec![
        size_product(g, &shape[..axis]),
        size_product(g, &shape[axis..]),
    ])
}

fn squeeze_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?.clone();
    match known_axes(g, node, shape.len())? {
        Some(axes) => reduced_shape(&shape, &axes, false),
        // Without the axes, the rank depends on which sizes are 1.
        None if shape.iter().all(|d| d.as_fixed().is_some()) => {
            Some(shape.into_iter().filter(|d| !d.is(1)).collect())
        }
        None => None,
    }
}

fn unsqueeze_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?.clone();
    let added = match node.input(1) {
        Some(v) => g.content(v)?.items.len(),
        None => node.ints("axes")?.len(),
    };
    let rank = shape.len().checked_add(added)?;
    let axes = known_axes(g, node, rank)??;
    let mut rest = shape.into_iter();
    (0..rank)
        .map(|i| {
            if axes.contains(&i) {
                Some(Size::fixed(1))
            } else {
                rest.next()
            }
        })
        .collect()
}

/// Returns the reshaped tangent. The elements keep their order and the directions stay in front.
/// The factor of a tangent is reshaped together with its base.
fn reshape_tangent(s: &mut JvpContext) -> TangentResult {
    let Some(tangent) = s.lazy(0) else {
        return Ok(None);
    };
    let (from, to) = (s.x_shape(0)?, s.y_shape()?);
    let target = s.tangent_shape(&to);
    let base =
        matrices(s, tangent.base, &target).unwrap_or_else(|| s.g.reshape(tangent.base, &target));
    let factor = tangent.factor.map(|factor| match s.g.rank(factor) {
        Some(0) => factor,
        _ => reshaped_factor(s.g, factor, &from, &to),
    });
    Ok(Some(Tangent { base, factor }))
}

/// Reshapes the factor of a tangent that is reshaped from `from` to `to`. The result broadcasts to
/// `to`, and has as many axes.
pub(super) fn reshaped_factor(g: &mut Graph, factor: Val, from: &[Size], to: &[Size]) -> Val {
    let narrow = match g.passes.has(Pass::NarrowFactors) {
        true => narrow_factor(g, factor, from, to),
        false => None,
    };
    narrow.unwrap_or_else(|| {
        let factor = g.expand(factor, from);
        g.reshape(factor, to)
    })
}

/// Reshapes a factor that is the same along the last axes of `from`. Where the other axes, each of
/// their elements a fixed number of times, are the first axes of `to`, it stays the same along the
/// last axes of `to`.
fn narrow_factor(g: &mut Graph, factor: Val, from: &[Size], to: &[Size]) -> Option<Val> {
    let shape = g.shape(factor)?.clone();
    let missing = from.len().checked_sub(shape.len())?;
    let varying = shape.iter().rposition(|size| !size.is(1));
    let kept = varying.map_or(0, |axis| missing + axis + 1);
    let outer = size_product(g, &from[..kept]);
    let (first, times) = (0..to.len()).find_map(|first| {
        let times = size_product(g, &to[..first]).over(&outer)?;
        times.as_fixed().map(|times| (first, times))
    })?;
    let ones = |count: usize| vec![Size::fixed(1); count];
    let outer = g.expand(factor, &[&from[..kept], &ones(from.len() - kept)].concat());
    let outer = g.reshape(outer, &[&from[..kept], &ones(1)].concat());
    let repeated = g.expand(outer, &[&from[..kept], &[Size::fixed(times)]].concat());
    Some(g.reshape(repeated, &[&to[..first], &ones(to.len() - first)].concat()))
}

/// Reshapes the leading axes of transposed matrices before the transposition, so that a product can
/// still absorb it. Returns `None` if the reshape changes the matrices.
fn matrices(s: &mut JvpContext, v: Val, target: &[Size]) -> Option<Val> {
    let (shape, rank) = (s.g.shape(v)?.clone(), target.len());
    if !s.g.passes.has(Pass::KeptTranspositions)
        || rank < 3
        || shape.len() < 3
        || shape[shape.len() - 2..] != target[rank - 2..]
    {
        return None;
    }
    let plain = s.g.swap(v, shape.len());
    let mut swapped = target.to_vec();
    swapped.swap(rank - 2, rank - 1);
    let is_source =
        s.g.maker(v)
            .is_some_and(|node| node.standard() == "Transpose" && node.input(0) == Some(plain));
    is_source.then(|| {
        let plain = s.g.reshape(plain, &swapped);
        s.g.swap(plain, rank)
    })
}

fn reshape_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (c, shape) = (t.c()?, t.input_shape(0)?);
    Ok(vec![(0, t.g.reshape(c, &shape))])
}
