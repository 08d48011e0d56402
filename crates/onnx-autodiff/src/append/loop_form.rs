//! `Loop` and `Scan` read alike: what they carry from step to step, what each step is given and what is scan_outputs of it.

use crate::append::loops;
use crate::elem::ElemType;
use crate::graph::Inferred;
use crate::graph::{Graph, Node, Shape, Val};
use crate::inference::axis_of;
use crate::proto::*;
use crate::size::Size;

/// Subgraphs within so many others are not looked into.
pub const DEEPEST: usize = 5;
/// How often the shapes of carried values are made more general before they are given up.
const ATTEMPTS: usize = 3;

/// What a `Loop` or a `Scan` says of itself.
pub struct LoopForm {
    pub body: GraphProto,
    /// `Loop`, whose body is also given the number of the step and whether it goes on.
    pub counts: bool,
    /// How many values are carried.
    pub states: usize,
    pub scan_inputs: Vec<ScanAxis>,
    pub scan_outputs: Vec<ScanAxis>,
}

/// Where the steps lie in a value: along an axis, from its first place or from its last.
#[derive(Clone, Copy)]
pub struct ScanAxis {
    pub axis: i64,
    pub backwards: bool,
}

/// The types of carried values that hold at every step.
pub struct CarriedTypes {
    pub types: Vec<Inferred>,
    /// Whether a value keeps its type and shape.
    pub stays: Vec<bool>,
    /// The types of what each step keeps.
    scan_outputs: Vec<Inferred>,
}

/// One step in the current scope.
pub struct LoopStep {
    /// The number of the step, in a `Loop`.
    pub number: Option<Val>,
    pub states: Vec<Val>,
    pub elements: Vec<Val>,
    /// Whether there is another step, in a `Loop`.
    pub goes_on: Option<Val>,
    pub next: Vec<Val>,
    pub scan_outputs: Vec<Val>,
}

impl LoopForm {
    /// None where the node contradicts itself.
    pub fn of(node: &Node) -> Option<LoopForm> {
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

    /// The place among the body's inputs at which carried values begin, and the same among the node's.
    pub fn start(&self) -> usize {
        if self.counts { 2 } else { 0 }
    }

    /// A carried value before the first step.
    pub fn first(&self, node: &Node, i: usize) -> Option<Val> {
        node.input(self.start() + i)
    }

    /// A scan_input, and the axis along which its steps lie.
    pub fn scan_input(&self, g: &Graph, node: &Node, i: usize) -> Option<(Val, usize)> {
        let whole = node.input(self.states + i)?;
        Some((whole, axis_of(self.scan_inputs[i].axis, g.rank(whole)?)?))
    }

    /// The number of steps, where it is known before they are taken.
    pub fn steps(&self, g: &Graph, node: &Node) -> Option<Size> {
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

    /// The number of axes that the body takes the number of the step with.
    pub fn rank_of_number(&self) -> usize {
        usize::from(self.body.input.first().and_then(rank_of) == Some(1))
    }

    /// The same for whether it goes on.
    pub fn rank_of_condition(&self) -> usize {
        usize::from(self.body.input.get(1).and_then(rank_of) == Some(1))
    }

    /// Whether the body hands on that the loop goes on, as it was given it.
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

    /// Appends the body, given values of its own of these types.
    pub fn open(&self, g: &mut Graph, node: &Node, states: &[Inferred]) -> Option<LoopStep> {
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
            // A step that is taken was told to go on.
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

    fn element(&self, g: &mut Graph, node: &Node, i: usize) -> Option<Inferred> {
        let whole = node.input(self.states + i)?;
        let elem = g.elem(whole);
        let shape = match self.scan_input(g, node, i) {
            Some((whole, axis)) => crate::graph::counted_loop::element_shape(g, whole, axis),
            None => self.declared(g, self.states + i).1,
        };
        Some((elem, shape))
    }

    /// What the body says of an input, but for names of sizes, which are its own.
    fn declared(&self, g: &mut Graph, place: usize) -> Inferred {
        let Some(tensor) = self.body.input.get(place).and_then(tensor_type) else {
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

    /// Types of the carried values that hold at every step, found by taking a step with those before the first one and
    /// leaving open what it changes.
    pub fn carried(&self, g: &mut Graph, node: &Node) -> Option<CarriedTypes> {
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
                // Every value is looked at.
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

    /// The types of what a step makes of values of some types.
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

fn rank_of(port: &ValueInfoProto) -> Option<usize> {
    Some(tensor_type(port)?.shape.as_ref()?.dim.len())
}

/// A shape with the numbers that a body declares where it is not known otherwise.
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

/// Leaves open what a step changes of a carried value's shape; whether there was nothing to leave open.
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

/// What the body of a loop says of its outputs.
pub fn infer_loop_outputs(g: &mut Graph, node: &Node, _: usize) -> Option<Vec<Inferred>> {
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
