//! A few samples again, for the error budget.

use std::ops::Range;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::paths::{path_cost, path_workload, shared_path_cost};
use super::{LikelihoodWork, RowMagnitudes, WorkKind};
use crate::divergence::DivergenceEstimator;
use crate::num::key::SampleId;
use crate::plan::{Plan, PreparedPlan, SecondsPerRow, TrialCost};
use crate::progress::Workload;
use crate::solve::Solver;

/// The log-likelihoods of the first samples with the solver's steps, with finer and coarser ones,
/// and with networks in float64.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BudgetWork(pub LikelihoodWork);

impl BudgetWork {
    /// The solver of each path that the work follows: the work's own, twice more for the networks
    /// in float64, which take about twice the time, then finer and coarser steps. An automatic
    /// budget has the work's own solver and the finer steps alone.
    fn solvers(&self) -> Vec<Solver> {
        let work = &self.0;
        let own = std::iter::repeat_n(work.solver.clone(), if work.automatic { 1 } else { 3 });
        let coarser = work.solver.coarser().filter(|_| !work.automatic);
        own.chain(work.solver.finer()).chain(coarser).collect()
    }
}

impl WorkKind for BudgetWork {
    fn model_index(&self) -> usize {
        self.0.model
    }

    fn data_indices(&self) -> Vec<usize> {
        vec![self.0.data]
    }

    fn describe(&self, plan: &Plan) -> String {
        let what = if self.0.automatic {
            "the solver's error"
        } else {
            "error budget"
        };
        format!(
            "{}: {what} on {} samples, {}",
            plan.models[self.0.model].name,
            self.0.count,
            self.0.solver.label()
        )
    }

    fn cost(&self, prepared: &PreparedPlan) -> TrialCost {
        let model = &prepared.models[self.0.model];
        self.solvers()
            .iter()
            .map(|solver| path_cost(model, solver, &self.0.estimators, self.0.count))
            .reduce(TrialCost::plus)
            .unwrap_or_default()
    }

    fn shared_cost(&self, prepared: &PreparedPlan) -> TrialCost {
        let model = &prepared.models[self.0.model];
        self.solvers()
            .iter()
            .map(|solver| shared_path_cost(model, solver, &self.0.estimators, self.0.count))
            .reduce(TrialCost::plus)
            .unwrap_or_default()
    }

    fn workload(&self, prepared: &PreparedPlan, seconds: SecondsPerRow) -> Workload {
        let rows = self.0.count * self.solvers().len();
        path_workload(self, prepared, seconds, "budget", &self.0.solver, rows)
    }

    fn validate(&self, prepared: &PreparedPlan) -> Result<()> {
        self.0.check(prepared)
    }

    fn sample_range(&self) -> Option<Range<SampleId>> {
        Some(self.0.samples())
    }

    fn estimators(&self) -> Vec<DivergenceEstimator> {
        self.0.estimators.clone()
    }

    fn tolerances(&self) -> Option<[f64; 2]> {
        self.0.solver.tolerances()
    }

    fn magnitude(&self, row: &RowMagnitudes) -> Option<f64> {
        // A prior log-density and a divergence integral are some nats per dimension each.
        Some((row.size)(row.column) + 10.0 * row.dim)
    }

    fn is_automatic(&self) -> bool {
        self.0.automatic
    }
}
