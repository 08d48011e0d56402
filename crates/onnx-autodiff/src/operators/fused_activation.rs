//! Activations that fused operators name in their attributes.

use super::parts::number_like;
use crate::graph::emit::float;
use crate::graph::{Graph, Val};

/// The activations and the names of their parameters, in the order of the attribute
/// `activation_params`.
const ACTIVATIONS: &[(&str, &[&str])] = &[
    ("Clip", &["min", "max"]),
    ("Elu", &["alpha"]),
    ("HardSigmoid", &["alpha", "beta"]),
    ("LeakyRelu", &["alpha"]),
    ("Relu", &[]),
    ("Selu", &["alpha", "gamma"]),
    ("Sigmoid", &[]),
    ("Softplus", &[]),
    ("Softsign", &[]),
    ("Tanh", &[]),
    ("ThresholdedRelu", &["alpha"]),
];

/// Appends an activation of `x`, or returns `x` if `name` is empty. `told` returns a parameter by
/// its index and its name. Returns `None` if the activation is unknown or a parameter is missing,
/// because defaults differ between operators.
pub(super) fn activated(
    g: &mut Graph,
    x: Val,
    name: &str,
    told: impl Fn(usize, &str) -> Option<f64>,
) -> Option<Val> {
    if name.is_empty() {
        return Some(x);
    }
    let (op, names) = ACTIVATIONS.iter().find(|(op, _)| *op == name)?;
    let numbers: Option<Vec<f64>> = names
        .iter()
        .enumerate()
        .map(|(index, name)| told(index, name))
        .collect();
    let numbers = numbers?;
    if *op == "Clip" {
        let bounds = [number_like(g, numbers[0], x), number_like(g, numbers[1], x)];
        return Some(g.op("Clip", &[x, bounds[0], bounds[1]]));
    }
    let attributes = names
        .iter()
        .zip(&numbers)
        .map(|(name, value)| float(name, *value))
        .collect();
    Some(g.op_with(op, &[x], attributes))
}
