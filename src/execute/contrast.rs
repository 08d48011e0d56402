//! Two samplers that began at the same noise: how far a statistic of the one lies from that of the other.

use anyhow::{Result, anyhow};
use ndarray::Axis;

use super::{Output, Stage, write_rows};
use crate::data::read_npy;
use crate::features::Extracted;
use crate::metric::paired::{self, Rows};
use crate::num::Batch;
use crate::num::stats::Estimate;
use crate::plan::ContrastWork;
use crate::registry::named;
use crate::rows::Contrast;

impl Stage<'_> {
    /// The difference of every statistic over those samples that both samplers brought to a finite end.
    pub(super) fn contrast(
        &self,
        work: &ContrastWork,
        array: &dyn Fn(&str) -> Result<Vec<u8>>,
    ) -> Result<Output> {
        let plan = &self.prepared.plan;
        let load = |parts: &[String]| -> Result<Batch> {
            let parts: Vec<Batch> = parts
                .iter()
                .map(|id| read_npy(&array(id)?))
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
            self.features(
                work.model,
                x.select(Axis(0), &keep),
                work.extractor.as_ref(),
            )
        };
        let (one, other) = (of(one)?, of(other)?);
        let real = self.real(work.model, work.reference, work.extractor.as_ref())?;
        let mut rows = Vec::new();
        let sets = [sides(&one), sides(&other)];
        for metric in &work.metrics {
            let measure = || paired::difference(metric, sets, sides(&real), self.key());
            let found = self
                .machine
                .with_threads(measure)?
                .map_err(|e| anyhow!(named(metric.name(), e)))?;
            let (
                Estimate {
                    value: difference,
                    stderr,
                    n,
                },
                method,
            ) = found;
            let stderr = stderr.ok_or_else(|| anyhow!("{}: no error", metric.name()))?;
            let half = method.half_width(stderr, n.min(sides(&real).len()));
            rows.push(Contrast {
                model: plan.models[work.model].name.clone(),
                sampler: work.sampler.label(),
                baseline: work.baseline.label(),
                metric: metric.name().to_owned(),
                n,
                n_reference: sides(&real).len(),
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

fn sides(x: &Extracted) -> Rows<'_> {
    Rows {
        features: &x.features,
        logits: x.logits.as_ref(),
    }
}
