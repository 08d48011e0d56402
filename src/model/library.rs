//! Finds the shared library of ONNX Runtime, and fetches it once if there is none.
//!
//! The order of the search is: `--ort-lib`, `ORT_DYLIB_PATH`, the Python environment that the program
//! was installed into, the active Python environment, this user's cache, the system, and at last `pip download` of the pinned official wheel into the
//! cache. A library that the user names must work. A library that the search finds is skipped with
//! a line on standard error if it does not work, and silently if it lacks the requested execution
//! provider. Every candidate is opened here and its version is read, because the binding panics or
//! hangs on libraries that are missing, broken or too old.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};

use super::provider::Provider;
use super::shared_library::{RuntimeLibrary, library_version};
use crate::host::{hex, user_cache_folder};

/// The version of ONNX Runtime that is fetched.
pub const PINNED_VERSION: &str = "1.31.1";

/// The version of ONNX Runtime that is fetched for the provider OpenVINO. Its wheel contains
/// OpenVINO 2025.4.1.
pub const PINNED_OPENVINO_VERSION: &str = "1.24.1";

/// The oldest supported minor version: older versions lack the C API that flowgauge uses.
const OLDEST_MINOR: u32 = 19;

/// A pinned Python package whose wheels contain the library of ONNX Runtime.
struct RuntimePackage {
    /// The name of the package.
    name: &'static str,
    /// The version of the package.
    version: &'static str,
    /// The wheels: operating system, machine, platform tag, and published SHA-256 hash.
    wheels: &'static [(&'static str, &'static str, &'static str, &'static str)],
}

/// The package for all providers that need no library of their own.
const ONNXRUNTIME_PACKAGE: RuntimePackage = RuntimePackage {
    name: "onnxruntime",
    version: PINNED_VERSION,
    wheels: &[
        (
            "linux",
            "x86_64",
            "manylinux_2_28_x86_64",
            "5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f",
        ),
        (
            "linux",
            "aarch64",
            "manylinux_2_28_aarch64",
            "da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3",
        ),
        (
            "macos",
            "aarch64",
            "macosx_14_0_arm64",
            "60b6b69bfe580eab576cacc5d132a0e9cf2a37fcfd18d46dd191042b1d1ed0d7",
        ),
        (
            "windows",
            "x86_64",
            "win_amd64",
            "c3d91b5de31e2fc82d71bd65b2b22bddee8b49057a3a36338e9a868e0ea90c05",
        ),
    ],
};

/// The package for OpenVINO.
const ONNXRUNTIME_OPENVINO_PACKAGE: RuntimePackage = RuntimePackage {
    name: "onnxruntime-openvino",
    version: PINNED_OPENVINO_VERSION,
    wheels: &[(
        "linux",
        "x86_64",
        "manylinux_2_28_x86_64",
        "3007c803634cc69c6d52af1dea7ce729d9bb62b9a11070fd2f959119199007a8",
    )],
};

impl RuntimePackage {
    /// Returns the package that is fetched for a provider. For GPU providers it is `None`,
    /// because they need more than a wheel contains.
    fn for_provider(provider: Provider) -> Option<&'static RuntimePackage> {
        match provider {
            Provider::Cpu => Some(&ONNXRUNTIME_PACKAGE),
            Provider::Openvino => Some(&ONNXRUNTIME_OPENVINO_PACKAGE),
            Provider::Cuda | Provider::Tensorrt => None,
        }
    }

    /// Returns the cache folder of the package's library.
    ///
    /// # Errors
    /// Fails if the user has no cache folder.
    fn cache_folder(&self) -> Result<PathBuf> {
        Ok(user_cache_folder()?.join(format!("{}-{}", self.name, self.version)))
    }
}

/// Finds a usable library of ONNX Runtime, and fetches it if there is none.
///
/// # Errors
/// Fails if the library in `named` does not work, or if none is found and none can be fetched.
pub fn find_library(named: Option<&Path>) -> Result<RuntimeLibrary> {
    find_library_with_provider(named, Provider::Cpu)
}

/// Finds a library like [`find_library`], and skips libraries without the provider. If no package
/// with the provider can be fetched, the first library without it is returned. The caller then
/// reports what is missing.
///
/// # Errors
/// Fails if the library in `named` does not work, or if none is found and none can be fetched.
pub fn find_library_with_provider(
    named: Option<&Path>,
    provider: Provider,
) -> Result<RuntimeLibrary> {
    if let Some(path) = named {
        return probe_library(path, "--ort-lib")
            .with_context(|| format!("--ort-lib {}", path.display()));
    }
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
        let path = PathBuf::from(path);
        return probe_library(&path, "ORT_DYLIB_PATH")
            .with_context(|| format!("ORT_DYLIB_PATH={}", path.display()));
    }
    let found = library_candidates(provider);
    let (with_provider, others): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|(path, _)| provider.is_installed_beside(path));
    let package = RuntimePackage::for_provider(provider);
    let others = if package.is_some() {
        Vec::new()
    } else {
        others
    };
    for (path, origin) in with_provider.into_iter().chain(others) {
        match probe_library(&path, origin) {
            Ok(library) => return Ok(library),
            Err(error) => errln!(
                "flowgauge: skipping {} ({origin}): {error:#}",
                path.display()
            ),
        }
    }
    let package = package.unwrap_or(&ONNXRUNTIME_PACKAGE);
    let path = fetch_package(package).with_context(|| {
        let which = if provider == Provider::Openvino {
            "ONNX Runtime with OpenVINO"
        } else {
            "ONNX Runtime"
        };
        format!(
            "{which} was not found and could not be fetched. Install it with \
             `pip install {}=={}` in the active Python environment, or name a library \
             with --ort-lib or ORT_DYLIB_PATH",
            package.name, package.version
        )
    })?;
    probe_library(&path, "fetched into the user's cache")
}

/// Returns the libraries that exist, in the order of the search, with the step that found each.
fn library_candidates(provider: Provider) -> Vec<(PathBuf, &'static str)> {
    let beside = std::env::current_exe()
        .and_then(|program| program.canonicalize())
        .map(|program| libraries_beside(&program))
        .unwrap_or_default()
        .into_iter()
        .map(|p| (p, "the Python environment of the program"));
    let active = python_libraries()
        .into_iter()
        .map(|p| (p, "the active Python environment"));
    let found = beside.chain(active);
    let package = RuntimePackage::for_provider(provider).unwrap_or(&ONNXRUNTIME_PACKAGE);
    let cached = package
        .cache_folder()
        .map(|f| libraries_in(&f))
        .unwrap_or_default()
        .into_iter()
        .map(|p| (p, "the user's cache"));
    let system = system_libraries().into_iter().map(|p| (p, "the system"));
    let mut known = BTreeSet::new();
    let all = found.chain(cached).chain(system);
    all.filter(|(path, _)| known.insert(path.clone())).collect()
}

/// Opens a library and checks its version.
///
/// # Errors
/// Fails if the file does not exist, is not ONNX Runtime, or is too old.
fn probe_library(path: &Path, origin: &'static str) -> Result<RuntimeLibrary> {
    let bare = path.components().count() == 1 && origin == "the system";
    if !bare && !path.is_file() {
        bail!(
            "there is no such file; expected the ONNX Runtime shared library, such as \
             libonnxruntime.so.{PINNED_VERSION}"
        );
    }
    let version = library_version(path)?;
    let minor = version
        .split('.')
        .nth(1)
        .and_then(|m| m.parse::<u32>().ok());
    match (version.starts_with("1."), minor) {
        (true, Some(minor)) if minor >= OLDEST_MINOR => Ok(RuntimeLibrary {
            path: path.to_owned(),
            version,
            origin,
        }),
        _ => bail!(
            "it is ONNX Runtime {version}, expected 1.{OLDEST_MINOR} or newer (tested: 1.20 to \
             {PINNED_VERSION})"
        ),
    }
}

/// Returns the libraries of the Python environment whose folder of programs holds `program`, as when
/// it was installed by pip.
fn libraries_beside(program: &Path) -> Vec<PathBuf> {
    let root = program.parent().and_then(Path::parent);
    root.map(libraries_of_environment).unwrap_or_default()
}

/// Returns the libraries of the environment in the folder `root`: of its Python packages, below
/// `lib/python3.*/`, or `Lib/` on Windows, and those in `lib/` itself, as conda installs them.
fn libraries_of_environment(root: &Path) -> Vec<PathBuf> {
    let versions = sorted_entries(&root.join("lib"))
        .into_iter()
        .filter(|folder| {
            let name = folder.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with("python3")
        });
    versions
        .flat_map(|folder| ["site-packages", "dist-packages"].map(|kind| folder.join(kind)))
        .chain([root.join("Lib/site-packages")])
        .map(|packages| packages.join("onnxruntime/capi"))
        .chain([root.join("lib"), root.join("Library/bin")])
        .flat_map(|folder| libraries_in(&folder))
        .collect()
}

/// Returns the libraries of the Python environment that `python3` would use, without importing
/// anything from it.
fn python_libraries() -> Vec<PathBuf> {
    let roots = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .iter()
        .filter_map(std::env::var_os);
    let mut found: Vec<PathBuf> = roots
        .flat_map(|root| libraries_of_environment(Path::new(&root)))
        .collect();
    if found.is_empty() {
        let find = "import importlib.util as u, os; s = u.find_spec('onnxruntime'); \
                    print(os.path.join(os.path.dirname(s.origin), 'capi') if s and s.origin else '')";
        let output = Command::new("python3")
            .args(["-c", find])
            .stdin(Stdio::null())
            .output();
        if let Ok(output) = output {
            let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if !folder.is_empty() {
                found = libraries_in(Path::new(&folder));
            }
        }
    }
    found
}

/// Returns the libraries in the system's folders and on `LD_LIBRARY_PATH`.
fn system_libraries() -> Vec<PathBuf> {
    let folders = [
        "/usr/local/lib",
        "/usr/lib",
        "/usr/lib64",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
    ];
    let mut found: Vec<PathBuf> = folders
        .iter()
        .flat_map(|f| libraries_in(Path::new(f)))
        .collect();
    found.extend(
        std::env::split_paths(&std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default())
            .flat_map(|f| libraries_in(&f)),
    );
    found
}

/// Returns the libraries of ONNX Runtime in a folder. In wheels their names contain the whole
/// version.
fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let mut found = sorted_entries(folder);
    found.retain(|path| {
        path.file_name()
            .and_then(|n| n.to_str())
            .is_some_and(is_runtime_library)
    });
    found
}

/// Whether a file name is that of the runtime itself, and not that of a library beside it.
fn is_runtime_library(name: &str) -> bool {
    let linux = name == "libonnxruntime.so" || name.starts_with("libonnxruntime.so.");
    let mac = name.starts_with("libonnxruntime.") && name.ends_with(".dylib");
    linux || mac || name == "onnxruntime.dll"
}

/// Returns the paths in a folder, sorted; none if the folder does not exist.
fn sorted_entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    found.sort();
    found
}

/// Fetches the pinned wheel with `pip download`, checks its hash, and unpacks its library into the
/// cache. Returns the path of the library.
///
/// # Errors
/// Fails if no wheel is pinned for this machine, if pip fails, or if the hash differs.
fn fetch_package(package: &RuntimePackage) -> Result<PathBuf> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let what = format!("{} {}", package.name, package.version);
    let (_, _, platform, expected) = package
        .wheels
        .iter()
        .find(|w| w.0 == os && w.1 == arch)
        .ok_or_else(|| anyhow!("no wheel of {what} is pinned for {os} on {arch}"))?;
    let folder = package.cache_folder()?;
    let root = user_cache_folder()?;
    std::fs::create_dir_all(&root)
        .with_context(|| format!("{}: the cache folder cannot be created", root.display()))?;
    errln!(
        "flowgauge: fetching {what} once with pip, into {}",
        folder.display()
    );

    let work = tempfile::Builder::new()
        .prefix("fetch-")
        .tempdir_in(&root)?;
    pip_download(package, platform, work.path())?;
    let wheel = sorted_entries(work.path())
        .into_iter()
        .find(|p| p.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| anyhow!("pip downloaded no wheel"))?;
    let bytes = std::fs::read(&wheel)?;
    let found = hex(&Sha256::digest(&bytes));
    if found != *expected {
        bail!("the wheel of {what} has SHA-256 {found}, expected {expected}; it was not used");
    }
    let unpacked = work.path().join("library");
    std::fs::create_dir(&unpacked)?;
    let name = unpack_wheel(&bytes, &unpacked)?;
    // Another process may have been faster; the folder that it made is equally good.
    let moved = std::fs::rename(&unpacked, &folder);
    if moved.is_err() && !folder.join(&name).is_file() {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::rename(&unpacked, &folder).with_context(|| folder.display().to_string())?;
    }
    Ok(folder.join(name))
}

/// Downloads the wheel of a package for a platform into the folder `into`.
///
/// # Errors
/// Fails if no `pip` can download it. The message contains the reason of each `pip`.
fn pip_download(package: &RuntimePackage, platform: &str, into: &Path) -> Result<()> {
    let requirement = format!("{}=={}", package.name, package.version);
    let options = [
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--implementation",
        "cp",
        "--python-version",
        "3.11",
        "--abi",
        "cp311",
        "--platform",
        platform,
        "--dest",
    ];
    let mut reasons = Vec::new();
    for python in [
        &["python3", "-m", "pip"][..],
        &["python", "-m", "pip"],
        &["pip3"],
        &["pip"],
    ] {
        let output = Command::new(python[0])
            .args(&python[1..])
            .args(options)
            .arg(into)
            .arg(&requirement)
            .stdin(Stdio::null())
            .output();
        match output {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr);
                let last = text
                    .lines()
                    .rev()
                    .find(|l| !l.trim().is_empty())
                    .unwrap_or("it failed")
                    .to_owned();
                reasons.push(format!("{}: {last}", python.join(" ")));
            }
            Err(error) => reasons.push(format!("{}: {error}", python[0])),
        }
    }
    bail!(
        "pip could not download {requirement} ({})",
        reasons.join("; ")
    )
}

/// Writes the wheel's shared libraries into `folder`, and returns the file name of the runtime.
///
/// # Errors
/// Fails if the wheel cannot be read, or contains no library of ONNX Runtime.
fn unpack_wheel(wheel: &[u8], folder: &Path) -> Result<String> {
    let mut archive =
        zip::ZipArchive::new(std::io::Cursor::new(wheel)).context("the wheel is not a zip file")?;
    let mut runtime = None;
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i)?;
        let inside = entry.name().to_owned();
        let name = inside.rsplit('/').next().unwrap_or_default().to_owned();
        let shared = name.contains(".so") || name.ends_with(".dylib") || name.ends_with(".dll");
        if !inside.starts_with("onnxruntime/capi/") || !shared || name.contains("pybind") {
            continue;
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        std::fs::write(folder.join(&name), bytes)?;
        if is_runtime_library(&name) {
            runtime = Some(name);
        }
    }
    runtime.ok_or_else(|| anyhow!("the wheel contains no ONNX Runtime library"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_or_broken_named_library_is_refused() {
        let missing =
            find_library(Some(Path::new("/nowhere/libonnxruntime.so"))).expect_err("missing");
        assert!(format!("{missing:#}").contains("no such file"));

        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("libonnxruntime.so.1.31.1");
        std::fs::write(&path, b"not a library").expect("written");
        let broken = find_library(Some(&path)).expect_err("broken");
        assert!(
            format!("{broken:#}").contains("cannot be opened"),
            "{broken:#}"
        );
    }

    #[test]
    fn libraries_lie_beside_an_installed_program() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        for (packages, library) in [
            ("lib/python3.12/site-packages", "libonnxruntime.so.1.31.1"),
            ("lib/python3/dist-packages", "libonnxruntime.1.31.1.dylib"),
            ("Lib/site-packages", "onnxruntime.dll"),
        ] {
            let capi = root.join(packages).join("onnxruntime/capi");
            std::fs::create_dir_all(&capi).expect("a folder");
            std::fs::write(capi.join(library), b"").expect("a file");
            std::fs::write(capi.join("onnxruntime_pybind11_state.so"), b"").expect("a file");
            for program in ["bin/flowgauge", "Scripts/flowgauge.exe"] {
                let found = libraries_beside(&root.join(program));
                assert_eq!(found, [capi.join(library)], "{packages}");
            }
            std::fs::remove_dir_all(root.join(packages)).expect("it is there");
        }
        assert!(libraries_beside(Path::new("flowgauge")).is_empty());
    }

    #[test]
    fn wheel_yields_only_shared_libraries() {
        use std::io::Write;
        let mut wheel = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for name in [
            "onnxruntime/capi/libonnxruntime.so.1.24.1",
            "onnxruntime/capi/libonnxruntime_providers_openvino.so",
            "onnxruntime/capi/libopenvino.so.2541",
            "onnxruntime/capi/onnxruntime_pybind11_state.so",
            "onnxruntime/capi/_ld_preload.py",
            "other/libother.so",
        ] {
            wheel
                .start_file(name, zip::write::SimpleFileOptions::default())
                .expect("a file");
            wheel.write_all(name.as_bytes()).expect("written");
        }
        let wheel = wheel.finish().expect("a wheel").into_inner();
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(
            unpack_wheel(&wheel, folder.path()).expect("unpacked"),
            "libonnxruntime.so.1.24.1"
        );
        let names: Vec<String> = sorted_entries(folder.path())
            .iter()
            .filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned()))
            .collect();
        let expected = [
            "libonnxruntime.so.1.24.1",
            "libonnxruntime_providers_openvino.so",
            "libopenvino.so.2541",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn packages_have_separate_cache_folders() {
        let root = user_cache_folder().expect("a cache folder");
        assert_eq!(
            ONNXRUNTIME_PACKAGE.cache_folder().expect("a folder"),
            root.join(format!("onnxruntime-{PINNED_VERSION}"))
        );
        assert_eq!(
            ONNXRUNTIME_OPENVINO_PACKAGE
                .cache_folder()
                .expect("a folder"),
            root.join(format!("onnxruntime-openvino-{PINNED_OPENVINO_VERSION}"))
        );
        assert!(RuntimePackage::for_provider(Provider::Cuda).is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn other_shared_library_is_refused() {
        let path = c_library();
        let error = find_library(Some(&path)).expect_err("not ONNX Runtime");
        assert!(
            format!("{error:#}").contains("not ONNX Runtime"),
            "{error:#}"
        );
    }

    /// The C library, which this very process has loaded.
    #[cfg(target_os = "linux")]
    fn c_library() -> PathBuf {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("the memory map");
        let mut paths = maps
            .lines()
            .filter_map(|line| line.split_whitespace().nth(5));
        let is_c_library = |path: &&str| path.contains("/libc.so") || path.contains("/libc-");
        PathBuf::from(paths.find(is_c_library).expect("a C library"))
    }
}
