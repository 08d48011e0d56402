//! Verification of a run: its rows are recomputed from its models and data, and compared with the
//! stored ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use self::compare::{DRIFT_TOLERANCE, EXPLANATION_COLUMNS, INTERVAL_COLUMNS};
pub(crate) use self::compare::{RowComparison, RowVerdict};
use self::selection::{TrialSelection, select_samples};
use crate::data::{decode_npy_f32, path_without_member};
use crate::execute::{ComputeOptions, Executor, TrialOutput};
use crate::journal::{
    self, Journal, Outcome, array_file, outstanding_trials, read_plan, row_file, step_file,
};
use crate::model::loaded::Model;
use crate::model::onnx::Runtime;
use crate::num::Batch;
use crate::num::key::SampleId;
use crate::plan::{PlanFile, PreparedPlan, Trial, reopen_run};
use crate::rows::TextTable;
use crate::table;

mod compare;
mod selection;

/// A run directory, opened with the models and data that the run used.
pub(crate) struct RunToVerify {
    dir: PathBuf,
    pub plan_file: PlanFile,
    pub journal: Journal,
    prepared: PreparedPlan,
}

impl RunToVerify {
    /// Opens a run directory with its models and data.
    ///
    /// # Errors
    /// Fails if the directory holds no run, if no trial is finished, or if a model or a data file
    /// is missing or has changed. The message names the file.
    pub(crate) fn read(dir: &Path) -> Result<RunToVerify> {
        let file = read_plan(dir)?;
        let journal = Journal::read(dir)?;
        if !journal
            .outcomes
            .values()
            .any(|o| matches!(o, Outcome::Finished { .. }))
        {
            bail!(
                "{}: no trial of this run is finished, so there are no rows to verify",
                dir.display()
            );
        }
        let prepared = reopen_run(dir, &file)?;
        Ok(RunToVerify {
            dir: dir.to_owned(),
            plan_file: file,
            journal,
            prepared,
        })
    }

    /// All files that verification reads: those of the run, its models, its data and its
    /// extractors.
    pub(crate) fn inputs(&self) -> Vec<PathBuf> {
        let mut inputs = journal::run_files(&self.dir);
        inputs.extend(self.prepared.models.iter().flat_map(Model::file_paths));
        inputs.extend(
            self.prepared
                .data
                .iter()
                .map(|data| path_without_member(Path::new(&data.name))),
        );
        inputs.extend(
            self.prepared
                .extractors
                .iter()
                .map(|(_, path)| path.clone()),
        );
        inputs
    }
}

/// How much of a run is recomputed, and on which machine.
pub(crate) struct VerifyOptions {
    /// The share of the rows of every kind of work that is recomputed, in (0, 1].
    pub fraction: f64,
    /// The seed of the random choice of rows.
    pub seed: u64,
    /// The batch size, the threads and the execution provider.
    pub machine: ComputeOptions,
}

/// A recomputed row with its place in the run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct VerifiedRow {
    /// The file in the run directory, such as `rows/ab12cd34ef56.csv`. For an array, it ends with
    /// the position of the sample in square brackets.
    pub file: String,
    /// The line in the file, counted from 1. `None` if the comparison is not about one line.
    pub line: Option<u64>,
    /// What the row is about, such as its model, dataset, estimator and sample.
    pub subject: String,
    pub comparison: RowComparison,
}

/// A row of the table that `--out` writes.
#[derive(Debug, Serialize)]
pub(crate) struct VerifyCsvRow<'a> {
    pub verdict: &'static str,
    pub file: &'a str,
    pub line: Option<u64>,
    pub what: &'a str,
    /// The column with the worst difference. It is empty if the row matches, and so are the values.
    pub column: &'a str,
    pub stored: &'a str,
    pub recomputed: &'a str,
    pub difference: Option<f64>,
    pub tolerance: Option<f64>,
}

impl VerifiedRow {
    /// The row of the table for this comparison.
    pub(crate) fn csv_row(&self) -> VerifyCsvRow<'_> {
        let RowComparison {
            verdict,
            column,
            stored,
            recomputed,
            difference,
            tolerance,
        } = &self.comparison;
        VerifyCsvRow {
            verdict: verdict.as_str(),
            file: &self.file,
            line: self.line,
            what: &self.subject,
            column,
            stored,
            recomputed,
            difference: *difference,
            tolerance: *tolerance,
        }
    }
}

/// Recomputes a random part of a run's rows and passes each comparison to `say`. Returns the number
/// of rows of the run.
///
/// A trial is recomputed completely if its files are not those that the run wrote. Derived tables
/// are compared with the rows from which they are derived.
///
/// # Errors
/// Fails if a model or an extractor cannot be used, or if the derived tables cannot be computed. A
/// trial that cannot be recomputed is a mismatch, not an error.
pub(crate) fn verify_run(
    opened: &RunToVerify,
    runtime: &Runtime,
    options: &VerifyOptions,
    say: &mut dyn FnMut(VerifiedRow),
) -> Result<usize> {
    let RunToVerify {
        dir,
        plan_file: file,
        journal,
        prepared,
    } = opened;
    let stage = Executor::new(prepared, runtime, options.machine);
    stage.dry_run()?;
    let damaged: BTreeMap<String, String> = journal::corrupted_trials(dir, &file.plan, journal)
        .into_iter()
        .collect();
    let (mut finished, mut rows): (Vec<&Trial>, usize) = (Vec::new(), 0);
    for trial in &file.plan.trials {
        if let Some(Outcome::Finished { rows: count, .. }) = journal.outcomes.get(&trial.id) {
            finished.push(trial);
            rows += count;
        }
    }
    let checker = RunVerifier {
        dir,
        prepared,
        executor: &stage,
    };
    for (id, reason) in &damaged {
        let work = file
            .plan
            .trials
            .iter()
            .find(|t| t.id == *id)
            .map(|t| t.work.describe(&file.plan));
        say(presence_mismatch(
            format!("rows/{id}.csv"),
            work.unwrap_or_default(),
            reason.clone(),
            String::new(),
        ));
    }
    let whole: BTreeSet<&str> = damaged.keys().map(String::as_str).collect();
    for part in select_samples(&finished, options.fraction, options.seed, &whole) {
        checker
            .verify_selection(&part)
            .into_iter()
            .for_each(&mut *say);
    }
    // Derived tables need the rows of all trials, as the run wrote them.
    if damaged.is_empty() && outstanding_trials(&file.plan, journal, false).is_empty() {
        checker
            .compare_derived_tables(file, journal)?
            .into_iter()
            .for_each(say);
    }
    Ok(rows)
}

/// A mismatch of a whole file, for example because the file is missing.
fn presence_mismatch(
    file: String,
    what: String,
    stored: String,
    recomputed: String,
) -> VerifiedRow {
    let (difference, tolerance, column) = (None, None, String::new());
    let compared = RowComparison {
        verdict: RowVerdict::Mismatch,
        column,
        stored,
        recomputed,
        difference,
        tolerance,
    };
    VerifiedRow {
        file,
        line: None,
        subject: what,
        comparison: compared,
    }
}

/// Recomputes trials of a run and compares them with the run's files.
struct RunVerifier<'a> {
    dir: &'a Path,
    prepared: &'a PreparedPlan,
    executor: &'a Executor<'a>,
}

/// The group of a row in a table. Rows of the same group in both tables are compared in order.
type RowGrouping<'a> = dyn Fn(&TextTable, usize) -> u64 + 'a;

impl RunVerifier<'_> {
    /// Recomputes the selected samples of a trial and compares them with the stored rows.
    fn verify_selection(&self, part: &TrialSelection) -> Vec<VerifiedRow> {
        let id = &part.trial.id;
        let load = |id: &str| -> Result<Vec<u8>> {
            let path = array_file(self.dir, id);
            std::fs::read(&path).with_context(|| path.display().to_string())
        };
        match self
            .executor
            .execute_subset(part.trial, &part.samples, &load)
        {
            Ok(output) => self.compare_output(part, &output),
            Err(error) => {
                let what = part.trial.work.describe(&self.prepared.plan);
                vec![presence_mismatch(
                    format!("rows/{id}.csv"),
                    what,
                    "finished".to_owned(),
                    format!("{error:#}"),
                )]
            }
        }
    }

    /// Compares a trial's recomputed rows, log of steps and array with the stored files.
    fn compare_output(&self, part: &TrialSelection, output: &TrialOutput) -> Vec<VerifiedRow> {
        let id = &part.trial.id;
        let samples = &part.samples;
        let first = part
            .trial
            .work
            .sample_range()
            .map_or(0, |range| range.start);
        let whole = samples.is_empty();
        // Statistics are one group. The rows of a density have no column `sample`: they are the
        // points of the grid in order.
        let stored = |table: &TextTable, row: usize| match table.number(row, "sample") {
            _ if whole => 0,
            Some(sample) => sample as u64,
            None => first + row as u64,
        };
        let again = |table: &TextTable, row: usize| match table.number(row, "sample") {
            _ if whole => 0,
            Some(sample) => sample as u64,
            None => samples.get(row).copied().unwrap_or(u64::MAX),
        };
        let mut found =
            self.compare_table(part, &row_file(self.dir, id), &output.csv, &stored, &again);
        if let Some(steps) = &output.steps {
            let population = |table: &TextTable, row: usize| {
                table.number(row, "population").unwrap_or(-1.0) as u64
            };
            found.extend(self.compare_table(
                part,
                &step_file(self.dir, id),
                steps,
                &population,
                &population,
            ));
        }
        if let Some(array) = &output.array {
            found.extend(self.compare_array(part, first, array));
        }
        found
    }

    /// A path relative to the run directory, as text.
    fn relative_name(&self, path: &Path) -> String {
        path.strip_prefix(self.dir)
            .unwrap_or(path)
            .display()
            .to_string()
    }

    /// Compares a file of rows with the recomputed rows, group by group. `old` and `new` give the
    /// groups of stored and of recomputed rows.
    fn compare_table(
        &self,
        part: &TrialSelection,
        path: &Path,
        again: &[u8],
        old: &RowGrouping,
        new: &RowGrouping,
    ) -> Vec<VerifiedRow> {
        let (file, work) = (self.relative_name(path), &part.trial.work);
        let dim = self.prepared.models[work.model_index()].dim();
        let read = std::fs::read(path)
            .map_err(|e| e.to_string())
            .and_then(|bytes| TextTable::read(&bytes).map_err(|e| e.to_string()));
        let (stored, again) = match (read, TextTable::read(again).map_err(|e| e.to_string())) {
            (Ok(stored), Ok(again)) => (stored, again),
            (Err(error), _) | (_, Err(error)) => {
                return vec![presence_mismatch(
                    file,
                    work.describe(&self.prepared.plan),
                    error,
                    "rows".to_owned(),
                )];
            }
        };
        let mut groups: BTreeMap<u64, [Vec<usize>; 2]> = BTreeMap::new();
        for row in 0..again.rows.len() {
            groups.entry(new(&again, row)).or_default()[1].push(row);
        }
        for row in 0..stored.rows.len() {
            if let Some([kept, _]) = groups.get_mut(&old(&stored, row)) {
                kept.push(row);
            }
        }
        let mut found = Vec::new();
        for [kept, made] in groups.into_values() {
            if kept.len() != made.len() {
                let what = made
                    .first()
                    .map_or(String::new(), |row| row_subject(&again, *row));
                let compared = compare::compare_row_counts(work, kept.len(), made.len());
                found.push(VerifiedRow {
                    file: file.clone(),
                    line: None,
                    subject: what,
                    comparison: compared,
                });
                continue;
            }
            for (i, j) in kept.into_iter().zip(made) {
                let compared = compare::compare_rows(work, dim, &stored, i, &again, j);
                found.push(VerifiedRow {
                    file: file.clone(),
                    line: Some(stored.rows[i].0),
                    subject: row_subject(&again, j),
                    comparison: compared,
                });
            }
        }
        found
    }

    /// Compares the samples of an array file, float32 with shape rows × dim. `first` is the trial's
    /// first sample.
    fn compare_array(
        &self,
        part: &TrialSelection,
        first: SampleId,
        again: &[u8],
    ) -> Vec<VerifiedRow> {
        let path = array_file(self.dir, &part.trial.id);
        let (file, what) = (
            self.relative_name(&path),
            part.trial.work.describe(&self.prepared.plan),
        );
        let read = |bytes: &[u8]| -> Result<Batch> { decode_npy_f32(bytes) };
        let stored = std::fs::read(&path)
            .map_err(anyhow::Error::from)
            .and_then(|bytes| read(&bytes));
        let (stored, again) = match (stored, read(again)) {
            (Ok(stored), Ok(again)) if stored.ncols() == again.ncols() => (stored, again),
            (Ok(stored), Ok(again)) => {
                let shape = |x: &Batch| format!("{:?}", x.dim());
                return vec![presence_mismatch(file, what, shape(&stored), shape(&again))];
            }
            (Err(error), _) | (_, Err(error)) => {
                return vec![presence_mismatch(
                    file,
                    what,
                    format!("{error:#}"),
                    "samples".to_owned(),
                )];
            }
        };
        let place = |row: usize| {
            part.samples
                .get(row)
                .map_or(row, |sample| (sample - first) as usize)
        };
        let check = |row: usize| {
            let Some(old) = (place(row) < stored.nrows()).then(|| stored.row(place(row))) else {
                return presence_mismatch(
                    file.clone(),
                    what.clone(),
                    "absent".to_owned(),
                    format!("sample {row}"),
                );
            };
            let new = again.row(row);
            let tolerance = DRIFT_TOLERANCE * new.iter().fold(0.0f64, |a, b| a.max(b.abs()));
            let each = old.iter().zip(&new).enumerate();
            let compared = each.filter(|(_, (a, b))| a.to_bits() != b.to_bits()).fold(
                RowComparison::equal(),
                |worst, (j, (a, b))| {
                    worst.worse_of(RowComparison::compare_cells(
                        &format!("x[{j}]"),
                        &a.to_string(),
                        &b.to_string(),
                        tolerance,
                    ))
                },
            );
            let what = format!("{what}, sample {}", first + place(row) as u64);
            VerifiedRow {
                file: format!("{file}[{}]", place(row)),
                line: None,
                subject: what,
                comparison: compared,
            }
        };
        let rows = (0..again.nrows()).map(check);
        match part.samples.is_empty() {
            // These are the data that a statistic stores for the page. One comparison covers them
            // all.
            true => rows
                .max_by_key(|checked| checked.comparison.verdict)
                .into_iter()
                .collect(),
            false => rows.collect(),
        }
    }

    /// Whether the summary lacks the columns that it has had since intervals use Student's
    /// distribution.
    fn has_tables_of_earlier_version(&self) -> bool {
        let summary = std::fs::read(self.dir.join("tables/summary.csv")).ok();
        let summary = summary.and_then(|bytes| TextTable::read(&bytes).ok());
        summary.is_some_and(|table| table.column_index("solver_bias").is_none())
    }

    /// Compares the derived tables with those that the rows give, line by line. A file that is
    /// equal gives one comparison for the whole file.
    ///
    /// # Errors
    /// Fails if the tables cannot be computed from the rows.
    fn compare_derived_tables(
        &self,
        file: &PlanFile,
        journal: &Journal,
    ) -> Result<Vec<VerifiedRow>> {
        let part = journal::RunDirectory {
            dir: self.dir.to_owned(),
            journal: journal.clone(),
        };
        let tables = table::load_tables(&file.plan, &[part])?;
        let earlier = self.has_tables_of_earlier_version();
        let same_version = file
            .environment
            .iter()
            .any(|(k, v)| k == "flowgauge" && v == env!("CARGO_PKG_VERSION"));
        let mut found = Vec::new();
        for (name, bytes) in tables.files()? {
            // The errors in this table are ends of intervals, which that version computed
            // differently.
            if earlier && name == "frontier" {
                continue;
            }
            let name = format!("tables/{name}.csv");
            // A missing table is no fault, because it can be derived again.
            let Ok(stored) = std::fs::read(self.dir.join(&name)) else {
                continue;
            };
            let what = "derived from the rows".to_owned();
            if stored == bytes {
                found.push(VerifiedRow {
                    file: name,
                    line: None,
                    subject: what,
                    comparison: RowComparison::equal(),
                });
                continue;
            }
            match (TextTable::read(&stored), TextTable::read(&bytes)) {
                // The tables of an earlier version may have fewer columns. Those of a still earlier
                // one have intervals of the normal distribution.
                (Ok(old), Ok(new))
                    if old.rows.len() == new.rows.len()
                        && (earlier || old.columns.iter().all(|c| new.columns.contains(c))) =>
                {
                    let compared = |name: &str| {
                        let both = old.column_index(name).and(new.column_index(name)).is_some();
                        both && !EXPLANATION_COLUMNS.contains(&name)
                            && !(earlier && INTERVAL_COLUMNS.contains(&name))
                    };
                    let (old, new) = (old.retain_columns(compared), new.retain_columns(compared));
                    let differing = differing_lines(&name, &old, &new);
                    if differing.is_empty() {
                        found.push(VerifiedRow {
                            file: name,
                            line: None,
                            subject: what,
                            comparison: RowComparison::equal(),
                        });
                    }
                    found.extend(differing);
                }
                // Other versions write other columns, so these tables are not compared.
                (Ok(_), Ok(_)) if !same_version => {}
                _ => {
                    let rebuilt = "what the rows give; `flowgauge report` rebuilds it".to_owned();
                    found.push(presence_mismatch(
                        name,
                        what,
                        "another table".to_owned(),
                        rebuilt,
                    ));
                }
            }
        }
        Ok(found)
    }
}

/// The lines of a derived table that differ from the recomputed table.
fn differing_lines(file: &str, old: &TextTable, new: &TextTable) -> Vec<VerifiedRow> {
    let row = |i: usize| {
        let cells = new
            .columns
            .iter()
            .zip(old.rows[i].1.iter().zip(&new.rows[i].1));
        let worst = cells.fold(RowComparison::equal(), |worst, (name, (a, b))| {
            worst.worse_of(RowComparison::compare_cells(name, a, b, 0.0))
        });
        VerifiedRow {
            file: file.to_owned(),
            line: Some(old.rows[i].0),
            subject: row_subject(new, i),
            comparison: worst,
        }
    };
    (0..new.rows.len())
        .map(row)
        .filter(|checked| checked.comparison.verdict != RowVerdict::Match)
        .collect()
}

/// What a row is about, in words: the values of its columns that identify it.
fn row_subject(table: &TextTable, row: usize) -> String {
    const NAMES: [&str; 12] = [
        "model",
        "dataset",
        "map",
        "head",
        "sampler",
        "baseline",
        "estimator",
        "solver",
        "metric",
        "check",
        "function",
        "scope",
    ];
    const NUMBERS: [&str; 4] = ["sample", "steps", "population", "step"];
    let names = NAMES
        .iter()
        .filter_map(|name| table.cell(row, name).map(str::to_owned));
    let numbers = NUMBERS
        .iter()
        .filter_map(|name| Some(format!("{name} {}", table.cell(row, name)?)));
    names
        .chain(numbers)
        .filter(|s| !s.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}
