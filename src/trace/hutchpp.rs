//! Hutch++ (Meyer, Musco, Musco & Woodruff 2021), applied to the shifted matrix.
//!
//! The estimate is tr A = ρn + tr(Qᵀ(A−ρI)Q) + the trace of the rest, for any ρ, with Q a basis of
//! (A − ρI)S. The Jacobian of a velocity is close to a multiple of the identity plus a matrix of
//! low rank. Without the shift, the identity uses up the sketch and the variance is larger than
//! that of Hutchinson's estimator. The shift ρ comes from the Ritz values of the sketch
//! ([`Ritz::shift`](super::ritz::Ritz::shift)), so it costs no product. The residual probes G are
//! independent of it, so it causes no bias.

use ndarray::{Array1, Array2, Array3, Axis, s};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ritz::SketchGram;
use super::{BatchLinearOperator, ProbeReuse, ProbeSource, TraceEstimator};
use crate::flow::field::EvalError;
use crate::num::TangentBatch;
use crate::num::key::{Distribution, Purpose};
use crate::num::linalg;
use crate::registry::check_bounds;

/// Hutch++: a third of the Jacobian products goes to a sketch, a third to the projection on it, and
/// a third to probes for the residual.
///
/// With several replicates, each replicate is an independent estimate. With one, each residual
/// probe is an estimate; their spread gives the error for the given sketch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HutchPlusPlus {
    /// The number of Jacobian products per replicate, at least 3. Default: 12.
    pub matvecs: usize,
    /// The number of independent estimates. Default: 1.
    pub replicates: usize,
    /// The distribution of the sketch vectors and the residual probes. Default: `rademacher`.
    pub distribution: Distribution,
    /// Whether a path keeps its random vectors (`fixed`, the default) or draws new ones at every
    /// node (`fresh`).
    pub along: ProbeReuse,
    /// Whether a multiple of the identity is subtracted before the sketch. Default: true.
    pub shift: bool,
}

impl Default for HutchPlusPlus {
    fn default() -> Self {
        HutchPlusPlus {
            matvecs: 12,
            replicates: 1,
            distribution: Distribution::Rademacher,
            along: ProbeReuse::Fixed,
            shift: true,
        }
    }
}

impl HutchPlusPlus {
    /// The number of columns of the sketch. With as many columns as dimensions it is exact.
    fn sketch_width(&self, dim: usize) -> usize {
        (self.matvecs / 3).min(dim)
    }

    /// The number of probes for the residual.
    fn residual_probe_count(&self, dim: usize) -> usize {
        self.matvecs - 2 * self.sketch_width(dim)
    }
}

impl TraceEstimator for HutchPlusPlus {
    fn matvecs(&self, _dim: usize) -> usize {
        self.matvecs * self.replicates
    }

    fn averaging_parameter(&self) -> Option<(&'static str, usize)> {
        Some(("replicates", self.replicates))
    }

    fn check(&self, _dim: usize) -> Result<(), String> {
        // The sketch, the projection and the residual each need at least one product.
        check_bounds("hutch++: matvecs", self.matvecs, 3, 1_000_000)?;
        check_bounds("hutch++: replicates", self.replicates, 1, 1_000_000)
    }

    fn trace(
        &self,
        ops: &mut dyn BatchLinearOperator,
        probes: &ProbeSource,
    ) -> Result<Array2<f64>, EvalError> {
        let (rows, dim) = (ops.rows(), ops.dim());
        let (width, residuals) = (self.sketch_width(dim), self.residual_probe_count(dim));
        let draw = |purpose, count| {
            probes.draw_replicates(
                purpose,
                self.distribution,
                self.along,
                self.replicates,
                count,
                dim,
            )
        };
        let s = draw(Purpose::Sketch, width);
        let y = ops.apply(&s)?;
        let rho = if self.shift {
            replicate_shifts(&s, &y, self.replicates)
        } else {
            Array2::zeros((self.replicates, rows))
        };
        let q = self.bases(&s, &y, &rho, width);
        let captured = ops.quadratic_form(&q)?;
        let mut g = draw(Purpose::Probe, residuals);
        self.project_out(&mut g, &q, width, residuals);
        let rest = ops.quadratic_form(&g)?;
        let lengths = g.map_axis(Axis(2), |z| z.dot(&z));

        let mut estimates = Array3::zeros((self.replicates, residuals, rows));
        for r in 0..self.replicates {
            let shift = rho.row(r);
            let inside = captured
                .slice(s![r * width..(r + 1) * width, ..])
                .sum_axis(Axis(0));
            let fixed: Array1<f64> = &inside + &(&shift * (dim - width) as f64);
            for j in 0..residuals {
                let at = r * residuals + j;
                let outside = &rest.row(at) - &(&lengths.row(at) * &shift);
                estimates
                    .slice_mut(s![r, j, ..])
                    .assign(&(&fixed + &outside));
            }
        }
        Ok(if self.replicates > 1 {
            estimates
                .mean_axis(Axis(1))
                .expect("residuals is at least a third of three")
        } else {
            estimates.index_axis_move(Axis(0), 0)
        })
    }
}

impl HutchPlusPlus {
    /// Orthonormal bases of (A − ρI)·S, one for each replicate and row.
    fn bases(
        &self,
        s: &TangentBatch,
        y: &TangentBatch,
        rho: &Array2<f64>,
        width: usize,
    ) -> TangentBatch {
        let mut q = TangentBatch::zeros(s.raw_dim());
        for r in 0..self.replicates {
            let range = s![r * width..(r + 1) * width, .., ..];
            let (s, y) = (s.slice(range), y.slice(range));
            let mut q = q.slice_mut(range);
            for row in 0..s.shape()[1] {
                let shifted =
                    &y.index_axis(Axis(1), row) - &(&s.index_axis(Axis(1), row) * rho[[r, row]]);
                q.index_axis_mut(Axis(1), row)
                    .assign(&linalg::thin_q(shifted.t()).t());
            }
        }
        q
    }

    /// Projects the probes on the complement of the bases: G ← (I − QQᵀ)G.
    fn project_out(&self, g: &mut TangentBatch, q: &TangentBatch, width: usize, residuals: usize) {
        for r in 0..self.replicates {
            for row in 0..g.shape()[1] {
                let q = q.slice(s![r * width..(r + 1) * width, row, ..]);
                let mut g = g.slice_mut(s![r * residuals..(r + 1) * residuals, row, ..]);
                let inside = g.dot(&q.t()).dot(&q);
                g -= &inside;
            }
        }
    }
}

/// The shift ρ from each replicate's sketch: replicates × rows.
fn replicate_shifts(s: &TangentBatch, y: &TangentBatch, replicates: usize) -> Array2<f64> {
    let width = s.shape()[0] / replicates;
    Array2::from_shape_fn((replicates, s.shape()[1]), |(r, row)| {
        let range = s![r * width..(r + 1) * width, row, ..];
        SketchGram::new(s.slice(range), y.slice(range))
            .ritz()
            .map_or(f64::NAN, |ritz| ritz.shift())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::stats;
    use crate::trace::hutchinson::Hutchinson;
    use crate::trace::testing::{Dense, replicate_estimates, standard_deviation};

    #[test]
    fn exact_when_the_sketch_holds_the_range() {
        for flat in [0.0, 0.8] {
            let mut eigenvalues = vec![flat; 30];
            eigenvalues[..4].copy_from_slice(&[5.0, -3.0, 2.0, 0.5]);
            for shift in [false, true] {
                let estimator = HutchPlusPlus {
                    matvecs: 24,
                    shift,
                    ..Default::default()
                };
                let mut dense = Dense::with_eigenvalues(&eigenvalues, 20);
                let truth = dense.trace();
                let worst = replicate_estimates(&estimator, &mut dense, 0)
                    .iter()
                    .map(|v| (v - truth).abs())
                    .fold(0.0, f64::max);
                // With a multiple of the identity, the range is the whole space unless the shift
                // removes it.
                assert_eq!(worst < 1e-10, shift || flat == 0.0, "{worst}");
            }
        }
    }

    #[test]
    fn beats_hutchinson_on_a_decaying_spectrum_and_on_identity_minus_it() {
        let decaying: Vec<f64> = (1..=60).map(|i| 1.0 / (i * i) as f64).collect();
        let flipped: Vec<f64> = decaying.iter().map(|l| 1.0 - l).collect();
        let ours = HutchPlusPlus {
            matvecs: 18,
            ..Default::default()
        };
        let plain = HutchPlusPlus {
            matvecs: 18,
            shift: false,
            ..Default::default()
        };
        let hutchinson = Hutchinson {
            probes: 18,
            ..Default::default()
        };
        for eigenvalues in [&decaying, &flipped] {
            assert!(
                standard_deviation(&ours, eigenvalues, 400)
                    < 0.12 * standard_deviation(&hutchinson, eigenvalues, 400)
            );
        }
        // Without the shift, the identity uses up the sketch.
        assert!(
            standard_deviation(&plain, &flipped, 400)
                > 2.0 * standard_deviation(&hutchinson, &flipped, 400)
        );
    }

    #[test]
    fn replicates_are_independent_estimates() {
        let decaying: Vec<f64> = (1..=30).map(|i| 0.7f64.powi(i)).collect();
        let estimator = HutchPlusPlus {
            matvecs: 9,
            replicates: 16,
            ..Default::default()
        };
        let mut dense = Dense::with_eigenvalues(&decaying, 300);
        let values = replicate_estimates(&estimator, &mut dense, 5);
        assert_eq!(values.nrows(), 16);
        let truth = dense.trace();
        let scaled: Vec<f64> = values
            .columns()
            .into_iter()
            .map(|c| stats::mean_estimate(&c.to_vec()).expect("16"))
            .map(|e| (e.value - truth) / e.stderr.expect("16"))
            .collect();
        let rms = stats::rms(&scaled).expect("rows");
        assert!((0.85..1.35).contains(&rms), "{rms}");
    }

    /// With λ = 0.7ⁱ in n = 1000 dimensions and m products, the sketch leaves a tail of 0.7^(m/3).
    /// The residual's standard deviation is that of Hutchinson's estimator on the tail, √2·‖tail‖_F
    /// over √(m/3).
    #[test]
    fn the_error_decays_with_the_spectrum() {
        let eigenvalues: Vec<f64> = (0..1000).map(|i| 0.7f64.powi(i)).collect();
        let mut dense = Dense::new(Array2::from_diag(&Array1::from(eigenvalues)), 6);
        let truth = dense.trace();
        for shift in [false, true] {
            let mut errors = Vec::new();
            for matvecs in [15, 30, 60] {
                let spec = HutchPlusPlus {
                    matvecs,
                    shift,
                    distribution: Distribution::Gaussian,
                    ..Default::default()
                };
                let values = replicate_estimates(&spec, &mut dense, 1)
                    .mean_axis(Axis(0))
                    .expect("estimates");
                let rms = (values.iter().map(|v| (v - truth).powi(2)).sum::<f64>() / 6.0).sqrt();
                let tail = 0.7f64.powi(matvecs as i32 / 3) / (1.0f64 - 0.49).sqrt();
                assert!(rms < 4.0 * tail, "{matvecs} {shift}: {rms} {tail}");
                errors.push(rms);
            }
            // From 15 products to 60, the tail shrinks by 0.7¹⁵ = 0.005.
            assert!(errors[2] < 0.02 * errors[0], "{errors:?}");
        }
    }
}
