//! `Einsum`: sums of products by an equation.

use std::collections::BTreeMap;

use super::matmul::{Factors, bilinear, softmax_operand, tangent_and_scaled_other};
use super::operator::{Operator, TangentResult};
use crate::error::Refusal;
use crate::graph::emit::text;
use crate::graph::{Graph, Node, Shape, SoftmaxTangent, Val};
use crate::inference::broadcast_size;
use crate::jvp_context::{JvpContext, Tangent};
use crate::passes::Pass;
use crate::size::Size;
use crate::transpose_context::{CONTRADICTION, Cotangents, TransposeContext};

/// The declaration of `Einsum`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("Einsum")
    .shape(einsum_shape)
    .tangent(einsum_tangent)
    .transpose(einsum_cotangent)
    .smooth()];

/// Returns the terms and the result of an equation, with letters for ellipses and with the implicit
/// result written out.
fn einsum_terms(equation: &str, ranks: &[usize]) -> Option<(Vec<String>, String)> {
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left.to_string(), right.to_string()),
        None => (equation.clone(), implicit_result(&equation)),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != ranks.len() {
        return None;
    }
    let spare: Vec<char> = ('a'..='z')
        .chain('A'..='Z')
        .filter(|c| !equation.contains(*c))
        .collect();
    let covered =
        |term: &str, rank: usize| rank.checked_sub(term.replace("...", "").chars().count());
    let mut widest = 0;
    for (term, rank) in terms.iter().zip(ranks) {
        let width = covered(term, *rank)?;
        if !term.contains("...") && width != 0 {
            return None;
        }
        widest = widest.max(width);
    }
    let letters = |width: usize| {
        spare
            .get(widest - width..widest)
            .map(|l| l.iter().collect::<String>())
    };
    let named = terms
        .iter()
        .zip(ranks)
        .map(|(term, rank)| Some(term.replace("...", &letters(covered(term, *rank)?)?)));
    Some((
        named.collect::<Option<_>>()?,
        right.replace("...", &letters(widest)?),
    ))
}

/// Returns the result of an equation without an arrow: the letters that occur once, in alphabetical
/// order.
fn implicit_result(terms: &str) -> String {
    let mut letters: Vec<char> = terms
        .chars()
        .filter(|c| c.is_alphabetic() && terms.matches(*c).count() == 1)
        .collect();
    letters.sort_unstable();
    let dots = if terms.contains("...") { "..." } else { "" };
    dots.chars().chain(letters).collect()
}

fn einsum_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let ranks: Option<Vec<usize>> = node.inputs.iter().map(|v| g.rank((*v)?)).collect();
    let (terms, result) = einsum_terms(&node.text("equation", ""), &ranks?)?;
    let mut sizes: Vec<(char, Size)> = Vec::new();
    for (term, v) in terms.iter().zip(&node.inputs) {
        let shape = g.shape((*v)?)?.clone();
        for (letter, size) in term.chars().zip(shape) {
            match sizes.iter().position(|(l, _)| *l == letter) {
                Some(i) => sizes[i].1 = broadcast_size(g, &sizes[i].1.clone(), &size),
                None => sizes.push((letter, size)),
            }
        }
    }
    let size = |letter: char| {
        sizes
            .iter()
            .find(|(l, _)| *l == letter)
            .map(|(_, size)| size.clone())
    };
    result.chars().map(size).collect()
}

/// Returns the tangent: the same equation with one more letter, for the directions, in the active
/// operand and in the result.
fn einsum_tangent(s: &mut JvpContext) -> TangentResult {
    let mut ranks = Vec::new();
    for index in 0..s.node.inputs.len() {
        ranks.push(s.rank(index)?);
    }
    let equation = s.node.text("equation", "");
    let (terms, result) =
        einsum_terms(&equation, &ranks).ok_or("its equation does not fit its inputs")?;
    if s.g.passes.has(Pass::EinsumProducts)
        && let Some(contraction) = Contraction::new(s, &terms, &result)
        && let Some(product) = contraction.tangent(s, &result)?
    {
        return Ok(Some(Tangent::plain(product)));
    }
    let free = |c: &char| !result.contains(*c) && !terms.iter().any(|t| t.contains(*c));
    let letter = ('a'..='z')
        .chain('A'..='Z')
        .find(free)
        .ok_or("its equation uses every letter")?;
    let mut total = None;
    for index in 0..terms.len() {
        let Some(d) = s.d(index) else { continue };
        let mut inputs = Vec::new();
        let mut named = Vec::new();
        for (other, term) in terms.iter().enumerate() {
            inputs.push(if other == index { d } else { s.x(other)? });
            named.push(if other == index {
                format!("{letter}{term}")
            } else {
                term.clone()
            });
        }
        let equation = format!("{}->{letter}{result}", named.join(","));
        let part =
            s.g.op_with("Einsum", &inputs, vec![text("equation", &equation)]);
        total = s.sum(total, Some(Tangent::plain(part)));
    }
    Ok(total)
}

/// An equation of two operands as a product of matrices, at which runtimes are much faster. The
/// letters are those of the batch, which both operands and the result have, those of the rows,
/// those of the columns, and those that are summed over.
struct Contraction {
    /// The index of the operand with the rows, and that of the operand with the columns.
    indices: [usize; 2],
    terms: [Vec<char>; 2],
    batch: Vec<char>,
    rows: Vec<char>,
    columns: Vec<char>,
    summed: Vec<char>,
    sizes: BTreeMap<char, Size>,
}

impl Contraction {
    /// Returns `None` if a letter occurs twice in a term, is summed over in one operand alone, or
    /// is broadcast.
    fn new(s: &JvpContext, terms: &[String], result: &str) -> Option<Contraction> {
        let [a, b] = terms else { return None };
        let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
        let mut sizes = BTreeMap::new();
        for (index, term) in [&a, &b].into_iter().enumerate() {
            let shape = s.x_shape(index).ok()?;
            for (i, (letter, size)) in term.iter().zip(shape).enumerate() {
                if term[..i].contains(letter)
                    || sizes
                        .insert(*letter, size.clone())
                        .is_some_and(|known| known != size)
                {
                    return None;
                }
            }
        }
        let out: Vec<char> = result.chars().collect();
        if out
            .iter()
            .enumerate()
            .any(|(i, l)| !sizes.contains_key(l) || out[..i].contains(l))
        {
            return None;
        }
        let lonely = |l: &char| !out.contains(l) && (a.contains(l) != b.contains(l));
        if a.iter().chain(&b).any(lonely) {
            return None;
        }
        let first = |term: &[char], other: &[char]| {
            out.iter()
                .position(|l| term.contains(l) && !other.contains(l))
        };
        // The result must have its rows in front of its columns.
        let turned = first(&b, &a) < first(&a, &b) && first(&b, &a).is_some();
        let (indices, terms) = if turned {
            ([1, 0], [b, a])
        } else {
            ([0, 1], [a, b])
        };
        let of = |keep: &dyn Fn(bool, bool) -> bool| -> Vec<char> {
            out.iter()
                .filter(|l| keep(terms[0].contains(l), terms[1].contains(l)))
                .copied()
                .collect()
        };
        let (batch, rows, columns) = (of(&|a, b| a && b), of(&|a, b| a && !b), of(&|a, b| !a && b));
        let summed = terms[0]
            .iter()
            .filter(|l| !out.contains(l))
            .copied()
            .collect();
        Some(Contraction {
            indices,
            terms,
            batch,
            rows,
            columns,
            summed,
            sizes,
        })
    }

    fn tangent(&self, s: &mut JvpContext, result: &str) -> Result<Option<Val>, Refusal> {
        let [left, right] = self.indices;
        let soft = [0, 1].map(|i| self.softmax(s, i));
        let (a, b) = (s.x(left)?, s.x(right)?);
        let tangent = |s: &mut JvpContext, i: usize, other: Val| match soft[i] {
            Some(SoftmaxTangent { weighted, .. }) => (Some(weighted), other),
            None => tangent_and_scaled_other(s, self.indices[i], other),
        };
        let (da, b) = tangent(s, 0, b);
        let (db, a) = tangent(s, 1, a);
        let da = da.map(|d| self.matrix(s, d, 0, true));
        let db = db.map(|d| self.matrix(s, d, 1, true));
        let (a, b) = (self.matrix(s, a, 0, false), self.matrix(s, b, 1, false));
        let Some(product) = bilinear(s, Factors { a, b, da, db }) else {
            return Ok(None);
        };
        let groups = [&self.batch[..], &self.rows, &self.columns].concat();
        let split = s.tangent_shape(
            &groups
                .iter()
                .map(|l| self.sizes[l].clone())
                .collect::<Vec<_>>(),
        );
        let product = s.g.reshape(product, &split);
        let mut total = self.arrange(
            s,
            product,
            &groups,
            &result.chars().collect::<Vec<_>>(),
            true,
        );
        for (i, soft) in soft.into_iter().enumerate() {
            if let Some(SoftmaxTangent { sums, .. }) = soft {
                let y = s.y()?;
                let sums = self.spread(s, sums, &self.terms[i], result);
                let shared = s.g.mul(sums, y);
                total = s.g.sub(total, shared);
            }
        }
        Ok(Some(total))
    }

    /// Returns the parts of the tangent of an operand that is a softmax over the summed letter.
    fn softmax(&self, s: &mut JvpContext, i: usize) -> Option<SoftmaxTangent> {
        let [letter] = self.summed[..] else {
            return None;
        };
        let axis = self.terms[i].iter().position(|l| *l == letter)?;
        softmax_operand(s, self.indices[i], axis)
    }

    /// Reshapes an operand to `[batch, rows, summed]` or `[batch, summed, columns]`, by merging the
    /// axes of each kind.
    fn matrix(&self, s: &mut JvpContext, v: Val, i: usize, leads: bool) -> Val {
        let own = if i == 0 { &self.rows } else { &self.columns };
        let plain = [&self.batch[..], own, &self.summed].concat();
        let turned = [&self.batch[..], &self.summed, own].concat();
        // A transposed matrix is free inside a product. Other transpositions are not.
        let swapped = if i == 0 {
            turned == self.terms[i]
        } else {
            turned != self.terms[i]
        };
        let order = if (i == 0) != swapped { plain } else { turned };
        let v = self.arrange(s, v, &self.terms[i], &order, leads);
        let merged = |s: &mut JvpContext, letters: &[char]| {
            letters.iter().fold(Size::fixed(1), |all, l| {
                s.g.symbols.mul(&all, &self.sizes[l])
            })
        };
        let mut shape: Vec<Size> = self.batch.iter().map(|l| self.sizes[l].clone()).collect();
        let (own, summed) = (merged(s, own), merged(s, &self.summed));
        shape.extend(if (i == 0) != swapped {
            [own, summed]
        } else {
            [summed, own]
        });
        let shape = if leads {
            s.tangent_shape(&shape)
        } else {
            shape
        };
        let v = s.g.reshape(v, &shape);
        if swapped { s.g.swap(v, shape.len()) } else { v }
    }

    /// Permutes axes from one order of letters to another. The directions stay in front.
    fn arrange(&self, s: &mut JvpContext, v: Val, from: &[char], to: &[char], leads: bool) -> Val {
        let skip = usize::from(leads);
        let indices = to
            .iter()
            .filter_map(|l| from.iter().position(|f| f == l))
            .map(|p| p + skip);
        let perm: Vec<usize> = (0..skip).chain(indices).collect();
        s.g.transpose(v, &perm)
    }

    /// Gives sums over the summed letter the axes of the result.
    fn spread(&self, s: &mut JvpContext, sums: Val, term: &[char], result: &str) -> Val {
        let kept: Vec<char> = result.chars().filter(|l| term.contains(l)).collect();
        let shape = s.tangent_shape(
            &kept
                .iter()
                .map(|l| self.sizes[l].clone())
                .collect::<Vec<_>>(),
        );
        let order: Vec<char> = kept
            .iter()
            .copied()
            .chain(self.summed.iter().copied())
            .collect();
        let sums = self.arrange(s, sums, term, &order, true);
        let sums = s.g.reshape(sums, &shape);
        let missing: Vec<i64> = result
            .chars()
            .zip(1..)
            .filter(|(l, _)| !kept.contains(l))
            .map(|(_, axis)| axis)
            .collect();
        s.g.unsqueeze(sums, &missing)
    }
}

/// Returns the cotangent: the equation with the operand's term and the result exchanged. A letter
/// that occurs nowhere else is broadcast by a product with ones.
fn einsum_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let equation = t.node.text("equation", "");
    let (left, result) = equation
        .split_once("->")
        .ok_or("its equation has no arrow")?;
    let terms: Vec<String> = left.split(',').map(str::to_string).collect();
    let index = (0..terms.len())
        .find(|index| t.is_linear(*index))
        .ok_or("neither operand depends on the differentiated input")?;
    let (mut names, mut inputs) = (vec![result.to_string()], vec![t.c()?]);
    for other in (0..terms.len()).filter(|other| *other != index) {
        names.push(terms[other].clone());
        inputs.push(t.input(other)?);
    }
    let shape = t.input_shape(index)?;
    if shape.len() != terms[index].chars().count() {
        return Err(CONTRADICTION.into());
    }
    let (term, diagonals) = without_repeats(equation.as_str(), &terms[index])
        .ok_or("its equation uses every letter")?;
    for (pair, axis) in diagonals {
        let square = [shape[axis].clone(), shape[axis].clone()];
        let zeros = t.g.zeros(&square, t.g.elem(inputs[0]));
        inputs.push(t.g.op("EyeLike", &[zeros]));
        names.push(pair);
    }
    for (letter, size) in term.chars().zip(&shape) {
        if !names.iter().any(|name| name.contains(letter)) {
            let one = t.g.real_like(1.0, inputs[0]);
            inputs.push(t.g.expand(one, std::slice::from_ref(size)));
            names.push(letter.to_string());
        }
    }
    let equation = format!("{}->{term}", names.join(","));
    let result =
        t.g.op_with("Einsum", &inputs, vec![text("equation", &equation)]);
    Ok(vec![(index, t.unbroadcast(result, index)?)])
}

/// Returns a term in which no letter occurs twice. For each repetition it also returns the two
/// letters that a unit matrix joins, and the axis.
fn without_repeats(equation: &str, term: &str) -> Option<(String, Vec<(String, usize)>)> {
    let mut spare = ('a'..='z')
        .chain('A'..='Z')
        .filter(|c| !equation.contains(*c));
    let (mut plain, mut diagonals) = (String::new(), Vec::new());
    for (axis, letter) in term.chars().enumerate() {
        if plain.contains(letter) {
            let other = spare.next()?;
            diagonals.push((format!("{letter}{other}"), axis));
            plain.push(other);
        } else {
            plain.push(letter);
        }
    }
    Some((plain, diagonals))
}
