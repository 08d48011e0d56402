//! Cards for folders in the layout of diffusers' pipelines, as optimum exports them to ONNX.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::card_text::{
    CardDraft, DraftEntry, Origin, plain_name, yaml_map, yaml_number, yaml_sizes, yaml_string,
};
use super::graph_facts::{GraphFacts, describe_port};
use super::json_file::JsonFile;
use super::kind::DraftKind;
use super::network_block::{ConfiguredSizes, NetworkReading, axis_size, draft_network, is_image};
use super::roles::{GivenFacts, LABEL_NAMES, PortNames, find_roles, is_named};
use super::scheduler::{SchedulerReading, read_scheduler};
use crate::graph::Port;

/// The names that optimum gives to the ports of networks.
const PIPELINE_PORTS: PortNames = PortNames {
    state: &["sample", "hidden_states"],
    time: &["timestep", "timesteps", "t"],
    output: &["out_sample", "out_hidden_states", "sample", "output"],
};

/// The folders of networks in a pipeline.
const NETWORK_FOLDERS: [&str; 2] = ["unet", "transformer"];

/// A part of a pipeline: a graph and the config beside it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PipelinePart {
    /// The graph.
    pub(super) graph: GraphFacts,
    /// The config; `None` if there is none.
    pub(super) config: Option<JsonFile>,
}

/// What a folder of diffusers holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PipelineFacts {
    /// `model_index.json`.
    pub(super) index: JsonFile,
    /// `scheduler/scheduler_config.json`.
    pub(super) scheduler: JsonFile,
    /// The network of the reverse process.
    pub(super) network: PipelinePart,
    /// The network from images to latents.
    pub(super) encoder: Option<PipelinePart>,
    /// The network from latents to images.
    pub(super) decoder: Option<PipelinePart>,
    /// Whether the pipeline has an autoencoder that was not exported.
    pub(super) has_unexported_autoencoder: bool,
    /// The file with a table of betas, as the card names it.
    pub(super) betas_file: Option<String>,
    /// The file with the null condition of the context, as the card names it.
    pub(super) null_file: Option<String>,
}

impl PipelineFacts {
    /// Reads a folder. The card names its files with `prefix` before their names.
    ///
    /// # Errors
    /// Fails if the folder is not a pipeline of diffusers, or if its network was not exported to
    /// ONNX.
    pub(crate) fn read(folder: &Path, prefix: &str) -> Result<PipelineFacts> {
        let shown = folder.display();
        if !folder.is_dir() {
            bail!(
                "{shown}: it is no folder, expected a folder with model_index.json as diffusers \
                 and optimum write it"
            );
        }
        let Some(index) = JsonFile::read(folder, "model_index.json")? else {
            bail!(
                "{shown}: it has no model_index.json, expected a folder as diffusers and optimum \
                 write it"
            );
        };
        let scheduler = "scheduler/scheduler_config.json";
        let Some(scheduler) = JsonFile::read(folder, scheduler)? else {
            bail!(
                "{shown}: it has no {scheduler}, which says what the network predicts and on \
                 which path"
            );
        };
        if let Some(second) = (NETWORK_FOLDERS.iter())
            .map(|name| format!("{name}_2"))
            .find(|name| folder.join(name).is_dir())
        {
            bail!(
                "{shown}: it has two networks for two ranges of noise ({second}), and a card has \
                 one"
            );
        }
        let mut networks = Vec::new();
        for name in NETWORK_FOLDERS {
            networks.extend(PipelinePart::read(folder, name, prefix)?);
        }
        let network = match (networks.pop(), networks.pop()) {
            (Some(network), None) => network,
            (Some(_), Some(_)) => {
                bail!("{shown}: it has networks in both unet and transformer, expected one of them")
            }
            (None, _) => bail!("{}", missing_network(folder)),
        };
        let has = |name: &str| {
            folder
                .join(name)
                .is_file()
                .then(|| format!("{prefix}{name}"))
        };
        let encoder = PipelinePart::read(folder, "vae_encoder", prefix)?;
        let decoder = PipelinePart::read(folder, "vae_decoder", prefix)?;
        Ok(PipelineFacts {
            has_unexported_autoencoder: index.get("vae").is_some()
                || index.get("vqvae").is_some()
                || ["vae", "vqvae", "movq"]
                    .iter()
                    .any(|n| folder.join(n).is_dir()),
            index,
            scheduler,
            network,
            encoder,
            decoder,
            betas_file: has("scheduler/betas.npy"),
            null_file: has("null.npy"),
        })
    }

    /// Returns the files that were read and that the card names.
    pub(crate) fn files(&self) -> Vec<&str> {
        let parts = [
            Some(&self.network),
            self.encoder.as_ref(),
            self.decoder.as_ref(),
        ];
        let graphs = parts
            .into_iter()
            .flatten()
            .map(|part| part.graph.file.as_str());
        graphs.collect()
    }
}

/// Explains why a folder has no network.
fn missing_network(folder: &Path) -> String {
    let shown = folder.display();
    let weights = NETWORK_FOLDERS
        .iter()
        .find(|name| folder.join(name).is_dir());
    match weights {
        Some(name) => format!(
            "{shown}: {name}/ has no ONNX file, expected {name}/model.onnx; export the pipeline, \
             for example with `optimum-cli export onnx --model FOLDER OUT`"
        ),
        None => format!(
            "{shown}: it has no network, expected unet/model.onnx or transformer/model.onnx"
        ),
    }
}

impl PipelinePart {
    /// Reads the graph and the config in a folder of the pipeline. `None` if it has no graph.
    ///
    /// # Errors
    /// Fails if a file cannot be read, or if it is not clear which of several graphs is meant.
    fn read(folder: &Path, name: &str, prefix: &str) -> Result<Option<PipelinePart>> {
        let home = folder.join(name);
        if !home.is_dir() {
            return Ok(None);
        }
        let file = match home.join("model.onnx").exists() {
            true => "model.onnx".to_owned(),
            false => match &onnx_files(&home)?[..] {
                [] => return Ok(None),
                [one] => one.clone(),
                several => bail!(
                    "{}: it has {}, expected model.onnx or one ONNX file",
                    home.display(),
                    several.join(", ")
                ),
            },
        };
        let graph = GraphFacts::read(&home.join(&file), format!("{prefix}{name}/{file}"))?;
        let config = JsonFile::read(folder, &format!("{name}/config.json"))?;
        Ok(Some(PipelinePart { graph, config }))
    }
}

/// Returns the names of the ONNX files in a folder, sorted.
///
/// # Errors
/// Fails if the folder cannot be read.
fn onnx_files(folder: &Path) -> Result<Vec<String>> {
    let unreadable = || format!("{}: it cannot be read", folder.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(unreadable)? {
        let name = entry.with_context(unreadable)?.file_name();
        let name = name.to_string_lossy().into_owned();
        if name.to_lowercase().ends_with(".onnx") {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

/// Drafts a card for a pipeline of diffusers.
///
/// # Errors
/// Fails if something that a card needs cannot be determined. The message names the file and what
/// would help.
pub(crate) fn draft_pipeline(facts: &PipelineFacts, given: &GivenFacts) -> Result<CardDraft> {
    let graph = &facts.network.graph;
    refuse_packed_tokens(graph)?;
    let roles = find_roles(graph, &PIPELINE_PORTS, given)?;
    if roles.time.is_none() {
        bail!(
            "{}: it has no input `timestep`, so that the time is baked into the graph; export it \
             with the time as an input; the graph has {}",
            graph.file,
            graph.list_inputs()
        );
    }
    let scheduler = read_scheduler(&facts.scheduler, facts.betas_file.as_deref())?;
    let sizes = configured_sizes(&facts.network)?;
    let reading = NetworkReading {
        prediction: scheduler.prediction,
        prediction_origin: scheduler.prediction_origin.clone(),
        time: scheduler.time.clone(),
        time_origin: scheduler.time_origin.clone(),
        allows_whole_times: scheduler.allows_whole_times,
        preconditioning: scheduler.preconditioning.clone(),
        sole_condition: None,
    };
    let null_classes = null_class(&facts.network)?;
    let null_of = |port: &Port| {
        if is_named(port, LABEL_NAMES) {
            return null_classes.clone();
        }
        let file = facts.null_file.as_ref()?;
        (port.name == "encoder_hidden_states").then(|| {
            let why = format!("{file}, the embedding of the empty text");
            (yaml_string(file), why)
        })
    };
    let keys = draft_network(graph, &roles, &reading, &sizes, given, &null_of)?;
    let latent = latent_entries(facts, &keys.shape)?;

    let pipeline = facts.index.string("_class_name")?;
    let pipeline = pipeline.unwrap_or_else(|| "a pipeline without a name".to_owned());
    let mut draft = CardDraft::new(DraftKind::Diffusers, pipeline);
    draft.push(DraftEntry::new(
        "name",
        yaml_string(&plain_name(&given.name)),
        Origin::read("the name of the folder"),
    ));
    draft.push(keys.shape_entry);
    draft.push(keys.network_entry);
    draft.push(DraftEntry::new(
        "path",
        scheduler.path.as_str(),
        scheduler.path_origin.clone(),
    ));
    let decodes = latent.is_some();
    if let Some(entries) = latent {
        draft.push(DraftEntry::block("latent", entries));
    }
    if decodes || (!facts.has_unexported_autoencoder && is_image(&keys.shape)) {
        let yaml = yaml_map([
            ("range", scheduler.range.to_owned()),
            ("levels", "256".to_owned()),
        ]);
        let words = format!("diffusers scales images of bytes to {}", scheduler.range);
        draft.push(DraftEntry::new("data", yaml, Origin::convention(words)));
    }
    add_remarks(&mut draft, facts, &scheduler, &keys.conditions, decodes);
    Ok(draft)
}

/// Appends what the card does not say.
fn add_remarks(
    draft: &mut CardDraft,
    facts: &PipelineFacts,
    scheduler: &SchedulerReading,
    conditions: &[String],
    decodes: bool,
) {
    for remark in &scheduler.remarks {
        draft.remark(remark.as_str());
    }
    if !decodes && facts.has_unexported_autoencoder {
        draft.remark(
            "The pipeline has an autoencoder that was not exported: the states are latents. \
             vae_encoder/model.onnx and vae_decoder/model.onnx would give the key `latent`.",
        );
    }
    if conditions.iter().any(|name| name == "context") {
        draft.remark(
            "The condition `context` takes the output of the pipeline's text encoder. Its \
             `null` is the embedding of the empty text: write it to null.npy beside \
             model_index.json.",
        );
    }
    if facts.network.graph.draws {
        draft
            .remark("The network draws random numbers itself: the same input gives other outputs.");
    }
}

/// Refuses networks of packed tokens, such as FLUX: their states are no images, and a card cannot
/// pack them.
///
/// # Errors
/// Fails if the network takes the positions of tokens.
fn refuse_packed_tokens(graph: &GraphFacts) -> Result<()> {
    let positions = (graph.inputs.iter()).find(|port| {
        ["img_ids", "txt_ids", "img_shapes", "image_rotary_emb"].contains(&port.name.as_str())
    });
    if let Some(port) = positions {
        bail!(
            "{}: input {} belongs to a network of packed tokens, such as FLUX, and a card cannot \
             pack latents into tokens; export a wrapper that takes latents [N, C, H, W] and packs \
             them itself",
            graph.file,
            describe_port(port)
        );
    }
    Ok(())
}

/// The sizes that the network's config declares.
///
/// # Errors
/// Fails if a size has the wrong type, or if the network takes further channels beside the state.
fn configured_sizes(network: &PipelinePart) -> Result<ConfiguredSizes> {
    let Some(config) = &network.config else {
        return Ok(ConfiguredSizes::default());
    };
    let channels = config.size("in_channels")?;
    let outputs = config.size("out_channels")?;
    let image = config.image_size("sample_size")?;
    if let (Some(inputs), Some(outputs)) = (channels, outputs)
        && outputs != inputs
        && outputs != 2 * inputs
    {
        bail!(
            "{}: in_channels is {inputs} and out_channels is {outputs}, expected as many, or \
             twice as many where variances are learned; a network that takes an image beside the \
             state, as for inpainting, has no card",
            config.name
        );
    }
    Ok(ConfiguredSizes {
        shape: channels.zip(image).map(|(channels, [height, width])| {
            let place = config.place("in_channels, sample_size");
            (vec![channels, height, width], place)
        }),
        output_channels: outputs.map(|outputs| (outputs, config.place("out_channels"))),
    })
}

/// The class that means "no class", in YAML, and where it is known from.
///
/// # Errors
/// Fails if the config has a value of the wrong type.
fn null_class(network: &PipelinePart) -> Result<Option<(String, String)>> {
    let key = "num_embeds_ada_norm";
    let Some(config) = &network.config else {
        return Ok(None);
    };
    let classes = config.size(key)?;
    Ok(classes.map(|classes| (classes.to_string(), config.place(key))))
}

/// The entries of the key `latent`; `None` if the folder has no autoencoder.
///
/// # Errors
/// Fails if the shape of decoded data cannot be determined, or if the autoencoder does not fit the
/// network.
fn latent_entries(facts: &PipelineFacts, state: &[usize]) -> Result<Option<Vec<DraftEntry>>> {
    let parts = [&facts.decoder, &facts.encoder];
    if parts.iter().all(|part| part.is_none()) {
        return Ok(None);
    }
    let configs: Vec<&JsonFile> = (parts.iter())
        .filter_map(|part| part.as_ref()?.config.as_ref())
        .collect();
    let mut entries = Vec::new();
    if let Some(encoder) = &facts.encoder {
        entries.push(encoder_entry(encoder, state)?);
    }
    if let Some(decoder) = &facts.decoder {
        let (input, output) = sole_ports(&decoder.graph, &["latent_sample", "z"], &["sample"])?;
        check_latent_channels(&decoder.graph, input, state)?;
        let yaml = yaml_map([
            ("file", yaml_string(&decoder.graph.file)),
            ("input", yaml_string(&input.name)),
            ("output", yaml_string(&output.name)),
        ]);
        let words = format!("ports of {}", decoder.graph.file);
        entries.push(DraftEntry::new("decoder", yaml, Origin::read(words)));
    }
    let find = |key: &str| -> Result<Option<(f64, String)>> {
        for config in &configs {
            if let Some(value) = config.number(key)? {
                return Ok(Some((value, config.place(key))));
            }
        }
        Ok(None)
    };
    let (scale, origin) = match find("scaling_factor")? {
        Some((value, place)) => (value, Origin::read(place)),
        None => (
            0.18215,
            Origin::guessed("no config has scaling_factor; diffusers' default of AutoencoderKL"),
        ),
    };
    entries.push(DraftEntry::new("scale", yaml_number(scale), origin));
    let (shift, origin) = match find("shift_factor")? {
        Some((value, place)) => (value, Origin::read(place)),
        None => (0.0, Origin::read("no config has shift_factor")),
    };
    entries.push(DraftEntry::new("shift", yaml_number(shift), origin));
    let (shape, origin) = decoded_shape(facts, &configs, state)?;
    entries.push(DraftEntry::new("shape", yaml_sizes(&shape), origin));
    Ok(Some(entries))
}

/// The entry of the encoder.
///
/// # Errors
/// Fails if its output is not the mean, or mean and log-variance, of a latent.
fn encoder_entry(encoder: &PipelinePart, state: &[usize]) -> Result<DraftEntry> {
    let graph = &encoder.graph;
    let outputs = ["latent_parameters", "latent_sample", "latent"];
    let (input, output) = sole_ports(graph, &["sample"], &outputs)?;
    if graph.draws {
        bail!(
            "{}: the encoder draws its output at random, expected mean and log-variance; export \
             it again with a recent optimum, or remove the folder and write `latent` without it",
            graph.file
        );
    }
    let channels = state[0];
    let (kind, why) = match axis_size(output, 1) {
        Some(found) if found == 2 * channels => ("moments", None),
        Some(found) if found == channels => ("mean", None),
        Some(found) => bail!(
            "{}: output {} has {found} channels, expected {channels} for a mean or {} for mean \
             and log-variance",
            graph.file,
            describe_port(output),
            2 * channels
        ),
        None if output.name == "latent_parameters" => ("moments", None),
        None => (
            "mean",
            Some("the channels are open, and the name is not latent_parameters"),
        ),
    };
    let yaml = yaml_map([
        ("file", yaml_string(&graph.file)),
        ("input", yaml_string(&input.name)),
        ("output", yaml_string(&output.name)),
        ("kind", kind.to_owned()),
    ]);
    let origin = match why {
        None => Origin::read(format!(
            "output {} of {}",
            describe_port(output),
            graph.file
        )),
        Some(why) => Origin::guessed(format!("kind: {why}")),
    };
    Ok(DraftEntry::new("encoder", yaml, origin))
}

/// The input and the output of a part of the autoencoder: the only ones, or those with these names.
///
/// # Errors
/// Fails if there are several and none has such a name.
fn sole_ports<'a>(
    graph: &'a GraphFacts,
    inputs: &[&str],
    outputs: &[&str],
) -> Result<(&'a Port, &'a Port)> {
    let sole = |ports: &'a [Port], names: &[&str]| match ports {
        [one] => Some(one),
        several => several.iter().find(|port| is_named(port, names)),
    };
    let input = sole(&graph.inputs, inputs).filter(|_| graph.inputs.len() == 1);
    match (input, sole(&graph.outputs, outputs)) {
        (Some(input), Some(output)) => Ok((input, output)),
        _ => bail!(
            "{}: expected one input and an output named {}; the graph has {} and {} outputs",
            graph.file,
            crate::yaml::one_of(outputs.iter().copied()),
            graph.list_inputs(),
            graph.outputs.len()
        ),
    }
}

/// Checks that the decoder takes as many channels as the state has.
///
/// # Errors
/// Fails if it does not.
fn check_latent_channels(graph: &GraphFacts, input: &Port, state: &[usize]) -> Result<()> {
    match axis_size(input, 1) {
        Some(found) if found != state[0] => bail!(
            "{}: input {} has {found} channels, but the network's state has shape {state:?}",
            graph.file,
            describe_port(input)
        ),
        _ => Ok(()),
    }
}

/// The shape of decoded data: fixed sizes of the decoder's output, or the state's size times the
/// factor of the autoencoder.
///
/// # Errors
/// Fails if neither is known.
fn decoded_shape(
    facts: &PipelineFacts,
    configs: &[&JsonFile],
    state: &[usize],
) -> Result<(Vec<usize>, Origin)> {
    if let Some(decoder) = &facts.decoder
        && let Ok((_, output)) = sole_ports(&decoder.graph, &["latent_sample"], &["sample"])
        && let Some(shape) = (1..output.dims.len())
            .map(|axis| axis_size(output, axis))
            .collect::<Option<Vec<usize>>>()
        && shape.len() == 3
    {
        let words = format!("output {} of {}", describe_port(output), decoder.graph.file);
        return Ok((shape, Origin::read(words)));
    }
    let [_, height, width] = state else {
        bail!(
            "{}: the decoded shape is not known, since the state {state:?} is no image",
            facts.network.graph.file
        );
    };
    for config in configs {
        let channels = config.size("out_channels")?.unwrap_or(3);
        // Each block but the last halves the image (AutoencoderKL, AutoencoderDC).
        for key in ["block_out_channels", "decoder_block_out_channels"] {
            let Some(blocks) = config.list_length(key)?.filter(|n| (1..=16).contains(n)) else {
                continue;
            };
            let factor = 1 << (blocks - 1);
            let shape = vec![channels, height * factor, width * factor];
            let place = config.place(&format!("{key}, out_channels"));
            return Ok((
                shape,
                Origin::read(format!("{factor} times the state: {place}")),
            ));
        }
        if let Some([height, width]) = config.image_size("sample_size")? {
            let why = format!(
                "{}, which may not be that of the state",
                config.place("sample_size")
            );
            return Ok((vec![channels, height, width], Origin::guessed(why)));
        }
    }
    bail!(
        "{}: the decoded shape is not known; expected block_out_channels in a config.json beside \
         the autoencoder",
        facts.network.graph.file
    )
}
