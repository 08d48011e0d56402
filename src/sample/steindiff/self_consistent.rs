//! The self-consistent mode of SteinDiff: a proposal is moved towards the chord from the state to a
//! look one step ahead.

use super::super::Denoiser;
use super::super::sampler_step::{SamplerStep, StepProposal, Trajectory};
use crate::flow::field::EvalError;
use crate::num::Batch;

/// w = ln(σ_k/σ_{k−1}) / ln(σ_k/σ_{k−2}): where the end of the first step lies on the way of two
/// steps, in ln σ.
///
/// It is 0 if there is no second step or if the second step ends at σ = 0.
pub(super) fn chord_weight(steps: &[SamplerStep]) -> f64 {
    match steps {
        [step, next, ..] if next.to.sigma > 0.0 => {
            (step.from.sigma / step.to.sigma).ln() / (step.from.sigma / next.to.sigma).ln()
        }
        _ => 0.0,
    }
}

/// x ← (1 − λ) x^S + λ x^traj, with x^traj = (1 − w) x_k + w x_ahead.
///
/// The weight of each sample is λ = exp(−‖x^traj − x^S‖² / (2 d τ²)). Here x^S is `damped`, the
/// result of the first of `steps`, and x_ahead is the end of the second step from there. Returns
/// the states and the mean of λ, which is `None` if there is no second step.
///
/// # Errors
/// Fails if the model cannot be evaluated.
pub(super) fn blend_with_chord(
    steps: &[SamplerStep],
    trajectory: &mut Trajectory,
    proposal: &StepProposal,
    damped: Batch,
    tau: f64,
    field: &mut dyn Denoiser,
) -> Result<(Batch, Option<f64>), EvalError> {
    let w = chord_weight(steps);
    if w == 0.0 {
        return Ok((damped, None));
    }
    let mut fork = trajectory.fork(proposal, damped);
    let ahead = fork.propose(&steps[1], field)?.state;
    trajectory.evaluations += fork.evaluations;
    let mut x = fork.x;
    let mut sum = 0.0;
    for (i, mut row) in x.rows_mut().into_iter().enumerate() {
        let chord = &trajectory.x.row(i) * (1.0 - w) + &ahead.row(i) * w;
        let gap = &chord - &row;
        let lambda = (-gap.dot(&gap) / (2.0 * gap.len() as f64 * tau * tau)).exp();
        row.scaled_add(lambda, &gap);
        sum += lambda;
    }
    let mean = sum / x.nrows() as f64;
    Ok((x, Some(mean)))
}
