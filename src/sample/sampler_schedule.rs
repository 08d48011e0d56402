//! The time grid of a sampler, from the prior end to the data end.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::timesteps::{self, FinalNoise, IndexRounding, NoiseLevels, TimestepSpacing};
use super::{PathPoint, SamplerContext, SamplerStep};
use crate::flow::grid::{self, GridSpacing};
use crate::flow::path::PathCurve;
use crate::registry;

/// The time grid of a sampler, from the prior end to the data end.
///
/// By default the grid goes from one end of the path to the other. With `spacing`, `times` or
/// `sigmas` it goes through the times at which schedulers of other programs evaluate a network, and
/// ends at `final_sigmas_type`.
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
    /// How `steps` indices of a discrete path are chosen, as diffusers' `timestep_spacing`. On
    /// flow-matching paths `linspace` gives `steps` times in σ from the prior end to `sigma_min`.
    /// With `schedule: karras` or `log-snr` it gives only the ends of that grid. Default: no indices
    /// are chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spacing: Option<TimestepSpacing>,
    /// A number that is added to every index of `spacing: leading`. Default: 0.
    #[serde(skip_serializing_if = "is_zero_count")]
    pub steps_offset: usize,
    /// Whether `leading` and `linspace` choose one index more and leave out the lowest, as diffusers'
    /// DPM-Solver++ and UniPC do. Default: false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub drop_last: bool,
    /// The number of indices, from the lowest, among which `spacing` chooses. On flow-matching paths
    /// `rounding` is to multiples of 1/`index_count`. Default: all indices of a discrete path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index_count: Option<usize>,
    /// Whether indices are rounded to whole numbers, and how. An index that was chosen is rounded
    /// itself. Where a noise level was chosen, the noise level stays, and only the time that the
    /// network gets is rounded. Default: indices may be fractional.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounding: Option<IndexRounding>,
    /// The times of the evaluations, from the prior end to the data end: indices on a discrete path,
    /// the card's times on others. Default: none are given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<Vec<f64>>,
    /// The noise levels σ/α of the evaluations, from the prior end to the data end: a list, or the
    /// name of a `.npy` file. A last level of 0 is the end of the grid. Default: none are given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigmas: Option<NoiseLevels>,
    /// Where the last step ends, as diffusers' `final_sigmas_type`: `zero` (σ = 0), `sigma-min` (the
    /// data end of the path) or `none` (the last evaluation has no step). Default: `zero` with
    /// `spacing`, `times` or `sigmas`, and otherwise the data end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_sigmas_type: Option<FinalNoise>,
    /// Whether a step from index i ends at i − ⌊N/steps⌋, even if the next step begins at another
    /// index, as diffusers' DDIM does. Default: false. Only one-step samplers allow this.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stride: bool,
    /// The shift s of a flow-matching grid: σ becomes s σ/(1 + (s − 1) σ). Default: 1, no shift.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift: Option<f64>,
    /// The dynamic shift μ of a flow-matching grid, which is a shift of e^μ. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mu: Option<f64>,
    /// The σ of the last evaluation of a flow-matching grid, to which the shifted grid is stretched.
    /// Default: the grid is not stretched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift_terminal: Option<f64>,
    /// A distance from 1 by which a σ of 1 is lowered at the first evaluation of a flow-matching
    /// grid. Diffusers' UniPC takes 1e-6, so that α is not 0. Default: σ is not lowered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub below_one: Option<f64>,
    /// The lowest noise level σ/α of a `karras` or `log-snr` grid, or the lowest σ, before any
    /// shift, of `spacing: linspace` on a flow-matching path. Default: that of the lowest time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_min: Option<f64>,
    /// The highest noise level, as `sigma_min` is the lowest. Default: that of the highest time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_max: Option<f64>,
    /// The number of steps from which on `lower_order_final` is ignored. Diffusers' DPM-Solver++
    /// lowers the order only below 15 steps. Default: no such number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower_order_below: Option<usize>,
    /// Whether the last step of a multistep sampler is of first order. Default: false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub euler_at_final: bool,
}

/// Whether a count is 0, the default, which is not written.
fn is_zero_count(count: &usize) -> bool {
    *count == 0
}

impl Default for SamplerSchedule {
    fn default() -> Self {
        SamplerSchedule {
            steps: 18,
            schedule: None,
            rho: 7.0,
            lower_order_final: true,
            denoise_to_zero: false,
            spacing: None,
            steps_offset: 0,
            drop_last: false,
            index_count: None,
            rounding: None,
            times: None,
            sigmas: None,
            final_sigmas_type: None,
            stride: false,
            shift: None,
            mu: None,
            shift_terminal: None,
            below_one: None,
            sigma_min: None,
            sigma_max: None,
            lower_order_below: None,
            euler_at_final: false,
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

    /// Whether a multistep sampler lowers its order towards the end of a grid of `steps` steps.
    pub(super) fn lowers_order(&self, steps: usize) -> bool {
        self.lower_order_final && self.lower_order_below.is_none_or(|below| steps < below)
    }

    /// The spacing that was given, or else the default of the path.
    pub(super) fn grid_spacing(&self, curve: &PathCurve) -> GridSpacing {
        self.schedule
            .unwrap_or_else(|| GridSpacing::default_for(curve.path()))
    }

    /// The number of steps of the grid, without the final denoising step.
    pub fn intervals(&self, curve: &PathCurve) -> usize {
        if self.grid_spacing(curve) == GridSpacing::Karras {
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
        let karras = self.grid_spacing(curve) == GridSpacing::Karras;
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
        let mut times = grid::grid_times(
            curve,
            self.grid_spacing(curve),
            self.intervals(curve),
            self.rho,
        )?;
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
    /// Fails if a parameter is out of range or not defined on this path. The message names the key
    /// and says what is expected.
    pub fn points(&self, context: &SamplerContext) -> Result<Vec<PathPoint>, String> {
        if self.stride {
            return Err(
                "stride is true, but the steps of this sampler follow each other; only ddim, ddpm \
                 and euler-ancestral allow it"
                    .to_owned(),
            );
        }
        timesteps::grid_points(self, context.curve)
    }

    /// The two ends of every step of a one-step sampler. With `stride` a step may end at another
    /// point than that at which the next one begins.
    ///
    /// # Errors
    /// Fails as [`SamplerSchedule::points`] does.
    pub fn step_ends(
        &self,
        context: &SamplerContext,
    ) -> Result<Vec<(PathPoint, PathPoint)>, String> {
        if self.stride {
            return timesteps::strided_steps(self, context.curve);
        }
        let points = self.points(context)?;
        Ok(points.windows(2).map(|pair| (pair[0], pair[1])).collect())
    }
}
