//! `flowgauge run CONFIG`

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::{Exit, RESUMABLE_STATUS, RuntimeArgs};
use crate::config::ConfigFile;
use crate::stop::{self, StopPolicy};
use crate::{plan, publish, run};

/// How long a run may take to notice that it should stop: a statistic looks at nothing, and finished trials are safe.
const STOP_GRACE_PERIOD: Duration = Duration::from_secs(3);
const RESUMABLE_MESSAGE: &str =
    "flowgauge: stopped; finished trials are kept, and the same command goes on from there";

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The config to carry out
    config: PathBuf,
    /// The run directory [default: reports/<name>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Overrides the config's seed
    #[arg(long)]
    seed: Option<u64>,
    /// Changes the config: `likelihood.0.samples=16`
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
    /// Carries out only share I of N of the trials; shards may share a directory, or each have its own
    #[arg(long, value_name = "I/N")]
    shard: Option<plan::Shard>,
    /// Runs trials again that failed earlier
    #[arg(long)]
    retry: bool,
    #[command(flatten)]
    runtime_args: RuntimeArgs,
}

impl RunArgs {
    pub fn execute(self) -> Result<Exit> {
        let written = ConfigFile::read(&self.config, &self.set)?;
        let out = self
            .out
            .unwrap_or_else(|| Path::new("reports").join(&written.config.name));
        let prepared = self.runtime_args.prepare(&written, self.seed, Some(&out))?;
        if !self.runtime_args.quiet {
            prepared.print_notes();
        }
        let prepared = run::match_existing_run(prepared, &out);
        if !self.runtime_args.quiet {
            prepared
                .steps
                .iter()
                .for_each(|found| errln!("flowgauge: {}", found.describe()));
            prepared
                .skipped
                .iter()
                .for_each(|what| errln!("flowgauge: {what}"));
        }
        let options = run::RunOptions {
            out,
            machine: self.runtime_args.machine(),
            shard: self.shard,
            retry: self.retry,
            quiet: self.runtime_args.quiet,
        };
        let runtime = self.runtime_args.runtime()?;
        stop::install_signal_handlers(StopPolicy {
            exit_status: Some(RESUMABLE_STATUS),
            grace_period: Some(STOP_GRACE_PERIOD),
            message: RESUMABLE_MESSAGE.to_owned(),
        });
        match run::execute_run(&written, &prepared, runtime, &options) {
            Ok(run::RunEnd::Completed) => {}
            Ok(run::RunEnd::Stopped { done, total: of }) => {
                errln!(
                    "flowgauge: stopped with {done} of {of} trials done; the same command goes on from there"
                );
                return Ok(Exit::Resumable);
            }
            Err(_) if stop::requested() => {
                errln!("{RESUMABLE_MESSAGE}");
                return Ok(Exit::Resumable);
            }
            Err(error) => return Err(error),
        }
        let published = run::with_run_lock(&options.out, || publish::publish_run(&options.out))?;
        outln!("{}", published.terminal_summary().trim_end_matches('\n'));
        outln!("\nreport: {}", options.out.join("index.html").display());
        if published.outstanding_trials > 0 && !self.runtime_args.quiet {
            errln!(
                "flowgauge: {} trials are outstanding, for other shards",
                published.outstanding_trials
            );
        }
        if published.failed_trials > 0 || published.failed_rows() > 0 {
            errln!(
                "flowgauge: {} trials failed, {} rows are without numbers: see the report",
                published.failed_trials,
                published.failed_rows()
            );
            return Ok(Exit::Failed);
        }
        Ok(Exit::Success)
    }
}
