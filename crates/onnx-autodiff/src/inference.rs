//! Helpers of shape inference: broadcast sizes, axes and windows.

use crate::content::Item;
use crate::graph::{Graph, Node, Shape, Val};
use crate::size::Size;
pub(crate) use crate::size::axis_of;

/// The window of a convolution or a pool along one spatial axis.
pub(crate) struct Window {
    /// The number of elements of the window.
    pub kernel: i64,
    /// The distance between the starts of two windows that follow each other.
    pub stride: i64,
    /// The distance between two elements of the window that follow each other.
    pub dilation: i64,
    /// The padding in front of the first element.
    pub before: i64,
    /// The padding behind the last element.
    pub after: i64,
}

/// Returns the windows of all spatial axes. Their pads are zero if the attribute `auto_pad`
/// determines them instead. Returns `None` if an attribute is out of range.
pub(crate) fn windows(node: &Node, kernel: &[i64]) -> Option<Vec<Window>> {
    let n = kernel.len();
    let list = |name: &str, default: i64, length: usize| {
        let list = node
            .ints(name)
            .filter(|l| !l.is_empty())
            .unwrap_or_else(|| vec![default; length]);
        (list.len() == length).then_some(list)
    };
    let (strides, dilations, pads) = (
        list("strides", 1, n)?,
        list("dilations", 1, n)?,
        list("pads", 0, 2 * n)?,
    );
    let sane = |v: u64| v < 1 << 31;
    let positive = |v: &i64| *v > 0 && sane(v.unsigned_abs());
    if !kernel
        .iter()
        .chain(&strides)
        .chain(&dilations)
        .all(positive)
        || !pads.iter().all(|v| sane(v.unsigned_abs()))
    {
        return None;
    }
    let window = |i: usize| Window {
        kernel: kernel[i],
        stride: strides[i],
        dilation: dilations[i],
        before: pads[i],
        after: pads[i + n],
    };
    Some((0..n).map(window).collect())
}

/// Returns the number of windows along an axis of the given length.
pub(crate) fn windowed(g: &mut Graph, node: &Node, length: &Size, w: &Window) -> Size {
    let stride = Size::fixed(w.stride);
    let reach = w.dilation * (w.kernel - 1) + 1;
    match node.text("auto_pad", "NOTSET").as_str() {
        "SAME_UPPER" | "SAME_LOWER" => {
            let up = g.symbols.add(length, &Size::fixed(w.stride - 1));
            g.symbols.div(&up, &stride)
        }
        auto => {
            let pads = if auto == "VALID" {
                0
            } else {
                w.before + w.after
            };
            let room = g.symbols.add(length, &Size::fixed(pads - reach));
            if node.int("ceil_mode", 0) != 0 {
                return ceil_windows(g, length, &room, pads, w);
            }
            let steps = g.symbols.div(&room, &stride);
            g.symbols.add(&steps, &Size::fixed(1))
        }
    }
}

/// Returns the number of windows with `ceil_mode`, where the last window may extend beyond the
/// padding but must not start in it. `room` is the padded length minus the window.
pub(crate) fn ceil_windows(
    g: &mut Graph,
    length: &Size,
    room: &Size,
    _pads: i64,
    w: &Window,
) -> Size {
    let up = g.symbols.add(room, &Size::fixed(w.stride - 1));
    let steps = g.symbols.div(&up, &Size::fixed(w.stride));
    match (steps.as_fixed(), length.as_fixed()) {
        (Some(steps), Some(length)) => {
            let beyond = steps.saturating_mul(w.stride) >= length.saturating_add(w.before);
            Size::fixed(steps.saturating_add(i64::from(!beyond)))
        }
        _ => g.symbols.fresh(),
    }
}

/// Returns the sizes that an input such as a target shape holds. Unknown elements become new
/// symbols. Returns `None` if the number of elements is not known.
pub(crate) fn sizes_held_by(g: &mut Graph, v: Val) -> Option<Shape> {
    if let Some(content) = g.content(v) {
        let items = content.items.clone();
        return Some(items.into_iter().map(|item| size_of(g, item)).collect());
    }
    let length = g.shape(v)?.first()?.as_fixed()?;
    (0..=64)
        .contains(&length)
        .then(|| (0..length).map(|_| g.symbols.fresh()).collect())
}

/// Returns an element as a size. An element that is no integer becomes a new symbol.
pub(crate) fn size_of(g: &mut Graph, item: Item) -> Size {
    match item {
        Item::Int(size) => size,
        _ => g.symbols.fresh(),
    }
}

/// Returns the size to which two sizes are broadcast, by numpy's rule.
pub(crate) fn broadcast_size(g: &mut Graph, a: &Size, b: &Size) -> Size {
    match (a.as_fixed(), b.as_fixed()) {
        _ if a == b => a.clone(),
        (Some(1), _) => b.clone(),
        (_, Some(1)) => a.clone(),
        (Some(_), _) => a.clone(),
        (_, Some(_)) => b.clone(),
        _ => {
            let (low, high) = if a < b { (a, b) } else { (b, a) };
            g.symbols.expression(format!("{low:?} or {high:?}"))
        }
    }
}

/// Returns the shape to which two shapes are broadcast, by numpy's rule.
pub(crate) fn broadcast_shapes(g: &mut Graph, a: &[Size], b: &[Size]) -> Shape {
    let rank = a.len().max(b.len());
    let one = Size::fixed(1);
    let at = |shape: &[Size], i: usize| {
        (i + shape.len())
            .checked_sub(rank)
            .map_or(one.clone(), |j| shape[j].clone())
    };
    (0..rank)
        .map(|i| broadcast_size(g, &at(a, i), &at(b, i)))
        .collect()
}

/// Returns the shape to which all inputs of a node are broadcast.
pub(crate) fn broadcast_all(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = Vec::new();
    for v in node.inputs.iter().flatten() {
        let operand = g.shape(*v)?.clone();
        shape = broadcast_shapes(g, &shape, &operand);
    }
    Some(shape)
}

/// Returns the product of sizes.
pub(crate) fn size_product(g: &mut Graph, sizes: &[Size]) -> Size {
    let mut product = Size::fixed(1);
    for size in sizes {
        product = g.symbols.mul(&product, size);
    }
    product
}

/// Returns the axes that the second input holds or, in old opsets, the attribute `axes`. The inner
/// value is `None` if the node has neither; the outer one is `None` if the axes are not known
/// before the graph runs.
pub(crate) fn known_axes(g: &Graph, node: &Node, rank: usize) -> Option<Option<Vec<usize>>> {
    let list = match node.input(1) {
        Some(v) => Some(g.content(v)?.fixed()?),
        None => node.ints("axes"),
    };
    let Some(list) = list else { return Some(None) };
    let mut axes: Vec<usize> = list
        .iter()
        .map(|axis| axis_of(*axis, rank))
        .collect::<Option<_>>()?;
    axes.sort_unstable();
    axes.dedup();
    Some(Some(axes))
}

/// Returns a shape after a reduction over axes, which have size 1 if `keep` is set and are removed
/// otherwise.
pub(crate) fn reduced_shape(shape: &[Size], axes: &[usize], keep: bool) -> Option<Shape> {
    let kept = |(i, d): (usize, &Size)| match (axes.contains(&i), keep) {
        (false, _) => Some(d.clone()),
        (true, true) => Some(Size::fixed(1)),
        (true, false) => None,
    };
    Some(shape.iter().enumerate().filter_map(kept).collect())
}
