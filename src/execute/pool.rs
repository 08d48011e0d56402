//! Sessions for one model, opened as workers need them, and batches of samples spread over the workers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use ndarray::Axis;
use rayon::prelude::*;

use super::crew::Crew;
use crate::dequantization::Dequantization;
use crate::divergence::{Divergence, Kind, Sources};
use crate::flow::field::{EvalError, FlowMap, ScalarField, VectorField};
use crate::likelihood::{self, NodeValue, Row, Task};
use crate::model::card::Direction;
use crate::model::flow_map::Derivatives;
use crate::model::onnx::{Provider, Runtime};
use crate::model::opened::{JacobianOptions, Model, Options, Velocity};
use crate::num::Batch;
use crate::num::key::{Key, SampleId};
use crate::progress::Meter;
use crate::sample::{Denoiser, Draw, Drawn, Sampler, Setting};
use crate::stop;

/// How a machine is used; none of it changes a result by more than rounding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    pub provider: Provider,
    /// Samples per call of a network, where somebody says.
    pub batch: Option<usize>,
    /// All threads together.
    pub threads: usize,
}

/// Samples per call of a network on a GPU, where nobody says.
const GPU_BATCH: usize = 32;

impl Machine {
    /// Samples per call of a model's network: as was said, or what suits its size.
    pub fn batch(&self, model: &Model) -> usize {
        self.batch.unwrap_or_else(|| {
            if self.provider.on_processor() {
                model.usual_batch()
            } else {
                GPU_BATCH
            }
        })
    }

    /// Does something with this machine's threads and no more.
    ///
    /// # Errors
    /// Where the threads cannot be had.
    pub fn with_threads<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        Ok(rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads)
            .build()?
            .install(work))
    }
}

/// How samples are divided among workers.
pub(super) struct Division {
    /// Samples of one batch.
    batch: usize,
    workers: usize,
    /// Threads inside one call of a network: those that no batch is left for.
    pub(super) inside: usize,
}

/// One worker's sessions for one model.
pub(super) struct Worker {
    /// Opened where a path is followed; few steps of a flow map need none.
    pub(super) velocity: Option<Velocity>,
    pub(super) sources: Sources,
    /// Threads inside one call of its networks.
    threads: usize,
    /// What its tangents were opened with.
    jacobian: JacobianOptions,
    /// Flow maps that were opened with their gradients.
    gradients: BTreeSet<String>,
}

impl Worker {
    fn velocity(&mut self) -> Result<&mut Velocity, EvalError> {
        self.velocity
            .as_mut()
            .ok_or_else(|| EvalError::Missing("the velocity was not opened".to_owned()))
    }
}

/// A worker as samplers see it: the velocity where they follow it, flow maps where they walk them.
impl VectorField for Worker {
    fn dim(&self) -> usize {
        let map = self.sources.maps.values().next().map(|m| m.dim());
        self.velocity
            .as_ref()
            .map(VectorField::dim)
            .or(map)
            .unwrap_or_default()
    }

    fn velocity(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        Worker::velocity(self)?.velocity(t, x)
    }

    fn is_smooth(&self) -> bool {
        self.velocity.as_ref().is_some_and(VectorField::is_smooth)
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
    pub(super) model: &'a Model,
    pub(super) runtime: &'a Runtime,
    pub(super) machine: Machine,
    idle: Mutex<Vec<Worker>>,
    /// Counts the rows that were asked for.
    meter: Arc<Meter>,
}

impl<'a> Pool<'a> {
    pub fn new(model: &'a Model, runtime: &'a Runtime, machine: Machine) -> Pool<'a> {
        Pool {
            model,
            runtime,
            machine,
            idle: Mutex::new(Vec::new()),
            meter: Arc::default(),
        }
    }

    /// The same pool, counting on a meter that others may share.
    pub fn metered(self, meter: Arc<Meter>) -> Pool<'a> {
        Pool { meter, ..self }
    }

    /// What counts the rows of this pool's work.
    pub fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }

    /// An idle worker with so many threads in a call; those with another number are given up.
    fn take(&self, threads: usize) -> Option<Worker> {
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        idle.retain(|worker| worker.threads == threads);
        idle.pop()
    }

    pub(super) fn give(&self, worker: Worker) {
        self.idle
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .push(worker);
    }

    /// A worker that has what the estimators and samplers need, with so many threads in a call of a network.
    pub(super) fn worker(&self, needs: Needs, threads: usize) -> Result<Worker> {
        let options = Options {
            provider: self.machine.provider,
            threads,
        };
        let mut worker = match self.take(threads) {
            Some(worker) => worker,
            None => Worker {
                velocity: None,
                sources: Sources {
                    curve: Some(self.model.curve.clone()),
                    apart: self
                        .model
                        .card
                        .divergence_heads
                        .keys()
                        .any(|head| self.model.card.is_joint(head)),
                    ..Sources::default()
                },
                threads,
                jacobian: JacobianOptions::default(),
                gradients: BTreeSet::new(),
            },
        };
        let Needs {
            estimators,
            samplers,
        } = needs;
        let followed = estimators.iter().any(Divergence::takes_solver)
            || samplers.iter().any(|s| s.map().is_none());
        if worker.velocity.is_none() && followed {
            worker.velocity = Some(self.model.velocity(self.runtime, options)?);
        }
        for estimator in estimators {
            let (products, reverse) = estimator.needs_products();
            if products {
                let trace = estimator.kind() == Kind::OdeExact;
                self.open_tangents(&mut worker, JacobianOptions { reverse, trace })?;
            }
            if let Some(name) = estimator
                .head()
                .filter(|h| !worker.sources.heads.contains_key(*h))
            {
                let head = self.head(name, &mut worker, options)?;
                worker.sources.heads.insert(name.to_owned(), head);
            }
            match estimator {
                Divergence::FiniteDifference(_) if worker.sources.velocity.is_none() => {
                    let velocity = self.model.velocity(self.runtime, options)?;
                    worker.sources.velocity = Some((Box::new(velocity), self.model.curve.clone()));
                }
                Divergence::FlowMap(f) if !worker.sources.maps.contains_key(&f.map) => {
                    let map = self.model.flow_map(
                        &f.map,
                        self.runtime,
                        options,
                        Derivatives::default(),
                    )?;
                    worker.sources.maps.insert(f.map.clone(), Box::new(map));
                }
                Divergence::ClosedForm(_) if worker.sources.closed_form.is_none() => {
                    worker.sources.closed_form =
                        Some(Box::new(self.model.closed_form(self.runtime, options)?));
                }
                _ => {}
            }
        }
        if samplers
            .iter()
            .any(|s| s.cost(&Setting::of(self.model)).products > 0)
        {
            self.open_tangents(&mut worker, JacobianOptions::default())?;
        }
        for used in samplers.iter().filter_map(|s| s.map()) {
            let known = worker.sources.maps.contains_key(used.name);
            if !known || (used.gradient && !worker.gradients.contains(used.name)) {
                let derivatives = Derivatives {
                    gradient: used.gradient,
                    products: false,
                };
                let map = self
                    .model
                    .flow_map(used.name, self.runtime, options, derivatives)?;
                worker
                    .sources
                    .maps
                    .insert(used.name.to_owned(), Box::new(map));
                if used.gradient {
                    worker.gradients.insert(used.name.to_owned());
                }
            }
        }
        Ok(worker)
    }

    /// A worker's Jacobian products with what else is wanted of them, where they are not open yet.
    fn open_tangents(&self, worker: &mut Worker, wanted: JacobianOptions) -> Result<()> {
        let known = worker.jacobian;
        let wanted = JacobianOptions {
            reverse: known.reverse || wanted.reverse,
            trace: known.trace || wanted.trace,
        };
        if worker.sources.tangents.is_none() || wanted != known {
            let options = Options {
                provider: self.machine.provider,
                threads: worker.threads,
            };
            worker.jacobian = wanted;
            worker.sources.tangents = Some(Box::new(self.model.tangents(
                self.runtime,
                options,
                wanted,
            )?));
        }
        Ok(())
    }

    /// A head, which an output of the velocity's own graph shares the calls of.
    fn head(
        &self,
        name: &str,
        worker: &mut Worker,
        options: Options,
    ) -> Result<Box<dyn ScalarField>> {
        if !self.model.card.is_joint(name) {
            return Ok(Box::new(self.model.head(name, self.runtime, options)?));
        }
        worker.sources.joint.insert(name.to_owned());
        Ok(Box::new(self.model.joint_head(
            name,
            worker.velocity()?,
            self.runtime,
            options,
        )?))
    }

    /// Opens what the estimators need, as work on so many `samples` will use it, and calls everything once with two of
    /// them, so that a model at fault is found before a run begins.
    ///
    /// # Errors
    /// Where a file, a port, an operator or a shape is at fault.
    pub fn rehearse(&self, needs: Needs, samples: usize, x: &Batch) -> Result<()> {
        let mut worker = self.worker(needs, self.division(samples).inside)?;
        let two = ndarray::concatenate(Axis(0), &[x.view(), x.view()])?;
        let (start, end) = (self.model.curve.data_end(), self.model.curve.prior_end());
        let t = vec![start; two.nrows()];
        let first = || "a first call, with two samples, failed".to_owned();
        if let Some(velocity) = &mut worker.velocity {
            velocity.velocity(&t, &two).with_context(first)?;
        }
        if let Some(tangents) = &mut worker.sources.tangents {
            let z = crate::num::Blocks::ones((2, two.nrows(), two.ncols()));
            tangents.quadratic(&t, &two, &z).with_context(first)?;
            // Products may come from a graph of their own.
            tangents.products(&t, &two, &z).with_context(first)?;
            tangents.trace_terms(&t, &two).with_context(first)?;
            if worker.jacobian.reverse {
                tangents.transposed(&t, &two, &z).with_context(first)?;
            }
        }
        for head in worker.sources.heads.values_mut() {
            head.eval(&t, &two).with_context(first)?;
        }
        if let Some(density) = &mut worker.sources.closed_form {
            density.eval(&t, &two).with_context(first)?;
        }
        let far = vec![end; two.nrows()];
        for (name, map) in &mut worker.sources.maps {
            let to_data = self.model.map_spec(name)?.direction() == Direction::ToData;
            let (from, to) = if to_data { (&far, &t) } else { (&t, &far) };
            map.averages(from, to, &two).with_context(first)?;
            if worker.gradients.contains(name) {
                map.divergence_gradient(&far, &t, &two)
                    .with_context(first)?;
            }
        }
        self.give(worker);
        Ok(())
    }

    /// How samples are divided. Few samples still make several batches, so that they keep several workers busy; the
    /// batches' size depends on how many samples there are and never on the threads.
    pub(super) fn division(&self, samples: usize) -> Division {
        let batch = self.machine.batch(self.model);
        if !self.machine.provider.on_processor() {
            // A GPU is one worker's.
            return Division {
                batch,
                workers: 1,
                inside: 1,
            };
        }
        let few = samples.div_ceil(4).max(1);
        let batch = batch.min(if few < 4 && self.model.takes_few_rows() {
            few
        } else {
            few.next_multiple_of(4)
        });
        // No more workers than batches, whatever number was asked for.
        let workers = self.machine.threads.min(samples.div_ceil(batch)).max(1);
        Division {
            batch,
            workers,
            inside: (self.machine.threads / workers).max(1),
        }
    }

    /// Maps batches of samples over the workers, in order.
    pub(super) fn batches<T: Send>(
        &self,
        samples: &[SampleId],
        needs: Needs,
        work: impl Fn(&mut Worker, &[SampleId]) -> Result<T, EvalError> + Sync,
    ) -> Result<Vec<T>> {
        let mut all = Vec::new();
        self.each_batch(samples, needs, work, |part| {
            all.push(part);
            Ok(())
        })?;
        Ok(all)
    }

    /// As [`Pool::batches`], handing on each batch's result as soon as all before it are there.
    fn each_batch<T: Send>(
        &self,
        samples: &[SampleId],
        needs: Needs,
        work: impl Fn(&mut Worker, &[SampleId]) -> Result<T, EvalError> + Sync,
        take: impl FnMut(T) -> Result<()> + Send,
    ) -> Result<()> {
        let Division {
            batch,
            workers,
            inside,
        } = self.division(samples.len());
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(workers)
            .build()?;
        let queue = Mutex::new(InOrder {
            next: 0,
            waiting: BTreeMap::new(),
            take,
        });
        let one = |(place, batch): (usize, &[SampleId])| -> Result<()> {
            if stop::asked() {
                return Err(EvalError::Stopped.into());
            }
            let mut worker = self.worker(needs, inside)?;
            self.meter.enter(batch.len());
            let result = work(&mut worker, batch);
            self.give(worker);
            let result = result?;
            self.meter.leave(batch.len());
            queue
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .put(place, result)
        };
        // Workers fetch the batches one after the other, so that results come nearly in order.
        pool.install(|| {
            samples
                .chunks(batch)
                .enumerate()
                .par_bridge()
                .try_for_each(one)
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
        let needs = Needs {
            estimators: task.estimators,
            ..Needs::default()
        };
        let parts = self.batches(samples, needs, |worker, batch| {
            evaluated(worker, task, batch, states(batch), record)
        })?;
        let (rows, nodes): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let mut rows: Vec<Row> = rows.into_iter().flatten().collect();
        rows.sort_by_key(|r| (r.estimator, r.sample));
        let mut nodes: Vec<NodeValue> = nodes.into_iter().flatten().collect();
        nodes.sort_by_key(|n| (n.estimator, n.sample));
        Ok((rows, nodes))
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
        let Some(dequantization) = dequantization else {
            return self.likelihoods(task, samples, record, states);
        };
        let (rows, nodes) =
            self.likelihoods(task, &dequantization.addresses(samples), record, states)?;
        Ok((dequantization.combine(rows), nodes))
    }

    /// As [`Pool::draws`], handing on the rows of samples as soon as theirs and all before them are there.
    ///
    /// # Errors
    /// Where the model cannot be evaluated, and those of `take`.
    pub fn each_draw(
        &self,
        task: &Task,
        dequantization: Option<&Dequantization>,
        samples: &[SampleId],
        states: impl Fn(&[SampleId]) -> Batch + Sync,
        mut take: impl FnMut(Vec<Row>) -> Result<()> + Send,
    ) -> Result<()> {
        let needs = Needs {
            estimators: task.estimators,
            ..Needs::default()
        };
        let draws = dequantization.map_or(1, |d| d.draws());
        let addresses = dequantization.map_or_else(|| samples.to_vec(), |d| d.addresses(samples));
        let work = |worker: &mut Worker, batch: &[SampleId]| {
            Ok((
                batch.len(),
                evaluated(worker, task, batch, states(batch), false)?.0,
            ))
        };
        let (mut arrived, mut finished) = (0, 0);
        let mut waiting: Vec<Row> = Vec::new();
        self.each_batch(&addresses, needs, work, |(count, rows)| {
            arrived += count;
            waiting.extend(rows);
            // A sample is done with its last draw.
            let done: BTreeSet<SampleId> = addresses[finished..arrived / draws * draws]
                .iter()
                .copied()
                .collect();
            finished += done.len();
            let (mut ready, rest) = std::mem::take(&mut waiting)
                .into_iter()
                .partition(|r: &Row| done.contains(&r.sample));
            waiting = rest;
            if let Some(dequantization) = dequantization {
                ready = dequantization.combine(ready);
            }
            ready.sort_by_key(|r: &Row| (r.sample, r.estimator));
            if ready.is_empty() {
                Ok(())
            } else {
                take(ready)
            }
        })
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
        let mut drawn = Drawn::none();
        let product_seconds = self.each_sample(sampler, samples, key, noise, |part| {
            drawn.append(part);
            Ok(())
        })?;
        Ok(Sampled {
            drawn,
            product_seconds,
        })
    }

    /// As [`Pool::samples`], handing on each batch, or each population, as soon as it and all before it are there; the
    /// seconds that went into Jacobian products.
    ///
    /// # Errors
    /// Where the model cannot be evaluated, and those of `take`.
    pub fn each_sample(
        &self,
        sampler: &Sampler,
        samples: &[SampleId],
        key: Key,
        noise: impl Fn(&[SampleId]) -> Batch + Sync,
        mut take: impl FnMut(Drawn) -> Result<()> + Send,
    ) -> Result<f64> {
        let (on, prior) = (Setting::of(self.model), self.model.prior);
        if let Some(population) = sampler.population() {
            let mut crew = Crew {
                pool: self,
                sampler,
                product_seconds: 0.0,
            };
            for samples in samples.chunks(population) {
                take(sampler.sample(
                    &mut crew,
                    &Draw {
                        on,
                        prior,
                        key,
                        samples,
                    },
                    noise(samples),
                )?)?;
            }
            return Ok(crew.product_seconds);
        }
        let needs = Needs {
            samplers: std::slice::from_ref(sampler),
            ..Needs::default()
        };
        let work = |worker: &mut Worker, batch: &[SampleId]| {
            sampler.sample(
                worker,
                &Draw {
                    on,
                    prior,
                    key,
                    samples: batch,
                },
                noise(batch),
            )
        };
        self.each_batch(samples, needs, work, take)?;
        Ok(0.0)
    }
}

/// One batch under every estimator, with its nodes where `record`.
fn evaluated(
    worker: &mut Worker,
    task: &Task,
    batch: &[SampleId],
    x: Batch,
    record: bool,
) -> Result<(Vec<Row>, Vec<NodeValue>), EvalError> {
    let mut nodes = Vec::new();
    let recorder = record.then_some(&mut nodes);
    let mut rows = likelihood::few_step::evaluate(&mut worker.sources, task, batch, &x)?;
    if let Worker {
        velocity: Some(velocity),
        sources,
        ..
    } = worker
    {
        rows.extend(likelihood::evaluate(
            velocity, sources, task, batch, x, recorder,
        )?);
    }
    Ok((rows, nodes))
}

/// Results that arrive in any order and are handed on in that of their places.
struct InOrder<T, F> {
    next: usize,
    waiting: BTreeMap<usize, T>,
    take: F,
}

impl<T, F: FnMut(T) -> Result<()>> InOrder<T, F> {
    fn put(&mut self, place: usize, result: T) -> Result<()> {
        self.waiting.insert(place, result);
        while let Some(result) = self.waiting.remove(&self.next) {
            self.next += 1;
            (self.take)(result)?;
        }
        Ok(())
    }
}

/// Samples, and the time that went into Jacobian products.
pub struct Sampled {
    pub drawn: Drawn,
    pub product_seconds: f64,
}
