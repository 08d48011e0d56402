//! The exact trace: Σᵢ eᵢᵀA eᵢ over the coordinate basis, one product per coordinate.

use ndarray::{Array2, Axis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BatchLinearOperator, ProbeSource, TraceEstimator};
use crate::flow::field::EvalError;
use crate::num::TangentBatch;

/// The exact trace of the Jacobian, with one Jacobian product per dimension.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Exact {
    /// The number of directions in one call of the network. Default: 64.
    pub chunk: usize,
}

impl Default for Exact {
    fn default() -> Self {
        Exact { chunk: 64 }
    }
}

impl TraceEstimator for Exact {
    fn matvecs(&self, dim: usize) -> usize {
        dim
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn check(&self, _dim: usize) -> Result<(), String> {
        (self.chunk > 0)
            .then_some(())
            .ok_or_else(|| "exact: chunk is 0, expected at least 1".to_owned())
    }

    fn trace(
        &self,
        ops: &mut dyn BatchLinearOperator,
        _probes: &ProbeSource,
    ) -> Result<Array2<f64>, EvalError> {
        if let Some(terms) = ops.trace_terms()? {
            return Ok(terms.sum_axis(Axis(0)).insert_axis(Axis(0)));
        }
        let (rows, dim) = (ops.rows(), ops.dim());
        let mut total = Array2::zeros((1, rows));
        for first in (0..dim).step_by(self.chunk) {
            let k = self.chunk.min(dim - first);
            let mut basis = TangentBatch::zeros((k, rows, dim));
            for (i, mut block) in basis.outer_iter_mut().enumerate() {
                block.column_mut(first + i).fill(1.0);
            }
            let diagonal = ops.quadratic_form(&basis)?;
            total += &diagonal.sum_axis(Axis(0)).insert_axis(Axis(0));
        }
        Ok(total)
    }
}
