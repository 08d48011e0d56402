//! Plans: the work of a run as a list of trials, with every default written out and every file
//! hashed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::data::Dataset;
use crate::flow::guidance::Guidance;
use crate::model::conditions::PlannedCondition;
use crate::model::latent::LatentEncoding;
use crate::model::loaded::Model;
use crate::model::precision::NetworkPrecision;
use crate::num::shape::AxisLayout;
use crate::sample::{PathPoint, SamplerContext};

mod artifact_paths;
mod auto_steps;
mod builder;
mod calibration;
mod capabilities;
mod conditions;
mod cost;
mod differences;
mod file_names;
mod prepare;
mod prepare_reweight;
mod sampler_pairs;
mod shard;
mod single;
mod work;
mod workload;

pub(crate) use artifact_paths::relative_path;
pub use artifact_paths::{ArtifactPaths, reopen_run};
pub use auto_steps::{AutoStepsRequest, ChosenSteps, StepsChooser};
pub use capabilities::{
    check_centred_states, check_difference_step, check_discretized_data, check_encodable,
    check_estimator_supported, check_sampler_supported, initial_states, likelihood_bound,
    max_samples, with_card_defaults,
};
pub use conditions::{ModelSetting, check_condition_lengths};
pub use cost::TrialCost;
pub use differences::plan_differences;
pub use prepare::prepare_plan;
pub(crate) use shard::shard_of_environment;
pub use shard::{Shard, ShardChoice};
pub use work::*;
pub(crate) use work::{features_name, with_work_kind};
pub use workload::SecondsPerRow;

/// The format number of run directories that this program writes.
pub const PLAN_FORMAT: u32 = 1;

/// The whole work of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The format number of the run directory, [`PLAN_FORMAT`] for new runs.
    pub format: u32,
    /// The name of the run, from its config.
    pub name: String,
    /// The seed of all random draws of the run.
    pub seed: u64,
    pub models: Vec<PlannedModel>,
    pub data: Vec<PlannedData>,
    /// The trials in the order in which they are executed.
    pub trials: Vec<Trial>,
    /// Assumptions about files that hold no data, such as extractors, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The content of `plan.json`: the plan, and the environment in which the run began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "PlanFileKeys")]
pub struct PlanFile {
    #[serde(flatten)]
    pub plan: Plan,
    /// The versions and the machine of the run, as pairs of a name and a value.
    pub environment: Vec<(String, String)>,
    /// The `--set` changes that the config was read with.
    pub changes: Vec<String>,
    /// The time grid of every sampler on its model's path.
    #[serde(default)]
    pub grids: Vec<PlannedGrid>,
    /// The SHA-256 of the config as the user wrote it, `config.yaml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_sha256: Option<String>,
    /// The paths of the models, the data and the extractors.
    #[serde(default)]
    pub places: ArtifactPaths,
    /// The numbers of steps that were chosen for solvers with `steps: auto`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<ChosenSteps>,
}

/// The keys of `plan.json` one by one. Read through `flatten`, all trials would be held twice, once as
/// values of unknown types.
#[derive(Deserialize)]
struct PlanFileKeys {
    format: u32,
    name: String,
    seed: u64,
    models: Vec<PlannedModel>,
    data: Vec<PlannedData>,
    trials: Vec<Trial>,
    #[serde(default)]
    notes: Vec<String>,
    environment: Vec<(String, String)>,
    changes: Vec<String>,
    #[serde(default)]
    grids: Vec<PlannedGrid>,
    #[serde(default)]
    config_sha256: Option<String>,
    #[serde(default)]
    places: ArtifactPaths,
    #[serde(default)]
    steps: Vec<ChosenSteps>,
}

impl From<PlanFileKeys> for PlanFile {
    fn from(keys: PlanFileKeys) -> PlanFile {
        PlanFile {
            plan: Plan {
                format: keys.format,
                name: keys.name,
                seed: keys.seed,
                models: keys.models,
                data: keys.data,
                trials: keys.trials,
                notes: keys.notes,
            },
            environment: keys.environment,
            changes: keys.changes,
            grids: keys.grids,
            config_sha256: keys.config_sha256,
            places: keys.places,
            steps: keys.steps,
        }
    }
}

/// The points between which a sampler steps, from the prior end to the data end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedGrid {
    /// The name of the model.
    pub model: String,
    /// The label of the sampler.
    pub sampler: String,
    /// The times of the points, in the card's time.
    pub t: Vec<f64>,
    /// α at each point.
    pub alpha: Vec<f64>,
    /// σ at each point.
    pub sigma: Vec<f64>,
}

/// A model as it was when the plan was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedModel {
    pub name: String,
    /// The SHA-256 of the card's content, without its comments and its layout.
    pub card_sha256: String,
    /// The files that the card names.
    pub files: Vec<PlannedFile>,
    /// The precision in which the networks compute. `None` if it is the one of their files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<NetworkPrecision>,
    /// The shape of one sample.
    pub shape: Vec<usize>,
    /// The shape of one decoded sample; `None` if samples are states of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoded_shape: Option<Vec<usize>>,
    /// The probability path, as the card has it.
    pub path: serde_json::Value,
    /// What the network predicts, as the card names it.
    pub prediction: String,
    /// The prior's standard deviation.
    pub prior_std: f64,
    /// Where the path is cut off at both ends, and how far p_T is from the prior, in words.
    #[serde(default)]
    pub truncation: String,
    /// The number of parameters of the networks.
    pub parameters: u64,
    /// The lowest and the highest value of the model's data, if the card names them.
    pub range: Option<[f64; 2]>,
    /// The number of quantization levels of the model's data, if the card names it.
    pub levels: Option<u32>,
    /// The constant inputs of the networks: a key with its value, or a key with its file, the
    /// file's shape and its hash.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constants: Vec<(String, String)>,
    /// The conditions of the networks by name, if the card has any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, PlannedCondition>,
    /// The conditions by which the entries of the model are split in tables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<String>,
    /// The guidance of the velocity. `None` if it is not guided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<Guidance>,
    /// The value that each time input of a network gets, in words, by the input's key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<(String, String)>,
    /// Whether the derivatives of each network can jump, in words, by the network's key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinks: Vec<(String, String)>,
    /// The provenance of the model, as the card has it.
    pub provenance: serde_json::Value,
}

/// A file as it was when the plan was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedFile {
    pub name: String,
    /// The hash of the file in hexadecimal digits. For an extractor, it also covers the preset.
    pub sha256: String,
}

/// An array as it was when the plan was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedData {
    /// The file's name without its folders, unique within a run.
    pub name: String,
    pub sha256: String,
    /// The position of the model in the plan.
    pub model: usize,
    /// The number of samples in the array.
    pub samples: usize,
    /// How the values become states of the model, in words.
    pub treatment: String,
    /// The order of the file's axes, if the user named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<AxisLayout>,
    /// What was ignored in the file and what was assumed about it, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Whether the log-likelihoods of these data are no bound on anything. Such data are refused
    /// without `lattice: allow`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unbounded: bool,
    /// How the data become states of a latent model; `None` if they are states already, or if they
    /// are compared with samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encode: Option<LatentEncoding>,
}

/// A plan with its opened files.
pub struct PreparedPlan {
    pub plan: Plan,
    pub models: Vec<Model>,
    pub data: Vec<Dataset>,
    /// The extractors' files, each with its path.
    pub extractors: Vec<(PlannedFile, PathBuf)>,
    /// The measurements that are left out although a user may expect them, each with the reason.
    pub skipped: Vec<String>,
    /// The numbers of steps that were chosen for solvers with `steps: auto`.
    pub steps: Vec<ChosenSteps>,
    /// Whether the steps of some solvers are still to be chosen.
    pub steps_pending: bool,
}

impl PreparedPlan {
    /// Removes the error budgets that no config asked for. Earlier versions planned none.
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

    /// The time grids of all samplers of the plan, each once per model.
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
