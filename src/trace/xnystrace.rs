//! XNysTrace (Epperly, Tropp & Webber 2024), in a form that is unbiased for every square matrix.
//!
//! Each test vector is in turn the residual probe for a Nyström approximation from all the others.
//! Let B = A − ρᵢI, P the projection on the span of Ω₋ᵢ, qⱼ the eigenvectors and μⱼ the eigenvalues
//! of the symmetric part of PBP, fⱼ = Bqⱼ, Â = Σ fⱼfⱼᵀ/μⱼ and u = (I − P)ωᵢ. Then eᵢ = ρᵢn + Σ μⱼ +
//! Σ |(I − P)fⱼ|²/μⱼ + (n − rank P)·uᵀ(B − Â)u/uᵀu.
//!
//! The published method (§2.3 of the paper) requires A ⪰ 0, so that the first three terms are tr Â.
//! The Jacobian of a velocity is not definite, and that of a trained network is not symmetric. But
//! any Â that is independent of ωᵢ may be subtracted and added. The form above therefore has the
//! mean tr A for every A, if ρᵢ also comes from the other test vectors. For a definite matrix every
//! term is bounded: |Bq|² ≤ ‖B‖·qᵀBq. Terms of Â that exceed this bound are omitted, and the
//! residual probe covers them.

use ndarray::{Array2, ArrayView2, Axis, s};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ritz::SketchGram;
use super::{BatchLinearOperator, ProbeReuse, ProbeSource, TraceEstimator};
use crate::flow::field::EvalError;
use crate::num::key::{Distribution, Purpose};
use crate::registry::check_bounds;

/// XNysTrace: all Jacobian products go to test vectors. Each test vector is in turn the residual
/// probe for a Nyström approximation from all the others.
///
/// This is the best estimator if the Jacobian minus a multiple of the identity is nearly symmetric
/// and of one sign (standard deviation 0.013, XTrace 0.018 in the published case). Otherwise it can
/// be worse than Hutchinson's estimator. For networks whose Jacobians are not known to be
/// symmetric, use `xtrace`. Each replicate is one estimate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct XNysTrace {
    /// The number of Jacobian products per replicate, at least 1. Default: 12.
    pub matvecs: usize,
    /// The number of independent estimates. Default: 1.
    pub replicates: usize,
    /// Whether a path keeps its test vectors (`fixed`, the default) or draws new ones at every node
    /// (`fresh`).
    pub along: ProbeReuse,
    /// Whether a multiple of the identity is subtracted before the sketch. Default: true.
    pub shift: bool,
}

impl Default for XNysTrace {
    fn default() -> Self {
        XNysTrace {
            matvecs: 12,
            replicates: 1,
            along: ProbeReuse::Fixed,
            shift: true,
        }
    }
}

/// The factor by which |Bq|² may exceed ‖B‖·|qᵀBq|. The sketch gives only a lower bound of the
/// norm, so the bound needs some slack.
const DEFINITENESS_SLACK: f64 = 4.0;

impl XNysTrace {
    /// The number of test vectors.
    fn test_vector_count(&self, dim: usize) -> usize {
        self.matvecs.min(dim)
    }
}

impl TraceEstimator for XNysTrace {
    fn matvecs(&self, dim: usize) -> usize {
        self.test_vector_count(dim) * self.replicates
    }

    fn averaging_parameter(&self) -> Option<(&'static str, usize)> {
        Some(("replicates", self.replicates))
    }

    fn check(&self, _dim: usize) -> Result<(), String> {
        check_bounds("xnystrace: matvecs", self.matvecs, 1, 1_000_000)?;
        check_bounds("xnystrace: replicates", self.replicates, 1, 1_000_000)
    }

    fn trace(
        &self,
        ops: &mut dyn BatchLinearOperator,
        probes: &ProbeSource,
    ) -> Result<Array2<f64>, EvalError> {
        let (rows, dim, width) = (ops.rows(), ops.dim(), self.test_vector_count(ops.dim()));
        let omega = probes.draw_replicates(
            Purpose::Probe,
            Distribution::Sphere,
            self.along,
            self.replicates,
            width,
            dim,
        );
        let y = ops.apply(&omega)?;
        let mut estimates = Array2::zeros((self.replicates, rows));
        for r in 0..self.replicates {
            for row in 0..rows {
                let range = s![r * width..(r + 1) * width, row, ..];
                estimates[[r, row]] = self.average_estimates(omega.slice(range), y.slice(range));
            }
        }
        Ok(estimates)
    }
}

impl XNysTrace {
    /// The mean of eᵢ over the test vectors.
    fn average_estimates(&self, omega: ArrayView2<f64>, y: ArrayView2<f64>) -> f64 {
        let sketched = SketchGram::new(omega, y);
        let estimates = (0..omega.nrows()).map(|i| {
            self.leave_one_out_estimate(&sketched, omega, y, i)
                .unwrap_or(f64::NAN)
        });
        estimates.sum::<f64>() / omega.nrows() as f64
    }

    /// The estimate eᵢ; `None` if the products are not finite.
    fn leave_one_out_estimate(
        &self,
        sketched: &SketchGram,
        omega: ArrayView2<f64>,
        y: ArrayView2<f64>,
        i: usize,
    ) -> Option<f64> {
        let n = omega.ncols();
        let others: Vec<usize> = (0..omega.nrows()).filter(|j| *j != i).collect();
        let ritz = sketched.without(i).ritz()?;
        let rho = if self.shift { ritz.shift() } else { 0.0 };
        let q = ritz.coefficients.dot(&omega.select(Axis(0), &others));
        let f = ritz.coefficients.dot(&y.select(Axis(0), &others)) - &q * rho;
        let inner = q.dot(&omega.row(i));
        let u = &omega.row(i) - &inner.dot(&q);
        let bu = &y.row(i) - &(&omega.row(i) * rho) - inner.dot(&f);
        let lengths = f.map_axis(Axis(1), |f| f.dot(&f));
        let norm = lengths.iter().fold(0.0f64, |a, b| a.max(*b)).sqrt();
        let outside = &f - &f.dot(&q.t()).dot(&q);
        let (mut known, mut residual) = (rho * n as f64, u.dot(&bu));
        for (j, value) in ritz.values.iter().enumerate() {
            let mu = value - rho;
            known += mu;
            if lengths[j] > 0.0 && lengths[j] <= DEFINITENESS_SLACK * norm * mu.abs() {
                known += outside.row(j).dot(&outside.row(j)) / mu;
                residual -= f.row(j).dot(&u).powi(2) / mu;
            }
        }
        let (rank, length) = (q.nrows(), u.dot(&u));
        let value = if rank < n && length > 0.0 {
            known + (n - rank) as f64 * residual / length
        } else {
            known
        };
        value.is_finite().then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::testing::{Dense, replicate_estimates, standard_deviation};

    fn estimator(matvecs: usize, shift: bool) -> XNysTrace {
        XNysTrace {
            matvecs,
            shift,
            ..Default::default()
        }
    }

    #[test]
    fn exact_when_the_test_vectors_outnumber_the_rank() {
        for (flat, shift) in [(0.0, false), (0.0, true), (0.8, true)] {
            let mut eigenvalues = vec![flat; 40];
            eigenvalues[..4].copy_from_slice(&[5.0, 3.0, 2.0, 0.9]);
            let mut dense = Dense::with_eigenvalues(&eigenvalues, 20);
            let truth = dense.trace();
            let worst = replicate_estimates(&estimator(13, shift), &mut dense, 0)
                .iter()
                .map(|v| (v - truth).abs())
                .fold(0.0, f64::max);
            assert!(worst < 1e-8, "{flat} {shift}: {worst}");
        }
    }

    #[test]
    fn xnystrace_beats_xtrace_on_a_semidefinite_matrix() {
        let eigenvalues: Vec<f64> = (0..60).map(|i| 0.7f64.powi(i)).collect();
        let xtrace = crate::trace::xtrace::XTrace {
            matvecs: 18,
            shift: false,
            ..Default::default()
        };
        assert!(
            standard_deviation(&estimator(18, false), &eigenvalues, 300)
                < 0.5 * standard_deviation(&xtrace, &eigenvalues, 300)
        );
    }

    /// On indefinite matrices a Nyström approximation alone is unbounded.
    #[test]
    fn xnystrace_errors_are_bounded_on_an_indefinite_matrix() {
        let eigenvalues: Vec<f64> = (0..40)
            .map(|i| if i % 2 == 0 { 1.0 } else { -1.0 } / (1.0 + i as f64))
            .collect();
        let mut dense = Dense::with_eigenvalues(&eigenvalues, 4000);
        let values = replicate_estimates(&estimator(10, true), &mut dense, 0);
        let plain = standard_deviation(
            &crate::trace::hutchinson::Hutchinson {
                probes: 10,
                ..Default::default()
            },
            &eigenvalues,
            400,
        );
        let worst = values
            .iter()
            .map(|v| (v - dense.trace()).abs())
            .fold(0.0, f64::max);
        assert!(worst < 10.0 * plain, "{worst} {plain}");
    }
}
