//! `flowgauge verify DIR`: recomputes a part of a run's rows.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;

use super::console::{Align, AlignedTable, Answer, Cell, GOOD, JsonArgs, UNSURE, WRONG};
use super::opened_run::OpenedRuns;
use super::{Exit, RuntimeArgs};
use crate::journal::config_change_warning;
use crate::output::{Output, OutputKind};
use crate::progress::ProgressDisplay;
use crate::rows::rows_to_csv;
use crate::run::runtime_fingerprint;
use crate::verify::{
    RowVerdict, RunToVerify, VerifiedRow, VerifyCsvRow, VerifyOptions, verify_run,
};

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge verify reports/quickstart
  flowgauge verify reports/quickstart --fraction 1 --out verdicts.csv
  flowgauge verify reports/quickstart --json";

/// The arguments of `flowgauge verify`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct VerifyArgs {
    /// The run directory, or the address of a run in an object store
    dir: PathBuf,
    /// The fraction of each kind of row to recompute, above 0 and at most 1
    #[arg(long, default_value_t = 0.05, value_parser = parse_fraction)]
    fraction: f64,
    /// The seed that selects the rows
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write the verdict of every row to this table instead of standard output
    #[arg(long, value_name = "CSV")]
    out: Option<PathBuf>,
    #[command(flatten)]
    json: JsonArgs,
    #[command(flatten)]
    pub(super) runtime_args: RuntimeArgs,
}

impl VerifyArgs {
    /// Prints a verdict for each recomputed row. The exit status tells whether a row is a mismatch.
    ///
    /// # Errors
    /// Fails if the directory is not a run with finished trials, or if a model or an array is
    /// missing or changed.
    pub(super) fn execute(self) -> Result<Exit> {
        let runs = OpenedRuns::open(std::slice::from_ref(&self.dir))?;
        let opened = runs.with(|dirs| RunToVerify::read(&dirs[0]))?;
        let out = self
            .out
            .as_deref()
            .map(|out| Output::new(OutputKind::Table, "--out", out, &opened.inputs()))
            .transpose()?;
        self.json.check(out.as_ref())?;
        let (runtime, machine) = (self.runtime_args.runtime()?, self.runtime_args.machine());
        if let Some(changed) = config_change_warning(&runs.dirs[0], &opened.plan_file) {
            errln!("flowgauge: {}: {changed}", self.dir.display());
        }
        let options = VerifyOptions {
            fraction: self.fraction,
            seed: self.seed,
            machine,
        };
        let mut checked: Vec<VerifiedRow> = Vec::new();
        let show = ProgressDisplay::for_meter(self.runtime_args.quiet, Arc::default(), || {
            "rows that are computed again".to_owned()
        });
        let rows =
            runs.with(|_| verify_run(&opened, runtime, &options, &mut |row| checked.push(row)))?;
        drop(show);
        let lines: Vec<VerifyCsvRow> = checked.iter().map(VerifiedRow::csv_row).collect();
        if let Some(out) = &out {
            out.write(&rows_to_csv(&lines)?)?;
        }
        let count = |verdict| {
            checked
                .iter()
                .filter(|c| c.comparison.verdict == verdict)
                .count()
        };
        let [matches, drift, mismatches] =
            [RowVerdict::Match, RowVerdict::Drift, RowVerdict::Mismatch].map(count);
        let in_rows = |c: &&VerifiedRow| {
            c.file.starts_with("rows/") && !c.file.ends_with(".steps.csv") && c.line.is_some()
        };
        let verified = checked.iter().filter(in_rows).count();
        let others = checked.len() - verified;
        let place = match &self.out {
            Some(file) => format!("; verdicts: {}", file.display()),
            None => String::new(),
        };
        let mut answer = Answer::new(
            "verify",
            format!(
                "{verified} of {rows} rows verified, and {others} others (samples, steps, tables): \
                 {matches} match, {drift} drift, {mismatches} mismatch{place}"
            ),
        );
        if out.is_none() {
            answer.table(row_verdict_table(&lines));
        }
        answer.set_path("run", &self.dir);
        answer.set("rows", rows);
        answer.set("rows_verified", verified);
        answer.set("others_verified", others);
        answer.set("match", matches);
        answer.set("drift", drift);
        answer.set("mismatch", mismatches);
        answer.set("verdicts", &lines);
        if !self.runtime_args.quiet {
            let there: Vec<&str> = opened.journal.runtime_fingerprints().into_keys().collect();
            let (here, there) = (runtime_fingerprint(runtime, machine), there.join(" | "));
            errln!("flowgauge: the run was computed with {there}; it was verified with {here}");
        }
        let exit = match mismatches {
            0 => Exit::Success,
            _ => Exit::Failed,
        };
        Ok(answer.show(self.json, out.as_ref(), exit))
    }
}

/// The verdict of every row, with the column that differs unless it matches.
fn row_verdict_table(rows: &[VerifyCsvRow]) -> AlignedTable {
    let mut table = AlignedTable::new([
        ("verdict", Align::Left),
        ("row", Align::Left),
        ("what", Align::Left),
        ("column", Align::Left),
        ("stored", Align::Right),
        ("recomputed", Align::Right),
        ("difference", Align::Right),
        ("tolerance", Align::Right),
    ]);
    for row in rows {
        let place = (row.line).map_or(row.file.to_owned(), |line| format!("{}:{line}", row.file));
        let style = match row.verdict {
            "match" => GOOD,
            "drift" => UNSURE,
            _ => WRONG,
        };
        let number = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.3e}"));
        // What a matching row holds stands in its file.
        let detail = |text: &str| match row.verdict {
            "match" => Cell::from(""),
            _ => Cell::from(text),
        };
        table.row([
            Cell::styled(row.verdict, style),
            place.into(),
            row.what.into(),
            detail(row.column),
            detail(row.stored),
            detail(row.recomputed),
            detail(&number(row.difference)),
            detail(&number(row.tolerance)),
        ]);
    }
    table.without_empty_columns()
}

/// Parses a number above 0 and at most 1.
fn parse_fraction(text: &str) -> Result<f64, String> {
    let fraction = text.parse().ok().filter(|f: &f64| *f > 0.0 && *f <= 1.0);
    fraction.ok_or_else(|| "expected a number above 0 and at most 1".to_owned())
}
