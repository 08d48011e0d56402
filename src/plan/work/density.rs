//! The log-density over a rectangle of the plane.

use std::ops::Range;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::paths::{check_paths, path_cost, path_workload};
use super::{RowMagnitudes, WorkKind};
use crate::config::DensityGrid;
use crate::divergence::DivergenceEstimator;
use crate::num::key::SampleId;
use crate::plan::{Plan, PreparedPlan, SecondsPerRow, TrialCost};
use crate::progress::Workload;
use crate::solve::Solver;

/// The log-density of a model of the plane by one estimator, on a rectangular grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DensityWork {
    pub model: usize,
    pub solver: Solver,
    pub estimator: DivergenceEstimator,
    pub grid: DensityGrid,
}

impl DensityWork {
    fn points(&self) -> usize {
        self.grid.points * self.grid.points
    }
}

impl WorkKind for DensityWork {
    fn model_index(&self) -> usize {
        self.model
    }

    fn describe(&self, plan: &Plan) -> String {
        format!(
            "{}: log-density on {1} x {1} points, {2}",
            plan.models[self.model].name,
            self.grid.points,
            self.estimator.label()
        )
    }

    fn cost(&self, prepared: &PreparedPlan) -> TrialCost {
        let estimators = std::slice::from_ref(&self.estimator);
        let model = &prepared.models[self.model];
        path_cost(model, &self.solver, estimators, self.points())
    }

    fn workload(&self, prepared: &PreparedPlan, seconds: SecondsPerRow) -> Workload {
        path_workload(
            self,
            prepared,
            seconds,
            "density",
            &self.solver,
            self.points(),
        )
    }

    fn validate(&self, prepared: &PreparedPlan) -> Result<()> {
        let (model, points) = (&prepared.models[self.model], self.grid.points);
        if !(2..=2000).contains(&points) || model.dim() != 2 {
            bail!(
                "a density of {points} x {points} points of {} numbers",
                model.dim()
            );
        }
        check_paths(model, &self.solver, std::slice::from_ref(&self.estimator))
    }

    fn sample_range(&self) -> Option<Range<SampleId>> {
        Some(0..self.points() as SampleId)
    }

    fn estimators(&self) -> Vec<DivergenceEstimator> {
        vec![self.estimator.clone()]
    }

    fn tolerances(&self) -> Option<[f64; 2]> {
        self.solver.tolerances()
    }

    fn magnitude(&self, row: &RowMagnitudes) -> Option<f64> {
        // A prior log-density and a divergence integral are some nats per dimension each.
        Some((row.size)(row.column) + 10.0 * row.dim)
    }
}
