//! A network as a velocity: its prediction, and the scalings outside its graph, become dx/dt and
//! the Jacobian of dx/dt.
//!
//! Both are affine in the state x and the network's output F, with scalars that depend only on
//! time: v = a·x + b·F(c·x). Therefore ∂v/∂x = a·I + b·c·J_F(c·x).

use std::borrow::Cow;

use ndarray::{Array2, Axis};

use super::centred::CentredSystem;
use super::field::{EvalError, JacobianOperator, Points, VectorField};
use super::path::{PathCoefficients, PathCurve};
use super::preconditioning::{Preconditioning, PreconditioningScales};
use super::prediction::{Affine, Prediction};
use crate::num::{Batch, TangentBatch};

/// A network that is called without derivatives.
pub trait ForwardNetwork: Send {
    /// The number of components of a state.
    fn dim(&self) -> usize;

    /// Returns the network's output F(x, t), rows × dim, for one time per row.
    ///
    /// # Errors
    /// Fails if the network cannot be run.
    fn forward(&mut self, at: Points) -> Result<Batch, EvalError>;

    /// Whether the derivatives of F are known to be continuous.
    fn is_smooth(&self) -> bool {
        false
    }

    /// The number of calls of the network for one row at time `t`.
    fn calls_at(&self, _t: f64) -> u64 {
        1
    }
}

/// Products with the Jacobian J_F of a network's output F with respect to its input x.
///
/// Directions have the shape k × rows × dim: k directions per row.
pub trait NetworkJacobianOperator: Send {
    /// The number of components of a state.
    fn dim(&self) -> usize;

    /// The number of calls of the network for one row at time `t`.
    fn calls_at(&self, _t: f64) -> u64 {
        1
    }

    /// Returns the Jacobian products (JVPs) J_F·z, k × rows × dim.
    ///
    /// # Errors
    /// Fails if the network cannot be run.
    fn jvp(&mut self, at: Points, z: &TangentBatch) -> Result<TangentBatch, EvalError>;

    /// Returns the quadratic forms zᵀJ_F z, k × rows.
    ///
    /// # Errors
    /// Fails if the network cannot be run.
    fn quadratic_form(&mut self, at: Points, z: &TangentBatch) -> Result<Array2<f64>, EvalError> {
        let products = self.jvp(at, z)?;
        Ok((&products * z).sum_axis(Axis(2)))
    }

    /// Returns F and zᵀJ_F z (k × rows) from the same calls, or `None` if the network has no graph
    /// that computes both.
    ///
    /// # Errors
    /// Fails if the network cannot be run.
    fn output_and_quadratic_form(
        &mut self,
        _: Points,
        _z: &TangentBatch,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        Ok(None)
    }

    /// Returns F and J_F·z (k × rows × dim) from the same calls, or `None` if the network has no
    /// graph that computes both.
    ///
    /// # Errors
    /// Fails if the network cannot be run.
    fn output_and_jvp(
        &mut self,
        _: Points,
        _z: &TangentBatch,
    ) -> Result<Option<(Batch, TangentBatch)>, EvalError> {
        Ok(None)
    }

    /// Returns the products J_F·e with every unit vector e, dim × rows × dim, or `None` if the
    /// network has no graph of the whole Jacobian.
    ///
    /// # Errors
    /// Fails if the network cannot be run.
    fn jacobian(&mut self, _: Points) -> Result<Option<TangentBatch>, EvalError> {
        Ok(None)
    }

    /// Returns F and the products of [`jacobian`](NetworkJacobianOperator::jacobian) from the same
    /// calls, or `None` if the network has no graph that computes both.
    ///
    /// # Errors
    /// Fails if the network cannot be run.
    fn output_and_jacobian(
        &mut self,
        _: Points,
    ) -> Result<Option<(Batch, TangentBatch)>, EvalError> {
        Ok(None)
    }

    /// Returns terms whose sum is the trace of J_F, terms × rows, or `None` if the network has no
    /// graph for the trace. Each term is the sum over the same number of unit vectors.
    ///
    /// # Errors
    /// Fails if the network cannot be run.
    fn trace_terms(&mut self, _: Points) -> Result<Option<Array2<f64>>, EvalError> {
        Ok(None)
    }

    /// Returns F and the terms of [`trace_terms`](NetworkJacobianOperator::trace_terms) from the
    /// same calls, or `None` if the network has no graph that computes both.
    ///
    /// # Errors
    /// Fails if the network cannot be run.
    fn output_and_trace_terms(
        &mut self,
        _: Points,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        Ok(None)
    }

    /// Returns the Jacobian products (VJPs) J_Fᵀ·w, k × rows × dim, or `None` if the network has no
    /// reverse mode.
    ///
    /// # Errors
    /// Fails if the network cannot be run.
    fn vjp(&mut self, at: Points, w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError>;
}

/// The meaning of a network's output: what it predicts, on which path, with which scalings.
#[derive(Debug, Clone)]
pub struct Parameterization {
    /// The path on which the network was trained.
    pub curve: PathCurve,
    /// The quantity that the scaled output estimates.
    pub prediction: Prediction,
    /// The scalings outside the graph, if there are any.
    pub preconditioning: Option<Preconditioning>,
    /// The system of particles whose centre of mass stays at zero, if the model is one of such
    /// states. Velocities, products and directions are projected onto its subspace.
    pub centred: Option<CentredSystem>,
}

/// The largest part of a velocity, relative to its length, that may move the centre of mass of a
/// centred system. It is rounding, which is projected away.
const MAX_CENTRE_VELOCITY: f64 = 1e-4;

/// A function `a`·x + `b`·F(`input`·x) of the state x, in which F is the graph.
#[derive(Debug, Clone, Copy, PartialEq)]
struct NetworkAffine {
    a: f64,
    b: f64,
    input: f64,
}

impl Parameterization {
    /// Returns the coefficients of the quantity that `view` selects (velocity or denoiser) at time
    /// `t`, with the preconditioning included.
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

    /// Returns a·x + b·F for each row, from the states `x` and the network's outputs `f`.
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
        if let Some(system) = self.centred {
            system.project(&mut f);
        }
        f
    }

    /// Directions on the subspace of a centred system; other models take them as they are.
    fn on_subspace<'z>(&self, z: &'z TangentBatch) -> Cow<'z, TangentBatch> {
        match self.centred {
            Some(system) => Cow::Owned(system.project_tangents(z)),
            None => Cow::Borrowed(z),
        }
    }

    /// Checks that the network's outputs `f` keep the centre of mass of a centred system.
    ///
    /// # Errors
    /// Fails if they do not. The message says how far they move it.
    fn check_keeps_centre(&self, f: &Batch) -> Result<(), EvalError> {
        let Some(system) = self.centred else {
            return Ok(());
        };
        let offset = system.largest_offset(f);
        if offset <= MAX_CENTRE_VELOCITY {
            return Ok(());
        }
        Err(EvalError::Missing(format!(
            "prior.centred: the network's output moves the centre of mass of the {} particles: that \
             part is {offset:.1e} of its length; expected a network that keeps the centre",
            system.particles
        )))
    }

    /// Returns the states, scaled as the network's graph takes them.
    pub fn network_input<'x>(&self, t: &[f64], x: &'x Batch) -> Cow<'x, Batch> {
        let Some(p) = self.preconditioning else {
            return Cow::Borrowed(x);
        };
        let mut x = x.clone();
        x.rows_mut()
            .into_iter()
            .zip(t)
            .for_each(|(mut row, t)| row *= p.at(&self.curve.at(*t)).input);
        Cow::Owned(x)
    }
}

/// A network as a velocity. If `N` provides Jacobian products, it is also the velocity's Jacobian.
pub struct NetworkVelocity<N> {
    /// The network.
    pub network: N,
    /// The meaning of the network's output.
    pub parameterization: Parameterization,
}

impl<N: ForwardNetwork> NetworkVelocity<N> {
    /// Returns the denoiser, the conditional mean of x₀ given x, rows × dim. Samplers that end with
    /// a denoising step use it.
    ///
    /// # Errors
    /// Fails if the network cannot be run.
    pub fn denoised(&mut self, at: Points) -> Result<Batch, EvalError> {
        self.evaluate_affine(at, Prediction::denoised)
    }

    /// Calls the network once and returns the quantity that `view` selects.
    fn evaluate_affine(
        &mut self,
        at: Points,
        view: fn(Prediction, &PathCoefficients) -> Affine,
    ) -> Result<Batch, EvalError> {
        let Points { t, x, .. } = at;
        let fed = self.parameterization.network_input(t, x);
        let f = self.network.forward(at.with_states(&fed))?;
        self.parameterization.check_keeps_centre(&f)?;
        Ok(self.parameterization.combine_with_output(t, x, f, view))
    }
}

impl<N: ForwardNetwork> VectorField for NetworkVelocity<N> {
    fn dim(&self) -> usize {
        self.network.dim()
    }

    fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
        self.evaluate_affine(at, Prediction::velocity)
    }

    fn is_smooth(&self) -> bool {
        self.network.is_smooth()
    }

    fn calls_at(&self, t: f64) -> u64 {
        self.network.calls_at(t)
    }
}

impl<N: NetworkJacobianOperator> NetworkVelocity<N> {
    /// Turns Jacobian products with J_F into products with a·I + b·c·J_F.
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
        match self.parameterization.centred {
            Some(system) => system.project_tangents(&products),
            None => products,
        }
    }

    /// Turns the products of J_F with the unit vectors into those of a·I + b·c·J_F.
    fn jacobian_from_network(&self, t: &[f64], mut columns: TangentBatch) -> TangentBatch {
        for (t, mut columns) in t.iter().zip(columns.axis_iter_mut(Axis(1))) {
            let blend = self
                .parameterization
                .network_affine(*t, Prediction::velocity);
            columns *= blend.b * blend.input;
            columns.diag_mut().mapv_inplace(|entry| entry + blend.a);
        }
        columns
    }

    /// Turns zᵀJ_F z into zᵀ(a·I + b·c·J_F)z.
    fn quadratic_form_from_network(
        &self,
        t: &[f64],
        z: &TangentBatch,
        mut quadratic: Array2<f64>,
    ) -> Array2<f64> {
        for ((t, z), mut column) in
            (t.iter().zip(z.axis_iter(Axis(1)))).zip(quadratic.columns_mut())
        {
            let blend = self
                .parameterization
                .network_affine(*t, Prediction::velocity);
            column *= blend.b * blend.input;
            if blend.a != 0.0 {
                column.scaled_add(blend.a, &z.map_axis(Axis(1), |z| z.dot(&z)));
            }
        }
        quadratic
    }

    /// Turns terms of the trace of J_F into terms of the trace of a·I + b·c·J_F. Each term is the
    /// sum over the same number of unit vectors, so each gets the same share of a·tr I.
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

    fn calls_at(&self, t: f64) -> u64 {
        self.network.calls_at(t)
    }

    fn jvp(&mut self, at: Points, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        let Points { t, x, .. } = at;
        let fed = self.parameterization.network_input(t, x);
        let z = self.parameterization.on_subspace(z);
        let products = self.network.jvp(at.with_states(&fed), &z)?;
        Ok(self.jvp_from_network(t, &z, products))
    }

    fn quadratic_form(&mut self, at: Points, z: &TangentBatch) -> Result<Array2<f64>, EvalError> {
        let Points { t, x, .. } = at;
        let fed = self.parameterization.network_input(t, x);
        let z = self.parameterization.on_subspace(z);
        let quadratic = self.network.quadratic_form(at.with_states(&fed), &z)?;
        Ok(self.quadratic_form_from_network(t, &z, quadratic))
    }

    fn velocity_and_quadratic_form(
        &mut self,
        at: Points,
        z: &TangentBatch,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        let Points { t, x, .. } = at;
        let fed = self.parameterization.network_input(t, x);
        let z = self.parameterization.on_subspace(z);
        let Some((f, quadratic)) = self
            .network
            .output_and_quadratic_form(at.with_states(&fed), &z)?
        else {
            return Ok(None);
        };
        let velocity = self
            .parameterization
            .combine_with_output(t, x, f, Prediction::velocity);
        Ok(Some((
            velocity,
            self.quadratic_form_from_network(t, &z, quadratic),
        )))
    }

    fn velocity_and_jvp(
        &mut self,
        at: Points,
        z: &TangentBatch,
    ) -> Result<Option<(Batch, TangentBatch)>, EvalError> {
        let Points { t, x, .. } = at;
        let fed = self.parameterization.network_input(t, x);
        let z = self.parameterization.on_subspace(z);
        let Some((f, products)) = self.network.output_and_jvp(at.with_states(&fed), &z)? else {
            return Ok(None);
        };
        Ok(Some((
            self.parameterization
                .combine_with_output(t, x, f, Prediction::velocity),
            self.jvp_from_network(t, &z, products),
        )))
    }

    fn jacobian(&mut self, at: Points) -> Result<Option<TangentBatch>, EvalError> {
        let Points { t, x, .. } = at;
        if self.parameterization.centred.is_some() {
            // The graph's Jacobian is J and not P J P.
            return Ok(None);
        }
        let fed = self.parameterization.network_input(t, x);
        let columns = self.network.jacobian(at.with_states(&fed))?;
        Ok(columns.map(|columns| self.jacobian_from_network(t, columns)))
    }

    fn velocity_and_jacobian(
        &mut self,
        at: Points,
    ) -> Result<Option<(Batch, TangentBatch)>, EvalError> {
        let Points { t, x, .. } = at;
        if self.parameterization.centred.is_some() {
            return Ok(None);
        }
        let fed = self.parameterization.network_input(t, x);
        let Some((f, columns)) = self.network.output_and_jacobian(at.with_states(&fed))? else {
            return Ok(None);
        };
        Ok(Some((
            self.parameterization
                .combine_with_output(t, x, f, Prediction::velocity),
            self.jacobian_from_network(t, columns),
        )))
    }

    fn trace_terms(&mut self, at: Points) -> Result<Option<Array2<f64>>, EvalError> {
        let Points { t, x, .. } = at;
        if self.parameterization.centred.is_some() {
            // The graph's trace is that of J and not of P J P.
            return Ok(None);
        }
        let fed = self.parameterization.network_input(t, x);
        let terms = self.network.trace_terms(at.with_states(&fed))?;
        Ok(terms.map(|terms| self.trace_terms_from_network(t, terms)))
    }

    fn velocity_and_trace_terms(
        &mut self,
        at: Points,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        let Points { t, x, .. } = at;
        if self.parameterization.centred.is_some() {
            return Ok(None);
        }
        let fed = self.parameterization.network_input(t, x);
        let Some((f, terms)) = self.network.output_and_trace_terms(at.with_states(&fed))? else {
            return Ok(None);
        };
        Ok(Some((
            self.parameterization
                .combine_with_output(t, x, f, Prediction::velocity),
            self.trace_terms_from_network(t, terms),
        )))
    }

    fn vjp(&mut self, at: Points, w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError> {
        let Points { t, x, .. } = at;
        let fed = self.parameterization.network_input(t, x);
        let w = self.parameterization.on_subspace(w);
        let products = self.network.vjp(at.with_states(&fed), &w)?;
        Ok(products.map(|p| self.jvp_from_network(t, &w, p)))
    }
}
