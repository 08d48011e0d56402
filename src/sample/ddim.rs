//! DDIM (Song, Meng & Ermon 2021), which is the same method as DPM-Solver++(1).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::multistep::{self, Multistep};
use super::{PathPoint, Sampler, SamplerContext, SamplerSchedule, SamplerStep, SamplingMethod};

/// DDIM: x_t = (σ_t/σ_s) x − α_t (e^{−h} − 1) D(x, s) with h = λ_t − λ_s, one evaluation per step.
///
/// On paths whose lines to a data point are straight (edm, ve and flow matching) this is Euler's
/// method in σ or t.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Ddim(pub SamplerSchedule);

impl Multistep for Ddim {
    fn order(&self) -> usize {
        1
    }

    fn predictor_weights(&self, past: &[PathPoint], to: &PathPoint, _order: usize) -> Vec<f64> {
        multistep::first_order_weights(&past[0], to).to_vec()
    }
}

impl SamplingMethod for Ddim {
    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::Ddim(Ddim(SamplerSchedule {
            steps,
            ..self.0.clone()
        }))
    }

    fn steps(&self, context: &SamplerContext) -> Result<Vec<SamplerStep>, String> {
        multistep::multistep_steps(self, &self.0, context)
    }
}
