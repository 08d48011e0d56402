//! Stein tests through the program: a closed form passes, a trained head is told its bias, and the
//! wrong head is refused by name.

use std::path::Path;

use crate::cli::{flowgauge, refused};

fn config(model: &str, data: &str, stein: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    format!(
        "name: tests\nestimators: [{{hutchinson: {{probes: 1}}}}]\nsolvers: [{{heun: {{steps: 4}}}}]\nlikelihood:\n  \
         - {{model: {0}/{model}/card.yaml, data: {0}/{model}/{data}, samples: 4, profile: 0, stein: {stein}}}\n",
        root.display()
    )
}

/// A row of `stein.csv`.
#[derive(Debug, serde::Deserialize)]
struct Row {
    function: String,
    mean: f64,
    stderr: f64,
    z: Option<f64>,
    p: Option<f64>,
}

fn rows(folder: &Path) -> Vec<Row> {
    let mut reader =
        csv::Reader::from_path(folder.join("run/tables/stein.csv")).expect("stein.csv");
    reader.deserialize().map(|r| r.expect("a row")).collect()
}

#[test]
fn a_closed_form_passes_and_a_trained_head_has_its_bias() {
    for (model, stein, exact) in [
        (
            "mixture",
            "{head: closed-form, times: 3, samples: 600, features: 4, score: model}",
            true,
        ),
        (
            "mixture",
            "[{head: closed-form, times: 3, samples: 600, features: 4}]",
            true,
        ),
        (
            "digits",
            "{head: stad, times: 3, samples: 400, features: 4}",
            false,
        ),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(
            folder.path().join("c.yaml"),
            config(model, "heldout.npy", stein),
        )
        .expect("written");
        flowgauge(
            folder.path(),
            &["run", "c.yaml", "--out", "run", "--quiet", "--threads", "2"],
        )
        .is(0);
        let rows = rows(folder.path());
        let tests: Vec<_> = rows.iter().filter(|r| r.z.is_some()).collect();
        assert_eq!(tests.len(), 3 * (1 + 8 + 1 + 4), "{model}");
        let bias = rows.iter().find(|r| r.function == "bias").expect("a bias");
        if exact {
            assert!(
                tests.iter().all(|r| r.p.expect("p") > 1e-3),
                "{model} {stein}: {tests:?}"
            );
            assert!(
                bias.mean.abs() < 4.0 * bias.stderr + 1e-3,
                "{model} {stein}: {bias:?}"
            );
        } else {
            // The exact trace says that this head is off by 0.05 bits/dim at most.
            assert!(
                bias.mean.abs() < 0.05 * 64.0 * std::f64::consts::LN_2 + 4.0 * bias.stderr,
                "{model}: {bias:?}"
            );
        }
        let page = std::fs::read_to_string(folder.path().join("run/index.html")).expect("a page");
        assert!(page.contains("Stein tests of the head"));
        println!("{model} {stein}: {bias:?}");
        // Again is the same, and nothing is done twice.
        flowgauge(folder.path(), &["report", "run"]).is(0);
    }
}

#[test]
fn what_cannot_be_tested_is_refused_by_its_key() {
    for (model, stein, words) in [
        ("digits", "{head: stod}", "stod"),
        ("digits", "{times: 0}", "times"),
        ("digits", "{samples: 1}", "samples"),
        ("digits", "{score: model}", "closed_form"),
        ("digits", "{heads: stad}", "heads"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(
            folder.path().join("c.yaml"),
            config(model, "heldout.npy", stein),
        )
        .expect("written");
        refused(folder.path(), &["run", "c.yaml", "--out", "run"], &[words]);
    }
}
