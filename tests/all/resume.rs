//! A run directory under kill, damage and change: nothing finished is done twice, damage is
//! named or mended, and another plan is kept out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::cli::{card, command, config, flowgauge, listing, refused, samples, write};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

pub(crate) fn run(folder: &Path, config: &str, out: &str) {
    flowgauge(folder, &["run", config, "--out", out, "--quiet"]).is(0);
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// The tables of a run without what the clock measured.
pub(crate) fn tables(run: &Path) -> BTreeMap<String, Vec<Vec<String>>> {
    let mut found = BTreeMap::new();
    for path in files(&run.join("tables")) {
        let mut reader = csv::Reader::from_path(&path).expect("a table");
        let columns = reader.headers().expect("columns").clone();
        let kept: Vec<usize> = (0..columns.len())
            .filter(|i| !columns[*i].contains("seconds") && &columns[*i] != "cost")
            .collect();
        let rows = reader
            .records()
            .map(|r| r.expect("a row"))
            .map(|r| kept.iter().map(|i| r[*i].to_owned()).collect());
        found.insert(
            path.file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned(),
            rows.collect(),
        );
    }
    assert!(found.len() >= 4, "{found:?}");
    found
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("a folder")
        .flatten()
        .map(|e| e.path())
        .collect();
    found.sort();
    found
}

/// How often a journal file says that each trial was finished.
pub(crate) fn finished(run: &Path, journal: &str) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for line in std::fs::read_to_string(run.join(journal))
        .unwrap_or_default()
        .lines()
    {
        let event: serde_json::Value = serde_json::from_str(line).expect(line);
        if event["event"] == "finished" {
            *count
                .entry(event["trial"].as_str().expect("an id").to_owned())
                .or_default() += 1;
        }
    }
    count
}

#[test]
fn a_finished_run_is_left_as_it_is() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    run(at, &config, "a");
    run(at, &config, "b");
    assert_eq!(
        tables(&at.join("a")),
        tables(&at.join("b")),
        "two runs of one config"
    );
    assert_eq!(
        read(&at.join("a/tables/samples.csv")),
        read(&at.join("b/tables/samples.csv"))
    );
    let before: Vec<(PathBuf, Vec<u8>)> = contents(&at.join("a"));
    run(at, &config, "a");
    assert_eq!(before, contents(&at.join("a")), "run again");
    flowgauge(at, &["report", "a"]).is(0);
    assert_eq!(before, contents(&at.join("a")), "report");
    for derived in ["tables", "plots"] {
        std::fs::remove_dir_all(at.join("a").join(derived)).expect("removed");
    }
    std::fs::remove_file(at.join("a/index.html")).expect("removed");
    let done = flowgauge(at, &["report", "a", "--quiet"]);
    assert_eq!((&done.is(0).stdout[..], &done.stderr[..]), ("", ""));
    assert_eq!(before, contents(&at.join("a")), "rebuilt");
    // How a machine is used changes no plan.
    flowgauge(
        at,
        &[
            "run",
            &config,
            "--out",
            "a",
            "--batch",
            "1",
            "--threads",
            "1",
        ],
    )
    .is(0);
    // Comments and layout of the config change none either.
    let text = read(&at.join(&config));
    run(
        at,
        &write(at, "commented.yaml", format!("# a comment\n{text}\n")),
        "a",
    );
}

fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = listing(folder).into_keys().filter(|p| p.is_file());
    files
        .map(|p| (p.clone(), std::fs::read(&p).expect("a file")))
        .collect()
}

#[test]
fn another_plan_is_kept_out_by_the_keys_that_differ() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    write(at, "other.npy", samples(6, 8));
    run(at, &config, "out");
    let cases: &[(&[&str], &[&str])] = &[
        (&["--seed", "9"], &["seed: 9, there 0"]),
        (&["--set", "seed=9"], &["seed: 9, there 0"]),
        (
            &["--set", "name=other"],
            &["name: \"other\", there \"test\""],
        ),
        (&["--set", "likelihood.0.samples=3"], &["trials"]),
        (&["--set", "likelihood.0.data=other.npy"], &["data"]),
        (
            &["--set", "solvers.0.euler.steps=3"],
            &["steps: 3, there 2"],
        ),
        (
            &["--set", "estimators.1.hutchinson.probes=3"],
            &["probes: 3, there 2"],
        ),
        (&["--set", "chunk=3"], &["trials"]),
        (&["--set", "samples=[]"], &["trials"]),
    ];
    for (change, words) in cases {
        let args = [&["run", &config, "--out", "out"], *change].concat();
        refused(
            at,
            &args,
            &[&["out: it already holds another plan"], *words].concat(),
        );
    }
    // The same file name with other bytes is other data.
    let before = std::fs::read(at.join("x.npy")).expect("data");
    write(at, "x.npy", samples(6, 8));
    refused(at, &["run", &config, "--out", "out"], &["sha256"]);
    write(at, "x.npy", before);
    // A changed card is another model.
    let card = read(Path::new(&card("mixture"))).replace("std: 80.0", "std: 79.0");
    for file in files(Path::new(&super::cli::models("mixture"))) {
        if file.is_file() {
            let name = file
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            write(
                at,
                &format!("mixture/{name}"),
                std::fs::read(&file).expect("a file"),
            );
        }
    }
    write(at, "mixture/card.yaml", card);
    let change = "likelihood.0.model=mixture/card.yaml";
    refused(
        at,
        &[
            "run",
            &config,
            "--out",
            "out",
            "--set",
            change,
            "--set",
            "samples.0.model=mixture/card.yaml",
        ],
        &["card_sha256"],
    );
}

#[test]
fn foreign_folders_are_left_alone() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    write(at, "foreign/notes.txt", "mine");
    write(at, "file", "mine");
    write(at, "garbage/plan.json", "{");
    write(at, "other/plan.json", "{\"format\": 1}");
    for out in ["foreign", "file", "file/below", "garbage", "other"] {
        refused(at, &["run", &config, "--out", out], &[out]);
        refused(at, &["report", out], &[out]);
    }
    std::fs::create_dir(at.join("empty")).expect("made");
    for out in ["empty", "missing"] {
        refused(at, &["report", out], &[out]);
    }
    // What a kill leaves of a beginning does not block the next run.
    write(at, "begun/config.yaml", "name: test\n");
    write(at, "begun/.lock", "");
    write(at, "begun/.flowgauge-abc123.tmp", "{");
    run(at, &config, "begun");
    run(at, &config, "empty");
    assert_eq!(read(&at.join("begun/config.yaml")), read(&at.join(&config)));
    // A refused model leaves no directory.
    refused(
        at,
        &[
            "run",
            &config,
            "--out",
            "new",
            "--set",
            "likelihood.0.data=missing.npy",
        ],
        &["missing.npy"],
    );
    refused(
        at,
        &["run", &config, "--out", "new", "--ort-lib", "missing.so"],
        &["missing.so"],
    );
}

#[test]
fn damaged_rows_are_named_by_report_and_mended_by_run() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    run(at, &config, "whole");
    let whole = at.join("whole");
    let total = finished(&whole, "journal.jsonl").len();
    let expected = tables(&whole);
    for kind in ["rows", "arrays"] {
        for file in files(&whole.join(kind)) {
            let name = format!(
                "{kind}/{}",
                file.file_name().expect("a name").to_string_lossy()
            );
            for damage in ["lost", "changed", "cut"] {
                let out = at.join("out");
                copy(&whole, &out);
                let mut bytes = std::fs::read(&file).expect("a file");
                let last = bytes
                    .iter()
                    .rposition(|b| b.is_ascii_digit())
                    .unwrap_or(bytes.len() - 1);
                match damage {
                    "lost" => std::fs::remove_file(out.join(&name)).expect("removed"),
                    "changed" => {
                        bytes[last] = if bytes[last] == b'7' { b'3' } else { b'7' };
                        drop(write(&out, &name, &bytes));
                    }
                    _ => drop(write(&out, &name, &bytes[..bytes.len() / 2])),
                }
                flowgauge(at, &["report", "out"]).is(2).says(&[&name]);
                // The first of each kind in full, the others only as far as `report` goes: it is quick.
                if file == files(&whole.join(kind))[0] {
                    flowgauge(at, &["run", &config, "--out", "out", "--quiet"])
                        .is(0)
                        .says(&[&name, "done again"]);
                    let counts = finished(&out, "journal.jsonl");
                    assert_eq!(
                        counts.values().sum::<usize>(),
                        total + 1,
                        "{name} {damage}: one trial is done again"
                    );
                    assert_eq!(tables(&out), expected, "{name} {damage}");
                }
                std::fs::remove_dir_all(&out).expect("removed");
            }
        }
    }
    // What a killed process had begun to write is no part of a run, and goes with the next report.
    let begun = ["", "tables/", "plots/", "rows/", "arrays/"];
    let begun = begun.map(|folder| format!("whole/{folder}.flowgauge-abc123.tmp"));
    for name in &begun {
        write(at, name, "torn");
    }
    flowgauge(at, &["report", "whole"]).is(0);
    assert!(begun.iter().all(|name| !at.join(name).exists()));
    std::fs::remove_dir_all(whole.join("rows")).expect("removed");
    flowgauge(at, &["report", "whole"]).is(2).says(&["rows/"]);
    run(at, &config, "whole");
    assert_eq!(tables(&whole), expected);
}

#[test]
fn a_damaged_journal_is_named_and_a_torn_one_goes_on() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    run(at, &config, "whole");
    let journal = read(&at.join("whole/journal.jsonl"));
    let expected = tables(&at.join("whole"));
    let with = |text: &[u8]| {
        copy(&at.join("whole"), &at.join("out"));
        write(at, "out/journal.jsonl", text);
    };
    let after = format!("line {}", journal.lines().count() + 1);
    let damaged: &[(String, &str)] = &[
        (journal.replacen("finished", "finnished", 1), "line 2"),
        (journal.replacen("\"trial\"", "\"trail\"", 1), "line 2"),
        (format!("garbage\n{journal}"), "line 1"),
        (format!("{journal}garbage\n"), &after),
        (journal.replacen('\n', "\n\n", 1), "line 2"),
        (journal.replacen('{', "\0", 1), "line 1"),
    ];
    for (text, line) in damaged {
        with(text.as_bytes());
        refused(
            at,
            &["run", &config, "--out", "out"],
            &["journal.jsonl", line],
        );
        refused(at, &["report", "out"], &["journal.jsonl", line]);
    }
    // A line that a kill tore is no damage: its trial alone is done again.
    for torn in [journal.len() - 1, journal.len() - 20, journal.len() - 200] {
        with(&journal.as_bytes()[..torn]);
        flowgauge(at, &["report", "out"]).is(0);
        run(at, &config, "out");
        assert!(
            finished(&at.join("out"), "journal.jsonl")
                .values()
                .all(|n| *n == 1),
            "{torn}"
        );
        assert_eq!(tables(&at.join("out")), expected, "{torn}");
    }
    with(&[journal.as_bytes(), &[0; 50]].concat());
    run(at, &config, "out");
    assert!(
        read(&at.join("out/journal.jsonl")).starts_with(&journal),
        "nothing is done again"
    );
    assert_eq!(tables(&at.join("out")), expected);
    // Without a journal nothing is known to be finished.
    std::fs::remove_file(at.join("out/journal.jsonl")).expect("removed");
    flowgauge(at, &["report", "out"]).is(0);
    run(at, &config, "out");
    assert_eq!(tables(&at.join("out")), expected);
    // And the plan is guarded again.
    let plan = read(&at.join("out/plan.json"));
    write(
        at,
        "out/plan.json",
        plan.replace("\"environment\"", "\"environment\" "),
    );
    refused(
        at,
        &["run", &config, "--out", "out"],
        &["plan.json", "not what the run wrote"],
    );
}

#[test]
fn an_edited_plan_is_refused() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    run(at, &config, "out");
    let plan = read(&at.join("out/plan.json"));
    for (from, to, word) in [
        ("\"seed\": 0", "\"seed\": 1", "plan.json"),
        ("\"format\": 1", "\"format\": 99", "format 99"),
        ("\"steps\": 2", "\"steps\": 20", "plan.json"),
        ("{", "", "plan.json"),
    ] {
        assert!(plan.contains(from), "{from}");
        write(at, "out/plan.json", plan.replacen(from, to, 1));
        refused(at, &["run", &config, "--out", "out"], &[word]);
        refused(at, &["report", "out"], &[word]);
    }
    std::fs::remove_file(at.join("out/plan.json")).expect("removed");
    refused(at, &["run", &config, "--out", "out"], &["no plan"]);
    refused(at, &["report", "out"], &["no plan"]);
}

/// Trials of a fifth of a second or less, enough of them that a kill falls between two.
fn long_config(at: &Path) -> String {
    let model = card("mixture");
    write(at, "x.npy", samples(24, 8));
    write(
        at,
        "long.yaml",
        format!(
            "name: long\nestimators: [exact, {{hutchinson: {{probes: 4}}}}]\nsolvers: [{{rk4: {{steps: 60}}}}]\nchunk: 1\n\
             likelihood:\n  - {{model: {model:?}, data: x.npy, profile: 2}}\n\
             samples:\n  - {{model: {model:?}, samplers: [{{heun: {{steps: 20}}}}], count: 5, reference: x.npy, metrics: [frechet]}}\n"
        ),
    )
}

#[test]
fn a_killed_run_goes_on_where_it_was() {
    let folder = folder();
    let at = folder.path();
    let config = long_config(at);
    run(at, &config, "whole");
    let total = finished(&at.join("whole"), "journal.jsonl").len();
    let lines =
        || std::fs::read_to_string(at.join("out/journal.jsonl")).map_or(0, |t| t.lines().count());
    for pause in [0, 3, 12, 20] {
        let mut child = command(at, &["run", &config, "--out", "out", "--quiet"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let began = Instant::now();
        while lines() <= pause && began.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("killed");
        child.wait().expect("ended");
    }
    let text = read(&at.join("out/journal.jsonl"));
    let survived = text
        .lines()
        .filter(|l| serde_json::from_str::<serde_json::Value>(l).is_ok())
        .count();
    assert!(survived > 20, "{survived} lines survive the kills");
    run(at, &config, "out");
    let counts = finished(&at.join("out"), "journal.jsonl");
    assert_eq!(counts.len(), total);
    assert!(
        counts.values().all(|n| *n == 1),
        "nothing finished is done twice: {counts:?}"
    );
    assert_eq!(tables(&at.join("out")), tables(&at.join("whole")));
    assert_eq!(
        read(&at.join("out/tables/samples.csv")),
        read(&at.join("whole/tables/samples.csv"))
    );
}

#[test]
fn two_runs_do_not_share_a_directory() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    run(at, &config, "out");
    let lock = std::fs::File::create(at.join("out/.lock")).expect("a lock");
    lock.lock().expect("held");
    refused(
        at,
        &["run", &config, "--out", "out"],
        &["out", "another `flowgauge run`"],
    );
    flowgauge(at, &["report", "out"]).is(0);
    drop(lock);
    run(at, &config, "out");
}

#[test]
fn a_failed_trial_is_a_failure_that_retry_repeats() {
    let folder = folder();
    let at = folder.path();
    let graph = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hostile/nan.onnx");
    write(at, "nan/model.onnx", std::fs::read(graph).expect("a graph"));
    write(
        at,
        "nan/card.yaml",
        "name: nan\nshape: [2]\nnetwork: {file: model.onnx, inputs: {x: x, time: t}, output: y, prediction: velocity}\n\
         path: {kind: flow-matching, t_min: 0.01, t_max: 0.9}\n",
    );
    write(at, "x.npy", samples(4, 2));
    let config = write(
        at,
        "config.yaml",
        "name: nan\nestimators: [exact]\nsolvers: [{euler: {steps: 2}}]\nlikelihood: [{model: nan/card.yaml, data: x.npy}]\n\
         samples: [{model: nan/card.yaml, samplers: [{heun: {steps: 2}}], count: 4, reference: x.npy, metrics: [frechet]}]\n",
    );
    let first = flowgauge(at, &["run", &config, "--out", "out"]);
    first.is(1).says(&["failed"]);
    let rows = read(&at.join("out/tables/samples.csv"));
    assert_eq!(rows.matches("non-finite").count(), 4, "{rows}");
    let lines = || read(&at.join("out/journal.jsonl")).lines().count();
    let before = lines();
    flowgauge(at, &["run", &config, "--out", "out"]).is(1);
    assert_eq!(lines(), before, "what failed stays so");
    flowgauge(at, &["run", &config, "--out", "out", "--retry"]).is(1);
    assert_eq!(lines(), before + 1, "until --retry");
    flowgauge(at, &["report", "out"]).is(0);
}
