//! Sequences and optional values.

use super::operator::{Operator, unknown};

/// The declarations of this file's operators.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("ConcatFromSequence")
        .element(unknown)
        .refused(REASON),
    Operator::new("Optional").refused(REASON),
    Operator::new("OptionalGetElement")
        .element(unknown)
        .refused(REASON),
    Operator::new("OptionalHasElement").constant(),
    Operator::new("SequenceAt").element(unknown).refused(REASON),
    Operator::new("SequenceConstruct").refused(REASON),
    Operator::new("SequenceEmpty").constant(),
    Operator::new("SequenceErase").refused(REASON),
    Operator::new("SequenceInsert").refused(REASON),
    Operator::new("SequenceLength").constant(),
    Operator::new("SequenceMap").refused(REASON),
    Operator::new("SplitToSequence").refused(REASON),
];

/// The reason for operators of sequences and optional values.
const REASON: &str =
    "sequences and optional values are not differentiated; export the model with tensors";
