//! Balls around samples that reach to their k-th neighbour, and which points lie in them.

use ndarray::{ArrayView1, ArrayView2};

use super::pairs;

/// Samples with the squared distances to their k-th neighbours, themselves not counted.
pub struct Balls<'a> {
    centres: ArrayView2<'a, f64>,
    radius: Vec<f64>,
}

impl<'a> Balls<'a> {
    /// Balls around all rows; there are more than `k`.
    pub fn around(centres: ArrayView2<'a, f64>, k: usize) -> Balls<'a> {
        let parts = pairs::by_rows(centres, centres, |first, distances| {
            let rows = distances.rows().into_iter().enumerate();
            rows.map(|(i, row)| kth(row, first + i, k)).collect::<Vec<_>>()
        });
        Balls { centres, radius: parts.into_iter().flatten().collect() }
    }

    /// For each point, in how many balls it lies.
    pub fn around_points(&self, points: ArrayView2<f64>) -> Vec<usize> {
        let parts = pairs::by_rows(points, self.centres, |_, distances| {
            let inside = |row: ArrayView1<f64>| row.iter().zip(&self.radius).filter(|(d, r)| d < r).count();
            distances.rows().into_iter().map(inside).collect::<Vec<_>>()
        });
        parts.into_iter().flatten().collect()
    }

    /// For each ball, whether it holds a point.
    pub fn holding(&self, points: ArrayView2<f64>) -> Vec<bool> {
        let parts = pairs::by_rows(self.centres, points, |first, distances| {
            let rows = distances.rows().into_iter().zip(&self.radius[first..]);
            rows.map(|(row, radius)| row.iter().any(|d| d < radius)).collect::<Vec<_>>()
        });
        parts.into_iter().flatten().collect()
    }
}

/// The k-th smallest of the distances but that at `own`.
fn kth(row: ArrayView1<f64>, own: usize, k: usize) -> f64 {
    let mut smallest: Vec<f64> = Vec::with_capacity(k + 1);
    for (j, d) in row.iter().enumerate() {
        if j != own && (smallest.len() < k || *d < smallest[k - 1]) {
            smallest.insert(smallest.partition_point(|s| s <= d), *d);
            smallest.truncate(k);
        }
    }
    smallest.last().copied().unwrap_or(f64::INFINITY)
}
