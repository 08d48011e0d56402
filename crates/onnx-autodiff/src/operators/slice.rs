//! `Slice`: parts of axes.

use super::gather::add_along;
use super::operator::{Operator, TangentResult};
use super::parts::index_range;
use crate::content::{Content, Item};
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::folding::take;
use crate::graph::{Graph, Node, Shape, Val};
use crate::inference::axis_of;
use crate::jvp_context::{JvpContext, Tangent};
use crate::size::Size;
use crate::transpose_context::{Cotangents, TransposeContext};

/// The declaration of `Slice`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("Slice")
    .shape(slice_shape)
    .content(slice_content)
    .tangent(slice_tangent)
    .transpose(slice_cotangent)
    .smooth_in(&[0])];

fn slice_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let content = |g: &Graph, place: usize| node.input(place).and_then(|v| g.content(v).cloned());
    let starts = content(g, 1);
    let ends = content(g, 2);
    let steps = content(g, 4);
    let axes: Option<Vec<i64>> = match node.input(3) {
        Some(v) => g.content(v).and_then(Content::fixed),
        None => {
            let length = g.shape(node.input(1)?)?.first()?.as_fixed()?;
            (0..=shape.len() as i64)
                .contains(&length)
                .then(|| (0..length).collect())
        }
    };
    let Some(axes) = axes else {
        // It is not known which axes are cut.
        return Some(shape.iter().map(|_| g.symbols.fresh()).collect());
    };
    for (i, axis) in axes.iter().enumerate() {
        let axis = axis_of(*axis, shape.len())?;
        let bound = |c: &Option<Content>| {
            c.as_ref()
                .and_then(|c| c.items.get(i).cloned())
                .unwrap_or(Item::Unknown)
        };
        let step = if node.input(4).is_some() {
            bound(&steps).as_fixed()
        } else {
            Some(1)
        };
        shape[axis] = slice_size(g, &shape[axis].clone(), bound(&starts), bound(&ends), step);
    }
    Some(shape)
}

fn slice_size(g: &mut Graph, length: &Size, start: Item, end: Item, step: Option<i64>) -> Size {
    let (Item::Int(start), Item::Int(end), Some(step)) = (start, end, step) else {
        return g.symbols.fresh();
    };
    if let (Some(n), Some(s), Some(e)) = (length.as_fixed(), start.as_fixed(), end.as_fixed()) {
        return fixed_slice(n, s, e, step).map_or_else(|| g.symbols.fresh(), Size::fixed);
    }
    let far = end.as_fixed().is_some_and(|e| e >= i64::from(i32::MAX));
    let reversed =
        start.is(-1) && end.as_fixed().is_some_and(|e| e <= -i64::from(i32::MAX)) && step == -1;
    if start.is(0) && step == 1 && (far || end == *length) || reversed {
        return length.clone();
    }
    // With a start that is not negative and an end that is symbolic or the end of the axis, the
    // size is the plain difference.
    let negative = |s: &Size| s.as_fixed().is_some_and(|n| n < 0);
    let from = if negative(&start) {
        g.symbols.add(length, &start)
    } else {
        start.clone()
    };
    let to = if far {
        length.clone()
    } else if negative(&end) {
        g.symbols.add(length, &end)
    } else {
        end
    };
    let surely = step == 1
        && (to == *length || to.as_fixed().is_none() && from.is(0) && to.as_symbol().is_some());
    let ends_inside = step == 1
        && length
            .minus(&to)
            .is_some_and(|rest| rest.as_fixed().is_some_and(|n| n >= 0));
    if surely || ends_inside {
        g.symbols.sub(&to, &from)
    } else {
        g.symbols
            .expression(format!("{length:?}[{from:?}:{to:?}:{step}]"))
    }
}

fn fixed_slice(n: i64, start: i64, end: i64, step: i64) -> Option<i64> {
    let wrap = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
    let (low, high) = if step > 0 {
        (0, n)
    } else {
        (-1, n.checked_sub(1)?)
    };
    let (start, end) = (wrap(start).max(low).min(high), wrap(end).max(low).min(high));
    let span = if step > 0 {
        end.checked_sub(start)?
    } else {
        start.checked_sub(end)?
    };
    let step = step.checked_abs().filter(|s| *s > 0)?;
    Some(if span <= 0 { 0 } else { (span - 1) / step + 1 })
}

fn slice_content(_: &mut Graph, _: &Node, inputs: &[Content]) -> Option<Content> {
    let mut content = inputs.first()?.clone();
    let (starts, ends) = (inputs.get(1)?.fixed()?, inputs.get(2)?.fixed()?);
    let axes = match inputs.get(3) {
        Some(axes) => axes.fixed()?,
        None => (0..starts.len() as i64).collect(),
    };
    let steps = inputs
        .get(4)
        .map_or_else(|| Some(vec![1; starts.len()]), Content::fixed)?;
    for (i, axis) in axes.iter().enumerate() {
        let axis = axis_of(*axis, content.dims.len())?;
        let places = slice_places(
            content.dims[axis],
            *starts.get(i)?,
            *ends.get(i)?,
            *steps.get(i)?,
        )?;
        content = take(&content, axis, &places)?;
    }
    Some(content)
}

fn slice_places(length: usize, start: i64, end: i64, step: i64) -> Option<Vec<usize>> {
    let n = length as i64;
    let wrap = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
    let mut places = Vec::new();
    if step > 0 {
        let (mut i, end) = (wrap(start).clamp(0, n), wrap(end).clamp(0, n));
        while i < end {
            places.push(i as usize);
            i = i.saturating_add(step);
        }
    } else if step < 0 {
        let (mut i, end) = (wrap(start).clamp(-1, n - 1), wrap(end).clamp(-1, n - 1));
        while i > end {
            places.push(i as usize);
            i = i.saturating_add(step);
        }
    } else {
        return None;
    }
    Some(places)
}

/// Returns the tangent. Axes are counted behind the directions, and by default they are the first
/// ones.
fn slice_tangent(s: &mut JvpContext) -> TangentResult {
    let d = s.dx()?;
    let rank = s.rank(0)?;
    let axes = match s.node.input(3) {
        Some(_) => s.known(3)?,
        None => {
            let starts = s.x_shape(1)?;
            let count = starts
                .first()
                .and_then(|n| n.as_fixed())
                .ok_or("its number of axes is not known")?;
            (0..count.clamp(0, rank as i64)).collect()
        }
    };
    let shifted: Option<Vec<i64>> = axes
        .iter()
        .map(|a| Some(axis_of(*a, rank)? as i64 + 1))
        .collect();
    let shifted = shifted.ok_or("its axes do not fit its input")?;
    let like = s.node.input(1).map_or(ElemType::INT64, |v| s.g.elem(v));
    let axes = s.g.integers(&shifted);
    let axes = s.g.cast(axes, like);
    let inputs = [
        Some(d),
        s.node.input(1),
        s.node.input(2),
        Some(axes),
        s.node.input(4),
    ];
    let used = if s.node.input(4).is_some() { 5 } else { 4 };
    let sliced = s.g.op_optional("Slice", &inputs[..used], Vec::new());
    let shape = s.tangent_shape(&s.y_shape()?);
    s.g.set_shape(sliced, &shape);
    Ok(Some(Tangent::plain(sliced)))
}

/// Returns the cotangent. A slice without steps becomes padding, and one with steps becomes a
/// scatter.
fn slice_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (shape, cut) = t.shapes(1)?;
    let axes = t
        .node
        .input(3)
        .and_then(|v| t.g.content(v))
        .and_then(|c| c.fixed())
        .ok_or("its axes are not known")?;
    let mut c = t.c()?;
    for (i, axis) in axes.iter().enumerate() {
        let axis = axis_of(*axis, shape.len()).ok_or("its axes do not fit its input")?;
        c = uncut(t, c, i, axis, &shape[axis], &cut[axis])?;
    }
    Ok(vec![(0, c)])
}

/// Returns the cotangent before the `i`th cut, which is along one axis.
fn uncut(
    t: &mut TransposeContext,
    c: Val,
    i: usize,
    axis: usize,
    whole: &Size,
    part: &Size,
) -> Result<Val, Refusal> {
    if whole == part && known_step(t, i) == Some(1) {
        return Ok(c);
    }
    if whole == part && known_step(t, i) == Some(-1) {
        // The slice reverses the whole axis.
        let [start, end, axis, step] =
            [-1, i64::MIN + 1, axis as i64, -1].map(|n| t.g.integers(&[n]));
        let shape = t.shape(c)?;
        let back = t.g.op("Slice", &[c, start, end, axis, step]);
        t.g.set_shape(back, &shape);
        return Ok(back);
    }
    let start = t
        .node
        .input(1)
        .and_then(|v| t.g.content(v))
        .and_then(|s| s.items.get(i).cloned());
    if let (Some(Item::Int(start)), Some(1)) = (start, known_step(t, i)) {
        let negative = start.as_fixed().is_some_and(|n| n < 0);
        let before = if negative {
            t.g.symbols.add(whole, &start)
        } else {
            start
        };
        let rest = t.g.symbols.sub(whole, &before);
        let after = t.g.symbols.sub(&rest, part);
        let rank = t.shape(c)?.len();
        let mut pads = vec![Size::fixed(0); 2 * rank];
        pads[axis] = before;
        pads[rank + axis] = after;
        let mut shape = t.shape(c)?;
        shape[axis] = whole.clone();
        let pads = t.g.sizes(&pads);
        let padded = t.g.op("Pad", &[c, pads]);
        t.g.set_shape(padded, &shape);
        return Ok(padded);
    }
    let all = index_range(t, whole);
    let mut inputs = vec![all];
    for place in [1, 2, 4] {
        let bound = match t.node.input(place) {
            Some(v) => {
                let i = t.g.integers(&[i as i64]);
                t.g.op("Gather", &[v, i])
            }
            None => t.g.integers(&[1]),
        };
        if place == 4 {
            let like = t.g.elem(inputs[1]);
            let zero = t.g.integers(&[0]);
            inputs.push(t.g.cast(zero, like));
            let bound = t.g.cast(bound, like);
            inputs.push(bound);
        } else {
            inputs.push(bound);
        }
    }
    let picked = t.g.op("Slice", &inputs);
    t.g.set_shape(picked, std::slice::from_ref(part));
    add_along(t, c, axis, picked, whole)
}

/// Returns the step of the `i`th cut if it is known.
fn known_step(t: &TransposeContext, i: usize) -> Option<i64> {
    match t.node.input(4) {
        Some(v) => t.g.content(v)?.items.get(i)?.as_fixed(),
        None => Some(1),
    }
}
