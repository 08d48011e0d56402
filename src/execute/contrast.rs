//! The differences of statistics of two samplers that start from the same noise, as rows.

use anyhow::{Result, anyhow};
use ndarray::Axis;

use super::features::FeatureSetting;
use super::{ExecuteWork, Executor, TrialOutput, TrialTask, write_rows};
use crate::features::ExtractedFeatures;
use crate::metric::paired::{self, FeatureRows};
use crate::num::Batch;
use crate::num::stats::Estimate;
use crate::plan::{ContrastWork, features_name};
use crate::registry::prefix_with_name;
use crate::rows::ContrastRow;

impl ExecuteWork for ContrastWork {
    /// The difference of every statistic over the samples that are finite for both samplers.
    fn execute(&self, executor: &Executor, task: &TrialTask) -> Result<TrialOutput> {
        let samples = task.required_samples(&self.parts)?;
        let baseline = task.required_samples(&self.baseline_parts)?;
        let is_finite = |x: &Batch, i: usize| x.row(i).iter().all(|v| v.is_finite());
        let keep: Vec<usize> = (0..samples.nrows())
            .filter(|i| is_finite(&samples, *i) && is_finite(&baseline, *i))
            .collect();
        let setting = FeatureSetting {
            extractor: self.extractor.as_ref(),
            bytes: self.bytes,
        };
        let features =
            |x: Batch| executor.extract_features(self.model, x.select(Axis(0), &keep), setting);
        let (samples, baseline) = (features(samples)?, features(baseline)?);
        let reference = executor.reference_features(self.model, self.reference, setting)?;
        let (pair, reference) = (
            [feature_rows(&samples), feature_rows(&baseline)],
            feature_rows(&reference),
        );
        let mut rows = Vec::new();
        for metric in &self.metrics {
            let measure = || paired::paired_difference(metric, pair, reference, executor.key());
            let (difference, method) = executor
                .machine
                .with_threads(measure)?
                .map_err(|e| anyhow!(prefix_with_name(metric.name(), e)))?;
            let Estimate { value, stderr, n } = difference;
            let stderr = stderr.ok_or_else(|| anyhow!("{}: no error", metric.name()))?;
            let half = method.half_width(stderr, n.min(reference.len()));
            rows.push(ContrastRow {
                model: executor.prepared.plan.models[self.model].name.clone(),
                sampler: self.sampler.label(),
                baseline: self.baseline.label(),
                metric: metric.name().to_owned(),
                n,
                n_reference: reference.len(),
                difference: value,
                difference_stderr: stderr,
                low: value - half,
                high: value + half,
                method: method.as_str().to_owned(),
                features: features_name(setting.extractor),
            });
        }
        write_rows(rows.into_iter())
    }
}

fn feature_rows(x: &ExtractedFeatures) -> FeatureRows<'_> {
    FeatureRows {
        features: &x.features,
        logits: x.logits.as_ref(),
    }
}
