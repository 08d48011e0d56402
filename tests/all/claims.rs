//! One run by processes that take trials as they go: together they leave what one would have left, whoever of them dies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::cli::{card, command, flowgauge, folder, refused, samples, write};
use super::resume::{finished, read, run, tables};

/// Many short trials, and statistics that wait for samples.
fn config(at: &Path) -> String {
    let model = card("mixture");
    write(at, "x.npy", samples(24, 8));
    write(
        at,
        "claims.yaml",
        format!(
            "name: claims\nestimators: [exact, {{hutchinson: {{probes: 2}}}}]\nsolvers: [{{rk4: {{steps: 40}}}}]\nchunk: 2\n\
             likelihood:\n  - {{model: {model:?}, data: x.npy, profile: 2}}\n\
             samples:\n  - {{model: {model:?}, samplers: [{{heun: {{steps: 20}}}}], count: 6, reference: x.npy, metrics: [frechet]}}\n"
        ),
    )
}

fn start(at: &Path, config: &str, more: &[&str]) -> Child {
    let args = [
        &["run", config, "--out", "out", "--threads", "1", "--claim"],
        more,
    ]
    .concat();
    command(at, &args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts")
}

/// Exit status, standard output and standard error of a process that has been waited for.
fn end(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().expect("ended");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let told = (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    );
    assert!(!told.2.contains("panicked"), "{}", told.2);
    told
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .status();
    assert!(sent.expect("kill runs").success());
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// How often the journals say that each trial was finished.
fn all_finished(out: &Path) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for name in names(out).iter().filter(|n| n.starts_with("journal")) {
        for (trial, times) in finished(out, name) {
            *count.entry(trial).or_default() += times;
        }
    }
    count
}

fn wait_until(what: &str, ready: impl Fn() -> bool) {
    let began = Instant::now();
    while !ready() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "it never came so far: {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn same_as_whole(at: &Path) {
    assert_eq!(tables(&at.join("out")), tables(&at.join("whole")));
    let samples = "tables/samples.csv";
    assert_eq!(
        read(&at.join("out").join(samples)),
        read(&at.join("whole").join(samples))
    );
}

#[test]
fn processes_that_start_at_once_share_a_run() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    run(at, &config, "whole");
    let total = finished(&at.join("whole"), "journal.jsonl").len();
    let all: Vec<_> = (0..4)
        .map(|_| start(at, &config, &["--lease", "20s"]))
        .collect();
    let told: Vec<_> = all.into_iter().map(end).collect();
    assert!(told.iter().all(|(code, _, _)| *code == Some(0)), "{told:?}");
    let counts = all_finished(&at.join("out"));
    assert!(
        counts.len() == total && counts.values().all(|n| *n == 1),
        "{counts:?}"
    );
    assert!(
        told.iter()
            .all(|(_, stdout, _)| stdout.contains("report: out")),
        "{told:?}"
    );
    let others = told
        .iter()
        .filter(|(_, _, stderr)| stderr.contains("another process has written"));
    println!("{} of 4 left the report to another", others.count());
    assert_eq!(
        names(&at.join("out/workers")),
        Vec::<String>::new(),
        "leases are taken back"
    );
    same_as_whole(at);
    flowgauge(at, &["verify", "out", "--fraction", "0.2"]).is(0);
    // Nothing is left to do for whoever comes later, with claims or without.
    for more in [&["--claim"][..], &[]] {
        flowgauge(
            at,
            &[&["run", &config, "--out", "out", "--quiet"], more].concat(),
        )
        .is(0);
    }
    assert_eq!(all_finished(&at.join("out")), counts);
    // Another plan does not join.
    let other = ["run", &config, "--out", "out", "--claim", "--seed", "9"];
    refused(at, &other, &["already holds another plan", "seed: 9"]);
}

#[test]
fn trials_of_killed_processes_are_taken_over() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    run(at, &config, "whole");
    let total = finished(&at.join("whole"), "journal.jsonl").len();
    let out = at.join("out");
    for round in 0..3 {
        let mut both = [0, 1].map(|_| start(at, &config, &["--lease", "5s", "--quiet"]));
        wait_until("more trials", || all_finished(&out).len() > 3 * round + 2);
        for child in &mut both {
            child.kill().expect("killed");
            child.wait().expect("ended");
        }
    }
    assert!(
        !names(&out.join("workers")).is_empty(),
        "the killed leave their leases"
    );
    let last = [0, 1].map(|_| start(at, &config, &["--lease", "5s"]));
    for child in last {
        let (code, _, stderr) = end(child);
        assert_eq!(code, Some(0), "{stderr}");
    }
    let counts = all_finished(&out);
    assert!(
        counts.len() == total && counts.values().all(|n| *n == 1),
        "{counts:?}"
    );
    same_as_whole(at);
}

#[test]
fn claim_of_a_lost_machine_runs_out() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    run(at, &config, "whole");
    run(at, &config, "out");
    // A machine that nobody hears of again holds two trials, which are nobody's yet.
    let trials: Vec<String> = finished(&at.join("out"), "journal.jsonl")
        .into_keys()
        .collect();
    let journal = read(&at.join("out/journal.jsonl"));
    let kept = journal
        .lines()
        .filter(|l| !trials[..2].iter().any(|t| l.contains(t.as_str())));
    write(
        at,
        "out/journal.jsonl",
        kept.map(|l| format!("{l}\n")).collect::<String>(),
    );
    for trial in &trials[..2] {
        write(at, &format!("out/claims/{trial}.0"), "lost-1");
    }
    // Its clock was an hour ahead, which nobody looks at.
    let lease = "{\"worker\":\"lost-1\",\"host\":\"lost\",\"pid\":1,\"began\":\"2099-01-01T00:00:00Z\",\"renewals\":7,\
         \"lease_seconds\":1.5,\"alive_seconds\":9,\"done\":0}";
    write(at, "out/workers/lost-1.json", lease);
    let began = Instant::now();
    let (code, _, stderr) = end(start(at, &config, &[]));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        began.elapsed() > Duration::from_millis(1500),
        "the lease was waited for"
    );
    for trial in &trials[..2] {
        assert!(
            at.join(format!("out/claims/{trial}.1")).exists(),
            "the next generation"
        );
    }
    same_as_whole(at);
}

#[test]
fn trial_that_two_processes_did_is_kept_once_and_shown() {
    let folder = folder();
    let at = folder.path();
    let model = card("mixture");
    write(at, "x.npy", samples(6, 8));
    let config = write(
        at,
        "slow.yaml",
        format!(
            "name: slow\nestimators: [exact]\nsolvers: [{{rk4: {{steps: 3000}}}}]\nchunk: 1\n\
             likelihood:\n  - {{model: {model:?}, data: x.npy, profile: 0, budget: false}}\n"
        ),
    );
    run(at, &config, "whole");
    let out = at.join("out");
    let claimed = || names(&out.join("claims")).len();
    let first = start(at, &config, &["--lease", "1s"]);
    wait_until("a claim", || claimed() > 1);
    // It stands still with a trial in hand, as on a machine that swaps, and its lease runs out.
    signal(&first, "STOP");
    let before = all_finished(&out);
    let (code, _, stderr) = end(start(at, &config, &["--lease", "1s"]));
    assert_eq!(code, Some(0), "{stderr}");
    same_as_whole(at);
    signal(&first, "CONT");
    let (code, _, stderr) = end(first);
    assert_eq!(code, Some(0), "{stderr}");
    let counts = all_finished(&out);
    assert_eq!(counts.len(), 6);
    let twice = counts.values().filter(|n| **n == 2).count();
    assert!(twice == 1 && before.len() < 6, "{counts:?}");
    flowgauge(at, &["report", "out"]).is(0);
    same_as_whole(at);
    assert!(
        read(&out.join("index.html")).contains("done twice"),
        "the page says so"
    );
    flowgauge(at, &["verify", "out"]).is(0);
}

#[test]
fn damaged_files_are_done_again_with_claims_too() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    run(at, &config, "whole");
    assert_eq!(end(start(at, &config, &[])).0, Some(0));
    let rows: Vec<PathBuf> = names(&at.join("out/rows"))
        .iter()
        .map(|n| at.join("out/rows").join(n))
        .collect();
    std::fs::write(&rows[0], "garbage").expect("written");
    std::fs::remove_file(&rows[1]).expect("removed");
    flowgauge(at, &["report", "out"]).is(2);
    let (code, _, stderr) = end(start(at, &config, &[]));
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stderr.matches("done again").count(), 2, "{stderr}");
    same_as_whole(at);
    flowgauge(at, &["verify", "out", "--fraction", "0.2"]).is(0);
}

#[test]
fn stopped_process_gives_its_trial_back_at_once() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    run(at, &config, "whole");
    let out = at.join("out");
    // A lease of an hour: only what is given back can be taken.
    let long = ["--lease", "1h", "--grace", "0s"];
    let first = start(at, &config, &long);
    wait_until("two trials", || all_finished(&out).len() > 1);
    signal(&first, "TERM");
    let (code, _, stderr) = end(first);
    assert_eq!(code, Some(75), "{stderr}");
    let (code, _, stderr) = end(start(at, &config, &long));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(all_finished(&out).values().all(|n| *n == 1));
    same_as_whole(at);
}

#[test]
fn claims_exclude_shards_and_need_a_sensible_lease() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    let cases: [(&[&str], &[&str]); 5] = [
        (&["--claim", "--shard", "1/2"], &["--claim", "--shard"]),
        (&["--lease", "5s"], &["--claim"]),
        (&["--claim", "--lease", "0.1s"], &["--lease"]),
        (
            &["--claim", "--lease", "soon"],
            &["--lease", "expected number"],
        ),
        (&["--claim", "--lease", "10ms"], &["at least 1s"]),
    ];
    for (more, words) in cases {
        refused(
            at,
            &[&["run", &config, "--out", "out"], more].concat(),
            words,
        );
    }
}
