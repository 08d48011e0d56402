//! Rewrites the subgraphs of nodes that stay in the graph, so that operators which are replaced in
//! the graph are replaced inside its subgraphs too.
//!
//! A subgraph must hold no fused operator. In a float64 graph it must also hold no operator that
//! ONNX Runtime implements in float32 alone.

use std::borrow::Cow;

use super::branches;
use super::loop_form::{DEEPEST, LoopForm};
use crate::elem::ElemType;
use crate::graph::subgraph::Body;
use crate::graph::{Graph, Scope, Val};
use crate::proto::*;
use crate::size::Size;

/// Returns the node with rewritten subgraphs, in which every operator that must be replaced is
/// replaced. Returns the node itself if no subgraph needs a change or if one cannot be read.
pub(super) fn rewritten<'a>(g: &mut Graph, node: &'a NodeProto) -> Cow<'a, NodeProto> {
    if g.nesting >= DEEPEST || !(g.avoids_single || holds_foreign(node)) {
        return Cow::Borrowed(node);
    }
    let mut changed = node.clone();
    for attribute in changed
        .attribute
        .iter_mut()
        .filter(|attribute| attribute.g.is_some())
    {
        g.nesting += 1;
        let body = if node.op_type() == "If" {
            rewritten_branch(g, node, attribute.name())
        } else {
            rewritten_loop_body(g, node)
        };
        g.nesting -= 1;
        let Some(body) = body else {
            return Cow::Borrowed(node);
        };
        // Constants of the body lose their names when its scope ends, and the attribute refers to
        // them by name.
        body.captures().into_iter().for_each(|v| g.restore_name(v));
        *attribute = body.attribute(g, attribute.name());
    }
    Cow::Owned(changed)
}

/// Returns whether a subgraph of the node holds an operator outside the standard domain, at any
/// depth.
fn holds_foreign(node: &NodeProto) -> bool {
    let mut inner = node
        .attribute
        .iter()
        .flat_map(|a| a.g.iter().chain(&a.graphs))
        .flat_map(|graph| &graph.node);
    inner.any(|node| !standardize(node.domain()).is_empty() || holds_foreign(node))
}

/// Returns the rewritten branch of an `If` whose attribute is called `name`.
fn rewritten_branch(g: &mut Graph, node: &NodeProto, name: &str) -> Option<Body> {
    let graph = branches::renamed(g, node, name)?;
    let scope = g.enter();
    super::push_body(g, &graph);
    let outputs: Option<Vec<Val>> = graph
        .output
        .iter()
        .map(|output| g.named(output.name()))
        .collect();
    close_body(g, scope, Vec::new(), outputs)
}

/// Returns the rewritten body of a `Loop` or a `Scan`.
fn rewritten_loop_body(g: &mut Graph, node: &NodeProto) -> Option<Body> {
    let (inputs, captures) = super::uses(g, node);
    let read = g.original(node, inputs, captures);
    let form = LoopForm::of(&read)?;
    let types = form.carried(g, &read)?.types;
    let scope = g.enter();
    let Some(step) = form.open(g, &read, &types) else {
        g.leave(scope);
        return None;
    };
    let mut inputs: Vec<Val> = step.number.into_iter().collect();
    if form.counts {
        let shape = form
            .body
            .input
            .get(1)
            .map(|_| vec![Size::fixed(1); form.rank_of_condition()]);
        inputs.push(g.add_formal(ElemType::BOOL, shape, false));
    }
    inputs.extend(step.states.iter().chain(&step.elements));
    let outputs = step
        .goes_on
        .into_iter()
        .chain(step.next)
        .chain(step.scan_outputs)
        .collect();
    close_body(g, scope, inputs, Some(outputs))
}

/// Closes the subgraph and gives every output a name of its own. Discards the subgraph if `outputs`
/// is `None`.
fn close_body(
    g: &mut Graph,
    scope: Scope,
    inputs: Vec<Val>,
    outputs: Option<Vec<Val>>,
) -> Option<Body> {
    match outputs {
        Some(outputs) => {
            // An output of a subgraph must be computed by a node inside the subgraph, so each one
            // is copied.
            let outputs = outputs.into_iter().map(|v| g.fresh_identity(v)).collect();
            Some(Body::close(g, scope, inputs, outputs))
        }
        None => {
            g.leave(scope);
            None
        }
    }
}
