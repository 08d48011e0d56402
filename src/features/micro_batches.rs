//! Samples that come in parts, regrouped into batches of the size that a call of an extractor has.

use anyhow::{Result, anyhow};
use ndarray::{Array2, Axis, concatenate, s};

use super::MICRO_BATCH;

/// Batches of [`MICRO_BATCH`] rows of all parts together; the last one may have fewer. Parts may have
/// any number of rows, but equal numbers of columns.
pub(super) struct MicroBatches<I> {
    parts: I,
    /// Rows that were read and not yet given.
    rest: Array2<f64>,
    /// Whether a part failed, after which nothing follows.
    failed: bool,
}

impl<I: Iterator<Item = Result<Array2<f64>>>> MicroBatches<I> {
    /// Begins with the first part.
    pub(super) fn new(parts: I) -> MicroBatches<I> {
        MicroBatches {
            parts,
            rest: Array2::zeros((0, 0)),
            failed: false,
        }
    }

    /// The rows of the first batch, which are not taken. There are none if there are no rows.
    ///
    /// # Errors
    /// Fails with the error of a part, or if parts differ in the number of columns.
    pub(super) fn peek(&mut self) -> Result<Array2<f64>> {
        self.fill()?;
        let count = self.rest.nrows().min(MICRO_BATCH);
        Ok(self.rest.slice(s![..count, ..]).to_owned())
    }

    /// Reads parts until there are rows for a batch, or no more parts.
    fn fill(&mut self) -> Result<()> {
        while self.rest.nrows() < MICRO_BATCH {
            let Some(part) = self.parts.next() else {
                return Ok(());
            };
            let part = part?;
            self.rest = match self.rest.is_empty() {
                true => part,
                false => concatenate(Axis(0), &[self.rest.view(), part.view()])
                    .map_err(|_| anyhow!("parts of samples differ in the number of columns"))?,
            };
        }
        Ok(())
    }
}

impl<I: Iterator<Item = Result<Array2<f64>>>> Iterator for MicroBatches<I> {
    type Item = Result<Array2<f64>>;

    fn next(&mut self) -> Option<Result<Array2<f64>>> {
        if self.failed {
            return None;
        }
        if let Err(e) = self.fill() {
            self.failed = true;
            return Some(Err(e));
        }
        let count = self.rest.nrows().min(MICRO_BATCH);
        if count == 0 {
            return None;
        }
        let batch = self.rest.slice(s![..count, ..]).to_owned();
        self.rest.slice_collapse(s![count.., ..]);
        Some(Ok(batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_those_of_all_parts_together() {
        let whole = Array2::from_shape_fn((3 * MICRO_BATCH + 7, 2), |(i, j)| (2 * i + j) as f64);
        for sizes in [
            vec![whole.nrows()],
            vec![1; whole.nrows()],
            vec![0, 50, 0, 30, 70, whole.nrows() - 150, 0],
        ] {
            let mut from = 0;
            let parts = sizes.iter().map(|size| {
                let part = whole.slice(s![from..from + size, ..]).to_owned();
                from += size;
                Ok(part)
            });
            let mut batches = MicroBatches::new(parts);
            assert_eq!(batches.peek().expect("rows").nrows(), MICRO_BATCH);
            let found: Vec<Array2<f64>> = batches.collect::<Result<_>>().expect("rows");
            let counts: Vec<usize> = found.iter().map(Array2::nrows).collect();
            assert_eq!(counts, [MICRO_BATCH, MICRO_BATCH, MICRO_BATCH, 7]);
            let views: Vec<_> = found.iter().map(|batch| batch.view()).collect();
            assert_eq!(concatenate(Axis(0), &views).expect("rows"), whole);
        }
    }

    #[test]
    fn an_error_of_a_part_ends_the_batches() {
        let parts = [
            Ok(Array2::zeros((70, 2))),
            Err(anyhow!("gone")),
            Ok(Array2::zeros((70, 2))),
        ];
        let found: Vec<Result<Array2<f64>>> = MicroBatches::new(parts.into_iter()).collect();
        assert_eq!(found.len(), 2);
        assert!(found[0].is_ok() && found[1].is_err());
        let unequal = [Ok(Array2::zeros((3, 2))), Ok(Array2::zeros((3, 4)))];
        assert!(MicroBatches::new(unequal.into_iter()).peek().is_err());
    }
}
