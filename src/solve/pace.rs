//! The variable that adaptive steps are taken in: one in which the path is smooth.
//!
//! That is the card's own time on every path but `discrete`. A path of N betas is linear in ln α
//! between N times, so its velocity jumps at each of them; error estimates see a thousand jumps
//! and answer with thousands of steps. Against −ln α the same path has no jump: dx/du = v · dt/du.

use super::{Nodes, Span, Visitor};
use crate::flow::field::{EvalError, VectorField};
use crate::flow::path::{Curve, Path};
use crate::num::Batch;

/// A span's own variable u: the time t, or −ln α.
#[derive(Debug, Clone, Copy)]
pub struct Pace<'a> {
    curve: &'a Curve,
    start: f64,
    end: f64,
    jumps: bool,
}

impl<'a> Pace<'a> {
    pub fn new(span: Span<'a>) -> Pace<'a> {
        let jumps = matches!(span.curve.path(), Path::Discrete { .. });
        Pace { curve: span.curve, start: span.start(), end: span.end(), jumps }
    }

    pub fn start(&self) -> f64 {
        self.of(self.start)
    }

    pub fn end(&self) -> f64 {
        self.of(self.end)
    }

    fn of(&self, t: f64) -> f64 {
        if self.jumps { -self.curve.at(t).alpha.ln() } else { t }
    }

    /// The card's time at `u`, never past the span's ends, where rounding could lead.
    pub fn time(&self, u: f64) -> f64 {
        // α = e⁻ᵘ preserves variance, so (σ/α)² = e²ᵘ − 1.
        let t = if self.jumps { self.curve.time_of_ratio((2.0 * u).exp_m1().max(0.0).sqrt()) } else { u };
        t.clamp(self.start.min(self.end), self.start.max(self.end))
    }

    /// dt/du.
    pub fn rate(&self, t: f64) -> f64 {
        if !self.jumps {
            return 1.0;
        }
        let s = self.curve.at(t);
        -s.alpha / s.alpha_dot
    }

    /// The field as the solver sees it, dx/du.
    pub fn field<'f>(&'f self, field: &'f mut dyn VectorField) -> impl VectorField + 'f {
        Paced { pace: self, field }
    }

    /// Hands nodes on in the card's own time, with weights that integrate over it.
    pub fn visit(&self, nodes: &Nodes, visit: &mut Visitor) -> Result<(), EvalError> {
        let t: Vec<f64> = nodes.t.iter().map(|u| self.time(*u)).collect();
        let weight: Vec<f64> = nodes.weight.iter().zip(&t).map(|(w, t)| w * self.rate(*t)).collect();
        visit(&Nodes { t: &t, weight: &weight, ..*nodes })
    }
}

struct Paced<'f> {
    pace: &'f Pace<'f>,
    field: &'f mut dyn VectorField,
}

impl VectorField for Paced<'_> {
    fn dim(&self) -> usize {
        self.field.dim()
    }

    fn velocity(&mut self, u: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        let t: Vec<f64> = u.iter().map(|u| self.pace.time(*u)).collect();
        let mut v = self.field.velocity(&t, x)?;
        if self.pace.jumps {
            for (mut row, t) in v.rows_mut().into_iter().zip(&t) {
                row *= self.pace.rate(*t);
            }
        }
        Ok(v)
    }
}
