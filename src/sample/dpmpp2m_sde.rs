//! SDE-DPM-Solver++(2M) (Lu et al. 2022), as in k-diffusion and diffusers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dpmpp2m::SecondOrderRule;
use super::multistep::{self, Multistep};
use super::{
    PathPoint, Sampler, SamplerContext, SamplerSchedule, SamplerStep, SamplingMethod, ancestral,
};

/// SDE-DPM-Solver++(2M), a multistep method of the reverse SDE with one evaluation per step.
///
/// With h = λ_t − λ_s a step is x_t = (σ_t/σ_s) e^{−ηh} x + α_t (1 − e^{−(1+η)h}) D, with
/// extrapolated D, and noise of standard deviation σ_t √(1 − e^{−2ηh}). With η = 0 it is
/// DPM-Solver++(2M).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dpmpp2mSde {
    /// The time grid.
    #[serde(flatten)]
    pub schedule: SamplerSchedule,
    /// The share η of fresh noise, from 0 to 1. Default: 1.
    pub eta: f64,
    /// The factor of the fresh noise's standard deviation. Default: 1.
    pub s_noise: f64,
    /// How the denoiser is extrapolated. Default: `midpoint`.
    pub solver_type: SecondOrderRule,
}

impl Default for Dpmpp2mSde {
    fn default() -> Self {
        Dpmpp2mSde {
            schedule: SamplerSchedule::default(),
            eta: 1.0,
            s_noise: 1.0,
            solver_type: SecondOrderRule::Midpoint,
        }
    }
}

impl Dpmpp2mSde {
    /// (1 + η) h, the length of a step in the exponent of the denoiser's weight.
    fn exponent(&self, from: &PathPoint, to: &PathPoint) -> f64 {
        (1.0 + self.eta) * from.lambda_step(to)
    }
}

impl Multistep for Dpmpp2mSde {
    fn order(&self) -> usize {
        2
    }

    fn first_weights(&self, from: &PathPoint, to: &PathPoint) -> Vec<f64> {
        let h = from.lambda_step(to);
        // With η = 0 and an infinite h, η h is 0.
        let damping = if self.eta == 0.0 {
            1.0
        } else {
            (-self.eta * h).exp()
        };
        vec![
            to.sigma / from.sigma * damping,
            -to.alpha * (-self.exponent(from, to)).exp_m1(),
        ]
    }

    fn predictor_weights(&self, past: &[PathPoint], to: &PathPoint, _order: usize) -> Vec<f64> {
        let weights = self.first_weights(&past[0], to);
        let ratio = past[0].lambda_step(to) / past[1].lambda_step(&past[0]);
        let exponent = self.exponent(&past[0], to);
        let difference = ratio * self.solver_type.weight(weights[1], to.alpha, exponent);
        vec![weights[0], weights[1] + difference, -difference]
    }

    fn noise_std(&self, from: &PathPoint, to: &PathPoint) -> f64 {
        if self.eta == 0.0 {
            return 0.0;
        }
        let renewed = -(-2.0 * self.eta * from.lambda_step(to)).exp_m1();
        self.s_noise * to.sigma * renewed.max(0.0).sqrt()
    }
}

impl SamplingMethod for Dpmpp2mSde {
    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::Dpmpp2mSde(Dpmpp2mSde {
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
        multistep::multistep_steps(self, &self.schedule, context)
    }
}
