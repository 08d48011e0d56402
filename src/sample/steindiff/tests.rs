//! The identity behind γ on mixtures where everything is known (T11, T12), and what holds for every mode.

use super::super::step::Point;
use super::super::tests::{UNIT, on, run, sampler, weighted};
use super::gamma::{Moments, Probes, moments};
use super::*;
use crate::flow::path::{Curve, Path};
use crate::model::analytic::{self, Mixture};
use crate::num::Blocks;
use crate::num::key::{Key, Purpose};
use crate::num::stats;

const DIM: usize = 8;

/// Clean states and the noise that goes with them, at addresses of their own.
fn coupled(model: &Mixture, n: usize) -> (Batch, Batch) {
    let key = Key { seed: 21 };
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

/// A path, and the noise-to-signal ratios between which a step goes.
fn schedules() -> [(&'static str, Path, [f64; 2]); 5] {
    let vp = || Path::Vp {
        beta_min: 0.1,
        beta_max: 20.0,
        t_min: 1e-5,
    };
    let edm = || Path::Edm {
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
            Path::FlowMatching {
                data_at: 0,
                t_min: 0.0,
                t_max: 1.0,
            },
            [1.5, 0.3 / 0.7],
        ),
        ("edm .5 to 0", edm(), [0.5, 0.0]),
    ]
}

/// The sampler's one step between two points: with no history, T is a function of the state alone.
fn one_step(name: &str, curve: &Curve, [from, to]: [f64; 2]) -> Step {
    let from = Point::on(curve, curve.time_of_ratio(from));
    if to == 0.0 {
        return Step::denoise(from);
    }
    let to = Point::on(curve, curve.time_of_ratio(to));
    match sampler(name) {
        Sampler::Heun(_) => super::super::heun::heun(from, to),
        // The last step has no corrector, so a third point makes this one not the last.
        Sampler::UniPc(method) => {
            super::super::multistep::between(&method, false, &[from, to, to]).remove(0)
        }
        Sampler::Ddim(method) => {
            super::super::multistep::between(&method, false, &[from, to]).remove(0)
        }
        other => panic!("{other:?}"),
    }
}

struct Case {
    moments: Moments,
    x: Batch,
    u: Batch,
    clean: Batch,
    noise: Batch,
    step: Step,
}

fn case(model: &mut Mixture, step: Step, n: usize, probes: usize) -> Case {
    let (clean, noise) = coupled(model, n);
    let x = &clean * step.from.alpha + &noise * step.from.sigma;
    let curve = model.curve.clone();
    let samples: Vec<u64> = (0..n as u64).collect();
    let draw = Draw {
        on: on(&curve),
        prior: UNIT,
        key: Key { seed: 8 },
        samples: &samples,
    };
    let mut walk = Walk::from(x.clone());
    let candidate = walk.propose(&step, model).expect("analytic");
    let mut moments = moments(&step, &walk, &candidate, &draw);
    moments
        .differentiate(
            &step,
            &candidate,
            &Probes {
                draw: &draw,
                step: 0,
                count: probes,
            },
            model,
        )
        .expect("analytic");
    Case {
        moments,
        u: &x - &candidate.to,
        x,
        clean,
        noise,
        step,
    }
}

fn rule(noise_consistent: bool) -> Rule {
    Rule {
        noise_consistent,
        least: f64::NEG_INFINITY,
        most: f64::INFINITY,
        significance: 0.0,
        gate: None,
    }
}

/// Eq. (11) is the true γ* of Eq. (9), and so is its noise-consistent form: the mean of ⟨u, x − target⟩ minus
/// the numerator of γ, sample by sample, is zero within its error.
#[test]
fn steins_identity_gives_the_true_gamma_in_five_schedules() {
    for (name, path, ratios) in schedules() {
        let mut model = analytic::example(path.curve().expect("right"), DIM);
        for method in ["ddim", "heun", "{unipc: {order: 1}}"] {
            let step = one_step(method, &model.curve, ratios);
            let case = case(&mut model, step, 12_000, 1);
            for noise_consistent in [false, true] {
                let s = case.moments.statistics(&case.step, &rule(noise_consistent));
                let to = if noise_consistent {
                    (case.step.to.alpha, case.step.to.sigma)
                } else {
                    (1.0, 0.0)
                };
                let target = &case.clean * to.0 + &case.noise * to.1;
                let (alpha, sigma) = (case.step.from.alpha, case.step.from.sigma);
                let numerators = case.moments.numerators(&case.step, &rule(noise_consistent));
                let gaps: Vec<f64> = (0..case.x.nrows())
                    .map(|i| case.u.row(i).dot(&(&case.x.row(i) - &target.row(i))) - numerators[i])
                    .collect();
                let gap = stats::mean(&gaps).expect("samples");
                let error = gap.stderr.expect("samples");
                // The error is small against γ, so that agreement says something; from α = .1 it is largest, .09 at this n.
                let relative = error / s.uu / s.raw.abs().max(0.1);
                assert!(
                    gap.value.abs() < 4.0 * error && relative < 0.12,
                    "{name} {method}: {gap:?} {relative}"
                );
                let uncertain = s.stderr.expect("samples");
                if noise_consistent && method == "ddim" {
                    assert!(
                        (s.raw - 1.0).abs() < 4.0 * uncertain && uncertain < 0.08,
                        "{name}: {s:?}"
                    );
                }
                let straight = alpha == 1.0 || path.kind() == "flow-matching";
                if !noise_consistent && method == "ddim" && straight {
                    // u is then along x − D, so that the minimiser is the posterior mean itself.
                    let want = 1.0 / (1.0 - case.step.to.sigma / sigma);
                    assert!(
                        (s.raw - want).abs() < 4.0 * uncertain,
                        "{name}: {s:?} {want}"
                    );
                }
                let coupling = s.coupling.expect("products");
                assert!((coupling - 1.0).abs() < 0.06, "{name} {method}: {coupling}");
            }
        }
    }
}

/// On a Gaussian J_D is a multiple of the identity, so that every probe gives the trace itself.
#[test]
fn a_gaussian_has_the_known_moments() {
    let (c, sigma, next) = (0.3, 2.0, 0.7);
    let curve = Path::Edm {
        sigma_min: 0.002,
        sigma_max: 80.0,
    }
    .curve()
    .expect("right");
    let mut model = Mixture {
        curve,
        weights: vec![1.0],
        means: ndarray::Array2::zeros((1, DIM)),
        variances: vec![c],
    };
    let step = one_step("ddim", &model.curve, [sigma, next]);
    let s = case(&mut model, step.clone(), 4000, 2);
    let s = s.moments.statistics(&step, &rule(false));
    let (r, d) = (next / sigma, DIM as f64);
    let div = d * (1.0 - r) * sigma * sigma / (c + sigma * sigma);
    assert!(
        (s.div - div).abs() < 1e-10 && s.probe_stderr.expect("two probes") < 1e-12,
        "{s:?} {div}"
    );
    let uu = (1.0 - r).powi(2) * sigma.powi(4) * d / (c + sigma * sigma);
    assert!(
        (s.uu / uu - 1.0).abs() < 4.0 * (2.0 / (4000.0 * d)).sqrt(),
        "{s:?} {uu}"
    );
    assert!(
        (s.raw * (1.0 - r) - 1.0).abs() < 4.0 * s.stderr.expect("samples") * (1.0 - r),
        "{s:?}"
    );
}

/// Over many probes the mean of zᵀ J_u z is the exact trace, for a chain of two products as for one.
#[test]
fn probes_are_unbiased() {
    for method in ["ddim", "heun", "{unipc: {order: 1}}"] {
        let curve = Path::Vp {
            beta_min: 0.1,
            beta_max: 20.0,
            t_min: 1e-5,
        }
        .curve()
        .expect("right");
        let mut model = analytic::example(curve, DIM);
        let step = one_step(method, &model.curve, [1.2, 0.4]);
        let case = case(&mut model, step, 4, 4000);
        let curve = model.curve.clone();
        let mut walk = Walk::from(case.x.clone());
        let candidate = walk.propose(&case.step, &mut model).expect("analytic");
        let basis = Blocks::from_shape_fn((DIM, 4, DIM), |(i, _, j)| f64::from(u8::from(i == j)));
        let exact = step::products(&case.step, &candidate, &basis, &on(&curve), &mut model)
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

/// The reported error of γ from its probes is the spread that other probes give.
#[test]
fn the_probe_error_of_gamma_is_honest() {
    let curve = Path::Edm {
        sigma_min: 0.002,
        sigma_max: 80.0,
    }
    .curve()
    .expect("right");
    let mut model = analytic::example(curve.clone(), DIM);
    let step = one_step("ddim", &curve, [0.6, 0.2]);
    let (clean, noise) = coupled(&model, 64);
    let samples: Vec<u64> = (0..64).collect();
    let mut walk = Walk::from(&clean + &(&noise * step.from.sigma));
    let candidate = walk.propose(&step, &mut model).expect("analytic");
    let draws: Vec<Statistics> = (0..200)
        .map(|seed| {
            let draw = Draw {
                on: on(&curve),
                prior: UNIT,
                key: Key { seed },
                samples: &samples,
            };
            let mut moments = moments(&step, &walk, &candidate, &draw);
            let probes = Probes {
                draw: &draw,
                step: 0,
                count: 3,
            };
            moments
                .differentiate(&step, &candidate, &probes, &mut model)
                .expect("analytic");
            moments.statistics(&step, &rule(false))
        })
        .collect();
    let spread = stats::mean(&draws.iter().map(|s| s.raw).collect::<Vec<_>>()).expect("draws");
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

/// Where γ* is 1, it is told from 1 as often as its standard errors say: the test of significance keeps its level.
#[test]
fn a_true_gamma_of_one_is_found_significant_as_rarely_as_it_should() {
    let curve = Path::Vp {
        beta_min: 0.1,
        beta_max: 20.0,
        t_min: 1e-5,
    }
    .curve()
    .expect("right");
    let mut model = analytic::example(curve.clone(), DIM);
    let step = one_step("ddim", &curve, [4.0 / 3.0, 0.75]);
    let (populations, n) = (400, 64);
    let (clean, noise) = coupled(&model, populations * n);
    let (mut found, mut sum) = (0, 0.0);
    for first in (0..populations * n).step_by(n) {
        let rows = ndarray::s![first..first + n, ..];
        let samples: Vec<u64> = (first as u64..(first + n) as u64).collect();
        let draw = Draw {
            on: on(&curve),
            prior: UNIT,
            key: Key { seed: 8 },
            samples: &samples,
        };
        let mut walk =
            Walk::from(&clean.slice(rows) * step.from.alpha + &noise.slice(rows) * step.from.sigma);
        let candidate = walk.propose(&step, &mut model).expect("analytic");
        let mut moments = moments(&step, &walk, &candidate, &draw);
        moments
            .differentiate(
                &step,
                &candidate,
                &Probes {
                    draw: &draw,
                    step: 0,
                    count: 1,
                },
                &mut model,
            )
            .expect("known");
        let test = Rule {
            significance: stats::Z95,
            ..rule(true)
        };
        let s = moments.statistics(&step, &test);
        found += usize::from(test.apply(&s).1 != Action::NotSignificant);
        sum += s.raw / populations as f64;
    }
    let share = found as f64 / populations as f64;
    // 5 % and three binomial standard errors; γ* is 1 for a first-order step, an exact denoiser and this target.
    assert!(
        (sum - 1.0).abs() < 0.02 && (0.02..0.09).contains(&share),
        "γ {sum}, told from 1 in {share}"
    );
}

fn mixture() -> Mixture {
    analytic::example(
        Path::Edm {
            sigma_min: 0.02,
            sigma_max: 20.0,
        }
        .curve()
        .expect("right"),
        3,
    )
}

#[test]
fn vanilla_is_the_sampler_itself_bit_for_bit() {
    for inner in weighted() {
        let mut model = mixture();
        let curve = model.curve.clone();
        let x = super::super::noise(Key { seed: 2 }, &[0, 1, 2, 3, 4], 3, 20.0);
        for more in [
            "denoise_to_zero: true",
            "schedule: log-snr, lower_order_final: false",
        ] {
            let spec = format!("{{{inner}: {{steps: 6, {more}}}}}");
            let plain = run(&sampler(&spec), &mut model, &curve, &x);
            let vanilla = sampler(&format!(
                "{{steindiff: {{sampler: {spec}, mode: vanilla, population: 2}}}}"
            ));
            let vanilla = run(&vanilla, &mut model, &curve, &x);
            assert_eq!(vanilla.x, plain.x, "{spec}");
            assert_eq!(
                (vanilla.evaluations, vanilla.products),
                (plain.evaluations, plain.products),
                "{spec}"
            );
            // A γ that is held to exactly 1 is no correction either.
            let held = sampler(&format!(
                "{{steindiff: {{sampler: {spec}, gamma_min: 1, population: 2}}}}"
            ));
            assert_eq!(run(&held, &mut model, &curve, &x).x, plain.x, "{spec}");
            // Nor is one that nothing tells from 1.
            let unsure = sampler(&format!(
                "{{steindiff: {{sampler: {spec}, significance: 1e12, population: 2}}}}"
            ));
            assert_eq!(run(&unsure, &mut model, &curve, &x).x, plain.x, "{spec}");
        }
    }
}

/// Splits every call into single rows, as the smallest batch would.
struct Single(Mixture);

impl crate::flow::field::VectorField for Single {
    fn dim(&self) -> usize {
        self.0.means.ncols()
    }
    fn velocity(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        let mut out = Batch::zeros(x.raw_dim());
        for i in 0..x.nrows() {
            let one = self
                .0
                .velocity(&t[i..=i], &x.slice(ndarray::s![i..=i, ..]).to_owned())?;
            out.row_mut(i).assign(&one.row(0));
        }
        Ok(out)
    }
}

impl Denoiser for Single {
    fn denoised(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        self.0.denoised(t, x)
    }
    fn linearized(&mut self) -> Result<&mut dyn crate::flow::field::Linearized, EvalError> {
        self.0.linearized()
    }
}

#[test]
fn a_population_is_a_block_of_sample_numbers_and_nothing_else() {
    for mode in ["clipped", "adaptive", "noise-consistent", "self-consistent"] {
        let spec = format!(
            "{{steindiff: {{sampler: {{heun: {{steps: 6}}}}, mode: {mode}, population: 4}}}}"
        );
        let (spec, mut model) = (sampler(&spec), mixture());
        let curve = model.curve.clone();
        let ids: Vec<u64> = (0..10).collect();
        let x = super::super::noise(Key { seed: 2 }, &ids, 3, 20.0);
        let all = run(&spec, &mut model, &curve, &x);
        let numbers: Vec<(u64, usize)> = all.log.iter().map(|e| (e.population, e.n)).collect();
        assert_eq!(
            (numbers[0], numbers[5], numbers[10]),
            ((0, 4), (1, 4), (2, 2)),
            "{mode}"
        );
        // The second population by itself, and all of it one row at a time.
        let part = x.slice(ndarray::s![4..8, ..]).to_owned();
        let alone = super::super::tests::run_at(&spec, &mut model, &curve, &ids[4..8], &part);
        assert_eq!(alone.x, all.x.slice(ndarray::s![4..8, ..]), "{mode}");
        assert_eq!(alone.log, all.log[5..10], "{mode}");
        assert_eq!(
            run(&spec, &mut Single(mixture()), &curve, &x).x,
            all.x,
            "{mode}"
        );
    }
}

/// One entry of the log for each step, with an action that agrees with its numbers.
#[test]
fn the_log_says_what_was_done() {
    let entries = |spec: &str| {
        let mut model = mixture();
        let curve = model.curve.clone();
        let x = super::super::noise(Key { seed: 2 }, &(0..64).collect::<Vec<_>>(), 3, 20.0);
        run(&sampler(spec), &mut model, &curve, &x).log
    };
    let inner = "sampler: {dpmpp-2m: {steps: 6, denoise_to_zero: true}}";
    let clipped = entries(&format!("{{steindiff: {{{inner}, population: 64}}}}"));
    assert_eq!(clipped.len(), 6);
    for (i, e) in clipped.iter().enumerate() {
        assert_eq!((e.step, e.n, e.evaluations), (i, 64, 1));
        let Some(s) = e.statistics else {
            assert_eq!((e.action, e.gamma, i), (Action::SkippedLast, 1.0, 5));
            continue;
        };
        assert_eq!(e.gamma, s.raw.clamp(1e-6, 1.0), "{e:?}");
        assert_eq!(e.action == Action::ClampedHigh, s.raw > 1.0, "{e:?}");
        assert!(
            s.differentiated && s.coupling.is_some() && e.products == 5,
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
            .all(|e| e.action == Action::SkippedGate && e.gamma == 1.0)
    );
    let told = entries(&format!(
        "{{steindiff: {{{inner}, population: 64, significance: 2}}}}"
    ));
    for e in &told[..5] {
        let s = e.statistics.expect("measured");
        let held = (s.raw - 1.0).abs() <= 2.0 * s.stderr.expect("64 samples");
        assert_eq!(held, e.action == Action::NotSignificant, "{e:?}");
        assert_eq!(
            e.gamma,
            if held { 1.0 } else { s.raw.clamp(1e-6, 1.0) },
            "{e:?}"
        );
    }
    let ahead = entries(&format!(
        "{{steindiff: {{{inner}, mode: self-consistent, tau: 100}}}}"
    ));
    assert!(
        ahead[..4]
            .iter()
            .all(|e| e.evaluations == 2 && e.blend.is_some_and(|b| b > 0.9)),
        "{ahead:?}"
    );
}

/// With λ near 1 everywhere the state lies on the chord to the look ahead, and with λ near 0 on the proposal.
#[test]
fn the_self_consistent_form_lies_between_proposal_and_chord() {
    let mut model = mixture();
    let curve = model.curve.clone();
    let x = super::super::noise(Key { seed: 2 }, &(0..16).collect::<Vec<_>>(), 3, 20.0);
    let mut end = |mode: &str| {
        let spec = format!("{{steindiff: {{sampler: {{ddim: {{steps: 6}}}}, {mode}}}}}");
        run(&sampler(&spec), &mut model, &curve, &x).x
    };
    let clipped = end("mode: clipped");
    assert_eq!(end("mode: self-consistent, tau: 1e-9"), clipped);
    assert_ne!(end("mode: self-consistent, tau: 1"), clipped);
    let steps = sampler("{ddim: {steps: 6}}")
        .steps(&on(&curve))
        .expect("right");
    let w = ahead::weight(&steps[1..]);
    let log = |a: f64, b: f64| (a / b).ln();
    let want =
        log(steps[1].from.sigma, steps[1].to.sigma) / log(steps[1].from.sigma, steps[2].to.sigma);
    assert!((w - want).abs() < 1e-15 && w > 0.0 && w < 1.0);
}
