//! Heun's method on dx/dt = v, over the Karras grid by default (Karras et al. 2022, Algorithms 1 and 2).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::step::{self, Again, Point, View};
use super::{Sample, Sampler, Schedule, Setting, Step};
use crate::flow::path::Path;

/// Two evaluations in every step of the grid; with `denoise_to_zero` one more, EDM's 2N − 1.
///
/// A step that ends where the prediction says nothing of the velocity, as D does at σ = 0, is Euler's, with
/// one evaluation.
///
/// With `s_churn` above 0 every step from a σ within `s_min` to `s_max` first raises the noise to
/// σ̂ = σ (1 + min(s_churn/N, √2 − 1)) by fresh noise of standard deviation s_noise·√(σ̂² − σ²).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Heun {
    #[serde(flatten)]
    pub schedule: Schedule,
    pub s_churn: f64,
    pub s_min: f64,
    /// No bound unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s_max: Option<f64>,
    pub s_noise: f64,
}

impl Default for Heun {
    fn default() -> Self {
        Heun { schedule: Schedule::default(), s_churn: 0.0, s_min: 0.0, s_max: None, s_noise: 1.0 }
    }
}

/// x + h v
pub fn euler(from: Point, to: Point) -> Step {
    Step::plain(from, to, View::Velocity, vec![1.0, to.t - from.t])
}

/// x + h (v + v')/2
pub fn heun(from: Point, to: Point) -> Step {
    let half = 0.5 * (to.t - from.t);
    let again = Again { weights: vec![1.0, half, half], kept: false };
    Step { again: Some(again), ..euler(from, to) }
}

impl Heun {
    /// σ̂/σ − 1 at `sigma`.
    fn raise(&self, sigma: f64) -> f64 {
        let within = self.s_min <= sigma && self.s_max.is_none_or(|most| sigma <= most);
        if within { (self.s_churn / self.schedule.steps as f64).min(std::f64::consts::SQRT_2 - 1.0) } else { 0.0 }
    }

    /// The step from the raised noise; time is σ on edm paths, the only ones that are churned.
    fn churned(&self, step: Step, on: &Setting) -> Step {
        let sigma = step.from.sigma;
        let raised = sigma * (1.0 + self.raise(sigma));
        let from = Point::on(on.curve, raised);
        let churn = self.s_noise * (raised * raised - sigma * sigma).sqrt();
        let moved = if step.view == View::Velocity { heun(from, step.to) } else { Step::denoise(from) };
        Step { churn, ..moved }
    }

    fn check_churn(&self, on: &Setting) -> Result<(), String> {
        let numbers = [("s_churn", self.s_churn), ("s_min", self.s_min), ("s_noise", self.s_noise)];
        let numbers = numbers.into_iter().chain(self.s_max.map(|most| ("s_max", most)));
        for (key, value) in numbers {
            if !(value.is_finite() && value >= 0.0) {
                return Err(format!("{key} is {value}, expected a number of at least 0"));
            }
        }
        match on.curve.path() {
            _ if self.s_churn == 0.0 => Ok(()),
            Path::Edm { .. } => Ok(()),
            other => Err(format!(
                "s_churn is {}, but churn is defined in sigma, on edm paths; this one is {}",
                self.s_churn,
                other.kind()
            )),
        }
    }
}

impl Sample for Heun {
    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::Heun(Heun { schedule: Schedule { steps, ..self.schedule.clone() }, ..self.clone() })
    }

    fn steps(&self, on: &Setting) -> Result<Vec<Step>, String> {
        self.check_churn(on)?;
        let points = self.schedule.points(on)?;
        let whole = |to: &Point| step::defined(on, View::Velocity, to.t);
        let of = |pair: &[Point]| if whole(&pair[1]) { heun(pair[0], pair[1]) } else { euler(pair[0], pair[1]) };
        let steps = points.windows(2).map(of).chain(self.schedule.denoising(&points));
        Ok(steps.map(|step| if self.s_churn > 0.0 { self.churned(step, on) } else { step }).collect())
    }
}
