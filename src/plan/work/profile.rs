//! The divergence at the nodes of a few paths.

use std::ops::Range;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::paths::{path_cost, path_workload, shared_path_cost};
use super::{LikelihoodWork, RowMagnitudes, WorkKind};
use crate::divergence::DivergenceEstimator;
use crate::num::key::SampleId;
use crate::plan::{Plan, PreparedPlan, SecondsPerRow, TrialCost};
use crate::progress::Workload;

/// The divergence by every estimator at every node of the paths of the first samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProfileWork(pub LikelihoodWork);

impl WorkKind for ProfileWork {
    fn model_index(&self) -> usize {
        self.0.model
    }

    fn data_indices(&self) -> Vec<usize> {
        vec![self.0.data]
    }

    fn describe(&self, plan: &Plan) -> String {
        format!(
            "{}: divergence along {} paths, {}",
            plan.models[self.0.model].name,
            self.0.count,
            self.0.solver.label()
        )
    }

    fn cost(&self, prepared: &PreparedPlan) -> TrialCost {
        let model = &prepared.models[self.0.model];
        path_cost(model, &self.0.solver, &self.0.estimators, self.0.count)
    }

    fn shared_cost(&self, prepared: &PreparedPlan) -> TrialCost {
        let model = &prepared.models[self.0.model];
        shared_path_cost(model, &self.0.solver, &self.0.estimators, self.0.count)
    }

    fn workload(&self, prepared: &PreparedPlan, seconds: SecondsPerRow) -> Workload {
        // A profile follows the same paths as log-likelihoods do, so that it takes as long.
        path_workload(
            self,
            prepared,
            seconds,
            "likelihoods",
            &self.0.solver,
            self.0.count,
        )
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

    fn has_adaptive_nodes(&self) -> bool {
        self.tolerances().is_some()
    }

    fn magnitude(&self, row: &RowMagnitudes) -> Option<f64> {
        Some((row.column_max)())
    }
}
