//! `flowgauge man`: prints the manual page, or writes that of every verb.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;

use super::console::{Answer, JsonArgs};
use super::{Cli, Exit};
use crate::output::{check_output_folder, write_atomic};

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge man
  flowgauge man --out man1";

/// The arguments of `flowgauge man`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ManArgs {
    /// Write `flowgauge.1` and a page for each verb to this folder [default: print the first]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The manual page of a command.
fn page(command: Command) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    Ok(page)
}

impl ManArgs {
    /// Prints one page or writes all.
    ///
    /// # Errors
    /// Fails if a page cannot be written.
    pub(super) fn execute(self) -> Result<Exit> {
        let command = Cli::command();
        let Some(out) = &self.out else {
            outln!("{}", String::from_utf8_lossy(&page(command)?).trim_end());
            return Ok(Exit::Success);
        };
        check_output_folder(out)?;
        for verb in command
            .get_subcommands()
            .filter(|verb| verb.get_name() != "help")
        {
            let name = format!("flowgauge-{}", verb.get_name());
            let named = verb
                .clone()
                .name(name.clone())
                .bin_name(name.replacen('-', " ", 1));
            write_atomic(&out.join(format!("{name}.1")), &page(named)?)?;
        }
        let count = command.get_subcommands().count();
        write_atomic(&out.join("flowgauge.1"), &page(command)?)?;
        let line = format!(
            "{count} manual pages: {}",
            out.join("flowgauge.1").display()
        );
        Ok(Answer::new("man", line).show(JsonArgs::default(), None, Exit::Success))
    }
}
