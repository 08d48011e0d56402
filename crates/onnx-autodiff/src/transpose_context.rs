//! The context of a transpose: one node of the tangent graph that is being transposed, the
//! cotangents of its outputs, and helpers to write the cotangents of its inputs.
//!
//! The operators of the tangent graph are linear in those of their inputs that depend on the seed.
//! A transpose takes the cotangents of the outputs and returns those of these inputs.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Obstacle, Refusal};
use crate::graph::emit::int;
use crate::graph::subgraph::Body;
use crate::graph::{Graph, Node, Scope, Shape, Val};
use crate::size::Size;

/// The cotangents of inputs, with the indices of the inputs.
pub(crate) type Cotangents = Vec<(usize, Val)>;

/// The reason for a node whose shapes cannot occur.
pub(crate) const CONTRADICTION: &str = "the shapes of its inputs and outputs contradict each other";

/// The masks of cotangents. A cotangent that `Where` set to zero must stay zero, and not become the
/// NaN of zero times infinity.
pub(crate) type Masks = HashMap<Val, Mask>;

/// The elements at which a cotangent may differ from zero: those at which the condition, broadcast
/// to the cotangent, equals `chosen`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mask {
    /// The condition.
    pub condition: Val,
    /// The value of the condition at which the cotangent may differ from zero.
    pub chosen: bool,
}

/// The function that propagates cotangents backwards through nodes of a subgraph: the indices of
/// the nodes, the cotangents so far, and the obstacles.
pub(crate) type CotangentWalk =
    fn(&mut Graph, Range<usize>, &mut HashMap<Val, Val>, &mut Vec<Obstacle>);

/// The context of a transpose, which appends the cotangents of one node's inputs to the graph.
pub(crate) struct TransposeContext<'a> {
    /// The graph to which the transpose appends operators.
    pub g: &'a mut Graph,
    /// The node.
    pub node: Node,
    /// The masks of the cotangents.
    pub masks: &'a mut Masks,
    /// The cotangents of the node's outputs. `None` stands for a zero cotangent.
    pub output_cotangents: Vec<Option<Val>>,
    /// The cotangents of the values that the node's subgraphs capture.
    pub captured: Vec<(Val, Val)>,
    /// The function that propagates cotangents through the node's subgraphs.
    pub walk: CotangentWalk,
}

impl TransposeContext<'_> {
    /// Returns the cotangent of the first output.
    ///
    /// # Errors
    ///
    /// Refuses a node whose first output has a zero cotangent.
    pub(crate) fn c(&self) -> Result<Val, Refusal> {
        self.output_cotangents
            .first()
            .copied()
            .flatten()
            .ok_or_else(|| "its first output has no cotangent".into())
    }

    /// Returns an input of the node.
    ///
    /// # Errors
    ///
    /// Refuses a node without this input.
    pub(crate) fn input(&self, index: usize) -> Result<Val, Refusal> {
        self.node
            .input(index)
            .ok_or_else(|| Refusal(format!("its input {index} is missing")))
    }

    /// Returns whether an input depends on the seed.
    pub(crate) fn is_linear(&self, index: usize) -> bool {
        self.node
            .input(index)
            .is_some_and(|v| self.g.value(v).linear)
    }

    /// Returns the shape of a value.
    ///
    /// # Errors
    ///
    /// Refuses a value of unknown shape.
    pub(crate) fn shape(&self, v: Val) -> Result<Shape, Refusal> {
        self.g.shape(v).cloned().ok_or_else(|| {
            let name = &self.g.value(v).name;
            Refusal(format!(
                "the shape of `{name}` is not known; export the model with shapes (value_info)"
            ))
        })
    }

    /// Returns the shape of an input.
    ///
    /// # Errors
    ///
    /// Refuses an input that is missing or of unknown shape.
    pub(crate) fn input_shape(&self, index: usize) -> Result<Shape, Refusal> {
        self.shape(self.input(index)?)
    }

    /// Returns the shape of the first output.
    ///
    /// # Errors
    ///
    /// Refuses an output that is missing or of unknown shape.
    pub(crate) fn output_shape(&self) -> Result<Shape, Refusal> {
        self.shape(self.node.output(0).ok_or("its first output is missing")?)
    }

    /// Returns the shapes of the first input and the first output.
    ///
    /// # Errors
    ///
    /// Refuses shapes of different ranks, or of fewer than `axes` axes.
    pub(crate) fn shapes(&self, axes: usize) -> Result<(Shape, Shape), Refusal> {
        let (x, y) = (self.input_shape(0)?, self.output_shape()?);
        if x.len() != y.len() || x.len() < axes {
            return Err(CONTRADICTION.into());
        }
        Ok((x, y))
    }

    /// Sums a cotangent over the axes along which an input was broadcast.
    pub(crate) fn unbroadcast(&mut self, c: Val, index: usize) -> Result<Val, Refusal> {
        let (from, to) = (self.shape(c)?, self.input_shape(index)?);
        let sum = sum_to(self.g, c, &from, &to).ok_or(CONTRADICTION)?;
        self.pass_mask(c, sum);
        Ok(sum)
    }

    /// Multiplies a cotangent by a weight. Elements that the cotangent's mask excludes stay zero,
    /// even if the weight is infinite there.
    pub(crate) fn weighted(&mut self, c: Val, weight: Val) -> Val {
        let product = self.g.mul(c, weight);
        let Some(Mask { condition, chosen }) = self.masks.get(&c).copied() else {
            return product;
        };
        let finite = self.g.value(weight).constant.is_some();
        let kept = if finite {
            product
        } else {
            self.chosen(condition, chosen, product)
        };
        self.pass_mask(c, kept);
        kept
    }

    /// Appends `v` for elements at which the condition equals `chosen`, and 0 for the others.
    pub(crate) fn chosen(&mut self, condition: Val, chosen: bool, v: Val) -> Val {
        let zero = self.g.real_like(0.0, v);
        let (yes, no) = if chosen { (v, zero) } else { (zero, v) };
        self.g.op("Where", &[condition, yes, no])
    }

    /// Gives `v`, which is zero wherever `c` is, the mask of `c`.
    pub(crate) fn pass_mask(&mut self, c: Val, v: Val) {
        if let Some(mask) = self.masks.get(&c).copied() {
            self.put_mask(v, mask);
        }
    }

    /// Gives a cotangent a mask, if the condition of the mask still broadcasts to the cotangent.
    pub(crate) fn put_mask(&mut self, v: Val, mask: Mask) {
        let (Some(of), Some(to)) = (self.g.shape(mask.condition), self.g.shape(v)) else {
            return;
        };
        let fits = of.len() <= to.len()
            && of
                .iter()
                .rev()
                .zip(to.iter().rev())
                .all(|(a, b)| a.is(1) || a == b);
        if fits {
            self.masks.insert(v, mask);
        }
    }
}

/// Sums a cotangent of the shape `from` to the shape `to`, from which it was broadcast. Returns
/// `None` if `to` has more axes.
pub(crate) fn sum_to(g: &mut Graph, c: Val, from: &[Size], to: &[Size]) -> Option<Val> {
    let extra = from.len().checked_sub(to.len())?;
    let leading: Vec<i64> = (0..extra as i64).collect();
    let c = g.reduce("ReduceSum", c, &leading, false);
    let from = &from[extra..];
    let differs: Vec<usize> = (0..to.len()).filter(|i| from[*i] != to[*i]).collect();
    let (sure, open): (Vec<usize>, Vec<usize>) = differs.into_iter().partition(|i| to[*i].is(1));
    let sure: Vec<i64> = sure.into_iter().map(|i| i as i64).collect();
    let c = g.reduce("ReduceSum", c, &sure, true);
    Some(if open.is_empty() {
        c
    } else {
        sum_where_different(g, c, to)
    })
}

/// Sums a cotangent to the shape `to`, if only the run determines which axes were broadcast.
pub(crate) fn sum_where_different(g: &mut Graph, c: Val, to: &[Size]) -> Val {
    let (have, want) = (g.op("Shape", &[c]), g.sizes(to));
    let same = g.op("Equal", &[have, want]);
    let different = g.op("Not", &[same]);
    let indices = g.op("NonZero", &[different]);
    let axes = g.squeeze(indices, &[0]);
    let attributes = vec![int("keepdims", 1), int("noop_with_empty_axes", 1)];
    let summed = g.op_with("ReduceSum", &[c, axes], attributes);
    g.set_shape(summed, to);
    summed
}

/// Propagates cotangents backwards through the nodes of a subgraph in the current scope.
///
/// # Errors
///
/// Refuses a subgraph with a node that cannot be transposed.
pub(crate) fn transpose_subgraph(
    g: &mut Graph,
    walk: CotangentWalk,
    indices: std::ops::Range<usize>,
    output_cotangents: impl Iterator<Item = (Val, Val)>,
) -> Result<HashMap<Val, Val>, Refusal> {
    let mut cotangents: HashMap<Val, Val> = output_cotangents.collect();
    let (mut obstacles, origin) = (Vec::new(), g.origin);
    walk(g, indices, &mut cotangents, &mut obstacles);
    g.origin = origin;
    match obstacles.into_iter().next() {
        Some(obstacle) => Err(Refusal(format!("inside it, {}", obstacle.reason))),
        None => Ok(cotangents),
    }
}

/// Returns a copy of a value's cotangent under a name of its own, or zeros if it has none.
pub(crate) fn cotangent_or_zeros(
    g: &mut Graph,
    cotangents: &HashMap<Val, Val>,
    of: Val,
) -> Result<Val, Refusal> {
    let c = match cotangents.get(&of) {
        Some(c) => *c,
        None => zeros_like(g, of)?,
    };
    Ok(g.fresh_identity(c))
}

/// Appends zeros of the shape and type of a value.
///
/// # Errors
///
/// Refuses a value of unknown shape.
pub(crate) fn zeros_like(g: &mut Graph, v: Val) -> Result<Val, Refusal> {
    let shape = g
        .shape(v)
        .cloned()
        .ok_or("a shape in its subgraph is not known")?;
    Ok(g.zeros(&shape, g.elem(v)))
}

/// Closes the subgraph that began at `scope`. Discards the subgraph if `outputs` is a refusal,
/// which it returns.
pub(crate) fn close_subgraph(
    g: &mut Graph,
    scope: Scope,
    inputs: Vec<Val>,
    outputs: Result<Vec<Val>, Refusal>,
) -> Result<Body, Refusal> {
    match outputs {
        Ok(outputs) => Ok(Body::close(g, scope, inputs, outputs)),
        Err(refusal) => {
            g.leave(scope);
            Err(refusal)
        }
    }
}
