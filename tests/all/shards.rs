//! One run by many processes: each does its share, and together they leave what one would have left.

use std::collections::BTreeSet;
use std::path::Path;

use super::cli::{command, config, flowgauge, refused};
use super::resume::{finished, read, run, tables};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A run's rows without what the clock measured, by trial.
fn rows(run: &Path, trial: &str) -> Vec<Vec<String>> {
    let mut reader =
        csv::Reader::from_path(run.join("rows").join(format!("{trial}.csv"))).expect("rows");
    let columns = reader.headers().expect("columns").clone();
    let kept: Vec<usize> = (0..columns.len())
        .filter(|i| !columns[*i].contains("seconds"))
        .collect();
    reader
        .records()
        .map(|r| r.expect("a row"))
        .map(|r| kept.iter().map(|i| r[*i].to_owned()).collect())
        .collect()
}

fn same_report(a: &Path, b: &Path) {
    assert_eq!(tables(a), tables(b));
    assert_eq!(
        read(&a.join("tables/samples.csv")),
        read(&b.join("tables/samples.csv"))
    );
}

#[test]
fn shards_in_directories_of_their_own_make_the_whole_run() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    run(at, &config, "whole");
    let mut done = BTreeSet::new();
    for (shard, out) in [("1/3", "a"), ("2/3", "b"), ("3/3", "c")] {
        let args = ["run", &config, "--out", out, "--shard", shard];
        flowgauge(at, &args)
            .is(0)
            .says(&[&format!("shard {shard}"), "outstanding"]);
        for trial in finished_trials(&at.join(out)) {
            assert_eq!(
                rows(&at.join(out), &trial),
                rows(&at.join("whole"), &trial),
                "{trial}"
            );
            assert!(done.insert(trial), "no trial is two shards'");
        }
        // Done is done for a shard too.
        let before = finished(&at.join(out), &journal(shard));
        flowgauge(at, &args).is(0);
        assert_eq!(before, finished(&at.join(out), &journal(shard)));
        // Its own report says that it is not everything.
        assert!(read(&at.join(out).join("index.html")).contains("outstanding"));
    }
    assert_eq!(
        done.len(),
        finished(&at.join("whole"), "journal.jsonl").len()
    );
    flowgauge(at, &["report", "a", "b", "c"]).is(0);
    for out in ["a", "b", "c"] {
        same_report(&at.join(out), &at.join("whole"));
        assert!(!read(&at.join(out).join("index.html")).contains("outstanding"));
    }
    flowgauge(at, &["report", "c", "a", "b", "--out", "all"]).is(0);
    same_report(&at.join("all"), &at.join("whole"));
    // Two of three are not the whole, and say so.
    flowgauge(at, &["report", "a", "b"]).is(0);
    assert!(read(&at.join("a/index.html")).contains("outstanding"));
}

fn journal(shard: &str) -> String {
    format!("journal-{}.jsonl", shard.replace('/', "-of-"))
}

fn finished_trials(run: &Path) -> Vec<String> {
    let files = std::fs::read_dir(run)
        .expect("a run")
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned());
    let journals = files.filter(|n| n.starts_with("journal"));
    journals
        .flat_map(|n| finished(run, &n).into_keys().collect::<Vec<_>>())
        .collect()
}

#[test]
fn shards_meet_in_one_directory() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    run(at, &config, "whole");
    let start = |shard: &str| {
        command(
            at,
            &["run", &config, "--out", "out", "--quiet", "--shard", shard],
        )
        .spawn()
        .expect("the program starts")
    };
    let mut both = ["1/2", "2/2"].map(start);
    for child in &mut both {
        assert!(child.wait().expect("it ends").success());
    }
    same_report(&at.join("out"), &at.join("whole"));
    let counts = ["1/2", "2/2"].map(|s| finished(&at.join("out"), &journal(s)));
    assert!(
        counts
            .iter()
            .all(|c| !c.is_empty() && c.values().all(|n| *n == 1)),
        "{counts:?}"
    );
    // A whole run finds nothing left to do, and waits for no shard that has ended.
    run(at, &config, "out");
    assert!(finished(&at.join("out"), "journal.jsonl").is_empty());
    same_report(&at.join("out"), &at.join("whole"));
    // While a shard is at work, neither it nor the whole run may begin there a second time; another shard may.
    let whole = std::fs::File::create(at.join("out/.lock")).expect("a lock");
    let share = std::fs::File::create(at.join("out/.lock-1-of-2")).expect("a lock");
    whole.lock_shared().expect("held");
    share.lock().expect("held");
    refused(
        at,
        &["run", &config, "--out", "out"],
        &["another `flowgauge run`"],
    );
    refused(
        at,
        &["run", &config, "--out", "out", "--shard", "1/2"],
        &["another `flowgauge run`"],
    );
    flowgauge(
        at,
        &["run", &config, "--out", "out", "--shard", "2/2", "--quiet"],
    )
    .is(0);
}

#[test]
fn a_share_that_cannot_be_is_refused() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    for shard in ["0/3", "4/3", "1", "1/0", "-1/3", "a/b"] {
        refused(
            at,
            &["run", &config, "--out", "out", &format!("--shard={shard}")],
            &["--shard", "1 to N"],
        );
    }
    refused(at, &["report", "."], &["plan.json"]);
}

#[test]
fn an_engine_names_the_shard() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    let auto = |variables: &[(&str, &str)]| {
        let args = [
            "run",
            &config,
            "--out",
            "out",
            "--shard",
            "auto",
            "--no-check",
        ];
        let mut call = command(at, &args);
        // Whatever started this test is not meant.
        let others = [
            "RANK",
            "WORLD_SIZE",
            "SLURM_ARRAY_TASK_ID",
            "OMPI_COMM_WORLD_RANK",
            "PMI_RANK",
        ];
        for name in others {
            call.env_remove(name);
        }
        super::cli::finish({
            call.envs(variables.iter().copied());
            call
        })
    };
    auto(&[]).is(2).says(&[
        "--shard auto: no engine started this process",
        "--shard I/N",
    ]);
    let wrong = [("JOB_COMPLETION_INDEX", "4"), ("FLOWGAUGE_SHARDS", "4")];
    auto(&wrong)
        .is(2)
        .says(&["JOB_COMPLETION_INDEX=4", "contradict"]);
    assert!(!at.join("out").exists(), "nothing was begun");
    let second = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")];
    let said = auto(&second);
    said.is(0).says(&[
        "shard 2/2 from Open MPI (OMPI_COMM_WORLD_RANK=1",
        "shard 2/2: ",
    ]);
    assert!(!finished(&at.join("out"), "journal-2-of-2.jsonl").is_empty());
    // Nobody runs the first shard: that is said, with the command, which works.
    let report = flowgauge(at, &["report", "out"]);
    report
        .is(0)
        .says(&["shard 1/2 has", "outstanding trials and no process"]);
    let lost = report
        .stderr
        .split('`')
        .nth(1)
        .expect("a command")
        .to_owned();
    assert_eq!(
        lost,
        format!("flowgauge run {config} --out out --shard 1/2")
    );
    let words: Vec<&str> = lost.split_whitespace().skip(1).collect();
    flowgauge(at, &words).is(0);
    assert_eq!(flowgauge(at, &["report", "out"]).is(0).stderr, "");
}

#[test]
fn different_runs_stand_side_by_side() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    run(at, &config, "a");
    flowgauge(
        at,
        &[
            "run",
            &config,
            "--out",
            "b",
            "--quiet",
            "--seed",
            "9",
            "--set",
            "name=again",
        ],
    )
    .is(0);
    let own = tables(&at.join("a"));
    flowgauge(at, &["report", "a", "b", "--out", "both"]).is(0);
    let page = read(&at.join("both/index.html"));
    for words in ["mixture (test)", "mixture (again)", "0 (test), 9 (again)"] {
        assert!(page.contains(words), "{words}");
    }
    let (a, b, both) = (
        &own["samples.csv"],
        &tables(&at.join("b"))["samples.csv"],
        &tables(&at.join("both"))["samples.csv"],
    );
    assert_eq!(both.len(), a.len() + b.len());
    // Without a folder for all, each keeps a report of its own.
    flowgauge(at, &["report", "a", "b"]).is(0);
    assert_eq!(tables(&at.join("a")), own);
    refused(
        at,
        &["report", "a", "b", "--out", "a/plan.json"],
        &["plan.json"],
    );
}
