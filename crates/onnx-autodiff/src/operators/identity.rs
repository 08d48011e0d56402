//! `Identity`, and `Dropout` outside training.

use super::operator::{Operator, TangentResult};
use crate::content::Content;
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::{Graph, Inferred, Node};
use crate::jvp_context::{JvpContext, Tangent};
use crate::transpose_context::{Cotangents, TransposeContext};

/// The declarations of `Dropout` and `Identity`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Dropout")
        .shapes(dropout_shapes)
        .tangents(dropout_tangent)
        .smooth()
        .same_order()
        .random_with(3),
    Operator::new("Identity")
        .same_shape()
        .content(identity_content)
        .tangent(identity_tangent)
        .transpose(identity_cotangent)
        .smooth()
        .same_order(),
];

/// Returns the types and shapes of the output and of the mask of the elements that were kept.
fn dropout_shapes(g: &mut Graph, node: &Node, _: usize) -> Option<Vec<Inferred>> {
    let x = node.input(0)?;
    let shape = g.shape(x).cloned();
    Some(vec![(g.elem(x), shape.clone()), (ElemType::BOOL, shape)])
}

fn identity_content(_: &mut Graph, _: &Node, inputs: &[Content]) -> Option<Content> {
    inputs.first().cloned()
}

fn identity_tangent(s: &mut JvpContext) -> TangentResult {
    Ok(s.lazy(0))
}

fn dropout_tangent(s: &mut JvpContext) -> Result<Vec<Option<Tangent>>, Refusal> {
    let training = s
        .node
        .input(2)
        .map(|v| s.g.content(v).and_then(|c| c.items.first()?.as_fixed()));
    match training {
        None | Some(Some(0)) => Ok(vec![s.lazy(0), None]),
        _ => Err("dropout in training mode is random; export the model in evaluation mode".into()),
    }
}

fn identity_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    Ok(vec![(0, t.c()?)])
}
