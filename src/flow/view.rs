//! A network seen as a velocity: predictions, and scalings outside the graph, turned into dx/dt and its Jacobian.
//!
//! All of it is affine in x and in the network's output F, with scalars of time alone:
//! v = a·x + b·F(c·x), so ∂v/∂x = a·I + b·c·J_F(c·x).

use ndarray::{Array2, Axis};

use super::field::{EvalError, Linearized, VectorField};
use super::path::{Curve, Schedule};
use super::preconditioning::{Preconditioning, Scales};
use super::prediction::{Affine, Prediction};
use crate::num::{Batch, Blocks};

/// A network's plain output.
pub trait Forward: Send {
    fn dim(&self) -> usize;

    /// F(x, t), rows × dim; one time per row.
    fn forward(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError>;

    /// Whether the derivatives of F are known to be continuous.
    fn is_smooth(&self) -> bool {
        false
    }
}

/// Products with the Jacobian J_F of a network's output.
pub trait Differentiated: Send {
    fn dim(&self) -> usize;

    /// J_F·z for each row's k directions, k × rows × dim.
    fn products(&mut self, t: &[f64], x: &Batch, z: &Blocks) -> Result<Blocks, EvalError>;

    /// zᵀJ_F z for each row's k directions, k × rows.
    fn quadratic(&mut self, t: &[f64], x: &Batch, z: &Blocks) -> Result<Array2<f64>, EvalError> {
        let products = self.products(t, x, z)?;
        Ok((&products * z).sum_axis(Axis(2)))
    }

    /// F and zᵀJ_F z from the same calls, or `None` where they are not to be had together.
    ///
    /// # Errors
    /// As [`Differentiated::products`].
    fn with_value(
        &mut self,
        _t: &[f64],
        _x: &Batch,
        _z: &Blocks,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        Ok(None)
    }

    /// F and J_F·z from the same calls, or `None` where they are not to be had together.
    ///
    /// # Errors
    /// As [`Differentiated::products`].
    fn products_with_value(
        &mut self,
        _t: &[f64],
        _x: &Batch,
        _z: &Blocks,
    ) -> Result<Option<(Batch, Blocks)>, EvalError> {
        Ok(None)
    }

    /// Terms whose sum is the trace of J_F, terms × rows, or `None` where it is to be had from products alone.
    ///
    /// # Errors
    /// As [`Differentiated::products`].
    fn trace_terms(&mut self, _t: &[f64], _x: &Batch) -> Result<Option<Array2<f64>>, EvalError> {
        Ok(None)
    }

    /// F and those terms from the same calls.
    ///
    /// # Errors
    /// As [`Differentiated::products`].
    fn trace_terms_with_value(
        &mut self,
        _t: &[f64],
        _x: &Batch,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        Ok(None)
    }

    /// J_Fᵀ·w, or `None` where reverse mode is not to be had.
    fn transposed(&mut self, t: &[f64], x: &Batch, w: &Blocks)
    -> Result<Option<Blocks>, EvalError>;
}

/// What a network's output stands for.
#[derive(Debug, Clone)]
pub struct Form {
    pub curve: Curve,
    pub prediction: Prediction,
    pub preconditioning: Option<Preconditioning>,
}

/// `a`·x + `b`·F(`input`·x).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Blend {
    a: f64,
    b: f64,
    input: f64,
}

impl Form {
    fn blend(&self, t: f64, view: fn(Prediction, &Schedule) -> Affine) -> Blend {
        let s = self.curve.at(t);
        let Affine { a, b } = view(self.prediction, &s);
        match self.preconditioning {
            None => Blend { a, b, input: 1.0 },
            Some(p) => {
                let Scales { skip, out, input } = p.at(&s);
                Blend {
                    a: a + b * skip,
                    b: b * out,
                    input,
                }
            }
        }
    }

    /// a·x + b·F from x and F.
    fn seen(
        &self,
        t: &[f64],
        x: &Batch,
        mut f: Batch,
        view: fn(Prediction, &Schedule) -> Affine,
    ) -> Batch {
        for (i, mut row) in f.rows_mut().into_iter().enumerate() {
            let blend = self.blend(t[i], view);
            row *= blend.b;
            row.scaled_add(blend.a, &x.row(i));
        }
        f
    }

    /// The state as the network takes it.
    pub fn fed<'x>(&self, t: &[f64], x: &'x Batch) -> std::borrow::Cow<'x, Batch> {
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
pub struct View<N> {
    pub network: N,
    pub form: Form,
}

impl<N: Forward> View<N> {
    /// E\[x₀ | x\], for samplers that end in a denoised state.
    ///
    /// # Errors
    /// As [`VectorField::velocity`].
    pub fn denoised(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        self.blended(t, x, Prediction::denoised)
    }

    fn blended(
        &mut self,
        t: &[f64],
        x: &Batch,
        view: fn(Prediction, &Schedule) -> Affine,
    ) -> Result<Batch, EvalError> {
        let f = self.network.forward(t, &self.form.fed(t, x))?;
        Ok(self.form.seen(t, x, f, view))
    }
}

impl<N: Forward> VectorField for View<N> {
    fn dim(&self) -> usize {
        self.network.dim()
    }

    fn velocity(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        self.blended(t, x, Prediction::velocity)
    }

    fn is_smooth(&self) -> bool {
        self.network.is_smooth()
    }
}

impl<N: Differentiated> View<N> {
    /// From products with J_F to products with a·I + b·c·J_F.
    fn whole(&self, t: &[f64], z: &Blocks, mut products: Blocks) -> Blocks {
        for (i, t) in t.iter().enumerate() {
            let blend = self.form.blend(*t, Prediction::velocity);
            let mut row = products.index_axis_mut(Axis(1), i);
            row *= blend.b * blend.input;
            row.scaled_add(blend.a, &z.index_axis(Axis(1), i));
        }
        products
    }

    /// The same for zᵀJ_F z.
    fn whole_quadratic(&self, t: &[f64], z: &Blocks, mut quadratic: Array2<f64>) -> Array2<f64> {
        let lengths = z.map_axis(Axis(2), |z| z.dot(&z));
        for (i, t) in t.iter().enumerate() {
            let blend = self.form.blend(*t, Prediction::velocity);
            let mut column = quadratic.column_mut(i);
            column *= blend.b * blend.input;
            column.scaled_add(blend.a, &lengths.column(i));
        }
        quadratic
    }

    /// The same for terms of the trace of J_F: each is of as many unit vectors.
    fn whole_terms(&self, t: &[f64], mut terms: Array2<f64>) -> Array2<f64> {
        let share = self.network.dim() as f64 / terms.nrows().max(1) as f64;
        for (t, mut column) in t.iter().zip(terms.columns_mut()) {
            let blend = self.form.blend(*t, Prediction::velocity);
            column.mapv_inplace(|term| blend.a * share + blend.b * blend.input * term);
        }
        terms
    }
}

impl<N: Differentiated> Linearized for View<N> {
    fn dim(&self) -> usize {
        self.network.dim()
    }

    fn products(&mut self, t: &[f64], x: &Batch, z: &Blocks) -> Result<Blocks, EvalError> {
        let products = self.network.products(t, &self.form.fed(t, x), z)?;
        Ok(self.whole(t, z, products))
    }

    fn quadratic(&mut self, t: &[f64], x: &Batch, z: &Blocks) -> Result<Array2<f64>, EvalError> {
        let quadratic = self.network.quadratic(t, &self.form.fed(t, x), z)?;
        Ok(self.whole_quadratic(t, z, quadratic))
    }

    fn with_velocity(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &Blocks,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        let Some((f, quadratic)) = self.network.with_value(t, &self.form.fed(t, x), z)? else {
            return Ok(None);
        };
        let velocity = self.form.seen(t, x, f, Prediction::velocity);
        Ok(Some((velocity, self.whole_quadratic(t, z, quadratic))))
    }

    fn products_with_velocity(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &Blocks,
    ) -> Result<Option<(Batch, Blocks)>, EvalError> {
        let Some((f, products)) = self
            .network
            .products_with_value(t, &self.form.fed(t, x), z)?
        else {
            return Ok(None);
        };
        Ok(Some((
            self.form.seen(t, x, f, Prediction::velocity),
            self.whole(t, z, products),
        )))
    }

    fn trace_terms(&mut self, t: &[f64], x: &Batch) -> Result<Option<Array2<f64>>, EvalError> {
        let terms = self.network.trace_terms(t, &self.form.fed(t, x))?;
        Ok(terms.map(|terms| self.whole_terms(t, terms)))
    }

    fn trace_terms_with_velocity(
        &mut self,
        t: &[f64],
        x: &Batch,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        let Some((f, terms)) = self
            .network
            .trace_terms_with_value(t, &self.form.fed(t, x))?
        else {
            return Ok(None);
        };
        Ok(Some((
            self.form.seen(t, x, f, Prediction::velocity),
            self.whole_terms(t, terms),
        )))
    }

    fn transposed(
        &mut self,
        t: &[f64],
        x: &Batch,
        w: &Blocks,
    ) -> Result<Option<Blocks>, EvalError> {
        let products = self.network.transposed(t, &self.form.fed(t, x), w)?;
        Ok(products.map(|p| self.whole(t, w, p)))
    }
}
