//! Samplers: from the prior end to the data end, one trajectory per address.

use crate::flow::field::{EvalError, VectorField};
use crate::flow::path::Curve;
use crate::num::Batch;
use crate::num::key::{Key, Purpose, SampleId};
use crate::registry;

pub mod ddim;
pub mod dpmpp2m;
pub mod dpmpp3m;
pub mod euler;
pub mod heun;
mod multistep;
mod schedule;
#[cfg(test)]
mod tests;
pub mod unipc;

pub use schedule::Schedule;

registry! {
    /// The samplers, as `samplers:` and `--sampler` name them.
    pub enum Sampler: Sample {
        "euler" => Euler(euler::Euler),
        "ddim" => Ddim(ddim::Ddim),
        "heun" => Heun(heun::Heun),
        "dpmpp-2m" => Dpmpp2m(dpmpp2m::Dpmpp2m),
        "dpmpp-3m" => Dpmpp3m(dpmpp3m::Dpmpp3m),
        "unipc" => UniPc(unipc::UniPc),
    }
}

/// What a sampler needs of a model.
pub trait Denoiser: VectorField {
    /// E\[x₀ | x\].
    ///
    /// # Errors
    /// As [`VectorField::velocity`].
    fn denoised(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError>;
}

impl Denoiser for crate::model::opened::Velocity {
    fn denoised(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        crate::model::opened::Velocity::denoised(self, t, x)
    }
}

/// One way from noise to data.
pub trait Sample: Sync {
    fn schedule(&self) -> &Schedule;

    /// The same sampler with another number of steps.
    fn with_steps(&self, steps: usize) -> Sampler;

    /// Evaluations per sample.
    fn evaluations(&self, curve: &Curve) -> u64;

    /// Carries every row of `x` from the prior end to the data end.
    ///
    /// # Errors
    /// Where the model cannot be evaluated.
    fn sample(&self, field: &mut dyn Denoiser, curve: &Curve, x: Batch) -> Result<Batch, EvalError>;
}

/// Initial states by address: std · N(0, I) for each sample.
pub fn noise(key: Key, samples: &[SampleId], dim: usize, std: f64) -> Batch {
    let mut x = Batch::zeros((samples.len(), dim));
    for (mut row, sample) in x.rows_mut().into_iter().zip(samples) {
        row.assign(&(key.normal(Purpose::Noise, *sample, 0, dim) * std));
    }
    x
}
