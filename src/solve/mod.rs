//! The path of the state alone, sample by sample.
//!
//! A solver hands on every accepted stage as a quadrature node with its weight; whatever is
//! integrated along the path, a divergence above all, is evaluated on those nodes and reaches
//! no step control. Time, step, status and cost belong to a sample, never to a batch.

use ndarray::Axis;
use serde::{Deserialize, Serialize};

use crate::flow::field::{EvalError, VectorField};
use crate::flow::grid;
use crate::flow::grid::Spacing;
use crate::flow::path::{Curve, Path};
use crate::num::Batch;
use crate::num::key::SampleId;
use crate::registry;

pub mod adaptive;
pub mod clock;
pub mod dop853;
pub mod fixed;
pub mod pace;
pub mod tableau;

registry! {
    /// The ODE solvers, as `solvers:` and `--solver` name them.
    pub enum Solver: OdeSolver {
        "euler" => Euler(fixed::Euler),
        "midpoint" => Midpoint(fixed::Midpoint),
        "heun" => Heun(fixed::Heun),
        "rk4" => Rk4(fixed::Rk4),
        "bosh3" => Bosh3(adaptive::Bosh3),
        "dopri5" => Dopri5(adaptive::Dopri5),
        "tsit5" => Tsit5(adaptive::Tsit5),
        "dop853" => Dop853(adaptive::Dop853),
    }
}

/// How one sample's path ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Ok,
    MaxSteps,
    StepTooSmall,
    NonFinite,
}

impl Status {
    /// As tables print it.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::MaxSteps => "max-steps",
            Status::StepTooSmall => "step-too-small",
            Status::NonFinite => "non-finite",
        }
    }
}

/// Accepted stages of some samples: states, times and quadrature weights (signed, in time).
pub struct Nodes<'a> {
    pub sample: &'a [SampleId],
    /// Index of the node on its sample's path.
    pub node: &'a [u64],
    /// Position of the sample in the batch that is being solved.
    pub slot: &'a [usize],
    pub t: &'a [f64],
    pub x: &'a Batch,
    pub weight: &'a [f64],
}

/// What a path's nodes are handed to.
pub type Visitor<'a> = dyn FnMut(&Nodes) -> Result<(), EvalError> + 'a;

/// The end states with their status and cost, per sample of the batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Solution {
    pub x: Batch,
    pub status: Vec<Status>,
    /// Evaluations of the velocity, rejected steps included.
    pub evaluations: Vec<u64>,
}

/// An interval of the card's time, in the direction of travel, on its curve.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    pub curve: &'a Curve,
    /// From the data end to the prior end, or back.
    pub to_prior: bool,
}

impl Span<'_> {
    pub fn start(&self) -> f64 {
        if self.to_prior { self.curve.data_end() } else { self.curve.prior_end() }
    }

    pub fn end(&self) -> f64 {
        if self.to_prior { self.curve.prior_end() } else { self.curve.data_end() }
    }

    /// A fixed grid of `steps` steps in the direction of travel.
    fn grid(&self, spacing: Option<Spacing>, steps: usize) -> Result<Vec<f64>, String> {
        let natural = match self.curve.path() {
            Path::Edm { .. } | Path::Ve { .. } => Spacing::Karras,
            _ => Spacing::Uniform,
        };
        let mut times = grid::times(self.curve, spacing.unwrap_or(natural), steps, 7.0)?;
        if !self.to_prior {
            times.reverse();
        }
        Ok(times)
    }
}

/// One way to follow dx/dt = v(x, t).
pub trait OdeSolver: Sync {
    /// Refuses parameters that make no sense on this span, by their key.
    fn check(&self, span: Span) -> Result<(), String>;

    /// Evaluations per sample, where they are known before solving.
    fn evaluations(&self) -> Option<u64>;

    /// Nodes per sample that a visitor sees, where that is known before solving.
    fn nodes(&self) -> Option<u64>;

    /// Carries every row of `x` over the span.
    fn solve(
        &self,
        field: &mut dyn VectorField,
        sample: &[SampleId],
        x: Batch,
        span: Span,
        visit: &mut Visitor,
    ) -> Result<Solution, EvalError>;
}

/// The rows of `x` at `keep`.
fn select(x: &Batch, keep: &[usize]) -> Batch {
    x.select(Axis(0), keep)
}

/// Whether every number of each row is finite.
fn finite(x: &Batch) -> Vec<bool> {
    x.rows().into_iter().map(|r| r.iter().all(|v| v.is_finite())).collect()
}
