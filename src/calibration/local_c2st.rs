//! The local classifier two-sample test, L-C2ST (Linhart, Gramfort and Rodrigues 2023): under which
//! observations a classifier tells a model's draws from true parameters.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CalibrationStatistic, Observation, ObservationRank, RankGroup, RankStatistic};
use crate::num::key::{Purpose, RngKey, SampleId};
use crate::num::logistic::{
    LogisticRegression, fit_logistic_regression, mean_and_inverse_std, standardize_columns,
};
use crate::num::rank_tests::RankSample;
use crate::num::stats::mean_estimate;
use crate::rows::Status;

/// The rank of a classifier's deviation under one observation among those of classifiers whose
/// classes were exchanged at random. There are no parameters.
///
/// A logistic regression learns to tell true parameters from one draw each, with the observation
/// as an input. Under one observation its deviation is the mean square of its probability minus ½
/// over the other draws. The same is done as many times as there are draws with the members of random
/// pairs exchanged, which changes nothing if the model is the posterior. The rank of the deviation
/// among these is then uniform, and a high rank says that draws are wrong there.
///
/// The classifier's inputs are the standardized parameters and the observation's numbers, all products
/// of two of these, and the products of squared parameters with the observation's numbers. It
/// therefore sees errors of location, of width and of dependence that change with the observation
/// about linearly.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalC2st {}

/// The level at which observations are counted as rejected.
const LEVEL: f64 = 0.05;

/// The largest number of inputs of a classifier.
const MAX_FEATURES: usize = 1000;

/// The place of ties of the deviation among the addresses of random choices.
const DEVIATION_TIE: u64 = u64::MAX - 2;

impl LocalC2st {
    /// Checks the numbers of parameters and of numbers of an observation.
    ///
    /// # Errors
    /// Fails if a classifier would have too many inputs. The message says what was expected.
    pub fn check_sizes(parameters: usize, observed: usize) -> Result<(), String> {
        let features = feature_count(parameters, observed);
        match (observed, features) {
            (0, _) => Err(
                "the model has no conditions with numbers, so that all observations are the same; \
                 expected another test"
                    .to_owned(),
            ),
            (_, features) if features > MAX_FEATURES => Err(format!(
                "{parameters} parameters and {observed} numbers of an observation make {features} \
                 inputs of a classifier, expected at most {MAX_FEATURES}; expected another test, or \
                 observations as fewer numbers"
            )),
            _ => Ok(()),
        }
    }
}

impl RankStatistic for LocalC2st {
    fn check(&self, draws: usize) -> Result<(), String> {
        match draws {
            0..20 => Err(format!(
                "{draws} draws, expected at least 20: a p-value is not below 1/(draws + 1)"
            )),
            _ => Ok(()),
        }
    }

    fn needs_classifiers(&self) -> bool {
        true
    }

    fn ranks(&self, observation: &Observation) -> Vec<ObservationRank> {
        let deviations = observation.classifiers.and_then(|(classifiers, observed)| {
            // The first draw was trained on.
            let draws = observation.draws.slice_axis(Axis(0), (1..).into());
            classifiers.deviations(draws, observed)
        });
        let Some(deviations) = deviations else {
            return vec![ObservationRank {
                parameter: None,
                rank: None,
                ties: 0,
                value: None,
                stderr: None,
                status: Status::NonFinite,
            }];
        };
        let exchanged = deviations.iter().skip(1).copied();
        vec![observation.rank(deviations[0], exchanged, None, DEVIATION_TIE)]
    }

    fn statistics(&self, groups: &[RankGroup], _: RngKey) -> Vec<CalibrationStatistic> {
        groups.iter().flat_map(local_statistics).collect()
    }
}

/// The share of rejected observations with the p-value of all together, and the mean deviation.
fn local_statistics(group: &RankGroup) -> Vec<CalibrationStatistic> {
    let Some(sample) = &group.sample else {
        return vec![group.statistic("rejected")];
    };
    let p_values = p_values(sample);
    let n = p_values.len() as f64;
    let rejected = p_values.iter().filter(|p| **p <= LEVEL).count();
    let mean = mean_estimate(&group.values);
    vec![
        CalibrationStatistic {
            value: Some(rejected as f64 / n),
            p: Some((2.0 * p_values.iter().sum::<f64>() / n).min(1.0)),
            ..group.statistic("rejected")
        },
        CalibrationStatistic {
            value: mean.map(|mean| mean.value),
            stderr: mean.and_then(|mean| mean.stderr),
            ..group.statistic("deviation")
        },
    ]
}

/// The p-value of each rank: the share of classifiers, the real one included, that deviate as much.
fn p_values(sample: &RankSample) -> Vec<f64> {
    let all = (sample.draws() + 1) as f64;
    sample
        .ranks()
        .iter()
        .map(|rank| local_p_value(*rank, all))
        .collect()
}

/// The p-value of an observation with a rank among `all` − 1 others.
pub fn local_p_value(rank: usize, all: f64) -> f64 {
    (all - rank as f64) / all
}

/// A classifier of true parameters and draws that knows the observation, and one for each random
/// exchange of pairs.
#[derive(Debug, Clone)]
pub struct LocalClassifiers {
    /// The standardization of the parameters and of the observations' numbers.
    parameters: [Array1<f64>; 2],
    observed: [Array1<f64>; 2],
    /// The standardization of the inputs.
    features: [Array1<f64>; 2],
    /// The weights of the classifiers, inputs × classifiers. The first one's pairs are as they were.
    weights: Array2<f64>,
    /// The intercepts of the classifiers.
    intercepts: Array1<f64>,
}

/// What classifiers are trained on: a true value, a draw and an observation in each row.
#[derive(Debug, Clone, Copy)]
pub struct TrainingPairs<'a> {
    /// The true parameters, observations × parameters.
    pub truths: ArrayView2<'a, f64>,
    /// One draw under each observation, observations × parameters.
    pub draws: ArrayView2<'a, f64>,
    /// The numbers of each observation.
    pub observed: ArrayView2<'a, f64>,
}

impl LocalClassifiers {
    /// Trains a classifier on pairs, and `exchanges` others with random pairs exchanged. Pairs that
    /// are not finite are left out.
    pub fn train(pairs: &TrainingPairs, exchanges: usize, key: RngKey) -> LocalClassifiers {
        let finite = |i: &usize| {
            let rows = [
                pairs.truths.row(*i),
                pairs.draws.row(*i),
                pairs.observed.row(*i),
            ];
            rows.iter().all(|row| row.iter().all(|v| v.is_finite()))
        };
        let kept: Vec<usize> = (0..pairs.truths.nrows()).filter(finite).collect();
        let of = |rows: ArrayView2<f64>| rows.select(Axis(0), &kept);
        let (truths, draws, observed) = (of(pairs.truths), of(pairs.draws), of(pairs.observed));
        // Every standardization is the same whichever members of pairs are exchanged.
        let both = ndarray::concatenate![Axis(0), truths, draws];
        let mut classifiers = LocalClassifiers {
            parameters: mean_and_inverse_std(both.view()),
            observed: mean_and_inverse_std(observed.view()),
            features: Default::default(),
            weights: Array2::zeros((0, 0)),
            intercepts: Array1::zeros(0),
        };
        let twice = ndarray::concatenate![Axis(0), observed, observed];
        let raw = classifiers.raw_features(both.view(), twice.view());
        classifiers.features = mean_and_inverse_std(raw.view());
        let inputs = standardize_columns(raw, &classifiers.features);
        let n = kept.len();
        let fits: Vec<LogisticRegression> = (0..=exchanges)
            .into_par_iter()
            .map(|exchange| {
                let mut is_draw: Vec<bool> = (0..2 * n).map(|i| i >= n).collect();
                for (i, observation) in kept.iter().enumerate().filter(|_| exchange > 0) {
                    let place = (*observation as SampleId, exchange as u64);
                    if key.uniform_at(Purpose::PairSwap, place.0, place.1, 0) < 0.5 {
                        is_draw.swap(i, n + i);
                    }
                }
                fit_logistic_regression(inputs.view(), &is_draw)
            })
            .collect();
        classifiers.weights = Array2::zeros((inputs.ncols(), fits.len()));
        for (mut column, fit) in classifiers.weights.columns_mut().into_iter().zip(&fits) {
            column.assign(&fit.weights);
        }
        classifiers.intercepts = fits.iter().map(|fit| fit.intercept).collect();
        classifiers
    }

    /// The mean square of each classifier's probability minus ½ over draws under one observation.
    /// `None` if a draw is not finite or there is none.
    fn deviations(&self, draws: ArrayView2<f64>, observed: ArrayView1<f64>) -> Option<Array1<f64>> {
        let finite = draws.iter().chain(observed).all(|v| v.is_finite());
        if !finite || draws.nrows() == 0 {
            return None;
        }
        let shape = (draws.nrows(), observed.len());
        let observed = observed.broadcast(shape).expect("one row for each draw");
        let raw = self.raw_features(draws, observed);
        let inputs = standardize_columns(raw, &self.features);
        let scores = inputs.dot(&self.weights) + &self.intercepts;
        // The logistic function minus ½ is tanh(s/2)/2.
        let squares = scores.mapv_into(|score| (0.5 * (0.5 * score).tanh()).powi(2));
        squares.mean_axis(Axis(0))
    }

    /// The inputs of the classifiers before they are standardized.
    fn raw_features(&self, parameters: ArrayView2<f64>, observed: ArrayView2<f64>) -> Array2<f64> {
        let parameters = standardize_columns(parameters.to_owned(), &self.parameters);
        let observed = standardize_columns(observed.to_owned(), &self.observed);
        let count = feature_count(parameters.ncols(), observed.ncols());
        let mut features = Array2::zeros((parameters.nrows(), count));
        let rows = features.rows_mut().into_iter();
        for ((mut row, parameters), observed) in rows.zip(parameters.rows()).zip(observed.rows()) {
            let both: Vec<f64> = parameters.iter().chain(observed).copied().collect();
            let products = (0..both.len())
                .flat_map(|i| (i..both.len()).map(move |j| (i, j)))
                .map(|(i, j)| both[i] * both[j]);
            let squares = parameters
                .iter()
                .flat_map(|p| observed.iter().map(move |x| p * p * x));
            let all = both.iter().copied().chain(products).chain(squares);
            row.iter_mut().zip(all).for_each(|(to, value)| *to = value);
        }
        features
    }
}

/// The number of inputs of a classifier.
fn feature_count(parameters: usize, observed: usize) -> usize {
    let both = parameters + observed;
    both + both * (both + 1) / 2 + parameters * observed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::{CalibrationTest, ParameterBox};

    const OBSERVATIONS: usize = 300;
    const DRAWS: usize = 60;

    /// The ranks under the first `ranked` of `count` observations x = θ + noise for θ ~ N(0, I₂). Draws are those of the posterior,
    /// but where the first number of an observation is above 0 they are `wrong` deviations off.
    fn ranks(seed: u64, wrong: f64, [count, ranked]: [usize; 2]) -> (Vec<usize>, Array2<f64>) {
        let key = RngKey { seed };
        let normal = |place: u64, rows: usize| {
            let numbers = key.normal(Purpose::Check, place, 0, rows * 2);
            numbers
                .into_shape_with_order((rows, 2))
                .expect("two columns")
        };
        let truths = normal(0, count);
        let observed = &truths + &normal(1, count);
        let draws: Vec<Array2<f64>> = (0..count)
            .map(|i| {
                let x = observed.row(i);
                let shift = if x[0] > 0.0 { wrong } else { 0.0 };
                (normal(2 + i as u64, DRAWS) + shift) * 0.5f64.sqrt() + &(&x * 0.5)
            })
            .collect();
        let firsts: Vec<ArrayView1<f64>> = draws.iter().map(|draws| draws.row(0)).collect();
        let firsts = ndarray::stack(Axis(0), &firsts).expect("rows");
        let pairs = TrainingPairs {
            truths: truths.view(),
            draws: firsts.view(),
            observed: observed.view(),
        };
        let classifiers = LocalClassifiers::train(&pairs, DRAWS, key);
        let test = CalibrationTest::from_name("lc2st").expect("a test");
        let parameters = ParameterBox::of(truths.view());
        let found = (0..ranked).map(|i| {
            let observation = Observation {
                index: i as SampleId,
                truth: truths.row(i),
                draws: draws[i].view(),
                densities: None,
                classifiers: Some((&classifiers, observed.row(i))),
                parameters: &parameters,
                key,
            };
            test.ranks(&observation)[0].rank.expect("finite")
        });
        (found.collect(), observed)
    }

    fn share_rejected(ranks: &[usize], of: impl Fn(usize) -> bool) -> f64 {
        let chosen: Vec<usize> = (0..ranks.len()).filter(|i| of(*i)).collect();
        let p = |i: &usize| local_p_value(ranks[*i], (DRAWS + 1) as f64);
        let rejected = chosen.iter().filter(|i| p(i) <= LEVEL).count();
        rejected as f64 / chosen.len() as f64
    }

    #[test]
    fn draws_that_are_wrong_under_some_observations_are_found_there() {
        let (ranks, observed) = ranks(1, 1.0, [OBSERVATIONS; 2]);
        let there = share_rejected(&ranks, |i| observed[[i, 0]] > 0.7);
        let elsewhere = share_rejected(&ranks, |i| observed[[i, 0]] < -0.7);
        println!("{there:.2} {elsewhere:.2}");
        assert!(there > 0.8, "{there}");
        assert!(elsewhere < 0.6 * there, "{elsewhere}");
        let group = RankGroup::new(None, ranks, DRAWS, 0, vec![0.1; OBSERVATIONS]).expect("ranks");
        let rows = LocalC2st {}.statistics(&[group], RngKey { seed: 1 });
        assert!(rows[0].p.expect("p") < 0.5 && rows[0].value.expect("share") > 0.3);
    }

    #[test]
    fn a_p_value_of_one_observation_is_uniform_for_an_exact_posterior() {
        // Observations of one repetition share classifiers: only repetitions are independent.
        let firsts: Vec<usize> = (0..100)
            .map(|seed| ranks(seed, 0.0, [100, 1]).0[0])
            .collect();
        let sample = RankSample::new(firsts, DRAWS).expect("ranks");
        let test = sample.ecdf_deviation();
        println!("{test:?}");
        assert!(test.p > 1e-3, "{test:?}");
    }

    #[test]
    fn sizes_and_draws_are_checked() {
        assert!(LocalC2st::check_sizes(4, 10).is_ok());
        let none = LocalC2st::check_sizes(4, 0).expect_err("no numbers");
        assert!(none.contains("no conditions"), "{none}");
        let many = LocalC2st::check_sizes(4, 784).expect_err("too many");
        assert!(many.contains("314790") && many.contains("1000"), "{many}");
        assert!(LocalC2st {}.check(19).is_err() && LocalC2st {}.check(20).is_ok());
    }
}
