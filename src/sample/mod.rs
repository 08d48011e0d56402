//! Samplers: methods that carry states along a model's path from the prior end to the data end.
//!
//! The noise of a sample depends only on the seed and the sample's index. A sample is therefore the
//! same in any batch. With SteinDiff it also depends on the other samples of its population.
//!
//! # Example
//!
//! A denoiser whose data are all at 3, from which Heun's sampler draws three samples.
//!
//! ```
//! use flowgauge::flow::field::{EvalError, Points, VectorField};
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
//!     fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
//!         let Points { t, x, .. } = at;
//!         Ok(Batch::from_shape_fn(x.raw_dim(), |(i, j)| (x[[i, j]] - 3.0) / t[i]))
//!     }
//! }
//!
//! impl Denoiser for Point {
//!     fn denoised(&mut self, at: Points) -> Result<Batch, EvalError> {
//!         Ok(Batch::from_elem(at.x.raw_dim(), 3.0))
//!     }
//! }
//!
//! let curve = ProbabilityPath::Edm { sigma_min: 0.002, sigma_max: 80.0 }.curve()?;
//! let context = SamplerContext { curve: &curve, prediction: Prediction::Denoised, dim: 1 };
//! let (key, samples, std) = (RngKey { seed: 1 }, [0, 1, 2], curve.prior_std());
//! let prior = Prior::isotropic(std);
//! let request = SampleRequest { context, prior, key, samples: &samples, step_noise: None };
//! let sampler: Sampler = flowgauge::yaml::from_yaml_str("{heun: {steps: 18}}")?;
//! let drawn = sampler.sample(&mut Point, &request, initial_noise(key, &samples, 1, std))?;
//! assert!(drawn.x.iter().all(|x| (x - 3.0).abs() < 0.02));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use ndarray::Axis;

use crate::flow::field::{EvalError, FlowMap, JacobianOperator, Points, VectorField};
use crate::flow::path::PathCurve;
use crate::flow::prediction::Prediction;
use crate::flow::prior::Prior;
use crate::model::loaded::{Model, Velocity};
use crate::num::Batch;
use crate::num::key::{Purpose, RngKey, SampleId};
use crate::registry;

mod ancestral;
mod brownian;
pub mod ddim;
pub mod ddpm;
pub(crate) mod diffusers;
pub mod dpmpp2m;
pub mod dpmpp2m_sde;
pub mod dpmpp3m;
pub mod dpmpp_sde;
pub mod euler;
pub mod euler_ancestral;
pub mod flow_map;
pub mod heun;
mod multistep;
pub mod ode;
mod sampler_schedule;
pub mod sampler_step;
pub mod steindiff;
#[cfg(test)]
mod tests;
mod timesteps;
pub mod unipc;

pub use brownian::ReplayedNoise;
pub use sampler_schedule::SamplerSchedule;
pub use sampler_step::{PathPoint, SamplerStep};
pub use steindiff::SteinDiffStepLog;
pub use timesteps::{FinalNoise, IndexRounding, NoiseLevels, TimestepSpacing};

registry! {
    /// The samplers, under the names that `samplers:` and `--sampler` accept.
    pub enum Sampler: SamplingMethod {
        "euler" => Euler(euler::Euler) {
            what: "Euler steps along the probability flow.",
            when: "As a baseline, or with very many steps.",
            source: "Song et al. 2021, arXiv:2011.13456",
        },
        "ddim" => Ddim(ddim::Ddim) {
            what: "A step from one noise level to the next by the denoiser; with `eta` above 0 it adds noise.",
            when: "To repeat published samples of DDPM networks.",
            source: "Song, Meng & Ermon 2021, arXiv:2010.02502",
        },
        "heun" | "edm-heun" => Heun(heun::Heun) {
            what: "Heun's method along the probability flow, the sampler of EDM, with optional noise.",
            when: "15 evaluations or more; also to repeat EDM.",
            source: "Karras et al. 2022, arXiv:2206.00364",
        },
        "dpmpp-2m" | "dpm++-2m" | "dpmpp2m" | "dpm-solver++-2m" | "dpmsolver++-2m" => Dpmpp2m(dpmpp2m::Dpmpp2m) {
            what: "DPM-Solver++ of second order, which reuses the preceding denoiser.",
            when: "5 to 20 evaluations.",
            source: "Lu et al. 2022, arXiv:2211.01095",
        },
        "dpmpp-3m" | "dpm++-3m" | "dpmpp3m" | "dpm-solver++-3m" | "dpmsolver++-3m" => Dpmpp3m(dpmpp3m::Dpmpp3m) {
            what: "DPM-Solver++ of third order, which reuses two preceding denoisers.",
            when: "6 to 20 evaluations.",
            source: "Lu et al. 2022, arXiv:2211.01095",
        },
        "ddpm" => Ddpm(ddpm::Ddpm) {
            what: "Ancestral sampling of DDPM: the posterior mean plus noise at every step.",
            when: "To repeat DDPM, with hundreds of steps.",
            source: "Ho et al. 2020, arXiv:2006.11239",
        },
        "euler-ancestral" | "euler-a" => EulerAncestral(euler_ancestral::EulerAncestral) {
            what: "Euler steps to a lower noise level, after which noise is added back.",
            when: "To repeat samples of programs that use it; its images vary with the number of steps.",
            source: "Song et al. 2021, arXiv:2011.13456",
        },
        "dpmpp-2m-sde" | "dpm++-2m-sde" | "sde-dpmsolver++" | "dpmpp2m-sde" => Dpmpp2mSde(dpmpp2m_sde::Dpmpp2mSde) {
            what: "DPM-Solver++ of second order for the reverse stochastic equation.",
            when: "Samples with fresh noise in 20 evaluations or more.",
            source: "Lu et al. 2022, arXiv:2211.01095",
        },
        "dpmpp-sde" | "dpm++-sde" | "dpmsolver-sde" => DpmppSde(dpmpp_sde::DpmppSde) {
            what: "DPM-Solver++ of one step and second order for the reverse stochastic equation.",
            when: "Samples with fresh noise, at two evaluations per step.",
            source: "Lu et al. 2022, arXiv:2211.01095",
        },
        "unipc" | "uni-pc" => UniPc(unipc::UniPc) {
            what: "A predictor and a corrector of any order that share their evaluations.",
            when: "5 to 20 evaluations.",
            source: "Zhao et al. 2023, arXiv:2302.04867",
        },
        "ode" => Ode(ode::Ode) {
            what: "Any ODE solver along the probability flow, from noise to data.",
            when: "Samples with log-densities, and samples as accurate as a tolerance.",
            source: "Chen et al. 2018, arXiv:1806.07366; Song et al. 2021, arXiv:2011.13456",
        },
        "flow-map" | "flowmap" => FlowMap(flow_map::FlowMapSampler) {
            what: "Steps of a learned flow map.",
            when: "1 to 8 evaluations, with a card that has a flow map.",
            source: "Ai et al. 2025, arXiv:2512.02636",
        },
        "steindiff" | "stein-diff" => SteinDiff(steindiff::SteinDiff) {
            what: "Another sampler whose steps are scaled by a factor from Stein's identity over a population.",
            when: "To study the correction; at equal cost the sampler alone did as well.",
            source: "Li & Zeng 2026, arXiv:2606.07835",
        },
    }
}

impl Sampler {
    /// The sampler's label in tables: its name and the parameters that differ from their defaults.
    pub fn label(&self) -> String {
        match self {
            Sampler::FlowMap(sampler) => return sampler.label(),
            Sampler::Ode(sampler) if *sampler != ode::Ode::default() => {
                return format!("ode({})", sampler.solver.label());
            }
            Sampler::SteinDiff(sampler) => return sampler.label(),
            _ => {}
        }
        let default = Sampler::from_name(self.name()).unwrap_or_else(|| self.clone());
        registry::kind_label(self.name(), self, &default)
    }

    /// The number of network rows that `count` samples add to the progress estimate.
    ///
    /// A sampler with a population counts each sample once for every evaluation, and twice as often
    /// if it also takes Jacobian products. Any other sampler counts each sample once.
    pub fn network_rows(&self, context: &SamplerContext, count: usize) -> usize {
        let cost = self.cost(context);
        match self.population() {
            Some(_) => {
                count * cost.evaluations.max(1) as usize * if cost.products > 0 { 2 } else { 1 }
            }
            None => count,
        }
    }

    /// The sampler that this one corrects. `None` if it corrects no other sampler.
    pub fn uncorrected(&self) -> Option<&Sampler> {
        match self {
            Sampler::SteinDiff(corrected) => Some(&corrected.sampler),
            _ => None,
        }
    }
}

/// What a sampler calls on a model: the velocity, the denoiser, and optionally Jacobian products
/// and flow maps.
pub trait Denoiser: VectorField {
    /// The denoiser E\[x₀ | x\] at some points, rows × dim.
    ///
    /// # Errors
    /// Fails if the network cannot be evaluated or if its output has the wrong shape.
    fn denoised(&mut self, at: Points) -> Result<Batch, EvalError>;

    /// The model's Jacobian products.
    ///
    /// # Errors
    /// Fails if the model offers no Jacobian products.
    fn linearized(&mut self) -> Result<&mut dyn JacobianOperator, EvalError> {
        Err(EvalError::Missing(
            "this model offers no Jacobian products".to_owned(),
        ))
    }

    /// The flow map called `name`, provided that the model was opened with it.
    ///
    /// # Errors
    /// Fails if the model was not opened with a flow map of that name.
    fn flow_map(&mut self, name: &str) -> Result<&mut dyn FlowMap, EvalError> {
        Err(EvalError::Missing(format!(
            "this model has no flow map `{name}`"
        )))
    }
}

/// What a sampler needs from a flow map of the card.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FlowMapRequirements<'a> {
    /// The flow map's name under the card's `flow_maps`.
    pub name: &'a str,
    /// The number of steps.
    pub steps: usize,
    /// Whether the map's average divergence is needed, for log-densities.
    pub density: bool,
    /// Whether products with the map's Jacobian are needed, for exact log-determinants.
    pub jacobian: bool,
    /// Whether the gradient of that divergence is needed, for self-guidance.
    pub gradient: bool,
}

impl Denoiser for Velocity {
    fn denoised(&mut self, at: Points) -> Result<Batch, EvalError> {
        self.extrapolated(at, |velocity, at| velocity.denoised(at))
    }
}

/// What a sampler's steps depend on besides its own parameters.
#[derive(Debug, Clone, Copy)]
pub struct SamplerContext<'a> {
    /// The model's path (α, σ) over time.
    pub curve: &'a PathCurve,
    /// What the card says that the network predicts.
    pub prediction: Prediction,
    /// The number of values in one state.
    pub dim: usize,
}

impl SamplerContext<'_> {
    /// The context of an opened model: its path and its card's prediction.
    pub fn for_model(model: &Model) -> SamplerContext<'_> {
        SamplerContext {
            curve: &model.curve,
            prediction: model.card.network.prediction,
            dim: model.dim(),
        }
    }
}

/// Which samples are drawn, on which path, and where their noise comes from.
#[derive(Debug, Clone, Copy)]
pub struct SampleRequest<'a> {
    /// The path and the network's prediction.
    pub context: SamplerContext<'a>,
    /// The prior at the prior end.
    pub prior: Prior,
    /// The key of all random draws.
    pub key: RngKey,
    /// The indices of the samples, one for each row of the states.
    pub samples: &'a [SampleId],
    /// Noise for random steps in the place of noise from the key. `None` as a rule.
    pub step_noise: Option<&'a ReplayedNoise>,
}

/// The cost of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SampleCost {
    /// Evaluations of the network, without Jacobian products.
    pub evaluations: u64,
    /// Jacobian products.
    pub products: u64,
    /// Whether the true cost depends on the samples. The numbers are then the most it can be.
    pub is_upper_bound: bool,
}

/// Drawn samples, the cost of each, and the log of their steps.
#[derive(Debug, Clone, PartialEq)]
pub struct DrawnSamples {
    /// The samples, rows × dim.
    pub x: Batch,
    /// Evaluations of the network for each row.
    pub evaluations: Vec<u64>,
    /// Jacobian products for each row.
    pub products: Vec<u64>,
    /// The log-density of each row in nats. `None` if the sampler does not compute it. NaN if the
    /// path of the row has failed.
    pub log_density: Option<Vec<f64>>,
    /// The standard error of each log-density over probes, in nats. NaN if it has none; empty if
    /// none has.
    pub log_density_stderrs: Vec<f64>,
    /// One entry for each step of each population. Only SteinDiff writes entries.
    pub step_logs: Vec<SteinDiffStepLog>,
}

impl DrawnSamples {
    /// No samples.
    pub fn empty() -> DrawnSamples {
        DrawnSamples::with_equal_cost(Batch::zeros((0, 0)), 0, 0, Vec::new())
    }

    /// Samples that all have the same cost, without log-densities.
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
            log_density_stderrs: Vec::new(),
            step_logs: log,
        }
    }

    /// Appends the rows and logs of `other`. Both must come from the same sampler and model.
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
        self.log_density_stderrs.extend(other.log_density_stderrs);
        self.evaluations.extend(other.evaluations);
        self.products.extend(other.products);
        self.step_logs.extend(other.step_logs);
    }
}

/// A method that carries states from the prior end to the data end.
pub trait SamplingMethod: Sync {
    /// The same sampler with another number of steps.
    fn with_steps(&self, steps: usize) -> Sampler;

    /// The steps as weights of the state and of predictions.
    ///
    /// # Errors
    /// Fails if the sampler's steps do not have this form, or if a parameter is invalid. The
    /// message names the key and says what is expected.
    fn steps(&self, _context: &SamplerContext) -> Result<Vec<SamplerStep>, String> {
        Err("its steps are not weights of the state and of predictions".to_owned())
    }

    /// The points of the path between which the sampler steps, from the prior end to the data end.
    ///
    /// # Errors
    /// Fails if a parameter is invalid. The message names the key and says what is expected.
    fn grid(&self, context: &SamplerContext) -> Result<Vec<PathPoint>, String> {
        let steps = self.steps(context)?;
        let last = steps.last().map(|s| s.to);
        Ok(steps.iter().map(|s| s.from).chain(last).collect())
    }

    /// The name of the states that the sampler visits, if an ODE solver or a few-step estimator may
    /// visit the same ones; see [`trajectory_name`](crate::flow::grid::trajectory_name).
    fn trajectory(&self) -> Option<String> {
        None
    }

    /// Checks the sampler's parameters for this path and this prediction.
    ///
    /// # Errors
    /// Fails if a parameter is invalid for the path or the prediction. The message names the key
    /// and says what is expected.
    fn check(&self, context: &SamplerContext) -> Result<(), String> {
        sampler_step::check_steps(&self.steps(context)?, context)
    }

    /// The cost of one sample, known before anything is drawn.
    fn cost(&self, context: &SamplerContext) -> SampleCost {
        let evaluations = self
            .steps(context)
            .map_or(0, |steps| sampler_step::count_evaluations(&steps));
        SampleCost {
            evaluations,
            ..SampleCost::default()
        }
    }

    /// What the sampler needs from a flow map. `None` if it follows the velocity instead.
    fn flow_map(&self) -> Option<FlowMapRequirements<'_>> {
        None
    }

    /// Whether the sampler takes products with the transposed Jacobian.
    fn needs_vjp(&self) -> bool {
        false
    }

    /// The size N of a population: samples that share a statistic and must be drawn together.
    ///
    /// The first population holds the samples 0 to N − 1, the second N to 2N − 1, and so on. `None`
    /// if every sample is independent of the others.
    fn population(&self) -> Option<usize> {
        None
    }

    /// Carries every row of `x` from the prior end to the data end.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated, or if a parameter is invalid.
    fn sample(
        &self,
        field: &mut dyn Denoiser,
        draw: &SampleRequest,
        x: Batch,
    ) -> Result<DrawnSamples, EvalError> {
        let steps = self.steps(&draw.context).map_err(EvalError::Missing)?;
        let trajectory = sampler_step::integrate_steps(&steps, field, draw, x)?;
        Ok(DrawnSamples::with_equal_cost(
            trajectory.x,
            trajectory.evaluations,
            0,
            Vec::new(),
        ))
    }
}

/// The initial states, std · N(0, I), as samples × dim.
///
/// The noise of a sample depends only on the seed and the sample's index.
pub fn initial_noise(key: RngKey, samples: &[SampleId], dim: usize, std: f64) -> Batch {
    let mut x = Batch::zeros((samples.len(), dim));
    for (mut row, sample) in x.rows_mut().into_iter().zip(samples) {
        row.assign(&(key.normal(Purpose::Noise, *sample, 0, dim) * std));
    }
    x
}
