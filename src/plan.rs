//! What will happen: a config resolved into trials, every default visible, every file hashed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::data::Dataset;
use crate::model::loaded::Model;
use crate::model::precision::NetworkPrecision;
use crate::num::shape::AxisLayout;
use crate::sample::{PathPoint, SamplerContext};
use crate::solve::Solver;

mod artifact_paths;
mod auto_steps;
mod builder;
mod capabilities;
mod cost;
mod differences;
mod file_names;
mod prepare;
mod sampler_pairs;
mod shard;
mod single;
mod work;
mod workload;

pub use artifact_paths::{ArtifactPaths, reopen_run};
pub use auto_steps::{AutoStepsRequest, ChosenSteps, StepsChooser};
pub use capabilities::{
    check_difference_step, check_estimator_supported, check_sampler_supported, initial_states,
    max_samples, with_card_defaults,
};
pub use cost::TrialCost;
pub use differences::plan_differences;
pub use prepare::prepare_plan;
pub use shard::Shard;
pub use work::{
    BudgetWork, ContrastWork, DensityWork, FlowMapWork, LikelihoodWork, MetricsWork, ProfileWork,
    ReferenceEstimate, RowMagnitudes, SampleWork, SteinWork, Trial, TrialWork, WorkKind,
};
pub(crate) use work::{features_name, with_work_kind};
pub use workload::SecondsPerRow;

/// The format number of run directories that this program writes.
pub const PLAN_FORMAT: u32 = 1;

/// A run's whole work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub format: u32,
    pub name: String,
    pub seed: u64,
    pub models: Vec<PlannedModel>,
    pub data: Vec<PlannedData>,
    pub trials: Vec<Trial>,
    /// What was taken for something in other files, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// `plan.json`: the work, and what it was begun with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanFile {
    #[serde(flatten)]
    pub plan: Plan,
    pub environment: Vec<(String, String)>,
    /// The `--set` changes that the config was read with.
    pub changes: Vec<String>,
    /// Where every sampler stands on its model's path.
    #[serde(default)]
    pub grids: Vec<PlannedGrid>,
    /// Of the config as the user gave it, `config.yaml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_sha256: Option<String>,
    #[serde(default)]
    pub places: ArtifactPaths,
    /// Numbers of steps that were found for `steps: auto`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<ChosenSteps>,
}

/// The points between which a sampler steps, from the prior end to the data end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedGrid {
    pub model: String,
    pub sampler: String,
    /// The card's own time.
    pub t: Vec<f64>,
    pub alpha: Vec<f64>,
    pub sigma: Vec<f64>,
}

/// A model as it was when the plan was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedModel {
    pub name: String,
    /// SHA-256 of the card's content, comments and layout aside.
    pub card_sha256: String,
    pub files: Vec<PlannedFile>,
    /// What its networks compute in, where that is not the type of their files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<NetworkPrecision>,
    pub shape: Vec<usize>,
    pub path: serde_json::Value,
    pub prediction: String,
    pub prior_std: f64,
    /// Where the path is cut off at both ends, and how far p_T is from the prior.
    #[serde(default)]
    pub truncation: String,
    pub parameters: u64,
    pub range: Option<[f64; 2]>,
    pub levels: Option<u32>,
    /// Fixed inputs of its networks: key and value, or key and file with shape and hash.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constants: Vec<(String, String)>,
    /// What its time inputs are given, by their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<(String, String)>,
    /// Whether derivatives of its networks may jump, by their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinks: Vec<(String, String)>,
    pub provenance: serde_json::Value,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedFile {
    pub name: String,
    pub sha256: String,
}

/// An array as it was when the plan was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedData {
    /// The file's name without its folders, unique within a run.
    pub name: String,
    pub sha256: String,
    pub model: usize,
    pub samples: usize,
    pub treatment: String,
    /// The order of the file's axes, where it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<AxisLayout>,
    /// What was left out of the file or taken for something, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Whether log-likelihoods of it bound nothing, which `lattice: allow` takes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unbounded: bool,
}

/// A plan with the opened files behind it.
pub struct PreparedPlan {
    pub plan: Plan,
    pub models: Vec<Model>,
    pub data: Vec<Dataset>,
    /// Files of extractors by their SHA-256.
    pub extractors: Vec<(PlannedFile, PathBuf)>,
    /// What a config might have meant to be measured and is not, with the reason.
    pub skipped: Vec<String>,
    /// Numbers of steps that were found for `steps: auto`.
    pub steps: Vec<ChosenSteps>,
    /// Whether there are solvers left whose steps are yet to be chosen.
    pub steps_pending: bool,
}

impl PreparedPlan {
    /// The plan without what no config asked for, as earlier versions made it.
    pub fn without_automatic_budgets(mut self) -> PreparedPlan {
        self.plan.trials.retain(|trial| !trial.work.is_automatic());
        self
    }

    /// Prints the notes about files on standard error.
    pub fn print_notes(&self) {
        self.data.iter().for_each(Dataset::print_notes);
        self.plan
            .notes
            .iter()
            .for_each(|text| errln!("flowgauge: {text}"));
    }

    /// The grids of all samplers, each once per model.
    pub fn sampler_grids(&self) -> Vec<PlannedGrid> {
        let mut grids: Vec<PlannedGrid> = Vec::new();
        for trial in &self.plan.trials {
            let model = trial.work.model_index();
            let name = &self.plan.models[model].name;
            for sampler in trial.work.samplers() {
                let label = sampler.label();
                if grids.iter().any(|g| g.model == *name && g.sampler == label) {
                    continue;
                }
                let points = sampler
                    .grid(&SamplerContext::for_model(&self.models[model]))
                    .unwrap_or_default();
                let each = |of: fn(&PathPoint) -> f64| points.iter().map(of).collect();
                let (t, alpha, sigma) = (each(|p| p.t), each(|p| p.alpha), each(|p| p.sigma));
                grids.push(PlannedGrid {
                    model: name.clone(),
                    sampler: label,
                    t,
                    alpha,
                    sigma,
                });
            }
        }
        grids
    }
}

/// As tables print a solver.
pub fn solver_label(solver: &Solver) -> String {
    let default = Solver::from_name(solver.name()).unwrap_or_else(|| solver.clone());
    crate::registry::kind_label(solver.name(), solver, &default)
}
