//! Shapes of what samples images at places of its own choice.

use super::{sizes, windows};
use crate::content::Content;
use crate::ir::{Graph, Node, Shape};
use crate::size::Size;

pub fn grid_sample(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (x, grid) = (g.shape(node.input(0)?)?, g.shape(node.input(1)?)?);
    if x.len() != grid.len() || x.len() < 3 {
        return None;
    }
    Some([&x[..2], &grid[1..grid.len() - 1]].concat())
}

/// `[R, C, …]` for pooled regions of interest.
pub fn regions(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (x, rois) = (g.shape(node.input(0)?)?, g.shape(node.input(1)?)?);
    let pooled = match node.ints("pooled_shape") {
        Some(pooled) => pooled,
        None => ["output_height", "output_width"].map(|name| node.int(name, 1)).to_vec(),
    };
    let pooled = pooled.into_iter().map(Size::fixed);
    Some([rois.first()?.clone(), x.get(1)?.clone()].into_iter().chain(pooled).collect())
}

pub fn col_to_im(g: &mut Graph, node: &Node) -> Option<Shape> {
    let columns = g.shape(node.input(0)?)?.clone();
    let block = g.content(node.input(2)?).and_then(Content::fixed)?;
    let area = block.iter().try_fold(1i64, |area, n| area.checked_mul(*n))?;
    let channels = g.symbols.div(columns.get(1)?, &Size::fixed(area));
    let image = sizes(g, node.input(1)?)?;
    Some([vec![columns[0].clone(), channels], image].concat())
}

pub fn max_unpool(g: &mut Graph, node: &Node) -> Option<Shape> {
    if let Some(given) = node.input(2) {
        return sizes(g, given);
    }
    let x = g.shape(node.input(0)?)?.clone();
    let windows = windows(node, &node.ints("kernel_shape")?)?;
    if windows.len() + 2 != x.len() {
        return None;
    }
    let mut shape = x[..2].to_vec();
    for (length, w) in x[2..].iter().zip(&windows) {
        let steps = g.symbols.sub(length, &Size::fixed(1));
        let span = g.symbols.mul(&steps, &Size::fixed(w.stride));
        shape.push(g.symbols.add(&span, &Size::fixed(w.kernel - w.before - w.after)));
    }
    Some(shape)
}
