//! Convolutions: linear, with the directions merged into the batch.

use super::Rule;
use crate::graph::error::Refusal;
use crate::graph::step::{Step, Tangent};
use crate::graph::transposes::CONTRADICTION;

pub const RULES: &[(&str, Rule)] = &[("Conv", Rule::Single(convolution)), ("ConvTranspose", Rule::Single(convolution))];

fn convolution(s: &mut Step) -> Result<Option<Tangent>, Refusal> {
    s.only(&[0], "its weights must not: a network that makes weights for another is not supported")?;
    let d = s.dx()?;
    let (shape, y) = (s.x_shape(0)?, s.y_shape()?);
    if shape.len() != y.len() || shape.len() < 3 {
        return Err(CONTRADICTION.into());
    }
    let folded = s.fold(d, &shape)?;
    let weights = s.x(1)?;
    let attributes = s.node.attributes.clone();
    let result = s.g.op_with(&s.node.op.clone(), &[folded, weights], attributes);
    // The sizes of the output are those of the primal's.
    let batch = s.g.symbols.mul(&s.k.clone(), &shape[0]);
    let known = std::iter::once(batch).chain(y[1..].iter().cloned()).collect::<Vec<_>>();
    s.g.set_shape(result, &known);
    s.unfold(result)
}
