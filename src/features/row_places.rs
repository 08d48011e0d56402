//! The rows of an extractor's calls. Where a row's output depends on its place in the call, the place follows from the
//! sample's own numbers, so that the order of a set does not change its features.

use ndarray::{ArrayD, ArrayView1, Axis};
use sha2::{Digest, Sha256};

use crate::model::call_rows::{self, CallRows, ROWS_TOGETHER, RowPlaces};
use crate::model::onnx::Session;
use crate::num::key::{Purpose, RngKey, SampleId};

/// Returns whether a row's output depends on its place, found by calls whose rows are rotated. `shape` is that of one
/// sample, and `bytes` says that the extractor takes numbers from 0 to 255. If a call fails, nothing is known to depend
/// on anything; the first samples get the error.
pub(super) fn find_row_places(
    session: &mut Session,
    (input, outputs): (&str, &[&str]),
    shape: &[usize],
    bytes: bool,
) -> RowPlaces {
    let (key, dim) = (RngKey { seed: 0 }, shape.iter().product::<usize>());
    let mut agrees = |trial: u64| -> Option<bool> {
        let count = ROWS_TOGETHER * dim;
        let drawn = match bytes {
            true => key.uniform(Purpose::Check, 2, trial, count) * 255.0,
            false => key.normal(Purpose::Check, 2, trial, count),
        };
        let shape = [&[ROWS_TOGETHER], shape].concat();
        let samples = ArrayD::from_shape_vec(shape, drawn.to_vec()).expect("four samples");
        let whole = session.run(vec![(input, samples.view())], outputs).ok()?;
        for rows in call_rows::rotations(ROWS_TOGETHER) {
            let rotated = samples.select(Axis(0), &rows);
            let part = session.run(vec![(input, rotated.view())], outputs).ok()?;
            let place = (Axis(0), ROWS_TOGETHER);
            let mut outputs = whole.iter().zip(&part);
            if !outputs.all(|(whole, part)| call_rows::rows_agree(whole, part, place, &rows)) {
                return Some(false);
            }
        }
        Some(true)
    };
    let trials = call_rows::trial_count(dim) as u64;
    match (0..trials).any(|trial| agrees(trial) == Some(false)) {
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
