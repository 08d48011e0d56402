//! The divergence at the nodes of paths, as rows.

use anyhow::Result;

use super::{ExecuteWork, Executor, TrialOutput, TrialTask, write_rows};
use crate::divergence::DivergenceEstimator;
use crate::likelihood::NodeDivergence;
use crate::plan::{ProfileWork, solver_label};
use crate::rows;

impl ExecuteWork for ProfileWork {
    fn execute(&self, executor: &Executor, task: &TrialTask) -> Result<TrialOutput> {
        let w = &self.0;
        let plan = &executor.prepared.plan;
        let curve = &executor.prepared.models[w.model].curve;
        let (_, nodes) = executor.evaluate_likelihoods(w, task.samples, true)?;
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
}
