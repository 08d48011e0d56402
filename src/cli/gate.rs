//! `flowgauge gate DIR... --claims FILE`: compares runs with published numbers.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::Exit;
use super::console::{
    Align, AlignedTable, Answer, Cell, GOOD, JsonArgs, UNSURE, WRONG, with_error,
};
use super::opened_run::OpenedRuns;
use crate::gate::claims::Claims;
use crate::gate::{ClaimVerdict, check_claims};
use crate::hub;
use crate::journal;
use crate::num::format_decimals;
use crate::output::{Output, OutputKind};
use crate::publish;
use crate::rows::ClaimResult;
use crate::rows::rows_to_csv;

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge gate reports/quickstart --claims configs/quickstart-claims.yaml
  flowgauge gate reports/quickstart --claims configs/quickstart-claims.yaml --out verdicts.csv
  flowgauge gate reports/quickstart --claims configs/quickstart-claims.yaml --json";

/// The arguments of `flowgauge gate`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct GateArgs {
    /// The run directory, the directories of all its shards, or the address of a run in an object
    /// store; different runs are compared as in their common report, whose table `runs` has paired
    /// differences
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// The YAML file of published numbers with tolerances; `flowgauge schema claims` describes it
    #[arg(long, value_name = "FILE")]
    claims: PathBuf,
    /// Write the verdicts to this table instead of standard output
    #[arg(long, value_name = "CSV")]
    out: Option<PathBuf>,
    /// Print no notes on standard error
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    json: JsonArgs,
}

impl GateArgs {
    /// Prints a verdict for each claim. The exit status tells whether a claim failed.
    ///
    /// # Errors
    /// Fails if the run or the claims cannot be read, or if the table cannot be written.
    pub(super) fn execute(self) -> Result<Exit> {
        let runs = OpenedRuns::open(&self.dirs)?;
        let inputs: Vec<PathBuf> = runs
            .dirs
            .iter()
            .flat_map(|d| journal::run_files(d))
            .chain([self.claims.clone()])
            .collect();
        let out = self
            .out
            .as_deref()
            .map(|out| Output::new(OutputKind::Table, "--out", out, &inputs))
            .transpose()?;
        self.json.check(out.as_ref())?;
        let claims = Claims::read(&hub::local_path(&self.claims)?)?;
        let run = runs.with(publish::read_results)?;
        let results = check_claims(&run.tables, &claims)
            .with_context(|| self.claims.display().to_string())?;
        let (verdicts, rows): (Vec<ClaimVerdict>, Vec<ClaimResult>) = results.into_iter().unzip();
        if let Some(out) = &out {
            out.write(&rows_to_csv(&rows)?)?;
        }
        let count = |verdict| verdicts.iter().filter(|v| **v == verdict).count();
        let [pass, fail, inconclusive] = [
            ClaimVerdict::Pass,
            ClaimVerdict::Fail,
            ClaimVerdict::Inconclusive,
        ]
        .map(count);
        if !self.quiet && run.outstanding_trials + run.failed_trials > 0 {
            errln!(
                "flowgauge: {} trials are outstanding and {} have failed; \
                 the numbers come from the finished trials only",
                run.outstanding_trials,
                run.failed_trials
            );
        }
        let place = match &self.out {
            Some(file) => format!("; verdicts: {}", file.display()),
            None => String::new(),
        };
        let mut answer = Answer::new(
            "gate",
            format!(
                "{} claims: {pass} pass, {fail} fail, {inconclusive} inconclusive{place}",
                rows.len()
            ),
        );
        if out.is_none() {
            answer.table(claim_table(&rows));
        }
        answer.set("claims", &rows);
        answer.set("pass", pass);
        answer.set("fail", fail);
        answer.set("inconclusive", inconclusive);
        answer.set("trials_outstanding", run.outstanding_trials);
        answer.set("trials_failed", run.failed_trials);
        let exit = match (fail, inconclusive) {
            (0, 0) => Exit::Success,
            (0, _) => Exit::Inconclusive,
            _ => Exit::Failed,
        };
        Ok(answer.show(self.json, out.as_ref(), exit))
    }
}

/// The verdict of every claim, with the measured value and the claimed interval.
fn claim_table(rows: &[ClaimResult]) -> AlignedTable {
    let mut table = AlignedTable::new([
        ("verdict", Align::Left),
        ("claim", Align::Left),
        ("column", Align::Left),
        ("measured ± SE", Align::Right),
        ("interval", Align::Right),
        ("claimed", Align::Right),
        ("note", Align::Left),
    ]);
    for row in rows {
        let style = match row.verdict {
            "pass" => GOOD,
            "fail" => WRONG,
            _ => UNSURE,
        };
        let short = |v: f64| match v != 0.0 && v.abs() < 1e-3 {
            true => format!("{v:.2e}"),
            false => format_decimals(v, 4),
        };
        let number = |v: Option<f64>, absent: &str| v.map_or(absent.to_owned(), short);
        let interval = match row.decided_by {
            "interval" => format!(
                "[{}, {}] at {} %",
                number(row.low, "–"),
                number(row.high, "–"),
                (row.confidence * 1e4).round() / 1e2
            ),
            _ => "none: by the value alone".to_owned(),
        };
        table.row([
            Cell::styled(row.verdict, style),
            row.claim.as_str().into(),
            format!("{}.{}", row.table, row.column).into(),
            with_error(row.measured, row.stderr).into(),
            interval.into(),
            format!(
                "[{}, {}]",
                number(row.claimed_low, "-inf"),
                number(row.claimed_high, "inf")
            )
            .into(),
            row.note.as_str().into(),
        ]);
    }
    table.without_empty_columns()
}
