//! ONNX Runtime sessions: the only place where networks run and where f64 meets f32.

use std::path::Path;
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result, anyhow};
use half::{bf16, f16};
use ndarray::{ArrayD, ArrayViewD};
use ort::environment::Environment;
use ort::ep;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session as OrtSession, SessionInputValue};
use ort::value::{TensorElementType, TensorRef, ValueType};
use serde::{Deserialize, Serialize};

use super::library::{self, Library};
use crate::flow::field::EvalError;
use crate::stop;

/// Where networks run; strict: what was asked for, or an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    #[default]
    Cpu,
    Cuda,
    Tensorrt,
}

/// The loaded runtime: one per process.
pub struct Runtime {
    environment: Environment,
    pub library: Library,
}

static RUNTIME: OnceLock<Runtime> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

impl Runtime {
    /// The process's runtime, found and started on first use.
    ///
    /// # Errors
    /// As [`library::find`], or where the library refuses to start.
    pub fn get(named: Option<&Path>) -> Result<&'static Runtime> {
        let _guard = STARTING.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(runtime) = RUNTIME.get() {
            return Ok(runtime);
        }
        let library = library::find(named)?;
        let environment = ort::init_from(&library.path)
            .map_err(|e| anyhow!("{}: {e}", library.path.display()))?
            .with_telemetry(false)
            .build()
            .map_err(|e| anyhow!("{}: ONNX Runtime did not start: {}", library.path.display(), e.message()))?;
        environment.set_log_level(ort::logging::LogLevel::Fatal);
        Ok(RUNTIME.get_or_init(|| Runtime { environment, library }))
    }

    /// Execution providers that this library was built with, of those this program knows.
    pub fn providers(&self) -> Vec<(Provider, bool)> {
        use ep::ExecutionProvider;
        let there = |e: ort::Result<bool>| e.unwrap_or(false);
        vec![
            (Provider::Cpu, true),
            (Provider::Cuda, there(ep::CUDA::is_available())),
            (Provider::Tensorrt, there(ep::TensorRT::is_available())),
        ]
    }

    /// Opens a model held in memory; `file` names it in messages.
    ///
    /// # Errors
    /// Where the provider is not there or the runtime cannot load the model.
    pub fn open(&self, file: &str, bytes: &[u8], provider: Provider, threads: usize) -> Result<Session> {
        self.open_bytes(file, bytes, self.builder(provider, threads))
    }

    /// Opens a model held in memory whose weights lie in files of a folder: what was derived from one that is too large
    /// for one message.
    ///
    /// # Errors
    /// As [`Runtime::open`].
    pub fn open_beside(
        &self,
        file: &str,
        bytes: &[u8],
        folder: &Path,
        provider: Provider,
        threads: usize,
    ) -> Result<Session> {
        let folder = if folder == Path::new("") { Path::new(".") } else { folder };
        let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
        let builder = self.builder(provider, threads).and_then(|b| {
            Ok(b.with_config_entry(
                "session.model_external_initializers_file_folder_path",
                folder.display().to_string(),
            )?)
        });
        self.open_bytes(file, bytes, builder)
    }

    fn open_bytes(&self, file: &str, bytes: &[u8], builder: ort::Result<SessionBuilder>) -> Result<Session> {
        tracing::debug!(file, bytes = bytes.len(), "a session is opened");
        let session = builder
            .and_then(|mut b| b.commit_from_memory(bytes))
            .map_err(|e| anyhow!("{file}: ONNX Runtime cannot load it: {}", e.message()))?;
        Session::new(file, session)
    }

    /// Opens a model where it lies, with the external data beside it: for what is too large for one message.
    ///
    /// # Errors
    /// As [`Runtime::open`].
    pub fn open_file(&self, path: &Path, provider: Provider, threads: usize) -> Result<Session> {
        let file = path.display().to_string();
        let session = self
            .builder(provider, threads)
            .and_then(|mut b| b.commit_from_file(path))
            .map_err(|e| anyhow!("{file}: ONNX Runtime cannot load it: {}", e.message()))?;
        Session::new(&file, session)
    }

    fn builder(&self, provider: Provider, threads: usize) -> ort::Result<SessionBuilder> {
        let plain = OrtSession::builder(&self.environment)?
            .with_intra_threads(threads.max(1))?
            // Spinning threads halve the speed of a machine that others use as well.
            .with_intra_op_spinning(false)?
            // Patterns keep every batch's buffers: on tangent graphs they double the peak memory.
            .with_memory_pattern(false)?
            // Products with weights of four bits would round the state to eight.
            .with_config_entry("session.qdq_matmulnbits_accuracy_level", "1")?
            // `All` and not `Level3`: libraries before 1.23 refuse the latter.
            .with_optimization_level(GraphOptimizationLevel::All)?;
        // Without error_on_failure a missing provider falls back to the CPU in silence.
        Ok(match provider {
            Provider::Cpu => plain,
            Provider::Cuda => plain.with_execution_providers([cuda()])?,
            Provider::Tensorrt => {
                let tensorrt = ep::TensorRT::default().build().error_on_failure();
                plain.with_execution_providers([tensorrt, cuda()])?
            }
        })
    }
}

/// CUDA with a convolution search that does not change from run to run, and without TF32.
fn cuda() -> ep::ExecutionProviderDispatch {
    ep::CUDA::default()
        .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
        .with_tf32(false)
        .build()
        .error_on_failure()
}

/// Number formats of a network's ports that this program feeds and reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    F16,
    Bf16,
    F32,
    F64,
    I32,
    I64,
    Bool,
}

/// One input or output of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    pub name: String,
    pub format: Format,
    /// −1 where the size is dynamic.
    pub shape: Vec<i64>,
}

/// An opened network.
pub struct Session {
    pub file: String,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    inner: OrtSession,
}

impl Session {
    fn new(file: &str, inner: OrtSession) -> Result<Session> {
        let ports = |outlets: &[ort::value::Outlet]| -> Result<Vec<Port>> {
            outlets.iter().map(|o| port(o).with_context(|| file.to_owned())).collect()
        };
        let (inputs, outputs) = (ports(inner.inputs())?, ports(inner.outputs())?);
        Ok(Session { file: file.to_owned(), inputs, outputs, inner })
    }

    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<&Port> {
        self.inputs.iter().find(|p| p.name == name)
    }

    /// Runs the network; f64 in, f64 out, the network's own format in between.
    ///
    /// # Errors
    /// Where the runtime refuses the call or an output is not there, and where a signal has asked the program to stop.
    pub fn run(&mut self, feeds: Vec<(&str, ArrayViewD<f64>)>, wanted: &[&str]) -> Result<Vec<ArrayD<f64>>, EvalError> {
        self.run_with(feeds, &[], wanted)
    }

    /// The same, with further inputs that are in the network's format already.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_with(
        &mut self,
        feeds: Vec<(&str, ArrayViewD<f64>)>,
        ready: &[(&str, &Fed)],
        wanted: &[&str],
    ) -> Result<Vec<ArrayD<f64>>, EvalError> {
        if stop::asked() {
            return Err(EvalError::Stopped);
        }
        let refused = |file: &str, message: String| EvalError::Runtime { file: file.to_owned(), message };
        let file = self.file.clone();
        let mut owned = Vec::with_capacity(feeds.len());
        for (name, values) in &feeds {
            let format = self.input(name).map_or(Format::F32, |p| p.format);
            owned.push((*name, Fed::new(values, format)));
        }
        let mut inputs: Vec<(&str, SessionInputValue)> = Vec::with_capacity(feeds.len());
        for (name, fed) in owned.iter().map(|(name, fed)| (*name, fed)).chain(ready.iter().copied()) {
            inputs.push((name, fed.value().map_err(|e| refused(&file, e.message().to_owned()))?));
        }
        let outputs = self.inner.run(inputs).map_err(|e| refused(&file, e.message().to_owned()))?;
        wanted
            .iter()
            .map(|name| {
                let value = outputs.get(name).ok_or_else(|| refused(&file, format!("it gave no output `{name}`")))?;
                let read = match element(value.dtype()) {
                    Some(TensorElementType::Float64) => value.try_extract_array::<f64>().map(|a| a.to_owned()),
                    Some(TensorElementType::Float16) => value.try_extract_array::<f16>().map(|a| a.mapv(f16::to_f64)),
                    Some(TensorElementType::Bfloat16) => {
                        value.try_extract_array::<bf16>().map(|a| a.mapv(bf16::to_f64))
                    }
                    Some(TensorElementType::Int32) => value.try_extract_array::<i32>().map(|a| a.mapv(f64::from)),
                    Some(TensorElementType::Int64) => value.try_extract_array::<i64>().map(|a| a.mapv(|v| v as f64)),
                    Some(TensorElementType::Bool) => {
                        value.try_extract_array::<bool>().map(|a| a.mapv(|v| f64::from(u8::from(v))))
                    }
                    _ => value.try_extract_array::<f32>().map(|a| a.mapv(f64::from)),
                };
                read.map_err(|e| refused(&file, e.message().to_owned()))
            })
            .collect()
    }
}

/// An input array in the network's format.
pub enum Fed {
    F16(ArrayD<f16>),
    Bf16(ArrayD<bf16>),
    F32(ArrayD<f32>),
    F64(ArrayD<f64>),
    I32(ArrayD<i32>),
    I64(ArrayD<i64>),
    Bool(ArrayD<bool>),
}

impl Fed {
    /// The numbers rounded to a format.
    pub fn new(values: &ArrayViewD<f64>, format: Format) -> Fed {
        match format {
            Format::F16 => Fed::F16(values.mapv(f16::from_f64).as_standard_layout().into_owned()),
            Format::Bf16 => Fed::Bf16(values.mapv(bf16::from_f64).as_standard_layout().into_owned()),
            Format::F32 => Fed::F32(values.mapv(|v| v as f32).as_standard_layout().into_owned()),
            Format::F64 => Fed::F64(values.as_standard_layout().into_owned()),
            Format::I32 => Fed::I32(values.mapv(|v| v.round() as i32).as_standard_layout().into_owned()),
            Format::I64 => Fed::I64(values.mapv(|v| v.round() as i64).as_standard_layout().into_owned()),
            Format::Bool => Fed::Bool(values.mapv(|v| v != 0.0).as_standard_layout().into_owned()),
        }
    }

    fn value(&self) -> ort::Result<SessionInputValue<'_>> {
        Ok(match self {
            Fed::F16(a) => TensorRef::from_array_view(a.view())?.into(),
            Fed::Bf16(a) => TensorRef::from_array_view(a.view())?.into(),
            Fed::F32(a) => TensorRef::from_array_view(a.view())?.into(),
            Fed::F64(a) => TensorRef::from_array_view(a.view())?.into(),
            Fed::I32(a) => TensorRef::from_array_view(a.view())?.into(),
            Fed::I64(a) => TensorRef::from_array_view(a.view())?.into(),
            Fed::Bool(a) => TensorRef::from_array_view(a.view())?.into(),
        })
    }
}

fn element(value: &ValueType) -> Option<TensorElementType> {
    match value {
        ValueType::Tensor { ty, .. } => Some(*ty),
        _ => None,
    }
}

fn port(outlet: &ort::value::Outlet) -> Result<Port> {
    let name = outlet.name().to_owned();
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(anyhow!("`{name}` is not a tensor"));
    };
    let format = match ty {
        TensorElementType::Float16 => Format::F16,
        TensorElementType::Bfloat16 => Format::Bf16,
        TensorElementType::Float32 => Format::F32,
        TensorElementType::Float64 => Format::F64,
        TensorElementType::Int32 => Format::I32,
        TensorElementType::Int64 => Format::I64,
        TensorElementType::Bool => Format::Bool,
        other => {
            let expected = "a floating-point format, int32, int64 or bool";
            return Err(anyhow!("`{name}` has element type {other:?}, expected {expected}"));
        }
    };
    Ok(Port { name, format, shape: shape.to_vec() })
}
