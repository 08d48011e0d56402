//! Standard errors from random quarters and halves of the samples, for statistics based on nearest
//! neighbours.
//!
//! Neighbours and radii change with every sample of a set. A share of samples that depends on them
//! is therefore neither a mean of independent terms nor a smooth function of the samples. The usual
//! methods fail. A jackknife overstates the variance by up to a factor of two. The repeated samples
//! of a bootstrap lead to radii of zero. A binomial error neglects the randomness of the other set.
//! The spread between disjoint parts is always valid, because disjoint parts are independent.
//!
//! Both sets are divided at random into four quarters each. Quarter i of one set belongs to quarter
//! i of the other. There are many such divisions, and in each of them the quarters are joined in
//! pairs to halves, in all three ways. Let H be half of the variance on halves, and Q a quarter of
//! the variance on quarters. If variances fall as 1/n, both equal the variance on the whole sets.
//! Otherwise their difference shows the deviation from 1/n, and the same correction leads from
//! halves to the whole: the variance is H + (H − Q).
//!
//! Statistics of copying compare generated samples with the training data of the model. The samples
//! depend on these data, and dividing both sets would separate copies from their originals. For
//! these statistics, each generated sample contributes one term, and the terms are independent
//! given the training data. The variance of their mean given these data is the usual one, and only
//! the training data are divided.

use super::permutation;
use crate::num::key::RngKey;

/// The number of random divisions of both sets.
pub const DIVISIONS: usize = 32;

/// The number of parts in one division: four quarters, and two halves under each of three pairings.
pub const PARTS_PER_DIVISION: usize = 10;

/// The number of groupings of quarters into parts. Grouping 0 has the quarters themselves;
/// groupings 1 to 3 have halves, under one of the three pairings each. Every sample is in one part
/// of each grouping.
pub const GROUPINGS: usize = 4;

/// The quarter, 0 to 3, of one sample in every division.
pub type QuarterByDivision = [u8; DIVISIONS];

/// Random divisions of both sets: the quarters of each sample, by its position in hash order.
#[derive(Debug, Clone, PartialEq)]
pub struct RandomDivisions {
    /// The quarters of each generated sample.
    pub generated: Vec<QuarterByDivision>,
    /// The quarters of each reference sample.
    pub reference: Vec<QuarterByDivision>,
}

impl RandomDivisions {
    /// Draws the divisions of sets with the given numbers of samples. The result is `None` if a
    /// quarter of either set would have fewer than `least` samples.
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

/// Draws the quarters of n samples. `side` is 0 for the generated and 1 for the reference samples.
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

/// The groupings in which samples of quarters `a` and `b` are in the same part: all groupings if
/// the quarters are equal, and otherwise the pairing that joins the two.
pub fn shared_groupings(a: u8, b: u8) -> std::ops::Range<usize> {
    match usize::from(a ^ b) {
        0 => 0..GROUPINGS,
        grouping => grouping..grouping + 1,
    }
}

/// The index of the part, from 0 to 9, that contains the samples of a quarter under a grouping.
///
/// Grouping 1 joins quarters 0 and 1, and 2 and 3. Grouping 2 joins 0 and 2, and 1 and 3. Grouping
/// 3 joins 0 and 3, and 1 and 2.
pub fn part_index(quarter: u8, grouping: usize) -> usize {
    match (usize::from(quarter), grouping) {
        (quarter, 0) => quarter,
        (quarter, grouping) => 2 + 2 * grouping + usize::from(quarter != 0 && quarter != grouping),
    }
}

/// Counts over all samples of a set, and over the samples of each part.
#[derive(Debug, Clone)]
pub struct PartTally {
    /// The count over all samples.
    whole: u64,
    /// The counts over the samples of each part, by division; empty if no parts are evaluated.
    parts: Vec<[u64; PARTS_PER_DIVISION]>,
}

impl PartTally {
    /// A tally with all counts 0. Parts are counted if `divided` is set.
    pub fn empty(divided: bool) -> PartTally {
        PartTally {
            whole: 0,
            parts: vec![[0; PARTS_PER_DIVISION]; if divided { DIVISIONS } else { 0 }],
        }
    }

    /// Adds one sample: its count on the whole set, and its count on each part that contains it, by
    /// division and grouping.
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
                .for_each(|(grouping, count)| sums[part_index(*quarter, grouping)] += count);
        }
    }

    /// The sum of two tallies.
    pub fn merge(mut self, other: &PartTally) -> PartTally {
        self.whole += other.whole;
        for (sums, more) in self.parts.iter_mut().zip(&other.parts) {
            sums.iter_mut()
                .zip(more)
                .for_each(|(sum, more)| *sum += more);
        }
        self
    }

    /// Divides the counts by the numbers of samples and multiplies them by `scale`. `n` is the
    /// number of all samples; `quarters` give the numbers in each part.
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

/// The values of a statistic on the whole sets and on each part of them.
#[derive(Debug, Clone, PartialEq)]
pub enum PartReplicates {
    /// Values on parts of both sets.
    Shares {
        /// The value on the whole sets.
        whole: f64,
        /// The value on each part, by division; empty if no parts are evaluated.
        parts: Vec<[f64; PARTS_PER_DIVISION]>,
    },
    /// A mean over generated samples, as one term per sample in input order. Only the reference is
    /// divided into parts.
    Terms(Vec<SampleTerm>),
}

/// The term of one generated sample in a mean, for the whole reference and for each part of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleTerm {
    /// The term for the whole reference.
    pub whole: i8,
    /// The term for each part of the reference, by division; `None` if no parts are evaluated.
    pub parts: Option<[[i8; PARTS_PER_DIVISION]; DIVISIONS]>,
}

impl PartReplicates {
    /// The statistic of the whole sets.
    pub fn whole(&self) -> f64 {
        match self {
            PartReplicates::Shares { whole, .. } => *whole,
            PartReplicates::Terms(terms) => {
                terms.iter().map(|t| f64::from(t.whole)).sum::<f64>() / terms.len() as f64
            }
        }
    }

    /// The difference of a statistic between two paired sets with the same divisions. The result is
    /// `None` if one consists of shares and the other of terms.
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

    /// The standard error of the statistic of the whole sets; `None` if there are no parts.
    pub fn stderr(&self) -> Option<f64> {
        match self {
            PartReplicates::Shares { parts, .. } => stderr_over_divisions(parts),
            PartReplicates::Terms(terms) => stderr_of_terms(terms),
        }
    }

    /// The value on one quarter, or on the half that joins two quarters.
    #[cfg(test)]
    pub fn value_on_quarters(&self, division: usize, quarters: &[u8]) -> f64 {
        let grouping = if let [a, b] = quarters {
            usize::from(a ^ b)
        } else {
            0
        };
        let part = part_index(quarters[0], grouping);
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
    /// The difference of two terms, on the whole and on each part.
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

/// All pairs of quarters, as indices of parts.
const QUARTER_PAIRS: [[usize; 2]; 6] = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];
/// All pairs of disjoint halves, as indices of parts.
const HALF_PAIRS: [[usize; 2]; 3] = [[4, 5], [6, 7], [8, 9]];

/// The variance of a statistic on the whole sets, from squared differences between disjoint parts.
/// `squared` gives the squared difference for a division and a pair of parts; its expectation is
/// twice the variance on a part.
///
/// Within one division, quarters and halves have three degrees of freedom each. For a mean, both
/// give exactly the same estimate, so a difference between them is a property of the statistic and
/// not chance.
fn extrapolate_variance(divisions: usize, squared: impl Fn(usize, [usize; 2]) -> f64) -> f64 {
    let mean = |pairs: &[[usize; 2]]| -> f64 {
        let sums = (0..divisions).map(|d| pairs.iter().map(|pair| squared(d, *pair)).sum::<f64>());
        sums.sum::<f64>() / (2 * divisions * pairs.len()) as f64
    };
    let (halves, quarters) = (mean(&HALF_PAIRS) / 2.0, mean(&QUARTER_PAIRS) / 4.0);
    if halves <= 0.0 {
        return 0.0;
    }
    // Values outside this range are noise, or quarters are too small to be informative. The lower
    // bound allows for a share near 1: it is below 1 only because of samples at the border, whose
    // number falls quickly with n. Such variances fall by up to 1/n³, which gives a quarter of H.
    (2.0 * halves - quarters).clamp(0.25 * halves, 2.0 * halves)
}

/// The standard error of a statistic with values on parts of both sets.
fn stderr_over_divisions(parts: &[[f64; PARTS_PER_DIVISION]]) -> Option<f64> {
    let squared =
        |division: usize, [a, b]: [usize; 2]| (parts[division][a] - parts[division][b]).powi(2);
    (!parts.is_empty()).then(|| extrapolate_variance(parts.len(), squared).sqrt())
}

/// The standard error of a mean of terms: the variance of the mean given the reference, plus the
/// variance that the random reference adds.
fn stderr_of_terms(terms: &[SampleTerm]) -> Option<f64> {
    let n = terms.len() as f64;
    // The mean of one number per term, and the variance of this mean.
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
        // The squared gap between two parts of the reference also contains noise, because the
        // number of generated samples is finite. The variance given the reference already covers
        // this noise.
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
                .filter(|grouping| part_index(a, *grouping) == part_index(b, *grouping))
                .collect();
            assert_eq!(shared_groupings(a, b).collect::<Vec<_>>(), same, "{a} {b}");
            assert!((0..GROUPINGS).all(|grouping| part_index(a, grouping) < PARTS_PER_DIVISION));
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
