//! `Col2Im` and `MaxUnpool`: elements put back to the positions from which they were taken.

use super::operator::{DecompositionResult, Operator};
use super::parts::{cut, finished};
use crate::content::Content;
use crate::error::Refusal;
use crate::graph::emit::text;
use crate::graph::{Graph, Node, Shape};
use crate::inference;
use crate::inference::{Window, sizes_held_by, windows};
use crate::jvp_context::JvpContext;
use crate::size::Size;

/// The declarations of `Col2Im` and `MaxUnpool`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Col2Im")
        .shape(col_to_im_shape)
        .decomposition(col_to_im_decomposition)
        .float64_by_decomposition()
        .smooth(),
    Operator::new("MaxUnpool")
        .shape(max_unpool_shape)
        .decomposition(max_unpool_decomposition)
        .float64_by_decomposition()
        .smooth_in(&[0]),
];

fn col_to_im_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let columns = g.shape(node.input(0)?)?.clone();
    let block = g.content(node.input(2)?).and_then(Content::fixed)?;
    let area = block
        .iter()
        .try_fold(1i64, |area, n| area.checked_mul(*n))?;
    let channels = g.symbols.div(columns.get(1)?, &Size::fixed(area));
    let image = sizes_held_by(g, node.input(1)?)?;
    Some([vec![columns[0].clone(), channels], image].concat())
}

fn max_unpool_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    if let Some(given) = node.input(2) {
        return sizes_held_by(g, given);
    }
    let x = g.shape(node.input(0)?)?.clone();
    let windows = windows(node, &node.ints("kernel_shape")?)?;
    if windows.len() + 2 != x.len() {
        return None;
    }
    let mut shape = x[..2].to_vec();
    for (length, w) in x[2..].iter().zip(&windows) {
        let steps = g.symbols.sub(length, &Size::fixed(1));
        let span = g.symbols.mul(&steps, &Size::fixed(w.stride));
        shape.push(
            g.symbols
                .add(&span, &Size::fixed(w.kernel - w.before - w.after)),
        );
    }
    Some(shape)
}

/// The largest number of elements of columns, and of pixels of an image, that are decomposed.
const MOST: i64 = 1 << 24;

/// Scatters the elements to the positions that their indices name in the flattened image.
fn max_unpool_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let kernel = s.node.ints("kernel_shape").ok_or("its kernel is missing")?;
    let windows = windows(&s.node, &kernel).ok_or("its attributes do not fit its kernel")?;
    if windows.iter().any(|w| w.stride < w.kernel) {
        return Err("its windows overlap, so that several elements may name one place".into());
    }
    if s.node.input(2).is_some() {
        return Err(
            "runtimes differ in what an output shape means; export the model without one".into(),
        );
    }
    let (x, indices, y) = (
        s.x(0)?,
        s.node.input(1).ok_or("its indices are missing")?,
        s.y_shape()?,
    );
    let count = inference::size_product(s.g, &s.shape(x)?);
    let flat = s.g.reshape(x, std::slice::from_ref(&count));
    let places = s.g.reshape(indices, &[count, Size::fixed(1)]);
    let whole = inference::size_product(s.g, &y);
    let zeros = s.g.zeros(&[whole], s.g.elem(x));
    let put = s.g.op("ScatterND", &[zeros, places, flat]);
    let image = s.g.reshape(put, &y);
    finished(s, image)
}

/// Adds each column to the image at the position from which it was taken.
fn col_to_im_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let (columns, y) = (s.x(0)?, s.y_shape()?);
    let (image, block) = (s.known(1)?, s.known(2)?);
    let windows = windows(&s.node, &block).ok_or("its attributes do not fit its blocks")?;
    if image.len() != block.len() || image.is_empty() || y.len() != image.len() + 2 {
        return Err("the shapes of its image and of its blocks do not fit".into());
    }
    let (padded, places) = landing(&image, &windows)?;
    let area: i64 = block.iter().product();
    let shape = s.shape(columns)?;
    let (n, c) = (y[0].clone(), y[1].clone());
    if shape.len() != 3 || !shape[2].is(places.len() as i64 / area.max(1)) {
        return Err("its columns do not fit its image and its blocks".into());
    }
    let apart = [n.clone(), c.clone(), Size::fixed(places.len() as i64)];
    let apart = s.g.reshape(columns, &apart);
    let front = s.g.transpose(apart, &[2, 0, 1]);
    let pixels: i64 = padded.iter().product();
    let zeros = s.g.zeros(
        &[Size::fixed(pixels), n.clone(), c.clone()],
        s.g.elem(columns),
    );
    let indices = s.g.integers(&places);
    let indices = s.g.unsqueeze(indices, &[1]);
    let sum = s.g.op_with(
        "ScatterND",
        &[zeros, indices, front],
        vec![text("reduction", "add")],
    );
    let back = s.g.transpose(sum, &[1, 2, 0]);
    let lengths: Vec<Size> = padded.iter().map(|n| Size::fixed(*n)).collect();
    let mut result = s.g.reshape(back, &[vec![n, c], lengths].concat());
    for (axis, (w, length)) in windows.iter().zip(&image).enumerate() {
        result = cut(s.g, result, axis + 2, w.before, w.before + length);
    }
    finished(s, result)
}

/// Returns the sizes of the padded image, and the pixel of each element of each block.
fn landing(image: &[i64], windows: &[Window]) -> Result<(Vec<i64>, Vec<i64>), Refusal> {
    const RANGE: &str = "the sizes of its image or of its blocks are out of range";
    let (mut padded, mut kernels, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
    for (n, w) in image.iter().zip(windows) {
        let length = n
            .checked_add(w.before + w.after)
            .filter(|n| (1..=MOST).contains(n))
            .ok_or(RANGE)?;
        let room = length - (w.dilation * (w.kernel - 1) + 1);
        if *n < 1 || room < 0 || w.before < 0 || w.after < 0 {
            return Err(RANGE.into());
        }
        padded.push(length);
        kernels.push((0..w.kernel).map(|i| i * w.dilation).collect::<Vec<_>>());
        blocks.push(
            (0..=room / w.stride)
                .map(|i| i * w.stride)
                .collect::<Vec<_>>(),
        );
    }
    let total = kernels
        .iter()
        .chain(&blocks)
        .try_fold(1i64, |n, list| n.checked_mul(list.len() as i64));
    let pixels = padded
        .iter()
        .try_fold(1i64, |n, length| n.checked_mul(*length));
    if total.zip(pixels).is_none_or(|(a, b)| a > MOST || b > MOST) {
        return Err(RANGE.into());
    }
    let (inner, outer) = (flattened(&kernels, &padded), flattened(&blocks, &padded));
    Ok((
        padded,
        inner
            .iter()
            .flat_map(|a| outer.iter().map(move |b| a + b))
            .collect(),
    ))
}

/// Returns the pixels that the sums of offsets along all axes lead to, in row-major order.
fn flattened(offsets: &[Vec<i64>], lengths: &[i64]) -> Vec<i64> {
    offsets
        .iter()
        .zip(lengths)
        .fold(vec![0], |found, (offsets, length)| {
            found
                .iter()
                .flat_map(|place| offsets.iter().map(move |offset| place * length + offset))
                .collect()
        })
}
