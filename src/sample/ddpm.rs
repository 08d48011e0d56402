//! Ancestral sampling of DDPM (Ho, Jain & Abbeel 2020).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    PathPoint, Sampler, SamplerContext, SamplerSchedule, SamplerStep, SamplingMethod, ancestral,
};

/// DDPM: a draw from the posterior q(x' | x, x₀ = D(x)), with one of two variances.
///
/// With s = σ/α and r = s'/s the posterior's mean is (σ'/σ) r x + α' (1 − r²) D, and its variance is
/// σ'² (1 − r²) or σ² (1 − r²). On discrete paths the second is 1 − ᾱ/ᾱ', which is β if no index
/// is left out.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ddpm {
    /// The time grid.
    #[serde(flatten)]
    pub schedule: SamplerSchedule,
    /// The variance of the noise of a step. Default: `fixed-small`.
    pub variance: DdpmVariance,
    /// The bound of every value of the denoiser, as diffusers' `clip_sample_range`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_sample: Option<f64>,
}

/// The variance of the noise of a DDPM step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum DdpmVariance {
    /// σ'² (1 − r²), that of the posterior given the clean data. At least 1e-20, as in diffusers.
    #[default]
    FixedSmall,
    /// σ² (1 − r²), that of the forward process. A last step to σ = 0 from above index 0 adds this
    /// noise too, as in diffusers.
    FixedLarge,
}

/// The smallest variance of diffusers' DDPM scheduler.
const LEAST_VARIANCE: f64 = 1e-20;

impl Ddpm {
    /// The standard deviation of the noise of a step. A step from the data end adds none.
    fn noise_std(&self, from: &PathPoint, to: &PathPoint, context: &SamplerContext) -> f64 {
        let at_data_end = from.t == context.curve.data_end();
        if at_data_end || from.sigma == 0.0 {
            return 0.0;
        }
        let ratio = (to.sigma / from.sigma) * (from.alpha / to.alpha);
        let renewed = (1.0 - ratio * ratio).max(0.0);
        match self.variance {
            DdpmVariance::FixedSmall => (to.sigma * to.sigma * renewed).max(LEAST_VARIANCE).sqrt(),
            DdpmVariance::FixedLarge => from.sigma * renewed.sqrt(),
        }
    }
}

impl SamplingMethod for Ddpm {
    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::Ddpm(Ddpm {
            schedule: SamplerSchedule {
                steps,
                ..self.schedule.clone()
            },
            ..*self
        })
    }

    fn steps(&self, context: &SamplerContext) -> Result<Vec<SamplerStep>, String> {
        let clip = ancestral::prediction_clip(self.clip_sample, 0.0)?;
        ancestral::one_step_sampler(&self.schedule, context, |from, to| SamplerStep {
            noise_std: self.noise_std(&from, &to, context),
            clip,
            ..ancestral::ancestral_step(from, to, 1.0)
        })
    }
}
