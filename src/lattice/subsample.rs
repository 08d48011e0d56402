//! The part of an array that the checks examine: a bounded number of values, spread over all
//! samples and positions.

use std::collections::{HashMap, HashSet};

use crate::num::stored_values::StoredValues;

/// The largest number of examined values, whatever the size of the array.
const MAX_NUMBERS: usize = 1 << 18;

/// The largest number of examined positions in a sample.
const MAX_POSITIONS: usize = 1 << 10;

/// Some samples of an array at some of their positions. A small array is examined as a whole.
pub(super) struct Subsample {
    /// The values, one sample after the other.
    pub numbers: Vec<f64>,
    /// The examined positions in a sample, in its row-major order.
    pub positions: Vec<usize>,
    /// The shape of one sample.
    pub shape: Vec<usize>,
    /// The different values in ascending order.
    pub distinct: Vec<f64>,
}

impl Subsample {
    /// Takes a subsample of an array with the samples along its first axis.
    ///
    /// `shape` is the shape of one sample in the card. It may differ from the file's axes.
    pub(super) fn from_array(values: &StoredValues, shape: &[usize]) -> Subsample {
        let samples = values.samples();
        let width = values.len().checked_div(samples).unwrap_or(0);
        let positions = stratified_indices(width, MAX_POSITIONS);
        let mut numbers = Vec::new();
        for sample in stratified_indices(samples, MAX_NUMBERS / positions.len().max(1)) {
            let flat = values.sample(sample);
            numbers.extend(positions.iter().map(|p| flat[*p]));
        }
        let fits = shape.iter().product::<usize>() == width;
        let shape = if fits { shape.to_vec() } else { vec![width] };
        let distinct = distinct_values(numbers.iter().copied());
        Subsample {
            numbers,
            positions,
            shape,
            distinct,
        }
    }

    /// The examined samples, each at the examined positions.
    pub(super) fn samples(&self) -> impl Iterator<Item = &[f64]> {
        self.numbers.chunks(self.positions.len().max(1))
    }

    /// The examined samples without repeats.
    pub(super) fn distinct_samples(&self) -> impl Iterator<Item = &[f64]> {
        let mut seen = HashSet::new();
        self.samples()
            .filter(move |s| seen.insert(s.iter().map(|v| v.to_bits()).collect::<Vec<u64>>()))
    }

    /// Whether any sample holds two different values.
    pub(super) fn any_sample_varies(&self) -> bool {
        self.samples().any(|s| s.iter().any(|v| *v != s[0]))
    }

    /// The values of all samples at the given places of `positions`.
    pub(super) fn values_at(&self, places: &[usize]) -> Vec<f64> {
        self.samples()
            .flat_map(|s| places.iter().map(|p| s[*p]))
            .collect()
    }

    /// The places of `positions` at which the samples differ. With a single sample these are all
    /// places.
    pub(super) fn varying_positions(&self) -> Vec<usize> {
        let first: &[f64] = self.samples().next().unwrap_or(&[]);
        let single = self.numbers.len() == first.len();
        (0..first.len())
            .filter(|p| single || self.samples().any(|s| s[*p] != first[*p]))
            .collect()
    }
}

/// At most `most` of the indices 0 to `count` − 1, one in each of as many equal strata.
///
/// The distances between them are irregular, so that they do not coincide with a period of the
/// file, such as its channels.
fn stratified_indices(count: usize, most: usize) -> Vec<usize> {
    let taken = count.min(most);
    if taken == count {
        return (0..count).collect();
    }
    let stratum = count as f64 / taken as f64;
    let golden = 0.618_033_988_749_894_9;
    (0..taken)
        .map(|i| (((i as f64) + (i as f64 * golden).fract()) * stratum) as usize)
        .map(|p| p.min(count - 1))
        .collect()
}

/// The different values in ascending order. −0 and 0 are the same value.
pub(super) fn distinct_values(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let seen: HashSet<u64> = values.map(|v| (v + 0.0).to_bits()).collect();
    let mut sorted: Vec<f64> = seen.into_iter().map(f64::from_bits).collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Whether the numbers look like a pattern from a formula or from a hand: a ramp, a grid or a
/// checkerboard.
///
/// The different values of such a pattern are equally spaced without a gap, and each occurs as
/// often as any other.
pub(super) fn is_regular_pattern(numbers: &[f64], distinct: &[f64]) -> bool {
    let gaps = || distinct.windows(2).map(|p| p[1] - p[0]);
    let (least, most) = gaps().fold((f64::INFINITY, 0.0), |(a, b): (f64, f64), g| {
        (a.min(g), b.max(g))
    });
    if distinct.len() < 2 || most - least > 1e-3 * most {
        return false;
    }
    let mut times: HashMap<u64, usize> = HashMap::new();
    numbers
        .iter()
        .for_each(|v| *times.entry((v + 0.0).to_bits()).or_default() += 1);
    let (fewest, most) = times
        .values()
        .fold((usize::MAX, 0), |(a, b), n| (a.min(*n), b.max(*n)));
    most - fewest <= 1
}

#[cfg(test)]
mod tests {
    use ndarray::ArrayD;

    use super::*;

    #[test]
    fn large_arrays_are_subsampled_and_small_ones_kept_whole() {
        let small = ArrayD::from_shape_fn(vec![7, 3, 2], |i| (6 * i[0] + 2 * i[1] + i[2]) as f64);
        let look = Subsample::from_array(&small.clone().into(), &[6]);
        assert_eq!(look.numbers, (0..42).map(f64::from).collect::<Vec<_>>());
        // Axes in another order in memory are read in the order of the shape.
        let turned = small.clone().permuted_axes(vec![0, 2, 1]);
        assert_eq!(
            Subsample::from_array(&turned.into(), &[2, 3]).numbers[..4],
            [0.0, 2.0, 4.0, 1.0]
        );
        let large = ArrayD::from_shape_fn(vec![3000, 3072], |i| (i[1] % 3) as f64);
        let look = Subsample::from_array(&large.into(), &[32, 32, 3]);
        assert!(
            look.numbers.len() <= MAX_NUMBERS && look.numbers.len() > MAX_NUMBERS / 2,
            "{}",
            look.numbers.len()
        );
        assert!(look.positions.windows(2).all(|p| p[0] < p[1]));
        for channel in 0..3 {
            let share = look.positions.iter().filter(|p| *p % 3 == channel).count() as f64
                / look.positions.len() as f64;
            assert!((share - 1.0 / 3.0).abs() < 0.05, "{channel}: {share}");
        }
    }

    #[test]
    fn ramps_and_checkerboards_are_regular_patterns() {
        let regular = |x: &[f64]| is_regular_pattern(x, &distinct_values(x.iter().copied()));
        assert!(regular(&[0.0, 0.25, 0.5, 0.75]));
        assert!(regular(&[1.0, -1.0, -1.0, 1.0, 1.0]));
        assert!(!regular(&[1.0, -1.0, 1.0, 1.0]));
        assert!(!regular(&[0.0, 0.25, 0.75]));
        assert!(!regular(&[0.5, 0.5]));
    }
}
