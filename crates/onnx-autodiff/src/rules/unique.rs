//! The distinct elements of a tensor: each is the first one of its value, whose tangent it has.

use super::Rule;
use crate::emit::int;
use crate::error::Refusal;
use crate::shapes;
use crate::step::{Step, Tangent};

pub const RULES: &[(&str, Rule)] = &[("Unique", Rule::Several(unique))];

/// Elements, or slices along an axis, picked where each occurs first. How many there are is constant wherever the
/// output is continuous.
fn unique(s: &mut Step) -> Result<Vec<Option<Tangent>>, Refusal> {
    let (d, shape, y) = (s.dx()?, s.x_shape(0)?, s.y_shape()?);
    let first = match s.node.output(1) {
        Some(first) => first,
        None => s.g.push("Unique", &s.node.inputs.clone(), s.node.attributes.clone(), 2)[1],
    };
    let (d, axis) = match s.node.attribute("axis") {
        Some(_) => (d, s.axis("axis", 0, shape.len())?),
        None => {
            let all = shapes::product(s.g, &shape);
            let flat = [s.k.clone(), all];
            (s.g.reshape(d, &flat), 0)
        }
    };
    let picked = s.g.op_with("Gather", &[d, first], vec![int("axis", axis as i64 + 1)]);
    let target = s.lead(&y);
    s.g.set_shape(picked, &target);
    Ok(vec![Some(Tangent::plain(picked)), None, None, None])
}
