//! `Attention` of the standard domain, and what all attention operators are decomposed into.

use super::attention_mask::{AttentionMask, mask};
use super::operator::{DecompositionResult, Lowered, Operator};
use super::parts::number_like;
use crate::elem::ElemType;
use crate::graph::emit::int;
use crate::graph::{Graph, Inferred, Node, Val};
use crate::jvp_context::JvpContext;
use crate::size::Size;

/// The declaration of `Attention`. A node that returns masked scores stays as it is, because each
/// runtime has its own scores at masked positions. Its decomposition then serves for the derivative
/// alone.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("Attention")
    .kinked()
    .names_type()
    .shapes(attention_shapes)
    .lowered(lowered_attention)
    .decomposition(attention_decomposition)];

/// Returns the types and shapes of the output, of the present keys and values, and of the scores
/// `[N, Hq, L, S]`.
fn attention_shapes(g: &mut Graph, node: &Node, _: usize) -> Option<Vec<Inferred>> {
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
    Some(
        [y, k.to_vec(), v.to_vec(), scores]
            .map(|shape| (elem, Some(shape)))
            .to_vec(),
    )
}

fn attention_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let node = s.node.clone();
    let parts = all_outputs(s.g, &node);
    parts.ok_or_else(|| "its inputs do not fit each other, or their shapes are not known".into())
}

/// Returns the replacement of a node. Returns `None` if the node returns scores at masked
/// positions, which runtimes do not agree on.
fn lowered_attention(g: &mut Graph, node: &Node) -> Lowered {
    let (mut outputs, bars) = consists_of(g, node)?;
    if bars && node.int("qk_matmul_output_mode", 0) == 2 {
        outputs[3] = None;
    }
    Some(outputs)
}

/// Returns all outputs of a node. At masked positions the scores are zero and have no derivative.
fn all_outputs(g: &mut Graph, node: &Node) -> Lowered {
    consists_of(g, node).map(|(outputs, _)| outputs)
}

/// Appends scaled dot-product attention with optional masks, cached keys and grouped heads. Returns
/// its outputs, and whether it may mask positions.
fn consists_of(g: &mut Graph, node: &Node) -> Option<(Vec<Option<Val>>, bool)> {
    let ranks: Option<Vec<usize>> = (0..3).map(|i| g.rank(node.input(i)?)).collect();
    if ranks
        .clone()
        .is_none_or(|r| r.iter().any(|n| !(3..=4).contains(n)))
        || cached_otherwise(g, node)
    {
        return None;
    }
    let flat = ranks?[0] == 3;
    let (query_heads, key_heads) = (node.int("q_num_heads", 0), node.int("kv_num_heads", 0));
    let q = split_heads(g, node.input(0)?, query_heads)?;
    let mut k = split_heads(g, node.input(1)?, key_heads)?;
    let mut v = split_heads(g, node.input(2)?, key_heads)?;
    if let (Some(past_k), Some(past_v)) = (node.input(4), node.input(5)) {
        k = g.concat(&[past_k, k], 2);
        v = g.concat(&[past_v, v], 2);
    }
    let (present_k, present_v) = (k, v);
    let count = g.shape(q)?[1].clone();
    let (k, v) = (repeated(g, k, &count)?, repeated(g, v, &count)?);
    let raw = raw_scores(g, node, q, k)?;
    let capped = capped(g, node, raw);
    let AttentionMask { bias, alive, bars } = mask(g, node, q, k)?;
    let scores = bias.map_or(capped, |bias| g.add(capped, bias));
    let mut weights = score_softmax(g, node, scores);
    if let Some(alive) = alive {
        weights = g.mul(weights, alive);
    }
    let mut y = g.op("MatMul", &[weights, v]);
    if flat {
        y = merged_heads(g, y)?;
    }
    let mut outputs = vec![Some(y), Some(present_k), Some(present_v)];
    outputs.push(match node.int("qk_matmul_output_mode", 0) {
        0 => Some(raw),
        1 => Some(capped),
        2 => Some(
            bias.filter(|_| bars)
                .map_or(scores, |bias| unless_barred(g, scores, bias)),
        ),
        3 => Some(weights),
        _ => None,
    });
    Some((outputs, bars))
}

/// Appends the scores, with 0 at the positions that the bias masks.
fn unless_barred(g: &mut Graph, scores: Val, bias: Val) -> Val {
    let low = lowest(g.elem(bias)) / 2.0;
    let (bound, zero) = (number_like(g, low, bias), number_like(g, 0.0, scores));
    let seen = g.op("Greater", &[bias, bound]);
    g.op("Where", &[seen, scores, zero])
}

/// Returns whether the cached keys or values have another form than `[N, H, S, D]`.
fn cached_otherwise(g: &Graph, node: &Node) -> bool {
    [4, 5]
        .iter()
        .filter_map(|i| node.input(*i))
        .any(|v| g.rank(v) != Some(4))
}

/// Splits `[N, S, H·D]` into heads `[N, H, S, D]`.
pub(super) fn split_heads(g: &mut Graph, v: Val, count: i64) -> Option<Val> {
    let shape = g.shape(v)?.clone();
    if shape.len() == 4 {
        return Some(v);
    }
    let count = Size::fixed(count);
    let width = shape.get(2)?.over(&count)?;
    let split = g.reshape(v, &[shape[0].clone(), shape[1].clone(), count, width]);
    Some(g.transpose(split, &[0, 2, 1, 3]))
}

/// Merges heads `[N, H, S, D]` to `[N, S, H·D]`.
pub(super) fn merged_heads(g: &mut Graph, v: Val) -> Option<Val> {
    let shape = g.shape(v)?.clone();
    let width = shape[1].times(&shape[3])?;
    let turned = g.transpose(v, &[0, 2, 1, 3]);
    Some(g.reshape(turned, &[shape[0].clone(), shape[2].clone(), width]))
}

/// Repeats each head of the keys or values for the heads of the queries that share it.
fn repeated(g: &mut Graph, v: Val, count: &Size) -> Option<Val> {
    let shape = g.shape(v)?.clone();
    if shape[1] == *count {
        return Some(v);
    }
    let times = count.over(&shape[1])?;
    let (n, h, s, d) = (
        shape[0].clone(),
        shape[1].clone(),
        shape[2].clone(),
        shape[3].clone(),
    );
    let apart = g.unsqueeze(v, &[2]);
    let spread = g.expand(apart, &[n.clone(), h, times, s.clone(), d.clone()]);
    Some(g.reshape(spread, &[n, count.clone(), s, d]))
}

/// Appends `scale Q Kᵀ` with the scale of the node.
fn raw_scores(g: &mut Graph, node: &Node, q: Val, k: Val) -> Option<Val> {
    let scale = match node.attribute("scale") {
        Some(_) => node.float("scale", 1.0),
        None => usual_scale(g, q)?,
    };
    Some(scaled_scores(g, q, k, scale))
}

/// Returns the default scale: 1 over the root of the width of a head.
pub(super) fn usual_scale(g: &Graph, q: Val) -> Option<f64> {
    Some(1.0 / (g.shape(q)?.last()?.as_fixed()? as f64).sqrt())
}

/// Appends `scale Q Kᵀ`.
pub(super) fn scaled_scores(g: &mut Graph, q: Val, k: Val, scale: f64) -> Val {
    let scale = number_like(g, scale, q);
    let q = g.mul(q, scale);
    let turned = g.transpose(k, &[0, 1, 3, 2]);
    g.op("MatMul", &[q, turned])
}

/// Appends `cap tanh(scores / cap)` if the node has a cap.
fn capped(g: &mut Graph, node: &Node, scores: Val) -> Val {
    let cap = node.float("softcap", 0.0);
    if cap <= 0.0 {
        return scores;
    }
    let cap = number_like(g, cap, scores);
    let ratio = g.div(scores, cap);
    let bent = g.op("Tanh", &[ratio]);
    g.mul(bent, cap)
}

/// Appends 0 for allowed positions, and a number below every score for the others.
pub(super) fn barred(g: &mut Graph, allowed: Val, like: Val) -> Val {
    let low = lowest(g.elem(like));
    let (zero, low) = (number_like(g, 0.0, like), number_like(g, low, like));
    g.op("Where", &[allowed, zero, low])
}

/// Returns a number below every score, whose double the type can still hold.
pub(super) fn lowest(elem: ElemType) -> f64 {
    if elem == ElemType::FLOAT16 {
        -3e4
    } else {
        -1e30
    }
}

/// Appends the mask by which query `i` sees key `j` if `j <= i + past`.
pub(super) fn causal_mask(g: &mut Graph, q: Val, k: Val, past: &Size) -> Option<Val> {
    let (rows, columns) = (g.shape(q)?[2].clone(), g.shape(k)?[2].clone());
    let row = positions_up_to(g, &rows);
    let column = positions_up_to(g, &columns);
    let past = g.sizes(std::slice::from_ref(past));
    let last = g.add(row, past);
    let last = g.unsqueeze(last, &[1]);
    Some(g.op("LessOrEqual", &[column, last]))
}

/// Appends `[0, 1, …, n - 1]`.
pub(super) fn positions_up_to(g: &mut Graph, n: &Size) -> Val {
    let length = g.sizes(std::slice::from_ref(n));
    let length = g.squeeze(length, &[0]);
    let (zero, one) = (g.integer(0), g.integer(1));
    let places = g.op("Range", &[zero, length, one]);
    g.set_shape(places, std::slice::from_ref(n));
    places
}

/// Appends the softmax of the scores, in the precision that the node asks for.
fn score_softmax(g: &mut Graph, node: &Node, scores: Val) -> Val {
    let elem = g.elem(scores);
    let precise = match node.int("softmax_precision", 0) {
        0 => elem,
        n => ElemType(n as i32),
    };
    let scores = g.cast(scores, precise);
    let weights = g.op_with("Softmax", &[scores], vec![int("axis", -1)]);
    g.cast(weights, elem)
}
