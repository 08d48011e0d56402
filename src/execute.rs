//! One trial to its rows: each kind of work has a file, all share pools of workers.

mod contrast;
mod crew;
mod features;
mod maps;
mod pace;
mod paths;
mod pool;
mod samples;
mod stein;
mod steps;

pub use maps::Identity;
pub use pool::{Machine, Needs, Pool, Sampled};
pub use steps::choose as choose_steps;

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;

use crate::divergence::{Divergence, Learned};
use crate::features::{Extracted, Extractor};
use crate::metric::sample::Sample;
use crate::model::onnx::Runtime;
use crate::num::Batch;
use crate::num::key::{Key, SampleId};
use crate::plan::{Pace, PlannedFile, Prepared, Trial, Work};
use crate::progress::Meter;
use crate::sample::Sampler;

/// What a finished trial leaves.
pub struct Output {
    /// The row file's bytes and how many rows it holds.
    pub csv: Vec<u8>,
    pub rows: usize,
    /// The array file's bytes.
    pub array: Option<Vec<u8>>,
    /// The bytes of the log of a sampler's steps.
    pub steps: Option<Vec<u8>>,
}

/// Everything that trials are executed with.
pub struct Stage<'a> {
    pub prepared: &'a Prepared,
    pub runtime: &'a Runtime,
    pub machine: Machine,
    /// Counts the rows of the trial that is at work.
    pub meter: Arc<Meter>,
    pools: Vec<Pool<'a>>,
    /// The reference features that were asked for last: trials of one entry share theirs.
    real: Mutex<Option<features::Kept>>,
}

impl<'a> Stage<'a> {
    pub fn new(prepared: &'a Prepared, runtime: &'a Runtime, machine: Machine) -> Stage<'a> {
        let meter: Arc<Meter> = Arc::default();
        let pools = prepared
            .models
            .iter()
            .map(|m| Pool::new(m, runtime, machine).metered(meter.clone()))
            .collect();
        Stage {
            prepared,
            runtime,
            machine,
            meter,
            pools,
            real: Mutex::default(),
        }
    }

    /// Opens and calls once whatever the plan's trials need.
    ///
    /// # Errors
    /// Where a model or an extractor is at fault.
    pub fn rehearse(&self) -> Result<()> {
        let plan = &self.prepared.plan;
        for (index, pool) in self.pools.iter().enumerate() {
            let (needed, samplers) = self.needs(index);
            for trial in plan.trials.iter().filter(|t| t.work.model() == index) {
                if let Work::Maps(w) = &trial.work {
                    pool.rehearse_maps(w)?;
                }
            }
            let needs = Needs {
                estimators: &needed,
                samplers: &samplers,
            };
            pool.rehearse(
                needs,
                self.most_samples(index),
                &Batch::zeros((1, pool.model.dim())),
            )
            .with_context(|| pool.model.path.display().to_string())?;
        }
        for trial in &plan.trials {
            let Work::Metrics {
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
                .map(|file| self.extractor(file))
                .transpose()?;
            if let Some(extractor) = &opened {
                trial
                    .work
                    .data()
                    .into_iter()
                    .try_for_each(|data| self.check_features(*model, data, extractor))?;
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
    fn most_samples(&self, model: usize) -> usize {
        let trials = self
            .prepared
            .plan
            .trials
            .iter()
            .filter(|t| t.work.model() == model);
        trials
            .filter_map(|t| t.work.samples())
            .map(|s| (s.end - s.start) as usize)
            .max()
            .unwrap_or(1)
    }

    /// Estimators and samplers that the plan's trials ask a model for.
    fn needs(&self, model: usize) -> (Vec<Divergence>, Vec<Sampler>) {
        let (mut needed, mut samplers) = (Vec::new(), Vec::new());
        for trial in self
            .prepared
            .plan
            .trials
            .iter()
            .filter(|t| t.work.model() == model)
        {
            match &trial.work {
                Work::Likelihood(w) | Work::Profile(w) | Work::Budget(w) => {
                    needed.extend(w.estimators.iter().cloned())
                }
                Work::Density { estimator, .. } => needed.push(estimator.clone()),
                Work::Sample { sampler, .. } => samplers.push(sampler.clone()),
                Work::Stein { stein, .. } => needed.push(learned(&stein.head)),
                Work::Maps(_) | Work::Contrast(_) | Work::Metrics { .. } => {}
            }
        }
        (needed, samplers)
    }

    /// What a row takes in one thread, for each model, by a few calls of its networks.
    ///
    /// # Errors
    /// Where a model is at fault.
    pub fn paces(&self) -> Result<Vec<Pace>> {
        let pace = |(index, pool): (usize, &Pool)| {
            let (needed, samplers) = self.needs(index);
            pool.pace(
                Needs {
                    estimators: &needed,
                    samplers: &samplers,
                },
                self.most_samples(index),
            )
        };
        self.pools.iter().enumerate().map(pace).collect()
    }

    fn key(&self) -> Key {
        Key {
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
    ) -> Result<Output> {
        self.meter.restart();
        let samples: Vec<SampleId> = trial.work.samples().unwrap_or_default().collect();
        self.again(trial, &samples, array)
    }

    /// The rows of some of a trial's samples, the same digits as in the whole; all of it where its rows are no
    /// sample's own. Of a sampler with a population the samples are whole populations.
    ///
    /// # Errors
    /// As [`Stage::execute`].
    pub fn again(
        &self,
        trial: &Trial,
        samples: &[SampleId],
        array: &dyn Fn(&str) -> Result<Vec<u8>>,
    ) -> Result<Output> {
        match &trial.work {
            Work::Likelihood(w) => self.likelihood(&trial.id, w, samples),
            Work::Profile(w) => self.profile(w, samples),
            Work::Budget(w) => self.budget(w, samples),
            Work::Maps(w) => self.maps(w),
            Work::Contrast(w) => self.contrast(w, array),
            Work::Density { .. } => self.density(&trial.work, samples),
            Work::Stein { model, data, stein } => self.stein(*model, *data, stein),
            Work::Sample { .. } => self.sample(&trial.id, &trial.work, samples),
            Work::Metrics { .. } => self.metrics(&trial.work, array),
        }
    }

    fn ranged(first: usize, count: usize) -> Vec<SampleId> {
        (first as u64..(first + count) as u64).collect()
    }

    fn extractor(&self, file: &PlannedFile) -> Result<Extractor> {
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

fn learned(head: &str) -> Divergence {
    Divergence::Learned(Learned {
        head: head.to_owned(),
    })
}

fn sample_of(extracted: &Extracted) -> Result<Sample<'_>, String> {
    Ok(Sample::new(&extracted.features)?.with_logits(extracted.logits.as_ref().map(|l| l.view())))
}

fn write_rows<T: Serialize>(rows: impl Iterator<Item = T>) -> Result<Output> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut count = 0;
    for row in rows {
        writer.serialize(row)?;
        count += 1;
    }
    let csv = writer.into_inner().map_err(|e| anyhow!("{}", e.error()))?;
    Ok(Output {
        csv,
        rows: count,
        array: None,
        steps: None,
    })
}
