//! Operators that are replaced by what they consist of, so that the rules of their parts differentiate them: fused
//! operators of ONNX Runtime, as its graph optimizers write them, and large operators of the standard domain.
//!
//! One file for each family, one list of all. A form that is not known to the last detail is left as it is, and refused.

mod activation;
mod attention;
mod attention_mask;
mod bias;
mod embed_layer_norm;
mod fused_conv;
mod fused_matmul;
mod gelu;
mod group_norm;
mod layer_norm;
mod matmul_n_bits;
mod multi_head_attention;
mod rotary_embedding;
#[cfg(test)]
mod tests;

use crate::elem::ElemType;
use crate::float64;
use crate::ir::{Graph, Node, Val};
use crate::signatures;

pub use attention::parts as attention_parts;

/// The outputs of a node, by place; none where the node is kept as it is.
type Outputs = Option<Vec<Option<Val>>>;

/// How one operator is replaced.
type Lowering = fn(&mut Graph, &Node) -> Outputs;

/// The domain of ONNX Runtime's own operators.
const MICROSOFT: &str = "com.microsoft";

/// All operators that are replaced, by domain and name. `SimplifiedLayerNormalization` is ONNX Runtime's, though it
/// writes it to the standard domain.
const LOWERED: &[(&str, &str, Lowering)] = &[
    ("", "Attention", attention::attention),
    ("", "LayerNormalization", layer_norm::layer_normalization),
    ("", "RotaryEmbedding", rotary_embedding::rotary_embedding),
    ("", "SimplifiedLayerNormalization", layer_norm::simplified),
    (MICROSOFT, "Attention", multi_head_attention::attention),
    (MICROSOFT, "BiasAdd", bias::bias_add),
    (MICROSOFT, "BiasDropout", bias::bias_dropout),
    (MICROSOFT, "BiasGelu", gelu::bias_gelu),
    (MICROSOFT, "BiasSoftmax", bias::bias_softmax),
    (MICROSOFT, "BiasSplitGelu", gelu::bias_split_gelu),
    (MICROSOFT, "EmbedLayerNormalization", embed_layer_norm::embed_layer_normalization),
    (MICROSOFT, "FastGelu", gelu::fast_gelu),
    (MICROSOFT, "FusedConv", fused_conv::fused_conv),
    (MICROSOFT, "FusedGemm", fused_matmul::fused_gemm),
    (MICROSOFT, "FusedMatMul", fused_matmul::fused_matmul),
    (MICROSOFT, "FusedMatMulActivation", fused_matmul::fused_matmul_activation),
    (MICROSOFT, "Gelu", gelu::gelu),
    (MICROSOFT, "GroupNorm", group_norm::group_norm),
    (MICROSOFT, "MatMulNBits", matmul_n_bits::matmul_n_bits),
    (MICROSOFT, "MultiHeadAttention", multi_head_attention::multi_head_attention),
    (MICROSOFT, "NhwcConv", fused_conv::nhwc_conv),
    (MICROSOFT, "QuickGelu", gelu::quick_gelu),
    (MICROSOFT, "RotaryEmbedding", rotary_embedding::contributed),
    (MICROSOFT, "SimplifiedLayerNormalization", layer_norm::simplified),
    (MICROSOFT, "SkipGroupNorm", group_norm::skip_group_norm),
    (MICROSOFT, "SkipLayerNormalization", layer_norm::skip_layer_normalization),
    (MICROSOFT, "SkipSimplifiedLayerNormalization", layer_norm::skip_simplified),
    (MICROSOFT, "TransposeMatMul", fused_matmul::fused_matmul),
];

/// What computes the `wanted` outputs of a node; none where the node is to be kept as it is.
pub fn lowered(g: &mut Graph, node: &Node, wanted: &[bool]) -> Outputs {
    let outputs = match LOWERED.iter().find(|(domain, op, _)| *domain == node.domain && *op == node.op) {
        Some(_) if node.inputs.iter().flatten().any(|v| g.elem(*v) == ElemType::UNKNOWN) => None,
        Some((_, _, lowering)) => lowering(g, node),
        None => None,
    };
    let in_float64 = |g: &mut Graph| Some(float64::replacement(g, node)?.into_iter().map(Some).collect());
    let outputs: Vec<Option<Val>> = outputs.or_else(|| in_float64(g))?;
    let made = |place: usize| outputs.get(place).is_some_and(Option::is_some);
    wanted.iter().enumerate().all(|(place, wanted)| !wanted || made(place)).then_some(outputs)
}

/// Whether some form of an operator is replaced.
pub fn is_lowered(node: &Node) -> bool {
    LOWERED.iter().any(|(domain, op, _)| *domain == node.domain && *op == node.op)
}

/// The operators of the standard domain that are replaced.
pub fn standard() -> impl Iterator<Item = &'static str> {
    let standard = |(domain, op, _): &&(&str, &str, Lowering)| domain.is_empty() && signatures::is_standard(op);
    LOWERED.iter().filter(standard).map(|(_, op, _)| *op)
}

/// All operators that are replaced, by domain and name.
pub fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    LOWERED.iter().map(|(domain, op, _)| (*domain, *op))
}

/// The outputs of an operator that has one.
fn one(v: Val) -> Outputs {
    Some(vec![Some(v)])
}

/// A number of the type of `like`.
fn number(g: &mut Graph, value: f64, like: Val) -> Val {
    let elem = g.elem(like);
    let number = g.real(value, elem);
    g.cast(number, elem)
}

/// A value times a number of its type.
fn scaled(g: &mut Graph, v: Val, by: f64) -> Val {
    if by == 1.0 {
        return v;
    }
    let by = number(g, by, v);
    g.mul(v, by)
}

/// A value plus a number of its type.
fn shifted(g: &mut Graph, v: Val, by: f64) -> Val {
    let by = number(g, by, v);
    g.add(v, by)
}

/// The sum of a value and what is added to it, where anything is.
fn plus(g: &mut Graph, v: Val, more: Option<Val>) -> Val {
    more.map_or(v, |more| g.add(v, more))
}

/// From `start` until `end` along an axis.
fn part(g: &mut Graph, v: Val, axis: i64, start: i64, end: i64) -> Val {
    let [start, end, axis] = [start, end, axis].map(|n| g.integers(&[n]));
    g.op("Slice", &[v, start, end, axis])
}
