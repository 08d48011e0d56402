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
    pub variable: Variable,
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
pub enum Variable {
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
            schedule: Schedule::default(),
            variable: Variable::Time,
            s_churn: 0.0,
            s_min: 0.0,
            s_max: None,
            s_noise: 1.0,
        }
    }
}

/// x + h v
pub fn euler(from: Point, to: Point) -> Step {
    Step::plain(from, to, View::Velocity, vec![1.0, to.t - from.t])
}

/// x + h (v + v')/2
pub fn heun(from: Point, to: Point) -> Step {
    let half = 0.5 * (to.t - from.t);
    let again = Again {
        weights: vec![1.0, half, half],
        kept: false,
    };
    Step {
        again: Some(again),
        ..euler(from, to)
    }
}

/// Heun's step of x̄ = x/α over s = σ/α, where dx̄/ds = (x̄ − D)/s, as weights of x, D and D'.
///
/// To σ = 0 it is x' = α' D, with one evaluation.
fn straight(from: Point, to: Point) -> Step {
    let (a, b) = (from.sigma / from.alpha, to.sigma / to.alpha);
    let (scale, h) = (to.alpha / from.alpha, b - a);
    let euler = Step::plain(
        from,
        to,
        View::Denoised,
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
    Step {
        again: Some(Again {
            weights,
            kept: false,
        }),
        ..euler
    }
}

impl Heun {
    /// σ̂/σ − 1 at `sigma`.
    fn raise(&self, sigma: f64) -> f64 {
        let within = self.s_min <= sigma && self.s_max.is_none_or(|most| sigma <= most);
        if within {
            (self.s_churn / self.schedule.steps as f64).min(std::f64::consts::SQRT_2 - 1.0)
        } else {
            0.0
        }
    }

    /// The step from the raised noise; time is σ on edm paths, the only ones that are churned.
    fn churned(&self, step: Step, on: &Setting) -> Step {
        let sigma = step.from.sigma;
        let raised = sigma * (1.0 + self.raise(sigma));
        let from = Point::on(on.curve, raised);
        let churn = self.s_noise * (raised * raised - sigma * sigma).sqrt();
        let moved = if step.view == View::Velocity {
            heun(from, step.to)
        } else {
            Step::denoise(from)
        };
        Step { churn, ..moved }
    }

    fn check_churn(&self, on: &Setting) -> Result<(), String> {
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
            Path::Edm { .. } if self.variable == Variable::Sigma => {
                Err("variable is sigma and s_churn above 0; on edm paths time is sigma already, leave variable out"
                    .to_owned())
            }
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
        Sampler::Heun(Heun {
            schedule: Schedule {
                steps,
                ..self.schedule.clone()
            },
            ..self.clone()
        })
    }

    fn steps(&self, on: &Setting) -> Result<Vec<Step>, String> {
        self.check_churn(on)?;
        let points = self.schedule.points(on)?;
        if self.variable == Variable::Sigma && points[0].alpha == 0.0 {
            return Err(
                "variable is sigma, but sigma/alpha is infinite at the prior end; use `time`, or cut the path \
                        with t_max"
                    .to_owned(),
            );
        }
        let whole = |to: &Point| step::defined(on, View::Velocity, to.t);
        let of = |pair: &[Point]| match self.variable {
            Variable::Sigma => straight(pair[0], pair[1]),
            Variable::Time if whole(&pair[1]) => heun(pair[0], pair[1]),
            Variable::Time => euler(pair[0], pair[1]),
        };
        let steps = points
            .windows(2)
            .map(of)
            .chain(self.schedule.denoising(&points));
        Ok(steps
            .map(|step| {
                if self.s_churn > 0.0 {
                    self.churned(step, on)
                } else {
                    step
                }
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{on, run, sampler};
    use super::*;
    use crate::flow::path::Curve;
    use crate::model::analytic;

    fn end(spec: &str, curve: &Curve, x: f64) -> f64 {
        let mut model = analytic::example(curve.clone(), 1);
        run(&sampler(spec), &mut model, curve, &ndarray::array![[x]]).x[[0, 0]]
    }

    #[test]
    fn over_sigma_it_is_edms_own_on_edm_and_that_of_the_scaled_states_elsewhere() {
        let edm = Path::Edm {
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
        let vp = Path::Vp {
            beta_min: 0.1,
            beta_max: 20.0,
            t_min: 1e-3,
        }
        .curve()
        .expect("right");
        let ratio = |t: f64| vp.at(t).sigma / vp.at(t).alpha;
        let (least, most) = (ratio(vp.data_end()), ratio(vp.prior_end()));
        let twin = Path::Edm {
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
    fn over_sigma_it_is_of_second_order_on_every_path() {
        for path in [
            Path::Vp {
                beta_min: 0.1,
                beta_max: 20.0,
                t_min: 1e-3,
            },
            Path::Ve {
                sigma_min: 0.01,
                sigma_max: 50.0,
            },
            Path::FlowMatching {
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
        let whole = Path::FlowMatching {
            data_at: 0,
            t_min: 0.0,
            t_max: 1.0,
        }
        .curve()
        .expect("right");
        let refused = sampler("{heun: {schedule: uniform, variable: sigma}}")
            .check(&on(&whole))
            .expect_err("infinite");
        assert!(
            refused.contains("variable") && refused.contains("t_max"),
            "{refused}"
        );
    }
}
