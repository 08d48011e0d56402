//! `LinearAttention`: attention without a softmax, as a recurrence over a matrix `S` of keys by
//! values.
//!
//! `S ← exp(g) S`, `u = β (v - Sᵀk)` (or `u = v`), `S ← S + k uᵀ`, `o = scale Sᵀq`.

use super::operator::{DecompositionResult, Operator};
use super::parts::{at, stacked};
use crate::error::Refusal;
use crate::graph::Val;
use crate::graph::{Graph, Inferred, Node};
use crate::jvp_context::JvpContext;
use crate::size::Size;

/// The declaration of `LinearAttention`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("LinearAttention")
    .shapes(linear_attention_shapes)
    .decomposition(linear_attention_decomposition)
    .smooth_in(&[0, 1, 2, 3, 4, 5])];

/// Returns the types and shapes of the output `[N, T, Hq·Dv]` and of the state `[N, H, Dk, Dv]`.
fn linear_attention_shapes(g: &mut Graph, node: &Node, _: usize) -> Option<Vec<Inferred>> {
    let [q, k, v] = [0, 1, 2].map(|index| node.input(index));
    let elem = g.elem(q?);
    let (batch, length) = (g.shape(q?)?.first()?.clone(), g.shape(q?)?.get(1)?.clone());
    let (queries, states) = (
        Size::fixed(node.int("q_num_heads", 0)),
        Size::fixed(node.int("kv_num_heads", 0)),
    );
    let (keys, values) = (
        g.shape(k?)?.get(2)?.over(&states)?,
        g.shape(v?)?.get(2)?.over(&states)?,
    );
    let packed = vec![batch.clone(), length, queries.times(&values)?];
    Some(vec![
        (elem, Some(packed)),
        (elem, Some(vec![batch, states, keys, values])),
    ])
}

/// The largest number of steps that are written out.
const LONGEST: i64 = 512;

/// The parts of the recurrence that a node has.
struct UpdateRule {
    decays: bool,
    corrects: bool,
}

/// The number of states, one for each head of the keys, and the number of query heads that share a
/// state.
struct HeadCounts {
    states: i64,
    sharing: i64,
}

fn linear_attention_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let form = update_rule(s)?;
    let (queries, states) = (s.node.int("q_num_heads", 0), s.node.int("kv_num_heads", 0));
    if states < 1 || queries < states || queries % states != 0 {
        return Err(
            "its number of query heads is not a multiple of its number of key heads".into(),
        );
    }
    let heads = HeadCounts {
        states,
        sharing: queries / states,
    };
    let (q, k, v) = (
        rows(s, 0, queries)?,
        rows(s, 1, states)?,
        rows(s, 2, states)?,
    );
    let decay = if form.decays {
        Some(per_head(s, 4, states)?)
    } else {
        None
    };
    let rate = if form.corrects {
        Some(per_head(s, 5, states)?)
    } else {
        None
    };
    let length = s.shape(q)?[0]
        .as_fixed()
        .ok_or("the length of its sequence is not known; export the model with a fixed length")?;
    if !(1..=LONGEST).contains(&length) {
        return Err(
            format!("its sequence has {length} steps; up to {LONGEST} are written out").into(),
        );
    }
    let mut state = initial_state(s, k, v)?;
    let mut outputs = Vec::new();
    for step in 0..length {
        let here = |s: &mut JvpContext, all: Val| at(s.g, all, step);
        let [q, k, v] = [q, k, v].map(|all| here(s, all));
        let [decay, rate] = [decay, rate].map(|all| all.map(|all| here(s, all)));
        state = next_state(s, state, k, v, decay, rate);
        outputs.push(query_state(s, state, q, &heads)?);
    }
    let all = stacked(s.g, &outputs);
    Ok(vec![Some(merged_steps(s, all)?), Some(state)])
}

/// Returns the parts of the recurrence that the attribute `update_rule` names.
fn update_rule(s: &JvpContext) -> Result<UpdateRule, Refusal> {
    let (decays, corrects) = match s.node.text("update_rule", "gated_delta").as_str() {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return Err(format!("its update rule `{other}` is not known").into()),
    };
    let given = |index: usize| s.node.input(index).is_some();
    if given(4) != decays || given(5) != corrects {
        return Err("its decay and rate do not fit its update rule".into());
    }
    Ok(UpdateRule { decays, corrects })
}

/// Reshapes an input `[N, T, H·D]` to `[T, N, H, D, 1]`: a column for each step, sample and head.
fn rows(s: &mut JvpContext, index: usize, heads: i64) -> Result<Val, Refusal> {
    let (v, shape) = (s.x(index)?, s.x_shape(index)?);
    let [batch, length, width] = &shape[..] else {
        return Err("its inputs do not have three axes".into());
    };
    let count = Size::fixed(heads);
    let each = width
        .over(&count)
        .ok_or("the width of an input does not divide into its heads")?;
    let turned = s.g.transpose(v, &[1, 0, 2]);
    Ok(s.g.reshape(
        turned,
        &[length.clone(), batch.clone(), count, each, Size::fixed(1)],
    ))
}

/// Reshapes a decay or a rate, of which there may be one for all heads.
fn per_head(s: &mut JvpContext, index: usize, heads: i64) -> Result<Val, Refusal> {
    let single = s.x_shape(index)?.last().is_some_and(|width| width.is(1));
    rows(s, index, if single { 1 } else { heads })
}

/// Returns the state before the first step, `[N, H, Dk, Dv]`.
fn initial_state(s: &mut JvpContext, k: Val, v: Val) -> Result<Val, Refusal> {
    if s.node.input(3).is_some() {
        return s.x(3);
    }
    let (keys, values) = (s.shape(k)?, s.shape(v)?);
    let shape = [
        keys[1].clone(),
        keys[2].clone(),
        keys[3].clone(),
        values[3].clone(),
    ];
    Ok(s.g.zeros(&shape, s.g.elem(k)))
}

/// Appends the state after a step.
fn next_state(
    s: &mut JvpContext,
    state: Val,
    k: Val,
    v: Val,
    decay: Option<Val>,
    rate: Option<Val>,
) -> Val {
    let mut state = state;
    if let Some(decay) = decay {
        let kept = s.g.op("Exp", &[decay]);
        state = s.g.mul(state, kept);
    }
    let mut row = s.g.transpose(v, &[0, 1, 3, 2]);
    if let Some(rate) = rate {
        let across = s.g.transpose(k, &[0, 1, 3, 2]);
        let known = s.g.op("MatMul", &[across, state]);
        let missing = s.g.sub(row, known);
        row = s.g.mul(missing, rate);
    }
    let written = s.g.mul(k, row);
    s.g.add(state, written)
}

/// Appends `scale Sᵀq` as `[N, Hq, Dv]`. Several heads of the queries may share a state.
fn query_state(s: &mut JvpContext, state: Val, q: Val, heads: &HeadCounts) -> Result<Val, Refusal> {
    let (of, query) = (s.shape(state)?, s.shape(q)?);
    let width = query[2]
        .as_fixed()
        .ok_or("the width of its heads is not known")?;
    let scale = match s.node.float("scale", 0.0) {
        0.0 => 1.0 / (width as f64).sqrt(),
        given => given,
    };
    let (count, sharing) = (Size::fixed(heads.states), Size::fixed(heads.sharing));
    let grouped =
        s.g.reshape(q, &[query[0].clone(), count, sharing, query[2].clone()]);
    let scaled = s.g.scale(grouped, scale);
    let read = s.g.op("MatMul", &[scaled, state]);
    Ok(s.g.reshape(read, &[query[0].clone(), query[1].clone(), of[3].clone()]))
}

/// Reshapes `[T, N, H, D]` to `[N, T, H·D]`.
fn merged_steps(s: &mut JvpContext, all: Val) -> Result<Val, Refusal> {
    let y = s.y_shape()?;
    let turned = s.g.transpose(all, &[1, 0, 2, 3]);
    Ok(s.g.reshape(turned, &y))
}
