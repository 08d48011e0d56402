//! Subgraphs that are made here: the branches of a choice and the bodies of loops.
//!
//! Tangents of `If`, `Loop` and `Scan` are nodes of the same kind, whose subgraphs compute tangents. Reverse mode
//! transposes a subgraph like a graph: its nodes are appended once more, within a subgraph of their own, and read
//! backwards. What the result does not need is left out.

use std::collections::HashSet;

use crate::error::{Obstacle, Refusal};
use crate::graph::counted_loop::CountedLoop;
use crate::graph::{Graph, Node, Scope, Val};
use crate::proto::*;

/// Nodes that another node runs, and what they are given and make.
#[derive(Clone)]
pub struct Body {
    pub inputs: Vec<Val>,
    pub nodes: Vec<Node>,
    pub outputs: Vec<Val>,
}

/// What a node of tangents holds, for reverse mode.
#[derive(Clone)]
pub enum ControlSubgraphs {
    /// The two branches of an `If`, the one for a true condition first.
    Branches([Body; 2]),
    Loop(CountedLoop),
}

impl Body {
    /// Ends the subgraph that `scope` began, and leaves out of it what its outputs do not need.
    pub fn close(g: &mut Graph, scope: Scope, inputs: Vec<Val>, outputs: Vec<Val>) -> Body {
        let (nodes, _) = g.leave(scope);
        let mut wanted: HashSet<Val> = outputs.iter().copied().collect();
        let mut kept: Vec<Node> = Vec::new();
        for node in nodes.into_iter().rev() {
            if node.outputs.iter().flatten().any(|v| wanted.contains(v)) {
                wanted.extend(node.inputs.iter().flatten().chain(&node.captures));
                // What is wrong inside is told of the node that runs it.
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

    fn used(&self) -> impl Iterator<Item = Val> {
        self.nodes
            .iter()
            .flat_map(|node| node.inputs.iter().flatten().chain(&node.captures))
            .copied()
    }

    pub fn uses(&self, v: Val) -> bool {
        self.outputs.contains(&v) || self.used().any(|used| used == v)
    }

    /// The values from outside that it uses.
    pub fn captures(&self) -> Vec<Val> {
        let mut seen: HashSet<Val> = self.inputs.iter().copied().collect();
        seen.extend(
            self.nodes
                .iter()
                .flat_map(|node| node.outputs.iter().flatten()),
        );
        self.used().filter(|v| seen.insert(*v)).collect()
    }

    /// Those of them that depend on the seed.
    pub fn linear_captures(&self, g: &Graph) -> Vec<Val> {
        self.captures()
            .into_iter()
            .filter(|v| g.value(*v).linear)
            .collect()
    }

    /// Begins a subgraph that holds the nodes once more, at the places that are returned.
    pub fn reopen(&self, g: &mut Graph) -> (Scope, std::ops::Range<usize>) {
        let (scope, start) = (g.enter(), g.nodes.len());
        self.inputs.iter().for_each(|v| g.restore_value(*v));
        g.repeat(&self.nodes);
        (scope, start..g.nodes.len())
    }

    /// The subgraph as an attribute.
    pub fn attribute(&self, g: &Graph, name: &str) -> AttributeProto {
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

    /// Refuses what computes anew something that is another number each time.
    pub fn is_repeatable(&self, g: &Graph) -> Result<(), Refusal> {
        let drawn = self.nodes.iter().find(|node| {
            g.operators.draws(&node.domain, &node.op, node.inputs.len())
                || node.attributes.iter().any(|a| draws(g, a))
        });
        match drawn {
            Some(node) => Err(Refusal(format!(
                "its derivative would draw other random numbers than `{}` ({}) did; export the model in evaluation mode",
                name_in_file(&node.name),
                node.op
            ))),
            None => Ok(()),
        }
    }
}

/// Whether a subgraph draws random numbers.
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

/// The name that a node or value of a subgraph has in the file.
pub fn name_in_file(mut name: &str) -> &str {
    while let Some((_, inner)) = name
        .strip_prefix("d.")
        .and_then(|name| name.split_once('/'))
    {
        name = inner;
    }
    name
}

/// What is wrong with a node of a subgraph, under the name that it has in the file.
pub fn as_in_file(obstacle: &Obstacle) -> Obstacle {
    Obstacle {
        node: name_in_file(&obstacle.node).to_string(),
        ..obstacle.clone()
    }
}

pub fn graph_attribute(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        g: Some(graph),
        kind: Some(attribute_kind::GRAPH),
        ..Default::default()
    }
}
