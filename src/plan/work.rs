//! One unit of work and what it is made of.

use serde::{Deserialize, Serialize};

use super::{Plan, PlannedFile, solver_label};
use crate::config::DensityGrid;
use crate::dequantization::Dequantization;
use crate::divergence::{self, Control, Divergence};
use crate::flow::grid::Spacing;
use crate::metric::Metric;
use crate::num::key::SampleId;
use crate::sample::Sampler;
use crate::solve::{Solver, refine};
use crate::stein::Stein;

/// One unit of work: what a kill can lose, at most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Hash of the content, so that the order of a config changes nothing.
    pub id: String,
    pub work: Work,
}

impl Trial {
    /// Whether it is done without having been asked for.
    pub fn is_automatic(&self) -> bool {
        matches!(&self.work, Work::Budget(work) if work.automatic)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
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
        estimator: Divergence,
        grid: DensityGrid,
    },
    /// The differences of a sampler's statistics from a baseline's, paired by their common noise.
    Contrast(ContrastWork),
    /// What a flow map makes of the identities of a true one.
    Maps(MapWork),
    /// Stein tests of one head.
    Stein {
        model: usize,
        data: usize,
        stein: Stein,
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
    pub estimators: Vec<Divergence>,
    /// Index of the estimator that the others are compared with.
    pub reference: usize,
    /// What they are compared with instead, where that stands under another solver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
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
        self.dequantization.as_ref().map_or(1, |d| d.draws())
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
pub struct Against {
    pub estimator: Divergence,
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
pub struct MapWork {
    pub model: usize,
    pub data: usize,
    pub map: String,
    pub steps: Vec<usize>,
    pub grid: Option<Spacing>,
    pub samples: usize,
    pub draws: usize,
}

impl Work {
    pub fn model(&self) -> usize {
        match self {
            Work::Likelihood(w) | Work::Profile(w) | Work::Budget(w) => w.model,
            Work::Maps(w) => w.model,
            Work::Contrast(w) => w.model,
            Work::Density { model, .. } | Work::Stein { model, .. } => *model,
            Work::Sample { model, .. } | Work::Metrics { model, .. } => *model,
        }
    }

    /// The data that it reads.
    pub fn data(&self) -> Vec<usize> {
        match self {
            Work::Likelihood(w) | Work::Profile(w) | Work::Budget(w) => vec![w.data],
            Work::Maps(w) => vec![w.data],
            Work::Contrast(w) => vec![w.reference],
            Work::Stein { data, .. } => vec![*data],
            Work::Metrics {
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
            Work::Sample { noise, .. } => noise.iter().copied().collect(),
            Work::Density { .. } => Vec::new(),
        }
    }

    /// Samples whose rows are their own, each made alike in any company; none where the rows are statistics.
    pub fn samples(&self) -> Option<std::ops::Range<SampleId>> {
        let range =
            |first: usize, count: usize| Some(first as SampleId..(first + count) as SampleId);
        match self {
            Work::Likelihood(w) | Work::Profile(w) | Work::Budget(w) => range(w.first, w.count),
            Work::Density { grid, .. } => range(0, grid.points * grid.points),
            Work::Sample { first, count, .. } => range(*first, *count),
            Work::Contrast(_) | Work::Maps(_) | Work::Stein { .. } | Work::Metrics { .. } => None,
        }
    }

    /// Tolerances of the solver that chose the steps, relative and absolute; none where they were fixed.
    pub fn tolerances(&self) -> Option<[f64; 2]> {
        match self {
            Work::Likelihood(w) | Work::Profile(w) | Work::Budget(w) => w.solver.tolerances(),
            Work::Density { solver, .. } => solver.tolerances(),
            _ => None,
        }
    }

    /// What holds the steps of the paths of log-likelihoods, where their solver chooses steps.
    pub fn control(&self, plan: &Plan) -> Option<Control> {
        let Work::Likelihood(w) = self else {
            return None;
        };
        let chosen =
            w.solver.evaluations().is_none() && w.estimators.iter().any(Divergence::takes_solver);
        chosen.then(|| Control::of(&w.estimators, plan.models[w.model].shape.iter().product()))
    }

    /// How the estimators of log-likelihoods share products, where they do.
    fn sharing(&self, plan: &Plan) -> Option<&'static str> {
        let Work::Likelihood(w) = self else {
            return None;
        };
        let dim = plan.models[w.model].shape.iter().product();
        let adaptive = w.solver.evaluations().is_none();
        let control = if adaptive {
            Control::of(&w.estimators, dim)
        } else {
            Control::State
        };
        let shared = divergence::Plan::of(&w.estimators, dim, &control);
        shared.describe(shared.comes_along(dim, adaptive, &control))
    }

    /// What the work is, in a few words.
    pub fn describe(&self, plan: &Plan) -> String {
        let model = &plan.models[self.model()].name;
        match self {
            Work::Likelihood(w) => format!(
                "{model}: log-likelihoods of samples {} to {}, {}, {} estimators{}{}",
                w.first,
                w.first + w.count - 1,
                solver_label(&w.solver),
                w.estimators.len(),
                self.control(plan)
                    .map_or(String::new(), |c| format!(", {}", c.describe())),
                self.sharing(plan)
                    .map_or(String::new(), |s| format!(", {s}"))
            ),
            Work::Profile(w) => format!(
                "{model}: divergence along {} paths, {}",
                w.count,
                solver_label(&w.solver)
            ),
            Work::Budget(w) => {
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
            Work::Contrast(w) => {
                format!(
                    "{model}: {} against {}",
                    w.sampler.label(),
                    w.baseline.label()
                )
            }
            Work::Maps(w) => {
                format!(
                    "{model}: identities of the flow map {} in {:?} steps, {} samples",
                    w.map, w.steps, w.samples
                )
            }
            Work::Density {
                estimator, grid, ..
            } => {
                format!(
                    "{model}: log-density on {0} x {0} points, {1}",
                    grid.points,
                    estimator.label()
                )
            }
            Work::Stein { stein, .. } => {
                format!(
                    "{model}: Stein tests of {}, {} states at {} times",
                    stein.head, stein.samples, stein.times
                )
            }
            Work::Sample {
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
            Work::Metrics {
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
