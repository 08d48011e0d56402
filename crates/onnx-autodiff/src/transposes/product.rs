//! Products of matrices and tensors, and the Fourier transform.

use super::{CONTRADICTION, Parts, Turn};
use crate::emit::{int, text};
use crate::error::Refusal;
use crate::ir::Val;
use crate::shapes::axis_of;
use crate::size::Size;

pub fn matmul(t: &mut Turn) -> Result<Parts, Refusal> {
    let c = t.c()?;
    let place = usize::from(!t.is_linear(0));
    let other = t.input(1 - place)?;
    let rank = t.shape(other)?.len();
    if rank < 2 {
        return Err(CONTRADICTION.into());
    }
    let turned = t.g.swap(other, rank);
    let product = if place == 0 { t.g.op("MatMul", &[c, turned]) } else { t.g.op("MatMul", &[turned, c]) };
    Ok(vec![(place, t.unbroadcast(product, place)?)])
}

/// The operand's term becomes the result; letters that occur nowhere else are spread by ones.
pub fn einsum(t: &mut Turn) -> Result<Parts, Refusal> {
    let equation = t.node.text("equation", "");
    let (left, result) = equation.split_once("->").ok_or("its equation has no arrow")?;
    let terms: Vec<String> = left.split(',').map(str::to_string).collect();
    let place = (0..terms.len()).find(|place| t.is_linear(*place)).ok_or("no operand is linear")?;
    let (mut names, mut inputs) = (vec![result.to_string()], vec![t.c()?]);
    for other in (0..terms.len()).filter(|other| *other != place) {
        names.push(terms[other].clone());
        inputs.push(t.input(other)?);
    }
    let shape = t.input_shape(place)?;
    if shape.len() != terms[place].chars().count() {
        return Err(CONTRADICTION.into());
    }
    let (term, diagonals) =
        without_repeats(equation.as_str(), &terms[place]).ok_or("its equation uses every letter")?;
    for (pair, axis) in diagonals {
        let square = [shape[axis].clone(), shape[axis].clone()];
        let zeros = t.g.zeros(&square, t.g.elem(inputs[0]));
        inputs.push(t.g.op("EyeLike", &[zeros]));
        names.push(pair);
    }
    for (letter, size) in term.chars().zip(&shape) {
        if !names.iter().any(|name| name.contains(letter)) {
            let one = t.g.real_like(1.0, inputs[0]);
            inputs.push(t.g.expand(one, std::slice::from_ref(size)));
            names.push(letter.to_string());
        }
    }
    let equation = format!("{}->{term}", names.join(","));
    let result = t.g.op_with("Einsum", &inputs, vec![text("equation", &equation)]);
    Ok(vec![(place, t.unbroadcast(result, place)?)])
}

/// A term in which no letter occurs twice; for each repetition the two letters that a unit matrix joins, and the axis.
fn without_repeats(equation: &str, term: &str) -> Option<(String, Vec<(String, usize)>)> {
    let mut spare = ('a'..='z').chain('A'..='Z').filter(|c| !equation.contains(*c));
    let (mut plain, mut diagonals) = (String::new(), Vec::new());
    for (axis, letter) in term.chars().enumerate() {
        if plain.contains(letter) {
            let other = spare.next()?;
            diagonals.push((format!("{letter}{other}"), axis));
            plain.push(other);
        } else {
            plain.push(letter);
        }
    }
    Some((plain, diagonals))
}

/// The transform's matrix is symmetric; transposing the real form conjugates it, which inverts it but for the length.
pub fn fourier(t: &mut Turn) -> Result<Parts, Refusal> {
    if t.node.input(1).is_some() {
        return Err("a transform of another length than its input's is not differentiated in reverse mode".into());
    }
    let shape = t.input_shape(0)?;
    let rank = shape.len();
    let attribute = t.g.opset < 20;
    let axis = match t.node.input(2) {
        Some(v) => {
            t.g.content(v).and_then(|c| c.fixed()).and_then(|c| c.first().copied()).ok_or("its axis is not known")?
        }
        None => t.node.int("axis", 1),
    };
    let axis = axis_of(axis, rank).ok_or("its axis does not fit its input")?;
    let real = match shape.last().and_then(Size::as_fixed) {
        Some(1) => true,
        Some(2) => false,
        _ => {
            return Err("whether its signal is real is not known; export the model with its last axis fixed".into());
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
    let scaled = if inverse { t.g.div(turned, length) } else { t.g.mul(turned, length) };
    let (start, end, last) = (t.g.integers(&[0]), t.g.integers(&[1]), t.g.integers(&[rank as i64 - 1]));
    let result = if real { t.g.op("Slice", &[scaled, start, end, last]) } else { scaled };
    t.g.set_shape(result, &shape);
    Ok(vec![(0, result)])
}

/// Zeros behind the given half of a spectrum.
fn padded_to(t: &mut Turn, c: Val, axis: usize, length: &Size) -> Result<Val, Refusal> {
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
