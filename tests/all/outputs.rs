//! `--out` of every verb: through links, into pipes and devices, and never over an input.

#![cfg(unix)]

use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Output;

use crate::cli::{Done, command, config, flowgauge, folder, listing, refused, samples, write};
use crate::metrics::grey_images;

/// A verb that writes one file.
struct Verb {
    /// With `OUT` where the file's name goes.
    args: &'static [&'static str],
    suffix: &'static str,
    /// A file that the call reads.
    input: &'static str,
    /// Whether `-` is standard output.
    table: bool,
}

const VERBS: [Verb; 7] = [
    Verb {
        args: &[
            "likelihood",
            "--model",
            "m/card.yaml",
            "--data",
            "x.npy",
            "--divergence",
            "exact",
            "--solver",
            "{euler: {steps: 2}}",
            "--out",
            "OUT",
        ],
        suffix: "csv",
        input: "x.npy",
        table: true,
    },
    Verb {
        args: &[
            "sample",
            "--model",
            "m/card.yaml",
            "--sampler",
            "{heun: {steps: 2}}",
            "--noise",
            "x.npy",
            "--out",
            "OUT",
        ],
        suffix: "npy",
        input: "m/denoiser.onnx",
        table: false,
    },
    Verb {
        args: &[
            "sample",
            "--model",
            "g/card.yaml",
            "--sampler",
            "{heun: {steps: 2}}",
            "--count",
            "3",
            "--out",
            "other.npy",
            "--png",
            "OUT",
        ],
        suffix: "png",
        input: "g/grey.onnx",
        table: false,
    },
    Verb {
        args: &[
            "metrics",
            "--generated",
            "x.npy",
            "--reference",
            "y.npy",
            "--metric",
            "energy",
            "--out",
            "OUT",
        ],
        suffix: "csv",
        input: "y.npy",
        table: true,
    },
    Verb {
        args: &["differentiate", "m/denoiser.onnx", "--out", "OUT"],
        suffix: "onnx",
        input: "m/denoiser.onnx",
        table: false,
    },
    Verb {
        args: &["gate", "run", "--claims", "claims.yaml", "--out", "OUT"],
        suffix: "csv",
        input: "run/tables/summary.csv",
        table: true,
    },
    Verb {
        args: &[
            "verify",
            "run",
            "--fraction",
            "1",
            "--quiet",
            "--out",
            "OUT",
        ],
        suffix: "csv",
        input: "m/card.yaml",
        table: true,
    },
];

impl Verb {
    fn args<'a>(&'a self, out: &'a str) -> Vec<&'a str> {
        self.args
            .iter()
            .map(|arg| if *arg == "OUT" { out } else { *arg })
            .collect()
    }

    fn run(&self, at: &Path, out: &str) -> Output {
        command(at, &self.args(out))
            .output()
            .expect("the program starts")
    }

    /// Carries the verb out well.
    fn writes(&self, at: &Path, out: &str) -> Done {
        let done = flowgauge(at, &self.args(out));
        done.is(0);
        done
    }

    fn refuses(&self, at: &Path, out: &str, words: &[&str]) {
        refused(at, &self.args(out), words);
    }
}

/// A folder with a model, data, a run and claims about it.
fn place() -> tempfile::TempDir {
    let folder = folder();
    let at = folder.path();
    std::fs::create_dir(at.join("m")).expect("made");
    for file in std::fs::read_dir(crate::cli::models("mixture"))
        .expect("the model")
        .flatten()
    {
        std::fs::copy(file.path(), at.join("m").join(file.file_name())).expect("copied");
    }
    std::fs::create_dir(at.join("g")).expect("made");
    grey_images(&at.join("g"));
    config(at);
    write(at, "x.npy", samples(5, 8));
    write(at, "y.npy", samples(6, 8));
    let text = std::fs::read_to_string(at.join("config.yaml")).expect("a config");
    write(
        at,
        "config.yaml",
        text.replace(&crate::cli::card("mixture"), "m/card.yaml"),
    );
    flowgauge(at, &["run", "config.yaml", "--out", "run", "--quiet"]).is(0);
    write(
        at,
        "claims.yaml",
        "claims:\n  - {table: metrics, where: {metric: frechet}, column: n_generated, value: 5, tolerance: 0}\n",
    );
    folder
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn links_stay_and_what_they_lead_to_is_replaced() {
    let folder = place();
    let at = folder.path();
    for verb in &VERBS {
        let name = |stem: &str| format!("{stem}.{}", verb.suffix);
        let fresh = name("a new/folder/plain");
        let said = verb.writes(at, &fresh);
        assert!(
            said.stderr.contains("a new/folder was made"),
            "{}",
            said.stderr
        );
        let plain = bytes(&at.join(&fresh));
        // An old file of permissions of its own, behind a link in another folder.
        let (real, link) = (at.join(name("real")), at.join(name("a new/link")));
        write(at, &name("real"), "old");
        std::fs::set_permissions(&real, PermissionsExt::from_mode(0o640)).expect("set");
        symlink(Path::new("..").join(name("real")), &link).expect("a link");
        symlink(name("link"), at.join(name("a new/link to a link"))).expect("a link");
        verb.writes(at, &name("a new/link to a link"));
        assert_eq!(bytes(&real), plain, "{}", verb.args[0]);
        assert!(link.is_symlink() && at.join(name("a new/link to a link")).is_symlink());
        assert_eq!(
            std::fs::metadata(&real)
                .expect("there")
                .permissions()
                .mode()
                & 0o777,
            0o640
        );
        // A link to what is not there yet.
        symlink(name("later"), at.join(name("dangling"))).expect("a link");
        verb.writes(at, &name("dangling"));
        assert!(at.join(name("dangling")).is_symlink());
        assert_eq!(bytes(&at.join(name("later"))), plain);
        symlink(name("circle"), at.join(name("circle"))).expect("a link");
        verb.refuses(at, &name("circle"), &["circle"]);
        std::fs::remove_dir_all(at.join("a new")).expect("removed");
        let made = ["real", "dangling", "later", "circle"].map(name);
        made.iter()
            .for_each(|name| std::fs::remove_file(at.join(name)).expect("removed"));
    }
    let unfinished = |p: &std::path::PathBuf| {
        p.file_name().is_some_and(|n| {
            n.to_string_lossy().contains(".tmp") || n.to_string_lossy().contains(".partial")
        })
    };
    let left: Vec<_> = listing(at).into_keys().filter(unfinished).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn pipes_and_devices_are_written_into() {
    let folder = place();
    let at = folder.path();
    for verb in &VERBS {
        let plain = format!("plain.{}", verb.suffix);
        verb.writes(at, &plain);
        let plain = bytes(&at.join(plain));
        let made = std::process::Command::new("mkfifo")
            .arg(at.join("pipe"))
            .status()
            .expect("mkfifo is there");
        assert!(made.success());
        let pipe = at.join("pipe");
        let reader = std::thread::spawn(move || std::fs::read(pipe).expect("read"));
        verb.writes(at, "pipe");
        assert_eq!(
            reader.join().expect("the reader ends"),
            plain,
            "{}",
            verb.args[0]
        );
        assert!(
            std::fs::metadata(at.join("pipe"))
                .expect("there")
                .file_type()
                .is_fifo()
        );
        std::fs::remove_file(at.join("pipe")).expect("removed");
        if Path::new("/dev/stdout").exists() {
            let done = verb.run(at, "/dev/stdout");
            assert_eq!(
                (done.status.code(), &done.stdout),
                (Some(0), &plain),
                "{}",
                verb.args[0]
            );
        }
        if Path::new("/dev/full").exists() {
            let done = flowgauge(at, &verb.args("/dev/full"));
            done.is(1).says(&["/dev/full", "no space is left"]);
            assert!(
                std::fs::metadata("/dev/full")
                    .expect("there")
                    .file_type()
                    .is_char_device()
            );
        }
        if verb.table {
            let done = verb.run(at, "-");
            assert_eq!(
                (done.status.code(), &done.stdout),
                (Some(0), &plain),
                "{}",
                verb.args[0]
            );
        } else {
            verb.refuses(at, "-", &["only tables", verb.suffix]);
        }
        assert!(!at.join("-").exists());
    }
    let beside = [
        "metrics",
        "--generated=x.npy",
        "--reference=y.npy",
        "--metric=energy",
        "--floor=x.npy",
        "--out=-",
    ];
    refused(at, &beside, &["--floor", "expected a file"]);
}

#[test]
fn what_cannot_or_must_not_be_replaced_is_refused_before_the_work() {
    let folder = place();
    let at = folder.path();
    std::fs::create_dir(at.join("folder")).expect("made");
    for verb in &VERBS {
        let name = |stem: &str| format!("{stem}.{}", verb.suffix);
        // The input under names that end as the result's does: itself, a hard link, a symbolic one, and that one's.
        std::fs::hard_link(at.join(verb.input), at.join(name("hard"))).expect("a link");
        symlink(verb.input, at.join(name("soft"))).expect("a link");
        symlink(name("hard"), at.join(name("soft to hard"))).expect("a link");
        for stem in ["hard", "soft", "soft to hard"] {
            verb.refuses(at, &name(stem), &["also reads", verb.input, &name(stem)]);
        }
        if verb.input.ends_with(verb.suffix) {
            verb.refuses(at, verb.input, &["also reads"]);
        }
        ["hard", "soft", "soft to hard"]
            .iter()
            .for_each(|s| std::fs::remove_file(at.join(name(s))).expect("removed"));
        for wrong in ["txt", "parquet", "csv.gz", "npz"] {
            verb.refuses(
                at,
                &format!("a.{wrong}"),
                &[&format!("a.{wrong}"), &format!("ends in .{}", verb.suffix)],
            );
        }
        verb.refuses(at, "", &["required"]);
        verb.refuses(at, &name(&"long".repeat(100)), &["too long"]);
        for taken in ["folder", "folder/", "new/"] {
            verb.refuses(at, taken, &[taken, "folder"]);
        }
        verb.refuses(at, &name("x.npy/a"), &["no folder"]);
        write(at, &name("fixed"), "kept");
        std::fs::set_permissions(at.join(name("fixed")), PermissionsExt::from_mode(0o444))
            .expect("set");
        verb.refuses(at, &name("fixed"), &["read-only"]);
        assert_eq!(bytes(&at.join(name("fixed"))), b"kept");
    }
    let both = [
        "sample",
        "--model=m/card.yaml",
        "--sampler=heun",
        "--count=2",
        "--out=same",
        "--png=same",
    ];
    refused(at, &both, &["--png", "also reads or writes"]);
}

#[test]
fn folders_of_reports_are_reached_through_links_and_keep_runs_apart() {
    let folder = place();
    let at = folder.path();
    std::fs::create_dir(at.join("real")).expect("made");
    for (args, file) in [
        (["run", "config.yaml"], "plan.json"),
        (["report", "run"], "index.html"),
    ] {
        symlink("real", at.join("link")).expect("a link");
        flowgauge(at, &[&args[..], &["--out", "link"]].concat()).is(0);
        assert!(
            at.join("link").is_symlink() && at.join("real").join(file).is_file(),
            "{}",
            args[0]
        );
        for taken in ["x.npy", "x.npy/below"] {
            refused(at, &[&args[..], &["--out", taken]].concat(), &[taken]);
        }
        std::fs::remove_dir_all(at.join("real")).expect("removed");
        std::fs::remove_file(at.join("link")).expect("removed");
        std::fs::create_dir(at.join("real")).expect("made");
    }
    flowgauge(
        at,
        &[
            "run",
            "config.yaml",
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
    for (runs, out) in [(&["run", "b"][..], "b"), (&["run"], "b")] {
        refused(
            at,
            &[&["report"], runs, &["--out", out]].concat(),
            &["--out b", "a run's directory"],
        );
    }
    flowgauge(at, &["report", "run", "--out", "run"]).is(0);
    write(at, "site/index.html", "<p>mine</p>");
    refused(
        at,
        &["report", "run", "--out", "site"],
        &["--out site", "index.html"],
    );
    flowgauge(at, &["report", "run", "b", "--out", "both"]).is(0);
    flowgauge(at, &["report", "run", "b", "--out", "both"]).is(0);
}
