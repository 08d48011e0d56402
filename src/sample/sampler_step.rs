//! A sampler as a list of steps, each of them weights of known states.
//!
//! Every sampler here moves by x_t = w₀ x + w₁ p + w₂ p₋₁ + …, with p the model's prediction at the
//! state and p₋₁, … those of earlier steps; some then predict at that place again and weigh anew. The
//! weights depend on the grid alone, so a step can be carried out, and differentiated, without
//! knowing which method it came from.

use std::collections::VecDeque;

use super::{Denoiser, SampleRequest, SamplerContext};
use crate::flow::field::{EvalError, JacobianOperator};
use crate::flow::path::PathCurve;
use crate::flow::prediction::{Affine, Prediction};
use crate::num::key::Purpose;
use crate::num::{Batch, TangentBatch};

/// A place on the path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathPoint {
    pub t: f64,
    pub alpha: f64,
    pub sigma: f64,
}

impl PathPoint {
    pub fn at_time(curve: &PathCurve, t: f64) -> PathPoint {
        let s = curve.at(t);
        PathPoint {
            t,
            alpha: s.alpha,
            sigma: s.sigma,
        }
    }

    /// λ(`next`) − λ(self), infinite where self has α = 0 or `next` has σ = 0.
    pub fn lambda_step(&self, next: &PathPoint) -> f64 {
        ((next.alpha / self.alpha) * (self.sigma / next.sigma)).ln()
    }
}

/// What the model is asked for in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepPrediction {
    /// dx/dt in the card's own time.
    Velocity,
    /// E\[x₀ | x\]
    Denoised,
}

/// One step of a sampler.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerStep {
    pub from: PathPoint,
    pub to: PathPoint,
    pub prediction: StepPrediction,
    /// Weights of the state, of the prediction at it and of earlier predictions, newest first.
    pub weights: Vec<f64>,
    pub corrector: Option<StepCorrector>,
    /// Standard deviation of the fresh noise that is added to the state first.
    pub churn_std: f64,
}

/// A second prediction, at the end of the step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepCorrector {
    /// Weights of the state, of the new prediction, of the one at the state and of earlier ones.
    pub weights: Vec<f64>,
    /// Whether the new prediction serves as the next step's first, which then costs one evaluation.
    pub reused: bool,
}

impl SamplerStep {
    /// A plain step without a second prediction.
    pub fn without_corrector(
        from: PathPoint,
        to: PathPoint,
        view: StepPrediction,
        weights: Vec<f64>,
    ) -> SamplerStep {
        SamplerStep {
            from,
            to,
            prediction: view,
            weights,
            corrector: None,
            churn_std: 0.0,
        }
    }

    /// x ← E\[x₀ | x\], as a step to σ = 0.
    pub fn denoise(from: PathPoint) -> SamplerStep {
        let to = PathPoint {
            t: from.t,
            alpha: 1.0,
            sigma: 0.0,
        };
        SamplerStep::without_corrector(from, to, StepPrediction::Denoised, vec![0.0, 1.0])
    }
}

/// Evaluations of a march over `steps`.
pub fn count_evaluations(steps: &[SamplerStep]) -> u64 {
    let kept = |i: usize| i > 0 && steps[i - 1].corrector.as_ref().is_some_and(|a| a.reused);
    let of = |(i, step): (usize, &SamplerStep)| {
        u64::from(!kept(i)) + u64::from(step.corrector.is_some())
    };
    steps.iter().enumerate().map(of).sum()
}

/// Refuses steps at whose places the card's prediction does not determine what they ask for.
///
/// # Errors
/// A sentence with the place and what would be right.
pub fn check_steps(steps: &[SamplerStep], on: &SamplerContext) -> Result<(), String> {
    let places = steps.iter().flat_map(|step| {
        let ends = [Some(step.from), step.corrector.as_ref().map(|_| step.to)];
        ends.into_iter().flatten().map(|at| (step.prediction, at))
    });
    if let Some((_, at)) = places
        .into_iter()
        .find(|(view, at)| !prediction_is_defined(on, *view, at.t))
    {
        let prediction = serde_json::to_value(on.prediction).unwrap_or_default();
        return Err(format!(
            "a prediction of {prediction} leaves the step at t = {} undefined, where alpha is {} and sigma {}; \
             cut the path short of it with t_min and t_max",
            at.t, at.alpha, at.sigma
        ));
    }
    Ok(())
}

/// Whether the card's prediction determines `view` at time `t`.
pub fn prediction_is_defined(on: &SamplerContext, view: StepPrediction, t: f64) -> bool {
    let s = on.curve.at(t);
    let Affine { a, b } = match view {
        StepPrediction::Velocity => on.prediction.velocity(&s),
        StepPrediction::Denoised => on.prediction.denoised(&s),
    };
    a.is_finite() && b.is_finite()
}

/// States on their way over a list of steps.
pub struct Trajectory {
    pub x: Batch,
    /// Predictions of earlier steps, newest first.
    history: VecDeque<Batch>,
    /// The prediction that the last step has made already, and the place it was made at.
    reusable: Option<EvaluatedPrediction>,
    pub evaluations: u64,
}

/// A prediction and where it was taken.
#[derive(Clone)]
struct EvaluatedPrediction {
    state: Batch,
    value: Batch,
}

/// Where a step would lead, with what it was computed from.
pub struct StepProposal {
    pub state: Batch,
    first: EvaluatedPrediction,
    second: Option<EvaluatedPrediction>,
}

/// Most earlier predictions that any method looks at.
const MAX_HISTORY: usize = 3;

impl Trajectory {
    pub fn starting_at(x: Batch) -> Trajectory {
        Trajectory {
            x,
            history: VecDeque::new(),
            reusable: None,
            evaluations: 0,
        }
    }

    /// The step's end T(x), with the history held.
    ///
    /// # Errors
    /// Where the model cannot be evaluated.
    pub fn propose(
        &mut self,
        step: &SamplerStep,
        field: &mut dyn Denoiser,
    ) -> Result<StepProposal, EvalError> {
        let first = match self.reusable.take() {
            Some(ready) => ready,
            None => self.predict(step.prediction, step.from.t, self.x.clone(), field)?,
        };
        let place = weighted_sum(
            &step.weights,
            &self.x,
            std::iter::once(&first.value).chain(&self.history),
        );
        let Some(again) = &step.corrector else {
            return Ok(StepProposal {
                state: place,
                first,
                second: None,
            });
        };
        let second = self.predict(step.prediction, step.to.t, place, field)?;
        let values = [&second.value, &first.value];
        let to = weighted_sum(
            &again.weights,
            &self.x,
            values.into_iter().chain(&self.history),
        );
        Ok(StepProposal {
            state: to,
            first,
            second: Some(second),
        })
    }

    fn predict(
        &mut self,
        view: StepPrediction,
        t: f64,
        place: Batch,
        field: &mut dyn Denoiser,
    ) -> Result<EvaluatedPrediction, EvalError> {
        self.evaluations += 1;
        let times = vec![t; place.nrows()];
        let value = match view {
            StepPrediction::Velocity => field.velocity(&times, &place)?,
            StepPrediction::Denoised => field.denoised(&times, &place)?,
        };
        Ok(EvaluatedPrediction {
            state: place,
            value,
        })
    }

    /// Goes where the step leads.
    pub fn accept(&mut self, step: &SamplerStep, candidate: StepProposal) {
        let kept = step.corrector.as_ref().is_some_and(|a| a.reused);
        self.reusable = candidate.second.filter(|_| kept);
        self.history.push_front(candidate.first.value);
        self.history.truncate(MAX_HISTORY);
        self.x = candidate.state;
    }

    /// Goes to another state than the step leads to: a prediction made ahead is of no use there.
    pub fn accept_replacement(&mut self, step: &SamplerStep, candidate: StepProposal, x: Batch) {
        self.accept(step, candidate);
        self.reusable = None;
        self.x = x;
    }

    /// The same walk without its next prediction, from another state: to look ahead.
    pub fn fork(&self, candidate: &StepProposal, x: Batch) -> Trajectory {
        let past = std::iter::once(&candidate.first.value)
            .chain(&self.history)
            .cloned()
            .collect();
        Trajectory {
            x,
            history: past,
            reusable: None,
            evaluations: 0,
        }
    }
}

impl StepProposal {
    /// The same for some of the rows.
    pub fn rows(&self, range: std::ops::Range<usize>) -> StepProposal {
        let cut = |x: &Batch| x.slice(ndarray::s![range.clone(), ..]).to_owned();
        let taken = |t: &EvaluatedPrediction| EvaluatedPrediction {
            state: cut(&t.state),
            value: cut(&t.value),
        };
        StepProposal {
            state: cut(&self.state),
            first: taken(&self.first),
            second: self.second.as_ref().map(taken),
        }
    }

    /// E\[x₀ | x\] as the step's first prediction has it, and the place it is of.
    pub fn denoised(&self, step: &SamplerStep, on: &SamplerContext) -> (Batch, &Batch) {
        let value = match step.prediction {
            StepPrediction::Denoised => self.first.value.clone(),
            StepPrediction::Velocity => {
                let view = Prediction::Velocity.denoised(&on.curve.at(step.from.t));
                &self.first.value * view.b + &self.first.state * view.a
            }
        };
        (value, &self.first.state)
    }
}

/// Products of one step's Jacobians with the same directions, k × rows × dim.
pub struct StepJacobianProducts {
    /// J_T z
    pub step: TangentBatch,
    /// J_D z at the step's first prediction.
    pub denoised: TangentBatch,
    /// Products of the network per direction.
    pub count: u64,
}

/// J_T z of a proposed step, by the chain rule through its one or two predictions.
///
/// The history is held, and so is the offset between the state and the place where a prediction that
/// was made ahead was taken.
///
/// # Errors
/// Where the model cannot be evaluated.
pub fn step_jacobian_products(
    step: &SamplerStep,
    candidate: &StepProposal,
    z: &TangentBatch,
    on: &SamplerContext,
    field: &mut dyn JacobianOperator,
) -> Result<StepJacobianProducts, EvalError> {
    let first = prediction_jvp(
        step.prediction,
        &candidate.first.state,
        step.from.t,
        z,
        on,
        field,
    )?;
    let denoised = match step.prediction {
        StepPrediction::Denoised => first.clone(),
        StepPrediction::Velocity => denoised_jvp(&first, z, step.from.t, on),
    };
    let place = z * step.weights[0] + &first * step.weights[1];
    let (Some(again), Some(second)) = (&step.corrector, &candidate.second) else {
        return Ok(StepJacobianProducts {
            step: place,
            denoised,
            count: 1,
        });
    };
    let second = prediction_jvp(step.prediction, &second.state, step.to.t, &place, on, field)?;
    let end = z * again.weights[0] + second * again.weights[1] + &first * again.weights[2];
    Ok(StepJacobianProducts {
        step: end,
        denoised,
        count: 2,
    })
}

/// The prediction's Jacobian times z.
fn prediction_jvp(
    view: StepPrediction,
    x: &Batch,
    t: f64,
    z: &TangentBatch,
    on: &SamplerContext,
    field: &mut dyn JacobianOperator,
) -> Result<TangentBatch, EvalError> {
    let velocity = field.jvp(&vec![t; x.nrows()], x, z)?;
    Ok(if view == StepPrediction::Velocity {
        velocity
    } else {
        denoised_jvp(&velocity, z, t, on)
    })
}

/// J_D z = a z + b J_v z, with D = a x + b v on every path.
fn denoised_jvp(
    velocity: &TangentBatch,
    z: &TangentBatch,
    t: f64,
    on: &SamplerContext,
) -> TangentBatch {
    let view = Prediction::Velocity.denoised(&on.curve.at(t));
    velocity * view.b + z * view.a
}

/// Carries every row over the steps.
///
/// # Errors
/// Where the model cannot be evaluated.
pub fn integrate_steps(
    steps: &[SamplerStep],
    field: &mut dyn Denoiser,
    draw: &SampleRequest,
    x: Batch,
) -> Result<Trajectory, EvalError> {
    let mut walk = Trajectory::starting_at(x);
    for (i, step) in steps.iter().enumerate() {
        if step.churn_std > 0.0 {
            add_churn_noise(&mut walk.x, step.churn_std, draw, i as u64);
        }
        let candidate = walk.propose(step, field)?;
        walk.accept(step, candidate);
    }
    Ok(walk)
}

/// Adds noise of standard deviation `std`, drawn at each sample's address and this step's.
fn add_churn_noise(x: &mut Batch, std: f64, draw: &SampleRequest, step: u64) {
    let dim = x.ncols();
    for (mut row, sample) in x.rows_mut().into_iter().zip(draw.samples) {
        row.scaled_add(std, &draw.key.normal(Purpose::Churn, *sample, step, dim));
    }
}

fn weighted_sum<'a>(
    weights: &[f64],
    x: &Batch,
    predictions: impl Iterator<Item = &'a Batch>,
) -> Batch {
    let mut out = x * weights[0];
    for (weight, prediction) in weights[1..].iter().zip(predictions) {
        out.scaled_add(*weight, prediction);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::{sampler_from_yaml, velocity_context};
    use super::*;
    use crate::flow::path::ProbabilityPath;
    use crate::model::analytic;
    use crate::num::key::RngKey;

    /// Every step's J_T z against central differences of T, with history and offset held.
    #[test]
    fn step_jacobian_products_match_central_differences() {
        for spec in [
            "euler",
            "ddim",
            "heun",
            "{heun: {variable: sigma}}",
            "dpmpp-2m",
            "dpmpp-3m",
            "{unipc: {order: 2}}",
            "{unipc: {variant: bh2}}",
        ] {
            for path in ProbabilityPath::defaults() {
                let curve = path.curve().expect("defaults are right");
                let mut model = analytic::example_mixture(curve.clone(), 3);
                let on = velocity_context(&curve);
                let steps = sampler_from_yaml(spec).with_steps(7);
                let Ok(steps) = steps.steps(&on) else {
                    continue;
                };
                let x =
                    super::super::initial_noise(RngKey { seed: 6 }, &[0, 1], 3, curve.prior_std());
                let z = TangentBatch::from_shape_fn((1, 2, 3), |(_, i, j)| {
                    0.3 + i as f64 - 0.4 * j as f64
                });
                let mut walk = Trajectory::starting_at(x);
                for step in &steps {
                    // The scale over which the model bends at this noise.
                    let h = 1e-4 * step.from.sigma.max(0.05);
                    let shifted =
                        |sign: f64, model: &mut crate::model::analytic::AnalyticMixture| {
                            let move_by = &z.index_axis(ndarray::Axis(0), 0) * (sign * h);
                            let mut other = Trajectory::starting_at(&walk.x + &move_by);
                            other.history = walk.history.clone();
                            if let Some(ready) = &walk.reusable {
                                let place = &ready.state + &move_by;
                                let there = other
                                    .predict(step.prediction, step.from.t, place, model)
                                    .expect("analytic");
                                other.reusable = Some(there);
                            }
                            other.propose(step, model).expect("analytic").state
                        };
                    let slope = (shifted(1.0, &mut model) - shifted(-1.0, &mut model)) / (2.0 * h);
                    let candidate = walk.propose(step, &mut model).expect("analytic");
                    let got = step_jacobian_products(step, &candidate, &z, &on, &mut model)
                        .expect("analytic")
                        .step;
                    for (g, want) in got.iter().zip(&slope) {
                        let close = (g - want).abs() < 2e-5 * (1.0 + want.abs());
                        assert!(close, "{spec} {path:?} at {:?}: {g} {want}", step.from);
                    }
                    walk.accept(step, candidate);
                }
            }
        }
    }

    /// J_D z comes out of J_v z on every path as out of the denoiser itself.
    #[test]
    fn denoised_jvp_matches_central_differences() {
        for path in ProbabilityPath::defaults() {
            let curve = path.curve().expect("defaults are right");
            let mut model = analytic::example_mixture(curve.clone(), 3);
            for u in [0.1, 0.4, 0.9] {
                let t = curve.data_end() + u * (curve.prior_end() - curve.data_end());
                let x = ndarray::array![[0.3, -0.5, 1.0]];
                let z = ndarray::array![[[0.7, -0.2, 0.4]]];
                let move_by = z.index_axis(ndarray::Axis(0), 0).to_owned() * 1e-5;
                let ahead = model.denoised(&[t], &(&x + &move_by)).expect("analytic");
                let behind = model.denoised(&[t], &(&x - &move_by)).expect("analytic");
                let got = prediction_jvp(
                    StepPrediction::Denoised,
                    &x,
                    t,
                    &z,
                    &velocity_context(&curve),
                    &mut model,
                )
                .expect("analytic");
                for (g, want) in got.iter().zip(&((ahead - behind) / 2e-5)) {
                    assert!(
                        (g - want).abs() < 1e-6 * (1.0 + want.abs()),
                        "{path:?} {u}: {g} {want}"
                    );
                }
            }
        }
    }
}
