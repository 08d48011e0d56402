//! The nearest neighbours of one sample, in order. More of them are sorted only when they are
//! needed.

use ndarray::ArrayView1;

use super::random_groups::{DIVISIONS, GROUPINGS, QuarterByDivision, shared_groupings};

/// The neighbours of one sample, nearest first. Among equal distances, the smaller position comes
/// first.
pub(super) struct NearestNeighbours<'a> {
    /// The squared distances of the sample to all samples of a set.
    row: ArrayView1<'a, f64>,
    /// The position of the sample itself, if it belongs to this set.
    excluded: Option<usize>,
    /// The nearest neighbours sorted so far, as pairs of squared distance and position.
    sorted: Vec<(f64, usize)>,
}

impl<'a> NearestNeighbours<'a> {
    /// The neighbours for a row of squared distances, without the sample `itself`. The nearest
    /// `presorted` are sorted at once, more of them on demand.
    pub(super) fn from_distances(
        row: ArrayView1<'a, f64>,
        itself: Option<usize>,
        presorted: usize,
    ) -> NearestNeighbours<'a> {
        let mut nearest = NearestNeighbours {
            row,
            excluded: itself,
            sorted: Vec::new(),
        };
        nearest.select_nearest(presorted.max(1));
        nearest
    }

    /// The i-th nearest neighbour, counted from 0, as squared distance and position; `None` if
    /// there are fewer neighbours.
    pub(super) fn get(&mut self, i: usize) -> Option<(f64, usize)> {
        while i >= self.sorted.len() && self.sorted.len() < self.candidate_count() {
            self.select_nearest(2 * (i + 1));
        }
        self.sorted.get(i).copied()
    }

    /// The number of possible neighbours.
    fn candidate_count(&self) -> usize {
        self.row.len() - usize::from(self.excluded.is_some())
    }

    /// Sorts the `count` nearest neighbours. One pass over the row skips all distances beyond the
    /// present `count`-th nearest.
    fn select_nearest(&mut self, count: usize) {
        let order = |a: &(f64, usize), b: &(f64, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        let room = 2 * count;
        let mut some: Vec<(f64, usize)> = Vec::with_capacity(room.min(self.row.len()));
        let mut farthest = f64::INFINITY;
        for (j, d) in self.row.iter().enumerate() {
            if *d > farthest || self.excluded == Some(j) {
                continue;
            }
            some.push((*d, j));
            if some.len() == room {
                farthest = some.select_nth_unstable_by(count - 1, order).1.0;
                some.truncate(count);
            }
        }
        some.sort_unstable_by(order);
        some.truncate(count);
        self.sorted = some;
    }

    /// Calls `work` for each part that contains the sample. Its arguments are the division, the
    /// grouping and the `count` nearest neighbours within the part, or all of them if there are
    /// fewer. `own` are the quarters of the sample, `others` those of the set of neighbours.
    pub(super) fn for_each_part(
        &mut self,
        own: &QuarterByDivision,
        others: &[QuarterByDivision],
        count: usize,
        mut work: impl FnMut(usize, usize, &[(f64, usize)]),
    ) {
        let mut lists: [Vec<(f64, usize)>; GROUPINGS] = Default::default();
        for (division, own) in own.iter().enumerate().take(DIVISIONS) {
            lists.iter_mut().for_each(Vec::clear);
            let (mut i, mut open) = (0, GROUPINGS);
            while open > 0 {
                let Some((distance, at)) = self.get(i) else {
                    break;
                };
                for grouping in shared_groupings(*own, others[at][division]) {
                    if lists[grouping].len() < count {
                        lists[grouping].push((distance, at));
                        open -= usize::from(lists[grouping].len() == count);
                    }
                }
                i += 1;
            }
            lists
                .iter()
                .enumerate()
                .for_each(|(grouping, list)| work(division, grouping, list));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::normal_samples;

    #[test]
    fn nearest_neighbours_are_sorted() {
        let mut row = normal_samples(1, 1, 300, 0.0, 1.0)
            .mapv(f64::abs)
            .row(0)
            .to_owned();
        row[7] = row[120];
        let mut want: Vec<(f64, usize)> = row
            .iter()
            .copied()
            .zip(0..)
            .filter(|(_, j)| *j != 11)
            .collect();
        want.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for presorted in [1, 5, 299, 1000] {
            let mut nearest = NearestNeighbours::from_distances(row.view(), Some(11), presorted);
            let got: Vec<_> = (0..300).map_while(|i| nearest.get(i)).collect();
            assert_eq!(got, want);
        }
    }
}
