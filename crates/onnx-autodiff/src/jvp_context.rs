//! The context of a rule: one node that is being differentiated, the tangents of its inputs, and
//! helpers to write its tangent.
//!
//! A tangent of a tensor of shape `s` has shape `[k, *s]`. The k directions lead, so that primal
//! operands broadcast over them and axes that are counted from the end stay the same. A tangent may
//! be kept as `base * factor` with a factor of the primal's size. A chain of elementwise operators
//! then costs one multiplication of the base, which is k times larger than the factors.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Obstacle, Refusal};
use crate::graph::{Graph, Node, Shape, Val};
use crate::inference::axis_of;
use crate::passes::Pass;
use crate::size::Size;

/// A tangent `base * factor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tangent {
    /// The base, which has the full shape of the tangent.
    pub base: Val,
    /// The factor, which broadcasts to the base. `None` stands for 1.
    pub factor: Option<Val>,
}

impl Tangent {
    /// Returns a tangent without a factor.
    pub(crate) fn plain(base: Val) -> Tangent {
        Tangent { base, factor: None }
    }
}

/// The tangents of the values that depend on the differentiated input, and the obstacles.
pub(crate) struct Tangents {
    /// The tangent of each value. A value that is not in the map has a zero tangent.
    pub of: HashMap<Val, Tangent>,
    /// The nodes that could not be differentiated.
    pub obstacles: Vec<Obstacle>,
}

/// Returns the tangents of a value and of the inputs of the node that makes it. A rule reads no
/// other tangents for an input.
pub(crate) fn known_at<'a>(
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

/// The function that propagates tangents through nodes of a subgraph: the indices of the nodes, the
/// number of directions, the values whose tangents are wanted, and the tangents so far.
pub(crate) type TangentWalk = fn(&mut Graph, Range<usize>, &Size, &[Val], &mut Tangents);

/// The context of a rule, which appends the tangent of one node to the graph.
pub(crate) struct JvpContext<'a> {
    /// The graph to which the rule appends operators.
    pub g: &'a mut Graph,
    /// The node.
    pub node: Node,
    /// The tangents of the node's inputs. `None` stands for a zero tangent.
    pub tangents: Vec<Option<Tangent>>,
    /// The number of directions.
    pub k: Size,
    /// The function that propagates tangents through the node's subgraphs.
    pub walk: TangentWalk,
}

impl JvpContext<'_> {
    /// Returns an input of the node, cast to the type of its tangents.
    ///
    /// # Errors
    ///
    /// Refuses a node without this input.
    pub(crate) fn x(&mut self, index: usize) -> Result<Val, Refusal> {
        let v = self
            .node
            .input(index)
            .ok_or_else(|| Refusal(format!("its input {index} is missing")))?;
        Ok(self.primal(v))
    }

    /// Returns the first output of the node, cast to the type of its tangents.
    ///
    /// # Errors
    ///
    /// Refuses a node without this output.
    pub(crate) fn y(&mut self) -> Result<Val, Refusal> {
        let v = self.node.output(0).ok_or("its first output is missing")?;
        Ok(self.primal(v))
    }

    /// Casts a value of the original graph to the type of its tangents, which may be wider.
    pub(crate) fn primal(&mut self, v: Val) -> Val {
        let elem = self.g.elem(v);
        if elem.is_float() {
            self.g.cast(v, elem.tangent())
        } else {
            v
        }
    }

    /// Returns the tangent of an input as one value. Returns `None` if the tangent is zero.
    pub(crate) fn d(&mut self, index: usize) -> Option<Val> {
        let tangent = self.lazy(index)?;
        Some(self.materialize(tangent))
    }

    /// Returns the tangent of the first input as one value.
    ///
    /// # Errors
    ///
    /// Refuses a node whose first input has a zero tangent.
    pub(crate) fn dx(&mut self) -> Result<Val, Refusal> {
        self.d(0)
            .ok_or_else(|| "only its first input may depend on the differentiated input".into())
    }

    /// Returns the tangent of an input with its factor. Returns `None` if the tangent is zero.
    pub(crate) fn lazy(&self, index: usize) -> Option<Tangent> {
        self.tangents.get(index).copied().flatten()
    }

    /// Multiplies the base of a tangent by its factor.
    pub(crate) fn materialize(&mut self, tangent: Tangent) -> Val {
        match tangent.factor {
            Some(factor) => self.g.mul(tangent.base, factor),
            None => tangent.base,
        }
    }

    /// Checks that only the inputs at the given indices depend on the differentiated input.
    ///
    /// # Errors
    ///
    /// Refuses other inputs, with advice for the user.
    pub(crate) fn only(&self, indices: &[usize], remedy: &str) -> Result<(), Refusal> {
        let other =
            (0..self.tangents.len()).find(|i| self.tangents[*i].is_some() && !indices.contains(i));
        match other {
            Some(index) => Err(Refusal(format!(
                "its input {index} depends on the differentiated input; {remedy}"
            ))),
            None => Ok(()),
        }
    }

    /// Returns the shape of a value.
    ///
    /// # Errors
    ///
    /// Refuses a node with a value of unknown rank.
    pub(crate) fn shape(&self, v: Val) -> Result<Shape, Refusal> {
        self.g.shape(v).cloned().ok_or_else(|| {
            let name = &self.g.value(v).name;
            Refusal(format!("the number of axes of `{name}` is not known; export the model with shapes (value_info)"))
        })
    }

    /// Returns the shape of an input.
    ///
    /// # Errors
    ///
    /// Refuses an input that is missing or of unknown rank.
    pub(crate) fn x_shape(&self, index: usize) -> Result<Shape, Refusal> {
        let v = self
            .node
            .input(index)
            .ok_or_else(|| Refusal(format!("its input {index} is missing")))?;
        self.shape(v)
    }

    /// Returns the shape of the first output.
    ///
    /// # Errors
    ///
    /// Refuses an output that is missing or of unknown rank.
    pub(crate) fn y_shape(&self) -> Result<Shape, Refusal> {
        self.shape(self.node.output(0).ok_or("its first output is missing")?)
    }

    /// Returns the number of axes of an input.
    ///
    /// # Errors
    ///
    /// Refuses an input that is missing or of unknown rank.
    pub(crate) fn rank(&self, index: usize) -> Result<usize, Refusal> {
        Ok(self.x_shape(index)?.len())
    }

    /// Returns the axis that an attribute names, for a primal tensor of `rank` axes.
    ///
    /// # Errors
    ///
    /// Refuses an axis that does not exist.
    pub(crate) fn axis(&self, name: &str, default: i64, rank: usize) -> Result<usize, Refusal> {
        let axis = self.node.int(name, default);
        axis_of(axis, rank).ok_or_else(|| {
            Refusal(format!(
                "its attribute `{name}` is {axis}, for a tensor of {rank} axes"
            ))
        })
    }

    /// Returns the shape of a tangent of a tensor of the given shape.
    pub(crate) fn tangent_shape(&self, shape: &[Size]) -> Shape {
        std::iter::once(&self.k).chain(shape).cloned().collect()
    }

    /// Inserts axes of size 1 behind the directions, so that a tangent of a tensor of `rank` axes
    /// broadcasts to one of `wanted` axes by numpy's rule.
    pub(crate) fn align(&mut self, d: Val, rank: usize, wanted: usize) -> Val {
        let axes: Vec<i64> = (1..=wanted.saturating_sub(rank) as i64).collect();
        self.g.unsqueeze(d, &axes)
    }

    /// Returns the tangent of an elementwise operand, aligned with the output. Returns `None` if
    /// the tangent is zero.
    pub(crate) fn aligned(&mut self, index: usize) -> Result<Option<Val>, Refusal> {
        let Some(d) = self.d(index) else {
            return Ok(None);
        };
        let (rank, wanted) = (self.rank(index)?, self.y_shape()?.len());
        Ok(Some(self.align(d, rank, wanted)))
    }

    /// Broadcasts a tangent to the shape of the output's tangent.
    pub(crate) fn broadcast_to_output(&mut self, d: Val) -> Result<Val, Refusal> {
        let shape = self.tangent_shape(&self.y_shape()?);
        Ok(self.g.expand(d, &shape))
    }

    /// Returns the tangent of the output, from a value that may still have to be broadcast.
    pub(crate) fn finish(&mut self, d: Val) -> Result<Option<Tangent>, Refusal> {
        Ok(Some(Tangent::plain(self.broadcast_to_output(d)?)))
    }

    /// Appends a zero tangent of an input.
    pub(crate) fn zero(&mut self, index: usize) -> Result<Val, Refusal> {
        let shape = self.tangent_shape(&self.x_shape(index)?);
        let v = self.x(index)?;
        let elem = self.g.elem(v).tangent();
        Ok(self.g.zeros(&shape, elem))
    }

    /// Merges the directions of a tangent into the batch axis, for operators that accept one batch
    /// axis only. `shape` is the shape of the primal.
    pub(crate) fn merge_directions(&mut self, d: Val, shape: &[Size]) -> Result<Val, Refusal> {
        let folded = self
            .merged_shape(shape)
            .ok_or("its input has no batch axis")?;
        Ok(self.g.reshape(d, &folded))
    }

    /// Returns the shape of a tangent whose directions are merged into the batch axis.
    pub(crate) fn merged_shape(&mut self, shape: &[Size]) -> Option<Shape> {
        let (batch, rest) = shape.split_first()?;
        let merged = self.g.symbols.mul(&self.k, batch);
        Some(std::iter::once(&merged).chain(rest).cloned().collect())
    }

    /// Splits the directions of the output's tangent off the batch axis.
    pub(crate) fn split_directions(&mut self, d: Val) -> Result<Option<Tangent>, Refusal> {
        let shape = self.tangent_shape(&self.y_shape()?);
        Ok(Some(Tangent::plain(self.g.reshape(d, &shape))))
    }

    /// Returns whether the shape of an input is known to equal that of the output.
    pub(crate) fn same_shape(&self, index: usize) -> bool {
        let (x, y) = (self.node.input(index), self.node.output(0));
        x.zip(y)
            .is_some_and(|(x, y)| self.g.shape(x).is_some() && self.g.shape(x) == self.g.shape(y))
    }

    /// Multiplies the tangent of an input by a primal value, which must not be larger than the
    /// output.
    pub(crate) fn times(&mut self, index: usize, by: Val) -> Result<Option<Tangent>, Refusal> {
        let Some(tangent) = self.lazy(index) else {
            return Ok(None);
        };
        if self.same_shape(index) {
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
        let Some(d) = self.aligned(index)? else {
            return Ok(None);
        };
        let product = self.g.mul(d, by);
        self.finish(product)
    }

    /// Returns the sum of two tangents of the output.
    pub(crate) fn sum(&mut self, a: Option<Tangent>, b: Option<Tangent>) -> Option<Tangent> {
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

    /// Applies a sum or a difference to two tangents. If both are reshaped values, the operator is
    /// applied before the reshape.
    pub(crate) fn elementwise(&mut self, op: &str, a: Val, b: Val) -> Val {
        let (Some(shape), Some((from_a, from_b))) =
            (self.g.shape(a).cloned(), self.g.common_source(a, b))
        else {
            return self.g.op(op, &[a, b]);
        };
        let result = self.g.op(op, &[from_a, from_b]);
        self.g.reshape(result, &shape)
    }

    /// Appends `1 / v`, and 0 for elements of `v` that are 0.
    pub(crate) fn inverse_or_zero(&mut self, v: Val) -> Val {
        let inverse = self.g.op("Reciprocal", &[v]);
        let zero = self.g.real_like(0.0, v);
        let hit = self.g.op("Equal", &[v, zero]);
        self.g.op("Where", &[hit, zero, inverse])
    }

    /// Returns whether all elements of a value are known and pass a test.
    pub(crate) fn all_known(&self, v: Val, test: impl Fn(f64) -> bool) -> bool {
        self.g
            .content(v)
            .and_then(|c| c.reals())
            .is_some_and(|numbers| numbers.into_iter().all(test))
    }

    /// Negates a tangent, on the side of the factor if it has one.
    pub(crate) fn negative(&mut self, tangent: Tangent) -> Tangent {
        match tangent.factor {
            Some(factor) => Tangent {
                base: tangent.base,
                factor: Some(self.g.neg(factor)),
            },
            None => Tangent::plain(self.g.neg(tangent.base)),
        }
    }

    /// Returns the integers of an input.
    ///
    /// # Errors
    ///
    /// Refuses an input whose elements are not known before the graph runs.
    pub(crate) fn known(&self, index: usize) -> Result<Vec<i64>, Refusal> {
        let known = self
            .node
            .input(index)
            .and_then(|v| self.g.content(v))
            .and_then(|c| c.fixed());
        known.ok_or_else(|| {
            Refusal(format!(
                "its input {index} is computed at run time; export the model with it constant"
            ))
        })
    }
}
