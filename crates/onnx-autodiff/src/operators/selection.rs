//! Operators that count, choose or read by rules of their own: their outputs carry no derivative.

use super::operator::{Operator, floats, integers, unknown};

pub const OPERATORS: &[Operator] = &[
    Operator::new("ImageDecoder").element(unknown).constant(),
    Operator::new("NonMaxSuppression")
        .element(integers)
        .constant(),
    Operator::new("RegexFullMatch").constant(),
    Operator::new("StringConcat").constant(),
    Operator::new("StringNormalizer").constant(),
    Operator::new("StringSplit").constant(),
    Operator::new("TfIdfVectorizer").element(floats).constant(),
];
