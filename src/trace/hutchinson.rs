//! Hutchinson's estimator: the mean of zᵀAz over random probes z with E\[z zᵀ\] = I. Each probe is
//! one replicate.
//!
//! Orthogonal probes are √n times the first K vectors of a random orthonormal basis. They are draws
//! without replacement. If V is the variance of one probe, the mean of K has the variance V/K·(n −
//! K)/(n − 1), and the expected sample variance of the probes is V·n/(n − 1). The sample variance
//! times 1 − K/n therefore gives an unbiased error, at one node and along a path. The replicates
//! are scaled to have that spread.

use ndarray::{Array2, Axis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BatchLinearOperator, ProbeReuse, ProbeSource, TraceEstimator, scale_spread};
use crate::flow::field::EvalError;
use crate::num::key::{Distribution, Purpose};
use crate::num::{TangentBatch, linalg};
use crate::registry::check_bounds;

/// Hutchinson's estimator: the mean of zᵀJz over K random probes z. Variance per probe, with S = (J
/// + Jᵀ)/2: Rademacher 2(‖S‖² − Σ Sᵢᵢ²), Gaussian 2‖S‖², sphere 2n/(n+2)·(‖S‖² − tr(J)²/n).
///
/// Orthogonal probes are vectors of a random orthogonal basis. Each is uniform on the sphere, and K
/// = n of them give the exact trace.
///
/// Antithetic pairs are rejected: z and −z have the same quadratic form, so a pair costs twice as
/// much as one probe and adds nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hutchinson {
    /// The number K of probes. Default: 1.
    pub probes: usize,
    /// The distribution of the probes. Default: `rademacher`.
    pub distribution: Distribution,
    /// Whether a path keeps its probes (`fixed`, the default) or draws new ones at every node
    /// (`fresh`).
    pub along: ProbeReuse,
    /// Whether the probes are orthogonal to each other, with `distribution: sphere`. Default:
    /// false.
    pub orthogonal: bool,
    /// Must be false, because an antithetic pair of probes gives the same value twice.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub antithetic: bool,
}

impl Default for Hutchinson {
    fn default() -> Self {
        Hutchinson {
            probes: 1,
            distribution: Distribution::Rademacher,
            along: ProbeReuse::Fixed,
            orthogonal: false,
            antithetic: false,
        }
    }
}

impl TraceEstimator for Hutchinson {
    fn matvecs(&self, _dim: usize) -> usize {
        self.probes
    }

    fn fixed_probes(&self) -> Option<(Distribution, usize)> {
        (self.along == ProbeReuse::Fixed && !self.orthogonal)
            .then_some((self.distribution, self.probes))
    }

    fn averaging_parameter(&self) -> Option<(&'static str, usize)> {
        // The variance of orthogonal probes does not fall as 1/K.
        (!self.orthogonal).then_some(("probes", self.probes))
    }

    fn check(&self, dim: usize) -> Result<(), String> {
        check_bounds("hutchinson: probes", self.probes, 1, 1_000_000)?;
        if self.antithetic {
            return Err(
                "hutchinson: antithetic probes z and -z have the same quadratic form, so a pair \
                        costs twice as much as one probe and adds nothing; expected \
                        antithetic: false"
                    .to_owned(),
            );
        }
        if self.orthogonal && self.distribution != Distribution::Sphere {
            return Err(
                "hutchinson: orthogonal probes are vectors of a random orthogonal basis, \
                        which are uniform on the sphere; expected distribution: sphere with \
                        orthogonal: true"
                    .to_owned(),
            );
        }
        if self.orthogonal && self.probes > dim {
            return Err(format!(
                "hutchinson: probes is {}, expected at most {dim} orthogonal probes",
                self.probes
            ));
        }
        Ok(())
    }

    fn trace(
        &self,
        ops: &mut dyn BatchLinearOperator,
        probes: &ProbeSource,
    ) -> Result<Array2<f64>, EvalError> {
        let distribution = if self.orthogonal {
            Distribution::Gaussian
        } else {
            self.distribution
        };
        let mut z = probes.draw(
            Purpose::Probe,
            distribution,
            self.along,
            0..self.probes as u64,
            ops.dim(),
        );
        if !self.orthogonal {
            return ops.quadratic_form(&z);
        }
        orthogonalize(&mut z);
        let mut estimates = ops.quadratic_form(&z)?;
        scale_spread(
            &mut estimates,
            (1.0 - self.probes as f64 / ops.dim() as f64).sqrt(),
        );
        Ok(estimates)
    }
}

/// Replaces each row's Gaussian vectors by √n times an orthonormal set with a uniformly random
/// orientation.
///
/// The signs of the columns of Q depend on the algorithm, but zᵀAz does not depend on the sign.
/// Column j is the direction of the part of vector j that is orthogonal to the earlier vectors, so
/// each column is uniform on the sphere.
fn orthogonalize(z: &mut TangentBatch) {
    let root = (z.shape()[2] as f64).sqrt();
    for mut row in z.axis_iter_mut(Axis(1)) {
        let q = linalg::thin_q(row.t()) * root;
        row.assign(&q.t());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::stats;
    use crate::trace::testing::{Dense, replicate_estimates};

    #[test]
    fn rademacher_probes_are_exact_on_a_diagonal_matrix() {
        let mut dense = Dense::new(Array2::from_diag(&ndarray::array![1.0, -2.0, 5.5]), 10);
        let values = replicate_estimates(&Hutchinson::default(), &mut dense, 0);
        assert!(values.iter().all(|v| (v - 4.5).abs() < 1e-14));
    }

    #[test]
    fn a_skew_matrix_has_no_divergence_under_any_probe() {
        let skew = ndarray::array![[0.0, 3.0, -1.0], [-3.0, 0.0, 2.0], [1.0, -2.0, 0.0]];
        for distribution in [
            Distribution::Rademacher,
            Distribution::Gaussian,
            Distribution::Sphere,
        ] {
            let mut dense = Dense::new(skew.clone(), 10);
            let estimator = Hutchinson {
                probes: 3,
                distribution,
                ..Default::default()
            };
            assert!(
                replicate_estimates(&estimator, &mut dense, 0)
                    .iter()
                    .all(|v| v.abs() < 1e-13)
            );
        }
    }

    #[test]
    fn variances_match_their_formulas() {
        let n = 12;
        let a = crate::num::key::RngKey { seed: 21 }
            .normal(Purpose::Check, 0, 0, n * n)
            .into_shape_with_order((n, n))
            .expect("n·n");
        let sym = (&a + &a.t()) / 2.0;
        let frobenius: f64 = sym.iter().map(|v| v * v).sum();
        let diagonal: f64 = sym.diag().iter().map(|v| v * v).sum();
        let trace = a.diag().sum();
        let dim = n as f64;
        for (distribution, expected) in [
            (Distribution::Rademacher, 2.0 * (frobenius - diagonal)),
            (Distribution::Gaussian, 2.0 * frobenius),
            (
                Distribution::Sphere,
                2.0 * dim / (dim + 2.0) * (frobenius - trace * trace / dim),
            ),
        ] {
            let mut dense = Dense::new(a.clone(), 40_000);
            let estimator = Hutchinson {
                probes: 1,
                distribution,
                ..Default::default()
            };
            let values: Vec<f64> = replicate_estimates(&estimator, &mut dense, 4)
                .into_iter()
                .collect();
            let error = stats::mean_estimate(&values)
                .expect("values")
                .stderr
                .expect("many");
            let variance = error * error * values.len() as f64;
            assert!(
                (variance / expected - 1.0).abs() < 0.05,
                "{distribution:?} {variance} {expected}"
            );
        }
    }

    /// Probes without replacement: the variance falls by (n − K)/(n − 1), and so does the reported
    /// error.
    #[test]
    fn orthogonal_probes_report_their_variance() {
        let (n, rows) = (12, 6000);
        let draws = crate::num::key::RngKey { seed: 22 }.normal(Purpose::Check, 0, 0, n * n);
        let a = draws.into_shape_with_order((n, n)).expect("n·n");
        let sym = (&a + &a.t()) / 2.0;
        let frobenius: f64 = sym.iter().map(|v| v * v).sum();
        let (trace, dim) = (a.diag().sum(), n as f64);
        let one = 2.0 * dim / (dim + 2.0) * (frobenius - trace * trace / dim);
        for k in [2, 6, 11, 12] {
            let spec = Hutchinson {
                probes: k,
                distribution: Distribution::Sphere,
                orthogonal: true,
                ..Default::default()
            };
            let values = replicate_estimates(&spec, &mut Dense::new(a.clone(), rows), 4);
            let columns: Vec<Vec<f64>> = values.columns().into_iter().map(|c| c.to_vec()).collect();
            let estimates: Vec<_> = columns
                .iter()
                .map(|c| stats::mean_estimate(c).expect("probes"))
                .collect();
            let gaps: Vec<f64> = estimates.iter().map(|e| e.value - trace).collect();
            let variance = gaps.iter().map(|g| g * g).sum::<f64>() / rows as f64;
            let expected = one / k as f64 * (dim - k as f64) / (dim - 1.0);
            let reported = estimates
                .iter()
                .map(|e| e.stderr.expect("two or more").powi(2))
                .sum::<f64>()
                / rows as f64;
            if k == n {
                assert!(
                    variance < 1e-20 && reported < 1e-20,
                    "{variance} {reported}"
                );
                continue;
            }
            assert!(
                (variance / expected - 1.0).abs() < 0.06,
                "{k}: {variance} {expected}"
            );
            assert!(
                (reported / expected - 1.0).abs() < 0.06,
                "{k}: {reported} {expected}"
            );
        }
    }
}
