//! The time grid of a sampler, from the prior end to the data end.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PathPoint, SamplerContext, SamplerStep};
use crate::flow::grid::{self, GridSpacing};
use crate::flow::path::PathCurve;
use crate::registry;

/// The time grid of a sampler, from the prior end to the data end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SamplerSchedule {
    /// The number N of steps. Default: 18. A `karras` schedule has N points, and therefore N − 1
    /// steps.
    pub steps: usize,
    /// The spacing of the grid. Default: `karras` on edm and ve paths, `uniform` in the card's time
    /// on others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<GridSpacing>,
    /// The exponent ρ of a `karras` schedule. Default: 7.
    pub rho: f64,
    /// Whether a multistep sampler lowers its order towards the end of the grid. Default: true. It
    /// then extrapolates no difference over the last steps, which are the longest in ln(α/σ).
    /// One-step samplers ignore this.
    pub lower_order_final: bool,
    /// Whether the sampler ends with x ← D(x), the denoiser at the data end. Default: false. This
    /// takes one more evaluation.
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
    /// The name of the states that `method` visits over this grid, as a solver of that name does.
    /// `None` if the grid has an option that solvers do not have.
    pub fn trajectory(&self, method: &str) -> Option<String> {
        let plain = SamplerSchedule {
            steps: self.steps,
            schedule: self.schedule,
            ..SamplerSchedule::default()
        };
        (*self == plain).then(|| grid::trajectory_name(method, self.schedule))
    }

    /// The spacing that was given, or else the default of the path.
    fn spacing(&self, curve: &PathCurve) -> GridSpacing {
        self.schedule
            .unwrap_or_else(|| GridSpacing::default_for(curve.path()))
    }

    /// The number of steps of the grid, without the final denoising step.
    pub fn intervals(&self, curve: &PathCurve) -> usize {
        if self.spacing(curve) == GridSpacing::Karras {
            self.steps.saturating_sub(1)
        } else {
            self.steps
        }
    }

    /// The times of the grid, from the prior end to the data end.
    ///
    /// # Errors
    /// Fails if `steps` or `rho` is out of range, or if the spacing is undefined at an end of the
    /// path. The message names the key and says what is expected.
    pub fn times(&self, curve: &PathCurve) -> Result<Vec<f64>, String> {
        let karras = self.spacing(curve) == GridSpacing::Karras;
        let least = if karras { 2 } else { 1 };
        let why = if karras && self.steps < 2 {
            " (a karras schedule with N points has N - 1 steps)"
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

    /// The denoising step at the last of `points`, if `denoise_to_zero` is set.
    pub fn final_denoising_step(&self, points: &[PathPoint]) -> Option<SamplerStep> {
        points
            .last()
            .filter(|_| self.denoise_to_zero)
            .map(|last| SamplerStep::denoise(*last))
    }

    /// The points of the grid, from the prior end to the data end.
    ///
    /// # Errors
    /// Fails if [`SamplerSchedule::times`] fails.
    pub fn points(&self, context: &SamplerContext) -> Result<Vec<PathPoint>, String> {
        Ok(self
            .times(context.curve)?
            .into_iter()
            .map(|t| PathPoint::at_time(context.curve, t))
            .collect())
    }
}
