//! Samplers through the program: what a run records of them, and what must change nothing.

use std::path::Path;

use crate::cli::{card, flowgauge, refused, samples, write};

fn read(path: &Path) -> ndarray::Array2<f64> {
    let array: ndarray::ArrayD<f32> = ndarray_npy::read_npy(path).expect("an array");
    array.into_dimensionality().expect("rows").mapv(f64::from)
}

const AROUND: &str = "{steindiff: {sampler: {unipc: {steps: 5}}, probes: 2, population: 6, skip_last: false, gate: [0.1, 10]}}";

#[test]
fn steindiff_does_not_feel_batch_or_threads() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let model = card("digits");
    let draw = |out: &str, more: &[&str]| {
        let usual = [
            "sample",
            "--model",
            &model,
            "--sampler",
            AROUND,
            "--count",
            "14",
            "--seed",
            "3",
            "--out",
            out,
        ];
        flowgauge(at, &[&usual[..], more].concat()).is(0);
        read(&at.join(out))
    };
    let base = draw("base.npy", &["--batch", "32", "--threads", "2"]);
    assert_eq!(base.dim(), (14, 64));
    assert_eq!(
        draw("threads.npy", &["--batch", "32", "--threads", "1"]),
        base
    );
    let small = draw("small.npy", &["--batch", "3", "--threads", "2"]);
    let gap = (&small - &base).iter().fold(0.0f64, |a, b| a.max(b.abs()));
    assert!(gap < 1e-4, "{gap}");
    let plain = [
        "sample",
        "--model",
        &model,
        "--sampler",
        "{unipc: {steps: 5}}",
        "--count",
        "14",
        "--seed",
        "3",
    ];
    flowgauge(at, &[&plain[..], &["--out", "plain.npy"]].concat()).is(0);
    assert_ne!(read(&at.join("plain.npy")), base);
}

#[test]
fn a_run_records_grids_steps_and_costs_and_takes_noise_from_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let model = card("mixture");
    write(at, "x.npy", samples(12, 8));
    write(at, "noise.npy", samples(10, 8));
    let config = |noise: &str| {
        format!(
            "name: test\nchunk: 2\nsamples:\n  - {{model: {model:?}, samplers: [{{heun: {{steps: 3}}}}, \
             {{steindiff: {{sampler: {{heun: {{steps: 3}}}}, probes: 2, population: 4}}}}], count: 10, {noise}\
             reference: x.npy, metrics: [frechet]}}\n"
        )
    };
    write(at, "config.yaml", config("noise: noise.npy, "));
    flowgauge(at, &["run", "config.yaml", "--out", "out", "--quiet"]).is(0);
    // Whole populations of 4 with chunks of 2: 5 trials of the plain sampler, 3 of SteinDiff, 2 of metrics.
    let plan = std::fs::read_to_string(at.join("out/plan.json")).expect("a plan");
    let plan: serde_json::Value = serde_json::from_str(&plan).expect("a plan");
    assert_eq!(plan["trials"].as_array().expect("trials").len(), 10);
    let grids = plan["grids"].as_array().expect("grids");
    assert_eq!(grids.len(), 2);
    assert_eq!(grids[0]["t"], grids[1]["t"]);
    let length = |key: &str| grids[0][key].as_array().expect(key).len();
    assert!(length("t") >= 3 && length("t") == length("sigma") && length("t") == length("alpha"));
    let steps = std::fs::read_to_string(at.join("out/tables/steps.csv")).expect("steps");
    let intervals = length("t") - 1;
    assert_eq!(steps.lines().count(), 1 + 3 * intervals, "{steps}");
    assert!(
        steps.contains("skipped-last") && steps.contains("jacobian"),
        "{steps}"
    );
    let metrics = std::fs::read_to_string(at.join("out/tables/metrics.csv")).expect("metrics");
    let mut reader = csv::Reader::from_reader(metrics.as_bytes());
    let rows: Vec<std::collections::BTreeMap<String, String>> =
        reader.deserialize().map(|r| r.expect("a row")).collect();
    let number = |row: usize, key: &str| rows[row][key].parse::<f64>().expect("a number");
    assert_eq!(number(0, "evaluations"), 2.0 * intervals as f64);
    assert_eq!(
        (number(0, "jvps"), number(0, "cost")),
        (0.0, number(0, "evaluations"))
    );
    // Two products for each of two probes in every step but the last, which is taken in full.
    assert_eq!(number(1, "jvps"), 4.0 * (intervals - 1) as f64);
    assert!(number(1, "cost") > number(1, "evaluations"));
    let drawn = std::fs::read_dir(at.join("out/plots"))
        .expect("plots")
        .flatten();
    assert!(drawn.map(|e| e.file_name()).any(|name| {
        name.to_string_lossy()
            .starts_with("gamma-mixture-heun-clipped")
    }));
    // The file's states are what `sample --noise` starts from.
    let spec = "{heun: {steps: 3}}";
    flowgauge(
        at,
        &[
            "sample",
            "--model",
            &model,
            "--sampler",
            spec,
            "--noise",
            "noise.npy",
            "--out",
            "s.npy",
        ],
    )
    .is(0);
    let all = read(&at.join("s.npy"));
    let first = plan["trials"].as_array().expect("trials")[1]["id"]
        .as_str()
        .expect("an id");
    let part = read(&at.join(format!("out/arrays/{first}.npy")));
    assert_eq!(part, all.slice(ndarray::s![2..4, ..]));
    write(at, "short.npy", samples(3, 8));
    write(at, "narrow.npy", samples(10, 3));
    write(at, "config.yaml", config("noise: short.npy, "));
    refused(
        at,
        &["plan", "config.yaml"],
        &["noise", "holds 3 states", "count is 10"],
    );
    write(at, "config.yaml", config("noise: narrow.npy, "));
    refused(
        at,
        &["plan", "config.yaml"],
        &["narrow.npy", "3 numbers each"],
    );
}
