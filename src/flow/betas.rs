//! The β schedules of discrete (DDPM) paths, and the table of α that follows from them.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::coefficients::{PathCoefficients, variance_preserving};

/// The β schedule of a discrete (DDPM) path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(transform = crate::registry::Aliases(&[("squaredcos", &["squaredcos-cap-v2", "cosine"])]))]
pub enum Betas {
    /// β is equally spaced from the first to the last value.
    Linear([f64; 2]),
    /// √β is equally spaced from the first to the last value, as for latent diffusion models.
    ScaledLinear([f64; 2]),
    /// ᾱ is a squared cosine (Nichol & Dhariwal 2021), and β is at most 0.999.
    Squaredcos,
    /// β goes from 1e-4 to 0.02 as the logistic function does between −6 and 6.
    Sigmoid,
    /// A list with every β.
    Values(Vec<f64>),
    /// A `.npy` file with every β, relative to the card's folder. The name alone says the same.
    File(PathBuf),
}

crate::registry::describe_kinds! { Betas {
    "linear" {
        what: "β from the first to the second number in equal steps.",
        when: "Networks of DDPM.",
        source: "Ho et al. 2020, arXiv:2006.11239",
    },
    "scaled-linear" {
        what: "√β from one root to the other in equal steps.",
        when: "Stable Diffusion and other latent models.",
        source: "Rombach et al. 2022, arXiv:2112.10752",
    },
    "squaredcos" {
        what: "The squared cosine schedule of ᾱ, in whole steps.",
        when: "Networks of improved-diffusion with the cosine schedule.",
        source: "Nichol & Dhariwal 2021, arXiv:2102.09672",
    },
    "sigmoid" {
        what: "β along a sigmoid.",
        when: "Networks that were trained on it.",
        source: "Xu et al. 2022, arXiv:2203.02923",
    },
    "values" {
        what: "The betas themselves, as a list.",
        when: "A schedule that has no name here.",
        source: "",
    },
    "file" {
        what: "The betas themselves, in a file.",
        when: "A long schedule that has no name here.",
        source: "",
    },
} }

impl Default for Betas {
    fn default() -> Self {
        Betas::Linear([1e-4, 0.02])
    }
}

/// The quantity that is linear in the index between two discrete times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum IndexInterpolation {
    /// ln α, as in DPM-Solver's code.
    #[default]
    LogAlpha,
    /// ln(σ/α), as k-diffusion and diffusers map a noise level to an index.
    LogSigma,
    /// σ/α, as diffusers maps a fractional index to a noise level.
    Sigma,
}

impl IndexInterpolation {
    /// Whether this is the default, which is not written.
    pub(super) fn is_default(&self) -> bool {
        *self == IndexInterpolation::default()
    }
}

impl Betas {
    /// The betas that go from the first to the last value as the logistic function does between −6
    /// and 6, as a list. `steps` is at least 2.
    pub fn sigmoid_between(ends: [f64; 2], steps: usize) -> Betas {
        Betas::Values(sigmoid_values(ends, steps))
    }

    /// Returns every β of `steps` discrete times.
    ///
    /// # Errors
    /// Fails if the numbers cannot be those of a path, or if they are in a file that was not read.
    fn values(&self, steps: usize) -> Result<Vec<f64>, String> {
        if !(2..=1_000_000).contains(&steps) {
            return Err(
                "path: need 0 < first beta <= last beta < 1 and 2 to 1000000 steps".to_owned(),
            );
        }
        let line = |[a, b]: [f64; 2], i: usize| a + (b - a) * i as f64 / (steps - 1) as f64;
        let all = |beta: &dyn Fn(usize) -> f64| (0..steps).map(beta).collect();
        let check_ends = |[first, last]: [f64; 2]| {
            (first > 0.0 && first <= last && last < 1.0)
                .then_some(())
                .ok_or_else(|| {
                    "path: need 0 < first beta <= last beta < 1 and 2 to 1000000 steps".to_owned()
                })
        };
        match self {
            Betas::Linear(ends) => {
                check_ends(*ends)?;
                Ok(all(&|i| line(*ends, i)))
            }
            Betas::ScaledLinear(ends) => {
                check_ends(*ends)?;
                Ok(all(&|i| line(ends.map(f64::sqrt), i).powi(2)))
            }
            Betas::Squaredcos => {
                let bar = |i: usize| {
                    let t = i as f64 / steps as f64;
                    ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2)
                        .cos()
                        .powi(2)
                };
                Ok(all(&|i| (1.0 - bar(i + 1) / bar(i)).min(0.999)))
            }
            Betas::Sigmoid => Ok(sigmoid_values([1e-4, 0.02], steps)),
            Betas::Values(values) => check_values(values, steps).map(|()| values.clone()),
            Betas::File(file) => Err(format!(
                "path.betas: {} was not read; betas in a file are read when a card is opened",
                file.display()
            )),
        }
    }
}

/// The `steps` betas that go from `first` to `last` as the logistic function does between −6 and 6.
fn sigmoid_values([first, last]: [f64; 2], steps: usize) -> Vec<f64> {
    let x = |i: usize| -6.0 + 12.0 * i as f64 / (steps - 1) as f64;
    (0..steps)
        .map(|i| (last - first) / (1.0 + (-x(i)).exp()) + first)
        .collect()
}

/// Checks a list of betas.
///
/// # Errors
/// Fails if the list has another length than `steps`, or if a β is not between 0 and 1. The last
/// one may be 1.
fn check_values(values: &[f64], steps: usize) -> Result<(), String> {
    if values.len() != steps {
        return Err(format!(
            "path: betas are {} numbers, but steps is {steps}; expected as many of both",
            values.len()
        ));
    }
    let last = values.len() - 1;
    let wrong = |(i, beta): &(usize, &f64)| {
        !(**beta > 0.0 && (**beta < 1.0 || (*i == last && **beta == 1.0)))
    };
    match values.iter().enumerate().find(wrong) {
        Some((i, beta)) => Err(format!(
            "path: beta {i} is {beta}, expected a number between 0 and 1 (the last may be 1)"
        )),
        None => Ok(()),
    }
}

/// The table of a discrete path: α at every index, and what is interpolated between two of them.
#[derive(Debug, Clone, Default)]
pub(super) struct DiscreteTable {
    /// ln α at every index. The last one is −∞ if α is 0 there.
    log_alpha: Vec<f64>,
    /// What is linear between two indices.
    interpolation: IndexInterpolation,
}

impl DiscreteTable {
    /// Computes the table.
    ///
    /// # Errors
    /// Fails if a parameter is out of its range. The message names the key and what is expected.
    pub(super) fn new(
        betas: &Betas,
        steps: usize,
        zero_terminal_snr: bool,
        last_alpha_bar: Option<f64>,
        interpolation: IndexInterpolation,
    ) -> Result<DiscreteTable, String> {
        let mut sum = 0.0;
        let mut log_alpha: Vec<f64> = betas
            .values(steps)?
            .into_iter()
            .map(|beta| {
                sum += 0.5 * (-beta).ln_1p();
                sum
            })
            .collect();
        if zero_terminal_snr {
            rescale_to_zero_terminal_snr(&mut log_alpha);
        }
        if let Some(bar) = last_alpha_bar {
            let before = (2.0 * log_alpha[steps - 2]).exp();
            if !(bar > 0.0 && bar < before) {
                return Err(format!(
                    "path: last_alpha_bar is {bar}, expected a number above 0 and below {before}, \
                     the value at the index before"
                ));
            }
            log_alpha[steps - 1] = 0.5 * bar.ln();
        }
        Ok(DiscreteTable {
            log_alpha,
            interpolation,
        })
    }

    /// Returns α, σ and their derivatives at time `t` = (index + 1)/N.
    ///
    /// A last α of 0 has neither ln α nor σ/α. Up to it, α itself is linear.
    pub(super) fn at(&self, t: f64) -> PathCoefficients {
        let n = self.log_alpha.len() as f64;
        let i = ((t * n - 1.0).floor().max(0.0) as usize).min(self.log_alpha.len() - 2);
        let (low, high) = (self.log_alpha[i], self.log_alpha[i + 1]);
        let share = t * n - (i + 1) as f64;
        if high == f64::NEG_INFINITY {
            let before = low.exp();
            let alpha = before * (1.0 - share);
            let (alpha_dot, sigma) = (-before * n, (1.0 - alpha * alpha).sqrt());
            return PathCoefficients {
                alpha,
                sigma,
                alpha_dot,
                sigma_dot: -alpha * alpha_dot / sigma,
            };
        }
        match self.interpolation {
            IndexInterpolation::LogAlpha => {
                let slope = (high - low) * n;
                variance_preserving(low + slope * (t - (i + 1) as f64 / n), slope)
            }
            IndexInterpolation::LogSigma => {
                let (a, b) = (log_ratio(low), log_ratio(high));
                let ratio = (a + (b - a) * share).exp();
                from_noise_level(ratio, ratio * (b - a) * n)
            }
            IndexInterpolation::Sigma => {
                let (a, b) = (log_ratio(low).exp(), log_ratio(high).exp());
                from_noise_level(a + (b - a) * share, (b - a) * n)
            }
        }
    }
}

/// ln(σ/α) of a variance-preserving state, from ln α.
fn log_ratio(log_alpha: f64) -> f64 {
    0.5 * (-2.0 * log_alpha).exp_m1().ln()
}

/// Returns the coefficients with α² + σ² = 1 from σ/α and its derivative.
fn from_noise_level(ratio: f64, slope: f64) -> PathCoefficients {
    let alpha = 1.0 / (1.0 + ratio * ratio).sqrt();
    PathCoefficients {
        alpha,
        sigma: ratio * alpha,
        alpha_dot: -ratio * slope * alpha.powi(3),
        sigma_dot: slope * alpha.powi(3),
    }
}

/// Shifts α so that the last one is 0, and scales it so that the first one stays (Lin et al. 2024,
/// Algorithm 1).
fn rescale_to_zero_terminal_snr(log_alpha: &mut [f64]) {
    let (first, last) = (log_alpha[0].exp(), log_alpha[log_alpha.len() - 1].exp());
    let scale = first / (first - last);
    for value in &mut *log_alpha {
        *value = ((value.exp() - last) * scale).ln();
    }
    let end = log_alpha.len() - 1;
    log_alpha[end] = f64::NEG_INFINITY;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::path::{PathCurve, ProbabilityPath};

    fn curve(
        betas: Betas,
        zero_terminal_snr: bool,
        last_alpha_bar: Option<f64>,
        interpolation: IndexInterpolation,
    ) -> Result<PathCurve, String> {
        ProbabilityPath::Discrete {
            betas,
            steps: 1000,
            zero_terminal_snr,
            last_alpha_bar,
            interpolation,
        }
        .curve()
    }

    const SCALED: Betas = Betas::ScaledLinear([0.00085, 0.012]);

    /// Values of `alphas_cumprod` that diffusers computes in float64.
    #[test]
    fn alpha_matches_recorded_values_of_diffusers() {
        for (betas, zero, index, want) in [
            (Betas::Squaredcos, false, 0, 0.999958715775178),
            (Betas::Squaredcos, false, 500, 0.49228517244880304),
            (Betas::Squaredcos, false, 998, 2.4287669070348544e-6),
            (Betas::Sigmoid, false, 500, 0.29888762784675893),
            (SCALED, false, 999, 0.004660098513077238),
            (SCALED, true, 500, 0.24101878275731575),
        ] {
            let curve = curve(betas.clone(), zero, None, IndexInterpolation::LogAlpha);
            let at = curve.expect("right").at((index + 1) as f64 / 1000.0);
            let got = at.alpha * at.alpha;
            assert!(
                (got - want).abs() < 1e-10 * want,
                "{betas:?} {index}: {got:e} {want:e}"
            );
        }
    }

    #[test]
    fn zero_terminal_snr_ends_at_alpha_zero_and_keeps_the_first_alpha() {
        for interpolation in [
            IndexInterpolation::LogAlpha,
            IndexInterpolation::LogSigma,
            IndexInterpolation::Sigma,
        ] {
            let zero = curve(SCALED, true, None, interpolation).expect("right");
            let plain = curve(SCALED, false, None, interpolation).expect("right");
            let end = zero.at(1.0);
            assert_eq!((end.alpha, end.sigma), (0.0, 1.0));
            assert!(end.alpha_dot < 0.0 && end.alpha_dot.is_finite() && end.sigma_dot == 0.0);
            assert!((zero.at(1e-3).alpha - plain.at(1e-3).alpha).abs() < 1e-15);
            assert_eq!(zero.time_of_ratio(f64::INFINITY), 1.0);
            let diffusers = curve(SCALED, true, Some(2f64.powi(-24)), interpolation);
            let end = diffusers.expect("right").at(1.0);
            assert!((end.alpha - 2f64.powi(-12)).abs() < 1e-15);
        }
    }

    #[test]
    fn interpolations_agree_at_indices_and_have_right_derivatives() {
        let all = [
            IndexInterpolation::LogAlpha,
            IndexInterpolation::LogSigma,
            IndexInterpolation::Sigma,
        ]
        .map(|i| curve(SCALED, true, None, i).expect("right"));
        for index in [0, 1, 400, 997, 998] {
            let t = (index + 1) as f64 / 1000.0;
            for other in &all[1..] {
                let (a, b) = (all[0].at(t), other.at(t));
                assert!((a.alpha - b.alpha).abs() < 1e-13 && (a.sigma - b.sigma).abs() < 1e-13);
            }
        }
        let level = |curve: &PathCurve, index: f64| {
            let s = curve.at((index + 1.0) / 1000.0);
            s.sigma / s.alpha
        };
        let (low, high, middle) = (
            level(&all[0], 10.0),
            level(&all[0], 11.0),
            all.each_ref().map(|c| level(c, 10.5)),
        );
        assert!((middle[1] - (low * high).sqrt()).abs() < 1e-12);
        assert!((middle[2] - 0.5 * (low + high)).abs() < 1e-12);
        for curve in &all {
            for t in [0.0113, 0.5004, 0.9986, 0.9995] {
                let (s, lo, hi) = (curve.at(t), curve.at(t - 1e-7), curve.at(t + 1e-7));
                let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 * (1.0 + a.abs());
                assert!(close(s.alpha_dot, (hi.alpha - lo.alpha) / 2e-7), "{t}");
                assert!(close(s.sigma_dot, (hi.sigma - lo.sigma) / 2e-7), "{t}");
            }
        }
    }

    #[test]
    fn wrong_betas_are_refused_with_what_is_expected() {
        let refused = |betas: Betas, bar: Option<f64>| {
            curve(betas, false, bar, IndexInterpolation::LogAlpha)
                .err()
                .unwrap_or_default()
        };
        assert!(refused(Betas::Linear([0.02, 1e-4]), None).contains("first beta"));
        assert!(refused(Betas::Values(vec![0.1; 9]), None).contains("steps is 1000"));
        let mut values = vec![0.1; 1000];
        values[7] = 1.5;
        assert!(refused(Betas::Values(values), None).contains("beta 7 is 1.5"));
        assert!(refused(Betas::File("b.npy".into()), None).contains("b.npy was not read"));
        assert!(refused(SCALED, Some(0.9)).contains("last_alpha_bar"));
        let mut to_zero = vec![0.1; 1000];
        to_zero[999] = 1.0;
        let path = ProbabilityPath::discrete(Betas::Values(to_zero), 1000);
        assert_eq!(path.curve().expect("right").at(1.0).alpha, 0.0);
    }
}
