//! Trigonometric and hyperbolic functions and their inverses. In float64, the arc tangent is the
//! rational approximation of the Cephes library (S. L. Moshier).

#![expect(
    clippy::excessive_precision,
    reason = "coefficients have the digits of their source"
)]

use std::collections::HashMap;
use std::f64::consts::{FRAC_PI_2, FRAC_PI_4};

use super::operator::{DerivativeResult, Operator};
use super::parts::{from, polynomial, square, where_greater};
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::{Graph, Node, Val};
use crate::jvp_context::{JvpContext, Tangent};

/// The declarations of this file's operators.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Acos")
        .same_shape()
        .derivative(acos_derivative)
        .float64(acos_float64)
        .smooth(),
    Operator::new("Acosh")
        .same_shape()
        .derivative(acosh_derivative)
        .float64(acosh_float64)
        .smooth(),
    Operator::new("Asin")
        .same_shape()
        .derivative(asin_derivative)
        .float64(asin_float64)
        .smooth(),
    Operator::new("Asinh")
        .same_shape()
        .derivative(asinh_derivative)
        .float64(asinh_float64)
        .smooth(),
    Operator::new("Atan")
        .same_shape()
        .tangent_with_producers(atan_tangent)
        .float64(atan_float64)
        .smooth(),
    Operator::new("Atanh")
        .same_shape()
        .derivative(atanh_derivative)
        .float64(atanh_float64)
        .smooth(),
    Operator::new("Cos")
        .same_shape()
        .derivative(cos_derivative)
        .smooth(),
    Operator::new("Cosh")
        .same_shape()
        .derivative(cosh_derivative)
        .float64(cosh_float64)
        .smooth(),
    Operator::new("Sin")
        .same_shape()
        .derivative(sin_derivative)
        .smooth(),
    Operator::new("Sinh")
        .same_shape()
        .derivative(sinh_derivative)
        .float64(sinh_float64)
        .smooth(),
    Operator::new("Tan")
        .same_shape()
        .derivative(tan_derivative)
        .float64(tan_float64)
        .smooth(),
    Operator::new("Tanh")
        .same_shape()
        .derivative(tanh_derivative)
        .smooth(),
];

/// Appends `1 / sqrt(v)`.
fn inverse_root(s: &mut JvpContext, v: Val) -> Val {
    let root = s.g.op("Sqrt", &[v]);
    s.g.op("Reciprocal", &[root])
}

fn acos_derivative(s: &mut JvpContext) -> DerivativeResult {
    let factor = asin_derivative(s)?;
    Ok(s.g.neg(factor))
}

fn acosh_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    let square = square(s, x);
    let inner = s.g.shift(square, -1.0);
    Ok(inverse_root(s, inner))
}

fn asin_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    let square = square(s, x);
    let inner = from(s, 1.0, square);
    Ok(inverse_root(s, inner))
}

fn asinh_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    let square = square(s, x);
    let inner = s.g.shift(square, 1.0);
    Ok(inverse_root(s, inner))
}

/// Returns the tangent. The `atan` of a quotient is an angle, which varies smoothly where the
/// denominator is zero.
fn atan_tangent(
    s: &mut JvpContext,
    of: &HashMap<Val, Tangent>,
) -> Result<Option<Tangent>, Refusal> {
    let quotient = s
        .node
        .input(0)
        .and_then(|v| s.g.maker(v))
        .filter(|node| node.standard() == "Div")
        .cloned();
    if let Some(Node { inputs, .. }) = quotient {
        let tangents = inputs.iter().map(|v| of.get(&(*v)?).copied()).collect();
        let node = Node {
            inputs,
            ..s.node.clone()
        };
        return angle(&mut JvpContext {
            g: s.g,
            node,
            tangents,
            k: s.k.clone(),
            walk: s.walk,
        });
    }
    let x = s.x(0)?;
    let square = square(s, x);
    let inner = s.g.shift(square, 1.0);
    let factor = s.g.op("Reciprocal", &[inner]);
    s.times(0, factor)
}

/// Returns `d atan(a / b) = (b da - a db) / (a² + b²)`. Both are divided by the larger of |a| and
/// |b| first, so that the squares do not overflow.
fn angle(s: &mut JvpContext) -> Result<Option<Tangent>, Refusal> {
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

fn atanh_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    let square = square(s, x);
    let inner = from(s, 1.0, square);
    Ok(s.g.op("Reciprocal", &[inner]))
}

fn cos_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    let sin = s.g.op("Sin", &[x]);
    Ok(s.g.neg(sin))
}

fn cosh_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    Ok(hyperbolic(s, x, "Sub"))
}

fn sinh_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    Ok(hyperbolic(s, x, "Add"))
}

/// Appends `(exp(x) ± exp(-x)) / 2`, because some runtimes lack `Sinh` and `Cosh` in float64.
fn hyperbolic(s: &mut JvpContext, x: Val, join: &str) -> Val {
    let minus = s.g.neg(x);
    let (up, down) = (s.g.op("Exp", &[x]), s.g.op("Exp", &[minus]));
    let joined = s.g.op(join, &[up, down]);
    s.g.scale(joined, 0.5)
}

fn sin_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    Ok(s.g.op("Cos", &[x]))
}

fn tan_derivative(s: &mut JvpContext) -> DerivativeResult {
    let y = s.y()?;
    let square = square(s, y);
    Ok(s.g.shift(square, 1.0))
}

fn tanh_derivative(s: &mut JvpContext) -> DerivativeResult {
    let y = s.y()?;
    let square = square(s, y);
    Ok(from(s, 1.0, square))
}

fn tan_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let (sin, cos) = (g.op("Sin", &[x]), g.op("Cos", &[x]));
    Some(g.div(sin, cos))
}

fn cosh_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    Some(hyperbolic_cosine(g, node.input(0)?))
}

fn hyperbolic_cosine(g: &mut Graph, x: Val) -> Val {
    let negative = g.neg(x);
    let (up, down) = (g.op("Exp", &[x]), g.op("Exp", &[negative]));
    let sum = g.add(up, down);
    g.scale(sum, 0.5)
}

/// Appends `tanh x cosh x`, which keeps its precision near zero.
fn sinh_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let (tanh, cosh) = (g.op("Tanh", &[x]), hyperbolic_cosine(g, x));
    Some(g.mul(tanh, cosh))
}

/// Appends `sign x · log(|x| + √(x² + 1))`.
fn asinh_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let square = g.mul(x, x);
    let shifted = g.shift(square, 1.0);
    let root = g.op("Sqrt", &[shifted]);
    let magnitude = g.op("Abs", &[x]);
    let sum = g.add(magnitude, root);
    let (log, sign) = (g.op("Log", &[sum]), g.op("Sign", &[x]));
    Some(g.mul(log, sign))
}

/// Appends `log(x + √(x − 1) √(x + 1))`.
fn acosh_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let (below, above) = (g.shift(x, -1.0), g.shift(x, 1.0));
    let product = g.mul(below, above);
    let root = g.op("Sqrt", &[product]);
    let sum = g.add(x, root);
    Some(g.op("Log", &[sum]))
}

/// Appends `½ log((1 + x) / (1 − x))`.
fn atanh_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let negative = g.neg(x);
    let (above, below) = (g.shift(x, 1.0), g.shift(negative, 1.0));
    let quotient = g.div(above, below);
    let log = g.op("Log", &[quotient]);
    Some(g.scale(log, 0.5))
}

/// The numerator of atan x = x + x z P(z)/Q(z) with z = x², for |x| ≤ 0.66. The highest power comes
/// first.
const P: [f64; 5] = [
    -8.750_608_600_031_904_122_785e-1,
    -1.615_753_718_733_365_076_637e1,
    -7.500_855_792_314_704_667_340e1,
    -1.228_866_684_490_136_173_410e2,
    -6.485_021_904_942_025_371_773e1,
];

/// The denominator of atan x = x + x z P(z)/Q(z).
const Q: [f64; 6] = [
    1.0,
    2.485_846_490_142_306_297_962e1,
    1.650_270_098_316_988_542_046e2,
    4.328_810_604_912_902_668_951e2,
    4.853_903_996_359_136_964_868e2,
    1.945_506_571_482_613_964_425e2,
];

/// The number tan(3π/8), above which the argument is inverted.
const STEEP: f64 = 2.414_213_562_373_095;

/// The number up to which the approximation holds without a reduction of the argument.
const FLAT: f64 = 0.66;

fn atan_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    Some(arc_tangent(g, node.input(0)?))
}

fn arc_tangent(g: &mut Graph, x: Val) -> Val {
    let magnitude = g.op("Abs", &[x]);
    let one = g.real(1.0, ElemType::DOUBLE);
    let [quarter, eighth, none] =
        [FRAC_PI_2, FRAC_PI_4, 0.0].map(|angle| g.real(angle, ElemType::DOUBLE));
    let inverse = g.op("Reciprocal", &[magnitude]);
    let inverse = g.neg(inverse);
    let (down, up) = (g.sub(magnitude, one), g.add(magnitude, one));
    let turned = g.div(down, up);
    let inner = where_greater(g, magnitude, FLAT, turned, magnitude);
    let inner = where_greater(g, magnitude, STEEP, inverse, inner);
    let base = where_greater(g, magnitude, FLAT, eighth, none);
    let base = where_greater(g, magnitude, STEEP, quarter, base);
    let square = g.mul(inner, inner);
    let (above, below) = (polynomial(g, square, &P), polynomial(g, square, &Q));
    let ratio = g.div(above, below);
    let bend = g.mul(square, ratio);
    let bend = g.mul(bend, inner);
    let small = g.add(inner, bend);
    let angle = g.add(base, small);
    let sign = g.op("Sign", &[x]);
    g.mul(angle, sign)
}

/// Appends `atan(x / √((1 − x)(1 + x)))`.
fn asin_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    Some(arc_sine(g, node.input(0)?))
}

fn arc_sine(g: &mut Graph, x: Val) -> Val {
    let negative = g.neg(x);
    let (below, above) = (g.shift(negative, 1.0), g.shift(x, 1.0));
    let product = g.mul(below, above);
    let root = g.op("Sqrt", &[product]);
    let tangent = g.div(x, root);
    arc_tangent(g, tangent)
}

fn acos_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let sine = arc_sine(g, node.input(0)?);
    let negative = g.neg(sine);
    Some(g.shift(negative, FRAC_PI_2))
}
