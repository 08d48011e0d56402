//! Draws under a range of observations, ranked against the true parameters.

use std::ops::Range;

use anyhow::{Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::paths::{check_paths, check_sample_end, network_workload, path_cost};
use super::{RowMagnitudes, WorkKind};
use crate::calibration::CalibrationTest;
use crate::divergence::DivergenceEstimator;
use crate::num::key::SampleId;
use crate::plan::capabilities::check_sampler_supported;
use crate::plan::{Plan, PreparedPlan, SecondsPerRow, TrialCost};
use crate::progress::Workload;
use crate::registry::prefix_with_name;
use crate::sample::{Sampler, SamplerContext};
use crate::solve::Solver;

/// The largest number of draws per observation. An address has room for so many.
pub const MAX_CALIBRATION_DRAWS: usize = 1 << 22;

/// The ranks of the observations number `first` to `first + count`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrationWork {
    pub model: usize,
    /// The data with the true parameters of all observations.
    pub data: usize,
    pub sampler: Sampler,
    /// The number of draws per observation.
    pub draws: usize,
    /// How log-densities are computed; `None` if no test needs them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub density: Option<CalibrationDensity>,
    pub tests: Vec<CalibrationTest>,
    /// The number of observations of the whole entry, whose true parameters span the box of the
    /// reference points.
    pub observations: usize,
    pub first: usize,
    pub count: usize,
}

/// How the log-densities of draws are computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrationDensity {
    pub estimator: DivergenceEstimator,
    pub solver: Solver,
}

impl CalibrationDensity {
    /// The labels of the estimator and of its solver, which is empty if the estimator needs none.
    pub fn labels(&self) -> [String; 2] {
        let solver = match self.estimator.needs_solver() {
            true => self.solver.label(),
            false => String::new(),
        };
        [self.estimator.label(), solver]
    }
}

impl CalibrationWork {
    /// Checks the sampler, the tests, the density and the numbers of draws and observations.
    ///
    /// # Errors
    /// Fails with the key of what is wrong.
    pub fn check(&self, prepared: &PreparedPlan) -> Result<()> {
        let model = &prepared.models[self.model];
        if !(1..=MAX_CALIBRATION_DRAWS).contains(&self.draws) {
            bail!(
                "draws: {}, expected 1 to {MAX_CALIBRATION_DRAWS}",
                self.draws
            );
        }
        self.sampler
            .check(&SamplerContext::for_model(model))
            .map_err(|e| anyhow!("sampler: {}", prefix_with_name(self.sampler.name(), e)))?;
        check_sampler_supported(model, &self.sampler)?;
        if self.sampler.population().is_some() {
            bail!(
                "sampler: {} draws the samples of a population together, so that draws of one \
                 observation would depend on other observations; expected another sampler",
                self.sampler.name()
            );
        }
        for test in &self.tests {
            test.check(self.draws)
                .map_err(|e| anyhow!("tests: {}", prefix_with_name(test.name(), e)))?;
        }
        match (self.needs_density(), &self.density) {
            (true, None) => {
                bail!("density: absent, but `coverage` needs log-densities; expected an estimator")
            }
            (false, Some(_)) => bail!(
                "density: only the test `coverage` uses it; expected `coverage` among the tests, or \
                 no `density`"
            ),
            (_, None) => {}
            (_, Some(CalibrationDensity { estimator, solver })) => {
                if solver.auto_steps_tolerance().is_some() {
                    bail!(
                        "solver: `steps: auto` is for entries of `likelihood`; expected a number"
                    );
                }
                check_paths(model, solver, std::slice::from_ref(estimator))?;
            }
        }
        let end = self.first.checked_add(self.count);
        if self.count == 0 || end.is_none_or(|end| end > self.observations) {
            bail!("observations {} and {} more", self.first, self.count);
        }
        check_sample_end(prepared, self.data, Some(self.observations))
    }

    fn needs_density(&self) -> bool {
        self.tests.iter().any(|test| test.needs_density())
    }
}

impl WorkKind for CalibrationWork {
    fn model_index(&self) -> usize {
        self.model
    }

    fn data_indices(&self) -> Vec<usize> {
        vec![self.data]
    }

    fn describe(&self, plan: &Plan) -> String {
        let names: Vec<&str> = self.tests.iter().map(|test| test.name()).collect();
        format!(
            "{}: calibration ({}) of observations {} to {}, {} draws each, {}",
            plan.models[self.model].name,
            names.join(", "),
            self.first,
            self.first + self.count - 1,
            self.draws,
            self.sampler.label()
        )
    }

    fn cost(&self, prepared: &PreparedPlan) -> TrialCost {
        let model = &prepared.models[self.model];
        let context = SamplerContext::for_model(model);
        // Classifiers are trained on one more draw under each observation.
        let trained = usize::from(self.tests.iter().any(|test| test.needs_classifiers()));
        let (each, rows) = (
            self.sampler.cost(&context),
            (self.count * (self.draws + trained)) as u64,
        );
        let calls = model.most_calls();
        let sampling = TrialCost {
            evaluations: each.evaluations * calls * rows,
            products: each.products * calls * rows,
            head_calls: 0,
            guessed: each.is_upper_bound,
        };
        match &self.density {
            None => sampling,
            Some(CalibrationDensity { estimator, solver }) => {
                let estimators = std::slice::from_ref(estimator);
                let rows = self.count * (self.draws + 1);
                sampling.plus(path_cost(model, solver, estimators, rows))
            }
        }
    }

    fn workload(&self, prepared: &PreparedPlan, seconds: SecondsPerRow) -> Workload {
        let density = self.density.as_ref();
        let labels = density.map(|density| density.labels().join(", "));
        let what = format!("{} {}", self.sampler.label(), labels.unwrap_or_default());
        let sampled = self.count * self.draws;
        let rows = sampled + density.map_or(0, |_| sampled + self.count);
        network_workload(self, prepared, seconds, "calibration", &what, Some(rows))
    }

    fn validate(&self, prepared: &PreparedPlan) -> Result<()> {
        self.check(prepared)
    }

    fn sample_range(&self) -> Option<Range<SampleId>> {
        Some(self.first as SampleId..(self.first + self.count) as SampleId)
    }

    fn estimators(&self) -> Vec<DivergenceEstimator> {
        let density = self.density.iter();
        density.map(|density| density.estimator.clone()).collect()
    }

    fn samplers(&self) -> Vec<Sampler> {
        vec![self.sampler.clone()]
    }

    fn tolerances(&self) -> Option<[f64; 2]> {
        self.density.as_ref()?.solver.tolerances()
    }

    fn magnitude(&self, row: &RowMagnitudes) -> Option<f64> {
        Some(match row.column {
            // Rounding reorders draws that are nearly equal. Two ranks and 0.2 % of many draws are
            // drift, where 2⁻¹⁵ of this is.
            "rank" | "ties" => f64::from(1 << 15) * (2.0 + 0.002 * self.draws as f64),
            // A prior log-density and a divergence integral are some nats per dimension each.
            _ => (row.size)(row.column) + 10.0 * row.dim,
        })
    }
}
