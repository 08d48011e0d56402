//! What holds for every sampler, and what is known of each in closed form.

use super::*;
use crate::flow::grid::Spacing;
use crate::flow::path::Path;
use crate::flow::prediction::Prediction;
use crate::model::analytic::{self, Mixture};

mod references;
mod regression;

impl Denoiser for Mixture {
    fn denoised(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        let v = self.velocity(t, x)?;
        let mut out = v;
        for (i, mut row) in out.rows_mut().into_iter().enumerate() {
            let view = Prediction::Velocity.denoised(&self.curve.at(t[i]));
            row *= view.b;
            row.scaled_add(view.a, &x.row(i));
        }
        Ok(out)
    }
}

/// Of no matter to samplers that give no density.
const UNIT: Prior = Prior { std: 1.0 };

/// A sampler as a user writes it.
fn sampler(spec: &str) -> Sampler {
    serde_yaml::from_str(spec).unwrap_or_else(|e| panic!("{spec}: {e}"))
}

/// Every sampler on every schedule, both ways to lower the order, with and without denoising.
fn all() -> Vec<Sampler> {
    let mut out = Vec::new();
    // A flow map has no schedule of this kind and no velocity: its own tests are in its file.
    for name in Sampler::NAMES.iter().filter(|n| **n != "flow-map") {
        for schedule in ["karras", "log-snr", "uniform"] {
            for (lower, denoise) in [(true, false), (false, false), (true, true)] {
                let common = format!("schedule: {schedule}, lower_order_final: {lower}, denoise_to_zero: {denoise}");
                let more: &[&str] = match *name {
                    "unipc" => &[", order: 1", ", order: 2, variant: bh2", ", order: 3", ", order: 3, variant: bh2"],
                    "dpmpp-3m" => &["", ", corrected: true"],
                    _ => &[""],
                };
                for more in more {
                    out.extend([2, 3, 7].map(|n| sampler(&format!("{{{name}: {{steps: {n}, {common}{more}}}}}"))));
                }
            }
        }
    }
    out
}

struct Counting(Mixture, u64);

impl VectorField for Counting {
    fn dim(&self) -> usize {
        2
    }
    fn velocity(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        self.1 += 1;
        self.0.velocity(t, x)
    }
}

impl Denoiser for Counting {
    fn denoised(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        self.1 += 1;
        Denoiser::denoised(&mut self.0, t, x)
    }
}

#[test]
fn on_every_path_states_stay_finite_and_evaluations_are_those_declared_and_rows_are_alone() {
    for path in Path::defaults() {
        let curve = path.curve().expect("right");
        for sampler in all() {
            let label = serde_json::to_string(&sampler).expect("plain");
            if sampler.times(&curve).is_err() {
                // Flow matching from σ = 0 to α = 0 has neither ln(α/σ) nor σ/α at its ends.
                assert!(path.kind() == "flow-matching" && !label.contains("uniform"));
                continue;
            }
            let mut field = Counting(analytic::example(curve.clone(), 2), 0);
            let x = noise(Key { seed: 1 }, &[0, 1, 2], 2, curve.prior_std());
            let out = sampler.sample(&mut field, &curve, UNIT, x.clone()).expect("analytic").x;
            assert_eq!(field.1, sampler.evaluations(&curve), "{label} {path:?}");
            assert!(out.iter().all(|v| v.is_finite() && v.abs() < 1e3), "{label} {path:?} {out}");
            let alone = sampler
                .sample(&mut field, &curve, UNIT, x.slice(ndarray::s![1..2, ..]).to_owned())
                .expect("analytic")
                .x;
            assert_eq!(alone.row(0), out.row(1), "{label} {path:?}");
        }
    }
}

#[test]
fn flow_matching_ends_are_those_of_a_path_cut_just_inside() {
    // The limits at α = 0 and σ = 0 are limits: a cut of 1e-7 moves the result by no more than a little.
    for data_at in [0, 1] {
        let whole = Path::FlowMatching { data_at, t_min: 0.0, t_max: 1.0 }.curve().expect("right");
        let cut = Path::FlowMatching { data_at, t_min: 1e-7, t_max: 1.0 - 1e-7 }.curve().expect("right");
        let x = noise(Key { seed: 4 }, &[0, 1, 2, 3], 2, 1.0);
        for spec in [
            "ddim: {steps: 6, schedule: uniform}",
            "dpmpp-2m: {steps: 6, schedule: uniform}",
            "dpmpp-3m: {steps: 6, schedule: uniform}",
            "unipc: {steps: 6, schedule: uniform, order: 2, variant: bh2}",
            "unipc: {steps: 6, schedule: uniform, order: 3, variant: bh2}",
        ] {
            let run = |curve: &crate::flow::path::Curve| {
                let mut model = analytic::example(curve.clone(), 2);
                sampler(&format!("{{{spec}}}")).sample(&mut model, curve, UNIT, x.clone()).expect("analytic").x
            };
            let gap = (&run(&whole) - &run(&cut)).mapv(f64::abs);
            // Differences over a long way in λ fade as 1/λ, so that a cut is felt through logarithms.
            assert!(gap.iter().all(|g| *g < 0.01), "{spec} {gap}");
        }
    }
}

/// T10: on a Gaussian every step multiplies the deviation by a known factor.
#[test]
fn a_gaussian_is_scaled_by_the_known_factors() {
    let curve = Path::Edm { sigma_min: 0.02, sigma_max: 20.0 }.curve().expect("right");
    let variance = 0.3;
    let mut model = Mixture {
        curve: curve.clone(),
        weights: vec![1.0],
        means: ndarray::Array2::zeros((1, 1)),
        variances: vec![variance],
    };
    let x = ndarray::array![[7.3]];
    let schedule = Schedule { steps: 9, ..Default::default() };
    let times = schedule.times(&curve).expect("right");
    let factor = |s: f64, r: f64, heun: bool| {
        let slope = |sigma: f64| sigma / (variance + sigma * sigma);
        let h = r - s;
        let predicted = 1.0 + h * slope(s);
        if heun { 1.0 + 0.5 * h * (slope(s) + predicted * slope(r)) } else { predicted }
    };
    for (sampler, is_heun) in [
        (Sampler::Euler(euler::Euler(schedule.clone())), false),
        (Sampler::Ddim(ddim::Ddim(schedule.clone())), false),
        (Sampler::Heun(heun::Heun(schedule.clone())), true),
    ] {
        let want: f64 = times.windows(2).map(|w| factor(w[0], w[1], is_heun)).product::<f64>() * 7.3;
        let got = sampler.sample(&mut model, &curve, UNIT, x.clone()).expect("analytic").x;
        assert!((got[[0, 0]] - want).abs() < 1e-12 * want.abs().max(1.0), "{}", sampler.name());
    }
}

/// T10 for the multistep methods, on a variance-preserving path: the recursion of scalars, by the formulas.
#[test]
fn a_gaussian_under_2m_follows_the_scalar_recursion() {
    let curve = Path::defaults()[2].curve().expect("right");
    let variance = 0.3;
    let mut model = Mixture {
        curve: curve.clone(),
        weights: vec![1.0],
        means: ndarray::Array2::zeros((1, 1)),
        variances: vec![variance],
    };
    let sampler = sampler("{dpmpp-2m: {steps: 8, schedule: log-snr, lower_order_final: false}}");
    let times = sampler.times(&curve).expect("right");
    let s: Vec<_> = times.iter().map(|t| curve.at(*t)).collect();
    let lambda = |i: usize| s[i].half_log_snr();
    let gain = |i: usize| s[i].alpha * variance / (s[i].alpha.powi(2) * variance + s[i].sigma.powi(2));
    let mut x = vec![0.9];
    for i in 0..8 {
        let h = lambda(i + 1) - lambda(i);
        let d = |j: usize| gain(j) * x[j];
        let difference = if i == 0 { 0.0 } else { (d(i) - d(i - 1)) * h / (lambda(i) - lambda(i - 1)) };
        let next = s[i + 1].sigma / s[i].sigma * x[i] - s[i + 1].alpha * ((-h).exp() - 1.0) * (d(i) + 0.5 * difference);
        x.push(next);
    }
    let got = sampler.sample(&mut model, &curve, UNIT, ndarray::array![[0.9]]).expect("analytic").x;
    assert!((got[[0, 0]] - x[8]).abs() < 1e-12, "{got} {}", x[8]);
}

#[test]
fn entries_are_read_and_refused_by_their_keys() {
    let refused = |spec: &str| serde_yaml::from_str::<Sampler>(spec).expect_err(spec).to_string();
    assert!(refused("{unipc: {order: 4}}").contains("expected 1, 2 or 3"));
    assert!(refused("{unipc: {ordr: 2}}").contains("ordr"));
    assert!(refused("{unipc: {variant: bh3}}").contains("bh1"));
    assert!(refused("{dpmpp-3m: {corected: true}}").contains("corected"));
    assert!(refused("{ddim: {order: 2}}").contains("order"));
    let unipc = sampler("{unipc: {order: 2, variant: bh2, steps: 5, schedule: log-snr, rho: 5}}");
    let schedule = Schedule { steps: 5, schedule: Some(Spacing::LogSnr), rho: 5.0, ..Default::default() };
    let Sampler::UniPc(read) = &unipc else { panic!("unipc") };
    assert_eq!(read.schedule, schedule);
    let written = serde_json::to_string(&unipc).expect("plain");
    assert_eq!(serde_json::from_str::<Sampler>(&written).expect("ours"), unipc);
}
