//! Subgraphs that this crate builds: the branches of an `If` and the bodies of loops.
//!
//! The tangents of `If`, `Loop` and `Scan` are control-flow nodes whose subgraphs compute tangents.
//! Reverse mode transposes a subgraph as it transposes a graph: it appends the nodes once more
//! within a new subgraph and visits them backwards. What the result does not need is left out.

use std::collections::HashSet;

use crate::error::{Obstacle, Refusal};
use crate::graph::counted_loop::CountedLoop;
use crate::graph::{Graph, Node, Scope, Val};
use crate::proto::*;

/// A subgraph that a control-flow node runs.
#[derive(Clone)]
pub(crate) struct Body {
    /// The inputs, which the node that runs the subgraph provides.
    pub inputs: Vec<Val>,
    /// The nodes, in an order in which they can run.
    pub nodes: Vec<Node>,
    /// The outputs.
    pub outputs: Vec<Val>,
}

/// The subgraphs of a control-flow node that computes tangents, which reverse mode transposes.
#[derive(Clone)]
pub(crate) enum ControlSubgraphs {
    /// The branches of an `If`. The branch for a true condition comes first.
    Branches([Body; 2]),
    /// A loop.
    Loop(CountedLoop),
}

impl Body {
    /// Ends the subgraph that began at `scope`, without the nodes that its outputs do not need.
    pub(crate) fn close(g: &mut Graph, scope: Scope, inputs: Vec<Val>, outputs: Vec<Val>) -> Body {
        let (nodes, _) = g.leave(scope);
        let mut wanted: HashSet<Val> = outputs.iter().copied().collect();
        let mut kept: Vec<Node> = Vec::new();
        for node in nodes.into_iter().rev() {
            if node.outputs.iter().flatten().any(|v| wanted.contains(v)) {
                wanted.extend(node.inputs.iter().flatten().chain(&node.captures));
                // An obstacle inside the subgraph is reported at the node that runs it.
                kept.push(Node {
                    origin: g.origin,
                    ..node
                });
            }
        }
        kept.reverse();
        Body {
            inputs,
            nodes: kept,
            outputs,
        }
    }

    /// Returns the values that the nodes use.
    fn used(&self) -> impl Iterator<Item = Val> {
        self.nodes
            .iter()
            .flat_map(|node| node.inputs.iter().flatten().chain(&node.captures))
            .copied()
    }

    /// Returns whether the subgraph uses a value or returns it.
    pub(crate) fn uses(&self, v: Val) -> bool {
        self.outputs.contains(&v) || self.used().any(|used| used == v)
    }

    /// Returns the values from outside that the subgraph uses.
    pub(crate) fn captures(&self) -> Vec<Val> {
        let mut seen: HashSet<Val> = self.inputs.iter().copied().collect();
        seen.extend(
            self.nodes
                .iter()
                .flat_map(|node| node.outputs.iter().flatten()),
        );
        self.used().filter(|v| seen.insert(*v)).collect()
    }

    /// Returns the values from outside that the subgraph uses and that depend on the seed of the
    /// tangents.
    pub(crate) fn linear_captures(&self, g: &Graph) -> Vec<Val> {
        self.captures()
            .into_iter()
            .filter(|v| g.value(*v).linear)
            .collect()
    }

    /// Begins a new subgraph with the same nodes. Returns its scope and the indices of the nodes.
    pub(crate) fn reopen(&self, g: &mut Graph) -> (Scope, std::ops::Range<usize>) {
        let (scope, start) = (g.enter(), g.nodes.len());
        self.inputs.iter().for_each(|v| g.restore_value(*v));
        g.repeat(&self.nodes);
        (scope, start..g.nodes.len())
    }

    /// Writes the subgraph as an attribute.
    pub(crate) fn attribute(&self, g: &Graph, name: &str) -> AttributeProto {
        let port = |v: &Val| ValueInfoProto {
            name: Some(g.value(*v).name.clone()),
            r#type: Some(g.export_type(*v)),
        };
        let graph = GraphProto {
            name: Some(name.into()),
            node: self.nodes.iter().map(|node| g.export_node(node)).collect(),
            input: self.inputs.iter().map(port).collect(),
            output: self.outputs.iter().map(port).collect(),
            ..Default::default()
        };
        graph_attribute(name, graph)
    }

    /// Checks that the subgraph may run a second time and compute the same.
    ///
    /// # Errors
    ///
    /// Refuses a subgraph that draws random numbers.
    pub(crate) fn is_repeatable(&self, g: &Graph) -> Result<(), Refusal> {
        let drawn = self.nodes.iter().find(|node| {
            g.operators.draws(&node.domain, &node.op, node.inputs.len())
                || node.attributes.iter().any(|a| draws(g, a))
        });
        match drawn {
            Some(node) => Err(Refusal(format!(
                "its derivative would compute `{}` ({}) again, with different random numbers; export the model in evaluation mode",
                name_in_file(&node.name),
                node.op
            ))),
            None => Ok(()),
        }
    }
}

/// Returns whether a subgraph in an attribute draws random numbers.
fn draws(g: &Graph, attribute: &AttributeProto) -> bool {
    let nodes = attribute
        .g
        .iter()
        .chain(&attribute.graphs)
        .flat_map(|graph| &graph.node);
    nodes.into_iter().any(|node| {
        let domain = standardize(node.domain());
        g.operators.draws(&domain, node.op_type(), node.input.len())
            || node.attribute.iter().any(|a| draws(g, a))
    })
}

/// Returns the name that a node or value of a copied subgraph has in the file.
pub(crate) fn name_in_file(mut name: &str) -> &str {
    while let Some((_, inner)) = name
        .strip_prefix("d.")
        .and_then(|name| name.split_once('/'))
    {
        name = inner;
    }
    name
}

/// Returns an obstacle in a copied subgraph with the name that the node has in the file.
pub(crate) fn as_in_file(obstacle: &Obstacle) -> Obstacle {
    Obstacle {
        node: name_in_file(&obstacle.node).to_string(),
        ..obstacle.clone()
    }
}

/// Returns an attribute that holds a graph.
pub(crate) fn graph_attribute(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        g: Some(graph),
        kind: Some(attribute_kind::GRAPH),
        ..Default::default()
    }
}
