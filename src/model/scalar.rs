//! Networks with one number per sample: learned divergence heads and closed-form log-densities.

use super::network::{DerivativeSeed, Network};
use crate::flow::field::{EvalError, Points, ScalarField};
use crate::flow::path::PathCurve;
use crate::flow::prediction::Prediction;

/// A network with one number per sample, such as a learned divergence head or a closed-form
/// log-density.
pub struct ScalarNetwork {
    /// The opened network.
    pub(super) network: Network,
    /// The conversion of its output into the divergence or the log-density.
    pub(super) transform: HeadTransform,
}

/// The conversion of a head's output into the divergence of dx/dt.
#[derive(Debug, Clone)]
pub struct HeadTransform {
    /// The factor of the output.
    pub(super) scale: f64,
    /// The path and the dimension, if the scaled output is the trace of the denoiser's Jacobian;
    /// `None` if it is the divergence itself.
    pub(super) denoiser_trace: Option<(PathCurve, f64)>,
}

impl HeadTransform {
    /// Returns the divergence for one output at time `t`. If the scaled output is tr J_D, the
    /// velocity v = a·x + b·D has the divergence a·d + b·tr J_D.
    pub fn divergence(&self, t: f64, output: f64) -> f64 {
        let value = self.scale * output;
        self.denoiser_trace.as_ref().map_or(value, |(curve, dim)| {
            let affine = Prediction::Denoised.velocity(&curve.at(t));
            affine.a * dim + affine.b * value
        })
    }
}

impl ScalarField for ScalarNetwork {
    fn is_smooth(&self) -> bool {
        self.network.smooth
    }

    fn calls_at(&self, t: f64) -> u64 {
        self.network.calls_per_row(t)
    }

    fn eval(&mut self, at: Points) -> Result<Vec<f64>, EvalError> {
        let t = at.t;
        let mut out = vec![0.0; at.rows()];
        for rows in self.network.call_groups(t) {
            let part = at.select(&rows);
            let wanted = [self.network.output_name.clone()];
            let y = self
                .network
                .call_padded(part.points(), DerivativeSeed::Nothing, &wanted)?
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
