//! How many steps a fixed grid has: a number, or as many as a tolerance in nats asks for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::registry;

/// The first grid that `auto` tries.
pub const FIRST: usize = 8;

/// The most steps that `auto` tries.
pub const MOST: usize = 4096;

/// Nats by which two grids may differ where no `tol` is given.
pub const TOLERANCE: f64 = 0.01;

/// The number of steps of a fixed grid, or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Steps {
    Number(usize),
    Named(Named),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Named {
    /// Doubled until the log-likelihoods of two grids agree within `tol` nats.
    Auto,
}

impl Steps {
    pub const AUTO: Steps = Steps::Named(Named::Auto);

    /// The number, or the first that is tried.
    pub fn count(self) -> usize {
        match self {
            Steps::Number(steps) => steps,
            Steps::Named(Named::Auto) => FIRST,
        }
    }

    /// Nats within which two grids must agree, where the number is yet to be chosen.
    pub fn tolerance(self, tol: Option<f64>) -> Option<f64> {
        (self == Steps::AUTO).then_some(tol.unwrap_or(TOLERANCE))
    }

    /// Refuses what makes no sense, by its key.
    ///
    /// # Errors
    /// A sentence with the key and what would be right.
    pub fn check(self, tol: Option<f64>) -> Result<(), String> {
        match (self, tol) {
            (Steps::Number(steps), Some(_)) => Err(format!(
                "tol is there beside steps: {steps}, expected it beside `steps: auto` alone"
            )),
            (Steps::Number(steps), None) => registry::within("steps", steps, 1, 10_000_000),
            (Steps::Named(Named::Auto), Some(tol)) if !(tol > 0.0 && tol.is_finite()) => {
                Err(format!("tol is {tol}, expected nats above 0"))
            }
            (Steps::Named(Named::Auto), _) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solve::{Solver, Span, refine};

    #[test]
    fn every_fixed_solver_takes_auto_in_place_of_a_number() {
        let curve = crate::flow::path::Path::defaults()[2]
            .curve()
            .expect("right");
        let span = Span {
            curve: &curve,
            to_prior: true,
        };
        for solver in Solver::defaults() {
            let name = solver.name();
            let read = |parameters: &str| {
                crate::yaml::read::<Solver>(&format!("{{{name}: {{{parameters}}}}}"))
            };
            if solver.evaluations().is_none() {
                assert!(read("steps: auto").is_err(), "{name}");
                continue;
            }
            let auto = read("steps: auto").expect(name);
            assert_eq!(
                (auto.automatic(), solver.automatic()),
                (Some(TOLERANCE), None),
                "{name}"
            );
            let asked = read("steps: auto, tol: 0.1, grid: uniform").expect(name);
            assert_eq!(asked.automatic(), Some(0.1), "{name}");
            assert_eq!(
                refine::with_steps(&asked, 24),
                read("steps: 24, grid: uniform").ok(),
                "{name}"
            );
            let back: Solver =
                serde_json::from_value(serde_json::to_value(&asked).expect("writes"))
                    .expect("reads");
            assert_eq!(back, asked, "{name}");
            assert!(
                auto.check(span).is_ok() && asked.check(span).is_ok(),
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
