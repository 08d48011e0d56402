//! `DequantizeLinear`: numbers of few bits times their scale, which may depend on the input.

use super::operator::{DecompositionResult, Operator};
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::Val;
use crate::graph::emit::int;
use crate::graph::{Graph, Node};
use crate::jvp_context::JvpContext;
use crate::size::Size;

/// The declaration of `DequantizeLinear`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("DequantizeLinear")
    .element(dequantized_element)
    .same_shape()
    .single_inputs(&[1])
    .decomposition(dequantized)
    .computes_as(1)
    .float64_by_decomposition()
    .smooth_in(&[1])];

/// Returns the type that the node names, or that of its scale.
fn dequantized_element(g: &Graph, node: &Node) -> ElemType {
    match node.int("output_dtype", 0) {
        0 => node.input(1).map_or(ElemType::UNKNOWN, |v| g.elem(v)),
        n => ElemType(n as i32),
    }
}

/// Appends `(x - zero point) scale`.
fn dequantized(s: &mut JvpContext) -> DecompositionResult {
    let (x, scale) = (s.node.input(0).ok_or("its input is missing")?, s.x(1)?);
    let elem = s.g.elem(scale);
    let mut whole = s.g.cast(x, elem);
    if let Some(zero) = s.node.input(2) {
        let zero = s.g.cast(zero, elem);
        let zero = broadcast_to_input(s, zero)?;
        whole = s.g.sub(whole, zero);
    }
    let scale = broadcast_to_input(s, scale)?;
    Ok(vec![Some(s.g.mul(whole, scale))])
}

/// Broadcasts a scale or a zero point to the input. There is one for all elements, one for each
/// index along an axis, or one for each block along an axis.
fn broadcast_to_input(s: &mut JvpContext, v: Val) -> Result<Val, Refusal> {
    let (of, shape) = (s.shape(v)?, s.x_shape(0)?);
    if of.is_empty()
        || of.len() == 1 && shape.len() != 1 && of[0].is(1) && s.node.attribute("axis").is_none()
    {
        return Ok(v);
    }
    let axis = s.axis("axis", 1.min(shape.len() as i64 - 1), shape.len())?;
    let block = s.node.int("block_size", 0);
    match (of.len(), block) {
        (1, 0) => {
            Ok(s.g.unsqueeze(v, &(1..(shape.len() - axis) as i64).collect::<Vec<_>>()))
        }
        (n, 1..) if n == shape.len() => blocks(s, v, axis, block),
        _ => Err("its scale does not fit its input".into()),
    }
}

/// Repeats every number `block` times along the axis, up to the size of the input.
fn blocks(s: &mut JvpContext, v: Val, axis: usize, block: i64) -> Result<Val, Refusal> {
    let length = s.x_shape(0)?[axis]
        .as_fixed()
        .ok_or("the length of its blocked axis is not known")?;
    if !(1..1 << 20).contains(&length) {
        return Err("the length of its blocked axis is out of range".into());
    }
    let places: Vec<i64> = (0..length).map(|place| place / block).collect();
    let mut shape = s.shape(v)?;
    shape[axis] = Size::fixed(length);
    let places = s.g.integers(&places);
    let repeated =
        s.g.op_with("Gather", &[v, places], vec![int("axis", axis as i64)]);
    s.g.set_shape(repeated, &shape);
    Ok(repeated)
}
