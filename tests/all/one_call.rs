//! Models that give their log-density in one call, against true log-densities in float64
//! (`scripts/make_one_call.py`), and what is refused for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flowgauge::data::Dataset;

use crate::cli::{flowgauge, folder, refused, write};

/// A copy of the folder of the graphs and their data.
fn data() -> tempfile::TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/one_call");
    let folder = folder();
    for entry in std::fs::read_dir(from).expect("the folder of the graphs") {
        let from = entry.expect("a file").path();
        let to: PathBuf = folder.path().join(from.file_name().expect("a name"));
        std::fs::copy(&from, to).expect("a copy");
    }
    folder
}

fn truth(folder: &Path, name: &str) -> Vec<f64> {
    let data = Dataset::read(&folder.join(format!("{name}_truth.npy"))).expect("the truth");
    data.values.into_array().into_iter().collect()
}

/// The rows of a table as maps from columns to texts.
fn rows(file: &Path) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_path(file).expect("a table");
    reader.deserialize().map(|r| r.expect("a row")).collect()
}

fn number(row: &BTreeMap<String, String>, column: &str) -> f64 {
    row[column]
        .parse()
        .unwrap_or_else(|_| panic!("{column}: {row:?}"))
}

#[test]
fn log_densities_equal_the_truth() {
    let folder = data();
    let folder = folder.path();
    for (name, condition, tolerance) in [
        ("affine", None, 1e-12),
        ("mixture", None, 1e-12),
        (
            "coupling",
            Some("--condition=x=coupling_observations.npy"),
            1e-6,
        ),
    ] {
        for batch in ["--batch=1", "--batch=7", "--batch=64"] {
            let (model, data) = (format!("{name}.yaml"), format!("{name}.npy"));
            let mut args = vec!["likelihood", "--model", &model, "--data", &data, batch];
            args.extend(["--divergence=one-call", "--out=out.csv"]);
            args.extend(condition);
            let done = flowgauge(folder, &args);
            done.is(0);
            assert!(!done.stderr.contains("log-determinant"), "{}", done.stderr);
            let (out, truth) = (rows(&folder.join("out.csv")), truth(folder, name));
            assert_eq!(out.len(), truth.len());
            for (row, truth) in out.iter().zip(&truth) {
                let value = number(row, "log_likelihood");
                assert!(
                    (value - truth).abs() / (1.0 + truth.abs()) < tolerance,
                    "{row:?}"
                );
                assert_eq!((&row["evaluations"][..], &row["jvps"][..]), ("1", "0"));
                if name == "mixture" {
                    assert_eq!(row["prior_log_density"], "");
                } else {
                    let sum = number(row, "prior_log_density") + number(row, "divergence_integral");
                    assert!((sum - value).abs() < 1e-9, "{row:?}");
                }
            }
        }
    }
}

#[test]
fn inspect_compares_log_determinants_with_the_jacobian() {
    let folder = data();
    let folder = folder.path();
    let prints = |card: &str, status: i32, sentences: &[&str]| {
        let done = flowgauge(folder, &["inspect", card]);
        done.is(status);
        for sentence in sentences {
            assert!(
                done.stdout.contains(sentence),
                "{sentence}: {}",
                done.stdout
            );
        }
    };
    prints(
        "coupling.yaml",
        0,
        &["agree with the Jacobian of the latent"],
    );
    prints("affine.yaml", 0, &["not checked", "another shape"]);
    prints("mixture.yaml", 0, &["integrates to one", "mass"]);

    let card = std::fs::read_to_string(folder.join("coupling.yaml")).expect("a card");
    let wrong = card.replace("log_det: log_det", "log_det: minus_log_det");
    assert_ne!(card, wrong);
    write(folder, "wrong.yaml", wrong);
    let sentences = ["FAILED", "from latent to sample", "expected the other sign"];
    prints("wrong.yaml", 1, &sentences);
    let warned = flowgauge(
        folder,
        &[
            "likelihood",
            "--model=wrong.yaml",
            "--data=coupling.npy",
            "--condition=x=coupling_observations.npy",
            "--divergence=one-call",
            "--out=out.csv",
        ],
    );
    assert!(
        warned.stderr.contains("expected the other sign"),
        "{}",
        warned.stderr
    );
}

/// A run needs neither estimators nor solvers, stands beside diffusion models, and has a mass near 1.
#[test]
fn one_call_models_stand_in_runs() {
    let folder = data();
    let folder = folder.path();
    let moons = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/moons");
    let config = format!(
        "name: flows\n\
         likelihood:\n\
         - {{model: mixture.yaml, data: mixture.npy, mass: {{samples: 2000}}}}\n\
         - {{model: affine.yaml, data: affine.npy}}\n\
         - {{model: {0}/card.yaml, data: {0}/heldout.npy, samples: 8, estimators: [exact], \
         solvers: [{{heun: {{steps: 10}}}}]}}\n",
        moons.display()
    );
    write(folder, "run.yaml", config);
    flowgauge(folder, &["run", "run.yaml", "--out=done"]).is(0);
    let summary = rows(&folder.join("done/tables/summary.csv"));
    let of = |model: &str| {
        let found = summary.iter().find(|row| row["model"] == model);
        found.unwrap_or_else(|| panic!("{model}: {summary:?}"))
    };
    let truth = truth(folder, "affine");
    let mean = truth.iter().sum::<f64>() / truth.len() as f64;
    let affine = of("affine");
    assert!((number(affine, "nats") - mean).abs() < 1e-9, "{affine:?}");
    assert_eq!(
        (&affine["kind"][..], &affine["estimator"][..]),
        ("one-call", "one-call")
    );
    assert_eq!(of("moons")["kind"], "ode-exact");
    let mass = rows(&folder.join("done/tables/mass.csv"));
    assert_eq!(mass.len(), 1, "{mass:?}");
    let (value, stderr) = (number(&mass[0], "mass"), number(&mass[0], "stderr"));
    assert!(
        (value - 1.0).abs() < 4.0 * stderr && stderr < 0.05,
        "{mass:?}"
    );
    flowgauge(folder, &["verify", "done"]).is(0);
}

#[test]
fn what_needs_a_velocity_is_refused() {
    let folder = data();
    let folder = folder.path();
    let moons = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/moons/card.yaml");
    let moons = moons.to_str().expect("a path in UTF-8");
    let none = "has no velocity";
    let cases: [(&[&str], &[&str]); 6] = [
        (
            &[
                "likelihood",
                "--model=mixture.yaml",
                "--data=mixture.npy",
                "--divergence=exact",
                "--solver=dopri5",
                "--out=o.csv",
            ],
            &["mixture.yaml", none, "expected `one-call`", "`exact`"],
        ),
        (
            &[
                "likelihood",
                "--model=mixture.yaml",
                "--data=mixture.npy",
                "--divergence=nelbo",
                "--out=o.csv",
            ],
            &[none, "`nelbo`"],
        ),
        (
            &[
                "likelihood",
                "--model",
                moons,
                "--data=mixture.npy",
                "--divergence=one-call",
                "--out=o.csv",
            ],
            &["`one-call` needs a card of `kind: flow` or `kind: density`"],
        ),
        (
            &[
                "likelihood",
                "--model=coupling.yaml",
                "--data=coupling.npy",
                "--guidance=2",
                "--condition=x=coupling_observations.npy",
                "--divergence=one-call",
                "--out=o.csv",
            ],
            &["guid"],
        ),
        (
            &[
                "sample",
                "--model=affine.yaml",
                "--count=4",
                "--sampler=heun",
                "--out=x.npy",
            ],
            &["affine.yaml", none],
        ),
        (
            &[
                "sample",
                "--model=affine.yaml",
                "--count=4",
                "--sampler=ode",
                "--out=x.npy",
            ],
            &["affine.yaml", none],
        ),
    ];
    for (args, parts) in cases {
        refused(folder, args, parts);
    }
}

#[test]
fn wrong_cards_name_the_key() {
    let folder = data();
    let folder = folder.path();
    let flow = std::fs::read_to_string(folder.join("affine.yaml")).expect("a card");
    let density = std::fs::read_to_string(folder.join("mixture.yaml")).expect("a card");
    for (card, from, to, parts) in [
        (
            &flow,
            "kind: flow",
            "kind: normalizing",
            &["kind", "diffusion, flow or density"][..],
        ),
        (
            &flow,
            ", log_det: log_det",
            "",
            &["network.outputs", "`latent` and `log_det`"],
        ),
        (
            &density,
            "{log_density: log_density}",
            "{latent: z}",
            &["network.outputs", "`log_density`"],
        ),
        (
            &density,
            "kind: density",
            "kind: density\nprior: {std: 2}",
            &["prior", "no prior"],
        ),
        (
            &density,
            "kind: density",
            "kind: density\npath: {kind: ve}",
            &["path"],
        ),
        (
            &density,
            "{log_density: log_density}",
            "{log_density: nothing}",
            &["nothing"],
        ),
        (&flow, "latent: z", "latent: log_det", &["log_det"]),
        (
            &flow,
            "log_det: log_det",
            "log_det: z",
            &["one number per sample"],
        ),
    ] {
        assert!(card.contains(from), "{from}: {card}");
        write(folder, "wrong.yaml", card.replacen(from, to, 1));
        let data = if std::ptr::eq(card, &flow) {
            "affine.npy"
        } else {
            "mixture.npy"
        };
        let args = [
            "likelihood",
            "--model=wrong.yaml",
            "--data",
            data,
            "--divergence=one-call",
        ];
        refused(folder, &[&args[..], &["--out=o.csv"]].concat(), parts);
    }
}
