//! Trials of entries under `reweight`.

use std::path::Path;

use anyhow::{Result, anyhow, bail};

use super::builder::PlanBuilder;
use super::capabilities::{max_samples, with_card_defaults};
use super::conditions::{ModelSetting, check_condition_lengths};
use super::{PlannedFile, ReweightWork, sample_density_solver, with_own_density};
use crate::config::ReweightEntry;
use crate::yaml::Fault;

impl PlanBuilder<'_> {
    /// Checks an entry under `reweight` and adds its trials.
    pub(super) fn add_reweight_entry(
        &mut self,
        key: &str,
        entry: &ReweightEntry,
        setting: &ModelSetting,
    ) {
        let model = self.add_model(&entry.model, setting);
        let mut add = |name: &str, path: &Path| {
            let file = self.add_state_function(path);
            self.ok_or_fault(&format!("{key}.{name}"), file)
        };
        let energy = entry.energy.as_ref().map(|path| add("energy", path));
        let observables: Vec<Option<PlannedFile>> = entry
            .observables
            .iter()
            .enumerate()
            .map(|(i, path)| add(&format!("observables.{i}"), path))
            .collect();
        let Some(model) = self.ok_or_fault(&format!("{key}.model"), model) else {
            return;
        };
        let opened = &self.prepared.models[model];
        let lengths = check_condition_lengths(&opened.conditions, entry.count, "the entry draws");
        self.ok_or_nested_fault(&format!("{key}.conditions"), lengths);
        let opened = &self.prepared.models[model];
        let without_energy = energy.is_none() && opened.card.energy.is_none();
        let is_latent = opened.card.latent.is_some();
        let most = max_samples(opened.dim());
        if without_energy {
            let message = "absent, and the card has no `energy` either; expected an ONNX file";
            self.add_fault(Fault::new(format!("{key}.energy"), message.to_owned()));
        }
        if is_latent {
            let message = "a latent model has no density of decoded samples, to which an energy \
                           belongs; expected a model of the data themselves";
            self.add_fault(Fault::new(format!("{key}.model"), message.to_owned()));
        }
        if entry.count > most {
            let message = format!("{}, expected at most {most}", entry.count);
            self.add_fault(Fault::new(format!("{key}.count"), message));
        }
        let mut names: Vec<&str> = Vec::new();
        for (i, file) in observables.iter().enumerate() {
            let Some(file) = file else { continue };
            if names.contains(&file.name.as_str()) {
                let message = format!("two observables have the name {}", file.name);
                self.add_fault(Fault::new(format!("{key}.observables.{i}"), message));
            }
            names.push(&file.name);
        }
        let checked = self.check_sampler(model, &entry.sampler);
        if self
            .ok_or_fault(&format!("{key}.sampler"), checked)
            .is_none()
        {
            return;
        }
        for (i, density) in entry.density.iter().enumerate() {
            let opened = &self.prepared.models[model];
            let density = with_card_defaults(opened, density.clone());
            let sampler = with_own_density(&entry.sampler, &density);
            let checked = sample_density_solver(opened, &sampler, &density).map(drop);
            let checked = checked.and_then(|()| self.check_sampler(model, &sampler));
            self.ok_or_fault(&format!("{key}.density.{i}"), checked);
        }
        if self.faults.iter().any(|f| f.key.starts_with(key))
            || self.config_file.has_fault_near(key)
        {
            return;
        }
        let planned = self.plan_reweight(
            entry,
            model,
            energy.flatten(),
            observables.into_iter().flatten().collect(),
        );
        self.ok_or_nested_fault(key, planned);
    }

    /// Adds the trials of an entry whose files, sampler and estimators are right.
    ///
    /// # Errors
    /// Fails if two trials have the same work.
    fn plan_reweight(
        &mut self,
        entry: &ReweightEntry,
        model: usize,
        energy: Option<PlannedFile>,
        observables: Vec<PlannedFile>,
    ) -> Result<()> {
        let chunk = self.config_file.config.chunk.max(1);
        for density in &entry.density {
            let density = with_card_defaults(&self.prepared.models[model], density.clone());
            for first in (0..entry.count).step_by(chunk) {
                self.add_trial(ReweightWork {
                    model,
                    sampler: with_own_density(&entry.sampler, &density),
                    density: density.clone(),
                    energy: energy.clone(),
                    energy_scale: entry.energy_scale,
                    observables: observables.clone(),
                    first,
                    count: chunk.min(entry.count - first),
                })?;
            }
        }
        Ok(())
    }

    /// Adds the file of an energy or an observable, which is an ONNX file.
    ///
    /// # Errors
    /// Fails if it cannot be read or is not an ONNX file.
    fn add_state_function(&mut self, path: &Path) -> Result<PlannedFile> {
        let path = self.config_file.resolve(path)?;
        if !path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("onnx"))
        {
            bail!("{}: expected an ONNX file, named .onnx", path.display());
        }
        let file = super::builder::planned_extractor(&path)?;
        let known = &self.prepared.extractors;
        if let Some((_, other)) = known
            .iter()
            .find(|(known, other)| *known == file && *other != path)
        {
            return Err(anyhow!(
                "{} and {} are the same file; name it by one path",
                path.display(),
                other.display()
            ));
        }
        self.prepared.extractors.push((file.clone(), path));
        Ok(file)
    }
}
