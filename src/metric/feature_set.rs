//! One set of feature vectors, in an order that depends only on the vectors.

use std::sync::OnceLock;

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::num::source::RowSource;

/// The number of rows that are read at a time.
pub const READ_BLOCK_ROWS: usize = 1024;

/// One set of feature vectors, one row per sample, and optionally the class logits of each sample.
///
/// The rows are sorted by the SHA-256 of their numbers ("hash order"). Sums, splits and draws by
/// position therefore give the same digits for the same vectors, whatever their input order.
/// Statistics need no further care for the order. Rows with the same hash are the same vector, so
/// ties do not matter.
pub struct FeatureSet<'a> {
    source: &'a dyn RowSource,
    /// The input index of each row, in hash order.
    order: Vec<usize>,
    /// The SHA-256 of each row, in hash order.
    hashes: Vec<[u8; 32]>,
    /// The indices of the columns that are not constant.
    varying_columns: Vec<usize>,
    /// The class logits of each sample, in input order.
    logits: Option<ArrayView2<'a, f64>>,
    /// All rows in hash order, after the first call of [`FeatureSet::all_rows`].
    cached_rows: OnceLock<Array2<f64>>,
}

impl<'a> FeatureSet<'a> {
    /// Reads all rows once, block by block, and sorts them.
    ///
    /// # Errors
    /// Fails if a row cannot be read, or if a number is not finite or above 1e30 in magnitude. Also
    /// fails if all numbers are below 1e-30 in magnitude but not all 0.
    pub fn new(source: &'a dyn RowSource) -> Result<FeatureSet<'a>, String> {
        let (n, d) = source.size();
        let first = if n > 0 {
            source.read_rows(&[0])?
        } else {
            Array2::zeros((1, d))
        };
        let blocks: Vec<usize> = (0..n).step_by(READ_BLOCK_ROWS).collect();
        let scanned: Vec<RowBlockScan> = blocks
            .into_par_iter()
            .map(|start| {
                scan_row_block(
                    source,
                    (start..n.min(start + READ_BLOCK_ROWS)).collect(),
                    first.view(),
                )
            })
            .collect::<Result<_, _>>()?;
        let hashes: Vec<[u8; 32]> = scanned
            .iter()
            .flat_map(|s| s.hashes.iter().copied())
            .collect();
        let mut order: Vec<usize> = (0..n).collect();
        order.par_sort_unstable_by(|a, b| hashes[*a].cmp(&hashes[*b]));
        let hashes = order.iter().map(|at| hashes[*at]).collect();
        let varying = (0..d)
            .filter(|j| scanned.iter().any(|s| s.varies[*j]))
            .collect();
        let largest = scanned.iter().fold(0.0f64, |most, s| most.max(s.largest));
        if largest > 0.0 && largest < MIN_MAGNITUDE {
            return Err(format!(
                "the largest magnitude is {largest:e}, whose powers vanish in double precision; \
                 expected a magnitude above {MIN_MAGNITUDE:e}: multiply all sets by the same factor"
            ));
        }
        Ok(FeatureSet {
            source,
            order,
            hashes,
            varying_columns: varying,
            logits: None,
            cached_rows: OnceLock::new(),
        })
    }

    /// The first `n` samples in hash order. The choice does not depend on the input order.
    pub fn truncated(mut self, n: usize) -> FeatureSet<'a> {
        self.order.truncate(n);
        self.hashes.truncate(n);
        self.cached_rows = OnceLock::new();
        self
    }

    /// This set with the class logits of each sample, in input order.
    pub fn with_logits(self, logits: Option<ArrayView2<'a, f64>>) -> FeatureSet<'a> {
        FeatureSet { logits, ..self }
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether the set has no samples.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The number of columns: numbers per sample.
    pub fn width(&self) -> usize {
        self.source.size().1
    }

    /// The indices of the columns that are not constant.
    pub fn varying_columns(&self) -> &[usize] {
        &self.varying_columns
    }

    /// The rows at the given positions in hash order.
    ///
    /// # Errors
    /// Fails if the rows cannot be read.
    pub fn rows_at(&self, positions: &[usize]) -> Result<Array2<f64>, String> {
        let at: Vec<usize> = positions.iter().map(|p| self.order[*p]).collect();
        self.source.read_rows(&at)
    }

    /// All rows in hash order. The first call reads them; later calls use the cached rows.
    ///
    /// # Errors
    /// Fails if the rows cannot be read.
    pub fn all_rows(&self) -> Result<ArrayView2<'_, f64>, String> {
        if self.cached_rows.get().is_none() {
            let rows = self.source.read_rows(&self.order)?;
            let _ = self.cached_rows.set(rows);
        }
        Ok(self.cached_rows.get().expect("set above").view())
    }

    /// Reorders one value per row from hash order to input order.
    pub fn in_input_order<T: Copy>(&self, values: &[T]) -> Vec<T> {
        let mut out = values.to_vec();
        self.order
            .iter()
            .zip(values)
            .for_each(|(at, value)| out[*at] = *value);
        out
    }

    /// Reorders one value per row from input order to hash order.
    pub fn in_hash_order<T: Copy>(&self, values: &[T]) -> Vec<T> {
        self.order.iter().map(|at| values[*at]).collect()
    }

    /// The number of samples whose vector occurs at least `times` times in this set. Every copy
    /// counts.
    pub fn count_repeated(&self, times: usize) -> usize {
        let groups = self.hashes.chunk_by(|a, b| a == b);
        groups.map(<[_]>::len).filter(|size| *size >= times).sum()
    }

    /// The number of samples of this set whose vector also occurs in the other set.
    pub fn count_shared(&self, other: &FeatureSet) -> usize {
        self.hashes
            .iter()
            .filter(|hash| other.hashes.binary_search(hash).is_ok())
            .count()
    }

    /// The class logits of all samples, in hash order.
    pub fn logits(&self) -> Option<Array2<f64>> {
        self.logits.as_ref().map(|l| l.select(Axis(0), &self.order))
    }
}

/// The largest accepted magnitude of a number. Standard errors need squares of sums of squares,
/// which overflow beyond it.
const MAX_MAGNITUDE: f64 = 1e30;
/// The smallest accepted value for the largest magnitude of a set. Below it, squares of sums of
/// squares vanish.
const MIN_MAGNITUDE: f64 = 1e-30;

/// The result of reading one block of rows.
struct RowBlockScan {
    /// The SHA-256 of each row.
    hashes: Vec<[u8; 32]>,
    /// For each column, whether a row differs from the first row of the set.
    varies: Vec<bool>,
    /// The largest magnitude in the block.
    largest: f64,
}

/// Reads the rows with the indices `at`, hashes them and checks their numbers. `first` is the first
/// row of the set.
fn scan_row_block(
    source: &dyn RowSource,
    at: Vec<usize>,
    first: ArrayView2<f64>,
) -> Result<RowBlockScan, String> {
    let rows = source.read_rows(&at)?;
    let mut varies = vec![false; rows.ncols()];
    let mut hashes = Vec::with_capacity(at.len());
    let mut bytes = Vec::with_capacity(8 * rows.ncols());
    let mut largest = 0.0f64;
    for (row, i) in rows.rows().into_iter().zip(at) {
        bytes.clear();
        for ((v, first), varies) in row.iter().zip(first.row(0)).zip(&mut varies) {
            if !v.is_finite() {
                return Err(format!("sample {i} contains {v}, expected finite numbers"));
            }
            largest = largest.max(v.abs());
            *varies |= v != first;
            // Adding 0 turns −0 into 0, so both zeros have the same hash.
            bytes.extend((v + 0.0).to_le_bytes());
        }
        if largest > MAX_MAGNITUDE {
            return Err(format!(
                "sample {i} contains a number of magnitude {largest:e}, whose powers are beyond \
                 double precision; expected magnitudes of at most {MAX_MAGNITUDE:e}: divide all \
                 sets by the same factor"
            ));
        }
        hashes.push(Sha256::digest(&bytes).into());
    }
    Ok(RowBlockScan {
        hashes,
        varies,
        largest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::normal_samples;

    #[test]
    fn row_order_depends_on_vectors_alone() {
        let x = normal_samples(1, 30, 2, 0.0, 1.0);
        let back = x.slice(ndarray::s![..;-1, ..]);
        let (one, two) = (
            FeatureSet::new(&x).expect("finite"),
            FeatureSet::new(&back).expect("finite"),
        );
        assert_eq!(one.all_rows(), two.all_rows());
        assert_ne!(one.all_rows().expect("in memory"), x);
        assert_eq!(
            one.rows_at(&[4]).expect("in memory").row(0),
            one.all_rows().expect("in memory").row(4)
        );
        let logits = two.with_logits(Some(back)).logits().expect("given");
        assert_eq!(logits, one.all_rows().expect("in memory"));
    }

    #[test]
    fn non_finite_features_are_refused_with_row() {
        let mut x = normal_samples(1, 9, 2, 0.0, 1.0);
        x[[7, 1]] = f64::NAN;
        assert!(
            FeatureSet::new(&x)
                .err()
                .is_some_and(|e| e.contains("sample 7") && e.contains("NaN"))
        );
    }

    #[test]
    fn overflowing_or_vanishing_features_are_refused() {
        let x = normal_samples(1, 9, 2, 0.0, 1.0);
        for (scale, word) in [(1e200, "1e30"), (1e-200, "1e-30")] {
            let scaled = &x * scale;
            assert!(
                FeatureSet::new(&scaled)
                    .err()
                    .is_some_and(|e| e.contains(word)),
                "{scale}"
            );
        }
        for scale in [1e25, 1e-25, 0.0] {
            assert!(FeatureSet::new(&(&x * scale)).is_ok(), "{scale}");
        }
    }

    #[test]
    fn duplicates_and_truncation_ignore_input_order() {
        let mut x = normal_samples(1, 20, 2, 0.0, 1.0);
        for (at, of) in [(3, 1), (5, 1), (9, 2)] {
            let row = x.row(of).to_owned();
            x.row_mut(at).assign(&row);
        }
        let back = x.slice(ndarray::s![..;-1, ..]);
        let (one, two) = (
            FeatureSet::new(&x).expect("finite"),
            FeatureSet::new(&back).expect("finite"),
        );
        assert_eq!(
            [1, 2, 3, 4].map(|times| one.count_repeated(times)),
            [20, 5, 3, 0]
        );
        let (other, copies) = (
            normal_samples(2, 5, 2, 0.0, 1.0),
            x.slice(ndarray::s![..4, ..]),
        );
        assert_eq!(
            one.count_shared(&FeatureSet::new(&other).expect("finite")),
            0
        );
        assert_eq!(
            one.count_shared(&FeatureSet::new(&copies).expect("finite")),
            6
        );
        let indices: Vec<usize> = (0..20).collect();
        assert_eq!(one.in_input_order(&one.in_hash_order(&indices)), indices);
        assert_eq!(one.truncated(7).all_rows(), two.truncated(7).all_rows());
    }

    #[test]
    fn f32_features_equal_f64_features() {
        let x = normal_samples(1, 40, 3, 0.0, 1.0).mapv(|v| v as f32);
        let wide = x.mapv(f64::from);
        assert_eq!(
            FeatureSet::new(&x).expect("finite").all_rows(),
            FeatureSet::new(&wide).expect("finite").all_rows()
        );
    }

    #[test]
    fn constant_columns_are_detected() {
        let mut x = normal_samples(1, 9, 3, 0.0, 1.0);
        x.column_mut(1).fill(0.1);
        assert_eq!(
            FeatureSet::new(&x).expect("finite").varying_columns(),
            [0, 2]
        );
    }
}
