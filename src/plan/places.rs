//! Where the files of a run lie, so that it can be opened again without its config.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::builder::{extractor, planned};
use super::offered::{supports, supports_sampler};
use super::{Plan, PlanFile, PlannedFile, Prepared, Work};
use crate::data::Dataset;
use crate::divergence::Divergence;
use crate::features::preset;
use crate::model::opened::Model;
use crate::num::shape::Said;
use crate::registry::named;
use crate::sample::Setting;
use crate::solve::{Solver, Span};

/// Paths of the cards, the data and the extractors of a plan, in its order: from the run's directory, so that a
/// project may move as a whole, or absolute where they share no folder with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Places {
    pub models: Vec<PathBuf>,
    pub data: Vec<PathBuf>,
    pub extractors: Vec<(PlannedFile, PathBuf)>,
}

impl Places {
    /// The places of opened files, seen from a directory that is there.
    pub fn of(prepared: &Prepared, dir: &Path) -> Places {
        let extractor =
            |(file, path): &(PlannedFile, PathBuf)| (file.clone(), seen_from(dir, path));
        Places {
            models: prepared
                .models
                .iter()
                .map(|m| seen_from(dir, &m.path))
                .collect(),
            data: prepared
                .data
                .iter()
                .map(|d| seen_from(dir, Path::new(&d.name)))
                .collect(),
            extractors: prepared.extractors.iter().map(extractor).collect(),
        }
    }
}

/// A path without links and dots up to its last name, which may be a member of an archive.
fn settled(path: &Path) -> PathBuf {
    let folder = path.parent().map(|p| {
        if p.as_os_str().is_empty() {
            Path::new(".")
        } else {
            p
        }
    });
    let folder = folder.and_then(|f| f.canonicalize().ok());
    match (folder, path.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => path
            .canonicalize()
            .or_else(|_| std::path::absolute(path))
            .unwrap_or_else(|_| path.to_owned()),
    }
}

fn seen_from(dir: &Path, path: &Path) -> PathBuf {
    if preset::built_in(path) {
        return path.to_owned();
    }
    let (dir, path) = (
        dir.canonicalize().unwrap_or_else(|_| settled(dir)),
        settled(path),
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

/// Opens a run's models, data and extractors where they lay, and holds them against its plan.
///
/// # Errors
/// One message that names the file that is missing or no longer what the run used.
pub fn reopen(dir: &Path, file: &PlanFile) -> Result<Prepared> {
    let (plan, places) = (&file.plan, &file.places);
    if (places.models.len(), places.data.len()) != (plan.models.len(), plan.data.len()) {
        bail!(
            "{}: it does not say where models and data lie, as runs of this version do; run its config once more",
            dir.join("plan.json").display()
        );
    }
    let at = |place: &Path| {
        if preset::built_in(place) {
            place.to_owned()
        } else {
            tidy(&dir.join(place))
        }
    };
    let mut prepared = Prepared {
        plan: plan.clone(),
        models: Vec::new(),
        data: Vec::new(),
        extractors: Vec::new(),
        left_out: Vec::new(),
        steps: file.steps.clone(),
        unsettled: false,
    };
    for (place, was) in places.models.iter().zip(&plan.models) {
        let model = Model::open_in(&at(place), was.precision)?;
        let is = planned(&model)?;
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
        let card = &model
            .ok_or_else(|| anyhow!("{}: data of a model that the plan does not have", was.name))?
            .card;
        let data = data.laid_out(was.layout.as_ref().map(Said::always), &card.shape)?;
        data.of_shape(card)?;
        prepared.data.push(data);
    }
    for (was, place) in &places.extractors {
        let path = at(place);
        let is = extractor(&path)?;
        if is.sha256 != was.sha256 {
            bail!(
                "{}: it is not the extractor that the run used",
                path.display()
            );
        }
        prepared.extractors.push((was.clone(), path));
    }
    check_work(plan, &prepared).with_context(|| dir.join("plan.json").display().to_string())?;
    Ok(prepared)
}

/// A plan that was read from disk is one that a config could have made: whatever it names is there.
fn check_work(plan: &Plan, prepared: &Prepared) -> Result<()> {
    for trial in &plan.trials {
        let work = &trial.work;
        if work.model() >= prepared.models.len()
            || work.data().iter().any(|d| *d >= prepared.data.len())
        {
            bail!(
                "trial {} names a model or data that the plan does not have",
                trial.id
            );
        }
        sound(work, prepared).with_context(|| format!("trial {}", trial.id))?;
    }
    Ok(())
}

/// Refuses parameters that no config may have, and samples beyond the data.
fn sound(work: &Work, prepared: &Prepared) -> Result<()> {
    let model = &prepared.models[work.model()];
    let follows = |solver: &Solver, estimators: &[Divergence]| -> Result<()> {
        let span = Span {
            curve: &model.curve,
            to_prior: true,
        };
        solver
            .check(span)
            .map_err(|e| anyhow!(named(solver.name(), e)))?;
        estimators
            .iter()
            .try_for_each(|estimator| supports(model, estimator))
    };
    let within = |data: usize, last: Option<usize>| match last
        .filter(|last| *last <= prepared.data[data].len())
    {
        Some(_) => Ok(()),
        None => Err(anyhow!("{} has fewer samples", prepared.data[data].name)),
    };
    match work {
        Work::Likelihood(w) | Work::Profile(w) | Work::Budget(w) => {
            if let Some(dequantization) = &w.dequantization {
                dequantization
                    .check(&w.estimators)
                    .map_err(|e| anyhow!("dequantization: {e}"))?;
            }
            follows(&w.solver, &w.estimators)?;
            within(w.data, w.first.checked_add(w.count))
        }
        Work::Density {
            solver,
            estimator,
            grid,
            ..
        } => {
            if !(2..=2000).contains(&grid.points) || model.dim() != 2 {
                bail!(
                    "a density of {} x {} points of {} numbers",
                    grid.points,
                    grid.points,
                    model.dim()
                );
            }
            follows(solver, std::slice::from_ref(estimator))
        }
        Work::Stein { stein, .. } => stein.check().map_err(|e| anyhow!(e)),
        Work::Maps(w) => within(w.data, Some(w.samples)),
        Work::Sample {
            sampler,
            noise,
            first,
            count,
            ..
        } => {
            sampler
                .check(&Setting::of(model))
                .map_err(|e| anyhow!(named(sampler.name(), e)))?;
            supports_sampler(model, sampler)?;
            noise.map_or(Ok(()), |noise| within(noise, first.checked_add(*count)))
        }
        Work::Metrics { .. } | Work::Contrast(_) => Ok(()),
    }
}

/// A path without the steps up that undo steps down, for messages.
fn tidy(path: &Path) -> PathBuf {
    path.parent()
        .and_then(|folder| folder.canonicalize().ok())
        .zip(path.file_name())
        .map_or_else(|| path.to_owned(), |(folder, name)| folder.join(name))
}
