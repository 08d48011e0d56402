//! The options that set a model's conditions and its guidance.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use super::parse_spec;
use crate::data::path_without_member;
use crate::hub;
use crate::model::conditions::ConditionSource;
use crate::model::loaded::Model;
use crate::plan::{ModelSetting, check_condition_lengths};

/// The options that set a model's conditions and its guidance.
#[derive(Debug, Default, Args)]
pub(super) struct SettingArgs {
    /// The values of a condition of the card: `label=labels.npy`, `label=data.npz:labels`,
    /// `label=3`, `context=all:embedding.npy` (the same for all samples), `label=uniform:1000`,
    /// `label=balanced:10` or `label=null`; may be repeated
    #[arg(long = "condition", value_name = "NAME=VALUE")]
    conditions: Vec<String>,
    /// The guidance: a scale such as 1.5, or `"{scale: 1.5, interval: [0.3, 5]}"` with the noise
    /// levels sigma/alpha between which it applies [default: that of the card]
    #[arg(long, value_name = "SCALE")]
    guidance: Option<String>,
}

impl SettingArgs {
    /// The conditions and the guidance of the command line.
    ///
    /// # Errors
    /// Fails if an option is malformed or a condition is named twice.
    fn setting(&self) -> Result<ModelSetting> {
        let mut conditions: BTreeMap<String, Option<ConditionSource>> = BTreeMap::new();
        for option in &self.conditions {
            let (name, value) = option.split_once('=').ok_or_else(|| {
                anyhow!("--condition {option}: expected NAME=VALUE, such as label=labels.npy")
            })?;
            let known = conditions.insert(name.to_owned(), ConditionSource::parse(value));
            if known.is_some() {
                bail!("--condition {name}: it is there twice; expected one value for each name");
            }
        }
        Ok(ModelSetting {
            conditions,
            guidance: self
                .guidance
                .as_deref()
                .map(|text| parse_spec("--guidance", text))
                .transpose()?,
        })
    }

    /// The files with the values of conditions.
    pub(super) fn input_files(&self) -> Vec<PathBuf> {
        self.conditions
            .iter()
            .filter_map(|option| option.split_once('='))
            .filter_map(|(_, value)| match ConditionSource::parse(value) {
                Some(ConditionSource::Text(text)) => {
                    let file = text.strip_prefix("all:").unwrap_or(&text);
                    Some(path_without_member(Path::new(file)))
                }
                _ => None,
            })
            .collect()
    }

    /// Gives the model its conditions and its guidance.
    ///
    /// # Errors
    /// Fails if a condition or the guidance is at fault.
    pub(super) fn apply(&self, model: &Model, seed: u64) -> Result<Model> {
        let setting = self.setting()?;
        let conditions = setting
            .read_conditions(&model.card, seed, hub::local_path)
            .with_context(|| format!("--condition: {}", model.path.display()))?;
        let guidance = setting.guidance_for(&model.card);
        if let Some(guidance) = guidance {
            guidance.check().map_err(|e| anyhow!("--guidance: {e}"))?;
        }
        let model = model.with_conditions(conditions, guidance);
        model.check_guidance()?;
        Ok(model)
    }

    /// Gives the model the conditions of the command line. Conditions that it does not name get their
    /// null value. Nothing is set if none is named and no data are checked.
    ///
    /// # Errors
    /// Fails if a condition is at fault, or if one without a null value has no values.
    pub(super) fn apply_or_null(&self, model: Model, has_data: bool) -> Result<Model> {
        let mut setting = self.setting()?;
        if setting.conditions.is_empty() && !has_data {
            return Ok(model);
        }
        for (name, spec) in &model.card.network.conditions {
            if spec.null.is_some() {
                setting.conditions.entry(name.clone()).or_insert(None);
            }
        }
        let conditions = setting
            .read_conditions(&model.card, 0, hub::local_path)
            .with_context(|| format!("--condition: {}", model.path.display()))?;
        Ok(model.with_conditions(conditions, setting.guidance_for(&model.card)))
    }

    /// Checks that every condition with one value per sample has as many values as there are
    /// samples; `of` says whose they are.
    ///
    /// # Errors
    /// Fails if one has not.
    pub(super) fn check_lengths(model: &Model, samples: usize, of: &str) -> Result<()> {
        check_condition_lengths(&model.conditions, samples, of).context("--condition")
    }
}
