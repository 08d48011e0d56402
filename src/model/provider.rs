//! Execution providers: where networks run, what each is called, how a session is told to use it, and what is said where
//! it cannot be used.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use ort::ep::{
    self, ArbitrarilyConfigurableExecutionProvider, ExecutionProvider, ExecutionProviderDispatch,
};
use serde::{Deserialize, Serialize};

use super::library::{
    CUDA_DRIVER_LIBRARY, RuntimeLibrary, cuda_device_count, library_load_error, user_cache_folder,
};

/// Where networks run; strict: what was asked for, or an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    #[default]
    Cpu,
    Openvino,
    Cuda,
    Tensorrt,
}

/// Everything about OpenVINO's processor that could cost accuracy: half precision where the processor has it, and
/// dynamic quantization. Threads are not pinned, since several sessions would be pinned to the same cores.
const OPENVINO_CPU_CONFIG: &str = r#"{"CPU": {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY", "ENABLE_CPU_PINNING": "NO"}}"#;

impl Provider {
    /// Every provider that this program knows.
    pub const ALL: [Provider; 4] = [
        Provider::Cpu,
        Provider::Openvino,
        Provider::Cuda,
        Provider::Tensorrt,
    ];

    /// The name that users write.
    pub fn name(self) -> &'static str {
        match self {
            Provider::Cpu => "cpu",
            Provider::Openvino => "openvino",
            Provider::Cuda => "cuda",
            Provider::Tensorrt => "tensorrt",
        }
    }

    /// The provider of that name.
    ///
    /// # Errors
    /// The names that there are.
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

    /// The name that the runtime gives it, in its profiles as well.
    pub fn runtime_name(self) -> &'static str {
        match self {
            Provider::Cpu => ep::CPU::NAME,
            Provider::Openvino => ep::OpenVINO::NAME,
            Provider::Cuda => ep::CUDA::NAME,
            Provider::Tensorrt => ep::TensorRT::NAME,
        }
    }

    /// Whether it runs on the processor itself, so that workers share the machine's threads.
    pub fn runs_on_cpu(self) -> bool {
        matches!(self, Provider::Cpu | Provider::Openvino)
    }

    /// The package that brings a library with it.
    pub fn pip_package(self) -> &'static str {
        match self {
            Provider::Cpu => "onnxruntime",
            Provider::Openvino => "onnxruntime-openvino",
            Provider::Cuda | Provider::Tensorrt => "onnxruntime-gpu",
        }
    }

    /// The file beside the runtime at `library` that holds this provider.
    fn library_file(self, library: &Path) -> PathBuf {
        let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        library.with_file_name(format!(
            "{prefix}onnxruntime_providers_{}{suffix}",
            self.name()
        ))
    }

    /// Whether the runtime at `library` comes with this provider: every other than the CPU's lies in a file beside it.
    pub fn is_installed_beside(self, library: &Path) -> bool {
        self == Provider::Cpu || self.library_file(library).is_file()
    }

    /// Whether the loaded library was built with it, which does not mean that it can be used.
    pub(super) fn is_built_in(self) -> bool {
        let known = match self {
            Provider::Cpu => return true,
            Provider::Openvino => ep::OpenVINO::is_available(),
            Provider::Cuda => ep::CUDA::is_available(),
            Provider::Tensorrt => ep::TensorRT::is_available(),
        };
        known.unwrap_or(false)
    }

    /// What a session tries in turn for its nodes, before the CPU; each must register, or opening fails.
    pub(super) fn execution_providers(self, threads: usize) -> Vec<ExecutionProviderDispatch> {
        let tried = match self {
            Provider::Cpu => vec![],
            Provider::Openvino => vec![openvino(threads)],
            Provider::Cuda => vec![cuda()],
            Provider::Tensorrt => vec![tensorrt(), cuda()],
        };
        // Otherwise a missing provider falls back to the CPU in silence.
        tried
            .into_iter()
            .map(ExecutionProviderDispatch::error_on_failure)
            .collect()
    }

    /// What it adds to a message about ONNX Runtime.
    pub(super) fn message_suffix(self) -> String {
        if self == Provider::Cpu {
            String::new()
        } else {
            format!(" with --provider {}", self.name())
        }
    }

    /// What it says itself in a message of the runtime, without the places in the source that the message went through.
    pub(super) fn provider_message(self, message: &str) -> &str {
        let own = if self == Provider::Openvino {
            message.rsplit("[OpenVINO-EP] ").next()
        } else {
            None
        };
        own.unwrap_or(message).trim()
    }

    /// Whether it takes one weight for another where a graph uses it in several ways, so that each must have its own.
    pub(super) fn needs_separate_weights(self) -> bool {
        self == Provider::Openvino
    }

    /// What must hold in the process before the runtime is loaded for this provider.
    pub(super) fn prepare_process(self) {
        if self != Provider::Tensorrt {
            return;
        }
        // SAFETY: the runtime is not loaded yet, and this program starts no thread that reads the environment.
        // The runtime has no option against TF32 for TensorRT.
        unsafe { std::env::set_var("NVIDIA_TF32_OVERRIDE", "0") };
        if let Err(error) =
            tensorrt_engine_folder().and_then(|folder| Ok(std::fs::create_dir_all(folder)?))
        {
            errln!("flowgauge: TensorRT's engines are not kept: {error:#}");
        }
    }

    /// Refuses a provider that the library lacks or that did not register, saying what is missing; `said` is the
    /// runtime's own error.
    ///
    /// # Errors
    /// One message with the provider, the library, what is missing and what would help.
    pub(super) fn check(self, library: &RuntimeLibrary, said: Option<&str>) -> Result<()> {
        let (name, at) = (self.name(), library.path.display());
        if !self.is_built_in() {
            let there: Vec<&str> = Provider::ALL
                .into_iter()
                .filter(|p| p.is_built_in())
                .map(Provider::name)
                .collect();
            bail!(
                "--provider {name}: ONNX Runtime {} at {at} was built without it; expected {}, or another library, by \
                 `pip install {}` in the active Python environment or with --ort-lib",
                library.version,
                there.join(" or "),
                self.pip_package()
            );
        }
        let missing = self.missing_requirements(library, said);
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

    /// What is missing of a provider that the library was built with; `said` is the runtime's error where it did not
    /// register.
    pub(super) fn missing_requirements(
        self,
        library: &RuntimeLibrary,
        said: Option<&str>,
    ) -> Vec<String> {
        let found = said.map(|said| {
            // OpenVINO's does not say why.
            let silent = said.contains("Failed to load provider");
            match silent.then(|| library_load_error(&self.library_file(&library.path))) {
                Some(Some(why)) => missing_library_message(&why),
                Some(None) => format!(
                    "what it needs can be loaded, but it does not start ({})",
                    said.trim()
                ),
                None => missing_library_message(said),
            }
        });
        if self.runs_on_cpu() {
            return found
                .map(|file| format!("library: {file}"))
                .into_iter()
                .collect();
        }
        let gpu = missing_gpu_message(cuda_device_count());
        // The driver's own library is told of as the driver.
        let found = found.filter(|file| gpu.is_none() || !file.starts_with(CUDA_DRIVER_LIBRARY));
        found
            .map(|file| format!("library: {file}"))
            .into_iter()
            .chain(gpu)
            .collect()
    }

    /// How a library is had that has it.
    pub(super) fn install_hint(self) -> &'static str {
        match self {
            Provider::Openvino => "; --provider openvino fetches one that has it",
            _ => "",
        }
    }

    fn remedy(self, version: &str) -> String {
        let package = self.pip_package();
        match self {
            Provider::Cpu | Provider::Openvino => {
                format!(
                    "expected the libraries of `{package}` whole and side by side, or --provider cpu"
                )
            }
            Provider::Cuda => format!(
                "expected a GPU of NVIDIA with its driver, and CUDA and cuDNN where libraries are looked for \
                 (`pip install \"{package}[cuda,cudnn]=={version}\"`, then LD_LIBRARY_PATH), or --provider cpu"
            ),
            Provider::Tensorrt => format!(
                "expected a GPU of NVIDIA with its driver, and CUDA, cuDNN and TensorRT where libraries are looked for \
                 (`pip install \"{package}[cuda,cudnn]=={version}\" tensorrt`, then LD_LIBRARY_PATH), or --provider cuda or cpu"
            ),
        }
    }
}

/// OpenVINO on the processor, in single precision throughout.
fn openvino(threads: usize) -> ExecutionProviderDispatch {
    ep::OpenVINO::default()
        .with_device_type("CPU")
        .with_precision("FP32")
        .with_num_threads(threads.max(1))
        .with_arbitrary_config("load_config", OPENVINO_CPU_CONFIG)
        .build()
}

/// CUDA with a convolution search that does not change from run to run, and without TF32.
fn cuda() -> ExecutionProviderDispatch {
    ep::CUDA::default()
        .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
        .with_tf32(false)
        .build()
}

/// TensorRT with its engines kept between runs: building one takes minutes.
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

/// Where TensorRT's engines lie.
fn tensorrt_engine_folder() -> Result<PathBuf> {
    Ok(user_cache_folder()?.join("tensorrt"))
}

/// What the runtime says is missing of a provider's library: `libcublas.so.13 is missing, which … needs`.
fn missing_library_message(said: &str) -> String {
    let said = said.trim();
    if let Some(at) = said.find("CUDA failure") {
        return said[at..]
            .split(" ; ")
            .next()
            .unwrap_or_default()
            .to_owned();
    }
    let Some((_, after)) = said.split_once("Failed to load library ") else {
        return said.to_owned();
    };
    let Some((needing, why)) = after.split_once(" with error: ") else {
        return said.to_owned();
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

/// What is missing of a GPU: its driver, or a device; `found` is the number of devices that a driver knows.
fn missing_gpu_message(found: Result<usize, String>) -> Option<String> {
    match found {
        Err(why) => Some(format!(
            "driver: {why}; device: none can be seen without a driver"
        )),
        Ok(0) => Some("device: the driver knows none".to_owned()),
        Ok(_) => None,
    }
}

/// Names as a choice: `cpu, openvino or cuda`.
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
        let told: serde_json::Value = serde_json::from_str(OPENVINO_CPU_CONFIG).expect("JSON");
        assert_eq!(told["CPU"]["INFERENCE_PRECISION_HINT"], "f32");
        assert_eq!(told["CPU"]["EXECUTION_MODE_HINT"], "ACCURACY");
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

    /// Errors as ONNX Runtime 1.31.1 and 1.24.1 give them.
    #[test]
    fn missing_library_is_parsed_from_runtime_error() {
        let cuda = "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& \
                    onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library \
                    /there/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared object file: \
                    No such file or directory\n";
        assert_eq!(
            missing_library_message(cuda),
            "libcublasLt.so.13 is missing, which libonnxruntime_providers_cuda.so needs"
        );
        let broken = "FAIL : Failed to load library /there/libonnxruntime_providers_openvino.so with error: \
                      /there/libopenvino.so.2541: file too short";
        let told = "libonnxruntime_providers_openvino.so cannot be loaded: /there/libopenvino.so.2541: file too short";
        assert_eq!(missing_library_message(broken), told);
        let gone = "Failed to load library /there/liba.so with error: /there/liba.so: cannot open shared object file";
        assert_eq!(missing_library_message(gone), "liba.so is missing");
        let old = "/onnxruntime_src/cuda_call.cc:146 onnxruntime::CudaCall() CUDA failure 35: CUDA driver version is \
                   insufficient for CUDA runtime version ; GPU=-1 ; hostname=there ; file=cuda_execution_provider.cc";
        let told = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version";
        assert_eq!(missing_library_message(old), told);
        assert_eq!(
            missing_library_message(" something else \n"),
            "something else"
        );
    }

    #[test]
    fn openvino_message_is_extracted() {
        let message = "Exception during initialization: /there/basic_backend.cc:136 BasicBackend() /there/ov_interface.cc:28 \
                       OvExceptionBoundary() [OpenVINO-EP] Exception while Reading network: OpenVINO does not support the \
                       following ONNX operations: Attention\n\n";
        let said = "Exception while Reading network: OpenVINO does not support the following ONNX operations: Attention";
        assert_eq!(Provider::Openvino.provider_message(message), said);
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
        let told = missing_gpu_message(Err("libcuda.so.1 is missing".to_owned()))
            .expect("something is missing");
        assert!(
            told.starts_with("driver: libcuda.so.1 is missing") && told.contains("device"),
            "{told}"
        );
        assert_eq!(
            missing_gpu_message(Ok(0)).as_deref(),
            Some("device: the driver knows none")
        );
        assert_eq!(missing_gpu_message(Ok(1)), None);
    }
}
