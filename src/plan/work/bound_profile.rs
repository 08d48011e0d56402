//! The integrands of continuous variational bounds over the noise levels, for a few samples.

use std::ops::Range;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::paths::{path_cost, path_workload};
use super::{LikelihoodWork, RowMagnitudes, WorkKind};
use crate::divergence::DivergenceEstimator;
use crate::num::key::SampleId;
use crate::plan::{Plan, PreparedPlan, SecondsPerRow, TrialCost};
use crate::progress::Workload;

/// The integrand of every continuous bound at all its draws, for the first samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BoundProfileWork(pub LikelihoodWork);

impl WorkKind for BoundProfileWork {
    fn model_index(&self) -> usize {
        self.0.model
    }

    fn data_indices(&self) -> Vec<usize> {
        vec![self.0.data]
    }

    fn describe(&self, plan: &Plan) -> String {
        format!(
            "{}: denoising errors of {} samples over the noise levels",
            plan.models[self.0.model].name, self.0.count
        )
    }

    fn cost(&self, prepared: &PreparedPlan) -> TrialCost {
        let model = &prepared.models[self.0.model];
        path_cost(model, &self.0.solver, &self.0.estimators, self.0.count)
    }

    fn workload(&self, prepared: &PreparedPlan, seconds: SecondsPerRow) -> Workload {
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

    fn magnitude(&self, row: &RowMagnitudes) -> Option<f64> {
        Some((row.column_max)())
    }
}
