//! The Fréchet distance between two normal distributions fitted to features (Heusel et al. 2017).
//!
//! The value is |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^{1/2}), with covariances of divisor n − 1. With
//! features of Inception-v3 it is the FID.

use ndarray::{Array1, Array2, ArrayView1, Axis, s};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature_set::{FeatureSet, READ_BLOCK_ROWS};
use super::{Influences, SampleSets, Statistic, max_keeping_nan, notes, permutation};
use crate::num::key::{Purpose, RngKey};
use crate::num::linalg;
use crate::num::moments::RowMoments;
use crate::num::stats::Estimate;

/// The Fréchet distance |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^{1/2}) between normal distributions
/// fitted to generated and reference features (FID). There are no parameters.
///
/// The term tr (Σ₁Σ₂)^{1/2} is computed as the nuclear norm of R₁R₂ᵀ with Σᵢ = RᵢᵀRᵢ. No product of
/// covariances needs a square root, so the result is also accurate for fewer samples than features.
/// Features are read in blocks, once for the moments and once for the standard error.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Frechet {}

impl Statistic for Frechet {
    fn check(&self, generated: usize, reference: usize) -> Result<(), String> {
        check_covariance_counts("frechet", generated, reference)
    }

    fn is_biased(&self) -> bool {
        true
    }

    /// Computes the distance, with a standard error by the delta method in which both sets are
    /// random.
    ///
    /// The standard error describes the random spread, not the bias: the distance of finite samples
    /// is too large by about c/n. It is estimated from at most 4,096 samples of each set, drawn by
    /// the seed.
    ///
    /// # Errors
    /// Fails if rows cannot be read or a matrix decomposition fails.
    fn compute(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        key: RngKey,
    ) -> Result<Estimate, String> {
        let (g, r) = (
            GaussianFit::fit_all_rows(generated)?,
            GaussianFit::fit_all_rows(reference)?,
        );
        let coupling = FrechetInfluence::between_fits(&g, &r)?;
        let variance =
            coupling.variance(generated, &g, 0, key)? + coupling.variance(reference, &r, 1, key)?;
        Ok(Estimate {
            value: coupling.distance,
            stderr: Some(variance.sqrt()),
            n: generated.len(),
        })
    }

    fn notes(&self, sets: SampleSets<&FeatureSet>) -> Vec<String> {
        let width = sets
            .generated
            .varying_columns()
            .len()
            .max(sets.reference.varying_columns().len());
        let [generated, reference] = [sets.generated, sets.reference].map(|set| Some(set.len()));
        notes::too_few_for_covariance(width, generated, reference)
            .into_iter()
            .collect()
    }

    fn influences(
        &self,
        generated: &FeatureSet,
        reference: &FeatureSet,
        _key: RngKey,
    ) -> Result<Option<Influences>, String> {
        let (g, r) = (
            GaussianFit::fit_all_rows(generated)?,
            GaussianFit::fit_all_rows(reference)?,
        );
        let coupling = FrechetInfluence::between_fits(&g, &r)?;
        let of =
            |sample: &FeatureSet, side: &GaussianFit, number: usize| -> Result<Vec<f64>, String> {
                let all: Vec<usize> = (0..sample.len()).collect();
                let mut values = coupling.influences(sample, side, number, &all)?;
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                values.iter_mut().for_each(|v| *v -= mean);
                Ok(sample.in_input_order(&values))
            };
        Ok(Some(Influences {
            generated: of(generated, &g, 0)?,
            reference: of(reference, &r, 1)?,
        }))
    }
}

/// Checks that both sets have enough samples for a covariance. `name` is the statistic, for the
/// error message.
///
/// # Errors
/// Fails if a set has fewer than two samples.
pub fn check_covariance_counts(
    name: &str,
    generated: usize,
    reference: usize,
) -> Result<(), String> {
    let fine = generated >= 2 && reference >= 2;
    fine.then_some(()).ok_or_else(|| {
        format!(
            "{name}: {generated} generated and {reference} reference samples, \
             expected at least 2 of each"
        )
    })
}

/// The largest number of rows of each set from which the standard error is estimated.
const ERROR_ROWS: usize = 4096;

/// The smallest squared pivot of a usable Cholesky factor, relative to the largest one. The factor
/// is then accurate to 1e-7 of the trace.
const LEAST_PIVOT: f64 = 1e-9;

/// The magnitude that rounding to float32 can give an eigenvalue of zero, relative to the largest
/// eigenvalue.
const LEAST_EIGENVALUE: f64 = 1e-4;

/// A normal distribution in D dimensions, as its mean and a factor R of its covariance RᵀR.
pub struct GaussianFit {
    /// The mean, with D numbers.
    mean: Array1<f64>,
    /// The factor R, with D columns.
    covariance_factor: Array2<f64>,
}

impl GaussianFit {
    /// The normal distribution fitted to all rows of a set.
    ///
    /// # Errors
    /// Fails if rows cannot be read.
    pub fn fit_all_rows(sample: &FeatureSet) -> Result<GaussianFit, String> {
        GaussianFit::fit_rows(sample, &(0..sample.len()).collect::<Vec<_>>())
    }

    /// The normal distribution fitted to the rows at the given positions. There must be at least
    /// two positions.
    ///
    /// # Errors
    /// Fails if rows cannot be read.
    pub fn fit_rows(sample: &FeatureSet, positions: &[usize]) -> Result<GaussianFit, String> {
        // A constant column adds nothing to the covariance, but would make the Cholesky
        // factorization fail.
        let varying = sample.varying_columns();
        let read = |positions: &[usize]| -> Result<Array2<f64>, String> {
            let rows = sample.rows_at(positions)?;
            Ok(if varying.len() < rows.ncols() {
                rows.select(Axis(1), varying)
            } else {
                rows
            })
        };
        let mut mean = sample.rows_at(&positions[..1])?.row(0).to_owned();
        let (varying_mean, varying_factor) = fit_mean_and_factor(&read, positions, varying.len())?;
        varying
            .iter()
            .zip(varying_mean)
            .for_each(|(at, m)| mean[*at] = m);
        let mut factor = Array2::zeros((varying_factor.nrows(), sample.width()));
        for (column, at) in varying_factor.columns().into_iter().zip(varying) {
            factor.column_mut(*at).assign(&column);
        }
        factor /= ((positions.len() - 1) as f64).sqrt();
        Ok(GaussianFit {
            mean,
            covariance_factor: factor,
        })
    }

    /// The normal distribution with a given mean and covariance.
    ///
    /// # Errors
    /// Fails if the matrix is not a covariance: if it has a negative eigenvalue that is too large
    /// to be a rounding error.
    pub fn from_moments(
        mean: &Array1<f64>,
        covariance: &Array2<f64>,
    ) -> Result<GaussianFit, String> {
        let (values, vectors) = linalg::eigh(covariance.view())?;
        let largest = values.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        if let Some(negative) = values.iter().find(|v| **v < -LEAST_EIGENVALUE * largest) {
            return Err(format!(
                "the covariance has the eigenvalue {negative:e}, expected none below zero"
            ));
        }
        let factor = (vectors * values.mapv(|v| v.max(0.0).sqrt()))
            .reversed_axes()
            .as_standard_layout()
            .into_owned();
        Ok(GaussianFit {
            mean: mean.clone(),
            covariance_factor: factor,
        })
    }

    /// A fit to `count` draws from this distribution, addressed by `number`: the mean and the
    /// covariance of the draws, by Bartlett's decomposition of a Wishart matrix. Chi-squared numbers
    /// are made of normal ones by Wilson and Hilferty's cube.
    pub fn redrawn(&self, count: usize, key: RngKey, number: u64) -> GaussianFit {
        let rank = self.covariance_factor.nrows();
        let freedom = count.max(2) - 1;
        let normal = key.normal(Purpose::Resample, number, 1, rank * (rank + 1));
        let mut root = Array2::zeros((rank, rank));
        for i in 0..rank {
            for j in 0..i {
                root[[j, i]] = normal[i * rank + j];
            }
            let k = freedom.saturating_sub(i) as f64;
            let cube = 1.0 - 2.0 / (9.0 * k) + normal[i * rank + i] * (2.0 / (9.0 * k)).sqrt();
            root[[i, i]] = if k > 0.0 {
                (k * cube.max(0.0).powi(3)).sqrt()
            } else {
                0.0
            };
        }
        root /= (freedom as f64).sqrt();
        let shift = normal.slice(s![rank * rank..]);
        let shift = self.covariance_factor.t().dot(&shift) / (count.max(1) as f64).sqrt();
        GaussianFit {
            mean: &self.mean + &shift,
            covariance_factor: linalg::matmul(root.view(), self.covariance_factor.view()),
        }
    }

    /// The mean, with D numbers.
    pub fn mean(&self) -> &Array1<f64> {
        &self.mean
    }

    /// The covariance, D × D, of divisor n − 1.
    pub fn covariance(&self) -> Array2<f64> {
        linalg::matmul(self.covariance_factor.t(), self.covariance_factor.view())
    }

    /// The trace of the covariance.
    fn covariance_trace(&self) -> f64 {
        self.covariance_factor.iter().map(|v| v * v).sum()
    }
}

/// Reads the rows at the given positions.
type RowReader<'a> = dyn Fn(&[usize]) -> Result<Array2<f64>, String> + Sync + 'a;

/// The mean of the rows at `positions`, and the factor R whose product RᵀR is the scatter matrix
/// around the mean. `d` is the number of columns.
///
/// With many more rows than columns, R is the Cholesky factor of merged moments. This costs a
/// fraction of a QR factorization, but squares the condition number. If the condition number is too
/// large or there are few rows, R comes from a QR factorization of the rows themselves, block by
/// block. Each block is stacked below the R of the blocks before it.
fn fit_mean_and_factor(
    read: &RowReader,
    positions: &[usize],
    d: usize,
) -> Result<(Array1<f64>, Array2<f64>), String> {
    let mut mean = None;
    if positions.len() > 2 * d {
        let moments = pooled_moments(read, positions, d)?;
        match moments.scatter_factor(LEAST_PIVOT) {
            Some(r) => return Ok((moments.mean, r)),
            None => mean = Some(moments.mean),
        }
    }
    let block = (2 * d).max(READ_BLOCK_ROWS);
    if positions.len() <= block {
        let mut rows = read(positions)?;
        let mean = rows.mean_axis(Axis(0)).expect("at least two rows");
        rows -= &mean;
        return Ok((mean, linalg::qr_r(rows.view())));
    }
    let mean = match mean {
        Some(mean) => mean,
        None => pooled_moments(read, positions, d)?.mean,
    };
    let mut r = Array2::zeros((0, d));
    for block in positions.chunks(block) {
        let mut stack = Array2::zeros((r.nrows() + block.len(), d));
        stack.slice_mut(s![..r.nrows(), ..]).assign(&r);
        stack
            .slice_mut(s![r.nrows().., ..])
            .assign(&(read(block)? - &mean));
        r = linalg::qr_r(stack.view());
    }
    Ok((mean, r))
}

/// The moments of the rows at `positions`, merged from parts that are computed in parallel. The
/// number of parts is fixed, so the digits do not depend on the number of threads.
fn pooled_moments(read: &RowReader, positions: &[usize], d: usize) -> Result<RowMoments, String> {
    let parts: Vec<RowMoments> = positions
        .par_chunks(positions.len().div_ceil(4))
        .map(|part| {
            let mut moments = RowMoments::empty(d);
            for block in part.chunks(READ_BLOCK_ROWS) {
                moments.add(read(block)?);
            }
            Ok(moments)
        })
        .collect::<Result<_, String>>()?;
    let mut all = RowMoments::empty(d);
    parts.iter().for_each(|part| all.merge(part));
    Ok(all)
}

/// The Fréchet distance between two normal distributions, and its derivatives with respect to both.
pub struct FrechetInfluence {
    /// The Fréchet distance.
    pub distance: f64,
    /// The difference of the means, generated minus reference.
    mean_gap: Array1<f64>,
    /// The matrices Wᵢ with WᵢᵀWᵢ = 2 · d tr(Σ₁Σ₂)^{1/2}/dΣᵢ.
    influence_factors: [Array2<f64>; 2],
}

impl FrechetInfluence {
    /// The distance and the derivatives for a fit `g` to generated samples and a fit `r` to
    /// reference samples.
    ///
    /// # Errors
    /// Fails if the singular value decomposition fails, which happens only for numbers that are not
    /// finite.
    pub fn between_fits(g: &GaussianFit, r: &GaussianFit) -> Result<FrechetInfluence, String> {
        let cross = linalg::matmul(g.covariance_factor.view(), r.covariance_factor.t());
        let (u, s, v) = match linalg::svd_by_eigenvectors(cross.view())? {
            Some(decomposition) => decomposition,
            None => linalg::svd(cross.view())?,
        };
        // With R₁R₂ᵀ = U S Vᵀ: d tr(Σ₁Σ₂)^{1/2}/dΣ₁ = ½ R₂ᵀ V S⁻¹ Vᵀ R₂, and likewise for Σ₂ with
        // R₁ and U.
        let floor = 1e-10 * s.iter().fold(0.0f64, |a, b| a.max(*b));
        let inverse_root = s.mapv(|s| if s > floor { 1.0 / s.sqrt() } else { 0.0 });
        let root = |basis: &Array2<f64>, factor: &Array2<f64>| {
            linalg::matmul((basis * &inverse_root).t(), factor.view())
        };
        let (first, second) = rayon::join(
            || root(&v, &r.covariance_factor),
            || root(&u, &g.covariance_factor),
        );
        let roots = [first, second];
        Ok(FrechetInfluence {
            distance: distance_from_nuclear_norm(g, r, s.sum()),
            mean_gap: &g.mean - &r.mean,
            influence_factors: roots,
        })
    }

    /// The contribution of one set to the variance of the distance: the variance of the influence
    /// over its rows, divided by the number of rows. `number` is 0 for the generated and 1 for the
    /// reference samples; `side` is the fit to this set.
    ///
    /// # Errors
    /// Fails if rows cannot be read.
    pub fn variance(
        &self,
        sample: &FeatureSet,
        side: &GaussianFit,
        number: usize,
        key: RngKey,
    ) -> Result<f64, String> {
        let n = sample.len();
        let mut order = if n > ERROR_ROWS {
            permutation::random_permutation(n, key, number as u64)
        } else {
            (0..n).collect()
        };
        order.truncate(ERROR_ROWS);
        Ok(self.influence_variance(sample, side, number, &order)? / n as f64)
    }

    /// The variance of the influences of the rows at the given positions.
    fn influence_variance(
        &self,
        sample: &FeatureSet,
        side: &GaussianFit,
        number: usize,
        positions: &[usize],
    ) -> Result<f64, String> {
        let values = self.influences(sample, side, number, positions)?;
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        Ok(values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (count - 1.0))
    }

    /// The influences of the rows at the given positions, up to a common constant: (x −
    /// μ)ᵀ(±2·gap + (I − M)(x − μ)), with M = WᵀW. The sign is + for the generated set (`number` 0)
    /// and − for the reference (`number` 1).
    fn influences(
        &self,
        sample: &FeatureSet,
        side: &GaussianFit,
        number: usize,
        positions: &[usize],
    ) -> Result<Vec<f64>, String> {
        let (gap, root) = (
            &self.mean_gap * if number == 0 { 2.0 } else { -2.0 },
            &self.influence_factors[number],
        );
        let parts: Vec<Vec<f64>> = positions
            .par_chunks(READ_BLOCK_ROWS)
            .map(|positions| {
                let centred = sample.rows_at(positions)? - &side.mean;
                let weighted = linalg::matmul(centred.view(), root.t());
                let one = |(x, w): (ArrayView1<f64>, ArrayView1<f64>)| {
                    gap.dot(&x) + x.dot(&x) - w.dot(&w)
                };
                Ok(centred
                    .rows()
                    .into_iter()
                    .zip(weighted.rows())
                    .map(one)
                    .collect())
            })
            .collect::<Result<_, String>>()?;
        Ok(parts.into_iter().flatten().collect())
    }
}

/// The Fréchet distance between two normal distributions. Without derivatives it costs a fraction
/// of [`FrechetInfluence::between_fits`].
///
/// # Errors
/// Fails if the singular values cannot be computed, which happens only for numbers that are not
/// finite.
pub fn frechet_distance(g: &GaussianFit, r: &GaussianFit) -> Result<f64, String> {
    let cross = linalg::matmul(g.covariance_factor.view(), r.covariance_factor.t());
    let nuclear = linalg::singular_values(cross.view())
        .map_err(str::to_owned)?
        .sum();
    Ok(distance_from_nuclear_norm(g, r, nuclear))
}

/// The distance from both fits and the nuclear norm of R₁R₂ᵀ, which is tr (Σ₁Σ₂)^{1/2}.
fn distance_from_nuclear_norm(g: &GaussianFit, r: &GaussianFit, nuclear: f64) -> f64 {
    let gap = &g.mean - &r.mean;
    max_keeping_nan(
        gap.dot(&gap) + g.covariance_trace() + r.covariance_trace() - 2.0 * nuclear,
        0.0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::{self, normal_samples};
    use crate::num::moments::RowMoments;
    use crate::num::stats;

    fn distance(a: &Array2<f64>, b: &Array2<f64>) -> Estimate {
        testing::compute(&Frechet {}, a, b, 0).expect("finite")
    }

    #[test]
    fn frechet_matches_closed_form_for_scaled_and_shifted_points() {
        // Σ₂ = a²Σ₁ commutes with Σ₁, so the distance is |shift|² + (a − 1)² tr Σ₁, up to rounding.
        for n in [5, 40] {
            let x = normal_samples(1, n, 12, 0.0, 1.0);
            let y = &x * 1.7 + 0.25;
            let trace: f64 = RowMoments::from_rows(x.view()).covariance().diag().sum();
            let mean = x.mean_axis(Axis(0)).expect("rows");
            let shift: f64 = mean.iter().map(|m| (0.7 * m + 0.25f64).powi(2)).sum();
            let want = shift + 0.49 * trace;
            assert!(
                (distance(&x, &y).value - want).abs() < 1e-12 * want,
                "n = {n}"
            );
        }
    }

    #[test]
    fn frechet_of_identical_sets_is_zero() {
        let x = normal_samples(1, 6, 20, 0.5, 1.0);
        assert!(distance(&x, &x).value.abs() < 1e-12);
    }

    #[test]
    fn frechet_matches_matrix_square_root() {
        let (a, b) = (
            normal_samples(1, 200, 5, 0.0, 1.0),
            normal_samples(2, 150, 5, 0.2, 1.3),
        );
        let (ma, mb) = (
            RowMoments::from_rows(a.view()),
            RowMoments::from_rows(b.view()),
        );
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
    fn frechet_from_moments_matches_samples() {
        for n in [5, 300] {
            let (x, y) = (
                normal_samples(1, n, 12, 0.0, 1.0),
                normal_samples(2, 400, 12, 0.3, 1.4),
            );
            let moments = |x: &Array2<f64>| {
                (
                    RowMoments::from_rows(x.view()).covariance(),
                    x.mean_axis(Axis(0)).expect("rows"),
                )
            };
            let [a, b] = [&x, &y].map(|x| {
                let (covariance, mean) = moments(x);
                GaussianFit::from_moments(&mean, &covariance).expect("a covariance")
            });
            let (want, got) = (
                distance(&x, &y).value,
                frechet_distance(&a, &b).expect("finite"),
            );
            assert!((got - want).abs() < 1e-6 * want, "{n}: {got} {want}");
        }
        let mut wrong = Array2::eye(2);
        wrong[[0, 0]] = -1.0;
        assert!(
            GaussianFit::from_moments(&Array1::zeros(2), &wrong)
                .is_err_and(|e| e.contains("eigenvalue"))
        );
    }

    #[test]
    fn cholesky_and_qr_factors_give_same_distance() {
        // Few rows use QR of all rows, many rows use Cholesky, and a column that depends on others
        // leads to QR in blocks.
        let (a, b) = (
            normal_samples(1, 4000, 6, 0.0, 1.0),
            normal_samples(2, 3500, 6, 0.2, 1.3),
        );
        let few = |x: &Array2<f64>| linalg::qr_r((x - &x.mean_axis(Axis(0)).expect("rows")).view());
        let sample = FeatureSet::new(&a).expect("finite");
        let (_, r) = fit_mean_and_factor(
            &|at: &[usize]| sample.rows_at(at),
            &(0..4000).collect::<Vec<_>>(),
            6,
        )
        .expect("finite");
        let want = few(&a);
        assert!(
            (r.t().dot(&r) - want.t().dot(&want))
                .iter()
                .all(|e| e.abs() < 1e-9)
        );
        // Two more columns: one constant, one a sum of others. The distance equals that of
        // orthogonally equivalent data.
        let widen = |x: &Array2<f64>| {
            let n = x.nrows();
            let sum = (&x.column(0) + &x.column(1))
                .into_shape_with_order((n, 1))
                .expect("one column");
            ndarray::concatenate![Axis(1), *x, Array2::from_elem((n, 1), 0.1), sum]
        };
        // In another basis, (x₀, x₁, x₀ + x₁) is (√½(x₀ − x₁), √(3/2)(x₀ + x₁), 0).
        let turn = |x: &Array2<f64>| {
            let mut out = x.clone();
            out.column_mut(0)
                .assign(&((&x.column(0) - &x.column(1)) * 0.5f64.sqrt()));
            out.column_mut(1)
                .assign(&((&x.column(0) + &x.column(1)) * 1.5f64.sqrt()));
            out
        };
        let (got, want) = (
            distance(&widen(&a), &widen(&b)),
            distance(&turn(&a), &turn(&b)),
        );
        assert!(
            (got.value - want.value).abs() < 1e-10 * want.value,
            "{got:?} {want:?}"
        );
        let (e, f) = (got.stderr.expect("defined"), want.stderr.expect("defined"));
        assert!((e - f).abs() < 1e-6 * f, "{e} {f}");
    }

    #[test]
    fn frechet_stderr_matches_spread() {
        let results: Vec<Estimate> = (0..300)
            .map(|i| {
                distance(
                    &normal_samples(2 * i + 10, 400, 4, 0.0, 1.0),
                    &normal_samples(2 * i + 11, 300, 4, 0.5, 1.4),
                )
            })
            .collect();
        let values: Vec<f64> = results.iter().map(|e| e.value).collect();
        let spread = stats::mean_estimate(&values)
            .and_then(|e| e.stderr)
            .expect("many")
            * (values.len() as f64).sqrt();
        let claimed =
            stats::mean_estimate(&results.iter().filter_map(|e| e.stderr).collect::<Vec<_>>())
                .expect("many")
                .value;
        assert!((claimed / spread - 1.0).abs() < 0.15, "{claimed} {spread}");
    }
}
