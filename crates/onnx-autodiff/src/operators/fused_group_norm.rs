//! Normalization by groups of channels, of images whose channels are the last axis or the second.

use super::operator::{Lowered, Operator};
use super::parts::{one, plus};
use crate::elem::ElemType;
use crate::graph::emit::float;
use crate::graph::{Graph, Node, Val};
use crate::size::Size;

pub const OPERATORS: &[Operator] = &[
    Operator::fused("GroupNorm", group_norm),
    Operator::fused("SkipGroupNorm", skip_group_norm),
];

pub fn group_norm(g: &mut Graph, node: &Node) -> Lowered {
    let x = node.input(0)?;
    one(group_normalized(g, node, x)?)
}

/// The same of a sum, which is an output too.
pub fn skip_group_norm(g: &mut Graph, node: &Node) -> Lowered {
    let (x, skip) = (node.input(0)?, node.input(3)?);
    let rank = g.rank(x)?;
    let (last, few) = (node.int("channels_last", 1) != 0, g.rank(skip)? < rank);
    // Fewer axes are those of a batch of channels, which only the kernel for the last axis reads that way.
    if few || !last {
        return None;
    }
    let sum = g.add(x, skip);
    let sum = plus(g, sum, node.input(4));
    Some(vec![Some(group_normalized(g, node, sum)?), Some(sum)])
}

/// `gamma (x - mean) / std + beta` and its activation.
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

/// Groups of channels without mean and of deviation one.
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

/// A number for each of some groups.
fn per_group(g: &mut Graph, value: f64, count: i64, elem: ElemType) -> Val {
    let number = g.real(value, elem);
    let list = g.expand(number, &[Size::fixed(count)]);
    g.cast(list, elem)
}

/// A list with a number for each channel, along the second of `rank` axes.
fn channelwise(g: &mut Graph, list: Val, elem: ElemType, rank: usize) -> Option<Val> {
    if g.rank(list) != Some(1) {
        return None;
    }
    let list = g.cast(list, elem);
    let axes: Vec<i64> = (1..=rank as i64 - 2).collect();
    Some(g.unsqueeze(list, &axes))
}

/// `[N, …, C]` as `[N, C, …]`.
pub fn channels_first(g: &mut Graph, v: Val, rank: usize) -> Val {
    let mut perm: Vec<usize> = (0..rank).collect();
    perm[1..].rotate_right(1);
    permuted(g, v, &perm)
}

/// `[N, C, …]` as `[N, …, C]`.
pub fn channels_last(g: &mut Graph, v: Val, rank: usize) -> Val {
    let mut perm: Vec<usize> = (0..rank).collect();
    perm[1..].rotate_left(1);
    permuted(g, v, &perm)
}

/// A value with its axes in another order; what had them in that order before is not turned twice.
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

/// Whether one order of axes after another is the order at first.
fn undoes(first: &[i64], second: &[usize]) -> bool {
    first.len() == second.len()
        && second
            .iter()
            .enumerate()
            .all(|(place, axis)| first[*axis] == place as i64)
}
