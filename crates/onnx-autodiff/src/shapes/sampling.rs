//! Shapes of what samples images at places of its own choice.

use crate::ir::{Graph, Node, Shape};

pub fn grid_sample(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (x, grid) = (g.shape(node.input(0)?)?, g.shape(node.input(1)?)?);
    if x.len() != grid.len() || x.len() < 3 {
        return None;
    }
    Some([&x[..2], &grid[1..grid.len() - 1]].concat())
}
