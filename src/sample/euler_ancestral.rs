//! The ancestral Euler method of k-diffusion.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Sampler, SamplerContext, SamplerSchedule, SamplerStep, SamplingMethod, ancestral};

/// Euler's method for x/α in σ/α, with a part of the noise replaced by fresh noise in every step.
///
/// The steps are those of `ddim` with the same η. They differ in the factor `s_noise`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EulerAncestral {
    /// The time grid.
    #[serde(flatten)]
    pub schedule: SamplerSchedule,
    /// The share η of fresh noise, from 0 to 1. Default: 1.
    pub eta: f64,
    /// The factor of the fresh noise's standard deviation. Default: 1.
    pub s_noise: f64,
}

impl Default for EulerAncestral {
    fn default() -> Self {
        EulerAncestral {
            schedule: SamplerSchedule::default(),
            eta: 1.0,
            s_noise: 1.0,
        }
    }
}

impl SamplingMethod for EulerAncestral {
    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::EulerAncestral(EulerAncestral {
            schedule: SamplerSchedule {
                steps,
                ..self.schedule.clone()
            },
            ..*self
        })
    }

    fn steps(&self, context: &SamplerContext) -> Result<Vec<SamplerStep>, String> {
        ancestral::check_eta(self.eta)?;
        ancestral::check_s_noise(self.s_noise)?;
        ancestral::one_step_sampler(&self.schedule, context, |from, to| {
            let step = ancestral::ancestral_step(from, to, self.eta);
            SamplerStep {
                noise_std: step.noise_std * self.s_noise,
                ..step
            }
        })
    }
}
