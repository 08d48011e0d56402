//! Heun's method on dx/dt = v, over the Karras grid by default (Karras et al. 2022, Algorithms 1 and 2).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sampler_step::{self, PathPoint, StepCorrector, StepPrediction};
use super::{Sampler, SamplerContext, SamplerSchedule, SamplerStep, SamplingMethod};
use crate::flow::path::ProbabilityPath;

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
    pub schedule: SamplerSchedule,
    pub variable: HeunVariable,
    pub s_churn: f64,
    pub s_min: f64,
    /// No bound unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s_max: Option<f64>,
    pub s_noise: f64,
}

/// What the method steps in. On edm paths both are σ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum HeunVariable {
    /// x over the card's own time.
    #[default]
    Time,
    /// x/α over σ/α, in which a path of constant D is a straight line: how EDM's code and diffusers run
    /// variance-preserving networks.
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
        }
    }
}

/// x + h v
pub fn euler_step(from: PathPoint, to: PathPoint) -> SamplerStep {
    SamplerStep::without_corrector(from, to, StepPrediction::Velocity, vec![1.0, to.t - from.t])
}

/// x + h (v + v')/2
pub fn heun_step(from: PathPoint, to: PathPoint) -> SamplerStep {
    let half = 0.5 * (to.t - from.t);
    let again = StepCorrector {
        weights: vec![1.0, half, half],
        reused: false,
    };
    SamplerStep {
        corrector: Some(again),
        ..euler_step(from, to)
    }
}

/// Heun's step of x̄ = x/α over s = σ/α, where dx̄/ds = (x̄ − D)/s, as weights of x, D and D'.
///
/// To σ = 0 it is x' = α' D, with one evaluation.
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
        corrector: Some(StepCorrector {
            weights,
            reused: false,
        }),
        ..euler
    }
}

impl Heun {
    /// σ̂/σ − 1 at `sigma`.
    fn relative_churn(&self, sigma: f64) -> f64 {
        let within = self.s_min <= sigma && self.s_max.is_none_or(|most| sigma <= most);
        if within {
            (self.s_churn / self.schedule.steps as f64).min(std::f64::consts::SQRT_2 - 1.0)
        } else {
            0.0
        }
    }

    /// The step from the raised noise; time is σ on edm paths, the only ones that are churned.
    fn with_churn(&self, step: SamplerStep, on: &SamplerContext) -> SamplerStep {
        let sigma = step.from.sigma;
        let raised = sigma * (1.0 + self.relative_churn(sigma));
        let from = PathPoint::at_time(on.curve, raised);
        let churn = self.s_noise * (raised * raised - sigma * sigma).sqrt();
        let moved = if step.prediction == StepPrediction::Velocity {
            heun_step(from, step.to)
        } else {
            SamplerStep::denoise(from)
        };
        SamplerStep {
            churn_std: churn,
            ..moved
        }
    }

    fn check_churn(&self, on: &SamplerContext) -> Result<(), String> {
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
        match on.curve.path() {
            _ if self.s_churn == 0.0 => Ok(()),
            ProbabilityPath::Edm { .. } if self.variable == HeunVariable::Sigma => {
                Err("variable is sigma and s_churn above 0; on edm paths time is sigma already, leave variable out"
                    .to_owned())
            }
            ProbabilityPath::Edm { .. } => Ok(()),
            other => Err(format!(
                "s_churn is {}, but churn is defined in sigma, on edm paths; this one is {}",
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

    fn steps(&self, on: &SamplerContext) -> Result<Vec<SamplerStep>, String> {
        self.check_churn(on)?;
        let points = self.schedule.points(on)?;
        if self.variable == HeunVariable::Sigma && points[0].alpha == 0.0 {
            return Err(
                "variable is sigma, but sigma/alpha is infinite at the prior end; use `time`, or cut the path \
                        with t_max"
                    .to_owned(),
            );
        }
        let whole = |to: &PathPoint| {
            sampler_step::prediction_is_defined(on, StepPrediction::Velocity, to.t)
        };
        let of = |pair: &[PathPoint]| match self.variable {
            HeunVariable::Sigma => heun_step_in_sigma(pair[0], pair[1]),
            HeunVariable::Time if whole(&pair[1]) => heun_step(pair[0], pair[1]),
            HeunVariable::Time => euler_step(pair[0], pair[1]),
        };
        let steps = points
            .windows(2)
            .map(of)
            .chain(self.schedule.final_denoising_step(&points));
        Ok(steps
            .map(|step| {
                if self.s_churn > 0.0 {
                    self.with_churn(step, on)
                } else {
                    step
                }
            })
            .collect())
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
        // A network of any path sees one law at one σ/α: the same grid of σ/α gives the same images.
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
