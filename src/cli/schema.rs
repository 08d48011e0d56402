//! `flowgauge schema config|card|claims`

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::Exit;
use crate::config::Config;
use crate::gate::claims::Claims;
use crate::model::card::Card;
use crate::yaml;

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
            File::Config => yaml::standard::<Config>(),
            File::Card => yaml::standard::<Card>(),
            File::Claims => yaml::standard::<Claims>(),
        };
        say!("{}", serde_json::to_string_pretty(&schema)?);
        Ok(Exit::Well)
    }
}
