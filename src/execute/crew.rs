//! All workers of a pool as one field, for what is a statistic of many samples.

use ndarray::Axis;

use super::pool::{Needs, Pool, Worker};
use crate::flow::field::{EvalError, Linearized, VectorField};
use crate::num::key::SampleId;
use crate::num::{Batch, Blocks};
use crate::sample::{Denoiser, Sampler};

/// All workers of a pool as one field: a call's rows are spread over them in batches.
///
/// What is a statistic of many samples can so be written as if there were one batch.
pub(super) struct Crew<'p, 'm> {
    pub pool: &'p Pool<'m>,
    pub sampler: &'p Sampler,
    pub product_seconds: f64,
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
            call(
                worker,
                &batch.iter().map(|i| *i as usize).collect::<Vec<_>>(),
            )
        };
        let needs = Needs {
            samplers: std::slice::from_ref(self.sampler),
            ..Needs::default()
        };
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
    error
        .downcast::<EvalError>()
        .unwrap_or_else(|e| EvalError::Missing(format!("{e:#}")))
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
