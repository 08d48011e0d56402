//! The names that a model uses, from which new names must differ.

use std::collections::HashSet;

use crate::proto::*;

/// Names of values or of nodes. ONNX Runtime refuses a graph in which two values, or two nodes,
/// have one name.
#[derive(Default)]
pub(crate) struct Names(HashSet<String>);

impl Names {
    /// Returns the names of all values of a graph and of its subgraphs.
    pub(crate) fn of_values(graph: &GraphProto) -> Names {
        let values = |graph: &GraphProto, names: &mut HashSet<String>| {
            let ports = graph.input.iter().chain(&graph.output).map(|p| p.name());
            let stored = graph.initializer.iter().map(|t| t.name());
            names.extend(ports.chain(stored).map(str::to_owned));
            for node in &graph.node {
                names.extend(node.input.iter().chain(&node.output).cloned());
            }
        };
        Names::of(graph, values)
    }

    /// Returns the names of all nodes of a graph and of its subgraphs.
    pub(crate) fn of_nodes(graph: &GraphProto) -> Names {
        Names::of(graph, |graph, names| {
            names.extend(graph.node.iter().map(|node| node.name().to_owned()));
        })
    }

    /// Collects names from a graph and from its subgraphs.
    fn of(graph: &GraphProto, collect: impl Fn(&GraphProto, &mut HashSet<String>)) -> Names {
        let mut names = HashSet::new();
        let mut open = vec![graph];
        while let Some(graph) = open.pop() {
            collect(graph, &mut names);
            open.extend(graph.node.iter().flat_map(subgraphs));
        }
        Names(names)
    }

    /// Returns whether a name is in use.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// Marks a name as used. Returns false if it was in use before.
    pub(crate) fn insert(&mut self, name: String) -> bool {
        self.0.insert(name)
    }

    /// Reserves a name and returns it: the wanted name, with the first free number behind it if it
    /// is in use.
    pub(crate) fn reserve(&mut self, wanted: &str) -> String {
        let numbered = (2..).map(|n| format!("{wanted}_{n}"));
        let free = std::iter::once(wanted.to_owned())
            .chain(numbered)
            .find(|name| !self.contains(name));
        let name = free.unwrap_or_default();
        self.insert(name.clone());
        name
    }
}

/// Returns the subgraphs of a node.
fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute
        .iter()
        .flat_map(|a| a.g.iter().chain(&a.graphs))
}
