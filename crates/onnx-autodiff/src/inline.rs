//! Inlines the functions that a model defines: each call is replaced by the function's nodes.

use std::collections::HashMap;

use crate::names::Names;
use crate::proto::*;

/// The largest number of nodes to which the calls of a file may expand.
const NODE_LIMIT: usize = 500_000;
/// The largest depth of calls within calls. A deeper call is taken for a cycle.
const DEPTH_LIMIT: usize = 24;

/// The functions of a model, by domain, name and overload, with counters of what was inlined.
struct Inliner {
    functions: HashMap<(String, String, String), FunctionProto>,
    /// All names of the file, and those of what was inlined.
    names: Names,
    calls: usize,
    nodes: usize,
}

/// Replaces every call of one of the functions.
///
/// # Errors
///
/// Returns an error if the calls expand to too many nodes or a function calls itself.
pub(crate) fn functions(
    graph: &mut GraphProto,
    functions: Vec<FunctionProto>,
) -> Result<(), String> {
    if functions.is_empty() {
        return Ok(());
    }
    let key = |f: &FunctionProto| {
        (
            standardize(f.domain()),
            f.name().to_string(),
            f.overload().to_string(),
        )
    };
    let functions = functions.into_iter().map(|f| (key(&f), f)).collect();
    Inliner {
        functions,
        names: Names::of_everything(graph),
        calls: 0,
        nodes: 0,
    }
    .graph(graph, 0)
}

impl Inliner {
    /// Inlines the calls in a graph.
    fn graph(&mut self, graph: &mut GraphProto, depth: usize) -> Result<(), String> {
        let mut nodes = Vec::new();
        for node in std::mem::take(&mut graph.node) {
            self.node(node, depth, &mut nodes)?;
        }
        graph.node = nodes;
        Ok(())
    }

    /// Appends a node, or the nodes of the function that it calls, to `nodes`.
    fn node(
        &mut self,
        mut node: NodeProto,
        depth: usize,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > NODE_LIMIT {
            return Err(format!(
                "its functions expand to more than {NODE_LIMIT} nodes"
            ));
        }
        for attribute in &mut node.attribute {
            for subgraph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                self.graph(subgraph, depth)?;
            }
        }
        let key = (
            standardize(node.domain()),
            node.op_type().to_string(),
            node.overload().to_string(),
        );
        let Some(function) = self.functions.get(&key) else {
            nodes.push(node);
            return Ok(());
        };
        if depth >= DEPTH_LIMIT {
            return Err(format!(
                "function `{}` calls itself, or calls are nested too deeply",
                node.op_type()
            ));
        }
        self.calls += 1;
        let caller = match node.name() {
            "" => node.op_type(),
            name => name,
        };
        let prefix = self.names.free_prefix(&format!("{caller}.{}", self.calls));
        let body = GraphProto {
            node: body(function.clone(), &node, &prefix),
            ..Default::default()
        };
        self.names.extend(Names::of_everything(&body));
        for inner in body.node {
            self.node(inner, depth + 1, nodes)?;
        }
        Ok(())
    }
}

/// Returns the nodes of a function with the attributes of one call. The names of inner values and of
/// nodes begin with `prefix` and a slash.
fn body(function: FunctionProto, call: &NodeProto, prefix: &str) -> Vec<NodeProto> {
    let mut names: HashMap<String, String> = HashMap::new();
    for (i, formal) in function.input.iter().enumerate() {
        names.insert(
            formal.clone(),
            call.input.get(i).cloned().unwrap_or_default(),
        );
    }
    let mut nodes = Vec::new();
    let mut passed = Vec::new();
    for (i, formal) in function.output.iter().enumerate() {
        let Some(actual) = call.output.get(i).filter(|name| !name.is_empty()) else {
            continue;
        };
        match names.get(formal) {
            // The function returns one of its inputs, or another output, unchanged.
            Some(source) => passed.push((source.clone(), actual.clone())),
            None => {
                names.insert(formal.clone(), actual.clone());
            }
        }
    }
    for mut node in function.node {
        resolve_attributes(
            &mut node.attribute,
            &call.attribute,
            &function.attribute_proto,
        );
        rename_node(&mut node, &mut names, prefix);
        nodes.push(node);
    }
    for (source, actual) in passed {
        nodes.push(NodeProto {
            op_type: Some("Identity".into()),
            input: vec![source],
            output: vec![actual],
            ..Default::default()
        });
    }
    nodes
}

/// Replaces references to the function's attributes by the attributes of the call or by their
/// defaults.
fn resolve_attributes(
    attributes: &mut Vec<AttributeProto>,
    given: &[AttributeProto],
    defaults: &[AttributeProto],
) {
    attributes.retain_mut(|attribute| {
        let wanted = attribute.ref_attr_name().to_string();
        if wanted.is_empty() {
            return true;
        }
        let found = given.iter().chain(defaults).find(|a| a.name() == wanted);
        if let Some(found) = found {
            *attribute = AttributeProto {
                name: attribute.name.clone(),
                ..found.clone()
            };
        }
        found.is_some()
    });
    for attribute in attributes {
        for subgraph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            for node in &mut subgraph.node {
                resolve_attributes(&mut node.attribute, given, defaults);
            }
        }
    }
}

/// Renames the inputs and outputs of a node, and everything in its subgraphs.
fn rename_node(node: &mut NodeProto, names: &mut HashMap<String, String>, prefix: &str) {
    for name in node.input.iter_mut().chain(&mut node.output) {
        rename(name, names, prefix);
    }
    node.name = node
        .name
        .take()
        .filter(|name| !name.is_empty())
        .map(|name| format!("{prefix}/{name}"));
    for attribute in &mut node.attribute {
        for subgraph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            rename_graph(subgraph, names, prefix);
        }
    }
}

/// Renames everything in a graph by the map `names`. A name that the map lacks receives the prefix,
/// and the map remembers it.
pub(crate) fn rename_graph(
    graph: &mut GraphProto,
    names: &mut HashMap<String, String>,
    prefix: &str,
) {
    for info in graph
        .input
        .iter_mut()
        .chain(&mut graph.output)
        .chain(&mut graph.value_info)
    {
        rename(info.name.get_or_insert_default(), names, prefix);
    }
    for tensor in &mut graph.initializer {
        rename(tensor.name.get_or_insert_default(), names, prefix);
    }
    for node in &mut graph.node {
        rename_node(node, names, prefix);
    }
}

/// Renames one name by the map `names`.
fn rename(name: &mut String, names: &mut HashMap<String, String>, prefix: &str) {
    if !name.is_empty() {
        let fresh = || format!("{prefix}/{name}");
        *name = names.entry(name.clone()).or_insert_with(fresh).clone();
    }
}
