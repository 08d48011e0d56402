//! The committed models against answers that were found independently: float64 references made
//! by `scripts/jvp_references.py`, closed forms, and identities.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use flowgauge::data::Dataset;
use flowgauge::divergence::DivergenceEstimator;
use flowgauge::execute::{ComputeOptions, WorkerPool};
use flowgauge::graph;
use flowgauge::likelihood::{LikelihoodResult, LikelihoodTask};
use flowgauge::model::loaded::Model;
use flowgauge::model::onnx::{Provider, Runtime};
use flowgauge::num::key::{RngKey, SampleId};
use flowgauge::num::{Batch, stats};
use flowgauge::solve::Solver;
use ndarray::{ArrayD, Axis};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<&'static Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::get(None).expect("ONNX Runtime is found or fetched"))
}

fn model(name: &str) -> Model {
    Model::open(&root().join("models").join(name).join("card.yaml")).expect(name)
}

fn machine(batch: usize) -> ComputeOptions {
    ComputeOptions {
        provider: Provider::Cpu,
        batch_size: Some(batch),
        threads: 2,
    }
}

/// An array of an .npz file of the tests' data.
fn array(file: &str, name: &str) -> ArrayD<f64> {
    let path = PathBuf::from(format!(
        "{}:{name}",
        root().join("tests/data").join(file).display()
    ));
    Dataset::read(&path).expect(file).values.into_array()
}

fn rows_of(file: &str, name: &str) -> Batch {
    let values = array(file, name);
    let rows = values.shape()[0];
    values
        .to_shape((rows, values.len() / rows))
        .expect("rows")
        .to_owned()
}

/// Likelihood rows of `x` under one model; sample numbers count from 0.
pub(crate) fn rows(
    model: &Model,
    solver: &str,
    estimators: &str,
    x: &Batch,
    batch: usize,
) -> Vec<LikelihoodResult> {
    let solver: Solver = serde_yaml::from_str(solver).expect(solver);
    let estimators: Vec<DivergenceEstimator> = serde_yaml::from_str(estimators).expect(estimators);
    let key = RngKey { seed: 1 };
    let task = LikelihoodTask {
        curve: &model.curve,
        prior: model.prior,
        solver: &solver,
        estimators: &estimators,
        key,
    };
    let samples: Vec<SampleId> = (0..x.nrows() as u64).collect();
    let states = |ids: &[SampleId]| {
        x.select(
            Axis(0),
            &ids.iter().map(|i| *i as usize).collect::<Vec<_>>(),
        )
    };
    let pool = WorkerPool::new(model, runtime(), machine(batch));
    pool.log_likelihoods(&task, &samples, false, states)
        .expect("the model runs")
        .0
}

fn values(rows: &[LikelihoodResult], estimator: usize) -> Vec<f64> {
    rows.iter()
        .filter(|r| r.estimator == estimator)
        .map(|r| r.log_likelihood.expect("ok"))
        .collect()
}

fn gaps(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn heldout(model: &Model, name: &str, count: usize) -> Batch {
    let data = Dataset::read(&root().join("models").join(name).join("heldout.npy"))
        .expect("held-out data");
    data.states(
        &model.card,
        RngKey { seed: 1 },
        &(0..count as u64).collect::<Vec<_>>(),
    )
}

#[test]
fn jacobian_products_match_float64_references() {
    for (name, file, time, output) in [
        ("digits", "denoiser.onnx", "sigma", "denoised"),
        ("moons", "velocity.onnx", "t", "velocity"),
        ("mixture", "denoiser.onnx", "sigma", "denoised"),
    ] {
        let path = root().join("models").join(name).join(file);
        let plain = graph::Model::load(&path).expect(name);
        let derived =
            graph::differentiate(&plain, graph::Mode::Jvp, Some("x"), Some(output)).expect(name);
        let bytes = derived.to_bytes().expect(name);
        let mut session = runtime().open(name, &bytes, Provider::Cpu, 1).expect(name);
        let data = |n: &str| array(&format!("jvp/{name}.npz"), n);
        let (x, t, v) = (data("x"), data("t"), data("v"));
        let feeds = vec![("x", x.view()), (time, t.view()), ("x_tangent", v.view())];
        let wanted = [
            output.to_owned(),
            format!("{output}_tangent"),
            format!("{output}_quadratic"),
        ];
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let out = session.run(feeds, &wanted).expect(name);
        let worst = |a: &ArrayD<f64>, b: &ArrayD<f64>| {
            let scale = b.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            (a - b).iter().fold(0.0f64, |m, v| m.max(v.abs())) / scale
        };
        assert!(
            worst(&out[0], &data("y")) <= 1e-5,
            "{name}: output {}",
            worst(&out[0], &data("y"))
        );
        assert!(
            worst(&out[1], &data("jv")) <= 5e-5,
            "{name}: J·V {}",
            worst(&out[1], &data("jv"))
        );
        let quadratic = (&data("jv") * &v).sum_axis(Axis(2));
        assert!(
            worst(&out[2], &quadratic) <= 5e-5,
            "{name}: vᵀJv {}",
            worst(&out[2], &quadratic)
        );
    }
}

#[test]
fn the_mixture_has_its_closed_form_likelihood() {
    let model = model("mixture");
    let (x, truth) = (
        rows_of("mixture_truth.npz", "x"),
        array("mixture_truth.npz", "log_likelihood"),
    );
    let estimators = "[exact, {learned: {head: closed-form}}, closed-form]";
    let rows = rows(
        &model,
        "{dopri5: {rtol: 1.0e-6, atol: 1.0e-6}}",
        estimators,
        &x,
        32,
    );
    for estimator in 0..3 {
        let gaps = gaps(
            &values(&rows, estimator),
            truth.as_slice().expect("a vector"),
        );
        let mean = gaps.iter().map(|g| g.abs()).sum::<f64>() / gaps.len() as f64;
        assert!(mean <= 2e-3, "estimator {estimator}: mean |error| {mean}");
    }
}

#[test]
fn trained_models_match_independent_float64_solutions() {
    for name in ["digits", "moons"] {
        let (file, model) = (format!("{name}_truth.npz"), model(name));
        let (x, truth) = (rows_of(&file, "x"), array(&file, "log_likelihood"));
        let rows = rows(
            &model,
            "{dopri5: {rtol: 1.0e-6, atol: 1.0e-6}}",
            "[exact]",
            &x,
            16,
        );
        for (got, want) in values(&rows, 0).iter().zip(truth.iter()) {
            assert!((got - want).abs() <= 5e-3, "{name}: {got} {want}");
        }
    }
}

#[test]
fn fixed_steps_converge_at_their_order_on_the_mixture() {
    let model = model("mixture");
    let x = rows_of("mixture_truth.npz", "x").slice_move(ndarray::s![..16, ..]);
    let truth = array("mixture_truth.npz", "log_likelihood");
    let truth = &truth.as_slice().expect("a vector")[..16];
    for (method, order, steps) in [("heun", 2.0, 80), ("rk4", 4.0, 40)] {
        let error = |steps: usize| {
            let solver = format!("{{{method}: {{steps: {steps}, grid: log-snr}}}}");
            stats::rms(&gaps(
                &values(&rows(&model, &solver, "[exact]", &x, 16), 0),
                truth,
            ))
            .expect("16 samples")
        };
        let observed = (error(steps) / error(2 * steps)).log2();
        assert!(
            (observed - order).abs() <= 0.25,
            "{method}: order {observed}"
        );
    }
}

/// ONNX Runtime's sums along an axis whose length is no multiple of four, as over the five
/// components of the mixture, are rounded differently in different rows of a call.
#[test]
fn no_batch_changes_a_digit() {
    const ESTIMATORS: &str = "[exact, {hutchinson: {probes: 2}}, {hutch++: {matvecs: 6}}";
    let adaptive = "{dopri5: {rtol: 1.0e-3, atol: 1.0e-3}}";
    for (name, data, solver, head) in [
        ("moons", "models/moons/heldout.npy", adaptive, ", learned]"),
        (
            "digits",
            "models/digits/heldout.npy",
            "{heun: {steps: 6}}",
            ", learned]",
        ),
        (
            "mixture",
            "models/mixture/heldout.npy",
            "{rk4: {steps: 40}}",
            ", closed-form]",
        ),
        ("mixture", "models/mixture/heldout.npy", adaptive, "]"),
        ("dw4", "configs/report/dw4.npy", adaptive, "]"),
    ] {
        let model = model(name);
        let data = Dataset::read(&root().join(data)).expect(data);
        let first: Vec<SampleId> = (0..20).collect();
        let x = data.states(&model.card, RngKey { seed: 1 }, &first);
        let estimators = format!("{ESTIMATORS}{head}");
        let one = rows(&model, solver, &estimators, &x, 1);
        for batch in [3, 7, 64] {
            let many = rows(&model, solver, &estimators, &x, batch);
            assert_eq!(one.len(), many.len());
            for (a, b) in one.iter().zip(&many) {
                let (u, v) = (a.log_likelihood.expect("ok"), b.log_likelihood.expect("ok"));
                let which = format!("{name}, {solver}, estimator {}, batch {batch}", a.estimator);
                assert_eq!(u.to_bits(), v.to_bits(), "{which}: {u} {v}");
                assert_eq!(a.evaluations, b.evaluations, "{which}");
            }
        }
    }
}

/// Estimators on real data: unbiased, with errors that mean what they say, and a head that was
/// trained without any Jacobian close to the exact trace sample by sample.
#[test]
fn estimators_on_held_out_digits_keep_their_promises() {
    let model = model("digits");
    let x = heldout(&model, "digits", 96);
    let estimators =
        "[exact, {hutchinson: {probes: 16}}, {hutch++: {matvecs: 6, replicates: 16}}, learned]";
    let rows = rows(&model, "{heun: {steps: 24}}", estimators, &x, 24);
    let exact = values(&rows, 0);
    for estimator in [1, 2] {
        let gaps = gaps(&values(&rows, estimator), &exact);
        let mean = stats::mean_estimate(&gaps).expect("96 samples");
        assert!(
            mean.value.abs() <= 4.0 * mean.stderr.expect("96"),
            "estimator {estimator}: {mean:?}"
        );
        let errors = rows
            .iter()
            .filter(|r| r.estimator == estimator)
            .map(|r| r.stderr.expect("replicates"));
        let scaled: Vec<f64> = gaps.iter().zip(errors).map(|(g, e)| g / e).collect();
        let rms = stats::rms(&scaled).expect("96 samples");
        assert!(
            (0.7..=1.4).contains(&rms),
            "estimator {estimator}: error / stderr has root mean square {rms}"
        );
    }
    let head = values(&rows, 3);
    let correlation = stats::pearson_correlation(&head, &exact).expect("they vary");
    assert!(correlation >= 0.95, "head: correlation {correlation}");
    let bias = stats::mean_estimate(&gaps(&head, &exact))
        .expect("96")
        .value
        / (64.0 * std::f64::consts::LN_2);
    assert!(bias.abs() <= 0.05, "head: bias {bias} bits/dim");
    assert!(
        rows.iter()
            .filter(|r| r.estimator == 3)
            .all(|r| r.jvps == 0)
    );
}
