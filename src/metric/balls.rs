//! Balls around samples that reach to their k-th neighbour, and how many of them hold a point.

use ndarray::{ArrayView1, ArrayView2};

use super::nearest::Nearest;
use super::pairs;
use super::parts::{DIVISIONS, Quarters, Tally, WAYS, together};

/// The samples of one side and, where parts are counted too, their quarters.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    pub rows: ArrayView2<'a, f64>,
    pub quarters: Option<&'a [Quarters]>,
}

impl<'a> Side<'a> {
    fn quarters_of(&self, i: usize) -> Option<&'a Quarters> {
        self.quarters.map(|quarters| &quarters[i])
    }
}

/// Samples with the squared distances to their k-th neighbours, themselves not counted.
pub struct Balls<'a> {
    centres: Side<'a>,
    radii: Vec<Radii>,
    /// The largest of each ball's radii.
    largest: Vec<f64>,
}

/// Of one ball: among all samples, and by division and way among those of each part that its centre is in.
struct Radii {
    whole: f64,
    parts: Option<Box<[[f64; WAYS]; DIVISIONS]>>,
}

/// In how many balls one point lies, or how many points lie in one ball; likewise by parts.
struct Inside {
    whole: u64,
    parts: [[u64; WAYS]; DIVISIONS],
}

/// What a point counts: whether any ball holds it, or how many do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Count {
    Any,
    All,
}

impl<'a> Balls<'a> {
    /// Balls around all samples; there are more than `k`, and of each part that is counted too.
    pub fn around(centres: Side<'a>, k: usize) -> Balls<'a> {
        let rows = centres.rows;
        let parts = pairs::by_rows(rows, rows, |first, distances| {
            let rows = distances.rows().into_iter().enumerate();
            rows.map(|(i, row)| radii(row, first + i, centres.quarters, k))
                .collect::<Vec<_>>()
        });
        let radii: Vec<Radii> = parts.into_iter().flatten().collect();
        let largest = radii.iter().map(Radii::largest).collect();
        Balls {
            centres,
            radii,
            largest,
        }
    }

    /// Counts over the points.
    pub fn around_points(&self, points: Side, count: Count) -> Tally {
        self.tally(points, self.centres, count, |_, ball| ball)
    }

    /// Counts over the balls that hold any point.
    pub fn holding(&self, points: Side) -> Tally {
        self.tally(self.centres, points, Count::Any, |ball, _| ball)
    }

    /// Counts over the rows of one side, by the columns of the other: `ball` is which of both is the centre.
    fn tally(
        &self,
        rows: Side,
        columns: Side,
        count: Count,
        ball: impl Fn(usize, usize) -> usize + Sync,
    ) -> Tally {
        let divided = rows.quarters.is_some();
        let parts = pairs::by_rows(rows.rows, columns.rows, |first, distances| {
            let mut tally = Tally::empty(divided);
            for (i, row) in distances
                .rows()
                .into_iter()
                .enumerate()
                .map(|(i, row)| (first + i, row))
            {
                let quarters = rows.quarters_of(i);
                let mut inside = Inside {
                    whole: 0,
                    parts: [[0; WAYS]; DIVISIONS],
                };
                for (j, d) in row.iter().enumerate() {
                    let ball = ball(i, j);
                    if *d < self.largest[ball] {
                        inside.add(*d, &self.radii[ball], quarters.zip(columns.quarters_of(j)));
                    }
                }
                if count == Count::Any {
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
        parts.iter().fold(Tally::empty(divided), Tally::merge)
    }
}

impl Radii {
    fn largest(&self) -> f64 {
        let parts = self.parts.iter().flat_map(|parts| parts.iter().flatten());
        parts.fold(self.whole, |most, radius| most.max(*radius))
    }
}

impl Inside {
    fn add(&mut self, distance: f64, radii: &Radii, quarters: Option<(&Quarters, &Quarters)>) {
        self.whole += u64::from(distance < radii.whole);
        let (Some(parts), Some((one, other))) = (&radii.parts, quarters) else {
            return;
        };
        for (((counts, radii), a), b) in self.parts.iter_mut().zip(parts.iter()).zip(one).zip(other)
        {
            together(*a, *b).for_each(|way| counts[way] += u64::from(distance < radii[way]));
        }
    }
}

/// The radii of the ball around one sample.
fn radii(row: ArrayView1<f64>, itself: usize, quarters: Option<&[Quarters]>, k: usize) -> Radii {
    // A quarter's k-th neighbour is about the 4 k-th of all, and seldom beyond twice that.
    let at_hand = if quarters.is_some() { 8 * k + 16 } else { k };
    let mut nearest = Nearest::of(row, Some(itself), at_hand);
    let whole = nearest.get(k - 1).map_or(f64::INFINITY, |(d, _)| d);
    let parts = quarters.map(|quarters| {
        let mut parts = Box::new([[0.0; WAYS]; DIVISIONS]);
        nearest.within(&quarters[itself], quarters, k, |division, way, found| {
            parts[division][way] = found.get(k - 1).map_or(f64::INFINITY, |(d, _)| *d);
        });
        parts
    });
    Radii { whole, parts }
}
