//! `flowgauge completions SHELL`: prints the completions of a shell.

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Exit};

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge completions bash
  flowgauge completions zsh";

/// The arguments of `flowgauge completions`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl CompletionsArgs {
    /// Prints the completions.
    ///
    /// # Errors
    /// Never fails.
    pub(super) fn execute(self) -> Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "flowgauge", &mut script);
        outln!("{}", String::from_utf8_lossy(&script).trim_end());
        Ok(Exit::Success)
    }
}
