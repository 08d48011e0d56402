//! `flowgauge schema config|card|claims`

use anyhow::Result;
use clap::{Args, ValueEnum};
use schemars::schema_for;

use super::Exit;
use crate::config::Config;
use crate::gate::claims::Claims;
use crate::model::card::Card;

#[derive(Debug, Args)]
pub struct Schema {
    /// Which kind of file
    #[arg(value_enum)]
    file: File,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum File {
    Config,
    Card,
    Claims,
}

impl Schema {
    pub fn execute(self) -> Result<Exit> {
        let schema = match self.file {
            File::Config => schema_for!(Config),
            File::Card => schema_for!(Card),
            File::Claims => schema_for!(Claims),
        };
        say!("{}", serde_json::to_string_pretty(&schema)?);
        Ok(Exit::Well)
    }
}
