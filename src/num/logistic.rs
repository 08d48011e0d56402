//! Logistic regression with a ridge penalty, fitted by Newton's method with conjugate gradients, and
//! the standardization of its inputs.

use ndarray::{Array1, Array2, ArrayView2, Axis};

/// The mean and the inverse standard deviation of each column. The inverse is 0 for a column that
/// is constant up to rounding.
pub fn mean_and_inverse_std(x: ArrayView2<f64>) -> [Array1<f64>; 2] {
    let mean = x.sum_axis(Axis(0)) / x.nrows() as f64;
    let spread = (&x - &mean).mapv_into(|v| v * v).sum_axis(Axis(0)) / x.nrows() as f64;
    let floor = mean.mapv(|m| 1e-24 * m * m + f64::MIN_POSITIVE);
    let inverse = ndarray::Zip::from(&spread)
        .and(&floor)
        .map_collect(|v, f| if v > f { 1.0 / v.sqrt() } else { 0.0 });
    [mean, inverse]
}

/// Subtracts the mean from each column and multiplies by the inverse standard deviation.
pub fn standardize_columns(mut x: Array2<f64>, [mean, inverse]: &[Array1<f64>; 2]) -> Array2<f64> {
    x -= mean;
    x *= inverse;
    x
}

/// A linear classifier: the score w·x + b is positive for the first class.
pub struct LogisticRegression {
    /// The weights w, one per column.
    pub weights: Array1<f64>,
    /// The intercept b.
    pub intercept: f64,
}

/// Minimizes Σ ln(1 + exp(−s(w·x + b))) + ½|w|² over w and b. The sign s is 1 for rows of the first
/// class and −1 for all others; `first` says for each row of `x` whether it is of the first class.
///
/// The intercept has no penalty. The objective is convex, so the starting point does not affect the
/// result. The iteration starts at 0. It ends when the norm of the gradient is 1e-8 times the first
/// one, or after 100 steps.
pub fn fit_logistic_regression(x: ArrayView2<f64>, first: &[bool]) -> LogisticRegression {
    let signs = Array1::from_iter(first.iter().map(|f| if *f { 1.0 } else { -1.0 }));
    let score = |w: &Array1<f64>, b: f64| x.dot(w) + b;
    let loss = |scores: &Array1<f64>, w: &Array1<f64>| {
        let softplus = |v: f64| v.max(0.0) + (-v.abs()).exp().ln_1p();
        (scores * &signs)
            .iter()
            .map(|margin| softplus(-margin))
            .sum::<f64>()
            + 0.5 * w.dot(w)
    };
    let (mut w, mut b) = (Array1::zeros(x.ncols()), 0.0);
    let mut scores = score(&w, b);
    let mut start = None;
    for _ in 0..100 {
        // The probability of the first class, its residual and its curvature.
        let p = scores.mapv(|v: f64| 1.0 / (1.0 + (-v).exp()));
        let residual = &p - &signs.mapv(|s| 0.5 * (s + 1.0));
        let curvature = p.mapv(|p| p * (1.0 - p));
        let gradient = (x.t().dot(&residual) + &w, residual.sum());
        let size = parameter_dot(&gradient, &gradient).sqrt();
        if size <= 1e-8 * *start.get_or_insert(size) {
            break;
        }
        let hessian = |(dw, db): &LogisticParameters| {
            let weighted = (x.dot(dw) + *db) * &curvature;
            (x.t().dot(&weighted) + dw, weighted.sum())
        };
        let (dw, db) = conjugate_gradients(
            hessian,
            &gradient,
            (0.1f64).min((size / start.unwrap_or(size)).sqrt()),
        );
        // Far from the minimum a full Newton step can be too long, so it is halved until the loss
        // decreases enough (Armijo's rule).
        let (now, slope) = (
            loss(&scores, &w),
            parameter_dot(&gradient, &(dw.clone(), db)),
        );
        let mut length = 1.0;
        loop {
            let (next_w, next_b) = (&w - &(&dw * length), b - length * db);
            let next = score(&next_w, next_b);
            if loss(&next, &next_w) <= now - 1e-4 * length * slope || length < 1e-10 {
                (w, b, scores) = (next_w, next_b, next);
                break;
            }
            length *= 0.5;
        }
    }
    LogisticRegression {
        weights: w,
        intercept: b,
    }
}

/// The weights and the intercept, or a direction in their space.
type LogisticParameters = (Array1<f64>, f64);

/// The inner product of two sets of parameters.
fn parameter_dot(a: &LogisticParameters, b: &LogisticParameters) -> f64 {
    a.0.dot(&b.0) + a.1 * b.1
}

/// Solves H·d = g by conjugate gradients, to a residual of `tolerance` relative to g. `hessian`
/// multiplies by H.
fn conjugate_gradients(
    hessian: impl Fn(&LogisticParameters) -> LogisticParameters,
    g: &LogisticParameters,
    tolerance: f64,
) -> LogisticParameters {
    let mut d: LogisticParameters = (Array1::zeros(g.0.len()), 0.0);
    let (mut residual, mut direction) = (g.clone(), g.clone());
    let (mut square, target) = (
        parameter_dot(g, g),
        tolerance * tolerance * parameter_dot(g, g),
    );
    for _ in 0..200 {
        if square <= target {
            break;
        }
        let product = hessian(&direction);
        let step = square / parameter_dot(&direction, &product);
        d.0.scaled_add(step, &direction.0);
        d.1 += step * direction.1;
        residual.0.scaled_add(-step, &product.0);
        residual.1 -= step * product.1;
        let next = parameter_dot(&residual, &residual);
        direction = (
            &direction.0 * (next / square) + &residual.0,
            residual.1 + direction.1 * (next / square),
        );
        square = next;
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::key::{Purpose, RngKey};

    fn normal_samples(seed: u64, rows: usize, dim: usize, mean: f64, std: f64) -> Array2<f64> {
        let draws = RngKey { seed }.normal(Purpose::Check, 0, 0, rows * dim) * std + mean;
        draws
            .into_shape_with_order((rows, dim))
            .expect("rows × dim")
    }

    #[test]
    fn logistic_gradient_vanishes_at_fit() {
        let x = ndarray::concatenate![
            ndarray::Axis(0),
            normal_samples(1, 60, 4, 0.0, 1.0),
            normal_samples(2, 40, 4, 0.7, 1.5)
        ];
        let first: Vec<bool> = (0..100).map(|i| i < 60).collect();
        let model = fit_logistic_regression(x.view(), &first);
        let p = (x.dot(&model.weights) + model.intercept).mapv(|v| 1.0 / (1.0 + (-v).exp()));
        let residual = Array1::from_shape_fn(100, |i| p[i] - f64::from(u8::from(first[i])));
        assert!(
            (x.t().dot(&residual) + &model.weights)
                .iter()
                .all(|g| g.abs() < 1e-6)
        );
        assert!(residual.sum().abs() < 1e-6);
    }
}
