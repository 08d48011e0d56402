//! Hutchinson's estimator: the mean of zᵀAz over probes with E\[z zᵀ\] = I.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::{Along, Jacobians, Probes, TraceEstimator};
use crate::flow::field::EvalError;
use crate::num::key::{Distribution, Purpose};

/// K probes; each probe is a chain. Variance per probe with Ā = (A + Aᵀ)/2:
/// Rademacher 2(‖Ā‖² − Σ Āᵢᵢ²), Gaussian 2‖Ā‖², sphere 2n/(n+2)·(‖Ā‖² − tr(A)²/n).
///
/// Antithetic pairs are no option here: z and −z say the same. Nor are orthogonal probes, whose
/// values are not independent, so that no error could be told from them: [XTrace](super::xtrace)
/// spends a budget on dependent probes and asks for replicates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hutchinson {
    pub probes: usize,
    pub distribution: Distribution,
    pub along: Along,
}

impl Default for Hutchinson {
    fn default() -> Self {
        Hutchinson { probes: 1, distribution: Distribution::Rademacher, along: Along::Fixed }
    }
}

impl TraceEstimator for Hutchinson {
    fn matvecs(&self, _dim: usize) -> usize {
        self.probes
    }

    fn check(&self, _dim: usize) -> Result<(), String> {
        let fine = (1..=1_000_000).contains(&self.probes);
        fine.then_some(()).ok_or_else(|| format!("hutchinson: probes is {}, expected at least 1", self.probes))
    }

    fn trace(&self, ops: &mut dyn Jacobians, probes: &Probes) -> Result<Array2<f64>, EvalError> {
        let z = probes.draw(Purpose::Probe, self.distribution, self.along, 0..self.probes as u64, ops.dim());
        ops.quadratic(&z)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::stats;
    use crate::trace::testing::{Dense, chains};

    #[test]
    fn signs_are_exact_on_a_diagonal_matrix() {
        let mut dense = Dense::new(Array2::from_diag(&ndarray::array![1.0, -2.0, 5.5]), 10);
        let values = chains(&Hutchinson::default(), &mut dense, 0);
        assert!(values.iter().all(|v| (v - 4.5).abs() < 1e-14));
    }

    #[test]
    fn a_skew_matrix_has_no_divergence_under_any_probe() {
        let skew = ndarray::array![[0.0, 3.0, -1.0], [-3.0, 0.0, 2.0], [1.0, -2.0, 0.0]];
        for distribution in [Distribution::Rademacher, Distribution::Gaussian, Distribution::Sphere] {
            let mut dense = Dense::new(skew.clone(), 10);
            let estimator = Hutchinson { probes: 3, distribution, along: Along::Fixed };
            assert!(chains(&estimator, &mut dense, 0).iter().all(|v| v.abs() < 1e-13));
        }
    }

    #[test]
    fn variances_match_their_formulas() {
        let n = 12;
        let a = crate::num::key::Key { seed: 21 }
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
            (Distribution::Sphere, 2.0 * dim / (dim + 2.0) * (frobenius - trace * trace / dim)),
        ] {
            let mut dense = Dense::new(a.clone(), 40_000);
            let estimator = Hutchinson { probes: 1, distribution, along: Along::Fixed };
            let values: Vec<f64> = chains(&estimator, &mut dense, 4).into_iter().collect();
            let error = stats::mean(&values).expect("values").stderr.expect("many");
            let variance = error * error * values.len() as f64;
            assert!((variance / expected - 1.0).abs() < 0.05, "{distribution:?} {variance} {expected}");
        }
    }
}
