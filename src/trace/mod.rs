//! Traces of matrices that can only be applied: linear algebra, no time, no models.
//!
//! An estimate is a set of chains per row: values with the same mean, the trace, whose spread over
//! the root of their number is the error of their mean. They are independent, or what they share has
//! been made good in their spread. Whoever integrates them over a path integrates each chain and then
//! takes mean and standard error, so that an error bar covers the whole integral and not one node.
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
//! let chains = hutchinson.trace(&mut matrix, &probes)?;
//! let estimate = mean_estimate(&chains.column(0).to_vec()).unwrap();
//! assert!((estimate.value - 5.0).abs() < 4.0 * estimate.stderr.unwrap());
//! # Ok::<(), EvalError>(())
//! ```

use ndarray::Array2;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::flow::field::{EvalError, JacobianOperator};
use crate::num::key::{Distribution, Purpose, RngKey, SampleId};
use crate::num::{Batch, TangentBatch};
use crate::registry;

pub mod exact;
pub mod hutchinson;
pub mod hutchpp;
pub mod nahutchpp;
pub mod ritz;
pub mod xnystrace;
pub mod xtrace;

registry! {
    /// The trace estimators, as `estimators:` and `--divergence` name them.
    pub enum Estimator: TraceEstimator {
        "exact" | "full" | "exact-trace" => Exact(exact::Exact),
        "hutchinson" | "hutch" | "skilling-hutchinson" => Hutchinson(hutchinson::Hutchinson),
        "hutch++" | "hutchpp" | "hutch-pp" => HutchPlusPlus(hutchpp::HutchPlusPlus),
        "na-hutch++" | "na-hutchpp" | "nahutchpp" => NaHutchPlusPlus(nahutchpp::NaHutchPlusPlus),
        "xtrace" | "x-trace" => XTrace(xtrace::XTrace),
        "xnystrace" | "xnys-trace" => XNysTrace(xnystrace::XNysTrace),
    }
}

/// Square matrices, one per row, known by their products.
pub trait BatchLinearOperator {
    fn rows(&self) -> usize;
    fn dim(&self) -> usize;

    /// A·z for each row's k directions: k × rows × dim.
    fn apply(&mut self, z: &TangentBatch) -> Result<TangentBatch, EvalError>;

    /// zᵀAz for each row's k directions: k × rows.
    fn quadratic_form(&mut self, z: &TangentBatch) -> Result<Array2<f64>, EvalError> {
        let products = self.apply(z)?;
        Ok((&products * z).sum_axis(ndarray::Axis(2)))
    }

    /// Terms whose sum is each row's trace, terms × rows, where they are to be had without products.
    fn trace_terms(&mut self) -> Result<Option<Array2<f64>>, EvalError> {
        Ok(None)
    }

    /// Aᵀ·w for each row's k directions, or `None` where there are no such products.
    fn apply_transposed(&mut self, _w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError> {
        Ok(None)
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

    /// Whether products with the transpose are among them.
    fn needs_transpose(&self) -> bool {
        false
    }

    /// The law and the number of its probes, where its chains are their quadratic forms and nothing else, and they are
    /// the same all along a path.
    fn fixed_probes(&self) -> Option<(Distribution, usize)> {
        None
    }

    /// Refuses parameters that make no sense in `dim` dimensions, by their key.
    fn check(&self, dim: usize) -> Result<(), String>;

    /// Chains × rows: estimates of each row's trace.
    fn trace(
        &self,
        ops: &mut dyn BatchLinearOperator,
        probes: &ProbeSource,
    ) -> Result<Array2<f64>, EvalError>;
}

/// Whether a path keeps its probes or draws new ones at every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum ProbeReuse {
    /// One set per sample for the whole path (FFJORD's and score_sde's convention).
    #[default]
    Fixed,
    /// New ones per node: lower variance of the integral at the same cost.
    Fresh,
}

/// Where probe vectors come from: the address of each row.
#[derive(Debug, Clone, Copy)]
pub struct ProbeSource<'a> {
    pub key: RngKey,
    pub sample: &'a [SampleId],
    /// Index of the node on the row's path.
    pub node: &'a [u64],
}

impl ProbeSource<'_> {
    /// Probe vectors number `first` to `first + count`, for every row.
    pub fn draw(
        &self,
        purpose: Purpose,
        law: Distribution,
        along: ProbeReuse,
        range: std::ops::Range<u64>,
        dim: usize,
    ) -> TangentBatch {
        let count = (range.end - range.start) as usize;
        let mut z = TangentBatch::zeros((count, self.sample.len(), dim));
        for (probe, mut block) in range.zip(z.outer_iter_mut()) {
            for (i, row) in block.outer_iter_mut().enumerate() {
                // Node 0 is the address of what is fixed, so nodes count from 1.
                let node = if along == ProbeReuse::Fresh {
                    self.node[i] + 1
                } else {
                    0
                };
                self.key
                    .probe(law, (purpose, self.sample[i], probe, node), row);
            }
        }
        z
    }

    /// `count` probe vectors for each replicate, replicate by replicate.
    ///
    /// Replicates lie 2³² addresses apart, so that a larger count leaves the first ones as they are.
    pub fn draw_replicates(
        &self,
        purpose: Purpose,
        law: Distribution,
        along: ProbeReuse,
        replicates: usize,
        count: usize,
        dim: usize,
    ) -> TangentBatch {
        let mut z = TangentBatch::zeros((replicates * count, self.sample.len(), dim));
        for r in 0..replicates {
            let first = (r as u64) << 32;
            let part = self.draw(purpose, law, along, first..first + count as u64, dim);
            z.slice_mut(ndarray::s![r * count..(r + 1) * count, .., ..])
                .assign(&part);
        }
        z
    }
}

/// The Jacobians of a velocity at given times and states.
pub struct JacobianAt<'a> {
    pub field: &'a mut dyn JacobianOperator,
    pub t: &'a [f64],
    pub x: &'a Batch,
}

impl BatchLinearOperator for JacobianAt<'_> {
    fn rows(&self) -> usize {
        self.x.nrows()
    }

    fn dim(&self) -> usize {
        self.x.ncols()
    }

    fn apply(&mut self, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        self.field.jvp(self.t, self.x, z)
    }

    fn quadratic_form(&mut self, z: &TangentBatch) -> Result<Array2<f64>, EvalError> {
        self.field.quadratic_form(self.t, self.x, z)
    }

    fn trace_terms(&mut self) -> Result<Option<Array2<f64>>, EvalError> {
        self.field.trace_terms(self.t, self.x)
    }

    fn apply_transposed(&mut self, w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError> {
        self.field.vjp(self.t, self.x, w)
    }
}

/// Moves each column's chains away from their mean, or towards it, so that their spread tells their mean's error.
pub fn scale_spread(chains: &mut Array2<f64>, factor: f64) {
    for mut column in chains.columns_mut() {
        if let Some(mean) = column.mean() {
            column.mapv_inplace(|v| mean + factor * (v - mean));
        }
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
            Dense {
                matrix,
                rows,
                products: 0,
            }
        }

        /// U·diag(λ)·Uᵀ with a random orthogonal U.
        pub fn with_eigenvalues(eigenvalues: &[f64], rows: usize) -> Dense {
            let n = eigenvalues.len();
            let draws = RngKey { seed: 99 }.normal(Purpose::Check, 0, 0, n * n);
            let u = crate::num::linalg::thin_q(
                draws.into_shape_with_order((n, n)).expect("n·n").view(),
            );
            let scaled = &u * &ndarray::aview1(eigenvalues);
            Dense::new(scaled.dot(&u.t()), rows)
        }

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
            let mut turned = Dense::new(self.matrix.t().to_owned(), self.rows);
            self.products += w.shape()[0];
            turned.apply(w).map(Some)
        }
    }

    /// Standard deviation of `estimator` over `rows` draws, once its mean has been found right.
    pub fn standard_deviation(
        estimator: &dyn TraceEstimator,
        eigenvalues: &[f64],
        rows: usize,
    ) -> f64 {
        let mut dense = Dense::with_eigenvalues(eigenvalues, rows);
        let values = replicate_estimates(estimator, &mut dense, 8)
            .mean_axis(ndarray::Axis(0))
            .expect("chains")
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

    /// Every chain of `estimator` on `rows` copies of the operator: one row, one sample.
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

    /// Every entry with its defaults, and the stochastic ones also with other parameters.
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
            // A single XTrace tells a heuristic error, which has a test of its own.
            if values.nrows() < 4 || estimator == Estimator::XTrace(Default::default()) {
                continue;
            }
            let scaled: Vec<f64> = values
                .columns()
                .into_iter()
                .map(|c| {
                    let e = stats::mean_estimate(&c.to_vec()).expect("chains");
                    (e.value - dense.trace()) / e.stderr.expect("several chains")
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

    /// With as many directions as dimensions nothing is left to chance, whatever the matrix.
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
                    // Rademacher sketches repeat in few dimensions, and then span less than they count.
                    let law = if name == "hutch++" {
                        ", distribution: gaussian"
                    } else {
                        ""
                    };
                    format!(
                        "{{{name}: {{matvecs: {}, replicates: 2{law}}}}}",
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

    /// Deviations at 18 products on U·diag(i⁻²)·Uᵀ, n = 60, as an independent implementation of the
    /// published methods gave them; and on the identity minus it, which is what the shift is for.
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
