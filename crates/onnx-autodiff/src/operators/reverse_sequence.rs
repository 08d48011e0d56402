//! `ReverseSequence`: the reversal of sequences of different lengths.

use super::operator::{DecompositionResult, Operator};
use super::parts::{finished, pairs, range_to};
use crate::elem::ElemType;
use crate::jvp_context::JvpContext;

/// The declaration of `ReverseSequence`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("ReverseSequence")
    .same_shape()
    .decomposition(reverse_sequence_decomposition)
    .smooth_in(&[0])];

/// Reverses the first steps of each sequence, as many as its length.
fn reverse_sequence_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let (x, shape) = (s.x(0)?, s.x_shape(0)?);
    let lengths = s.node.input(1).ok_or("its lengths are missing")?;
    let (time, batch) = (s.node.int("time_axis", 0), s.node.int("batch_axis", 1));
    if shape.len() < 2 || !(0..2).contains(&time) || batch != 1 - time {
        return Err("its axes are not the first two".into());
    }
    let lengths = s.g.cast(lengths, ElemType::INT64);
    let [along, across] = [time, batch].map(|axis| shape[axis as usize].clone());
    let (steps, samples) = (range_to(s.g, &along), range_to(s.g, &across));
    let (steps, samples, lengths) = if time == 0 {
        (
            s.g.unsqueeze(steps, &[1]),
            s.g.unsqueeze(samples, &[0]),
            s.g.unsqueeze(lengths, &[0]),
        )
    } else {
        (
            s.g.unsqueeze(steps, &[0]),
            s.g.unsqueeze(samples, &[1]),
            s.g.unsqueeze(lengths, &[1]),
        )
    };
    let one = s.g.integer(1);
    let last = s.g.sub(lengths, one);
    let turned = s.g.sub(last, steps);
    let inside = s.g.op("Less", &[steps, lengths]);
    let places = s.g.op("Where", &[inside, turned, steps]);
    let indices = if time == 0 {
        pairs(s.g, places, samples, &shape[..2])
    } else {
        pairs(s.g, samples, places, &shape[..2])
    };
    let picked = s.g.op("GatherND", &[x, indices]);
    finished(s, picked)
}
