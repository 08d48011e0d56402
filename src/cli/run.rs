//! `flowgauge run CONFIG`: runs all trials of a config and writes the report.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use super::console::{Answer, JsonArgs};
use super::run_summary::{add_run_tables, answer_line, run_document};
use super::{Exit, RESUMABLE_STATUS, RuntimeArgs};
use crate::config::ConfigFile;
use crate::journal::{Journal, RemoteRun};
use crate::stop::{self, StopPolicy};
use crate::{plan, publish, run};

/// How long a run may take to stop after a signal. A statistic does not check for signals, so that
/// the process must end without it. Finished trials are safe in the journal.
const STOP_GRACE_PERIOD: Duration = Duration::from_secs(3);
/// The least time of a lease. A shorter one would be renewed too often.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);
/// The message for a run that a signal stopped.
const RESUMABLE_MESSAGE: &str =
    "flowgauge: stopped; finished trials are kept, and the same command goes on from there";

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge run configs/quickstart.yaml
  flowgauge run configs/quickstart.yaml --set likelihood.0.samples=16 --out reports/first
  flowgauge run configs/quickstart.yaml --out s3://bucket/runs/first --claim";

/// The arguments of `flowgauge run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    /// The config file (YAML)
    config: PathBuf,
    /// The run directory, or an address such as `s3://bucket/prefix`, `gs://…` or `az://…`, with
    /// credentials in the environment [default: reports/<name>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Override the config's seed
    #[arg(long)]
    seed: Option<u64>,
    /// Change a value of the config, such as `likelihood.0.samples=16`; may be repeated
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
    /// Run only share I of N of the trials, or the share that an engine such as Slurm, MPI or
    /// Kubernetes tells; shards may use one directory or several
    #[arg(long, value_name = "I/N|auto")]
    shard: Option<plan::ShardChoice>,
    /// Take trials as other processes with the same command do; any number of them may use one
    /// directory, and the trials of a process that dies are taken over
    #[arg(long, conflicts_with = "shard")]
    claim: bool,
    /// How long a process must be silent until others take over its trials, such as `2m`
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_lease, requires = "claim")]
    lease: Duration,
    /// Stop by itself within this time, such as `55m`: no trial is begun that is not expected to end
    /// in time
    #[arg(long, value_name = "TIME", value_parser = parse_time_limit)]
    time_limit: Option<Duration>,
    /// How long the trial in hand may go on after SIGTERM, SIGUSR1 or SIGUSR2
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = humantime::parse_duration)]
    grace: Duration,
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
        let began = Instant::now();
        let part = self.part()?;
        let config_file = ConfigFile::read(&self.config, &self.set)?;
        let out = self
            .out
            .clone()
            .unwrap_or_else(|| Path::new("reports").join(&config_file.config.name));
        let remote = RemoteRun::open(&out)?.map(Arc::new);
        let out = match &remote {
            None => out,
            Some(remote) => {
                remote.look_before_run()?;
                remote.dir().to_owned()
            }
        };
        let part = self.part_in(part, remote.as_deref())?;
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
        let time_limit = self.time_limit.map(|lasts| run::TimeLimit { began, lasts });
        let options = run::RunOptions {
            out,
            remote,
            machine: self.runtime_args.machine(),
            part,
            time_limit,
            retry: self.retry,
            quiet: self.runtime_args.quiet,
            check: !self.no_check,
        };
        let runtime = self.runtime_args.runtime()?;
        let policy = StopPolicy {
            exit_status: Some(RESUMABLE_STATUS),
            grace_period: Some(STOP_GRACE_PERIOD),
            farewell: Some(self.grace),
            message: RESUMABLE_MESSAGE.to_owned(),
        };
        stop::install_signal_handlers(policy.clone());
        if let Some(limit) = self.time_limit {
            // What is broken off then ends within the limit.
            let time = limit.saturating_sub(began.elapsed() + STOP_GRACE_PERIOD);
            stop::break_off_after(time, policy);
        }
        let team = match run::execute_run(&config_file, &prepared, runtime, &options) {
            Ok(run::RunEnd::Completed(team)) => team,
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
            Err(error) => return Err(with_addresses(&options, error)),
        };
        // The report is made of what the run has written, and needs the memory.
        drop(prepared);
        let publish = || match &options.remote {
            None => publish::publish_run(&options.out),
            Some(remote) => publish_remote(remote),
        };
        let published = match team {
            None => run::with_run_lock(&options.out, publish)?,
            Some(team) => match team.once("report", publish)? {
                Some(published) => published,
                None => return finish_without_report(&options, self.json),
            },
        };
        let page = shown_dir(&options).join("index.html");
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
                "flowgauge: {} trials are outstanding; they belong to other shards, and \
                 `flowgauge status {}` tells which of them nobody runs",
                published.outstanding_trials,
                shown_dir(&options).display()
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

    /// Which trials this process executes: in an object store those that it claims.
    ///
    /// # Errors
    /// Fails if a shard was asked for, which shares its directory by other means.
    fn part_in(&self, part: run::RunPart, remote: Option<&RemoteRun>) -> Result<run::RunPart> {
        let (Some(remote), false) = (remote, self.claim) else {
            return Ok(part);
        };
        let address = remote.folder().address();
        if self.shard.is_some() {
            bail!(
                "--shard: {address} is in an object store, where processes take trials as they go; \
                 expected --claim, or a directory of this machine"
            );
        }
        if !self.runtime_args.quiet {
            errln!("flowgauge: {address}: trials are taken as with --claim; others may join");
        }
        Ok(run::RunPart::Claims { lease: self.lease })
    }

    /// Which trials this process executes.
    ///
    /// # Errors
    /// Fails if the variables of an engine are missing or contradict one another.
    fn part(&self) -> Result<run::RunPart> {
        match self.shard {
            None if self.claim => Ok(run::RunPart::Claims { lease: self.lease }),
            None => Ok(run::RunPart::Whole),
            Some(plan::ShardChoice::Given(shard)) => Ok(run::RunPart::Shard(shard)),
            Some(plan::ShardChoice::Auto) => {
                let found = plan::shard_of_environment(&|name| std::env::var(name).ok())
                    .map_err(anyhow::Error::msg)?;
                if !self.runtime_args.quiet {
                    errln!("flowgauge: shard {} from {}", found.shard, found.source);
                }
                Ok(run::RunPart::Shard(found.shard))
            }
        }
    }
}

/// Publishes a run in an object store, from a copy with the files of all trials.
///
/// # Errors
/// Fails if the store refuses, or if a file is damaged.
fn publish_remote(remote: &RemoteRun) -> Result<publish::RunResults> {
    let whole = RemoteRun::of_folder(remote.folder().clone())?;
    let published = whole
        .fetch_all()
        .and_then(|()| publish::publish_run(whole.dir()))
        .map_err(|error| whole.with_addresses_in(error))?;
    whole.put_report()?;
    Ok(published)
}

/// The run directory, or the address of the run, as the user knows it.
fn shown_dir(options: &run::RunOptions) -> PathBuf {
    match &options.remote {
        Some(remote) => PathBuf::from(remote.folder().address()),
        None => options.out.clone(),
    }
}

/// An error that names the address of the run instead of its copy.
fn with_addresses(options: &run::RunOptions, error: anyhow::Error) -> anyhow::Error {
    match &options.remote {
        Some(remote) => remote.with_addresses_in(error),
        None => error,
    }
}

/// Ends a process whose run another process has published.
///
/// # Errors
/// Fails if the journals cannot be read.
fn finish_without_report(options: &run::RunOptions, json: JsonArgs) -> Result<Exit> {
    let journal = Journal::read(&options.out)?;
    let failed = journal.failed_trials();
    if !options.quiet {
        errln!("flowgauge: all trials are done, and another process has written the report");
    }
    let page = shown_dir(options).join("index.html");
    let mut answer = Answer::new("run", format!("report: {}", page.display()));
    answer.set_path("report", &page);
    answer.set("failed_trials", failed);
    let exit = match failed {
        0 => Exit::Success,
        _ => {
            errln!("flowgauge: {failed} trials failed; see the report");
            Exit::Failed
        }
    };
    Ok(answer.show(json, None, exit))
}

/// Parses the time of a lease.
fn parse_lease(text: &str) -> Result<Duration, String> {
    let lease = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    match lease >= SHORTEST_LEASE {
        true => Ok(lease),
        false => Err("expected at least 1s".to_owned()),
    }
}

/// Parses the time that a run may take.
fn parse_time_limit(text: &str) -> Result<Duration, String> {
    let limit = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    match limit > STOP_GRACE_PERIOD {
        true => Ok(limit),
        false => Err(format!(
            "expected more than {}s",
            STOP_GRACE_PERIOD.as_secs()
        )),
    }
}
