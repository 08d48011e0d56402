//! Journal and rows to tidy tables: pure functions of a run directory.
//!
//! What the rows of one kind of work become stands in the file of that kind. Tables that are
//! computed from the rows of many trials have files of their own: summaries and pairs, conventions,
//! gaps.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use crate::budget;
use crate::frontier::{self, AveragingCounts};
use crate::journal::{Outcome, RunDirectory, row_file, step_file};
use crate::plan::{Plan, Trial, with_work_kind};
use crate::rows::{LikelihoodRow, RefinedRow, StepRow, Tables};

mod bound_profile;
mod budget_rows;
mod by_condition;
mod calibration;
mod contrast;
mod conventions;
mod density;
mod gaps;
mod likelihood;
mod maps;
mod mass;
mod metrics;
mod profile;
mod reweight;
mod sample;
mod stein;
mod summary;

/// The rows of all finished trials of a run.
#[derive(Default)]
struct CollectedRows {
    /// The tables that need no more than the rows of their trials.
    tables: Tables,
    likelihoods: Vec<LikelihoodRow>,
    /// The labels of the reference estimator and of its solver, by the id of the trial.
    references: BTreeMap<String, [String; 2]>,
    refined: Vec<RefinedRow>,
    /// What each estimator averages over, and how many of them.
    averaging: AveragingCounts,
    sampling_costs: sample::SamplingCosts,
    /// The tests behind the ranks of calibration.
    calibration_tests: calibration::TestsByLabel,
    /// The trajectory of a solver or of a few-step estimator, by its label.
    trajectories: BTreeMap<String, Option<String>>,
}

/// The files of a finished trial.
struct TrialFiles<'a> {
    plan: &'a Plan,
    trial: &'a Trial,
    dir: &'a Path,
    outcome: Option<&'a Outcome>,
}

impl TrialFiles<'_> {
    /// The rows of the trial.
    fn rows<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        read_csv_rows(&row_file(self.dir, &self.trial.id))
    }

    /// The steps of the trial's sampler, none if it keeps no log of them.
    fn steps(&self) -> Result<Vec<StepRow>> {
        match self.outcome {
            Some(Outcome::Finished {
                steps_sha256: Some(_),
                ..
            }) => read_csv_rows(&step_file(self.dir, &self.trial.id)),
            _ => Ok(Vec::new()),
        }
    }
}

/// What the rows of one kind of work become.
trait TabulateWork {
    /// Adds the rows of a finished trial.
    ///
    /// # Errors
    /// Fails with the name of the file that cannot be read.
    fn add_rows(&self, files: &TrialFiles, collected: &mut CollectedRows) -> Result<()>;
}

/// The tables of a run's finished trials, in one directory or in those of its shards.
///
/// # Errors
/// Fails with the name of the file that cannot be read.
pub(crate) fn load_tables(plan: &Plan, directories: &[RunDirectory]) -> Result<Tables> {
    let mut collected = CollectedRows::default();
    for trial in &plan.trials {
        let Some(RunDirectory { dir, journal }) =
            RunDirectory::holding_trial(directories, &trial.id)
        else {
            continue;
        };
        let files = TrialFiles {
            plan,
            trial,
            dir,
            outcome: journal.outcomes.get(&trial.id),
        };
        with_work_kind!(&trial.work, work => work.add_rows(&files, &mut collected))?;
    }
    let CollectedRows {
        mut tables,
        likelihoods,
        references,
        refined,
        averaging,
        calibration_tests,
        trajectories,
        ..
    } = collected;
    let dims = plan
        .models
        .iter()
        .map(|m| (m.name.clone(), m.shape.iter().product()))
        .collect();
    tables.samples = likelihood::sample_rows(&likelihoods);
    summary::add_summaries_and_pairs(&likelihoods, &references, &mut tables)?;
    for row in &mut tables.summary {
        let label = if row.kind.follows_path() {
            &row.solver
        } else {
            &row.estimator
        };
        row.trajectory = trajectories.get(label).cloned().flatten();
    }
    calibration::sort_ranks(&mut tables.ranks);
    tables.calibration =
        calibration::calibration_rows(&tables.ranks, &calibration_tests, plan.seed)?;
    set_guidance(plan, &mut tables);
    tables.reweight = reweight::reweight_rows(&tables.weights)?;
    tables.conditions = by_condition::condition_rows(plan, &likelihoods);
    tables.conventions = conventions::convention_rows(plan, &tables.summary);
    tables.budget = budget::budget_rows(&tables.summary, &refined, &dims);
    budget::set_solver_bias(&mut tables.summary, &tables.budget);
    tables.frontier = frontier::frontier_rows(&tables.summary, &tables.samples, &averaging, &dims);
    tables.gaps = gaps::dataset_gap_rows(&likelihoods);
    Ok(tables)
}

/// Sets the guidance of every row. Conditional models without guidance have the scale 1, if another
/// model of the plan is guided.
fn set_guidance(plan: &Plan, tables: &mut Tables) {
    if plan.models.iter().all(|model| model.guidance.is_none()) {
        return;
    }
    let label = |name: &str| {
        let model = plan.models.iter().find(|model| model.name == name);
        match model.map(|model| (model.guidance, model.conditions.is_empty())) {
            Some((Some(guidance), _)) => guidance.label(),
            Some((None, false)) => "1".to_owned(),
            _ => String::new(),
        }
    };
    for row in &mut tables.summary {
        row.guidance = label(&row.model);
    }
    for row in &mut tables.samples {
        row.guidance = label(&row.model);
    }
    for row in &mut tables.metrics {
        row.guidance = label(&row.model);
    }
    for row in &mut tables.calibration {
        row.guidance = label(&row.model);
    }
}

fn read_csv_rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let mut reader = csv::Reader::from_path(path).with_context(|| path.display().to_string())?;
    reader
        .deserialize()
        .collect::<Result<_, _>>()
        .with_context(|| path.display().to_string())
}

/// Writes every table that has rows, and removes what is left of those that have none.
///
/// # Errors
/// Where the disk refuses.
pub(crate) fn write_tables(dir: &Path, tables: &Tables) -> Result<()> {
    for (name, bytes) in tables.files()? {
        let path = dir.join("tables").join(format!("{name}.csv"));
        if !bytes.is_empty() {
            crate::output::write_atomic(&path, &bytes)?;
        } else if let Err(e) = std::fs::remove_file(&path)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            bail!("{}: {e}", path.display());
        }
    }
    Ok(())
}
