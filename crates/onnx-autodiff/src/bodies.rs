//! Operators that are replaced by what they consist of, so that the rules of their parts differentiate them.

use super::elem::ElemType;
use super::emit::int;
use super::float64;
use super::ir::{Graph, Node, Shape, Val};
use super::size::Size;

/// Operators that are replaced.
pub const OPERATORS: [&str; 2] = ["Attention", "RotaryEmbedding"];

/// The outputs of an operator's body, at least the `wanted` first ones; none where the node is to be kept as it is.
pub fn body(g: &mut Graph, node: &Node, wanted: usize) -> Option<Vec<Val>> {
    let outputs = match node.standard() {
        "Attention" => attention(g, node),
        "RotaryEmbedding" => rotary_embedding(g, node),
        _ => float64::replacement(g, node),
    }?;
    (outputs.len() >= wanted).then_some(outputs)
}

/// A number of the type of `like`.
fn number(g: &mut Graph, value: f64, like: Val) -> Val {
    let elem = g.elem(like);
    let number = g.real(value, elem);
    g.cast(number, elem)
}

/// Scaled dot-product attention with optional masks, cached keys and grouped heads.
fn attention(g: &mut Graph, node: &Node) -> Option<Vec<Val>> {
    let windowed = ["left_window_size", "right_window_size"].iter().any(|name| node.int(name, -1) >= 0);
    if node.input(6).is_some() || windowed {
        return None;
    }
    let ranks: Option<Vec<usize>> = (0..3).map(|i| g.rank(node.input(i)?)).collect();
    if ranks.clone().is_none_or(|r| r.iter().any(|n| !(3..=4).contains(n))) || cached_otherwise(g, node) {
        return None;
    }
    let flat = ranks?[0] == 3;
    let (query_heads, key_heads) = (node.int("q_num_heads", 0), node.int("kv_num_heads", 0));
    let q = heads(g, node.input(0)?, query_heads)?;
    let mut k = heads(g, node.input(1)?, key_heads)?;
    let mut v = heads(g, node.input(2)?, key_heads)?;
    if let (Some(past_k), Some(past_v)) = (node.input(4), node.input(5)) {
        k = g.concat(&[past_k, k], 2);
        v = g.concat(&[past_v, v], 2);
    }
    let (present_k, present_v) = (k, v);
    let count = g.shape(q)?[1].clone();
    let (k, v) = (repeated(g, k, &count)?, repeated(g, v, &count)?);
    let raw = raw_scores(g, node, q, k)?;
    let capped = capped(g, node, raw);
    let (bias, alive) = mask(g, node, q, k)?;
    let scores = bias.map_or(capped, |bias| g.add(capped, bias));
    let mut weights = softmax(g, node, scores);
    if let Some(alive) = alive {
        weights = g.mul(weights, alive);
    }
    let mut y = g.op("MatMul", &[weights, v]);
    if flat {
        let shape = g.shape(y)?.clone();
        y = g.transpose(y, &[0, 2, 1, 3]);
        let width = shape[1].times(&shape[3])?;
        y = g.reshape(y, &[shape[0].clone(), shape[2].clone(), width]);
    }
    let mut outputs = vec![y, present_k, present_v];
    // Scores of barred places are the runtime's affair.
    let barred = alive.is_some() || node.int("is_causal", 0) != 0;
    outputs.extend(match node.int("qk_matmul_output_mode", 0) {
        0 => Some(raw),
        1 => Some(capped),
        2 => Some(scores).filter(|_| !barred),
        3 => Some(weights),
        _ => None,
    });
    Some(outputs)
}

/// Whether cached keys or values have another form than `[N, H, S, D]`.
fn cached_otherwise(g: &Graph, node: &Node) -> bool {
    [4, 5].iter().filter_map(|i| node.input(*i)).any(|v| g.rank(v) != Some(4))
}

/// `[N, S, H·D]` as `[N, H, S, D]`.
fn heads(g: &mut Graph, v: Val, count: i64) -> Option<Val> {
    let shape = g.shape(v)?.clone();
    if shape.len() == 4 {
        return Some(v);
    }
    let count = Size::fixed(count);
    let width = shape.get(2)?.over(&count)?;
    let split = g.reshape(v, &[shape[0].clone(), shape[1].clone(), count, width]);
    Some(g.transpose(split, &[0, 2, 1, 3]))
}

/// Each head of the keys serves several heads of the queries.
fn repeated(g: &mut Graph, v: Val, count: &Size) -> Option<Val> {
    let shape = g.shape(v)?.clone();
    if shape[1] == *count {
        return Some(v);
    }
    let times = count.over(&shape[1])?;
    let (n, h, s, d) = (shape[0].clone(), shape[1].clone(), shape[2].clone(), shape[3].clone());
    let apart = g.unsqueeze(v, &[2]);
    let spread = g.expand(apart, &[n.clone(), h, times, s.clone(), d.clone()]);
    Some(g.reshape(spread, &[n, count.clone(), s, d]))
}

/// `scale Q Kᵀ`
fn raw_scores(g: &mut Graph, node: &Node, q: Val, k: Val) -> Option<Val> {
    let scale = match node.attribute("scale") {
        Some(_) => node.float("scale", 1.0),
        None => 1.0 / (g.shape(q)?.last()?.as_fixed()? as f64).sqrt(),
    };
    let scale = number(g, scale, q);
    let q = g.mul(q, scale);
    let turned = g.transpose(k, &[0, 1, 3, 2]);
    Some(g.op("MatMul", &[q, turned]))
}

/// `cap tanh(scores / cap)`, where there is a cap.
fn capped(g: &mut Graph, node: &Node, scores: Val) -> Val {
    let cap = node.float("softcap", 0.0);
    if cap <= 0.0 {
        return scores;
    }
    let cap = number(g, cap, scores);
    let ratio = g.div(scores, cap);
    let bent = g.op("Tanh", &[ratio]);
    g.mul(bent, cap)
}

/// What is added to the scores, and for each row whether anything is left of it.
fn mask(g: &mut Graph, node: &Node, q: Val, k: Val) -> Option<(Option<Val>, Option<Val>)> {
    let (mut bias, mut alive) = (None, None);
    if let Some(given) = node.input(3) {
        if g.elem(given) == ElemType::BOOL {
            bias = Some(barred(g, given, q));
            let ones = g.cast(given, g.elem(q));
            alive = Some(g.reduce("ReduceMax", ones, &[-1], true));
        } else {
            bias = Some(given);
        }
    }
    if node.int("is_causal", 0) != 0 {
        let allowed = causal(g, node, q, k)?;
        let causal = barred(g, allowed, q);
        bias = Some(bias.map_or(causal, |bias| g.add(bias, causal)));
    }
    Some((bias, alive))
}

/// 0 where allowed, else a number below every score.
fn barred(g: &mut Graph, allowed: Val, like: Val) -> Val {
    let lowest = if g.elem(like) == ElemType::FLOAT16 { -3e4 } else { -1e30 };
    let (zero, low) = (number(g, 0.0, like), number(g, lowest, like));
    g.op("Where", &[allowed, zero, low])
}

/// Query `i` sees key `j` where `j <= i + past`.
fn causal(g: &mut Graph, node: &Node, q: Val, k: Val) -> Option<Val> {
    let (rows, columns) = (g.shape(q)?[2].clone(), g.shape(k)?[2].clone());
    let past: Shape = node.input(4).and_then(|v| g.shape(v).cloned()).unwrap_or_else(|| vec![Size::fixed(0); 4]);
    let row = places(g, &rows);
    let column = places(g, &columns);
    let past = g.sizes(&past[2..3]);
    let last = g.add(row, past);
    let last = g.unsqueeze(last, &[1]);
    Some(g.op("LessOrEqual", &[column, last]))
}

/// `[0, 1, …, n - 1]`
fn places(g: &mut Graph, n: &Size) -> Val {
    let length = g.sizes(std::slice::from_ref(n));
    let length = g.squeeze(length, &[0]);
    let (zero, one) = (g.integer(0), g.integer(1));
    let places = g.op("Range", &[zero, length, one]);
    g.set_shape(places, std::slice::from_ref(n));
    places
}

fn softmax(g: &mut Graph, node: &Node, scores: Val) -> Val {
    let elem = g.elem(scores);
    let precise = match node.int("softmax_precision", 0) {
        0 => elem,
        n => ElemType(n as i32),
    };
    let scores = g.cast(scores, precise);
    let weights = g.op_with("Softmax", &[scores], vec![int("axis", -1)]);
    g.cast(weights, elem)
}

/// Pairs of numbers turned by angles that depend on the place in the sequence.
fn rotary_embedding(g: &mut Graph, node: &Node) -> Option<Vec<Val>> {
    let x = node.input(0)?;
    let shape = g.shape(x)?.clone();
    if !(3..=4).contains(&shape.len()) {
        return None;
    }
    let x = if shape.len() == 4 {
        g.transpose(x, &[0, 2, 1, 3])
    } else {
        let count = Size::fixed(node.int("num_heads", 0));
        let width = shape.get(2)?.over(&count)?;
        g.reshape(x, &[shape[0].clone(), shape[1].clone(), count, width])
    };
    let parts = g.shape(x)?.clone();
    let width = parts[3].as_fixed()?;
    let turned = match node.int("rotary_embedding_dim", 0) {
        0 => width,
        n => n,
    };
    let (angle, rest) = (cut(g, x, 0, turned, 1), cut(g, x, turned, width, 1));
    let interleaved = node.int("interleaved", 0) != 0;
    let (a, b) = if interleaved {
        (cut(g, angle, 0, turned, 2), cut(g, angle, 1, turned, 2))
    } else {
        (cut(g, angle, 0, turned / 2, 1), cut(g, angle, turned / 2, turned, 1))
    };
    let [cos, sin] = [1, 2].map(|place| cache(g, node, place));
    let (cos, sin) = (cos?, sin?);
    let (a_cos, a_sin, b_cos, b_sin) = (g.mul(a, cos), g.mul(a, sin), g.mul(b, cos), g.mul(b, sin));
    let (real, imaginary) = (g.sub(a_cos, b_sin), g.add(a_sin, b_cos));
    let mut y = if interleaved {
        let pair = [real, imaginary].map(|v| g.unsqueeze(v, &[-1]));
        let joined = g.concat(&pair, -1);
        let mut whole = parts.clone();
        whole[3] = Size::fixed(turned);
        g.reshape(joined, &whole)
    } else {
        g.concat(&[real, imaginary], -1)
    };
    if turned < width {
        y = g.concat(&[y, rest], -1);
    }
    let y = if shape.len() == 4 { g.transpose(y, &[0, 2, 1, 3]) } else { g.reshape(y, &shape) };
    Some(vec![y])
}

/// Part of the last axis of `[N, S, H, D]`.
fn cut(g: &mut Graph, v: Val, start: i64, end: i64, step: i64) -> Val {
    let bounds = [start, end, 3, step].map(|n| g.integers(&[n]));
    g.op("Slice", &[v, bounds[0], bounds[1], bounds[2], bounds[3]])
}

/// Cosines or sines `[N, S, 1, D/2]`, taken by position where positions are given.
fn cache(g: &mut Graph, node: &Node, place: usize) -> Option<Val> {
    let table = node.input(place)?;
    let taken = match node.input(3) {
        Some(positions) => g.op_with("Gather", &[table, positions], vec![int("axis", 0)]),
        None => table,
    };
    Some(g.unsqueeze(taken, &[2]))
}
