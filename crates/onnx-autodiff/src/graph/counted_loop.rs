//! Loops that this crate appends: a number of steps, values that are carried from step to step,
//! scan inputs of which each step takes one element, and scan outputs that collect one element of
//! each step.

use std::collections::HashSet;

use crate::content::Item;
use crate::elem::ElemType;
use crate::graph::emit::int;
use crate::graph::subgraph::{Body, ControlSubgraphs};
use crate::graph::{Control, Graph, Node, Shape, Val};
use crate::size::{Size, axis_of};

/// A loop whose number of steps is known when it starts.
#[derive(Clone)]
pub(crate) struct CountedLoop {
    /// The number of steps.
    pub steps: Size,
    /// The carried values before the first step.
    pub first: Vec<Val>,
    /// The scan inputs.
    pub scan_inputs: Vec<ScanInput>,
    /// The input of the body that is the number of the step, if the body has one.
    pub number: Option<Val>,
    /// The graph of one step. It takes the carried values and then an element of each scan input.
    /// It returns the next carried values and then an element of each scan output.
    pub body: Body,
}

/// A value of which each step takes one element along an axis.
#[derive(Clone, Copy)]
pub(crate) struct ScanInput {
    /// The value.
    pub whole: Val,
    /// The axis along which the elements lie.
    pub axis: usize,
    /// Whether the first step takes the last element.
    pub backwards: bool,
}

/// The outputs of a loop.
pub(crate) struct LoopOutputs {
    /// The carried values after the last step.
    pub last: Vec<Val>,
    /// The scan outputs, with a new first axis for the steps.
    pub scan_outputs: Vec<Val>,
}

impl CountedLoop {
    /// Appends the loop as a `Loop` node. `scan_outputs` are the shapes of the elements, in sizes
    /// that are known outside the loop. The graph remembers the body of a loop of tangents for
    /// reverse mode.
    pub(crate) fn write(
        mut self,
        g: &mut Graph,
        scan_outputs: &[Shape],
        linear: bool,
    ) -> LoopOutputs {
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

    /// Moves nodes that compute the same at every step in front of the loop.
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
            // The outputs of the body must be made inside it.
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

    /// Turns tangents of which a step takes the element at its own number into scan inputs. Reverse
    /// mode then collects the cotangents of the elements in a scan output, instead of adding a
    /// mostly zero tensor at each step.
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
                .and_then(|index| self.turned(g, index, number));
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

    /// Returns whether an index counts the steps from the last one (`true`) or is the number of the
    /// step itself (`false`). Returns `None` if it is neither.
    fn turned(&self, g: &Graph, index: Val, number: Val) -> Option<bool> {
        if g.rank(number) != Some(0) {
            return None;
        }
        if index == number {
            return Some(false);
        }
        let difference = self
            .body
            .nodes
            .iter()
            .find(|node| node.output(0) == Some(index))?;
        let last = g.content(difference.input(0)?)?.items.first()?.clone();
        let turned = difference.standard() == "Sub" && difference.input(1) == Some(number);
        let whole = Item::Int(self.steps.minus(&Size::fixed(1))?);
        (turned && last == whole).then_some(true)
    }

    /// Removes the scan inputs that the body does not use.
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

    /// Returns the body in the form of `Loop`, which picks the elements of the scan inputs by the
    /// number of the step.
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
            let index = back.filter(|_| *backwards).unwrap_or(step);
            nodes.push(Node {
                op: "Gather".into(),
                domain: String::new(),
                name: g.fresh_name("Gather_node"),
                inputs: vec![Some(*whole), Some(index)],
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

/// Moves the first axis of a scan output, along which the steps lie, to the index `axis`, for a
/// result of the given shape. `backwards` reverses the order of the steps.
pub(crate) fn with_step_axis(
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
        // The output of a loop without steps may lack the other sizes.
        let target = g.sizes(shape);
        v = g.op_with("Reshape", &[v, target], vec![int("allowzero", 1)]);
    }
    g.set_shape(v, shape);
    v
}

/// Moves the first axis of a scan output to where the steps lie in a scan input. If the scan input
/// is longer than the number of steps, zeros fill the elements that no step took.
pub(crate) fn with_step_axis_of(
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

/// Returns the shape of an element of a scan input: its shape without the axis of the steps.
pub(crate) fn element_shape(g: &Graph, whole: Val, axis: usize) -> Option<Shape> {
    let mut shape = g.shape(whole)?.clone();
    (axis < shape.len()).then(|| shape.remove(axis))?;
    Some(shape)
}
