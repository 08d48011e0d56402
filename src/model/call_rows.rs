//! Which sample is in which row of a call of a network.
//!
//! ONNX Runtime rounds a row's output in ways that depend on the call: differently if the rows do not fill the
//! processor's vector units, and, where it sums along an axis whose length is no multiple of four, differently with the
//! address at which the axis begins, hence with the row's place among four. Rows are therefore added up to a multiple of
//! four, and where the place matters a sample is in the same place of four in every call.

use ndarray::{ArrayD, Axis};

use crate::num::key::SampleId;

/// Rows of a call that are computed together.
pub(crate) const ROWS_TOGETHER: usize = 4;

/// What the place of a row in its call does to its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowPlaces {
    /// A row's output is the same bytes in every place.
    Free,
    /// A row's output depends on its place, so that the sample's number gives it.
    BySample,
}

/// What a network's rows depend on besides their own inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowInvariance {
    /// Whether calls with fewer than four rows give the same bytes per row. It is only tried for a
    /// large network, where this saves work.
    pub small_calls: bool,
    /// Whether a row's output depends on its place in the call.
    pub places: RowPlaces,
}

impl RowInvariance {
    /// What holds for a graph that was not tried.
    pub(crate) const UNKNOWN: RowInvariance = RowInvariance {
        small_calls: false,
        places: RowPlaces::BySample,
    };
}

/// The number of calls that are tried, times the number of values in one sample.
const TRIED_VALUES: usize = 1 << 12;

/// The largest number of calls with other samples that are tried.
const MAX_TRIALS: usize = 32;

/// Returns the number of calls with other samples that show whether rows depend on their places.
/// `dim` is the number of values in one sample.
pub(crate) fn trial_count(dim: usize) -> usize {
    (TRIED_VALUES / dim.max(1)).clamp(1, MAX_TRIALS)
}

/// Returns the orders of a call's rows in which each row comes to every other place of four.
pub(crate) fn rotations(rows: usize) -> Vec<Vec<usize>> {
    let rotated = |by: usize| (0..rows).map(|i| (i + by) % rows).collect();
    (1..rows.min(ROWS_TOGETHER)).map(rotated).collect()
}

/// Whether the rows of an output along an axis are the same bytes as the output of these rows alone. An
/// output without `count` rows is refused where it is used, and counts as the same.
pub(crate) fn rows_agree(
    whole: &ArrayD<f64>,
    part: &ArrayD<f64>,
    (axis, count): (Axis, usize),
    rows: &[usize],
) -> bool {
    if whole.shape().get(axis.0) != Some(&count) {
        return true;
    }
    let selected = whole.select(axis, rows);
    let mut pairs = selected.iter().zip(part);
    selected.shape() == part.shape() && pairs.all(|(a, b)| a.to_bits() == b.to_bits())
}

/// The rows of one call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CallRows {
    /// For each row of the call the given row that it holds. Rows that are added hold one of the given rows again.
    pub filled: Vec<usize>,
    /// The rows of the call whose outputs are used.
    pub used: Vec<usize>,
    /// The given rows that these hold, in the same order.
    pub given: Vec<usize>,
}

impl CallRows {
    /// The rows of a call whose slots hold given rows, or nothing.
    fn of_slots(slots: &[Option<usize>]) -> CallRows {
        let any = slots.iter().flatten().next().copied().unwrap_or(0);
        let (used, given) = (0..)
            .zip(slots)
            .filter_map(|(i, slot)| slot.map(|row| (i, row)))
            .unzip();
        CallRows {
            filled: slots.iter().map(|slot| slot.unwrap_or(any)).collect(),
            used,
            given,
        }
    }

    /// Returns the rows of one call for the given samples, with rows added up to a multiple of four.
    pub(crate) fn padded(samples: &[SampleId], places: RowPlaces) -> CallRows {
        let mut slots: Vec<Option<usize>> = Vec::new();
        match places {
            RowPlaces::Free => slots.extend((0..samples.len()).map(Some)),
            RowPlaces::BySample => {
                let mut queues = queues(samples, ROWS_TOGETHER);
                while queues.iter().any(|queue| queue.len() > 0) {
                    slots.extend(queues.iter_mut().map(Iterator::next));
                }
            }
        }
        slots.resize(slots.len().next_multiple_of(ROWS_TOGETHER), None);
        CallRows::of_slots(&slots)
    }

    /// Returns the rows of as many calls as the given samples need, each with `batch` rows.
    pub(crate) fn in_batches(
        samples: &[SampleId],
        batch: usize,
        places: RowPlaces,
    ) -> Vec<CallRows> {
        if places == RowPlaces::Free {
            let rows: Vec<Option<usize>> = (0..samples.len()).map(Some).collect();
            let full = |rows: &[Option<usize>]| {
                let mut slots = rows.to_vec();
                slots.resize(batch, None);
                CallRows::of_slots(&slots)
            };
            return rows.chunks(batch).map(full).collect();
        }
        let mut queues = queues(samples, batch.min(ROWS_TOGETHER));
        let mut calls = Vec::new();
        while queues.iter().any(|queue| queue.len() > 0) {
            let count = queues.len();
            let slots: Vec<Option<usize>> =
                (0..batch).map(|slot| queues[slot % count].next()).collect();
            calls.push(CallRows::of_slots(&slots));
        }
        calls
    }

    /// Returns the outputs of the given rows in their order, where the call is the only one. An output
    /// with another number of rows than the call is returned as it is.
    pub(crate) fn given_outputs(&self, output: ArrayD<f64>, axis: Axis) -> ArrayD<f64> {
        if output.shape().get(axis.0) != Some(&self.filled.len()) {
            return output;
        }
        let order = indices_of_given(std::slice::from_ref(self));
        let rows: Vec<usize> = order.into_iter().map(|index| self.used[index]).collect();
        rows_along(&output, axis, &rows)
    }
}

/// Whether the given samples are the rows of a call as they are: none is to be added, and each is in its place.
pub(crate) fn are_complete(samples: &[SampleId], places: RowPlaces) -> bool {
    let in_place = |(row, sample): (SampleId, &SampleId)| {
        row % ROWS_TOGETHER as SampleId == sample % ROWS_TOGETHER as SampleId
    };
    samples.len().is_multiple_of(ROWS_TOGETHER)
        && (places == RowPlaces::Free || (0..).zip(samples).all(in_place))
}

/// The rows along an axis, in the order of their indices and in standard layout.
pub(crate) fn rows_along(values: &ArrayD<f64>, axis: Axis, rows: &[usize]) -> ArrayD<f64> {
    let selected = values.select(axis, rows);
    match selected.is_standard_layout() {
        true => selected,
        false => selected.as_standard_layout().into_owned(),
    }
}

/// For each given row its index among the used rows of all calls together.
pub(crate) fn indices_of_given(calls: &[CallRows]) -> Vec<usize> {
    let given = calls.iter().flat_map(|call| &call.given);
    let mut indices = vec![0; given.clone().count()];
    for (index, given) in given.enumerate() {
        indices[*given] = index;
    }
    indices
}

/// The given rows by the sample's number modulo `places`.
fn queues(samples: &[SampleId], places: usize) -> Vec<std::vec::IntoIter<usize>> {
    let mut rows: Vec<Vec<usize>> = vec![Vec::new(); places];
    for (row, sample) in samples.iter().enumerate() {
        rows[(sample % places as SampleId) as usize].push(row);
    }
    rows.into_iter().map(Vec::into_iter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples of which one place of four has more than the others, and one has none.
    const SAMPLES: [SampleId; 7] = [5, 4, 9, 13, 8, 7, 5];

    #[test]
    fn rows_are_added_up_to_a_multiple_of_four() {
        let call = CallRows::padded(&SAMPLES, RowPlaces::Free);
        assert_eq!(call.filled, [0, 1, 2, 3, 4, 5, 6, 0]);
        assert_eq!(call.used, [0, 1, 2, 3, 4, 5, 6]);
        assert!(are_complete(&SAMPLES[..4], RowPlaces::Free));
        assert!(are_complete(&[8, 9, 10, 11], RowPlaces::BySample));
        assert!(!are_complete(&[9, 8, 10, 11], RowPlaces::BySample));
        assert!(!are_complete(&[8, 9], RowPlaces::BySample));
    }

    #[test]
    fn a_sample_is_in_the_same_place_of_four_in_every_call() {
        let check = |call: &CallRows, places: usize| {
            for (place, given) in call.used.iter().zip(&call.given) {
                assert_eq!(call.filled[*place], *given);
                assert_eq!(
                    place % ROWS_TOGETHER % places,
                    SAMPLES[*given] as usize % places,
                    "{call:?}"
                );
            }
        };
        let call = CallRows::padded(&SAMPLES, RowPlaces::BySample);
        check(&call, ROWS_TOGETHER);
        assert_eq!(call.filled.len(), 16);
        for batch in 1..10 {
            let mut given: Vec<usize> = Vec::new();
            for call in CallRows::in_batches(&SAMPLES, batch, RowPlaces::BySample) {
                assert_eq!(call.filled.len(), batch);
                check(&call, batch.min(ROWS_TOGETHER));
                given.extend(&call.given);
            }
            given.sort_unstable();
            assert_eq!(given, [0, 1, 2, 3, 4, 5, 6], "batch {batch}");
        }
    }

    #[test]
    fn outputs_come_back_in_the_order_of_the_given_rows() {
        for places in [RowPlaces::Free, RowPlaces::BySample] {
            let call = CallRows::padded(&SAMPLES, places);
            let computed: Vec<f64> = call.filled.iter().map(|row| *row as f64).collect();
            let output =
                ArrayD::from_shape_vec(vec![1, computed.len()], computed).expect("one axis");
            let given = call.given_outputs(output, Axis(1));
            assert_eq!(
                given.into_raw_vec_and_offset().0,
                [0., 1., 2., 3., 4., 5., 6.]
            );
        }
    }
}
