//! Model cards: what a user says about ONNX files, checked before anything runs.

use std::collections::BTreeMap;
use std::path::{Component, Path as FilePath, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::constants::Constant;
use crate::flow::flow_map::FlowMapStepRule;
use crate::flow::path::ProbabilityPath;
use crate::flow::preconditioning::Preconditioning;
use crate::flow::prediction::Prediction;
use crate::signature::{self, ExpectedFile};
use crate::yaml::{Document, Fault, Node};

/// `card.yaml`: one model with its network, path, data convention and learned heads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Card {
    pub name: String,
    /// One sample, without the batch axis.
    pub shape: Vec<usize>,
    pub network: NetworkSpec,
    pub path: ProbabilityPath,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior: Option<PriorSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub divergence_heads: BTreeMap<String, DivergenceHeadSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub flow_maps: BTreeMap<String, FlowMapSpec>,
    /// The model's true log-density at any time, for models whose answer is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_form: Option<ClosedFormSpec>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub provenance: BTreeMap<String, serde_json::Value>,
}

/// The network behind the velocity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    pub file: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    pub inputs: NetworkInputs,
    /// Values of further inputs, the same for every sample.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub constants: BTreeMap<String, Constant>,
    pub output: String,
    pub prediction: Prediction,
    /// Scalings around the graph that are not in it; none unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preconditioning: Option<Preconditioning>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeInputSpec>,
}

/// This program's roles and the graph's names for them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkInputs {
    pub x: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

/// What the graph's time input is given: `feed`(t) · `scale` + `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeInputSpec {
    /// The path's index on a `discrete` path and t on others, unless named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed: Option<TimeVariable>,
    #[serde(default = "unit_scale")]
    pub scale: f64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset: f64,
    /// For an input of whole numbers: between two of them both are evaluated and mixed (true), or what asks for such
    /// a time is refused (false); times are rounded unless it is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interpolate: Option<bool>,
    /// The output does not depend on time, and need not.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ignored: bool,
}

impl Default for TimeInputSpec {
    fn default() -> Self {
        TimeInputSpec {
            feed: None,
            scale: 1.0,
            offset: 0.0,
            interpolate: None,
            ignored: false,
        }
    }
}

fn is_zero(v: &f64) -> bool {
    *v == 0.0
}

fn is_false(v: &bool) -> bool {
    !v
}

/// A function of the card's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[("t", &["time"]), ("log-sigma-over-4", &["c-noise"]), ("index", &["timestep", "timesteps"])]))]
pub enum TimeVariable {
    T,
    Sigma,
    #[serde(rename = "log-sigma-over-4")]
    LogSigmaOver4,
    Index,
}

impl TimeVariable {
    /// As a card names it.
    pub fn as_str(self) -> &'static str {
        match self {
            TimeVariable::T => "t",
            TimeVariable::Sigma => "sigma",
            TimeVariable::LogSigmaOver4 => "log-sigma-over-4",
            TimeVariable::Index => "index",
        }
    }
}

/// N(0, std²·I) at the prior end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PriorSpec {
    pub std: f64,
}

/// The data's range in the model's coordinates, and how many levels they were quantized to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    pub range: [f64; 2],
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub levels: Option<u32>,
}

/// A learned divergence: +div of dx/dt in the card's own time, after `scale`, or what it follows from.
///
/// A head whose file, inputs and time are the network's own is an output of the same graph: it is evaluated
/// in the velocity's call and costs none of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DivergenceHeadSpec {
    pub file: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    pub inputs: NetworkInputs,
    /// Values of further inputs, the same for every sample.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub constants: BTreeMap<String, Constant>,
    pub output: String,
    #[serde(default = "unit_scale")]
    pub scale: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeInputSpec>,
    #[serde(default, skip_serializing_if = "is_divergence")]
    pub parametrization: HeadParametrization,
}

/// What a head's output stands for, after `scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum HeadParametrization {
    /// +div of dx/dt in the card's own time.
    #[default]
    Divergence,
    /// The trace of the denoiser's Jacobian ∂E\[x₀ | x\]/∂x, between 0 and d for an ideal denoiser where α is 1.
    DenoiserTrace,
}

fn is_divergence(p: &HeadParametrization) -> bool {
    *p == HeadParametrization::Divergence
}

/// A few-step flow map: the average velocity, and the average +div, of dx/dt between two times, in the
/// card's own time and after the scale.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowMapSpec {
    pub file: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    pub inputs: FlowMapInputs,
    /// Values of further inputs, the same for every sample.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub constants: BTreeMap<String, Constant>,
    pub outputs: FlowMapOutputs,
    #[serde(default = "unit_scale")]
    pub divergence_scale: f64,
    /// What the graph's times are given as; the network's own feed unless named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeInputSpec>,
    /// Which way the map was trained to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<FlowMapDirection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<FlowMapStepRule>,
}

/// The roles of a flow map's inputs: state, time to start from, and one of three ways to say where to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowMapInputs {
    pub x: String,
    pub from: String,
    /// The other time (two-time maps; MeanFlow's r).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// feed(to) − feed(from), signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// |feed(to) − feed(from)| (Shortcut's dt): such a map goes one way only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
}

impl FlowMapInputs {
    /// The graph's names for the two times.
    pub fn time_names(&self) -> impl Iterator<Item = &str> {
        self.time_roles().into_iter().map(|(_, name)| name)
    }

    /// The roles of the two times with the graph's names for them.
    pub fn time_roles(&self) -> Vec<(&'static str, &str)> {
        let second = [
            ("to", &self.to),
            ("step", &self.step),
            ("duration", &self.duration),
        ];
        let second = second
            .into_iter()
            .filter_map(|(role, name)| Some((role, name.as_deref()?)));
        std::iter::once(("from", self.from.as_str()))
            .chain(second)
            .collect()
    }
}

/// The roles of a flow map's outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowMapOutputs {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub velocity: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<String>,
}

/// Which way a flow map was trained to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum FlowMapDirection {
    Both,
    ToNoise,
    ToData,
}

impl FlowMapSpec {
    /// Both ways unless the card says otherwise.
    pub fn direction(&self) -> FlowMapDirection {
        self.direction.unwrap_or(FlowMapDirection::Both)
    }

    /// The rule that likelihoods follow unless the estimator names one.
    pub fn rule(&self) -> FlowMapStepRule {
        self.rule.unwrap_or_default()
    }

    /// What stands between this map and few-step likelihoods under a rule.
    ///
    /// # Errors
    /// A sentence with the key and what would be right.
    pub fn check_supports_likelihood(&self, rule: FlowMapStepRule) -> Result<(), String> {
        self.check_has_divergence()?;
        match (rule, self.direction()) {
            (FlowMapStepRule::TwoTime, FlowMapDirection::ToData) => {
                Err("direction is to-data, but a likelihood goes from data to noise; \
                 a map trained towards data alone gives densities of its own samples (`density: true` of the \
                 sampler), or the biased `rule: forward-average`"
                    .to_owned())
            }
            (FlowMapStepRule::ForwardAverage, FlowMapDirection::ToNoise) => {
                Err("direction is to-noise, but `rule: forward-average` asks the map towards data".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// What stands between this map and few-step samples.
    ///
    /// # Errors
    /// A sentence with the key and what would be right.
    pub fn check_supports_sampling(&self) -> Result<(), String> {
        match self.direction() {
            FlowMapDirection::ToNoise => {
                Err("direction is to-noise, but samples go from noise to data; expected a map trained that way"
                    .to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Refuses a map without a divergence output.
    ///
    /// # Errors
    /// A sentence with the key and what would be right.
    pub fn check_has_divergence(&self) -> Result<(), String> {
        (self.outputs.divergence.is_some())
            .then_some(())
            .ok_or_else(|| {
                "outputs name no `divergence`: such a map gives samples, but no likelihood"
                    .to_owned()
            })
    }

    fn check(&self) -> Result<(), String> {
        let ends = [&self.inputs.to, &self.inputs.step, &self.inputs.duration];
        if ends.iter().filter(|e| e.is_some()).count() != 1 {
            return Err(
                "inputs: expected `x`, `from` and exactly one of `to`, `step` and `duration`"
                    .to_owned(),
            );
        }
        if self.outputs.velocity.is_none() {
            return Err(
                "outputs: expected `velocity`, and `divergence` where the map has one; \
                 without a velocity no step can be taken"
                    .to_owned(),
            );
        }
        if self.inputs.duration.is_some()
            && matches!(self.direction, None | Some(FlowMapDirection::Both))
        {
            return Err(
                "direction: expected to-noise or to-data, since `duration` does not say which way"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

/// A scalar of state and time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClosedFormSpec {
    pub file: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    pub inputs: NetworkInputs,
    /// Values of further inputs, the same for every sample.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub constants: BTreeMap<String, Constant>,
    pub output: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeInputSpec>,
}

fn unit_scale() -> f64 {
    1.0
}

/// What a file is whose keys are those of another kind of file.
fn not_a_card_reason(root: &Node) -> Option<String> {
    let has = |key: &str| root.get(key).is_some();
    if has("network") || has("shape") || has("path") {
        return None;
    }
    if has("likelihood") || has("samples") || has("maps") {
        return Some(
            "it is a config, expected a model card; a config goes to `flowgauge run` or `plan`"
                .to_owned(),
        );
    }
    has("claims").then(|| "it is a file of claims, expected a model card".to_owned())
}

impl Card {
    /// Reads and checks a card; `path` names it in messages.
    ///
    /// # Errors
    /// One message that names the file, and every fault with its line and key.
    pub fn read(path: &FilePath) -> Result<Card> {
        let text = signature::read_yaml_text(path, ExpectedFile::Card)
            .map_err(|e| anyhow!("{}: {e}", path.display()))?;
        Card::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Card> {
        let mut document = Document::parse(text)?;
        if let Some(other) = not_a_card_reason(&document.root) {
            bail!("{other}");
        }
        let (card, faults) = document.read_partly::<Card>();
        let mut faults = document.locate(faults);
        let Some(card) = card else {
            return Err(document.report_faults(faults).into());
        };
        // What follows from a fault is no news.
        let known: Vec<String> = faults.iter().map(|f| f.key.clone()).collect();
        let news = |fault: &Fault| {
            !known
                .iter()
                .any(|key| key.starts_with(&fault.key) && !fault.key.is_empty())
        };
        faults.extend(document.locate(card.check()).into_iter().filter(news));
        if faults.is_empty() {
            Ok(card)
        } else {
            Err(document.report_faults(faults).into())
        }
    }

    /// Numbers in one sample.
    pub fn dim(&self) -> usize {
        self.shape.iter().product()
    }

    /// log₂ of levels per unit of range, which turns nats per dimension into bits per dimension.
    ///
    /// `None` where the card names no `levels`: a density of continuous data has no bits/dim.
    pub fn bits_offset(&self) -> Option<f64> {
        let data = self.data?;
        Some((f64::from(data.levels?) / (data.range[1] - data.range[0])).log2())
    }

    /// Everything that is wrong, whatever its files hold.
    fn check(&self) -> Vec<Fault> {
        let mut found = Vec::new();
        let mut fault = |key: &str, message: String| found.push(Fault::new(key, message));
        if let Err(message) = check_plain_name(&self.name) {
            fault("name", message);
        }
        let dim = self
            .shape
            .iter()
            .try_fold(1usize, |a, b| a.checked_mul(*b))
            .unwrap_or(0);
        if self.shape.is_empty() || dim == 0 || dim > 1 << 28 {
            fault(
                "shape",
                format!(
                    "{:?}, expected one or more sizes, each at least 1",
                    self.shape
                ),
            );
        }
        if let Some(prior) = self.prior.filter(|p| !(p.std > 0.0 && p.std.is_finite())) {
            fault(
                "prior",
                format!("std is {}, expected a number above 0", prior.std),
            );
        }
        if let Some(data) = self.data {
            if !(data.range[0] < data.range[1] && data.range.iter().all(|v| v.is_finite())) {
                fault(
                    "data",
                    format!(
                        "range is {:?}, expected [low, high] with low < high",
                        data.range
                    ),
                );
            }
            if data.levels.is_some_and(|l| l < 2) {
                fault(
                    "data",
                    format!(
                        "levels is {:?}, expected at least 2",
                        data.levels.unwrap_or(0)
                    ),
                );
            }
        }
        let scales = self
            .divergence_heads
            .iter()
            .map(|(n, h)| (format!("divergence_heads.{n}.scale"), h.scale));
        let scales = scales.chain(self.flow_maps.iter().map(|(n, m)| {
            (
                format!("flow_maps.{n}.divergence_scale"),
                m.divergence_scale,
            )
        }));
        for (key, scale) in scales.filter(|(_, scale)| !scale.is_finite() || *scale == 0.0) {
            fault(&key, format!("{scale}, expected a number other than 0"));
        }
        for (key, file) in self.files() {
            if let Err(message) = check_inside_card_folder(file) {
                fault(&key, message);
            }
        }
        let times = self
            .time_specs()
            .into_iter()
            .filter_map(|(key, time)| Some((key, self.check_time_spec(time).err()?)));
        found.extend(
            times.map(|(key, message)| {
                Fault::from_message(message).under_key(&format!("{key}.time"))
            }),
        );
        found.extend(self.path.curve().err().map(Fault::from_message));
        let scalings = self
            .network
            .preconditioning
            .map(|p| p.check(self.network.prediction, &self.path));
        found.extend(scalings.and_then(Result::err).map(Fault::from_message));
        let maps = self
            .flow_maps
            .iter()
            .filter_map(|(name, map)| Some((name, map.check().err()?)));
        found.extend(maps.map(|(name, message)| {
            Fault::from_message(message).under_key(&format!("flow_maps.{name}"))
        }));
        found
    }

    /// What the card says of times, with the key of the network that it says it of.
    fn time_specs(&self) -> Vec<(String, TimeInputSpec)> {
        let mut found: Vec<_> = self
            .network
            .time
            .iter()
            .map(|t| ("network".to_owned(), *t))
            .collect();
        found.extend(
            self.divergence_heads
                .iter()
                .filter_map(|(n, h)| Some((format!("divergence_heads.{n}"), h.time?))),
        );
        found.extend(
            self.flow_maps
                .iter()
                .filter_map(|(n, m)| Some((format!("flow_maps.{n}"), m.time?))),
        );
        found.extend(
            self.closed_form
                .iter()
                .filter_map(|c| Some(("closed_form".to_owned(), c.time?))),
        );
        found
    }

    fn check_time_spec(&self, time: TimeInputSpec) -> Result<(), String> {
        if !time.scale.is_finite() || time.scale == 0.0 {
            return Err(format!(
                "scale: {}, expected a number other than 0",
                time.scale
            ));
        }
        if !time.offset.is_finite() {
            return Err(format!("offset: {}, expected a number", time.offset));
        }
        match (&self.path, time.feed) {
            (ProbabilityPath::Discrete { .. }, _) => Ok(()),
            (other, Some(TimeVariable::Index)) => Err(format!(
                "feed: index, but the path `{}` has no indices; expected t, sigma or log-sigma-over-4, such as \
                 `{{feed: t, scale: 999}}` for a network of indices 0 to 999, or a path of kind discrete",
                other.kind()
            )),
            _ => Ok(()),
        }
    }

    /// Whether a head is an output of the velocity's own graph, evaluated in the same call.
    pub fn is_joint(&self, head: &str) -> bool {
        let network = &self.network;
        self.divergence_heads.get(head).is_some_and(|h| {
            let fed = self.head_time_input(h.time) == self.time_input();
            h.file == network.file
                && h.inputs == network.inputs
                && h.constants == network.constants
                && fed
        })
    }

    /// Every file that the card names, with its key.
    pub fn files(&self) -> Vec<(String, &FilePath)> {
        let mut files = vec![("network.file".to_owned(), self.network.file.as_path())];
        files.extend(
            self.divergence_heads
                .iter()
                .map(|(n, h)| (format!("divergence_heads.{n}.file"), h.file.as_path())),
        );
        files.extend(
            self.flow_maps
                .iter()
                .map(|(n, m)| (format!("flow_maps.{n}.file"), m.file.as_path())),
        );
        files.extend(
            self.closed_form
                .iter()
                .map(|c| ("closed_form.file".to_owned(), c.file.as_path())),
        );
        for (key, constants) in self.constants() {
            let named = constants
                .iter()
                .filter_map(|(name, constant)| Some((name, constant.file()?)));
            files.extend(named.map(|(name, file)| (format!("{key}.constants.{name}"), file)));
        }
        files
    }

    /// Fixed inputs, with the key of the network that they are for.
    pub(super) fn constants(&self) -> Vec<(String, &BTreeMap<String, Constant>)> {
        let mut found = vec![("network".to_owned(), &self.network.constants)];
        found.extend(
            self.divergence_heads
                .iter()
                .map(|(n, h)| (format!("divergence_heads.{n}"), &h.constants)),
        );
        found.extend(
            self.flow_maps
                .iter()
                .map(|(n, m)| (format!("flow_maps.{n}"), &m.constants)),
        );
        found.extend(
            self.closed_form
                .iter()
                .map(|c| ("closed_form".to_owned(), &c.constants)),
        );
        found
    }
}

/// Refuses a name that could not be a file's name, or that would be live in a table or a page.
pub fn check_plain_name(name: &str) -> Result<(), String> {
    let starts_well = name
        .chars()
        .next()
        .is_some_and(|c| c.is_alphanumeric() || c == '_');
    let allowed = |c: char| c.is_alphanumeric() || " _-.,()[]+".contains(c);
    if !starts_well || name.len() > 100 || !name.chars().all(allowed) || name.contains("..") {
        return Err(format!(
            "{name:?} is no plain name; expected letters, digits, spaces and any of _-.,()[]+, \
             beginning with a letter or digit, at most 100 bytes"
        ));
    }
    Ok(())
}

/// Refuses a path that is absolute or climbs out of the card's folder.
fn check_inside_card_folder(file: &FilePath) -> Result<(), String> {
    let plain = file
        .components()
        .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    let named = file.components().any(|c| matches!(c, Component::Normal(_)));
    (plain && named).then_some(()).ok_or_else(|| {
        format!(
            "{} leaves the card's folder; expected a file beside or below the card",
            file.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = "name: toy\nshape: [2]\nnetwork: {file: v.onnx, inputs: {x: x, time: t}, output: v, \
                        prediction: velocity}\npath: {kind: flow-matching, data_at: 1}\n";

    fn read(text: &str) -> Result<Card> {
        Card::parse(text)
    }

    #[test]
    fn minimal_card_uses_defaults() {
        let card = read(CARD).expect("right");
        assert_eq!(card.dim(), 2);
        assert_eq!(card.bits_offset(), None);
        assert_eq!(
            card.path,
            ProbabilityPath::FlowMatching {
                data_at: 1,
                t_min: 0.0,
                t_max: 1.0
            }
        );
    }

    #[test]
    fn bits_offset_is_seven_for_bytes_on_minus_one_to_one() {
        let card = read(&format!("{CARD}data: {{range: [-1, 1], levels: 256}}\n")).expect("right");
        assert_eq!(card.bits_offset(), Some(7.0));
    }

    #[test]
    fn invalid_card_names_the_wrong_key() {
        let refused =
            |from: &str, to: &str| format!("{:#}", read(&CARD.replace(from, to)).expect_err(to));
        assert!(refused("shape: [2]", "shape: [0]").contains("shape"));
        assert!(refused("shape: [2]", "shapes: [2]").contains("shapes"));
        assert!(refused("file: v.onnx", "file: ../v.onnx").contains("network.file"));
        assert!(refused("file: v.onnx", "file: /v.onnx").contains("leaves"));
        assert!(refused("name: toy", "name: '<b>'").contains("name"));
        assert!(refused("name: toy", "name: '=1+1'").contains("name"));
        assert!(refused("data_at: 1", "data_at: 3").contains("data_at"));
        assert!(refused("data_at: 1", "data_on: 1").contains("data_on"));
        assert!(refused("prediction: velocity", "prediction: speed").contains("speed"));
        let map = |inputs: &str, outputs: &str| {
            let entry = format!(
                "flow_maps: {{m: {{file: m.onnx, inputs: {{{inputs}}}, outputs: {{{outputs}}}}}}}\n"
            );
            format!("{:#}", read(&format!("{CARD}{entry}")).expect_err(inputs))
        };
        assert!(map("x: x, from: t", "velocity: u").contains("exactly one of `to`"));
        assert!(
            map("x: x, from: t, to: s, step: d", "velocity: u").contains("exactly one of `to`")
        );
        assert!(map("x: x, from: t, until: s", "velocity: u").contains("until"));
        assert!(map("x: x, from: t, to: s", "divergence: d").contains("velocity"));
        assert!(map("x: x, from: t, duration: d", "velocity: u").contains("flow_maps.m.direction"));
    }
}
