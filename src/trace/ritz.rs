//! Ritz values of a matrix from test vectors and their products, and a shift of the matrix that
//! follows from them.

use ndarray::{Array1, Array2, ArrayView2, Axis};

use crate::num::linalg;

/// Test vectors S (as rows), represented only by the inner products S·Sᵀ and S·(AS)ᵀ.
pub struct SketchGram {
    /// S·Sᵀ.
    gram: Array2<f64>,
    /// S·(AS)ᵀ.
    products: Array2<f64>,
}

/// Eigenvalues and eigenvectors of the symmetric part of A, restricted to the span of the test
/// vectors.
pub struct Ritz {
    /// The Ritz values in ascending order.
    pub values: Array1<f64>,
    /// The rows that combine the test vectors into the orthonormal Ritz vectors.
    pub coefficients: Array2<f64>,
}

impl SketchGram {
    /// Computes the inner products of the test vectors `s` and their products `y`, both k × dim.
    pub fn new(s: ArrayView2<f64>, y: ArrayView2<f64>) -> SketchGram {
        SketchGram {
            gram: s.dot(&s.t()),
            products: s.dot(&y.t()),
        }
    }

    /// Leaves out test vector number `i`, as a leave-one-out estimate needs.
    pub fn without(&self, i: usize) -> SketchGram {
        let keep: Vec<usize> = (0..self.gram.nrows()).filter(|j| *j != i).collect();
        let part = |m: &Array2<f64>| m.select(Axis(0), &keep).select(Axis(1), &keep);
        SketchGram {
            gram: part(&self.gram),
            products: part(&self.products),
        }
    }

    /// Computes the eigenpairs of the symmetric part of Tᵀ·S(AS)ᵀ·T, with G = SSᵀ = WΛWᵀ and T =
    /// WΛ^{-½}.
    ///
    /// Linearly dependent test vectors give fewer Ritz values than test vectors. `None` if the
    /// products are not finite.
    pub fn ritz(&self) -> Option<Ritz> {
        if self.gram.is_empty() {
            return Some(Ritz {
                values: Array1::zeros(0),
                coefficients: Array2::zeros((0, 0)),
            });
        }
        let (lengths, vectors) = linalg::eigh(self.gram.view()).ok()?;
        let most = lengths.iter().fold(0.0, |a: f64, b| a.max(*b));
        let keep: Vec<usize> = (0..lengths.len())
            .filter(|j| lengths[*j] > 1e-10 * most)
            .collect();
        let basis =
            vectors.select(Axis(1), &keep) / &lengths.select(Axis(0), &keep).mapv(f64::sqrt);
        let inside = basis.t().dot(&self.products).dot(&basis);
        let (values, turn) = linalg::eigh(((&inside + &inside.t()) / 2.0).view()).ok()?;
        Some(Ritz {
            values,
            coefficients: turn.t().dot(&basis.t()),
        })
    }
}

impl Ritz {
    /// The multiple ρ of the identity that is subtracted from A before A is sketched.
    ///
    /// The identity tr A = ρn + tr(A − ρI) holds for every ρ. The Jacobian of a velocity is close
    /// to ρI plus a matrix of low rank. Without the shift, a sketch is used up by the part ρI. If A
    /// is ρI plus a matrix of rank r, at most 2r Ritz values differ from ρ. The mean is shifted by
    /// the others, and so is the median once they are half. So ρ is the middle of the shortest
    /// interval that contains a third of the Ritz values. It costs no product.
    pub fn shift(&self) -> f64 {
        let n = self.values.len();
        if n < 2 {
            return self.values.sum();
        }
        let count = n.div_ceil(3).max(2);
        let length = |i: &usize| self.values[i + count - 1] - self.values[*i];
        let first = (0..=n - count)
            .min_by(|a, b| length(a).total_cmp(&length(b)))
            .unwrap_or(0);
        0.5 * (self.values[first + (count - 1) / 2] + self.values[first + count / 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::key::{Purpose, RngKey};

    fn random(purpose: u64, k: usize, n: usize) -> Array2<f64> {
        RngKey { seed: 3 }
            .normal(Purpose::Check, purpose, 0, k * n)
            .into_shape_with_order((k, n))
            .expect("k·n")
    }

    #[test]
    fn the_shift_is_the_flat_part_under_a_nonsymmetric_matrix_of_low_rank() {
        let (n, rank, k) = (30, 3, 10);
        let a = random(0, rank, n).t().dot(&random(1, rank, n)) + Array2::<f64>::eye(n) * -0.75;
        let s = random(2, k, n);
        let sketched = SketchGram::new(s.view(), s.dot(&a.t()).view());
        assert!((sketched.ritz().expect("finite").shift() + 0.75).abs() < 1e-12);
        for i in 0..k {
            assert!((sketched.without(i).ritz().expect("finite").shift() + 0.75).abs() < 1e-12);
        }
    }

    #[test]
    fn ritz_vectors_are_orthonormal_and_carry_their_values() {
        let (n, k) = (20, 6);
        let (a, s) = (random(0, n, n), random(1, k, n));
        let ritz = SketchGram::new(s.view(), s.dot(&a.t()).view())
            .ritz()
            .expect("finite");
        let q = ritz.coefficients.dot(&s);
        let gram = q.dot(&q.t()) - Array2::<f64>::eye(k);
        assert!(gram.iter().all(|v| v.abs() < 1e-12));
        let inside = q.dot(&((&a + &a.t()) / 2.0)).dot(&q.t()) - Array2::from_diag(&ritz.values);
        assert!(inside.iter().all(|v| v.abs() < 1e-12), "{inside}");
    }

    #[test]
    fn repeated_test_vectors_and_no_test_vectors_have_a_shift() {
        let s = ndarray::array![[1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]];
        let sketched = SketchGram::new(s.view(), (&s * 3.0).view());
        assert!((sketched.ritz().expect("finite").shift() - 3.0).abs() < 1e-12);
        let none = sketched.without(0).without(0).without(0);
        assert_eq!(none.ritz().expect("nothing").shift(), 0.0);
    }
}
