//! The log-density over a rectangle of the plane, as rows.

use anyhow::Result;
use ndarray::Array2;

use super::{ExecuteWork, Executor, TrialOutput, TrialTask, write_rows};
use crate::likelihood::LikelihoodTask;
use crate::num::key::SampleId;
use crate::plan::DensityWork;
use crate::rows;

impl ExecuteWork for DensityWork {
    fn execute(&self, executor: &Executor, task: &TrialTask) -> Result<TrialOutput> {
        let grid = &self.grid;
        let opened = &executor.prepared.models[self.model];
        let at = |range: [f64; 2], i: usize| {
            range[0] + (range[1] - range[0]) * i as f64 / (grid.points - 1) as f64
        };
        let point = |i: usize| [at(grid.x, i % grid.points), at(grid.y, i / grid.points)];
        let estimators = std::slice::from_ref(&self.estimator);
        let likelihoods = LikelihoodTask {
            curve: &opened.curve,
            prior: opened.prior,
            solver: &self.solver,
            estimators,
            key: executor.key(),
        };
        let states = |batch: &[SampleId]| {
            Array2::from_shape_fn((batch.len(), 2), |(i, j)| point(batch[i] as usize)[j])
        };
        let (rows, _) = executor.pools[self.model].log_likelihoods(
            &likelihoods,
            task.samples,
            false,
            states,
        )?;
        write_rows(rows.iter().map(|r| {
            let [x, y] = point(r.sample as usize);
            let model = executor.prepared.plan.models[self.model].name.clone();
            rows::DensityRow {
                model,
                estimator: self.estimator.label(),
                x,
                y,
                log_density: r.log_likelihood,
            }
        }))
    }
}
