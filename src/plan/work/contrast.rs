//! The differences of one sampler's statistics from another's.

use serde::{Deserialize, Serialize};

use super::WorkKind;
use super::statistics::statistics_workload;
use crate::features::images::ByteRounding;
use crate::metric::Metric;
use crate::plan::{Plan, PlannedFile, PreparedPlan, SecondsPerRow};
use crate::progress::Workload;
use crate::sample::Sampler;

/// The statistics of a sampler's samples minus those of a baseline's samples from the same noise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContrastWork {
    pub model: usize,
    pub sampler: Sampler,
    pub baseline: Box<Sampler>,
    /// The ids of the trials that hold the samples of each.
    pub parts: Vec<String>,
    pub baseline_parts: Vec<String>,
    pub reference: usize,
    pub extractor: Option<PlannedFile>,
    /// How floats become bytes for the extractor.
    #[serde(default, skip_serializing_if = "ByteRounding::is_default")]
    pub bytes: ByteRounding,
    pub metrics: Vec<Metric>,
}

impl WorkKind for ContrastWork {
    fn model_index(&self) -> usize {
        self.model
    }

    fn data_indices(&self) -> Vec<usize> {
        vec![self.reference]
    }

    fn describe(&self, plan: &Plan) -> String {
        format!(
            "{}: {} against {}",
            plan.models[self.model].name,
            self.sampler.label(),
            self.baseline.label()
        )
    }

    fn workload(&self, prepared: &PreparedPlan, _seconds: SecondsPerRow) -> Workload {
        let extractor = self.extractor.as_ref();
        statistics_workload(self, prepared, "contrast", &self.metrics, extractor)
    }

    fn required_trials(&self) -> Vec<&str> {
        self.parts
            .iter()
            .chain(&self.baseline_parts)
            .map(String::as_str)
            .collect()
    }
}
