//! DPM-Solver++(2M), midpoint type (Lu et al. 2022, Algorithm 2).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::multistep::{self, Multistep};
use super::{Point, Sample, Sampler, Schedule, Setting, Step};

/// One evaluation per step, order 2.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Dpmpp2m(pub Schedule);

/// x_t = (σ_t/σ_s) x − α_t (e^{−h} − 1) (D₀ + ½ (D₀ − D₁)/r), r = (λ₀ − λ₋₁)/h.
///
/// A previous point with α = 0 lies at λ₋₁ = −∞, r = ∞, and its difference drops out.
pub fn midpoint(past: &[Point], to: &Point) -> Vec<f64> {
    let (h, before) = (past[0].gap(to), past[1].gap(&past[0]));
    let [keep, first] = multistep::first_order(&past[0], to);
    let difference = 0.5 * first * (h / before);
    vec![keep, first + difference, -difference]
}

impl Multistep for Dpmpp2m {
    fn order(&self) -> usize {
        2
    }

    fn predictor(&self, past: &[Point], to: &Point, _order: usize) -> Vec<f64> {
        midpoint(past, to)
    }
}

impl Sample for Dpmpp2m {
    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::Dpmpp2m(Dpmpp2m(Schedule {
            steps,
            ..self.0.clone()
        }))
    }

    fn steps(&self, on: &Setting) -> Result<Vec<Step>, String> {
        multistep::steps(self, &self.0, on)
    }
}
