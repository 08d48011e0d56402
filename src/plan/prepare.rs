//! From a config to a plan: all its files are opened, all defaults are decided and the trials are
//! listed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow, bail};

use super::builder::PlanBuilder;
use super::capabilities::{
    check_centred_states, check_difference_step, check_discretized_data, check_estimator_supported,
    check_sampler_supported, likelihood_bound, max_samples, with_card_defaults,
};
use super::conditions::{ModelSetting, check_condition_lengths};
use super::{
    AutoStepsRequest, BoundProfileWork, BudgetWork, ContrastWork, DensityWork, FlowMapWork,
    LikelihoodWork, MAX_MASS_DIM, MassWork, MetricsWork, PLAN_FORMAT, Plan, PlannedFile,
    PreparedPlan, ProfileWork, ReferenceEstimate, SampleWork, SteinWork, StepsChooser, TrialWork,
    WorkKind, sampler_pairs,
};
use crate::config::{ConfigFile, ErrorBudgetSetting, LikelihoodEntry, MapsEntry, SamplesEntry};
use crate::data::LikelihoodBound;
use crate::divergence::{DivergenceEstimator, Learned, OneCallLikelihood};
use crate::features::images::ByteRounding;
use crate::flow::flow_map;
use crate::flow::guidance::GuidanceSetting;
use crate::metric::{Metric, SampleRole, SampleSets, paired};
use crate::model::card::FlowMapDirection;
use crate::model::conditions::ConditionSource;
use crate::model::latent::LatentEncoding;
use crate::num::key::RngKey;
use crate::num::shape::RequestedLayout;
use crate::registry::prefix_with_name;
use crate::sample::{Sampler, SamplerContext};
use crate::solve::{Solver, TimeSpan};
use crate::stein::{SteinScore, SteinTest};
use crate::yaml::Fault;

/// The number of samples on which a solver's error is measured if the config does not ask for it.
const AUTOMATIC_BUDGET_SAMPLES: usize = 16;

/// The largest share of an entry's cost that such a measurement may take.
const MAX_AUTOMATIC_BUDGET_SHARE: f64 = 0.25;

/// Makes a plan from a config: opens and checks every file that it names, and lists the trials.
///
/// No network is called, unless a solver has `steps: auto`. Its steps are chosen only when
/// everything else is known to be right.
///
/// # Errors
/// Fails if the config's form, an entry or a file is at fault. One message names the config and all
/// its faults.
pub fn prepare_plan(
    written: &ConfigFile,
    seed: Option<u64>,
    choose: &StepsChooser,
) -> Result<PreparedPlan> {
    let draft = build_plan(written, seed, None)?;
    if draft.steps_pending {
        build_plan(written, seed, Some(choose))
    } else {
        Ok(draft)
    }
}

/// Makes a plan. Without `choose`, solvers with `steps: auto` stay unchanged.
fn build_plan<'a>(
    written: &'a ConfigFile,
    seed: Option<u64>,
    choose: Option<&'a StepsChooser<'a>>,
) -> Result<PreparedPlan> {
    let config = &written.config;
    let mut builder = PlanBuilder {
        config_file: written,
        dequantizations: Vec::new(),
        ids: BTreeSet::new(),
        faults: Vec::new(),
        prepared: PreparedPlan {
            plan: Plan {
                format: PLAN_FORMAT,
                name: config.name.clone(),
                seed: seed.unwrap_or(config.seed),
                models: Vec::new(),
                data: Vec::new(),
                trials: Vec::new(),
                notes: Vec::new(),
            },
            models: Vec::new(),
            data: Vec::new(),
            extractors: Vec::new(),
            skipped: Vec::new(),
            steps: Vec::new(),
            steps_pending: false,
        },
        choose_steps: choose,
    };
    for (i, entry) in config.likelihood.iter().enumerate() {
        for setting in model_settings(&entry.conditions, &entry.guidance) {
            builder.add_likelihood_entry(&format!("likelihood.{i}"), entry, &setting);
        }
    }
    for (i, entry) in config.samples.iter().enumerate() {
        for setting in model_settings(&entry.conditions, &entry.guidance) {
            builder.add_samples_entry(&format!("samples.{i}"), entry, &setting);
        }
    }
    for (i, entry) in config.reweight.iter().enumerate() {
        for setting in model_settings(&entry.conditions, &entry.guidance) {
            builder.add_reweight_entry(&format!("reweight.{i}"), entry, &setting);
        }
    }
    for (i, entry) in config.maps.iter().enumerate() {
        builder.add_maps_entry(&format!("maps.{i}"), entry);
    }
    for (i, entry) in config.calibration.iter().enumerate() {
        for setting in model_settings(&entry.conditions, &entry.guidance) {
            builder.add_calibration_entry(&format!("calibration.{i}"), entry, &setting);
        }
    }
    let faults = std::mem::take(&mut builder.faults);
    written.reject_faults(faults)?;
    written.reject_faults(check_references(&builder.prepared.plan))?;
    Ok(builder.prepared)
}

/// The settings of an entry's model: one for each guidance that the entry names, or the card's.
fn model_settings(
    conditions: &BTreeMap<String, Option<ConditionSource>>,
    guidance: &[GuidanceSetting],
) -> Vec<ModelSetting> {
    let setting = |guidance: Option<GuidanceSetting>| ModelSetting {
        conditions: conditions.clone(),
        guidance,
    };
    match guidance {
        [] => vec![setting(None)],
        list => list
            .iter()
            .map(|guidance| setting(Some(*guidance)))
            .collect(),
    }
}

/// A fault for each reference that no entry of the plan measures.
fn check_references(plan: &Plan) -> Vec<Fault> {
    let likelihoods = || {
        plan.trials.iter().filter_map(|t| {
            if let TrialWork::Likelihood(w) = &t.work {
                Some(&**w)
            } else {
                None
            }
        })
    };
    let mut found: Vec<Fault> = Vec::new();
    for work in likelihoods() {
        let Some(ReferenceEstimate { estimator, solver }) = &work.against else {
            continue;
        };
        let measured = |w: &LikelihoodWork| {
            (w.model, w.data, &w.solver) == (work.model, work.data, solver)
                && w.estimators.contains(estimator)
        };
        if !likelihoods().any(measured) {
            let message = format!(
                "`{}` with {} is not measured on {} for {}; add it under `solvers` and \
                 `estimators`",
                estimator.label(),
                solver.label(),
                plan.data[work.data].name,
                plan.models[work.model].name
            );
            found.push(Fault::new("reference_solver", message));
        }
    }
    found.dedup();
    found
}

/// The positions in the plan of the data of an entry under `samples`.
struct SamplesEntryData {
    reference: usize,
    floor: Option<usize>,
    train: Option<usize>,
    test: Option<usize>,
    noise: Option<usize>,
}

impl PlanBuilder<'_> {
    /// Checks an entry under `likelihood` and adds its trials.
    fn add_likelihood_entry(&mut self, key: &str, entry: &LikelihoodEntry, setting: &ModelSetting) {
        let config = &self.config_file.config;
        let model = self.add_model(&entry.model, setting);
        let Some(model) = self.ok_or_fault(&format!("{key}.model"), model) else {
            return self.check_readable(&format!("{key}.data"), &entry.data);
        };
        for name in &entry.by {
            let known = &mut self.prepared.plan.models[model];
            if !known.conditions.contains_key(name) {
                let message = format!("`{name}`, but the card has no condition of that name");
                self.add_fault(Fault::new(format!("{key}.by"), message));
            } else if !known.by.contains(name) {
                known.by.push(name.clone());
            }
        }
        let layout = entry.layout.as_ref().map(RequestedLayout::unconditional);
        let data = self.add_data(
            &entry.data,
            model,
            entry.dequantization.as_ref(),
            layout,
            Some(entry.encode),
        );
        let data = self.ok_or_fault(&format!("{key}.data"), data);
        if let Some(data) = data {
            let lengths = self.check_conditions(model, data);
            self.ok_or_nested_fault(&format!("{key}.conditions"), lengths);
            let bound = likelihood_bound(
                &self.prepared.models[model],
                &self.prepared.data[data],
                entry.lattice,
            );
            if let Some(LikelihoodBound {
                reason: Some(why), ..
            }) = self.ok_or_fault(&format!("{key}.data"), bound)
            {
                self.mark_unbounded(data, why);
            }
        }
        let opened = &self.prepared.models[model];
        // A one-call model has one estimator, whatever the run's other models are measured by.
        let one_call = [DivergenceEstimator::OneCall(OneCallLikelihood {})];
        let general = match &opened.card.one_call {
            Some(_) => &one_call[..],
            None => &config.estimators,
        };
        let written = entry.estimators.as_deref().unwrap_or(general);
        let estimators: Vec<DivergenceEstimator> = written
            .iter()
            .map(|e| with_card_defaults(opened, e.clone()))
            .collect();
        let listed = |own: bool, list: &str| {
            if own {
                format!("{key}.{list}")
            } else {
                list.to_owned()
            }
        };
        self.check_estimators(
            model,
            &listed(entry.estimators.is_some(), "estimators"),
            &estimators,
        );
        let mut solvers = entry.solvers.as_ref().unwrap_or(&config.solvers).clone();
        let followed = estimators.iter().any(DivergenceEstimator::needs_solver);
        if solvers.is_empty() && !estimators.is_empty() && !followed {
            // No estimator follows a path, so that any solver will do.
            solvers.push(Solver::Euler(Default::default()));
        }
        for (list, missing) in [
            ("estimators", estimators.is_empty()),
            ("solvers", solvers.is_empty()),
        ] {
            if missing && !self.config_file.has_fault_near(list) {
                let message =
                    "none in this entry and none for the whole run; expected at least one";
                self.add_fault(Fault::new(format!("{key}.{list}"), message));
            }
        }
        self.check_solvers(model, &listed(entry.solvers.is_some(), "solvers"), &solvers);
        for (i, stein) in entry.stein.iter().enumerate() {
            let checked = self.check_stein(model, stein);
            self.ok_or_nested_fault(&format!("{key}.stein.{i}"), checked);
        }
        if entry.mass.is_some() && self.prepared.models[model].dim() > MAX_MASS_DIM {
            let dim = self.prepared.models[model].dim();
            let message = format!(
                "the model has {dim} dimensions, in which no draws near data reach its density; \
                 expected at most {MAX_MASS_DIM}"
            );
            self.add_fault(Fault::new(format!("{key}.mass"), message));
        }
        if entry.mass.is_some() && data.is_some_and(|data| self.prepared.data[data].len() < 8) {
            let message = "fewer than 8 samples of data, from which draws could be made";
            self.add_fault(Fault::new(format!("{key}.mass"), message.to_owned()));
        }
        if entry.density.is_some() && self.prepared.models[model].dim() != 2 {
            let dim = self.prepared.models[model].dim();
            let message =
                format!("the model has {dim} dimensions; a density over the plane needs 2");
            self.add_fault(Fault::new(format!("{key}.density"), message));
        }
        if entry.density.is_some() && self.prepared.models[model].conditions.vary() {
            let message = "a density over the plane needs one value of each condition for all \
                           points; expected a number or null";
            self.add_fault(Fault::new(format!("{key}.density"), message.to_owned()));
        }
        let Some(data) = data else { return };
        let available = self.prepared.data[data].len();
        if let Some(count) = entry.samples.filter(|count| *count > available) {
            let message = format!("{count}, but {} has only {available}", entry.data.display());
            self.add_fault(Fault::new(format!("{key}.samples"), message));
        }
        // Trials are planned only if the whole entry is right.
        if self.faults.iter().any(|f| f.key.starts_with(key))
            || self.config_file.has_fault_near(key)
        {
            return;
        }
        if estimators.is_empty() || solvers.is_empty() {
            return;
        }
        let planned = self.plan_likelihood(key, entry, model, data, &estimators, solvers);
        self.ok_or_nested_fault(key, planned);
    }

    /// Checks that the conditions of a model have one value for each of the data's samples.
    ///
    /// # Errors
    /// Fails if one has another number of values.
    pub(super) fn check_conditions(&self, model: usize, data: usize) -> Result<()> {
        let (model, data) = (&self.prepared.models[model], &self.prepared.data[data]);
        check_condition_lengths(
            &model.conditions,
            data.len(),
            &format!("{} holds", data.name),
        )
    }

    /// Marks data whose log-likelihoods are no bound, which the entry allows. `why` becomes a note.
    fn mark_unbounded(&mut self, data: usize, why: String) {
        let planned = &mut self.prepared.plan.data[data];
        if !planned.unbounded {
            planned.unbounded = true;
            planned.notes.push(why.clone());
            self.prepared.data[data].notes.push(why);
        }
    }

    /// Adds the trials of an entry whose model, data, estimators and solvers are right.
    ///
    /// # Errors
    /// Fails if the reference, the dequantization, the steps or the overlap with another entry is
    /// at fault. The message begins with the key below the entry's.
    fn plan_likelihood(
        &mut self,
        key: &str,
        entry: &LikelihoodEntry,
        model: usize,
        data: usize,
        estimators: &[DivergenceEstimator],
        solvers: Vec<Solver>,
    ) -> Result<()> {
        let config = &self.config_file.config;
        let opened = &self.prepared.models[model];
        let general = (config.reference.as_ref()).filter(|_| opened.card.one_call.is_none());
        let wanted = entry.reference.as_ref().or(general);
        let wanted = wanted.map_or_else(
            || estimators[0].clone(),
            |w| with_card_defaults(opened, w.clone()),
        );
        let general = (config.reference_solver.as_ref()).filter(|_| opened.card.one_call.is_none());
        let elsewhere = entry.reference_solver.as_ref().or(general);
        let reference = match (estimators.iter().position(|e| *e == wanted), elsewhere) {
            (Some(place), _) => place,
            // The reference has a solver of its own and can be in any entry. `check_references`
            // looks for it when all entries are planned.
            (None, Some(_)) => 0,
            (None, None) if self.config_file.has_fault_near("estimators") => 0,
            (None, None) => bail!(
                "reference: `{}` is not among the estimators of this entry",
                wanted.label()
            ),
        };
        let elsewhere = elsewhere.cloned();
        if elsewhere
            .as_ref()
            .is_some_and(|solver| solver.auto_steps_tolerance().is_some())
        {
            bail!(
                "reference_solver: `steps: auto` is chosen for each entry separately, so a \
                 reference cannot use it; expected a number of steps"
            );
        }
        check_centred_states(opened, &self.prepared.data[data])?;
        estimators.iter().try_for_each(|e| {
            check_difference_step(opened, e, &self.prepared.data[data])?;
            check_discretized_data(opened, e, &self.prepared.data[data])
        })?;
        if let Some(dequantization) = &entry.dequantization {
            dequantization
                .check(estimators)
                .and_then(|()| dequantization.cell_noise(&opened.curve, opened.card.data))
                .map_err(|e| anyhow!("dequantization: {e}"))?;
        }
        let available = self.prepared.data[data].len();
        let count = entry.samples.unwrap_or(available);
        let solvers = self.choose_automatic_steps(model, data, estimators, count, solvers)?;
        self.check_overlap(model, data, &solvers, estimators)?;
        let chunk = config.chunk.max(1);
        let density_solver = solvers[0].clone();
        for (place, solver) in solvers.into_iter().enumerate() {
            // Estimators that take no solver are evaluated once, beside the first solver's rows.
            let here: Vec<DivergenceEstimator> = estimators
                .iter()
                .filter(|e| place == 0 || e.needs_solver())
                .cloned()
                .collect();
            let Some(reference) = here
                .iter()
                .position(|e| *e == estimators[reference])
                .or((!here.is_empty()).then_some(0))
            else {
                continue;
            };
            let against =
                (elsewhere.as_ref().filter(|s| **s != solver)).map(|s| ReferenceEstimate {
                    estimator: wanted.clone(),
                    solver: s.clone(),
                });
            let work = |first: usize, count: usize| LikelihoodWork {
                model,
                data,
                solver: solver.clone(),
                estimators: here.clone(),
                reference,
                against: against.clone(),
                first,
                count,
                dequantization: entry.dequantization.clone(),
                automatic: false,
            };
            for first in (0..count).step_by(chunk) {
                self.add_trial(work(first, chunk.min(count - first)))?;
            }
            if entry.profile > 0 && here.iter().any(DivergenceEstimator::needs_solver) {
                self.add_trial(ProfileWork(work(0, entry.profile.min(count))))?;
            }
            let bounds: Vec<DivergenceEstimator> = (here.iter())
                .filter(|e| matches!(e, DivergenceEstimator::ContinuousBound(_)))
                .cloned()
                .collect();
            if entry.profile > 0 && !bounds.is_empty() {
                self.add_trial(BoundProfileWork(LikelihoodWork {
                    estimators: bounds,
                    reference: 0,
                    against: None,
                    ..work(0, entry.profile.min(count))
                }))?;
            }
            if let Some(mass) = &entry.mass {
                self.add_trial(MassWork {
                    model,
                    data,
                    solver: solver.clone(),
                    estimators: here.clone(),
                    draws: mass.samples,
                })?;
            }
            match entry.budget.as_ref().map(ErrorBudgetSetting::samples) {
                Some(Some(samples)) => {
                    drop(self.add_trial(BudgetWork(work(0, samples.min(count))))?)
                }
                Some(None) => {}
                None => self.plan_automatic_budget(work(0, count), key)?,
            }
        }
        for stein in &entry.stein {
            self.add_trial(SteinWork {
                model,
                data,
                stein: stein.clone(),
            })?;
        }
        let Some(grid) = &entry.density else {
            return Ok(());
        };
        let learned = estimators.iter().find(|e| is_learned_head(e));
        let few = estimators
            .iter()
            .filter(|e| e.kind().is_few_step())
            .max_by_key(|e| e.evaluations_without_solver(&self.prepared.models[model].curve));
        for estimator in [Some(&estimators[reference]), learned, few]
            .into_iter()
            .flatten()
        {
            let work = DensityWork {
                model,
                solver: density_solver.clone(),
                estimator: estimator.clone(),
                grid: grid.clone(),
            };
            let work = TrialWork::from(work);
            if !self.prepared.plan.trials.iter().any(|t| t.work == work) {
                self.add_trial(work)?;
            }
        }
        Ok(())
    }

    /// The solvers of an entry, with the chosen number in place of `steps: auto`. Each is listed
    /// once.
    ///
    /// # Errors
    /// Fails if no estimator follows a path, or if no number of steps can be chosen.
    fn choose_automatic_steps(
        &mut self,
        model: usize,
        data: usize,
        estimators: &[DivergenceEstimator],
        samples: usize,
        solvers: Vec<Solver>,
    ) -> Result<Vec<Solver>> {
        let (given, mut settled) = (solvers.clone(), Vec::new());
        for solver in solvers {
            if solver.auto_steps_tolerance().is_none() {
                settled.push(solver);
                continue;
            }
            if !estimators.iter().any(DivergenceEstimator::needs_solver) {
                bail!(
                    "solvers: steps: auto has no log-likelihoods to compare, because no estimator \
                     follows a path"
                );
            }
            self.prepared.steps_pending |= self.choose_steps.is_none();
            let Some(choose) = self.choose_steps else {
                settled.push(solver);
                continue;
            };
            let wanted = AutoStepsRequest {
                model: &self.prepared.models[model],
                data: &self.prepared.data[data],
                encode: self.prepared.plan.data[data].encode,
                solver: &solver,
                estimators,
                samples,
                key: RngKey {
                    seed: self.prepared.plan.seed,
                },
            };
            let chosen = choose(&wanted).with_context(|| format!("solvers: {}", solver.name()))?;
            let found = chosen
                .chosen_solver()
                .context("solvers: steps: auto needs a solver with a number of steps")?;
            self.prepared.steps.push(chosen);
            // The list can also have the same solver with this number of steps written out.
            if !given.contains(&found) && !settled.contains(&found) {
                settled.push(found);
            }
        }
        Ok(settled)
    }

    /// Adds an error budget that the config does not ask for: the reference again with finer steps,
    /// on a few samples. It is added only if the steps of `whole` are fixed and the budget costs at
    /// most [`MAX_AUTOMATIC_BUDGET_SHARE`] of `whole`. A more expensive one is noted as skipped.
    fn plan_automatic_budget(&mut self, whole: LikelihoodWork, key: &str) -> Result<()> {
        let followed = |e: &&DivergenceEstimator| e.needs_solver();
        let reference = whole.estimators.get(whole.reference).filter(followed);
        let Some(reference) = reference
            .or(whole.estimators.iter().find(followed))
            .cloned()
        else {
            return Ok(());
        };
        if whole.solver.fixed_evaluations().is_none() || whole.count < 2 {
            return Ok(());
        }
        let (estimators, count) = (vec![reference], whole.count.min(AUTOMATIC_BUDGET_SAMPLES));
        let small = LikelihoodWork {
            estimators,
            reference: 0,
            against: None,
            count,
            automatic: true,
            ..whole.clone()
        };
        let cost = |work: &dyn WorkKind| {
            let cost = work.cost(&self.prepared);
            (cost.evaluations + cost.products) as f64
        };
        let small = BudgetWork(small);
        let share = cost(&small) / cost(&whole);
        if share <= MAX_AUTOMATIC_BUDGET_SHARE {
            return self.add_trial(small).map(drop);
        }
        self.prepared.skipped.push(format!(
            "{key}: the error of {} is not measured, because that would cost {:.0} % of the entry; \
             `budget: true` measures it",
            whole.solver.label(),
            100.0 * share
        ));
        Ok(())
    }

    /// Adds a fault for each estimator that the model does not support or that is listed twice.
    fn check_estimators(&mut self, model: usize, key: &str, estimators: &[DivergenceEstimator]) {
        let mut labels = BTreeSet::new();
        for (i, estimator) in estimators.iter().enumerate() {
            let offered = check_estimator_supported(&self.prepared.models[model], estimator);
            self.ok_or_fault(&format!("{key}.{i}"), offered);
            if !labels.insert(estimator.label()) {
                self.add_fault(Fault::new(
                    format!("{key}.{i}"),
                    format!("`{}` is there twice", estimator.label()),
                ));
            }
        }
    }

    /// Adds a fault for each solver that cannot follow the model's path.
    fn check_solvers(&mut self, model: usize, key: &str, solvers: &[Solver]) {
        for (i, solver) in solvers.iter().enumerate() {
            let curve = &self.prepared.models[model].curve;
            let checked = solver
                .check(TimeSpan {
                    curve,
                    to_prior: true,
                })
                .map_err(|e| anyhow!(prefix_with_name(solver.name(), e)));
            self.ok_or_fault(&format!("{key}.{i}"), checked);
        }
    }

    /// Checks that the model supports a Stein test.
    ///
    /// # Errors
    /// Fails if a parameter is invalid, or if the card lacks the head or the `closed_form`.
    fn check_stein(&self, model: usize, stein: &SteinTest) -> Result<()> {
        stein.check().map_err(|e| anyhow!(e))?;
        if self.prepared.models[model].guidance.is_some() {
            bail!(
                "a guided flow is that of no data, so that a Stein test says nothing about it; expected \
                 `guidance: 1`"
            );
        }
        let head = DivergenceEstimator::Learned(Learned {
            head: stein.head.clone(),
        });
        check_estimator_supported(&self.prepared.models[model], &head)?;
        if stein.score == SteinScore::Model
            && self.prepared.models[model].card.closed_form.is_none()
        {
            bail!(
                "score: model needs an exact model, whose card has a `closed_form`; \
                 expected score: noise"
            );
        }
        Ok(())
    }

    /// Checks that no earlier entry has the same model, data, solver and estimator: the samples
    /// would count twice in every average.
    ///
    /// # Errors
    /// Fails if an earlier entry has them.
    fn check_overlap(
        &self,
        model: usize,
        data: usize,
        solvers: &[Solver],
        estimators: &[DivergenceEstimator],
    ) -> Result<()> {
        for trial in &self.prepared.plan.trials {
            let TrialWork::Likelihood(there) = &trial.work else {
                continue;
            };
            if (there.model, there.data) != (model, data) || !solvers.contains(&there.solver) {
                continue;
            }
            if let Some(both) = estimators.iter().find(|e| there.estimators.contains(e)) {
                bail!(
                    "estimators: `{}` on {} with {} is already in an earlier entry; list each once",
                    both.label(),
                    self.prepared.plan.data[data].name,
                    there.solver.label()
                );
            }
        }
        Ok(())
    }

    /// Checks an entry under `maps` and adds its trial.
    fn add_maps_entry(&mut self, key: &str, entry: &MapsEntry) {
        let setting = ModelSetting {
            conditions: entry.conditions.clone(),
            // A flow map is compared with the velocity that it was trained on.
            guidance: Some(GuidanceSetting::Scale(1.0)),
        };
        let model = self.add_model(&entry.model, &setting);
        let Some(model) = self.ok_or_fault(&format!("{key}.model"), model) else {
            return self.check_readable(&format!("{key}.data"), &entry.data);
        };
        let data = self.add_data(
            &entry.data,
            model,
            None,
            entry.layout.as_ref().map(RequestedLayout::unconditional),
            Some(LatentEncoding::Mean),
        );
        let Some(data) = self.ok_or_fault(&format!("{key}.data"), data) else {
            return;
        };
        let lengths = self.check_conditions(model, data);
        self.ok_or_nested_fault(&format!("{key}.conditions"), lengths);
        if !self.config_file.has_fault_near(key) {
            let planned = self.plan_maps(entry, model, data);
            self.ok_or_nested_fault(key, planned);
        }
    }

    /// Adds the trial of an entry whose model and data are right.
    ///
    /// # Errors
    /// Fails if the map, its steps, the number of draws or the number of samples is at fault.
    fn plan_maps(&mut self, entry: &MapsEntry, model: usize, data: usize) -> Result<()> {
        let opened = &self.prepared.models[model];
        let spec = opened.flow_map_spec(&entry.map)?;
        let at = |e: String| anyhow!("{}: flow_maps.{}: {e}", opened.path.display(), entry.map);
        spec.check_has_divergence().map_err(at)?;
        for steps in &entry.steps {
            flow_map::flow_map_times(&opened.curve, entry.grid, *steps)
                .map_err(|e| anyhow!("steps: {e}"))?;
        }
        if entry.draws > 0 && opened.dim() > 3 {
            bail!(
                "draws: {}, but importance sampling does not work in {} dimensions; expected \
                 draws: 0, or a model of at most 3 dimensions",
                entry.draws,
                opened.dim()
            );
        }
        if entry.draws > 0 && spec.direction() == FlowMapDirection::ToData {
            bail!(
                "draws: the map goes only towards the data, so it gives no density at a point; \
                 expected 0"
            );
        }
        let available = self.prepared.data[data].len();
        if entry.samples > available {
            bail!(
                "samples: {}, but {} has only {available}",
                entry.samples,
                entry.data.display()
            );
        }
        let MapsEntry {
            map,
            steps,
            grid,
            samples,
            draws,
            ..
        } = entry.clone();
        self.add_trial(FlowMapWork {
            model,
            data,
            map,
            steps,
            grid,
            samples,
            draws,
        })
        .map(drop)
    }

    /// Checks an entry under `samples` and adds its trials.
    fn add_samples_entry(&mut self, key: &str, entry: &SamplesEntry, setting: &ModelSetting) {
        let model = self.add_model(&entry.model, setting);
        let extractor = entry
            .extractor
            .as_ref()
            .map(|f| self.add_extractor(f))
            .transpose();
        let extractor = self
            .ok_or_fault(&format!("{key}.extractor"), extractor)
            .flatten();
        if entry.bytes != ByteRounding::default() && entry.extractor.is_none() {
            let message = "it needs an `extractor`: without one no number becomes a byte";
            self.add_fault(Fault::new(format!("{key}.bytes"), message));
        }
        let files = [
            ("reference", Some(&entry.reference)),
            ("floor", entry.floor.as_ref()),
            ("train", entry.train.as_ref()),
            ("test", entry.test.as_ref()),
            ("noise", entry.noise.as_ref()),
        ];
        let Some(model) = self.ok_or_fault(&format!("{key}.model"), model) else {
            for (name, file) in files {
                file.into_iter()
                    .for_each(|file| self.check_readable(&format!("{key}.{name}"), file));
            }
            return;
        };
        let lengths = check_condition_lengths(
            &self.prepared.models[model].conditions,
            entry.count,
            "the entry draws",
        );
        self.ok_or_nested_fault(&format!("{key}.conditions"), lengths);
        let layouts = entry.layout.as_ref();
        let known = layouts
            .map_or(Ok(()), |l| l.check(&files.map(|(name, _)| name)))
            .map_err(|e| anyhow!(e));
        self.ok_or_nested_fault(key, known);
        let [reference, floor, train, test, noise] = files.map(|(name, file)| {
            let layout = layouts.and_then(|l| l.for_array(name));
            let data = match name {
                "noise" => file.map(|file| self.add_noise(file, model, entry.count, layout)),
                _ => file.map(|file| self.add_data(file, model, None, layout, None)),
            };
            self.ok_or_fault(&format!("{key}.{name}"), data.transpose())
                .flatten()
        });
        for (i, sampler) in entry.samplers.iter().enumerate() {
            let checked = self.check_sampler(model, sampler);
            self.ok_or_fault(&format!("{key}.samplers.{i}"), checked);
        }
        let most = max_samples(self.prepared.models[model].dim());
        if entry.count > most {
            self.add_fault(Fault::new(
                format!("{key}.count"),
                format!("{}, expected at most {most}", entry.count),
            ));
        }
        if let Some(baseline) = entry
            .baseline
            .as_ref()
            .filter(|b| !entry.samplers.contains(b))
        {
            let message = format!(
                "`{}` is not among the samplers of this entry",
                baseline.label()
            );
            self.add_fault(Fault::new(format!("{key}.baseline"), message));
        }
        let Some(reference) = reference else { return };
        let samples = |data: usize| self.prepared.data[data].len();
        let (generated, available) = (entry.count, samples(reference));
        let n = SampleSets {
            generated,
            reference: available,
            train: train.map(samples),
            test: test.map(samples),
        };
        for (i, metric) in entry.metrics.iter().enumerate() {
            let checked = metric.check_all(n).map_err(|e| anyhow!(e));
            self.ok_or_fault(&format!("{key}.metrics.{i}"), checked);
        }
        if self.faults.iter().any(|f| f.key.starts_with(key))
            || self.config_file.has_fault_near(key)
        {
            return;
        }
        let files = SamplesEntryData {
            reference,
            floor,
            train,
            test,
            noise,
        };
        let planned = self.plan_samples(entry, model, files, extractor);
        self.ok_or_nested_fault(key, planned);
    }

    /// Checks that the model supports a sampler.
    ///
    /// # Errors
    /// Fails if a parameter is invalid or the card lacks what the sampler needs.
    pub(super) fn check_sampler(&self, model: usize, sampler: &Sampler) -> Result<()> {
        let on = SamplerContext::for_model(&self.prepared.models[model]);
        sampler
            .check(&on)
            .map_err(|e| anyhow!(prefix_with_name(sampler.name(), e)))?;
        check_sampler_supported(&self.prepared.models[model], sampler)
    }

    /// Adds the trials of an entry whose files, samplers and metrics are right.
    ///
    /// # Errors
    /// Fails if two trials have the same work, or if there are too few samples for a baseline.
    fn plan_samples(
        &mut self,
        entry: &SamplesEntry,
        model: usize,
        files: SamplesEntryData,
        extractor: Option<PlannedFile>,
    ) -> Result<()> {
        let SamplesEntryData {
            reference,
            floor,
            train,
            test,
            noise,
        } = files;
        let available = self.prepared.data[reference].len();
        let mut drawn: Vec<(Sampler, Vec<String>)> = Vec::new();
        for sampler in &entry.samplers {
            // Samples of one population can only be drawn together, so a trial has whole
            // populations.
            let chunk = self.config_file.config.chunk.max(1);
            let chunk = chunk
                .checked_next_multiple_of(sampler.population().unwrap_or(1))
                .unwrap_or(chunk);
            let mut parts = Vec::new();
            for first in (0..entry.count).step_by(chunk) {
                let count = chunk.min(entry.count - first);
                // Entries with other features share samples.
                parts.push(self.add_shared_trial(SampleWork {
                    model,
                    sampler: sampler.clone(),
                    noise,
                    density: None,
                    first,
                    count,
                })?);
            }
            drawn.push((sampler.clone(), parts.clone()));
            let (metrics, extractor) = (entry.metrics.clone(), extractor.clone());
            self.add_trial(MetricsWork {
                model,
                sampler: Some(sampler.clone()),
                parts,
                floor: None,
                count: None,
                reference,
                train,
                test,
                extractor,
                bytes: entry.bytes,
                metrics,
            })?;
        }
        let enough = entry.count.min(available) >= paired::MIN_SAMPLES_PER_SIDE;
        if entry.baseline.is_some() && !enough {
            let least = paired::MIN_SAMPLES_PER_SIDE;
            bail!(
                "baseline: {} samples and {available} of the reference, expected at least {least} \
                 of each",
                entry.count
            );
        }
        let pairs = sampler_pairs::sampler_pairs(&entry.samplers, entry.baseline.as_ref());
        if !enough && !pairs.is_empty() {
            self.prepared.skipped.push(format!(
                "{}: no paired differences of its samplers, which need at least {} samples on each \
                 side: there are {}, and {available} of the reference",
                self.prepared.plan.models[model].name,
                paired::MIN_SAMPLES_PER_SIDE,
                entry.count
            ));
        }
        // Paired differences exist only for statistics against the reference, not for those that
        // compare with training data.
        let against_it = |m: &&Metric| {
            m.check(entry.count, available).is_ok()
                && (train.is_none() || m.comparison_role() == SampleRole::Reference)
        };
        let differing: Vec<Metric> = entry.metrics.iter().filter(against_it).cloned().collect();
        let enough = enough && !differing.is_empty();
        for [one, other] in pairs.into_iter().filter(|_| enough) {
            let [(sampler, parts), (baseline, baseline_parts)] =
                [one, other].map(|i| drawn[i].clone());
            let (extractor, metrics) = (extractor.clone(), differing.clone());
            self.add_trial(ContrastWork {
                model,
                sampler,
                baseline: Box::new(baseline),
                parts,
                baseline_parts,
                reference,
                extractor,
                bytes: entry.bytes,
                metrics,
            })?;
        }
        if floor.is_some() {
            let metrics = entry.metrics.clone();
            let (sampler, parts, count) = (None, Vec::new(), Some(entry.count));
            self.add_trial(MetricsWork {
                model,
                sampler,
                parts,
                floor,
                count,
                reference,
                train,
                test,
                extractor,
                bytes: entry.bytes,
                metrics,
            })?;
        }
        Ok(())
    }
}

fn is_learned_head(estimator: &DivergenceEstimator) -> bool {
    matches!(estimator, DivergenceEstimator::Learned(_))
}
