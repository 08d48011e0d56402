//! `Range`: numbers in equal steps.

use super::operator::{DecompositionResult, Operator};
use super::parts::{finished, range_to};
use crate::content::{Content, Item, followed_count};
use crate::graph::{Graph, Node, Shape};
use crate::jvp_context::JvpContext;
use crate::size::Size;

/// The declaration of `Range`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("Range")
    .kinked()
    .shape(range_shape)
    .content(range_content)
    .decomposition(range_decomposition)];

fn range_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let item = |place: usize| {
        node.input(place)
            .and_then(|v| g.content(v))
            .and_then(|c| c.items.first().cloned())
    };
    let (start, limit, delta) = (item(0), item(1), item(2));
    if let (Some(Item::Int(start)), Some(Item::Int(limit)), Some(Item::Int(delta))) =
        (&start, &limit, &delta)
        && delta.is(1)
    {
        return Some(vec![g.symbols.sub(limit, start)]);
    }
    let length = (|| {
        let n = |item: &Option<Item>| match item {
            Some(Item::Int(size)) => size.as_fixed().map(|n| n as f64),
            Some(Item::Real(x)) => Some(*x),
            _ => None,
        };
        let length = ((n(&limit)? - n(&start)?) / n(&delta)?).ceil().max(0.0);
        (length < 1e15).then(|| Size::fixed(length as i64))
    })();
    Some(vec![length.unwrap_or_else(|| g.symbols.fresh())])
}

fn range_content(_: &mut Graph, _: &Node, inputs: &[Content]) -> Option<Content> {
    let [start, limit, delta] = inputs else {
        return None;
    };
    let one = |c: &Content| c.items.first()?.as_fixed();
    let (start, limit, delta) = (one(start)?, one(limit)?, one(delta)?);
    let span = limit.checked_sub(start)?;
    let steps = span
        .checked_div(delta)?
        .checked_add(i64::from(span.checked_rem(delta)? != 0))?;
    let steps = followed_count(&[usize::try_from(steps.max(0)).ok()?])?;
    Some(Content::list(
        (0..steps as i64)
            .map(|i| Item::fixed(start + i * delta))
            .collect(),
    ))
}

/// Appends `start + i delta`.
fn range_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let (start, delta, y) = (s.x(0)?, s.x(2)?, s.y_shape()?);
    if !s.g.elem(start).is_float() || y.len() != 1 || s.rank(0)? != 0 || s.rank(2)? != 0 {
        return Err("its bounds are not numbers of a floating-point type".into());
    }
    let places = range_to(s.g, &y[0]);
    let places = s.g.cast(places, s.g.elem(start));
    let steps = s.g.mul(places, delta);
    let result = s.g.add(steps, start);
    finished(s, result)
}
