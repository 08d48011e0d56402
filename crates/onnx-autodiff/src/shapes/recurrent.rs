//! Shapes of recurrent layers.

use super::Inferred;
use crate::ir::{Graph, Node};
use crate::size::Size;

/// All states, the last state, and the last cell.
pub fn recurrent(g: &mut Graph, node: &Node) -> Option<Vec<Inferred>> {
    let elem = g.elem(node.input(0)?);
    let (x, r) = (g.shape(node.input(0)?)?, g.shape(node.input(2)?)?);
    let ([first, second, _], [_, _, hidden]) = (&x[..], &r[..]) else { return None };
    let directions = Size::fixed(if node.text("direction", "forward") == "bidirectional" { 2 } else { 1 });
    let (first, second, hidden) = (first.clone(), second.clone(), hidden.clone());
    let (steps, last) = if node.int("layout", 0) == 0 {
        (vec![first, directions.clone(), second.clone(), hidden.clone()], vec![directions, second, hidden])
    } else {
        (vec![first.clone(), second, directions.clone(), hidden.clone()], vec![first, directions, hidden])
    };
    Some(vec![(elem, Some(steps)), (elem, Some(last.clone())), (elem, Some(last))])
}
