//! The variable that adaptive steps are taken in: one in which the path is smooth.
//!
//! That is the card's own time on every path but `discrete`. A path of N betas is linear in ln α
//! between N times, so its velocity jumps at each of them; error estimates see a thousand jumps
//! and answer with thousands of steps. Against −ln α the same path has no jump: dx/du = v · dt/du.

use super::{Nodes, Span, Visitor};
use crate::flow::field::{EvalError, Evaluation, VectorField, Wanted};
use crate::flow::path::{Curve, Path};
use crate::num::Batch;
use crate::num::key::SampleId;

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
        Pace {
            curve: span.curve,
            start: span.start(),
            end: span.end(),
            jumps,
        }
    }

    pub fn start(&self) -> f64 {
        self.of(self.start)
    }

    pub fn end(&self) -> f64 {
        self.of(self.end)
    }

    fn of(&self, t: f64) -> f64 {
        if self.jumps {
            -self.curve.at(t).alpha.ln()
        } else {
            t
        }
    }

    /// The card's time at `u`, never past the span's ends, where rounding could lead.
    pub fn time(&self, u: f64) -> f64 {
        // α = e⁻ᵘ preserves variance, so (σ/α)² = e²ᵘ − 1.
        let t = if self.jumps {
            self.curve.time_of_ratio((2.0 * u).exp_m1().max(0.0).sqrt())
        } else {
            u
        };
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
        let weight: Vec<f64> = nodes
            .weight
            .iter()
            .zip(&t)
            .map(|(w, t)| w * self.rate(*t))
            .collect();
        let rated = |g: &[f64]| {
            g.iter()
                .zip(&t)
                .map(|(g, t)| g / self.rate(*t))
                .collect::<Vec<f64>>()
        };
        let divergence = if self.jumps {
            nodes.divergence.map(rated)
        } else {
            None
        };
        let divergence = divergence.as_deref().or(nodes.divergence);
        visit(&Nodes {
            t: &t,
            weight: &weight,
            divergence,
            ..*nodes
        })
    }
}

struct Paced<'f> {
    pace: &'f Pace<'f>,
    field: &'f mut dyn VectorField,
}

impl Paced<'_> {
    fn paced(&self, t: &[f64], mut v: Batch) -> Batch {
        if self.pace.jumps {
            v.rows_mut()
                .into_iter()
                .zip(t)
                .for_each(|(mut row, t)| row *= self.pace.rate(*t));
        }
        v
    }
}

impl VectorField for Paced<'_> {
    fn dim(&self) -> usize {
        self.field.dim()
    }

    fn is_smooth(&self) -> bool {
        self.field.is_smooth()
    }

    fn velocity(&mut self, u: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        let t: Vec<f64> = u.iter().map(|u| self.pace.time(*u)).collect();
        let v = self.field.velocity(&t, x)?;
        Ok(self.paced(&t, v))
    }

    fn evaluate(
        &mut self,
        sample: &[SampleId],
        wanted: Wanted,
        u: &[f64],
        x: &Batch,
    ) -> Result<Evaluation, EvalError> {
        let t: Vec<f64> = u.iter().map(|u| self.pace.time(*u)).collect();
        let mut said = self.field.evaluate(sample, wanted, &t, x)?;
        if self.pace.jumps {
            said.divergence
                .iter_mut()
                .flatten()
                .zip(&t)
                .for_each(|(g, t)| *g *= self.pace.rate(*t));
        }
        Ok(Evaluation {
            velocity: self.paced(&t, said.velocity),
            ..said
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::analytic;

    fn every_span(mut each: impl FnMut(Span)) {
        for path in Path::defaults() {
            let curve = path.curve().expect("defaults are right");
            each(Span {
                curve: &curve,
                to_prior: true,
            });
            each(Span {
                curve: &curve,
                to_prior: false,
            });
        }
    }

    #[test]
    fn times_lead_back_to_themselves_and_rates_are_their_derivatives() {
        every_span(|span| {
            let pace = Pace::new(span);
            assert_eq!(
                (pace.time(pace.start()), pace.time(pace.end())),
                (span.start(), span.end())
            );
            for part in [0.1003, 0.5004, 0.9005] {
                let t = span.start() + part * (span.end() - span.start());
                let u = pace.of(t);
                assert!(
                    (pace.time(u) - t).abs() < 1e-13 * t.max(1.0),
                    "{:?} {t}",
                    span.curve.path()
                );
                // Short enough to stay between two betas.
                let du = 1e-6 * (pace.end() - pace.start());
                let slope = (pace.time(u + du) - pace.time(u - du)) / (2.0 * du);
                assert!(
                    (slope / pace.rate(t) - 1.0).abs() < 1e-6,
                    "{:?} {t}",
                    span.curve.path()
                );
            }
            // Rounding never leads past an end.
            let beyond = pace.end() + 1e-9 * (pace.end() - pace.start());
            assert_eq!(pace.time(beyond), span.end());
        });
    }

    /// A beta's velocity jumps against time, and does not against −ln α.
    #[test]
    fn the_velocity_of_a_discrete_path_has_no_jumps() {
        let curve = Path::Discrete {
            betas: Default::default(),
            steps: 1000,
        }
        .curve()
        .expect("right");
        let mut model = analytic::example(curve.clone(), 2);
        let (x, knot, small) = (ndarray::array![[0.3, -0.2]], 0.02, 1e-9);
        let jump = |field: &mut dyn VectorField, at: f64| {
            let sides =
                [at - small, at + small].map(|t| field.velocity(&[t], &x).expect("analytic"));
            (&sides[1] - &sides[0])
                .iter()
                .fold(0.0, |a: f64, e| a.max(e.abs()))
                / sides[0][[0, 0]].abs()
        };
        assert!(jump(&mut model, knot) > 1e-2);
        let pace = Pace::new(Span {
            curve: &curve,
            to_prior: true,
        });
        let at = pace.of(knot);
        assert!(jump(&mut pace.field(&mut model), at) < 1e-5);
    }

    #[test]
    fn nodes_are_handed_on_in_time() {
        every_span(|span| {
            let (pace, x) = (Pace::new(span), Batch::zeros((1, 1)));
            let t = 0.5004 * (span.start() + span.end());
            let nodes = Nodes {
                sample: &[7],
                node: &[3],
                slot: &[0],
                t: &[pace.of(t)],
                x: &x,
                weight: &[0.25],
                divergence: None,
                products: None,
            };
            let mut seen = None;
            let mut visit = |n: &Nodes| {
                seen = Some((n.sample[0], n.node[0], n.t[0], n.weight[0]));
                Ok(())
            };
            pace.visit(&nodes, &mut visit).expect("no model");
            let (sample, node, time, weight) = seen.expect("one node");
            assert_eq!((sample, node), (7, 3));
            assert!((time - t).abs() < 1e-13 * t.max(1.0) && weight == 0.25 * pace.rate(time));
        });
    }
}
