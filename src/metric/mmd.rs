//! The squared maximum mean discrepancy (MMD²) for any kernel, with its standard error.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

use super::feature_set::FeatureSet;
use super::pairwise_distance::ROWS_PER_BLOCK;
use super::{Influences, max_keeping_nan};

/// A kernel function: from rows of x, shape (m, D), and rows of y, shape (n, D), it computes k(x_i,
/// y_j) for all pairs, shape (m, n).
pub(super) type KernelFunction<'a> =
    dyn Fn(ArrayView2<f64>, ArrayView2<f64>) -> Array2<f64> + Sync + 'a;

/// The three kernel means of two sets X and Y, from which MMD² is computed, and their errors.
pub(super) struct MmdEstimate {
    /// The means of k(X, X') and of k(Y, Y') over pairs of distinct samples.
    pub within: [f64; 2],
    /// The mean of k(X, Y) over all pairs.
    pub between: f64,
    /// The first-order influences of the rows of X and of Y on [`MmdEstimate::unbiased`].
    pub influences: [Array1<f64>; 2],
    /// The variance of [`MmdEstimate::unbiased`].
    variance: f64,
}

impl MmdEstimate {
    /// Computes the kernel means of the rows of `x` and `y`, and the variance of the U-statistic to
    /// first and second order. Bounliphone et al. (2016) give the first order.
    ///
    /// The second-order term makes the standard error valid for equal distributions, for which the
    /// first-order term vanishes.
    pub(super) fn from_kernel(
        x: ArrayView2<f64>,
        y: ArrayView2<f64>,
        kernel: &KernelFunction,
    ) -> MmdEstimate {
        let (m, n) = (x.nrows() as f64, y.nrows() as f64);
        let (xx, yy, xy) = (
            kernel_block_sums(x, x, true, kernel),
            kernel_block_sums(y, y, true, kernel),
            kernel_block_sums(x, y, false, kernel),
        );
        let centred = |a: Array1<f64>| {
            let mean = a.sum() / a.len() as f64;
            a.mapv_into(|v| 2.0 * (v - mean))
        };
        let influences = [
            centred(xx.row_means - xy.row_means),
            centred(yy.row_means - xy.column_means),
        ];
        let of_mean = |a: &Array1<f64>| a.dot(a) / (a.len() as f64 - 1.0) / a.len() as f64;
        let first = of_mean(&influences[0]) + of_mean(&influences[1]);
        // The plug-in estimate of the first-order term contains the second-order term twice. It
        // belongs in the variance once, so one of the two is subtracted below.
        let second = 2.0 * xx.spread / (m * (m - 1.0))
            + 2.0 * yy.spread / (n * (n - 1.0))
            + 4.0 * xy.spread / (m * n);
        // For nearly equal distributions both terms are noisy. The floor keeps the variance
        // positive; it is low enough not to bias it upwards.
        let variance = max_keeping_nan(first - second, 0.25 * second);
        MmdEstimate {
            within: [xx.mean, yy.mean],
            between: xy.mean,
            influences,
            variance,
        }
    }

    /// The unbiased estimate of MMD²: E k(X, X') + E k(Y, Y') − 2 E k(X, Y).
    pub(super) fn unbiased(&self) -> f64 {
        self.within[0] + self.within[1] - 2.0 * self.between
    }

    /// The standard error of [`MmdEstimate::unbiased`].
    pub(super) fn stderr(&self) -> f64 {
        self.variance.sqrt()
    }

    /// The influences of all samples on `scale` times MMD², in input order. `x` and `y` are the
    /// sets whose rows gave this estimate.
    pub(super) fn influences(&self, scale: f64, x: &FeatureSet, y: &FeatureSet) -> Influences {
        let of = |side: usize, sample: &FeatureSet| {
            sample.in_input_order(&(&self.influences[side] * scale).to_vec())
        };
        Influences {
            generated: of(0, x),
            reference: of(1, y),
        }
    }
}

/// Means of a kernel matrix that the estimate and its variance need.
struct KernelBlockSums {
    /// The mean of each row.
    row_means: Array1<f64>,
    /// The mean of each column.
    column_means: Array1<f64>,
    /// The mean of all entries.
    mean: f64,
    /// The mean square of the doubly centred kernel, from which row and column means are
    /// subtracted.
    spread: f64,
}

/// Evaluates the kernel between `x` and `y` block by block and returns the means of the matrix.
/// With `within`, both are the same set and the diagonal is left out.
fn kernel_block_sums(
    x: ArrayView2<f64>,
    y: ArrayView2<f64>,
    within: bool,
    kernel: &KernelFunction,
) -> KernelBlockSums {
    let (m, n) = (x.nrows(), y.nrows());
    let partners = if within { n - 1 } else { n } as f64;
    let part = |c: usize| {
        let (first, last) = (
            c * ROWS_PER_BLOCK,
            (c * ROWS_PER_BLOCK + ROWS_PER_BLOCK).min(m),
        );
        let mut k = kernel(x.slice(s![first..last, ..]), y);
        if within {
            (first..last).for_each(|i| k[[i - first, i]] = 0.0);
        }
        (
            k.sum_axis(Axis(1)),
            k.sum_axis(Axis(0)),
            k.iter().map(|v| v * v).sum::<f64>(),
        )
    };
    let (mut rows, mut columns, mut squares) = (Vec::with_capacity(m), Array1::zeros(n), 0.0);
    let chunks: Vec<usize> = (0..m.div_ceil(ROWS_PER_BLOCK)).collect();
    // Parts are evaluated in groups, which bounds the memory. They are added in order, so the
    // digits do not depend on the number of threads.
    for group in chunks.chunks(32) {
        let parts: Vec<_> = group.par_iter().map(|c| part(*c)).collect();
        for (part_rows, part_columns, part_squares) in parts {
            rows.extend(part_rows.iter().map(|v| v / partners));
            columns += &part_columns;
            squares += part_squares;
        }
    }
    let pairs = m as f64 * partners;
    let row_means = Array1::from(rows);
    let column_means = columns / if within { partners } else { m as f64 };
    let mean = row_means.sum() / m as f64;
    let variance =
        |a: &Array1<f64>| a.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / a.len() as f64;
    let spread = max_keeping_nan(
        squares / pairs - mean * mean - variance(&row_means) - variance(&column_means),
        0.0,
    );
    KernelBlockSums {
        row_means,
        column_means,
        mean,
        spread,
    }
}

/// Checks that both sets have pairs of samples. `name` is the statistic, for the error message.
///
/// # Errors
/// Fails if a set has fewer than two samples.
pub(super) fn check_mmd_counts(
    name: &str,
    generated: usize,
    reference: usize,
) -> Result<(), String> {
    let fine = generated >= 2 && reference >= 2;
    fine.then_some(()).ok_or_else(|| {
        format!(
            "{name}: {generated} generated and {reference} reference samples, \
             expected at least 2 of each"
        )
    })
}
