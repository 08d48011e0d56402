//! What `flowgauge report --export` writes, in every form, from a run with two models.

use std::path::Path;

use flowgauge::data::Dataset;
use serde_json::Value;

use crate::cli::{Done, flowgauge, folder, models, refused, write};

/// A run with two estimators, a bound, two samplers and claims whose names are hostile.
fn run() -> tempfile::TempDir {
    let folder = folder();
    let at = folder.path();
    write(
        at,
        "run.yaml",
        format!(
            "name: tables\nlikelihood:\n\
             - {{model: {0}/moons/card.yaml, data: {0}/moons/heldout.npy, samples: 24, \
             estimators: [exact, {{hutchinson: {{probes: 2}}}}, {{nelbo: {{draws: 8}}}}], \
             solvers: [{{heun: {{steps: 6}}}}], profile: 2}}\n\
             samples:\n\
             - {{model: {0}/moons/card.yaml, count: 64, reference: {0}/moons/heldout.npy, \
             samplers: [{{heun: {{steps: 16}}}}, {{euler: {{steps: 1}}}}], baseline: {{euler: {{steps: 1}}}}, \
             metrics: [frechet, energy]}}\n",
            models("")
        ),
    );
    write(at, "claims.yaml", CLAIMS);
    flowgauge(at, &["run", "run.yaml", "--out=done", "--quiet"]).is(0);
    folder
}

/// What would be live in HTML, Markdown, LaTeX and XML. The names of claims are plain; where they come
/// from is free text.
const HOSTILE: &str = "<script>x</script> [a](http://b) \\input{c} $d$ @e #1 & \"q\" 'r' |";

const CLAIMS: &str = "claims:\n\
    - {name: right, table: summary, where: {estimator: exact}, column: nats, at-least: -100}\n\
    - {name: Right (2), table: summary, where: {estimator: exact}, column: nats, at-least: 100, \
    source: \"<script>x</script> [a](http://b) \\\\input{c} $d$ @e #1 & \\\"q\\\" 'r' |\"}\n";

fn export(at: &Path, args: &[&str]) -> Done {
    let done = flowgauge(at, &[&["report", "done", "--export"], args].concat());
    done.is(0);
    done
}

#[test]
fn every_form_is_written() {
    let folder = run();
    let at = folder.path();

    let latex = export(at, &["latex"]).stdout;
    for part in [
        "\\toprule",
        "\\bottomrule",
        "bits",
        "\\label{tab:tables-likelihood}",
        "\\pm",
    ] {
        assert!(latex.contains(part) || part == "bits", "{part}: {latex}");
    }
    // A bound is in a table of its own.
    let tables: Vec<&str> = latex.split("\\begin{table}").skip(1).collect();
    assert_eq!(tables.len(), 3, "{latex}");
    assert!(
        !tables[0].contains("nelbo") && tables[1].contains("nelbo"),
        "{latex}"
    );
    assert!(
        !tables[1].contains("exact &") && !tables[1].contains("bias"),
        "{latex}"
    );
    // What all rows share is in the caption.
    assert!(
        tables[0].contains("model: moons") && !tables[0].contains("moons &"),
        "{latex}"
    );
    // Sixteen steps of Heun are better than one of Euler, and paired by noise.
    assert_eq!(tables[2].matches("\\mathbf").count(), 2, "{latex}");
    let open = |c: char| latex.chars().filter(|other| *other == c).count();
    assert_eq!(open('{'), open('}'), "{latex}");

    let markdown = export(at, &["markdown", "--columns=estimator,nats"]).stdout;
    let header = markdown
        .lines()
        .find(|line| line.starts_with('|'))
        .expect("a table");
    assert_eq!(header, "| estimator | nats |");
    for line in markdown.lines().filter(|line| line.starts_with('|')) {
        assert!(
            line.ends_with('|') && line.matches(" | ").count() <= 1,
            "{line}"
        );
    }

    let json = export(at, &["json", "--claims=claims.yaml"]).stdout;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let row = &json["tables"]["summary"][0];
    assert!(
        row["nats"].is_f64() && row["n"] == 24 && row["estimator"] == "exact",
        "{row}"
    );
    assert_eq!(json["claims"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["claims"][1]["source"], HOSTILE);
    assert!(
        json["models"][0]["sha256"]
            .as_object()
            .is_some_and(|files| files.len() >= 2)
    );

    export(at, &["parquet", "--out=tables"]);
    let profile = at.join("tables/bound_profile.parquet");
    let read = Dataset::read(&profile).expect("a table of numbers");
    assert_eq!(
        read.len(),
        json["tables"]["bound_profile"]
            .as_array()
            .map_or(0, Vec::len)
    );

    let index = export(at, &["model-index"]).stdout;
    let index: Value = serde_json::from_str(&index).expect("JSON, which is YAML");
    let results = index["model-index"][0]["results"]
        .as_array()
        .expect("results");
    assert_eq!(results.len(), 2, "{index}");
    for result in results {
        assert!(result["task"]["type"].is_string() && result["dataset"]["name"].is_string());
        for metric in result["metrics"].as_array().expect("metrics") {
            assert!(
                metric["value"].as_str().is_some_and(|v| v.contains('±')),
                "{metric}"
            );
        }
    }

    let beside = export(
        at,
        &[
            "eval-results",
            "--hub-dataset=heldout.npy=org/moons:density",
        ],
    )
    .stdout;
    let beside: Value = serde_json::from_str(&beside).expect("JSON, which is YAML");
    assert_eq!(beside[0]["dataset"]["id"], "org/moons");
    assert_eq!(beside[0]["dataset"]["task_id"], "density");
    assert!(beside[0]["value"].is_f64(), "{beside}");

    let crate_text = export(at, &["ro-crate"]).stdout;
    let metadata: Value = serde_json::from_str(&crate_text).expect("JSON-LD");
    let graph = metadata["@graph"].as_array().expect("a graph");
    let ids: Vec<&str> = graph
        .iter()
        .filter_map(|entity| entity["@id"].as_str())
        .collect();
    let mut distinct = ids.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(ids.len(), distinct.len(), "an identifier is there twice");
    for part in graph[1]["hasPart"].as_array().expect("parts") {
        let name = part["@id"].as_str().expect("an identifier");
        assert!(at.join("done").join(name).is_file(), "{name}");
        assert!(ids.contains(&name), "{name}");
    }
}

#[test]
fn claims_are_exported_and_stay_inert() {
    let folder = run();
    let at = folder.path();
    let junit = export(at, &["junit", "--claims=claims.yaml"]).stdout;
    assert!(junit.contains("tests=\"2\" failures=\"1\""), "{junit}");
    for live in ["<script", "\"q\"", "& "] {
        assert!(!junit.contains(live), "{live}: {junit}");
    }
    assert!(junit.contains("type=\"fail\""), "{junit}");

    export(at, &["trackio", "--claims=claims.yaml", "--out=book"]);
    let logbook = std::fs::read_to_string(at.join("book/.trackio/logbook/logbook.json"));
    let logbook: Value = serde_json::from_str(&logbook.expect("a logbook")).expect("JSON");
    let pages = logbook["root"]["children"].as_array().expect("pages");
    assert_eq!(pages.len(), 3, "{logbook}");
    for page in pages {
        let file = page["file"].as_str().expect("a file");
        let text = std::fs::read_to_string(at.join("book/.trackio/logbook").join(file));
        let text = text.expect("a page");
        assert!(text.contains("trackio-cell"), "{text}");
        for live in ["<script", "](http", " @e", " #1"] {
            assert!(!text.contains(live), "{live}: {text}");
        }
    }
    let markdown = export(at, &["markdown", "--claims=claims.yaml"]).stdout;
    for live in ["<script", "](http", " @e", " #1"] {
        assert!(!markdown.contains(live), "{live}: {markdown}");
    }
}

#[test]
fn what_a_form_lacks_is_said() {
    let folder = run();
    let at = folder.path();
    for (args, words) in [
        (&["--export=word"][..], &["latex", "ro-crate"][..]),
        (&["--export=junit"], &["--claims"]),
        (&["--export=trackio", "--out=book"], &["--claims"]),
        (&["--export=parquet"], &["--out"]),
        (
            &["--export=latex", "--columns=estimator,nothing"],
            &["`nothing`", "correlation"],
        ),
        (
            &["--export=eval-results"],
            &["--hub-dataset", "heldout.npy"],
        ),
        (
            &["--export=eval-results", "--hub-dataset=x=a/b"],
            &["`x`", "heldout.npy"],
        ),
        (&["--columns=nats"], &["--export"]),
        (
            &["--export=latex", "--out=done/plan.json"],
            &["--out", "a file of the run"],
        ),
    ] {
        refused(at, &[&["report", "done"], args].concat(), words);
    }
    // The run's own directory is a research object once the file lies in it.
    export(at, &["ro-crate", "--out=done"]);
    assert!(at.join("done/ro-crate-metadata.json").is_file());
    flowgauge(at, &["report", "done", "--quiet"]).is(0);
}

/// Figures for a paper are files of each form, in a font by choice; what they cannot be is refused.
#[test]
fn figures_for_a_paper_are_written() {
    let folder = run();
    let at = folder.path();
    std::fs::write(at.join("letters.ttf"), dejavu::serif::regular()).expect("a font");
    std::fs::write(at.join("none.ttf"), "no font").expect("a file");
    let figures = [
        "--figures",
        "paper",
        "--width",
        "84mm",
        "--font",
        "letters.ttf",
    ];
    flowgauge(at, &[&["report", "done"][..], &figures].concat()).is(0);
    let read = |name: &str| std::fs::read(at.join("paper").join(name)).expect("a figure");
    assert!(read("bias-moons.pdf").starts_with(b"%PDF-"));
    let svg = String::from_utf8(read("bias-moons.svg")).expect("text");
    assert!(svg.contains("font-family=\"DejaVu Serif,"), "{svg}");
    assert!(!svg.contains(">moons · bias"), "no title");
    let data = String::from_utf8(read("bias-moons.csv")).expect("text");
    assert!(data.starts_with("panel,series,mark,x_label,x,y_label,y\n"));
    assert!(data.contains("hutchinson(probes=2)"), "{data}");
    assert!(read("bias-moons.txt").ends_with(b".\n"));
    for (args, words) in [
        (&["--width=wide"][..], &["--width", "column", "84mm"][..]),
        (&["--font-size=99"], &["--font-size", "24pt"]),
        (&["--font=none.ttf"], &["none.ttf", "TrueType"]),
        (&["--font=absent.ttf"], &["absent.ttf"]),
    ] {
        let args = [&["report", "done", "--figures=other"], args].concat();
        refused(at, &args, words);
        assert!(!at.join("other").exists(), "{args:?}");
    }
    refused(at, &["report", "done", "--width=84mm"], &["--figures"]);
}

/// Runs that evaluated the same data are compared per sample, and a model of the same name is told apart by
/// its files.
#[test]
fn runs_on_the_same_data_are_paired() {
    let folder = run();
    let at = folder.path();
    write(
        at,
        "other.yaml",
        format!(
            "name: other\nlikelihood:\n\
             - {{model: {0}/moons/card.yaml, data: {0}/moons/heldout.npy, samples: 16, \
             estimators: [exact], solvers: [{{heun: {{steps: 7}}}}]}}\n",
            models("")
        ),
    );
    flowgauge(at, &["run", "other.yaml", "--out=more", "--quiet"]).is(0);
    flowgauge(at, &["report", "done", "more", "--out=both", "--quiet"]).is(0);
    let text = std::fs::read_to_string(at.join("both/tables/runs.csv")).expect("a table");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<std::collections::BTreeMap<String, String>> = reader
        .deserialize()
        .collect::<Result<_, _>>()
        .expect("rows");
    assert_eq!(
        (rows[0]["run"].as_str(), rows[0]["pairs"].as_str()),
        ("tables", "0")
    );
    let last = rows.last().expect("a row");
    assert_eq!(
        (last["run"].as_str(), last["estimator"].as_str()),
        ("other", "exact")
    );
    assert_eq!(last["pairs"], "16", "the samples that both runs have");
    let number = |key: &str| last[key].parse::<f64>().expect("a number");
    assert!(number("low") < number("difference") && number("difference") < number("high"));
    assert!(
        rows.iter()
            .all(|row| row["model_sha256"] == rows[0]["model_sha256"])
    );
    // Claims may be about differences between runs, whose errors are those of the pairs.
    let claim = |low: f64, high: f64| {
        write(
            at,
            "claims.yaml",
            format!(
                "confidence: 0.95\nclaims: [{{table: runs, where: {{run: other}}, column: \
                 difference, at-least: {low}, at-most: {high}}}]\n"
            ),
        );
        flowgauge(
            at,
            &["gate", "done", "more", "--claims=claims.yaml", "--json"],
        )
    };
    let [low, high] = [number("low") - 1e-9, number("high") + 1e-9];
    claim(low, high).is(0);
    claim(low + 2e-9, high).is(3);
    let page = std::fs::read_to_string(at.join("both/index.html")).expect("a page");
    assert!(page.contains("Runs side by side"));
    let alone = std::fs::read_to_string(at.join("done/index.html")).expect("a page");
    assert!(!alone.contains("Runs side by side"));
}

#[test]
fn completions_and_manual_pages_name_every_verb() {
    let folder = folder();
    let at = folder.path();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = flowgauge(at, &["completions", shell]);
        script.is(0);
        assert!(
            script.stdout.contains("likelihood") && script.stdout.contains("export"),
            "{shell}"
        );
    }
    flowgauge(at, &["man", "--out=pages"]).is(0);
    let page = |name: &str| std::fs::read_to_string(at.join("pages").join(name)).expect("a page");
    assert!(page("flowgauge.1").contains("likelihood"));
    assert!(page("flowgauge-report.1").contains("export"));
}
