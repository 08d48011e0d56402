//! NA-Hutch++ (Meyer, Musco, Musco & Woodruff 2021, Algorithm 2): all products in one call.

use ndarray::{Array1, Array2, ArrayView2, Axis, concatenate, s};
use serde::{Deserialize, Serialize};

use super::ritz::Sketched;
use super::{Along, Jacobians, Probes, TraceEstimator};
use crate::flow::field::EvalError;
use crate::num::key::{Distribution, Purpose};
use crate::num::linalg;

/// A budget of `matvecs` products per estimate: a sixth for R, a third for S, half for the probes G.
///
/// With B = A − ρI, Q a basis of BR, W = BS and Ã = Q(SᵀQ)⁺Wᵀ:
/// tr A ≈ ρn + tr Ã + mean over G of gᵀ(B − Ã)g. Nothing here waits for another product, so a
/// network is called once where [Hutch++](super::hutchpp) calls it three times.
///
/// SᵀQ has singular values around √s. By chance some can be next to nothing, and Ã without bound
/// with them: the published estimate has no variance in few dimensions. Those below √s/10 are left
/// out, which G makes good.
///
/// The published W is BᵀS. Products with Bᵀ are not what an estimator has here, and W = BS in their
/// place stays unbiased for every A: R and S fix Ã before G is drawn, and any Ã at all may be taken
/// away and added back. What it loses on a nonsymmetric matrix is variance: on one of n = 60 with 18
/// products the deviation was 0.21 against 0.12. ρ is found from R and S, and G does not know it.
///
/// Chains are as those of Hutch++: replicates, or the probes of a single one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NaHutchPlusPlus {
    pub matvecs: usize,
    pub replicates: usize,
    pub distribution: Distribution,
    pub along: Along,
    pub shift: bool,
}

impl Default for NaHutchPlusPlus {
    fn default() -> Self {
        NaHutchPlusPlus {
            matvecs: 12,
            replicates: 1,
            distribution: Distribution::Rademacher,
            along: Along::Fixed,
            shift: true,
        }
    }
}

impl NaHutchPlusPlus {
    /// Columns of R, S and G.
    fn split(&self) -> (usize, usize, usize) {
        let (r, s) = (self.matvecs / 6, self.matvecs / 3);
        (r, s, self.matvecs - r - s)
    }
}

impl TraceEstimator for NaHutchPlusPlus {
    fn matvecs(&self, _dim: usize) -> usize {
        self.matvecs * self.replicates
    }

    fn check(&self, _dim: usize) -> Result<(), String> {
        if !(6..=1_000_000).contains(&self.matvecs) {
            return Err(format!(
                "na-hutch++: matvecs is {}, expected at least 6: a sixth and a third for the sketch, half for probes",
                self.matvecs
            ));
        }
        let fine = (1..=1_000_000).contains(&self.replicates);
        fine.then_some(()).ok_or_else(|| format!("na-hutch++: replicates is {}, expected at least 1", self.replicates))
    }

    fn trace(&self, ops: &mut dyn Jacobians, probes: &Probes) -> Result<Array2<f64>, EvalError> {
        let (rows, dim) = (ops.rows(), ops.dim());
        let (r, s, g) = self.split();
        let draw =
            |purpose, count| probes.replicated(purpose, self.distribution, self.along, self.replicates, count, dim);
        let sketch = draw(Purpose::Sketch, r + s);
        let vectors = concatenate![Axis(0), sketch, draw(Purpose::Probe, g)];
        let products = ops.apply(&vectors)?;
        let mut chains = Array2::zeros((self.replicates * g, rows));
        let first_probe = self.replicates * (r + s);
        for replicate in 0..self.replicates {
            let low = replicate * (r + s)..(replicate + 1) * (r + s);
            let high = first_probe + replicate * g..first_probe + (replicate + 1) * g;
            for row in 0..rows {
                let part = |range: &std::ops::Range<usize>| s![range.clone(), row, ..];
                let values = self.estimates(
                    (vectors.slice(part(&low)), products.slice(part(&low))),
                    (vectors.slice(part(&high)), products.slice(part(&high))),
                );
                chains.slice_mut(s![replicate * g..(replicate + 1) * g, row]).assign(&values);
            }
        }
        Ok(if self.replicates > 1 {
            let by_replicate = chains.into_shape_with_order((self.replicates, g, rows)).expect("R·g chains");
            by_replicate.mean_axis(Axis(1)).expect("half of the budget")
        } else {
            chains
        })
    }
}

impl NaHutchPlusPlus {
    /// One estimate per probe, from sketch vectors (those of R before those of S) and probes with their products.
    fn estimates(
        &self,
        sketch: (ArrayView2<f64>, ArrayView2<f64>),
        probes: (ArrayView2<f64>, ArrayView2<f64>),
    ) -> Array1<f64> {
        let (width, dim) = (self.split().0, sketch.0.ncols());
        let rho =
            if self.shift { Sketched::new(sketch.0, sketch.1).ritz().map_or(f64::NAN, |r| r.shift()) } else { 0.0 };
        let shifted = &sketch.1 - &(&sketch.0 * rho);
        let (z, w) = (shifted.slice(s![..width, ..]), shifted.slice(s![width.., ..]));
        let q = linalg::thin_q(z.t());
        let core = sketch.0.slice(s![width.., ..]).dot(&q);
        let Ok(inverse) = linalg::pinv(core.view(), 0.1 * (w.nrows() as f64).sqrt()) else {
            return Array1::from_elem(probes.0.nrows(), f64::NAN);
        };
        // Ã = Q·K⁺·W with the vectors of W as rows.
        let known = rho * dim as f64 + inverse.dot(&w.dot(&q)).diag().sum();
        let left = probes.0.dot(&q).dot(&inverse);
        let inside = (&left * &probes.0.dot(&w.t())).sum_axis(Axis(1));
        let all = (&probes.0 * &probes.1).sum_axis(Axis(1)) - probes.0.map_axis(Axis(1), |g| rho * g.dot(&g));
        all - inside + known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::key::Key;
    use crate::trace::testing::{Dense, chains};

    #[test]
    fn exact_when_the_sketch_holds_the_range_of_a_symmetric_matrix() {
        for (flat, shift) in [(0.0, false), (0.0, true), (0.8, true)] {
            let mut eigenvalues = vec![flat; 30];
            eigenvalues[..3].copy_from_slice(&[5.0, -3.0, 2.0]);
            let mut dense = Dense::rotated(&eigenvalues, 20);
            let estimator = NaHutchPlusPlus { matvecs: 24, shift, ..Default::default() };
            let truth = dense.trace();
            let worst = chains(&estimator, &mut dense, 0).iter().map(|v| (v - truth).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-9, "{flat} {shift}: {worst}");
        }
    }

    #[test]
    fn the_network_is_called_once() {
        struct Counting(Dense, usize);
        impl Jacobians for Counting {
            fn rows(&self) -> usize {
                self.0.rows()
            }
            fn dim(&self) -> usize {
                self.0.dim()
            }
            fn apply(&mut self, z: &crate::num::Blocks) -> Result<crate::num::Blocks, EvalError> {
                self.1 += 1;
                self.0.apply(z)
            }
        }
        let mut counting = Counting(Dense::rotated(&[1.0, 2.0, 3.0], 1), 0);
        let probes = Probes { key: Key { seed: 0 }, sample: &[0], node: &[0] };
        let estimator = NaHutchPlusPlus { replicates: 4, ..Default::default() };
        estimator.trace(&mut counting, &probes).expect("dense");
        assert_eq!(counting.1, 1);
    }
}
