//! The nearest of a row of distances, in order, as many as somebody asks for.

use ndarray::ArrayView1;

use super::random_groups::{DIVISIONS, GROUPINGS, QuarterByDivision, shared_groupings};

/// One sample's squared distances to others, nearest first; of equal ones the earlier first.
pub struct NearestNeighbours<'a> {
    row: ArrayView1<'a, f64>,
    excluded: Option<usize>,
    sorted: Vec<(f64, usize)>,
}

impl<'a> NearestNeighbours<'a> {
    /// Of all in the row but `itself`; `at_hand` are sorted at once, and more when they are asked for.
    pub fn from_distances(
        row: ArrayView1<'a, f64>,
        itself: Option<usize>,
        at_hand: usize,
    ) -> NearestNeighbours<'a> {
        let mut nearest = NearestNeighbours {
            row,
            excluded: itself,
            sorted: Vec::new(),
        };
        nearest.select_nearest(at_hand.max(1));
        nearest
    }

    /// The i-th, from 0.
    pub fn get(&mut self, i: usize) -> Option<(f64, usize)> {
        while i >= self.sorted.len() && self.sorted.len() < self.candidate_count() {
            self.select_nearest(2 * (i + 1));
        }
        self.sorted.get(i).copied()
    }

    fn candidate_count(&self) -> usize {
        self.row.len() - usize::from(self.excluded.is_some())
    }

    /// The `count` nearest: what is beyond the farthest of those so far is passed over.
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

    /// Hands the `count` nearest within each part that the sample is in to `work`, with the division and the way; the
    /// last of them where there are fewer.
    pub fn for_each_part(
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
                for way in shared_groupings(*own, others[at][division]) {
                    if lists[way].len() < count {
                        lists[way].push((distance, at));
                        open -= usize::from(lists[way].len() == count);
                    }
                }
                i += 1;
            }
            lists
                .iter()
                .enumerate()
                .for_each(|(way, list)| work(division, way, list));
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
        for at_hand in [1, 5, 299, 1000] {
            let mut nearest = NearestNeighbours::from_distances(row.view(), Some(11), at_hand);
            let got: Vec<_> = (0..300).map_while(|i| nearest.get(i)).collect();
            assert_eq!(got, want);
        }
    }
}
