//! Runs in object stores. `scripts/test-s3` tests them over the network; here a folder named `file://` is the store.

use std::path::Path;
use std::process::{Child, Stdio};

use super::cli::{card, command, finish, flowgauge, folder, listing, refused, samples, write};
use super::resume::{read, run, tables};

/// Some short trials, and statistics that wait for samples.
fn config(at: &Path) -> String {
    let model = card("mixture");
    write(at, "x.npy", samples(8, 8));
    write(
        at,
        "stores.yaml",
        format!(
            "name: stores\nestimators: [exact]\nsolvers: [{{rk4: {{steps: 20}}}}]\nchunk: 2\n\
             likelihood:\n  - {{model: {model:?}, data: x.npy, profile: 2}}\n\
             samples:\n  - {{model: {model:?}, samplers: [{{heun: {{steps: 20}}}}], count: 6, reference: x.npy, metrics: [frechet]}}\n"
        ),
    )
}

/// The address of a folder.
fn address(path: &Path) -> String {
    format!("file://{}", path.display())
}

fn start(at: &Path, config: &str, out: &str, more: &[&str]) -> Child {
    let args = ["run", config, "--out", out, "--threads", "1", "--no-check"];
    command(at, &[&args, more].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts")
}

/// Holds that a call succeeds, and words that it prints.
fn prints(at: &Path, args: &[&str], words: &[&str]) {
    let done = flowgauge(at, args);
    done.is(0);
    for word in words {
        assert!(done.stdout.contains(word), "`{word}` in {}", done.stdout);
    }
}

/// The objects of a folder of the store.
fn objects(store: &Path, below: &str) -> Vec<String> {
    let found = listing(&store.join(below)).into_keys();
    let name = |path: &Path| path.strip_prefix(store).map(|p| p.display().to_string());
    found
        .filter(|path| path.is_file())
        .map(|path| name(&path).expect("below the store"))
        .collect()
}

#[test]
fn processes_share_a_run_in_a_store_and_verbs_read_it() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    run(at, &config, "whole");
    let (store, out) = (at.join("store/run"), address(&at.join("store/run")));
    let mut all = [(); 3].map(|()| start(at, &config, &out, &["--claim", "--lease", "20s"]));
    for child in &mut all {
        assert!(child.wait().expect("ended").success());
    }
    assert_eq!(tables(&store), tables(&at.join("whole")));
    let samples = Path::new("tables/samples.csv");
    assert_eq!(
        read(&store.join(samples)),
        read(&at.join("whole").join(samples))
    );
    assert_eq!(objects(&store, "workers"), [""; 0], "leases are taken back");
    let trials = std::fs::read_dir(at.join("whole/rows"))
        .expect("rows")
        .count();
    let commits = objects(&store, "commits").len();
    assert!(commits >= trials, "{commits} commits of {trials} trials");

    // Whoever reads it names the address and not the copy.
    std::fs::remove_file(store.join("index.html")).expect("removed");
    std::fs::remove_dir_all(store.join("tables")).expect("removed");
    let page = format!("report: {out}/index.html");
    prints(at, &["report", &out], &[&page]);
    assert_eq!(tables(&store), tables(&at.join("whole")));
    assert!(store.join("index.html").exists());
    prints(at, &["verify", &out, "--fraction", "0.5"], &[" 0 mismatch"]);
    prints(
        at,
        &["status", &out],
        &["stores: ", "0 failed, 0 outstanding"],
    );
    let claims = write(
        at,
        "claims.yaml",
        "claims: [{name: n, table: summary, where: {estimator: exact}, column: failed, value: 0, tolerance: 0.5}]\n",
    );
    prints(at, &["gate", &out, "--claims", &claims], &["1 pass"]);
    flowgauge(at, &["report", &out, "whole", "--out", "both", "--quiet"]).is(0);
    flowgauge(
        at,
        &["report", &out, "--export", "json", "--out", "all.json"],
    )
    .is(0);

    // Nothing is left to do, and another config is refused.
    let before = objects(&store, "commits");
    let again = flowgauge(at, &["run", &config, "--out", &out, "--no-check"]);
    again.is(0);
    assert!(again.stderr.contains("as with --claim"), "{}", again.stderr);
    assert_eq!(objects(&store, "commits"), before);
    let other = ["run", &config, "--out", &out, "--set", "chunk=4", "--quiet"];
    refused(at, &other, &["already holds another plan", &out]);

    // A commit that is damaged is named, and done again once it is deleted.
    let damaged = store.join(&before[0]);
    std::fs::write(&damaged, "{").expect("written");
    refused(at, &["report", &out], &[&before[0], "is deleted"]);
    std::fs::remove_file(&damaged).expect("removed");
    flowgauge(
        at,
        &["run", &config, "--out", &out, "--quiet", "--no-check"],
    )
    .is(0);
    assert_eq!(tables(&store), tables(&at.join("whole")));
}

#[test]
fn addresses_that_cannot_be_taken_are_refused() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    std::fs::create_dir_all(at.join("photos")).expect("a folder");
    write(at, "photos/cat.png", "");
    std::fs::create_dir_all(at.join("local")).expect("a folder");
    write(at, "local/journal.jsonl", "");
    let [photos, none, local] = ["photos", "none", "local"].map(|name| address(&at.join(name)));
    let run = |out: &str| {
        [
            "run".to_owned(),
            config.clone(),
            "--out".to_owned(),
            out.to_owned(),
        ]
    };
    let plain = |words: &[&str]| {
        words
            .iter()
            .map(|w| (*w).to_owned())
            .collect::<Vec<String>>()
    };
    let shard = [&run(&none)[..], &plain(&["--shard", "1/2"])].concat();
    for (words, message) in [
        (run("s3://").to_vec(), "names no bucket"),
        (run("s3://bucket").to_vec(), "names no folder"),
        (run("s3://bucket/a/../b").to_vec(), "the part `..`"),
        (run("s3://key:word@bucket/a").to_vec(), "the character '@'"),
        (run("http://host/a").to_vec(), "`http://` is not known"),
        (run("file://a").to_vec(), "file:///"),
        (run(&photos).to_vec(), "holds no plan of a run"),
        (run(&local).to_vec(), "holds a run of a directory"),
        (shard, "expected --claim"),
        (plain(&["report", &none]), "there is no plan"),
        (plain(&["verify", &none]), "there is no plan"),
        (plain(&["status", &none]), "there is no plan"),
        (
            plain(&["gate", &none, "--claims", "c.yaml"]),
            "there is no plan",
        ),
        (
            plain(&["report", ".", "--out", "s3://bucket/a"]),
            "expected a path of this machine",
        ),
        (
            plain(&["report", "s3a://bucket/a"]),
            "`s3a://` is not known",
        ),
    ] {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        refused(at, &words, &[message]);
    }
    assert!(!at.join("none").exists());
}

#[test]
fn store_that_nobody_serves_is_tried_again_later() {
    let folder = folder();
    let at = folder.path();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port");
    let mut command = command(at, &["status", "s3://bucket/run"]);
    command.envs([
        ("AWS_ENDPOINT_URL", format!("http://{nobody}").as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "not-to-be-printed"),
    ]);
    let done = finish(command);
    done.is(75);
    assert!(
        done.stderr.contains("the same command goes on later"),
        "{}",
        done.stderr
    );
    assert!(
        !done.stderr.contains("not-to-be-printed"),
        "{}",
        done.stderr
    );
}
