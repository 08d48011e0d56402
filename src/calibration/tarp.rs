//! Tests of accuracy with random points, TARP (Lemos, Coogan, Hezaveh and Perreault-Levasseur 2023):
//! how often the true parameters lie nearer to a random point than the share c of the draws.

use ndarray::ArrayView1;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    CalibrationStatistic, DISTANCE_TIE, Observation, ObservationRank, ParameterBox, RankGroup,
    RankStatistic, coverage_curve, uniformity_statistics,
};
use crate::num::key::{Purpose, RngKey};
use crate::num::rank_tests::RankSample;
use crate::num::stats::mean_estimate;
use crate::registry::check_bounds;

/// The rank of the true parameters' distance from a random reference point among the distances of the
/// draws. It needs no log-density and sees errors of all parameters together.
///
/// Each observation has a reference point of its own, uniform in the box that holds the true
/// parameters of all observations. Distances are Euclidean after each parameter is divided by the
/// width of that box.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tarp {
    /// The number of resamples of the observations behind standard errors and intervals.
    pub resamples: usize,
    /// The number of bins of the χ² test. Default: at most 20, with 20 expected ranks each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bins: Option<usize>,
}

impl Default for Tarp {
    fn default() -> Self {
        Tarp {
            resamples: 1000,
            bins: None,
        }
    }
}

impl RankStatistic for Tarp {
    fn check(&self, draws: usize) -> Result<(), String> {
        check_bounds("tarp: resamples", self.resamples, 100, 100_000)?;
        self.bins.map_or(Ok(()), |bins| {
            check_bounds("tarp: bins", bins, 2, draws + 1)
        })
    }

    fn ranks(&self, observation: &Observation) -> Vec<ObservationRank> {
        let reference = reference_point(observation);
        vec![rank_by_distance(observation, &reference)]
    }

    fn statistics(&self, groups: &[RankGroup], key: RngKey) -> Vec<CalibrationStatistic> {
        let of = |group: &RankGroup| {
            let mut found = uniformity_statistics(group, self.bins);
            if let Some(sample) = &group.sample {
                let mut rest = coverage_curve(group, sample);
                rest.push(self.area(group, sample));
                self.resample_errors(&mut rest, sample, key);
                found.extend(rest);
            }
            found
        };
        groups.iter().flat_map(of).collect()
    }
}

impl Tarp {
    /// The area between the curve and the diagonal above credibility ½, the mean of one number per
    /// observation. The p-value takes the mean as normal, with the variance of uniform ranks.
    fn area(&self, group: &RankGroup, sample: &RankSample) -> CalibrationStatistic {
        let all = RankSample::new((0..=sample.draws()).collect(), sample.draws());
        let uniform: Vec<f64> = all.iter().flat_map(area_terms).collect();
        let expected = uniform.iter().sum::<f64>() / uniform.len() as f64;
        let squares = uniform.iter().map(|v| (v - expected).powi(2));
        let variance = squares.sum::<f64>() / uniform.len() as f64;
        let terms: Vec<f64> = area_terms(sample).map(|v| v - expected).collect();
        let value = mean_estimate(&terms).map(|mean| mean.value);
        let z = |value: f64| value * (terms.len() as f64 / variance).sqrt();
        CalibrationStatistic {
            value,
            p: value
                .filter(|_| variance > 0.0)
                .map(|value| crate::num::stats::normal_two_sided_p(z(value))),
            ..group.statistic("area")
        }
    }

    /// Replaces the standard errors and intervals of a curve and of its area by those over resampled
    /// observations: the standard deviation, and the 2.5 % and 97.5 % quantiles.
    fn resample_errors(&self, rows: &mut [CalibrationStatistic], sample: &RankSample, key: RngKey) {
        let all = (sample.draws() + 1) as f64;
        // What a row averages over observations, less what its value leaves out.
        let terms: Vec<Vec<f64>> = rows
            .iter()
            .map(|row| match row.level {
                Some(level) => {
                    let inside = |u: f64| f64::from(u8::from(u * all < (level * all).round()));
                    sample.fractions().map(inside).collect()
                }
                None => area_terms(sample).collect(),
            })
            .collect();
        let n = sample.len();
        let mut means = vec![Vec::with_capacity(self.resamples); rows.len()];
        for resample in 0..self.resamples {
            let uniform = key.uniform(Purpose::Resample, resample as u64, 0, n);
            let chosen: Vec<usize> = uniform.iter().map(|u| (u * n as f64) as usize).collect();
            for (means, terms) in means.iter_mut().zip(&terms) {
                let sum: f64 = chosen.iter().map(|i| terms[*i]).sum();
                means.push(sum / n as f64);
            }
        }
        for ((row, terms), mut means) in rows.iter_mut().zip(&terms).zip(means) {
            let left_out = terms.iter().sum::<f64>() / n as f64 - row.value.unwrap_or_default();
            means.iter_mut().for_each(|mean| *mean -= left_out);
            let centre = means.iter().sum::<f64>() / means.len() as f64;
            let square: f64 = means.iter().map(|mean| (mean - centre).powi(2)).sum();
            let spread = (square / (means.len() - 1) as f64).sqrt();
            row.stderr = (spread > 0.0).then_some(spread);
            means.sort_by(f64::total_cmp);
            // All resamples of a share of 0 or 1 are equal; the binomial interval is not empty.
            if spread > 0.0 || row.interval.is_none() {
                row.interval = Some([quantile(&means, 0.025), quantile(&means, 0.975)]);
            }
        }
    }
}

/// 1 − max(u, ½) for each rank fraction u: what an observation adds to the area under the curve above
/// credibility ½.
fn area_terms(sample: &RankSample) -> impl Iterator<Item = f64> {
    sample.fractions().map(|u| 1.0 - u.max(0.5))
}

/// A quantile of sorted values, linear between them.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + part * (sorted[above] - sorted[below])
}

/// The reference point of an observation.
fn reference_point(observation: &Observation) -> Vec<f64> {
    let ParameterBox { low, high } = observation.parameters;
    let key = observation.key;
    let uniform = key.uniform(Purpose::ReferencePoint, observation.index, 0, low.len());
    let sides = low.iter().zip(high);
    sides
        .zip(&uniform)
        .map(|((low, high), u)| low + (high - low) * u)
        .collect()
}

/// The rank of the true parameters' distance from `reference` among those of the draws.
pub(super) fn rank_by_distance(observation: &Observation, reference: &[f64]) -> ObservationRank {
    let ParameterBox { low, high } = observation.parameters;
    let distance = |x: ArrayView1<f64>| {
        let sides = low.iter().zip(high);
        let terms = x.iter().zip(reference).zip(sides);
        terms
            .map(|((x, r), (low, high))| ((x - r) / (high - low)).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let draws = observation.draws.rows().into_iter().map(distance);
    observation.rank(distance(observation.truth), draws, None, DISTANCE_TIE)
}
