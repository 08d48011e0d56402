//! A sampler as a list of steps. Each step is a list of weights of known arrays.
//!
//! Every sampler here steps by x_t = w₀ x + w₁ p + w₂ p₋₁ + …. Here p is the model's prediction at
//! the state, and p₋₁, … are the predictions of earlier steps. Some samplers then evaluate a second
//! prediction at the end of the step, or in its middle, and combine the arrays again with other
//! weights. Random steps add noise to the results.
//!
//! The weights depend only on the grid. A step can therefore be carried out, and differentiated,
//! without knowing which method it came from.

use std::collections::VecDeque;

use super::brownian::{BrownianNoise, NoiseInterval, StepNoise};
use super::{Denoiser, SampleRequest, SamplerContext};
use crate::flow::field::{EvalError, JacobianOperator, Points};
use crate::flow::path::{PathCoefficients, PathCurve, ProbabilityPath};
use crate::flow::prediction::{Affine, Prediction};
use crate::num::key::{Purpose, SampleId};
use crate::num::{Batch, TangentBatch};

/// A point of the path: a time with its α and σ.
///
/// α and σ are not always those of the path at the time. Schedulers of other programs give a network
/// a rounded time, or end at σ = 0, where the path does not lead.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathPoint {
    /// The card's own time, at which the network is evaluated.
    pub t: f64,
    /// The factor α of the clean data.
    pub alpha: f64,
    /// The standard deviation σ of the noise.
    pub sigma: f64,
}

impl PathPoint {
    /// The point of the path at time `t`.
    pub fn at_time(curve: &PathCurve, t: f64) -> PathPoint {
        let s = curve.at(t);
        PathPoint {
            t,
            alpha: s.alpha,
            sigma: s.sigma,
        }
    }

    /// λ = ln(α/σ). It is −∞ if α is 0, and ∞ if σ is 0.
    pub fn half_log_snr(&self) -> f64 {
        (self.alpha / self.sigma).ln()
    }

    /// λ(`next`) − λ(self) with λ = ln(α/σ). It is infinite if α is 0 at `self` or σ is 0 at
    /// `next`.
    pub fn lambda_step(&self, next: &PathPoint) -> f64 {
        ((next.alpha / self.alpha) * (self.sigma / next.sigma)).ln()
    }
}

/// The prediction that a step combines with the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepPrediction {
    /// The velocity dx/dt in the card's own time.
    Velocity,
    /// The denoiser E\[x₀ | x\].
    Denoised,
}

/// One step of a sampler.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerStep {
    /// The point at which the step begins.
    pub from: PathPoint,
    /// The point at which the step ends.
    pub to: PathPoint,
    /// Which prediction the weights belong to.
    pub prediction: StepPrediction,
    /// Weights of the state, of the prediction at the state, and of earlier predictions, newest
    /// first.
    pub weights: Vec<f64>,
    /// The second stage, if the step has one.
    pub corrector: Option<StepCorrector>,
    /// The standard deviation of the fresh noise that is added to the state before the step.
    pub churn_std: f64,
    /// The standard deviation of the noise that is added to the state after the step.
    pub noise_std: f64,
    /// How the prediction at the state is read at a point that is not on the path: `a`·x + `b`·p.
    /// `None` if the point is on the path.
    pub reading: Option<Affine>,
    /// The bounds of the prediction at the state, if it has any.
    pub clip: Option<PredictionClip>,
}

/// The bounds of a prediction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PredictionClip {
    /// Every value is moved into −`range` to `range`.
    pub range: f64,
    /// The weight in the new state of what was cut off. DDIM takes the noise from the prediction as
    /// it was.
    pub excess_weight: f64,
}

/// The second stage of a step: a prediction at the step's end or between its ends, and new weights.
#[derive(Debug, Clone, PartialEq)]
pub struct StepCorrector {
    /// The point at which the second prediction is evaluated.
    pub at: PathPoint,
    /// How the second prediction is read at a point that is not on the path; see
    /// [`SamplerStep::reading`].
    pub reading: Option<Affine>,
    /// The standard deviation of the noise that is added to the state before the second prediction.
    pub noise_std: f64,
    /// Weights of the state, of the new prediction, of the prediction at the state, and of earlier
    /// predictions, newest first.
    pub weights: Vec<f64>,
    /// Whether the next step reuses the new prediction as its first one and so saves an evaluation.
    pub reused: bool,
}

impl StepCorrector {
    /// A second stage without noise, with the prediction at a point of the path.
    pub fn at_point(at: PathPoint, weights: Vec<f64>, reused: bool) -> StepCorrector {
        StepCorrector {
            at,
            reading: None,
            noise_std: 0.0,
            weights,
            reused,
        }
    }
}

impl SamplerStep {
    /// A step without a corrector, without churn and without noise.
    pub fn without_corrector(
        from: PathPoint,
        to: PathPoint,
        prediction: StepPrediction,
        weights: Vec<f64>,
    ) -> SamplerStep {
        SamplerStep {
            from,
            to,
            prediction,
            weights,
            corrector: None,
            churn_std: 0.0,
            noise_std: 0.0,
            reading: None,
            clip: None,
        }
    }

    /// Whether the step draws random numbers.
    pub fn is_random(&self) -> bool {
        self.churn_std > 0.0
            || self.noise_std > 0.0
            || self.corrector.as_ref().is_some_and(|c| c.noise_std > 0.0)
    }

    /// The number of times that the step draws noise after its predictions.
    fn noise_draws(&self) -> usize {
        1 + usize::from(self.corrector.as_ref().is_some_and(|c| c.noise_std > 0.0))
    }

    /// The step x ← E\[x₀ | x\] to σ = 0.
    pub fn denoise(from: PathPoint) -> SamplerStep {
        let to = PathPoint {
            t: from.t,
            alpha: 1.0,
            sigma: 0.0,
        };
        SamplerStep::without_corrector(from, to, StepPrediction::Denoised, vec![0.0, 1.0])
    }
}

/// The number of evaluations per sample that `steps` take. A reused prediction counts once.
pub fn count_evaluations(steps: &[SamplerStep]) -> u64 {
    let reuses_last = |i: usize| i > 0 && steps[i - 1].corrector.as_ref().is_some_and(|c| c.reused);
    let evaluations = |(i, step): (usize, &SamplerStep)| {
        u64::from(!reuses_last(i)) + u64::from(step.corrector.is_some())
    };
    steps.iter().enumerate().map(evaluations).sum()
}

/// Checks that the card's prediction determines what every step evaluates.
///
/// # Errors
/// Fails if a prediction is undefined at a point of the grid, as a velocity is at σ = 0 on some
/// paths. The message names the time and says how to avoid it.
pub fn check_steps(steps: &[SamplerStep], context: &SamplerContext) -> Result<(), String> {
    let points = steps.iter().flat_map(|step| {
        let ends = [Some(step.from), step.corrector.as_ref().map(|c| c.at)];
        ends.into_iter().flatten().map(|at| (step.prediction, at))
    });
    if let Some((_, at)) = points
        .into_iter()
        .find(|(prediction, at)| !prediction_is_defined(context, *prediction, at.t))
    {
        let prediction = serde_json::to_value(context.prediction).unwrap_or_default();
        let remedy = match context.curve.path() {
            ProbabilityPath::Discrete { .. } => {
                "choose evaluations without this index (spacing, times), or give the path \
                 last_alpha_bar, for which diffusers takes 5.960464477539063e-8"
            }
            _ => "cut the path short of this time with t_min and t_max",
        };
        return Err(format!(
            "a prediction of {prediction} leaves the step at t = {} undefined, where alpha is {} \
             and sigma is {}; {remedy}",
            at.t, at.alpha, at.sigma
        ));
    }
    Ok(())
}

/// Completes steps with readings: how predictions at points that are not on the path are read there.
///
/// A network at a rounded time, for example, estimates the noise in the state. With α and σ of the
/// point, and not with those of the rounded time, its estimate becomes a denoiser.
///
/// # Errors
/// Fails if the prediction cannot be read at such a point, as a velocity of a curved path cannot.
pub fn with_readings(
    mut steps: Vec<SamplerStep>,
    context: &SamplerContext,
) -> Result<Vec<SamplerStep>, String> {
    for step in &mut steps {
        step.reading = reading_at(step.prediction, &step.from, context)?;
        if step.prediction == StepPrediction::Velocity {
            // A step in time leads only to points of the path.
            reading_at(step.prediction, &step.to, context)?;
        }
        if let Some(corrector) = &mut step.corrector {
            corrector.reading = reading_at(step.prediction, &corrector.at, context)?;
        }
    }
    Ok(steps)
}

/// The reading of a prediction at a point; `None` if the point is on the path or if the reading
/// changes nothing.
fn reading_at(
    prediction: StepPrediction,
    point: &PathPoint,
    context: &SamplerContext,
) -> Result<Option<Affine>, String> {
    let there = context.curve.at(point.t);
    if (there.alpha, there.sigma) == (point.alpha, point.sigma) {
        return Ok(None);
    }
    let straight = matches!(
        context.curve.path(),
        ProbabilityPath::FlowMatching { .. } | ProbabilityPath::Edm { .. }
    );
    if prediction == StepPrediction::Velocity
        || (context.prediction == Prediction::Velocity && !straight)
    {
        return Err(format!(
            "the step at t = {} is at alpha = {} and sigma = {}, but the path has alpha = {} and              sigma = {} at this time, and a velocity is defined only on the path; use a sampler              that takes the denoiser, such as ddim, or a schedule on the path",
            point.t, point.alpha, point.sigma, there.alpha, there.sigma
        ));
    }
    let here = PathCoefficients {
        alpha: point.alpha,
        sigma: point.sigma,
        ..there
    };
    let (on, at) = (
        context.prediction.denoised(&there),
        context.prediction.denoised(&here),
    );
    let scale = at.b / on.b;
    Ok(Some(Affine {
        a: at.a - scale * on.a,
        b: scale,
    })
    .filter(|r| *r != (Affine { a: 0.0, b: 1.0 })))
}

/// Whether the card's prediction determines `prediction` at time `t`.
pub fn prediction_is_defined(context: &SamplerContext, prediction: StepPrediction, t: f64) -> bool {
    let s = context.curve.at(t);
    let Affine { a, b } = match prediction {
        StepPrediction::Velocity => context.prediction.velocity(&s),
        StepPrediction::Denoised => context.prediction.denoised(&s),
    };
    a.is_finite() && b.is_finite()
}

/// The states of many samples on their way through the steps.
pub struct Trajectory {
    /// The number of each row's sample.
    samples: Vec<SampleId>,
    /// The present states, rows × dim.
    pub x: Batch,
    /// The predictions of earlier steps, newest first.
    history: VecDeque<Batch>,
    /// The prediction that the last step already made for this one, with the states at which it was
    /// made.
    reusable: Option<EvaluatedPrediction>,
    /// The number of evaluations per sample so far.
    pub evaluations: u64,
}

/// A prediction and the states at which it was made.
#[derive(Clone)]
struct EvaluatedPrediction {
    state: Batch,
    value: Batch,
}

/// The states to which a step leads, with the predictions from which they were computed.
pub struct StepProposal {
    /// The number of each row's sample.
    samples: Vec<SampleId>,
    /// The states at the end of the step, rows × dim.
    pub state: Batch,
    first: EvaluatedPrediction,
    second: Option<EvaluatedPrediction>,
}

/// The largest number of earlier predictions that any method uses.
const MAX_HISTORY: usize = 3;

impl Trajectory {
    /// A trajectory of `samples` that starts at the states `x`, without a history.
    pub fn starting_at(samples: &[SampleId], x: Batch) -> Trajectory {
        Trajectory {
            samples: samples.to_vec(),
            x,
            history: VecDeque::new(),
            reusable: None,
            evaluations: 0,
        }
    }

    /// Computes the states T(x) to which the step leads, without any noise that it adds. The
    /// trajectory itself does not move.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    pub fn propose(
        &mut self,
        step: &SamplerStep,
        field: &mut dyn Denoiser,
    ) -> Result<StepProposal, EvalError> {
        self.propose_with_noise(step, field, &mut |_, _| Ok(()))
    }

    /// Like [`Trajectory::propose`], but `add_noise` adds the noise of a stage to the states that it
    /// gets. Stage 0 is before the second prediction, stage 1 at the end of the step.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated, or if the noise cannot be drawn.
    fn propose_with_noise(
        &mut self,
        step: &SamplerStep,
        field: &mut dyn Denoiser,
        add_noise: &mut dyn FnMut(usize, &mut Batch) -> Result<(), EvalError>,
    ) -> Result<StepProposal, EvalError> {
        let mut first = match self.reusable.take() {
            Some(ready) => ready,
            None => {
                let place = (step.from.t, step.reading);
                self.predict(step.prediction, place, self.x.clone(), field)?
            }
        };
        let excess = step.clip.map(|clip| {
            let kept = first.value.mapv(|v| v.clamp(-clip.range, clip.range));
            let excess = (&first.value - &kept) * clip.excess_weight;
            first.value = kept;
            excess
        });
        let mut state = weighted_sum(
            &step.weights,
            &self.x,
            std::iter::once(&first.value).chain(&self.history),
        );
        if let Some(excess) = excess {
            state += &excess;
        }
        let Some(corrector) = &step.corrector else {
            add_noise(1, &mut state)?;
            return Ok(StepProposal {
                samples: self.samples.clone(),
                state,
                first,
                second: None,
            });
        };
        add_noise(0, &mut state)?;
        let place = (corrector.at.t, corrector.reading);
        let mut second = self.predict(step.prediction, place, state, field)?;
        if let Some(clip) = step.clip {
            second
                .value
                .mapv_inplace(|v| v.clamp(-clip.range, clip.range));
        }
        let values = [&second.value, &first.value];
        let mut to = weighted_sum(
            &corrector.weights,
            &self.x,
            values.into_iter().chain(&self.history),
        );
        add_noise(1, &mut to)?;
        Ok(StepProposal {
            samples: self.samples.clone(),
            state: to,
            first,
            second: Some(second),
        })
    }

    /// Evaluates a prediction at the states `x`, at a time and with a reading, and counts the
    /// evaluation.
    fn predict(
        &mut self,
        prediction: StepPrediction,
        (t, reading): (f64, Option<Affine>),
        state: Batch,
        field: &mut dyn Denoiser,
    ) -> Result<EvaluatedPrediction, EvalError> {
        self.evaluations += field.calls_at(t);
        let times = vec![t; state.nrows()];
        let at = Points::new(&self.samples, &times, &state);
        let mut value = match prediction {
            StepPrediction::Velocity => field.velocity(at)?,
            StepPrediction::Denoised => field.denoised(at)?,
        };
        if let Some(Affine { a, b }) = reading {
            value *= b;
            value.scaled_add(a, &state);
        }
        Ok(EvaluatedPrediction { state, value })
    }

    /// Moves to the proposed states.
    pub fn accept(&mut self, step: &SamplerStep, proposal: StepProposal) {
        let reused = step.corrector.as_ref().is_some_and(|a| a.reused);
        self.reusable = proposal.second.filter(|_| reused);
        self.history.push_front(proposal.first.value);
        self.history.truncate(MAX_HISTORY);
        self.x = proposal.state;
    }

    /// Moves to the states `x` instead of the proposed ones.
    ///
    /// A prediction made ahead belongs to the proposed states, so it is dropped.
    pub fn accept_replacement(&mut self, step: &SamplerStep, proposal: StepProposal, x: Batch) {
        self.accept(step, proposal);
        self.reusable = None;
        self.x = x;
    }

    /// A copy of the trajectory after the step, but at the states `x` and without a prediction made
    /// ahead.
    ///
    /// It serves to look one step ahead. The original trajectory is unchanged.
    pub fn fork(&self, proposal: &StepProposal, x: Batch) -> Trajectory {
        let past = std::iter::once(&proposal.first.value)
            .chain(&self.history)
            .cloned()
            .collect();
        Trajectory {
            samples: self.samples.clone(),
            x,
            history: past,
            reusable: None,
            evaluations: 0,
        }
    }
}

impl StepProposal {
    /// The proposal restricted to the rows in `range`.
    pub fn rows(&self, range: std::ops::Range<usize>) -> StepProposal {
        let cut = |x: &Batch| x.slice(ndarray::s![range.clone(), ..]).to_owned();
        let taken = |t: &EvaluatedPrediction| EvaluatedPrediction {
            state: cut(&t.state),
            value: cut(&t.value),
        };
        StepProposal {
            samples: self.samples[range.clone()].to_vec(),
            state: cut(&self.state),
            first: taken(&self.first),
            second: self.second.as_ref().map(taken),
        }
    }

    /// The denoiser E\[x₀ | x\] at the step's first prediction, and the states at which it was
    /// made.
    pub fn denoised(&self, step: &SamplerStep, context: &SamplerContext) -> (Batch, &Batch) {
        let value = match step.prediction {
            StepPrediction::Denoised => self.first.value.clone(),
            StepPrediction::Velocity => {
                let affine = Prediction::Velocity.denoised(&context.curve.at(step.from.t));
                &self.first.value * affine.b + &self.first.state * affine.a
            }
        };
        (value, &self.first.state)
    }
}

/// Products of one step's Jacobians with the same directions, directions × rows × dim.
pub struct StepJacobianProducts {
    /// J_T z, for the Jacobian of the whole step T.
    pub step: TangentBatch,
    /// J_D z, for the Jacobian of the denoiser at the step's first prediction.
    pub denoised: TangentBatch,
    /// The number of the network's Jacobian products for each direction.
    pub count: u64,
}

/// J_T z of a proposed step, by the chain rule through its one or two predictions.
///
/// Noise does not depend on the state, and bounds of a prediction have no part in the products:
/// SteinDiff refuses steps with either. The predictions in the history are constants. If the first prediction was made ahead at other
/// states, their offset from the present states is a constant too.
///
/// # Errors
/// Fails if the model cannot be evaluated.
pub fn step_jacobian_products(
    step: &SamplerStep,
    proposal: &StepProposal,
    z: &TangentBatch,
    context: &SamplerContext,
    field: &mut dyn JacobianOperator,
) -> Result<StepJacobianProducts, EvalError> {
    let first = prediction_jvp(
        step.prediction,
        &proposal.samples,
        &proposal.first.state,
        (step.from.t, step.reading),
        z,
        context,
        field,
    )?;
    let denoised = match step.prediction {
        StepPrediction::Denoised => first.clone(),
        StepPrediction::Velocity => denoised_jvp(&first, z, step.from.t, context),
    };
    let predicted = z * step.weights[0] + &first * step.weights[1];
    let (Some(corrector), Some(second)) = (&step.corrector, &proposal.second) else {
        return Ok(StepJacobianProducts {
            step: predicted,
            denoised,
            count: field.calls_at(step.from.t),
        });
    };
    let second = prediction_jvp(
        step.prediction,
        &proposal.samples,
        &second.state,
        (corrector.at.t, corrector.reading),
        &predicted,
        context,
        field,
    )?;
    let end =
        z * corrector.weights[0] + second * corrector.weights[1] + &first * corrector.weights[2];
    Ok(StepJacobianProducts {
        step: end,
        denoised,
        count: field.calls_at(step.from.t) + field.calls_at(step.to.t),
    })
}

/// J_Tᵀ w of a proposed step, with the same constants as in [`step_jacobian_products`].
///
/// # Errors
/// Fails if the model cannot be evaluated, or has no products with the transposed Jacobian.
pub fn step_transposed_products(
    step: &SamplerStep,
    proposal: &StepProposal,
    w: &TangentBatch,
    context: &SamplerContext,
    field: &mut dyn JacobianOperator,
) -> Result<TangentBatch, EvalError> {
    let mut transposed = |at: &EvaluatedPrediction, place, w: &TangentBatch| {
        prediction_vjp(
            step.prediction,
            &proposal.samples,
            &at.state,
            place,
            w,
            context,
            field,
        )
    };
    let first = (step.from.t, step.reading);
    let (Some(corrector), Some(second)) = (&step.corrector, &proposal.second) else {
        return Ok(
            transposed(&proposal.first, first, &(w * step.weights[1]))? + w * step.weights[0]
        );
    };
    // What reaches the middle state, and through it the first prediction and the state.
    let place = (corrector.at.t, corrector.reading);
    let middle = transposed(second, place, &(w * corrector.weights[1]))?;
    let to_first = w * corrector.weights[2] + &middle * step.weights[1];
    let from_first = transposed(&proposal.first, first, &to_first)?;
    Ok(w * corrector.weights[0] + middle * step.weights[0] + from_first)
}

/// The transposed Jacobian of the prediction times w.
fn prediction_vjp(
    prediction: StepPrediction,
    samples: &[SampleId],
    x: &Batch,
    (t, reading): (f64, Option<Affine>),
    w: &TangentBatch,
    context: &SamplerContext,
    field: &mut dyn JacobianOperator,
) -> Result<TangentBatch, EvalError> {
    let velocity = field
        .vjp(Points::new(samples, &vec![t; x.nrows()], x), w)?
        .ok_or_else(|| {
            EvalError::Missing(
                "this model offers no products with its transposed Jacobian".to_owned(),
            )
        })?;
    let product = if prediction == StepPrediction::Velocity {
        velocity
    } else {
        denoised_jvp(&velocity, w, t, context)
    };
    Ok(match reading {
        Some(Affine { a, b }) => product * b + w * a,
        None => product,
    })
}

/// The Jacobian of the prediction times z.
fn prediction_jvp(
    prediction: StepPrediction,
    samples: &[SampleId],
    x: &Batch,
    (t, reading): (f64, Option<Affine>),
    z: &TangentBatch,
    context: &SamplerContext,
    field: &mut dyn JacobianOperator,
) -> Result<TangentBatch, EvalError> {
    let velocity = field.jvp(Points::new(samples, &vec![t; x.nrows()], x), z)?;
    let product = if prediction == StepPrediction::Velocity {
        velocity
    } else {
        denoised_jvp(&velocity, z, t, context)
    };
    Ok(match reading {
        Some(Affine { a, b }) => product * b + z * a,
        None => product,
    })
}

/// J_D z = a z + b J_v z, because D = a x + b v on every path. The same holds for the transposes.
fn denoised_jvp(
    velocity: &TangentBatch,
    z: &TangentBatch,
    t: f64,
    context: &SamplerContext,
) -> TangentBatch {
    let affine = Prediction::Velocity.denoised(&context.curve.at(t));
    velocity * affine.b + z * affine.a
}

/// Carries every row of `x` through all steps.
///
/// # Errors
/// Fails if the model cannot be evaluated.
pub fn integrate_steps(
    steps: &[SamplerStep],
    field: &mut dyn Denoiser,
    draw: &SampleRequest,
    x: Batch,
) -> Result<Trajectory, EvalError> {
    let mut trajectory = Trajectory::starting_at(draw.samples, x);
    let dim = trajectory.x.ncols();
    let mut source: Box<dyn StepNoise> = match draw.step_noise {
        Some(given) => Box::new(given.for_samples(draw.samples)),
        None => Box::new(BrownianNoise::new(draw.key, draw.samples, dim)),
    };
    // The end of the intervals for which noise was drawn. Where a step begins at more noise than the
    // last one ended with, its noise is drawn for the rest of its interval.
    let mut drawn_to = f64::NEG_INFINITY;
    for (i, step) in steps.iter().enumerate() {
        if step.churn_std > 0.0 {
            add_churn_noise(&mut trajectory.x, step.churn_std, draw, i as u64);
        }
        let mut add_noise = |stage: usize, x: &mut Batch| {
            let (std, to) = match (&step.corrector, stage) {
                (Some(corrector), 0) => (corrector.noise_std, corrector.at.half_log_snr()),
                _ => (step.noise_std, step.to.half_log_snr()),
            };
            if std > 0.0 {
                let stages = step.noise_draws();
                let interval = NoiseInterval {
                    step: i,
                    stage: if stages == 2 { stage } else { 0 },
                    stages,
                    from: step.from.half_log_snr().max(drawn_to),
                    to,
                };
                x.scaled_add(std, &draw.prior.project(source.draw_for(&interval)?));
            }
            Ok(())
        };
        let proposal = trajectory.propose_with_noise(step, field, &mut add_noise)?;
        if step.is_random() {
            drawn_to = drawn_to.max(step.to.half_log_snr());
        }
        trajectory.accept(step, proposal);
    }
    Ok(trajectory)
}

/// Adds noise of standard deviation `std`. It depends only on the seed, the sample's index and the
/// step's number.
fn add_churn_noise(x: &mut Batch, std: f64, draw: &SampleRequest, step: u64) {
    let mut noise = Batch::zeros(x.raw_dim());
    for (mut row, sample) in noise.rows_mut().into_iter().zip(draw.samples) {
        row.assign(&draw.key.normal(Purpose::Churn, *sample, step, x.ncols()));
    }
    x.scaled_add(std, &draw.prior.project(noise));
}

/// w₀ x + Σ w_i p_i, for as many predictions as there are weights.
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

    /// J_T z of every step equals central differences of T with constant history and offset.
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
                let context = velocity_context(&curve);
                let steps = sampler_from_yaml(spec).with_steps(7);
                let Ok(steps) = steps.steps(&context) else {
                    continue;
                };
                let x =
                    super::super::initial_noise(RngKey { seed: 6 }, &[0, 1], 3, curve.prior_std());
                let z = TangentBatch::from_shape_fn((1, 2, 3), |(_, i, j)| {
                    0.3 + i as f64 - 0.4 * j as f64
                });
                let mut trajectory = Trajectory::starting_at(&[0, 1], x);
                for step in &steps {
                    // The model is curved on the scale of the noise, so h must be smaller.
                    let h = 1e-4 * step.from.sigma.max(0.05);
                    let shifted =
                        |sign: f64, model: &mut crate::model::analytic::AnalyticMixture| {
                            let move_by = &z.index_axis(ndarray::Axis(0), 0) * (sign * h);
                            let mut other =
                                Trajectory::starting_at(&[0, 1], &trajectory.x + &move_by);
                            other.history = trajectory.history.clone();
                            if let Some(ready) = &trajectory.reusable {
                                let state = &ready.state + &move_by;
                                let there = other
                                    .predict(
                                        step.prediction,
                                        (step.from.t, step.reading),
                                        state,
                                        model,
                                    )
                                    .expect("analytic");
                                other.reusable = Some(there);
                            }
                            other.propose(step, model).expect("analytic").state
                        };
                    let slope = (shifted(1.0, &mut model) - shifted(-1.0, &mut model)) / (2.0 * h);
                    let proposal = trajectory.propose(step, &mut model).expect("analytic");
                    let got = step_jacobian_products(step, &proposal, &z, &context, &mut model)
                        .expect("analytic")
                        .step;
                    for (g, want) in got.iter().zip(&slope) {
                        let close = (g - want).abs() < 2e-5 * (1.0 + want.abs());
                        assert!(close, "{spec} {path:?} at {:?}: {g} {want}", step.from);
                    }
                    trajectory.accept(step, proposal);
                }
            }
        }
    }

    /// J_D z computed from J_v z equals central differences of the denoiser on every path.
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
                let ahead = model
                    .denoised(Points::of_first_samples(&[t], &(&x + &move_by)))
                    .expect("analytic");
                let behind = model
                    .denoised(Points::of_first_samples(&[t], &(&x - &move_by)))
                    .expect("analytic");
                let got = prediction_jvp(
                    StepPrediction::Denoised,
                    &[0],
                    &x,
                    (t, None),
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
