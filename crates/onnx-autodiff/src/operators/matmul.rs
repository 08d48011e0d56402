//! Products of matrices.

use super::operator::{Operator, TangentResult};
use crate::error::Refusal;
use crate::graph::{Graph, Node, Shape, SoftmaxTangent, Val};
use crate::inference::broadcast_shapes;
use crate::jvp_context::{JvpContext, Tangent};
use crate::passes::Pass;
use crate::size::Size;
use crate::transpose_context::{CONTRADICTION, Cotangents, TransposeContext};

/// The declarations of `Gemm` and `MatMul`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Gemm")
        .shape(gemm_shape)
        .tangent(gemm_tangent)
        .smooth(),
    Operator::new("MatMul")
        .shape(matmul_shape)
        .tangent(matmul_tangent)
        .transpose(matmul_cotangent)
        .smooth(),
];

fn matmul_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    product_shape(g, node.input(0)?, node.input(1)?)
}

/// Returns the shape of the product of two values.
pub(super) fn product_shape(g: &mut Graph, a: Val, b: Val) -> Option<Shape> {
    let (a, b) = (g.shape(a)?.clone(), g.shape(b)?.clone());
    matmul(g, a, b)
}

fn matmul(g: &mut Graph, mut a: Shape, mut b: Shape) -> Option<Shape> {
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
    let mut shape = broadcast_shapes(g, &a[..a.len() - 2], &b[..b.len() - 2]);
    if !row {
        shape.push(a[a.len() - 2].clone());
    }
    if !column {
        shape.push(b[b.len() - 1].clone());
    }
    Some(shape)
}

fn gemm_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (a, b) = (g.shape(node.input(0)?)?, g.shape(node.input(1)?)?);
    let rows = a.get(usize::from(node.int("transA", 0) != 0))?;
    let columns = b.get(usize::from(node.int("transB", 0) == 0))?;
    Some(vec![rows.clone(), columns.clone()])
}

/// Returns `dA B + A dB`. A vector operand is a matrix of one row or one column meanwhile.
fn matmul_tangent(s: &mut JvpContext) -> TangentResult {
    let (a, b) = (s.x(0)?, s.x(1)?);
    let (shape_a, shape_b) = (s.x_shape(0)?, s.x_shape(1)?);
    let batch = shape_a
        .len()
        .saturating_sub(2)
        .max(shape_b.len().saturating_sub(2));
    let vector = shape_a.len() == 1 || shape_b.len() == 1;
    if !vector && let Some(found) = softmax_product(s, a, b)? {
        return Ok(Some(Tangent::plain(found)));
    }
    let (da, b) = tangent_and_scaled_other(s, 0, b);
    let (db, a) = tangent_and_scaled_other(s, 1, a);
    let da = da.map(|d| matrix(s, d, &shape_a, batch, true));
    let db = db.map(|d| matrix(s, d, &shape_b, batch, false));
    let a = if shape_a.len() == 1 {
        s.g.unsqueeze(a, &[0])
    } else {
        a
    };
    let b = if shape_b.len() == 1 {
        s.g.unsqueeze(b, &[1])
    } else {
        b
    };
    let Some(total) = bilinear(s, Factors { a, b, da, db }) else {
        return Ok(None);
    };
    // A vector operand leaves an axis of size 1 in the result.
    let shape = s.tangent_shape(&s.y_shape()?);
    let total = if vector {
        s.g.reshape(total, &shape)
    } else {
        total
    };
    s.finish(total)
}

/// Returns the tangent of an operand and the other operand of its product. If the factor of the
/// tangent is a single number, it multiplies the other operand instead, which is k times smaller.
pub(super) fn tangent_and_scaled_other(
    s: &mut JvpContext,
    index: usize,
    other: Val,
) -> (Option<Val>, Val) {
    let rank = s.g.rank(other);
    let number = |s: &JvpContext, v: Val| {
        s.g.shape(v)
            .is_some_and(|f| Some(f.len()) <= rank && f.iter().all(|n| n.is(1)))
    };
    match s.lazy(index) {
        Some(Tangent {
            base,
            factor: Some(factor),
        }) if number(s, factor) => (Some(base), s.g.mul(other, factor)),
        _ => (s.d(index), other),
    }
}

/// The operands of a product of matrices, with their tangents.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    /// The left operand.
    pub a: Val,
    /// The right operand.
    pub b: Val,
    /// The tangent of the left operand. `None` stands for a zero tangent.
    pub da: Option<Val>,
    /// The tangent of the right operand. `None` stands for a zero tangent.
    pub db: Option<Val>,
}

/// Appends `dA B + A dB`. Returns `None` if both tangents are zero.
pub(super) fn bilinear(s: &mut JvpContext, f: Factors) -> Option<Val> {
    if let Some(joined) = joined_products(s, f) {
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

/// Returns a tangent without the columns that are zero, and its weights without the matching rows.
/// Networks that concatenate state and time have such tangents.
fn without_zeros(s: &mut JvpContext, d: Val, weights: Val) -> (Val, Val) {
    let part = if s.g.passes.has(Pass::OmittedZeros) {
        part_of(s, d, weights)
    } else {
        None
    };
    part.unwrap_or((d, weights))
}

/// Returns the only part of a concatenated tangent that is not zero, and the rows of the weights
/// that it multiplies.
fn part_of(s: &mut JvpContext, d: Val, weights: Val) -> Option<(Val, Val)> {
    let node =
        s.g.maker(d)
            .filter(|node| node.standard() == "Concat")?
            .clone();
    let rank = s.g.rank(d)?;
    if node.int("axis", 0) != rank as i64 - 1 || s.g.rank(weights) != Some(2) {
        return None;
    }
    let (mut first, mut part) = (0, None);
    let mut before = 0;
    for v in node.inputs.iter().copied() {
        let width = s.g.shape(v?)?.last()?.as_fixed()?;
        if !s.g.is_zero(v?) {
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

/// Appends `[dA, A] [B; dB]`: one product instead of two and their sum. Returns `None` unless the
/// result is much larger than the operands, as the scores of attention are.
fn joined_products(s: &mut JvpContext, f: Factors) -> Option<Val> {
    let (da, db) = (f.da?, f.db?);
    let (shape_a, shape_b) = (s.g.shape(f.a)?.clone(), s.g.shape(f.b)?.clone());
    let rank = shape_a.len();
    // With one direction, reverse mode transposes each product by itself.
    if !s.g.passes.has(Pass::JoinedProducts)
        || s.k.is(1)
        || rank < 2
        || shape_b.len() != rank
        || shape_a[..rank - 2] != shape_b[..rank - 2]
    {
        return None;
    }
    let size = |size: &Size| size.as_fixed().map(i128::from);
    let (m, c, n) = (
        size(&shape_a[rank - 2])?,
        size(&shape_a[rank - 1])?,
        size(&shape_b[rank - 1])?,
    );
    if m * n < 2 * c * (m + n) {
        return None;
    }
    let (wide, b, db) = (
        s.tangent_shape(&shape_a),
        s.g.swap(f.b, rank),
        s.g.swap(db, rank + 1),
    );
    let tall = [
        &wide[..rank - 1],
        &[shape_b[rank - 1].clone(), shape_a[rank - 1].clone()],
    ]
    .concat();
    let (a, b) = (s.g.expand(f.a, &wide), s.g.expand(b, &tall));
    let left = s.g.concat(&[da, a], rank as i64);
    let right = s.g.concat(&[b, db], rank as i64);
    let right = s.g.swap(right, rank + 1);
    Some(s.g.op("MatMul", &[left, right]))
}

/// Appends the tangent of attention, `d(P V) = (P ∘ dS) V - r ∘ (P V) + P dV`, for `P = softmax(S)`
/// and the sums `r` of the rows of `P ∘ dS`. Of the size of P it computes only `P ∘ dS`.
fn softmax_product(s: &mut JvpContext, p: Val, v: Val) -> Result<Option<Val>, Refusal> {
    let (rank_p, rank_v, rank) = (s.rank(0)?, s.rank(1)?, s.y_shape()?.len());
    let Some(SoftmaxTangent { weighted, sums, .. }) = rank_p
        .checked_sub(1)
        .and_then(|axis| softmax_operand(s, 0, axis))
    else {
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

/// Returns the parts of the tangent of an operand that is a softmax along `axis`.
pub(super) fn softmax_operand(
    s: &mut JvpContext,
    index: usize,
    axis: usize,
) -> Option<SoftmaxTangent> {
    let tangent = s.lazy(index)?;
    let known =
        s.g.softmax_tangents
            .get(&tangent.base)
            .copied()
            .filter(|_| s.g.passes.has(Pass::SoftmaxProducts))?;
    let itself = s.x(index).ok() == Some(known.y) && tangent.factor == Some(known.y);
    (itself && known.axis == axis).then_some(known)
}

/// Reshapes a tangent for a product of matrices with `batch` axes between the directions and the
/// matrix. The tangent of a vector becomes one row if it is the left operand, and one column
/// otherwise.
pub(super) fn matrix(s: &mut JvpContext, d: Val, shape: &[Size], batch: usize, left: bool) -> Val {
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

/// Returns the tangent of `alpha A B + beta C`, where A and B may be transposed.
fn gemm_tangent(s: &mut JvpContext) -> TangentResult {
    let (alpha, beta) = (s.node.float("alpha", 1.0), s.node.float("beta", 1.0));
    let turned = [s.node.int("transA", 0) != 0, s.node.int("transB", 0) != 0];
    let mut total = None;
    for index in [0, 1] {
        let Some(mut d) = s.d(index) else { continue };
        let mut other = s.x(1 - index)?;
        if turned[index] {
            d = s.g.swap(d, 3);
        }
        if turned[1 - index] {
            other = s.g.swap(other, 2);
        }
        let product = if index == 0 {
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
        Some(total) => s.finish(total.base),
        None => Ok(None),
    }
}

fn matmul_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let c = t.c()?;
    let index = usize::from(!t.is_linear(0));
    let other = t.input(1 - index)?;
    let rank = t.shape(other)?.len();
    if rank < 2 {
        return Err(CONTRADICTION.into());
    }
    let turned = t.g.swap(other, rank);
    let product = if index == 0 {
        t.g.op("MatMul", &[c, turned])
    } else {
        t.g.op("MatMul", &[turned, c])
    };
    Ok(vec![(index, t.unbroadcast(product, index)?)])
}
