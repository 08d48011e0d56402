//! Draws under observations and their log-densities, as ranks of the true parameters.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use ndarray::{ArrayView1, Axis, s};

use super::{ExecuteWork, Executor, TrialOutput, TrialTask, write_rows};
use crate::calibration::local_c2st::TrainingPairs;
use crate::calibration::{DrawDensities, LocalClassifiers, Observation, ParameterBox};
use crate::likelihood::{LikelihoodResult, LikelihoodTask};
use crate::num::Batch;
use crate::num::key::{SampleId, pack_draw, unpack_draw};
use crate::plan::{CalibrationDensity, CalibrationWork};
use crate::rows::{RankRow, Status};
use crate::sample::{self, DrawnSamples};

impl ExecuteWork for CalibrationWork {
    fn execute(&self, executor: &Executor, task: &TrialTask) -> Result<TrialOutput> {
        let plan = &executor.prepared.plan;
        let card = &executor.prepared.models[self.model].card;
        let data = &executor.prepared.data[self.data];
        let key = executor.key();
        let all = Executor::sample_ids(0, self.observations);
        let parameters = ParameterBox::of(data.states(card, key, &all).view());
        let truths = data.states(card, key, task.samples);
        let drawn = self.draw(executor, &self.draw_addresses(task.samples))?;
        let classifiers = match self.tests.iter().any(|test| test.needs_classifiers()) {
            true => Some(self.classifiers(executor)?),
            false => None,
        };
        let observed = self.observed(executor, task.samples)?;
        let densities = match &self.density {
            None => Vec::new(),
            Some(density) => {
                self.log_densities(executor, density, task.samples, &truths, &drawn)?
            }
        };
        let labels = self.density.as_ref().map(CalibrationDensity::labels);
        let mut rows: Vec<RankRow> = Vec::new();
        for (i, index) in task.samples.iter().enumerate() {
            let observation = Observation {
                index: *index,
                truth: truths.row(i),
                draws: drawn.slice(s![i * self.draws..(i + 1) * self.draws, ..]),
                densities: densities.get(i),
                classifiers: classifiers.as_deref().map(|found| (found, observed.row(i))),
                parameters: &parameters,
                key,
            };
            for test in &self.tests {
                let [estimator, solver] = match &labels {
                    Some(labels) if test.needs_density() => labels.clone(),
                    _ => Default::default(),
                };
                rows.extend(test.ranks(&observation).into_iter().map(|found| RankRow {
                    model: plan.models[self.model].name.clone(),
                    dataset: plan.data[self.data].name.clone(),
                    sampler: self.sampler.label(),
                    estimator: estimator.clone(),
                    solver: solver.clone(),
                    test: test.label(),
                    parameter: found.parameter,
                    sample: *index as usize,
                    draws: self.draws,
                    rank: found.rank,
                    ties: found.ties,
                    value: found.value,
                    stderr: found.stderr,
                    status: found.status,
                }));
            }
        }
        write_rows(rows.into_iter())
    }
}

impl CalibrationWork {
    /// The addresses of the draws of some observations, observation by observation. The address
    /// without a draw is that of the true parameters.
    fn draw_addresses(&self, observations: &[SampleId]) -> Vec<SampleId> {
        let draws = 1..=self.draws as u64;
        let of = |index: SampleId| draws.clone().map(move |draw| pack_draw(index, draw));
        observations.iter().copied().flat_map(of).collect()
    }

    /// The draws at some addresses, addresses × dim. Every draw is under the conditions of its
    /// observation and has its own noise.
    fn draw(&self, executor: &Executor, addresses: &[SampleId]) -> Result<Batch> {
        let model = &executor.prepared.models[self.model];
        let key = executor.key();
        let mut drawn = DrawnSamples::empty();
        executor.pools[self.model].for_each_sample_batch(
            &self.sampler,
            addresses,
            key,
            |batch| sample::initial_noise(key, batch, model.dim(), model.prior.std),
            None,
            |batch| {
                drawn.append(batch);
                Ok(())
            },
        )?;
        Ok(drawn.x)
    }

    /// The numbers of some observations, observations × numbers.
    fn observed(&self, executor: &Executor, observations: &[SampleId]) -> Result<Batch> {
        let conditions = &executor.prepared.models[self.model].conditions;
        let rows: Vec<Vec<f64>> = observations
            .iter()
            .map(|index| conditions.varying_numbers(*index))
            .collect();
        let views: Vec<ArrayView1<f64>> = rows.iter().map(ArrayView1::from).collect();
        ndarray::stack(Axis(0), &views).map_err(|e| anyhow!("conditions of unequal sizes: {e}"))
    }

    /// The classifiers of the whole entry, which are trained once in a process: on the true
    /// parameters and on the first draw under every observation.
    fn classifiers(&self, executor: &Executor) -> Result<Arc<LocalClassifiers>> {
        let whole = CalibrationWork {
            first: 0,
            count: self.observations,
            ..self.clone()
        };
        let name = serde_json::to_string(&whole)?;
        let mut known = executor
            .classifiers
            .lock()
            .unwrap_or_else(|e| e.into_inner());
        if let Some(found) = known.get(&name) {
            return Ok(Arc::clone(found));
        }
        let all = Executor::sample_ids(0, self.observations);
        let card = &executor.prepared.models[self.model].card;
        let data = &executor.prepared.data[self.data];
        let firsts: Vec<SampleId> = all.iter().map(|index| pack_draw(*index, 1)).collect();
        let truths = data.states(card, executor.key(), &all);
        let draws = self.draw(executor, &firsts)?;
        let observed = self.observed(executor, &all)?;
        let pairs = TrainingPairs {
            truths: truths.view(),
            draws: draws.view(),
            observed: observed.view(),
        };
        let train = || LocalClassifiers::train(&pairs, self.draws, executor.key());
        let found = Arc::new(executor.machine.with_threads(train)?);
        known.insert(name, Arc::clone(&found));
        Ok(found)
    }

    /// The log-densities of the true parameters and of the draws of each observation.
    fn log_densities(
        &self,
        executor: &Executor,
        density: &CalibrationDensity,
        observations: &[SampleId],
        truths: &Batch,
        drawn: &Batch,
    ) -> Result<Vec<DrawDensities>> {
        let model = &executor.prepared.models[self.model];
        let likelihoods = LikelihoodTask {
            curve: &model.curve,
            prior: model.prior,
            solver: &density.solver,
            estimators: std::slice::from_ref(&density.estimator),
            key: executor.key(),
        };
        let with_truths = [observations, &self.draw_addresses(observations)[..]].concat();
        // Observations are in rising order.
        let place = |index: SampleId| observations.partition_point(|other| *other < index);
        let states = |batch: &[SampleId]| {
            let mut states = Batch::zeros((batch.len(), model.dim()));
            for (mut row, address) in states.axis_iter_mut(Axis(0)).zip(batch) {
                let (index, draw) = unpack_draw(*address);
                row.assign(&match draw as usize {
                    0 => truths.row(place(index)),
                    draw => drawn.row(place(index) * self.draws + draw - 1),
                });
            }
            states
        };
        let pool = &executor.pools[self.model];
        let (rows, _) = pool.log_likelihoods(&likelihoods, &with_truths, false, states)?;
        let nothing = DrawDensities {
            truth: None,
            stderr: None,
            draws: vec![None; self.draws],
            status: Status::Ok,
        };
        let mut found = vec![nothing; observations.len()];
        for LikelihoodResult {
            sample,
            log_likelihood,
            stderr,
            status,
            ..
        } in rows
        {
            let (index, draw) = unpack_draw(sample);
            let of = &mut found[place(index)];
            match draw as usize {
                0 => (of.truth, of.stderr) = (log_likelihood, stderr),
                draw => of.draws[draw - 1] = log_likelihood,
            }
            if of.status == Status::Ok {
                of.status = status;
            }
        }
        Ok(found)
    }
}
