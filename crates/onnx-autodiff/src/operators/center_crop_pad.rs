//! `CenterCropPad`: the centre of a tensor, with zeros around it along axes that become longer.

use super::operator::{DecompositionResult, Operator};
use super::parts::{cut, finished};
use crate::graph::{Graph, Node, Shape};
use crate::inference::{axis_of, sizes_held_by};
use crate::jvp_context::JvpContext;

/// The declaration of `CenterCropPad`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("CenterCropPad")
    .shape(center_crop_pad_shape)
    .decomposition(center_crop_pad_decomposition)
    .smooth_in(&[0])];

fn center_crop_pad_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let target = sizes_held_by(g, node.input(1)?)?;
    let axes = node
        .ints("axes")
        .unwrap_or_else(|| (0..shape.len() as i64).collect());
    for (axis, size) in axes.iter().zip(target) {
        let axis = axis_of(*axis, shape.len())?;
        shape[axis] = size;
    }
    Some(shape)
}

/// Cuts or pads each axis on both sides to the wanted size.
fn center_crop_pad_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let (x, shape, target) = (s.x(0)?, s.x_shape(0)?, s.known(1)?);
    let axes = s
        .node
        .ints("axes")
        .unwrap_or_else(|| (0..shape.len() as i64).collect());
    if axes.len() != target.len() {
        return Err("its axes do not fit its shape".into());
    }
    let mut pads = vec![0; 2 * shape.len()];
    let mut result = x;
    for (axis, wanted) in axes.iter().zip(target) {
        let axis = axis_of(*axis, shape.len()).ok_or("its axes do not fit its input")?;
        let length = shape[axis]
            .as_fixed()
            .ok_or("the sizes of its input are not known")?;
        if !(0..1 << 40).contains(&length) || !(0..1 << 40).contains(&wanted) {
            return Err("its shape is out of range".into());
        }
        if wanted < length {
            let start = (length - wanted) / 2;
            result = cut(s.g, result, axis, start, start + wanted);
        } else {
            pads[axis] = (wanted - length) / 2;
            pads[axis + shape.len()] = wanted - length - pads[axis];
        }
    }
    if pads.iter().any(|n| *n > 0) {
        let pads = s.g.integers(&pads);
        result = s.g.op("Pad", &[result, pads]);
    }
    finished(s, result)
}
