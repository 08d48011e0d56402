//! The invariants of ARCHITECTURE.md: layers point downwards, every heavy crate has one home,
//! and the project speaks of itself alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Modules from the bottom up; `use` points only to an earlier line, or stays within its own.
const LAYERS: &[&[&str]] = &[
    &["stop"],
    &[
        "host",
        "hub",
        "num",
        "progress",
        "registry",
        "rows",
        "signature",
        "store",
        "yaml",
    ],
    &["flow", "graph"],
    &["trace", "model"],
    &["solve"],
    &["divergence", "sample"],
    &["likelihood", "features", "stein"],
    &[
        "metric",
        "calibration",
        "lattice",
        "convention",
        "dequantization",
        "reweight",
    ],
    &["config", "data", "draft", "output"],
    &["plan"],
    &["claim", "journal"],
    &["execute"],
    &["run"],
    &["budget", "frontier"],
    &["table"],
    &["report"],
    &["publish", "verify", "gate", "status"],
    &["cli"],
];

/// Pairs that would point downwards and are still forbidden.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "metric",
        &["model", "flow", "solve", "sample", "features", "likelihood"],
    ),
    ("trace", &["model", "solve"]),
    ("convention", &["model"]),
    ("graph", &["num", "flow", "registry", "rows"]),
    ("table", &["model", "execute", "run"]),
    (
        "report",
        &["model", "execute", "run", "journal", "plan", "table"],
    ),
];

/// Crates with one home: the paths that may name them.
const HOMES: &[(&str, &[&str])] = &[
    ("hf_hub", &["hub.rs"]),
    ("object_store", &["store.rs", "store/"]),
    ("reqwest", &[]),
    ("rustls", &["store.rs"]),
    ("tokio", &["store.rs"]),
    (
        "ort",
        &[
            "model/onnx.rs",
            "model/provider.rs",
            "model/session_tensors.rs",
        ],
    ),
    ("libloading", &["model/shared_library.rs"]),
    ("onnx_autodiff", &["graph.rs"]),
    ("faer", &["num/linalg.rs"]),
    ("pulp", &["num/linalg.rs"]),
    ("polars", &["table/summary.rs"]),
    (
        "parquet",
        &["data/parquet_table.rs", "report/export/parquet_tables.rs"],
    ),
    ("memmap2", &["num/stored_values.rs", "data/mapped_npy.rs"]),
    ("plotters", &["report/plot/"]),
    ("pdf_writer", &["report/plot/pdf.rs"]),
    ("clap", &["cli/", "main.rs"]),
    ("humantime", &["cli/"]),
    ("indicatif", &["progress/display.rs"]),
    ("anstream", &["cli/console/", "progress/form.rs"]),
    ("terminal_size", &["cli/console/"]),
    ("unicode_width", &["cli/console/"]),
    ("signal_hook", &["stop.rs"]),
    (
        "rayon",
        &["execute/pool.rs", "metric/", "calibration/local_c2st.rs"],
    ),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("a folder of the project")
        .flatten()
        .map(|e| e.path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files_below(&path, found)
        } else {
            found.push(path)
        }
    }
}

/// Source files by their path below `src/`.
fn sources() -> BTreeMap<String, String> {
    let src = root().join("src");
    let mut files = Vec::new();
    files_below(&src, &mut files);
    (files.iter())
        .filter(|f| f.extension().is_some_and(|e| e == "rs"))
        .map(|f| {
            let name = f
                .strip_prefix(&src)
                .expect("below src")
                .to_string_lossy()
                .replace('\\', "/");
            (name, std::fs::read_to_string(f).expect("a source file"))
        })
        .collect()
}

/// The code of a file, without comments and without its tests at the foot.
fn code(text: &str) -> String {
    let body = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or(text);
    let body = body
        .split("#[cfg(test)]\npub mod testing {")
        .next()
        .unwrap_or(body);
    body.lines()
        .map(|l| l.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n")
}

fn layer(module: &str) -> usize {
    LAYERS
        .iter()
        .position(|l| l.contains(&module))
        .unwrap_or_else(|| {
            panic!("module `{module}` has no layer: give it one here and in ARCHITECTURE.md")
        })
}

fn module(file: &str) -> Option<&str> {
    let first = file.split('/').next().unwrap_or(file);
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!["lib", "main"].contains(&name)).then_some(name)
}

/// Modules that a piece of code names through `crate::`.
fn named(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in code.split("crate::").skip(1) {
        let part = part.trim_start();
        if let Some(list) = part.strip_prefix('{') {
            // `use crate::{a, b::c}`: the first segment of every item.
            let list = list.split(';').next().unwrap_or("");
            let heads = list.split([',', '}']).map(|i| {
                i.trim()
                    .split("::")
                    .next()
                    .unwrap_or("")
                    .trim_matches('{')
                    .to_owned()
            });
            found.extend(heads.filter(|h| LAYERS.iter().any(|l| l.contains(&h.as_str()))));
        } else {
            found.push(
                part.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect(),
            );
        }
    }
    found
}

#[test]
fn layers_point_downwards() {
    for (file, text) in sources() {
        let Some(from) = module(&file) else { continue };
        for to in named(&code(&text))
            .iter()
            .filter(|m| *m != "registry" && !m.is_empty())
        {
            assert!(
                to == from || layer(to) < layer(from),
                "src/{file} uses crate::{to}, which is not below {from}"
            );
            let banned = FORBIDDEN
                .iter()
                .any(|(f, list)| *f == from && list.contains(&to.as_str()));
            assert!(
                !banned,
                "src/{file} uses crate::{to}, which {from} must not see"
            );
        }
    }
}

/// The files of `src/` that a file names by its `use` statements: `crate::a::b` and `super::b` that
/// are files.
fn imported_files(file: &str, text: &str, files: &BTreeMap<String, String>) -> Vec<String> {
    let folder = Path::new(file).parent().unwrap_or(Path::new(""));
    let own = Path::new(file).with_extension("");
    // The module that `super` stands for: the folder of a file, or the one above a `mod.rs`.
    let parent = if file.ends_with("/mod.rs") {
        folder.parent().unwrap_or(Path::new("")).to_owned()
    } else {
        folder.to_owned()
    };
    let mut found = Vec::new();
    for statement in code(text).split("use ").skip(1) {
        let statement: String = statement
            .split(';')
            .next()
            .unwrap_or("")
            .split_whitespace()
            .collect();
        // `use super::{a::b, c}` names a file by each of its items.
        let (prefix, items) = match statement.split_once('{') {
            Some((prefix, items)) => (prefix, items.split(',').collect()),
            None => (statement.as_str(), vec![""]),
        };
        for item in items {
            let path = format!("{prefix}{item}");
            let mut base = match path.split("::").next() {
                Some("crate") => PathBuf::new(),
                Some("super") => parent.clone(),
                _ => continue,
            };
            for segment in path.split("::").skip(1).filter(|s| !s.is_empty()) {
                if segment == "super" {
                    base = base.parent().unwrap_or(Path::new("")).to_owned();
                    continue;
                }
                let next = base.join(segment.trim_matches(['{', '}']));
                let name = next.to_string_lossy().replace('\\', "/");
                if !files.contains_key(&format!("{name}.rs"))
                    && !files.contains_key(&format!("{name}/mod.rs"))
                {
                    break;
                }
                base = next;
            }
            let name = format!("{}.rs", base.to_string_lossy().replace('\\', "/"));
            // A file may name the families that it belongs to: they list it.
            if files.contains_key(&name) && base != own && !own.starts_with(&base) {
                found.push(name);
            }
        }
    }
    found
}

#[test]
fn no_files_import_each_other_in_a_ring() {
    let files = sources();
    let imports: BTreeMap<&str, Vec<String>> = files
        .iter()
        .map(|(file, text)| (file.as_str(), imported_files(file, text, &files)))
        .collect();
    for start in imports.keys() {
        let mut seen: Vec<&str> = Vec::new();
        let mut open: Vec<&str> = imports[start].iter().map(String::as_str).collect();
        while let Some(file) = open.pop() {
            assert_ne!(
                file, *start,
                "src/{start} imports itself through other files: {seen:?}"
            );
            if !seen.contains(&file) {
                seen.push(file);
                open.extend(imports.get(file).into_iter().flatten().map(String::as_str));
            }
        }
    }
}

#[test]
fn heavy_crates_have_one_home() {
    for (file, text) in sources() {
        let code = code(&text);
        for (name, homes) in HOMES {
            let at_home = homes
                .iter()
                .any(|h| file == *h || (h.ends_with('/') && file.starts_with(h)));
            let used = code.match_indices(&format!("{name}::")).any(|(i, _)| {
                !code[..i].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
            });
            assert!(
                at_home || !used,
                "src/{file} uses the crate {name}; its home is {homes:?}"
            );
        }
    }
}

/// Where files are written; results that a user names go through `output.rs`, from whichever verb.
const WRITERS: &[&str] = &[
    "output.rs",
    "journal.rs",
    "run/begin.rs",
    "model/library.rs",
    "features/cache.rs",
    "cli/doctor.rs",
];

#[test]
fn files_are_written_in_few_places() {
    for (file, text) in sources() {
        let at_home = WRITERS
            .iter()
            .any(|w| file == *w || (w.ends_with('/') && file.starts_with(w)));
        let code = code(&text);
        for call in [
            "fs::write(",
            "File::create(",
            "OpenOptions",
            ".persist(",
            "fs::rename(",
        ] {
            assert!(
                at_home || !code.contains(call),
                "src/{file} writes a file by {call}; results go through `Output`"
            );
        }
        let names_a_file = code
            .lines()
            .any(|l| ["out: PathBuf,", "out: Option<PathBuf>,"].contains(&l.trim()));
        if file.starts_with("cli/")
            && names_a_file
            // Their --out is a folder, or may be one.
            && !["cli/run.rs", "cli/report.rs", "cli/man.rs"].contains(&file.as_str())
        {
            assert!(
                code.contains("Output::new("),
                "src/{file} has an --out that `Output` does not check"
            );
        }
    }
}

#[test]
fn there_is_one_trial_loop() {
    let loops: Vec<String> = sources()
        .iter()
        .filter(|(_, t)| code(t).contains(".execute(trial"))
        .map(|(f, _)| f.clone())
        .collect();
    assert_eq!(loops, ["run.rs"]);
}

#[test]
fn every_file_says_what_it_is_for() {
    for (file, text) in sources() {
        assert!(
            text.starts_with("//!"),
            "src/{file} does not begin with what it is for"
        );
    }
}

#[test]
fn the_map_is_short_and_names_every_module() {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    assert!(
        map.lines().count() <= 120,
        "ARCHITECTURE.md has {} lines",
        map.lines().count()
    );
    for module in LAYERS.iter().flat_map(|l| l.iter()) {
        assert!(
            map.contains(&format!("`{module}`")),
            "ARCHITECTURE.md does not name `{module}`"
        );
    }
}

#[test]
fn nothing_is_left_undone_in_silence() {
    for (file, text) in sources() {
        for mark in ["todo!(", "unimplemented!(", "TODO", "FIXME", "XXX"] {
            assert!(!text.contains(mark), "src/{file} holds {mark}");
        }
        assert!(
            !code(&text).contains("#[ignore"),
            "src/{file} ignores a test"
        );
    }
}

/// A test that lacks what it needs fails. Printed lines of passing tests are shown to nobody.
#[test]
fn no_test_skips_in_silence() {
    let tests = root().join("tests/all");
    let mut files = Vec::new();
    files_below(&tests, &mut files);
    let own = Path::new("architecture.rs");
    let tests = files.iter().filter(|f| !f.ends_with(own)).map(|f| {
        let text = std::fs::read_to_string(f).expect("a test file");
        (f.display().to_string(), text)
    });
    for (file, text) in sources().into_iter().chain(tests) {
        for words in ["\"skipped:", "\"skipping"] {
            let skips = text.contains(&format!("println!({words}"));
            assert!(!skips, "{file} has a test that skips in silence");
        }
        assert!(
            !text.contains("../shared/"),
            "{file} needs files outside the repository"
        );
    }
}

#[test]
fn every_dependency_says_why_it_is_there() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let section = manifest
        .split("[dependencies]")
        .nth(1)
        .and_then(|s| s.split("\n[").next())
        .expect("dependencies");
    for line in section
        .lines()
        .filter(|l| l.contains('=') && !l.starts_with('#'))
    {
        assert!(line.contains("# "), "no reason is given: {line}");
    }
}
