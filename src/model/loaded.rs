//! A card with its files, hashed and checked. It opens the networks for any number of workers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};

use super::call_rows::RowInvariance;
use super::call_size::{self, CallSize};
use super::card::{
    self, Card, DivergenceHeadSpec, GuidanceSpec, HeadParametrization, NetworkInputs,
};
use super::conditions::{
    Condition, ConditionInput, ConditionSpec, ConditionValues, Conditions, null_value,
};
use super::constants::{self, Constant, ConstantInput};
use super::files::{
    FileContent, ModelFile, expected_sha256, external_data_files, load_content,
    unreadable_file_message,
};
use super::jacobian::DerivedNetworks;
use super::joint::JointHead;
use super::network::Network;
use super::one_call_network::OneCallNetwork;
use super::onnx::{Provider, Runtime, Session};
use super::output_cache::OutputCache;
use super::ports::{find_port, is_scalar_port};
use super::precision::NetworkPrecision;
use super::probe_cache::ProbeCache;
use super::scalar::{HeadTransform, ScalarNetwork};
use super::time::TimeInput;
use crate::flow::guidance::{ActiveGuidance, Guidance, Guided, WeakField};
use crate::flow::network_velocity::{NetworkVelocity, Parameterization};
use crate::flow::path::PathCurve;
use crate::flow::prediction::Prediction;
use crate::flow::prior::Prior;
use crate::graph;
use crate::host::hex;
use crate::hub;
use crate::signature::{self, ExpectedFile};

/// The graphs derived from a card's files, by the file's key and the kind of derivative. They are
/// derived once and shared by all workers.
pub type DerivedGraphCache = std::collections::BTreeMap<(String, graph::Mode), Arc<Vec<u8>>>;

/// What a card declares about the inputs and outputs of one network.
pub(super) struct CardPorts<'a> {
    /// The card's key of the network's file, such as `network.file`.
    pub key: &'a str,
    /// The inputs and outputs that have the shape of the state.
    pub state_ports: Vec<&'a str>,
    /// The inputs and outputs with one number per sample.
    pub scalar_ports: Vec<&'a str>,
    /// The values of further inputs, by the input's name.
    pub constants: &'a BTreeMap<String, Constant>,
    /// Further inputs with one value per sample, by the condition's name.
    pub conditions: &'a BTreeMap<String, ConditionSpec>,
}

/// The options with which sessions of ONNX Runtime are opened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SessionOptions {
    /// The execution provider.
    pub provider: Provider,
    /// The number of threads inside one call of a network.
    pub threads: usize,
}

/// The largest number of trace terms for which a trace graph is used. An exact trace with more
/// terms is computed from Jacobian products in several calls.
const MAX_TRACE_TERMS: u64 = 128;

/// The derivatives that are needed of a network besides its Jacobian products J·z.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct JacobianOptions {
    /// Whether Jacobian products Jᵀ·w (VJPs) are needed.
    pub vjp: bool,
    /// Whether the exact trace is needed, from a graph of its own.
    pub exact_trace: bool,
    /// Whether the whole Jacobian is needed, from a graph of its own.
    pub whole: bool,
}

/// What is derived from the files of a model once and then shared.
#[derive(Default)]
pub(super) struct ModelCaches {
    /// The graph of Jacobian products J·z, or the reason why there is none.
    jvp_graph: OnceLock<Result<Arc<Vec<u8>>, String>>,
    /// The graph of Jacobian products Jᵀ·w, or the reason why there is none.
    vjp_graph: OnceLock<Result<Arc<Vec<u8>>, String>>,
    /// The graph of the exact trace, or the reason why there is none.
    trace_graph: OnceLock<Result<Arc<Vec<u8>>, String>>,
    /// The graph of the whole Jacobian, or the reason why there is none.
    jacobian_graph: OnceLock<Result<Arc<Vec<u8>>, String>>,
    /// The graph of quadratic forms in two parts: first the part that depends only on the
    /// directions. It is `None` if there is no such part.
    quadratic_forms: OnceLock<Option<[Arc<Vec<u8>>; 2]>>,
    /// The number of terms of the exact trace; `None` if the file does not determine it.
    trace_terms: OnceLock<Option<u64>>,
    /// Graphs derived from other files than the network's, such as flow maps.
    derived_graphs: Mutex<DerivedGraphCache>,
    /// The keys of the networks whose dependence on time was tested.
    time_checked: Mutex<BTreeSet<String>>,
    /// The kinks that were searched for so far, by the key of the network.
    pub(super) kinks: Mutex<BTreeMap<String, Option<graph::Kink>>>,
    /// The number of values in the largest tensor that the network computes for one sample.
    max_activation_size: OnceLock<u64>,
    /// What the rows of a network and of its derived graphs depend on, by the key of the network
    /// and the kind of graph (`None` for the network itself).
    row_invariance: Mutex<BTreeMap<(String, Option<graph::Mode>), RowInvariance>>,
}

/// A model: a card whose files exist and match their hashes, with values for its conditions.
pub struct Model {
    /// The card.
    pub card: Card,
    /// The card of the data: that of decoded samples for a latent model, otherwise the card itself.
    pub data_card: Card,
    /// The path of the card's own file.
    pub path: PathBuf,
    /// The SHA-256 hash of the card's own file, in hexadecimal digits.
    pub card_sha256: String,
    /// The probability path.
    pub curve: PathCurve,
    /// The prior at the prior end.
    pub prior: Prior,
    /// The files that the card names, and the external data of its models.
    pub files: Vec<ModelFile>,
    /// The floating-point type in which the networks compute, if it is not that of their files.
    pub precision: Option<NetworkPrecision>,
    /// The values of the conditions.
    pub conditions: Arc<Conditions>,
    /// The guidance of the velocity; `None` if it is not guided.
    pub guidance: Option<Guidance>,
    /// The model whose velocity guides this one, if the card names one.
    pub weak_model: Option<Arc<Model>>,
    /// The same network with its learned variances as its output, if the card says where they are.
    pub variance_model: Option<Arc<Model>>,
    /// What was derived from the files so far. Variants of a model share it.
    pub(super) caches: Arc<ModelCaches>,
}

impl Model {
    /// Reads a card and every file that it names.
    ///
    /// # Errors
    /// Fails if the card is not valid, or if a file cannot be read or has another hash. The message
    /// names the card, the key and the file.
    pub fn open(path: &Path) -> Result<Model> {
        Model::open_with_precision(path, None)
    }

    /// Reads a model like [`Model::open`]. With a `precision`, its networks compute in that
    /// floating-point type instead of the type of their files.
    ///
    /// # Errors
    /// Fails if the model cannot be read, or if a network cannot be computed in that type.
    pub fn open_with_precision(path: &Path, precision: Option<NetworkPrecision>) -> Result<Model> {
        let model = Model::read(path)?;
        match precision {
            Some(precision) => model
                .with_precision(precision)
                .with_context(|| path.display().to_string()),
            None => Ok(model),
        }
    }

    /// Reads a card and its files without a change of precision.
    fn read(path: &Path) -> Result<Model> {
        let path = &hub::local_path(path)?;
        let card = Card::read(path)?;
        let mut betas = None;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut files = Vec::new();
        let mut variances = None;
        for (key, name) in card.files() {
            let at = hub::local_path(&hub::beside(&folder, name))
                .with_context(|| format!("{}: {key}", path.display()))?;
            let named = || format!("{}: {key}: {}", path.display(), at.display());
            if at.exists() && !at.is_file() {
                bail!("{}: it is not a regular file", named());
            }
            if let Some(why) = signature::explain_missing(&at) {
                bail!("{}: {why}", named());
            }
            let bytes = std::fs::read(&at).map_err(|e| {
                anyhow!(
                    "{}: {key}: {}",
                    path.display(),
                    unreadable_file_message(&card, &at, &e)
                )
            })?;
            let sha256 = hex(&Sha256::digest(&bytes));
            if let Some(expected) =
                expected_sha256(&card, &key).filter(|e| !e.eq_ignore_ascii_case(&sha256))
            {
                bail!(
                    "{} has SHA-256 {sha256}, but the card says {expected}: it is not the file \
                     that the card describes",
                    named()
                );
            }
            if key == "path.betas" {
                betas = Some(constants::read_betas(&bytes).with_context(named)?);
            }
            let array = key.contains(".constants.") || key.contains(".conditions.");
            if array || key == "path.betas" {
                files.push(ModelFile {
                    key,
                    name: name.to_owned(),
                    path: at,
                    sha256,
                    content: FileContent::ConstantArray(bytes),
                    original_content: None,
                });
                continue;
            }
            if let Some(why) = signature::explain_mismatch(&bytes, ExpectedFile::Onnx) {
                bail!("{}: {why}", named());
            }
            let beside = external_data_files(&key, name, &at, &bytes).with_context(named)?;
            let mut content = match beside.is_empty() {
                true => FileContent::Network(Arc::new(bytes)),
                false => load_content(&at).with_context(named)?,
            };
            if let (Some(range), "network.file") = (card.network.variance_channels, &key[..]) {
                let part = content
                    .with_output_range(&at, &card.network.output, range)
                    .with_context(|| format!("{}: network.variance_channels", path.display()))?;
                variances = Some(part);
            }
            if let (Some(range), "network.file") = (card.network.channels, &key[..]) {
                content = content
                    .with_output_range(&at, &card.network.output, range)
                    .with_context(|| format!("{}: network.channels", path.display()))?;
            }
            files.push(ModelFile {
                key,
                name: name.to_owned(),
                path: at,
                sha256,
                content,
                original_content: None,
            });
            files.extend(beside);
        }
        let curve = card
            .path
            .with_betas(betas.unwrap_or_default())
            .curve()
            .map_err(|e| anyhow!("{}: {e}", path.display()))?;
        let prior = Prior {
            std: card.prior.map_or(curve.prior_std(), |p| p.std),
            centred: card.centred_system(),
        };
        let card_sha256 = hex(&Sha256::digest(std::fs::read(path)?));
        let weak_model = match card.guidance.as_ref().and_then(|g| g.with.as_ref()) {
            Some(with) => Some(Arc::new(
                read_weak_model(&card, &hub::beside(&folder, with))
                    .with_context(|| format!("{}: guidance.with", path.display()))?,
            )),
            None => None,
        };
        let guidance = card.guidance.as_ref().map(GuidanceSpec::guidance);
        let model = Model::from_parts(card, path.to_owned(), card_sha256, curve, prior, files);
        let variance_model = variances.map(|content| {
            let mut variances = model.variant(&model.conditions);
            variances.caches = Arc::default();
            for file in &mut variances.files {
                if file.key == "network.file" {
                    file.content = content.clone();
                }
            }
            Arc::new(variances)
        });
        Ok(Model {
            guidance: guidance.filter(|guidance| guidance.scale != 1.0),
            weak_model,
            variance_model,
            ..model
        })
    }

    /// Returns the same model with other values of its conditions and another guidance. `None` keeps
    /// the guidance of the card.
    pub fn with_conditions(&self, conditions: Conditions, guidance: Option<Guidance>) -> Model {
        let conditions = Arc::new(conditions);
        let with_values = |other: &Arc<Model>| Arc::new(other.variant(&conditions));
        let weak_model = self.weak_model.as_ref().map(with_values);
        let variance_model = self.variance_model.as_ref().map(with_values);
        let guidance = guidance.map_or(self.guidance, |given| {
            Some(given).filter(|guidance| guidance.scale != 1.0)
        });
        Model {
            guidance,
            weak_model,
            variance_model,
            ..self.variant(&conditions)
        }
    }

    /// Returns the same model with the guidance of its card, as it was opened.
    pub fn with_card_guidance(&self) -> Model {
        let guidance = self.card.guidance.as_ref().map(GuidanceSpec::guidance);
        Model {
            guidance: guidance.filter(|guidance| guidance.scale != 1.0),
            ..self.variant(&self.conditions)
        }
    }

    /// A copy of the model with other values of its conditions. It shares what is derived from the
    /// files, unless an axis of a graph has another size.
    pub(super) fn variant(&self, conditions: &Arc<Conditions>) -> Model {
        let shapes = |conditions: &Conditions| -> Vec<(String, Option<Vec<usize>>)> {
            let shape = |condition: &Condition| match &condition.values {
                ConditionValues::Constant(value) => Some(value.shape().to_vec()),
                ConditionValues::PerSample(rows) => Some(rows.shape()[1..].to_vec()),
                _ => None,
            };
            conditions
                .by_name
                .iter()
                .map(|(name, condition)| (name.clone(), shape(condition).filter(|s| !s.is_empty())))
                .filter(|(_, shape)| shape.is_some())
                .collect()
        };
        let same = shapes(&self.conditions) == shapes(conditions);
        let copy = Model::from_parts(
            self.card.clone(),
            self.path.clone(),
            self.card_sha256.clone(),
            self.curve.clone(),
            self.prior,
            self.files.clone(),
        );
        Model {
            precision: self.precision,
            conditions: conditions.clone(),
            guidance: self.guidance,
            weak_model: self.weak_model.clone(),
            variance_model: self.variance_model.clone(),
            caches: if same {
                self.caches.clone()
            } else {
                Arc::default()
            },
            ..copy
        }
    }

    /// Checks that the model can be guided, if it is.
    ///
    /// # Errors
    /// Fails if no condition has a null value and no other card guides the model.
    pub fn check_guidance(&self) -> Result<()> {
        let Some(guidance) = &self.guidance else {
            return Ok(());
        };
        guidance.check().map_err(|e| anyhow!("guidance: {e}"))?;
        let conditions = &self.card.network.conditions;
        if self.weak_model.is_some() || conditions.values().any(|c| c.null.is_some()) {
            return Ok(());
        }
        let remedy = match conditions.keys().next() {
            Some(name) => format!(
                "`network.conditions.{name}.null` with the value that means «unconditional»"
            ),
            None => "a condition with its `null` value".to_owned(),
        };
        bail!(
            "{}: guidance needs {remedy}, or `guidance: {{with: other-card.yaml}}`",
            self.path.display()
        )
    }

    /// The largest number of calls of the network for one evaluation of the velocity: two if it is
    /// guided.
    pub fn most_calls(&self) -> u64 {
        1 + u64::from(self.guidance.is_some())
    }

    /// Returns the function that gives the number of calls of the network for one row at a time: two
    /// where the velocity is guided, and twice as many between two indices of a time input of whole
    /// numbers.
    ///
    /// # Errors
    /// Fails if the network's file is not an ONNX model.
    pub fn network_calls(&self) -> Result<impl Fn(f64) -> u64 + Sync + '_> {
        let time = self.card.time_input();
        let port = self.card.network.inputs.time.as_deref();
        let graph = self.network_graph()?;
        let whole = graph
            .inputs()
            .iter()
            .any(|input| Some(input.name.as_str()) == port && !input.elem.is_float());
        Ok(move |t: f64| {
            let guided = self.guidance.is_some_and(|g| g.applies_at(&self.curve, t));
            let between = whole && time.falls_between_indices(&self.curve, t);
            (1 + u64::from(guided)) * (1 + u64::from(between))
        })
    }

    /// Guides a field of the card. `weak` opens the same field of the model that guides this one.
    ///
    /// # Errors
    /// Fails if `weak` fails.
    fn guided<F>(&self, field: F, weak: impl FnOnce(&Model) -> Result<F>) -> Result<Guided<F>> {
        let Some(guidance) = self.guidance else {
            return Ok(Guided::unguided(field));
        };
        let weak = match &self.weak_model {
            Some(model) => WeakField::Other(weak(model)?),
            None => WeakField::Unconditional,
        };
        Ok(Guided {
            field,
            guidance: Some(ActiveGuidance {
                guidance,
                curve: self.curve.clone(),
                weak,
            }),
        })
    }

    /// Returns a model without any derived graphs.
    fn from_parts(
        card: Card,
        path: PathBuf,
        card_sha256: String,
        curve: PathCurve,
        prior: Prior,
        files: Vec<ModelFile>,
    ) -> Model {
        Model {
            data_card: card.data_card(),
            card,
            path,
            card_sha256,
            curve,
            prior,
            files,
            precision: None,
            conditions: Arc::default(),
            guidance: None,
            weak_model: None,
            variance_model: None,
            caches: Arc::default(),
        }
    }

    /// Returns the same model with all its networks in float64. The result is `None` if they are in
    /// float64 already or if the model has no networks.
    ///
    /// # Errors
    /// Fails if a network cannot be computed in float64.
    pub fn to_float64(&self) -> Result<Option<Model>> {
        if self.precision == Some(NetworkPrecision::Float64)
            || !self.files.iter().any(ModelFile::is_network)
        {
            return Ok(None);
        }
        let (card, path, hash) = (
            self.card.clone(),
            self.path.clone(),
            self.card_sha256.clone(),
        );
        let copy = Model::from_parts(
            card,
            path,
            hash,
            self.curve.clone(),
            self.prior,
            self.files.clone(),
        );
        let copy = Model {
            conditions: self.conditions.clone(),
            guidance: self.guidance,
            weak_model: self.weak_model.clone(),
            variance_model: self.variance_model.clone(),
            ..copy
        };
        copy.with_precision(NetworkPrecision::Float64).map(Some)
    }

    /// The number of values in one sample.
    pub fn dim(&self) -> usize {
        self.card.dim()
    }

    /// Whether samples have the precision of float64: the network's output is in float64, and no
    /// decoder follows.
    ///
    /// # Errors
    /// Fails if the network's file is not an ONNX model.
    pub fn gives_float64(&self) -> Result<bool> {
        let latent = self.card.latent.as_ref();
        if latent.is_some_and(|latent| latent.decoder.is_some()) {
            return Ok(false);
        }
        let output = &self.card.network.output;
        let ports = self.network_graph()?.outputs();
        Ok(ports
            .iter()
            .any(|port| port.name == *output && port.elem == graph::ElemType::DOUBLE))
    }

    /// The name of the model in tables: the card's name, with the guidance and the conditions that are
    /// the same for all samples.
    pub fn label(&self) -> String {
        self.label_with(self.conditions.constant_words())
    }

    /// The name of the model with the sources of all its conditions, for a plan that has the card
    /// with other values too.
    pub fn full_label(&self) -> String {
        self.label_with(self.conditions.source_words())
    }

    /// The card's name with words on its conditions and its guidance.
    fn label_with(&self, mut words: Vec<String>) -> String {
        words.extend(
            self.guidance
                .map(|guidance| format!("guidance {}", guidance.label())),
        );
        if words.is_empty() {
            self.card.name.clone()
        } else {
            format!("{} ({})", self.card.name, words.join(", "))
        }
    }

    /// The shape of a sample as it is written: decoded if the card has a decoder.
    pub fn sample_shape(&self) -> Vec<usize> {
        let latent = self.card.latent.as_ref();
        match latent.filter(|latent| latent.decoder.is_some()) {
            Some(latent) => latent.shape.clone(),
            None => self.card.shape.clone(),
        }
    }

    /// Whether data with this number of values per sample are decoded data of a latent model, which
    /// an encoder turns into states.
    pub fn encodes(&self, values: usize) -> bool {
        let latent = self.card.latent.as_ref();
        let same = self.data_card.dim() == self.dim();
        latent.is_some_and(|latent| {
            values == self.data_card.dim() && (!same || latent.encoder.is_some())
        })
    }

    /// Returns the number of values in the largest tensor that the network computes for one sample,
    /// the state included.
    pub fn max_activation_size(&self) -> u64 {
        let dim = self.dim() as u64;
        *self.caches.max_activation_size.get_or_init(|| {
            let found = self
                .network_graph_with_known_axes()
                .ok()
                .and_then(|graph| graph.widest().ok());
            found.unwrap_or_default().max(dim).max(1)
        })
    }

    /// Whether a single sample is enough work for a call of the network.
    fn is_large(&self) -> bool {
        call_size::is_large(self.max_activation_size())
    }

    /// Whether calls may have fewer than four rows. This holds for a large network unless a test
    /// showed that small calls give other bytes.
    pub fn allows_unpadded_calls(&self) -> bool {
        self.is_large()
            && self
                .caches
                .row_invariance
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .iter()
                .all(|((key, _), known)| {
                    key != "network.file" || self.card.network.batch.is_some() || known.small_calls
                })
    }

    /// Returns the default number of samples in one call of the network on a provider. On a CPU, as
    /// many are used as keep the network's tensors in a core's cache.
    pub fn default_batch_size(&self, provider: Provider) -> usize {
        CallSize::of(provider).batch(self.max_activation_size())
    }

    /// Returns the paths of the card and of all its files, external data included.
    pub fn file_paths(&self) -> Vec<PathBuf> {
        let named = self
            .files
            .iter()
            .map(|file| PathBuf::from(self.display_path(file)));
        std::iter::once(self.path.clone()).chain(named).collect()
    }

    /// Returns the graph of the network.
    ///
    /// # Errors
    /// Fails if the file is not an ONNX model.
    pub fn network_graph(&self) -> Result<graph::Model> {
        self.graph_at("network.file")
    }

    /// Returns the graph of the file at `key`.
    ///
    /// # Errors
    /// Fails if there is no such file or it is not an ONNX model.
    pub(super) fn graph_at(&self, key: &str) -> Result<graph::Model> {
        let file = self.file(key)?;
        self.read_graph(file, &file.content)
    }

    /// Returns the graph of the file at `key` in the file's own floating-point type.
    ///
    /// # Errors
    /// Fails if there is no such file or it is not an ONNX model.
    pub(super) fn original_graph_at(&self, key: &str) -> Result<graph::Model> {
        let file = self.file(key)?;
        self.read_graph(
            file,
            file.original_content.as_ref().unwrap_or(&file.content),
        )
    }

    /// Parses one content of a file as a graph.
    fn read_graph(&self, file: &ModelFile, content: &FileContent) -> Result<graph::Model> {
        match content {
            FileContent::Network(bytes) => {
                Ok(graph::Model::from_bytes(&self.display_path(file), bytes)?)
            }
            // Weights that do not fit into one message stay in their files. A derived graph refers
            // to them there.
            FileContent::OversizedNetwork => {
                Ok(graph::skim_onnx(Path::new(&self.display_path(file)))?)
            }
            _ => Ok(graph::load_onnx(Path::new(&self.display_path(file)))?),
        }
    }

    /// Returns the number of values that the network stores as weights.
    ///
    /// # Errors
    /// Fails if the file is not an ONNX model.
    pub fn parameter_count(&self) -> Result<u64> {
        Ok(self.network_graph()?.parameters())
    }

    /// Checks that the model has a velocity, and is not one of one call.
    ///
    /// # Errors
    /// Fails with the name of the card if it has none.
    pub fn check_has_velocity(&self) -> Result<()> {
        match &self.card.one_call {
            None => Ok(()),
            Some(one_call) => bail!(
                "{}: a card of `kind: {}` has no velocity: {}",
                self.path.display(),
                one_call.kind(),
                one_call.describe()
            ),
        }
    }

    /// Opens the network as the velocity dx/dt.
    ///
    /// # Errors
    /// Fails if the network cannot be opened, or if its inputs and outputs are not those that the
    /// card declares.
    pub fn velocity(&self, runtime: &Runtime, options: SessionOptions) -> Result<Velocity> {
        self.check_has_velocity()?;
        let open = |model: &Model| -> Result<NetworkVelocity<Network>> {
            Ok(NetworkVelocity {
                network: model.open_network("network.file", runtime, options, None)?,
                parameterization: model.parameterization(),
            })
        };
        self.guided(open(self)?, open)
    }

    /// Opens the network with its learned variances of reverse steps as its output.
    ///
    /// # Errors
    /// Fails if the card does not say where they are, or if the network cannot be opened.
    pub fn learned_variances(&self, runtime: &Runtime, options: SessionOptions) -> Result<Network> {
        let Some(model) = &self.variance_model else {
            bail!(
                "{}: the card has no `network.variance_channels`",
                self.path.display()
            );
        };
        model.open_network("network.file", runtime, options, None)
    }

    /// Returns the meaning of the network's output.
    fn parameterization(&self) -> Parameterization {
        let network = &self.card.network;
        Parameterization {
            curve: self.curve.clone(),
            prediction: network.prediction,
            preconditioning: network.preconditioning,
            centred: self.prior.centred,
        }
    }

    /// Opens the derived graphs for products with the velocity's Jacobian, and the other
    /// derivatives in `wanted`.
    ///
    /// # Errors
    /// Fails if an operator of the network cannot be differentiated; the message names its node.
    /// Fails also if a derived graph cannot be opened.
    pub fn jacobian(
        &self,
        runtime: &Runtime,
        options: SessionOptions,
        wanted: JacobianOptions,
    ) -> Result<VelocityJacobian> {
        let open = |model: &Model| model.conditional_jacobian(runtime, options, wanted);
        self.guided(open(self)?, open)
    }

    /// Opens the derived graphs like [`Model::jacobian`], for the velocity without guidance.
    fn conditional_jacobian(
        &self,
        runtime: &Runtime,
        options: SessionOptions,
        wanted: JacobianOptions,
    ) -> Result<NetworkVelocity<DerivedNetworks>> {
        let open = |mode| {
            self.open_network(
                "network.file",
                runtime,
                options,
                Some((mode, &self.differentiated_bytes(mode)?)),
            )
        };
        let few = wanted.exact_trace
            && self
                .trace_terms()
                .is_some_and(|terms| terms <= MAX_TRACE_TERMS);
        let derived = DerivedNetworks {
            tangent: open(graph::Mode::Jvp)?,
            quadratic_forms: self.open_quadratic_forms(runtime, options)?,
            cotangent: wanted.vjp.then(|| open(graph::Mode::Vjp)).transpose()?,
            trace: few.then(|| open(graph::Mode::Trace)).transpose()?,
            jacobian: wanted
                .whole
                .then(|| open(graph::Mode::Jacobian))
                .transpose()?,
        };
        Ok(NetworkVelocity {
            network: derived,
            parameterization: self.parameterization(),
        })
    }

    /// Opens the graph of quadratic forms if a part of it depends only on the directions. A model
    /// whose weights do not fit into one message is not split.
    fn open_quadratic_forms(
        &self,
        runtime: &Runtime,
        options: SessionOptions,
    ) -> Result<Option<Network>> {
        let role = &self.card.network;
        let file = self.file("network.file")?;
        if matches!(file.content, FileContent::OversizedNetwork) {
            return Ok(None);
        }
        let make = || -> Option<[Arc<Vec<u8>>; 2]> {
            let graph = self.network_graph_with_known_axes().ok()?;
            let forms = graph::quadratic_forms(&graph, &role.inputs.x, &role.output).ok()??;
            check_derived_names(&graph, &forms.rest).ok()?;
            Some([
                Arc::new(forms.directions.to_bytes().ok()?),
                Arc::new(forms.rest.to_bytes().ok()?),
            ])
        };
        let Some([directions, rest]) = self.caches.quadratic_forms.get_or_init(make) else {
            return Ok(None);
        };
        let name = self.display_path(file);
        let session = runtime.open(&name, directions, options.provider, options.threads)?;
        self.open_network_with_directions(
            "network.file",
            runtime,
            options,
            Some((graph::Mode::Quadratic, rest)),
            Some(session),
        )
        .map(Some)
    }

    /// Returns the number of terms of the exact trace of the network's Jacobian: the dimension, or
    /// fewer if the graph shows that the Jacobian is block diagonal. The result is `None` if the
    /// file does not determine it.
    pub fn trace_terms(&self) -> Option<u64> {
        let role = &self.card.network;
        *self.caches.trace_terms.get_or_init(|| {
            self.network_graph_with_known_axes()
                .ok()?
                .trace_terms(&role.inputs.x, &role.output)
                .ok()?
        })
    }

    /// Returns the bytes of a differentiated graph. It is derived once and then shared.
    ///
    /// # Errors
    /// Fails if an operator cannot be differentiated; the message names its node.
    fn differentiated_bytes(&self, mode: graph::Mode) -> Result<Arc<Vec<u8>>> {
        let slot = match mode {
            graph::Mode::Jvp => &self.caches.jvp_graph,
            graph::Mode::Vjp => &self.caches.vjp_graph,
            graph::Mode::Trace => &self.caches.trace_graph,
            graph::Mode::Jacobian => &self.caches.jacobian_graph,
            // The graph of quadratic forms has two parts; [`Model::open_quadratic_forms`] shares
            // it.
            graph::Mode::Quadratic => return self.differentiate_network(mode).map(Arc::new),
        };
        let made = slot.get_or_init(|| {
            self.differentiate_network(mode)
                .map(Arc::new)
                .map_err(|e| format!("{e:#}"))
        });
        made.clone().map_err(|e| anyhow!("{e}"))
    }

    /// Differentiates the network and checks that the output has the shape of the state.
    ///
    /// # Errors
    /// Fails if an operator cannot be differentiated, or if the shapes differ.
    fn differentiate_network(&self, mode: graph::Mode) -> Result<Vec<u8>> {
        let role = &self.card.network;
        let graph = self.network_graph_with_known_axes()?;
        let derived = graph::differentiate(&graph, mode, Some(&role.inputs.x), Some(&role.output))?;
        check_derived_names(&graph, &derived)?;
        let port = |of: &str, suffix: &str| {
            let name = format!("{of}_{suffix}");
            derived
                .inputs()
                .into_iter()
                .chain(derived.outputs())
                .find(|port| port.name == name)
        };
        if mode == graph::Mode::Jvp && port(&role.output, "quadratic").is_none() {
            // The shapes behind the axis of directions are those that the operators infer.
            let shape = |of: &str| {
                graph::listed(
                    port(of, "tangent")
                        .map(|p| p.dims)
                        .unwrap_or_default()
                        .get(1..)
                        .unwrap_or_default(),
                )
            };
            bail!(
                "{}: output `{}` has shape {} but input `{}` has shape {}; expected the same for \
                 both, [N, …] with the card's shape",
                graph.file(),
                role.output,
                shape(&role.output),
                role.inputs.x,
                shape(&role.inputs.x)
            );
        }
        Ok(derived.to_bytes()?)
    }

    /// Returns the graph of the network with its open axes fixed from the card. This graph is
    /// differentiated.
    ///
    /// # Errors
    /// Fails if the file is not an ONNX model.
    pub fn network_graph_with_known_axes(&self) -> Result<graph::Model> {
        let role = &self.card.network;
        let declared = CardPorts {
            key: "network.file",
            state_ports: vec![&role.inputs.x, &role.output],
            scalar_ports: role.inputs.time.iter().map(String::as_str).collect(),
            constants: &role.constants,
            conditions: &role.conditions,
        };
        Ok(self.with_known_axes(self.network_graph()?, &declared))
    }

    /// Returns the reason why the model has no Jacobian products Jᵀ·w; `None` if it has them.
    pub fn vjp_unsupported(&self) -> Option<String> {
        self.differentiated_bytes(graph::Mode::Vjp)
            .err()
            .map(|e| e.to_string())
    }

    /// Opens a learned divergence head. Its values are the divergence +div of dx/dt in the card's
    /// own time, with scale and parametrization applied.
    ///
    /// # Errors
    /// Fails if the card has no head of that name, or if the file's inputs and outputs are not
    /// those that the card declares.
    pub fn head(
        &self,
        name: &str,
        runtime: &Runtime,
        options: SessionOptions,
    ) -> Result<Guided<ScalarNetwork>> {
        let open = |model: &Model| model.conditional_head(name, runtime, options);
        self.guided(open(self)?, open)
    }

    /// Opens a head like [`Model::head`], of the velocity without guidance.
    fn conditional_head(
        &self,
        name: &str,
        runtime: &Runtime,
        options: SessionOptions,
    ) -> Result<ScalarNetwork> {
        let head = self.card.divergence_heads.get(name).ok_or_else(|| {
            let known: Vec<&str> = self
                .card
                .divergence_heads
                .keys()
                .map(String::as_str)
                .collect();
            let known = if known.is_empty() {
                "it has none".to_owned()
            } else {
                format!("it has {}", known.join(", "))
            };
            anyhow!(
                "{}: no divergence head `{name}`; {known}",
                self.path.display()
            )
        })?;
        let network = self.open_network(
            &format!("divergence_heads.{name}.file"),
            runtime,
            options,
            None,
        )?;
        Ok(ScalarNetwork {
            network,
            transform: self.head_transform(head),
        })
    }

    /// Returns the conversion of the head's output into the divergence.
    fn head_transform(&self, head: &DivergenceHeadSpec) -> HeadTransform {
        let traces = head.parametrization == HeadParametrization::DenoiserTrace;
        HeadTransform {
            scale: head.scale,
            denoiser_trace: traces.then(|| (self.curve.clone(), self.dim() as f64)),
        }
    }

    /// Opens a head that is an output of the velocity's own graph. From now on `velocity` stores
    /// the head's output of each call.
    ///
    /// # Errors
    /// Fails if the card has no head of that name, or if the file's inputs and outputs are not
    /// those that the card declares.
    pub fn joint_head(
        &self,
        name: &str,
        velocity: &mut Velocity,
        runtime: &Runtime,
        options: SessionOptions,
    ) -> Result<Guided<JointHead>> {
        let join = |model: &Model, velocity: &mut NetworkVelocity<Network>| -> Result<JointHead> {
            let standalone = model.conditional_head(name, runtime, options)?;
            let head = &model.card.divergence_heads[name];
            let network = &mut velocity.network;
            if model.card.is_joint(name) && !network.extra_outputs.contains(&head.output) {
                network.extra_outputs.push(head.output.clone());
            }
            Ok(JointHead {
                output: head.output.clone(),
                output_cache: network.output_cache.clone(),
                parameterization: model.parameterization(),
                transform: model.head_transform(head),
                standalone,
            })
        };
        let head = join(self, &mut velocity.field)?;
        let weak = velocity.guidance.as_mut().map(|active| &mut active.weak);
        self.guided(head, |model| match weak {
            Some(WeakField::Other(velocity)) => join(model, velocity),
            _ => bail!("the velocity was opened without its weak model"),
        })
    }

    /// Opens the exact log-density at any time.
    ///
    /// # Errors
    /// Fails if the card has none, or if the file's inputs and outputs are not those that the card
    /// declares.
    pub fn closed_form(&self, runtime: &Runtime, options: SessionOptions) -> Result<ScalarNetwork> {
        if self.card.closed_form.is_none() {
            bail!("{}: the card has no `closed_form`", self.path.display());
        }
        Ok(ScalarNetwork {
            network: self.open_network("closed_form.file", runtime, options, None)?,
            transform: HeadTransform {
                scale: 1.0,
                denoiser_trace: None,
            },
        })
    }

    /// Opens the graph of a one-call model.
    ///
    /// # Errors
    /// Fails if the card has a velocity instead, or if the file's inputs and outputs are not those
    /// that the card declares.
    pub fn one_call(&self, runtime: &Runtime, options: SessionOptions) -> Result<OneCallNetwork> {
        let Some(outputs) = &self.card.one_call else {
            bail!(
                "{}: the card is one of `kind: diffusion`, expected `flow` or `density`",
                self.path.display()
            );
        };
        Ok(OneCallNetwork {
            network: self.open_network("network.file", runtime, options, None)?,
            outputs: outputs.clone(),
            prior: self.prior,
        })
    }

    /// Returns the file at `key`.
    ///
    /// # Errors
    /// Fails if the card has no such file.
    pub(super) fn file(&self, key: &str) -> Result<&ModelFile> {
        self.files
            .iter()
            .find(|f| f.key == key)
            .ok_or_else(|| anyhow!("{}: no {key}", self.path.display()))
    }

    /// Returns the path and the bytes of the file at `key`.
    ///
    /// # Errors
    /// Fails if the card has no such file, or if the file is too large for one message.
    pub(super) fn network_bytes(&self, key: &str) -> Result<(String, Arc<Vec<u8>>)> {
        let file = self.file(key)?;
        match &file.content {
            FileContent::Network(bytes) => Ok((self.display_path(file), bytes.clone())),
            _ => bail!(
                "{}: {key}: more than 2 GB; only networks may be that large",
                self.display_path(file)
            ),
        }
    }

    /// Returns the graph that `make` derives from the file at `key`. It is derived once and then
    /// shared.
    ///
    /// # Errors
    /// Fails if `make` fails.
    pub(super) fn derived_graph_bytes(
        &self,
        key: &str,
        mode: graph::Mode,
        make: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Arc<Vec<u8>>> {
        let key = (key.to_owned(), mode);
        let mut known = self
            .caches
            .derived_graphs
            .lock()
            .unwrap_or_else(|e| e.into_inner());
        if let Some(bytes) = known.get(&key) {
            return Ok(bytes.clone());
        }
        let bytes = Arc::new(make()?);
        known.insert(key, bytes.clone());
        Ok(bytes)
    }

    /// Returns the path of a file as messages show it.
    fn display_path(&self, file: &ModelFile) -> String {
        file.path.display().to_string()
    }

    /// Returns the network as the provider takes it best, which depends on the axes that only the
    /// card fixes. The result is `None` for other files, and for a network that is best as it is.
    fn rewritten_network(&self, key: &str, provider: Provider) -> Option<Vec<u8>> {
        if key != "network.file" || !provider.rewrites_graphs() {
            return None;
        }
        let graph = self.network_graph_with_known_axes().ok()?;
        provider.rewritten(&graph)?.to_bytes().ok()
    }

    /// Opens the file at `key`, or a graph derived from it, and checks its inputs and outputs
    /// against the card.
    fn open_network(
        &self,
        key: &str,
        runtime: &Runtime,
        options: SessionOptions,
        derived: Option<(graph::Mode, &[u8])>,
    ) -> Result<Network> {
        self.open_network_with_directions(key, runtime, options, derived, None)
    }

    /// Opens a network like [`Model::open_network`]. `directions` is the session that computes a
    /// derived graph's inputs from directions, if there is one.
    fn open_network_with_directions(
        &self,
        key: &str,
        runtime: &Runtime,
        options: SessionOptions,
        derived: Option<(graph::Mode, &[u8])>,
        directions: Option<Session>,
    ) -> Result<Network> {
        let file = self.file(key)?;
        let NetworkRoles {
            inputs: roles,
            output,
            time_input: feed,
            constants,
            conditions,
        } = self.network_roles(key);
        let name = self.display_path(file);
        let session = match (derived, &file.content) {
            (Some((_, bytes)), FileContent::OversizedNetwork) => {
                let folder = Path::new(&name).parent().unwrap_or(Path::new(""));
                runtime.open_with_external_data(
                    &name,
                    bytes,
                    folder,
                    options.provider,
                    options.threads,
                )?
            }
            (Some((_, bytes)), _) => {
                runtime.open(&name, bytes, options.provider, options.threads)?
            }
            (None, FileContent::Network(bytes)) => {
                match self.rewritten_network(key, options.provider) {
                    Some(bytes) => {
                        runtime.open_rewritten(&name, &bytes, options.provider, options.threads)?
                    }
                    None => runtime.open(&name, bytes, options.provider, options.threads)?,
                }
            }
            _ => runtime.open_file(Path::new(&name), options.provider, options.threads)?,
        };
        let taken: Vec<&str> = [Some(&roles.x), roles.time.as_ref()]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        let constants = self.constant_inputs(key, constants, &taken, &session, &name)?;
        let conditions = self.condition_inputs(key, conditions, &taken, &session, &name)?;
        let is_network = key == "network.file";
        let of = key.strip_suffix(".file").unwrap_or(key);
        let mut network = Network {
            max_activation_size: self.max_activation_size(),
            call_size: CallSize::of(options.provider),
            fixed_batch: self.card.network.batch.filter(|_| is_network),
            row_invariance: RowInvariance::UNKNOWN,
            smooth: derived.is_none() && self.kink(of)?.is_none(),
            scalar_time: match &roles.time {
                Some(time) => is_scalar_port(find_port(&session.inputs, time, &name, "input")?),
                None => false,
            },
            x_name: roles.x.clone(),
            time_name: roles.time.clone(),
            output_name: output.to_owned(),
            time_input: feed,
            constants,
            conditions,
            shape: self.card.shape.clone(),
            curve: self.curve.clone(),
            extra_outputs: Vec::new(),
            output_cache: OutputCache::default(),
            probe_cache: directions.map(|made| ProbeCache::new(made, &session)),
            session,
        };
        let seed = derived.and_then(|(mode, _)| match mode {
            graph::Mode::Jvp | graph::Mode::Quadratic => {
                Some(format!("{}_tangent", network.x_name))
            }
            graph::Mode::Vjp => Some(format!("{}_cotangent", network.output_name)),
            graph::Mode::Trace | graph::Mode::Jacobian => None,
        });
        let numbers: Vec<&str> = match (is_network, &self.card.one_call) {
            (true, None) => Vec::new(),
            (true, Some(one_call)) => vec![one_call.number_output()],
            (false, _) => vec![output],
        };
        let gives_states = is_network && self.card.one_call.is_none();
        network.check(&name, gives_states, &numbers, seed.as_deref())?;
        if let Some(port) = network.time_port() {
            network
                .time_input
                .check(&port.name, port.format, &self.curve, of)
                .with_context(|| name.clone())?;
        }
        let mode = derived.map(|(mode, _)| mode);
        let mut known = self
            .caches
            .row_invariance
            .lock()
            .unwrap_or_else(|e| e.into_inner());
        network.row_invariance = *known.entry((key.to_owned(), mode)).or_insert_with(|| {
            match gives_states || mode.is_none() {
                true => network.find_row_invariance(mode, gives_states && self.is_large()),
                false => RowInvariance::UNKNOWN,
            }
        });
        drop(known);
        if derived.is_none() {
            self.check_time_dependence_once(key, || {
                network.check_time_dependence(of, self.may_be_time_independent(of))
            })?;
        }
        Ok(network)
    }

    /// Whether the exact output of the network at `key` can be the same at all times.
    ///
    /// A velocity, a score and a v-prediction can be constant in time, and so can their
    /// divergences: for N(0, I) on a variance-preserving path the score is −x at all times. A
    /// log-density can be constant too. A denoiser and a noise prediction always depend on the
    /// noise level.
    fn may_be_time_independent(&self, key: &str) -> bool {
        let card = &self.card;
        let head = key
            .strip_prefix("divergence_heads.")
            .and_then(|name| card.divergence_heads.get(name));
        let divergence =
            head.is_some_and(|head| head.parametrization == HeadParametrization::Divergence);
        let steady = matches!(
            card.network.prediction,
            Prediction::Velocity | Prediction::Score | Prediction::V
        );
        key == "closed_form" || steady && (key == "network" || divergence)
    }

    /// Runs the test of a network's dependence on time, `ask`, when the network is first opened.
    /// After a success it is not repeated.
    ///
    /// # Errors
    /// Fails if the test fails.
    pub(super) fn check_time_dependence_once(
        &self,
        key: &str,
        ask: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut known = self
            .caches
            .time_checked
            .lock()
            .unwrap_or_else(|e| e.into_inner());
        if !known.contains(key) {
            ask()?;
            known.insert(key.to_owned());
        }
        Ok(())
    }

    /// Returns what the card declares about the inputs and outputs of the network at `key`.
    fn network_roles(&self, key: &str) -> NetworkRoles<'_> {
        let card = &self.card;
        if let Some(name) = key
            .strip_prefix("divergence_heads.")
            .and_then(|k| k.strip_suffix(".file"))
        {
            let DivergenceHeadSpec {
                inputs,
                output,
                constants,
                conditions,
                time,
                ..
            } = &card.divergence_heads[name];
            return NetworkRoles {
                inputs,
                output,
                time_input: card.head_time_input(*time),
                constants,
                conditions,
            };
        }
        match (&card.closed_form, key) {
            (
                Some(card::ClosedFormSpec {
                    inputs,
                    output,
                    constants,
                    conditions,
                    time,
                    ..
                }),
                "closed_form.file",
            ) => NetworkRoles {
                inputs,
                output,
                time_input: card.head_time_input(*time),
                constants,
                conditions,
            },
            _ => {
                let card::NetworkSpec {
                    inputs,
                    output,
                    constants,
                    conditions,
                    ..
                } = &card.network;
                NetworkRoles {
                    inputs,
                    output,
                    time_input: card.time_input(),
                    constants,
                    conditions,
                }
            }
        }
    }

    /// Returns the graph's names of the state, the time and the output of the network at `key`.
    pub(super) fn state_time_output_names(&self, key: &str) -> (&str, Option<&str>, &str) {
        let NetworkRoles { inputs, output, .. } = self.network_roles(key);
        (&inputs.x, inputs.time.as_deref(), output)
    }

    /// Returns the constants of the network at `key`, checked against the graph's inputs. `taken`
    /// lists the inputs that have another role.
    ///
    /// # Errors
    /// Fails if a constant names an input with another role or no input of the graph, or if its
    /// values do not fit the input.
    pub(super) fn constant_inputs(
        &self,
        key: &str,
        named: &BTreeMap<String, Constant>,
        taken: &[&str],
        session: &Session,
        file: &str,
    ) -> Result<Vec<ConstantInput>> {
        let batch = self.fixed_batch(key);
        let fixed = |(name, constant): (&String, &Constant)| -> Result<ConstantInput> {
            let place = constant_key(key, name);
            let bytes = self.constant_bytes(key, name);
            if taken.contains(&name.as_str()) {
                bail!(
                    "{}: {place}: input `{name}` already takes the state or the time",
                    self.path.display()
                );
            }
            let port = find_port(&session.inputs, name, file, "input")?;
            let fixed = constant
                .values(bytes)
                .and_then(|values| ConstantInput::new(port, values, batch));
            fixed.with_context(|| format!("{}: {place}", self.path.display()))
        };
        named.iter().map(fixed).collect()
    }

    /// Returns the inputs of the network at `key` that get one value per sample, with the values
    /// checked against the graph's inputs. `taken` lists the inputs that have another role.
    ///
    /// # Errors
    /// Fails if a condition names an input with another role or no input of the graph, or if its
    /// values do not fit the input. The message names the condition.
    pub(super) fn condition_inputs(
        &self,
        key: &str,
        named: &BTreeMap<String, ConditionSpec>,
        taken: &[&str],
        session: &Session,
        file: &str,
    ) -> Result<Vec<ConditionInput>> {
        let network = key.strip_suffix(".file").unwrap_or(key);
        let batch = self.fixed_batch(key);
        let input = |(name, spec): (&String, &ConditionSpec)| -> Result<ConditionInput> {
            let place = format!("{network}.conditions.{name}");
            if taken.contains(&spec.input.as_str()) {
                bail!(
                    "{}: {place}: input `{}` already takes the state or the time",
                    self.path.display(),
                    spec.input
                );
            }
            let port = find_port(&session.inputs, &spec.input, file, "input")?;
            let null = null_value(spec, self.array_bytes(&card::null_key(network, name)));
            null.and_then(|null| ConditionInput::new(port, name, null, &self.conditions, batch))
                .with_context(|| format!("{}: condition `{name}` ({place})", self.path.display()))
        };
        named.iter().map(input).collect()
    }

    /// The batch size that the network at `key` takes alone, as the card says.
    fn fixed_batch(&self, key: &str) -> Option<usize> {
        self.card.network.batch.filter(|_| key == "network.file")
    }

    /// Returns the bytes of the file of a constant; they are empty if the card itself holds the
    /// values.
    pub(super) fn constant_bytes(&self, key: &str, name: &str) -> &[u8] {
        self.array_bytes(&constant_key(key, name))
    }

    /// Returns the bytes of the array file at `place`; they are empty if there is none.
    pub(super) fn array_bytes(&self, place: &str) -> &[u8] {
        match self
            .files
            .iter()
            .find(|f| f.key == place)
            .map(|f| &f.content)
        {
            Some(FileContent::ConstantArray(bytes)) => bytes,
            _ => &[],
        }
    }
}

/// Reads the model at `path`, whose velocity guides that of `card`.
///
/// # Errors
/// Fails if it cannot be read, or if its states or its times are not those of `card`.
fn read_weak_model(card: &Card, path: &Path) -> Result<Model> {
    let weak = Model::read(path)?;
    weak.check_has_velocity()?;
    if weak.weak_model.is_some() {
        bail!(
            "{}: it is guided by a third card; expected one that is not",
            path.display()
        );
    }
    if weak.card.shape != card.shape || weak.card.path != card.path {
        bail!(
            "{}: shape {:?} and path {}, but the guided card has shape {:?} and path {}; expected \
             the same states at the same times",
            path.display(),
            weak.card.shape,
            serde_json::to_string(&weak.card.path)?,
            card.shape,
            serde_json::to_string(&card.path)?
        );
    }
    Ok(Model {
        guidance: None,
        ..weak
    })
}

/// Checks that the graph uses none of the names that its derivative adds.
///
/// If it does, the derivative's own inputs and outputs get numbered names. A caller that reads an
/// output by its usual name would then get a value of the original graph.
///
/// # Errors
/// Fails if a name is used; the message says which one.
pub fn check_derived_names(graph: &graph::Model, derived: &graph::Model) -> Result<()> {
    let (inputs, outputs) = (graph.inputs().len(), graph.outputs().len());
    let mut new = derived
        .inputs()
        .into_iter()
        .skip(inputs)
        .chain(derived.outputs().into_iter().skip(outputs));
    let wanted = |port: graph::Port| {
        let (name, number) = port.name.rsplit_once('_')?;
        number.parse::<u64>().is_ok().then(|| name.to_owned())
    };
    match new.find_map(wanted) {
        Some(name) => {
            bail!(
                "{}: its derivative needs the name `{name}`, which the network uses; rename it",
                graph.file()
            )
        }
        None => Ok(()),
    }
}

/// Returns the card's key of a constant of the network at `key`.
fn constant_key(key: &str, name: &str) -> String {
    format!(
        "{}.constants.{name}",
        key.strip_suffix(".file").unwrap_or(key)
    )
}

/// What a card declares about the inputs and outputs of one network.
struct NetworkRoles<'a> {
    /// The names of the state and the time.
    inputs: &'a NetworkInputs,
    /// The name of the output.
    output: &'a str,
    /// The values that the time input gets.
    time_input: TimeInput,
    /// The values of further inputs.
    constants: &'a BTreeMap<String, Constant>,
    /// Further inputs with one value per sample.
    conditions: &'a BTreeMap<String, ConditionSpec>,
}

/// The velocity dx/dt of a card's network, guided if the model is.
pub type Velocity = Guided<NetworkVelocity<Network>>;

/// The operator of products with the Jacobian of a card's velocity.
pub type VelocityJacobian = Guided<NetworkVelocity<DerivedNetworks>>;
