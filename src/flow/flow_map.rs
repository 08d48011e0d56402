//! Few steps along a flow map, as few-step likelihoods and few-step samples both take them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::field::{EvalError, FlowMap, FlowMapAverages, Points};
use super::grid::{self, GridSpacing};
use super::path::PathCurve;
use crate::num::Batch;
use crate::num::key::SampleId;
use crate::registry;

/// How the averages of a flow map become a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum FlowMapStepRule {
    /// The averages over the step from t to t' carry the state from t to t'. This rule is exact for
    /// an exact flow map, for any number of steps.
    #[default]
    TwoTime,
    /// The averages over an interval of the same length on the data side of t carry the state away
    /// from the data, as in the F2D2 authors' `nll.py`. This rule has a bias of O(1/steps) even for
    /// an exact flow map. Use it only for comparison with that code.
    ForwardAverage,
}

impl FlowMapStepRule {
    /// Returns the name of the rule in configs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            FlowMapStepRule::TwoTime => "two-time",
            FlowMapStepRule::ForwardAverage => "forward-average",
        }
    }
}

/// Where the change of volume along a flow map comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum MapVolume {
    /// From the map's divergence output, which is learned.
    Head,
    /// From the exact log-determinant of every step, by Jacobian products with every unit vector. A
    /// map that was trained from noise to data only is inverted by Newton's method.
    LogDet,
}

impl MapVolume {
    /// Returns the name in configs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            MapVolume::Head => "head",
            MapVolume::LogDet => "log-det",
        }
    }
}

/// A number of steps along one of the card's flow maps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("x-first" = "map"))]
pub struct FewSteps {
    /// The name of the flow map under the card's `flow_maps` (default: `f2d2`).
    pub map: String,
    /// The number of steps (default: 8); each step evaluates the flow map once.
    pub steps: usize,
    /// The spacing of the times of the steps. Default: `karras` on the paths `edm` and `ve`,
    /// `uniform` on the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid: Option<GridSpacing>,
    /// The rule by which averages become steps. Default: the rule of the card's flow map.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<FlowMapStepRule>,
    /// Where the change of volume comes from. Default: `head` if the map has a divergence, otherwise
    /// `log-det`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<MapVolume>,
}

impl Default for FewSteps {
    fn default() -> Self {
        FewSteps {
            map: "f2d2".to_owned(),
            steps: 8,
            grid: None,
            rule: None,
            volume: None,
        }
    }
}

impl FewSteps {
    /// The name of the states that the map visits; see [`grid::trajectory_name`]. `None` under the
    /// rule `forward-average`.
    pub fn trajectory(&self) -> Option<String> {
        let name = || grid::trajectory_name(&format!("flow-map {}", self.map), self.grid);
        (self.rule != Some(FlowMapStepRule::ForwardAverage)).then(name)
    }

    /// Whether the change of volume comes from exact log-determinants.
    pub fn has_log_determinants(&self) -> bool {
        self.volume == Some(MapVolume::LogDet)
    }

    /// Returns the label, such as `flow-map(f2d2 steps=8)`. It contains the grid if one is given, the
    /// rule if it is `forward-average`, and the volume if it is `log-det`.
    pub fn label(&self) -> String {
        let grid = self
            .grid
            .map_or(String::new(), |g| format!(" grid={}", g.as_str()));
        let rule = match self.rule {
            Some(FlowMapStepRule::ForwardAverage) => {
                format!(" rule={}", FlowMapStepRule::ForwardAverage.as_str())
            }
            _ => String::new(),
        };
        let volume = match self.volume {
            Some(MapVolume::LogDet) => format!(" volume={}", MapVolume::LogDet.as_str()),
            _ => String::new(),
        };
        format!(
            "flow-map({} steps={}{grid}{rule}{volume})",
            self.map, self.steps
        )
    }

    /// Returns `steps` + 1 times from the data end to the prior end.
    ///
    /// # Errors
    /// Fails if `steps` is out of bounds or the grid is not defined on the path. The message names
    /// the key and what is expected.
    pub fn times(&self, curve: &PathCurve) -> Result<Vec<f64>, String> {
        flow_map_times(curve, self.grid, self.steps)
    }
}

/// Returns `steps` + 1 times from the data end to the prior end. Without a `grid`, the spacing is
/// [`GridSpacing::Karras`] on the paths `edm` and `ve`, and [`GridSpacing::Uniform`] on the others.
///
/// # Errors
/// Fails if `steps` is not between 1 and 1,000,000, or if the grid is not defined on the path. The
/// message names the key and what is expected.
pub fn flow_map_times(
    curve: &PathCurve,
    grid: Option<GridSpacing>,
    steps: usize,
) -> Result<Vec<f64>, String> {
    registry::check_bounds("steps", steps, 1, 1_000_000)?;
    let spacing = grid.unwrap_or_else(|| GridSpacing::default_for(curve.path()));
    grid::grid_times(curve, spacing, steps, 7.0)
}

/// The states after the last step along a flow map, and the divergence integral along the steps.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowMapEndState {
    /// The states, rows × dim.
    pub x: Batch,
    /// The signed integral ∫ div v dt, one per row; `None` if the map has no divergence.
    pub divergence_integral: Option<Vec<f64>>,
}

/// Moves every row of `x`, the states of `samples`, along `times` with one evaluation of the flow
/// map per step. The times may increase or decrease.
///
/// Each step sets x ← x + (t' − t)·u and ∫div ← ∫div + (t' − t)·D (F2D2, few-step rule).
///
/// # Errors
/// Fails if the map cannot be evaluated.
pub fn apply_flow_map_steps(
    map: &mut dyn FlowMap,
    curve: &PathCurve,
    times: &[f64],
    rule: FlowMapStepRule,
    samples: &[SampleId],
    x: Batch,
) -> Result<FlowMapEndState, EvalError> {
    let rows = x.nrows();
    let mut end_state = FlowMapEndState {
        x,
        divergence_integral: Some(vec![0.0; rows]),
    };
    for pair in times.windows(2) {
        let step = pair[1] - pair[0];
        let (from, to) = match rule {
            FlowMapStepRule::TwoTime => (pair[0], pair[1]),
            FlowMapStepRule::ForwardAverage => {
                // The authors clamp t to [1e-9, 1] and pass on the unclamped length. At the data
                // end the map is therefore evaluated beyond that end, in a region where it was not
                // trained. A comparison with their code must reproduce this.
                let ends = [curve.data_end(), curve.prior_end()];
                let from = pair[0].clamp(ends[0].min(ends[1]).max(1e-9), ends[0].max(ends[1]));
                (from, from - step)
            }
        };
        let FlowMapAverages {
            velocity,
            divergence,
        } = map.averages(
            Points::new(samples, &vec![from; rows], &end_state.x),
            &vec![to; rows],
        )?;
        end_state.x.scaled_add(step, &velocity);
        end_state.divergence_integral =
            end_state
                .divergence_integral
                .zip(divergence)
                .map(|(mut sum, d)| {
                    sum.iter_mut().zip(d).for_each(|(s, d)| *s += step * d);
                    sum
                });
    }
    Ok(end_state)
}
