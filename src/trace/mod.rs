//! Traces of matrices that can only be applied: linear algebra, no time, no models.
//!
//! An estimate is a set of chains per row: independent values with the same mean, the trace.
//! Whoever integrates them over a path integrates each chain and then takes mean and standard
//! error, so that an error bar covers the whole integral and not one node.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::flow::field::{EvalError, Linearized};
use crate::num::key::{Distribution, Key, Purpose, SampleId};
use crate::num::{Batch, Blocks};
use crate::registry;

pub mod exact;
pub mod hutchinson;
pub mod hutchpp;

registry! {
    /// The trace estimators, as `estimators:` and `--divergence` name them.
    pub enum Estimator: TraceEstimator {
        "exact" => Exact(exact::Exact),
        "hutchinson" => Hutchinson(hutchinson::Hutchinson),
        "hutch++" => HutchPlusPlus(hutchpp::HutchPlusPlus),
    }
}

/// Square matrices, one per row, known by their products.
pub trait Jacobians {
    fn rows(&self) -> usize;
    fn dim(&self) -> usize;

    /// A·z for each row's k directions: k × rows × dim.
    fn apply(&mut self, z: &Blocks) -> Result<Blocks, EvalError>;

    /// zᵀAz for each row's k directions: k × rows.
    fn quadratic(&mut self, z: &Blocks) -> Result<Array2<f64>, EvalError> {
        let products = self.apply(z)?;
        Ok((&products * z).sum_axis(ndarray::Axis(2)))
    }
}

/// How one spec estimates a trace.
pub trait TraceEstimator: Sync {
    /// Products that one estimate costs; asserted in tests.
    fn matvecs(&self, dim: usize) -> usize;

    /// Whether the value is the trace itself, with no error to speak of.
    fn is_exact(&self) -> bool {
        false
    }

    /// Refuses parameters that make no sense in `dim` dimensions, by their key.
    fn check(&self, dim: usize) -> Result<(), String>;

    /// Chains × rows: independent estimates of each row's trace.
    fn trace(&self, ops: &mut dyn Jacobians, probes: &Probes) -> Result<Array2<f64>, EvalError>;
}

/// Whether a path keeps its probes or draws new ones at every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Along {
    /// One set per sample for the whole path (FFJORD's and score_sde's convention).
    #[default]
    Fixed,
    /// New ones per node: lower variance of the integral at the same cost.
    Fresh,
}

/// Where probe vectors come from: the address of each row.
#[derive(Debug, Clone, Copy)]
pub struct Probes<'a> {
    pub key: Key,
    pub sample: &'a [SampleId],
    /// Index of the node on the row's path.
    pub node: &'a [u64],
}

impl Probes<'_> {
    /// Probe vectors number `first` to `first + count`, for every row.
    pub fn draw(
        &self,
        purpose: Purpose,
        law: Distribution,
        along: Along,
        range: std::ops::Range<u64>,
        dim: usize,
    ) -> Blocks {
        let count = (range.end - range.start) as usize;
        let mut z = Blocks::zeros((count, self.sample.len(), dim));
        for (probe, mut block) in range.zip(z.outer_iter_mut()) {
            for (i, row) in block.outer_iter_mut().enumerate() {
                // Node 0 is the address of what is fixed, so nodes count from 1.
                let node = if along == Along::Fresh { self.node[i] + 1 } else { 0 };
                self.key.probe(law, (purpose, self.sample[i], probe, node), row);
            }
        }
        z
    }
}

/// The Jacobians of a velocity at given times and states.
pub struct At<'a> {
    pub field: &'a mut dyn Linearized,
    pub t: &'a [f64],
    pub x: &'a Batch,
}

impl Jacobians for At<'_> {
    fn rows(&self) -> usize {
        self.x.nrows()
    }

    fn dim(&self) -> usize {
        self.x.ncols()
    }

    fn apply(&mut self, z: &Blocks) -> Result<Blocks, EvalError> {
        self.field.products(self.t, self.x, z)
    }

    fn quadratic(&mut self, z: &Blocks) -> Result<Array2<f64>, EvalError> {
        self.field.quadratic(self.t, self.x, z)
    }
}

#[cfg(test)]
pub mod testing {
    //! Dense matrices as operators, with a count of their products.

    use super::*;

    pub struct Dense {
        pub matrix: Array2<f64>,
        pub rows: usize,
        pub products: usize,
    }

    impl Dense {
        pub fn new(matrix: Array2<f64>, rows: usize) -> Dense {
            Dense { matrix, rows, products: 0 }
        }

        /// U·diag(λ)·Uᵀ with a random orthogonal U.
        pub fn rotated(eigenvalues: &[f64], rows: usize) -> Dense {
            let n = eigenvalues.len();
            let draws = Key { seed: 99 }.normal(Purpose::Check, 0, 0, n * n);
            let u = crate::num::linalg::thin_q(draws.into_shape_with_order((n, n)).expect("n·n").view());
            let scaled = &u * &ndarray::aview1(eigenvalues);
            Dense::new(scaled.dot(&u.t()), rows)
        }

        pub fn trace(&self) -> f64 {
            self.matrix.diag().sum()
        }
    }

    impl Jacobians for Dense {
        fn rows(&self) -> usize {
            self.rows
        }

        fn dim(&self) -> usize {
            self.matrix.nrows()
        }

        fn apply(&mut self, z: &Blocks) -> Result<Blocks, EvalError> {
            self.products += z.shape()[0];
            let mut out = Blocks::zeros(z.raw_dim());
            for (zb, mut ob) in z.outer_iter().zip(out.outer_iter_mut()) {
                ob.assign(&zb.dot(&self.matrix.t()));
            }
            Ok(out)
        }
    }

    /// Every chain of `estimator` on `rows` copies of the operator: one row, one sample.
    pub fn chains(estimator: &dyn TraceEstimator, dense: &mut Dense, seed: u64) -> Array2<f64> {
        let sample: Vec<u64> = (0..dense.rows as u64).collect();
        let node = vec![0; dense.rows];
        let probes = Probes { key: Key { seed }, sample: &sample, node: &node };
        estimator.trace(dense, &probes).expect("dense matrices cannot fail")
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Dense, chains};
    use super::*;
    use crate::num::stats;

    fn nonsymmetric(n: usize) -> Array2<f64> {
        Key { seed: 5 }.normal(Purpose::Check, 1, 0, n * n).into_shape_with_order((n, n)).expect("n·n")
    }

    #[test]
    fn every_estimator_costs_what_it_declares() {
        for estimator in Estimator::defaults() {
            let mut dense = Dense::new(nonsymmetric(20), 3);
            chains(&*estimator, &mut dense, 0);
            assert_eq!(dense.products, estimator.matvecs(20), "{}", estimator.name());
        }
    }

    #[test]
    fn every_estimator_is_unbiased_on_a_nonsymmetric_matrix() {
        for estimator in Estimator::defaults() {
            let mut dense = Dense::new(nonsymmetric(20), 4000);
            let values = chains(&*estimator, &mut dense, 1);
            let per_row = values.mean_axis(ndarray::Axis(0)).expect("at least one chain").to_vec();
            let mean = stats::mean(&per_row).expect("4000 rows");
            let bound = 4.0 * mean.stderr.expect("4000 rows") + 1e-12;
            assert!((mean.value - dense.trace()).abs() <= bound, "{}: {mean:?}", estimator.name());
        }
    }

    #[test]
    fn no_estimator_feels_the_batch() {
        for estimator in Estimator::defaults() {
            let mut many = Dense::new(nonsymmetric(12), 5);
            let together = chains(&*estimator, &mut many, 2);
            let mut one = Dense::new(nonsymmetric(12), 1);
            let probes = Probes { key: Key { seed: 2 }, sample: &[3], node: &[0] };
            let alone = estimator.trace(&mut one, &probes).expect("dense");
            for (a, b) in together.column(3).iter().zip(alone.column(0)) {
                assert!((a - b).abs() <= 1e-12 * (1.0 + b.abs()), "{}", estimator.name());
            }
        }
    }

    #[test]
    fn reported_errors_are_honest() {
        for estimator in Estimator::defaults() {
            let mut dense = Dense::new(nonsymmetric(20), 3000);
            let values = chains(&*estimator, &mut dense, 3);
            if values.nrows() < 3 {
                continue;
            }
            let scaled: Vec<f64> = values
                .columns()
                .into_iter()
                .map(|c| {
                    let e = stats::mean(&c.to_vec()).expect("chains");
                    (e.value - dense.trace()) / e.stderr.expect("several chains")
                })
                .collect();
            // Student's t with n − 1 degrees of freedom has this root mean square.
            let dof = values.nrows() as f64 - 1.0;
            let expected = if dof > 2.0 { (dof / (dof - 2.0)).sqrt() } else { continue };
            let got = stats::rms(&scaled).expect("3000 rows");
            assert!((got / expected - 1.0).abs() < 0.15, "{}: {got} {expected}", estimator.name());
        }
    }
}
