//! Operators that select, count or decode by rules of their own. Their outputs carry no derivative.

use super::operator::{Operator, floats, integers, unknown};

/// The declarations of this file's operators.
pub(super) const OPERATORS: &[Operator] = &[
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
