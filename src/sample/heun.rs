//! Heun's method on dx/dt = v, over the Karras grid by default (Karras et al. 2022, Algorithm 1).

use serde::{Deserialize, Serialize};

use super::{Denoiser, Drawn, Sample, Sampler, Schedule};
use crate::flow::field::{EvalError, VectorField};
use crate::flow::path::Curve;
use crate::flow::prior::Prior;
use crate::num::Batch;
use crate::solve::fixed;
use crate::solve::tableau::{self, Tableau};

/// Two evaluations in every step of the grid; with `denoise_to_zero` one more, EDM's 2N − 1.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Heun(pub Schedule);

impl Sample for Heun {
    fn times(&self, curve: &Curve) -> Result<Vec<f64>, String> {
        self.0.times(curve)
    }

    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::Heun(Heun(Schedule { steps, ..self.0.clone() }))
    }

    fn evaluations(&self, curve: &Curve) -> u64 {
        (2 * self.0.intervals(curve) + usize::from(self.0.denoise_to_zero)) as u64
    }

    fn sample(&self, field: &mut dyn Denoiser, curve: &Curve, _: Prior, x: Batch) -> Result<Drawn, EvalError> {
        march(&tableau::HEUN, &self.0, field, curve, x).map(Drawn::from)
    }
}

/// A Runge–Kutta method over a schedule, with the denoising at its end where that is asked for.
pub fn march(
    tableau: &Tableau,
    schedule: &Schedule,
    field: &mut dyn Denoiser,
    curve: &Curve,
    x: Batch,
) -> Result<Batch, EvalError> {
    struct Upcast<'a>(&'a mut dyn Denoiser);
    impl VectorField for Upcast<'_> {
        fn dim(&self) -> usize {
            self.0.dim()
        }
        fn velocity(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
            self.0.velocity(t, x)
        }
    }
    let times = schedule.times(curve).map_err(EvalError::Missing)?;
    let ids: Vec<u64> = vec![0; x.nrows()];
    let end = fixed::march(tableau, &times, &mut Upcast(field), &ids, x, &mut |_| Ok(()))?.x;
    if !schedule.denoise_to_zero {
        return Ok(end);
    }
    field.denoised(&vec![times[times.len() - 1]; end.nrows()], &end)
}
