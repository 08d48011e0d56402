//! Mean and covariance of rows in f64, mergeable: parts give what the whole would give.

use ndarray::{Array1, Array2, ArrayView2, Axis};

use super::linalg;

/// Count, mean and centred second moment of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    pub n: usize,
    pub mean: Array1<f64>,
    /// Σ (x − mean)(x − mean)ᵀ
    scatter: Array2<f64>,
}

impl Moments {
    /// Moments of the rows of `x`, by two passes.
    pub fn of(x: ArrayView2<f64>) -> Moments {
        let n = x.nrows();
        let mean = x.mean_axis(Axis(0)).unwrap_or_else(|| Array1::zeros(x.ncols()));
        let centred = &x - &mean;
        let scatter = linalg::matmul(centred.t(), centred.view());
        Moments { n, mean, scatter }
    }

    /// Moments of both parts together (Chan, Golub & LeVeque 1983).
    pub fn merge(&self, other: &Moments) -> Moments {
        let n = self.n + other.n;
        if n == 0 {
            return self.clone();
        }
        let (a, b) = (self.n as f64, other.n as f64);
        let gap = &other.mean - &self.mean;
        let column = gap.view().insert_axis(Axis(1));
        let between = column.dot(&column.t()) * (a * b / (a + b));
        Moments { n, mean: &self.mean + &(&gap * (b / (a + b))), scatter: &self.scatter + &other.scatter + between }
    }

    /// The covariance with divisor n − 1; zero for a single row.
    pub fn covariance(&self) -> Array2<f64> {
        &self.scatter / (self.n.max(2) - 1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::key::{Key, Purpose};

    #[test]
    fn parts_merge_to_the_whole_in_any_grouping() {
        let x =
            Key { seed: 3 }.normal(Purpose::Check, 0, 0, 60).into_shape_with_order((20, 3)).expect("60 draws") + 5.0;
        let part = |range: std::ops::Range<usize>| Moments::of(x.slice(ndarray::s![range, ..]));
        let whole = Moments::of(x.view());
        let left = part(0..3).merge(&part(3..11)).merge(&part(11..20));
        let right = part(0..3).merge(&part(3..11).merge(&part(11..20)));
        for merged in [left, right] {
            assert_eq!(merged.n, 20);
            assert!((&merged.mean - &whole.mean).iter().all(|e| e.abs() < 1e-13));
            assert!((merged.covariance() - whole.covariance()).iter().all(|e| e.abs() < 1e-13));
        }
    }
}
