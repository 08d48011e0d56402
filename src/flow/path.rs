//! Probability paths x_t = α(t) x₀ + σ(t) ε: the coefficients α and σ with their derivatives.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::betas::DiscreteTable;
pub use super::betas::{Betas, IndexInterpolation};
pub use super::coefficients::PathCoefficients;
use super::coefficients::variance_preserving;

/// A probability path x_t = α(t) x₀ + σ(t) ε with its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(transform = crate::registry::Aliases(&[("ve", &["vesde", "ve-sde", "smld"]), ("vp", &["vpsde", "vp-sde"]), ("sub-vp", &["subvp", "subvpsde", "sub-vpsde", "sub-vp-sde"]), ("flow-matching", &["flow", "ot", "rectified-flow", "linear"]), ("discrete", &["ddpm"])]))]
pub enum ProbabilityPath {
    /// α = 1 and σ = t (Karras et al. 2022). The time is σ, from `sigma_min` to `sigma_max`.
    Edm {
        /// σ at the data end (default: 0.002).
        #[serde(default = "d::edm_min")]
        sigma_min: f64,
        /// σ at the prior end (default: 80).
        #[serde(default = "d::edm_max")]
        sigma_max: f64,
    },
    /// The variance-exploding path (Song et al. 2021): α = 1 and σ = σ_min·(σ_max/σ_min)^t, with t
    /// from 0 to 1.
    Ve {
        /// σ at the data end (default: 0.01).
        #[serde(default = "d::ve_min")]
        sigma_min: f64,
        /// σ at the prior end (default: 50).
        #[serde(default = "d::ve_max")]
        sigma_max: f64,
    },
    /// The variance-preserving path (Song et al. 2021) with β linear in time:
    /// ln α = −t²·(β_max − β_min)/4 − t·β_min/2 and σ² = 1 − α², with t from `t_min` to 1.
    Vp {
        /// β at time 0 (default: 0.1).
        #[serde(default = "d::beta_min")]
        beta_min: f64,
        /// β at time 1 (default: 20).
        #[serde(default = "d::beta_max")]
        beta_max: f64,
        /// The time of the data end (default: 1e-5).
        #[serde(default = "d::t_min")]
        t_min: f64,
    },
    /// The sub-VP path (Song et al. 2021): α as on the path `vp`, and σ = 1 − α².
    SubVp {
        /// β at time 0 (default: 0.1).
        #[serde(default = "d::beta_min")]
        beta_min: f64,
        /// β at time 1 (default: 20).
        #[serde(default = "d::beta_max")]
        beta_max: f64,
        /// The time of the data end (default: 1e-5).
        #[serde(default = "d::t_min")]
        t_min: f64,
    },
    /// The cosine path (Nichol & Dhariwal 2021): α = cos(π/2·(t + s)/(1 + s)) / cos(π/2·s/(1 + s))
    /// and σ² = 1 − α², with t from `t_min` to `t_max`.
    Cosine {
        /// The offset s of the cosine (default: 0.008).
        #[serde(default = "d::cosine_s")]
        s: f64,
        /// The time of the data end (default: 1e-5).
        #[serde(default = "d::t_min")]
        t_min: f64,
        /// The time of the prior end (default: 0.9946, as in DPM-Solver). It must be below 1,
        /// because α is 0 at time 1 and a noise prediction does not determine the denoiser there.
        #[serde(default = "d::cosine_max")]
        t_max: f64,
    },
    /// The straight path of flow matching (Lipman et al. 2023), with t from `t_min` to `t_max`.
    FlowMatching {
        /// The time of the data: 0 (α = 1 − t, σ = t) or 1 (α = t, σ = 1 − t). The default is 0.
        #[serde(default)]
        data_at: u8,
        /// The lowest time (default: 0).
        #[serde(default)]
        t_min: f64,
        /// The highest time (default: 1).
        #[serde(default = "d::one")]
        t_max: f64,
    },
    /// The path of DDPM (Ho et al. 2020) with `steps` discrete times. Between them ln α is
    /// interpolated linearly, as in DPM-Solver, unless `interpolation` says otherwise. The time is
    /// t = (index + 1)/`steps`.
    Discrete {
        /// The β schedule (default: linear from 1e-4 to 0.02).
        #[serde(default)]
        betas: Betas,
        /// The number of discrete times (default: 1000).
        #[serde(default = "d::steps")]
        steps: usize,
        /// Whether √ᾱ is shifted and scaled so that it is 0 at the last index, as by
        /// `rescale_betas_zero_snr` of diffusers (Lin et al. 2024). Default: false. A prediction of
        /// noise then determines no clean data at the last index.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        zero_terminal_snr: bool,
        /// The value of ᾱ = α² at the last index, in the place of the one that the betas give.
        /// Schedulers of diffusers that work in σ/α take 2⁻²⁴ = 5.960464477539063e-8 in the place
        /// of the 0 of `zero_terminal_snr`. Default: the value of the betas.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_alpha_bar: Option<f64>,
        /// What is linear in the index between two discrete times (default: `log-alpha`).
        #[serde(default, skip_serializing_if = "IndexInterpolation::is_default")]
        interpolation: IndexInterpolation,
    },
}

crate::registry::describe_kinds! { ProbabilityPath {
    "edm" {
        what: "α = 1 and σ = t: the time is the noise level.",
        when: "Networks of EDM.",
        source: "Karras et al. 2022, arXiv:2206.00364",
    },
    "ve" {
        what: "The variance-exploding path, α = 1 and σ growing geometrically.",
        when: "Networks of score matching with Langevin dynamics (SMLD, NCSN).",
        source: "Song et al. 2021, arXiv:2011.13456",
    },
    "vp" {
        what: "The variance-preserving path with β linear in time.",
        when: "Continuous-time DDPM networks.",
        source: "Song et al. 2021, arXiv:2011.13456",
    },
    "sub-vp" {
        what: "The variance-preserving path with smaller σ.",
        when: "Networks that were trained on it.",
        source: "Song et al. 2021, arXiv:2011.13456",
    },
    "cosine" {
        what: "The variance-preserving path whose α² follows a cosine.",
        when: "Networks with the cosine schedule in continuous time.",
        source: "Nichol & Dhariwal 2021, arXiv:2102.09672",
    },
    "flow-matching" {
        what: "x_t is the line between noise and data.",
        when: "Flow matching and rectified flows.",
        source: "Lipman et al. 2023, arXiv:2210.02747",
    },
    "discrete" {
        what: "A table of noise levels by whole steps.",
        when: "DDPM networks and pipelines of diffusers, which count steps.",
        source: "Ho et al. 2020, arXiv:2006.11239",
    },
} }

/// The default parameters of the paths.
mod d {
    /// σ at the data end of an `edm` path.
    pub(super) fn edm_min() -> f64 {
        0.002
    }
    /// σ at the prior end of an `edm` path.
    pub(super) fn edm_max() -> f64 {
        80.0
    }
    /// σ at the data end of a `ve` path.
    pub(super) fn ve_min() -> f64 {
        0.01
    }
    /// σ at the prior end of a `ve` path.
    pub(super) fn ve_max() -> f64 {
        50.0
    }
    /// β at time 0 of a `vp` or `sub-vp` path.
    pub(super) fn beta_min() -> f64 {
        0.1
    }
    /// β at time 1 of a `vp` or `sub-vp` path.
    pub(super) fn beta_max() -> f64 {
        20.0
    }
    /// The time of the data end of a `vp`, `sub-vp` or `cosine` path.
    pub(super) fn t_min() -> f64 {
        1e-5
    }
    /// The offset s of a `cosine` path.
    pub(super) fn cosine_s() -> f64 {
        0.008
    }
    /// The time of the prior end of a `cosine` path.
    pub(super) fn cosine_max() -> f64 {
        0.9946
    }
    /// The highest time of a `flow-matching` path.
    pub(super) fn one() -> f64 {
        1.0
    }
    /// The number of discrete times of a `discrete` path.
    pub(super) fn steps() -> usize {
        1000
    }
}

/// A path whose parameters are checked, with the table of α that a `discrete` path needs.
#[derive(Debug, Clone)]
pub struct PathCurve {
    path: ProbabilityPath,
    /// α at the times t_i = (i + 1)/N of a `discrete` path; empty for the others.
    table: DiscreteTable,
}

impl ProbabilityPath {
    /// Checks the parameters and returns the curve.
    ///
    /// # Errors
    /// Fails if a parameter is out of its range, or if the betas are in a file that was not read;
    /// see [`ProbabilityPath::with_betas`]. The message names the key and what is expected.
    pub fn curve(&self) -> Result<PathCurve, String> {
        self.check()?;
        let table = match self {
            ProbabilityPath::Discrete {
                betas,
                steps,
                zero_terminal_snr,
                last_alpha_bar,
                interpolation,
            } => DiscreteTable::new(
                betas,
                *steps,
                *zero_terminal_snr,
                *last_alpha_bar,
                *interpolation,
            )?,
            _ => DiscreteTable::default(),
        };
        Ok(PathCurve {
            path: self.clone(),
            table,
        })
    }

    /// The file with the betas of a `discrete` path, relative to the card's folder. `None` if the
    /// path names no file.
    pub fn betas_file(&self) -> Option<&Path> {
        match self {
            ProbabilityPath::Discrete {
                betas: Betas::File(file),
                ..
            } => Some(file),
            _ => None,
        }
    }

    /// The same path with the given values in the place of the file of its betas. A path without
    /// such a file is returned as it is.
    #[must_use]
    pub fn with_betas(&self, values: Vec<f64>) -> ProbabilityPath {
        let mut path = self.clone();
        if let ProbabilityPath::Discrete { betas, .. } = &mut path
            && matches!(betas, Betas::File(_))
        {
            *betas = Betas::Values(values);
        }
        path
    }

    /// A `discrete` path with the given betas and no further options.
    pub fn discrete(betas: Betas, steps: usize) -> ProbabilityPath {
        ProbabilityPath::Discrete {
            betas,
            steps,
            zero_terminal_snr: false,
            last_alpha_bar: None,
            interpolation: IndexInterpolation::LogAlpha,
        }
    }

    /// Returns the kind as a card names it.
    pub fn kind(&self) -> &'static str {
        match self {
            ProbabilityPath::Edm { .. } => "edm",
            ProbabilityPath::Ve { .. } => "ve",
            ProbabilityPath::Vp { .. } => "vp",
            ProbabilityPath::SubVp { .. } => "sub-vp",
            ProbabilityPath::Cosine { .. } => "cosine",
            ProbabilityPath::FlowMatching { .. } => "flow-matching",
            ProbabilityPath::Discrete { .. } => "discrete",
        }
    }

    /// Returns every kind of path with its default parameters.
    pub fn defaults() -> Vec<ProbabilityPath> {
        vec![
            ProbabilityPath::Edm {
                sigma_min: d::edm_min(),
                sigma_max: d::edm_max(),
            },
            ProbabilityPath::Ve {
                sigma_min: d::ve_min(),
                sigma_max: d::ve_max(),
            },
            ProbabilityPath::Vp {
                beta_min: d::beta_min(),
                beta_max: d::beta_max(),
                t_min: d::t_min(),
            },
            ProbabilityPath::SubVp {
                beta_min: d::beta_min(),
                beta_max: d::beta_max(),
                t_min: d::t_min(),
            },
            ProbabilityPath::Cosine {
                s: d::cosine_s(),
                t_min: d::t_min(),
                t_max: d::cosine_max(),
            },
            ProbabilityPath::FlowMatching {
                data_at: 0,
                t_min: 0.0,
                t_max: 1.0,
            },
            ProbabilityPath::FlowMatching {
                data_at: 1,
                t_min: 0.0,
                t_max: 1.0,
            },
            ProbabilityPath::discrete(Betas::default(), d::steps()),
        ]
    }

    /// Checks that every parameter is in its range.
    ///
    /// # Errors
    /// Fails if one is not. The message names the key and what is expected.
    fn check(&self) -> Result<(), String> {
        let ordered = |low: (&str, f64), high: (&str, f64), floor: f64| {
            let fine = low.1 >= floor && low.1 < high.1 && high.1.is_finite();
            fine.then_some(()).ok_or_else(|| {
                format!(
                    "path: need {floor} <= {} < {} and both finite, got {} and {}",
                    low.0, high.0, low.1, high.1
                )
            })
        };
        match self {
            ProbabilityPath::Edm {
                sigma_min,
                sigma_max,
            }
            | ProbabilityPath::Ve {
                sigma_min,
                sigma_max,
            } => ordered(
                ("sigma_min", *sigma_min),
                ("sigma_max", *sigma_max),
                f64::MIN_POSITIVE,
            ),
            ProbabilityPath::Vp {
                beta_min,
                beta_max,
                t_min,
            }
            | ProbabilityPath::SubVp {
                beta_min,
                beta_max,
                t_min,
            } => {
                ordered(("beta_min", *beta_min), ("beta_max", *beta_max), 0.0)?;
                ordered(("t_min", *t_min), ("1", 1.0), f64::MIN_POSITIVE)
            }
            ProbabilityPath::Cosine { s, t_min, t_max } => {
                ordered(("s", *s), ("1", 1.0), 0.0)?;
                ordered(("t_min", *t_min), ("t_max", *t_max), 0.0)?;
                ordered(("t_max", *t_max), ("1", 1.0), 0.0)
            }
            ProbabilityPath::FlowMatching {
                data_at,
                t_min,
                t_max,
            } => {
                if *data_at > 1 {
                    return Err(format!("path: data_at is {data_at}, expected 0 or 1"));
                }
                ordered(("t_min", *t_min), ("t_max", *t_max), 0.0)?;
                ordered(("t_min", *t_min), ("1", 1.0), 0.0)?;
                (*t_max <= 1.0)
                    .then_some(())
                    .ok_or_else(|| format!("path: t_max is {t_max}, expected at most 1"))
            }
            // The betas are checked where their table is made.
            ProbabilityPath::Discrete { .. } => Ok(()),
        }
    }
}

impl PathCurve {
    /// The path with its parameters.
    pub fn path(&self) -> &ProbabilityPath {
        &self.path
    }

    /// Returns the time of the data end, at which a likelihood's integral begins.
    pub fn data_end(&self) -> f64 {
        match self.path {
            ProbabilityPath::Edm { sigma_min, .. } => sigma_min,
            ProbabilityPath::Ve { .. } => 0.0,
            ProbabilityPath::Vp { t_min, .. }
            | ProbabilityPath::SubVp { t_min, .. }
            | ProbabilityPath::Cosine { t_min, .. } => t_min,
            ProbabilityPath::FlowMatching {
                data_at,
                t_min,
                t_max,
            } => {
                if data_at == 0 {
                    t_min
                } else {
                    t_max
                }
            }
            ProbabilityPath::Discrete { steps, .. } => 1.0 / steps as f64,
        }
    }

    /// Returns the time of the prior end, at which the state follows the prior approximately.
    pub fn prior_end(&self) -> f64 {
        match self.path {
            ProbabilityPath::Edm { sigma_max, .. } => sigma_max,
            ProbabilityPath::Cosine { t_max, .. } => t_max,
            ProbabilityPath::FlowMatching {
                data_at,
                t_min,
                t_max,
            } => {
                if data_at == 0 {
                    t_max
                } else {
                    t_min
                }
            }
            _ => 1.0,
        }
    }

    /// Returns the prior's standard deviation if the card names none.
    pub fn prior_std(&self) -> f64 {
        match self.path {
            ProbabilityPath::Edm { sigma_max, .. } | ProbabilityPath::Ve { sigma_max, .. } => {
                sigma_max
            }
            _ => 1.0,
        }
    }

    /// Returns the index t·N − 1 that a discrete-time network gets as its time. The index is 0 at
    /// the first β and fractional between two discrete times. On other paths it is `t` itself.
    pub fn discrete_time_index(&self, t: f64) -> f64 {
        match self.path {
            ProbabilityPath::Discrete { steps, .. } => t * steps as f64 - 1.0,
            _ => t,
        }
    }

    /// Returns α, σ and their derivatives at time `t`.
    pub fn at(&self, t: f64) -> PathCoefficients {
        match self.path {
            ProbabilityPath::Edm { .. } => PathCoefficients {
                alpha: 1.0,
                sigma: t,
                alpha_dot: 0.0,
                sigma_dot: 1.0,
            },
            ProbabilityPath::Ve {
                sigma_min,
                sigma_max,
            } => {
                let growth = (sigma_max / sigma_min).ln();
                let sigma = sigma_min * (growth * t).exp();
                PathCoefficients {
                    alpha: 1.0,
                    sigma,
                    alpha_dot: 0.0,
                    sigma_dot: growth * sigma,
                }
            }
            ProbabilityPath::Vp {
                beta_min, beta_max, ..
            } => {
                let (log_alpha, slope) = vp_log_alpha(beta_min, beta_max, t);
                variance_preserving(log_alpha, slope)
            }
            ProbabilityPath::SubVp {
                beta_min, beta_max, ..
            } => {
                let (log_alpha, slope) = vp_log_alpha(beta_min, beta_max, t);
                let alpha = log_alpha.exp();
                PathCoefficients {
                    alpha,
                    sigma: -(2.0 * log_alpha).exp_m1(),
                    alpha_dot: slope * alpha,
                    sigma_dot: -2.0 * slope * alpha * alpha,
                }
            }
            ProbabilityPath::Cosine { s, .. } => {
                let angle = |t: f64| (t + s) / (1.0 + s) * std::f64::consts::FRAC_PI_2;
                let log_alpha = angle(t).cos().ln() - angle(0.0).cos().ln();
                let slope = -angle(t).tan() * std::f64::consts::FRAC_PI_2 / (1.0 + s);
                variance_preserving(log_alpha, slope)
            }
            ProbabilityPath::FlowMatching { data_at: 0, .. } => PathCoefficients {
                alpha: 1.0 - t,
                sigma: t,
                alpha_dot: -1.0,
                sigma_dot: 1.0,
            },
            ProbabilityPath::FlowMatching { .. } => PathCoefficients {
                alpha: t,
                sigma: 1.0 - t,
                alpha_dot: 1.0,
                sigma_dot: -1.0,
            },
            ProbabilityPath::Discrete { .. } => self.table.at(t),
        }
    }

    /// Returns the time at which σ/α = `ratio`, clamped to the path's two ends.
    ///
    /// σ/α is monotone on every path, so bisection finds the time to floating-point precision.
    pub fn time_of_ratio(&self, ratio: f64) -> f64 {
        let (mut low, mut high) = (self.data_end(), self.prior_end());
        let excess = |t: f64| {
            let s = self.at(t);
            s.sigma - ratio * s.alpha
        };
        if excess(low) >= 0.0 {
            return low;
        }
        if excess(high) <= 0.0 {
            return high;
        }
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            if middle == low || middle == high {
                break;
            }
            if excess(middle) < 0.0 {
                low = middle
            } else {
                high = middle
            }
        }
        0.5 * (low + high)
    }
}

/// Returns ln α of the variance-preserving path with linear β, and its derivative.
fn vp_log_alpha(beta_min: f64, beta_max: f64, t: f64) -> (f64, f64) {
    let gap = beta_max - beta_min;
    (
        -0.25 * t * t * gap - 0.5 * t * beta_min,
        -0.5 * (beta_min + t * gap),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curves() -> Vec<PathCurve> {
        ProbabilityPath::defaults()
            .iter()
            .map(|p| p.curve().expect("defaults are right"))
            .collect()
    }

    #[test]
    fn derivatives_agree_with_central_differences() {
        for curve in curves() {
            for u in [0.21, 0.5003, 0.7901] {
                let t = curve.data_end() + u * (curve.prior_end() - curve.data_end());
                let h = 1e-7 * (curve.prior_end() - curve.data_end()).abs();
                let (s, lo, hi) = (curve.at(t), curve.at(t - h), curve.at(t + h));
                let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 * (1.0 + a.abs());
                assert!(
                    close(s.alpha_dot, (hi.alpha - lo.alpha) / (2.0 * h)),
                    "{:?} {t}",
                    curve.path
                );
                assert!(
                    close(s.sigma_dot, (hi.sigma - lo.sigma) / (2.0 * h)),
                    "{:?} {t}",
                    curve.path
                );
            }
        }
    }

    #[test]
    fn time_of_ratio_inverts_sigma_over_alpha() {
        for curve in curves() {
            for u in [0.0, 0.03, 0.4, 0.97, 1.0] {
                let t = curve.data_end() + u * (curve.prior_end() - curve.data_end());
                let s = curve.at(t);
                let back = curve.time_of_ratio(s.sigma / s.alpha);
                assert!(
                    (back - t).abs() <= 1e-9 * t.abs().max(1.0),
                    "{:?} {t} {back}",
                    curve.path
                );
            }
        }
    }

    #[test]
    fn discrete_alpha_matches_cumulative_product() {
        let curve = ProbabilityPath::discrete(Betas::Linear([1e-4, 0.02]), 1000)
            .curve()
            .expect("right");
        let product: f64 = (0..=500)
            .map(|i| 1.0 - (1e-4 + (0.02 - 1e-4) * i as f64 / 999.0))
            .product();
        let t = 501.0 / 1000.0;
        assert!((curve.at(t).alpha - product.sqrt()).abs() < 1e-12);
        assert!((curve.discrete_time_index(t) - 500.0).abs() < 1e-9);
    }

    #[test]
    fn invalid_path_parameters_are_named() {
        let refused = |path: ProbabilityPath| path.curve().err().unwrap_or_default();
        assert!(
            refused(ProbabilityPath::Edm {
                sigma_min: 3.0,
                sigma_max: 1.0
            })
            .contains("sigma_min")
        );
        assert!(
            refused(ProbabilityPath::Edm {
                sigma_min: 0.0,
                sigma_max: 1.0
            })
            .contains("sigma_min")
        );
        assert!(
            refused(ProbabilityPath::FlowMatching {
                data_at: 2,
                t_min: 0.0,
                t_max: 1.0
            })
            .contains("data_at")
        );
        assert!(
            refused(ProbabilityPath::Vp {
                beta_min: 0.1,
                beta_max: f64::NAN,
                t_min: 1e-5
            })
            .contains("beta_max")
        );
    }
}
