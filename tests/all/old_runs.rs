//! Runs of earlier versions are still read: a run directory of each format is kept, with every kind of work in it.

use std::path::{Path, PathBuf};

use super::cli::flowgauge;

/// A copy of the kept runs and of the models that they name, laid out as in the repository.
fn copy_of_runs() -> tempfile::TempDir {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copy = tempfile::tempdir().expect("a folder");
    for folder in ["tests/data/runs", "models/digits", "models/moons"] {
        copy_folder(&root.join(folder), &copy.path().join(folder));
    }
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// Every kept run with its config.
fn runs(copy: &Path) -> Vec<(PathBuf, PathBuf)> {
    let folder = copy.join("tests/data/runs");
    let mut runs: Vec<_> = std::fs::read_dir(&folder)
        .expect("the runs")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .map(|run| (run, folder.join("every-kind.yaml")))
        .collect();
    runs.sort();
    assert!(!runs.is_empty());
    runs
}

/// A table by its columns: the texts of all rows.
fn columns(path: &Path) -> Vec<(String, Vec<String>)> {
    let mut reader = csv::Reader::from_path(path).expect("a table");
    let names: Vec<String> = reader
        .headers()
        .expect("headers")
        .iter()
        .map(str::to_owned)
        .collect();
    let rows: Vec<csv::StringRecord> = reader.records().map(|r| r.expect("a row")).collect();
    let texts = |i: usize| rows.iter().map(|row| row[i].to_owned()).collect();
    names
        .into_iter()
        .enumerate()
        .map(|(i, name)| (name, texts(i)))
        .collect()
}

#[test]
fn old_runs_give_the_same_tables() {
    let copy = copy_of_runs();
    for (run, _) in runs(copy.path()) {
        let tables: Vec<PathBuf> = std::fs::read_dir(run.join("tables"))
            .expect("tables")
            .flatten()
            .map(|entry| entry.path())
            .collect();
        let before: Vec<_> = tables.iter().map(|table| columns(table)).collect();
        flowgauge(copy.path(), &["report", &run.display().to_string()]).is(0);
        assert!(run.join("index.html").exists());
        for (table, before) in tables.iter().zip(before) {
            let after = columns(table);
            // Words that explain a number may change from version to version.
            let explains =
                |name: &str| ["knob", "measured", "reason", "protocol", "note"].contains(&name);
            for column in before.into_iter().filter(|(name, _)| !explains(name)) {
                assert!(after.contains(&column), "{}: {}", table.display(), column.0);
            }
        }
    }
}

#[test]
fn old_runs_are_verified_whole() {
    let copy = copy_of_runs();
    for (run, _) in runs(copy.path()) {
        let run = run.display().to_string();
        flowgauge(copy.path(), &["verify", &run, "--fraction", "1"]).is(0);
    }
}

#[test]
fn old_runs_have_the_trial_ids_that_their_config_has_now() {
    let copy = copy_of_runs();
    for (run, config) in runs(copy.path()) {
        let journal = std::fs::read(run.join("journal.jsonl")).expect("the journal");
        let (config, out) = (config.display().to_string(), run.display().to_string());
        let args = ["run", &config, "--out", &out, "--quiet"];
        flowgauge(copy.path(), &args).is(0);
        let after = std::fs::read(run.join("journal.jsonl")).expect("the journal");
        assert!(journal == after, "trials were carried out again");
    }
}
