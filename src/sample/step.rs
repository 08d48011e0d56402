//! A sampler as a list of steps, each of them weights of known states.
//!
//! Every sampler here moves by x_t = w₀ x + w₁ p + w₂ p₋₁ + …, with p the model's prediction at the
//! state and p₋₁, … those of earlier steps; some then predict at that place again and weigh anew. The
//! weights depend on the grid alone, so a step can be carried out, and differentiated, without
//! knowing which method it came from.

use std::collections::VecDeque;

use super::{Denoiser, Draw, Setting};
use crate::flow::field::{EvalError, Linearized};
use crate::flow::path::Curve;
use crate::flow::prediction::{Affine, Prediction};
use crate::num::key::Purpose;
use crate::num::{Batch, Blocks};

/// A place on the path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub t: f64,
    pub alpha: f64,
    pub sigma: f64,
}

impl Point {
    pub fn on(curve: &Curve, t: f64) -> Point {
        let s = curve.at(t);
        Point {
            t,
            alpha: s.alpha,
            sigma: s.sigma,
        }
    }

    /// λ(`next`) − λ(self), infinite where self has α = 0 or `next` has σ = 0.
    pub fn gap(&self, next: &Point) -> f64 {
        ((next.alpha / self.alpha) * (self.sigma / next.sigma)).ln()
    }
}

/// What the model is asked for in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// dx/dt in the card's own time.
    Velocity,
    /// E\[x₀ | x\]
    Denoised,
}

/// One step of a sampler.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub from: Point,
    pub to: Point,
    pub view: View,
    /// Weights of the state, of the prediction at it and of earlier predictions, newest first.
    pub weights: Vec<f64>,
    pub again: Option<Again>,
    /// Standard deviation of the fresh noise that is added to the state first.
    pub churn: f64,
}

/// A second prediction, at the end of the step.
#[derive(Debug, Clone, PartialEq)]
pub struct Again {
    /// Weights of the state, of the new prediction, of the one at the state and of earlier ones.
    pub weights: Vec<f64>,
    /// Whether the new prediction serves as the next step's first, which then costs one evaluation.
    pub kept: bool,
}

impl Step {
    /// A plain step without a second prediction.
    pub fn plain(from: Point, to: Point, view: View, weights: Vec<f64>) -> Step {
        Step {
            from,
            to,
            view,
            weights,
            again: None,
            churn: 0.0,
        }
    }

    /// x ← E\[x₀ | x\], as a step to σ = 0.
    pub fn denoise(from: Point) -> Step {
        let to = Point {
            t: from.t,
            alpha: 1.0,
            sigma: 0.0,
        };
        Step::plain(from, to, View::Denoised, vec![0.0, 1.0])
    }
}

/// Evaluations of a march over `steps`.
pub fn evaluations(steps: &[Step]) -> u64 {
    let kept = |i: usize| i > 0 && steps[i - 1].again.as_ref().is_some_and(|a| a.kept);
    let of = |(i, step): (usize, &Step)| u64::from(!kept(i)) + u64::from(step.again.is_some());
    steps.iter().enumerate().map(of).sum()
}

/// Refuses steps at whose places the card's prediction does not determine what they ask for.
///
/// # Errors
/// A sentence with the place and what would be right.
pub fn check(steps: &[Step], on: &Setting) -> Result<(), String> {
    let places = steps.iter().flat_map(|step| {
        let ends = [Some(step.from), step.again.as_ref().map(|_| step.to)];
        ends.into_iter().flatten().map(|at| (step.view, at))
    });
    if let Some((_, at)) = places
        .into_iter()
        .find(|(view, at)| !defined(on, *view, at.t))
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
pub fn defined(on: &Setting, view: View, t: f64) -> bool {
    let s = on.curve.at(t);
    let Affine { a, b } = match view {
        View::Velocity => on.prediction.velocity(&s),
        View::Denoised => on.prediction.denoised(&s),
    };
    a.is_finite() && b.is_finite()
}

/// States on their way over a list of steps.
pub struct Walk {
    pub x: Batch,
    /// Predictions of earlier steps, newest first.
    past: VecDeque<Batch>,
    /// The prediction that the last step has made already, and the place it was made at.
    ready: Option<Taken>,
    pub evaluations: u64,
}

/// A prediction and where it was taken.
#[derive(Clone)]
struct Taken {
    place: Batch,
    value: Batch,
}

/// Where a step would lead, with what it was computed from.
pub struct Candidate {
    pub to: Batch,
    first: Taken,
    second: Option<Taken>,
}

/// Most earlier predictions that any method looks at.
const HISTORY: usize = 3;

impl Walk {
    pub fn from(x: Batch) -> Walk {
        Walk {
            x,
            past: VecDeque::new(),
            ready: None,
            evaluations: 0,
        }
    }

    /// The step's end T(x), with the history held.
    ///
    /// # Errors
    /// Where the model cannot be evaluated.
    pub fn propose(
        &mut self,
        step: &Step,
        field: &mut dyn Denoiser,
    ) -> Result<Candidate, EvalError> {
        let first = match self.ready.take() {
            Some(ready) => ready,
            None => self.predict(step.view, step.from.t, self.x.clone(), field)?,
        };
        let place = combine(
            &step.weights,
            &self.x,
            std::iter::once(&first.value).chain(&self.past),
        );
        let Some(again) = &step.again else {
            return Ok(Candidate {
                to: place,
                first,
                second: None,
            });
        };
        let second = self.predict(step.view, step.to.t, place, field)?;
        let values = [&second.value, &first.value];
        let to = combine(
            &again.weights,
            &self.x,
            values.into_iter().chain(&self.past),
        );
        Ok(Candidate {
            to,
            first,
            second: Some(second),
        })
    }

    fn predict(
        &mut self,
        view: View,
        t: f64,
        place: Batch,
        field: &mut dyn Denoiser,
    ) -> Result<Taken, EvalError> {
        self.evaluations += 1;
        let times = vec![t; place.nrows()];
        let value = match view {
            View::Velocity => field.velocity(&times, &place)?,
            View::Denoised => field.denoised(&times, &place)?,
        };
        Ok(Taken { place, value })
    }

    /// Goes where the step leads.
    pub fn accept(&mut self, step: &Step, candidate: Candidate) {
        let kept = step.again.as_ref().is_some_and(|a| a.kept);
        self.ready = candidate.second.filter(|_| kept);
        self.past.push_front(candidate.first.value);
        self.past.truncate(HISTORY);
        self.x = candidate.to;
    }

    /// Goes to another state than the step leads to: a prediction made ahead is of no use there.
    pub fn accept_instead(&mut self, step: &Step, candidate: Candidate, x: Batch) {
        self.accept(step, candidate);
        self.ready = None;
        self.x = x;
    }

    /// The same walk without its next prediction, from another state: to look ahead.
    pub fn fork(&self, candidate: &Candidate, x: Batch) -> Walk {
        let past = std::iter::once(&candidate.first.value)
            .chain(&self.past)
            .cloned()
            .collect();
        Walk {
            x,
            past,
            ready: None,
            evaluations: 0,
        }
    }
}

impl Candidate {
    /// The same for some of the rows.
    pub fn rows(&self, range: std::ops::Range<usize>) -> Candidate {
        let cut = |x: &Batch| x.slice(ndarray::s![range.clone(), ..]).to_owned();
        let taken = |t: &Taken| Taken {
            place: cut(&t.place),
            value: cut(&t.value),
        };
        Candidate {
            to: cut(&self.to),
            first: taken(&self.first),
            second: self.second.as_ref().map(taken),
        }
    }

    /// E\[x₀ | x\] as the step's first prediction has it, and the place it is of.
    pub fn denoised(&self, step: &Step, on: &Setting) -> (Batch, &Batch) {
        let value = match step.view {
            View::Denoised => self.first.value.clone(),
            View::Velocity => {
                let view = Prediction::Velocity.denoised(&on.curve.at(step.from.t));
                &self.first.value * view.b + &self.first.place * view.a
            }
        };
        (value, &self.first.place)
    }
}

/// Products of one step's Jacobians with the same directions, k × rows × dim.
pub struct Products {
    /// J_T z
    pub step: Blocks,
    /// J_D z at the step's first prediction.
    pub denoised: Blocks,
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
pub fn products(
    step: &Step,
    candidate: &Candidate,
    z: &Blocks,
    on: &Setting,
    field: &mut dyn Linearized,
) -> Result<Products, EvalError> {
    let first = viewed(step.view, &candidate.first.place, step.from.t, z, on, field)?;
    let denoised = match step.view {
        View::Denoised => first.clone(),
        View::Velocity => to_denoised(&first, z, step.from.t, on),
    };
    let place = z * step.weights[0] + &first * step.weights[1];
    let (Some(again), Some(second)) = (&step.again, &candidate.second) else {
        return Ok(Products {
            step: place,
            denoised,
            count: 1,
        });
    };
    let second = viewed(step.view, &second.place, step.to.t, &place, on, field)?;
    let end = z * again.weights[0] + second * again.weights[1] + &first * again.weights[2];
    Ok(Products {
        step: end,
        denoised,
        count: 2,
    })
}

/// The prediction's Jacobian times z.
fn viewed(
    view: View,
    x: &Batch,
    t: f64,
    z: &Blocks,
    on: &Setting,
    field: &mut dyn Linearized,
) -> Result<Blocks, EvalError> {
    let velocity = field.products(&vec![t; x.nrows()], x, z)?;
    Ok(if view == View::Velocity {
        velocity
    } else {
        to_denoised(&velocity, z, t, on)
    })
}

/// J_D z = a z + b J_v z, with D = a x + b v on every path.
fn to_denoised(velocity: &Blocks, z: &Blocks, t: f64, on: &Setting) -> Blocks {
    let view = Prediction::Velocity.denoised(&on.curve.at(t));
    velocity * view.b + z * view.a
}

/// Carries every row over the steps.
///
/// # Errors
/// Where the model cannot be evaluated.
pub fn march(
    steps: &[Step],
    field: &mut dyn Denoiser,
    draw: &Draw,
    x: Batch,
) -> Result<Walk, EvalError> {
    let mut walk = Walk::from(x);
    for (i, step) in steps.iter().enumerate() {
        if step.churn > 0.0 {
            stir(&mut walk.x, step.churn, draw, i as u64);
        }
        let candidate = walk.propose(step, field)?;
        walk.accept(step, candidate);
    }
    Ok(walk)
}

/// Adds noise of standard deviation `std`, drawn at each sample's address and this step's.
fn stir(x: &mut Batch, std: f64, draw: &Draw, step: u64) {
    let dim = x.ncols();
    for (mut row, sample) in x.rows_mut().into_iter().zip(draw.samples) {
        row.scaled_add(std, &draw.key.normal(Purpose::Churn, *sample, step, dim));
    }
}

fn combine<'a>(weights: &[f64], x: &Batch, predictions: impl Iterator<Item = &'a Batch>) -> Batch {
    let mut out = x * weights[0];
    for (weight, prediction) in weights[1..].iter().zip(predictions) {
        out.scaled_add(*weight, prediction);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::{on, sampler};
    use super::*;
    use crate::flow::path::Path;
    use crate::model::analytic;
    use crate::num::key::Key;

    /// Every step's J_T z against central differences of T, with history and offset held.
    #[test]
    fn products_are_the_derivative_of_the_step() {
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
            for path in Path::defaults() {
                let curve = path.curve().expect("defaults are right");
                let mut model = analytic::example(curve.clone(), 3);
                let on = on(&curve);
                let steps = sampler(spec).with_steps(7);
                let Ok(steps) = steps.steps(&on) else {
                    continue;
                };
                let x = super::super::noise(Key { seed: 6 }, &[0, 1], 3, curve.prior_std());
                let z =
                    Blocks::from_shape_fn((1, 2, 3), |(_, i, j)| 0.3 + i as f64 - 0.4 * j as f64);
                let mut walk = Walk::from(x);
                for step in &steps {
                    // The scale over which the model bends at this noise.
                    let h = 1e-4 * step.from.sigma.max(0.05);
                    let shifted = |sign: f64, model: &mut crate::model::analytic::Mixture| {
                        let move_by = &z.index_axis(ndarray::Axis(0), 0) * (sign * h);
                        let mut other = Walk::from(&walk.x + &move_by);
                        other.past = walk.past.clone();
                        if let Some(ready) = &walk.ready {
                            let place = &ready.place + &move_by;
                            let there = other
                                .predict(step.view, step.from.t, place, model)
                                .expect("analytic");
                            other.ready = Some(there);
                        }
                        other.propose(step, model).expect("analytic").to
                    };
                    let slope = (shifted(1.0, &mut model) - shifted(-1.0, &mut model)) / (2.0 * h);
                    let candidate = walk.propose(step, &mut model).expect("analytic");
                    let got = products(step, &candidate, &z, &on, &mut model)
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
    fn jacobians_of_the_denoiser_are_those_of_its_differences() {
        for path in Path::defaults() {
            let curve = path.curve().expect("defaults are right");
            let mut model = analytic::example(curve.clone(), 3);
            for u in [0.1, 0.4, 0.9] {
                let t = curve.data_end() + u * (curve.prior_end() - curve.data_end());
                let x = ndarray::array![[0.3, -0.5, 1.0]];
                let z = ndarray::array![[[0.7, -0.2, 0.4]]];
                let move_by = z.index_axis(ndarray::Axis(0), 0).to_owned() * 1e-5;
                let ahead = model.denoised(&[t], &(&x + &move_by)).expect("analytic");
                let behind = model.denoised(&[t], &(&x - &move_by)).expect("analytic");
                let got =
                    viewed(View::Denoised, &x, t, &z, &on(&curve), &mut model).expect("analytic");
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
