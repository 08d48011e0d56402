//! Shapes of what moves elements without changing them.

use super::{Inferred, axes, axis_of, broadcast, product, reduced, size_of, sizes};
use crate::content::{Content, Item};
use crate::ir::{Graph, Node, Shape};
use crate::size::Size;

pub fn transpose(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?;
    match node.ints("perm") {
        None => Some(shape.iter().rev().cloned().collect()),
        Some(perm) if perm.len() != shape.len() => None,
        Some(perm) => perm.iter().map(|p| shape.get(usize::try_from(*p).ok()?).cloned()).collect(),
    }
}

pub fn reshape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (x, target) = (node.input(0)?, node.input(1)?);
    let Some(items) = g.content(target).map(|c| c.items.clone()) else {
        return sizes(g, target);
    };
    let from = g.shape(x).cloned();
    let copies = node.int("allowzero", 0) == 0;
    let mut shape = Vec::new();
    let mut wildcard = None;
    for (i, item) in items.iter().enumerate() {
        shape.push(match (item.as_fixed(), &from) {
            (Some(0), Some(from)) if copies => from.get(i).cloned()?,
            (Some(-1), _) => {
                wildcard = Some(i);
                Size::fixed(1)
            }
            _ => size_of(g, item.clone()),
        });
    }
    if let Some(i) = wildcard {
        let part = product(g, &shape);
        let whole = from.map(|from| product(g, &from));
        shape[i] = match whole {
            Some(whole) => g.symbols.div(&whole, &part),
            None => g.symbols.fresh(),
        };
    }
    Some(shape)
}

pub fn flatten(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?.clone();
    let axis = node.int("axis", 1);
    let axis = if axis == shape.len() as i64 { shape.len() } else { axis_of(axis, shape.len())? };
    Some(vec![product(g, &shape[..axis]), product(g, &shape[axis..])])
}

pub fn squeeze(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?.clone();
    match axes(g, node, shape.len())? {
        Some(axes) => reduced(&shape, &axes, false),
        // Without axes the rank depends on which sizes are 1.
        None if shape.iter().all(|d| d.as_fixed().is_some()) => Some(shape.into_iter().filter(|d| !d.is(1)).collect()),
        None => None,
    }
}

pub fn unsqueeze(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?.clone();
    let added = match node.input(1) {
        Some(v) => g.content(v)?.items.len(),
        None => node.ints("axes")?.len(),
    };
    let rank = shape.len().checked_add(added)?;
    let axes = axes(g, node, rank)??;
    let mut rest = shape.into_iter();
    (0..rank).map(|i| if axes.contains(&i) { Some(Size::fixed(1)) } else { rest.next() }).collect()
}

pub fn concat(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let axis = axis_of(node.int("axis", 0), shape.len())?;
    for v in node.inputs.iter().skip(1) {
        let next = g.shape((*v)?)?.clone();
        if next.len() != shape.len() {
            return None;
        }
        shape[axis] = g.symbols.add(&shape[axis], &next[axis]);
        for i in (0..shape.len()).filter(|i| *i != axis) {
            if shape[i].as_fixed().is_none() && next[i].as_fixed().is_some() {
                shape[i] = next[i].clone();
            }
        }
    }
    Some(shape)
}

pub fn split(g: &mut Graph, node: &Node, outputs: usize) -> Option<Vec<Inferred>> {
    let x = node.input(0)?;
    let (elem, shape) = (g.elem(x), g.shape(x)?.clone());
    let axis = axis_of(node.int("axis", 0), shape.len())?;
    let parts: Vec<Size> = match node.input(1) {
        Some(v) => sizes(g, v)?,
        None => {
            let n = outputs as i64;
            let part = match shape[axis].as_fixed() {
                Some(length) => Size::fixed(length.checked_add(n - 1)?.checked_div(n)?),
                None => g.symbols.div(&shape[axis], &Size::fixed(n)),
            };
            let last = match part.times(&Size::fixed(n - 1)) {
                Some(rest) => g.symbols.sub(&shape[axis], &rest),
                None => g.symbols.fresh(),
            };
            let mut parts = vec![part; outputs.saturating_sub(1)];
            parts.push(last);
            parts
        }
    };
    let with = |part: Size| {
        let mut shape = shape.clone();
        shape[axis] = part;
        (elem, Some(shape))
    };
    Some(parts.into_iter().map(with).collect())
}

pub fn slice(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let content = |g: &Graph, place: usize| node.input(place).and_then(|v| g.content(v).cloned());
    let starts = content(g, 1);
    let ends = content(g, 2);
    let steps = content(g, 4);
    let axes: Option<Vec<i64>> = match node.input(3) {
        Some(v) => g.content(v).and_then(Content::fixed),
        None => {
            let length = g.shape(node.input(1)?)?.first()?.as_fixed()?;
            (0..=shape.len() as i64).contains(&length).then(|| (0..length).collect())
        }
    };
    let Some(axes) = axes else {
        // Which axes are cut is not known.
        return Some(shape.iter().map(|_| g.symbols.fresh()).collect());
    };
    for (i, axis) in axes.iter().enumerate() {
        let axis = axis_of(*axis, shape.len())?;
        let bound = |c: &Option<Content>| c.as_ref().and_then(|c| c.items.get(i).cloned()).unwrap_or(Item::Unknown);
        let step = if node.input(4).is_some() { bound(&steps).as_fixed() } else { Some(1) };
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
    let reversed = start.is(-1) && end.as_fixed().is_some_and(|e| e <= -i64::from(i32::MAX)) && step == -1;
    if start.is(0) && step == 1 && (far || end == *length) || reversed {
        return length.clone();
    }
    // A non-negative start and a run to the end, or to a symbolic place: the plain difference.
    let negative = |s: &Size| s.as_fixed().is_some_and(|n| n < 0);
    let from = if negative(&start) { g.symbols.add(length, &start) } else { start.clone() };
    let to = if far {
        length.clone()
    } else if negative(&end) {
        g.symbols.add(length, &end)
    } else {
        end
    };
    let surely = step == 1 && (to == *length || to.as_fixed().is_none() && from.is(0) && to.as_symbol().is_some());
    let ends_inside = step == 1 && length.minus(&to).is_some_and(|rest| rest.as_fixed().is_some_and(|n| n >= 0));
    if surely || ends_inside {
        g.symbols.sub(&to, &from)
    } else {
        g.symbols.expression(format!("{length:?}[{from:?}:{to:?}:{step}]"))
    }
}

fn fixed_slice(n: i64, start: i64, end: i64, step: i64) -> Option<i64> {
    let wrap = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
    let (low, high) = if step > 0 { (0, n) } else { (-1, n.checked_sub(1)?) };
    let (start, end) = (wrap(start).max(low).min(high), wrap(end).max(low).min(high));
    let span = if step > 0 { end.checked_sub(start)? } else { start.checked_sub(end)? };
    let step = step.checked_abs().filter(|s| *s > 0)?;
    Some(if span <= 0 { 0 } else { (span - 1) / step + 1 })
}

pub fn gather(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let indices = g.shape(node.input(1)?)?.clone();
    let axis = axis_of(node.int("axis", 0), shape.len())?;
    shape.splice(axis..=axis, indices);
    Some(shape)
}

pub fn gather_nd(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (data, indices) = (g.shape(node.input(0)?)?, g.shape(node.input(1)?)?);
    let batch = usize::try_from(node.int("batch_dims", 0)).ok()?;
    let (last, leading) = indices.split_last()?;
    let depth = usize::try_from(last.as_fixed()?).ok()?;
    let rest = data.get(batch.checked_add(depth)?..)?;
    Some(leading.iter().chain(rest).cloned().collect())
}

pub fn expand(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?.clone();
    let target = sizes(g, node.input(1)?)?;
    Some(broadcast(g, &shape, &target))
}

pub fn tile(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?.clone();
    let repeats = sizes(g, node.input(1)?)?;
    (repeats.len() == shape.len()).then(|| shape.iter().zip(&repeats).map(|(d, n)| g.symbols.mul(d, n)).collect())
}

pub fn pad(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let pads = match node.input(1).and_then(|v| g.content(v).cloned()) {
        Some(content) => content.items,
        None => return Some(shape.iter().map(|_| g.symbols.fresh()).collect()),
    };
    let axes: Vec<usize> = match node.input(3) {
        Some(v) => g.content(v)?.fixed()?.iter().map(|a| axis_of(*a, shape.len())).collect::<Option<_>>()?,
        None => (0..shape.len()).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return None;
    }
    for (i, axis) in axes.iter().enumerate() {
        for pad in [&pads[i], &pads[i + axes.len()]] {
            shape[*axis] = match pad {
                Item::Int(pad) => g.symbols.add(&shape[*axis], pad),
                _ => g.symbols.fresh(),
            };
        }
    }
    Some(shape)
}
