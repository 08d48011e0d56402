//! Shapes of operators of the newest opsets, and of those whose number of results only the run tells.

use super::{Inferred, axis_of};
use crate::elem::ElemType;
use crate::ir::{Graph, Node};
use crate::size::Size;

/// The distinct elements, their first places, the places of all, and how often each occurs.
pub fn unique(g: &mut Graph, node: &Node) -> Option<Vec<Inferred>> {
    let x = node.input(0)?;
    let (elem, shape) = (g.elem(x), g.shape(x)?.clone());
    let some = g.symbols.fresh();
    let (picked, all) = match node.attribute("axis") {
        None => (vec![some.clone()], super::product(g, &shape)),
        Some(_) => {
            let axis = axis_of(node.int("axis", 0), shape.len())?;
            let mut picked = shape.clone();
            picked[axis] = some.clone();
            (picked, shape[axis].clone())
        }
    };
    let list = |length: Size| (ElemType::INT64, Some(vec![length]));
    Some(vec![(elem, Some(picked)), list(some.clone()), list(all), list(some)])
}

/// `[N, T, Hq·Dv]`, and the state `[N, H, Dk, Dv]`.
pub fn linear_attention(g: &mut Graph, node: &Node) -> Option<Vec<Inferred>> {
    let [q, k, v] = [0, 1, 2].map(|place| node.input(place));
    let elem = g.elem(q?);
    let (batch, length) = (g.shape(q?)?.first()?.clone(), g.shape(q?)?.get(1)?.clone());
    let (queries, states) = (Size::fixed(node.int("q_num_heads", 0)), Size::fixed(node.int("kv_num_heads", 0)));
    let (keys, values) = (g.shape(k?)?.get(2)?.over(&states)?, g.shape(v?)?.get(2)?.over(&states)?);
    let packed = vec![batch.clone(), length, queries.times(&values)?];
    Some(vec![(elem, Some(packed)), (elem, Some(vec![batch, states, keys, values]))])
}

/// The input's shape, and a state of as many steps as the filter reaches back.
pub fn causal_conv(g: &mut Graph, node: &Node) -> Option<Vec<Inferred>> {
    let x = node.input(0)?;
    let (elem, shape) = (g.elem(x), g.shape(x)?.clone());
    let k = g.shape(node.input(1)?)?.get(2)?.as_fixed()?;
    let state = vec![shape.first()?.clone(), shape.get(1)?.clone(), Size::fixed(k.checked_sub(1)?)];
    Some(vec![(elem, Some(shape)), (elem, Some(state))])
}

/// What `Attention` makes, the present keys and values, and the scores `[N, Hq, L, S]`.
pub fn attention(g: &mut Graph, node: &Node) -> Option<Vec<Inferred>> {
    let elem = g.elem(node.input(0)?);
    let heads = |g: &Graph, place: usize, count: &str| {
        let shape = g.shape(node.input(place)?)?;
        match &shape[..] {
            [n, h, l, d] => Some([n.clone(), h.clone(), l.clone(), d.clone()]),
            [n, l, width] => {
                let count = Size::fixed(node.int(count, 0));
                let each = width.over(&count)?;
                Some([n.clone(), count, l.clone(), each])
            }
            _ => None,
        }
    };
    let flat = g.rank(node.input(0)?)? == 3;
    let q = heads(g, 0, "q_num_heads")?;
    let (mut k, mut v) = (heads(g, 1, "kv_num_heads")?, heads(g, 2, "kv_num_heads")?);
    for (place, cached) in [(4, &mut k), (5, &mut v)] {
        if let Some(past) = node.input(place) {
            let past = g.shape(past)?.get(2)?.clone();
            cached[2] = g.symbols.add(&past, &cached[2]);
        }
    }
    let y = if flat {
        vec![q[0].clone(), q[2].clone(), q[1].times(&v[3])?]
    } else {
        vec![q[0].clone(), q[1].clone(), q[2].clone(), v[3].clone()]
    };
    let scores = vec![q[0].clone(), q[1].clone(), q[2].clone(), k[2].clone()];
    Some([y, k.to_vec(), v.to_vec(), scores].map(|shape| (elem, Some(shape))).to_vec())
}
