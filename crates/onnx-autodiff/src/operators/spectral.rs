//! The discrete Fourier transform, the short-time Fourier transform, and window functions.

use super::operator::{DecompositionResult, Operator};
use super::parts::{finished, range_to};
use crate::content::Item;
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::emit::int;
use crate::graph::{Graph, Node, Shape, Val};
use crate::inference::axis_of;
use crate::jvp_context::{JvpContext, Tangent};
use crate::size::Size;
use crate::transpose_context::{CONTRADICTION, Cotangents, TransposeContext};

/// The declarations of `BlackmanWindow`, `DFT`, `HammingWindow`, `HannWindow`,
/// `MelWeightMatrix` and `STFT`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("BlackmanWindow")
        .names_type()
        .element(window_element)
        .constant(),
    Operator::new("DFT")
        .shape(dft_shape)
        .tangent(dft_tangent)
        .transpose(dft_cotangent)
        .smooth(),
    Operator::new("HammingWindow")
        .names_type()
        .element(window_element)
        .constant(),
    Operator::new("HannWindow")
        .names_type()
        .element(window_element)
        .constant(),
    Operator::new("MelWeightMatrix")
        .names_type()
        .element(window_element)
        .constant(),
    Operator::new("STFT")
        .shape(stft_shape)
        .decomposition(stft_decomposition)
        .smooth_in(&[0, 2]),
];

fn window_element(_: &Graph, node: &Node) -> ElemType {
    ElemType(node.int("output_datatype", 1) as i32)
}

/// Returns the size that an input holds.
fn size_held_by(g: &mut Graph, v: Val) -> Size {
    match g.content(v).and_then(|c| c.items.first().cloned()) {
        Some(Item::Int(size)) => size,
        _ => g.symbols.fresh(),
    }
}

fn dft_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let axis = match node.input(2) {
        Some(v) => g.content(v)?.fixed()?.first().copied()?,
        None => node.int("axis", if g.opset >= 20 { -2 } else { 1 }),
    };
    let axis = axis_of(axis, shape.len())?;
    let (inverse, onesided) = (node.int("inverse", 0) != 0, node.int("onesided", 0) != 0);
    let length = node.input(1).map(|v| size_held_by(g, v));
    shape[axis] = match length {
        Some(length) => length,
        None if inverse && onesided => {
            let steps = g.symbols.sub(&shape[axis], &Size::fixed(1));
            g.symbols.mul(&steps, &Size::fixed(2))
        }
        None => shape[axis].clone(),
    };
    if onesided && !inverse {
        shape[axis] = half_spectrum_length(g, &shape[axis].clone());
    }
    *shape.last_mut()? = Size::fixed(if onesided && inverse { 1 } else { 2 });
    Some(shape)
}

/// Returns the length of half a spectrum.
fn half_spectrum_length(g: &mut Graph, length: &Size) -> Size {
    let half = g.symbols.div(length, &Size::fixed(2));
    g.symbols.add(&half, &Size::fixed(1))
}

fn stft_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let signal = g.shape(node.input(0)?)?.clone();
    let step = size_held_by(g, node.input(1)?);
    let length = match (node.input(3), node.input(2)) {
        (Some(v), _) => size_held_by(g, v),
        (None, Some(window)) => g.shape(window)?.first()?.clone(),
        (None, None) => return None,
    };
    let room = g.symbols.sub(signal.get(1)?, &length);
    let frames = g.symbols.div(&room, &step);
    let frames = g.symbols.add(&frames, &Size::fixed(1));
    let bins = if node.int("onesided", 1) != 0 {
        half_spectrum_length(g, &length)
    } else {
        length
    };
    Some(vec![signal.first()?.clone(), frames, bins, Size::fixed(2)])
}

/// Returns the transformed tangent. The axis was an attribute before opset 20. The last axis holds
/// real and imaginary parts.
fn dft_tangent(s: &mut JvpContext) -> Result<Option<Tangent>, Refusal> {
    let d = s.dx()?;
    let rank = s.rank(0)?;
    let axis = match s.node.input(2) {
        Some(_) => s.known(2)?.first().copied().ok_or("its axis is missing")?,
        None => s.node.int("axis", if s.g.opset < 20 { 1 } else { -2 }),
    };
    let axis = axis_of(axis, rank)
        .filter(|axis| axis + 1 < rank)
        .ok_or("its axis does not fit its input")?
        + 1;
    let (inverse, onesided) = (
        s.node.int("inverse", 0) != 0,
        s.node.int("onesided", 0) != 0,
    );
    let result = match (inverse, onesided) {
        (true, true) => real_inverse(s, d, axis)?,
        _ => {
            let d = of_length(s, d, axis)?;
            dft(s, d, axis, inverse, onesided)
        }
    };
    let shape = s.tangent_shape(&s.y_shape()?);
    s.g.set_shape(result, &shape);
    Ok(Some(Tangent::plain(result)))
}

/// Appends the transform of a tensor along an axis.
fn dft(s: &mut JvpContext, v: Val, axis: usize, inverse: bool, onesided: bool) -> Val {
    let flags = [("inverse", inverse), ("onesided", onesided)];
    let mut attributes: Vec<_> = flags.map(|(name, on)| int(name, i64::from(on))).to_vec();
    let mut inputs = vec![Some(v)];
    if s.g.opset < 20 {
        attributes.push(int("axis", axis as i64));
    } else {
        inputs.extend([None, Some(s.g.integer(axis as i64))]);
    }
    s.g.op_optional("DFT", &inputs, attributes)
}

/// Cuts a tangent off at the length of the transform, or pads it with zeros to it.
fn of_length(s: &mut JvpContext, d: Val, axis: usize) -> Result<Val, Refusal> {
    let Some(length) = s.node.input(1) else {
        return Ok(d);
    };
    let length = s.g.reshape(length, &[Size::fixed(1)]);
    let mut shape = s.shape(d)?;
    let zero = |s: &mut JvpContext, n: usize| s.g.integers(&vec![0; n]);
    let (before, after) = (zero(s, shape.len() + axis), zero(s, shape.len() - 1 - axis));
    let length = s.g.cast(length, ElemType::INT64);
    let pads = s.g.concat(&[before, length, after], 0);
    let wide = s.g.op("Pad", &[d, pads]);
    let size = s.g.content(length).and_then(|c| c.items.first().cloned());
    let known = match size {
        Some(crate::content::Item::Int(size)) => size,
        _ => s.g.symbols.fresh(),
    };
    shape[axis] = s.g.symbols.add(&shape[axis], &known);
    s.g.set_shape(wide, &shape);
    let (start, axes) = (s.g.integers(&[0]), s.g.integers(&[axis as i64]));
    let cut = s.g.op("Slice", &[wide, start, length, axes]);
    shape[axis] = known;
    s.g.set_shape(cut, &shape);
    Ok(cut)
}

/// Returns the real signal of half a spectrum. The missing elements are the conjugates of the given
/// ones, so that every element except the first and the middle one counts twice in the real part.
fn real_inverse(s: &mut JvpContext, d: Val, axis: usize) -> Result<Val, Refusal> {
    let shape = s.shape(d)?;
    let given = shape[axis]
        .as_fixed()
        .ok_or("the length of its spectrum is not known")?;
    let length = match s.node.input(1) {
        Some(_) => s
            .known(1)?
            .first()
            .copied()
            .ok_or("its length is missing")?,
        None => given.saturating_sub(1).saturating_mul(2),
    };
    if !(1..1 << 20).contains(&length) || !(1..1 << 20).contains(&given) {
        return Err("the length of its signal is out of range".into());
    }
    let half = length / 2 + 1;
    if given != half {
        return Err(
            "its spectrum does not have the length of half the spectrum of its signal, which runtimes treat differently".into()
        );
    }
    let counts: Vec<i64> = (0..given)
        .map(|i| if i == 0 || 2 * i == length { 1 } else { 2 })
        .collect();
    let start = s.g.integers(&[0]);
    let (end, axes) = (s.g.integers(&[given]), s.g.integers(&[axis as i64]));
    let used = s.g.op("Slice", &[d, start, end, axes]);
    let counts = s.g.integers(&counts);
    let counts = s.g.cast(counts, s.g.elem(d));
    let counts = s.g.unsqueeze(
        counts,
        &(1..(shape.len() - axis) as i64).collect::<Vec<_>>(),
    );
    let weighted = s.g.mul(used, counts);
    let mut pads = vec![0; 2 * shape.len()];
    pads[shape.len() + axis] = length - given;
    let pads = s.g.integers(&pads);
    let whole = s.g.op("Pad", &[weighted, pads]);
    let signal = dft(s, whole, axis, true, false);
    let (one, last) = (s.g.integers(&[1]), s.g.integers(&[shape.len() as i64 - 1]));
    Ok(s.g.op("Slice", &[signal, start, one, last]))
}

/// Appends the frames of the signal, multiplied by the window and transformed.
fn stft_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let mut signal = s.x(0)?;
    let y = s.y_shape()?;
    if s.shape(signal)?.len() == 2 {
        signal = s.g.unsqueeze(signal, &[2]);
    }
    let shape = s.shape(signal)?;
    if shape.len() != 3 || y.len() != 4 {
        return Err("its signal does not have three axes".into());
    }
    let length = match (s.node.input(3), s.node.input(2)) {
        (Some(_), _) => s.known(3)?.first().copied(),
        (None, Some(window)) => s.shape(window)?.first().and_then(Size::as_fixed),
        (None, None) => None,
    };
    let length = length
        .filter(|n| (1..1 << 30).contains(n))
        .ok_or("the length of its frames is not known")?;
    let step = s.node.input(1).ok_or("its step is missing")?;
    let step = s.g.cast(step, ElemType::INT64);
    let (frames, places) = (range_to(s.g, &y[1]), range_to(s.g, &Size::fixed(length)));
    let starts = s.g.mul(frames, step);
    let starts = s.g.unsqueeze(starts, &[1]);
    let places = s.g.add(starts, places);
    let mut framed =
        s.g.op_with("Gather", &[signal, places], vec![int("axis", 1)]);
    s.g.set_shape(
        framed,
        &[
            shape[0].clone(),
            y[1].clone(),
            Size::fixed(length),
            shape[2].clone(),
        ],
    );
    if s.node.input(2).is_some() {
        let window = s.x(2)?;
        let window = s.g.cast(window, s.g.elem(framed));
        let window = s.g.unsqueeze(window, &[1]);
        framed = s.g.mul(framed, window);
    }
    let onesided = s.node.int("onesided", 1) != 0;
    if onesided && !shape[2].is(1) {
        return Err("a half spectrum of a complex signal is not differentiated".into());
    }
    let spectrum = dft(s, framed, 2, false, onesided);
    finished(s, spectrum)
}

/// Returns the cotangent. The matrix of the transform is symmetric. The transpose of its real form
/// conjugates it, which inverts it up to the length.
fn dft_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    if t.node.input(1).is_some() {
        return Err(
            "a transform whose length differs from that of its input is not differentiated in reverse mode"
                .into(),
        );
    }
    let shape = t.input_shape(0)?;
    let rank = shape.len();
    let attribute = t.g.opset < 20;
    let axis = match t.node.input(2) {
        Some(v) => {
            t.g.content(v)
                .and_then(|c| c.fixed())
                .and_then(|c| c.first().copied())
                .ok_or("its axis is not known")?
        }
        None => t.node.int("axis", 1),
    };
    let axis = axis_of(axis, rank).ok_or("its axis does not fit its input")?;
    let real = match shape.last().and_then(Size::as_fixed) {
        Some(1) => true,
        Some(2) => false,
        _ => {
            return Err("it is not known whether its signal is real; export the model with its last axis fixed".into());
        }
    };
    let mut c = t.c()?;
    if t.node.int("onesided", 0) != 0 {
        c = padded_to(t, c, axis, &shape[axis])?;
    }
    let inverse = t.node.int("inverse", 0) != 0;
    let mut attributes = vec![int("inverse", i64::from(!inverse))];
    let turned = if attribute {
        attributes.push(int("axis", axis as i64));
        t.g.op_with("DFT", &[c], attributes)
    } else {
        let axis = t.g.integer(axis as i64);
        t.g.op_optional("DFT", &[Some(c), None, Some(axis)], attributes)
    };
    let length = t.g.sizes(std::slice::from_ref(&shape[axis]));
    let length = t.g.squeeze(length, &[0]);
    let length = t.g.cast(length, t.g.elem(c));
    let scaled = if inverse {
        t.g.div(turned, length)
    } else {
        t.g.mul(turned, length)
    };
    let (start, end, last) = (
        t.g.integers(&[0]),
        t.g.integers(&[1]),
        t.g.integers(&[rank as i64 - 1]),
    );
    let result = if real {
        t.g.op("Slice", &[scaled, start, end, last])
    } else {
        scaled
    };
    t.g.set_shape(result, &shape);
    Ok(vec![(0, result)])
}

/// Pads the given half of a spectrum with zeros.
fn padded_to(t: &mut TransposeContext, c: Val, axis: usize, length: &Size) -> Result<Val, Refusal> {
    let mut shape = t.shape(c)?;
    let rank = shape.len();
    if axis >= rank {
        return Err(CONTRADICTION.into());
    }
    let mut pads = vec![Size::fixed(0); 2 * rank];
    pads[rank + axis] = t.g.symbols.sub(length, &shape[axis]);
    let pads = t.g.sizes(&pads);
    let padded = t.g.op("Pad", &[c, pads]);
    shape[axis] = length.clone();
    t.g.set_shape(padded, &shape);
    Ok(padded)
}
