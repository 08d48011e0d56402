//! Elementwise functions of one tensor: the tangent is scaled by the derivative.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

use std::collections::HashMap;

use super::Rule;
use crate::error::Refusal;
use crate::ir::{Node, Val};
use crate::step::{Step, Tangent};

pub const RULES: &[(&str, Rule)] = &[
    ("Abs", Rule::Diagonal(abs)),
    ("Acos", Rule::Diagonal(acos)),
    ("Acosh", Rule::Diagonal(acosh)),
    ("Asin", Rule::Diagonal(asin)),
    ("Asinh", Rule::Diagonal(asinh)),
    ("Atan", Rule::Behind(atan)),
    ("Atanh", Rule::Diagonal(atanh)),
    ("Celu", Rule::Diagonal(celu)),
    ("Clip", Rule::Diagonal(clip)),
    ("Cos", Rule::Diagonal(cos)),
    ("Cosh", Rule::Diagonal(cosh)),
    ("Elu", Rule::Diagonal(elu)),
    ("Erf", Rule::Diagonal(erf)),
    ("Exp", Rule::Diagonal(exp)),
    ("Gelu", Rule::Diagonal(gelu)),
    ("HardSigmoid", Rule::Diagonal(hard_sigmoid)),
    ("HardSwish", Rule::Diagonal(hard_swish)),
    ("LeakyRelu", Rule::Diagonal(leaky_relu)),
    ("Log", Rule::Diagonal(log)),
    ("Mish", Rule::Diagonal(mish)),
    ("Reciprocal", Rule::Diagonal(reciprocal)),
    ("Relu", Rule::Diagonal(relu)),
    ("Selu", Rule::Diagonal(selu)),
    ("Shrink", Rule::Diagonal(shrink)),
    ("Sigmoid", Rule::Diagonal(sigmoid)),
    ("Sin", Rule::Diagonal(sin)),
    ("Sinh", Rule::Diagonal(sinh)),
    ("Softplus", Rule::Diagonal(softplus)),
    ("Softsign", Rule::Diagonal(softsign)),
    ("Sqrt", Rule::Diagonal(sqrt)),
    ("Swish", Rule::Diagonal(swish)),
    ("Tan", Rule::Diagonal(tan)),
    ("Tanh", Rule::Diagonal(tanh)),
    ("ThresholdedRelu", Rule::Diagonal(thresholded_relu)),
];

type Factor = Result<Val, Refusal>;

/// `c - v`
fn from(s: &mut Step, c: f64, v: Val) -> Val {
    let c = s.g.real_like(c, v);
    s.g.sub(c, v)
}

fn square(s: &mut Step, v: Val) -> Val {
    s.g.mul(v, v)
}

/// `1 / sqrt(v)`
fn inverse_root(s: &mut Step, v: Val) -> Val {
    let root = s.g.op("Sqrt", &[v]);
    s.g.op("Reciprocal", &[root])
}

/// 1 where `x > bound`, else 0.
fn above(s: &mut Step, x: Val, bound: f64) -> Val {
    let bound = s.g.real_like(bound, x);
    let mask = s.g.op("Greater", &[x, bound]);
    s.g.cast(mask, s.g.elem(x))
}

/// `yes` where `x > 0`, else `no`.
fn switch(s: &mut Step, x: Val, yes: f64, no: Val) -> Val {
    let zero = s.g.real_like(0.0, x);
    let positive = s.g.op("Greater", &[x, zero]);
    let yes = s.g.real_like(yes, x);
    s.g.op("Where", &[positive, yes, no])
}

fn abs(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    Ok(s.g.op("Sign", &[x]))
}

fn acos(s: &mut Step) -> Factor {
    let factor = asin(s)?;
    Ok(s.g.neg(factor))
}

fn acosh(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    let square = square(s, x);
    let inner = s.g.shift(square, -1.0);
    Ok(inverse_root(s, inner))
}

fn asin(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    let square = square(s, x);
    let inner = from(s, 1.0, square);
    Ok(inverse_root(s, inner))
}

fn asinh(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    let square = square(s, x);
    let inner = s.g.shift(square, 1.0);
    Ok(inverse_root(s, inner))
}

/// Of a quotient it is an angle, which turns smoothly through the vertical.
fn atan(s: &mut Step, of: &HashMap<Val, Tangent>) -> Result<Option<Tangent>, Refusal> {
    let quotient = s.node.input(0).and_then(|v| s.g.maker(v)).filter(|node| node.standard() == "Div").cloned();
    if let Some(Node { inputs, .. }) = quotient {
        let tangents = inputs.iter().map(|v| of.get(&(*v)?).copied()).collect();
        let node = Node { inputs, ..s.node.clone() };
        return angle(&mut Step { g: s.g, node, tangents, k: s.k.clone() });
    }
    let x = s.x(0)?;
    let square = square(s, x);
    let inner = s.g.shift(square, 1.0);
    let factor = s.g.op("Reciprocal", &[inner]);
    s.times(0, factor)
}

/// `d atan(a / b) = (b da - a db) / (a² + b²)`, with both divided by the larger one: nothing overflows.
fn angle(s: &mut Step) -> Result<Option<Tangent>, Refusal> {
    let (a, b) = (s.x(0)?, s.x(1)?);
    let (long, wide) = (s.g.op("Abs", &[a]), s.g.op("Abs", &[b]));
    let size = s.g.op("Max", &[long, wide]);
    let (u, w) = (s.g.div(a, size), s.g.div(b, size));
    let (uu, ww) = (square(s, u), square(s, w));
    let radius = s.g.add(uu, ww);
    let below = s.g.mul(radius, size);
    let left = s.g.div(w, below);
    let left = s.times(0, left)?;
    let right = s.g.div(u, below);
    let right = s.g.neg(right);
    let right = s.times(1, right)?;
    Ok(s.sum(left, right))
}

fn atanh(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    let square = square(s, x);
    let inner = from(s, 1.0, square);
    Ok(s.g.op("Reciprocal", &[inner]))
}

fn celu(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    let scaled = s.g.scale(x, 1.0 / s.node.float("alpha", 1.0));
    let slope = s.g.op("Exp", &[scaled]);
    Ok(switch(s, x, 1.0, slope))
}

/// The bounds may be left out, and may be tensors.
fn clip(s: &mut Step) -> Factor {
    s.only(&[0], "clip with constant bounds, or use Max and Min")?;
    let x = s.x(0)?;
    let mut factor = None;
    for (place, op) in [(1, "GreaterOrEqual"), (2, "LessOrEqual")] {
        if s.node.input(place).is_some() {
            let bound = s.x(place)?;
            let mask = s.g.op(op, &[x, bound]);
            let mask = s.g.cast(mask, s.g.elem(x));
            factor = Some(factor.map_or(mask, |f| s.g.mul(f, mask)));
        }
    }
    Ok(factor.unwrap_or_else(|| s.g.real_like(1.0, x)))
}

fn cos(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    let sin = s.g.op("Sin", &[x]);
    Ok(s.g.neg(sin))
}

fn cosh(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    Ok(hyperbolic(s, x, "Sub"))
}

fn sinh(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    Ok(hyperbolic(s, x, "Add"))
}

/// `(exp(x) ± exp(-x)) / 2`: some runtimes lack Sinh and Cosh in double precision.
fn hyperbolic(s: &mut Step, x: Val, join: &str) -> Val {
    let minus = s.g.neg(x);
    let (up, down) = (s.g.op("Exp", &[x]), s.g.op("Exp", &[minus]));
    let joined = s.g.op(join, &[up, down]);
    s.g.scale(joined, 0.5)
}

fn elu(s: &mut Step) -> Factor {
    let (x, y) = (s.x(0)?, s.y()?);
    let slope = s.g.shift(y, s.node.float("alpha", 1.0));
    Ok(switch(s, x, 1.0, slope))
}

fn erf(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    let square = square(s, x);
    let minus = s.g.neg(square);
    let bell = s.g.op("Exp", &[minus]);
    Ok(s.g.scale(bell, FRAC_2_SQRT_PI))
}

fn exp(s: &mut Step) -> Factor {
    s.y()
}

fn gelu(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    if s.node.text("approximate", "none") == "tanh" { Ok(gelu_tanh(s, x)) } else { Ok(gelu_erf(s, x)) }
}

/// `Φ(x) + x φ(x)`
fn gelu_erf(s: &mut Step, x: Val) -> Val {
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

/// With `u = √(2/π) (x + 0.044715 x³)`: `(1 + tanh u)/2 + x (1 - tanh² u) u' / 2`.
fn gelu_tanh(s: &mut Step, x: Val) -> Val {
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

fn hard_sigmoid(s: &mut Step) -> Factor {
    let (alpha, beta) = (s.node.float("alpha", f64::from(0.2f32)), s.node.float("beta", 0.5));
    let x = s.x(0)?;
    let scaled = s.g.scale(x, alpha);
    let inner = s.g.shift(scaled, beta);
    let ramp = ramp(s, inner);
    Ok(s.g.scale(ramp, alpha))
}

/// 1 where `0 < v < 1`, else 0.
fn ramp(s: &mut Step, v: Val) -> Val {
    let low = above(s, v, 0.0);
    let one = s.g.real_like(1.0, v);
    let mask = s.g.op("Less", &[v, one]);
    let high = s.g.cast(mask, s.g.elem(v));
    s.g.mul(low, high)
}

/// `x * clip(x / 6 + 1 / 2, 0, 1)`
fn hard_swish(s: &mut Step) -> Factor {
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

fn leaky_relu(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    let slope = s.g.real_like(s.node.float("alpha", f64::from(0.01f32)), x);
    Ok(switch(s, x, 1.0, slope))
}

fn log(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    Ok(s.g.op("Reciprocal", &[x]))
}

/// With `t = tanh(softplus(x))`: `t + x (1 - t²) sigmoid(x)`.
fn mish(s: &mut Step) -> Factor {
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

fn reciprocal(s: &mut Step) -> Factor {
    let y = s.y()?;
    let square = square(s, y);
    Ok(s.g.neg(square))
}

fn relu(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    Ok(above(s, x, 0.0))
}

fn selu(s: &mut Step) -> Factor {
    let (x, y) = (s.x(0)?, s.y()?);
    let (alpha, gamma) =
        (s.node.float("alpha", f64::from(1.673_263_2_f32)), s.node.float("gamma", f64::from(1.050_701_f32)));
    let slope = s.g.shift(y, alpha * gamma);
    Ok(switch(s, x, gamma, slope))
}

/// Zero in the middle, one outside.
fn shrink(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    let size = s.g.op("Abs", &[x]);
    let bound = s.node.float("lambd", 0.5);
    Ok(above(s, size, bound))
}

fn sigmoid(s: &mut Step) -> Factor {
    let y = s.y()?;
    let rest = from(s, 1.0, y);
    Ok(s.g.mul(y, rest))
}

fn sin(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    Ok(s.g.op("Cos", &[x]))
}

fn softplus(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    Ok(s.g.op("Sigmoid", &[x]))
}

fn softsign(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    let size = s.g.op("Abs", &[x]);
    let below = s.g.shift(size, 1.0);
    let square = square(s, below);
    Ok(s.g.op("Reciprocal", &[square]))
}

fn sqrt(s: &mut Step) -> Factor {
    let y = s.y()?;
    let inverse = s.g.op("Reciprocal", &[y]);
    Ok(s.g.scale(inverse, 0.5))
}

/// `x sigmoid(a x)`
fn swish(s: &mut Step) -> Factor {
    let (x, y) = (s.x(0)?, s.y()?);
    let alpha = s.node.float("alpha", 1.0);
    let scaled = s.g.scale(x, alpha);
    let sigmoid = s.g.op("Sigmoid", &[scaled]);
    let rest = from(s, 1.0, sigmoid);
    let bend = s.g.mul(y, rest);
    let bend = s.g.scale(bend, alpha);
    Ok(s.g.add(sigmoid, bend))
}

fn tan(s: &mut Step) -> Factor {
    let y = s.y()?;
    let square = square(s, y);
    Ok(s.g.shift(square, 1.0))
}

fn tanh(s: &mut Step) -> Factor {
    let y = s.y()?;
    let square = square(s, y);
    Ok(from(s, 1.0, square))
}

fn thresholded_relu(s: &mut Step) -> Factor {
    let x = s.x(0)?;
    let bound = s.node.float("alpha", 1.0);
    Ok(above(s, x, bound))
}
