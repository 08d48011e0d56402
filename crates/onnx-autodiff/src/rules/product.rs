//! Products of matrices and tensors.

use std::collections::BTreeMap;

use super::Rule;
use crate::emit::text;
use crate::error::Refusal;
use crate::ir::{Centred, Val};
use crate::shapes::einsum_terms;
use crate::size::Size;
use crate::step::{Step, Tangent};

pub const RULES: &[(&str, Rule)] =
    &[("Einsum", Rule::Single(einsum)), ("Gemm", Rule::Single(gemm)), ("MatMul", Rule::Single(matmul))];

type Output = Result<Option<Tangent>, Refusal>;

/// `dA B + A dB`; a vector operand is a matrix of one row or column for the while.
fn matmul(s: &mut Step) -> Output {
    let (a, b) = (s.x(0)?, s.x(1)?);
    let (shape_a, shape_b) = (s.x_shape(0)?, s.x_shape(1)?);
    let batch = shape_a.len().saturating_sub(2).max(shape_b.len().saturating_sub(2));
    let vector = shape_a.len() == 1 || shape_b.len() == 1;
    if !vector && let Some(found) = softmax_product(s, a, b)? {
        return Ok(Some(Tangent::plain(found)));
    }
    let (da, b) = scaled(s, 0, b);
    let (db, a) = scaled(s, 1, a);
    let da = da.map(|d| matrix(s, d, &shape_a, batch, true));
    let db = db.map(|d| matrix(s, d, &shape_b, batch, false));
    let a = if shape_a.len() == 1 { s.g.unsqueeze(a, &[0]) } else { a };
    let b = if shape_b.len() == 1 { s.g.unsqueeze(b, &[1]) } else { b };
    let Some(total) = bilinear(s, Factors { a, b, da, db }) else {
        return Ok(None);
    };
    // One row, or one column, too many where an operand is a vector.
    let shape = s.lead(&s.y_shape()?);
    let total = if vector { s.g.reshape(total, &shape) } else { total };
    s.done(total)
}

/// The tangent of an operand and the other operand of its product: a number that scales the tangent scales what is k
/// times smaller instead.
fn scaled(s: &mut Step, place: usize, other: Val) -> (Option<Val>, Val) {
    let rank = s.g.rank(other);
    let number = |s: &Step, v: Val| s.g.shape(v).is_some_and(|f| Some(f.len()) <= rank && f.iter().all(|n| n.is(1)));
    match s.lazy(place) {
        Some(Tangent { base, factor: Some(factor) }) if number(s, factor) => (Some(base), s.g.mul(other, factor)),
        _ => (s.d(place), other),
    }
}

/// Two operands of a product of matrices, with their tangents.
#[derive(Clone, Copy)]
struct Factors {
    a: Val,
    b: Val,
    da: Option<Val>,
    db: Option<Val>,
}

fn bilinear(s: &mut Step, f: Factors) -> Option<Val> {
    if let Some(joined) = joined(s, f) {
        return Some(joined);
    }
    let left = f.da.map(|da| {
        let (da, b) = without_zeros(s, da, f.b);
        s.g.op("MatMul", &[da, b])
    });
    let right = f.db.map(|db| s.g.op("MatMul", &[f.a, db]));
    match (left, right) {
        (Some(left), Some(right)) => Some(s.g.add(left, right)),
        (left, right) => left.or(right),
    }
}

/// A tangent and the matrix that it is multiplied by, without the columns of one and the rows of the other where the
/// tangent was joined from one part and zeros, as where a network is fed state and time together.
fn without_zeros(s: &mut Step, d: Val, weights: Val) -> (Val, Val) {
    part_of(s, d, weights).unwrap_or((d, weights))
}

fn part_of(s: &mut Step, d: Val, weights: Val) -> Option<(Val, Val)> {
    let node = s.g.maker(d).filter(|node| node.standard() == "Concat")?.clone();
    let rank = s.g.rank(d)?;
    if node.int("axis", 0) != rank as i64 - 1 || s.g.rank(weights) != Some(2) {
        return None;
    }
    let (mut first, mut part) = (0, None);
    let mut before = 0;
    for v in node.inputs.iter().copied() {
        let width = s.g.shape(v?)?.last()?.as_fixed()?;
        if !is_zero(s, v?) {
            if part.replace((v?, width)).is_some() {
                return None;
            }
            first = before;
        }
        before += width;
    }
    let (part, width) = part?;
    let [start, end, axis] = [first, first + width, 0].map(|n| s.g.integers(&[n]));
    Some((part, s.g.op("Slice", &[weights, start, end, axis])))
}

/// Whether a value is zeros of some shape.
fn is_zero(s: &Step, v: Val) -> bool {
    let spread = s.g.maker(v).filter(|node| node.standard() == "Expand").and_then(|node| node.input(0));
    spread.and_then(|number| s.g.content(number)).and_then(|c| c.reals()).is_some_and(|n| n == [0.0])
}

/// `[dA, A] [B; dB]`: one product instead of two and their sum, where the result is much larger than the operands, as
/// the scores of attention are.
fn joined(s: &mut Step, f: Factors) -> Option<Val> {
    let (da, db) = (f.da?, f.db?);
    let (shape_a, shape_b) = (s.g.shape(f.a)?.clone(), s.g.shape(f.b)?.clone());
    let rank = shape_a.len();
    // With one direction this is the reverse mode's, where each product is transposed by itself.
    if s.k.is(1) || rank < 2 || shape_b.len() != rank || shape_a[..rank - 2] != shape_b[..rank - 2] {
        return None;
    }
    let size = |size: &Size| size.as_fixed().map(i128::from);
    let (m, c, n) = (size(&shape_a[rank - 2])?, size(&shape_a[rank - 1])?, size(&shape_b[rank - 1])?);
    if m * n < 2 * c * (m + n) {
        return None;
    }
    let (wide, b, db) = (s.lead(&shape_a), s.g.swap(f.b, rank), s.g.swap(db, rank + 1));
    let tall = [&wide[..rank - 1], &[shape_b[rank - 1].clone(), shape_a[rank - 1].clone()]].concat();
    let (a, b) = (s.g.expand(f.a, &wide), s.g.expand(b, &tall));
    let left = s.g.concat(&[da, a], rank as i64);
    let right = s.g.concat(&[b, db], rank as i64);
    let right = s.g.swap(right, rank + 1);
    Some(s.g.op("MatMul", &[left, right]))
}

/// Attention's `d(P V) = (P ∘ dS) V - r ∘ (P V) + P dV` for `P = softmax(S)` and the sums `r` of the rows of `P ∘ dS`:
/// nothing of the size of P is computed but `P ∘ dS`.
fn softmax_product(s: &mut Step, p: Val, v: Val) -> Result<Option<Val>, Refusal> {
    let (rank_p, rank_v, rank) = (s.rank(0)?, s.rank(1)?, s.y_shape()?.len());
    let Some(Centred { weighted, sums, .. }) = rank_p.checked_sub(1).and_then(|axis| centred(s, 0, axis)) else {
        return Ok(None);
    };
    let weighted = s.align(weighted, rank_p, rank);
    let sums = s.align(sums, rank_p, rank);
    let dv = s.d(1).map(|dv| s.align(dv, rank_v, rank));
    let y = s.y()?;
    let product = s.g.op("MatMul", &[weighted, v]);
    let shared = s.g.mul(sums, y);
    let left = s.g.sub(product, shared);
    let right = dv.map(|dv| s.g.op("MatMul", &[p, dv]));
    Ok(Some(right.map_or(left, |right| s.g.add(left, right))))
}

/// What is known of an operand that is a softmax along `axis`.
fn centred(s: &mut Step, place: usize, axis: usize) -> Option<Centred> {
    let tangent = s.lazy(place)?;
    let known = s.g.centred.get(&tangent.base).copied()?;
    let itself = s.x(place).ok() == Some(known.y) && tangent.factor == Some(known.y);
    (itself && known.axis == axis).then_some(known)
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
        let product = if place == 0 {
            let (d, other) = without_zeros(s, d, other);
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
    let mut ranks = Vec::new();
    for place in 0..s.node.inputs.len() {
        ranks.push(s.rank(place)?);
    }
    let equation = s.node.text("equation", "");
    let (terms, result) = einsum_terms(&equation, &ranks).ok_or("its equation does not fit its inputs")?;
    if let Some(contraction) = Contraction::new(s, &terms, &result)
        && let Some(product) = contraction.tangent(s, &result)?
    {
        return Ok(Some(Tangent::plain(product)));
    }
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

/// An equation of two operands as a product of matrices, which runtimes are much faster at: the letters that both
/// operands and the result have, those of the rows, of the columns, and those that are summed over.
struct Contraction {
    /// Which operand gives the rows, and which the columns.
    places: [usize; 2],
    terms: [Vec<char>; 2],
    batch: Vec<char>,
    rows: Vec<char>,
    columns: Vec<char>,
    summed: Vec<char>,
    sizes: BTreeMap<char, Size>,
}

impl Contraction {
    /// None where a letter occurs twice in a term, is summed in one operand alone, or is broadcast.
    fn new(s: &Step, terms: &[String], result: &str) -> Option<Contraction> {
        let [a, b] = terms else { return None };
        let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
        let mut sizes = BTreeMap::new();
        for (place, term) in [&a, &b].into_iter().enumerate() {
            let shape = s.x_shape(place).ok()?;
            for (i, (letter, size)) in term.iter().zip(shape).enumerate() {
                if term[..i].contains(letter) || sizes.insert(*letter, size.clone()).is_some_and(|known| known != size)
                {
                    return None;
                }
            }
        }
        let out: Vec<char> = result.chars().collect();
        if out.iter().enumerate().any(|(i, l)| !sizes.contains_key(l) || out[..i].contains(l)) {
            return None;
        }
        let lonely = |l: &char| !out.contains(l) && (a.contains(l) != b.contains(l));
        if a.iter().chain(&b).any(lonely) {
            return None;
        }
        let first = |term: &[char], other: &[char]| out.iter().position(|l| term.contains(l) && !other.contains(l));
        // The result then has its rows in front of its columns.
        let turned = first(&b, &a) < first(&a, &b) && first(&b, &a).is_some();
        let (places, terms) = if turned { ([1, 0], [b, a]) } else { ([0, 1], [a, b]) };
        let of = |keep: &dyn Fn(bool, bool) -> bool| -> Vec<char> {
            out.iter().filter(|l| keep(terms[0].contains(l), terms[1].contains(l))).copied().collect()
        };
        let (batch, rows, columns) = (of(&|a, b| a && b), of(&|a, b| a && !b), of(&|a, b| !a && b));
        let summed = terms[0].iter().filter(|l| !out.contains(l)).copied().collect();
        Some(Contraction { places, terms, batch, rows, columns, summed, sizes })
    }

    fn tangent(&self, s: &mut Step, result: &str) -> Result<Option<Val>, Refusal> {
        let [left, right] = self.places;
        let soft = [0, 1].map(|i| self.softmax(s, i));
        let (a, b) = (s.x(left)?, s.x(right)?);
        let tangent = |s: &mut Step, i: usize, other: Val| match soft[i] {
            Some(Centred { weighted, .. }) => (Some(weighted), other),
            None => scaled(s, self.places[i], other),
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
        let split = s.lead(&groups.iter().map(|l| self.sizes[l].clone()).collect::<Vec<_>>());
        let product = s.g.reshape(product, &split);
        let mut total = self.arrange(s, product, &groups, &result.chars().collect::<Vec<_>>(), true);
        for (i, soft) in soft.into_iter().enumerate() {
            if let Some(Centred { sums, .. }) = soft {
                let y = s.y()?;
                let sums = self.spread(s, sums, &self.terms[i], result);
                let shared = s.g.mul(sums, y);
                total = s.g.sub(total, shared);
            }
        }
        Ok(Some(total))
    }

    fn softmax(&self, s: &mut Step, i: usize) -> Option<Centred> {
        let [letter] = self.summed[..] else { return None };
        let axis = self.terms[i].iter().position(|l| *l == letter)?;
        centred(s, self.places[i], axis)
    }

    /// An operand as `[batch, rows, summed]` or `[batch, summed, columns]`, whose axes of each kind become one.
    fn matrix(&self, s: &mut Step, v: Val, i: usize, leads: bool) -> Val {
        let own = if i == 0 { &self.rows } else { &self.columns };
        let plain = [&self.batch[..], own, &self.summed].concat();
        let turned = [&self.batch[..], &self.summed, own].concat();
        // A transposition of whole matrices is free inside a product, any other is not.
        let swapped = if i == 0 { turned == self.terms[i] } else { turned != self.terms[i] };
        let order = if (i == 0) != swapped { plain } else { turned };
        let v = self.arrange(s, v, &self.terms[i], &order, leads);
        let merged = |s: &mut Step, letters: &[char]| {
            letters.iter().fold(Size::fixed(1), |all, l| s.g.symbols.mul(&all, &self.sizes[l]))
        };
        let mut shape: Vec<Size> = self.batch.iter().map(|l| self.sizes[l].clone()).collect();
        let (own, summed) = (merged(s, own), merged(s, &self.summed));
        shape.extend(if (i == 0) != swapped { [own, summed] } else { [summed, own] });
        let shape = if leads { s.lead(&shape) } else { shape };
        let v = s.g.reshape(v, &shape);
        if swapped { s.g.swap(v, shape.len()) } else { v }
    }

    /// Axes from one order of letters into another; the directions stay in front.
    fn arrange(&self, s: &mut Step, v: Val, from: &[char], to: &[char], leads: bool) -> Val {
        let skip = usize::from(leads);
        let places = to.iter().filter_map(|l| from.iter().position(|f| f == l)).map(|p| p + skip);
        let perm: Vec<usize> = (0..skip).chain(places).collect();
        s.g.transpose(v, &perm)
    }

    /// Sums over the summed letter, with the axes of the result.
    fn spread(&self, s: &mut Step, sums: Val, term: &[char], result: &str) -> Val {
        let kept: Vec<char> = result.chars().filter(|l| term.contains(l)).collect();
        let shape = s.lead(&kept.iter().map(|l| self.sizes[l].clone()).collect::<Vec<_>>());
        let order: Vec<char> = kept.iter().copied().chain(self.summed.iter().copied()).collect();
        let sums = self.arrange(s, sums, term, &order, true);
        let sums = s.g.reshape(sums, &shape);
        let missing: Vec<i64> =
            result.chars().zip(1..).filter(|(l, _)| !kept.contains(l)).map(|(_, axis)| axis).collect();
        s.g.unsqueeze(sums, &missing)
    }
}
