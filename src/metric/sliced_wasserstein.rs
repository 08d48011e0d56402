//! The sliced Wasserstein distance (Rabin et al. 2011; Bonneel et al. 2015).

use ndarray::{Array1, Array2, ArrayView2};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_set::FeatureSet;
use super::{Statistic, optimal_transport};
use crate::num::key::{Purpose, RngKey};
use crate::num::linalg;
use crate::num::stats::{self, Estimate};

/// The sliced Wasserstein distance: (mean of W_p^p over random directions)^{1/p}. Transport along
/// each direction is exact, and the value is not multiplied by the dimension.
///
/// Directions are uniform on the sphere and depend only on the seed, so one seed compares all
/// models along the same directions. The standard error has two parts. One is due to the samples
/// and comes from the transport potentials, averaged over directions (del Barrio & Loubes 2019).
/// The other is due to the L directions, as their standard deviation divided by √L; it is absent
/// for a single direction. For equal distributions, the value is only the noise of finite samples,
/// which is biased upwards and not normal. The standard error then gives the order of magnitude
/// only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SlicedWasserstein {
    /// The number of random directions, from 1 to 1,000,000. The default is 256.
    pub projections: usize,
    /// The order p of the Wasserstein distance, at least 1. The default is 2.
    pub p: f64,
}

impl Default for SlicedWasserstein {
    fn default() -> Self {
        SlicedWasserstein {
            projections: 256,
            p: 2.0,
        }
    }
}

/// Sorts the projections of one set on one direction. The result is the sorted numbers, and the row
/// of each.
fn sort_with_positions(column: Array1<f64>) -> (Vec<f64>, Vec<usize>) {
    let mut order: Vec<usize> = (0..column.len()).collect();
    order.sort_by(|a, b| column[*a].total_cmp(&column[*b]));
    (order.iter().map(|i| column[*i]).collect(), order)
}

impl SlicedWasserstein {
    /// Random unit vectors in `d` dimensions, one per row.
    fn directions(&self, d: usize, key: RngKey) -> Array2<f64> {
        let mut out = Array2::zeros((self.projections, d));
        for (l, mut row) in out.rows_mut().into_iter().enumerate() {
            let draw = key.normal(Purpose::Projection, l as u64, 0, d);
            let length = draw.dot(&draw).sqrt();
            row.assign(&(draw / length));
        }
        out
    }

    /// The distance along given unit directions, one per row.
    ///
    /// # Errors
    /// Fails if there is no direction.
    pub fn distance_along_directions(
        &self,
        directions: Array2<f64>,
        generated: ArrayView2<f64>,
        reference: ArrayView2<f64>,
    ) -> Result<Estimate, String> {
        let sides = [generated, reference];
        let mut means = sides.map(|side| vec![0.0; side.nrows()]);
        let mut costs = Vec::with_capacity(directions.nrows());
        // Directions are processed in groups, because the projections of all samples on all
        // directions would need too much memory.
        for some in directions.axis_chunks_iter(ndarray::Axis(0), 16) {
            let projected = sides.map(|side| linalg::matmul(side, some.t()));
            let plans: Vec<_> = (0..some.nrows())
                .into_par_iter()
                .map(|l| {
                    let ranks = projected
                        .each_ref()
                        .map(|side| sort_with_positions(side.column(l).to_owned()));
                    let plan =
                        optimal_transport::optimal_transport_1d(&ranks[0].0, &ranks[1].0, self.p);
                    (plan, ranks.map(|r| r.1))
                })
                .collect();
            for (plan, orders) in plans {
                costs.push(plan.cost);
                for side in 0..2 {
                    // Potentials are determined up to a constant. Centred, those of all directions
                    // can be added.
                    let potentials = &plan.potentials[side];
                    let centre = potentials.iter().sum::<f64>() / potentials.len() as f64;
                    for (at, potential) in orders[side].iter().zip(potentials) {
                        means[side][*at] += (potential - centre) / directions.nrows() as f64;
                    }
                }
            }
        }
        let mean = stats::mean_estimate(&costs).ok_or("sliced-wasserstein: no direction")?;
        let value = mean.value.powf(1.0 / self.p);
        let errors = means
            .each_ref()
            .map(|m| stats::mean_estimate(m).and_then(|e| e.stderr));
        let stderr = match errors {
            [Some(a), Some(b)] if value > 0.0 => {
                let power = (a * a + b * b + mean.stderr.unwrap_or(0.0).powi(2)).sqrt();
                Some(power / self.p * value.powf(1.0 - self.p))
            }
            _ => None,
        };
        Ok(Estimate {
            value,
            stderr,
            n: generated.nrows(),
        })
    }
}

impl Statistic for SlicedWasserstein {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        if generated == 0 || reference == 0 {
            return Err(
                "sliced-wasserstein: one of the two sets is empty, expected samples in both"
                    .to_owned(),
            );
        }
        crate::registry::check_bounds(
            "sliced-wasserstein: projections",
            self.projections,
            1,
            1_000_000,
        )?;
        let fine = self.p >= 1.0 && self.p.is_finite();
        fine.then_some(())
            .ok_or_else(|| format!("sliced-wasserstein: p is {}, expected at least 1", self.p))
    }

    fn is_biased(&self) -> bool {
        true
    }

    fn compute(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        key: RngKey,
    ) -> Result<Estimate, String> {
        let (generated, reference) = (generated.all_rows()?, reference.all_rows()?);
        self.distance_along_directions(
            self.directions(generated.ncols(), key),
            generated,
            reference,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::{self, assert_stderr_calibrated, normal_samples};

    fn distance(
        x: &Array2<f64>,
        y: &Array2<f64>,
        metric: &SlicedWasserstein,
        seed: u64,
    ) -> Estimate {
        testing::compute(metric, x, y, seed).expect("finite")
    }

    #[test]
    fn sliced_wasserstein_of_shifts_and_scales() {
        // The distance to the same points shifted by δ is |δ|/√D. The distance to the same points
        // scaled by a is |a − 1| (E |θ·x|²)^{1/2}.
        let metric = SlicedWasserstein {
            projections: 4000,
            p: 2.0,
        };
        let x = normal_samples(1, 50, 4, 0.0, 1.0);
        let moved = distance(&x, &(&x + 0.5), &metric, 3);
        assert!(
            (moved.value - 0.5).abs() < 4.0 * moved.stderr.expect("defined"),
            "{moved:?}"
        );
        let scaled = distance(&x, &(&x * 1.5), &metric, 3);
        let second = x.iter().map(|v| v * v).sum::<f64>() / 50.0 / 4.0;
        assert!(
            (scaled.value / (0.5 * second.sqrt()) - 1.0).abs() < 0.02,
            "{scaled:?}"
        );
    }

    #[test]
    fn sliced_wasserstein_in_1d_is_wasserstein() {
        let (x, y) = (
            ndarray::array![[0.0], [3.0]],
            ndarray::array![[1.0], [1.0], [4.0]],
        );
        // In sixths, the quantiles are 0 0 0 3 3 3 and 1 1 1 1 4 4.
        let power = |p: i32| (3.0 + 2.0f64.powi(p) + 2.0) / 6.0;
        for p in [1, 2, 3] {
            let metric = SlicedWasserstein {
                projections: 3,
                p: p.into(),
            };
            let got = distance(&x, &y, &metric, 0).value;
            assert!(
                (got - power(p).powf(1.0 / f64::from(p))).abs() < 1e-14,
                "{p}"
            );
        }
        let one = distance(
            &x,
            &ndarray::array![[2.0]],
            &SlicedWasserstein {
                projections: 2,
                p: 1.0,
            },
            0,
        );
        assert!((one.value - 1.5).abs() < 1e-15 && one.stderr.is_none());
        assert_eq!(
            distance(&x, &x, &SlicedWasserstein::default(), 0).value,
            0.0
        );
    }

    #[test]
    fn sliced_wasserstein_stderr_matches_spread() {
        for (p, projections) in [(2.0, 50), (1.0, 10)] {
            assert_stderr_calibrated(0.2, |i| {
                let (x, y) = (
                    normal_samples(2 * i, 120, 3, 0.0, 1.0),
                    normal_samples(2 * i + 1, 90, 3, 0.8, 1.3),
                );
                distance(&x, &y, &SlicedWasserstein { projections, p }, i)
            });
        }
    }

    #[test]
    fn sliced_wasserstein_refuses_invalid_parameters() {
        assert!(
            SlicedWasserstein {
                projections: 0,
                p: 2.0
            }
            .check(9, 9)
            .is_err_and(|e| e.contains("projections"))
        );
        assert!(
            SlicedWasserstein {
                projections: 9,
                p: 0.5
            }
            .check(9, 9)
            .is_err_and(|e| e.contains("p is 0.5"))
        );
    }
}
