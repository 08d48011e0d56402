//! A run's rows recomputed from its models and data: proof that a number is what the program makes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use self::choice::{Part, choose};
pub use self::compare::{Compared, Verdict};
use self::compare::{DRIFT, INTERVAL, Table};
use crate::data::{file_of, read_npy};
use crate::execute::{Machine, Output, Stage};
use crate::journal::{
    self, Journal, Outcome, array_file, outstanding, read_plan, row_file, step_file,
};
use crate::model::onnx::Runtime;
use crate::model::opened::Model;
use crate::num::Batch;
use crate::num::key::SampleId;
use crate::plan::{PlanFile, Prepared, Trial, reopen};
use crate::table;

mod choice;
mod compare;

/// A run directory with the models and data behind it, all of them what the run used.
pub struct Opened {
    dir: PathBuf,
    pub file: PlanFile,
    pub journal: Journal,
    prepared: Prepared,
}

impl Opened {
    /// # Errors
    /// Where the directory is no run's, or a model or an array is missing or changed, by its name.
    pub fn read(dir: &Path) -> Result<Opened> {
        let file = read_plan(dir)?;
        let journal = Journal::read(dir)?;
        if !journal
            .outcomes
            .values()
            .any(|o| matches!(o, Outcome::Finished { .. }))
        {
            bail!(
                "{}: no trial of this run is finished, so that it has no rows to verify",
                dir.display()
            );
        }
        let prepared = reopen(dir, &file)?;
        Ok(Opened {
            dir: dir.to_owned(),
            file,
            journal,
            prepared,
        })
    }

    /// The files that are read: the run's own, its models and its data.
    pub fn inputs(&self) -> Vec<PathBuf> {
        let mut inputs = journal::files(&self.dir);
        inputs.extend(self.prepared.models.iter().flat_map(Model::paths));
        inputs.extend(
            self.prepared
                .data
                .iter()
                .map(|data| file_of(Path::new(&data.name))),
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

/// How much is recomputed, and by what.
pub struct Options {
    /// Of every kind of row, in (0, 1].
    pub fraction: f64,
    pub seed: u64,
    pub machine: Machine,
}

/// One row, with where it lies.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// `rows/ab12cd34ef56.csv`, and the line in it; the sample's place in an array.
    pub file: String,
    pub line: Option<u64>,
    /// What the row is about.
    pub what: String,
    pub compared: Compared,
}

/// A row of the table that `--out` writes.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    pub verdict: &'static str,
    pub file: &'a str,
    pub line: Option<u64>,
    pub what: &'a str,
    /// The column that lies farthest off, with both readings; empty of a match.
    pub column: &'a str,
    pub stored: &'a str,
    pub recomputed: &'a str,
    pub difference: Option<f64>,
    pub tolerance: Option<f64>,
}

impl Checked {
    pub fn line(&self) -> Line<'_> {
        let Compared {
            verdict,
            column,
            stored,
            recomputed,
            difference,
            tolerance,
        } = &self.compared;
        Line {
            verdict: verdict.as_str(),
            file: &self.file,
            line: self.line,
            what: &self.what,
            column,
            stored,
            recomputed,
            difference: *difference,
            tolerance: *tolerance,
        }
    }
}

/// Recomputes a random part of a run's rows and hands on what became of each; the rows that the run has.
///
/// A trial whose files are not what the run wrote is recomputed whole. Tables are held against the rows that they
/// were derived from.
///
/// # Errors
/// Where a model is at fault before anything is compared.
pub fn verify(
    opened: &Opened,
    runtime: &Runtime,
    options: &Options,
    say: &mut dyn FnMut(Checked),
) -> Result<usize> {
    let Opened {
        dir,
        file,
        journal,
        prepared,
    } = opened;
    let stage = Stage::new(prepared, runtime, options.machine);
    stage.rehearse()?;
    let damaged: BTreeMap<String, String> = journal::damaged(dir, &file.plan, journal)
        .into_iter()
        .collect();
    let (mut finished, mut rows): (Vec<&Trial>, usize) = (Vec::new(), 0);
    for trial in &file.plan.trials {
        if let Some(Outcome::Finished { rows: count, .. }) = journal.outcomes.get(&trial.id) {
            finished.push(trial);
            rows += count;
        }
    }
    let checker = Checker {
        dir,
        prepared,
        stage: &stage,
    };
    for (id, reason) in &damaged {
        let work = file
            .plan
            .trials
            .iter()
            .find(|t| t.id == *id)
            .map(|t| t.work.describe(&file.plan));
        say(lost(
            format!("rows/{id}.csv"),
            work.unwrap_or_default(),
            reason.clone(),
            String::new(),
        ));
    }
    let whole: BTreeSet<&str> = damaged.keys().map(String::as_str).collect();
    for part in choose(&finished, options.fraction, options.seed, &whole) {
        checker.part(&part).into_iter().for_each(&mut *say);
    }
    // Derived tables are of all trials, and of rows as they were written.
    if damaged.is_empty() && outstanding(&file.plan, journal, false).is_empty() {
        checker.tables(file, journal)?.into_iter().for_each(say);
    }
    Ok(rows)
}

/// Something that is there or not, told as one mismatch.
fn lost(file: String, what: String, stored: String, recomputed: String) -> Checked {
    let (difference, tolerance, column) = (None, None, String::new());
    let compared = Compared {
        verdict: Verdict::Mismatch,
        column,
        stored,
        recomputed,
        difference,
        tolerance,
    };
    Checked {
        file,
        line: None,
        what,
        compared,
    }
}

struct Checker<'a> {
    dir: &'a Path,
    prepared: &'a Prepared,
    stage: &'a Stage<'a>,
}

/// Whose rows of two tables belong together.
type Groups<'a> = dyn Fn(&Table, usize) -> u64 + 'a;

impl Checker<'_> {
    fn part(&self, part: &Part) -> Vec<Checked> {
        let id = &part.trial.id;
        let load = |id: &str| -> Result<Vec<u8>> {
            let path = array_file(self.dir, id);
            std::fs::read(&path).with_context(|| path.display().to_string())
        };
        match self.stage.again(part.trial, &part.samples, &load) {
            Ok(output) => self.compare(part, &output),
            Err(error) => {
                let what = part.trial.work.describe(&self.prepared.plan);
                vec![lost(
                    format!("rows/{id}.csv"),
                    what,
                    "finished".to_owned(),
                    format!("{error:#}"),
                )]
            }
        }
    }

    fn compare(&self, part: &Part, output: &Output) -> Vec<Checked> {
        let id = &part.trial.id;
        let samples = &part.samples;
        let first = part.trial.work.samples().map_or(0, |range| range.start);
        let whole = samples.is_empty();
        // Statistics are one group; a density's rows are points in order, without a number of their own.
        let stored = |table: &Table, row: usize| match table.number(row, "sample") {
            _ if whole => 0,
            Some(sample) => sample as u64,
            None => first + row as u64,
        };
        let again = |table: &Table, row: usize| match table.number(row, "sample") {
            _ if whole => 0,
            Some(sample) => sample as u64,
            None => samples.get(row).copied().unwrap_or(u64::MAX),
        };
        let mut found = self.table(part, &row_file(self.dir, id), &output.csv, &stored, &again);
        if let Some(steps) = &output.steps {
            let population =
                |table: &Table, row: usize| table.number(row, "population").unwrap_or(-1.0) as u64;
            found.extend(self.table(
                part,
                &step_file(self.dir, id),
                steps,
                &population,
                &population,
            ));
        }
        if let Some(array) = &output.array {
            found.extend(self.array(part, first, array));
        }
        found
    }

    fn name(&self, path: &Path) -> String {
        path.strip_prefix(self.dir)
            .unwrap_or(path)
            .display()
            .to_string()
    }

    /// A file of rows against those recomputed, group by group.
    fn table(
        &self,
        part: &Part,
        path: &Path,
        again: &[u8],
        old: &Groups,
        new: &Groups,
    ) -> Vec<Checked> {
        let (file, work) = (self.name(path), &part.trial.work);
        let dim = self.prepared.models[work.model()].dim();
        let read = std::fs::read(path)
            .map_err(|e| e.to_string())
            .and_then(|bytes| Table::read(&bytes));
        let (stored, again) = match (read, Table::read(again)) {
            (Ok(stored), Ok(again)) => (stored, again),
            (Err(error), _) | (_, Err(error)) => {
                return vec![lost(
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
                    .map_or(String::new(), |row| about(&again, *row));
                let compared = compare::counts(work, kept.len(), made.len());
                found.push(Checked {
                    file: file.clone(),
                    line: None,
                    what,
                    compared,
                });
                continue;
            }
            for (i, j) in kept.into_iter().zip(made) {
                let compared = compare::rows(work, dim, &stored, i, &again, j);
                found.push(Checked {
                    file: file.clone(),
                    line: Some(stored.rows[i].0),
                    what: about(&again, j),
                    compared,
                });
            }
        }
        found
    }

    /// Samples in an array, which hold float32.
    fn array(&self, part: &Part, first: SampleId, again: &[u8]) -> Vec<Checked> {
        let path = array_file(self.dir, &part.trial.id);
        let (file, what) = (
            self.name(&path),
            part.trial.work.describe(&self.prepared.plan),
        );
        let read = |bytes: &[u8]| -> Result<Batch> { read_npy(bytes) };
        let stored = std::fs::read(&path)
            .map_err(anyhow::Error::from)
            .and_then(|bytes| read(&bytes));
        let (stored, again) = match (stored, read(again)) {
            (Ok(stored), Ok(again)) if stored.ncols() == again.ncols() => (stored, again),
            (Ok(stored), Ok(again)) => {
                let shape = |x: &Batch| format!("{:?}", x.dim());
                return vec![lost(file, what, shape(&stored), shape(&again))];
            }
            (Err(error), _) | (_, Err(error)) => {
                return vec![lost(file, what, format!("{error:#}"), "samples".to_owned())];
            }
        };
        let place = |row: usize| {
            part.samples
                .get(row)
                .map_or(row, |sample| (sample - first) as usize)
        };
        let check = |row: usize| {
            let Some(old) = (place(row) < stored.nrows()).then(|| stored.row(place(row))) else {
                return lost(
                    file.clone(),
                    what.clone(),
                    "absent".to_owned(),
                    format!("sample {row}"),
                );
            };
            let new = again.row(row);
            let tolerance = DRIFT * new.iter().fold(0.0f64, |a, b| a.max(b.abs()));
            let each = old.iter().zip(&new).enumerate();
            let compared = each.filter(|(_, (a, b))| a.to_bits() != b.to_bits()).fold(
                Compared::equal(),
                |worst, (j, (a, b))| {
                    worst.worse(Compared::texts(
                        &format!("x[{j}]"),
                        &a.to_string(),
                        &b.to_string(),
                        tolerance,
                    ))
                },
            );
            let what = format!("{what}, sample {}", first + place(row) as u64);
            Checked {
                file: format!("{file}[{}]", place(row)),
                line: None,
                what,
                compared,
            }
        };
        let rows = (0..again.nrows()).map(check);
        match part.samples.is_empty() {
            // Data that a statistic keeps for the page: one word for all of them.
            true => rows
                .max_by_key(|checked| checked.compared.verdict)
                .into_iter()
                .collect(),
            false => rows.collect(),
        }
    }

    /// Whether the summary lacks columns that it has had since intervals are Student's.
    fn tables_are_of_an_earlier_version(&self) -> bool {
        let summary = std::fs::read(self.dir.join("tables/summary.csv")).ok();
        let summary = summary.and_then(|bytes| Table::read(&bytes).ok());
        summary.is_some_and(|table| table.column("solver_bias").is_none())
    }

    /// The derived tables against what the rows give, line by line; one word for a file that is right.
    fn tables(&self, file: &PlanFile, journal: &Journal) -> Result<Vec<Checked>> {
        let part = journal::Part {
            dir: self.dir.to_owned(),
            journal: journal.clone(),
        };
        let tables = table::tables(&file.plan, &[part])?;
        let earlier = self.tables_are_of_an_earlier_version();
        let same_version = file
            .environment
            .iter()
            .any(|(k, v)| k == "flowgauge" && v == env!("CARGO_PKG_VERSION"));
        let mut found = Vec::new();
        for (name, bytes) in tables.files()? {
            // Its errors are ends of intervals.
            if earlier && name == "frontier" {
                continue;
            }
            let name = format!("tables/{name}.csv");
            // A derived file that is not there is wrong in nothing.
            let Ok(stored) = std::fs::read(self.dir.join(&name)) else {
                continue;
            };
            let what = "derived from the rows".to_owned();
            if stored == bytes {
                found.push(Checked {
                    file: name,
                    line: None,
                    what,
                    compared: Compared::equal(),
                });
                continue;
            }
            match (Table::read(&stored), Table::read(&bytes)) {
                (Ok(old), Ok(new))
                    if !earlier
                        && old.columns == new.columns
                        && old.rows.len() == new.rows.len() =>
                {
                    found.extend(lines(&name, &old, &new));
                }
                // An earlier version's tables have fewer columns, and intervals of the normal law.
                (Ok(old), Ok(new)) if earlier && old.rows.len() == new.rows.len() => {
                    let shared = |name: &str| {
                        let both = old.column(name).and(new.column(name)).is_some();
                        both && !INTERVAL.contains(&name)
                    };
                    found.extend(lines(
                        &name,
                        &old.with_columns(shared),
                        &new.with_columns(shared),
                    ));
                }
                // Another version's tables have other columns.
                (Ok(_), Ok(_)) if !same_version => {}
                _ => {
                    let rebuilt = "what the rows give; `flowgauge report` rebuilds it".to_owned();
                    found.push(lost(name, what, "another table".to_owned(), rebuilt));
                }
            }
        }
        Ok(found)
    }
}

/// Lines of a table that differ from what the rows give.
fn lines(file: &str, old: &Table, new: &Table) -> Vec<Checked> {
    let row = |i: usize| {
        let cells = new
            .columns
            .iter()
            .zip(old.rows[i].1.iter().zip(&new.rows[i].1));
        let worst = cells.fold(Compared::equal(), |worst, (name, (a, b))| {
            worst.worse(Compared::texts(name, a, b, 0.0))
        });
        Checked {
            file: file.to_owned(),
            line: Some(old.rows[i].0),
            what: about(new, i),
            compared: worst,
        }
    };
    (0..new.rows.len())
        .map(row)
        .filter(|checked| checked.compared.verdict != Verdict::Match)
        .collect()
}

/// What a row is about, from those of its columns that say so.
fn about(table: &Table, row: usize) -> String {
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
