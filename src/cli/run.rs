//! `flowgauge run CONFIG`: runs all trials of a config and writes the report.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::console::{Answer, JsonArgs};
use super::run_summary::{add_run_tables, answer_line, run_document};
use super::{Exit, RESUMABLE_STATUS, RuntimeArgs};
use crate::config::ConfigFile;
use crate::stop::{self, StopPolicy};
use crate::{plan, publish, run};

/// How long a run may take to stop after a signal. A statistic does not check for signals, so that
/// the process must end without it. Finished trials are safe in the journal.
const STOP_GRACE_PERIOD: Duration = Duration::from_secs(3);
/// The message for a run that a signal stopped.
const RESUMABLE_MESSAGE: &str =
    "flowgauge: stopped; finished trials are kept, and the same command goes on from there";

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge run configs/quickstart.yaml
  flowgauge run configs/quickstart.yaml --set likelihood.0.samples=16 --out reports/first
  flowgauge run configs/few-step.yaml --progress json --json";

/// The arguments of `flowgauge run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    /// The config file (YAML)
    config: PathBuf,
    /// The run directory [default: reports/<name>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Override the config's seed
    #[arg(long)]
    seed: Option<u64>,
    /// Change a value of the config, such as `likelihood.0.samples=16`; may be repeated
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
    /// Run only share I of N of the trials; shards may use one directory or several
    #[arg(long, value_name = "I/N")]
    shard: Option<plan::Shard>,
    /// Run the trials again that failed in an earlier call
    #[arg(long)]
    retry: bool,
    /// Do not check the cards by the data before the run
    #[arg(long)]
    no_check: bool,
    #[command(flatten)]
    json: JsonArgs,
    #[command(flatten)]
    pub(super) runtime_args: RuntimeArgs,
}

impl RunArgs {
    /// Runs the trials that are not finished yet, and publishes the report.
    ///
    /// # Errors
    /// Fails if the config, a card or the data are wrong, or if a file cannot be written.
    pub(super) fn execute(self) -> Result<Exit> {
        let config_file = ConfigFile::read(&self.config, &self.set)?;
        let out = self
            .out
            .unwrap_or_else(|| Path::new("reports").join(&config_file.config.name));
        let prepared = self
            .runtime_args
            .prepare(&config_file, self.seed, Some(&out))?;
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
            check: !self.no_check,
        };
        let runtime = self.runtime_args.runtime()?;
        stop::install_signal_handlers(StopPolicy {
            exit_status: Some(RESUMABLE_STATUS),
            grace_period: Some(STOP_GRACE_PERIOD),
            message: RESUMABLE_MESSAGE.to_owned(),
        });
        match run::execute_run(&config_file, &prepared, runtime, &options) {
            Ok(run::RunEnd::Completed) => {}
            Ok(run::RunEnd::Stopped { done, total }) => {
                errln!(
                    "flowgauge: stopped with {done} of {total} trials done; \
                     the same command goes on from there"
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
        let page = options.out.join("index.html");
        let has_failed = published.failed_trials > 0 || published.failed_rows() > 0;
        let exit = match has_failed {
            true => Exit::Failed,
            false => Exit::Success,
        };
        let mut answer = Answer::new("run", answer_line(&published, &page));
        add_run_tables(&mut answer, &published);
        for (key, value) in run_document(&published, &page)? {
            answer.set(&key, value);
        }
        if published.outstanding_trials > 0 && !self.runtime_args.quiet {
            errln!(
                "flowgauge: {} trials are outstanding; they belong to other shards",
                published.outstanding_trials
            );
        }
        if has_failed {
            errln!(
                "flowgauge: {} trials failed and {} rows have no numbers; see the report",
                published.failed_trials,
                published.failed_rows()
            );
        }
        Ok(answer.show(self.json, None, exit))
    }
}
