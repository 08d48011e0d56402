//! `DeformConv`: convolutions whose filters look at moved positions.

use super::conv::conv_shape;
use super::grid_sample::{Axis, Pixels};
use super::operator::{DecompositionResult, Operator};
use super::parts::{finished, range_to};
use crate::error::Refusal;
use crate::graph::Val;
use crate::inference::{Window, windows};
use crate::jvp_context::JvpContext;
use crate::size::Size;

/// The declaration of `DeformConv`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("DeformConv")
    .kinked()
    .shape(conv_shape)
    .decomposition(deform_conv_decomposition)];

/// The largest number of elements of a kernel that is decomposed.
const LARGEST: i64 = 1 << 12;

/// Samples the image at the moved positions, multiplies the samples by the mask, and multiplies the
/// result by the filters.
fn deform_conv_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let (x, filter, y) = (s.x(0)?, s.x(1)?, s.y_shape()?);
    let (image, weights) = (s.shape(x)?, s.shape(filter)?);
    if image.len() != 4 || weights.len() != 4 || y.len() != 4 {
        return Err("only images of two axes are differentiated".into());
    }
    let kernel: Option<Vec<i64>> = weights[2..].iter().map(Size::as_fixed).collect();
    let kernel = kernel.ok_or("the size of its kernel is not known")?;
    let windows = windows(&s.node, &kernel).ok_or("its attributes do not fit its kernel")?;
    if kernel[0].saturating_mul(kernel[1]) > LARGEST {
        return Err("its kernel is out of range".into());
    }
    let taps = Size::fixed(kernel[0] * kernel[1]);
    let (group, parts) = (
        Size::fixed(s.node.int("group", 1)),
        Size::fixed(s.node.int("offset_group", 1)),
    );
    let uneven = "its channels do not divide into its groups";
    let channels = image[1].over(&parts).ok_or(uneven)?;
    let samples = s.g.symbols.mul(&image[0], &parts);
    let pixels = s.g.reshape(
        x,
        &[&[samples.clone(), channels.clone()], &image[2..]].concat(),
    );
    let pixels_shape = s.shape(pixels)?;
    let table = Pixels::of(s.g, pixels, &pixels_shape);
    let places = moved_places(s, &samples, &taps, &windows, &y)?;
    let mut neighbours = Vec::new();
    for (length, place) in image[2..].iter().zip(places) {
        let axis = Axis::open(s.g, length, s.g.elem(x));
        neighbours.push(axis.neighbours(s.g, place));
    }
    let first = table.first_of_samples(s.g, 4);
    let mut values = table.interpolated(s.g, first, &neighbours);
    if s.node.input(4).is_some() {
        let mask = s.x(4)?;
        let mask = s.g.reshape(
            mask,
            &[
                samples,
                taps.clone(),
                y[2].clone(),
                y[3].clone(),
                Size::fixed(1),
            ],
        );
        values = s.g.mul(values, mask);
    }
    // [N, O, K, P, C / O] becomes [N, G, C / G · K, P].
    let area = s.g.symbols.mul(&y[2], &y[3]);
    let apart = s.g.reshape(
        values,
        &[
            image[0].clone(),
            parts,
            taps.clone(),
            area.clone(),
            channels,
        ],
    );
    let columns = s.g.transpose(apart, &[0, 1, 4, 2, 3]);
    let depth = s.g.symbols.mul(&weights[1], &taps);
    let columns = s.g.reshape(
        columns,
        &[image[0].clone(), group.clone(), depth.clone(), area],
    );
    let rows = weights[0].over(&group).ok_or(uneven)?;
    let matrix = s.g.reshape(filter, &[group, rows, depth]);
    let product = s.g.op("MatMul", &[matrix, columns]);
    let mut result = s.g.reshape(product, &y);
    if s.node.input(3).is_some() {
        let bias = s.x(3)?;
        let bias = s.g.unsqueeze(bias, &[1, 2]);
        result = s.g.add(result, bias);
    }
    finished(s, result)
}

/// Returns the positions that each element of the kernel looks at, `[N · O, K, …]`, along both
/// axes.
fn moved_places(
    s: &mut JvpContext,
    samples: &Size,
    taps: &Size,
    windows: &[Window],
    y: &[Size],
) -> Result<Vec<Val>, Refusal> {
    let offset = s.x(2)?;
    let shape = [
        samples.clone(),
        taps.clone(),
        Size::fixed(2),
        y[2].clone(),
        y[3].clone(),
    ];
    let offset = s.g.reshape(offset, &shape);
    let mut places = Vec::new();
    for (i, w) in windows.iter().enumerate() {
        let component = s.g.integer(i as i64);
        let offset = s.g.op_with(
            "Gather",
            &[offset, component],
            vec![crate::graph::emit::int("axis", 2)],
        );
        let steps = range_to(s.g, &y[i + 2]);
        let steps = s.g.cast(steps, s.g.elem(offset));
        let steps = s.g.scale(steps, w.stride as f64);
        let steps = s.g.shift(steps, -w.before as f64);
        let steps = if i == 0 {
            s.g.unsqueeze(steps, &[1])
        } else {
            steps
        };
        let inner = if i == 0 { windows[1].kernel } else { 1 };
        let count = windows.iter().map(|w| w.kernel).product::<i64>();
        let kernel: Vec<i64> = (0..count)
            .map(|k| k / inner % w.kernel * w.dilation)
            .collect();
        let kernel = s.g.integers(&kernel);
        let kernel = s.g.cast(kernel, s.g.elem(offset));
        let kernel = s.g.unsqueeze(kernel, &[1, 2]);
        let still = s.g.add(kernel, steps);
        places.push(s.g.add(offset, still));
    }
    Ok(places)
}
