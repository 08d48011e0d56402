//! The integral of a model's density.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::WorkKind;
use super::paths::{check_paths, path_cost, path_workload};
use crate::divergence::DivergenceEstimator;
use crate::plan::{Plan, PreparedPlan, SecondsPerRow, TrialCost};
use crate::progress::Workload;
use crate::solve::Solver;

/// The largest number of dimensions in which draws from kernels at data reach a density.
pub const MAX_MASS_DIM: usize = 64;

/// The integral of the density of every estimator, by importance sampling with draws from kernels at
/// data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MassWork {
    pub model: usize,
    pub data: usize,
    pub solver: Solver,
    pub estimators: Vec<DivergenceEstimator>,
    /// The number of draws.
    pub draws: usize,
}

impl WorkKind for MassWork {
    fn model_index(&self) -> usize {
        self.model
    }

    fn data_indices(&self) -> Vec<usize> {
        vec![self.data]
    }

    fn describe(&self, plan: &Plan) -> String {
        format!(
            "{}: mass of the density by {} draws, {}",
            plan.models[self.model].name,
            self.draws,
            self.solver.label()
        )
    }

    fn cost(&self, prepared: &PreparedPlan) -> TrialCost {
        let model = &prepared.models[self.model];
        path_cost(model, &self.solver, &self.estimators, self.draws)
    }

    fn workload(&self, prepared: &PreparedPlan, seconds: SecondsPerRow) -> Workload {
        let rows = self.draws;
        path_workload(self, prepared, seconds, "mass", &self.solver, rows)
    }

    fn validate(&self, prepared: &PreparedPlan) -> Result<()> {
        let model = &prepared.models[self.model];
        if model.dim() > MAX_MASS_DIM {
            bail!(
                "mass: the model has {} dimensions, expected at most {MAX_MASS_DIM}",
                model.dim()
            );
        }
        check_paths(model, &self.solver, &self.estimators)
    }

    fn estimators(&self) -> Vec<DivergenceEstimator> {
        self.estimators.clone()
    }

    fn tolerances(&self) -> Option<[f64; 2]> {
        self.solver.tolerances()
    }
}
