//! Linear layers of unit vectors that elementwise factors have scaled.
//!
//! Along the unit vectors, the tangent of an elementwise function of the state is diagonal: the
//! direction i has one number, the slope at element i. A linear layer applied to it is row i of the
//! weights times that number. Networks that scale their input have such tangents, and so have those
//! that concatenate several elementwise functions of it.
//!
//! The results are the same numbers up to rounding. The pass saves a product of matrices for each
//! direction.

use crate::graph::{Graph, Shape, Val};
use crate::passes::Pass;
use crate::size::Size;

/// The columns of a tangent `[D, N, columns]`.
enum Columns {
    /// D columns of scaled unit vectors, with their factor `[D, N, 1]`, where an axis may also have
    /// the size 1. `None` is the factor 1.
    Scaled(Option<Val>),
    /// Zeros.
    Zero,
    /// Anything else.
    Dense(Val),
}

/// Adjacent columns of a tangent, and the rows of the weights that multiply them.
struct Part {
    columns: Columns,
    first: i64,
    width: i64,
}

impl Graph {
    /// Applies a linear layer to a tangent that contains scaled unit vectors. Returns `None` if it
    /// contains none.
    pub(super) fn product_of_unit_vectors(&mut self, tangent: Val, weights: Val) -> Option<Val> {
        self.unit_vectors
            .filter(|_| self.passes.has(Pass::UnitVectors))?;
        let (shape, rows) = (self.shape(tangent)?.clone(), self.shape(weights)?.clone());
        // A factor could broadcast the only unit vector of one dimension.
        let fits = shape.len() == 3 && rows.len() == 2 && shape[2] == rows[0] && !shape[0].is(1);
        if !fits || !self.has_scaled(tangent) {
            return None;
        }
        let mut parts = Vec::new();
        self.collect_parts(tangent, &mut parts)?;
        let mut total = None;
        let mut scaled = Vec::new();
        for Part {
            columns,
            first,
            width,
        } in parts
        {
            let taken = match width == rows[0].as_fixed()? {
                true => weights,
                false => {
                    let [start, end, axis] = [first, first + width, 0].map(|n| self.integers(&[n]));
                    self.op("Slice", &[weights, start, end, axis])
                }
            };
            match columns {
                Columns::Scaled(factor) => scaled.push((factor, taken)),
                Columns::Dense(v) => {
                    let product = self.op("MatMul", &[v, taken]);
                    total = Some(self.sum_of(total, product));
                }
                Columns::Zero => {}
            }
        }
        let of_unit_vectors = self.product_of_scaled(&scaled, &shape);
        let total = self.sum_of(total, of_unit_vectors);
        Some(self.expand(total, &[&shape[..2], &rows[1..]].concat()))
    }

    /// Returns the sum of two values, the first of which may be missing.
    fn sum_of(&mut self, total: Option<Val>, v: Val) -> Val {
        match total {
            Some(total) => self.add(total, v),
            None => v,
        }
    }

    /// Returns the sum of the products of scaled unit vectors with their weights `[D, O]`, for
    /// tangents of the given shape.
    fn product_of_scaled(&mut self, scaled: &[(Option<Val>, Val)], shape: &[Size]) -> Val {
        let column: Shape = vec![shape[0].clone(), shape[1].clone(), Size::fixed(1)];
        let mut factors = Vec::new();
        let mut weights = Vec::new();
        for (factor, rows) in scaled {
            factors.push(factor.unwrap_or_else(|| self.real_like(1.0, *rows)));
            weights.push(self.unsqueeze(*rows, &[1]));
        }
        if let ([factor], [rows]) = (&factors[..], &weights[..]) {
            return self.mul(*factor, *rows);
        }
        let factors: Vec<Val> = factors
            .into_iter()
            .map(|f| self.expand(f, &column))
            .collect();
        let factors = self.concat(&factors, 2);
        let weights = self.concat(&weights, 1);
        self.op("MatMul", &[factors, weights])
    }

    /// Returns whether a value consists of scaled unit vectors, or of parts some of which do.
    fn has_scaled(&self, v: Val) -> bool {
        match self.maker(v) {
            Some(node) if node.standard() == "Concat" => {
                node.int("axis", 0) == 2
                    && node
                        .inputs
                        .iter()
                        .flatten()
                        .any(|part| self.has_scaled(*part))
            }
            _ => self.is_scaled(v) && !self.is_unit_vectors(v),
        }
    }

    /// Returns whether a value is the unit vectors themselves.
    fn is_unit_vectors(&self, v: Val) -> bool {
        let source = || {
            let node = self.maker(v).filter(|node| node.standard() == "Expand")?;
            node.input(0)
        };
        self.unit_vectors == Some(v)
            || (self.unit_vectors.is_some() && source() == self.unit_vectors)
    }

    /// Returns whether a value is the unit vectors times factors that do not depend on the direction.
    fn is_scaled(&self, v: Val) -> bool {
        self.is_unit_vectors(v)
            || self
                .multiplied(v)
                .is_some_and(|(inner, _)| self.is_scaled(inner))
    }

    /// Returns the tangent and the factor of which a value is the product or the quotient.
    fn multiplied(&self, v: Val) -> Option<(Val, Multiplier)> {
        let node = self.maker(v)?;
        let (a, b) = (node.input(0)?, node.input(1));
        let tangent = |v: Val| self.rank(v) == Some(3);
        let factor = |v: Val| self.rank(v).is_some_and(|rank| rank <= 2);
        match (node.standard(), b) {
            ("Mul", Some(b)) if tangent(a) && factor(b) => Some((a, Multiplier::Times(b))),
            ("Mul", Some(b)) if tangent(b) && factor(a) => Some((b, Multiplier::Times(a))),
            ("Div", Some(b)) if tangent(a) && factor(b) => Some((a, Multiplier::Over(b))),
            ("Neg", None) => Some((a, Multiplier::Minus)),
            _ => None,
        }
    }

    /// Returns the factor `[D, N, 1]` of scaled unit vectors.
    fn factor_of(&mut self, v: Val) -> Option<Val> {
        if self.is_unit_vectors(v) {
            return None;
        }
        let (inner, by) = self.multiplied(v)?;
        let known = self.factor_of(inner);
        Some(match (by, known) {
            (Multiplier::Times(factor), known) => {
                let column = self.column(factor);
                match known {
                    Some(known) => self.mul(known, column),
                    None => column,
                }
            }
            (Multiplier::Over(factor), known) => {
                let column = self.column(factor);
                let known = known.unwrap_or_else(|| self.real_like(1.0, v));
                self.div(known, column)
            }
            (Multiplier::Minus, Some(known)) => self.neg(known),
            (Multiplier::Minus, None) => self.real_like(-1.0, v),
        })
    }

    /// Returns a factor of the state, `[N, D]` or narrower, as a factor `[D, N, 1]` of the
    /// directions.
    fn column(&mut self, factor: Val) -> Val {
        match self.rank(factor) {
            Some(1) => self.unsqueeze(factor, &[1, 2]),
            Some(2) => {
                let turned = self.transpose(factor, &[1, 0]);
                self.unsqueeze(turned, &[2])
            }
            _ => factor,
        }
    }

    /// Appends the parts of a tangent, from left to right. Returns `None` if a width is not known.
    fn collect_parts(&mut self, v: Val, parts: &mut Vec<Part>) -> Option<()> {
        let joined = self
            .maker(v)
            .filter(|node| node.standard() == "Concat" && node.int("axis", 0) == 2)
            .map(|node| node.inputs.clone());
        if let Some(inputs) = joined {
            return inputs
                .into_iter()
                .try_for_each(|part| self.collect_parts(part?, parts));
        }
        let width = self.shape(v)?.last()?.as_fixed()?;
        let columns = match self.is_scaled(v) {
            true => Columns::Scaled(self.factor_of(v)),
            false if self.is_zero(v) => Columns::Zero,
            false => Columns::Dense(v),
        };
        let first = parts.last().map_or(0, |part| part.first + part.width);
        parts.push(Part {
            columns,
            first,
            width,
        });
        Some(())
    }
}

/// What a tangent is multiplied by.
enum Multiplier {
    Times(Val),
    Over(Val),
    Minus,
}
