//! Normalizations, by their means.

use crate::elem::ElemType;
use crate::ir::{Graph, Node, Shape, Val};
use crate::size::Size;

/// The default of the attribute, which is stored in float32.
const EPSILON: f64 = 1e-5_f32 as f64;

/// `(x − mean) / √(variance + ε)` over some axes.
fn normalized(g: &mut Graph, x: Val, axes: &[i64], epsilon: f64) -> Val {
    let mean = g.reduce("ReduceMean", x, axes, true);
    let centred = g.sub(x, mean);
    let square = g.mul(centred, centred);
    let variance = g.reduce("ReduceMean", square, axes, true);
    let shifted = g.shift(variance, epsilon);
    let deviation = g.op("Sqrt", &[shifted]);
    g.div(centred, deviation)
}

/// A value per channel, as it is broadcast over a tensor of `rank` axes.
fn per_channel(g: &mut Graph, v: Val, rank: usize) -> Val {
    let axes: Vec<i64> = (1..rank as i64 - 1).collect();
    g.unsqueeze(v, &axes)
}

fn scaled(g: &mut Graph, node: &Node, x: Val, rank: usize) -> Option<Val> {
    let (scale, bias) = (per_channel(g, node.input(1)?, rank), per_channel(g, node.input(2)?, rank));
    let product = g.mul(x, scale);
    Some(g.add(product, bias))
}

pub fn instance(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let rank = g.rank(x).filter(|rank| *rank > 2)?;
    let axes: Vec<i64> = (2..rank as i64).collect();
    let y = normalized(g, x, &axes, node.float("epsilon", EPSILON));
    scaled(g, node, y, rank)
}

/// Scale and bias are one number per group before opset 21 and one per channel since.
pub fn group(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let shape = g.shape(x).filter(|shape| shape.len() > 2)?.clone();
    let groups = Size::fixed(node.int("num_groups", 1));
    let width = shape[1].over(&groups)?;
    let split: Shape = [&shape[..1], &[groups, width], &shape[2..]].concat();
    let apart = g.reshape(x, &split);
    let axes: Vec<i64> = (2..split.len() as i64).collect();
    let y = normalized(g, apart, &axes, node.float("epsilon", EPSILON));
    if g.opset < 21 {
        let y = scaled(g, node, y, split.len())?;
        return Some(g.reshape(y, &shape));
    }
    let y = g.reshape(y, &shape);
    scaled(g, node, y, shape.len())
}

pub fn mean_variance(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let axes = node.ints("axes").unwrap_or_else(|| vec![0, 2, 3]);
    // The operator's body adds this to the deviation.
    let mean = g.reduce("ReduceMean", x, &axes, true);
    let centred = g.sub(x, mean);
    let square = g.mul(centred, centred);
    let variance = g.reduce("ReduceMean", square, &axes, true);
    let deviation = g.op("Sqrt", &[variance]);
    let shifted = g.shift(deviation, f64::from(1e-9_f32));
    Some(g.div(centred, shifted))
}

/// `x / (bias + α/size Σ x²)^β` over a window of channels.
pub fn local_response(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let shape = g.shape(x).filter(|shape| shape.len() > 2)?.clone();
    let (size, channels) = (node.int("size", 0), shape[1].as_fixed()?);
    if !(1..=1024).contains(&size) {
        return None;
    }
    let (before, after) = ((size - 1) / 2, size / 2);
    let square = g.mul(x, x);
    let mut pads = vec![0; 2 * shape.len()];
    (pads[1], pads[shape.len() + 1]) = (before, after);
    let pads = g.integers(&pads);
    let padded = g.op("Pad", &[square, pads]);
    let windows: Vec<Val> = (0..size)
        .map(|first| {
            let bounds = [first, first + channels, 1].map(|n| g.integers(&[n]));
            g.op("Slice", &[padded, bounds[0], bounds[1], bounds[2]])
        })
        .collect();
    let sum = g.combine("Add", &windows);
    let scaled = g.scale(sum, node.float("alpha", f64::from(0.0001_f32)) / size as f64);
    let base = g.shift(scaled, node.float("bias", 1.0));
    let exponent = g.real(node.float("beta", 0.75), ElemType::DOUBLE);
    let power = g.op("Pow", &[base, exponent]);
    Some(g.div(x, power))
}
