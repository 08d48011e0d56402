//! `flowgauge gate DIR --claims FILE`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::{Exit, print_summary};
use crate::gate::claims::Claims;
use crate::gate::{ClaimResult, ClaimVerdict, check_claims};
use crate::journal;
use crate::num::format_decimals;
use crate::output::{Output, OutputKind};
use crate::publish;
use crate::rows::rows_to_csv;

#[derive(Debug, Args)]
pub struct GateArgs {
    /// The run directory, or those of its shards
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// The published numbers with their tolerances: `flowgauge schema claims` says how they are written
    #[arg(long, value_name = "FILE")]
    claims: PathBuf,
    /// Writes the verdicts to this table instead of standard output
    #[arg(long, value_name = "CSV")]
    out: Option<PathBuf>,
    /// No remarks on standard error
    #[arg(long)]
    quiet: bool,
}

impl GateArgs {
    pub fn execute(self) -> Result<Exit> {
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
        let claims = Claims::read(&self.claims)?;
        let run = publish::read_results(&self.dirs)?;
        let held = check_claims(&run.tables, &claims)
            .with_context(|| self.claims.display().to_string())?;
        let (verdicts, rows): (Vec<ClaimVerdict>, Vec<ClaimResult>) = held.into_iter().unzip();
        match &out {
            Some(out) => out.write(&rows_to_csv(&rows)?)?,
            None => rows.iter().for_each(print_claim_verdict),
        }
        let count = |verdict| verdicts.iter().filter(|v| **v == verdict).count();
        let [pass, fail, open] = [
            ClaimVerdict::Pass,
            ClaimVerdict::Fail,
            ClaimVerdict::Inconclusive,
        ]
        .map(count);
        print_summary(
            out.as_ref(),
            format_args!(
                "{} claims: {pass} pass, {fail} fail, {open} inconclusive",
                rows.len()
            ),
        );
        if !self.quiet && run.outstanding_trials + run.failed_trials > 0 {
            errln!(
                "flowgauge: {} trials are outstanding and {} have failed: the numbers are of those that finished",
                run.outstanding_trials,
                run.failed_trials
            );
        }
        Ok(match (fail, open) {
            (0, 0) => Exit::Success,
            (0, _) => Exit::Inconclusive,
            _ => Exit::Failed,
        })
    }
}

fn print_claim_verdict(held: &ClaimResult) {
    let short = |v: f64| {
        if v != 0.0 && v.abs() < 1e-3 {
            format!("{v:.2e}")
        } else {
            format_decimals(v, 6)
        }
    };
    let number = |v: Option<f64>, absent: &str| v.map_or(absent.to_owned(), short);
    let interval = match held.decided_by {
        "interval" => format!(
            "[{}, {}] at {} %",
            number(held.low, "–"),
            number(held.high, "–"),
            (held.confidence * 1e4).round() / 1e2
        ),
        _ => "by the value alone, which has no standard error".to_owned(),
    };
    let note = if held.note.is_empty() {
        String::new()
    } else {
        format!("; {}", held.note)
    };
    outln!(
        "{:<12} {}: {}.{} measured {}, {interval}; claimed [{}, {}]{note}",
        held.verdict,
        held.claim,
        held.table,
        held.column,
        number(held.measured, "–"),
        number(held.claimed_low, "-inf"),
        number(held.claimed_high, "inf")
    );
}
