//! The traits that a model implements: velocities, Jacobian products and scalars.
//!
//! All methods take points: a batch of states, rows × dim, with one time and one sample's number per
//! row. The result of a row does not depend on the other rows.

use std::borrow::Cow;
use std::sync::LazyLock;

use ndarray::{Array2, Axis};

use crate::num::key::SampleId;
use crate::num::linalg::weighted_row_sum;
use crate::num::{Batch, TangentBatch};

/// The reasons why a model cannot be evaluated.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EvalError {
    /// ONNX Runtime refused the call of a network.
    #[error("{file}: the network could not be run: {message}")]
    Runtime { file: String, message: String },
    /// The network's output does not have the shape that the card declares.
    #[error("{file}: output `{output}` has shape {found:?}, expected {expected:?}")]
    Shape {
        file: String,
        output: String,
        found: Vec<usize>,
        expected: Vec<usize>,
    },
    /// The caller needs something that the model does not provide.
    #[error("{0}")]
    /// The message for the user.
    Missing(String),
    /// A signal asked the program to stop.
    #[error("stopped by a signal")]
    Stopped,
}

/// The points at which a model is evaluated: for each row a sample's number, a time and a state.
///
/// The number is the address under which a conditional model looks its conditions up. It is the
/// same number that addresses the sample's random draws.
#[derive(Debug, Clone, Copy)]
pub struct Points<'a> {
    /// The number of each row's sample.
    pub samples: &'a [SampleId],
    /// The time of each row, in the card's own time.
    pub t: &'a [f64],
    /// The states, rows × dim.
    pub x: &'a Batch,
}

impl<'a> Points<'a> {
    /// Returns the points with these samples, times and states.
    ///
    /// # Panics
    /// Panics if the numbers of rows differ.
    pub fn new(samples: &'a [SampleId], t: &'a [f64], x: &'a Batch) -> Points<'a> {
        assert!(
            samples.len() == x.nrows() && t.len() == x.nrows(),
            "one sample and one time per row"
        );
        Points { samples, t, x }
    }

    /// Returns points of the samples 0, 1, …, for models without conditions and for checks.
    ///
    /// # Panics
    /// Panics if the numbers of rows differ, or if there are more than 65,536 rows.
    pub fn of_first_samples(t: &'a [f64], x: &'a Batch) -> Points<'a> {
        static FIRST: LazyLock<Vec<SampleId>> = LazyLock::new(|| (0..1 << 16).collect());
        Points::new(&FIRST[..x.nrows()], t, x)
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.x.nrows()
    }

    /// Returns the same points with the states `x`.
    pub fn with_states<'b>(&self, x: &'b Batch) -> Points<'b>
    where
        'a: 'b,
    {
        Points::new(self.samples, self.t, x)
    }

    /// Returns the given rows, in the given order. Nothing is copied if these are all rows in
    /// their present order.
    pub fn select(&self, rows: &[usize]) -> SelectedPoints<'a> {
        let all = rows.len() == self.rows() && rows.iter().enumerate().all(|(i, row)| i == *row);
        if all {
            return SelectedPoints {
                samples: Cow::Borrowed(self.samples),
                t: Cow::Borrowed(self.t),
                x: Cow::Borrowed(self.x),
            };
        }
        SelectedPoints {
            samples: rows.iter().map(|i| self.samples[*i]).collect(),
            t: rows.iter().map(|i| self.t[*i]).collect(),
            x: Cow::Owned(self.x.select(Axis(0), rows)),
        }
    }
}

/// Rows of some points, copied only if they are not all of them.
#[derive(Debug, Clone)]
pub struct SelectedPoints<'a> {
    /// The number of each row's sample.
    samples: Cow<'a, [SampleId]>,
    /// The time of each row.
    t: Cow<'a, [f64]>,
    /// The states, rows × dim.
    x: Cow<'a, Batch>,
}

impl SelectedPoints<'_> {
    /// The rows as points.
    pub fn points(&self) -> Points<'_> {
        Points {
            samples: &self.samples,
            t: &self.t,
            x: &self.x,
        }
    }
}

/// What a caller needs from an evaluation besides the velocity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvaluationPurpose {
    /// The caller needs the divergence that the step control compares with the tolerance.
    StepControl,
    /// The caller needs the divergence for the step control and the Jacobian products that the
    /// estimators share. The state becomes a node of the path if its step is accepted.
    QuadratureNode,
}

/// A velocity and the quantities that were computed in the same calls, row by row.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The velocity dx/dt, rows × dim.
    pub velocity: Batch,
    /// The divergence that an adaptive solver compares with its tolerance; `None` if the steps are
    /// controlled only by the state.
    pub divergence: Option<Vec<f64>>,
    /// The Jacobian products that the estimators share; `None` if they were not requested or are
    /// not computed together with the velocity.
    pub products: Option<JacobianProducts>,
}

/// Jacobian products of some rows, from which several estimators compute their values.
#[derive(Debug, Clone, PartialEq)]
pub enum JacobianProducts {
    /// The quadratic forms zᵀJz of the planned directions, directions × rows. If only the exact
    /// trace is planned, these are terms whose sum is the trace of J, terms × rows.
    QuadraticForms(Array2<f64>),
    /// The products J·e with every unit vector e, dim × rows × dim; together they are the whole J.
    Jacobian(TangentBatch),
}

impl JacobianProducts {
    /// Returns the products of the given rows, in the given order.
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

    /// Replaces the products of `row` by those of the row `from` of `other`.
    ///
    /// # Panics
    /// Panics if `self` and `other` are different variants.
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

/// A Jacobian operator that multiplies by stored Jacobians, dim × rows × dim: entry `[j, i, ..]` is
/// J·e_j of row i. It ignores the time and the state.
pub struct KnownJacobian<'a>(pub &'a TangentBatch);

impl JacobianOperator for KnownJacobian<'_> {
    fn dim(&self) -> usize {
        self.0.shape()[2]
    }

    fn jvp(&mut self, _: Points, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        let mut out = TangentBatch::zeros(z.raw_dim());
        for ((columns, z), mut out) in self
            .0
            .axis_iter(Axis(1))
            .zip(z.axis_iter(Axis(1)))
            .zip(out.axis_iter_mut(Axis(1)))
        {
            for (z, mut out) in z.outer_iter().zip(out.outer_iter_mut()) {
                let out = out.as_slice_mut().expect("adjacent components");
                weighted_row_sum(z, columns, out);
            }
        }
        Ok(out)
    }

    fn quadratic_form(&mut self, _: Points, z: &TangentBatch) -> Result<Array2<f64>, EvalError> {
        let (directions, rows, dim) = z.dim();
        let mut out = Array2::zeros((directions, rows));
        let mut product = ndarray::Array1::zeros(dim);
        for (row, columns) in self.0.axis_iter(Axis(1)).enumerate() {
            for (direction, z) in z.index_axis(Axis(1), row).outer_iter().enumerate() {
                let whole = product.as_slice_mut().expect("adjacent components");
                weighted_row_sum(z, columns, whole);
                out[[direction, row]] = z.dot(&product);
            }
        }
        Ok(out)
    }

    fn trace_terms(&mut self, _: Points) -> Result<Option<Array2<f64>>, EvalError> {
        Ok(Some(jacobian_diagonals(self.0)))
    }

    fn vjp(&mut self, _: Points, w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError> {
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

/// Returns the diagonals of Jacobians whose columns are stored as dim × rows × dim: dim × rows.
pub fn jacobian_diagonals(columns: &TangentBatch) -> Array2<f64> {
    let (dim, rows, _) = columns.dim();
    Array2::from_shape_fn((dim, rows), |(i, row)| columns[[i, row, i]])
}

/// The velocity dx/dt of the probability-flow ODE in the card's own time.
pub trait VectorField: Send {
    /// The number of components of a state.
    fn dim(&self) -> usize;

    /// Returns dx/dt, rows × dim, for one time per row.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    fn velocity(&mut self, at: Points) -> Result<Batch, EvalError>;

    /// Returns dx/dt with the quantities that the same calls compute.
    ///
    /// The divergence depends only on the sample's number, the time and the state. Therefore the
    /// choice of estimators does not change the steps.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    fn evaluate(&mut self, _: EvaluationPurpose, at: Points) -> Result<Evaluation, EvalError> {
        Ok(Evaluation {
            velocity: self.velocity(at)?,
            divergence: None,
            products: None,
        })
    }

    /// Whether the divergence is known to be continuous along a path, as it is for a network
    /// without kinks.
    fn is_smooth(&self) -> bool {
        false
    }

    /// The number of calls of the network for one row at time `t`: more than one if the field is
    /// guided, or if the network is evaluated at two neighbouring indices of time.
    fn calls_at(&self, _t: f64) -> u64 {
        1
    }

    /// The times at which the field itself switches, such as the ends of an interval of guidance. No
    /// step of a solver goes across one.
    fn switch_times(&self) -> Vec<f64> {
        Vec::new()
    }
}

/// Products with the Jacobian J = ∂v/∂x of a velocity v.
///
/// Directions have the shape k × rows × dim: k directions per row. Every method fails if the model
/// cannot be evaluated.
pub trait JacobianOperator: Send {
    /// The number of components of a state.
    fn dim(&self) -> usize;

    /// The number of calls of the network for one row at time `t`: more than one if the field is
    /// guided, or if the network is evaluated at two neighbouring indices of time.
    fn calls_at(&self, _t: f64) -> u64 {
        1
    }

    /// Returns the Jacobian products (JVPs) J·z, k × rows × dim.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    fn jvp(&mut self, at: Points, z: &TangentBatch) -> Result<TangentBatch, EvalError>;

    /// Returns the quadratic forms zᵀJz, k × rows.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    fn quadratic_form(&mut self, at: Points, z: &TangentBatch) -> Result<Array2<f64>, EvalError> {
        let products = self.jvp(at, z)?;
        Ok((&products * z).sum_axis(ndarray::Axis(2)))
    }

    /// Returns v and zᵀJz (k × rows) from the same calls, or `None` if the model has no graph that
    /// computes both.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    fn velocity_and_quadratic_form(
        &mut self,
        _: Points,
        _z: &TangentBatch,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        Ok(None)
    }

    /// Returns v and J·z (k × rows × dim) from the same calls, or `None` if the model has no graph
    /// that computes both.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    fn velocity_and_jvp(
        &mut self,
        _: Points,
        _z: &TangentBatch,
    ) -> Result<Option<(Batch, TangentBatch)>, EvalError> {
        Ok(None)
    }

    /// Returns the products J·e with every unit vector e, dim × rows × dim, or `None` if the model
    /// has no graph of the whole J.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    fn jacobian(&mut self, _: Points) -> Result<Option<TangentBatch>, EvalError> {
        Ok(None)
    }

    /// Returns v and the products of [`jacobian`](JacobianOperator::jacobian) from the same calls,
    /// or `None` if the model has no graph that computes both.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    fn velocity_and_jacobian(
        &mut self,
        _: Points,
    ) -> Result<Option<(Batch, TangentBatch)>, EvalError> {
        Ok(None)
    }

    /// Returns terms whose sum is the trace of J, terms × rows, or `None` if the model computes
    /// the trace only from Jacobian products.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    fn trace_terms(&mut self, _: Points) -> Result<Option<Array2<f64>>, EvalError> {
        Ok(None)
    }

    /// Returns v and the terms of [`trace_terms`](JacobianOperator::trace_terms) from the same
    /// calls, or `None` if the model has no graph that computes both.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    fn velocity_and_trace_terms(
        &mut self,
        _: Points,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        Ok(None)
    }

    /// Returns the Jacobian products (VJPs) Jᵀ·w, k × rows × dim, or `None` if the model has no
    /// reverse mode.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    fn vjp(&mut self, at: Points, w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError>;
}

/// A scalar function of state and time, such as a learned divergence or a closed-form log-density.
pub trait ScalarField: Send {
    /// Returns one value per row.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    fn eval(&mut self, at: Points) -> Result<Vec<f64>, EvalError>;

    /// Whether the derivatives of the function are known to be continuous.
    fn is_smooth(&self) -> bool {
        false
    }

    /// The number of calls of the network for one row at time `t`: more than one if the field is
    /// guided, or if the network is evaluated at two neighbouring indices of time.
    fn calls_at(&self, _t: f64) -> u64 {
        1
    }
}

/// The log-density of one sample under a one-call model, in nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogDensityTerms {
    /// log p(x).
    pub log_density: f64,
    /// The log-density of the sample's latent, and the log-determinant of the map to it. Their sum is
    /// `log_density`. `None` if the model gives the log-density itself.
    pub prior_and_log_det: Option<[f64; 2]>,
}

/// A model that gives log-densities in one call and has no velocity, such as a normalizing flow.
pub trait OneCallDensity: Send {
    /// Returns the log-density of each row. The times of the points are not read.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    fn log_density(&mut self, at: Points) -> Result<Vec<LogDensityTerms>, EvalError>;
}

/// The averages over \[from, to\] of dx/dt and of its divergence along the flow's own path, per row
/// and in the card's own time.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowMapAverages {
    /// The average velocity u = (x_to − x_from) / (to − from), rows × dim.
    pub velocity: Batch,
    /// The average divergence D = ∫ div v dt / (to − from), one per row; `None` if the map has no
    /// divergence output.
    pub divergence: Option<Vec<f64>>,
}

/// A flow map X(x, from, to) = x + (to − from)·u(x, from, to) with the divergence D along it.
///
/// Source: F2D2 (Ai et al., arXiv 2512.02636). At from = to the averages u and D are the velocity
/// and the divergence themselves.
pub trait FlowMap: Send {
    /// The number of components of a state.
    fn dim(&self) -> usize;

    /// Returns the averages u and D at x, for one pair of times per row.
    ///
    /// # Errors
    /// Fails if the map cannot be evaluated.
    fn averages(&mut self, at: Points, to: &[f64]) -> Result<FlowMapAverages, EvalError>;

    /// Returns D and its gradient with respect to x, by reverse mode. The cost is that of about two
    /// evaluations.
    ///
    /// # Errors
    /// Fails if the map cannot be evaluated, has no divergence, or was opened without the gradient.
    fn divergence_gradient(
        &mut self,
        at: Points,
        to: &[f64],
    ) -> Result<(Vec<f64>, Batch), EvalError>;

    /// Returns the Jacobian products ∂u/∂x · z for each row's k directions, k × rows × dim.
    ///
    /// # Errors
    /// Fails if the map cannot be evaluated or was opened without its Jacobian.
    fn jvp(&mut self, at: Points, to: &[f64], z: &TangentBatch) -> Result<TangentBatch, EvalError>;
}
