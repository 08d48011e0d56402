//! The keys that each query of `Attention` sees, by masks, causal order, windows and lengths
//! without padding.

use super::attention::{barred, causal_mask, lowest, positions_up_to};
use super::parts::number_like;
use crate::content;
use crate::elem::ElemType;
use crate::graph::{Graph, Node, Shape, Val};
use crate::size::Size;

/// The effect of all masks of a node on its scores.
pub(super) struct AttentionMask {
    /// The summand of the scores. It is finite wherever the bias of the node is finite.
    pub bias: Option<Val>,
    /// 1 for each row in which a query sees at least one key, and 0 for the others. It is `None` if
    /// every query always sees a key.
    pub alive: Option<Val>,
    /// Whether some positions may be masked. The scores that runtimes return for these positions
    /// are infinite.
    pub bars: bool,
}

/// Appends the masks of a node with queries `q` and keys `k`.
pub(super) fn mask(g: &mut Graph, node: &Node, q: Val, k: Val) -> Option<AttentionMask> {
    let (mut allowed, mut bias, mut doubtful) = (Vec::new(), None, false);
    let mut sure = true;
    if let Some(given) = node.input(3) {
        let (given, lengthened) = lengthened(g, given, k)?;
        if g.elem(given) == ElemType::BOOL {
            allowed.push(given);
            sure = false;
        } else {
            doubtful = lengthened || may_bar(g, given);
            bias = Some(if doubtful { finite(g, given) } else { given });
        }
    }
    let placed = positional_mask(g, node, q, k)?;
    sure &= placed.sure;
    allowed.extend(placed.allowed);
    let bars = doubtful || !allowed.is_empty();
    let joint = allowed.into_iter().reduce(|a, b| g.op("And", &[a, b]));
    if let Some(joint) = joint {
        let low = barred(g, joint, q);
        bias = Some(bias.map_or(low, |bias| g.add(bias, low)));
    }
    let alive = match (bias, joint) {
        (Some(bias), _) if doubtful => Some(has_unbarred(g, bias)),
        (_, Some(joint)) if !sure => {
            let ones = g.cast(joint, g.elem(q));
            Some(g.reduce("ReduceMax", ones, &[-1], true))
        }
        _ => None,
    };
    Some(AttentionMask { bias, alive, bars })
}

/// The keys that queries may see by their positions alone.
struct PositionalMask {
    allowed: Vec<Val>,
    /// Whether every query sees a key.
    sure: bool,
}

/// Appends the masks that depend on positions alone: causal order, windows and lengths.
fn positional_mask(g: &mut Graph, node: &Node, q: Val, k: Val) -> Option<PositionalMask> {
    let is_causal = node.int("is_causal", 0) != 0;
    let windows = ["left_window_size", "right_window_size"].map(|name| node.int(name, -1));
    let (past, lengths) = (node.input(4), node.input(6));
    if past.is_some() && lengths.is_some() {
        return None;
    }
    if lengths.is_none() && windows.iter().all(|size| *size < 0) {
        let past: Shape = past
            .and_then(|v| g.shape(v).cloned())
            .unwrap_or_else(|| vec![Size::fixed(0); 4]);
        let allowed = if is_causal {
            vec![causal_mask(g, q, k, &past[2])?]
        } else {
            Vec::new()
        };
        return Some(PositionalMask {
            allowed,
            sure: true,
        });
    }
    let mut allowed = Vec::new();
    if is_causal || windows.iter().any(|size| *size >= 0) {
        let ahead = ahead(g, node, q, k)?;
        let mut within = |op: &str, bound: i64| {
            let bound = g.integer(bound);
            allowed.push(g.op(op, &[ahead, bound]));
        };
        if is_causal {
            within("LessOrEqual", 0);
        }
        if windows[0] >= 0 {
            within("GreaterOrEqual", -windows[0]);
        }
        if windows[1] >= 0 {
            within("LessOrEqual", windows[1]);
        }
    }
    if let Some(lengths) = lengths {
        let columns = g.shape(k)?[2].clone();
        let column = positions_up_to(g, &columns);
        let lengths = per_sample(g, lengths);
        allowed.push(g.op("Less", &[column, lengths]));
    }
    Some(PositionalMask {
        allowed,
        sure: false,
    })
}

/// Appends one number for each sample as `[N, 1, 1, 1]`.
fn per_sample(g: &mut Graph, v: Val) -> Val {
    let v = g.cast(v, ElemType::INT64);
    g.unsqueeze(v, &[1, 2, 3])
}

/// Appends how far each key lies ahead of each query. The positions of the queries follow those of
/// the cached keys.
fn ahead(g: &mut Graph, node: &Node, q: Val, k: Val) -> Option<Val> {
    let (rows, columns) = (g.shape(q)?[2].clone(), g.shape(k)?[2].clone());
    let (row, column) = (positions_up_to(g, &rows), positions_up_to(g, &columns));
    let mut place = g.unsqueeze(row, &[1]);
    if let Some(past) = node.input(4) {
        let before = g.shape(past)?[2].clone();
        let before = g.sizes(&[before]);
        place = g.add(place, before);
    }
    if let Some(lengths) = node.input(6) {
        let (lengths, count) = (per_sample(g, lengths), g.sizes(&[rows]));
        let before = g.sub(lengths, count);
        place = g.add(place, before);
    }
    Some(g.sub(column, place))
}

/// Appends the mask with as many columns as there are keys. Keys without a column are masked.
/// Returns whether the mask was lengthened.
fn lengthened(g: &mut Graph, mask: Val, k: Val) -> Option<(Val, bool)> {
    let (mut shape, keys) = (g.shape(mask)?.clone(), g.shape(k)?[2].clone());
    let (Some(has), Some(wants)) = (shape.last()?.as_fixed(), keys.as_fixed()) else {
        return Some((mask, false));
    };
    if has >= wants {
        return Some((mask, false));
    }
    // A mask of one column is lengthened by some runtimes and broadcast by others.
    if has < 2 {
        return None;
    }
    let axis = shape.len() - 1;
    shape[axis] = Size::fixed(wants - has);
    let filler = match g.elem(mask) {
        ElemType::BOOL => {
            let zero = g.integer(0);
            g.cast(zero, ElemType::BOOL)
        }
        _ => number_like(g, lowest(g.elem(mask)), mask),
    };
    let filler = g.expand(filler, &shape);
    Some((g.concat(&[mask, filler], axis as i64), true))
}

/// Returns whether a bias may mask a position. Every bias that is not a constant counts as one that
/// may.
fn may_bar(g: &Graph, bias: Val) -> bool {
    let constant = g
        .value(bias)
        .constant
        .as_ref()
        .and_then(|tensor| content::real_elements(tensor));
    constant.is_none_or(|numbers| numbers.iter().any(|x| *x <= lowest(g.elem(bias)) / 2.0))
}

/// Appends a bias without infinite numbers.
fn finite(g: &mut Graph, bias: Val) -> Val {
    let low = number_like(g, lowest(g.elem(bias)), bias);
    g.op("Max", &[bias, low])
}

/// Appends 1 for each row with a position that is not masked, and 0 for the others.
fn has_unbarred(g: &mut Graph, bias: Val) -> Val {
    let elem = g.elem(bias);
    let most = g.reduce("ReduceMax", bias, &[-1], true);
    let bound = number_like(g, lowest(elem) / 2.0, bias);
    let alive = g.op("Greater", &[most, bound]);
    g.cast(alive, elem)
}
