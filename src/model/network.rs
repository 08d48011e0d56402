//! An opened network with its roles, and the calls that turn states and times into outputs.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use ndarray::{ArrayD, ArrayView3, Axis, IxDyn};

use super::call_rows::{self, CallRows, ROWS_TOGETHER, RowInvariance};
use super::call_size::CallSize;
use super::conditions::ConditionInput;
use super::constants::ConstantInput;
use super::onnx::{Session, SessionPort};
use super::output_cache::OutputCache;
use super::ports::{check_state_shape, find_port};
use super::probe_cache::ProbeCache;
use super::time::{self, TimeInput, is_integer_format, is_near_whole};
use crate::flow::field::{EvalError, Points};
use crate::flow::network_velocity::ForwardNetwork;
use crate::flow::path::PathCurve;

use crate::num::Batch;
use crate::num::key::SampleId;

/// The seed of a differentiated graph: its input besides the inputs of the original graph.
#[derive(Clone, Copy)]
pub(super) enum DerivativeSeed<'a> {
    /// There is no seed, as for an original graph or a trace graph.
    Nothing,
    /// The seeds are directions of Jacobian products, k × rows × dim.
    Tangents(ArrayView3<'a, f64>),
    /// The seeds are cotangents, rows × dim.
    Cotangents(&'a Batch),
}

/// An opened network with its roles: states and times are inputs, and one output is read.
pub struct Network {
    /// The session of ONNX Runtime that computes the graph.
    pub(super) session: Session,
    /// The graph's name of the state.
    pub(super) x_name: String,
    /// The graph's name of the time; `None` if it has no time input.
    pub(super) time_name: Option<String>,
    /// The graph's name of the output.
    pub(super) output_name: String,
    /// The values that the time input gets.
    pub(super) time_input: TimeInput,
    /// Further inputs, with values from the card.
    pub(super) constants: Vec<ConstantInput>,
    /// Further inputs with one value per sample.
    pub(super) conditions: Vec<ConditionInput>,
    /// Whether the graph takes one time for the whole batch.
    pub(super) scalar_time: bool,
    /// The number of values in the largest tensor that the graph computes for one sample.
    pub(super) max_activation_size: u64,
    /// How much one call takes.
    pub(super) call_size: CallSize,
    /// The only batch size that the graph takes; `None` if it takes any.
    pub(super) fixed_batch: Option<usize>,
    /// What a row's output depends on besides its own inputs.
    pub(super) row_invariance: RowInvariance,
    /// Whether the output's derivatives with respect to state and time are known to be continuous.
    pub(super) smooth: bool,
    /// The shape of one state, without the batch axis.
    pub(super) shape: Vec<usize>,
    /// The path, from which the values of the time input are computed.
    pub(super) curve: PathCurve,
    /// Other outputs of the same calls, which are stored for the heads that read them.
    pub(super) extra_outputs: Vec<String>,
    /// The stored values of those outputs.
    pub(super) output_cache: OutputCache,
    /// Computes the inputs that depend only on the directions and the weights, for a graph that
    /// takes such inputs instead of the directions; `None` for other graphs.
    pub(super) probe_cache: Option<ProbeCache>,
}

impl Network {
    /// Checks that the graph's inputs and outputs are those that the card declares. The network
    /// `gives_states`, or something else; `numbers` names the outputs with one number per sample, and
    /// `seed` the additional input of a differentiated graph.
    ///
    /// # Errors
    /// Fails if an input or output is missing, has another shape, or has no role.
    pub(super) fn check(
        &self,
        file: &str,
        gives_states: bool,
        numbers: &[&str],
        seed: Option<&str>,
    ) -> Result<()> {
        let x = find_port(&self.session.inputs, &self.x_name, file, "input")?;
        check_state_shape(x, &self.shape, self.fixed_batch, file, "input")?;
        let output = find_port(&self.session.outputs, &self.output_name, file, "output")?;
        if gives_states {
            check_state_shape(output, &self.shape, self.fixed_batch, file, "output")?;
        }
        for name in numbers {
            let output = find_port(&self.session.outputs, name, file, "output")?;
            if !matches!(output.shape[..], [_] | [_, 1] | [_, -1]) {
                bail!(
                    "{file}: output `{}` has shape {:?}, expected one number per sample: [N]",
                    output.name,
                    output.shape
                );
            }
        }
        let known = |name: &str| {
            let role = name == self.x_name || self.time_name.as_deref() == Some(name);
            let made = self
                .probe_cache
                .iter()
                .flat_map(|d| d.output_names())
                .any(|made| made == name);
            let given = self.constants.iter().any(|c| c.name == name)
                || self.conditions.iter().any(|c| c.name == name);
            role || made || given || seed == Some(name)
        };
        if let Some(other) = self.session.inputs.iter().find(|p| !known(&p.name)) {
            bail!(
                "{file}: input `{0}` has no role in the card; expected only `{1}`{2}, or values \
                 for it: `constants: {{{0}: …}}`, or `conditions: {{NAME: {{input: {0}}}}}` for one \
                 value per sample",
                other.name,
                self.x_name,
                self.time_name
                    .as_ref()
                    .map(|t| format!(" and `{t}`"))
                    .unwrap_or_default()
            );
        }
        Ok(())
    }

    /// Returns the input that takes the time.
    pub(super) fn time_port(&self) -> Option<&SessionPort> {
        self.session.input(self.time_name.as_deref()?)
    }

    /// Evaluates the network at a few times and checks that its output depends on the time as the
    /// card declares. `key` is the card's key of the network. If the exact output may be
    /// independent of time (`may_ignore`), an undeclared independence is only reported. A network
    /// that cannot be evaluated passes; its first user gets the error.
    ///
    /// # Errors
    /// Fails if the output's dependence on time contradicts the card.
    pub(super) fn check_time_dependence(&mut self, key: &str, may_ignore: bool) -> Result<()> {
        let Some(name) = self.time_name.clone() else {
            return Ok(());
        };
        let (times, x) = time::time_test_points(&self.curve, ForwardNetwork::dim(self));
        let wanted = [self.output_name.clone()];
        let samples: Vec<SampleId> = (0..x.nrows() as SampleId).collect();
        let outputs = times.map(|t| {
            let t = vec![t; x.nrows()];
            self.call_padded(
                Points::new(&samples, &t, &x),
                DerivativeSeed::Nothing,
                &wanted,
            )
        });
        let outputs: Vec<Vec<ArrayD<f64>>> = outputs.into_iter().flatten().collect();
        let time_dependent = time::outputs_identical(&outputs).map(|same| !same);
        time::check_time_dependence(
            &self.time_input,
            time_dependent,
            &format!("input `{name}`"),
            &self.session.file,
            key,
            may_ignore,
        )
    }

    /// Returns groups of rows that can share one call: all rows, or the rows of equal time if the
    /// graph takes one time for the whole batch.
    pub(super) fn call_groups(&self, t: &[f64]) -> Vec<Vec<usize>> {
        if !self.scalar_time || t.windows(2).all(|w| w[0] == w[1]) {
            return vec![(0..t.len()).collect()];
        }
        let mut groups: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (i, t) in t.iter().enumerate() {
            groups.entry(t.to_bits()).or_default().push(i);
        }
        groups.into_values().collect()
    }

    /// Returns the tensor for the time input; `fed` has one value per row.
    fn time_tensor(&self, fed: &[f64]) -> ArrayD<f64> {
        let axes = self.time_port().map_or(0, |p| p.shape.len());
        if self.scalar_time {
            return ArrayD::from_elem(IxDyn(&vec![1; axes]), fed[0]);
        }
        let shape = if axes == 2 {
            vec![fed.len(), 1]
        } else {
            vec![fed.len()]
        };
        ArrayD::from_shape_vec(IxDyn(&shape), fed.to_vec()).expect("one time per row")
    }

    /// Returns the shape of states behind the given leading axes.
    pub(super) fn with_state_shape(&self, leading: &[usize]) -> Vec<usize> {
        leading.iter().chain(&self.shape).copied().collect()
    }

    /// Calls the network once, with rows added and each sample in its place as
    /// [`CallRows`] has them. At most three rows are added where places do not matter. For a large
    /// network one row is enough work for a call, so no rows are added if a test showed that none
    /// are needed.
    pub(super) fn call_padded(
        &mut self,
        at: Points,
        seed: DerivativeSeed,
        wanted: &[String],
    ) -> Result<Vec<ArrayD<f64>>, EvalError> {
        if let Some(batch) = self.fixed_batch {
            return self.call_in_batches(batch, at, seed, wanted);
        }
        let rows = at.rows();
        let is_small = rows < ROWS_TOGETHER && self.row_invariance.small_calls;
        if is_small || call_rows::are_complete(at.samples, self.row_invariance.places) {
            return self
                .call_interpolated(at, seed, wanted)
                .map_err(|e| self.with_batch_size_hint(e, at, seed, wanted));
        }
        let call = CallRows::padded(at.samples, self.row_invariance.places);
        let outputs = self
            .call_rows(&call.filled, at, seed, wanted)
            .map_err(|e| self.with_batch_size_hint(e, at, seed, wanted))?;
        let given = |(output, name): (ArrayD<f64>, &String)| {
            call.given_outputs(output, self.sample_axis(name, seed))
        };
        Ok(outputs.into_iter().zip(wanted).map(given).collect())
    }

    /// Calls a graph that takes only batches of `batch` rows, as often as needed.
    fn call_in_batches(
        &mut self,
        batch: usize,
        at: Points,
        seed: DerivativeSeed,
        wanted: &[String],
    ) -> Result<Vec<ArrayD<f64>>, EvalError> {
        let calls = CallRows::in_batches(at.samples, batch, self.row_invariance.places);
        let mut parts: Vec<Vec<ArrayD<f64>>> = vec![Vec::new(); wanted.len()];
        for call in &calls {
            let outputs = self.call_rows(&call.filled, at, seed, wanted)?;
            for ((parts, output), name) in parts.iter_mut().zip(outputs).zip(wanted) {
                let axis = self.sample_axis(name, seed);
                if output.shape().get(axis.0) != Some(&batch) {
                    return Err(self.shape_error(output.shape(), vec![batch]));
                }
                parts.push(output.select(axis, &call.used));
            }
        }
        let order = call_rows::indices_of_given(&calls);
        let join = |(parts, name): (Vec<ArrayD<f64>>, &String)| {
            let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
            let axis = self.sample_axis(name, seed);
            let joined = ndarray::concatenate(axis, &views);
            let joined = joined.map_err(|_| self.shape_error(&[], Vec::new()))?;
            Ok(call_rows::rows_along(&joined, axis, &order))
        };
        parts.into_iter().zip(wanted).map(join).collect()
    }

    /// Returns the axis of samples in an output. Products of a tangent graph, trace terms and
    /// Jacobians have an axis of directions in front of it; the original output has none.
    pub(super) fn sample_axis(&self, name: &str, seed: DerivativeSeed) -> Axis {
        let suffix = name.strip_prefix(self.output_name.as_str());
        let own = matches!(suffix, Some("_trace_terms" | "_jacobian"));
        let leads = own || matches!(seed, DerivativeSeed::Tangents(_));
        Axis(usize::from(leads && name != self.output_name))
    }

    /// Calls the network once with a selection of the rows of all inputs.
    pub(super) fn call_rows(
        &mut self,
        rows: &[usize],
        at: Points,
        seed: DerivativeSeed,
        wanted: &[String],
    ) -> Result<Vec<ArrayD<f64>>, EvalError> {
        let part = at.select(rows);
        let at = part.points();
        match seed {
            DerivativeSeed::Nothing => self.call_interpolated(at, seed, wanted),
            DerivativeSeed::Tangents(z) => {
                let z = z.select(Axis(1), rows);
                self.call_interpolated(at, DerivativeSeed::Tangents(z.view()), wanted)
            }
            DerivativeSeed::Cotangents(w) => {
                let w = w.select(Axis(0), rows);
                self.call_interpolated(at, DerivativeSeed::Cotangents(&w), wanted)
            }
        }
    }

    /// Adds a hint to the error of a failed call if the batch size is the cause.
    fn with_batch_size_hint(
        &mut self,
        error: EvalError,
        at: Points,
        seed: DerivativeSeed,
        wanted: &[String],
    ) -> EvalError {
        let works = |rows: &[usize]| self.call_rows(rows, at, seed, wanted).is_ok();
        add_batch_size_hint(error, at.rows(), works)
    }

    /// The number of calls for one row at time `t`: two between two indices of a time input of whole
    /// numbers, otherwise one.
    pub(super) fn calls_per_row(&self, t: f64) -> u64 {
        let whole = self
            .time_port()
            .is_some_and(|p| is_integer_format(p.format));
        1 + u64::from(whole && self.time_input.falls_between_indices(&self.curve, t))
    }

    /// Calls the network at whole-number times if its time input takes only those. If a time lies
    /// between two of them, both are evaluated, and all outputs and derivatives are interpolated
    /// linearly, unless the card sets `interpolate: false`.
    pub(super) fn call_interpolated(
        &mut self,
        at: Points,
        seed: DerivativeSeed,
        wanted: &[String],
    ) -> Result<Vec<ArrayD<f64>>, EvalError> {
        let fed: Vec<f64> =
            at.t.iter()
                .map(|t| self.time_input.value_at(&self.curve, *t))
                .collect();
        let whole = self
            .time_port()
            .is_some_and(|p| is_integer_format(p.format));
        if !whole || self.time_input.ignored {
            return self.call_session(&fed, at, seed, wanted);
        }
        let fed: Vec<f64> = fed
            .into_iter()
            .map(|v| if is_near_whole(v) { v.round() } else { v })
            .collect();
        let Some(between) = fed.iter().find(|v| v.fract() != 0.0) else {
            return self.call_session(&fed, at, seed, wanted);
        };
        if !self.time_input.interpolates() {
            return Err(self.fractional_index_error(*between));
        }
        let [below, above] =
            [f64::floor, f64::ceil].map(|side| fed.iter().map(|v| side(*v)).collect::<Vec<f64>>());
        let mut mixed = self.call_session(&below, at, seed, wanted)?;
        let upper = self.call_session(&above, at, seed, wanted)?;
        for ((lower, upper), name) in mixed.iter_mut().zip(&upper).zip(wanted) {
            let rows = self.sample_axis(name, seed);
            if lower.shape() != upper.shape() || lower.shape().get(rows.0) != Some(&fed.len()) {
                return Err(self.shape_error(lower.shape(), upper.shape().to_vec()));
            }
            for ((mut lower, upper), v) in lower
                .axis_iter_mut(rows)
                .zip(upper.axis_iter(rows))
                .zip(&fed)
            {
                let weight = v - v.floor();
                lower.zip_mut_with(&upper, |a, b| *a += weight * (b - *a));
            }
        }
        Ok(mixed)
    }

    /// The error for a time between two indices if the card sets `interpolate: false`.
    fn fractional_index_error(&self, value: f64) -> EvalError {
        let name = self.time_name.as_deref().unwrap_or_default();
        let message = format!(
            "`{name}` takes only whole numbers, because the card sets `interpolate: false`, but \
             the time is {value}; expected steps from one index to another, or `interpolate: true`"
        );
        EvalError::Runtime {
            file: self.session.file.clone(),
            message,
        }
    }

    /// Estimates the errors of the interpolation between indices of time, at a few indices, relative to
    /// the size of the output: a quarter of the distance of an output from the mean of its
    /// neighbours. `None` if the time input takes fractions or is not interpolated.
    ///
    /// # Errors
    /// Fails if the network cannot be run.
    pub fn interpolation_errors(&mut self) -> Result<Option<Vec<f64>>, EvalError> {
        let whole = self
            .time_port()
            .is_some_and(|port| is_integer_format(port.format));
        if !whole || !self.time_input.interpolates() || self.time_input.ignored {
            return Ok(None);
        }
        let ends = [self.curve.data_end(), self.curve.prior_end()];
        let [from, to] = ends.map(|t| self.time_input.value_at(&self.curve, t));
        let (low, high) = (from.min(to).ceil(), from.max(to).floor());
        let (_, x) = time::time_test_points(&self.curve, ForwardNetwork::dim(self));
        let samples: Vec<SampleId> = (0..x.nrows() as SampleId).collect();
        let mut errors = Vec::new();
        for part in [0.1, 0.3, 0.5, 0.7, 0.9] {
            let index = (low + part * (high - low))
                .round()
                .clamp(low + 1.0, high - 1.0);
            let mut at = |index: f64| self.output_at_time_value(&samples, index, &x);
            let (before, here, after) = (at(index - 1.0)?, at(index)?, at(index + 1.0)?);
            let size = here.mapv(|v| v * v).sum().sqrt();
            let bend = (&here - &((before + after) * 0.5))
                .mapv(|v| v * v)
                .sum()
                .sqrt();
            errors.push(0.25 * bend / size.max(f64::MIN_POSITIVE));
        }
        Ok(Some(errors))
    }

    /// Calls the session once, with the values `fed` of the time input.
    fn call_session(
        &mut self,
        fed: &[f64],
        at: Points,
        seed: DerivativeSeed,
        wanted: &[String],
    ) -> Result<Vec<ArrayD<f64>>, EvalError> {
        let x = at.x;
        let rows = self.with_state_shape(&[x.nrows()]);
        let state = x.to_shape(rows.as_slice()).expect("dim numbers per row");
        let times = self.time_tensor(fed);
        let given = match &seed {
            DerivativeSeed::Nothing => None,
            DerivativeSeed::Tangents(z) => {
                let name = format!("{}_tangent", self.x_name);
                let shape = self.with_state_shape(&[z.shape()[0], z.shape()[1]]);
                // A graph may take tensors computed from the directions instead of the directions.
                let taken = self.session.input(&name).is_some();
                taken.then(|| {
                    (
                        name,
                        z.to_shape(shape.as_slice())
                            .expect("dim numbers per tangent"),
                    )
                })
            }
            DerivativeSeed::Cotangents(w) => Some((
                format!("{}_cotangent", self.output_name),
                w.to_shape(rows.as_slice()).expect("dim numbers per row"),
            )),
        };
        let repeated = match (seed, &mut self.probe_cache) {
            (DerivativeSeed::Tangents(z), Some(cache)) => Some(cache.inputs_for(z, &self.shape)?),
            _ => None,
        };
        let fixed: Vec<ArrayD<f64>> = self
            .constants
            .iter()
            .map(|c| c.batch_values(x.nrows()))
            .collect();
        let conditions: Vec<ArrayD<f64>> = self
            .conditions
            .iter()
            .map(|c| c.batch_values(at.samples))
            .collect();
        let mut feeds = vec![(self.x_name.as_str(), state.view())];
        feeds.extend(
            self.conditions
                .iter()
                .zip(&conditions)
                .map(|(c, values)| (c.name.as_str(), values.view())),
        );
        feeds.extend(
            self.constants
                .iter()
                .zip(&fixed)
                .map(|(c, values)| (c.name.as_str(), values.view())),
        );
        if let Some(name) = &self.time_name {
            feeds.push((name, times.view()));
        }
        if let Some((name, values)) = &given {
            feeds.push((name, values.view()));
        }
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        self.session.run_with(feeds, repeated, &wanted)
    }

    /// The error for an output whose shape is not the expected one.
    pub(super) fn shape_error(&self, found: &[usize], expected: Vec<usize>) -> EvalError {
        EvalError::Shape {
            file: self.session.file.clone(),
            output: self.output_name.clone(),
            found: found.to_vec(),
            expected,
        }
    }

    /// Returns the network's output, rows × dim, and stores the extra outputs of the same calls.
    fn evaluate(&mut self, at: Points) -> Result<Batch, EvalError> {
        let Points { t, x, .. } = at;
        let mut out = Batch::zeros(x.raw_dim());
        let wanted: Vec<String> = std::iter::once(&self.output_name)
            .chain(&self.extra_outputs)
            .cloned()
            .collect();
        for rows in self.call_groups(t) {
            let part = at.select(&rows);
            let part = part.points();
            let mut outputs = self.call_padded(part, DerivativeSeed::Nothing, &wanted)?;
            let y = outputs.remove(0);
            self.cache_extra_outputs(part, outputs)?;
            let expected = self.with_state_shape(&[rows.len()]);
            let y = match y.shape() == expected {
                true => y.into_shape_with_order((rows.len(), x.ncols())),
                false => return Err(self.shape_error(y.shape(), expected)),
            };
            let y = y.expect("the shape was just compared");
            rows.iter()
                .zip(y.rows())
                .for_each(|(i, row)| out.row_mut(*i).assign(&row));
        }
        Ok(out)
    }

    /// Returns the network's output, rows × dim, with the value `fed` at the time input of every
    /// row. The states `x` are given as the graph takes them, and nothing is rounded or
    /// interpolated beyond the conversion to the number format of the input.
    ///
    /// # Errors
    /// Fails if the network cannot be run, or if its output does not have the shape of the states.
    pub(super) fn output_at_time_value(
        &mut self,
        samples: &[SampleId],
        fed: f64,
        x: &Batch,
    ) -> Result<Batch, EvalError> {
        let wanted = [self.output_name.clone()];
        let batch = self.fixed_batch.unwrap_or(x.nrows()).max(1);
        let mut out = Batch::zeros(x.raw_dim());
        for first in (0..x.nrows()).step_by(batch) {
            let count = batch.min(x.nrows() - first);
            let rows: Vec<usize> = (0..batch)
                .map(|i| if i < count { first + i } else { first })
                .collect();
            let times = vec![fed; x.nrows()];
            let part = Points::new(samples, &times, x).select(&rows);
            let y = self
                .call_session(
                    &vec![fed; batch],
                    part.points(),
                    DerivativeSeed::Nothing,
                    &wanted,
                )?
                .remove(0);
            let expected = self.with_state_shape(&[batch]);
            if y.shape() != expected {
                return Err(self.shape_error(y.shape(), expected));
            }
            let y = y.into_shape_with_order((batch, x.ncols()));
            out.slice_mut(ndarray::s![first..first + count, ..]).assign(
                &y.expect("the shape was just compared")
                    .slice(ndarray::s![..count, ..]),
            );
        }
        Ok(out)
    }

    /// Stores the extra outputs of a call for the heads that read them.
    fn cache_extra_outputs(&self, at: Points, outputs: Vec<ArrayD<f64>>) -> Result<(), EvalError> {
        if self.extra_outputs.is_empty() {
            return Ok(());
        }
        let mut stored = Vec::new();
        for (name, values) in self.extra_outputs.iter().zip(outputs) {
            if values.len() != at.rows() {
                return Err(self.shape_error(values.shape(), vec![at.rows()]));
            }
            stored.push((name.clone(), values.iter().copied().collect()));
        }
        self.output_cache.insert_call(at, &stored);
        Ok(())
    }
}

/// Adds a hint on the batch size to an error of ONNX Runtime, if a call with one row succeeds and a
/// call with two rows fails. `works` tries a call with the given rows.
pub(super) fn add_batch_size_hint(
    error: EvalError,
    rows: usize,
    mut works: impl FnMut(&[usize]) -> bool,
) -> EvalError {
    match error {
        EvalError::Runtime { file, message } if rows > 0 && works(&[0]) && !works(&[0, 0]) => {
            let cause = "a single sample works: the batch size 1 is baked into the graph; \
                         export it with a dynamic first axis";
            EvalError::Runtime {
                file,
                message: format!("{message} ({cause})"),
            }
        }
        error => error,
    }
}

impl ForwardNetwork for Network {
    fn dim(&self) -> usize {
        self.shape.iter().product()
    }

    fn forward(&mut self, at: Points) -> Result<Batch, EvalError> {
        self.evaluate(at)
    }

    fn is_smooth(&self) -> bool {
        self.smooth
    }

    fn calls_at(&self, t: f64) -> u64 {
        self.calls_per_row(t)
    }
}
