//! Plans of one trial, for the verbs that measure one thing.

use std::path::Path;

use anyhow::Result;

use super::builder::planned_model;
use super::file_names::short_name;
use super::{PLAN_FORMAT, Plan, PlannedData, PreparedPlan, Trial, TrialWork};
use crate::data::Dataset;
use crate::model::loaded::Model;

impl PreparedPlan {
    /// A plan of one trial on one model. The work names the model by index 0, and the data by their
    /// positions in `data`.
    ///
    /// # Errors
    /// Fails if a file of the model cannot be read.
    pub fn of_one_trial(
        model: Model,
        data: Vec<Dataset>,
        work: impl Into<TrialWork>,
        seed: u64,
    ) -> Result<PreparedPlan> {
        let work = work.into();
        let planned_data = |data: &Dataset| PlannedData {
            name: short_name(Path::new(&data.name)),
            sha256: data.sha256.clone(),
            model: 0,
            samples: data.len(),
            treatment: data.describe_treatment(&model.card),
            layout: data.layout.clone(),
            notes: data.notes.clone(),
            unbounded: false,
            encode: None,
        };
        let plan = Plan {
            format: PLAN_FORMAT,
            name: model.card.name.clone(),
            seed,
            models: vec![planned_model(&model)?],
            data: data.iter().map(planned_data).collect(),
            trials: vec![Trial {
                id: work.kind_name().to_owned(),
                work,
            }],
            notes: Vec::new(),
        };
        Ok(PreparedPlan {
            plan,
            models: vec![model],
            data,
            extractors: Vec::new(),
            skipped: Vec::new(),
            steps: Vec::new(),
            steps_pending: false,
        })
    }
}
