//! `flowgauge status`: what is done, who is at work and since when, and what nobody runs.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cli::{command, config, flowgauge, folder, refused, write};
use super::resume::{finished, read, run};

fn status(at: &Path) -> Value {
    let done = flowgauge(at, &["status", "out", "--json"]);
    serde_json::from_str(&done.is(0).stdout).expect("JSON")
}

#[test]
fn status_counts_trials_and_names_processes() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    refused(at, &["status", "out"], &["out", "there is no plan"]);
    run(at, &config, "out");
    let total = finished(&at.join("out"), "journal.jsonl").len();
    let all = status(at);
    assert_eq!(
        (&all["finished"], &all["outstanding"]),
        (&total.into(), &0.into())
    );
    assert_eq!(all["throughput"][0]["worker"], "the run");
    assert_eq!(
        all["processes"],
        Value::Array(vec![]),
        "its lease is taken back"
    );
    // Two trials are taken out of the journal, and one has failed.
    let journal = read(&at.join("out/journal.jsonl"));
    let mut lines: Vec<&str> = journal.lines().collect();
    let failed: Value = serde_json::from_str(lines.pop().expect("a line")).expect("an event");
    lines.pop();
    let failed = format!(
        "{{\"event\":\"failed\",\"trial\":{},\"error\":\"no memory\",\"seconds\":1.0}}",
        failed["trial"]
    );
    lines.push(&failed);
    write(at, "out/journal.jsonl", lines.join("\n") + "\n");
    let lease = |name: &str, part: &str, machine: &str, pid: u32| {
        let text = format!(
            "{{\"worker\":\"{name}\",\"part\":\"{part}\",\"host\":\"{name}.example\",\"pid\":{pid},\"machine\":\"{machine}\",\
             \"began\":\"2026-11-30T00:00:00Z\",\"renewals\":3,\"renewed\":\"2026-11-30T00:01:00Z\",\"lease_seconds\":60,\
             \"alive_seconds\":60,\"trial\":\"abc\",\"work\":\"samples\",\"since\":\"2026-11-30T00:00:30Z\",\
             \"trial_seconds\":30,\"done\":4,\"seconds_left\":120}}"
        );
        write(at, &format!("out/workers/{name}.json"), text)
    };
    lease("far", "1/2", "", 7);
    let some = status(at);
    assert_eq!(some["failed"][0]["error"], "no memory");
    assert_eq!(
        (&some["outstanding"], &some["seconds_left"]),
        (&1.into(), &120.0.into())
    );
    assert_eq!(some["processes"][0]["dead"], false);
    // The other shard has no process; which of both holds the outstanding trial is the plan's matter.
    let lost = some["lost_shards"].as_array().expect("a list");
    assert!(lost.iter().all(|l| l["shard"] == "2/2"), "{lost:?}");
    let text = flowgauge(at, &["status", "out"]);
    for words in [
        "1 failed, 1 outstanding",
        "about 2 min left",
        "far.example, process 7",
        "abc since 2026-11-30T00:00:30Z",
        "4 done",
    ] {
        assert!(
            text.is(0).stdout.contains(words),
            "{words}: {}",
            text.stdout
        );
    }
    // It watches until the lease has run out, when nothing else happens.
    let lease = read(&at.join("out/workers/far.json"))
        .replace("\"lease_seconds\":60", "\"lease_seconds\":1");
    write(at, "out/workers/far.json", lease);
    let log = std::fs::File::create(at.join("watched")).expect("a file");
    let mut watching = command(at, &["status", "out", "--watch", "0.2", "--json"])
        .stdout(Stdio::from(log))
        .spawn()
        .expect("the program starts");
    let began = Instant::now();
    while !read(&at.join("watched")).contains("\"dead\":true") {
        assert!(began.elapsed() < Duration::from_secs(60), "it stays alive");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        read(&at.join("watched")).contains("\"dead\":false"),
        "at first nothing was known"
    );
    // When nothing is outstanding, it ends by itself.
    write(at, "out/journal.jsonl", journal);
    assert!(watching.wait().expect("ended").success());
    for wrong in ["0", "-1", "soon"] {
        refused(
            at,
            &["status", "out", &format!("--watch={wrong}")],
            &["--watch", "seconds"],
        );
    }
}
