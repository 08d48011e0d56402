//! The paths of a run's files, with which it can be opened again without its config.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::builder::{planned_extractor, planned_model};
use super::conditions::{ModelSetting, planned_source};
use super::{Plan, PlanFile, PlannedFile, PreparedPlan};
use crate::data::Dataset;
use crate::features::preset;
use crate::flow::guidance::Guidance;
use crate::host::with_resolved_folder;
use crate::hub;
use crate::model::conditions::PlannedCondition;
use crate::model::loaded::Model;
use crate::num::shape::RequestedLayout;

/// The paths of the cards, the data and the extractors of a plan, in the plan's order.
///
/// A path is relative to the run's directory, so that a project can be moved as a whole. It is
/// absolute if the file shares no folder with the run's directory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ArtifactPaths {
    /// The path of the config. Empty in runs of earlier versions.
    #[serde(default, skip_serializing_if = "is_empty_path")]
    pub config: PathBuf,
    /// The paths of the models' cards.
    pub models: Vec<PathBuf>,
    pub data: Vec<PathBuf>,
    pub extractors: Vec<(PlannedFile, PathBuf)>,
    /// The paths of the files with the values of conditions, for each model by the condition's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<BTreeMap<String, PathBuf>>,
}

impl ArtifactPaths {
    /// The paths of the config and of opened files, relative to `dir`, which must exist.
    pub fn relative_to(prepared: &PreparedPlan, config: &Path, dir: &Path) -> ArtifactPaths {
        ArtifactPaths::with(prepared, config, &|path| relative_path(dir, path))
    }

    /// The absolute paths of the config and of opened files.
    pub(crate) fn absolute(prepared: &PreparedPlan, config: &Path) -> ArtifactPaths {
        ArtifactPaths::with(
            prepared,
            config,
            &|path| match preset::is_built_in_preset(path) {
                true => path.to_owned(),
                false => canonicalize_artifact_path(path),
            },
        )
    }

    /// The paths, each as `place` writes it.
    fn with(
        prepared: &PreparedPlan,
        config: &Path,
        place: &dyn Fn(&Path) -> PathBuf,
    ) -> ArtifactPaths {
        let extractor = |(file, path): &(PlannedFile, PathBuf)| (file.clone(), place(path));
        ArtifactPaths {
            config: place(config),
            models: prepared.models.iter().map(|m| place(&m.path)).collect(),
            data: (prepared.data.iter())
                .map(|d| place(Path::new(&d.name)))
                .collect(),
            extractors: prepared.extractors.iter().map(extractor).collect(),
            conditions: condition_places(prepared, place),
        }
    }
}

/// Whether a path is empty.
fn is_empty_path(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// The paths of the files with the values of conditions: one map for each model. It is empty if no
/// condition is in a file.
fn condition_places(
    prepared: &PreparedPlan,
    place: &dyn Fn(&Path) -> PathBuf,
) -> Vec<BTreeMap<String, PathBuf>> {
    let places = |model: &Model| {
        let named = model.conditions.by_name.iter();
        named
            .filter_map(|(name, condition)| {
                let path = condition.path.as_ref()?;
                Some((name.clone(), place(path)))
            })
            .collect()
    };
    let all: Vec<BTreeMap<String, PathBuf>> = prepared.models.iter().map(places).collect();
    match all.iter().all(BTreeMap::is_empty) {
        true => Vec::new(),
        false => all,
    }
}

/// An absolute path without links and dots in its folders.
fn canonicalize_artifact_path(path: &Path) -> PathBuf {
    with_resolved_folder(path).unwrap_or_else(|| {
        path.canonicalize()
            .or_else(|_| std::path::absolute(path))
            .unwrap_or_else(|_| path.to_owned())
    })
}

/// The path relative to `dir`. It is absolute if both share no folder. A preset's name stays
/// unchanged.
pub(crate) fn relative_path(dir: &Path, path: &Path) -> PathBuf {
    if preset::is_built_in_preset(path) {
        return path.to_owned();
    }
    let (dir, path) = (
        dir.canonicalize()
            .unwrap_or_else(|_| canonicalize_artifact_path(dir)),
        canonicalize_artifact_path(path),
    );
    let shared = dir
        .components()
        .zip(path.components())
        .take_while(|(a, b)| a == b)
        .count();
    if !path
        .components()
        .take(shared)
        .any(|c| matches!(c, Component::Normal(_)))
    {
        return path;
    }
    let up = std::iter::repeat_n(Component::ParentDir, dir.components().count() - shared);
    up.chain(path.components().skip(shared)).collect()
}

/// Opens the models, the data and the extractors of a run again and compares them with its plan.
///
/// # Errors
/// Fails if a file is missing or differs from the one that the run used. The message names the
/// file.
pub fn reopen_run(dir: &Path, file: &PlanFile) -> Result<PreparedPlan> {
    let (plan, places) = (&file.plan, &file.places);
    if (places.models.len(), places.data.len()) != (plan.models.len(), plan.data.len()) {
        bail!(
            "{}: it does not say where models and data lie, because an earlier version wrote it; \
             run the config again",
            dir.join("plan.json").display()
        );
    }
    let at = |place: &Path| {
        if preset::is_built_in_preset(place) {
            place.to_owned()
        } else {
            // With the folder resolved, messages show no `..`.
            let path = dir.join(place);
            with_resolved_folder(&path).unwrap_or(path)
        }
    };
    let mut prepared = PreparedPlan {
        plan: plan.clone(),
        models: Vec::new(),
        data: Vec::new(),
        extractors: Vec::new(),
        skipped: Vec::new(),
        steps: file.steps.clone(),
        steps_pending: false,
    };
    for (index, (place, was)) in places.models.iter().zip(&plan.models).enumerate() {
        let model = Model::open_with_precision(&at(place), was.precision)?;
        let files = places.conditions.get(index);
        let source = |(name, planned): (&String, &PlannedCondition)| {
            let file = files.and_then(|files| files.get(name)).map(|file| at(file));
            (
                name.clone(),
                planned_source(&planned.source, file.as_deref()),
            )
        };
        let setting = ModelSetting {
            conditions: was.conditions.iter().map(source).collect(),
            guidance: None,
        };
        let conditions = setting
            .read_conditions(&model.card, plan.seed, hub::local_path)
            .with_context(|| model.path.display().to_string())?;
        let unguided = Guidance {
            scale: 1.0,
            interval: None,
        };
        let model = model.with_conditions(conditions, Some(was.guidance.unwrap_or(unguided)));
        let is = planned_model(&model)?;
        let lost = || {
            format!(
                "{}: it is not the model that the run used",
                model.path.display()
            )
        };
        for known in &was.files {
            match is.files.iter().find(|f| f.name == known.name) {
                None => bail!("{}: the card no longer names {}", lost(), known.name),
                Some(f) if f.sha256 != known.sha256 => {
                    bail!(
                        "{}: {} has SHA-256 {}, the run's had {}",
                        lost(),
                        f.name,
                        f.sha256,
                        known.sha256
                    )
                }
                Some(_) => {}
            }
        }
        for (name, known) in &was.conditions {
            let found = is.conditions.get(name).and_then(|c| c.sha256.as_ref());
            if found != known.sha256.as_ref() {
                bail!("{}: the values of condition `{name}` were changed", lost());
            }
        }
        if is.card_sha256 != was.card_sha256 {
            bail!("{}: the card was changed", lost());
        }
        prepared.models.push(model);
    }
    for (place, was) in places.data.iter().zip(&plan.data) {
        let data = Dataset::read(&at(place))?;
        if data.sha256 != was.sha256 {
            bail!(
                "{}: it is not the data that the run used: it has SHA-256 {}, the run's had {}",
                data.name,
                data.sha256,
                was.sha256
            );
        }
        let model = prepared.models.get(was.model);
        let model = model.ok_or_else(|| {
            anyhow!(
                "{}: these data belong to a model that the plan does not have",
                was.name
            )
        })?;
        let card = match model.encodes(data.values.len() / data.len().max(1)) {
            true => &model.data_card,
            false => &model.card,
        };
        let data = data.with_layout(
            was.layout.as_ref().map(RequestedLayout::unconditional),
            &card.shape,
        )?;
        data.check_shape(card)?;
        prepared.data.push(data);
    }
    for (was, place) in &places.extractors {
        let path = at(place);
        let is = planned_extractor(&path)?;
        if is.sha256 != was.sha256 {
            bail!(
                "{}: it is not the extractor that the run used",
                path.display()
            );
        }
        prepared.extractors.push((was.clone(), path));
    }
    validate_plan(plan, &prepared).with_context(|| dir.join("plan.json").display().to_string())?;
    Ok(prepared)
}

/// Checks that a plan from disk is one that a config can produce.
///
/// # Errors
/// Fails if a trial names a model or data that the plan does not have, or has an invalid parameter.
fn validate_plan(plan: &Plan, prepared: &PreparedPlan) -> Result<()> {
    for trial in &plan.trials {
        let work = &trial.work;
        if work.model_index() >= prepared.models.len()
            || work
                .data_indices()
                .iter()
                .any(|d| *d >= prepared.data.len())
        {
            bail!(
                "trial {} names a model or data that the plan does not have",
                trial.id
            );
        }
        work.validate(prepared)
            .with_context(|| format!("trial {}", trial.id))?;
    }
    Ok(())
}
