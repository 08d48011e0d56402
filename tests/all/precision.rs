//! Networks in float64: their likelihoods reach a truth that float32 cannot, and a run remembers what it computed in.

use std::path::Path;

use flowgauge::data::Dataset;

use crate::cli::{flowgauge, refused};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Log-likelihoods as `flowgauge likelihood` prints them, and their statuses.
fn measured(model: &str, arguments: &[&str]) -> Vec<(Option<f64>, String)> {
    let folder = tempfile::tempdir().expect("a folder");
    let card = root()
        .join(format!("models/{model}/card.yaml"))
        .display()
        .to_string();
    let data = format!(
        "{}:x",
        root()
            .join(format!("tests/data/{model}_truth.npz"))
            .display()
    );
    let solver = "{dopri5: {rtol: 1e-10, atol: 1e-10}}";
    let fixed = [
        "likelihood",
        "--model",
        &card,
        "--data",
        &data,
        "--divergence",
        "exact",
        "--lattice",
        "allow",
    ];
    let last = ["--quiet", "--solver", solver, "--out", "rows.csv"];
    flowgauge(folder.path(), &[&fixed[..], &last[..], arguments].concat());
    let mut rows = csv::Reader::from_path(folder.path().join("rows.csv")).expect("a table");
    let headers = rows.headers().expect("headers").clone();
    let place = |name: &str| headers.iter().position(|h| h == name).expect(name);
    let (value, status) = (place("log_likelihood"), place("status"));
    let rows = rows.records().map(|row| row.expect("a row"));
    rows.map(|row| (row[value].parse().ok(), row[status].to_owned()))
        .collect()
}

#[test]
fn float64_reaches_what_float32_cannot() {
    // The references are computed in float64 by `scripts/`; that of the mixture is right to 2e-6.
    for (model, bound, reached) in [("moons", 1e-8, true), ("mixture", 5e-6, false)] {
        let truth = root().join(format!("tests/data/{model}_truth.npz:log_likelihood"));
        let truth = Dataset::read(&truth)
            .expect("references")
            .values
            .into_array();
        let wide = measured(model, &["--precision", "float64"]);
        assert_eq!(wide.len(), truth.len());
        for ((value, status), known) in wide.iter().zip(&truth) {
            let value = value.unwrap_or_else(|| panic!("{model}: {status}"));
            assert!(
                (value - known).abs() <= bound,
                "{model}: {value} for {known}"
            );
        }
        let narrow = measured(model, &[]);
        let ok = narrow.iter().all(|(_, status)| status == "ok");
        assert_eq!(ok, reached, "{model}: steps of 1e-10 in float32");
    }
}

#[test]
fn a_run_remembers_its_precision() {
    let folder = tempfile::tempdir().expect("a folder");
    let card = root().join("models/moons/card.yaml");
    let data = root().join("models/moons/heldout.npy");
    let entry = format!(
        "{{model: {}, data: {}, samples: 8}}",
        card.display(),
        data.display()
    );
    let text = format!(
        "name: it\nestimators: [exact]\nsolvers: [{{heun: {{steps: 4}}}}]\nlikelihood: [{entry}]\n"
    );
    std::fs::write(folder.path().join("config.yaml"), text).expect("written");
    let run = |out: &str, arguments: &[&str]| {
        flowgauge(
            folder.path(),
            &[
                &["run", "config.yaml", "--out", out, "--quiet"][..],
                arguments,
            ]
            .concat(),
        )
        .is(0);
        let plan = std::fs::read(folder.path().join(out).join("plan.json")).expect("a plan");
        serde_json::from_slice::<serde_json::Value>(&plan).expect("JSON")
    };
    let wide = run("wide", &["--set", "precision=float64"]);
    assert_eq!(wide["models"][0]["precision"], "float64");
    flowgauge(folder.path(), &["verify", "wide"]).is(0);
    let page = std::fs::read_to_string(folder.path().join("wide/index.html")).expect("a page");
    assert!(
        page.contains("velocity, computed in float64"),
        "the page names the precision"
    );
    let narrow = run("narrow", &[]);
    assert!(narrow["models"][0].get("precision").is_none());
    assert_ne!(narrow["trials"][0]["id"], wide["trials"][0]["id"]);
    let double = [
        "run",
        "config.yaml",
        "--out",
        "none",
        "--set",
        "precision=double",
    ];
    refused(folder.path(), &double, &["precision", "float32", "float64"]);
}
