//! `flowgauge schema config|card|claims`: prints a JSON Schema.

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::Exit;
use crate::config::Config;
use crate::gate::claims::Claims;
use crate::model::card::AnyCard;
use crate::yaml;

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge schema config
  flowgauge schema card";

/// The arguments of `flowgauge schema`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SchemaArgs {
    /// The kind of file
    #[arg(value_enum)]
    file: SchemaFile,
}

/// The files that have a schema.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum SchemaFile {
    /// The config of `flowgauge run`
    Config,
    /// The card of a model
    Card,
    /// The published numbers of `flowgauge gate`
    Claims,
}

impl SchemaArgs {
    /// Prints the JSON Schema.
    ///
    /// # Errors
    /// Fails if the schema cannot be written as JSON.
    pub(super) fn execute(self) -> Result<Exit> {
        let schema = match self.file {
            SchemaFile::Config => yaml::standard_schema::<Config>(),
            SchemaFile::Card => yaml::standard_schema::<AnyCard>(),
            SchemaFile::Claims => yaml::standard_schema::<Claims>(),
        };
        outln!("{}", serde_json::to_string_pretty(&schema)?);
        Ok(Exit::Success)
    }
}
