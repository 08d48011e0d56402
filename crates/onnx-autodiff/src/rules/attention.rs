//! `Attention` where it stays a node because a runtime alone says what its scores at barred places are: its outputs are
//! differentiated as those of what it consists of.

use super::Rule;
use super::pieces::Made;
use crate::lowering;
use crate::step::Step;

pub const RULES: &[(&str, Rule)] = &[("Attention", Rule::Parts(attention))];

fn attention(s: &mut Step) -> Made {
    let node = s.node.clone();
    let parts = lowering::attention_parts(s.g, &node);
    parts.ok_or_else(|| "its inputs do not fit each other, or their shapes cannot be told".into())
}
