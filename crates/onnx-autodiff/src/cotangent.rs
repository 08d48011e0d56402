//! Reverse mode: transposes the tangent graph.
//!
//! Forward mode writes operators that are linear in the seed. Reverse mode visits them from the
//! output's tangent back to the seed and appends the transpose of each (`transpose_context`), so
//! that one rule serves both modes. Nodes that only computed the tangents are then no longer
//! needed, and the export leaves them out.

use std::collections::HashMap;
use std::ops::Range;

use crate::elem::ElemType;
use crate::error::{Obstacle, Refusal};
use crate::graph::{Graph, Node, Val};
use crate::operators;
use crate::size::Size;
use crate::transpose_context::{CONTRADICTION, Cotangents, Masks, TransposeContext};

/// The reason for an operator with more linear inputs than its transpose returns cotangents for.
const HALF: &str =
    "more of its inputs depend on the differentiated input than reverse mode supports";

/// Appends a tangent of `x` with one direction, from which forward mode starts. Reverse mode never
/// reads its numbers.
pub(crate) fn seed(g: &mut Graph, x: Val) -> Val {
    let elem = g.elem(x).tangent();
    let wide = g.cast(x, elem);
    let nothing = g.sub(wide, wide);
    let seed = g.unsqueeze(nothing, &[0]);
    g.mark_linear(seed);
    seed
}

/// Returns the cotangent of `seed`, from the cotangent `given` of the output whose tangent is `d`.
///
/// # Errors
///
/// Returns every node that has no transpose.
pub(crate) fn transpose_tangents(
    g: &mut Graph,
    seed: Val,
    d: Val,
    given: Val,
) -> Result<Val, Vec<Obstacle>> {
    let shape: Vec<Size> = g.shape(d).cloned().unwrap_or_default();
    let elem = g.elem(d);
    let given = g.cast(given, elem);
    let given = g.reshape(given, &shape);
    let mut cotangents = HashMap::from([(d, given)]);
    let mut obstacles = Vec::new();
    transpose_nodes(g, 0..g.nodes.len(), &mut cotangents, &mut obstacles);
    if !obstacles.is_empty() {
        return Err(obstacles);
    }
    let shape = g.shape(seed).cloned().unwrap_or_default();
    Ok(cotangents
        .get(&seed)
        .copied()
        .unwrap_or_else(|| g.zeros(&shape, ElemType::tangent(elem))))
}

/// Visits the nodes at the given `indices` from the last to the first, and adds to `cotangents`
/// the cotangents of the values on which the known ones depend.
pub(crate) fn transpose_nodes(
    g: &mut Graph,
    indices: Range<usize>,
    cotangents: &mut HashMap<Val, Val>,
    obstacles: &mut Vec<Obstacle>,
) {
    let mut masks = Masks::new();
    for index in indices.rev() {
        let node = g.nodes[index].clone();
        // The seed is linear, but the nodes that make it take no linear input.
        let linear = node
            .inputs
            .iter()
            .flatten()
            .chain(&node.captures)
            .any(|v| g.value(*v).linear)
            && node.outputs.iter().flatten().any(|v| g.value(*v).linear);
        let output_cotangents: Vec<Option<Val>> = node
            .outputs
            .iter()
            .map(|v| cotangents.get(&(*v)?).copied())
            .collect();
        if !linear || output_cotangents.iter().all(Option::is_none) {
            continue;
        }
        g.origin = node.origin;
        let mut turn = TransposeContext {
            g,
            node: node.clone(),
            masks: &mut masks,
            output_cotangents,
            captured: Vec::new(),
            walk: transpose_nodes,
        };
        let found = transpose_node(&mut turn);
        let captured = turn.captured;
        match found {
            Ok(parts) => {
                let transposed = |index: usize| parts.iter().any(|(input, _)| *input == index);
                let linear = |v: &Option<Val>| v.is_some_and(|v| g.value(v).linear);
                if node
                    .inputs
                    .iter()
                    .enumerate()
                    .any(|(index, v)| linear(v) && !transposed(index))
                {
                    obstacles.push(obstacle_at_origin(g, &node, HALF.into()));
                }
                let parts = parts
                    .into_iter()
                    .filter_map(|(input, part)| Some((node.input(input)?, part)));
                for (v, part) in parts.chain(captured) {
                    if g.value(v).linear {
                        if g.rank(part) != g.rank(v) {
                            obstacles.push(obstacle_at_origin(g, &node, CONTRADICTION.into()));
                        }
                        accumulate(g, cotangents, &mut masks, v, part);
                    }
                }
            }
            Err(refusal) => obstacles.push(obstacle_at_origin(g, &node, refusal)),
        }
    }
}

/// Returns the obstacle that a refused transpose is, at the original node whose tangent the node
/// computes.
fn obstacle_at_origin(g: &Graph, node: &Node, refusal: Refusal) -> Obstacle {
    let original = node
        .origin
        .and_then(|origin| g.nodes.get(origin))
        .unwrap_or(node);
    g.obstacle(original, refusal)
}

/// Adds a cotangent to that of `v`, because a value that several nodes use receives a cotangent
/// from each.
fn accumulate(
    g: &mut Graph,
    cotangents: &mut HashMap<Val, Val>,
    masks: &mut Masks,
    v: Val,
    part: Val,
) {
    let Some(known) = cotangents.get(&v).copied() else {
        cotangents.insert(v, part);
        return;
    };
    let sum = g.add(known, part);
    if let Some(mask) = masks
        .get(&known)
        .copied()
        .filter(|mask| masks.get(&part) == Some(mask))
    {
        masks.insert(sum, mask);
    }
    cotangents.insert(v, sum);
}

/// Returns the cotangents of a node's inputs, by the transpose of its operator.
fn transpose_node(turn: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let known = operators::of(&turn.node).and_then(|operator| operator.transpose);
    match known {
        Some(transpose) => transpose(turn),
        None => Err(Refusal(format!(
            "`{}` is not differentiated in reverse mode",
            turn.node.op
        ))),
    }
}
