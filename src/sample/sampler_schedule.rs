//! Where a sampler stands on the path, from the prior end to the data end.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PathPoint, SamplerContext, SamplerStep};
use crate::flow::grid::{self, GridSpacing};
use crate::flow::path::{PathCurve, ProbabilityPath};
use crate::registry;

/// Where a sampler stands on the path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SamplerSchedule {
    /// Karras: N points, N − 1 steps; log-snr and uniform: N steps.
    pub steps: usize,
    /// Karras for edm and ve, uniform in the card's time otherwise, unless named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<GridSpacing>,
    pub rho: f64,
    /// Multistep samplers lower their order towards the end of the grid, so that no difference is
    /// extrapolated over the last, longest steps in λ; one-step samplers have no order to lower.
    pub lower_order_final: bool,
    /// Ends with x ← E\[x₀ | x\] at the data end: one evaluation more.
    pub denoise_to_zero: bool,
}

impl Default for SamplerSchedule {
    fn default() -> Self {
        SamplerSchedule {
            steps: 18,
            schedule: None,
            rho: 7.0,
            lower_order_final: true,
            denoise_to_zero: false,
        }
    }
}

impl SamplerSchedule {
    fn spacing(&self, curve: &PathCurve) -> GridSpacing {
        self.schedule.unwrap_or(match curve.path() {
            ProbabilityPath::Edm { .. } | ProbabilityPath::Ve { .. } => GridSpacing::Karras,
            _ => GridSpacing::Uniform,
        })
    }

    /// Steps of the grid, the last denoising not counted.
    pub fn intervals(&self, curve: &PathCurve) -> usize {
        if self.spacing(curve) == GridSpacing::Karras {
            self.steps.saturating_sub(1)
        } else {
            self.steps
        }
    }

    /// Times from the prior end to the data end.
    ///
    /// # Errors
    /// A sentence with the key and what would be right.
    pub fn times(&self, curve: &PathCurve) -> Result<Vec<f64>, String> {
        let karras = self.spacing(curve) == GridSpacing::Karras;
        let least = if karras { 2 } else { 1 };
        let why = if karras && self.steps < 2 {
            " (a karras schedule of N points has N - 1 steps)"
        } else {
            ""
        };
        registry::check_bounds("steps", self.steps, least, 1_000_000)
            .map_err(|e| format!("{e}{why}"))?;
        if !(self.rho.is_finite() && self.rho > 0.0) {
            return Err(format!("rho is {}, expected a number above 0", self.rho));
        }
        let mut times =
            grid::grid_times(curve, self.spacing(curve), self.intervals(curve), self.rho)?;
        times.reverse();
        Ok(times)
    }

    /// The denoising at the end, where it is asked for.
    pub fn final_denoising_step(&self, points: &[PathPoint]) -> Option<SamplerStep> {
        points
            .last()
            .filter(|_| self.denoise_to_zero)
            .map(|last| SamplerStep::denoise(*last))
    }

    /// Points from the prior end to the data end.
    ///
    /// # Errors
    /// As [`SamplerSchedule::times`].
    pub fn points(&self, on: &SamplerContext) -> Result<Vec<PathPoint>, String> {
        Ok(self
            .times(on.curve)?
            .into_iter()
            .map(|t| PathPoint::at_time(on.curve, t))
            .collect())
    }
}
