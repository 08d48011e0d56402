//! How each operator's tangents follow from those of its inputs: one file per family, one list of all.

mod arithmetic;
mod attention;
mod causal_conv;
mod convolution;
mod cumulative;
mod deform_conv;
mod dequantize;
mod diagonal;
mod gated;
mod gather;
mod grid_sample;
mod layout;
mod linear_attention;
mod loss;
mod max_unpool;
mod norm;
mod pieces;
mod powers;
mod product;
mod recurrent;
mod reduce;
mod refused;
mod resample;
mod roi_pool;
mod scatter;
mod sequence;
mod silent;
mod softmax;
mod spectral;
mod unique;

use std::collections::HashMap;

use super::error::Refusal;
use super::ir::{Node, Val};
use super::step::{Step, Tangent};

/// How the tangent of one operator is computed.
#[derive(Clone, Copy)]
pub enum Rule {
    /// The outputs do not depend on the input in a way that has a derivative other than zero.
    Constant,
    /// Elementwise: the output's derivative by the input, at the primal's cost.
    Diagonal(fn(&mut Step) -> Result<Val, Refusal>),
    /// One output: any other that is needed is refused.
    Single(fn(&mut Step) -> Result<Option<Tangent>, Refusal>),
    /// One output, whose rule may look at the tangents of what its inputs are made of.
    Behind(BehindRule),
    /// Both branches of an `If`.
    Branches,
    /// Replaced by what it consists of where it is differentiated: the outputs as other operators make them, whose rules
    /// differentiate them. Those beyond the list are refused where they are needed.
    Parts(fn(&mut Step) -> Result<Vec<Option<Val>>, Refusal>),
    /// Several outputs; those beyond the list are refused where they are needed.
    Several(fn(&mut Step) -> Result<Vec<Option<Tangent>>, Refusal>),
}

/// A rule that is also given the tangents of what the inputs are made of.
pub type BehindRule = fn(&mut Step, &HashMap<Val, Tangent>) -> Result<Option<Tangent>, Refusal>;

/// All families of operators that can be differentiated.
pub const FAMILIES: &[&[(&str, Rule)]] = &[
    arithmetic::RULES,
    attention::RULES,
    causal_conv::RULES,
    convolution::RULES,
    cumulative::RULES,
    deform_conv::RULES,
    dequantize::RULES,
    diagonal::RULES,
    gated::RULES,
    gather::RULES,
    grid_sample::RULES,
    layout::RULES,
    linear_attention::RULES,
    loss::RULES,
    max_unpool::RULES,
    norm::RULES,
    powers::RULES,
    product::RULES,
    recurrent::RULES,
    reduce::RULES,
    resample::RULES,
    roi_pool::RULES,
    sequence::RULES,
    silent::RULES,
    softmax::RULES,
    spectral::RULES,
    unique::RULES,
];

/// Operators that have a derivative, in alphabetical order.
pub fn differentiable() -> Vec<&'static str> {
    let rules = FAMILIES.iter().flat_map(|family| family.iter());
    let mut ops: Vec<&str> = rules.filter(|(_, rule)| !matches!(rule, Rule::Constant)).map(|(op, _)| *op).collect();
    ops.extend(super::lowering::standard());
    ops.sort_unstable();
    ops.dedup();
    ops
}

/// All operators with a rule.
pub fn names() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().flat_map(|family| family.iter()).map(|(op, _)| *op)
}

/// The rule of an operator of the standard domain.
pub fn named(op: &str) -> Option<Rule> {
    FAMILIES.iter().flat_map(|family| family.iter()).find(|(known, _)| *known == op).map(|(_, rule)| *rule)
}

/// Why an operator, or some of its forms, is refused.
pub fn refusal(domain: &str, op: &str) -> String {
    if domain.is_empty() { refused::known(op).to_owned() } else { refused::of_domain(domain).to_owned() }
}

/// The rule for a node, or why there is none.
pub fn of(node: &Node) -> Result<Rule, Refusal> {
    if !node.domain.is_empty() {
        return Err(refused::foreign(node));
    }
    named(&node.op).ok_or_else(|| refused::reason(node))
}

/// Whether a node has no rule whatever its inputs are.
pub fn hopeless(node: &Node) -> bool {
    of(node).is_err()
}
