//! The Fréchet distance of two normal laws fitted to features (Heusel et al. 2017).
//!
//! |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^{1/2}), covariances by n − 1.

use ndarray::{Array1, Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use super::Statistic;
use crate::num::key::Key;
use crate::num::linalg;
use crate::num::stats::Estimate;

/// No parameters.
///
/// tr (Σ₁Σ₂)^{1/2} is the nuclear norm of R₁R₂ᵀ with Σᵢ = RᵢᵀRᵢ from a QR factorisation of the
/// centred features: no covariance is ever squared or rooted, so it is right for n < D too.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frechet {}

/// One side: its mean, centred rows and the triangular factor of its covariance.
struct Side {
    mean: Array1<f64>,
    centred: Array2<f64>,
    factor: Array2<f64>,
}

impl Side {
    fn of(x: ArrayView2<f64>) -> Side {
        let mean = x.mean_axis(Axis(0)).expect("at least two rows");
        let centred = &x - &mean;
        let factor = linalg::qr_r(centred.view()) / ((x.nrows() - 1) as f64).sqrt();
        Side { mean, centred, factor }
    }

    fn trace(&self) -> f64 {
        self.factor.iter().map(|v| v * v).sum()
    }

    /// Variance of the influence (x−μ)ᵀ(2·gap + (I − M)(x−μ)) over this side's rows, divided by n.
    fn influence(&self, gap: &Array1<f64>, root: &Array2<f64>) -> f64 {
        let weighted = linalg::matmul(self.centred.view(), root.t());
        let values: Vec<f64> = (self.centred.rows().into_iter().zip(weighted.rows()))
            .map(|(x, w)| 2.0 * gap.dot(&x) + x.dot(&x) - w.dot(&w))
            .collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0) / n
    }
}

impl Statistic for Frechet {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        let fine = generated >= 2 && reference >= 2;
        fine.then_some(()).ok_or_else(|| {
            format!("frechet: {generated} generated and {reference} reference samples, expected at least 2 of each")
        })
    }

    /// The standard error is the delta method's, with both sets of samples random. It describes the
    /// spread and not the bias: the distance of finite samples is too large by about c/n.
    fn compute(&self, generated: ArrayView2<f64>, reference: ArrayView2<f64>, _key: Key) -> Result<Estimate, String> {
        let (g, r) = (Side::of(generated), Side::of(reference));
        let gap = &g.mean - &r.mean;
        let cross = linalg::matmul(g.factor.view(), r.factor.t());
        let (u, s, v) = linalg::svd(cross.view()).map_err(str::to_owned)?;
        let value = gap.dot(&gap) + g.trace() + r.trace() - 2.0 * s.sum();

        // d tr(Σ₁Σ₂)^{1/2}/dΣ₁ = ½ R₂ᵀ V S⁻¹ Vᵀ R₂, and the mirror image for Σ₂.
        let floor = 1e-10 * s.iter().fold(0.0f64, |a, b| a.max(*b));
        let inverse_root = s.mapv(|s| if s > floor { 1.0 / s.sqrt() } else { 0.0 });
        let root = |basis: &Array2<f64>, factor: &Array2<f64>| linalg::matmul((basis * &inverse_root).t(), factor.view());
        let variance = g.influence(&gap, &root(&v, &r.factor)) + r.influence(&(-&gap), &root(&u, &g.factor));
        Ok(Estimate { value: value.max(0.0), stderr: Some(variance.sqrt()), n: generated.nrows() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::normal;
    use crate::num::moments::Moments;
    use crate::num::stats;

    fn distance(a: &Array2<f64>, b: &Array2<f64>) -> Estimate {
        Frechet {}.compute(a.view(), b.view(), Key { seed: 0 }).expect("finite")
    }

    #[test]
    fn scaling_and_shifting_the_same_points_is_closed_form() {
        // Σ₂ = a²Σ₁ commutes with Σ₁: the distance is |shift|² + (a − 1)² tr Σ₁, to rounding.
        for n in [5, 40] {
            let x = normal(1, n, 12, 0.0, 1.0);
            let y = &x * 1.7 + 0.25;
            let trace: f64 = Moments::of(x.view()).covariance().diag().sum();
            let mean = x.mean_axis(Axis(0)).expect("rows");
            let shift: f64 = mean.iter().map(|m| (0.7 * m + 0.25f64).powi(2)).sum();
            let want = shift + 0.49 * trace;
            assert!((distance(&x, &y).value - want).abs() < 1e-12 * want, "n = {n}");
        }
    }

    #[test]
    fn identical_sets_are_at_distance_zero_even_with_fewer_samples_than_dimensions() {
        let x = normal(1, 6, 20, 0.5, 1.0);
        assert!(distance(&x, &x).value.abs() < 1e-12);
    }

    #[test]
    fn agrees_with_the_matrix_square_root() {
        let (a, b) = (normal(1, 200, 5, 0.0, 1.0), normal(2, 150, 5, 0.2, 1.3));
        let (ma, mb) = (Moments::of(a.view()), Moments::of(b.view()));
        let sqrt = |m: &Array2<f64>| {
            let (values, vectors) = linalg::eigh(m.view()).expect("finite");
            (&vectors * &values.mapv(|v| v.max(0.0).sqrt())).dot(&vectors.t())
        };
        let root = sqrt(&ma.covariance());
        let inner = root.dot(&mb.covariance()).dot(&root);
        let gap = &ma.mean - &mb.mean;
        let want = gap.dot(&gap) + ma.covariance().diag().sum() + mb.covariance().diag().sum()
            - 2.0 * sqrt(&inner).diag().sum();
        assert!((distance(&a, &b).value - want).abs() < 1e-11 * want);
    }

    #[test]
    fn the_standard_error_is_the_spread_over_repeated_draws() {
        let results: Vec<Estimate> = (0..300)
            .map(|i| distance(&normal(2 * i + 10, 400, 4, 0.0, 1.0), &normal(2 * i + 11, 300, 4, 0.5, 1.4)))
            .collect();
        let values: Vec<f64> = results.iter().map(|e| e.value).collect();
        let spread = stats::mean(&values).and_then(|e| e.stderr).expect("many") * (values.len() as f64).sqrt();
        let claimed = stats::mean(&results.iter().filter_map(|e| e.stderr).collect::<Vec<_>>()).expect("many").value;
        assert!((claimed / spread - 1.0).abs() < 0.15, "{claimed} {spread}");
    }
}
