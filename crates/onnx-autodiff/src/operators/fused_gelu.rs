//! The Gaussian error linear unit (GELU) in its exact form and in its approximations, with and
//! without a bias.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use super::operator::{Lowered, Operator};
use super::parts::{number_like, one, part, plus, scaled, shifted};
use crate::graph::emit::text;
use crate::graph::{Graph, Node, Val};

/// The declarations of `BiasGelu`, `BiasSplitGelu`, `FastGelu`, `Gelu` and `QuickGelu`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::fused("BiasGelu", bias_gelu),
    Operator::fused("BiasSplitGelu", bias_split_gelu),
    Operator::fused("FastGelu", fast_gelu),
    Operator::fused("Gelu", gelu),
    Operator::fused("QuickGelu", quick_gelu),
];

/// The first opset whose standard domain has `Gelu`.
const STANDARD: i64 = 20;

/// Appends `x Φ(x)`.
pub(super) fn gelu(g: &mut Graph, node: &Node) -> Lowered {
    let x = node.input(0)?;
    one(exact_gelu(g, x))
}

/// Appends `gelu(a + b)`.
pub(super) fn bias_gelu(g: &mut Graph, node: &Node) -> Lowered {
    let x = g.add(node.input(0)?, node.input(1)?);
    one(exact_gelu(g, x))
}

/// Appends the approximation by tanh, of the sum with a bias if there is one.
pub(super) fn fast_gelu(g: &mut Graph, node: &Node) -> Lowered {
    let x = plus(g, node.input(0)?, node.input(1));
    one(tanh_gelu(g, x))
}

/// Appends `x sigmoid(alpha x)`.
pub(super) fn quick_gelu(g: &mut Graph, node: &Node) -> Lowered {
    let x = node.input(0)?;
    let inner = scaled(g, x, node.float("alpha", f64::from(1.702f32)));
    let gate = g.op("Sigmoid", &[inner]);
    one(g.mul(x, gate))
}

/// Adds a bias and appends the first half of the last axis times the GELU of the second half.
pub(super) fn bias_split_gelu(g: &mut Graph, node: &Node) -> Lowered {
    let sum = g.add(node.input(0)?, node.input(1)?);
    let width = g
        .shape(sum)?
        .last()?
        .as_fixed()
        .filter(|width| width % 2 == 0)?;
    let (left, right) = (
        part(g, sum, -1, 0, width / 2),
        part(g, sum, -1, width / 2, width),
    );
    let gate = exact_gelu(g, right);
    one(g.mul(left, gate))
}

/// Appends the exact form.
fn exact_gelu(g: &mut Graph, x: Val) -> Val {
    if g.opset >= STANDARD {
        return g.op("Gelu", &[x]);
    }
    let inner = scaled(g, x, FRAC_1_SQRT_2);
    let erf = g.op("Erf", &[inner]);
    halved(g, x, erf)
}

/// Appends the approximation by tanh.
fn tanh_gelu(g: &mut Graph, x: Val) -> Val {
    if g.opset >= STANDARD {
        return g.op_with("Gelu", &[x], vec![text("approximate", "tanh")]);
    }
    let square = g.mul(x, x);
    let slope = scaled(g, square, 0.044_715);
    let slope = shifted(g, slope, 1.0);
    let cubic = g.mul(x, slope);
    let inner = scaled(g, cubic, (2.0 / PI).sqrt());
    let bent = g.op("Tanh", &[inner]);
    halved(g, x, bent)
}

/// Appends `x (1 + step) / 2`.
fn halved(g: &mut Graph, x: Val, step: Val) -> Val {
    let raised = shifted(g, step, 1.0);
    let half = number_like(g, 0.5, x);
    let half = g.mul(x, half);
    g.mul(half, raised)
}
