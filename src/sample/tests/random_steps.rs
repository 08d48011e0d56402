//! Samplers with noise: distributions, convergence along one Brownian motion, and refusals.

use super::*;

/// Samplers with noise in every step, over a grid that is uniform in λ.
fn random_samplers(steps: usize) -> Vec<Sampler> {
    [
        "ddim: {eta: 1, ",
        "ddpm: {",
        "euler-ancestral: {",
        "dpmpp-2m-sde: {",
        "dpmpp-2m-sde: {solver_type: heun, ",
        "dpmpp-sde: {",
    ]
    .map(|start| sampler_from_yaml(&format!("{{{start}steps: {steps}, schedule: log-snr}}}}")))
    .to_vec()
}

fn vp() -> PathCurve {
    ProbabilityPath::defaults()[2].curve().expect("right")
}

const VARIANCE: f64 = 0.3;

/// The variance of states at time `t` for data of N(0, `VARIANCE`).
fn variance_at(curve: &PathCurve, t: f64) -> f64 {
    let s = curve.at(t);
    s.alpha * s.alpha * VARIANCE + s.sigma * s.sigma
}

/// The variance to which steps of one evaluation lead on a Gaussian, for which they are linear.
fn linear_variance(steps: &[SamplerStep], curve: &PathCurve) -> f64 {
    steps
        .iter()
        .fold(variance_at(curve, curve.prior_end()), |v, s| {
            let gain = s.from.alpha * VARIANCE / variance_at(curve, s.from.t);
            (s.weights[0] + s.weights[1] * gain).powi(2) * v + s.noise_std.powi(2)
        })
}

/// The variance at the end is that of the data for many steps, and a known one for few.
#[test]
fn random_samplers_keep_the_variance_of_a_gaussian() {
    let curve = vp();
    let samples: Vec<SampleId> = (0..120).collect();
    let std = variance_at(&curve, curve.prior_end()).sqrt();
    let start = initial_noise(RngKey { seed: 2 }, &samples, 32, std);
    let truth = variance_at(&curve, curve.data_end());
    for (few, many) in random_samplers(30).iter().zip(random_samplers(3000)) {
        let mut model = AnalyticMixture {
            curve: curve.clone(),
            weights: vec![1.0],
            means: ndarray::Array2::zeros((1, 32)),
            variances: vec![VARIANCE],
        };
        let x = draw_samples(few, &mut model, &curve, &start).x;
        let n = x.len() as f64;
        let drawn = x.iter().map(|v| v * v).sum::<f64>() / n;
        let context = velocity_context(&curve);
        let (want, bias) = if few.name().starts_with("dpmpp") {
            (truth, 0.05)
        } else {
            let limit = linear_variance(&many.steps(&context).expect("right"), &curve);
            let ratio = limit / truth;
            assert!((ratio - 1.0).abs() < 0.01, "{}: {ratio}", few.label());
            (
                linear_variance(&few.steps(&context).expect("right"), &curve),
                0.0,
            )
        };
        let ratio = drawn / want;
        assert!(
            (ratio - 1.0).abs() < bias + 4.5 * (2.0 / n).sqrt(),
            "{}: {ratio}",
            few.label()
        );
    }
}

/// With all data at one point every number of steps gives the same states: the noise of a step is
/// the sum of the noise of its parts.
#[test]
fn numbers_of_steps_share_the_noise() {
    let curve = vp();
    let mut model = AnalyticMixture {
        curve: curve.clone(),
        weights: vec![1.0],
        means: ndarray::array![[0.4, -0.9]],
        variances: vec![1e-30],
    };
    let x = initial_noise(RngKey { seed: 2 }, &[0, 1, 2], 2, 1.0);
    let mut ends = |steps: usize| -> Vec<Batch> {
        random_samplers(steps)
            .iter()
            .map(|s| {
                let part = curve.at(curve.data_end());
                draw_samples(s, &mut model, &curve, &x).x / part.sigma
            })
            .collect()
    };
    let (few, many) = (ends(3), ends(11));
    for (a, b) in few.iter().zip(&many) {
        let gap = (a - b).mapv(f64::abs);
        // The states have a noise of standard deviation 1 here.
        assert!(gap.iter().all(|g| *g < 0.01), "{gap}");
    }
}

/// Along one Brownian motion the states converge, with order 1 at least.
#[test]
fn random_samplers_converge_strongly() {
    let curve = vp();
    let mut model = analytic::example_mixture(curve.clone(), 2);
    let x = initial_noise(RngKey { seed: 5 }, &[0, 1, 2, 3], 2, 1.0);
    let mut ends = |steps: usize| -> Vec<Batch> {
        random_samplers(steps)
            .iter()
            .map(|s| draw_samples(s, &mut model, &curve, &x).x)
            .collect()
    };
    let (coarse, fine, truth) = (ends(12), ends(96), ends(384));
    let error = |a: &Batch, b: &Batch| ((a - b).mapv(|v| v * v).sum() / a.len() as f64).sqrt();
    for (i, sampler) in random_samplers(12).iter().enumerate() {
        let (before, after) = (error(&coarse[i], &truth[i]), error(&fine[i], &truth[i]));
        assert!(
            after < 0.3 * before && after < 0.1,
            "{}: {before} {after}",
            sampler.label()
        );
    }
    // All methods approximate one solution of the SDE.
    for other in &truth[1..] {
        let gap = error(&truth[0], other);
        assert!(gap < 0.05, "{gap}");
    }
}

#[test]
fn noise_is_zero_without_eta() {
    let curve = vp();
    let mut model = analytic::example_mixture(curve.clone(), 2);
    let x = initial_noise(RngKey { seed: 5 }, &[0, 1], 2, 1.0);
    let mut end = |spec: &str| draw_samples(&sampler_from_yaml(spec), &mut model, &curve, &x).x;
    let plain = end("{ddim: {steps: 6}}");
    assert_eq!(end("{euler-ancestral: {steps: 6, eta: 0}}"), plain);
    let second = end("{dpmpp-2m: {steps: 6}}");
    let without = end("{dpmpp-2m-sde: {steps: 6, eta: 0}}");
    assert!((second - without).iter().all(|g| g.abs() < 1e-12));
    assert_eq!(
        sampler_from_yaml("{ddim: {steps: 6}}").label(),
        "ddim(steps=6)"
    );
    let label = sampler_from_yaml("{ddim: {eta: 0.5}}").label();
    assert_eq!(label, "ddim(eta=0.5)");
}

#[test]
fn steindiff_refuses_random_and_bounded_steps_by_name() {
    let curve = vp();
    for (inner, what) in [
        ("{ddim: {eta: 0.5}}", "ddim adds noise"),
        ("ddpm", "ddpm adds noise"),
        ("euler-ancestral", "euler-ancestral adds noise"),
        ("dpmpp-2m-sde", "dpmpp-2m-sde adds noise"),
        ("dpmpp-sde", "dpmpp-sde adds noise"),
        ("{ddim: {clip_sample: 1}}", "clip_sample"),
    ] {
        let refused = sampler_from_yaml(&format!("{{steindiff: {{sampler: {inner}}}}}"))
            .check(&velocity_context(&curve))
            .expect_err(inner);
        assert!(refused.contains(what), "{refused}");
    }
}

/// The points of a schedule on a path, as indices and noise levels.
fn grid_of(spec: &str, path: &ProbabilityPath) -> Result<Vec<(f64, f64)>, String> {
    let curve = path.curve().expect("right");
    let context = velocity_context(&curve);
    let sampler: Sampler = crate::yaml::from_yaml_str(spec).unwrap_or_else(|e| panic!("{e}"));
    sampler.check(&context)?;
    let points = sampler.grid(&context)?;
    Ok(points
        .iter()
        .map(|p| (curve.discrete_time_index(p.t), p.sigma / p.alpha))
        .collect())
}

#[test]
fn schedules_choose_the_indices_that_they_name() {
    let path = ProbabilityPath::discrete(crate::flow::path::Betas::default(), 1000);
    let indices = |spec: &str| -> Vec<f64> {
        let grid = grid_of(spec, &path).unwrap_or_else(|e| panic!("{spec}: {e}"));
        let (last, chosen) = grid.split_last().expect("points");
        assert_eq!(last.1, 0.0, "{spec}");
        chosen
            .iter()
            .map(|(i, _)| (i * 1e6).round() / 1e6)
            .collect()
    };
    assert_eq!(
        indices("{ddim: {steps: 4, spacing: leading, steps_offset: 1}}"),
        [751.0, 501.0, 251.0, 1.0]
    );
    assert_eq!(
        indices("{ddim: {steps: 3, spacing: trailing}}"),
        [999.0, 666.0, 332.0]
    );
    assert_eq!(
        indices("{ddim: {steps: 3, spacing: linspace}}"),
        [999.0, 499.5, 0.0]
    );
    assert_eq!(
        indices("{ddim: {steps: 3, spacing: linspace, rounding: nearest}}"),
        [999.0, 500.0, 0.0]
    );
    assert_eq!(
        indices("{unipc: {steps: 3, spacing: linspace, drop_last: true}}"),
        [999.0, 666.0, 333.0]
    );
    assert_eq!(
        indices("{ddim: {times: [999, 888, 10.5]}}"),
        [999.0, 888.0, 10.5]
    );
    let levels = grid_of("{dpmpp-2m: {sigmas: [20, 1, 0.1, 0]}}", &path).expect("right");
    for ((_, level), want) in levels.iter().zip([20.0, 1.0, 0.1, 0.0]) {
        assert!((level - want).abs() < 1e-9 * (1.0 + want), "{level} {want}");
    }
    let ends = grid_of(
        "{ddim: {times: [999, 500], final_sigmas_type: none}}",
        &path,
    );
    assert_eq!(ends.expect("right").len(), 2);
    let flow = ProbabilityPath::FlowMatching {
        data_at: 1,
        t_min: 0.0,
        t_max: 1.0,
    };
    let shifted = grid_of("{euler: {steps: 2, shift: 3}}", &flow).expect("right");
    assert_eq!(shifted[1].0, 0.25);
    let dynamic = format!("{{euler: {{steps: 2, mu: {}}}}}", 3f64.ln());
    let dynamic = grid_of(&dynamic, &flow).expect("right");
    assert!((dynamic[1].0 - 0.25).abs() < 1e-12);
}

#[test]
fn noise_levels_are_read_from_a_file() {
    let folder = std::env::temp_dir().join(format!("flowgauge-levels-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("sigmas.npy");
    ndarray_npy::write_npy(&file, &ndarray::array![20.0, 1.0, 0.0]).expect("written");
    let spec = format!("{{ddim: {{sigmas: {}}}}}", file.display());
    let sampler: Sampler = crate::yaml::from_yaml_str(&spec).expect("right");
    let given: Sampler =
        crate::yaml::from_yaml_str("{ddim: {sigmas: [20.0, 1.0, 0.0]}}").expect("right");
    assert_eq!(sampler, given);
    std::fs::remove_dir_all(&folder).expect("removed");
    let refused = crate::yaml::from_yaml_str::<Sampler>(&spec).expect_err("gone");
    assert!(refused.to_string().contains("sigmas.npy"), "{refused}");
}

#[test]
fn schedules_without_a_meaning_are_refused() {
    let discrete = ProbabilityPath::discrete(crate::flow::path::Betas::default(), 1000);
    let [edm, flow] = [0, 5].map(|i| ProbabilityPath::defaults().remove(i));
    for (path, spec, what) in [
        (
            &edm,
            "{ddim: {spacing: leading}}",
            "indices of a discrete path",
        ),
        (&edm, "{ddim: {rounding: nearest}}", "rounding"),
        (&edm, "{ddim: {shift: 3}}", "flow-matching"),
        (&flow, "{euler: {shift: 3, mu: 1}}", "expected one of them"),
        (&flow, "{euler: {shift: -3}}", "above 0"),
        (&flow, "{euler: {spacing: linspace}}", "needs sigma_min"),
        (
            &discrete,
            "{ddim: {spacing: leading, times: [3]}}",
            "expected one of",
        ),
        (&discrete, "{ddim: {times: [3, 1200]}}", "from 0 to 999"),
        (&discrete, "{ddim: {times: [3, 5]}}", "lower noise level"),
        (
            &discrete,
            "{ddim: {times: [5, 3], steps: 9}}",
            "leave steps out",
        ),
        (
            &discrete,
            "{ddim: {sigmas: [1, .nan]}}",
            "finite noise levels",
        ),
        (
            &discrete,
            "{ddim: {steps: 2000, spacing: leading}}",
            "at most 1000",
        ),
        (
            &discrete,
            "{ddim: {steps: 999, spacing: leading, steps_offset: 9}}",
            "chooses index",
        ),
        (
            &discrete,
            "{dpmpp-2m: {spacing: leading, stride: true}}",
            "stride",
        ),
        (
            &discrete,
            "{euler: {steps: 5, spacing: leading}}",
            "velocity",
        ),
        (&discrete, "{ddim: {eta: 2}}", "from 0 to 1"),
        (&discrete, "{heun: {clip_sample: 1}}", "variable: sigma"),
        (&discrete, "{ddpm: {clip_sample: 0}}", "above 0"),
    ] {
        let refused = grid_of(spec, path).expect_err(spec);
        assert!(refused.contains(what), "{spec}: {refused}");
    }
}
