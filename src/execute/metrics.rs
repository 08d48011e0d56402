//! Statistics of samples against reference data, as rows.

use anyhow::{Result, anyhow, bail};
use ndarray::Axis;

use super::features::FeatureSetting;
use super::{ExecuteWork, Executor, TrialOutput, TrialTask, metric_sample, write_rows};
use crate::data::encode_npy_f32;
use crate::features::ExtractedFeatures;
use crate::metric::measured::{FloorSamples, MeasuredStatistic, measure_with_notes};
use crate::metric::{Metric, SampleSets};
use crate::num::Batch;
use crate::plan::{MetricsWork, WorkKind, features_name};
use crate::registry::prefix_with_name;
use crate::rows::MetricRow;
use crate::sample::{Sampler, SamplerContext};

/// The number of reference samples that a trial keeps for the report's galleries.
const MAX_STORED_REFERENCE_SAMPLES: usize = 512;

impl ExecuteWork for MetricsWork {
    fn dry_run(&self, executor: &Executor) -> Result<()> {
        let has_logits = match &self.extractor {
            None => false,
            Some(file) => executor.with_extractor(file, |extractor| {
                for data in self.data_indices() {
                    executor.check_extractor_input(self.model, data, extractor)?;
                }
                Ok(extractor.classifies())
            })?,
        };
        match self
            .metrics
            .iter()
            .find(|m| m.needs_logits() && !has_logits)
        {
            Some(metric) => bail!(
                "metrics: {} needs an extractor with class logits",
                metric.name()
            ),
            None => Ok(()),
        }
    }

    fn execute(&self, executor: &Executor, task: &TrialTask) -> Result<TrialOutput> {
        let setting = FeatureSetting {
            extractor: self.extractor.as_ref(),
            bytes: self.bytes,
        };
        let features = |data: usize| executor.data_features(self.model, data, setting);
        let generated = match self.floor {
            Some(floor) => features(floor)?,
            None => self.generated_features(executor, task)?,
        };
        let reference = executor.reference_features(self.model, self.reference, setting)?;
        let train = self.train.map(features).transpose()?;
        let test = self.test.map(features).transpose()?;
        let sets = SampleSets {
            generated: &generated,
            reference: &*reference,
            train: train.as_ref(),
            test: test.as_ref(),
        };
        let sets = executor
            .machine
            .with_threads(|| sets.try_map(metric_sample))?
            .map_err(|e| anyhow!(e))?;
        let sets = sets.as_ref();
        let floor = match self.count {
            Some(count) => {
                let floor = metric_sample(&generated).map_err(|e| anyhow!(e))?;
                Some(FloorSamples::new(floor, count))
            }
            None => None,
        };
        let mut rows = Vec::new();
        for metric in &self.metrics {
            let measure = || measure_with_notes(metric, sets, floor.as_ref(), executor.key());
            let measured = (executor.machine.with_threads(measure)?)
                .map_err(|e| anyhow!(prefix_with_name(metric.name(), e)))?;
            rows.push(self.metric_row(executor, metric, measured));
        }
        let mut output = write_rows(rows.into_iter())?;
        output.array = Some(self.reference_array(executor)?);
        Ok(output)
    }
}

impl MetricsWork {
    /// The features of those samples of the required trials that are finite.
    fn generated_features(
        &self,
        executor: &Executor,
        task: &TrialTask,
    ) -> Result<ExtractedFeatures> {
        let parts = task.sample_parts(&self.parts);
        let finite = parts.map(|part| Ok(select_finite_rows(&part?)));
        let setting = FeatureSetting {
            extractor: self.extractor.as_ref(),
            bytes: self.bytes,
        };
        executor.features_of_parts(self.model, finite, setting)
    }

    /// A statistic as a row.
    fn metric_row(
        &self,
        executor: &Executor,
        metric: &Metric,
        measured: MeasuredStatistic,
    ) -> MetricRow {
        // The planned cost. The table takes the measured one from the rows of the samples.
        let context = SamplerContext::for_model(&executor.prepared.models[self.model]);
        let cost = self
            .sampler
            .as_ref()
            .map(|sampler| sampler.cost(&context))
            .unwrap_or_default();
        MetricRow {
            model: executor.prepared.plan.models[self.model].name.clone(),
            sampler: self
                .sampler
                .as_ref()
                .map_or("data".to_owned(), Sampler::label),
            metric: metric.name().to_owned(),
            value: measured.estimate.value,
            stderr: measured.estimate.stderr,
            n_generated: measured.n_generated,
            n_reference: measured.n_reference,
            evaluations: cost.evaluations as f64,
            jvps: cost.products as f64,
            cost: cost.evaluations as f64,
            features: features_name(self.extractor.as_ref()),
            note: (measured.notes.iter().map(String::as_str))
                .chain(self.bytes.note())
                .collect::<Vec<_>>()
                .join("; "),
            trajectory: self.sampler.as_ref().and_then(|s| s.trajectory()),
            guidance: String::new(),
        }
    }

    /// A few reference samples, which stay with the run so that a report needs no data files.
    fn reference_array(&self, executor: &Executor) -> Result<Vec<u8>> {
        let card = &executor.prepared.models[self.model].data_card;
        let data = &executor.prepared.data[self.reference];
        let shown = Executor::sample_ids(0, data.len().min(MAX_STORED_REFERENCE_SAMPLES));
        encode_npy_f32(&data.states(card, executor.key(), &shown), &card.shape)
    }
}

/// The rows without NaN or infinity.
fn select_finite_rows(x: &Batch) -> Batch {
    let keep: Vec<usize> = (0..x.nrows())
        .filter(|i| x.row(*i).iter().all(|v| v.is_finite()))
        .collect();
    x.select(Axis(0), &keep)
}
