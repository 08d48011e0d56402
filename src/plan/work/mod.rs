//! Kinds of work: a file each, and a line each in the list below.
//!
//! A kind of work is a struct. Its fields are what `plan.json` holds of a trial, and its
//! [`WorkKind`] says what a plan needs to know of it. How it is carried out stands in the file of
//! the same name under `execute/`, and what its rows become under `table/`.

use std::ops::{Deref, Range};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Plan, PlannedFile, PreparedPlan, SecondsPerRow, TrialCost};
use crate::divergence::DivergenceEstimator;
use crate::num::key::SampleId;
use crate::progress::Workload;
use crate::sample::Sampler;

mod bound_profile;
mod budget;
mod calibration;
mod contrast;
mod density;
mod likelihood;
mod maps;
mod mass;
mod metrics;
mod paths;
mod profile;
mod reweight;
mod sample;
mod statistics;
mod stein;

pub use bound_profile::BoundProfileWork;
pub use budget::BudgetWork;
pub use calibration::{CalibrationDensity, CalibrationWork, MAX_CALIBRATION_DRAWS};
pub use contrast::ContrastWork;
pub use density::DensityWork;
pub use likelihood::{LikelihoodWork, ReferenceEstimate};
pub use maps::FlowMapWork;
pub use mass::{MAX_MASS_DIM, MassWork};
pub use metrics::MetricsWork;
pub use profile::ProfileWork;
pub use reweight::ReweightWork;
pub use sample::{SampleWork, sample_density_solver, with_own_density};
pub use stein::SteinWork;

/// One unit of work: a killed run loses at most one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// A hash of the work's content, so that the order of a config changes no id.
    pub id: String,
    pub work: TrialWork,
}

/// What a plan knows of one kind of work.
pub trait WorkKind {
    /// The position of the work's model in the plan.
    fn model_index(&self) -> usize;

    /// The positions in the plan of the data that the work reads.
    fn data_indices(&self) -> Vec<usize> {
        Vec::new()
    }

    /// The work in a few words, for `plan`, progress and messages.
    fn describe(&self, plan: &Plan) -> String;

    /// The cost of the work for all its samples together. The evaluations of adaptive solvers are
    /// guessed. Statistics cost no evaluation of a network.
    fn cost(&self, _prepared: &PreparedPlan) -> TrialCost {
        TrialCost::default()
    }

    /// The cost of the work as it is carried out, where estimators share products. [`WorkKind::cost`]
    /// counts each estimator alone.
    fn shared_cost(&self, prepared: &PreparedPlan) -> TrialCost {
        self.cost(prepared)
    }

    /// The work as the estimate of the time left sees it, from the measured seconds of its model.
    fn workload(&self, prepared: &PreparedPlan, seconds: SecondsPerRow) -> Workload;

    /// Checks the parameters of work that was read from a plan on disk.
    ///
    /// # Errors
    /// Fails if no config could have asked for such work, or if the data have too few samples.
    fn validate(&self, _prepared: &PreparedPlan) -> Result<()> {
        Ok(())
    }

    /// The samples whose rows do not depend on the other samples of the trial. `None` if the rows
    /// are statistics.
    fn sample_range(&self) -> Option<Range<SampleId>> {
        None
    }

    /// The number of consecutive samples that can only be computed together.
    fn samples_per_unit(&self) -> usize {
        1
    }

    /// The ids of the trials whose samples this work reads. They belong to the same shard.
    fn required_trials(&self) -> Vec<&str> {
        Vec::new()
    }

    /// The divergence estimators that the work asks its model for.
    fn estimators(&self) -> Vec<DivergenceEstimator> {
        Vec::new()
    }

    /// The samplers that the work asks its model for.
    fn samplers(&self) -> Vec<Sampler> {
        Vec::new()
    }

    /// The relative and absolute tolerance of the solver that chooses the steps. `None` if the
    /// steps are fixed.
    fn tolerances(&self) -> Option<[f64; 2]> {
        None
    }

    /// Whether the rows are nodes of adaptive steps. Their number and their times change if another
    /// machine rounds the error estimates differently.
    fn has_adaptive_nodes(&self) -> bool {
        false
    }

    /// The sum of the magnitudes behind one number of a row. Rounding moves the number by a share
    /// of this. `None` for a statistic, whose magnitude follows from its standard error.
    fn magnitude(&self, _row: &RowMagnitudes) -> Option<f64> {
        None
    }

    /// Whether the work is done although no config asked for it.
    fn is_automatic(&self) -> bool {
        false
    }
}

/// The sizes of the numbers in a recomputed row.
pub struct RowMagnitudes<'a> {
    /// The column of the number in question.
    pub column: &'a str,
    /// The absolute value of a number of the row by its column, 0 if it is empty.
    pub size: &'a dyn Fn(&str) -> f64,
    /// The largest absolute value in the column.
    pub column_max: &'a dyn Fn() -> f64,
    /// The number of dimensions of the model.
    pub dim: f64,
}

/// Declares the kinds of work: the key in `plan.json`, the variant, and the struct.
macro_rules! work_kinds {
    ($d:tt; $($(#[$meta:meta])* $name:literal => $Kind:ident($Work:ident);)+) => {
        /// The work of a trial, of any kind.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub enum TrialWork {
            $($(#[$meta])* #[serde(rename = $name)] $Kind(Box<$Work>),)+
        }

        impl TrialWork {
            /// The name of the kind, as `plan.json` has it.
            pub fn kind_name(&self) -> &'static str {
                match self {
                    $(TrialWork::$Kind(_) => $name,)+
                }
            }
        }

        impl Deref for TrialWork {
            type Target = dyn WorkKind;

            fn deref(&self) -> &Self::Target {
                match self {
                    $(TrialWork::$Kind(work) => &**work,)+
                }
            }
        }

        $(
            impl From<$Work> for TrialWork {
                fn from(work: $Work) -> TrialWork {
                    TrialWork::$Kind(Box::new(work))
                }
            }
        )+

        /// Evaluates an expression for the struct of a work's kind, whichever it is.
        macro_rules! with_work_kind {
            ($d work:expr, $d kind:ident => $d body:expr) => {
                match $d work {
                    $($crate::plan::TrialWork::$Kind($d kind) => $d body,)+
                }
            };
        }
        pub(crate) use with_work_kind;
    };
}

work_kinds! { $;
    /// The log-likelihoods of a range of samples by every estimator, over one path.
    "likelihood" => Likelihood(LikelihoodWork);
    /// The divergence at the nodes of the paths of the first samples.
    "profile" => Profile(ProfileWork);
    "bound-profile" => BoundProfile(BoundProfileWork);
    /// The first samples again with other steps and in float64, for the error budget.
    "budget" => Budget(BudgetWork);
    /// The log-density by one estimator over a rectangle of the plane.
    "density" => Density(DensityWork);
    /// The differences of a sampler's statistics from a baseline's, paired by their common noise.
    "contrast" => Contrast(ContrastWork);
    /// The residuals of the identities that hold for a true flow map.
    "maps" => Maps(FlowMapWork);
    /// Stein tests of one divergence head.
    "stein" => Stein(SteinWork);
    /// The integral of the density, by importance sampling.
    "mass" => Mass(MassWork);
    /// A range of samples of one sampler.
    "sample" => Sample(SampleWork);
    /// A range of samples of one sampler with their weights for a target.
    "reweight" => Reweight(ReweightWork);
    /// The statistics of samples, or of floor data, against reference data.
    "metrics" => Metrics(MetricsWork);
    /// The ranks of true parameters among draws under a range of observations.
    "calibration" => Calibration(CalibrationWork);
}

/// The name of the extractor behind statistics, `raw` if they are of the numbers themselves.
pub(crate) fn features_name(extractor: Option<&PlannedFile>) -> String {
    extractor.map_or("raw".to_owned(), |file| file.name.clone())
}
