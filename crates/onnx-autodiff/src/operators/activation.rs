//! Activations: elementwise functions that networks put between their linear layers.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use super::erf::error_function;
use super::operator::{DerivativeResult, Operator, TangentResult};
use super::parts::{at_least, at_most, from, square, where_greater};
use crate::elem::ElemType;
use crate::graph::{Graph, Node, Val};
use crate::jvp_context::JvpContext;

/// The declarations of this file's operators.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Celu")
        .kinked()
        .same_shape()
        .derivative(celu_derivative)
        .float64(celu_float64),
    Operator::new("Elu")
        .kinked()
        .same_shape()
        .derivative(elu_derivative)
        .float64(elu_float64),
    Operator::new("Gelu")
        .same_shape()
        .derivative(gelu_derivative)
        .float64(gelu_float64)
        .smooth(),
    Operator::new("HardSigmoid")
        .kinked()
        .same_shape()
        .derivative(hard_sigmoid_derivative)
        .float64(hard_sigmoid_float64),
    Operator::new("HardSwish")
        .kinked()
        .same_shape()
        .derivative(hard_swish_derivative)
        .float64(hard_swish_float64),
    Operator::new("LeakyRelu")
        .kinked()
        .same_shape()
        .derivative(leaky_relu_derivative)
        .float64(leaky_relu_float64),
    Operator::new("Mish")
        .same_shape()
        .derivative(mish_derivative)
        .float64(mish_float64)
        .smooth(),
    Operator::new("PRelu")
        .kinked()
        .same_shape()
        .tangent(prelu_tangent)
        .float64(prelu_float64)
        .elementwise(),
    Operator::new("Relu")
        .kinked()
        .same_shape()
        .derivative(relu_derivative),
    Operator::new("Selu")
        .kinked()
        .same_shape()
        .derivative(selu_derivative)
        .float64(selu_float64),
    Operator::new("Shrink")
        .kinked()
        .same_shape()
        .derivative(shrink_derivative)
        .float64(shrink_float64),
    Operator::new("Sigmoid")
        .same_shape()
        .derivative(sigmoid_derivative)
        .smooth(),
    Operator::new("Softplus")
        .same_shape()
        .derivative(softplus_derivative)
        .float64(softplus_float64)
        .smooth(),
    Operator::new("Softsign")
        .kinked()
        .same_shape()
        .derivative(softsign_derivative)
        .float64(softsign_float64),
    Operator::new("Swish")
        .same_shape()
        .derivative(swish_derivative)
        .smooth(),
    Operator::new("ThresholdedRelu")
        .kinked()
        .same_shape()
        .derivative(thresholded_relu_derivative)
        .float64(thresholded_relu_float64),
];

fn prelu_tangent(s: &mut JvpContext) -> TangentResult {
    let (x, slope) = (s.x(0)?, s.x(1)?);
    let (zero, one) = (s.g.real_like(0.0, x), s.g.real_like(1.0, x));
    let positive = s.g.op("Greater", &[x, zero]);
    let factor = s.g.op("Where", &[positive, one, slope]);
    let left = s.times(0, factor)?;
    let below = s.g.op("Min", &[x, zero]);
    let right = s.times(1, below)?;
    Ok(s.sum(left, right))
}

/// Appends 1 for elements with `x > bound`, and 0 for the others.
fn one_above(s: &mut JvpContext, x: Val, bound: f64) -> Val {
    let bound = s.g.real_like(bound, x);
    let mask = s.g.op("Greater", &[x, bound]);
    s.g.cast(mask, s.g.elem(x))
}

/// Appends `yes` for elements with `x > 0`, and `no` for the others.
fn switch(s: &mut JvpContext, x: Val, yes: f64, no: Val) -> Val {
    let zero = s.g.real_like(0.0, x);
    let positive = s.g.op("Greater", &[x, zero]);
    let yes = s.g.real_like(yes, x);
    s.g.op("Where", &[positive, yes, no])
}

fn celu_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    let scaled = s.g.scale(x, 1.0 / s.node.float("alpha", 1.0));
    let slope = s.g.op("Exp", &[scaled]);
    Ok(switch(s, x, 1.0, slope))
}

fn elu_derivative(s: &mut JvpContext) -> DerivativeResult {
    let (x, y) = (s.x(0)?, s.y()?);
    let slope = s.g.shift(y, s.node.float("alpha", 1.0));
    Ok(switch(s, x, 1.0, slope))
}

/// Returns the derivative of the exact form or of the approximation by tanh.
fn gelu_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    if s.node.text("approximate", "none") == "tanh" {
        Ok(gelu_tanh(s, x))
    } else {
        Ok(gelu_erf(s, x))
    }
}

/// Appends the derivative of the exact form, `Φ(x) + x φ(x)`.
fn gelu_erf(s: &mut JvpContext, x: Val) -> Val {
    let scaled = s.g.scale(x, FRAC_1_SQRT_2);
    let erf = s.g.op("Erf", &[scaled]);
    let half = s.g.scale(erf, 0.5);
    let cumulative = s.g.shift(half, 0.5);
    let square = square(s, x);
    let exponent = s.g.scale(square, -0.5);
    let bell = s.g.op("Exp", &[exponent]);
    let density = s.g.scale(bell, 1.0 / (2.0 * PI).sqrt());
    let slope = s.g.mul(x, density);
    s.g.add(cumulative, slope)
}

/// Appends the derivative of the approximation: `(1 + tanh u)/2 + x (1 - tanh² u) u' / 2` with `u =
/// √(2/π) (x + 0.044715 x³)`.
fn gelu_tanh(s: &mut JvpContext, x: Val) -> Val {
    let (c, cubic) = ((2.0 / PI).sqrt(), 0.044715);
    let square_x = square(s, x);
    let bend = s.g.scale(square_x, c * cubic);
    let slope = s.g.shift(bend, c);
    let u = s.g.mul(x, slope);
    let t = s.g.op("Tanh", &[u]);
    let steep = s.g.scale(square_x, 3.0 * c * cubic);
    let du = s.g.shift(steep, c);
    let square_t = square(s, t);
    let sech = from(s, 1.0, square_t);
    let right = s.g.mul(x, sech);
    let right = s.g.mul(right, du);
    let left = s.g.shift(t, 1.0);
    let sum = s.g.add(left, right);
    s.g.scale(sum, 0.5)
}

fn hard_sigmoid_derivative(s: &mut JvpContext) -> DerivativeResult {
    let (alpha, beta) = (
        s.node.float("alpha", f64::from(0.2f32)),
        s.node.float("beta", 0.5),
    );
    let x = s.x(0)?;
    let scaled = s.g.scale(x, alpha);
    let inner = s.g.shift(scaled, beta);
    let ramp = ramp(s, inner);
    Ok(s.g.scale(ramp, alpha))
}

/// Appends 1 for elements with `0 < v < 1`, and 0 for the others.
fn ramp(s: &mut JvpContext, v: Val) -> Val {
    let low = one_above(s, v, 0.0);
    let one = s.g.real_like(1.0, v);
    let mask = s.g.op("Less", &[v, one]);
    let high = s.g.cast(mask, s.g.elem(v));
    s.g.mul(low, high)
}

/// Returns the derivative of `x * clip(x / 6 + 1 / 2, 0, 1)`.
fn hard_swish_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    let scaled = s.g.scale(x, 1.0 / 6.0);
    let inner = s.g.shift(scaled, 0.5);
    let inside = ramp(s, inner);
    let double = s.g.scale(x, 1.0 / 3.0);
    let slope = s.g.shift(double, 0.5);
    let sloped = s.g.mul(inside, slope);
    let one = s.g.real_like(1.0, x);
    let full = s.g.op("GreaterOrEqual", &[inner, one]);
    let full = s.g.cast(full, s.g.elem(x));
    Ok(s.g.add(sloped, full))
}

fn leaky_relu_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    let slope = s.g.real_like(s.node.float("alpha", f64::from(0.01f32)), x);
    Ok(switch(s, x, 1.0, slope))
}

/// Returns `t + x (1 - t²) sigmoid(x)` with `t = tanh(softplus(x))`.
fn mish_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    let soft = s.g.op("Softplus", &[x]);
    let t = s.g.op("Tanh", &[soft]);
    let square_t = square(s, t);
    let sech = from(s, 1.0, square_t);
    let sigmoid = s.g.op("Sigmoid", &[x]);
    let slope = s.g.mul(sech, sigmoid);
    let bend = s.g.mul(x, slope);
    Ok(s.g.add(t, bend))
}

fn relu_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    Ok(one_above(s, x, 0.0))
}

fn selu_derivative(s: &mut JvpContext) -> DerivativeResult {
    let (x, y) = (s.x(0)?, s.y()?);
    let (alpha, gamma) = (
        s.node.float("alpha", f64::from(1.673_263_2_f32)),
        s.node.float("gamma", f64::from(1.050_701_f32)),
    );
    let slope = s.g.shift(y, alpha * gamma);
    Ok(switch(s, x, gamma, slope))
}

/// Returns 0 for elements with `|x| < λ`, and 1 for the others.
fn shrink_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    let size = s.g.op("Abs", &[x]);
    let bound = s.node.float("lambd", 0.5);
    Ok(one_above(s, size, bound))
}

fn sigmoid_derivative(s: &mut JvpContext) -> DerivativeResult {
    let y = s.y()?;
    let rest = from(s, 1.0, y);
    Ok(s.g.mul(y, rest))
}

fn softplus_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    Ok(s.g.op("Sigmoid", &[x]))
}

fn softsign_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    let size = s.g.op("Abs", &[x]);
    let below = s.g.shift(size, 1.0);
    let square = square(s, below);
    Ok(s.g.op("Reciprocal", &[square]))
}

/// Returns the derivative of `x sigmoid(a x)`.
fn swish_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    let alpha = s.node.float("alpha", 1.0);
    let scaled = s.g.scale(x, alpha);
    let sigmoid = s.g.op("Sigmoid", &[scaled]);
    swish_slope(s, alpha, sigmoid)
}

/// Appends the derivative of the node's output `x sigmoid(a x)` from this output and the sigmoid.
pub(super) fn swish_slope(s: &mut JvpContext, alpha: f64, sigmoid: Val) -> DerivativeResult {
    let y = s.y()?;
    let rest = from(s, 1.0, sigmoid);
    let bend = s.g.mul(y, rest);
    let bend = s.g.scale(bend, alpha);
    Ok(s.g.add(sigmoid, bend))
}

fn thresholded_relu_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    let bound = s.node.float("alpha", 1.0);
    Ok(one_above(s, x, bound))
}

fn elu_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let alpha = node.float("alpha", 1.0);
    Some(exponential_below(g, x, alpha, 1.0, 1.0))
}

/// Appends `max(0, x) + min(0, α (exp(x/α) − 1))`.
fn celu_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let alpha = node.float("alpha", 1.0);
    Some(exponential_below(g, x, alpha, alpha, 1.0))
}

fn selu_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    // The attributes are float32 numbers, and so are their defaults.
    let alpha = node.float("alpha", f64::from(1.673_263_2_f32));
    let gamma = node.float("gamma", f64::from(1.050_701_f32));
    Some(exponential_below(g, x, alpha, 1.0, gamma))
}

/// Appends `gain x` for elements above zero, and `gain height (exp(x / width) − 1)` for those
/// below.
fn exponential_below(g: &mut Graph, x: Val, height: f64, width: f64, gain: f64) -> Val {
    let below = at_most(g, x, 0.0);
    let scaled = g.scale(below, 1.0 / width);
    let exponential = g.op("Exp", &[scaled]);
    let shifted = g.shift(exponential, -1.0);
    let low = g.scale(shifted, height);
    let y = where_greater(g, x, 0.0, x, low);
    g.scale(y, gain)
}

fn leaky_relu_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let low = g.scale(x, node.float("alpha", f64::from(0.01_f32)));
    let positive = greater_or_equal(g, x, 0.0);
    Some(g.op("Where", &[positive, x, low]))
}

fn greater_or_equal(g: &mut Graph, x: Val, bound: f64) -> Val {
    let bound = g.real(bound, ElemType::DOUBLE);
    g.op("GreaterOrEqual", &[x, bound])
}

fn prelu_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let (x, slope) = (node.input(0)?, node.input(1)?);
    let low = g.mul(x, slope);
    let positive = greater_or_equal(g, x, 0.0);
    Some(g.op("Where", &[positive, x, low]))
}

fn thresholded_relu_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let zero = g.real(0.0, ElemType::DOUBLE);
    Some(where_greater(g, x, node.float("alpha", 1.0), x, zero))
}

/// Appends `x + bias` for elements below `−λ`, `x − bias` for those above `λ`, and 0 between.
fn shrink_float64(g: &mut Graph, node: &Node) -> Option<Val> {
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

fn hard_sigmoid_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    Some(clipped_line(
        g,
        x,
        node.float("alpha", f64::from(0.2_f32)),
        node.float("beta", 0.5),
    ))
}

fn hard_swish_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let gate = clipped_line(g, x, 1.0 / 6.0, 0.5);
    Some(g.mul(x, gate))
}

fn softplus_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    Some(log_one_plus_exp(g, node.input(0)?))
}

/// Appends `log(1 + eˣ)` for elements below zero, and the equal `x + log(1 + e⁻ˣ)` above. Neither
/// overflows.
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

fn mish_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let softplus = log_one_plus_exp(g, x);
    let gate = g.op("Tanh", &[softplus]);
    Some(g.mul(x, gate))
}

fn softsign_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let magnitude = g.op("Abs", &[x]);
    let below = g.shift(magnitude, 1.0);
    Some(g.div(x, below))
}

/// Appends `½ x (1 + erf(x/√2))`, or the approximation by tanh if the node asks for it.
fn gelu_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let bent = if node.text("approximate", "none") == "tanh" {
        let square = g.mul(x, x);
        let scaled = g.scale(square, 0.044_715);
        let factor = g.shift(scaled, 1.0);
        let inner = g.mul(x, factor);
        let inner = g.scale(inner, (2.0 / std::f64::consts::PI).sqrt());
        g.op("Tanh", &[inner])
    } else {
        let scaled = g.scale(x, std::f64::consts::FRAC_1_SQRT_2);
        error_function(g, scaled)
    };
    let sum = g.shift(bent, 1.0);
    let product = g.mul(x, sum);
    Some(g.scale(product, 0.5))
}
