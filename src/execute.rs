//! One trial to its rows: each kind of work has a file, all share pools of workers.

mod auto_steps;
mod contrast;
mod features;
mod maps;
mod parallel_field;
mod paths;
mod pool;
mod row_timing;
mod samples;
mod stein;

pub use auto_steps::choose_steps;
pub use maps::FlowMapIdentity;
pub use pool::{ComputeOptions, TimedSamples, WorkerPool, WorkerSpec};

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;

use crate::divergence::{DivergenceEstimator, Learned};
use crate::features::{ExtractedFeatures, Extractor};
use crate::metric::feature_set::FeatureSet;
use crate::model::onnx::Runtime;
use crate::num::Batch;
use crate::num::key::{RngKey, SampleId};
use crate::plan::{PlannedFile, PreparedPlan, SecondsPerRow, Trial, TrialWork};
use crate::progress::Meter;
use crate::sample::Sampler;

/// What a finished trial leaves.
pub struct TrialOutput {
    /// The row file's bytes and how many rows it holds.
    pub csv: Vec<u8>,
    pub rows: usize,
    /// The array file's bytes.
    pub array: Option<Vec<u8>>,
    /// The bytes of the log of a sampler's steps.
    pub steps: Option<Vec<u8>>,
}

/// Everything that trials are executed with.
pub struct Executor<'a> {
    pub prepared: &'a PreparedPlan,
    pub runtime: &'a Runtime,
    pub machine: ComputeOptions,
    /// Counts the rows of the trial that is at work.
    pub meter: Arc<Meter>,
    pools: Vec<WorkerPool<'a>>,
    /// The reference features that were asked for last: trials of one entry share theirs.
    cached_reference: Mutex<Option<features::CachedFeatures>>,
}

impl<'a> Executor<'a> {
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
            prepared,
            runtime,
            machine,
            meter,
            pools,
            cached_reference: Mutex::default(),
        }
    }

    /// Opens and calls once whatever the plan's trials need.
    ///
    /// # Errors
    /// Where a model or an extractor is at fault.
    pub fn dry_run(&self) -> Result<()> {
        let plan = &self.prepared.plan;
        for (index, pool) in self.pools.iter().enumerate() {
            let (needed, samplers) = self.estimators_and_samplers(index);
            for trial in plan.trials.iter().filter(|t| t.work.model_index() == index) {
                if let TrialWork::Maps(w) = &trial.work {
                    pool.dry_run_maps(w)?;
                }
            }
            let needs = WorkerSpec {
                estimators: &needed,
                samplers: &samplers,
            };
            pool.dry_run(
                needs,
                self.largest_trial_samples(index),
                &Batch::zeros((1, pool.model.dim())),
            )
            .with_context(|| pool.model.path.display().to_string())?;
        }
        for trial in &plan.trials {
            let TrialWork::Metrics {
                model,
                extractor,
                metrics,
                ..
            } = &trial.work
            else {
                continue;
            };
            let opened = extractor
                .as_ref()
                .map(|file| self.open_extractor(file))
                .transpose()?;
            if let Some(extractor) = &opened {
                trial
                    .work
                    .data_indices()
                    .into_iter()
                    .try_for_each(|data| self.check_extractor_input(*model, data, extractor))?;
            }
            let classifies = opened.is_some_and(|e| e.classifies());
            if let Some(metric) = metrics.iter().find(|m| m.needs_logits() && !classifies) {
                bail!(
                    "metrics: {} needs an extractor with class logits",
                    metric.name()
                );
            }
        }
        Ok(())
    }

    /// Samples of the plan's largest trial of a model.
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

    /// Estimators and samplers that the plan's trials ask a model for.
    fn estimators_and_samplers(&self, model: usize) -> (Vec<DivergenceEstimator>, Vec<Sampler>) {
        let (mut needed, mut samplers) = (Vec::new(), Vec::new());
        for trial in self
            .prepared
            .plan
            .trials
            .iter()
            .filter(|t| t.work.model_index() == model)
        {
            match &trial.work {
                TrialWork::Likelihood(w) | TrialWork::Profile(w) | TrialWork::Budget(w) => {
                    needed.extend(w.estimators.iter().cloned())
                }
                TrialWork::Density { estimator, .. } => needed.push(estimator.clone()),
                TrialWork::Sample { sampler, .. } => samplers.push(sampler.clone()),
                TrialWork::Stein { stein, .. } => needed.push(learned_divergence(&stein.head)),
                TrialWork::Maps(_) | TrialWork::Contrast(_) | TrialWork::Metrics { .. } => {}
            }
        }
        (needed, samplers)
    }

    /// What a row takes in one thread, for each model, by a few calls of its networks.
    ///
    /// # Errors
    /// Where a model is at fault.
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

    fn key(&self) -> RngKey {
        RngKey {
            seed: self.prepared.plan.seed,
        }
    }

    /// Carries out one trial; `array` reads the array of an earlier one.
    ///
    /// # Errors
    /// Where the model cannot be evaluated or a statistic cannot be computed.
    pub fn execute(
        &self,
        trial: &Trial,
        array: &dyn Fn(&str) -> Result<Vec<u8>>,
    ) -> Result<TrialOutput> {
        self.meter.restart();
        let samples: Vec<SampleId> = trial.work.sample_range().unwrap_or_default().collect();
        self.execute_subset(trial, &samples, array)
    }

    /// The rows of some of a trial's samples, the same digits as in the whole; all of it where its rows are no
    /// sample's own. Of a sampler with a population the samples are whole populations.
    ///
    /// # Errors
    /// As [`Executor::execute`].
    pub fn execute_subset(
        &self,
        trial: &Trial,
        samples: &[SampleId],
        array: &dyn Fn(&str) -> Result<Vec<u8>>,
    ) -> Result<TrialOutput> {
        match &trial.work {
            TrialWork::Likelihood(w) => self.execute_likelihood(&trial.id, w, samples),
            TrialWork::Profile(w) => self.execute_profile(w, samples),
            TrialWork::Budget(w) => self.execute_budget(w, samples),
            TrialWork::Maps(w) => self.execute_maps(w),
            TrialWork::Contrast(w) => self.execute_contrast(w, array),
            TrialWork::Density { .. } => self.execute_density(&trial.work, samples),
            TrialWork::Stein { model, data, stein } => self.execute_stein(*model, *data, stein),
            TrialWork::Sample { .. } => self.execute_sample(&trial.id, &trial.work, samples),
            TrialWork::Metrics { .. } => self.execute_metrics(&trial.work, array),
        }
    }

    fn sample_ids(first: usize, count: usize) -> Vec<SampleId> {
        (first as u64..(first + count) as u64).collect()
    }

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
}

fn learned_divergence(head: &str) -> DivergenceEstimator {
    DivergenceEstimator::Learned(Learned {
        head: head.to_owned(),
    })
}

fn metric_sample(extracted: &ExtractedFeatures) -> Result<FeatureSet<'_>, String> {
    Ok(FeatureSet::new(&extracted.features)?
        .with_logits(extracted.logits.as_ref().map(|l| l.view())))
}

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
