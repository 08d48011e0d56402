//! `flowgauge init CARD`: writes a config for a model, with a comment on every key.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::Exit;
use super::console::{Answer, JsonArgs};
use crate::config::Config;
use crate::data::{Dataset, path_without_member};
use crate::draft::{ConfigFacts, draft_config};
use crate::graph::{self, Mode};
use crate::hub;
use crate::model::loaded::Model;
use crate::output::{Output, OutputKind};
use crate::plan::relative_path;
use crate::yaml;

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge init models/moons/card.yaml --data models/moons/heldout.npy
  flowgauge init models/digits/card.yaml --out -";

/// The arguments of `flowgauge init`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct InitArgs {
    /// The model card (YAML)
    card: PathBuf,
    /// The data of the model, of which its log-likelihoods are measured and with which its samples are
    /// compared [default: a placeholder, which the config marks]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// The config to write; `-` prints it [default: the model's name with .yaml]
    #[arg(long, value_name = "YAML")]
    out: Option<PathBuf>,
    /// Replace a config that exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    json: JsonArgs,
}

impl InitArgs {
    /// Writes the config.
    ///
    /// # Errors
    /// Fails if the card or the data are wrong, or if the config exists. Nothing is written then.
    pub(super) fn execute(self) -> Result<Exit> {
        let card = hub::local_path(&self.card)?;
        let model = Model::open(&card)?;
        let name = model.card.name.clone();
        let out = self.out.clone().unwrap_or_else(|| {
            let plain = |c: char| {
                if c.is_alphanumeric() || "-_.".contains(c) {
                    c
                } else {
                    '-'
                }
            };
            PathBuf::from(format!(
                "{}.yaml",
                name.chars().map(plain).collect::<String>()
            ))
        });
        let mut inputs = model.file_paths();
        inputs.extend(self.data.as_deref().map(path_without_member));
        let output = Output::new(OutputKind::Config, "--out", &out, &inputs)?;
        self.json.check(Some(&output))?;
        if out.is_file() && !self.force {
            bail!(
                "{}: it exists; --force replaces it, and --out names another file",
                out.display()
            );
        }
        let samples = match &self.data {
            Some(file) => Some(check_data(file, &model)?),
            None => None,
        };
        let facts = self.facts(&model, &out, samples)?;
        let text = draft_config(&facts);
        yaml::from_yaml_str::<Config>(&text).context("the drafted config is not valid")?;
        output.write(text.as_bytes())?;
        let next = match facts.data {
            Some(_) => format!("`flowgauge plan {}` prints what it costs", out.display()),
            None => "write your files in the place of PLACEHOLDER.npy".to_owned(),
        };
        let mut answer = Answer::new(
            "init",
            format!("config for {name}; {next}: {}", out.display()),
        );
        answer.set_path("card", &self.card);
        answer.set("data", &self.data);
        answer.set_path("config", &out);
        Ok(answer.show(self.json, Some(&output), Exit::Success))
    }

    /// What the config is drafted from. `samples` is the number of samples of the data.
    ///
    /// # Errors
    /// Fails if the network's graph cannot be read, or if a path is not UTF-8.
    fn facts(&self, model: &Model, out: &Path, samples: Option<usize>) -> Result<ConfigFacts> {
        let card = &model.card;
        let data = match (&self.data, samples) {
            (Some(file), Some(samples)) => Some((path_for_config(out, file)?, samples)),
            _ => None,
        };
        let trace_terms = match card.one_call.is_none() {
            true => trace_terms(model)?,
            false => None,
        };
        let conditions = card.network.conditions.iter();
        Ok(ConfigFacts {
            name: card.name.clone(),
            card: path_for_config(out, &self.card)?,
            data,
            shape: model.sample_shape(),
            levels: card.data.and_then(|data| data.levels),
            trace_terms,
            has_kinks: model.kink("network")?.is_some(),
            is_one_call: card.one_call.is_some(),
            has_closed_form: card.closed_form.is_some(),
            heads: card.divergence_heads.keys().cloned().collect(),
            conditions: conditions
                .map(|(name, spec)| (name.clone(), spec.null.is_some()))
                .collect(),
            path: card.path.clone(),
        })
    }
}

/// Checks that data fit the model, and returns their number of samples.
///
/// # Errors
/// Fails if the file cannot be read, or if its samples have another shape than the card's.
fn check_data(file: &Path, model: &Model) -> Result<usize> {
    let data = Dataset::read(file)?;
    let card = match model.encodes(data.values.len() / data.len().max(1)) {
        true => &model.data_card,
        false => &model.card,
    };
    let data = data.with_layout(None, &card.shape)?;
    data.check_fits(card)?;
    Ok(data.len())
}

/// The number of Jacobian products of the exact trace; `None` if the network cannot be differentiated.
///
/// # Errors
/// Fails if the graph cannot be read.
fn trace_terms(model: &Model) -> Result<Option<u64>> {
    let (network, graph) = (&model.card.network, model.network_graph_with_known_axes()?);
    let obstacles = graph::obstacles(
        &graph,
        Mode::Jvp,
        Some(&network.inputs.x),
        Some(&network.output),
    );
    let terms = || model.trace_terms().unwrap_or(model.dim() as u64);
    Ok(obstacles.is_empty().then(terms))
}

/// A path as a config at `out` writes it: relative to its folder, or as it stands if the config is
/// printed or the file is on the Hub.
///
/// # Errors
/// Fails if the path is not UTF-8.
fn path_for_config(out: &Path, file: &Path) -> Result<String> {
    let is_remote = file.to_string_lossy().starts_with("hf://");
    let path = match out.parent() {
        Some(folder) if folder != Path::new("") && !is_remote => {
            // An array inside an archive is named behind the archive: `data.npz:images`.
            let archive = path_without_member(file);
            let text = file.to_string_lossy().into_owned();
            let member = text
                .strip_prefix(&*archive.to_string_lossy())
                .unwrap_or_default();
            let mut path = relative_path(folder, &archive).into_os_string();
            path.push(member);
            PathBuf::from(path)
        }
        _ => file.to_owned(),
    };
    let text = path.to_str().map(|text| text.replace('\\', "/"));
    text.with_context(|| {
        format!(
            "{}: its name is not UTF-8, and a config cannot name it",
            file.display()
        )
    })
}
