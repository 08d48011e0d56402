//! Convolutions: linear, with the directions merged into the batch.

use super::Rule;
use crate::emit::int;
use crate::error::Refusal;
use crate::ir::Val;
use crate::size::Size;
use crate::step::{Step, Tangent};
use crate::transposes::CONTRADICTION;

pub const RULES: &[(&str, Rule)] = &[("Conv", Rule::Single(convolution)), ("ConvTranspose", Rule::Single(convolution))];

/// Channels that image layouts of runtimes come in: the widest that is in use.
const BLOCK: i64 = 16;

fn convolution(s: &mut Step) -> Result<Option<Tangent>, Refusal> {
    s.only(&[0], "its weights must not: a network that makes weights for another is not supported")?;
    let d = s.dx()?;
    let (shape, y) = (s.x_shape(0)?, s.y_shape()?);
    if shape.len() != y.len() || shape.len() < 3 {
        return Err(CONTRADICTION.into());
    }
    if let Some(blocked) = blocked(s, d, &shape, &y)? {
        return s.unfold(blocked);
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

/// A filter of one channel, over a batch that holds the channels (as resampling filters are exported): runtimes pad the
/// one channel to a block, which takes 16 times the memory. The same filter on 16 images as channels fills the block.
fn blocked(s: &mut Step, d: Val, shape: &[Size], y: &[Size]) -> Result<Option<Val>, Refusal> {
    let weights = s.x(1)?;
    let filter = s.shape(weights)?;
    let batch = s.g.symbols.mul(&s.k.clone(), &shape[0]);
    if s.node.op != "Conv" || filter.len() != shape.len() {
        return Ok(None);
    }
    let one = [&shape[1], &y[1], &filter[0], &filter[1]].into_iter().all(|size| size.is(1));
    // With one direction this is the reverse mode's.
    let Some(blocks) = batch.over(&Size::fixed(BLOCK)).filter(|_| one && !s.k.is(1)) else {
        return Ok(None);
    };
    let channels = [blocks, Size::fixed(BLOCK)];
    let image = s.g.reshape(d, &[&channels, &shape[2..]].concat());
    let weights = s.g.expand(weights, &[&[Size::fixed(BLOCK), Size::fixed(1)], &filter[2..]].concat());
    let mut attributes = s.node.attributes.clone();
    attributes.retain(|a| a.name() != "group");
    attributes.push(int("group", BLOCK));
    let result = s.g.op_with("Conv", &[image, weights], attributes);
    s.g.set_shape(result, &[&channels, &y[2..]].concat());
    Ok(Some(result))
}
