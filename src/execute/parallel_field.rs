//! All workers of a pool as one velocity field, for samplers that use a statistic of many samples.

use anyhow::Result;
use ndarray::Axis;

use super::pool::{Worker, WorkerPool, WorkerSpec};
use crate::flow::field::{EvalError, JacobianOperator, Points, VectorField};
use crate::num::key::{RngKey, SampleId};
use crate::num::{Batch, TangentBatch};
use crate::sample::{
    Denoiser, DrawnSamples, ReplayedNoise, SampleRequest, Sampler, SamplerContext,
};

impl WorkerPool<'_> {
    /// Draws samples from their initial noise. Random steps take `step_noise` if it is given. Samplers that need a population evaluate each whole
    /// population together. Each batch or population is passed to `take` in the order of the
    /// samples, as soon as all earlier ones have been passed. Returns the time for Jacobian
    /// products in seconds, which is measured only for samplers that need a population.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated, or if `take` fails.
    pub fn for_each_sample_batch(
        &self,
        sampler: &Sampler,
        samples: &[SampleId],
        key: RngKey,
        noise: impl Fn(&[SampleId]) -> Batch + Sync,
        step_noise: Option<&ReplayedNoise>,
        mut take: impl FnMut(DrawnSamples) -> Result<()> + Send,
    ) -> Result<f64> {
        let (on, prior) = (SamplerContext::for_model(self.model), self.model.prior);
        if let Some(population) = sampler.population() {
            let calls_at = self.model.network_calls()?;
            let mut field = ParallelField {
                calls_at: &calls_at,
                pool: self,
                sampler,
                product_seconds: 0.0,
            };
            for samples in samples.chunks(population) {
                take(sampler.sample(
                    &mut field,
                    &SampleRequest {
                        context: on,
                        prior,
                        key,
                        samples,
                        step_noise,
                    },
                    noise(samples),
                )?)?;
            }
            return Ok(field.product_seconds);
        }
        let needs = WorkerSpec {
            samplers: std::slice::from_ref(sampler),
            ..WorkerSpec::default()
        };
        let work = |worker: &mut Worker, batch: &[SampleId]| {
            sampler.sample(
                worker,
                &SampleRequest {
                    context: on,
                    prior,
                    key,
                    samples: batch,
                    step_noise,
                },
                noise(batch),
            )
        };
        self.for_each_batch(samples, needs, work, take)?;
        Ok(0.0)
    }
}

/// All workers of a pool as one velocity field. The rows of a call are distributed over the workers
/// in batches.
///
/// A sampler that uses a statistic of many samples can then be written for a single large batch.
pub(super) struct ParallelField<'p, 'm> {
    /// The workers.
    pub pool: &'p WorkerPool<'m>,
    /// The sampler that uses the field.
    pub sampler: &'p Sampler,
    /// The number of calls of the network for one row at a time.
    pub calls_at: &'p (dyn Fn(f64) -> u64 + Sync),
    /// The time for Jacobian products so far, in seconds.
    pub product_seconds: f64,
}

impl ParallelField<'_, '_> {
    /// Calls `call` for batches of row indices, in parallel, and returns the results in the order
    /// of the rows.
    fn map_batches<T: Send>(
        &self,
        rows: usize,
        call: impl Fn(&mut Worker, &[usize]) -> Result<T, EvalError> + Sync,
    ) -> Result<Vec<T>, EvalError> {
        let all: Vec<SampleId> = (0..rows as u64).collect();
        let part = |worker: &mut Worker, batch: &[SampleId]| {
            call(
                worker,
                &batch.iter().map(|i| *i as usize).collect::<Vec<_>>(),
            )
        };
        let needs = WorkerSpec {
            samplers: std::slice::from_ref(self.sampler),
            ..WorkerSpec::default()
        };
        self.pool
            .map_batches(&all, needs, part)
            .map_err(into_eval_error)
    }

    /// Calls `call` with the points of each batch, in parallel, and joins the resulting rows.
    fn map_states(
        &self,
        at: Points,
        call: impl Fn(&mut Worker, Points) -> Result<Batch, EvalError> + Sync,
    ) -> Result<Batch, EvalError> {
        let parts = self.map_batches(at.rows(), |worker, rows| {
            call(worker, at.select(rows).points())
        })?;
        let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
        Ok(ndarray::concatenate(Axis(0), &views).expect("rows of one model"))
    }
}

impl ParallelField<'_, '_> {
    /// Calls `call` with the points and directions of each batch, in parallel, and joins the
    /// resulting products.
    fn map_products(
        &mut self,
        at: Points,
        directions: &TangentBatch,
        call: impl Fn(
            &mut dyn JacobianOperator,
            Points,
            &TangentBatch,
        ) -> Result<Option<TangentBatch>, EvalError>
        + Sync,
    ) -> Result<Option<TangentBatch>, EvalError> {
        let began = std::time::Instant::now();
        let parts = self.map_batches(at.rows(), |worker, rows| {
            let missing = || EvalError::Missing("the Jacobian products were not opened".to_owned());
            let jacobian = worker.sources.jacobian.as_mut().ok_or_else(missing)?;
            let points = at.select(rows);
            call(
                jacobian.as_mut(),
                points.points(),
                &directions.select(Axis(1), rows),
            )
        })?;
        self.product_seconds += began.elapsed().as_secs_f64();
        let Some(parts) = parts.into_iter().collect::<Option<Vec<TangentBatch>>>() else {
            return Ok(None);
        };
        let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
        let all = ndarray::concatenate(Axis(1), &views).expect("directions of one model");
        Ok(Some(all))
    }
}

/// Returns the model's own error if the error contains one.
fn into_eval_error(error: anyhow::Error) -> EvalError {
    error
        .downcast::<EvalError>()
        .unwrap_or_else(|e| EvalError::Missing(format!("{e:#}")))
}

impl VectorField for ParallelField<'_, '_> {
    fn dim(&self) -> usize {
        self.pool.model.dim()
    }

    fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
        self.map_states(at, VectorField::velocity)
    }

    fn calls_at(&self, t: f64) -> u64 {
        (self.calls_at)(t)
    }
}

impl Denoiser for ParallelField<'_, '_> {
    fn denoised(&mut self, at: Points) -> Result<Batch, EvalError> {
        self.map_states(at, Denoiser::denoised)
    }

    fn linearized(&mut self) -> Result<&mut dyn JacobianOperator, EvalError> {
        Ok(self)
    }
}

impl JacobianOperator for ParallelField<'_, '_> {
    fn dim(&self) -> usize {
        self.pool.model.dim()
    }

    fn calls_at(&self, t: f64) -> u64 {
        (self.calls_at)(t)
    }

    fn jvp(&mut self, at: Points, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        let products = self.map_products(at, z, |jacobian, at, z| jacobian.jvp(at, z).map(Some))?;
        Ok(products.expect("every worker has them"))
    }

    fn vjp(&mut self, at: Points, w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError> {
        self.map_products(at, w, |jacobian, at, w| jacobian.vjp(at, w))
    }
}
