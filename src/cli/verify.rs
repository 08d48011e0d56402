//! `flowgauge verify DIR`: recomputes a part of a run's rows.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{Exit, RuntimeArgs, print_summary};
use crate::journal::config_change_warning;
use crate::output::{Output, OutputKind};
use crate::rows::rows_to_csv;
use crate::run::runtime_fingerprint;
use crate::verify::{
    RowVerdict, RunToVerify, VerifiedRow, VerifyCsvRow, VerifyOptions, verify_run,
};

/// The arguments of `flowgauge verify`.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The run directory
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
    runtime_args: RuntimeArgs,
}

impl VerifyArgs {
    /// Prints a verdict for each recomputed row. The exit status tells whether a row is a mismatch.
    ///
    /// # Errors
    /// Fails if the directory is not a run with finished trials, or if a model or an array is
    /// missing or changed.
    pub(super) fn execute(self) -> Result<Exit> {
        let opened = RunToVerify::read(&self.dir)?;
        let out = self
            .out
            .as_deref()
            .map(|out| Output::new(OutputKind::Table, "--out", out, &opened.inputs()))
            .transpose()?;
        let (runtime, machine) = (self.runtime_args.runtime()?, self.runtime_args.machine());
        if let Some(changed) = config_change_warning(&self.dir, &opened.plan_file) {
            errln!("flowgauge: {}: {changed}", self.dir.display());
        }
        let options = VerifyOptions {
            fraction: self.fraction,
            seed: self.seed,
            machine,
        };
        let mut checked: Vec<VerifiedRow> = Vec::new();
        let rows = verify_run(&opened, runtime, &options, &mut |row| {
            if out.is_none() {
                print_row_verdict(&row);
            }
            checked.push(row);
        })?;
        if let Some(out) = &out {
            let lines: Vec<VerifyCsvRow> = checked.iter().map(VerifiedRow::csv_row).collect();
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
        print_summary(
            out.as_ref(),
            format_args!(
                "{verified} of {rows} rows verified, and {others} others (samples, steps, tables): \
                 {matches} match, {drift} drift, {mismatches} mismatch"
            ),
        );
        if !self.runtime_args.quiet {
            let there: Vec<&str> = opened.journal.runtime_fingerprints().into_keys().collect();
            let (here, there) = (runtime_fingerprint(runtime, machine), there.join(" | "));
            errln!("flowgauge: the run was computed with {there}; it was verified with {here}");
        }
        Ok(if mismatches > 0 {
            Exit::Failed
        } else {
            Exit::Success
        })
    }
}

/// Prints one line: the verdict, the place of the row and, unless it matches, the column that
/// differs.
fn print_row_verdict(row: &VerifiedRow) {
    let VerifyCsvRow {
        verdict,
        file,
        line,
        what,
        column,
        stored,
        recomputed,
        difference,
        tolerance,
    } = row.csv_row();
    let place = line.map_or(file.to_owned(), |line| format!("{file}:{line}"));
    let number = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.3e}"));
    let detail = match (verdict, difference) {
        ("match", _) => String::new(),
        (_, None) if recomputed.is_empty() && column.is_empty() => format!(": {stored}"),
        (_, None) => {
            format!("; {column} stored {stored:?}, recomputed {recomputed:?}").replace("  ", " ")
        }
        _ => format!(
            "; {column} stored {stored}, recomputed {recomputed}, difference {}, tolerance {}",
            number(difference),
            number(tolerance)
        ),
    };
    outln!("{verdict:<9} {place}  {what}{detail}");
}

/// Parses a number above 0 and at most 1.
fn parse_fraction(text: &str) -> Result<f64, String> {
    let fraction = text.parse().ok().filter(|f: &f64| *f > 0.0 && *f <= 1.0);
    fraction.ok_or_else(|| "expected a number above 0 and at most 1".to_owned())
}
