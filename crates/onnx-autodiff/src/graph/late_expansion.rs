//! Late expansion: tangents that are the same for every sample are repeated along the batch as late
//! as possible.
//!
//! The unit vectors of a trace do not depend on the sample, and neither does what is linear in them
//! with constant weights: the first layer of a perceptron applied to all unit vectors is its own
//! weights. Operators are therefore moved in front of the `Expand` that repeats a tangent along the
//! batch. An elementwise operator whose other operand has the batch needs no `Expand` at all.
//!
//! The results are the same numbers. The pass saves a product of matrices for each sample and the
//! memory of the copies.

use crate::graph::{Graph, Shape, Val};
use crate::passes::Pass;
use crate::proto::AttributeProto;
use crate::size::Size;

/// The batch axis of a tangent, which follows the axis of the directions.
const ROWS: usize = 1;

/// A tangent that an `Expand` repeats along the batch: the value before and the value after it.
#[derive(Clone, Copy)]
struct Expanded {
    source: Val,
    whole: Val,
}

impl Graph {
    /// Returns whether the pass is on and the graph's directions are the same for every sample.
    fn expands_late(&self) -> bool {
        self.has_common_directions && self.passes.has(Pass::LateExpansion)
    }

    /// Appends an operator in front of the `Expand` of its operands. Returns `None` if the operator
    /// must follow the `Expand`.
    pub(super) fn before_expansion(
        &mut self,
        op: &str,
        inputs: &[Val],
        attributes: &[AttributeProto],
    ) -> Option<Val> {
        if !self.expands_late() {
            return None;
        }
        match (op, inputs) {
            ("Add" | "Sub" | "Mul" | "Div", [a, b]) => self.elementwise_before(op, *a, *b),
            ("MatMul", [a, weights]) if self.rank(*weights) == Some(2) => {
                let Expanded { source, whole } =
                    self.expanded(*a).filter(|r| self.rank(r.whole) > Some(2))?;
                let product = self.op(op, &[source, *weights]);
                self.expand_rows(product, whole)
            }
            ("Neg" | "Cast" | "Identity", [a]) => {
                let Expanded { source, whole } = self.expanded(*a)?;
                let result = self.op_with(op, &[source], attributes.to_vec());
                self.expand_rows(result, whole)
            }
            ("Transpose", [a]) => {
                let Expanded { source, whole } = self.expanded(*a)?;
                let perm = &attributes.iter().find(|a| a.name() == "perm")?.ints;
                if !perm.starts_with(&[0, ROWS as i64]) {
                    return None;
                }
                let turned = self.op_with(op, &[source], attributes.to_vec());
                self.expand_rows(turned, whole)
            }
            ("Concat", parts) => self.concat_before(parts, attributes),
            _ => None,
        }
    }

    /// Reshapes a tangent in front of its `Expand`. Returns `None` if the new shape changes the
    /// batch axis.
    pub(super) fn reshape_before_expansion(&mut self, v: Val, shape: &[Size]) -> Option<Val> {
        let Expanded { source, whole } = self.expanded(v).filter(|_| self.expands_late())?;
        let kept = shape.len() > ROWS && self.shape(whole)?[..=ROWS] == shape[..=ROWS];
        let mut narrow = shape.to_vec();
        *narrow.get_mut(ROWS).filter(|_| kept)? = Size::fixed(1);
        let reshaped = self.reshape(source, &narrow);
        self.expand_rows(reshaped, whole)
    }

    /// Returns the value before an `Expand` that repeats it along the batch and along no other
    /// axis.
    fn expanded(&self, whole: Val) -> Option<Expanded> {
        let source = self
            .maker(whole)
            .filter(|node| node.standard() == "Expand")?
            .input(0)?;
        let (narrow, wide) = (self.shape(source)?, self.shape(whole)?);
        let rows = narrow.len() == wide.len() && narrow.get(ROWS)?.is(1) && !wide[ROWS].is(1);
        let others = narrow
            .iter()
            .zip(wide)
            .enumerate()
            .all(|(axis, (n, w))| axis == ROWS || n == w);
        (rows && others).then_some(Expanded { source, whole })
    }

    /// Repeats a value of one row until it has as many rows as `like`.
    fn expand_rows(&mut self, v: Val, like: Val) -> Option<Val> {
        let rows = self.shape(like)?[ROWS].clone();
        let mut shape: Shape = self.shape(v)?.clone();
        *shape.get_mut(ROWS)? = rows;
        Some(self.expand(v, &shape))
    }

    /// Applies an elementwise operator of two operands in front of the `Expand` of one or of both.
    fn elementwise_before(&mut self, op: &str, a: Val, b: Val) -> Option<Val> {
        match (self.expanded(a), self.expanded(b)) {
            (Some(one), Some(other))
                if self.shape(one.whole)?[ROWS] == self.shape(other.whole)?[ROWS] =>
            {
                let result = self.op(op, &[one.source, other.source]);
                self.expand_rows(result, one.whole)
            }
            (Some(one), None) => self.with_other(one, b, |g, source| g.op(op, &[source, b])),
            (None, Some(other)) => self.with_other(other, a, |g, source| g.op(op, &[a, source])),
            _ => None,
        }
    }

    /// Applies an elementwise operator to a repeated tangent and to another operand, which either
    /// has the batch itself or is the same for every sample.
    fn with_other(
        &mut self,
        expanded: Expanded,
        other: Val,
        apply: impl FnOnce(&mut Graph, Val) -> Val,
    ) -> Option<Val> {
        let (rank, shape) = (self.rank(expanded.whole)?, self.shape(other)?);
        let missing = rank.checked_sub(shape.len())?;
        let rows = ROWS
            .checked_sub(missing)
            .map_or_else(|| Size::fixed(1), |axis| shape[axis].clone());
        if rows.is(1) {
            let result = apply(self, expanded.source);
            return self.expand_rows(result, expanded.whole);
        }
        (rows == self.shape(expanded.whole)?[ROWS]).then(|| apply(self, expanded.source))
    }

    /// Concatenates parts in front of their `Expand`. Each part must be repeated along the batch or
    /// be zero, and the axis must not be the batch.
    fn concat_before(&mut self, parts: &[Val], attributes: &[AttributeProto]) -> Option<Val> {
        let like = parts.iter().find_map(|part| self.expanded(*part))?.whole;
        let (rank, axis) = (
            self.rank(like)? as i64,
            attributes.iter().find(|a| a.name() == "axis")?.i(),
        );
        if axis.rem_euclid(rank) == ROWS as i64 {
            return None;
        }
        let mut sources = Vec::new();
        for part in parts {
            sources.push(match self.expanded(*part) {
                Some(expanded) => expanded.source,
                None => self.narrow_zeros(*part)?,
            });
        }
        let joined = self.op_with("Concat", &sources, attributes.to_vec());
        self.expand_rows(joined, like)
    }

    /// Returns one row of a value whose elements are all the same number.
    fn narrow_zeros(&mut self, v: Val) -> Option<Val> {
        let number = self
            .maker(v)
            .filter(|node| node.standard() == "Expand")?
            .input(0)?;
        let mut shape = self
            .shape(v)
            .filter(|_| self.rank(number) == Some(0))?
            .clone();
        *shape.get_mut(ROWS)? = Size::fixed(1);
        Some(self.expand(number, &shape))
    }
}
