//! Hutchinson's estimator: the mean of zᵀAz over probes with E\[z zᵀ\] = I.

use ndarray::{Array2, Axis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BatchLinearOperator, ProbeReuse, ProbeSource, TraceEstimator, scale_spread};
use crate::flow::field::EvalError;
use crate::num::key::{Distribution, Purpose};
use crate::num::{TangentBatch, linalg};
use crate::registry::check_bounds;

/// K probes; each probe is a chain. Variance per probe with Ā = (A + Aᵀ)/2:
/// Rademacher 2(‖Ā‖² − Σ Āᵢᵢ²), Gaussian 2‖Ā‖², sphere 2n/(n+2)·(‖Ā‖² − tr(A)²/n).
///
/// Orthogonal probes are √n times the first K vectors of a random orthonormal basis: each is uniform on the
/// sphere, and K = n of them give the trace itself. They are draws without replacement: with the variance
/// V of one, their mean has V/K·(n − K)/(n − 1), and their own spread has mean V·n/(n − 1). So the spread
/// times 1 − K/n is unbiased for the error, on a node as along a path, and that is what the chains show.
///
/// Antithetic pairs are refused: z and −z have one quadratic form, so a pair is a probe at twice its cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hutchinson {
    pub probes: usize,
    pub distribution: Distribution,
    pub along: ProbeReuse,
    pub orthogonal: bool,
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

    fn check(&self, dim: usize) -> Result<(), String> {
        check_bounds("hutchinson: probes", self.probes, 1, 1_000_000)?;
        if self.antithetic {
            return Err("hutchinson: antithetic probes z and -z have the same quadratic form, so a pair says what \
                        one probe says at twice the cost; expected antithetic: false"
                .to_owned());
        }
        if self.orthogonal && self.distribution != Distribution::Sphere {
            return Err("hutchinson: orthogonal probes are vectors of a random basis, whose law is the sphere's; \
                        expected distribution: sphere with orthogonal: true"
                .to_owned());
        }
        if self.orthogonal && self.probes > dim {
            return Err(format!(
                "hutchinson: probes is {}, expected at most {dim} that are orthogonal",
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
        let law = if self.orthogonal {
            Distribution::Gaussian
        } else {
            self.distribution
        };
        let mut z = probes.draw(
            Purpose::Probe,
            law,
            self.along,
            0..self.probes as u64,
            ops.dim(),
        );
        if !self.orthogonal {
            return ops.quadratic_form(&z);
        }
        orthogonalize(&mut z);
        let mut chains = ops.quadratic_form(&z)?;
        scale_spread(
            &mut chains,
            (1.0 - self.probes as f64 / ops.dim() as f64).sqrt(),
        );
        Ok(chains)
    }
}

/// Each row's normal vectors become √n times an orthonormal set, uniformly turned.
///
/// The factor Q of a normal matrix spans a uniform subspace, but its columns' signs and the order of
/// their making are the algorithm's; zᵀAz knows no signs, and the first column is the first vector's
/// direction, the second the second's outside of it: each is uniform on the sphere.
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

    /// Draws without replacement: the variance falls by (n − K)/(n − 1), the reported error with it.
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
            let told = estimates
                .iter()
                .map(|e| e.stderr.expect("two or more").powi(2))
                .sum::<f64>()
                / rows as f64;
            if k == n {
                assert!(variance < 1e-20 && told < 1e-20, "{variance} {told}");
                continue;
            }
            assert!(
                (variance / expected - 1.0).abs() < 0.06,
                "{k}: {variance} {expected}"
            );
            assert!(
                (told / expected - 1.0).abs() < 0.06,
                "{k}: {told} {expected}"
            );
        }
    }
}
