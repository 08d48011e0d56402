//! The identity behind γ on mixtures with closed forms (T11, T12), and properties of every mode.

use super::super::sampler_step::PathPoint;
use super::super::tests::{
    UNIT_PRIOR, deterministic_sampler_names, draw_samples, sampler_from_yaml, velocity_context,
};
use super::gamma::{GammaMoments, StepProbes, gamma_moments};
use super::*;
use crate::flow::field::Points;
use crate::flow::path::{PathCurve, ProbabilityPath};
use crate::model::analytic::{self, AnalyticMixture};
use crate::num::TangentBatch;
use crate::num::key::{Purpose, RngKey};
use crate::num::stats;

const DIM: usize = 8;

/// Clean states and their noise, with draws of their own.
fn clean_states_and_noise(model: &AnalyticMixture, n: usize) -> (Batch, Batch) {
    let key = RngKey { seed: 21 };
    let normal = |probe: u64, i: usize, d: usize| key.normal(Purpose::Check, i as u64, probe, d);
    let d = model.means.ncols();
    let (mut clean, mut noise) = (Batch::zeros((n, d)), Batch::zeros((n, d)));
    for i in 0..n {
        let u = key.uniform(Purpose::Check, i as u64, 9, 1)[0];
        let mut sum = 0.0;
        let k = model.weights.iter().position(|w| {
            sum += w;
            u < sum
        });
        let k = k.unwrap_or(0);
        clean
            .row_mut(i)
            .assign(&(&model.means.row(k) + &(normal(1, i, d) * model.variances[k].sqrt())));
        noise.row_mut(i).assign(&normal(2, i, d));
    }
    (clean, noise)
}

/// Paths, each with the noise-to-signal ratios at the ends of a step.
fn paths_and_steps() -> [(&'static str, ProbabilityPath, [f64; 2]); 5] {
    let vp = || ProbabilityPath::Vp {
        beta_min: 0.1,
        beta_max: 20.0,
        t_min: 1e-5,
    };
    let edm = || ProbabilityPath::Edm {
        sigma_min: 0.002,
        sigma_max: 80.0,
    };
    // σ/α where α² + σ² = 1.
    let ratio = |alpha: f64| (1.0 / (alpha * alpha) - 1.0f64).sqrt();
    [
        ("vp .6 to .8", vp(), [ratio(0.6), ratio(0.8)]),
        ("vp .1 to .7", vp(), [ratio(0.1), ratio(0.7)]),
        ("edm 2 to .7", edm(), [2.0, 0.7]),
        (
            "flow matching .6 to .3",
            ProbabilityPath::FlowMatching {
                data_at: 0,
                t_min: 0.0,
                t_max: 1.0,
            },
            [1.5, 0.3 / 0.7],
        ),
        ("edm .5 to 0", edm(), [0.5, 0.0]),
    ]
}

/// A single step of a sampler between two ratios. Without a history T depends only on the state.
fn one_step(name: &str, curve: &PathCurve, [from, to]: [f64; 2]) -> SamplerStep {
    let from = PathPoint::at_time(curve, curve.time_of_ratio(from));
    if to == 0.0 {
        return SamplerStep::denoise(from);
    }
    let to = PathPoint::at_time(curve, curve.time_of_ratio(to));
    match sampler_from_yaml(name) {
        Sampler::Heun(_) => super::super::heun::heun_step(from, to),
        // The last step has no corrector. With a third point this step is not the last.
        Sampler::UniPc(method) => {
            super::super::multistep::steps_between_points(&method, false, &[from, to, to]).remove(0)
        }
        Sampler::Ddim(method) => {
            super::super::multistep::steps_between_points(&method, false, &[from, to]).remove(0)
        }
        other => panic!("{other:?}"),
    }
}

struct GammaCase {
    moments: GammaMoments,
    x: Batch,
    u: Batch,
    clean: Batch,
    noise: Batch,
    step: SamplerStep,
}

fn gamma_case(
    model: &mut AnalyticMixture,
    step: SamplerStep,
    n: usize,
    probes: usize,
) -> GammaCase {
    let (clean, noise) = clean_states_and_noise(model, n);
    let x = &clean * step.from.alpha + &noise * step.from.sigma;
    let curve = model.curve.clone();
    let samples: Vec<u64> = (0..n as u64).collect();
    let draw = SampleRequest {
        context: velocity_context(&curve),
        prior: UNIT_PRIOR,
        key: RngKey { seed: 8 },
        samples: &samples,
        step_noise: None,
    };
    let mut trajectory = Trajectory::starting_at(&samples, x.clone());
    let proposal = trajectory.propose(&step, model).expect("analytic");
    let mut moments = gamma_moments(&step, &trajectory, &proposal, &draw);
    moments
        .estimate_divergence(
            &step,
            &proposal,
            &StepProbes {
                draw: &draw,
                step: 0,
                count: probes,
            },
            model,
        )
        .expect("analytic");
    GammaCase {
        moments,
        u: &x - &proposal.state,
        x,
        clean,
        noise,
        step,
    }
}

fn unclamped_gamma_rule(noise_consistent: bool) -> GammaRule {
    GammaRule {
        noise_consistent,
        gamma_min: f64::NEG_INFINITY,
        gamma_max: f64::INFINITY,
        significance: 0.0,
        gate: None,
    }
}

/// Eq. (11) equals γ* of Eq. (9), also in its noise-consistent form. The mean of ⟨u, x − target⟩
/// minus the numerator of γ, taken sample by sample, is zero within its standard error.
#[test]
fn gamma_from_steins_identity_matches_the_minimiser() {
    for (name, path, ratios) in paths_and_steps() {
        let mut model = analytic::example_mixture(path.curve().expect("right"), DIM);
        for method in ["ddim", "heun", "{unipc: {order: 1}}"] {
            let step = one_step(method, &model.curve, ratios);
            let case = gamma_case(&mut model, step, 12_000, 1);
            for noise_consistent in [false, true] {
                let s = case
                    .moments
                    .statistics(&case.step, &unclamped_gamma_rule(noise_consistent));
                let to = if noise_consistent {
                    (case.step.to.alpha, case.step.to.sigma)
                } else {
                    (1.0, 0.0)
                };
                let target = &case.clean * to.0 + &case.noise * to.1;
                let (alpha, sigma) = (case.step.from.alpha, case.step.from.sigma);
                let numerators = case
                    .moments
                    .numerators(&case.step, &unclamped_gamma_rule(noise_consistent));
                let gaps: Vec<f64> = (0..case.x.nrows())
                    .map(|i| case.u.row(i).dot(&(&case.x.row(i) - &target.row(i))) - numerators[i])
                    .collect();
                let gap = stats::mean_estimate(&gaps).expect("samples");
                let error = gap.stderr.expect("samples");
                // The standard error must be small compared to γ, or agreement would mean nothing.
                // It is largest, 0.09, for the step from α = 0.1.
                let relative = error / s.mean_uu / s.unclamped_gamma.abs().max(0.1);
                assert!(
                    gap.value.abs() < 4.0 * error && relative < 0.12,
                    "{name} {method}: {gap:?} {relative}"
                );
                let uncertain = s.stderr.expect("samples");
                if noise_consistent && method == "ddim" {
                    assert!(
                        (s.unclamped_gamma - 1.0).abs() < 4.0 * uncertain && uncertain < 0.08,
                        "{name}: {s:?}"
                    );
                }
                let straight = alpha == 1.0 || path.kind() == "flow-matching";
                if !noise_consistent && method == "ddim" && straight {
                    // u is then parallel to x − D, so the minimizer is the posterior mean.
                    let want = 1.0 / (1.0 - case.step.to.sigma / sigma);
                    assert!(
                        (s.unclamped_gamma - want).abs() < 4.0 * uncertain,
                        "{name}: {s:?} {want}"
                    );
                }
                let coupling = s.coupling.expect("products");
                assert!((coupling - 1.0).abs() < 0.06, "{name} {method}: {coupling}");
            }
        }
    }
}

/// On a Gaussian J_D is a multiple of the identity, so every probe gives the exact trace.
#[test]
fn gaussian_gamma_moments_match_closed_form() {
    let (c, sigma, next) = (0.3, 2.0, 0.7);
    let curve = ProbabilityPath::Edm {
        sigma_min: 0.002,
        sigma_max: 80.0,
    }
    .curve()
    .expect("right");
    let mut model = AnalyticMixture {
        curve,
        weights: vec![1.0],
        means: ndarray::Array2::zeros((1, DIM)),
        variances: vec![c],
    };
    let step = one_step("ddim", &model.curve, [sigma, next]);
    let s = gamma_case(&mut model, step.clone(), 4000, 2);
    let s = s.moments.statistics(&step, &unclamped_gamma_rule(false));
    let (r, d) = (next / sigma, DIM as f64);
    let div = d * (1.0 - r) * sigma * sigma / (c + sigma * sigma);
    assert!(
        (s.mean_divergence - div).abs() < 1e-10 && s.probe_stderr.expect("two probes") < 1e-12,
        "{s:?} {div}"
    );
    let uu = (1.0 - r).powi(2) * sigma.powi(4) * d / (c + sigma * sigma);
    assert!(
        (s.mean_uu / uu - 1.0).abs() < 4.0 * (2.0 / (4000.0 * d)).sqrt(),
        "{s:?} {uu}"
    );
    assert!(
        (s.unclamped_gamma * (1.0 - r) - 1.0).abs() < 4.0 * s.stderr.expect("samples") * (1.0 - r),
        "{s:?}"
    );
}

/// The mean of zᵀ J_u z over many probes is the exact trace, for one product and for two in a row.
#[test]
fn steindiff_probes_are_unbiased() {
    for method in ["ddim", "heun", "{unipc: {order: 1}}"] {
        let curve = ProbabilityPath::Vp {
            beta_min: 0.1,
            beta_max: 20.0,
            t_min: 1e-5,
        }
        .curve()
        .expect("right");
        let mut model = analytic::example_mixture(curve, DIM);
        let step = one_step(method, &model.curve, [1.2, 0.4]);
        let case = gamma_case(&mut model, step, 4, 4000);
        let curve = model.curve.clone();
        let mut trajectory = Trajectory::starting_at(&[0, 1, 2, 3], case.x.clone());
        let proposal = trajectory
            .propose(&case.step, &mut model)
            .expect("analytic");
        let basis =
            TangentBatch::from_shape_fn((DIM, 4, DIM), |(i, _, j)| f64::from(u8::from(i == j)));
        let exact = sampler_step::step_jacobian_products(
            &case.step,
            &proposal,
            &basis,
            &velocity_context(&curve),
            &mut model,
        )
        .expect("analytic")
        .step;
        for (i, (mean, variance)) in case.moments.divergences().enumerate() {
            let trace: f64 = (0..DIM).map(|j| 1.0 - exact[[j, i, j]]).sum();
            let error = variance.sqrt();
            assert!(
                (mean - trace).abs() < 4.0 * error && error > 0.0,
                "{method} {i}: {mean} ± {error}, {trace}"
            );
        }
    }
}

/// The reported standard error of γ from its probes equals the spread over other probes.
#[test]
fn gamma_probe_stderr_has_nominal_coverage() {
    let curve = ProbabilityPath::Edm {
        sigma_min: 0.002,
        sigma_max: 80.0,
    }
    .curve()
    .expect("right");
    let mut model = analytic::example_mixture(curve.clone(), DIM);
    let step = one_step("ddim", &curve, [0.6, 0.2]);
    let (clean, noise) = clean_states_and_noise(&model, 64);
    let samples: Vec<u64> = (0..64).collect();
    let mut trajectory = Trajectory::starting_at(&samples, &clean + &(&noise * step.from.sigma));
    let proposal = trajectory.propose(&step, &mut model).expect("analytic");
    let draws: Vec<GammaStatistics> = (0..200)
        .map(|seed| {
            let draw = SampleRequest {
                context: velocity_context(&curve),
                prior: UNIT_PRIOR,
                key: RngKey { seed },
                samples: &samples,
                step_noise: None,
            };
            let mut moments = gamma_moments(&step, &trajectory, &proposal, &draw);
            let probes = StepProbes {
                draw: &draw,
                step: 0,
                count: 3,
            };
            moments
                .estimate_divergence(&step, &proposal, &probes, &mut model)
                .expect("analytic");
            moments.statistics(&step, &unclamped_gamma_rule(false))
        })
        .collect();
    let spread = stats::mean_estimate(&draws.iter().map(|s| s.unclamped_gamma).collect::<Vec<_>>())
        .expect("draws");
    let spread = spread.stderr.expect("draws") * 200f64.sqrt();
    let said = stats::rms(
        &draws
            .iter()
            .filter_map(|s| s.probe_stderr)
            .collect::<Vec<_>>(),
    )
    .expect("draws");
    assert!((said / spread - 1.0).abs() < 0.2, "{said} {spread}");
}

/// If γ* is 1, the test of significance rejects as often as its level says.
#[test]
fn significance_test_of_gamma_has_nominal_false_positive_rate() {
    let curve = ProbabilityPath::Vp {
        beta_min: 0.1,
        beta_max: 20.0,
        t_min: 1e-5,
    }
    .curve()
    .expect("right");
    let mut model = analytic::example_mixture(curve.clone(), DIM);
    let step = one_step("ddim", &curve, [4.0 / 3.0, 0.75]);
    let (populations, n) = (400, 64);
    let (clean, noise) = clean_states_and_noise(&model, populations * n);
    let (mut found, mut sum) = (0, 0.0);
    for first in (0..populations * n).step_by(n) {
        let rows = ndarray::s![first..first + n, ..];
        let samples: Vec<u64> = (first as u64..(first + n) as u64).collect();
        let draw = SampleRequest {
            context: velocity_context(&curve),
            prior: UNIT_PRIOR,
            key: RngKey { seed: 8 },
            samples: &samples,
            step_noise: None,
        };
        let mut trajectory = Trajectory::starting_at(
            &samples,
            &clean.slice(rows) * step.from.alpha + &noise.slice(rows) * step.from.sigma,
        );
        let proposal = trajectory.propose(&step, &mut model).expect("analytic");
        let mut moments = gamma_moments(&step, &trajectory, &proposal, &draw);
        moments
            .estimate_divergence(
                &step,
                &proposal,
                &StepProbes {
                    draw: &draw,
                    step: 0,
                    count: 1,
                },
                &mut model,
            )
            .expect("known");
        let test = GammaRule {
            significance: stats::Z95,
            ..unclamped_gamma_rule(true)
        };
        let s = moments.statistics(&step, &test);
        found += usize::from(test.clamp_gamma(&s).1 != GammaAction::NotSignificant);
        sum += s.unclamped_gamma / populations as f64;
    }
    let share = found as f64 / populations as f64;
    // The bounds are 5 % and three binomial standard errors. γ* is 1 for a first-order step with an
    // exact denoiser and this target.
    assert!(
        (sum - 1.0).abs() < 0.02 && (0.02..0.09).contains(&share),
        "γ {sum}, significant in {share}"
    );
}

fn mixture() -> AnalyticMixture {
    analytic::example_mixture(
        ProbabilityPath::Edm {
            sigma_min: 0.02,
            sigma_max: 20.0,
        }
        .curve()
        .expect("right"),
        3,
    )
}

#[test]
fn vanilla_mode_equals_the_sampler_bitwise() {
    for inner in deterministic_sampler_names() {
        let mut model = mixture();
        let curve = model.curve.clone();
        let x = super::super::initial_noise(RngKey { seed: 2 }, &[0, 1, 2, 3, 4], 3, 20.0);
        for more in [
            "denoise_to_zero: true",
            "schedule: log-snr, lower_order_final: false",
        ] {
            let spec = format!("{{{inner}: {{steps: 6, {more}}}}}");
            let plain = draw_samples(&sampler_from_yaml(&spec), &mut model, &curve, &x);
            let vanilla = sampler_from_yaml(&format!(
                "{{steindiff: {{sampler: {spec}, mode: vanilla, population: 2}}}}"
            ));
            let vanilla = draw_samples(&vanilla, &mut model, &curve, &x);
            assert_eq!(vanilla.x, plain.x, "{spec}");
            assert_eq!(
                (vanilla.evaluations, vanilla.products),
                (plain.evaluations, plain.products),
                "{spec}"
            );
            // A γ that is clamped to exactly 1 does not change the sampler either.
            let held = sampler_from_yaml(&format!(
                "{{steindiff: {{sampler: {spec}, gamma_min: 1, population: 2}}}}"
            ));
            assert_eq!(
                draw_samples(&held, &mut model, &curve, &x).x,
                plain.x,
                "{spec}"
            );
            // The same holds for a γ that never differs significantly from 1.
            let unsure = sampler_from_yaml(&format!(
                "{{steindiff: {{sampler: {spec}, significance: 1e12, population: 2}}}}"
            ));
            assert_eq!(
                draw_samples(&unsure, &mut model, &curve, &x).x,
                plain.x,
                "{spec}"
            );
        }
    }
}

/// Splits every call into single rows, as the smallest batch would.
struct Single(AnalyticMixture);

impl crate::flow::field::VectorField for Single {
    fn dim(&self) -> usize {
        self.0.means.ncols()
    }
    fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
        let Points { t, x, .. } = at;
        let mut out = Batch::zeros(x.raw_dim());
        for i in 0..x.nrows() {
            let one = self.0.velocity(Points::of_first_samples(
                &t[i..=i],
                &x.slice(ndarray::s![i..=i, ..]).to_owned(),
            ))?;
            out.row_mut(i).assign(&one.row(0));
        }
        Ok(out)
    }
}

impl Denoiser for Single {
    fn denoised(&mut self, at: Points) -> Result<Batch, EvalError> {
        self.0.denoised(at)
    }
    fn linearized(&mut self) -> Result<&mut dyn crate::flow::field::JacobianOperator, EvalError> {
        self.0.linearized()
    }
}

#[test]
fn populations_are_blocks_of_sample_ids() {
    for mode in ["clipped", "adaptive", "noise-consistent", "self-consistent"] {
        let spec = format!(
            "{{steindiff: {{sampler: {{heun: {{steps: 6}}}}, mode: {mode}, population: 4}}}}"
        );
        let (spec, mut model) = (sampler_from_yaml(&spec), mixture());
        let curve = model.curve.clone();
        let ids: Vec<u64> = (0..10).collect();
        let x = super::super::initial_noise(RngKey { seed: 2 }, &ids, 3, 20.0);
        let all = draw_samples(&spec, &mut model, &curve, &x);
        let numbers: Vec<(u64, usize)> =
            all.step_logs.iter().map(|e| (e.population, e.n)).collect();
        assert_eq!(
            (numbers[0], numbers[5], numbers[10]),
            ((0, 4), (1, 4), (2, 2)),
            "{mode}"
        );
        // The second population alone, and all populations one row at a time, give the same states.
        let part = x.slice(ndarray::s![4..8, ..]).to_owned();
        let alone =
            super::super::tests::draw_samples_at(&spec, &mut model, &curve, &ids[4..8], &part);
        assert_eq!(alone.x, all.x.slice(ndarray::s![4..8, ..]), "{mode}");
        assert_eq!(alone.step_logs, all.step_logs[5..10], "{mode}");
        assert_eq!(
            draw_samples(&spec, &mut Single(mixture()), &curve, &x).x,
            all.x,
            "{mode}"
        );
    }
}

/// One entry of the log for each step, with an action that agrees with its numbers.
#[test]
fn step_log_records_actions() {
    let entries = |spec: &str| {
        let mut model = mixture();
        let curve = model.curve.clone();
        let x =
            super::super::initial_noise(RngKey { seed: 2 }, &(0..64).collect::<Vec<_>>(), 3, 20.0);
        draw_samples(&sampler_from_yaml(spec), &mut model, &curve, &x).step_logs
    };
    let inner = "sampler: {dpmpp-2m: {steps: 6, denoise_to_zero: true}}";
    let clipped = entries(&format!("{{steindiff: {{{inner}, population: 64}}}}"));
    assert_eq!(clipped.len(), 6);
    for (i, e) in clipped.iter().enumerate() {
        assert_eq!((e.step, e.n, e.evaluations), (i, 64, 1));
        let Some(s) = e.statistics else {
            assert_eq!((e.action, e.gamma, i), (GammaAction::SkippedLast, 1.0, 5));
            continue;
        };
        assert_eq!(e.gamma, s.unclamped_gamma.clamp(1e-6, 1.0), "{e:?}");
        assert_eq!(
            e.action == GammaAction::ClampedHigh,
            s.unclamped_gamma > 1.0,
            "{e:?}"
        );
        assert!(
            s.from_jacobian_products && s.coupling.is_some() && e.products == 5,
            "{e:?}"
        );
    }
    let analytical = entries(&format!(
        "{{steindiff: {{{inner}, mode: analytical, skip_last: false}}}}"
    ));
    assert!(
        analytical
            .iter()
            .all(|e| e.products == 0 && e.statistics.is_some_and(|s| s.coupling.is_none()))
    );
    let adaptive = entries(&format!(
        "{{steindiff: {{{inner}, mode: adaptive, sigma_switch: 0.5}}}}"
    ));
    assert!(
        adaptive[..5]
            .iter()
            .all(|e| (e.products > 0) == (e.from.sigma <= 0.5))
    );
    let gated = entries(&format!("{{steindiff: {{{inner}, gate: [5, 6]}}}}"));
    assert!(
        gated[..5]
            .iter()
            .all(|e| e.action == GammaAction::SkippedGate && e.gamma == 1.0)
    );
    let told = entries(&format!(
        "{{steindiff: {{{inner}, population: 64, significance: 2}}}}"
    ));
    for e in &told[..5] {
        let s = e.statistics.expect("measured");
        let held = (s.unclamped_gamma - 1.0).abs() <= 2.0 * s.stderr.expect("64 samples");
        assert_eq!(held, e.action == GammaAction::NotSignificant, "{e:?}");
        assert_eq!(
            e.gamma,
            if held {
                1.0
            } else {
                s.unclamped_gamma.clamp(1e-6, 1.0)
            },
            "{e:?}"
        );
    }
    let ahead = entries(&format!(
        "{{steindiff: {{{inner}, mode: self-consistent, tau: 100}}}}"
    ));
    assert!(
        ahead[..4]
            .iter()
            .all(|e| e.evaluations == 2 && e.mean_blend_weight.is_some_and(|b| b > 0.9)),
        "{ahead:?}"
    );
}

/// With λ near 1 the state lies on the chord to the look ahead, and with λ near 0 on the proposal.
#[test]
fn self_consistent_mode_blends_proposal_and_chord() {
    let mut model = mixture();
    let curve = model.curve.clone();
    let x = super::super::initial_noise(RngKey { seed: 2 }, &(0..16).collect::<Vec<_>>(), 3, 20.0);
    let mut end = |mode: &str| {
        let spec = format!("{{steindiff: {{sampler: {{ddim: {{steps: 6}}}}, {mode}}}}}");
        draw_samples(&sampler_from_yaml(&spec), &mut model, &curve, &x).x
    };
    let clipped = end("mode: clipped");
    assert_eq!(end("mode: self-consistent, tau: 1e-9"), clipped);
    assert_ne!(end("mode: self-consistent, tau: 1"), clipped);
    let steps = sampler_from_yaml("{ddim: {steps: 6}}")
        .steps(&velocity_context(&curve))
        .expect("right");
    let w = self_consistent::chord_weight(&steps[1..]);
    let log = |a: f64, b: f64| (a / b).ln();
    let want =
        log(steps[1].from.sigma, steps[1].to.sigma) / log(steps[1].from.sigma, steps[2].to.sigma);
    assert!((w - want).abs() < 1e-15 && w > 0.0 && w < 1.0);
}
