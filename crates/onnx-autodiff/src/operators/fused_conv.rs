//! `FusedConv` and `NhwcConv`: convolutions with a summand and an activation, and convolutions of
//! images whose channels are the last axis.

use super::fused_activation::activated;
use super::fused_group_norm::{channels_first, channels_last};
use super::operator::{Lowered, Operator};
use super::parts::{one, plus};
use crate::graph::{Graph, Node, Val};

/// The declarations of `FusedConv` and `NhwcConv`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::fused("FusedConv", fused_conv),
    Operator::fused("NhwcConv", nhwc_conv),
];

/// The attributes that a plain convolution has.
const OWN: [&str; 6] = [
    "auto_pad",
    "dilations",
    "group",
    "kernel_shape",
    "pads",
    "strides",
];

/// Appends the activation of a convolution, to which another image may be added first.
pub(super) fn fused_conv(g: &mut Graph, node: &Node) -> Lowered {
    let raw = convolution(g, node, node.input(0)?, node.input(1)?);
    let sum = plus(g, raw, node.input(3));
    let told = |index: usize, _: &str| {
        node.attribute("activation_params")?
            .floats
            .get(index)
            .copied()
            .map(f64::from)
    };
    one(activated(g, sum, &node.text("activation", ""), told)?)
}

/// Appends a convolution of images `[N, H, W, C]` with weights `[M, kH, kW, C]`.
pub(super) fn nhwc_conv(g: &mut Graph, node: &Node) -> Lowered {
    let (x, w) = (node.input(0)?, node.input(1)?);
    if g.rank(x) != Some(4) || g.rank(w) != Some(4) {
        return None;
    }
    let (x, w) = (channels_first(g, x, 4), channels_first(g, w, 4));
    let y = convolution(g, node, x, w);
    one(channels_last(g, y, 4))
}

fn convolution(g: &mut Graph, node: &Node, x: Val, w: Val) -> Val {
    let attributes = node
        .attributes
        .iter()
        .filter(|a| OWN.contains(&a.name()))
        .cloned()
        .collect();
    let mut inputs = vec![Some(x), Some(w)];
    inputs.extend(node.input(2).map(Some));
    g.op_optional("Conv", &inputs, attributes)
}
