//! What will happen: a config resolved into trials, every default visible, every file hashed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::data::Dataset;
use crate::model::lift::NetworkPrecision;
use crate::model::opened::Model;
use crate::num::shape::Layout;
use crate::sample::{Point, Setting};
use crate::solve::Solver;

mod builder;
mod cost;
mod differences;
mod load;
mod names;
mod offered;
mod pairs;
mod places;
mod prepare;
mod shard;
mod steps;
mod work;

pub use cost::Cost;
pub use differences::differences;
pub use load::Pace;
pub use offered::{initial_states, most_samples, resolved, resolves, supports, supports_sampler};
pub use places::{Places, reopen};
pub use prepare::prepare;
pub use shard::Shard;
pub use steps::{Choose, ChosenSteps, Wanted};
pub use work::{Against, ContrastWork, LikelihoodWork, MapWork, Trial, Work};

/// The format number of run directories that this program writes.
pub const FORMAT: u32 = 1;

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
    pub places: Places,
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
    pub layout: Option<Layout>,
    /// What was left out of the file or taken for something, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Whether log-likelihoods of it bound nothing, which `lattice: allow` takes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unbounded: bool,
}

/// A plan with the opened files behind it.
pub struct Prepared {
    pub plan: Plan,
    pub models: Vec<Model>,
    pub data: Vec<Dataset>,
    /// Files of extractors by their SHA-256.
    pub extractors: Vec<(PlannedFile, PathBuf)>,
    /// What a config might have meant to be measured and is not, with the reason.
    pub left_out: Vec<String>,
    /// Numbers of steps that were found for `steps: auto`.
    pub steps: Vec<ChosenSteps>,
    /// Whether there are solvers left whose steps are yet to be chosen.
    pub unsettled: bool,
}

impl Prepared {
    /// The plan without what no config asked for, as earlier versions made it.
    pub fn without_automatic(mut self) -> Prepared {
        self.plan.trials.retain(|trial| !trial.is_automatic());
        self
    }

    /// Prints the notes about files on standard error.
    pub fn tell(&self) {
        self.data.iter().for_each(Dataset::tell);
        self.plan
            .notes
            .iter()
            .for_each(|text| note!("flowgauge: {text}"));
    }

    /// The grids of all samplers, each once per model.
    pub fn grids(&self) -> Vec<PlannedGrid> {
        let mut grids: Vec<PlannedGrid> = Vec::new();
        for trial in &self.plan.trials {
            let Work::Metrics {
                model,
                sampler: Some(sampler),
                ..
            } = &trial.work
            else {
                continue;
            };
            let (name, label) = (self.plan.models[*model].name.clone(), sampler.label());
            if grids.iter().any(|g| g.model == name && g.sampler == label) {
                continue;
            }
            let points = sampler
                .grid(&Setting::of(&self.models[*model]))
                .unwrap_or_default();
            let each = |of: fn(&Point) -> f64| points.iter().map(of).collect();
            let (t, alpha, sigma) = (each(|p| p.t), each(|p| p.alpha), each(|p| p.sigma));
            grids.push(PlannedGrid {
                model: name,
                sampler: label,
                t,
                alpha,
                sigma,
            });
        }
        grids
    }
}

/// As tables print a solver.
pub fn solver_label(solver: &Solver) -> String {
    let default = Solver::from_name(solver.name()).unwrap_or_else(|| solver.clone());
    crate::registry::label(solver.name(), solver, &default)
}
