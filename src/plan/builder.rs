//! A plan that grows: models, data and extractors are opened once each, and a trial gets its id.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::names::{inert, same_file, short_name};
use super::offered::initial_states;
use super::{Choose, FORMAT, PlannedData, PlannedFile, PlannedModel, Prepared, Trial, Work};
use crate::config::Written;
use crate::data::Dataset;
use crate::dequantization::Dequantization;
use crate::features::preset::{self, Named};
use crate::features::{byte_scaling, scaling_in_words};
use crate::flow::truncation::Truncation;
use crate::model::library::hex;
use crate::model::opened::Model;
use crate::num::shape::{self, Said};
use crate::yaml::Fault;

pub(super) struct Builder<'a> {
    pub(super) written: &'a Written,
    /// Of the data so far.
    pub(super) dequantizations: Vec<Option<Dequantization>>,
    /// Of the trials so far.
    pub(super) ids: BTreeSet<String>,
    /// What is wrong so far: all of it is told at once.
    pub(super) faults: Vec<Fault>,
    pub(super) prepared: Prepared,
    /// What finds steps that are to be chosen; without it they stay as they are.
    pub(super) choose: Option<&'a Choose<'a>>,
}

impl Builder<'_> {
    /// What a check gave, or nothing and a fault of its key.
    pub(super) fn noted<T>(&mut self, key: &str, result: Result<T>) -> Option<T> {
        result
            .map_err(|error| self.note(Fault::new(key, format!("{error:#}"))))
            .ok()
    }

    /// As [`Builder::noted`], for a message that begins with a key below `key`.
    pub(super) fn said<T>(&mut self, key: &str, result: Result<T>) -> Option<T> {
        result
            .map_err(|error| self.note(Fault::said(format!("{error:#}")).below(key)))
            .ok()
    }

    /// A fault of one file is told once, whoever names the file.
    pub(super) fn note(&mut self, fault: Fault) {
        if !self.faults.iter().any(|f| f.message == fault.message) {
            self.faults.push(fault);
        }
    }

    /// Notes a file of data that cannot be read, where nothing more can be asked of it.
    pub(super) fn readable(&mut self, key: &str, path: &Path) {
        let read = Dataset::read(&self.written.resolve(path)).map(drop);
        self.noted(key, read);
    }

    /// Adds a trial; the same work twice is an error of the config.
    pub(super) fn push(&mut self, work: Work) -> Result<String> {
        let plan = &self.prepared.plan;
        let model = &plan.models[work.model()];
        let read = |data: &PlannedData| match &data.layout {
            Some(layout) => format!("{} {layout}", data.sha256),
            None => data.sha256.clone(),
        };
        let touched: Vec<String> = work
            .data()
            .into_iter()
            .map(|i| read(&plan.data[i]))
            .collect();
        let precise = self.prepared.models[work.model()]
            .precision
            .map(|p| format!("in {}", p.name()));
        let touched: Vec<String> = touched.into_iter().chain(precise).collect();
        // Positions in the plan are left out: the id is of what is done, not of where it stands.
        let mut content = serde_json::to_value(&work)?;
        for body in content
            .as_object_mut()
            .into_iter()
            .flat_map(|o| o.values_mut())
        {
            if let Some(body) = body.as_object_mut() {
                ["model", "data", "reference_data", "noise"]
                    .iter()
                    .for_each(|k| drop(body.remove(*k)));
            }
        }
        let text = serde_json::to_string(&(
            FORMAT,
            plan.seed,
            &model.card_sha256,
            &model.files,
            touched,
            content,
        ))?;
        let id = hex(&Sha256::digest(text.as_bytes()))[..12].to_owned();
        if !self.ids.insert(id.clone()) {
            bail!("the same work is asked for twice: {}", work.describe(plan));
        }
        self.prepared.plan.trials.push(Trial {
            id: id.clone(),
            work,
        });
        Ok(id)
    }

    pub(super) fn model(&mut self, path: &Path) -> Result<usize> {
        let path = self.written.resolve(path);
        if let Some(i) = self
            .prepared
            .models
            .iter()
            .position(|m| same_file(&m.path, &path))
        {
            return Ok(i);
        }
        let model = Model::open_in(&path, self.written.config.precision)?;
        if let Some(other) = self
            .prepared
            .models
            .iter()
            .find(|m| m.card.name == model.card.name)
        {
            bail!(
                "{} and {} are both named `{}`; give each card a name of its own",
                other.path.display(),
                path.display(),
                model.card.name
            );
        }
        self.prepared.plan.models.push(planned(&model)?);
        self.prepared.models.push(model);
        Ok(self.prepared.models.len() - 1)
    }

    pub(super) fn data(
        &mut self,
        path: &Path,
        model: usize,
        dequantization: Option<&Dequantization>,
        layout: Option<Said>,
    ) -> Result<usize> {
        let path = self.written.resolve(path);
        let known = self
            .prepared
            .data
            .iter()
            .zip(&self.prepared.plan.data)
            .zip(&self.dequantizations);
        let shape = shape::port(&self.prepared.models[model].card.shape);
        let alike = |d: &Dataset| match &d.layout {
            Some(there) => layout.is_some_and(|said| said.layout == there),
            None => layout.is_none_or(|said| !said.applies(d.values.shape(), &shape)),
        };
        let same = |((d, p), q): ((&Dataset, &PlannedData), &Option<Dequantization>)| {
            same_file(Path::new(&d.name), &path)
                && p.model == model
                && q.as_ref() == dequantization
                && alike(d)
        };
        if let Some(i) = known.into_iter().position(same) {
            return Ok(i);
        }
        let card = &self.prepared.models[model].card;
        let data = Dataset::read(&path)?.laid_out(layout, &card.shape)?;
        data.fits(card)?;
        let mut treatment = data.treatment(card);
        let mut short = short_name(&path);
        if let Some(dequantization) = dequantization {
            data.dequantizable(card)?;
            // Bounds of two kinds are never rows of one dataset.
            short = format!("{short} {}", dequantization.suffix());
            treatment = format!(
                "{treatment}, {} draws each, combined as {}",
                dequantization.draws(),
                dequantization.bound()
            );
        }
        self.dequantizations.push(dequantization.cloned());
        Ok(self.keep(data, short, model, treatment))
    }

    /// Initial states for `count` samples.
    pub(super) fn noise(
        &mut self,
        path: &Path,
        model: usize,
        count: usize,
        layout: Option<Said>,
    ) -> Result<usize> {
        let path = self.written.resolve(path);
        let data =
            Dataset::read(&path)?.laid_out(layout, &self.prepared.models[model].card.shape)?;
        let states = initial_states(&data, &self.prepared.models[model])?;
        if states.nrows() < count {
            bail!(
                "noise: {} holds {} states, but count is {count}",
                data.name,
                states.nrows()
            );
        }
        self.dequantizations.push(None);
        Ok(self.keep(
            data,
            short_name(&path),
            model,
            "states at the prior end, taken as they are".to_owned(),
        ))
    }

    fn keep(&mut self, data: Dataset, short: String, model: usize, treatment: String) -> usize {
        // Two files of one name would share a row in every table.
        let taken = |n: &str| {
            self.prepared
                .plan
                .data
                .iter()
                .any(|d| d.name == n && d.model == model)
        };
        let unique = (1..)
            .map(|i| {
                if i == 1 {
                    short.clone()
                } else {
                    format!("{short} ({i})")
                }
            })
            .find(|n| !taken(n));
        self.prepared.plan.data.push(PlannedData {
            name: unique.unwrap_or(short),
            sha256: data.sha256.clone(),
            model,
            samples: data.len(),
            treatment,
            layout: data.layout.clone(),
            notes: data.notes.clone(),
            unbounded: false,
        });
        self.prepared.data.push(data);
        self.prepared.data.len() - 1
    }

    pub(super) fn extractor(&mut self, path: &Path) -> Result<PlannedFile> {
        let path = if preset::built_in(path) {
            path.to_owned()
        } else {
            self.written.resolve(path)
        };
        let file = extractor(&path)?;
        let named = Named::find(&path)?;
        if named.preset.is_none() {
            let scaling = byte_scaling(&file.name, &std::fs::read(&named.onnx)?);
            let note = scaling.map(|scaling| scaling_in_words(&file.name, scaling));
            let new = note.filter(|note| !self.prepared.plan.notes.contains(note));
            self.prepared.plan.notes.extend(new);
        }
        self.prepared.extractors.push((file.clone(), path));
        Ok(file)
    }
}

/// An extractor's name and hash: of its network, and of the preset around it.
pub(super) fn extractor(path: &Path) -> Result<PlannedFile> {
    let named = Named::find(path)?;
    let mut hash = Sha256::digest(
        std::fs::read(&named.onnx)
            .with_context(|| format!("{}: the extractor cannot be read", named.onnx.display()))?,
    );
    if let Some(preset) = &named.preset {
        // Two presets of one network are two extractors.
        hash = Sha256::digest([&hash[..], &serde_json::to_vec(preset)?].concat());
    }
    let name = inert(
        &path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default(),
    );
    Ok(PlannedFile {
        name,
        sha256: hex(&hash),
    })
}

pub(super) fn planned(model: &Model) -> Result<PlannedModel> {
    let card = &model.card;
    Ok(PlannedModel {
        name: card.name.clone(),
        card_sha256: hex(&Sha256::digest(serde_json::to_string(card)?.as_bytes())),
        files: model
            .files
            .iter()
            .map(|f| PlannedFile {
                name: f.name.display().to_string(),
                sha256: f.sha256.clone(),
            })
            .collect(),
        precision: model.precision,
        shape: card.shape.clone(),
        path: serde_json::to_value(&card.path)?,
        prediction: serde_json::to_value(card.network.prediction)?
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        prior_std: model.prior.std,
        truncation: Truncation::new(&model.curve, model.prior).sentence(card.network.prediction),
        parameters: model.parameters()?,
        range: card.data.map(|d| d.range),
        levels: card.data.and_then(|d| d.levels),
        constants: model.constants_in_words()?,
        times: model.times_in_words()?,
        kinks: model.kinks_in_words()?,
        provenance: serde_json::to_value(&card.provenance)?,
    })
}
