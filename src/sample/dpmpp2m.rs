//! DPM-Solver++(2M), midpoint type (Lu et al. 2022, Algorithm 2).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::multistep::{self, Multistep};
use super::{PathPoint, Sampler, SamplerContext, SamplerSchedule, SamplerStep, SamplingMethod};

/// DPM-Solver++(2M), a multistep method of order 2 with one evaluation per step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Dpmpp2m(pub SamplerSchedule);

/// The weights of x_t = (σ_t/σ_s) x − α_t (e^{−h} − 1) (D₀ + ½ (D₀ − D₁)/r) with r = (λ₀ − λ₋₁)/h.
///
/// A previous point with α = 0 lies at λ₋₁ = −∞. There r = ∞, and the difference drops out.
pub fn midpoint_weights(past: &[PathPoint], to: &PathPoint) -> Vec<f64> {
    let (h, before) = (past[0].lambda_step(to), past[1].lambda_step(&past[0]));
    let [keep, first] = multistep::first_order_weights(&past[0], to);
    let difference = 0.5 * first * (h / before);
    vec![keep, first + difference, -difference]
}

impl Multistep for Dpmpp2m {
    fn order(&self) -> usize {
        2
    }

    fn predictor_weights(&self, past: &[PathPoint], to: &PathPoint, _order: usize) -> Vec<f64> {
        midpoint_weights(past, to)
    }
}

impl SamplingMethod for Dpmpp2m {
    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::Dpmpp2m(Dpmpp2m(SamplerSchedule {
            steps,
            ..self.0.clone()
        }))
    }

    fn steps(&self, context: &SamplerContext) -> Result<Vec<SamplerStep>, String> {
        multistep::multistep_steps(self, &self.0, context)
    }
}
