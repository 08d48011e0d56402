//! Finds local axes of the state: axes along which each element of the output depends on the
//! elements of the input at the same index alone. A perceptron over the channels of each token has
//! a local axis, the tokens; a function of each coordinate has local axes only.
//!
//! Along a local axis the Jacobian is block diagonal. One direction with ones along the whole axis
//! then yields what otherwise takes one direction for each index. An axis that is not known to be
//! local counts as mixed.

use std::collections::HashMap;

use crate::graph::{Graph, Node, Shape, Val};
use crate::operators::{self, Locality, Rule};
use crate::size::Size;

/// The position of an axis of the input among the elements of a value: the product of the sizes
/// before the axis, and the size of the axis. A reshape changes neither.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    before: Size,
    size: Size,
}

/// Returns the axes of `x` after the batch that are local from `x` to `y`.
pub(crate) fn local_axes(g: &Graph, x: Val, y: Val) -> Vec<usize> {
    let Some(shape) = g.shape(x).filter(|shape| g.shape(y) == Some(shape)) else {
        return Vec::new();
    };
    (1..shape.len())
        .filter(|axis| !shape[*axis].is(1) && is_local(g, x, y, *axis))
        .collect()
}

/// Returns whether one axis is local from `x` to `y`.
fn is_local(g: &Graph, x: Val, y: Val, axis: usize) -> bool {
    let Some(start) = g.shape(x).and_then(|shape| place_of_axis(shape, axis)) else {
        return false;
    };
    // The map holds the values that depend on the input. Each has the place of the axis, or `None`
    // if the axis was mixed.
    let mut found: HashMap<Val, Option<Place>> = HashMap::from([(x, Some(start.clone()))]);
    for node in &g.nodes {
        let reached = |v: &Val| found.contains_key(v);
        if operators::reads_only_shapes(node)
            || !node
                .inputs
                .iter()
                .flatten()
                .chain(&node.captures)
                .any(reached)
        {
            continue;
        }
        let place = if node.captures.is_empty() {
            carried(g, node, &found)
        } else {
            None
        };
        found.extend(node.outputs.iter().flatten().map(|v| (*v, place.clone())));
    }
    found.get(&y) == Some(&Some(start))
}

/// Returns the place of an axis of a value.
fn place_of_axis(shape: &Shape, axis: usize) -> Option<Place> {
    let before = shape[..axis]
        .iter()
        .try_fold(Size::fixed(1), |all, size| all.times(size))?;
    Some(Place {
        before,
        size: shape.get(axis)?.clone(),
    })
}

/// Returns the axis of a value that contains a place.
fn axis_of_place(shape: &Shape, place: &Place) -> Option<usize> {
    let end = place.before.times(&place.size)?;
    let mut before = Size::fixed(1);
    for (axis, size) in shape.iter().enumerate() {
        let with = before.times(size)?;
        if !size.is(1) && place.before.over(&before).is_some() && with.over(&end).is_some() {
            return Some(axis);
        }
        before = with;
    }
    None
}

/// Returns the place of the axis in the outputs of a node, or `None` if the node mixes the axis.
fn carried(g: &Graph, node: &Node, found: &HashMap<Val, Option<Place>>) -> Option<Place> {
    let op = node.standard();
    let mut dependent: Vec<(usize, Val, Place)> = Vec::new();
    for (at, v) in node.inputs.iter().enumerate() {
        if let Some(v) = v
            && let Some(place) = found.get(v)
        {
            dependent.push((at, *v, place.clone()?));
        }
    }
    let (at, v, place) = dependent.first()?.clone();
    let alone = at == 0 && dependent.len() == 1;
    let shape = g.shape(v)?;
    let axis = axis_of_place(shape, &place)?;
    let attribute = |default: i64| {
        let axis = node.int("axis", default);
        usize::try_from(if axis < 0 {
            axis + shape.len() as i64
        } else {
            axis
        })
        .ok()
    };
    let operator = operators::of(node)?;
    let elementwise =
        operator.locality == Locality::Elementwise || matches!(operator.rule, Rule::Derivative(_));
    let stays = match op {
        _ if operator.locality == Locality::SameOrder => alone,
        _ if elementwise => {
            let out = g.shape(node.output(0)?)?;
            let places: Option<Vec<Place>> = dependent
                .iter()
                .map(|(_, v, place)| aligned(g, *v, place, out))
                .collect();
            return places
                .filter(|all| all.iter().all(|p| *p == all[0]))
                .and_then(|all| all.into_iter().next());
        }
        "MatMul" => {
            let weights = node.input(1)?;
            let of_rows =
                alone && g.rank(weights) == Some(2) && shape.len() >= 2 && axis + 1 < shape.len();
            of_rows || of_matrices(g, node, &dependent, axis)
        }
        "Gemm" => alone && axis == 0 && node.int("transA", 0) == 0,
        "Softmax" | "LogSoftmax" => alone && attribute(-1)? != axis,
        "LayerNormalization" | "RMSNormalization" => alone && axis < attribute(-1)?,
        "Concat" => attribute(0)? > axis && dependent.iter().all(|(_, _, other)| *other == place),
        "Split" | "Gather" => alone && attribute(0)? > axis,
        "Slice" => {
            let axes = node
                .input(3)
                .and_then(|v| g.content(v))
                .and_then(|c| c.fixed())?;
            alone
                && axes
                    .iter()
                    .all(|a| if *a < 0 { a + shape.len() as i64 } else { *a } > axis as i64)
        }
        "Transpose" => {
            let whole = place_of_axis(shape, axis).as_ref() == Some(&place);
            let to = node.ints("perm")?.iter().position(|p| *p == axis as i64)?;
            return place_of_axis(g.shape(node.output(0)?)?, to).filter(|_| whole);
        }
        _ if op.starts_with("Reduce") => {
            let given = node
                .input(1)
                .and_then(|v| g.content(v))
                .and_then(|c| c.fixed());
            let axes = given
                .or_else(|| node.ints("axes"))
                .filter(|axes| alone && !axes.is_empty())?;
            let axes: Vec<i64> = axes
                .iter()
                .map(|a| if *a < 0 { a + shape.len() as i64 } else { *a })
                .collect();
            if axes.iter().any(|a| *a < axis as i64) {
                let gone = if node.int("keepdims", 1) == 0 {
                    axes.iter().filter(|a| **a < axis as i64).count()
                } else {
                    0
                };
                let whole = place_of_axis(shape, axis).as_ref() == Some(&place)
                    && !axes.contains(&(axis as i64));
                return place_of_axis(g.shape(node.output(0)?)?, axis - gone).filter(|_| whole);
            }
            axes.iter().all(|a| *a > axis as i64)
        }
        _ => false,
    };
    stays.then_some(place)
}

/// Returns the place of an operand's axis in the output of an elementwise operator.
fn aligned(g: &Graph, v: Val, place: &Place, out: &Shape) -> Option<Place> {
    let shape = g.shape(v)?;
    if shape == out {
        return Some(place.clone());
    }
    let axis = axis_of_place(shape, place)
        .filter(|axis| place_of_axis(shape, *axis).as_ref() == Some(place))?;
    let to = axis + out.len().checked_sub(shape.len())?;
    place_of_axis(out, to).filter(|there| there.size == place.size)
}

/// Returns whether the axis is one of the batch axes of a product of two stacks of matrices.
fn of_matrices(g: &Graph, node: &Node, dependent: &[(usize, Val, Place)], axis: usize) -> bool {
    let shapes: Option<Vec<&Shape>> = node.inputs.iter().flatten().map(|v| g.shape(*v)).collect();
    let Some([a, b]) = shapes.as_deref() else {
        return false;
    };
    let stacked = a.len() == b.len() && axis + 2 < a.len() && a[..=axis] == b[..=axis];
    stacked
        && dependent
            .iter()
            .all(|(_, _, place)| *place == dependent[0].2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::import;
    use crate::model::Model;
    use crate::proto::NodeProto;
    use crate::testing::{bytes, floats, graph, integers, node};

    fn local(nodes: Vec<NodeProto>) -> Vec<usize> {
        let weights = vec![
            floats("w", &[4, 4], &[0.5; 16]),
            floats("row", &[4], &[1.0; 4]),
            floats("column", &[3, 1], &[1.0; 3]),
            integers("flat", &[2], &[-1, 4]),
            integers("back", &[3], &[-1, 3, 4]),
            integers("one", &[1], &[1]),
            integers("two", &[1], &[2]),
        ];
        let file = bytes(graph(&["x: N 3 4"], &["y: N 3 4"], weights, nodes), 18);
        let model = Model::from_bytes("test", &file).expect("a model");
        let (g, _) = import(&model, 18).expect("a graph");
        local_axes(
            &g,
            g.named("x").expect("an input"),
            g.named("y").expect("an output"),
        )
    }

    #[test]
    fn axes_that_a_network_leaves_to_themselves_are_found() {
        let turned = || vec![crate::graph::emit::ints("perm", &[0, 2, 1])];
        let axis = |axis| vec![crate::graph::emit::int("axis", axis)];
        let elementwise = vec![
            node("Sigmoid", "x", "s", vec![]),
            node("Mul", "x s", "y", vec![]),
        ];
        assert_eq!(local(elementwise), [1, 2]);
        let scaled = vec![
            node("Mul", "x row", "a", vec![]),
            node("Add", "column a", "y", vec![]),
        ];
        assert_eq!(local(scaled), [1, 2]);
        let tokens = vec![
            node("MatMul", "x w", "a", vec![]),
            node("Tanh", "a", "y", vec![]),
        ];
        assert_eq!(local(tokens), [1]);
        // As exporters write a linear layer over tokens.
        let flat = vec![
            node("Reshape", "x flat", "f", vec![]),
            node("Gemm", "f w row", "g", vec![]),
            node("Reshape", "g back", "y", vec![]),
        ];
        assert_eq!(local(flat), [1]);
        let normed = vec![node("LayerNormalization", "x row", "y", axis(-1))];
        assert_eq!(local(normed), [1]);
        let summed = vec![
            node("ReduceSum", "x one", "s", vec![]),
            node("Mul", "x s", "y", vec![]),
        ];
        assert_eq!(local(summed), [2]);
        let channels = vec![
            node("Transpose", "x", "t", turned()),
            node("Softmax", "t", "s", axis(2)),
            node("Transpose", "s", "y", turned()),
        ];
        assert_eq!(local(channels), [2]);
    }

    #[test]
    fn axes_that_are_mixed_are_not_taken_for_local() {
        let turned = || vec![crate::graph::emit::ints("perm", &[0, 2, 1])];
        let attention = vec![
            node("Transpose", "x", "t", turned()),
            node("MatMul", "x t", "scores", vec![]),
            node("Softmax", "scores", "p", vec![]),
            node("MatMul", "p x", "y", vec![]),
        ];
        assert_eq!(local(attention), [0; 0]);
        // One channel is added to all.
        let shared = vec![
            node("Slice", "x one two two", "s", vec![]),
            node("Add", "x s", "y", vec![]),
        ];
        assert_eq!(local(shared), [1]);
        let unknown = vec![node("CumSum", "x one", "y", vec![])];
        assert_eq!(local(unknown), [0; 0]);
    }
}
