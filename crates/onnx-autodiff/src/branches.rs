//! `If`: decided before anything runs where the condition is known, else differentiated in both branches.

use std::collections::HashMap;

use super::error::Refusal;
use super::inline;
use super::ir::{Graph, Node, Shape, Val};
use super::order;
use super::proto::*;
use super::shapes::Inferred;
use super::size::Size;
use super::step::{Step, Tangent};
use super::tangent;

/// The branch that a known condition chooses, with names of its own.
pub fn chosen(g: &mut Graph, node: &NodeProto) -> Option<GraphProto> {
    let condition = g.named(node.input.first()?)?;
    let holds = g.content(condition)?.items.first()?.as_fixed()?;
    renamed(g, node, if holds != 0 { "then_branch" } else { "else_branch" })
}

/// A branch whose values have names that occur nowhere else; what it takes from outside keeps its name.
fn renamed(g: &mut Graph, node: &NodeProto, branch: &str) -> Option<GraphProto> {
    let mut graph = node.attribute.iter().find(|a| a.name() == branch)?.g.clone()?;
    let mut names: HashMap<String, String> =
        order::captures(node).into_iter().map(|name| (name.clone(), name)).collect();
    let prefix = g.fresh_name(branch);
    inline::rename_graph(&mut graph, &mut names, &prefix);
    Some(graph)
}

/// Element types and shapes of a branch's outputs, found by walking through it.
fn outputs_of(g: &mut Graph, graph: &GraphProto) -> Vec<Inferred> {
    let found = graph.output.iter().map(|output| match g.named(output.name()) {
        Some(v) => (g.elem(v), g.shape(v).cloned()),
        None => (super::elem::ElemType::UNKNOWN, None),
    });
    found.collect()
}

/// What both branches say of the outputs of an `If`.
pub fn infer(g: &mut Graph, node: &NodeProto) -> Vec<Inferred> {
    let mut both = Vec::new();
    for branch in ["then_branch", "else_branch"] {
        let Some(graph) = renamed(g, node, branch) else { return Vec::new() };
        let scope = g.enter();
        import(g, &graph);
        both.push(outputs_of(g, &graph));
        g.leave(scope);
    }
    let no = both.pop().unwrap_or_default();
    let yes = both.pop().unwrap_or_default();
    yes.into_iter().zip(no).map(|((elem, a), (_, b))| (elem, common(g, a, b))).collect()
}

fn common(g: &mut Graph, a: Option<Shape>, b: Option<Shape>) -> Option<Shape> {
    let (a, b) = (a?, b?);
    let same = |g: &mut Graph, a: Size, b: Size| if a == b { a } else { g.symbols.fresh() };
    (a.len() == b.len()).then(|| a.into_iter().zip(b).map(|(a, b)| same(g, a, b)).collect())
}

/// Appends the constants and nodes of a branch.
pub fn import(g: &mut Graph, graph: &GraphProto) {
    for tensor in &graph.initializer {
        g.add_initializer(tensor.clone());
    }
    for node in &graph.node {
        super::differentiate::push(g, node);
    }
}

/// The tangents of an `If`: another `If` with the same condition, whose branches compute them.
pub fn tangents(s: &mut Step, of: &HashMap<Val, Tangent>) -> Result<Vec<Option<Tangent>>, Refusal> {
    let proto = s.g.export_node(&s.node);
    let condition = s.node.input(0).ok_or("its condition is missing")?;
    let places: Vec<usize> =
        (0..s.node.outputs.len()).filter(|i| s.node.output(*i).is_some_and(|v| s.g.elem(v).is_float())).collect();
    let (mut attributes, mut shapes, mut captures) = (Vec::new(), Vec::new(), Vec::new());
    for branch in ["then_branch", "else_branch"] {
        let graph = renamed(s.g, &proto, branch).ok_or("one of its branches is missing")?;
        let scope = s.g.enter();
        let result = inside(s, of, &graph, &places);
        let (nodes, used) = s.g.leave(scope);
        let outputs = result?;
        captures.extend(used);
        shapes = outputs.iter().map(|v| (s.g.elem(*v), s.g.shape(*v).cloned())).collect();
        attributes.push(subgraph(s.g, branch, nodes, &outputs));
    }
    let made = s.g.push_branches(condition, attributes, captures, shapes);
    let mut tangents = vec![None; s.node.outputs.len()];
    for (place, v) in places.into_iter().zip(made) {
        let shape = s.lead(&s.shape(s.node.output(place).ok_or("an output is missing")?)?);
        s.g.set_shape(v, &shape);
        tangents[place] = Some(Tangent::plain(v));
    }
    Ok(tangents)
}

/// The tangents of one branch's outputs, computed in the current scope.
fn inside(s: &mut Step, of: &HashMap<Val, Tangent>, graph: &GraphProto, places: &[usize]) -> Result<Vec<Val>, Refusal> {
    let start = s.g.nodes.len();
    import(s.g, graph);
    let known = s.node.captures.iter().flat_map(|v| tangent::known_at(s.g, *v, of)).collect();
    let mut found = tangent::Tangents { of: known, obstacles: Vec::new() };
    let (end, origin) = (s.g.nodes.len(), s.g.origin);
    let wanted: Vec<Val> = places.iter().filter_map(|i| s.g.named(graph.output.get(*i)?.name())).collect();
    if wanted.len() != places.len() {
        return Err("its branches lack an output".into());
    }
    tangent::walk(s.g, start..end, &s.k.clone(), &wanted, &mut found);
    s.g.origin = origin;
    if let Some(obstacle) = found.obstacles.first() {
        return Err(format!("in one of its branches, {obstacle}").into());
    }
    let mut outputs = Vec::new();
    for v in wanted {
        let shape = s.lead(&s.shape(v)?);
        let d = match found.of.get(&v) {
            Some(tangent) => s.whole(*tangent),
            None => s.g.zeros(&shape, s.g.elem(v).tangent()),
        };
        // An output must be made inside the branch.
        outputs.push(s.g.fresh_identity(d));
    }
    Ok(outputs)
}

fn subgraph(g: &Graph, branch: &str, nodes: Vec<Node>, outputs: &[Val]) -> AttributeProto {
    let output = |v: &Val| ValueInfoProto { name: Some(g.value(*v).name.clone()), r#type: Some(g.export_type(*v)) };
    let graph = GraphProto {
        name: Some(branch.into()),
        node: nodes.iter().map(|node| g.export_node(node)).collect(),
        output: outputs.iter().map(output).collect(),
        ..Default::default()
    };
    AttributeProto {
        name: Some(branch.into()),
        g: Some(graph),
        kind: Some(attribute_kind::GRAPH),
        ..Default::default()
    }
}
