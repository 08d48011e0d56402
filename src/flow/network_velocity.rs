//! A network seen as a velocity: predictions, and scalings outside the graph, turned into dx/dt and its Jacobian.
//!
//! All of it is affine in x and in the network's output F, with scalars of time alone:
//! v = a·x + b·F(c·x), so ∂v/∂x = a·I + b·c·J_F(c·x).

use ndarray::{Array2, Axis};

use super::field::{EvalError, JacobianOperator, VectorField};
use super::path::{PathCoefficients, PathCurve};
use super::preconditioning::{Preconditioning, PreconditioningScales};
use super::prediction::{Affine, Prediction};
use crate::num::{Batch, TangentBatch};

/// A network's plain output.
pub trait ForwardNetwork: Send {
    fn dim(&self) -> usize;

    /// F(x, t), rows × dim; one time per row.
    fn forward(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError>;

    /// Whether the derivatives of F are known to be continuous.
    fn is_smooth(&self) -> bool {
        false
    }
}

/// Products with the Jacobian J_F of a network's output.
pub trait NetworkJacobianOperator: Send {
    fn dim(&self) -> usize;

    /// J_F·z for each row's k directions, k × rows × dim.
    fn jvp(&mut self, t: &[f64], x: &Batch, z: &TangentBatch) -> Result<TangentBatch, EvalError>;

    /// zᵀJ_F z for each row's k directions, k × rows.
    fn quadratic_form(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &TangentBatch,
    ) -> Result<Array2<f64>, EvalError> {
        let products = self.jvp(t, x, z)?;
        Ok((&products * z).sum_axis(Axis(2)))
    }

    /// F and zᵀJ_F z from the same calls, or `None` where they are not to be had together.
    ///
    /// # Errors
    /// As [`NetworkJacobianOperator::jvp`].
    fn output_and_quadratic_form(
        &mut self,
        _t: &[f64],
        _x: &Batch,
        _z: &TangentBatch,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        Ok(None)
    }

    /// F and J_F·z from the same calls, or `None` where they are not to be had together.
    ///
    /// # Errors
    /// As [`NetworkJacobianOperator::jvp`].
    fn output_and_jvp(
        &mut self,
        _t: &[f64],
        _x: &Batch,
        _z: &TangentBatch,
    ) -> Result<Option<(Batch, TangentBatch)>, EvalError> {
        Ok(None)
    }

    /// Terms whose sum is the trace of J_F, terms × rows, or `None` where it is to be had from products alone.
    ///
    /// # Errors
    /// As [`NetworkJacobianOperator::jvp`].
    fn trace_terms(&mut self, _t: &[f64], _x: &Batch) -> Result<Option<Array2<f64>>, EvalError> {
        Ok(None)
    }

    /// F and those terms from the same calls.
    ///
    /// # Errors
    /// As [`NetworkJacobianOperator::jvp`].
    fn output_and_trace_terms(
        &mut self,
        _t: &[f64],
        _x: &Batch,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        Ok(None)
    }

    /// J_Fᵀ·w, or `None` where reverse mode is not to be had.
    fn vjp(
        &mut self,
        t: &[f64],
        x: &Batch,
        w: &TangentBatch,
    ) -> Result<Option<TangentBatch>, EvalError>;
}

/// What a network's output stands for.
#[derive(Debug, Clone)]
pub struct Parameterization {
    pub curve: PathCurve,
    pub prediction: Prediction,
    pub preconditioning: Option<Preconditioning>,
}

/// `a`·x + `b`·F(`input`·x).
#[derive(Debug, Clone, Copy, PartialEq)]
struct NetworkAffine {
    a: f64,
    b: f64,
    input: f64,
}

impl Parameterization {
    fn network_affine(
        &self,
        t: f64,
        view: fn(Prediction, &PathCoefficients) -> Affine,
    ) -> NetworkAffine {
        let s = self.curve.at(t);
        let Affine { a, b } = view(self.prediction, &s);
        match self.preconditioning {
            None => NetworkAffine { a, b, input: 1.0 },
            Some(p) => {
                let PreconditioningScales { skip, out, input } = p.at(&s);
                NetworkAffine {
                    a: a + b * skip,
                    b: b * out,
                    input,
                }
            }
        }
    }

    /// a·x + b·F from x and F.
    fn combine_with_output(
        &self,
        t: &[f64],
        x: &Batch,
        mut f: Batch,
        view: fn(Prediction, &PathCoefficients) -> Affine,
    ) -> Batch {
        for (i, mut row) in f.rows_mut().into_iter().enumerate() {
            let blend = self.network_affine(t[i], view);
            row *= blend.b;
            row.scaled_add(blend.a, &x.row(i));
        }
        f
    }

    /// The state as the network takes it.
    pub fn network_input<'x>(&self, t: &[f64], x: &'x Batch) -> std::borrow::Cow<'x, Batch> {
        let Some(p) = self.preconditioning else {
            return std::borrow::Cow::Borrowed(x);
        };
        let mut x = x.clone();
        x.rows_mut()
            .into_iter()
            .zip(t)
            .for_each(|(mut row, t)| row *= p.at(&self.curve.at(*t)).input);
        std::borrow::Cow::Owned(x)
    }
}

/// A network as a velocity, or, for `N` differentiated, as a velocity's Jacobian.
pub struct NetworkVelocity<N> {
    pub network: N,
    pub parameterization: Parameterization,
}

impl<N: ForwardNetwork> NetworkVelocity<N> {
    /// E\[x₀ | x\], for samplers that end in a denoised state.
    ///
    /// # Errors
    /// As [`VectorField::velocity`].
    pub fn denoised(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        self.evaluate_affine(t, x, Prediction::denoised)
    }

    fn evaluate_affine(
        &mut self,
        t: &[f64],
        x: &Batch,
        view: fn(Prediction, &PathCoefficients) -> Affine,
    ) -> Result<Batch, EvalError> {
        let f = self
            .network
            .forward(t, &self.parameterization.network_input(t, x))?;
        Ok(self.parameterization.combine_with_output(t, x, f, view))
    }
}

impl<N: ForwardNetwork> VectorField for NetworkVelocity<N> {
    fn dim(&self) -> usize {
        self.network.dim()
    }

    fn velocity(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        self.evaluate_affine(t, x, Prediction::velocity)
    }

    fn is_smooth(&self) -> bool {
        self.network.is_smooth()
    }
}

impl<N: NetworkJacobianOperator> NetworkVelocity<N> {
    /// From products with J_F to products with a·I + b·c·J_F.
    fn jvp_from_network(
        &self,
        t: &[f64],
        z: &TangentBatch,
        mut products: TangentBatch,
    ) -> TangentBatch {
        for (i, t) in t.iter().enumerate() {
            let blend = self
                .parameterization
                .network_affine(*t, Prediction::velocity);
            let mut row = products.index_axis_mut(Axis(1), i);
            row *= blend.b * blend.input;
            row.scaled_add(blend.a, &z.index_axis(Axis(1), i));
        }
        products
    }

    /// The same for zᵀJ_F z.
    fn quadratic_form_from_network(
        &self,
        t: &[f64],
        z: &TangentBatch,
        mut quadratic: Array2<f64>,
    ) -> Array2<f64> {
        let lengths = z.map_axis(Axis(2), |z| z.dot(&z));
        for (i, t) in t.iter().enumerate() {
            let blend = self
                .parameterization
                .network_affine(*t, Prediction::velocity);
            let mut column = quadratic.column_mut(i);
            column *= blend.b * blend.input;
            column.scaled_add(blend.a, &lengths.column(i));
        }
        quadratic
    }

    /// The same for terms of the trace of J_F: each is of as many unit vectors.
    fn trace_terms_from_network(&self, t: &[f64], mut terms: Array2<f64>) -> Array2<f64> {
        let share = self.network.dim() as f64 / terms.nrows().max(1) as f64;
        for (t, mut column) in t.iter().zip(terms.columns_mut()) {
            let blend = self
                .parameterization
                .network_affine(*t, Prediction::velocity);
            column.mapv_inplace(|term| blend.a * share + blend.b * blend.input * term);
        }
        terms
    }
}

impl<N: NetworkJacobianOperator> JacobianOperator for NetworkVelocity<N> {
    fn dim(&self) -> usize {
        self.network.dim()
    }

    fn jvp(&mut self, t: &[f64], x: &Batch, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        let products = self
            .network
            .jvp(t, &self.parameterization.network_input(t, x), z)?;
        Ok(self.jvp_from_network(t, z, products))
    }

    fn quadratic_form(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &TangentBatch,
    ) -> Result<Array2<f64>, EvalError> {
        let quadratic =
            self.network
                .quadratic_form(t, &self.parameterization.network_input(t, x), z)?;
        Ok(self.quadratic_form_from_network(t, z, quadratic))
    }

    fn velocity_and_quadratic_form(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &TangentBatch,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        let Some((f, quadratic)) = self.network.output_and_quadratic_form(
            t,
            &self.parameterization.network_input(t, x),
            z,
        )?
        else {
            return Ok(None);
        };
        let velocity = self
            .parameterization
            .combine_with_output(t, x, f, Prediction::velocity);
        Ok(Some((
            velocity,
            self.quadratic_form_from_network(t, z, quadratic),
        )))
    }

    fn velocity_and_jvp(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &TangentBatch,
    ) -> Result<Option<(Batch, TangentBatch)>, EvalError> {
        let Some((f, products)) =
            self.network
                .output_and_jvp(t, &self.parameterization.network_input(t, x), z)?
        else {
            return Ok(None);
        };
        Ok(Some((
            self.parameterization
                .combine_with_output(t, x, f, Prediction::velocity),
            self.jvp_from_network(t, z, products),
        )))
    }

    fn trace_terms(&mut self, t: &[f64], x: &Batch) -> Result<Option<Array2<f64>>, EvalError> {
        let terms = self
            .network
            .trace_terms(t, &self.parameterization.network_input(t, x))?;
        Ok(terms.map(|terms| self.trace_terms_from_network(t, terms)))
    }

    fn velocity_and_trace_terms(
        &mut self,
        t: &[f64],
        x: &Batch,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        let Some((f, terms)) = self
            .network
            .output_and_trace_terms(t, &self.parameterization.network_input(t, x))?
        else {
            return Ok(None);
        };
        Ok(Some((
            self.parameterization
                .combine_with_output(t, x, f, Prediction::velocity),
            self.trace_terms_from_network(t, terms),
        )))
    }

    fn vjp(
        &mut self,
        t: &[f64],
        x: &Batch,
        w: &TangentBatch,
    ) -> Result<Option<TangentBatch>, EvalError> {
        let products = self
            .network
            .vjp(t, &self.parameterization.network_input(t, x), w)?;
        Ok(products.map(|p| self.jvp_from_network(t, w, p)))
    }
}
