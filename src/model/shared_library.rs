//! Shared libraries as they are loaded: the version of an ONNX Runtime, and the CUDA driver.

use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};

/// A library of ONNX Runtime that was opened successfully.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeLibrary {
    /// The path of the library.
    pub path: PathBuf,
    /// The version that the library reports, such as `1.31.1`.
    pub version: String,
    /// The step of the search that found the library.
    pub origin: &'static str,
}

/// The entry point of ONNX Runtime's C API.
#[repr(C)]
struct OrtApiBase {
    /// Returns the API of the given version.
    get_api: extern "C" fn(u32) -> *const c_void,
    /// Returns the version of the library.
    version: extern "C" fn() -> *const c_char,
}

/// Opens a library and returns the version that it reports.
///
/// # Errors
/// Fails if the file is not a shared library of ONNX Runtime.
pub fn library_version(path: &Path) -> Result<String> {
    // SAFETY: opening runs the library's initialisers, which is what using it will do as well.
    let library = unsafe { libloading::Library::new(path) }
        .map_err(|e| anyhow!("it cannot be opened as a shared library: {e}"))?;
    // SAFETY: OrtGetApiBase has had this signature since ONNX Runtime 1.0.
    let version = unsafe {
        let base = library
            .get::<extern "C" fn() -> *const OrtApiBase>(c"OrtGetApiBase")
            .map_err(|_| {
                anyhow!("it is a shared library, but not ONNX Runtime (no OrtGetApiBase)")
            })?;
        let base = base()
            .as_ref()
            .ok_or_else(|| anyhow!("it provides no API"))?;
        let text = (base.version)();
        if text.is_null() {
            bail!("it does not report its version");
        }
        CStr::from_ptr(text).to_string_lossy().into_owned()
    };
    // Unloading a runtime that has started threads is unsafe on some systems, so it stays loaded.
    std::mem::forget(library);
    Ok(version)
}

/// Explains why a library cannot be loaded, in the form of ONNX Runtime's messages; `None` if it
/// can be loaded.
pub fn library_load_error(path: &Path) -> Option<String> {
    // SAFETY: the runtime has run the library's initialisers already, or failed at it.
    let error = unsafe { libloading::Library::new(path) }.err()?;
    let why = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
    Some(format!(
        "Failed to load library {} with error: {why}",
        path.display()
    ))
}

/// The library that is part of NVIDIA's driver.
pub const CUDA_DRIVER_LIBRARY: &str = if cfg!(windows) {
    "nvcuda.dll"
} else {
    "libcuda.so.1"
};

/// Returns the number of GPUs that NVIDIA's driver reports.
///
/// # Errors
/// Fails if there is no driver or it does not work. The message says which.
pub fn cuda_device_count() -> Result<usize, String> {
    let name = CUDA_DRIVER_LIBRARY;
    // SAFETY: opening the driver's library runs its initialisers, as any use of the driver does.
    let driver = unsafe { libloading::Library::new(name) }
        .map_err(|_| format!("{name} is missing, so NVIDIA's driver is not installed"))?;
    // SAFETY: both functions have had these signatures since CUDA 2.0.
    let (status, count) = unsafe {
        let init = driver
            .get::<extern "C" fn(u32) -> i32>(c"cuInit")
            .map_err(|_| format!("{name} has no cuInit"))?;
        let count = driver.get::<extern "C" fn(*mut i32) -> i32>(c"cuDeviceGetCount");
        let count = count.map_err(|_| format!("{name} has no cuDeviceGetCount"))?;
        let mut found = 0;
        let status = match init(0) {
            0 => count(&raw mut found),
            status => status,
        };
        (status, found)
    };
    // Unloading a driver that has started threads is unsafe on some systems, so it stays loaded.
    std::mem::forget(driver);
    match status {
        0 => Ok(usize::try_from(count).unwrap_or(0)),
        CUDA_ERROR_NO_DEVICE => Ok(0),
        status => Err(format!(
            "{name} exists, but does not start (CUDA error {status})"
        )),
    }
}

/// CUDA's error code for the absence of any device.
const CUDA_ERROR_NO_DEVICE: i32 = 100;
