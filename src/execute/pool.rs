//! A pool of workers for one model. Each worker opens the sessions that it needs; batches of
//! samples are distributed over the workers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use ndarray::Axis;
use rayon::prelude::*;

use crate::dequantization::Dequantization;
use crate::divergence::{
    ControlDivergence, DivergenceEstimator, ModelHandles, ProductPlan, ReverseVariance,
};
use crate::flow::field::{EvalError, FlowMap, Points, ScalarField, VectorField};
use crate::likelihood::continuous_bound::{BoundIntegrand, continuous_bound_integrands};
use crate::likelihood::{self, LikelihoodResult, LikelihoodTask, NodeDivergence};
use crate::model::card::FlowMapDirection;
use crate::model::flow_map::FlowMapDerivatives;
use crate::model::loaded::{JacobianOptions, Model, SessionOptions, Velocity};
use crate::model::onnx::{Provider, Runtime};
use crate::num::Batch;
use crate::num::key::SampleId;
use crate::progress::Meter;
use crate::rows::EstimateKind;
use crate::sample::{Denoiser, Sampler, SamplerContext};
use crate::stop;

/// How the program uses the machine. None of it changes a result by more than rounding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ComputeOptions {
    /// The execution provider that runs the networks.
    pub provider: Provider,
    /// The number of samples per call of a network; `None` for the default.
    pub batch_size: Option<usize>,
    /// The number of threads of all workers together.
    pub threads: usize,
}

impl ComputeOptions {
    /// The number of samples per call of the model's networks. The default depends on the model's
    /// size and on the provider.
    pub fn batch_size(&self, model: &Model) -> usize {
        self.batch_size
            .unwrap_or_else(|| model.default_batch_size(self.provider))
    }

    /// Runs `work` on a thread pool with the configured number of threads.
    ///
    /// # Errors
    /// Fails if the threads cannot be started.
    pub fn with_threads<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        Ok(rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads)
            .build()?
            .install(work))
    }
}

/// How samples are divided into batches for the workers.
pub(super) struct BatchSplit {
    /// The number of samples of one batch.
    pub(super) batch_size: usize,
    /// The number of workers.
    pub(super) workers: usize,
    /// The number of threads inside one call of a network: the threads that would otherwise have no
    /// batch.
    pub(super) threads_per_call: usize,
}

/// A worker with its sessions for one model.
pub(super) struct Worker {
    /// The velocity. It is opened if a path is followed; a flow map does not need it.
    pub(super) velocity: Option<Velocity>,
    /// The model's parts that estimators and samplers use.
    pub(super) sources: ModelHandles,
    /// The number of threads inside one call of a network.
    threads_per_call: usize,
    /// The options with which the Jacobian products were opened.
    jacobian_options: JacobianOptions,
    /// The derivatives with which the flow maps were opened, by the names of the maps.
    map_derivatives: BTreeMap<String, FlowMapDerivatives>,
}

impl Worker {
    /// Returns the velocity.
    ///
    /// # Errors
    /// Fails if the velocity was not opened.
    fn velocity_mut(&mut self) -> Result<&mut Velocity, EvalError> {
        self.velocity
            .as_mut()
            .ok_or_else(|| EvalError::Missing("the velocity was not opened".to_owned()))
    }
}

/// A worker is the field that samplers use. Its dimension is that of the velocity, or else of a
/// flow map.
impl VectorField for Worker {
    fn dim(&self) -> usize {
        let map = self.sources.flow_maps.values().next().map(|m| m.dim());
        self.velocity
            .as_ref()
            .map(VectorField::dim)
            .or(map)
            .unwrap_or_default()
    }

    fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
        Worker::velocity_mut(self)?.velocity(at)
    }

    fn is_smooth(&self) -> bool {
        self.velocity.as_ref().is_some_and(VectorField::is_smooth)
    }

    fn calls_at(&self, t: f64) -> u64 {
        self.velocity.as_ref().map_or(1, |v| v.calls_at(t))
    }
}

impl Denoiser for Worker {
    fn denoised(&mut self, at: Points) -> Result<Batch, EvalError> {
        Worker::velocity_mut(self)?.denoised(at)
    }

    fn flow_map(&mut self, name: &str) -> Result<&mut dyn FlowMap, EvalError> {
        self.sources.flow_map(name)
    }
}

/// The estimators and samplers that a worker must be able to evaluate.
#[derive(Clone, Copy, Default)]
pub struct WorkerSpec<'a> {
    /// The divergence estimators.
    pub estimators: &'a [DivergenceEstimator],
    /// The samplers.
    pub samplers: &'a [Sampler],
}

/// A pool of workers for one model, which keeps idle workers with their sessions for the next
/// batch.
pub struct WorkerPool<'a> {
    pub(super) model: &'a Model,
    pub(super) runtime: &'a Runtime,
    pub(super) machine: ComputeOptions,
    /// The workers that no batch uses at the moment.
    idle: Mutex<Vec<Worker>>,
    /// The threads of the workers, by their number. A sampler with populations divides the rows of
    /// every call of its network, so that starting threads each time would cost more than the call.
    thread_pools: Mutex<BTreeMap<usize, Arc<rayon::ThreadPool>>>,
    /// Counts the rows of the pool's work.
    row_meter: Arc<Meter>,
}

impl<'a> WorkerPool<'a> {
    /// Creates a pool without workers.
    pub fn new(model: &'a Model, runtime: &'a Runtime, machine: ComputeOptions) -> WorkerPool<'a> {
        WorkerPool {
            model,
            runtime,
            machine,
            idle: Mutex::new(Vec::new()),
            thread_pools: Mutex::default(),
            row_meter: Arc::default(),
        }
    }

    /// Replaces the pool's meter by one that several pools can share.
    pub fn with_meter(self, meter: Arc<Meter>) -> WorkerPool<'a> {
        WorkerPool {
            row_meter: meter,
            ..self
        }
    }

    /// The meter that counts the rows of the pool's work.
    pub fn meter(&self) -> Arc<Meter> {
        self.row_meter.clone()
    }

    /// The threads for this number of workers.
    ///
    /// # Errors
    /// Fails if the threads cannot be started.
    fn thread_pool(&self, workers: usize) -> Result<Arc<rayon::ThreadPool>> {
        let mut pools = self.thread_pools.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(pool) = pools.get(&workers) {
            return Ok(pool.clone());
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(workers)
            .build()?;
        Ok(pools.entry(workers).or_insert(Arc::new(pool)).clone())
    }

    /// Takes an idle worker with this number of threads per call. Idle workers with another number
    /// are dropped.
    fn take_idle_worker(&self, threads: usize) -> Option<Worker> {
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        idle.retain(|worker| worker.threads_per_call == threads);
        idle.pop()
    }

    /// Closes the sessions of all idle workers.
    pub(super) fn close_idle_workers(&self) {
        self.idle.lock().unwrap_or_else(|e| e.into_inner()).clear();
    }

    /// Returns a worker to the pool.
    pub(super) fn release_worker(&self, worker: Worker) {
        self.idle
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .push(worker);
    }

    /// Returns a worker with everything that the estimators and samplers need, and with `threads`
    /// threads in each call of a network.
    ///
    /// # Errors
    /// Fails if a network cannot be opened.
    pub(super) fn acquire_worker(&self, needs: WorkerSpec, threads: usize) -> Result<Worker> {
        let options = SessionOptions {
            provider: self.machine.provider,
            threads,
        };
        let mut worker = match self.take_idle_worker(threads) {
            Some(worker) => worker,
            None => Worker {
                velocity: None,
                sources: ModelHandles {
                    curve: Some(self.model.curve.clone()),
                    data: self.model.card.data,
                    separate_velocity: self
                        .model
                        .card
                        .divergence_heads
                        .keys()
                        .any(|head| self.model.card.is_joint(head)),
                    ..ModelHandles::default()
                },
                threads_per_call: threads,
                jacobian_options: JacobianOptions::default(),
                map_derivatives: BTreeMap::new(),
            },
        };
        let WorkerSpec {
            estimators,
            samplers,
        } = needs;
        let followed = estimators.iter().any(DivergenceEstimator::needs_velocity)
            || samplers.iter().any(|s| s.flow_map().is_none());
        if worker.velocity.is_none() && followed {
            worker.velocity = Some(self.model.velocity(self.runtime, options)?);
        }
        let (dim, control) = (self.model.dim(), ControlDivergence::State);
        let plan = ProductPlan::for_estimators(estimators, dim, &control);
        for estimator in estimators {
            let (products, reverse) = estimator.needs_jvp_and_vjp();
            if products {
                let trace = estimator.kind() == EstimateKind::OdeExact;
                self.open_tangents(
                    &mut worker,
                    JacobianOptions {
                        vjp: reverse,
                        exact_trace: trace,
                        whole: plan == ProductPlan::Jacobian,
                    },
                )?;
            }
            if let Some(name) = estimator
                .head()
                .filter(|h| !worker.sources.heads.contains_key(*h))
            {
                let head = self.open_head(name, &mut worker, options)?;
                worker.sources.heads.insert(name.to_owned(), head);
            }
            match estimator {
                DivergenceEstimator::FiniteDifference(_)
                    if worker.sources.difference_velocity.is_none() =>
                {
                    let velocity = self.model.velocity(self.runtime, options)?;
                    worker.sources.difference_velocity =
                        Some((Box::new(velocity), self.model.curve.clone()));
                }
                DivergenceEstimator::FlowMap(f) => {
                    let derivatives = FlowMapDerivatives {
                        divergence_gradient: false,
                        jacobian: f.has_log_determinants(),
                    };
                    self.open_flow_map(&mut worker, &f.map, derivatives, options)?;
                }
                DivergenceEstimator::DiscreteBound(bound)
                    if bound.variance == ReverseVariance::Learned
                        && worker.sources.variances.is_none() =>
                {
                    let network = self.model.learned_variances(self.runtime, options)?;
                    worker.sources.variances = Some(Box::new(network));
                }
                DivergenceEstimator::OneCall(_) if worker.sources.one_call.is_none() => {
                    worker.sources.one_call =
                        Some(Box::new(self.model.one_call(self.runtime, options)?));
                }
                DivergenceEstimator::ClosedForm(_) if worker.sources.closed_form.is_none() => {
                    worker.sources.closed_form =
                        Some(Box::new(self.model.closed_form(self.runtime, options)?));
                }
                _ => {}
            }
        }
        let context = SamplerContext::for_model(self.model);
        let with_products = |s: &&Sampler| s.flow_map().is_none() && s.cost(&context).products > 0;
        for sampler in samplers.iter().filter(with_products) {
            let options = JacobianOptions {
                vjp: sampler.needs_vjp(),
                exact_trace: false,
                whole: false,
            };
            self.open_tangents(&mut worker, options)?;
        }
        for used in samplers.iter().filter_map(|s| s.flow_map()) {
            let derivatives = FlowMapDerivatives {
                divergence_gradient: used.gradient,
                jacobian: used.jacobian,
            };
            self.open_flow_map(&mut worker, used.name, derivatives, options)?;
        }
        Ok(worker)
    }

    /// Opens a flow map for a worker with the given derivatives and those that it already has, unless
    /// it is open with them.
    fn open_flow_map(
        &self,
        worker: &mut Worker,
        name: &str,
        needed: FlowMapDerivatives,
        options: SessionOptions,
    ) -> Result<()> {
        let known = worker.map_derivatives.get(name).copied();
        let all = needed.or(known.unwrap_or_default());
        if known == Some(all) {
            return Ok(());
        }
        let map = self.model.flow_map(name, self.runtime, options, all)?;
        let sources = &mut worker.sources;
        sources.flow_maps.insert(name.to_owned(), Box::new(map));
        if self.model.flow_map_spec(name)?.direction() == FlowMapDirection::ToData {
            sources.maps_to_data.insert(name.to_owned());
        }
        worker.map_derivatives.insert(name.to_owned(), all);
        Ok(())
    }

    /// Opens a worker's Jacobian products with the given options and those it already has, unless
    /// they are open.
    fn open_tangents(&self, worker: &mut Worker, options_needed: JacobianOptions) -> Result<()> {
        let known = worker.jacobian_options;
        let options_needed = JacobianOptions {
            vjp: known.vjp || options_needed.vjp,
            exact_trace: known.exact_trace || options_needed.exact_trace,
            whole: known.whole || options_needed.whole,
        };
        if worker.sources.jacobian.is_none() || options_needed != known {
            let options = SessionOptions {
                provider: self.machine.provider,
                threads: worker.threads_per_call,
            };
            worker.jacobian_options = options_needed;
            worker.sources.jacobian = Some(Box::new(self.model.jacobian(
                self.runtime,
                options,
                options_needed,
            )?));
        }
        Ok(())
    }

    /// Opens a head. A head that is an output of the velocity's own graph shares the velocity's
    /// calls.
    fn open_head(
        &self,
        name: &str,
        worker: &mut Worker,
        options: SessionOptions,
    ) -> Result<Box<dyn ScalarField>> {
        if !self.model.card.is_joint(name) {
            return Ok(Box::new(self.model.head(name, self.runtime, options)?));
        }
        worker.sources.joint_heads.insert(name.to_owned());
        Ok(Box::new(self.model.joint_head(
            name,
            worker.velocity_mut()?,
            self.runtime,
            options,
        )?))
    }

    /// Opens everything that work on `samples` samples needs, and calls every network once with two
    /// samples. An invalid model is found before a run begins.
    ///
    /// # Errors
    /// Fails if a network cannot be opened or called, or if an output has the wrong shape.
    pub fn dry_run(&self, needs: WorkerSpec, samples: usize, x: &Batch) -> Result<()> {
        let mut worker = self.acquire_worker(needs, self.batch_split(samples).threads_per_call)?;
        // Samples with the lowest and the highest class of a condition show whether the network
        // knows all classes.
        let mut ids: Vec<SampleId> = self.model.conditions.extreme_samples(samples as SampleId);
        ids.extend([0, 1].iter().take(2usize.saturating_sub(ids.len())));
        let views = vec![x.view(); ids.len()];
        let two = ndarray::concatenate(Axis(0), &views)?;
        let (start, end) = (self.model.curve.data_end(), self.model.curve.prior_end());
        let t = vec![start; two.nrows()];
        let at = Points::new(&ids, &t, &two);
        let first = || {
            let values = self.model.conditions.describe_samples(&ids);
            format!("a first call, with {} samples{values}, failed", ids.len())
        };
        if let Some(velocity) = &mut worker.velocity {
            velocity.velocity(at).with_context(first)?;
        }
        if let Some(tangents) = &mut worker.sources.jacobian {
            let z = crate::num::TangentBatch::ones((2, two.nrows(), two.ncols()));
            tangents.quadratic_form(at, &z).with_context(first)?;
            // The products can come from a graph of their own, so they are called separately.
            tangents.jvp(at, &z).with_context(first)?;
            tangents.trace_terms(at).with_context(first)?;
            tangents.jacobian(at).with_context(first)?;
            if worker.jacobian_options.vjp {
                tangents.vjp(at, &z).with_context(first)?;
            }
        }
        for head in worker.sources.heads.values_mut() {
            head.eval(at).with_context(first)?;
        }
        if let Some(density) = &mut worker.sources.closed_form {
            density.eval(at).with_context(first)?;
        }
        if let Some(density) = &mut worker.sources.one_call {
            density.log_density(at).with_context(first)?;
        }
        let far = vec![end; two.nrows()];
        for (name, map) in &mut worker.sources.flow_maps {
            let to_data = self.model.flow_map_spec(name)?.direction() == FlowMapDirection::ToData;
            let (from, to) = if to_data { (&far, &t) } else { (&t, &far) };
            map.averages(Points { t: from, ..at }, to)
                .with_context(first)?;
            let opened = worker.map_derivatives.get(name).copied();
            let opened = opened.unwrap_or_default();
            if opened.divergence_gradient {
                map.divergence_gradient(Points { t: &far, ..at }, &t)
                    .with_context(first)?;
            }
            if opened.jacobian {
                let tangent = crate::num::TangentBatch::ones((1, two.nrows(), two.ncols()));
                map.jvp(Points { t: from, ..at }, to, &tangent)
                    .with_context(first)?;
            }
        }
        if let Some(variances) = &mut worker.sources.variances {
            variances
                .forward(at)
                .with_context(|| "network.variance_channels: the first call of the network")?;
        }
        self.release_worker(worker);
        Ok(())
    }

    /// Divides samples into batches. A few samples are still divided into several batches, so that
    /// several workers have work. The size of a batch depends on the number of threads only where
    /// a test showed that it changes no byte of a result.
    pub(super) fn batch_split(&self, samples: usize) -> BatchSplit {
        let batch = self.machine.batch_size(self.model);
        if !self.machine.provider.runs_on_cpu() {
            // While the GPU computes a batch of one worker, the other worker prepares its next call.
            return BatchSplit {
                batch_size: batch,
                workers: self
                    .machine
                    .threads
                    .min(samples.div_ceil(batch))
                    .clamp(1, 2),
                threads_per_call: 1,
            };
        }
        let unpadded = self.model.allows_unpadded_calls();
        let parts = if unpadded {
            self.machine.threads.clamp(1, 4)
        } else {
            4
        };
        let few = samples.div_ceil(parts).max(1);
        let batch = batch.min(if few < 4 && unpadded {
            few
        } else {
            few.next_multiple_of(4)
        });
        // More workers than batches would have no work.
        let workers = self.machine.threads.min(samples.div_ceil(batch)).max(1);
        BatchSplit {
            batch_size: batch,
            workers,
            threads_per_call: (self.machine.threads / workers).max(1),
        }
    }

    /// Calls `work` in each of `workers` threads at the same time, and returns all results.
    ///
    /// # Errors
    /// Fails if the threads cannot be started, or if `work` fails.
    pub(super) fn in_every_worker<T: Send>(
        &self,
        workers: usize,
        work: impl Fn() -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let threads = self.thread_pool(workers)?;
        threads.install(|| (0..workers).into_par_iter().map(|_| work()).collect())
    }

    /// Calls `work` for each batch of samples, in parallel, and returns the results in the order of
    /// the samples.
    ///
    /// # Errors
    /// Fails if a worker cannot be opened, if `work` fails, or if the program was asked to stop.
    pub(super) fn map_batches<T: Send>(
        &self,
        samples: &[SampleId],
        needs: WorkerSpec,
        work: impl Fn(&mut Worker, &[SampleId]) -> Result<T, EvalError> + Sync,
    ) -> Result<Vec<T>> {
        let mut all = Vec::new();
        self.for_each_batch(samples, needs, work, |part| {
            all.push(part);
            Ok(())
        })?;
        Ok(all)
    }

    /// Calls `work` for each batch of samples, in parallel. Each result is passed to `take` in the
    /// order of the samples, as soon as all earlier results have been passed.
    ///
    /// # Errors
    /// Fails like [`WorkerPool::map_batches`], or if `take` fails.
    pub(super) fn for_each_batch<T: Send>(
        &self,
        samples: &[SampleId],
        needs: WorkerSpec,
        work: impl Fn(&mut Worker, &[SampleId]) -> Result<T, EvalError> + Sync,
        take: impl FnMut(T) -> Result<()> + Send,
    ) -> Result<()> {
        let BatchSplit {
            batch_size: batch,
            workers,
            threads_per_call: inside,
        } = self.batch_split(samples.len());
        let threads = self.thread_pool(workers)?;
        let queue = Mutex::new(ReorderBuffer {
            next: 0,
            waiting: BTreeMap::new(),
            emit: take,
        });
        let one = |(place, batch): (usize, &[SampleId])| -> Result<()> {
            if stop::requested() {
                return Err(EvalError::Stopped.into());
            }
            let mut worker = self.acquire_worker(needs, inside)?;
            self.row_meter.batch_started(batch.len());
            let result = work(&mut worker, batch);
            self.release_worker(worker);
            let result = result?;
            self.row_meter.batch_finished(batch.len());
            queue
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .insert(place, result)
        };
        // Workers fetch the batches one after the other, so results arrive nearly in order and few
        // must wait.
        threads.install(|| {
            samples
                .chunks(batch)
                .enumerate()
                .par_bridge()
                .try_for_each(one)
        })
    }

    /// Computes the log-likelihoods of samples. `states` gives the states of a batch. With
    /// `record`, the divergence at every node is returned as well.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    pub fn log_likelihoods(
        &self,
        task: &LikelihoodTask,
        samples: &[SampleId],
        record: bool,
        states: impl Fn(&[SampleId]) -> Batch + Sync,
    ) -> Result<(Vec<LikelihoodResult>, Vec<NodeDivergence>)> {
        let needs = WorkerSpec {
            estimators: task.estimators,
            ..WorkerSpec::default()
        };
        let parts = self.map_batches(samples, needs, |worker, batch| {
            evaluate_batch(worker, task, batch, states(batch), record)
        })?;
        let (rows, nodes): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let mut rows: Vec<LikelihoodResult> = rows.into_iter().flatten().collect();
        rows.sort_by_key(|r| (r.estimator, r.sample));
        let mut nodes: Vec<NodeDivergence> = nodes.into_iter().flatten().collect();
        nodes.sort_by_key(|n| (n.estimator, n.sample));
        Ok((rows, nodes))
    }

    /// Computes the integrands of the continuous bounds among the estimators of the task. `states`
    /// gives the states of a batch.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    pub fn bound_integrands(
        &self,
        task: &LikelihoodTask,
        samples: &[SampleId],
        states: impl Fn(&[SampleId]) -> Batch + Sync,
    ) -> Result<Vec<BoundIntegrand>> {
        let needs = WorkerSpec {
            estimators: task.estimators,
            ..WorkerSpec::default()
        };
        let parts = self.map_batches(samples, needs, |worker, batch| {
            let velocity = worker.velocity_mut()?;
            continuous_bound_integrands(velocity, task, batch, &states(batch))
        })?;
        let mut all: Vec<BoundIntegrand> = parts.into_iter().flatten().collect();
        all.sort_by_key(|one| (one.estimator, one.sample));
        Ok(all)
    }

    /// Computes log-likelihoods like [`WorkerPool::log_likelihoods`]. With `dequantization`, the
    /// rows of a sample's noise draws are combined into one. The rows of each sample are passed to
    /// `take` in the order of the samples, as soon as all earlier rows have been passed.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated, or if `take` fails.
    pub fn for_each_dequantized_log_likelihood(
        &self,
        task: &LikelihoodTask,
        dequantization: Option<&Dequantization>,
        samples: &[SampleId],
        states: impl Fn(&[SampleId]) -> (Batch, Vec<f64>) + Sync,
        mut take: impl FnMut(Vec<LikelihoodResult>) -> Result<()> + Send,
    ) -> Result<()> {
        let needs = WorkerSpec {
            estimators: task.estimators,
            ..WorkerSpec::default()
        };
        let draws = dequantization.map_or(1, |d| d.draw_count());
        let addresses =
            dequantization.map_or_else(|| samples.to_vec(), |d| d.draw_addresses(samples));
        let work = |worker: &mut Worker, batch: &[SampleId]| {
            let (states, corrections) = states(batch);
            let (mut rows, _) = evaluate_batch(worker, task, batch, states, false)?;
            for row in &mut rows {
                let place = batch.iter().position(|sample| *sample == row.sample);
                let correction = place.map_or(0.0, |i| corrections[i]);
                row.log_likelihood = row.log_likelihood.map(|value| value + correction);
            }
            Ok((batch.len(), rows))
        };
        let (mut arrived, mut finished) = (0, 0);
        let mut waiting: Vec<LikelihoodResult> = Vec::new();
        self.for_each_batch(&addresses, needs, work, |(count, rows)| {
            arrived += count;
            waiting.extend(rows);
            // A sample is complete when its last draw has arrived.
            let done: BTreeSet<SampleId> = addresses[finished..arrived / draws * draws]
                .iter()
                .copied()
                .collect();
            finished += done.len();
            let (mut ready, rest) = std::mem::take(&mut waiting)
                .into_iter()
                .partition(|r: &LikelihoodResult| done.contains(&r.sample));
            waiting = rest;
            if let Some(dequantization) = dequantization {
                ready = dequantization.combine_rows(ready);
            }
            ready.sort_by_key(|r: &LikelihoodResult| (r.sample, r.estimator));
            if ready.is_empty() {
                Ok(())
            } else {
                take(ready)
            }
        })
    }
}

/// Evaluates all estimators on one batch. With `record`, the divergence at every node is returned
/// as well.
fn evaluate_batch(
    worker: &mut Worker,
    task: &LikelihoodTask,
    batch: &[SampleId],
    x: Batch,
    record: bool,
) -> Result<(Vec<LikelihoodResult>, Vec<NodeDivergence>), EvalError> {
    let mut nodes = Vec::new();
    let recorder = record.then_some(&mut nodes);
    let mut rows =
        likelihood::few_step::evaluate_few_step_likelihoods(&mut worker.sources, task, batch, &x)?;
    rows.extend(likelihood::one_call::evaluate_one_call_densities(
        &mut worker.sources,
        task,
        batch,
        &x,
    )?);
    if let Worker {
        velocity: Some(velocity),
        sources,
        ..
    } = worker
    {
        rows.extend(likelihood::continuous_bound::evaluate_continuous_bounds(
            velocity, task, batch, &x,
        )?);
        rows.extend(likelihood::discrete_bound::evaluate_discrete_bounds(
            velocity, sources, task, batch, &x,
        )?);
        if task
            .estimators
            .iter()
            .any(DivergenceEstimator::needs_solver)
        {
            rows.extend(likelihood::evaluate_likelihoods(
                velocity, sources, task, batch, x, recorder,
            )?);
        }
    }
    Ok((rows, nodes))
}

/// A buffer for results that arrive in any order. It passes them on in the order of their
/// positions.
struct ReorderBuffer<T, F> {
    /// The position of the next result to pass on.
    next: usize,
    /// The results that wait for earlier ones.
    waiting: BTreeMap<usize, T>,
    /// The function that receives the results in order.
    emit: F,
}

impl<T, F: FnMut(T) -> Result<()>> ReorderBuffer<T, F> {
    /// Adds a result, and passes on all results that are next in order.
    fn insert(&mut self, place: usize, result: T) -> Result<()> {
        self.waiting.insert(place, result);
        while let Some(result) = self.waiting.remove(&self.next) {
            self.next += 1;
            (self.emit)(result)?;
        }
        Ok(())
    }
}
