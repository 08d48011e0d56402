//! Convolutions as products of matrices: the patches that a window meets, stacked, times the weights.

use crate::ir::{Graph, Node, Shape, Val};
use crate::shapes::{self, Window};
use crate::size::Size;

/// Windows of more places than this are kept as they are.
const PLACES: i64 = 1024;

/// How many numbers are added at both ends of each spatial axis.
pub type Pads = Vec<(i64, i64)>;

pub fn conv(g: &mut Graph, node: &Node) -> Option<Val> {
    let (x, weight) = (node.input(0)?, node.input(1)?);
    let (shape, kernel) = (g.shape(x)?.clone(), spatial(g, weight)?);
    let windows = shapes::windows(node, &kernel)?;
    let pads = pads(node, &shape, &windows)?;
    let padded = pad(g, x, &pads)?;
    let groups = node.int("group", 1);
    let matrix = conv_matrix(g, weight, groups)?;
    let y_shape = output_shape(g, node)?;
    let y = correlated(g, padded, matrix, &windows, groups, &y_shape, false)?;
    with_bias(g, node, y)
}

/// The images with zeros between their numbers, met by the mirrored windows.
pub fn conv_transpose(g: &mut Graph, node: &Node) -> Option<Val> {
    let (x, weight) = (node.input(0)?, node.input(1)?);
    let kernel = spatial(g, weight)?;
    let mut windows = shapes::windows(node, &kernel)?;
    let sized = node.ints("output_shape").is_some_and(|shape| !shape.is_empty());
    if sized {
        return None;
    }
    let extra = node.ints("output_padding").unwrap_or_default();
    let mut pads = Pads::new();
    for (i, w) in windows.iter().enumerate() {
        let (reach, extra) = (w.dilation * (w.kernel - 1), extra.get(i).copied().unwrap_or(0));
        let (before, after) = cropped(node, w, extra)?;
        pads.push((reach - before, reach - after + extra - (w.stride - 1)));
    }
    let spread = spread(g, x, &windows)?;
    let padded = pad(g, spread, &pads)?;
    windows.iter_mut().for_each(|w| w.stride = 1);
    let groups = node.int("group", 1);
    let matrix = conv_transpose_matrix(g, weight, groups)?;
    let y_shape = output_shape(g, node)?;
    let y = correlated(g, padded, matrix, &windows, groups, &y_shape, true)?;
    with_bias(g, node, y)
}

/// What is cut off the output of a transposed convolution at both ends of an axis.
fn cropped(node: &Node, w: &Window, extra: i64) -> Option<(i64, i64)> {
    let total = w.dilation * (w.kernel - 1) + 1 + extra - w.stride;
    match node.text("auto_pad", "NOTSET").as_str() {
        "VALID" => Some((0, 0)),
        "SAME_UPPER" if total >= 0 => Some((total / 2, total - total / 2)),
        "SAME_LOWER" if total >= 0 => Some((total - total / 2, total / 2)),
        "SAME_UPPER" | "SAME_LOWER" => None,
        _ => Some((w.before, w.after)),
    }
}

fn spatial(g: &Graph, weight: Val) -> Option<Vec<i64>> {
    let kernel: Vec<i64> = g.shape(weight)?.get(2..)?.iter().map(Size::as_fixed).collect::<Option<_>>()?;
    let places = kernel.iter().try_fold(1i64, |n, k| n.checked_mul(*k))?;
    (!kernel.is_empty() && (1..=PLACES).contains(&places)).then_some(kernel)
}

pub fn output_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    shapes::infer(g, node, 1).into_iter().next()?.1
}

fn with_bias(g: &mut Graph, node: &Node, y: Val) -> Option<Val> {
    let Some(bias) = node.input(2) else { return Some(y) };
    let axes: Vec<i64> = (1..g.rank(y)? as i64 - 1).collect();
    let bias = g.unsqueeze(bias, &axes);
    Some(g.add(y, bias))
}

/// The padding that the node's attributes mean.
pub fn pads(node: &Node, shape: &[Size], windows: &[Window]) -> Option<Pads> {
    let same = |w: &Window, length: &Size, upper: bool| {
        let length = length.as_fixed()?;
        let steps = (length + w.stride - 1) / w.stride - 1;
        let total = (steps * w.stride + w.dilation * (w.kernel - 1) + 1 - length).max(0);
        let less = total / 2;
        Some(if upper { (less, total - less) } else { (total - less, less) })
    };
    let lengths = shape.get(2..).filter(|lengths| lengths.len() == windows.len())?;
    match node.text("auto_pad", "NOTSET").as_str() {
        "VALID" => Some(vec![(0, 0); windows.len()]),
        "SAME_UPPER" => windows.iter().zip(lengths).map(|(w, n)| same(w, n, true)).collect(),
        "SAME_LOWER" => windows.iter().zip(lengths).map(|(w, n)| same(w, n, false)).collect(),
        _ => Some(windows.iter().map(|w| (w.before, w.after)).collect()),
    }
}

/// Zeros around an image; a negative number crops it.
pub fn pad(g: &mut Graph, x: Val, pads: &Pads) -> Option<Val> {
    if pads.iter().all(|pair| *pair == (0, 0)) {
        return Some(x);
    }
    let mut shape = g.shape(x)?.clone();
    for (size, (before, after)) in shape.iter_mut().skip(2).zip(pads) {
        *size = g.symbols.add(size, &Size::fixed(before + after));
    }
    let starts = [0, 0].into_iter().chain(pads.iter().map(|pair| pair.0));
    let ends = [0, 0].into_iter().chain(pads.iter().map(|pair| pair.1));
    let amounts: Vec<i64> = starts.chain(ends).collect();
    let amounts = g.integers(&amounts);
    let padded = g.op("Pad", &[x, amounts]);
    g.set_shape(padded, &shape);
    Some(padded)
}

/// `stride − 1` zeros behind every number of the spatial axes.
fn spread(g: &mut Graph, x: Val, windows: &[Window]) -> Option<Val> {
    if windows.iter().all(|w| w.stride == 1) {
        return Some(x);
    }
    let shape = g.shape(x)?.clone();
    let axes: Vec<i64> = (0..windows.len() as i64).map(|i| 3 + 2 * i).collect();
    let apart = g.unsqueeze(x, &axes);
    let rank = shape.len() + windows.len();
    let mut amounts = vec![0; 2 * rank];
    let mut whole = shape[..2].to_vec();
    for (i, w) in windows.iter().enumerate() {
        amounts[rank + 3 + 2 * i] = w.stride - 1;
        whole.push(g.symbols.mul(&shape[2 + i], &Size::fixed(w.stride)));
    }
    let amounts = g.integers(&amounts);
    let padded = g.op("Pad", &[apart, amounts]);
    Some(g.reshape(padded, &whole))
}

/// `[M, C/G, …k]` as `[G, M/G, K·C/G]`, the places of the window before the channels.
fn conv_matrix(g: &mut Graph, weight: Val, groups: i64) -> Option<Val> {
    let shape = g.shape(weight)?.clone();
    let order: Vec<usize> = [0].into_iter().chain(2..shape.len()).chain([1]).collect();
    let turned = g.transpose(weight, &order);
    let places = window_places(&shape)?;
    let groups = Size::fixed(groups);
    let each = shape[0].over(&groups)?;
    let width = g.symbols.mul(&places, &shape[1]);
    Some(g.reshape(turned, &[groups, each, width]))
}

/// `[C, M/G, …k]` as `[G, M/G, K·C/G]`, the places of the window before the channels.
fn conv_transpose_matrix(g: &mut Graph, weight: Val, groups: i64) -> Option<Val> {
    let shape = g.shape(weight)?.clone();
    let groups = Size::fixed(groups);
    let channels = shape[0].over(&groups)?;
    let split: Shape = [&[groups.clone(), channels.clone()], &shape[1..]].concat();
    let apart = g.reshape(weight, &split);
    let order: Vec<usize> = [0, 2].into_iter().chain(3..split.len()).chain([1]).collect();
    let turned = g.transpose(apart, &order);
    let places = window_places(&shape)?;
    let width = g.symbols.mul(&places, &channels);
    Some(g.reshape(turned, &[groups, shape[1].clone(), width]))
}

fn window_places(shape: &[Size]) -> Option<Size> {
    shape[2..].iter().try_fold(Size::fixed(1), |n, k| n.times(k))
}

/// What each place of the window meets, one place after another; `mirrored` takes the last place first.
pub fn patches(g: &mut Graph, padded: Val, windows: &[Window], y: &[Size], mirrored: bool) -> Option<Vec<Val>> {
    let channels = g.shape(padded)?[..2].to_vec();
    let shape: Shape = [&channels[..], &y[2..]].concat();
    let mut places: Vec<Vec<i64>> = vec![Vec::new()];
    for w in windows {
        places = places.iter().flat_map(|p| (0..w.kernel).map(|i| [&p[..], &[i]].concat())).collect();
    }
    if mirrored {
        places.reverse();
    }
    let axes = g.integers(&(2..y.len() as i64).collect::<Vec<_>>());
    let steps = g.integers(&windows.iter().map(|w| w.stride).collect::<Vec<_>>());
    let mut found = Vec::new();
    for place in places {
        let starts: Vec<i64> = place.iter().zip(windows).map(|(i, w)| i * w.dilation).collect();
        let ends: Vec<i64> = place.iter().zip(windows).map(|(i, w)| end(w.dilation * (w.kernel - 1 - i))).collect();
        let (starts, ends) = (g.integers(&starts), g.integers(&ends));
        let patch = g.op("Slice", &[padded, starts, ends, axes, steps]);
        g.set_shape(patch, &shape);
        found.push(patch);
    }
    Some(found)
}

/// A bound so many places before the end.
fn end(behind: i64) -> i64 {
    if behind == 0 { i64::MAX } else { -behind }
}

fn correlated(
    g: &mut Graph,
    padded: Val,
    matrix: Val,
    windows: &[Window],
    groups: i64,
    y: &[Size],
    mirrored: bool,
) -> Option<Val> {
    let batch = g.shape(padded)?[..2].to_vec();
    let groups = Size::fixed(groups);
    let channels = batch[1].over(&groups)?;
    let pixels = shapes::product(g, &y[2..]);
    let flat = [batch[0].clone(), groups, channels, pixels];
    let parts = patches(g, padded, windows, y, mirrored)?;
    let parts: Vec<Val> = parts.into_iter().map(|part| g.reshape(part, &flat)).collect();
    let stacked = g.concat(&parts, 2);
    let product = g.op("MatMul", &[matrix, stacked]);
    Some(g.reshape(product, y))
}
