//! Loops that are written here: a number of steps, values that are carried from one to the next, scan_inputs of which each
//! step is given an element, and values that are scan_outputs of all steps.

use std::collections::HashSet;

use crate::content::Item;
use crate::elem::ElemType;
use crate::graph::emit::int;
use crate::graph::subgraph::{Body, ControlSubgraphs};
use crate::graph::{Control, Graph, Node, Shape, Val};
use crate::size::{Size, axis_of};

/// A loop whose number of steps is known where it begins.
#[derive(Clone)]
pub struct CountedLoop {
    pub steps: Size,
    /// The carried values before the first step.
    pub first: Vec<Val>,
    pub scan_inputs: Vec<ScanInput>,
    /// Which of the values that a step is given is its number.
    pub number: Option<Val>,
    /// Given the carried values, then an element of each scan_input; makes the next carried values, then what is scan_outputs.
    pub body: Body,
}

/// A value of which each step is given one place along an axis.
#[derive(Clone, Copy)]
pub struct ScanInput {
    pub whole: Val,
    pub axis: usize,
    /// Whether the first step is given the last place.
    pub backwards: bool,
}

/// What a loop makes: the last carried values, and what was scan_outputs, along a new first axis in the order of the steps.
pub struct LoopOutputs {
    pub last: Vec<Val>,
    pub scan_outputs: Vec<Val>,
}

impl CountedLoop {
    /// Appends the loop as a `Loop`; `scan_outputs` are the shapes of what each step keeps, in sizes that are known around it.
    /// Tangents are remembered for reverse mode.
    pub fn write(mut self, g: &mut Graph, scan_outputs: &[Shape], linear: bool) -> LoopOutputs {
        self.hoist(g);
        if linear {
            self.find_scan_inputs(g);
        }
        self.drop_unused();
        let body = self.with_elements(g);
        let steps = g.sizes(std::slice::from_ref(&self.steps));
        let steps = g.squeeze(steps, &[0]);
        let carried = self.first.len();
        let mut outputs: Vec<_> = self
            .first
            .iter()
            .map(|v| (g.elem(*v), g.shape(*v).cloned()))
            .collect();
        for (v, shape) in self.body.outputs[carried..].iter().zip(scan_outputs) {
            let stacked = std::iter::once(&self.steps).chain(shape).cloned().collect();
            outputs.push((g.elem(*v), Some(stacked)));
        }
        let inputs = [Some(steps), None]
            .into_iter()
            .chain(self.first.iter().copied().map(Some))
            .collect();
        let attributes = vec![body.attribute(g, "body")];
        let mut last = g.push_control(
            Control {
                op: "Loop",
                inputs,
                attributes,
                captures: body.captures(),
                linear,
            },
            outputs,
        );
        if let Some(first) = last.first().copied().filter(|_| linear) {
            g.control_subgraphs
                .insert(first, ControlSubgraphs::Loop(self));
        }
        let scan_outputs = last.split_off(carried);
        LoopOutputs { last, scan_outputs }
    }

    /// Moves what is the same at every step in front of the loop.
    fn hoist(&mut self, g: &mut Graph) {
        let mut varies: HashSet<Val> = self.body.inputs.iter().copied().collect();
        let (mut before, mut within) = (Vec::new(), Vec::new());
        for node in std::mem::take(&mut self.body.nodes) {
            let depends = node
                .inputs
                .iter()
                .flatten()
                .chain(&node.captures)
                .any(|v| varies.contains(v));
            // Outputs must be made inside.
            if depends
                || node
                    .outputs
                    .iter()
                    .flatten()
                    .any(|v| self.body.outputs.contains(v))
            {
                varies.extend(node.outputs.iter().flatten());
                within.push(node);
            } else {
                before.push(node);
            }
        }
        g.repeat(&before);
        self.body.nodes = within;
    }

    /// Tangents of which each step takes one place by its number are scan_inputs: reverse mode then keeps what goes to that
    /// place, instead of adding zeros everywhere else.
    fn find_scan_inputs(&mut self, g: &Graph) {
        let Some(number) = self.number else { return };
        let made: HashSet<Val> = self
            .body
            .nodes
            .iter()
            .flat_map(|node| node.outputs.iter().flatten().copied())
            .collect();
        let outside = |v: &Val| !made.contains(v) && !self.body.inputs.contains(v);
        let (mut nodes, mut found) = (Vec::new(), Vec::new());
        for node in &self.body.nodes {
            let whole = node
                .input(0)
                .filter(|v| node.standard() == "Gather" && g.value(*v).linear && outside(v));
            let backwards = node
                .input(1)
                .and_then(|place| self.turned(g, place, number));
            let axis = whole.and_then(|v| axis_of(node.int("axis", 0), g.rank(v)?));
            match (whole, axis, backwards, node.output(0)) {
                (Some(whole), Some(axis), Some(backwards), Some(element)) => {
                    found.push((
                        ScanInput {
                            whole,
                            axis,
                            backwards,
                        },
                        element,
                    ));
                }
                _ => nodes.push(node.clone()),
            }
        }
        self.body.nodes = nodes;
        for (scan_input, element) in found {
            self.scan_inputs.push(scan_input);
            self.body.inputs.push(element);
        }
    }

    /// Whether a place is that of the step counted from the last one, instead of its number.
    fn turned(&self, g: &Graph, place: Val, number: Val) -> Option<bool> {
        if g.rank(number) != Some(0) {
            return None;
        }
        if place == number {
            return Some(false);
        }
        let difference = self
            .body
            .nodes
            .iter()
            .find(|node| node.output(0) == Some(place))?;
        let last = g.content(difference.input(0)?)?.items.first()?.clone();
        let turned = difference.standard() == "Sub" && difference.input(1) == Some(number);
        let whole = Item::Int(self.steps.minus(&Size::fixed(1))?);
        (turned && last == whole).then_some(true)
    }

    /// Leaves out the scan_inputs that no step looks at.
    fn drop_unused(&mut self) {
        let carried = self.first.len();
        let used: Vec<bool> = self.body.inputs[carried..]
            .iter()
            .map(|v| self.body.uses(*v))
            .collect();
        let mut flags = used.iter();
        self.scan_inputs.retain(|_| flags.next() == Some(&true));
        let mut flags = std::iter::repeat_n(&true, carried).chain(&used);
        self.body.inputs.retain(|_| flags.next() == Some(&true));
    }

    /// The body as `Loop` has it: it takes its elements from the scan_inputs by the number of the step.
    fn with_elements(&self, g: &mut Graph) -> Body {
        let scope = g.enter();
        let (step, on) = (
            g.add_formal(ElemType::INT64, Some(vec![]), false),
            g.add_formal(ElemType::BOOL, Some(vec![]), false),
        );
        let goes_on = g.fresh_identity(on);
        let back = self
            .scan_inputs
            .iter()
            .any(|scan_input| scan_input.backwards)
            .then(|| {
                let count = g.sizes(std::slice::from_ref(&self.steps));
                let one = g.integers(&[1]);
                let last = g.sub(count, one);
                let last = g.squeeze(last, &[0]);
                g.sub(last, step)
            });
        let (mut nodes, _) = g.leave(scope);
        let carried = self.first.len();
        for (
            ScanInput {
                whole,
                axis,
                backwards,
            },
            element,
        ) in self.scan_inputs.iter().zip(&self.body.inputs[carried..])
        {
            let place = back.filter(|_| *backwards).unwrap_or(step);
            nodes.push(Node {
                op: "Gather".into(),
                domain: String::new(),
                name: g.fresh_name("Gather_node"),
                inputs: vec![Some(*whole), Some(place)],
                outputs: vec![Some(*element)],
                attributes: vec![int("axis", *axis as i64)],
                captures: Vec::new(),
                origin: g.origin,
            });
        }
        nodes.extend(self.body.nodes.iter().cloned());
        let inputs = [&[step, on], &self.body.inputs[..carried]].concat();
        let outputs = [&[goes_on], &self.body.outputs[..]].concat();
        Body {
            inputs,
            nodes,
            outputs,
        }
    }
}

/// A value scan_outputs of all steps with its first axis at another place, of a known shape; `backwards` from the last to the
/// first step.
pub fn with_step_axis(
    g: &mut Graph,
    scan_outputs: Val,
    axis: usize,
    backwards: bool,
    shape: &[Size],
) -> Val {
    let mut v = scan_outputs;
    if backwards {
        let [start, end, first, step] = [-1, i64::MIN + 1, 0, -1].map(|n| g.integers(&[n]));
        let whole = g.shape(v).cloned();
        v = g.op("Slice", &[v, start, end, first, step]);
        if let Some(whole) = whole {
            g.set_shape(v, &whole);
        }
    }
    let order: Vec<usize> = (1..=axis).chain([0]).chain(axis + 1..shape.len()).collect();
    v = g.transpose(v, &order);
    if shape[axis].as_fixed().is_none_or(|n| n == 0) {
        // A loop of no steps does not know the other sizes.
        let target = g.sizes(shape);
        v = g.op_with("Reshape", &[v, target], vec![int("allowzero", 1)]);
    }
    g.set_shape(v, shape);
    v
}

/// The same for a scan_input that may be longer than there are steps, which take none of its last places.
pub fn with_step_axis_of(
    g: &mut Graph,
    scan_outputs: Val,
    scan_input: &ScanInput,
    steps: &Size,
    shape: &[Size],
) -> Val {
    let ScanInput {
        axis, backwards, ..
    } = *scan_input;
    let mut part = shape.to_vec();
    part[axis] = steps.clone();
    let v = with_step_axis(g, scan_outputs, axis, backwards, &part);
    if part == shape {
        return v;
    }
    let mut pads = vec![Size::fixed(0); 2 * shape.len()];
    pads[shape.len() + axis] = g.symbols.sub(&shape[axis], steps);
    let pads = g.sizes(&pads);
    let padded = g.op("Pad", &[v, pads]);
    g.set_shape(padded, shape);
    padded
}

/// The shape of an element of a scan_input.
pub fn element_shape(g: &Graph, whole: Val, axis: usize) -> Option<Shape> {
    let mut shape = g.shape(whole)?.clone();
    (axis < shape.len()).then(|| shape.remove(axis))?;
    Some(shape)
}
