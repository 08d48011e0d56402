//! The field's own networks, exported in both styles of PyTorch, against float64 references:
//! `tests/data/graph/*.onnx` with their `.npz`, made by `scripts/export_zoo.py`.

use std::path::{Path, PathBuf};

use flowgauge::data::Dataset;
use flowgauge::graph::{self, ElemType, Mode, Model};
use flowgauge::model::onnx::{Provider, Runtime, Session};
use ndarray::{ArrayD, Axis, Slice};

/// Exported networks that have references beside them.
fn networks() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/graph");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("test data")
        .flatten()
        .map(|e| e.path())
        .collect();
    files.retain(|f| {
        f.extension().is_some_and(|e| e == "onnx") && f.with_extension("npz").is_file()
    });
    files.sort();
    assert!(files.len() >= 10, "the networks are missing");
    files
}

/// One network with its references.
struct Case {
    name: String,
    model: Model,
    references: PathBuf,
    /// Inputs by name, x first.
    inputs: Vec<(String, ArrayD<f64>)>,
}

impl Case {
    fn load(file: &Path) -> Case {
        let model = Model::load(file).expect("a model");
        let references = file.with_extension("npz");
        let read = |name: &str| array(&references, name);
        let inputs = model
            .inputs()
            .iter()
            .map(|p| (p.name.clone(), read(&p.name)))
            .collect();
        let name = file
            .file_stem()
            .map(|s| s.to_string_lossy().into_owned())
            .unwrap_or_default();
        Case {
            name,
            model,
            references,
            inputs,
        }
    }

    fn reference(&self, name: &str) -> ArrayD<f64> {
        array(&self.references, name)
    }

    /// The derived graph, opened.
    fn derived(&self, mode: Mode) -> Session {
        let derived = graph::differentiate(&self.model, mode, Some("x"), Some("y"));
        let bytes = derived
            .unwrap_or_else(|e| panic!("{}: {e}", self.name))
            .to_bytes()
            .expect("it fits");
        let runtime = Runtime::get(None).expect("ONNX Runtime is found or fetched");
        runtime
            .open(&self.name, &bytes, Provider::Cpu, 2)
            .unwrap_or_else(|e| panic!("{}: {e:#}", self.name))
    }

    /// Inputs repeated and cut to `n` samples.
    fn inputs_for(&self, n: usize) -> Vec<(String, ArrayD<f64>)> {
        self.inputs
            .iter()
            .map(|(name, a)| (name.clone(), resized(a, Axis(0), n)))
            .collect()
    }

    fn run(
        &self,
        session: &mut Session,
        n: usize,
        extra: (&str, &ArrayD<f64>),
        wanted: &[&str],
    ) -> Vec<ArrayD<f64>> {
        let inputs = self.inputs_for(n);
        let mut feeds: Vec<_> = inputs
            .iter()
            .map(|(name, a)| (name.as_str(), a.view()))
            .collect();
        feeds.push((extra.0, extra.1.view()));
        session
            .run(feeds, wanted)
            .unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }
}

fn array(file: &Path, name: &str) -> ArrayD<f64> {
    let member = PathBuf::from(format!("{}:{name}", file.display()));
    Dataset::read(&member)
        .unwrap_or_else(|e| panic!("{e:#}"))
        .values
        .into_array()
}

#[test]
fn every_network_computes_in_float64() {
    for file in networks() {
        let mut case = Case::load(&file);
        case.model = case
            .model
            .in_precision(ElemType::DOUBLE)
            .unwrap_or_else(|e| panic!("{e}"));
        // Exporters round constants of the network to float32; this one has none.
        let bound = if case.name == "plain-mlp-ts-op13" {
            1e-14
        } else {
            1e-6
        };
        let rows = case.inputs[0].1.len_of(Axis(0));
        let (v, w) = (case.reference("v"), case.reference("w"));
        let forward = case.run(
            &mut case.derived(Mode::Jvp),
            rows,
            ("x_tangent", &v),
            &["y_tangent"],
        );
        let reverse = case.run(
            &mut case.derived(Mode::Vjp),
            rows,
            ("y_cotangent", &w),
            &["x_cotangent"],
        );
        for (found, wanted) in [(&forward[0], "jv"), (&reverse[0], "wj")] {
            let known = case.reference(wanted);
            let largest = |a: &ArrayD<f64>| a.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
            let error = largest(&(found - &known)) / largest(&known);
            assert!(
                error <= bound,
                "{}: {wanted} in float64 is off by {error:.1e}",
                case.name
            );
        }
    }
}

/// `a` with `n` entries along an axis: its own again and again.
fn resized(a: &ArrayD<f64>, axis: Axis, n: usize) -> ArrayD<f64> {
    let have = a.len_of(axis);
    a.select(axis, &(0..n).map(|i| i % have).collect::<Vec<_>>())
}

fn largest(a: &ArrayD<f64>) -> f64 {
    a.iter().fold(0.0, |m, v| m.max(v.abs()))
}

fn frobenius(a: &ArrayD<f64>) -> f64 {
    a.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The project's bounds for float32 against float64: central differences cannot pass them.
fn assert_product(name: &str, got: &ArrayD<f64>, want: &ArrayD<f64>) {
    assert_eq!(got.shape(), want.shape(), "{name}");
    let gap = got - want;
    let (worst, norm) = (
        largest(&gap) / largest(want),
        frobenius(&gap) / frobenius(want),
    );
    assert!(
        worst <= 5e-5 && norm <= 2e-5,
        "{name}: largest error {worst:.1e}, Frobenius {norm:.1e}"
    );
}

#[test]
fn jacobian_products_of_real_networks_match_float64() {
    for file in networks() {
        let case = Case::load(&file);
        let mut session = case.derived(Mode::Jvp);
        let (v, want) = (case.reference("v"), case.reference("jv"));
        for (n, k) in [(1, 1), (3, 5), (7, 5)] {
            let sized = |a: &ArrayD<f64>| resized(&resized(a, Axis(0), k), Axis(1), n);
            let wanted = ["y", "y_tangent", "y_quadratic"];
            let out = case.run(&mut session, n, ("x_tangent", &sized(&v)), &wanted);
            let y = resized(&case.reference("y"), Axis(0), n);
            assert!(
                largest(&(&out[0] - &y)) <= 1e-5 * largest(&y),
                "{}: output",
                case.name
            );
            assert_product(&case.name, &out[1], &sized(&want));
            let products = sized(&v) * sized(&want);
            let sums = products
                .to_shape((k, n, products.len() / (k * n)))
                .expect("k·n rows")
                .sum_axis(Axis(2))
                .into_dyn();
            assert!(
                largest(&(&out[2] - &sums)) <= 5e-5 * frobenius(&sums).max(1e-12),
                "{}: quadratic",
                case.name
            );
        }
    }
}

#[test]
fn transposed_products_of_real_networks_match_float64() {
    for file in networks() {
        let case = Case::load(&file);
        let mut session = case.derived(Mode::Vjp);
        for n in [1, 3, 7] {
            let sized = |name: &str| resized(&case.reference(name), Axis(0), n);
            let out = case.run(
                &mut session,
                n,
                ("y_cotangent", &sized("w")),
                &["y", "x_cotangent"],
            );
            assert!(
                largest(&(&out[0] - &sized("y"))) <= 1e-5 * largest(&sized("y")),
                "{}: output",
                case.name
            );
            assert_product(&case.name, &out[1], &sized("wj"));
        }
    }
}

/// ⟨w, J v⟩ = ⟨Jᵀ w, v⟩ between the two derived graphs, and J is linear.
#[test]
fn both_modes_are_one_linear_map() {
    for file in networks() {
        let case = Case::load(&file);
        let (v, w) = (case.reference("v"), case.reference("w"));
        let jv = case
            .run(
                &mut case.derived(Mode::Jvp),
                3,
                ("x_tangent", &v),
                &["y_tangent"],
            )
            .remove(0);
        let wj = case
            .run(
                &mut case.derived(Mode::Vjp),
                3,
                ("y_cotangent", &w),
                &["x_cotangent"],
            )
            .remove(0);
        for k in 0..v.len_of(Axis(0)) {
            let left = (&jv.index_axis(Axis(0), k) * &w).sum();
            let right = (&wj * &v.index_axis(Axis(0), k)).sum();
            let scale = frobenius(&jv) * frobenius(&w);
            assert!(
                (left - right).abs() <= 1e-5 * scale,
                "{}: {left} {right}",
                case.name
            );
        }
        let sum = v.slice_axis(Axis(0), Slice::from(0..1)).to_owned()
            + v.slice_axis(Axis(0), Slice::from(1..2));
        let whole = case
            .run(
                &mut case.derived(Mode::Jvp),
                3,
                ("x_tangent", &sum),
                &["y_tangent"],
            )
            .remove(0);
        let parts = &jv.index_axis(Axis(0), 0) + &jv.index_axis(Axis(0), 1);
        let gap = &whole.index_axis(Axis(0), 0) - &parts;
        assert!(
            largest(&gap.into_dyn()) <= 1e-5 * largest(&parts.into_dyn()).max(1e-12),
            "{}: linearity",
            case.name
        );
    }
}

#[test]
fn derived_graphs_have_exactly_the_promised_ports() {
    for file in networks() {
        let case = Case::load(&file);
        let names = |ports: Vec<graph::Port>| ports.into_iter().map(|p| p.name).collect::<Vec<_>>();
        let original = names(case.model.inputs());
        let forward = graph::differentiate(&case.model, Mode::Jvp, Some("x"), Some("y"))
            .expect("differentiable");
        let mut wanted = original.clone();
        wanted.push("x_tangent".to_owned());
        assert_eq!(names(forward.inputs()), wanted, "{}", case.name);
        assert_eq!(
            names(forward.outputs()),
            ["y", "y_tangent", "y_quadratic"],
            "{}",
            case.name
        );
        let reverse = graph::differentiate(&case.model, Mode::Vjp, Some("x"), Some("y"))
            .expect("differentiable");
        wanted.pop();
        wanted.push("y_cotangent".to_owned());
        assert_eq!(names(reverse.inputs()), wanted, "{}", case.name);
        assert_eq!(
            names(reverse.outputs()),
            ["y", "x_cotangent"],
            "{}",
            case.name
        );
        assert!(
            forward
                .inputs()
                .iter()
                .all(|p| p.dims.first() != Some(&graph::Dim::Fixed(3)))
        );
    }
}
