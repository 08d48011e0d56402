//! The rows of an extractor's calls. Where a row's output depends on its place in the call, the place follows from the
//! sample's own numbers, so that the order of a set does not change its features.

use ndarray::{ArrayD, ArrayView1, Axis};
use sha2::{Digest, Sha256};

use crate::model::call_rows::{CallRows, ROWS_TOGETHER, RowPlaces};
use crate::model::onnx::Session;
use crate::num::key::{Purpose, RngKey, SampleId};

/// The number of values of samples that are tried, at least one call's.
const TRIED_VALUES: usize = 1 << 12;

/// The largest number of calls with other samples that are tried.
const MAX_TRIALS: usize = 32;

/// Returns whether a row's output depends on its place, found by calls whose rows are rotated. `shape` is that of one
/// sample, and `bytes` says that the extractor takes numbers from 0 to 255. If a call fails, nothing is known to depend
/// on anything; the first samples get the error.
pub(super) fn find_row_places(
    session: &mut Session,
    (input, outputs): (&str, &[&str]),
    shape: &[usize],
    bytes: bool,
) -> RowPlaces {
    let dim: usize = shape.iter().product();
    let trials = (TRIED_VALUES / (ROWS_TOGETHER * dim.max(1))).clamp(1, MAX_TRIALS);
    let mut depends = |trial: usize| {
        let (key, count) = (RngKey { seed: 0 }, ROWS_TOGETHER * dim);
        let drawn = match bytes {
            true => key.uniform(Purpose::Check, 2, trial as u64, count) * 255.0,
            false => key.normal(Purpose::Check, 2, trial as u64, count),
        };
        let samples = ArrayD::from_shape_vec([&[ROWS_TOGETHER], shape].concat(), drawn.to_vec())
            .expect("four samples");
        let whole = session.run(vec![(input, samples.view())], outputs).ok()?;
        for by in 1..ROWS_TOGETHER {
            let rows: Vec<usize> = (0..ROWS_TOGETHER)
                .map(|i| (i + by) % ROWS_TOGETHER)
                .collect();
            let rotated = samples.select(Axis(0), &rows);
            let part = session.run(vec![(input, rotated.view())], outputs).ok()?;
            for (whole, part) in whole.iter().zip(&part) {
                // An output without the rows is refused where it is used.
                let comparable = whole.shape().first() == Some(&ROWS_TOGETHER);
                let same = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits();
                if comparable && !whole.select(Axis(0), &rows).iter().zip(part).all(same) {
                    return Some(());
                }
            }
        }
        None
    };
    match (0..trials).any(|trial| depends(trial).is_some()) {
        true => RowPlaces::BySample,
        false => RowPlaces::Free,
    }
}

/// Returns the rows of one call for some samples, one along the first axis each.
pub(super) fn rows_of_call(samples: &ArrayD<f64>, places: RowPlaces) -> CallRows {
    let ids: Vec<SampleId> = match places {
        RowPlaces::Free => (0..samples.shape()[0] as SampleId).collect(),
        RowPlaces::BySample => {
            let flat = samples
                .to_shape((samples.shape()[0], samples.len() / samples.shape()[0]))
                .expect("the numbers of each sample");
            flat.rows().into_iter().map(number_of).collect()
        }
    };
    CallRows::padded(&ids, places)
}

/// A number that stands for a sample, from its own numbers alone.
fn number_of(sample: ArrayView1<f64>) -> SampleId {
    let mut hash = Sha256::new();
    for value in sample {
        hash.update(value.to_le_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    SampleId::from(digest[0])
}
