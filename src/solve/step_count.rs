//! The number of steps of a fixed grid: a given number, or as many as a tolerance in nats needs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::registry;

/// The number of steps of the first grid that `auto` tries.
pub const FIRST_AUTO_STEPS: usize = 8;

/// The maximum number of steps that `auto` tries.
pub const MAX_AUTO_STEPS: usize = 4096;

/// The default of `tol`, in nats: the log-likelihoods of two grids must agree within it.
pub const DEFAULT_AUTO_TOLERANCE: f64 = 0.01;

/// The number of steps of a fixed grid, or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum StepCount {
    /// A given number of steps.
    Number(usize),
    /// A keyword instead of a number.
    Named(StepCountKeyword),
}

/// The keywords that `steps:` accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StepCountKeyword {
    /// The number of steps is doubled until the log-likelihoods of two grids agree within `tol`
    /// nats.
    Auto,
}

impl StepCount {
    /// `steps: auto`.
    pub const AUTO: StepCount = StepCount::Named(StepCountKeyword::Auto);

    /// The given number, or for `auto` the number of steps of the first grid.
    pub fn initial_count(self) -> usize {
        match self {
            StepCount::Number(steps) => steps,
            StepCount::Named(StepCountKeyword::Auto) => FIRST_AUTO_STEPS,
        }
    }

    /// For `auto`, the tolerance in nats within which the log-likelihoods of two grids must agree;
    /// otherwise `None`.
    pub fn auto_tolerance(self, tol: Option<f64>) -> Option<f64> {
        (self == StepCount::AUTO).then_some(tol.unwrap_or(DEFAULT_AUTO_TOLERANCE))
    }

    /// Checks the number of steps together with `tol`.
    ///
    /// # Errors
    /// Fails if the number is out of range, if `tol` is given without `auto`, or if `tol` is not
    /// above 0. The message names the key.
    pub fn check(self, tol: Option<f64>) -> Result<(), String> {
        match (self, tol) {
            (StepCount::Number(steps), Some(_)) => Err(format!(
                "tol is given together with steps: {steps}, expected only \
                 together with `steps: auto`"
            )),
            (StepCount::Number(steps), None) => {
                registry::check_bounds("steps", steps, 1, 10_000_000)
            }
            (StepCount::Named(StepCountKeyword::Auto), Some(tol))
                if !(tol > 0.0 && tol.is_finite()) =>
            {
                Err(format!("tol is {tol}, expected a number of nats above 0"))
            }
            (StepCount::Named(StepCountKeyword::Auto), _) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solve::{Solver, TimeSpan};

    #[test]
    fn every_fixed_solver_accepts_auto_steps() {
        let curve = crate::flow::path::ProbabilityPath::defaults()[2]
            .curve()
            .expect("right");
        let span = TimeSpan {
            curve: &curve,
            to_prior: true,
        };
        for solver in Solver::defaults() {
            let name = solver.name();
            let read = |parameters: &str| {
                crate::yaml::from_yaml_str::<Solver>(&format!("{{{name}: {{{parameters}}}}}"))
            };
            if solver.fixed_evaluations().is_none() {
                assert!(read("steps: auto").is_err(), "{name}");
                continue;
            }
            let auto = read("steps: auto").expect(name);
            assert_eq!(
                (auto.auto_steps_tolerance(), solver.auto_steps_tolerance()),
                (Some(DEFAULT_AUTO_TOLERANCE), None),
                "{name}"
            );
            let with_tol = read("steps: auto, tol: 0.1, grid: uniform").expect(name);
            assert_eq!(with_tol.auto_steps_tolerance(), Some(0.1), "{name}");
            assert_eq!(
                with_tol.with_steps(24),
                read("steps: 24, grid: uniform").ok(),
                "{name}"
            );
            let back: Solver =
                serde_json::from_value(serde_json::to_value(&with_tol).expect("writes"))
                    .expect("reads");
            assert_eq!(back, with_tol, "{name}");
            assert!(
                auto.check(span).is_ok() && with_tol.check(span).is_ok(),
                "{name}"
            );
            for (wrong, word) in [
                ("steps: 8, tol: 0.1", "steps: auto"),
                ("steps: auto, tol: -1", "above 0"),
            ] {
                let refusal = read(wrong)
                    .expect("of its form")
                    .check(span)
                    .expect_err(wrong);
                assert!(
                    refusal.contains("tol") && refusal.contains(word),
                    "{name}: {refusal}"
                );
            }
            let refusal = read("steps: automatic")
                .expect_err("no such word")
                .to_string();
            assert!(
                refusal.contains("steps") && refusal.contains("auto"),
                "{name}: {refusal}"
            );
        }
    }
}
