//! Whole schedulers of diffusers, from their configuration to the samples.
//!
//! `scripts/sampler_references.py` runs each scheduler with its own code on a closed-form network,
//! and records the configuration, the noise and the states at the end. Here the configuration gives
//! the path and the sampler, which get the same noise.

use std::fs::File;

use ndarray::Array3;
use ndarray_npy::NpzReader;
use serde::Deserialize;

use super::super::diffusers::{self, DiffusersScheduler};
use super::*;

/// A scheduler that the script ran.
#[derive(Deserialize)]
struct RecordedScheduler {
    name: String,
    steps: usize,
    eta: Option<f64>,
    mu: Option<f64>,
    config: serde_json::Value,
}

/// The script's network: a prediction for a mixture, between two indices at a noise level that is
/// interpolated in its logarithm.
struct RecordedNetwork {
    curve: PathCurve,
    prediction: Prediction,
}

impl RecordedNetwork {
    /// E\[x₀ | x\] of the mixture at α and σ.
    fn mixture_denoised(x: &[f64], alpha: f64, sigma: f64) -> [f64; 2] {
        let means = [[-1.0, 0.4], [0.8, -0.2]];
        let (weights, variances) = ([0.3f64, 0.7], [0.04, 0.09]);
        let mut log = [0.0; 2];
        let mut at = [[0.0; 2]; 2];
        for k in 0..2 {
            let variance = alpha * alpha * variances[k] + sigma * sigma;
            let gap: [f64; 2] = std::array::from_fn(|j| x[j] - alpha * means[k][j]);
            let square = gap[0] * gap[0] + gap[1] * gap[1];
            log[k] = weights[k].ln() - variance.ln() - 0.5 * square / variance;
            at[k] = std::array::from_fn(|j| means[k][j] + alpha * variances[k] / variance * gap[j]);
        }
        let most = log[0].max(log[1]);
        let share = log.map(|l| (l - most).exp());
        let sum = share[0] + share[1];
        std::array::from_fn(|j| (share[0] * at[0][j] + share[1] * at[1][j]) / sum)
    }

    /// α and σ of the network's time.
    fn coefficients(&self, t: f64) -> (f64, f64) {
        let total = match self.curve.path() {
            ProbabilityPath::Discrete { steps, .. } => *steps as f64,
            _ => return (1.0 - t, t),
        };
        let index = self.curve.discrete_time_index(t);
        let at = |i: f64| self.curve.at((i + 1.0) / total);
        if (index - index.round()).abs() < 1e-9 {
            let s = at(index.round());
            return (s.alpha, s.sigma);
        }
        let [low, high] = [index.floor(), index.floor() + 1.0].map(|i| -at(i).half_log_snr());
        let level = (low + (high - low) * (index - index.floor())).exp();
        let alpha = 1.0 / (1.0 + level * level).sqrt();
        (alpha, level * alpha)
    }

    /// The network's output for one state.
    fn output(&self, t: f64, x: &[f64]) -> [f64; 2] {
        let (alpha, sigma) = self.coefficients(t);
        let d = Self::mixture_denoised(x, alpha, sigma);
        let noise: [f64; 2] = std::array::from_fn(|j| (x[j] - alpha * d[j]) / sigma);
        match self.prediction {
            Prediction::Denoised => d,
            Prediction::Noise => noise,
            Prediction::V => std::array::from_fn(|j| alpha * noise[j] - sigma * d[j]),
            _ => std::array::from_fn(|j| (x[j] - d[j]) / t),
        }
    }

    /// The outputs, read as `view` says.
    fn read(
        &self,
        t: &[f64],
        x: &Batch,
        view: fn(Prediction, &PathCoefficients) -> Affine,
    ) -> Batch {
        let mut out = x.clone();
        for (i, mut row) in out.rows_mut().into_iter().enumerate() {
            let state = row.to_vec();
            let affine = view(self.prediction, &self.curve.at(t[i]));
            for (j, f) in self.output(t[i], &state).into_iter().enumerate() {
                row[j] = affine.a * state[j] + affine.b * f;
            }
        }
        out
    }
}

impl VectorField for RecordedNetwork {
    fn dim(&self) -> usize {
        2
    }

    fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
        Ok(self.read(at.t, at.x, Prediction::velocity))
    }
}

impl Denoiser for RecordedNetwork {
    fn denoised(&mut self, at: Points) -> Result<Batch, EvalError> {
        Ok(self.read(at.t, at.x, Prediction::denoised))
    }
}

/// The folder of the references.
fn recorded(file: &str) -> String {
    format!("{}/tests/data/samplers/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// The sampler of a scheduler with the case's steps and options.
fn sampler_of(scheduler: &DiffusersScheduler, case: &RecordedScheduler) -> Sampler {
    let mut spec = scheduler.sampler.clone();
    let keys = spec
        .as_object_mut()
        .and_then(|o| o.values_mut().next())
        .and_then(|v| v.as_object_mut())
        .expect("a sampler's keys");
    for (key, value) in [("eta", case.eta), ("mu", case.mu)] {
        if let Some(value) = value {
            keys.insert(key.to_owned(), value.into());
        }
    }
    let sampler: Sampler = crate::yaml::from_yaml_str(&spec.to_string())
        .unwrap_or_else(|e| panic!("{}: {spec}: {e}", case.name));
    sampler.with_steps(case.steps)
}

#[test]
fn schedulers_of_diffusers_are_followed_step_by_step() {
    let text = std::fs::read_to_string(recorded("schedulers.json")).expect("references");
    let cases: Vec<RecordedScheduler> = serde_json::from_str(&text).expect("a list");
    let mut arrays =
        NpzReader::new(File::open(recorded("schedulers.npz")).expect("references")).expect("npz");
    let start: Batch = arrays.by_name("start").expect("start");
    let draws: Array3<f64> = arrays.by_name("noise").expect("noise");
    let ends: ndarray::Array4<f64> = arrays.by_name("ends").expect("ends");
    assert_eq!(ends.dim(), (cases.len(), 2, 3, 2));
    let noise = ReplayedNoise { draws };
    let mut wrong = Vec::new();
    for (case, ends) in cases.iter().zip(ends.outer_iter()) {
        let scheduler = diffusers::from_scheduler_config(&case.config)
            .unwrap_or_else(|e| panic!("{}: {e}", case.name));
        assert!(scheduler.followed, "{}: {:?}", case.name, scheduler.notes);
        let curve = scheduler.path.curve().expect("right");
        let context = SamplerContext {
            curve: &curve,
            prediction: scheduler.prediction,
            dim: 2,
        };
        let sampler = sampler_of(&scheduler, case);
        if let Err(e) = sampler.check(&context) {
            wrong.push(format!("{}: {e}", case.name));
            continue;
        }
        let mut network = RecordedNetwork {
            curve: curve.clone(),
            prediction: scheduler.prediction,
        };
        let draw = SampleRequest {
            context,
            prior: UNIT_PRIOR,
            key: RngKey { seed: 0 },
            samples: &[0, 1, 2],
            step_noise: Some(&noise),
        };
        let got = sampler.sample(&mut network, &draw, start.clone());
        let got = got.expect("closed form").x;
        // Single precision has its own rounding, which is large where σ/α is: it is 20,291 at the
        // first index of squared cosine betas, and 1e-3 apart in the noise of exponential levels.
        let single = match &case.name {
            name if name.contains("cosine") || name.contains("clipped") => f64::INFINITY,
            name if name.contains("exponential") => 1e-4,
            _ => 1e-5,
        };
        // Heun's first step over these levels enlarges rounding errors ten million times: their own
        // two precisions differ by 0.8.
        let double = if case.name.contains("cosine") && case.name.starts_with("heun") {
            1e-8
        } else {
            1e-10
        };
        for (kind, tolerance) in [("f64", double), ("f32", single)] {
            let want = ends.index_axis(Axis(0), usize::from(kind == "f32"));
            let gap = (&got - &want).iter().fold(0.0f64, |a, b| a.max(b.abs()));
            // NaN fails too.
            if gap.is_nan() || gap > tolerance {
                wrong.push(format!("{}.{kind}: {gap:.2e}", case.name));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} comparisons: {}",
        wrong.len(),
        2 * cases.len(),
        wrong.join("\n")
    );
}

/// Words of Python, missing keys, and what is not followed.
#[test]
fn configurations_are_read_and_refused_by_key() {
    let read = |text: &str| {
        let json = diffusers::parse_scheduler_config(text)?;
        diffusers::from_scheduler_config(&json)
    };
    let dpm = read(
        "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"num_train_timesteps\": 1000, \
         \"lambda_min_clipped\": -Infinity}",
    )
    .expect("right");
    let keys = serde_json::json!({
        "spacing": "linspace",
        "drop_last": true,
        "rounding": "nearest",
        "final_sigmas_type": "zero",
        "lower_order_below": 15
    });
    assert_eq!(dpm.sampler, serde_json::json!({ "dpmpp-2m": keys }));
    let of = |class: &str, more: &str| {
        read(&format!(
            "{{\"_class_name\": \"{class}\", \"num_train_timesteps\": 1000{more}}}"
        ))
    };
    for (class, more, what) in [
        ("PNDMScheduler", "", "PNDMScheduler"),
        ("DDIMScheduler", ", \"thresholding\": true", "thresholding"),
        (
            "DDPMScheduler",
            ", \"variance_type\": \"learned_range\"",
            "learned_range",
        ),
        (
            "EulerDiscreteScheduler",
            ", \"use_beta_sigmas\": true",
            "use_beta_sigmas",
        ),
        (
            "UniPCMultistepScheduler",
            ", \"predict_x0\": false",
            "predict_x0",
        ),
        (
            "UniPCMultistepScheduler",
            ", \"disable_corrector\": [0]",
            "disable_corrector",
        ),
        (
            "DPMSolverMultistepScheduler",
            ", \"algorithm_type\": \"dpmsolver\", \"final_sigmas_type\": \"sigma_min\"",
            "algorithm_type",
        ),
    ] {
        let scheduler = of(class, more).expect(what);
        assert!(!scheduler.followed, "{what}");
        assert!(
            scheduler.notes.iter().any(|n| n.contains(what)),
            "{:?}",
            scheduler.notes
        );
    }
    for (class, more, what) in [
        (
            "DDIMScheduler",
            ", \"beta_schedule\": \"exp\"",
            "beta_schedule",
        ),
        (
            "DDIMScheduler",
            ", \"timestep_spacing\": \"odd\"",
            "timestep_spacing",
        ),
        (
            "DDIMScheduler",
            ", \"prediction_type\": 3",
            "prediction_type",
        ),
        ("EDMEulerScheduler", "", "EDMEulerScheduler"),
    ] {
        let refused = of(class, more).expect_err(what);
        assert!(refused.contains(what), "{refused}");
    }
    assert!(read("{}").expect_err("empty").contains("_class_name"));
    assert!(read("[").expect_err("broken").contains("not valid JSON"));
}
