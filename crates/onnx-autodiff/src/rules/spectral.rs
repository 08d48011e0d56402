//! The discrete Fourier transform.

use super::Rule;
use crate::emit::int;
use crate::error::Refusal;
use crate::shapes::axis_of;
use crate::step::{Step, Tangent};

pub const RULES: &[(&str, Rule)] = &[("DFT", Rule::Single(transform))];

/// The axis was an attribute before opset 20. The last axis holds real and imaginary parts.
fn transform(s: &mut Step) -> Result<Option<Tangent>, Refusal> {
    let d = s.dx()?;
    let rank = s.rank(0)?;
    let attribute = s.g.opset < 20;
    let axis = match s.node.input(2) {
        Some(_) => s.known(2)?.first().copied().ok_or("its axis is missing")?,
        None => s.node.int("axis", if attribute { 1 } else { -2 }),
    };
    let axis = axis_of(axis, rank).ok_or("its axis does not fit its input")? as i64 + 1;
    let mut attributes = ["inverse", "onesided"].map(|name| int(name, s.node.int(name, 0))).to_vec();
    let mut inputs = vec![Some(d), s.node.input(1)];
    if attribute {
        attributes.push(int("axis", axis));
        inputs.truncate(if s.node.input(1).is_some() { 2 } else { 1 });
    } else {
        inputs.push(Some(s.g.integer(axis)));
    }
    let result = s.g.op_optional("DFT", &inputs, attributes);
    let shape = s.lead(&s.y_shape()?);
    s.g.set_shape(result, &shape);
    Ok(Some(Tangent::plain(result)))
}
