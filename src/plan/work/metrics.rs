//! Statistics of samples against reference data.

use serde::{Deserialize, Serialize};

use super::WorkKind;
use super::statistics::statistics_workload;
use crate::features::images::ByteRounding;
use crate::metric::Metric;
use crate::plan::{Plan, PlannedFile, PreparedPlan, SecondsPerRow};
use crate::progress::Workload;
use crate::sample::Sampler;

/// The statistics of a sampler's samples, or of floor data, against reference data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricsWork {
    pub model: usize,
    /// `None` for the data-versus-data floor.
    pub sampler: Option<Sampler>,
    /// The ids of the trials that hold the samples.
    pub parts: Vec<String>,
    pub floor: Option<usize>,
    /// The number of generated samples beside the floor. Biased statistics of the floor take as
    /// many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    pub reference: usize,
    /// The model's training data and its held-out data, if they are not the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<usize>,
    pub extractor: Option<PlannedFile>,
    /// How floats become bytes for the extractor.
    #[serde(default, skip_serializing_if = "ByteRounding::is_default")]
    pub bytes: ByteRounding,
    pub metrics: Vec<Metric>,
}

impl WorkKind for MetricsWork {
    fn model_index(&self) -> usize {
        self.model
    }

    fn data_indices(&self) -> Vec<usize> {
        [self.floor, Some(self.reference), self.train, self.test]
            .into_iter()
            .flatten()
            .collect()
    }

    fn describe(&self, plan: &Plan) -> String {
        let names: Vec<&str> = self.metrics.iter().map(|m| m.name()).collect();
        format!(
            "{}: {} of {}",
            plan.models[self.model].name,
            names.join(", "),
            self.sampler
                .as_ref()
                .map_or("the data themselves".to_owned(), Sampler::label)
        )
    }

    fn workload(&self, prepared: &PreparedPlan, _seconds: SecondsPerRow) -> Workload {
        let extractor = self.extractor.as_ref();
        statistics_workload(self, prepared, "statistics", &self.metrics, extractor)
    }

    fn required_trials(&self) -> Vec<&str> {
        self.parts.iter().map(String::as_str).collect()
    }
}
