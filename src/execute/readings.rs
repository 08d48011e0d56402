//! A short check of the cards by the data whose log-likelihoods are computed, before any of them.

use std::collections::BTreeSet;

use anyhow::Result;

use super::latent::encode_data;
use super::{ComputeOptions, Executor};
use crate::data::Dataset;
use crate::model::latent::LatentEncoding;
use crate::model::loaded::{Model, SessionOptions};
use crate::model::onnx::Runtime;
use crate::model::readings::{CheckEffort, MAX_CHECKED_SAMPLES, MIN_CHECKED_SAMPLES};
use crate::num::Batch;
use crate::num::key::{RngKey, SampleId};
use crate::plan::{Trial, TrialWork};

/// The smallest number of samples that a check uses if there are as many.
const MIN_SAMPLES: usize = 16;
/// A check uses one of this many samples, so that it costs about 1 % of a long run.
const SAMPLES_PER_CHECKED: usize = 32;
/// A check uses so many samples that they have this many components, since the errors of samples of
/// few dimensions scatter more.
const COMPONENTS: usize = 2048;
/// The most dimensions in which the log-determinants of a normalizing flow are checked before a run.
const MAX_VOLUME_DIM: usize = 64;
/// The number of samples at which they are.
const VOLUME_SAMPLES: usize = 4;

/// Returns the indices of at most `most` of `count` samples, at equal distances.
pub fn checked_samples(count: usize, most: usize) -> Vec<SampleId> {
    let most = most.min(count);
    (0..most).map(|i| (i * count / most) as SampleId).collect()
}

/// Returns the states of samples in the model's coordinates, encoded if the model is one of latents
/// and the data are not. The noise of the dequantization does not depend on the seed of a run, so
/// that a card is checked alike in all runs.
///
/// # Errors
/// Fails if the data cannot be encoded.
pub fn states_of_samples(
    model: &Model,
    data: &Dataset,
    samples: &[SampleId],
    place: (&Runtime, ComputeOptions),
) -> Result<Batch> {
    let key = RngKey { seed: 0 };
    if !model.encodes(data.values.len() / data.len().max(1)) {
        return Ok(data.states(&model.card, key, samples));
    }
    let encoded = encode_data(model, data, LatentEncoding::Mean, samples, key, place)?;
    let rows: Vec<SampleId> = (0..samples.len() as SampleId).collect();
    Ok(encoded.states(&model.card, key, &rows))
}

impl Executor<'_> {
    /// Compares each model of the likelihoods and of calibration among `trials` with its data, and
    /// prints a line on standard error for each card that disagrees, or that no reading makes sense
    /// of.
    ///
    /// A check that is not possible is left out: its reason is found by the trials themselves.
    pub fn warn_about_wrong_cards(&self, trials: &[&Trial]) {
        let mut pairs: BTreeSet<(usize, usize)> = BTreeSet::new();
        for trial in trials {
            match &trial.work {
                TrialWork::Likelihood(work) => pairs.insert((work.model, work.data)),
                TrialWork::Calibration(work) => pairs.insert((work.model, work.data)),
                _ => false,
            };
        }
        for (model, data) in pairs {
            let (model, data) = (&self.prepared.models[model], &self.prepared.data[data]);
            let found = match model.card.one_call {
                None => self.find_disagreement(model, data),
                Some(_) => self.find_wrong_volume(model, data),
            };
            if let Some(sentence) = found {
                let more = match model.card.one_call {
                    None => "`flowgauge inspect` with `--data` shows all readings, and ",
                    Some(_) => "",
                };
                errln!(
                    "flowgauge: {}: {sentence} on {}; {more}`--no-check` leaves this out",
                    model.path.display(),
                    data.name
                );
            }
        }
    }

    /// What is wrong with the log-determinants of a normalizing flow at a few samples.
    fn find_wrong_volume(&self, model: &Model, data: &Dataset) -> Option<String> {
        if model.dim() > MAX_VOLUME_DIM {
            return None;
        }
        let options = SessionOptions {
            provider: self.machine.provider,
            threads: self.machine.threads,
        };
        let samples = checked_samples(data.len(), VOLUME_SAMPLES);
        let states = data.states(&model.card, RngKey { seed: 0 }, &samples);
        match model.check_one_call_volume(self.runtime, options, &samples, &states) {
            Ok(check) => check
                .filter(|check| !check.agrees())
                .map(|check| check.sentence()),
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "a card was not checked");
                None
            }
        }
    }

    /// The verdict of a short check unless the card agrees with the data.
    fn find_disagreement(&self, model: &Model, data: &Dataset) -> Option<String> {
        let wanted = (data.len() / SAMPLES_PER_CHECKED)
            .max(COMPONENTS / model.dim())
            .clamp(MIN_SAMPLES, MAX_CHECKED_SAMPLES);
        let samples = checked_samples(data.len(), wanted);
        if samples.len() < MIN_CHECKED_SAMPLES {
            return None;
        }
        let options = SessionOptions {
            provider: self.machine.provider,
            threads: self.machine.threads,
        };
        let place = (self.runtime, self.machine);
        let states = match states_of_samples(model, data, &samples, place) {
            Ok(states) => states,
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "a card was not checked");
                return None;
            }
        };
        let report =
            model.check_readings(self.runtime, options, &samples, &states, CheckEffort::Short);
        match report {
            Ok(report) => (!report.agrees()).then(|| report.sentence()),
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "a card was not checked");
                None
            }
        }
    }
}
