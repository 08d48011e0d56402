//! Mixtures of round normal laws, one around each of many centres, whose widths are fitted to data.

use std::f64::consts::PI;

use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pairs;

/// How far widths are fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum Fit {
    /// Up to 50 epochs of Adam at rate 0.5, as the authors' package.
    #[default]
    Reference,
    /// By expectation maximization until the likelihood stands still, at a local optimum.
    Converged,
}

/// Points per step of Adam.
const BATCH: usize = 10_000;
const EPOCHS: usize = 50;
const RATE: f64 = 0.5;
/// An epoch is the last where the loss of the four before it lay no farther away.
const STILL: f64 = 5e-4;
/// Widths stay within e^±40, so that copies do not make one 0.
const WIDEST: f64 = 40.0;
/// Where widths begin: at the nearest point, and never at 0.
const NEAREST: f64 = 1e-3;
/// One more law around the mean of the points, to which their distances count as 0.9 of what they are: while widths are
/// fitted no point is far from everything.
const SHRUNK: f64 = 0.9 * 0.9;
const MOST_ROUNDS: usize = 1000;
const ROUND: f64 = 1e-9;

/// Σ_j N(x; c_j, exp(s_j) I)/N.
pub struct Mixture<'a> {
    centres: ArrayView2<'a, f64>,
    /// s_j = ln σ_j².
    log_squares: Array1<f64>,
}

/// What a mixture says of some points.
pub struct Scores {
    /// ln p(x_i).
    pub log_densities: Vec<f64>,
    /// Σ_i r_ij and Σ_i r_ij², r_ij the share of centre j in the density of point i.
    pub shares: Array1<f64>,
    pub squares: Array1<f64>,
}

/// Squared distances of some points to all centres, in parts of rows.
type Distances = Vec<Array2<f64>>;

impl<'a> Mixture<'a> {
    /// Fits the widths to points; where there are more than 10,000, Adam takes them in the given order.
    pub fn fit(centres: ArrayView2<'a, f64>, points: ArrayView2<f64>, fit: Fit) -> Mixture<'a> {
        Mixture::fit_by(BATCH, centres, points, fit)
    }

    fn fit_by(
        batch: usize,
        centres: ArrayView2<'a, f64>,
        points: ArrayView2<f64>,
        fit: Fit,
    ) -> Mixture<'a> {
        let dim = points.ncols() as f64;
        let mean = points
            .mean_axis(Axis(0))
            .expect("points")
            .insert_axis(Axis(0));
        let batches: Vec<Batch> = points
            .axis_chunks_iter(Axis(0), batch)
            .map(|some| {
                let to_mean = pairs::squared(some, mean.view())
                    .into_iter()
                    .map(|d| SHRUNK * d)
                    .collect();
                Batch {
                    distances: pairs::by_rows(some, centres, |_, part| part),
                    to_mean,
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
        let widths = Widths {
            centres: nearest.mapv(|d| ((d + NEAREST) / dim).ln()),
            mean: 0.0,
        };
        let widths = match fit {
            Fit::Reference => widths.by_adam(&batches, dim),
            Fit::Converged => widths.by_maximization(&batches, dim),
        };
        Mixture {
            centres,
            log_squares: widths.centres,
        }
    }

    /// ln p of points, and how much each centre has of them.
    pub fn score(&self, points: ArrayView2<f64>) -> Scores {
        let (n, dim) = (self.centres.nrows(), points.ncols() as f64);
        let laws = Laws::of(&self.log_squares, dim);
        let mut scores = Scores {
            log_densities: Vec::with_capacity(points.nrows()),
            shares: Array1::zeros(n),
            squares: Array1::zeros(n),
        };
        let part = |some: ArrayView2<f64>| {
            let distances = pairs::squared(some, self.centres);
            let (mut shares, mut squares, mut weights) =
                (Array1::zeros(n), Array1::zeros(n), vec![0.0; n]);
            let densities: Vec<f64> = (distances.rows().into_iter())
                .map(|row| {
                    let all = laws.shares(row.iter().copied(), f64::NEG_INFINITY, &mut weights);
                    for ((share, square), weight) in
                        shares.iter_mut().zip(&mut squares).zip(&weights)
                    {
                        *share += weight / all.sum;
                        *square += (weight / all.sum).powi(2);
                    }
                    all.log_density
                })
                .collect();
            (densities, shares, squares)
        };
        let parts: Vec<ArrayView2<f64>> = points.axis_chunks_iter(Axis(0), pairs::ROWS).collect();
        // Some parts at a time, added in their order: bounded memory, and the same digits on any threads.
        for group in parts.chunks(TOGETHER) {
            let done: Vec<_> = group.par_iter().map(|some| part(*some)).collect();
            for (densities, shares, squares) in done {
                scores.log_densities.extend(densities);
                scores.shares += &shares;
                scores.squares += &squares;
            }
        }
        scores
    }
}

/// Parts whose sums are in memory at once.
const TOGETHER: usize = 32;

/// Points that one step of Adam sees.
struct Batch {
    distances: Distances,
    /// To the mean of all points, shrunk.
    to_mean: Vec<f64>,
}

/// ln σ² of the laws around the centres and of the one around the mean.
struct Widths {
    centres: Array1<f64>,
    mean: f64,
}

/// Of a batch: Σ_i ln p(x_i), and by law Σ_i r_ij and Σ_i r_ij d_ij.
struct Sums {
    log_density: f64,
    shares: Array1<f64>,
    spreads: Array1<f64>,
    mean: [f64; 2],
}

impl Widths {
    /// The package's steps: gradients of the mean −ln p per dimension over a batch, with its early end.
    fn by_adam(mut self, batches: &[Batch], dim: f64) -> Widths {
        let n = self.centres.len();
        let mut adam = Adam {
            steps: 0,
            first: Array1::zeros(n + 1),
            second: Array1::zeros(n + 1),
        };
        let mut losses = Vec::new();
        for epoch in 0..EPOCHS {
            let mut loss = 0.0;
            for batch in batches {
                let sums = self.sums(batch, dim);
                let points = batch.to_mean.len() as f64;
                loss -= sums.log_density / (points * dim * batches.len() as f64);
                // −d ln p/ds = r (dim − d/σ²)/2.
                let slope = |share: f64, spread: f64, s: f64| {
                    (share * dim - spread * (-s).exp()) / (2.0 * points * dim)
                };
                let of_centre = |j: usize| slope(sums.shares[j], sums.spreads[j], self.centres[j]);
                let of_mean = slope(sums.mean[0], sums.mean[1], self.mean);
                let step = adam.step((0..n).map(of_centre).chain([of_mean]).collect());
                self.centres.zip_mut_with(&step.slice(s![..n]), |s, step| {
                    *s = (*s + step).clamp(-WIDEST, WIDEST)
                });
                self.mean += step[n];
            }
            losses.push(loss);
            let before = &losses[losses.len().saturating_sub(5)..];
            if epoch > 5 && before.iter().all(|l| (l - loss).abs() < STILL) {
                break;
            }
        }
        self
    }

    /// σ_j² = Σ_i r_ij d_ij/(dim Σ_i r_ij) until that gains nothing.
    fn by_maximization(mut self, batches: &[Batch], dim: f64) -> Widths {
        let points: usize = batches.iter().map(|b| b.to_mean.len()).sum();
        let mut before = f64::NEG_INFINITY;
        for _ in 0..MOST_ROUNDS {
            let mut all = batches.iter().map(|batch| self.sums(batch, dim));
            let Some(mut sums) = all.next() else { break };
            for more in all {
                sums.log_density += more.log_density;
                sums.shares += &more.shares;
                sums.spreads += &more.spreads;
                (0..2).for_each(|i| sums.mean[i] += more.mean[i]);
            }
            let now = sums.log_density / (points as f64 * dim);
            if now - before < ROUND {
                break;
            }
            before = now;
            // A law that no point is near to stays as it is.
            let best = |share: f64, spread: f64, s: f64| match share > f64::MIN_POSITIVE {
                true => (spread / (dim * share)).ln().clamp(-WIDEST, WIDEST),
                false => s,
            };
            for (j, s) in self.centres.iter_mut().enumerate() {
                *s = best(sums.shares[j], sums.spreads[j], *s);
            }
            self.mean = best(sums.mean[0], sums.mean[1], self.mean);
        }
        self
    }

    fn sums(&self, batch: &Batch, dim: f64) -> Sums {
        let n = self.centres.len();
        let laws = Laws::of(&self.centres, dim);
        let of_mean = Laws::of(&Array1::from_elem(1, self.mean), dim);
        let empty = || Sums {
            log_density: 0.0,
            shares: Array1::zeros(n),
            spreads: Array1::zeros(n),
            mean: [0.0, 0.0],
        };
        let part = |(part, to_mean): (&Array2<f64>, &[f64])| {
            let (mut sums, mut weights) = (empty(), vec![0.0; n]);
            for (row, to_mean) in part.rows().into_iter().zip(to_mean) {
                let around_mean = of_mean.log_scales[0] + of_mean.rates[0] * to_mean;
                let all = laws.shares(row.iter().copied(), around_mean, &mut weights);
                sums.log_density += all.log_density;
                for (j, (weight, d)) in weights
                    .iter()
                    .zip(row)
                    .enumerate()
                    .filter(|(_, (w, _))| **w > 0.0)
                {
                    let share = weight / all.sum;
                    sums.shares[j] += share;
                    sums.spreads[j] += share * *d;
                }
                let share = all.other / all.sum;
                sums.mean = [sums.mean[0] + share, sums.mean[1] + share * to_mean];
            }
            sums
        };
        let mut total = empty();
        let parts: Vec<_> = batch
            .distances
            .iter()
            .zip(batch.to_mean.chunks(pairs::ROWS))
            .collect();
        for group in parts.chunks(TOGETHER) {
            let done: Vec<Sums> = group.par_iter().map(|some| part(*some)).collect();
            for sums in done {
                total.log_density += sums.log_density;
                total.shares += &sums.shares;
                total.spreads += &sums.spreads;
                (0..2).for_each(|i| total.mean[i] += sums.mean[i]);
            }
        }
        total
    }
}

/// ln N(x; c_j, σ_j² I)/N = log_scales + rates · |x − c_j|².
struct Laws {
    log_scales: Vec<f64>,
    rates: Vec<f64>,
}

/// The laws' densities at one point, all divided by the largest.
struct Shares {
    log_density: f64,
    sum: f64,
    /// Of the law that is not one of these.
    other: f64,
}

/// Below this share of the largest density, what is added is not seen in a sum of doubles.
const UNSEEN: f64 = -45.0;

impl Laws {
    fn of(log_squares: &Array1<f64>, dim: f64) -> Laws {
        let count = (log_squares.len() as f64).ln();
        let scale = |s: &f64| -0.5 * dim * (s + (2.0 * PI).ln()) - count;
        Laws {
            log_scales: log_squares.iter().map(scale).collect(),
            rates: log_squares.iter().map(|s| -0.5 * (-s).exp()).collect(),
        }
    }

    fn shares(
        &self,
        distances: impl Iterator<Item = f64>,
        other: f64,
        weights: &mut [f64],
    ) -> Shares {
        let mut most = other;
        for (((weight, scale), rate), d) in weights
            .iter_mut()
            .zip(&self.log_scales)
            .zip(&self.rates)
            .zip(distances)
        {
            *weight = scale + rate * d;
            most = most.max(*weight);
        }
        let other = (other - most).exp();
        let mut sum = other;
        for weight in weights.iter_mut() {
            let log = *weight - most;
            *weight = if log < UNSEEN { 0.0 } else { log.exp() };
            sum += *weight;
        }
        Shares {
            log_density: most + sum.ln(),
            sum,
            other,
        }
    }
}

/// Adam (Kingma and Ba 2015) with its usual constants.
struct Adam {
    steps: i32,
    first: Array1<f64>,
    second: Array1<f64>,
}

impl Adam {
    /// What is added to the parameters.
    fn step(&mut self, slope: Array1<f64>) -> Array1<f64> {
        const KEPT: [f64; 2] = [0.9, 0.999];
        self.steps += 1;
        self.first
            .zip_mut_with(&slope, |m, g| *m = KEPT[0] * *m + (1.0 - KEPT[0]) * g);
        self.second
            .zip_mut_with(&slope, |v, g| *v = KEPT[1] * *v + (1.0 - KEPT[1]) * g * g);
        let [first, second] = KEPT.map(|kept| 1.0 - kept.powi(self.steps));
        let mut step = self.first.clone();
        step.zip_mut_with(&self.second, |m, v| {
            *m *= -RATE / first / ((v / second).sqrt() + 1e-8)
        });
        step
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use ndarray::array;
    use ndarray_npy::NpzReader;

    use super::*;
    use crate::metric::testing::normal;

    #[test]
    fn densities_are_those_of_the_laws() {
        let centres = array![[0.0, 1.0], [2.0, -1.0], [40.0, 0.0]];
        let mixture = Mixture {
            centres: centres.view(),
            log_squares: array![0.5, -0.2, 0.0],
        };
        let x = array![0.3, 0.4];
        let laws = centres
            .rows()
            .into_iter()
            .zip(&mixture.log_squares)
            .map(|(c, s): (_, &f64)| {
                let square = (&x - &c).mapv(|v: f64| v * v).sum();
                (-0.5 * square / s.exp()).exp() / (2.0 * PI * s.exp()) / 3.0
            });
        let laws: Vec<f64> = laws.collect();
        let all: f64 = laws.iter().sum();
        let got = mixture.score(x.view().insert_axis(Axis(0)));
        assert!((got.log_densities[0] - all.ln()).abs() < 1e-14);
        for ((share, square), law) in got.shares.iter().zip(&got.squares).zip(laws) {
            assert!((share - law / all).abs() < 1e-15 && (square - share * share).abs() < 1e-15);
        }
    }

    #[test]
    fn widths_are_those_of_the_authors_package_in_one_batch_and_in_several() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/metrics/fld.npz");
        let mut archive = NpzReader::new(File::open(path).expect(path)).expect("an archive");
        let mut rows =
            |part: &str| -> Array2<f64> { archive.by_name(&format!("full_{part}")).expect(part) };
        let [generated, train] = ["generated", "train"].map(&mut rows);
        let mut values =
            |part: &str| -> Array1<f64> { archive.by_name(&format!("full_{part}")).expect(part) };
        for (batch, widths) in [
            (BATCH, "widths"),
            (values("batch")[0] as usize, "widths_batch"),
        ] {
            // The package fits the plain samples here.
            let got =
                Mixture::fit_by(batch, generated.view(), train.view(), Fit::Reference).log_squares;
            let worst = (&got - &values(widths))
                .iter()
                .fold(0.0f64, |worst, e| worst.max(e.abs()));
            println!("{widths}: {worst:.1e}");
            assert!(worst < 1e-9, "{widths}: {worst}");
        }
    }

    #[test]
    fn a_converged_fit_is_a_stationary_point() {
        let (centres, points) = (normal(1, 40, 3, 0.0, 1.0), normal(2, 150, 3, 0.0, 1.0));
        let dim = 3.0;
        let to_mean: Vec<f64> = pairs::squared(
            points.view(),
            points
                .mean_axis(Axis(0))
                .expect("points")
                .insert_axis(Axis(0))
                .view(),
        )
        .into_iter()
        .map(|d| SHRUNK * d)
        .collect();
        let batch = Batch {
            distances: pairs::by_rows(points.view(), centres.view(), |_, part| part),
            to_mean,
        };
        let begin = || Widths {
            centres: Array1::zeros(40),
            mean: 0.0,
        };
        let loss = |widths: &Widths| -widths.sums(&batch, dim).log_density / (150.0 * dim);
        let batches = std::slice::from_ref(&batch);
        let (adam, best) = (
            begin().by_adam(batches, dim),
            begin().by_maximization(batches, dim),
        );
        // Local optima differ, so that neither need be the better; each gains, and maximization gains on Adam's end.
        assert!(loss(&best) < loss(&begin()) && loss(&adam) < loss(&begin()));
        let end = loss(&adam);
        assert!(loss(&adam.by_maximization(batches, dim)) < end);
        for j in [0, 17] {
            let moved = |by: f64| {
                let mut widths = Widths {
                    centres: best.centres.clone(),
                    mean: best.mean,
                };
                widths.centres[j] += by;
                loss(&widths)
            };
            let slope = (moved(1e-4) - moved(-1e-4)) / 2e-4;
            assert!(slope.abs() < 1e-5, "{j}: {slope}");
        }
    }
}
