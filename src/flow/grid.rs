//! Grids of times between the two ends of a path.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::path::{PathCurve, ProbabilityPath};

/// The spacing of the times of fixed steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[("log-snr", &["logsnr", "lambda", "exponential"])]))]
pub enum GridSpacing {
    /// Steps of equal length in the card's own time.
    Uniform,
    /// Steps of equal length in (σ/α)^(1/ρ), with ρ = 7 by default (Karras et al. 2022, Eq. 5).
    Karras,
    /// Steps of equal length in ln(α/σ), half the logarithm of the signal-to-noise ratio.
    LogSnr,
}

crate::registry::describe_kinds! { GridSpacing {
    "uniform" {
        what: "Steps of equal length in the card's own time.",
        when: "Flow-matching paths; the default except for `edm` and `ve`.",
        source: "",
    },
    "karras" {
        what: "Steps of equal length in (σ/α)^(1/ρ), with ρ = 7.",
        when: "Paths `edm` and `ve`, whose default it is.",
        source: "Karras et al. 2022, arXiv:2206.00364",
    },
    "log-snr" {
        what: "Steps of equal length in ln(α/σ), half the logarithm of the signal-to-noise ratio.",
        when: "Flows that are stiff near the data.",
        source: "Lu et al. 2022, arXiv:2206.00927",
    },
} }

impl GridSpacing {
    /// The spacing of a path for which none is given: Karras for `edm` and `ve`, uniform in the
    /// card's time for all others.
    pub fn default_for(path: &ProbabilityPath) -> GridSpacing {
        match path {
            ProbabilityPath::Edm { .. } | ProbabilityPath::Ve { .. } => GridSpacing::Karras,
            _ => GridSpacing::Uniform,
        }
    }

    /// Returns the name of the spacing in configs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            GridSpacing::Uniform => "uniform",
            GridSpacing::Karras => "karras",
            GridSpacing::LogSnr => "log-snr",
        }
    }
}

/// Returns `steps` + 1 times from the data end to the prior end; both ends are included exactly.
/// Only [`GridSpacing::Karras`] uses `rho`.
///
/// # Errors
/// Fails if the spacing is not defined at an end of the path, because σ = 0 or α = 0 there.
pub fn grid_times(
    curve: &PathCurve,
    spacing: GridSpacing,
    steps: usize,
    rho: f64,
) -> Result<Vec<f64>, String> {
    let (start, end) = (curve.data_end(), curve.prior_end());
    let ratio = |t: f64| {
        let s = curve.at(t);
        s.sigma / s.alpha
    };
    let (first, last) = (ratio(start), ratio(end));
    if spacing != GridSpacing::Uniform && !(first > 0.0 && last.is_finite()) {
        return Err(format!(
            "grid: {} needs sigma > 0 at the data end and alpha > 0 at the prior end, but \
             sigma/alpha is {first} and {last} there; use `uniform`, or cut the path off with \
             t_min and t_max",
            spacing.as_str()
        ));
    }
    let at = |u: f64| match spacing {
        GridSpacing::Uniform => start + u * (end - start),
        GridSpacing::Karras => {
            let (a, b) = (first.powf(1.0 / rho), last.powf(1.0 / rho));
            curve.time_of_ratio((a + u * (b - a)).powf(rho))
        }
        GridSpacing::LogSnr => {
            curve.time_of_ratio((first.ln() + u * (last.ln() - first.ln())).exp())
        }
    };
    let mut grid: Vec<f64> = (0..=steps).map(|i| at(i as f64 / steps as f64)).collect();
    grid[0] = start;
    grid[steps] = end;
    Ok(grid)
}

/// The name of the states that a method visits over a grid, whatever the number of steps. A solver
/// and a sampler of one trajectory with as many evaluations take the same steps.
pub fn trajectory_name(method: &str, spacing: Option<GridSpacing>) -> String {
    match spacing {
        Some(spacing) => format!("{method} over {}", spacing.as_str()),
        None => method.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::path::ProbabilityPath;

    #[test]
    fn grid_times_are_monotone_and_include_both_ends() {
        for path in ProbabilityPath::defaults() {
            let curve = path.curve().expect("defaults are right");
            for spacing in [
                GridSpacing::Uniform,
                GridSpacing::Karras,
                GridSpacing::LogSnr,
            ] {
                let Ok(grid) = grid_times(&curve, spacing, 17, 7.0) else {
                    assert!(path.kind() == "flow-matching", "{path:?} {spacing:?}");
                    continue;
                };
                assert_eq!((grid[0], grid[17]), (curve.data_end(), curve.prior_end()));
                let direction = (grid[17] - grid[0]).signum();
                assert!(
                    grid.windows(2).all(|w| (w[1] - w[0]) * direction > 0.0),
                    "{path:?} {spacing:?}"
                );
            }
        }
    }

    #[test]
    fn karras_matches_its_formula_on_edm() {
        let curve = ProbabilityPath::Edm {
            sigma_min: 0.002,
            sigma_max: 80.0,
        }
        .curve()
        .expect("right");
        let grid = grid_times(&curve, GridSpacing::Karras, 4, 7.0).expect("defined");
        let (a, b) = (0.002f64.powf(1.0 / 7.0), 80f64.powf(1.0 / 7.0));
        for (i, t) in grid.iter().enumerate() {
            let want = (a + i as f64 / 4.0 * (b - a)).powf(7.0);
            assert!((t - want).abs() <= 1e-12 * want, "{t} {want}");
        }
    }
}
