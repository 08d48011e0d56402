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
fn the_lipschitz_constant_of_a_step_is_measured_and_changes_no_sample() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let inner = "{heun: {steps: 4}}";
    let measured = |iterations: usize| {
        format!(
            "{{steindiff: {{sampler: {inner}, mode: vanilla, population: 8, \
             lipschitz: {{samples: 3, iterations: {iterations}}}}}}}"
        )
    };
    let text = format!(
        "name: l\nseed: 3\nsamples:\n  - {{model: {0}/card.yaml, count: 8, reference: {0}/heldout.npy, \
         metrics: [kernel], samplers: [{inner}, {1}, {2}]}}\n",
        card("digits").trim_end_matches("/card.yaml"),
        measured(6),
        measured(64)
    );
    write(at, "c.yaml", &text);
    flowgauge(at, &["run", "c.yaml", "--out", "run", "--quiet"]).is(0);
    let rows = |table: &str| -> Vec<std::collections::BTreeMap<String, String>> {
        let path = at.join(format!("run/tables/{table}.csv"));
        let mut reader = csv::Reader::from_path(path).expect(table);
        reader
            .deserialize()
            .map(|row| row.expect("a row"))
            .collect()
    };
    let steps = rows("steps");
    let number = |row: &std::collections::BTreeMap<String, String>, column: &str| -> f64 {
        row[column].parse().expect(column)
    };
    let of = |iterations: &str| -> Vec<_> {
        let name = format!("lipschitz={{\"samples\":3,\"iterations\":{iterations}}}");
        let found = steps.iter().filter(|row| row["sampler"].contains(&name));
        found.cloned().collect()
    };
    let (few, all) = (of("6"), of("64"));
    assert_eq!((few.len(), all.len()), (3, 3), "{}", steps[0]["sampler"]);
    for (few, all) in few.iter().zip(&all) {
        let (rough, exact) = (number(few, "lipschitz"), number(all, "lipschitz"));
        println!(
            "step {}: {rough} {exact} ± {}",
            all["step"], all["lipschitz_stderr"]
        );
        // In 64 dimensions 64 iterations leave rounding of the network alone.
        assert!(number(all, "lipschitz_residual") < 1e-2 * exact);
        assert!(
            rough <= exact * (1.0 + 1e-3) && rough > 0.5 * exact,
            "{rough} {exact}"
        );
        assert!(number(all, "lipschitz_max") >= exact);
        // Two products per iteration and each of two predictions, of three of eight samples.
        assert_eq!(number(few, "jvps"), 2.0 * 6.0 * 2.0 * 3.0 / 8.0);
    }
    // Three samplers draw the same samples, bit for bit.
    let drawn: Vec<_> = std::fs::read_dir(at.join("run/arrays"))
        .expect("arrays")
        .map(|entry| read(&entry.expect("a file").path()))
        .filter(|x| x.nrows() == 8)
        .collect();
    assert_eq!(drawn.len(), 3);
    assert!(drawn.iter().all(|x| *x == drawn[0]));
    let page = std::fs::read_to_string(at.join("run/index.html")).expect("a page");
    assert!(page.contains("Largest singular value of the step"));
    let bad = "{steindiff: {sampler: euler, lipschitz: {iterations: 0}}}";
    let args = [
        "sample",
        "--model",
        &card("digits"),
        "--sampler",
        bad,
        "--count",
        "4",
        "--out",
        "x.npy",
    ];
    refused(at, &args, &["lipschitz.iterations is 0"]);
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
