//! Mean and covariance of rows in f64. Moments of parts can be merged and then equal the moments of
//! the whole.

use ndarray::{Array1, Array2, ArrayView2, Axis};

use super::linalg::Gram;

/// The count, the mean and the centred second moment of rows.
pub struct RowMoments {
    /// The number of rows.
    pub n: usize,
    /// The mean of the rows.
    pub mean: Array1<f64>,
    /// The scatter Σ (x − mean)(x − mean)ᵀ.
    scatter: Gram,
}

impl RowMoments {
    /// The moments of zero rows of `d` numbers.
    pub fn empty(d: usize) -> RowMoments {
        RowMoments {
            n: 0,
            mean: Array1::zeros(d),
            scatter: Gram::zeros(d),
        }
    }

    /// The moments of the rows of `x`.
    pub fn from_rows(x: ArrayView2<f64>) -> RowMoments {
        let mut moments = RowMoments::empty(x.ncols());
        moments.add(x.to_owned());
        moments
    }

    /// Adds rows: first their scatter around their own mean, then the difference of the means.
    pub fn add(&mut self, mut rows: Array2<f64>) {
        let Some(mean) = rows.mean_axis(Axis(0)) else {
            return;
        };
        rows -= &mean;
        self.scatter.add_rows(rows.view());
        self.merge_means(rows.nrows(), &mean);
    }

    /// Adds the rows behind other moments.
    pub fn merge(&mut self, other: &RowMoments) {
        self.scatter.add(&other.scatter);
        self.merge_means(other.n, &other.mean);
    }

    /// Adds the part of the scatter that lies between two means, and updates the mean (Chan, Golub
    /// & LeVeque 1983).
    fn merge_means(&mut self, n: usize, mean: &Array1<f64>) {
        if n == 0 {
            return;
        }
        let (a, b) = (self.n as f64, n as f64);
        let gap = mean - &self.mean;
        let between = &gap * (a * b / (a + b)).sqrt();
        self.scatter.add_rows(between.view().insert_axis(Axis(0)));
        self.mean.scaled_add(b / (a + b), &gap);
        self.n += n;
    }

    /// The covariance with divisor n − 1. It is zero for a single row.
    pub fn covariance(&self) -> Array2<f64> {
        self.scatter.symmetric() / (self.n.max(2) - 1) as f64
    }

    /// The upper triangular R for which RᵀR is the scatter.
    ///
    /// `None` if a squared pivot is less than `least` times the largest one.
    pub fn scatter_factor(&self, least: f64) -> Option<Array2<f64>> {
        self.scatter.cholesky_factor(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::key::{Purpose, RngKey};

    #[test]
    fn row_moments_merge_in_any_grouping() {
        let x = RngKey { seed: 3 }
            .normal(Purpose::Check, 0, 0, 60)
            .into_shape_with_order((20, 3))
            .expect("60 draws")
            + 5.0;
        let part =
            |range: std::ops::Range<usize>| RowMoments::from_rows(x.slice(ndarray::s![range, ..]));
        let mean = x.mean_axis(Axis(0)).expect("rows");
        let covariance = (&x - &mean).t().dot(&(&x - &mean)) / 19.0;
        let merged = |first: RowMoments, second: RowMoments| {
            let mut all = first;
            all.merge(&second);
            all
        };
        let left = merged(merged(part(0..3), part(3..11)), part(11..20));
        let right = merged(part(0..3), merged(part(3..11), part(11..20)));
        for merged in [left, right, part(0..20)] {
            assert_eq!(merged.n, 20);
            assert!((&merged.mean - &mean).iter().all(|e| e.abs() < 1e-13));
            assert!(
                (merged.covariance() - &covariance)
                    .iter()
                    .all(|e| e.abs() < 1e-13)
            );
        }
    }

    #[test]
    fn covariance_is_accurate_with_a_large_mean() {
        let x = RngKey { seed: 3 }
            .normal(Purpose::Check, 0, 0, 4000)
            .into_shape_with_order((2000, 2))
            .expect("draws");
        let far = RowMoments::from_rows((&x + 1e8).view()).covariance();
        let near = RowMoments::from_rows(x.view()).covariance();
        // The shifted numbers themselves are rounded to 1e-8.
        assert!((far - near).iter().all(|e| e.abs() < 1e-7));
    }
}
