//! Jacobian products of the trained models by all graphs that give them: tangents, quadratic forms in two parts,
//! traces, whole Jacobians.

use std::path::Path;

use flowgauge::flow::field::JacobianOperator;
use flowgauge::flow::field::Points;
use flowgauge::model::loaded::{JacobianOptions, Model, SessionOptions};
use flowgauge::model::onnx::{Provider, Runtime};
use flowgauge::num::key::{Purpose, RngKey};
use flowgauge::num::{Batch, TangentBatch};
use ndarray::{Array2, Axis};

const OPTIONS: SessionOptions = SessionOptions {
    provider: Provider::Cpu,
    threads: 1,
};

fn model(name: &str) -> Model {
    let card = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("models")
        .join(name)
        .join("card.yaml");
    Model::open(&card).expect(name)
}

fn blocks(key: u64, shape: (usize, usize, usize)) -> TangentBatch {
    let draws = RngKey { seed: key }.normal(Purpose::Check, 0, 0, shape.0 * shape.1 * shape.2);
    draws.into_shape_with_order(shape).expect("as many")
}

/// The largest difference, in units of the largest value.
fn gap(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    let largest = b.iter().fold(1e-6f64, |m, v| m.max(v.abs()));
    (a - b).iter().fold(0.0f64, |m, v| m.max(v.abs())) / largest
}

#[test]
fn forms_and_traces_are_those_of_the_products() {
    for name in ["digits", "moons", "mixture"] {
        let model = model(name);
        let runtime = Runtime::get(None).expect("ONNX Runtime is found or fetched");
        let mut tangents = model
            .jacobian(
                runtime,
                OPTIONS,
                JacobianOptions {
                    vjp: false,
                    exact_trace: true,
                    whole: true,
                },
            )
            .expect(name);
        let (rows, dim) = (6, model.dim());
        let middle = model.curve.time_of_ratio(1.0);
        let t: Vec<f64> = (0..rows)
            .map(|i| middle * (1.0 + 0.01 * i as f64))
            .collect();
        let x: Batch = blocks(1, (1, rows, dim)).index_axis(Axis(0), 0).to_owned();
        let z = blocks(2, (3, rows, dim));
        let right = (&tangents
            .jvp(Points::of_first_samples(&t, &x), &z)
            .expect(name)
            * &z)
            .sum_axis(Axis(2));
        let forms = tangents
            .quadratic_form(Points::of_first_samples(&t, &x), &z)
            .expect(name);
        assert!(
            gap(&forms, &right) < 2e-6,
            "{name}: {}",
            gap(&forms, &right)
        );
        // What is kept of the directions changes nothing, whatever was asked in between.
        tangents
            .quadratic_form(Points::of_first_samples(&t, &x), &blocks(3, (3, rows, dim)))
            .expect(name);
        assert_eq!(
            tangents
                .quadratic_form(Points::of_first_samples(&t, &x), &z)
                .expect(name),
            forms,
            "{name}"
        );
        let (_, beside) = tangents
            .velocity_and_quadratic_form(Points::of_first_samples(&t, &x), &z)
            .expect(name)
            .expect("one call");
        assert_eq!(beside, forms, "{name}");
        let basis =
            TangentBatch::from_shape_fn((dim, rows, dim), |(i, _, j)| f64::from(u8::from(i == j)));
        let right = tangents
            .quadratic_form(Points::of_first_samples(&t, &x), &basis)
            .expect(name)
            .sum_axis(Axis(0))
            .insert_axis(Axis(0));
        let terms = tangents
            .trace_terms(Points::of_first_samples(&t, &x))
            .expect(name)
            .expect("few dimensions");
        let trace = terms.sum_axis(Axis(0)).insert_axis(Axis(0));
        assert!(
            gap(&trace, &right) < 2e-6,
            "{name}: {}",
            gap(&trace, &right)
        );
        let (_, beside) = tangents
            .velocity_and_trace_terms(Points::of_first_samples(&t, &x))
            .expect(name)
            .expect("few dimensions");
        assert_eq!(beside, terms, "{name}");
        // So does the whole Jacobian, from its own graph, row for row.
        let right = tangents
            .jvp(Points::of_first_samples(&t, &x), &basis)
            .expect(name);
        let columns = tangents
            .jacobian(Points::of_first_samples(&t, &x))
            .expect(name)
            .expect("a graph of its own");
        for (columns, right) in columns.axis_iter(Axis(1)).zip(right.axis_iter(Axis(1))) {
            let off = gap(&columns.to_owned(), &right.to_owned());
            assert!(off < 2e-6, "{name}: {off}");
        }
        let (velocity, beside) = tangents
            .velocity_and_jacobian(Points::of_first_samples(&t, &x))
            .expect(name)
            .expect("one call");
        assert_eq!(beside, columns, "{name}");
        let (other, _) = tangents
            .velocity_and_trace_terms(Points::of_first_samples(&t, &x))
            .expect(name)
            .expect("one call");
        assert!(gap(&velocity, &other) < 2e-6, "{name}");
    }
}
