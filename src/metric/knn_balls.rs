//! Balls around samples that reach to their k-th neighbour, and how many of them hold a point.

use ndarray::{ArrayView1, ArrayView2};

use super::nearest_neighbours::NearestNeighbours;
use super::pairwise_distance;
use super::random_groups::{DIVISIONS, GROUPINGS, PartTally, QuarterByDivision, shared_groupings};

/// The samples of one side and, where parts are counted too, their quarters.
#[derive(Clone, Copy)]
pub struct PartitionedRows<'a> {
    pub rows: ArrayView2<'a, f64>,
    pub quarters: Option<&'a [QuarterByDivision]>,
}

impl<'a> PartitionedRows<'a> {
    fn quarters_of(&self, i: usize) -> Option<&'a QuarterByDivision> {
        self.quarters.map(|quarters| &quarters[i])
    }
}

/// Samples with the squared distances to their k-th neighbours, themselves not counted.
pub struct KnnBalls<'a> {
    centres: PartitionedRows<'a>,
    radii: Vec<BallRadii>,
    /// The largest of each ball's radii.
    largest: Vec<f64>,
}

/// Of one ball: among all samples, and by division and way among those of each part that its centre is in.
struct BallRadii {
    whole: f64,
    parts: Option<Box<[[f64; GROUPINGS]; DIVISIONS]>>,
}

/// In how many balls one point lies, or how many points lie in one ball; likewise by parts.
struct BallMemberships {
    whole: u64,
    parts: [[u64; GROUPINGS]; DIVISIONS],
}

/// What a point counts: whether any ball holds it, or how many do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum BallCounting {
    Any,
    All,
}

impl<'a> KnnBalls<'a> {
    /// Balls around all samples; there are more than `k`, and of each part that is counted too.
    pub fn around(centres: PartitionedRows<'a>, k: usize) -> KnnBalls<'a> {
        let rows = centres.rows;
        let parts = pairwise_distance::map_distance_blocks(rows, rows, |first, distances| {
            let rows = distances.rows().into_iter().enumerate();
            rows.map(|(i, row)| ball_radii(row, first + i, centres.quarters, k))
                .collect::<Vec<_>>()
        });
        let radii: Vec<BallRadii> = parts.into_iter().flatten().collect();
        let largest = radii.iter().map(BallRadii::largest).collect();
        KnnBalls {
            centres,
            radii,
            largest,
        }
    }

    /// Counts over the points.
    pub fn tally_points(&self, points: PartitionedRows, count: BallCounting) -> PartTally {
        self.tally(points, self.centres, count, |_, ball| ball)
    }

    /// Counts over the balls that hold any point.
    pub fn tally_occupied_balls(&self, points: PartitionedRows) -> PartTally {
        self.tally(self.centres, points, BallCounting::Any, |ball, _| ball)
    }

    /// Counts over the rows of one side, by the columns of the other: `ball` is which of both is the centre.
    fn tally(
        &self,
        rows: PartitionedRows,
        columns: PartitionedRows,
        count: BallCounting,
        ball: impl Fn(usize, usize) -> usize + Sync,
    ) -> PartTally {
        let divided = rows.quarters.is_some();
        let parts =
            pairwise_distance::map_distance_blocks(rows.rows, columns.rows, |first, distances| {
                let mut tally = PartTally::empty(divided);
                for (i, row) in distances
                    .rows()
                    .into_iter()
                    .enumerate()
                    .map(|(i, row)| (first + i, row))
                {
                    let quarters = rows.quarters_of(i);
                    let mut inside = BallMemberships {
                        whole: 0,
                        parts: [[0; GROUPINGS]; DIVISIONS],
                    };
                    for (j, d) in row.iter().enumerate() {
                        let ball = ball(i, j);
                        if *d < self.largest[ball] {
                            inside.add(*d, &self.radii[ball], quarters.zip(columns.quarters_of(j)));
                        }
                    }
                    if count == BallCounting::Any {
                        inside.whole = inside.whole.min(1);
                        inside
                            .parts
                            .iter_mut()
                            .flatten()
                            .for_each(|count| *count = (*count).min(1));
                    }
                    tally.add(inside.whole, quarters, &inside.parts);
                }
                tally
            });
        parts
            .iter()
            .fold(PartTally::empty(divided), PartTally::merge)
    }
}

impl BallRadii {
    fn largest(&self) -> f64 {
        let parts = self.parts.iter().flat_map(|parts| parts.iter().flatten());
        parts.fold(self.whole, |most, radius| most.max(*radius))
    }
}

impl BallMemberships {
    fn add(
        &mut self,
        distance: f64,
        radii: &BallRadii,
        quarters: Option<(&QuarterByDivision, &QuarterByDivision)>,
    ) {
        self.whole += u64::from(distance < radii.whole);
        let (Some(parts), Some((one, other))) = (&radii.parts, quarters) else {
            return;
        };
        for (((counts, radii), a), b) in self.parts.iter_mut().zip(parts.iter()).zip(one).zip(other)
        {
            shared_groupings(*a, *b)
                .for_each(|way| counts[way] += u64::from(distance < radii[way]));
        }
    }
}

/// The radii of the ball around one sample.
fn ball_radii(
    row: ArrayView1<f64>,
    itself: usize,
    quarters: Option<&[QuarterByDivision]>,
    k: usize,
) -> BallRadii {
    // A quarter's k-th neighbour is about the 4 k-th of all, and seldom beyond twice that.
    let at_hand = if quarters.is_some() { 8 * k + 16 } else { k };
    let mut nearest = NearestNeighbours::from_distances(row, Some(itself), at_hand);
    let whole = nearest.get(k - 1).map_or(f64::INFINITY, |(d, _)| d);
    let parts = quarters.map(|quarters| {
        let mut parts = Box::new([[0.0; GROUPINGS]; DIVISIONS]);
        nearest.for_each_part(&quarters[itself], quarters, k, |division, way, found| {
            parts[division][way] = found.get(k - 1).map_or(f64::INFINITY, |(d, _)| *d);
        });
        parts
    });
    BallRadii { whole, parts }
}
