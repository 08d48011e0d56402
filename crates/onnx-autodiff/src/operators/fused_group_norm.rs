//! `GroupNorm` and `SkipGroupNorm`: normalization by groups of channels, which are the last axis or
//! the second.

use super::operator::{Lowered, Operator};
use super::parts::{one, plus};
use crate::elem::ElemType;
use crate::graph::emit::float;
use crate::graph::{Graph, Node, Val};
use crate::size::Size;

/// The declarations of `GroupNorm` and `SkipGroupNorm`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::fused("GroupNorm", group_norm),
    Operator::fused("SkipGroupNorm", skip_group_norm),
];

/// Returns the replacement of `GroupNorm`.
pub(super) fn group_norm(g: &mut Graph, node: &Node) -> Lowered {
    let x = node.input(0)?;
    one(group_normalized(g, node, x)?)
}

/// Returns the replacement of `SkipGroupNorm`, which normalizes a sum and returns the sum too.
pub(super) fn skip_group_norm(g: &mut Graph, node: &Node) -> Lowered {
    let (x, skip) = (node.input(0)?, node.input(3)?);
    let rank = g.rank(x)?;
    let (last, few) = (node.int("channels_last", 1) != 0, g.rank(skip)? < rank);
    // A summand of fewer axes holds one number for each sample and channel. Only the kernel for
    // channels in the last axis reads it that way.
    if few || !last {
        return None;
    }
    let sum = g.add(x, skip);
    let sum = plus(g, sum, node.input(4));
    Some(vec![Some(group_normalized(g, node, sum)?), Some(sum)])
}

/// Appends `gamma (x - mean) / std + beta` and its activation.
fn group_normalized(g: &mut Graph, node: &Node, x: Val) -> Option<Val> {
    let activation = node.int("activation", 0);
    let rank = g
        .rank(x)
        .filter(|rank| (3..=5).contains(rank) && (0..=1).contains(&activation))?;
    let last = node.int("channels_last", 1) != 0;
    let x = if last { channels_first(g, x, rank) } else { x };
    let hat = standardized(g, node, x)?;
    let [gamma, beta] = [1, 2].map(|place| channelwise(g, node.input(place)?, g.elem(x), rank));
    let (gamma, beta) = (gamma?, beta?);
    let scaled = g.mul(hat, gamma);
    let mut y = g.add(scaled, beta);
    if activation == 1 {
        let gate = g.op("Sigmoid", &[y]);
        y = g.mul(y, gate);
    }
    Some(if last { channels_last(g, y, rank) } else { y })
}

/// Appends the groups of channels with mean 0 and standard deviation 1.
fn standardized(g: &mut Graph, node: &Node, x: Val) -> Option<Val> {
    let shape = g.shape(x)?.clone();
    let groups = node.int("groups", 0);
    shape[1]
        .as_fixed()
        .filter(|channels| groups > 0 && channels % groups == 0)?;
    let (count, elem) = (Size::fixed(groups), g.elem(x));
    let whole = shape[2..].iter().fold(shape[1].over(&count)?, |all, size| {
        g.symbols.mul(&all, size)
    });
    let rows = g.reshape(x, &[shape[0].clone(), count, whole]);
    let [one, zero] = [1.0, 0.0].map(|value| per_group(g, value, groups, elem));
    let epsilon = float("epsilon", node.float("epsilon", f64::from(1e-5f32)));
    let hat = g.op_with("InstanceNormalization", &[rows, one, zero], vec![epsilon]);
    Some(g.reshape(hat, &shape))
}

/// Appends a constant with the same number for each of `count` groups.
fn per_group(g: &mut Graph, value: f64, count: i64, elem: ElemType) -> Val {
    let number = g.real(value, elem);
    let list = g.expand(number, &[Size::fixed(count)]);
    g.cast(list, elem)
}

/// Reshapes a list with a number for each channel to `rank` axes, of which the second holds the
/// channels.
fn channelwise(g: &mut Graph, list: Val, elem: ElemType, rank: usize) -> Option<Val> {
    if g.rank(list) != Some(1) {
        return None;
    }
    let list = g.cast(list, elem);
    let axes: Vec<i64> = (1..=rank as i64 - 2).collect();
    Some(g.unsqueeze(list, &axes))
}

/// Permutes `[N, …, C]` to `[N, C, …]`.
pub(super) fn channels_first(g: &mut Graph, v: Val, rank: usize) -> Val {
    let mut perm: Vec<usize> = (0..rank).collect();
    perm[1..].rotate_right(1);
    permuted(g, v, &perm)
}

/// Permutes `[N, C, …]` to `[N, …, C]`.
pub(super) fn channels_last(g: &mut Graph, v: Val, rank: usize) -> Val {
    let mut perm: Vec<usize> = (0..rank).collect();
    perm[1..].rotate_left(1);
    permuted(g, v, &perm)
}

/// Permutes the axes of a value. If the value is itself the inverse permutation of another one,
/// returns that value.
fn permuted(g: &mut Graph, v: Val, perm: &[usize]) -> Val {
    let mut source = v;
    while let Some(before) = g
        .maker(source)
        .filter(|node| node.standard() == "Identity")
        .and_then(|node| node.input(0))
    {
        source = before;
    }
    let maker = g
        .maker(source)
        .filter(|node| node.standard() == "Transpose");
    let before = maker.and_then(|node| Some((node.input(0)?, node.ints("perm")?)));
    match before {
        Some((before, first)) if undoes(&first, perm) => before,
        _ => g.transpose(v, perm),
    }
}

/// Returns whether the permutation `second` undoes the permutation `first`.
fn undoes(first: &[i64], second: &[usize]) -> bool {
    first.len() == second.len()
        && second
            .iter()
            .enumerate()
            .all(|(place, axis)| first[*axis] == place as i64)
}
