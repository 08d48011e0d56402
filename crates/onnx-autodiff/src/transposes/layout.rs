//! Operators that move elements, and sums over axes.

use super::{CONTRADICTION, Parts, Turn};
use crate::content::Item;
use crate::emit::int;
use crate::error::Refusal;
use crate::ir::Val;
use crate::shapes::{self, axis_of};
use crate::size::Size;
use crate::transposes::pick;

pub fn reshape(t: &mut Turn) -> Result<Parts, Refusal> {
    let (c, shape) = (t.c()?, t.input_shape(0)?);
    Ok(vec![(0, t.g.reshape(c, &shape))])
}

pub fn transpose(t: &mut Turn) -> Result<Parts, Refusal> {
    let c = t.c()?;
    let perm = t.node.ints("perm").ok_or("its permutation is missing")?;
    let mut inverse = vec![0; perm.len()];
    for (i, p) in perm.iter().enumerate() {
        inverse[axis_of(*p, perm.len()).ok_or("its permutation is out of range")?] = i;
    }
    Ok(vec![(0, t.g.transpose(c, &inverse))])
}

fn axis(t: &Turn, rank: usize) -> Result<usize, Refusal> {
    axis_of(t.node.int("axis", 0), rank).ok_or_else(|| "its axis is out of range".into())
}

pub fn concat(t: &mut Turn) -> Result<Parts, Refusal> {
    let c = t.c()?;
    let axis = axis(t, t.input_shape(0)?.len())?;
    let mut lengths = Vec::new();
    for place in 0..t.node.inputs.len() {
        lengths.push(t.input_shape(place)?.get(axis).ok_or(CONTRADICTION)?.clone());
    }
    let lengths = t.g.sizes(&lengths);
    let parts = t.g.push("Split", &[Some(c), Some(lengths)], vec![int("axis", axis as i64)], t.node.inputs.len());
    for (place, part) in parts.iter().enumerate() {
        let shape = t.input_shape(place)?;
        t.g.set_shape(*part, &shape);
    }
    Ok(parts.into_iter().enumerate().filter(|(place, _)| t.is_linear(*place)).collect())
}

pub fn split(t: &mut Turn) -> Result<Parts, Refusal> {
    let axis = axis(t, t.input_shape(0)?.len())?;
    let mut parts = Vec::new();
    for (place, output) in t.node.outputs.clone().into_iter().enumerate() {
        let output = output.ok_or("one of its outputs is missing")?;
        let shape = t.shape(output)?;
        parts.push(match t.arriving[place] {
            Some(c) => c,
            None => t.g.zeros(&shape, t.g.elem(output)),
        });
    }
    let joined = t.g.concat(&parts, axis as i64);
    let shape = t.input_shape(0)?;
    t.g.set_shape(joined, &shape);
    Ok(vec![(0, joined)])
}

/// Negative pads cut off.
pub fn pad(t: &mut Turn) -> Result<Parts, Refusal> {
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

/// Padding that repeats elements: where each came from is found by padding the places.
fn pad_copies(t: &mut Turn) -> Result<Parts, Refusal> {
    let shape = t.input_shape(0)?;
    let pads = t.node.input(1).and_then(|v| t.g.content(v)).and_then(|c| c.fixed());
    let pads = pads.ok_or("its pads are computed at run time; export the model with constant pads")?;
    let axes: Vec<i64> = match t.node.input(3) {
        Some(v) => t.g.content(v).and_then(|c| c.fixed()).ok_or("its axes are computed at run time")?,
        None => (0..shape.len() as i64).collect(),
    };
    let mut c = t.c()?;
    for (i, axis) in axes.iter().enumerate() {
        let axis = axis_of(*axis, shape.len()).ok_or("its axes do not fit its input")?;
        let around = pads.get(i).zip(pads.get(i + axes.len()));
        let (before, after) = around.map(|(b, a)| (*b, *a)).ok_or("its pads do not fit its axes")?;
        if (before, after) != (0, 0) {
            let places = places(t, &shape[axis]);
            let around = t.g.integers(&[before, after]);
            let mode = t.node.attribute("mode").cloned();
            let padded = t.g.op_with("Pad", &[places, around], mode.into_iter().collect());
            c = pick::add_along(t, c, axis, padded, &shape[axis])?;
        }
    }
    Ok(vec![(0, c)])
}

/// `[0, 1, …, n - 1]`
pub fn places(t: &mut Turn, n: &Size) -> Val {
    let (zero, one) = (t.g.integer(0), t.g.integer(1));
    let length = t.g.sizes(std::slice::from_ref(n));
    let length = t.g.squeeze(length, &[0]);
    let places = t.g.op("Range", &[zero, length, one]);
    t.g.set_shape(places, std::slice::from_ref(n));
    places
}

/// Plain cuts become padding; steps are put back by place.
pub fn slice(t: &mut Turn) -> Result<Parts, Refusal> {
    let (shape, cut) = t.shapes(1)?;
    let axes = t.node.input(3).and_then(|v| t.g.content(v)).and_then(|c| c.fixed()).ok_or("its axes are not known")?;
    let mut c = t.c()?;
    for (i, axis) in axes.iter().enumerate() {
        let axis = axis_of(*axis, shape.len()).ok_or("its axes do not fit its input")?;
        c = uncut(t, c, i, axis, &shape[axis], &cut[axis])?;
    }
    Ok(vec![(0, c)])
}

/// Undoes the `i`th cut, along one axis.
fn uncut(t: &mut Turn, c: Val, i: usize, axis: usize, whole: &Size, part: &Size) -> Result<Val, Refusal> {
    if whole == part && step(t, i) == Some(1) {
        return Ok(c);
    }
    let start = t.node.input(1).and_then(|v| t.g.content(v)).and_then(|s| s.items.get(i).cloned());
    if let (Some(Item::Int(start)), Some(1)) = (start, step(t, i)) {
        let negative = start.as_fixed().is_some_and(|n| n < 0);
        let before = if negative { t.g.symbols.add(whole, &start) } else { start };
        let rest = t.g.symbols.sub(whole, &before);
        let after = t.g.symbols.sub(&rest, part);
        let rank = t.shape(c)?.len();
        let mut pads = vec![Size::fixed(0); 2 * rank];
        pads[axis] = before;
        pads[rank + axis] = after;
        let mut shape = t.shape(c)?;
        shape[axis] = whole.clone();
        let pads = t.g.sizes(&pads);
        let padded = t.g.op("Pad", &[c, pads]);
        t.g.set_shape(padded, &shape);
        return Ok(padded);
    }
    let all = places(t, whole);
    let mut inputs = vec![all];
    for place in [1, 2, 4] {
        let bound = match t.node.input(place) {
            Some(v) => {
                let i = t.g.integers(&[i as i64]);
                t.g.op("Gather", &[v, i])
            }
            None => t.g.integers(&[1]),
        };
        if place == 4 {
            let like = t.g.elem(inputs[1]);
            let zero = t.g.integers(&[0]);
            inputs.push(t.g.cast(zero, like));
            let bound = t.g.cast(bound, like);
            inputs.push(bound);
        } else {
            inputs.push(bound);
        }
    }
    let picked = t.g.op("Slice", &inputs);
    t.g.set_shape(picked, std::slice::from_ref(part));
    pick::add_along(t, c, axis, picked, whole)
}

fn step(t: &Turn, i: usize) -> Option<i64> {
    match t.node.input(4) {
        Some(v) => t.g.content(v)?.items.get(i)?.as_fixed(),
        None => Some(1),
    }
}

/// Copies are an axis of their own, which is summed.
pub fn tile(t: &mut Turn) -> Result<Parts, Refusal> {
    let (c, (shape, all)) = (t.c()?, t.shapes(0)?);
    let mut split = Vec::new();
    for (whole, part) in all.iter().zip(&shape) {
        split.push(t.g.symbols.div(whole, part));
        split.push(part.clone());
    }
    let axes: Vec<i64> = (0..shape.len() as i64).map(|i| 2 * i).collect();
    let c = t.g.reshape(c, &split);
    Ok(vec![(0, t.g.reduce("ReduceSum", c, &axes, false))])
}

pub fn trilu(t: &mut Turn) -> Result<Parts, Refusal> {
    let mut inputs = t.node.inputs.clone();
    inputs[0] = Some(t.c()?);
    let attributes = t.node.attributes.clone();
    Ok(vec![(0, t.g.op_optional("Trilu", &inputs, attributes))])
}

pub fn running_sum(t: &mut Turn) -> Result<Parts, Refusal> {
    let (c, axis) = (t.c()?, t.input(1)?);
    let attributes =
        vec![int("exclusive", t.node.int("exclusive", 0)), int("reverse", i64::from(t.node.int("reverse", 0) == 0))];
    Ok(vec![(0, t.g.op_with("CumSum", &[c, axis], attributes))])
}

pub fn reduce_sum(t: &mut Turn) -> Result<Parts, Refusal> {
    let (c, shape) = (t.c()?, t.input_shape(0)?);
    let keeps_axes = t.node.int("keepdims", 1) != 0;
    if keeps_axes && t.node.input(1).is_some_and(|axes| t.g.content(axes).and_then(|c| c.fixed()).is_none()) {
        // Whichever axes are summed, they have size 1 in the cotangent.
        return Ok(vec![(0, t.g.expand(c, &shape))]);
    }
    let axes = shapes::axes(t.g, &t.node, shape.len()).flatten().ok_or("its axes are not known")?;
    let kept = shapes::reduced(&shape, &axes, true).unwrap_or_default();
    let wide = t.g.reshape(c, &kept);
    let spread = t.g.expand(wide, &shape);
    if wide == c {
        t.pass_mask(c, spread);
    }
    Ok(vec![(0, spread)])
}

pub fn reduce_mean(t: &mut Turn) -> Result<Parts, Refusal> {
    let shape = t.input_shape(0)?;
    let axes = shapes::axes(t.g, &t.node, shape.len()).flatten().ok_or("its axes are not known")?;
    let sizes: Vec<Size> = axes.iter().map(|axis| shape[*axis].clone()).collect();
    let count = shapes::product(t.g, &sizes);
    let c = t.c()?;
    let scaled = match count.as_fixed() {
        Some(n) => t.g.scale(c, 1.0 / n as f64),
        None => {
            let count = t.g.sizes(&[count]);
            let count = t.g.squeeze(count, &[0]);
            let count = t.g.cast(count, t.g.elem(c));
            t.g.div(c, count)
        }
    };
    t.arriving[0] = Some(scaled);
    reduce_sum(t)
}
