//! Shapes of Fourier transforms.

use super::axis_of;
use crate::content::Item;
use crate::ir::{Graph, Node, Shape, Val};
use crate::size::Size;

/// A size that an input holds.
fn held(g: &mut Graph, v: Val) -> Size {
    match g.content(v).and_then(|c| c.items.first().cloned()) {
        Some(Item::Int(size)) => size,
        _ => g.symbols.fresh(),
    }
}

pub fn dft(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let axis = match node.input(2) {
        Some(v) => g.content(v)?.fixed()?.first().copied()?,
        None => node.int("axis", if g.opset >= 20 { -2 } else { 1 }),
    };
    let axis = axis_of(axis, shape.len())?;
    let (inverse, onesided) = (node.int("inverse", 0) != 0, node.int("onesided", 0) != 0);
    let length = node.input(1).map(|v| held(g, v));
    shape[axis] = match length {
        Some(length) => length,
        None if inverse && onesided => {
            let steps = g.symbols.sub(&shape[axis], &Size::fixed(1));
            g.symbols.mul(&steps, &Size::fixed(2))
        }
        None => shape[axis].clone(),
    };
    if onesided && !inverse {
        shape[axis] = half(g, &shape[axis].clone());
    }
    *shape.last_mut()? = Size::fixed(if onesided && inverse { 1 } else { 2 });
    Some(shape)
}

/// The length of half a spectrum.
fn half(g: &mut Graph, length: &Size) -> Size {
    let half = g.symbols.div(length, &Size::fixed(2));
    g.symbols.add(&half, &Size::fixed(1))
}

pub fn stft(g: &mut Graph, node: &Node) -> Option<Shape> {
    let signal = g.shape(node.input(0)?)?.clone();
    let step = held(g, node.input(1)?);
    let length = match (node.input(3), node.input(2)) {
        (Some(v), _) => held(g, v),
        (None, Some(window)) => g.shape(window)?.first()?.clone(),
        (None, None) => return None,
    };
    let room = g.symbols.sub(signal.get(1)?, &length);
    let frames = g.symbols.div(&room, &step);
    let frames = g.symbols.add(&frames, &Size::fixed(1));
    let bins = if node.int("onesided", 1) != 0 { half(g, &length) } else { length };
    Some(vec![signal.first()?.clone(), frames, bins, Size::fixed(2)])
}
