//! Calibration of conditional models: whether the true parameters behind observations are
//! distributed among a model's draws as a posterior says.
//!
//! For each observation with its true parameters, a test ranks the true value among draws that the
//! model gives under that observation. If the model is the posterior, every rank is equally likely,
//! whatever the posterior's shape. The tests differ in what they rank: each parameter (`sbc`), the
//! log-density (`coverage`) or the distance from a random point (`tarp`). `local-c2st` ranks how well a classifier tells
//! the true parameters from draws under one observation. None of them proves a
//! posterior: draws from the prior also have uniform ranks under `sbc`.
//!
//! # Example
//!
//! Draws of N(0, 0.8²) in place of the posterior N(0, 1) are too narrow.
//!
//! ```
//! use flowgauge::calibration::{CalibrationTest, Observation, ParameterBox, RankGroup};
//! use flowgauge::num::key::{Purpose, RngKey};
//!
//! let key = RngKey { seed: 1 };
//! let parameters = ParameterBox { low: vec![-3.0], high: vec![3.0] };
//! let test = CalibrationTest::from_name("sbc").expect("a test");
//! let ranks = (0..500).map(|index| {
//!     let truth = key.normal(Purpose::Check, index, 0, 1);
//!     let draws = key.normal(Purpose::Check, index, 1, 99) * 0.8;
//!     let draws = draws.into_shape_with_order((99, 1)).expect("99 draws");
//!     let (densities, classifiers) = (None, None);
//!     let (truth, draws, parameters) = (truth.view(), draws.view(), &parameters);
//!     let observation =
//!         Observation { index, truth, draws, densities, classifiers, parameters, key };
//!     test.ranks(&observation).remove(0).rank.expect("a rank")
//! });
//! let group = RankGroup::new(Some(0), ranks.collect(), 99, 0, Vec::new())?;
//! let found = test.statistics(&[group], key);
//! let dispersion = found.iter().find(|s| s.statistic == "dispersion").expect("a row");
//! assert!(dispersion.value.unwrap() > 0.2 && dispersion.p.unwrap() < 1e-4);
//! # Ok::<(), String>(())
//! ```

use ndarray::{ArrayView1, ArrayView2};

use crate::num::key::{Purpose, RngKey, SampleId};
use crate::num::rank_tests::{RankMoment, RankSample, UniformityTest, bonferroni};
use crate::num::stats;
use crate::num::tails::{binomial_interval, binomial_two_sided_p};
use crate::registry;
use crate::rows::Status;

pub use local_c2st::LocalClassifiers;

pub mod coverage;
pub mod local_c2st;
pub mod sbc;
pub mod tarp;

registry! {
    /// The tests of calibration. Users name them under `tests:` of an entry of `calibration`.
    pub enum CalibrationTest: RankStatistic {
        "sbc" | "simulation-based-calibration" => Sbc(sbc::Sbc) {
            what: "The ranks of the true parameters among the draws, one parameter at a time.",
            when: "As the first test of a posterior.",
            source: "Talts et al. 2018, arXiv:1804.06788",
        },
        "tarp" => Tarp(tarp::Tarp) {
            what: "A coverage test by distances to random points, without densities.",
            when: "For all parameters together, without densities.",
            source: "Lemos et al. 2023, arXiv:2302.03026",
        },
        "coverage" | "expected-coverage" | "hpd" => ExpectedCoverage(coverage::ExpectedCoverage) {
            what: "The expected coverage of regions of highest density.",
            when: "Where the model gives densities of its draws.",
            source: "Hermans et al. 2022, arXiv:2110.06581",
        },
        "local-c2st" | "lc2st" | "l-c2st" => LocalC2st(local_c2st::LocalC2st) {
            what: "Classifiers of true parameters and draws, asked at one observation at a time.",
            when: "To find the observations under which a posterior is wrong.",
            source: "Linhart, Gramfort & Rodrigues 2023, arXiv:2306.03580",
        },
    }
}

impl CalibrationTest {
    /// The label of the test in tables: its name and the parameters that differ from their defaults.
    pub fn label(&self) -> String {
        let default = CalibrationTest::from_name(self.name()).unwrap_or_else(|| self.clone());
        registry::kind_label(self.name(), self, &default)
    }
}

/// A test that ranks a number of the true parameters among the same number of draws.
pub trait RankStatistic: Sync {
    /// Checks the parameters of the test for this number of draws per observation.
    ///
    /// # Errors
    /// Fails if a parameter is out of range. The message names the key and what was expected.
    fn check(&self, draws: usize) -> Result<(), String>;

    /// Whether the test needs the log-densities of the true parameters and of the draws.
    fn needs_density(&self) -> bool {
        false
    }

    /// Whether the test needs classifiers that are trained on all observations. Such a test is done
    /// only where it is asked for.
    fn needs_classifiers(&self) -> bool {
        false
    }

    /// The ranks of one observation: one for each parameter, or one in all. They depend only on the
    /// observation and the key.
    fn ranks(&self, observation: &Observation) -> Vec<ObservationRank>;

    /// What the ranks of all observations say, one group for each parameter or one group in all.
    /// Random choices depend only on the key and on the number of ranks.
    fn statistics(&self, groups: &[RankGroup], key: RngKey) -> Vec<CalibrationStatistic>;
}

/// One observation: its true parameters and the draws that a model gives under it.
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    /// The index of the observation in the data.
    pub index: SampleId,
    /// The true parameters.
    pub truth: ArrayView1<'a, f64>,
    /// The draws, draws × parameters.
    pub draws: ArrayView2<'a, f64>,
    /// The log-densities, if they were computed.
    pub densities: Option<&'a DrawDensities>,
    /// The classifiers that are trained on all observations, with the numbers of this observation, if
    /// a test needs them.
    pub classifiers: Option<(&'a LocalClassifiers, ArrayView1<'a, f64>)>,
    /// The box of the true parameters of all observations.
    pub parameters: &'a ParameterBox,
    /// The key of random choices.
    pub key: RngKey,
}

/// The log-densities of one observation's parameters under the model, in nats.
#[derive(Debug, Clone, PartialEq)]
pub struct DrawDensities {
    /// The log-density of the true parameters; `None` if it could not be computed.
    pub truth: Option<f64>,
    /// The standard error of `truth` over probes; `None` for a deterministic estimator.
    pub stderr: Option<f64>,
    /// The log-density of each draw.
    pub draws: Vec<Option<f64>>,
    /// Why a log-density could not be computed; `Ok` if all could.
    pub status: Status,
}

/// The smallest box that holds the true parameters of all observations.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterBox {
    /// The smallest value of each parameter.
    pub low: Vec<f64>,
    /// The largest value of each parameter.
    pub high: Vec<f64>,
}

impl ParameterBox {
    /// The box of some parameters, observations × parameters.
    pub fn of(truths: ArrayView2<f64>) -> ParameterBox {
        let fold = |start: f64, pick: fn(f64, f64) -> f64| {
            let columns = truths.columns().into_iter();
            columns
                .map(|column| column.iter().copied().fold(start, pick))
                .collect()
        };
        ParameterBox {
            low: fold(f64::INFINITY, f64::min),
            high: fold(f64::NEG_INFINITY, f64::max),
        }
    }

    /// A parameter that has the same value in all observations.
    pub fn constant_parameter(&self) -> Option<usize> {
        let mut sides = self.low.iter().zip(&self.high);
        sides.position(|(low, high)| low == high)
    }
}

/// The rank of one number of the true parameters among the same number of the draws.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservationRank {
    /// The index of the parameter; `None` if the rank is one of all parameters together.
    pub parameter: Option<usize>,
    /// The number of draws below the true value, from 0 to the number of draws. Among draws that are
    /// equal to it, the place is random. `None` if a draw or its log-density is not finite.
    pub rank: Option<usize>,
    /// The number of draws that are equal to the true value.
    pub ties: usize,
    /// The ranked number of the true parameters.
    pub value: Option<f64>,
    /// The standard error of `value`, if it is an estimate.
    pub stderr: Option<f64>,
    /// `Ok`, or why there is no rank.
    pub status: Status,
}

/// The place of ties of the log-density among the addresses of random choices.
const DENSITY_TIE: u64 = u64::MAX;
/// The place of ties of the distance among the addresses of random choices.
const DISTANCE_TIE: u64 = u64::MAX - 1;

impl Observation<'_> {
    /// Ranks `truth` among the draws' numbers. `place` is the address of the random place among
    /// equal draws.
    fn rank(
        &self,
        truth: f64,
        draws: impl Iterator<Item = f64>,
        parameter: Option<usize>,
        place: u64,
    ) -> ObservationRank {
        let (mut below, mut ties, mut finite) = (0, 0, truth.is_finite());
        for draw in draws {
            finite &= draw.is_finite();
            below += usize::from(draw < truth);
            ties += usize::from(draw == truth);
        }
        let among_ties = match ties {
            0 => 0,
            _ => {
                let uniform = self.key.uniform_at(Purpose::RankTie, self.index, place, 0);
                (uniform * (ties + 1) as f64) as usize
            }
        };
        ObservationRank {
            parameter,
            rank: finite.then_some(below + among_ties),
            ties,
            value: truth.is_finite().then_some(truth),
            stderr: None,
            status: match finite {
                true => Status::Ok,
                false => Status::NonFinite,
            },
        }
    }
}

/// The ranks of one parameter, or of all parameters together, over all observations.
#[derive(Debug, Clone, PartialEq)]
pub struct RankGroup {
    /// The index of the parameter; `None` if the ranks are those of all parameters together.
    pub parameter: Option<usize>,
    /// The ranks in the order of the observations. `None` if no observation has a rank.
    pub sample: Option<RankSample>,
    /// The number of observations without a rank.
    pub failed: usize,
    /// The ranked numbers of the true parameters, of the observations with a rank.
    pub values: Vec<f64>,
}

impl RankGroup {
    /// The group of these ranks among `draws` draws.
    ///
    /// # Errors
    /// Fails if a rank exceeds the number of draws.
    pub fn new(
        parameter: Option<usize>,
        ranks: Vec<usize>,
        draws: usize,
        failed: usize,
        values: Vec<f64>,
    ) -> Result<RankGroup, String> {
        let sample = match ranks.is_empty() {
            true => None,
            false => Some(RankSample::new(ranks, draws)?),
        };
        Ok(RankGroup {
            parameter,
            sample,
            failed,
            values,
        })
    }

    /// The number of observations with a rank.
    fn count(&self) -> usize {
        self.sample.as_ref().map_or(0, RankSample::len)
    }

    /// A statistic of this group without a value.
    fn statistic(&self, statistic: &'static str) -> CalibrationStatistic {
        CalibrationStatistic {
            parameter: self.parameter.map(|p| p.to_string()).unwrap_or_default(),
            statistic,
            n: self.count(),
            failed: self.failed,
            ..CalibrationStatistic::default()
        }
    }
}

/// One statistic of calibration with its errors.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CalibrationStatistic {
    /// The index of the parameter, `all` for a p-value corrected for the number of parameters, or an
    /// empty text for all parameters together.
    pub parameter: String,
    /// The name of the statistic, one of [`STATISTICS`].
    pub statistic: &'static str,
    /// The credibility of a point of a curve.
    pub level: Option<f64>,
    /// The number of observations with a rank.
    pub n: usize,
    /// The number of observations without a rank.
    pub failed: usize,
    /// The value of the statistic.
    pub value: Option<f64>,
    /// The standard error of the value over observations.
    pub stderr: Option<f64>,
    /// The ends of the 95 % confidence interval of the value.
    pub interval: Option<[f64; 2]>,
    /// The p-value under a calibrated model.
    pub p: Option<f64>,
}

/// The names of all statistics, each with its meaning in a few words.
pub const STATISTICS: [(&str, &str); 10] = [
    (
        "ecdf",
        "largest deviation of the ranks' distribution function from the uniform one; p by \
         simultaneous bands (Säilynoja et al. 2022)",
    ),
    (
        "chi-square",
        "Pearson's χ² of the ranks in bins, as Talts et al. (2018) show them",
    ),
    (
        "dispersion",
        "mean square of the ranks about the middle relative to uniform ranks, minus 1; positive if \
         draws are too narrow",
    ),
    (
        "location",
        "mean of the ranks as fractions, minus ½; positive if true values lie above the draws, and \
         for coverage if draws are too narrow",
    ),
    (
        "ks",
        "Kolmogorov's distance of the ranks from the continuous uniform distribution, as the \
         package sbi tests it",
    ),
    (
        "coverage",
        "share of observations whose true parameters lie in the region of this credibility",
    ),
    (
        "area",
        "area between the curve and the diagonal above credibility ½; negative if draws are too \
         narrow or biased",
    ),
    (
        "log-density",
        "mean log-density of the true parameters, in nats",
    ),
    (
        "rejected",
        "share of observations under which classifiers tell draws from true parameters at a level of \
         5 %; p is twice the mean of all their p-values, which holds under any dependence (Vovk and \
         Wang 2020)",
    ),
    (
        "deviation",
        "mean square by which the classifier's probability of a draw deviates from ½",
    ),
];

/// The tests of uniformity of one group of ranks. Without ranks there is one row that counts the
/// failures.
fn uniformity_statistics(group: &RankGroup, bins: Option<usize>) -> Vec<CalibrationStatistic> {
    let Some(sample) = &group.sample else {
        return vec![group.statistic("ecdf")];
    };
    let test = |name: &'static str, found: UniformityTest| CalibrationStatistic {
        value: Some(found.value),
        p: Some(found.p),
        ..group.statistic(name)
    };
    let moment = |name: &'static str, found: RankMoment| {
        let estimate = found.estimate;
        let interval = estimate.stderr.map(|stderr| {
            let half = stats::confidence_half_width(stderr, Some(estimate.n), 0.95);
            [estimate.value - half, estimate.value + half]
        });
        CalibrationStatistic {
            value: Some(estimate.value),
            stderr: estimate.stderr,
            interval,
            p: Some(found.p),
            ..group.statistic(name)
        }
    };
    vec![
        test("ecdf", sample.ecdf_deviation()),
        test("chi-square", sample.chi_square(bins)),
        moment("dispersion", sample.dispersion()),
        moment("location", sample.location()),
        test("ks", sample.kolmogorov()),
    ]
}

/// The p-value of each statistic over all parameters: the smallest one times the number of parameters
/// (Bonferroni), and the value behind it.
fn corrected_statistics(
    groups: &[RankGroup],
    found: &[CalibrationStatistic],
) -> Vec<CalibrationStatistic> {
    let mut names: Vec<&'static str> = Vec::new();
    for row in found {
        if !names.contains(&row.statistic) {
            names.push(row.statistic);
        }
    }
    let corrected = |name: &'static str| {
        let same = || found.iter().filter(|row| row.statistic == name);
        let p = bonferroni(same().filter_map(|row| row.p));
        let smallest = same()
            .filter(|row| row.p.is_some())
            .min_by(|a, b| a.p.unwrap_or(1.0).total_cmp(&b.p.unwrap_or(1.0)));
        CalibrationStatistic {
            parameter: "all".to_owned(),
            statistic: name,
            n: groups.iter().map(RankGroup::count).min().unwrap_or(0),
            failed: groups.iter().map(|g| g.failed).max().unwrap_or(0),
            value: smallest.and_then(|row| row.value),
            p,
            ..CalibrationStatistic::default()
        }
    };
    names.into_iter().map(corrected).collect()
}

/// The credibilities of a curve in percent: 5, 10, …, 95 and 99.
const CURVE_PERCENTS: [usize; 20] = [
    5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 99,
];

/// The numbers of ranks in regions of the credibilities of a curve, without repetitions. A region of
/// t of the L + 1 ranks has the credibility t/(L + 1) exactly.
fn curve_thresholds(draws: usize) -> Vec<usize> {
    let mut found: Vec<usize> = CURVE_PERCENTS
        .iter()
        .map(|percent| ((draws + 1) as f64 * *percent as f64 / 100.0).round() as usize)
        .filter(|t| (1..=draws).contains(t))
        .collect();
    found.dedup();
    found
}

/// The share of observations whose true parameters lie in the region of each credibility, with
/// binomial intervals (Clopper and Pearson 1934) and two-sided binomial p-values.
///
/// `sample` ranks regions: a true value is inside the region of t ranks if its rank is below t.
fn coverage_curve(group: &RankGroup, sample: &RankSample) -> Vec<CalibrationStatistic> {
    let (n, all) = (sample.len(), (sample.draws() + 1) as f64);
    let point = |threshold: usize| {
        let (inside, level) = (sample.count_below(threshold), threshold as f64 / all);
        let share = inside as f64 / n as f64;
        let variance = share * (1.0 - share);
        CalibrationStatistic {
            level: Some(level),
            value: Some(share),
            // A share of 0 or 1 has an interval, but its standard error is not zero.
            stderr: (variance > 0.0).then(|| (variance / n as f64).sqrt()),
            interval: Some(binomial_interval(n, inside, 0.95)),
            p: Some(binomial_two_sided_p(n, level, inside)),
            ..group.statistic("coverage")
        }
    };
    curve_thresholds(sample.draws())
        .into_iter()
        .map(point)
        .collect()
}

#[cfg(test)]
mod tests;
