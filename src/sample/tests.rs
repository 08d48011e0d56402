//! Properties of every sampler, and closed forms of single samplers.

use super::*;
use crate::flow::field::Points;
use crate::flow::grid::GridSpacing;
use crate::flow::path::{PathCoefficients, ProbabilityPath};
use crate::flow::prediction::{Affine, Prediction};
use crate::model::analytic::{self, AnalyticMixture};
use crate::num::TangentBatch;
use crate::num::key::SampleId;

mod churn;
mod random_steps;
mod references;
mod regression;
mod schedulers;

impl Denoiser for AnalyticMixture {
    fn denoised(&mut self, at: Points) -> Result<Batch, EvalError> {
        let Points { t, x, .. } = at;
        let v = self.velocity(at)?;
        let mut out = v;
        for (i, mut row) in out.rows_mut().into_iter().enumerate() {
            let view = Prediction::Velocity.denoised(&self.curve.at(t[i]));
            row *= view.b;
            row.scaled_add(view.a, &x.row(i));
        }
        Ok(out)
    }

    fn linearized(&mut self) -> Result<&mut dyn JacobianOperator, EvalError> {
        Ok(self)
    }
}

/// A prior for samplers that compute no density, which do not use it.
pub(super) const UNIT_PRIOR: Prior = Prior::isotropic(1.0);

/// The end states of `x` with a sampler. Row i is sample i.
pub(super) fn draw_samples(
    sampler: &Sampler,
    field: &mut dyn Denoiser,
    curve: &PathCurve,
    x: &Batch,
) -> DrawnSamples {
    draw_samples_at(
        sampler,
        field,
        curve,
        &(0..x.nrows() as u64).collect::<Vec<_>>(),
        x,
    )
}

/// The end states of `x` with a sampler. The rows are the given samples.
pub(super) fn draw_samples_at(
    sampler: &Sampler,
    field: &mut dyn Denoiser,
    curve: &PathCurve,
    samples: &[SampleId],
    x: &Batch,
) -> DrawnSamples {
    sampler
        .sample(
            field,
            &SampleRequest {
                context: velocity_context(curve),
                prior: UNIT_PRIOR,
                key: RngKey { seed: 3 },
                samples,
                step_noise: None,
            },
            x.clone(),
        )
        .expect("analytic")
}

/// A context whose velocity is finite at both ends of any path.
pub(super) fn velocity_context(curve: &PathCurve) -> SamplerContext<'_> {
    SamplerContext {
        curve,
        prediction: Prediction::Velocity,
        dim: 2,
    }
}

/// A sampler from its YAML.
pub(super) fn sampler_from_yaml(spec: &str) -> Sampler {
    serde_yaml::from_str(spec).unwrap_or_else(|e| panic!("{spec}: {e}"))
}

/// Every sampler with every schedule, with and without lower final orders and final denoising.
fn all_sampler_variants() -> Vec<Sampler> {
    let mut out = Vec::new();
    // A flow map has no such schedule and no velocity, and an ODE solver has a grid of its own.
    // Their tests are in their own files.
    let without_schedule = ["flow-map", "ode"];
    out.extend(
        ["euler", "midpoint", "heun", "rk4"]
            .map(|solver| sampler_from_yaml(&format!("{{ode: {{solver: {solver}}}}}"))),
    );
    for name in (Sampler::NAMES.iter()).filter(|n| !without_schedule.contains(n)) {
        for schedule in ["karras", "log-snr", "uniform"] {
            for (lower, denoise) in [(true, false), (false, false), (true, true)] {
                let common = format!(
                    "schedule: {schedule}, lower_order_final: {lower}, denoise_to_zero: {denoise}"
                );
                let more: &[&str] = match *name {
                    "unipc" => &[
                        ", order: 1",
                        ", order: 2, variant: bh2",
                        ", order: 3",
                        ", order: 3, variant: bh2",
                    ],
                    "dpmpp-3m" => &["", ", corrected: true"],
                    "steindiff" => {
                        out.extend(steindiff_variants(&common));
                        continue;
                    }
                    _ => &[""],
                };
                for more in more {
                    out.extend([2, 3, 7].map(|n| {
                        sampler_from_yaml(&format!("{{{name}: {{steps: {n}, {common}{more}}}}}"))
                    }));
                }
            }
        }
    }
    out
}

/// The names of the samplers whose steps are weights.
pub(super) fn weighted_sampler_names() -> impl Iterator<Item = &'static str> {
    Sampler::NAMES
        .iter()
        .copied()
        .filter(|name| !["flow-map", "steindiff", "ode"].contains(name))
}

/// The names of the samplers whose steps draw no noise by default. SteinDiff corrects only these.
pub(super) fn deterministic_sampler_names() -> impl Iterator<Item = &'static str> {
    let random = ["ddpm", "euler-ancestral", "dpmpp-2m-sde", "dpmpp-sde"];
    weighted_sampler_names().filter(move |name| !random.contains(name))
}

/// SteinDiff in every mode with one sampler, and in one mode with every sampler.
fn steindiff_variants(schedule: &str) -> Vec<Sampler> {
    let modes = [
        "vanilla",
        "literal",
        "clipped",
        "analytical",
        "adaptive",
        "noise-consistent",
        "self-consistent",
    ]
    .into_iter();
    let modes = modes.map(|mode| ("unipc", mode));
    let around = deterministic_sampler_names().map(|name| (name, "clipped"));
    let spec = |more: &str, (inner, mode): (&str, &str)| {
        sampler_from_yaml(&format!(
            "{{steindiff: {{sampler: {{{inner}: {{steps: 5, {schedule}}}}}, mode: {mode}, \
             skip_last: false, probes: 2{more}}}}}"
        ))
    };
    let measured = ", population: 3, lipschitz: {samples: 3, iterations: 2}";
    let with_lipschitz = ["vanilla", "clipped"].map(|mode| spec(measured, ("unipc", mode)));
    let plain = modes.chain(around).map(|variant| spec("", variant));
    plain.chain(with_lipschitz).collect()
}

/// Counts evaluations and Jacobian products per direction.
struct CountingMixture(AnalyticMixture, u64, u64);

impl VectorField for CountingMixture {
    fn dim(&self) -> usize {
        2
    }
    fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
        self.1 += 1;
        self.0.velocity(at)
    }
}

impl Denoiser for CountingMixture {
    fn denoised(&mut self, at: Points) -> Result<Batch, EvalError> {
        self.1 += 1;
        Denoiser::denoised(&mut self.0, at)
    }

    fn linearized(&mut self) -> Result<&mut dyn JacobianOperator, EvalError> {
        Ok(self)
    }
}

impl JacobianOperator for CountingMixture {
    fn dim(&self) -> usize {
        2
    }
    fn jvp(&mut self, at: Points, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        self.2 += z.shape()[0] as u64;
        self.0.jvp(at, z)
    }
    fn vjp(&mut self, at: Points, w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError> {
        self.2 += w.shape()[0] as u64;
        self.0.vjp(at, w)
    }
}

#[test]
fn samplers_are_finite_cost_as_declared_and_batch_independent() {
    for path in ProbabilityPath::defaults() {
        let curve = path.curve().expect("right");
        for sampler in all_sampler_variants() {
            let label = serde_json::to_string(&sampler).expect("plain");
            if sampler.check(&velocity_context(&curve)).is_err() {
                // Flow matching from σ = 0 to α = 0 has neither ln(α/σ) nor σ/α at its ends.
                assert!(path.kind() == "flow-matching" && !label.contains("uniform"));
                continue;
            }
            let mut field = CountingMixture(analytic::example_mixture(curve.clone(), 2), 0, 0);
            let x = initial_noise(RngKey { seed: 1 }, &[0, 1, 2], 2, curve.prior_std());
            let (out, declared) = (
                draw_samples(&sampler, &mut field, &curve, &x),
                sampler.cost(&velocity_context(&curve)),
            );
            assert_eq!(
                [field.1, field.2],
                [out.evaluations[0], out.products[0]],
                "{label} {path:?}"
            );
            assert!(
                declared.is_upper_bound || field.1 == declared.evaluations,
                "{label} {path:?}"
            );
            assert!(
                field.1 <= declared.evaluations && field.2 == declared.products,
                "{label} {path:?}"
            );
            // Mode `literal` of SteinDiff diverges.
            let bounded = !label.contains("literal");
            assert!(
                !bounded || out.x.iter().all(|v| v.is_finite() && v.abs() < 1e3),
                "{label} {path:?} {}",
                out.x
            );
            if sampler.population().is_none() {
                let one = x.slice(ndarray::s![1..2, ..]).to_owned();
                let alone = draw_samples_at(&sampler, &mut field, &curve, &[1], &one).x;
                assert_eq!(alone.row(0), out.x.row(1), "{label} {path:?}");
            }
        }
    }
}

#[test]
fn flow_matching_full_path_is_the_limit_of_a_truncated_path() {
    // The formulas at α = 0 and σ = 0 are limits, so truncation at 1e-7 changes the result little.
    for data_at in [0, 1] {
        let whole = ProbabilityPath::FlowMatching {
            data_at,
            t_min: 0.0,
            t_max: 1.0,
        }
        .curve()
        .expect("right");
        let cut = ProbabilityPath::FlowMatching {
            data_at,
            t_min: 1e-7,
            t_max: 1.0 - 1e-7,
        }
        .curve()
        .expect("right");
        let x = initial_noise(RngKey { seed: 4 }, &[0, 1, 2, 3], 2, 1.0);
        for spec in [
            "ddim: {steps: 6, schedule: uniform}",
            "dpmpp-2m: {steps: 6, schedule: uniform}",
            "dpmpp-3m: {steps: 6, schedule: uniform}",
            "unipc: {steps: 6, schedule: uniform, order: 2, variant: bh2}",
            "unipc: {steps: 6, schedule: uniform, order: 3, variant: bh2}",
        ] {
            let end = |curve: &PathCurve| {
                let mut model = analytic::example_mixture(curve.clone(), 2);
                draw_samples(
                    &sampler_from_yaml(&format!("{{{spec}}}")),
                    &mut model,
                    curve,
                    &x,
                )
                .x
            };
            let gap = (&end(&whole) - &end(&cut)).mapv(f64::abs);
            // Differences over a long step in λ vanish like 1/λ, so the effect of the cut is only
            // logarithmic.
            assert!(gap.iter().all(|g| *g < 0.01), "{spec} {gap}");
        }
    }
}

/// T10: on a Gaussian every step multiplies the distance from the mean by a known factor.
#[test]
fn gaussian_is_scaled_by_known_factors() {
    let curve = ProbabilityPath::Edm {
        sigma_min: 0.02,
        sigma_max: 20.0,
    }
    .curve()
    .expect("right");
    let variance = 0.3;
    let mut model = AnalyticMixture {
        curve: curve.clone(),
        weights: vec![1.0],
        means: ndarray::Array2::zeros((1, 1)),
        variances: vec![variance],
    };
    let x = ndarray::array![[7.3]];
    let schedule = SamplerSchedule {
        steps: 9,
        ..Default::default()
    };
    let times = schedule.times(&curve).expect("right");
    let factor = |s: f64, r: f64, heun: bool| {
        let slope = |sigma: f64| sigma / (variance + sigma * sigma);
        let h = r - s;
        let predicted = 1.0 + h * slope(s);
        if heun {
            1.0 + 0.5 * h * (slope(s) + predicted * slope(r))
        } else {
            predicted
        }
    };
    for (sampler, is_heun) in [
        (Sampler::Euler(euler::Euler(schedule.clone())), false),
        (
            Sampler::Ddim(ddim::Ddim {
                schedule: schedule.clone(),
                ..Default::default()
            }),
            false,
        ),
        (
            Sampler::Heun(heun::Heun {
                schedule: schedule.clone(),
                ..Default::default()
            }),
            true,
        ),
    ] {
        let want: f64 = times
            .windows(2)
            .map(|w| factor(w[0], w[1], is_heun))
            .product::<f64>()
            * 7.3;
        let got = draw_samples(&sampler, &mut model, &curve, &x).x;
        assert!(
            (got[[0, 0]] - want).abs() < 1e-12 * want.abs().max(1.0),
            "{}",
            sampler.name()
        );
    }
}

/// T10 for multistep methods on a variance-preserving path: the formulas as a recursion of scalars.
#[test]
fn dpmpp_2m_on_a_gaussian_matches_the_scalar_recursion() {
    let curve = ProbabilityPath::defaults()[2].curve().expect("right");
    let variance = 0.3;
    let mut model = AnalyticMixture {
        curve: curve.clone(),
        weights: vec![1.0],
        means: ndarray::Array2::zeros((1, 1)),
        variances: vec![variance],
    };
    let sampler =
        sampler_from_yaml("{dpmpp-2m: {steps: 8, schedule: log-snr, lower_order_final: false}}");
    let times: Vec<f64> = sampler
        .grid(&velocity_context(&curve))
        .expect("right")
        .iter()
        .map(|p| p.t)
        .collect();
    let s: Vec<_> = times.iter().map(|t| curve.at(*t)).collect();
    let lambda = |i: usize| s[i].half_log_snr();
    let gain =
        |i: usize| s[i].alpha * variance / (s[i].alpha.powi(2) * variance + s[i].sigma.powi(2));
    let mut x = vec![0.9];
    for i in 0..8 {
        let h = lambda(i + 1) - lambda(i);
        let d = |j: usize| gain(j) * x[j];
        let difference = if i == 0 {
            0.0
        } else {
            (d(i) - d(i - 1)) * h / (lambda(i) - lambda(i - 1))
        };
        let next = s[i + 1].sigma / s[i].sigma * x[i]
            - s[i + 1].alpha * ((-h).exp() - 1.0) * (d(i) + 0.5 * difference);
        x.push(next);
    }
    let got = draw_samples(&sampler, &mut model, &curve, &ndarray::array![[0.9]]).x;
    assert!((got[[0, 0]] - x[8]).abs() < 1e-12, "{got} {}", x[8]);
}

#[test]
fn sampler_entries_parse_and_reject_bad_keys() {
    let refused = |spec: &str| {
        serde_yaml::from_str::<Sampler>(spec)
            .expect_err(spec)
            .to_string()
    };
    assert!(refused("{unipc: {order: 4}}").contains("expected 1, 2 or 3"));
    assert!(refused("{unipc: {ordr: 2}}").contains("ordr"));
    assert!(refused("{unipc: {variant: bh3}}").contains("bh1"));
    assert!(refused("{dpmpp-3m: {corected: true}}").contains("corected"));
    assert!(refused("{ddim: {order: 2}}").contains("order"));
    let check = |spec: &str, path: &ProbabilityPath| {
        let curve = path.curve().expect("defaults are right");
        sampler_from_yaml(spec)
            .check(&velocity_context(&curve))
            .expect_err(spec)
    };
    let [edm, vp] = [0, 2].map(|i| ProbabilityPath::defaults().remove(i));
    for (spec, key) in [
        ("{steindiff: {probes: 0}}", "probes"),
        ("{steindiff: {population: 0}}", "population"),
        ("{steindiff: {gamma_min: 2}}", "gamma_min"),
        ("{steindiff: {mode: literal, gamma_max: 1}}", "gamma_max"),
        ("{steindiff: {tau: 0}}", "tau"),
        ("{steindiff: {gate: [1.2, 0.8]}}", "gate"),
        ("{steindiff: {mode: analytical, gate: [0.8, 1.2]}}", "gate"),
        ("{steindiff: {sampler: steindiff}}", "around itself"),
        ("{steindiff: {sampler: flow-map}}", "not weights"),
        ("{steindiff: {sampler: {heun: {steps: 1}}}}", "steps is 1"),
        ("{steindiff: {sampler: {heun: {s_churn: 3}}}}", "s_churn"),
        ("{heun: {s_churn: -1}}", "s_churn"),
        ("{heun: {s_churn: 1, variable: sigma}}", "variable"),
        ("{steindiff: {significance: -1}}", "significance"),
        ("{steindiff: {significance: .nan}}", "significance"),
    ] {
        assert!(
            check(spec, &edm).contains(key),
            "{spec}: {}",
            check(spec, &edm)
        );
    }
    assert!(check("{heun: {s_churn: 3}}", &vp).contains("edm"));
    assert!(refused("{steindiff: {mode: clipt}}").contains("clipped"));
    assert!(refused("{steindiff: {sampler: {heum: {}}}}").contains("heum"));
    assert_eq!(
        sampler_from_yaml("steindiff").label(),
        "steindiff(dpmpp-2m)"
    );
    let label = sampler_from_yaml("{steindiff: {sampler: {unipc: {steps: 5}}, probes: 1}}").label();
    assert_eq!(label, "steindiff(unipc(steps=5) probes=1)");
    let unipc =
        sampler_from_yaml("{unipc: {order: 2, variant: bh2, steps: 5, schedule: log-snr, rho: 5}}");
    let schedule = SamplerSchedule {
        steps: 5,
        schedule: Some(GridSpacing::LogSnr),
        rho: 5.0,
        ..Default::default()
    };
    let Sampler::UniPc(read) = &unipc else {
        panic!("unipc")
    };
    assert_eq!(read.schedule, schedule);
    let written = serde_json::to_string(&unipc).expect("plain");
    assert_eq!(
        serde_json::from_str::<Sampler>(&written).expect("ours"),
        unipc
    );
}

/// The velocity is undefined at an end of the path for some predictions. The last step of Heun's
/// method is then an Euler step, as in EDM. A sampler that needs the velocity there is refused.
#[test]
fn samplers_handle_ends_without_velocity() {
    let curve = ProbabilityPath::FlowMatching {
        data_at: 0,
        t_min: 0.0,
        t_max: 1.0,
    }
    .curve()
    .expect("right");
    let spec =
        |name: &str| sampler_from_yaml(&format!("{{{name}: {{steps: 4, schedule: uniform}}}}"));
    let with = |prediction| SamplerContext {
        curve: &curve,
        prediction,
        dim: 2,
    };
    assert_eq!(
        spec("heun").cost(&with(Prediction::Velocity)).evaluations,
        8
    );
    assert_eq!(
        spec("heun").cost(&with(Prediction::Denoised)).evaluations,
        7
    );
    for name in weighted_sampler_names() {
        assert!(
            spec(name).check(&with(Prediction::Denoised)).is_ok(),
            "{name}"
        );
        let refused = spec(name).check(&with(Prediction::Noise)).expect_err(name);
        assert!(
            refused.contains("alpha is 0") && refused.contains("t_max"),
            "{name}: {refused}"
        );
    }
    let mut model = analytic::example_mixture(curve.clone(), 2);
    let x = initial_noise(RngKey { seed: 1 }, &[0, 1, 2], 2, 1.0);
    let draw = SampleRequest {
        context: with(Prediction::Denoised),
        prior: UNIT_PRIOR,
        key: RngKey { seed: 1 },
        samples: &[0, 1, 2],
        step_noise: None,
    };
    let drawn = spec("heun").sample(&mut model, &draw, x).expect("analytic");
    assert!(drawn.x.iter().all(|v| v.is_finite()) && drawn.evaluations == [7; 3]);
}
