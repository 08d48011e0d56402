//! DDIM (Song, Meng & Ermon 2021), which without noise is the same method as DPM-Solver++(1).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::multistep::{self, Multistep};
use super::{
    PathPoint, Sampler, SamplerContext, SamplerSchedule, SamplerStep, SamplingMethod, ancestral,
};

/// DDIM: x_t = (σ_t/σ_s) x − α_t (e^{−h} − 1) D(x, s) with h = λ_t − λ_s, one evaluation per step.
///
/// On paths whose lines to a data point are straight (edm, ve and flow matching) this is Euler's
/// method in σ or t. On all paths it is Euler's method for x/α in σ/α, which diffusers calls Euler.
///
/// With `eta` above 0 a part of the noise is replaced by fresh noise in every step. On
/// variance-preserving paths `eta: 1` is DDPM with the variance `fixed-small`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ddim {
    /// The time grid.
    #[serde(flatten)]
    pub schedule: SamplerSchedule,
    /// The share η of fresh noise, from 0 to 1. Default: 0, no noise.
    #[serde(skip_serializing_if = "is_without_noise")]
    pub eta: f64,
    /// The bound of every value of the denoiser, as diffusers' `clip_sample_range`. The noise in the
    /// state is computed from the denoiser as it was. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_sample: Option<f64>,
}

/// Whether η is 0, the default, which is not written.
fn is_without_noise(eta: &f64) -> bool {
    *eta == 0.0
}

/// Without noise DDIM is the multistep method of order 1.
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
        Sampler::Ddim(Ddim {
            schedule: SamplerSchedule {
                steps,
                ..self.schedule.clone()
            },
            ..*self
        })
    }

    fn steps(&self, context: &SamplerContext) -> Result<Vec<SamplerStep>, String> {
        ancestral::check_eta(self.eta)?;
        ancestral::prediction_clip(self.clip_sample, 0.0)?;
        ancestral::one_step_sampler(&self.schedule, context, |from, to| {
            let step = ancestral::ancestral_step(from, to, self.eta);
            let of_noise = -step.weights[0] * from.alpha;
            let clip = ancestral::prediction_clip(self.clip_sample, of_noise);
            SamplerStep {
                clip: clip.unwrap_or_default(),
                ..step
            }
        })
    }
}
