//! What verbs print: a last line that answers, one document with `--json`, no escape sequence where there is no
//! terminal, examples in every help, and events for programs.

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use flowgauge::cli::Cli;
use serde_json::Value;

use super::cli::{Done, command, config, finish, flowgauge, folder, models, write};
use super::documented_commands::split_words;
use super::habits::root;

/// A call of one verb that succeeds in the folder of [`place`].
struct Call {
    args: &'static str,
    /// Words of the last line of standard output.
    last: &'static str,
    /// Keys of the document; empty for verbs whose standard output is a file for another program.
    keys: &'static [&'static str],
}

/// Verbs that print what another program reads, and so no line of their own.
const FOR_PROGRAMS: [&str; 3] = ["schema", "completions", "man"];

const CALLS: [Call; 16] = [
    Call {
        args: "run config.yaml --out out --quiet",
        last: "(exact, 5 samples); report: out",
        keys: &[
            "run",
            "seed",
            "report",
            "trials.finished",
            "trials.failed",
            "trials.outstanding",
            "failed_rows",
            "metric_units.frechet",
            "tables.summary.0.nats_stderr",
            "tables.metrics.0.stderr",
        ],
    },
    Call {
        args: "report out",
        last: "; report: out",
        keys: &["reports.0.report", "reports.0.tables.summary.0.nats"],
    },
    Call {
        args: "report out --export markdown --out out.md",
        last: "markdown export: out.md",
        keys: &["export", "files.0"],
    },
    Call {
        args: "plan config.yaml --quiet",
        last: "threads, most of it ",
        keys: &[
            "name",
            "seed",
            "evaluations",
            "jacobian_products_and_head_calls",
            "trials.0.evaluations",
            "trials.0.guessed",
            "time.threads",
            "time.seconds",
            "time.seconds_from",
            "time.seconds_to",
            "time.works.0.calls",
            "time.works.0.seconds",
        ],
    },
    Call {
        args: "verify out --fraction 1 --quiet",
        last: "match, ",
        keys: &[
            "rows",
            "rows_verified",
            "match",
            "drift",
            "mismatch",
            "verdicts.0.verdict",
        ],
    },
    Call {
        args: "status out",
        last: "trials finished (100 %), 0 failed, 0 outstanding",
        keys: &["trials", "finished", "outstanding"],
    },
    Call {
        args: "gate out --claims claims.yaml",
        last: "1 claims: 1 pass, 0 fail, 0 inconclusive",
        keys: &[
            "pass",
            "fail",
            "inconclusive",
            "claims.0.verdict",
            "claims.0.stderr",
        ],
    },
    Call {
        args: "likelihood --model m/card.yaml --data x.npy --divergence hutchinson(probes=2) --solver euler(steps=2) --out ll.csv --quiet",
        last: "mean log-likelihood ",
        keys: &[
            "model",
            "data",
            "estimator",
            "kind",
            "solver",
            "log_likelihood.value",
            "log_likelihood.stderr",
            "log_likelihood.unit",
            "n",
            "failed",
            "evaluations_per_sample",
            "jacobian_products_per_sample",
            "seconds",
            "table",
        ],
    },
    Call {
        args: "sample --model m/card.yaml --sampler '{ode: {solver: {euler: {steps: 2}}}}' --count 6 --density exact --out s.npy --quiet",
        last: "6 samples of shape [8], mean log-density ",
        keys: &[
            "samples",
            "shape.0",
            "not_finite",
            "log_density.stderr",
            "log_density.unit",
            "evaluations_per_sample",
            "seconds",
            "array",
            "density_table",
        ],
    },
    Call {
        args: "reweight --samples s.npy --log-density s.csv --energy quadratic.onnx --out w.csv --quiet",
        last: "effective sample size ",
        keys: &[
            "quantities.0.quantity",
            "quantities.0.value",
            "quantities.0.stderr",
            "quantities.0.unit",
            "quantities.0.n",
            "left_out",
            "table",
        ],
    },
    Call {
        args: "metrics --generated s.npy --reference x.npy --metric frechet --metric energy --out m.csv --quiet",
        last: ", and 1 more; m.csv",
        keys: &[
            "metrics.0.metric",
            "metrics.0.value",
            "metrics.0.stderr",
            "metrics.0.unit",
            "table",
        ],
    },
    Call {
        args: "init m/card.yaml --data x.npy --out made.yaml --force",
        last: "made.yaml",
        keys: &["card", "data", "config"],
    },
    Call {
        args: "card --from edm m/denoiser.onnx --out m/drafted.yaml --force --quiet",
        last: "m/drafted.yaml: denoiser, ",
        keys: &["card", "guesses.0", "inspection.checks.0.ok"],
    },
    Call {
        args: "differentiate m/denoiser.onnx --out jvp.onnx",
        last: "jvp of m/denoiser.onnx with inputs x, ",
        keys: &["model", "mode", "inputs.0", "outputs.0", "graph"],
    },
    Call {
        args: "inspect m/card.yaml --quiet",
        last: "m/card.yaml: mixture, ",
        keys: &[
            "card",
            "name",
            "shape.0",
            "prediction",
            "path",
            "prior_std",
            "files.0.graph.parameters",
            "files.0.graph.inputs.0.name",
            "files.0.graph.forward_obstacles",
            "checks.0.what",
            "checks.0.ok",
        ],
    },
    Call {
        args: "doctor --quiet",
        last: "known answer: ",
        keys: &[
            "onnx_runtime.version",
            "providers.cpu",
            "processor",
            "threads",
            "known_answer.largest_error_nats",
            "known_answer.ok",
        ],
    },
];

/// Calls of `list`, which needs no folder.
const LIST_CALLS: [Call; 3] = [
    Call {
        args: "list",
        last: " families",
        keys: &[
            "families.0.family",
            "families.0.kinds.0.what",
            "families.0.kinds.0.when",
            "families.0.kinds.0.source",
            "families.0.kinds.0.parameters.0.default",
        ],
    },
    Call {
        args: "list samplers",
        last: " samplers",
        keys: &["families.0.kinds.3.aliases.0"],
    },
    Call {
        args: "list fid",
        last: "fid: one of the metrics",
        keys: &["families.0.kinds.0.name"],
    },
];

/// A folder with a model, data, a run, claims and an energy.
fn place() -> tempfile::TempDir {
    let folder = folder();
    let at = folder.path();
    std::fs::create_dir(at.join("m")).expect("made");
    for file in std::fs::read_dir(models("mixture"))
        .expect("a model")
        .flatten()
    {
        std::fs::copy(file.path(), at.join("m").join(file.file_name())).expect("copied");
    }
    // The energy has the mixture's eight coordinates at once, whatever their number.
    let energy = root().join("tests/data/reweight/quadratic.onnx");
    std::fs::copy(energy, at.join("quadratic.onnx")).expect("copied");
    config(at);
    write(
        at,
        "claims.yaml",
        "claims:\n  - {table: metrics, where: {metric: frechet}, column: n_generated, value: 5, tolerance: 0}\n",
    );
    folder
}

fn call_with(at: &Path, args: &str, more: &[&str], environment: &[(&str, &str)]) -> Done {
    let words = split_words(args);
    let words = words.iter().map(String::as_str);
    let args: Vec<&str> = words.chain(more.iter().copied()).collect();
    let mut call = command(at, &args);
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        call.env_remove(name);
    }
    call.envs(environment.iter().copied());
    finish(call)
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

#[test]
fn every_verb_has_a_call() {
    let program = Cli::command();
    for verb in program.get_subcommands().map(clap::Command::get_name) {
        let begins = |call: &Call| call.args.split(' ').next() == Some(verb);
        let known = CALLS.iter().chain(&LIST_CALLS).any(begins);
        assert!(
            known || FOR_PROGRAMS.contains(&verb),
            "{verb}: no call of it is tested"
        );
    }
}

#[test]
fn every_verb_ends_in_a_line_and_prints_no_escape_sequences() {
    let folder = place();
    let at = folder.path();
    for call in CALLS.iter().chain(&LIST_CALLS) {
        for environment in [
            &[][..],
            &[("NO_COLOR", "1")],
            &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "0")],
        ] {
            let done = call_with(at, call.args, &[], environment);
            let last = last_line(&done.is(0).stdout);
            assert!(last.contains(call.last), "{}: {last}", call.args);
            for stream in [&done.stdout, &done.stderr] {
                assert!(!stream.contains('\u{1b}'), "{}: {stream:?}", call.args);
            }
        }
    }
}

#[test]
fn every_document_is_all_of_standard_output() {
    let folder = place();
    let at = folder.path();
    for call in CALLS.iter().chain(&LIST_CALLS) {
        let done = call_with(at, call.args, &["--json"], &[("CLICOLOR_FORCE", "1")]);
        let document: Value = serde_json::from_str(&done.is(0).stdout)
            .unwrap_or_else(|e| panic!("{}: {e}: {}", call.args, done.stdout));
        assert_eq!(
            document["verb"],
            call.args.split(' ').next().expect("a verb")
        );
        assert_eq!(document["format"], 1, "{}", call.args);
        assert_eq!(document["exit_status"], 0, "{}", call.args);
        let answer = document["answer"].as_str().unwrap_or_default();
        assert!(answer.contains(call.last), "{}: {answer}", call.args);
        for key in call.keys {
            let pointer = format!("/{}", key.replace('.', "/"));
            let found = document.pointer(&pointer);
            let found = found.unwrap_or_else(|| panic!("{}: no {key}: {document:#}", call.args));
            let may_be_null = ["default", "stderr", "nats_stderr"];
            let name = key.rsplit('.').next().expect("a key");
            assert!(
                !found.is_null() || may_be_null.contains(&name),
                "{}: {key}",
                call.args
            );
        }
    }
}

/// The number of a document is that of the table which the verb writes.
#[test]
fn a_document_has_the_numbers_of_the_table() {
    let folder = place();
    let at = folder.path();
    let args = CALLS
        .iter()
        .find(|call| call.args.starts_with("metrics"))
        .expect("a call")
        .args;
    let args = args.replace("s.npy", "m/heldout.npy");
    let done = call_with(at, &args, &["--json"], &[]);
    let document: Value = serde_json::from_str(&done.is(0).stdout).expect("JSON");
    let table = std::fs::read_to_string(at.join("m.csv")).expect("a table");
    for (line, row) in table
        .lines()
        .skip(1)
        .zip(document["metrics"].as_array().expect("rows"))
    {
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(row["metric"], cells[0]);
        let number = |cell: &str| cell.parse::<f64>().expect("a number");
        assert_eq!(row["value"].as_f64(), Some(number(cells[1])), "{line}");
        assert_eq!(row["stderr"].as_f64(), Some(number(cells[2])), "{line}");
    }
}

#[test]
fn a_document_and_a_result_do_not_share_standard_output() {
    let folder = place();
    let at = folder.path();
    for args in [
        "metrics --generated x.npy --reference x.npy --out -",
        "init m/card.yaml --out -",
        "report out --export markdown",
    ] {
        if args.starts_with("report") {
            call_with(at, CALLS[0].args, &[], &[]).is(0);
        }
        let done = call_with(at, args, &["--json"], &[]);
        done.is(2).says(&["--json"]);
        assert_eq!(done.stdout, "", "{args}");
    }
}

#[test]
fn colours_are_where_they_are_wanted() {
    let folder = place();
    let at = folder.path();
    let has_colour = |more: &[&str], environment: &[(&str, &str)]| {
        let done = call_with(at, "list grids", more, environment);
        done.is(0).stdout.contains('\u{1b}')
    };
    for (more, environment, wanted) in [
        (&[][..], &[][..], false),
        (&["--color", "always"], &[], true),
        (&["--color=always"], &[("NO_COLOR", "1")], true),
        (&[], &[("CLICOLOR_FORCE", "1")], true),
        (&["--color", "never"], &[("CLICOLOR_FORCE", "1")], false),
        (
            &["--color", "auto"],
            &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")],
            false,
        ),
    ] {
        assert_eq!(
            has_colour(more, environment),
            wanted,
            "{more:?} {environment:?}"
        );
    }
    let help = |more: &[&str]| call_with(at, "run --help", more, &[]);
    assert!(help(&["--color=always"]).is(0).stdout.contains('\u{1b}'));
    assert!(!help(&[]).is(0).stdout.contains('\u{1b}'));
    call_with(at, "list", &["--color", "blue"], &[])
        .is(2)
        .says(&["auto", "always", "never"]);
}

/// A model's name may hold anything that YAML allows, and a terminal obeys escape sequences.
#[test]
fn escape_sequences_of_a_file_do_not_reach_a_terminal() {
    let folder = place();
    let at = folder.path();
    let text = std::fs::read_to_string(at.join("m/card.yaml")).expect("a card");
    let hostile = text.replace("name: mixture", "name: \"mix\\e[31m\\nture\"");
    assert_ne!(text, hostile);
    write(at, "m/hostile.yaml", hostile);
    let done = call_with(at, "inspect m/hostile.yaml --quiet", &[], &[]);
    assert!(!done.stdout.contains('\u{1b}') && !done.stderr.contains('\u{1b}'));
}

/// The examples of a help text: the lines below `Examples:`.
fn examples(verb: &clap::Command) -> Vec<String> {
    let text = verb
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let lines = text.lines().skip_while(|line| *line != "Examples:").skip(1);
    lines.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn every_help_has_examples_that_parse_and_files_that_exist() {
    let program = Cli::command();
    for verb in program.get_subcommands() {
        let examples = examples(verb);
        let name = verb.get_name();
        assert!((2..=3).contains(&examples.len()), "{name}: {examples:?}");
        for example in &examples {
            let words = split_words(example);
            assert_eq!(words[..2], ["flowgauge", name], "{example}");
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{example}\n{error}");
            }
            for file in words.iter().filter(|word| word.contains('/')) {
                let is_output = file.starts_with("reports/") || file.contains("://");
                assert!(
                    is_output || root().join(file).exists(),
                    "{example}: no file {file}"
                );
            }
        }
    }
}

/// Examples that take a second each, from the folder of the repository.
#[test]
fn quick_examples_succeed() {
    let folder = folder();
    let at = folder.path();
    let quick = [
        "plan",
        "init",
        "card",
        "differentiate",
        "inspect",
        "list",
        "schema",
        "completions",
        "man",
        "metrics",
    ];
    for verb in Cli::command()
        .get_subcommands()
        .filter(|verb| quick.contains(&verb.get_name()))
    {
        for example in examples(verb) {
            let words = split_words(&example);
            let full = |word: &String| match root().join(word) {
                path if word.contains('/') && path.exists() => path.display().to_string(),
                _ => word.clone(),
            };
            let words: Vec<String> = words.iter().skip(1).map(full).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            flowgauge(at, &words).is(0);
        }
    }
}

#[test]
fn progress_for_programs_is_one_object_on_each_line() {
    let folder = place();
    let at = folder.path();
    let done = call_with(at, "run config.yaml --out out --progress json", &[], &[]);
    let events: Vec<Value> = done
        .is(0)
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let named = |name: &str| {
        events
            .iter()
            .filter(|e| e["event"] == name)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (named("started").len(), named("finished").len()),
        (1, 1),
        "{events:?}"
    );
    let progress = named("progress");
    let total = progress[0]["trials_total"].as_u64().expect("a number");
    let counts: Vec<u64> = progress
        .iter()
        .filter_map(|e| e["trials_done"].as_u64())
        .collect();
    assert!(
        counts.is_sorted() && counts.last() == Some(&total),
        "{counts:?} of {total}"
    );
    assert!(counts.len() as u64 >= total, "an event for each trial");
    for event in &progress {
        for key in ["seconds_elapsed", "seconds_done"] {
            assert!(
                event[key].as_f64().is_some_and(|s| s >= 0.0),
                "{key}: {event}"
            );
        }
        for key in [
            "what",
            "fraction_done",
            "seconds_left",
            "seconds_left_at_most",
        ] {
            assert!(event.get(key).is_some(), "{key}: {event}");
        }
    }
    let none = call_with(
        at,
        "run config.yaml --out other --progress none --quiet",
        &[],
        &[],
    );
    assert_eq!(none.is(0).stderr, "");
    let wrong = call_with(at, "run missing.yaml --progress json", &[], &[]);
    let line: Value = serde_json::from_str(wrong.is(2).stderr.trim()).expect("one object");
    assert_eq!(line["event"], "error");
    assert!(
        line["text"]
            .as_str()
            .is_some_and(|text| text.contains("missing.yaml"))
    );
    call_with(at, "run config.yaml --progress often", &[], &[])
        .is(2)
        .says(&["auto, bar, plain, json, none"]);
}

/// What `init` writes for a card and its data passes `plan`; without data it is marked, and `plan` refuses it.
#[test]
fn a_drafted_config_can_be_planned() {
    for (card, data, words) in [
        (
            "models/moons/card.yaml",
            "models/moons/heldout.npy",
            "- exact",
        ),
        (
            "models/digits/card.yaml",
            "models/digits/heldout.npy",
            "whole numbers from 0 to 16",
        ),
        (
            "models/mixture/card.yaml",
            "models/mixture/heldout.npy",
            "- closed-form",
        ),
        (
            "tests/data/conditions/flow/card.yaml",
            "tests/data/conditions/flow/data.npy",
            "label: null",
        ),
        (
            "tests/data/pipelines/latent.yaml",
            "tests/data/pipelines/latent_images.npy",
            "context: null",
        ),
        (
            "tests/data/one_call/affine.yaml",
            "tests/data/one_call/affine.npy",
            "- one-call",
        ),
    ] {
        let folder = folder();
        let at = folder.path();
        let [card, data] = [card, data].map(|file| root().join(file).display().to_string());
        // The config lies below the folder of the call, so that its paths are relative to its own.
        std::fs::create_dir(at.join("configs")).expect("made");
        let out = "configs/made.yaml";
        flowgauge(at, &["init", &card, "--data", &data, "--out", out]).is(0);
        let text = std::fs::read_to_string(at.join(out)).expect("a config");
        assert!(
            text.contains(words) && !text.contains("PLACEHOLDER"),
            "{text}"
        );
        let planned = flowgauge(at, &["plan", out, "--no-timing", "--quiet"]);
        assert!(
            planned.is(0).stdout.contains("trials, "),
            "{}",
            planned.stdout
        );
        // It does not replace what is there.
        let again = flowgauge(at, &["init", &card, "--out", out]);
        again.is(2).says(&["it exists", "--force"]);
        assert_eq!(
            std::fs::read_to_string(at.join(out)).expect("a config"),
            text
        );

        flowgauge(at, &["init", &card, "--out", "empty.yaml"]).is(0);
        let empty = std::fs::read_to_string(at.join("empty.yaml")).expect("a config");
        assert!(
            empty.contains("PLACEHOLDER: no file of data was given"),
            "{empty}"
        );
        flowgauge(at, &["plan", "empty.yaml", "--no-timing"])
            .is(2)
            .says(&["PLACEHOLDER.npy"]);
    }
}

#[test]
fn init_refuses_what_does_not_fit() {
    let folder = place();
    let at = folder.path();
    let moons: PathBuf = root().join("models/moons/heldout.npy");
    let moons = moons.display().to_string();
    super::cli::refused(
        at,
        &["init", "m/card.yaml", "--data", &moons],
        &["heldout.npy"],
    );
    super::cli::refused(at, &["init", "missing.yaml"], &["missing.yaml"]);
    super::cli::refused(
        at,
        &["init", "m/card.yaml", "--out", "m/denoiser.onnx"],
        &["--out"],
    );
}

#[test]
fn the_time_of_a_plan_can_be_left_out() {
    let folder = place();
    let at = folder.path();
    let document = |more: &[&str]| -> Value {
        let done = call_with(at, "plan config.yaml --json", more, &[]);
        serde_json::from_str(&done.is(0).stdout).expect("JSON")
    };
    assert!(document(&["--no-timing"])["time"].is_null());
    let time = &document(&["--threads", "1"])["time"];
    assert_eq!(time["threads"], 1);
    let seconds = |key: &str| time[key].as_f64().expect("a number");
    assert!(0.0 < seconds("seconds_from") && seconds("seconds_from") < seconds("seconds"));
    assert!(seconds("seconds") < seconds("seconds_to"));
    let works = time["works"].as_array().expect("works");
    let sum: f64 = works
        .iter()
        .filter_map(|work| work["seconds"].as_f64())
        .sum();
    assert!((sum - seconds("seconds")).abs() < 1e-9);
}

#[test]
fn a_name_that_nothing_has_is_refused() {
    let folder = folder();
    let done = flowgauge(folder.path(), &["list", "hutchinsen"]);
    done.is(2).says(&["hutchinsen", "`hutchinson` is near"]);
}
