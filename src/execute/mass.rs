//! The integral of a model's density, as rows.

use anyhow::{Result, anyhow};

use super::{ExecuteWork, Executor, TrialOutput, TrialTask, write_rows};
use crate::likelihood::{LikelihoodResult, LikelihoodTask};
use crate::num::Batch;
use crate::num::importance_weights::WeightStatistics;
use crate::num::kernel_proposal::{KernelProposal, MAX_KERNELS};
use crate::num::key::{SampleId, pack_draw, unpack_draw};
use crate::num::stats::Z95;
use crate::plan::MassWork;
use crate::rows::MassRow;

impl ExecuteWork for MassWork {
    fn execute(&self, executor: &Executor, _task: &TrialTask) -> Result<TrialOutput> {
        let plan = &executor.prepared.plan;
        let model = &executor.prepared.models[self.model];
        let (data, key) = (executor.state_data(self.data)?, executor.key());
        let kernels = Executor::sample_ids(0, data.len().min(MAX_KERNELS));
        let proposal = KernelProposal::new(&data.states(&model.card, key, &kernels))
            .map_err(|e| anyhow!("{}: mass: {e}", plan.data[self.data].name))?;
        // The draws go through the samples' conditions, one after the other, and each has probes of
        // its own.
        let samples = data.len() as u64;
        let addresses: Vec<SampleId> = (0..self.draws as u64)
            .map(|draw| pack_draw(draw % samples, draw / samples))
            .collect();
        let number = |address: SampleId| {
            let (sample, round) = unpack_draw(address);
            round * samples + sample
        };
        let states = |batch: &[SampleId]| {
            let mut x = Batch::zeros((batch.len(), model.dim()));
            for (mut row, address) in x.rows_mut().into_iter().zip(batch) {
                row.assign(&proposal.draw(key, number(*address)));
            }
            x
        };
        let task = LikelihoodTask {
            curve: &model.curve,
            prior: model.prior,
            solver: &self.solver,
            estimators: &self.estimators,
            key,
        };
        let pool = &executor.pools[self.model];
        let (results, _) = pool.log_likelihoods(&task, &addresses, false, states)?;
        let mut rows = Vec::new();
        for (index, estimator) in self.estimators.iter().enumerate() {
            let of_estimator = |row: &&LikelihoodResult| row.estimator == index;
            let mut weights = Vec::new();
            let mut noise = Vec::new();
            for row in results.iter().filter(of_estimator) {
                let Some(log_p) = row.log_likelihood else {
                    continue;
                };
                let x = proposal.draw(key, number(row.sample));
                weights.push(log_p - proposal.log_density(x.view()));
                noise.push(row.stderr.unwrap_or(0.0).powi(2));
            }
            let failed = self.draws - weights.len();
            let Ok(found) = WeightStatistics::new(&weights, Some(&noise)) else {
                continue;
            };
            let mass = found.log_mean.exp();
            let log_z = found.log_z;
            let ess = found.corrected_ess.unwrap_or(found.ess);
            rows.push(MassRow {
                model: plan.models[self.model].name.clone(),
                dataset: plan.data[self.data].name.clone(),
                estimator: estimator.label(),
                solver: self.solver.label(),
                mass,
                stderr: log_z.stderr.map(|e| e * mass),
                low: log_z.stderr.map(|e| (mass * (1.0 - Z95 * e)).max(0.0)),
                high: log_z.high.map(|high| mass * (1.0 + high - log_z.value)),
                khat: found.shape.map(|shape| shape.value),
                ess: ess.value,
                noise_variance: found.noise_variance,
                n: weights.len(),
                failed,
            });
        }
        write_rows(rows.into_iter())
    }
}
