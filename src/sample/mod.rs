//! Samplers: from the prior end to the data end, one trajectory per address.
//!
//! # Example
//!
//! A denoiser whose data are all at 3, from which Heun's sampler draws three samples.
//!
//! ```
//! use flowgauge::flow::field::{EvalError, VectorField};
//! use flowgauge::flow::{path::ProbabilityPath, prediction::Prediction, prior::Prior};
//! use flowgauge::num::{Batch, key::RngKey};
//! use flowgauge::sample::{Denoiser, SampleRequest, Sampler, SamplerContext, initial_noise};
//!
//! struct Point;
//!
//! impl VectorField for Point {
//!     fn dim(&self) -> usize {
//!         1
//!     }
//!     fn velocity(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
//!         Ok(Batch::from_shape_fn(x.raw_dim(), |(i, j)| (x[[i, j]] - 3.0) / t[i]))
//!     }
//! }
//!
//! impl Denoiser for Point {
//!     fn denoised(&mut self, _t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
//!         Ok(Batch::from_elem(x.raw_dim(), 3.0))
//!     }
//! }
//!
//! let curve = ProbabilityPath::Edm { sigma_min: 0.002, sigma_max: 80.0 }.curve()?;
//! let context = SamplerContext { curve: &curve, prediction: Prediction::Denoised };
//! let (key, samples, std) = (RngKey { seed: 1 }, [0, 1, 2], curve.prior_std());
//! let request = SampleRequest { context, prior: Prior { std }, key, samples: &samples };
//! let sampler: Sampler = flowgauge::yaml::from_yaml_str("{heun: {steps: 18}}")?;
//! let drawn = sampler.sample(&mut Point, &request, initial_noise(key, &samples, 1, std))?;
//! assert!(drawn.x.iter().all(|x| (x - 3.0).abs() < 0.02));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use ndarray::Axis;

use crate::flow::field::{EvalError, FlowMap, JacobianOperator, VectorField};
use crate::flow::path::PathCurve;
use crate::flow::prediction::Prediction;
use crate::flow::prior::Prior;
use crate::model::loaded::{Model, Velocity};
use crate::num::Batch;
use crate::num::key::{Purpose, RngKey, SampleId};
use crate::registry;

pub mod ddim;
pub mod dpmpp2m;
pub mod dpmpp3m;
pub mod euler;
pub mod flow_map;
pub mod heun;
mod multistep;
mod sampler_schedule;
pub mod sampler_step;
pub mod steindiff;
#[cfg(test)]
mod tests;
pub mod unipc;

pub use sampler_schedule::SamplerSchedule;
pub use sampler_step::{PathPoint, SamplerStep};
pub use steindiff::SteinDiffStepLog;

registry! {
    /// The samplers, as `samplers:` and `--sampler` name them.
    pub enum Sampler: SamplingMethod {
        "euler" => Euler(euler::Euler),
        "ddim" => Ddim(ddim::Ddim),
        "heun" | "edm-heun" => Heun(heun::Heun),
        "dpmpp-2m" | "dpm++-2m" | "dpmpp2m" | "dpm-solver++-2m" | "dpmsolver++-2m" => Dpmpp2m(dpmpp2m::Dpmpp2m),
        "dpmpp-3m" | "dpm++-3m" | "dpmpp3m" | "dpm-solver++-3m" | "dpmsolver++-3m" => Dpmpp3m(dpmpp3m::Dpmpp3m),
        "unipc" | "uni-pc" => UniPc(unipc::UniPc),
        "flow-map" | "flowmap" => FlowMap(flow_map::FlowMapSampler),
        "steindiff" | "stein-diff" => SteinDiff(steindiff::SteinDiff),
    }
}

impl Sampler {
    /// As tables print it: the name with those parameters that are not the defaults.
    pub fn label(&self) -> String {
        match self {
            Sampler::FlowMap(steps) => return steps.label(),
            Sampler::SteinDiff(around) => return around.label(),
            _ => {}
        }
        let default = Sampler::from_name(self.name()).unwrap_or_else(|| self.clone());
        registry::kind_label(self.name(), self, &default)
    }

    /// How many rows go through the networks as they are counted: a population once for every evaluation, and once more
    /// where Jacobian products are taken; else each sample once.
    pub fn network_rows(&self, on: &SamplerContext, count: usize) -> usize {
        let cost = self.cost(on);
        match self.population() {
            Some(_) => {
                count * cost.evaluations.max(1) as usize * if cost.products > 0 { 2 } else { 1 }
            }
            None => count,
        }
    }

    /// The sampler that this one corrects, if it does.
    pub fn uncorrected(&self) -> Option<&Sampler> {
        match self {
            Sampler::SteinDiff(around) => Some(&around.sampler),
            _ => None,
        }
    }
}

/// What a sampler needs of a model.
pub trait Denoiser: VectorField {
    /// E\[x₀ | x\].
    ///
    /// # Errors
    /// As [`VectorField::velocity`].
    fn denoised(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError>;

    /// Products with the velocity's Jacobian.
    ///
    /// # Errors
    /// Where this model offers none.
    fn linearized(&mut self) -> Result<&mut dyn JacobianOperator, EvalError> {
        Err(EvalError::Missing(
            "this model offers no Jacobian products".to_owned(),
        ))
    }

    /// The flow map of that name, where the model was opened with it.
    ///
    /// # Errors
    /// Where there is none.
    fn flow_map(&mut self, name: &str) -> Result<&mut dyn FlowMap, EvalError> {
        Err(EvalError::Missing(format!(
            "this model has no flow map `{name}`"
        )))
    }
}

/// What a sampler needs of a flow map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FlowMapRequirements<'a> {
    pub name: &'a str,
    /// Its divergence, for densities.
    pub density: bool,
    /// The gradient of its divergence, for self-guidance.
    pub gradient: bool,
}

impl Denoiser for Velocity {
    fn denoised(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        Velocity::denoised(self, t, x)
    }
}

/// What a sampler's steps depend on besides its own parameters.
#[derive(Debug, Clone, Copy)]
pub struct SamplerContext<'a> {
    pub curve: &'a PathCurve,
    pub prediction: Prediction,
}

impl SamplerContext<'_> {
    pub fn for_model(model: &Model) -> SamplerContext<'_> {
        SamplerContext {
            curve: &model.curve,
            prediction: model.card.network.prediction,
        }
    }
}

/// Which samples are drawn, and where their noise comes from.
#[derive(Debug, Clone, Copy)]
pub struct SampleRequest<'a> {
    pub context: SamplerContext<'a>,
    pub prior: Prior,
    pub key: RngKey,
    pub samples: &'a [SampleId],
}

/// What one sample costs.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SampleCost {
    pub evaluations: u64,
    /// Jacobian products.
    pub products: u64,
    /// Whether the samples themselves decide: then this is the most it can be.
    pub is_upper_bound: bool,
}

/// Samples, what each has cost, and what is known of their steps.
#[derive(Debug, Clone, PartialEq)]
pub struct DrawnSamples {
    pub x: Batch,
    /// Per row: evaluations of the network and Jacobian products.
    pub evaluations: Vec<u64>,
    pub products: Vec<u64>,
    /// In nats, where it was asked for.
    pub log_density: Option<Vec<f64>>,
    pub step_logs: Vec<SteinDiffStepLog>,
}

impl DrawnSamples {
    pub fn empty() -> DrawnSamples {
        DrawnSamples::with_equal_cost(Batch::zeros((0, 0)), 0, 0, Vec::new())
    }

    /// Rows that have cost the same.
    pub fn with_equal_cost(
        x: Batch,
        evaluations: u64,
        products: u64,
        log: Vec<SteinDiffStepLog>,
    ) -> DrawnSamples {
        let rows = x.nrows();
        let (evaluations, products) = (vec![evaluations; rows], vec![products; rows]);
        DrawnSamples {
            x,
            evaluations,
            products,
            log_density: None,
            step_logs: log,
        }
    }

    /// Adds rows after these.
    pub fn append(&mut self, other: DrawnSamples) {
        if self.x.nrows() == 0 {
            *self = other;
            return;
        }
        self.x
            .append(Axis(0), other.x.view())
            .expect("rows of one model");
        if let (Some(ours), Some(theirs)) = (&mut self.log_density, other.log_density) {
            ours.extend(theirs);
        }
        self.evaluations.extend(other.evaluations);
        self.products.extend(other.products);
        self.step_logs.extend(other.step_logs);
    }
}

/// One way from noise to data.
pub trait SamplingMethod: Sync {
    /// The same sampler with another number of steps.
    fn with_steps(&self, steps: usize) -> Sampler;

    /// The steps as weights, for those samplers that are of that form.
    ///
    /// # Errors
    /// A sentence with the key and what would be right.
    fn steps(&self, _on: &SamplerContext) -> Result<Vec<SamplerStep>, String> {
        Err("its steps are no weights of the state and of predictions".to_owned())
    }

    /// The points between which it steps, from the prior end to the data end.
    ///
    /// # Errors
    /// As [`SamplingMethod::steps`].
    fn grid(&self, on: &SamplerContext) -> Result<Vec<PathPoint>, String> {
        let steps = self.steps(on)?;
        let last = steps.last().map(|s| s.to);
        Ok(steps.iter().map(|s| s.from).chain(last).collect())
    }

    /// Refuses parameters that make no sense on this path or with this prediction, by their key.
    ///
    /// # Errors
    /// A sentence with the key and what would be right.
    fn check(&self, on: &SamplerContext) -> Result<(), String> {
        sampler_step::check_steps(&self.steps(on)?, on)
    }

    /// What a sample costs, known before drawing.
    fn cost(&self, on: &SamplerContext) -> SampleCost {
        let evaluations = self
            .steps(on)
            .map_or(0, |steps| sampler_step::count_evaluations(&steps));
        SampleCost {
            evaluations,
            ..SampleCost::default()
        }
    }

    /// The flow map that is walked; the others follow the velocity.
    fn flow_map(&self) -> Option<FlowMapRequirements<'_>> {
        None
    }

    /// Samples that must be drawn together because they share a statistic, by blocks of their numbers.
    fn population(&self) -> Option<usize> {
        None
    }

    /// Carries every row of `x` from the prior end to the data end.
    ///
    /// # Errors
    /// Where the model cannot be evaluated.
    fn sample(
        &self,
        field: &mut dyn Denoiser,
        draw: &SampleRequest,
        x: Batch,
    ) -> Result<DrawnSamples, EvalError> {
        let steps = self.steps(&draw.context).map_err(EvalError::Missing)?;
        let walk = sampler_step::integrate_steps(&steps, field, draw, x)?;
        Ok(DrawnSamples::with_equal_cost(
            walk.x,
            walk.evaluations,
            0,
            Vec::new(),
        ))
    }
}

/// Initial states by address: std · N(0, I) for each sample.
pub fn initial_noise(key: RngKey, samples: &[SampleId], dim: usize, std: f64) -> Batch {
    let mut x = Batch::zeros((samples.len(), dim));
    for (mut row, sample) in x.rows_mut().into_iter().zip(samples) {
        row.assign(&(key.normal(Purpose::Noise, *sample, 0, dim) * std));
    }
    x
}
