//! Random numbers.

use super::operator::Operator;
use crate::elem::ElemType;
use crate::graph::{Graph, Node, Shape};
use crate::size::Size;

/// The declarations of `Bernoulli`, `Multinomial`, `RandomNormal`, `RandomNormalLike`,
/// `RandomUniform` and `RandomUniformLike`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Bernoulli")
        .names_type()
        .element(like_element)
        .same_shape()
        .refused(REASON)
        .random(),
    Operator::new("Multinomial")
        .element(multinomial_element)
        .refused(REASON)
        .random(),
    Operator::new("RandomNormal")
        .names_type()
        .element(random_element)
        .shape(random_shape)
        .refused(REASON)
        .random(),
    Operator::new("RandomNormalLike")
        .names_type()
        .element(like_element)
        .same_shape()
        .refused(REASON)
        .random(),
    Operator::new("RandomUniform")
        .names_type()
        .element(random_element)
        .shape(random_shape)
        .refused(REASON)
        .random(),
    Operator::new("RandomUniformLike")
        .names_type()
        .element(like_element)
        .same_shape()
        .refused(REASON)
        .random(),
];

fn multinomial_element(_: &Graph, node: &Node) -> ElemType {
    ElemType(node.int("dtype", 6) as i32)
}

fn random_element(_: &Graph, node: &Node) -> ElemType {
    ElemType(node.int("dtype", 1) as i32)
}

/// Returns the type that the node names, or that of its input.
pub(super) fn like_element(g: &Graph, node: &Node) -> ElemType {
    match node.int("dtype", 0) {
        0 => node.input(0).map_or(ElemType::UNKNOWN, |v| g.elem(v)),
        n => ElemType(n as i32),
    }
}

fn random_shape(_: &mut Graph, node: &Node) -> Option<Shape> {
    Some(
        node.ints("shape")?
            .iter()
            .map(|n| Size::fixed(*n))
            .collect(),
    )
}

/// The reason for operators that draw random numbers.
const REASON: &str = "a random operator makes the output no function of the input; export the model in evaluation mode";
