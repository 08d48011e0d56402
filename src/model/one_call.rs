//! Models that give their log-density in one call: normalizing flows (`kind: flow`), whose graph maps
//! a sample to a latent and a log-determinant, and graphs of the log-density itself
//! (`kind: density`).
//!
//! Such a model has no path, no velocity and no sampler. It stands beside diffusion models in one
//! table of log-likelihoods.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use ndarray::{Axis, s};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::card::{Card, DataSpec, NetworkInputs, NetworkSpec, PriorSpec};
use super::conditions::ConditionSpec;
use super::constants::Constant;
use super::loaded::{JacobianOptions, Model, SessionOptions};
use super::network::{DerivativeSeed, Network};
use super::onnx::Runtime;
use crate::flow::field::{EvalError, JacobianOperator, LogDensityTerms, OneCallDensity, Points};
use crate::flow::path::ProbabilityPath;
use crate::flow::prediction::Prediction;
use crate::flow::prior::Prior;
use crate::num::key::SampleId;
use crate::num::{Batch, TangentBatch, linalg};
use crate::yaml::Fault;

/// The card of a model that gives its log-density in one call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OneCallCard {
    /// What the graph gives: `flow` or `density`.
    pub kind: OneCallKind,
    /// The model's name: letters, digits, spaces and any of `_-.,()[]+`, beginning with a letter, a
    /// digit or `_`, at most 100 bytes.
    pub name: String,
    /// The shape of one sample, without the batch axis.
    pub shape: Vec<usize>,
    /// The graph and its outputs.
    pub network: OneCallNetworkSpec,
    /// The distribution N(0, std²·I) of the latents of a `flow`. Default: `std: 1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior: Option<OneCallPriorSpec>,
    /// The range and the number of levels of the data; needed for bits/dim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataSpec>,
    /// Free notes on the origin of the files. If a file is missing, the message quotes `source`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub provenance: BTreeMap<String, serde_json::Value>,
}

/// What the graph of a one-call model gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum OneCallKind {
    /// A latent z(x) and log |det dz/dx|, of a normalizing flow.
    Flow,
    /// The log-density of the sample.
    Density,
}

/// The distribution of the latents of a normalizing flow.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OneCallPriorSpec {
    /// The standard deviation of the latents.
    pub std: f64,
}

/// The graph of a one-call model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OneCallNetworkSpec {
    /// The ONNX file, relative to the card's folder; it must lie in that folder or below it.
    pub file: PathBuf,
    /// The expected SHA-256 hash of the file, in hexadecimal digits. A file with another hash is
    /// refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The graph's name of the sample.
    pub inputs: OneCallInputs,
    /// Values of further inputs; every sample gets the same values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub constants: BTreeMap<String, Constant>,
    /// Further inputs with one value per sample, by the names that configs and `--condition` use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, ConditionSpec>,
    /// The graph's names of what it gives: `latent` and `log_det` of a `flow`, `log_density` of a
    /// `density`.
    pub outputs: OneCallOutputs,
    /// The batch size of a graph that takes no other. Samples are evaluated in calls of that many
    /// rows. Default: the graph takes any batch size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
}

/// The name of the input of a one-call model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OneCallInputs {
    /// The input that takes the sample.
    pub x: String,
}

/// The names of the outputs of a one-call model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OneCallOutputs {
    /// The output with the latent z, as many values per sample as the sample has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latent: Option<String>,
    /// The output with log |det dz/dx| in nats, one number per sample. Its sign is that of the map
    /// from the sample to the latent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_det: Option<String>,
    /// The output with log p(x) in nats, one number per sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_density: Option<String>,
}

/// The outputs of a one-call model, as its kind needs them.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OneCall {
    /// The names of the outputs with the latent and with the log-determinant.
    Flow { latent: String, log_det: String },
    /// The name of the output with the log-density.
    Density { log_density: String },
}

impl OneCall {
    /// The word of the card's key `kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            OneCall::Flow { .. } => "flow",
            OneCall::Density { .. } => "density",
        }
    }

    /// What the graph gives, in words.
    pub fn describe(&self) -> String {
        match self {
            OneCall::Flow { latent, log_det } => format!(
                "one call gives the latent `{latent}` and the log-determinant `{log_det}` of the map \
                 to it"
            ),
            OneCall::Density { log_density } => {
                format!("one call gives the log-density `{log_density}`")
            }
        }
    }

    /// The output with one number per sample.
    pub(super) fn number_output(&self) -> &str {
        match self {
            OneCall::Flow { log_det, .. } => log_det,
            OneCall::Density { log_density } => log_density,
        }
    }
}

impl OneCallCard {
    /// Returns the card in the form that all models share. It has no velocity: its path and its
    /// prediction are placeholders that nothing reads, because [`Card::one_call`] is set.
    ///
    /// # Errors
    /// Fails if the outputs are not those that the kind needs.
    pub(super) fn into_card(self) -> Result<Card, Fault> {
        let OneCallOutputs {
            latent,
            log_det,
            log_density,
        } = self.network.outputs;
        let (one_call, output) = match (self.kind, latent, log_det, log_density) {
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
        if let (OneCallKind::Density, Some(_)) = (self.kind, self.prior) {
            let message = "a card of `kind: density` has no prior: its graph gives the log-density";
            return Err(Fault::new("prior", message.to_owned()));
        }
        Ok(Card {
            kind: Default::default(),
            one_call: Some(one_call),
            name: self.name,
            shape: self.shape,
            network: NetworkSpec {
                file: self.network.file,
                sha256: self.network.sha256,
                inputs: NetworkInputs {
                    x: self.network.inputs.x,
                    time: None,
                },
                constants: self.network.constants,
                conditions: self.network.conditions,
                output,
                channels: None,
                variance_channels: None,
                batch: self.network.batch,
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
                std: self.prior.map_or(1.0, |prior| prior.std),
                centred: None,
            }),
            data: self.data,
            guidance: None,
            latent: None,
            divergence_heads: BTreeMap::new(),
            flow_maps: BTreeMap::new(),
            closed_form: None,
            energy: None,
            provenance: self.provenance,
        })
    }
}

/// A one-call model that is opened.
pub struct OneCallNetwork {
    /// The opened graph.
    pub(super) network: Network,
    /// The graph's outputs.
    pub(super) outputs: OneCall,
    /// The distribution of the latents of a flow.
    pub(super) prior: Prior,
}

impl OneCallDensity for OneCallNetwork {
    fn log_density(&mut self, at: Points) -> Result<Vec<LogDensityTerms>, EvalError> {
        let wanted = match &self.outputs {
            OneCall::Flow { latent, log_det } => vec![log_det.clone(), latent.clone()],
            OneCall::Density { log_density } => vec![log_density.clone()],
        };
        let mut outputs = self
            .network
            .call_padded(at, DerivativeSeed::Nothing, &wanted)?
            .into_iter();
        let (rows, dim) = (at.rows(), at.x.ncols());
        let number = outputs.next().unwrap_or_default();
        if number.len() != rows {
            return Err(self.output_error(&wanted[0], number.shape(), vec![rows]));
        }
        let Some(latent) = outputs.next() else {
            let terms = |value: &f64| LogDensityTerms {
                log_density: *value,
                prior_and_log_det: None,
            };
            return Ok(number.iter().map(terms).collect());
        };
        let shape = latent.shape().to_vec();
        if shape.first() != Some(&rows) || latent.len() != rows * dim {
            return Err(self.output_error(&wanted[1], &shape, vec![rows, dim]));
        }
        let latent = Batch::from_shape_vec((rows, dim), latent.iter().copied().collect())
            .expect("the number of values was just compared");
        let prior = self.prior.log_density(&latent);
        let terms = |(log_det, prior): (&f64, &f64)| LogDensityTerms {
            log_density: prior + log_det,
            prior_and_log_det: Some([*prior, *log_det]),
        };
        Ok(number.iter().zip(&prior).map(terms).collect())
    }
}

impl OneCallNetwork {
    /// The shape of the latent of a flow.
    fn latent_shape(&mut self, at: Points) -> Result<Vec<usize>, EvalError> {
        let wanted = [self.network.output_name.clone()];
        let mut outputs = self
            .network
            .call_padded(at, DerivativeSeed::Nothing, &wanted)?;
        Ok(outputs.remove(0).shape().to_vec())
    }

    /// The error for an output whose shape is not the expected one.
    fn output_error(&self, output: &str, found: &[usize], expected: Vec<usize>) -> EvalError {
        EvalError::Shape {
            file: self.network.session.file.clone(),
            output: output.to_owned(),
            found: found.to_vec(),
            expected,
        }
    }
}

/// The most dimensions in which the log-determinants of a flow are compared with those of its
/// Jacobian.
const MAX_CHECKED_DIM: usize = 256;
/// The largest difference of two log-determinants that agree, per nat of their size and one more.
/// Networks in f32 stay far below.
const VOLUME_TOLERANCE: f64 = 1e-3;

/// The log-determinants that a normalizing flow gives, beside those of its Jacobian.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumeCheck {
    /// The log-determinants of the graph's output, in nats.
    given: Vec<f64>,
    /// log |det dz/dx| by the Jacobian of the latent, in nats.
    computed: Vec<f64>,
}

impl VolumeCheck {
    /// The largest difference between the given log-determinants, times `sign`, and the computed
    /// ones, per nat of their size and one more.
    fn largest_gap(&self, sign: f64) -> f64 {
        let gap = |(given, computed): (&f64, &f64)| {
            (sign * given - computed).abs() / (1.0 + computed.abs())
        };
        let gaps = self.given.iter().zip(&self.computed).map(gap);
        gaps.fold(0.0, |most, gap| {
            if gap > most || gap.is_nan() {
                gap
            } else {
                most
            }
        })
    }

    /// Whether they agree.
    pub fn agrees(&self) -> bool {
        self.largest_gap(1.0) <= VOLUME_TOLERANCE
    }

    /// What was found, in words.
    pub fn sentence(&self) -> String {
        let gap = self.largest_gap(1.0);
        if self.agrees() {
            return format!(
                "the log-determinants agree with the Jacobian of the latent (largest difference \
                 {gap:.1e} of their size)"
            );
        }
        let pairs = format!(
            "the first is {:.4} nats, but log |det dz/dx| is {:.4}",
            self.given[0], self.computed[0]
        );
        if self.largest_gap(-1.0) <= VOLUME_TOLERANCE {
            return format!(
                "the log-determinants are those of the map from latent to sample: {pairs}; expected \
                 the other sign"
            );
        }
        format!("the log-determinants are not those of the map from sample to latent: {pairs}")
    }
}

impl Model {
    /// Compares the log-determinants of a normalizing flow with those of its Jacobian at the states
    /// `x` of `samples`. The result is `None` for other models, in more than 256 dimensions, and if the
    /// latent does not have the shape of a sample.
    ///
    /// # Errors
    /// Fails if the graph cannot be differentiated or called.
    pub fn check_one_call_volume(
        &self,
        runtime: &Runtime,
        options: SessionOptions,
        samples: &[SampleId],
        x: &Batch,
    ) -> Result<Option<VolumeCheck>> {
        let flow = matches!(self.card.one_call, Some(OneCall::Flow { .. }));
        if !flow || self.dim() > MAX_CHECKED_DIM {
            return Ok(None);
        }
        let mut density = self.one_call(runtime, options)?;
        let times = vec![self.curve.data_end(); samples.len()];
        let at = Points::new(samples, &times, x);
        if density.latent_shape(at)? != density.network.with_state_shape(&[samples.len()]) {
            return Ok(None);
        }
        let log_det = |terms: LogDensityTerms| terms.prior_and_log_det.map_or(0.0, |[_, l]| l);
        let given = density.log_density(at)?.into_iter().map(log_det).collect();
        let mut jacobian = self.jacobian(runtime, options, JacobianOptions::default())?;
        let (rows, dim) = x.dim();
        let mut basis = TangentBatch::zeros((dim, rows, dim));
        for k in 0..dim {
            basis.slice_mut(s![k, .., k]).fill(1.0);
        }
        let columns = jacobian.jvp(at, &basis)?;
        let computed = (0..rows)
            .map(|row| linalg::log_abs_det(columns.index_axis(Axis(1), row)).0)
            .collect();
        Ok(Some(VolumeCheck { given, computed }))
    }
}
