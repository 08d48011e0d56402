//! Euler's method on dx/dt = v.

use serde::{Deserialize, Serialize};

use super::{Denoiser, Drawn, Sample, Sampler, Schedule, heun};
use crate::flow::field::EvalError;
use crate::flow::path::Curve;
use crate::flow::prior::Prior;
use crate::num::Batch;
use crate::solve::tableau;

/// One evaluation per step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Euler(pub Schedule);

impl Sample for Euler {
    fn times(&self, curve: &Curve) -> Result<Vec<f64>, String> {
        self.0.times(curve)
    }

    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::Euler(Euler(Schedule { steps, ..self.0.clone() }))
    }

    fn evaluations(&self, curve: &Curve) -> u64 {
        self.0.one_each(curve)
    }

    fn sample(&self, field: &mut dyn Denoiser, curve: &Curve, _: Prior, x: Batch) -> Result<Drawn, EvalError> {
        heun::march(&tableau::EULER, &self.0, field, curve, x).map(Drawn::from)
    }
}
