//! Attention operators of ONNX Runtime: `MultiHeadAttention`, with given queries, keys and values,
//! and `Attention`, which projects its input to them.

use super::attention::{
    barred, causal_mask, merged_heads, positions_up_to, scaled_scores, split_heads, usual_scale,
};
use super::operator::{Lowered, Operator};
use super::parts::{number_like, part};
use crate::elem::ElemType;
use crate::graph::emit::int;
use crate::graph::{Graph, Node, Shape, Val};
use crate::size::Size;

/// The declarations of `Attention` and `MultiHeadAttention`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::fused("Attention", projecting_attention),
    Operator::fused("MultiHeadAttention", multi_head_attention),
];

/// Queries, keys and values as `[N, H, S, D]`.
struct QueryKeyValue {
    q: Val,
    k: Val,
    v: Val,
}

/// The mask, the bias of the scores, and the keys and values of earlier tokens.
struct Context {
    mask: Option<Val>,
    bias: Option<Val>,
    past: Option<(Val, Val)>,
}

/// Returns the replacement of `MultiHeadAttention`.
pub(super) fn multi_head_attention(g: &mut Graph, node: &Node) -> Lowered {
    if node.input(8).or(node.input(9)).is_some() {
        return None;
    }
    let past = match (node.input(6), node.input(7)) {
        (None, None) => None,
        (Some(k), Some(v)) => Some((k, v)),
        _ => return None,
    };
    let heads = given(g, node, past.is_some())?;
    let context = Context {
        mask: node.input(4),
        bias: node.input(5),
        past,
    };
    let (y, heads) = attended(g, node, heads, &context)?;
    Some(vec![Some(y), Some(heads.k), Some(heads.v)])
}

/// Returns the replacement of `Attention`, which projects its input to queries, keys and values by
/// one matrix.
pub(super) fn projecting_attention(g: &mut Graph, node: &Node) -> Lowered {
    let otherwise = ["do_rotary", "past_present_share_buffer"]
        .iter()
        .any(|name| node.int(name, 0) != 0);
    if otherwise || node.input(6).is_some() {
        return None;
    }
    let heads = projected(g, node)?;
    let past = node
        .input(4)
        .map(|past| [0, 1].map(|index| take_entry(g, past, 0, index)));
    let context = Context {
        mask: node.input(3),
        bias: node.input(5),
        past: past.map(|[k, v]| (k, v)),
    };
    let (y, heads) = attended(g, node, heads, &context)?;
    let pair = [heads.k, heads.v].map(|v| g.unsqueeze(v, &[0]));
    let same = g.shape(heads.k).is_some() && g.shape(heads.k) == g.shape(heads.v);
    Some(vec![Some(y), same.then(|| g.concat(&pair, 0))])
}

/// Appends `x W + b`, cut in queries, keys and values.
fn projected(g: &mut Graph, node: &Node) -> Option<QueryKeyValue> {
    let (x, weights) = (node.input(0)?, node.input(1)?);
    let width = g.shape(weights).filter(|shape| shape.len() == 2)?[1].as_fixed()?;
    let sizes = match node
        .ints("qkv_hidden_sizes")
        .filter(|sizes| !sizes.is_empty())
    {
        Some(sizes) => sizes,
        None => vec![width / 3; 3],
    };
    let whole = sizes.len() == 3 && sizes.iter().all(|n| *n > 0) && sizes[0] == sizes[1];
    if !whole
        || sizes.iter().try_fold(0i64, |sum, n| sum.checked_add(*n)) != Some(width)
        || g.rank(x) != Some(3)
    {
        return None;
    }
    let mut all = g.op("MatMul", &[x, weights]);
    if let Some(bias) = node.input(2) {
        all = g.add(all, bias);
    }
    let count = node.int("num_heads", 0);
    let [q, k, v] = cut_in_three(g, all, [sizes[0], sizes[1], sizes[2]], -1);
    Some(QueryKeyValue {
        q: split_heads(g, q, count)?,
        k: split_heads(g, k, count)?,
        v: split_heads(g, v, count)?,
    })
}

/// Splits the given queries, keys and values into heads, after adding their bias.
fn given(g: &mut Graph, node: &Node, cached: bool) -> Option<QueryKeyValue> {
    let (query, bias, count) = (node.input(0)?, node.input(3), node.int("num_heads", 0));
    let ranks = [0, 1, 2].map(|index| node.input(index).map_or(Some(0), |v| g.rank(v)));
    let plain = bias.is_none();
    match ranks {
        [Some(5), Some(0), Some(0)] if plain && holds(g, query, count, 3) => {
            let [q, k, v] = [0, 1, 2].map(|index| unpacked(g, query, index));
            Some(QueryKeyValue { q, k, v })
        }
        [Some(3), Some(5), Some(0)] if plain && holds(g, node.input(1)?, count, 2) => {
            let pair = node.input(1)?;
            let [k, v] = [0, 1].map(|index| unpacked(g, pair, index));
            Some(QueryKeyValue {
                q: split_heads(g, query, count)?,
                k,
                v,
            })
        }
        [Some(3), Some(4), Some(4)] if plain && !cached => Some(QueryKeyValue {
            q: split_heads(g, query, count)?,
            k: node.input(1)?,
            v: node.input(2)?,
        }),
        [Some(3), Some(3), Some(3)] => {
            let flat = biased(g, [query, node.input(1)?, node.input(2)?], bias)?;
            let [q, k, v] = flat.map(|v| split_heads(g, v, count));
            Some(QueryKeyValue {
                q: q?,
                k: k?,
                v: v?,
            })
        }
        _ => None,
    }
}

/// Returns whether a packed input `[N, S, H, several, D]` has the given numbers of heads and parts.
fn holds(g: &Graph, v: Val, heads: i64, several: i64) -> bool {
    g.shape(v)
        .is_some_and(|shape| shape[2].is(heads) && shape[3].is(several))
}

/// Appends one part of `[N, S, H, several, D]` as `[N, H, S, D]`.
fn unpacked(g: &mut Graph, v: Val, index: i64) -> Val {
    let part = take_entry(g, v, 3, index);
    g.transpose(part, &[0, 2, 1, 3])
}

/// Appends the slice at an index of an axis, without the axis.
fn take_entry(g: &mut Graph, v: Val, axis: i64, index: i64) -> Val {
    let index = g.integer(index);
    g.op_with("Gather", &[v, index], vec![int("axis", axis)])
}

/// Adds to queries, keys and values their parts of the bias.
fn biased(g: &mut Graph, flat: [Val; 3], bias: Option<Val>) -> Option<[Val; 3]> {
    let Some(bias) = bias else { return Some(flat) };
    let sizes = flat.map(|v| g.shape(v)?.last()?.as_fixed());
    let biases = cut_in_three(g, bias, [sizes[0]?, sizes[1]?, sizes[2]?], 0);
    Some([0, 1, 2].map(|i| g.add(flat[i], biases[i])))
}

/// Cuts an axis in three parts.
fn cut_in_three(g: &mut Graph, v: Val, sizes: [i64; 3], axis: i64) -> [Val; 3] {
    let mut start = 0i64;
    sizes.map(|size| {
        let end = start.saturating_add(size);
        let piece = part(g, v, axis, start, end);
        start = end;
        piece
    })
}

/// Appends the attention `[N, S, H·D]`. Returns it with the heads, which include the keys and
/// values of earlier tokens.
fn attended(
    g: &mut Graph,
    node: &Node,
    heads: QueryKeyValue,
    context: &Context,
) -> Option<(Val, QueryKeyValue)> {
    let QueryKeyValue { q, mut k, mut v } = heads;
    // With more keys than queries, it is not clear which keys are later than a query.
    if node.int("unidirectional", 0) != 0 && g.shape(q)?.get(2) != g.shape(k)?.get(2) {
        return None;
    }
    let mut past = Size::fixed(0);
    if let Some((past_k, past_v)) = context.past {
        past = g.shape(past_k).filter(|shape| shape.len() == 4)?[2].clone();
        (k, v) = (g.concat(&[past_k, k], 2), g.concat(&[past_v, v], 2));
    }
    let scale = match node.float("scale", 0.0) {
        0.0 => usual_scale(g, q)?,
        scale => scale,
    };
    let mut scores = scaled_scores(g, q, k, scale);
    if let Some(mask) = context.mask {
        let allowed = allowed(g, mask, q, k)?;
        let (zero, below) = (
            number_like(g, 0.0, scores),
            node.float("mask_filter_value", -10000.0),
        );
        let below = number_like(g, below, scores);
        let more = g.op("Where", &[allowed, zero, below]);
        scores = g.add(scores, more);
    }
    if node.int("unidirectional", 0) != 0 {
        let allowed = causal_mask(g, q, k, &past)?;
        let more = barred(g, allowed, scores);
        scores = g.add(scores, more);
    }
    if let Some(bias) = context.bias {
        scores = g.add(scores, bias);
    }
    let weights = g.op_with("Softmax", &[scores], vec![int("axis", -1)]);
    let y = g.op("MatMul", &[weights, v]);
    Some((merged_heads(g, y)?, QueryKeyValue { q, k, v }))
}

/// Appends which keys each query may see. A mask holds a number for each query and key, a number
/// for each key, the number of keys that count, or the end and the start of the keys that count.
fn allowed(g: &mut Graph, mask: Val, q: Val, k: Val) -> Option<Val> {
    let (shape, batch, keys) = (
        g.shape(mask)?.clone(),
        g.shape(q)?[0].clone(),
        g.shape(k)?[2].clone(),
    );
    let fits = |shape: &Shape, index: usize, size: &Size| {
        shape[index] == *size || shape[index].as_fixed().is_none()
    };
    match shape.len() {
        3 if fits(&shape, 0, &batch) && fits(&shape, 2, &keys) => {
            let kept = is_positive_entry(g, mask);
            Some(g.unsqueeze(kept, &[1]))
        }
        2 if fits(&shape, 0, &batch) && fits(&shape, 1, &keys) => {
            let kept = is_positive_entry(g, mask);
            Some(g.unsqueeze(kept, &[1, 2]))
        }
        1 if shape[0] == batch => Some(before(g, mask, &keys)),
        1 if Some(&shape[0]) == batch.times(&Size::fixed(2)).as_ref() => {
            let ends = g.reshape(mask, &[Size::fixed(2), batch]);
            let [end, start] = [0, 1].map(|index| take_entry(g, ends, 0, index));
            let (inside, outside) = (before(g, end, &keys), before(g, start, &keys));
            let late = g.op("Not", &[outside]);
            Some(g.op("And", &[inside, late]))
        }
        _ => None,
    }
}

/// Appends whether each element of a mask is positive.
fn is_positive_entry(g: &mut Graph, mask: Val) -> Val {
    let mask = g.cast(mask, ElemType::INT64);
    let zero = g.integer(0);
    g.op("Greater", &[mask, zero])
}

/// Appends whether each key lies in front of a position `[N]`, as `[N, 1, 1, S]`.
fn before(g: &mut Graph, end: Val, keys: &Size) -> Val {
    let end = g.cast(end, ElemType::INT64);
    let end = g.unsqueeze(end, &[1, 2, 3]);
    let indices = positions_up_to(g, keys);
    g.op("Less", &[indices, end])
}
