//! The numbers of steps that are chosen for `steps: auto` while the plan is made.

use serde::{Deserialize, Serialize};

use crate::data::Dataset;
use crate::divergence::DivergenceEstimator;
use crate::model::latent::LatentEncoding;
use crate::model::loaded::Model;
use crate::num::key::RngKey;
use crate::solve::Solver;

/// A solver with `steps: auto`, and the work on which its grids are compared.
pub struct AutoStepsRequest<'a> {
    pub model: &'a Model,
    pub data: &'a Dataset,
    /// How the data become states of a latent model, if they do.
    pub encode: Option<LatentEncoding>,
    pub solver: &'a Solver,
    pub estimators: &'a [DivergenceEstimator],
    /// The number of samples of the entry.
    pub samples: usize,
    /// The key of all random draws.
    pub key: RngKey,
}

/// The function that chooses the number of steps for a request.
pub type StepsChooser<'a> = dyn Fn(&AutoStepsRequest) -> anyhow::Result<ChosenSteps> + 'a;

/// The number of steps that a solver with `steps: auto` takes for one entry, and the comparison of
/// two grids behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChosenSteps {
    /// The name of the model.
    pub model: String,
    pub data_sha256: String,
    /// The solver as the config has it, with `steps: auto`.
    pub solver: Solver,
    pub estimators: Vec<DivergenceEstimator>,
    /// The number of samples on which the grids were compared. They are the first of the entry.
    pub samples: usize,
    /// The number of steps of the finer grid. The other grid has half as many.
    pub steps: usize,
    /// The difference between the two grids in nats: for each estimator the root mean square over
    /// the samples, and of these the largest.
    pub gap: f64,
}

impl ChosenSteps {
    /// The solver with the chosen number of steps. `None` if the solver has no number of steps.
    pub fn chosen_solver(&self) -> Option<Solver> {
        self.solver.with_steps(self.steps)
    }

    /// Whether this choice was made for the request: the same model, data, solver and estimators.
    pub fn matches(&self, wanted: &AutoStepsRequest) -> bool {
        self.model == wanted.model.label()
            && self.data_sha256 == wanted.data.sha256
            && self.solver == *wanted.solver
            && self.estimators == wanted.estimators
    }

    /// Describes the choice in one sentence.
    pub fn describe(&self) -> String {
        format!(
            "{}: {} takes {} steps: {} and {} steps agree within {:.1e} nats (tol {}) on the \
             first {} samples",
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
