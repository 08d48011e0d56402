//! Appends the nodes of a file to a graph. The branch of a decided `If` and copies of the body of a
//! loop of known length replace their nodes. Every other node is appended as it is.

mod bodies;
/// `If` nodes.
pub(crate) mod branches;
/// The common form of `Loop` and `Scan` nodes.
pub(crate) mod loop_form;
/// Unrolled loops.
pub(crate) mod loops;

use crate::graph::{Graph, Val};
use crate::order;
use crate::proto::*;

/// Appends a node of the file, or what replaces it.
pub(crate) fn push(g: &mut Graph, node: &NodeProto) {
    if node.op_type() == "If" && standardize(node.domain()).is_empty() {
        match branches::known_branch(g, node) {
            Some(branch) => return push_branch(g, node, &branch),
            None => return push_undecided(g, node),
        }
    }
    match loops::unrolled(g, node) {
        Some(outputs) => {
            let inner: Vec<String> = outputs
                .into_iter()
                .map(|v| g.value(v).name.clone())
                .collect();
            push_outputs(g, node, &inner);
        }
        None => {
            let node = bodies::rewritten(g, node);
            push_plain(g, &node);
        }
    }
}

/// Appends the nodes of a branch in place of the `If` node.
fn push_branch(g: &mut Graph, node: &NodeProto, branch: &GraphProto) {
    push_body(g, branch);
    let inner: Vec<String> = branch
        .output
        .iter()
        .map(|output| output.name().to_string())
        .collect();
    push_outputs(g, node, &inner);
}

/// Gives the values `inner` the names of the outputs of the node that they replace.
fn push_outputs(g: &mut Graph, node: &NodeProto, inner: &[String]) {
    for (inner, outer) in inner
        .iter()
        .zip(&node.output)
        .filter(|(_, outer)| !outer.is_empty())
    {
        let identity = NodeProto {
            op_type: Some("Identity".into()),
            name: Some(g.reserved_node_name(&format!("{}.{outer}", node.name()))),
            input: vec![inner.clone()],
            output: vec![outer.clone()],
            ..Default::default()
        };
        push_plain(g, &identity);
    }
}

/// Appends an `If` whose condition is not known before the graph runs.
fn push_undecided(g: &mut Graph, node: &NodeProto) {
    let inferred = branches::infer_branch_outputs(g, node);
    let node = bodies::rewritten(g, node);
    push_plain(g, &node);
    for (name, (elem, shape)) in node.output.iter().zip(inferred) {
        if let Some(v) = g.named(name) {
            g.complete(v, elem, shape);
        }
    }
}

/// Appends a node as it is.
fn push_plain(g: &mut Graph, node: &NodeProto) {
    let (inputs, captures) = uses(g, node);
    g.push_original(node, inputs, captures);
}

/// Returns the inputs of a node and the values that its subgraphs capture.
fn uses(g: &Graph, node: &NodeProto) -> (Vec<Option<Val>>, Vec<Val>) {
    let inputs = node.input.iter().map(|name| g.named(name)).collect();
    let captures = order::captures(node)
        .iter()
        .filter_map(|name| g.named(name))
        .collect();
    (inputs, captures)
}

/// Appends the constants and the nodes of a subgraph.
pub(crate) fn push_body(g: &mut Graph, graph: &GraphProto) {
    for tensor in &graph.initializer {
        g.add_initializer(tensor.clone());
    }
    for node in &graph.node {
        push(g, node);
    }
}
