//! The Jacobian and its trace, by forward mode along unit vectors that the graph holds.
//!
//! Of a trace, only the diagonal of the Jacobian is kept. The last linear layer is therefore not applied to
//! every direction: of its output for direction i, only element i is computed.

use prost::bytes::Bytes;

use crate::elem::ElemType;
use crate::error::GraphError;
use crate::graph::{Graph, Val};
use crate::import::import;
use crate::locality;
use crate::model::Model;
use crate::output_reduction::{OutputReduction, reduced_tangents};
use crate::passes::Pass;
use crate::proto::TensorProto;
use crate::size::Size;

/// The unit vectors of a state as `[terms, 1, *state]`, zeros and ones. Unit vectors that do not
/// interfere with each other are summed to one group.
pub(crate) struct Basis {
    /// The groups of unit vectors.
    pub vectors: Val,
    /// The number of groups.
    pub terms: i64,
    /// Whether a group contains more than one unit vector.
    grouped: bool,
}

impl Basis {
    /// Returns whether every vector is one unit vector.
    pub(crate) fn is_separate(&self) -> bool {
        !self.grouped
    }
}

/// The largest number of elements of a basis.
const MOST: i64 = 1 << 24;

impl Model {
    /// Returns the number of directions of the trace: the size of the state, divided by the sizes
    /// of its local axes. Returns `None` if a size is not known.
    ///
    /// # Errors
    ///
    /// Returns an error if the graph contradicts itself.
    pub fn trace_terms(&self, input: &str, output: &str) -> Result<Option<u64>, GraphError> {
        let (g, _) = import(self, self.opset())?;
        let (Some(x), Some(y)) = (g.named(input), g.named(output)) else {
            return Ok(None);
        };
        Ok(groups(&g, x, y).map(|(shape, local)| terms(&shape, &local).unsigned_abs()))
    }
}

/// Returns the sizes of the state's axes. Returns `None` if one is not known.
fn sizes(g: &Graph, x: Val) -> Option<Vec<i64>> {
    let state = g.shape(x)?.get(1..)?;
    state.iter().map(Size::as_fixed).collect()
}

/// Returns the sizes of the state's axes, and whether each one is local. Returns `None` if a size
/// is not known.
fn groups(g: &Graph, x: Val, y: Val) -> Option<(Vec<i64>, Vec<bool>)> {
    let shape = sizes(g, x)?;
    let axes = if g.passes.has(Pass::LocalAxes) {
        locality::local_axes(g, x, y)
    } else {
        Vec::new()
    };
    let local = (0..shape.len())
        .map(|axis| axes.contains(&(axis + 1)))
        .collect();
    Some((shape, local))
}

/// Returns the number of groups of unit vectors.
fn terms(shape: &[i64], local: &[bool]) -> i64 {
    shape
        .iter()
        .zip(local)
        .filter(|(_, local)| !**local)
        .fold(1, |all, (n, _)| all.saturating_mul(*n))
}

/// Returns the unit vectors of `x` for the trace of the derivative of `y`. Returns `None` if a size
/// of the state is not known or the basis would be too large.
pub(crate) fn basis(g: &mut Graph, x: Val, y: Val) -> Option<Basis> {
    let (shape, local) = groups(g, x, y)?;
    grouped_basis(g, x, &shape, &local)
}

/// Returns the unit vectors of `x`, each for itself. Returns `None` if a size of the state is not
/// known or the basis would be too large.
pub(crate) fn whole_basis(g: &mut Graph, x: Val) -> Option<Basis> {
    let shape = sizes(g, x)?;
    let local = vec![false; shape.len()];
    grouped_basis(g, x, &shape, &local)
}

/// Returns the unit vectors of `x`, summed over the local axes.
fn grouped_basis(g: &mut Graph, x: Val, shape: &[i64], local: &[bool]) -> Option<Basis> {
    let terms = terms(shape, local);
    let count = shape.iter().fold(1i64, |all, n| all.saturating_mul(*n));
    if terms
        .checked_mul(count)
        .is_none_or(|numbers| numbers > MOST)
    {
        return None;
    }
    let elem = g.elem(x).tangent();
    let mut raw = Vec::new();
    for term in 0..terms {
        for place in 0..count {
            let number = u8::from(group(shape, local, place) == term);
            match elem {
                ElemType::DOUBLE => raw.extend(f64::from(number).to_le_bytes()),
                _ => raw.extend(f32::from(number).to_le_bytes()),
            }
        }
    }
    let dims = [&[terms, 1], shape].concat();
    let tensor = TensorProto {
        dims,
        data_type: Some(elem.0),
        raw_data: Some(Bytes::from(raw)),
        ..Default::default()
    };
    Some(Basis {
        vectors: g.add_constant(tensor),
        terms,
        grouped: local.contains(&true),
    })
}

/// Returns the group of a unit vector, by its index along the axes that are not local.
fn group(shape: &[i64], local: &[bool], place: i64) -> i64 {
    let (mut rest, mut group, mut stride) = (place, 0, 1);
    for (axis, size) in shape.iter().enumerate().rev() {
        if !local[axis] {
            group += rest % size * stride;
            stride *= size;
        }
        rest /= size;
    }
    group
}

/// Returns the terms `[terms, N]` whose sum is the trace, from the tangents `d` `[terms, N,
/// *state]` of the basis.
pub(crate) fn diagonal(g: &mut Graph, d: Val, basis: &Basis) -> Val {
    let by_layers = if basis.grouped || !g.passes.has(Pass::ReducedOutputs) {
        None
    } else {
        reduced_tangents(g, d, basis)
    };
    by_layers.unwrap_or_else(|| basis.of_tangents(g, d))
}

/// The map that sums the elements of a tangent that lie in the direction of its own group.
impl OutputReduction for Basis {
    /// Applies the map to a linear layer: of its output for direction i, only element i is
    /// computed.
    fn of_product(&self, g: &mut Graph, a: Val, weights: Val) -> Val {
        let turned = g.transpose(weights, &[1, 0]);
        let columns = g.unsqueeze(turned, &[2]);
        let product = g.op("MatMul", &[a, columns]);
        g.squeeze(product, &[2])
    }

    fn of_tangents(&self, g: &mut Graph, d: Val) -> Val {
        let product = g.mul(d, self.vectors);
        let axes: Vec<i64> = (2..g.rank(d).unwrap_or_default() as i64).collect();
        g.reduce("ReduceSum", product, &axes, false)
    }

    /// Returns a factor of the state `[N, D]` as a factor of the terms `[D, N]`.
    fn of_factor(&self, g: &mut Graph, factor: Val) -> Option<Val> {
        Some(match g.rank(factor)? {
            0 => factor,
            1 => g.unsqueeze(factor, &[1]),
            _ => g.transpose(factor, &[1, 0]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bytes, floats, graph, integers, node, trace_by_unit_vectors};
    use crate::{Mode, differentiate};

    fn made(nodes: Vec<crate::proto::NodeProto>, state: &str) -> Model {
        let numbers = |n: usize| (0..n).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<f32>>();
        let weights = vec![
            floats("w", &[4, 6], &numbers(24)),
            floats("v", &[6, 4], &numbers(24)),
            floats("wt", &[7, 4], &numbers(28)),
            floats("b", &[6], &numbers(6)),
            floats("row", &[4], &numbers(4)),
            integers("last", &[1], &[1]),
        ];
        let (input, output) = (format!("x: N {state}"), format!("y: N {state}"));
        Model::from_bytes(
            "test",
            &bytes(graph(&[&input], &[&output], weights, nodes), 18),
        )
        .expect("a model")
    }

    #[test]
    fn the_trace_of_a_perceptron_applies_neither_its_first_layer_nor_its_last() {
        let nodes = vec![
            node("MatMul", "x w", "m", vec![]),
            node("Add", "m b", "a", vec![]),
            node("Sigmoid", "a", "s", vec![]),
            node("Mul", "a s", "h", vec![]),
            node("MatMul", "h v", "f", vec![]),
            node("Mul", "f row", "scaled", vec![]),
            node("Add", "scaled x", "y", vec![]),
        ];
        let model = made(nodes, "4");
        let derived = differentiate(&model, Mode::Trace, None, None).expect("derived");
        trace_by_unit_vectors(&model, &[3, 4]);
        // Its rows come from the activations: nothing is repeated along them but the result's skip.
        let count = derived
            .graph()
            .node
            .iter()
            .filter(|n| n.op_type() == "MatMul")
            .count();
        // The network's own two, the first layer's weights, and the diagonal of the last layer.
        assert_eq!(count, 4, "{:?}", derived.operators());
        assert_eq!(model.trace_terms("x", "y").expect("a graph"), Some(4));
    }

    #[test]
    fn axes_that_are_left_to_themselves_share_directions() {
        let tokens = vec![
            node("MatMul", "x w", "a", vec![]),
            node("Tanh", "a", "t", vec![]),
            node("MatMul", "t v", "y", vec![]),
        ];
        let model = made(tokens, "5 4");
        trace_by_unit_vectors(&model, &[2, 5, 4]);
        assert_eq!(model.trace_terms("x", "y").expect("a graph"), Some(4));
        let own = made(
            vec![
                node("Sin", "x", "s", vec![]),
                node("Mul", "s row", "y", vec![]),
            ],
            "5 4",
        );
        trace_by_unit_vectors(&own, &[2, 5, 4]);
        assert_eq!(own.trace_terms("x", "y").expect("a graph"), Some(1));
    }

    #[test]
    fn what_joins_state_and_constants_is_not_repeated_either() {
        let nodes = vec![
            node("ReduceSum", "x last", "sum", vec![]),
            node("Mul", "x sum", "other", vec![]),
            node(
                "Concat",
                "x sum row_of",
                "joined",
                vec![crate::graph::emit::int("axis", -1)],
            ),
            node("MatMul", "joined wt", "a", vec![]),
            node("Tanh", "a", "h", vec![]),
            node("Sub", "h other", "y", vec![]),
            node("Mul", "sum sum", "row_of_one", vec![]),
            node(
                "Concat",
                "row_of_one row_of_one",
                "row_of",
                vec![crate::graph::emit::int("axis", -1)],
            ),
        ];
        let model = made(nodes, "4");
        trace_by_unit_vectors(&model, &[3, 4]);
    }

    /// The elementwise functions `p` of the state, with the number of columns that they have.
    fn elementwise(kind: &str, p: &str) -> (Vec<crate::proto::NodeProto>, usize) {
        let one = |op: &str, inputs: &str| vec![node(op, inputs, p, vec![])];
        let within = format!("{p}_within");
        let after = |first: (&str, &str), op: &str, inputs: &str| {
            let first = node(first.0, first.1, &within, vec![]);
            vec![first, node(op, &inputs.replace('_', &within), p, vec![])]
        };
        match kind {
            "the state" => (one("Identity", "x"), 4),
            "a row" => (one("Mul", "row x"), 4),
            "a number" => (one("Mul", "x number"), 4),
            "a quotient" => (one("Div", "x row"), 4),
            "a slope" => (one("Sigmoid", "x"), 4),
            "slopes" => (after(("Tanh", "x"), "Mul", "_ row"), 4),
            "a sign" => (after(("Sin", "x"), "Neg", "_"), 4),
            "no derivative" => (after(("Shape", "x"), "Expand", "row _"), 4),
            "a layer" => (one("MatMul", "x w"), 6),
            "a product" => (after(("MatMul", "x w6"), "Mul", "_ x"), 4),
            _ => unreachable!("no such kind"),
        }
    }

    #[test]
    fn scaled_unit_vectors_meet_the_weights_row_by_row() {
        let kinds = [
            "the state",
            "a row",
            "a number",
            "a quotient",
            "a slope",
            "slopes",
            "a sign",
            "no derivative",
            "a layer",
            "a product",
        ];
        let numbers = |n: usize| {
            (1..=n)
                .map(|i| (i as f32 * 0.7).sin())
                .collect::<Vec<f32>>()
        };
        for first in kinds {
            for second in kinds {
                for joined in [false, true] {
                    let (mut nodes, wide) = elementwise(first, "p");
                    let (more, other) = elementwise(second, "q");
                    let axis = vec![crate::graph::emit::int("axis", -1)];
                    if joined {
                        nodes.extend(more);
                        nodes.push(node("Concat", "p q p", "joined", axis));
                    } else {
                        nodes.push(node("Identity", "p", "joined", vec![]));
                    }
                    let wide = if joined { 2 * wide + other } else { wide };
                    nodes.extend([
                        node("MatMul", "joined first", "h", vec![]),
                        node("Tanh", "h", "a", vec![]),
                        node("MatMul", "a last", "y", vec![]),
                    ]);
                    let weights = vec![
                        floats("row", &[4], &[0.5, -0.7, 1.5, 2.0]),
                        floats("number", &[], &[0.3]),
                        floats("w", &[4, 6], &numbers(24)),
                        floats("w6", &[4, 4], &numbers(16)),
                        floats("first", &[wide as i64, 5], &numbers(5 * wide)),
                        floats("last", &[5, 4], &numbers(20)),
                    ];
                    let network = graph(&["x: N 4"], &["y: N 4"], weights, nodes);
                    let model = Model::from_bytes("test", &bytes(network, 18)).expect("a model");
                    trace_by_unit_vectors(&model, &[3, 4]);
                }
            }
        }
    }

    /// The scalings of EDM and a gated input: the first layer is applied to no direction.
    #[test]
    fn a_first_layer_of_scaled_states_is_its_weights() {
        let nodes = vec![
            node(
                "ReduceMean",
                "x",
                "scale",
                vec![crate::graph::emit::ints("axes", &[1])],
            ),
            node("Greater", "scale zero", "which", vec![]),
            node("Where", "which two three", "c", vec![]),
            node("Mul", "x c", "scaled", vec![]),
            node("Sigmoid", "x", "gate", vec![]),
            node(
                "Concat",
                "scaled gate c",
                "joined",
                vec![crate::graph::emit::int("axis", 1)],
            ),
            node("MatMul", "joined first", "h", vec![]),
            node("Tanh", "h", "a", vec![]),
            node("MatMul", "a v", "y", vec![]),
        ];
        let numbers = |n: usize| (0..n).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<f32>>();
        let weights = vec![
            floats("zero", &[], &[0.0]),
            floats("two", &[], &[2.0]),
            floats("three", &[], &[3.0]),
            floats("first", &[9, 6], &numbers(54)),
            floats("v", &[6, 4], &numbers(24)),
        ];
        let network = graph(&["x: N 4"], &["y: N 4"], weights, nodes);
        let model = Model::from_bytes("test", &bytes(network, 17)).expect("a model");
        trace_by_unit_vectors(&model, &[3, 4]);
        let derived = differentiate(&model, Mode::Jacobian, None, None).expect("derived");
        let widths = |node: &crate::proto::NodeProto| node.op_type() == "MatMul";
        let products = derived.graph().node.iter().filter(|n| widths(n)).count();
        // The network's own two, the rows of the first layer's weights, and the last layer.
        assert_eq!(products, 4);
        let (g, _) = import(&derived, 17).expect("a graph");
        let inner = |node: &crate::graph::Node| {
            let [a, b] = [node.input(0)?, node.input(1)?];
            (node.op == "MatMul" && g.rank(a) == Some(3)).then(|| g.rank(b))
        };
        let ranks: Vec<_> = g.nodes.iter().filter_map(inner).flatten().collect();
        assert_eq!(
            ranks,
            [3, 2],
            "the first layer's weights have an axis of directions"
        );
    }

    #[test]
    fn states_without_a_trace_are_refused() {
        let model = made(vec![node("MatMul", "x w", "y", vec![])], "4");
        let refused = differentiate(&model, Mode::Trace, None, None)
            .err()
            .expect("another shape")
            .to_string();
        assert!(
            refused.contains("a different shape than the input"),
            "{refused}"
        );
        let open = made(vec![node("Tanh", "x", "y", vec![])], "D");
        let refused = differentiate(&open, Mode::Trace, None, None)
            .err()
            .expect("an open axis")
            .to_string();
        assert!(refused.contains("unknown or very large size"), "{refused}");
    }
}
