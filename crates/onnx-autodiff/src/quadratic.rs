//! Quadratic forms zᵀJz with directions that stay the same along a path.
//!
//! A solver computes zᵀJz at many points with one z. What depends on z and the weights alone (the
//! first linear layer applied to z, and zᵀ times the last one) is computed once by a model of its
//! own, whose outputs are inputs of the other model.

use std::collections::HashSet;

use crate::graph::{Graph, Val};
use crate::output_reduction::OutputReduction;

/// The largest number of elements that are kept for a direction of one sample, as a multiple of the
/// size of the state.
const MOST: i64 = 64;

/// The map that sums zᵀd for directions `z` `[k, N, D]`. The last linear layer is applied to `z`
/// instead of the tangents.
pub(crate) struct QuadraticReduction(pub Val);

impl OutputReduction for QuadraticReduction {
    fn of_product(&self, g: &mut Graph, a: Val, weights: Val) -> Val {
        let turned = g.transpose(weights, &[1, 0]);
        let back = g.op("MatMul", &[self.0, turned]);
        let product = g.mul(a, back);
        g.reduce("ReduceSum", product, &[2], false)
    }

    fn of_tangents(&self, g: &mut Graph, d: Val) -> Val {
        let product = g.mul(d, self.0);
        g.reduce("ReduceSum", product, &[2], false)
    }

    /// Returns a factor `[N, 1]` or a single number. With any other factor, the last layer would
    /// have to be applied at every point again.
    fn of_factor(&self, g: &mut Graph, factor: Val) -> Option<Val> {
        let shape = g.shape(factor)?.clone();
        match shape.last() {
            None => Some(factor),
            Some(last) if shape.len() == 2 && last.is(1) => Some(g.squeeze(factor, &[1])),
            _ => None,
        }
    }
}

/// Returns the values that depend on `seed` and constants alone and that the rest of the graph
/// needs, the seed among them if it is needed. Returns `None` if these values involve no product of
/// matrices or have too many elements to be kept.
pub(crate) fn hoisted(g: &Graph, seed: Val) -> Option<Vec<Val>> {
    let mut own: HashSet<Val> = HashSet::from([seed]);
    let mut fixed: HashSet<Val> = HashSet::new();
    let mut products = false;
    let mut kept: Vec<Val> = Vec::new();
    let mut keep = |v: Val| {
        if !kept.contains(&v) {
            kept.push(v);
        }
    };
    for (node, needed) in g.nodes.iter().zip(g.needed()) {
        let inputs: Vec<Val> = node
            .inputs
            .iter()
            .flatten()
            .chain(&node.captures)
            .copied()
            .collect();
        let known = |v: &Val| g.value(*v).constant.is_some() || fixed.contains(v);
        let alone = node.captures.is_empty() && !node.op.starts_with("Random");
        if alone && !inputs.is_empty() && inputs.iter().all(known) {
            fixed.extend(node.outputs.iter().flatten());
        } else if alone
            && inputs.iter().any(|v| own.contains(v))
            && inputs.iter().all(|v| own.contains(v) || known(v))
        {
            products |= needed && matches!(node.standard(), "MatMul" | "Gemm");
            own.extend(node.outputs.iter().flatten());
        } else if needed {
            inputs
                .into_iter()
                .filter(|v| own.contains(v))
                .for_each(&mut keep);
        }
    }
    g.outputs
        .iter()
        .copied()
        .filter(|v| own.contains(v))
        .for_each(&mut keep);
    let numbers = |v: &Val| {
        g.shape(*v)?
            .get(2..)?
            .iter()
            .try_fold(1i64, |all, n| all.checked_mul(n.as_fixed()?))
    };
    let all = kept.iter().map(numbers).sum::<Option<i64>>()?;
    (products && all <= MOST * numbers(&seed)?).then_some(kept)
}

#[cfg(test)]
mod tests {
    use crate::graph::emit::int;
    use crate::proto::NodeProto;
    use crate::testing::{Tensor, bytes, evaluate, floats, graph, node, number};
    use crate::{Mode, Model, differentiate, quadratic_forms};

    fn numbers(count: usize, pace: f64) -> Vec<f64> {
        (0..count).map(|i| (i as f64 * pace).sin()).collect()
    }

    fn tensor(dims: &[usize], pace: f64) -> Tensor {
        Tensor::new(
            dims,
            numbers(dims.iter().product(), pace)
                .into_iter()
                .map(number)
                .collect(),
        )
    }

    fn made(nodes: Vec<NodeProto>) -> Model {
        let weights = |name: &str, dims: &[i64]| {
            let count = dims.iter().product::<i64>() as usize;
            floats(
                name,
                dims,
                &numbers(count, 0.7)
                    .into_iter()
                    .map(|v| v as f32)
                    .collect::<Vec<_>>(),
            )
        };
        let weights = vec![
            weights("w", &[5, 6]),
            weights("v", &[6, 4]),
            weights("square", &[4, 4]),
        ];
        let file = graph(&["x: N 4", "t: N 1"], &["y: N 4"], weights, nodes);
        Model::from_bytes("test", &bytes(file, 18)).expect("a model")
    }

    /// State and time joined, two layers, and a skip scaled by the time.
    fn perceptron() -> Model {
        made(vec![
            node("Concat", "x t", "xt", vec![int("axis", 1)]),
            node("MatMul", "xt w", "a", vec![]),
            node("Tanh", "a", "h", vec![]),
            node("MatMul", "h v", "f", vec![]),
            node("Mul", "f t", "scaled", vec![]),
            node("Sub", "scaled x", "y", vec![]),
        ])
    }

    #[test]
    fn what_depends_on_the_directions_alone_is_a_graph_of_its_own() {
        let model = perceptron();
        let (x, t, z) = (
            tensor(&[3, 4], 1.3),
            tensor(&[3, 1], 0.9),
            tensor(&[2, 3, 4], 2.1),
        );
        let feeds = || vec![("x", x.clone()), ("t", t.clone())];
        let whole = differentiate(&model, Mode::Jvp, Some("x"), None).expect("derived");
        let mut given = feeds();
        given.push(("x_tangent", z.clone()));
        let right = evaluate(&whole, given)["y_quadratic"].clone();
        let forms = quadratic_forms(&model, "x", "y")
            .expect("derived")
            .expect("two layers");
        let made = evaluate(&forms.directions, vec![("x_tangent", z.clone())]);
        let names: Vec<String> = forms
            .directions
            .outputs()
            .into_iter()
            .map(|port| port.name)
            .collect();
        // The first layer's and the last's products, and the lengths of the directions for the skip.
        assert_eq!(names.len(), 3, "{names:?}");
        let takes = |name: &str| forms.rest.inputs().iter().any(|port| port.name == name);
        assert!(names.iter().all(|name| takes(name)) && !takes("x_tangent"));
        let mut given = feeds();
        given.push(("x_tangent", z));
        given.extend(names.iter().map(|name| (name.as_str(), made[name].clone())));
        let found = evaluate(&forms.rest, given)["y_quadratic"].clone();
        assert_eq!(found.dims, right.dims);
        assert!(
            found
                .data
                .iter()
                .zip(&right.data)
                .all(|(a, b)| (a.value - b.value).abs() < 1e-12)
        );
        // Of the tangents' three products none is left but none of the network's own is lost.
        let products = |model: &Model| {
            model
                .graph()
                .node
                .iter()
                .filter(|n| n.op_type() == "MatMul")
                .count()
        };
        assert_eq!((products(&forms.directions), products(&forms.rest)), (2, 2));
    }

    #[test]
    fn where_no_product_takes_the_directions_first_there_is_one_graph() {
        let network = made(vec![
            node("Tanh", "x", "h", vec![]),
            node("MatMul", "h square", "f", vec![]),
            node("Tanh", "f", "g", vec![]),
            node("Mul", "g x", "y", vec![]),
        ]);
        assert!(
            quadratic_forms(&network, "x", "y")
                .expect("derived")
                .is_none()
        );
    }
}
