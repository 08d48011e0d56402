//! One analytic model in every view: five predictions and the scalings around a network, on every path and
//! in both directions of time, must be one velocity, one denoiser, one Jacobian and one likelihood.

use flowgauge::divergence::{DivergenceEstimator, ModelHandles};
use flowgauge::flow::field::Points;
use flowgauge::flow::field::{JacobianOperator, VectorField};
use flowgauge::flow::path::ProbabilityPath;
use flowgauge::flow::preconditioning::Preconditioning;
use flowgauge::flow::prediction::Prediction;
use flowgauge::flow::prior::Prior;
use flowgauge::likelihood::{self, LikelihoodTask};
use flowgauge::model::analytic::{self, AnalyticMixture, AnalyticNetwork};
use flowgauge::num::key::{Purpose, RngKey};
use flowgauge::num::{Batch, TangentBatch};
use ndarray::Axis;

const DIM: usize = 4;

/// Each prediction as it stands and with its input scaled; a denoiser also as EDM makes it.
fn forms(path: &ProbabilityPath) -> Vec<(Prediction, Option<Preconditioning>)> {
    let scaled = Some(Preconditioning::ScaledInput { sigma_data: 0.7 });
    let mut forms: Vec<_> = Prediction::ALL
        .into_iter()
        .flat_map(|p| [(p, None), (p, scaled)])
        .collect();
    if matches!(
        path,
        ProbabilityPath::Edm { .. } | ProbabilityPath::Ve { .. }
    ) {
        forms.push((
            Prediction::Denoised,
            Some(Preconditioning::Edm { sigma_data: 0.5 }),
        ));
    }
    forms
}

fn models() -> impl Iterator<Item = (ProbabilityPath, AnalyticMixture)> {
    let cut = |path: ProbabilityPath| match path {
        // Where alpha or sigma is zero some views divide by it.
        ProbabilityPath::FlowMatching { data_at, .. } => ProbabilityPath::FlowMatching {
            data_at,
            t_min: 1e-3,
            t_max: 0.98,
        },
        other => other,
    };
    ProbabilityPath::defaults()
        .into_iter()
        .map(cut)
        .map(|path| {
            let curve = path.curve().expect("defaults are right");
            (path, analytic::example_mixture(curve, DIM))
        })
}

fn random(probe: u64, rows: usize, scale: f64) -> Batch {
    let draws = RngKey { seed: 2 }.normal(Purpose::Check, 0, probe, rows * DIM);
    draws.into_shape_with_order((rows, DIM)).expect("rows·dim") * scale
}

fn worst(a: &Batch, b: &Batch) -> f64 {
    (a - b).iter().fold(0.0, |m: f64, v| m.max(v.abs()))
}

fn largest(a: &Batch) -> f64 {
    a.iter().fold(0.0, |m: f64, v| m.max(v.abs()))
}

#[test]
fn all_views_of_one_model_agree() {
    for (path, model) in models() {
        for part in [0.0, 0.003, 0.2, 0.5, 0.8, 1.0] {
            let t =
                model.curve.data_end() + part * (model.curve.prior_end() - model.curve.data_end());
            let s = model.curve.at(t);
            let x = random(0, 3, (s.alpha.powi(2) + s.sigma.powi(2)).sqrt());
            let t = [t; 3];
            let velocity = model
                .clone()
                .velocity(Points::of_first_samples(&t, &x))
                .expect("analytic");
            let mut direct =
                AnalyticNetwork::as_velocity(model.clone(), Prediction::Denoised, None);
            let denoised = direct
                .denoised(Points::of_first_samples(&t, &x))
                .expect("analytic");
            let z =
                TangentBatch::from_shape_fn((DIM, 3, DIM), |(i, _, j)| f64::from(u8::from(i == j)));
            let products = model
                .clone()
                .jvp(Points::of_first_samples(&t, &x), &z)
                .expect("analytic");
            for (prediction, preconditioning) in forms(&path) {
                let mut view =
                    AnalyticNetwork::as_velocity(model.clone(), prediction, preconditioning);
                let what = format!("{path:?} at {part}: {prediction:?} {preconditioning:?}");
                // The terms a·x and b·F that a view adds up: what may cancel sets the scale of rounding.
                let (to_v, to_d) = (prediction.velocity(&s), prediction.denoised(&s));
                let part_v = 1.0 + largest(&velocity) + (to_v.a * largest(&x)).abs();
                let part_d = 1.0 + largest(&denoised) + (to_d.a * largest(&x)).abs();
                let got = view
                    .velocity(Points::of_first_samples(&t, &x))
                    .expect("analytic");
                assert!(
                    worst(&got, &velocity) <= 1e-12 * part_v,
                    "velocity, {what}: {}",
                    worst(&got, &velocity)
                );
                let got = view
                    .denoised(Points::of_first_samples(&t, &x))
                    .expect("analytic");
                assert!(
                    worst(&got, &denoised) <= 1e-12 * part_d,
                    "denoised, {what}: {}",
                    worst(&got, &denoised)
                );
                let got = view
                    .jvp(Points::of_first_samples(&t, &x), &z)
                    .expect("analytic");
                let reverse = view
                    .vjp(Points::of_first_samples(&t, &x), &z)
                    .expect("analytic")
                    .expect("the mixture has its transpose");
                let part_j =
                    1.0 + products.iter().fold(0.0, |m: f64, v| m.max(v.abs())) + to_v.a.abs();
                for got in [&got, &reverse] {
                    let gap = (got - &products)
                        .iter()
                        .fold(0.0, |m: f64, v| m.max(v.abs()));
                    assert!(gap <= 1e-12 * part_j, "products, {what}: {gap}");
                }
                let divergence = view
                    .quadratic_form(Points::of_first_samples(&t, &x), &z)
                    .expect("analytic")
                    .sum_axis(Axis(0));
                for (i, got) in divergence.iter().enumerate() {
                    let want: f64 = (0..DIM).map(|j| products[[j, i, j]]).sum();
                    assert!(
                        (got - want).abs() <= 1e-12 * part_j * DIM as f64,
                        "divergence, {what}: {got} {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn all_views_of_one_model_have_one_likelihood() {
    let solver = serde_yaml::from_str("{rk4: {steps: 24, grid: log-snr}}").expect("a solver");
    let estimators: Vec<DivergenceEstimator> =
        serde_yaml::from_str("[exact, {hutchinson: {probes: 3}}, {na-hutch++: {matvecs: 6}}]")
            .expect("estimators");
    for (path, model) in models() {
        let prior = Prior::isotropic(model.curve.prior_std());
        let x = random(1, 2, 0.6);
        let values =
            |field: &mut dyn VectorField, tangents: Box<dyn JacobianOperator>| -> Vec<f64> {
                let task = LikelihoodTask {
                    curve: &model.curve,
                    prior,
                    solver: &solver,
                    estimators: &estimators,
                    key: RngKey { seed: 3 },
                };
                let mut sources = ModelHandles {
                    jacobian: Some(tangents),
                    ..Default::default()
                };
                let rows = likelihood::evaluate_likelihoods(
                    field,
                    &mut sources,
                    &task,
                    &[0, 1],
                    x.clone(),
                    None,
                )
                .expect("analytic");
                rows.iter().map(|r| r.log_likelihood.expect("ok")).collect()
            };
        let known = values(&mut model.clone(), Box::new(model.clone()));
        for (prediction, preconditioning) in forms(&path) {
            let view = || AnalyticNetwork::as_velocity(model.clone(), prediction, preconditioning);
            for (got, want) in values(&mut view(), Box::new(view())).iter().zip(&known) {
                let gap = (got - want).abs();
                assert!(
                    gap <= 1e-11 * (1.0 + want.abs()),
                    "{path:?} {prediction:?} {preconditioning:?}: {got} {want}"
                );
            }
        }
    }
}
