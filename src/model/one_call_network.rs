//! The opened graph of a model that gives its log-density in one call.

use super::network::{DerivativeSeed, Network};
use super::one_call::OneCall;
use crate::flow::field::{EvalError, LogDensityTerms, OneCallDensity, Points};
use crate::flow::prior::Prior;
use crate::num::Batch;

/// A one-call model that is opened.
pub struct OneCallNetwork {
    /// The opened graph.
    pub(super) network: Network,
    /// The graph's outputs.
    pub(super) outputs: OneCall,
    /// The distribution of the latents of a flow.
    pub(super) prior: Prior,
}

impl OneCallDensity for OneCallNetwork {
    fn log_density(&mut self, at: Points) -> Result<Vec<LogDensityTerms>, EvalError> {
        let wanted = match &self.outputs {
            OneCall::Flow { latent, log_det } => vec![log_det.clone(), latent.clone()],
            OneCall::Density { log_density } => vec![log_density.clone()],
        };
        let mut outputs = self
            .network
            .call_padded(at, DerivativeSeed::Nothing, &wanted)?
            .into_iter();
        let (rows, dim) = (at.rows(), at.x.ncols());
        let number = outputs.next().unwrap_or_default();
        if number.len() != rows {
            return Err(self.output_error(&wanted[0], number.shape(), vec![rows]));
        }
        let Some(latent) = outputs.next() else {
            let terms = |value: &f64| LogDensityTerms {
                log_density: *value,
                prior_and_log_det: None,
            };
            return Ok(number.iter().map(terms).collect());
        };
        let shape = latent.shape().to_vec();
        if shape.first() != Some(&rows) || latent.len() != rows * dim {
            return Err(self.output_error(&wanted[1], &shape, vec![rows, dim]));
        }
        let latent = Batch::from_shape_vec((rows, dim), latent.iter().copied().collect())
            .expect("the number of values was just compared");
        let prior = self.prior.log_density(&latent);
        let terms = |(log_det, prior): (&f64, &f64)| LogDensityTerms {
            log_density: prior + log_det,
            prior_and_log_det: Some([*prior, *log_det]),
        };
        Ok(number.iter().zip(&prior).map(terms).collect())
    }
}

impl OneCallNetwork {
    /// The shape of the latent of a flow.
    pub(super) fn latent_shape(&mut self, at: Points) -> Result<Vec<usize>, EvalError> {
        let wanted = [self.network.output_name.clone()];
        let mut outputs = self
            .network
            .call_padded(at, DerivativeSeed::Nothing, &wanted)?;
        Ok(outputs.remove(0).shape().to_vec())
    }

    /// The error for an output whose shape is not the expected one.
    fn output_error(&self, output: &str, found: &[usize], expected: Vec<usize>) -> EvalError {
        EvalError::Shape {
            file: self.network.session.file.clone(),
            output: output.to_owned(),
            found: found.to_vec(),
            expected,
        }
    }
}
