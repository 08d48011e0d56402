//! Which port of a graph is the state, the time, a condition or the prediction, by names, types and
//! shapes.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::card_text::Origin;
use super::graph_facts::{GraphFacts, describe_port, fixed_size};
use crate::graph::{Dim, ElemType, Port};
use crate::model::constants::Constant;

/// What the user says beside the kind and the files.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct GivenFacts {
    /// The name of the folder or file, from which the card's name is made.
    pub(crate) name: String,
    /// The shape of one sample.
    pub(crate) shape: Option<Vec<usize>>,
    /// Values of further inputs that are the same for every sample, by the input's name.
    pub(crate) constants: BTreeMap<String, Constant>,
}

/// The names that the exporters of one kind give to the ports of their graphs, likely names first.
pub(super) struct PortNames {
    /// Names of the input that takes the state.
    pub(super) state: &'static [&'static str],
    /// Names of the input that takes the time.
    pub(super) time: &'static [&'static str],
    /// Names of the output with the prediction.
    pub(super) output: &'static [&'static str],
}

/// Names of the state, of any kind.
const STATE_NAMES: &[&str] = &[
    "sample",
    "hidden_states",
    "x",
    "xt",
    "x_t",
    "x_noisy",
    "noisy",
    "noisy_sample",
    "z",
    "zt",
    "z_t",
    "latent",
    "latents",
    "theta",
    "theta_t",
    "state",
    "input",
    "inputs",
    "img",
    "image",
    "images",
];

/// Names of the time, of any kind.
const TIME_NAMES: &[&str] = &[
    "timestep",
    "timesteps",
    "time",
    "times",
    "t",
    "ts",
    "sigma",
    "sigmas",
    "noise_labels",
    "c_noise",
    "noise_level",
    "noise_levels",
    "noise_cond",
    "time_cond",
    "step",
    "steps",
];

/// Names of the second time of a flow map.
const SECOND_TIME_NAMES: &[&str] = &[
    "s",
    "r",
    "to",
    "t_end",
    "t_next",
    "t2",
    "dt",
    "step",
    "duration",
    "target_time",
    "t",
    "from",
];

/// Names of class labels.
pub(super) const LABEL_NAMES: &[&str] = &[
    "class_labels",
    "class_label",
    "labels",
    "label",
    "y",
    "class",
    "classes",
    "class_ids",
];

/// Names of embeddings of texts.
const CONTEXT_NAMES: &[&str] = &["encoder_hidden_states", "context", "prompt_embeds"];

/// Names of flags that are set in training alone.
const TRAINING_FLAGS: &[&str] = &[
    "training",
    "train",
    "is_training",
    "augment",
    "return_dict",
    "force_fp32",
];

/// The ports of a graph by their roles.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PortRoles<'a> {
    /// The input that takes the state.
    pub(super) state: &'a Port,
    /// The input that takes the time; `None` if the graph has no time input.
    pub(super) time: Option<&'a Port>,
    /// The output with the prediction.
    pub(super) output: &'a Port,
    /// All other inputs, without those that the user gives as constants.
    pub(super) further: Vec<&'a Port>,
    /// How the state and the time were found.
    pub(super) inputs_origin: Origin,
    /// How the output was found.
    pub(super) output_origin: Origin,
}

impl PortRoles<'_> {
    /// The name of the time input in lower case; empty if there is none.
    pub(super) fn time_name(&self) -> String {
        self.time
            .map_or(String::new(), |port| port.name.to_lowercase())
    }

    /// Whether the time input takes whole numbers.
    pub(super) fn has_whole_times(&self) -> bool {
        self.time.is_some_and(|port| port.elem.is_integer())
    }
}

/// Finds the roles of a graph's ports.
///
/// # Errors
/// Fails if the state or the output cannot be told from the other ports, if the graph is a flow
/// map with two times, or if a constant names no input. The message lists the ports.
pub(super) fn find_roles<'a>(
    graph: &'a GraphFacts,
    names: &PortNames,
    given: &GivenFacts,
) -> Result<PortRoles<'a>> {
    let file = &graph.file;
    if let Some(unknown) = (given.constants.keys()).find(|name| graph.input(name).is_none()) {
        bail!(
            "--constant {unknown}: {file} has no such input; it has {}",
            graph.list_inputs()
        );
    }
    let open: Vec<&Port> = (graph.inputs.iter())
        .filter(|port| !given.constants.contains_key(&port.name))
        .collect();
    let named_time = first_named(&open, names.time, is_time_shaped)
        .or_else(|| first_named(&open, TIME_NAMES, is_time_shaped));
    let reserved = |port: &Port| {
        is_named(port, LABEL_NAMES) || is_named(port, names.state) || is_named(port, STATE_NAMES)
    };
    let unnamed: Vec<&Port> = (open.iter().copied())
        .filter(|port| is_time_shaped(port) && !reserved(port))
        .collect();
    if let (None, [first, second, ..]) = (named_time, &unnamed[..]) {
        bail!(
            "{file}: it is not clear whether `{}` or `{}` is the time; expected one input with one \
             number per sample, or one named {}; the graph has {}",
            first.name,
            second.name,
            names.time.first().copied().unwrap_or("t"),
            graph.list_inputs()
        );
    }
    let time = named_time.or(unnamed.first().copied());
    let others: Vec<&Port> = (open.iter().copied())
        .filter(|port| Some(*port) != time)
        .collect();
    let by_name = first_named(&others, names.state, is_state_shaped)
        .or_else(|| first_named(&others, STATE_NAMES, is_state_shaped));
    let states = || others.iter().copied().filter(|port| is_state_shaped(port));
    let fits_an_output = |port: &&Port| graph.outputs.iter().any(|out| fits_state(out, port));
    let state = by_name
        .or_else(|| only(states()))
        .or_else(|| only(states().filter(fits_an_output)));
    let Some(state) = state else {
        bail!(
            "{file}: no input is recognized as the state; expected one floating-point input with \
             a batch axis and the shape of the output, named {}; the graph has {}",
            names.state.first().copied().unwrap_or("x"),
            graph.list_inputs()
        );
    };
    let further: Vec<&Port> = (others.into_iter()).filter(|port| *port != state).collect();
    refuse_flow_map(graph, time, &further)?;
    let (output, output_origin) = find_output(graph, names, state)?;
    let guesses: Vec<&str> = [
        by_name
            .is_none()
            .then_some("the state is the input with the output's shape"),
        (time.is_some() && named_time.is_none())
            .then_some("the time is the input with one number per sample"),
        (time.is_none())
            .then_some("there is no time input, so that the field is the same at all times"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let inputs_origin = match guesses.is_empty() {
        true => Origin::read(format!("inputs of {file} with these names")),
        false => Origin::guessed(guesses.join(", ")),
    };
    Ok(PortRoles {
        state,
        time,
        output,
        further,
        inputs_origin,
        output_origin,
    })
}

/// Finds the output with the prediction.
///
/// # Errors
/// Fails if several outputs could be it. The message lists them.
fn find_output<'a>(
    graph: &'a GraphFacts,
    names: &PortNames,
    state: &Port,
) -> Result<(&'a Port, Origin)> {
    let file = &graph.file;
    let outputs: Vec<&Port> = graph.outputs.iter().collect();
    let fits = |port: &Port| fits_state(port, state);
    match &outputs[..] {
        [] => bail!("{file}: the graph has no output"),
        [one] => return Ok((one, Origin::read(format!("the only output of {file}")))),
        _ => {}
    }
    if let Some(port) = first_named(&outputs, names.output, fits) {
        return Ok((
            port,
            Origin::read(format!("an output of {file} by its name")),
        ));
    }
    if let Some(port) = only(outputs.iter().copied().filter(|port| fits(port))) {
        let why = "the only output with the shape of the state";
        return Ok((port, Origin::guessed(why)));
    }
    let listed: Vec<String> = outputs.iter().map(|port| describe_port(port)).collect();
    bail!(
        "{file}: it is not clear which output is the prediction; expected one output with the \
         shape of `{}`, or one named {}; the graph has {}",
        state.name,
        names.output.first().copied().unwrap_or("output"),
        listed.join(", ")
    )
}

/// Refuses a graph with two times, which is a flow map.
///
/// # Errors
/// Fails if the graph has a second time.
fn refuse_flow_map(graph: &GraphFacts, time: Option<&Port>, further: &[&Port]) -> Result<()> {
    let second = further.iter().find(|port| {
        is_time_shaped(port) && is_named(port, SECOND_TIME_NAMES) && !port.dims.is_empty()
    });
    if let (Some(first), Some(second)) = (time, second) {
        bail!(
            "{}: it takes two times, `{}` and `{}`, and is a flow map; a card needs the network \
             of a velocity first, and names flow maps beside it under `flow_maps`",
            graph.file,
            first.name,
            second.name
        );
    }
    Ok(())
}

/// Whether a port's name, without regard to case, is one of `names`.
pub(super) fn is_named(port: &Port, names: &[&str]) -> bool {
    names.contains(&port.name.to_lowercase().as_str())
}

/// The first port by the order of `names` that passes a test.
fn first_named<'a>(
    ports: &[&'a Port],
    names: &[&str],
    passes: impl Fn(&Port) -> bool,
) -> Option<&'a Port> {
    names.iter().find_map(|name| {
        let named = |port: &&&Port| port.name.to_lowercase() == *name && passes(port);
        ports.iter().find(named).copied()
    })
}

/// The item of an iterator that has exactly one.
fn only<'a>(mut ports: impl Iterator<Item = &'a Port>) -> Option<&'a Port> {
    let first = ports.next()?;
    ports.next().is_none().then_some(first)
}

/// Whether a port can take one time per sample, or one for all.
fn is_time_shaped(port: &Port) -> bool {
    let one_number = match &port.dims[..] {
        [] | [_] => true,
        [_, last] => *last == Dim::Fixed(1),
        _ => false,
    };
    (port.elem.is_float() || port.elem.is_integer()) && one_number
}

/// Whether a port can take states: floating-point numbers behind a batch axis.
fn is_state_shaped(port: &Port) -> bool {
    port.elem.is_float() && (!port.ranked || port.dims.len() >= 2)
}

/// Whether the fixed sizes of an output are those of the state; the output may have twice as many
/// channels.
fn fits_state(output: &Port, state: &Port) -> bool {
    if !output.elem.is_float() {
        return false;
    }
    if !output.ranked || !state.ranked {
        return true;
    }
    let same = |(axis, (a, b)): (usize, (&Dim, &Dim))| match (fixed_size(a), fixed_size(b)) {
        (Some(a), Some(b)) => a == b || axis == 0 || (axis == 1 && a == 2 * b),
        _ => true,
    };
    output.dims.len() == state.dims.len()
        && output.dims.iter().zip(&state.dims).enumerate().all(same)
}

/// The role of a further input.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FurtherRole {
    /// A condition, with one value per sample, by its name in the card.
    Condition(String),
    /// A constant with a known value, in YAML.
    Constant(String, Origin),
}

/// Decides the role of a further input. A state with a fixed batch has `batch` rows.
///
/// # Errors
/// Fails if the input has one value for all samples and the value is not known.
pub(super) fn further_role(
    port: &Port,
    batch: Option<usize>,
    graph: &GraphFacts,
) -> Result<FurtherRole> {
    let lower = port.name.to_lowercase();
    if port.elem == ElemType::BOOL && port.dims.is_empty() && is_named(port, TRAINING_FLAGS) {
        let why = "a flag that is set in training alone";
        return Ok(FurtherRole::Constant(
            "false".to_owned(),
            Origin::guessed(why),
        ));
    }
    let sizes: Option<Vec<usize>> = port.dims.iter().skip(1).map(fixed_size).collect();
    if lower == "augment_labels"
        && let Some([width]) = sizes.as_deref()
        && *width <= 64
    {
        let zeros = format!("[{}]", vec!["0"; *width].join(", "));
        let origin = Origin::convention("zeros stand for data without augmentation");
        return Ok(FurtherRole::Constant(zeros, origin));
    }
    let per_sample = match port.dims.first() {
        Some(Dim::Fixed(rows)) => batch.is_some_and(|batch| Ok(batch) == usize::try_from(*rows)),
        Some(_) => true,
        None => !port.ranked,
    };
    if !per_sample {
        bail!(
            "{}: input {} has no batch axis, and its value is not known; give it with \
             --constant {}=VALUE (a number, true, false, a list or a .npy file beside the card)",
            graph.file,
            describe_port(port),
            port.name
        );
    }
    let name = if is_named(port, LABEL_NAMES) {
        "label".to_owned()
    } else if is_named(port, CONTEXT_NAMES) {
        "context".to_owned()
    } else {
        super::card_text::plain_name(&port.name).replace(' ', "_")
    };
    Ok(FurtherRole::Condition(name))
}
