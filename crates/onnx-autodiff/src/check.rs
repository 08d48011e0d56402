//! Checks that a derived graph obeys the rules of the format, before it is written or run.

use std::collections::HashSet;

use crate::order::label;
use crate::proto::*;
use crate::signatures;

/// A rule of the format that a graph breaks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The name of the node or port, or `the graph`.
    pub node: String,
    /// The operator of the node, `input` or `output` for a port, and empty for the graph.
    pub op: String,
    /// What is wrong.
    pub reason: String,
}

impl Violation {
    /// Returns the violation of a rule by a node.
    fn of(node: &NodeProto, reason: String) -> Violation {
        Violation {
            node: label(node),
            op: node.op_type().to_string(),
            reason,
        }
    }

    /// Returns the violation of a rule by the graph as a whole.
    fn of_graph(reason: String) -> Violation {
        Violation {
            node: "the graph".into(),
            op: String::new(),
            reason,
        }
    }
}

/// Checks a model: every name is made once and before its use, every node fits the signature of its
/// operator, every port has a type, and every operator belongs to the standard domain. The check
/// visits every node once.
///
/// # Errors
///
/// Returns the first violation.
pub(crate) fn check_model(model: &ModelProto) -> Result<(), Violation> {
    let opset = match &model.opset_import[..] {
        [only] if standardize(only.domain()).is_empty() => only.version(),
        _ => {
            return Err(Violation::of_graph(
                "it must import the standard domain and no other".into(),
            ));
        }
    };
    let graph = model
        .graph
        .as_ref()
        .ok_or_else(|| Violation::of_graph("it is missing".into()))?;
    check_graph(graph, opset, None)?;
    for (what, ports) in [("input", &graph.input), ("output", &graph.output)] {
        let untyped =
            |port: &&ValueInfoProto| tensor_type(port).is_none_or(|tensor| tensor.elem_type() == 0);
        if let Some(port) = ports.iter().find(untyped) {
            let (node, op) = (port.name().to_string(), what.to_string());
            return Err(Violation {
                node,
                op,
                reason: "its element type is not known; export the model with a declared type"
                    .into(),
            });
        }
    }
    Ok(())
}

/// The names that a graph has made so far, with a reference to the names of the graph around it.
struct NameScope<'a> {
    made: HashSet<&'a str>,
    around: Option<&'a NameScope<'a>>,
}

impl NameScope<'_> {
    /// Returns whether this graph or a graph around it has made the name.
    fn knows(&self, name: &str) -> bool {
        self.made.contains(name) || self.around.is_some_and(|around| around.knows(name))
    }
}

/// Checks a graph or a subgraph, where `around` holds the names of the graphs around it.
fn check_graph(
    graph: &GraphProto,
    opset: i64,
    around: Option<&NameScope>,
) -> Result<(), Violation> {
    let mut scope = NameScope {
        made: HashSet::with_capacity(2 * graph.node.len()),
        around,
    };
    let stored: HashSet<&str> = graph
        .initializer
        .iter()
        .map(|tensor| tensor.name())
        .collect();
    let inputs = graph
        .input
        .iter()
        .map(|port| port.name())
        .filter(|name| !stored.contains(name));
    for name in inputs.chain(graph.initializer.iter().map(|tensor| tensor.name())) {
        if name.is_empty() || !scope.made.insert(name) {
            return Err(Violation::of_graph(format!(
                "the name `{name}` of an input or a constant is not unique"
            )));
        }
    }
    for node in &graph.node {
        check_node(node, opset, &scope)?;
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            if !scope.made.insert(name) {
                return Err(Violation::of(
                    node,
                    format!("its output `{name}` already exists"),
                ));
            }
        }
    }
    let mut seen = HashSet::new();
    for output in &graph.output {
        if !scope.knows(output.name()) {
            return Err(Violation::of_graph(format!(
                "nothing makes its output `{}`",
                output.name()
            )));
        }
        if !seen.insert(output.name()) {
            return Err(Violation::of_graph(format!(
                "its output `{}` is there twice",
                output.name()
            )));
        }
    }
    Ok(())
}

/// Checks one node and its subgraphs.
fn check_node(node: &NodeProto, opset: i64, scope: &NameScope) -> Result<(), Violation> {
    let fault = |reason: String| Violation::of(node, reason);
    if !standardize(node.domain()).is_empty() {
        return Err(fault(format!(
            "the operator is of the domain `{}`",
            node.domain()
        )));
    }
    if let Some(name) = node
        .input
        .iter()
        .find(|name| !name.is_empty() && !scope.knows(name))
    {
        return Err(fault(format!(
            "it uses `{name}`, which nothing makes before it"
        )));
    }
    signatures::check_signature(node, opset).map_err(fault)?;
    let mut subgraphs = node
        .attribute
        .iter()
        .flat_map(|a| a.g.iter().chain(&a.graphs));
    subgraphs.try_for_each(|subgraph| check_graph(subgraph, opset, Some(scope)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{floats, graph, node};

    fn said(graph: GraphProto) -> String {
        let opset = OperatorSetIdProto {
            domain: None,
            version: Some(17),
        };
        let model = ModelProto {
            graph: Some(graph),
            opset_import: vec![opset],
            ..Default::default()
        };
        check_model(&model)
            .err()
            .map(|v| format!("{} ({}): {}", v.node, v.op, v.reason))
            .unwrap_or_default()
    }

    #[test]
    fn whatever_could_not_be_loaded_is_told_by_its_node() {
        let of = |nodes: Vec<NodeProto>| {
            said(graph(
                &["x: N 4"],
                &["y: N 4"],
                vec![floats("w", &[1], &[1.0])],
                nodes,
            ))
        };
        assert_eq!(of(vec![node("Mul", "x w", "y", vec![])]), "");
        let late = vec![node("Neg", "a", "y", vec![]), node("Exp", "x", "a", vec![])];
        assert_eq!(
            of(late),
            "node_y (Neg): it uses `a`, which nothing makes before it"
        );
        let twice = vec![node("Neg", "x", "y", vec![]), node("Exp", "x", "y", vec![])];
        assert_eq!(of(twice), "node_y (Exp): its output `y` already exists");
        assert_eq!(
            of(vec![node("Neg", "x", "w", vec![])]),
            "node_w (Neg): its output `w` already exists"
        );
        assert_eq!(of(vec![]), "the graph (): nothing makes its output `y`");
        assert_eq!(
            of(vec![node("Mul", "x -", "y", vec![])]),
            "node_y (Mul): its required input 1 is left out"
        );
        let foreign = NodeProto {
            domain: Some("com.microsoft".into()),
            ..node("Gelu", "x", "y", vec![])
        };
        assert_eq!(
            of(vec![foreign]),
            "node_y (Gelu): the operator is of the domain `com.microsoft`"
        );
    }

    #[test]
    fn names_inside_a_branch_end_with_it() {
        let branch = |name: &str| AttributeProto {
            name: Some(name.into()),
            g: Some(graph(
                &[],
                &["b: N 4"],
                vec![],
                vec![node("Neg", "x", "b", vec![])],
            )),
            ..Default::default()
        };
        let choice = |y: &str| {
            node(
                "If",
                "c",
                y,
                vec![branch("then_branch"), branch("else_branch")],
            )
        };
        let of = |last: NodeProto| {
            said(graph(
                &["x: N 4", "c: "],
                &["y: N 4"],
                vec![],
                vec![choice("a"), last],
            ))
        };
        assert_eq!(of(node("Neg", "a", "y", vec![])), "");
        assert_eq!(
            of(node("Neg", "b", "y", vec![])),
            "node_y (Neg): it uses `b`, which nothing makes before it"
        );
    }
}
