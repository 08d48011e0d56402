//! `Pow`: powers.

use super::arithmetic::broadcast_tangent;
use super::operator::{Operator, TangentResult};
use crate::folding::binary;
use crate::graph::Val;
use crate::inference::broadcast_all;
use crate::jvp_context::JvpContext;

/// The declaration of `Pow`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("Pow")
    .shape(broadcast_all)
    .content(binary)
    .tangent(pow_tangent)
    .smooth_in(&[0])
    .elementwise()];

fn pow_tangent(s: &mut JvpContext) -> TangentResult {
    let (x, y) = (s.x(0)?, s.y()?);
    let exponent = s.x(1)?;
    let known =
        s.g.content(exponent)
            .and_then(|c| c.reals())
            .filter(|e| e.len() == 1)
            .map(|e| e[0]);
    let exponent = s.g.cast(exponent, s.g.elem(x));
    let left = match known {
        _ if s.lazy(0).is_none() => None,
        Some(0.0) => None,
        Some(1.0) => broadcast_tangent(s, 0)?,
        _ => {
            let slope = slope(s, x, y, exponent, known);
            s.times(0, slope)?
        }
    };
    if s.lazy(1).is_none() {
        return Ok(left);
    }
    let slope = slope_of_exponent(s, x, y, exponent);
    let right = s.times(1, slope)?;
    Ok(s.sum(left, right))
}

/// Appends the derivative with respect to the exponent: `y log(x)`, and 0 for elements of `x` that
/// are 0 if the exponent is not negative.
fn slope_of_exponent(s: &mut JvpContext, x: Val, y: Val, exponent: Val) -> Val {
    let log = s.g.op("Log", &[x]);
    let slope = s.g.mul(y, log);
    if s.all_known(x, |x| x != 0.0) {
        return slope;
    }
    let zero = s.g.real_like(0.0, x);
    let (origin, defined) = (
        s.g.op("Equal", &[x, zero]),
        s.g.op("GreaterOrEqual", &[exponent, zero]),
    );
    let flat = s.g.op("And", &[origin, defined]);
    s.g.op("Where", &[flat, zero, slope])
}

/// Appends the derivative with respect to the base: `a x^(a-1)`, and 0 for elements whose exponent
/// `a` is 0, whatever `x` is.
pub(super) fn slope(s: &mut JvpContext, x: Val, y: Val, exponent: Val, known: Option<f64>) -> Val {
    match known {
        Some(2.0) => s.g.scale(x, 2.0),
        Some(3.0) => {
            let square = s.g.mul(x, x);
            s.g.scale(square, 3.0)
        }
        Some(0.5) => {
            let inverse = s.g.op("Reciprocal", &[y]);
            s.g.scale(inverse, 0.5)
        }
        Some(a) => {
            let less = s.g.real_like(a - 1.0, x);
            let power = s.g.op("Pow", &[x, less]);
            s.g.scale(power, a)
        }
        None => {
            let less = s.g.shift(exponent, -1.0);
            let power = s.g.op("Pow", &[x, less]);
            let slope = s.g.mul(exponent, power);
            if s.all_known(exponent, |a| a != 0.0) {
                return slope;
            }
            let zero = s.g.real_like(0.0, x);
            let flat = s.g.op("Equal", &[exponent, zero]);
            s.g.op("Where", &[flat, zero, slope])
        }
    }
}
