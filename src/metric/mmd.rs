//! Squared maximum mean discrepancies for any kernel, and their standard error.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

use super::feature_set::FeatureSet;
use super::pairwise_distance::ROWS_PER_BLOCK;
use super::{Influences, max_keeping_nan};

/// Kernel values of some rows (the first argument) with all rows of the second.
pub type KernelFunction<'a> = dyn Fn(ArrayView2<f64>, ArrayView2<f64>) -> Array2<f64> + Sync + 'a;

/// The three means of a two-sample kernel statistic, and what its error needs.
pub struct MmdEstimate {
    /// E k(X, X'), E k(Y, Y') over distinct pairs and E k(X, Y).
    pub within: [f64; 2],
    pub between: f64,
    /// First-order influences of the rows of either side on [`MmdEstimate::randomized_bias_sentence`].
    pub influences: [Array1<f64>; 2],
    /// Variance of within[0] + within[1] − 2 between.
    variance: f64,
}

impl MmdEstimate {
    /// The U-statistic with its variance, first and second order (Bounliphone et al. 2016 give the first).
    ///
    /// The second-order term makes the error hold under equal laws, where the first vanishes.
    pub fn from_kernel(
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
        // The plug-in first-order term holds the second-order one twice: once is right.
        let second = 2.0 * xx.spread / (m * (m - 1.0))
            + 2.0 * yy.spread / (n * (n - 1.0))
            + 4.0 * xy.spread / (m * n);
        // Near equal laws both are noisy; a floor keeps the difference positive without pushing it up.
        let variance = max_keeping_nan(first - second, 0.25 * second);
        MmdEstimate {
            within: [xx.mean, yy.mean],
            between: xy.mean,
            influences,
            variance,
        }
    }

    /// E k(X, X') + E k(Y, Y') − 2 E k(X, Y), unbiased.
    pub fn unbiased(&self) -> f64 {
        self.within[0] + self.within[1] - 2.0 * self.between
    }

    pub fn stderr(&self) -> f64 {
        self.variance.sqrt()
    }

    /// Those of `scale` times the statistic, in the order in which samples came.
    pub fn influences(&self, scale: f64, x: &FeatureSet, y: &FeatureSet) -> Influences {
        let of = |side: usize, sample: &FeatureSet| {
            sample.in_input_order(&(&self.influences[side] * scale).to_vec())
        };
        Influences {
            generated: of(0, x),
            reference: of(1, y),
        }
    }
}

/// Sums of a kernel matrix that the estimate and its variance need.
struct KernelBlockSums {
    row_means: Array1<f64>,
    column_means: Array1<f64>,
    mean: f64,
    /// Mean square of the doubly centred kernel.
    spread: f64,
}

/// Kernel values between `x` and `y`, some rows at a time; `within` leaves the diagonal out.
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
    // Some parts at a time, added in their order: bounded memory, and the same digits on any threads.
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

/// Refuses fewer than two samples on either side.
///
/// # Errors
/// A sentence with both counts.
pub fn check_mmd_counts(name: &str, generated: usize, reference: usize) -> Result<(), String> {
    let fine = generated >= 2 && reference >= 2;
    fine.then_some(()).ok_or_else(|| {
        format!("{name}: {generated} generated and {reference} reference samples, expected at least 2 of each")
    })
}
