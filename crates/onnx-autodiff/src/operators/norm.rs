//! Normalizations. With `x̂ = (x - mean) / std`, the tangent is `dx̂ = (d - mean(d) - x̂ mean(d
//! x̂)) / std`.

use super::fused_layer_norm::layer_normalization;
use super::operator::{Operator, TangentResult};
use super::reshape::reshaped_factor;
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::{Graph, Inferred, Node, Shape, Val};
use crate::inference::axis_of;
use crate::jvp_context::{JvpContext, Tangent};
use crate::passes::Pass;
use crate::size::Size;

/// The declarations of this file's operators.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("BatchNormalization")
        .same_shape()
        .tangent(batch_norm_tangent)
        .smooth(),
    Operator::new("GroupNormalization")
        .names_type()
        .same_shape()
        .tangent(group_norm_tangent)
        .float64(group_norm_float64)
        .smooth(),
    Operator::new("InstanceNormalization")
        .same_shape()
        .tangent(instance_norm_tangent)
        .float64(instance_norm_float64)
        .smooth(),
    Operator::new("LRN")
        .same_shape()
        .tangent(lrn_tangent)
        .float64(lrn_float64)
        .smooth(),
    Operator::new("LayerNormalization")
        .names_type()
        .lowered(layer_normalization)
        .shapes(layer_norm_shapes)
        .tangents(layer_norm_tangent)
        .smooth(),
    Operator::new("LpNormalization")
        .same_shape()
        .tangent(lp_norm_tangent)
        .smooth(),
    Operator::new("MeanVarianceNormalization")
        .same_shape()
        .tangent(mean_variance_tangent)
        .float64(mean_variance_float64)
        .smooth(),
    Operator::new("RMSNormalization")
        .names_type()
        .same_shape()
        .tangent(rms_norm_tangent)
        .smooth(),
];

/// Returns the types and shapes of the normalized input, and of the mean and inverse deviation of
/// each row.
fn layer_norm_shapes(g: &mut Graph, node: &Node, _: usize) -> Option<Vec<Inferred>> {
    let x = node.input(0)?;
    let (elem, shape) = (g.elem(x), g.shape(x)?.clone());
    let axis = axis_of(node.int("axis", -1), shape.len())?;
    let statistics: Shape = shape
        .iter()
        .enumerate()
        .map(|(i, d)| if i < axis { d.clone() } else { Size::fixed(1) })
        .collect();
    let stash = ElemType(node.int("stash_type", 1) as i32);
    let stash = if elem == ElemType::DOUBLE {
        elem
    } else {
        stash
    };
    Some(vec![
        (elem, Some(shape)),
        (stash, Some(statistics.clone())),
        (stash, Some(statistics)),
    ])
}

/// The default epsilon, rounded to float32 like every attribute.
const EPSILON: f64 = 1e-5f32 as f64;

/// A standardized tensor of the primal, and its inverse standard deviation.
struct Normalized {
    hat: Val,
    inverse: Val,
}

fn normalize(s: &mut JvpContext, x: Val, axes: &[i64], epsilon: f64) -> Normalized {
    let mean = s.g.reduce("ReduceMean", x, axes, true);
    let centred = s.g.sub(x, mean);
    divide(s, centred, axes, epsilon)
}

fn divide(s: &mut JvpContext, centred: Val, axes: &[i64], epsilon: f64) -> Normalized {
    let square = s.g.mul(centred, centred);
    let variance = s.g.reduce("ReduceMean", square, axes, true);
    let safe = s.g.shift(variance, epsilon);
    let deviation = s.g.op("Sqrt", &[safe]);
    let inverse = s.g.op("Reciprocal", &[deviation]);
    Normalized {
        hat: s.g.mul(centred, inverse),
        inverse,
    }
}

/// Returns axes of the primal as axes of its tangent.
fn later(axes: &[i64]) -> Vec<i64> {
    axes.iter().map(|axis| axis + 1).collect()
}

/// Appends `d - (mean(d) + x̂ mean(d x̂))`, the tangent before its division. This order keeps few
/// large tensors alive at once.
fn project(s: &mut JvpContext, d: Val, hat: Val, axes: &[i64]) -> Val {
    let shifted = later(axes);
    let mean = s.g.reduce("ReduceMean", d, &shifted, true);
    let share = share(s, d, hat, &shifted);
    let removed = line(s, hat, mean, share, axes).unwrap_or_else(|| {
        let radial = s.g.mul(hat, share);
        s.g.add(radial, mean)
    });
    s.g.sub(d, removed)
}

/// Appends `mean(d x̂)` over axes of the tangent.
fn share(s: &mut JvpContext, d: Val, hat: Val, axes: &[i64]) -> Val {
    let product = s.g.mul(d, hat);
    s.g.reduce("ReduceMean", product, axes, true)
}

/// The smallest size of a normalized row for which the pass `NormalizedRows` pays.
const LONG: i64 = 1024;

/// Appends `mean + x̂ share` as one product, `[mean, share] [1; x̂]`, if the last axes are the
/// normalized ones.
fn line(s: &mut JvpContext, hat: Val, mean: Val, share: Val, axes: &[i64]) -> Option<Val> {
    let shape = s.g.shape(hat)?.clone();
    let first = shape.len().checked_sub(axes.len())?;
    let last = axes.iter().copied().eq(first as i64..shape.len() as i64);
    let (one, groups) = (Size::fixed(1), &shape[..first]);
    let length = shape[first..]
        .iter()
        .fold(one.clone(), |all, size| s.g.symbols.mul(&all, size));
    // With one direction this is the tangent that reverse mode transposes, and its transpose would
    // sum over columns.
    if !s.g.passes.has(Pass::NormalizedRows)
        || !last
        || s.k.is(1)
        || length.as_fixed().is_some_and(|n| n < LONG)
    {
        return None;
    }
    let row = [groups, &[one.clone(), length]].concat();
    let hat = s.g.reshape(hat, &row);
    let number = s.g.real_like(1.0, hat);
    let ones = s.g.expand(number, &row);
    let basis = s.g.concat(&[ones, hat], first as i64);
    let single = s.tangent_shape(&[groups, &[one.clone(), one]].concat());
    let (mean, share) = (s.g.reshape(mean, &single), s.g.reshape(share, &single));
    let weights = s.g.concat(&[mean, share], first as i64 + 2);
    let line = s.g.op("MatMul", &[weights, basis]);
    let shape = s.tangent_shape(&shape);
    Some(s.g.reshape(line, &shape))
}

/// Adds `x̂ dscale + dbias`, if the scale or the bias has a tangent.
fn affine(
    s: &mut JvpContext,
    normal: Option<Tangent>,
    hat: Val,
    scale: Option<Val>,
    bias: Option<Val>,
) -> TangentResult {
    let mut total = normal;
    if let Some(d) = scale {
        let part = s.g.mul(d, hat);
        let part = s.finish(part)?;
        total = s.sum(total, part);
    }
    if let Some(d) = bias {
        let part = s.finish(d)?;
        total = s.sum(total, part);
    }
    Ok(total)
}

/// Returns the tangents of the normalized tensor, of the mean and of the inverse deviation: `dmean
/// = mean(d)` and `dinverse = -inverse² mean(d x̂)`.
fn layer_norm_tangent(s: &mut JvpContext) -> Result<Vec<Option<Tangent>>, Refusal> {
    let rank = s.rank(0)?;
    let first = s.axis("axis", -1, rank)?;
    let axes: Vec<i64> = (first as i64..rank as i64).collect();
    let (x, gamma) = (s.x(0)?, s.x(1)?);
    let Normalized { hat, inverse } = normalize(s, x, &axes, s.node.float("epsilon", EPSILON));
    let normal = match s.d(0) {
        Some(d) => {
            let base = project(s, d, hat, &axes);
            Some(Tangent {
                base,
                factor: Some(s.g.mul(inverse, gamma)),
            })
        }
        None => None,
    };
    let y = match s.node.output(0) {
        Some(_) => {
            let (scale, bias) = (s.aligned(1)?, s.aligned(2)?);
            affine(s, normal, hat, scale, bias)?
        }
        None => None,
    };
    let Some(d) = s.d(0) else {
        return Ok(vec![y, None, None]);
    };
    let mean = s.g.reduce("ReduceMean", d, &later(&axes), true);
    let share = share(s, d, hat, &later(&axes));
    let square = s.g.mul(inverse, inverse);
    let slope = s.g.neg(square);
    Ok(vec![
        y,
        Some(Tangent::plain(mean)),
        Some(Tangent {
            base: share,
            factor: Some(slope),
        }),
    ])
}

fn rms_norm_tangent(s: &mut JvpContext) -> TangentResult {
    let rank = s.rank(0)?;
    let first = s.axis("axis", -1, rank)?;
    let axes: Vec<i64> = (first as i64..rank as i64).collect();
    let (x, gamma) = (s.x(0)?, s.x(1)?);
    let Normalized { hat, inverse } = divide(s, x, &axes, s.node.float("epsilon", EPSILON));
    let normal = match s.d(0) {
        Some(d) => {
            let share = share(s, d, hat, &later(&axes));
            let radial = s.g.mul(hat, share);
            let base = s.g.sub(d, radial);
            Some(Tangent {
                base,
                factor: Some(s.g.mul(inverse, gamma)),
            })
        }
        None => None,
    };
    let scale = s.aligned(1)?;
    affine(s, normal, hat, scale, None)
}

/// Appends a vector over the channels with axes of size 1 behind it, one for each spatial axis.
fn per_channel(s: &mut JvpContext, v: Val, rank: usize, leading: usize) -> Val {
    let axes: Vec<i64> = (0..rank.saturating_sub(2) as i64)
        .map(|i| i + 1 + leading as i64)
        .collect();
    s.g.unsqueeze(v, &axes)
}

/// Returns the tangent of a vector over the channels, aligned with the output's tangent.
fn channel_tangent(s: &mut JvpContext, index: usize, rank: usize) -> Option<Val> {
    let d = s.d(index)?;
    let d = per_channel(s, d, rank, 1);
    Some(s.g.unsqueeze(d, &[1]))
}

/// Returns the node's output instead of the equal `hat`, unless it is rounded to a narrower type.
fn own_output_or(s: &mut JvpContext, hat: Val) -> Result<Val, Refusal> {
    let y = s.node.output(0).ok_or("its first output is missing")?;
    let is_same = s.g.passes.has(Pass::SharedNodes) && s.g.elem(y) == s.g.elem(hat);
    Ok(if is_same { y } else { hat })
}

fn instance_norm_tangent(s: &mut JvpContext) -> TangentResult {
    let rank = s.rank(0)?;
    let axes: Vec<i64> = (2..rank as i64).collect();
    let (x, scale) = (s.x(0)?, s.x(1)?);
    let Normalized { hat, inverse } = normalize(s, x, &axes, s.node.float("epsilon", EPSILON));
    let is_unscaled = s.all_known(scale, |x| x == 1.0);
    let hat = match s.node.input(2) {
        // The node itself gives the standardized tensor, as what exporters write for groups does.
        Some(bias) if is_unscaled && s.all_known(bias, |x| x == 0.0) => own_output_or(s, hat)?,
        _ => hat,
    };
    let normal = match s.d(0) {
        Some(d) => {
            let base = project(s, d, hat, &axes);
            let factor = if is_unscaled {
                inverse
            } else {
                let gamma = per_channel(s, scale, rank, 0);
                s.g.mul(inverse, gamma)
            };
            Some(Tangent {
                base,
                factor: Some(factor),
            })
        }
        None => None,
    };
    let (scale, bias) = (channel_tangent(s, 1, rank), channel_tangent(s, 2, rank));
    affine(s, normal, hat, scale, bias)
}

/// Returns the tangent. The groups of channels become an axis, `[N, G, C/G, ...]`. A scale belongs
/// to a channel, and in opset 18 to a group.
fn group_norm_tangent(s: &mut JvpContext) -> TangentResult {
    let shape = s.x_shape(0)?;
    let groups = Size::fixed(s.node.int("num_groups", 1));
    let spatial = shape.get(2..).ok_or("its input has no channels")?.to_vec();
    let channels = shape
        .get(1)
        .and_then(|c| c.over(&groups))
        .ok_or("its channels do not divide into its groups")?;
    let mut grouped = vec![shape[0].clone(), groups, channels];
    grouped.extend_from_slice(&spatial);
    let axes: Vec<i64> = (2..grouped.len() as i64).collect();
    let (x, scale) = (s.x(0)?, s.x(1)?);
    let x = s.g.reshape(x, &grouped);
    let Normalized { hat, inverse } = normalize(s, x, &axes, s.node.float("epsilon", EPSILON));
    let per_group = s.g.opset < 21;
    let mut parts = grouped[1..3].to_vec();
    parts.extend(vec![Size::fixed(1); shape.len() - 2]);
    if per_group {
        parts[1] = Size::fixed(1);
    }
    let normal = match s.d(0) {
        Some(d) => {
            let lead = s.tangent_shape(&grouped);
            let d = s.g.reshape(d, &lead);
            let base = project(s, d, hat, &axes);
            let gamma = s.g.reshape(scale, &parts);
            let factor = s.g.mul(inverse, gamma);
            let factor = reshaped_factor(s.g, factor, &grouped, &shape);
            let target = s.tangent_shape(&shape);
            Some(Tangent {
                base: s.g.reshape(base, &target),
                factor: Some(factor),
            })
        }
        None => None,
    };
    let [scale, bias] = [1, 2].map(|index| group_tangent(s, index, &parts, &grouped, &shape));
    let hat = s.g.reshape(hat, &shape);
    affine(s, normal, hat, scale, bias)
}

/// Returns the tangent of a vector over channels or groups, broadcast to the output's tangent.
fn group_tangent(
    s: &mut JvpContext,
    index: usize,
    parts: &[Size],
    grouped: &[Size],
    shape: &[Size],
) -> Option<Val> {
    let d = s.d(index)?;
    let single = s.tangent_shape(&[&[Size::fixed(1)], parts].concat());
    let d = s.g.reshape(d, &single);
    let wide = s.tangent_shape(&[&[Size::fixed(1)], &grouped[1..]].concat());
    let d = s.g.expand(d, &wide);
    let target = s.tangent_shape(&[&[Size::fixed(1)], &shape[1..]].concat());
    Some(s.g.reshape(d, &target))
}

fn batch_norm_tangent(s: &mut JvpContext) -> TangentResult {
    // Before opset 14, a node with further outputs is in training mode.
    if s.node.int("training_mode", 0) != 0 || s.node.outputs.iter().skip(1).any(Option::is_some) {
        return Err(
            "batch normalization in training mode mixes the samples of a batch; export the model in evaluation mode"
                .into(),
        );
    }
    let rank = s.rank(0)?;
    let (scale, variance) = (s.x(1)?, s.x(4)?);
    let safe = s.g.shift(variance, s.node.float("epsilon", EPSILON));
    let deviation = s.g.op("Sqrt", &[safe]);
    let factor = s.g.div(scale, deviation);
    let wide = per_channel(s, factor, rank, 0);
    let normal = s.times(0, wide)?;
    batch_parameters(s, normal, factor, safe)
}

/// Adds the tangents of the parameters. With `f = scale / deviation`, these are `x̂ dscale + dbias
/// - f dmean` and `-½ f (x - mean) dvariance / deviation²`.
fn batch_parameters(
    s: &mut JvpContext,
    normal: Option<Tangent>,
    factor: Val,
    safe: Val,
) -> TangentResult {
    if (1..5).all(|index| s.lazy(index).is_none()) {
        return Ok(normal);
    }
    let rank = s.rank(0)?;
    let (x, mean) = (s.x(0)?, s.x(3)?);
    let mean = per_channel(s, mean, rank, 0);
    let centred = s.g.sub(x, mean);
    let deviation = s.g.op("Sqrt", &[safe]);
    let deviation = per_channel(s, deviation, rank, 0);
    let hat = s.g.div(centred, deviation);
    let (scale, bias) = (channel_tangent(s, 1, rank), channel_tangent(s, 2, rank));
    let mut total = affine(s, normal, hat, scale, bias)?;
    let wide = per_channel(s, factor, rank, 0);
    if let Some(d) = channel_tangent(s, 3, rank) {
        let slope = s.g.neg(wide);
        let part = s.g.mul(d, slope);
        let part = s.finish(part)?;
        total = s.sum(total, part);
    }
    if let Some(d) = channel_tangent(s, 4, rank) {
        let each = s.g.div(factor, safe);
        let each = per_channel(s, each, rank, 0);
        let product = s.g.mul(each, centred);
        let slope = s.g.scale(product, -0.5);
        let part = s.g.mul(d, slope);
        let part = s.finish(part)?;
        total = s.sum(total, part);
    }
    Ok(total)
}

/// Returns the tangent of `y = x / |x|`, with the 1-norm or the 2-norm. If the norm is zero,
/// runtimes return zeros, and the tangent is zero too.
fn lp_norm_tangent(s: &mut JvpContext) -> TangentResult {
    let rank = s.rank(0)?;
    let axis = s.axis("axis", -1, rank)? as i64;
    let (x, y, d) = (s.x(0)?, s.y()?, s.dx()?);
    let (norm, slope) = if s.node.int("p", 2) == 1 {
        (
            s.g.reduce("ReduceL1", x, &[axis], true),
            s.g.op("Sign", &[x]),
        )
    } else {
        (s.g.reduce("ReduceL2", x, &[axis], true), y)
    };
    let product = s.g.mul(d, slope);
    let growth = s.g.reduce("ReduceSum", product, &[axis + 1], true);
    let radial = s.g.mul(y, growth);
    let base = s.g.sub(d, radial);
    let factor = s.inverse_or_zero(norm);
    Ok(Some(Tangent {
        base,
        factor: Some(factor),
    }))
}

fn mean_variance_tangent(s: &mut JvpContext) -> TangentResult {
    let axes = s.node.ints("axes").unwrap_or_else(|| vec![0, 2, 3]);
    let (x, d) = (s.x(0)?, s.dx()?);
    let Normalized { hat, inverse } = normalize(s, x, &axes, 1e-9);
    let base = project(s, d, hat, &axes);
    Ok(Some(Tangent {
        base,
        factor: Some(inverse),
    }))
}

/// Returns the tangent of `y = x c^-β` with `c = bias + α/n Σ x²` over neighbouring channels: `dy =
/// c^-β d - 2 α β / n y / c Σ x d`.
fn lrn_tangent(s: &mut JvpContext) -> TangentResult {
    let n = s.node.int("size", 1);
    let (alpha, beta, bias) = (
        s.node.float("alpha", f64::from(1e-4f32)),
        s.node.float("beta", 0.75),
        s.node.float("bias", 1.0),
    );
    let (x, y, d) = (s.x(0)?, s.y()?, s.dx()?);
    let square = s.g.mul(x, x);
    let total = sum_of_neighbours(s, square, 1, n)?;
    let scaled = s.g.scale(total, alpha / n as f64);
    let c = s.g.shift(scaled, bias);
    let exponent = s.g.real_like(-beta, c);
    let direct = s.g.op("Pow", &[c, exponent]);
    let left = s.g.mul(d, direct);
    let product = s.g.mul(d, x);
    let change = sum_of_neighbours(s, product, 2, n)?;
    let slope = s.g.div(y, c);
    let slope = s.g.scale(slope, -2.0 * alpha * beta / n as f64);
    let right = s.g.mul(change, slope);
    Ok(Some(Tangent::plain(s.g.add(left, right))))
}

/// Appends sums over `n` neighbouring channels, by shifted slices of the padded tensor.
fn sum_of_neighbours(s: &mut JvpContext, v: Val, axis: i64, n: i64) -> Result<Val, Refusal> {
    let shape = s.shape(v)?;
    let length = shape
        .get(axis as usize)
        .and_then(Size::as_fixed)
        .ok_or("its number of channels is not known")?;
    if !(1..=64).contains(&n) || !(0..1 << 40).contains(&length) {
        return Err("its size is out of range".into());
    }
    let (before, after) = ((n - 1) / 2, n / 2);
    let mut pads = vec![0; 2 * shape.len()];
    pads[axis as usize] = before;
    pads[shape.len() + axis as usize] = after;
    let pads = s.g.integers(&pads);
    let padded = s.g.op("Pad", &[v, pads]);
    let mut parts = Vec::new();
    for i in 0..n {
        let (start, end, axes) = (
            s.g.integers(&[i]),
            s.g.integers(&[i + length]),
            s.g.integers(&[axis]),
        );
        parts.push(s.g.op("Slice", &[padded, start, end, axes]));
    }
    Ok(s.g.combine("Add", &parts))
}

/// Appends `(x − mean) / √(variance + ε)` over some axes.
fn normalized(g: &mut Graph, x: Val, axes: &[i64], epsilon: f64) -> Val {
    let mean = g.reduce("ReduceMean", x, axes, true);
    let centred = g.sub(x, mean);
    let square = g.mul(centred, centred);
    let variance = g.reduce("ReduceMean", square, axes, true);
    let shifted = g.shift(variance, epsilon);
    let deviation = g.op("Sqrt", &[shifted]);
    g.div(centred, deviation)
}

/// Reshapes a vector over the channels so that it broadcasts to a tensor of `rank` axes.
fn spread_per_channel(g: &mut Graph, v: Val, rank: usize) -> Val {
    let axes: Vec<i64> = (1..rank as i64 - 1).collect();
    g.unsqueeze(v, &axes)
}

/// Multiplies by the scale of the node and adds its bias.
fn scaled_and_shifted(g: &mut Graph, node: &Node, x: Val, rank: usize) -> Option<Val> {
    let (scale, bias) = (
        spread_per_channel(g, node.input(1)?, rank),
        spread_per_channel(g, node.input(2)?, rank),
    );
    let product = g.mul(x, scale);
    Some(g.add(product, bias))
}

fn instance_norm_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let rank = g.rank(x).filter(|rank| *rank > 2)?;
    let axes: Vec<i64> = (2..rank as i64).collect();
    let y = normalized(g, x, &axes, node.float("epsilon", EPSILON));
    scaled_and_shifted(g, node, y, rank)
}

/// Appends the normalization. Scale and bias belong to a group before opset 21 and to a channel
/// since.
fn group_norm_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let shape = g.shape(x).filter(|shape| shape.len() > 2)?.clone();
    let groups = Size::fixed(node.int("num_groups", 1));
    let width = shape[1].over(&groups)?;
    let split: Shape = [&shape[..1], &[groups, width], &shape[2..]].concat();
    let apart = g.reshape(x, &split);
    let axes: Vec<i64> = (2..split.len() as i64).collect();
    let y = normalized(g, apart, &axes, node.float("epsilon", EPSILON));
    if g.opset < 21 {
        let y = scaled_and_shifted(g, node, y, split.len())?;
        return Some(g.reshape(y, &shape));
    }
    let y = g.reshape(y, &shape);
    scaled_and_shifted(g, node, y, shape.len())
}

fn mean_variance_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let axes = node.ints("axes").unwrap_or_else(|| vec![0, 2, 3]);
    // The function that defines the operator adds this number to the deviation.
    let mean = g.reduce("ReduceMean", x, &axes, true);
    let centred = g.sub(x, mean);
    let square = g.mul(centred, centred);
    let variance = g.reduce("ReduceMean", square, &axes, true);
    let deviation = g.op("Sqrt", &[variance]);
    let shifted = g.shift(deviation, f64::from(1e-9_f32));
    Some(g.div(centred, shifted))
}

/// Appends `x / (bias + α/size Σ x²)^β` over a window of channels.
fn lrn_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let shape = g.shape(x).filter(|shape| shape.len() > 2)?.clone();
    let (size, channels) = (node.int("size", 0), shape[1].as_fixed()?);
    if !(1..=1024).contains(&size) {
        return None;
    }
    let (before, after) = ((size - 1) / 2, size / 2);
    let square = g.mul(x, x);
    let mut pads = vec![0; 2 * shape.len()];
    (pads[1], pads[shape.len() + 1]) = (before, after);
    let pads = g.integers(&pads);
    let padded = g.op("Pad", &[square, pads]);
    let windows: Vec<Val> = (0..size)
        .map(|first| {
            let bounds = [first, first + channels, 1].map(|n| g.integers(&[n]));
            g.op("Slice", &[padded, bounds[0], bounds[1], bounds[2]])
        })
        .collect();
    let sum = g.combine("Add", &windows);
    let scaled = g.scale(
        sum,
        node.float("alpha", f64::from(0.0001_f32)) / size as f64,
    );
    let base = g.shift(scaled, node.float("bias", 1.0));
    let exponent = g.real(node.float("beta", 0.75), ElemType::DOUBLE);
    let power = g.op("Pow", &[base, exponent]);
    Some(g.div(x, power))
}
