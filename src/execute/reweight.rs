//! Weights of samples for a target, as rows.

use anyhow::{Context, Result, anyhow};

use super::{ExecuteWork, Executor, TrialOutput, TrialTask, write_rows};
use crate::model::loaded::SessionOptions;
use crate::model::state_function::StateFunction;
use crate::num::Batch;
use crate::num::key::SampleId;
use crate::plan::{PlannedFile, ReweightWork};
use crate::rows::{Status, WeightRow};
use crate::sample::DrawnSamples;

impl ExecuteWork for ReweightWork {
    fn dry_run(&self, executor: &Executor) -> Result<()> {
        let model = &executor.prepared.models[self.model];
        let (mut energy, observables) = self.open_functions(executor)?;
        let two = Batch::zeros((2, model.dim()));
        energy.check_samples(2, &model.card.shape)?;
        for (_, mut observable) in observables {
            observable.check_samples(2, &model.card.shape)?;
            // A value may be no number at this state, which says nothing about samples.
            observable.call_once(two.view(), &model.card.shape)?;
        }
        energy.call_once(two.view(), &model.card.shape)
    }

    fn execute(&self, executor: &Executor, task: &TrialTask) -> Result<TrialOutput> {
        let model = &executor.prepared.models[self.model];
        let mut drawn = DrawnSamples::empty();
        executor.for_each_sample_batch(&self.sample_work(), task.samples, |batch| {
            drawn.append(batch);
            Ok(())
        })?;
        let log_density = drawn.log_density.unwrap_or_default();
        let is_ok = |i: usize| log_density.get(i).is_some_and(|value| value.is_finite());
        let kept: Vec<usize> = (0..task.samples.len()).filter(|i| is_ok(*i)).collect();
        let samples: Vec<SampleId> = kept.iter().map(|i| task.samples[*i]).collect();
        let x = drawn.x.select(ndarray::Axis(0), &kept);
        let (mut energy, observables) = self.open_functions(executor)?;
        let shape = &model.card.shape;
        let energies = energy.evaluate(&samples, x.view(), shape)?;
        let mut observed = vec![Vec::new(); kept.len()];
        for (name, mut observable) in observables {
            let values = observable.evaluate(&samples, x.view(), shape)?;
            for (texts, value) in observed.iter_mut().zip(values) {
                texts.push(format!("{name}={value}"));
            }
        }
        let name = &executor.prepared.plan.models[self.model].name;
        let target = self.target_name(executor);
        write_rows(task.samples.iter().enumerate().map(|(i, sample)| {
            let place = kept.binary_search(&i).ok();
            let log_likelihood = place.map(|_| log_density[i]);
            let energy = place.map(|place| energies[place]);
            let stderr = drawn.log_density_stderrs.get(i).copied();
            WeightRow {
                model: name.clone(),
                sampler: self.sampler.label(),
                estimator: self.density.label(),
                target: target.clone(),
                sample: *sample as usize,
                status: if place.is_some() {
                    Status::Ok
                } else {
                    Status::NonFinite
                },
                log_likelihood,
                stderr: stderr.filter(|e| e.is_finite() && place.is_some()),
                energy,
                log_weight: log_likelihood.zip(energy).map(|(log_q, u)| -u - log_q),
                observables: place.map_or(String::new(), |place| observed[place].join(" ")),
                evaluations: drawn.evaluations[i],
                jvps: drawn.products[i],
            }
        }))
    }
}

impl ReweightWork {
    /// The name of the energy's file.
    fn target_name(&self, executor: &Executor) -> String {
        let of_card = || {
            let energy = executor.prepared.models[self.model].card.energy.as_ref()?;
            Some(energy.file.display().to_string())
        };
        match &self.energy {
            Some(file) => file.name.clone(),
            None => of_card().unwrap_or_default(),
        }
    }

    /// Opens the energy, and each observable with its name.
    ///
    /// # Errors
    /// Fails if a file cannot be opened or is not a function of states.
    fn open_functions(
        &self,
        executor: &Executor,
    ) -> Result<(StateFunction, Vec<(String, StateFunction)>)> {
        let options = SessionOptions {
            provider: executor.machine.provider,
            threads: executor.machine.threads,
        };
        let open = |file: &PlannedFile, scale: f64| {
            let known = executor.prepared.extractors.iter();
            let (_, path) = known
                .clone()
                .find(|(known, _)| known == file)
                .ok_or_else(|| anyhow!("the plan has no path of {}", file.name))?;
            StateFunction::open(path, scale, executor.runtime, options)
        };
        let energy = match &self.energy {
            Some(file) => open(file, self.energy_scale).context("energy")?,
            None => executor.prepared.models[self.model].energy(executor.runtime, options)?,
        };
        let observables = self
            .observables
            .iter()
            .map(|file| {
                let name = file.name.trim_end_matches(".onnx").replace([' ', '='], "_");
                Ok((name, open(file, 1.0).context("observables")?))
            })
            .collect::<Result<_>>()?;
        Ok((energy, observables))
    }
}
