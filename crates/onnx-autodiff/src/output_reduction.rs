//! Sums over the state's axis that are taken before the last linear layer instead of behind it.
//!
//! A trace wants one number of each direction's tangent, and a quadratic form one sum. Where the output is a linear layer
//! (or sums and multiples of such), the layer's weights are reduced with what the sum is taken with, and the tangents
//! of the output are never computed.

use crate::graph::{Graph, Val};

/// A linear map of tangents `[k, N, D]`, or of the same for all rows `[k, 1, D]`, to `[k, N]`.
pub trait OutputReduction {
    /// That of the tangents `a · weights` of a linear layer.
    fn of_product(&self, g: &mut Graph, a: Val, weights: Val) -> Val;

    /// That of tangents made otherwise.
    fn of_tangents(&self, g: &mut Graph, d: Val) -> Val;

    /// The factor of the result that belongs to a factor of the tangents with at most two axes; none where the map does not
    /// leave it a factor.
    fn of_factor(&self, g: &mut Graph, factor: Val) -> Option<Val>;
}

/// The reduction of the tangents `d`, by what they are made of; none where that is no sum or multiple, nor a linear
/// layer.
pub fn reduced_tangents(g: &mut Graph, d: Val, by: &impl OutputReduction) -> Option<Val> {
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
            // A product has its factor on either side, a quotient below.
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
