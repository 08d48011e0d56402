//! `Pad`: elements around a tensor.

use super::gather::add_along;
use super::operator::{Operator, TangentResult};
use super::parts::index_range;
use crate::content::Item;
use crate::error::Refusal;
use crate::graph::{Graph, Node, Shape, Val};
use crate::inference::axis_of;
use crate::jvp_context::{JvpContext, Tangent};
use crate::transpose_context::{Cotangents, TransposeContext};

/// The declaration of `Pad`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("Pad")
    .shape(pad_shape)
    .tangent(pad_tangent)
    .transpose(pad_cotangent)
    .smooth_in(&[0, 2])];

fn pad_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let pads = match node.input(1).and_then(|v| g.content(v).cloned()) {
        Some(content) => content.items,
        None => return Some(shape.iter().map(|_| g.symbols.fresh()).collect()),
    };
    let axes: Vec<usize> = match node.input(3) {
        Some(v) => g
            .content(v)?
            .fixed()?
            .iter()
            .map(|a| axis_of(*a, shape.len()))
            .collect::<Option<_>>()?,
        None => (0..shape.len()).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return None;
    }
    for (i, axis) in axes.iter().enumerate() {
        for pad in [&pads[i], &pads[i + axes.len()]] {
            shape[*axis] = match pad {
                Item::Int(pad) => g.symbols.add(&shape[*axis], pad),
                _ => g.symbols.fresh(),
            };
        }
    }
    Some(shape)
}

/// Returns the tangent. Constant padding pads the tangent with zeros, and the other modes copy its
/// elements.
fn pad_tangent(s: &mut JvpContext) -> TangentResult {
    s.only(&[0], "pad with constants")?;
    let d = s.dx()?;
    let rank = s.rank(0)?;
    let pads = s.node.input(1).ok_or("its pads are missing")?;
    let mode = s.node.attribute("mode").cloned();
    let mut inputs = vec![Some(d)];
    if s.node.input(3).is_some() {
        let axes: Option<Vec<i64>> = s
            .known(3)?
            .iter()
            .map(|a| Some(axis_of(*a, rank)? as i64 + 1))
            .collect();
        let axes = axes.ok_or("its axes do not fit its input")?;
        let axes = s.g.integers(&axes);
        inputs.extend([Some(pads), None, Some(axes)]);
    } else {
        inputs.push(Some(shifted_pads(s, pads, rank)));
    }
    let padded = s.g.op_optional("Pad", &inputs, mode.into_iter().collect());
    let shape = s.tangent_shape(&s.y_shape()?);
    s.g.set_shape(padded, &shape);
    Ok(Some(Tangent::plain(padded)))
}

/// Appends the pads with zeros for the directions.
fn shifted_pads(s: &mut JvpContext, pads: Val, rank: usize) -> Val {
    if let Ok(known) = s.known(1)
        && known.len() == 2 * rank
    {
        let (before, after) = known.split_at(rank);
        return s.g.integers(&[&[0], before, &[0], after].concat());
    }
    let zero = s.g.integers(&[0]);
    let [first, second] = [0..rank as i64, rank as i64..2 * rank as i64].map(|places| {
        let places = s.g.integers(&places.collect::<Vec<_>>());
        s.g.op("Gather", &[pads, places])
    });
    s.g.concat(&[zero, first, zero, second], 0)
}

/// Returns the cotangent, which the negated pads crop.
fn pad_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (c, pads, shape) = (t.c()?, t.input(1)?, t.input_shape(0)?);
    if t.node.text("mode", "constant") != "constant" {
        return pad_copies(t);
    }
    let cut = t.g.neg(pads);
    let mut inputs = vec![Some(c), Some(cut)];
    if t.node.input(3).is_some() {
        inputs.extend([None, t.node.input(3)]);
    }
    let result = t.g.op_optional("Pad", &inputs, Vec::new());
    t.g.set_shape(result, &shape);
    Ok(vec![(0, result)])
}

/// Returns the cotangent of a padding that copies elements. Padding the indices along each axis
/// yields the source of each element.
fn pad_copies(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let shape = t.input_shape(0)?;
    let pads = t
        .node
        .input(1)
        .and_then(|v| t.g.content(v))
        .and_then(|c| c.fixed());
    let pads =
        pads.ok_or("its pads are computed at run time; export the model with constant pads")?;
    let axes: Vec<i64> = match t.node.input(3) {
        Some(v) => {
            t.g.content(v)
                .and_then(|c| c.fixed())
                .ok_or("its axes are computed at run time")?
        }
        None => (0..shape.len() as i64).collect(),
    };
    let mut c = t.c()?;
    for (i, axis) in axes.iter().enumerate() {
        let axis = axis_of(*axis, shape.len()).ok_or("its axes do not fit its input")?;
        let around = pads.get(i).zip(pads.get(i + axes.len()));
        let (before, after) = around
            .map(|(b, a)| (*b, *a))
            .ok_or("its pads do not fit its axes")?;
        if (before, after) != (0, 0) {
            let places = index_range(t, &shape[axis]);
            let around = t.g.integers(&[before, after]);
            let mode = t.node.attribute("mode").cloned();
            let padded =
                t.g.op_with("Pad", &[places, around], mode.into_iter().collect());
            c = add_along(t, c, axis, padded, &shape[axis])?;
        }
    }
    Ok(vec![(0, c)])
}
