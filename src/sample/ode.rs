//! The probability-flow ODE from the prior end to the data end, by any ODE solver.
//!
//! The log-density of the samples can be computed along the same path; see
//! [`Sampler::density_solver`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Denoiser, DrawnSamples, SampleCost, SampleRequest, Sampler, SamplerContext, SamplingMethod,
};
use crate::flow::field::EvalError;
use crate::flow::grid::{self, GridSpacing};
use crate::num::Batch;
use crate::registry::prefix_with_name;
use crate::rows::Status;
use crate::solve::{Solver, TimeSpan};

/// The number of evaluations of a sample that is assumed before adaptive steps are taken.
const ASSUMED_EVALUATIONS: u64 = 200;

/// The ODE dx/dt = v from the prior end to the data end, by an ODE solver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("x-first" = "solver"))]
pub struct Ode {
    /// The ODE solver. Default: `dopri5`.
    pub solver: Solver,
}

impl Default for Ode {
    fn default() -> Self {
        Ode {
            solver: Solver::Dopri5(Default::default()),
        }
    }
}

/// The path from the prior end to the data end.
fn towards_data<'a>(context: &SamplerContext<'a>) -> TimeSpan<'a> {
    TimeSpan {
        curve: context.curve,
        to_prior: false,
    }
}

impl SamplingMethod for Ode {
    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::Ode(Ode {
            solver: self.solver.with_steps(steps).unwrap_or(self.solver.clone()),
        })
    }

    fn trajectory(&self) -> Option<String> {
        self.solver.trajectory()
    }

    fn check(&self, context: &SamplerContext) -> Result<(), String> {
        if self.solver.auto_steps_tolerance().is_some() {
            return Err(
                "solver: steps is auto, which compares log-likelihoods of data; expected a number"
                    .to_owned(),
            );
        }
        let checked = self.solver.check(towards_data(context));
        checked.map_err(|e| format!("solver: {}", prefix_with_name(self.solver.name(), e)))
    }

    fn cost(&self, _: &SamplerContext) -> SampleCost {
        let known = self.solver.fixed_evaluations();
        SampleCost {
            evaluations: known.unwrap_or(ASSUMED_EVALUATIONS),
            products: 0,
            is_upper_bound: known.is_none(),
        }
    }

    fn sample(
        &self,
        field: &mut dyn Denoiser,
        draw: &SampleRequest,
        x: Batch,
    ) -> Result<DrawnSamples, EvalError> {
        let span = towards_data(&draw.context);
        let mut solution = self
            .solver
            .solve(field, draw.samples, x, span, &mut |_| Ok(()))?;
        invalidate_failed(&mut solution.x, &solution.status);
        Ok(DrawnSamples {
            evaluations: solution.evaluations,
            ..DrawnSamples::with_equal_cost(solution.x, 0, 0, Vec::new())
        })
    }
}

/// Replaces the states of paths that have not reached their end by NaN.
pub(crate) fn invalidate_failed(x: &mut Batch, status: &[Status]) {
    for (mut row, status) in x.rows_mut().into_iter().zip(status) {
        if *status != Status::Ok {
            row.fill(f64::NAN);
        }
    }
}

impl Sampler {
    /// The ODE solver that takes the sampler's steps, so that log-densities can be computed along
    /// them: that of `ode`, or Euler's or Heun's method on the sampler's grid.
    ///
    /// # Errors
    /// Fails if the sampler's steps are not those of an ODE solver, with the samplers that are.
    pub fn density_solver(&self, context: &SamplerContext) -> Result<Solver, String> {
        if let Sampler::Ode(ode) = self {
            return Ok(ode.solver.clone());
        }
        let refused = || {
            format!(
                "the steps of `{}` are not those of an ODE solver, so that no log-density belongs \
                 to its samples; expected `ode` with any solver, such as `{{ode: {{solver: \
                 dopri5}}}}`, plain `euler` or `heun` that end at the data end, or `flow-map`",
                self.label()
            )
        };
        let (name, trajectory) = match self {
            Sampler::Euler(_) => ("euler", self.trajectory()),
            Sampler::Heun(_) => ("heun", self.trajectory()),
            _ => return Err(refused()),
        };
        trajectory.ok_or_else(refused)?;
        let times: Vec<f64> = self.grid(context)?.iter().map(|point| point.t).collect();
        let steps = times.len() - 1;
        for spacing in [
            GridSpacing::Uniform,
            GridSpacing::Karras,
            GridSpacing::LogSnr,
        ] {
            let Ok(mut grid) = grid::grid_times(context.curve, spacing, steps, 7.0) else {
                continue;
            };
            grid.reverse();
            let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-12 * a.abs().max(b.abs());
            if times.iter().zip(&grid).all(close) {
                let spec = serde_json::json!({ name: { "steps": steps, "grid": spacing } });
                return serde_json::from_value(spec).map_err(|e| e.to_string());
            }
        }
        Err(refused())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::path::ProbabilityPath;
    use crate::model::analytic;
    use crate::num::key::RngKey;
    use crate::sample::initial_noise;
    use crate::sample::tests::{draw_samples, sampler_from_yaml, velocity_context};

    /// Euler's and Heun's sampler take the steps of the solver that they name, on every path.
    #[test]
    fn samplers_take_the_steps_of_their_density_solver() {
        let mut compared = 0;
        for path in ProbabilityPath::defaults() {
            let curve = path.curve().expect("right");
            let model = analytic::example_mixture(curve.clone(), 3);
            let x = initial_noise(RngKey { seed: 2 }, &[0, 1, 2], 3, curve.prior_std());
            for spec in [
                "{euler: {steps: 12}}",
                "{heun: {steps: 12}}",
                "{heun: {steps: 9, schedule: log-snr}}",
                "{euler: {steps: 7, schedule: uniform}}",
            ] {
                let sampler = sampler_from_yaml(spec);
                let context = velocity_context(&curve);
                let Ok(solver) = sampler.density_solver(&context) else {
                    assert!(
                        sampler.grid(&context).is_err() || path.kind() == "discrete",
                        "{spec} {path:?}"
                    );
                    continue;
                };
                let ode = Sampler::Ode(Ode { solver });
                let plain = draw_samples(&sampler, &mut model.clone(), &curve, &x);
                let solved = draw_samples(&ode, &mut model.clone(), &curve, &x);
                assert_eq!(plain.evaluations, solved.evaluations, "{spec} {path:?}");
                let gap = (&plain.x - &solved.x).mapv(f64::abs).sum();
                assert!(gap < 1e-9, "{spec} {path:?}: {gap}");
                compared += 1;
            }
        }
        assert!(compared > 12, "{compared}");
    }

    #[test]
    fn other_samplers_have_no_density() {
        let curve = ProbabilityPath::Edm {
            sigma_min: 0.02,
            sigma_max: 20.0,
        }
        .curve()
        .expect("right");
        let context = velocity_context(&curve);
        for spec in [
            "dpmpp-2m",
            "ddim",
            "unipc",
            "ddpm",
            "{heun: {s_churn: 10}}",
            "{heun: {denoise_to_zero: true}}",
            "{euler: {rho: 5}}",
            "{steindiff: {sampler: ddim}}",
        ] {
            let refused = sampler_from_yaml(spec).density_solver(&context);
            assert!(refused.is_err_and(|e| e.contains("`ode`")), "{spec}");
        }
        let automatic = sampler_from_yaml("{ode: {solver: {heun: {steps: auto}}}}");
        assert!(automatic.check(&context).is_err_and(|e| e.contains("auto")));
    }

    /// The samples of a tight solver are those of many steps of Heun's sampler.
    #[test]
    fn adaptive_solvers_draw_the_samples_of_fine_steps() {
        let curve = ProbabilityPath::Vp {
            beta_min: 0.1,
            beta_max: 20.0,
            t_min: 1e-3,
        }
        .curve()
        .expect("right");
        let model = analytic::example_mixture(curve.clone(), 4);
        let x = initial_noise(RngKey { seed: 5 }, &[0, 1, 2, 3], 4, 1.0);
        let tight = sampler_from_yaml("{ode: {solver: {dop853: {rtol: 1e-9, atol: 1e-9}}}}");
        let fine = sampler_from_yaml("{heun: {steps: 2000, schedule: log-snr}}");
        let tight = draw_samples(&tight, &mut model.clone(), &curve, &x);
        let fine = draw_samples(&fine, &mut model.clone(), &curve, &x);
        let gap = (&tight.x - &fine.x)
            .mapv(f64::abs)
            .into_iter()
            .fold(0.0, f64::max);
        assert!(gap < 1e-4, "{gap}");
    }
}
