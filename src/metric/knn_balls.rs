//! Balls around samples with the distance to the k-th nearest neighbour as radius, and how many of
//! them contain a point.

use ndarray::{ArrayView1, ArrayView2};

use super::nearest_neighbours::NearestNeighbours;
use super::pairwise_distance;
use super::random_groups::{DIVISIONS, GROUPINGS, PartTally, QuarterByDivision, shared_groupings};

/// The rows of one set and, if random parts are evaluated, the quarter of each row in every
/// division.
#[derive(Clone, Copy)]
pub(super) struct PartitionedRows<'a> {
    /// One row per sample.
    pub rows: ArrayView2<'a, f64>,
    /// The quarters of each row; `None` if no parts are evaluated.
    pub quarters: Option<&'a [QuarterByDivision]>,
}

impl<'a> PartitionedRows<'a> {
    /// The quarters of row `i`.
    fn quarters_of(&self, i: usize) -> Option<&'a QuarterByDivision> {
        self.quarters.map(|quarters| &quarters[i])
    }
}

/// Balls around all samples of one set. The radius of a ball is the distance of its centre to the
/// k-th nearest other sample.
pub(super) struct KnnBalls<'a> {
    /// The samples at the centres.
    centres: PartitionedRows<'a>,
    /// The squared radii of each ball.
    radii: Vec<BallRadii>,
    /// The largest squared radius of each ball, over the whole set and all parts.
    largest: Vec<f64>,
}

/// The squared radii of one ball.
struct BallRadii {
    /// The squared radius among all samples.
    whole: f64,
    /// The squared radius among the samples of each part that contains the centre, by division and
    /// grouping.
    parts: Option<Box<[[f64; GROUPINGS]; DIVISIONS]>>,
}

/// The number of balls that contain one point, or the number of points in one ball.
struct BallMemberships {
    /// The number among all samples.
    whole: u64,
    /// The number within each part, by division and grouping.
    parts: [[u64; GROUPINGS]; DIVISIONS],
}

/// How a point in several balls, or a ball with several points, is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BallCounting {
    /// It counts once.
    Any,
    /// It counts once per ball, or once per point.
    All,
}

impl<'a> KnnBalls<'a> {
    /// Balls around all samples. The set, and each part that is evaluated, must have more than `k`
    /// samples.
    pub(super) fn around(centres: PartitionedRows<'a>, k: usize) -> KnnBalls<'a> {
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

    /// Counts the points that lie in balls, over all points and over those of each part.
    pub(super) fn tally_points(&self, points: PartitionedRows, count: BallCounting) -> PartTally {
        self.tally(points, self.centres, count, |_, ball| ball)
    }

    /// Counts the balls that contain at least one point, over all balls and over those of each
    /// part.
    pub(super) fn tally_occupied_balls(&self, points: PartitionedRows) -> PartTally {
        self.tally(self.centres, points, BallCounting::Any, |ball, _| ball)
    }

    /// Counts for each of `rows` how many of `columns` match it, and sums over the rows. A match is
    /// a point inside a ball. `ball` selects, from the indices of a row and a column, the one that
    /// is the ball.
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
    /// The largest squared radius, over the whole set and all parts.
    fn largest(&self) -> f64 {
        let parts = self.parts.iter().flat_map(|parts| parts.iter().flatten());
        parts.fold(self.whole, |most, radius| most.max(*radius))
    }
}

impl BallMemberships {
    /// Adds one pair of a point and a ball, if the point is inside, from their squared distance.
    /// `quarters` are the quarters of both samples.
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
                .for_each(|grouping| counts[grouping] += u64::from(distance < radii[grouping]));
        }
    }
}

/// The squared radii of the ball around the sample `itself`, from the row of its squared distances
/// to all samples.
fn ball_radii(
    row: ArrayView1<f64>,
    itself: usize,
    quarters: Option<&[QuarterByDivision]>,
    k: usize,
) -> BallRadii {
    // The k-th neighbour within a quarter is about the 4k-th of all, and rarely beyond the 8k-th.
    let presorted = if quarters.is_some() { 8 * k + 16 } else { k };
    let mut nearest = NearestNeighbours::from_distances(row, Some(itself), presorted);
    let whole = nearest.get(k - 1).map_or(f64::INFINITY, |(d, _)| d);
    let parts = quarters.map(|quarters| {
        let mut parts = Box::new([[0.0; GROUPINGS]; DIVISIONS]);
        nearest.for_each_part(
            &quarters[itself],
            quarters,
            k,
            |division, grouping, found| {
                parts[division][grouping] = found.get(k - 1).map_or(f64::INFINITY, |(d, _)| *d);
            },
        );
        parts
    });
    BallRadii { whole, parts }
}
