//! A limit on the step that is independent of the state's error: the step must integrate the
//! divergence of a case that is known in advance.
//!
//! With narrow data, the state can be easy and the divergence hard. Away from a narrow mode a state
//! moves on a straight line, x − αm ∝ σ, which any method follows exactly in steps of any size,
//! while the divergence is σ'/σ per dimension. An error norm on the state accepts such steps and
//! leaves an error of whole nats in the quadrature.
//!
//! The narrow case needs no network. For data N(m, c²I) the divergence per dimension is d/dt ½
//! ln(α²c² + σ²) (test case T1 of the project), and its integral is known. The quadrature error of
//! a step on this reference is therefore known before the step is taken, at no cost.
//!
//! If a divergence controls the steps, the limit only prevents the first steps from passing over
//! structure that no node has seen yet. It then applies to diffusion paths, for data as narrow as
//! the velocity at the data end shows. A flow-matching velocity has no prescribed noise schedule,
//! so there the divergence alone controls the steps.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TimeSpan;
use super::tableau::Tableau;
use super::time_change::TimeChange;
use crate::flow::path::{PathCurve, ProbabilityPath};

/// The standard deviations c of the reference data. On most paths the narrowest is the hardest. If
/// time is ln σ, the narrowest is a straight line in that variable, and each width becomes the
/// hardest as σ passes it. Structure narrower than the first width is not covered on a path that
/// starts below it; networks and paths of the field scale data to about one.
const REFERENCE_WIDTHS: [f64; 7] = [1e-3, 3e-3, 1e-2, 0.03, 0.1, 0.3, 1.0];

/// A limit on steps by the known divergence of narrow Gaussian data: `auto`, `none`, or the
/// standard deviation of the narrowest such data.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum QuadratureBoundSetting {
    /// A keyword: `auto` or `none`.
    Named(QuadratureBoundKeyword),
    /// The limit applies always, with Gaussian data of this standard deviation and wider.
    Width(f64),
}

/// The keywords that `clock:` accepts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum QuadratureBoundKeyword {
    /// On diffusion paths, the limit uses Gaussian data as narrow as the velocity at the start of
    /// the path shows, and wider. If no divergence controls the steps, it uses all widths, on every
    /// path.
    Auto,
    /// There is no limit.
    None,
}

impl Default for QuadratureBoundSetting {
    fn default() -> Self {
        QuadratureBoundSetting::Named(QuadratureBoundKeyword::Auto)
    }
}

impl QuadratureBoundSetting {
    /// Whether the setting is the default, `auto`.
    pub fn is_auto(&self) -> bool {
        *self == QuadratureBoundSetting::default()
    }

    /// Checks the setting.
    ///
    /// # Errors
    /// Fails if the width is not finite or not above 0.
    pub fn check(self) -> Result<(), String> {
        match self {
            QuadratureBoundSetting::Width(c) if !(c > 0.0 && c.is_finite()) => Err(format!(
                "clock is {c}, expected auto, none or a width above 0"
            )),
            _ => Ok(()),
        }
    }

    /// Whether the steps of this span are limited; `controlled` tells whether a divergence controls
    /// the steps.
    pub fn applies_to(self, span: TimeSpan, controlled: bool) -> bool {
        match self {
            QuadratureBoundSetting::Width(_) => true,
            QuadratureBoundSetting::Named(QuadratureBoundKeyword::None) => false,
            QuadratureBoundSetting::Named(QuadratureBoundKeyword::Auto) => {
                !(controlled && matches!(span.curve.path(), ProbabilityPath::FlowMatching { .. }))
            }
        }
    }
}

/// The narrowest reference width for a sample, from the divergence at the start of its path in `d`
/// dimensions. It is a third of the width of Gaussian data with the same divergence, because some
/// directions are narrower than the mean.
pub fn narrowest_width(
    setting: QuadratureBoundSetting,
    span: TimeSpan,
    divergence: Option<f64>,
    d: usize,
) -> f64 {
    if let QuadratureBoundSetting::Width(c) = setting {
        return c;
    }
    let (Some(divergence), s) = (divergence, span.curve.at(span.start())) else {
        return REFERENCE_WIDTHS[0];
    };
    let slope = divergence / d.max(1) as f64;
    // The equation slope = (α α' c² + σ σ')/(α² c² + σ²), solved for c².
    let square = (s.sigma * s.sigma_dot - slope * s.sigma.powi(2))
        / (slope * s.alpha.powi(2) - s.alpha * s.alpha_dot);
    let shown = square.sqrt() / 3.0;
    if span.to_prior && shown.is_finite() {
        shown.clamp(REFERENCE_WIDTHS[0], 1.0)
    } else {
        REFERENCE_WIDTHS[0]
    }
}

/// The lowest tolerance in nats. Below it, rounding in the reference dominates: near the data end,
/// σ² of some paths is known to about 1e-16, which is added to α²c².
const ROUNDING_NATS: f64 = 1e-9;

/// The reference integrals along one path, compared with the quadrature of one Runge–Kutta method.
#[derive(Debug, Clone, Copy)]
pub struct QuadratureBound<'a> {
    curve: &'a PathCurve,
    time_change: TimeChange<'a>,
    tableau: &'static Tableau,
    /// The accepted error of one step, in nats per dimension.
    tolerance: f64,
}

impl<'a> QuadratureBound<'a> {
    /// Prepares the limit for steps whose error may be `nats` in `d` dimensions together.
    pub fn new(
        span: TimeSpan<'a>,
        tableau: &'static Tableau,
        nats: f64,
        d: usize,
    ) -> QuadratureBound<'a> {
        let tolerance = (nats / d.max(1) as f64).max(ROUNDING_NATS);
        QuadratureBound {
            curve: span.curve,
            time_change: TimeChange::new(span),
            tableau,
            tolerance,
        }
    }

    /// For each width c, the value ½ ln(α²c² + σ²) and its derivative, at the value `u` of the
    /// integration variable.
    fn reference_integrals(
        &self,
        u: f64,
        widths: &[f64; REFERENCE_WIDTHS.len()],
    ) -> [(f64, f64); REFERENCE_WIDTHS.len()] {
        let t = self.time_change.time(u);
        let (s, rate) = (self.curve.at(t), self.time_change.rate(t));
        widths.map(|c| {
            let variance = (s.alpha * c).powi(2) + s.sigma * s.sigma;
            (
                0.5 * variance.ln(),
                (s.alpha * s.alpha_dot * c * c + s.sigma * s.sigma_dot) / variance * rate,
            )
        })
    }

    /// The largest quadrature error over the widths for a step from `u` to `u + h`, in units of the
    /// tolerance.
    fn quadrature_error(&self, u: f64, h: f64, widths: &[f64; REFERENCE_WIDTHS.len()]) -> f64 {
        let (first, last) = (
            self.reference_integrals(u, widths),
            self.reference_integrals(u + h, widths),
        );
        let mut errors = [0.0; REFERENCE_WIDTHS.len()];
        for (c, b) in self
            .tableau
            .c
            .iter()
            .zip(self.tableau.b)
            .filter(|(_, b)| **b != 0.0)
        {
            errors
                .iter_mut()
                .zip(self.reference_integrals(u + c * h, widths))
                .for_each(|(e, (_, slope))| *e += b * h * slope);
        }
        let gaps = errors
            .iter()
            .zip(first.iter().zip(last))
            .map(|(e, (a, b))| (e - (b.0 - a.0)).abs());
        gaps.fold(0.0, f64::max) / self.tolerance
    }

    /// Returns the step `h`, shortened if necessary until all references of width `narrowest` and
    /// wider are integrated within the tolerance.
    #[must_use]
    pub fn limit_step(&self, u: f64, mut h: f64, narrowest: f64) -> f64 {
        let widths = REFERENCE_WIDTHS.map(|c| c.max(narrowest));
        for _ in 0..100 {
            let error = self.quadrature_error(u, h, &widths);
            if error <= 1.0 || !error.is_finite() {
                break;
            }
            h *= (0.9 * error.powf(-1.0 / (self.tableau.order + 1) as f64)).max(0.2);
        }
        h
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::path::ProbabilityPath;
    use crate::solve::dop853::DOP853;
    use crate::solve::tableau::{BOSH3, DOPRI5, TSIT5};

    /// Takes steps from end to end that only the quadrature bound limits. Returns their number, and
    /// the largest error and the sum of errors for Gaussian data of width `c`, in nats per
    /// dimension.
    fn march(
        path: &ProbabilityPath,
        tableau: &'static Tableau,
        tolerance: f64,
        to_prior: bool,
        c: f64,
    ) -> (usize, f64, f64) {
        let curve = path.curve().expect("defaults are right");
        let span = TimeSpan {
            curve: &curve,
            to_prior,
        };
        let (clock, pace) = (
            QuadratureBound::new(span, tableau, tolerance, 1),
            TimeChange::new(span),
        );
        let reading = |u: f64| {
            let s = curve.at(pace.time(u));
            let variance = (s.alpha * c).powi(2) + s.sigma * s.sigma;
            let slope = (s.alpha * s.alpha_dot * c * c + s.sigma * s.sigma_dot) / variance;
            (0.5 * variance.ln(), slope * pace.rate(pace.time(u)))
        };
        let (mut u, mut steps, mut worst, mut sum) = (pace.start(), 0, 0.0f64, 0.0);
        while u != pace.end() {
            let h = clock.limit_step(u, pace.end() - u, REFERENCE_WIDTHS[0]);
            let next = if h == pace.end() - u {
                pace.end()
            } else {
                u + h
            };
            let nodes = tableau.c.iter().zip(tableau.b).filter(|(_, b)| **b != 0.0);
            let got: f64 = nodes.map(|(a, b)| h * b * reading(u + a * h).1).sum();
            let error = got - (reading(next).0 - reading(u).0);
            (u, steps, worst, sum) = (next, steps + 1, worst.max(error.abs()), sum + error);
            assert!(steps < 10_000, "{path:?}: no end of steps at {u}");
        }
        (steps, worst, sum)
    }

    #[test]
    fn quadrature_error_is_within_tolerance_on_narrow_data() {
        for path in ProbabilityPath::defaults() {
            for tableau in [&BOSH3, &DOPRI5, &TSIT5, &DOP853] {
                for (to_prior, tolerance) in [(true, 1e-4), (false, 1e-4), (true, 1e-8)] {
                    let (_, worst, _) =
                        march(&path, tableau, tolerance, to_prior, REFERENCE_WIDTHS[0]);
                    assert!(worst <= 1.001 * tolerance, "{path:?} {to_prior}: {worst}");
                }
            }
        }
    }

    #[test]
    fn intermediate_widths_are_within_five_tolerances() {
        for path in ProbabilityPath::defaults() {
            for c in [1.7e-3, 2e-3, 5e-3, 0.017, 0.06, 0.17, 0.6] {
                let (_, worst, _) = march(&path, &DOPRI5, 1e-6, true, c);
                assert!(worst <= 5e-6, "{path:?} {c}: {worst}");
            }
        }
    }

    /// The maximum cost of the bound: the number of steps that it alone requires.
    #[test]
    fn quadrature_bound_allows_a_few_dozen_steps() {
        for path in ProbabilityPath::defaults() {
            let (steps, _, sum) = march(&path, &DOPRI5, 1e-6, true, REFERENCE_WIDTHS[0]);
            assert!(
                (2..=40).contains(&steps) && sum.abs() < 3e-5,
                "{path:?}: {steps} steps, {sum} nats"
            );
        }
    }

    #[test]
    fn tolerance_below_rounding_does_not_collapse_steps() {
        for path in ProbabilityPath::defaults() {
            let (steps, ..) = march(&path, &DOP853, 1e-15, true, REFERENCE_WIDTHS[0]);
            assert!(steps < 200, "{path:?}: {steps}");
        }
    }
}
