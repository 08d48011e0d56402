//! Networks of the state alone that give one number per sample: the energy of a target and
//! observables.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use ndarray::{ArrayView2, Axis, IxDyn};

use super::call_rows::{CallRows, RowPlaces};
use super::loaded::{Model, SessionOptions};
use super::onnx::{Runtime, Session};
use super::ports::find_port;
use crate::hub;
use crate::num::key::SampleId;
use crate::num::shape::{self, ShapeMismatch};
use crate::signature::{self, ExpectedFile};

/// The largest number of samples in one call, before rows are added.
const CALL_ROWS: usize = 64;

/// An opened network that gives one number per sample.
pub struct StateFunction {
    session: Session,
    /// The name of the input.
    input: String,
    /// The name of the output.
    output: String,
    /// The axes of one sample at the input; dynamic axes are −1.
    shape: Vec<i64>,
    /// The factor of the output.
    scale: f64,
}

impl StateFunction {
    /// Opens an ONNX file with one input. Its values are those of its first output, times `scale`.
    ///
    /// # Errors
    /// Fails if the file cannot be read or opened, or if its ports are not suitable.
    pub fn open(
        file: &Path,
        scale: f64,
        runtime: &Runtime,
        options: SessionOptions,
    ) -> Result<StateFunction> {
        let file = &hub::local_path(file)?;
        let name = file.display().to_string();
        if let Some(why) = signature::explain_missing(file) {
            bail!("{name}: {why}");
        }
        let bytes = std::fs::read(file).with_context(|| format!("{name}: it cannot be read"))?;
        if let Some(why) = signature::explain_mismatch(&bytes, ExpectedFile::Onnx) {
            bail!("{name}: {why}");
        }
        let session = runtime.open_file(file, options.provider, options.threads)?;
        let (Some(input), Some(output)) = (session.inputs.first(), session.outputs.first()) else {
            bail!("{name}: the graph has no input or no output");
        };
        let (input, output) = (input.name.clone(), output.name.clone());
        StateFunction::new(session, input, output, scale)
    }

    /// Checks the ports of an opened graph.
    ///
    /// # Errors
    /// Fails if there are other inputs, or if the batch axis of the input has a fixed size.
    fn new(session: Session, input: String, output: String, scale: f64) -> Result<StateFunction> {
        let file = session.file.clone();
        find_port(&session.outputs, &output, &file, "output")?;
        let port = find_port(&session.inputs, &input, &file, "input")?;
        if let Some(other) = session.inputs.iter().find(|port| port.name != input) {
            bail!(
                "{file}: input `{}` has no role; expected a graph of the states alone",
                other.name
            );
        }
        if port.shape.len() < 2 || port.shape[0] >= 0 {
            bail!(
                "{file}: input `{input}` has shape {:?}, expected a dynamic batch axis and the \
                 axes of a sample: [N, …]",
                port.shape
            );
        }
        let shape = port.shape[1..].to_vec();
        Ok(StateFunction {
            session,
            input,
            output,
            shape,
            scale,
        })
    }

    /// The path of the file, as messages show it.
    pub fn file(&self) -> &str {
        &self.session.file
    }

    /// Checks that samples of a shape fit the input, and returns the shape in which they are fed.
    ///
    /// # Errors
    /// Fails if they do not fit. The message names the shapes.
    pub fn check_samples(&self, samples: usize, sample_shape: &[usize]) -> Result<Vec<usize>> {
        shape::shape_at_port(sample_shape, &self.shape).ok_or_else(|| {
            let array = [&[samples], sample_shape].concat();
            let whose = format!("input `{}` takes", self.input);
            let mismatch = ShapeMismatch::for_port(&array, &self.shape);
            anyhow!(
                "{}: {}",
                self.session.file,
                mismatch.message(&whose, shape::layout_option_hint)
            )
        })
    }

    /// Calls the network with a few samples, whatever their values are.
    ///
    /// # Errors
    /// Fails if the network cannot be run, or if it does not give one number per sample.
    pub fn call_once(&mut self, x: ArrayView2<f64>, sample_shape: &[usize]) -> Result<()> {
        let samples: Vec<SampleId> = (0..x.nrows() as SampleId).collect();
        self.values(&samples, x, sample_shape).map(drop)
    }

    /// The values of samples, each a row of `x` with the shape `sample_shape`. `samples` are their
    /// numbers, which give the rows of a call.
    ///
    /// # Errors
    /// Fails if the samples do not fit the input, if the network cannot be run, or if it does not
    /// give one number per sample. A value of NaN or −∞ is an error; +∞ is a value.
    pub fn evaluate(
        &mut self,
        samples: &[SampleId],
        x: ArrayView2<f64>,
        sample_shape: &[usize],
    ) -> Result<Vec<f64>> {
        let file = self.session.file.clone();
        let values = self.values(samples, x, sample_shape)?;
        let wrong = |v: &f64| v.is_nan() || *v == f64::NEG_INFINITY;
        if let Some(row) = values.iter().position(wrong) {
            bail!(
                "{file}: output `{}` is {} for sample {}; expected a number",
                self.output,
                values[row],
                samples[row]
            );
        }
        Ok(values)
    }

    /// The values of samples, which need not be numbers.
    fn values(
        &mut self,
        samples: &[SampleId],
        x: ArrayView2<f64>,
        sample_shape: &[usize],
    ) -> Result<Vec<f64>> {
        let file = self.session.file.clone();
        let fed = self.check_samples(x.nrows(), sample_shape)?;
        let mut values = Vec::with_capacity(x.nrows());
        let chunks = x.axis_chunks_iter(Axis(0), CALL_ROWS);
        for (samples, x) in samples.chunks(CALL_ROWS).zip(chunks) {
            let call = CallRows::padded(samples, RowPlaces::BySample);
            let rows = call.filled.len();
            let states = x.select(Axis(0), &call.filled);
            let states = states
                .to_shape(IxDyn(&[&[rows], &fed[..]].concat()))
                .with_context(|| file.clone())?;
            let out = self
                .session
                .run(vec![(&self.input, states.view())], &[&self.output])?
                .remove(0);
            if out.shape().first() != Some(&rows) || out.len() != rows {
                bail!(
                    "{file}: output `{}` has shape {:?}, expected one number per sample: \
                     [{rows}] or [{rows}, 1]",
                    self.output,
                    out.shape()
                );
            }
            let out = call.given_outputs(out, Axis(0));
            values.extend(out.iter().map(|v| self.scale * v));
        }
        Ok(values)
    }
}

impl Model {
    /// Opens the energy of the card's target.
    ///
    /// # Errors
    /// Fails if the card has none, or if the network cannot be opened or is not a function of
    /// states of the card's shape.
    pub fn energy(&self, runtime: &Runtime, options: SessionOptions) -> Result<StateFunction> {
        let Some(spec) = &self.card.energy else {
            bail!(
                "{}: the card has no `energy`; expected `energy: {{file, input, output}}`, or a \
                 file of its own for the energy",
                self.path.display()
            );
        };
        let (name, bytes) = self.network_bytes("energy.file")?;
        let session = runtime.open(&name, &bytes, options.provider, options.threads)?;
        let network =
            StateFunction::new(session, spec.input.clone(), spec.output.clone(), spec.scale)
                .with_context(|| format!("{}: energy", self.path.display()))?;
        if shape::shape_at_port(&self.card.shape, &network.shape).is_none() {
            bail!(
                "{}: energy: input `{}` takes samples of shape {:?}, but the card has shape {:?}",
                self.path.display(),
                network.input,
                network.shape,
                self.card.shape
            );
        }
        Ok(network)
    }
}
