//! `Resize` and `Upsample`: images of another size.

use super::operator::{Operator, TangentResult};
use super::parts::{merged, output_shape};
use crate::content::Content;
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::{Graph, Node, Shape, Val};
use crate::inference::{axis_of, sizes_held_by};
use crate::jvp_context::JvpContext;
use crate::size::Size;
use crate::transpose_context::{CONTRADICTION, Cotangents, TransposeContext};

/// The declarations of `Resize` and `Upsample`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Resize")
        .single_inputs(&[2])
        .shape(resize_shape)
        .tangent(resize_tangent)
        .transpose(resize_cotangent)
        .float64(resize_float64)
        .smooth_in(&[0]),
    Operator::new("Upsample")
        .single_inputs(&[1])
        .shape(resize_shape)
        .refused("it is read as Resize in files of opset 9, and newer ones lack it; export the model with Resize"),
];

fn resize_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let axes = match node.ints("axes") {
        Some(axes) => axes
            .iter()
            .map(|a| axis_of(*a, shape.len()))
            .collect::<Option<Vec<_>>>()?,
        None => (0..shape.len()).collect(),
    };
    let stretch = node.text("keep_aspect_ratio_policy", "stretch") == "stretch";
    let scales = if node.op == "Upsample" {
        node.input(1)
    } else {
        node.input(2)
    };
    if let (Some(v), true) = (node.input(3), stretch) {
        let target = sizes_held_by(g, v)?;
        for (axis, size) in axes.iter().zip(target) {
            shape[*axis] = size;
        }
        return Some(shape);
    }
    let scales = scales
        .and_then(|v| g.content(v))
        .and_then(Content::reals)
        .filter(|s| s.len() == axes.len());
    for (i, axis) in axes.iter().enumerate() {
        shape[*axis] = match &scales {
            Some(scales) => scaled_length(g, &shape[*axis].clone(), scales[i]),
            None => g.symbols.fresh(),
        };
    }
    Some(shape)
}

/// Returns `floor(length * scale)`.
fn scaled_length(g: &mut Graph, length: &Size, scale: f64) -> Size {
    match length.as_fixed() {
        Some(n) if (n as f64 * scale).abs() < 1e15 => {
            Size::fixed((n as f64 * scale).floor() as i64)
        }
        None if scale.fract() == 0.0 && scale.abs() < 1e6 => {
            g.symbols.mul(length, &Size::fixed(scale as i64))
        }
        None if (1.0 / scale).fract() == 0.0 && scale > 1e-6 => {
            g.symbols.div(length, &Size::fixed((1.0 / scale) as i64))
        }
        _ => g.symbols.expression(format!("floor {length:?} * {scale}")),
    }
}

/// Returns the tangent. Every mode is linear in the image. An input with the sizes also holds the
/// size of the batch.
fn resize_tangent(s: &mut JvpContext) -> TangentResult {
    s.only(&[0], "its scales and sizes must be constant")?;
    let d = s.dx()?;
    let (shape, y) = (s.x_shape(0)?, s.y_shape()?);
    if shape.len() != y.len() || shape.len() < 2 {
        return Err(CONTRADICTION.into());
    }
    let folded = s.merge_directions(d, &shape)?;
    let known = merged(s, &y);
    let sizes = match s.node.input(3) {
        Some(sizes) => Some(batch_sizes(s, sizes, folded, &known)?),
        None => None,
    };
    let mut inputs = vec![Some(folded), s.node.input(1), s.node.input(2), sizes];
    while inputs.last() == Some(&None) {
        inputs.pop();
    }
    // Outside a cropped region the output is a constant, so the tangent is zero there.
    let attributes = s
        .node
        .attributes
        .iter()
        .filter(|a| a.name() != "extrapolation_value")
        .cloned()
        .collect();
    let result = s.g.op_optional("Resize", &inputs, attributes);
    s.g.set_shape(result, &known);
    s.split_directions(result)
}

/// Returns the input `sizes` for a tensor whose directions are merged into the batch. It changes
/// only if the batch is among the resized axes.
fn batch_sizes(
    s: &mut JvpContext,
    sizes: Val,
    folded: Val,
    known: &[Size],
) -> Result<Val, Refusal> {
    if let Some(axes) = s.node.ints("axes") {
        let rank = known.len() as i64;
        let batch = axes.iter().any(|axis| *axis == 0 || *axis == -rank);
        return if batch {
            Err("its batch axis is resized".into())
        } else {
            Ok(sizes)
        };
    }
    if s.node.text("keep_aspect_ratio_policy", "stretch") != "stretch" {
        return Err("sizes that keep the aspect ratio must name their axes".into());
    }
    let merged = s.g.op("Shape", &[folded]);
    let (first, others) = (
        s.g.integers(&[0]),
        s.g.integers(&(1..known.len() as i64).collect::<Vec<_>>()),
    );
    let batch = s.g.op("Gather", &[merged, first]);
    let rest = s.g.op("Gather", &[sizes, others]);
    Ok(s.g.concat(&[batch, rest], 0))
}

/// Multiplies one axis of `c` by a matrix of the shape `[length, size of that axis]`.
pub(super) fn multiply_along(
    t: &mut TransposeContext,
    c: Val,
    axis: usize,
    matrix: Val,
    length: &Size,
) -> Result<Val, Refusal> {
    let mut shape = t.shape(c)?;
    let last = shape.len() - 1;
    let mut order: Vec<usize> = (0..=last).collect();
    order.swap(axis, last);
    let turned = t.g.transpose(c, &order);
    let by = t.g.transpose(matrix, &[1, 0]);
    let product = t.g.op("MatMul", &[turned, by]);
    shape[axis] = length.clone();
    let turned_shape: Vec<Size> = order.iter().map(|i| shape[*i].clone()).collect();
    t.g.set_shape(product, &turned_shape);
    Ok(t.g.transpose(product, &order))
}

/// Appends the unit matrix as an image `[1, n, 1, n]`.
pub(super) fn unit_image(t: &mut TransposeContext, n: &Size, like: Val) -> Val {
    let square = [n.clone(), n.clone()];
    let zeros = t.g.zeros(&square, t.g.elem(like));
    let unit = t.g.op("EyeLike", &[zeros]);
    let one = Size::fixed(1);
    t.g.reshape(unit, &[one.clone(), n.clone(), one, n.clone()])
}

/// Reshapes the image that the operator makes of the unit image to the matrix `[n, m]` of the
/// transpose along one axis.
pub(super) fn as_matrix(t: &mut TransposeContext, image: Val, n: &Size, m: &Size) -> Val {
    let one = Size::fixed(1);
    t.g.set_shape(image, &[one.clone(), n.clone(), one, m.clone()]);
    t.g.reshape(image, &[n.clone(), m.clone()])
}

/// Returns the cotangent by one matrix for each axis. Resizing acts along each axis separately, and
/// its matrix is what it makes of the unit matrix.
fn resize_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (x, y) = t.shapes(3)?;
    let crops = t.node.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize";
    let mut c = t.c()?;
    for axis in 2..x.len() {
        if x[axis] == y[axis] && !crops && !resized(t, axis) {
            continue;
        }
        let unit = unit_image(t, &x[axis], c);
        let mut inputs = resize_inputs(t, unit, axis, x.len(), &x[axis], &y[axis])?;
        if crops {
            inputs[1] = Some(region_of_unit(t, axis, x.len())?);
        }
        let kept = [
            "mode",
            "coordinate_transformation_mode",
            "nearest_mode",
            "cubic_coeff_a",
            "antialias",
            "exclude_outside",
        ];
        let attributes = t
            .node
            .attributes
            .iter()
            .filter(|a| kept.contains(&a.name()))
            .cloned()
            .collect();
        let image = t.g.op_optional("Resize", &inputs, attributes);
        let matrix = as_matrix(t, image, &x[axis], &y[axis]);
        c = multiply_along(t, c, axis, matrix, &x[axis])?;
    }
    Ok(vec![(0, c)])
}

/// Returns the index of an axis among the scales or sizes.
fn scale_place(t: &TransposeContext, axis: usize, rank: usize) -> Option<usize> {
    match t.node.ints("axes") {
        Some(axes) => axes
            .iter()
            .position(|a| *a == axis as i64 || *a + rank as i64 == axis as i64),
        None => Some(axis),
    }
}

/// Returns whether an axis may have a scale other than 1.
fn resized(t: &TransposeContext, axis: usize) -> bool {
    let rank = t.input_shape(0).map_or(0, |x| x.len());
    let scales = t
        .node
        .input(2)
        .and_then(|v| t.g.content(v))
        .and_then(|c| c.reals());
    scales
        .zip(scale_place(t, axis, rank))
        .is_some_and(|(scales, i)| scales.get(i).is_some_and(|s| *s != 1.0))
}

/// Returns the inputs that resize the last axis of the unit image alone.
fn resize_inputs(
    t: &mut TransposeContext,
    unit: Val,
    axis: usize,
    rank: usize,
    n: &Size,
    m: &Size,
) -> Result<Vec<Option<Val>>, Refusal> {
    let one = Size::fixed(1);
    let place = scale_place(t, axis, rank);
    if let (Some(scales), Some(place)) = (t.node.input(2), place) {
        let place = t.g.integers(&[place as i64]);
        let scale = t.g.op("Gather", &[scales, place]);
        let elem = t.g.elem(scales);
        let ones = t.g.real(1.0, elem);
        let ones = t.g.expand(ones, &[Size::fixed(3)]);
        let scales = t.g.concat(&[ones, scale], 0);
        return Ok(vec![Some(unit), None, Some(scales)]);
    }
    let sizes = t.g.sizes(&[one.clone(), n.clone(), one, m.clone()]);
    Ok(vec![Some(unit), None, None, Some(sizes)])
}

fn resize_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let mut x = node.input(0)?;
    let shape = g.shape(x)?.clone();
    let stretched = node.text("keep_aspect_ratio_policy", "stretch") == "stretch";
    if !stretched || node.int("antialias", 0) != 0 || node.float("extrapolation_value", 0.0) != 0.0
    {
        return None;
    }
    let y = output_shape(g, node)?;
    for axis in 0..shape.len() {
        let scale = scale(g, node, axis, shape.len())?;
        if scale.is_none_or(|scale| scale == 1.0) && shape[axis] == y[axis] {
            continue;
        }
        let (n, m) = (shape[axis].as_fixed()?, y[axis].as_fixed()?);
        if n < 1 || m < 1 || n.checked_mul(m)? > 1 << 24 {
            return None;
        }
        let scale = scale.unwrap_or(m as f64 / n as f64);
        let region = region(g, node, axis, shape.len())?;
        let one = |o: i64| match region {
            Some(region) => cropped_row(node, region, o, n, m),
            None => row(node, place(node, o, n, m, scale)?, n),
        };
        let rows: Option<Vec<Row>> = (0..m).map(one).collect();
        x = along_rows(g, x, axis, &rows?, n)?;
        g.set_shape(x, &[&y[..=axis], &shape[axis + 1..]].concat());
    }
    Some(x)
}

/// Returns the scale of an axis. It is `Some(None)` if the node has sizes instead, and `None` if
/// the scale is not known before the graph runs.
fn scale(g: &Graph, node: &Node, axis: usize, rank: usize) -> Option<Option<f64>> {
    let place = match node.ints("axes") {
        Some(axes) => axes.iter().position(|a| axis_of(*a, rank) == Some(axis)),
        None => Some(axis),
    };
    let Some(place) = place else {
        return Some(Some(1.0));
    };
    if node.input(3).is_some() {
        return Some(None);
    }
    let scales = g.content(node.input(2)?).and_then(Content::reals)?;
    Some(Some(*scales.get(place)?))
}

/// Returns the region to which an axis is cropped, in parts of its length. It is `Some(None)` if
/// the axis is not cropped.
fn region(g: &Graph, node: &Node, axis: usize, rank: usize) -> Option<Option<[f64; 2]>> {
    if node.text("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize" {
        return Some(None);
    }
    let axes = node
        .ints("axes")
        .unwrap_or_else(|| (0..rank as i64).collect());
    let place = axes.iter().position(|a| axis_of(*a, rank) == Some(axis))?;
    let ends = g.content(node.input(1)?).and_then(Content::reals)?;
    Some(Some([*ends.get(place)?, *ends.get(place + axes.len())?]))
}

/// Returns the weights of an element of a cropped axis. There are none outside the input.
fn cropped_row(node: &Node, [start, end]: [f64; 2], o: i64, n: i64, m: i64) -> Option<Row> {
    let (o, last, steps) = (o as f64, (n - 1) as f64, (m - 1) as f64);
    let place = if m > 1 {
        start * last + o * (end - start) * last / steps
    } else {
        0.5 * (start + end) * last
    };
    if (0.0..=last).contains(&place) {
        row(node, place, n)
    } else {
        Some(Vec::new())
    }
}

/// Returns the position of an element of the output along the input.
fn place(node: &Node, o: i64, n: i64, m: i64, scale: f64) -> Option<f64> {
    let (o, n, m) = (o as f64, n as f64, m as f64);
    let half_pixel = (o + 0.5) / scale - 0.5;
    Some(
        match node
            .text("coordinate_transformation_mode", "half_pixel")
            .as_str()
        {
            "half_pixel" => half_pixel,
            "half_pixel_symmetric" => 0.5 * n * (1.0 - m / (scale * n)) + half_pixel,
            "pytorch_half_pixel" => {
                if m > 1.0 {
                    half_pixel
                } else {
                    0.0
                }
            }
            "align_corners" => {
                if m > 1.0 {
                    o * (n - 1.0) / (m - 1.0)
                } else {
                    0.0
                }
            }
            "asymmetric" => o / scale,
            _ => return None,
        },
    )
}

/// The elements of the input that an element of the output depends on, with their weights.
type Row = Vec<(i64, f64)>;

fn row(node: &Node, place: f64, n: i64) -> Option<Row> {
    let inside = |i: f64| (i as i64).clamp(0, n - 1);
    match node.text("mode", "nearest").as_str() {
        "nearest" => Some(vec![(inside(rounded(node, place)?), 1.0)]),
        "linear" => {
            let place = place.clamp(0.0, (n - 1) as f64);
            let (low, part) = (place.floor(), place - place.floor());
            Some(vec![(inside(low), 1.0 - part), (inside(low + 1.0), part)])
        }
        "cubic" => {
            let (low, part) = (place.floor(), place - place.floor());
            let weights = cubic_weights(node.float("cubic_coeff_a", -0.75), part);
            let mut row: Row = (0..4)
                .map(|i| (low as i64 + i - 1, weights[i as usize]))
                .collect();
            if node.int("exclude_outside", 0) != 0 {
                row.retain(|(i, _)| (0..n).contains(i));
                let sum: f64 = row.iter().map(|(_, w)| w).sum();
                row.iter_mut().for_each(|(_, w)| *w /= sum);
            }
            Some(
                row.into_iter()
                    .map(|(i, w)| (i.clamp(0, n - 1), w))
                    .collect(),
            )
        }
        _ => None,
    }
}

fn rounded(node: &Node, place: f64) -> Option<f64> {
    Some(
        match node.text("nearest_mode", "round_prefer_floor").as_str() {
            "round_prefer_floor" => (place - 0.5).ceil(),
            "round_prefer_ceil" => (place + 0.5).floor(),
            "floor" => place.floor(),
            "ceil" => place.ceil(),
            _ => return None,
        },
    )
}

/// Returns the weights of the four elements around a position by cubic convolution (R. G. Keys,
/// 1981).
fn cubic_weights(a: f64, part: f64) -> [f64; 4] {
    let near = |t: f64| ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0;
    let far = |t: f64| ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a;
    [
        far(part + 1.0),
        near(part),
        near(1.0 - part),
        far(2.0 - part),
    ]
}

fn along_rows(g: &mut Graph, x: Val, axis: usize, rows: &[Row], n: i64) -> Option<Val> {
    if rows.iter().all(|row| matches!(row[..], [(_, 1.0)])) {
        let places: Vec<i64> = rows.iter().map(|row| row[0].0).collect();
        let places = g.integers(&places);
        return Some(g.op_with(
            "Gather",
            &[x, places],
            vec![crate::graph::emit::int("axis", axis as i64)],
        ));
    }
    let mut matrix = vec![0.0; n as usize * rows.len()];
    for (o, row) in rows.iter().enumerate() {
        for (i, weight) in row {
            matrix[*i as usize * rows.len() + o] += weight;
        }
    }
    let matrix = g.reals(&matrix, &[n, rows.len() as i64]);
    let rank = g.rank(x)?;
    let mut order: Vec<usize> = (0..rank).collect();
    order.swap(axis, rank - 1);
    let turned = g.transpose(x, &order);
    let product = g.op("MatMul", &[turned, matrix]);
    let mut shape: Vec<Size> = order
        .iter()
        .map(|i| g.shape(x).map(|s| s[*i].clone()))
        .collect::<Option<_>>()?;
    shape[rank - 1] = Size::fixed(rows.len() as i64);
    g.set_shape(product, &shape);
    Some(g.transpose(product, &order))
}

/// Appends the region of an axis as the region of the last axis of the unit image.
fn region_of_unit(t: &mut TransposeContext, axis: usize, rank: usize) -> Result<Val, Refusal> {
    let whole = t.input(1)?;
    let elem = t.g.elem(whole);
    let count = t.node.ints("axes").map_or(rank, |axes| axes.len());
    let ends = match scale_place(t, axis, rank) {
        Some(place) => [place, place + count].map(|place| {
            let place = t.g.integers(&[place as i64]);
            t.g.op("Gather", &[whole, place])
        }),
        None => [0.0, 1.0].map(|end| repeated_number(t, end, elem, 1)),
    };
    let before = [0.0, 1.0].map(|end| repeated_number(t, end, elem, 3));
    Ok(t.g.concat(&[before[0], ends[0], before[1], ends[1]], 0))
}

/// Appends a list that repeats a number `count` times.
fn repeated_number(t: &mut TransposeContext, value: f64, elem: ElemType, count: i64) -> Val {
    let number = t.g.real(value, elem);
    let number = t.g.cast(number, elem);
    t.g.expand(number, &[Size::fixed(count)])
}
