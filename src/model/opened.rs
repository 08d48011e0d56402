//! A card with its files: hashed, checked, and ready to give fields to as many workers as wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};

use super::axes::Said;
use super::card::{self, Card, Head, Parametrization, StateAndTime};
use super::constants::{Constant, Fixed};
use super::derived::Derived;
use super::files::{Content, ModelFile, absent, expected_hash, weights_beside, whole};
use super::flow_map::DerivedGraphs;
use super::joint::{JointHead, Memory};
use super::library::hex;
use super::lift::NetworkPrecision;
use super::network::Network;
use super::onnx::{Provider, Runtime, Session};
use super::ports::{find, is_scalar};
use super::probe_cache::ProbeCache;
use super::scalar::{Reading, Scalar};
use super::time::Time;
use crate::flow::path::Curve;
use crate::flow::prediction::Prediction;
use crate::flow::prior::Prior;
use crate::flow::view::{Form, View};
use crate::graph;
use crate::signature::{self, Wanted};

/// How sessions are opened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    pub provider: Provider,
    /// Threads inside one call of a network.
    pub threads: usize,
}

/// Numbers of single precision that the cache of one core holds beside the weights in use.
pub(super) const CACHED: u64 = 1 << 18;

/// Directions beyond which a trace is taken in several calls with directions given to them.
const MOST_TERMS: u64 = 128;

/// Rows beyond which a call of a small network gains nothing.
const MOST_ROWS: u64 = 128;

/// What is wanted of a network's derivatives beside products with its Jacobian.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct JacobianOptions {
    /// Products with the transpose.
    pub reverse: bool,
    /// The exact trace, from a graph of its own.
    pub trace: bool,
}

/// A card whose files are there and match their hashes.
pub struct Model {
    pub card: Card,
    /// The card's own file.
    pub path: PathBuf,
    pub card_sha256: String,
    pub curve: Curve,
    pub prior: Prior,
    pub files: Vec<ModelFile>,
    /// What its networks compute in, where that is not the type of their files.
    pub precision: Option<NetworkPrecision>,
    tangent: OnceLock<Result<Arc<Vec<u8>>, String>>,
    cotangent: OnceLock<Result<Arc<Vec<u8>>, String>>,
    trace: OnceLock<Result<Arc<Vec<u8>>, String>>,
    /// The graph of quadratic forms in two parts, what depends on the directions alone first; none where nothing does.
    forms: OnceLock<Option<[Arc<Vec<u8>>; 2]>>,
    /// How many directions the exact trace takes.
    trace_terms: OnceLock<Option<u64>>,
    derived: Mutex<DerivedGraphs>,
    /// Keys of the networks that were seen to heed their times.
    heeding: Mutex<BTreeSet<String>>,
    /// The kinks that were looked for, by the network's key.
    pub(super) kinks: Mutex<BTreeMap<String, Option<graph::Kink>>>,
    /// Numbers in the network's largest value, for one sample.
    widest: OnceLock<u64>,
    /// Whether rows of the network, and of what was derived from it, are free of their company.
    free_rows: Mutex<BTreeMap<Option<graph::Mode>, bool>>,
}

impl Model {
    /// Reads a card and every file that it names.
    ///
    /// # Errors
    /// One message that names the card, the key or the file.
    pub fn open(path: &Path) -> Result<Model> {
        Model::open_in(path, None)
    }

    /// The same, with networks that compute in another floating-point type than their files.
    ///
    /// # Errors
    /// Also where a network cannot be computed in that type.
    pub fn open_in(path: &Path, precision: Option<NetworkPrecision>) -> Result<Model> {
        let model = Model::read(path)?;
        match precision {
            Some(precision) => model
                .in_precision(precision)
                .with_context(|| path.display().to_string()),
            None => Ok(model),
        }
    }

    fn read(path: &Path) -> Result<Model> {
        let card = Card::read(path)?;
        let curve = card
            .path
            .curve()
            .map_err(|e| anyhow!("{}: {e}", path.display()))?;
        let prior = Prior {
            std: card.prior.map_or(curve.prior_std(), |p| p.std),
        };
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut files = Vec::new();
        for (key, name) in card.files() {
            let at = folder.join(name);
            let named = || format!("{}: {key}: {}", path.display(), at.display());
            if at.exists() && !at.is_file() {
                bail!("{}: it is no file", named());
            }
            if let Some(why) = signature::absent(&at) {
                bail!("{}: {why}", named());
            }
            let bytes = std::fs::read(&at)
                .map_err(|e| anyhow!("{}: {key}: {}", path.display(), absent(&card, &at, &e)))?;
            let sha256 = hex(&Sha256::digest(&bytes));
            if let Some(expected) =
                expected_hash(&card, &key).filter(|e| !e.eq_ignore_ascii_case(&sha256))
            {
                bail!(
                    "{} has SHA-256 {sha256}, but the card says {expected}: \
                     it is another file than the card describes",
                    named()
                );
            }
            if key.contains(".constants.") {
                files.push(ModelFile {
                    key,
                    name: name.to_owned(),
                    sha256,
                    content: Content::Array(bytes),
                    exported: None,
                });
                continue;
            }
            if let Some(why) = signature::refusal(&bytes, Wanted::Onnx) {
                bail!("{}: {why}", named());
            }
            let beside = weights_beside(&key, name, &at, &bytes).with_context(named)?;
            let content = match beside.is_empty() {
                true => Content::Network(Arc::new(bytes)),
                false => whole(&at).with_context(named)?,
            };
            files.push(ModelFile {
                key,
                name: name.to_owned(),
                sha256,
                content,
                exported: None,
            });
            files.extend(beside);
        }
        let card_sha256 = hex(&Sha256::digest(std::fs::read(path)?));
        Ok(Model::of(
            card,
            path.to_owned(),
            card_sha256,
            curve,
            prior,
            files,
        ))
    }

    /// A model of which nothing was derived yet.
    fn of(
        card: Card,
        path: PathBuf,
        card_sha256: String,
        curve: Curve,
        prior: Prior,
        files: Vec<ModelFile>,
    ) -> Model {
        Model {
            card,
            path,
            card_sha256,
            curve,
            prior,
            files,
            precision: None,
            tangent: OnceLock::new(),
            cotangent: OnceLock::new(),
            trace: OnceLock::new(),
            forms: OnceLock::new(),
            trace_terms: OnceLock::new(),
            derived: Mutex::default(),
            heeding: Mutex::default(),
            kinks: Mutex::default(),
            widest: OnceLock::new(),
            free_rows: Mutex::default(),
        }
    }

    /// The same model with all its networks in float64; none where they are so already, or where there are none.
    ///
    /// # Errors
    /// Where a network cannot be computed in it.
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
        let copy = Model::of(
            card,
            path,
            hash,
            self.curve.clone(),
            self.prior,
            self.files.clone(),
        );
        copy.in_precision(NetworkPrecision::Float64).map(Some)
    }

    pub fn dim(&self) -> usize {
        self.card.dim()
    }

    /// Numbers in the largest value that the network makes of one sample, the state included.
    pub fn widest(&self) -> u64 {
        let dim = self.dim() as u64;
        *self.widest.get_or_init(|| {
            let found = self
                .known_graph()
                .ok()
                .and_then(|graph| graph.widest().ok());
            found.unwrap_or_default().max(dim).max(1)
        })
    }

    /// Whether one sample is work enough for a call of the network.
    fn is_large(&self) -> bool {
        self.widest() >= CACHED / 16
    }

    /// Whether calls may have fewer than four rows: of a large network of which nothing else was seen.
    pub fn takes_few_rows(&self) -> bool {
        self.is_large()
            && self
                .free_rows
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .values()
                .all(|free| *free)
    }

    /// Samples for one call of the network on a CPU, where nobody says: as many as keep what it makes of them in a
    /// core's cache, in fours, since the runtime rounds otherwise where vectors are not full.
    pub fn usual_batch(&self) -> usize {
        ((CACHED / self.widest()).clamp(4, MOST_ROWS) as usize).next_multiple_of(4)
    }

    /// The card's own file and those that it names, with the weights beside them.
    pub fn paths(&self) -> Vec<PathBuf> {
        let named = self
            .files
            .iter()
            .map(|file| PathBuf::from(self.name_of(file)));
        std::iter::once(self.path.clone()).chain(named).collect()
    }

    /// The network as a graph.
    ///
    /// # Errors
    /// Where the file is no ONNX model.
    pub fn graph(&self) -> Result<graph::Model> {
        self.graph_of("network.file")
    }

    /// The file at a key as a graph.
    pub(super) fn graph_of(&self, key: &str) -> Result<graph::Model> {
        let file = self.file(key)?;
        self.read_graph(file, &file.content)
    }

    /// The same as the file has it, in whatever type its networks compute now.
    pub(super) fn exported_graph_of(&self, key: &str) -> Result<graph::Model> {
        let file = self.file(key)?;
        self.read_graph(file, file.exported.as_ref().unwrap_or(&file.content))
    }

    fn read_graph(&self, file: &ModelFile, content: &Content) -> Result<graph::Model> {
        match content {
            Content::Network(bytes) => Ok(graph::Model::from_bytes(&self.name_of(file), bytes)?),
            // Its weights stay where they are, and what is derived from it names them there.
            Content::Large => Ok(graph::skim(Path::new(&self.name_of(file)))?),
            _ => Ok(graph::load(Path::new(&self.name_of(file)))?),
        }
    }

    /// Numbers that the network stores.
    ///
    /// # Errors
    /// Where the file is no ONNX model.
    pub fn parameters(&self) -> Result<u64> {
        Ok(self.graph()?.parameters())
    }

    /// dx/dt from the network.
    ///
    /// # Errors
    /// Where the network's ports are not what the card says.
    pub fn velocity(&self, runtime: &Runtime, options: Options) -> Result<Velocity> {
        Ok(View {
            network: self.network("network.file", runtime, options, None)?,
            form: self.form(),
        })
    }

    fn form(&self) -> Form {
        let network = &self.card.network;
        Form {
            curve: self.curve.clone(),
            prediction: network.prediction,
            preconditioning: network.preconditioning,
        }
    }

    /// Products with the velocity's Jacobian, from the differentiated graph, and what else is wanted of it.
    ///
    /// # Errors
    /// Where an operator cannot be differentiated, by its node's name.
    pub fn tangents(
        &self,
        runtime: &Runtime,
        options: Options,
        wanted: JacobianOptions,
    ) -> Result<Tangents> {
        let open = |mode| {
            self.network(
                "network.file",
                runtime,
                options,
                Some((mode, &self.differentiated(mode)?)),
            )
        };
        let few = wanted.trace && self.trace_terms().is_some_and(|terms| terms <= MOST_TERMS);
        let derived = Derived {
            tangent: open(graph::Mode::Jvp)?,
            forms: self.open_forms(runtime, options)?,
            cotangent: wanted.reverse.then(|| open(graph::Mode::Vjp)).transpose()?,
            trace: few.then(|| open(graph::Mode::Trace)).transpose()?,
        };
        Ok(View {
            network: derived,
            form: self.form(),
        })
    }

    /// The graph of quadratic forms, where a part of it depends on the directions alone. One whose weights fit in no message
    /// is left whole.
    fn open_forms(&self, runtime: &Runtime, options: Options) -> Result<Option<Network>> {
        let role = &self.card.network;
        let file = self.file("network.file")?;
        if matches!(file.content, Content::Large) {
            return Ok(None);
        }
        let make = || -> Option<[Arc<Vec<u8>>; 2]> {
            let graph = self.known_graph().ok()?;
            let forms = graph::quadratic_forms(&graph, &role.inputs.x, &role.output).ok()??;
            names_of_its_own(&graph, &forms.rest).ok()?;
            Some([
                Arc::new(forms.directions.to_bytes().ok()?),
                Arc::new(forms.rest.to_bytes().ok()?),
            ])
        };
        let Some([directions, rest]) = self.forms.get_or_init(make) else {
            return Ok(None);
        };
        let name = self.name_of(file);
        let session = runtime.open(&name, directions, options.provider, options.threads)?;
        self.network_with(
            "network.file",
            runtime,
            options,
            Some((graph::Mode::Quadratic, rest)),
            Some(session),
        )
        .map(Some)
    }

    /// How many directions the exact trace of the network's Jacobian takes: the dimension, or fewer where the graph shows
    /// that the Jacobian is block diagonal; none where the file does not tell.
    pub fn trace_terms(&self) -> Option<u64> {
        let role = &self.card.network;
        *self.trace_terms.get_or_init(|| {
            self.known_graph()
                .ok()?
                .trace_terms(&role.inputs.x, &role.output)
                .ok()?
        })
    }

    /// The bytes of the differentiated graph, made once.
    fn differentiated(&self, mode: graph::Mode) -> Result<Arc<Vec<u8>>> {
        let slot = match mode {
            graph::Mode::Jvp => &self.tangent,
            graph::Mode::Vjp => &self.cotangent,
            graph::Mode::Trace => &self.trace,
            // They are made in two parts, by [`Model::open_forms`].
            graph::Mode::Quadratic => return self.differentiate(mode).map(Arc::new),
        };
        let made = slot.get_or_init(|| {
            self.differentiate(mode)
                .map(Arc::new)
                .map_err(|e| format!("{e:#}"))
        });
        made.clone().map_err(|e| anyhow!("{e}"))
    }

    fn differentiate(&self, mode: graph::Mode) -> Result<Vec<u8>> {
        let role = &self.card.network;
        let graph = self.known_graph()?;
        let derived = graph::differentiate(&graph, mode, Some(&role.inputs.x), Some(&role.output))?;
        names_of_its_own(&graph, &derived)?;
        let port = |of: &str, suffix: &str| {
            let name = format!("{of}_{suffix}");
            derived
                .inputs()
                .into_iter()
                .chain(derived.outputs())
                .find(|port| port.name == name)
        };
        if mode == graph::Mode::Jvp && port(&role.output, "quadratic").is_none() {
            // Tangents have the shapes that the operators give, behind an axis of directions.
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
                "{}: output `{}` has shape {} where input `{}` has {}: expected the same for both, [N, …] of the card's shape",
                graph.file(),
                role.output,
                shape(&role.output),
                role.inputs.x,
                shape(&role.inputs.x)
            );
        }
        Ok(derived.to_bytes()?)
    }

    /// The network as a graph whose open axes are those of the card: what is differentiated.
    ///
    /// # Errors
    /// Where the file is no ONNX model.
    pub fn known_graph(&self) -> Result<graph::Model> {
        let role = &self.card.network;
        let said = Said {
            key: "network.file",
            states: vec![&role.inputs.x, &role.output],
            numbers: role.inputs.time.iter().map(String::as_str).collect(),
            constants: &role.constants,
        };
        Ok(self.with_axes(self.graph()?, &said))
    }

    /// Why the velocity's Jacobian cannot be multiplied from the left; `None` where it can.
    pub fn irreversible(&self) -> Option<String> {
        self.differentiated(graph::Mode::Vjp)
            .err()
            .map(|e| e.to_string())
    }

    /// A learned divergence, after its scale: +div of dx/dt in the card's own time.
    ///
    /// # Errors
    /// Where the card has no head of that name, or its ports are not what the card says.
    pub fn head(&self, name: &str, runtime: &Runtime, options: Options) -> Result<Scalar> {
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
        let network = self.network(
            &format!("divergence_heads.{name}.file"),
            runtime,
            options,
            None,
        )?;
        Ok(Scalar {
            network,
            reading: self.reading(head),
        })
    }

    fn reading(&self, head: &Head) -> Reading {
        let traces = head.parametrization == Parametrization::DenoiserTrace;
        Reading {
            scale: head.scale,
            traces: traces.then(|| (self.curve.clone(), self.dim() as f64)),
        }
    }

    /// A head that is an output of the velocity's own graph: from now on `velocity` remembers what it says of it.
    ///
    /// # Errors
    /// As [`Model::head`].
    pub fn joint_head(
        &self,
        name: &str,
        velocity: &mut Velocity,
        runtime: &Runtime,
        options: Options,
    ) -> Result<JointHead> {
        let alone = self.head(name, runtime, options)?;
        let head = &self.card.divergence_heads[name];
        if !velocity.network.beside.contains(&head.output) {
            velocity.network.beside.push(head.output.clone());
        }
        Ok(JointHead {
            output: head.output.clone(),
            memory: velocity.network.memory.clone(),
            form: self.form(),
            reading: self.reading(head),
            alone,
        })
    }

    /// The true log-density at any time, where the card has one.
    ///
    /// # Errors
    /// Where the card has none, or its ports are not what the card says.
    pub fn closed_form(&self, runtime: &Runtime, options: Options) -> Result<Scalar> {
        if self.card.closed_form.is_none() {
            bail!("{}: the card has no `closed_form`", self.path.display());
        }
        Ok(Scalar {
            network: self.network("closed_form.file", runtime, options, None)?,
            reading: Reading {
                scale: 1.0,
                traces: None,
            },
        })
    }

    pub(super) fn file(&self, key: &str) -> Result<&ModelFile> {
        self.files
            .iter()
            .find(|f| f.key == key)
            .ok_or_else(|| anyhow!("{}: no {key}", self.path.display()))
    }

    /// The name and the bytes of the file at a key.
    pub(super) fn bytes(&self, key: &str) -> Result<(String, Arc<Vec<u8>>)> {
        let file = self.file(key)?;
        match &file.content {
            Content::Network(bytes) => Ok((self.name_of(file), bytes.clone())),
            _ => bail!(
                "{}: {key}: more than 2 GB; only networks may be that large",
                self.name_of(file)
            ),
        }
    }

    /// A graph derived from a file, made by the first who asks.
    pub(super) fn derived(
        &self,
        key: &str,
        mode: graph::Mode,
        make: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Arc<Vec<u8>>> {
        let key = (key.to_owned(), mode);
        let mut known = self.derived.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(bytes) = known.get(&key) {
            return Ok(bytes.clone());
        }
        let bytes = Arc::new(make()?);
        known.insert(key, bytes.clone());
        Ok(bytes)
    }

    fn name_of(&self, file: &ModelFile) -> String {
        self.path
            .parent()
            .unwrap_or(Path::new(""))
            .join(&file.name)
            .display()
            .to_string()
    }

    /// Opens the file at `key`, or what was derived from it, and holds its ports against the card.
    fn network(
        &self,
        key: &str,
        runtime: &Runtime,
        options: Options,
        derived: Option<(graph::Mode, &[u8])>,
    ) -> Result<Network> {
        self.network_with(key, runtime, options, derived, None)
    }

    /// The same, with the session that makes its inputs from directions where there is one.
    fn network_with(
        &self,
        key: &str,
        runtime: &Runtime,
        options: Options,
        derived: Option<(graph::Mode, &[u8])>,
        directions: Option<Session>,
    ) -> Result<Network> {
        let file = self.file(key)?;
        let Roles {
            inputs: roles,
            output,
            feed,
            constants,
        } = self.roles(key);
        let name = self.name_of(file);
        let session = match (derived, &file.content) {
            (Some((_, bytes)), Content::Large) => {
                let folder = Path::new(&name).parent().unwrap_or(Path::new(""));
                runtime.open_beside(&name, bytes, folder, options.provider, options.threads)?
            }
            (Some((_, bytes)), _) => {
                runtime.open(&name, bytes, options.provider, options.threads)?
            }
            (None, Content::Network(bytes)) => {
                runtime.open(&name, bytes, options.provider, options.threads)?
            }
            _ => runtime.open_file(Path::new(&name), options.provider, options.threads)?,
        };
        let taken: Vec<&str> = [Some(&roles.x), roles.time.as_ref()]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        let constants = self.constants(key, constants, &taken, &session, &name)?;
        let scalar = key != "network.file";
        let of = key.strip_suffix(".file").unwrap_or(key);
        let mut network = Network {
            widest: self.widest(),
            free_rows: false,
            smooth: derived.is_none() && self.kink(of)?.is_none(),
            scalar_time: match &roles.time {
                Some(time) => is_scalar(find(&session.inputs, time, &name, "input")?),
                None => false,
            },
            x: roles.x.clone(),
            time: roles.time.clone(),
            output: output.to_owned(),
            feed,
            constants,
            shape: self.card.shape.clone(),
            curve: self.curve.clone(),
            beside: Vec::new(),
            memory: Memory::default(),
            probe_cache: directions.map(|made| ProbeCache::new(made, &session)),
            session,
        };
        let seed = derived.and_then(|(mode, _)| match mode {
            graph::Mode::Jvp | graph::Mode::Quadratic => Some(format!("{}_tangent", network.x)),
            graph::Mode::Vjp => Some(format!("{}_cotangent", network.output)),
            graph::Mode::Trace => None,
        });
        network.check(&name, scalar, seed.as_deref())?;
        if let Some(port) = network.time_port() {
            network
                .feed
                .check(&port.name, port.format, &self.curve, of)
                .with_context(|| name.clone())?;
        }
        if !scalar && self.is_large() {
            let mode = derived.map(|(mode, _)| mode);
            let mut known = self.free_rows.lock().unwrap_or_else(|e| e.into_inner());
            network.free_rows = *known
                .entry(mode)
                .or_insert_with(|| network.has_free_rows(mode));
        }
        if derived.is_none() {
            self.heeds(key, || network.check_heeded(of, self.may_ignore_time(of)))?;
        }
        Ok(network)
    }

    /// Whether the true output of this network can be the same at all times. A velocity, a score and a `v` can, and so
    /// can their divergence: for N(0, I) on a variance-preserving path the score is −x throughout. A log-density can
    /// as well. A denoiser and a noise prediction depend on the noise level.
    fn may_ignore_time(&self, key: &str) -> bool {
        let card = &self.card;
        let head = key
            .strip_prefix("divergence_heads.")
            .and_then(|name| card.divergence_heads.get(name));
        let divergence =
            head.is_some_and(|head| head.parametrization == Parametrization::Divergence);
        let steady = matches!(
            card.network.prediction,
            Prediction::Velocity | Prediction::Score | Prediction::V
        );
        key == "closed_form" || steady && (key == "network" || divergence)
    }

    /// Asks a network once, whoever opens it first, whether it heeds its times.
    pub(super) fn heeds(&self, key: &str, ask: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut known = self.heeding.lock().unwrap_or_else(|e| e.into_inner());
        if !known.contains(key) {
            ask()?;
            known.insert(key.to_owned());
        }
        Ok(())
    }

    fn roles(&self, key: &str) -> Roles<'_> {
        let card = &self.card;
        if let Some(name) = key
            .strip_prefix("divergence_heads.")
            .and_then(|k| k.strip_suffix(".file"))
        {
            let Head {
                inputs,
                output,
                constants,
                time,
                ..
            } = &card.divergence_heads[name];
            return Roles {
                inputs,
                output,
                feed: card.time_or(*time),
                constants,
            };
        }
        match (&card.closed_form, key) {
            (
                Some(card::Scalar {
                    inputs,
                    output,
                    constants,
                    time,
                    ..
                }),
                "closed_form.file",
            ) => Roles {
                inputs,
                output,
                feed: card.time_or(*time),
                constants,
            },
            _ => {
                let card::Network {
                    inputs,
                    output,
                    constants,
                    ..
                } = &card.network;
                Roles {
                    inputs,
                    output,
                    feed: card.time(),
                    constants,
                }
            }
        }
    }

    /// The graph's names for a network's state, time and output.
    pub(super) fn state_and_time(&self, key: &str) -> (&str, Option<&str>, &str) {
        let Roles { inputs, output, .. } = self.roles(key);
        (&inputs.x, inputs.time.as_deref(), output)
    }

    /// The fixed inputs of the network at `key`, held against the graph's; `taken` have roles already.
    pub(super) fn constants(
        &self,
        key: &str,
        named: &BTreeMap<String, Constant>,
        taken: &[&str],
        session: &Session,
        file: &str,
    ) -> Result<Vec<Fixed>> {
        let fixed = |(name, constant): (&String, &Constant)| -> Result<Fixed> {
            let place = constant_place(key, name);
            let bytes = self.constant_bytes(key, name);
            if taken.contains(&name.as_str()) {
                bail!(
                    "{}: {place}: input `{name}` is the state or the time already",
                    self.path.display()
                );
            }
            let port = find(&session.inputs, name, file, "input")?;
            let fixed = constant
                .values(bytes)
                .and_then(|values| Fixed::new(port, values));
            fixed.with_context(|| format!("{}: {place}", self.path.display()))
        };
        named.iter().map(fixed).collect()
    }

    /// The file of a constant of the network at `key`; nothing where the card holds its values.
    pub(super) fn constant_bytes(&self, key: &str, name: &str) -> &[u8] {
        let place = constant_place(key, name);
        match self
            .files
            .iter()
            .find(|f| f.key == place)
            .map(|f| &f.content)
        {
            Some(Content::Array(bytes)) => bytes,
            _ => &[],
        }
    }
}

/// The file uses none of the names that its derivative adds: those would be numbered, and whoever asks for one of them
/// would be given the file's own value.
pub fn names_of_its_own(graph: &graph::Model, derived: &graph::Model) -> Result<()> {
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

/// The card's key of a constant of the network at `key`.
fn constant_place(key: &str, name: &str) -> String {
    format!(
        "{}.constants.{name}",
        key.strip_suffix(".file").unwrap_or(key)
    )
}

/// What a card says of one network's ports.
struct Roles<'a> {
    inputs: &'a StateAndTime,
    output: &'a str,
    feed: Time,
    constants: &'a BTreeMap<String, Constant>,
}

/// dx/dt of a card's network.
pub type Velocity = View<Network>;

/// Products with the Jacobian of a card's velocity.
pub type Tangents = View<Derived>;
