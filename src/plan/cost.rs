//! What trials cost, before they run.

use super::{Prepared, Work};
use crate::divergence::{Control, Divergence};
use crate::model::opened::Model;
use crate::sample::Setting;
use crate::solve::Solver;

/// Evaluations per sample that a plan supposes of an adaptive solver.
const ADAPTIVE_GUESS: u64 = 200;

/// Calls of a head per node; one that shares the velocity's calls costs none.
fn head_calls(model: &Model, estimator: &Divergence) -> u64 {
    u64::from(
        estimator
            .head()
            .is_some_and(|head| !model.card.is_joint(head)),
    )
}

/// What a trial costs, for all its samples together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    pub evaluations: u64,
    /// Jacobian products and head calls.
    pub products: u64,
    /// Head calls alone.
    pub head_calls: u64,
    pub guessed: bool,
}

impl Cost {
    fn plus(self, other: Cost) -> Cost {
        Cost {
            evaluations: self.evaluations + other.evaluations,
            products: self.products + other.products,
            head_calls: self.head_calls + other.head_calls,
            guessed: self.guessed || other.guessed,
        }
    }
}

impl Prepared {
    /// What a trial costs; adaptive solvers are guessed.
    pub fn cost(&self, work: &Work) -> Cost {
        let path = |solver: &Solver, estimators: &[Divergence], model: usize, rows: usize| {
            let dim = self.models[model].dim();
            let nodes = solver.nodes().unwrap_or(ADAPTIVE_GUESS);
            let heads: u64 = estimators
                .iter()
                .map(|e| head_calls(&self.models[model], e))
                .sum();
            let products = estimators.iter().map(|e| e.products(dim)).sum::<u64>() + heads;
            let once: u64 = estimators.iter().map(Divergence::products_once).sum();
            let extra: u64 = estimators.iter().map(Divergence::evaluations).sum();
            let own: u64 = estimators.iter().map(Divergence::own_evaluations).sum();
            let followed = estimators.iter().any(Divergence::takes_solver);
            let path = if followed {
                solver.evaluations().unwrap_or(ADAPTIVE_GUESS) + nodes * extra
            } else {
                0
            };
            let control = match solver.evaluations() {
                None if followed => ADAPTIVE_GUESS * Control::of(estimators, dim).products(dim),
                _ => 0,
            };
            Cost {
                evaluations: (path + own) * rows as u64,
                products: (nodes * products + once + control) * rows as u64,
                head_calls: nodes * heads * rows as u64,
                guessed: followed && solver.evaluations().is_none(),
            }
        };
        match work {
            Work::Likelihood(w) => path(&w.solver, &w.estimators, w.model, w.count * w.draws()),
            Work::Profile(w) => path(&w.solver, &w.estimators, w.model, w.count),
            Work::Budget(w) => {
                let costs = w
                    .budget_solvers()
                    .into_iter()
                    .map(|s| path(&s, &w.estimators, w.model, w.count));
                costs.reduce(Cost::plus).unwrap_or_default()
            }
            Work::Density {
                model,
                solver,
                estimator,
                grid,
            } => path(
                solver,
                std::slice::from_ref(estimator),
                *model,
                grid.points * grid.points,
            ),
            Work::Stein { model, stein, .. } => {
                let places = 2 * (stein.samples * stein.times) as u64;
                let apart = u64::from(!self.models[*model].card.is_joint(&stein.head));
                Cost {
                    evaluations: places,
                    products: places * apart,
                    head_calls: places * apart,
                    guessed: false,
                }
            }
            Work::Sample {
                model,
                sampler,
                count,
                ..
            } => {
                let each = sampler.cost(&Setting::of(&self.models[*model]));
                let rows = *count as u64;
                Cost {
                    evaluations: each.evaluations * rows,
                    products: each.products * rows,
                    head_calls: 0,
                    guessed: each.guessed,
                }
            }
            Work::Maps(w) => {
                let steps: u64 = w.steps.iter().map(|s| *s as u64).sum();
                let dim = self.models[w.model].dim() as u64;
                Cost {
                    evaluations: steps * (5 * w.samples as u64 + w.draws as u64),
                    products: steps * 3 * dim * w.samples as u64,
                    ..Cost::default()
                }
            }
            Work::Contrast(_) | Work::Metrics { .. } => Cost::default(),
        }
    }
}
