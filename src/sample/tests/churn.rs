//! EDM's stochastic sampler equals its published algorithm, and its variance equals the closed
//! form.

use super::*;

fn gaussian(variance: f64) -> AnalyticMixture {
    AnalyticMixture {
        curve: ProbabilityPath::Edm {
            sigma_min: 0.02,
            sigma_max: 20.0,
        }
        .curve()
        .expect("right"),
        weights: vec![1.0],
        means: ndarray::Array2::zeros((1, 1)),
        variances: vec![variance],
    }
}

/// The points of the grid, each with its σ̂, which is raised by min(S_churn/N, √2 − 1) within the
/// bounds.
fn churned_sigmas(
    sampler: &Sampler,
    model: &AnalyticMixture,
    churn: f64,
    bounds: [f64; 2],
) -> Vec<(f64, f64)> {
    let Sampler::Heun(heun) = sampler else {
        panic!("heun")
    };
    let times = heun.schedule.times(&model.curve).expect("right");
    let gamma = (churn / heun.schedule.steps as f64).min(2f64.sqrt() - 1.0);
    let hat = |s: f64| {
        if s >= bounds[0] && s <= bounds[1] {
            s * (1.0 + gamma)
        } else {
            s
        }
    };
    times.into_iter().map(|s| (s, hat(s))).collect()
}

/// The sampler equals Algorithm 2 of Karras et al. 2022, line by line, with the same draws.
#[test]
fn churn_matches_edm_algorithm_2() {
    let spec = "{heun: {steps: 9, denoise_to_zero: true, s_churn: 3, s_min: 0.05, s_max: 10, \
                s_noise: 1.007}}";
    let (sampler, mut model) = (sampler_from_yaml(spec), gaussian(0.3));
    let curve = model.curve.clone();
    let x = ndarray::array![[7.3], [-20.0]];
    let got = draw_samples(&sampler, &mut model, &curve, &x);
    assert_eq!(got.evaluations[0], 2 * 9 - 1);
    let points = churned_sigmas(&sampler, &model, 3.0, [0.05, 10.0]);
    for sample in 0..2 {
        let mut x = x[[sample, 0]];
        for (i, (sigma, hat)) in points.iter().enumerate() {
            let noise = RngKey { seed: 3 }.normal(Purpose::Churn, sample as u64, i as u64, 1)[0];
            let start = x + (hat * hat - sigma * sigma).sqrt() * 1.007 * noise;
            let denoised = |x: f64, s: f64| x * 0.3 / (0.3 + s * s);
            let next = points.get(i + 1).map_or(0.0, |p| p.0);
            let slope = (start - denoised(start, *hat)) / hat;
            x = start + (next - hat) * slope;
            if next > 0.0 {
                x = start + (next - hat) * 0.5 * (slope + (x - denoised(x, next)) / next);
            }
        }
        assert!(
            (got.x[[sample, 0]] - x).abs() < 1e-12,
            "{} {x}",
            got.x[[sample, 0]]
        );
    }
}

#[test]
fn churned_samples_have_the_recursion_variance() {
    let (sampler, mut model) = (
        sampler_from_yaml("{heun: {steps: 8, s_churn: 4}}"),
        gaussian(0.3),
    );
    let curve = model.curve.clone();
    let ids: Vec<u64> = (0..20_000).collect();
    let x = initial_noise(RngKey { seed: 5 }, &ids, 1, 20.0);
    let got = draw_samples(&sampler, &mut model, &curve, &x).x;
    let slope = |s: f64| s / (0.3 + s * s);
    let points = churned_sigmas(&sampler, &model, 4.0, [0.0, f64::INFINITY]);
    let want = points.windows(2).fold(400.0, |variance, pair| {
        let ((sigma, hat), next) = (pair[0], pair[1].0);
        let h = next - hat;
        let factor = 1.0 + 0.5 * h * (slope(hat) + (1.0 + h * slope(hat)) * slope(next));
        (variance + hat * hat - sigma * sigma) * factor * factor
    });
    let squares = got.iter().map(|v| v * v).sum::<f64>() / 20_000.0;
    let error = want * (2.0 / 20_000.0f64).sqrt();
    assert!(
        (squares - want).abs() < 4.0 * error,
        "{squares} {want} ± {error}"
    );
}

#[test]
fn churn_is_batch_independent_and_zero_churn_changes_nothing() {
    let mut model = gaussian(0.3);
    let curve = model.curve.clone();
    let x = initial_noise(RngKey { seed: 5 }, &[0, 1, 2], 1, 20.0);
    let mut end = |spec: &str| draw_samples(&sampler_from_yaml(spec), &mut model, &curve, &x).x;
    assert_eq!(
        end("{heun: {steps: 8, s_noise: 3, s_max: 2}}"),
        end("{heun: {steps: 8}}")
    );
    let all = end("{heun: {steps: 8, s_churn: 40}}");
    assert_ne!(all, end("{heun: {steps: 8}}"));
    let one = x.slice(ndarray::s![2..3, ..]).to_owned();
    let alone = draw_samples_at(
        &sampler_from_yaml("{heun: {steps: 8, s_churn: 40}}"),
        &mut gaussian(0.3),
        &curve,
        &[2],
        &one,
    )
    .x;
    assert_eq!(alone.row(0), all.row(2));
}
