//! Execution of one trial, which gives its rows. Each kind of work has a file of its own, and all
//! kinds share one pool of workers per model.

mod auto_steps;
mod bound_profile;
mod budget;
mod calibration;
mod contrast;
mod density;
mod features;
mod latent;
mod likelihood;
mod maps;
mod mass;
mod metrics;
mod parallel_field;
mod paths;
mod pool;
mod profile;
mod readings;
mod reweight;
mod row_timing;
mod sample;
mod sample_density;
mod stein;
mod time_estimate;

pub use auto_steps::choose_steps;
pub use maps::FlowMapIdentity;
pub use pool::{ComputeOptions, WorkerPool, WorkerSpec};
pub use readings::{checked_samples, states_of_samples};
pub use time_estimate::{TimeEstimate, WorkEstimate};

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;

use crate::calibration::LocalClassifiers;
use crate::data::decode_npy_f32;
use crate::divergence::DivergenceEstimator;
use crate::features::{ExtractedFeatures, Extractor};
use crate::metric::feature_set::FeatureSet;
use crate::model::coder::Decoder;
use crate::model::onnx::Runtime;
use crate::num::Batch;
use crate::num::key::{RngKey, SampleId};
use crate::plan::{PreparedPlan, SecondsPerRow, Trial, with_work_kind};
use crate::progress::Meter;
use crate::sample::{ReplayedNoise, Sampler};

/// The results of a trial, as the contents of its files.
pub struct TrialOutput {
    /// The bytes of the row file.
    pub csv: Vec<u8>,
    /// The number of rows in the row file.
    pub rows: usize,
    /// The bytes of the array file, if the work has one.
    pub array: Option<Vec<u8>>,
    /// The bytes of the log of a sampler's steps, if the work has one.
    pub steps: Option<Vec<u8>>,
}

/// A trial, or a part of it, that is to be executed.
struct TrialTask<'a> {
    /// The trial's id.
    id: &'a str,
    /// The samples to compute. Empty if the rows are statistics.
    samples: &'a [SampleId],
    /// Reads the array file of another trial by its id.
    array: &'a dyn Fn(&str) -> Result<Vec<u8>>,
}

impl TrialTask<'_> {
    /// The samples of earlier trials, trial by trial, rows × dim each. Only one array is in memory
    /// while they are walked through. An item is an error if an array file cannot be read.
    fn sample_parts<'b>(
        &'b self,
        trials: &'b [String],
    ) -> impl Iterator<Item = Result<Batch>> + 'b {
        trials.iter().map(|id| decode_npy_f32(&(self.array)(id)?))
    }
}

/// The execution of one kind of work.
trait ExecuteWork {
    /// Opens and calls once everything that the workers of the model do not open, such as
    /// extractors.
    ///
    /// # Errors
    /// Fails if a file cannot be used for this work.
    fn dry_run(&self, _executor: &Executor) -> Result<()> {
        Ok(())
    }

    /// Computes the rows of the task's samples, or all rows if they are statistics.
    ///
    /// # Errors
    /// Fails if a model cannot be evaluated or a statistic cannot be computed.
    fn execute(&self, executor: &Executor, task: &TrialTask) -> Result<TrialOutput>;
}

/// Everything that is needed to execute the trials of a plan.
pub struct Executor<'a> {
    pub prepared: &'a PreparedPlan,
    pub runtime: &'a Runtime,
    pub machine: ComputeOptions,
    /// Counts the finished rows of the current trial.
    pub meter: Arc<Meter>,
    /// Noise for the random steps of samplers, in the place of noise from the seed. `None` as a rule.
    pub step_noise: Option<ReplayedNoise>,
    pools: Vec<WorkerPool<'a>>,
    /// The data as states of latent models.
    encoded: latent::EncodedData,
    /// The classifiers of entries of `calibration`, by the entry.
    classifiers: Mutex<BTreeMap<String, Arc<LocalClassifiers>>>,
    /// The opened decoders of latent models by the model's position; `None` if a card has none.
    decoders: Mutex<BTreeMap<usize, Option<Decoder>>>,
    /// The most recent reference features, because the trials of an entry share them.
    cached_reference: Mutex<Option<features::CachedFeatures>>,
    /// The opened extractors by their SHA-256.
    extractors: Mutex<BTreeMap<String, Extractor>>,
}

impl<'a> Executor<'a> {
    /// Makes an executor with one pool of workers per model. No session is opened yet.
    pub fn new(
        prepared: &'a PreparedPlan,
        runtime: &'a Runtime,
        machine: ComputeOptions,
    ) -> Executor<'a> {
        let meter: Arc<Meter> = Arc::default();
        let pools = prepared
            .models
            .iter()
            .map(|m| WorkerPool::new(m, runtime, machine).with_meter(meter.clone()))
            .collect();
        Executor {
            step_noise: None,
            prepared,
            runtime,
            machine,
            meter,
            pools,
            encoded: prepared.data.iter().map(|_| Default::default()).collect(),
            classifiers: Mutex::default(),
            decoders: Mutex::default(),
            cached_reference: Mutex::default(),
            extractors: Mutex::default(),
        }
    }

    /// Opens whatever the plan's trials need and calls it once, so that a file at fault is found
    /// before the run begins.
    ///
    /// # Errors
    /// Fails if a model or an extractor cannot be used.
    pub fn dry_run(&self) -> Result<()> {
        for (index, pool) in self.pools.iter().enumerate() {
            let (estimators, samplers) = self.estimators_and_samplers(index);
            let spec = WorkerSpec {
                estimators: &estimators,
                samplers: &samplers,
            };
            let states = Batch::zeros((1, pool.model.dim()));
            pool.dry_run(spec, self.largest_trial_samples(index), &states)
                .with_context(|| pool.model.path.display().to_string())?;
        }
        for trial in &self.prepared.plan.trials {
            with_work_kind!(&trial.work, work => work.dry_run(self))?;
        }
        self.dry_run_coders()?;
        Ok(())
    }

    /// The number of samples in the model's largest trial, 1 if no trial has samples.
    fn largest_trial_samples(&self, model: usize) -> usize {
        let trials = self
            .prepared
            .plan
            .trials
            .iter()
            .filter(|t| t.work.model_index() == model);
        trials
            .filter_map(|t| t.work.sample_range())
            .map(|s| (s.end - s.start) as usize)
            .max()
            .unwrap_or(1)
    }

    /// All estimators and samplers that the plan's trials use with a model.
    fn estimators_and_samplers(&self, model: usize) -> (Vec<DivergenceEstimator>, Vec<Sampler>) {
        let trials = &self.prepared.plan.trials;
        let works = || {
            trials
                .iter()
                .map(|t| &t.work)
                .filter(|w| w.model_index() == model)
        };
        (
            without_repeats(works().flat_map(|work| work.estimators())),
            without_repeats(works().flat_map(|work| work.samplers())),
        )
    }

    /// Measures the seconds per row in one thread for each model, by a few calls of its networks.
    ///
    /// # Errors
    /// Fails if a network cannot be opened or called.
    pub fn measure_seconds_per_row(&self) -> Result<Vec<SecondsPerRow>> {
        let pace = |(index, pool): (usize, &WorkerPool)| {
            let (needed, samplers) = self.estimators_and_samplers(index);
            pool.measure_seconds_per_row(
                WorkerSpec {
                    estimators: &needed,
                    samplers: &samplers,
                },
                self.largest_trial_samples(index),
            )
        };
        self.pools.iter().enumerate().map(pace).collect()
    }

    /// The key of all random draws of the run.
    fn key(&self) -> RngKey {
        RngKey {
            seed: self.prepared.plan.seed,
        }
    }

    /// Executes one trial. `array` reads the array file of an earlier trial by its id.
    ///
    /// # Errors
    /// Fails if a model cannot be evaluated or a statistic cannot be computed.
    pub fn execute(
        &self,
        trial: &Trial,
        array: &dyn Fn(&str) -> Result<Vec<u8>>,
    ) -> Result<TrialOutput> {
        self.meter.restart();
        self.release_other_variants(trial.work.model_index());
        let samples: Vec<SampleId> = trial.work.sample_range().unwrap_or_default().collect();
        self.execute_subset(trial, &samples, array)
    }

    /// Closes the idle sessions of other variants of a model: those of a guidance or of conditions
    /// whose trials are over or still to come.
    fn release_other_variants(&self, model: usize) {
        let models = &self.prepared.models;
        for (index, pool) in self.pools.iter().enumerate() {
            let same_card = models.get(model).map(|m| &m.path) == Some(&pool.model.path);
            if index != model && same_card {
                pool.close_idle_workers();
            }
        }
    }

    /// Computes the rows of some samples of a trial: the same digits as in the whole trial. A
    /// sampler with populations needs whole populations. If the rows are statistics, all of them
    /// are computed.
    ///
    /// # Errors
    /// Fails if a model cannot be evaluated or a statistic cannot be computed.
    pub fn execute_subset(
        &self,
        trial: &Trial,
        samples: &[SampleId],
        array: &dyn Fn(&str) -> Result<Vec<u8>>,
    ) -> Result<TrialOutput> {
        let task = TrialTask {
            id: &trial.id,
            samples,
            array,
        };
        with_work_kind!(&trial.work, work => work.execute(self, &task))
    }

    /// The indices of the samples `first` to `first + count`.
    fn sample_ids(first: usize, count: usize) -> Vec<SampleId> {
        (first as u64..(first + count) as u64).collect()
    }
}

/// The items without those that are there already. A plan has few kinds of work and many trials.
fn without_repeats<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for item in items {
        if !found.contains(&item) {
            found.push(item);
        }
    }
    found
}

/// Extracted features as a set for statistics, with the logits if there are any.
///
/// # Errors
/// Fails if a feature is not finite, or too large or too small in magnitude.
fn metric_sample(extracted: &ExtractedFeatures) -> Result<FeatureSet<'_>, String> {
    Ok(FeatureSet::new(&extracted.features)?
        .with_logits(extracted.logits.as_ref().map(|l| l.view())))
}

/// Writes rows as CSV, which are the whole output of a trial.
fn write_rows<T: Serialize>(rows: impl Iterator<Item = T>) -> Result<TrialOutput> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut count = 0;
    for row in rows {
        writer.serialize(row)?;
        count += 1;
    }
    let csv = writer.into_inner().map_err(|e| anyhow!("{}", e.error()))?;
    Ok(TrialOutput {
        csv,
        rows: count,
        array: None,
        steps: None,
    })
}
