//! The names that a model uses, from which new names must differ.

use std::collections::BTreeSet;

use crate::proto::*;

/// Names of values or of nodes. ONNX Runtime refuses a graph in which two values, or two nodes,
/// have one name.
#[derive(Default)]
pub(crate) struct Names(BTreeSet<String>);

impl Names {
    /// Returns the names of all values of a graph and of its subgraphs.
    pub(crate) fn of_values(graph: &GraphProto) -> Names {
        let values = |graph: &GraphProto, names: &mut BTreeSet<String>| {
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

    /// Returns the names of all values and nodes of a graph and of its subgraphs.
    pub(crate) fn of_everything(graph: &GraphProto) -> Names {
        let mut names = Names::of_values(graph);
        names.extend(Names::of_nodes(graph));
        names
    }

    /// Collects names from a graph and from its subgraphs.
    fn of(graph: &GraphProto, collect: impl Fn(&GraphProto, &mut BTreeSet<String>)) -> Names {
        let mut names = BTreeSet::new();
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

    /// Returns whether a name is in use as the prefix before a slash.
    pub(crate) fn contains_prefix(&self, name: &str) -> bool {
        let prefix = format!("{name}/");
        let next = self.0.range(prefix.clone()..).next();
        next.is_some_and(|found| found.starts_with(&prefix))
    }

    /// Marks a name as used. Returns false if it was in use before.
    pub(crate) fn insert(&mut self, name: String) -> bool {
        self.0.insert(name)
    }

    /// Marks the names of others as used.
    pub(crate) fn extend(&mut self, others: Names) {
        self.0.extend(others.0);
    }

    /// Returns a prefix for new names, which continue with a slash: the wanted one, with the first
    /// free number behind it if names begin with it already.
    pub(crate) fn free_prefix(&self, wanted: &str) -> String {
        first_free(wanted, |prefix| self.contains_prefix(prefix))
    }

    /// Reserves a name and returns it: the wanted name, with the first free number behind it if it
    /// is in use.
    pub(crate) fn reserve(&mut self, wanted: &str) -> String {
        let name = first_free(wanted, |name| self.contains(name));
        self.insert(name.clone());
        name
    }
}

/// Returns the first of `wanted`, `wanted_2`, `wanted_3` and so on that is not taken.
fn first_free(wanted: &str, taken: impl Fn(&str) -> bool) -> String {
    let mut name = wanted.to_owned();
    let mut number = 1;
    while taken(&name) {
        number += 1;
        name = format!("{wanted}_{number}");
    }
    name
}

/// Returns the subgraphs of a node.
pub(crate) fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute
        .iter()
        .flat_map(|a| a.g.iter().chain(&a.graphs))
}
