//! DDIM (Song, Meng & Ermon 2021), which is DPM-Solver++(1).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::multistep::{self, Multistep};
use super::{Point, Sample, Sampler, Schedule, Setting, Step};

/// One evaluation per step: x_t = (σ_t/σ_s) x − α_t (e^{−h} − 1) D(x, s), h = λ_t − λ_s.
///
/// On the paths with straight lines, edm, ve and flow matching, this is Euler's method in σ or t.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Ddim(pub Schedule);

impl Multistep for Ddim {
    fn order(&self) -> usize {
        1
    }

    fn predictor(&self, past: &[Point], to: &Point, _order: usize) -> Vec<f64> {
        multistep::first_order(&past[0], to).to_vec()
    }
}

impl Sample for Ddim {
    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::Ddim(Ddim(Schedule {
            steps,
            ..self.0.clone()
        }))
    }

    fn steps(&self, on: &Setting) -> Result<Vec<Step>, String> {
        multistep::steps(self, &self.0, on)
    }
}
