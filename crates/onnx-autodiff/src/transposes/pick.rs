//! Operators that pick elements by index: their transposes add the elements back to where they came from.

use super::layout::places;
use super::{CONTRADICTION, Parts, Turn};
use crate::emit::{int, text};
use crate::error::Refusal;
use crate::ir::Val;
use crate::shapes::{self, axis_of};
use crate::size::Size;

/// Adds the slices of `c` along an axis to the given places of zeros with `length` places along it.
pub fn add_along(t: &mut Turn, c: Val, axis: usize, places: Val, length: &Size) -> Result<Val, Refusal> {
    let shape = t.shape(c)?;
    if axis >= shape.len() {
        return Err(CONTRADICTION.into());
    }
    let mut order: Vec<usize> = (0..shape.len()).collect();
    order.swap(0, axis);
    let front = t.g.transpose(c, &order);
    let mut whole: Vec<Size> = order.iter().map(|i| shape[*i].clone()).collect();
    whole[0] = length.clone();
    let zeros = t.g.zeros(&whole, t.g.elem(c));
    let indices = t.g.unsqueeze(places, &[1]);
    let summed = t.g.op_with("ScatterND", &[zeros, indices, front], vec![text("reduction", "add")]);
    t.g.set_shape(summed, &whole);
    Ok(t.g.transpose(summed, &order))
}

pub fn gather(t: &mut Turn) -> Result<Parts, Refusal> {
    let (c, indices, shape) = (t.c()?, t.input(1)?, t.input_shape(0)?);
    let axis = axis_of(t.node.int("axis", 0), shape.len()).ok_or("its axis is out of range")?;
    let sizes = t.input_shape(1)?;
    let count = shapes::product(t.g, &sizes);
    let places = t.g.reshape(indices, std::slice::from_ref(&count));
    let mut flat = shape.clone();
    flat[axis] = count;
    let c = t.g.reshape(c, &flat);
    Ok(vec![(0, add_along(t, c, axis, places, &shape[axis])?)])
}

pub fn gather_elements(t: &mut Turn) -> Result<Parts, Refusal> {
    let (c, indices, shape) = (t.c()?, t.input(1)?, t.input_shape(0)?);
    let zeros = t.g.zeros(&shape, t.g.elem(c));
    let attributes = vec![int("axis", t.node.int("axis", 0)), text("reduction", "add")];
    Ok(vec![(0, t.g.op_with("ScatterElements", &[zeros, indices, c], attributes))])
}

pub fn gather_nd(t: &mut Turn) -> Result<Parts, Refusal> {
    let (c, shape) = (t.c()?, t.input_shape(0)?);
    let indices = with_batch(t)?;
    let zeros = t.g.zeros(&shape, t.g.elem(c));
    Ok(vec![(0, t.g.op_with("ScatterND", &[zeros, indices, c], vec![text("reduction", "add")]))])
}

/// The indices with those of the batch axes in front of them.
fn with_batch(t: &mut Turn) -> Result<Val, Refusal> {
    let indices = t.input(1)?;
    let batch = usize::try_from(t.node.int("batch_dims", 0)).unwrap_or(0);
    let mut shape = t.shape(indices)?;
    let rank = shape.len();
    if batch >= rank {
        return Err("its batch_dims do not fit its indices".into());
    }
    shape[rank - 1] = Size::fixed(1);
    let mut parts = Vec::new();
    for axis in 0..batch {
        let places = places(t, &shape[axis].clone());
        let axes: Vec<i64> = (0..rank as i64).filter(|i| *i != axis as i64).collect();
        let places = t.g.unsqueeze(places, &axes);
        parts.push(t.g.expand(places, &shape));
    }
    parts.push(indices);
    Ok(t.g.concat(&parts, rank as i64 - 1))
}

/// What was overwritten has no influence; what was put there has.
pub fn scatter_elements(t: &mut Turn) -> Result<Parts, Refusal> {
    let (c, indices) = (t.c()?, t.input(1)?);
    let axis = int("axis", t.node.int("axis", 0));
    let updates = t.g.op_with("GatherElements", &[c, indices], vec![axis.clone()]);
    let data = if t.node.text("reduction", "none") == "add" {
        c
    } else {
        let zeros = t.g.zeros(&t.input_shape(2)?, t.g.elem(c));
        t.g.op_with("ScatterElements", &[c, indices, zeros], vec![axis])
    };
    Ok(vec![(0, data), (2, updates)])
}

pub fn scatter_nd(t: &mut Turn) -> Result<Parts, Refusal> {
    let (c, indices) = (t.c()?, t.input(1)?);
    let updates = t.g.op("GatherND", &[c, indices]);
    let data = if t.node.text("reduction", "none") == "add" {
        c
    } else {
        let zeros = t.g.zeros(&t.input_shape(2)?, t.g.elem(c));
        t.g.op("ScatterND", &[c, indices, zeros])
    };
    Ok(vec![(0, data), (2, updates)])
}
