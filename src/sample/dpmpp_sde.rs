//! SDE-DPM-Solver++(2S), as in k-diffusion (`sample_dpmpp_sde`) and diffusers (`DPMSolverSDE`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sampler_step::{PathPoint, SamplerStep, StepCorrector};
use super::{Sampler, SamplerContext, SamplerSchedule, SamplingMethod, ancestral, timesteps};

/// SDE-DPM-Solver++(2S), a one-step method of the reverse SDE with two evaluations per step.
///
/// It goes ancestrally to the middle of the step in λ, evaluates the denoiser there, and takes the
/// whole step ancestrally with that denoiser. The noise of the two parts comes from one Brownian
/// motion. A step from α = 0 or to σ = 0 has no middle and takes one evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DpmppSde {
    /// The time grid.
    #[serde(flatten)]
    pub schedule: SamplerSchedule,
    /// The share η of fresh noise, from 0 to 1. Default: 1.
    pub eta: f64,
    /// The factor of the fresh noise's standard deviation. Default: 1.
    pub s_noise: f64,
}

impl Default for DpmppSde {
    fn default() -> Self {
        DpmppSde {
            schedule: SamplerSchedule::default(),
            eta: 1.0,
            s_noise: 1.0,
        }
    }
}

impl DpmppSde {
    /// One step, with its middle at the geometric mean of the two noise levels.
    fn step_between(
        &self,
        from: PathPoint,
        to: PathPoint,
        context: &SamplerContext,
    ) -> Result<SamplerStep, String> {
        let whole = ancestral::ancestral_step(from, to, self.eta);
        let whole = SamplerStep {
            noise_std: whole.noise_std * self.s_noise,
            ..whole
        };
        let length = from.lambda_step(&to);
        if !(length.is_finite() && length > 0.0) {
            return Ok(whole);
        }
        let level = (from.sigma / from.alpha) * (-0.5 * length).exp();
        let middle = timesteps::point_at_level(context.curve, level, None)?;
        let ([keep, first], noise_std) = ancestral::ancestral_weights(&from, &middle, self.eta);
        let weights = vec![whole.weights[0], whole.weights[1], 0.0];
        Ok(SamplerStep {
            weights: vec![keep, first],
            corrector: Some(StepCorrector {
                noise_std: noise_std * self.s_noise,
                ..StepCorrector::at_point(middle, weights, false)
            }),
            ..whole
        })
    }
}

impl SamplingMethod for DpmppSde {
    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::DpmppSde(DpmppSde {
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
        let points = self.schedule.points(context)?;
        let mut steps = points
            .windows(2)
            .map(|pair| self.step_between(pair[0], pair[1], context))
            .collect::<Result<Vec<SamplerStep>, String>>()?;
        steps.extend(self.schedule.final_denoising_step(&points));
        super::sampler_step::with_readings(steps, context)
    }
}
