//! Where a sampler stands on the path, from the prior end to the data end.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Point, Setting, Step};
use crate::flow::grid::{self, Spacing};
use crate::flow::path::{Curve, Path};
use crate::registry;

/// Where a sampler stands on the path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Karras: N points, N − 1 steps; log-snr and uniform: N steps.
    pub steps: usize,
    /// Karras for edm and ve, uniform in the card's time otherwise, unless named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Spacing>,
    pub rho: f64,
    /// Multistep samplers lower their order towards the end of the grid, so that no difference is
    /// extrapolated over the last, longest steps in λ; one-step samplers have no order to lower.
    pub lower_order_final: bool,
    /// Ends with x ← E\[x₀ | x\] at the data end: one evaluation more.
    pub denoise_to_zero: bool,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule {
            steps: 18,
            schedule: None,
            rho: 7.0,
            lower_order_final: true,
            denoise_to_zero: false,
        }
    }
}

impl Schedule {
    fn spacing(&self, curve: &Curve) -> Spacing {
        self.schedule.unwrap_or(match curve.path() {
            Path::Edm { .. } | Path::Ve { .. } => Spacing::Karras,
            _ => Spacing::Uniform,
        })
    }

    /// Steps of the grid, the last denoising not counted.
    pub fn intervals(&self, curve: &Curve) -> usize {
        if self.spacing(curve) == Spacing::Karras {
            self.steps.saturating_sub(1)
        } else {
            self.steps
        }
    }

    /// Times from the prior end to the data end.
    ///
    /// # Errors
    /// A sentence with the key and what would be right.
    pub fn times(&self, curve: &Curve) -> Result<Vec<f64>, String> {
        let karras = self.spacing(curve) == Spacing::Karras;
        let least = if karras { 2 } else { 1 };
        let why = if karras && self.steps < 2 {
            " (a karras schedule of N points has N - 1 steps)"
        } else {
            ""
        };
        registry::within("steps", self.steps, least, 1_000_000).map_err(|e| format!("{e}{why}"))?;
        if !(self.rho.is_finite() && self.rho > 0.0) {
            return Err(format!("rho is {}, expected a number above 0", self.rho));
        }
        let mut times = grid::times(curve, self.spacing(curve), self.intervals(curve), self.rho)?;
        times.reverse();
        Ok(times)
    }

    /// The denoising at the end, where it is asked for.
    pub fn denoising(&self, points: &[Point]) -> Option<Step> {
        points
            .last()
            .filter(|_| self.denoise_to_zero)
            .map(|last| Step::denoise(*last))
    }

    /// Points from the prior end to the data end.
    ///
    /// # Errors
    /// As [`Schedule::times`].
    pub fn points(&self, on: &Setting) -> Result<Vec<Point>, String> {
        Ok(self
            .times(on.curve)?
            .into_iter()
            .map(|t| Point::on(on.curve, t))
            .collect())
    }
}
