//! The identities of a flow map.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::WorkKind;
use super::paths::{check_sample_end, network_workload};
use crate::flow::grid::GridSpacing;
use crate::plan::{Plan, PreparedPlan, SecondsPerRow, TrialCost};
use crate::progress::Workload;

/// The residuals of a flow map's identities, and the mass of its few-step densities.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowMapWork {
    pub model: usize,
    pub data: usize,
    /// The name of the flow map on the card.
    pub map: String,
    /// The numbers of steps in which the map is applied.
    pub steps: Vec<usize>,
    pub grid: Option<GridSpacing>,
    pub samples: usize,
    /// The draws of importance sampling behind the mass. None are drawn if this is 0.
    pub draws: usize,
}

impl WorkKind for FlowMapWork {
    fn model_index(&self) -> usize {
        self.model
    }

    fn data_indices(&self) -> Vec<usize> {
        vec![self.data]
    }

    fn describe(&self, plan: &Plan) -> String {
        format!(
            "{}: identities of the flow map {} in {:?} steps, {} samples",
            plan.models[self.model].name, self.map, self.steps, self.samples
        )
    }

    fn cost(&self, prepared: &PreparedPlan) -> TrialCost {
        let steps: u64 = self.steps.iter().map(|s| *s as u64).sum();
        let dim = prepared.models[self.model].dim() as u64;
        TrialCost {
            evaluations: steps * (5 * self.samples as u64 + self.draws as u64),
            products: steps * 3 * dim * self.samples as u64,
            ..TrialCost::default()
        }
    }

    fn workload(&self, prepared: &PreparedPlan, seconds: SecondsPerRow) -> Workload {
        network_workload(self, prepared, seconds, "maps", &self.map, None)
    }

    fn validate(&self, prepared: &PreparedPlan) -> Result<()> {
        check_sample_end(prepared, self.data, Some(self.samples))
    }
}
