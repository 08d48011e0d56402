//! DPM-Solver++(2M), midpoint type (Lu et al. 2022, Algorithm 2).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::multistep::{self, Multistep};
use super::{PathPoint, Sampler, SamplerContext, SamplerSchedule, SamplerStep, SamplingMethod};

/// DPM-Solver++(2M), a multistep method of order 2 with one evaluation per step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dpmpp2m {
    /// The time grid.
    #[serde(flatten)]
    pub schedule: SamplerSchedule,
    /// How the denoiser is extrapolated. Default: `midpoint`.
    #[serde(skip_serializing_if = "SecondOrderRule::is_midpoint")]
    pub solver_type: SecondOrderRule,
}

/// How the difference of two denoisers is weighted in a step of order 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum SecondOrderRule {
    /// Half the weight of the denoiser.
    #[default]
    Midpoint,
    /// The integral of the difference, as diffusers' `solver_type: heun`.
    Heun,
}

impl SecondOrderRule {
    /// Whether this is the default, which is not written.
    fn is_midpoint(&self) -> bool {
        *self == SecondOrderRule::Midpoint
    }

    /// The weight of the difference over a step of equal length. `first` is the weight of the
    /// denoiser α (1 − e^{−z}), and `z` the length of the step in its exponent.
    pub(super) fn weight(self, first: f64, alpha: f64, z: f64) -> f64 {
        match self {
            SecondOrderRule::Midpoint => 0.5 * first,
            SecondOrderRule::Heun => alpha * z * multistep::phi(2, -z),
        }
    }
}

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
        if self.solver_type.is_midpoint() {
            return midpoint_weights(past, to);
        }
        let (h, before) = (past[0].lambda_step(to), past[1].lambda_step(&past[0]));
        let [keep, first] = multistep::first_order_weights(&past[0], to);
        let difference = h / before * self.solver_type.weight(first, to.alpha, h);
        vec![keep, first + difference, -difference]
    }
}

impl SamplingMethod for Dpmpp2m {
    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::Dpmpp2m(Dpmpp2m {
            schedule: SamplerSchedule {
                steps,
                ..self.schedule.clone()
            },
            ..*self
        })
    }

    fn steps(&self, context: &SamplerContext) -> Result<Vec<SamplerStep>, String> {
        multistep::multistep_steps(self, &self.schedule, context)
    }
}
