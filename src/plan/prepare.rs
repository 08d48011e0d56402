//! A config resolved: every file it names opened, every default decided, the trials listed.

use std::collections::BTreeSet;

use anyhow::{Context, Result, anyhow, bail};

use super::builder::Builder;
use super::offered::{most_samples, resolved, resolves, supports, supports_sampler};
use super::{
    Against, Choose, ContrastWork, FORMAT, LikelihoodWork, MapWork, Plan, PlannedFile, Prepared,
    Wanted, Work, pairs, solver_label,
};
use crate::config::{Budgeting, LikelihoodEntry, MapsEntry, SamplesEntry, Written};
use crate::data::Bound;
use crate::divergence::{Divergence, Learned};
use crate::flow::map;
use crate::metric::{Metric, Role, Sets, paired};
use crate::model::card::Direction;
use crate::num::key::Key;
use crate::num::shape::Said;
use crate::registry::named;
use crate::sample::{Sampler, Setting};
use crate::solve::{Solver, Span};
use crate::stein::{Score, Stein};
use crate::yaml::Fault;

/// Samples that a solver's error is measured on where no config asks for it, and the part of an entry's cost that this
/// may be.
const AUTOMATIC: usize = 16;
const DEAR: f64 = 0.25;

/// Resolves a config: opens and checks every file it names, and lists the trials. Runs no network, unless steps are to
/// be chosen: then once everything is known to be right.
///
/// # Errors
/// One message that names the config and every fault: of its form, of its entries and of the files it names.
pub fn prepare(written: &Written, seed: Option<u64>, choose: &Choose) -> Result<Prepared> {
    let draft = build(written, seed, None)?;
    if draft.unsettled {
        build(written, seed, Some(choose))
    } else {
        Ok(draft)
    }
}

fn build<'a>(
    written: &'a Written,
    seed: Option<u64>,
    choose: Option<&'a Choose<'a>>,
) -> Result<Prepared> {
    let config = &written.config;
    let mut builder = Builder {
        written,
        dequantizations: Vec::new(),
        ids: BTreeSet::new(),
        faults: Vec::new(),
        prepared: Prepared {
            plan: Plan {
                format: FORMAT,
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
            left_out: Vec::new(),
            steps: Vec::new(),
            unsettled: false,
        },
        choose,
    };
    for (i, entry) in config.likelihood.iter().enumerate() {
        builder.likelihood(&format!("likelihood.{i}"), entry);
    }
    for (i, entry) in config.samples.iter().enumerate() {
        builder.samples(&format!("samples.{i}"), entry);
    }
    for (i, entry) in config.maps.iter().enumerate() {
        builder.maps(&format!("maps.{i}"), entry);
    }
    let faults = std::mem::take(&mut builder.faults);
    written.hold(faults)?;
    written.hold(check_references(&builder.prepared.plan))?;
    Ok(builder.prepared)
}

/// References that no entry measures.
fn check_references(plan: &Plan) -> Vec<Fault> {
    let likelihoods = || {
        plan.trials.iter().filter_map(|t| {
            if let Work::Likelihood(w) = &t.work {
                Some(w)
            } else {
                None
            }
        })
    };
    let mut found: Vec<Fault> = Vec::new();
    for work in likelihoods() {
        let Some(Against { estimator, solver }) = &work.against else {
            continue;
        };
        let measured = |w: &LikelihoodWork| {
            (w.model, w.data, &w.solver) == (work.model, work.data, solver)
                && w.estimators.contains(estimator)
        };
        if !likelihoods().any(measured) {
            let message = format!(
                "`{}` with {} is not measured on {} for {}; add it under `solvers` and `estimators`",
                estimator.label(),
                solver_label(solver),
                plan.data[work.data].name,
                plan.models[work.model].name
            );
            found.push(Fault::new("reference_solver", message));
        }
    }
    found.dedup();
    found
}

/// The data of an entry under `samples`.
struct Files {
    reference: usize,
    floor: Option<usize>,
    train: Option<usize>,
    test: Option<usize>,
    noise: Option<usize>,
}

impl Builder<'_> {
    fn likelihood(&mut self, key: &str, entry: &LikelihoodEntry) {
        let config = &self.written.config;
        let model = self.model(&entry.model);
        let Some(model) = self.noted(&format!("{key}.model"), model) else {
            return self.readable(&format!("{key}.data"), &entry.data);
        };
        let layout = entry.layout.as_ref().map(Said::always);
        let data = self.data(&entry.data, model, entry.dequantization.as_ref(), layout);
        let data = self.noted(&format!("{key}.data"), data);
        if let Some(data) = data {
            let bound =
                self.prepared.data[data].bound(&self.prepared.models[model].card, entry.lattice);
            if let Some(Bound { why: Some(why), .. }) = self.noted(&format!("{key}.data"), bound) {
                self.unbounded(data, why);
            }
        }
        let opened = &self.prepared.models[model];
        let written = entry.estimators.as_ref().unwrap_or(&config.estimators);
        let estimators: Vec<Divergence> = written
            .iter()
            .map(|e| resolved(opened, e.clone()))
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
        let solvers = entry.solvers.as_ref().unwrap_or(&config.solvers).clone();
        self.check_solvers(model, &listed(entry.solvers.is_some(), "solvers"), &solvers);
        for (i, stein) in entry.stein.iter().enumerate() {
            let checked = self.check_stein(model, stein);
            self.said(&format!("{key}.stein.{i}"), checked);
        }
        if entry.density.is_some() && self.prepared.models[model].dim() != 2 {
            let dim = self.prepared.models[model].dim();
            let message =
                format!("the model has {dim} dimensions; a density over the plane needs 2");
            self.note(Fault::new(format!("{key}.density"), message));
        }
        let Some(data) = data else { return };
        let available = self.prepared.data[data].len();
        if let Some(count) = entry.samples.filter(|count| *count > available) {
            let message = format!("{count}, but {} has only {available}", entry.data.display());
            self.note(Fault::new(format!("{key}.samples"), message));
        }
        // What follows needs all of it to be right.
        if self.faults.iter().any(|f| f.key.starts_with(key)) || self.written.at_fault(key) {
            return;
        }
        if estimators.is_empty() || solvers.is_empty() {
            return;
        }
        let planned = self.plan_likelihood(key, entry, model, data, &estimators, solvers);
        self.said(key, planned);
    }

    /// Data whose log-likelihoods bound nothing, which the entry allows.
    fn unbounded(&mut self, data: usize, why: String) {
        let planned = &mut self.prepared.plan.data[data];
        if !planned.unbounded {
            planned.unbounded = true;
            planned.notes.push(why.clone());
            self.prepared.data[data].notes.push(why);
        }
    }

    /// The trials of an entry whose model, data, estimators and solvers are right.
    fn plan_likelihood(
        &mut self,
        key: &str,
        entry: &LikelihoodEntry,
        model: usize,
        data: usize,
        estimators: &[Divergence],
        solvers: Vec<Solver>,
    ) -> Result<()> {
        let config = &self.written.config;
        let opened = &self.prepared.models[model];
        let wanted = entry.reference.as_ref().or(config.reference.as_ref());
        let wanted = wanted.map_or_else(|| estimators[0].clone(), |w| resolved(opened, w.clone()));
        let elsewhere = entry
            .reference_solver
            .as_ref()
            .or(config.reference_solver.as_ref());
        let reference = match (estimators.iter().position(|e| *e == wanted), elsewhere) {
            (Some(place), _) => place,
            // It stands under its own solver, in whichever entry: `check_references`.
            (None, Some(_)) => 0,
            (None, None) if self.written.at_fault("estimators") => 0,
            (None, None) => bail!(
                "reference: `{}` is not among the estimators of this entry",
                wanted.label()
            ),
        };
        let elsewhere = elsewhere.cloned();
        if elsewhere
            .as_ref()
            .is_some_and(|solver| solver.automatic().is_some())
        {
            bail!(
                "reference_solver: its steps are auto, which is found for each entry alone; expected a number"
            );
        }
        estimators
            .iter()
            .try_for_each(|e| resolves(opened, e, &self.prepared.data[data]))?;
        if let Some(dequantization) = &entry.dequantization {
            dequantization
                .check(estimators)
                .map_err(|e| anyhow!("dequantization: {e}"))?;
        }
        let available = self.prepared.data[data].len();
        let count = entry.samples.unwrap_or(available);
        let solvers = self.settle(model, data, estimators, count, solvers)?;
        self.check_overlap(model, data, &solvers, estimators)?;
        let chunk = config.chunk.max(1);
        let density_solver = solvers[0].clone();
        for (place, solver) in solvers.into_iter().enumerate() {
            // What takes no solver stands beside the first one's rows, once.
            let here: Vec<Divergence> = estimators
                .iter()
                .filter(|e| place == 0 || e.takes_solver())
                .cloned()
                .collect();
            let Some(reference) = here
                .iter()
                .position(|e| *e == estimators[reference])
                .or((!here.is_empty()).then_some(0))
            else {
                continue;
            };
            let against = (elsewhere.as_ref().filter(|s| **s != solver)).map(|s| Against {
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
                self.push(Work::Likelihood(work(first, chunk.min(count - first))))?;
            }
            if entry.profile > 0 && here.iter().any(Divergence::takes_solver) {
                self.push(Work::Profile(work(0, entry.profile.min(count))))?;
            }
            match entry.budget.as_ref().map(Budgeting::samples) {
                Some(Some(samples)) => drop(self.push(Work::Budget(work(0, samples.min(count))))?),
                Some(None) => {}
                None => self.automatic_budget(work(0, count), key)?,
            }
        }
        for stein in &entry.stein {
            self.push(Work::Stein {
                model,
                data,
                stein: stein.clone(),
            })?;
        }
        let Some(grid) = &entry.density else {
            return Ok(());
        };
        let learned = estimators.iter().find(|e| heads(e));
        let few = estimators
            .iter()
            .filter(|e| !e.takes_solver())
            .max_by_key(|e| e.own_evaluations());
        for estimator in [Some(&estimators[reference]), learned, few]
            .into_iter()
            .flatten()
        {
            let work = Work::Density {
                model,
                solver: density_solver.clone(),
                estimator: estimator.clone(),
                grid: grid.clone(),
            };
            if !self.prepared.plan.trials.iter().any(|t| t.work == work) {
                self.push(work)?;
            }
        }
        Ok(())
    }

    /// The solvers of an entry with the numbers of steps that are chosen for them, each once.
    fn settle(
        &mut self,
        model: usize,
        data: usize,
        estimators: &[Divergence],
        samples: usize,
        solvers: Vec<Solver>,
    ) -> Result<Vec<Solver>> {
        let (given, mut settled) = (solvers.clone(), Vec::new());
        for solver in solvers {
            if solver.automatic().is_none() {
                settled.push(solver);
                continue;
            }
            if !estimators.iter().any(Divergence::takes_solver) {
                bail!(
                    "solvers: steps: auto has no log-likelihoods to compare, since no estimator follows a path"
                );
            }
            self.prepared.unsettled |= self.choose.is_none();
            let Some(choose) = self.choose else {
                settled.push(solver);
                continue;
            };
            let wanted = Wanted {
                model: &self.prepared.models[model],
                data: &self.prepared.data[data],
                solver: &solver,
                estimators,
                samples,
                key: Key {
                    seed: self.prepared.plan.seed,
                },
            };
            let chosen = choose(&wanted).with_context(|| format!("solvers: {}", solver.name()))?;
            let found = chosen
                .settled()
                .context("solvers: steps: auto of a solver without steps")?;
            self.prepared.steps.push(chosen);
            // What was found may be in the list as a number too.
            if !given.contains(&found) && !settled.contains(&found) {
                settled.push(found);
            }
        }
        Ok(settled)
    }

    /// The solver's part of the error of the reference, on a few samples, where `whole` has fixed steps and it costs a
    /// small part of that.
    fn automatic_budget(&mut self, whole: LikelihoodWork, key: &str) -> Result<()> {
        let followed = |e: &&Divergence| e.takes_solver();
        let reference = whole.estimators.get(whole.reference).filter(followed);
        let Some(reference) = reference
            .or(whole.estimators.iter().find(followed))
            .cloned()
        else {
            return Ok(());
        };
        if whole.solver.evaluations().is_none() || whole.count < 2 {
            return Ok(());
        }
        let (estimators, count) = (vec![reference], whole.count.min(AUTOMATIC));
        let small = LikelihoodWork {
            estimators,
            reference: 0,
            against: None,
            count,
            automatic: true,
            ..whole.clone()
        };
        let cost = |work: &Work| {
            let cost = self.prepared.cost(work);
            (cost.evaluations + cost.products) as f64
        };
        let small = Work::Budget(small);
        let share = cost(&small) / cost(&Work::Likelihood(whole.clone()));
        if share <= DEAR {
            return self.push(small).map(drop);
        }
        self.prepared.left_out.push(format!(
            "{key}: the error of {} is not measured, which would cost {:.0} % of the entry; `budget: true` measures it",
            solver_label(&whole.solver),
            100.0 * share
        ));
        Ok(())
    }

    /// Notes every estimator that the model does not offer, and any that is there twice.
    fn check_estimators(&mut self, model: usize, key: &str, estimators: &[Divergence]) {
        let mut labels = BTreeSet::new();
        for (i, estimator) in estimators.iter().enumerate() {
            let offered = supports(&self.prepared.models[model], estimator);
            self.noted(&format!("{key}.{i}"), offered);
            if !labels.insert(estimator.label()) {
                self.note(Fault::new(
                    format!("{key}.{i}"),
                    format!("`{}` is there twice", estimator.label()),
                ));
            }
        }
    }

    /// Notes every solver that cannot follow the model's path.
    fn check_solvers(&mut self, model: usize, key: &str, solvers: &[Solver]) {
        for (i, solver) in solvers.iter().enumerate() {
            let curve = &self.prepared.models[model].curve;
            let checked = solver
                .check(Span {
                    curve,
                    to_prior: true,
                })
                .map_err(|e| anyhow!(named(solver.name(), e)));
            self.noted(&format!("{key}.{i}"), checked);
        }
    }

    fn check_stein(&self, model: usize, stein: &Stein) -> Result<()> {
        stein.check().map_err(|e| anyhow!(e))?;
        let head = Divergence::Learned(Learned {
            head: stein.head.clone(),
        });
        supports(&self.prepared.models[model], &head)?;
        if stein.score == Score::Model && self.prepared.models[model].card.closed_form.is_none() {
            bail!(
                "score: model needs an exact model, a card with a `closed_form`; expected score: noise"
            );
        }
        Ok(())
    }

    /// Two entries that put one estimator on the same data would count their samples twice in every mean.
    fn check_overlap(
        &self,
        model: usize,
        data: usize,
        solvers: &[Solver],
        estimators: &[Divergence],
    ) -> Result<()> {
        for trial in &self.prepared.plan.trials {
            let Work::Likelihood(there) = &trial.work else {
                continue;
            };
            if (there.model, there.data) != (model, data) || !solvers.contains(&there.solver) {
                continue;
            }
            if let Some(both) = estimators.iter().find(|e| there.estimators.contains(e)) {
                bail!(
                    "estimators: `{}` on {} with {} is in an earlier entry already; write each once",
                    both.label(),
                    self.prepared.plan.data[data].name,
                    solver_label(&there.solver)
                );
            }
        }
        Ok(())
    }

    fn maps(&mut self, key: &str, entry: &MapsEntry) {
        let model = self.model(&entry.model);
        let Some(model) = self.noted(&format!("{key}.model"), model) else {
            return self.readable(&format!("{key}.data"), &entry.data);
        };
        let data = self.data(
            &entry.data,
            model,
            None,
            entry.layout.as_ref().map(Said::always),
        );
        let Some(data) = self.noted(&format!("{key}.data"), data) else {
            return;
        };
        if !self.written.at_fault(key) {
            let planned = self.plan_maps(entry, model, data);
            self.said(key, planned);
        }
    }

    /// The trial of an entry whose model and data are right.
    fn plan_maps(&mut self, entry: &MapsEntry, model: usize, data: usize) -> Result<()> {
        let opened = &self.prepared.models[model];
        let spec = opened.map_spec(&entry.map)?;
        let at = |e: String| anyhow!("{}: flow_maps.{}: {e}", opened.path.display(), entry.map);
        spec.gives_divergence().map_err(at)?;
        for steps in &entry.steps {
            map::times(&opened.curve, entry.grid, *steps).map_err(|e| anyhow!("steps: {e}"))?;
        }
        if entry.draws > 0 && opened.dim() > 3 {
            bail!(
                "draws: {}, but importance sampling in {} dimensions finds no mass; expected at most 3",
                entry.draws,
                opened.dim()
            );
        }
        if entry.draws > 0 && spec.direction() == Direction::ToData {
            bail!(
                "draws: the map goes to the data alone, so that it gives no density at a point; expected 0"
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
        self.push(Work::Maps(MapWork {
            model,
            data,
            map,
            steps,
            grid,
            samples,
            draws,
        }))
        .map(drop)
    }

    fn samples(&mut self, key: &str, entry: &SamplesEntry) {
        let model = self.model(&entry.model);
        let extractor = entry
            .extractor
            .as_ref()
            .map(|f| self.extractor(f))
            .transpose();
        let extractor = self.noted(&format!("{key}.extractor"), extractor).flatten();
        let files = [
            ("reference", Some(&entry.reference)),
            ("floor", entry.floor.as_ref()),
            ("train", entry.train.as_ref()),
            ("test", entry.test.as_ref()),
            ("noise", entry.noise.as_ref()),
        ];
        let Some(model) = self.noted(&format!("{key}.model"), model) else {
            for (name, file) in files {
                file.into_iter()
                    .for_each(|file| self.readable(&format!("{key}.{name}"), file));
            }
            return;
        };
        let layouts = entry.layout.as_ref();
        let known = layouts
            .map_or(Ok(()), |l| l.check(&files.map(|(name, _)| name)))
            .map_err(|e| anyhow!(e));
        self.said(key, known);
        let [reference, floor, train, test, noise] = files.map(|(name, file)| {
            let layout = layouts.and_then(|l| l.of(name));
            let data = match name {
                "noise" => file.map(|file| self.noise(file, model, entry.count, layout)),
                _ => file.map(|file| self.data(file, model, None, layout)),
            };
            self.noted(&format!("{key}.{name}"), data.transpose())
                .flatten()
        });
        for (i, sampler) in entry.samplers.iter().enumerate() {
            let checked = self.check_sampler(model, sampler);
            self.noted(&format!("{key}.samplers.{i}"), checked);
        }
        let most = most_samples(self.prepared.models[model].dim());
        if entry.count > most {
            self.note(Fault::new(
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
            self.note(Fault::new(format!("{key}.baseline"), message));
        }
        let Some(reference) = reference else { return };
        let samples = |data: usize| self.prepared.data[data].len();
        let (generated, available) = (entry.count, samples(reference));
        let n = Sets {
            generated,
            reference: available,
            train: train.map(samples),
            test: test.map(samples),
        };
        for (i, metric) in entry.metrics.iter().enumerate() {
            let checked = metric.check_all(n).map_err(|e| anyhow!(e));
            self.noted(&format!("{key}.metrics.{i}"), checked);
        }
        if self.faults.iter().any(|f| f.key.starts_with(key)) || self.written.at_fault(key) {
            return;
        }
        let files = Files {
            reference,
            floor,
            train,
            test,
            noise,
        };
        let planned = self.plan_samples(entry, model, files, extractor);
        self.said(key, planned);
    }

    fn check_sampler(&self, model: usize, sampler: &Sampler) -> Result<()> {
        let on = Setting::of(&self.prepared.models[model]);
        sampler
            .check(&on)
            .map_err(|e| anyhow!(named(sampler.name(), e)))?;
        supports_sampler(&self.prepared.models[model], sampler)
    }

    /// The trials of an entry whose files, samplers and metrics are right.
    fn plan_samples(
        &mut self,
        entry: &SamplesEntry,
        model: usize,
        files: Files,
        extractor: Option<PlannedFile>,
    ) -> Result<()> {
        let Files {
            reference,
            floor,
            train,
            test,
            noise,
        } = files;
        let available = self.prepared.data[reference].len();
        let mut drawn: Vec<(Sampler, Vec<String>)> = Vec::new();
        for sampler in &entry.samplers {
            // A statistic of a population needs all of it: a trial holds whole ones.
            let chunk = self.written.config.chunk.max(1);
            let chunk = chunk
                .checked_next_multiple_of(sampler.population().unwrap_or(1))
                .unwrap_or(chunk);
            let mut parts = Vec::new();
            for first in (0..entry.count).step_by(chunk) {
                let count = chunk.min(entry.count - first);
                parts.push(self.push(Work::Sample {
                    model,
                    sampler: sampler.clone(),
                    noise,
                    first,
                    count,
                })?);
            }
            drawn.push((sampler.clone(), parts.clone()));
            let (metrics, extractor) = (entry.metrics.clone(), extractor.clone());
            self.push(Work::Metrics {
                model,
                sampler: Some(sampler.clone()),
                parts,
                floor: None,
                count: None,
                reference,
                train,
                test,
                extractor,
                metrics,
            })?;
        }
        let enough = entry.count.min(available) >= paired::LEAST;
        if entry.baseline.is_some() && !enough {
            let least = paired::LEAST;
            bail!(
                "baseline: {} samples and {available} of the reference, expected at least {least} of each",
                entry.count
            );
        }
        // Differences are of statistics against the reference, and of those alone.
        let against_it = |m: &&Metric| {
            m.check(entry.count, available).is_ok()
                && (train.is_none() || m.compared() == Role::Reference)
        };
        let differing: Vec<Metric> = entry.metrics.iter().filter(against_it).cloned().collect();
        let enough = enough && !differing.is_empty();
        let pairs = pairs::pairs(&entry.samplers, entry.baseline.as_ref());
        for [one, other] in pairs.into_iter().filter(|_| enough) {
            let [(sampler, parts), (baseline, baseline_parts)] =
                [one, other].map(|i| drawn[i].clone());
            let (extractor, metrics) = (extractor.clone(), differing.clone());
            self.push(Work::Contrast(ContrastWork {
                model,
                sampler,
                baseline,
                parts,
                baseline_parts,
                reference,
                extractor,
                metrics,
            }))?;
        }
        if floor.is_some() {
            let metrics = entry.metrics.clone();
            let (sampler, parts, count) = (None, Vec::new(), Some(entry.count));
            self.push(Work::Metrics {
                model,
                sampler,
                parts,
                floor,
                count,
                reference,
                train,
                test,
                extractor,
                metrics,
            })?;
        }
        Ok(())
    }
}

fn heads(estimator: &Divergence) -> bool {
    matches!(estimator, Divergence::Learned(_))
}
