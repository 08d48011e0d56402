//! `RoiAlign` and `MaxRoiPool`: pooling of regions of interest.

use super::grid_sample::{Pixels, Tap, linear_weights};
use super::operator::{DecompositionResult, Operator};
use super::parts::{clipped, finished, range_to, size_value, stacked};
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::emit::int;
use crate::graph::{Graph, Node, Shape, Val};
use crate::jvp_context::JvpContext;
use crate::size::Size;

/// The declarations of `MaxRoiPool` and `RoiAlign`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("MaxRoiPool")
        .kinked()
        .shape(region_shape)
        .decomposition(max_roi_pool_decomposition)
        .float64_by_decomposition(),
    Operator::new("RoiAlign")
        .kinked()
        .shape(region_shape)
        .decomposition(roi_align_decomposition),
];

/// Returns the shape `[R, C, …]` of pooled regions of interest.
fn region_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (x, rois) = (g.shape(node.input(0)?)?, g.shape(node.input(1)?)?);
    let pooled = match node.ints("pooled_shape") {
        Some(pooled) => pooled,
        None => ["output_height", "output_width"]
            .map(|name| node.int(name, 1))
            .to_vec(),
    };
    let pooled = pooled.into_iter().map(Size::fixed);
    Some(
        [rois.first()?.clone(), x.get(1)?.clone()]
            .into_iter()
            .chain(pooled)
            .collect(),
    )
}

/// The largest number of bins, and of samples, along an axis that are decomposed.
const MOST: i64 = 1 << 12;

/// Appends a column of the table of regions, `[R]`.
fn column(s: &mut JvpContext, place: i64) -> Result<Val, Refusal> {
    let rois = s.x(1)?;
    let rois = s.g.cast(rois, s.g.elem(rois));
    let place = s.g.integer(place);
    Ok(s.g.op_with("Gather", &[rois, place], vec![int("axis", 1)]))
}

fn roi_align_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let (x, shape, y) = (s.x(0)?, s.x_shape(0)?, s.y_shape()?);
    let batch = s.node.input(2).ok_or("its batch indices are missing")?;
    let samples = s.node.int("sampling_ratio", 0);
    let bins = ["output_height", "output_width"].map(|name| s.node.int(name, 1));
    if samples <= 0 {
        return Err(
            "its number of samples depends on the regions; export the model with a sampling ratio"
                .into(),
        );
    }
    if shape.len() != 4 || y.len() != 4 || s.rank(1)? != 2 {
        return Err("only images of two axes are differentiated".into());
    }
    if bins
        .iter()
        .any(|n| *n < 1 || n.saturating_mul(samples) > MOST)
    {
        return Err("its numbers of bins and of samples are out of range".into());
    }
    let mut taps = Vec::new();
    for axis in 0..2 {
        let place = sample_places(s, axis, bins[axis], samples)?;
        let place = s.g.unsqueeze(place, &[if axis == 0 { 2 } else { 1 }]);
        taps.push(linear_taps(s, place, &shape[axis + 2]));
    }
    let pixels = Pixels::of(s.g, x, &shape);
    let batch = s.g.cast(batch, ElemType::INT64);
    let first = pixels.first_of(s.g, batch, 3);
    let fixed = Size::fixed;
    let apart = [
        y[0].clone(),
        fixed(bins[0]),
        fixed(samples),
        fixed(bins[1]),
        fixed(samples),
        shape[1].clone(),
    ];
    let pooled = if s.node.text("mode", "avg") == "avg" {
        let values = pixels.interpolated(s.g, first, &taps);
        let values = s.g.reshape(values, &apart);
        s.g.reduce("ReduceMean", values, &[2, 4], false)
    } else {
        // The maximum is taken over the four weighted neighbours, and not over their sum.
        let (numbers, weights) = pixels.combined(s.g, first, &taps);
        let mut parts = Vec::new();
        for (place, weight) in numbers.into_iter().zip(weights) {
            let values = pixels.gathered(s.g, place);
            let weight = weight.ok_or("a weight is missing")?;
            let weight = s.g.unsqueeze(weight, &[-1]);
            let weighted = s.g.mul(values, weight);
            parts.push(s.g.reshape(weighted, &apart));
        }
        let parts = stacked(s.g, &parts);
        s.g.reduce("ReduceMax", parts, &[0, 3, 5], false)
    };
    let result = s.g.transpose(pooled, &[0, 3, 1, 2]);
    finished(s, result)
}

/// Returns the positions of the samples along an axis, `[R, bins · samples]`.
fn sample_places(s: &mut JvpContext, axis: usize, bins: i64, samples: i64) -> Result<Val, Refusal> {
    let half = s.node.text("coordinate_transformation_mode", "half_pixel") != "output_half_pixel";
    let scale = s.node.float("spatial_scale", 1.0);
    let mut ends = Vec::new();
    for end in [1 - axis as i64, 3 - axis as i64] {
        let end = column(s, end)?;
        let end = s.g.scale(end, scale);
        ends.push(if half { s.g.shift(end, -0.5) } else { end });
    }
    let mut length = s.g.sub(ends[1], ends[0]);
    if !half {
        let one = s.g.real_like(1.0, length);
        length = s.g.op("Max", &[length, one]);
    }
    let steps = range_to(s.g, &Size::fixed(bins * samples));
    let steps = s.g.cast(steps, s.g.elem(length));
    let steps = s.g.shift(steps, 0.5);
    let steps = s.g.scale(steps, 1.0 / (bins * samples) as f64);
    let (start, length) = (s.g.unsqueeze(ends[0], &[1]), s.g.unsqueeze(length, &[1]));
    let within = s.g.mul(length, steps);
    Ok(s.g.add(start, within))
}

/// Returns the two neighbours of a position. A position more than one pixel outside the image has
/// weight 0.
fn linear_taps(s: &mut JvpContext, place: Val, length: &Size) -> Vec<Tap> {
    let elem = s.g.elem(place);
    let length = size_value(s.g, length, elem);
    let (last, zero, one) = (
        s.g.shift(length, -1.0),
        s.g.real_like(0.0, place),
        s.g.real_like(1.0, place),
    );
    let below = s.g.real_like(-1.0, place);
    let (high, low) = (
        s.g.op("LessOrEqual", &[place, length]),
        s.g.op("GreaterOrEqual", &[place, below]),
    );
    let there = s.g.op("And", &[high, low]);
    let there = s.g.cast(there, elem);
    let kept = clipped(s.g, place, zero, last);
    let floor = s.g.op("Floor", &[kept]);
    let next = s.g.add(floor, one);
    let next = s.g.op("Min", &[next, last]);
    let rest = s.g.sub(kept, floor);
    let weights = linear_weights(s.g, rest);
    let mut taps = Vec::new();
    for (neighbour, weight) in [floor, next].into_iter().zip(weights) {
        let weight = s.g.mul(weight, there);
        taps.push(Tap {
            index: s.g.cast(neighbour, ElemType::INT64),
            weight: Some(weight),
        });
    }
    taps
}

/// Appends the maximum of each bin, along one axis after the other. A bin without pixels is zero.
fn max_roi_pool_decomposition(s: &mut JvpContext) -> DecompositionResult {
    s.only(&[0], "its regions must be constant")?;
    let (x, shape) = (s.x(0)?, s.x_shape(0)?);
    let bins = s.node.ints("pooled_shape").unwrap_or_default();
    if shape.len() != 4 || bins.len() != 2 || s.rank(1)? != 2 {
        return Err("only images of two axes are differentiated".into());
    }
    if bins.iter().any(|n| !(1..=MOST).contains(n)) {
        return Err("its number of bins is out of range".into());
    }
    let batch = column(s, 0)?;
    let batch = s.g.cast(batch, ElemType::INT64);
    let image = s.g.op_with("Gather", &[x, batch], vec![int("axis", 0)]);
    let lowest = s.g.real_like(f64::NEG_INFINITY, x);
    // The maximum over rows selects from `[R, C, 1, H, W]` by `[R, 1, bins, H, 1]`. The maximum over
    // columns then selects from `[R, C, bins, 1, W]` by `[R, 1, 1, bins, W]`.
    let rows = members(s, 0, bins[0], &shape[2])?;
    let rows = s.g.unsqueeze(rows, &[1, 4]);
    let apart = s.g.unsqueeze(image, &[2]);
    let chosen = s.g.op("Where", &[rows, apart, lowest]);
    let tall = s.g.reduce("ReduceMax", chosen, &[3], false);
    let columns = members(s, 1, bins[1], &shape[3])?;
    let columns = s.g.unsqueeze(columns, &[1, 2]);
    let apart = s.g.unsqueeze(tall, &[3]);
    let chosen = s.g.op("Where", &[columns, apart, lowest]);
    let largest = s.g.reduce("ReduceMax", chosen, &[4], false);
    let nothing = s.g.op("Equal", &[largest, lowest]);
    let zero = s.g.real_like(0.0, x);
    let result = s.g.op("Where", &[nothing, zero, largest]);
    finished(s, result)
}

/// Appends whether each pixel belongs to each bin along an axis, `[R, bins, length]`.
fn members(s: &mut JvpContext, axis: usize, bins: i64, length: &Size) -> Result<Val, Refusal> {
    let scale = s.node.float("spatial_scale", 1.0);
    let mut ends = Vec::new();
    for end in [2 - axis as i64, 4 - axis as i64] {
        let end = column(s, end)?;
        let end = s.g.scale(end, scale);
        let end = s.g.shift(end, 0.5);
        ends.push(s.g.op("Floor", &[end]));
    }
    let span = s.g.sub(ends[1], ends[0]);
    let span = s.g.shift(span, 1.0);
    let one = s.g.real_like(1.0, span);
    let span = s.g.op("Max", &[span, one]);
    let each = s.g.scale(span, 1.0 / bins as f64);
    let (start, each) = (s.g.unsqueeze(ends[0], &[1]), s.g.unsqueeze(each, &[1]));
    let numbers = range_to(s.g, &Size::fixed(bins));
    let numbers = s.g.cast(numbers, s.g.elem(each));
    let after = s.g.shift(numbers, 1.0);
    let (from, to) = (s.g.mul(each, numbers), s.g.mul(each, after));
    let (from, to) = (s.g.op("Floor", &[from]), s.g.op("Ceil", &[to]));
    let (from, to) = (s.g.add(start, from), s.g.add(start, to));
    let (from, to) = (s.g.unsqueeze(from, &[2]), s.g.unsqueeze(to, &[2]));
    let pixels = range_to(s.g, length);
    let pixels = s.g.cast(pixels, s.g.elem(from));
    let (after, before) = (
        s.g.op("GreaterOrEqual", &[pixels, from]),
        s.g.op("Less", &[pixels, to]),
    );
    Ok(s.g.op("And", &[after, before]))
}
