//! What a model offers: velocities, Jacobian products and scalars, per row.

use ndarray::{Array2, Axis};

use crate::num::key::SampleId;
use crate::num::{Batch, TangentBatch};

/// A model that could not be evaluated.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EvalError {
    /// The runtime refused a call.
    #[error("{file}: the network could not be run: {message}")]
    Runtime { file: String, message: String },
    /// The network's output does not have the shape that the card promises.
    #[error("{file}: output `{output}` has shape {found:?}, expected {expected:?}")]
    Shape {
        file: String,
        output: String,
        found: Vec<usize>,
        expected: Vec<usize>,
    },
    /// Something this program was asked for and the model does not have.
    #[error("{0}")]
    Missing(String),
    /// A signal has asked the program to stop.
    #[error("stopped by a signal")]
    Stopped,
}

/// What is wanted of an evaluation beside the velocity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvaluationPurpose {
    /// The divergence that holds the steps to their tolerance.
    StepControl,
    /// That, and the products that estimators share: the place becomes a node of the path if its step is accepted.
    QuadratureNode,
}

/// A velocity with what came along with it, row by row.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// dx/dt, rows × dim.
    pub velocity: Batch,
    /// The divergence that an adaptive solver also holds to its tolerance, where there is one.
    pub divergence: Option<Vec<f64>>,
    /// Products that estimators share, where they were wanted and came along.
    pub products: Option<JacobianProducts>,
}

/// Products with the Jacobians of some rows that several estimators take their values from.
#[derive(Debug, Clone, PartialEq)]
pub enum JacobianProducts {
    /// zᵀJz of planned directions, directions × rows; or terms of the trace of J, where that alone was planned.
    QuadraticForms(Array2<f64>),
    /// J·e of every unit vector, dim × rows × dim: all of J.
    Jacobian(TangentBatch),
}

impl JacobianProducts {
    /// Those of some rows.
    pub fn select(&self, rows: &[usize]) -> JacobianProducts {
        match self {
            JacobianProducts::QuadraticForms(forms) => {
                JacobianProducts::QuadraticForms(forms.select(Axis(1), rows))
            }
            JacobianProducts::Jacobian(columns) => {
                JacobianProducts::Jacobian(columns.select(Axis(1), rows))
            }
        }
    }

    /// Puts a row of others of the same kind in the place of one of these.
    pub fn replace_row(&mut self, row: usize, other: &JacobianProducts, from: usize) {
        match (self, other) {
            (JacobianProducts::QuadraticForms(own), JacobianProducts::QuadraticForms(other)) => {
                own.column_mut(row).assign(&other.column(from))
            }
            (JacobianProducts::Jacobian(own), JacobianProducts::Jacobian(other)) => {
                own.index_axis_mut(Axis(1), row)
                    .assign(&other.index_axis(Axis(1), from));
            }
            _ => unreachable!("one plan makes one kind of products"),
        }
    }
}

/// Jacobians that are known, as whoever multiplies by them sees them.
pub struct KnownJacobian<'a>(pub &'a TangentBatch);

impl JacobianOperator for KnownJacobian<'_> {
    fn dim(&self) -> usize {
        self.0.shape()[2]
    }

    fn jvp(&mut self, _: &[f64], _: &Batch, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        let mut out = TangentBatch::zeros(z.raw_dim());
        for ((columns, z), mut out) in self
            .0
            .axis_iter(Axis(1))
            .zip(z.axis_iter(Axis(1)))
            .zip(out.axis_iter_mut(Axis(1)))
        {
            out.assign(&z.dot(&columns));
        }
        Ok(out)
    }

    fn vjp(
        &mut self,
        _: &[f64],
        _: &Batch,
        w: &TangentBatch,
    ) -> Result<Option<TangentBatch>, EvalError> {
        let mut out = TangentBatch::zeros(w.raw_dim());
        for ((columns, w), mut out) in self
            .0
            .axis_iter(Axis(1))
            .zip(w.axis_iter(Axis(1)))
            .zip(out.axis_iter_mut(Axis(1)))
        {
            out.assign(&w.dot(&columns.t()));
        }
        Ok(Some(out))
    }
}

/// dx/dt of the probability-flow ODE in the card's own time.
pub trait VectorField: Send {
    fn dim(&self) -> usize;

    /// dx/dt; one time per row, so that no sample feels its batch.
    fn velocity(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError>;

    /// dx/dt with what comes along with it from the same calls. The divergence depends on the sample's number, the time
    /// and the state alone, so that no estimator reaches the steps.
    ///
    /// # Errors
    /// As [`VectorField::velocity`].
    fn evaluate(
        &mut self,
        _: &[SampleId],
        _: EvaluationPurpose,
        t: &[f64],
        x: &Batch,
    ) -> Result<Evaluation, EvalError> {
        Ok(Evaluation {
            velocity: self.velocity(t, x)?,
            divergence: None,
            products: None,
        })
    }

    /// Whether that divergence is known to be continuous along a path, as that of a network without kinks is.
    fn is_smooth(&self) -> bool {
        false
    }
}

/// Products with the Jacobian ∂v/∂x of a velocity.
pub trait JacobianOperator: Send {
    fn dim(&self) -> usize;

    /// J·z for each row's k directions, z of shape k × rows × dim.
    fn jvp(&mut self, t: &[f64], x: &Batch, z: &TangentBatch) -> Result<TangentBatch, EvalError>;

    /// zᵀJz for each row's k directions, k × rows.
    fn quadratic_form(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &TangentBatch,
    ) -> Result<Array2<f64>, EvalError> {
        let products = self.jvp(t, x, z)?;
        Ok((&products * z).sum_axis(ndarray::Axis(2)))
    }

    /// v and zᵀJz for each row's k directions from the same calls, or `None` where the model gives them apart.
    ///
    /// # Errors
    /// As [`JacobianOperator::jvp`].
    fn velocity_and_quadratic_form(
        &mut self,
        _t: &[f64],
        _x: &Batch,
        _z: &TangentBatch,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        Ok(None)
    }

    /// v and J·z for each row's k directions from the same calls, or `None` where the model gives them apart.
    ///
    /// # Errors
    /// As [`JacobianOperator::jvp`].
    fn velocity_and_jvp(
        &mut self,
        _t: &[f64],
        _x: &Batch,
        _z: &TangentBatch,
    ) -> Result<Option<(Batch, TangentBatch)>, EvalError> {
        Ok(None)
    }

    /// Terms whose sum is the trace of J, terms × rows, or `None` where it is to be had from products alone.
    ///
    /// # Errors
    /// As [`JacobianOperator::jvp`].
    fn trace_terms(&mut self, _t: &[f64], _x: &Batch) -> Result<Option<Array2<f64>>, EvalError> {
        Ok(None)
    }

    /// v and those terms from the same calls.
    ///
    /// # Errors
    /// As [`JacobianOperator::jvp`].
    fn velocity_and_trace_terms(
        &mut self,
        _t: &[f64],
        _x: &Batch,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        Ok(None)
    }

    /// Jᵀ·w for each row's k directions, or `None` where the model has no reverse mode.
    ///
    /// # Errors
    /// As [`JacobianOperator::jvp`].
    fn vjp(
        &mut self,
        _t: &[f64],
        _x: &Batch,
        _w: &TangentBatch,
    ) -> Result<Option<TangentBatch>, EvalError> {
        Ok(None)
    }
}

/// A scalar of state and time: a learned divergence, a closed-form log-density.
pub trait ScalarField: Send {
    fn eval(&mut self, t: &[f64], x: &Batch) -> Result<Vec<f64>, EvalError>;

    /// Whether its derivatives are known to be continuous.
    fn is_smooth(&self) -> bool {
        false
    }
}

/// What a flow does on average between two times, per row: the averages over \[from, to\] of dx/dt
/// and of its divergence along the flow's own path, in the card's own time.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowMapAverages {
    /// (x_to − x_from) / (to − from), rows × dimension.
    pub velocity: Batch,
    /// +∫ div v dt / (to − from); absent where the map was not trained to give it.
    pub divergence: Option<Vec<f64>>,
}

/// A flow map X(x, from, to) = x + (to − from)·u(x, from, to), with the divergence along it (F2D2, Ai et al.,
/// arXiv 2512.02636). At from = to the averages are the velocity and the divergence themselves.
pub trait FlowMap: Send {
    fn dim(&self) -> usize;

    /// u and D at x; one pair of times per row, so that no sample feels its batch.
    fn averages(
        &mut self,
        from: &[f64],
        to: &[f64],
        x: &Batch,
    ) -> Result<FlowMapAverages, EvalError>;

    /// D with its gradient in x, by reverse mode: the cost of about two evaluations.
    fn divergence_gradient(
        &mut self,
        from: &[f64],
        to: &[f64],
        x: &Batch,
    ) -> Result<(Vec<f64>, Batch), EvalError>;

    /// ∂u/∂x · z for each row's k directions, z of shape k × rows × dim.
    fn jvp(
        &mut self,
        from: &[f64],
        to: &[f64],
        x: &Batch,
        z: &TangentBatch,
    ) -> Result<TangentBatch, EvalError>;
}
