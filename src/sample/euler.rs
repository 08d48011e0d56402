//! Euler's method on dx/dt = v.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Sample, Sampler, Schedule, Setting, Step, heun};

/// One evaluation per step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Euler(pub Schedule);

impl Sample for Euler {
    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::Euler(Euler(Schedule {
            steps,
            ..self.0.clone()
        }))
    }

    fn steps(&self, on: &Setting) -> Result<Vec<Step>, String> {
        let points = self.0.points(on)?;
        let steps = points.windows(2).map(|pair| heun::euler(pair[0], pair[1]));
        Ok(steps.chain(self.0.denoising(&points)).collect())
    }
}
