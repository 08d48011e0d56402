//! Expected coverage by highest density: how often the true parameters lie in the regions of highest
//! density (Hermans et al. 2022; Deistler et al. 2022).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    CalibrationStatistic, DENSITY_TIE, Observation, ObservationRank, RankGroup, RankStatistic,
    coverage_curve, uniformity_statistics,
};
use crate::num::key::RngKey;
use crate::num::rank_tests::RankSample;
use crate::num::stats;
use crate::registry::check_bounds;
use crate::rows::Status;

/// The rank of the true parameters' log-density among those of the draws. The region of credibility
/// c holds the share c of the draws, those with the highest density.
///
/// The rank counts draws of lower density. The statistics are of the number of draws of higher
/// density, so that a curve below the diagonal and a positive `location` say that the draws are too
/// narrow. If log-densities are estimates, their noise enters the true value and the draws alike, and
/// ranks of an exact posterior stay uniform.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExpectedCoverage {
    /// The number of bins of the χ² test. Default: at most 20, with 20 expected ranks each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bins: Option<usize>,
}

impl RankStatistic for ExpectedCoverage {
    fn check(&self, draws: usize) -> Result<(), String> {
        self.bins.map_or(Ok(()), |bins| {
            check_bounds("coverage: bins", bins, 2, draws + 1)
        })
    }

    fn needs_density(&self) -> bool {
        true
    }

    fn ranks(&self, observation: &Observation) -> Vec<ObservationRank> {
        let Some(densities) = observation.densities else {
            return Vec::new();
        };
        let number = |density: Option<f64>| density.unwrap_or(f64::NAN);
        let draws = densities.draws.iter().copied().map(number);
        let mut found = observation.rank(number(densities.truth), draws, None, DENSITY_TIE);
        found.stderr = densities.stderr;
        if found.rank.is_none() && densities.status != Status::Ok {
            found.status = densities.status;
        }
        vec![found]
    }

    fn statistics(&self, groups: &[RankGroup], _key: RngKey) -> Vec<CalibrationStatistic> {
        let of = |group: &RankGroup| {
            let regions = RankGroup {
                sample: group.sample.as_ref().map(RankSample::reversed),
                ..group.clone()
            };
            let mut found = uniformity_statistics(&regions, self.bins);
            if let Some(sample) = &regions.sample {
                found.extend(coverage_curve(&regions, sample));
            }
            if let Some(mean) = stats::mean_estimate(&group.values) {
                let interval = mean.stderr.map(|stderr| {
                    let half = stats::confidence_half_width(stderr, Some(mean.n), 0.95);
                    [mean.value - half, mean.value + half]
                });
                found.push(CalibrationStatistic {
                    value: Some(mean.value),
                    stderr: mean.stderr,
                    interval,
                    ..group.statistic("log-density")
                });
            }
            found
        };
        groups.iter().flat_map(of).collect()
    }
}
