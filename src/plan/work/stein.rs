//! Stein tests of a divergence head.

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use super::WorkKind;
use super::paths::network_workload;
use crate::divergence::{DivergenceEstimator, Learned};
use crate::plan::{Plan, PreparedPlan, SecondsPerRow, TrialCost};
use crate::progress::Workload;
use crate::stein::SteinTest;

/// Stein tests of one divergence head on one set of data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SteinWork {
    pub model: usize,
    pub data: usize,
    pub stein: SteinTest,
}

impl WorkKind for SteinWork {
    fn model_index(&self) -> usize {
        self.model
    }

    fn data_indices(&self) -> Vec<usize> {
        vec![self.data]
    }

    fn describe(&self, plan: &Plan) -> String {
        format!(
            "{}: Stein tests of {}, {} states at {} times",
            plan.models[self.model].name, self.stein.head, self.stein.samples, self.stein.times
        )
    }

    fn cost(&self, prepared: &PreparedPlan) -> TrialCost {
        let states = 2 * (self.stein.samples * self.stein.times) as u64;
        let is_joint = prepared.models[self.model].card.is_joint(&self.stein.head);
        let head_calls = if is_joint { 0 } else { states };
        TrialCost {
            evaluations: states,
            products: head_calls,
            head_calls,
            guessed: false,
        }
    }

    fn workload(&self, prepared: &PreparedPlan, seconds: SecondsPerRow) -> Workload {
        let rows = Some(self.stein.samples);
        network_workload(self, prepared, seconds, "stein", &self.stein.head, rows)
    }

    fn validate(&self, _prepared: &PreparedPlan) -> Result<()> {
        self.stein.check().map_err(|e| anyhow!(e))
    }

    fn estimators(&self) -> Vec<DivergenceEstimator> {
        vec![DivergenceEstimator::Learned(Learned {
            head: self.stein.head.clone(),
        })]
    }
}
