//! Sorts and checks the nodes of a graph: every name must be made once and before its use.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use crate::proto::{GraphProto, NodeProto};

/// Sorts the nodes so that each node follows the nodes that make its inputs. Otherwise the nodes
/// keep the order of the file.
///
/// # Errors
///
/// Returns an error if a name is made twice or never, or if nodes depend on each other in a cycle.
pub(crate) fn sort(graph: &mut GraphProto) -> Result<(), String> {
    let makers = makers(graph)?;
    let mut waiting: Vec<usize> = vec![0; graph.node.len()];
    let mut waiters: Vec<Vec<usize>> = vec![Vec::new(); graph.node.len()];
    for (index, node) in graph.node.iter().enumerate() {
        for name in needs(node) {
            match makers.get(name.as_str()) {
                Some(Some(maker)) => {
                    waiting[index] += 1;
                    waiters[*maker].push(index);
                }
                Some(None) => {}
                None => {
                    return Err(format!(
                        "node `{}` ({}) uses `{name}`, which nothing makes",
                        label(node),
                        node.op_type()
                    ));
                }
            }
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..waiting.len())
        .filter(|i| waiting[*i] == 0)
        .map(Reverse)
        .collect();
    let mut order = Vec::with_capacity(waiting.len());
    while let Some(Reverse(index)) = ready.pop() {
        order.push(index);
        for waiter in &waiters[index] {
            waiting[*waiter] -= 1;
            if waiting[*waiter] == 0 {
                ready.push(Reverse(*waiter));
            }
        }
    }
    if order.len() < graph.node.len() {
        let stuck = waiting.iter().position(|n| *n > 0).unwrap_or(0);
        return Err(format!(
            "its nodes form a cycle, through node `{}`",
            label(&graph.node[stuck])
        ));
    }
    check_outputs(graph, |name| makers.contains_key(name))?;
    let mut nodes: Vec<Option<NodeProto>> = std::mem::take(&mut graph.node)
        .into_iter()
        .map(Some)
        .collect();
    graph.node = order
        .into_iter()
        .filter_map(|index| nodes[index].take())
        .collect();
    Ok(())
}

/// Checks that every output is made and is listed once.
fn check_outputs(graph: &GraphProto, made: impl Fn(&str) -> bool) -> Result<(), String> {
    if graph.output.is_empty() {
        return Err("it has no outputs".into());
    }
    let mut seen = BTreeSet::new();
    for output in &graph.output {
        if !made(output.name()) {
            return Err(format!("nothing makes its output `{}`", output.name()));
        }
        if !seen.insert(output.name()) {
            return Err(format!("its output `{}` is listed twice", output.name()));
        }
    }
    Ok(())
}

/// Returns the index of the node that makes each name. It is `None` for inputs and stored tensors.
fn makers(graph: &GraphProto) -> Result<HashMap<String, Option<usize>>, String> {
    let mut makers: HashMap<String, Option<usize>> = HashMap::new();
    for tensor in &graph.initializer {
        if tensor.name().is_empty() || makers.insert(tensor.name().to_string(), None).is_some() {
            return Err(format!(
                "the name of initializer `{}` is not unique",
                tensor.name()
            ));
        }
    }
    let mut inputs = BTreeSet::new();
    for input in &graph.input {
        if input.name().is_empty() || !inputs.insert(input.name()) {
            return Err(format!(
                "the name of input `{}` is not unique",
                input.name()
            ));
        }
        makers.insert(input.name().to_string(), None);
    }
    for (index, node) in graph.node.iter().enumerate() {
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            if makers.insert(name.clone(), Some(index)).is_some() {
                return Err(format!(
                    "`{name}` is made twice, the second time by node `{}`",
                    label(node)
                ));
            }
        }
    }
    Ok(makers)
}

/// Returns the names that a node uses, including those that its subgraphs capture.
fn needs(node: &NodeProto) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = node
        .input
        .iter()
        .filter(|name| !name.is_empty())
        .cloned()
        .collect();
    names.extend(captures(node));
    names
}

/// Returns the names of the surrounding graph that a node's subgraphs use.
pub(crate) fn captures(node: &NodeProto) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for attribute in &node.attribute {
        for subgraph in attribute.g.iter().chain(&attribute.graphs) {
            names.extend(free_names(subgraph));
        }
    }
    names
}

/// Returns the names that a subgraph uses and does not make.
fn free_names(graph: &GraphProto) -> BTreeSet<String> {
    let mut free: BTreeSet<String> = graph.node.iter().flat_map(needs).collect();
    free.extend(graph.output.iter().map(|o| o.name().to_string()));
    for made in graph.node.iter().flat_map(|node| &node.output) {
        free.remove(made);
    }
    for tensor in &graph.initializer {
        free.remove(tensor.name());
    }
    for input in &graph.input {
        free.remove(input.name());
    }
    free
}

/// Returns the name of a node in messages: its own name, or that of its first output.
pub(crate) fn label(node: &NodeProto) -> String {
    match (
        node.name(),
        node.output.iter().find(|name| !name.is_empty()),
    ) {
        ("", Some(output)) => output.clone(),
        ("", None) => node.op_type().to_string(),
        (name, _) => name.to_string(),
    }
}
