//! `flowgauge report DIR...`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::Exit;
use crate::publish;

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Run directories: shards of one run make one report, runs of different plans one each
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Writes one report of them all to this folder, different runs side by side
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Prints nothing
    #[arg(long)]
    quiet: bool,
}

impl ReportArgs {
    pub fn execute(self) -> Result<Exit> {
        for dir in publish::publish_runs(&self.dirs, self.out.as_deref())? {
            if !self.quiet {
                outln!("{}", dir.join("index.html").display());
            }
        }
        Ok(Exit::Success)
    }
}
