//! The divergence at the nodes of paths, as rows.

use anyhow::Result;

use super::{ExecuteWork, Executor, TrialOutput, TrialTask, write_rows};
use crate::divergence::DivergenceEstimator;
use crate::likelihood::NodeDivergence;
use crate::num::key::SampleId;
use crate::plan::ProfileWork;
use crate::rows;

impl ExecuteWork for ProfileWork {
    fn execute(&self, executor: &Executor, task: &TrialTask) -> Result<TrialOutput> {
        let w = &self.0;
        let plan = &executor.prepared.plan;
        let (model, data) = (
            &executor.prepared.models[w.model],
            executor.state_data(w.data)?,
        );
        // One draw of dequantization noise: the nodes belong to one path.
        let states = |batch: &[SampleId]| data.states(&model.card, executor.key(), batch);
        let (_, nodes) = executor.pools[w.model].log_likelihoods(
            &executor.likelihood_task(w),
            task.samples,
            true,
            states,
        )?;
        let drawn = |n: &&NodeDivergence| {
            !matches!(
                w.estimators[n.estimator],
                DivergenceEstimator::ClosedForm(_)
            )
        };
        write_rows(nodes.iter().filter(drawn).map(|n| rows::ProfileRow {
            model: plan.models[w.model].name.clone(),
            dataset: plan.data[w.data].name.clone(),
            solver: w.solver.label(),
            estimator: w.estimators[n.estimator].label(),
            sample: n.sample as usize,
            t: n.t,
            half_log_snr: model.curve.at(n.t).half_log_snr(),
            divergence: n.divergence,
        }))
    }
}
