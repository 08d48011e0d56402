//! Exponential multistep methods in λ = ln(α/σ), written as weights of known states.
//!
//! The probability-flow ODE in data prediction D = E\[x₀ | x\] has the exact solution
//! x_t = (σ_t/σ_s) x_s + σ_t ∫_{λ_s}^{λ_t} e^λ D dλ (Lu et al. 2022, DPM-Solver++, Prop. 4.1). A method
//! replaces D by a polynomial through predictions that are already there, so that a step is
//! x_t = w₀ x_s + w₁ D_s + w₂ D_{s−1} + …, and the weights depend on the grid alone.

use std::collections::VecDeque;

use super::{Denoiser, Schedule};
use crate::flow::field::EvalError;
use crate::flow::path::Curve;
use crate::num::Batch;

/// A place on the path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub t: f64,
    pub alpha: f64,
    pub sigma: f64,
}

impl Point {
    pub fn on(curve: &Curve, t: f64) -> Point {
        let s = curve.at(t);
        Point { t, alpha: s.alpha, sigma: s.sigma }
    }

    /// λ(`next`) − λ(self), infinite where self has α = 0 or `next` has σ = 0.
    pub fn gap(&self, next: &Point) -> f64 {
        ((next.alpha / self.alpha) * (self.sigma / next.sigma)).ln()
    }
}

/// φ_k(z) with φ₀ = eᶻ and φ_{k+1}(z) = (φ_k(z) − 1/k!)/z: the weights of exponential integrators.
///
/// The recursion loses digits near 0, where the series 1/k! + z/(k+1)! + … has them all.
pub fn phi(k: usize, z: f64) -> f64 {
    let factorial = |n: usize| (1..=n).map(|i| i as f64).product::<f64>();
    if z.abs() < 1.0 {
        let (mut term, mut sum) = (1.0 / factorial(k), 0.0);
        for j in 1..24 {
            sum += term;
            term *= z / (k + j) as f64;
        }
        return sum;
    }
    (1..=k).fold(z.exp(), |value, i| (value - 1.0 / factorial(i - 1)) / z)
}

/// The first-order step of every method here, (σ_t/σ_s) x + α_t (1 − e^{−h}) D: exact for constant D.
///
/// At σ_t = 0 it is x_t = α_t D, at α_s = 0 it is (σ_t/σ_s) x + α_t D; both come out of IEEE infinities.
pub fn first_order(from: &Point, to: &Point) -> [f64; 2] {
    [to.sigma / from.sigma, -to.alpha * (-from.gap(to)).exp_m1()]
}

/// One multistep method, by its weights.
pub trait Multistep {
    /// The highest order, which is also how many predictions it looks at.
    fn order(&self) -> usize;

    /// Weights of the state and of the predictions at `past` (newest first) in the state at `to`;
    /// `order` is at least 2 and `past` has that many points.
    fn predictor(&self, past: &[Point], to: &Point, order: usize) -> Vec<f64>;

    /// Weights of the state, of the prediction at `to` and of those at `past` in the corrected
    /// state at `to`; `None` where the method has no corrector.
    fn corrector(&self, _past: &[Point], _to: &Point, _order: usize) -> Option<Vec<f64>> {
        None
    }
}

/// The order of step `i` of `steps`: no more than there are predictions, and with
/// `lower_order_final` no more than there are steps left.
pub fn order_of(highest: usize, i: usize, steps: usize, lower_order_final: bool) -> usize {
    let left = if lower_order_final { steps - i } else { highest };
    highest.min(i + 1).min(left)
}

/// Carries every row over the schedule's grid: one evaluation per step, and one to denoise.
pub fn march(
    method: &dyn Multistep,
    schedule: &Schedule,
    field: &mut dyn Denoiser,
    curve: &Curve,
    x: Batch,
) -> Result<Batch, EvalError> {
    let times = schedule.times(curve).map_err(EvalError::Missing)?;
    let points: Vec<Point> = times.iter().map(|t| Point::on(curve, *t)).collect();
    let x = through(method, schedule.lower_order_final, &points, field, x)?;
    if schedule.denoise_to_zero { denoised(field, &points[points.len() - 1], &x) } else { Ok(x) }
}

/// Carries every row over points that are given, two at least.
///
/// A step to σ = 0 is infinitely long in λ. Differences of predictions have no finite extrapolation
/// over it, so it is of first order whatever `lower_order_final` says: it ends in α_t D.
pub fn through(
    method: &dyn Multistep,
    lower_order_final: bool,
    points: &[Point],
    field: &mut dyn Denoiser,
    mut x: Batch,
) -> Result<Batch, EvalError> {
    let steps = points.len() - 1;
    let mut data = VecDeque::from([denoised(field, &points[0], &x)?]);
    for (i, to) in points.iter().enumerate().skip(1) {
        let order = match to.sigma > 0.0 {
            true => order_of(method.order(), i - 1, steps, lower_order_final),
            false => 1,
        };
        let past: Vec<Point> = points[..i].iter().rev().take(order).copied().collect();
        let weights = if order == 1 { first_order(&past[0], to).to_vec() } else { method.predictor(&past, to, order) };
        let next = combine(&weights, &x, data.iter());
        if i == steps {
            return Ok(next);
        }
        data.push_front(denoised(field, to, &next)?);
        x = match method.corrector(&past, to, order) {
            Some(weights) => combine(&weights, &x, data.iter()),
            None => next,
        };
        data.truncate(method.order());
    }
    Ok(x)
}

fn denoised(field: &mut dyn Denoiser, at: &Point, x: &Batch) -> Result<Batch, EvalError> {
    field.denoised(&vec![at.t; x.nrows()], x)
}

fn combine<'a>(weights: &[f64], x: &Batch, data: impl Iterator<Item = &'a Batch>) -> Batch {
    let mut out = x * weights[0];
    for (weight, data) in weights[1..].iter().zip(data) {
        out.scaled_add(*weight, data);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phi_by_series_and_by_recursion_is_one_function() {
        for k in 0..5 {
            // ∫₀¹ e^{(1−s)z} s^{k−1}/(k−1)! ds by Simpson's rule.
            for z in [-7.3, -1.01, -0.99, -0.2, -1e-9, 0.7, 1.3] {
                let n = 2000;
                let factorial: f64 = (1..k.max(1)).map(|i| i as f64).product();
                let f = |s: f64| ((1.0 - s) * z).exp() * s.powi(k as i32 - 1) / factorial;
                let weight = |i: usize| if i == 0 || i == n { 1.0 } else { (2 + 2 * (i % 2)) as f64 };
                let integral = || (0..=n).map(|i| weight(i) * f(i as f64 / n as f64)).sum::<f64>() / (3.0 * n as f64);
                let want = if k == 0 { z.exp() } else { integral() };
                assert!((phi(k, z) - want).abs() < 1e-11, "{k} {z} {} {want}", phi(k, z));
            }
        }
    }

    #[test]
    fn orders_rise_and_fall() {
        let orders = |m, lower| (0..m).map(|i| order_of(3, i, m, lower)).collect::<Vec<_>>();
        assert_eq!(orders(6, true), [1, 2, 3, 3, 2, 1]);
        assert_eq!(orders(6, false), [1, 2, 3, 3, 3, 3]);
        assert_eq!(orders(2, true), [1, 1]);
        assert_eq!(orders(1, true), [1]);
    }
}
