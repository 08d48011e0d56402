//! The opened coder of a latent model: the networks that encode data into latents and decode latents.

use anyhow::{Context, Result, bail};
use ndarray::{ArrayD, Axis, IxDyn};

use super::call_rows::{self, CallRows, RowPlaces};
use super::latent::{EncoderKind, LatentEncoding};
use super::loaded::{Model, SessionOptions};
use super::onnx::{Runtime, Session};
use super::ports::find_port;
use crate::flow::field::EvalError;
use crate::num::Batch;
use crate::num::key::{Purpose, RngKey, SampleId};

/// A network of a latent model's coder, which takes one array and gives one.
struct CoderNetwork {
    /// The session of ONNX Runtime.
    session: Session,
    /// The name of the input.
    input: String,
    /// The name of the output.
    output: String,
    /// The shape of one sample at the input.
    from: Vec<usize>,
    /// The shape of one sample at the output.
    to: Vec<usize>,
    /// The only batch size that the graph takes, if there is only one.
    fixed_batch: Option<usize>,
}

/// The number of samples in one call of a coder, which has large tensors.
const CODER_BATCH: usize = 4;

impl CoderNetwork {
    /// Checks that the graph has the ports, with the shapes that the card declares.
    ///
    /// # Errors
    /// Fails if a port is missing or has another shape. The message names it.
    fn new(
        session: Session,
        (input, from): (&str, &[usize]),
        (output, to): (&str, &[usize]),
    ) -> Result<CoderNetwork> {
        let file = session.file.clone();
        let ports = [
            (
                find_port(&session.inputs, input, &file, "input")?,
                "input",
                from,
            ),
            (
                find_port(&session.outputs, output, &file, "output")?,
                "output",
                to,
            ),
        ];
        for (port, what, shape) in ports {
            let sizes = port.shape.get(1..).unwrap_or_default();
            let fits = sizes.len() == shape.len()
                && sizes
                    .iter()
                    .zip(shape)
                    .all(|(p, n)| *p < 0 || *p == *n as i64);
            if !(fits || what == "output" && port.shape.is_empty()) {
                bail!(
                    "{file}: {what} `{}` has shape {:?}, but the card's shapes need [N, {}]",
                    port.name,
                    port.shape,
                    shape
                        .iter()
                        .map(usize::to_string)
                        .collect::<Vec<_>>()
                        .join(", ")
                );
            }
        }
        if let Some(other) = session.inputs.iter().find(|port| port.name != input) {
            bail!(
                "{file}: input `{}` has no role in the card; expected only `{input}`",
                other.name
            );
        }
        let size = ports[0].0.shape.first().copied().filter(|n| *n > 0);
        Ok(CoderNetwork {
            input: input.to_owned(),
            output: output.to_owned(),
            from: from.to_vec(),
            to: to.to_vec(),
            fixed_batch: size.map(|n| n as usize),
            session,
        })
    }

    /// Returns the outputs for the inputs of some samples, rows × numbers.
    ///
    /// # Errors
    /// Fails if the network cannot be run, or if its output has another shape.
    fn call(&mut self, samples: &[SampleId], x: &Batch) -> Result<Batch, EvalError> {
        let batch = self.fixed_batch.unwrap_or(CODER_BATCH);
        let mut out = Batch::zeros((x.nrows(), self.to.iter().product()));
        for call in CallRows::in_batches(samples, batch, RowPlaces::BySample) {
            let shape = [&[batch], &self.from[..]].concat();
            let fed = x.select(Axis(0), &call.filled);
            let fed = fed.to_shape(IxDyn(&shape)).expect("numbers of one sample");
            let outputs = self
                .session
                .run(vec![(&self.input, fed.view())], &[&self.output])?;
            let y: ArrayD<f64> = outputs.into_iter().next().unwrap_or_default();
            let expected = [&[batch], &self.to[..]].concat();
            if y.shape() != expected {
                return Err(EvalError::Shape {
                    file: self.session.file.clone(),
                    output: self.output.clone(),
                    found: y.shape().to_vec(),
                    expected,
                });
            }
            let y = call_rows::rows_along(&y, Axis(0), &call.used);
            let y = y
                .into_shape_with_order((call.used.len(), out.ncols()))
                .expect("the shape was just compared");
            for (row, given) in y.rows().into_iter().zip(&call.given) {
                out.row_mut(*given).assign(&row);
            }
        }
        Ok(out)
    }
}

/// An opened encoder.
pub struct Encoder {
    network: CoderNetwork,
    kind: EncoderKind,
    scale: f64,
    shift: f64,
}

impl Encoder {
    /// Encodes the data of samples, rows × numbers, into states of the ODE, rows × dim. `samples` are
    /// their numbers, which give the noise and the rows of a call.
    ///
    /// # Errors
    /// Fails if the network cannot be run.
    pub fn encode(
        &mut self,
        samples: &[SampleId],
        data: &Batch,
        encoding: LatentEncoding,
        key: RngKey,
    ) -> Result<Batch, EvalError> {
        let moments = self.network.call(samples, data)?;
        let mut latents = match self.kind {
            EncoderKind::Mean => moments,
            EncoderKind::Moments => {
                let dim = moments.ncols() / 2;
                let mut latents = moments.slice(ndarray::s![.., ..dim]).to_owned();
                if encoding == LatentEncoding::Draw {
                    for (i, mut row) in latents.rows_mut().into_iter().enumerate() {
                        let noise = key.normal(Purpose::Encoding, samples[i], 0, dim);
                        let log_variance = moments.slice(ndarray::s![i, dim..]);
                        // Encoders of latent diffusion clamp the log-variance to this range.
                        let std = log_variance.mapv(|v| (0.5 * v.clamp(-30.0, 20.0)).exp());
                        row += &(noise * std);
                    }
                }
                latents
            }
        };
        latents.mapv_inplace(|v| self.scale * (v - self.shift));
        Ok(latents)
    }
}

/// An opened decoder.
pub struct Decoder {
    network: CoderNetwork,
    scale: f64,
    shift: f64,
}

impl Decoder {
    /// Decodes the states of samples, rows × dim, into data, rows × numbers. `samples` are their
    /// numbers, which give the rows of a call.
    ///
    /// # Errors
    /// Fails if the network cannot be run.
    pub fn decode(&mut self, samples: &[SampleId], states: &Batch) -> Result<Batch, EvalError> {
        let latents = states.mapv(|v| v / self.scale + self.shift);
        self.network.call(samples, &latents)
    }
}

impl Model {
    /// Opens the encoder of a latent model.
    ///
    /// # Errors
    /// Fails if the card has none, or if its shapes are not those of the card.
    pub fn encoder(&self, runtime: &Runtime, options: SessionOptions) -> Result<Encoder> {
        let Some((latent, encoder)) = self
            .card
            .latent
            .as_ref()
            .and_then(|latent| Some((latent, latent.encoder.as_ref()?)))
        else {
            bail!("{}: the card has no `latent.encoder`", self.path.display());
        };
        let mut output = self.card.shape.clone();
        if encoder.kind == EncoderKind::Moments {
            output[0] *= 2;
        }
        let network = CoderNetwork::new(
            self.coder_session("latent.encoder.file", runtime, options)?,
            (&encoder.input, &latent.shape),
            (&encoder.output, &output),
        );
        Ok(Encoder {
            network: network.with_context(|| format!("{}: latent.encoder", self.path.display()))?,
            kind: encoder.kind,
            scale: latent.scale,
            shift: latent.shift,
        })
    }

    /// Opens the decoder of a latent model; `None` if the card has none.
    ///
    /// # Errors
    /// Fails if its shapes are not those of the card.
    pub fn decoder(&self, runtime: &Runtime, options: SessionOptions) -> Result<Option<Decoder>> {
        let Some((latent, decoder)) = self
            .card
            .latent
            .as_ref()
            .and_then(|latent| Some((latent, latent.decoder.as_ref()?)))
        else {
            return Ok(None);
        };
        let network = CoderNetwork::new(
            self.coder_session("latent.decoder.file", runtime, options)?,
            (&decoder.input, &self.card.shape),
            (&decoder.output, &latent.shape),
        );
        Ok(Some(Decoder {
            network: network.with_context(|| format!("{}: latent.decoder", self.path.display()))?,
            scale: latent.scale,
            shift: latent.shift,
        }))
    }

    /// Opens a network of the coder.
    fn coder_session(
        &self,
        key: &str,
        runtime: &Runtime,
        options: SessionOptions,
    ) -> Result<Session> {
        let (name, bytes) = self.network_bytes(key)?;
        runtime.open(&name, &bytes, options.provider, options.threads)
    }
}
