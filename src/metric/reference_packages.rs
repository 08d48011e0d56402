//! Tests of the statistics against the reference packages of the field, which
//! `scripts/metric_references.py` ran on the same features.

use std::fs::File;

use ndarray::{Array1, Array2};
use ndarray_npy::NpzReader;

use super::sliced_wasserstein::SlicedWasserstein;
use super::testing::measure_arrays;
use super::{Metric, inception_score, optimal_transport};
use crate::num::logistic;

/// The archive with features and with the values of the reference packages.
struct ReferenceArchive(NpzReader<File>);

impl ReferenceArchive {
    fn open() -> ReferenceArchive {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/data/metrics/references.npz"
        );
        ReferenceArchive(NpzReader::new(File::open(path).expect(path)).expect("an archive"))
    }

    /// A stored vector.
    fn values(&mut self, name: &str) -> Array1<f64> {
        self.0
            .by_name(name)
            .unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// A stored matrix.
    fn rows(&mut self, name: &str) -> Array2<f64> {
        self.0
            .by_name(name)
            .unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// A stored pair of sets: generated and reference features.
    fn sets(&mut self, name: &str) -> [Array2<f64>; 2] {
        [
            self.rows(&format!("{name}_generated")),
            self.rows(&format!("{name}_reference")),
        ]
    }

    /// Asserts that a value agrees with the stored one within a relative `tolerance`, or within
    /// 1e-14 if cancellation leaves almost nothing.
    fn assert_matches(&mut self, name: &str, got: f64, tolerance: f64) {
        let want = self.values(name)[0];
        println!("{name:32} {:.1e}", (got - want).abs() / want.abs());
        assert!(
            (got - want).abs() <= tolerance * want.abs() + 1e-14,
            "{name}: {got} {want}"
        );
    }
}

/// The value of the metric in `spec`, written in YAML.
fn metric_value(spec: &str, [x, y]: &[Array2<f64>; 2]) -> f64 {
    let metric: Metric = serde_yaml::from_str(spec).unwrap_or_else(|e| panic!("{spec}: {e}"));
    measure_arrays(&metric, x, y)
        .unwrap_or_else(|e| panic!("{spec}: {e}"))
        .value
}

/// Three pairs of sets: with different numbers of samples, with fewer samples than columns, and
/// with linearly dependent columns.
const SETS: [&str; 3] = ["full", "wide", "flat"];

#[test]
fn frechet_matches_torch_fidelity_clean_fid_dgm_eval_scipy() {
    let mut references = ReferenceArchive::open();
    for name in SETS {
        let got = metric_value("frechet", &references.sets(name));
        // The packages take the square root of a singular product, which is accurate to half of the
        // digits.
        references.assert_matches(&format!("{name}_frechet_scipy"), got, 1e-7);
        for theirs in ["fidelity", "clean", "dgm"] {
            references.assert_matches(&format!("{name}_frechet_{theirs}"), got, 1e-7);
        }
    }
}

#[test]
fn prdc_matches_prdc_package() {
    let mut references = ReferenceArchive::open();
    for name in SETS {
        let sets = references.sets(name);
        for metric in ["precision", "recall", "density", "coverage"] {
            for k in [3, 5] {
                let got = metric_value(&format!("{{{metric}: {{k: {k}}}}}"), &sets);
                references.assert_matches(&format!("{name}_{metric}_{k}"), got, 1e-14);
            }
        }
    }
}

#[test]
fn mmd_and_energy_match_torch_fidelity_and_scikit_learn() {
    let mut references = ReferenceArchive::open();
    for name in SETS {
        let sets = references.sets(name);
        for bandwidth in ["0.7", "3.0"] {
            let got = metric_value(&format!("{{mmd-rbf: {{bandwidth: {bandwidth}}}}}"), &sets);
            references.assert_matches(&format!("{name}_mmd-rbf_{bandwidth}"), got, 1e-10);
        }
        references.assert_matches(
            &format!("{name}_energy"),
            metric_value("energy", &sets),
            1e-12,
        );
    }
    let [x, y] = references.sets("full");
    let equal = [x.slice(ndarray::s![..45, ..]).to_owned(), y];
    references.assert_matches("equal_kernel", metric_value("kernel", &equal), 1e-12);
    references.assert_matches("equal_kernel_clean", metric_value("kernel", &equal), 1e-12);
    references.assert_matches(
        "equal_mmd-rbf_0.7",
        metric_value("{mmd-rbf: {bandwidth: 0.7}}", &equal),
        1e-10,
    );
}

#[test]
fn sliced_wasserstein_matches_pot() {
    let mut references = ReferenceArchive::open();
    for name in SETS {
        let [x, y] = references.sets(name);
        let directions = references.rows(&format!("{name}_directions"));
        for p in [1, 2] {
            let metric = SlicedWasserstein {
                projections: 40,
                p: p.into(),
            };
            let got = metric
                .distance_along_directions(directions.clone(), x.view(), y.view())
                .expect("finite")
                .value;
            references.assert_matches(&format!("{name}_sliced_{p}"), got, 1e-12);
        }
    }
}

#[test]
fn vendi_authenticity_cmmd_match_packages() {
    let mut references = ReferenceArchive::open();
    for name in SETS {
        let sets = references.sets(name);
        // The package includes eigenvalues that are 0 except for rounding. Their effect is largest
        // at q = ½, which takes their square root.
        for (q, tolerance) in [("0.5", 1e-6), ("1", 1e-12), ("2", 1e-12)] {
            references.assert_matches(
                &format!("{name}_vendi_{q}"),
                metric_value(&format!("{{vendi: {{q: {q}}}}}"), &sets),
                tolerance,
            );
        }
        // The package computes a percentage in float32.
        references.assert_matches(
            &format!("{name}_authpct"),
            100.0 * metric_value("authenticity", &sets),
            1e-7,
        );
        references.assert_matches(&format!("{name}_cmmd"), metric_value("cmmd", &sets), 1e-9);
    }
}

#[test]
fn inception_score_matches_torch_fidelity() {
    let mut references = ReferenceArchive::open();
    for name in SETS {
        let [logits, _] = references.sets(name);
        let order: Vec<usize> = (0..logits.nrows()).collect();
        let logs = inception_score::log_softmax(logits);
        for splits in [1, 3] {
            let got = inception_score::inception_score(&logs, &order, splits).value;
            references.assert_matches(&format!("{name}_inception-score_{splits}"), got, 1e-12);
        }
    }
}

#[test]
fn wasserstein_and_energy_1d_match_scipy_and_pot() {
    let mut references = ReferenceArchive::open();
    let sorted = references.sets("full").map(|set| {
        let mut column = set.column(0).to_vec();
        column.sort_by(f64::total_cmp);
        column
    });
    for p in [1, 3] {
        let got = optimal_transport::optimal_transport_1d(&sorted[0], &sorted[1], p.into())
            .cost
            .powf(1.0 / f64::from(p));
        references.assert_matches(&format!("line_wasserstein_{p}"), got, 1e-12);
    }
    let columns = sorted.map(|c| Array2::from_shape_fn((c.len(), 1), |(i, _)| c[i]));
    references.assert_matches("line_energy", metric_value("energy", &columns), 1e-12);
}

#[test]
fn logistic_regression_matches_scikit_learn() {
    let mut references = ReferenceArchive::open();
    let [x, y] = references.sets("full");
    let classes: Vec<bool> = (0..105).map(|i| i < 60).collect();
    let model = logistic::fit_logistic_regression(
        ndarray::concatenate![ndarray::Axis(0), x, y].view(),
        &classes,
    );
    let want = references.values("logistic");
    let got = ndarray::concatenate![
        ndarray::Axis(0),
        model.weights,
        Array1::from_elem(1, model.intercept)
    ];
    assert!(
        (&got - &want).iter().all(|e| e.abs() < 1e-6),
        "{got} {want}"
    );
}
