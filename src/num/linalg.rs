//! Dense linear algebra in f64: products, QR, singular values and symmetric eigenvalues. This is
//! the only module that uses `faer` and `pulp`.

use std::sync::Once;

use faer::linalg::solvers::Solve;
use faer::{Mat, MatRef, Par, Side};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, ShapeBuilder, s};

/// Adds up the rows of a matrix with the given weights: Σ_j weights\[j\]·rows\[j\].
///
/// The rows may lie anywhere, so nothing is copied. Each component is summed in the order of the
/// rows, whatever vector units the processor has.
///
/// # Panics
/// Panics if there are not as many weights as rows, or if the elements of a row are not adjacent.
pub fn weighted_row_sum(weights: ArrayView1<f64>, rows: ArrayView2<f64>, out: &mut [f64]) {
    assert_eq!(weights.len(), rows.nrows(), "one weight for each row");
    out.fill(0.0);
    pulp::Arch::new().dispatch(|| {
        for (weight, row) in weights.iter().zip(rows.outer_iter()) {
            let row = row.to_slice().expect("adjacent elements");
            for (sum, value) in out.iter_mut().zip(row) {
                *sum += weight * value;
            }
        }
    });
}

/// Q of the thin QR factorization of an n×k matrix with k ≤ n: k orthonormal columns.
///
/// A rank-deficient input also gives k orthonormal columns. Their span contains the input's range.
pub fn thin_q(a: ArrayView2<f64>) -> Array2<f64> {
    let q = to_faer(a).qr().compute_thin_Q();
    to_ndarray(q.as_ref())
}

/// R of the QR factorization: min(n, k)×k with RᵀR = AᵀA.
pub fn qr_r(a: ArrayView2<f64>) -> Array2<f64> {
    to_ndarray(to_faer(a).qr().thin_R())
}

/// U, s and V of the singular value decomposition A = U·diag(s)·Vᵀ, with s in descending order.
pub type Svd = (Array2<f64>, Array1<f64>, Array2<f64>);

/// The thin singular value decomposition.
///
/// # Errors
/// Fails if the iteration does not converge, which happens only for input that is not finite.
pub fn svd(a: ArrayView2<f64>) -> Result<Svd, &'static str> {
    let svd = to_faer(a)
        .thin_svd()
        .map_err(|_| "the singular value iteration did not converge")?;
    let values = svd.S().column_vector().iter().copied().collect();
    Ok((to_ndarray(svd.U()), values, to_ndarray(svd.V())))
}

/// The singular value decomposition of a large square matrix A from the eigenvectors V of AᵀA.
///
/// The singular values are the lengths of the columns of A·V. They are accurate to rounding even if
/// the eigenvectors are less accurate. `None` if A is small or not square, or if some singular
/// values are so close to zero that their eigenvectors cannot be separated.
///
/// # Errors
/// Fails if the iteration does not converge, which happens only for input that is not finite.
pub fn svd_by_eigenvectors(a: ArrayView2<f64>) -> Result<Option<Svd>, &'static str> {
    if a.nrows() != a.ncols() || a.nrows() < LARGE_MATRIX_ROWS {
        return Ok(None);
    }
    let mut gram = Gram::zeros(a.ncols());
    gram.add_rows(a);
    let (_, mut v) = eigh(gram.symmetric().view())?;
    v.invert_axis(Axis(1));
    let mut u = matmul(a, v.view());
    let s = u.map_axis(Axis(0), |column| column.dot(&column).sqrt());
    let largest = s.iter().fold(0.0f64, |m, v| m.max(*v));
    if !s.iter().all(|v| *v > MIN_SEPARABLE_RATIO * largest) {
        return Ok(None);
    }
    u /= &s;
    Ok(Some((u, s, v)))
}

/// The smallest number of rows of a large matrix.
const LARGE_MATRIX_ROWS: usize = 512;

/// The smallest ratio to the largest singular value at which eigenvectors can be separated in
/// double precision.
const MIN_SEPARABLE_RATIO: f64 = 1e-7;

/// The singular values in descending order.
///
/// # Errors
/// Fails if the iteration does not converge, which happens only for input that is not finite.
pub fn singular_values(a: ArrayView2<f64>) -> Result<Array1<f64>, &'static str> {
    to_faer(a)
        .singular_values()
        .map(Array1::from)
        .map_err(|_| "the singular value iteration did not converge")
}

/// The eigenvalues (ascending) and the eigenvectors (columns) of a symmetric matrix. Only its lower
/// triangle is read.
///
/// # Errors
/// Fails if the iteration does not converge, which happens only for input that is not finite.
pub fn eigh(a: ArrayView2<f64>) -> Result<(Array1<f64>, Array2<f64>), &'static str> {
    let eigen = to_faer(a)
        .self_adjoint_eigen(Side::Lower)
        .map_err(|_| "the symmetric eigenvalue iteration did not converge")?;
    let values = eigen.S().column_vector().iter().copied().collect();
    Ok((values, to_ndarray(eigen.U())))
}

/// The eigenvalues (ascending) of a symmetric matrix. Only its lower triangle is read.
///
/// # Errors
/// Fails if the iteration does not converge, which happens only for input that is not finite.
pub fn eigvalsh(a: ArrayView2<f64>) -> Result<Array1<f64>, &'static str> {
    to_faer(a)
        .self_adjoint_eigenvalues(Side::Lower)
        .map(Array1::from)
        .map_err(|_| "the symmetric eigenvalue iteration did not converge")
}

/// The number of columns of AᵀA that are computed together.
const PANEL: usize = 96;

/// A sum of AᵀA over blocks of rows. Only its lower triangle is stored.
pub struct Gram(Mat<f64>);

impl Gram {
    /// The sum over zero rows of `k` numbers.
    pub fn zeros(k: usize) -> Gram {
        Gram(Mat::zeros(k, k))
    }

    /// Adds AᵀA. Only the panels from the diagonal downwards are computed.
    pub fn add_rows(&mut self, a: ArrayView2<f64>) {
        use faer::linalg::matmul::matmul;
        // The kernels are twice as fast if columns are contiguous, so A is copied into columns.
        let (a, k) = (to_faer(a), self.0.nrows());
        for first in (0..k).step_by(PANEL) {
            let (width, rest) = (PANEL.min(k - first), k - first);
            let lower = self.0.as_mut().submatrix_mut(first, first, rest, width);
            let (left, right) = (
                a.as_ref().subcols(first, rest),
                a.as_ref().subcols(first, width),
            );
            matmul(
                lower,
                faer::Accum::Add,
                left.transpose(),
                right,
                1.0,
                Par::Seq,
            );
        }
    }

    /// The whole symmetric matrix.
    pub fn symmetric(&self) -> Array2<f64> {
        let k = self.0.nrows();
        Array2::from_shape_fn((k, k), |(i, j)| self.0[(i.max(j), i.min(j))])
    }

    /// Adds the sum over other rows.
    pub fn add(&mut self, other: &Gram) {
        self.0 += &other.0;
    }

    /// The upper triangular R with RᵀR = AᵀA, by Cholesky factorization.
    ///
    /// `None` if a squared pivot is less than `least` times the largest one. Small singular values
    /// of R would then consist only of rounding errors.
    pub fn cholesky_factor(&self, least: f64) -> Option<Array2<f64>> {
        let l = self.0.llt(Side::Lower).ok()?;
        let pivots: Vec<f64> = l
            .L()
            .diagonal()
            .column_vector()
            .iter()
            .map(|v| v * v)
            .collect();
        let most = pivots.iter().fold(0.0f64, |a, b| a.max(*b));
        pivots
            .iter()
            .all(|p| *p >= least * most)
            .then(|| to_ndarray(l.L().transpose()))
    }
}

/// The solution x of A·x = b for a square A, by LU factorization with partial pivoting.
pub fn solve_lu(a: ArrayView2<f64>, b: ArrayView1<f64>) -> Array1<f64> {
    let b = to_faer(b.insert_axis(Axis(1)));
    to_faer(a)
        .partial_piv_lu()
        .solve(b)
        .col(0)
        .iter()
        .copied()
        .collect()
}

/// ln|det A| and the sign of det A (0 if it is 0) for a square A, by LU factorization with partial
/// pivoting. NaN if A is not finite.
pub fn log_abs_det(a: ArrayView2<f64>) -> (f64, f64) {
    if a.iter().any(|v| !v.is_finite()) {
        return (f64::NAN, f64::NAN);
    }
    let lu = to_faer(a).partial_piv_lu();
    let pivots: Vec<f64> = (0..a.nrows()).map(|i| lu.U()[(i, i)]).collect();
    let (order, _) = lu.P().arrays();
    let (mut seen, mut odd) = (vec![false; order.len()], false);
    for first in 0..order.len() {
        // A cycle of even length is an odd permutation.
        let (mut at, mut length) = (first, 0);
        while !seen[at] {
            seen[at] = true;
            at = order[at];
            length += 1;
        }
        odd ^= length > 0 && length % 2 == 0;
    }
    let negative = pivots.iter().filter(|p| **p < 0.0).count();
    let sign = if pivots.contains(&0.0) {
        0.0
    } else if (negative % 2 == 1) == odd {
        1.0
    } else {
        -1.0
    };
    (pivots.iter().map(|p| p.abs().ln()).sum(), sign)
}

/// The pseudo-inverse of A. Singular values of at most `tolerance` count as zero.
///
/// # Errors
/// Fails if the iteration does not converge, which happens only for input that is not finite.
pub fn pinv(a: ArrayView2<f64>, tolerance: f64) -> Result<Array2<f64>, &'static str> {
    let (u, s, v) = svd(a)?;
    let inverse = s.mapv(|s| if s > tolerance { 1.0 / s } else { 0.0 });
    Ok((&v * &inverse).dot(&u.t()))
}

/// The product A·B. The kernels of `faer` are many times faster on large matrices than a plain
/// triple loop.
pub fn matmul(a: ArrayView2<f64>, b: ArrayView2<f64>) -> Array2<f64> {
    let mut c = Mat::<f64>::zeros(a.nrows(), b.ncols());
    let (a, b) = (as_faer(&a), as_faer(&b));
    let large = a.nrows() * b.ncols() >= 1 << 18;
    let parallelism = if large { fixed_parallelism() } else { Par::Seq };
    faer::linalg::matmul::matmul(c.as_mut(), faer::Accum::Replace, a, b, 1.0, parallelism);
    to_ndarray(c.as_ref())
}

/// A view of an array as a `faer` matrix.
fn as_faer<'a>(a: &'a ArrayView2<f64>) -> MatRef<'a, f64> {
    let strides = a.strides();
    // SAFETY: the pointer, extents and strides come from a live ndarray view, which outlives the
    // result.
    unsafe { MatRef::from_raw_parts(a.as_ptr(), a.nrows(), a.ncols(), strides[0], strides[1]) }
}

/// A copy with contiguous columns. Factorizations work in place.
fn to_faer(a: ArrayView2<f64>) -> Mat<f64> {
    static SET: Once = Once::new();
    SET.call_once(|| faer::set_global_parallelism(fixed_parallelism()));
    let mut columns = Mat::zeros(a.nrows(), a.ncols());
    // In blocks of rows, so that the part of a cache line that a column does not need is still there
    // for the next column.
    for first in (0..a.nrows()).step_by(COPIED_ROWS) {
        let block = first..(first + COPIED_ROWS).min(a.nrows());
        let rows = a.slice(s![block.clone(), ..]);
        for (j, from) in rows.columns().into_iter().enumerate() {
            let to = &mut columns.col_as_slice_mut(j)[block.clone()];
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
    }
    columns
}

/// The number of rows that are copied together into columns.
const COPIED_ROWS: usize = 32;

/// The parallelism of large matrices.
///
/// It is always four parts, whatever the number of threads, so that the results have the same
/// digits on any machine.
fn fixed_parallelism() -> Par {
    Par::rayon(4)
}

/// A copy of a `faer` matrix as an array.
fn to_ndarray(a: MatRef<f64>) -> Array2<f64> {
    Array2::from_shape_fn((a.nrows(), a.ncols()).f(), |(i, j)| a[(i, j)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::key::{Purpose, RngKey};

    fn random(n: usize, k: usize) -> Array2<f64> {
        let draws = RngKey { seed: 1 }.normal(Purpose::Check, 0, 0, n * k);
        draws.into_shape_with_order((n, k)).expect("n·k draws")
    }

    #[test]
    fn q_is_orthonormal_and_spans_the_range() {
        let a = random(40, 7);
        let q = thin_q(a.view());
        let gram = q.t().dot(&q) - Array2::<f64>::eye(7);
        assert!(gram.iter().all(|e| e.abs() < 1e-14));
        let rest = &a - &q.dot(&q.t().dot(&a));
        assert!(rest.iter().all(|e| e.abs() < 1e-13));
    }

    /// The same bytes as one component after the other, for any length and any place of the rows.
    #[test]
    fn weighted_sums_are_those_of_each_component() {
        for dim in [1, 2, 7, 8, 33, 64] {
            let all = random(3 * 11, dim);
            let rows = all.slice(s![1..;3, ..]);
            let weights = random(11, 2);
            let mut sum = vec![f64::NAN; dim];
            weighted_row_sum(weights.column(1), rows, &mut sum);
            for (component, sum) in sum.iter().enumerate() {
                let terms = (0..11).map(|j| weights[[j, 1]] * rows[[j, component]]);
                assert_eq!(terms.fold(0.0, |total, term| total + term), *sum);
            }
        }
    }

    #[test]
    fn svd_by_eigenvectors_matches_singular_values() {
        let a = random(520, 520) + 60.0 * Array2::<f64>::eye(520);
        let scaled = &a * &Array1::from_shape_fn(520, |i| 10f64.powf(-(i as f64) / 110.0));
        let (u, s, v) = svd_by_eigenvectors(scaled.view())
            .expect("finite")
            .expect("well conditioned");
        let mut right = singular_values(scaled.view()).expect("finite").to_vec();
        right.sort_by(f64::total_cmp);
        let mut found = s.to_vec();
        found.sort_by(f64::total_cmp);
        let largest = right.last().copied().expect("some");
        // Far closer than the root of an eigenvalue, which is right to 1e-8 of the largest.
        assert!(
            found
                .iter()
                .zip(&right)
                .all(|(a, b)| (a - b).abs() < 1e-13 * largest),
            "{largest}"
        );
        let rebuilt = matmul((&u * &s).view(), v.t());
        assert!(
            (&rebuilt - &scaled)
                .iter()
                .all(|e| e.abs() < 1e-12 * largest)
        );
        let mut singular = a.clone();
        singular.column_mut(3).fill(0.0);
        assert!(
            svd_by_eigenvectors(singular.view())
                .expect("finite")
                .is_none()
        );
        assert!(
            svd_by_eigenvectors(random(40, 40).view())
                .expect("finite")
                .is_none()
        );
    }

    #[test]
    fn gram_cholesky_factor_matches_the_rows() {
        let a = random(40, 7);
        let mut gram = Gram::zeros(7);
        gram.add_rows(a.slice(ndarray::s![..15, ..]));
        let mut rest = Gram::zeros(7);
        rest.add_rows(a.slice(ndarray::s![15.., ..]));
        gram.add(&rest);
        let r = gram.cholesky_factor(1e-10).expect("well conditioned");
        assert!(
            (r.t().dot(&r) - a.t().dot(&a))
                .iter()
                .all(|e| e.abs() < 1e-12)
        );
        assert!(r.indexed_iter().all(|((i, j), v)| i <= j || *v == 0.0));
        let mut deficient = Gram::zeros(2);
        deficient.add_rows(ndarray::array![[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]].view());
        assert!(deficient.cholesky_factor(1e-10).is_none());
    }

    #[test]
    fn solve_lu_solves() {
        let (a, b) = (random(5, 5), random(5, 1));
        let x = solve_lu(a.view(), b.column(0));
        assert!((a.dot(&x) - b.column(0)).iter().all(|e| e.abs() < 1e-13));
    }

    #[test]
    fn pinv_satisfies_the_penrose_conditions() {
        let low = random(9, 2).dot(&random(6, 2).t());
        let inverse = pinv(low.view(), 1e-10).expect("finite");
        assert!(
            (low.dot(&inverse).dot(&low) - &low)
                .iter()
                .all(|e| e.abs() < 1e-12)
        );
        assert!(
            (inverse.dot(&low).dot(&inverse) - &inverse)
                .iter()
                .all(|e| e.abs() < 1e-12)
        );
        assert!(
            pinv(Array2::zeros((3, 2)).view(), 1e-10)
                .expect("finite")
                .iter()
                .all(|e| *e == 0.0)
        );
    }

    #[test]
    fn eigenpairs_rebuild_the_matrix() {
        let a = random(30, 30);
        let s = &a + &a.t();
        let (values, vectors) = eigh(s.view()).expect("finite");
        let rebuilt = matmul((&vectors * &values).view(), vectors.t());
        assert!((&rebuilt - &s).iter().all(|e| e.abs() < 1e-12));
        let alone = eigvalsh(s.view()).expect("finite");
        assert!((&alone - &values).iter().all(|e| e.abs() < 1e-12));
    }
}
