//! Normalization of the last axes, with and without a mean, of a sum or of one value.

use super::operator::{Lowered, Operator};
use super::parts::{one, plus, shifted};
use crate::graph::emit::{float, int};
use crate::graph::{Graph, Node, Val};

pub const OPERATORS: &[Operator] = &[
    Operator::new("SimplifiedLayerNormalization").lowered(simplified),
    Operator::fused("SimplifiedLayerNormalization", simplified),
    Operator::fused("SkipLayerNormalization", skip_layer_normalization),
    Operator::fused("SkipSimplifiedLayerNormalization", skip_simplified),
];

/// The opset from which on the standard domain has `LayerNormalization`.
const LAYER: i64 = 17;

/// The opset from which on the standard domain has `RMSNormalization`.
const ROOT_MEAN_SQUARE: i64 = 23;

/// The default where one value is normalized.
const EPSILON: f64 = 1e-5f32 as f64;

/// The default where a sum is normalized.
pub const SMALL_EPSILON: f64 = 1e-12f32 as f64;

/// `LayerNormalization` as ONNX Runtime writes it to models of an opset that lacks it.
pub fn layer_normalization(g: &mut Graph, node: &Node) -> Lowered {
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

/// Without mean and bias.
pub fn simplified(g: &mut Graph, node: &Node) -> Lowered {
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

/// Of a sum, which may be an output too.
pub fn skip_layer_normalization(g: &mut Graph, node: &Node) -> Lowered {
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

/// Of a sum, which may be an output too, without mean.
pub fn skip_simplified(g: &mut Graph, node: &Node) -> Lowered {
    let sum = sum_with_skip(g, node, 3)?;
    let y = root_mean_square(g, sum, node.input(2)?, node.float("epsilon", SMALL_EPSILON));
    Some(vec![Some(y), None, None, Some(sum)])
}

/// `input + skip + bias`
fn sum_with_skip(g: &mut Graph, node: &Node, bias: usize) -> Option<Val> {
    let sum = g.add(node.input(0)?, node.input(1)?);
    Some(plus(g, sum, node.input(bias)))
}

/// The last axis without mean and of deviation one, times `gamma`, plus `beta`.
pub fn layer_normalized(g: &mut Graph, x: Val, gamma: Val, beta: Option<Val>, epsilon: f64) -> Val {
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

/// The last axis of mean square one, times `gamma`.
fn root_mean_square(g: &mut Graph, x: Val, gamma: Val, epsilon: f64) -> Val {
    if g.opset >= ROOT_MEAN_SQUARE {
        let attributes = vec![int("axis", -1), float("epsilon", epsilon)];
        return g.op_with("RMSNormalization", &[x, gamma], attributes);
    }
    let parts = standardized_parts(g, x, &[-1], epsilon, false);
    let hat = g.cast(parts.hat, g.elem(gamma));
    g.mul(hat, gamma)
}

struct Parts {
    hat: Val,
    mean: Val,
    inverse: Val,
}

/// A tensor centred, or as it is, and divided by its deviation: in single precision, as the operators do it, where the
/// tensor has half of that.
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

/// The axes from the attribute `axis` on, counted from the last.
fn normalized_axes(g: &Graph, node: &Node, x: Val) -> Option<Vec<i64>> {
    let mut first = node.int("axis", -1);
    if first >= 0 {
        first = first.checked_sub(g.rank(x)? as i64)?;
    }
    (-32..0).contains(&first).then(|| (first..0).collect())
}
