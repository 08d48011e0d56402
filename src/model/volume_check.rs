//! A normalizing flow's log-determinants, compared with those of its own Jacobian.

use anyhow::Result;
use ndarray::{Axis, s};

use super::loaded::{JacobianOptions, Model, SessionOptions};
use super::one_call::OneCall;
use super::onnx::Runtime;
use crate::flow::field::{JacobianOperator, LogDensityTerms, OneCallDensity, Points};
use crate::num::key::SampleId;
use crate::num::{Batch, TangentBatch, linalg};

/// The most dimensions in which the log-determinants of a flow are compared with those of its
/// Jacobian.
const MAX_CHECKED_DIM: usize = 256;
/// The largest difference of two log-determinants that agree, per nat of their size and one more.
/// Networks in f32 stay far below.
const VOLUME_TOLERANCE: f64 = 1e-3;

/// The log-determinants that a normalizing flow gives, beside those of its Jacobian.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumeCheck {
    /// The log-determinants of the graph's output, in nats.
    given: Vec<f64>,
    /// log |det dz/dx| by the Jacobian of the latent, in nats.
    computed: Vec<f64>,
}

impl VolumeCheck {
    /// The largest difference between the given log-determinants, times `sign`, and the computed
    /// ones, per nat of their size and one more.
    fn largest_gap(&self, sign: f64) -> f64 {
        let gap = |(given, computed): (&f64, &f64)| {
            (sign * given - computed).abs() / (1.0 + computed.abs())
        };
        let gaps = self.given.iter().zip(&self.computed).map(gap);
        gaps.fold(0.0, |most, gap| {
            if gap > most || gap.is_nan() {
                gap
            } else {
                most
            }
        })
    }

    /// Whether they agree.
    pub fn agrees(&self) -> bool {
        self.largest_gap(1.0) <= VOLUME_TOLERANCE
    }

    /// What was found, in words.
    pub fn sentence(&self) -> String {
        let gap = self.largest_gap(1.0);
        if self.agrees() {
            return format!(
                "the log-determinants agree with the Jacobian of the latent (largest difference \
                 {gap:.1e} of their size)"
            );
        }
        let pairs = format!(
            "the first is {:.4} nats, but log |det dz/dx| is {:.4}",
            self.given[0], self.computed[0]
        );
        if self.largest_gap(-1.0) <= VOLUME_TOLERANCE {
            return format!(
                "the log-determinants are those of the map from latent to sample: {pairs}; expected \
                 the other sign"
            );
        }
        format!("the log-determinants are not those of the map from sample to latent: {pairs}")
    }
}

impl Model {
    /// Compares the log-determinants of a normalizing flow with those of its Jacobian at the states
    /// `x` of `samples`. The result is `None` for other models, in more than 256 dimensions, and if the
    /// latent does not have the shape of a sample.
    ///
    /// # Errors
    /// Fails if the graph cannot be differentiated or called.
    pub fn check_one_call_volume(
        &self,
        runtime: &Runtime,
        options: SessionOptions,
        samples: &[SampleId],
        x: &Batch,
    ) -> Result<Option<VolumeCheck>> {
        let flow = matches!(self.card.one_call, Some(OneCall::Flow { .. }));
        if !flow || self.dim() > MAX_CHECKED_DIM {
            return Ok(None);
        }
        let mut density = self.one_call(runtime, options)?;
        let times = vec![self.curve.data_end(); samples.len()];
        let at = Points::new(samples, &times, x);
        if density.latent_shape(at)? != density.network.with_state_shape(&[samples.len()]) {
            return Ok(None);
        }
        let log_det = |terms: LogDensityTerms| terms.prior_and_log_det.map_or(0.0, |[_, l]| l);
        let given = density.log_density(at)?.into_iter().map(log_det).collect();
        let mut jacobian = self.jacobian(runtime, options, JacobianOptions::default())?;
        let (rows, dim) = x.dim();
        let mut basis = TangentBatch::zeros((dim, rows, dim));
        for k in 0..dim {
            basis.slice_mut(s![k, .., k]).fill(1.0);
        }
        let columns = jacobian.jvp(at, &basis)?;
        let computed = (0..rows)
            .map(|row| linalg::log_abs_det(columns.index_axis(Axis(1), row)).0)
            .collect();
        Ok(Some(VolumeCheck { given, computed }))
    }
}
