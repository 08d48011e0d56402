//! Samplers: from the prior end to the data end, one trajectory per address.

use crate::flow::field::{EvalError, FlowMap, VectorField};
use crate::flow::path::Curve;
use crate::flow::prior::Prior;
use crate::num::Batch;
use crate::num::key::{Key, Purpose, SampleId};
use crate::registry;

pub mod ddim;
pub mod dpmpp2m;
pub mod dpmpp3m;
pub mod euler;
pub mod flow_map;
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
        "flow-map" => FlowMap(flow_map::FlowMapSteps),
    }
}

/// What a sampler needs of a model.
pub trait Denoiser: VectorField {
    /// E\[x₀ | x\].
    ///
    /// # Errors
    /// As [`VectorField::velocity`].
    fn denoised(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError>;

    /// The flow map of that name, where the model was opened with it.
    ///
    /// # Errors
    /// Where there is none.
    fn map(&mut self, name: &str) -> Result<&mut dyn FlowMap, EvalError> {
        Err(EvalError::Missing(format!("this model has no flow map `{name}`")))
    }
}

/// What a sampler leaves: end states, and the log-density of each in nats where it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    pub x: Batch,
    pub log_density: Option<Vec<f64>>,
}

impl From<Batch> for Drawn {
    fn from(x: Batch) -> Drawn {
        Drawn { x, log_density: None }
    }
}

/// What a sampler needs of a flow map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MapUse<'a> {
    pub name: &'a str,
    /// Its divergence, for densities.
    pub density: bool,
    /// The gradient of its divergence, for self-guidance.
    pub gradient: bool,
}

impl Denoiser for crate::model::opened::Velocity {
    fn denoised(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        crate::model::opened::Velocity::denoised(self, t, x)
    }
}

/// One way from noise to data.
pub trait Sample: Sync {
    /// Times from the prior end to the data end.
    ///
    /// # Errors
    /// A sentence with the key and what would be right.
    fn times(&self, curve: &Curve) -> Result<Vec<f64>, String>;

    /// The same sampler with another number of steps.
    fn with_steps(&self, steps: usize) -> Sampler;

    /// Evaluations per sample.
    fn evaluations(&self, curve: &Curve) -> u64;

    /// Carries every row of `x` from the prior end to the data end.
    ///
    /// # Errors
    /// Where the model cannot be evaluated.
    fn sample(&self, field: &mut dyn Denoiser, curve: &Curve, prior: Prior, x: Batch) -> Result<Drawn, EvalError>;

    /// The flow map that is walked; the others follow the velocity.
    fn map(&self) -> Option<MapUse<'_>> {
        None
    }
}

/// Initial states by address: std · N(0, I) for each sample.
pub fn noise(key: Key, samples: &[SampleId], dim: usize, std: f64) -> Batch {
    let mut x = Batch::zeros((samples.len(), dim));
    for (mut row, sample) in x.rows_mut().into_iter().zip(samples) {
        row.assign(&(key.normal(Purpose::Noise, *sample, 0, dim) * std));
    }
    x
}
