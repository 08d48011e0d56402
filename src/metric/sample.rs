//! One set of feature vectors, in an order that depends on the vectors alone.

use std::sync::OnceLock;

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::num::source::Source;

/// Rows that are read at a time.
pub const ROWS: usize = 1024;

/// Feature vectors of one side, and where an extractor classifies, its logits.
///
/// Rows are sorted by the SHA-256 of their numbers. Whatever is then summed, split or drawn by position gives
/// the same digits for the same vectors, in whatever order they came: nothing else in this module has to
/// care. Rows with one hash are one vector, so that ties do not matter.
pub struct Sample<'a> {
    source: &'a dyn Source,
    order: Vec<usize>,
    /// Of the rows in that order.
    hashes: Vec<[u8; 32]>,
    /// Columns that are not the same number throughout.
    varying: Vec<usize>,
    logits: Option<ArrayView2<'a, f64>>,
    all: OnceLock<Array2<f64>>,
}

impl<'a> Sample<'a> {
    /// Reads all rows once, some at a time.
    ///
    /// # Errors
    /// Where a row cannot be read or holds a number that is not finite or whose square would not be, or where all are so
    /// small that squares vanish.
    pub fn new(source: &'a dyn Source) -> Result<Sample<'a>, String> {
        let (n, d) = source.shape();
        let first = if n > 0 {
            source.take(&[0])?
        } else {
            Array2::zeros((1, d))
        };
        let blocks: Vec<usize> = (0..n).step_by(ROWS).collect();
        let scanned: Vec<Scan> = blocks
            .into_par_iter()
            .map(|start| scan(source, (start..n.min(start + ROWS)).collect(), first.view()))
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
        if largest > 0.0 && largest < SMALLEST {
            return Err(format!(
                "no number is farther from 0 than {largest:e}, and powers of such vanish; expected some above {SMALLEST:e}: \
                 multiply all sets by one factor"
            ));
        }
        Ok(Sample {
            source,
            order,
            hashes,
            varying,
            logits: None,
            all: OnceLock::new(),
        })
    }

    /// The first `n` of the samples, in their own order: a choice that does not depend on how they came.
    pub fn first(mut self, n: usize) -> Sample<'a> {
        self.order.truncate(n);
        self.hashes.truncate(n);
        self.all = OnceLock::new();
        self
    }

    /// The same with the class logits of each row, in the source's order.
    pub fn with_logits(self, logits: Option<ArrayView2<'a, f64>>) -> Sample<'a> {
        Sample { logits, ..self }
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub fn width(&self) -> usize {
        self.source.shape().1
    }

    /// Columns that are not the same number throughout.
    pub fn varying(&self) -> &[usize] {
        &self.varying
    }

    /// The rows at the given positions.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn rows(&self, positions: &[usize]) -> Result<Array2<f64>, String> {
        let at: Vec<usize> = positions.iter().map(|p| self.order[*p]).collect();
        self.source.take(&at)
    }

    /// All rows, read when first asked for and then kept.
    ///
    /// # Errors
    /// As [`Sample::rows`].
    pub fn all(&self) -> Result<ArrayView2<'_, f64>, String> {
        if self.all.get().is_none() {
            let rows = self.source.take(&self.order)?;
            let _ = self.all.set(rows);
        }
        Ok(self.all.get().expect("set above").view())
    }

    /// What belongs to the rows, put into the order in which the rows came.
    pub fn as_they_came<T: Copy>(&self, values: &[T]) -> Vec<T> {
        let mut out = values.to_vec();
        self.order
            .iter()
            .zip(values)
            .for_each(|(at, value)| out[*at] = *value);
        out
    }

    /// What belongs to the rows as they came, put into their order here.
    pub fn in_order<T: Copy>(&self, came: &[T]) -> Vec<T> {
        self.order.iter().map(|at| came[*at]).collect()
    }

    /// How many samples are there at least so many times, each of them counted.
    pub fn repeated(&self, times: usize) -> usize {
        let groups = self.hashes.chunk_by(|a, b| a == b);
        groups.map(<[_]>::len).filter(|size| *size >= times).sum()
    }

    /// How many samples are in the other set too.
    pub fn shared(&self, other: &Sample) -> usize {
        self.hashes
            .iter()
            .filter(|hash| other.hashes.binary_search(hash).is_ok())
            .count()
    }

    /// The logits of all rows, in the order of the rows.
    pub fn logits(&self) -> Option<Array2<f64>> {
        self.logits.as_ref().map(|l| l.select(Axis(0), &self.order))
    }
}

/// Beyond this, squares of sums of squares, which errors are made of, leave double precision.
const LARGEST: f64 = 1e30;
/// Where all are smaller, those vanish.
const SMALLEST: f64 = 1e-30;

/// What one reading of some rows tells.
struct Scan {
    hashes: Vec<[u8; 32]>,
    varies: Vec<bool>,
    largest: f64,
}

fn scan(source: &dyn Source, at: Vec<usize>, first: ArrayView2<f64>) -> Result<Scan, String> {
    let rows = source.take(&at)?;
    let mut varies = vec![false; rows.ncols()];
    let mut hashes = Vec::with_capacity(at.len());
    let mut bytes = Vec::with_capacity(8 * rows.ncols());
    let mut largest = 0.0f64;
    for (row, i) in rows.rows().into_iter().zip(at) {
        bytes.clear();
        for ((v, first), varies) in row.iter().zip(first.row(0)).zip(&mut varies) {
            if !v.is_finite() {
                return Err(format!("sample {i} holds {v}, expected finite numbers"));
            }
            largest = largest.max(v.abs());
            *varies |= v != first;
            // A zero is one number, whatever its sign.
            bytes.extend((v + 0.0).to_le_bytes());
        }
        if largest > LARGEST {
            return Err(format!(
                "sample {i} holds a number of size {largest:e}, whose powers are beyond double precision; expected sizes up \
                 to {LARGEST:e}: divide all sets by one factor"
            ));
        }
        hashes.push(Sha256::digest(&bytes).into());
    }
    Ok(Scan {
        hashes,
        varies,
        largest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::normal;

    #[test]
    fn the_same_vectors_come_in_the_same_order() {
        let x = normal(1, 30, 2, 0.0, 1.0);
        let back = x.slice(ndarray::s![..;-1, ..]);
        let (one, two) = (
            Sample::new(&x).expect("finite"),
            Sample::new(&back).expect("finite"),
        );
        assert_eq!(one.all(), two.all());
        assert_ne!(one.all().expect("in memory"), x);
        assert_eq!(
            one.rows(&[4]).expect("in memory").row(0),
            one.all().expect("in memory").row(4)
        );
        let logits = two.with_logits(Some(back)).logits().expect("given");
        assert_eq!(logits, one.all().expect("in memory"));
    }

    #[test]
    fn numbers_that_are_not_finite_are_named_by_their_row() {
        let mut x = normal(1, 9, 2, 0.0, 1.0);
        x[[7, 1]] = f64::NAN;
        assert!(
            Sample::new(&x)
                .err()
                .is_some_and(|e| e.contains("sample 7") && e.contains("NaN"))
        );
    }

    #[test]
    fn numbers_whose_squares_overflow_or_vanish_are_refused() {
        let x = normal(1, 9, 2, 0.0, 1.0);
        for (scale, word) in [(1e200, "1e30"), (1e-200, "1e-30")] {
            let scaled = &x * scale;
            assert!(
                Sample::new(&scaled).err().is_some_and(|e| e.contains(word)),
                "{scale}"
            );
        }
        for scale in [1e25, 1e-25, 0.0] {
            assert!(Sample::new(&(&x * scale)).is_ok(), "{scale}");
        }
    }

    #[test]
    fn copies_are_counted_and_the_first_are_the_same_however_they_came() {
        let mut x = normal(1, 20, 2, 0.0, 1.0);
        for (at, of) in [(3, 1), (5, 1), (9, 2)] {
            let row = x.row(of).to_owned();
            x.row_mut(at).assign(&row);
        }
        let back = x.slice(ndarray::s![..;-1, ..]);
        let (one, two) = (
            Sample::new(&x).expect("finite"),
            Sample::new(&back).expect("finite"),
        );
        assert_eq!([1, 2, 3, 4].map(|times| one.repeated(times)), [20, 5, 3, 0]);
        let (other, copies) = (normal(2, 5, 2, 0.0, 1.0), x.slice(ndarray::s![..4, ..]));
        assert_eq!(one.shared(&Sample::new(&other).expect("finite")), 0);
        assert_eq!(one.shared(&Sample::new(&copies).expect("finite")), 6);
        let came: Vec<usize> = (0..20).collect();
        assert_eq!(one.as_they_came(&one.in_order(&came)), came);
        assert_eq!(one.first(7).all(), two.first(7).all());
    }

    #[test]
    fn single_precision_is_the_same_sample() {
        let x = normal(1, 40, 3, 0.0, 1.0).mapv(|v| v as f32);
        let wide = x.mapv(f64::from);
        assert_eq!(
            Sample::new(&x).expect("finite").all(),
            Sample::new(&wide).expect("finite").all()
        );
    }

    #[test]
    fn columns_of_one_number_are_known() {
        let mut x = normal(1, 9, 3, 0.0, 1.0);
        x.column_mut(1).fill(0.1);
        assert_eq!(Sample::new(&x).expect("finite").varying(), [0, 2]);
    }
}
