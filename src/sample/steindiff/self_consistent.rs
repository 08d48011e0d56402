//! The self-consistent form: a proposal is drawn to the chord between the state and a look ahead.

use super::super::Denoiser;
use super::super::sampler_step::{SamplerStep, StepProposal, Trajectory};
use crate::flow::field::EvalError;
use crate::num::Batch;

/// w = ln(σ_k/σ_{k−1}) / ln(σ_k/σ_{k−2}): where the step's end lies on the way of two; 0 where there are no two.
pub fn chord_weight(steps: &[SamplerStep]) -> f64 {
    match steps {
        [step, next, ..] if next.to.sigma > 0.0 => {
            (step.from.sigma / step.to.sigma).ln() / (step.from.sigma / next.to.sigma).ln()
        }
        _ => 0.0,
    }
}

/// x ← (1 − λ) x^S + λ x^traj with x^traj = (1 − w) x_k + w x_ahead and λ = exp(−‖x^traj − x^S‖² / (2 d τ²)).
///
/// `steps` begins with the step that led to `proposal`. λ is each sample's own; its mean comes back.
pub fn blend_with_chord(
    steps: &[SamplerStep],
    walk: &mut Trajectory,
    candidate: &StepProposal,
    proposal: Batch,
    tau: f64,
    field: &mut dyn Denoiser,
) -> Result<(Batch, Option<f64>), EvalError> {
    let w = chord_weight(steps);
    if w == 0.0 {
        return Ok((proposal, None));
    }
    let mut fork = walk.fork(candidate, proposal);
    let ahead = fork.propose(&steps[1], field)?.state;
    walk.evaluations += fork.evaluations;
    let mut x = fork.x;
    let mut sum = 0.0;
    for (i, mut row) in x.rows_mut().into_iter().enumerate() {
        let chord = &walk.x.row(i) * (1.0 - w) + &ahead.row(i) * w;
        let gap = &chord - &row;
        let lambda = (-gap.dot(&gap) / (2.0 * gap.len() as f64 * tau * tau)).exp();
        row.scaled_add(lambda, &gap);
        sum += lambda;
    }
    let mean = sum / x.nrows() as f64;
    Ok((x, Some(mean)))
}
