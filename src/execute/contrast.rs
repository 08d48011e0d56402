//! The differences of statistics of two samplers that start from the same noise, as rows.

use anyhow::{Result, anyhow};
use ndarray::Axis;

use super::features::FeatureSetting;
use super::{ExecuteWork, Executor, TrialOutput, TrialTask, write_rows};
use crate::features::ExtractedFeatures;
use crate::metric::paired::{self, FeatureRows};
use crate::num::stats::Estimate;
use crate::plan::{ContrastWork, features_name};
use crate::registry::prefix_with_name;
use crate::rows::ContrastRow;

impl ExecuteWork for ContrastWork {
    /// The difference of every statistic over the samples that are finite for both samplers.
    fn execute(&self, executor: &Executor, task: &TrialTask) -> Result<TrialOutput> {
        let finite = finite_rows(task, &self.parts)?;
        let both: Vec<bool> = std::iter::zip(finite, finite_rows(task, &self.baseline_parts)?)
            .map(|(a, b)| a && b)
            .collect();
        let setting = FeatureSetting {
            extractor: self.extractor.as_ref(),
            bytes: self.bytes,
        };
        let features = |parts: &[String]| {
            let mut rows = both.iter();
            let kept = task.sample_parts(parts).map(|part| {
                let part = part?;
                let kept: Vec<usize> = (0..part.nrows())
                    .filter(|_| rows.next().is_some_and(|keep| *keep))
                    .collect();
                Ok(part.select(Axis(0), &kept))
            });
            executor.features_of_parts(self.model, kept, setting)
        };
        let (samples, baseline) = (features(&self.parts)?, features(&self.baseline_parts)?);
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

/// Whether each sample of some trials is finite.
fn finite_rows(task: &TrialTask, parts: &[String]) -> Result<Vec<bool>> {
    let mut finite = Vec::new();
    for part in task.sample_parts(parts) {
        let rows = part?;
        finite.extend(
            rows.rows()
                .into_iter()
                .map(|row| row.iter().all(|v| v.is_finite())),
        );
    }
    Ok(finite)
}

fn feature_rows(x: &ExtractedFeatures) -> FeatureRows<'_> {
    FeatureRows {
        features: &x.features,
        logits: x.logits.as_ref(),
    }
}
