//! Trials as the estimate of the time left sees them.

use super::{PreparedPlan, TrialWork};
use crate::progress::Workload;

/// The seconds that a row takes in one thread: an evaluation of the network, a Jacobian product, a
/// call of a divergence head.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SecondsPerRow {
    pub evaluation: f64,
    pub product: f64,
    pub head: f64,
}

impl PreparedPlan {
    /// A trial as a workload. `seconds_per_row` are those of the plan's models.
    pub fn trial_load(&self, work: &TrialWork, seconds_per_row: &[SecondsPerRow]) -> Workload {
        let seconds = seconds_per_row
            .get(work.model_index())
            .copied()
            .unwrap_or_default();
        work.workload(self, seconds)
    }
}
