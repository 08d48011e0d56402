//! Operators that pick elements by index, or put them somewhere.

use super::pieces::{Made, at};
use super::{Rule, scatter};
use crate::elem::ElemType;
use crate::emit::{int, text};
use crate::error::Refusal;
use crate::ir::Val;
use crate::proto::AttributeProto;
use crate::step::{Step, Tangent};

pub const RULES: &[(&str, Rule)] = &[
    ("Gather", Rule::Single(gather)),
    ("GatherElements", Rule::Single(gather_elements)),
    ("GatherND", Rule::Single(gather_nd)),
    ("OneHot", Rule::Parts(one_hot)),
    ("ScatterElements", Rule::Single(scatter_elements)),
    ("ScatterND", Rule::Single(scatter_nd)),
    ("TopK", Rule::Several(top_k)),
];

type Output = Result<Option<Tangent>, Refusal>;

fn indices(s: &Step) -> Result<Val, Refusal> {
    s.node.input(1).ok_or_else(|| "its indices are missing".into())
}

fn gather(s: &mut Step) -> Output {
    let (d, indices) = (s.dx()?, indices(s)?);
    let axis = s.axis("axis", 0, s.rank(0)?)? as i64;
    Ok(Some(Tangent::plain(s.g.op_with("Gather", &[d, indices], vec![int("axis", axis + 1)]))))
}

/// Where an index points has no derivative; the two values may have one: `off + hot (on - off)`.
fn one_hot(s: &mut Step) -> Made {
    let [Some(places), Some(depth)] = [0, 1].map(|place| s.node.input(place)) else {
        return Err("its indices or their number are missing".into());
    };
    let (values, y) = (s.x(2)?, s.y_shape()?);
    let places = s.g.cast(places, ElemType::INT64);
    let ends = [0.0, 1.0].map(|end| {
        let end = s.g.real(end, ElemType::FLOAT);
        s.g.unsqueeze(end, &[0])
    });
    let ends = s.g.concat(&ends, 0);
    let attributes = s.node.attributes.clone();
    let hot = s.g.op_with("OneHot", &[places, depth, ends], attributes);
    s.g.set_shape(hot, &y);
    let hot = s.g.cast(hot, s.g.elem(values));
    let [off, on] = [0, 1].map(|place| at(s.g, values, place));
    let span = s.g.sub(on, off);
    let raised = s.g.mul(span, hot);
    Ok(vec![Some(s.g.add(raised, off))])
}

/// Indices of the primal's shape, once for each direction.
fn for_each_direction(s: &mut Step, indices: Val) -> Result<Val, Refusal> {
    let shape = s.lead(&s.shape(indices)?);
    Ok(s.g.expand(indices, &shape))
}

fn gather_elements(s: &mut Step) -> Output {
    let (d, indices) = (s.dx()?, indices(s)?);
    let axis = s.axis("axis", 0, s.rank(0)?)? as i64;
    let indices = for_each_direction(s, indices)?;
    Ok(Some(Tangent::plain(s.g.op_with("GatherElements", &[d, indices], vec![int("axis", axis + 1)]))))
}

/// The directions go behind, where they are part of what is picked.
fn gather_nd(s: &mut Step) -> Output {
    let (d, indices) = (s.dx()?, indices(s)?);
    let last = directions_last(s, d, s.rank(0)?);
    let attributes = s.node.attributes.clone();
    let picked = s.g.op_with("GatherND", &[last, indices], attributes);
    let rank = s.y_shape()?.len();
    Ok(Some(Tangent::plain(directions_first(s, picked, rank))))
}

fn directions_last(s: &mut Step, d: Val, rank: usize) -> Val {
    let perm: Vec<usize> = (1..=rank).chain([0]).collect();
    s.g.transpose(d, &perm)
}

fn directions_first(s: &mut Step, d: Val, rank: usize) -> Val {
    let perm: Vec<usize> = std::iter::once(rank).chain(0..rank).collect();
    s.g.transpose(d, &perm)
}

fn data_and_updates(s: &mut Step) -> Result<(Val, Val), Refusal> {
    let data = match s.d(0) {
        Some(d) => d,
        None => s.zero(0)?,
    };
    let updates = match s.d(2) {
        Some(d) => d,
        None => s.zero(2)?,
    };
    Ok((data, updates))
}

/// Zeros of the data's shape with tangents of the updates added to them.
pub fn added(s: &mut Step, updates: Val) -> Result<Val, Refusal> {
    let (zeros, sum) = (s.zero(0)?, text("reduction", "add"));
    if s.node.op == "ScatterElements" {
        by_elements(s, zeros, updates, Some(sum))
    } else {
        by_slices(s, zeros, updates, vec![sum])
    }
}

fn scatter_elements(s: &mut Step) -> Output {
    if let Some(reduced) = scatter::reduced(s)? {
        return Ok(Some(reduced));
    }
    let (data, updates) = data_and_updates(s)?;
    let reduction = s.node.attribute("reduction").cloned();
    Ok(Some(Tangent::plain(by_elements(s, data, updates, reduction)?)))
}

fn by_elements(s: &mut Step, data: Val, updates: Val, reduction: Option<AttributeProto>) -> Result<Val, Refusal> {
    let indices = indices(s)?;
    let axis = s.axis("axis", 0, s.rank(0)?)? as i64;
    let indices = for_each_direction(s, indices)?;
    let mut attributes = vec![int("axis", axis + 1)];
    attributes.extend(reduction);
    Ok(s.g.op_with("ScatterElements", &[data, indices, updates], attributes))
}

fn scatter_nd(s: &mut Step) -> Output {
    if let Some(reduced) = scatter::reduced(s)? {
        return Ok(Some(reduced));
    }
    let (data, updates) = data_and_updates(s)?;
    let attributes = s.node.attributes.clone();
    Ok(Some(Tangent::plain(by_slices(s, data, updates, attributes)?)))
}

fn by_slices(s: &mut Step, data: Val, updates: Val, attributes: Vec<AttributeProto>) -> Result<Val, Refusal> {
    let indices = indices(s)?;
    let (rank, update_rank) = (s.rank(0)?, s.rank(2)?);
    let data = directions_last(s, data, rank);
    let updates = directions_last(s, updates, update_rank);
    let scattered = s.g.op_with("ScatterND", &[data, indices, updates], attributes);
    Ok(directions_first(s, scattered, rank))
}

fn top_k(s: &mut Step) -> Result<Vec<Option<Tangent>>, Refusal> {
    let d = s.dx()?;
    let axis = s.axis("axis", -1, s.rank(0)?)? as i64;
    let indices = match s.node.output(1) {
        Some(indices) => indices,
        None => s.g.push("TopK", &s.node.inputs.clone(), s.node.attributes.clone(), 2)[1],
    };
    let indices = for_each_direction(s, indices)?;
    let picked = s.g.op_with("GatherElements", &[d, indices], vec![int("axis", axis + 1)]);
    Ok(vec![Some(Tangent::plain(picked)), None])
}
