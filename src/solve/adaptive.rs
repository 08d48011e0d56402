//! Embedded pairs with error control per sample: finished and failed samples leave the batch.

use ndarray::{ArrayView1, Axis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::clock::Clock;
use super::dop853;
use super::pace::Pace;
use super::tableau::{self, Embedded, Step, Tableau, combine};
use super::{Nodes, OdeSolver, Solution, Span, Status, Visitor, finite, select};
use crate::flow::field::{EvalError, VectorField};
use crate::num::Batch;
use crate::num::key::SampleId;

macro_rules! adaptive {
    ($($(#[$meta:meta])* $Name:ident: $tableau:path;)+) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $Name {
            pub rtol: f64,
            pub atol: f64,
            /// Attempted steps after which a sample is given up, rejected ones included.
            pub max_steps: u64,
            pub controller: Controller,
        }

        impl Default for $Name {
            fn default() -> Self {
                $Name { rtol: 1e-5, atol: 1e-5, max_steps: 10_000, controller: Controller::Pi }
            }
        }

        impl $Name {
            fn control(&self) -> Control {
                Control {
                    rtol: self.rtol,
                    atol: self.atol,
                    max_steps: self.max_steps,
                    controller: self.controller,
                }
            }
        }

        impl OdeSolver for $Name {
            fn check(&self, _span: Span) -> Result<(), String> {
                self.control().check()
            }

            fn order(&self) -> u32 {
                $tableau.order
            }

            fn evaluations(&self) -> Option<u64> {
                None
            }

            fn nodes(&self) -> Option<u64> {
                None
            }

            fn tolerances(&self) -> Option<[f64; 2]> {
                Some([self.rtol, self.atol])
            }

            fn solve(
                &self,
                field: &mut dyn VectorField,
                sample: &[SampleId],
                x: Batch,
                span: Span,
                visit: &mut Visitor,
            ) -> Result<Solution, EvalError> {
                Run::new(&$tableau, self.control(), sample, x, span).finish(field, visit)
            }
        }
    )+ };
}

adaptive! {
    /// Bogacki–Shampine 3(2).
    Bosh3: tableau::BOSH3;
    /// Dormand–Prince 5(4).
    Dopri5: tableau::DOPRI5;
    /// Tsitouras 5(4): the cost of Dormand–Prince at smaller error constants.
    Tsit5: tableau::TSIT5;
    /// Dormand–Prince 8(5,3): the cheapest in double precision where tolerances are tight. On
    /// networks in single precision its long steps meet their rounding first: at 1e-6 it took three
    /// times the evaluations of Dormand–Prince 5(4), which is the better choice there.
    Dop853: dop853::DOP853;
}

/// Tolerances: a step is accepted where the root mean square over coordinates of
/// error/(atol + rtol·max(|x|, |x'|)) is at most 1 (Hairer, Nørsett & Wanner, II.4), and none is
/// tried that would leave more than (atol + rtol)·√d nats in a divergence known in advance ([`Clock`]).
#[derive(Debug, Clone, Copy)]
struct Control {
    rtol: f64,
    atol: f64,
    max_steps: u64,
    controller: Controller,
}

/// How the next step follows from the errors of the last ones, eₙ in units of the tolerance:
/// h' = 0.9·h·eₙ^(−(p+i+d)/k)·eₙ₋₁^((p+2d)/k)·eₙ₋₂^(−d/k) with the method's order k.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum Controller {
    /// p, i, d = 0.4, 0.3, 0: smoother steps than the plain rule, and fewer rejections (Hairer & Wanner, IV.2).
    #[default]
    Pi,
    /// p, i, d = 0.14, 0.25, 0.10 (Kennedy & Carpenter 2003): for stiff stretches, where steps would swing.
    Pid,
    /// p, i and d as given.
    Coefficients([f64; 3]),
}

impl Controller {
    /// Exponents of eₙ, eₙ₋₁ and eₙ₋₂, before they are divided by the order.
    fn exponents(self) -> [f64; 3] {
        let [p, i, d] = match self {
            // Written out: 0.4 + 0.3 is not the double nearest to 0.7.
            Controller::Pi => return [-0.7, 0.4, 0.0],
            Controller::Pid => [0.14, 0.25, 0.10],
            Controller::Coefficients(given) => given,
        };
        [-(p + i + d), p + 2.0 * d, -d]
    }

    fn check(self) -> Result<(), String> {
        let [first, ..] = self.exponents();
        let sound = self.exponents().iter().all(|e| e.is_finite()) && (-2.0..=-0.05).contains(&first);
        let Controller::Coefficients(given) = self else { return Ok(()) };
        (sound && given[1] > 0.0).then_some(()).ok_or_else(|| {
            format!(
                "controller: coefficients are {given:?}, expected [p, i, d] with i above 0 and p + i + d from 0.05 to 2"
            )
        })
    }
}

impl Control {
    fn check(&self) -> Result<(), String> {
        let tolerance = |v: f64| v >= 0.0 && v.is_finite();
        if !tolerance(self.rtol) || !tolerance(self.atol) || self.rtol + self.atol == 0.0 {
            return Err(format!(
                "rtol is {} and atol is {}, expected both at least 0 and one of them above",
                self.rtol, self.atol
            ));
        }
        if self.max_steps == 0 {
            return Err("max_steps is 0, expected at least 1".to_owned());
        }
        self.controller.check()
    }

    fn norm(&self, error: ArrayView1<f64>, a: ArrayView1<f64>, b: ArrayView1<f64>) -> f64 {
        let square: f64 = error
            .iter()
            .zip(a.iter().zip(b))
            // With atol = 0 a coordinate that rests at zero is no error, and not 0/0.
            .map(|(e, (a, b))| if *e == 0.0 { 0.0 } else { e / (self.atol + self.rtol * a.abs().max(b.abs())) })
            .map(|e| e * e)
            .sum();
        (square / error.len().max(1) as f64).sqrt()
    }
}

/// One sample on its way.
#[derive(Debug, Clone)]
struct Traveller {
    slot: usize,
    /// Where it is, in the span's own variable.
    t: f64,
    /// The step to try next, signed.
    h: f64,
    /// Errors of the last two accepted steps, the last one first.
    previous_errors: [f64; 2],
    attempts: u64,
    evaluations: u64,
    nodes: u64,
    rejected: bool,
    /// Attempts in a row whose stages were not finite.
    broken: u32,
}

struct Run<'a> {
    pace: Pace<'a>,
    clock: Clock<'a>,
    tableau: &'static Tableau,
    control: Control,
    sample: &'a [SampleId],
    end: f64,
    /// Samples still under way, with their states and first slopes row by row.
    active: Vec<Traveller>,
    x: Batch,
    solution: Solution,
}

impl<'a> Run<'a> {
    fn new(tableau: &'static Tableau, control: Control, sample: &'a [SampleId], x: Batch, span: Span<'a>) -> Run<'a> {
        let (rows, pace) = (x.nrows(), Pace::new(span));
        let traveller = |slot| Traveller {
            slot,
            t: pace.start(),
            h: pace.end() - pace.start(),
            previous_errors: [1e-4; 2],
            attempts: 0,
            evaluations: 0,
            nodes: 0,
            rejected: false,
            broken: 0,
        };
        Run {
            pace,
            clock: Clock::new(span, tableau, control.atol + control.rtol, x.ncols()),
            tableau,
            control,
            sample,
            end: pace.end(),
            active: (0..rows).map(traveller).collect(),
            solution: Solution { x: x.clone(), status: vec![Status::Ok; rows], evaluations: vec![0; rows] },
            x,
        }
    }

    fn finish(mut self, field: &mut dyn VectorField, visit: &mut Visitor) -> Result<Solution, EvalError> {
        let pace = self.pace;
        let field: &mut dyn VectorField = &mut pace.field(field);
        let mut slope = self.depart(field)?;
        while !self.active.is_empty() {
            let t: Vec<f64> = self.active.iter().map(|s| s.t).collect();
            self.active.iter_mut().for_each(|s| s.h = self.clock.bound(s.t, s.h));
            let h: Vec<f64> = self.active.iter().map(|s| s.h).collect();
            let step = self.tableau.step(field, &t, &h, &self.x, Some(slope.clone()))?;
            let accepted = self.judge(&step, &h);
            self.hand_on(&step, &h, &accepted, visit)?;
            slope = self.advance(step, slope, &accepted);
        }
        Ok(self.solution)
    }

    /// First slopes and first steps (Hairer, Nørsett & Wanner, II.4, algorithm for the initial step).
    fn depart(&mut self, field: &mut dyn VectorField) -> Result<Batch, EvalError> {
        if self.active.is_empty() {
            return Ok(self.x.clone());
        }
        let t: Vec<f64> = self.active.iter().map(|s| s.t).collect();
        let slope = field.velocity(&t, &self.x)?;
        let length = (self.end - t[0]).abs();
        let direction = (self.end - t[0]).signum();
        let norm = |v: ArrayView1<f64>, x: ArrayView1<f64>| self.control.norm(v, x, x);
        let guess: Vec<f64> = (slope.rows().into_iter().zip(self.x.rows()))
            .map(|(k, x)| {
                let (d0, d1) = (norm(x, x), norm(k, x));
                let h = if d0 < 1e-5 || d1 < 1e-5 { 1e-6 * length } else { 0.01 * d0 / d1 };
                direction * if h.is_finite() { h.min(length) } else { length * 1e-3 }
            })
            .collect();
        let ahead: Vec<f64> = t.iter().zip(&guess).map(|(t, h)| t + h).collect();
        let probe = field.velocity(&ahead, &combine(&self.x, &guess, &[1.0], std::slice::from_ref(&slope)))?;
        let power = 1.0 / self.tableau.order as f64;
        for (i, s) in self.active.iter_mut().enumerate() {
            let (k, x) = (slope.row(i), self.x.row(i));
            let bend = (&probe.row(i) - &k) / guess[i].abs();
            let (d1, d2) = (self.control.norm(k, x, x), self.control.norm(bend.view(), x, x));
            let most = d1.max(d2);
            let h = if most <= 1e-15 { (guess[i].abs() * 1e-3).max(1e-6 * length) } else { (0.01 / most).powf(power) };
            let h = if h.is_finite() { h } else { guess[i].abs() };
            s.h = direction * h.min(100.0 * guess[i].abs()).min(length);
            s.evaluations = 2;
        }
        Ok(slope)
    }

    /// Judges each active row's trial step; sets its next step or its status.
    fn judge(&mut self, step: &Step, h: &[f64]) -> Vec<bool> {
        let errors = self.errors(step, h);
        let order = self.tableau.order as f64;
        let [now, last, before] = self.control.controller.exponents().map(|e| e / order);
        let fresh_stages = (self.tableau.stages() - 1) as u64;
        let mut accepted = Vec::with_capacity(self.active.len());
        for (i, s) in self.active.iter_mut().enumerate() {
            s.attempts += 1;
            s.evaluations += fresh_stages;
            let norm = errors[i];
            let sound = norm.is_finite() && step.next.row(i).iter().all(|v| v.is_finite());
            let fine = sound && norm <= 1.0;
            accepted.push(fine);
            if !sound {
                s.broken += 1;
                s.h *= 0.1;
                s.rejected = true;
                continue;
            }
            s.broken = 0;
            let scale = norm.max(1e-10);
            let factor = if fine {
                0.9 * scale.powf(now) * s.previous_errors[0].powf(last) * s.previous_errors[1].powf(before)
            } else {
                0.9 * scale.powf(-1.0 / order)
            };
            let most = if s.rejected || !fine { 1.0 } else { 10.0 };
            s.h *= factor.clamp(0.2, most);
            s.rejected = !fine;
            if fine {
                s.previous_errors = [scale.max(1e-4), s.previous_errors[0]];
            }
        }
        accepted
    }

    /// Each active row's error in units of the tolerance.
    fn errors(&self, step: &Step, h: &[f64]) -> Vec<f64> {
        let zero = Batch::zeros(self.x.raw_dim());
        let norms = |weights: &[f64]| -> Vec<f64> {
            let error = combine(&zero, h, weights, &step.k);
            (error.rows().into_iter().zip(self.x.rows()).zip(step.next.rows()))
                .map(|((e, a), b)| self.control.norm(e, a, b))
                .collect()
        };
        match &self.tableau.error {
            None => vec![0.0; h.len()],
            Some(Embedded::One(weights)) => norms(weights),
            Some(Embedded::Two { fifth, third }) => (norms(fifth).into_iter().zip(norms(third)))
                .map(|(five, three)| if five == 0.0 { 0.0 } else { five * five / five.hypot(0.1 * three) })
                .collect(),
        }
    }

    fn hand_on(&mut self, step: &Step, h: &[f64], accepted: &[bool], visit: &mut Visitor) -> Result<(), EvalError> {
        let keep: Vec<usize> = (0..accepted.len()).filter(|i| accepted[*i]).collect();
        if keep.is_empty() {
            return Ok(());
        }
        let slot: Vec<usize> = keep.iter().map(|i| self.active[*i].slot).collect();
        let sample: Vec<SampleId> = slot.iter().map(|s| self.sample[*s]).collect();
        for s in (0..self.tableau.stages()).filter(|s| self.tableau.b[*s] != 0.0) {
            let node: Vec<u64> = keep.iter().map(|i| self.active[*i].nodes).collect();
            let t: Vec<f64> = keep.iter().map(|i| step.t[s][*i]).collect();
            let weight: Vec<f64> = keep.iter().map(|i| h[*i] * self.tableau.b[s]).collect();
            let x = select(&step.x[s], &keep);
            let nodes = Nodes { sample: &sample, node: &node, slot: &slot, t: &t, x: &x, weight: &weight };
            self.pace.visit(&nodes, visit)?;
            keep.iter().for_each(|i| self.active[*i].nodes += 1);
        }
        Ok(())
    }

    /// Moves accepted rows, lets finished and failed ones leave, and returns the slopes of the rest.
    fn advance(&mut self, step: Step, slope: Batch, accepted: &[bool]) -> Batch {
        let last = &step.k[self.tableau.stages() - 1];
        let slope_is_sound = finite(last);
        let mut next_slope = slope;
        let mut keep = Vec::new();
        for i in 0..self.active.len() {
            let s = &mut self.active[i];
            if accepted[i] {
                s.t = step.t[self.tableau.stages() - 1][i];
                self.x.row_mut(i).assign(&step.next.row(i));
                next_slope.row_mut(i).assign(&last.row(i));
            }
            // The last step is clipped to the end, so arrival is exact up to rounding of t + h.
            let left = self.end - s.t;
            let tiny = 16.0 * f64::EPSILON * s.t.abs().max(self.end.abs());
            let status = if accepted[i] && left.abs() <= tiny {
                Some(Status::Ok)
            } else if s.broken >= 12 || (accepted[i] && !slope_is_sound[i]) || !s.h.is_finite() {
                Some(Status::NonFinite)
            } else if s.attempts >= self.control.max_steps {
                Some(Status::MaxSteps)
            } else if s.h.abs() <= tiny {
                Some(if s.broken > 0 { Status::NonFinite } else { Status::StepTooSmall })
            } else {
                None
            };
            match status {
                Some(status) => {
                    self.solution.status[s.slot] = status;
                    self.solution.evaluations[s.slot] = s.evaluations;
                    self.solution.x.row_mut(s.slot).assign(&self.x.row(i));
                }
                None => {
                    if s.h.abs() > left.abs() {
                        s.h = left;
                    }
                    keep.push(i);
                }
            }
        }
        if keep.len() < self.active.len() {
            self.active = keep.iter().map(|i| self.active[*i].clone()).collect();
            self.x = select(&self.x, &keep);
            next_slope = next_slope.select(Axis(0), &keep);
        }
        next_slope
    }
}
