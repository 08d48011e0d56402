//! One node being differentiated: its primal values, the tangents of its inputs, and what rules need to write more.
//!
//! A tangent of a tensor of shape `s` has shape `[k, *s]`: the k directions lead, so that primal operands broadcast
//! over them and axes counted from the end stay as they are. A tangent may be kept as `base * factor`, with a factor
//! of the primal's size: chains of elementwise operators then cost one multiplication of the k times larger base.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Obstacle, Refusal};
use crate::graph::{Graph, Node, Shape, Val};
use crate::inference::axis_of;
use crate::passes::Pass;
use crate::size::Size;

/// A tangent `base * factor`; the base has the tangent's full shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tangent {
    pub base: Val,
    pub factor: Option<Val>,
}

impl Tangent {
    pub fn plain(base: Val) -> Tangent {
        Tangent { base, factor: None }
    }
}

/// The tangents of all values that depend on the input and reach the output, and what stood in the way.
pub struct Tangents {
    pub of: HashMap<Val, Tangent>,
    pub obstacles: Vec<Obstacle>,
}

/// The tangents of a value and of what it is made of: all that a rule asks for of an input.
pub fn known_at<'a>(
    g: &'a Graph,
    v: Val,
    of: &'a HashMap<Val, Tangent>,
) -> impl Iterator<Item = (Val, Tangent)> + 'a {
    let behind = g
        .maker(v)
        .into_iter()
        .flat_map(|node| node.inputs.iter().flatten().copied());
    std::iter::once(v)
        .chain(behind)
        .filter_map(|v| Some((v, *of.get(&v)?)))
}

/// Follows tangents through some nodes, as forward mode does: those that are known, as far as the outputs need it.
pub type TangentWalk = fn(&mut Graph, Range<usize>, &Size, &[Val], &mut Tangents);

pub struct JvpContext<'a> {
    pub g: &'a mut Graph,
    pub node: Node,
    /// The tangents of the node's inputs; none where they are zero.
    pub tangents: Vec<Option<Tangent>>,
    /// The number of directions.
    pub k: Size,
    /// For the node's subgraphs.
    pub walk: TangentWalk,
}

impl JvpContext<'_> {
    /// An input of the node, in the type that its tangents have.
    pub fn x(&mut self, place: usize) -> Result<Val, Refusal> {
        let v = self
            .node
            .input(place)
            .ok_or_else(|| Refusal(format!("its input {place} is missing")))?;
        Ok(self.primal(v))
    }

    /// The first output of the node, in the type that its tangents have.
    pub fn y(&mut self) -> Result<Val, Refusal> {
        let v = self.node.output(0).ok_or("its first output is missing")?;
        Ok(self.primal(v))
    }

    /// A value of the original graph, cast where tangents are computed in a wider type.
    pub fn primal(&mut self, v: Val) -> Val {
        let elem = self.g.elem(v);
        if elem.is_float() {
            self.g.cast(v, elem.tangent())
        } else {
            v
        }
    }

    /// The whole tangent of an input, where it is not zero.
    pub fn d(&mut self, place: usize) -> Option<Val> {
        let tangent = self.lazy(place)?;
        Some(self.materialize(tangent))
    }

    /// The tangent of the first input.
    pub fn dx(&mut self) -> Result<Val, Refusal> {
        self.d(0)
            .ok_or_else(|| "only its first input may depend on the differentiated input".into())
    }

    /// The tangent of an input as it is kept.
    pub fn lazy(&self, place: usize) -> Option<Tangent> {
        self.tangents.get(place).copied().flatten()
    }

    pub fn materialize(&mut self, tangent: Tangent) -> Val {
        match tangent.factor {
            Some(factor) => self.g.mul(tangent.base, factor),
            None => tangent.base,
        }
    }

    /// Refuses tangents of any input but those at the given places.
    pub fn only(&self, places: &[usize], remedy: &str) -> Result<(), Refusal> {
        let other =
            (0..self.tangents.len()).find(|i| self.tangents[*i].is_some() && !places.contains(i));
        match other {
            Some(place) => Err(Refusal(format!(
                "its input {place} depends on the differentiated input; {remedy}"
            ))),
            None => Ok(()),
        }
    }

    pub fn shape(&self, v: Val) -> Result<Shape, Refusal> {
        self.g.shape(v).cloned().ok_or_else(|| {
            let name = &self.g.value(v).name;
            Refusal(format!("the number of axes of `{name}` cannot be told; export the model with shapes (value_info)"))
        })
    }

    pub fn x_shape(&self, place: usize) -> Result<Shape, Refusal> {
        let v = self
            .node
            .input(place)
            .ok_or_else(|| Refusal(format!("its input {place} is missing")))?;
        self.shape(v)
    }

    pub fn y_shape(&self) -> Result<Shape, Refusal> {
        self.shape(self.node.output(0).ok_or("its first output is missing")?)
    }

    pub fn rank(&self, place: usize) -> Result<usize, Refusal> {
        Ok(self.x_shape(place)?.len())
    }

    /// An axis attribute as a place in the primal's shape.
    pub fn axis(&self, name: &str, default: i64, rank: usize) -> Result<usize, Refusal> {
        let axis = self.node.int(name, default);
        axis_of(axis, rank).ok_or_else(|| {
            Refusal(format!(
                "its attribute `{name}` is {axis}, for a tensor of {rank} axes"
            ))
        })
    }

    /// The shape of tangents of a tensor of the given shape.
    pub fn tangent_shape(&self, shape: &[Size]) -> Shape {
        std::iter::once(&self.k).chain(shape).cloned().collect()
    }

    /// Adds axes of size 1 behind the leading one, for numpy's alignment from the right.
    pub fn align(&mut self, d: Val, rank: usize, wanted: usize) -> Val {
        let axes: Vec<i64> = (1..=wanted.saturating_sub(rank) as i64).collect();
        self.g.unsqueeze(d, &axes)
    }

    /// The tangent of an elementwise operand, aligned with the output.
    pub fn aligned(&mut self, place: usize) -> Result<Option<Val>, Refusal> {
        let Some(d) = self.d(place) else {
            return Ok(None);
        };
        let (rank, wanted) = (self.rank(place)?, self.y_shape()?.len());
        Ok(Some(self.align(d, rank, wanted)))
    }

    /// Broadcasts a tangent to the full shape of the output's tangent.
    pub fn broadcast_to_output(&mut self, d: Val) -> Result<Val, Refusal> {
        let shape = self.tangent_shape(&self.y_shape()?);
        Ok(self.g.expand(d, &shape))
    }

    /// A tangent of the output that may still lack broadcasting.
    pub fn finish(&mut self, d: Val) -> Result<Option<Tangent>, Refusal> {
        Ok(Some(Tangent::plain(self.broadcast_to_output(d)?)))
    }

    /// Zeros of the shape of tangents of an input.
    pub fn zero(&mut self, place: usize) -> Result<Val, Refusal> {
        let shape = self.tangent_shape(&self.x_shape(place)?);
        let v = self.x(place)?;
        let elem = self.g.elem(v).tangent();
        Ok(self.g.zeros(&shape, elem))
    }

    /// Merges the directions into the batch axis, for operators that know but one.
    pub fn merge_directions(&mut self, d: Val, shape: &[Size]) -> Result<Val, Refusal> {
        let folded = self
            .merged_shape(shape)
            .ok_or("its input has no batch axis")?;
        Ok(self.g.reshape(d, &folded))
    }

    /// The shape of tangents of a tensor of the given shape whose directions are merged into the batch.
    pub fn merged_shape(&mut self, shape: &[Size]) -> Option<Shape> {
        let (batch, rest) = shape.split_first()?;
        let merged = self.g.symbols.mul(&self.k, batch);
        Some(std::iter::once(&merged).chain(rest).cloned().collect())
    }

    /// Separates the directions from the batch again: the output's tangent.
    pub fn split_directions(&mut self, d: Val) -> Result<Option<Tangent>, Refusal> {
        let shape = self.tangent_shape(&self.y_shape()?);
        Ok(Some(Tangent::plain(self.g.reshape(d, &shape))))
    }

    /// Whether the input at a place has provably the output's shape.
    pub fn same_shape(&self, place: usize) -> bool {
        let (x, y) = (self.node.input(place), self.node.output(0));
        x.zip(y)
            .is_some_and(|(x, y)| self.g.shape(x).is_some() && self.g.shape(x) == self.g.shape(y))
    }

    /// The tangent of an input times a primal value that has at most the output's shape.
    pub fn times(&mut self, place: usize, by: Val) -> Result<Option<Tangent>, Refusal> {
        let Some(tangent) = self.lazy(place) else {
            return Ok(None);
        };
        if self.same_shape(place) {
            if self.g.passes.has(Pass::UnitFactors) && self.all_known(by, |x| x == 1.0) {
                return Ok(Some(tangent));
            }
            let factor = match tangent.factor {
                Some(factor) => self.g.mul(factor, by),
                None => by,
            };
            return Ok(Some(Tangent {
                base: tangent.base,
                factor: Some(factor),
            }));
        }
        let Some(d) = self.aligned(place)? else {
            return Ok(None);
        };
        let product = self.g.mul(d, by);
        self.finish(product)
    }

    /// The sum of two tangents of the output.
    pub fn sum(&mut self, a: Option<Tangent>, b: Option<Tangent>) -> Option<Tangent> {
        let (a, b) = match (a, b) {
            (Some(a), Some(b)) => (a, b),
            (a, b) => return a.or(b),
        };
        if a.base != b.base {
            let (a, b) = (self.materialize(a), self.materialize(b));
            return Some(Tangent::plain(self.elementwise("Add", a, b)));
        }
        let factor = match (a.factor, b.factor) {
            (Some(p), Some(q)) => self.g.add(p, q),
            (Some(p), None) | (None, Some(p)) => self.g.shift(p, 1.0),
            (None, None) => self.g.real_like(2.0, a.base),
        };
        Some(Tangent {
            base: a.base,
            factor: Some(factor),
        })
    }

    /// A sum or difference of two tangents, taken where both are reshaped from when that is one shape.
    pub fn elementwise(&mut self, op: &str, a: Val, b: Val) -> Val {
        let (Some(shape), Some((from_a, from_b))) =
            (self.g.shape(a).cloned(), self.g.common_source(a, b))
        else {
            return self.g.op(op, &[a, b]);
        };
        let result = self.g.op(op, &[from_a, from_b]);
        self.g.reshape(result, &shape)
    }

    /// `1 / v`, and 0 where v is 0.
    pub fn inverse_or_zero(&mut self, v: Val) -> Val {
        let inverse = self.g.op("Reciprocal", &[v]);
        let zero = self.g.real_like(0.0, v);
        let hit = self.g.op("Equal", &[v, zero]);
        self.g.op("Where", &[hit, zero, inverse])
    }

    /// Whether all numbers of a value are known, and none of them fails a test.
    pub fn all_known(&self, v: Val, test: impl Fn(f64) -> bool) -> bool {
        self.g
            .content(v)
            .and_then(|c| c.reals())
            .is_some_and(|numbers| numbers.into_iter().all(test))
    }

    pub fn negative(&mut self, tangent: Tangent) -> Tangent {
        match tangent.factor {
            Some(factor) => Tangent {
                base: tangent.base,
                factor: Some(self.g.neg(factor)),
            },
            None => Tangent::plain(self.g.neg(tangent.base)),
        }
    }

    /// The integers of an input that must be known before anything runs.
    pub fn known(&self, place: usize) -> Result<Vec<i64>, Refusal> {
        let known = self
            .node
            .input(place)
            .and_then(|v| self.g.content(v))
            .and_then(|c| c.fixed());
        known.ok_or_else(|| {
            Refusal(format!(
                "its input {place} is computed at run time; export the model with it constant"
            ))
        })
    }
}
