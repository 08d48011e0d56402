//! The features that statistics compare: those of an extractor, or the numbers themselves.

use std::collections::btree_map::Entry;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use ndarray::Axis;

use super::Executor;
use crate::features::cache::{self, Provenance};
use crate::features::images::{ByteRounding, PixelCoding};
use crate::features::{ExtractedFeatures, Extractor, MICRO_BATCH};
use crate::host::user_cache_folder;
use crate::model::card::Card;
use crate::num::Batch;
use crate::num::key::SampleId;
use crate::plan::PlannedFile;

/// The features of reference data, kept in memory for the next trial.
pub(super) struct CachedFeatures {
    /// The position of the data in the plan.
    reference: usize,
    extractor: Option<PlannedFile>,
    bytes: ByteRounding,
    features: Arc<ExtractedFeatures>,
}

/// How features are made of samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct FeatureSetting<'a> {
    /// The extractor. `None` for the numbers themselves.
    pub extractor: Option<&'a PlannedFile>,
    /// How floats become bytes for the extractor.
    pub bytes: ByteRounding,
}

impl Executor<'_> {
    /// Calls `work` with an opened extractor. Its session stays open for later trials.
    ///
    /// # Errors
    /// Fails if the extractor cannot be opened or `work` fails.
    pub(super) fn with_extractor<T>(
        &self,
        file: &PlannedFile,
        work: impl FnOnce(&mut Extractor) -> Result<T>,
    ) -> Result<T> {
        let mut opened = self.extractors.lock().unwrap_or_else(|e| e.into_inner());
        let extractor = match opened.entry(file.sha256.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.open_extractor(file)?),
        };
        work(extractor)
    }

    /// Opens an extractor of the plan.
    ///
    /// # Errors
    /// Fails if the plan does not have the extractor, or if it cannot be opened.
    fn open_extractor(&self, file: &PlannedFile) -> Result<Extractor> {
        let known = self.prepared.extractors.iter().find(|(f, _)| f == file);
        let (_, path) = known.ok_or_else(|| anyhow!("no extractor {}", file.name))?;
        Extractor::open(
            path,
            self.runtime,
            self.machine.provider,
            self.machine.threads,
        )
    }

    /// The features of all samples of reference data. The most recent ones are kept in memory.
    ///
    /// # Errors
    /// Fails if the extractor cannot be opened or run.
    pub(super) fn reference_features(
        &self,
        model: usize,
        reference: usize,
        setting: FeatureSetting,
    ) -> Result<Arc<ExtractedFeatures>> {
        let mut last = self
            .cached_reference
            .lock()
            .unwrap_or_else(|e| e.into_inner());
        let same = |kept: &&CachedFeatures| {
            let known = FeatureSetting {
                extractor: kept.extractor.as_ref(),
                bytes: kept.bytes,
            };
            kept.reference == reference && known == setting
        };
        if let Some(kept) = last.as_ref().filter(same) {
            return Ok(kept.features.clone());
        }
        let features = Arc::new(self.data_features(model, reference, setting)?);
        *last = Some(CachedFeatures {
            reference,
            extractor: setting.extractor.cloned(),
            bytes: setting.bytes,
            features: features.clone(),
        });
        Ok(features)
    }

    /// The features of generated samples, which come in parts of rows × dim. Without an extractor,
    /// they are the numbers themselves. With one, only a part and the features are in memory.
    ///
    /// # Errors
    /// Fails with the first error of a part, if parts differ in the number of columns, or if the
    /// extractor cannot be opened or run.
    pub(super) fn features_of_parts(
        &self,
        model: usize,
        parts: impl Iterator<Item = Result<Batch>>,
        setting: FeatureSetting,
    ) -> Result<ExtractedFeatures> {
        let Some(file) = setting.extractor else {
            let parts: Vec<Batch> = parts.collect::<Result<_>>()?;
            let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
            let rows = ndarray::concatenate(Axis(0), &views)?;
            return Ok(ExtractedFeatures::from_rows(rows));
        };
        let card = &self.prepared.models[model].data_card;
        let coding = card
            .data
            .map(|d| PixelCoding::of_range(d.range, setting.bytes));
        self.with_extractor(file, |extractor| {
            let shape = extractor_input_shape(extractor, card);
            extractor.extract_parts(parts, &shape, coding)
        })
    }

    /// Checks that data can be fed to an extractor, on the first batch and without running it.
    ///
    /// # Errors
    /// Fails if the shape or the range of the data does not fit the extractor. The message names
    /// the data file.
    pub(super) fn check_extractor_input(
        &self,
        model: usize,
        data: usize,
        extractor: &Extractor,
    ) -> Result<()> {
        let (card, data) = (
            &self.prepared.models[model].data_card,
            &self.prepared.data[data],
        );
        let some = data.states(
            card,
            self.key(),
            &Executor::sample_ids(0, data.len().min(MICRO_BATCH)),
        );
        let coding = card.data.map(|d| PixelCoding::Range(d.range));
        extractor
            .check(some.view(), &extractor_input_shape(extractor, card), coding)
            .with_context(|| data.name.clone())
    }

    /// The features of data. Without an extractor, they are the data as states of the model, with
    /// integers dequantized. The features of an extractor are cached on disk for later runs.
    ///
    /// An extractor that takes bytes gets integer data unchanged. After dequantization and
    /// rounding, half of the bytes would differ.
    ///
    /// # Errors
    /// Fails if the extractor cannot be opened or run.
    pub(super) fn data_features(
        &self,
        model: usize,
        data: usize,
        setting: FeatureSetting,
    ) -> Result<ExtractedFeatures> {
        let (card, data) = (
            &self.prepared.models[model].data_card,
            &self.prepared.data[data],
        );
        let all = Executor::sample_ids(0, data.len());
        let states = |samples: &[SampleId]| data.states(card, self.key(), samples);
        let Some(file) = setting.extractor else {
            return Ok(ExtractedFeatures::from_rows(states(&all)));
        };
        self.with_extractor(file, |extractor| {
            let exact = match card.data.and_then(|d| d.levels) {
                Some(levels) if extractor.takes_bytes() && data.is_quantized(card) => {
                    Some(PixelCoding::Levels(levels))
                }
                _ => None,
            };
            let range = card
                .data
                .map(|d| PixelCoding::of_range(d.range, setting.bytes));
            let shape = extractor_input_shape(extractor, card);
            let coding = match exact {
                None if data.is_quantized(card) => {
                    let seed = self.prepared.plan.seed;
                    format!(
                        "{}, {}, seed {seed}",
                        extractor.coding_name(range),
                        data.describe_treatment(card)
                    )
                }
                _ => extractor.coding_name(exact.or(range)),
            };
            let provenance = Provenance {
                version: Provenance::VERSION,
                data_sha256: data.sha256.clone(),
                shape: data.values.shape().to_vec(),
                coding: data
                    .layout
                    .as_ref()
                    .map_or(coding.clone(), |layout| format!("{coding}, axes {layout}")),
                extractor_sha256: extractor.sha256.clone(),
                preset: extractor.preset.clone(),
                machine: Provenance::describe_machine(
                    &self.runtime.library.version,
                    self.machine.provider,
                ),
            };
            let extract = || {
                let parts = all.chunks(MICRO_BATCH);
                match exact {
                    Some(_) => {
                        extractor.extract_parts(parts.map(|p| Ok(data.rows(p))), &shape, exact)
                    }
                    None => extractor.extract_parts(parts.map(|p| Ok(states(p))), &shape, range),
                }
            };
            cache::cached_or_computed(
                user_cache_folder().ok().as_deref(),
                || provenance,
                &data.name,
                extract,
            )
        })
    }
}

/// The shape in which samples are fed to an extractor: the card's shape, or flat if the extractor's
/// input has one axis per sample. Flattening keeps the order of the numbers.
fn extractor_input_shape(extractor: &Extractor, card: &Card) -> Vec<usize> {
    match extractor.sample_shape() {
        Some([_]) => vec![card.dim()],
        _ => card.shape.clone(),
    }
}
