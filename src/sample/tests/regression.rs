//! Regression values of a one-dimensional mixture with a known trajectory, and convergence orders.

use super::*;

/// The mixture .3 N(−1, .04) + .7 N(.8, .09) on an edm path with σ from 20 to 0.02.
fn mixture() -> AnalyticMixture {
    AnalyticMixture {
        curve: ProbabilityPath::Edm {
            sigma_min: 0.02,
            sigma_max: 20.0,
        }
        .curve()
        .expect("right"),
        weights: vec![0.3, 0.7],
        means: ndarray::array![[-1.0], [0.8]],
        variances: vec![0.04, 0.09],
    }
}

/// The end state of x = 7.3 at σ = 20 with a sampler.
fn end(spec: &str) -> f64 {
    let mut model = mixture();
    let curve = model.curve.clone();
    draw_samples(
        &sampler_from_yaml(spec),
        &mut model,
        &curve,
        &ndarray::array![[7.3]],
    )
    .x[[0, 0]]
}

/// The exact end state: the probability-flow ODE preserves the quantile from σ = 20 to σ = 0.02.
const EXACT: f64 = 0.7864870824533947;

#[test]
fn sampler_end_states_match_recorded_values() {
    // The karras grid with N steps has N + 1 points here, which other codes write as i/N.
    for (spec, want) in [
        ("ddim: {steps: 10, schedule: log-snr}", 0.7425582914),
        ("heun: {steps: 10, schedule: log-snr}", 0.8125410424),
        (
            "dpmpp-2m: {steps: 10, schedule: log-snr, lower_order_final: false}",
            0.8071649894,
        ),
        (
            "dpmpp-3m: {steps: 10, schedule: log-snr, lower_order_final: false}",
            0.7870760285,
        ),
        (
            "unipc: {steps: 10, schedule: log-snr, lower_order_final: false}",
            0.7812823311,
        ),
        (
            "unipc: {steps: 10, schedule: log-snr, lower_order_final: false, variant: bh2}",
            0.7812243135,
        ),
        ("ddim: {steps: 5, schedule: log-snr}", 0.6819866207),
        ("heun: {steps: 5, schedule: log-snr}", 0.9201921176),
        (
            "dpmpp-2m: {steps: 5, schedule: log-snr, lower_order_final: false}",
            0.8290383343,
        ),
        ("dpmpp-2m: {steps: 5, schedule: log-snr}", 0.8067541884),
        (
            "dpmpp-3m: {steps: 5, schedule: log-snr, lower_order_final: false}",
            0.887483973,
        ),
        ("dpmpp-3m: {steps: 5, schedule: log-snr}", 0.8630951928),
        (
            "unipc: {steps: 5, schedule: log-snr, lower_order_final: false}",
            0.8784320793,
        ),
        (
            "unipc: {steps: 5, schedule: log-snr, lower_order_final: false, variant: bh2}",
            0.8776835784,
        ),
        ("unipc: {steps: 5, schedule: log-snr}", 0.931816044),
        ("ddim: {steps: 11, schedule: karras}", 0.7443293762),
        ("heun: {steps: 11, schedule: karras}", 0.808182331),
        (
            "dpmpp-2m: {steps: 11, schedule: karras, lower_order_final: false}",
            0.8226178578,
        ),
        (
            "dpmpp-3m: {steps: 11, schedule: karras, lower_order_final: false}",
            0.7561921047,
        ),
        (
            "unipc: {steps: 11, schedule: karras, lower_order_final: false}",
            0.7142081012,
        ),
        (
            "unipc: {steps: 11, schedule: karras, lower_order_final: false, variant: bh2}",
            0.7141939878,
        ),
        ("unipc: {steps: 11, schedule: karras}", 0.7737534951),
    ] {
        let got = end(&format!("{{{spec}}}"));
        assert!(
            (got - want).abs() < 1e-10,
            "{spec}: {got:.10}, printed {want}"
        );
    }
}

#[test]
fn samplers_have_their_nominal_convergence_order() {
    for (spec, least, most) in [
        ("ddim: {", 0.95, 1.05),
        ("heun: {", 1.95, 2.1),
        ("dpmpp-2m: {", 1.95, 2.1),
        // The reference lacks a factor, which costs an order. `corrected` restores it.
        ("dpmpp-3m: {", 1.8, 2.1),
        ("dpmpp-3m: {corrected: true, ", 2.8, 3.3),
        ("unipc: {order: 1, ", 1.9, 2.2),
        ("unipc: {order: 2, ", 2.8, 3.3),
        // The orders exceed 4 because the terms of the error nearly cancel here. The error changes
        // its sign beyond N = 320.
        ("unipc: {order: 3, ", 4.0, 6.0),
        ("unipc: {order: 3, variant: bh2, ", 4.0, 6.0),
    ] {
        let error = |n: usize| {
            end(&format!(
                "{{{spec}steps: {n}, schedule: log-snr, lower_order_final: false}}}}"
            )) - EXACT
        };
        let order = (error(160) / error(320)).abs().log2();
        assert!((least..most).contains(&order), "{spec}…}}: {order}");
    }
}
