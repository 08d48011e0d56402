//! What will happen: a config resolved into trials, every default visible, every file hashed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::{DensityGrid, LikelihoodEntry, MapsEntry, SamplesEntry, Written};
use crate::data::Dataset;
use crate::dequantization::Dequantization;
use crate::divergence::{Divergence, Learned};
use crate::features::preset::{self, Named};
use crate::flow::grid::Spacing;
use crate::flow::map::{self, Rule};
use crate::flow::truncation::Truncation;
use crate::metric::Metric;
use crate::model::card::Direction;
use crate::model::library::hex;
use crate::model::opened::Model;
use crate::num::Batch;
use crate::sample::{Point, Sampler, Setting};
use crate::solve::{Solver, Span, refine};
use crate::stein::{Score, Stein};
use crate::trace::Estimator;

mod shard;

pub use shard::Shard;

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
}

/// One unit of work: what a kill can lose, at most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Hash of the content, so that the order of a config changes nothing.
    pub id: String,
    pub work: Work,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Every estimator on a range of samples, over one path.
    Likelihood(LikelihoodWork),
    /// The divergence along the path of the first `count` samples.
    Profile(LikelihoodWork),
    /// The first `count` samples again, with other steps and other roundings, for the error budget.
    Budget(LikelihoodWork),
    /// The log-density of one estimator over a rectangle of the plane.
    Density { model: usize, solver: Solver, estimator: Divergence, grid: DensityGrid },
    /// The differences of a sampler's statistics from a baseline's, paired by their common noise.
    Contrast(ContrastWork),
    /// What a flow map makes of the identities of a true one.
    Maps(MapWork),
    /// Stein tests of one head.
    Stein { model: usize, data: usize, stein: Stein },
    /// Samples number `first` to `first + count`.
    Sample {
        model: usize,
        sampler: Sampler,
        /// The file with their initial states; by address where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        noise: Option<usize>,
        first: usize,
        count: usize,
    },
    /// Statistics of samples, or of the floor's data, against reference data.
    Metrics {
        model: usize,
        /// Absent for the data-versus-data floor.
        sampler: Option<Sampler>,
        /// The trials that hold the samples.
        parts: Vec<String>,
        floor: Option<usize>,
        reference: usize,
        extractor: Option<PlannedFile>,
        metrics: Vec<Metric>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContrastWork {
    pub model: usize,
    pub sampler: Sampler,
    pub baseline: Sampler,
    /// The trials that hold the samples of each.
    pub parts: Vec<String>,
    pub baseline_parts: Vec<String>,
    pub reference: usize,
    pub extractor: Option<PlannedFile>,
    pub metrics: Vec<Metric>,
}

/// A flow map's identities, and the mass of its few-step densities.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapWork {
    pub model: usize,
    pub data: usize,
    pub map: String,
    pub steps: Vec<usize>,
    pub grid: Option<Spacing>,
    pub samples: usize,
    pub draws: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LikelihoodWork {
    pub model: usize,
    pub data: usize,
    pub solver: Solver,
    pub estimators: Vec<Divergence>,
    /// Index of the estimator that the others are compared with.
    pub reference: usize,
    /// What they are compared with instead, where that stands under another solver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
    pub first: usize,
    pub count: usize,
    /// As the config names it; integers have one uniform draw where it names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dequantization: Option<Dequantization>,
}

impl LikelihoodWork {
    /// Draws of dequantization noise per sample.
    pub fn draws(&self) -> usize {
        self.dequantization.as_ref().map_or(1, |d| d.draws())
    }
}

/// A reference under a solver of its own, on the same model and data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Against {
    pub estimator: Divergence,
    pub solver: Solver,
}

impl Work {
    pub fn model(&self) -> usize {
        match self {
            Work::Likelihood(w) | Work::Profile(w) | Work::Budget(w) => w.model,
            Work::Maps(w) => w.model,
            Work::Contrast(w) => w.model,
            Work::Density { model, .. } | Work::Stein { model, .. } => *model,
            Work::Sample { model, .. } | Work::Metrics { model, .. } => *model,
        }
    }

    /// What the work is, in a few words.
    pub fn describe(&self, plan: &Plan) -> String {
        let model = &plan.models[self.model()].name;
        match self {
            Work::Likelihood(w) => format!(
                "{model}: log-likelihoods of samples {} to {}, {}, {} estimators",
                w.first,
                w.first + w.count - 1,
                solver_label(&w.solver),
                w.estimators.len()
            ),
            Work::Profile(w) => format!("{model}: divergence along {} paths, {}", w.count, solver_label(&w.solver)),
            Work::Budget(w) => format!("{model}: error budget on {} samples, {}", w.count, solver_label(&w.solver)),
            Work::Contrast(w) => {
                format!("{model}: {} against {}", w.sampler.label(), w.baseline.label())
            }
            Work::Maps(w) => {
                format!("{model}: identities of the flow map {} in {:?} steps, {} samples", w.map, w.steps, w.samples)
            }
            Work::Density { estimator, grid, .. } => {
                format!("{model}: log-density on {0} x {0} points, {1}", grid.points, estimator.label())
            }
            Work::Stein { stein, .. } => {
                format!("{model}: Stein tests of {}, {} states at {} times", stein.head, stein.samples, stein.times)
            }
            Work::Sample { sampler, first, count, .. } => {
                format!("{model}: samples {first} to {}, {}", first + count - 1, sampler.label())
            }
            Work::Metrics { sampler, metrics, .. } => format!(
                "{model}: {} of {}",
                metrics.iter().map(|m| m.name()).collect::<Vec<_>>().join(", "),
                sampler.as_ref().map_or("the data themselves".to_owned(), Sampler::label)
            ),
        }
    }
}

/// Evaluations per sample that a plan supposes of an adaptive solver.
const ADAPTIVE_GUESS: u64 = 200;

fn heads(estimator: &Divergence) -> bool {
    matches!(estimator, Divergence::Learned(_))
}

/// Calls of a head per node; one that shares the velocity's calls costs none.
fn head_calls(model: &Model, estimator: &Divergence) -> u64 {
    u64::from(estimator.head().is_some_and(|head| !model.card.is_joint(head)))
}

/// What a trial costs, for all its samples together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    pub evaluations: u64,
    /// Jacobian products and head calls.
    pub products: u64,
    pub guessed: bool,
}

/// As tables print a solver.
pub fn solver_label(solver: &Solver) -> String {
    let default = Solver::from_name(solver.name()).unwrap_or_else(|| solver.clone());
    crate::registry::label(solver.name(), solver, &default)
}

/// A plan with the opened files behind it.
pub struct Prepared {
    pub plan: Plan,
    pub models: Vec<Model>,
    pub data: Vec<Dataset>,
    /// Files of extractors by their SHA-256.
    pub extractors: Vec<(PlannedFile, PathBuf)>,
}

impl Prepared {
    /// The grids of all samplers, each once per model.
    pub fn grids(&self) -> Vec<PlannedGrid> {
        let mut grids: Vec<PlannedGrid> = Vec::new();
        for trial in &self.plan.trials {
            let Work::Metrics { model, sampler: Some(sampler), .. } = &trial.work else { continue };
            let (name, label) = (self.plan.models[*model].name.clone(), sampler.label());
            if grids.iter().any(|g| g.model == name && g.sampler == label) {
                continue;
            }
            let points = sampler.grid(&Setting::of(&self.models[*model])).unwrap_or_default();
            let each = |of: fn(&Point) -> f64| points.iter().map(of).collect();
            let (t, alpha, sigma) = (each(|p| p.t), each(|p| p.alpha), each(|p| p.sigma));
            grids.push(PlannedGrid { model: name, sampler: label, t, alpha, sigma });
        }
        grids
    }

    /// What a trial costs; adaptive solvers are guessed.
    pub fn cost(&self, work: &Work) -> Cost {
        let path = |solver: &Solver, estimators: &[Divergence], model: usize, rows: usize| {
            let dim = self.models[model].dim();
            let nodes = solver.nodes().unwrap_or(ADAPTIVE_GUESS);
            let per_node = |e: &Divergence| e.products(dim) + head_calls(&self.models[model], e);
            let products: u64 = estimators.iter().map(per_node).sum();
            let once: u64 = estimators.iter().map(Divergence::products_once).sum();
            let extra: u64 = estimators.iter().map(Divergence::evaluations).sum();
            let own: u64 = estimators.iter().map(Divergence::own_evaluations).sum();
            let followed = estimators.iter().any(Divergence::takes_solver);
            let path = if followed { solver.evaluations().unwrap_or(ADAPTIVE_GUESS) + nodes * extra } else { 0 };
            Cost {
                evaluations: (path + own) * rows as u64,
                products: (nodes * products + once) * rows as u64,
                guessed: followed && solver.evaluations().is_none(),
            }
        };
        match work {
            Work::Likelihood(w) => path(&w.solver, &w.estimators, w.model, w.count * w.draws()),
            Work::Profile(w) => path(&w.solver, &w.estimators, w.model, w.count),
            Work::Budget(w) => {
                let solvers = [refine::coarser(&w.solver), refine::finer(&w.solver)].into_iter().flatten();
                // The run's own steps three times: as they are, and from states moved there and back.
                let solvers = solvers.chain(std::iter::repeat_n(w.solver.clone(), 3));
                let costs = solvers.map(|s| path(&s, &w.estimators, w.model, w.count));
                costs
                    .reduce(|a, b| Cost {
                        evaluations: a.evaluations + b.evaluations,
                        products: a.products + b.products,
                        guessed: a.guessed || b.guessed,
                    })
                    .expect("three and more")
            }
            Work::Density { model, solver, estimator, grid } => {
                path(solver, std::slice::from_ref(estimator), *model, grid.points * grid.points)
            }
            Work::Stein { model, stein, .. } => {
                let places = 2 * (stein.samples * stein.times) as u64;
                let apart = u64::from(!self.models[*model].card.is_joint(&stein.head));
                Cost { evaluations: places, products: places * apart, guessed: false }
            }
            Work::Sample { model, sampler, count, .. } => {
                let each = sampler.cost(&Setting::of(&self.models[*model]));
                let rows = *count as u64;
                Cost { evaluations: each.evaluations * rows, products: each.products * rows, guessed: each.guessed }
            }
            Work::Maps(w) => {
                let steps: u64 = w.steps.iter().map(|s| *s as u64).sum();
                let dim = self.models[w.model].dim() as u64;
                Cost {
                    evaluations: steps * (5 * w.samples as u64 + w.draws as u64),
                    products: steps * 3 * dim * w.samples as u64,
                    guessed: false,
                }
            }
            Work::Contrast(_) | Work::Metrics { .. } => Cost { evaluations: 0, products: 0, guessed: false },
        }
    }
}

/// Resolves a config: opens and checks every file it names, and lists the trials. Runs no network.
///
/// # Errors
/// One message that names the file or the key.
pub fn prepare(written: &Written, seed: Option<u64>) -> Result<Prepared> {
    let config = &written.config;
    let mut builder = Builder {
        written,
        dequantizations: Vec::new(),
        ids: BTreeSet::new(),
        prepared: Prepared {
            plan: Plan {
                format: FORMAT,
                name: config.name.clone(),
                seed: seed.unwrap_or(config.seed),
                models: Vec::new(),
                data: Vec::new(),
                trials: Vec::new(),
            },
            models: Vec::new(),
            data: Vec::new(),
            extractors: Vec::new(),
        },
    };
    for (i, entry) in config.likelihood.iter().enumerate() {
        builder.likelihood(entry).with_context(|| format!("likelihood.{i}"))?;
    }
    for (i, entry) in config.samples.iter().enumerate() {
        builder.samples(entry).with_context(|| format!("samples.{i}"))?;
    }
    for (i, entry) in config.maps.iter().enumerate() {
        builder.maps(entry).with_context(|| format!("maps.{i}"))?;
    }
    check_references(&builder.prepared.plan)?;
    Ok(builder.prepared)
}

/// Refuses a reference that no entry measures.
fn check_references(plan: &Plan) -> Result<()> {
    let likelihoods =
        || plan.trials.iter().filter_map(|t| if let Work::Likelihood(w) = &t.work { Some(w) } else { None });
    for work in likelihoods() {
        let Some(Against { estimator, solver }) = &work.against else { continue };
        let measured = |w: &LikelihoodWork| {
            (w.model, w.data, &w.solver) == (work.model, work.data, solver) && w.estimators.contains(estimator)
        };
        if !likelihoods().any(measured) {
            bail!(
                "reference_solver: `{}` with {} is not measured on {} for {}; add it under `solvers` and `estimators`",
                estimator.label(),
                solver_label(solver),
                plan.data[work.data].name,
                plan.models[work.model].name
            );
        }
    }
    Ok(())
}

struct Builder<'a> {
    written: &'a Written,
    /// Of the data so far.
    dequantizations: Vec<Option<Dequantization>>,
    /// Of the trials so far.
    ids: BTreeSet<String>,
    prepared: Prepared,
}

impl Builder<'_> {
    fn likelihood(&mut self, entry: &LikelihoodEntry) -> Result<()> {
        let config = &self.written.config;
        let model = self.model(&entry.model)?;
        let dequantization = entry.dequantization.as_ref();
        let data = self.data(&entry.data, model, dequantization)?;
        let opened = &self.prepared.models[model];
        self.prepared.data[data].off_lattice(&opened.card, entry.lattice)?;
        let written = entry.estimators.as_ref().unwrap_or(&config.estimators).iter();
        let estimators: Vec<Divergence> = written.map(|e| resolved(opened, e.clone())).collect();
        let wanted = entry.reference.as_ref().or(config.reference.as_ref());
        let wanted = wanted.map_or_else(|| estimators[0].clone(), |w| resolved(opened, w.clone()));
        let elsewhere = entry.reference_solver.as_ref().or(config.reference_solver.as_ref());
        let reference = match (estimators.iter().position(|e| *e == wanted), elsewhere) {
            (Some(place), _) => place,
            // It stands under its own solver, in whichever entry: `check_references`.
            (None, Some(_)) => 0,
            (None, None) => bail!("reference: `{}` is not among the estimators of this entry", wanted.label()),
        };
        let elsewhere = elsewhere.cloned();
        self.check_estimators(model, &estimators)?;
        if let Some(dequantization) = dequantization {
            dequantization.check(&estimators).map_err(|e| anyhow!("dequantization: {e}"))?;
        }
        let solvers = entry.solvers.as_ref().unwrap_or(&config.solvers).clone();
        self.check_overlap(model, data, &solvers, &estimators)?;
        let available = self.prepared.data[data].len();
        let count = entry.samples.unwrap_or(available);
        if count > available {
            bail!("samples: {count}, but {} has only {available}", entry.data.display());
        }
        for (place, solver) in solvers.into_iter().enumerate() {
            // What takes no solver stands beside the first one's rows, once.
            let here: Vec<Divergence> = estimators.iter().filter(|e| place == 0 || e.takes_solver()).cloned().collect();
            let Some(reference) =
                here.iter().position(|e| *e == estimators[reference]).or((!here.is_empty()).then_some(0))
            else {
                continue;
            };
            let against = (elsewhere.as_ref().filter(|s| **s != solver))
                .map(|s| Against { estimator: wanted.clone(), solver: s.clone() });
            let curve = &self.prepared.models[model].curve;
            solver.check(Span { curve, to_prior: true }).map_err(|e| anyhow!("{}: {e}", solver.name()))?;
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
            };
            for first in (0..count).step_by(config.chunk) {
                self.push(Work::Likelihood(work(first, config.chunk.min(count - first))))?;
            }
            if entry.profile > 0 && here.iter().any(Divergence::takes_solver) {
                self.push(Work::Profile(work(0, entry.profile.min(count))))?;
            }
            if let Some(budget) = &entry.budget {
                self.push(Work::Budget(work(0, budget.samples.min(count))))?;
            }
        }
        for stein in &entry.stein {
            stein.check().map_err(|e| anyhow!(e))?;
            let head = Divergence::Learned(Learned { head: stein.head.clone() });
            supports(&self.prepared.models[model], &head).context("stein")?;
            if stein.score == Score::Model && self.prepared.models[model].card.closed_form.is_none() {
                bail!("stein: score: model needs an exact model, a card with a `closed_form`; expected score: noise");
            }
            self.push(Work::Stein { model, data, stein: stein.clone() })?;
        }
        let Some(grid) = &entry.density else { return Ok(()) };
        if self.prepared.models[model].dim() != 2 {
            bail!(
                "density: the model has {} dimensions; a density over the plane needs 2",
                self.prepared.models[model].dim()
            );
        }
        let solver = entry.solvers.as_ref().unwrap_or(&config.solvers)[0].clone();
        let learned = estimators.iter().find(|e| heads(e));
        let few = estimators.iter().filter(|e| !e.takes_solver()).max_by_key(|e| e.own_evaluations());
        for estimator in [Some(&estimators[reference]), learned, few].into_iter().flatten() {
            let work =
                Work::Density { model, solver: solver.clone(), estimator: estimator.clone(), grid: grid.clone() };
            if !self.prepared.plan.trials.iter().any(|t| t.work == work) {
                self.push(work)?;
            }
        }
        Ok(())
    }

    fn check_estimators(&self, model: usize, estimators: &[Divergence]) -> Result<()> {
        let mut labels = BTreeSet::new();
        for estimator in estimators {
            supports(&self.prepared.models[model], estimator)?;
            if !labels.insert(estimator.label()) {
                bail!("estimators: `{}` is there twice", estimator.label());
            }
        }
        Ok(())
    }

    /// Two entries that put one estimator on the same data would count their samples twice in every mean.
    fn check_overlap(&self, model: usize, data: usize, solvers: &[Solver], estimators: &[Divergence]) -> Result<()> {
        for trial in &self.prepared.plan.trials {
            let Work::Likelihood(there) = &trial.work else { continue };
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

    fn maps(&mut self, entry: &MapsEntry) -> Result<()> {
        let model = self.model(&entry.model)?;
        let data = self.data(&entry.data, model, None)?;
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
            bail!("draws: the map goes to the data alone, so that it gives no density at a point; expected 0");
        }
        let available = self.prepared.data[data].len();
        if entry.samples > available {
            bail!("samples: {}, but {} has only {available}", entry.samples, entry.data.display());
        }
        let MapsEntry { map, steps, grid, samples, draws, .. } = entry.clone();
        self.push(Work::Maps(MapWork { model, data, map, steps, grid, samples, draws })).map(drop)
    }

    fn samples(&mut self, entry: &SamplesEntry) -> Result<()> {
        let model = self.model(&entry.model)?;
        let reference = self.data(&entry.reference, model, None)?;
        let floor = entry.floor.as_ref().map(|f| self.data(f, model, None)).transpose()?;
        let extractor = entry.extractor.as_ref().map(|f| self.extractor(f)).transpose()?;
        let most = most_samples(self.prepared.models[model].dim());
        if entry.count > most {
            bail!("count: {}, expected at most {most}", entry.count);
        }
        let noise = entry.noise.as_ref().map(|f| self.noise(f, model, entry.count)).transpose()?;
        let available = self.prepared.data[reference].len();
        for metric in &entry.metrics {
            metric.check(entry.count, available).map_err(|e| anyhow!("metrics: {e}"))?;
        }
        if let Some(baseline) = entry.baseline.as_ref().filter(|b| !entry.samplers.contains(b)) {
            bail!("baseline: `{}` is not among the samplers of this entry", baseline.label());
        }
        let mut drawn: Vec<(Sampler, Vec<String>)> = Vec::new();
        for sampler in &entry.samplers {
            let on = Setting::of(&self.prepared.models[model]);
            sampler.check(&on).map_err(|e| anyhow!("samplers: {}: {e}", sampler.name()))?;
            supports_sampler(&self.prepared.models[model], sampler).context("samplers")?;
            // A statistic of a population needs all of it: a trial holds whole ones.
            let chunk = self.written.config.chunk;
            let chunk = chunk.checked_next_multiple_of(sampler.population().unwrap_or(1)).unwrap_or(chunk);
            let mut parts = Vec::new();
            for first in (0..entry.count).step_by(chunk) {
                let count = chunk.min(entry.count - first);
                parts.push(self.push(Work::Sample { model, sampler: sampler.clone(), noise, first, count })?);
            }
            drawn.push((sampler.clone(), parts.clone()));
            let (metrics, extractor) = (entry.metrics.clone(), extractor.clone());
            self.push(Work::Metrics {
                model,
                sampler: Some(sampler.clone()),
                parts,
                floor: None,
                reference,
                extractor,
                metrics,
            })?;
        }
        let baseline = entry.baseline.as_ref().and_then(|b| drawn.iter().find(|(sampler, _)| sampler == b));
        if let Some((baseline, baseline_parts)) = baseline {
            for (sampler, parts) in drawn.iter().filter(|(sampler, _)| sampler != baseline) {
                self.push(Work::Contrast(ContrastWork {
                    model,
                    sampler: sampler.clone(),
                    baseline: baseline.clone(),
                    parts: parts.clone(),
                    baseline_parts: baseline_parts.clone(),
                    reference,
                    extractor: extractor.clone(),
                    metrics: entry.metrics.clone(),
                }))?;
            }
        }
        if floor.is_some() {
            let metrics = entry.metrics.clone();
            self.push(Work::Metrics { model, sampler: None, parts: Vec::new(), floor, reference, extractor, metrics })?;
        }
        Ok(())
    }

    /// Adds a trial; the same work twice is an error of the config.
    fn push(&mut self, work: Work) -> Result<String> {
        let plan = &self.prepared.plan;
        let model = &plan.models[work.model()];
        let data = |i: &usize| plan.data[*i].sha256.clone();
        let touched: Vec<String> = match &work {
            Work::Likelihood(w) | Work::Profile(w) | Work::Budget(w) => vec![data(&w.data)],
            Work::Maps(w) => vec![data(&w.data)],
            Work::Contrast(w) => vec![data(&w.reference)],
            Work::Stein { data: i, .. } => vec![data(i)],
            Work::Metrics { reference, floor, .. } => floor.iter().chain([reference]).map(data).collect(),
            Work::Sample { noise, .. } => noise.iter().map(data).collect(),
            _ => Vec::new(),
        };
        // Positions in the plan are left out: the id is of what is done, not of where it stands.
        let mut content = serde_json::to_value(&work)?;
        for body in content.as_object_mut().into_iter().flat_map(|o| o.values_mut()) {
            if let Some(body) = body.as_object_mut() {
                ["model", "data", "reference_data", "noise"].iter().for_each(|k| drop(body.remove(*k)));
            }
        }
        let text = serde_json::to_string(&(FORMAT, plan.seed, &model.card_sha256, &model.files, touched, content))?;
        let id = hex(&Sha256::digest(text.as_bytes()))[..12].to_owned();
        if !self.ids.insert(id.clone()) {
            bail!("the same work is asked for twice: {}", work.describe(plan));
        }
        self.prepared.plan.trials.push(Trial { id: id.clone(), work });
        Ok(id)
    }

    fn model(&mut self, path: &Path) -> Result<usize> {
        let path = self.written.resolve(path);
        if let Some(i) = self.prepared.models.iter().position(|m| same_file(&m.path, &path)) {
            return Ok(i);
        }
        let model = Model::open(&path)?;
        if let Some(other) = self.prepared.models.iter().find(|m| m.card.name == model.card.name) {
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

    fn data(&mut self, path: &Path, model: usize, dequantization: Option<&Dequantization>) -> Result<usize> {
        let path = self.written.resolve(path);
        let known = self.prepared.data.iter().zip(&self.prepared.plan.data).zip(&self.dequantizations);
        let same = |((d, p), q): ((&Dataset, &PlannedData), &Option<Dequantization>)| {
            same_file(Path::new(&d.name), &path) && p.model == model && q.as_ref() == dequantization
        };
        if let Some(i) = known.into_iter().position(same) {
            return Ok(i);
        }
        let data = Dataset::read(&path)?;
        let card = &self.prepared.models[model].card;
        data.fits(card)?;
        let mut treatment = data.treatment(card);
        let mut short = short_name(&path);
        if let Some(dequantization) = dequantization {
            data.dequantizable(card)?;
            // Bounds of two kinds are never rows of one dataset.
            short = format!("{short} {}", dequantization.suffix());
            treatment =
                format!("{treatment}, {} draws each, combined as {}", dequantization.draws(), dequantization.bound());
        }
        self.dequantizations.push(dequantization.cloned());
        Ok(self.keep(data, short, model, treatment))
    }

    /// Initial states for `count` samples.
    fn noise(&mut self, path: &Path, model: usize, count: usize) -> Result<usize> {
        let path = self.written.resolve(path);
        let data = Dataset::read(&path)?;
        let states = initial_states(&data, &self.prepared.models[model])?;
        if states.nrows() < count {
            bail!("noise: {} holds {} states, but count is {count}", data.name, states.nrows());
        }
        self.dequantizations.push(None);
        Ok(self.keep(data, short_name(&path), model, "states at the prior end, taken as they are".to_owned()))
    }

    fn keep(&mut self, data: Dataset, short: String, model: usize, treatment: String) -> usize {
        // Two files of one name would share a row in every table.
        let taken = |n: &str| self.prepared.plan.data.iter().any(|d| d.name == n && d.model == model);
        let unique = (1..).map(|i| if i == 1 { short.clone() } else { format!("{short} ({i})") }).find(|n| !taken(n));
        self.prepared.plan.data.push(PlannedData {
            name: unique.unwrap_or(short),
            sha256: data.sha256.clone(),
            model,
            samples: data.len(),
            treatment,
        });
        self.prepared.data.push(data);
        self.prepared.data.len() - 1
    }

    fn extractor(&mut self, path: &Path) -> Result<PlannedFile> {
        let path = if preset::built_in(path) { path.to_owned() } else { self.written.resolve(path) };
        let named = Named::find(&path)?;
        let mut hash = Sha256::digest(
            std::fs::read(&named.onnx)
                .with_context(|| format!("{}: the extractor cannot be read", named.onnx.display()))?,
        );
        if let Some(preset) = &named.preset {
            // Two presets of one network are two extractors.
            hash = Sha256::digest([&hash[..], &serde_json::to_vec(preset)?].concat());
        }
        let name = inert(&path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default());
        let file = PlannedFile { name, sha256: hex(&hash) };
        self.prepared.extractors.push((file.clone(), path));
        Ok(file)
    }
}

/// States at the prior end from a file, taken as they are.
///
/// # Errors
/// Where they are not of the model's shape.
pub fn initial_states(noise: &Dataset, model: &Model) -> Result<Batch> {
    let rows = noise.rows(noise.len());
    if rows.ncols() != model.dim() {
        bail!(
            "{}: states have {} numbers each, but the card `{}` has shape {:?}",
            noise.name,
            rows.ncols(),
            model.card.name,
            model.card.shape
        );
    }
    Ok(rows)
}

/// Samples of `dim` numbers that fit one array in memory.
pub fn most_samples(dim: usize) -> usize {
    (1 << 30) / dim.max(1)
}

/// Whether two paths lead to the same name in the same folder, however they are spelled.
fn same_file(a: &Path, b: &Path) -> bool {
    let folder = |p: &Path| if p.as_os_str().is_empty() { Path::new(".").canonicalize() } else { p.canonicalize() };
    let place = |p: &Path| Some((folder(p.parent()?).ok()?, p.file_name()?.to_owned()));
    a == b || place(a).is_some_and(|a| place(b) == Some(a))
}

/// A file's name without its folders, as tables and pages show it.
fn short_name(path: &Path) -> String {
    inert(&path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned()))
}

/// A file's name as tables and pages show it: one that would be live there loses what makes it so.
fn inert(name: &str) -> String {
    let harmless = |c: char| if c.is_alphanumeric() || " _-.,()[]+:".contains(c) { c } else { '_' };
    let kept: String = name.chars().map(harmless).collect();
    match kept.chars().next() {
        Some(c) if c.is_alphanumeric() || c == '_' => kept,
        _ => format!("_{kept}"),
    }
}

/// Refuses an estimator that the model does not offer.
///
/// # Errors
/// A message with the card and what it lacks.
pub fn supports(model: &Model, estimator: &Divergence) -> Result<()> {
    estimator.check(model.dim()).map_err(|e| anyhow!(e))?;
    let unknown = |head: &&str| !model.card.divergence_heads.contains_key(*head);
    match estimator {
        _ if estimator.head().filter(unknown).is_some() => {
            let known: Vec<&str> = model.card.divergence_heads.keys().map(String::as_str).collect();
            let has = if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
            let head = estimator.head().unwrap_or_default();
            Err(anyhow!("{}: the card has no divergence head `{head}`; {has}", model.path.display()))
        }
        Divergence::FlowMap(few) => {
            let spec = model.map_spec(&few.map)?;
            let at = || format!("{}: flow_maps.{}", model.path.display(), few.map);
            spec.gives_likelihood(few.rule.unwrap_or(spec.rule())).map_err(|e| anyhow!("{}: {e}", at()))?;
            few.times(&model.curve).map(drop).map_err(|e| anyhow!("flow-map: {e}"))
        }
        Divergence::ClosedForm(_) if model.card.closed_form.is_none() => {
            Err(anyhow!("{}: the card has no `closed_form`", model.path.display()))
        }
        _ => Ok(()),
    }
}

/// Refuses a sampler that the model does not offer.
///
/// # Errors
/// A message with the card and what it lacks.
pub fn supports_sampler(model: &Model, sampler: &Sampler) -> Result<()> {
    let Some(used) = sampler.map() else { return Ok(()) };
    let spec = model.map_spec(used.name)?;
    let at = |e: String| anyhow!("{}: flow_maps.{}: {e}", model.path.display(), used.name);
    spec.gives_samples().map_err(at)?;
    if used.density || used.gradient {
        spec.gives_divergence().map_err(at)?;
    }
    Ok(())
}

/// An estimator with what it takes from the card made visible: the rule of its flow map, where it is not the standard
/// one; no products with the transpose, where the network's reverse mode is refused.
pub fn resolved(model: &Model, estimator: Divergence) -> Divergence {
    match estimator {
        Divergence::FlowMap(mut few) => {
            let card = model.map_spec(&few.map).map(|spec| spec.rule()).unwrap_or_default();
            few.rule = Some(few.rule.unwrap_or(card)).filter(|rule| [*rule, card] != [Rule::TwoTime; 2]);
            Divergence::FlowMap(few)
        }
        Divergence::Trace(Estimator::NaHutchPlusPlus(mut na)) => {
            na.transposed = na.transposed && model.irreversible().is_none();
            Divergence::Trace(Estimator::NaHutchPlusPlus(na))
        }
        other => other,
    }
}

fn planned(model: &Model) -> Result<PlannedModel> {
    let card = &model.card;
    Ok(PlannedModel {
        name: card.name.clone(),
        card_sha256: hex(&Sha256::digest(serde_json::to_string(card)?.as_bytes())),
        files: model
            .files
            .iter()
            .map(|f| PlannedFile { name: f.name.display().to_string(), sha256: f.sha256.clone() })
            .collect(),
        shape: card.shape.clone(),
        path: serde_json::to_value(&card.path)?,
        prediction: serde_json::to_value(card.network.prediction)?.as_str().unwrap_or_default().to_owned(),
        prior_std: model.prior.std,
        truncation: Truncation::new(&model.curve, model.prior).sentence(),
        parameters: model.parameters()?,
        range: card.data.map(|d| d.range),
        levels: card.data.and_then(|d| d.levels),
        provenance: serde_json::to_value(&card.provenance)?,
    })
}

/// Keys in which two plans differ, as `key: ours ≠ theirs`; empty where they are the same work.
pub fn differences(ours: &Plan, theirs: &Plan) -> Vec<String> {
    let mut found = Vec::new();
    let (a, b) = (serde_json::to_value(ours), serde_json::to_value(theirs));
    if let (Ok(a), Ok(b)) = (a, b) {
        compare("", &a, &b, &mut found);
    }
    found
}

fn compare(at: &str, a: &serde_json::Value, b: &serde_json::Value, found: &mut Vec<String>) {
    use serde_json::Value;
    let below = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for key in x.keys().chain(y.keys().filter(|k| !x.contains_key(*k))) {
                compare(
                    &below(key),
                    &x.get(key).cloned().unwrap_or_default(),
                    &y.get(key).cloned().unwrap_or_default(),
                    found,
                );
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).enumerate().for_each(|(i, (x, y))| compare(&below(&i.to_string()), x, y, found));
        }
        (Value::Array(x), Value::Array(y)) => found.push(format!("{at}: {} entries, there {}", x.len(), y.len())),
        _ if a != b => found.push(format!("{at}: {a}, there {b}")),
        _ => {}
    }
}
