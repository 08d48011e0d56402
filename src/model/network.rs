//! Calls of an opened network: states and times in, one output out.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anyhow::{Result, bail};
use ndarray::{ArrayD, Axis, IxDyn};

use super::constants::ConstantInput;
use super::joint::OutputCache;
use super::onnx::{Session, SessionPort};
use super::ports::{check_state_shape, find_port};
use super::probe_cache::ProbeCache;
use super::time::{self, TimeInput, is_integer_format};
use crate::flow::field::EvalError;
use crate::flow::network_velocity::ForwardNetwork;
use crate::flow::path::PathCurve;
use crate::graph;
use crate::num::key::{Purpose, RngKey};
use crate::num::{Batch, TangentBatch};

/// What a differentiated graph is given besides the original inputs.
#[derive(Clone, Copy)]
pub(super) enum DerivativeSeed<'a> {
    Nothing,
    /// k × rows × dim.
    Tangents(&'a TangentBatch),
    /// rows × dim.
    Cotangents(&'a Batch),
}

/// An opened network with its roles: states and times in, one output out.
pub struct Network {
    pub(super) session: Session,
    pub(super) x_name: String,
    pub(super) time_name: Option<String>,
    pub(super) output_name: String,
    pub(super) time_input: TimeInput,
    /// Further inputs, whose values the card gives.
    pub(super) constants: Vec<ConstantInput>,
    /// Whether the graph takes one time for the whole batch.
    pub(super) scalar_time: bool,
    /// Numbers in the largest value that it makes of one sample.
    pub(super) max_activation_size: u64,
    /// Whether calls of fewer than four rows were seen to give each row the same bytes.
    pub(super) batch_invariant: bool,
    /// Whether its derivatives by state and time are known to be continuous.
    pub(super) smooth: bool,
    pub(super) shape: Vec<usize>,
    pub(super) curve: PathCurve,
    /// Other outputs that a call also gives, kept for the heads that they are.
    pub(super) extra_outputs: Vec<String>,
    pub(super) output_cache: OutputCache,
    /// What makes inputs from directions, where the graph takes those instead of the directions themselves.
    pub(super) probe_cache: Option<ProbeCache>,
}

impl Network {
    /// Holds the ports against the card.
    pub(super) fn check(&self, file: &str, scalar: bool, seed: Option<&str>) -> Result<()> {
        let x = find_port(&self.session.inputs, &self.x_name, file, "input")?;
        check_state_shape(x, &self.shape, file, "input")?;
        let output = find_port(&self.session.outputs, &self.output_name, file, "output")?;
        if scalar {
            let fits = matches!(output.shape[..], [_] | [_, 1] | [_, -1]);
            if !fits {
                bail!(
                    "{file}: output `{}` has shape {:?}, expected one number per sample: [N]",
                    output.name,
                    output.shape
                );
            }
        } else {
            check_state_shape(output, &self.shape, file, "output")?;
        }
        let known = |name: &str| {
            let role = name == self.x_name || self.time_name.as_deref() == Some(name);
            let made = self
                .probe_cache
                .iter()
                .flat_map(|d| d.output_names())
                .any(|made| made == name);
            role || made || self.constants.iter().any(|c| c.name == name) || seed == Some(name)
        };
        if let Some(other) = self.session.inputs.iter().find(|p| !known(&p.name)) {
            bail!(
                "{file}: input `{0}` has no role in the card; expected only `{1}`{2}, or a value for it: `constants: {{{0}: …}}`",
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

    /// The input that times are given to.
    pub(super) fn time_port(&self) -> Option<&SessionPort> {
        self.session.input(self.time_name.as_deref()?)
    }

    /// Evaluates the network at a few times, and refuses one whose output does not depend on them; `key` is the
    /// card's. Where the true output may not depend on time (`may_ignore`), that is said instead. What cannot be
    /// evaluated is left to whoever needs it.
    pub(super) fn check_time_dependence(&mut self, key: &str, may_ignore: bool) -> Result<()> {
        let Some(name) = self.time_name.clone() else {
            return Ok(());
        };
        let (times, x) = time::time_test_points(&self.curve, ForwardNetwork::dim(self));
        let wanted = [self.output_name.clone()];
        let outputs = times
            .map(|t| self.call_padded(&vec![t; x.nrows()], &x, DerivativeSeed::Nothing, &wanted));
        let outputs: Vec<Vec<ArrayD<f64>>> = outputs.into_iter().flatten().collect();
        let heeded = time::outputs_identical(&outputs).map(|same| !same);
        time::check_time_dependence(
            &self.time_input,
            heeded,
            &format!("input `{name}`"),
            &self.session.file,
            key,
            may_ignore,
        )
    }

    /// Rows that can share one call: all of them, or those of equal time where the graph takes one time.
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

    /// What the time input is given, `fed` being one value per row.
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

    pub(super) fn with_state_shape(&self, leading: &[usize]) -> Vec<usize> {
        leading.iter().chain(&self.shape).copied().collect()
    }

    /// One call.
    ///
    /// The runtime rounds differently where a batch does not fill its vector units. Filled up to a
    /// multiple of four with copies, a sample's last bits hardly ever depend on its company: bit-identical
    /// on `digits` and `moons`, to 1e-7 in a few rows of `mixture`; three rows at most are wasted. A large network, of
    /// which a row is work enough for a call, is not filled up where it was seen not to need it.
    pub(super) fn call_padded(
        &mut self,
        t: &[f64],
        x: &Batch,
        seed: DerivativeSeed,
        wanted: &[String],
    ) -> Result<Vec<ArrayD<f64>>, EvalError> {
        let rows = x.nrows();
        if rows.is_multiple_of(4) || (rows < 4 && self.batch_invariant) {
            return self
                .call_interpolated(t, x, seed, wanted)
                .map_err(|e| self.with_batch_size_hint(e, t, x, seed, wanted));
        }
        let filled: Vec<usize> = (0..rows.next_multiple_of(4))
            .map(|i| if i < rows { i } else { 0 })
            .collect();
        let out = self
            .call_rows(&filled, t, x, seed, wanted)
            .map_err(|e| self.with_batch_size_hint(e, t, x, seed, wanted))?;
        let cut = |(mut a, name): (ArrayD<f64>, &String)| {
            let axis = self.sample_axis(name, seed);
            if a.shape().get(axis.0) == Some(&filled.len()) {
                a.slice_axis_inplace(axis, (..rows).into());
            }
            a.as_standard_layout().into_owned()
        };
        Ok(out.into_iter().zip(wanted).map(cut).collect())
    }

    /// The axis of an output that is the samples': what a graph was derived from has no axis of directions.
    fn sample_axis(&self, name: &str, seed: DerivativeSeed) -> Axis {
        let traced = name.strip_prefix(self.output_name.as_str()) == Some("_trace_terms");
        let leads = traced || matches!(seed, DerivativeSeed::Tangents(_));
        Axis(usize::from(leads && name != self.output_name))
    }

    /// Whether one row alone, and two, get the bytes that they get among four; `seeded` with what a derived graph is
    /// given. A network that cannot be called so is left to whoever needs it.
    pub(super) fn is_batch_invariant(&mut self, mode: Option<graph::Mode>) -> bool {
        let dim = ForwardNetwork::dim(self);
        let draws = |place: u64| RngKey { seed: 0 }.normal(Purpose::Check, place, 0, 4 * dim);
        let shaped = |place: u64| {
            draws(place)
                .into_shape_with_order((4, dim))
                .expect("four rows")
        };
        let (x, w) = (shaped(0), shaped(1));
        let z = w.clone().insert_axis(Axis(0));
        let t = [0.5 * (self.curve.data_end() + self.curve.prior_end()); 4];
        let (seed, wanted) = match mode {
            None => (DerivativeSeed::Nothing, vec![self.output_name.clone()]),
            Some(graph::Mode::Jvp | graph::Mode::Quadratic) => (
                DerivativeSeed::Tangents(&z),
                vec![
                    self.output_name.clone(),
                    format!("{}_quadratic", self.output_name),
                ],
            ),
            Some(graph::Mode::Vjp) => (
                DerivativeSeed::Cotangents(&w),
                vec![format!("{}_cotangent", self.x_name)],
            ),
            Some(graph::Mode::Trace) => (
                DerivativeSeed::Nothing,
                vec![
                    self.output_name.clone(),
                    format!("{}_trace_terms", self.output_name),
                ],
            ),
        };
        let Ok(whole) = self.call_interpolated(&t, &x, seed, &wanted) else {
            return false;
        };
        let mut same = |rows: &[usize]| {
            let Ok(part) = self.call_rows(rows, &t, &x, seed, &wanted) else {
                return false;
            };
            whole
                .iter()
                .zip(&part)
                .zip(&wanted)
                .all(|((whole, part), name)| {
                    let of = whole.select(self.sample_axis(name, seed), rows);
                    of.shape() == part.shape()
                        && of.iter().zip(part).all(|(a, b)| a.to_bits() == b.to_bits())
                })
        };
        same(&[3]) && same(&[1, 2])
    }

    /// One call with the given rows of everything.
    fn call_rows(
        &mut self,
        rows: &[usize],
        t: &[f64],
        x: &Batch,
        seed: DerivativeSeed,
        wanted: &[String],
    ) -> Result<Vec<ArrayD<f64>>, EvalError> {
        let times: Vec<f64> = rows.iter().map(|i| t[*i]).collect();
        let x = x.select(Axis(0), rows);
        match seed {
            DerivativeSeed::Nothing => self.call_interpolated(&times, &x, seed, wanted),
            DerivativeSeed::Tangents(z) => self.call_interpolated(
                &times,
                &x,
                DerivativeSeed::Tangents(&z.select(Axis(1), rows)),
                wanted,
            ),
            DerivativeSeed::Cotangents(w) => self.call_interpolated(
                &times,
                &x,
                DerivativeSeed::Cotangents(&w.select(Axis(0), rows)),
                wanted,
            ),
        }
    }

    /// What the runtime said of a call that failed, and that the batch size is the cause where it is.
    fn with_batch_size_hint(
        &mut self,
        error: EvalError,
        t: &[f64],
        x: &Batch,
        seed: DerivativeSeed,
        wanted: &[String],
    ) -> EvalError {
        let works = |rows: &[usize]| self.call_rows(rows, t, x, seed, wanted).is_ok();
        add_batch_size_hint(error, x.nrows(), works)
    }

    /// One call, or two where whole numbers are fed and the time lies between two of them: all outputs are mixed,
    /// and so are derivatives.
    fn call_interpolated(
        &mut self,
        t: &[f64],
        x: &Batch,
        seed: DerivativeSeed,
        wanted: &[String],
    ) -> Result<Vec<ArrayD<f64>>, EvalError> {
        let fed: Vec<f64> = t
            .iter()
            .map(|t| self.time_input.value_at(&self.curve, *t))
            .collect();
        let whole = self
            .time_port()
            .is_some_and(|p| is_integer_format(p.format));
        let (true, Some(interpolate)) = (whole, self.time_input.interpolate) else {
            return self.call_session(&fed, x, seed, wanted);
        };
        // What is whole up to rounding has no neighbour.
        let near = |v: f64| (v - v.round()).abs() < 1e-6;
        let fed: Vec<f64> = fed
            .into_iter()
            .map(|v| if near(v) { v.round() } else { v })
            .collect();
        let Some(between) = fed.iter().find(|v| v.fract() != 0.0) else {
            return self.call_session(&fed, x, seed, wanted);
        };
        if !interpolate {
            return Err(self.fractional_index_error(*between));
        }
        let [below, above] =
            [f64::floor, f64::ceil].map(|side| fed.iter().map(|v| side(*v)).collect::<Vec<f64>>());
        let mut mixed = self.call_session(&below, x, seed, wanted)?;
        let upper = self.call_session(&above, x, seed, wanted)?;
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

    fn fractional_index_error(&self, value: f64) -> EvalError {
        let name = self.time_name.as_deref().unwrap_or_default();
        let message = format!(
            "`{name}` takes whole numbers alone, as the card says (`interpolate: false`), but is to be given {value}; \
             expected steps from one index to another, or `interpolate: true`"
        );
        EvalError::Runtime {
            file: self.session.file.clone(),
            message,
        }
    }

    fn call_session(
        &mut self,
        fed: &[f64],
        x: &Batch,
        seed: DerivativeSeed,
        wanted: &[String],
    ) -> Result<Vec<ArrayD<f64>>, EvalError> {
        let rows = self.with_state_shape(&[x.nrows()]);
        let state = x.to_shape(rows.as_slice()).expect("dim numbers per row");
        let times = self.time_tensor(fed);
        let given = match seed {
            DerivativeSeed::Nothing => None,
            DerivativeSeed::Tangents(z) => {
                let name = format!("{}_tangent", self.x_name);
                let shape = self.with_state_shape(&[z.shape()[0], z.shape()[1]]);
                // What is made of the directions can take their place.
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
        let ready = match (seed, &mut self.probe_cache) {
            (DerivativeSeed::Tangents(z), Some(cache)) => cache.inputs_for(z, &self.shape)?,
            _ => Vec::new(),
        };
        let fixed: Vec<ArrayD<f64>> = self
            .constants
            .iter()
            .map(|c| c.batch_values(x.nrows()))
            .collect();
        let mut feeds = vec![(self.x_name.as_str(), state.view())];
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
        self.session.run_with(feeds, &ready, &wanted)
    }

    pub(super) fn shape_error(&self, found: &[usize], expected: Vec<usize>) -> EvalError {
        EvalError::Shape {
            file: self.session.file.clone(),
            output: self.output_name.clone(),
            found: found.to_vec(),
            expected,
        }
    }

    /// The plain output, rows × dim.
    fn evaluate(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        let mut out = Batch::zeros(x.raw_dim());
        let wanted: Vec<String> = std::iter::once(&self.output_name)
            .chain(&self.extra_outputs)
            .cloned()
            .collect();
        for rows in self.call_groups(t) {
            let times: Vec<f64> = rows.iter().map(|i| t[*i]).collect();
            // All rows together need no copy.
            let part = if rows.len() == t.len() {
                Cow::Borrowed(x)
            } else {
                Cow::Owned(x.select(Axis(0), &rows))
            };
            let mut outputs = self.call_padded(&times, &part, DerivativeSeed::Nothing, &wanted)?;
            let y = outputs.remove(0);
            self.cache_extra_outputs(&times, &part, outputs)?;
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

    /// Keeps what a call said beside its main output.
    fn cache_extra_outputs(
        &self,
        t: &[f64],
        fed: &Batch,
        outputs: Vec<ArrayD<f64>>,
    ) -> Result<(), EvalError> {
        if self.extra_outputs.is_empty() {
            return Ok(());
        }
        let mut said = Vec::new();
        for (name, values) in self.extra_outputs.iter().zip(outputs) {
            if values.len() != t.len() {
                return Err(self.shape_error(values.shape(), vec![t.len()]));
            }
            said.push((name.clone(), values.iter().copied().collect()));
        }
        self.output_cache.insert_call(t, fed, &said);
        Ok(())
    }
}

/// An error of the runtime, and that the batch size is its cause where `works` with one row alone and not with two.
pub(super) fn add_batch_size_hint(
    error: EvalError,
    rows: usize,
    mut works: impl FnMut(&[usize]) -> bool,
) -> EvalError {
    match error {
        EvalError::Runtime { file, message } if rows > 0 && works(&[0]) && !works(&[0, 0]) => {
            let cause = "one sample alone works: the batch size 1 is baked into the graph; export it with a dynamic first axis";
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

    fn forward(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        self.evaluate(t, x)
    }

    fn is_smooth(&self) -> bool {
        self.smooth
    }
}
