//! Mixtures of isotropic normal distributions, one around each of many centres, with variances that
//! are fitted to data.

use std::f64::consts::PI;

use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pairwise_distance;
use crate::num::adam::Adam;

/// How the variances of a mixture are fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum MixtureFit {
    /// Up to 50 epochs of Adam with learning rate 0.5, as in the authors' package.
    #[default]
    Reference,
    /// Expectation maximization until the likelihood no longer increases, which is a local optimum.
    Converged,
}

/// The number of points per step of Adam.
const ADAM_BATCH_SIZE: usize = 10_000;
/// The largest number of epochs of Adam.
const MAX_EPOCHS: usize = 50;
/// The learning rate of Adam.
const LEARNING_RATE: f64 = 0.5;
/// Adam stops early if the loss differs from each of the four losses before it by less than this,
/// in nats per dimension.
const LOSS_PLATEAU: f64 = 5e-4;
/// The largest absolute value of ln σ². This bound keeps exact copies from making a variance 0.
const MAX_ABS_LOG_VARIANCE: f64 = 40.0;
/// The offset in the initial variances (d + offset)/D, with d the squared distance of a centre to
/// its nearest point. It keeps them above 0.
const INITIAL_DISTANCE_OFFSET: f64 = 1e-3;
/// The factor on squared distances to the extra component, which is around the mean of the points
/// and only present during the fit. Distances to it are scaled by 0.9. Because of this component no
/// point is far from all components.
const MEAN_DISTANCE_FACTOR: f64 = 0.9 * 0.9;
/// The largest number of iterations of expectation maximization.
const MAX_EM_ITERATIONS: usize = 1000;
/// Expectation maximization ends when an iteration gains less than this, in nats per dimension and
/// point.
const EM_TOLERANCE: f64 = 1e-9;

/// The mixture with the density Σ_j N(x; c_j, exp(s_j) I)/N, for N centres c_j in D dimensions.
pub(super) struct IsotropicMixture<'a> {
    /// The centres c_j, shape (N, D).
    centres: ArrayView2<'a, f64>,
    /// The log-variances s_j = ln σ_j².
    log_variances: Array1<f64>,
}

/// The log-densities of some points under a mixture, and the responsibilities of its centres.
pub(super) struct MixtureScores {
    /// The log-density ln p(x_i) of each point, in nats.
    pub log_densities: Vec<f64>,
    /// The sum Σ_i r_ij over points for each centre j. The responsibility r_ij is the share of
    /// centre j in the density of point i.
    pub responsibilities: Array1<f64>,
    /// The sum Σ_i r_ij² over points for each centre j.
    pub squared_responsibilities: Array1<f64>,
}

/// Squared distances of points to all centres, in blocks of rows: one row per point, one column per
/// centre.
type CentreDistances = Vec<Array2<f64>>;

impl<'a> IsotropicMixture<'a> {
    /// Fits the variances to points. If there are more than 10,000 points, Adam processes them in
    /// batches, in the given order.
    pub(super) fn fit(
        centres: ArrayView2<'a, f64>,
        points: ArrayView2<f64>,
        fit: MixtureFit,
    ) -> IsotropicMixture<'a> {
        IsotropicMixture::fit_in_batches(ADAM_BATCH_SIZE, centres, points, fit)
    }

    /// Fits the variances to points, with `batch` points per step of Adam.
    fn fit_in_batches(
        batch: usize,
        centres: ArrayView2<'a, f64>,
        points: ArrayView2<f64>,
        fit: MixtureFit,
    ) -> IsotropicMixture<'a> {
        let dim = points.ncols() as f64;
        let mean = points
            .mean_axis(Axis(0))
            .expect("points")
            .insert_axis(Axis(0));
        let batches: Vec<PointBatch> = points
            .axis_chunks_iter(Axis(0), batch)
            .map(|some| {
                let to_mean = pairwise_distance::squared_distances(some, mean.view())
                    .into_iter()
                    .map(|d| MEAN_DISTANCE_FACTOR * d)
                    .collect();
                PointBatch {
                    distances: pairwise_distance::map_distance_blocks(some, centres, |_, part| {
                        part
                    }),
                    distances_to_mean: to_mean,
                }
            })
            .collect();
        let mut nearest = Array1::from_elem(centres.nrows(), f64::INFINITY);
        for row in batches
            .iter()
            .flat_map(|b| &b.distances)
            .flat_map(|part| part.rows())
        {
            nearest.zip_mut_with(&row, |least, d| *least = least.min(*d));
        }
        let variances = LogVariances {
            centres: nearest.mapv(|d| ((d + INITIAL_DISTANCE_OFFSET) / dim).ln()),
            mean: 0.0,
        };
        let variances = match fit {
            MixtureFit::Reference => variances.fit_by_adam(&batches, dim),
            MixtureFit::Converged => variances.fit_by_em(&batches, dim),
        };
        IsotropicMixture {
            centres,
            log_variances: variances.centres,
        }
    }

    /// The log-densities of points, and the responsibilities of the centres for them.
    pub(super) fn score(&self, points: ArrayView2<f64>) -> MixtureScores {
        let (n, dim) = (self.centres.nrows(), points.ncols() as f64);
        let components = GaussianComponents::from_log_variances(&self.log_variances, dim);
        let mut scores = MixtureScores {
            log_densities: Vec::with_capacity(points.nrows()),
            responsibilities: Array1::zeros(n),
            squared_responsibilities: Array1::zeros(n),
        };
        let part = |some: ArrayView2<f64>| {
            let distances = pairwise_distance::squared_distances(some, self.centres);
            let (mut shares, mut squares, mut weights) =
                (Array1::zeros(n), Array1::zeros(n), vec![0.0; n]);
            let densities: Vec<f64> = (distances.rows().into_iter())
                .map(|row| {
                    let all =
                        components.density_at(row.iter().copied(), f64::NEG_INFINITY, &mut weights);
                    for ((share, square), weight) in
                        shares.iter_mut().zip(&mut squares).zip(&weights)
                    {
                        *share += weight / all.relative_sum;
                        *square += (weight / all.relative_sum).powi(2);
                    }
                    all.log_density
                })
                .collect();
            (densities, shares, squares)
        };
        let parts: Vec<ArrayView2<f64>> = points
            .axis_chunks_iter(Axis(0), pairwise_distance::ROWS_PER_BLOCK)
            .collect();
        // Parts are evaluated in groups, which bounds the memory. They are added in order, so the
        // digits do not depend on the number of threads.
        for group in parts.chunks(PARTS_IN_MEMORY) {
            let done: Vec<_> = group.par_iter().map(|some| part(*some)).collect();
            for (densities, shares, squares) in done {
                scores.log_densities.extend(densities);
                scores.responsibilities += &shares;
                scores.squared_responsibilities += &squares;
            }
        }
        scores
    }
}

/// The number of parts whose sums are in memory at once.
const PARTS_IN_MEMORY: usize = 32;

/// The points of one step of Adam, as their distances.
struct PointBatch {
    /// Squared distances to all centres.
    distances: CentreDistances,
    /// Squared distances to the mean of all points, times [`MEAN_DISTANCE_FACTOR`].
    distances_to_mean: Vec<f64>,
}

/// The log-variances ln σ² during a fit.
struct LogVariances {
    /// The components around the centres.
    centres: Array1<f64>,
    /// The extra component around the mean of the points.
    mean: f64,
}

/// Sums over the points of a batch that the fit needs.
struct ResponsibilitySums {
    /// The sum Σ_i ln p(x_i).
    log_density: f64,
    /// The sum Σ_i r_ij for each centre j.
    responsibilities: Array1<f64>,
    /// The sum Σ_i r_ij d_ij for each centre j, with squared distances d_ij.
    weighted_distances: Array1<f64>,
    /// The same two sums for the extra component around the mean.
    mean_component: [f64; 2],
}

impl LogVariances {
    /// Fits by Adam, as the authors' package does: the loss is the mean of −ln p per dimension over
    /// a batch, and the fit stops early if the loss no longer changes.
    fn fit_by_adam(mut self, batches: &[PointBatch], dim: f64) -> LogVariances {
        let n = self.centres.len();
        let mut adam = Adam::new(ndarray::Ix1(n + 1));
        let mut losses = Vec::new();
        for epoch in 0..MAX_EPOCHS {
            let mut loss = 0.0;
            for batch in batches {
                let sums = self.responsibility_sums(batch, dim);
                let points = batch.distances_to_mean.len() as f64;
                loss -= sums.log_density / (points * dim * batches.len() as f64);
                // The gradient of −ln p with respect to s = ln σ² is r (dim − d/σ²)/2.
                let slope = |share: f64, spread: f64, s: f64| {
                    (share * dim - spread * (-s).exp()) / (2.0 * points * dim)
                };
                let of_centre = |j: usize| {
                    slope(
                        sums.responsibilities[j],
                        sums.weighted_distances[j],
                        self.centres[j],
                    )
                };
                let of_mean = slope(sums.mean_component[0], sums.mean_component[1], self.mean);
                let slope: Array1<f64> = (0..n).map(of_centre).chain([of_mean]).collect();
                let step = adam.direction(&slope) * -LEARNING_RATE;
                self.centres.zip_mut_with(&step.slice(s![..n]), |s, step| {
                    *s = (*s + step).clamp(-MAX_ABS_LOG_VARIANCE, MAX_ABS_LOG_VARIANCE)
                });
                self.mean += step[n];
            }
            losses.push(loss);
            let recent = &losses[losses.len().saturating_sub(5)..];
            if epoch > 5 && recent.iter().all(|l| (l - loss).abs() < LOSS_PLATEAU) {
                break;
            }
        }
        self
    }

    /// Fits by expectation maximization: σ_j² = Σ_i r_ij d_ij/(dim Σ_i r_ij), until the
    /// log-likelihood no longer increases.
    fn fit_by_em(mut self, batches: &[PointBatch], dim: f64) -> LogVariances {
        let points: usize = batches.iter().map(|b| b.distances_to_mean.len()).sum();
        let mut before = f64::NEG_INFINITY;
        for _ in 0..MAX_EM_ITERATIONS {
            let mut all = batches
                .iter()
                .map(|batch| self.responsibility_sums(batch, dim));
            let Some(mut sums) = all.next() else { break };
            for more in all {
                sums.log_density += more.log_density;
                sums.responsibilities += &more.responsibilities;
                sums.weighted_distances += &more.weighted_distances;
                (0..2).for_each(|i| sums.mean_component[i] += more.mean_component[i]);
            }
            let now = sums.log_density / (points as f64 * dim);
            if now - before < EM_TOLERANCE {
                break;
            }
            before = now;
            // A component without responsibility for any point keeps its variance.
            let best = |share: f64, spread: f64, s: f64| match share > f64::MIN_POSITIVE {
                true => (spread / (dim * share))
                    .ln()
                    .clamp(-MAX_ABS_LOG_VARIANCE, MAX_ABS_LOG_VARIANCE),
                false => s,
            };
            for (j, s) in self.centres.iter_mut().enumerate() {
                *s = best(sums.responsibilities[j], sums.weighted_distances[j], *s);
            }
            self.mean = best(sums.mean_component[0], sums.mean_component[1], self.mean);
        }
        self
    }

    /// The log-density and the sums of responsibilities over one batch, with the present variances.
    fn responsibility_sums(&self, batch: &PointBatch, dim: f64) -> ResponsibilitySums {
        let n = self.centres.len();
        let components = GaussianComponents::from_log_variances(&self.centres, dim);
        let of_mean = GaussianComponents::from_log_variances(&Array1::from_elem(1, self.mean), dim);
        let empty = || ResponsibilitySums {
            log_density: 0.0,
            responsibilities: Array1::zeros(n),
            weighted_distances: Array1::zeros(n),
            mean_component: [0.0, 0.0],
        };
        let part = |(part, to_mean): (&Array2<f64>, &[f64])| {
            let (mut sums, mut weights) = (empty(), vec![0.0; n]);
            for (row, to_mean) in part.rows().into_iter().zip(to_mean) {
                let around_mean = of_mean.log_scales[0] + of_mean.exponent_rates[0] * to_mean;
                let all = components.density_at(row.iter().copied(), around_mean, &mut weights);
                sums.log_density += all.log_density;
                for (j, (weight, d)) in weights
                    .iter()
                    .zip(row)
                    .enumerate()
                    .filter(|(_, (w, _))| **w > 0.0)
                {
                    let share = weight / all.relative_sum;
                    sums.responsibilities[j] += share;
                    sums.weighted_distances[j] += share * *d;
                }
                let share = all.mean_component / all.relative_sum;
                sums.mean_component = [
                    sums.mean_component[0] + share,
                    sums.mean_component[1] + share * to_mean,
                ];
            }
            sums
        };
        let mut total = empty();
        let parts: Vec<_> = batch
            .distances
            .iter()
            .zip(
                batch
                    .distances_to_mean
                    .chunks(pairwise_distance::ROWS_PER_BLOCK),
            )
            .collect();
        for group in parts.chunks(PARTS_IN_MEMORY) {
            let done: Vec<ResponsibilitySums> = group.par_iter().map(|some| part(*some)).collect();
            for sums in done {
                total.log_density += sums.log_density;
                total.responsibilities += &sums.responsibilities;
                total.weighted_distances += &sums.weighted_distances;
                (0..2).for_each(|i| total.mean_component[i] += sums.mean_component[i]);
            }
        }
        total
    }
}

/// The weighted log-densities of all components: ln(N(x; c_j, σ_j² I)/N) = log_scales\[j\] +
/// exponent_rates\[j\] · |x − c_j|².
struct GaussianComponents {
    /// The constant term of each component.
    log_scales: Vec<f64>,
    /// The factor −1/(2σ_j²) of each component.
    exponent_rates: Vec<f64>,
}

/// The density of a mixture at one point. Relative densities are divided by the largest component.
struct MixtureDensity {
    /// The log-density, in nats.
    log_density: f64,
    /// The sum of the relative densities of all components.
    relative_sum: f64,
    /// The relative density of the extra component around the mean.
    mean_component: f64,
}

/// Components with a smaller logarithm of the relative density are neglected: they do not change a
/// sum in double precision.
const NEGLIGIBLE_LOG_RATIO: f64 = -45.0;

impl GaussianComponents {
    /// The components with the given log-variances in `dim` dimensions, each with the weight 1/N.
    fn from_log_variances(log_squares: &Array1<f64>, dim: f64) -> GaussianComponents {
        let count = (log_squares.len() as f64).ln();
        let scale = |s: &f64| -0.5 * dim * (s + (2.0 * PI).ln()) - count;
        GaussianComponents {
            log_scales: log_squares.iter().map(scale).collect(),
            exponent_rates: log_squares.iter().map(|s| -0.5 * (-s).exp()).collect(),
        }
    }

    /// The density at one point, from its squared distances to the centres. `other` is the
    /// log-density of the extra component, or −∞ without one. `weights` receives the relative
    /// density of each component.
    fn density_at(
        &self,
        distances: impl Iterator<Item = f64>,
        other: f64,
        weights: &mut [f64],
    ) -> MixtureDensity {
        let mut most = other;
        for (((weight, scale), rate), d) in weights
            .iter_mut()
            .zip(&self.log_scales)
            .zip(&self.exponent_rates)
            .zip(distances)
        {
            *weight = scale + rate * d;
            most = most.max(*weight);
        }
        let other = (other - most).exp();
        let mut sum = other;
        for weight in weights.iter_mut() {
            let log = *weight - most;
            *weight = if log < NEGLIGIBLE_LOG_RATIO {
                0.0
            } else {
                log.exp()
            };
            sum += *weight;
        }
        MixtureDensity {
            log_density: most + sum.ln(),
            relative_sum: sum,
            mean_component: other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use ndarray::array;
    use ndarray_npy::NpzReader;

    use super::*;
    use crate::metric::testing::normal_samples;

    #[test]
    fn mixture_density_matches_definition() {
        let centres = array![[0.0, 1.0], [2.0, -1.0], [40.0, 0.0]];
        let mixture = IsotropicMixture {
            centres: centres.view(),
            log_variances: array![0.5, -0.2, 0.0],
        };
        let x = array![0.3, 0.4];
        let components =
            centres
                .rows()
                .into_iter()
                .zip(&mixture.log_variances)
                .map(|(c, s): (_, &f64)| {
                    let square = (&x - &c).mapv(|v: f64| v * v).sum();
                    (-0.5 * square / s.exp()).exp() / (2.0 * PI * s.exp()) / 3.0
                });
        let components: Vec<f64> = components.collect();
        let all: f64 = components.iter().sum();
        let got = mixture.score(x.view().insert_axis(Axis(0)));
        assert!((got.log_densities[0] - all.ln()).abs() < 1e-14);
        for ((share, square), component) in got
            .responsibilities
            .iter()
            .zip(&got.squared_responsibilities)
            .zip(components)
        {
            assert!(
                (share - component / all).abs() < 1e-15 && (square - share * share).abs() < 1e-15
            );
        }
    }

    #[test]
    fn mixture_widths_match_authors_package() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/metrics/fld.npz");
        let mut archive = NpzReader::new(File::open(path).expect(path)).expect("an archive");
        let mut rows =
            |part: &str| -> Array2<f64> { archive.by_name(&format!("full_{part}")).expect(part) };
        let [generated, train] = ["generated", "train"].map(&mut rows);
        let mut values =
            |part: &str| -> Array1<f64> { archive.by_name(&format!("full_{part}")).expect(part) };
        for (batch, key) in [
            (ADAM_BATCH_SIZE, "widths"),
            (values("batch")[0] as usize, "widths_batch"),
        ] {
            // The reference values come from a fit to the samples without standardization.
            let got = IsotropicMixture::fit_in_batches(
                batch,
                generated.view(),
                train.view(),
                MixtureFit::Reference,
            )
            .log_variances;
            let worst = (&got - &values(key))
                .iter()
                .fold(0.0f64, |worst, e| worst.max(e.abs()));
            println!("{key}: {worst:.1e}");
            assert!(worst < 1e-9, "{key}: {worst}");
        }
    }

    #[test]
    fn converged_mixture_fit_is_stationary() {
        let (centres, points) = (
            normal_samples(1, 40, 3, 0.0, 1.0),
            normal_samples(2, 150, 3, 0.0, 1.0),
        );
        let dim = 3.0;
        let to_mean: Vec<f64> = pairwise_distance::squared_distances(
            points.view(),
            points
                .mean_axis(Axis(0))
                .expect("points")
                .insert_axis(Axis(0))
                .view(),
        )
        .into_iter()
        .map(|d| MEAN_DISTANCE_FACTOR * d)
        .collect();
        let batch = PointBatch {
            distances: pairwise_distance::map_distance_blocks(
                points.view(),
                centres.view(),
                |_, part| part,
            ),
            distances_to_mean: to_mean,
        };
        let begin = || LogVariances {
            centres: Array1::zeros(40),
            mean: 0.0,
        };
        let loss = |variances: &LogVariances| {
            -variances.responsibility_sums(&batch, dim).log_density / (150.0 * dim)
        };
        let batches = std::slice::from_ref(&batch);
        let (adam, best) = (
            begin().fit_by_adam(batches, dim),
            begin().fit_by_em(batches, dim),
        );
        // Adam and expectation maximization may reach different local optima, so neither must be
        // better. Both lower the loss, and expectation maximization lowers it further from Adam's
        // result.
        assert!(loss(&best) < loss(&begin()) && loss(&adam) < loss(&begin()));
        let end = loss(&adam);
        assert!(loss(&adam.fit_by_em(batches, dim)) < end);
        for j in [0, 17] {
            let moved = |by: f64| {
                let mut variances = LogVariances {
                    centres: best.centres.clone(),
                    mean: best.mean,
                };
                variances.centres[j] += by;
                loss(&variances)
            };
            let slope = (moved(1e-4) - moved(-1e-4)) / 2e-4;
            assert!(slope.abs() < 1e-5, "{j}: {slope}");
        }
    }
}
