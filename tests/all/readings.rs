//! Cards that are checked by data: the right ones of the repository agree, and each field of a right card that is
//! spoilt is named.

use std::path::{Path, PathBuf};

use flowgauge::data::Dataset;
use flowgauge::execute::checked_samples;
use flowgauge::model::loaded::{Model, SessionOptions};
use flowgauge::model::onnx::{Provider, Runtime};
use flowgauge::model::readings::{
    CheckEffort, MAX_CHECKED_SAMPLES, ReadingReport, ReadingScore, ReadingVerdict,
};
use flowgauge::num::Batch;
use flowgauge::num::key::{Purpose, RngKey, SampleId};
use ndarray::Axis;

use crate::cli::{flowgauge, folder, le, models, npy, refused, write};

/// A change of a card: the text, its replacement, and what the verdict must name.
type Fault = (&'static str, &'static str, &'static str);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The check of a card with samples of a file as `inspect` chooses them, and at most `most` of them.
fn checked(card: &Path, data: &Path, most: usize, effort: CheckEffort) -> ReadingReport {
    let model = Model::open(card).expect("a card");
    let data = Dataset::read(data).expect("data");
    let samples = checked_samples(data.len(), most);
    let x = data.states(&model.card, RngKey { seed: 0 }, &samples);
    check(&model, &samples, &x, effort)
}

fn check(model: &Model, samples: &[SampleId], x: &Batch, effort: CheckEffort) -> ReadingReport {
    let options = SessionOptions {
        provider: Provider::Cpu,
        threads: 1,
    };
    let runtime = Runtime::get(None).expect("ONNX Runtime");
    model
        .check_readings(runtime, options, samples, x, effort)
        .expect("a check")
}

/// A right card with its data, and its faults.
struct Example {
    card: PathBuf,
    data: PathBuf,
    faults: &'static [Fault],
}

const EDM_MIXTURE: &str = "kind: edm\n  sigma_min: 0.02\n  sigma_max: 80.0";
const EDM_DIGITS: &str = "kind: edm\n  sigma_min: 0.02\n  sigma_max: 20.0";
const MOONS_PATH: &str = "kind: flow-matching\n  data_at: 1\n  t_min: 0.001\n  t_max: 0.99";
const DDPM_PATH: &str = "kind: discrete, betas: {linear: [1.0e-4, 0.02]}, steps: 1000";
const RECTIFIED_PATH: &str = "kind: flow-matching, data_at: 0, t_min: 0.001, t_max: 0.999";
const RAW_SCALINGS: &str = ", preconditioning: {edm: {sigma_data: 0.5}}";
const DENOISED: &str = "prediction: denoised";
const EDM_ADDED: &str = "prediction: denoised\n  preconditioning: {edm: {sigma_data: 0.5}}";

fn examples() -> Vec<Example> {
    let made = |name: &str, faults| Example {
        card: root().join(format!("tests/data/readings/{name}.yaml")),
        data: root().join("models/mixture/heldout.npy"),
        faults,
    };
    let shipped = |name: &str, faults| Example {
        card: Path::new(&models(name)).join("card.yaml"),
        data: Path::new(&models(name)).join("heldout.npy"),
        faults,
    };
    vec![
        shipped(
            "mixture",
            &[
                (DENOISED, "prediction: noise", "as denoised"),
                (DENOISED, "prediction: score", "as denoised"),
                (DENOISED, "prediction: v", "as denoised"),
                (DENOISED, "prediction: velocity", "as denoised"),
                ("{feed: sigma}", "{feed: log-sigma-over-4}", "fed as sigma"),
                ("{feed: sigma}", "{feed: sigma, scale: 999}", "fed as sigma"),
                (DENOISED, EDM_ADDED, "without preconditioning"),
                (EDM_MIXTURE, "kind: vp", "on the path edm"),
                (
                    EDM_MIXTURE,
                    "kind: flow-matching\n  t_min: 0.01\n  t_max: 0.99",
                    "on the path edm",
                ),
            ],
        ),
        shipped(
            "digits",
            &[
                (DENOISED, "prediction: noise", "as denoised"),
                (DENOISED, "prediction: v", "as denoised"),
                ("{feed: sigma}", "{feed: log-sigma-over-4}", "fed as sigma"),
                (DENOISED, EDM_ADDED, "without preconditioning"),
                (EDM_DIGITS, "kind: vp", "on the path edm"),
                (
                    EDM_DIGITS,
                    "kind: flow-matching\n  t_min: 0.01\n  t_max: 0.99",
                    "on the path edm",
                ),
            ],
        ),
        shipped(
            "moons",
            &[
                ("prediction: velocity", "prediction: noise", "as velocity"),
                (
                    "prediction: velocity",
                    "prediction: denoised",
                    "as velocity",
                ),
                ("prediction: velocity", "prediction: score", "as velocity"),
                ("prediction: velocity", "prediction: v", "as velocity"),
                ("data_at: 1", "data_at: 0", "with data_at: 1"),
                ("{feed: t}", "{feed: t, scale: 999}", "fed as t"),
                ("{feed: t}", "{feed: t, scale: -1, offset: 1}", "fed as t"),
                (
                    MOONS_PATH,
                    "kind: vp",
                    "on the path flow-matching with data_at: 1",
                ),
            ],
        ),
        made(
            "ddpm",
            &[
                ("prediction: noise", "prediction: v", "as noise"),
                ("prediction: noise", "prediction: denoised", "as noise"),
                ("prediction: noise", "prediction: score", "as noise"),
                (
                    "linear: [1.0e-4, 0.02]",
                    "scaled-linear: [0.00085, 0.012]",
                    "betas linear",
                ),
                (
                    "noise}",
                    "noise, time: {feed: index, scale: -1, offset: 999}}",
                    "fed as index",
                ),
                (
                    DDPM_PATH,
                    "kind: discrete, betas: {scaled-linear: [1.0e-4, 0.02]}, steps: 1000",
                    "betas linear",
                ),
            ],
        ),
        made(
            "score",
            &[
                ("prediction: score", "prediction: noise", "as score"),
                ("prediction: score", "prediction: v", "as score"),
                ("scale: 999", "scale: 1", "fed as 999 t"),
                ("scale: 999", "scale: -999, offset: 999", "fed as 999 t"),
                ("kind: vp", "kind: sub-vp", "on the path vp"),
                ("kind: vp", "kind: cosine", "on the path vp"),
            ],
        ),
        made(
            "sub_vp",
            &[
                ("prediction: noise", "prediction: v", "as noise"),
                ("kind: sub-vp", "kind: vp", "on the path sub-vp"),
                ("noise}", "noise, time: {feed: t, scale: 999}}", "fed as t"),
            ],
        ),
        made(
            "v",
            &[
                ("prediction: v", "prediction: noise", "as v"),
                ("prediction: v", "prediction: velocity", "as v"),
                ("kind: cosine", "kind: vp", "on the path cosine"),
                (
                    "prediction: v}",
                    "prediction: v, time: {feed: t, scale: 1000}}",
                    "fed as t",
                ),
                (
                    "prediction: v}",
                    "prediction: v, time: {feed: t, scale: -1, offset: 1}}",
                    "fed as t",
                ),
            ],
        ),
        made(
            "rectified",
            &[
                ("data_at: 0", "data_at: 1", "with data_at: 0"),
                ("scale: 1000", "scale: 1", "fed as 1000 t"),
                ("prediction: velocity", "prediction: noise", "as velocity"),
                ("prediction: velocity", "prediction: v", "as velocity"),
                (
                    RECTIFIED_PATH,
                    "kind: vp",
                    "on the path flow-matching with data_at: 0",
                ),
            ],
        ),
        made(
            "ve",
            &[
                (
                    "feed: log-sigma-over-4",
                    "feed: sigma",
                    "fed as log-sigma-over-4",
                ),
                (
                    "feed: log-sigma-over-4",
                    "feed: t",
                    "fed as log-sigma-over-4",
                ),
                ("prediction: score", "prediction: noise", "as score"),
                ("prediction: score", "prediction: denoised", "as score"),
            ],
        ),
        made(
            "raw",
            &[
                (
                    RAW_SCALINGS,
                    "",
                    "with preconditioning: {edm:{sigma_data:0.5}}",
                ),
                (
                    RAW_SCALINGS,
                    ", time: {feed: log-sigma-over-4}",
                    "{edm:{sigma_data:0.5}}",
                ),
                (
                    "sigma_data: 0.5}}",
                    "sigma_data: 0.5}}, time: {feed: sigma}",
                    "fed as log-sigma-over-4",
                ),
            ],
        ),
    ]
}

/// A folder with the graphs beside a card, and the text of the card without heads and maps.
fn bench(card: &Path) -> (tempfile::TempDir, String) {
    let folder = folder();
    let from = card.parent().expect("a folder");
    let network = Model::open(card).expect("a card").card.network.file;
    std::fs::copy(from.join(&network), folder.path().join(&network)).expect("copied");
    let mut text = String::new();
    let mut skipped = false;
    for line in std::fs::read_to_string(card).expect("a card").lines() {
        if !line.starts_with(' ') {
            skipped = ["divergence_heads", "flow_maps", "closed_form"]
                .iter()
                .any(|key| line.starts_with(key));
        }
        if !skipped {
            text += line;
            text.push('\n');
        }
    }
    (folder, text)
}

#[test]
fn right_cards_agree_with_many_and_few_samples() {
    for example in examples() {
        for (most, effort) in [
            (MAX_CHECKED_SAMPLES, CheckEffort::Full),
            (MAX_CHECKED_SAMPLES, CheckEffort::Short),
            (16, CheckEffort::Short),
            (8, CheckEffort::Full),
        ] {
            let report = checked(&example.card, &example.data, most, effort);
            let most_evaluations = if effort == CheckEffort::Full { 200 } else { 60 };
            assert!(
                report.evaluations <= most_evaluations,
                "{}",
                report.evaluations
            );
            assert!(
                matches!(report.verdict, ReadingVerdict::Agrees),
                "{}, {most} samples: {}",
                example.card.display(),
                report.sentence()
            );
        }
    }
}

#[test]
fn each_spoilt_field_of_a_right_card_is_named() {
    let (mut faults, mut found_by_short, mut unseen) = (0, 0, 0);
    let mut missed = Vec::new();
    for example in examples() {
        let (folder, right) = bench(&example.card);
        for (from, to, named) in example.faults {
            assert!(right.contains(from), "{from}");
            let card = folder.path().join("card.yaml");
            std::fs::write(&card, right.replacen(from, to, 1)).expect("written");
            let report = checked(&card, &example.data, MAX_CHECKED_SAMPLES, CheckEffort::Full);
            faults += 1;
            let right = |score: &ReadingScore| {
                score.reading.difference_from(&report.card).contains(named) && score.ratio < 1.0
            };
            let best = report.scores.iter().find(|score| right(score));
            // An error that grows by a few percent is within the chance of 64 samples.
            let slight = best.is_some_and(|score| score.ratio > 0.9);
            if slight && matches!(report.verdict, ReadingVerdict::Agrees) {
                unseen += 1;
            } else if !report.disagrees() || !report.sentence().contains(named) {
                missed.push(format!("{to}: {}", report.sentence()));
            }
            assert!(report.evaluations <= 200, "{}", report.evaluations);
            let short = checked(
                &card,
                &example.data,
                MAX_CHECKED_SAMPLES,
                CheckEffort::Short,
            );
            found_by_short += usize::from(short.disagrees());
        }
    }
    println!("{faults} wrong cards, of which a short check finds {found_by_short}");
    assert!(missed.is_empty(), "{missed:#?}");
    assert!(unseen <= 1, "{unseen} slight faults are not seen");
    assert!(
        faults >= 30 && found_by_short * 10 >= faults * 8,
        "{found_by_short} of {faults}"
    );
}

/// 48 draws of the normal distribution or of the two-component mixtures of `tests/data/closed_forms`, and of two points.
fn closed_form_samples(name: &str) -> Batch {
    let text =
        std::fs::read(root().join("tests/data/closed_forms/closed_forms.json")).expect("numbers");
    let numbers: serde_json::Value = serde_json::from_slice(&text).expect("numbers");
    let list = |key: &str| -> Vec<f64> {
        let values = numbers[key].as_array().expect("a list");
        values
            .iter()
            .map(|v| v.as_f64().expect("a number"))
            .collect()
    };
    let turn = |row: usize, column: usize| numbers["u"][row][column].as_f64().expect("a number");
    let mut x = Batch::zeros((48, 3));
    for (i, mut row) in x.rows_mut().into_iter().enumerate() {
        let z = RngKey { seed: 6 }.normal(Purpose::Check, i as u64, 0, 3);
        let u = RngKey { seed: 6 }.uniform(Purpose::Check, i as u64, 1, 3);
        let (c, m, weights) = (list("c"), list("m"), list("weights"));
        let along: Vec<f64> = (0..3)
            .map(|j| match name {
                "product" => {
                    let k = usize::from(u[j] >= weights[0]);
                    list("means")[k] + list("variances")[k].sqrt() * z[j]
                }
                _ => c[j].sqrt() * z[j],
            })
            .collect();
        for j in 0..3 {
            row[j] = match name {
                "dirac" => list("a")[j] * if i % 2 == 0 { 1.0 } else { -1.0 },
                "map" => [0.5, -1.0, 0.0][j] + [0.5, 1.0, 2.0][j] * z[j],
                "product" => (0..3).map(|k| turn(j, k) * along[k]).sum(),
                _ => m[j] + (0..3).map(|k| turn(j, k) * along[k]).sum::<f64>(),
            };
        }
    }
    x
}

#[test]
fn closed_forms_agree_and_other_networks_refute_no_card() {
    let samples: Vec<SampleId> = (0..48).collect();
    for (card, data, agrees) in [
        ("closed_forms/gaussian", "gaussian", true),
        ("closed_forms/flow", "gaussian", true),
        ("closed_forms/product", "product", true),
        ("closed_forms/dirac", "dirac", true),
        ("gaussian_map/card", "map", true),
        // A field that is on no path, and networks with random weights.
        ("closed_forms/linear", "gaussian", false),
        ("closed_forms/inside", "gaussian", false),
        ("closed_forms/outside", "gaussian", false),
        ("closed_forms/gaussian", "dirac", false),
        ("gaussian_map/card", "product", false),
    ] {
        let model = Model::open(&root().join(format!("tests/data/{card}.yaml"))).expect("a card");
        let x = closed_form_samples(data);
        for (effort, rows) in [
            (CheckEffort::Full, 48),
            (CheckEffort::Short, 48),
            (CheckEffort::Full, 9),
        ] {
            let x = x.select(Axis(0), &(0..rows).collect::<Vec<_>>());
            let report = check(&model, &samples[..rows], &x, effort);
            assert!(
                !report.disagrees(),
                "{card} with {rows} of {data}: {}",
                report.sentence()
            );
            assert!(
                !agrees || matches!(report.verdict, ReadingVerdict::Agrees),
                "{card} with {rows} of {data}: {}",
                report.sentence()
            );
        }
    }
}

#[test]
fn networks_without_knowledge_refute_no_card() {
    // Untrained networks give numbers that do not depend on the data, or hardly.
    let folder = folder();
    let from = root().join("tests/data/times");
    std::fs::copy(
        from.join("heeding.onnx"),
        folder.path().join("heeding.onnx"),
    )
    .expect("copied");
    let samples: Vec<SampleId> = (0..64).collect();
    let mut x = Batch::zeros((64, 4));
    for (i, mut row) in x.rows_mut().into_iter().enumerate() {
        row.assign(&RngKey { seed: 5 }.normal(Purpose::Check, i as u64, 0, 4));
        row *= 3.0;
        row += 1.0;
    }
    for prediction in ["noise", "denoised", "v", "score", "velocity"] {
        for path in ["vp", "edm", "flow-matching", "cosine", "discrete"] {
            let text = format!(
                "name: it\nshape: [4]\nnetwork: {{file: heeding.onnx, inputs: {{x: x, time: t}}, output: y, \
                 prediction: {prediction}}}\npath: {{kind: {path}}}\n"
            );
            let card = folder.path().join("card.yaml");
            std::fs::write(&card, text).expect("written");
            let model = Model::open(&card).expect("a card");
            let report = check(&model, &samples, &x, CheckEffort::Full);
            assert!(
                !report.disagrees(),
                "{prediction} on {path}: {}",
                report.sentence()
            );
        }
    }
}

#[test]
fn result_depends_on_neither_order_nor_company_of_the_samples() {
    let example = &examples()[2];
    let model = Model::open(&example.card).expect("a card");
    let data = Dataset::read(&example.data).expect("data");
    let samples: Vec<SampleId> = (0..40).collect();
    let x = data.states(&model.card, RngKey { seed: 0 }, &samples);
    let one = check(&model, &samples, &x, CheckEffort::Short);
    let order: Vec<usize> = (0..40).rev().collect();
    let turned: Vec<SampleId> = order.iter().map(|i| samples[*i]).collect();
    let two = check(
        &model,
        &turned,
        &x.select(Axis(0), &order),
        CheckEffort::Short,
    );
    for (a, b) in one.scores[0].errors.iter().zip(&two.scores[0].errors) {
        let (a, b) = (a.expect("an error"), b.expect("an error"));
        assert!((a - b).abs() <= 1e-6 * a, "{a} {b}");
    }
}

#[test]
fn inspect_prints_the_verdict_last_and_run_and_likelihood_warn() {
    let example = &examples()[2];
    let (folder, right) = bench(&example.card);
    let at = folder.path();
    std::fs::copy(&example.data, at.join("x.npy")).expect("copied");
    let wrong = right.replace("data_at: 1", "data_at: 0");
    write(at, "right.yaml", &right);
    write(at, "wrong.yaml", &wrong);
    let last = |text: &str| {
        text.trim_end()
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned()
    };

    let done = flowgauge(at, &["inspect", "right.yaml", "--data", "x.npy"]);
    done.is(0);
    assert_eq!(last(&done.stdout), "card agrees with the data");
    let done = flowgauge(at, &["inspect", "wrong.yaml", "--data", "x.npy"]);
    done.is(1);
    let verdict = last(&done.stdout);
    assert!(
        verdict.starts_with("card disagrees: read with data_at: 1 the error is 0."),
        "{verdict}"
    );

    let likelihood = |card: &str, more: &[&str]| {
        let mut args = vec!["likelihood", "--model", card, "--data", "x.npy", "--solver"];
        args.extend([
            "{euler: {steps: 4}}",
            "--divergence",
            "exact",
            "--out",
            "o.csv",
            "--quiet",
        ]);
        args.extend(more);
        let done = flowgauge(at, &args);
        done.is(0);
        done.stderr
    };
    assert!(likelihood("wrong.yaml", &[]).contains("card disagrees: read with data_at: 1"));
    assert!(!likelihood("wrong.yaml", &["--no-check"]).contains("disagrees"));
    assert!(!likelihood("right.yaml", &[]).contains("disagrees"));

    write(
        at,
        "c.yaml",
        "name: c\nestimators: [exact]\nsolvers: [{euler: {steps: 4}}]\nlikelihood: [{model: wrong.yaml, data: x.npy}]\n",
    );
    let done = flowgauge(at, &["run", "c.yaml", "--out", "one"]);
    done.is(0).says(&[
        "wrong.yaml: card disagrees: read with data_at: 1",
        "--no-check",
    ]);
    let done = flowgauge(at, &["run", "c.yaml", "--out", "two", "--no-check"]);
    assert!(!done.is(0).stderr.contains("disagrees"));
}

#[test]
fn data_that_cannot_check_a_card_are_refused() {
    let folder = folder();
    let at = folder.path();
    let card = format!("{}/card.yaml", models("moons"));
    write(at, "few.npy", npy("<f4", "(3, 2)", &le(&[1.0f32; 6])));
    write(at, "zero.npy", npy("<f4", "(9, 2)", &le(&[0.0f32; 18])));
    write(at, "wide.npy", npy("<f4", "(9, 3)", &le(&[0.0f32; 27])));
    let inspect = |data: &str, words: &[&str]| {
        refused(at, &["inspect", &card, "--data", data], words);
    };
    inspect(
        "few.npy",
        &["few.npy", "3 samples are too few", "at least 8"],
    );
    inspect("zero.npy", &["zero.npy", "all zero"]);
    inspect("wide.npy", &["wide.npy"]);
    inspect("none.npy", &["none.npy"]);
}

/// Wrong cards of which no reading of the network is right.
const UNREADABLE: [&str; 3] = ["ports-variances-31", "ports-several-32", "score-ve-44"];

/// A case of `scripts/convention_cases.py`, which computed the denoising errors on its own.
#[derive(serde::Deserialize)]
struct ConventionCase {
    name: String,
    /// The folder of the network, from the root of the repository.
    folder: String,
    data: String,
    #[serde(default)]
    conditions: std::collections::BTreeMap<String, String>,
    /// `agrees`, `disagrees`, `slight` (the error hardly grows) or `refused`.
    verdict: String,
    card: serde_json::Value,
}

#[test]
fn verdicts_are_those_of_errors_computed_elsewhere() {
    let text = std::fs::read_to_string(root().join("tests/data/readings/cases.yaml"));
    let text = text.expect("cases").replace(" null:", " \"null\":");
    let cases: Vec<ConventionCase> = serde_yaml::from_str(&text).expect("cases");
    let mut wrong = Vec::new();
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for case in &cases {
        let folder = folder();
        let at = folder.path();
        copy_files(&root().join(&case.folder), at);
        let card = serde_json::to_string(&case.card).expect("JSON is YAML");
        write(at, "card.yaml", card);
        let data = format!("--data={}", root().join(&case.data).display());
        let conditions: Vec<String> = case
            .conditions
            .iter()
            .map(|(name, file)| format!("--condition={name}={}", root().join(file).display()))
            .collect();
        let mut args = vec!["inspect", "card.yaml", &data, "--quiet"];
        args.extend(conditions.iter().map(String::as_str));
        let done = flowgauge(at, &args);
        let last = done.stdout.lines().last().unwrap_or_default();
        let right = match &case.verdict[..] {
            "agrees" => done.code == Some(0) && last == "card agrees with the data",
            // No reading makes sense of an output that is another quantity, or of a path that ends far
            // from where the network was trained.
            "disagrees" if UNREADABLE.contains(&&case.name[..]) => {
                done.code == Some(2) || last.starts_with("undecided")
            }
            "disagrees" => done.code == Some(1) && last.starts_with("card disagrees"),
            "slight" => matches!(done.code, Some(0 | 1)),
            _ => done.code == Some(2),
        };
        *counts.entry(case.verdict.clone()).or_default() += 1;
        if !right {
            wrong.push(format!(
                "{} ({}): {:?} {last}",
                case.name, case.verdict, done.code
            ));
        }
    }
    println!("{counts:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        counts["agrees"] >= 25 && counts["disagrees"] >= 30,
        "{counts:?}"
    );
}

/// Copies the files of a folder and of its folders.
fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            std::fs::create_dir_all(&copy).expect("made");
            copy_files(&path, &copy);
        } else {
            std::fs::copy(&path, &copy).expect("copied");
        }
    }
}
