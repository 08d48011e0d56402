//! Heun's method on dx/dt = v (Karras et al. 2022, Algorithms 1 and 2). The default grid is the
//! Karras grid.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sampler_step::{self, PathPoint, StepCorrector, StepPrediction};
use super::{Sampler, SamplerContext, SamplerSchedule, SamplerStep, SamplingMethod, ancestral};
use crate::flow::path::ProbabilityPath;

/// Heun's method, with two evaluations in every step of the grid.
///
/// With `denoise_to_zero` it takes one more evaluation, which makes EDM's 2N − 1. A step that ends
/// at a point where the prediction does not determine the velocity, such as σ = 0, is an Euler step
/// with one evaluation.
///
/// If `s_churn` is above 0, every step from a σ between `s_min` and `s_max` first raises the noise
/// to σ̂ = σ (1 + min(s_churn/N, √2 − 1)). It does so with fresh noise of standard deviation
/// s_noise·√(σ̂² − σ²). Only edm paths allow this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Heun {
    /// The time grid.
    #[serde(flatten)]
    pub schedule: SamplerSchedule,
    /// The variable of integration. Default: `time`.
    pub variable: HeunVariable,
    /// The amount of churn. Default: 0, no churn.
    pub s_churn: f64,
    /// The smallest σ with churn. Default: 0.
    pub s_min: f64,
    /// The largest σ with churn. Default: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s_max: Option<f64>,
    /// The factor of the fresh noise's standard deviation. Default: 1.
    pub s_noise: f64,
    /// The bound of every value of the denoiser, as diffusers' `clip_sample_range`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_sample: Option<f64>,
}

/// The variable in which Heun's method integrates. On edm paths both are σ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum HeunVariable {
    /// Integrates x over the card's own time.
    #[default]
    Time,
    /// Integrates x/α over σ/α, in which a path with a constant denoiser is a straight line. EDM's
    /// code and diffusers run variance-preserving networks this way.
    Sigma,
}

impl Default for Heun {
    fn default() -> Self {
        Heun {
            schedule: SamplerSchedule::default(),
            variable: HeunVariable::Time,
            s_churn: 0.0,
            s_min: 0.0,
            s_max: None,
            s_noise: 1.0,
            clip_sample: None,
        }
    }
}

/// The Euler step x + h v.
pub fn euler_step(from: PathPoint, to: PathPoint) -> SamplerStep {
    SamplerStep::without_corrector(from, to, StepPrediction::Velocity, vec![1.0, to.t - from.t])
}

/// The Heun step x + h (v + v')/2.
pub fn heun_step(from: PathPoint, to: PathPoint) -> SamplerStep {
    let half = 0.5 * (to.t - from.t);
    let corrector = StepCorrector::at_point(to, vec![1.0, half, half], false);
    SamplerStep {
        corrector: Some(corrector),
        ..euler_step(from, to)
    }
}

/// Heun's step of x̄ = x/α over s = σ/α, in which dx̄/ds = (x̄ − D)/s, as weights of x, D and D'.
///
/// The step to σ = 0 is x' = α' D, with one evaluation.
fn heun_step_in_sigma(from: PathPoint, to: PathPoint) -> SamplerStep {
    let (a, b) = (from.sigma / from.alpha, to.sigma / to.alpha);
    let (scale, h) = (to.alpha / from.alpha, b - a);
    let euler = SamplerStep::without_corrector(
        from,
        to,
        StepPrediction::Denoised,
        vec![scale * b / a, to.alpha * (1.0 - b / a)],
    );
    if b == 0.0 {
        return euler;
    }
    let weights = vec![
        scale * b / a,
        -0.5 * to.alpha * h / b,
        0.5 * to.alpha * h * (1.0 / b - 2.0 / a),
    ];
    SamplerStep {
        corrector: Some(StepCorrector::at_point(to, weights, false)),
        ..euler
    }
}

impl Heun {
    /// The relative increase σ̂/σ − 1 of the noise at `sigma`.
    fn relative_churn(&self, sigma: f64) -> f64 {
        let within = self.s_min <= sigma && self.s_max.is_none_or(|most| sigma <= most);
        if within {
            (self.s_churn / self.schedule.steps as f64).min(std::f64::consts::SQRT_2 - 1.0)
        } else {
            0.0
        }
    }

    /// The step with churn, which begins at the raised noise σ̂. On edm paths, the only ones with
    /// churn, the time is σ.
    fn with_churn(&self, step: SamplerStep, context: &SamplerContext) -> SamplerStep {
        let sigma = step.from.sigma;
        let raised = sigma * (1.0 + self.relative_churn(sigma));
        let from = PathPoint::at_time(context.curve, raised);
        let churn = self.s_noise * (raised * raised - sigma * sigma).sqrt();
        let raised_step = if step.prediction == StepPrediction::Velocity {
            heun_step(from, step.to)
        } else {
            SamplerStep::denoise(from)
        };
        SamplerStep {
            churn_std: churn,
            ..raised_step
        }
    }

    /// Checks the churn parameters.
    ///
    /// # Errors
    /// Fails if one of them is negative or not finite, or if there is churn on a path other than
    /// edm.
    fn check_churn(&self, context: &SamplerContext) -> Result<(), String> {
        let numbers = [
            ("s_churn", self.s_churn),
            ("s_min", self.s_min),
            ("s_noise", self.s_noise),
        ];
        let numbers = numbers
            .into_iter()
            .chain(self.s_max.map(|most| ("s_max", most)));
        for (key, value) in numbers {
            if !(value.is_finite() && value >= 0.0) {
                return Err(format!("{key} is {value}, expected a number of at least 0"));
            }
        }
        match context.curve.path() {
            _ if self.s_churn == 0.0 => Ok(()),
            ProbabilityPath::Edm { .. } if self.variable == HeunVariable::Sigma => Err(
                "variable is sigma and s_churn is above 0; on edm paths the time is sigma \
                     already, so leave variable out"
                    .to_owned(),
            ),
            ProbabilityPath::Edm { .. } => Ok(()),
            other => Err(format!(
                "s_churn is {}, but churn is defined only on edm paths, and this path is {}",
                self.s_churn,
                other.kind()
            )),
        }
    }
}

impl SamplingMethod for Heun {
    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::Heun(Heun {
            schedule: SamplerSchedule {
                steps,
                ..self.schedule.clone()
            },
            ..self.clone()
        })
    }

    fn trajectory(&self) -> Option<String> {
        let plain = Heun {
            schedule: self.schedule.clone(),
            ..Heun::default()
        };
        (*self == plain)
            .then(|| self.schedule.trajectory("heun"))
            .flatten()
    }

    fn steps(&self, context: &SamplerContext) -> Result<Vec<SamplerStep>, String> {
        self.check_churn(context)?;
        let points = self.schedule.points(context)?;
        if self.variable == HeunVariable::Sigma && points[0].alpha == 0.0 {
            return Err(
                "variable is sigma, but sigma/alpha is infinite at the prior end; use `time`, or \
                 cut the path with t_max"
                    .to_owned(),
            );
        }
        let clip = ancestral::prediction_clip(self.clip_sample, 0.0)?;
        if clip.is_some() && self.variable == HeunVariable::Time {
            return Err(
                "clip_sample bounds the denoiser, which variable `time` does not take; use \
                 `variable: sigma`"
                    .to_owned(),
            );
        }
        let velocity_is_defined = |to: &PathPoint| {
            sampler_step::prediction_is_defined(context, StepPrediction::Velocity, to.t)
        };
        let step_between = |pair: &[PathPoint]| match self.variable {
            HeunVariable::Sigma => heun_step_in_sigma(pair[0], pair[1]),
            HeunVariable::Time if velocity_is_defined(&pair[1]) => heun_step(pair[0], pair[1]),
            HeunVariable::Time => euler_step(pair[0], pair[1]),
        };
        let steps = points
            .windows(2)
            .map(step_between)
            .chain(self.schedule.final_denoising_step(&points));
        let steps = steps.map(|step| {
            let step = if self.s_churn > 0.0 {
                self.with_churn(step, context)
            } else {
                step
            };
            SamplerStep { clip, ..step }
        });
        sampler_step::with_readings(steps.collect(), context)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{draw_samples, sampler_from_yaml, velocity_context};
    use super::*;
    use crate::flow::path::PathCurve;
    use crate::model::analytic;

    fn end(spec: &str, curve: &PathCurve, x: f64) -> f64 {
        let mut model = analytic::example_mixture(curve.clone(), 1);
        draw_samples(
            &sampler_from_yaml(spec),
            &mut model,
            curve,
            &ndarray::array![[x]],
        )
        .x[[0, 0]]
    }

    #[test]
    fn heun_on_sigma_matches_edm() {
        let edm = ProbabilityPath::Edm {
            sigma_min: 0.02,
            sigma_max: 20.0,
        }
        .curve()
        .expect("right");
        let [time, sigma] = ["time", "sigma"].map(|variable| {
            end(
                &format!("{{heun: {{steps: 9, denoise_to_zero: true, variable: {variable}}}}}"),
                &edm,
                7.3,
            )
        });
        assert!((time - sigma).abs() < 1e-12, "{time} {sigma}");
        // The distribution of x/α depends only on σ/α, so the same grid of σ/α gives the same
        // samples on any path.
        let vp = ProbabilityPath::Vp {
            beta_min: 0.1,
            beta_max: 20.0,
            t_min: 1e-3,
        }
        .curve()
        .expect("right");
        let ratio = |t: f64| vp.at(t).sigma / vp.at(t).alpha;
        let (least, most) = (ratio(vp.data_end()), ratio(vp.prior_end()));
        let twin = ProbabilityPath::Edm {
            sigma_min: least,
            sigma_max: most,
        }
        .curve()
        .expect("right");
        let spec = "{heun: {steps: 6, schedule: log-snr, variable: sigma}}";
        let there = end(spec, &vp, 0.9) / vp.at(vp.data_end()).alpha;
        let here = end(spec, &twin, 0.9 / vp.at(vp.prior_end()).alpha);
        assert!((there - here).abs() < 1e-9 * here.abs(), "{there} {here}");
    }

    #[test]
    fn heun_on_sigma_is_second_order_on_every_path() {
        for path in [
            ProbabilityPath::Vp {
                beta_min: 0.1,
                beta_max: 20.0,
                t_min: 1e-3,
            },
            ProbabilityPath::Ve {
                sigma_min: 0.01,
                sigma_max: 50.0,
            },
            ProbabilityPath::FlowMatching {
                data_at: 0,
                t_min: 0.01,
                t_max: 0.99,
            },
        ] {
            let curve = path.curve().expect("right");
            let x = 0.9 * curve.prior_std();
            let of = |n: usize| {
                end(
                    &format!("{{heun: {{steps: {n}, schedule: log-snr, variable: sigma}}}}"),
                    &curve,
                    x,
                )
            };
            let (a, b, c) = (of(80), of(160), of(320));
            let order = ((a - b) / (b - c)).abs().log2();
            assert!((1.8..2.2).contains(&order), "{path:?}: {order}");
        }
        let whole = ProbabilityPath::FlowMatching {
            data_at: 0,
            t_min: 0.0,
            t_max: 1.0,
        }
        .curve()
        .expect("right");
        let refused = sampler_from_yaml("{heun: {schedule: uniform, variable: sigma}}")
            .check(&velocity_context(&whole))
            .expect_err("infinite");
        assert!(
            refused.contains("variable") && refused.contains("t_max"),
            "{refused}"
        );
    }
}
