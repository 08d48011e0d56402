//! `Det`: determinants.

use super::operator::{DecompositionResult, Operator};
use super::parts::finished;
use crate::graph::emit::int;
use crate::graph::{Graph, Node, Shape, Val};
use crate::jvp_context::JvpContext;
use crate::size::Size;

/// The declaration of `Det`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("Det")
    .shape(det_shape)
    .decomposition(det_decomposition)
    .float64_by_decomposition()
    .smooth()];

fn det_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    Some(g.shape(node.input(0)?)?.split_last_chunk::<2>()?.0.to_vec())
}

/// The largest size of a matrix that is expanded.
const LARGEST: i64 = 4;

/// Expands the determinant of a small matrix along its first row.
fn det_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let (x, shape) = (s.x(0)?, s.x_shape(0)?);
    let size = shape
        .last()
        .and_then(Size::as_fixed)
        .filter(|n| (1..=LARGEST).contains(n));
    let size = size.ok_or("only determinants of matrices up to four by four are differentiated")?;
    let rank = shape.len();
    if rank < 2 || shape[rank - 2] != shape[rank - 1] {
        return Err("its matrices are not square".into());
    }
    let columns: Vec<i64> = (0..size).collect();
    let value = developed(s.g, x, 0, &columns);
    finished(s, value)
}

/// Appends the determinant of the rows from `row` on and the given columns.
fn developed(g: &mut Graph, x: Val, row: i64, columns: &[i64]) -> Val {
    let mut total = None;
    for (i, column) in columns.iter().enumerate() {
        let element = element(g, x, row, *column);
        let others: Vec<i64> = columns.iter().copied().filter(|c| c != column).collect();
        let term = if others.is_empty() {
            element
        } else {
            let minor = developed(g, x, row + 1, &others);
            g.mul(element, minor)
        };
        total = Some(match total {
            None => term,
            Some(sum) if i % 2 == 0 => g.add(sum, term),
            Some(sum) => g.sub(sum, term),
        });
    }
    total.unwrap_or(x)
}

fn element(g: &mut Graph, x: Val, row: i64, column: i64) -> Val {
    let (row, column) = (g.integer(row), g.integer(column));
    let rows = g.op_with("Gather", &[x, row], vec![int("axis", -2)]);
    g.op_with("Gather", &[rows, column], vec![int("axis", -1)])
}
