//! Compares what users see and what stays on disk with snapshots in `tests/snapshots`: a changed help text, column, key of
//! `plan.json` or section of the page fails here until the snapshot is updated.
//!
//! `INSTA_UPDATE=always cargo test --release --test all snapshots` writes the new ones; their diff belongs to the change.
//! CONTRIBUTING.md says which change needs a new version number.

use std::path::Path;
use std::sync::OnceLock;

use clap::CommandFactory;
use flowgauge::cli::Cli;
use flowgauge::journal::Event;
use flowgauge::rows::Tables;
use serde::de::{DeserializeOwned, Deserializer, Visitor};
use serde_json::Value;

use super::cli::{Done, card, command, config, finish, flowgauge, folder, samples, write};

/// Compares a text with the snapshot of that name.
fn assert_matches_snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// The program with lines of one width, whatever the terminal.
fn help(args: &[&str]) -> Done {
    let folder = folder();
    let mut call = command(folder.path(), args);
    call.env("COLUMNS", "100");
    finish(call)
}

#[test]
fn help_of_every_verb() {
    let program = Cli::command();
    let verbs = program
        .get_subcommands()
        .map(|verb| vec![verb.get_name(), "--help"]);
    for args in std::iter::once(vec!["--help"]).chain(verbs) {
        let done = help(&args);
        let name = args
            .iter()
            .rev()
            .map(|a| a.trim_start_matches("--"))
            .collect::<Vec<_>>();
        let text = done.is(0).stdout.replace("flowgauge.exe", "flowgauge");
        assert_matches_snapshot(&name.join("-"), &text);
    }
}

#[test]
fn list_of_kinds() {
    assert_matches_snapshot("list", &help(&["list"]).is(0).stdout);
}

/// Collects the names of a struct's fields, which derived code passes before it reads anything.
struct FieldNames<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("a table's row is a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.extend(fields);
        Err(serde::de::Error::custom("no row is wanted"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The header of a table's file.
fn header<Row: DeserializeOwned>(_table: &[Row]) -> String {
    let mut names = Vec::new();
    // It always fails, after it has passed the names.
    assert!(Row::deserialize(FieldNames(&mut names)).is_err());
    names.join(",")
}

#[test]
fn headers_of_every_table() {
    let tables = Tables::default();
    let headers = [
        ("summary", header(&tables.summary)),
        ("samples", header(&tables.samples)),
        ("pairs", header(&tables.pairs)),
        ("conditions", header(&tables.conditions)),
        ("budget", header(&tables.budget)),
        ("frontier", header(&tables.frontier)),
        ("conventions", header(&tables.conventions)),
        ("gaps", header(&tables.gaps)),
        ("metrics", header(&tables.metrics)),
        ("contrasts", header(&tables.contrasts)),
        ("maps", header(&tables.maps)),
        ("stein", header(&tables.stein)),
        ("mass", header(&tables.mass)),
        ("reweight", header(&tables.reweight)),
        ("weights", header(&tables.weights)),
        ("profile", header(&tables.profile)),
        ("bound_profile", header(&tables.bound_profile)),
        ("density", header(&tables.density)),
        ("steps", header(&tables.steps)),
        ("calibration", header(&tables.calibration)),
        ("ranks", header(&tables.ranks)),
        ("runs", header(&tables.runs)),
    ];
    let files = tables.files().expect("no rows");
    let all: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        headers.each_ref().map(|(name, _)| *name)[..],
        all,
        "a table without a snapshot"
    );
    let text = headers.map(|(name, columns)| format!("{name}.csv\n{columns}\n"));
    assert_matches_snapshot("tables", &text.join("\n"));
}

#[test]
fn headers_of_printed_tables() {
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", samples(5, 8));
    write(at, "y.npy", samples(6, 8));
    let model = card("mixture");
    let likelihood = [
        "likelihood",
        "--model",
        &model,
        "--data",
        "x.npy",
        "--divergence",
        "exact",
        "--solver",
        "{euler: {steps: 2}}",
        "--out",
        "-",
    ];
    let metrics = [
        "metrics",
        "--generated",
        "x.npy",
        "--reference",
        "y.npy",
        "--metric",
        "energy",
        "--out",
        "-",
    ];
    let first_line = |args: &[&str]| {
        let done = flowgauge(at, args);
        done.is(0)
            .stdout
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let text = format!("{}\n{}\n", first_line(&likelihood), first_line(&metrics));
    assert_matches_snapshot("printed-tables", &text);
}

#[test]
fn lines_of_a_journal() {
    let finished = |array: Option<&str>| Event::Finished {
        trial: "853347e261aa".to_owned(),
        rows: 4,
        sha256: "5f09".to_owned(),
        array_sha256: array.map(str::to_owned),
        steps_sha256: array.map(str::to_owned),
        under: array.map(|_| "ONNX Runtime 1.31.1, cpu".to_owned()),
        seconds: 0.5,
    };
    let events = [
        Event::Planned {
            plan_sha256: "e36a".to_owned(),
        },
        finished(None),
        finished(Some("40a4")),
        Event::Failed {
            trial: "dc58e03f592a".to_owned(),
            error: "the network could not be run".to_owned(),
            seconds: 0.5,
        },
    ];
    let lines: String = events
        .iter()
        .map(|event| serde_json::to_string(event).expect("a line") + "\n")
        .collect();
    assert_matches_snapshot("journal", &lines);
}

/// A finished run of a tiny config on a shipped model.
fn tiny_run() -> &'static Path {
    static RUN: OnceLock<tempfile::TempDir> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = folder();
        let config = config(folder.path());
        flowgauge(folder.path(), &["run", &config, "--out", "run", "--quiet"]).is(0);
        folder
    })
    .path()
}

#[test]
fn plan_of_a_tiny_run() {
    let text = std::fs::read_to_string(tiny_run().join("run/plan.json")).expect("a plan");
    let mut plan: Value = serde_json::from_str(&text).expect("JSON");
    redact(&mut plan);
    let text = serde_json::to_string_pretty(&plan).expect("JSON");
    assert_matches_snapshot("plan", &text);
}

/// Replaces hashes, paths, lists of numbers and what a machine says of itself by words.
fn redact(value: &mut Value) {
    match value {
        Value::String(text) if is_hash(text) => {
            *text = format!("[{} hexadecimal digits]", text.len())
        }
        // A path from the temporary folder may be relative, where both share a folder.
        Value::String(text)
            if Path::new(text.as_str()).is_absolute() || text.starts_with("../../") =>
        {
            *text = "[a path]".to_owned()
        }
        Value::Array(items) if items.len() > 2 && items.iter().all(Value::is_number) => {
            *value = format!("[{} numbers]", items.len()).into();
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(entries) => {
            for (key, entry) in entries {
                match key.as_str() {
                    "environment" => redact_environment(entry),
                    _ => redact(entry),
                }
            }
        }
        _ => {}
    }
}

fn is_hash(text: &str) -> bool {
    [12, 64].contains(&text.len()) && text.chars().all(|c| c.is_ascii_hexdigit())
}

fn redact_environment(facts: &mut Value) {
    for fact in facts.as_array_mut().into_iter().flatten() {
        if let Some(told) = fact.get_mut(1) {
            *told = "[of this machine]".into();
        }
    }
}

#[test]
fn structure_of_a_page() {
    let page = std::fs::read_to_string(tiny_run().join("run/index.html")).expect("a page");
    assert_matches_snapshot("page", &outline(&page));
}

/// A page's sections, headings, tables with their columns, figures and lists of terms, without numbers and prose.
fn outline(page: &str) -> String {
    let mut lines = Vec::new();
    for part in page.split('<').skip(1) {
        let (tag, text) = part.split_once('>').unwrap_or((part, ""));
        let name = tag.split_whitespace().next().unwrap_or_default();
        let attribute = |key: &str| {
            let value = tag.split_once(&format!(" {key}=\""))?.1.split('"').next()?;
            Some(format!(" {key}={value}"))
        };
        let id = attribute("id").unwrap_or_default();
        match name {
            "section" | "nav" | "main" | "header" | "footer" => lines.push(format!("{name}{id}")),
            "h1" | "h2" | "h3" | "h4" => lines.push(format!("  {name} {}", text.trim())),
            "table" => lines.push(format!(
                "    table{}",
                attribute("class").unwrap_or_default()
            )),
            "th" if !tag.contains("scope=") => lines.push(format!("      {}", text.trim())),
            "figure" => lines.push("    figure".to_owned()),
            "details" | "dl" => lines.push(format!("    {name}")),
            "dt" | "summary" => lines.push(format!("      {}", text.trim())),
            _ => {}
        }
    }
    lines
        .iter()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}
