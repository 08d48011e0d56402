//! Execution providers of ONNX Runtime: their names, the options of their sessions, and the
//! messages for providers that cannot be used.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use ort::ep::{
    self, ArbitrarilyConfigurableExecutionProvider, ExecutionProvider, ExecutionProviderDispatch,
};
use serde::{Deserialize, Serialize};

use super::shared_library::{
    CUDA_DRIVER_LIBRARY, RuntimeLibrary, cuda_device_count, library_load_error,
};
use crate::graph;
use crate::host::user_cache_folder;

/// The execution provider on which networks run. There is no silent fallback: a provider that
/// cannot be used is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// ONNX Runtime's own kernels for the CPU.
    #[default]
    Cpu,
    /// Intel's OpenVINO on the CPU.
    Openvino,
    /// CUDA on a GPU of NVIDIA.
    Cuda,
    /// TensorRT on a GPU of NVIDIA.
    Tensorrt,
}

/// OpenVINO's options that exclude a loss of accuracy: half precision, which it uses on processors
/// that support it, and dynamic quantization. Threads are not pinned, because several sessions
/// would be pinned to the same cores.
const OPENVINO_CPU_CONFIG: &str = r#"{"CPU": {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY", "ENABLE_CPU_PINNING": "NO"}}"#;

/// Whether ONNX Runtime's kernels on this kind of processor keep images in blocks of channels. Only
/// then are convolutions with fewer products faster.
const BLOCKED_IMAGES: bool = cfg!(target_arch = "x86_64");

impl Provider {
    /// All supported providers.
    pub const ALL: [Provider; 4] = [
        Provider::Cpu,
        Provider::Openvino,
        Provider::Cuda,
        Provider::Tensorrt,
    ];

    /// Returns the name that users write.
    pub fn name(self) -> &'static str {
        match self {
            Provider::Cpu => "cpu",
            Provider::Openvino => "openvino",
            Provider::Cuda => "cuda",
            Provider::Tensorrt => "tensorrt",
        }
    }

    /// Returns the provider with the given name.
    ///
    /// # Errors
    /// Fails if there is none. The message lists the names of all providers.
    pub fn from_name(name: &str) -> Result<Provider, String> {
        let found = Provider::ALL
            .into_iter()
            .find(|provider| provider.name() == name);
        found.ok_or_else(|| {
            format!(
                "expected {}",
                join_alternatives(&Provider::ALL.map(Provider::name))
            )
        })
    }

    /// Returns ONNX Runtime's name of the provider, which its profiles use as well.
    pub fn runtime_name(self) -> &'static str {
        match self {
            Provider::Cpu => ep::CPU::NAME,
            Provider::Openvino => ep::OpenVINO::NAME,
            Provider::Cuda => ep::CUDA::NAME,
            Provider::Tensorrt => ep::TensorRT::NAME,
        }
    }

    /// Whether the provider runs on the CPU, so that workers share the machine's threads.
    pub fn runs_on_cpu(self) -> bool {
        matches!(self, Provider::Cpu | Provider::Openvino)
    }

    /// Returns the Python package whose library has the provider.
    pub fn pip_package(self) -> &'static str {
        match self {
            Provider::Cpu => "onnxruntime",
            Provider::Openvino => "onnxruntime-openvino",
            Provider::Cuda | Provider::Tensorrt => "onnxruntime-gpu",
        }
    }

    /// Returns the path of the provider's file, which lies beside the runtime at `library`.
    fn library_file(self, library: &Path) -> PathBuf {
        let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        library.with_file_name(format!(
            "{prefix}onnxruntime_providers_{}{suffix}",
            self.name()
        ))
    }

    /// Whether the runtime at `library` comes with this provider. All providers except the CPU's
    /// are files beside the runtime.
    pub fn is_installed_beside(self, library: &Path) -> bool {
        self == Provider::Cpu || self.library_file(library).is_file()
    }

    /// Whether the loaded library was built with the provider. This does not mean that the provider
    /// can be used.
    pub(super) fn is_built_in(self) -> bool {
        let known = match self {
            Provider::Cpu => return true,
            Provider::Openvino => ep::OpenVINO::is_available(),
            Provider::Cuda => ep::CUDA::is_available(),
            Provider::Tensorrt => ep::TensorRT::is_available(),
        };
        known.unwrap_or(false)
    }

    /// Returns the providers that a session tries for its nodes, in this order, before the CPU. A
    /// session cannot be opened unless all of them register.
    pub(super) fn execution_providers(self, threads: usize) -> Vec<ExecutionProviderDispatch> {
        let tried = match self {
            Provider::Cpu => vec![],
            Provider::Openvino => vec![openvino(threads)],
            Provider::Cuda => vec![cuda()],
            Provider::Tensorrt => vec![tensorrt(), cuda()],
        };
        // Without `error_on_failure` a missing provider silently falls back to the CPU.
        tried
            .into_iter()
            .map(ExecutionProviderDispatch::error_on_failure)
            .collect()
    }

    /// Returns the end of a message about ONNX Runtime that names the provider.
    pub(super) fn message_suffix(self) -> String {
        if self == Provider::Cpu {
            String::new()
        } else {
            format!(" with --provider {}", self.name())
        }
    }

    /// Returns the provider's own part of a message of ONNX Runtime, without the source positions
    /// that ONNX Runtime puts in front of it.
    pub(super) fn provider_message(self, message: &str) -> &str {
        let own = if self == Provider::Openvino {
            message.rsplit("[OpenVINO-EP] ").next()
        } else {
            None
        };
        own.unwrap_or(message).trim()
    }

    /// Returns whether [`Provider::rewritten`] changes graphs.
    pub(super) fn rewrites_graphs(self) -> bool {
        match self {
            Provider::Cpu => BLOCKED_IMAGES,
            Provider::Openvino => true,
            Provider::Cuda | Provider::Tensorrt => false,
        }
    }

    /// Returns a graph as the provider takes it best: on the CPU with fewer products in
    /// convolutions, and with OpenVINO, which confuses the uses of a weight that a graph uses in
    /// several ways, with a copy for each use. The result is `None` if that is the graph as it is.
    pub(super) fn rewritten(self, graph: &graph::Model) -> Option<graph::Model> {
        match self {
            Provider::Cpu if BLOCKED_IMAGES => graph.with_winograd_convolutions(),
            Provider::Openvino => graph.with_separate_weights(),
            Provider::Cpu | Provider::Cuda | Provider::Tensorrt => None,
        }
    }

    /// Prepares the process before ONNX Runtime is loaded for this provider.
    pub(super) fn prepare_process(self) {
        if self != Provider::Tensorrt {
            return;
        }
        // SAFETY: the runtime is not loaded yet, and this program starts no thread that reads the
        // environment. ONNX Runtime has no option that disables TF32 for TensorRT.
        unsafe { std::env::set_var("NVIDIA_TF32_OVERRIDE", "0") };
        if let Err(error) =
            tensorrt_engine_folder().and_then(|folder| Ok(std::fs::create_dir_all(folder)?))
        {
            errln!("flowgauge: TensorRT's engines cannot be cached: {error:#}");
        }
    }

    /// Checks that the library has the provider and that it can be used. `error` is ONNX Runtime's
    /// message if the provider did not register.
    ///
    /// # Errors
    /// Fails if the provider cannot be used. The message names the provider, the library, what is
    /// missing and the remedy.
    pub(super) fn check(self, library: &RuntimeLibrary, error: Option<&str>) -> Result<()> {
        let (name, at) = (self.name(), library.path.display());
        if !self.is_built_in() {
            let there: Vec<&str> = Provider::ALL
                .into_iter()
                .filter(|p| p.is_built_in())
                .map(Provider::name)
                .collect();
            bail!(
                "--provider {name}: ONNX Runtime {} at {at} was built without it; expected {}, or \
                 another library, from `pip install {}` in the active Python environment or from \
                 --ort-lib",
                library.version,
                there.join(" or "),
                self.pip_package()
            );
        }
        let missing = self.missing_requirements(library, error);
        if missing.is_empty() {
            return Ok(());
        }
        bail!(
            "--provider {name}: ONNX Runtime {} at {at} has it, but it cannot be used here; {}; {}",
            library.version,
            missing.join("; "),
            self.remedy(&library.version)
        )
    }

    /// Lists what is missing for a provider that the library was built with. `error` is ONNX
    /// Runtime's message if the provider did not register.
    pub(super) fn missing_requirements(
        self,
        library: &RuntimeLibrary,
        error: Option<&str>,
    ) -> Vec<String> {
        let found = error.map(|error| {
            // OpenVINO's message does not contain the reason.
            let no_reason = error.contains("Failed to load provider");
            match no_reason.then(|| library_load_error(&self.library_file(&library.path))) {
                Some(Some(why)) => missing_library_message(&why),
                Some(None) => format!(
                    "the libraries that it needs can be loaded, but it does not start ({})",
                    error.trim()
                ),
                None => missing_library_message(error),
            }
        });
        if self.runs_on_cpu() {
            return found
                .map(|file| format!("library: {file}"))
                .into_iter()
                .collect();
        }
        let gpu = missing_gpu_message(cuda_device_count());
        // A missing library of the driver is reported as the missing driver.
        let found = found.filter(|file| gpu.is_none() || !file.starts_with(CUDA_DRIVER_LIBRARY));
        found
            .map(|file| format!("library: {file}"))
            .into_iter()
            .chain(gpu)
            .collect()
    }

    /// Returns a hint on how to get a library with the provider, for the end of a message.
    pub(super) fn install_hint(self) -> &'static str {
        match self {
            Provider::Openvino => "; --provider openvino fetches one that has it",
            _ => "",
        }
    }

    /// Returns what would make the provider usable, for a message. `version` is that of the
    /// library.
    fn remedy(self, version: &str) -> String {
        let package = self.pip_package();
        match self {
            Provider::Cpu | Provider::Openvino => {
                format!("expected all libraries of `{package}` in one folder, or --provider cpu")
            }
            Provider::Cuda => format!(
                "expected a GPU of NVIDIA with its driver, and CUDA and cuDNN on the library path \
                 (`pip install \"{package}[cuda,cudnn]=={version}\"`, then LD_LIBRARY_PATH), or \
                 --provider cpu"
            ),
            Provider::Tensorrt => format!(
                "expected a GPU of NVIDIA with its driver, and CUDA, cuDNN and TensorRT on the \
                 library path (`pip install \"{package}[cuda,cudnn]=={version}\" tensorrt`, then \
                 LD_LIBRARY_PATH), or --provider cuda or cpu"
            ),
        }
    }
}

/// Returns OpenVINO on the CPU, in single precision throughout.
fn openvino(threads: usize) -> ExecutionProviderDispatch {
    ep::OpenVINO::default()
        .with_device_type("CPU")
        .with_precision("FP32")
        .with_num_threads(threads.max(1))
        .with_arbitrary_config("load_config", OPENVINO_CPU_CONFIG)
        .build()
}

/// Returns CUDA without TF32, and with a choice of convolution algorithms that is the same in every
/// run.
fn cuda() -> ExecutionProviderDispatch {
    ep::CUDA::default()
        .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
        .with_tf32(false)
        .build()
}

/// Returns TensorRT with a cache of its engines, because building an engine takes minutes.
fn tensorrt() -> ExecutionProviderDispatch {
    let plain = ep::TensorRT::default().with_fp16(false).with_int8(false);
    match tensorrt_engine_folder() {
        Ok(folder) => plain
            .with_engine_cache(true)
            .with_engine_cache_path(folder.display())
            .build(),
        Err(_) => plain.build(),
    }
}

/// Returns the cache folder of TensorRT's engines.
///
/// # Errors
/// Fails if the user has no cache folder.
fn tensorrt_engine_folder() -> Result<PathBuf> {
    Ok(user_cache_folder()?.join("tensorrt"))
}

/// Returns the library that a message of ONNX Runtime reports as missing, such as
/// `libcublas.so.13 is missing, which … needs`.
fn missing_library_message(message: &str) -> String {
    let message = message.trim();
    if let Some(at) = message.find("CUDA failure") {
        return message[at..]
            .split(" ; ")
            .next()
            .unwrap_or_default()
            .to_owned();
    }
    let Some((_, after)) = message.split_once("Failed to load library ") else {
        return message.to_owned();
    };
    let Some((needing, why)) = after.split_once(" with error: ") else {
        return message.to_owned();
    };
    let needing = Path::new(needing)
        .file_name()
        .map(|n| n.to_string_lossy())
        .unwrap_or_default();
    match why.split_once(": cannot open shared object file") {
        Some((missing, _)) if missing.ends_with(needing.as_ref()) => {
            format!("{needing} is missing")
        }
        Some((missing, _)) => format!("{missing} is missing, which {needing} needs"),
        None => format!("{needing} cannot be loaded: {}", why.trim()),
    }
}

/// Describes what is missing for a GPU: the driver or a device. `device_count` is the number of
/// devices that the driver reports.
fn missing_gpu_message(device_count: Result<usize, String>) -> Option<String> {
    match device_count {
        Err(why) => Some(format!(
            "driver: {why}; device: no device can be found without a driver"
        )),
        Ok(0) => Some("device: the driver reports none".to_owned()),
        Ok(_) => None,
    }
}

/// Joins names to a list of alternatives, such as `cpu, openvino or cuda`.
fn join_alternatives(names: &[&str]) -> String {
    match names {
        [before @ .., last] if !before.is_empty() => format!("{} or {last}", before.join(", ")),
        _ => names.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provider_names_are_unique() {
        for provider in Provider::ALL {
            assert_eq!(Provider::from_name(provider.name()), Ok(provider));
            assert_eq!(
                serde_json::to_value(provider).expect("a name"),
                provider.name()
            );
            assert!(provider.runtime_name().ends_with("ExecutionProvider"));
            assert_eq!(
                Provider::ALL
                    .iter()
                    .filter(|p| p.runtime_name() == provider.runtime_name())
                    .count(),
                1
            );
        }
        assert_eq!(
            Provider::from_name("gpu"),
            Err("expected cpu, openvino, cuda or tensorrt".to_owned())
        );
    }

    #[test]
    fn requested_provider_is_tried_first() {
        for provider in Provider::ALL {
            let tried: Vec<&str> = provider
                .execution_providers(2)
                .iter()
                .map(|ep| ep.name())
                .collect();
            assert_eq!(
                tried.first().copied().unwrap_or(ep::CPU::NAME),
                provider.runtime_name()
            );
        }
    }

    #[test]
    fn openvino_config_requests_single_precision() {
        let config: serde_json::Value = serde_json::from_str(OPENVINO_CPU_CONFIG).expect("JSON");
        assert_eq!(config["CPU"]["INFERENCE_PRECISION_HINT"], "f32");
        assert_eq!(config["CPU"]["EXECUTION_MODE_HINT"], "ACCURACY");
    }

    #[test]
    fn provider_library_is_found_beside_runtime() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let runtime = folder.path().join("libonnxruntime.so.1.24.1");
        assert!(
            Provider::Cpu.is_installed_beside(&runtime)
                && !Provider::Openvino.is_installed_beside(&runtime)
        );
        let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        std::fs::write(
            folder
                .path()
                .join(format!("{prefix}onnxruntime_providers_openvino{suffix}")),
            b"",
        )
        .expect("written");
        assert!(
            Provider::Openvino.is_installed_beside(&runtime)
                && !Provider::Cuda.is_installed_beside(&runtime)
        );
    }

    /// The errors are those of ONNX Runtime 1.31.1 and 1.24.1.
    #[test]
    fn missing_library_is_parsed_from_runtime_error() {
        let cuda = "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 \
                    onnxruntime::Provider& onnxruntime::ProviderLibrary::Get() \
                    [ONNXRuntimeError] : 1 : FAIL : Failed to load library \
                    /there/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot \
                    open shared object file: No such file or directory\n";
        assert_eq!(
            missing_library_message(cuda),
            "libcublasLt.so.13 is missing, which libonnxruntime_providers_cuda.so needs"
        );
        let broken = "FAIL : Failed to load library \
                      /there/libonnxruntime_providers_openvino.so with error: \
                      /there/libopenvino.so.2541: file too short";
        let expected = "libonnxruntime_providers_openvino.so cannot be loaded: \
                        /there/libopenvino.so.2541: file too short";
        assert_eq!(missing_library_message(broken), expected);
        let gone = "Failed to load library /there/liba.so with error: /there/liba.so: cannot open \
                    shared object file";
        assert_eq!(missing_library_message(gone), "liba.so is missing");
        let old = "/onnxruntime_src/cuda_call.cc:146 onnxruntime::CudaCall() CUDA failure 35: \
                   CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; \
                   hostname=there ; file=cuda_execution_provider.cc";
        let expected =
            "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version";
        assert_eq!(missing_library_message(old), expected);
        assert_eq!(
            missing_library_message(" something else \n"),
            "something else"
        );
    }

    #[test]
    fn openvino_message_is_extracted() {
        let message = "Exception during initialization: /there/basic_backend.cc:136 BasicBackend() \
                       /there/ov_interface.cc:28 OvExceptionBoundary() [OpenVINO-EP] Exception \
                       while Reading network: OpenVINO does not support the following ONNX \
                       operations: Attention\n\n";
        let own = "Exception while Reading network: OpenVINO does not support the following ONNX \
                   operations: Attention";
        assert_eq!(Provider::Openvino.provider_message(message), own);
        assert_eq!(Provider::Cpu.provider_message(message), message.trim());
        assert_eq!(
            (
                Provider::Cpu.message_suffix(),
                Provider::Cuda.message_suffix()
            ),
            (String::new(), " with --provider cuda".to_owned())
        );
    }

    #[test]
    fn missing_gpu_names_driver_or_device() {
        let message = missing_gpu_message(Err("libcuda.so.1 is missing".to_owned()))
            .expect("something is missing");
        assert!(
            message.starts_with("driver: libcuda.so.1 is missing") && message.contains("device"),
            "{message}"
        );
        assert_eq!(
            missing_gpu_message(Ok(0)).as_deref(),
            Some("device: the driver reports none")
        );
        assert_eq!(missing_gpu_message(Ok(1)), None);
    }
}
