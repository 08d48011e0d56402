//! `flowgauge card --from KIND PATH`: drafts the card of a model from its exported files.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use super::console::{Answer, JsonArgs};
use super::inspect::InspectArgs;
use super::{Exit, RuntimeArgs};
use crate::draft::{
    CardDraft, DraftKind, GivenFacts, GraphFacts, PipelineFacts, draft_bare_graph, draft_pipeline,
};
use crate::host::with_resolved_folder;
use crate::model::card::Card;
use crate::output::{Output, OutputKind};
use crate::signature;

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge card --from flow-matching models/moons/velocity.onnx --out -
  flowgauge card --from edm models/digits/denoiser.onnx --out -";

/// The arguments of `flowgauge card`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CardArgs {
    /// What wrote the files; `onnx` guesses everything from the graph's inputs and outputs
    #[arg(
        long,
        value_name = "diffusers|edm|torchcfm|flow-matching|score-sde|ddpm|sbi|onnx",
        value_parser = DraftKind::from_name
    )]
    from: DraftKind,
    /// A folder of diffusers with ONNX files, or an ONNX file for the other kinds
    path: PathBuf,
    /// The card to write, beside the files or in a folder above them; `-` prints it [default:
    /// card.yaml beside the files]
    #[arg(long, value_name = "YAML")]
    out: Option<PathBuf>,
    /// The shape of one sample, where the files leave it open, such as 3,32,32
    #[arg(long, value_name = "SIZES", value_parser = SampleShape::parse)]
    shape: Option<SampleShape>,
    /// A value of a further input that is the same for all samples; may be repeated
    #[arg(long = "constant", value_name = "NAME=VALUE")]
    constants: Vec<String>,
    /// Replace a card that exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    json: JsonArgs,
    #[command(flatten)]
    pub(super) runtime_args: RuntimeArgs,
}

/// The shape of one sample on the command line.
#[derive(Debug, Clone)]
struct SampleShape(Vec<usize>);

impl SampleShape {
    /// Parses sizes that are separated by commas.
    ///
    /// # Errors
    /// Fails if a size is no whole number of at least 1.
    fn parse(text: &str) -> Result<SampleShape, String> {
        let plain = text.trim_matches(['[', ']']);
        let sizes = plain
            .split(',')
            .map(|size| size.trim().parse().ok().filter(|n| *n >= 1))
            .collect::<Option<Vec<usize>>>();
        sizes
            .map(SampleShape)
            .ok_or_else(|| "expected sizes separated by commas, such as 3,32,32".to_owned())
    }
}

/// Where the card and the files of the model lie.
struct CardPlace {
    /// The card; `-` prints it.
    out: PathBuf,
    /// What the card writes before the files' names, such as `exports/`; empty beside the files.
    prefix: String,
}

impl CardArgs {
    /// Drafts the card, checks and writes it, and inspects it. The exit status is that of
    /// `inspect`.
    ///
    /// # Errors
    /// Fails if the files cannot be read, if something that a card needs is not known, or if the
    /// card exists. Nothing is written then. Fails also if the written card's networks cannot be
    /// opened.
    pub(super) fn execute(self) -> Result<Exit> {
        let shown = self.path.display();
        if let Some(why) = signature::explain_missing(&self.path) {
            bail!("{shown}: {why}");
        }
        if !self.path.exists() {
            bail!("{shown}: it does not exist, expected the files of a model");
        }
        let folder = self.from == DraftKind::Diffusers;
        if self.path.is_dir() && !folder {
            bail!(
                "{shown}: it is a folder, expected an ONNX file; `--from diffusers` reads folders"
            );
        }
        let place = self.place()?;
        let given = GivenFacts {
            name: self.model_name(),
            shape: self.shape.as_ref().map(|shape| shape.0.clone()),
            constants: self.constants()?,
        };
        let (draft, files) = match folder {
            true => {
                let facts = PipelineFacts::read(&self.path, &place.prefix)?;
                let files = facts.files().into_iter().map(str::to_owned).collect();
                let draft = draft_pipeline(&facts, &given).with_context(|| shown.to_string())?;
                (draft, files)
            }
            false => {
                let file = text_of(Path::new(self.path.file_name().unwrap_or_default()))?;
                let graph = GraphFacts::read(&self.path, format!("{}{file}", place.prefix))?;
                (
                    draft_bare_graph(self.from, &graph, &given)?,
                    vec![graph.file],
                )
            }
        };
        self.write(&draft, &place, &files)?;
        if place.out == Path::new("-") {
            return Ok(Exit::Success);
        }
        let card = place.out.display();
        let guesses = draft.guesses();
        let mut answer = Answer::new("card", "");
        answer.say(format!("wrote {card}"));
        for guess in &guesses {
            answer.say(format!("  guessed {guess}"));
        }
        answer.say("");
        answer.set_path("card", &place.out);
        answer.set("guesses", guesses);
        let (inspection, exit) = InspectArgs::of_card(place.out.clone(), self.runtime_args)
            .inspect()
            .with_context(|| format!("{card} is written, but its model cannot be used"))?;
        answer.append("inspection", inspection);
        Ok(answer.show(self.json, None, exit))
    }

    /// Checks the drafted card and writes it. `files` are the model's, as the card names them.
    ///
    /// # Errors
    /// Fails if the card is not valid, exists, or cannot be written.
    fn write(&self, draft: &CardDraft, place: &CardPlace, files: &[String]) -> Result<()> {
        let text = draft.text();
        Card::parse(&text)
            .with_context(|| format!("{}: the drafted card is not valid", self.path.display()))?;
        let home = place.out.parent().unwrap_or(Path::new(""));
        let inputs: Vec<PathBuf> = files.iter().map(|file| home.join(file)).collect();
        let output = Output::new(OutputKind::Card, "--out", &place.out, &inputs)?;
        self.json.check(Some(&output))?;
        if place.out.is_file() && !self.force {
            bail!(
                "{}: it exists; --force replaces it, and --out names another file",
                place.out.display()
            );
        }
        output.write(text.as_bytes())
    }

    /// Where the card lies, and how it names the files.
    ///
    /// # Errors
    /// Fails if the card would not lie beside the files or in a folder above them.
    fn place(&self) -> Result<CardPlace> {
        let home = match self.from {
            DraftKind::Diffusers => self.path.as_path(),
            _ => self.path.parent().unwrap_or(Path::new("")),
        };
        let Some(out) = self.out.clone() else {
            return Ok(CardPlace {
                out: home.join("card.yaml"),
                prefix: String::new(),
            });
        };
        if out == Path::new("-") {
            return Ok(CardPlace {
                out,
                prefix: String::new(),
            });
        }
        let resolved = |folder: &Path| {
            let file = with_resolved_folder(&folder.join("file"))?;
            file.parent().map(Path::to_owned)
        };
        let outside = || {
            anyhow!(
                "--out {}: a card names files relative to its own folder; expected a file in {} \
                 or in a folder above it",
                out.display(),
                match home == Path::new("") {
                    true => Path::new(".").display(),
                    false => home.display(),
                }
            )
        };
        let card = resolved(out.parent().unwrap_or(Path::new("")));
        let (Some(home), Some(card)) = (resolved(home), card) else {
            return Err(outside());
        };
        let below = home.strip_prefix(&card).map_err(|_| outside())?;
        let mut prefix = String::new();
        for part in below.components() {
            if let Component::Normal(name) = part {
                prefix += &format!("{}/", text_of(Path::new(name))?);
            }
        }
        Ok(CardPlace { out, prefix })
    }

    /// The name of the folder or of the file, from which the card's name is made. A file that is
    /// named for what it is gets the name of its folder.
    fn model_name(&self) -> String {
        let resolved = self.path.canonicalize().unwrap_or(self.path.clone());
        let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
        let folder = resolved.parent().and_then(name).unwrap_or_default();
        match self.from {
            DraftKind::Diffusers => name(&resolved).unwrap_or_default(),
            _ => match self.path.file_stem().map(|stem| stem.to_string_lossy()) {
                Some(stem) if !["model", "network", "unet"].contains(&stem.as_ref()) => {
                    stem.into_owned()
                }
                _ => folder,
            },
        }
    }

    /// The constants that the options give.
    ///
    /// # Errors
    /// Fails if an option is not of the form NAME=VALUE.
    fn constants(&self) -> Result<BTreeMap<String, crate::model::constants::Constant>> {
        let mut found = BTreeMap::new();
        for text in &self.constants {
            let Some((name, value)) = text.split_once('=').filter(|(name, _)| !name.is_empty())
            else {
                bail!("--constant {text}: expected NAME=VALUE, such as training=false");
            };
            if found
                .insert(name.to_owned(), super::parse_spec("--constant", value)?)
                .is_some()
            {
                bail!("--constant {name}: it is given twice");
            }
        }
        Ok(found)
    }
}

/// The text of a path, which a card in YAML needs.
///
/// # Errors
/// Fails if the path is not UTF-8.
fn text_of(path: &Path) -> Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| {
        anyhow!(
            "{}: its name is not UTF-8, and a card cannot name it",
            path.display()
        )
    })
}
