//! What bounds a step besides the state: the divergence of a case that is known in advance.
//!
//! Where data are narrow, the state can be easy and the divergence hard: off a narrow mode a
//! state is a straight line, x − αm ∝ σ, which any method follows exactly in steps of any size,
//! while its divergence is σ'/σ per dimension. An error norm on the state accepts such steps and
//! leaves whole nats in the quadrature.
//!
//! But the narrow case needs no network. For data N(m, c²I) the divergence per dimension is
//! d/dt ½ ln(α²c² + σ²) (T1 of the project's test cases), known with its integral, so the error
//! that a step's nodes and weights make on it is known before the step is taken, at no cost.
//!
//! Where a divergence controls the steps this only keeps the first of them from passing over what no node has shown
//! yet: on diffusions, for data as narrow as the velocity at the data end says that they are. A plain velocity has no
//! schedule that it must follow, and is left to its own divergence.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TimeSpan;
use super::tableau::Tableau;
use super::time_change::TimeChange;
use crate::flow::path::{PathCurve, ProbabilityPath};

/// The widths c that a step is held to. On most paths the narrowest is the hardest, but where time
/// is ln σ it is a straight line, and each width has its turn as σ passes it. Finer structure than
/// the first is not held to the tolerance where a path starts below it: networks and paths of the
/// field put data at a scale of about one.
const REFERENCE_WIDTHS: [f64; 7] = [1e-3, 3e-3, 1e-2, 0.03, 0.1, 0.3, 1.0];

/// Whether steps are bounded by the divergence of narrow normal laws, and how narrow these are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum QuadratureBoundSetting {
    Named(QuadratureBoundKeyword),
    /// Always, by normal laws of this width and more.
    Width(f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum QuadratureBoundKeyword {
    /// On diffusions, by normal laws as wide as the velocity at the start says and wider; by all of them, and on every
    /// path, where no divergence controls the steps.
    Auto,
    None,
}

impl Default for QuadratureBoundSetting {
    fn default() -> Self {
        QuadratureBoundSetting::Named(QuadratureBoundKeyword::Auto)
    }
}

impl QuadratureBoundSetting {
    pub fn is_auto(&self) -> bool {
        *self == QuadratureBoundSetting::default()
    }

    /// # Errors
    /// Where the width is no width.
    pub fn check(self) -> Result<(), String> {
        match self {
            QuadratureBoundSetting::Width(c) if !(c > 0.0 && c.is_finite()) => Err(format!(
                "clock is {c}, expected auto, none or a width above 0"
            )),
            _ => Ok(()),
        }
    }

    /// Whether there is a bound on this span, where a divergence controls or none does.
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

/// The narrowest width to hold steps to, from the divergence in `d` dimensions where a path starts: that of normal data
/// with the same divergence, by a third, since some directions are narrower than their mean.
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
    // slope = (α α' c² + σ σ')/(α² c² + σ²).
    let square = (s.sigma * s.sigma_dot - slope * s.sigma.powi(2))
        / (slope * s.alpha.powi(2) - s.alpha * s.alpha_dot);
    let shown = square.sqrt() / 3.0;
    if span.to_prior && shown.is_finite() {
        shown.clamp(REFERENCE_WIDTHS[0], 1.0)
    } else {
        REFERENCE_WIDTHS[0]
    }
}

/// Nats below which what the reference shows is its own rounding: near the data end σ² of some
/// paths is known to about 1e-16, and is held against c².
const ROUNDING_NATS: f64 = 1e-9;

/// The references along one path, seen through one method's quadrature.
#[derive(Debug, Clone, Copy)]
pub struct QuadratureBound<'a> {
    curve: &'a PathCurve,
    time_change: TimeChange<'a>,
    tableau: &'static Tableau,
    /// Nats per dimension that one step may be wrong by.
    tolerance: f64,
}

impl<'a> QuadratureBound<'a> {
    /// Over d dimensions a step may be wrong by that many nats.
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

    /// ½ ln(α²c² + σ²) and its derivative for each width, at `u` of the variable that steps are taken in.
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

    /// The quadrature's largest error on a step from `u` to `u + h`, in units of the tolerance.
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

    /// The step to take where `h` is asked for: shorter, if need be, until the references are held that are as wide as
    /// the narrowest or wider.
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

    /// Steps from end to end that nothing but the reference bounds; the worst and the sum of errors for
    /// Gaussian data of width `c`, in nats per dimension.
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

    /// What the bound costs at most: the steps that it alone asks for.
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
