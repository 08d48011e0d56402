//! The crate's files lie one above the other: `use` points only downwards.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Files and folders from the bottom up: reading and writing, the graph as data, inference, operators, the two modes,
/// passes over graphs, and the public face. Files of one folder may know each other.
const LAYERS: &[&[&str]] = &[
    // Reading and writing.
    &["elem", "error", "passes", "proto", "size"],
    &["content", "names", "order", "signatures"],
    &["inline"],
    &["upgrade"],
    &["check"],
    &["model"],
    // The graph as data, and what grows it.
    &["graph"],
    &["folding", "inference", "transpose_context"],
    &["append", "jvp_context"],
    // Operators.
    &["operators"],
    &["import"],
    // The two modes.
    &["cotangent", "tangent"],
    // What is done with graphs and models as a whole.
    &[
        "fixed",
        "kinks",
        "lift",
        "locality",
        "output_range",
        "output_reduction",
        "precision",
        "scaling",
        "separate_weights",
        "support",
        "widest",
        "winograd",
    ],
    &["quadratic", "trace"],
    // The public face.
    &["differentiate"],
];

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in std::fs::read_dir(folder)
        .expect("sources")
        .flatten()
        .map(|entry| entry.path())
    {
        match path.is_dir() {
            true => found.extend(files(&path)),
            false if path.extension().is_some_and(|e| e == "rs") => found.push(path),
            false => {}
        }
    }
    found
}

/// The names behind every `crate::` of a text.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split("crate::").skip(1).map(|rest| {
        let end = rest
            .find(|c: char| !c.is_ascii_lowercase() && c != '_')
            .unwrap_or(rest.len());
        &rest[..end]
    })
}

#[test]
fn files_know_only_what_lies_below_them() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let layer = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    let mut seen = HashSet::new();
    for file in files(&source) {
        let inside = file.strip_prefix(&source).expect("a source");
        let top = inside
            .iter()
            .next()
            .and_then(|part| part.to_str())
            .unwrap_or_default()
            .trim_end_matches(".rs");
        let tested = file
            .file_stem()
            .is_some_and(|stem| stem.to_string_lossy().ends_with("tests"));
        if top == "lib" || top == "testing" || tested {
            continue;
        }
        let own = layer(top).unwrap_or_else(|| panic!("{top} has no layer"));
        seen.insert(top.to_string());
        let text = std::fs::read_to_string(&file).expect("a source");
        let code = text
            .split("#[cfg(test)]\nmod tests")
            .next()
            .unwrap_or_default();
        for other in named(code).filter(|name| *name != top) {
            let below = layer(other).is_some_and(|layer| layer < own);
            assert!(
                below,
                "{} uses {other}, which lies not below it",
                inside.display()
            );
        }
        assert!(
            !code.contains("super::super"),
            "{} climbs up",
            inside.display()
        );
    }
    let all: usize = LAYERS.iter().map(|layer| layer.len()).sum();
    assert_eq!(seen.len(), all, "a layer names a file that is gone");
}
