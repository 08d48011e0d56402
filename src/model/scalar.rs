//! Networks of one number per sample: learned divergences and closed-form log-densities.

use ndarray::Axis;

use super::network::{DerivativeSeed, Network};
use crate::flow::field::{EvalError, ScalarField};
use crate::flow::path::PathCurve;
use crate::flow::prediction::Prediction;
use crate::num::Batch;

/// One number per sample: a learned divergence or a closed-form log-density.
pub struct ScalarNetwork {
    pub(super) network: Network,
    pub(super) transform: HeadTransform,
}

/// How a head's output is turned into the divergence of dx/dt.
#[derive(Debug, Clone)]
pub struct HeadTransform {
    pub(super) scale: f64,
    /// The path and the dimension, where the output is the trace of the denoiser's Jacobian.
    pub(super) denoiser_trace: Option<(PathCurve, f64)>,
}

impl HeadTransform {
    /// With v = a·x + b·D: div v = a·d + b·tr J_D.
    pub fn divergence(&self, t: f64, output: f64) -> f64 {
        let value = self.scale * output;
        self.denoiser_trace.as_ref().map_or(value, |(curve, dim)| {
            let view = Prediction::Denoised.velocity(&curve.at(t));
            view.a * dim + view.b * value
        })
    }
}

impl ScalarField for ScalarNetwork {
    fn is_smooth(&self) -> bool {
        self.network.smooth
    }

    fn eval(&mut self, t: &[f64], x: &Batch) -> Result<Vec<f64>, EvalError> {
        let mut out = vec![0.0; x.nrows()];
        for rows in self.network.call_groups(t) {
            let times: Vec<f64> = rows.iter().map(|i| t[*i]).collect();
            let part = x.select(Axis(0), &rows);
            let wanted = [self.network.output_name.clone()];
            let y = self
                .network
                .call_padded(&times, &part, DerivativeSeed::Nothing, &wanted)?
                .remove(0);
            if y.len() != rows.len() {
                return Err(self.network.shape_error(y.shape(), vec![rows.len()]));
            }
            rows.iter()
                .zip(y.iter())
                .for_each(|(i, v)| out[*i] = self.transform.divergence(t[*i], *v));
        }
        Ok(out)
    }
}
