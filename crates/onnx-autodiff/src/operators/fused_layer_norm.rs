//! Layer normalizations of ONNX Runtime: with and without a mean, of one value or of a sum.

use super::operator::{Lowered, Operator};
use super::parts::{one, plus, shifted};
use crate::graph::emit::{float, int};
use crate::graph::{Graph, Node, Val};

/// The declarations of `SimplifiedLayerNormalization`, `SkipLayerNormalization` and
/// `SkipSimplifiedLayerNormalization`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("SimplifiedLayerNormalization").lowered(simplified),
    Operator::fused("SimplifiedLayerNormalization", simplified),
    Operator::fused("SkipLayerNormalization", skip_layer_normalization),
    Operator::fused("SkipSimplifiedLayerNormalization", skip_simplified),
];

/// The first opset whose standard domain has `LayerNormalization`.
const LAYER: i64 = 17;

/// The first opset whose standard domain has `RMSNormalization`.
const ROOT_MEAN_SQUARE: i64 = 23;

/// The default epsilon of operators that normalize one value.
const EPSILON: f64 = 1e-5f32 as f64;

/// The default epsilon of operators that normalize a sum.
pub(super) const SMALL_EPSILON: f64 = 1e-12f32 as f64;

/// Returns the replacement of a `LayerNormalization` that ONNX Runtime wrote to a model of an opset
/// without this operator.
pub(super) fn layer_normalization(g: &mut Graph, node: &Node) -> Lowered {
    if g.opset >= LAYER {
        return None;
    }
    let (x, gamma) = (node.input(0)?, node.input(1)?);
    let axes = normalized_axes(g, node, x)?;
    let parts = standardized_parts(g, x, &axes, node.float("epsilon", EPSILON), true);
    let hat = g.cast(parts.hat, g.elem(x));
    let scaled = g.mul(hat, gamma);
    Some(vec![
        Some(plus(g, scaled, node.input(2))),
        Some(parts.mean),
        Some(parts.inverse),
    ])
}

/// Returns the replacement of `SimplifiedLayerNormalization`, which subtracts no mean and adds no
/// bias.
pub(super) fn simplified(g: &mut Graph, node: &Node) -> Lowered {
    let (x, gamma) = (node.input(0)?, node.input(1)?);
    let axes = normalized_axes(g, node, x)?;
    let epsilon = node.float("epsilon", EPSILON);
    if node.outputs.len() == 1 && axes == [-1] && g.elem(x) == g.elem(gamma) {
        return one(root_mean_square(g, x, gamma, epsilon));
    }
    let parts = standardized_parts(g, x, &axes, epsilon, false);
    let hat = g.cast(parts.hat, g.elem(gamma));
    Some(vec![Some(g.mul(hat, gamma)), Some(parts.inverse)])
}

/// Returns the replacement of `SkipLayerNormalization`, which normalizes a sum and may return the
/// sum too.
pub(super) fn skip_layer_normalization(g: &mut Graph, node: &Node) -> Lowered {
    let sum = sum_with_skip(g, node, 4)?;
    let y = layer_normalized(
        g,
        sum,
        node.input(2)?,
        node.input(3),
        node.float("epsilon", SMALL_EPSILON),
    );
    Some(vec![Some(y), None, None, Some(sum)])
}

/// Returns the replacement of `SkipSimplifiedLayerNormalization`, which normalizes a sum without
/// its mean and may return the sum too.
pub(super) fn skip_simplified(g: &mut Graph, node: &Node) -> Lowered {
    let sum = sum_with_skip(g, node, 3)?;
    let y = root_mean_square(g, sum, node.input(2)?, node.float("epsilon", SMALL_EPSILON));
    Some(vec![Some(y), None, None, Some(sum)])
}

/// Appends `input + skip + bias`. `bias` is the index of the input that holds the bias.
fn sum_with_skip(g: &mut Graph, node: &Node, bias: usize) -> Option<Val> {
    let sum = g.add(node.input(0)?, node.input(1)?);
    Some(plus(g, sum, node.input(bias)))
}

/// Appends the last axis of `x` with mean 0 and standard deviation 1, times `gamma`, plus `beta`.
pub(super) fn layer_normalized(
    g: &mut Graph,
    x: Val,
    gamma: Val,
    beta: Option<Val>,
    epsilon: f64,
) -> Val {
    if g.opset >= LAYER {
        let mut inputs = vec![Some(x), Some(gamma)];
        inputs.extend(beta.map(Some));
        return g.op_optional(
            "LayerNormalization",
            &inputs,
            vec![int("axis", -1), float("epsilon", epsilon)],
        );
    }
    let parts = standardized_parts(g, x, &[-1], epsilon, true);
    let hat = g.cast(parts.hat, g.elem(x));
    let scaled = g.mul(hat, gamma);
    plus(g, scaled, beta)
}

/// Appends the last axis of `x` with mean square 1, times `gamma`.
fn root_mean_square(g: &mut Graph, x: Val, gamma: Val, epsilon: f64) -> Val {
    if g.opset >= ROOT_MEAN_SQUARE {
        let attributes = vec![int("axis", -1), float("epsilon", epsilon)];
        return g.op_with("RMSNormalization", &[x, gamma], attributes);
    }
    let parts = standardized_parts(g, x, &[-1], epsilon, false);
    let hat = g.cast(parts.hat, g.elem(gamma));
    g.mul(hat, gamma)
}

/// A standardized tensor, with the mean and the inverse standard deviation.
struct Parts {
    hat: Val,
    mean: Val,
    inverse: Val,
}

/// Divides a tensor by its standard deviation, after subtracting its mean if `centre` is set.
/// Half-precision tensors are standardized in float32, as ONNX Runtime does it.
fn standardized_parts(g: &mut Graph, x: Val, axes: &[i64], epsilon: f64, centre: bool) -> Parts {
    let x = g.cast(x, g.elem(x).tangent());
    let mean = g.reduce("ReduceMean", x, axes, true);
    let centred = if centre { g.sub(x, mean) } else { x };
    let square = g.mul(centred, centred);
    let variance = g.reduce("ReduceMean", square, axes, true);
    let safe = shifted(g, variance, epsilon);
    let deviation = g.op("Sqrt", &[safe]);
    let inverse = g.op("Reciprocal", &[deviation]);
    Parts {
        hat: g.mul(centred, inverse),
        mean,
        inverse,
    }
}

/// Returns the axes from the attribute `axis` on, counted from the last one.
fn normalized_axes(g: &Graph, node: &Node, x: Val) -> Option<Vec<i64>> {
    let mut first = node.int("axis", -1);
    if first >= 0 {
        first = first.checked_sub(g.rank(x)? as i64)?;
    }
    (-32..0).contains(&first).then(|| (first..0).collect())
}
