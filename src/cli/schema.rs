//! `flowgauge schema config|card|claims`

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::Exit;
use crate::config::Config;
use crate::gate::claims::Claims;
use crate::model::card::Card;
use crate::yaml;

#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Which kind of file
    #[arg(value_enum)]
    file: SchemaFile,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SchemaFile {
    Config,
    Card,
    Claims,
}

impl SchemaArgs {
    pub fn execute(self) -> Result<Exit> {
        let schema = match self.file {
            SchemaFile::Config => yaml::standard_schema::<Config>(),
            SchemaFile::Card => yaml::standard_schema::<Card>(),
            SchemaFile::Claims => yaml::standard_schema::<Claims>(),
        };
        outln!("{}", serde_json::to_string_pretty(&schema)?);
        Ok(Exit::Success)
    }
}
