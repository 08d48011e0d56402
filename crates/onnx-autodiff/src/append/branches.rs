//! Reads `If` nodes: picks the branch of an `If` whose condition is known before the graph runs,
//! and infers the outputs of the others from both branches.

use std::collections::HashMap;

use crate::elem::ElemType;
use crate::graph::{Graph, Inferred, Shape};
use crate::inline;
use crate::order;
use crate::proto::*;
use crate::size::Size;

/// The names of the attributes that hold the branches of an `If`. The branch for a true condition
/// comes first.
pub(crate) const BRANCHES: [&str; 2] = ["then_branch", "else_branch"];

/// Returns the branch that runs, with fresh names for its values. Returns `None` if the condition
/// is not known before the graph runs.
pub(crate) fn known_branch(g: &mut Graph, node: &NodeProto) -> Option<GraphProto> {
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

/// Returns the branch in the attribute `branch`, with names for its values that occur nowhere else
/// in the graph. Values that the branch captures from outside keep their names.
pub(crate) fn renamed(g: &mut Graph, node: &NodeProto, branch: &str) -> Option<GraphProto> {
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

/// Returns the element types and shapes of a branch's outputs. The nodes of the branch must have
/// been appended to the graph.
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

/// Infers the element types and shapes of the outputs of an `If`. A size that differs between the
/// branches becomes a new symbol.
pub(crate) fn infer_branch_outputs(g: &mut Graph, node: &NodeProto) -> Vec<Inferred> {
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

/// Returns the shape that two shapes have in common, with a new symbol for each size that differs.
/// Returns `None` if their ranks differ.
fn common(g: &mut Graph, a: Option<Shape>, b: Option<Shape>) -> Option<Shape> {
    let (a, b) = (a?, b?);
    let same = |g: &mut Graph, a: Size, b: Size| if a == b { a } else { g.symbols.fresh() };
    (a.len() == b.len()).then(|| a.into_iter().zip(b).map(|(a, b)| same(g, a, b)).collect())
}
