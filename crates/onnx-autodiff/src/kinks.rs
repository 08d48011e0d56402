//! Finds the kinks of a graph: the nodes at which its derivative may jump.

use std::collections::HashSet;

use crate::elem::ElemType;
use crate::error::GraphError;
use crate::graph::{Graph, Node, Val};
use crate::import::import;
use crate::model::Model;
use crate::operators::{self, Smoothness};

/// A node at which a derivative may jump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kink {
    /// The name of the node, or of its first output if the node has none.
    pub node: String,
    /// The operator, with its domain unless that is the standard one.
    pub op: String,
}

impl Model {
    /// Returns the first node on a path from the inputs to the output at which the output's
    /// derivative may jump: `Relu`, `MaxPool`, `Where` with a condition that varies, or rounding,
    /// for example. If there is none, the derivative is continuous. An operator that is not known
    /// to be smooth counts as a kink.
    ///
    /// # Errors
    ///
    /// Returns an error if the graph contradicts itself.
    pub fn kink(&self, inputs: &[&str], output: &str) -> Result<Option<Kink>, GraphError> {
        let (g, _) = import(self, self.opset())?;
        let Some(end) = g.named(output) else {
            return Ok(None);
        };
        let needed = needed(&g, end);
        let mut varies: HashSet<Val> = inputs.iter().filter_map(|name| g.named(name)).collect();
        for node in &g.nodes {
            let reached = |v: &Val| varies.contains(v);
            let touched = node
                .inputs
                .iter()
                .flatten()
                .chain(&node.captures)
                .any(reached);
            let matters = node.outputs.iter().flatten().any(|v| needed.contains(v));
            if !touched || !matters || operators::reads_only_shapes(node) {
                continue;
            }
            if !is_smooth(&g, node, &varies) {
                return Ok(Some(Kink {
                    node: node_label(&g, node),
                    op: node.operator(),
                }));
            }
            varies.extend(node.outputs.iter().flatten());
        }
        Ok(None)
    }
}

/// Returns whether a node's derivative with respect to its inputs that vary is continuous.
fn is_smooth(g: &Graph, node: &Node, varies: &HashSet<Val>) -> bool {
    let smoothness =
        operators::of(node).map_or(Smoothness::NotStated, |operator| operator.smoothness);
    match smoothness {
        Smoothness::NotStated | Smoothness::Kinked => false,
        Smoothness::Everywhere => node.captures.is_empty(),
        Smoothness::BetweenFloats => {
            let real = |v: Option<Val>| {
                v.is_some_and(|v| g.elem(v).is_float() || g.elem(v) == ElemType::UNKNOWN)
            };
            real(node.input(0)) && real(node.output(0))
        }
        Smoothness::In(indices) => {
            let others = (0..node.inputs.len()).filter(|index| !indices.contains(index));
            let fixed = others
                .filter_map(|index| node.input(index))
                .all(|v| !varies.contains(&v));
            // A scatter may multiply or compare. A recurrent layer may clip, or have activations
            // that are not smooth.
            let scatters = node.op.starts_with("Scatter");
            let adds =
                !scatters || ["none", "add"].contains(&node.text("reduction", "none").as_str());
            let plain = ["activations", "clip"]
                .iter()
                .all(|name| node.attribute(name).is_none());
            fixed && node.captures.is_empty() && adds && plain
        }
    }
}

/// Returns the values that `end` is computed from, with `end` itself.
fn needed(g: &Graph, end: Val) -> HashSet<Val> {
    let mut needed = HashSet::from([end]);
    for node in g.nodes.iter().rev() {
        if node.outputs.iter().flatten().any(|v| needed.contains(v)) {
            needed.extend(node.inputs.iter().flatten().chain(&node.captures));
        }
    }
    needed
}

/// Returns the name of a node, or of its first output if the node has none.
fn node_label(g: &Graph, node: &Node) -> String {
    match node.output(0) {
        Some(first) if node.name.is_empty() => g.value(first).name.clone(),
        _ => node.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::emit::int;
    use crate::operators::differentiable;
    use crate::proto::NodeProto;
    use crate::testing::{bytes, floats, graph, integers, node};

    #[test]
    fn every_operator_says_whether_it_is_smooth() {
        for operator in operators::all() {
            let derived = operator.domain.is_empty() && differentiable().contains(&operator.name);
            let told = !matches!(operator.smoothness, Smoothness::NotStated);
            assert_eq!(told, derived, "{}", operator.name);
        }
    }

    fn kink(nodes: Vec<NodeProto>) -> Option<String> {
        let constants = vec![
            floats("c", &[2], &[0.5, 2.0]),
            integers("i", &[1], &[1]),
            floats("shift", &[1], &[0.1]),
        ];
        let graph = graph(&["x: N 2", "t: N"], &["y: N 2"], constants, nodes);
        let model = Model::from_bytes("test", &bytes(graph, 20)).expect("a model");
        model
            .kink(&["x", "t"], "y")
            .expect("a graph")
            .map(|kink| kink.op)
    }

    #[test]
    fn kinks_are_found_where_state_or_time_pass_through_them() {
        let cases: Vec<(Vec<NodeProto>, Option<&str>)> = vec![
            (
                vec![
                    node("Tanh", "x", "a", vec![]),
                    node("Mul", "a c", "y", vec![]),
                ],
                None,
            ),
            (vec![node("Relu", "x", "y", vec![])], Some("Relu")),
            // Of constants alone, and where the output does not need it.
            (
                vec![
                    node("Relu", "c", "a", vec![]),
                    node("Mul", "x a", "y", vec![]),
                ],
                None,
            ),
            (
                vec![
                    node("Relu", "x", "a", vec![]),
                    node("Tanh", "x", "y", vec![]),
                ],
                None,
            ),
            // By way of the time.
            (
                vec![
                    node("Floor", "t", "a", vec![]),
                    node("Unsqueeze", "a i", "b", vec![]),
                    node("Add", "x b", "y", vec![]),
                ],
                Some("Floor"),
            ),
            // A choice that varies, and one that does not.
            (
                vec![
                    node("Greater", "x c", "a", vec![]),
                    node("Where", "a x c", "y", vec![]),
                ],
                Some("Greater"),
            ),
            (
                vec![
                    node("Greater", "c shift", "a", vec![]),
                    node("Where", "a x c", "y", vec![]),
                ],
                None,
            ),
            // Sizes say nothing of the numbers.
            (
                vec![
                    node("Shape", "x", "s", vec![]),
                    node("Tanh", "x", "a", vec![]),
                    node("Reshape", "a s", "y", vec![]),
                ],
                None,
            ),
            (vec![node("Pow", "x c", "y", vec![])], None),
            (vec![node("Pow", "c x", "y", vec![])], Some("Pow")),
            // Rounding to whole numbers and back.
            (
                vec![
                    node("Cast", "x", "a", vec![int("to", 7)]),
                    node("Cast", "a", "b", vec![int("to", 1)]),
                    node("Add", "x b", "y", vec![]),
                ],
                Some("Cast"),
            ),
            (
                vec![
                    node("Cast", "x", "a", vec![int("to", 11)]),
                    node("Cast", "a", "y", vec![int("to", 1)]),
                ],
                None,
            ),
            (vec![node("Elu", "x", "y", vec![])], Some("Elu")),
        ];
        for (nodes, expected) in cases {
            let text = format!(
                "{:?}",
                nodes.iter().map(|n| n.op_type()).collect::<Vec<_>>()
            );
            assert_eq!(kink(nodes).as_deref(), expected, "{text}");
        }
    }
}
