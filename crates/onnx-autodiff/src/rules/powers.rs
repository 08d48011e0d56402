//! Norms of windows and of whole images, and determinants.

use super::Rule;
use super::pieces::{Made, finished};
use crate::emit::int;
use crate::error::Refusal;
use crate::ir::{Graph, Val};
use crate::shapes::windows;
use crate::size::Size;
use crate::step::Step;

pub const RULES: &[(&str, Rule)] =
    &[("Det", Rule::Parts(determinant)), ("GlobalLpPool", Rule::Parts(global)), ("LpPool", Rule::Parts(pooled))];

/// Matrices up to this size are developed.
const LARGEST: i64 = 4;

/// `|x|^p`
fn powers(s: &mut Step) -> Result<(Val, f64), Refusal> {
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

/// The root of a sum of powers; where all of them are zero, its tangent is, too.
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

fn global(s: &mut Step) -> Made {
    let (power, p) = powers(s)?;
    let axes: Vec<i64> = (2..s.rank(0)? as i64).collect();
    let sum = s.g.reduce("ReduceSum", power, &axes, true);
    let norm = root(s.g, sum, p);
    finished(s, norm)
}

/// An average with the padding counted in, times the number of elements of a window.
fn pooled(s: &mut Step) -> Made {
    let kernel = s.node.ints("kernel_shape").ok_or("its kernel is missing")?;
    let windows = windows(&s.node, &kernel).ok_or("its attributes do not fit its kernel")?;
    if s.node.int("ceil_mode", 0) != 0 {
        return Err("windows that reach over the end are not differentiated; export the model without ceil_mode".into());
    }
    if s.g.opset < 19 && windows.iter().any(|w| w.dilation != 1) {
        return Err("dilated windows are differentiated from opset 19 on".into());
    }
    let (power, p) = powers(s)?;
    let kept = ["auto_pad", "dilations", "kernel_shape", "pads", "strides"];
    let mut attributes: Vec<_> = s.node.attributes.iter().filter(|a| kept.contains(&a.name())).cloned().collect();
    attributes.retain(|a| a.name() != "dilations" || windows.iter().any(|w| w.dilation != 1));
    attributes.push(int("count_include_pad", 1));
    let mean = s.g.op_with("AveragePool", &[power], attributes);
    let count: f64 = kernel.iter().map(|n| *n as f64).product();
    let sum = s.g.scale(mean, count);
    let norm = root(s.g, sum, p);
    finished(s, norm)
}

/// Small matrices, developed by their first rows.
fn determinant(s: &mut Step) -> Made {
    let (x, shape) = (s.x(0)?, s.x_shape(0)?);
    let size = shape.last().and_then(Size::as_fixed).filter(|n| (1..=LARGEST).contains(n));
    let size = size.ok_or("determinants of matrices up to four by four are differentiated")?;
    let rank = shape.len();
    if rank < 2 || shape[rank - 2] != shape[rank - 1] {
        return Err("its matrices are not square".into());
    }
    let columns: Vec<i64> = (0..size).collect();
    let value = developed(s.g, x, 0, &columns);
    finished(s, value)
}

fn developed(g: &mut Graph, x: Val, row: i64, columns: &[i64]) -> Val {
    let mut total = None;
    for (i, column) in columns.iter().enumerate() {
        let element = element(g, x, row, *column);
        let others: Vec<i64> = columns.iter().copied().filter(|c| c != column).collect();
        let term = if others.is_empty() {
            element
        } else {
            let minor = developed(g, x, row + 1, &others);
            g.mul(element, minor)
        };
        total = Some(match total {
            None => term,
            Some(sum) if i % 2 == 0 => g.add(sum, term),
            Some(sum) => g.sub(sum, term),
        });
    }
    total.unwrap_or(x)
}

fn element(g: &mut Graph, x: Val, row: i64, column: i64) -> Val {
    let (row, column) = (g.integer(row), g.integer(column));
    let rows = g.op_with("Gather", &[x, row], vec![int("axis", -2)]);
    g.op_with("Gather", &[rows, column], vec![int("axis", -1)])
}
