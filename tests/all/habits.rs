//! Checks that facts which several files of the repository state are the same in all of them.

use std::path::{Path, PathBuf};

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the repository, its lines ended alike on all systems.
pub(crate) fn read(name: &str) -> String {
    let text = std::fs::read_to_string(root().join(name));
    text.unwrap_or_else(|e| panic!("{name}: {e}"))
        .replace("\r\n", "\n")
}

/// The pages below `docs/`, by their paths in the repository.
pub(crate) fn docs_pages() -> Vec<String> {
    let mut pages: Vec<PathBuf> = std::fs::read_dir(root().join("docs"))
        .expect("docs")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .collect();
    pages.sort();
    let name = |path: &PathBuf| {
        path.file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned()
    };
    pages
        .iter()
        .map(|path| format!("docs/{}", name(path)))
        .collect()
}

/// What stands between two words on one line of a text.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let rest = text.split_once(before)?.1;
    Some(rest.split_once(after)?.0)
}

#[test]
fn minimum_rust_is_one_number() {
    let promised = |file: &str| {
        let manifest = read(file);
        between(&manifest, "\nrust-version = \"", "\"")
            .unwrap_or_else(|| panic!("{file} has no rust-version"))
            .to_owned()
    };
    let workflow = read(".github/workflows/ci.yml");
    let job = workflow
        .split_once("\n  minimum-rust:\n")
        .expect("the job minimum-rust")
        .1;
    let tested = between(job, "dtolnay/rust-toolchain@", "\n").expect("a toolchain");
    assert_eq!(promised("Cargo.toml"), tested, "Cargo.toml and ci.yml");
    assert_eq!(
        promised("crates/onnx-autodiff/Cargo.toml"),
        tested,
        "crates/onnx-autodiff/Cargo.toml and ci.yml"
    );
    let readme = format!("Rust ({tested} or newer)");
    assert!(read("README.md").contains(&readme), "README.md: {readme}");
}

#[test]
fn docs_index_names_every_page() {
    let index = read("docs/README.md");
    for page in docs_pages().iter().filter(|page| *page != "docs/README.md") {
        let link = format!("]({})", page.trim_start_matches("docs/"));
        assert!(index.contains(&link), "docs/README.md does not link {page}");
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut pages = docs_pages();
    pages.extend(
        [
            "README.md",
            "ARCHITECTURE.md",
            "CONTRIBUTING.md",
            "RELEASE-CHECKLIST.md",
            "CHANGELOG.md",
        ]
        .map(str::to_owned),
    );
    for page in pages {
        let (text, path) = (read(&page), root().join(&page));
        let folder = path.parent().expect("a folder");
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            if file.contains("://") {
                continue;
            }
            let target = if file.is_empty() {
                path.clone()
            } else {
                folder.join(file)
            };
            assert!(target.exists(), "{page} links {link}, which is not there");
            if heading.is_empty() {
                continue;
            }
            let target = std::fs::read_to_string(&target).expect("a page");
            let mut headings = target.lines().filter(|l| l.starts_with('#')).map(anchor);
            // A heading that was renamed keeps its old anchor as an element of its own.
            let named = target.contains(&format!("id=\"{heading}\""));
            assert!(
                named || headings.any(|known| known == heading),
                "{page} links {link}, whose heading is not there"
            );
        }
    }
}

/// A heading as links name it: lower case, `-` for a space, without punctuation.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}
