//! Numbers of steps that were chosen while the plan was made.

use serde::{Deserialize, Serialize};

use crate::data::Dataset;
use crate::divergence::DivergenceEstimator;
use crate::model::loaded::Model;
use crate::num::key::RngKey;
use crate::solve::Solver;

/// A solver of `steps: auto` with what its grids are compared on.
pub struct AutoStepsRequest<'a> {
    pub model: &'a Model,
    pub data: &'a Dataset,
    pub solver: &'a Solver,
    pub estimators: &'a [DivergenceEstimator],
    /// Of the entry.
    pub samples: usize,
    pub key: RngKey,
}

/// What finds the steps that are wanted.
pub type StepsChooser<'a> = dyn Fn(&AutoStepsRequest) -> anyhow::Result<ChosenSteps> + 'a;

/// The number of steps that a solver of `steps: auto` takes for one entry, and between which grids it was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChosenSteps {
    pub model: String,
    pub data_sha256: String,
    /// As it was asked for.
    pub solver: Solver,
    pub estimators: Vec<DivergenceEstimator>,
    /// The first so many were compared.
    pub samples: usize,
    /// Of the finer of the two grids; the other has half as many.
    pub steps: usize,
    /// Nats by which the two differ: the largest root mean square over samples of any estimator.
    pub gap: f64,
}

impl ChosenSteps {
    /// The solver with that number of steps.
    pub fn chosen_solver(&self) -> Option<Solver> {
        self.solver.with_steps(self.steps)
    }

    /// Whether it answers what is wanted.
    pub fn matches(&self, wanted: &AutoStepsRequest) -> bool {
        self.model == wanted.model.card.name
            && self.data_sha256 == wanted.data.sha256
            && self.solver == *wanted.solver
            && self.estimators == wanted.estimators
    }

    /// In one sentence.
    pub fn describe(&self) -> String {
        format!(
            "{}: {} takes {} steps: {} and {} steps agree within {:.1e} nats (tol {}) on the first {} samples",
            self.model,
            self.solver.name(),
            self.steps,
            self.steps / 2,
            self.steps,
            self.gap,
            self.solver.auto_steps_tolerance().unwrap_or_default(),
            self.samples
        )
    }
}
