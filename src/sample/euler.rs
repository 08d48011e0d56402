//! Euler's method on dx/dt = v.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Sampler, SamplerContext, SamplerSchedule, SamplerStep, SamplingMethod, heun, sampler_step,
};

/// Euler's method on dx/dt = v, with one evaluation per step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Euler(pub SamplerSchedule);

impl SamplingMethod for Euler {
    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::Euler(Euler(SamplerSchedule {
            steps,
            ..self.0.clone()
        }))
    }

    fn trajectory(&self) -> Option<String> {
        self.0.trajectory("euler")
    }

    fn steps(&self, context: &SamplerContext) -> Result<Vec<SamplerStep>, String> {
        let points = self.0.points(context)?;
        let steps = points
            .windows(2)
            .map(|pair| heun::euler_step(pair[0], pair[1]));
        let steps = steps.chain(self.0.final_denoising_step(&points)).collect();
        sampler_step::with_readings(steps, context)
    }
}
