//! Finds how a model scales an input before anything else, as networks do that take images of 0 to
//! 255.

use std::collections::HashMap;

use crate::content::Content;
use crate::model::Model;
use crate::proto::standardize;
use crate::proto::{NodeProto, TensorProto};

/// The affine map x → scale · x + offset. If channels have scales and offsets of their own, these
/// are the means over the channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// The factor.
    pub scale: f64,
    /// The summand.
    pub offset: f64,
}

/// Returns whether an operator moves elements and keeps their values. Its other inputs are sizes
/// and axes.
fn moves_elements(op: &str) -> bool {
    matches!(
        op,
        "Cast"
            | "Identity"
            | "Transpose"
            | "Reshape"
            | "Unsqueeze"
            | "Squeeze"
            | "Flatten"
            | "Resize"
    )
}

impl Model {
    /// Returns the scaling by the first operators behind an input: casts and moves, and sums and
    /// products with constants.
    pub fn scaling(&self, input: &str) -> Scaling {
        let graph = self.graph();
        let mut constants: HashMap<&str, f64> = (graph.initializer.iter())
            .filter_map(|tensor| Some((tensor.name(), mean(tensor)?)))
            .collect();
        let mut scaled = HashMap::from([(
            input,
            Scaling {
                scale: 1.0,
                offset: 0.0,
            },
        )]);
        let mut last = scaled[input];
        for node in &graph.node {
            let Some(output) = node.output.first() else {
                continue;
            };
            let known = |place: usize| {
                node.input
                    .get(place)
                    .and_then(|name| scaled.get(name.as_str()))
                    .copied()
            };
            let constant = |place: usize| {
                node.input
                    .get(place)
                    .and_then(|name| constants.get(name.as_str()))
                    .copied()
            };
            let found = match node.op_type() {
                _ if !standardize(node.domain()).is_empty() => None,
                "Constant" => {
                    written(node).map(|value| constants.insert(output, value));
                    continue;
                }
                op if moves_elements(op) => {
                    constant(0).map(|value| constants.insert(output, value));
                    known(0)
                }
                op => of_two(op, [known(0), known(1)], [constant(0), constant(1)]),
            };
            if let Some(found) = found {
                last = found;
                scaled.insert(output, found);
            }
        }
        last
    }
}

/// Returns the scaling after a sum or a product with a constant.
fn of_two(op: &str, scaled: [Option<Scaling>; 2], constants: [Option<f64>; 2]) -> Option<Scaling> {
    let (Scaling { scale, offset }, c, first) = match (scaled, constants) {
        ([Some(x), None], [_, Some(c)]) => (x, c, true),
        ([None, Some(x)], [Some(c), _]) => (x, c, false),
        _ => return None,
    };
    Some(match (op, first) {
        ("Add", _) => Scaling {
            scale,
            offset: offset + c,
        },
        ("Sub", true) => Scaling {
            scale,
            offset: offset - c,
        },
        ("Sub", false) => Scaling {
            scale: -scale,
            offset: c - offset,
        },
        ("Mul", _) => Scaling {
            scale: scale * c,
            offset: offset * c,
        },
        ("Div", true) if c != 0.0 => Scaling {
            scale: scale / c,
            offset: offset / c,
        },
        _ => return None,
    })
}

/// Returns the number in a `Constant` node, or the mean of its numbers.
fn written(node: &NodeProto) -> Option<f64> {
    let of = |name: &str| node.attribute.iter().find(|a| a.name() == name);
    match (of("value"), of("value_float")) {
        (Some(attribute), _) => mean(attribute.t.as_ref()?),
        (None, Some(attribute)) => attribute.f.map(f64::from),
        _ => None,
    }
}

/// Returns the mean of a tensor's elements.
fn mean(tensor: &TensorProto) -> Option<f64> {
    let values = Content::of_tensor(tensor)?.reals()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
