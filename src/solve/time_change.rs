//! The integration variable of adaptive steps, in which the path is smooth.
//!
//! It is the card's own time on every path except `discrete`. A discrete path with N betas is
//! linear in ln α between N times, so its velocity jumps at each of these times. Error estimates
//! would see a thousand jumps and force thousands of steps. With u = −ln α as the variable, the
//! same path has no jumps: dx/du = v · dt/du.

use super::{NodeVisitor, Nodes, TimeSpan};
use crate::flow::field::{EvalError, Evaluation, EvaluationPurpose, Points, VectorField};
use crate::flow::path::{PathCurve, ProbabilityPath};
use crate::num::Batch;

/// The integration variable u of a span: the time t, or −ln α.
#[derive(Debug, Clone, Copy)]
pub struct TimeChange<'a> {
    curve: &'a PathCurve,
    start: f64,
    end: f64,
    /// Whether u is −ln α; otherwise it is the time.
    uses_log_alpha: bool,
}

impl<'a> TimeChange<'a> {
    /// Chooses the variable for the span's path.
    pub fn new(span: TimeSpan<'a>) -> TimeChange<'a> {
        // With α = 0 at an end, −ln α is infinite there.
        let jumps = matches!(span.curve.path(), ProbabilityPath::Discrete { .. })
            && span.curve.at(span.curve.prior_end()).alpha > 0.0;
        TimeChange {
            curve: span.curve,
            start: span.start(),
            end: span.end(),
            uses_log_alpha: jumps,
        }
    }

    /// The value of u at the start of the span.
    pub fn start(&self) -> f64 {
        self.variable_at(self.start)
    }

    /// The value of u at the end of the span.
    pub fn end(&self) -> f64 {
        self.variable_at(self.end)
    }

    /// The value of u at time `t`.
    fn variable_at(&self, t: f64) -> f64 {
        if self.uses_log_alpha {
            -self.curve.at(t).alpha.ln()
        } else {
            t
        }
    }

    /// The card's time at `u`, clamped to the span, because rounding could lead past its ends.
    pub fn time(&self, u: f64) -> f64 {
        // A discrete path preserves variance, so with α = e⁻ᵘ, (σ/α)² = e²ᵘ − 1.
        let t = if self.uses_log_alpha {
            self.curve.time_of_ratio((2.0 * u).exp_m1().max(0.0).sqrt())
        } else {
            u
        };
        t.clamp(self.start.min(self.end), self.start.max(self.end))
    }

    /// The derivative dt/du at time `t`.
    pub fn rate(&self, t: f64) -> f64 {
        if !self.uses_log_alpha {
            return 1.0;
        }
        let s = self.curve.at(t);
        -s.alpha / s.alpha_dot
    }

    /// Wraps the field so that it takes u instead of the time and returns dx/du.
    pub fn reparameterize<'f>(&'f self, field: &'f mut dyn VectorField) -> impl VectorField + 'f {
        TimeChangedField {
            time_change: self,
            field,
        }
    }

    /// Passes the nodes to `visit` in the card's own time, with weights that integrate over that
    /// time.
    ///
    /// # Errors
    /// Fails if `visit` fails.
    pub fn visit_in_time(&self, nodes: &Nodes, visit: &mut NodeVisitor) -> Result<(), EvalError> {
        let t: Vec<f64> = nodes.t.iter().map(|u| self.time(*u)).collect();
        let weight: Vec<f64> = nodes
            .weight
            .iter()
            .zip(&t)
            .map(|(w, t)| w * self.rate(*t))
            .collect();
        let per_time = |g: &[f64]| {
            g.iter()
                .zip(&t)
                .map(|(g, t)| g / self.rate(*t))
                .collect::<Vec<f64>>()
        };
        let divergence = if self.uses_log_alpha {
            nodes.divergence.map(per_time)
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

/// A velocity field in the variable u.
struct TimeChangedField<'f> {
    time_change: &'f TimeChange<'f>,
    field: &'f mut dyn VectorField,
}

impl TimeChangedField<'_> {
    /// Converts dx/dt at the times `t` into dx/du.
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

    fn calls_at(&self, u: f64) -> u64 {
        self.field.calls_at(self.time_change.time(u))
    }

    fn switch_times(&self) -> Vec<f64> {
        let times = self.field.switch_times();
        times
            .iter()
            .map(|t| self.time_change.variable_at(*t))
            .collect()
    }

    fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
        let t: Vec<f64> = at.t.iter().map(|u| self.time_change.time(*u)).collect();
        let v = self.field.velocity(Points { t: &t, ..at })?;
        Ok(self.scale_velocity(&t, v))
    }

    fn evaluate(
        &mut self,
        purpose: EvaluationPurpose,
        at: Points,
    ) -> Result<Evaluation, EvalError> {
        let t: Vec<f64> = at.t.iter().map(|u| self.time_change.time(*u)).collect();
        let mut evaluation = self.field.evaluate(purpose, Points { t: &t, ..at })?;
        if self.time_change.uses_log_alpha {
            evaluation
                .divergence
                .iter_mut()
                .flatten()
                .zip(&t)
                .for_each(|(g, t)| *g *= self.time_change.rate(*t));
        }
        Ok(Evaluation {
            velocity: self.scale_velocity(&t, evaluation.velocity),
            ..evaluation
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
            let time_change = TimeChange::new(span);
            assert_eq!(
                (
                    time_change.time(time_change.start()),
                    time_change.time(time_change.end())
                ),
                (span.start(), span.end())
            );
            for part in [0.1003, 0.5004, 0.9005] {
                let t = span.start() + part * (span.end() - span.start());
                let u = time_change.variable_at(t);
                assert!(
                    (time_change.time(u) - t).abs() < 1e-13 * t.max(1.0),
                    "{:?} {t}",
                    span.curve.path()
                );
                // The step is short enough to stay between two betas.
                let du = 1e-6 * (time_change.end() - time_change.start());
                let slope = (time_change.time(u + du) - time_change.time(u - du)) / (2.0 * du);
                assert!(
                    (slope / time_change.rate(t) - 1.0).abs() < 1e-6,
                    "{:?} {t}",
                    span.curve.path()
                );
            }
            // Rounding does not lead past the end.
            let beyond = time_change.end() + 1e-9 * (time_change.end() - time_change.start());
            assert_eq!(time_change.time(beyond), span.end());
        });
    }

    /// At a beta, the velocity jumps as a function of time, but not as a function of −ln α.
    #[test]
    fn discrete_path_velocity_is_continuous_in_log_alpha() {
        let curve = ProbabilityPath::discrete(Default::default(), 1000)
            .curve()
            .expect("right");
        let mut model = analytic::example_mixture(curve.clone(), 2);
        let (x, knot, small) = (ndarray::array![[0.3, -0.2]], 0.02, 1e-9);
        let jump = |field: &mut dyn VectorField, at: f64| {
            let sides = [at - small, at + small].map(|t| {
                field
                    .velocity(Points::of_first_samples(&[t], &x))
                    .expect("analytic")
            });
            (&sides[1] - &sides[0])
                .iter()
                .fold(0.0, |a: f64, e| a.max(e.abs()))
                / sides[0][[0, 0]].abs()
        };
        assert!(jump(&mut model, knot) > 1e-2);
        let time_change = TimeChange::new(TimeSpan {
            curve: &curve,
            to_prior: true,
        });
        let at = time_change.variable_at(knot);
        assert!(jump(&mut time_change.reparameterize(&mut model), at) < 1e-5);
    }

    #[test]
    fn nodes_are_emitted_in_card_time() {
        every_span(|span| {
            let (time_change, x) = (TimeChange::new(span), Batch::zeros((1, 1)));
            let t = 0.5004 * (span.start() + span.end());
            let nodes = Nodes {
                sample: &[7],
                node: &[3],
                batch_index: &[0],
                t: &[time_change.variable_at(t)],
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
            time_change
                .visit_in_time(&nodes, &mut visit)
                .expect("no model");
            let (sample, node, time, weight) = seen.expect("one node");
            assert_eq!((sample, node), (7, 3));
            assert!(
                (time - t).abs() < 1e-13 * t.max(1.0) && weight == 0.25 * time_change.rate(time)
            );
        });
    }
}
