//! The builder of a plan. It opens models, datasets and extractors, and computes the ids of trials.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::capabilities::{check_encodable, initial_states};
use super::file_names::{same_file, sanitize_file_name, short_name};
use super::{
    ModelSetting, PLAN_FORMAT, PlannedData, PlannedFile, PlannedModel, PreparedPlan, StepsChooser,
    Trial, TrialWork,
};
use crate::config::ConfigFile;
use crate::data::Dataset;
use crate::dequantization::Dequantization;
use crate::features::preset::{self, ResolvedExtractor};
use crate::features::{byte_scaling, describe_scaling};
use crate::flow::truncation::Truncation;
use crate::host::hex;
use crate::model::latent::LatentEncoding;
use crate::model::loaded::Model;
use crate::num::shape::{self, RequestedLayout};
use crate::yaml::Fault;

/// A plan under construction, with the faults found so far.
pub(super) struct PlanBuilder<'a> {
    pub(super) config_file: &'a ConfigFile,
    /// The dequantization of each dataset of the plan so far.
    pub(super) dequantizations: Vec<Option<Dequantization>>,
    /// The ids of the trials so far.
    pub(super) ids: BTreeSet<String>,
    /// The faults of the config so far. They are reported together.
    pub(super) faults: Vec<Fault>,
    pub(super) prepared: PreparedPlan,
    /// Chooses the steps of solvers with `steps: auto`. Without it, these solvers stay unchanged.
    pub(super) choose_steps: Option<&'a StepsChooser<'a>>,
}

impl PlanBuilder<'_> {
    /// The value of a result. An error becomes a fault of `key`, and the value is `None`.
    pub(super) fn ok_or_fault<T>(&mut self, key: &str, result: Result<T>) -> Option<T> {
        result
            .map_err(|error| self.add_fault(Fault::new(key, format!("{error:#}"))))
            .ok()
    }

    /// The value of a result whose error message begins with a key below `key`. An error becomes a
    /// fault of that nested key, and the value is `None`.
    pub(super) fn ok_or_nested_fault<T>(&mut self, key: &str, result: Result<T>) -> Option<T> {
        result
            .map_err(|error| {
                self.add_fault(Fault::from_message(format!("{error:#}")).under_key(key))
            })
            .ok()
    }

    /// Adds a fault, unless its message is already known: several entries can name the same file.
    pub(super) fn add_fault(&mut self, fault: Fault) {
        if !self.faults.iter().any(|f| f.message == fault.message) {
            self.faults.push(fault);
        }
    }

    /// Adds a fault if a data file cannot be read. This is the only check of data whose model is
    /// not known.
    pub(super) fn check_readable(&mut self, key: &str, path: &Path) {
        let path = self.config_file.resolve(path);
        let read = path.and_then(|path| Dataset::read(&path)).map(drop);
        self.ok_or_fault(key, read);
    }

    /// Adds a trial and returns its id.
    ///
    /// # Errors
    /// Fails if the plan already has a trial with the same work.
    pub(super) fn add_trial(&mut self, work: impl Into<TrialWork>) -> Result<String> {
        let work = work.into();
        let id = self.trial_id(&work)?;
        if !self.ids.insert(id.clone()) {
            let plan = &self.prepared.plan;
            bail!("the same work is listed twice: {}", work.describe(plan));
        }
        self.prepared.plan.trials.push(Trial {
            id: id.clone(),
            work,
        });
        Ok(id)
    }

    /// Adds a trial that several entries may need, unless the plan has it, and returns its id.
    ///
    /// # Errors
    /// Fails if the work cannot be written as JSON.
    pub(super) fn add_shared_trial(&mut self, work: impl Into<TrialWork>) -> Result<String> {
        let work = work.into();
        let id = self.trial_id(&work)?;
        if self.ids.insert(id.clone()) {
            self.prepared.plan.trials.push(Trial {
                id: id.clone(),
                work,
            });
        }
        Ok(id)
    }

    /// The id of a trial, which depends on its work alone.
    fn trial_id(&self, work: &TrialWork) -> Result<String> {
        let plan = &self.prepared.plan;
        let model = &plan.models[work.model_index()];
        let read = |data: &PlannedData| {
            let layout = data.layout.as_ref().map(|layout| format!(" {layout}"));
            let encode = data
                .encode
                .map(|encode| format!(" encoded: {}", encode.as_str()));
            let [layout, encode] = [layout, encode].map(Option::unwrap_or_default);
            format!("{}{layout}{encode}", data.sha256)
        };
        let touched: Vec<String> = work
            .data_indices()
            .into_iter()
            .map(|i| read(&plan.data[i]))
            .collect();
        let precise = self.prepared.models[work.model_index()]
            .precision
            .map(|p| format!("in {}", p.name()));
        let setting = (!model.conditions.is_empty() || model.guidance.is_some())
            .then(|| serde_json::to_string(&(&model.conditions, model.guidance)))
            .transpose()?;
        let touched: Vec<String> = touched.into_iter().chain(precise).chain(setting).collect();
        // Positions in the plan are left out, so that the order of a config changes no id. The
        // hashes of the model and of the data stand for them.
        let mut content = serde_json::to_value(work)?;
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
            PLAN_FORMAT,
            plan.seed,
            &model.card_sha256,
            &model.files,
            touched,
            content,
        ))?;
        Ok(hex(&Sha256::digest(text.as_bytes()))[..12].to_owned())
    }

    /// Opens a card with its conditions and its guidance, unless the plan has it already, and returns
    /// the model's position in the plan.
    ///
    /// # Errors
    /// Fails if the model cannot be opened, if a condition is at fault, or if another card has the
    /// same name.
    pub(super) fn add_model(&mut self, path: &Path, setting: &ModelSetting) -> Result<usize> {
        let path = self.config_file.resolve(path)?;
        let models = &self.prepared.models;
        let same_card = models.iter().find(|m| same_file(&m.path, &path));
        let model = match same_card {
            Some(model) => model.with_card_guidance(),
            None => Model::open_with_precision(&path, self.config_file.config.precision)?,
        };
        let conditions = setting.read_conditions(&model.card, self.prepared.plan.seed, |file| {
            self.config_file.resolve(file)
        })?;
        let guidance = setting.guidance_for(&model.card);
        let model = model.with_conditions(conditions, guidance);
        model.check_guidance()?;
        let planned = planned_model(&model)?;
        let known = models.iter().zip(&self.prepared.plan.models);
        let same = |(m, p): (&Model, &PlannedModel)| {
            same_file(&m.path, &path)
                && (&p.conditions, p.guidance) == (&planned.conditions, planned.guidance)
        };
        if let Some(i) = known.into_iter().position(same) {
            return Ok(i);
        }
        let names = || self.prepared.plan.models.iter().map(|p| &p.name);
        if let Some(other) = models
            .iter()
            .find(|m| m.card.name == model.card.name && !same_file(&m.path, &path))
        {
            bail!(
                "{} and {} are both named `{}`; give each card a name of its own",
                other.path.display(),
                path.display(),
                model.card.name
            );
        }
        // Two sets of values of one condition would share a row in every table.
        let full = model.full_label();
        let numbered = (2..).map(|i| format!("{full} ({i})"));
        let unique = [planned.name.clone(), full.clone()]
            .into_iter()
            .chain(numbered)
            .find(|name| !names().any(|known| known == name));
        self.prepared.plan.models.push(PlannedModel {
            name: unique.unwrap_or_default(),
            ..planned
        });
        self.prepared.models.push(model);
        Ok(self.prepared.models.len() - 1)
    }

    /// Reads a data file for a model and returns its position in the plan. A file that is already
    /// in the plan with the same model, dequantization and order of axes is not read again. With
    /// `states`, the data are states of the model, encoded like that if they have the shape of decoded
    /// data; without, they are compared with decoded samples.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or if its data do not fit the card or the dequantization.
    pub(super) fn add_data(
        &mut self,
        path: &Path,
        model: usize,
        dequantization: Option<&Dequantization>,
        layout: Option<RequestedLayout>,
        states: Option<LatentEncoding>,
    ) -> Result<usize> {
        let path = self.config_file.resolve(path)?;
        let opened = &self.prepared.models[model];
        let known = self
            .prepared
            .data
            .iter()
            .zip(&self.prepared.plan.data)
            .zip(&self.dequantizations);
        let shape = shape::port_sizes(&opened.data_card.shape);
        let alike = |d: &Dataset| match &d.layout {
            Some(there) => layout.is_some_and(|said| said.layout == there),
            None => layout.is_none_or(|said| !said.applies(d.values.shape(), &shape)),
        };
        let same = |((d, p), q): ((&Dataset, &PlannedData), &Option<Dequantization>)| {
            same_file(Path::new(&d.name), &path)
                && p.model == model
                && q.as_ref() == dequantization
                && alike(d)
                && (opened.card.latent.is_none() || p.encode == states)
        };
        if let Some(i) = known.into_iter().position(same) {
            return Ok(i);
        }
        let data = Dataset::read(&path)?;
        let encode = states.filter(|_| opened.encodes(data.values.len() / data.len().max(1)));
        let card = match (states, encode) {
            (Some(_), None) => &opened.card,
            _ => &opened.data_card,
        };
        let data = data.with_layout(layout, &card.shape)?;
        data.check_fits(card)?;
        if encode.is_some() {
            check_encodable(opened, dequantization.is_some())?;
        }
        let mut treatment = match encode {
            Some(encoding) => format!("encoded by latent.encoder ({})", encoding.as_str()),
            None => data.describe_treatment(card),
        };
        let mut short = short_name(&path);
        if let Some(dequantization) = dequantization {
            data.check_dequantizable(card)?;
            // The suffix keeps the rows of another dequantization in a dataset of their own: their
            // numbers are bounds of another kind.
            short = format!("{short} {}", dequantization.dataset_suffix());
            if let Dequantization::TruncatedNormal(_) = dequantization {
                treatment = treatment.replace(
                    "uniformly dequantized",
                    "dequantized by truncated normal noise in their cells",
                );
            }
            treatment = format!(
                "{treatment}, {} draws each, combined as {}",
                dequantization.draw_count(),
                dequantization.bound_kind()
            );
        }
        self.dequantizations.push(dequantization.cloned());
        let index = self.insert_data(data, short, model, treatment);
        self.prepared.plan.data[index].encode = encode;
        Ok(index)
    }

    /// Reads the initial states of `count` samples from a file and returns their position in the
    /// plan.
    ///
    /// # Errors
    /// Fails if the file cannot be read, does not have the model's shape, or has too few states.
    pub(super) fn add_noise(
        &mut self,
        path: &Path,
        model: usize,
        count: usize,
        layout: Option<RequestedLayout>,
    ) -> Result<usize> {
        let path = self.config_file.resolve(path)?;
        let data =
            Dataset::read(&path)?.with_layout(layout, &self.prepared.models[model].card.shape)?;
        let states = initial_states(&data, &self.prepared.models[model])?;
        if states.nrows() < count {
            bail!(
                "noise: {} holds {} states, but count is {count}",
                data.name,
                states.nrows()
            );
        }
        self.dequantizations.push(None);
        Ok(self.insert_data(
            data,
            short_name(&path),
            model,
            "states at the prior end, taken as they are".to_owned(),
        ))
    }

    /// Appends data to the plan under a name that is unique within the model. Returns its position.
    fn insert_data(
        &mut self,
        data: Dataset,
        short: String,
        model: usize,
        treatment: String,
    ) -> usize {
        // Two files with the same name would share a row in every table.
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
            encode: None,
        });
        self.prepared.data.push(data);
        self.prepared.data.len() - 1
    }

    /// Adds an extractor, which is a preset's name or a file.
    ///
    /// # Errors
    /// Fails if the extractor's network cannot be found or read.
    pub(super) fn add_extractor(&mut self, path: &Path) -> Result<PlannedFile> {
        let path = if preset::is_built_in_preset(path) {
            path.to_owned()
        } else {
            self.config_file.resolve(path)?
        };
        let file = planned_extractor(&path)?;
        let named = ResolvedExtractor::resolve(&path)?;
        if named.preset.is_none() {
            let scaling = byte_scaling(&file.name, &std::fs::read(&named.onnx)?);
            let note = scaling.map(|scaling| describe_scaling(&file.name, scaling));
            let new = note.filter(|note| !self.prepared.plan.notes.contains(note));
            self.prepared.plan.notes.extend(new);
        }
        self.prepared.extractors.push((file.clone(), path));
        Ok(file)
    }
}

/// The name and the hash of an extractor. The hash covers its network and its preset.
///
/// # Errors
/// Fails if the extractor's network cannot be found or read.
pub(super) fn planned_extractor(path: &Path) -> Result<PlannedFile> {
    let named = ResolvedExtractor::resolve(path)?;
    let mut hash = Sha256::digest(
        std::fs::read(&named.onnx)
            .with_context(|| format!("{}: the extractor cannot be read", named.onnx.display()))?,
    );
    if let Some(preset) = &named.preset {
        // Two presets around the same network give different features.
        hash = Sha256::digest([&hash[..], &serde_json::to_vec(preset)?].concat());
    }
    let name = sanitize_file_name(
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

/// The files of a model, and the card and the files of the model that guides it.
fn planned_files(model: &Model) -> Vec<PlannedFile> {
    let file = |name: &Path, sha256: &str| PlannedFile {
        name: name.display().to_string(),
        sha256: sha256.to_owned(),
    };
    let mut files: Vec<PlannedFile> = model
        .files
        .iter()
        .map(|f| file(&f.name, &f.sha256))
        .collect();
    let guiding = model.card.guidance.as_ref().and_then(|g| g.with.as_ref());
    if let (Some(weak), Some(with)) = (&model.weak_model, guiding) {
        files.push(file(with, &weak.card_sha256));
        let folder = with.parent().unwrap_or(Path::new(""));
        files.extend(
            weak.files
                .iter()
                .map(|f| file(&folder.join(&f.name), &f.sha256)),
        );
    }
    files
}

/// The description of an opened model in a plan.
///
/// # Errors
/// Fails if a file of the model cannot be read.
pub(super) fn planned_model(model: &Model) -> Result<PlannedModel> {
    let card = &model.card;
    Ok(PlannedModel {
        name: model.label(),
        card_sha256: hex(&Sha256::digest(serde_json::to_string(card)?.as_bytes())),
        files: planned_files(model),
        precision: model.precision,
        shape: card.shape.clone(),
        decoded_shape: Some(model.sample_shape()).filter(|shape| *shape != card.shape),
        path: match &card.one_call {
            None => serde_json::to_value(&card.path)?,
            Some(one_call) => serde_json::json!({"kind": one_call.kind()}),
        },
        prediction: match &card.one_call {
            None => serde_json::to_value(card.network.prediction)?
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            Some(one_call) => one_call.describe(),
        },
        prior_std: model.prior.std,
        truncation: match &card.one_call {
            None => Truncation::new(&model.curve, model.prior).describe(card.network.prediction),
            Some(_) => String::new(),
        },
        parameters: model.parameter_count()?,
        range: card.data.map(|d| d.range),
        levels: card.data.and_then(|d| d.levels),
        constants: model.describe_constants()?,
        conditions: model.conditions.planned(),
        by: Vec::new(),
        guidance: model.guidance,
        times: model.describe_times()?,
        kinks: model.describe_kinks()?,
        provenance: serde_json::to_value(&card.provenance)?,
    })
}
