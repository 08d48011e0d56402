//! Standard errors from random quarters and halves of the samples, for statistics that rest on neighbours.
//!
//! Neighbours and radii change with every sample of a set, so that a share counted with them is no mean of
//! independent terms, and no smooth function of the samples either: the jackknife overstates the variance up to twice,
//! a bootstrap's repeated samples make radii of zero, and a binomial error leaves out what the other set adds. What is
//! always right is the spread between disjoint parts, which are independent. Both sets are divided at random into
//! quarters that belong together, many times over, and quarters are joined in pairs to halves in all three ways. Half
//! of the variance on halves, H, is the whole's where variances fall as 1/n; a fourth of that on quarters, Q, would be
//! the same, and how far the two are apart says how it goes on from halves to the whole: H + (H − Q).
//!
//! What asks for copies compares with the very data that a model was trained on, of which its samples are not
//! independent: a copy and what it copies would part. There samples are terms that are independent given those data,
//! whose variance is the usual one of a mean, and the data alone are divided.

use super::permutation;
use crate::num::key::RngKey;

/// Random divisions of both sets.
pub const DIVISIONS: usize = 32;

/// Parts of one division: four quarters, and two halves in each of three ways.
pub const PARTS_PER_DIVISION: usize = 10;

/// Ways in which one sample can be in a part: in its quarter (0), or in its half under one of three pairings.
pub const GROUPINGS: usize = 4;

/// The quarter, 0 to 3, of one sample in every division.
pub type QuarterByDivision = [u8; DIVISIONS];

/// The divisions of both sides, by the samples' positions.
#[derive(Debug, Clone, PartialEq)]
pub struct RandomDivisions {
    pub generated: Vec<QuarterByDivision>,
    pub reference: Vec<QuarterByDivision>,
}

impl RandomDivisions {
    /// Drawn by the seed; `None` where a quarter of either side would have fewer than `least` samples.
    pub fn draw(
        generated: usize,
        reference: usize,
        least: usize,
        key: RngKey,
    ) -> Option<RandomDivisions> {
        let fine = generated.min(reference) / 4 >= least;
        fine.then(|| RandomDivisions {
            generated: draw_quarters(generated, key, 0),
            reference: draw_quarters(reference, key, 1),
        })
    }
}

fn draw_quarters(n: usize, key: RngKey, side: u64) -> Vec<QuarterByDivision> {
    let orders: Vec<Vec<usize>> = (0..DIVISIONS as u64)
        .map(|division| permutation::random_permutation(n, key, 2 * division + side))
        .collect();
    let mut all = vec![[0; DIVISIONS]; n];
    for (division, order) in orders.into_iter().enumerate() {
        order
            .into_iter()
            .enumerate()
            .for_each(|(rank, at)| all[at][division] = (rank % 4) as u8);
    }
    all
}

/// The ways in which samples of two quarters are in one part: all of them within a quarter, and otherwise the pairing
/// that joins the two.
pub fn shared_groupings(a: u8, b: u8) -> std::ops::Range<usize> {
    match usize::from(a ^ b) {
        0 => 0..GROUPINGS,
        way => way..way + 1,
    }
}

/// The part that samples of a quarter are in: pairing 1 joins quarters 0 and 1, 2 and 3; pairing 2 joins 0 and 2; …
pub fn part_index(quarter: u8, way: usize) -> usize {
    match (usize::from(quarter), way) {
        (quarter, 0) => quarter,
        (quarter, way) => 2 + 2 * way + usize::from(quarter != 0 && quarter != way),
    }
}

/// Counts over all samples of a side, and over those of each part.
#[derive(Debug, Clone)]
pub struct PartTally {
    whole: u64,
    parts: Vec<[u64; PARTS_PER_DIVISION]>,
}

impl PartTally {
    /// Nothing counted yet; parts are counted where there are any.
    pub fn empty(divided: bool) -> PartTally {
        PartTally {
            whole: 0,
            parts: vec![[0; PARTS_PER_DIVISION]; if divided { DIVISIONS } else { 0 }],
        }
    }

    /// What one sample counts in the whole, and by division and way in each part that it is in.
    pub fn add(
        &mut self,
        whole: u64,
        quarters: Option<&QuarterByDivision>,
        parts: &[[u64; GROUPINGS]; DIVISIONS],
    ) {
        self.whole += whole;
        let Some(quarters) = quarters else { return };
        for ((sums, quarter), counts) in self.parts.iter_mut().zip(quarters).zip(parts) {
            counts
                .iter()
                .enumerate()
                .for_each(|(way, count)| sums[part_index(*quarter, way)] += count);
        }
    }

    /// Both together.
    pub fn merge(mut self, other: &PartTally) -> PartTally {
        self.whole += other.whole;
        for (sums, more) in self.parts.iter_mut().zip(&other.parts) {
            sums.iter_mut()
                .zip(more)
                .for_each(|(sum, more)| *sum += more);
        }
        self
    }

    /// Counts per sample, times `scale`: of `n` samples, in quarters as given.
    pub fn to_replicates(
        &self,
        n: usize,
        quarters: Option<&[QuarterByDivision]>,
        scale: f64,
    ) -> PartReplicates {
        let mut sizes = PartTally::empty(quarters.is_some());
        for quarters in quarters.into_iter().flatten() {
            sizes.add(1, Some(quarters), &[[1; GROUPINGS]; DIVISIONS]);
        }
        let share = |(count, size): (&u64, &u64)| scale * *count as f64 / *size as f64;
        let of_division =
            |(counts, sizes): (&[u64; PARTS_PER_DIVISION], &[u64; PARTS_PER_DIVISION])| {
                let mut shares = [0.0; PARTS_PER_DIVISION];
                shares
                    .iter_mut()
                    .zip(counts.iter().zip(sizes))
                    .for_each(|(s, pair)| *s = share(pair));
                shares
            };
        PartReplicates::Shares {
            whole: scale * self.whole as f64 / n as f64,
            parts: self
                .parts
                .iter()
                .zip(&sizes.parts)
                .map(of_division)
                .collect(),
        }
    }
}

/// A statistic of the whole sets and of each part.
#[derive(Debug, Clone, PartialEq)]
pub enum PartReplicates {
    /// Of parts of both sets.
    Shares {
        whole: f64,
        parts: Vec<[f64; PARTS_PER_DIVISION]>,
    },
    /// The mean over generated samples of what each says of the reference and of parts of it, in the order in which the
    /// samples came.
    Terms(Vec<SampleTerm>),
}

/// What one generated sample says of the whole reference and, by division, of each part of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleTerm {
    pub whole: i8,
    pub parts: Option<[[i8; PARTS_PER_DIVISION]; DIVISIONS]>,
}

impl PartReplicates {
    /// The statistic of the whole.
    pub fn whole(&self) -> f64 {
        match self {
            PartReplicates::Shares { whole, .. } => *whole,
            PartReplicates::Terms(terms) => {
                terms.iter().map(|t| f64::from(t.whole)).sum::<f64>() / terms.len() as f64
            }
        }
    }

    /// The difference of a statistic between two sets that are divided alike.
    pub fn minus(&self, other: &PartReplicates) -> Option<PartReplicates> {
        match (self, other) {
            (
                PartReplicates::Shares { whole, parts },
                PartReplicates::Shares {
                    whole: less,
                    parts: others,
                },
            ) => {
                let of = |(a, b): (&[f64; PARTS_PER_DIVISION], &[f64; PARTS_PER_DIVISION])| {
                    std::array::from_fn(|i| a[i] - b[i])
                };
                Some(PartReplicates::Shares {
                    whole: whole - less,
                    parts: parts.iter().zip(others).map(of).collect(),
                })
            }
            (PartReplicates::Terms(terms), PartReplicates::Terms(others)) => Some(
                PartReplicates::Terms(terms.iter().zip(others).map(|(a, b)| a.minus(b)).collect()),
            ),
            _ => None,
        }
    }

    /// The standard error of the whole; `None` where there are no parts.
    pub fn stderr(&self) -> Option<f64> {
        match self {
            PartReplicates::Shares { parts, .. } => stderr_over_divisions(parts),
            PartReplicates::Terms(terms) => stderr_of_terms(terms),
        }
    }

    /// The value on one quarter, or on the half of two.
    #[cfg(test)]
    pub fn value_on_quarters(&self, division: usize, quarters: &[u8]) -> f64 {
        let way = if let [a, b] = quarters {
            usize::from(a ^ b)
        } else {
            0
        };
        let part = part_index(quarters[0], way);
        match self {
            PartReplicates::Shares { parts, .. } => parts[division][part],
            PartReplicates::Terms(terms) => {
                let of = |t: &SampleTerm| f64::from(t.parts.expect("parts")[division][part]);
                terms.iter().map(of).sum::<f64>() / terms.len() as f64
            }
        }
    }
}

impl SampleTerm {
    fn minus(&self, other: &SampleTerm) -> SampleTerm {
        let parts = self.parts.zip(other.parts);
        let parts =
            parts.map(|(a, b)| std::array::from_fn(|d| std::array::from_fn(|i| a[d][i] - b[d][i])));
        SampleTerm {
            whole: self.whole - other.whole,
            parts,
        }
    }
}

/// Pairs of quarters, which are parts 0 to 3, and of halves.
const QUARTER_PAIRS: [[usize; 2]; 6] = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];
const HALF_PAIRS: [[usize; 2]; 3] = [[4, 5], [6, 7], [8, 9]];

/// From squared differences of disjoint parts, twice their variance: the variance of the whole.
///
/// Within one division quarters and halves have three degrees of freedom each, and of a mean they say one and the same:
/// what is left of their difference is the statistic's own.
fn extrapolate_variance(divisions: usize, squared: impl Fn(usize, [usize; 2]) -> f64) -> f64 {
    let mean = |pairs: &[[usize; 2]]| -> f64 {
        let sums = (0..divisions).map(|d| pairs.iter().map(|pair| squared(d, *pair)).sum::<f64>());
        sums.sum::<f64>() / (2 * divisions * pairs.len()) as f64
    };
    let (halves, quarters) = (mean(&HALF_PAIRS) / 2.0, mean(&QUARTER_PAIRS) / 4.0);
    if halves <= 0.0 {
        return 0.0;
    }
    // Beyond these it is noise, or quarters are too small to say anything. A share near 1 falls short of it by what lies at
    // the border, which fades fast with n: there variances fall by up to 1/n³.
    (2.0 * halves - quarters).clamp(0.25 * halves, 2.0 * halves)
}

fn stderr_over_divisions(parts: &[[f64; PARTS_PER_DIVISION]]) -> Option<f64> {
    let squared =
        |division: usize, [a, b]: [usize; 2]| (parts[division][a] - parts[division][b]).powi(2);
    (!parts.is_empty()).then(|| extrapolate_variance(parts.len(), squared).sqrt())
}

fn stderr_of_terms(terms: &[SampleTerm]) -> Option<f64> {
    let n = terms.len() as f64;
    // The mean of some numbers, and the variance of that.
    let mean = |of: &dyn Fn(&SampleTerm) -> i8| {
        let (sum, squares) = terms
            .iter()
            .map(of)
            .fold((0i64, 0i64), |(sum, squares), v| {
                let v = i64::from(v);
                (sum + v, squares + v * v)
            });
        let mean = sum as f64 / n;
        (mean, (squares as f64 / n - mean * mean) / (n - 1.0))
    };
    if terms.len() < 2 || terms.iter().any(|t| t.parts.is_none()) {
        return None;
    }
    let (_, given_the_reference) = mean(&|t| t.whole);
    let squared = |division: usize, [a, b]: [usize; 2]| {
        let (gap, noise) = mean(&|t| {
            t.parts
                .map_or(0, |parts| parts[division][a] - parts[division][b])
        });
        gap * gap - noise
    };
    Some((given_the_reference + extrapolate_variance(DIVISIONS, squared)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_groupings_match_part_index() {
        for (a, b) in (0..4u8).flat_map(|a| (0..4u8).map(move |b| (a, b))) {
            let same: Vec<usize> = (0..GROUPINGS)
                .filter(|way| part_index(a, *way) == part_index(b, *way))
                .collect();
            assert_eq!(shared_groupings(a, b).collect::<Vec<_>>(), same, "{a} {b}");
            assert!((0..GROUPINGS).all(|way| part_index(a, way) < PARTS_PER_DIVISION));
        }
    }

    #[test]
    fn share_stderr_is_binomial() {
        let n = 400;
        let parts = RandomDivisions::draw(n, n, 2, RngKey { seed: 3 }).expect("enough");
        let mut tally = PartTally::empty(true);
        for (i, quarters) in parts.generated.iter().enumerate() {
            let yes = u64::from(i % 4 == 0);
            tally.add(yes, Some(quarters), &[[yes; GROUPINGS]; DIVISIONS]);
        }
        let got = tally.to_replicates(n, Some(&parts.generated), 1.0);
        assert_eq!(got.whole(), 0.25);
        let (error, want) = (
            got.stderr().expect("parts"),
            (0.25f64 * 0.75 / n as f64).sqrt(),
        );
        assert!((error / want - 1.0).abs() < 0.15, "{error} {want}");
        let none = got.minus(&got).expect("both are shares");
        assert_eq!((none.whole(), none.stderr()), (0.0, Some(0.0)));
        assert!(RandomDivisions::draw(40, 7, 2, RngKey { seed: 3 }).is_none());
    }
}
