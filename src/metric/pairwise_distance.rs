//! Squared distances between rows, without the cancellation of |x|² + |y|² − 2x·y.
//!
//! Every distance is the sum of squared differences in the order of the columns, independent of all
//! other rows. Equal pairs therefore have equal distances to the last bit, d(x, y) = d(y, x), and
//! ties remain ties. Strict comparisons, such as those with the radius of a ball, rely on this.

use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

/// The number of rows in one block. Blocks bound the memory; their results are combined in order.
pub(super) const ROWS_PER_BLOCK: usize = 64;

/// The number of rows of `y` that are processed together, one per lane of the vector units.
const LANES: usize = 8;

/// The squared distances |x_i − y_j|² between all rows, shape (m, n) for m rows of `x` and n rows
/// of `y`.
pub(super) fn squared_distances(x: ArrayView2<f64>, y: ArrayView2<f64>) -> Array2<f64> {
    let (m, n, d) = (x.nrows(), y.nrows(), x.ncols());
    let x = x.as_standard_layout();
    let mut out = Array2::zeros((m, n));
    let mut panel = vec![[0.0; LANES]; d];
    for first in (0..n).step_by(LANES) {
        let width = LANES.min(n - first);
        for j in 0..LANES {
            // Lanes beyond the last row repeat this row; their sums are discarded.
            let row = y.row(first + j.min(width - 1));
            panel.iter_mut().zip(row).for_each(|(lane, v)| lane[j] = *v);
        }
        for i in (0..m).step_by(2) {
            let pair = [i, (i + 1).min(m - 1)];
            let [a, b] = pair.map(|i| x.slice(s![i, ..]));
            let (Some(a), Some(b)) = (a.to_slice(), b.to_slice()) else {
                continue;
            };
            let sums = distance_tile(a, b, &panel);
            for (row, sums) in pair.iter().zip(sums) {
                for (j, sum) in sums[..width].iter().enumerate() {
                    out[[*row, first + j]] = *sum;
                }
            }
        }
    }
    out
}

/// The squared distances of two rows, `a` and `b`, to eight rows, stored column by column in
/// `panel`. The function uses AVX2 if the processor has it; the sums are the same without.
fn distance_tile(a: &[f64], b: &[f64], panel: &[[f64; LANES]]) -> [[f64; LANES]; 2] {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn distance_tile_avx2(a: &[f64], b: &[f64], panel: &[[f64; LANES]]) -> [[f64; LANES]; 2] {
            tile_sums(a, b, panel)
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the check above found that the processor has AVX2.
            return unsafe { distance_tile_avx2(a, b, panel) };
        }
    }
    tile_sums(a, b, panel)
}

/// The sums of [`distance_tile`]: sixteen independent sums, enough to keep the vector units busy.
#[inline(always)]
fn tile_sums(a: &[f64], b: &[f64], panel: &[[f64; LANES]]) -> [[f64; LANES]; 2] {
    let mut sums = [[0.0; LANES]; 2];
    for ((a, b), y) in a.iter().zip(b).zip(panel) {
        for j in 0..LANES {
            let (p, q) = (a - y[j], b - y[j]);
            sums[0][j] += p * p;
            sums[1][j] += q * q;
        }
    }
    sums
}

/// Calls `work` for every block of rows of `x`. Its arguments are the index of the first row and
/// the squared distances of the block to all rows of `y`. Blocks run in parallel; the results are
/// in the order of the blocks.
pub(super) fn map_distance_blocks<T: Send>(
    x: ArrayView2<f64>,
    y: ArrayView2<f64>,
    work: impl Fn(usize, Array2<f64>) -> T + Sync,
) -> Vec<T> {
    x.axis_chunks_iter(Axis(0), ROWS_PER_BLOCK)
        .into_par_iter()
        .enumerate()
        .map(|(c, part)| work(c * ROWS_PER_BLOCK, squared_distances(part, y)))
        .collect()
}

/// The lower median of the squared distances between distinct rows, with a relative accuracy of
/// 2⁻²⁸; 0 for fewer than two rows.
///
/// Non-negative doubles have the same order as their bit patterns. Two histograms of the leading
/// bits therefore find the median without storing the n(n − 1)/2 distances.
pub(super) fn median_squared_distance(x: ArrayView2<f64>) -> f64 {
    /// The number of bits that each histogram resolves.
    const BITS: u32 = 20;
    /// Up to this number of distances, they are stored and sorted instead.
    const MAX_SORTED_DISTANCES: usize = 1 << 18;
    let n = x.nrows() as u64;
    if x.nrows() * x.nrows().saturating_sub(1) / 2 <= MAX_SORTED_DISTANCES {
        let all = squared_distances(x, x);
        let mut stored: Vec<f64> = (0..x.nrows())
            .flat_map(|i| (0..i).map(move |j| [i, j]))
            .map(|at| all[at])
            .collect();
        if stored.is_empty() {
            return 0.0;
        }
        let middle = (stored.len() - 1) / 2;
        let found = stored
            .select_nth_unstable_by(middle, f64::total_cmp)
            .1
            .to_bits();
        // The result has as many bits as the histograms resolve, so it does not depend on the
        // method.
        return f64::from_bits(found >> (64 - 2 * BITS) << (64 - 2 * BITS));
    }
    let (mut rank, mut prefix) = (((n * n.saturating_sub(1)) / 2).saturating_sub(1) / 2, 0u64);
    for shift in [64 - BITS, 64 - 2 * BITS] {
        let empty = || vec![0u64; 1 << BITS];
        let count = |mut counts: Vec<u64>, first: usize| {
            let last = (first + ROWS_PER_BLOCK).min(x.nrows());
            let distances =
                squared_distances(x.slice(s![first..last, ..]), x.slice(s![first.., ..]));
            for (i, row) in distances.rows().into_iter().enumerate() {
                for bits in row.iter().skip(i + 1).map(|d| d.to_bits()) {
                    if bits.checked_shr(shift + BITS).unwrap_or(0) == prefix {
                        counts[(bits >> shift) as usize & ((1 << BITS) - 1)] += 1;
                    }
                }
            }
            counts
        };
        let add = |mut a: Vec<u64>, b: Vec<u64>| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            a
        };
        let starts: Vec<usize> = (0..x.nrows()).step_by(ROWS_PER_BLOCK).collect();
        let counts = starts.into_par_iter().fold(empty, count).reduce(empty, add);
        let mut below = 0;
        let found = counts.iter().position(|c| {
            below += c;
            below > rank
        });
        let bucket = found.unwrap_or(0);
        rank -= below - counts[bucket];
        prefix = prefix << BITS | bucket as u64;
    }
    f64::from_bits(prefix << (64 - 2 * BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::normal_samples;

    #[test]
    fn squared_distances_do_not_depend_on_row_position() {
        let (x, y) = (
            normal_samples(1, 13, 5, 0.0, 1.0),
            normal_samples(2, 21, 5, 0.3, 2.0),
        );
        let all = squared_distances(x.view(), y.view());
        let back = squared_distances(y.view(), x.view());
        for i in 0..13 {
            for j in 0..21 {
                let want: f64 = (0..5).map(|k| (x[[i, k]] - y[[j, k]]).powi(2)).sum();
                assert!((all[[i, j]] - want).abs() < 1e-13);
                assert_eq!(all[[i, j]], back[[j, i]]);
                let alone = squared_distances(x.slice(s![i..=i, ..]), y.slice(s![j..=j, ..]));
                assert_eq!(all[[i, j]], alone[[0, 0]]);
            }
        }
        // A transposed view is also read row by row.
        let turned = x.t().to_owned();
        assert_eq!(squared_distances(turned.t(), y.view()), all);
    }

    #[test]
    fn median_squared_distance_matches_sorting() {
        for n in [2, 3, 7, 200, 800] {
            let x = normal_samples(3, n, 4, 0.0, 1.0);
            let all = squared_distances(x.view(), x.view());
            let mut sorted: Vec<f64> = (0..n)
                .flat_map(|i| (0..i).map(move |j| (i, j)))
                .map(|p| all[p])
                .collect();
            sorted.sort_by(f64::total_cmp);
            let want = sorted[(sorted.len() - 1) / 2];
            assert!(
                (median_squared_distance(x.view()) / want - 1.0).abs() < 1e-8,
                "n = {n}"
            );
        }
        assert_eq!(median_squared_distance(Array2::ones((9, 2)).view()), 0.0);
    }
}
