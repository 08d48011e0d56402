//! Trials of samples, and of their statistics.

use anyhow::{Result, anyhow};
use ndarray::Axis;

use super::{Executor, TimedSamples, TrialOutput, metric_sample, write_rows};
use crate::data::{decode_npy_f32, encode_npy_f32};
use crate::metric::feature_set::FeatureSet;
use crate::metric::{self, SampleSets, notes};
use crate::num::Batch;
use crate::num::key::SampleId;
use crate::plan::{TrialWork, initial_states};
use crate::registry::prefix_with_name;
use crate::rows::{self, SampleRow};
use crate::sample::steindiff::{SteinDiff, SteinDiffStepLog};
use crate::sample::{self, Sampler, SamplerContext};

impl Executor<'_> {
    pub(super) fn execute_sample(
        &self,
        id: &str,
        work: &TrialWork,
        samples: &[SampleId],
    ) -> Result<TrialOutput> {
        let TrialWork::Sample {
            model,
            sampler,
            noise: given,
            ..
        } = work
        else {
            return Err(anyhow!("not samples"));
        };
        let (opened, count) = (&self.prepared.models[*model], samples.len());
        let given = given
            .map(|data| initial_states(&self.prepared.data[data], opened))
            .transpose()?;
        let began = std::time::Instant::now();
        let noise = |batch: &[SampleId]| match &given {
            Some(states) => states.select(
                Axis(0),
                &batch.iter().map(|i| *i as usize).collect::<Vec<_>>(),
            ),
            None => sample::initial_noise(self.key(), batch, opened.dim(), opened.prior.std),
        };
        let TimedSamples {
            samples: drawn,
            product_seconds,
        } = self.pools[*model].draw_samples(sampler, samples, self.key(), noise)?;
        let seconds = began.elapsed().as_secs_f64() / count as f64;
        let x = &drawn.x;
        let finite = |i: usize| x.row(i).iter().all(|v| v.is_finite());
        let name = &self.prepared.plan.models[*model].name;
        let mut output = write_rows(samples.iter().enumerate().map(|(i, s)| {
            SampleRow {
                trial: id.to_owned(),
                model: name.clone(),
                sampler: sampler.label(),
                sample: *s as usize,
                status: if finite(i) { "ok" } else { "non-finite" }.to_owned(),
                evaluations: drawn.evaluations[i],
                jvps: drawn.products[i],
                seconds,
                log_density: drawn
                    .log_density
                    .as_ref()
                    .map(|d| d[i])
                    .filter(|d| d.is_finite()),
                jvp_seconds: product_seconds / count as f64,
            }
        }))?;
        output.array = Some(encode_npy_f32(x, &opened.card.shape)?);
        if let Sampler::SteinDiff(around) = sampler {
            output.steps = Some(
                write_rows(
                    drawn
                        .step_logs
                        .iter()
                        .map(|step| step_log_row(name, around, step)),
                )?
                .csv,
            );
        }
        Ok(output)
    }

    pub(super) fn execute_metrics(
        &self,
        work: &TrialWork,
        array: &dyn Fn(&str) -> Result<Vec<u8>>,
    ) -> Result<TrialOutput> {
        let TrialWork::Metrics {
            model,
            sampler,
            parts,
            floor,
            count,
            reference,
            train,
            test,
            extractor,
            metrics,
        } = work
        else {
            return Err(anyhow!("not metrics"));
        };
        let (opened, plan) = (&self.prepared.models[*model], &self.prepared.plan);
        let finite = |x: &Batch| -> Batch {
            let keep: Vec<usize> = (0..x.nrows())
                .filter(|i| x.row(*i).iter().all(|v| v.is_finite()))
                .collect();
            x.select(Axis(0), &keep)
        };
        let data = |data: &usize| self.data_features(*model, *data, extractor.as_ref());
        let generated = match floor {
            Some(floor) => data(floor)?,
            None => {
                let parts: Vec<Batch> = parts
                    .iter()
                    .map(|id| decode_npy_f32(&array(id)?))
                    .collect::<Result<_>>()?;
                let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
                self.extract_features(
                    *model,
                    finite(&ndarray::concatenate(Axis(0), &views)?),
                    extractor.as_ref(),
                )?
            }
        };
        let real = self.reference_features(*model, *reference, extractor.as_ref())?;
        let (train, test) = (
            train.as_ref().map(data).transpose()?,
            test.as_ref().map(data).transpose()?,
        );
        let sets = SampleSets {
            generated: &generated,
            reference: &*real,
            train: train.as_ref(),
            test: test.as_ref(),
        };
        // As planned; what it really was is in the samples' own rows, from which tables take it.
        let cost = sampler
            .as_ref()
            .map(|s| s.cost(&SamplerContext::for_model(opened)))
            .unwrap_or_default();
        let mut rows = Vec::new();
        let samples = self
            .machine
            .with_threads(|| sets.try_map(metric_sample))?
            .map_err(|e| anyhow!(e))?;
        let samples = samples.as_ref();
        // A floor is of as many data as there are samples, where that makes a difference.
        let fewer = match count {
            Some(count) if *count < samples.generated.len() => Some(
                metric_sample(&generated)
                    .map_err(|e| anyhow!(e))?
                    .truncated(*count),
            ),
            _ => None,
        };
        for metric in metrics {
            let samples = match &fewer {
                Some(fewer) if metric.is_biased() => SampleSets {
                    generated: fewer,
                    ..samples
                },
                _ => samples,
            };
            let n = samples.map(FeatureSet::len);
            let mut notes = notes::statistic_notes(metric, samples);
            notes.extend(
                count.and_then(|count| notes::floor_count_mismatch(metric, n.generated, count)),
            );
            let measure = || metric::measure_all(metric, samples, self.key());
            let estimate = (self.machine.with_threads(measure)?)
                .map_err(|e| anyhow!(prefix_with_name(metric.name(), e)))?;
            rows.push(rows::MetricRow {
                model: plan.models[*model].name.clone(),
                sampler: sampler.as_ref().map_or("data".to_owned(), Sampler::label),
                metric: metric.name().to_owned(),
                value: estimate.value,
                stderr: estimate.stderr,
                n_generated: n.generated,
                n_reference: n.for_role(metric.comparison_role()),
                evaluations: cost.evaluations as f64,
                jvps: cost.products as f64,
                cost: cost.evaluations as f64,
                features: extractor
                    .as_ref()
                    .map_or("raw".to_owned(), |e| e.name.clone()),
                note: notes.join("; "),
            });
        }
        let mut output = write_rows(rows.into_iter())?;
        // A few of the data stay with the run, so that a report can show them without the data's files.
        let known = &self.prepared.data[*reference];
        let shown = known.states(
            &opened.card,
            self.key(),
            &Executor::sample_ids(0, known.len().min(MAX_STORED_REFERENCE_SAMPLES)),
        );
        output.array = Some(encode_npy_f32(&shown, &opened.card.shape)?);
        Ok(output)
    }
}

/// The log of one step as a row.
fn step_log_row(model: &str, around: &SteinDiff, step: &SteinDiffStepLog) -> rows::StepRow {
    let known = step.statistics;
    let mode = serde_json::to_value(around.mode).unwrap_or_default();
    rows::StepRow {
        model: model.to_owned(),
        sampler: around.label(),
        inner: around.sampler.name().to_owned(),
        mode: mode.as_str().unwrap_or_default().to_owned(),
        population: step.population,
        n: step.n,
        step: step.step,
        t: step.from.t,
        alpha: step.from.alpha,
        sigma: step.from.sigma,
        t_next: step.to.t,
        alpha_next: step.to.alpha,
        sigma_next: step.to.sigma,
        gamma: step.gamma,
        gamma_raw: known.map(|s| s.unclamped_gamma),
        gamma_probe_stderr: known.and_then(|s| s.probe_stderr),
        gamma_stderr: known.and_then(|s| s.stderr),
        action: step.action.as_str().to_owned(),
        divergence: known
            .map_or("", |s| {
                if s.from_jacobian_products {
                    "jacobian"
                } else {
                    "linear"
                }
            })
            .to_owned(),
        s_xu: known.map(|s| s.mean_xu),
        s_uu: known.map(|s| s.mean_uu),
        s_div: known.map(|s| s.mean_divergence),
        coupling: known.and_then(|s| s.coupling),
        blend: step.mean_blend_weight,
        evaluations: step.evaluations,
        jvps: step.products,
    }
}

/// Samples of the data that a metrics trial keeps for the report.
const MAX_STORED_REFERENCE_SAMPLES: usize = 512;
