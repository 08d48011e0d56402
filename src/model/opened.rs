//! A card with its files: hashed, checked, and ready to give fields to as many workers as wanted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::{Context, Result, anyhow, bail};
use ndarray::{Array2, ArrayD, Axis, Ix2, Ix3, IxDyn};
use sha2::{Digest, Sha256};

use super::card::{self, Card, Feed, Head, Parametrization, StateAndTime, TimeFeed};
use super::constants::{Constant, Fixed};
use super::flow_map::DerivedGraphs;
use super::joint::{JointHead, Memory};
use super::library::hex;
use super::onnx::{Port, Provider, Runtime, Session};
use crate::flow::field::{EvalError, ScalarField};
use crate::flow::path::Curve;
use crate::flow::prediction::Prediction;
use crate::flow::prior::Prior;
use crate::flow::view::{Differentiated, Form, Forward, View};
use crate::graph;
use crate::num::{Batch, Blocks};

/// Numbers in one call of the tangent graph: bounds memory, and changes no result.
const TANGENT_NUMBERS: usize = 1 << 18;

/// How sessions are opened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    pub provider: Provider,
    /// Threads inside one call of a network.
    pub threads: usize,
}

/// One file of a card.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFile {
    /// The card's key: `network.file`, `divergence_heads.stad.file`.
    pub key: String,
    /// As the card names it.
    pub name: PathBuf,
    pub sha256: String,
    content: Content,
}

impl ModelFile {
    /// Whether it is an ONNX model, and not an array or the weights of one.
    pub fn is_network(&self) -> bool {
        !matches!(self.content, Content::Array(_) | Content::Weights)
    }
}

/// What is kept of a file.
#[derive(Debug, Clone, PartialEq)]
enum Content {
    /// A model as one message, with the data of the files beside it.
    Network(Arc<Vec<u8>>),
    /// A model of more than a message holds: it is opened where it lies.
    Large,
    /// External data of a model.
    Weights,
    /// The values of a constant.
    Array(Vec<u8>),
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
    tangent: OnceLock<Result<Arc<Vec<u8>>, String>>,
    cotangent: OnceLock<Result<Arc<Vec<u8>>, String>>,
    derived: Mutex<DerivedGraphs>,
}

impl Model {
    /// Reads a card and every file that it names.
    ///
    /// # Errors
    /// One message that names the card, the key or the file.
    pub fn open(path: &Path) -> Result<Model> {
        let card = Card::read(path)?;
        let curve = card.path.curve().map_err(|e| anyhow!("{}: {e}", path.display()))?;
        let prior = Prior { std: card.prior.map_or(curve.prior_std(), |p| p.std) };
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut files = Vec::new();
        for (key, name) in card.files() {
            let at = folder.join(name);
            let named = || format!("{}: {key}: {}", path.display(), at.display());
            if at.exists() && !at.is_file() {
                bail!("{}: it is no file", named());
            }
            let bytes =
                std::fs::read(&at).map_err(|e| anyhow!("{}: {key}: {}", path.display(), absent(&card, &at, &e)))?;
            let sha256 = hex(&Sha256::digest(&bytes));
            if let Some(expected) = expected_hash(&card, &key).filter(|e| !e.eq_ignore_ascii_case(&sha256)) {
                bail!(
                    "{} has SHA-256 {sha256}, but the card says {expected}: \
                     it is another file than the card describes",
                    named()
                );
            }
            if key.contains(".constants.") {
                files.push(ModelFile { key, name: name.to_owned(), sha256, content: Content::Array(bytes) });
                continue;
            }
            let beside = weights_beside(&key, name, &at, &bytes).with_context(named)?;
            let content = match beside.is_empty() {
                true => Content::Network(Arc::new(bytes)),
                false => whole(&at).with_context(named)?,
            };
            files.push(ModelFile { key, name: name.to_owned(), sha256, content });
            files.extend(beside);
        }
        let card_sha256 = hex(&Sha256::digest(std::fs::read(path)?));
        Ok(Model {
            card,
            path: path.to_owned(),
            card_sha256,
            curve,
            prior,
            files,
            tangent: OnceLock::new(),
            cotangent: OnceLock::new(),
            derived: Mutex::default(),
        })
    }

    pub fn dim(&self) -> usize {
        self.card.dim()
    }

    /// The network as a graph.
    ///
    /// # Errors
    /// Where the file is no ONNX model.
    pub fn graph(&self) -> Result<graph::Model> {
        let file = self.file("network.file")?;
        match &file.content {
            Content::Network(bytes) => Ok(graph::Model::from_bytes(&self.name_of(file), bytes)?),
            _ => Ok(graph::Model::load(Path::new(&self.name_of(file)))?),
        }
    }

    /// Numbers that the network stores.
    ///
    /// # Errors
    /// Where the file is no ONNX model.
    pub fn parameters(&self) -> Result<u64> {
        let file = self.file("network.file")?;
        match &file.content {
            Content::Large => Ok(graph::Model::skim(Path::new(&self.name_of(file)))?.parameters()),
            _ => Ok(self.graph()?.parameters()),
        }
    }

    /// dx/dt from the network.
    ///
    /// # Errors
    /// Where the network's ports are not what the card says.
    pub fn velocity(&self, runtime: &Runtime, options: Options) -> Result<Velocity> {
        Ok(View { network: self.network("network.file", runtime, options, None)?, form: self.form() })
    }

    fn form(&self) -> Form {
        let network = &self.card.network;
        Form { curve: self.curve.clone(), prediction: network.prediction, preconditioning: network.preconditioning }
    }

    /// Products with the velocity's Jacobian, from the differentiated graph; with its transpose too where `reverse`.
    ///
    /// # Errors
    /// Where an operator cannot be differentiated, by its node's name.
    pub fn tangents(&self, runtime: &Runtime, options: Options, reverse: bool) -> Result<Tangents> {
        let open = |mode| self.network("network.file", runtime, options, Some((mode, &self.differentiated(mode)?)));
        let cotangent = reverse.then(|| open(graph::Mode::Vjp)).transpose()?;
        Ok(View { network: Derived { tangent: open(graph::Mode::Jvp)?, cotangent }, form: self.form() })
    }

    /// The bytes of the differentiated graph, made once.
    fn differentiated(&self, mode: graph::Mode) -> Result<Arc<Vec<u8>>> {
        let slot = if mode == graph::Mode::Jvp { &self.tangent } else { &self.cotangent };
        let made = slot.get_or_init(|| self.differentiate(mode).map(Arc::new).map_err(|e| format!("{e:#}")));
        made.clone().map_err(|e| anyhow!("{e}"))
    }

    fn differentiate(&self, mode: graph::Mode) -> Result<Vec<u8>> {
        let role = &self.card.network;
        let derived = graph::differentiate(&self.graph()?, mode, Some(&role.inputs.x), Some(&role.output))?;
        Ok(derived.to_bytes()?)
    }

    /// Why the velocity's Jacobian cannot be multiplied from the left; `None` where it can.
    pub fn irreversible(&self) -> Option<String> {
        self.differentiated(graph::Mode::Vjp).err().map(|e| e.to_string())
    }

    /// A learned divergence, after its scale: +div of dx/dt in the card's own time.
    ///
    /// # Errors
    /// Where the card has no head of that name, or its ports are not what the card says.
    pub fn head(&self, name: &str, runtime: &Runtime, options: Options) -> Result<Scalar> {
        let head = self.card.divergence_heads.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.card.divergence_heads.keys().map(String::as_str).collect();
            let known =
                if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
            anyhow!("{}: no divergence head `{name}`; {known}", self.path.display())
        })?;
        let network = self.network(&format!("divergence_heads.{name}.file"), runtime, options, None)?;
        Ok(Scalar { network, reading: self.reading(head) })
    }

    fn reading(&self, head: &Head) -> Reading {
        let traces = head.parametrization == Parametrization::DenoiserTrace;
        Reading { scale: head.scale, traces: traces.then(|| (self.curve.clone(), self.dim() as f64)) }
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
            reading: Reading { scale: 1.0, traces: None },
        })
    }

    fn file(&self, key: &str) -> Result<&ModelFile> {
        self.files.iter().find(|f| f.key == key).ok_or_else(|| anyhow!("{}: no {key}", self.path.display()))
    }

    /// The name and the bytes of the file at a key.
    pub(super) fn bytes(&self, key: &str) -> Result<(String, Arc<Vec<u8>>)> {
        let file = self.file(key)?;
        match &file.content {
            Content::Network(bytes) => Ok((self.name_of(file), bytes.clone())),
            _ => bail!("{}: {key}: more than 2 GB; only networks may be that large", self.name_of(file)),
        }
    }

    /// A graph derived from a file, made by the first who asks.
    pub(super) fn derived(
        &self,
        key: &str,
        mode: graph::Mode,
        make: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Arc<Vec<u8>>> {
        let key = (key.to_owned(), mode == graph::Mode::Jvp);
        let mut known = self.derived.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(bytes) = known.get(&key) {
            return Ok(bytes.clone());
        }
        let bytes = Arc::new(make()?);
        known.insert(key, bytes.clone());
        Ok(bytes)
    }

    fn name_of(&self, file: &ModelFile) -> String {
        self.path.parent().unwrap_or(Path::new("")).join(&file.name).display().to_string()
    }

    /// Opens the file at `key`, or what was derived from it, and holds its ports against the card.
    fn network(
        &self,
        key: &str,
        runtime: &Runtime,
        options: Options,
        derived: Option<(graph::Mode, &[u8])>,
    ) -> Result<Network> {
        let file = self.file(key)?;
        let Roles { inputs: roles, output, feed, constants } = self.roles(key);
        let name = self.name_of(file);
        let session = match (derived, &file.content) {
            (Some((_, bytes)), _) => runtime.open(&name, bytes, options.provider, options.threads)?,
            (None, Content::Network(bytes)) => runtime.open(&name, bytes, options.provider, options.threads)?,
            _ => runtime.open_file(Path::new(&name), options.provider, options.threads)?,
        };
        let constants = self.constants(key, constants, &session, &name)?;
        let scalar = key != "network.file";
        let network = Network {
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
            session,
        };
        let seed = derived.map(|(mode, _)| match mode {
            graph::Mode::Jvp => format!("{}_tangent", network.x),
            graph::Mode::Vjp => format!("{}_cotangent", network.output),
        });
        network.check(&name, scalar, seed.as_deref())?;
        Ok(network)
    }

    fn roles(&self, key: &str) -> Roles<'_> {
        let card = &self.card;
        let main = card.network.feed();
        if let Some(name) = key.strip_prefix("divergence_heads.").and_then(|k| k.strip_suffix(".file")) {
            let Head { inputs, output, constants, time, .. } = &card.divergence_heads[name];
            return Roles { inputs, output, feed: time.unwrap_or(main), constants };
        }
        match (&card.closed_form, key) {
            (Some(card::Scalar { inputs, output, constants, .. }), "closed_form.file") => {
                Roles { inputs, output, feed: main, constants }
            }
            _ => {
                let card::Network { inputs, output, constants, .. } = &card.network;
                Roles { inputs, output, feed: main, constants }
            }
        }
    }

    /// The fixed inputs of the network at `key`, held against the graph's.
    fn constants(
        &self,
        key: &str,
        named: &BTreeMap<String, Constant>,
        session: &Session,
        file: &str,
    ) -> Result<Vec<Fixed>> {
        let network = key.strip_suffix(".file").unwrap_or(key);
        let roles = self.roles(key).inputs;
        let fixed = |(name, constant): (&String, &Constant)| -> Result<Fixed> {
            let place = format!("{network}.constants.{name}");
            let bytes = match self.files.iter().find(|f| f.key == place).map(|f| &f.content) {
                Some(Content::Array(bytes)) => &bytes[..],
                _ => &[],
            };
            if *name == roles.x || roles.time.as_ref() == Some(name) {
                bail!("{}: {place}: input `{name}` is the state or the time already", self.path.display());
            }
            let port = find(&session.inputs, name, file, "input")?;
            let fixed = constant.values(bytes).and_then(|values| Fixed::new(port, values));
            fixed.with_context(|| format!("{}: {place}", self.path.display()))
        };
        named.iter().map(fixed).collect()
    }
}

/// What a card says of one network's ports.
struct Roles<'a> {
    inputs: &'a StateAndTime,
    output: &'a str,
    feed: TimeFeed,
    constants: &'a BTreeMap<String, Constant>,
}

/// The external data of the model in `bytes`, which lies at `at` and is called `name` in the card.
fn weights_beside(key: &str, name: &Path, at: &Path, bytes: &[u8]) -> Result<Vec<ModelFile>> {
    let folder = |path: &Path| path.parent().unwrap_or(Path::new("")).to_owned();
    let mut found = Vec::new();
    for location in graph::external_files(&at.display().to_string(), bytes)? {
        let file = folder(at).join(&location);
        let refused = || format!("{}: the model's external data", file.display());
        if !file.metadata().with_context(refused)?.is_file() {
            bail!("{}: it is no file", refused());
        }
        let mut hash = Sha256::new();
        std::io::copy(&mut std::fs::File::open(&file).with_context(refused)?, &mut hash).with_context(refused)?;
        let (key, name) = (format!("{key} data"), folder(name).join(&location));
        found.push(ModelFile { key, name, sha256: hex(&hash.finalize()), content: Content::Weights });
    }
    Ok(found)
}

/// A model with its external data, as one message where it fits into one.
fn whole(at: &Path) -> Result<Content> {
    let message = graph::Model::load(at).and_then(|model| model.to_bytes());
    match message {
        Ok(bytes) => Ok(Content::Network(Arc::new(bytes))),
        Err(graph::GraphError::TooLarge { .. }) => Ok(Content::Large),
        Err(error) => Err(error.into()),
    }
}

/// Why a card's file cannot be read and, where the card knows, how one comes by it.
fn absent(card: &Card, file: &Path, error: &std::io::Error) -> String {
    let source = card.provenance.get("source").and_then(|s| s.as_str());
    match source.filter(|_| error.kind() == std::io::ErrorKind::NotFound) {
        Some(source) => format!("{} is not there; {}", file.display(), one_line(source)),
        None => format!("{}: {error}", file.display()),
    }
}

/// A card's words in a message: nothing that would move a terminal's cursor, and not a page of it.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

fn expected_hash<'a>(card: &'a Card, key: &str) -> Option<&'a str> {
    let named = |prefix: &str| key.strip_prefix(prefix).and_then(|k| k.strip_suffix(".file"));
    if let Some(name) = named("divergence_heads.") {
        return card.divergence_heads.get(name)?.sha256.as_deref();
    }
    if let Some(name) = named("flow_maps.") {
        return card.flow_maps.get(name)?.sha256.as_deref();
    }
    match key {
        "closed_form.file" => card.closed_form.as_ref()?.sha256.as_deref(),
        "network.file" => card.network.sha256.as_deref(),
        _ => None,
    }
}

/// What a differentiated graph is given besides the original inputs.
enum Seed<'a> {
    Nothing,
    /// k × rows × dim.
    Tangents(&'a Blocks),
    /// rows × dim.
    Cotangents(&'a Batch),
}

/// An opened network with its roles: states and times in, one output out.
pub struct Network {
    session: Session,
    x: String,
    time: Option<String>,
    output: String,
    feed: TimeFeed,
    /// Further inputs, whose values the card gives.
    constants: Vec<Fixed>,
    /// Whether the graph takes one time for the whole batch.
    scalar_time: bool,
    shape: Vec<usize>,
    curve: Curve,
    /// Other outputs that a call also gives, kept for the heads that they are.
    beside: Vec<String>,
    memory: Memory,
}

impl Network {
    /// Holds the ports against the card.
    fn check(&self, file: &str, scalar: bool, seed: Option<&str>) -> Result<()> {
        let x = find(&self.session.inputs, &self.x, file, "input")?;
        check_shape(x, &self.shape, file, "input")?;
        let output = find(&self.session.outputs, &self.output, file, "output")?;
        if scalar {
            let fits = matches!(output.shape[..], [_] | [_, 1] | [_, -1]);
            if !fits {
                bail!(
                    "{file}: output `{}` has shape {:?}, expected one number per sample: [N]",
                    output.name,
                    output.shape
                );
            }
        } else {
            check_shape(output, &self.shape, file, "output")?;
        }
        let known = |name: &str| {
            let role = name == self.x || self.time.as_deref() == Some(name);
            role || self.constants.iter().any(|c| c.name == name) || seed == Some(name)
        };
        if let Some(other) = self.session.inputs.iter().find(|p| !known(&p.name)) {
            bail!(
                "{file}: input `{0}` has no role in the card; expected only `{1}`{2}, or a value for it: `constants: {{{0}: …}}`",
                other.name,
                self.x,
                self.time.as_ref().map(|t| format!(" and `{t}`")).unwrap_or_default()
            );
        }
        Ok(())
    }

    fn fed(&self, t: f64) -> f64 {
        fed(self.feed, &self.curve, t)
    }

    /// Rows that can share one call: all of them, or those of equal time where the graph takes one time.
    fn groups(&self, t: &[f64]) -> Vec<Vec<usize>> {
        if !self.scalar_time || t.windows(2).all(|w| w[0] == w[1]) {
            return vec![(0..t.len()).collect()];
        }
        let mut groups: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (i, t) in t.iter().enumerate() {
            groups.entry(t.to_bits()).or_default().push(i);
        }
        groups.into_values().collect()
    }

    fn times(&self, t: &[f64]) -> ArrayD<f64> {
        if self.scalar_time {
            let shape = self.time.as_deref().and_then(|n| self.session.input(n)).map_or(0, |p| p.shape.len());
            return ArrayD::from_elem(IxDyn(&vec![1; shape]), self.fed(t[0]));
        }
        let values: Vec<f64> = t.iter().map(|t| self.fed(*t)).collect();
        let column = self.time.as_deref().and_then(|n| self.session.input(n)).is_some_and(|p| p.shape.len() == 2);
        let shape = if column { vec![t.len(), 1] } else { vec![t.len()] };
        ArrayD::from_shape_vec(IxDyn(&shape), values).expect("one time per row")
    }

    fn shaped(&self, leading: &[usize]) -> Vec<usize> {
        leading.iter().chain(&self.shape).copied().collect()
    }

    /// One call.
    ///
    /// The runtime rounds differently where a batch does not fill its vector units. Filled up to a
    /// multiple of four with copies, a sample's last bits do not depend on its company: measured
    /// bit-identical for every batch size, at the price of three wasted rows at most.
    fn call(&mut self, t: &[f64], x: &Batch, seed: Seed, wanted: &[String]) -> Result<Vec<ArrayD<f64>>, EvalError> {
        let rows = x.nrows();
        if rows.is_multiple_of(4) {
            return self.call_as_is(t, x, seed, wanted);
        }
        let filled: Vec<usize> = (0..rows.next_multiple_of(4)).map(|i| if i < rows { i } else { 0 }).collect();
        let times: Vec<f64> = filled.iter().map(|i| t[*i]).collect();
        let x = x.select(Axis(0), &filled);
        let (out, axis) = match seed {
            Seed::Nothing => (self.call_as_is(&times, &x, seed, wanted)?, Axis(0)),
            Seed::Tangents(z) => {
                let z = z.select(Axis(1), &filled);
                (self.call_as_is(&times, &x, Seed::Tangents(&z), wanted)?, Axis(1))
            }
            Seed::Cotangents(w) => {
                let w = w.select(Axis(0), &filled);
                (self.call_as_is(&times, &x, Seed::Cotangents(&w), wanted)?, Axis(0))
            }
        };
        let cut = |mut a: ArrayD<f64>| {
            if a.shape().get(axis.0) == Some(&filled.len()) {
                a.slice_axis_inplace(axis, (..rows).into());
            }
            a.as_standard_layout().into_owned()
        };
        Ok(out.into_iter().map(cut).collect())
    }

    fn call_as_is(
        &mut self,
        t: &[f64],
        x: &Batch,
        seed: Seed,
        wanted: &[String],
    ) -> Result<Vec<ArrayD<f64>>, EvalError> {
        let shaped = |x: &Batch| x.to_shape(self.shaped(&[x.nrows()])).expect("dim numbers per row").into_owned();
        let state = shaped(x);
        let times = self.times(t);
        let seed = match seed {
            Seed::Nothing => None,
            Seed::Tangents(z) => {
                let shape = self.shaped(&[z.shape()[0], z.shape()[1]]);
                let z = z.to_shape(shape).expect("dim numbers per tangent").into_owned();
                Some((format!("{}_tangent", self.x), z))
            }
            Seed::Cotangents(w) => Some((format!("{}_cotangent", self.output), shaped(w))),
        };
        let fixed: Vec<ArrayD<f64>> = self.constants.iter().map(|c| c.fed(x.nrows())).collect();
        let mut feeds = vec![(self.x.as_str(), state.view())];
        feeds.extend(self.constants.iter().zip(&fixed).map(|(c, values)| (c.name.as_str(), values.view())));
        if let Some(name) = &self.time {
            feeds.push((name, times.view()));
        }
        if let Some((name, values)) = &seed {
            feeds.push((name, values.view()));
        }
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        self.session.run(feeds, &wanted)
    }

    fn shape_error(&self, found: &[usize], expected: Vec<usize>) -> EvalError {
        EvalError::Shape {
            file: self.session.file.clone(),
            output: self.output.clone(),
            found: found.to_vec(),
            expected,
        }
    }

    /// The plain output, rows × dim.
    fn plain(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        let mut out = Batch::zeros(x.raw_dim());
        for rows in self.groups(t) {
            let times: Vec<f64> = rows.iter().map(|i| t[*i]).collect();
            let part = x.select(Axis(0), &rows);
            let wanted: Vec<String> = std::iter::once(&self.output).chain(&self.beside).cloned().collect();
            let mut outputs = self.call(&times, &part, Seed::Nothing, &wanted)?;
            let y = outputs.remove(0);
            self.remember(&times, &part, outputs)?;
            let expected = self.shaped(&[rows.len()]);
            let y = match y.shape() == expected {
                true => y.into_shape_with_order((rows.len(), x.ncols())),
                false => return Err(self.shape_error(y.shape(), expected)),
            };
            let y = y.expect("the shape was just compared");
            rows.iter().zip(y.rows()).for_each(|(i, row)| out.row_mut(*i).assign(&row));
        }
        Ok(out)
    }

    /// Keeps what a call said beside its main output.
    fn remember(&self, t: &[f64], fed: &Batch, outputs: Vec<ArrayD<f64>>) -> Result<(), EvalError> {
        if self.beside.is_empty() {
            return Ok(());
        }
        let mut said = Vec::new();
        for (name, values) in self.beside.iter().zip(outputs) {
            if values.len() != t.len() {
                return Err(self.shape_error(values.shape(), vec![t.len()]));
            }
            said.push((name.clone(), values.iter().copied().collect()));
        }
        self.memory.keep(t, fed, &said);
        Ok(())
    }

    /// J_F·z, k × rows × dim.
    fn products(&mut self, t: &[f64], x: &Batch, z: &Blocks) -> Result<Blocks, EvalError> {
        let mut out = Blocks::zeros(z.raw_dim());
        self.tangent_calls(t, x, z, "tangent", |block, rows, y, network| {
            let expected = network.shaped(&[block.len(), rows.len()]);
            if y.shape() != expected {
                return Err(network.shape_error(y.shape(), expected));
            }
            let y = y.into_shape_with_order((block.len(), rows.len(), x.ncols())).expect("the shape was just compared");
            let y = y.into_dimensionality::<Ix3>().expect("three axes");
            for (j, row) in rows.iter().enumerate() {
                let mut target = out.slice_mut(ndarray::s![block.clone(), *row, ..]);
                target.assign(&y.index_axis(Axis(1), j));
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// zᵀJ_F z, k × rows, summed inside the graph.
    fn quadratic(&mut self, t: &[f64], x: &Batch, z: &Blocks) -> Result<Array2<f64>, EvalError> {
        let mut out = Array2::zeros((z.shape()[0], z.shape()[1]));
        self.tangent_calls(t, x, z, "quadratic", |block, rows, y, network| {
            let found = y.shape().to_vec();
            let y = y.into_dimensionality::<Ix2>().ok().filter(|y| y.dim() == (block.len(), rows.len()));
            let y = y.ok_or_else(|| network.shape_error(&found, vec![block.len(), rows.len()]))?;
            for (j, row) in rows.iter().enumerate() {
                out.slice_mut(ndarray::s![block.clone(), *row]).assign(&y.column(j));
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// J_Fᵀ·w, k × rows × dim, from the cotangent graph: one cotangent per row of a call.
    fn transposed(&mut self, t: &[f64], x: &Batch, w: &Blocks) -> Result<Blocks, EvalError> {
        let wanted = [format!("{}_cotangent", self.x)];
        let mut out = Blocks::zeros(w.raw_dim());
        for group in self.groups(t) {
            let pairs: Vec<(usize, usize)> =
                (0..w.shape()[0]).flat_map(|j| group.iter().map(move |i| (j, *i))).collect();
            for pairs in pairs.chunks((TANGENT_NUMBERS / x.ncols()).max(1)) {
                let rows: Vec<usize> = pairs.iter().map(|p| p.1).collect();
                let times: Vec<f64> = rows.iter().map(|i| t[*i]).collect();
                let mut given = Batch::zeros((pairs.len(), x.ncols()));
                for (mut row, (j, i)) in given.rows_mut().into_iter().zip(pairs) {
                    row.assign(&w.slice(ndarray::s![*j, *i, ..]));
                }
                let y = self.call(&times, &x.select(Axis(0), &rows), Seed::Cotangents(&given), &wanted)?.remove(0);
                let expected = self.shaped(&[pairs.len()]);
                if y.shape() != expected {
                    return Err(self.shape_error(y.shape(), expected));
                }
                let y = y.into_shape_with_order((pairs.len(), x.ncols())).expect("the shape was just compared");
                for (row, (j, i)) in y.rows().into_iter().zip(pairs) {
                    out.slice_mut(ndarray::s![*j, *i, ..]).assign(&row);
                }
            }
        }
        Ok(out)
    }

    /// Calls the tangent graph in blocks of directions, and in blocks of rows for very many numbers.
    fn tangent_calls(
        &mut self,
        t: &[f64],
        x: &Batch,
        z: &Blocks,
        suffix: &str,
        mut take: impl FnMut(std::ops::Range<usize>, &[usize], ArrayD<f64>, &Network) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let wanted = [format!("{}_{suffix}", self.output)];
        for group in self.groups(t) {
            for rows in group.chunks((TANGENT_NUMBERS / x.ncols()).max(1)) {
                let times: Vec<f64> = rows.iter().map(|i| t[*i]).collect();
                let part = x.select(Axis(0), rows);
                let width = (TANGENT_NUMBERS / (rows.len() * x.ncols())).max(1);
                for first in (0..z.shape()[0]).step_by(width) {
                    let block = first..(first + width).min(z.shape()[0]);
                    let tangents = z.slice(ndarray::s![block.clone(), .., ..]).select(Axis(1), rows);
                    let y = self.call(&times, &part, Seed::Tangents(&tangents), &wanted)?.remove(0);
                    take(block, rows, y, self)?;
                }
            }
        }
        Ok(())
    }
}

/// dx/dt of a card's network.
pub type Velocity = View<Network>;

/// Products with the Jacobian of a card's velocity.
pub type Tangents = View<Derived>;

impl Forward for Network {
    fn dim(&self) -> usize {
        self.shape.iter().product()
    }

    fn forward(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        self.plain(t, x)
    }
}

/// A network's tangent graph, and its reverse where it was asked for.
pub struct Derived {
    tangent: Network,
    cotangent: Option<Network>,
}

impl Differentiated for Derived {
    fn dim(&self) -> usize {
        self.tangent.shape.iter().product()
    }

    fn products(&mut self, t: &[f64], x: &Batch, z: &Blocks) -> Result<Blocks, EvalError> {
        self.tangent.products(t, x, z)
    }

    fn quadratic(&mut self, t: &[f64], x: &Batch, z: &Blocks) -> Result<Array2<f64>, EvalError> {
        self.tangent.quadratic(t, x, z)
    }

    fn transposed(&mut self, t: &[f64], x: &Batch, w: &Blocks) -> Result<Option<Blocks>, EvalError> {
        self.cotangent.as_mut().map(|network| network.transposed(t, x, w)).transpose()
    }
}

/// One number per sample: a learned divergence or a closed-form log-density.
pub struct Scalar {
    network: Network,
    reading: Reading,
}

/// How a head's output is turned into the divergence of dx/dt.
#[derive(Debug, Clone)]
pub struct Reading {
    scale: f64,
    /// The path and the dimension, where the output is the trace of the denoiser's Jacobian.
    traces: Option<(Curve, f64)>,
}

impl Reading {
    /// With v = a·x + b·D: div v = a·d + b·tr J_D.
    pub fn divergence(&self, t: f64, output: f64) -> f64 {
        let value = self.scale * output;
        self.traces.as_ref().map_or(value, |(curve, dim)| {
            let view = Prediction::Denoised.velocity(&curve.at(t));
            view.a * dim + view.b * value
        })
    }
}

impl ScalarField for Scalar {
    fn eval(&mut self, t: &[f64], x: &Batch) -> Result<Vec<f64>, EvalError> {
        let mut out = vec![0.0; x.nrows()];
        for rows in self.network.groups(t) {
            let times: Vec<f64> = rows.iter().map(|i| t[*i]).collect();
            let part = x.select(Axis(0), &rows);
            let wanted = [self.network.output.clone()];
            let y = self.network.call(&times, &part, Seed::Nothing, &wanted)?.remove(0);
            if y.len() != rows.len() {
                return Err(self.network.shape_error(y.shape(), vec![rows.len()]));
            }
            rows.iter().zip(y.iter()).for_each(|(i, v)| out[*i] = self.reading.divergence(t[*i], *v));
        }
        Ok(out)
    }
}

/// Holds a state-shaped port against the card's shape.
pub(super) fn check_shape(port: &Port, shape: &[usize], file: &str, what: &str) -> Result<()> {
    let wanted: Vec<i64> = shape.iter().map(|s| *s as i64).collect();
    if port.shape.first().is_some_and(|n| *n >= 0) && port.shape.len() == wanted.len() + 1 {
        bail!(
            "{file}: {what} `{}` has the batch size {} baked in (shape {:?}); export it with a dynamic first axis",
            port.name,
            port.shape[0],
            port.shape
        );
    }
    let fits =
        port.shape.len() == wanted.len() + 1 && port.shape[1..].iter().zip(&wanted).all(|(p, w)| *p < 0 || p == w);
    // A graph that does not say its output's shape is held to it when it runs.
    let unsaid = what == "output" && port.shape.is_empty();
    if !(fits || unsaid) {
        bail!(
            "{file}: {what} `{}` has shape {:?}, but the card's shape asks for [N, {}]",
            port.name,
            port.shape,
            join(&wanted)
        );
    }
    Ok(())
}

/// What a graph's time input is given at time `t`.
pub(super) fn fed(feed: TimeFeed, curve: &Curve, t: f64) -> f64 {
    let value = match feed.feed {
        Feed::T => t,
        Feed::Sigma => curve.at(t).sigma,
        Feed::LogSigmaOver4 => curve.at(t).sigma.ln() / 4.0,
        Feed::Index => curve.index(t),
    };
    value * feed.scale
}

pub(super) fn find<'a>(ports: &'a [Port], name: &str, file: &str, what: &str) -> Result<&'a Port> {
    ports.iter().find(|p| p.name == name).ok_or_else(|| {
        let known: Vec<&str> = ports.iter().map(|p| p.name.as_str()).collect();
        anyhow!("{file}: no {what} `{name}`; the graph has {}", known.join(", "))
    })
}

pub(super) fn is_scalar(port: &Port) -> bool {
    port.shape.is_empty() || port.shape[..] == [1]
}

fn join(sizes: &[i64]) -> String {
    sizes.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
}
