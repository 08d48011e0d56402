//! One unit of work and what it is made of.

use serde::{Deserialize, Serialize};

use super::{Plan, PlannedFile, solver_label};
use crate::config::DensityGrid;
use crate::dequantization::Dequantization;
use crate::divergence::{self, ControlDivergence, DivergenceEstimator};
use crate::flow::grid::GridSpacing;
use crate::metric::Metric;
use crate::num::key::SampleId;
use crate::sample::Sampler;
use crate::solve::{Solver, refine};
use crate::stein::SteinTest;

/// One unit of work: what a kill can lose, at most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Hash of the content, so that the order of a config changes nothing.
    pub id: String,
    pub work: TrialWork,
}

impl Trial {
    /// Whether it is done without having been asked for.
    pub fn is_automatic(&self) -> bool {
        matches!(&self.work, TrialWork::Budget(work) if work.automatic)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrialWork {
    /// Every estimator on a range of samples, over one path.
    Likelihood(LikelihoodWork),
    /// The divergence along the path of the first `count` samples.
    Profile(LikelihoodWork),
    /// The first `count` samples again, with other steps and other roundings, for the error budget.
    Budget(LikelihoodWork),
    /// The log-density of one estimator over a rectangle of the plane.
    Density {
        model: usize,
        solver: Solver,
        estimator: DivergenceEstimator,
        grid: DensityGrid,
    },
    /// The differences of a sampler's statistics from a baseline's, paired by their common noise.
    Contrast(ContrastWork),
    /// What a flow map makes of the identities of a true one.
    Maps(FlowMapWork),
    /// Stein tests of one head.
    Stein {
        model: usize,
        data: usize,
        stein: SteinTest,
    },
    /// Samples number `first` to `first + count`.
    Sample {
        model: usize,
        sampler: Sampler,
        /// The file with their initial states; by address where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        noise: Option<usize>,
        first: usize,
        count: usize,
    },
    /// Statistics of samples, or of the floor's data, against reference data.
    Metrics {
        model: usize,
        /// Absent for the data-versus-data floor.
        sampler: Option<Sampler>,
        /// The trials that hold the samples.
        parts: Vec<String>,
        floor: Option<usize>,
        /// Generated samples beside the floor, whose count biased statistics take too.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        count: Option<usize>,
        reference: usize,
        /// What the model was trained on and what it has not seen, where those are not the reference.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        train: Option<usize>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        test: Option<usize>,
        extractor: Option<PlannedFile>,
        metrics: Vec<Metric>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LikelihoodWork {
    pub model: usize,
    pub data: usize,
    pub solver: Solver,
    pub estimators: Vec<DivergenceEstimator>,
    /// Index of the estimator that the others are compared with.
    pub reference: usize,
    /// What they are compared with instead, where that stands under another solver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<ReferenceEstimate>,
    pub first: usize,
    pub count: usize,
    /// As the config names it; integers have one uniform draw where it names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dequantization: Option<Dequantization>,
    /// Of an error budget that no config asked for: finer steps alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub automatic: bool,
}

impl LikelihoodWork {
    /// Draws of dequantization noise per sample.
    pub fn draws(&self) -> usize {
        self.dequantization.as_ref().map_or(1, |d| d.draw_count())
    }

    /// The solvers of its paths as an error budget: its own, once as it is and once with networks in float64, which take
    /// about twice the time, one with finer steps and one with coarser; of an automatic budget its own and the finer.
    pub fn budget_solvers(&self) -> Vec<Solver> {
        let own = std::iter::repeat_n(self.solver.clone(), if self.automatic { 1 } else { 3 });
        let coarser = refine::coarser(&self.solver).filter(|_| !self.automatic);
        own.chain(refine::finer(&self.solver))
            .chain(coarser)
            .collect()
    }
}

/// A reference under a solver of its own, on the same model and data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferenceEstimate {
    pub estimator: DivergenceEstimator,
    pub solver: Solver,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContrastWork {
    pub model: usize,
    pub sampler: Sampler,
    pub baseline: Sampler,
    /// The trials that hold the samples of each.
    pub parts: Vec<String>,
    pub baseline_parts: Vec<String>,
    pub reference: usize,
    pub extractor: Option<PlannedFile>,
    pub metrics: Vec<Metric>,
}

/// A flow map's identities, and the mass of its few-step densities.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowMapWork {
    pub model: usize,
    pub data: usize,
    pub map: String,
    pub steps: Vec<usize>,
    pub grid: Option<GridSpacing>,
    pub samples: usize,
    pub draws: usize,
}

impl TrialWork {
    pub fn model_index(&self) -> usize {
        match self {
            TrialWork::Likelihood(w) | TrialWork::Profile(w) | TrialWork::Budget(w) => w.model,
            TrialWork::Maps(w) => w.model,
            TrialWork::Contrast(w) => w.model,
            TrialWork::Density { model, .. } | TrialWork::Stein { model, .. } => *model,
            TrialWork::Sample { model, .. } | TrialWork::Metrics { model, .. } => *model,
        }
    }

    /// The data that it reads.
    pub fn data_indices(&self) -> Vec<usize> {
        match self {
            TrialWork::Likelihood(w) | TrialWork::Profile(w) | TrialWork::Budget(w) => vec![w.data],
            TrialWork::Maps(w) => vec![w.data],
            TrialWork::Contrast(w) => vec![w.reference],
            TrialWork::Stein { data, .. } => vec![*data],
            TrialWork::Metrics {
                reference,
                floor,
                train,
                test,
                ..
            } => floor
                .iter()
                .chain([reference])
                .chain(train)
                .chain(test)
                .copied()
                .collect(),
            TrialWork::Sample { noise, .. } => noise.iter().copied().collect(),
            TrialWork::Density { .. } => Vec::new(),
        }
    }

    /// Samples whose rows are their own, each made alike in any company; none where the rows are statistics.
    pub fn sample_range(&self) -> Option<std::ops::Range<SampleId>> {
        let range =
            |first: usize, count: usize| Some(first as SampleId..(first + count) as SampleId);
        match self {
            TrialWork::Likelihood(w) | TrialWork::Profile(w) | TrialWork::Budget(w) => {
                range(w.first, w.count)
            }
            TrialWork::Density { grid, .. } => range(0, grid.points * grid.points),
            TrialWork::Sample { first, count, .. } => range(*first, *count),
            TrialWork::Contrast(_)
            | TrialWork::Maps(_)
            | TrialWork::Stein { .. }
            | TrialWork::Metrics { .. } => None,
        }
    }

    /// Tolerances of the solver that chose the steps, relative and absolute; none where they were fixed.
    pub fn tolerances(&self) -> Option<[f64; 2]> {
        match self {
            TrialWork::Likelihood(w) | TrialWork::Profile(w) | TrialWork::Budget(w) => {
                w.solver.tolerances()
            }
            TrialWork::Density { solver, .. } => solver.tolerances(),
            _ => None,
        }
    }

    /// What holds the steps of the paths of log-likelihoods, where their solver chooses steps.
    pub fn step_control(&self, plan: &Plan) -> Option<ControlDivergence> {
        let TrialWork::Likelihood(w) = self else {
            return None;
        };
        let chosen = w.solver.fixed_evaluations().is_none()
            && w.estimators.iter().any(DivergenceEstimator::needs_solver);
        chosen.then(|| {
            ControlDivergence::for_estimators(
                &w.estimators,
                plan.models[w.model].shape.iter().product(),
            )
        })
    }

    /// How the estimators of log-likelihoods share products, where they do.
    fn describe_product_sharing(&self, plan: &Plan) -> Option<&'static str> {
        let TrialWork::Likelihood(w) = self else {
            return None;
        };
        let dim = plan.models[w.model].shape.iter().product();
        let adaptive = w.solver.fixed_evaluations().is_none();
        let control = if adaptive {
            ControlDivergence::for_estimators(&w.estimators, dim)
        } else {
            ControlDivergence::State
        };
        let shared = divergence::ProductPlan::for_estimators(&w.estimators, dim, &control);
        shared.describe(shared.is_joint_with_velocity(dim, adaptive, &control))
    }

    /// What the work is, in a few words.
    pub fn describe(&self, plan: &Plan) -> String {
        let model = &plan.models[self.model_index()].name;
        match self {
            TrialWork::Likelihood(w) => format!(
                "{model}: log-likelihoods of samples {} to {}, {}, {} estimators{}{}",
                w.first,
                w.first + w.count - 1,
                solver_label(&w.solver),
                w.estimators.len(),
                self.step_control(plan)
                    .map_or(String::new(), |c| format!(", {}", c.describe())),
                self.describe_product_sharing(plan)
                    .map_or(String::new(), |s| format!(", {s}"))
            ),
            TrialWork::Profile(w) => format!(
                "{model}: divergence along {} paths, {}",
                w.count,
                solver_label(&w.solver)
            ),
            TrialWork::Budget(w) => {
                let what = if w.automatic {
                    "the solver's error"
                } else {
                    "error budget"
                };
                format!(
                    "{model}: {what} on {} samples, {}",
                    w.count,
                    solver_label(&w.solver)
                )
            }
            TrialWork::Contrast(w) => {
                format!(
                    "{model}: {} against {}",
                    w.sampler.label(),
                    w.baseline.label()
                )
            }
            TrialWork::Maps(w) => {
                format!(
                    "{model}: identities of the flow map {} in {:?} steps, {} samples",
                    w.map, w.steps, w.samples
                )
            }
            TrialWork::Density {
                estimator, grid, ..
            } => {
                format!(
                    "{model}: log-density on {0} x {0} points, {1}",
                    grid.points,
                    estimator.label()
                )
            }
            TrialWork::Stein { stein, .. } => {
                format!(
                    "{model}: Stein tests of {}, {} states at {} times",
                    stein.head, stein.samples, stein.times
                )
            }
            TrialWork::Sample {
                sampler,
                first,
                count,
                ..
            } => {
                format!(
                    "{model}: samples {first} to {}, {}",
                    first + count - 1,
                    sampler.label()
                )
            }
            TrialWork::Metrics {
                sampler, metrics, ..
            } => format!(
                "{model}: {} of {}",
                metrics
                    .iter()
                    .map(|m| m.name())
                    .collect::<Vec<_>>()
                    .join(", "),
                sampler
                    .as_ref()
                    .map_or("the data themselves".to_owned(), Sampler::label)
            ),
        }
    }
}
