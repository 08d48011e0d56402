//! The variable that adaptive steps are taken in: one in which the path is smooth.
//!
//! That is the card's own time on every path but `discrete`. A path of N betas is linear in ln α
//! between N times, so its velocity jumps at each of them; error estimates see a thousand jumps
//! and answer with thousands of steps. Against −ln α the same path has no jump: dx/du = v · dt/du.

use super::{NodeVisitor, Nodes, TimeSpan};
use crate::flow::field::{EvalError, Evaluation, EvaluationPurpose, VectorField};
use crate::flow::path::{PathCurve, ProbabilityPath};
use crate::num::Batch;
use crate::num::key::SampleId;

/// A span's own variable u: the time t, or −ln α.
#[derive(Debug, Clone, Copy)]
pub struct TimeChange<'a> {
    curve: &'a PathCurve,
    start: f64,
    end: f64,
    uses_log_alpha: bool,
}

impl<'a> TimeChange<'a> {
    pub fn new(span: TimeSpan<'a>) -> TimeChange<'a> {
        let jumps = matches!(span.curve.path(), ProbabilityPath::Discrete { .. });
        TimeChange {
            curve: span.curve,
            start: span.start(),
            end: span.end(),
            uses_log_alpha: jumps,
        }
    }

    pub fn start(&self) -> f64 {
        self.variable_at(self.start)
    }

    pub fn end(&self) -> f64 {
        self.variable_at(self.end)
    }

    fn variable_at(&self, t: f64) -> f64 {
        if self.uses_log_alpha {
            -self.curve.at(t).alpha.ln()
        } else {
            t
        }
    }

    /// The card's time at `u`, never past the span's ends, where rounding could lead.
    pub fn time(&self, u: f64) -> f64 {
        // α = e⁻ᵘ preserves variance, so (σ/α)² = e²ᵘ − 1.
        let t = if self.uses_log_alpha {
            self.curve.time_of_ratio((2.0 * u).exp_m1().max(0.0).sqrt())
        } else {
            u
        };
        t.clamp(self.start.min(self.end), self.start.max(self.end))
    }

    /// dt/du.
    pub fn rate(&self, t: f64) -> f64 {
        if !self.uses_log_alpha {
            return 1.0;
        }
        let s = self.curve.at(t);
        -s.alpha / s.alpha_dot
    }

    /// The field as the solver sees it, dx/du.
    pub fn reparameterize<'f>(&'f self, field: &'f mut dyn VectorField) -> impl VectorField + 'f {
        TimeChangedField {
            time_change: self,
            field,
        }
    }

    /// Hands nodes on in the card's own time, with weights that integrate over it.
    pub fn visit_in_time(&self, nodes: &Nodes, visit: &mut NodeVisitor) -> Result<(), EvalError> {
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
        let divergence = if self.uses_log_alpha {
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

struct TimeChangedField<'f> {
    time_change: &'f TimeChange<'f>,
    field: &'f mut dyn VectorField,
}

impl TimeChangedField<'_> {
    fn scale_velocity(&self, t: &[f64], mut v: Batch) -> Batch {
        if self.time_change.uses_log_alpha {
            v.rows_mut()
                .into_iter()
                .zip(t)
                .for_each(|(mut row, t)| row *= self.time_change.rate(*t));
        }
        v
    }
}

impl VectorField for TimeChangedField<'_> {
    fn dim(&self) -> usize {
        self.field.dim()
    }

    fn is_smooth(&self) -> bool {
        self.field.is_smooth()
    }

    fn velocity(&mut self, u: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        let t: Vec<f64> = u.iter().map(|u| self.time_change.time(*u)).collect();
        let v = self.field.velocity(&t, x)?;
        Ok(self.scale_velocity(&t, v))
    }

    fn evaluate(
        &mut self,
        sample: &[SampleId],
        wanted: EvaluationPurpose,
        u: &[f64],
        x: &Batch,
    ) -> Result<Evaluation, EvalError> {
        let t: Vec<f64> = u.iter().map(|u| self.time_change.time(*u)).collect();
        let mut said = self.field.evaluate(sample, wanted, &t, x)?;
        if self.time_change.uses_log_alpha {
            said.divergence
                .iter_mut()
                .flatten()
                .zip(&t)
                .for_each(|(g, t)| *g *= self.time_change.rate(*t));
        }
        Ok(Evaluation {
            velocity: self.scale_velocity(&t, said.velocity),
            ..said
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::analytic;

    fn every_span(mut each: impl FnMut(TimeSpan)) {
        for path in ProbabilityPath::defaults() {
            let curve = path.curve().expect("defaults are right");
            each(TimeSpan {
                curve: &curve,
                to_prior: true,
            });
            each(TimeSpan {
                curve: &curve,
                to_prior: false,
            });
        }
    }

    #[test]
    fn time_change_round_trips_and_rate_is_its_derivative() {
        every_span(|span| {
            let pace = TimeChange::new(span);
            assert_eq!(
                (pace.time(pace.start()), pace.time(pace.end())),
                (span.start(), span.end())
            );
            for part in [0.1003, 0.5004, 0.9005] {
                let t = span.start() + part * (span.end() - span.start());
                let u = pace.variable_at(t);
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
    fn discrete_path_velocity_is_continuous_in_log_alpha() {
        let curve = ProbabilityPath::Discrete {
            betas: Default::default(),
            steps: 1000,
        }
        .curve()
        .expect("right");
        let mut model = analytic::example_mixture(curve.clone(), 2);
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
        let pace = TimeChange::new(TimeSpan {
            curve: &curve,
            to_prior: true,
        });
        let at = pace.variable_at(knot);
        assert!(jump(&mut pace.reparameterize(&mut model), at) < 1e-5);
    }

    #[test]
    fn nodes_are_emitted_in_card_time() {
        every_span(|span| {
            let (pace, x) = (TimeChange::new(span), Batch::zeros((1, 1)));
            let t = 0.5004 * (span.start() + span.end());
            let nodes = Nodes {
                sample: &[7],
                node: &[3],
                batch_index: &[0],
                t: &[pace.variable_at(t)],
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
            pace.visit_in_time(&nodes, &mut visit).expect("no model");
            let (sample, node, time, weight) = seen.expect("one node");
            assert_eq!((sample, node), (7, 3));
            assert!((time - t).abs() < 1e-13 * t.max(1.0) && weight == 0.25 * pace.rate(time));
        });
    }
}
