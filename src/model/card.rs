//! Model cards: the user's description of a model and its ONNX files, checked before anything runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path as FilePath, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::conditions::ConditionSpec;
use super::constants::Constant;
pub use super::data_spec::DataSpec;
use super::defaults::{is_zero, unit_scale};
use super::energy::EnergySpec;
use super::latent::LatentSpec;
use super::one_call::{OneCall, OneCallCard, OneCallKind, OneCallOutputs};
use crate::flow::centred::CentredSystem;
use crate::flow::flow_map::FlowMapStepRule;
use crate::flow::guidance::Guidance;
use crate::flow::path::ProbabilityPath;
use crate::flow::preconditioning::Preconditioning;
use crate::flow::prediction::Prediction;
use crate::hub;
use crate::signature::{self, ExpectedFile};
use crate::yaml::{Document, Fault, Node};

/// A model card (`card.yaml`): one model with its network, its path, the scale of its data, its
/// learned divergence heads and its flow maps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The kind of the model (default: `diffusion`). Cards of the kinds `flow` and `density` have
    /// other keys: see [`OneCallCard`].
    #[serde(default, skip_serializing_if = "DiffusionKind::is_default")]
    pub kind: DiffusionKind,
    /// The outputs of a model that gives its log-density in one call. Such a model has no velocity,
    /// and `path` and `network.prediction` say nothing.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub one_call: Option<OneCall>,
    /// The model's name: letters, digits, spaces and any of `_-.,()[]+`, beginning with a letter, a
    /// digit or `_`, at most 100 bytes.
    pub name: String,
    /// The shape of one sample, without the batch axis.
    pub shape: Vec<usize>,
    /// The network from which the velocity is computed.
    pub network: NetworkSpec,
    /// The probability path on which the network was trained.
    pub path: ProbabilityPath,
    /// The prior at the prior end. By default its standard deviation is `sigma_max` on the paths
    /// `edm` and `ve`, and 1 on the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior: Option<PriorSpec>,
    /// The range and the number of levels of the data; needed for bits/dim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataSpec>,
    /// The guidance of the velocity, unless the config or the command line name another. Default:
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<GuidanceSpec>,
    /// The coder of a latent model, whose state is not the data. Default: the state is the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latent: Option<LatentSpec>,
    /// Learned divergence heads, by names that estimators refer to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub divergence_heads: BTreeMap<String, DivergenceHeadSpec>,
    /// Flow maps, by names that estimators and samplers refer to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub flow_maps: BTreeMap<String, FlowMapSpec>,
    /// The exact log-density of the model at any time, for models for which it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_form: Option<ClosedFormSpec>,
    /// The energy of the target that samples of the model are reweighted to. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<EnergySpec>,
    /// Free notes on the origin of the files. If a file is missing, the message quotes `source`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub provenance: BTreeMap<String, serde_json::Value>,
}

/// The kind of a model with a velocity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum DiffusionKind {
    /// A diffusion or flow model in continuous time.
    #[default]
    Diffusion,
}

impl DiffusionKind {
    /// Always true: the only kind is the default, which is not written.
    fn is_default(&self) -> bool {
        *self == DiffusionKind::default()
    }
}

/// A card of any kind, for the schema that editors and validators use.
#[derive(JsonSchema)]
#[serde(untagged)]
pub enum AnyCard {
    /// A model with a velocity.
    Diffusion(Box<Card>),
    /// A model that gives its log-density in one call.
    OneCall(Box<OneCallCard>),
}

/// The network from which the velocity is computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// The ONNX file, relative to the card's folder; it must lie in that folder or below it.
    pub file: PathBuf,
    /// The expected SHA-256 hash of the file, in hexadecimal digits. A file with another hash is
    /// refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The graph's names of the state and the time.
    pub inputs: NetworkInputs,
    /// Values of further inputs; every sample gets the same values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub constants: BTreeMap<String, Constant>,
    /// Further inputs with one value per sample, by the names that configs and `--condition` use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, ConditionSpec>,
    /// The name of the graph's output.
    pub output: String,
    /// The part `[from, to]` of the output's first axis behind the batch that is the prediction, for
    /// an output with more channels than the state, such as learned variances. Default: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<[usize; 2]>,
    /// The part `[from, to]` of the output's first axis behind the batch that holds learned variances
    /// of the reverse steps, as improved-diffusion trains them: (output + 1)/2 is the share of ln β,
    /// and the rest is that of ln β̃. Discrete variational bounds use it. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variance_channels: Option<[usize; 2]>,
    /// The batch size of a graph that takes no other. Samples are evaluated in calls of that many
    /// rows. Default: the graph takes any batch size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// The quantity that the output estimates.
    pub prediction: Prediction,
    /// Scalings of input and output that are not part of the graph (default: none).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preconditioning: Option<Preconditioning>,
    /// The values that the time input gets (default: see `feed`, `scale` and `offset`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeInputSpec>,
}

/// The guidance of a card's velocity: by its own network without conditions, or by the velocity of
/// another card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GuidanceSpec {
    /// The scale w of v = v_weak + w·(v − v_weak). At 1 the velocity is not guided.
    pub scale: f64,
    /// The lowest and the highest noise level σ/α at which the velocity is guided. Default: all
    /// noise levels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Another card, relative to this card's folder, whose velocity is the weak one (autoguidance).
    /// Default: the weak velocity is the card's own, with the null values of its conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<PathBuf>,
}

impl GuidanceSpec {
    /// The scale and the interval.
    pub fn guidance(&self) -> Guidance {
        Guidance {
            scale: self.scale,
            interval: self.interval,
        }
    }
}

/// The names of a graph's inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkInputs {
    /// The input that takes the state.
    pub x: String,
    /// The input that takes the time. Default: the graph has no time input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

/// The values that a graph's time input gets: `feed`(t) · `scale` + `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeInputSpec {
    /// The function of the card's time t: `t`, `sigma`, `log-sigma-over-4` or `index`. Default:
    /// `log-sigma-over-4` for a network with `preconditioning: edm`, `index` on a `discrete` path,
    /// and `t` otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed: Option<TimeVariable>,
    /// The factor of the function (default: 1).
    #[serde(default = "unit_scale")]
    pub scale: f64,
    /// The number that is added to the scaled function (default: 0).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset: f64,
    /// The treatment of a time between two whole numbers, for an input of integers. `true`, the
    /// default: the network is evaluated at both and the results are interpolated. `false`: such a
    /// time is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub interpolate: Option<bool>,
    /// Whether the output does not depend on time (default: false). Without `ignored: true` such a
    /// network is refused, or reported if its field may be independent of time.
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

/// Whether `v` is false, the default, which is not written.
fn is_false(v: &bool) -> bool {
    !v
}

/// A function of the card's time t.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[("t", &["time"]), ("log-sigma-over-4", &["c-noise"]), ("index", &["timestep", "timesteps"])]))]
pub enum TimeVariable {
    /// The card's time t itself.
    T,
    /// The noise level σ(t).
    Sigma,
    /// ln(σ(t))/4, the noise conditioning of EDM networks.
    #[serde(rename = "log-sigma-over-4")]
    LogSigmaOver4,
    /// The index t·N − 1 on a `discrete` path with N steps; it is 0 at the first β.
    Index,
}

impl TimeVariable {
    /// Returns the name of the function in a card.
    pub fn as_str(self) -> &'static str {
        match self {
            TimeVariable::T => "t",
            TimeVariable::Sigma => "sigma",
            TimeVariable::LogSigmaOver4 => "log-sigma-over-4",
            TimeVariable::Index => "index",
        }
    }
}

/// The prior N(0, std²·I) at the prior end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PriorSpec {
    /// The prior's standard deviation.
    pub std: f64,
    /// Particles whose centre of mass is at zero, as for molecules. The prior and all densities are
    /// then those on the subspace of such states. Default: the whole space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub centred: Option<CentredSystem>,
}

/// A learned divergence head. Its scaled output is the divergence of dx/dt in the card's own time,
/// or the trace of the denoiser's Jacobian.
///
/// If the file, inputs, constants and time of a head are those of the network, the head is another
/// output of the same graph. It is then evaluated in the velocity's calls, at no extra cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DivergenceHeadSpec {
    /// The ONNX file, relative to the card's folder; it must lie in that folder or below it.
    pub file: PathBuf,
    /// The expected SHA-256 hash of the file, in hexadecimal digits. A file with another hash is
    /// refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The graph's names of the state and the time.
    pub inputs: NetworkInputs,
    /// Values of further inputs; every sample gets the same values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub constants: BTreeMap<String, Constant>,
    /// Further inputs with one value per sample, by the names that configs and `--condition` use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, ConditionSpec>,
    /// The name of the graph's output: one number per sample.
    pub output: String,
    /// The factor of the graph's output (default: 1); it must not be 0.
    #[serde(default = "unit_scale")]
    pub scale: f64,
    /// The values that the time input gets. Default: those of the network's time input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeInputSpec>,
    /// The quantity that the scaled output estimates (default: `divergence`).
    #[serde(default, skip_serializing_if = "is_divergence")]
    pub parametrization: HeadParametrization,
}

/// The quantity that the scaled output of a divergence head estimates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum HeadParametrization {
    /// The divergence of dx/dt, +div, in the card's own time.
    #[default]
    Divergence,
    /// The trace of the Jacobian of the denoiser E(x₀ | x) with respect to x. For an ideal denoiser
    /// and α = 1 it lies between 0 and the dimension.
    DenoiserTrace,
}

/// Whether `p` is the default, which is not written.
fn is_divergence(p: &HeadParametrization) -> bool {
    *p == HeadParametrization::Divergence
}

/// A flow map for few steps: the averages between two times of the velocity dx/dt and of its
/// divergence, in the card's own time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowMapSpec {
    /// The ONNX file, relative to the card's folder; it must lie in that folder or below it.
    pub file: PathBuf,
    /// The expected SHA-256 hash of the file, in hexadecimal digits. A file with another hash is
    /// refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The graph's names of the state and the two times.
    pub inputs: FlowMapInputs,
    /// Values of further inputs; every sample gets the same values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub constants: BTreeMap<String, Constant>,
    /// Further inputs with one value per sample, by the names that configs and `--condition` use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, ConditionSpec>,
    /// The graph's names of the average velocity and the average divergence.
    pub outputs: FlowMapOutputs,
    /// The factor of the graph's divergence output (default: 1); it must not be 0.
    #[serde(default = "unit_scale")]
    pub divergence_scale: f64,
    /// The values that the two time inputs get. Default: `network.time`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeInputSpec>,
    /// The direction in which the map was trained (default: `both`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<FlowMapDirection>,
    /// The rule by which averages become steps of a likelihood (default: `two-time`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<FlowMapStepRule>,
}

/// The names of a flow map's inputs: `x`, `from`, and exactly one of `to`, `step` and `duration`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowMapInputs {
    /// The input that takes the state.
    pub x: String,
    /// The input that takes the time at which the step begins.
    pub from: String,
    /// The input that takes the time at which the step ends (MeanFlow's r).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The input that takes the signed difference feed(to) − feed(from).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The input that takes the absolute difference |feed(to) − feed(from)| (Shortcut's dt). Such a
    /// map needs a `direction` of `to-noise` or `to-data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
}

impl FlowMapInputs {
    /// Returns the graph's names of the two time inputs.
    pub fn time_names(&self) -> impl Iterator<Item = &str> {
        self.time_roles().into_iter().map(|(_, name)| name)
    }

    /// Returns the roles of the two time inputs with the graph's names.
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

/// The names of a flow map's outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowMapOutputs {
    /// The output with the average velocity. Either it or `endpoint` is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub velocity: Option<String>,
    /// The output with the state X at the end of the step, from which the average velocity
    /// (X − x)/(to − from) follows. A map without a second time, such as a consistency network, leads
    /// to the data end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The output with the average divergence. Default: the map has none, and gives samples but no
    /// likelihood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<String>,
}

/// The direction in which a flow map was trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum FlowMapDirection {
    /// From data to noise and from noise to data.
    Both,
    /// From data to noise only.
    ToNoise,
    /// From noise to data only.
    ToData,
}

impl FlowMapSpec {
    /// Returns the direction: [`FlowMapDirection::Both`] by default, and to the data for a map without
    /// a second time.
    pub fn direction(&self) -> FlowMapDirection {
        let usual = if self.leads_to_data_end() {
            FlowMapDirection::ToData
        } else {
            FlowMapDirection::Both
        };
        self.direction.unwrap_or(usual)
    }

    /// Whether the map has no second time and every step leads to the data end, as in a consistency
    /// network.
    pub fn leads_to_data_end(&self) -> bool {
        let ends = [&self.inputs.to, &self.inputs.step, &self.inputs.duration];
        self.outputs.endpoint.is_some() && ends.iter().all(|end| end.is_none())
    }

    /// Returns the name of the output with the average velocity or with the endpoint.
    pub fn state_output(&self) -> &str {
        let outputs = &self.outputs;
        let output = outputs.velocity.as_deref().or(outputs.endpoint.as_deref());
        output.unwrap_or_default()
    }

    /// Checks that the map can take this number of steps.
    ///
    /// # Errors
    /// Fails if it leads to the data end in one step. The message says what is expected.
    pub fn check_steps(&self, steps: usize) -> Result<(), String> {
        if self.leads_to_data_end() && steps != 1 {
            return Err(format!(
                "the map has no second time and leads to the data end in one step; expected \
                 steps: 1, found {steps}"
            ));
        }
        Ok(())
    }

    /// Returns the rule for likelihoods whose estimator names no rule.
    pub fn rule(&self) -> FlowMapStepRule {
        self.rule.unwrap_or_default()
    }

    /// Checks that the map supports few-step likelihoods with the given rule.
    ///
    /// # Errors
    /// Fails if it does not. The message names the key and what is expected.
    pub fn check_supports_likelihood(&self, rule: FlowMapStepRule) -> Result<(), String> {
        self.check_has_divergence()?;
        match (rule, self.direction()) {
            (FlowMapStepRule::TwoTime, FlowMapDirection::ToData) => Err(
                "direction is to-data, but a likelihood goes from data to noise; expected \
                     `volume: log-det`, which inverts the map, `density: true` of a sampler for the \
                     densities of the map's own samples, or the biased `rule: forward-average`"
                    .to_owned(),
            ),
            (FlowMapStepRule::ForwardAverage, FlowMapDirection::ToNoise) => Err(
                "direction is to-noise, but `rule: forward-average` evaluates the map \
                     towards data; expected `rule: two-time`"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    /// Checks that the map supports likelihoods by exact log-determinants of a number of steps.
    ///
    /// # Errors
    /// Fails if it does not. The message names the key and what is expected.
    pub fn check_supports_log_determinants(
        &self,
        rule: FlowMapStepRule,
        steps: usize,
    ) -> Result<(), String> {
        if rule == FlowMapStepRule::ForwardAverage {
            return Err(
                "volume: log-det is the volume of the map's own steps; expected `rule: two-time`"
                    .to_owned(),
            );
        }
        self.check_steps(steps)
    }

    /// Checks that the map supports few-step samples.
    ///
    /// # Errors
    /// Fails if it does not. The message names the key and what is expected.
    pub fn check_supports_sampling(&self) -> Result<(), String> {
        match self.direction() {
            FlowMapDirection::ToNoise => Err(
                "direction is to-noise, but samples go from noise to data; expected a map \
                     that was trained from noise to data"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    /// Checks that the map has a divergence output.
    ///
    /// # Errors
    /// Fails if it has none. The message names the key and what is expected.
    pub fn check_has_divergence(&self) -> Result<(), String> {
        (self.outputs.divergence.is_some())
            .then_some(())
            .ok_or_else(|| {
                "outputs name no `divergence`; a map without that output has a likelihood only \
                 with `volume: log-det`"
                    .to_owned()
            })
    }

    /// Checks the map's inputs, outputs and direction.
    ///
    /// # Errors
    /// Fails if they contradict each other. The message names the key and what is expected.
    fn check(&self) -> Result<(), String> {
        let ends = [&self.inputs.to, &self.inputs.step, &self.inputs.duration];
        if ends.iter().filter(|e| e.is_some()).count() != 1 && !self.leads_to_data_end() {
            return Err(
                "inputs: expected `x`, `from` and exactly one of `to`, `step` and `duration`"
                    .to_owned(),
            );
        }
        if self.outputs.velocity.is_some() == self.outputs.endpoint.is_some() {
            return Err(
                "outputs: expected `velocity` or `endpoint`, and `divergence` if the map has one; \
                 no step can be taken without one of the two"
                    .to_owned(),
            );
        }
        if self.leads_to_data_end() && self.direction() != FlowMapDirection::ToData {
            return Err(
                "direction: expected to-data, because a map without a second time leads to the \
                 data end"
                    .to_owned(),
            );
        }
        if self.inputs.duration.is_some()
            && matches!(self.direction, None | Some(FlowMapDirection::Both))
        {
            return Err(
                "direction: expected to-noise or to-data, because `duration` does not contain \
                 the direction"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

/// The exact log-density of the model at any time, as the output of an ONNX file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClosedFormSpec {
    /// The ONNX file, relative to the card's folder; it must lie in that folder or below it.
    pub file: PathBuf,
    /// The expected SHA-256 hash of the file, in hexadecimal digits. A file with another hash is
    /// refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The graph's names of the state and the time.
    pub inputs: NetworkInputs,
    /// Values of further inputs; every sample gets the same values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub constants: BTreeMap<String, Constant>,
    /// Further inputs with one value per sample, by the names that configs and `--condition` use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, ConditionSpec>,
    /// The name of the graph's output: one log-density in nats per sample.
    pub output: String,
    /// The values that the time input gets. Default: those of the network's time input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeInputSpec>,
}

/// Whether the card says that it describes a one-call model.
///
/// # Errors
/// Fails if the card names a kind that does not exist.
fn is_one_call(root: &Node) -> Result<bool, Fault> {
    match root.get("kind").map(String::deserialize) {
        None => Ok(false),
        Some(Ok(kind)) if kind == "diffusion" => Ok(false),
        Some(Ok(kind)) if kind == "flow" || kind == "density" => Ok(true),
        Some(_) => Err(Fault::new("kind", "expected diffusion, flow or density")),
    }
}

/// Explains why the file is not a card, if its keys are those of another kind of file.
fn not_a_card_reason(root: &Node) -> Option<String> {
    let has = |key: &str| root.get(key).is_some();
    if has("network") || has("shape") || has("path") {
        return None;
    }
    if has("likelihood") || has("samples") || has("reweight") || has("maps") {
        return Some(
            "it is a config, expected a model card; configs are for `flowgauge run` and \
             `flowgauge plan`"
                .to_owned(),
        );
    }
    has("claims").then(|| "it is a file of claims, expected a model card".to_owned())
}

impl Card {
    /// Reads and checks the card at `path`.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is not a valid card. One message names the file and
    /// lists all faults with their lines and keys.
    pub fn read(path: &FilePath) -> Result<Card> {
        let text = signature::read_yaml_text(path, ExpectedFile::Card)
            .map_err(|e| anyhow!("{}: {e}", path.display()))?;
        Card::parse(&text).with_context(|| path.display().to_string())
    }

    /// Parses and checks the text of a card.
    ///
    /// # Errors
    /// Fails if the text is not a valid card. One message lists all faults with their lines and
    /// keys.
    pub(crate) fn parse(text: &str) -> Result<Card> {
        let mut document = Document::parse(text)?;
        if let Some(other) = not_a_card_reason(&document.root) {
            bail!("{other}");
        }
        let (card, faults) = match is_one_call(&document.root) {
            Err(fault) => (None, vec![fault]),
            Ok(false) => document.read_partly::<Card>(),
            Ok(true) => {
                let (card, mut faults) = document.read_partly::<OneCallCard>();
                let card =
                    card.and_then(|card| Card::of_one_call(card).map_err(|f| faults.push(f)).ok());
                (card, faults)
            }
        };
        let mut faults = document.locate(faults);
        let Some(card) = card else {
            return Err(document.report_faults(faults).into());
        };
        // A fault that follows from one already found would only repeat it.
        let known: Vec<String> = faults.iter().map(|f| f.key.clone()).collect();
        let independent = |fault: &Fault| {
            !known
                .iter()
                .any(|key| key.starts_with(&fault.key) && !fault.key.is_empty())
        };
        faults.extend(
            document
                .locate(card.check())
                .into_iter()
                .filter(independent),
        );
        if faults.is_empty() {
            Ok(card)
        } else {
            Err(document.report_faults(faults).into())
        }
    }

    /// Returns the card of a one-call model in the form that all models share. It has no velocity:
    /// its path and its prediction are placeholders that nothing reads, because [`Card::one_call`] is
    /// set.
    ///
    /// # Errors
    /// Fails if the outputs are not those that the kind needs.
    fn of_one_call(one: OneCallCard) -> Result<Card, Fault> {
        let OneCallOutputs {
            latent,
            log_det,
            log_density,
        } = one.network.outputs;
        let (one_call, output) = match (one.kind, latent, log_det, log_density) {
            (OneCallKind::Flow, Some(latent), Some(log_det), None) => {
                let output = latent.clone();
                (OneCall::Flow { latent, log_det }, output)
            }
            (OneCallKind::Density, None, None, Some(log_density)) => {
                let output = log_density.clone();
                (OneCall::Density { log_density }, output)
            }
            (OneCallKind::Flow, ..) => {
                let message = "expected `latent` and `log_det`, which a card of `kind: flow` needs, \
                               and nothing else";
                return Err(Fault::new("network.outputs", message.to_owned()));
            }
            (OneCallKind::Density, ..) => {
                let message = "expected `log_density`, which a card of `kind: density` needs, and \
                               nothing else";
                return Err(Fault::new("network.outputs", message.to_owned()));
            }
        };
        if let (OneCallKind::Density, Some(_)) = (one.kind, one.prior) {
            let message = "a card of `kind: density` has no prior: its graph gives the log-density";
            return Err(Fault::new("prior", message.to_owned()));
        }
        Ok(Card {
            kind: Default::default(),
            one_call: Some(one_call),
            name: one.name,
            shape: one.shape,
            network: NetworkSpec {
                file: one.network.file,
                sha256: one.network.sha256,
                inputs: NetworkInputs {
                    x: one.network.inputs.x,
                    time: None,
                },
                constants: one.network.constants,
                conditions: one.network.conditions,
                output,
                channels: None,
                variance_channels: None,
                batch: one.network.batch,
                prediction: Prediction::Velocity,
                preconditioning: None,
                time: None,
            },
            path: ProbabilityPath::FlowMatching {
                data_at: 1,
                t_min: 0.0,
                t_max: 1.0,
            },
            prior: Some(PriorSpec {
                std: one.prior.map_or(1.0, |prior| prior.std),
                centred: None,
            }),
            data: one.data,
            guidance: None,
            latent: None,
            divergence_heads: BTreeMap::new(),
            flow_maps: BTreeMap::new(),
            closed_form: None,
            energy: None,
            provenance: one.provenance,
        })
    }

    /// Returns the card of the decoded data of a latent model: its shape is that of the data. For
    /// other models it is the card itself.
    pub fn data_card(&self) -> Card {
        match &self.latent {
            None => self.clone(),
            Some(latent) => Card {
                shape: latent.shape.clone(),
                latent: None,
                ..self.clone()
            },
        }
    }

    /// The system of particles with their centre of mass at zero, if the prior is one of such states.
    pub fn centred_system(&self) -> Option<CentredSystem> {
        self.prior.and_then(|prior| prior.centred)
    }

    /// The number of dimensions in which samples have a density: fewer than their values for a
    /// centred system.
    pub fn degrees_of_freedom(&self) -> usize {
        self.centred_system()
            .map_or(self.dim(), CentredSystem::degrees_of_freedom)
    }

    /// Returns the number of values in one sample.
    pub fn dim(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns log₂ of the number of levels per unit of the data's range. This offset is added to
    /// −log₂ of the density per dimension, which gives bits/dim.
    ///
    /// The result is `None` if the card names no `levels`, or if the model is one of latents: bits/dim
    /// are not defined for continuous data.
    pub fn bits_offset(&self) -> Option<f64> {
        let data = self.data.filter(|_| self.latent.is_none())?;
        Some((f64::from(data.levels?) / (data.range[1] - data.range[0])).log2())
    }

    /// Returns all faults that can be found without the card's files.
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
        if let Some(system) = self.centred_system() {
            if let Err(message) = system.check(dim) {
                fault("prior", message);
            }
            if self.latent.is_some() || self.data.is_some() {
                fault(
                    "prior",
                    "centred: such states are real coordinates, so `latent` and `data` do not \
                     apply; discrete values such as charges are not part of them"
                        .to_owned(),
                );
            }
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
        if let Some(Err(message)) = self.latent.as_ref().map(LatentSpec::check) {
            fault("latent", message);
        }
        if let Some(guidance) = &self.guidance {
            if let Err(message) = guidance.guidance().check() {
                fault("guidance", message);
            }
            if let Some(Err(message)) = guidance.with.as_deref().map(check_inside_card_folder) {
                fault("guidance.with", message);
            }
        }
        if let Some([from, to]) = self.network.channels.filter(|[from, to]| from >= to) {
            fault(
                "network.channels",
                format!("[{from}, {to}], expected [from, to] with from < to"),
            );
        }
        if let Some([from, to]) = self.network.variance_channels {
            let count = self
                .network
                .channels
                .map(|[from, to]| to.saturating_sub(from));
            match count {
                None => fault(
                    "network.variance_channels",
                    "expected `network.channels` too: the part of the output that is the prediction"
                        .to_owned(),
                ),
                Some(count) if to.checked_sub(from) != Some(count) => fault(
                    "network.variance_channels",
                    format!("[{from}, {to}], expected {count} channels, as `network.channels` has"),
                ),
                _ => {}
            }
        }
        if self.network.batch == Some(0) {
            fault("network.batch", "0, expected at least 1".to_owned());
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
        let scales = scales.chain(
            self.energy
                .iter()
                .map(|e| ("energy.scale".to_owned(), e.scale)),
        );
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
        // Betas in a file are checked when the file is read.
        if self.path.betas_file().is_none() {
            found.extend(self.path.curve().err().map(Fault::from_message));
        }
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

    /// Returns every `time` of the card, with the key of its network.
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

    /// Checks one `time` of the card.
    ///
    /// # Errors
    /// Fails if it is not valid. The message names the key and what is expected.
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
                "feed: index, but the path `{}` has no indices; expected t, sigma or \
                 log-sigma-over-4, such as `{{feed: t, scale: 999}}` for a network with indices \
                 0 to 999, or a path of kind discrete",
                other.kind()
            )),
            _ => Ok(()),
        }
    }

    /// Whether a head is an output of the velocity's own graph and is evaluated in the same calls.
    pub fn is_joint(&self, head: &str) -> bool {
        let network = &self.network;
        self.divergence_heads.get(head).is_some_and(|h| {
            let fed = self.head_time_input(h.time) == self.time_input();
            h.file == network.file
                && h.inputs == network.inputs
                && h.constants == network.constants
                && h.conditions == network.conditions
                && fed
        })
    }

    /// Returns every file that the card names, with its key.
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
        files.extend(
            self.energy
                .iter()
                .map(|e| ("energy.file".to_owned(), e.file.as_path())),
        );
        let coder = self.latent.iter().flat_map(|latent| {
            let encoder = latent.encoder.iter().map(|e| ("encoder", e.file.as_path()));
            encoder.chain(latent.decoder.iter().map(|d| ("decoder", d.file.as_path())))
        });
        files.extend(coder.map(|(role, file)| (format!("latent.{role}.file"), file)));
        for (key, conditions) in self.conditions() {
            let named = conditions
                .iter()
                .filter_map(|(name, condition)| Some((name, condition.null.as_ref()?.file()?)));
            files.extend(named.map(|(name, file)| (null_key(&key, name), file)));
        }
        files.extend(
            self.path
                .betas_file()
                .map(|file| ("path.betas".to_owned(), file)),
        );
        for (key, constants) in self.constants() {
            let named = constants
                .iter()
                .filter_map(|(name, constant)| Some((name, constant.file()?)));
            files.extend(named.map(|(name, file)| (format!("{key}.constants.{name}"), file)));
        }
        files
    }

    /// Returns the conditions of every network, with the network's key.
    pub(super) fn conditions(&self) -> Vec<(String, &BTreeMap<String, ConditionSpec>)> {
        let mut found = vec![("network".to_owned(), &self.network.conditions)];
        found.extend(
            self.divergence_heads
                .iter()
                .map(|(n, h)| (format!("divergence_heads.{n}"), &h.conditions)),
        );
        found.extend(
            self.flow_maps
                .iter()
                .map(|(n, m)| (format!("flow_maps.{n}"), &m.conditions)),
        );
        found.extend(
            self.closed_form
                .iter()
                .map(|c| ("closed_form".to_owned(), &c.conditions)),
        );
        found
    }

    /// Returns the names of the conditions of all networks of the card.
    pub fn condition_names(&self) -> BTreeSet<&str> {
        self.conditions()
            .into_iter()
            .flat_map(|(_, conditions)| conditions.keys().map(String::as_str))
            .collect()
    }

    /// Returns the constants of every network, with the network's key.
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

/// Returns the card's key of the null value of a condition of the network at `key`.
pub(super) fn null_key(key: &str, condition: &str) -> String {
    format!("{key}.conditions.{condition}.null")
}

/// Checks that a name can be a file's name, and has no special meaning in a table or a page.
///
/// # Errors
/// Fails if the name contains characters that are not allowed, or is too long.
pub fn check_plain_name(name: &str) -> Result<(), String> {
    let starts_well = name
        .chars()
        .next()
        .is_some_and(|c| c.is_alphanumeric() || c == '_');
    let allowed = |c: char| c.is_alphanumeric() || " _-.,()[]+".contains(c);
    if !starts_well || name.len() > 100 || !name.chars().all(allowed) || name.contains("..") {
        return Err(format!(
            "{name:?} is not a plain name; expected letters, digits, spaces and any of \
             _-.,()[]+, beginning with a letter or digit, at most 100 bytes"
        ));
    }
    Ok(())
}

/// Checks that a path is relative and stays inside the card's folder.
fn check_inside_card_folder(file: &FilePath) -> Result<(), String> {
    if hub::is_hub_name(file) {
        return Ok(());
    }
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

    const CARD: &str = "name: toy\nshape: [2]\n\
                        network: {file: v.onnx, inputs: {x: x, time: t}, output: v, \
                        prediction: velocity}\n\
                        path: {kind: flow-matching, data_at: 1}\n";

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
