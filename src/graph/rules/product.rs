//! Products of matrices and tensors.

use super::Rule;
use crate::graph::emit::text;
use crate::graph::error::Refusal;
use crate::graph::ir::Val;
use crate::graph::size::Size;
use crate::graph::step::{Step, Tangent};

pub const RULES: &[(&str, Rule)] = &[
    ("Einsum", Rule::Single(einsum)),
    ("Gemm", Rule::Single(gemm)),
    ("MatMul", Rule::Single(matmul)),
];

type Output = Result<Option<Tangent>, Refusal>;

/// `dA B + A dB`; a vector operand is a matrix of one row or column for the while.
fn matmul(s: &mut Step) -> Output {
    let (a, b) = (s.x(0)?, s.x(1)?);
    let (shape_a, shape_b) = (s.x_shape(0)?, s.x_shape(1)?);
    let batch = shape_a
        .len()
        .saturating_sub(2)
        .max(shape_b.len().saturating_sub(2));
    let left = s.d(0).map(|d| {
        let d = matrix(s, d, &shape_a, batch, true);
        let b = if shape_b.len() == 1 {
            s.g.unsqueeze(b, &[1])
        } else {
            b
        };
        s.g.op("MatMul", &[d, b])
    });
    let right = s.d(1).map(|d| {
        let d = matrix(s, d, &shape_b, batch, false);
        s.g.op("MatMul", &[a, d])
    });
    let mut total = None;
    for part in [left, right].into_iter().flatten() {
        // One row, or one column, too many where an operand is a vector.
        let shape = s.lead(&s.y_shape()?);
        let part = if shape_a.len() == 1 || shape_b.len() == 1 {
            s.g.reshape(part, &shape)
        } else {
            part
        };
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
    target.extend(if left {
        [Size::fixed(1), vector]
    } else {
        [vector, Size::fixed(1)]
    });
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
        let product = if place == 0 {
            s.g.op("MatMul", &[d, other])
        } else {
            s.g.op("MatMul", &[other, d])
        };
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
    let equation: String = s
        .node
        .text("equation", "")
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect();
    let (terms, result) = match equation.split_once("->") {
        Some((left, right)) => (left.to_string(), right.to_string()),
        None => (equation.clone(), implicit(&equation)),
    };
    let terms: Vec<&str> = terms.split(',').collect();
    if terms.len() != s.node.inputs.len() {
        return Err("its equation does not fit its inputs".into());
    }
    let letter = ('a'..='z')
        .chain('A'..='Z')
        .find(|c| !equation.contains(*c))
        .ok_or("its equation uses every letter")?;
    let mut total = None;
    for place in 0..terms.len() {
        let Some(d) = s.d(place) else { continue };
        let mut inputs = Vec::new();
        for other in 0..terms.len() {
            inputs.push(if other == place { d } else { s.x(other)? });
        }
        let named: Vec<String> = terms
            .iter()
            .enumerate()
            .map(|(i, t)| {
                if i == place {
                    format!("{letter}{t}")
                } else {
                    t.to_string()
                }
            })
            .collect();
        let equation = format!("{}->{letter}{result}", named.join(","));
        let part =
            s.g.op_with("Einsum", &inputs, vec![text("equation", &equation)]);
        total = s.sum(total, Some(Tangent::plain(part)));
    }
    Ok(total)
}

/// The result of an equation without an arrow: letters that occur once, in alphabetical order.
fn implicit(terms: &str) -> String {
    let once = |c: char| c.is_alphabetic() && terms.matches(c).count() == 1;
    let mut letters: Vec<char> = terms.chars().filter(|c| once(*c)).collect();
    letters.sort_unstable();
    let dots = if terms.contains("...") { "..." } else { "" };
    dots.chars().chain(letters).collect()
}
