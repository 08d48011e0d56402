//! Averages and maxima over images.

use super::convolution::{output_shape, pad, pads, patches};
use crate::elem::ElemType;
use crate::ir::{Graph, Node, Val};
use crate::shapes::{self, Window};
use crate::size::Size;

pub fn global_average(g: &mut Graph, node: &Node) -> Option<Val> {
    global(g, node, "ReduceMean")
}

pub fn global_max(g: &mut Graph, node: &Node) -> Option<Val> {
    global(g, node, "ReduceMax")
}

fn global(g: &mut Graph, node: &Node, op: &str) -> Option<Val> {
    let x = node.input(0)?;
    let axes: Vec<i64> = (2..g.rank(x)? as i64).collect();
    Some(g.reduce(op, x, &axes, true))
}

/// The sum over the window, by the number of places that count.
pub fn average(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let shape = g.shape(x)?.clone();
    let windows = shapes::windows(node, &node.ints("kernel_shape")?)?;
    if windows.iter().map(|w| w.kernel).try_fold(1i64, i64::checked_mul)? > 1024 {
        return None;
    }
    let y = output_shape(g, node)?;
    let stated = pads(node, &shape, &windows)?;
    let mut padding = stated.clone();
    if node.int("ceil_mode", 0) != 0 {
        for (i, w) in windows.iter().enumerate() {
            let (length, steps) = (shape[2 + i].as_fixed()?, y[2 + i].as_fixed()? - 1);
            let reached = steps * w.stride + w.dilation * (w.kernel - 1) + 1;
            padding[i].1 = padding[i].1.max(reached - length - padding[i].0);
        }
    }
    let padded = pad(g, x, &padding)?;
    let parts = patches(g, padded, &windows, &y, false)?;
    let mut mean = g.combine("Add", &parts);
    let padding_counts = node.int("count_include_pad", 0) != 0;
    for (i, w) in windows.iter().enumerate() {
        let whole = padding[i] == (0, 0) || (padding_counts && padding[i] == stated[i]);
        let count = if whole {
            g.real(w.kernel as f64, ElemType::DOUBLE)
        } else {
            let (length, steps) = (shape[2 + i].as_fixed()?, y[2 + i].as_fixed()?);
            let first = if padding_counts { -stated[i].0 } else { 0 };
            let last = if padding_counts { length + stated[i].1 } else { length };
            counts(g, w, stated[i].0, (first, last), steps, y.len() - 3 - i)?
        };
        mean = g.div(mean, count);
    }
    g.set_shape(mean, &y);
    Some(mean)
}

/// How many places of each window lie within bounds, with so many axes of size 1 behind.
fn counts(g: &mut Graph, w: &Window, before: i64, bounds: (i64, i64), steps: i64, behind: usize) -> Option<Val> {
    if !(1..=1 << 20).contains(&steps) {
        return None;
    }
    let counted = |step: i64| {
        let start = step * w.stride - before;
        (0..w.kernel).filter(|i| (bounds.0..bounds.1).contains(&(start + i * w.dilation))).count() as f64
    };
    let counts: Vec<f64> = (0..steps).map(counted).collect();
    let counts = g.reals(&counts, &[steps]);
    let shape: Vec<Size> = [Size::fixed(steps)].into_iter().chain(vec![Size::fixed(1); behind]).collect();
    Some(g.reshape(counts, &shape))
}
