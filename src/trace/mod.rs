//! Trace estimators for matrices that are known only by their products with vectors. They use
//! linear algebra alone, without time and models.
//!
//! The result for each row is a set of replicate estimates: values whose mean is an estimate of the
//! trace, and whose standard deviation over the root of their number is the standard error of that
//! mean. The values are independent, or their spread is corrected for what they share. An integral
//! over a path integrates each replicate first, and takes mean and standard error at the end. The
//! error bar then covers the whole integral and not one node.
//!
//! # Example
//!
//! Hutchinson's estimate of the trace of a matrix that is known by its products alone, beside the
//! exact trace.
//!
//! ```
//! use flowgauge::flow::field::EvalError;
//! use flowgauge::num::{TangentBatch, key::RngKey, stats::mean_estimate};
//! use flowgauge::trace::{BatchLinearOperator, ProbeSource, TraceEstimator};
//! use flowgauge::trace::{exact::Exact, hutchinson::Hutchinson};
//! use ndarray::{Array2, array, s};
//!
//! struct Products(Array2<f64>);
//!
//! impl BatchLinearOperator for Products {
//!     fn rows(&self) -> usize {
//!         1
//!     }
//!     fn dim(&self) -> usize {
//!         self.0.nrows()
//!     }
//!     fn apply(&mut self, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
//!         let product = |(k, row, i)| self.0.row(i).dot(&z.slice(s![k, row, ..]));
//!         Ok(TangentBatch::from_shape_fn(z.raw_dim(), product))
//!     }
//! }
//!
//! let mut matrix = Products(array![[2.0, 1.0], [1.0, 3.0]]);
//! let probes = ProbeSource { key: RngKey { seed: 1 }, sample: &[0], node: &[0] };
//! assert_eq!(Exact::default().trace(&mut matrix, &probes)?[[0, 0]], 5.0);
//!
//! let hutchinson = Hutchinson { probes: 64, ..Default::default() };
//! let estimates = hutchinson.trace(&mut matrix, &probes)?;
//! let estimate = mean_estimate(&estimates.column(0).to_vec()).unwrap();
//! assert!((estimate.value - 5.0).abs() < 4.0 * estimate.stderr.unwrap());
//! # Ok::<(), EvalError>(())
//! ```

use ndarray::Array2;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::flow::field::{EvalError, JacobianOperator, Points};
use crate::num::TangentBatch;
use crate::num::key::{Distribution, Purpose, RngKey, SampleId};
use crate::registry;

pub mod exact;
pub mod hutchinson;
pub mod hutchpp;
pub mod nahutchpp;
pub mod ritz;
pub mod xnystrace;
pub mod xtrace;

registry! {
    /// The trace estimators, by the names that `estimators:` and `--divergence` accept.
    pub enum Estimator: TraceEstimator {
        "exact" | "full" | "exact-trace" => Exact(exact::Exact) {
            what: "The whole trace of the Jacobian, from one product per dimension.",
            when: "Up to about 64 dimensions, or as the reference for the others.",
            source: "",
        },
        "hutchinson" | "hutch" | "skilling-hutchinson" => Hutchinson(hutchinson::Hutchinson) {
            what: "The mean of zᵀJz over random probes z, which is unbiased.",
            when: "In hundreds of dimensions or more, and for means over many samples.",
            source: "Hutchinson 1990, doi:10.1080/03610919008812866; Grathwohl et al. 2019, arXiv:1810.01367",
        },
        "hutch++" | "hutchpp" | "hutch-pp" => HutchPlusPlus(hutchpp::HutchPlusPlus) {
            what: "A sketch of the large directions of J, whose trace is exact, and probes for the rest.",
            when: "Where a few directions carry the trace; on networks measured here plain probes were better.",
            source: "Meyer et al. 2021, arXiv:2010.09649",
        },
        "na-hutch++" | "na-hutchpp" | "nahutchpp" => NaHutchPlusPlus(nahutchpp::NaHutchPlusPlus) {
            what: "Hutch++ with all products chosen in advance.",
            when: "Where Hutch++ suits and products are cheaper in one batch.",
            source: "Meyer et al. 2021, arXiv:2010.09649",
        },
        "xtrace" | "x-trace" => XTrace(xtrace::XTrace) {
            what: "A trace estimator in which every vector is in turn the probe for the sketch of all others.",
            when: "Where the spectrum of J decays fast and a few products suffice.",
            source: "Epperly, Tropp & Webber 2024, arXiv:2301.07825",
        },
        "xnystrace" | "xnys-trace" => XNysTrace(xnystrace::XNysTrace) {
            what: "XTrace with a Nyström sketch, for matrices that are symmetric and positive semidefinite up to a shift.",
            when: "Where J is the derivative of a gradient and its spectrum decays fast.",
            source: "Epperly, Tropp & Webber 2024, arXiv:2301.07825",
        },
    }
}

/// Square matrices, one per row, that are known only by their products with vectors.
pub trait BatchLinearOperator {
    /// The number of matrices.
    fn rows(&self) -> usize;
    /// The dimension n of the n × n matrices.
    fn dim(&self) -> usize;

    /// Returns A·z for the k directions of each row: k × rows × dim.
    ///
    /// # Errors
    /// Fails if the model behind the operator cannot be evaluated.
    fn apply(&mut self, z: &TangentBatch) -> Result<TangentBatch, EvalError>;

    /// Returns zᵀAz for the k directions of each row: k × rows.
    ///
    /// # Errors
    /// Fails if the model behind the operator cannot be evaluated.
    fn quadratic_form(&mut self, z: &TangentBatch) -> Result<Array2<f64>, EvalError> {
        let products = self.apply(z)?;
        Ok((&products * z).sum_axis(ndarray::Axis(2)))
    }

    /// Returns terms whose sum is each row's trace, terms × rows. `None` if they need products.
    ///
    /// # Errors
    /// Fails if the model behind the operator cannot be evaluated.
    fn trace_terms(&mut self) -> Result<Option<Array2<f64>>, EvalError> {
        Ok(None)
    }

    /// Returns Aᵀ·w for the k directions of each row, k × rows × dim. `None` if the operator has no
    /// products with the transpose.
    ///
    /// # Errors
    /// Fails if the model behind the operator cannot be evaluated.
    fn apply_transposed(&mut self, _w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError> {
        Ok(None)
    }
}

/// A trace estimator with its parameters.
pub trait TraceEstimator: Sync {
    /// The number of products that one estimate of `trace` needs in `dim` dimensions.
    fn matvecs(&self, dim: usize) -> usize;

    /// Whether the estimate is the exact trace.
    fn is_exact(&self) -> bool {
        false
    }

    /// Whether the estimator needs products with the transpose.
    fn needs_transpose(&self) -> bool {
        false
    }

    /// The distribution and the number of the probes, if the replicates are the probes' quadratic
    /// forms and every node of a path has the same probes. Otherwise `None`.
    fn fixed_probes(&self) -> Option<(Distribution, usize)> {
        None
    }

    /// The key and the value of the parameter K by which the variance of the estimate falls as 1/K
    /// and its cost rises as K. `None` if there is no such parameter.
    fn averaging_parameter(&self) -> Option<(&'static str, usize)> {
        None
    }

    /// Checks the parameters for matrices in `dim` dimensions.
    ///
    /// # Errors
    /// Fails if a parameter is invalid. The message names the parameter's key.
    fn check(&self, dim: usize) -> Result<(), String>;

    /// Estimates the trace of each row: replicates × rows.
    ///
    /// # Errors
    /// Fails if the operator cannot be applied, or if it lacks a product that the estimator needs.
    fn trace(
        &self,
        ops: &mut dyn BatchLinearOperator,
        probes: &ProbeSource,
    ) -> Result<Array2<f64>, EvalError>;
}

/// Whether all nodes of a path have the same probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum ProbeReuse {
    /// One set of probes per sample for the whole path, as in FFJORD and score_sde.
    #[default]
    Fixed,
    /// New probes at every node: the integral has a lower variance at the same cost.
    Fresh,
}

/// The source of probe vectors. A probe depends only on the seed, the purpose, the sample, the
/// probe's number and, with fresh probes, the node.
#[derive(Debug, Clone, Copy)]
pub struct ProbeSource<'a> {
    /// The random key, which holds the seed.
    pub key: RngKey,
    /// The sample of each row.
    pub sample: &'a [SampleId],
    /// The index of each row's node on its path.
    pub node: &'a [u64],
}

impl ProbeSource<'_> {
    /// Draws the probe vectors with the numbers in `range` for every row: probes × rows × dim.
    pub fn draw(
        &self,
        purpose: Purpose,
        distribution: Distribution,
        along: ProbeReuse,
        range: std::ops::Range<u64>,
        dim: usize,
    ) -> TangentBatch {
        let count = (range.end - range.start) as usize;
        let mut z = TangentBatch::zeros((count, self.sample.len(), dim));
        for (probe, mut block) in range.zip(z.outer_iter_mut()) {
            for (i, row) in block.outer_iter_mut().enumerate() {
                // Address 0 is that of fixed probes, so nodes count from 1.
                let node = if along == ProbeReuse::Fresh {
                    self.node[i] + 1
                } else {
                    0
                };
                self.key
                    .probe(distribution, (purpose, self.sample[i], probe, node), row);
            }
        }
        z
    }

    /// Draws `count` probe vectors for each replicate, in the order of the replicates.
    ///
    /// The numbers of successive replicates are 2³² apart, so a larger `count` does not change the
    /// first vectors.
    pub fn draw_replicates(
        &self,
        purpose: Purpose,
        distribution: Distribution,
        along: ProbeReuse,
        replicates: usize,
        count: usize,
        dim: usize,
    ) -> TangentBatch {
        let mut z = TangentBatch::zeros((replicates * count, self.sample.len(), dim));
        for r in 0..replicates {
            let first = (r as u64) << 32;
            let part = self.draw(
                purpose,
                distribution,
                along,
                first..first + count as u64,
                dim,
            );
            z.slice_mut(ndarray::s![r * count..(r + 1) * count, .., ..])
                .assign(&part);
        }
        z
    }
}

/// The Jacobians of a velocity at given points, as a linear operator.
pub struct JacobianAt<'a> {
    /// The velocity's Jacobian products.
    pub field: &'a mut dyn JacobianOperator,
    /// The sample, time and state of each row.
    pub at: Points<'a>,
}

impl BatchLinearOperator for JacobianAt<'_> {
    fn rows(&self) -> usize {
        self.at.rows()
    }

    fn dim(&self) -> usize {
        self.at.x.ncols()
    }

    fn apply(&mut self, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        self.field.jvp(self.at, z)
    }

    fn quadratic_form(&mut self, z: &TangentBatch) -> Result<Array2<f64>, EvalError> {
        self.field.quadratic_form(self.at, z)
    }

    fn trace_terms(&mut self) -> Result<Option<Array2<f64>>, EvalError> {
        self.field.trace_terms(self.at)
    }

    fn apply_transposed(&mut self, w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError> {
        self.field.vjp(self.at, w)
    }
}

/// Scales the spread of each column's replicates about their mean by `factor`, so that it gives the
/// right standard error of the mean.
pub fn scale_spread(estimates: &mut Array2<f64>, factor: f64) {
    for mut column in estimates.columns_mut() {
        if let Some(mean) = column.mean() {
            column.mapv_inplace(|v| mean + factor * (v - mean));
        }
    }
}

#[cfg(test)]
pub mod testing {
    //! Dense matrices as operators that count their products.

    use super::*;

    /// A dense matrix that is the same for all rows.
    pub struct Dense {
        pub matrix: Array2<f64>,
        pub rows: usize,
        /// The number of products so far.
        pub products: usize,
    }

    impl Dense {
        pub fn new(matrix: Array2<f64>, rows: usize) -> Dense {
            Dense {
                matrix,
                rows,
                products: 0,
            }
        }

        /// Builds U·diag(λ)·Uᵀ with a random orthogonal U.
        pub fn with_eigenvalues(eigenvalues: &[f64], rows: usize) -> Dense {
            let n = eigenvalues.len();
            let draws = RngKey { seed: 99 }.normal(Purpose::Check, 0, 0, n * n);
            let u = crate::num::linalg::thin_q(
                draws.into_shape_with_order((n, n)).expect("n·n").view(),
            );
            let scaled = &u * &ndarray::aview1(eigenvalues);
            Dense::new(scaled.dot(&u.t()), rows)
        }

        /// The exact trace.
        pub fn trace(&self) -> f64 {
            self.matrix.diag().sum()
        }
    }

    impl BatchLinearOperator for Dense {
        fn rows(&self) -> usize {
            self.rows
        }

        fn dim(&self) -> usize {
            self.matrix.nrows()
        }

        fn apply(&mut self, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
            self.products += z.shape()[0];
            let mut out = TangentBatch::zeros(z.raw_dim());
            for (zb, mut ob) in z.outer_iter().zip(out.outer_iter_mut()) {
                ob.assign(&crate::num::linalg::matmul(zb, self.matrix.t()));
            }
            Ok(out)
        }

        fn apply_transposed(
            &mut self,
            w: &TangentBatch,
        ) -> Result<Option<TangentBatch>, EvalError> {
            let mut transposed = Dense::new(self.matrix.t().to_owned(), self.rows);
            self.products += w.shape()[0];
            transposed.apply(w).map(Some)
        }
    }

    /// The standard deviation of `estimator` over `rows` draws. It also checks that the mean is
    /// right.
    pub fn standard_deviation(
        estimator: &dyn TraceEstimator,
        eigenvalues: &[f64],
        rows: usize,
    ) -> f64 {
        let mut dense = Dense::with_eigenvalues(eigenvalues, rows);
        let values = replicate_estimates(estimator, &mut dense, 8)
            .mean_axis(ndarray::Axis(0))
            .expect("replicates")
            .to_vec();
        let mean = crate::num::stats::mean_estimate(&values).expect("rows");
        let error = mean.stderr.expect("rows");
        assert!(
            (mean.value - dense.trace()).abs() < 4.0 * error + 1e-9,
            "{mean:?} {}",
            dense.trace()
        );
        error * (rows as f64).sqrt()
    }

    /// All replicates of `estimator` on `rows` copies of the operator; each row is one sample.
    pub fn replicate_estimates(
        estimator: &dyn TraceEstimator,
        dense: &mut Dense,
        seed: u64,
    ) -> Array2<f64> {
        let sample: Vec<u64> = (0..dense.rows as u64).collect();
        let node = vec![0; dense.rows];
        let probes = ProbeSource {
            key: RngKey { seed },
            sample: &sample,
            node: &node,
        };
        estimator
            .trace(dense, &probes)
            .expect("dense matrices cannot fail")
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Dense, replicate_estimates, standard_deviation};
    use super::*;
    use crate::num::stats;

    fn nonsymmetric(n: usize) -> Array2<f64> {
        RngKey { seed: 5 }
            .normal(Purpose::Check, 1, 0, n * n)
            .into_shape_with_order((n, n))
            .expect("n·n")
    }

    fn read(spec: &str) -> Estimator {
        serde_yaml::from_str(spec).expect(spec)
    }

    /// Every estimator with its defaults, and each one also with other parameters.
    fn entries() -> Vec<Estimator> {
        let changed = [
            "{exact: {chunk: 7}}",
            "{hutchinson: {probes: 5, distribution: sphere, along: fresh}}",
            "{hutch++: {matvecs: 7, replicates: 3, distribution: gaussian, along: fresh, shift: false}}",
            "{na-hutch++: {matvecs: 8, replicates: 3, distribution: sphere, along: fresh, shift: false}}",
            "{na-hutch++: {matvecs: 9, transposed: false}}",
            "{hutchinson: {probes: 2, distribution: sphere, orthogonal: true}}",
            "{xtrace: {matvecs: 7, replicates: 3, along: fresh, shift: false}}",
            "{xnystrace: {matvecs: 5, replicates: 3, along: fresh, shift: false}}",
        ];
        let mut all = Estimator::defaults();
        all.extend(changed.iter().map(|spec| read(spec)));
        assert!(
            Estimator::NAMES
                .iter()
                .all(|n| changed.iter().any(|spec| spec.contains(&format!("{{{n}:"))))
        );
        all
    }

    #[test]
    fn every_estimator_costs_what_it_declares() {
        for estimator in entries() {
            for n in [3, 20] {
                let mut dense = Dense::new(nonsymmetric(n), 3);
                replicate_estimates(&*estimator, &mut dense, 0);
                assert_eq!(
                    dense.products,
                    estimator.matvecs(n),
                    "{estimator:?} in {n} dimensions"
                );
            }
        }
    }

    #[test]
    fn every_estimator_is_unbiased_on_a_nonsymmetric_matrix() {
        for estimator in entries() {
            for n in [2, 5, 20] {
                let rows = if n == 20 { 1500 } else { 6000 };
                let mut dense = Dense::new(nonsymmetric(n), rows);
                let values = replicate_estimates(&*estimator, &mut dense, 1);
                let per_row = values
                    .mean_axis(ndarray::Axis(0))
                    .expect("at least one chain")
                    .to_vec();
                let mean = stats::mean_estimate(&per_row).expect("rows");
                let bound = 4.0 * mean.stderr.expect("rows") + 1e-12;
                assert!(
                    (mean.value - dense.trace()).abs() <= bound,
                    "{estimator:?}: {mean:?} in {n} dimensions"
                );
            }
        }
    }

    #[test]
    fn trace_estimates_are_independent_of_the_batch() {
        for estimator in entries() {
            let mut many = Dense::new(nonsymmetric(12), 5);
            let together = replicate_estimates(&*estimator, &mut many, 2);
            let mut one = Dense::new(nonsymmetric(12), 1);
            let probes = ProbeSource {
                key: RngKey { seed: 2 },
                sample: &[3],
                node: &[0],
            };
            let alone = estimator.trace(&mut one, &probes).expect("dense");
            for (a, b) in together.column(3).iter().zip(alone.column(0)) {
                assert!((a - b).abs() <= 1e-12 * (1.0 + b.abs()), "{estimator:?}");
            }
        }
    }

    #[test]
    fn standard_errors_match_true_errors() {
        let replicated = ["hutch++", "na-hutch++", "xtrace", "xnystrace"];
        let replicated = replicated
            .iter()
            .map(|name| read(&format!("{{{name}: {{replicates: 12}}}}")));
        for estimator in Estimator::defaults().into_iter().chain(replicated) {
            let mut dense = Dense::new(nonsymmetric(20), 600);
            let values = replicate_estimates(&*estimator, &mut dense, 3);
            // The standard error of a single XTrace is heuristic and has its own test.
            if values.nrows() < 4 || estimator == Estimator::XTrace(Default::default()) {
                continue;
            }
            let scaled: Vec<f64> = values
                .columns()
                .into_iter()
                .map(|c| {
                    let e = stats::mean_estimate(&c.to_vec()).expect("replicates");
                    (e.value - dense.trace()) / e.stderr.expect("several estimates")
                })
                .collect();
            // Student's t with n − 1 degrees of freedom has this root mean square.
            let dof = values.nrows() as f64 - 1.0;
            let expected = (dof / (dof - 2.0)).sqrt();
            let got = stats::rms(&scaled).expect("600 rows");
            assert!(
                (got / expected - 1.0).abs() < 0.15,
                "{}: {got} {expected}",
                estimator.name()
            );
        }
    }

    #[test]
    fn fresh_probes_change_with_the_node_and_fixed_ones_do_not() {
        for name in Estimator::NAMES.iter().filter(|n| **n != "exact") {
            for (along, changes) in [("fixed", false), ("fresh", true)] {
                let estimator = read(&format!("{{{name}: {{along: {along}}}}}"));
                let at = |node: u64| {
                    let mut dense = Dense::new(nonsymmetric(20), 1);
                    let probes = ProbeSource {
                        key: RngKey { seed: 2 },
                        sample: &[3],
                        node: &[node],
                    };
                    estimator.trace(&mut dense, &probes).expect("dense")
                };
                assert_eq!(at(0) != at(1), changes, "{estimator:?}");
            }
        }
    }

    /// With as many directions as dimensions, the estimates are exact for any matrix.
    #[test]
    fn exact_when_the_budget_spans_the_space() {
        for (name, per_dimension) in [
            ("exact", 0),
            ("hutch++", 3),
            ("xtrace", 2),
            ("xnystrace", 1),
        ] {
            for n in [1, 2, 7] {
                let spec = if name == "exact" {
                    name.to_owned()
                } else {
                    // Rademacher sketches in few dimensions can repeat vectors, and then have a
                    // lower rank.
                    let distribution = if name == "hutch++" {
                        ", distribution: gaussian"
                    } else {
                        ""
                    };
                    format!(
                        "{{{name}: {{matvecs: {}, replicates: 2{distribution}}}}}",
                        per_dimension * n
                    )
                };
                let mut dense = Dense::new(nonsymmetric(n), 20);
                let truth = dense.trace();
                let worst = replicate_estimates(&*read(&spec), &mut dense, 4)
                    .iter()
                    .map(|v| (v - truth).abs())
                    .fold(0.0, f64::max);
                assert!(worst < 1e-9, "{spec}: {worst}");
            }
        }
    }

    #[test]
    fn non_finite_products_affect_only_their_row() {
        struct Broken(Dense);
        impl BatchLinearOperator for Broken {
            fn rows(&self) -> usize {
                self.0.rows()
            }
            fn dim(&self) -> usize {
                self.0.dim()
            }
            fn apply(&mut self, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
                let mut products = self.0.apply(z)?;
                products.index_axis_mut(ndarray::Axis(1), 1).fill(f64::NAN);
                Ok(products)
            }
            fn apply_transposed(
                &mut self,
                w: &TangentBatch,
            ) -> Result<Option<TangentBatch>, EvalError> {
                self.apply(w).map(Some)
            }
        }
        for estimator in entries() {
            let probes = ProbeSource {
                key: RngKey { seed: 2 },
                sample: &[0, 1, 2],
                node: &[0; 3],
            };
            let mut broken = Broken(Dense::new(nonsymmetric(9), 3));
            let values = estimator
                .trace(&mut broken, &probes)
                .expect("no error of the model");
            assert!(values.column(1).iter().all(|v| v.is_nan()), "{estimator:?}");
            assert!(
                values
                    .column(0)
                    .iter()
                    .chain(values.column(2))
                    .all(|v| v.is_finite()),
                "{estimator:?}"
            );
        }
    }

    #[test]
    fn invalid_estimator_parameters_are_refused_by_key() {
        for (spec, key) in [
            ("{exact: {chunk: 0}}", "chunk"),
            ("{hutchinson: {probes: 0}}", "probes"),
            ("{hutchinson: {antithetic: true}}", "antithetic"),
            (
                "{hutchinson: {probes: 2, orthogonal: true}}",
                "distribution",
            ),
            (
                "{hutchinson: {probes: 11, distribution: sphere, orthogonal: true}}",
                "probes",
            ),
            ("{hutch++: {matvecs: 2}}", "matvecs"),
            ("{hutch++: {replicates: 0}}", "replicates"),
            ("{na-hutch++: {matvecs: 5}}", "matvecs"),
            ("{na-hutch++: {replicates: 0}}", "replicates"),
            ("{xtrace: {matvecs: 1}}", "matvecs"),
            ("{xtrace: {replicates: 0}}", "replicates"),
            ("{xnystrace: {matvecs: 0}}", "matvecs"),
            ("{xnystrace: {replicates: 0}}", "replicates"),
        ] {
            let refusal = read(spec).check(10).expect_err(spec);
            assert!(
                refusal.contains(key) && refusal.contains("expected"),
                "{spec}: {refusal}"
            );
        }
        assert!(entries().iter().all(|e| e.check(10).is_ok()));
    }

    /// Standard deviations with 18 products on U·diag(i⁻²)·Uᵀ, n = 60, from an independent
    /// implementation of the published methods, and on the identity minus it, for which the shift
    /// was introduced.
    #[test]
    fn deviations_match_the_published_methods() {
        let decaying: Vec<f64> = (1..=60).map(|i| 1.0 / (i * i) as f64).collect();
        let flipped: Vec<f64> = decaying.iter().map(|l| 1.0 - l).collect();
        for (spec, on_decaying, on_flipped) in [
            ("{hutchinson: {probes: 18}}", 0.34, 0.34),
            ("{hutch++: {matvecs: 18, shift: false}}", 0.030, 1.42),
            ("{na-hutch++: {matvecs: 18, shift: false}}", 0.115, f64::NAN),
            ("{xtrace: {matvecs: 18, shift: false}}", 0.018, 0.47),
            ("{xnystrace: {matvecs: 18, shift: false}}", 0.013, f64::NAN),
        ] {
            for (eigenvalues, expected) in [(&decaying, on_decaying), (&flipped, on_flipped)] {
                let got = standard_deviation(&*read(spec), eigenvalues, 800);
                assert!(
                    expected.is_nan() || (got / expected - 1.0).abs() < 0.15,
                    "{spec}: {got} {expected}"
                );
            }
        }
        for (spec, most) in [
            ("{hutch++: {matvecs: 18}}", 0.035),
            ("{na-hutch++: {matvecs: 18}}", 0.12),
            ("{xtrace: {matvecs: 18}}", 0.018),
            ("{xnystrace: {matvecs: 18}}", 0.06),
        ] {
            for eigenvalues in [&decaying, &flipped] {
                let got = standard_deviation(&*read(spec), eigenvalues, 800);
                assert!(got < most, "{spec}: {got}");
            }
        }
    }
}
