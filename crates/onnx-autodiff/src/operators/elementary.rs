//! Absolute values, exponentials, logarithms, roots and reciprocals.

use super::operator::{DerivativeResult, Operator};
use super::parts::square;
use crate::folding::unary;
use crate::jvp_context::JvpContext;

/// The declarations of `Abs`, `Exp`, `Log`, `Reciprocal` and `Sqrt`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Abs")
        .kinked()
        .same_shape()
        .content(unary)
        .derivative(abs_derivative),
    Operator::new("Exp")
        .same_shape()
        .content(unary)
        .derivative(exp_derivative)
        .smooth(),
    Operator::new("Log")
        .same_shape()
        .content(unary)
        .derivative(log_derivative)
        .smooth(),
    Operator::new("Reciprocal")
        .same_shape()
        .content(unary)
        .derivative(reciprocal_derivative)
        .smooth(),
    Operator::new("Sqrt")
        .same_shape()
        .content(unary)
        .derivative(sqrt_derivative)
        .smooth(),
];

fn abs_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    Ok(s.g.op("Sign", &[x]))
}

fn exp_derivative(s: &mut JvpContext) -> DerivativeResult {
    s.y()
}

fn log_derivative(s: &mut JvpContext) -> DerivativeResult {
    let x = s.x(0)?;
    Ok(s.g.op("Reciprocal", &[x]))
}

fn reciprocal_derivative(s: &mut JvpContext) -> DerivativeResult {
    let y = s.y()?;
    let square = square(s, y);
    Ok(s.g.neg(square))
}

fn sqrt_derivative(s: &mut JvpContext) -> DerivativeResult {
    let y = s.y()?;
    let inverse = s.g.op("Reciprocal", &[y]);
    Ok(s.g.scale(inverse, 0.5))
}
