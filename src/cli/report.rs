//! `flowgauge report DIR...`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::Exit;
use crate::publish;

#[derive(Debug, Args)]
pub struct Report {
    /// Run directories; of several, each gets its own report
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Prints nothing
    #[arg(long)]
    quiet: bool,
}

impl Report {
    pub fn execute(self) -> Result<Exit> {
        for dir in &self.dirs {
            publish::publish(dir)?;
            if self.quiet {
                continue;
            }
            say!("{}", dir.join("index.html").display());
        }
        Ok(Exit::Well)
    }
}
