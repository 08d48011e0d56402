//! What bounds a step besides the state: the divergence of a case that is known in advance.
//!
//! Where data are narrow, the state can be easy and the divergence hard: off a narrow mode a
//! state is a straight line, x − αm ∝ σ, which any method follows exactly in steps of any size,
//! while its divergence is σ'/σ per dimension. An error norm on the state accepts such steps and
//! leaves whole nats in the quadrature. Putting the divergence into the norm is no way out: it
//! may be a noisy estimate, and estimators must share one path.
//!
//! But the narrow case needs no network. For data N(m, c²I) the divergence per dimension is
//! d/dt ½ ln(α²c² + σ²) (T1 of the project's test cases), known with its integral, so the error
//! that a step's nodes and weights make on it is known before the step is taken, at no cost.

use super::Span;
use super::pace::Pace;
use super::tableau::Tableau;
use crate::flow::path::Curve;

/// The width c of the reference: finer structure than this is not held to the tolerance where the
/// path starts below it. Networks and paths of the field put data at a scale of about one.
pub const WIDTH: f64 = 1e-3;

/// Nats below which what the reference shows is its own rounding: near the data end σ² of some
/// paths is known to about 1e-16, and is held against c².
const ROUNDING: f64 = 1e-9;

/// The reference along one path, seen through one method's quadrature.
#[derive(Debug, Clone, Copy)]
pub struct Clock<'a> {
    curve: &'a Curve,
    pace: Pace<'a>,
    tableau: &'static Tableau,
    /// Nats per dimension that one step may be wrong by.
    tolerance: f64,
}

impl<'a> Clock<'a> {
    /// Over d dimensions a step may be wrong by `tolerance`·√d nats: log-densities of samples
    /// spread by about √d, so relative to that spread the tolerance is the same for every d.
    pub fn new(span: Span<'a>, tableau: &'static Tableau, tolerance: f64, d: usize) -> Clock<'a> {
        let tolerance = (tolerance / (d.max(1) as f64).sqrt()).max(ROUNDING);
        Clock { curve: span.curve, pace: Pace::new(span), tableau, tolerance }
    }

    /// ½ ln(α²c² + σ²) and its derivative at `u`, a value of the variable that steps are taken in.
    fn reading(&self, u: f64) -> (f64, f64) {
        let t = self.pace.time(u);
        let s = self.curve.at(t);
        let variance = (s.alpha * WIDTH).powi(2) + s.sigma * s.sigma;
        let slope = (s.alpha * s.alpha_dot * WIDTH * WIDTH + s.sigma * s.sigma_dot) / variance;
        (0.5 * variance.ln(), slope * self.pace.rate(t))
    }

    /// The quadrature's error on a step from `u` to `u + h`, in units of the tolerance.
    fn error(&self, u: f64, h: f64) -> f64 {
        let nodes = self.tableau.c.iter().zip(self.tableau.b).filter(|(_, b)| **b != 0.0);
        let sum: f64 = nodes.map(|(c, b)| b * self.reading(u + c * h).1).sum();
        (sum * h - (self.reading(u + h).0 - self.reading(u).0)).abs() / self.tolerance
    }

    /// The step to take where `h` is asked for: shorter, if need be, until the reference is held.
    pub fn bound(&self, u: f64, mut h: f64) -> f64 {
        for _ in 0..100 {
            let error = self.error(u, h);
            if error <= 1.0 || !error.is_finite() {
                break;
            }
            h *= (0.9 * error.powf(-1.0 / (self.tableau.order + 1) as f64)).max(0.2);
        }
        h
    }
}
