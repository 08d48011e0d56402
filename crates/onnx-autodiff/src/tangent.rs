//! Forward mode: beside every value that depends on the input, its k tangents.

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
pub fn propagate(g: &mut Graph, input: Val, seed: Val, k: &Size, output: Val) -> Tangents {
    let mut tangents = Tangents {
        of: HashMap::from([(input, Tangent::plain(seed))]),
        obstacles: Vec::new(),
    };
    propagate_nodes(g, 0..g.nodes.len(), k, &[output], &mut tangents);
    tangents
}

/// The same for a part of the nodes, from tangents that are known already.
pub fn propagate_nodes(
    g: &mut Graph,
    places: Range<usize>,
    k: &Size,
    outputs: &[Val],
    tangents: &mut Tangents,
) {
    let useful = ancestors(g, places.clone(), outputs);
    propagate_in_order(g, places, k, &useful, tangents, None);
}

/// The same for nodes in their order, which serve the original node `whole`, or are such themselves.
fn propagate_in_order(
    g: &mut Graph,
    places: impl IntoIterator<Item = usize>,
    k: &Size,
    useful: &HashSet<Val>,
    tangents: &mut Tangents,
    whole: Option<usize>,
) {
    let mut lost: HashSet<Val> = HashSet::new();
    for place in places {
        let node = g.nodes[place].clone();
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
        g.origin = whole.or(Some(place));
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
                // Behind an obstacle only what no tangent could mend is worth telling.
                if !blind || operators::rule(&node).is_err() {
                    tangents.obstacles.push(g.obstacle(&node, refusal));
                }
                lost.extend(node.outputs.iter().flatten());
            }
        }
    }
}

/// Everything that some values are computed from by a part of the nodes.
fn ancestors(g: &Graph, places: Range<usize>, outputs: &[Val]) -> HashSet<Val> {
    let mut useful: HashSet<Val> = outputs.iter().copied().collect();
    for node in g.nodes[places].iter().rev() {
        if node.outputs.iter().flatten().any(|v| useful.contains(v)) {
            useful.extend(node.inputs.iter().flatten().chain(&node.captures));
        }
    }
    useful
}

/// What stands between the inputs of a node and what it is replaced with: as far back as tangents are known, so that
/// it takes no longer in a large graph than in a small one.
struct ReplacementNodes {
    /// Places of nodes, in their order.
    places: BTreeSet<usize>,
    useful: HashSet<Val>,
    known: HashMap<Val, Tangent>,
}

impl ReplacementNodes {
    /// What tells of a value its shape alone is left out: that may be the shape of the very node being differentiated.
    fn new(g: &Graph, node: &Node, ends: &[Val], of: &HashMap<Val, Tangent>) -> ReplacementNodes {
        let mut between = ReplacementNodes {
            places: BTreeSet::new(),
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
            // A part may be a node that the graph has already, with a tangent that is not known yet.
            let Some(place) = g
                .place(v)
                .filter(|place| !operators::reads_only_shapes(&g.nodes[*place]))
            else {
                continue;
            };
            between.places.insert(place);
            open.extend(
                g.nodes[place]
                    .inputs
                    .iter()
                    .flatten()
                    .chain(&g.nodes[place].captures),
            );
        }
        between
    }
}

/// Tangents of which nothing is left to be multiplied later.
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

/// The tangents of a node's outputs as those of what it consists of.
fn tangents_by_decomposition(
    s: &mut JvpContext,
    parts: fn(&mut JvpContext) -> Result<Vec<Option<Val>>, Refusal>,
    of: &HashMap<Val, Tangent>,
) -> Result<Vec<Option<Tangent>>, Refusal> {
    let ends = parts(s)?;
    let made: Vec<Val> = ends.iter().flatten().copied().collect();
    let ReplacementNodes {
        places,
        useful,
        known,
    } = ReplacementNodes::new(s.g, &s.node, &made, of);
    let mut found = Tangents {
        of: known,
        obstacles: Vec::new(),
    };
    let (k, origin) = (s.k.clone(), s.g.origin);
    propagate_in_order(s.g, places, &k, &useful, &mut found, origin);
    s.g.origin = origin;
    if let Some(obstacle) = found.obstacles.first() {
        return Err(Refusal(format!(
            "of what it consists of, `{}`: {}",
            obstacle.op, obstacle.reason
        )));
    }
    Ok(ends
        .into_iter()
        .map(|end| found.of.get(&end?).copied())
        .collect())
}

/// Every output that is needed has a tangent, is known to have none that is not zero, or is refused.
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
    let open = |place: usize, v: Val| match outputs.get(place) {
        // What a choice gives has tangents by its type.
        Some(None) => matches!(rule, Rule::WithSubgraphs(_)) && g.elem(v) == ElemType::UNKNOWN,
        Some(Some(_)) => false,
        None => g.elem(v).is_float() || g.elem(v) == ElemType::UNKNOWN,
    };
    let mut named = node
        .outputs
        .iter()
        .enumerate()
        .filter_map(|(place, v)| Some((place, (*v)?)));
    match named.find(|(place, v)| useful.contains(v) && open(*place, *v)) {
        Some((place, v)) => Err(Refusal(format!(
            "its output {place}, `{}`, is not differentiated; export the model without using it",
            g.value(v).name
        ))),
        None => Ok(outputs),
    }
}
