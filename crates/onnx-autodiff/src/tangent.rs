//! Forward mode: computes k tangents of every value that depends on the input.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::{Graph, Node, Val};
use crate::jvp_context::{JvpContext, Tangent, Tangents, known_at};
use crate::operators::{self, Rule};
use crate::passes::Pass;
use crate::size::Size;
use crate::transpose_context::CONTRADICTION;

/// Propagates the tangent `seed` of `input` through the graph, as far as `output` needs it.
pub(crate) fn propagate(g: &mut Graph, input: Val, seed: Val, k: &Size, output: Val) -> Tangents {
    let mut tangents = Tangents {
        of: HashMap::from([(input, Tangent::plain(seed))]),
        obstacles: Vec::new(),
    };
    propagate_nodes(g, 0..g.nodes.len(), k, &[output], &mut tangents);
    tangents
}

/// Propagates known tangents through the nodes at the given `indices`, as far as `outputs` need
/// it.
pub(crate) fn propagate_nodes(
    g: &mut Graph,
    indices: Range<usize>,
    k: &Size,
    outputs: &[Val],
    tangents: &mut Tangents,
) {
    let useful = ancestors(g, indices.clone(), outputs);
    propagate_in_order(g, indices, k, &useful, tangents, None);
}

/// Propagates known tangents through nodes in their order. New nodes belong to the original node
/// `whole` if it is given, and to the node itself otherwise.
fn propagate_in_order(
    g: &mut Graph,
    indices: impl IntoIterator<Item = usize>,
    k: &Size,
    useful: &HashSet<Val>,
    tangents: &mut Tangents,
    whole: Option<usize>,
) {
    let mut lost: HashSet<Val> = HashSet::new();
    for index in indices {
        let node = g.nodes[index].clone();
        let touches = |v: &Val| tangents.of.contains_key(v) || lost.contains(v);
        let active = node
            .inputs
            .iter()
            .flatten()
            .chain(&node.captures)
            .any(touches);
        if !active || !node.outputs.iter().flatten().any(|v| useful.contains(v)) {
            continue;
        }
        let blind = node
            .inputs
            .iter()
            .flatten()
            .chain(&node.captures)
            .any(|v| lost.contains(v));
        g.origin = whole.or(Some(index));
        let found = differentiate_node(g, &node, &tangents.of, k);
        match found.and_then(|outputs| complete(g, &node, outputs, useful)) {
            Ok(outputs) if !blind => {
                let outputs = if g.passes.has(Pass::LazyFactors) {
                    outputs
                } else {
                    multiplied(g, outputs)
                };
                tangents.of.extend(
                    node.outputs
                        .iter()
                        .zip(outputs)
                        .filter_map(|(v, tangent)| Some(((*v)?, tangent?))),
                )
            }
            Ok(_) => lost.extend(node.outputs.iter().flatten()),
            Err(refusal) => {
                // Behind an obstacle, only a node that has no rule at all is worth a report.
                if !blind || operators::rule(&node).is_err() {
                    tangents.obstacles.push(g.obstacle(&node, refusal));
                }
                lost.extend(node.outputs.iter().flatten());
            }
        }
    }
}

/// Returns the values from which the nodes at the given `indices` compute the outputs.
fn ancestors(g: &Graph, indices: Range<usize>, outputs: &[Val]) -> HashSet<Val> {
    let mut useful: HashSet<Val> = outputs.iter().copied().collect();
    for node in g.nodes[indices].iter().rev() {
        if node.outputs.iter().flatten().any(|v| useful.contains(v)) {
            useful.extend(node.inputs.iter().flatten().chain(&node.captures));
        }
    }
    useful
}

/// The nodes between the inputs of a node and the values that replace its outputs. The search ends
/// at values whose tangents are known, so that its cost does not grow with the graph.
struct ReplacementNodes {
    /// The indices of the nodes, in order.
    indices: BTreeSet<usize>,
    useful: HashSet<Val>,
    known: HashMap<Val, Tangent>,
}

impl ReplacementNodes {
    /// Finds the nodes. A node that reads only the shape of a value is left out, because that may
    /// be the shape of the very node that is being differentiated.
    fn new(g: &Graph, node: &Node, ends: &[Val], of: &HashMap<Val, Tangent>) -> ReplacementNodes {
        let mut between = ReplacementNodes {
            indices: BTreeSet::new(),
            useful: HashSet::new(),
            known: HashMap::new(),
        };
        let mut open = ends.to_vec();
        while let Some(v) = open.pop() {
            if !between.useful.insert(v) {
                continue;
            }
            if of.contains_key(&v) || node.inputs.contains(&Some(v)) {
                between.known.extend(known_at(g, v, of));
                continue;
            }
            // The graph may already have held a node of the decomposition, without a tangent.
            let Some(index) = g
                .node_index(v)
                .filter(|index| !operators::reads_only_shapes(&g.nodes[*index]))
            else {
                continue;
            };
            between.indices.insert(index);
            open.extend(
                g.nodes[index]
                    .inputs
                    .iter()
                    .flatten()
                    .chain(&g.nodes[index].captures),
            );
        }
        between
    }
}

/// Multiplies the base of each tangent by its factor.
fn multiplied(g: &mut Graph, tangents: Vec<Option<Tangent>>) -> Vec<Option<Tangent>> {
    let mut whole = |tangent: Tangent| match tangent.factor {
        Some(factor) => Tangent::plain(g.mul(tangent.base, factor)),
        None => tangent,
    };
    tangents
        .into_iter()
        .map(|tangent| tangent.map(&mut whole))
        .collect()
}

/// Returns the tangents of a node's outputs, by the rule of its operator.
fn differentiate_node(
    g: &mut Graph,
    node: &Node,
    of: &HashMap<Val, Tangent>,
    k: &Size,
) -> Result<Vec<Option<Tangent>>, Refusal> {
    let rule = operators::rule(node)?;
    let tangents = node
        .inputs
        .iter()
        .map(|v| of.get(&(*v)?).copied())
        .collect();
    let mut step = JvpContext {
        g,
        node: node.clone(),
        tangents,
        k: k.clone(),
        walk: propagate_nodes,
    };
    let outputs = match rule {
        Rule::Constant => Ok(Vec::new()),
        Rule::Derivative(factor) => {
            let factor = factor(&mut step)?;
            Ok(vec![step.times(0, factor)?])
        }
        Rule::Single(rule) => Ok(vec![rule(&mut step)?]),
        Rule::WithProducers(rule) => Ok(vec![rule(&mut step, of)?]),
        Rule::Decomposition(parts) => tangents_by_decomposition(&mut step, parts, of),
        Rule::Several(rule) => rule(&mut step),
        Rule::WithSubgraphs(rule) => rule(&mut step, of),
        Rule::Refused(reason) => Err(reason.into()),
    }?;
    let fits = |(v, tangent): (&Option<Val>, &Option<Tangent>)| match (v, tangent) {
        (Some(v), Some(tangent)) => g
            .rank(*v)
            .is_some_and(|rank| g.rank(tangent.base) == Some(rank + 1)),
        _ => true,
    };
    if node.outputs.iter().zip(&outputs).all(fits) {
        Ok(outputs)
    } else {
        Err(CONTRADICTION.into())
    }
}

/// Returns the tangents of a node's outputs, by the rules of the operators that it is decomposed
/// into.
fn tangents_by_decomposition(
    s: &mut JvpContext,
    parts: fn(&mut JvpContext) -> Result<Vec<Option<Val>>, Refusal>,
    of: &HashMap<Val, Tangent>,
) -> Result<Vec<Option<Tangent>>, Refusal> {
    let ends = parts(s)?;
    let made: Vec<Val> = ends.iter().flatten().copied().collect();
    let ReplacementNodes {
        indices,
        useful,
        known,
    } = ReplacementNodes::new(s.g, &s.node, &made, of);
    let mut found = Tangents {
        of: known,
        obstacles: Vec::new(),
    };
    let (k, origin) = (s.k.clone(), s.g.origin);
    propagate_in_order(s.g, indices, &k, &useful, &mut found, origin);
    s.g.origin = origin;
    if let Some(obstacle) = found.obstacles.first() {
        return Err(Refusal(format!(
            "in its decomposition, `{}`: {}",
            obstacle.op, obstacle.reason
        )));
    }
    Ok(ends
        .into_iter()
        .map(|end| found.of.get(&end?).copied())
        .collect())
}

/// Checks that every output which is needed has a tangent or is known to have a zero tangent.
///
/// # Errors
///
/// Refuses an output for which the rule returned nothing.
fn complete(
    g: &Graph,
    node: &Node,
    outputs: Vec<Option<Tangent>>,
    useful: &HashSet<Val>,
) -> Result<Vec<Option<Tangent>>, Refusal> {
    let rule = operators::rule(node)?;
    if matches!(rule, Rule::Constant) {
        return Ok(outputs);
    }
    let open = |index: usize, v: Val| match outputs.get(index) {
        // The type of an output of an `If` may be unknown until the rule has looked into its
        // branches.
        Some(None) => matches!(rule, Rule::WithSubgraphs(_)) && g.elem(v) == ElemType::UNKNOWN,
        Some(Some(_)) => false,
        None => g.elem(v).is_float() || g.elem(v) == ElemType::UNKNOWN,
    };
    let mut named = node
        .outputs
        .iter()
        .enumerate()
        .filter_map(|(index, v)| Some((index, (*v)?)));
    match named.find(|(index, v)| useful.contains(v) && open(*index, *v)) {
        Some((index, v)) => Err(Refusal(format!(
            "its output {index}, `{}`, is not differentiated; export the model without using it",
            g.value(v).name
        ))),
        None => Ok(outputs),
    }
}
