//! `flowgauge report DIR...`: rebuilds the derived files of runs.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::Exit;
use crate::publish;

/// The arguments of `flowgauge report`.
#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Run directories: the shards of one run give one report, each other run gives its own
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Write one report of all directories to this folder, with different runs side by side
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print nothing
    #[arg(long)]
    quiet: bool,
}

impl ReportArgs {
    /// Writes the reports and prints the path of each `index.html`.
    ///
    /// # Errors
    /// Fails if a directory is not a run, or if a file cannot be written.
    pub(super) fn execute(self) -> Result<Exit> {
        for dir in publish::publish_runs(&self.dirs, self.out.as_deref())? {
            if !self.quiet {
                outln!("{}", dir.join("index.html").display());
            }
        }
        Ok(Exit::Success)
    }
}
