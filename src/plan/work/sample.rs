//! A range of samples of one sampler.

use std::ops::Range;

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use super::WorkKind;
use super::paths::{check_sample_end, network_workload};
use crate::num::key::SampleId;
use crate::plan::capabilities::check_sampler_supported;
use crate::plan::{Plan, PreparedPlan, SecondsPerRow, TrialCost};
use crate::progress::Workload;
use crate::registry::prefix_with_name;
use crate::sample::{Sampler, SamplerContext};

/// The samples number `first` to `first + count` of one sampler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleWork {
    pub model: usize,
    pub sampler: Sampler,
    /// The data that hold the initial states. Without them, the states are drawn by sample number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<usize>,
    pub first: usize,
    pub count: usize,
}

impl WorkKind for SampleWork {
    fn model_index(&self) -> usize {
        self.model
    }

    fn data_indices(&self) -> Vec<usize> {
        self.noise.iter().copied().collect()
    }

    fn describe(&self, plan: &Plan) -> String {
        format!(
            "{}: samples {} to {}, {}",
            plan.models[self.model].name,
            self.first,
            self.first + self.count - 1,
            self.sampler.label()
        )
    }

    fn cost(&self, prepared: &PreparedPlan) -> TrialCost {
        let context = SamplerContext::for_model(&prepared.models[self.model]);
        let (each, rows) = (self.sampler.cost(&context), self.count as u64);
        let calls = prepared.models[self.model].most_calls();
        TrialCost {
            evaluations: each.evaluations * calls * rows,
            products: each.products * calls * rows,
            head_calls: 0,
            guessed: each.is_upper_bound,
        }
    }

    fn workload(&self, prepared: &PreparedPlan, seconds: SecondsPerRow) -> Workload {
        let context = SamplerContext::for_model(&prepared.models[self.model]);
        let rows = self.sampler.network_rows(&context, self.count);
        let label = self.sampler.label();
        network_workload(self, prepared, seconds, "samples", &label, Some(rows))
    }

    fn validate(&self, prepared: &PreparedPlan) -> Result<()> {
        let model = &prepared.models[self.model];
        self.sampler
            .check(&SamplerContext::for_model(model))
            .map_err(|e| anyhow!(prefix_with_name(self.sampler.name(), e)))?;
        check_sampler_supported(model, &self.sampler)?;
        self.noise.map_or(Ok(()), |noise| {
            check_sample_end(prepared, noise, self.first.checked_add(self.count))
        })
    }

    fn sample_range(&self) -> Option<Range<SampleId>> {
        Some(self.first as SampleId..(self.first + self.count) as SampleId)
    }

    fn samples_per_unit(&self) -> usize {
        self.sampler.population().unwrap_or(1).max(1)
    }

    fn samplers(&self) -> Vec<Sampler> {
        vec![self.sampler.clone()]
    }
}
