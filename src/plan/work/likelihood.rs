//! Log-likelihoods of a range of samples.

use std::ops::Range;

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use super::paths::{check_paths, check_sample_end, path_cost, path_workload, shared_path_cost};
use super::{RowMagnitudes, WorkKind};
use crate::dequantization::Dequantization;
use crate::divergence::{ControlDivergence, DivergenceEstimator, ProductPlan};
use crate::num::key::SampleId;
use crate::plan::{Plan, PreparedPlan, SecondsPerRow, TrialCost};
use crate::progress::Workload;
use crate::solve::Solver;

/// The log-likelihoods of samples `first` to `first + count` by every estimator, over one path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LikelihoodWork {
    pub model: usize,
    pub data: usize,
    pub solver: Solver,
    pub estimators: Vec<DivergenceEstimator>,
    /// The index of the estimator that the others are compared with.
    pub reference: usize,
    /// The reference if it is measured with another solver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<ReferenceEstimate>,
    pub first: usize,
    pub count: usize,
    /// The dequantization that the config names. Without one, integers get one uniform draw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dequantization: Option<Dequantization>,
    /// Whether this is an error budget that no config asked for: finer steps alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub automatic: bool,
}

/// A reference estimate with a solver of its own, on the same model and data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferenceEstimate {
    pub estimator: DivergenceEstimator,
    pub solver: Solver,
}

impl LikelihoodWork {
    /// The number of draws of dequantization noise per sample.
    pub fn draws(&self) -> usize {
        self.dequantization.as_ref().map_or(1, |d| d.draw_count())
    }

    /// The samples of the work.
    pub fn samples(&self) -> Range<SampleId> {
        self.first as SampleId..(self.first + self.count) as SampleId
    }

    /// Checks solver, estimators, dequantization and the number of samples.
    ///
    /// # Errors
    /// Fails with the name of what no config could have asked for.
    pub fn check(&self, prepared: &PreparedPlan) -> Result<()> {
        if let Some(dequantization) = &self.dequantization {
            dequantization
                .check(&self.estimators)
                .map_err(|e| anyhow!("dequantization: {e}"))?;
        }
        check_paths(&prepared.models[self.model], &self.solver, &self.estimators)?;
        check_sample_end(prepared, self.data, self.first.checked_add(self.count))
    }

    /// The divergence that controls adaptive steps, in words. `None` if the steps are fixed or no
    /// estimator follows the path.
    fn describe_control(&self, dim: usize) -> Option<String> {
        let follows_path = self
            .estimators
            .iter()
            .any(DivergenceEstimator::needs_solver);
        let is_adaptive = self.solver.fixed_evaluations().is_none();
        (is_adaptive && follows_path).then(|| {
            ControlDivergence::for_estimators(&self.estimators, dim)
                .describe()
                .to_string()
        })
    }

    /// How the estimators share Jacobian products, in words. `None` if they share none.
    fn describe_sharing(&self, dim: usize) -> Option<&'static str> {
        let is_adaptive = self.solver.fixed_evaluations().is_none();
        let control = if is_adaptive {
            ControlDivergence::for_estimators(&self.estimators, dim)
        } else {
            ControlDivergence::State
        };
        let shared = ProductPlan::for_estimators(&self.estimators, dim, &control);
        shared.describe(shared.is_joint_with_velocity(dim, is_adaptive, &control))
    }
}

impl WorkKind for LikelihoodWork {
    fn model_index(&self) -> usize {
        self.model
    }

    fn data_indices(&self) -> Vec<usize> {
        vec![self.data]
    }

    fn describe(&self, plan: &Plan) -> String {
        let model = &plan.models[self.model];
        let dim = model.shape.iter().product();
        let with_comma = |words: &str| format!(", {words}");
        format!(
            "{}: log-likelihoods of samples {} to {}, {}, {} estimators{}{}",
            model.name,
            self.first,
            self.first + self.count - 1,
            self.solver.label(),
            self.estimators.len(),
            self.describe_control(dim)
                .map_or(String::new(), |words| with_comma(&words)),
            self.describe_sharing(dim).map_or(String::new(), with_comma),
        )
    }

    fn cost(&self, prepared: &PreparedPlan) -> TrialCost {
        let model = &prepared.models[self.model];
        path_cost(
            model,
            &self.solver,
            &self.estimators,
            self.count * self.draws(),
        )
    }

    fn shared_cost(&self, prepared: &PreparedPlan) -> TrialCost {
        let (model, rows) = (&prepared.models[self.model], self.count * self.draws());
        shared_path_cost(model, &self.solver, &self.estimators, rows)
    }

    fn workload(&self, prepared: &PreparedPlan, seconds: SecondsPerRow) -> Workload {
        let rows = self.count * self.draws();
        path_workload(self, prepared, seconds, "likelihoods", &self.solver, rows)
    }

    fn validate(&self, prepared: &PreparedPlan) -> Result<()> {
        self.check(prepared)
    }

    fn sample_range(&self) -> Option<Range<SampleId>> {
        Some(self.samples())
    }

    fn estimators(&self) -> Vec<DivergenceEstimator> {
        self.estimators.clone()
    }

    fn tolerances(&self) -> Option<[f64; 2]> {
        self.solver.tolerances()
    }

    fn magnitude(&self, row: &RowMagnitudes) -> Option<f64> {
        let nats = (row.size)("prior_log_density") + (row.size)("divergence_integral");
        Some(match row.column {
            "nats_per_dim" => nats / row.dim,
            "bits_per_dim" => nats / (row.dim * std::f64::consts::LN_2),
            _ => nats,
        })
    }
}
