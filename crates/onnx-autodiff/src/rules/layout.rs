//! Operators that move elements without changing them.

use super::Rule;
use crate::emit::int;
use crate::error::Refusal;
use crate::ir::Val;
use crate::shapes::axis_of;
use crate::size::Size;
use crate::step::{Step, Tangent};

pub const RULES: &[(&str, Rule)] = &[
    ("Concat", Rule::Single(concat)),
    ("Expand", Rule::Single(expand)),
    ("Flatten", Rule::Single(reshape)),
    ("Pad", Rule::Single(pad)),
    ("Reshape", Rule::Single(reshape)),
    ("Slice", Rule::Single(slice)),
    ("Split", Rule::Several(split)),
    ("Squeeze", Rule::Single(reshape)),
    ("Tile", Rule::Single(tile)),
    ("Transpose", Rule::Single(transpose)),
    ("Trilu", Rule::Single(trilu)),
    ("Unsqueeze", Rule::Single(reshape)),
];

type Output = Result<Option<Tangent>, Refusal>;

/// Same elements in the same order: the directions stay in front. A factor is reshaped beside its base.
fn reshape(s: &mut Step) -> Output {
    let Some(tangent) = s.lazy(0) else {
        return Ok(None);
    };
    let (from, to) = (s.x_shape(0)?, s.y_shape()?);
    let target = s.lead(&to);
    let base = matrices(s, tangent.base, &target).unwrap_or_else(|| s.g.reshape(tangent.base, &target));
    let factor = tangent.factor.map(|factor| match s.g.rank(factor) {
        Some(0) => factor,
        _ => {
            let factor = s.g.expand(factor, &from);
            s.g.reshape(factor, &to)
        }
    });
    Ok(Some(Tangent { base, factor }))
}

/// Transposed matrices whose leading axes alone are reshaped: they are transposed afterwards, where a product can do it.
fn matrices(s: &mut Step, v: Val, target: &[Size]) -> Option<Val> {
    let (shape, rank) = (s.g.shape(v)?.clone(), target.len());
    if rank < 3 || shape.len() < 3 || shape[shape.len() - 2..] != target[rank - 2..] {
        return None;
    }
    let plain = s.g.swap(v, shape.len());
    let mut swapped = target.to_vec();
    swapped.swap(rank - 2, rank - 1);
    let is_source = s.g.maker(v).is_some_and(|node| node.standard() == "Transpose" && node.input(0) == Some(plain));
    is_source.then(|| {
        let plain = s.g.reshape(plain, &swapped);
        s.g.swap(plain, rank)
    })
}

fn transpose(s: &mut Step) -> Output {
    let d = s.dx()?;
    let rank = s.rank(0)?;
    let perm = s.node.ints("perm").unwrap_or_else(|| (0..rank as i64).rev().collect());
    let places: Option<Vec<usize>> = perm.iter().map(|p| Some(axis_of(*p, rank)? + 1)).collect();
    let places = places.filter(|p| p.len() == rank).ok_or("its permutation does not fit its input")?;
    let perm: Vec<usize> = std::iter::once(0).chain(places).collect();
    Ok(Some(Tangent::plain(s.g.transpose(d, &perm))))
}

fn concat(s: &mut Step) -> Output {
    let axis = s.axis("axis", 0, s.rank(0)?)?;
    let mut parts = Vec::new();
    for place in 0..s.node.inputs.len() {
        parts.push(match s.d(place) {
            Some(d) => d,
            None => s.zero(place)?,
        });
    }
    if let Some(folded) = folded(s, &parts, axis)? {
        return s.unfold(folded);
    }
    Ok(Some(Tangent::plain(s.g.concat(&parts, axis as i64 + 1))))
}

/// Tangents whose directions are merged into the batch, joined there.
fn folded(s: &mut Step, parts: &[Val], axis: usize) -> Result<Option<Val>, Refusal> {
    if axis == 0 {
        return Ok(None);
    }
    let mut sources = Vec::new();
    for (place, part) in parts.iter().enumerate() {
        let shape = s.x_shape(place)?;
        let wanted = s.folded(&shape);
        match s.g.reshaped_from(*part) {
            Some(source) if s.g.shape(source) == wanted.as_ref() => sources.push(source),
            _ => return Ok(None),
        }
    }
    Ok(Some(s.g.concat(&sources, axis as i64)))
}

fn split(s: &mut Step) -> Result<Vec<Option<Tangent>>, Refusal> {
    let d = s.dx()?;
    let axis = s.axis("axis", 0, s.rank(0)?)?;
    let mut attributes = vec![int("axis", axis as i64 + 1)];
    attributes.extend(s.node.attribute("num_outputs").cloned());
    let inputs: Vec<Option<Val>> = match s.node.input(1) {
        Some(parts) => vec![Some(d), Some(parts)],
        None => vec![Some(d)],
    };
    let parts = s.g.push("Split", &inputs, attributes, s.node.outputs.len());
    Ok(parts.into_iter().map(|part| Some(Tangent::plain(part))).collect())
}

/// Axes are counted behind the directions; unnamed axes are the first ones.
fn slice(s: &mut Step) -> Output {
    let d = s.dx()?;
    let rank = s.rank(0)?;
    let axes = match s.node.input(3) {
        Some(_) => s.known(3)?,
        None => {
            let starts = s.x_shape(1)?;
            let count = starts.first().and_then(|n| n.as_fixed()).ok_or("its number of axes is not known")?;
            (0..count.clamp(0, rank as i64)).collect()
        }
    };
    let shifted: Option<Vec<i64>> = axes.iter().map(|a| Some(axis_of(*a, rank)? as i64 + 1)).collect();
    let shifted = shifted.ok_or("its axes do not fit its input")?;
    let like = s.node.input(1).map_or(crate::ElemType::INT64, |v| s.g.elem(v));
    let axes = s.g.integers(&shifted);
    let axes = s.g.cast(axes, like);
    let inputs = [Some(d), s.node.input(1), s.node.input(2), Some(axes), s.node.input(4)];
    let used = if s.node.input(4).is_some() { 5 } else { 4 };
    let sliced = s.g.op_optional("Slice", &inputs[..used], Vec::new());
    let shape = s.lead(&s.y_shape()?);
    s.g.set_shape(sliced, &shape);
    Ok(Some(Tangent::plain(sliced)))
}

fn expand(s: &mut Step) -> Output {
    let d = s.aligned(0)?.ok_or("its shape depends on the differentiated input")?;
    s.done(d)
}

fn tile(s: &mut Step) -> Output {
    let d = s.dx()?;
    let repeats = s.node.input(1).ok_or("its repeats are missing")?;
    let one = s.g.integers(&[1]);
    let repeats = s.g.concat(&[one, repeats], 0);
    let tiled = s.g.op("Tile", &[d, repeats]);
    let shape = s.lead(&s.y_shape()?);
    s.g.set_shape(tiled, &shape);
    Ok(Some(Tangent::plain(tiled)))
}

/// Constant padding pads tangents with zeros; the other modes copy elements.
fn pad(s: &mut Step) -> Output {
    s.only(&[0], "pad with constants")?;
    let d = s.dx()?;
    let rank = s.rank(0)?;
    let pads = s.node.input(1).ok_or("its pads are missing")?;
    let mode = s.node.attribute("mode").cloned();
    let mut inputs = vec![Some(d)];
    if s.node.input(3).is_some() {
        let axes: Option<Vec<i64>> = s.known(3)?.iter().map(|a| Some(axis_of(*a, rank)? as i64 + 1)).collect();
        let axes = axes.ok_or("its axes do not fit its input")?;
        let axes = s.g.integers(&axes);
        inputs.extend([Some(pads), None, Some(axes)]);
    } else {
        inputs.push(Some(shifted_pads(s, pads, rank)));
    }
    let padded = s.g.op_optional("Pad", &inputs, mode.into_iter().collect());
    let shape = s.lead(&s.y_shape()?);
    s.g.set_shape(padded, &shape);
    Ok(Some(Tangent::plain(padded)))
}

/// The pads with none for the directions.
fn shifted_pads(s: &mut Step, pads: Val, rank: usize) -> Val {
    if let Ok(known) = s.known(1)
        && known.len() == 2 * rank
    {
        let (before, after) = known.split_at(rank);
        return s.g.integers(&[&[0], before, &[0], after].concat());
    }
    let zero = s.g.integers(&[0]);
    let [first, second] = [0..rank as i64, rank as i64..2 * rank as i64].map(|places| {
        let places = s.g.integers(&places.collect::<Vec<_>>());
        s.g.op("Gather", &[pads, places])
    });
    s.g.concat(&[zero, first, zero, second], 0)
}

fn trilu(s: &mut Step) -> Output {
    let d = s.dx()?;
    let inputs = [Some(d), s.node.input(1)];
    let used = if s.node.input(1).is_some() { 2 } else { 1 };
    let attributes = s.node.attributes.clone();
    Ok(Some(Tangent::plain(s.g.op_optional("Trilu", &inputs[..used], attributes))))
}
