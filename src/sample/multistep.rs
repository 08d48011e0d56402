//! Exponential multistep methods in λ = ln(α/σ), written as weights of known arrays.
//!
//! The probability-flow ODE with the data prediction D = E\[x₀ | x\] has the exact solution x_t =
//! (σ_t/σ_s) x_s + σ_t ∫_{λ_s}^{λ_t} e^λ D dλ (Lu et al. 2022, DPM-Solver++, Prop. 4.1). A method
//! replaces D by a polynomial through known predictions. A step is then x_t = w₀ x_s + w₁ D_s + w₂
//! D_{s−1} + …, and its weights depend only on the grid.

use super::sampler_step::{self, PathPoint, SamplerStep, StepCorrector, StepPrediction};
use super::{SamplerContext, SamplerSchedule};

/// φ_k(z) with φ₀ = eᶻ and φ_{k+1}(z) = (φ_k(z) − 1/k!)/z: the weights of exponential integrators.
///
/// The recursion loses digits near 0. The series 1/k! + z/(k+1)! + … replaces it for |z| < 1.
pub(super) fn phi(k: usize, z: f64) -> f64 {
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

/// The weights of the first-order step (σ_t/σ_s) x + α_t (1 − e^{−h}) D, which is exact for a
/// constant D. Every method here starts with it.
///
/// At σ_t = 0 the step is x_t = α_t D. At α_s = 0 it is (σ_t/σ_s) x + α_t D. Both follow from the
/// arithmetic of IEEE infinities.
pub(super) fn first_order_weights(from: &PathPoint, to: &PathPoint) -> [f64; 2] {
    [
        to.sigma / from.sigma,
        -to.alpha * (-from.lambda_step(to)).exp_m1(),
    ]
}

/// A multistep method, defined by its weights.
pub(super) trait Multistep {
    /// The highest order, which is also the number of predictions that a step uses.
    fn order(&self) -> usize;

    /// The weights of the state and of the predictions at `past` (newest first) in the state at
    /// `to`.
    ///
    /// `order` is at least 2, and `past` has that many points.
    fn predictor_weights(&self, past: &[PathPoint], to: &PathPoint, order: usize) -> Vec<f64>;

    /// The weights of the state and of the prediction at `from` in the state at `to`, for a step of
    /// first order.
    fn first_weights(&self, from: &PathPoint, to: &PathPoint) -> Vec<f64> {
        first_order_weights(from, to).to_vec()
    }

    /// The standard deviation of the noise that a step adds. Default: 0.
    fn noise_std(&self, _from: &PathPoint, _to: &PathPoint) -> f64 {
        0.0
    }

    /// The weights of the state, of the prediction at `to`, and of the predictions at `past` in the
    /// corrected state at `to`. `None` if the method has no corrector.
    fn corrector_weights(
        &self,
        _past: &[PathPoint],
        _to: &PathPoint,
        _order: usize,
    ) -> Option<Vec<f64>> {
        None
    }
}

/// The order of step `i` of `steps`.
///
/// It is at most the number of predictions made so far. With `lower_order_final` it is also at most
/// the number of steps left.
pub(super) fn step_order(highest: usize, i: usize, steps: usize, lower_order_final: bool) -> usize {
    let left = if lower_order_final {
        steps - i
    } else {
        highest
    };
    highest.min(i + 1).min(left)
}

/// The steps of a multistep method on the schedule's grid, with the final denoising step if there
/// is one.
///
/// # Errors
/// Fails if the schedule is invalid. The message names the key and says what is expected.
pub(super) fn multistep_steps(
    method: &dyn Multistep,
    schedule: &SamplerSchedule,
    context: &SamplerContext,
) -> Result<Vec<SamplerStep>, String> {
    let points = schedule.points(context)?;
    let lowers_order = schedule.lowers_order(points.len() - 1);
    let mut steps = steps_between_points(method, lowers_order, &points);
    if let Some(step) = steps.last_mut().filter(|_| schedule.euler_at_final) {
        step.weights = method.first_weights(&step.from, &step.to);
    }
    steps.extend(schedule.final_denoising_step(&points));
    sampler_step::with_readings(steps, context)
}

/// The steps of a multistep method between at least two given points.
///
/// A step to σ = 0 is infinitely long in λ, and no difference of predictions can be extrapolated
/// over it. Such a step is always of first order and ends in α_t D. So is a step of no length.
pub(super) fn steps_between_points(
    method: &dyn Multistep,
    lower_order_final: bool,
    points: &[PathPoint],
) -> Vec<SamplerStep> {
    let last = points.len() - 1;
    let step = |i: usize| {
        let to = &points[i + 1];
        let order = match to.sigma > 0.0 && points[i].lambda_step(to) != 0.0 {
            true => step_order(method.order(), i, last, lower_order_final),
            false => 1,
        };
        let past: Vec<PathPoint> = points[..=i].iter().rev().take(order).copied().collect();
        let weights = if order == 1 {
            method.first_weights(&past[0], to)
        } else {
            method.predictor_weights(&past, to, order)
        };
        let weights_of_corrector = if i + 1 < last {
            method.corrector_weights(&past, to, order)
        } else {
            None
        };
        let corrector =
            weights_of_corrector.map(|weights| StepCorrector::at_point(*to, weights, true));
        SamplerStep {
            corrector,
            noise_std: method.noise_std(&past[0], to),
            ..SamplerStep::without_corrector(points[i], *to, StepPrediction::Denoised, weights)
        }
    };
    (0..last).map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phi_series_and_recursion_match_quadrature() {
        for k in 0..5 {
            // ∫₀¹ e^{(1−s)z} s^{k−1}/(k−1)! ds by Simpson's rule.
            for z in [-7.3, -1.01, -0.99, -0.2, -1e-9, 0.7, 1.3] {
                let n = 2000;
                let factorial: f64 = (1..k.max(1)).map(|i| i as f64).product();
                let f = |s: f64| ((1.0 - s) * z).exp() * s.powi(k as i32 - 1) / factorial;
                let weight = |i: usize| {
                    if i == 0 || i == n {
                        1.0
                    } else {
                        (2 + 2 * (i % 2)) as f64
                    }
                };
                let integral = || {
                    (0..=n)
                        .map(|i| weight(i) * f(i as f64 / n as f64))
                        .sum::<f64>()
                        / (3.0 * n as f64)
                };
                let want = if k == 0 { z.exp() } else { integral() };
                assert!(
                    (phi(k, z) - want).abs() < 1e-11,
                    "{k} {z} {} {want}",
                    phi(k, z)
                );
            }
        }
    }

    #[test]
    fn step_orders_warm_up_and_lower_at_the_end() {
        let orders = |m, lower| {
            (0..m)
                .map(|i| step_order(3, i, m, lower))
                .collect::<Vec<_>>()
        };
        assert_eq!(orders(6, true), [1, 2, 3, 3, 2, 1]);
        assert_eq!(orders(6, false), [1, 2, 3, 3, 3, 3]);
        assert_eq!(orders(2, true), [1, 1]);
        assert_eq!(orders(1, true), [1]);
    }
}
