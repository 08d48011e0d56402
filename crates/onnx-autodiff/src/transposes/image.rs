//! Convolutions, pooling and resizing of images.

use super::{CONTRADICTION, Parts, Turn};
use crate::elem::ElemType;
use crate::emit::{int, ints};
use crate::error::Refusal;
use crate::ir::{Shape, Val};
use crate::proto::AttributeProto;
use crate::shapes::{Window, windows};
use crate::size::Size;

/// Strides, dilations, groups and explicit pads of a convolution.
fn window_attributes(t: &Turn, windows: &[Window]) -> Vec<AttributeProto> {
    let all = |f: fn(&Window) -> i64| windows.iter().map(f).collect::<Vec<_>>();
    let pads = [all(|w| w.before), all(|w| w.after)].concat();
    vec![
        ints("strides", &all(|w| w.stride)),
        ints("dilations", &all(|w| w.dilation)),
        ints("pads", &pads),
        int("group", t.node.int("group", 1)),
    ]
}

/// The windows with the pads that `auto_pad` or `output_shape` stand for: `narrow` are the sizes at the strided end.
fn explicit_windows(t: &Turn, wide: &[Size], narrow: &[Size], same: bool) -> Result<Vec<Window>, Refusal> {
    let kernel: Option<Vec<i64>> = t.input_shape(1)?.get(2..).and_then(|k| k.iter().map(Size::as_fixed).collect());
    let kernel = kernel.ok_or("the size of its kernel is not known")?;
    let mut windows = windows(&t.node, &kernel).ok_or("its attributes do not fit its kernel")?;
    if windows.len() != wide.len() {
        return Err(CONTRADICTION.into());
    }
    let auto = t.node.text("auto_pad", "NOTSET");
    for (i, w) in windows.iter_mut().enumerate() {
        if auto == "VALID" {
            (w.before, w.after) = (0, 0);
        } else if auto.starts_with("SAME") || same {
            let reach = w.dilation * (w.kernel - 1) + 1;
            let sizes = wide[i].as_fixed().zip(narrow[i].as_fixed());
            let total = match sizes {
                Some((wide, narrow)) => narrow
                    .checked_sub(1)
                    .and_then(|steps| steps.checked_mul(w.stride)?.checked_add(reach)?.checked_sub(wide))
                    .ok_or(CONTRADICTION)?,
                None if w.stride == 1 => reach - 1,
                None => {
                    return Err(
                        "automatic padding of an image of unknown size; export the model with explicit pads".into()
                    );
                }
            };
            let (less, more) = (total.max(0) / 2, total.max(0) - total.max(0) / 2);
            (w.before, w.after) = if auto == "SAME_UPPER" { (less, more) } else { (more, less) };
        }
    }
    Ok(windows)
}

pub fn conv(t: &mut Turn) -> Result<Parts, Refusal> {
    let (c, weights, (x, y)) = (t.c()?, t.input(1)?, t.shapes(3)?);
    let windows = explicit_windows(t, &x[2..], &y[2..], false)?;
    if !t.is_linear(0) {
        let image = t.input(0)?;
        return Ok(vec![(1, of_filters(t, image, c, &windows)?)]);
    }
    let mut attributes = window_attributes(t, &windows);
    let mut exact = true;
    let mut extra = Vec::new();
    for (size, w) in x[2..].iter().zip(&windows) {
        // What the last step of the convolution left over.
        let reach = w.dilation * (w.kernel - 1) + 1;
        extra.push(match size.as_fixed() {
            _ if w.stride == 1 => 0,
            Some(n) => n.saturating_add(w.before + w.after - reach).rem_euclid(w.stride),
            None => {
                exact = false;
                w.stride - 1
            }
        });
    }
    attributes.push(ints("output_padding", &extra));
    let spread = t.g.op_with("ConvTranspose", &[c, weights], attributes);
    let result = if exact { spread } else { cut_to(t, spread, &x) };
    t.g.set_shape(result, &x);
    Ok(vec![(0, result)])
}

/// The cotangent of the filters that lead from a wide image to a narrow one, or back: the narrow image is moved over the
/// wide one, with strides and dilations exchanged, and the samples are what is summed over.
fn of_filters(t: &mut Turn, wide: Val, narrow: Val, windows: &[Window]) -> Result<Val, Refusal> {
    let (from, to, filter) = (t.shape(wide)?, t.shape(narrow)?, t.input_shape(1)?);
    let group = t.node.int("group", 1);
    let groups = Size::fixed(group);
    let each = from[1].over(&groups).ok_or("its channels do not divide into its groups")?;
    let apart = t.g.reshape(wide, &[&[from[0].clone(), groups.clone(), each.clone()], &from[2..]].concat());
    let order: Vec<usize> = [2, 1, 0].into_iter().chain(3..from.len() + 1).collect();
    let turned = t.g.transpose(apart, &order);
    let samples = t.g.symbols.mul(&groups, &from[0]);
    let image = t.g.reshape(turned, &[&[each.clone(), samples], &from[2..]].concat());
    let order: Vec<usize> = [1, 0].into_iter().chain(2..to.len()).collect();
    let filters = t.g.transpose(narrow, &order);
    let all = |f: fn(&Window) -> i64| windows.iter().map(f).collect::<Vec<_>>();
    let attributes = vec![
        ints("strides", &all(|w| w.dilation)),
        ints("dilations", &all(|w| w.stride)),
        ints("pads", &[all(|w| w.before), all(|w| w.after)].concat()),
        int("group", group),
    ];
    let moved = t.g.op_with("Conv", &[image, filters], attributes);
    let channels = [each, to[1].clone()];
    // Where the last step left something over there are more places than the filter has.
    let cut = cut_to(t, moved, &[&channels, &filter[2..]].concat());
    t.g.set_shape(cut, &[&channels, &filter[2..]].concat());
    let result = t.g.transpose(cut, &order);
    t.g.set_shape(result, &filter);
    Ok(result)
}

/// Cuts the spatial axes off behind the wanted sizes.
fn cut_to(t: &mut Turn, v: Val, shape: &Shape) -> Val {
    let axes: Vec<i64> = (2..shape.len() as i64).collect();
    let start = t.g.integers(&vec![0; axes.len()]);
    let end = t.g.sizes(&shape[2..]);
    let axes = t.g.integers(&axes);
    t.g.op("Slice", &[v, start, end, axes])
}

pub fn conv_transpose(t: &mut Turn) -> Result<Parts, Refusal> {
    let (c, weights, (x, y)) = (t.c()?, t.input(1)?, t.shapes(3)?);
    let given = t.node.ints("output_shape").is_some_and(|shape| !shape.is_empty());
    let windows = explicit_windows(t, &y[2..], &x[2..], given)?;
    if !t.is_linear(0) {
        let image = t.input(0)?;
        return Ok(vec![(1, of_filters(t, c, image, &windows)?)]);
    }
    let attributes = window_attributes(t, &windows);
    let result = t.g.op_with("Conv", &[c, weights], attributes);
    t.g.set_shape(result, &x);
    Ok(vec![(0, result)])
}

/// Only the standard arrangement has an inverse operator.
pub fn depth_to_space(t: &mut Turn) -> Result<Parts, Refusal> {
    let (c, (x, _)) = (t.c()?, t.shapes(4)?);
    let block = t.node.int("blocksize", 1);
    if t.node.text("mode", "DCR") == "DCR" {
        let result = t.g.op_with("SpaceToDepth", &[c], vec![int("blocksize", block)]);
        t.g.set_shape(result, &x);
        return Ok(vec![(0, result)]);
    }
    let b = Size::fixed(block);
    let channels =
        x[1].over(&Size::fixed(block.saturating_mul(block))).ok_or("its channels do not divide by its blocks")?;
    let parts = [x[0].clone(), channels, x[2].clone(), b.clone(), x[3].clone(), b];
    let split = t.g.reshape(c, &parts);
    let turned = t.g.transpose(split, &[0, 1, 3, 5, 2, 4]);
    Ok(vec![(0, t.g.reshape(turned, &x))])
}

pub fn space_to_depth(t: &mut Turn) -> Result<Parts, Refusal> {
    let (c, (x, _)) = (t.c()?, t.shapes(4)?);
    let kept = ["blocksize", "mode"];
    let attributes = t.node.attributes.iter().filter(|a| kept.contains(&a.name())).cloned().collect();
    let result = t.g.op_with("DepthToSpace", &[c], attributes);
    t.g.set_shape(result, &x);
    Ok(vec![(0, result)])
}

/// Multiplies one axis of `c` by a matrix of the shape `[length, size of that axis]`.
fn along(t: &mut Turn, c: Val, axis: usize, matrix: Val, length: &Size) -> Result<Val, Refusal> {
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

/// The unit matrix as an image `[1, n, 1, n]`.
fn unit_image(t: &mut Turn, n: &Size, like: Val) -> Val {
    let square = [n.clone(), n.clone()];
    let zeros = t.g.zeros(&square, t.g.elem(like));
    let unit = t.g.op("EyeLike", &[zeros]);
    let one = Size::fixed(1);
    t.g.reshape(unit, &[one.clone(), n.clone(), one, n.clone()])
}

/// What was made of the unit image, as the matrix `[n, m]` of the transpose along one axis.
fn as_matrix(t: &mut Turn, image: Val, n: &Size, m: &Size) -> Val {
    let one = Size::fixed(1);
    t.g.set_shape(image, &[one.clone(), n.clone(), one, m.clone()]);
    t.g.reshape(image, &[n.clone(), m.clone()])
}

/// Resizing acts along each axis by itself: its matrix is what it makes of the unit matrix.
pub fn resize(t: &mut Turn) -> Result<Parts, Refusal> {
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
            inputs[1] = Some(region(t, axis, x.len())?);
        }
        let kept =
            ["mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "antialias", "exclude_outside"];
        let attributes = t.node.attributes.iter().filter(|a| kept.contains(&a.name())).cloned().collect();
        let image = t.g.op_optional("Resize", &inputs, attributes);
        let matrix = as_matrix(t, image, &x[axis], &y[axis]);
        c = along(t, c, axis, matrix, &x[axis])?;
    }
    Ok(vec![(0, c)])
}

/// Where the scale along an axis stands among the scales or sizes.
fn scale_place(t: &Turn, axis: usize, rank: usize) -> Option<usize> {
    match t.node.ints("axes") {
        Some(axes) => axes.iter().position(|a| *a == axis as i64 || *a + rank as i64 == axis as i64),
        None => Some(axis),
    }
}

/// Whether a known scale along an axis is other than 1.
fn resized(t: &Turn, axis: usize) -> bool {
    let rank = t.input_shape(0).map_or(0, |x| x.len());
    let scales = t.node.input(2).and_then(|v| t.g.content(v)).and_then(|c| c.reals());
    scales.zip(scale_place(t, axis, rank)).is_some_and(|(scales, i)| scales.get(i).is_some_and(|s| *s != 1.0))
}

/// The inputs that resize the last axis of the unit image alone.
fn resize_inputs(
    t: &mut Turn,
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

/// The region along an axis, as that of the last axis of the unit image.
fn region(t: &mut Turn, axis: usize, rank: usize) -> Result<Val, Refusal> {
    let whole = t.input(1)?;
    let elem = t.g.elem(whole);
    let count = t.node.ints("axes").map_or(rank, |axes| axes.len());
    let ends = match scale_place(t, axis, rank) {
        Some(place) => [place, place + count].map(|place| {
            let place = t.g.integers(&[place as i64]);
            t.g.op("Gather", &[whole, place])
        }),
        None => [0.0, 1.0].map(|end| number(t, end, elem, 1)),
    };
    let before = [0.0, 1.0].map(|end| number(t, end, elem, 3));
    Ok(t.g.concat(&[before[0], ends[0], before[1], ends[1]], 0))
}

/// A number so often.
fn number(t: &mut Turn, value: f64, elem: ElemType, count: i64) -> Val {
    let number = t.g.real(value, elem);
    let number = t.g.cast(number, elem);
    t.g.expand(number, &[Size::fixed(count)])
}

/// Averaging, too, acts along each axis by itself.
pub fn average_pool(t: &mut Turn) -> Result<Parts, Refusal> {
    let (x, y) = t.shapes(3)?;
    let kernel = t.node.ints("kernel_shape").ok_or("its kernel is missing")?;
    let windows = windows(&t.node, &kernel).ok_or("its attributes do not fit its kernel")?;
    if windows.len() + 2 != x.len() {
        return Err(CONTRADICTION.into());
    }
    let mut c = t.c()?;
    for (i, w) in windows.iter().enumerate() {
        let axis = i + 2;
        let unit = unit_image(t, &x[axis], c);
        let mut attributes = vec![
            ints("kernel_shape", &[1, w.kernel]),
            ints("strides", &[1, w.stride]),
            ints("pads", &[0, w.before, 0, w.after]),
        ];
        if t.node.ints("dilations").is_some() {
            attributes.push(ints("dilations", &[1, w.dilation]));
        }
        let kept = ["auto_pad", "ceil_mode", "count_include_pad"];
        attributes.extend(t.node.attributes.iter().filter(|a| kept.contains(&a.name())).cloned());
        if t.node.text("auto_pad", "NOTSET") != "NOTSET" {
            attributes.retain(|a| a.name() != "pads");
        }
        let image = t.g.op_with("AveragePool", &[unit], attributes);
        let matrix = as_matrix(t, image, &x[axis], &y[axis]);
        c = along(t, c, axis, matrix, &x[axis])?;
    }
    Ok(vec![(0, c)])
}
