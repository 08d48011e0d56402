//! Samplers: from the prior end to the data end, one trajectory per address.

use serde::{Deserialize, Serialize};

use crate::flow::field::{EvalError, VectorField};
use crate::flow::grid::{self, Spacing};
use crate::flow::path::{Curve, Path};
use crate::num::Batch;
use crate::num::key::{Key, Purpose, SampleId};
use crate::registry;

pub mod euler;
pub mod heun;

registry! {
    /// The samplers, as `samplers:` and `--sampler` name them.
    pub enum Sampler: Sample {
        "euler" => Euler(euler::Euler),
        "heun" => Heun(heun::Heun),
    }
}

/// What a sampler needs of a model.
pub trait Denoiser: VectorField {
    /// E\[x₀ | x\].
    ///
    /// # Errors
    /// As [`VectorField::velocity`].
    fn denoised(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError>;
}

impl Denoiser for crate::model::opened::Velocity {
    fn denoised(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        crate::model::opened::Velocity::denoised(self, t, x)
    }
}

/// One way from noise to data.
pub trait Sample: Sync {
    fn schedule(&self) -> &Schedule;

    /// The same sampler with another number of steps.
    fn with_steps(&self, steps: usize) -> Sampler;

    /// Evaluations per sample.
    fn evaluations(&self, curve: &Curve) -> u64;

    /// Carries every row of `x` from the prior end to the data end.
    ///
    /// # Errors
    /// Where the model cannot be evaluated.
    fn sample(&self, field: &mut dyn Denoiser, curve: &Curve, x: Batch) -> Result<Batch, EvalError>;
}

/// Where a sampler stands on the path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Karras: N points, N − 1 steps; log-snr and uniform: N steps.
    pub steps: usize,
    /// Karras for edm and ve, uniform in the card's time otherwise, unless named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Spacing>,
    pub rho: f64,
    /// Ends with x ← E\[x₀ | x\] at the data end: one evaluation more.
    pub denoise_to_zero: bool,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule { steps: 18, schedule: None, rho: 7.0, denoise_to_zero: false }
    }
}

impl Schedule {
    fn spacing(&self, curve: &Curve) -> Spacing {
        self.schedule.unwrap_or(match curve.path() {
            Path::Edm { .. } | Path::Ve { .. } => Spacing::Karras,
            _ => Spacing::Uniform,
        })
    }

    /// Steps of the grid, the last denoising not counted.
    pub fn intervals(&self, curve: &Curve) -> usize {
        if self.spacing(curve) == Spacing::Karras { self.steps.saturating_sub(1) } else { self.steps }
    }

    /// Times from the prior end to the data end.
    ///
    /// # Errors
    /// A sentence with the key and what would be right.
    pub fn times(&self, curve: &Curve) -> Result<Vec<f64>, String> {
        let karras = self.spacing(curve) == Spacing::Karras;
        let least = if karras { 2 } else { 1 };
        if !(least..=1_000_000).contains(&self.steps) {
            let why = if karras { " (a karras schedule of N points has N - 1 steps)" } else { "" };
            return Err(format!("steps is {}, expected at least {least}{why}", self.steps));
        }
        if !(self.rho.is_finite() && self.rho > 0.0) {
            return Err(format!("rho is {}, expected a number above 0", self.rho));
        }
        let mut times = grid::times(curve, self.spacing(curve), self.intervals(curve), self.rho)?;
        times.reverse();
        Ok(times)
    }
}

/// Initial states by address: std · N(0, I) for each sample.
pub fn noise(key: Key, samples: &[SampleId], dim: usize, std: f64) -> Batch {
    let mut x = Batch::zeros((samples.len(), dim));
    for (mut row, sample) in x.rows_mut().into_iter().zip(samples) {
        row.assign(&(key.normal(Purpose::Noise, *sample, 0, dim) * std));
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::analytic::{self, Mixture};

    impl Denoiser for Mixture {
        fn denoised(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
            let v = self.velocity(t, x)?;
            let mut out = v;
            for (i, mut row) in out.rows_mut().into_iter().enumerate() {
                let view = crate::flow::prediction::Prediction::Velocity.denoised(&self.curve.at(t[i]));
                row *= view.b;
                row.scaled_add(view.a, &x.row(i));
            }
            Ok(out)
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
            (Sampler::Heun(heun::Heun(schedule.clone())), true),
        ] {
            let want: f64 = times.windows(2).map(|w| factor(w[0], w[1], is_heun)).product::<f64>() * 7.3;
            let got = sampler.sample(&mut model, &curve, x.clone()).expect("analytic");
            assert!((got[[0, 0]] - want).abs() < 1e-12 * want.abs().max(1.0), "{}", sampler.name());
        }
    }

    #[test]
    fn every_sampler_makes_the_evaluations_it_declares_and_stays_finite() {
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
        for sampler in Sampler::defaults() {
            for path in [Path::Edm { sigma_min: 0.02, sigma_max: 20.0 }, Path::defaults()[2].clone()] {
                let curve = path.curve().expect("right");
                let mut field = Counting(analytic::example(curve.clone(), 2), 0);
                let x = noise(Key { seed: 1 }, &[0, 1], 2, curve.prior_std());
                let out = sampler.sample(&mut field, &curve, x).expect("analytic");
                assert_eq!(field.1, sampler.evaluations(&curve), "{} {path:?}", sampler.name());
                assert!(out.iter().all(|v| v.is_finite()), "{} {path:?}", sampler.name());
            }
        }
    }
}
