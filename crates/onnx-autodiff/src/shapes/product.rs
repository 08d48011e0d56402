//! Shapes of products of matrices and tensors.

use super::{broadcast, broadcast_size};
use crate::ir::{Graph, Node, Shape};
use crate::size::Size;

pub fn matmul(g: &mut Graph, mut a: Shape, mut b: Shape) -> Option<Shape> {
    let (row, column) = (a.len() == 1, b.len() == 1);
    if row {
        a.insert(0, Size::fixed(1));
    }
    if column {
        b.push(Size::fixed(1));
    }
    if a.len() < 2 || b.len() < 2 {
        return None;
    }
    let mut shape = broadcast(g, &a[..a.len() - 2], &b[..b.len() - 2]);
    if !row {
        shape.push(a[a.len() - 2].clone());
    }
    if !column {
        shape.push(b[b.len() - 1].clone());
    }
    Some(shape)
}

pub fn gemm(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (a, b) = (g.shape(node.input(0)?)?, g.shape(node.input(1)?)?);
    let rows = a.get(usize::from(node.int("transA", 0) != 0))?;
    let columns = b.get(usize::from(node.int("transB", 0) == 0))?;
    Some(vec![rows.clone(), columns.clone()])
}

/// The terms of an einsum and its result, with letters in the place of ellipses and an implicit result written out.
pub fn einsum_terms(equation: &str, ranks: &[usize]) -> Option<(Vec<String>, String)> {
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left.to_string(), right.to_string()),
        None => (equation.clone(), implicit_result(&equation)),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != ranks.len() {
        return None;
    }
    let spare: Vec<char> = ('a'..='z').chain('A'..='Z').filter(|c| !equation.contains(*c)).collect();
    let covered = |term: &str, rank: usize| rank.checked_sub(term.replace("...", "").chars().count());
    let mut widest = 0;
    for (term, rank) in terms.iter().zip(ranks) {
        let width = covered(term, *rank)?;
        if !term.contains("...") && width != 0 {
            return None;
        }
        widest = widest.max(width);
    }
    let letters = |width: usize| spare.get(widest - width..widest).map(|l| l.iter().collect::<String>());
    let named = terms.iter().zip(ranks).map(|(term, rank)| Some(term.replace("...", &letters(covered(term, *rank)?)?)));
    Some((named.collect::<Option<_>>()?, right.replace("...", &letters(widest)?)))
}

/// The result of an equation without an arrow: letters that occur once, in alphabetical order.
fn implicit_result(terms: &str) -> String {
    let mut letters: Vec<char> =
        terms.chars().filter(|c| c.is_alphabetic() && terms.matches(*c).count() == 1).collect();
    letters.sort_unstable();
    let dots = if terms.contains("...") { "..." } else { "" };
    dots.chars().chain(letters).collect()
}

pub fn einsum(g: &mut Graph, node: &Node) -> Option<Shape> {
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
    let size = |letter: char| sizes.iter().find(|(l, _)| *l == letter).map(|(_, size)| size.clone());
    result.chars().map(size).collect()
}
