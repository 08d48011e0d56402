//! Sessions of ONNX Runtime. This is the only module in which networks run and in which numbers are
//! converted between f64 and f32.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::{Context, Result, anyhow};
use ndarray::{ArrayD, ArrayViewD};
use ort::environment::Environment;
use ort::session::Session as OrtSession;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{TensorElementType, ValueType};

use super::library;
use super::placement::{Placement, Precision, SessionProfile, max_output_difference};
pub use super::provider::Provider;
use super::session_tensors::{InputTensor, RepeatedInputs, TensorFormat, run_session};
use super::shared_library::RuntimeLibrary;
use crate::flow::field::EvalError;
use crate::{graph, stop};

/// The loaded ONNX Runtime; a process has only one.
pub struct Runtime {
    /// The environment in which sessions are opened.
    environment: Environment,
    /// The shared library of the runtime.
    pub library: RuntimeLibrary,
    /// The results of the first calls so far.
    placement_cache: Arc<PlacementCache>,
}

/// The placements of graphs that were called on providers other than the CPU.
type PlacementCache = Mutex<BTreeMap<PlacementKey, Placement>>;

/// A provider, the name of a file, and a hash of its graph. The hash is needed because a derived
/// graph has the name of the file from which it was derived.
type PlacementKey = (Provider, String, u64);

/// The process's runtime, once it is started.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();
/// A lock that lets only one thread start the runtime.
static STARTUP_LOCK: Mutex<()> = Mutex::new(());

impl Runtime {
    /// Returns the process's runtime. It is found or fetched, and started, on first use.
    /// `named` is the library that the user names, if any.
    ///
    /// # Errors
    /// Fails if no usable library is found and none can be fetched, or if the library does not
    /// start.
    pub fn get(named: Option<&Path>) -> Result<&'static Runtime> {
        Runtime::get_with_provider(named, Provider::Cpu)
    }

    /// Returns the process's runtime like [`Runtime::get`], preferably from a library that has the
    /// provider.
    ///
    /// # Errors
    /// Fails if no usable library is found and none can be fetched, or if the library does not
    /// start.
    pub fn get_with_provider(named: Option<&Path>, provider: Provider) -> Result<&'static Runtime> {
        let _guard = STARTUP_LOCK.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(runtime) = RUNTIME.get() {
            return Ok(runtime);
        }
        let library = library::find_library_with_provider(named, provider)?;
        provider.prepare_process();
        let environment = ort::init_from(&library.path)
            .map_err(|e| anyhow!("{}: {e}", library.path.display()))?
            .with_telemetry(false)
            .build()
            .map_err(|e| {
                anyhow!(
                    "{}: ONNX Runtime did not start: {}",
                    library.path.display(),
                    e.message()
                )
            })?;
        environment.set_log_level(ort::logging::LogLevel::Fatal);
        Ok(RUNTIME.get_or_init(|| Runtime {
            environment,
            library,
            placement_cache: Arc::default(),
        }))
    }

    /// Checks, before any model is opened, that a provider can be used.
    ///
    /// # Errors
    /// Fails if it cannot. The message says what is missing.
    pub fn check(&self, provider: Provider) -> Result<()> {
        let error = self.builder(provider, 1).err();
        provider.check(&self.library, error.as_ref().map(|e| e.message()))
    }

    /// Describes for the user whether the library has a provider, and what is missing to use it.
    pub fn availability(&self, provider: Provider) -> String {
        if !provider.is_built_in() {
            return format!("not in this library{}", provider.install_hint());
        }
        let error = self.builder(provider, 1).err();
        match provider.missing_requirements(&self.library, error.as_ref().map(|e| e.message())) {
            missing if missing.is_empty() => "available".to_owned(),
            missing => format!(
                "in this library, but it cannot be used here; {}",
                missing.join("; ")
            ),
        }
    }

    /// Returns the placement of each graph that was called so far on a provider other than the CPU.
    pub fn placements(&self) -> Vec<Placement> {
        self.placement_cache
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .values()
            .cloned()
            .collect()
    }

    /// Opens a model in memory; `file` names it in messages.
    ///
    /// # Errors
    /// Fails if the provider cannot be used or ONNX Runtime cannot load the model.
    pub fn open(
        &self,
        file: &str,
        bytes: &[u8],
        provider: Provider,
        threads: usize,
    ) -> Result<Session> {
        self.open_source(file, &ModelSource::in_memory(bytes), provider, threads)
    }

    /// Opens a model in memory that the provider has already rewritten; `file` names it in messages.
    ///
    /// # Errors
    /// Fails if the provider cannot be used or ONNX Runtime cannot load the model.
    pub(super) fn open_rewritten(
        &self,
        file: &str,
        bytes: &[u8],
        provider: Provider,
        threads: usize,
    ) -> Result<Session> {
        let source = ModelSource {
            is_rewritten: true,
            ..ModelSource::in_memory(bytes)
        };
        self.open_source(file, &source, provider, threads)
    }

    /// Opens a model in memory whose weights are in files in a folder. Such a model is derived from
    /// one that is too large for one message.
    ///
    /// # Errors
    /// Fails if the provider cannot be used or ONNX Runtime cannot load the model.
    pub fn open_with_external_data(
        &self,
        file: &str,
        bytes: &[u8],
        folder: &Path,
        provider: Provider,
        threads: usize,
    ) -> Result<Session> {
        let folder = if folder == Path::new("") {
            Path::new(".")
        } else {
            folder
        };
        let folder = folder
            .canonicalize()
            .with_context(|| folder.display().to_string())?;
        self.open_source(
            file,
            &ModelSource {
                bytes: Some(bytes),
                location: Some(&folder),
                is_rewritten: false,
            },
            provider,
            threads,
        )
    }

    /// Opens a model from its file, with its external data beside it. This is for models that are
    /// too large for one message.
    ///
    /// # Errors
    /// Fails if the provider cannot be used or ONNX Runtime cannot load the model.
    pub fn open_file(&self, path: &Path, provider: Provider, threads: usize) -> Result<Session> {
        self.open_source(
            &path.display().to_string(),
            &ModelSource {
                bytes: None,
                location: Some(path),
                is_rewritten: false,
            },
            provider,
            threads,
        )
    }

    /// Opens a model. On a provider other than the CPU, the first session of a graph also checks
    /// its first call.
    fn open_source(
        &self,
        file: &str,
        source: &ModelSource,
        provider: Provider,
        threads: usize,
    ) -> Result<Session> {
        let first_call = if provider == Provider::Cpu {
            None
        } else {
            self.first_call_check(file, source, provider, threads)?
        };
        let builder = self
            .builder(provider, threads)
            .and_then(|builder| match &first_call {
                Some(first_call) => Ok(builder.with_profiling(first_call.profile.prefix())?),
                None => Ok(builder),
            });
        let rewritten = source.rewritten(file, provider);
        let source = rewritten.as_deref().map_or(*source, ModelSource::in_memory);
        let mut builder = builder.map_err(|e| session_load_error(file, provider, &e))?;
        let opened = |builder| {
            let inner = source
                .commit(builder)
                .map_err(|e| session_load_error(file, provider, &e))?;
            Session::new(file, inner)
        };
        let mut session = opened(builder.clone())?;
        // The number format is known only once the session is open. A float64 graph is opened again
        // without the optimizer that rounds to float32.
        if session
            .inputs
            .iter()
            .chain(&session.outputs)
            .any(|port| port.format == TensorFormat::F64)
        {
            builder = builder
                .with_config_entry(DISABLED_OPTIMIZERS_ENTRY, ROUNDING_OPTIMIZER)
                .map_err(|e| session_load_error(file, provider, &e.into()))?;
            session = opened(builder)?;
        }
        session.first_call = first_call;
        session.binds_repeated_inputs = provider != Provider::Cpu;
        Ok(session)
    }

    /// Returns the check for the first call of a graph, unless a session of this graph has passed
    /// it already.
    fn first_call_check(
        &self,
        file: &str,
        source: &ModelSource,
        provider: Provider,
        threads: usize,
    ) -> Result<Option<FirstCallCheck>> {
        let key = (provider, file.to_owned(), source.hash());
        if self
            .placement_cache
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .contains_key(&key)
        {
            return Ok(None);
        }
        // A graph that the CPU cannot run is not compared with anything.
        let plain = self
            .builder(Provider::Cpu, threads)
            .and_then(|b| source.commit(b))
            .ok();
        let precision = Precision::from_spacing(source.coarsest_spacing(file));
        Ok(Some(FirstCallCheck {
            key,
            placement_cache: self.placement_cache.clone(),
            profile: SessionProfile::new()?,
            cpu_session: plain,
            precision,
        }))
    }

    /// Returns the options of a session that do not depend on the model.
    fn builder(&self, provider: Provider, threads: usize) -> ort::Result<SessionBuilder> {
        let plain = OrtSession::builder(&self.environment)?
            .with_intra_threads(threads.max(1))?
            // Spinning threads halve the speed if other processes use the machine as well.
            .with_intra_op_spinning(false)?
            // Memory patterns keep the buffers of every batch size. On tangent graphs they double
            // the peak memory.
            .with_memory_pattern(false)?
            // Without this, products with four-bit weights may round the state to eight bits.
            .with_config_entry("session.qdq_matmulnbits_accuracy_level", "1")?
            // `All` is accepted by all supported libraries; before 1.23 they refuse `Level3`.
            .with_optimization_level(GraphOptimizationLevel::All)?;
        Ok(plain.with_execution_providers(provider.execution_providers(threads))?)
    }
}

/// The session option that lists the optimizers of ONNX Runtime to be disabled.
const DISABLED_OPTIMIZERS_ENTRY: &str = "optimization.disable_specified_optimizers";

/// The optimizer that moves a scale factor into a matrix product, as a float32 attribute. For
/// float64 models it causes an error of 3e-9.
const ROUNDING_OPTIMIZER: &str = "MatMulScaleFusion";

/// The error of a model that ONNX Runtime cannot load.
fn session_load_error(file: &str, provider: Provider, error: &ort::Error) -> anyhow::Error {
    let (with, reason) = (
        provider.message_suffix(),
        provider.provider_message(error.message()),
    );
    anyhow!("{file}: ONNX Runtime cannot load it{with}: {reason}")
}

/// The source from which ONNX Runtime loads a model.
#[derive(Clone, Copy)]
struct ModelSource<'a> {
    /// The serialized model, if it is in memory.
    bytes: Option<&'a [u8]>,
    /// The folder of the weights if the model is in memory, otherwise the model's own file.
    location: Option<&'a Path>,
    /// Whether the model is already as the provider takes it best.
    is_rewritten: bool,
}

impl<'a> ModelSource<'a> {
    /// Returns the source of a model in memory.
    fn in_memory(bytes: &'a [u8]) -> ModelSource<'a> {
        ModelSource {
            bytes: Some(bytes),
            location: None,
            is_rewritten: false,
        }
    }

    /// Opens a session of the model.
    fn commit(&self, mut builder: SessionBuilder) -> ort::Result<OrtSession> {
        match (self.bytes, self.location) {
            (Some(bytes), None) => {
                tracing::debug!(bytes = bytes.len(), "a session is opened");
                builder.commit_from_memory(bytes)
            }
            (Some(bytes), Some(folder)) => {
                let key = "session.model_external_initializers_file_folder_path";
                builder
                    .with_config_entry(key, folder.display().to_string())?
                    .commit_from_memory(bytes)
            }
            (None, at) => builder.commit_from_file(at.unwrap_or(Path::new(""))),
        }
    }

    /// Returns a hash of the serialized model.
    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.bytes.hash(&mut hasher);
        hasher.finish()
    }

    /// Returns the model as the provider takes it best. The result is `None` if that is the model as
    /// it is, or if the model is too large to be inspected.
    fn rewritten(&self, file: &str, provider: Provider) -> Option<Vec<u8>> {
        let (Some(bytes), None) = (self.bytes, self.location) else {
            return None;
        };
        if self.is_rewritten || !provider.rewrites_graphs() {
            return None;
        }
        let graph = graph::Model::from_bytes(file, bytes).ok()?;
        provider.rewritten(&graph)?.to_bytes().ok()
    }

    /// Returns the distance between 1 and the next number in the coarsest number format of the
    /// model. If the model cannot be inspected, it is that of float32.
    fn coarsest_spacing(&self, file: &str) -> f64 {
        let graph = match (self.bytes, self.location) {
            (Some(bytes), None) => graph::Model::from_bytes(file, bytes),
            (_, Some(at)) if at.is_file() => graph::skim_onnx(at),
            _ => return f64::from(f32::EPSILON),
        };
        graph.map_or(f64::from(f32::EPSILON), |graph| graph.coarsest_spacing())
    }
}

/// The check of the first call of a graph on a provider other than the CPU.
struct FirstCallCheck {
    /// The key under which the result is stored.
    key: PlacementKey,
    /// The store of results, shared with the runtime.
    placement_cache: Arc<PlacementCache>,
    /// The profile of the session that makes the call.
    profile: SessionProfile,
    /// A session of the same graph on the CPU, if the CPU can run it.
    cpu_session: Option<OrtSession>,
    /// The lowest precision of the graph's numbers.
    precision: Precision,
}

impl FirstCallCheck {
    /// Counts the nodes of the call with the outputs `found`, and compares these with the CPU's.
    ///
    /// # Errors
    /// Fails if no node ran on the provider, if the outputs differ too much, or if there is no
    /// profile.
    fn run(
        mut self,
        session: &mut OrtSession,
        derivative: &str,
        fed: &[(&str, &InputTensor)],
        wanted: &[&str],
        found: &[ArrayD<f64>],
    ) -> Result<(), String> {
        let (provider, file, _) = &self.key;
        let written = session
            .end_profiling()
            .map_err(|e| format!("{file}: the runtime's profile: {}", e.message()))?;
        let counts = self
            .profile
            .node_counts(&written)
            .map_err(|e| format!("{file}: {e:#}"))?;
        let plain = self
            .cpu_session
            .as_mut()
            .and_then(|plain| run_session(plain, fed, wanted).ok());
        let gap = plain.map(|expected| max_output_difference(found, &expected));
        let placement = Placement {
            graph: format!("{file}{derivative}"),
            counts,
            max_difference: gap,
        };
        placement.check(*provider, self.precision)?;
        tracing::debug!(
            graph = placement.graph,
            placed = placement.describe(*provider),
            "a graph was placed"
        );
        self.placement_cache
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .insert(self.key, placement);
        Ok(())
    }
}

/// An input or output of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionPort {
    /// The graph's name of it.
    pub name: String,
    /// Its number format.
    pub format: TensorFormat,
    /// The sizes of its axes; −1 stands for a dynamic size.
    pub shape: Vec<i64>,
}

/// An opened network.
pub struct Session {
    /// The name of the file in messages.
    pub file: String,
    /// The graph's inputs.
    pub inputs: Vec<SessionPort>,
    /// The graph's outputs.
    pub outputs: Vec<SessionPort>,
    /// The session of the binding to ONNX Runtime.
    inner: OrtSession,
    /// The check of the first call, until that call is made.
    first_call: Option<FirstCallCheck>,
    /// The reason why the check of the first call failed.
    rejected: Option<String>,
    /// Whether repeated inputs are bound to the session, so that a provider with memory of its own
    /// copies them once.
    binds_repeated_inputs: bool,
}

impl Session {
    /// Reads the inputs and outputs of an opened session.
    ///
    /// # Errors
    /// Fails if one of them is not a tensor in a supported format.
    fn new(file: &str, inner: OrtSession) -> Result<Session> {
        let ports = |outlets: &[ort::value::Outlet]| -> Result<Vec<SessionPort>> {
            outlets
                .iter()
                .map(|o| session_port(o).with_context(|| file.to_owned()))
                .collect()
        };
        let (inputs, outputs) = (ports(inner.inputs())?, ports(inner.outputs())?);
        Ok(Session {
            file: file.to_owned(),
            inputs,
            outputs,
            inner,
            first_call: None,
            rejected: None,
            binds_repeated_inputs: false,
        })
    }

    /// Returns the input with the given name.
    pub fn input(&self, name: &str) -> Option<&SessionPort> {
        self.inputs.iter().find(|p| p.name == name)
    }

    /// Runs the network on the inputs `feeds` and returns the outputs `wanted`. Inputs and outputs
    /// are f64; they are converted from and to the network's own formats.
    ///
    /// # Errors
    /// Fails if ONNX Runtime refuses the call, if an output does not exist, if the check of the
    /// first call fails, or if a signal asked the program to stop.
    pub fn run(
        &mut self,
        feeds: Vec<(&str, ArrayViewD<f64>)>,
        wanted: &[&str],
    ) -> Result<Vec<ArrayD<f64>>, EvalError> {
        self.run_with(feeds, None, wanted)
    }

    /// Runs the network like [`Session::run`], with additional inputs that many calls take.
    ///
    /// # Errors
    /// Fails if ONNX Runtime refuses the call, if an output does not exist, if the check of the
    /// first call fails, or if a signal asked the program to stop.
    pub fn run_with(
        &mut self,
        feeds: Vec<(&str, ArrayViewD<f64>)>,
        mut repeated: Option<&mut RepeatedInputs>,
        wanted: &[&str],
    ) -> Result<Vec<ArrayD<f64>>, EvalError> {
        if stop::requested() {
            return Err(EvalError::Stopped);
        }
        if let Some(why) = &self.rejected {
            return Err(EvalError::Missing(why.clone()));
        }
        let mut owned = Vec::with_capacity(feeds.len());
        for (name, values) in &feeds {
            let format = self.input(name).map_or(TensorFormat::F32, |p| p.format);
            owned.push((*name, InputTensor::new(values, format)));
        }
        let fed: Vec<(&str, &InputTensor)> = owned.iter().map(|(name, fed)| (*name, fed)).collect();
        let outputs = if let Some(repeated) = &mut repeated
            && self.binds_repeated_inputs
        {
            repeated.run_bound(&mut self.inner, &fed, wanted)
        } else {
            run_session(&mut self.inner, &all_inputs(&fed, &repeated), wanted)
        };
        let outputs = outputs.map_err(|message| EvalError::Runtime {
            file: self.file.clone(),
            message,
        })?;
        if let Some(first_call) = self.first_call.take() {
            let derivative = derivative_description(&self.inputs, &self.outputs);
            let all = all_inputs(&fed, &repeated);
            let checked = first_call.run(&mut self.inner, derivative, &all, wanted, &outputs);
            self.rejected = checked.err();
        }
        match &self.rejected {
            Some(why) => Err(EvalError::Missing(why.clone())),
            None => Ok(outputs),
        }
    }

    /// Whether the check of the first call is still to come.
    pub fn awaits_first_call(&self) -> bool {
        self.first_call.is_some()
    }
}

/// Returns the inputs of one call, and those that many calls take.
fn all_inputs<'a>(
    fed: &[(&'a str, &'a InputTensor)],
    repeated: &'a Option<&mut RepeatedInputs>,
) -> Vec<(&'a str, &'a InputTensor)> {
    let repeated = repeated.iter().flat_map(|repeated| repeated.tensors());
    fed.iter().copied().chain(repeated).collect()
}

/// Describes the kind of derivative that a graph computes, from the names that differentiation
/// adds.
fn derivative_description(inputs: &[SessionPort], outputs: &[SessionPort]) -> &'static str {
    let adds = |suffix: &str| inputs.iter().any(|p| p.name.ends_with(suffix));
    let gives = |suffix: &str| outputs.iter().any(|p| p.name.ends_with(suffix));
    match () {
        () if gives("_trace_terms") => ", the trace of its Jacobian",
        () if gives("_jacobian") => ", its Jacobian",
        () if gives("_quadratic") || adds("_tangent") => ", its Jacobian products",
        () if adds("_cotangent") => ", its transposed Jacobian products",
        () => "",
    }
}

/// Reads an input or output of a session.
///
/// # Errors
/// Fails if it is not a tensor in a supported format.
fn session_port(outlet: &ort::value::Outlet) -> Result<SessionPort> {
    let name = outlet.name().to_owned();
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(anyhow!("`{name}` is not a tensor"));
    };
    let format = match ty {
        TensorElementType::Float16 => TensorFormat::F16,
        TensorElementType::Bfloat16 => TensorFormat::Bf16,
        TensorElementType::Float32 => TensorFormat::F32,
        TensorElementType::Float64 => TensorFormat::F64,
        TensorElementType::Int32 => TensorFormat::I32,
        TensorElementType::Int64 => TensorFormat::I64,
        TensorElementType::Bool => TensorFormat::Bool,
        other => {
            let expected = "a floating-point format, int32, int64 or bool";
            return Err(anyhow!(
                "`{name}` has element type {other:?}, expected {expected}"
            ));
        }
    };
    Ok(SessionPort {
        name,
        format,
        shape: shape.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_fallen_back_to_cpu_is_refused() {
        let runtime = Runtime::get(None).expect("ONNX Runtime is found or fetched");
        let bytes = include_bytes!("../../models/mixture/denoiser.onnx");
        let source = ModelSource::in_memory(bytes);
        let first_call = runtime
            .first_call_check("fallen.onnx", &source, Provider::Openvino, 1)
            .expect("a check")
            .expect("a first one");
        // This is the case of a library that lists a provider and cannot load it: only the CPU is
        // left in the session.
        let builder = runtime
            .builder(Provider::Cpu, 1)
            .and_then(|b| Ok(b.with_profiling(first_call.profile.prefix())?));
        let mut session = builder
            .and_then(|b| source.commit(b))
            .map(|s| Session::new("fallen.onnx", s))
            .expect("it opens")
            .expect("ports");
        session.first_call = Some(first_call);
        let (x, sigma) = (
            ArrayD::from_elem(vec![4, 8], 0.3),
            ArrayD::from_elem(vec![4], 1.0),
        );
        for _ in 0..2 {
            let refused = session
                .run(
                    vec![("x", x.view()), ("sigma", sigma.view())],
                    &["denoised"],
                )
                .expect_err("refused");
            let message = refused.to_string();
            for word in [
                "fallen.onnx: --provider openvino",
                "none of its nodes runs there",
                "OpenVINOExecutionProvider: 0",
            ] {
                assert!(message.contains(word), "{message}");
            }
            assert!(!message.contains("CPUExecutionProvider: 0"), "{message}");
        }
        assert!(
            runtime
                .placements()
                .iter()
                .all(|p| p.graph != "fallen.onnx")
        );
    }

    /// Inputs that stay bound to a session are the inputs that it would get anew at each call.
    #[test]
    fn bound_inputs_give_what_fed_inputs_give() {
        let runtime = Runtime::get(None).expect("ONNX Runtime is found or fetched");
        let bytes = include_bytes!("../../models/mixture/denoiser.onnx");
        let mut session = runtime
            .open("denoiser.onnx", bytes, Provider::Cpu, 1)
            .expect("it opens");
        session.binds_repeated_inputs = true;
        let states = [0.3, -0.7].map(|v| ArrayD::from_elem(vec![4, 8], v));
        let mut repeated = states.each_ref().map(|x| {
            let x = InputTensor::new(&x.view(), TensorFormat::F32);
            RepeatedInputs::new(vec![("x".to_owned(), x)])
        });
        for level in [0.5, 1.0, 2.0] {
            let sigma = ArrayD::from_elem(vec![4], level);
            for (x, repeated) in states.iter().zip(&mut repeated) {
                let fed = vec![("x", x.view()), ("sigma", sigma.view())];
                let expected = session.run(fed, &["denoised"]).expect("a call");
                let fed = || vec![("sigma", sigma.view())];
                let bound = session.run_with(fed(), Some(repeated), &["denoised"]);
                assert_eq!(bound.expect("a call"), expected, "at level {level}");
                let unknown = session.run_with(fed(), Some(repeated), &["noised"]);
                let message = unknown.expect_err("refused").to_string();
                assert!(message.contains("no output `noised`"), "{message}");
            }
        }
    }

    #[test]
    fn derivative_is_recognized_by_port_suffixes() {
        let port = |name: &str| SessionPort {
            name: name.to_owned(),
            format: TensorFormat::F32,
            shape: vec![-1, 8],
        };
        assert_eq!(
            derivative_description(&[port("x"), port("sigma")], &[port("v")]),
            ""
        );
        assert_eq!(
            derivative_description(&[port("x"), port("x_tangent")], &[port("v")]),
            ", its Jacobian products"
        );
        assert_eq!(
            derivative_description(&[port("x")], &[port("v"), port("v_trace_terms")]),
            ", the trace of its Jacobian"
        );
        assert_eq!(
            derivative_description(&[port("x")], &[port("v"), port("v_jacobian")]),
            ", its Jacobian"
        );
        assert_eq!(
            derivative_description(&[port("x"), port("d.MatMul.1")], &[port("v_quadratic")]),
            ", its Jacobian products"
        );
        assert_eq!(
            derivative_description(&[port("x"), port("v_cotangent")], &[port("v")]),
            ", its transposed Jacobian products"
        );
    }
}
