//! Simulation-based calibration (Talts, Betancourt, Simpson, Vehtari and Gelman 2018): the rank of
//! each true parameter among the draws.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    CalibrationStatistic, Observation, ObservationRank, RankGroup, RankStatistic,
    corrected_statistics, uniformity_statistics,
};
use crate::num::key::RngKey;
use crate::registry::check_bounds;

/// The ranks of the parameters, one test for each. It looks at one parameter at a time, so that it
/// does not see errors of their dependence.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sbc {
    /// The number of bins of the χ² test. Default: at most 20, with 20 expected ranks each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bins: Option<usize>,
}

impl RankStatistic for Sbc {
    fn check(&self, draws: usize) -> Result<(), String> {
        self.bins
            .map_or(Ok(()), |bins| check_bounds("sbc: bins", bins, 2, draws + 1))
    }

    fn ranks(&self, observation: &Observation) -> Vec<ObservationRank> {
        let truths = observation.truth.iter().enumerate();
        truths
            .map(|(parameter, truth)| {
                let draws = observation.draws.column(parameter);
                let place = parameter as u64;
                observation.rank(*truth, draws.iter().copied(), Some(parameter), place)
            })
            .collect()
    }

    fn statistics(&self, groups: &[RankGroup], _key: RngKey) -> Vec<CalibrationStatistic> {
        let mut found: Vec<CalibrationStatistic> = groups
            .iter()
            .flat_map(|group| uniformity_statistics(group, self.bins))
            .collect();
        let corrected = corrected_statistics(groups, &found);
        found.extend(corrected);
        found
    }
}
