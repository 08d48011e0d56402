//! The workload of a trial, from which the remaining time of a run is estimated.

use super::{PreparedPlan, TrialWork};
use crate::progress::Workload;

/// The measured seconds that the networks of one model need per row in one thread.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SecondsPerRow {
    /// The seconds of an evaluation of the network.
    pub evaluation: f64,
    /// The seconds of a Jacobian product.
    pub product: f64,
    /// The seconds of a call of a divergence head.
    pub head: f64,
}

impl PreparedPlan {
    /// The workload of a trial. `seconds_per_row` has one entry for each model of the plan.
    pub fn trial_load(&self, work: &TrialWork, seconds_per_row: &[SecondsPerRow]) -> Workload {
        let seconds = seconds_per_row
            .get(work.model_index())
            .copied()
            .unwrap_or_default();
        work.workload(self, seconds)
    }
}
