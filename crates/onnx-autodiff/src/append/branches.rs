//! `If`: decided before anything runs where the condition is known, else differentiated in both branches.

use std::collections::HashMap;

use crate::elem::ElemType;
use crate::graph::{Graph, Inferred, Shape};
use crate::inline;
use crate::order;
use crate::proto::*;
use crate::size::Size;

/// The attributes that hold the branches, the one for a true condition first.
pub const BRANCHES: [&str; 2] = ["then_branch", "else_branch"];

/// The branch that a known condition chooses, with names of its own.
pub fn known_branch(g: &mut Graph, node: &NodeProto) -> Option<GraphProto> {
    let condition = g.named(node.input.first()?)?;
    let holds = g.content(condition)?.items.first()?.as_fixed()?;
    renamed(
        g,
        node,
        if holds != 0 {
            "then_branch"
        } else {
            "else_branch"
        },
    )
}

/// A branch whose values have names that occur nowhere else; what it takes from outside keeps its name.
pub fn renamed(g: &mut Graph, node: &NodeProto, branch: &str) -> Option<GraphProto> {
    let mut graph = node
        .attribute
        .iter()
        .find(|a| a.name() == branch)?
        .g
        .clone()?;
    let mut names: HashMap<String, String> = order::captures(node)
        .into_iter()
        .map(|name| (name.clone(), name))
        .collect();
    let prefix = g.fresh_name(branch);
    inline::rename_graph(&mut graph, &mut names, &prefix);
    Some(graph)
}

/// Element types and shapes of a branch's outputs, found by walking through it.
fn outputs_of(g: &mut Graph, graph: &GraphProto) -> Vec<Inferred> {
    let found = graph
        .output
        .iter()
        .map(|output| match g.named(output.name()) {
            Some(v) => (g.elem(v), g.shape(v).cloned()),
            None => (ElemType::UNKNOWN, None),
        });
    found.collect()
}

/// What both branches say of the outputs of an `If`.
pub fn infer_branch_outputs(g: &mut Graph, node: &NodeProto) -> Vec<Inferred> {
    let mut both = Vec::new();
    for branch in BRANCHES {
        let Some(graph) = renamed(g, node, branch) else {
            return Vec::new();
        };
        let scope = g.enter();
        super::push_body(g, &graph);
        both.push(outputs_of(g, &graph));
        g.leave(scope);
    }
    let no = both.pop().unwrap_or_default();
    let yes = both.pop().unwrap_or_default();
    yes.into_iter()
        .zip(no)
        .map(|((elem, a), (_, b))| (elem, common(g, a, b)))
        .collect()
}

fn common(g: &mut Graph, a: Option<Shape>, b: Option<Shape>) -> Option<Shape> {
    let (a, b) = (a?, b?);
    let same = |g: &mut Graph, a: Size, b: Size| if a == b { a } else { g.symbols.fresh() };
    (a.len() == b.len()).then(|| a.into_iter().zip(b).map(|(a, b)| same(g, a, b)).collect())
}
