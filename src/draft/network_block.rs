//! The keys `shape` and `network` of a drafted card.

use anyhow::{Result, bail};

use super::card_text::{DraftEntry, Origin, yaml_list, yaml_map, yaml_sizes, yaml_string};
use super::graph_facts::{GraphFacts, describe_port, fixed_size};
use super::roles::{FurtherRole, GivenFacts, PortRoles, further_role};
use crate::graph::{Dim, Port};
use crate::model::constants::Constant;

/// How the network of a kind is read: what it predicts, and what its time input gets.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NetworkReading {
    /// The card's name of the prediction.
    pub(super) prediction: &'static str,
    /// Where the prediction is known from.
    pub(super) prediction_origin: Origin,
    /// The keys of `time` with their YAML. Whole times are interpolated without being named here.
    pub(super) time: Vec<(&'static str, String)>,
    /// Where the values of the time input are known from.
    pub(super) time_origin: Origin,
    /// Whether the time input may take whole numbers.
    pub(super) allows_whole_times: bool,
    /// The scalings outside the graph, in YAML.
    pub(super) preconditioning: Option<(String, Origin)>,
    /// The card's name of the condition, if there is only one.
    pub(super) sole_condition: Option<&'static str>,
}

/// Sizes that a config beside the graph declares.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ConfiguredSizes {
    /// The shape of one sample, and where it is written.
    pub(super) shape: Option<(Vec<usize>, String)>,
    /// The number of channels of the output, and where it is written.
    pub(super) output_channels: Option<(usize, String)>,
}

/// The keys of a drafted card that describe the network.
pub(super) struct NetworkKeys {
    /// The shape of one sample.
    pub(super) shape: Vec<usize>,
    /// The key `shape`.
    pub(super) shape_entry: DraftEntry,
    /// The key `network`.
    pub(super) network_entry: DraftEntry,
    /// The names of the conditions.
    pub(super) conditions: Vec<String>,
}

/// Drafts the keys `shape` and `network`. `null_of` gives the value of a condition that means
/// "unconditional", in YAML, where it is known.
///
/// # Errors
/// Fails if the shape is not known, if the output does not have it, or if an input has a value that
/// is not known.
pub(super) fn draft_network(
    graph: &GraphFacts,
    roles: &PortRoles,
    reading: &NetworkReading,
    configured: &ConfiguredSizes,
    given: &GivenFacts,
    null_of: &dyn Fn(&Port) -> Option<(String, String)>,
) -> Result<NetworkKeys> {
    let (shape, shape_origin) = state_shape(graph, roles, configured, given)?;
    let channels = prediction_channels(graph, roles, &shape, configured)?;
    let batch = roles.state.dims.first().and_then(fixed_size);
    let file = &graph.file;

    let mut inputs = vec![("x", yaml_string(&roles.state.name))];
    inputs.extend(roles.time.map(|port| ("time", yaml_string(&port.name))));
    let mut network = vec![
        DraftEntry::new(
            "file",
            yaml_string(file),
            Origin::read("relative to the folder of the card"),
        ),
        DraftEntry::new("inputs", yaml_map(inputs), roles.inputs_origin.clone()),
    ];
    let (conditions, constants) = further_entries(graph, roles, reading, batch, given, null_of)?;
    let names = conditions.iter().map(|(name, _)| name.clone()).collect();
    if !conditions.is_empty() {
        let entries = conditions.into_iter().map(|(_, entry)| entry).collect();
        network.push(DraftEntry::block("conditions", entries));
    }
    if !constants.is_empty() {
        network.push(DraftEntry::block("constants", constants));
    }
    network.push(DraftEntry::new(
        "output",
        yaml_string(&roles.output.name),
        roles.output_origin.clone(),
    ));
    network.extend(channels);
    network.push(DraftEntry::new(
        "prediction",
        reading.prediction,
        reading.prediction_origin.clone(),
    ));
    if let Some((yaml, origin)) = &reading.preconditioning {
        network.push(DraftEntry::new(
            "preconditioning",
            yaml.as_str(),
            origin.clone(),
        ));
    }
    network.extend(time_entry(graph, roles, reading)?);
    if let Some(batch) = batch {
        let words = format!(
            "the first axis of {} in {file}: rows are padded to whole batches",
            describe_port(roles.state)
        );
        network.push(DraftEntry::new(
            "batch",
            batch.to_string(),
            Origin::read(words),
        ));
    }
    Ok(NetworkKeys {
        shape_entry: DraftEntry::new("shape", yaml_sizes(&shape), shape_origin),
        shape,
        network_entry: DraftEntry::block("network", network),
        conditions: names,
    })
}

/// The key `time` of the network, where it says something.
///
/// # Errors
/// Fails if the input takes whole numbers and the times of the kind are none.
fn time_entry(
    graph: &GraphFacts,
    roles: &PortRoles,
    reading: &NetworkReading,
) -> Result<Option<DraftEntry>> {
    let Some(port) = roles.time else {
        return Ok(None);
    };
    let mut keys = reading.time.clone();
    let mut origin = reading.time_origin.clone();
    if roles.has_whole_times() {
        if !reading.allows_whole_times {
            bail!(
                "{}: input {} takes whole numbers, but the times of this kind are not whole; \
                 expected a floating-point input, or another kind, such as ddpm",
                graph.file,
                describe_port(port)
            );
        }
        keys.push(("interpolate", "true".to_owned()));
        let words = format!("; {} takes whole numbers", describe_port(port));
        origin = match origin {
            Origin::Read(why) => Origin::Read(why + &words),
            Origin::Convention(why) => Origin::Convention(why + &words),
            Origin::Guessed(why) => Origin::Guessed(why + &words),
        };
    }
    Ok((!keys.is_empty()).then(|| DraftEntry::new("time", yaml_map(keys), origin)))
}

/// Entries with the names of the conditions, and entries of constants.
type FurtherEntries = (Vec<(String, DraftEntry)>, Vec<DraftEntry>);

/// Drafts the entries of all further inputs.
///
/// # Errors
/// Fails if an input has one value for all samples and the value is not known.
fn further_entries(
    graph: &GraphFacts,
    roles: &PortRoles,
    reading: &NetworkReading,
    batch: Option<usize>,
    given: &GivenFacts,
    null_of: &dyn Fn(&Port) -> Option<(String, String)>,
) -> Result<FurtherEntries> {
    let mut conditions: Vec<(String, DraftEntry)> = Vec::new();
    let mut constants = Vec::new();
    for port in &roles.further {
        match further_role(port, batch, graph)? {
            FurtherRole::Constant(yaml, origin) => {
                constants.push(DraftEntry::new(&port.name, yaml, origin));
            }
            FurtherRole::Condition(name) => {
                let taken = |name: &str| conditions.iter().any(|(n, _)| n == name);
                let sole = reading.sole_condition.filter(|_| roles.further.len() == 1);
                let name = match (sole, taken(&name)) {
                    (Some(sole), _) => sole.to_owned(),
                    (None, false) => name,
                    (None, true) => (2..)
                        .map(|n| format!("{name}_{n}"))
                        .find(|name| !taken(name))
                        .expect("some number is free"),
                };
                let mut keys = vec![("input", yaml_string(&port.name))];
                let mut words = format!("input {} of {}", describe_port(port), graph.file);
                if let Some((yaml, why)) = null_of(port) {
                    keys.push(("null", yaml));
                    words += &format!("; null is {why}");
                } else if ["label", "context"].contains(&name.as_str()) {
                    words += "; no `null` is known, and guidance needs one";
                }
                let entry = DraftEntry::new(&name, yaml_map(keys), Origin::read(words));
                conditions.push((name, entry));
            }
        }
    }
    for (name, constant) in &given.constants {
        let origin = Origin::read("--constant");
        constants.push(DraftEntry::new(name, constant_yaml(constant), origin));
    }
    Ok((conditions, constants))
}

/// Writes a constant as YAML.
fn constant_yaml(constant: &Constant) -> String {
    match constant {
        Constant::Flag(flag) => flag.to_string(),
        Constant::Number(number) => super::card_text::yaml_number(*number),
        Constant::List(list) => yaml_list(list.iter().map(|v| super::card_text::yaml_number(*v))),
        Constant::File(file) => yaml_string(&file.to_string_lossy()),
    }
}

/// The shape of one sample, from the graph, the user, a config, or the output.
///
/// # Errors
/// Fails if a size is not known, or if the user's shape is not that of the graph.
fn state_shape(
    graph: &GraphFacts,
    roles: &PortRoles,
    configured: &ConfiguredSizes,
    given: &GivenFacts,
) -> Result<(Vec<usize>, Origin)> {
    let (port, file) = (roles.state, &graph.file);
    let sizes: Vec<Option<usize>> = port.dims.iter().skip(1).map(fixed_size).collect();
    let fits = |shape: &[usize]| {
        !port.ranked
            || (shape.len() == sizes.len()
                && shape
                    .iter()
                    .zip(&sizes)
                    .all(|(a, b)| b.is_none_or(|b| *a == b)))
    };
    if let Some(shape) = &given.shape {
        if !fits(shape) {
            bail!(
                "--shape {}: it does not fit the input {} of {file}",
                join_sizes_with_commas(shape),
                describe_port(port)
            );
        }
        return Ok((shape.clone(), Origin::read("--shape")));
    }
    let whole: Option<Vec<usize>> = sizes.iter().copied().collect();
    if let Some(shape) = whole.filter(|_| port.ranked) {
        let words = format!("input {} of {file}", describe_port(port));
        return Ok((shape, Origin::read(words)));
    }
    if let Some((shape, place)) = &configured.shape
        && (!port.ranked || shape.len() == sizes.len())
    {
        let shape: Vec<usize> = match port.ranked {
            true => (shape.iter().zip(&sizes))
                .map(|(configured, fixed)| fixed.unwrap_or(*configured))
                .collect(),
            false => shape.clone(),
        };
        return Ok((shape, Origin::read(place.clone())));
    }
    let output = &roles.output.dims;
    if port.ranked && output.len() == port.dims.len() {
        let filled = (sizes.iter().zip(&output[1..]))
            .map(|(size, dim)| size.or_else(|| fixed_size(dim)))
            .collect::<Option<Vec<usize>>>();
        if let Some(shape) = filled {
            let words = format!("the output {} has these sizes", describe_port(roles.output));
            return Ok((shape, Origin::guessed(words)));
        }
    }
    bail!(
        "{file}: the shape of one sample is not known, since input {} has open axes; give it \
         with --shape, such as --shape 3,32,32",
        describe_port(port)
    )
}

/// Joins sizes as the option `--shape` takes them.
fn join_sizes_with_commas(sizes: &[usize]) -> String {
    sizes
        .iter()
        .map(usize::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// The key `channels`, where the output has twice as many channels as the state.
///
/// # Errors
/// Fails if the output has another shape.
fn prediction_channels(
    graph: &GraphFacts,
    roles: &PortRoles,
    shape: &[usize],
    configured: &ConfiguredSizes,
) -> Result<Option<DraftEntry>> {
    let (port, file) = (roles.output, &graph.file);
    let refusal = || {
        let hint = match roles.state.dims.len() == 2 && roles.time.is_none() {
            true => {
                "; if the time is a column of the state, export a wrapper with the time as an \
                 input of its own"
            }
            false => "",
        };
        format!(
            "{file}: output {} does not have the shape of the state, {shape:?}{hint}",
            describe_port(port)
        )
    };
    let mut first = None;
    if port.ranked {
        if port.dims.len() != shape.len() + 1 {
            bail!("{}", refusal());
        }
        let sizes: Vec<Option<usize>> = port.dims[1..].iter().map(fixed_size).collect();
        let later = sizes[1..].iter().zip(&shape[1..]);
        if later
            .clone()
            .any(|(size, own)| size.is_some_and(|s| s != *own))
        {
            bail!("{}", refusal());
        }
        first = sizes[0];
    }
    let (found, place) = match (first, &configured.output_channels) {
        (Some(size), _) => (size, format!("output {} of {file}", describe_port(port))),
        (None, Some((size, place))) => (*size, place.clone()),
        (None, None) => return Ok(None),
    };
    let own = shape[0];
    if found == own {
        return Ok(None);
    }
    if found == 2 * own {
        let words = format!("{place}: the other {own} are learned variances");
        let yaml = yaml_sizes(&[0, own]);
        return Ok(Some(DraftEntry::new("channels", yaml, Origin::read(words))));
    }
    bail!(
        "{}; {place} gives {found} channels, and the state has {own}: expected as many, or twice \
         as many where variances are learned",
        refusal()
    )
}

/// Whether a shape is that of an image with one or three channels.
pub(super) fn is_image(shape: &[usize]) -> bool {
    matches!(shape, [1 | 3, h, w] | [h, w, 1 | 3] if *h >= 4 && *w >= 4)
}

/// Returns the size of a port's axis, if it is fixed. Axis 0 is the batch.
pub(super) fn axis_size(port: &Port, axis: usize) -> Option<usize> {
    port.dims.get(axis).and_then(|dim: &Dim| fixed_size(dim))
}
