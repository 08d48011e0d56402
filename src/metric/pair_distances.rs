//! The distances between the particles of a sample, compared with those of reference samples.

use ndarray::ArrayView2;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_set::FeatureSet;
use super::{Statistic, optimal_transport};
use crate::num::key::RngKey;
use crate::num::stats::{self, Estimate};

/// The Wasserstein distance W_p between the distributions of all distances between two particles of
/// a sample, in the unit of the coordinates. It sees neither positions nor orientations.
///
/// A sample holds the coordinates of its first particle, then those of the second one, and so on.
/// The standard error comes from the transport potentials (del Barrio & Loubes 2019), averaged over
/// the pairs of a sample, because these are not independent. For equal distributions the value is
/// only the noise of finite samples, which is biased upwards, and the standard error gives the
/// order of magnitude.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PairDistances {
    /// The number of coordinates of a particle, at least 1. Default: 1.
    pub dims: usize,
    /// The order p of the Wasserstein distance, at least 1. Default: 1.
    pub p: f64,
}

impl Default for PairDistances {
    fn default() -> Self {
        PairDistances { dims: 1, p: 1.0 }
    }
}

impl PairDistances {
    /// The distances of all pairs of particles with the row that each belongs to, in ascending order.
    fn distances(&self, samples: ArrayView2<f64>) -> (Vec<f64>, Vec<usize>) {
        let particles = samples.ncols() / self.dims;
        let mut found = Vec::with_capacity(samples.nrows() * particles * (particles - 1) / 2);
        for (i, row) in samples.rows().into_iter().enumerate() {
            for a in 1..particles {
                for b in 0..a {
                    let square: f64 = (0..self.dims)
                        .map(|axis| row[a * self.dims + axis] - row[b * self.dims + axis])
                        .map(|gap| gap * gap)
                        .sum();
                    found.push((square.sqrt(), i));
                }
            }
        }
        found.sort_by(|a, b| a.0.total_cmp(&b.0));
        found.into_iter().unzip()
    }
}

impl Statistic for PairDistances {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        if generated == 0 || reference == 0 {
            return Err(
                "pair-distances: one of the two sets is empty, expected samples in both".to_owned(),
            );
        }
        crate::registry::check_bounds("pair-distances: dims", self.dims, 1, 1_000_000)?;
        let fine = self.p >= 1.0 && self.p.is_finite();
        fine.then_some(())
            .ok_or_else(|| format!("pair-distances: p is {}, expected at least 1", self.p))
    }

    fn is_biased(&self) -> bool {
        true
    }

    fn compute(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        _: RngKey,
    ) -> Result<Estimate, String> {
        let sides = [generated.all_rows()?, reference.all_rows()?];
        let values = sides[0].ncols();
        if !values.is_multiple_of(self.dims) || values / self.dims < 2 {
            return Err(format!(
                "pair-distances: a sample has {values} numbers, expected those of at least 2 \
                 particles with `dims: {}` coordinates each",
                self.dims
            ));
        }
        let pairs = sides.map(|side| self.distances(side));
        let plan = optimal_transport::optimal_transport_1d(&pairs[0].0, &pairs[1].0, self.p);
        let errors = [0, 1].map(|side| {
            let (rows, owners) = (sides[side].nrows(), &pairs[side].1);
            let each = owners.len() / rows;
            let mut potentials = vec![0.0; rows];
            for (owner, potential) in owners.iter().zip(&plan.potentials[side]) {
                potentials[*owner] += potential / each as f64;
            }
            stats::mean_estimate(&potentials).and_then(|e| e.stderr)
        });
        let value = plan.cost.powf(1.0 / self.p);
        let stderr = match errors {
            [Some(a), Some(b)] if value > 0.0 => {
                Some(a.hypot(b) / self.p * value.powf(1.0 - self.p))
            }
            _ => None,
        };
        Ok(Estimate {
            value,
            stderr,
            n: sides[0].nrows(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::{self, assert_stderr_calibrated, normal_samples};

    const PLANE: PairDistances = PairDistances { dims: 2, p: 1.0 };

    #[test]
    fn scaled_particles_have_scaled_distances_and_moved_ones_the_same() {
        let x = normal_samples(1, 40, 8, 0.0, 1.0);
        let mean = {
            let (distances, owners) = PLANE.distances(x.view());
            assert_eq!((distances.len(), owners.len()), (240, 240));
            distances.iter().sum::<f64>() / 240.0
        };
        let scaled = testing::compute(&PLANE, &(&x * 1.5), &x, 0).expect("finite");
        assert!((scaled.value - 0.5 * mean).abs() < 1e-12, "{scaled:?}");
        let moved = testing::compute(&PLANE, &(&x + 3.0), &x, 0).expect("finite");
        assert!(moved.value < 1e-12, "{moved:?}");
    }

    #[test]
    fn pair_distances_stderr_matches_spread() {
        for metric in [PLANE, PairDistances { dims: 1, p: 2.0 }] {
            assert_stderr_calibrated(0.2, |i| {
                let (x, y) = (
                    normal_samples(2 * i, 120, 6, 0.0, 1.0),
                    normal_samples(2 * i + 1, 90, 6, 0.0, 1.4),
                );
                testing::compute(&metric, &x, &y, i).expect("finite")
            });
        }
    }

    #[test]
    fn pair_distances_refuse_what_are_no_particles() {
        let x = normal_samples(1, 5, 3, 0.0, 1.0);
        for dims in [2, 3] {
            let metric = PairDistances { dims, p: 1.0 };
            let refused = testing::compute(&metric, &x, &x, 0).expect_err("refused");
            assert!(refused.contains("particles"), "{refused}");
        }
        assert!(PairDistances { dims: 0, p: 1.0 }.check(5, 5).is_err());
        assert!(PairDistances { dims: 1, p: 0.5 }.check(5, 5).is_err());
    }
}
