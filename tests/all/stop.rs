//! Work that a signal stops: what is done is kept and said, and the exit status tells whether the same command goes on.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::cli::{card, command, flowgauge, samples, write};
use super::resume::{finished, read};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Starts a call, waits until something is there, and sends it a signal: exit status and standard error.
fn stopped(
    at: &Path,
    args: &[&str],
    signal: &str,
    ready: impl Fn() -> bool,
) -> (Option<i32>, String) {
    let child: Child = command(at, args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let began = Instant::now();
    while !ready() && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(ready(), "it never came so far");
    let sent = Command::new("kill")
        .args([&format!("-{signal}"), &child.id().to_string()])
        .status();
    assert!(sent.expect("kill runs").success());
    let output = child.wait_with_output().expect("ended");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// Some hundred trials that take some seconds together.
fn long_config(at: &Path) -> String {
    let model = card("mixture");
    write(at, "x.npy", samples(200, 8));
    write(
        at,
        "long.yaml",
        format!(
            "name: long\nestimators: [exact]\nsolvers: [{{rk4: {{steps: 200}}}}]\nchunk: 1\n\
             likelihood:\n  - {{model: {model:?}, data: x.npy, profile: 0, budget: false}}\n"
        ),
    )
}

#[test]
fn a_run_that_is_stopped_says_how_to_go_on() {
    let folder = folder();
    let at = folder.path();
    let config = long_config(at);
    for signal in ["INT", "TERM"] {
        let lines = || {
            std::fs::read_to_string(at.join("out/journal.jsonl")).map_or(0, |t| t.lines().count())
        };
        let before = lines();
        let (code, stderr) = stopped(at, &["run", &config, "--out", "out"], signal, || {
            lines() > before + 1
        });
        assert_eq!(code, Some(75), "{signal}: {stderr}");
        assert!(
            stderr.contains("of 200 trials done; the same command goes on from there"),
            "{signal}: {stderr}"
        );
        let journal = read(&at.join("out/journal.jsonl"));
        assert!(
            !journal.contains("failed"),
            "what was broken off has not failed: {journal}"
        );
        assert!(journal.ends_with('\n'));
    }
    let done = flowgauge(at, &["run", &config, "--out", "out"]);
    done.is(0).says(&["trials are done already; resuming"]);
    let counts = finished(&at.join("out"), "journal.jsonl");
    assert!(
        counts.len() == 200 && counts.values().all(|n| *n == 1),
        "{counts:?}"
    );
}

/// A few trials of a second or so, of one kind.
fn slow_config(at: &Path) -> String {
    let model = card("mixture");
    write(at, "x.npy", samples(8, 8));
    write(
        at,
        "slow.yaml",
        format!(
            "name: slow\nestimators: [exact]\nsolvers: [{{rk4: {{steps: 4000}}}}]\nchunk: 1\n\
             likelihood:\n  - {{model: {model:?}, data: x.npy, profile: 0, budget: false}}\n"
        ),
    )
}

#[test]
fn a_scheduler_s_signal_lets_the_trial_in_hand_end_within_its_grace() {
    let folder = folder();
    let at = folder.path();
    let config = slow_config(at);
    let done = |out: &str| finished(&at.join(out), "journal.jsonl").len();
    // Without time to go on, the trial in hand is given up; with time, it is committed.
    for (signal, grace, more) in [("USR1", "0s", 0), ("USR2", "60s", 1), ("TERM", "60s", 1)] {
        let out = format!("out-{signal}");
        let args = [
            "run",
            &config,
            "--out",
            &out,
            "--threads",
            "1",
            "--grace",
            grace,
            "--no-check",
        ];
        let third_in_hand = || {
            // Its lease follows the journal, and the trial begins after that.
            let ready = done(&out) == 2;
            if ready {
                std::thread::sleep(Duration::from_millis(200));
            }
            ready && done(&out) == 2
        };
        let (code, stderr) = stopped(at, &args, signal, third_in_hand);
        assert_eq!(code, Some(75), "{signal}: {stderr}");
        assert_eq!(done(&out), 2 + more, "{signal}: {stderr}");
        let words = format!("{} of 8 trials done; the same command goes on", 2 + more);
        assert!(stderr.contains(&words), "{signal}: {stderr}");
    }
    flowgauge(at, &["run", &config, "--out", "out-USR1", "--quiet"]).is(0);
    let counts = finished(&at.join("out-USR1"), "journal.jsonl");
    assert!(
        counts.len() == 8 && counts.values().all(|n| *n == 1),
        "{counts:?}"
    );
}

#[test]
fn a_time_limit_stops_a_run_in_time() {
    let folder = folder();
    let at = folder.path();
    let config = slow_config(at);
    let args = [
        "run",
        &config,
        "--out",
        "out",
        "--threads",
        "1",
        "--no-check",
        "--quiet",
    ];
    let limited = |limit: &str| {
        let began = Instant::now();
        let call = flowgauge(at, &[&args[..], &["--time-limit", limit]].concat());
        (call, began.elapsed())
    };
    let began = Instant::now();
    flowgauge(at, &args).is(0);
    let whole = began.elapsed();
    std::fs::remove_dir_all(at.join("out")).expect("removed");
    // A part of the time of all, and the seconds that are kept for giving up a trial. If the machine has become faster
    // since all were timed, the part was no limit, and a smaller one is tried.
    let mut ends = Vec::new();
    for part in [1.5, 3.0, 6.0] {
        let _ = std::fs::remove_dir_all(at.join("out"));
        ends.clear();
        let limit = whole.div_f64(part) + Duration::from_secs(3);
        let words = format!("{}ms", limit.as_millis());
        while ends.last() != Some(&Some(0)) {
            let (call, took) = limited(&words);
            assert!(
                took < limit + Duration::from_secs(10),
                "{took:?} of {limit:?}: {}",
                call.stderr
            );
            ends.push(call.code);
            assert!(ends.len() < 20, "it does not get on: {}", call.stderr);
        }
        if ends.len() > 1 {
            break;
        }
    }
    assert!(
        ends.len() > 1 && ends[..ends.len() - 1].iter().all(|end| *end == Some(75)),
        "{ends:?}"
    );
    let counts = finished(&at.join("out"), "journal.jsonl");
    assert!(
        counts.len() == 8 && counts.values().all(|n| *n == 1),
        "{counts:?}"
    );
    // A limit in which no trial can end would be met for ever: that is an error.
    let journal = read(&at.join("out/journal.jsonl"));
    let long: String = journal
        .lines()
        .take(7)
        .map(|line| {
            let mut event: serde_json::Value = serde_json::from_str(line).expect("an event");
            if event["event"] == "finished" {
                event["seconds"] = 9000.0.into();
            }
            format!("{event}\n")
        })
        .collect();
    write(at, "out/journal.jsonl", long);
    let (call, _) = limited("1h");
    call.is(2).says(&[
        "--time-limit 60 min",
        "no outstanding trial",
        "about 2 h 30 min",
    ]);
    for wrong in ["2s", "soon", "5"] {
        let (call, _) = limited(wrong);
        call.is(2).says(&["--time-limit"]);
    }
}

#[test]
fn a_likelihood_that_is_stopped_keeps_its_rows() {
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", samples(400, 8));
    let model = card("mixture");
    let solver = "{rk4: {steps: 200}}";
    let args = [
        "likelihood",
        "--model",
        &model,
        "--data",
        "x.npy",
        "--divergence",
        "exact",
        "--solver",
        solver,
        "--batch",
        "4",
        "--out",
        "o.csv",
    ];
    let kept = || std::fs::read_to_string(at.join("o.csv.partial")).unwrap_or_default();
    let (code, stderr) = stopped(at, &args, "INT", || kept().lines().count() > 5);
    assert_eq!(code, Some(130), "{stderr}");
    for words in [
        "o.csv.partial",
        "of 400 log-likelihoods done",
        "the same command starts again",
    ] {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
    assert!(!at.join("o.csv").exists());
    // Whole rows, in order from the first.
    let text = kept();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<csv::StringRecord> = reader
        .records()
        .collect::<Result<_, _>>()
        .expect("whole rows");
    assert!(rows.len() > 3 && rows.len() < 400 && text.ends_with('\n'));
    assert!(
        rows.iter()
            .enumerate()
            .all(|(i, row)| row[0] == i.to_string())
    );
    // Batches of any size give the same rows.
    let done = flowgauge(at, &args);
    assert!(
        done.is(0).stdout.contains("\nmean log-likelihood "),
        "{}",
        done.stdout
    );
    assert!(read(&at.join("o.csv")).starts_with(&text));
    assert!(!at.join("o.csv.partial").exists());
}

#[test]
fn samples_that_are_stopped_keep_those_that_are_drawn() {
    let folder = folder();
    let at = folder.path();
    let model = card("mixture");
    let sampler = "{heun: {steps: 20000}}";
    let args = [
        "sample",
        "--model",
        &model,
        "--sampler",
        sampler,
        "--count",
        "40",
        "--batch",
        "4",
        "--threads",
        "1",
        "--out",
        "x.npy",
    ];
    // A signal that comes before the work has begun ends the program as it always did.
    let after = |seconds: u64| {
        let began = Instant::now();
        stopped(at, &args, "TERM", || {
            began.elapsed() > Duration::from_secs(seconds)
        })
    };
    let tries = [1, 2, 4, 8, 16].into_iter().map(after);
    let (code, stderr) = tries
        .into_iter()
        .find(|(code, _)| code.is_some())
        .expect("it began in time");
    assert_eq!(code, Some(143), "{stderr}");
    assert!(
        stderr.contains("of 40 samples done; the same command starts again"),
        "{stderr}"
    );
    assert!(!at.join("x.npy").exists());
    let Ok(bytes) = std::fs::read(at.join("x.npy.partial")) else {
        return;
    };
    write(at, "kept.npy", &bytes);
    flowgauge(
        at,
        &[
            "metrics",
            "--generated",
            "kept.npy",
            "--reference",
            "kept.npy",
            "--metric",
            "energy",
            "--out",
            "m.csv",
        ],
    )
    .is(0);
}
