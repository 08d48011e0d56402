//! Trials that follow paths: log-likelihoods, profiles, error budgets, densities over the plane.

use anyhow::{Result, anyhow};
use ndarray::Array2;

use super::pool::{WorkerPool, WorkerSpec};
use super::{Executor, TrialOutput, write_rows};
use crate::dequantization::{DENSITY, ELBO, NO_BOUND};
use crate::divergence::DivergenceEstimator;
use crate::likelihood::{self, LikelihoodResult, LikelihoodTask, NodeDivergence};
use crate::model::loaded::Model;
use crate::model::onnx::Provider;
use crate::num::Batch;
use crate::num::key::{Purpose, SampleId};
use crate::plan::{LikelihoodWork, TrialWork, solver_label};
use crate::rows::{self, LikelihoodRow};
use crate::solve::{Solver, refine};

impl Executor<'_> {
    fn likelihood_task<'t>(&'t self, w: &'t LikelihoodWork) -> LikelihoodTask<'t> {
        let model = &self.prepared.models[w.model];
        LikelihoodTask {
            curve: &model.curve,
            prior: model.prior,
            solver: &w.solver,
            estimators: &w.estimators,
            key: self.key(),
        }
    }

    fn evaluate_likelihoods(
        &self,
        w: &LikelihoodWork,
        samples: &[SampleId],
        record: bool,
    ) -> Result<(Vec<LikelihoodResult>, Vec<NodeDivergence>)> {
        let (model, data) = (&self.prepared.models[w.model], &self.prepared.data[w.data]);
        let states = |batch: &[SampleId]| data.states(&model.card, self.key(), batch);
        // A profile is of one draw: its nodes belong to one path.
        let dequantization = w.dequantization.as_ref().filter(|_| !record);
        self.pools[w.model].dequantized_log_likelihoods(
            &self.likelihood_task(w),
            dequantization,
            samples,
            record,
            states,
        )
    }

    pub(super) fn execute_likelihood(
        &self,
        id: &str,
        w: &LikelihoodWork,
        samples: &[SampleId],
    ) -> Result<TrialOutput> {
        let plan = &self.prepared.plan;
        let (rows, _) = self.evaluate_likelihoods(w, samples, false)?;
        let card = &self.prepared.models[w.model].card;
        let bound = match &w.dequantization {
            _ if plan.data[w.data].unbounded => NO_BOUND,
            Some(dequantization) => dequantization.bound_kind(),
            None if self.prepared.data[w.data].is_quantized(card) => ELBO,
            None => DENSITY,
        };
        let label = |r: &LikelihoodResult| w.estimators[r.estimator].label();
        write_rows(rows.iter().map(|r| {
            let per_dim = r
                .log_likelihood
                .map(|l| likelihood::nats_per_dim(l, card.dim()));
            let bits = r.log_likelihood.zip(card.bits_offset());
            LikelihoodRow {
                trial: id.to_owned(),
                model: plan.models[w.model].name.clone(),
                dataset: plan.data[w.data].name.clone(),
                estimator: label(r),
                kind: w.estimators[r.estimator].kind().as_str().to_owned(),
                solver: solver_label(&w.solver),
                sample: r.sample as usize,
                log_likelihood: r.log_likelihood,
                stderr: r.stderr,
                half_width: r.half_width,
                prior_log_density: r.prior_log_density,
                divergence_integral: r.divergence_integral,
                bits_per_dim: bits
                    .map(|(l, offset)| likelihood::bits_per_dim(l, card.dim(), offset)),
                nats_per_dim: per_dim,
                evaluations: r.evaluations,
                jvps: r.jvps,
                head_calls: r.head_calls,
                status: r.status.as_str().to_owned(),
                path_seconds: r.path_seconds,
                divergence_seconds: r.divergence_seconds,
                entry_seconds: Some(r.entry_seconds),
                bound: bound.to_owned(),
                draws: w.draws(),
                dequantization_stderr: r.dequantization_stderr,
                solver_error: r.solver_error,
            }
        }))
    }

    pub(super) fn execute_profile(
        &self,
        w: &LikelihoodWork,
        samples: &[SampleId],
    ) -> Result<TrialOutput> {
        let plan = &self.prepared.plan;
        let curve = &self.prepared.models[w.model].curve;
        let (_, nodes) = self.evaluate_likelihoods(w, samples, true)?;
        let drawn = |n: &&NodeDivergence| {
            !matches!(
                w.estimators[n.estimator],
                DivergenceEstimator::ClosedForm(_)
            )
        };
        write_rows(nodes.iter().filter(drawn).map(|n| rows::ProfileRow {
            model: plan.models[w.model].name.clone(),
            dataset: plan.data[w.data].name.clone(),
            solver: solver_label(&w.solver),
            estimator: w.estimators[n.estimator].label(),
            sample: n.sample as usize,
            t: n.t,
            half_log_snr: curve.at(n.t).half_log_snr(),
            divergence: n.divergence,
        }))
    }

    /// The same samples with finer and coarser steps, and with networks in float64. Where these cannot be had, from states
    /// moved by one rounding of float32 there and back: their second difference keeps the rounding of the networks
    /// and loses what is linear.
    pub(super) fn execute_budget(
        &self,
        w: &LikelihoodWork,
        samples: &[SampleId],
    ) -> Result<TrialOutput> {
        let (plan, model) = (&self.prepared.plan, &self.prepared.models[w.model]);
        let data = &self.prepared.data[w.data];
        // What nobody asked for keeps to what the headline needs.
        let wide = if w.automatic {
            None
        } else {
            self.float64_model(model)
        };
        let wide_pool = wide
            .as_ref()
            .and_then(|wide| self.float64_pool(wide, w, samples.len()));
        let again = |pool: &WorkerPool,
                     solver: Option<&Solver>,
                     move_by: f64|
         -> Result<Vec<Option<f64>>> {
            let Some(solver) = solver else {
                return Ok(vec![None; w.estimators.len() * samples.len()]);
            };
            let states = |batch: &[SampleId]| {
                let mut x = data.states(&model.card, self.key(), batch);
                if move_by != 0.0 {
                    for (mut row, sample) in x.rows_mut().into_iter().zip(batch) {
                        let u = self.key().uniform(Purpose::Rounding, *sample, 0, row.len());
                        row *= &u.mapv(|u| {
                            if u < 0.5 {
                                1.0 - move_by
                            } else {
                                1.0 + move_by
                            }
                        });
                    }
                }
                x
            };
            let task = LikelihoodTask {
                solver,
                ..self.likelihood_task(w)
            };
            let (rows, _) = pool.log_likelihoods(&task, samples, false, states)?;
            Ok(rows.iter().map(|r| r.log_likelihood).collect())
        };
        let own = Some(&w.solver);
        let (finer, coarser) = (refine::finer(&w.solver), refine::coarser(&w.solver));
        let asked = |solver: Option<&'_ Solver>| solver.filter(|_| !w.automatic).cloned();
        let (coarser, pool) = (asked(coarser.as_ref()), &self.pools[w.model]);
        let moved = asked(own).filter(|_| wide_pool.is_none());
        let ulp = f64::from(f32::EPSILON);
        let base = again(pool, own, 0.0)?;
        let [finer, coarser] = [
            again(pool, finer.as_ref(), 0.0)?,
            again(pool, coarser.as_ref(), 0.0)?,
        ];
        let [ahead, behind] = [
            again(pool, moved.as_ref(), ulp)?,
            again(pool, moved.as_ref(), -ulp)?,
        ];
        let float64 = match &wide_pool {
            Some(wide) => {
                let found = again(wide, own, 0.0)?;
                // A row takes about twice the time, and counts as two.
                self.meter.batch_started(samples.len());
                self.meter.batch_finished(samples.len());
                found
            }
            None => vec![None; base.len()],
        };
        write_rows((0..base.len()).map(|i| rows::RefinedRow {
            model: plan.models[w.model].name.clone(),
            dataset: plan.data[w.data].name.clone(),
            estimator: w.estimators[i / samples.len()].label(),
            solver: solver_label(&w.solver),
            sample: samples[i % samples.len()] as usize,
            log_likelihood: base[i],
            finer: finer[i],
            coarser: coarser[i],
            ahead: ahead[i],
            behind: behind[i],
            float64: float64[i],
            order: w.solver.fixed_evaluations().map(|_| w.solver.order()),
        }))
    }

    /// The model with networks in float64, on the processor: none where they cannot be computed so.
    fn float64_model(&self, model: &Model) -> Option<Model> {
        let on_processor = self.machine.provider == Provider::Cpu;
        if on_processor {
            model.to_float64().ok().flatten()
        } else {
            None
        }
    }

    /// Workers for a model in float64, where the runtime has all that its estimators need in it.
    fn float64_pool<'m>(
        &'m self,
        wide: &'m Model,
        w: &LikelihoodWork,
        samples: usize,
    ) -> Option<WorkerPool<'m>> {
        let pool = WorkerPool::new(wide, self.runtime, self.machine).with_meter(self.meter.clone());
        let needs = WorkerSpec {
            estimators: &w.estimators,
            samplers: &[],
        };
        pool.dry_run(needs, samples, &Batch::zeros((1, wide.dim())))
            .is_ok()
            .then_some(pool)
    }

    pub(super) fn execute_density(
        &self,
        work: &TrialWork,
        samples: &[SampleId],
    ) -> Result<TrialOutput> {
        let TrialWork::Density {
            model,
            solver,
            estimator,
            grid,
        } = work
        else {
            return Err(anyhow!("not a density"));
        };
        let opened = &self.prepared.models[*model];
        let at = |range: [f64; 2], i: usize| {
            range[0] + (range[1] - range[0]) * i as f64 / (grid.points - 1) as f64
        };
        let point = |i: usize| [at(grid.x, i % grid.points), at(grid.y, i / grid.points)];
        let estimators = std::slice::from_ref(estimator);
        let task = LikelihoodTask {
            curve: &opened.curve,
            prior: opened.prior,
            solver,
            estimators,
            key: self.key(),
        };
        let states = |batch: &[SampleId]| {
            Array2::from_shape_fn((batch.len(), 2), |(i, j)| point(batch[i] as usize)[j])
        };
        let (rows, _) = self.pools[*model].log_likelihoods(&task, samples, false, states)?;
        write_rows(rows.iter().map(|r| {
            let [x, y] = point(r.sample as usize);
            let model = self.prepared.plan.models[*model].name.clone();
            rows::DensityRow {
                model,
                estimator: estimator.label(),
                x,
                y,
                log_density: r.log_likelihood,
            }
        }))
    }
}
