//! One trial to its rows: batches of samples side by side, each worker with sessions of its own.

mod contrast;

use std::collections::BTreeSet;
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, bail};
use ndarray::{Array2, Array3, Axis};
use rayon::prelude::*;
use serde::Serialize;

use crate::data::{read_npy, write_npy};
use crate::dequantization::{DENSITY, Dequantization, ELBO};
use crate::divergence::{Divergence, Learned, Sources};
use crate::features::images::Coding;
use crate::features::{Extracted, Extractor};
use crate::flow::field::{EvalError, FlowMap, Linearized, ScalarField, VectorField};
use crate::flow::map as flow_map;
use crate::likelihood::calibration::{self, Mass, Proposal, Residual};
use crate::likelihood::{self, NodeValue, Row, Task};
use crate::metric::{self, sample::Sample};
use crate::model::card::Direction;
use crate::model::flow_map::{Derivatives, OnnxMap};
use crate::model::onnx::{Provider, Runtime};
use crate::model::opened::{Model, Options, Tangents, Velocity};
use crate::num::key::{Key, Purpose, SampleId};
use crate::num::stats::Estimate;
use crate::num::{Batch, Blocks, stats};
use crate::plan::{LikelihoodWork, MapWork, PlannedFile, Prepared, Trial, Work, initial_states, solver_label};
use crate::rows::{self, LikelihoodRow, SampleRow};
use crate::sample::steindiff::{SteinDiff, StepLog};
use crate::sample::{self, Denoiser, Draw, Drawn, Sampler, Setting};
use crate::solve::{Solver, refine};
use crate::stein::Stein;

/// How a machine is used; none of it changes a result by more than rounding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    pub provider: Provider,
    /// Samples per call of a network.
    pub batch: usize,
    /// All threads together.
    pub threads: usize,
}

impl Machine {
    /// Does something with this machine's threads and no more.
    ///
    /// # Errors
    /// Where the threads cannot be had.
    pub fn with_threads<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        Ok(rayon::ThreadPoolBuilder::new().num_threads(self.threads).build()?.install(work))
    }
}

/// What a finished trial leaves.
pub struct Output {
    /// The row file's bytes and how many rows it holds.
    pub csv: Vec<u8>,
    pub rows: usize,
    /// The array file's bytes.
    pub array: Option<Vec<u8>>,
    /// The bytes of the log of a sampler's steps.
    pub steps: Option<Vec<u8>>,
}

/// One worker's sessions for one model.
struct Worker {
    /// Opened where a path is followed; few steps of a flow map need none.
    velocity: Option<Velocity>,
    sources: Sources,
    /// Whether its tangents have their transposes too.
    reverse: bool,
    /// Flow maps that were opened with their gradients.
    gradients: BTreeSet<String>,
}

impl Worker {
    fn velocity(&mut self) -> Result<&mut Velocity, EvalError> {
        self.velocity.as_mut().ok_or_else(|| EvalError::Missing("the velocity was not opened".to_owned()))
    }
}

/// A worker as samplers see it: the velocity where they follow it, flow maps where they walk them.
impl VectorField for Worker {
    fn dim(&self) -> usize {
        let map = self.sources.maps.values().next().map(|m| m.dim());
        self.velocity.as_ref().map(VectorField::dim).or(map).unwrap_or_default()
    }

    fn velocity(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        Worker::velocity(self)?.velocity(t, x)
    }
}

impl Denoiser for Worker {
    fn denoised(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        Worker::velocity(self)?.denoised(t, x)
    }

    fn map(&mut self, name: &str) -> Result<&mut dyn FlowMap, EvalError> {
        self.sources.map(name)
    }
}

/// What a batch of work is opened for.
#[derive(Clone, Copy, Default)]
pub struct Needs<'a> {
    pub estimators: &'a [Divergence],
    pub samplers: &'a [Sampler],
}

/// Opens sessions as workers need them and keeps them for the next.
pub struct Pool<'a> {
    model: &'a Model,
    runtime: &'a Runtime,
    machine: Machine,
    idle: Mutex<Vec<Worker>>,
}

impl<'a> Pool<'a> {
    pub fn new(model: &'a Model, runtime: &'a Runtime, machine: Machine) -> Pool<'a> {
        Pool { model, runtime, machine, idle: Mutex::new(Vec::new()) }
    }

    fn take(&self) -> Option<Worker> {
        self.idle.lock().unwrap_or_else(|e| e.into_inner()).pop()
    }

    fn give(&self, worker: Worker) {
        self.idle.lock().unwrap_or_else(|e| e.into_inner()).push(worker);
    }

    /// A worker that has what the estimators and samplers need.
    fn worker(&self, needs: Needs) -> Result<Worker> {
        // A GPU is one worker's; on the CPU every worker keeps to one thread.
        let options = Options { provider: self.machine.provider, threads: 1 };
        let mut worker = match self.take() {
            Some(worker) => worker,
            None => Worker {
                velocity: None,
                sources: Sources { curve: Some(self.model.curve.clone()), ..Sources::default() },
                reverse: false,
                gradients: BTreeSet::new(),
            },
        };
        let Needs { estimators, samplers } = needs;
        let followed = estimators.iter().any(Divergence::takes_solver) || samplers.iter().any(|s| s.map().is_none());
        if worker.velocity.is_none() && followed {
            worker.velocity = Some(self.model.velocity(self.runtime, options)?);
        }
        for estimator in estimators {
            let (products, reverse) = estimator.needs_products();
            if products {
                self.open_tangents(&mut worker, reverse)?;
            }
            if let Some(name) = estimator.head().filter(|h| !worker.sources.heads.contains_key(*h)) {
                let head = self.head(name, &mut worker, options)?;
                worker.sources.heads.insert(name.to_owned(), head);
            }
            match estimator {
                Divergence::FiniteDifference(_) if worker.sources.velocity.is_none() => {
                    let velocity = self.model.velocity(self.runtime, options)?;
                    worker.sources.velocity = Some((Box::new(velocity), self.model.curve.clone()));
                }
                Divergence::FlowMap(f) if !worker.sources.maps.contains_key(&f.map) => {
                    let map = self.model.flow_map(&f.map, self.runtime, options, Derivatives::default())?;
                    worker.sources.maps.insert(f.map.clone(), Box::new(map));
                }
                Divergence::ClosedForm(_) if worker.sources.closed_form.is_none() => {
                    worker.sources.closed_form = Some(Box::new(self.model.closed_form(self.runtime, options)?));
                }
                _ => {}
            }
        }
        if samplers.iter().any(|s| s.cost(&Setting::of(self.model)).products > 0) {
            self.open_tangents(&mut worker, false)?;
        }
        for used in samplers.iter().filter_map(|s| s.map()) {
            let known = worker.sources.maps.contains_key(used.name);
            if !known || (used.gradient && !worker.gradients.contains(used.name)) {
                let derivatives = Derivatives { gradient: used.gradient, products: false };
                let map = self.model.flow_map(used.name, self.runtime, options, derivatives)?;
                worker.sources.maps.insert(used.name.to_owned(), Box::new(map));
                if used.gradient {
                    worker.gradients.insert(used.name.to_owned());
                }
            }
        }
        Ok(worker)
    }

    /// A worker's Jacobian products, where they are not open yet; with their transposes too where `reverse`.
    fn open_tangents(&self, worker: &mut Worker, reverse: bool) -> Result<()> {
        if worker.sources.tangents.is_none() || (reverse && !worker.reverse) {
            let options = Options { provider: self.machine.provider, threads: 1 };
            worker.reverse |= reverse;
            worker.sources.tangents = Some(Box::new(self.model.tangents(self.runtime, options, worker.reverse)?));
        }
        Ok(())
    }

    /// A head, which an output of the velocity's own graph shares the calls of.
    fn head(&self, name: &str, worker: &mut Worker, options: Options) -> Result<Box<dyn ScalarField>> {
        if !self.model.card.is_joint(name) {
            return Ok(Box::new(self.model.head(name, self.runtime, options)?));
        }
        worker.sources.joint.insert(name.to_owned());
        Ok(Box::new(self.model.joint_head(name, worker.velocity()?, self.runtime, options)?))
    }

    /// Opens what the estimators need and calls everything once with two samples, so that a model
    /// at fault is found before a run begins.
    ///
    /// # Errors
    /// Where a file, a port, an operator or a shape is at fault.
    pub fn rehearse(&self, needs: Needs, x: &Batch) -> Result<()> {
        let mut worker = self.worker(needs)?;
        let two = ndarray::concatenate(Axis(0), &[x.view(), x.view()])?;
        let (start, end) = (self.model.curve.data_end(), self.model.curve.prior_end());
        let t = vec![start; two.nrows()];
        let baked = || "a call with two samples failed; is the batch size baked into the graph?".to_owned();
        if let Some(velocity) = &mut worker.velocity {
            velocity.velocity(&t, &two).with_context(baked)?;
        }
        if let Some(tangents) = &mut worker.sources.tangents {
            let z = crate::num::Blocks::ones((2, two.nrows(), two.ncols()));
            tangents.quadratic(&t, &two, &z).with_context(baked)?;
        }
        for head in worker.sources.heads.values_mut() {
            head.eval(&t, &two).with_context(baked)?;
        }
        if let Some(density) = &mut worker.sources.closed_form {
            density.eval(&t, &two).with_context(baked)?;
        }
        let far = vec![end; two.nrows()];
        for (name, map) in &mut worker.sources.maps {
            let to_data = self.model.map_spec(name)?.direction() == Direction::ToData;
            let (from, to) = if to_data { (&far, &t) } else { (&t, &far) };
            map.averages(from, to, &two).with_context(baked)?;
            if worker.gradients.contains(name) {
                map.divergence_gradient(&far, &t, &two).with_context(baked)?;
            }
        }
        self.give(worker);
        Ok(())
    }

    /// Maps batches of samples over the workers, in order.
    fn batches<T: Send>(
        &self,
        samples: &[SampleId],
        needs: Needs,
        work: impl Fn(&mut Worker, &[SampleId]) -> Result<T, EvalError> + Sync,
    ) -> Result<Vec<T>> {
        let cpu = self.machine.provider == Provider::Cpu;
        let threads = if cpu { self.machine.threads } else { 1 };
        // Few samples still make several batches, so that they keep several workers busy. Their
        // size depends on how many samples there are and never on the threads.
        let spread = samples.len().div_ceil(4).next_multiple_of(4);
        let batch = if cpu { self.machine.batch.min(spread.max(1)) } else { self.machine.batch };
        // No more workers than batches, whatever number was asked for.
        let workers = threads.min(samples.len().div_ceil(batch)).max(1);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(workers).build()?;
        pool.install(|| {
            samples
                .par_chunks(batch)
                .map(|batch| {
                    let mut worker = self.worker(needs)?;
                    let result = work(&mut worker, batch);
                    self.give(worker);
                    Ok(result?)
                })
                .collect()
        })
    }

    /// Log-likelihoods of samples, each batch over a path of its own; `states` gives a batch's states.
    ///
    /// # Errors
    /// Where the model cannot be evaluated.
    pub fn likelihoods(
        &self,
        task: &Task,
        samples: &[SampleId],
        record: bool,
        states: impl Fn(&[SampleId]) -> Batch + Sync,
    ) -> Result<(Vec<Row>, Vec<NodeValue>)> {
        let needs = Needs { estimators: task.estimators, ..Needs::default() };
        let parts = self.batches(samples, needs, |worker, batch| {
            let mut nodes = Vec::new();
            let recorder = record.then_some(&mut nodes);
            let x = states(batch);
            let mut rows = likelihood::few_step::evaluate(&mut worker.sources, task, batch, &x)?;
            if let Worker { velocity: Some(velocity), sources, .. } = worker {
                rows.extend(likelihood::evaluate(velocity, sources, task, batch, x, recorder)?);
            }
            Ok((rows, nodes))
        })?;
        let (rows, nodes): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let mut rows: Vec<Row> = rows.into_iter().flatten().collect();
        rows.sort_by_key(|r| (r.estimator, r.sample));
        let mut nodes: Vec<NodeValue> = nodes.into_iter().flatten().collect();
        nodes.sort_by_key(|n| (n.estimator, n.sample));
        Ok((rows, nodes))
    }

    /// The map with its Jacobian, and the velocity's: what identities are held with.
    fn opened_for(&self, work: &MapWork) -> Result<(OnnxMap, Tangents)> {
        let options = Options { provider: self.machine.provider, threads: self.machine.threads };
        let derivatives = Derivatives { gradient: false, products: true };
        let map = self.model.flow_map(&work.map, self.runtime, options, derivatives)?;
        Ok((map, self.model.tangents(self.runtime, options, false)?))
    }

    /// What a flow map makes of its identities, for each number of steps; `all` are the data behind the proposal.
    ///
    /// # Errors
    /// Where the map or the velocity's Jacobian cannot be evaluated.
    pub fn identities(&self, work: &MapWork, key: Key, x: &Batch, all: &Batch) -> Result<Vec<Identity>> {
        let (mut map, mut velocity) = self.opened_for(work)?;
        let (curve, direction) = (&self.model.curve, self.model.map_spec(&work.map)?.direction());
        let mut found = Vec::new();
        for &steps in &work.steps {
            let times = flow_map::times(curve, work.grid, steps).map_err(EvalError::Missing)?;
            let mut fine = flow_map::times(curve, work.grid, 2 * steps).map_err(EvalError::Missing)?;
            if direction == Direction::ToData {
                fine.reverse();
            }
            let setting = calibration::Setting { curve, times: &fine, both_ways: direction == Direction::Both };
            let mut residuals: Vec<Residual> = Vec::new();
            for part in x.axis_chunks_iter(Axis(0), self.machine.batch) {
                for r in calibration::residuals(&mut map, Some(&mut velocity), &setting, part.to_owned())? {
                    match residuals.iter_mut().find(|known| known.check == r.check) {
                        Some(known) => known.values.extend(r.values),
                        None => residuals.push(r),
                    }
                }
            }
            found.extend(residuals.into_iter().map(|residual| Identity { steps, residual, mass: None }));
            if work.draws > 0 {
                let proposal = Proposal::new(all.clone());
                let mut weights = Vec::new();
                for first in (0..work.draws).step_by(self.machine.batch) {
                    let last = (first + self.machine.batch).min(work.draws);
                    let x = proposal.draw(key, first as u64..last as u64);
                    weights.extend(calibration::weights(&mut map, curve, self.model.prior, &times, &proposal, &x)?);
                }
                let residual = Residual { check: "normalization", unit: "mass", values: Vec::new() };
                found.push(Identity { steps, residual, mass: calibration::mass(&weights) });
            }
        }
        Ok(found)
    }

    /// As [`Pool::likelihoods`], each sample from its draws of dequantization noise where it has several.
    ///
    /// # Errors
    /// Where the model cannot be evaluated.
    pub fn draws(
        &self,
        task: &Task,
        dequantization: Option<&Dequantization>,
        samples: &[SampleId],
        record: bool,
        states: impl Fn(&[SampleId]) -> Batch + Sync,
    ) -> Result<(Vec<Row>, Vec<NodeValue>)> {
        let Some(dequantization) = dequantization else { return self.likelihoods(task, samples, record, states) };
        let (rows, nodes) = self.likelihoods(task, &dequantization.addresses(samples), record, states)?;
        Ok((dequantization.combine(rows), nodes))
    }

    /// Residuals of Stein tests, samples × strata × functions; `clean` gives the data of a batch.
    ///
    /// # Errors
    /// Where the model cannot be evaluated.
    pub fn residuals(
        &self,
        spec: &Stein,
        key: Key,
        samples: &[SampleId],
        clean: impl Fn(&[SampleId]) -> Batch + Sync,
    ) -> Result<Array3<f64>> {
        let wanted = [learned(&spec.head)];
        let needs = Needs { estimators: &wanted, ..Needs::default() };
        let parts = self.batches(samples, needs, |worker, batch| {
            let Worker { velocity: Some(velocity), sources, .. } = worker else {
                return Err(EvalError::Missing("the velocity was not opened".to_owned()));
            };
            let missing = || EvalError::Missing(format!("this model has no divergence head `{}`", spec.head));
            let head = sources.heads.get_mut(&spec.head).ok_or_else(missing)?;
            spec.residuals(velocity, &mut **head, &self.model.curve, key, batch, &clean(batch))
        })?;
        let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
        Ok(ndarray::concatenate(Axis(0), &views)?)
    }

    /// End states of samples from their initial noise, row by row; whole populations where a sampler has them.
    ///
    /// # Errors
    /// Where the model cannot be evaluated.
    pub fn samples(
        &self,
        sampler: &Sampler,
        samples: &[SampleId],
        key: Key,
        noise: impl Fn(&[SampleId]) -> Batch + Sync,
    ) -> Result<Sampled> {
        let (on, prior) = (Setting::of(self.model), self.model.prior);
        if sampler.population().is_some() {
            let mut crew = Crew { pool: self, sampler, product_seconds: 0.0 };
            let drawn = sampler.sample(&mut crew, &Draw { on, prior, key, samples }, noise(samples))?;
            return Ok(Sampled { drawn, product_seconds: crew.product_seconds });
        }
        let needs = Needs { samplers: std::slice::from_ref(sampler), ..Needs::default() };
        let parts = self.batches(samples, needs, |worker, batch| {
            sampler.sample(worker, &Draw { on, prior, key, samples: batch }, noise(batch))
        })?;
        let mut drawn = Drawn::none();
        parts.into_iter().for_each(|part| drawn.append(part));
        Ok(Sampled { drawn, product_seconds: 0.0 })
    }
}

/// Samples, and the time that went into Jacobian products.
pub struct Sampled {
    pub drawn: Drawn,
    pub product_seconds: f64,
}

/// All workers of a pool as one field: a call's rows are spread over them in batches.
///
/// What is a statistic of many samples can so be written as if there were one batch.
struct Crew<'p, 'm> {
    pool: &'p Pool<'m>,
    sampler: &'p Sampler,
    product_seconds: f64,
}

impl Crew<'_, '_> {
    /// One call's parts, in order.
    fn spread<T: Send>(
        &self,
        rows: usize,
        call: impl Fn(&mut Worker, &[usize]) -> Result<T, EvalError> + Sync,
    ) -> Result<Vec<T>, EvalError> {
        let all: Vec<SampleId> = (0..rows as u64).collect();
        let part = |worker: &mut Worker, batch: &[SampleId]| {
            call(worker, &batch.iter().map(|i| *i as usize).collect::<Vec<_>>())
        };
        let needs = Needs { samplers: std::slice::from_ref(self.sampler), ..Needs::default() };
        self.pool.batches(&all, needs, part).map_err(unpacked)
    }

    fn states(
        &self,
        t: &[f64],
        x: &Batch,
        call: impl Fn(&mut Worker, &[f64], &Batch) -> Result<Batch, EvalError> + Sync,
    ) -> Result<Batch, EvalError> {
        let parts = self.spread(x.nrows(), |worker, rows| {
            let times: Vec<f64> = rows.iter().map(|i| t[*i]).collect();
            call(worker, &times, &x.select(Axis(0), rows))
        })?;
        let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
        Ok(ndarray::concatenate(Axis(0), &views).expect("rows of one model"))
    }
}

/// The model's own error, where it is one.
fn unpacked(error: anyhow::Error) -> EvalError {
    error.downcast::<EvalError>().unwrap_or_else(|e| EvalError::Missing(format!("{e:#}")))
}

impl VectorField for Crew<'_, '_> {
    fn dim(&self) -> usize {
        self.pool.model.dim()
    }

    fn velocity(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        self.states(t, x, VectorField::velocity)
    }
}

impl Denoiser for Crew<'_, '_> {
    fn denoised(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        self.states(t, x, |worker, t, x| worker.denoised(t, x))
    }

    fn linearized(&mut self) -> Result<&mut dyn Linearized, EvalError> {
        Ok(self)
    }
}

impl Linearized for Crew<'_, '_> {
    fn dim(&self) -> usize {
        self.pool.model.dim()
    }

    fn products(&mut self, t: &[f64], x: &Batch, z: &Blocks) -> Result<Blocks, EvalError> {
        let began = std::time::Instant::now();
        let parts = self.spread(x.nrows(), |worker, rows| {
            let times: Vec<f64> = rows.iter().map(|i| t[*i]).collect();
            let missing = || EvalError::Missing("the Jacobian products were not opened".to_owned());
            let tangents = worker.sources.tangents.as_mut().ok_or_else(missing)?;
            tangents.products(&times, &x.select(Axis(0), rows), &z.select(Axis(1), rows))
        })?;
        let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
        let all = ndarray::concatenate(Axis(1), &views).expect("directions of one model");
        self.product_seconds += began.elapsed().as_secs_f64();
        Ok(all)
    }
}

/// One identity of a flow map in one number of steps.
pub struct Identity {
    pub steps: usize,
    pub residual: Residual,
    /// In place of residuals, for the normalization.
    pub mass: Option<Mass>,
}

/// Everything that trials are executed with.
pub struct Stage<'a> {
    pub prepared: &'a Prepared,
    pub runtime: &'a Runtime,
    pub machine: Machine,
    pools: Vec<Pool<'a>>,
}

impl<'a> Stage<'a> {
    pub fn new(prepared: &'a Prepared, runtime: &'a Runtime, machine: Machine) -> Stage<'a> {
        let pools = prepared.models.iter().map(|m| Pool::new(m, runtime, machine)).collect();
        Stage { prepared, runtime, machine, pools }
    }

    /// Opens and calls once whatever the plan's trials need.
    ///
    /// # Errors
    /// Where a model or an extractor is at fault.
    pub fn rehearse(&self) -> Result<()> {
        let plan = &self.prepared.plan;
        for (index, pool) in self.pools.iter().enumerate() {
            let (mut needed, mut samplers): (Vec<Divergence>, Vec<Sampler>) = (Vec::new(), Vec::new());
            for trial in plan.trials.iter().filter(|t| t.work.model() == index) {
                match &trial.work {
                    Work::Likelihood(w) | Work::Profile(w) | Work::Budget(w) => {
                        needed.extend(w.estimators.iter().cloned())
                    }
                    Work::Density { estimator, .. } => needed.push(estimator.clone()),
                    Work::Sample { sampler, .. } => samplers.push(sampler.clone()),
                    Work::Maps(w) => drop(pool.opened_for(w)?),
                    Work::Stein { stein, .. } => needed.push(learned(&stein.head)),
                    _ => {}
                }
            }
            pool.rehearse(Needs { estimators: &needed, samplers: &samplers }, &Batch::zeros((1, pool.model.dim())))
                .with_context(|| pool.model.path.display().to_string())?;
        }
        for trial in &plan.trials {
            let Work::Metrics { extractor, metrics, .. } = &trial.work else { continue };
            let opened = extractor.as_ref().map(|file| self.extractor(file)).transpose()?;
            let classifies = opened.is_some_and(|e| e.classifies());
            if let Some(metric) = metrics.iter().find(|m| m.needs_logits() && !classifies) {
                bail!("metrics: {} needs an extractor with class logits", metric.name());
            }
        }
        Ok(())
    }

    fn key(&self) -> Key {
        Key { seed: self.prepared.plan.seed }
    }

    /// Carries out one trial; `array` reads the array of an earlier one.
    ///
    /// # Errors
    /// Where the model cannot be evaluated or a statistic cannot be computed.
    pub fn execute(&self, trial: &Trial, array: &dyn Fn(&str) -> Result<Vec<u8>>) -> Result<Output> {
        match &trial.work {
            Work::Likelihood(w) => self.likelihood(&trial.id, w),
            Work::Profile(w) => self.profile(w),
            Work::Budget(w) => self.budget(w),
            Work::Maps(w) => self.maps(w),
            Work::Contrast(w) => self.contrast(w, array),
            Work::Density { .. } => self.density(&trial.work),
            Work::Stein { model, data, stein } => self.stein(*model, *data, stein),
            Work::Sample { .. } => self.sample(&trial.id, &trial.work),
            Work::Metrics { .. } => self.metrics(&trial.work, array),
        }
    }

    fn task<'t>(&'t self, w: &'t LikelihoodWork) -> Task<'t> {
        let model = &self.prepared.models[w.model];
        Task { curve: &model.curve, prior: model.prior, solver: &w.solver, estimators: &w.estimators, key: self.key() }
    }

    fn ranged(first: usize, count: usize) -> Vec<SampleId> {
        (first as u64..(first + count) as u64).collect()
    }

    fn rows_of(&self, w: &LikelihoodWork, record: bool) -> Result<(Vec<Row>, Vec<NodeValue>)> {
        let (model, data) = (&self.prepared.models[w.model], &self.prepared.data[w.data]);
        let samples = Stage::ranged(w.first, w.count);
        let states = |batch: &[SampleId]| data.states(&model.card, self.key(), batch);
        // A profile is of one draw: its nodes belong to one path.
        let dequantization = w.dequantization.as_ref().filter(|_| !record);
        self.pools[w.model].draws(&self.task(w), dequantization, &samples, record, states)
    }

    fn likelihood(&self, id: &str, w: &LikelihoodWork) -> Result<Output> {
        let plan = &self.prepared.plan;
        let (rows, _) = self.rows_of(w, false)?;
        let card = &self.prepared.models[w.model].card;
        let bound = match &w.dequantization {
            Some(dequantization) => dequantization.bound(),
            None if self.prepared.data[w.data].quantized(card) => ELBO,
            None => DENSITY,
        };
        let label = |r: &Row| w.estimators[r.estimator].label();
        write_rows(rows.iter().map(|r| {
            let per_dim = r.log_likelihood.map(|l| likelihood::nats_per_dim(l, card.dim()));
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
                bits_per_dim: bits.map(|(l, offset)| likelihood::bits_per_dim(l, card.dim(), offset)),
                nats_per_dim: per_dim,
                evaluations: r.evaluations,
                jvps: r.jvps,
                head_calls: r.head_calls,
                status: r.status.as_str().to_owned(),
                path_seconds: r.path_seconds,
                divergence_seconds: r.divergence_seconds,
                bound: bound.to_owned(),
                draws: w.draws(),
                dequantization_stderr: r.dequantization_stderr,
            }
        }))
    }

    fn maps(&self, w: &MapWork) -> Result<Output> {
        let (plan, opened, data) = (&self.prepared.plan, &self.prepared.models[w.model], &self.prepared.data[w.data]);
        let all = data.states(&opened.card, self.key(), &Stage::ranged(0, data.len()));
        let samples = Stage::ranged(0, w.samples);
        let x = match opened.map_spec(&w.map)?.direction() {
            Direction::ToData => sample::noise(self.key(), &samples, opened.dim(), opened.prior.std),
            _ => data.states(&opened.card, self.key(), &samples),
        };
        let found = self.pools[w.model].identities(w, self.key(), &x, &all)?;
        let mut rows = Vec::new();
        for Identity { steps, residual: Residual { check, unit, values }, mass } in found {
            let sound: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
            let Some(estimate) = mass.map(|m| m.estimate).or(stats::mean(&sound)) else { continue };
            rows.push(rows::MapRow {
                model: plan.models[w.model].name.clone(),
                dataset: plan.data[w.data].name.clone(),
                map: w.map.clone(),
                check: check.to_owned(),
                steps,
                unit: unit.to_owned(),
                residual: if mass.is_some() { estimate.value - 1.0 } else { estimate.value },
                residual_stderr: estimate.stderr,
                rms: stats::rms(&sound),
                n: estimate.n,
                effective_n: mass.map(|m| m.effective),
            });
        }
        write_rows(rows.into_iter())
    }

    fn profile(&self, w: &LikelihoodWork) -> Result<Output> {
        let plan = &self.prepared.plan;
        let curve = &self.prepared.models[w.model].curve;
        let (_, nodes) = self.rows_of(w, true)?;
        let drawn = |n: &&NodeValue| !matches!(w.estimators[n.estimator], Divergence::ClosedForm(_));
        write_rows(nodes.iter().filter(drawn).map(|n| rows::Profile {
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

    /// The same samples with finer and coarser steps, and from states moved by one rounding of float32
    /// there and back: their second difference keeps the rounding of the networks and loses what is linear.
    fn budget(&self, w: &LikelihoodWork) -> Result<Output> {
        let (plan, model) = (&self.prepared.plan, &self.prepared.models[w.model]);
        let data = &self.prepared.data[w.data];
        let samples = Stage::ranged(w.first, w.count);
        let again = |solver: Option<&Solver>, move_by: f64| -> Result<Vec<Option<f64>>> {
            let Some(solver) = solver else { return Ok(vec![None; w.estimators.len() * w.count]) };
            let states = |batch: &[SampleId]| {
                let mut x = data.states(&model.card, self.key(), batch);
                if move_by != 0.0 {
                    for (mut row, sample) in x.rows_mut().into_iter().zip(batch) {
                        let u = self.key().uniform(Purpose::Rounding, *sample, 0, row.len());
                        row *= &u.mapv(|u| if u < 0.5 { 1.0 - move_by } else { 1.0 + move_by });
                    }
                }
                x
            };
            let task = Task { solver, ..self.task(w) };
            let (rows, _) = self.pools[w.model].likelihoods(&task, &samples, false, states)?;
            Ok(rows.iter().map(|r| r.log_likelihood).collect())
        };
        let (finer, coarser) = (refine::finer(&w.solver), refine::coarser(&w.solver));
        let ulp = f64::from(f32::EPSILON);
        let base = again(Some(&w.solver), 0.0)?;
        let [finer, coarser] = [again(finer.as_ref(), 0.0)?, again(coarser.as_ref(), 0.0)?];
        let [ahead, behind] = [again(Some(&w.solver), ulp)?, again(Some(&w.solver), -ulp)?];
        write_rows((0..base.len()).map(|i| rows::Refined {
            model: plan.models[w.model].name.clone(),
            dataset: plan.data[w.data].name.clone(),
            estimator: w.estimators[i / w.count].label(),
            solver: solver_label(&w.solver),
            sample: w.first + i % w.count,
            log_likelihood: base[i],
            finer: finer[i],
            coarser: coarser[i],
            ahead: ahead[i],
            behind: behind[i],
            order: w.solver.evaluations().map(|_| w.solver.order()),
        }))
    }

    fn density(&self, work: &Work) -> Result<Output> {
        let Work::Density { model, solver, estimator, grid } = work else {
            return Err(anyhow!("not a density"));
        };
        let opened = &self.prepared.models[*model];
        let at = |range: [f64; 2], i: usize| range[0] + (range[1] - range[0]) * i as f64 / (grid.points - 1) as f64;
        let point = |i: usize| [at(grid.x, i % grid.points), at(grid.y, i / grid.points)];
        let estimators = std::slice::from_ref(estimator);
        let task = Task { curve: &opened.curve, prior: opened.prior, solver, estimators, key: self.key() };
        let samples = Stage::ranged(0, grid.points * grid.points);
        let states = |batch: &[SampleId]| Array2::from_shape_fn((batch.len(), 2), |(i, j)| point(batch[i] as usize)[j]);
        let (rows, _) = self.pools[*model].likelihoods(&task, &samples, false, states)?;
        write_rows(rows.iter().map(|r| {
            let [x, y] = point(r.sample as usize);
            let model = self.prepared.plan.models[*model].name.clone();
            rows::Density { model, estimator: estimator.label(), x, y, log_density: r.log_likelihood }
        }))
    }

    fn stein(&self, model: usize, data: usize, spec: &Stein) -> Result<Output> {
        let (opened, set, key) = (&self.prepared.models[model], &self.prepared.data[data], self.key());
        let samples = Stage::ranged(0, spec.samples);
        let clean = |batch: &[SampleId]| {
            let again: Vec<SampleId> = batch.iter().map(|i| i % set.len() as u64).collect();
            set.states(&opened.card, key, &again)
        };
        let residuals = self.pools[model].residuals(spec, key, &samples, clean)?;
        let found = spec.findings(&opened.curve, key, opened.dim(), &residuals);
        let plan = &self.prepared.plan;
        let row = |function: String, from: f64, to: f64, mean: Estimate| rows::Stein {
            model: plan.models[model].name.clone(),
            dataset: plan.data[data].name.clone(),
            head: spec.head.clone(),
            from,
            to,
            function,
            n: mean.n,
            mean: Some(mean.value).filter(|v| v.is_finite()),
            stderr: mean.stderr,
            z: None,
            p: None,
            bits_per_dim: None,
            bits_per_dim_stderr: None,
        };
        let tests = found.residuals.into_iter().map(|r| rows::Stein {
            z: Some(r.z).filter(|z| z.is_finite()),
            p: Some(r.p).filter(|p| p.is_finite()),
            ..row(r.function, r.from, r.to, r.mean)
        });
        let bits = |nats: f64| nats / (opened.dim() as f64 * std::f64::consts::LN_2);
        let levels = opened.card.bits_offset().is_some();
        let bias = rows::Stein {
            // More nats of log-likelihood are fewer bits.
            bits_per_dim: levels.then(|| -bits(found.bias.value)).filter(|v| v.is_finite()),
            bits_per_dim_stderr: found.bias.stderr.filter(|_| levels).map(bits),
            ..row("bias".to_owned(), opened.curve.data_end(), opened.curve.prior_end(), found.bias)
        };
        write_rows(tests.chain([bias]))
    }

    fn sample(&self, id: &str, work: &Work) -> Result<Output> {
        let Work::Sample { model, sampler, noise: given, first, count } = work else {
            return Err(anyhow!("not samples"));
        };
        let (opened, count) = (&self.prepared.models[*model], *count);
        let samples = Stage::ranged(*first, count);
        let given = given.map(|data| initial_states(&self.prepared.data[data], opened)).transpose()?;
        let began = std::time::Instant::now();
        let noise = |batch: &[SampleId]| match &given {
            Some(states) => states.select(Axis(0), &batch.iter().map(|i| *i as usize).collect::<Vec<_>>()),
            None => sample::noise(self.key(), batch, opened.dim(), opened.prior.std),
        };
        let Sampled { drawn, product_seconds } = self.pools[*model].samples(sampler, &samples, self.key(), noise)?;
        let seconds = began.elapsed().as_secs_f64() / count as f64;
        let x = &drawn.x;
        let finite = |i: usize| x.row(i).iter().all(|v| v.is_finite());
        let name = &self.prepared.plan.models[*model].name;
        let mut output = write_rows(samples.iter().enumerate().map(|(i, s)| SampleRow {
            trial: id.to_owned(),
            model: name.clone(),
            sampler: sampler.label(),
            sample: *s as usize,
            status: if finite(i) { "ok" } else { "non-finite" }.to_owned(),
            evaluations: drawn.evaluations[i],
            jvps: drawn.products[i],
            seconds,
            log_density: drawn.log_density.as_ref().map(|d| d[i]).filter(|d| d.is_finite()),
            jvp_seconds: product_seconds / count as f64,
        }))?;
        output.array = Some(write_npy(x, &opened.card.shape)?);
        if let Sampler::SteinDiff(around) = sampler {
            output.steps = Some(write_rows(drawn.log.iter().map(|step| step_row(name, around, step)))?.csv);
        }
        Ok(output)
    }

    fn metrics(&self, work: &Work, array: &dyn Fn(&str) -> Result<Vec<u8>>) -> Result<Output> {
        let Work::Metrics { model, sampler, parts, floor, reference, extractor, metrics } = work else {
            return Err(anyhow!("not metrics"));
        };
        let (opened, plan) = (&self.prepared.models[*model], &self.prepared.plan);
        let states = |data: usize| {
            let data = &self.prepared.data[data];
            data.states(&opened.card, self.key(), &Stage::ranged(0, data.len()))
        };
        let real = states(*reference);
        let generated = match floor {
            Some(data) => states(*data),
            None => {
                let parts: Vec<Batch> = parts.iter().map(|id| read_npy(&array(id)?)).collect::<Result<_>>()?;
                let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
                ndarray::concatenate(Axis(0), &views)?
            }
        };
        let finite = |x: &Batch| -> Batch {
            let keep: Vec<usize> = (0..x.nrows()).filter(|i| x.row(*i).iter().all(|v| v.is_finite())).collect();
            x.select(Axis(0), &keep)
        };
        let generated = finite(&generated);
        let (a, b) = match extractor {
            Some(file) => {
                let mut extractor = self.extractor(file)?;
                let shape = &opened.card.shape;
                let coding = opened.card.data.map(|d| Coding::Range(d.range));
                let mut extract = |x: &Batch| extractor.extract(x.view(), shape, coding);
                (extract(&generated)?, extract(&real)?)
            }
            None => (Extracted::plain(generated), Extracted::plain(real.clone())),
        };
        // As planned; what it really was is in the samples' own rows, from which tables take it.
        let cost = sampler.as_ref().map(|s| s.cost(&Setting::of(opened))).unwrap_or_default();
        let mut rows = Vec::new();
        let sides = || Ok((sample_of(&a)?, sample_of(&b)?));
        let (x, y) = self.machine.with_threads(sides)?.map_err(|e: String| anyhow!(e))?;
        for metric in metrics {
            let measure = || metric::measure(metric, &x, &y, self.key());
            let estimate = (self.machine.with_threads(measure)?).map_err(|e| anyhow!("{}: {e}", metric.name()))?;
            rows.push(rows::MetricRow {
                model: plan.models[*model].name.clone(),
                sampler: sampler.as_ref().map_or("data".to_owned(), Sampler::label),
                metric: metric.name().to_owned(),
                value: estimate.value,
                stderr: estimate.stderr,
                n_generated: x.len(),
                n_reference: y.len(),
                evaluations: cost.evaluations as f64,
                jvps: cost.products as f64,
                cost: cost.evaluations as f64,
                features: extractor.as_ref().map_or("raw".to_owned(), |e| e.name.clone()),
            });
        }
        let mut output = write_rows(rows.into_iter())?;
        // A few of the data stay with the run, so that a report can show them without the data's files.
        let shown = real.slice(ndarray::s![..real.nrows().min(SHOWN), ..]).to_owned();
        output.array = Some(write_npy(&shown, &opened.card.shape)?);
        Ok(output)
    }

    fn extractor(&self, file: &PlannedFile) -> Result<Extractor> {
        let known = self.prepared.extractors.iter().find(|(f, _)| f == file);
        let (_, path) = known.ok_or_else(|| anyhow!("no extractor {}", file.name))?;
        Extractor::open(path, self.runtime, self.machine.provider, self.machine.threads)
    }
}

/// The log of one step as a row.
fn step_row(model: &str, around: &SteinDiff, step: &StepLog) -> rows::Step {
    let known = step.statistics;
    let mode = serde_json::to_value(around.mode).unwrap_or_default();
    rows::Step {
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
        gamma_raw: known.map(|s| s.raw),
        gamma_probe_stderr: known.and_then(|s| s.probe_stderr),
        gamma_stderr: known.and_then(|s| s.stderr),
        action: step.action.as_str().to_owned(),
        divergence: known.map_or("", |s| if s.differentiated { "jacobian" } else { "linear" }).to_owned(),
        s_xu: known.map(|s| s.xu),
        s_uu: known.map(|s| s.uu),
        s_div: known.map(|s| s.div),
        coupling: known.and_then(|s| s.coupling),
        blend: step.blend,
        evaluations: step.evaluations,
        jvps: step.products,
    }
}

fn learned(head: &str) -> Divergence {
    Divergence::Learned(Learned { head: head.to_owned() })
}

/// Samples of the data that a metrics trial keeps for the report.
const SHOWN: usize = 512;

fn sample_of(extracted: &Extracted) -> Result<Sample<'_>, String> {
    Ok(Sample::new(&extracted.features)?.with_logits(extracted.logits.as_ref().map(|l| l.view())))
}

fn write_rows<T: Serialize>(rows: impl Iterator<Item = T>) -> Result<Output> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut count = 0;
    for row in rows {
        writer.serialize(row)?;
        count += 1;
    }
    let csv = writer.into_inner().map_err(|e| anyhow!("{}", e.error()))?;
    Ok(Output { csv, rows: count, array: None, steps: None })
}
