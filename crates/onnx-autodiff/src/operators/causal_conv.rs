//! Causal convolutions of each channel by itself, with a state that the next call continues.

use super::operator::{DecompositionResult, Operator};
use crate::error::Refusal;
use crate::graph::Val;
use crate::graph::emit::{int, ints};
use crate::graph::{Graph, Inferred, Node};
use crate::jvp_context::JvpContext;
use crate::size::Size;

/// The declaration of `CausalConvWithState`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("CausalConvWithState")
    .shapes(causal_conv_shapes)
    .decomposition(causal_conv_decomposition)
    .smooth_in(&[0, 1, 2, 3])];

/// Returns the shapes of the output and of the state, which has as many steps as the filter reaches
/// back.
fn causal_conv_shapes(g: &mut Graph, node: &Node, _: usize) -> Option<Vec<Inferred>> {
    let x = node.input(0)?;
    let (elem, shape) = (g.elem(x), g.shape(x)?.clone());
    let k = g.shape(node.input(1)?)?.get(2)?.as_fixed()?;
    let state = vec![
        shape.first()?.clone(),
        shape.get(1)?.clone(),
        Size::fixed(k.checked_sub(1)?),
    ];
    Some(vec![(elem, Some(shape)), (elem, Some(state))])
}

/// Convolves the state followed by the input, and returns the result and the end of that sequence.
fn causal_conv_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let (x, weights) = (s.x(0)?, s.x(1)?);
    let (shape, filter) = (s.shape(x)?, s.shape(weights)?);
    let ([batch, channels, length], [_, _, k]) = (&shape[..], &filter[..]) else {
        return Err("its input and weights do not have three axes".into());
    };
    let group = channels
        .as_fixed()
        .ok_or("its number of channels is not known")?;
    let k = k
        .as_fixed()
        .filter(|k| (1..1 << 20).contains(k))
        .ok_or("the length of its weights is not known")?;
    let before = Size::fixed(k - 1);
    let past = match s.node.input(3) {
        Some(_) => s.x(3)?,
        None => s.g.zeros(
            &[batch.clone(), channels.clone(), before.clone()],
            s.g.elem(x),
        ),
    };
    let whole = if k == 1 { x } else { s.g.concat(&[past, x], 2) };
    let mut inputs = vec![whole, weights];
    if s.node.input(2).is_some() {
        inputs.push(s.x(2)?);
    }
    let y = s.g.op_with(
        "Conv",
        &inputs,
        vec![int("group", group), ints("kernel_shape", &[k])],
    );
    s.g.set_shape(y, &shape);
    let y = silu_activated(s, y)?;
    let all = s.g.symbols.add(length, &before);
    let bounds = [
        s.g.sizes(std::slice::from_ref(length)),
        s.g.sizes(std::slice::from_ref(&all)),
        s.g.integers(&[2]),
    ];
    let end = s.g.op("Slice", &[whole, bounds[0], bounds[1], bounds[2]]);
    s.g.set_shape(end, &[batch.clone(), channels.clone(), before]);
    Ok(vec![Some(y), Some(end)])
}

/// Applies the activation of the node.
fn silu_activated(s: &mut JvpContext, y: Val) -> Result<Val, Refusal> {
    match s.node.text("activation", "none").as_str() {
        "none" => Ok(y),
        "silu" | "swish" => {
            let open = s.g.op("Sigmoid", &[y]);
            Ok(s.g.mul(y, open))
        }
        other => Err(format!("its activation `{other}` is not known").into()),
    }
}
