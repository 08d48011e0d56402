//! A range of samples that are reweighted to a target.

use std::ops::Range;

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use super::paths::network_workload;
use super::{RowMagnitudes, SampleWork, WorkKind};
use crate::divergence::DivergenceEstimator;
use crate::num::key::SampleId;
use crate::plan::{Plan, PlannedFile, PreparedPlan, SecondsPerRow, TrialCost};
use crate::progress::Workload;
use crate::sample::{Sampler, SamplerContext};

/// The samples number `first` to `first + count` of one sampler with their log-densities, and their
/// energies and observables under one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReweightWork {
    pub model: usize,
    pub sampler: Sampler,
    /// The estimator of the samples' log-densities. For a flow map it is the flow map itself.
    pub density: DivergenceEstimator,
    /// The file of the energy. `None` for the energy of the card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<PlannedFile>,
    /// The factor of the energy in `energy`.
    pub energy_scale: f64,
    /// The files of the observables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub observables: Vec<PlannedFile>,
    pub first: usize,
    pub count: usize,
}

impl ReweightWork {
    /// The work of drawing the samples with their log-densities.
    pub fn sample_work(&self) -> SampleWork {
        SampleWork {
            model: self.model,
            sampler: self.sampler.clone(),
            noise: None,
            density: Some(self.density.clone()).filter(DivergenceEstimator::needs_solver),
            first: self.first,
            count: self.count,
        }
    }
}

impl WorkKind for ReweightWork {
    fn model_index(&self) -> usize {
        self.model
    }

    fn describe(&self, plan: &Plan) -> String {
        format!(
            "{}: weights of samples {} to {}, {}, {}",
            plan.models[self.model].name,
            self.first,
            self.first + self.count - 1,
            self.sampler.label(),
            self.density.label()
        )
    }

    fn cost(&self, prepared: &PreparedPlan) -> TrialCost {
        self.sample_work().cost(prepared)
    }

    fn workload(&self, prepared: &PreparedPlan, seconds: SecondsPerRow) -> Workload {
        let context = SamplerContext::for_model(&prepared.models[self.model]);
        let rows = self.sampler.network_rows(&context, self.count);
        let what = format!("{}, {}", self.sampler.label(), self.density.label());
        network_workload(self, prepared, seconds, "weights", &what, Some(rows))
    }

    fn validate(&self, prepared: &PreparedPlan) -> Result<()> {
        if !(self.energy_scale.is_finite() && self.energy_scale != 0.0) {
            return Err(anyhow!(
                "energy_scale: {}, expected a number other than 0",
                self.energy_scale
            ));
        }
        self.sample_work().validate(prepared)
    }

    fn sample_range(&self) -> Option<Range<SampleId>> {
        Some(self.first as SampleId..(self.first + self.count) as SampleId)
    }

    fn estimators(&self) -> Vec<DivergenceEstimator> {
        self.sample_work().estimators()
    }

    fn samplers(&self) -> Vec<Sampler> {
        vec![self.sampler.clone()]
    }

    fn tolerances(&self) -> Option<[f64; 2]> {
        match &self.sampler {
            Sampler::Ode(ode) => ode.solver.tolerances(),
            _ => None,
        }
    }

    fn magnitude(&self, row: &RowMagnitudes) -> Option<f64> {
        Some((row.size)("log_likelihood") + (row.size)("energy") + row.dim)
    }
}
