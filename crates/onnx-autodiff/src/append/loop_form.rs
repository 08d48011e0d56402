//! Reads `Loop` and `Scan` in one form: the values that the loop carries from step to step, the
//! scan inputs of which each step takes one element, and the scan outputs that collect one element
//! of each step.

use crate::append::loops;
use crate::elem::ElemType;
use crate::graph::Inferred;
use crate::graph::{Graph, Node, Shape, Val};
use crate::inference::axis_of;
use crate::proto::*;
use crate::size::Size;

/// The deepest nesting of subgraphs that is read. Shapes inside deeper subgraphs stay unknown.
pub(crate) const DEEPEST: usize = 5;
/// The number of times that the shapes of carried values are generalized before they are taken as
/// unknown.
const ATTEMPTS: usize = 3;

/// The parts of a `Loop` or a `Scan` node.
pub(crate) struct LoopForm {
    /// The graph of one step.
    pub body: GraphProto,
    /// Whether the node is a `Loop`, whose body also takes the number of the step and the condition
    /// to go on.
    pub counts: bool,
    /// The number of carried values.
    pub states: usize,
    /// The axes of the scan inputs along which the steps lie.
    pub scan_inputs: Vec<ScanAxis>,
    /// The axes of the scan outputs along which the steps lie.
    pub scan_outputs: Vec<ScanAxis>,
}

/// The axis of a scan input or a scan output along which the steps lie, and their order along it.
#[derive(Clone, Copy)]
pub(crate) struct ScanAxis {
    /// The axis. A negative number counts from the last axis.
    pub axis: i64,
    /// Whether the first step takes or writes the last element along the axis.
    pub backwards: bool,
}

/// The element types and shapes of a loop's carried values that hold at every step.
pub(crate) struct CarriedTypes {
    /// The element type and shape of each carried value.
    pub types: Vec<Inferred>,
    /// Whether each carried value keeps its element type and its shape from step to step.
    pub stays: Vec<bool>,
    /// The element type and shape of what each step adds to each scan output.
    scan_outputs: Vec<Inferred>,
}

/// One step of a loop, appended to the current scope of a graph.
pub(crate) struct LoopStep {
    /// The number of the step. It is `None` in a `Scan`.
    pub number: Option<Val>,
    /// The carried values before the step.
    pub states: Vec<Val>,
    /// The element of each scan input.
    pub elements: Vec<Val>,
    /// Whether another step follows. It is `None` in a `Scan`.
    pub goes_on: Option<Val>,
    /// The carried values after the step.
    pub next: Vec<Val>,
    /// The element of each scan output.
    pub scan_outputs: Vec<Val>,
}

impl LoopForm {
    /// Returns the parts of a node. Returns `None` if its inputs, its outputs and its body do not
    /// fit each other.
    pub(crate) fn of(node: &Node) -> Option<LoopForm> {
        let body = node.attribute("body")?.g.clone()?;
        let counts = node.standard() == "Loop";
        let (extra, scanned) = if counts {
            (2, 0)
        } else {
            (0, usize::try_from(node.int("num_scan_inputs", 0)).ok()?)
        };
        let states = node.inputs.len().checked_sub(extra + scanned)?;
        let scan_outputs = body
            .output
            .len()
            .checked_sub(states + usize::from(counts))?;
        let lines = |count: usize, axes: &str, directions: &str| {
            let (axes, directions) = (
                node.ints(axes).unwrap_or_default(),
                node.ints(directions).unwrap_or_default(),
            );
            let line = |i: usize| ScanAxis {
                axis: axes.get(i).copied().unwrap_or(0),
                backwards: directions.get(i) == Some(&1),
            };
            (0..count).map(line).collect::<Vec<ScanAxis>>()
        };
        let scan_inputs = lines(scanned, "scan_input_axes", "scan_input_directions");
        let scan_outputs = lines(scan_outputs, "scan_output_axes", "scan_output_directions");
        let fits = body.input.len() == node.inputs.len() && (counts || scanned > 0);
        fits.then_some(LoopForm {
            body,
            counts,
            states,
            scan_inputs,
            scan_outputs,
        })
    }

    /// Returns the index of the first carried value, both among the inputs of the body and among
    /// the inputs of the node.
    pub(crate) fn start(&self) -> usize {
        if self.counts { 2 } else { 0 }
    }

    /// Returns the `i`th carried value before the first step.
    pub(crate) fn first(&self, node: &Node, i: usize) -> Option<Val> {
        node.input(self.start() + i)
    }

    /// Returns the `i`th scan input and the axis along which its steps lie.
    pub(crate) fn scan_input(&self, g: &Graph, node: &Node, i: usize) -> Option<(Val, usize)> {
        let whole = node.input(self.states + i)?;
        Some((whole, axis_of(self.scan_inputs[i].axis, g.rank(whole)?)?))
    }

    /// Returns the number of steps if it is known before the loop runs.
    pub(crate) fn steps(&self, g: &Graph, node: &Node) -> Option<Size> {
        if !self.counts {
            let (whole, axis) = self.scan_input(g, node, 0)?;
            return g.shape(whole)?.get(axis).cloned();
        }
        let number = |v: Val| g.content(v)?.items.first().cloned();
        let always = |v: Val| number(v).and_then(|n| n.as_fixed()).is_some_and(|n| n != 0);
        let most = match number(node.input(0)?)? {
            crate::content::Item::Int(most) => most,
            _ => return None,
        };
        let counts = most.terms().all(|(coefficient, _)| coefficient > 0);
        (counts && node.input(1).is_none_or(always) && self.never_stops()).then_some(most)
    }

    /// Returns the rank that the body declares for the number of the step: 0 or 1.
    pub(crate) fn rank_of_number(&self) -> usize {
        usize::from(self.body.input.first().and_then(rank_of) == Some(1))
    }

    /// Returns the rank that the body declares for the condition to go on: 0 or 1.
    pub(crate) fn rank_of_condition(&self) -> usize {
        usize::from(self.body.input.get(1).and_then(rank_of) == Some(1))
    }

    /// Returns whether the body returns the condition to go on unchanged, so that no step ends the
    /// loop.
    fn never_stops(&self) -> bool {
        let [_, given, ..] = &self.body.input[..] else {
            return false;
        };
        let Some(mut name) = self.body.output.first().map(|output| output.name()) else {
            return false;
        };
        for node in self
            .body
            .node
            .iter()
            .rev()
            .filter(|node| node.op_type() == "Identity")
        {
            if node.output.first().is_some_and(|output| output == name) {
                name = node.input.first().map_or("", |input| input);
            }
        }
        name == given.name()
    }

    /// Appends the body to the graph, with new inputs of the given types for the carried values.
    pub(crate) fn open(&self, g: &mut Graph, node: &Node, states: &[Inferred]) -> Option<LoopStep> {
        node.captures.iter().for_each(|v| g.restore_name(*v));
        let mut number = None;
        let mut given = Vec::new();
        if self.counts {
            let step = g.add_formal(
                ElemType::INT64,
                Some(vec![Size::fixed(1); self.rank_of_number()]),
                false,
            );
            number = Some(step);
            // A step runs only if the condition to go on was true.
            given.extend([step, loops::truth(g, &vec![1; self.rank_of_condition()])]);
        }
        let states: Vec<Val> = states
            .iter()
            .map(|(elem, shape)| g.add_formal(*elem, shape.clone(), false))
            .collect();
        let mut elements = Vec::new();
        for i in 0..self.scan_inputs.len() {
            let (elem, shape) = self.element(g, node, i)?;
            elements.push(g.add_formal(elem, shape, false));
        }
        given.extend(states.iter().chain(&elements));
        let proto = g.export_node(node);
        let mut goes_on = loops::append_body(g, &proto, &self.body, &given)?;
        let mut next = goes_on.split_off(usize::from(self.counts));
        let scan_outputs = next.split_off(self.states);
        Some(LoopStep {
            number,
            states,
            elements,
            goes_on: goes_on.pop(),
            next,
            scan_outputs,
        })
    }

    /// Returns the element type and shape of an element of the `i`th scan input.
    fn element(&self, g: &mut Graph, node: &Node, i: usize) -> Option<Inferred> {
        let whole = node.input(self.states + i)?;
        let elem = g.elem(whole);
        let shape = match self.scan_input(g, node, i) {
            Some((whole, axis)) => crate::graph::counted_loop::element_shape(g, whole, axis),
            None => self.declared(g, self.states + i).1,
        };
        Some((elem, shape))
    }

    /// Returns the element type and shape that the body declares for an input. Symbolic sizes
    /// become new symbols, because their names belong to the body alone.
    fn declared(&self, g: &mut Graph, index: usize) -> Inferred {
        let Some(tensor) = self.body.input.get(index).and_then(tensor_type) else {
            return (ElemType::UNKNOWN, None);
        };
        let size = |g: &mut Graph, dim: &DimensionProto| match &dim.value {
            Some(DimensionValue::Value(n)) if *n >= 0 => Size::fixed(*n),
            _ => g.symbols.fresh(),
        };
        let shape = tensor
            .shape
            .as_ref()
            .map(|shape| shape.dim.iter().map(|dim| size(g, dim)).collect());
        (ElemType(tensor.elem_type()), shape)
    }

    /// Finds element types and shapes of the carried values that hold at every step. It appends one
    /// step, compares the shapes before and after it, and replaces each size that changes with a
    /// new symbol until no size changes.
    pub(crate) fn carried(&self, g: &mut Graph, node: &Node) -> Option<CarriedTypes> {
        let mut types = Vec::new();
        for i in 0..self.states {
            let v = self.first(node, i)?;
            let (declared, shape) = self.declared(g, self.start() + i);
            let elem = if g.elem(v) == ElemType::UNKNOWN {
                declared
            } else {
                g.elem(v)
            };
            types.push((elem, sharper(g.shape(v).cloned(), shape)));
        }
        let mut open: Vec<Vec<bool>> = types
            .iter()
            .map(|(_, shape)| vec![false; shape.iter().flatten().count()])
            .collect();
        if g.nesting < DEEPEST {
            for _ in 0..ATTEMPTS {
                let (next, scan_outputs) = self.one_step(g, node, &types)?;
                let fits = types
                    .iter_mut()
                    .zip(&mut open)
                    .zip(next)
                    .map(|((t, open), next)| generalize(g, t, open, next));
                // A fold visits every value; `all` would stop at the first one that does not fit.
                if fits.fold(true, |all, fits| all & fits) {
                    let stays =
                        |(t, open): (&Inferred, &Vec<bool>)| t.1.is_some() && !open.contains(&true);
                    let stays = types.iter().zip(&open).map(stays).collect();
                    return Some(CarriedTypes {
                        types,
                        stays,
                        scan_outputs,
                    });
                }
            }
        }
        let types = types.into_iter().map(|(elem, _)| (elem, None)).collect();
        let scan_outputs = vec![(ElemType::UNKNOWN, None); self.scan_outputs.len()];
        Some(CarriedTypes {
            types,
            stays: vec![false; self.states],
            scan_outputs,
        })
    }

    /// Returns the types of the carried values after one step and the types of the scan outputs'
    /// elements, for carried values of the given types.
    fn one_step(
        &self,
        g: &mut Graph,
        node: &Node,
        types: &[Inferred],
    ) -> Option<(Vec<Inferred>, Vec<Inferred>)> {
        let scope = g.enter();
        g.nesting += 1;
        let found = self.open(g, node, types).map(|step| {
            let types = |list: &[Val]| {
                list.iter()
                    .map(|v| (g.elem(*v), g.shape(*v).cloned()))
                    .collect::<Vec<_>>()
            };
            (types(&step.next), types(&step.scan_outputs))
        });
        g.nesting -= 1;
        g.leave(scope);
        found
    }
}

/// Returns the rank that a declaration states.
fn rank_of(port: &ValueInfoProto) -> Option<usize> {
    Some(tensor_type(port)?.shape.as_ref()?.dim.len())
}

/// Returns the known shape, with a declared number in place of each size that is not known as a
/// number.
fn sharper(known: Option<Shape>, declared: Option<Shape>) -> Option<Shape> {
    let (Some(known), Some(declared)) = (&known, &declared) else {
        return known.or(declared);
    };
    let size = |(known, declared): (&Size, &Size)| match (known.as_fixed(), declared.as_fixed()) {
        (None, Some(_)) => declared.clone(),
        _ => known.clone(),
    };
    let fits = known.len() == declared.len();
    Some(if fits {
        known.iter().zip(declared).map(size).collect()
    } else {
        known.clone()
    })
}

/// Replaces each size of `t` that a step changes with a new symbol and marks it in `open`. Returns
/// whether no size had to be replaced.
fn generalize(g: &mut Graph, t: &mut Inferred, open: &mut [bool], (elem, next): Inferred) -> bool {
    let Some(shape) = &mut t.1 else { return true };
    let Some(next) = next.filter(|next| next.len() == shape.len() && elem == t.0) else {
        t.1 = None;
        return false;
    };
    let mut fits = true;
    for ((size, next), open) in shape
        .iter_mut()
        .zip(&next)
        .zip(open)
        .filter(|(_, open)| !**open)
    {
        if size != next {
            (*size, *open, fits) = (g.symbols.fresh(), true, false);
        }
    }
    fits
}

/// Infers the element types and shapes of a loop's outputs from its body. Returns `None` if the
/// node contradicts itself.
pub(crate) fn infer_loop_outputs(g: &mut Graph, node: &Node, _: usize) -> Option<Vec<Inferred>> {
    let form = LoopForm::of(node)?;
    let known = g.symbols.count();
    let carried = form.carried(g, node)?;
    let steps = form.steps(g, node).unwrap_or_else(|| g.symbols.fresh());
    let outside = |g: &mut Graph, shape: Shape| -> Shape {
        shape
            .into_iter()
            .map(|size| {
                if size.is_within(known) {
                    size
                } else {
                    g.symbols.fresh()
                }
            })
            .collect()
    };
    let mut outputs = Vec::new();
    for (elem, shape) in carried.types {
        outputs.push((elem, shape.map(|shape| outside(g, shape))));
    }
    for ((elem, shape), line) in carried.scan_outputs.into_iter().zip(&form.scan_outputs) {
        let shape = shape.map(|shape| outside(g, shape)).and_then(|mut shape| {
            shape.insert(axis_of(line.axis, shape.len() + 1)?, steps.clone());
            Some(shape)
        });
        outputs.push((elem, shape));
    }
    Some(outputs)
}
