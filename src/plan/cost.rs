//! What trials cost, before they run.

use super::{PreparedPlan, TrialWork};
use crate::divergence::{ControlDivergence, DivergenceEstimator};
use crate::model::loaded::Model;
use crate::sample::SamplerContext;
use crate::solve::Solver;

/// Evaluations per sample that a plan supposes of an adaptive solver.
const ADAPTIVE_EVALUATIONS_GUESS: u64 = 200;

/// Calls of a head per node; one that shares the velocity's calls costs none.
fn head_calls(model: &Model, estimator: &DivergenceEstimator) -> u64 {
    u64::from(
        estimator
            .head()
            .is_some_and(|head| !model.card.is_joint(head)),
    )
}

/// What a trial costs, for all its samples together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TrialCost {
    pub evaluations: u64,
    /// Jacobian products and head calls.
    pub products: u64,
    /// Head calls alone.
    pub head_calls: u64,
    pub guessed: bool,
}

impl TrialCost {
    fn plus(self, other: TrialCost) -> TrialCost {
        TrialCost {
            evaluations: self.evaluations + other.evaluations,
            products: self.products + other.products,
            head_calls: self.head_calls + other.head_calls,
            guessed: self.guessed || other.guessed,
        }
    }
}

impl PreparedPlan {
    /// What a trial costs; adaptive solvers are guessed.
    pub fn trial_cost(&self, work: &TrialWork) -> TrialCost {
        let path =
            |solver: &Solver, estimators: &[DivergenceEstimator], model: usize, rows: usize| {
                let dim = self.models[model].dim();
                let nodes = solver
                    .fixed_node_count()
                    .unwrap_or(ADAPTIVE_EVALUATIONS_GUESS);
                let heads: u64 = estimators
                    .iter()
                    .map(|e| head_calls(&self.models[model], e))
                    .sum();
                let products = estimators.iter().map(|e| e.jvps_per_node(dim)).sum::<u64>() + heads;
                let once: u64 = estimators
                    .iter()
                    .map(DivergenceEstimator::jvps_per_path)
                    .sum();
                let extra: u64 = estimators
                    .iter()
                    .map(DivergenceEstimator::evaluations_per_node)
                    .sum();
                let own: u64 = estimators
                    .iter()
                    .map(DivergenceEstimator::flow_map_evaluations)
                    .sum();
                let followed = estimators.iter().any(DivergenceEstimator::needs_solver);
                let path = if followed {
                    solver
                        .fixed_evaluations()
                        .unwrap_or(ADAPTIVE_EVALUATIONS_GUESS)
                        + nodes * extra
                } else {
                    0
                };
                let control = match solver.fixed_evaluations() {
                    None if followed => {
                        ADAPTIVE_EVALUATIONS_GUESS
                            * ControlDivergence::for_estimators(estimators, dim)
                                .jvps_per_evaluation(dim)
                    }
                    _ => 0,
                };
                TrialCost {
                    evaluations: (path + own) * rows as u64,
                    products: (nodes * products + once + control) * rows as u64,
                    head_calls: nodes * heads * rows as u64,
                    guessed: followed && solver.fixed_evaluations().is_none(),
                }
            };
        match work {
            TrialWork::Likelihood(w) => {
                path(&w.solver, &w.estimators, w.model, w.count * w.draws())
            }
            TrialWork::Profile(w) => path(&w.solver, &w.estimators, w.model, w.count),
            TrialWork::Budget(w) => {
                let costs = w
                    .budget_solvers()
                    .into_iter()
                    .map(|s| path(&s, &w.estimators, w.model, w.count));
                costs.reduce(TrialCost::plus).unwrap_or_default()
            }
            TrialWork::Density {
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
            TrialWork::Stein { model, stein, .. } => {
                let places = 2 * (stein.samples * stein.times) as u64;
                let apart = u64::from(!self.models[*model].card.is_joint(&stein.head));
                TrialCost {
                    evaluations: places,
                    products: places * apart,
                    head_calls: places * apart,
                    guessed: false,
                }
            }
            TrialWork::Sample {
                model,
                sampler,
                count,
                ..
            } => {
                let each = sampler.cost(&SamplerContext::for_model(&self.models[*model]));
                let rows = *count as u64;
                TrialCost {
                    evaluations: each.evaluations * rows,
                    products: each.products * rows,
                    head_calls: 0,
                    guessed: each.is_upper_bound,
                }
            }
            TrialWork::Maps(w) => {
                let steps: u64 = w.steps.iter().map(|s| *s as u64).sum();
                let dim = self.models[w.model].dim() as u64;
                TrialCost {
                    evaluations: steps * (5 * w.samples as u64 + w.draws as u64),
                    products: steps * 3 * dim * w.samples as u64,
                    ..TrialCost::default()
                }
            }
            TrialWork::Contrast(_) | TrialWork::Metrics { .. } => TrialCost::default(),
        }
    }
}
