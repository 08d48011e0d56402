//! One node being transposed, and what transposes are written with.
//!
//! Operators of the tangent graph are linear in those of their inputs that depend on the seed; each transpose takes
//! the cotangents of the outputs and gives those of these inputs.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Obstacle, Refusal};
use crate::graph::emit::int;
use crate::graph::subgraph::Body;
use crate::graph::{Graph, Node, Scope, Shape, Val};
use crate::size::Size;

/// Cotangents of inputs, by the inputs' places.
pub type Cotangents = Vec<(usize, Val)>;

/// What is said of shapes that cannot be.
pub const CONTRADICTION: &str = "the shapes of its inputs and outputs contradict each other";

/// Cotangents that are zero wherever a condition has not chosen them: what `Where` left out must not come back as the
/// NaN of zero times infinity.
pub type Masks = HashMap<Val, Mask>;

/// Where a cotangent may differ from zero: where the condition, broadcast to it, is `chosen`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mask {
    pub condition: Val,
    pub chosen: bool,
}

/// Visits nodes of a subgraph from the last to the first, as reverse mode does: from cotangents that are known to those of
/// whatever they depend on.
pub type CotangentWalk = fn(&mut Graph, Range<usize>, &mut HashMap<Val, Val>, &mut Vec<Obstacle>);

/// One node being transposed.
pub struct TransposeContext<'a> {
    pub g: &'a mut Graph,
    pub node: Node,
    pub masks: &'a mut Masks,
    /// The cotangents of the node's outputs.
    pub output_cotangents: Vec<Option<Val>>,
    /// Values that the node's subgraphs use, with what these add to their cotangents.
    pub captured: Vec<(Val, Val)>,
    /// For the node's subgraphs.
    pub walk: CotangentWalk,
}

impl TransposeContext<'_> {
    /// The cotangent of the first output.
    pub fn c(&self) -> Result<Val, Refusal> {
        self.output_cotangents
            .first()
            .copied()
            .flatten()
            .ok_or_else(|| "its first output has no cotangent".into())
    }

    pub fn input(&self, place: usize) -> Result<Val, Refusal> {
        self.node
            .input(place)
            .ok_or_else(|| Refusal(format!("its input {place} is missing")))
    }

    /// Whether an input depends on the seed.
    pub fn is_linear(&self, place: usize) -> bool {
        self.node
            .input(place)
            .is_some_and(|v| self.g.value(v).linear)
    }

    pub fn shape(&self, v: Val) -> Result<Shape, Refusal> {
        self.g.shape(v).cloned().ok_or_else(|| {
            let name = &self.g.value(v).name;
            Refusal(format!(
                "the shape of `{name}` cannot be told; export the model with shapes (value_info)"
            ))
        })
    }

    pub fn input_shape(&self, place: usize) -> Result<Shape, Refusal> {
        self.shape(self.input(place)?)
    }

    pub fn output_shape(&self) -> Result<Shape, Refusal> {
        self.shape(self.node.output(0).ok_or("its first output is missing")?)
    }

    /// The shapes of first input and output, which have the same number of axes, and at least so many.
    pub fn shapes(&self, axes: usize) -> Result<(Shape, Shape), Refusal> {
        let (x, y) = (self.input_shape(0)?, self.output_shape()?);
        if x.len() != y.len() || x.len() < axes {
            return Err(CONTRADICTION.into());
        }
        Ok((x, y))
    }

    /// Sums a cotangent over the axes along which an input was broadcast.
    pub fn unbroadcast(&mut self, c: Val, place: usize) -> Result<Val, Refusal> {
        let (from, to) = (self.shape(c)?, self.input_shape(place)?);
        let sum = sum_to(self.g, c, &from, &to).ok_or(CONTRADICTION)?;
        self.pass_mask(c, sum);
        Ok(sum)
    }

    /// A weight times a cotangent, which stays zero where it was left out, whatever the weight is there.
    pub fn weighted(&mut self, c: Val, weight: Val) -> Val {
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

    /// `v` where the condition is `chosen`, else zero.
    pub fn chosen(&mut self, condition: Val, chosen: bool, v: Val) -> Val {
        let zero = self.g.real_like(0.0, v);
        let (yes, no) = if chosen { (v, zero) } else { (zero, v) };
        self.g.op("Where", &[condition, yes, no])
    }

    /// What is zero where `c` is has the mask of `c`, as far as the condition still fits its axes.
    pub fn pass_mask(&mut self, c: Val, v: Val) {
        if let Some(mask) = self.masks.get(&c).copied() {
            self.put_mask(v, mask);
        }
    }

    pub fn put_mask(&mut self, v: Val, mask: Mask) {
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

/// Sums over the axes that `from` has and `to` has not, or has with size 1.
pub fn sum_to(g: &mut Graph, c: Val, from: &[Size], to: &[Size]) -> Option<Val> {
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

/// The same where only the run tells which axes were broadcast.
pub fn sum_where_different(g: &mut Graph, c: Val, to: &[Size]) -> Val {
    let (have, want) = (g.op("Shape", &[c]), g.sizes(to));
    let same = g.op("Equal", &[have, want]);
    let different = g.op("Not", &[same]);
    let places = g.op("NonZero", &[different]);
    let axes = g.squeeze(places, &[0]);
    let attributes = vec![int("keepdims", 1), int("noop_with_empty_axes", 1)];
    let summed = g.op_with("ReduceSum", &[c, axes], attributes);
    g.set_shape(summed, to);
    summed
}

/// The cotangents that a subgraph, read backwards in the current scope, gives to what it uses.
pub fn transpose_subgraph(
    g: &mut Graph,
    walk: CotangentWalk,
    places: std::ops::Range<usize>,
    output_cotangents: impl Iterator<Item = (Val, Val)>,
) -> Result<HashMap<Val, Val>, Refusal> {
    let mut cotangents: HashMap<Val, Val> = output_cotangents.collect();
    let (mut obstacles, origin) = (Vec::new(), g.origin);
    walk(g, places, &mut cotangents, &mut obstacles);
    g.origin = origin;
    match obstacles.into_iter().next() {
        Some(obstacle) => Err(Refusal(format!("inside it, {}", obstacle.reason))),
        None => Ok(cotangents),
    }
}

/// A cotangent under a name of its own, zeros where there is none.
pub fn cotangent_or_zeros(
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

pub fn zeros_like(g: &mut Graph, v: Val) -> Result<Val, Refusal> {
    let shape = g
        .shape(v)
        .cloned()
        .ok_or("the shapes in its subgraph cannot be told")?;
    Ok(g.zeros(&shape, g.elem(v)))
}

/// Ends a subgraph, whether its outputs were found or not.
pub fn close_subgraph(
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
