//! Choices and loops of tangents: choices and loops of cotangents.

use std::collections::HashMap;

use super::{CONTRADICTION, Parts, Turn};
use crate::branches::choice;
use crate::cotangent;
use crate::error::Refusal;
use crate::ir::{Graph, Shape, Val};
use crate::repetition::{Repetition, Sequence, element_shape, placed_in};
use crate::subgraph::{Body, Inside};

pub fn transpose(t: &mut Turn) -> Result<Parts, Refusal> {
    let first = t.node.outputs.iter().flatten().next();
    match first.and_then(|v| t.g.inside.get(v)).cloned() {
        Some(Inside::Branches(branches)) => of_branches(t, &branches),
        Some(Inside::Repetition(repetition)) => of_repetition(t, &repetition),
        None => Err(CONTRADICTION.into()),
    }
}

/// The cotangents that a subgraph, read backwards in the current scope, gives to what it uses.
fn backwards(
    g: &mut Graph,
    places: std::ops::Range<usize>,
    arriving: impl Iterator<Item = (Val, Val)>,
) -> Result<HashMap<Val, Val>, Refusal> {
    let mut cotangents: HashMap<Val, Val> = arriving.collect();
    let (mut obstacles, origin) = (Vec::new(), g.origin);
    cotangent::walk(g, places, &mut cotangents, &mut obstacles);
    g.origin = origin;
    match obstacles.into_iter().next() {
        Some(obstacle) => Err(Refusal(format!("inside it, {}", obstacle.reason))),
        None => Ok(cotangents),
    }
}

/// A cotangent under a name of its own, zeros where there is none.
fn own(g: &mut Graph, cotangents: &HashMap<Val, Val>, of: Val) -> Result<Val, Refusal> {
    let c = match cotangents.get(&of) {
        Some(c) => *c,
        None => zeros_like(g, of)?,
    };
    Ok(g.fresh_identity(c))
}

fn zeros_like(g: &mut Graph, v: Val) -> Result<Val, Refusal> {
    let shape = g.shape(v).cloned().ok_or("the shapes in its subgraph cannot be told")?;
    Ok(g.zeros(&shape, g.elem(v)))
}

/// The same choice, of what each branch gives to the tangents that it uses.
fn of_branches(t: &mut Turn, branches: &[Body; 2]) -> Result<Parts, Refusal> {
    let condition = t.input(0)?;
    let mut uses = branches[0].linear_captures(t.g);
    let others = branches[1].linear_captures(t.g);
    uses.extend(others.into_iter().filter(|v| !branches[0].uses(*v)));
    if uses.is_empty() {
        return Ok(Vec::new());
    }
    let mut branch = |body: &Body| -> Result<Body, Refusal> {
        let (scope, places) = body.reopen(t.g);
        let arriving = body.outputs.iter().zip(&t.arriving).filter_map(|(v, c)| Some((*v, (*c)?)));
        let found = backwards(t.g, places, arriving)
            .and_then(|cotangents| uses.iter().map(|v| own(t.g, &cotangents, *v)).collect::<Result<Vec<Val>, _>>());
        closed(t.g, scope, Vec::new(), found)
    };
    let turned = [branch(&branches[0])?, branch(&branches[1])?];
    let types = uses.iter().map(|v| (t.g.elem(*v), t.g.shape(*v).cloned())).collect();
    let made = choice(t.g, condition, &turned, types, false);
    t.captured.extend(uses.into_iter().zip(made));
    Ok(Vec::new())
}

/// Ends a subgraph, whether its outputs were found or not.
fn closed(
    g: &mut Graph,
    scope: crate::ir::Scope,
    inputs: Vec<Val>,
    outputs: Result<Vec<Val>, Refusal>,
) -> Result<Body, Refusal> {
    match outputs {
        Ok(outputs) => Ok(Body::close(g, scope, inputs, outputs)),
        Err(refusal) => {
            g.leave(scope);
            Err(refusal)
        }
    }
}

/// The steps in reverse order: cotangents are carried from the last step to the first, what was kept of a step arrives
/// at it, what a step was given of a sequence of tangents is kept, and what it used from outside is summed.
fn of_repetition(t: &mut Turn, r: &Repetition) -> Result<Parts, Refusal> {
    let carried = r.first.len();
    let uses = r.body.linear_captures(t.g);
    let linear: Vec<usize> = (0..r.sequences.len()).filter(|i| t.g.value(r.sequences[*i].whole).linear).collect();
    let mut first = Vec::new();
    for (v, arriving) in r.first.iter().zip(&t.arriving) {
        first.push(match arriving {
            Some(c) => *c,
            None => zeros_like(t.g, *v)?,
        });
    }
    for v in &uses {
        first.push(zeros_like(t.g, *v)?);
    }
    let kept: Vec<(Val, Val)> =
        r.body.outputs[carried..].iter().zip(&t.arriving[carried..]).filter_map(|(v, c)| Some((*v, (*c)?))).collect();
    let mut sequences = Vec::new();
    for i in (0..r.sequences.len()).filter(|i| !linear.contains(i)) {
        sequences.push(Sequence { backwards: !r.sequences[i].backwards, ..r.sequences[i] });
    }
    sequences.extend(kept.iter().map(|(_, c)| Sequence { whole: *c, axis: 0, backwards: true }));
    let body = turned_step(t.g, r, &uses, &linear, &kept)?;
    let shapes: Option<Vec<Shape>> =
        linear.iter().map(|i| element_shape(t.g, r.sequences[*i].whole, r.sequences[*i].axis)).collect();
    let turned = Repetition { steps: r.steps.clone(), first, sequences, number: None, body };
    let made = turned.write(t.g, &shapes.ok_or(CONTRADICTION)?, false);
    t.captured.extend(uses.iter().copied().zip(made.last[carried..].iter().copied()));
    for (i, v) in linear.iter().zip(made.kept) {
        // The first to be kept is that of the last step.
        let sequence = Sequence { backwards: !r.sequences[*i].backwards, ..r.sequences[*i] };
        let shape = t.shape(sequence.whole)?;
        let v = placed_in(t.g, v, &sequence, &r.steps, &shape);
        t.captured.push((sequence.whole, v));
    }
    Ok(made.last.into_iter().take(carried).enumerate().map(|(i, v)| (2 + i, v)).collect())
}

/// One step backwards: given the carried cotangents, sums of those of values used from outside, what the step was given
/// apart from tangents, and the cotangents of what it kept.
fn turned_step(
    g: &mut Graph,
    r: &Repetition,
    uses: &[Val],
    linear: &[usize],
    kept: &[(Val, Val)],
) -> Result<Body, Refusal> {
    let carried = r.first.len();
    let (tangents, elements) = r.body.inputs.split_at(carried);
    let (scope, places) = r.body.reopen(g);
    let like = |g: &mut Graph, v: Val| {
        let shape = g.shape(v).cloned();
        g.add_formal(g.elem(v), shape, false)
    };
    let arriving: Vec<Val> = tangents.iter().map(|v| like(g, *v)).collect();
    let sums: Vec<Val> = uses.iter().map(|v| like(g, *v)).collect();
    let of_kept: Vec<Val> = kept.iter().map(|(v, _)| like(g, *v)).collect();
    let given = elements.iter().enumerate().filter(|(i, _)| !linear.contains(i)).map(|(_, v)| *v);
    let inputs = arriving.iter().chain(&sums).copied().chain(given).chain(of_kept.iter().copied()).collect();
    let pairs = r.body.outputs[..carried].iter().copied().zip(arriving);
    let found = backwards(g, places, pairs.chain(kept.iter().map(|(v, _)| *v).zip(of_kept)));
    let outputs = found.and_then(|cotangents| {
        let mut outputs = Vec::new();
        for v in tangents {
            outputs.push(own(g, &cotangents, *v)?);
        }
        for (v, sum) in uses.iter().zip(sums) {
            let total = cotangents.get(v).map_or(sum, |part| g.add(sum, *part));
            outputs.push(g.fresh_identity(total));
        }
        for i in linear {
            outputs.push(own(g, &cotangents, elements[*i])?);
        }
        Ok(outputs)
    });
    closed(g, scope, inputs, outputs)
}
