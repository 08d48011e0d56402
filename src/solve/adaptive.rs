//! Adaptive solvers: embedded Runge–Kutta pairs with error control per sample. Finished and failed
//! samples leave the batch.
//!
//! Each step must meet two tolerances: one for the state, and one for the integral of the
//! divergence if the field returns a divergence with its velocity ([`VectorField::evaluate`]). The
//! embedded error estimate is not reliable for that integral if the divergence jumps. A step that
//! passes the embedded estimate is therefore also compared with Simpson's rule, which needs the
//! divergence in the middle of the step. If a step fails because of a jump, the solver brackets the
//! jump and crosses it with a short step (`jump.rs`).

use std::collections::BTreeMap;

use ndarray::ArrayView1;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dop853;
use super::jump::{JumpBracket, JumpPhase, JumpSearch};
use super::quadrature_bound::{self, QuadratureBound};
use super::switches::step_ends;
use super::tableau::{self, EmbeddedErrorWeights, RungeKuttaStep, Tableau, add_weighted_slopes};
use super::time_change::TimeChange;
use super::{NodeVisitor, Nodes, OdeSolver, Solution, Solver, TimeSpan, finite_rows, select_rows};
use crate::flow::field::{
    EvalError, Evaluation, EvaluationPurpose, JacobianProducts, Points, VectorField,
};
use crate::flow::path::ProbabilityPath;
use crate::num::Batch;
use crate::num::key::SampleId;
use crate::rows::Status;

/// The divisor of the tolerances of a finer adaptive solver.
pub const TOLERANCE_DIVISOR: f64 = 10.0;

/// The default of `rtol` and `atol`.
const DEFAULT_TOLERANCE: f64 = 1e-5;

macro_rules! adaptive {
    ($($(#[$meta:meta])* $Name:ident: $tableau:path;)+) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $Name {
            /// The accepted error of one sample's log-likelihood over its whole path, in nats. If
            /// it is given, it replaces `rtol` and `atol`.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub tol: Option<f64>,
            /// The relative tolerance of one step's error in the state. Default: 1e-5.
            pub rtol: f64,
            /// The absolute tolerance of one step's error in the state. Default: 1e-5.
            pub atol: f64,
            /// The maximum number of attempted steps per sample, including rejected steps. A sample
            /// that needs more fails with the status `max-steps`. Default: 10000.
            pub max_steps: u64,
            /// The rule that chooses the next step from the errors of the last steps: `pi` (the
            /// default), `pid` or `{coefficients: [p, i, d]}`.
            pub controller: Controller,
            /// An additional limit on the step: `auto` (the default), `none`, or the width of the
            /// narrowest Gaussian data whose known divergence every step must integrate within the
            /// tolerance.
            #[serde(skip_serializing_if = "quadrature_bound::QuadratureBoundSetting::is_auto")]
            pub clock: quadrature_bound::QuadratureBoundSetting,
        }

        impl Default for $Name {
            fn default() -> Self {
                $Name {
                    tol: None,
                    rtol: DEFAULT_TOLERANCE,
                    atol: DEFAULT_TOLERANCE,
                    max_steps: 10_000,
                    controller: Controller::Pi,
                    clock: quadrature_bound::QuadratureBoundSetting::default(),
                }
            }
        }

        impl $Name {
            /// The settings of the step control.
            fn control(&self) -> StepControl {
                StepControl {
                    tol: self.tol,
                    rtol: self.rtol,
                    atol: self.atol,
                    max_steps: self.max_steps,
                    controller: self.controller,
                    clock: self.clock,
                    integral_tolerance_factor: JUMP_INTEGRAL_TOLERANCE_FACTOR,
                }
            }
        }

        impl OdeSolver for $Name {
            fn check(&self, _span: TimeSpan) -> Result<(), String> {
                self.control().check()
            }

            fn order(&self) -> u32 {
                $tableau.order
            }

            fn fixed_evaluations(&self) -> Option<u64> {
                None
            }

            fn fixed_node_count(&self) -> Option<u64> {
                None
            }

            fn tolerances(&self) -> Option<[f64; 2]> {
                Some(self.tol.map_or([self.rtol, self.atol], |tol| [tol; 2]))
            }

            fn finer(&self) -> Option<Solver> {
                let mut finer = self.clone();
                match &mut finer.tol {
                    Some(tol) => *tol /= TOLERANCE_DIVISOR,
                    None => {
                        finer.rtol /= TOLERANCE_DIVISOR;
                        finer.atol /= TOLERANCE_DIVISOR;
                    }
                }
                Some(Solver::$Name(finer))
            }

            fn solve(
                &self,
                field: &mut dyn VectorField,
                sample: &[SampleId],
                x: Batch,
                span: TimeSpan,
                visit: &mut NodeVisitor,
            ) -> Result<Solution, EvalError> {
                AdaptiveSolve::new(&$tableau, self.control(), sample, x, span).solve(field, visit)
            }
        }
    )+ };
}

adaptive! {
    /// Bogacki–Shampine 3(2).
    Bosh3: tableau::BOSH3;
    /// Dormand–Prince 5(4).
    Dopri5: tableau::DOPRI5;
    /// Tsitouras 5(4): as many evaluations per step as Dormand–Prince 5(4), with smaller error
    /// constants.
    Tsit5: tableau::TSIT5;
    /// Dormand–Prince 8(5,3): the cheapest method for tight tolerances in double precision. With
    /// networks in single precision, rounding limits its long steps: at a tolerance of 1e-6 it took
    /// three times the evaluations of Dormand–Prince 5(4), which is the better choice there.
    Dop853: dop853::DOP853;
}

/// The settings of the step control. A step is accepted if two conditions are met. The root mean
/// square over coordinates of error/(atol + rtol·max(|x|, |x'|)) is at most 1 (Hairer, Nørsett &
/// Wanner, II.4). The error of the integral of the divergence that controls the steps is at most
/// [`StepControl::integral_tolerance`].
#[derive(Debug, Clone, Copy)]
struct StepControl {
    /// The tolerance of a whole path in nats, which replaces `rtol` and `atol`.
    tol: Option<f64>,
    rtol: f64,
    atol: f64,
    max_steps: u64,
    controller: Controller,
    clock: quadrature_bound::QuadratureBoundSetting,
    /// [`SMOOTH_INTEGRAL_TOLERANCE_FACTOR`] if the field is smooth, otherwise
    /// [`JUMP_INTEGRAL_TOLERANCE_FACTOR`].
    integral_tolerance_factor: f64,
}

/// The rule that chooses the next step from the errors of the last three steps. With eₙ the error
/// in units of the tolerance and k the method's order, h' =
/// 0.9·h·eₙ^(−(p+i+d)/k)·eₙ₋₁^((p+2d)/k)·eₙ₋₂^(−d/k).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum Controller {
    /// p, i, d = 0.4, 0.3, 0: smoother steps and fewer rejections than with the elementary rule
    /// (Hairer & Wanner, IV.2).
    #[default]
    Pi,
    /// p, i, d = 0.14, 0.25, 0.10 (Kennedy & Carpenter 2003): for stiff parts of a path, where the
    /// step would otherwise oscillate.
    Pid,
    /// The three coefficients p, i and d.
    Coefficients([f64; 3]),
}

crate::registry::describe_kinds! { Controller {
    "pi" {
        what: "Coefficients 0.4, 0.3 and 0: smoother steps than the elementary rule.",
        when: "The default.",
        source: "Hairer & Wanner 1996, doi:10.1007/978-3-642-05221-7",
    },
    "pid" {
        what: "Coefficients 0.14, 0.25 and 0.10.",
        when: "Stiff parts of a path, where the steps would oscillate.",
        source: "Kennedy & Carpenter 2003, doi:10.1016/S0168-9274(02)00138-1",
    },
    "coefficients" {
        what: "The three coefficients p, i and d of your own.",
        when: "To repeat another program's steps.",
        source: "",
    },
} }

/// The ratio of the integral's tolerance to the state's if the divergence is smooth. Embedded
/// estimates are too large there: with this factor, the error of the whole path stays within the
/// tolerance of one step.
const SMOOTH_INTEGRAL_TOLERANCE_FACTOR: f64 = 5.0;

/// The ratio of the integral's tolerance to the state's if the divergence can jump. It is smaller
/// than for a smooth divergence, because estimates of a jump's error are less reliable and a path
/// can have tens of jumps.
const JUMP_INTEGRAL_TOLERANCE_FACTOR: f64 = 3.0;

/// The maximum number of steps that rounding errors alone may force on the rest of a path. Beyond
/// it the tolerance counts as out of reach.
const MAX_STEPS_FROM_ROUNDING: f64 = 500.0;

/// The fraction of the span above which a step of a smooth field is long. With so few steps over
/// the whole span, an embedded pair underestimates the error, so the divergence in the middle of
/// the step is evaluated as well.
const LONG_STEP_FRACTION: f64 = 0.125;

/// The fraction of `tol` that is allowed as the error of one step's integral. On a path with tens
/// of jumps, the total error is a few times that of one step.
const INTEGRAL_TOLERANCE_SHARE: f64 = 0.25;

/// The fraction of `tol` that is allowed as the error of the state.
const STATE_TOLERANCE_SHARE: f64 = 0.5;

impl Controller {
    /// The exponents of eₙ, eₙ₋₁ and eₙ₋₂, before the division by the order.
    fn exponents(self) -> [f64; 3] {
        let [p, i, d] = match self {
            // The exponent is a literal, because 0.4 + 0.3 is not the double nearest to 0.7.
            Controller::Pi => return [-0.7, 0.4, 0.0],
            Controller::Pid => [0.14, 0.25, 0.10],
            Controller::Coefficients(given) => given,
        };
        [-(p + i + d), p + 2.0 * d, -d]
    }

    fn check(self) -> Result<(), String> {
        let [first, ..] = self.exponents();
        let sound =
            self.exponents().iter().all(|e| e.is_finite()) && (-2.0..=-0.05).contains(&first);
        let Controller::Coefficients(given) = self else {
            return Ok(());
        };
        (sound && given[1] > 0.0).then_some(()).ok_or_else(|| {
            format!(
                "controller: coefficients are {given:?}, expected [p, i, d] with i above 0 and \
                 p + i + d from 0.05 to 2"
            )
        })
    }
}

impl StepControl {
    fn check(&self) -> Result<(), String> {
        let tolerance = |v: f64| v >= 0.0 && v.is_finite();
        if !tolerance(self.rtol) || !tolerance(self.atol) || self.rtol + self.atol == 0.0 {
            return Err(format!(
                "rtol is {} and atol is {}, expected both at least 0 and at least one above 0",
                self.rtol, self.atol
            ));
        }
        if self.max_steps == 0 {
            return Err("max_steps is 0, expected at least 1".to_owned());
        }
        if let Some(tol) = self.tol {
            if !(tol > 0.0 && tol.is_finite()) {
                return Err(format!("tol is {tol}, expected a number of nats above 0"));
            }
            if [self.rtol, self.atol] != [DEFAULT_TOLERANCE; 2] {
                return Err(
                    "tol is given together with rtol or atol, expected either tol or rtol and atol"
                        .to_owned(),
                );
            }
        }
        self.clock.check()?;
        self.controller.check()
    }

    /// The relative and absolute tolerance of the state in `d` dimensions. If each coordinate has a
    /// relative error ε, log p has an error of about √d·ε nats, because the score of a sample has a
    /// length of about √d.
    fn state_tolerances(&self, d: usize) -> (f64, f64) {
        match self.tol {
            Some(tol) => (
                STATE_TOLERANCE_SHARE * tol / (d.max(1) as f64).sqrt(),
                STATE_TOLERANCE_SHARE * tol / (d.max(1) as f64).sqrt(),
            ),
            None => (self.rtol, self.atol),
        }
    }

    /// The accepted error of one step's integral of the divergence in `d` dimensions, in nats.
    /// Log-densities of samples have a standard deviation of about √d, so `rtol` and `atol` mean
    /// the same relative to that for every d.
    fn integral_tolerance(&self, d: usize) -> f64 {
        self.tol.map_or(
            self.integral_tolerance_factor * (self.rtol + self.atol) * (d.max(1) as f64).sqrt(),
            |tol| INTEGRAL_TOLERANCE_SHARE * tol,
        )
    }

    /// The tolerance of the quadrature bound, in nats: the error of one step for a divergence that
    /// is known to be smooth.
    fn quadrature_bound_tolerance(&self, d: usize) -> f64 {
        StepControl {
            integral_tolerance_factor: SMOOTH_INTEGRAL_TOLERANCE_FACTOR,
            ..*self
        }
        .integral_tolerance(d)
            / SMOOTH_INTEGRAL_TOLERANCE_FACTOR
    }

    /// The root mean square of the error over coordinates, in units of the tolerance, for a step
    /// from state `a` to state `b`.
    fn error_norm(&self, error: ArrayView1<f64>, a: ArrayView1<f64>, b: ArrayView1<f64>) -> f64 {
        let (rtol, atol) = self.state_tolerances(error.len());
        let square: f64 = error
            .iter()
            .zip(a.iter().zip(b))
            // With atol = 0, a coordinate that stays at zero would give 0/0; it has no error.
            .map(|(e, (a, b))| {
                if *e == 0.0 {
                    0.0
                } else {
                    e / (atol + rtol * a.abs().max(b.abs()))
                }
            })
            .map(|e| e * e)
            .sum();
        (square / error.len().max(1) as f64).sqrt()
    }
}

/// The state of one sample on its path.
#[derive(Debug, Clone)]
struct AdaptiveSampleState {
    batch_index: usize,
    /// The current position, in the integration variable of the time change.
    t: f64,
    /// The signed step to try next.
    h: f64,
    /// The step to try after one that was shortened to end at a switch of the field.
    step_after_switch: Option<f64>,
    /// The errors of the last two accepted steps, the last one first. `None` before the first step,
    /// which may then grow as far as its error allows. If no divergence controls the steps, small
    /// errors are assumed instead, so steps grow slowly.
    previous_errors: Option<[f64; 2]>,
    attempts: u64,
    /// The number of attempts at the last rounding check.
    attempts_at_rounding_check: u64,
    /// The number of successive rounding checks that found the tolerance out of reach.
    failed_rounding_checks: u32,
    evaluations: u64,
    /// The number of evaluations that also gave the divergence.
    control_evaluations: u64,
    nodes: u64,
    rejected: bool,
    /// The error and length of the last rejected attempt from the current position.
    last_rejection: Option<(f64, f64)>,
    /// The number of successive attempts with an infinite or NaN stage.
    non_finite_attempts: u32,
    /// What the sample does next about a jump.
    jump_phase: JumpPhase,
    /// The narrowest Gaussian width that the quadrature bound uses for this sample.
    narrowest_width: f64,
    /// The sum of the squared errors of the accepted steps, in nats².
    squared_error: f64,
}

/// A trial step of every active row, with the divergences and Jacobian products at its stages.
struct TrialStep {
    /// The signed length of each row's step.
    h: Vec<f64>,
    /// The stages and the new states.
    step: RungeKuttaStep,
    /// The divergences per stage; empty if the stage is not used or no divergence controls the
    /// steps.
    divergence: Vec<Vec<f64>>,
    /// The Jacobian products per stage, if the field returned them.
    products: Vec<Option<JacobianProducts>>,
}

/// What the field returned with the velocity at some rows' nodes.
#[derive(Clone, Copy)]
struct NodeExtras<'a> {
    /// The divergences at the nodes.
    divergence: Option<&'a [f64]>,
    /// The Jacobian products at the nodes.
    products: Option<&'a JacobianProducts>,
}

/// The error of one row's trial step.
#[derive(Debug, Clone, Copy)]
struct TrialStepError {
    /// The error of the state, in units of its tolerance.
    state: f64,
    /// The error of the integral of the divergence, in units of its tolerance.
    integral: f64,
    /// The estimated contributions of the state and of the integral to the error in log p, in nats.
    log_density_errors: [f64; 2],
    /// The divergence in the middle of the step, if it was evaluated.
    midpoint_divergence: Option<f64>,
}

impl TrialStepError {
    /// The larger of the two errors, in units of the tolerance; the step is accepted if it is at
    /// most 1.
    fn norm(&self) -> f64 {
        self.state.max(self.integral)
    }
}

/// An adaptive solve in progress.
struct AdaptiveSolve<'a> {
    span: TimeSpan<'a>,
    /// The integration variable of the steps.
    time_change: TimeChange<'a>,
    /// The additional limit on the steps, if there is one.
    quadrature_bound: Option<QuadratureBound<'a>>,
    tableau: &'static Tableau,
    /// [`Tableau::worst_jump_error`] of the tableau.
    worst_jump_error: f64,
    control: StepControl,
    /// The number of each sample of the batch.
    sample: &'a [SampleId],
    /// The end of the span, in the integration variable.
    end: f64,
    /// The samples that are still on their path. Row i of the arrays below belongs to entry i.
    active: Vec<AdaptiveSampleState>,
    /// The current states.
    x: Batch,
    /// The velocities at the current states.
    slope: Batch,
    /// The divergences at the current states, if a divergence controls the steps.
    divergence: Option<Vec<f64>>,
    /// The Jacobian products at the current states, if the field returned them.
    products: Option<JacobianProducts>,
    /// Whether the divergence can jump, so that steps are checked for jumps.
    detect_jumps: bool,
    /// The times at which steps must end because the field switches, in the order of the path and in
    /// the integration variable.
    step_ends: Vec<f64>,
    /// The results of the samples that have left.
    solution: Solution,
}

impl AdaptiveSampleState {
    /// Shortens the next step if it would go across a switch of the field. After such a step the
    /// steps go on with the length that they had before.
    fn end_step_at_switch(&mut self, step_ends: &[f64], end: f64) {
        if let Some(step) = self.step_after_switch.take().filter(|_| !self.rejected) {
            let left = end - self.t;
            self.h = if step.abs() > left.abs() { left } else { step };
        }
        let direction = self.h.signum();
        let tiny = 16.0 * f64::EPSILON * self.t.abs();
        let next = step_ends
            .iter()
            .find(|end| (*end - self.t) * direction > tiny);
        if let Some(next) = next.filter(|next| (*next - self.t).abs() < self.h.abs()) {
            self.step_after_switch = Some(self.h);
            self.h = next - self.t;
        }
    }
}

impl<'a> AdaptiveSolve<'a> {
    fn new(
        tableau: &'static Tableau,
        control: StepControl,
        sample: &'a [SampleId],
        x: Batch,
        span: TimeSpan<'a>,
    ) -> AdaptiveSolve<'a> {
        let (rows, time_change) = (x.nrows(), TimeChange::new(span));
        let initial_state = |batch_index| AdaptiveSampleState {
            batch_index,
            t: time_change.start(),
            h: time_change.end() - time_change.start(),
            step_after_switch: None,
            previous_errors: None,
            attempts: 0,
            attempts_at_rounding_check: 0,
            failed_rounding_checks: 0,
            evaluations: 0,
            control_evaluations: 0,
            nodes: 0,
            rejected: false,
            last_rejection: None,
            non_finite_attempts: 0,
            jump_phase: JumpPhase::None,
            narrowest_width: 0.0,
            squared_error: 0.0,
        };
        let solution = Solution {
            x: x.clone(),
            status: vec![Status::Ok; rows],
            evaluations: vec![0; rows],
            control_evaluations: vec![0; rows],
            solver_error: vec![None; rows],
            fixed_step_error: None,
        };
        AdaptiveSolve {
            span,
            time_change,
            quadrature_bound: None,
            tableau,
            worst_jump_error: tableau.worst_jump_error(),
            control,
            sample,
            end: time_change.end(),
            active: (0..rows).map(initial_state).collect(),
            slope: Batch::zeros(x.raw_dim()),
            divergence: None,
            products: None,
            detect_jumps: true,
            step_ends: Vec::new(),
            solution,
            x,
        }
    }

    /// Solves all rows to their ends.
    fn solve(
        mut self,
        field: &mut dyn VectorField,
        visit: &mut NodeVisitor,
    ) -> Result<Solution, EvalError> {
        let time_change = self.time_change;
        let field: &mut dyn VectorField = &mut time_change.reparameterize(field);
        self.detect_jumps = !field.is_smooth();
        let start = self.time_change.start();
        self.step_ends = step_ends(&field.switch_times(), start, self.end);
        self.control.integral_tolerance_factor = if self.detect_jumps {
            JUMP_INTEGRAL_TOLERANCE_FACTOR
        } else {
            SMOOTH_INTEGRAL_TOLERANCE_FACTOR
        };
        self.choose_initial_steps(field)?;
        while !self.active.is_empty() {
            self.stop_below_rounding(field)?;
            self.cross_jumps(field, visit)?;
            if self.active.is_empty() {
                break;
            }
            let trial = self.try_step(field)?;
            let errors = self.estimate_errors(field, &trial)?;
            let jumps = self.find_jumps(field, &trial, &errors)?;
            let accepted = self.accept_or_reject(&trial, &errors, &jumps);
            self.emit_step_nodes(&trial, &accepted, visit)?;
            self.advance(trial, &accepted);
        }
        Ok(self.solution)
    }

    /// The sample numbers of some active rows.
    fn sample_ids(&self, rows: &[usize]) -> Vec<SampleId> {
        rows.iter()
            .map(|i| self.sample[self.active[*i].batch_index])
            .collect()
    }

    /// Evaluates the field at the given times and states of some rows, and counts the evaluations.
    fn evaluate_field(
        &mut self,
        field: &mut dyn VectorField,
        rows: &[usize],
        purpose: EvaluationPurpose,
        t: &[f64],
        x: &Batch,
    ) -> Result<Evaluation, EvalError> {
        let evaluation = field.evaluate(purpose, Points::new(&self.sample_ids(rows), t, x))?;
        for (i, t) in rows.iter().zip(t) {
            let calls = field.calls_at(*t);
            self.active[*i].evaluations += calls;
            self.active[*i].control_evaluations += if evaluation.divergence.is_some() {
                calls
            } else {
                0
            };
        }
        Ok(evaluation)
    }

    /// Evaluates the first slopes and chooses the first steps (Hairer, Nørsett & Wanner, II.4,
    /// algorithm for the initial step). The change of the divergence limits the first step too.
    fn choose_initial_steps(&mut self, field: &mut dyn VectorField) -> Result<(), EvalError> {
        if self.active.is_empty() {
            return Ok(());
        }
        let rows: Vec<usize> = (0..self.active.len()).collect();
        let t: Vec<f64> = self.active.iter().map(|s| s.t).collect();
        let x = self.x.clone();
        let Evaluation {
            velocity: slope,
            divergence,
            products,
        } = self.evaluate_field(field, &rows, EvaluationPurpose::QuadratureNode, &t, &x)?;
        let length = (self.end - t[0]).abs();
        let direction = (self.end - t[0]).signum();
        let norm = |v: ArrayView1<f64>, x: ArrayView1<f64>| self.control.error_norm(v, x, x);
        let guess: Vec<f64> = (slope.rows().into_iter().zip(self.x.rows()))
            .map(|(k, x)| {
                let (d0, d1) = (norm(x, x), norm(k, x));
                let h = if d0 < 1e-5 || d1 < 1e-5 {
                    1e-6 * length
                } else {
                    0.01 * d0 / d1
                };
                direction
                    * if h.is_finite() {
                        h.min(length)
                    } else {
                        length * 1e-3
                    }
            })
            .collect();
        let ahead: Vec<f64> = t.iter().zip(&guess).map(|(t, h)| t + h).collect();
        let there = add_weighted_slopes(&self.x, &guess, &[1.0], std::slice::from_ref(&slope));
        let Evaluation {
            velocity: probe,
            divergence: later,
            ..
        } = self.evaluate_field(field, &rows, EvaluationPurpose::StepControl, &ahead, &there)?;
        let power = 1.0 / self.tableau.order as f64;
        let nats = self.control.integral_tolerance(self.x.ncols());
        for (i, s) in self.active.iter_mut().enumerate() {
            let (k, x) = (slope.row(i), self.x.row(i));
            let bend = (&probe.row(i) - &k) / guess[i].abs();
            let (d1, d2) = (
                self.control.error_norm(k, x, x),
                self.control.error_norm(bend.view(), x, x),
            );
            let divergence_change = match (&divergence, &later) {
                (Some(a), Some(b)) => (b[i] - a[i]).abs() / guess[i].abs() / nats,
                _ => 0.0,
            };
            let most = d1.max(d2).max(divergence_change);
            let h = if most <= 1e-15 {
                (guess[i].abs() * 1e-3).max(1e-6 * length)
            } else {
                (0.01 / most).powf(power)
            };
            let h = if h.is_finite() { h } else { guess[i].abs() };
            s.h = direction * h.min(100.0 * guess[i].abs()).min(length);
            if divergence.is_none() {
                s.previous_errors = Some([1e-4; 2]);
            }
            let shown = divergence
                .as_ref()
                .map(|g| g[i] / self.time_change.rate(self.time_change.time(s.t)));
            s.narrowest_width = quadrature_bound::narrowest_width(
                self.control.clock,
                self.span,
                shown,
                self.x.ncols(),
            );
        }
        if self
            .control
            .clock
            .applies_to(self.span, divergence.is_some())
        {
            self.quadrature_bound = Some(QuadratureBound::new(
                self.span,
                self.tableau,
                self.control.quadrature_bound_tolerance(self.x.ncols()),
                self.x.ncols(),
            ));
        }
        (self.slope, self.divergence, self.products) = (slope, divergence, products);
        Ok(())
    }

    /// Takes one trial step of every row, with the divergences at the stages that need them.
    fn try_step(&mut self, field: &mut dyn VectorField) -> Result<TrialStep, EvalError> {
        let rows: Vec<usize> = (0..self.active.len()).collect();
        let ids = self.sample_ids(&rows);
        let t: Vec<f64> = self.active.iter().map(|s| s.t).collect();
        if let Some(clock) = &self.quadrature_bound {
            self.active
                .iter_mut()
                .for_each(|s| s.h = clock.limit_step(s.t, s.h, s.narrowest_width));
        }
        for s in &mut self.active {
            s.end_step_at_switch(&self.step_ends, self.end);
        }
        let h: Vec<f64> = self.active.iter().map(|s| s.h).collect();
        let mut divergence = vec![Vec::new(); self.tableau.stages()];
        divergence[0] = self.divergence.clone().unwrap_or_default();
        let mut products = vec![None; self.tableau.stages()];
        products[0] = self.products.clone();
        let controlled = self.divergence.is_some();
        let mut control_stages = Vec::new();
        let along = self.products.is_some();
        let step = self.tableau.step_with_slopes(
            &t,
            &h,
            &self.x,
            Some(self.slope.clone()),
            &mut |stage, at, state| {
                if !(controlled && self.tableau.needs_divergence(stage)
                    || along && self.tableau.is_node(stage))
                {
                    return field.velocity(Points::new(&ids, at, state));
                }
                let purpose = if along && self.tableau.is_node(stage) {
                    EvaluationPurpose::QuadratureNode
                } else {
                    EvaluationPurpose::StepControl
                };
                let evaluation = field.evaluate(purpose, Points::new(&ids, at, state))?;
                control_stages.extend(evaluation.divergence.is_some().then_some(stage));
                divergence[stage] = evaluation.divergence.unwrap_or_default();
                products[stage] = evaluation.products;
                Ok(evaluation.velocity)
            },
        )?;
        for (i, s) in self.active.iter_mut().enumerate() {
            let calls = |stage: usize| field.calls_at(step.t[stage][i]);
            s.attempts += 1;
            s.evaluations += (1..self.tableau.stages()).map(calls).sum::<u64>();
            s.control_evaluations += control_stages
                .iter()
                .map(|stage| calls(*stage))
                .sum::<u64>();
        }
        Ok(TrialStep {
            h,
            step,
            divergence,
            products,
        })
    }

    /// Estimates the error of each row's step, first by the embedded method. A step that the
    /// embedded method would accept although a jump between its stages could make it wrong is also
    /// compared with Simpson's rule, which needs one more evaluation in the middle. For a smooth
    /// field, this comparison only enters the reported error of long steps and rejects none.
    fn estimate_errors(
        &mut self,
        field: &mut dyn VectorField,
        trial: &TrialStep,
    ) -> Result<Vec<TrialStepError>, EvalError> {
        let controlled = self.divergence.is_some();
        let allowed: Vec<f64> = (0..self.active.len())
            .map(|row| self.allowed_integral_error(trial, row))
            .collect();
        let mut errors: Vec<TrialStepError> = (0..self.active.len())
            .map(|row| {
                let (state, length) = self.state_error(trial, row);
                let (integral, tolerance) = (
                    if controlled {
                        self.integral_error(trial, row)
                    } else {
                        0.0
                    },
                    allowed[row],
                );
                let state_nats = length * self.score_norm(trial, row);
                let state = if self.control.tol.is_some() {
                    state.max(state_nats / tolerance)
                } else {
                    state
                };
                // Even many stages see only a third of a jump's error. Methods that check the
                // midpoint get a better estimate below.
                let reported = if self.tableau.checks_midpoint || !self.detect_jumps {
                    integral
                } else {
                    3.0 * integral
                };
                TrialStepError {
                    state,
                    integral: integral / tolerance,
                    log_density_errors: [state_nats, reported],
                    midpoint_divergence: None,
                }
            })
            .collect();
        if !(controlled && self.tableau.checks_midpoint) {
            return Ok(errors);
        }
        let mut checked = Vec::new();
        let long = LONG_STEP_FRACTION * (self.time_change.end() - self.time_change.start()).abs();
        for (row, error) in errors.iter_mut().enumerate() {
            let finite = trial.step.next.row(row).iter().all(|v| v.is_finite());
            if error.norm() > 1.0 || !finite {
                continue;
            }
            if !self.detect_jumps {
                if trial.h[row].abs() > long {
                    checked.push(row);
                }
                continue;
            }
            // The size of a jump within the step is estimated by the range of the divergence over
            // the stages.
            let most =
                self.worst_jump_error * trial.h[row].abs() * self.divergence_range(trial, row);
            if most > allowed[row] {
                checked.push(row);
            } else {
                error.log_density_errors[1] = error.log_density_errors[1].hypot(0.4 * most);
            }
        }
        let places: Vec<(usize, f64)> = checked.iter().map(|i| (*i, 0.5)).collect();
        let middle = self.divergence_within_step(field, trial, &places)?;
        let last = &trial.divergence[self.tableau.stages() - 1];
        for (row, middle) in checked.into_iter().zip(middle) {
            let simpson =
                trial.h[row] / 6.0 * (trial.divergence[0][row] + 4.0 * middle + last[row]);
            let gap = (self.weighted_integral(trial, row, self.tableau.b) - simpson).abs();
            let error = &mut errors[row];
            if !self.detect_jumps {
                // For a smooth divergence Simpson's rule is the less accurate of the two, so the
                // difference enters the reported error only.
                error.log_density_errors[1] = error.log_density_errors[1].hypot(gap);
                continue;
            }
            error.integral = error.integral.max(gap / allowed[row]);
            // For a jump, the difference of the two rules is at least a third of the error of
            // either rule.
            error.log_density_errors[1] = error.log_density_errors[1].hypot(3.0 * gap);
            error.midpoint_divergence = Some(middle);
        }
        Ok(errors)
    }

    /// The range of the divergence over the stages of one row.
    fn divergence_range(&self, trial: &TrialStep, row: usize) -> f64 {
        let known = || trial.divergence.iter().filter_map(|g| g.get(row));
        known().copied().fold(f64::NEG_INFINITY, f64::max)
            - known().copied().fold(f64::INFINITY, f64::min)
    }

    /// The accepted error of one row's step, in nats: the tolerance, or the rounding error of its
    /// divergences in single precision if that is larger.
    fn allowed_integral_error(&self, trial: &TrialStep, row: usize) -> f64 {
        let sizes = trial
            .divergence
            .iter()
            .filter_map(|g| g.get(row))
            .map(|g| g.abs());
        let rounding =
            4.0 * f64::from(f32::EPSILON) * trial.h[row].abs() * sizes.fold(0.0, f64::max);
        let tolerance = self.control.integral_tolerance(self.x.ncols());
        if rounding.is_finite() {
            tolerance.max(rounding)
        } else {
            tolerance
        }
    }

    /// Evaluates the divergences inside trial steps. Each entry of `places` is a row and a fraction
    /// of its step.
    fn divergence_within_step(
        &mut self,
        field: &mut dyn VectorField,
        trial: &TrialStep,
        places: &[(usize, f64)],
    ) -> Result<Vec<f64>, EvalError> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let x = self
            .tableau
            .interpolate(&trial.step, &self.x, &trial.h, places);
        let rows: Vec<usize> = places.iter().map(|p| p.0).collect();
        let t: Vec<f64> = places
            .iter()
            .map(|(row, part)| self.active[*row].t + part * trial.h[*row])
            .collect();
        Ok(self
            .evaluate_field(field, &rows, EvaluationPurpose::StepControl, &t, &x)?
            .divergence
            .unwrap_or_default())
    }

    /// h·Σ w·g of one row, with the divergences g at its stages.
    fn weighted_integral(&self, trial: &TrialStep, row: usize, weights: &[f64]) -> f64 {
        let terms = weights
            .iter()
            .zip(&trial.divergence)
            .filter(|(w, _)| **w != 0.0);
        trial.h[row] * terms.map(|(w, g)| w * g[row]).sum::<f64>()
    }

    /// The embedded estimate of the error of one row's integral of the divergence, in nats.
    fn integral_error(&self, trial: &TrialStep, row: usize) -> f64 {
        match &self.tableau.error_weights {
            None => 0.0,
            Some(EmbeddedErrorWeights::One(weights)) => {
                self.weighted_integral(trial, row, weights).abs()
            }
            Some(EmbeddedErrorWeights::Two { fifth, third }) => combine_error_estimates(
                self.weighted_integral(trial, row, fifth).abs(),
                self.weighted_integral(trial, row, third).abs(),
            ),
        }
    }

    /// The error of one row's state: its norm in units of the tolerance, and its Euclidean length.
    fn state_error(&self, trial: &TrialStep, row: usize) -> (f64, f64) {
        let (a, b) = (self.x.row(row), trial.step.next.row(row));
        let one = |weights: &[f64]| {
            let mut error = ndarray::Array1::zeros(a.len());
            for (w, k) in weights
                .iter()
                .zip(&trial.step.k)
                .filter(|(w, _)| **w != 0.0)
            {
                error.scaled_add(w * trial.h[row], &k.row(row));
            }
            (
                self.control.error_norm(error.view(), a, b),
                error.dot(&error).sqrt(),
            )
        };
        match &self.tableau.error_weights {
            None => (0.0, 0.0),
            Some(EmbeddedErrorWeights::One(weights)) => one(weights),
            Some(EmbeddedErrorWeights::Two { fifth, third }) => {
                let (five, three) = (one(fifth), one(third));
                (
                    combine_error_estimates(five.0, three.0),
                    combine_error_estimates(five.1, three.1),
                )
            }
        }
    }

    /// The length of the score ∇ log p at the end of a row's step, divided by √d. It converts an
    /// error of the state into one of log p. On diffusion paths it follows from the velocity. On
    /// flow-matching paths the data are assumed to have variance one.
    fn score_norm(&self, trial: &TrialStep, row: usize) -> f64 {
        let (stage, d) = (self.tableau.stages() - 1, self.x.ncols().max(1) as f64);
        let t = self.time_change.time(trial.step.t[stage][row]);
        let s = self.span.curve.at(t);
        let x = trial.step.next.row(row);
        let rate = s.alpha_dot / s.alpha;
        let spread = s.sigma * s.sigma_dot - rate * s.sigma * s.sigma;
        let size = match self.span.curve.path() {
            ProbabilityPath::FlowMatching { .. } => {
                x.dot(&x).sqrt() / (s.alpha * s.alpha + s.sigma * s.sigma)
            }
            _ => {
                let slope = trial.step.k[stage].row(row);
                let time_rate = self.time_change.rate(t);
                let square: f64 = x
                    .iter()
                    .zip(slope)
                    .map(|(x, k)| (rate * x - k / time_rate).powi(2))
                    .sum();
                square.sqrt() / spread.abs()
            }
        };
        if size.is_finite() {
            size / d.sqrt()
        } else {
            0.0
        }
    }

    /// Searches for a jump in each row whose step failed because of its divergence. The search
    /// bisects along the step's dense output; each evaluation halves the bracket. The result has a
    /// bracket for each row with a jump.
    fn find_jumps(
        &mut self,
        field: &mut dyn VectorField,
        trial: &TrialStep,
        errors: &[TrialStepError],
    ) -> Result<Vec<Option<JumpBracket>>, EvalError> {
        let mut found = vec![None; errors.len()];
        if self.divergence.is_none() || !self.detect_jumps {
            return Ok(found);
        }
        let suspect = |row: &usize| {
            let (j, finite) = (
                &errors[*row],
                trial.step.next.row(*row).iter().all(|v| v.is_finite()),
            );
            finite && j.norm() > 1.0 && j.integral.is_finite() && j.integral > j.state
        };
        let rows: Vec<usize> = (0..errors.len()).filter(suspect).collect();
        let blank: Vec<(usize, f64)> = rows
            .iter()
            .filter(|i| errors[**i].midpoint_divergence.is_none())
            .map(|i| (*i, 0.5))
            .collect();
        let mut evaluated = blank
            .iter()
            .map(|p| p.0)
            .zip(self.divergence_within_step(field, trial, &blank)?)
            .collect::<BTreeMap<_, _>>();
        let mut searches: Vec<(usize, JumpSearch)> = Vec::new();
        for row in rows {
            let middle = errors[row]
                .midpoint_divergence
                .or_else(|| evaluated.remove(&row))
                .unwrap_or(f64::NAN);
            let stages = (0..self.tableau.stages()).filter(|s| !trial.divergence[*s].is_empty());
            let mut places: Vec<(f64, f64)> = stages
                .map(|s| (self.tableau.c[s], trial.divergence[s][row]))
                .chain([(0.5, middle)])
                .collect();
            // If several stages are at the end of the step, the last one has the new state.
            places.sort_by(|a, b| a.0.total_cmp(&b.0));
            places.reverse();
            places.dedup_by(|a, b| a.0 == b.0);
            places.reverse();
            let allowed = self.allowed_integral_error(trial, row);
            let finest = 64.0 * f64::EPSILON * self.active[row].t.abs().max(self.end.abs());
            let search = JumpSearch::new(&places, trial.h[row].abs(), allowed, finest);
            searches.extend(search.map(|s| (row, s)));
        }
        loop {
            let open: Vec<usize> = (0..searches.len())
                .filter(|i| searches[*i].1.is_open())
                .collect();
            if open.is_empty() {
                break;
            }
            let places: Vec<(usize, f64)> = open
                .iter()
                .map(|i| (searches[*i].0, searches[*i].1.midpoint()))
                .collect();
            let values = self.divergence_within_step(field, trial, &places)?;
            open.iter()
                .zip(values)
                .for_each(|(i, g)| searches[*i].1.bisect(g));
        }
        searches
            .into_iter()
            .for_each(|(row, search)| found[row] = search.bracket());
        Ok(found)
    }

    /// Decides which rows' steps are accepted, and sets the next step of each row.
    fn accept_or_reject(
        &mut self,
        trial: &TrialStep,
        errors: &[TrialStepError],
        jumps: &[Option<JumpBracket>],
    ) -> Vec<bool> {
        let order = self.tableau.order as f64;
        let [now, last, before] = self.control.controller.exponents().map(|e| e / order);
        let mut accepted = Vec::with_capacity(self.active.len());
        for (i, s) in self.active.iter_mut().enumerate() {
            let (h, norm) = (trial.h[i], errors[i].norm());
            let sound = norm.is_finite() && trial.step.next.row(i).iter().all(|v| v.is_finite());
            let fine = sound && norm <= 1.0;
            accepted.push(fine);
            if !sound {
                s.non_finite_attempts += 1;
                s.h *= 0.1;
                (s.rejected, s.last_rejection, s.jump_phase) = (true, None, JumpPhase::None);
                continue;
            }
            s.non_finite_attempts = 0;
            let scale = norm.max(1e-10);
            if !fine {
                if let Some(JumpBracket { from, to }) = jumps[i] {
                    (s.jump_phase, s.h) = s.jump_phase.approach_jump(h, from, to);
                    s.last_rejection = None;
                    continue;
                }
                // If the error falls more slowly than the order predicts, the observed exponent is
                // used.
                let seen = s
                    .last_rejection
                    .map(|(e, l)| (e / norm).ln() / (l / h).ln())
                    .filter(|p| p.is_finite());
                let power = seen.map_or(order, |p| p.clamp(1.0, order));
                s.last_rejection = Some((norm, h));
                s.h *= (0.9 * scale.powf(-1.0 / power)).clamp(0.1, 0.9);
                (s.rejected, s.jump_phase) = (true, JumpPhase::None);
                continue;
            }
            s.squared_error += errors[i]
                .log_density_errors
                .iter()
                .map(|e| e * e)
                .sum::<f64>();
            s.last_rejection = None;
            if let JumpPhase::Before { .. } = s.jump_phase {
                s.jump_phase = s.jump_phase.reach_jump();
                continue;
            }
            let factor = match s.previous_errors {
                None => 0.9 * scale.powf(-1.0 / order),
                Some(errors) => {
                    0.9 * scale.powf(now) * errors[0].powf(last) * errors[1].powf(before)
                }
            };
            // After a rejection the step may not grow, because it would probably fail again.
            s.h *= factor.clamp(0.2, if s.rejected { 1.0 } else { 10.0 });
            s.rejected = false;
            s.previous_errors = Some([scale.max(1e-4), s.previous_errors.map_or(1.0, |e| e[0])]);
        }
        accepted
    }

    /// Crosses the jumps that rows have reached: one step of Heun's method leads each row from one
    /// side of its jump to the other.
    fn cross_jumps(
        &mut self,
        field: &mut dyn VectorField,
        visit: &mut NodeVisitor,
    ) -> Result<(), EvalError> {
        let rows: Vec<usize> = (0..self.active.len())
            .filter(|i| matches!(self.active[*i].jump_phase, JumpPhase::Across { .. }))
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        let length = |i: usize| match self.active[i].jump_phase {
            JumpPhase::Across { width, .. } => width
                .abs()
                .min((self.end - self.active[i].t).abs())
                .copysign(width),
            _ => 0.0,
        };
        let w: Vec<f64> = rows.iter().map(|i| length(*i)).collect();
        let (x, first) = (select_rows(&self.x, &rows), select_rows(&self.slope, &rows));
        let t: Vec<f64> = rows.iter().map(|i| self.active[*i].t).collect();
        let ahead: Vec<f64> = t.iter().zip(&w).map(|(t, w)| t + w).collect();
        let there = add_weighted_slopes(&x, &w, &[1.0], std::slice::from_ref(&first));
        let second = self.evaluate_field(
            field,
            &rows,
            EvaluationPurpose::QuadratureNode,
            &ahead,
            &there,
        )?;
        let (second, far, far_products) = (second.velocity, second.divergence, second.products);
        let next = add_weighted_slopes(&x, &w, &[0.5, 0.5], &[first.clone(), second.clone()]);
        let third = self.evaluate_field(
            field,
            &rows,
            EvaluationPurpose::QuadratureNode,
            &ahead,
            &next,
        )?;
        let (slope, divergence, products) = (third.velocity, third.divergence, third.products);
        let (far, divergence) = (far.unwrap_or_default(), divergence.unwrap_or_default());
        let near: Vec<f64> = rows
            .iter()
            .map(|i| self.divergence.as_ref().map_or(f64::NAN, |g| g[*i]))
            .collect();
        let tolerance = self.control.integral_tolerance(self.x.ncols());
        let mut crossed = Vec::new();
        for (j, i) in rows.iter().enumerate() {
            let error = (&slope.row(j) - &second.row(j)) * (0.5 * w[j]);
            let state = self.control.error_norm(error.view(), x.row(j), next.row(j));
            let integral = 0.5 * w[j].abs() * (far[j] - near[j]).abs();
            let s = &mut self.active[*i];
            s.attempts += 1;
            let JumpPhase::Across { width, next_step } = s.jump_phase else {
                continue;
            };
            s.jump_phase = JumpPhase::None;
            if state <= 1.0
                && integral <= 2.0 * tolerance
                && next.row(j).iter().all(|v| v.is_finite())
            {
                (s.h, s.rejected) = (next_step, false);
                s.squared_error += integral * integral;
                crossed.push(j);
            } else {
                s.h = width;
                s.rejected = true;
            }
        }
        let pick = |v: &[f64]| crossed.iter().map(|j| v[*j]).collect::<Vec<f64>>();
        let at: Vec<usize> = crossed.iter().map(|j| rows[*j]).collect();
        let weight: Vec<f64> = crossed.iter().map(|j| 0.5 * w[*j]).collect();
        let near_products = self.products.as_ref().map(|p| p.select(&at));
        let far_products = far_products.map(|p| p.select(&crossed));
        // The near and the far side of the jump each carry half of the weight.
        let near = NodeExtras {
            divergence: Some(&pick(&near)),
            products: near_products.as_ref(),
        };
        self.emit_nodes(
            &at,
            &pick(&t),
            &select_rows(&x, &crossed),
            &weight,
            near,
            visit,
        )?;
        let far = NodeExtras {
            divergence: Some(&pick(&far)),
            products: far_products.as_ref(),
        };
        self.emit_nodes(
            &at,
            &pick(&ahead),
            &select_rows(&there, &crossed),
            &weight,
            far,
            visit,
        )?;
        for j in &crossed {
            let i = rows[*j];
            self.active[i].t = ahead[*j];
            self.x.row_mut(i).assign(&next.row(*j));
            self.slope.row_mut(i).assign(&slope.row(*j));
            if let Some(g) = &mut self.divergence {
                g[i] = divergence[*j];
            }
            if let (Some(own), Some(new)) = (&mut self.products, &products) {
                own.replace_row(i, new, *j);
            }
        }
        let moved: Vec<bool> = (0..self.active.len()).map(|i| at.contains(&i)).collect();
        self.remove_finished_rows(&moved);
        Ok(())
    }

    /// Ends rows whose tolerance is so far below the rounding error of the field that rounding
    /// alone would force short steps. A step's error is at least h·‖e‖ times the rounding error of
    /// the slopes, with e the error weights. The rounding error is measured by second differences
    /// of the field, with perturbations of one, two and three roundings of float32 in every
    /// coordinate. It is measured after 64 attempts and again whenever the number of attempts has
    /// doubled. A row ends only if two successive measurements agree.
    fn stop_below_rounding(&mut self, field: &mut dyn VectorField) -> Result<(), EvalError> {
        // Near a jump, the second difference could come from the jump and not from rounding.
        let due = |s: &AdaptiveSampleState| {
            s.attempts >= 64.max(2 * s.attempts_at_rounding_check)
                && s.jump_phase == JumpPhase::None
                && !s.rejected
                && s.last_rejection.is_none()
        };
        let rows: Vec<usize> = (0..self.active.len())
            .filter(|i| due(&self.active[*i]))
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        let (t, x): (Vec<f64>, Batch) = (
            rows.iter().map(|i| self.active[*i].t).collect(),
            select_rows(&self.x, &rows),
        );
        let here = select_rows(&self.slope, &rows);
        let mut squares = vec![0.0; rows.len()];
        for ulps in 1..=3 {
            let moved = |by: f64| {
                let sign = |j: usize| if j.is_multiple_of(2) { by } else { -by };
                Batch::from_shape_fn(x.raw_dim(), |(i, j)| {
                    x[[i, j]] * (1.0 + sign(j) * f64::from(f32::EPSILON))
                })
            };
            let ahead = self
                .evaluate_field(
                    field,
                    &rows,
                    EvaluationPurpose::StepControl,
                    &t,
                    &moved(f64::from(ulps)),
                )?
                .velocity;
            let behind = self
                .evaluate_field(
                    field,
                    &rows,
                    EvaluationPurpose::StepControl,
                    &t,
                    &moved(-f64::from(ulps)),
                )?
                .velocity;
            let second = ahead + behind - &here * 2.0;
            for (j, square) in squares.iter_mut().enumerate() {
                // A second difference sums three rounding errors with the weights 1, 1 and −2, so
                // its variance is 6 times theirs; the 3 averages over the perturbations.
                *square += self
                    .control
                    .error_norm(second.row(j), x.row(j), x.row(j))
                    .powi(2)
                    / 6.0
                    / 3.0;
            }
        }
        let weight = match &self.tableau.error_weights {
            None => 0.0,
            Some(
                EmbeddedErrorWeights::One(weights)
                | EmbeddedErrorWeights::Two { fifth: weights, .. },
            ) => weights.iter().map(|w| w * w).sum::<f64>().sqrt(),
        };
        for (i, square) in rows.iter().zip(squares) {
            let s = &mut self.active[*i];
            s.attempts_at_rounding_check = s.attempts;
            // Rounding makes the error of a step of length h at least h·‖e‖·rounding, in units of
            // the tolerance. This is the number of steps that keeps it below 1.
            let least_steps = (self.end - s.t).abs() * weight * square.sqrt();
            s.failed_rounding_checks = if least_steps > MAX_STEPS_FROM_ROUNDING {
                s.failed_rounding_checks + 1
            } else {
                0
            };
        }
        let (lost, left): (Vec<usize>, Vec<usize>) =
            (0..self.active.len()).partition(|i| self.active[*i].failed_rounding_checks >= 2);
        lost.iter()
            .for_each(|i| self.record_end_state(*i, Status::BelowRounding));
        if !lost.is_empty() {
            self.retain_rows(&left);
        }
        Ok(())
    }

    /// Passes the nodes of some rows to the visitor.
    fn emit_nodes(
        &mut self,
        rows: &[usize],
        t: &[f64],
        x: &Batch,
        weight: &[f64],
        NodeExtras {
            divergence,
            products,
        }: NodeExtras,
        visit: &mut NodeVisitor,
    ) -> Result<(), EvalError> {
        if rows.is_empty() {
            return Ok(());
        }
        let batch_index: Vec<usize> = rows.iter().map(|i| self.active[*i].batch_index).collect();
        let node: Vec<u64> = rows.iter().map(|i| self.active[*i].nodes).collect();
        let sample = self.sample_ids(rows);
        let nodes = Nodes {
            sample: &sample,
            node: &node,
            batch_index: &batch_index,
            t,
            x,
            weight,
            divergence,
            products,
        };
        self.time_change.visit_in_time(&nodes, visit)?;
        rows.iter().for_each(|i| self.active[*i].nodes += 1);
        Ok(())
    }

    /// Passes the nodes of the accepted steps to the visitor, stage by stage.
    fn emit_step_nodes(
        &mut self,
        trial: &TrialStep,
        accepted: &[bool],
        visit: &mut NodeVisitor,
    ) -> Result<(), EvalError> {
        let keep: Vec<usize> = (0..accepted.len()).filter(|i| accepted[*i]).collect();
        for s in (0..self.tableau.stages()).filter(|s| self.tableau.b[*s] != 0.0) {
            let t: Vec<f64> = keep.iter().map(|i| trial.step.t[s][*i]).collect();
            let weight: Vec<f64> = keep
                .iter()
                .map(|i| trial.h[*i] * self.tableau.b[s])
                .collect();
            let known = &trial.divergence[s];
            let taken: Option<Vec<f64>> =
                (!known.is_empty()).then(|| keep.iter().map(|i| known[*i]).collect());
            let products = trial.products[s].as_ref().map(|p| p.select(&keep));
            let along = NodeExtras {
                divergence: taken.as_deref(),
                products: products.as_ref(),
            };
            self.emit_nodes(
                &keep,
                &t,
                &select_rows(&trial.step.x[s], &keep),
                &weight,
                along,
                visit,
            )?;
        }
        Ok(())
    }

    /// Moves the accepted rows to their new states, and removes finished and failed rows.
    fn advance(&mut self, trial: TrialStep, accepted: &[bool]) {
        let stage = self.tableau.stages() - 1;
        let (t, last) = (&trial.step.t[stage], &trial.step.k[stage]);
        for i in (0..self.active.len()).filter(|i| accepted[*i]) {
            self.active[i].t = t[i];
            self.x.row_mut(i).assign(&trial.step.next.row(i));
            self.slope.row_mut(i).assign(&last.row(i));
            if let Some(g) = &mut self.divergence {
                g[i] = trial.divergence[stage][i];
            }
            if let (Some(own), Some(new)) = (&mut self.products, &trial.products[stage]) {
                own.replace_row(i, new, i);
            }
        }
        self.remove_finished_rows(accepted);
    }

    /// Removes the rows that have reached the end or failed. `moved` marks the rows whose step was
    /// just accepted.
    fn remove_finished_rows(&mut self, moved: &[bool]) {
        let slope_is_sound = finite_rows(&self.slope);
        let mut keep = Vec::new();
        for i in 0..self.active.len() {
            let s = &mut self.active[i];
            // The last step is clipped to the end, so the end is reached exactly, up to the
            // rounding of t + h.
            let left = self.end - s.t;
            let tiny = 16.0 * f64::EPSILON * s.t.abs().max(self.end.abs());
            let status = if moved[i] && left.abs() <= tiny {
                Some(Status::Ok)
            } else if s.non_finite_attempts >= 12
                || (moved[i] && !slope_is_sound[i])
                || !s.h.is_finite()
            {
                Some(Status::NonFinite)
            } else if s.attempts >= self.control.max_steps {
                Some(Status::MaxSteps)
            } else if s.h.abs() <= tiny {
                Some(if s.non_finite_attempts > 0 {
                    Status::NonFinite
                } else {
                    Status::StepTooSmall
                })
            } else {
                None
            };
            match status {
                Some(status) => self.record_end_state(i, status),
                None => {
                    if s.h.abs() > left.abs() {
                        s.h = left;
                    }
                    keep.push(i);
                }
            }
        }
        if keep.len() < self.active.len() {
            self.retain_rows(&keep);
        }
    }

    /// Writes the end state, status and cost of a row into the solution.
    fn record_end_state(&mut self, row: usize, status: Status) {
        let s = &self.active[row];
        self.solution.status[s.batch_index] = status;
        self.solution.evaluations[s.batch_index] = s.evaluations;
        self.solution.control_evaluations[s.batch_index] = s.control_evaluations;
        self.solution.solver_error[s.batch_index] =
            self.divergence.as_ref().map(|_| s.squared_error.sqrt());
        self.solution
            .x
            .row_mut(s.batch_index)
            .assign(&self.x.row(row));
    }

    /// Keeps only the given rows as active.
    fn retain_rows(&mut self, rows: &[usize]) {
        self.active = rows.iter().map(|i| self.active[*i].clone()).collect();
        self.x = select_rows(&self.x, rows);
        self.slope = select_rows(&self.slope, rows);
        self.divergence = self
            .divergence
            .as_ref()
            .map(|g| rows.iter().map(|i| g[*i]).collect());
        self.products = self.products.as_ref().map(|p| p.select(rows));
    }
}

/// Combines two error estimates into |e₅|² / √(|e₅|² + |e₃|²/100) (Hairer, Nørsett & Wanner,
/// II.10).
fn combine_error_estimates(five: f64, three: f64) -> f64 {
    if five == 0.0 {
        0.0
    } else {
        five * five / five.hypot(0.1 * three)
    }
}
