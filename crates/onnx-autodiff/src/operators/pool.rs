//! Pooling of images.

use super::conv::{pad, pads, patches};
use super::operator::{DecompositionResult, Operator, TangentResult};
use super::parts::{finished, folded_tangent, output_shape};
use super::resize::{as_matrix, multiply_along, unit_image};
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::emit::{int, ints};
use crate::graph::{Graph, Inferred, Node, Shape, Val};
use crate::inference;
use crate::inference::{Window, windowed, windows};
use crate::jvp_context::{JvpContext, Tangent};
use crate::size::Size;
use crate::transpose_context::{CONTRADICTION, Cotangents, TransposeContext};

/// The declarations of `AveragePool`, `GlobalAveragePool`, `GlobalLpPool`, `GlobalMaxPool`,
/// `LpPool` and `MaxPool`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("AveragePool")
        .shape(pool_shape)
        .tangent(folded_tangent)
        .transpose(average_pool_cotangent)
        .float64(average_pool_float64)
        .smooth(),
    Operator::new("GlobalAveragePool")
        .shape(global_pool_shape)
        .tangent(global_average_tangent)
        .float64(global_average_float64)
        .smooth(),
    Operator::new("GlobalLpPool")
        .kinked()
        .shape(global_pool_shape)
        .decomposition(global_lp_pool_decomposition)
        .float64_by_decomposition(),
    Operator::new("GlobalMaxPool")
        .kinked()
        .shape(global_pool_shape)
        .tangent(global_max_tangent)
        .float64(global_max_float64),
    Operator::new("LpPool")
        .kinked()
        .shape(pool_shape)
        .decomposition(lp_pool_decomposition)
        .float64_by_decomposition(),
    Operator::new("MaxPool")
        .kinked()
        .shapes(max_pool_shapes)
        .tangents(max_pool_tangent),
];

fn global_pool_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?;
    Some(
        shape
            .iter()
            .enumerate()
            .map(|(i, d)| if i < 2 { d.clone() } else { Size::fixed(1) })
            .collect(),
    )
}

/// Returns the types and shapes of the maxima and of their indices.
fn max_pool_shapes(g: &mut Graph, node: &Node, _: usize) -> Option<Vec<Inferred>> {
    let elem = g.elem(node.input(0)?);
    let shape = pool_shape(g, node);
    Some(vec![(elem, shape.clone()), (ElemType::INT64, shape)])
}

fn pool_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let x = g.shape(node.input(0)?)?.clone();
    let kernel = node.ints("kernel_shape")?;
    if kernel.len() + 2 != x.len() {
        return None;
    }
    let windows = windows(node, &kernel)?;
    let mut shape = x[..2].to_vec();
    for (length, w) in x[2..].iter().zip(&windows) {
        shape.push(windowed(g, node, length, w));
    }
    Some(shape)
}

/// Appends `|x|^p`.
fn powers(s: &mut JvpContext) -> Result<(Val, f64), Refusal> {
    let (x, p) = (s.x(0)?, s.node.int("p", 2));
    if p < 1 {
        return Err("its power is less than one".into());
    }
    let power = match p {
        1 => s.g.op("Abs", &[x]),
        2 => s.g.mul(x, x),
        _ => {
            let (size, p) = (s.g.op("Abs", &[x]), s.g.real_like(p as f64, x));
            s.g.op("Pow", &[size, p])
        }
    };
    Ok((power, p as f64))
}

/// Appends the `p`th root of a sum of powers. If all powers are zero, its tangent is zero.
fn root(g: &mut Graph, sum: Val, p: f64) -> Val {
    if p == 1.0 {
        return sum;
    }
    let (zero, one) = (g.real_like(0.0, sum), g.real_like(1.0, sum));
    let flat = g.op("Equal", &[sum, zero]);
    let safe = g.op("Where", &[flat, one, sum]);
    let root = if p == 2.0 {
        g.op("Sqrt", &[safe])
    } else {
        let exponent = g.real_like(1.0 / p, sum);
        g.op("Pow", &[safe, exponent])
    };
    g.op("Where", &[flat, zero, root])
}

fn global_lp_pool_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let (power, p) = powers(s)?;
    let axes: Vec<i64> = (2..s.rank(0)? as i64).collect();
    let sum = s.g.reduce("ReduceSum", power, &axes, true);
    let norm = root(s.g, sum, p);
    finished(s, norm)
}

/// Appends the root of an average over windows, which counts the padding, times the number of
/// elements of a window.
fn lp_pool_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let kernel = s.node.ints("kernel_shape").ok_or("its kernel is missing")?;
    let windows = windows(&s.node, &kernel).ok_or("its attributes do not fit its kernel")?;
    if s.node.int("ceil_mode", 0) != 0 {
        return Err("windows that extend beyond the end are not differentiated; export the model without ceil_mode".into());
    }
    if s.g.opset < 19 && windows.iter().any(|w| w.dilation != 1) {
        return Err("dilated windows are differentiated from opset 19 on".into());
    }
    let (power, p) = powers(s)?;
    let kept = ["auto_pad", "dilations", "kernel_shape", "pads", "strides"];
    let mut attributes: Vec<_> = s
        .node
        .attributes
        .iter()
        .filter(|a| kept.contains(&a.name()))
        .cloned()
        .collect();
    attributes.retain(|a| a.name() != "dilations" || windows.iter().any(|w| w.dilation != 1));
    attributes.push(int("count_include_pad", 1));
    let mean = s.g.op_with("AveragePool", &[power], attributes);
    let count: f64 = kernel.iter().map(|n| *n as f64).product();
    let sum = s.g.scale(mean, count);
    let norm = root(s.g, sum, p);
    finished(s, norm)
}

fn global_average_tangent(s: &mut JvpContext) -> TangentResult {
    let d = s.dx()?;
    let axes: Vec<i64> = (3..=s.rank(0)? as i64).collect();
    Ok(Some(Tangent::plain(s.g.reduce(
        "ReduceMean",
        d,
        &axes,
        true,
    ))))
}

fn global_max_tangent(s: &mut JvpContext) -> TangentResult {
    let (x, y, d) = (s.x(0)?, s.y()?, s.dx()?);
    let axes: Vec<i64> = (2..s.rank(0)? as i64).collect();
    let hit = s.g.op("Equal", &[x, y]);
    let mask = s.g.cast(hit, s.g.elem(x));
    let count = s.g.reduce("ReduceSum", mask, &axes, true);
    let weight = s.g.div(mask, count);
    let product = s.g.mul(d, weight);
    let later: Vec<i64> = axes.iter().map(|axis| axis + 1).collect();
    Ok(Some(Tangent::plain(s.g.reduce(
        "ReduceSum",
        product,
        &later,
        true,
    ))))
}

/// Returns the tangents of the maxima. Their indices refer to the flattened tensor.
fn max_pool_tangent(s: &mut JvpContext) -> Result<Vec<Option<Tangent>>, Refusal> {
    let (x, d) = (s.x(0)?, s.dx()?);
    let shape = s.x_shape(0)?;
    let by_columns = s.node.int("storage_order", 0) != 0;
    let places = match s.node.output(1).filter(|_| !by_columns) {
        Some(places) => places,
        None => {
            let attributes = s
                .node
                .attributes
                .iter()
                .filter(|a| a.name() != "storage_order")
                .cloned()
                .collect();
            s.g.push("MaxPool", &[Some(x)], attributes, 2)[1]
        }
    };
    let all = inference::size_product(s.g, &shape);
    let flat = [s.k.clone(), all];
    let d = s.g.reshape(d, &flat);
    let picked = s.g.op_with("Gather", &[d, places], vec![int("axis", 1)]);
    let target = s.tangent_shape(&s.y_shape()?);
    s.g.set_shape(picked, &target);
    Ok(vec![Some(Tangent::plain(picked)), None])
}

/// Returns the cotangent by one matrix for each axis, because averaging acts along each axis
/// separately.
fn average_pool_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let (x, y) = t.shapes(3)?;
    let kernel = t.node.ints("kernel_shape").ok_or("its kernel is missing")?;
    let windows = windows(&t.node, &kernel).ok_or("its attributes do not fit its kernel")?;
    if windows.len() + 2 != x.len() {
        return Err(CONTRADICTION.into());
    }
    let mut c = t.c()?;
    for (i, w) in windows.iter().enumerate() {
        let axis = i + 2;
        let unit = unit_image(t, &x[axis], c);
        let mut attributes = vec![
            ints("kernel_shape", &[1, w.kernel]),
            ints("strides", &[1, w.stride]),
            ints("pads", &[0, w.before, 0, w.after]),
        ];
        if t.node.ints("dilations").is_some() {
            attributes.push(ints("dilations", &[1, w.dilation]));
        }
        let kept = ["auto_pad", "ceil_mode", "count_include_pad"];
        attributes.extend(
            t.node
                .attributes
                .iter()
                .filter(|a| kept.contains(&a.name()))
                .cloned(),
        );
        if t.node.text("auto_pad", "NOTSET") != "NOTSET" {
            attributes.retain(|a| a.name() != "pads");
        }
        let image = t.g.op_with("AveragePool", &[unit], attributes);
        let matrix = as_matrix(t, image, &x[axis], &y[axis]);
        c = multiply_along(t, c, axis, matrix, &x[axis])?;
    }
    Ok(vec![(0, c)])
}

fn global_average_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    global(g, node, "ReduceMean")
}

fn global_max_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    global(g, node, "ReduceMax")
}

fn global(g: &mut Graph, node: &Node, op: &str) -> Option<Val> {
    let x = node.input(0)?;
    let axes: Vec<i64> = (2..g.rank(x)? as i64).collect();
    Some(g.reduce(op, x, &axes, true))
}

/// Appends the sum over each window, divided by the number of elements that count.
fn average_pool_float64(g: &mut Graph, node: &Node) -> Option<Val> {
    let x = node.input(0)?;
    let shape = g.shape(x)?.clone();
    let windows = inference::windows(node, &node.ints("kernel_shape")?)?;
    if windows
        .iter()
        .map(|w| w.kernel)
        .try_fold(1i64, i64::checked_mul)?
        > 1024
    {
        return None;
    }
    let y = output_shape(g, node)?;
    let stated = pads(node, &shape, &windows)?;
    let mut padding = stated.clone();
    if node.int("ceil_mode", 0) != 0 {
        for (i, w) in windows.iter().enumerate() {
            let (length, steps) = (shape[2 + i].as_fixed()?, y[2 + i].as_fixed()? - 1);
            let reached = steps * w.stride + w.dilation * (w.kernel - 1) + 1;
            padding[i].1 = padding[i].1.max(reached - length - padding[i].0);
        }
    }
    let padded = pad(g, x, &padding)?;
    let parts = patches(g, padded, &windows, &y, false)?;
    let mut mean = g.combine("Add", &parts);
    let padding_counts = node.int("count_include_pad", 0) != 0;
    for (i, w) in windows.iter().enumerate() {
        let whole = padding[i] == (0, 0) || (padding_counts && padding[i] == stated[i]);
        let count = if whole {
            g.real(w.kernel as f64, ElemType::DOUBLE)
        } else {
            let (length, steps) = (shape[2 + i].as_fixed()?, y[2 + i].as_fixed()?);
            let first = if padding_counts { -stated[i].0 } else { 0 };
            let last = if padding_counts {
                length + stated[i].1
            } else {
                length
            };
            counts(g, w, stated[i].0, (first, last), steps, y.len() - 3 - i)?
        };
        mean = g.div(mean, count);
    }
    g.set_shape(mean, &y);
    Some(mean)
}

/// Appends the number of elements of each window that lie within the bounds, with `behind` axes of
/// size 1 behind it.
fn counts(
    g: &mut Graph,
    w: &Window,
    before: i64,
    bounds: (i64, i64),
    steps: i64,
    behind: usize,
) -> Option<Val> {
    if !(1..=1 << 20).contains(&steps) {
        return None;
    }
    let counted = |step: i64| {
        let start = step * w.stride - before;
        (0..w.kernel)
            .filter(|i| (bounds.0..bounds.1).contains(&(start + i * w.dilation)))
            .count() as f64
    };
    let counts: Vec<f64> = (0..steps).map(counted).collect();
    let counts = g.reals(&counts, &[steps]);
    let shape: Vec<Size> = [Size::fixed(steps)]
        .into_iter()
        .chain(vec![Size::fixed(1); behind])
        .collect();
    Some(g.reshape(counts, &shape))
}
