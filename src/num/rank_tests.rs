//! Tests of whether ranks among draws are uniform, as those of a calibrated posterior are.
//!
//! A rank counts the draws below a true value, so that it lies in 0..=L for L draws. For an exact
//! posterior all L + 1 ranks are equally likely. All tests take this discrete distribution as it is,
//! except [`RankSample::kolmogorov`], which follows the package `sbi`.

use super::stats::{Estimate, mean_estimate, normal_two_sided_p};
use super::tails::{binomial_two_sided_p, chi_square_tail, kolmogorov_tail, poisson_probability};

/// The largest number of thresholds at which the empirical distribution of ranks is tested.
const MAX_THRESHOLDS: usize = 128;

/// The number of ranks that a bin of the χ² test expects at least, if there are as many.
const RANKS_PER_BIN: usize = 20;

/// The largest number of bins of the χ² test that is chosen without a request.
const MAX_BINS: usize = 20;

/// The ranks of true values among draws, one for each observation.
#[derive(Debug, Clone, PartialEq)]
pub struct RankSample {
    /// The ranks, each from 0 to `draws`.
    ranks: Vec<usize>,
    /// The number of draws, L.
    draws: usize,
}

/// A statistic of ranks and the probability of one as extreme if all ranks are equally likely.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UniformityTest {
    /// The statistic.
    pub value: f64,
    /// The p-value.
    pub p: f64,
}

/// A mean over ranks with its standard error, and the p-value of its deviation from zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankMoment {
    /// The mean over observations, zero in expectation if all ranks are equally likely.
    pub estimate: Estimate,
    /// The two-sided p-value under uniform ranks. The variance under that hypothesis is known, and
    /// the mean is taken as normal.
    pub p: f64,
}

impl RankSample {
    /// Ranks among `draws` draws.
    ///
    /// # Errors
    /// Fails if there are no ranks or no draws, or if a rank exceeds the number of draws.
    pub fn new(ranks: Vec<usize>, draws: usize) -> Result<RankSample, String> {
        if ranks.is_empty() || draws == 0 {
            return Err(
                "there are no ranks; expected at least one observation and draw".to_owned(),
            );
        }
        match ranks.iter().find(|rank| **rank > draws) {
            Some(rank) => Err(format!("rank {rank} among {draws} draws")),
            None => Ok(RankSample { ranks, draws }),
        }
    }

    /// The number of observations.
    pub fn len(&self) -> usize {
        self.ranks.len()
    }

    /// Whether there are no observations; never true.
    pub fn is_empty(&self) -> bool {
        self.ranks.is_empty()
    }

    /// The ranks in the order of the observations.
    pub fn ranks(&self) -> &[usize] {
        &self.ranks
    }

    /// The number of draws.
    pub fn draws(&self) -> usize {
        self.draws
    }

    /// The ranks counted from the other end: L − r.
    pub fn reversed(&self) -> RankSample {
        RankSample {
            ranks: self.ranks.iter().map(|rank| self.draws - rank).collect(),
            draws: self.draws,
        }
    }

    /// The ranks as numbers in (0, 1) with mean ½: (r + ½)/(L + 1).
    pub fn fractions(&self) -> impl Iterator<Item = f64> {
        let all = (self.draws + 1) as f64;
        self.ranks
            .iter()
            .map(move |rank| (*rank as f64 + 0.5) / all)
    }

    /// The number of ranks below `threshold`.
    pub fn count_below(&self, threshold: usize) -> usize {
        self.ranks.iter().filter(|rank| **rank < threshold).count()
    }

    /// The number of ranks below each of 0..=L + 1.
    fn cumulative_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.draws + 2];
        self.ranks.iter().for_each(|rank| counts[rank + 1] += 1);
        let mut sum = 0;
        for count in &mut counts {
            sum += *count;
            *count = sum;
        }
        counts
    }

    /// Pearson's χ² of the ranks in `bins` bins of nearly equal width, each with the probability of
    /// its ranks. `None` chooses at most 20 bins with 20 expected ranks each, and at least 2.
    ///
    /// The p-value is that of the χ² distribution with one degree of freedom less than bins.
    pub fn chi_square(&self, bins: Option<usize>) -> UniformityTest {
        let n = self.ranks.len();
        let chosen = (n / RANKS_PER_BIN).clamp(2, MAX_BINS);
        let bins = bins.unwrap_or(chosen).clamp(1, self.draws + 1);
        let edge = |bin: usize| bin * (self.draws + 1) / bins;
        let counts = self.cumulative_counts();
        let value = (0..bins)
            .map(|bin| {
                let (low, high) = (edge(bin), edge(bin + 1));
                let expected = n as f64 * (high - low) as f64 / (self.draws + 1) as f64;
                let gap = (counts[high] - counts[low]) as f64 - expected;
                gap * gap / expected
            })
            .sum();
        UniformityTest {
            value,
            p: chi_square_tail(value, bins - 1),
        }
    }

    /// The largest deviation of the ranks' empirical distribution function from the uniform one,
    /// over all ranks.
    ///
    /// The p-value is that of the simultaneous bands of Säilynoja, Bürkner and Vehtari (2022): the
    /// smallest two-sided binomial p-value over at most 128 thresholds, and the exact probability of
    /// one as small anywhere. Counts are discrete, so that the test rejects at most as often as its
    /// level says.
    pub fn ecdf_deviation(&self) -> UniformityTest {
        let (n, all) = (self.ranks.len(), (self.draws + 1) as f64);
        let counts = self.cumulative_counts();
        let gap = |t: usize| (counts[t] as f64 / n as f64 - t as f64 / all).abs();
        let value = (1..=self.draws).map(gap).fold(0.0, f64::max);
        let thresholds = band_thresholds(self.draws);
        let smallest = thresholds
            .iter()
            .map(|t| binomial_two_sided_p(n, *t as f64 / all, counts[*t]))
            .fold(1.0, f64::min);
        // Rounding must not exclude counts that are exactly as extreme.
        let level = smallest * (1.0 + 1e-9);
        let band = RankBand::at_level(n, self.draws, level);
        let p = 1.0 - band.probability();
        // The probability of the union is between that of one event and the sum of all.
        let most = (thresholds.len() as f64 * smallest).min(1.0);
        UniformityTest {
            value,
            p: p.clamp(smallest.min(most), most),
        }
    }

    /// The largest deviation of the ranks r/L from the continuous uniform distribution, with the
    /// p-value of Kolmogorov: the test of `check_sbc` in the package `sbi`.
    ///
    /// It takes the ranks as continuous, so that it is right only for many more draws than
    /// observations.
    pub fn kolmogorov(&self) -> UniformityTest {
        let n = self.ranks.len();
        let mut sorted = self.ranks.clone();
        sorted.sort_unstable();
        let gap = |(i, rank): (usize, &usize)| {
            let at = *rank as f64 / self.draws as f64;
            (at - i as f64 / n as f64).max((i + 1) as f64 / n as f64 - at)
        };
        let value = sorted.iter().enumerate().map(gap).fold(0.0, f64::max);
        UniformityTest {
            value,
            p: kolmogorov_tail(n, value),
        }
    }

    /// The mean of the rank fractions minus ½. It is positive if true values lie above the draws.
    pub fn location(&self) -> RankMoment {
        let values: Vec<f64> = self.fractions().map(|u| u - 0.5).collect();
        moment(&values, self.fraction_variance())
    }

    /// The mean square of the rank fractions about ½, relative to that of uniform ranks, minus 1. It
    /// is positive if the draws are too narrow: true values lie at the ends too often.
    pub fn dispersion(&self) -> RankMoment {
        let (variance, all) = (self.fraction_variance(), (self.draws + 1) as f64);
        let square = all * all;
        // The fourth moment of equally spaced points about their mean.
        let fourth = (square - 1.0) * (3.0 * square - 7.0) / (240.0 * square * square);
        let values: Vec<f64> = self
            .fractions()
            .map(|u| (u - 0.5).powi(2) / variance - 1.0)
            .collect();
        moment(&values, fourth / (variance * variance) - 1.0)
    }

    /// The variance of the fraction of a uniform rank.
    fn fraction_variance(&self) -> f64 {
        let all = (self.draws + 1) as f64;
        (1.0 - 1.0 / (all * all)) / 12.0
    }
}

/// The mean of values whose mean is 0 and whose variance is `variance` under uniform ranks.
fn moment(values: &[f64], variance: f64) -> RankMoment {
    let n = values.len();
    let estimate = mean_estimate(values).unwrap_or(Estimate {
        value: f64::NAN,
        stderr: None,
        n,
    });
    let p = match variance > 0.0 {
        true => normal_two_sided_p(estimate.value * (n as f64 / variance).sqrt()),
        false => 1.0,
    };
    RankMoment { estimate, p }
}

/// The smallest p-value times the number of tests, at most 1 (Bonferroni). `None` if there are none.
pub fn bonferroni(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (smallest, count) = values
        .into_iter()
        .fold((f64::INFINITY, 0usize), |(p, n), value| {
            (p.min(value), n + 1)
        });
    (count > 0).then(|| (smallest * count as f64).min(1.0))
}

/// The thresholds at which the empirical distribution of ranks among `draws` draws is tested: evenly
/// spaced, each from 1 to `draws`, and the same from either end.
fn band_thresholds(draws: usize) -> Vec<usize> {
    let count = draws.min(MAX_THRESHOLDS);
    let from_end = |k: usize| k * (draws + 1) / (count + 1);
    (1..=count)
        .map(|k| match 2 * k <= count {
            true => from_end(k),
            false => draws + 1 - from_end(count + 1 - k),
        })
        .collect()
}

/// Bounds of the number of ranks below each threshold, for `n` uniform ranks.
#[derive(Debug, Clone, PartialEq)]
pub struct RankBand {
    /// The number of ranks.
    n: usize,
    /// The number of draws.
    draws: usize,
    /// The thresholds, in rising order.
    pub thresholds: Vec<usize>,
    /// The smallest and the largest number of ranks below each threshold.
    pub bounds: Vec<[usize; 2]>,
}

impl RankBand {
    /// The band that contains the empirical distribution of uniform ranks at all thresholds together
    /// with at least this probability, with one pointwise level for all thresholds (Säilynoja,
    /// Bürkner and Vehtari 2022).
    pub fn simultaneous(n: usize, draws: usize, confidence: f64) -> RankBand {
        let thresholds = draws.clamp(1, MAX_THRESHOLDS) as f64;
        let all = 1.0 - confidence;
        // The union of all thresholds is more probable than one and less than the sum.
        let (mut low, mut high) = ((all / thresholds).ln(), all.ln());
        for _ in 0..20 {
            let middle = 0.5 * (low + high);
            if RankBand::at_level(n, draws, middle.exp()).probability() >= confidence {
                low = middle
            } else {
                high = middle
            }
        }
        RankBand::at_level(n, draws, low.exp())
    }

    /// The counts at each threshold whose two-sided binomial p-value is above `level`.
    fn at_level(n: usize, draws: usize, level: f64) -> RankBand {
        let thresholds = band_thresholds(draws);
        let bounds = thresholds
            .iter()
            .map(|t| pointwise_bounds(n, *t as f64 / (draws + 1) as f64, level))
            .collect();
        RankBand {
            n,
            draws,
            thresholds,
            bounds,
        }
    }

    /// The probability that the counts of `n` uniform ranks are within the bounds at all thresholds.
    ///
    /// Counts between thresholds are those of a Poisson process with `n` events in total, followed
    /// from threshold to threshold.
    pub fn probability(&self) -> f64 {
        let rate = |ranks: usize| self.n as f64 * ranks as f64 / (self.draws + 1) as f64;
        let (mut first, mut held, mut from) = (0, vec![1.0], 0);
        for (threshold, [low, high]) in self.thresholds.iter().zip(&self.bounds) {
            if low > high {
                return 0.0;
            }
            let mean = rate(threshold - from);
            let steps: Vec<f64> = (0..=high.saturating_sub(first))
                .map(|step| poisson_probability(mean, step))
                .collect();
            let reach = |count: usize| {
                let before = held.iter().enumerate();
                before
                    .filter_map(|(i, p)| Some(p * steps[count.checked_sub(first + i)?]))
                    .sum()
            };
            held = (*low..=*high).map(reach).collect();
            (first, from) = (*low, *threshold);
        }
        let mean = rate(self.draws + 1 - from);
        let last = held
            .iter()
            .enumerate()
            .map(|(i, p)| p * poisson_probability(mean, self.n - first - i));
        last.sum::<f64>() / poisson_probability(self.n as f64, self.n)
    }
}

/// The smallest and the largest binomial count with a two-sided p-value above `level`.
fn pointwise_bounds(n: usize, p: f64, level: f64) -> [usize; 2] {
    let inside = |x: usize| binomial_two_sided_p(n, p, x) > level;
    let middle = ((n as f64 * p) as usize).min(n);
    // The p-value rises up to the middle and falls beyond it.
    let edge = |mut outside: usize, mut within: usize| {
        if inside(outside) {
            return outside;
        }
        while outside.abs_diff(within) > 1 {
            let half = usize::midpoint(outside, within);
            if inside(half) {
                within = half
            } else {
                outside = half
            }
        }
        within
    };
    let peak = match (inside(middle), middle < n && inside(middle + 1)) {
        (true, _) => middle,
        (false, true) => middle + 1,
        // No count is inside at a level near 1.
        (false, false) => return [1, 0],
    };
    [edge(0, peak), edge(n, peak)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The multiset of all sequences of `n` ranks 0..=L, by brute force.
    fn all_ranks(n: usize, draws: usize) -> impl Iterator<Item = Vec<usize>> {
        let all = draws + 1;
        (0..all.pow(n as u32)).map(move |mut code| {
            (0..n)
                .map(|_| {
                    let rank = code % all;
                    code /= all;
                    rank
                })
                .collect()
        })
    }

    #[test]
    fn ecdf_p_values_are_the_enumerated_ones() {
        let (n, draws) = (5, 4);
        let smallest = |ranks: &[usize]| {
            let below = |t: usize| ranks.iter().filter(|r| **r < t).count();
            (1..=draws)
                .map(|t| binomial_two_sided_p(n, t as f64 / (draws + 1) as f64, below(t)))
                .fold(1.0, f64::min)
        };
        let every: Vec<f64> = all_ranks(n, draws).map(|r| smallest(&r)).collect();
        for (place, ranks) in all_ranks(n, draws).enumerate().step_by(97) {
            let found = RankSample::new(ranks, draws)
                .expect("ranks")
                .ecdf_deviation();
            let extreme = every.iter().filter(|p| **p <= every[place] * (1.0 + 1e-9));
            let known = extreme.count() as f64 / every.len() as f64;
            assert!((found.p - known).abs() < 1e-12, "{found:?} {known}");
        }
    }

    #[test]
    fn moments_are_those_of_all_ranks() {
        for draws in [1, 2, 5, 100] {
            let all = RankSample::new((0..=draws).collect(), draws).expect("ranks");
            let (location, dispersion) = (all.location(), all.dispersion());
            assert!(location.estimate.value.abs() < 1e-15, "{location:?}");
            assert!(dispersion.estimate.value.abs() < 1e-13, "{dispersion:?}");
            // The known variance is the mean square over all ranks.
            let variance = all.fraction_variance();
            let squares: Vec<f64> = all
                .fractions()
                .map(|u| ((u - 0.5).powi(2) / variance - 1.0).powi(2))
                .collect();
            let known = mean_estimate(&squares).expect("ranks").value;
            let single = RankSample::new(vec![0], draws)
                .expect("a rank")
                .dispersion();
            let implied = (single.estimate.value / known.sqrt()).abs();
            match draws > 1 {
                true => assert!(
                    (single.p - normal_two_sided_p(implied)).abs() < 1e-12,
                    "{single:?}"
                ),
                false => assert!(single.p > 0.99, "{single:?}"),
            }
        }
    }

    #[test]
    fn bands_hold_their_probability() {
        for (n, draws) in [(50, 9), (500, 100), (1000, 1000)] {
            let band = RankBand::simultaneous(n, draws, 0.95);
            let held = band.probability();
            assert!((0.95..0.965).contains(&held), "{n} {draws}: {held}");
            let even = band.bounds.iter().zip(band.bounds.iter().rev());
            assert!(
                even.clone().all(|([low, _], [_, high])| low + high == n),
                "a band is symmetric: {band:?}"
            );
        }
    }

    #[test]
    fn wrong_ranks_are_refused() {
        assert!(RankSample::new(vec![3], 2).is_err_and(|e| e.contains("rank 3")));
        assert!(RankSample::new(vec![], 2).is_err());
        assert!(RankSample::new(vec![0], 0).is_err());
    }
}
