//! A card's flow map as a session: the average velocity and divergence between two times.

use anyhow::{Context, Result, anyhow, bail};
use ndarray::{ArrayD, Axis, IxDyn};

use super::call_rows::{CallRows, RowPlaces};
use super::card::{FlowMapDirection, FlowMapSpec, TimeVariable};
use super::conditions::ConditionInput;
use super::constants::ConstantInput;
use super::loaded::{CardPorts, Model, SessionOptions, check_derived_names};
use super::network::add_batch_size_hint;
use super::onnx::{Runtime, Session};
use super::ports::{check_state_shape, find_port, is_scalar_port};
use super::time::{self, TimeInput};
use crate::flow::field::{EvalError, FlowMap, FlowMapAverages, Points};
use crate::flow::path::PathCurve;
use crate::graph::{self, Mode};
use crate::num::key::SampleId;
use crate::num::{Batch, TangentBatch, shape};

/// The derivatives that are needed of a flow map besides its averages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowMapDerivatives {
    /// Whether the gradient of D is needed, by reverse mode. Self-guidance uses it.
    pub divergence_gradient: bool,
    /// Whether products with ∂u/∂x are needed, by forward mode. The map's log-determinant uses
    /// them.
    pub jacobian: bool,
}

impl FlowMapDerivatives {
    /// The derivatives of both.
    pub fn or(self, other: FlowMapDerivatives) -> FlowMapDerivatives {
        FlowMapDerivatives {
            divergence_gradient: self.divergence_gradient || other.divergence_gradient,
            jacobian: self.jacobian || other.jacobian,
        }
    }
}

/// An opened flow map.
pub struct OnnxFlowMap {
    /// The session of the map itself.
    session: Session,
    /// The session of the gradient of D, if it was requested.
    gradient: Option<Session>,
    /// The session of the Jacobian products, if they were requested.
    tangent: Option<Session>,
    /// The roles of the map's inputs and outputs.
    ports: FlowMapPorts,
}

/// The roles of a flow map's inputs and outputs, and the values of its time inputs.
struct FlowMapPorts {
    /// The card's entry.
    spec: FlowMapSpec,
    /// The name of the output with u, or with the endpoint from which u follows.
    velocity: String,
    /// The values that the time inputs get.
    time_input: TimeInput,
    /// The shape of one state, without the batch axis.
    shape: Vec<usize>,
    /// The path, from which the values of the time inputs are computed.
    curve: PathCurve,
    /// Further inputs, with values from the card.
    constants: Vec<ConstantInput>,
    /// Further inputs with one value per sample.
    conditions: Vec<ConditionInput>,
}

impl Model {
    /// Opens the flow map `flow_maps.name`, with the given derivatives.
    ///
    /// # Errors
    /// Fails if the card has no such map, or if its inputs and outputs are not those that the card
    /// declares. Fails also if an operator cannot be differentiated.
    pub fn flow_map(
        &self,
        name: &str,
        runtime: &Runtime,
        options: SessionOptions,
        derivatives: FlowMapDerivatives,
    ) -> Result<OnnxFlowMap> {
        let spec = self.flow_map_spec(name)?.clone();
        let velocity = spec.state_output().to_owned();
        let key = format!("flow_maps.{name}.file");
        let (file, bytes) = self.network_bytes(&key)?;
        let open = |bytes: &[u8]| runtime.open(&file, bytes, options.provider, options.threads);
        let derived = |mode: Mode, output: Option<&str>| -> Result<Session> {
            let bytes = self.derived_graph_bytes(&key, mode, || {
                let graph = self.flow_map_graph_with_known_axes(
                    name,
                    graph::Model::from_bytes(&file, &bytes)?,
                )?;
                let derived = graph::differentiate(&graph, mode, Some(&spec.inputs.x), output)?;
                check_derived_names(&graph, &derived)?;
                Ok(derived.to_bytes()?)
            })?;
            open(&bytes)
        };
        let gradient = derivatives
            .divergence_gradient
            .then(|| derived(Mode::Vjp, spec.outputs.divergence.as_deref()));
        let tangent = derivatives
            .jacobian
            .then(|| derived(Mode::Jvp, Some(&velocity)));
        let (gradient, tangent) = (gradient.transpose()?, tangent.transpose()?);
        let session = open(&bytes)?;
        let feed = self.card.flow_map_time_input(spec.time);
        let (inputs, shape, curve) = (&spec.inputs, self.card.shape.clone(), self.curve.clone());
        let taken: Vec<&str> = std::iter::once(inputs.x.as_str())
            .chain(inputs.time_names())
            .collect();
        let constants = self.constant_inputs(&key, &spec.constants, &taken, &session, &file)?;
        let conditions = self.condition_inputs(&key, &spec.conditions, &taken, &session, &file)?;
        let ports = FlowMapPorts {
            spec,
            velocity,
            time_input: feed,
            shape,
            curve,
            constants,
            conditions,
        };
        ports.check(&session, &file)?;
        ports
            .check_times(&session, name)
            .with_context(|| file.clone())?;
        let mut map = OnnxFlowMap {
            session,
            gradient,
            tangent,
            ports,
        };
        self.check_time_dependence_once(&key, || map.check_time_dependence(name))?;
        Ok(map)
    }

    /// Returns the graph of a flow map with its open axes fixed from the card. This graph is
    /// differentiated.
    ///
    /// # Errors
    /// Fails if the card has no such map.
    pub fn flow_map_graph_with_known_axes(
        &self,
        name: &str,
        graph: graph::Model,
    ) -> Result<graph::Model> {
        let FlowMapSpec {
            inputs,
            outputs,
            constants,
            conditions,
            ..
        } = self.flow_map_spec(name)?;
        let declared = CardPorts {
            key: &format!("flow_maps.{name}.file"),
            state_ports: std::iter::once(inputs.x.as_str())
                .chain(outputs.velocity.as_deref())
                .chain(outputs.endpoint.as_deref())
                .collect(),
            scalar_ports: inputs
                .time_names()
                .chain(outputs.divergence.as_deref())
                .collect(),
            constants,
            conditions,
        };
        Ok(self.with_known_axes(graph, &declared))
    }

    /// Returns the card's entry of the flow map `name`.
    ///
    /// # Errors
    /// Fails if there is none. The message names the card and the maps that it has.
    pub fn flow_map_spec(&self, name: &str) -> Result<&FlowMapSpec> {
        self.card.flow_maps.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.card.flow_maps.keys().map(String::as_str).collect();
            let has = if known.is_empty() {
                "it has none".to_owned()
            } else {
                format!("it has {}", known.join(", "))
            };
            anyhow!(
                "{}: the card has no flow map `{name}`; {has}",
                self.path.display()
            )
        })
    }
}

impl FlowMapPorts {
    /// Checks the session's inputs and outputs against the card.
    ///
    /// # Errors
    /// Fails if an input or output is missing, has another shape, or has no role.
    fn check(&self, session: &Session, file: &str) -> Result<()> {
        let (inputs, outputs) = (&self.spec.inputs, &self.spec.outputs);
        check_state_shape(
            find_port(&session.inputs, &inputs.x, file, "input")?,
            &self.shape,
            None,
            file,
            "input",
        )?;
        for name in self.times() {
            find_port(&session.inputs, name, file, "input")?;
        }
        check_state_shape(
            find_port(&session.outputs, &self.velocity, file, "output")?,
            &self.shape,
            None,
            file,
            "output",
        )?;
        if let Some(name) = &outputs.divergence {
            let port = find_port(&session.outputs, name, file, "output")?;
            if !matches!(port.shape[..], [] | [_] | [_, 1] | [_, -1]) {
                bail!(
                    "{file}: output `{name}` has shape {:?}, expected one number per sample: [N]",
                    port.shape
                );
            }
        }
        let fixed = |name: &str| {
            self.constants.iter().any(|c| c.name == name)
                || self.conditions.iter().any(|c| c.name == name)
        };
        let known = |name: &str| name == inputs.x || self.times().any(|t| t == name) || fixed(name);
        if let Some(other) = session.inputs.iter().find(|p| !known(&p.name)) {
            let roles: Vec<&str> = std::iter::once(inputs.x.as_str())
                .chain(self.times())
                .collect();
            bail!(
                "{file}: input `{0}` has no role in the card; expected only {1}, or a value for \
                 it: `constants: {{{0}: …}}`",
                other.name,
                roles.join(", ")
            );
        }
        Ok(())
    }

    /// Checks that the time inputs can take their values over the path.
    ///
    /// # Errors
    /// Fails if one of them cannot; see [`TimeInput::check_flow_map`].
    fn check_times(&self, session: &Session, name: &str) -> Result<()> {
        let key = format!("flow_maps.{name}");
        let mut ports = self.times().filter_map(|name| session.input(name));
        ports.try_for_each(|port| {
            self.time_input
                .check_flow_map(&port.name, port.format, &self.curve, &key)
        })
    }

    /// The graph's names of the two time inputs.
    fn times(&self) -> impl Iterator<Item = &str> {
        self.spec.inputs.time_names()
    }

    /// Returns the values of the two time inputs for a step from `from` to `to`.
    fn time_values(&self, from: f64, to: f64) -> [f64; 2] {
        let inputs = &self.spec.inputs;
        let (start, end) = (
            self.time_input.value_at(&self.curve, from),
            self.time_input.value_at(&self.curve, to),
        );
        let second = match (&inputs.step, &inputs.duration) {
            (Some(_), _) => self.time_difference(from, to, end - start),
            (_, Some(_)) => self.time_difference(from, to, end - start).abs(),
            _ => end,
        };
        [start, second]
    }

    /// Returns the difference between the values of the two times. If the function of time is t
    /// itself, the difference is computed from the times, so that no rounding of the two values
    /// enters it.
    fn time_difference(&self, from: f64, to: f64, difference: f64) -> f64 {
        if self.time_input.feed == TimeVariable::T {
            (to - from) * self.time_input.scale
        } else {
            difference
        }
    }
}

/// An additional input of a derived graph: its name, its values for each sample, and the axis of
/// the samples.
type FlowMapExtraInput<'a> = (&'a str, ArrayD<f64>, Axis);

/// Calls a session of the map, with rows added and each sample in its place as [`CallRows`] has
/// them, and returns the outputs of the given rows.
fn call_flow_map(
    ports: &FlowMapPorts,
    session: &mut Session,
    at: Points,
    to: &[f64],
    extra: Option<FlowMapExtraInput>,
    wanted: &[&str],
) -> Result<Vec<ArrayD<f64>>, EvalError> {
    let rows = at.rows();
    let filled = CallRows::padded(at.samples, RowPlaces::BySample);
    let mut call =
        |rows: &[usize]| call_flow_map_rows(ports, session, at, to, extra.as_ref(), wanted, rows);
    let outputs = call(&filled.filled)
        .map_err(|error| add_batch_size_hint(error, rows, |rows| call(rows).is_ok()))?;
    // Outputs of a graph with directions have these before the rows.
    let axis = extra.map_or(Axis(0), |(_, _, axis)| axis);
    let given = |output: ArrayD<f64>| filled.given_outputs(output, axis);
    Ok(outputs.into_iter().map(given).collect())
}

/// Calls a session of the map once, with a selection of the rows of all inputs.
fn call_flow_map_rows(
    ports: &FlowMapPorts,
    session: &mut Session,
    at: Points,
    to: &[f64],
    extra: Option<&FlowMapExtraInput>,
    wanted: &[&str],
    filled: &[usize],
) -> Result<Vec<ArrayD<f64>>, EvalError> {
    let shaped =
        |leading: &[usize]| -> Vec<usize> { leading.iter().chain(&ports.shape).copied().collect() };
    let state = at.x.select(Axis(0), filled);
    let state = state
        .to_shape(shaped(&[filled.len()]))
        .expect("dim numbers per row")
        .into_owned();
    let pairs: Vec<[f64; 2]> = filled
        .iter()
        .map(|i| ports.time_values(at.t[*i], to[*i]))
        .collect();
    let mut feeds = Vec::new();
    for (place, name) in ports.times().enumerate() {
        let port = session.input(name);
        let one = port.is_some_and(is_scalar_port);
        if one && pairs.windows(2).any(|w| w[0] != w[1]) {
            let message =
                format!("`{name}` takes one time for all samples, but the samples' times differ");
            return Err(EvalError::Runtime {
                file: session.file.clone(),
                message,
            });
        }
        let shape = match port.map_or(1, |p| p.shape.len()) {
            axes if one => vec![1; axes],
            2 => vec![filled.len(), 1],
            _ => vec![filled.len()],
        };
        let count = if one { 1 } else { filled.len() };
        let values = pairs.iter().take(count).map(|p| p[place]).collect();
        feeds.push((
            name,
            ArrayD::from_shape_vec(IxDyn(&shape), values).expect("one time per row"),
        ));
    }
    feeds.extend(
        ports
            .constants
            .iter()
            .map(|c| (c.name.as_str(), c.batch_values(filled.len()))),
    );
    let samples: Vec<SampleId> = filled.iter().map(|i| at.samples[*i]).collect();
    feeds.extend(
        ports
            .conditions
            .iter()
            .map(|c| (c.name.as_str(), c.batch_values(&samples))),
    );
    feeds.extend(extra.map(|(name, values, axis)| (*name, values.select(*axis, filled))));
    feeds.push((&ports.spec.inputs.x, state));
    session.run(
        feeds
            .iter()
            .map(|(name, values)| (*name, values.view()))
            .collect(),
        wanted,
    )
}

impl OnnxFlowMap {
    /// Evaluates the map between a few times, and checks that its output depends on both time
    /// inputs.
    ///
    /// The first input is not tested if the second is a step or a duration. If the velocity does
    /// not depend on time, such a map depends only on the length of the step.
    ///
    /// # Errors
    /// Fails if the dependence on time contradicts the card.
    fn check_time_dependence(&mut self, map: &str) -> Result<()> {
        let (mut times, x) = time::time_test_points(&self.ports.curve, FlowMap::dim(self));
        if self.ports.spec.direction() == FlowMapDirection::ToData {
            times.reverse();
        }
        let [first, middle, last] = times;
        let velocity = self.ports.velocity.clone();
        let divergence = self.ports.spec.outputs.divergence.clone();
        let wanted: Vec<&str> = std::iter::once(velocity.as_str())
            .chain(divergence.as_deref())
            .collect();
        let samples: Vec<SampleId> = (0..x.nrows() as SampleId).collect();
        let rows = |t: f64| vec![t; x.nrows()];
        let mut between = |from: f64, to: f64| {
            let from = rows(from);
            let at = Points::new(&samples, &from, &x);
            call_flow_map(&self.ports, &mut self.session, at, &rows(to), None, &wanted)
        };
        let whole = between(first, last).ok();
        let (begun, ended) = (between(first, middle).ok(), between(middle, last).ok());
        let depends = |other: Option<Vec<ArrayD<f64>>>| {
            let outputs: Vec<_> = whole.iter().cloned().chain(other).collect();
            time::outputs_identical(&outputs).map(|same| !same)
        };
        let (to, from) = (depends(begun), depends(ended));
        let needed = self.ports.spec.inputs.to.is_some();
        let names: Vec<&str> = self.ports.times().collect();
        let (time_dependent, name) = match (to, from) {
            _ if names.len() < 2 => (from, names[0]),
            (Some(false), _) => (to, names[1]),
            (_, Some(false)) if needed => (from, names[0]),
            _ => (to, names[1]),
        };
        let key = format!("flow_maps.{map}");
        time::check_time_dependence(
            &self.ports.time_input,
            time_dependent,
            &format!("input `{name}`"),
            &self.session.file,
            &key,
            false,
        )
    }

    /// The error for an output whose shape is not the expected one.
    fn shape_error(&self, output: &str, found: &[usize], expected: Vec<usize>) -> EvalError {
        EvalError::Shape {
            file: self.session.file.clone(),
            output: output.to_owned(),
            found: found.to_vec(),
            expected,
        }
    }

    /// Checks the shape of an output. Each row must fit `shape` up to axes of length 1; see
    /// [`shape::fits`].
    fn rows_of_shape(
        &self,
        name: &str,
        values: ArrayD<f64>,
        x: &Batch,
        shape: &[usize],
    ) -> Result<Batch, EvalError> {
        let rows = x.nrows();
        let fits = values
            .shape()
            .split_first()
            .is_some_and(|(n, row)| *n == rows && shape::fits(row, shape));
        if !fits {
            return Err(self.shape_error(name, values.shape(), [&[rows], shape].concat()));
        }
        let values = values.as_standard_layout().into_owned();
        Ok(values
            .into_shape_with_order((rows, shape.iter().product::<usize>()))
            .expect("the shape was just compared"))
    }

    /// Returns the average velocity (X − x)/(to − from) of an endpoint map.
    ///
    /// # Errors
    /// Fails if a step has no length, or if the map leads to the data end only and a step does not.
    fn average_velocity(&self, at: Points, to: &[f64], end: Batch) -> Result<Batch, EvalError> {
        let mut velocity = end - at.x;
        for (i, mut row) in velocity.rows_mut().into_iter().enumerate() {
            row /= self.step_length(at.t[i], to[i])?;
        }
        Ok(velocity)
    }

    /// Returns the signed length of a step of an endpoint map.
    ///
    /// # Errors
    /// Fails if the step has no length, or if the map leads to the data end only and the step does
    /// not.
    fn step_length(&self, from: f64, to: f64) -> Result<f64, EvalError> {
        let data_end = self.ports.curve.data_end();
        let tolerance = 1e-9 * (self.ports.curve.prior_end() - data_end).abs();
        if self.ports.spec.leads_to_data_end() && (to - data_end).abs() > tolerance {
            return Err(EvalError::Missing(format!(
                "{}: this map leads to the data end, time {data_end}, and not to time {to}",
                self.session.file
            )));
        }
        if from == to {
            return Err(EvalError::Missing(format!(
                "{}: an endpoint map gives no velocity at one time, but between two",
                self.session.file
            )));
        }
        Ok(to - from)
    }

    /// Returns the divergence, one value per row, from an output of the graph.
    fn scaled_divergence(
        &self,
        name: &str,
        values: ArrayD<f64>,
        x: &Batch,
    ) -> Result<Vec<f64>, EvalError> {
        let scale = self.ports.spec.divergence_scale;
        Ok(self
            .rows_of_shape(name, values, x, &[])?
            .iter()
            .map(|d| d * scale)
            .collect())
    }

    /// Returns the name of the divergence output.
    ///
    /// # Errors
    /// Fails if the map has none.
    fn divergence_name(&self) -> Result<String, EvalError> {
        let missing = || {
            EvalError::Missing(format!(
                "{}: this flow map has no divergence",
                self.session.file
            ))
        };
        self.ports
            .spec
            .outputs
            .divergence
            .clone()
            .ok_or_else(missing)
    }
}

impl FlowMap for OnnxFlowMap {
    fn dim(&self) -> usize {
        self.ports.shape.iter().product()
    }

    fn averages(&mut self, at: Points, to: &[f64]) -> Result<FlowMapAverages, EvalError> {
        let x = at.x;
        let velocity = self.ports.velocity.clone();
        let divergence = self.ports.spec.outputs.divergence.clone();
        let wanted: Vec<&str> = std::iter::once(velocity.as_str())
            .chain(divergence.as_deref())
            .collect();
        let mut out =
            call_flow_map(&self.ports, &mut self.session, at, to, None, &wanted)?.into_iter();
        let (u, d) = (out.next().unwrap_or_default(), out.next());
        let state = self.rows_of_shape(&velocity, u, x, &self.ports.shape)?;
        Ok(FlowMapAverages {
            velocity: match self.ports.spec.outputs.endpoint {
                Some(_) => self.average_velocity(at, to, state)?,
                None => state,
            },
            divergence: divergence
                .zip(d)
                .map(|(name, d)| self.scaled_divergence(&name, d, x))
                .transpose()?,
        })
    }

    fn divergence_gradient(
        &mut self,
        at: Points,
        to: &[f64],
    ) -> Result<(Vec<f64>, Batch), EvalError> {
        let x = at.x;
        let name = self.divergence_name()?;
        let missing =
            || EvalError::Missing("this flow map was opened without its gradient".to_owned());
        let session = self.gradient.as_mut().ok_or_else(missing)?;
        let cotangent = format!("{name}_cotangent");
        let axes = session.input(&cotangent).map_or(1, |p| p.shape.len());
        let rows = x.nrows();
        let shape = if axes == 2 { vec![rows, 1] } else { vec![rows] };
        let ones = ArrayD::ones(IxDyn(&shape));
        let gradient = format!("{}_cotangent", self.ports.spec.inputs.x);
        let extra = Some((cotangent.as_str(), ones, Axis(0)));
        let mut out =
            call_flow_map(&self.ports, session, at, to, extra, &[&name, &gradient])?.into_iter();
        let (d, g) = (
            out.next().unwrap_or_default(),
            out.next().unwrap_or_default(),
        );
        Ok((
            self.scaled_divergence(&name, d, x)?,
            self.rows_of_shape(&gradient, g, x, &self.ports.shape)?
                * self.ports.spec.divergence_scale,
        ))
    }

    fn jvp(&mut self, at: Points, to: &[f64], z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        let missing =
            || EvalError::Missing("this flow map was opened without its Jacobian".to_owned());
        let session = self.tangent.as_mut().ok_or_else(missing)?;
        let (k, rows, dim) = z.dim();
        let shape: Vec<usize> = [k, rows].iter().chain(&self.ports.shape).copied().collect();
        let tangents = z
            .to_shape(shape)
            .expect("dim numbers per tangent")
            .into_owned();
        let extra = format!("{}_tangent", self.ports.spec.inputs.x);
        let wanted = format!("{}_tangent", self.ports.velocity);
        let out = call_flow_map(
            &self.ports,
            session,
            at,
            to,
            Some((extra.as_str(), tangents, Axis(1))),
            &[&wanted],
        )?
        .remove(0);
        let found = out.shape().to_vec();
        if found.get(..2) != Some(&[k, rows]) || !shape::fits(&found[2..], &self.ports.shape) {
            return Err(self.shape_error(
                &wanted,
                &found,
                [&[k, rows], &self.ports.shape[..]].concat(),
            ));
        }
        let out = out
            .as_standard_layout()
            .into_owned()
            .into_shape_with_order((k, rows, dim));
        let mut products = out.expect("the shape was just compared");
        if self.ports.spec.outputs.endpoint.is_some() {
            // With u = (X − x)/(to − from), J_u·z = (J_X·z − z)/(to − from).
            products -= z;
            for (i, mut row) in products.axis_iter_mut(Axis(1)).enumerate() {
                row /= self.step_length(at.t[i], to[i])?;
            }
        }
        Ok(products)
    }
}
