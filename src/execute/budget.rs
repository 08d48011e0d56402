//! Execution of an error budget: the log-likelihoods of a few samples with other steps and in
//! float64.

use anyhow::Result;

use super::pool::{WorkerPool, WorkerSpec};
use super::{ExecuteWork, Executor, TrialOutput, TrialTask, write_rows};
use crate::likelihood::LikelihoodTask;
use crate::model::loaded::Model;
use crate::model::onnx::Provider;
use crate::num::Batch;
use crate::num::key::{Purpose, SampleId};
use crate::plan::{BudgetWork, LikelihoodWork};
use crate::rows;
use crate::solve::Solver;

impl ExecuteWork for BudgetWork {
    fn execute(&self, executor: &Executor, task: &TrialTask) -> Result<TrialOutput> {
        let (w, samples) = (&self.0, task.samples);
        let (plan, model) = (&executor.prepared.plan, &executor.prepared.models[w.model]);
        let data = executor.state_data(w.data)?;
        // An automatic budget has only the finer steps: the page's headline needs nothing more.
        let wide = if w.automatic {
            None
        } else {
            float64_model(executor, model)
        };
        let wide_pool = wide
            .as_ref()
            .and_then(|wide| float64_pool(executor, wide, w, samples.len()));
        let again = |pool: &WorkerPool,
                     solver: Option<&Solver>,
                     move_by: f64|
         -> Result<Vec<Option<f64>>> {
            let Some(solver) = solver else {
                return Ok(vec![None; w.estimators.len() * samples.len()]);
            };
            let states = |batch: &[SampleId]| {
                let mut x = data.states(&model.card, executor.key(), batch);
                if move_by != 0.0 {
                    for (mut row, sample) in x.rows_mut().into_iter().zip(batch) {
                        let u = executor
                            .key()
                            .uniform(Purpose::Rounding, *sample, 0, row.len());
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
                ..executor.likelihood_task(w)
            };
            let (rows, _) = pool.log_likelihoods(&task, samples, false, states)?;
            Ok(rows.iter().map(|r| r.log_likelihood).collect())
        };
        let own = Some(&w.solver);
        let (finer, coarser) = (w.solver.finer(), w.solver.coarser());
        let asked = |solver: Option<&'_ Solver>| solver.filter(|_| !w.automatic).cloned();
        let (coarser, pool) = (asked(coarser.as_ref()), &executor.pools[w.model]);
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
                executor.meter.batch_started(samples.len());
                executor.meter.batch_finished(samples.len());
                found
            }
            None => vec![None; base.len()],
        };
        write_rows((0..base.len()).map(|i| rows::RefinedRow {
            model: plan.models[w.model].name.clone(),
            dataset: plan.data[w.data].name.clone(),
            estimator: w.estimators[i / samples.len()].label(),
            solver: w.solver.label(),
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
}

/// The model with its networks in float64. `None` if the provider is not the CPU, or if the
/// networks are in float64 already or cannot be computed in it.
fn float64_model(executor: &Executor, model: &Model) -> Option<Model> {
    let on_processor = executor.machine.provider == Provider::Cpu;
    if on_processor {
        model.to_float64().ok().flatten()
    } else {
        None
    }
}

/// A pool of workers for a model in float64. `None` if the runtime cannot call the networks or
/// their derivatives in float64.
fn float64_pool<'m>(
    executor: &'m Executor,
    wide: &'m Model,
    w: &LikelihoodWork,
    samples: usize,
) -> Option<WorkerPool<'m>> {
    let pool = WorkerPool::new(wide, executor.runtime, executor.machine)
        .with_meter(executor.meter.clone());
    let needs = WorkerSpec {
        estimators: &w.estimators,
        samplers: &[],
    };
    pool.dry_run(needs, samples, &Batch::zeros((1, wide.dim())))
        .is_ok()
        .then_some(pool)
}
