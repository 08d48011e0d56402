//! Comparisons and operators of truth values and bits. Their outputs carry no derivative.

use super::operator::{Operator, booleans};
use crate::folding::{binary, unary};
use crate::inference::broadcast_all;

/// The declarations of this file's operators.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("And")
        .element(booleans)
        .shape(broadcast_all)
        .content(binary)
        .constant(),
    Operator::new("BitShift").constant(),
    Operator::new("BitwiseAnd").shape(broadcast_all).constant(),
    Operator::new("BitwiseNot").same_shape().constant(),
    Operator::new("BitwiseOr").shape(broadcast_all).constant(),
    Operator::new("BitwiseXor").shape(broadcast_all).constant(),
    Operator::new("Equal")
        .element(booleans)
        .shape(broadcast_all)
        .content(binary)
        .constant(),
    Operator::new("Greater")
        .element(booleans)
        .shape(broadcast_all)
        .content(binary)
        .constant(),
    Operator::new("GreaterOrEqual")
        .element(booleans)
        .shape(broadcast_all)
        .content(binary)
        .constant(),
    Operator::new("IsInf")
        .element(booleans)
        .same_shape()
        .constant(),
    Operator::new("IsNaN")
        .element(booleans)
        .same_shape()
        .constant(),
    Operator::new("Less")
        .element(booleans)
        .shape(broadcast_all)
        .content(binary)
        .constant(),
    Operator::new("LessOrEqual")
        .element(booleans)
        .shape(broadcast_all)
        .content(binary)
        .constant(),
    Operator::new("Not")
        .element(booleans)
        .same_shape()
        .content(unary)
        .constant(),
    Operator::new("Or")
        .element(booleans)
        .shape(broadcast_all)
        .content(binary)
        .constant(),
    Operator::new("Xor")
        .element(booleans)
        .shape(broadcast_all)
        .constant(),
];
