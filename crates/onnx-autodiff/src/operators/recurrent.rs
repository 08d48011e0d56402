//! Recurrent layers. The steps of a short sequence of known length are written out; any other
//! sequence becomes a loop.

use super::operator::{DecompositionResult, Operator};
use super::parts::{at, clipped, equal_parts, range_to, stacked};
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::counted_loop::{CountedLoop, ScanInput, element_shape, with_step_axis};
use crate::graph::emit::float;
use crate::graph::subgraph::Body;
use crate::graph::{Graph, Inferred, Node, Val};
use crate::jvp_context::JvpContext;
use crate::size::Size;

/// The declarations of `GRU`, `LSTM` and `RNN`.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("GRU")
        .shapes(recurrent_shapes)
        .decomposition(recurrent_decomposition)
        .float64_by_decomposition()
        .smooth_in(&[0, 1, 2, 3, 5]),
    Operator::new("LSTM")
        .shapes(recurrent_shapes)
        .decomposition(recurrent_decomposition)
        .float64_by_decomposition()
        .smooth_in(&[0, 1, 2, 3, 5, 6, 7]),
    Operator::new("RNN")
        .shapes(recurrent_shapes)
        .decomposition(recurrent_decomposition)
        .float64_by_decomposition()
        .smooth_in(&[0, 1, 2, 3, 5]),
];

/// Returns the types and shapes of all states, of the last state and of the last cell.
fn recurrent_shapes(g: &mut Graph, node: &Node, _: usize) -> Option<Vec<Inferred>> {
    let elem = g.elem(node.input(0)?);
    let (x, r) = (g.shape(node.input(0)?)?, g.shape(node.input(2)?)?);
    let ([first, second, _], [_, _, hidden]) = (&x[..], &r[..]) else {
        return None;
    };
    let directions = Size::fixed(if node.text("direction", "forward") == "bidirectional" {
        2
    } else {
        1
    });
    let (first, second, hidden) = (first.clone(), second.clone(), hidden.clone());
    let (steps, last) = if node.int("layout", 0) == 0 {
        (
            vec![first, directions.clone(), second.clone(), hidden.clone()],
            vec![directions, second, hidden],
        )
    } else {
        (
            vec![first.clone(), second, directions.clone(), hidden.clone()],
            vec![first, directions, hidden],
        )
    };
    Some(vec![
        (elem, Some(steps)),
        (elem, Some(last.clone())),
        (elem, Some(last)),
    ])
}

/// The largest number of steps that are written out.
const LONGEST: i64 = 512;

/// An activation with its parameters.
#[derive(Clone)]
struct Activation {
    name: String,
    alpha: f64,
    beta: f64,
}

/// A recurrent layer in one direction.
struct Layer {
    kind: Kind,
    hidden: i64,
    /// The recurrent weights of all gates, transposed.
    recurrent: Val,
    /// The biases that are added to products with the state, if they are not added to the inputs in
    /// advance.
    state_bias: Option<Val>,
    /// The weights of the cell in the gates, in the order input, output, forget.
    peepholes: Option<Vec<Val>>,
    activations: Vec<Activation>,
    clip: Option<f64>,
    coupled: bool,
    reset_last: bool,
}

/// The kind of a recurrent layer.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Gru,
    Lstm,
}

impl Kind {
    /// Returns the number of gates.
    fn gates(self) -> usize {
        match self {
            Kind::Plain => 1,
            Kind::Gru => 3,
            Kind::Lstm => 4,
        }
    }

    /// Returns the default activations.
    fn activations(self) -> &'static [&'static str] {
        match self {
            Kind::Plain => &["Tanh"],
            Kind::Gru => &["Sigmoid", "Tanh"],
            Kind::Lstm => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// The state of a layer between two steps.
#[derive(Clone, Copy)]
struct State {
    h: Val,
    /// The cell, which only an LSTM has.
    c: Option<Val>,
}

fn recurrent_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let kind = match s.node.op.as_str() {
        "LSTM" => Kind::Lstm,
        "GRU" => Kind::Gru,
        _ => Kind::Plain,
    };
    let batch_first = s.node.int("layout", 0) != 0;
    let mut x = s.x(0)?;
    if s.shape(x)?.len() != 3 {
        return Err("its input does not have three axes".into());
    }
    if batch_first {
        x = s.g.transpose(x, &[1, 0, 2]);
    }
    let shape = s.shape(x)?;
    let length = shape[0].clone();
    let backwards: &[bool] = match s.node.text("direction", "forward").as_str() {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => return Err(format!("its direction `{other}` is not known").into()),
    };
    let activations = activations(s, kind, backwards.len())?;
    let mut results = Vec::new();
    for (index, backwards) in backwards.iter().enumerate() {
        let (layer, inputs) = layer(s, kind, x, index as i64, activations[index].clone())?;
        let start = initial_layer_state(
            s,
            kind,
            index as i64,
            batch_first,
            &[shape[1].clone(), Size::fixed(layer.hidden)],
        )?;
        results.push(match length.as_fixed() {
            Some(length) if (1..=LONGEST).contains(&length) => {
                run(s, &layer, inputs, start, length, *backwards)?
            }
            _ => repeat(s, &layer, inputs, start, &length, *backwards)?,
        });
    }
    Ok(outputs(s.g, &results, batch_first))
}

/// The states after all steps of one direction, along a new first axis, and the last state.
type LayerStates = (Val, State);

/// Returns the outputs of a node from the states of each direction.
fn outputs(g: &mut Graph, results: &[LayerStates], batch_first: bool) -> Vec<Option<Val>> {
    let directions: Vec<Val> = results
        .iter()
        .map(|(steps, _)| g.unsqueeze(*steps, &[1]))
        .collect();
    let mut y = g.concat(&directions, 1);
    let last: Vec<Val> = results.iter().map(|(_, state)| state.h).collect();
    let mut last = stacked(g, &last);
    let cells: Option<Vec<Val>> = results.iter().map(|(_, state)| state.c).collect();
    let mut cells = cells.map(|cells| stacked(g, &cells));
    if batch_first {
        y = g.transpose(y, &[2, 0, 1, 3]);
        last = g.transpose(last, &[1, 0, 2]);
        cells = cells.map(|cells| g.transpose(cells, &[1, 0, 2]));
    }
    let mut outputs = vec![Some(y), Some(last)];
    outputs.extend(cells.map(Some));
    outputs
}

/// Returns the activations of each direction.
fn activations(
    s: &JvpContext,
    kind: Kind,
    directions: usize,
) -> Result<Vec<Vec<Activation>>, Refusal> {
    let list = s
        .node
        .attribute("activations")
        .map(|a| a.strings.clone())
        .filter(|list| !list.is_empty());
    let names: Vec<String> = match list {
        Some(list) => list
            .iter()
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect(),
        None => kind
            .activations()
            .repeat(directions)
            .into_iter()
            .map(str::to_string)
            .collect(),
    };
    let each = kind.activations().len();
    if names.len() != each * directions {
        return Err(format!(
            "it has {} activations for {}",
            names.len(),
            each * directions
        )
        .into());
    }
    let numbers = |name: &str| {
        s.node
            .attribute(name)
            .map(|a| a.floats.clone())
            .unwrap_or_default()
            .into_iter()
    };
    let (mut alphas, mut betas) = (numbers("activation_alpha"), numbers("activation_beta"));
    let mut found = Vec::new();
    for name in names {
        let (name, alpha, beta) = activation_spec(&name)?;
        let number =
            |list: &mut std::vec::IntoIter<f32>, default: Option<Option<f64>>| match default {
                None => Ok(0.0),
                Some(default) => list.next().map(f64::from).or(default).ok_or_else(|| {
                    Refusal(format!(
                        "its activation `{name}` lacks a parameter that has no default"
                    ))
                }),
            };
        let (alpha, beta) = (number(&mut alphas, alpha)?, number(&mut betas, beta)?);
        found.push(Activation {
            name: name.into(),
            alpha,
            beta,
        });
    }
    Ok(found.chunks(each).map(<[Activation]>::to_vec).collect())
}

/// The canonical name of an activation, and its two parameters. `None` stands for a parameter that
/// does not exist, and `Some(None)` for one without a default.
type ActivationSpec = (&'static str, Option<Option<f64>>, Option<Option<f64>>);

/// Returns the description of an activation, whose name may be in any case.
fn activation_spec(name: &str) -> Result<ActivationSpec, Refusal> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "affine" => ("Affine", Some(None), Some(None)),
        "elu" => ("Elu", Some(Some(1.0)), None),
        "hardsigmoid" => (
            "HardSigmoid",
            Some(Some(f64::from(0.2f32))),
            Some(Some(0.5)),
        ),
        "leakyrelu" => ("LeakyRelu", Some(Some(f64::from(0.01f32))), None),
        "relu" => ("Relu", None, None),
        "scaledtanh" => ("ScaledTanh", Some(None), Some(None)),
        "sigmoid" => ("Sigmoid", None, None),
        "softplus" => ("Softplus", None, None),
        "softsign" => ("Softsign", None, None),
        "tanh" => ("Tanh", None, None),
        "thresholdedrelu" => ("ThresholdedRelu", Some(Some(1.0)), None),
        _ => return Err(format!("its activation `{name}` is not known").into()),
    })
}

/// Returns the weights of one direction, and the contributions of the inputs to its gates, `[T, N,
/// G · H]`.
fn layer(
    s: &mut JvpContext,
    kind: Kind,
    x: Val,
    index: i64,
    activations: Vec<Activation>,
) -> Result<(Layer, Val), Refusal> {
    let gates = kind.gates();
    let (w, r) = (s.x(1)?, s.x(2)?);
    let (wide, shape) = (s.shape(w)?, s.shape(r)?);
    if wide.len() != 3 || shape.len() != 3 {
        return Err("its weights do not have three axes".into());
    }
    let hidden = shape[2]
        .as_fixed()
        .ok_or("the size of its state is not known")?;
    let fits =
        hidden > 0 && hidden < 1 << 40 && shape[1].is(hidden * gates as i64) && wide[1] == shape[1];
    if !fits || s.node.int("hidden_size", hidden) != hidden {
        return Err("its weights do not fit its number of gates".into());
    }
    let (w, r) = (at(s.g, w, index), at(s.g, r, index));
    let (w, recurrent) = (s.g.transpose(w, &[1, 0]), s.g.transpose(r, &[1, 0]));
    let mut inputs = s.g.op("MatMul", &[x, w]);
    let reset_last = s.node.int("linear_before_reset", 0) != 0 && kind == Kind::Gru;
    let mut state_bias = None;
    if s.node.input(3).is_some() {
        let biases = s.x(3)?;
        let biases = at(s.g, biases, index);
        let parts = equal_parts(s.g, biases, 0, 2, hidden * gates as i64);
        inputs = s.g.add(inputs, parts[0]);
        if reset_last {
            state_bias = Some(parts[1]);
        } else {
            inputs = s.g.add(inputs, parts[1]);
        }
    }
    let peepholes = match s.node.input(7) {
        Some(_) if kind == Kind::Lstm => {
            let weights = s.x(7)?;
            let weights = at(s.g, weights, index);
            Some(equal_parts(s.g, weights, 0, 3, hidden))
        }
        _ => None,
    };
    let clip = s
        .node
        .attribute("clip")
        .and_then(|a| a.f)
        .map(f64::from)
        .filter(|clip| *clip > 0.0);
    let coupled = s.node.int("input_forget", 0) != 0;
    let layer = Layer {
        kind,
        hidden,
        recurrent,
        state_bias,
        peepholes,
        activations,
        clip,
        coupled,
        reset_last,
    };
    Ok((layer, inputs))
}

/// Returns the state before the first step, which is zero if none is given.
fn initial_layer_state(
    s: &mut JvpContext,
    kind: Kind,
    index: i64,
    batch_first: bool,
    shape: &[Size],
) -> Result<State, Refusal> {
    let like = s.x(0)?;
    let given = |s: &mut JvpContext, input: usize| -> Result<Val, Refusal> {
        if s.node.input(input).is_none() {
            let elem = s.g.elem(like);
            return Ok(s.g.zeros(shape, elem));
        }
        let mut state = s.x(input)?;
        if s.shape(state)?.len() != 3 {
            return Err("its first state does not have three axes".into());
        }
        if batch_first {
            state = s.g.transpose(state, &[1, 0, 2]);
        }
        let state = at(s.g, state, index);
        s.g.set_shape(state, shape);
        Ok(state)
    };
    let h = given(s, 5)?;
    let c = if kind == Kind::Lstm {
        Some(given(s, 6)?)
    } else {
        None
    };
    Ok(State { h, c })
}

/// Appends all steps of one direction.
fn run(
    s: &mut JvpContext,
    layer: &Layer,
    inputs: Val,
    start: State,
    length: i64,
    backwards: bool,
) -> Result<LayerStates, Refusal> {
    let steps = equal_parts(s.g, inputs, 0, length as usize, 1);
    let steps: Vec<Val> = steps.into_iter().map(|v| s.g.squeeze(v, &[0])).collect();
    let lengths = s.node.input(4);
    let mut state = start;
    let mut found = vec![start.h; steps.len()];
    let indices: Vec<usize> = if backwards {
        (0..steps.len()).rev().collect()
    } else {
        (0..steps.len()).collect()
    };
    for index in indices {
        let next = layer.step(s.g, steps[index], state)?;
        (state, found[index]) = match lengths {
            Some(lengths) => {
                let number = s.g.integer(index as i64);
                hold_past_end(s.g, lengths, number, state, next)
            }
            None => (next, next.h),
        };
    }
    Ok((stacked(s.g, &found), state))
}

/// Appends a loop over the steps of one direction, for a sequence that is long or whose length is
/// known only when the graph runs.
fn repeat(
    s: &mut JvpContext,
    layer: &Layer,
    inputs: Val,
    start: State,
    length: &Size,
    backwards: bool,
) -> Result<LayerStates, Refusal> {
    let shape = s.shape(start.h)?;
    let numbers = s
        .node
        .input(4)
        .map(|lengths| (lengths, range_to(s.g, length)));
    let scope = s.g.enter();
    let like = |g: &mut Graph, v: Val| g.add_formal(g.elem(v), Some(shape.clone()), false);
    let before = State {
        h: like(s.g, start.h),
        c: start.c.map(|c| like(s.g, c)),
    };
    let element = element_shape(s.g, inputs, 0);
    let element = s.g.add_formal(s.g.elem(inputs), element, false);
    let number = s.g.add_formal(ElemType::INT64, Some(vec![]), false);
    let (after, y) = match (layer.step(s.g, element, before), numbers) {
        (Ok(after), Some((lengths, _))) => hold_past_end(s.g, lengths, number, before, after),
        (Ok(after), None) => (after, after.h),
        (Err(refusal), _) => {
            s.g.leave(scope);
            return Err(refusal);
        }
    };
    let made = [Some(after.h), after.c, Some(y)]
        .into_iter()
        .flatten()
        .map(|v| s.g.fresh_identity(v))
        .collect();
    let given = [Some(before.h), before.c, Some(element), Some(number)]
        .into_iter()
        .flatten()
        .collect();
    let body = Body::close(s.g, scope, given, made);
    let scan_input = |whole: Val| ScanInput {
        whole,
        axis: 0,
        backwards,
    };
    let scan_inputs = vec![
        scan_input(inputs),
        scan_input(numbers.map_or(inputs, |(_, numbers)| numbers)),
    ];
    let first = [Some(start.h), start.c].into_iter().flatten().collect();
    let made = CountedLoop {
        steps: length.clone(),
        first,
        scan_inputs,
        number: None,
        body,
    }
    .write(s.g, std::slice::from_ref(&shape), false);
    let all = [std::slice::from_ref(length), &shape].concat();
    let steps = if backwards {
        with_step_axis(s.g, made.scan_outputs[0], 0, true, &all)
    } else {
        made.scan_outputs[0]
    };
    Ok((
        steps,
        State {
            h: made.last[0],
            c: made.last.get(1).copied(),
        },
    ))
}

/// Returns the state after a step and the output of the step. Beyond the end of a sequence the
/// state does not change and the output is zero.
fn hold_past_end(
    g: &mut Graph,
    lengths: Val,
    number: Val,
    before: State,
    after: State,
) -> (State, Val) {
    let number = g.cast(number, g.elem(lengths));
    let inside = g.op("Less", &[number, lengths]);
    let inside = g.unsqueeze(inside, &[1]);
    let h = g.op("Where", &[inside, after.h, before.h]);
    let c = before
        .c
        .zip(after.c)
        .map(|(before, after)| g.op("Where", &[inside, after, before]));
    let zero = g.real_like(0.0, after.h);
    let y = g.op("Where", &[inside, after.h, zero]);
    (State { h, c }, y)
}

impl Layer {
    /// Appends one step.
    fn step(&self, g: &mut Graph, input: Val, state: State) -> Result<State, Refusal> {
        match (self.kind, state.c) {
            (Kind::Lstm, Some(c)) => Ok(self.long_short_term(g, input, state.h, c)),
            (Kind::Gru, _) => Ok(self.gated(g, input, state.h)),
            (Kind::Plain, _) => {
                let product = g.op("MatMul", &[state.h, self.recurrent]);
                let sum = g.add(input, product);
                Ok(State {
                    h: self.activated(g, 0, sum),
                    c: None,
                })
            }
            (Kind::Lstm, None) => Err("its cell is missing".into()),
        }
    }

    /// Appends a step of a GRU, `H = (1 - z) h + z H`.
    fn gated(&self, g: &mut Graph, input: Val, h: Val) -> State {
        let n = self.hidden;
        let inputs = equal_parts(g, input, 1, 3, n);
        let weights = equal_parts(g, self.recurrent, 1, 3, n);
        let biases = self.state_bias.map(|v| equal_parts(g, v, 0, 3, n));
        let product = |g: &mut Graph, gate: usize, h: Val| {
            let product = g.op("MatMul", &[h, weights[gate]]);
            biases
                .as_ref()
                .map_or(product, |biases| g.add(product, biases[gate]))
        };
        let opening = |g: &mut Graph, gate: usize| {
            let product = product(g, gate, h);
            let sum = g.add(inputs[gate], product);
            self.activated(g, 0, sum)
        };
        let (update, reset) = (opening(g, 0), opening(g, 1));
        let part = if self.reset_last {
            let product = product(g, 2, h);
            g.mul(reset, product)
        } else {
            let kept = g.mul(reset, h);
            product(g, 2, kept)
        };
        let sum = g.add(inputs[2], part);
        let new = self.activated(g, 1, sum);
        let one = g.real_like(1.0, update);
        let rest = g.sub(one, update);
        let (fresh, kept) = (g.mul(rest, new), g.mul(update, h));
        State {
            h: g.add(fresh, kept),
            c: None,
        }
    }

    /// Appends a step of an LSTM: `C = f C + i c`, `H = o h(C)`.
    fn long_short_term(&self, g: &mut Graph, input: Val, h: Val, c: Val) -> State {
        let product = g.op("MatMul", &[h, self.recurrent]);
        let sum = g.add(input, product);
        let gates = equal_parts(g, sum, 1, 4, self.hidden);
        let opened = |g: &mut Graph, gate: usize, cell: Val| {
            let sum = match &self.peepholes {
                Some(weights) => {
                    let seen = g.mul(weights[gate], cell);
                    g.add(gates[gate], seen)
                }
                None => gates[gate],
            };
            self.activated(g, 0, sum)
        };
        let enter = opened(g, 0, c);
        let forget = if self.coupled {
            let one = g.real_like(1.0, enter);
            g.sub(one, enter)
        } else {
            opened(g, 2, c)
        };
        let new = self.activated(g, 1, gates[3]);
        let (kept, added) = (g.mul(forget, c), g.mul(enter, new));
        let cell = g.add(kept, added);
        let leave = opened(g, 1, cell);
        let shown = self.activated(g, 2, cell);
        State {
            h: g.mul(leave, shown),
            c: Some(cell),
        }
    }

    /// Appends the activation at an index.
    fn activated(&self, g: &mut Graph, index: usize, v: Val) -> Val {
        let v = match self.clip {
            Some(clip) => {
                let (low, high) = (g.real_like(-clip, v), g.real_like(clip, v));
                clipped(g, v, low, high)
            }
            None => v,
        };
        self.activations[index].of(g, v)
    }
}

impl Activation {
    fn of(&self, g: &mut Graph, v: Val) -> Val {
        match self.name.as_str() {
            "Affine" => {
                let scaled = g.scale(v, self.alpha);
                g.shift(scaled, self.beta)
            }
            "ScaledTanh" => {
                let scaled = g.scale(v, self.beta);
                let bent = g.op("Tanh", &[scaled]);
                g.scale(bent, self.alpha)
            }
            "HardSigmoid" => g.op_with(
                &self.name,
                &[v],
                vec![float("alpha", self.alpha), float("beta", self.beta)],
            ),
            "Elu" | "LeakyRelu" | "ThresholdedRelu" => {
                g.op_with(&self.name, &[v], vec![float("alpha", self.alpha)])
            }
            name => g.op(name, &[v]),
        }
    }
}
