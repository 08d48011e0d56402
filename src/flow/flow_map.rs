//! Few steps along a flow map: the walk that few-step likelihoods and few-step samples share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::field::{EvalError, FlowMap, FlowMapAverages};
use super::grid::{self, GridSpacing};
use super::path::{PathCurve, ProbabilityPath};
use crate::num::Batch;
use crate::registry;

/// How the averages of a map become a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum FlowMapStepRule {
    /// u and D over \[t, t'\] carry the state from t to t': exact for an exact map, in any number of steps.
    #[default]
    TwoTime,
    /// What the authors' `nll.py` does: the averages over the interval of the same length on the *data's* side
    /// of t carry the state away from the data. Biased by O(1/N) even for an exact map; for comparison only.
    ForwardAverage,
}

impl FlowMapStepRule {
    pub fn as_str(self) -> &'static str {
        match self {
            FlowMapStepRule::TwoTime => "two-time",
            FlowMapStepRule::ForwardAverage => "forward-average",
        }
    }
}

/// Few steps of a card's map, as estimators and samplers name them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("x-first" = "map"))]
pub struct FewSteps {
    /// The name under the card's `flow_maps`.
    pub map: String,
    pub steps: usize,
    /// Karras for edm and ve, uniform in the card's time otherwise, unless named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid: Option<GridSpacing>,
    /// The card's own unless named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<FlowMapStepRule>,
}

impl Default for FewSteps {
    fn default() -> Self {
        FewSteps {
            map: "f2d2".to_owned(),
            steps: 8,
            grid: None,
            rule: None,
        }
    }
}

impl FewSteps {
    /// `flow-map(f2d2 steps=8)`, with a grid that was named and with the compatibility rule.
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
        format!("flow-map({} steps={}{grid}{rule})", self.map, self.steps)
    }

    /// `steps` + 1 times from the data end to the prior end.
    ///
    /// # Errors
    /// A sentence with the key and what would be right.
    pub fn times(&self, curve: &PathCurve) -> Result<Vec<f64>, String> {
        flow_map_times(curve, self.grid, self.steps)
    }
}

/// `steps` + 1 times from the data end to the prior end, on the path's natural grid unless one is named.
///
/// # Errors
/// A sentence with the key and what would be right.
pub fn flow_map_times(
    curve: &PathCurve,
    grid: Option<GridSpacing>,
    steps: usize,
) -> Result<Vec<f64>, String> {
    registry::check_bounds("steps", steps, 1, 1_000_000)?;
    let natural = match curve.path() {
        ProbabilityPath::Edm { .. } | ProbabilityPath::Ve { .. } => GridSpacing::Karras,
        _ => GridSpacing::Uniform,
    };
    grid::grid_times(curve, grid.unwrap_or(natural), steps, 7.0)
}

/// Where a walk ended, and the signed ∫div dt along it where the map gives divergences.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowMapEndState {
    pub x: Batch,
    pub divergence_integral: Option<Vec<f64>>,
}

/// Carries every row of `x` along `times`, in either direction, with one evaluation of the map per step:
/// x ← x + (t' − t)·u and ∫div ← ∫div + (t' − t)·D (F2D2, few-step rule).
///
/// # Errors
/// Where the map cannot be evaluated.
pub fn apply_flow_map_steps(
    map: &mut dyn FlowMap,
    curve: &PathCurve,
    times: &[f64],
    rule: FlowMapStepRule,
    x: Batch,
) -> Result<FlowMapEndState, EvalError> {
    let rows = x.nrows();
    let mut walked = FlowMapEndState {
        x,
        divergence_integral: Some(vec![0.0; rows]),
    };
    for pair in times.windows(2) {
        let step = pair[1] - pair[0];
        let (from, to) = match rule {
            FlowMapStepRule::TwoTime => (pair[0], pair[1]),
            FlowMapStepRule::ForwardAverage => {
                // The authors clamp t to [1e-9, 1] and hand on the length unclamped: at the data end the
                // map is asked beyond it, where it was never trained. That is part of what is compared.
                let ends = [curve.data_end(), curve.prior_end()];
                let from = pair[0].clamp(ends[0].min(ends[1]).max(1e-9), ends[0].max(ends[1]));
                (from, from - step)
            }
        };
        let FlowMapAverages {
            velocity,
            divergence,
        } = map.averages(&vec![from; rows], &vec![to; rows], &walked.x)?;
        walked.x.scaled_add(step, &velocity);
        walked.divergence_integral =
            walked
                .divergence_integral
                .zip(divergence)
                .map(|(mut sum, d)| {
                    sum.iter_mut().zip(d).for_each(|(s, d)| *s += step * d);
                    sum
                });
    }
    Ok(walked)
}
