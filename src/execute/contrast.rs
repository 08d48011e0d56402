//! Two samplers that began at the same noise: how far a statistic of the one lies from that of the other.

use anyhow::{Result, anyhow};
use ndarray::Axis;

use super::{Executor, TrialOutput, write_rows};
use crate::data::decode_npy_f32;
use crate::features::ExtractedFeatures;
use crate::metric::paired::{self, FeatureRows};
use crate::num::Batch;
use crate::num::stats::Estimate;
use crate::plan::ContrastWork;
use crate::registry::prefix_with_name;
use crate::rows::ContrastRow;

impl Executor<'_> {
    /// The difference of every statistic over those samples that both samplers brought to a finite end.
    pub(super) fn execute_contrast(
        &self,
        work: &ContrastWork,
        array: &dyn Fn(&str) -> Result<Vec<u8>>,
    ) -> Result<TrialOutput> {
        let plan = &self.prepared.plan;
        let load = |parts: &[String]| -> Result<Batch> {
            let parts: Vec<Batch> = parts
                .iter()
                .map(|id| decode_npy_f32(&array(id)?))
                .collect::<Result<_>>()?;
            let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
            Ok(ndarray::concatenate(Axis(0), &views)?)
        };
        let (one, other) = (load(&work.parts)?, load(&work.baseline_parts)?);
        let sound = |x: &Batch, i: usize| x.row(i).iter().all(|v| v.is_finite());
        let keep: Vec<usize> = (0..one.nrows())
            .filter(|i| sound(&one, *i) && sound(&other, *i))
            .collect();
        let of = |x: Batch| {
            self.extract_features(
                work.model,
                x.select(Axis(0), &keep),
                work.extractor.as_ref(),
            )
        };
        let (one, other) = (of(one)?, of(other)?);
        let real = self.reference_features(work.model, work.reference, work.extractor.as_ref())?;
        let mut rows = Vec::new();
        let sets = [paired_rows(&one), paired_rows(&other)];
        for metric in &work.metrics {
            let measure =
                || paired::paired_difference(metric, sets, paired_rows(&real), self.key());
            let found = self
                .machine
                .with_threads(measure)?
                .map_err(|e| anyhow!(prefix_with_name(metric.name(), e)))?;
            let (
                Estimate {
                    value: difference,
                    stderr,
                    n,
                },
                method,
            ) = found;
            let stderr = stderr.ok_or_else(|| anyhow!("{}: no error", metric.name()))?;
            let half = method.half_width(stderr, n.min(paired_rows(&real).len()));
            rows.push(ContrastRow {
                model: plan.models[work.model].name.clone(),
                sampler: work.sampler.label(),
                baseline: work.baseline.label(),
                metric: metric.name().to_owned(),
                n,
                n_reference: paired_rows(&real).len(),
                difference,
                difference_stderr: stderr,
                low: difference - half,
                high: difference + half,
                method: method.as_str().to_owned(),
                features: work
                    .extractor
                    .as_ref()
                    .map_or("raw".to_owned(), |e| e.name.clone()),
            });
        }
        write_rows(rows.into_iter())
    }
}

fn paired_rows(x: &ExtractedFeatures) -> FeatureRows<'_> {
    FeatureRows {
        features: &x.features,
        logits: x.logits.as_ref(),
    }
}
