//! Steps that replace a part of the state's noise by fresh noise.
//!
//! In x/α, over the noise level s = σ/α, a step from s to s' first goes to the lower level
//! √(s'² − u²) and then adds noise of standard deviation u = η s' √(1 − (s'/s)²). On
//! variance-preserving paths this is DDIM with η (Song, Meng & Ermon 2021, Eq. 16), which is DDPM for
//! η = 1. It is also the ancestral Euler step of k-diffusion, and SDE-DPM-Solver++(1).

use super::sampler_step::{PathPoint, PredictionClip, SamplerStep, StepPrediction};
use super::{SamplerContext, SamplerSchedule, multistep, sampler_step};

/// The weights of the state and of the denoiser, and the standard deviation of the noise.
pub(super) fn ancestral_weights(from: &PathPoint, to: &PathPoint, eta: f64) -> ([f64; 2], f64) {
    if eta == 0.0 {
        return (multistep::first_order_weights(from, to), 0.0);
    }
    // The ratio s'/s is 0 at α = 0 and at σ' = 0.
    let ratio = (to.sigma / from.sigma) * (from.alpha / to.alpha);
    let renewed = eta * eta * (1.0 - ratio * ratio);
    let kept = if eta == 1.0 {
        ratio
    } else {
        (1.0 - renewed).max(0.0).sqrt()
    };
    let weights = [
        to.sigma / from.sigma * kept,
        to.alpha * (1.0 - ratio * kept),
    ];
    (weights, to.sigma * renewed.max(0.0).sqrt())
}

/// The step from one point to another.
pub(super) fn ancestral_step(from: PathPoint, to: PathPoint, eta: f64) -> SamplerStep {
    let (weights, noise_std) = ancestral_weights(&from, &to, eta);
    SamplerStep {
        noise_std,
        ..SamplerStep::without_corrector(from, to, StepPrediction::Denoised, weights.to_vec())
    }
}

/// The steps of a one-step sampler over a schedule, with the final denoising step if there is one.
///
/// # Errors
/// Fails if the schedule is invalid. The message names the key and says what is expected.
pub(super) fn one_step_sampler(
    schedule: &SamplerSchedule,
    context: &SamplerContext,
    step: impl Fn(PathPoint, PathPoint) -> SamplerStep,
) -> Result<Vec<SamplerStep>, String> {
    let ends = schedule.step_ends(context)?;
    let last = ends.last().map(|(_, to)| *to);
    let mut steps: Vec<SamplerStep> = ends.into_iter().map(|(from, to)| step(from, to)).collect();
    steps.extend(schedule.final_denoising_step(last.as_slice()));
    sampler_step::with_readings(steps, context)
}

/// The bounds of a prediction from a sampler's `clip_sample`.
///
/// # Errors
/// Fails if the bound is not a positive number.
pub(super) fn prediction_clip(
    clip_sample: Option<f64>,
    excess_weight: f64,
) -> Result<Option<PredictionClip>, String> {
    match clip_sample {
        Some(range) if !(range.is_finite() && range > 0.0) => {
            Err(format!("clip_sample is {range}, expected a number above 0"))
        }
        given => Ok(given.map(|range| PredictionClip {
            range,
            excess_weight,
        })),
    }
}

/// Checks η, the share of fresh noise.
///
/// # Errors
/// Fails if it is not between 0 and 1.
pub(super) fn check_eta(eta: f64) -> Result<(), String> {
    (0.0..=1.0)
        .contains(&eta)
        .then_some(())
        .ok_or_else(|| format!("eta is {eta}, expected a number from 0 to 1"))
}

/// Checks the factor of fresh noise.
///
/// # Errors
/// Fails if it is negative or not finite.
pub(super) fn check_s_noise(s_noise: f64) -> Result<(), String> {
    (s_noise.is_finite() && s_noise >= 0.0)
        .then_some(())
        .ok_or_else(|| format!("s_noise is {s_noise}, expected a number of at least 0"))
}
