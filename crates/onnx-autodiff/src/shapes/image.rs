//! Shapes of what slides windows over images, and of what changes their resolution.

use super::{axis_of, sizes};
use crate::content::Content;
use crate::ir::{Graph, Node, Shape};
use crate::size::Size;

/// Window arguments of convolutions and pools, for one spatial axis.
pub struct Window {
    pub kernel: i64,
    pub stride: i64,
    pub dilation: i64,
    pub before: i64,
    pub after: i64,
}

/// The windows of all spatial axes; pads are zero where `auto_pad` sets them.
pub fn windows(node: &Node, kernel: &[i64]) -> Option<Vec<Window>> {
    let n = kernel.len();
    let list = |name: &str, default: i64, length: usize| {
        let list = node.ints(name).filter(|l| !l.is_empty()).unwrap_or_else(|| vec![default; length]);
        (list.len() == length).then_some(list)
    };
    let (strides, dilations, pads) = (list("strides", 1, n)?, list("dilations", 1, n)?, list("pads", 0, 2 * n)?);
    let sane = |v: u64| v < 1 << 31;
    let positive = |v: &i64| *v > 0 && sane(v.unsigned_abs());
    if !kernel.iter().chain(&strides).chain(&dilations).all(positive) || !pads.iter().all(|v| sane(v.unsigned_abs())) {
        return None;
    }
    let window = |i: usize| Window {
        kernel: kernel[i],
        stride: strides[i],
        dilation: dilations[i],
        before: pads[i],
        after: pads[i + n],
    };
    Some((0..n).map(window).collect())
}

fn windowed(g: &mut Graph, node: &Node, length: &Size, w: &Window) -> Size {
    let stride = Size::fixed(w.stride);
    let reach = w.dilation * (w.kernel - 1) + 1;
    match node.text("auto_pad", "NOTSET").as_str() {
        "SAME_UPPER" | "SAME_LOWER" => {
            let up = g.symbols.add(length, &Size::fixed(w.stride - 1));
            g.symbols.div(&up, &stride)
        }
        auto => {
            let pads = if auto == "VALID" { 0 } else { w.before + w.after };
            let room = g.symbols.add(length, &Size::fixed(pads - reach));
            if node.int("ceil_mode", 0) != 0 {
                return ceil_windows(g, length, &room, pads, w);
            }
            let steps = g.symbols.div(&room, &stride);
            g.symbols.add(&steps, &Size::fixed(1))
        }
    }
}

/// Windows that may reach over the end, but must not start beyond it.
fn ceil_windows(g: &mut Graph, length: &Size, room: &Size, _pads: i64, w: &Window) -> Size {
    let up = g.symbols.add(room, &Size::fixed(w.stride - 1));
    let steps = g.symbols.div(&up, &Size::fixed(w.stride));
    match (steps.as_fixed(), length.as_fixed()) {
        (Some(steps), Some(length)) => {
            let beyond = steps.saturating_mul(w.stride) >= length.saturating_add(w.before);
            Size::fixed(steps.saturating_add(i64::from(!beyond)))
        }
        _ => g.symbols.fresh(),
    }
}

pub fn conv(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (x, w) = (g.shape(node.input(0)?)?.clone(), g.shape(node.input(1)?)?.clone());
    if x.len() != w.len() || x.len() < 3 {
        return None;
    }
    let kernel: Option<Vec<i64>> = w[2..].iter().map(Size::as_fixed).collect();
    let mut shape = vec![x[0].clone(), w[0].clone()];
    match kernel.and_then(|kernel| windows(node, &kernel)) {
        Some(windows) => {
            shape.extend(x[2..].iter().zip(&windows).map(|(d, w)| windowed(g, node, d, w)).collect::<Vec<_>>())
        }
        None => shape.extend(x[2..].iter().map(|_| g.symbols.fresh()).collect::<Vec<_>>()),
    }
    Some(shape)
}

pub fn conv_transpose(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (x, w) = (g.shape(node.input(0)?)?.clone(), g.shape(node.input(1)?)?.clone());
    if x.len() != w.len() || x.len() < 3 {
        return None;
    }
    let group = Size::fixed(node.int("group", 1));
    let mut shape = vec![x[0].clone(), g.symbols.mul(&w[1], &group)];
    let kernel: Option<Vec<i64>> = w[2..].iter().map(Size::as_fixed).collect();
    let given = node.ints("output_shape").filter(|l| !l.is_empty());
    let extra = node.ints("output_padding").unwrap_or_default();
    let windows = kernel.and_then(|kernel| windows(node, &kernel));
    for (i, length) in x[2..].iter().enumerate() {
        let size = match (&given, &windows) {
            (Some(given), _) => Size::fixed(*given.get(given.len().checked_sub(x.len() - 2)? + i)?),
            (None, Some(windows)) if !node.text("auto_pad", "NOTSET").starts_with("SAME") => {
                let w = &windows[i];
                let reach = w.dilation * (w.kernel - 1) + 1 + extra.get(i).unwrap_or(&0) - w.before - w.after;
                let steps = g.symbols.sub(length, &Size::fixed(1));
                let span = g.symbols.mul(&steps, &Size::fixed(w.stride));
                g.symbols.add(&span, &Size::fixed(reach))
            }
            (None, Some(windows)) => g.symbols.mul(length, &Size::fixed(windows[i].stride)),
            _ => g.symbols.fresh(),
        };
        shape.push(size);
    }
    Some(shape)
}

pub fn pool(g: &mut Graph, node: &Node) -> Option<Shape> {
    let x = g.shape(node.input(0)?)?.clone();
    let kernel = node.ints("kernel_shape")?;
    if kernel.len() + 2 != x.len() {
        return None;
    }
    let windows = windows(node, &kernel)?;
    let mut shape = x[..2].to_vec();
    for (length, w) in x[2..].iter().zip(&windows) {
        shape.push(windowed(g, node, length, w));
    }
    Some(shape)
}

pub fn depth_to_space(g: &mut Graph, node: &Node) -> Option<Shape> {
    let x = g.shape(node.input(0)?)?.clone();
    let block = Size::fixed(node.int("blocksize", 1));
    let square = block.times(&block)?;
    let [n, c, h, w] = x.as_slice() else {
        return None;
    };
    Some(if node.op == "DepthToSpace" {
        vec![n.clone(), g.symbols.div(c, &square), g.symbols.mul(h, &block), g.symbols.mul(w, &block)]
    } else {
        vec![n.clone(), g.symbols.mul(c, &square), g.symbols.div(h, &block), g.symbols.div(w, &block)]
    })
}

pub fn resize(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let axes = match node.ints("axes") {
        Some(axes) => axes.iter().map(|a| axis_of(*a, shape.len())).collect::<Option<Vec<_>>>()?,
        None => (0..shape.len()).collect(),
    };
    let stretch = node.text("keep_aspect_ratio_policy", "stretch") == "stretch";
    let scales = if node.op == "Upsample" { node.input(1) } else { node.input(2) };
    if let (Some(v), true) = (node.input(3), stretch) {
        let target = sizes(g, v)?;
        for (axis, size) in axes.iter().zip(target) {
            shape[*axis] = size;
        }
        return Some(shape);
    }
    let scales = scales.and_then(|v| g.content(v)).and_then(Content::reals).filter(|s| s.len() == axes.len());
    for (i, axis) in axes.iter().enumerate() {
        shape[*axis] = match &scales {
            Some(scales) => scaled(g, &shape[*axis].clone(), scales[i]),
            None => g.symbols.fresh(),
        };
    }
    Some(shape)
}

/// `floor(length * scale)`.
fn scaled(g: &mut Graph, length: &Size, scale: f64) -> Size {
    match length.as_fixed() {
        Some(n) if (n as f64 * scale).abs() < 1e15 => Size::fixed((n as f64 * scale).floor() as i64),
        None if scale.fract() == 0.0 && scale.abs() < 1e6 => g.symbols.mul(length, &Size::fixed(scale as i64)),
        None if (1.0 / scale).fract() == 0.0 && scale > 1e-6 => {
            g.symbols.div(length, &Size::fixed((1.0 / scale) as i64))
        }
        _ => g.symbols.expression(format!("floor {length:?} * {scale}")),
    }
}
