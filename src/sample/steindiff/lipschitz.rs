//! The local Lipschitz constant of a sampler's step: the largest singular value of its Jacobian J_T,
//! as Figure 4 of the SteinDiff paper shows it over the steps.
//!
//! Golub and Kahan's bidiagonalization (1965) builds orthonormal bases from products with J_T and its
//! transpose, in which J_T is bidiagonal. The largest singular value of that small matrix is a lower
//! bound of the one of J_T, and the norm of what the bases leave out bounds the distance from it to a
//! singular value of J_T.

use ndarray::{Array1, Array2, ArrayView1, Axis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::SampleRequest;
use super::super::sampler_step::{
    SamplerStep, StepProposal, step_jacobian_products, step_transposed_products,
};
use crate::flow::field::{EvalError, JacobianOperator};
use crate::num::key::Purpose;
use crate::num::linalg;
use crate::num::stats::{Estimate, mean_estimate};
use crate::num::{Batch, TangentBatch};
use crate::registry::check_bounds;

/// How the largest singular value of every step's Jacobian is measured. It costs products with the
/// Jacobian and with its transpose, so the network must have a reverse mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LipschitzMeasurement {
    /// The number of samples of each population at which it is measured, from its first one on.
    pub samples: usize,
    /// The number of iterations. Each takes a product with the Jacobian and one with its transpose.
    pub iterations: usize,
}

impl Default for LipschitzMeasurement {
    fn default() -> Self {
        LipschitzMeasurement {
            samples: 16,
            iterations: 20,
        }
    }
}

/// The largest singular values of one step's Jacobian at some samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepLipschitz {
    /// Their mean over the samples, with its standard error.
    pub mean: Estimate,
    /// The largest one.
    pub largest: f64,
    /// The largest distance of a value to a true singular value, over the samples.
    pub residual: f64,
    /// The number of Jacobian products for each of the samples.
    pub products: u64,
}

impl LipschitzMeasurement {
    /// Checks the numbers of samples and of iterations.
    ///
    /// # Errors
    /// Fails if one is out of range. The message names the key and what was expected.
    pub(super) fn check(&self) -> Result<(), String> {
        check_bounds("lipschitz.samples", self.samples, 1, 1 << 20)?;
        check_bounds("lipschitz.iterations", self.iterations, 1, 1000)
    }

    /// The number of iterations in `dim` dimensions, where so many give every singular value.
    fn iterations_in(&self, dim: usize) -> usize {
        self.iterations.min(dim)
    }

    /// The number of Jacobian products of a step with this number of predictions, for each of the
    /// samples.
    pub(super) fn products(&self, predictions: u64, dim: usize) -> u64 {
        2 * self.iterations_in(dim) as u64 * predictions
    }

    /// The share of each sample of a population of `n` in the products of those that are measured,
    /// rounded up.
    pub(super) fn per_sample(&self, products: u64, n: usize) -> u64 {
        (products * self.samples.min(n) as u64).div_ceil(n.max(1) as u64)
    }

    /// Measures a proposed step at the first samples of a population. `None` if no value is finite.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated, or has no products with the transposed Jacobian.
    pub(super) fn measure(
        &self,
        step: &SamplerStep,
        step_number: usize,
        proposal: &StepProposal,
        draw: &SampleRequest,
        field: &mut dyn JacobianOperator,
    ) -> Result<Option<StepLipschitz>, EvalError> {
        let (rows, dim) = proposal.state.dim();
        let rows = rows.min(self.samples);
        let proposal = proposal.rows(0..rows);
        let mut first = Batch::zeros((rows, dim));
        for (mut row, sample) in first.rows_mut().into_iter().zip(draw.samples) {
            row.assign(
                &draw
                    .key
                    .normal(Purpose::Lanczos, *sample, step_number as u64, dim),
            );
        }
        let bases = vec![Bidiagonalization::default(); rows];
        let mut found = Recurrence { bases, next: first };
        let mut products = 0;
        for _ in 0..self.iterations_in(dim) {
            let right = found.begin_iteration().insert_axis(Axis(0));
            let context = &draw.context;
            let along = step_jacobian_products(step, &proposal, &right, context, field)?;
            products += 2 * along.count;
            let left = found.add_left(along.step).insert_axis(Axis(0));
            let product = step_transposed_products(step, &proposal, &left, context, field)?;
            found.add_right(product);
        }
        let values: Vec<[f64; 2]> = found
            .bases
            .iter()
            .filter_map(Bidiagonalization::largest_singular_value)
            .collect();
        let largest = |of: usize| {
            values
                .iter()
                .map(|v| v[of])
                .fold(f64::NEG_INFINITY, f64::max)
        };
        let means: Vec<f64> = values.iter().map(|v| v[0]).collect();
        Ok(mean_estimate(&means).map(|mean| StepLipschitz {
            mean,
            largest: largest(0),
            residual: largest(1),
            products,
        }))
    }
}

/// The bidiagonalizations of one step's Jacobian at several samples, which share their calls.
struct Recurrence {
    bases: Vec<Bidiagonalization>,
    /// The vector of each sample that follows, before it is normalized.
    next: Batch,
}

impl Recurrence {
    /// Adds the next right vector of each sample, and returns them all, rows × dim.
    fn begin_iteration(&mut self) -> Batch {
        let mut right = Batch::zeros(self.next.raw_dim());
        for (i, basis) in self.bases.iter_mut().enumerate() {
            right.row_mut(i).assign(basis.push_right(self.next.row(i)));
        }
        right
    }

    /// Adds the left vectors that follow from the products J v, 1 × rows × dim, and returns them.
    fn add_left(&mut self, products: TangentBatch) -> Batch {
        let mut left = Batch::zeros(self.next.raw_dim());
        for (i, basis) in self.bases.iter_mut().enumerate() {
            let product = products.slice(ndarray::s![0, i, ..]);
            left.row_mut(i).assign(basis.push_left(product));
        }
        left
    }

    /// Takes the products Jᵀ u, 1 × rows × dim, from which the next right vectors follow.
    fn add_right(&mut self, products: TangentBatch) {
        for (i, basis) in self.bases.iter_mut().enumerate() {
            let product = products.slice(ndarray::s![0, i, ..]);
            self.next.row_mut(i).assign(&basis.remainder(product));
        }
    }
}

/// Orthonormal vectors v₁, … and u₁, … with J vₖ = αₖ uₖ + βₖ₋₁ uₖ₋₁ and Jᵀ uₖ = αₖ vₖ + βₖ vₖ₊₁.
#[derive(Debug, Clone, Default)]
struct Bidiagonalization {
    right: Vec<Array1<f64>>,
    left: Vec<Array1<f64>>,
    alpha: Vec<f64>,
    /// β₁, …, with one entry for each entry of `alpha`: the last one is the norm of the remainder.
    beta: Vec<f64>,
}

impl Bidiagonalization {
    /// Adds the right vector in the direction of `v`. It is zero where nothing remains.
    fn push_right(&mut self, v: ArrayView1<f64>) -> &Array1<f64> {
        let (unit, _) = orthonormal(v.to_owned(), &self.right);
        self.right.push(unit);
        self.right.last().expect("just added")
    }

    /// Adds the left vector that follows from J v of the last right vector.
    fn push_left(&mut self, product: ArrayView1<f64>) -> &Array1<f64> {
        let (unit, norm) = orthonormal(product.to_owned(), &self.left);
        self.alpha.push(norm);
        self.left.push(unit);
        self.left.last().expect("just added")
    }

    /// What Jᵀ u of the last left vector has beside the right vectors.
    fn remainder(&mut self, product: ArrayView1<f64>) -> Array1<f64> {
        let (unit, norm) = orthonormal(product.to_owned(), &self.right);
        self.beta.push(norm);
        unit * norm
    }

    /// The largest singular value of the bidiagonal matrix and its distance to one of J. `None` if
    /// it is not finite.
    fn largest_singular_value(&self) -> Option<[f64; 2]> {
        let k = self.alpha.len();
        let mut bidiagonal = Array2::zeros((k, k));
        for i in 0..k {
            bidiagonal[[i, i]] = self.alpha[i];
            if i + 1 < k {
                bidiagonal[[i, i + 1]] = self.beta[i];
            }
        }
        if !bidiagonal.iter().all(|v| v.is_finite()) {
            return None;
        }
        let (left, values, _) = linalg::svd(bidiagonal.view()).ok()?;
        let (at, value) = values
            .iter()
            .enumerate()
            .max_by(|a, b| a.1.total_cmp(b.1))?;
        let residual = self.beta.last()? * left[[k - 1, at]].abs();
        value.is_finite().then_some([*value, residual])
    }
}

/// The part of `v` that is orthogonal to `basis`, normalized, and its norm. Both are zero where what
/// remains is rounding.
fn orthonormal(mut v: Array1<f64>, basis: &[Array1<f64>]) -> (Array1<f64>, f64) {
    let whole = v.dot(&v).sqrt();
    // Twice is enough (Giraud, Langou and Rozložník 2005).
    for _ in 0..2 {
        for known in basis {
            let part = known.dot(&v);
            v.scaled_add(-part, known);
        }
    }
    let norm = v.dot(&v).sqrt();
    if norm <= 1e-12 * whole {
        return (Array1::zeros(v.len()), 0.0);
    }
    (v / norm, norm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::field::{Points, VectorField};
    use crate::flow::path::ProbabilityPath;
    use crate::flow::prior::Prior;
    use crate::num::key::RngKey;
    use crate::sample::Denoiser;
    use crate::sample::sampler_step::Trajectory;
    use crate::sample::tests::{sampler_from_yaml, velocity_context};

    /// The field v = A x with a matrix that is not symmetric.
    struct Linear(Array2<f64>);

    impl Linear {
        fn new(dim: usize) -> Linear {
            let draws = RngKey { seed: 5 }.normal(Purpose::Check, 0, 0, dim * dim);
            Linear(draws.into_shape_with_order((dim, dim)).expect("a square") * 0.4)
        }

        fn apply(&self, z: &TangentBatch, transposed: bool) -> TangentBatch {
            let matrix = match transposed {
                true => self.0.t(),
                false => self.0.view(),
            };
            let mut out = TangentBatch::zeros(z.raw_dim());
            for (mut to, from) in out.outer_iter_mut().zip(z.outer_iter()) {
                to.assign(&from.dot(&matrix.t()));
            }
            out
        }
    }

    impl VectorField for Linear {
        fn dim(&self) -> usize {
            self.0.nrows()
        }
        fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
            Ok(at.x.dot(&self.0.t()))
        }
    }

    impl JacobianOperator for Linear {
        fn dim(&self) -> usize {
            self.0.nrows()
        }
        fn jvp(&mut self, _: Points, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
            Ok(self.apply(z, false))
        }
        fn vjp(&mut self, _: Points, w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError> {
            Ok(Some(self.apply(w, true)))
        }
    }

    impl Denoiser for Linear {
        fn denoised(&mut self, at: Points) -> Result<Batch, EvalError> {
            // D = x − t v on the path of EDM.
            let mut out = at.x.to_owned();
            for ((mut row, t), velocity) in out
                .rows_mut()
                .into_iter()
                .zip(at.t)
                .zip(at.x.dot(&self.0.t()).rows())
            {
                row.scaled_add(-*t, &velocity);
            }
            Ok(out)
        }
        fn linearized(&mut self) -> Result<&mut dyn JacobianOperator, EvalError> {
            Ok(self)
        }
    }

    #[test]
    fn every_sampler_s_step_has_the_largest_singular_value_of_its_matrix() {
        let curve = ProbabilityPath::Edm {
            sigma_min: 0.02,
            sigma_max: 5.0,
        }
        .curve()
        .expect("a path");
        let dim = 12;
        let mut field = Linear::new(dim);
        let measurement = LipschitzMeasurement {
            samples: 2,
            iterations: dim,
        };
        for name in [
            "{euler: {steps: 3}}",
            "{heun: {steps: 3}}",
            "{dpmpp-2m: {steps: 3}}",
            "{unipc: {steps: 3}}",
        ] {
            let sampler = sampler_from_yaml(name);
            let samples: Vec<u64> = (0..dim as u64).collect();
            let draw = SampleRequest {
                context: velocity_context(&curve),
                prior: Prior::isotropic(5.0),
                key: RngKey { seed: 8 },
                samples: &samples,
                step_noise: None,
            };
            let steps = sampler.steps(&draw.context).expect("steps");
            // The step is linear: its columns are the images of the unit vectors, without a history.
            let step = &steps[0];
            let propose = |x: Batch, field: &mut Linear| {
                let mut trajectory = Trajectory::starting_at(&samples, x);
                trajectory.propose(step, field).expect("linear")
            };
            let images = propose(Batch::eye(dim), &mut field);
            let exact = linalg::singular_values(images.state.view()).expect("a matrix");
            let exact = exact.iter().copied().fold(0.0, f64::max);
            let found = measurement
                .measure(step, 0, &images, &draw, &mut field)
                .expect("linear")
                .expect("finite");
            assert!(
                (found.mean.value / exact - 1.0).abs() < 1e-10,
                "{name}: {found:?}, expected {exact}"
            );
            assert!(found.residual < 1e-8 * exact, "{name}: {found:?}");
            // Few iterations give a lower bound, and their residual says how far it may be off.
            let few = LipschitzMeasurement {
                samples: 1,
                iterations: 4,
            };
            let rough = few
                .measure(step, 0, &images, &draw, &mut field)
                .expect("linear")
                .expect("finite");
            assert!(rough.largest <= exact * (1.0 + 1e-12), "{name}: {rough:?}");
            let near = linalg::singular_values(images.state.view()).expect("a matrix");
            let distance = near
                .iter()
                .map(|s| (s - rough.largest).abs())
                .fold(f64::INFINITY, f64::min);
            assert!(distance <= rough.residual + 1e-12, "{name}: {rough:?}");
        }
    }

    #[test]
    fn a_step_that_scales_alike_in_all_directions_ends_after_one_vector() {
        let mut basis = Bidiagonalization::default();
        let start = Array1::from(vec![3.0, 0.0, 4.0]);
        let right = basis.push_right(start.view()).clone();
        let left = basis.push_left((&right * 2.5).view()).clone();
        assert_eq!(
            basis.remainder((&left * 2.5).view()),
            Array1::<f64>::zeros(3)
        );
        assert_eq!(basis.largest_singular_value(), Some([2.5, 0.0]));
    }
}
