//! The integrands of continuous bounds, as rows.

use anyhow::Result;

use super::{ExecuteWork, Executor, TrialOutput, TrialTask, write_rows};
use crate::num::key::SampleId;
use crate::plan::BoundProfileWork;
use crate::rows::BoundProfileRow;

impl ExecuteWork for BoundProfileWork {
    fn execute(&self, executor: &Executor, task: &TrialTask) -> Result<TrialOutput> {
        let work = &self.0;
        let plan = &executor.prepared.plan;
        let model = &executor.prepared.models[work.model];
        let data = executor.state_data(work.data)?;
        let states = |batch: &[SampleId]| data.states(&model.card, executor.key(), batch);
        let likelihood_task = executor.likelihood_task(work);
        let found =
            executor.pools[work.model].bound_integrands(&likelihood_task, task.samples, states)?;
        write_rows(found.iter().map(|one| BoundProfileRow {
            model: plan.models[work.model].name.clone(),
            dataset: plan.data[work.data].name.clone(),
            estimator: work.estimators[one.estimator].label(),
            sample: one.sample as usize,
            log_snr: one.log_snr,
            rate: one.rate,
            normal_rate: one.normal_rate,
        }))
    }
}
