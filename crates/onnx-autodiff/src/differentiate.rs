//! The entry points: derive from a model the model that also computes products with its Jacobian.

use crate::check::{self, Violation};
use crate::cotangent;
use crate::elem::ElemType;
use crate::error::{GraphError, Obstacle, Refusal};
use crate::graph::{Graph, Val};
use crate::import::{ADDING, Outputs, check_opset, import};
use crate::jvp_context::Tangent;
use crate::model::{Dim, Model, Port};
use crate::operators;
use crate::order;
use crate::output_reduction;
use crate::passes::{Pass, Passes};
use crate::proto::*;
use crate::quadratic;
use crate::size::Size;
use crate::tangent;
use crate::trace::{self, Basis};

/// The product with the Jacobian J that a derived model computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// `J·V`: forward mode, for K tangents at once.
    Jvp,
    /// `Vᵀ·J`: reverse mode, for one cotangent.
    Vjp,
    /// `tr J`: forward mode along the unit vectors, which the graph itself holds.
    Trace,
    /// `J` itself: forward mode along the unit vectors, which the graph itself holds.
    Jacobian,
    /// `vᵀJv`: forward mode, for K tangents at once.
    Quadratic,
}

/// Derives the model that also computes products with the Jacobian of `output` with respect to
/// `input`. By default `output` is the first output, and `input` is the first input of a
/// floating-point type.
///
/// - `Jvp` adds the input `<input>_tangent` `[K, *input shape]` and the output `<output>_tangent`
///   `[K, *output shape]`. If both shapes agree, it also adds `<output>_quadratic` `[K, N]`: the
///   products of the input's and the output's tangent, summed over each sample.
/// - `Vjp` adds the input `<output>_cotangent` and the output `<input>_cotangent`.
/// - `Trace` needs shapes that agree and are known. It adds the outputs `<output>_trace` `[N]` and
///   `<output>_trace_terms` `[M, N]`. The trace is the sum of the terms over their first axis: the
///   terms are the diagonal of J, or sums of parts of it if J is block diagonal.
/// - `Jacobian` needs a known shape of the input. It adds the output `<output>_jacobian` `[D, N,
///   *output shape]` for an input of D elements: entry `[i, n]` is the derivative by element i.
/// - `Quadratic` is `Jvp` without the output `<output>_tangent`.
///
/// The tangents of half-precision tensors are in single precision.
///
/// New ports follow the ports of the model, in the order in which they are listed here. A name that
/// the model already uses receives a number: the second derivative of a graph with an `x_tangent`
/// takes `x_tangent_2`.
///
/// # Errors
///
/// Returns an error if a port does not exist or has no floating-point type, if the opset is not
/// supported, or if a node that the output needs cannot be differentiated. The last error lists
/// every such node.
pub fn differentiate(
    model: &Model,
    mode: Mode,
    input: Option<&str>,
    output: Option<&str>,
) -> Result<Model, GraphError> {
    differentiate_with(model, mode, input, output, Passes::all())
}

/// Derives the same model as [`differentiate`], with only the given passes for speed and memory.
///
/// # Errors
///
/// Returns the errors of [`differentiate`].
pub fn differentiate_with(
    model: &Model,
    mode: Mode,
    input: Option<&str>,
    output: Option<&str>,
    passes: Passes,
) -> Result<Model, GraphError> {
    let mut problem = Problem::new(model, input, output)?;
    problem.g.passes = passes;
    let name = problem.input.name.clone();
    let solved = problem.solve(mode)?;
    if solved.obstacles.is_empty() {
        return Ok(solved.model);
    }
    Err(GraphError::Obstacles {
        file: model.file.clone(),
        input: name,
        obstacles: solved.obstacles,
    })
}

/// Two models that together compute quadratic forms zᵀJz.
pub struct QuadraticForms {
    /// The model that computes, from `<input>_tangent` `[K, *input shape]`, the values that depend
    /// on the directions and the weights alone.
    pub directions: Model,
    /// The model that computes the original output and `<output>_quadratic` `[K, N]`. It takes the
    /// outputs of `directions` as inputs of the same names, and the directions themselves if it
    /// needs them.
    pub rest: Model,
}

/// Splits the model that computes quadratic forms in two, for directions that stay the same over
/// many calls. Returns `None` if no part of the computation depends on the directions alone, or if
/// a node stands in the way.
///
/// # Errors
///
/// Returns the errors of [`differentiate`].
pub fn quadratic_forms(
    model: &Model,
    input: &str,
    output: &str,
) -> Result<Option<QuadraticForms>, GraphError> {
    let mut problem = Problem::new(model, Some(input), Some(output))?;
    let x = problem.value("input", input, ElemType::is_float)?;
    let y = problem.value("output", output, |elem| {
        elem.is_float() || elem == ElemType::UNKNOWN
    })?;
    let Some(seed) = problem.forward_quadratic(x, y)? else {
        return Ok(None);
    };
    if !problem.obstacles.is_empty() {
        return Ok(None);
    }
    let Some(hoisted) = quadratic::hoisted(&problem.g, seed) else {
        return Ok(None);
    };
    let made: Vec<Val> = hoisted.iter().copied().filter(|v| *v != seed).collect();
    let names = made
        .iter()
        .map(|v| (problem.g.value(*v).name.clone(), None))
        .collect::<Outputs>();
    let whole = (problem.g.outputs.clone(), problem.g.inputs.clone());
    (problem.g.outputs, problem.g.inputs) = (made, vec![seed]);
    let directions = problem.export(&names)?;
    (problem.g.outputs, problem.g.inputs) = whole;
    problem.g.inputs.retain(|v| *v != seed);
    problem.g.inputs.extend(&hoisted);
    problem.g.given = hoisted.into_iter().collect();
    let rest = problem.export(&problem.outputs)?;
    Ok(Some(QuadraticForms { directions, rest }))
}

/// Returns every node that stands in the way of [`differentiate`], and nothing if it succeeds. A
/// fault of the model as a whole is one obstacle without an operator.
pub fn obstacles(
    model: &Model,
    mode: Mode,
    input: Option<&str>,
    output: Option<&str>,
) -> Vec<Obstacle> {
    match Problem::new(model, input, output).and_then(|problem| problem.solve(mode)) {
        Ok(solved) => solved.obstacles,
        Err(error) => vec![Obstacle {
            node: String::new(),
            op: String::new(),
            reason: error.to_string(),
        }],
    }
}

/// A derived model, and the obstacles that make it invalid if there are any.
struct Solved {
    model: Model,
    obstacles: Vec<Obstacle>,
}

/// One derivation: the model, its graph, and the ports of the derivative.
struct Problem<'a> {
    model: &'a Model,
    g: Graph,
    input: Port,
    output: Port,
    /// The names of the new graph's outputs, with the types that the file declares for them.
    outputs: Vec<(String, Option<TypeProto>)>,
    obstacles: Vec<Obstacle>,
}

impl<'a> Problem<'a> {
    /// Reads the model into a graph and finds its input and its output.
    fn new(
        model: &'a Model,
        input: Option<&str>,
        output: Option<&str>,
    ) -> Result<Problem<'a>, GraphError> {
        check_opset(model)?;
        let opset = model.opset();
        let input = choose(model, "input", model.inputs(), input, |port| {
            port.elem.is_float()
        })?;
        let output = choose(model, "output", model.outputs(), output, |_| true)?;
        let (g, outputs) = import(model, opset.max(ADDING))?;
        let obstacles = foreign_nodes(&g);
        Ok(Problem {
            model,
            g,
            input,
            output,
            outputs,
            obstacles,
        })
    }

    /// Derives the model.
    fn solve(mut self, mode: Mode) -> Result<Solved, GraphError> {
        let x = self.value("input", &self.input.name, ElemType::is_float)?;
        // An unknown type is reported at the node that makes the output.
        let y = self.value("output", &self.output.name, |elem| {
            elem.is_float() || elem == ElemType::UNKNOWN
        })?;
        if self.g.shape(x).is_none() {
            return Err(self.fault(
                "input",
                &self.input.name,
                "declares no shape; export the model with one",
            ));
        }
        match mode {
            Mode::Jvp => self.forward(x, y)?,
            Mode::Vjp => self.reverse(x, y)?,
            Mode::Trace => self.trace(x, y)?,
            Mode::Jacobian => self.jacobian(x, y)?,
            Mode::Quadratic => self.forward_quadratic(x, y).map(drop)?,
        }
        let model = if self.obstacles.is_empty() {
            self.export(&self.outputs)?
        } else {
            self.written(&self.outputs)
        };
        Ok(Solved {
            model,
            obstacles: self.obstacles,
        })
    }

    /// Returns the part of the graph that the outputs need, as a model.
    fn written(&self, outputs: &[(String, Option<TypeProto>)]) -> Model {
        let graph = self.g.export(outputs);
        let opset = OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(self.g.opset),
        };
        let proto = ModelProto {
            ir_version: Some(self.model.proto.ir_version().max(8)),
            producer_name: Some("onnx-autodiff".into()),
            graph: Some(graph),
            opset_import: vec![opset],
            functions: Vec::new(),
        };
        Model {
            file: self.model.file.clone(),
            proto,
        }
    }

    /// Returns the part of the graph that the outputs need, as a model that passes the check of the
    /// format.
    fn export(&self, outputs: &[(String, Option<TypeProto>)]) -> Result<Model, GraphError> {
        let model = self.written(outputs);
        check::check_model(&model.proto).map_err(|violation| self.violated(violation))?;
        Ok(model)
    }

    /// Returns the value of a port if its element type fits.
    fn value(
        &self,
        role: &'static str,
        name: &str,
        fits: fn(ElemType) -> bool,
    ) -> Result<Val, GraphError> {
        let found = self.g.named(name).filter(|v| fits(self.g.elem(*v)));
        found.ok_or_else(|| {
            self.fault(
                role,
                name,
                "is not a floating-point tensor, and only such tensors have derivatives",
            )
        })
    }

    /// Returns the error for a violation of the format. The fault is the file's if the file holds
    /// the node or port, and this crate's otherwise.
    fn violated(&self, found: Violation) -> GraphError {
        let (file, Violation { node, op, reason }) = (self.model.file.clone(), found);
        let graph = self.model.graph();
        let ports = graph.input.iter().chain(&graph.output);
        let theirs = graph.node.iter().any(|n| order::label(n) == node)
            || ports.into_iter().any(|p| p.name() == node);
        match theirs {
            true => GraphError::Malformed {
                file,
                reason: format!("`{node}` ({op}): {reason}"),
            },
            false => GraphError::Derived {
                file,
                node,
                op,
                reason,
            },
        }
    }

    /// Returns the error for a port that cannot be used.
    fn fault(&self, role: &'static str, name: &str, reason: &str) -> GraphError {
        GraphError::Port {
            file: self.model.file.clone(),
            role,
            name: name.to_string(),
            reason: reason.to_string(),
        }
    }

    /// Returns a name for a new port: `<of>_<suffix>`, with a number behind it if the model already
    /// uses that name.
    fn port_name(&mut self, of: &str, suffix: &str) -> String {
        self.g.reserved_name(&format!("{of}_{suffix}"))
    }

    /// Adds an input for directions of the shape of `x`. Returns the input and the number of
    /// directions.
    fn given_directions(&mut self, x: Val, name: &str) -> (Val, Size) {
        let k = self.directions();
        let shape: Vec<Size> = std::iter::once(&k)
            .chain(self.g.shape(x).into_iter().flatten())
            .cloned()
            .collect();
        let seed = self
            .g
            .add_input(name, self.g.elem(x).tangent(), Some(shape));
        self.g.mark_linear(seed);
        (seed, k)
    }

    /// Returns the tangent of `y` for the tangent `seed` of `x`. Returns `None` if a node stands in
    /// the way.
    fn tangent_of(&mut self, x: Val, seed: Val, k: &Size, y: Val) -> Option<Val> {
        let found = tangent::propagate(&mut self.g, x, seed, k, y);
        self.report_obstacles(found.obstacles);
        self.output_tangent(y, found.of.get(&y).copied(), k)
    }

    /// Adds the ports of forward mode.
    fn forward(&mut self, x: Val, y: Val) -> Result<(), GraphError> {
        let (input, output) = (self.input.name.clone(), self.output.name.clone());
        let names = [
            ("tangent", &input),
            ("tangent", &output),
            ("quadratic", &output),
        ];
        let [seed_name, tangent_name, quadratic_name] =
            names.map(|(suffix, of)| self.port_name(of, suffix));
        let (seed, k) = self.given_directions(x, &seed_name);
        let Some(d) = self.tangent_of(x, seed, &k, y) else {
            return Ok(());
        };
        self.add_output(tangent_name, d);
        if let Some(quadratic) = self.quadratic(seed, d) {
            self.add_output(quadratic_name, quadratic);
        }
        Ok(())
    }

    /// Adds the ports of the quadratic forms and returns the directions. Returns `None` if a node
    /// stands in the way.
    fn forward_quadratic(&mut self, x: Val, y: Val) -> Result<Option<Val>, GraphError> {
        let names = [
            ("tangent", self.input.name.clone()),
            ("quadratic", self.output.name.clone()),
        ];
        let [seed_name, quadratic_name] = names.map(|(suffix, of)| self.port_name(&of, suffix));
        let (seed, k) = self.given_directions(x, &seed_name);
        let shape = self.g.shape(seed).cloned().unwrap_or_default();
        let Some(d) = self.tangent_of(x, seed, &k, y) else {
            return Ok(None);
        };
        let alike = self.g.elem(seed) == self.g.elem(d)
            && self.g.shape(d).is_some_and(|out| self.agree(&shape, out));
        let reduced = if alike && self.g.passes.has(Pass::ReducedOutputs) {
            output_reduction::reduced_tangents(&mut self.g, d, &quadratic::QuadraticReduction(seed))
        } else {
            None
        };
        let Some(quadratic) = reduced.or_else(|| self.quadratic(seed, d)) else {
            return Err(self.fault(
                "output",
                &self.output.name,
                "has a different shape than the input, so that it has no quadratic forms",
            ));
        };
        self.g.set_shape(quadratic, &shape[..2]);
        self.add_output(quadratic_name, quadratic);
        Ok(Some(seed))
    }

    /// Adds the ports of the trace, by forward mode along the unit vectors.
    fn trace(&mut self, x: Val, y: Val) -> Result<(), GraphError> {
        let output = self.output.name.clone();
        let [terms_name, trace_name] =
            ["trace_terms", "trace"].map(|suffix| self.port_name(&output, suffix));
        let one = [Size::fixed(1)];
        let [state, out] = [x, y].map(|v| self.g.shape(v).cloned().unwrap_or_default());
        if self.g.shape(y).is_some()
            && !self.agree(&[&one, &state[..]].concat(), &[&one, &out[..]].concat())
        {
            return Err(self.fault(
                "output",
                &self.output.name,
                "has a different shape than the input, so that its Jacobian has no trace",
            ));
        }
        let basis = trace::basis(&mut self.g, x, y);
        let (basis, seed, k) = self.unit_directions(x, basis)?;
        let shape = [std::slice::from_ref(&k), &state[..]].concat();
        let Some(d) = self.tangent_of(x, seed, &k, y) else {
            return Ok(());
        };
        let terms = trace::diagonal(&mut self.g, d, &basis);
        let terms = self.g.expand(terms, &shape[..2]);
        let trace = self.g.reduce("ReduceSum", terms, &[0], false);
        self.g.set_shape(trace, &shape[1..2]);
        self.add_output(terms_name, terms);
        self.add_output(trace_name, trace);
        Ok(())
    }

    /// Adds the port of the Jacobian, by forward mode along the unit vectors.
    fn jacobian(&mut self, x: Val, y: Val) -> Result<(), GraphError> {
        let name = self.port_name(&self.output.name.clone(), "jacobian");
        let basis = trace::whole_basis(&mut self.g, x);
        let (_, seed, k) = self.unit_directions(x, basis)?;
        let Some(d) = self.tangent_of(x, seed, &k, y) else {
            return Ok(());
        };
        self.add_output(name, d);
        Ok(())
    }

    /// Returns the unit vectors, the directions `[terms, *input shape]` that repeat them for every
    /// sample, and the number of terms.
    ///
    /// # Errors
    ///
    /// Returns an error if there are no unit vectors.
    fn unit_directions(
        &mut self,
        x: Val,
        basis: Option<Basis>,
    ) -> Result<(Basis, Val, Size), GraphError> {
        let Some(basis) = basis else {
            let reason = "has axes of unknown or very large size; its unit vectors are needed";
            return Err(self.fault("input", &self.input.name, reason));
        };
        self.g.has_common_directions = true;
        if basis.is_separate() && self.g.rank(basis.vectors) == Some(3) {
            self.g.unit_vectors = Some(basis.vectors);
        }
        let k = Size::fixed(basis.terms);
        let state = self.g.shape(x).cloned().unwrap_or_default();
        let shape = [std::slice::from_ref(&k), &state[..]].concat();
        let seed = self.g.expand(basis.vectors, &shape);
        Ok((basis, seed, k))
    }

    /// Adds the ports of reverse mode: forward mode with one direction, transposed. The export
    /// leaves the tangents themselves out.
    fn reverse(&mut self, x: Val, y: Val) -> Result<(), GraphError> {
        let (input, output) = (self.input.name.clone(), self.output.name.clone());
        let [seed_name, result_name] = [output, input].map(|of| self.port_name(&of, "cotangent"));
        let one = Size::fixed(1);
        let seed = cotangent::seed(&mut self.g, x);
        let Some(d) = self.tangent_of(x, seed, &one, y) else {
            return Ok(());
        };
        let shape = self.g.shape(y).cloned();
        let given = self
            .g
            .add_input(&seed_name, self.g.elem(y).tangent(), shape);
        let shape = self.g.shape(x).cloned().unwrap_or_default();
        match cotangent::transpose_tangents(&mut self.g, seed, d, given) {
            Ok(turned) => {
                let turned = self.g.reshape(turned, &shape);
                self.add_output(result_name, turned);
            }
            Err(obstacles) => self.report_obstacles(obstacles),
        }
        Ok(())
    }

    /// Adds the obstacles of nodes that have none yet.
    fn report_obstacles(&mut self, found: Vec<Obstacle>) {
        for obstacle in found {
            if !self
                .obstacles
                .iter()
                .any(|o| o.node == obstacle.node && o.op == obstacle.op)
            {
                self.obstacles.push(obstacle);
            }
        }
    }

    /// Returns the symbol for the number of directions, with a name that the model does not use for
    /// a size of its own.
    fn directions(&mut self) -> Size {
        let mut name = "K".to_string();
        while self.g.symbols.is_known(&name) {
            name.push('_');
        }
        self.g.symbols.named(&name)
    }

    /// Returns the full tangent of the output. The tangent is zero if the output does not depend on
    /// the input.
    fn output_tangent(&mut self, y: Val, tangent: Option<Tangent>, k: &Size) -> Option<Val> {
        let shape = self.g.shape(y).cloned();
        match (tangent, shape) {
            (
                Some(Tangent {
                    base,
                    factor: Some(factor),
                }),
                _,
            ) => Some(self.g.mul(base, factor)),
            (Some(Tangent { base, factor: None }), _) => Some(base),
            (None, Some(shape)) if self.obstacles.is_empty() && self.g.elem(y).is_float() => {
                let shape: Vec<Size> = std::iter::once(k).chain(&shape).cloned().collect();
                let elem = self.g.elem(y).tangent();
                Some(self.g.zeros(&shape, elem))
            }
            (None, _) => {
                if self.obstacles.is_empty() {
                    let reason = "its type or its number of axes is not known; export the model with shapes (value_info)";
                    self.obstacles.push(Obstacle {
                        node: self.output.name.clone(),
                        op: String::new(),
                        reason: reason.into(),
                    });
                }
                None
            }
        }
    }

    /// Returns the products of the input's and the output's tangent, summed over each sample.
    /// Returns `None` if their shapes do not agree.
    fn quadratic(&mut self, seed: Val, d: Val) -> Option<Val> {
        let (a, b) = (self.g.shape(seed)?, self.g.shape(d)?);
        if a.len() < 2 || !self.agree(a, b) {
            return None;
        }
        let axes: Vec<i64> = (2..a.len() as i64).collect();
        let seed = self.g.cast(seed, self.g.elem(d));
        let product = self.g.mul(seed, d);
        let sum = self.g.reduce("ReduceSum", product, &axes, false);
        let shape = self.g.shape(seed)?[..2].to_vec();
        self.g.set_shape(sum, &shape);
        Some(sum)
    }

    /// Returns whether the two tangents have the same shape, by inference or by the declared axes
    /// of their ports.
    fn agree(&self, tangent_in: &[Size], tangent_out: &[Size]) -> bool {
        let declared = |axis: usize| match (self.input.dims.get(axis), self.output.dims.get(axis)) {
            (Some(Dim::Symbol(a)), Some(Dim::Symbol(b))) => a == b,
            (Some(Dim::Fixed(a)), Some(Dim::Fixed(b))) => a == b,
            _ => false,
        };
        let same = |axis: usize| match (tangent_in[axis].as_fixed(), tangent_out[axis].as_fixed()) {
            (Some(a), Some(b)) => a == b,
            _ => tangent_in[axis] == tangent_out[axis] || axis > 0 && declared(axis - 1),
        };
        tangent_in.len() == tangent_out.len() && (0..tangent_in.len()).all(same)
    }

    /// Adds an output to the derived model.
    fn add_output(&mut self, name: String, v: Val) {
        self.g.outputs.push(v);
        self.outputs.push((name, None));
    }
}

/// Returns the port named `wanted`, or by default the first port that fits.
fn choose(
    model: &Model,
    role: &'static str,
    ports: Vec<Port>,
    wanted: Option<&str>,
    fits: impl Fn(&Port) -> bool,
) -> Result<Port, GraphError> {
    let present: Vec<String> = ports
        .iter()
        .map(|port| format!("`{}`", port.name))
        .collect();
    let found = match wanted {
        Some(name) => ports.into_iter().find(|port| port.name == name),
        None => ports.into_iter().find(fits),
    };
    let (file, present) = (
        model.file.clone(),
        if present.is_empty() {
            "none".into()
        } else {
            present.join(", ")
        },
    );
    found.ok_or_else(|| match wanted {
        Some(name) => GraphError::UnknownPort {
            file,
            role,
            name: name.to_string(),
            present,
        },
        None => GraphError::Port {
            file,
            role,
            name: present,
            reason: "has no floating-point tensor to differentiate".into(),
        },
    })
}

/// Returns an obstacle for each node outside the standard domain that the outputs need, whether or
/// not a tangent passes through it.
fn foreign_nodes(g: &Graph) -> Vec<Obstacle> {
    let needed = g.needed();
    let foreign = g
        .nodes
        .iter()
        .zip(needed)
        .filter(|(node, needed)| *needed && !node.domain.is_empty());
    foreign
        .map(|(node, _)| g.obstacle(node, refusal(node)))
        .collect()
}

/// Returns the reason why an operator outside the standard domain is refused.
fn refusal(node: &crate::graph::Node) -> Refusal {
    operators::rule(node)
        .err()
        .unwrap_or_else(|| Refusal::from("an operator outside the standard domain"))
}
