//! Losses of classifiers.

use super::operator::{DecompositionResult, Operator};
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::emit::int;
use crate::graph::{Graph, Inferred, Node, Shape, Val};
use crate::jvp_context::JvpContext;

/// The declarations of `NegativeLogLikelihoodLoss` and `SoftmaxCrossEntropyLoss`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("NegativeLogLikelihoodLoss")
        .shape(loss_shape)
        .decomposition(negative_log_likelihood_decomposition)
        .smooth_in(&[0, 2]),
    Operator::new("SoftmaxCrossEntropyLoss")
        .shapes(cross_entropy_shapes)
        .decomposition(cross_entropy_decomposition)
        .smooth_in(&[0, 2]),
];

/// Returns the types and shapes of the loss and of the logarithms of the probabilities.
fn cross_entropy_shapes(g: &mut Graph, node: &Node, _: usize) -> Option<Vec<Inferred>> {
    let x = node.input(0)?;
    let (elem, shape) = (g.elem(x), g.shape(x).cloned());
    Some(vec![(elem, loss_shape(g, node)), (elem, shape)])
}

/// Returns the shape of the loss: one number, or one for each target.
fn loss_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    match node.text("reduction", "mean").as_str() {
        "none" => g.shape(node.input(1)?).cloned(),
        _ => Some(Vec::new()),
    }
}

fn negative_log_likelihood_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let x = s.x(0)?;
    Ok(vec![Some(loss(s, x)?)])
}

/// Appends the loss and the logarithms of the probabilities.
fn cross_entropy_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let x = s.x(0)?;
    let logarithms = s.g.op_with("LogSoftmax", &[x], vec![int("axis", 1)]);
    let loss = loss(s, logarithms)?;
    Ok(vec![Some(loss), Some(logarithms)])
}

/// Appends the negated score of each target, times its weight. Targets that are to be ignored count
/// as zero.
fn loss(s: &mut JvpContext, scores: Val) -> Result<Val, Refusal> {
    let target = s.node.input(1).ok_or("its targets are missing")?;
    if s.rank(0)? < 2 || s.shape(target)?.len() + 1 != s.rank(0)? {
        return Err("its targets do not fit its scores".into());
    }
    let target = s.g.cast(target, ElemType::INT64);
    let elem = s.g.elem(scores);
    let ignored = s
        .node
        .attribute("ignore_index")
        .and_then(|a| a.i)
        .map(|ignored| s.g.integer(ignored));
    let (mut place, mut kept) = (target, None);
    if let Some(ignored) = ignored {
        let (hit, zero) = (s.g.op("Equal", &[target, ignored]), s.g.integer(0));
        place = s.g.op("Where", &[hit, zero, target]);
        let counts = s.g.op("Not", &[hit]);
        kept = Some(s.g.cast(counts, elem));
    }
    let weights = match s.node.input(2) {
        Some(_) => {
            let weights = s.x(2)?;
            let picked =
                s.g.op_with("Gather", &[weights, place], vec![int("axis", 0)]);
            Some(kept.map_or(picked, |kept| s.g.mul(picked, kept)))
        }
        None => kept,
    };
    let column = s.g.unsqueeze(place, &[1]);
    let picked =
        s.g.op_with("GatherElements", &[scores, column], vec![int("axis", 1)]);
    let picked = s.g.squeeze(picked, &[1]);
    let each = s.g.neg(picked);
    let each = weights.map_or(each, |weights| s.g.mul(each, weights));
    let axes: Vec<i64> = (0..s.rank(0)? as i64 - 1).collect();
    match s.node.text("reduction", "mean").as_str() {
        "none" => Ok(each),
        "sum" => Ok(s.g.reduce("ReduceSum", each, &axes, false)),
        "mean" => match weights {
            Some(weights) => {
                let (sum, all) = (
                    s.g.reduce("ReduceSum", each, &axes, false),
                    s.g.reduce("ReduceSum", weights, &axes, false),
                );
                Ok(s.g.div(sum, all))
            }
            None => Ok(s.g.reduce("ReduceMean", each, &axes, false)),
        },
        other => Err(format!("its reduction `{other}` is not known").into()),
    }
}
