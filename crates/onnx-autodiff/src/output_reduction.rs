//! Moves sums over the state in front of the last linear layer.
//!
//! A trace takes one number of each direction's tangent, and a quadratic form takes one sum. If the
//! output is a linear layer, or a sum or a multiple of linear layers, then the weights of the layer
//! are reduced first, and the tangents of the output are never computed.

use crate::graph::{Graph, Val};

/// A linear map from tangents `[k, N, D]` to numbers `[k, N]`. The tangents may also be the same
/// for every sample, `[k, 1, D]`.
pub(crate) trait OutputReduction {
    /// Applies the map to the tangents `a · weights` of a linear layer, without the tangents
    /// themselves.
    fn of_product(&self, g: &mut Graph, a: Val, weights: Val) -> Val;

    /// Applies the map to tangents.
    fn of_tangents(&self, g: &mut Graph, d: Val) -> Val;

    /// Returns the factor of the result for a factor of the tangents with at most two axes. Returns
    /// `None` if the map does not commute with the factor.
    fn of_factor(&self, g: &mut Graph, factor: Val) -> Option<Val>;
}

/// Applies the map to the tangents `d` through the operators that they are made with. Returns
/// `None` if these are neither sums nor multiples nor a linear layer.
pub(crate) fn reduced_tangents(g: &mut Graph, d: Val, by: &impl OutputReduction) -> Option<Val> {
    let whole = |g: &Graph, v: Val| g.rank(v) == Some(3);
    if !whole(g, d) {
        return None;
    }
    let node = g.maker(d)?.clone();
    let (a, b) = (node.input(0)?, node.input(1));
    let part =
        |g: &mut Graph, v: Val| reduced_tangents(g, v, by).unwrap_or_else(|| by.of_tangents(g, v));
    match (node.standard(), b) {
        ("MatMul", Some(weights)) if whole(g, a) && g.rank(weights) == Some(2) => {
            Some(by.of_product(g, a, weights))
        }
        (op @ ("Add" | "Sub"), Some(b)) if whole(g, a) && whole(g, b) => {
            let (a, b) = (part(g, a), part(g, b));
            Some(g.op(op, &[a, b]))
        }
        (op @ ("Mul" | "Div"), Some(b)) => {
            // The factor of a product may be on either side. The factor of a quotient is its
            // denominator.
            let (tangents, factor) = if op == "Mul" && whole(g, b) {
                (b, a)
            } else {
                (a, b)
            };
            let fits = whole(g, tangents) && g.rank(factor).is_some_and(|rank| rank <= 2);
            let factor = if fits { by.of_factor(g, factor) } else { None }?;
            let result = part(g, tangents);
            Some(g.op(op, &[result, factor]))
        }
        ("Neg", _) => {
            let result = part(g, a);
            Some(g.neg(result))
        }
        _ => None,
    }
}
