//! NA-Hutch++ (Meyer, Musco, Musco & Woodruff 2021, Algorithm 2), a non-adaptive variant of
//! Hutch++: no product depends on the result of another.
//!
//! With B = A − ρI, Q a basis of BR, W = BᵀS and Ã = Q(SᵀQ)⁺Wᵀ, the estimate is tr A ≈ ρn + tr Ã +
//! the mean of gᵀ(B − Ã)g over the probes G. A network is called once in each mode;
//! [Hutch++](super::hutchpp) calls it three times.
//!
//! The singular values of SᵀQ are around √s. By chance some can be close to zero, which makes Ã
//! unbounded; the published estimate has infinite variance in few dimensions. The pseudo-inverse
//! therefore omits singular values below √s/10. The probes G correct for that.
//!
//! W needs products with the transpose, from the network's reverse mode. With `transposed: false`,
//! W = BS replaces it. The estimate stays unbiased for every A, because R and S determine Ã before
//! G is drawn, and any such Ã may be subtracted and added. The variance is larger on a nonsymmetric
//! matrix: for n = 60 and 18 products, the standard deviation was 0.21 instead of 0.12. The shift ρ
//! comes from R and S. With the transpose, R is multiplied by A and S by Aᵀ, so ρ comes from S
//! alone. It is independent of G.

use ndarray::{Array1, Array2, ArrayView2, Axis, concatenate, s};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ritz::SketchGram;
use super::{BatchLinearOperator, ProbeReuse, ProbeSource, TraceEstimator};
use crate::flow::field::EvalError;
use crate::num::TangentBatch;
use crate::num::key::{Distribution, Purpose};
use crate::num::linalg;
use crate::registry::check_bounds;

/// NA-Hutch++: the non-adaptive variant of Hutch++, whose products all fit into one call of the
/// network per mode. A sixth of the products goes to R and a third to S, which form the sketch;
/// half goes to probes for the residual.
///
/// With several replicates, each replicate is an independent estimate. With one, each probe is an
/// estimate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NaHutchPlusPlus {
    /// The number of Jacobian products per replicate, at least 6. Default: 12.
    pub matvecs: usize,
    /// The number of independent estimates. Default: 1.
    pub replicates: usize,
    /// The distribution of the sketch vectors and the probes. Default: `rademacher`.
    pub distribution: Distribution,
    /// Whether a path keeps its random vectors (`fixed`, the default) or draws new ones at every
    /// node (`fresh`).
    pub along: ProbeReuse,
    /// Whether a multiple of the identity is subtracted before the sketch. Default: true.
    pub shift: bool,
    /// Whether the sketch uses products with the transpose, as published. Default: true. With
    /// false, the estimate stays unbiased but has a larger variance.
    pub transposed: bool,
}

impl Default for NaHutchPlusPlus {
    fn default() -> Self {
        NaHutchPlusPlus {
            matvecs: 12,
            replicates: 1,
            distribution: Distribution::Rademacher,
            along: ProbeReuse::Fixed,
            shift: true,
            transposed: true,
        }
    }
}

impl NaHutchPlusPlus {
    /// The numbers of columns of R, S and G.
    fn split_budget(&self) -> (usize, usize, usize) {
        let (r, s) = (self.matvecs / 6, self.matvecs / 3);
        (r, s, self.matvecs - r - s)
    }
}

impl TraceEstimator for NaHutchPlusPlus {
    fn matvecs(&self, _dim: usize) -> usize {
        self.matvecs * self.replicates
    }

    fn needs_transpose(&self) -> bool {
        self.transposed
    }

    fn averaging_parameter(&self) -> Option<(&'static str, usize)> {
        Some(("replicates", self.replicates))
    }

    fn check(&self, _dim: usize) -> Result<(), String> {
        // A sixth of the budget is R, a third S and half the probes; each needs at least one
        // product.
        check_bounds("na-hutch++: matvecs", self.matvecs, 6, 1_000_000)?;
        check_bounds("na-hutch++: replicates", self.replicates, 1, 1_000_000)
    }

    fn trace(
        &self,
        ops: &mut dyn BatchLinearOperator,
        probes: &ProbeSource,
    ) -> Result<Array2<f64>, EvalError> {
        let (rows, dim) = (ops.rows(), ops.dim());
        let (r, s, g) = self.split_budget();
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
        let sketch = draw(Purpose::Sketch, r + s);
        let probes = draw(Purpose::Probe, g);
        // R and S of a replicate are adjacent.
        let of = |first: usize, count: usize| -> Vec<usize> {
            (0..self.replicates)
                .flat_map(|i| (0..count).map(move |j| i * (r + s) + first + j))
                .collect()
        };
        let vectors = concatenate![Axis(0), sketch, probes];
        let products = if self.transposed {
            let forward = ops.apply(&concatenate![
                Axis(0),
                sketch.select(Axis(0), &of(0, r)),
                probes
            ])?;
            let missing = || {
                EvalError::Missing(
                    "na-hutch++: no products with the transpose; set transposed: false".into(),
                )
            };
            let reverse = ops
                .apply_transposed(&sketch.select(Axis(0), &of(r, s)))?
                .ok_or_else(missing)?;
            let mut all = TangentBatch::zeros(vectors.raw_dim());
            for (from, to) in of(0, r).into_iter().enumerate() {
                all.index_axis_mut(Axis(0), to)
                    .assign(&forward.index_axis(Axis(0), from));
            }
            for (from, to) in of(r, s).into_iter().enumerate() {
                all.index_axis_mut(Axis(0), to)
                    .assign(&reverse.index_axis(Axis(0), from));
            }
            let known = self.replicates * r;
            all.slice_mut(s![sketch.shape()[0].., .., ..])
                .assign(&forward.slice(s![known.., .., ..]));
            all
        } else {
            ops.apply(&vectors)?
        };
        let mut estimates = Array2::zeros((self.replicates * g, rows));
        let first_probe = self.replicates * (r + s);
        for replicate in 0..self.replicates {
            let low = replicate * (r + s)..(replicate + 1) * (r + s);
            let high = first_probe + replicate * g..first_probe + (replicate + 1) * g;
            for row in 0..rows {
                let part = |range: &std::ops::Range<usize>| s![range.clone(), row, ..];
                let values = self.probe_estimates(
                    (vectors.slice(part(&low)), products.slice(part(&low))),
                    (vectors.slice(part(&high)), products.slice(part(&high))),
                );
                estimates
                    .slice_mut(s![replicate * g..(replicate + 1) * g, row])
                    .assign(&values);
            }
        }
        Ok(if self.replicates > 1 {
            let by_replicate = estimates
                .into_shape_with_order((self.replicates, g, rows))
                .expect("R·g estimates");
            by_replicate.mean_axis(Axis(1)).expect("half of the budget")
        } else {
            estimates
        })
    }
}

impl NaHutchPlusPlus {
    /// One estimate per probe. `sketch` and `probes` are each a pair of vectors and their products;
    /// in `sketch`, the vectors of R come before those of S.
    fn probe_estimates(
        &self,
        sketch: (ArrayView2<f64>, ArrayView2<f64>),
        probes: (ArrayView2<f64>, ArrayView2<f64>),
    ) -> Array1<f64> {
        let (width, dim) = (self.split_budget().0, sketch.0.ncols());
        let seen = if self.transposed {
            s![width.., ..]
        } else {
            s![.., ..]
        };
        let ritz = || SketchGram::new(sketch.0.slice(seen), sketch.1.slice(seen)).ritz();
        let rho = if self.shift {
            ritz().map_or(f64::NAN, |r| r.shift())
        } else {
            0.0
        };
        let shifted = &sketch.1 - &(&sketch.0 * rho);
        let (z, w) = (
            shifted.slice(s![..width, ..]),
            shifted.slice(s![width.., ..]),
        );
        let q = linalg::thin_q(z.t());
        let core = sketch.0.slice(s![width.., ..]).dot(&q);
        let Ok(inverse) = linalg::pinv(core.view(), 0.1 * (w.nrows() as f64).sqrt()) else {
            return Array1::from_elem(probes.0.nrows(), f64::NAN);
        };
        // Ã = Q·K⁺·W with the vectors of W as rows.
        let known = rho * dim as f64 + inverse.dot(&w.dot(&q)).diag().sum();
        let left = probes.0.dot(&q).dot(&inverse);
        let inside = (&left * &probes.0.dot(&w.t())).sum_axis(Axis(1));
        let all = (&probes.0 * &probes.1).sum_axis(Axis(1))
            - probes.0.map_axis(Axis(1), |g| rho * g.dot(&g));
        all - inside + known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::key::RngKey;
    use crate::trace::testing::{Dense, replicate_estimates};

    #[test]
    fn exact_when_the_sketch_holds_the_range_of_a_symmetric_matrix() {
        for (flat, shift) in [(0.0, false), (0.0, true), (0.8, true)] {
            let mut eigenvalues = vec![flat; 30];
            eigenvalues[..3].copy_from_slice(&[5.0, -3.0, 2.0]);
            let mut dense = Dense::with_eigenvalues(&eigenvalues, 20);
            let estimator = NaHutchPlusPlus {
                matvecs: 24,
                shift,
                ..Default::default()
            };
            let truth = dense.trace();
            let worst = replicate_estimates(&estimator, &mut dense, 0)
                .iter()
                .map(|v| (v - truth).abs())
                .fold(0.0, f64::max);
            assert!(worst < 1e-9, "{flat} {shift}: {worst}");
        }
    }

    #[test]
    fn na_hutchpp_calls_the_operator_once_per_mode() {
        struct Counting(Dense, usize, usize);
        impl BatchLinearOperator for Counting {
            fn rows(&self) -> usize {
                self.0.rows()
            }
            fn dim(&self) -> usize {
                self.0.dim()
            }
            fn apply(&mut self, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
                self.1 += 1;
                self.0.apply(z)
            }
            fn apply_transposed(
                &mut self,
                w: &TangentBatch,
            ) -> Result<Option<TangentBatch>, EvalError> {
                self.2 += 1;
                self.0.apply_transposed(w)
            }
        }
        for (transposed, calls) in [(true, (1, 1)), (false, (1, 0))] {
            let mut counting = Counting(Dense::with_eigenvalues(&[1.0, 2.0, 3.0], 1), 0, 0);
            let probes = ProbeSource {
                key: RngKey { seed: 0 },
                sample: &[0],
                node: &[0],
            };
            let estimator = NaHutchPlusPlus {
                replicates: 4,
                transposed,
                ..Default::default()
            };
            estimator.trace(&mut counting, &probes).expect("dense");
            assert_eq!((counting.1, counting.2), calls);
        }
    }

    /// On a nonsymmetric matrix, W = BᵀS has a smaller spread than W = BS.
    #[test]
    fn the_transpose_halves_the_deviation_on_a_nonsymmetric_matrix() {
        let n = 60;
        let basis = |i| linalg::thin_q(random(i, n).view());
        let decaying = Array1::from_iter((1..=n).map(|i| 1.0 / (i * i) as f64));
        let a = (&basis(0) * &decaying).dot(&basis(1).t());
        let deviation = |transposed: bool| {
            let estimator = NaHutchPlusPlus {
                matvecs: 18,
                shift: false,
                transposed,
                ..Default::default()
            };
            let mut dense = Dense::new(a.clone(), 1500);
            let values = replicate_estimates(&estimator, &mut dense, 6)
                .mean_axis(Axis(0))
                .expect("estimates")
                .to_vec();
            let mean = crate::num::stats::mean_estimate(&values).expect("rows");
            let error = mean.stderr.expect("rows");
            assert!(
                (mean.value - dense.trace()).abs() < 4.0 * error,
                "{transposed}: {mean:?} {}",
                dense.trace()
            );
            error * 1500f64.sqrt()
        };
        let (with, without) = (deviation(true), deviation(false));
        assert!(with < 0.7 * without, "{with} {without}");
    }

    #[test]
    fn missing_transpose_error_names_the_option() {
        struct Forward(Dense);
        impl BatchLinearOperator for Forward {
            fn rows(&self) -> usize {
                self.0.rows()
            }
            fn dim(&self) -> usize {
                self.0.dim()
            }
            fn apply(&mut self, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
                self.0.apply(z)
            }
        }
        let probes = ProbeSource {
            key: RngKey { seed: 0 },
            sample: &[0],
            node: &[0],
        };
        let mut forward = Forward(Dense::with_eigenvalues(&[1.0, 2.0, 3.0], 1));
        let refusal = NaHutchPlusPlus::default()
            .trace(&mut forward, &probes)
            .expect_err("no transpose")
            .to_string();
        assert!(refusal.contains("transposed: false"), "{refusal}");
    }

    fn random(purpose: u64, n: usize) -> Array2<f64> {
        let draws = RngKey { seed: 8 }.normal(Purpose::Check, purpose, 0, n * n);
        draws.into_shape_with_order((n, n)).expect("n·n")
    }
}
