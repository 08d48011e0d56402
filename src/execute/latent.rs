//! Data encoded into the states of a latent model, and states decoded into data.

use std::collections::btree_map::Entry;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use ndarray::{Axis, IxDyn};

use super::Executor;
use super::pool::ComputeOptions;
use crate::data::{Dataset, NumberKind};
use crate::model::latent::LatentEncoding;
use crate::model::loaded::{Model, SessionOptions};
use crate::model::onnx::Runtime;
use crate::num::Batch;
use crate::num::key::{RngKey, SampleId};
use crate::plan::TrialWork;

/// The datasets of a plan as states of their models, encoded when they are first needed.
pub(super) type EncodedData = Vec<OnceLock<Result<Dataset, String>>>;

/// The number of samples that are encoded at a time, so that few decoded images are in memory.
const ENCODED_AT_A_TIME: usize = 64;

/// Some samples of data as states of a latent model, in the order of `samples`.
///
/// # Errors
/// Fails if the encoder cannot be opened or run.
pub(super) fn encode_data(
    model: &Model,
    data: &Dataset,
    encoding: LatentEncoding,
    samples: &[SampleId],
    key: RngKey,
    (runtime, machine): (&Runtime, ComputeOptions),
) -> Result<Dataset> {
    let options = SessionOptions {
        provider: machine.provider,
        threads: machine.threads,
    };
    let mut encoder = model.encoder(runtime, options)?;
    let mut states = Batch::zeros((samples.len(), model.dim()));
    for (samples, mut states) in samples
        .chunks(ENCODED_AT_A_TIME)
        .zip(states.axis_chunks_iter_mut(Axis(0), ENCODED_AT_A_TIME))
    {
        let images = data.scaled_rows(&model.data_card, samples);
        let encoded = encoder
            .encode(samples, &images, encoding, key)
            .with_context(|| format!("{}: latent.encoder", model.path.display()))?;
        states.assign(&encoded);
    }
    let shape = [&[samples.len()], &model.card.shape[..]].concat();
    let values = states
        .into_shape_with_order(IxDyn(&shape))
        .expect("dim numbers per row");
    Ok(Dataset::new(
        data.name.clone(),
        data.sha256.clone(),
        values,
        NumberKind::Floats,
    ))
}

impl Executor<'_> {
    /// The data at `index` as states of their model: encoded if the plan says so.
    ///
    /// # Errors
    /// Fails if the encoder cannot be opened or run.
    pub(super) fn state_data(&self, index: usize) -> Result<&Dataset> {
        let (planned, data) = (&self.prepared.plan.data[index], &self.prepared.data[index]);
        let Some(encoding) = planned.encode else {
            return Ok(data);
        };
        let encoded = self.encoded[index].get_or_init(|| {
            encode_data(
                &self.prepared.models[planned.model],
                data,
                encoding,
                &Executor::sample_ids(0, data.len()),
                self.key(),
                (self.runtime, self.machine),
            )
            .map_err(|error| format!("{error:#}"))
        });
        encoded.as_ref().map_err(|error| anyhow!("{error}"))
    }

    /// Opens the coders that the plan needs and calls each once.
    ///
    /// # Errors
    /// Fails if a coder cannot be opened or called.
    pub(super) fn dry_run_coders(&self) -> Result<()> {
        let plan = &self.prepared.plan;
        for (planned, data) in plan.data.iter().zip(&self.prepared.data) {
            if let Some(encoding) = planned.encode {
                let model = &self.prepared.models[planned.model];
                let place = (self.runtime, self.machine);
                let first = Executor::sample_ids(0, data.len().min(1));
                encode_data(model, data, encoding, &first, self.key(), place)?;
            }
        }
        for (index, model) in self.prepared.models.iter().enumerate() {
            let draws = |work: &TrialWork| {
                work.model_index() == index && matches!(work, TrialWork::Sample(_))
            };
            if plan.trials.iter().any(|trial| draws(&trial.work)) {
                self.decode(index, &[0], Batch::zeros((1, model.dim())))?;
            }
        }
        Ok(())
    }

    /// Decodes the states of a model's samples into data, if the model is one of latents with a decoder.
    ///
    /// # Errors
    /// Fails if the decoder cannot be opened or run.
    pub fn decode(&self, index: usize, samples: &[SampleId], states: Batch) -> Result<Batch> {
        let model = &self.prepared.models[index];
        let options = SessionOptions {
            provider: self.machine.provider,
            threads: self.machine.threads,
        };
        let mut decoders = self.decoders.lock().unwrap_or_else(|e| e.into_inner());
        if let Entry::Vacant(entry) = decoders.entry(index) {
            entry.insert(model.decoder(self.runtime, options)?);
        }
        let Some(Some(decoder)) = decoders.get_mut(&index) else {
            return Ok(states);
        };
        let mut decoded = Batch::zeros((states.nrows(), model.data_card.dim()));
        for ((samples, states), mut decoded) in samples
            .chunks(ENCODED_AT_A_TIME)
            .zip(states.axis_chunks_iter(Axis(0), ENCODED_AT_A_TIME))
            .zip(decoded.axis_chunks_iter_mut(Axis(0), ENCODED_AT_A_TIME))
        {
            let part = decoder
                .decode(samples, &states.to_owned())
                .with_context(|| format!("{}: latent.decoder", model.path.display()))?;
            decoded.assign(&part);
        }
        Ok(decoded)
    }
}
