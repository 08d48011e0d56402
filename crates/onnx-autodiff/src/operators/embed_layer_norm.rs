//! `EmbedLayerNormalization`: the normalized sum of the embeddings of words, positions and
//! segments.

use super::attention::positions_up_to;
use super::fused_layer_norm::{SMALL_EPSILON, layer_normalized};
use super::operator::{Lowered, Operator};
use super::parts::plus;
use crate::elem::ElemType;
use crate::graph::emit::int;
use crate::graph::{Graph, Node, Val};

/// The declaration of `EmbedLayerNormalization`.
pub(super) const OPERATORS: &[Operator] = &[Operator::fused(
    "EmbedLayerNormalization",
    embed_layer_normalization,
)];

/// Returns the replacement of `EmbedLayerNormalization`.
pub(super) fn embed_layer_normalization(g: &mut Graph, node: &Node) -> Lowered {
    let words = node.input(0)?;
    let shape = g.shape(words).filter(|shape| shape.len() == 2)?.clone();
    let positions = node
        .input(8)
        .unwrap_or_else(|| positions_up_to(g, &shape[1]));
    let rows = |g: &mut Graph, table: Val, ids: Val| {
        g.op_with("Gather", &[table, ids], vec![int("axis", 0)])
    };
    let (word, position) = (
        rows(g, node.input(2)?, words),
        rows(g, node.input(3)?, positions),
    );
    let segment = match (node.input(1), node.input(4)) {
        (Some(ids), Some(table)) => Some(rows(g, table, ids)),
        (None, None) => None,
        _ => return None,
    };
    let sum = g.add(word, position);
    let sum = plus(g, sum, segment);
    let epsilon = node.float("epsilon", SMALL_EPSILON);
    let y = layer_normalized(g, sum, node.input(5)?, Some(node.input(6)?), epsilon);
    Some(vec![Some(y), sequence_lengths(g, node), Some(sum)])
}

/// Appends the number of words of each row that the mask keeps.
fn sequence_lengths(g: &mut Graph, node: &Node) -> Option<Val> {
    let mask = g.cast(node.input(7)?, ElemType::INT64);
    let one = g.integer(1);
    let kept = g.op("Equal", &[mask, one]);
    let kept = g.cast(kept, ElemType::INT64);
    let count = g.reduce("ReduceSum", kept, &[1], false);
    Some(g.cast(count, ElemType::INT32))
}
