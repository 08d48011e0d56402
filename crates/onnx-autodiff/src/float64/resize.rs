//! Interpolation as a product with a matrix along each axis that is resized.

use super::convolution::output_shape;
use crate::content::Content;
use crate::ir::{Graph, Node, Val};
use crate::shapes::axis_of;
use crate::size::Size;

pub fn resize(g: &mut Graph, node: &Node) -> Option<Val> {
    let mut x = node.input(0)?;
    let shape = g.shape(x)?.clone();
    let stretched = node.text("keep_aspect_ratio_policy", "stretch") == "stretch";
    if !stretched || node.int("antialias", 0) != 0 || node.float("extrapolation_value", 0.0) != 0.0 {
        return None;
    }
    let y = output_shape(g, node)?;
    for axis in 0..shape.len() {
        let scale = scale(g, node, axis, shape.len())?;
        if scale.is_none_or(|scale| scale == 1.0) && shape[axis] == y[axis] {
            continue;
        }
        let (n, m) = (shape[axis].as_fixed()?, y[axis].as_fixed()?);
        if n < 1 || m < 1 || n.checked_mul(m)? > 1 << 24 {
            return None;
        }
        let scale = scale.unwrap_or(m as f64 / n as f64);
        let region = region(g, node, axis, shape.len())?;
        let one = |o: i64| match region {
            Some(region) => cropped(node, region, o, n, m),
            None => row(node, place(node, o, n, m, scale)?, n),
        };
        let rows: Option<Vec<Row>> = (0..m).map(one).collect();
        x = along(g, x, axis, &rows?, n)?;
        g.set_shape(x, &[&y[..=axis], &shape[axis + 1..]].concat());
    }
    Some(x)
}

/// The scale of an axis: `Some(None)` where sizes are given instead, none where it is not known before anything runs.
fn scale(g: &Graph, node: &Node, axis: usize, rank: usize) -> Option<Option<f64>> {
    let place = match node.ints("axes") {
        Some(axes) => axes.iter().position(|a| axis_of(*a, rank) == Some(axis)),
        None => Some(axis),
    };
    let Some(place) = place else { return Some(Some(1.0)) };
    if node.input(3).is_some() {
        return Some(None);
    }
    let scales = g.content(node.input(2)?).and_then(Content::reals)?;
    Some(Some(*scales.get(place)?))
}

/// The region that an axis is cropped to, in parts of its length: `Some(None)` where it is not cropped.
fn region(g: &Graph, node: &Node, axis: usize, rank: usize) -> Option<Option<[f64; 2]>> {
    if node.text("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize" {
        return Some(None);
    }
    let axes = node.ints("axes").unwrap_or_else(|| (0..rank as i64).collect());
    let place = axes.iter().position(|a| axis_of(*a, rank) == Some(axis))?;
    let ends = g.content(node.input(1)?).and_then(Content::reals)?;
    Some(Some([*ends.get(place)?, *ends.get(place + axes.len())?]))
}

/// The row of an element of a cropped axis; outside there is zero.
fn cropped(node: &Node, [start, end]: [f64; 2], o: i64, n: i64, m: i64) -> Option<Row> {
    let (o, last, steps) = (o as f64, (n - 1) as f64, (m - 1) as f64);
    let place = if m > 1 { start * last + o * (end - start) * last / steps } else { 0.5 * (start + end) * last };
    if (0.0..=last).contains(&place) { row(node, place, n) } else { Some(Vec::new()) }
}

/// Where an element of the output lies among those of the input.
fn place(node: &Node, o: i64, n: i64, m: i64, scale: f64) -> Option<f64> {
    let (o, n, m) = (o as f64, n as f64, m as f64);
    let half_pixel = (o + 0.5) / scale - 0.5;
    Some(match node.text("coordinate_transformation_mode", "half_pixel").as_str() {
        "half_pixel" => half_pixel,
        "half_pixel_symmetric" => 0.5 * n * (1.0 - m / (scale * n)) + half_pixel,
        "pytorch_half_pixel" => {
            if m > 1.0 {
                half_pixel
            } else {
                0.0
            }
        }
        "align_corners" => {
            if m > 1.0 {
                o * (n - 1.0) / (m - 1.0)
            } else {
                0.0
            }
        }
        "asymmetric" => o / scale,
        _ => return None,
    })
}

/// Elements of the input with their weights.
type Row = Vec<(i64, f64)>;

fn row(node: &Node, place: f64, n: i64) -> Option<Row> {
    let inside = |i: f64| (i as i64).clamp(0, n - 1);
    match node.text("mode", "nearest").as_str() {
        "nearest" => Some(vec![(inside(rounded(node, place)?), 1.0)]),
        "linear" => {
            let place = place.clamp(0.0, (n - 1) as f64);
            let (low, part) = (place.floor(), place - place.floor());
            Some(vec![(inside(low), 1.0 - part), (inside(low + 1.0), part)])
        }
        "cubic" => {
            let (low, part) = (place.floor(), place - place.floor());
            let weights = cubic(node.float("cubic_coeff_a", -0.75), part);
            let mut row: Row = (0..4).map(|i| (low as i64 + i - 1, weights[i as usize])).collect();
            if node.int("exclude_outside", 0) != 0 {
                row.retain(|(i, _)| (0..n).contains(i));
                let sum: f64 = row.iter().map(|(_, w)| w).sum();
                row.iter_mut().for_each(|(_, w)| *w /= sum);
            }
            Some(row.into_iter().map(|(i, w)| (i.clamp(0, n - 1), w)).collect())
        }
        _ => None,
    }
}

fn rounded(node: &Node, place: f64) -> Option<f64> {
    Some(match node.text("nearest_mode", "round_prefer_floor").as_str() {
        "round_prefer_floor" => (place - 0.5).ceil(),
        "round_prefer_ceil" => (place + 0.5).floor(),
        "floor" => place.floor(),
        "ceil" => place.ceil(),
        _ => return None,
    })
}

/// Keys' cubic convolution at the four elements around a place.
fn cubic(a: f64, part: f64) -> [f64; 4] {
    let near = |t: f64| ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0;
    let far = |t: f64| ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a;
    [far(part + 1.0), near(part), near(1.0 - part), far(2.0 - part)]
}

fn along(g: &mut Graph, x: Val, axis: usize, rows: &[Row], n: i64) -> Option<Val> {
    if rows.iter().all(|row| matches!(row[..], [(_, 1.0)])) {
        let places: Vec<i64> = rows.iter().map(|row| row[0].0).collect();
        let places = g.integers(&places);
        return Some(g.op_with("Gather", &[x, places], vec![crate::emit::int("axis", axis as i64)]));
    }
    let mut matrix = vec![0.0; n as usize * rows.len()];
    for (o, row) in rows.iter().enumerate() {
        for (i, weight) in row {
            matrix[*i as usize * rows.len() + o] += weight;
        }
    }
    let matrix = g.reals(&matrix, &[n, rows.len() as i64]);
    let rank = g.rank(x)?;
    let mut order: Vec<usize> = (0..rank).collect();
    order.swap(axis, rank - 1);
    let turned = g.transpose(x, &order);
    let product = g.op("MatMul", &[turned, matrix]);
    let mut shape: Vec<Size> = order.iter().map(|i| g.shape(x).map(|s| s[*i].clone())).collect::<Option<_>>()?;
    shape[rank - 1] = Size::fixed(rows.len() as i64);
    g.set_shape(product, &shape);
    Some(g.transpose(product, &order))
}
