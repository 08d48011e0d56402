//! What moves the elements of sequences and of caches, and what grids and ranges are counted from.

use super::Rule;
use super::pieces::{Made, counted, cut, finished, number};
use crate::elem::ElemType;
use crate::emit::int;
use crate::ir::{Graph, Val};
use crate::shapes::{self, axis_of};
use crate::size::Size;
use crate::step::Step;

pub const RULES: &[(&str, Rule)] = &[
    ("AffineGrid", Rule::Parts(affine_grid)),
    ("CenterCropPad", Rule::Parts(centred)),
    ("Compress", Rule::Parts(compressed)),
    ("Range", Rule::Parts(range)),
    ("ReverseSequence", Rule::Parts(reversed)),
    ("TensorScatter", Rule::Parts(written)),
];

/// Pairs of indices, joined along a last axis.
fn pairs(g: &mut Graph, first: Val, second: Val, shape: &[Size]) -> Val {
    let parts = [first, second].map(|v| {
        let whole = g.expand(v, shape);
        g.unsqueeze(whole, &[2])
    });
    g.concat(&parts, 2)
}

/// The first steps of each sequence, as many as it has, from the last to the first.
fn reversed(s: &mut Step) -> Made {
    let (x, shape) = (s.x(0)?, s.x_shape(0)?);
    let lengths = s.node.input(1).ok_or("its lengths are missing")?;
    let (time, batch) = (s.node.int("time_axis", 0), s.node.int("batch_axis", 1));
    if shape.len() < 2 || !(0..2).contains(&time) || batch != 1 - time {
        return Err("its axes are not the first two".into());
    }
    let lengths = s.g.cast(lengths, ElemType::INT64);
    let [along, across] = [time, batch].map(|axis| shape[axis as usize].clone());
    let (steps, samples) = (counted(s.g, &along), counted(s.g, &across));
    let (steps, samples, lengths) = if time == 0 {
        (s.g.unsqueeze(steps, &[1]), s.g.unsqueeze(samples, &[0]), s.g.unsqueeze(lengths, &[0]))
    } else {
        (s.g.unsqueeze(steps, &[0]), s.g.unsqueeze(samples, &[1]), s.g.unsqueeze(lengths, &[1]))
    };
    let one = s.g.integer(1);
    let last = s.g.sub(lengths, one);
    let turned = s.g.sub(last, steps);
    let inside = s.g.op("Less", &[steps, lengths]);
    let places = s.g.op("Where", &[inside, turned, steps]);
    let indices =
        if time == 0 { pairs(s.g, places, samples, &shape[..2]) } else { pairs(s.g, samples, places, &shape[..2]) };
    let picked = s.g.op("GatherND", &[x, indices]);
    finished(s, picked)
}

/// Updates written over a cache, from a place of each sample on.
fn written(s: &mut Step) -> Made {
    let (cache, update) = (s.x(0)?, s.x(1)?);
    let (shape, new) = (s.shape(cache)?, s.shape(update)?);
    let axis = axis_of(s.node.int("axis", -2), shape.len()).filter(|axis| *axis > 0);
    let axis = axis.filter(|_| new.len() == shape.len()).ok_or("its axis does not fit its cache")?;
    let mut order: Vec<usize> = (0..shape.len()).collect();
    order.swap(1, axis);
    let (cache, update) = (s.g.transpose(cache, &order), s.g.transpose(update, &order));
    let steps = counted(s.g, &new[axis]);
    let mut places = s.g.unsqueeze(steps, &[0]);
    if let Some(starts) = s.node.input(2) {
        let starts = s.g.cast(starts, ElemType::INT64);
        let starts = s.g.unsqueeze(starts, &[1]);
        places = s.g.add(places, starts);
    }
    if s.node.text("mode", "linear") == "circular" {
        let length = number(s.g, &shape[axis], ElemType::INT64);
        places = s.g.op("Mod", &[places, length]);
    }
    let samples = counted(s.g, &shape[0]);
    let samples = s.g.unsqueeze(samples, &[1]);
    let indices = pairs(s.g, samples, places, &[shape[0].clone(), new[axis].clone()]);
    let result = s.g.op("ScatterND", &[cache, indices, update]);
    let result = s.g.transpose(result, &order);
    finished(s, result)
}

/// The elements along an axis, or of all, that a condition chooses.
fn compressed(s: &mut Step) -> Made {
    let (x, condition) = (s.x(0)?, s.node.input(1).ok_or("its condition is missing")?);
    let places = s.g.op("NonZero", &[condition]);
    let places = s.g.squeeze(places, &[0]);
    let (x, axis) = match s.node.attribute("axis") {
        Some(_) => (x, s.axis("axis", 0, s.rank(0)?)?),
        None => {
            let all = shapes::product(s.g, &s.shape(x)?);
            (s.g.reshape(x, &[all]), 0)
        }
    };
    let picked = s.g.op_with("Gather", &[x, places], vec![int("axis", axis as i64)]);
    finished(s, picked)
}

/// `start + i delta`
fn range(s: &mut Step) -> Made {
    let (start, delta, y) = (s.x(0)?, s.x(2)?, s.y_shape()?);
    if !s.g.elem(start).is_float() || y.len() != 1 || s.rank(0)? != 0 || s.rank(2)? != 0 {
        return Err("its bounds are not numbers of a floating-point type".into());
    }
    let places = counted(s.g, &y[0]);
    let places = s.g.cast(places, s.g.elem(start));
    let steps = s.g.mul(places, delta);
    let result = s.g.add(steps, start);
    finished(s, result)
}

/// The centre of a tensor, with zeros around it where it is to be longer.
fn centred(s: &mut Step) -> Made {
    let (x, shape, target) = (s.x(0)?, s.x_shape(0)?, s.known(1)?);
    let axes = s.node.ints("axes").unwrap_or_else(|| (0..shape.len() as i64).collect());
    if axes.len() != target.len() {
        return Err("its axes do not fit its shape".into());
    }
    let mut pads = vec![0; 2 * shape.len()];
    let mut result = x;
    for (axis, wanted) in axes.iter().zip(target) {
        let axis = axis_of(*axis, shape.len()).ok_or("its axes do not fit its input")?;
        let length = shape[axis].as_fixed().ok_or("the sizes of its input are not known")?;
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

/// The places of all pixels between -1 and 1, the last axis first and a one behind, times an affine map.
fn affine_grid(s: &mut Step) -> Made {
    let (theta, y) = (s.x(0)?, s.y_shape()?);
    let (elem, axes) = (s.g.elem(theta), y.len().saturating_sub(2));
    if s.rank(0)? != 3 || !(2..=3).contains(&axes) {
        return Err("its map does not fit its size".into());
    }
    let lengths = y[1..=axes].to_vec();
    let aligned = s.node.int("align_corners", 0) != 0;
    let one = s.g.real(1.0, elem);
    let mut columns = Vec::new();
    for (axis, length) in lengths.iter().enumerate().rev() {
        let places = counted(s.g, length);
        let places = s.g.cast(places, elem);
        let count = number(s.g, length, elem);
        let (from, span) = if aligned {
            let steps = s.g.shift(count, -1.0);
            (places, s.g.op("Max", &[steps, one]))
        } else {
            (s.g.shift(places, 0.5), count)
        };
        let ratio = s.g.div(from, span);
        let double = s.g.scale(ratio, 2.0);
        let places = s.g.shift(double, -1.0);
        let behind: Vec<i64> = (1..(axes - axis) as i64).collect();
        let places = s.g.unsqueeze(places, &behind);
        columns.push(s.g.expand(places, &lengths));
    }
    columns.push(s.g.expand(one, &lengths));
    let columns: Vec<Val> = columns.into_iter().map(|v| s.g.unsqueeze(v, &[axes as i64])).collect();
    let grid = s.g.concat(&columns, axes as i64);
    let pixels = shapes::product(s.g, &lengths);
    let grid = s.g.reshape(grid, &[pixels, Size::fixed(axes as i64 + 1)]);
    let map = s.g.transpose(theta, &[0, 2, 1]);
    let product = s.g.op("MatMul", &[grid, map]);
    let result = s.g.reshape(product, &y);
    finished(s, result)
}
