//! Activations and hyperbolic functions, by exponentials and logarithms.

use super::{at_least, at_most, where_greater};
use crate::elem::ElemType;
use crate::ir::{Graph, Node, Val};

pub fn elu(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let alpha = node.float("alpha", 1.0);
    Some(exponential_below(g, x, alpha, 1.0, 1.0))
}

/// `max(0, x) + min(0, α (exp(x/α) − 1))`
pub fn celu(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let alpha = node.float("alpha", 1.0);
    Some(exponential_below(g, x, alpha, alpha, 1.0))
}

pub fn selu(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    // The attributes are float32, and so are their defaults.
    let alpha = node.float("alpha", f64::from(1.673_263_2_f32));
    let gamma = node.float("gamma", f64::from(1.050_701_f32));
    Some(exponential_below(g, x, alpha, 1.0, gamma))
}

/// `gain x` above zero and `gain height (exp(x / width) − 1)` below.
fn exponential_below(g: &mut Graph, x: Val, height: f64, width: f64, gain: f64) -> Val {
    let below = at_most(g, x, 0.0);
    let scaled = g.scale(below, 1.0 / width);
    let exponential = g.op("Exp", &[scaled]);
    let shifted = g.shift(exponential, -1.0);
    let low = g.scale(shifted, height);
    let y = where_greater(g, x, 0.0, x, low);
    g.scale(y, gain)
}

pub fn leaky_relu(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let low = g.scale(x, node.float("alpha", f64::from(0.01_f32)));
    let positive = greater_or_equal(g, x, 0.0);
    Some(g.op("Where", &[positive, x, low]))
}

fn greater_or_equal(g: &mut Graph, x: Val, bound: f64) -> Val {
    let bound = g.real(bound, ElemType::DOUBLE);
    g.op("GreaterOrEqual", &[x, bound])
}

pub fn prelu(g: &mut Graph, node: &Node) -> Option<Val> {
    let (x, slope) = (node.input(0)?, node.input(1)?);
    let low = g.mul(x, slope);
    let positive = greater_or_equal(g, x, 0.0);
    Some(g.op("Where", &[positive, x, low]))
}

pub fn thresholded_relu(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let zero = g.real(0.0, ElemType::DOUBLE);
    Some(where_greater(g, x, node.float("alpha", 1.0), x, zero))
}

/// `x + bias` below `−λ`, `x − bias` above `λ`, zero between.
pub fn shrink(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let (lambda, bias) = (node.float("lambd", 0.5), node.float("bias", 0.0));
    let zero = g.real(0.0, ElemType::DOUBLE);
    let (up, down) = (g.shift(x, bias), g.shift(x, -bias));
    let high = where_greater(g, x, lambda, down, zero);
    let negative = g.neg(x);
    Some(where_greater(g, negative, lambda, up, high))
}

fn clipped_line(g: &mut Graph, x: Val, slope: f64, offset: f64) -> Val {
    let scaled = g.scale(x, slope);
    let line = g.shift(scaled, offset);
    let low = at_least(g, line, 0.0);
    at_most(g, low, 1.0)
}

pub fn hard_sigmoid(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    Some(clipped_line(g, x, node.float("alpha", f64::from(0.2_f32)), node.float("beta", 0.5)))
}

pub fn hard_swish(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let gate = clipped_line(g, x, 1.0 / 6.0, 0.5);
    Some(g.mul(x, gate))
}

pub fn softplus(g: &mut Graph, node: &Node) -> Option<Val> {
    Some(log_one_plus_exp(g, node.input(0)?))
}

/// `log(1 + eˣ)` below zero and `x + log(1 + e⁻ˣ)` above it, neither of which overflows.
fn log_one_plus_exp(g: &mut Graph, x: Val) -> Val {
    let negative = g.neg(x);
    let (low, high) = (at_most(g, x, 0.0), at_most(g, negative, 0.0));
    let [below, above] = [low, high].map(|v| {
        let exponential = g.op("Exp", &[v]);
        let sum = g.shift(exponential, 1.0);
        g.op("Log", &[sum])
    });
    let above = g.add(above, x);
    where_greater(g, x, 0.0, above, below)
}

pub fn mish(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let softplus = log_one_plus_exp(g, x);
    let gate = g.op("Tanh", &[softplus]);
    Some(g.mul(x, gate))
}

pub fn softsign(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let magnitude = g.op("Abs", &[x]);
    let below = g.shift(magnitude, 1.0);
    Some(g.div(x, below))
}

pub fn mean(g: &mut Graph, node: &Node) -> Option<Val> {
    let parts: Vec<Val> = node.inputs.iter().flatten().copied().collect();
    if parts.is_empty() {
        return None;
    }
    let sum = g.combine("Add", &parts);
    Some(g.scale(sum, 1.0 / parts.len() as f64))
}

pub fn tan(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let (sin, cos) = (g.op("Sin", &[x]), g.op("Cos", &[x]));
    Some(g.div(sin, cos))
}

pub fn cosh(g: &mut Graph, node: &Node) -> Option<Val> {
    Some(hyperbolic_cosine(g, node.input(0)?))
}

fn hyperbolic_cosine(g: &mut Graph, x: Val) -> Val {
    let negative = g.neg(x);
    let (up, down) = (g.op("Exp", &[x]), g.op("Exp", &[negative]));
    let sum = g.add(up, down);
    g.scale(sum, 0.5)
}

/// `tanh x cosh x`, which loses no digits near zero.
pub fn sinh(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let (tanh, cosh) = (g.op("Tanh", &[x]), hyperbolic_cosine(g, x));
    Some(g.mul(tanh, cosh))
}

/// `sign x · log(|x| + √(x² + 1))`
pub fn asinh(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let square = g.mul(x, x);
    let shifted = g.shift(square, 1.0);
    let root = g.op("Sqrt", &[shifted]);
    let magnitude = g.op("Abs", &[x]);
    let sum = g.add(magnitude, root);
    let (log, sign) = (g.op("Log", &[sum]), g.op("Sign", &[x]));
    Some(g.mul(log, sign))
}

/// `log(x + √(x − 1) √(x + 1))`
pub fn acosh(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let (below, above) = (g.shift(x, -1.0), g.shift(x, 1.0));
    let product = g.mul(below, above);
    let root = g.op("Sqrt", &[product]);
    let sum = g.add(x, root);
    Some(g.op("Log", &[sum]))
}

/// `½ log((1 + x) / (1 − x))`
pub fn atanh(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let negative = g.neg(x);
    let (above, below) = (g.shift(x, 1.0), g.shift(negative, 1.0));
    let quotient = g.div(above, below);
    let log = g.op("Log", &[quotient]);
    Some(g.scale(log, 0.5))
}
