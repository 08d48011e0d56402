//! The tangents of `Loop` and `Scan`: another loop, of as many steps, that is linear in the
//! tangents.
//!
//! The loop of tangents recomputes the values of each step from what that step received: the number
//! of the step, the elements of the scan inputs, and the carried values, which the original loop
//! now collects for this in scan outputs. It carries the tangents of the carried values that depend
//! on the differentiated input, and collects the tangents of the original scan outputs. The number
//! of steps is known once the original loop has run.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::conditional::captured_tangents;
use super::operator::{Operator, unknown};
use super::{Rule, rule};
use crate::append::loop_form::{CarriedTypes, LoopForm, LoopStep, ScanAxis, infer_loop_outputs};
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::counted_loop::{
    CountedLoop, ScanInput, element_shape, with_step_axis, with_step_axis_of,
};
use crate::graph::subgraph::{Body, ControlSubgraphs, as_in_file, graph_attribute, name_in_file};
use crate::graph::{Graph, Inferred, Node, Shape, Val};
use crate::inference::axis_of;
use crate::jvp_context::{JvpContext, Tangent, Tangents};
use crate::proto::*;
use crate::size::Size;
use crate::transpose_context::{
    CONTRADICTION, CotangentWalk, Cotangents, TransposeContext, close_subgraph, cotangent_or_zeros,
    transpose_subgraph, zeros_like,
};

/// The declarations of `Loop` and `Scan`. Every loop of tangents is a `Loop`, so that `Scan` needs
/// no transpose.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::new("Loop")
        .kinked()
        .element(unknown)
        .shapes(infer_loop_outputs)
        .tangents_with_subgraphs(loop_tangents)
        .transpose(loop_cotangent),
    Operator::new("Scan")
        .kinked()
        .element(unknown)
        .shapes(infer_loop_outputs)
        .tangents_with_subgraphs(loop_tangents),
];

/// The reason for a loop whose inputs and body do not fit each other.
const MISFIT: &str = "its body does not fit its inputs";

/// The body of the loop of tangents.
struct Inner {
    body: Body,
    step: LoopStep,
    /// The indices of the carried values, of the scan inputs and of the scan outputs that have
    /// tangents.
    active: Vec<usize>,
    scan_inputs: Vec<usize>,
    scan_outputs: Vec<usize>,
}

/// Returns the tangents of a loop's outputs.
fn loop_tangents(
    s: &mut JvpContext,
    of: &HashMap<Val, Tangent>,
) -> Result<Vec<Option<Tangent>>, Refusal> {
    let node = s.node.clone();
    let form = LoopForm::of(&node).ok_or(MISFIT)?;
    let carried = form.carried(s.g, &node).ok_or(MISFIT)?;
    let inner = step_with_tangents(s, of, &form, &carried)?;
    let mut tangents = vec![
        None;
        node.outputs
            .len()
            .max(form.states + form.scan_outputs.len())
    ];
    if inner.body.outputs.is_empty() {
        return Ok(tangents);
    }
    inner.body.is_repeatable(s.g)?;
    stays(&form, &carried, |i| inner.body.uses(inner.step.states[i]))?;
    let (repetition, scan_outputs) =
        loop_of_tangents(s, of, &form, &carried, inner.body.clone(), &inner)?;
    let steps = repetition.steps.clone();
    let made = repetition.write(s.g, &scan_outputs, true);
    for (i, v) in inner.active.iter().zip(made.last) {
        tangents[*i] = Some(Tangent::plain(v));
    }
    for ((i, v), shape) in inner
        .scan_outputs
        .iter()
        .zip(made.scan_outputs)
        .zip(scan_outputs)
    {
        let (v, shape) = with_steps(s.g, v, form.scan_outputs[*i], shape, &steps).ok_or(MISFIT)?;
        s.g.set_shape(v, &shape);
        tangents[form.states + i] = Some(Tangent::plain(v));
    }
    Ok(tangents)
}

/// Moves the steps of a collected tangent `[steps, k, …]` to the axis where the original output has
/// them.
fn with_steps(
    g: &mut Graph,
    v: Val,
    line: ScanAxis,
    mut shape: Shape,
    steps: &Size,
) -> Option<(Val, Shape)> {
    let axis = 1 + axis_of(line.axis, shape.len())?;
    shape.insert(axis, steps.clone());
    Some((with_step_axis(g, v, axis, line.backwards, &shape), shape))
}

/// Builds a subgraph that computes one step and its tangents.
fn step_with_tangents(
    s: &mut JvpContext,
    of: &HashMap<Val, Tangent>,
    form: &LoopForm,
    carried: &CarriedTypes,
) -> Result<Inner, Refusal> {
    let scope = s.g.enter();
    let start = s.g.nodes.len();
    let found = form
        .open(s.g, &s.node, &carried.types)
        .ok_or_else(|| Refusal::from(MISFIT))
        .and_then(|step| {
            let indices = start..s.g.nodes.len();
            let active = active(s, of, form, &step, indices.clone());
            stays(form, carried, |i| active.contains(&i))?;
            tangents_of_step(s, of, form, &step, active, indices).map(|made| (step, made))
        });
    match found {
        Ok((
            step,
            StepTangents {
                active,
                scan_inputs,
                scan_outputs,
                inputs,
                outputs,
            },
        )) => {
            let body = Body::close(s.g, scope, inputs, outputs);
            Ok(Inner {
                body,
                step,
                active,
                scan_inputs,
                scan_outputs,
            })
        }
        Err(refusal) => {
            s.g.leave(scope);
            Err(refusal)
        }
    }
}

/// The inputs and outputs of a step of the loop of tangents.
struct StepTangents {
    active: Vec<usize>,
    scan_inputs: Vec<usize>,
    scan_outputs: Vec<usize>,
    /// The tangents of the carried values, the tangents of the elements, and then the inputs of the
    /// original step.
    inputs: Vec<Val>,
    outputs: Vec<Val>,
}

/// Appends the tangents of one step.
fn tangents_of_step(
    s: &mut JvpContext,
    of: &HashMap<Val, Tangent>,
    form: &LoopForm,
    step: &LoopStep,
    active: Vec<usize>,
    indices: Range<usize>,
) -> Result<StepTangents, Refusal> {
    let mut found = Tangents {
        of: captured_tangents(s, of),
        obstacles: Vec::new(),
    };
    let mut inputs = Vec::new();
    let scan_inputs: Vec<usize> = (0..form.scan_inputs.len())
        .filter(|i| depends(s, of, form.states + i))
        .collect();
    let states = active.iter().map(|i| step.states[*i]);
    for i in &scan_inputs {
        s.rank(form.states + i)?;
    }
    for v in states.chain(scan_inputs.iter().map(|i| step.elements[*i])) {
        let shape = s.tangent_shape(&s.shape(v)?);
        let d = s.g.add_formal(s.g.elem(v).tangent(), Some(shape), true);
        found.of.insert(v, Tangent::plain(d));
        inputs.push(d);
    }
    let next: Vec<Val> = active.iter().map(|i| step.next[*i]).collect();
    let floats: Vec<usize> = (0..step.scan_outputs.len())
        .filter(|i| s.g.elem(step.scan_outputs[*i]).is_float())
        .collect();
    let wanted: Vec<Val> = next
        .iter()
        .copied()
        .chain(floats.iter().map(|i| step.scan_outputs[*i]))
        .collect();
    let origin = s.g.origin;
    (s.walk)(s.g, indices, &s.k.clone(), &wanted, &mut found);
    s.g.origin = origin;
    if let Some(obstacle) = found.obstacles.first() {
        return Err(format!("in its body, {}", as_in_file(obstacle)).into());
    }
    let mut outputs = Vec::new();
    for v in next {
        let d = match found.of.get(&v) {
            Some(tangent) => s.materialize(*tangent),
            None => {
                let shape = s.tangent_shape(&s.shape(v)?);
                s.g.zeros(&shape, s.g.elem(v).tangent())
            }
        };
        outputs.push(s.g.fresh_identity(d));
    }
    let scan_outputs: Vec<usize> = floats
        .into_iter()
        .filter(|i| found.of.contains_key(&step.scan_outputs[*i]))
        .collect();
    for i in &scan_outputs {
        let d = s.materialize(found.of[&step.scan_outputs[*i]]);
        outputs.push(s.g.fresh_identity(d));
    }
    inputs.extend(step.number.iter().chain(&step.states).chain(&step.elements));
    Ok(StepTangents {
        active,
        scan_inputs,
        scan_outputs,
        inputs,
        outputs,
    })
}

/// Returns whether an input of the node depends on the differentiated input.
fn depends(s: &JvpContext, of: &HashMap<Val, Tangent>, index: usize) -> bool {
    s.node
        .input(index)
        .is_some_and(|v| of.contains_key(&v) && s.g.elem(v).is_float())
}

/// Returns the indices of the carried values that depend on the differentiated input at any step.
fn active(
    s: &JvpContext,
    of: &HashMap<Val, Tangent>,
    form: &LoopForm,
    step: &LoopStep,
    indices: Range<usize>,
) -> Vec<usize> {
    let mut reached: HashSet<Val> = HashSet::new();
    let first = (0..form.states)
        .filter(|i| depends(s, of, form.start() + i))
        .map(|i| step.states[i]);
    reached.extend(first);
    let elements = (0..form.scan_inputs.len())
        .filter(|i| depends(s, of, form.states + i))
        .map(|i| step.elements[i]);
    reached.extend(elements);
    loop {
        for node in &s.g.nodes[indices.clone()] {
            let touched = |v: &Val| reached.contains(v) || of.contains_key(v);
            let passes = !matches!(rule(node), Ok(Rule::Constant));
            if passes
                && node
                    .inputs
                    .iter()
                    .flatten()
                    .chain(&node.captures)
                    .any(touched)
            {
                let outputs = node.outputs.iter().flatten().copied();
                reached.extend(
                    outputs
                        .filter(|v| s.g.elem(*v).is_float() || s.g.elem(*v) == ElemType::UNKNOWN),
                );
            }
        }
        let before = reached.len();
        for (state, next) in step.states.iter().zip(&step.next) {
            if (reached.contains(next) || of.contains_key(next)) && s.g.elem(*state).is_float() {
                reached.insert(*state);
            }
        }
        if reached.len() == before {
            return (0..form.states)
                .filter(|i| reached.contains(&step.states[*i]))
                .collect();
        }
    }
}

/// Checks that the carried values which are needed keep their type and their shape.
///
/// # Errors
///
/// Refuses a carried value that changes either.
fn stays(
    form: &LoopForm,
    carried: &CarriedTypes,
    needed: impl Fn(usize) -> bool,
) -> Result<(), Refusal> {
    match (0..form.states).find(|i| needed(*i) && !carried.stays[*i]) {
        Some(i) => Err(Refusal(format!(
            "its carried value {i}, `{}`, is not known to keep its shape from step to step; export the model with a tensor that keeps its shape, and with at most five nested loops",
            name_in_file(form.body.input[form.start() + i].name())
        ))),
        None => Ok(()),
    }
}

/// Returns the loop of tangents and the shapes of the elements of its scan outputs.
fn loop_of_tangents(
    s: &mut JvpContext,
    of: &HashMap<Val, Tangent>,
    form: &LoopForm,
    carried: &CarriedTypes,
    body: Body,
    inner: &Inner,
) -> Result<(CountedLoop, Vec<Shape>), Refusal> {
    let node = s.node.clone();
    let whole = |s: &mut JvpContext, v: Val| of.get(&v).map(|tangent| s.materialize(*tangent));
    let mut first = Vec::new();
    for i in &inner.active {
        let v = form.first(&node, *i).ok_or(MISFIT)?;
        let shape = s.tangent_shape(&carried.types[*i].1.clone().ok_or(MISFIT)?);
        let elem = s.g.elem(v).tangent();
        first.push(whole(s, v).unwrap_or_else(|| s.g.zeros(&shape, elem)));
    }
    let mut scan_inputs = Vec::new();
    for i in &inner.scan_inputs {
        let (v, axis) = form.scan_input(s.g, &node, *i).ok_or(MISFIT)?;
        let whole = whole(s, v).ok_or(MISFIT)?;
        scan_inputs.push(ScanInput {
            whole,
            axis: axis + 1,
            backwards: form.scan_inputs[*i].backwards,
        });
    }
    let used: Vec<usize> = (0..form.states)
        .filter(|i| inner.body.uses(inner.step.states[*i]))
        .collect();
    let (steps, states) = kept_states(s.g, &node, form, &carried.types, &used)?;
    if let Some(number) = inner.step.number {
        scan_inputs.push(ScanInput {
            whole: step_numbers(s.g, &steps, number),
            axis: 0,
            backwards: false,
        });
    }
    for i in 0..form.states {
        // A scan input that the body does not use is removed later, so any value serves.
        let whole = used
            .iter()
            .position(|used| *used == i)
            .map_or(first.first().copied(), |index| Some(states[index]));
        let whole = whole
            .or(node.inputs.iter().flatten().next().copied())
            .ok_or(MISFIT)?;
        scan_inputs.push(ScanInput {
            whole,
            axis: 0,
            backwards: false,
        });
    }
    for i in 0..form.scan_inputs.len() {
        let (whole, axis) = form.scan_input(s.g, &node, i).ok_or(MISFIT)?;
        scan_inputs.push(ScanInput {
            whole,
            axis,
            backwards: form.scan_inputs[i].backwards,
        });
    }
    let mut scan_outputs = Vec::new();
    for i in &inner.scan_outputs {
        let output = node.output(form.states + i);
        let inside = s.shape(inner.step.scan_outputs[*i])?;
        let shape = match output.and_then(|v| s.g.shape(v).cloned()) {
            Some(mut shape) if shape.len() == inside.len() + 1 => {
                shape.remove(axis_of(form.scan_outputs[*i].axis, shape.len()).ok_or(MISFIT)?);
                shape
            }
            _ => inside,
        };
        scan_outputs.push(s.tangent_shape(&shape));
    }
    let number = inner.step.number;
    Ok((
        CountedLoop {
            steps,
            first,
            scan_inputs,
            number,
            body,
        },
        scan_outputs,
    ))
}

/// Appends the numbers of all steps. Each one has as many axes as `like`.
fn step_numbers(g: &mut Graph, steps: &Size, like: Val) -> Val {
    let (zero, one) = (g.integer(0), g.integer(1));
    let count = g.sizes(std::slice::from_ref(steps));
    let count = g.squeeze(count, &[0]);
    let numbers = g.op("Range", &[zero, count, one]);
    g.set_shape(numbers, std::slice::from_ref(steps));
    let axes: Vec<i64> = (1..=g.rank(like).unwrap_or_default() as i64).collect();
    g.unsqueeze(numbers, &axes)
}

/// Returns the number of steps of a loop, and some of its carried values before each step. It adds
/// scan outputs for them to the loop.
fn kept_states(
    g: &mut Graph,
    node: &Node,
    form: &LoopForm,
    types: &[Inferred],
    wanted: &[usize],
) -> Result<(Size, Vec<Val>), Refusal> {
    let index = g
        .nodes
        .iter()
        .rposition(|made| made.outputs == node.outputs)
        .ok_or(MISFIT)?;
    let known = form
        .steps(g, node)
        .or_else(|| steps_of_outputs(g, node, form));
    let counts = known.is_none();
    if !counts && wanted.is_empty() {
        return Ok((known.unwrap_or_else(|| g.symbols.fresh()), Vec::new()));
    }
    let steps = known.unwrap_or_else(|| g.symbols.fresh());
    let mut body = form.body.clone();
    let mut outputs: Vec<Inferred> = Vec::new();
    let number = (
        ElemType::INT64,
        Some(vec![Size::fixed(1); form.rank_of_number()]),
    );
    let numbers = counts.then_some((0, number));
    let states = wanted.iter().map(|i| (form.start() + i, types[*i].clone()));
    for (input, (elem, shape)) in numbers.into_iter().chain(states) {
        keep(g, &mut body, input, (elem, shape.clone()));
        let shape = shape.map(|shape| std::iter::once(steps.clone()).chain(shape).collect());
        outputs.push((elem, shape));
    }
    let mut attributes: Vec<AttributeProto> = node.attributes.clone();
    for attribute in &mut attributes {
        match attribute.name() {
            "body" => *attribute = graph_attribute("body", body.clone()),
            "scan_output_axes" | "scan_output_directions" => {
                attribute.ints.extend(vec![0; outputs.len()])
            }
            _ => {}
        }
    }
    // ONNX Runtime requires a name for an output that precedes another one, even if the file leaves
    // it out.
    for i in 0..form.states + form.scan_outputs.len() {
        if node.output(i).is_none() {
            let unused = g.placeholder(ElemType::UNKNOWN, None);
            let outputs = &mut g.nodes[index].outputs;
            outputs.resize(outputs.len().max(i + 1), None);
            outputs[i] = Some(unused);
        }
    }
    let mut made = g.extend_control(index, attributes, outputs);
    Ok((steps, made.split_off(usize::from(counts))))
}

/// Returns the number of steps by the shapes of the loop's own scan outputs.
fn steps_of_outputs(g: &Graph, node: &Node, form: &LoopForm) -> Option<Size> {
    (form.states..node.outputs.len()).find_map(|index| {
        let shape = g.shape(node.output(index)?)?;
        shape
            .get(axis_of(
                form.scan_outputs.get(index - form.states)?.axis,
                shape.len(),
            )?)
            .cloned()
    })
}

/// Makes a body return one of its inputs.
fn keep(g: &mut Graph, body: &mut GraphProto, input: usize, (elem, shape): Inferred) {
    let out = g.placeholder(elem, shape);
    let (name, r#type) = (g.value(out).name.clone(), g.export_type(out));
    body.node.push(NodeProto {
        op_type: Some("Identity".into()),
        name: Some(format!("{name}_node")),
        input: vec![body.input[input].name().to_string()],
        output: vec![name.clone()],
        ..Default::default()
    });
    body.output.push(ValueInfoProto {
        name: Some(name),
        r#type: Some(r#type),
    });
}

/// Appends a loop that visits the steps in reverse order. It carries the cotangents from the last
/// step to the first. Cotangents of scan outputs are its scan inputs, cotangents of scan inputs are
/// its scan outputs, and cotangents of captured values are summed.
fn loop_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let first = t.node.outputs.iter().flatten().next();
    let Some(ControlSubgraphs::Loop(r)) = first.and_then(|v| t.g.control_subgraphs.get(v)).cloned()
    else {
        return Err(CONTRADICTION.into());
    };
    let carried = r.first.len();
    let uses = r.body.linear_captures(t.g);
    let linear: Vec<usize> = (0..r.scan_inputs.len())
        .filter(|i| t.g.value(r.scan_inputs[*i].whole).linear)
        .collect();
    let mut first = Vec::new();
    for (v, output_cotangents) in r.first.iter().zip(&t.output_cotangents) {
        first.push(match output_cotangents {
            Some(c) => *c,
            None => zeros_like(t.g, *v)?,
        });
    }
    for v in &uses {
        first.push(zeros_like(t.g, *v)?);
    }
    let scan_outputs: Vec<(Val, Val)> = r.body.outputs[carried..]
        .iter()
        .zip(&t.output_cotangents[carried..])
        .filter_map(|(v, c)| Some((*v, (*c)?)))
        .collect();
    let mut scan_inputs = Vec::new();
    for i in (0..r.scan_inputs.len()).filter(|i| !linear.contains(i)) {
        scan_inputs.push(ScanInput {
            backwards: !r.scan_inputs[i].backwards,
            ..r.scan_inputs[i]
        });
    }
    scan_inputs.extend(scan_outputs.iter().map(|(_, c)| ScanInput {
        whole: *c,
        axis: 0,
        backwards: true,
    }));
    let body = transposed_step(t.g, t.walk, &r, &uses, &linear, &scan_outputs)?;
    let shapes: Option<Vec<Shape>> = linear
        .iter()
        .map(|i| element_shape(t.g, r.scan_inputs[*i].whole, r.scan_inputs[*i].axis))
        .collect();
    let turned = CountedLoop {
        steps: r.steps.clone(),
        first,
        scan_inputs,
        number: None,
        body,
    };
    let made = turned.write(t.g, &shapes.ok_or(CONTRADICTION)?, false);
    t.captured.extend(
        uses.iter()
            .copied()
            .zip(made.last[carried..].iter().copied()),
    );
    for (i, v) in linear.iter().zip(made.scan_outputs) {
        // The first element belongs to the last step.
        let scan_input = ScanInput {
            backwards: !r.scan_inputs[*i].backwards,
            ..r.scan_inputs[*i]
        };
        let shape = t.shape(scan_input.whole)?;
        let v = with_step_axis_of(t.g, v, &scan_input, &r.steps, &shape);
        t.captured.push((scan_input.whole, v));
    }
    Ok(made
        .last
        .into_iter()
        .take(carried)
        .enumerate()
        .map(|(i, v)| (2 + i, v))
        .collect())
}

/// Builds the body of the transposed loop. Its inputs are the carried cotangents, the sums of the
/// cotangents of captured values, the inputs of the original step except tangents, and the
/// cotangents of the elements of the scan outputs.
fn transposed_step(
    g: &mut Graph,
    walk: CotangentWalk,
    r: &CountedLoop,
    uses: &[Val],
    linear: &[usize],
    scan_outputs: &[(Val, Val)],
) -> Result<Body, Refusal> {
    let carried = r.first.len();
    let (tangents, elements) = r.body.inputs.split_at(carried);
    let (scope, indices) = r.body.reopen(g);
    let like = |g: &mut Graph, v: Val| {
        let shape = g.shape(v).cloned();
        g.add_formal(g.elem(v), shape, false)
    };
    let output_cotangents: Vec<Val> = tangents.iter().map(|v| like(g, *v)).collect();
    let sums: Vec<Val> = uses.iter().map(|v| like(g, *v)).collect();
    let of_kept: Vec<Val> = scan_outputs.iter().map(|(v, _)| like(g, *v)).collect();
    let given = elements
        .iter()
        .enumerate()
        .filter(|(i, _)| !linear.contains(i))
        .map(|(_, v)| *v);
    let inputs = output_cotangents
        .iter()
        .chain(&sums)
        .copied()
        .chain(given)
        .chain(of_kept.iter().copied())
        .collect();
    let pairs = r.body.outputs[..carried]
        .iter()
        .copied()
        .zip(output_cotangents);
    let found = transpose_subgraph(
        g,
        walk,
        indices,
        pairs.chain(scan_outputs.iter().map(|(v, _)| *v).zip(of_kept)),
    );
    let outputs = found.and_then(|cotangents| {
        let mut outputs = Vec::new();
        for v in tangents {
            outputs.push(cotangent_or_zeros(g, &cotangents, *v)?);
        }
        for (v, sum) in uses.iter().zip(sums) {
            let total = cotangents.get(v).map_or(sum, |part| g.add(sum, *part));
            outputs.push(g.fresh_identity(total));
        }
        for i in linear {
            outputs.push(cotangent_or_zeros(g, &cotangents, elements[*i])?);
        }
        Ok(outputs)
    });
    close_subgraph(g, scope, inputs, outputs)
}
