//! Products of matrices and tensors.

use super::Rule;
use crate::graph::emit::text;
use crate::graph::error::Refusal;
use crate::graph::ir::Val;
use crate::graph::shapes::einsum_terms;
use crate::graph::size::Size;
use crate::graph::step::{Step, Tangent};

pub const RULES: &[(&str, Rule)] =
    &[("Einsum", Rule::Single(einsum)), ("Gemm", Rule::Single(gemm)), ("MatMul", Rule::Single(matmul))];

type Output = Result<Option<Tangent>, Refusal>;

/// `dA B + A dB`; a vector operand is a matrix of one row or column for the while.
fn matmul(s: &mut Step) -> Output {
    let (a, b) = (s.x(0)?, s.x(1)?);
    let (shape_a, shape_b) = (s.x_shape(0)?, s.x_shape(1)?);
    let batch = shape_a.len().saturating_sub(2).max(shape_b.len().saturating_sub(2));
    let left = s.d(0).map(|d| {
        let d = matrix(s, d, &shape_a, batch, true);
        let b = if shape_b.len() == 1 { s.g.unsqueeze(b, &[1]) } else { b };
        s.g.op("MatMul", &[d, b])
    });
    let right = s.d(1).map(|d| {
        let d = matrix(s, d, &shape_b, batch, false);
        let a = if shape_a.len() == 1 { s.g.unsqueeze(a, &[0]) } else { a };
        s.g.op("MatMul", &[a, d])
    });
    let mut total = None;
    for part in [left, right].into_iter().flatten() {
        // One row, or one column, too many where an operand is a vector.
        let shape = s.lead(&s.y_shape()?);
        let part = if shape_a.len() == 1 || shape_b.len() == 1 { s.g.reshape(part, &shape) } else { part };
        total = s.sum(total, Some(Tangent::plain(part)));
    }
    match total {
        Some(total) => s.done(total.base),
        None => Ok(None),
    }
}

/// A tangent with `batch` axes between the directions and the matrix.
fn matrix(s: &mut Step, d: Val, shape: &[Size], batch: usize, left: bool) -> Val {
    if shape.len() != 1 {
        return s.align(d, shape.len(), batch + 2);
    }
    let mut target = vec![s.k.clone()];
    target.extend(vec![Size::fixed(1); batch]);
    let vector = shape[0].clone();
    target.extend(if left { [Size::fixed(1), vector] } else { [vector, Size::fixed(1)] });
    s.g.reshape(d, &target)
}

/// `alpha A B + beta C`, where A and B may be transposed.
fn gemm(s: &mut Step) -> Output {
    let (alpha, beta) = (s.node.float("alpha", 1.0), s.node.float("beta", 1.0));
    let turned = [s.node.int("transA", 0) != 0, s.node.int("transB", 0) != 0];
    let mut total = None;
    for place in [0, 1] {
        let Some(mut d) = s.d(place) else { continue };
        let mut other = s.x(1 - place)?;
        if turned[place] {
            d = s.g.swap(d, 3);
        }
        if turned[1 - place] {
            other = s.g.swap(other, 2);
        }
        let product = if place == 0 { s.g.op("MatMul", &[d, other]) } else { s.g.op("MatMul", &[other, d]) };
        let part = Tangent::plain(s.g.scale(product, alpha));
        total = s.sum(total, Some(part));
    }
    if let Some(c) = s.aligned(2)? {
        let part = Tangent::plain(s.g.scale(c, beta));
        total = s.sum(total, Some(part));
    }
    match total {
        Some(total) => s.done(total.base),
        None => Ok(None),
    }
}

/// The directions are one more letter, of the active operand and of the result.
fn einsum(s: &mut Step) -> Output {
    let mut ranks = Vec::new();
    for place in 0..s.node.inputs.len() {
        ranks.push(s.rank(place)?);
    }
    let equation = s.node.text("equation", "");
    let (terms, result) = einsum_terms(&equation, &ranks).ok_or("its equation does not fit its inputs")?;
    let free = |c: &char| !result.contains(*c) && !terms.iter().any(|t| t.contains(*c));
    let letter = ('a'..='z').chain('A'..='Z').find(free).ok_or("its equation uses every letter")?;
    let mut total = None;
    for place in 0..terms.len() {
        let Some(d) = s.d(place) else { continue };
        let mut inputs = Vec::new();
        let mut named = Vec::new();
        for (other, term) in terms.iter().enumerate() {
            inputs.push(if other == place { d } else { s.x(other)? });
            named.push(if other == place { format!("{letter}{term}") } else { term.clone() });
        }
        let equation = format!("{}->{letter}{result}", named.join(","));
        let part = s.g.op_with("Einsum", &inputs, vec![text("equation", &equation)]);
        total = s.sum(total, Some(Tangent::plain(part)));
    }
    Ok(total)
}
