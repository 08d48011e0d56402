//! `flowgauge run CONFIG`

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::{Exit, RESUMABLE, Running};
use crate::config::Written;
use crate::stop::{self, Leaving};
use crate::{plan, publish, run};

/// How long a run may take to notice that it should stop: a statistic looks at nothing, and finished trials are safe.
const PATIENCE: Duration = Duration::from_secs(3);
const GO_ON: &str =
    "flowgauge: stopped; finished trials are kept, and the same command goes on from there";

#[derive(Debug, Args)]
pub struct Run {
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
    running: Running,
}

impl Run {
    pub fn execute(self) -> Result<Exit> {
        let written = Written::read(&self.config, &self.set)?;
        let out = self
            .out
            .unwrap_or_else(|| Path::new("reports").join(&written.config.name));
        let prepared = self.running.prepare(&written, self.seed, Some(&out))?;
        if !self.running.quiet {
            prepared.tell();
        }
        let prepared = run::as_begun(prepared, &out);
        if !self.running.quiet {
            prepared
                .steps
                .iter()
                .for_each(|found| note!("flowgauge: {}", found.sentence()));
            prepared
                .left_out
                .iter()
                .for_each(|what| note!("flowgauge: {what}"));
        }
        let options = run::Options {
            out,
            machine: self.running.machine(),
            shard: self.shard,
            retry: self.retry,
            quiet: self.running.quiet,
        };
        let runtime = self.running.runtime()?;
        stop::listen(Leaving {
            status: Some(RESUMABLE),
            patience: Some(PATIENCE),
            words: GO_ON.to_owned(),
        });
        match run::run(&written, &prepared, runtime, &options) {
            Ok(run::Ending::Whole) => {}
            Ok(run::Ending::Stopped { done, of }) => {
                note!(
                    "flowgauge: stopped with {done} of {of} trials done; the same command goes on from there"
                );
                return Ok(Exit::Resumable);
            }
            Err(_) if stop::asked() => {
                note!("{GO_ON}");
                return Ok(Exit::Resumable);
            }
            Err(error) => return Err(error),
        }
        let published = run::alone(&options.out, || publish::publish(&options.out))?;
        say!("{}", published.digest().trim_end_matches('\n'));
        say!("\nreport: {}", options.out.join("index.html").display());
        if published.outstanding > 0 && !self.running.quiet {
            note!(
                "flowgauge: {} trials are outstanding, for other shards",
                published.outstanding
            );
        }
        if published.failed_trials > 0 || published.broken_rows() > 0 {
            note!(
                "flowgauge: {} trials failed, {} rows are without numbers: see the report",
                published.failed_trials,
                published.broken_rows()
            );
            return Ok(Exit::Failed);
        }
        Ok(Exit::Well)
    }
}
