//! `flowgauge run CONFIG`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use super::{Exit, Running};
use crate::config::Written;
use crate::{plan, publish, run};

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
        let prepared = plan::prepare(&written, self.seed).with_context(|| self.config.display().to_string())?;
        let out = self.out.unwrap_or_else(|| Path::new("reports").join(&prepared.plan.name));
        let options = run::Options {
            out,
            machine: self.running.machine(),
            shard: self.shard,
            retry: self.retry,
            quiet: self.running.quiet,
        };
        run::run(&written, &prepared, self.running.runtime()?, &options)?;
        let published = run::alone(&options.out, || publish::publish(&options.out))?;
        say!("{}", published.digest().trim_end_matches('\n'));
        say!("\nreport: {}", options.out.join("index.html").display());
        if published.outstanding > 0 && !self.running.quiet {
            note!("flowgauge: {} trials are outstanding, for other shards", published.outstanding);
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
