//! Convolutions. They are linear in the image, where the directions are merged into the batch, and
//! in the weights, where the directions are merged into the output channels.

use super::operator::Operator;
use super::parts::output_shape;
use crate::error::Refusal;
use crate::graph::emit::{int, ints};
use crate::graph::{Graph, Node, Shape, Val};
use crate::inference;
use crate::inference::{Window, windowed, windows};
use crate::jvp_context::{JvpContext, Tangent};
use crate::passes::Pass;
use crate::proto::AttributeProto;
use crate::size::Size;
use crate::transpose_context::{CONTRADICTION, Cotangents, TransposeContext};

/// The declarations of `Conv` and `ConvTranspose`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Conv")
        .shape(conv_shape)
        .tangent(conv_tangent)
        .transpose(conv_cotangent)
        .float64(conv_float64)
        .smooth(),
    Operator::new("ConvTranspose")
        .shape(conv_transpose_shape)
        .tangent(conv_tangent)
        .transpose(conv_transpose_cotangent)
        .float64(conv_transpose_float64)
        .smooth(),
];

/// Returns the shape of a convolution's output.
pub(super) fn conv_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (x, w) = (
        g.shape(node.input(0)?)?.clone(),
        g.shape(node.input(1)?)?.clone(),
    );
    if x.len() != w.len() || x.len() < 3 {
        return None;
    }
    let kernel: Option<Vec<i64>> = w[2..].iter().map(Size::as_fixed).collect();
    let mut shape = vec![x[0].clone(), w[0].clone()];
    match kernel.and_then(|kernel| windows(node, &kernel)) {
        Some(windows) => shape.extend(
            x[2..]
                .iter()
                .zip(&windows)
                .map(|(d, w)| windowed(g, node, d, w))
                .collect::<Vec<_>>(),
        ),
        None => shape.extend(x[2..].iter().map(|_| g.symbols.fresh()).collect::<Vec<_>>()),
    }
    Some(shape)
}

/// Returns the shape of a transposed convolution's output.
fn conv_transpose_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (x, w) = (
        g.shape(node.input(0)?)?.clone(),
        g.shape(node.input(1)?)?.clone(),
    );
    if x.len() != w.len() || x.len() < 3 {
        return None;
    }
    let group = Size::fixed(node.int("group", 1));
    let mut shape = vec![x[0].clone(), g.symbols.mul(&w[1], &group)];
    let kernel: Option<Vec<i64>> = w[2..].iter().map(Size::as_fixed).collect();
    let given = node.ints("output_shape").filter(|l| !l.is_empty());
    let extra = node.ints("output_padding").unwrap_or_default();
    let windows = kernel.and_then(|kernel| windows(node, &kernel));
    for (i, length) in x[2..].iter().enumerate() {
        let size = match (&given, &windows) {
            (Some(given), _) => Size::fixed(*given.get(given.len().checked_sub(x.len() - 2)? + i)?),
            (None, Some(windows)) if !node.text("auto_pad", "NOTSET").starts_with("SAME") => {
                let w = &windows[i];
                let reach = w.dilation * (w.kernel - 1) + 1 + extra.get(i).unwrap_or(&0)
                    - w.before
                    - w.after;
                let steps = g.symbols.sub(length, &Size::fixed(1));
                let span = g.symbols.mul(&steps, &Size::fixed(w.stride));
                g.symbols.add(&span, &Size::fixed(reach))
            }
            (None, Some(windows)) => g.symbols.mul(length, &Size::fixed(windows[i].stride)),
            _ => g.symbols.fresh(),
        };
        shape.push(size);
    }
    Some(shape)
}

/// The largest number of channels in a block of the image layouts that runtimes use.
const BLOCK: i64 = 16;

/// Returns `dx * w + x * dw + db`.
fn conv_tangent(s: &mut JvpContext) -> Result<Option<Tangent>, Refusal> {
    let (shape, y) = (s.x_shape(0)?, s.y_shape()?);
    if shape.len() != y.len() || shape.len() < 3 {
        return Err(CONTRADICTION.into());
    }
    let of_image = match s.d(0) {
        Some(d) => by_image(s, d, &shape, &y)?,
        None => None,
    };
    let of_weights = match s.d(1) {
        Some(d) => Some(by_weights(s, d, &y)?),
        None => None,
    };
    let of_bias = match s.d(2) {
        Some(d) => by_bias(s, d, y.len())?,
        None => None,
    };
    let linear = s.sum(of_image, of_weights);
    Ok(s.sum(linear, of_bias))
}

/// Returns the part of the tangent that is linear in the image.
fn by_image(
    s: &mut JvpContext,
    d: Val,
    shape: &[Size],
    y: &[Size],
) -> Result<Option<Tangent>, Refusal> {
    if let Some(blocked) = blocked(s, d, shape, y)? {
        return s.split_directions(blocked);
    }
    let folded = s.merge_directions(d, shape)?;
    let weights = s.x(1)?;
    let attributes = s.node.attributes.clone();
    let result =
        s.g.op_with(&s.node.op.clone(), &[folded, weights], attributes);
    // The spatial sizes of the output are those of the primal.
    let batch = s.g.symbols.mul(&s.k.clone(), &shape[0]);
    let known = std::iter::once(batch)
        .chain(y[1..].iter().cloned())
        .collect::<Vec<_>>();
    s.g.set_shape(result, &known);
    s.split_directions(result)
}

/// Returns the part of the tangent that is linear in the filters. The filters of all directions are
/// output channels, those of one group together: `[G, K, M / G]`.
fn by_weights(s: &mut JvpContext, d: Val, y: &[Size]) -> Result<Tangent, Refusal> {
    let (x, filter) = (s.x(0)?, s.x_shape(1)?);
    let group = Size::fixed(s.node.int("group", 1));
    if filter.len() != y.len() {
        return Err(CONTRADICTION.into());
    }
    let each = y[1]
        .over(&group)
        .ok_or("its channels do not divide into its groups")?;
    let k = s.k.clone();
    let many = s.g.symbols.mul(&k, &each);
    let weights = if s.node.op == "Conv" {
        let apart = s.g.reshape(
            d,
            &[&[k.clone(), group.clone(), each.clone()], &filter[1..]].concat(),
        );
        let order: Vec<usize> = [1, 0].into_iter().chain(2..filter.len() + 2).collect();
        let grouped = s.g.transpose(apart, &order);
        let all = s.g.symbols.mul(&group, &many);
        s.g.reshape(grouped, &[&[all], &filter[1..]].concat())
    } else {
        let order: Vec<usize> = [1, 0].into_iter().chain(2..=filter.len()).collect();
        let behind = s.g.transpose(d, &order);
        s.g.reshape(
            behind,
            &[&[filter[0].clone(), many.clone()], &filter[2..]].concat(),
        )
    };
    let attributes = s.node.attributes.clone();
    let result = s.g.op_with(&s.node.op.clone(), &[x, weights], attributes);
    let all = s.g.symbols.mul(&group, &many);
    s.g.set_shape(result, &[&[y[0].clone(), all], &y[2..]].concat());
    let apart =
        s.g.reshape(result, &[&[y[0].clone(), group, k, each], &y[2..]].concat());
    let order: Vec<usize> = [2, 0, 1, 3].into_iter().chain(4..y.len() + 2).collect();
    let leading = s.g.transpose(apart, &order);
    let whole = s.tangent_shape(y);
    Ok(Tangent::plain(s.g.reshape(leading, &whole)))
}

/// Returns the part of the tangent that is linear in the bias, which is added at every position of
/// every image.
fn by_bias(s: &mut JvpContext, d: Val, rank: usize) -> Result<Option<Tangent>, Refusal> {
    let axes: Vec<i64> = std::iter::once(1).chain(3..=rank as i64).collect();
    let d = s.g.unsqueeze(d, &axes);
    s.finish(d)
}

/// Applies a filter of one channel to blocks of 16 images as channels. Filters of one channel over
/// a batch that holds the channels are common in resampling, and runtimes pad the channel to a
/// block, which takes 16 times the memory.
fn blocked(s: &mut JvpContext, d: Val, shape: &[Size], y: &[Size]) -> Result<Option<Val>, Refusal> {
    let weights = s.x(1)?;
    let filter = s.shape(weights)?;
    let batch = s.g.symbols.mul(&s.k.clone(), &shape[0]);
    if s.node.op != "Conv" || filter.len() != shape.len() {
        return Ok(None);
    }
    let one = [&shape[1], &y[1], &filter[0], &filter[1]]
        .into_iter()
        .all(|size| size.is(1));
    // With one direction, this is the tangent that reverse mode transposes.
    let blocks = batch
        .over(&Size::fixed(BLOCK))
        .filter(|_| s.g.passes.has(Pass::BlockedFilters));
    let Some(blocks) = blocks.filter(|_| one && !s.k.is(1)) else {
        return Ok(None);
    };
    let channels = [blocks, Size::fixed(BLOCK)];
    let image = s.g.reshape(d, &[&channels, &shape[2..]].concat());
    let weights = s.g.expand(
        weights,
        &[&[Size::fixed(BLOCK), Size::fixed(1)], &filter[2..]].concat(),
    );
    let mut attributes = s.node.attributes.clone();
    attributes.retain(|a| a.name() != "group");
    attributes.push(int("group", BLOCK));
    let result = s.g.op_with("Conv", &[image, weights], attributes);
    s.g.set_shape(result, &[&channels, &y[2..]].concat());
    Ok(Some(result))
}

/// Returns the strides, dilations, groups and explicit pads of a convolution.
fn window_attributes(t: &TransposeContext, windows: &[Window]) -> Vec<AttributeProto> {
    let all = |f: fn(&Window) -> i64| windows.iter().map(f).collect::<Vec<_>>();
    let pads = [all(|w| w.before), all(|w| w.after)].concat();
    vec![
        ints("strides", &all(|w| w.stride)),
        ints("dilations", &all(|w| w.dilation)),
        ints("pads", &pads),
        int("group", t.node.int("group", 1)),
    ]
}

/// Returns the windows with the pads that `auto_pad` or `output_shape` stand for. `narrow` are the
/// sizes at the strided end.
fn explicit_windows(
    t: &TransposeContext,
    wide: &[Size],
    narrow: &[Size],
    same: bool,
) -> Result<Vec<Window>, Refusal> {
    let kernel: Option<Vec<i64>> = t
        .input_shape(1)?
        .get(2..)
        .and_then(|k| k.iter().map(Size::as_fixed).collect());
    let kernel = kernel.ok_or("the size of its kernel is not known")?;
    let mut windows = windows(&t.node, &kernel).ok_or("its attributes do not fit its kernel")?;
    if windows.len() != wide.len() {
        return Err(CONTRADICTION.into());
    }
    let auto = t.node.text("auto_pad", "NOTSET");
    for (i, w) in windows.iter_mut().enumerate() {
        if auto == "VALID" {
            (w.before, w.after) = (0, 0);
        } else if auto.starts_with("SAME") || same {
            let reach = w.dilation * (w.kernel - 1) + 1;
            let sizes = wide[i].as_fixed().zip(narrow[i].as_fixed());
            let total = match sizes {
                Some((wide, narrow)) => narrow
                    .checked_sub(1)
                    .and_then(|steps| {
                        steps
                            .checked_mul(w.stride)?
                            .checked_add(reach)?
                            .checked_sub(wide)
                    })
                    .ok_or(CONTRADICTION)?,
                None if w.stride == 1 => reach - 1,
                None => {
                    return Err(
                        "automatic padding of an image of unknown size is not differentiated; export the model with explicit pads".into()
                    );
                }
            };
            let (less, more) = (total.max(0) / 2, total.max(0) - total.max(0) / 2);
            (w.before, w.after) = if auto == "SAME_UPPER" {
                (less, more)
            } else {
                (more, less)
            };
        }
    }
    Ok(windows)
}

fn conv_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (c, weights, (x, y)) = (t.c()?, t.input(1)?, t.shapes(3)?);
    let windows = explicit_windows(t, &x[2..], &y[2..], false)?;
    if !t.is_linear(0) {
        let image = t.input(0)?;
        return Ok(vec![(1, of_filters(t, image, c, &windows)?)]);
    }
    let mut attributes = window_attributes(t, &windows);
    let mut exact = true;
    let mut extra = Vec::new();
    for (size, w) in x[2..].iter().zip(&windows) {
        // The last window may end before the image does, and these elements have no cotangent.
        let reach = w.dilation * (w.kernel - 1) + 1;
        extra.push(match size.as_fixed() {
            _ if w.stride == 1 => 0,
            Some(n) => n
                .saturating_add(w.before + w.after - reach)
                .rem_euclid(w.stride),
            None => {
                exact = false;
                w.stride - 1
            }
        });
    }
    attributes.push(ints("output_padding", &extra));
    let spread = t.g.op_with("ConvTranspose", &[c, weights], attributes);
    let result = if exact { spread } else { cut_to(t, spread, &x) };
    t.g.set_shape(result, &x);
    Ok(vec![(0, result)])
}

/// Returns the cotangent of the filters that lead from a wide image to a narrow one, or back. The
/// narrow image is convolved over the wide one with strides and dilations exchanged, and the
/// samples take the role of the input channels.
fn of_filters(
    t: &mut TransposeContext,
    wide: Val,
    narrow: Val,
    windows: &[Window],
) -> Result<Val, Refusal> {
    let (from, to, filter) = (t.shape(wide)?, t.shape(narrow)?, t.input_shape(1)?);
    let group = t.node.int("group", 1);
    let groups = Size::fixed(group);
    let each = from[1]
        .over(&groups)
        .ok_or("its channels do not divide into its groups")?;
    let apart = t.g.reshape(
        wide,
        &[&[from[0].clone(), groups.clone(), each.clone()], &from[2..]].concat(),
    );
    let order: Vec<usize> = [2, 1, 0].into_iter().chain(3..from.len() + 1).collect();
    let turned = t.g.transpose(apart, &order);
    let samples = t.g.symbols.mul(&groups, &from[0]);
    let image =
        t.g.reshape(turned, &[&[each.clone(), samples], &from[2..]].concat());
    let order: Vec<usize> = [1, 0].into_iter().chain(2..to.len()).collect();
    let filters = t.g.transpose(narrow, &order);
    let all = |f: fn(&Window) -> i64| windows.iter().map(f).collect::<Vec<_>>();
    let attributes = vec![
        ints("strides", &all(|w| w.dilation)),
        ints("dilations", &all(|w| w.stride)),
        ints("pads", &[all(|w| w.before), all(|w| w.after)].concat()),
        int("group", group),
    ];
    let moved = t.g.op_with("Conv", &[image, filters], attributes);
    let channels = [each, to[1].clone()];
    // If the last window ends before the image does, the result has more positions than the filter.
    let cut = cut_to(t, moved, &[&channels, &filter[2..]].concat());
    t.g.set_shape(cut, &[&channels, &filter[2..]].concat());
    let result = t.g.transpose(cut, &order);
    t.g.set_shape(result, &filter);
    Ok(result)
}

/// Cuts each spatial axis off behind the wanted size.
fn cut_to(t: &mut TransposeContext, v: Val, shape: &Shape) -> Val {
    let axes: Vec<i64> = (2..shape.len() as i64).collect();
    let start = t.g.integers(&vec![0; axes.len()]);
    let end = t.g.sizes(&shape[2..]);
    let axes = t.g.integers(&axes);
    t.g.op("Slice", &[v, start, end, axes])
}

fn conv_transpose_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (c, weights, (x, y)) = (t.c()?, t.input(1)?, t.shapes(3)?);
    let given = t
        .node
        .ints("output_shape")
        .is_some_and(|shape| !shape.is_empty());
    let windows = explicit_windows(t, &y[2..], &x[2..], given)?;
    if !t.is_linear(0) {
        let image = t.input(0)?;
        return Ok(vec![(1, of_filters(t, c, image, &windows)?)]);
    }
    let attributes = window_attributes(t, &windows);
    let result = t.g.op_with("Conv", &[c, weights], attributes);
    t.g.set_shape(result, &x);
    Ok(vec![(0, result)])
}

/// The largest number of window positions of a convolution that is replaced in float64.
const PLACES: i64 = 1024;

/// The numbers of elements that are added at both ends of each spatial axis.
type Pads = Vec<(i64, i64)>;

/// Appends the convolution as a product of the patches of the image with a matrix of the weights.
fn conv_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let (x, weight) = (node.input(0)?, node.input(1)?);
    let (shape, kernel) = (g.shape(x)?.clone(), spatial(g, weight)?);
    let windows = inference::windows(node, &kernel)?;
    let pads = pads(node, &shape, &windows)?;
    let padded = pad(g, x, &pads)?;
    let groups = node.int("group", 1);
    let matrix = conv_matrix(g, weight, groups)?;
    let y_shape = output_shape(g, node)?;
    let y = correlated(g, padded, matrix, &windows, groups, &y_shape, false)?;
    with_bias(g, node, y)
}

/// Appends a convolution, with mirrored windows, of the image with zeros between its elements.
fn conv_transpose_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let (x, weight) = (node.input(0)?, node.input(1)?);
    let kernel = spatial(g, weight)?;
    let mut windows = inference::windows(node, &kernel)?;
    let sized = node
        .ints("output_shape")
        .is_some_and(|shape| !shape.is_empty());
    if sized {
        return None;
    }
    let extra = node.ints("output_padding").unwrap_or_default();
    let mut pads = Pads::new();
    for (i, w) in windows.iter().enumerate() {
        let (reach, extra) = (
            w.dilation * (w.kernel - 1),
            extra.get(i).copied().unwrap_or(0),
        );
        let (before, after) = cropped_ends(node, w, extra)?;
        pads.push((reach - before, reach - after + extra - (w.stride - 1)));
    }
    let spread = with_zeros_between(g, x, &windows)?;
    let padded = pad(g, spread, &pads)?;
    windows.iter_mut().for_each(|w| w.stride = 1);
    let groups = node.int("group", 1);
    let matrix = conv_transpose_matrix(g, weight, groups)?;
    let y_shape = output_shape(g, node)?;
    let y = correlated(g, padded, matrix, &windows, groups, &y_shape, true)?;
    with_bias(g, node, y)
}

/// Returns how many elements are cut off at both ends of an axis of a transposed convolution's
/// output.
fn cropped_ends(node: &Node, w: &Window, extra: i64) -> Option<(i64, i64)> {
    let total = w.dilation * (w.kernel - 1) + 1 + extra - w.stride;
    match node.text("auto_pad", "NOTSET").as_str() {
        "VALID" => Some((0, 0)),
        "SAME_UPPER" if total >= 0 => Some((total / 2, total - total / 2)),
        "SAME_LOWER" if total >= 0 => Some((total - total / 2, total / 2)),
        "SAME_UPPER" | "SAME_LOWER" => None,
        _ => Some((w.before, w.after)),
    }
}

fn spatial(g: &Graph, weight: Val) -> Option<Vec<i64>> {
    let kernel: Vec<i64> = g
        .shape(weight)?
        .get(2..)?
        .iter()
        .map(Size::as_fixed)
        .collect::<Option<_>>()?;
    let places = kernel.iter().try_fold(1i64, |n, k| n.checked_mul(*k))?;
    (!kernel.is_empty() && (1..=PLACES).contains(&places)).then_some(kernel)
}

fn with_bias(g: &mut Graph, node: &Node, y: Val) -> Option<Val> {
    let Some(bias) = node.input(2) else {
        return Some(y);
    };
    let axes: Vec<i64> = (1..g.rank(y)? as i64 - 1).collect();
    let bias = g.unsqueeze(bias, &axes);
    Some(g.add(y, bias))
}

/// Returns the padding that the node's attributes stand for.
pub(super) fn pads(node: &Node, shape: &[Size], windows: &[Window]) -> Option<Pads> {
    let same = |w: &Window, length: &Size, upper: bool| {
        let length = length.as_fixed()?;
        let steps = (length + w.stride - 1) / w.stride - 1;
        let total = (steps * w.stride + w.dilation * (w.kernel - 1) + 1 - length).max(0);
        let less = total / 2;
        Some(if upper {
            (less, total - less)
        } else {
            (total - less, less)
        })
    };
    let lengths = shape
        .get(2..)
        .filter(|lengths| lengths.len() == windows.len())?;
    match node.text("auto_pad", "NOTSET").as_str() {
        "VALID" => Some(vec![(0, 0); windows.len()]),
        "SAME_UPPER" => windows
            .iter()
            .zip(lengths)
            .map(|(w, n)| same(w, n, true))
            .collect(),
        "SAME_LOWER" => windows
            .iter()
            .zip(lengths)
            .map(|(w, n)| same(w, n, false))
            .collect(),
        _ => Some(windows.iter().map(|w| (w.before, w.after)).collect()),
    }
}

/// Pads an image with zeros. A negative number crops it.
pub(super) fn pad(g: &mut Graph, x: Val, pads: &Pads) -> Option<Val> {
    if pads.iter().all(|pair| *pair == (0, 0)) {
        return Some(x);
    }
    let mut shape = g.shape(x)?.clone();
    for (size, (before, after)) in shape.iter_mut().skip(2).zip(pads) {
        *size = g.symbols.add(size, &Size::fixed(before + after));
    }
    let starts = [0, 0].into_iter().chain(pads.iter().map(|pair| pair.0));
    let ends = [0, 0].into_iter().chain(pads.iter().map(|pair| pair.1));
    let amounts: Vec<i64> = starts.chain(ends).collect();
    let amounts = g.integers(&amounts);
    let padded = g.op("Pad", &[x, amounts]);
    g.set_shape(padded, &shape);
    Some(padded)
}

/// Inserts `stride − 1` zeros behind every element of the spatial axes.
fn with_zeros_between(g: &mut Graph, x: Val, windows: &[Window]) -> Option<Val> {
    if windows.iter().all(|w| w.stride == 1) {
        return Some(x);
    }
    let shape = g.shape(x)?.clone();
    let axes: Vec<i64> = (0..windows.len() as i64).map(|i| 3 + 2 * i).collect();
    let apart = g.unsqueeze(x, &axes);
    let rank = shape.len() + windows.len();
    let mut amounts = vec![0; 2 * rank];
    let mut whole = shape[..2].to_vec();
    for (i, w) in windows.iter().enumerate() {
        amounts[rank + 3 + 2 * i] = w.stride - 1;
        whole.push(g.symbols.mul(&shape[2 + i], &Size::fixed(w.stride)));
    }
    let amounts = g.integers(&amounts);
    let padded = g.op("Pad", &[apart, amounts]);
    Some(g.reshape(padded, &whole))
}

/// Reshapes weights `[M, C/G, …k]` to `[G, M/G, K·C/G]`, with the window positions in front of the
/// channels.
fn conv_matrix(g: &mut Graph, weight: Val, groups: i64) -> Option<Val> {
    let shape = g.shape(weight)?.clone();
    let order: Vec<usize> = [0].into_iter().chain(2..shape.len()).chain([1]).collect();
    let turned = g.transpose(weight, &order);
    let places = window_places(&shape)?;
    let groups = Size::fixed(groups);
    let each = shape[0].over(&groups)?;
    let width = g.symbols.mul(&places, &shape[1]);
    Some(g.reshape(turned, &[groups, each, width]))
}

/// Reshapes weights `[C, M/G, …k]` to `[G, M/G, K·C/G]`, with the window positions in front of the
/// channels.
fn conv_transpose_matrix(g: &mut Graph, weight: Val, groups: i64) -> Option<Val> {
    let shape = g.shape(weight)?.clone();
    let groups = Size::fixed(groups);
    let channels = shape[0].over(&groups)?;
    let split: Shape = [&[groups.clone(), channels.clone()], &shape[1..]].concat();
    let apart = g.reshape(weight, &split);
    let order: Vec<usize> = [0, 2]
        .into_iter()
        .chain(3..split.len())
        .chain([1])
        .collect();
    let turned = g.transpose(apart, &order);
    let places = window_places(&shape)?;
    let width = g.symbols.mul(&places, &channels);
    Some(g.reshape(turned, &[groups, shape[1].clone(), width]))
}

/// Returns the number of window positions of weights.
fn window_places(shape: &[Size]) -> Option<Size> {
    shape[2..]
        .iter()
        .try_fold(Size::fixed(1), |n, k| n.times(k))
}

/// Returns, for each position of the window, the elements of the image at that position of all
/// windows. `mirrored` returns the last position first.
pub(super) fn patches(
    g: &mut Graph,
    padded: Val,
    windows: &[Window],
    y: &[Size],
    mirrored: bool,
) -> Option<Vec<Val>> {
    let channels = g.shape(padded)?[..2].to_vec();
    let shape: Shape = [&channels[..], &y[2..]].concat();
    let mut places: Vec<Vec<i64>> = vec![Vec::new()];
    for w in windows {
        places = places
            .iter()
            .flat_map(|p| (0..w.kernel).map(|i| [&p[..], &[i]].concat()))
            .collect();
    }
    if mirrored {
        places.reverse();
    }
    let axes = g.integers(&(2..y.len() as i64).collect::<Vec<_>>());
    let steps = g.integers(&windows.iter().map(|w| w.stride).collect::<Vec<_>>());
    let mut found = Vec::new();
    for place in places {
        let starts: Vec<i64> = place
            .iter()
            .zip(windows)
            .map(|(i, w)| i * w.dilation)
            .collect();
        let ends: Vec<i64> = place
            .iter()
            .zip(windows)
            .map(|(i, w)| slice_end(w.dilation * (w.kernel - 1 - i)))
            .collect();
        let (starts, ends) = (g.integers(&starts), g.integers(&ends));
        let patch = g.op("Slice", &[padded, starts, ends, axes, steps]);
        g.set_shape(patch, &shape);
        found.push(patch);
    }
    Some(found)
}

/// Returns the end of a slice that stops so many elements before the last one.
fn slice_end(behind: i64) -> i64 {
    if behind == 0 { i64::MAX } else { -behind }
}

/// Appends the product of the patches of an image with a matrix of weights.
fn correlated(
    g: &mut Graph,
    padded: Val,
    matrix: Val,
    windows: &[Window],
    groups: i64,
    y: &[Size],
    mirrored: bool,
) -> Option<Val> {
    let batch = g.shape(padded)?[..2].to_vec();
    let groups = Size::fixed(groups);
    let channels = batch[1].over(&groups)?;
    let pixels = inference::size_product(g, &y[2..]);
    let flat = [batch[0].clone(), groups, channels, pixels];
    let parts = patches(g, padded, windows, y, mirrored)?;
    let parts: Vec<Val> = parts
        .into_iter()
        .map(|part| g.reshape(part, &flat))
        .collect();
    let stacked = g.concat(&parts, 2);
    let product = g.op("MatMul", &[matrix, stacked]);
    Some(g.reshape(product, y))
}
