//! Two samplers that began at the same noise: how far a statistic of the one lies from that of the other.

use anyhow::{Result, anyhow};
use ndarray::Axis;

use super::{Output, Stage, sample_of, write_rows};
use crate::data::read_npy;
use crate::features::Extracted;
use crate::features::images::Coding;
use crate::metric;
use crate::num::Batch;
use crate::num::stats::Z95;
use crate::plan::ContrastWork;
use crate::rows::Contrast;

/// Blocks of the jackknife: samples that are left out together, the same of both samplers.
const BLOCKS: usize = 20;

impl Stage<'_> {
    /// The difference of every statistic, with the standard error of a delete-a-block jackknife over samples.
    ///
    /// Sample i of both samplers began at the same noise and is left out of both at once, so what they share
    /// cancels. The reference data are fixed: the error is that of the generated samples alone.
    pub(super) fn contrast(&self, work: &ContrastWork, array: &dyn Fn(&str) -> Result<Vec<u8>>) -> Result<Output> {
        let (opened, plan) = (&self.prepared.models[work.model], &self.prepared.plan);
        let data = &self.prepared.data[work.reference];
        let real = data.states(&opened.card, self.key(), &Stage::ranged(0, data.len()));
        let load = |parts: &[String]| -> Result<Batch> {
            let parts: Vec<Batch> = parts.iter().map(|id| read_npy(&array(id)?)).collect::<Result<_>>()?;
            let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
            Ok(ndarray::concatenate(Axis(0), &views)?)
        };
        let (one, other) = (load(&work.parts)?, load(&work.baseline_parts)?);
        let sound = |x: &Batch, i: usize| x.row(i).iter().all(|v| v.is_finite());
        let keep: Vec<usize> = (0..one.nrows()).filter(|i| sound(&one, *i) && sound(&other, *i)).collect();
        let n = keep.len();
        if n < 2 * BLOCKS {
            return Err(anyhow!("{n} pairs of finite samples, expected at least {}", 2 * BLOCKS));
        }
        let sets = [one.select(Axis(0), &keep), other.select(Axis(0), &keep), real];
        let [one, other, real] = match &work.extractor {
            None => sets.map(Extracted::plain),
            Some(file) => {
                let (mut extractor, shape) = (self.extractor(file)?, &opened.card.shape);
                let coding = opened.card.data.map(|d| Coding::Range(d.range));
                let [one, other, real] = sets.map(|set| extractor.extract(set.view(), shape, coding));
                [one?, other?, real?]
            }
        };
        let mut rows = Vec::new();
        for metric in &work.metrics {
            let value = |x: &Extracted| -> Result<f64> {
                let measure = || metric::measure(metric, &sample_of(x)?, &sample_of(&real)?, self.key());
                let estimate = self.machine.with_threads(measure)?.map_err(|e| anyhow!("{}: {e}", metric.name()))?;
                Ok(estimate.value)
            };
            let difference = value(&one)? - value(&other)?;
            let without = |block: usize| -> Result<f64> {
                let kept: Vec<usize> = (0..n).filter(|i| i % BLOCKS != block).collect();
                Ok(value(&one.select(&kept))? - value(&other.select(&kept))?)
            };
            let parts = (0..BLOCKS).map(without).collect::<Result<Vec<f64>>>()?;
            let stderr = jackknife(&parts);
            rows.push(Contrast {
                model: plan.models[work.model].name.clone(),
                sampler: work.sampler.label(),
                baseline: work.baseline.label(),
                metric: metric.name().to_owned(),
                n,
                difference,
                difference_stderr: stderr,
                low: difference - Z95 * stderr,
                high: difference + Z95 * stderr,
                features: work.extractor.as_ref().map_or("raw".to_owned(), |e| e.name.clone()),
            });
        }
        write_rows(rows.into_iter())
    }
}

/// The standard error from estimates that each leave one of B blocks out: √((B − 1)/B · Σ (θ_b − θ̄)²).
fn jackknife(parts: &[f64]) -> f64 {
    let count = parts.len() as f64;
    let mean = parts.iter().sum::<f64>() / count;
    ((count - 1.0) / count * parts.iter().map(|p| (p - mean).powi(2)).sum::<f64>()).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::stats;

    /// Of a mean over blocks of one, the jackknife is the usual standard error.
    #[test]
    fn the_jackknife_of_a_mean_is_its_standard_error() {
        let values = [0.3, -1.2, 2.5, 0.7, 1.1, -0.4];
        let sum: f64 = values.iter().sum();
        let parts: Vec<f64> = values.iter().map(|v| (sum - v) / 5.0).collect();
        let want = stats::mean(&values).and_then(|e| e.stderr).expect("six values");
        assert!((jackknife(&parts) - want).abs() < 1e-15);
    }
}
