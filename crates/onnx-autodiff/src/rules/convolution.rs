//! Convolutions: linear in the image, with the directions merged into the batch, and in the weights, with the directions
//! merged into the channels that come out.

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

/// `dx * w + x * dw + db`
fn convolution(s: &mut Step) -> Result<Option<Tangent>, Refusal> {
    let (shape, y) = (s.x_shape(0)?, s.y_shape()?);
    if shape.len() != y.len() || shape.len() < 3 {
        return Err(CONTRADICTION.into());
    }
    let of_image = match s.d(0) {
        Some(d) => by_image(s, d, &shape, &y)?,
        None => None,
    };
    let of_weights = match s.d(1) {
        Some(d) => Some(by_weights(s, d, &y)?),
        None => None,
    };
    let of_bias = match s.d(2) {
        Some(d) => by_bias(s, d, y.len())?,
        None => None,
    };
    let linear = s.sum(of_image, of_weights);
    Ok(s.sum(linear, of_bias))
}

fn by_image(s: &mut Step, d: Val, shape: &[Size], y: &[Size]) -> Result<Option<Tangent>, Refusal> {
    if let Some(blocked) = blocked(s, d, shape, y)? {
        return s.unfold(blocked);
    }
    let folded = s.fold(d, shape)?;
    let weights = s.x(1)?;
    let attributes = s.node.attributes.clone();
    let result = s.g.op_with(&s.node.op.clone(), &[folded, weights], attributes);
    // The sizes of the output are those of the primal's.
    let batch = s.g.symbols.mul(&s.k.clone(), &shape[0]);
    let known = std::iter::once(batch).chain(y[1..].iter().cloned()).collect::<Vec<_>>();
    s.g.set_shape(result, &known);
    s.unfold(result)
}

/// Filters for every direction are channels that come out, those of one group together: `[G, K, M / G]`.
fn by_weights(s: &mut Step, d: Val, y: &[Size]) -> Result<Tangent, Refusal> {
    let (x, filter) = (s.x(0)?, s.x_shape(1)?);
    let group = Size::fixed(s.node.int("group", 1));
    if filter.len() != y.len() {
        return Err(CONTRADICTION.into());
    }
    let each = y[1].over(&group).ok_or("its channels do not divide into its groups")?;
    let k = s.k.clone();
    let many = s.g.symbols.mul(&k, &each);
    let weights = if s.node.op == "Conv" {
        let apart = s.g.reshape(d, &[&[k.clone(), group.clone(), each.clone()], &filter[1..]].concat());
        let order: Vec<usize> = [1, 0].into_iter().chain(2..filter.len() + 2).collect();
        let grouped = s.g.transpose(apart, &order);
        let all = s.g.symbols.mul(&group, &many);
        s.g.reshape(grouped, &[&[all], &filter[1..]].concat())
    } else {
        let order: Vec<usize> = [1, 0].into_iter().chain(2..=filter.len()).collect();
        let behind = s.g.transpose(d, &order);
        s.g.reshape(behind, &[&[filter[0].clone(), many.clone()], &filter[2..]].concat())
    };
    let attributes = s.node.attributes.clone();
    let result = s.g.op_with(&s.node.op.clone(), &[x, weights], attributes);
    let all = s.g.symbols.mul(&group, &many);
    s.g.set_shape(result, &[&[y[0].clone(), all], &y[2..]].concat());
    let apart = s.g.reshape(result, &[&[y[0].clone(), group, k, each], &y[2..]].concat());
    let order: Vec<usize> = [2, 0, 1, 3].into_iter().chain(4..y.len() + 2).collect();
    let leading = s.g.transpose(apart, &order);
    let whole = s.lead(y);
    Ok(Tangent::plain(s.g.reshape(leading, &whole)))
}

/// The bias is added to every place of every image.
fn by_bias(s: &mut Step, d: Val, rank: usize) -> Result<Option<Tangent>, Refusal> {
    let axes: Vec<i64> = std::iter::once(1).chain(3..=rank as i64).collect();
    let d = s.g.unsqueeze(d, &axes);
    s.done(d)
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
