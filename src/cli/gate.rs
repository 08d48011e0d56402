//! `flowgauge gate DIR --claims FILE`: compares a run with published numbers.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::{Exit, print_summary};
use crate::gate::claims::Claims;
use crate::gate::{ClaimVerdict, check_claims};
use crate::hub;
use crate::journal;
use crate::num::format_decimals;
use crate::output::{Output, OutputKind};
use crate::publish;
use crate::rows::ClaimResult;
use crate::rows::rows_to_csv;

/// The arguments of `flowgauge gate`.
#[derive(Debug, Args)]
pub(super) struct GateArgs {
    /// The run directory, or the directories of all its shards
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
}

impl GateArgs {
    /// Prints a verdict for each claim. The exit status tells whether a claim failed.
    ///
    /// # Errors
    /// Fails if the run or the claims cannot be read, or if the table cannot be written.
    pub(super) fn execute(self) -> Result<Exit> {
        let inputs: Vec<PathBuf> = self
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
        let claims = Claims::read(&hub::local_path(&self.claims)?)?;
        let run = publish::read_results(&self.dirs)?;
        let results = check_claims(&run.tables, &claims)
            .with_context(|| self.claims.display().to_string())?;
        let (verdicts, rows): (Vec<ClaimVerdict>, Vec<ClaimResult>) = results.into_iter().unzip();
        match &out {
            Some(out) => out.write(&rows_to_csv(&rows)?)?,
            None => rows.iter().for_each(print_claim_verdict),
        }
        let count = |verdict| verdicts.iter().filter(|v| **v == verdict).count();
        let [pass, fail, inconclusive] = [
            ClaimVerdict::Pass,
            ClaimVerdict::Fail,
            ClaimVerdict::Inconclusive,
        ]
        .map(count);
        print_summary(
            out.as_ref(),
            format_args!(
                "{} claims: {pass} pass, {fail} fail, {inconclusive} inconclusive",
                rows.len()
            ),
        );
        if !self.quiet && run.outstanding_trials + run.failed_trials > 0 {
            errln!(
                "flowgauge: {} trials are outstanding and {} have failed; \
                 the numbers come from the finished trials only",
                run.outstanding_trials,
                run.failed_trials
            );
        }
        Ok(match (fail, inconclusive) {
            (0, 0) => Exit::Success,
            (0, _) => Exit::Inconclusive,
            _ => Exit::Failed,
        })
    }
}

/// Prints one line: the verdict, the claim, the measured value and the claimed interval.
fn print_claim_verdict(result: &ClaimResult) {
    let short = |v: f64| {
        if v != 0.0 && v.abs() < 1e-3 {
            format!("{v:.2e}")
        } else {
            format_decimals(v, 6)
        }
    };
    let number = |v: Option<f64>, absent: &str| v.map_or(absent.to_owned(), short);
    let interval = match result.decided_by {
        "interval" => format!(
            "[{}, {}] at {} %",
            number(result.low, "–"),
            number(result.high, "–"),
            (result.confidence * 1e4).round() / 1e2
        ),
        _ => "by the value alone, which has no standard error".to_owned(),
    };
    let note = if result.note.is_empty() {
        String::new()
    } else {
        format!("; {}", result.note)
    };
    outln!(
        "{:<12} {}: {}.{} measured {}, {interval}; claimed [{}, {}]{note}",
        result.verdict,
        result.claim,
        result.table,
        result.column,
        number(result.measured, "–"),
        number(result.claimed_low, "-inf"),
        number(result.claimed_high, "inf")
    );
}
