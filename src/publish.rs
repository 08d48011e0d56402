//! Writes the derived files of run directories: tables, plots and pages. All of them are rebuilt
//! from the journal.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use self::labelled_run::LabelledRun;
use crate::journal::{self, Journal, Outcome, RunDirectory, outstanding_trials, read_plan};
use crate::output::{check_output_folder, remove_abandoned_files, write_atomic};
use crate::plan::{Plan, PlanFile, PlannedModel};
use crate::progress::format_duration;
use crate::report::{self, DataFacts, Facts, ModelFacts};
use crate::rows::Tables;
use crate::table;

mod across_runs;
mod labelled_run;
mod side_by_side;

/// The tables of a run, and the number of trials that are missing from them.
pub(crate) struct RunResults {
    /// The run's name. If there are several runs, their names, separated by commas.
    pub name: String,
    /// The run's seed; see [`Facts::seed`].
    pub seed: String,
    pub tables: Tables,
    /// The number of finished trials.
    pub finished_trials: usize,
    /// The number of failed trials.
    pub failed_trials: usize,
    /// The number of trials that have neither finished nor failed.
    pub outstanding_trials: usize,
}

impl RunResults {
    /// The results of the tables and facts of a report.
    fn new(tables: Tables, facts: &Facts) -> RunResults {
        RunResults {
            name: facts.name.clone(),
            seed: facts.seed.clone(),
            tables,
            finished_trials: facts.trials_finished,
            failed_trials: facts.trials_failed.len(),
            outstanding_trials: facts.trials_outstanding,
        }
    }

    /// The number of samples without a log-likelihood, added up over all estimators, and of ranks that
    /// are missing.
    pub(crate) fn failed_rows(&self) -> usize {
        let unranked = self.tables.ranks.iter().filter(|row| row.rank.is_none());
        let failed: usize = self.tables.summary.iter().map(|s| s.failed).sum();
        failed + unranked.count()
    }
}

/// The tables of runs, side by side if there are several. Nothing is written.
///
/// # Errors
/// Fails if a directory is not a run's directory, or if one of its files was changed or removed.
pub(crate) fn read_results(dirs: &[PathBuf]) -> Result<RunResults> {
    let (tables, facts) = read_tables_and_facts(dirs)?;
    Ok(RunResults::new(tables, &facts))
}

/// The tables and the facts of runs, side by side if there are several. Nothing is written.
///
/// # Errors
/// Fails if a directory is not a run's directory, or if one of its files was changed or removed.
pub(crate) fn read_tables_and_facts(dirs: &[PathBuf]) -> Result<(Tables, Facts)> {
    let mut runs = CombinedRun::read(dirs.to_vec())?
        .iter()
        .map(CombinedRun::labelled)
        .collect::<Result<Vec<LabelledRun>>>()?;
    Ok(match runs.len() {
        1 => runs.remove(0).into_tables_and_facts(),
        _ => side_by_side::join_runs(runs),
    })
}

/// Rebuilds the tables, plots and page of one run directory from its journal. This needs no ONNX
/// Runtime.
///
/// # Errors
/// Fails if the directory is not a run's directory, if one of its files was changed or removed, or
/// if a file cannot be written. The message names the file.
pub(crate) fn publish_run(dir: &Path) -> Result<RunResults> {
    let run = CombinedRun::read(vec![dir.to_owned()])?.remove(0);
    let (tables, facts) = run.tables_and_facts()?;
    write_report(dir, &tables, &facts)?;
    Ok(RunResults::new(tables, &facts))
}

/// A report that was written.
pub(crate) struct PublishedReport {
    /// The folders that it was written to: several for the shards of one run.
    pub folders: Vec<PathBuf>,
    pub results: RunResults,
}

/// Rebuilds the reports of several run directories, and returns what was written.
///
/// The shards of one run get one common report, which is written to each of their directories.
/// Different runs get one report each. With `out`, a single page that covers all runs is written to
/// that folder instead.
///
/// # Errors
/// Fails if [`publish_run`] would fail for one of the directories. With `out`, it also fails if
/// that folder belongs to another run or contains a page that flowgauge did not write.
pub(crate) fn publish_runs(dirs: &[PathBuf], out: Option<&Path>) -> Result<Vec<PublishedReport>> {
    let runs = CombinedRun::read(dirs.to_vec())?;
    let Some(out) = out else {
        let mut written = Vec::new();
        for run in &runs {
            let (tables, facts) = run.tables_and_facts()?;
            for part in &run.directories {
                write_report(&part.dir, &tables, &facts)?;
            }
            let folders = run.directories.iter().map(|part| part.dir.clone());
            written.push(PublishedReport {
                folders: folders.collect(),
                results: RunResults::new(tables, &facts),
            });
        }
        return Ok(written);
    };
    check_output_folder(out)?;
    check_report_folder(out, &runs)?;
    let (tables, facts) = read_tables_and_facts(dirs)?;
    write_report(out, &tables, &facts)?;
    Ok(vec![PublishedReport {
        folders: vec![out.to_owned()],
        results: RunResults::new(tables, &facts),
    }])
}

/// Refuses an output folder that is another run's directory, or whose `index.html` was not written
/// by flowgauge.
///
/// # Errors
/// Fails if the folder is refused.
fn check_report_folder(out: &Path, runs: &[CombinedRun]) -> Result<()> {
    let own = |part: &RunDirectory| same_file::is_same_file(&part.dir, out).unwrap_or(false);
    let is_own_directory = runs.len() == 1 && runs[0].directories.iter().any(own);
    if out.join("plan.json").exists() && !is_own_directory {
        bail!(
            "--out {}: it is a run's directory, which has a report of its own; \
             expected another folder",
            out.display()
        );
    }
    // A page that flowgauge did not write must not be overwritten.
    let page = out.join("index.html");
    let ours = |text: String| text.contains("name=\"generator\" content=\"flowgauge\"");
    if page.exists() && !std::fs::read_to_string(&page).is_ok_and(ours) {
        bail!(
            "--out {}: flowgauge did not write its index.html and does not overwrite it; \
             expected another folder",
            out.display()
        );
    }
    Ok(())
}

/// Writes the tables, plots and page to a folder, where nothing is left of what killed processes
/// began to write.
fn write_report(dir: &Path, tables: &Tables, facts: &Facts) -> Result<()> {
    remove_abandoned_files(dir);
    for folder in ["tables", "plots", "rows", "arrays", "claims", "workers"] {
        remove_abandoned_files(&dir.join(folder));
    }
    table::write_tables(dir, tables)?;
    let report = report::build_report(tables, facts)?;
    for figure in &report.figures {
        write_atomic(
            &dir.join("plots").join(format!("{}.svg", figure.name)),
            figure.svg.as_bytes(),
        )?;
        write_atomic(
            &dir.join("plots").join(format!("{}.png", figure.name)),
            &figure.png,
        )?;
        write_atomic(
            &dir.join("plots").join(format!("{}.csv", figure.name)),
            figure.data.as_bytes(),
        )?;
    }
    write_atomic(&dir.join("index.html"), report.html.as_bytes()).map(drop)
}

/// One run with the directories that contain it: its own directory, or those of its shards.
struct CombinedRun {
    /// The `plan.json` of each directory. Their plans are equal.
    plan_files: Vec<PlanFile>,
    directories: Vec<RunDirectory>,
}

impl CombinedRun {
    /// Reads the directories and groups them by plan, in the order in which the plans first appear.
    ///
    /// # Errors
    /// Fails if a directory is not a run's directory, or if one of its files was changed or
    /// removed.
    fn read(dirs: Vec<PathBuf>) -> Result<Vec<CombinedRun>> {
        let mut runs: Vec<CombinedRun> = Vec::new();
        for dir in dirs {
            let file = read_plan(&dir)?;
            let journal = Journal::read(&dir)?;
            let damaged = journal::corrupted_trials(&dir, &file.plan, &journal);
            if let Some((_, reason)) = damaged.first() {
                bail!(
                    "{}: {reason} ({} damaged files in all); `flowgauge run` with the same config \
                     computes them again",
                    dir.display(),
                    damaged.len()
                );
            }
            let part = RunDirectory { dir, journal };
            match runs.iter_mut().find(|r| r.plan_files[0].plan == file.plan) {
                Some(run) => {
                    run.plan_files.push(file);
                    run.directories.push(part);
                }
                None => runs.push(CombinedRun {
                    plan_files: vec![file],
                    directories: vec![part],
                }),
            }
        }
        Ok(runs)
    }

    /// The tables and facts of the run, with its name as its label.
    fn labelled(&self) -> Result<LabelledRun> {
        let (tables, facts) = self.tables_and_facts()?;
        Ok(LabelledRun {
            label: facts.name.clone(),
            tables,
            facts,
        })
    }

    /// The tables and the facts of the run.
    ///
    /// # Errors
    /// Fails if a file of the run cannot be read.
    fn tables_and_facts(&self) -> Result<(Tables, Facts)> {
        let plan = &self.plan_files[0].plan;
        let tables = table::load_tables(plan, &self.directories)?;
        let mut journal = Journal::default();
        self.directories
            .iter()
            .for_each(|p| journal.merge(p.journal.clone()));
        let config = std::fs::read_to_string(self.directories[0].dir.join("config.yaml"))
            .unwrap_or_default();
        Ok((
            tables,
            run_facts(plan, &self.environment(), &journal, config),
        ))
    }

    /// The environment that each directory was started in. Different values of one key are
    /// separated by ` | `.
    fn environment(&self) -> Vec<(String, String)> {
        let mut all = self.plan_files[0].environment.clone();
        for (key, value) in self.plan_files[1..].iter().flat_map(|f| &f.environment) {
            match all.iter_mut().find(|(k, _)| k == key) {
                Some((_, known)) if known.split(" | ").any(|v| v == value) => {}
                Some((_, known)) => *known += &format!(" | {value}"),
                None => all.push((key.clone(), value.clone())),
            }
        }
        for (file, part) in self.plan_files.iter().zip(&self.directories) {
            if let Some(changed) = journal::config_change_warning(&part.dir, file) {
                errln!("flowgauge: {}: {changed}", part.dir.display());
                all.push(("config".to_owned(), changed.to_owned()));
            }
        }
        if self.directories.len() > 1 {
            all.push(("directories".to_owned(), self.directories.len().to_string()));
        }
        all
    }
}

/// The facts of one run for its page.
fn run_facts(
    plan: &Plan,
    environment: &[(String, String)],
    journal: &Journal,
    config: String,
) -> Facts {
    let failed = |id: &str| match journal.outcomes.get(id) {
        Some(Outcome::Failed { error, .. }) => Some(error.clone()),
        _ => None,
    };
    let mut environment = environment.to_vec();
    let under = journal.runtime_fingerprints();
    if under.len() > 1 {
        let each: Vec<String> = under
            .iter()
            .map(|(what, trials)| format!("{trials} trials: {what}"))
            .collect();
        environment.push(("run under".to_owned(), each.join(" | ")));
    }
    if !journal.repeats.is_empty() {
        let trials = journal.repeats.len();
        environment.push((
            "done twice".to_owned(),
            format!(
                "{trials} trials, by processes that took each other for dead; each counts once"
            ),
        ));
    }
    environment.push((
        "measuring took".to_owned(),
        format_duration(journal.seconds),
    ));
    Facts {
        name: plan.name.clone(),
        seed: plan.seed.to_string(),
        models: plan.models.iter().map(model_facts).collect(),
        data: plan
            .data
            .iter()
            .map(|d| DataFacts {
                model: plan.models[d.model].name.clone(),
                file: d.name.clone(),
                sha256: d.sha256.clone(),
                samples: d.samples,
                preprocessing: [std::slice::from_ref(&d.treatment), &d.notes[..]]
                    .concat()
                    .join("; "),
            })
            .collect(),
        trials_finished: journal
            .outcomes
            .values()
            .filter(|o| matches!(o, Outcome::Finished { .. }))
            .count(),
        trials_failed: plan
            .trials
            .iter()
            .filter_map(|t| Some((t.work.describe(plan), failed(&t.id)?)))
            .collect(),
        trials_outstanding: outstanding_trials(plan, journal, false).len(),
        environment,
        config,
    }
}

/// The facts of one model for the page.
fn model_facts(m: &PlannedModel) -> ModelFacts {
    let pairs = |value: &serde_json::Value, skip: &str| -> Vec<(String, String)> {
        let text = |v: &serde_json::Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let map = value.as_object().into_iter().flatten();
        map.filter(|(k, _)| *k != skip)
            .map(|(k, v)| (k.clone(), text(v)))
            .collect()
    };
    let kind = m
        .path
        .get("kind")
        .and_then(|k| k.as_str())
        .unwrap_or_default();
    let parameters: Vec<String> = pairs(&m.path, "kind")
        .iter()
        .map(|(k, v)| format!("{k}: {v}"))
        .collect();
    let convention = match (m.range, m.levels) {
        (Some([low, high]), Some(levels)) => format!(
            "bits/dim = nats/dim / ln 2 + log2({levels} / ({high} − ({low}))) \
             = nats/dim / ln 2 + {:.4}: \
             bits per dimension of data with {levels} levels after uniform dequantization, \
             an upper bound on the discrete code length",
            (f64::from(levels) / (high - low)).log2()
        ),
        _ => "no bits/dim: the data are not quantized, so only nats and nats/dim are given"
            .to_owned(),
    };
    ModelFacts {
        name: m.name.clone(),
        dim: m.shape.iter().product(),
        path: format!("{kind} {{{}}}", parameters.join(", ")),
        prediction: match m.precision {
            Some(precision) => format!("{}, computed in {}", m.prediction, precision.name()),
            None => m.prediction.clone(),
        },
        prior: format!("N(0, {}² I)", m.prior_std),
        truncation: m.truncation.clone(),
        parameters: m.parameters,
        extra_inputs: m.constants.iter().chain(&m.times).cloned().collect(),
        files: m
            .files
            .iter()
            .map(|f| (f.name.clone(), f.sha256.clone()))
            .collect(),
        convention,
        provenance: pairs(&m.provenance, ""),
    }
}
