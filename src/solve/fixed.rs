//! Solvers with fixed steps on a grid.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::local_error::LocalErrorEstimator;
use super::step_count::StepCount;
use super::switches::grid_with_switches;
use super::tableau::{self, Tableau};
use super::{NodeVisitor, Nodes, OdeSolver, Solution, Solver, TimeSpan, finite_rows};
use crate::flow::field::{EvalError, EvaluationPurpose, Points, VectorField};
use crate::flow::grid::GridSpacing;
use crate::num::Batch;
use crate::num::key::SampleId;
use crate::rows::Status;

macro_rules! fixed {
    ($($(#[$meta:meta])* $Name:ident: $tableau:ident, $steps:literal;)+) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $Name {
            /// The number of steps, or `auto`: the smallest of a series of doubled numbers at which
            /// the log-likelihoods of two grids agree within `tol`.
            pub steps: StepCount,
            /// The tolerance for `steps: auto`, in nats: the log-likelihoods of two grids must
            /// agree within it. Default: 0.01.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub tol: Option<f64>,
            /// The spacing of the grid. Default: Karras for `edm` and `ve` paths, uniform in the
            /// card's time for all others.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub grid: Option<GridSpacing>,
        }

        impl Default for $Name {
            fn default() -> Self {
                $Name { steps: StepCount::Number($steps), tol: None, grid: None }
            }
        }

        impl OdeSolver for $Name {
            fn check(&self, span: TimeSpan) -> Result<(), String> {
                self.steps.check(self.tol)?;
                span.grid(self.grid, self.steps.initial_count().min(4)).map(|_| ())
            }

            fn order(&self) -> u32 {
                tableau::$tableau.order
            }

            fn fixed_evaluations(&self) -> Option<u64> {
                Some((self.steps.initial_count() * tableau::$tableau.stages()) as u64)
            }

            fn auto_steps_tolerance(&self) -> Option<f64> {
                self.steps.auto_tolerance(self.tol)
            }

            fn fixed_node_count(&self) -> Option<u64> {
                Some((self.steps.initial_count() * tableau::$tableau.node_count()) as u64)
            }

            fn with_steps(&self, steps: usize) -> Option<Solver> {
                let steps = StepCount::Number(steps);
                Some(Solver::$Name($Name { steps, tol: None, ..self.clone() }))
            }

            fn grid_spacing(&self) -> Option<GridSpacing> {
                self.grid
            }

            fn finer(&self) -> Option<Solver> {
                match self.steps {
                    StepCount::Number(steps) => self.with_steps(2 * steps),
                    StepCount::Named(_) => None,
                }
            }

            fn coarser(&self) -> Option<Solver> {
                match self.steps {
                    StepCount::Number(steps) if steps >= 2 && steps.is_multiple_of(2) => {
                        self.with_steps(steps / 2)
                    }
                    _ => None,
                }
            }

            fn solve(
                &self,
                field: &mut dyn VectorField,
                sample: &[SampleId],
                x: Batch,
                span: TimeSpan,
                visit: &mut NodeVisitor,
            ) -> Result<Solution, EvalError> {
                let StepCount::Number(steps) = self.steps else {
                    return Err(EvalError::Missing(
                        "steps: auto has no number of steps yet".to_owned(),
                    ));
                };
                let grid = span.grid(self.grid, steps).map_err(EvalError::Missing)?;
                solve_fixed_grid(&tableau::$tableau, &grid, span, field, sample, x, visit)
            }
        }
    )+ };
}

fixed! {
    /// Euler's method, of order 1.
    Euler: EULER, 64;
    /// The explicit midpoint method, of order 2.
    Midpoint: MIDPOINT, 32;
    /// Heun's method, of order 2.
    Heun: HEUN, 32;
    /// The classical Runge–Kutta method, of order 4.
    Rk4: RK4, 16;
}

/// Solves all rows together on the grid. On a fixed grid, no sample influences another.
///
/// # Errors
/// Fails if the velocity field cannot be evaluated, or if `visit` fails.
pub fn solve_fixed_grid(
    tableau: &Tableau,
    grid: &[f64],
    span: TimeSpan,
    field: &mut dyn VectorField,
    sample: &[SampleId],
    mut x: Batch,
    visit: &mut NodeVisitor,
) -> Result<Solution, EvalError> {
    let rows = x.nrows();
    let slot: Vec<usize> = (0..rows).collect();
    let switches = field.switch_times();
    let with_switches = grid_with_switches(grid.to_vec(), &switches);
    // The estimate assumes a field without jumps on a grid of even steps.
    let mut estimator = match switches.is_empty() {
        true => LocalErrorEstimator::new(span, tableau, grid, rows),
        false => None,
    };
    let grid = &with_switches[..];
    let (mut node, mut evaluations) = (0, 0);
    for (number, pair) in grid.windows(2).enumerate() {
        let h = pair[1] - pair[0];
        let mut products = vec![None; tableau.stages()];
        let step = tableau.step_with_slopes(
            &vec![pair[0]; rows],
            &vec![h; rows],
            &x,
            None,
            &mut |stage, at, state| {
                if tableau.b[stage] == 0.0 {
                    return field.velocity(Points::new(sample, at, state));
                }
                let at = Points::new(sample, at, state);
                let evaluation = field.evaluate(EvaluationPurpose::QuadratureNode, at)?;
                products[stage] = evaluation.products;
                Ok(evaluation.velocity)
            },
        )?;
        // All rows take their steps at the same times.
        let times = step.t.iter().filter_map(|t| t.first());
        evaluations += times.map(|t| field.calls_at(*t)).sum::<u64>();
        for s in (0..tableau.stages()).filter(|s| tableau.b[*s] != 0.0) {
            visit(&Nodes {
                sample,
                node: &vec![node; rows],
                batch_index: &slot,
                t: &step.t[s],
                x: &step.x[s],
                weight: &vec![h * tableau.b[s]; rows],
                divergence: None,
                products: products[s].as_ref(),
            })?;
            node += 1;
        }
        if let Some(estimator) = &mut estimator {
            estimator.record_step(number, &x, &step);
        }
        x = step.next;
    }
    let status = finite_rows(&x)
        .iter()
        .map(|f| if *f { Status::Ok } else { Status::NonFinite })
        .collect();
    let fixed_step_error = estimator.map(|estimator| estimator.finish(&x));
    Ok(Solution {
        x,
        status,
        evaluations: vec![evaluations; rows],
        control_evaluations: vec![0; rows],
        solver_error: vec![None; rows],
        fixed_step_error,
    })
}
