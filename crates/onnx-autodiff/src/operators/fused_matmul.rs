//! Matrix products with transposed factors, a scale and an activation.

use super::fused_activation::activated;
use super::operator::{Lowered, Operator};
use super::parts::{one, scaled};
use crate::graph::{Graph, Node, Val};

/// The declarations of `FusedGemm`, `FusedMatMul`, `FusedMatMulActivation` and
/// `TransposeMatMul`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::fused("FusedGemm", fused_gemm),
    Operator::fused("FusedMatMul", fused_matmul),
    Operator::fused("FusedMatMulActivation", fused_matmul_activation),
    Operator::fused("TransposeMatMul", fused_matmul),
];

/// Appends `alpha A B`, where A and B may be transposed.
pub(super) fn fused_matmul(g: &mut Graph, node: &Node) -> Lowered {
    one(scaled_product(g, node)?)
}

/// Appends `alpha A B` with an activation, where A and B may be transposed.
pub(super) fn fused_matmul_activation(g: &mut Graph, node: &Node) -> Lowered {
    let product = scaled_product(g, node)?;
    one(with_activation(g, node, product)?)
}

/// Appends `alpha A B + beta C` with an activation.
pub(super) fn fused_gemm(g: &mut Graph, node: &Node) -> Lowered {
    let own = |name: &str| ["alpha", "beta", "transA", "transB"].contains(&name);
    let attributes = node
        .attributes
        .iter()
        .filter(|a| own(a.name()))
        .cloned()
        .collect();
    let used = 2 + usize::from(node.input(2).is_some());
    let product = g.op_optional("Gemm", node.inputs.get(..used)?, attributes);
    one(with_activation(g, node, product)?)
}

/// Appends the activation of the node.
fn with_activation(g: &mut Graph, node: &Node, v: Val) -> Option<Val> {
    let told = |_: usize, name: &str| {
        node.attribute(&format!("activation_{name}"))?
            .f
            .map(f64::from)
    };
    activated(g, v, &node.text("activation", ""), told)
}

/// Appends `alpha A B`.
fn scaled_product(g: &mut Graph, node: &Node) -> Option<Val> {
    let a = factor(g, node, 0, ["transA", "transBatchA"])?;
    let b = factor(g, node, 1, ["transB", "transBatchB"])?;
    let product = g.op("MatMul", &[a, b]);
    Some(scaled(g, product, node.float("alpha", 1.0)))
}

/// Appends a factor with its rows moved from the first axis to the last but one, with its last two
/// axes exchanged, or with both, as the attributes say. Vectors are not transposed.
fn factor(g: &mut Graph, node: &Node, index: usize, [last, batch]: [&str; 2]) -> Option<Val> {
    let v = node.input(index)?;
    let [last, batch] = [last, batch].map(|name| node.int(name, 0) != 0);
    if !last && !batch {
        return Some(v);
    }
    let rank = g.rank(v)?;
    if rank < if batch { 3 } else { 2 } {
        return (rank == 1 && !batch).then_some(v);
    }
    let mut perm: Vec<usize> = (0..rank).collect();
    if batch {
        perm[..rank - 1].rotate_left(1);
    }
    if last {
        perm.swap(rank - 2, rank - 1);
    }
    Some(g.transpose(v, &perm))
}
