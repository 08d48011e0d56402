//! Operators that count or choose by rules of their own.

use super::operator::{Operator, floats, integers, unknown};

pub const OPERATORS: &[Operator] = &[
    Operator::new("ImageDecoder").element(unknown),
    Operator::new("NonMaxSuppression").element(integers),
    Operator::new("TfIdfVectorizer").element(floats),
    Operator::new("Unique").refused(UNCOUNTED),
];

const UNCOUNTED: &str = "how many elements differ is no function with a derivative; export the model without it";


