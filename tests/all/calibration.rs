//! Calibration through the program, on a conditional network that is an exact Gaussian posterior
//! (`scripts/make_calibration.py`) and on one of its draws that are 10 % too narrow.

use std::collections::BTreeMap;
use std::path::Path;

use super::cli::{flowgauge, folder, refused, write};
use super::resume::{finished, read};

/// The path of a file below `tests/data/calibration`.
fn data(name: &str) -> String {
    format!(
        "{}/tests/data/calibration/{name}",
        env!("CARGO_MANIFEST_DIR")
    )
}

/// An entry under `calibration` that samples in so many steps of Heun's method, with further keys.
fn entry(card: &str, steps: usize, keys: &str) -> String {
    format!(
        "  - {{model: {}, data: {}, conditions: {{observation: {}}}, sampler: {{heun: {{steps: {steps}}}}}, {keys}}}\n",
        data(card),
        data("theta.npy"),
        data("observations.npy")
    )
}

/// A config of these entries.
fn config(entries: &[String]) -> String {
    format!(
        "name: posteriors\nseed: 3\ncalibration:\n{}",
        entries.concat()
    )
}

type Rows = Vec<BTreeMap<String, String>>;

fn rows(run: &Path, table: &str) -> Rows {
    let path = run.join("tables").join(format!("{table}.csv"));
    let mut reader = csv::Reader::from_path(path).expect(table);
    reader
        .deserialize()
        .map(|row| row.expect("a row"))
        .collect()
}

/// The number in a column of the only row of a model, sampler, test, parameter and statistic.
fn number(
    rows: &Rows,
    [model, sampler, test, parameter, statistic]: [&str; 5],
    column: &str,
) -> f64 {
    let names = ["model", "sampler", "test", "parameter", "statistic"];
    let wanted = [model, sampler, test, parameter, statistic];
    let is = |row: &&BTreeMap<String, String>| {
        names
            .iter()
            .zip(wanted)
            .all(|(name, wanted)| row[*name] == wanted)
    };
    let found: Vec<_> = rows.iter().filter(is).collect();
    assert_eq!(found.len(), 1, "{wanted:?}");
    found[0][column].parse().expect(column)
}

#[test]
fn an_exact_posterior_passes_and_wrong_draws_are_rejected() {
    let folder = folder();
    let at = folder.path();
    let keys = "samples: 500, draws: 60, density: exact, solver: {heun: {steps: 20}}";
    let entries = [
        entry("exact.yaml", 40, keys),
        entry("narrow.yaml", 40, keys),
        // So few steps make the draws about 10 % too wide.
        entry("exact.yaml", 12, keys),
    ];
    write(at, "c.yaml", config(&entries));
    let began = std::time::Instant::now();
    let done = flowgauge(at, &["run", "c.yaml", "--out", "run", "--quiet"]);
    println!("{:.1} s", began.elapsed().as_secs_f64());
    assert!(!done.is(0).stderr.contains("disagrees"), "{}", done.stderr);
    assert!(done.stdout.contains("  coverage  ecdf "), "{}", done.stdout);
    let run = at.join("run");
    let found = rows(&run, "calibration");
    let cases = [
        ("posterior-exact", "heun(steps=40)"),
        ("posterior-narrow", "heun(steps=40)"),
        ("posterior-exact", "heun(steps=12)"),
    ];
    let column = |case: usize, test: &str, parameter: &str, statistic: &str, column: &str| {
        let (model, sampler) = cases[case];
        number(&found, [model, sampler, test, parameter, statistic], column)
    };
    let p = |case, test, parameter, statistic| column(case, test, parameter, statistic, "p");
    for statistic in ["ecdf", "chi-square", "dispersion", "location", "ks"] {
        for (test, parameter) in [("sbc", "all"), ("tarp", ""), ("coverage", "")] {
            let [exact, narrow, wide] = [0, 1, 2].map(|case| p(case, test, parameter, statistic));
            println!("{test} {statistic}: {exact:.3} {narrow:.1e} {wide:.1e}");
            assert!(exact > 1e-3, "{test} {statistic}: {exact}");
        }
    }
    for case in [1, 2] {
        assert!(p(case, "coverage", "", "ecdf") < 1e-3);
        assert!(p(case, "coverage", "", "location") < 1e-4);
        assert!(p(case, "sbc", "all", "dispersion") < 2e-2);
        // Too narrow is positive, and too wide negative.
        let location = column(case, "coverage", "", "location", "value");
        assert_eq!(location > 0.0, case == 1, "{location}");
    }
    // One rank for each observation and parameter, or for all parameters together.
    let ranks = rows(&run, "ranks");
    assert_eq!(ranks.len(), 3 * 500 * (4 + 1 + 1));
    assert!(ranks.iter().all(|row| row["status"] == "ok"));
    let page = read(&run.join("index.html"));
    assert!(page.contains("Calibration of the posterior"));
    assert!(page.contains("<figure class=\"plot\" id=\"calibration-"));
}

#[test]
fn log_densities_of_true_parameters_are_the_closed_form() {
    let folder = folder();
    let at = folder.path();
    // Without `solver`, log-densities follow dopri5.
    let keys = "samples: 500, draws: 1, density: exact, tests: [coverage]";
    write(
        at,
        "c.yaml",
        config(&["exact.yaml", "narrow.yaml"].map(|card| entry(card, 2, keys))),
    );
    flowgauge(at, &["run", "c.yaml", "--out", "run", "--quiet"]).is(0);
    let found = rows(&at.join("run"), "calibration");
    for (model, width) in [("posterior-exact", 1.0), ("posterior-narrow", 0.9)] {
        let row = [model, "heun(steps=2)", "coverage", "", "log-density"];
        let (value, known) = (number(&found, row, "value"), mean_log_density(width));
        println!("{model}: {value} {known}");
        assert!((value - known).abs() < 2e-3, "{model}: {value} {known}");
        let stderr = number(&found, row, "stderr");
        assert!((0.01..0.2).contains(&stderr), "{stderr}");
    }
}

/// The mean log-density of the first 500 true parameters under the posterior with its standard
/// deviations times `width`.
fn mean_log_density(width: f64) -> f64 {
    use ndarray_npy::ReadNpyExt;
    let array = |name: &str| {
        let file = std::fs::File::open(data(name)).expect(name);
        ndarray::Array2::<f32>::read_npy(file)
            .expect(name)
            .mapv(f64::from)
    };
    let (theta, x) = (array("theta.npy"), array("observations.npy"));
    let noise = [0.3f64, 0.6, 1.0, 2.0];
    let terms = (0..500)
        .flat_map(|i| (0..4).map(move |j| (i, j)))
        .map(|(i, j)| {
            let gain = 1.0 / (1.0 + noise[j] * noise[j]);
            let variance = (width * noise[j]).powi(2) * gain;
            let gap = theta[[i, j]] - gain * x[[i, j]];
            -0.5 * (gap * gap / variance + (2.0 * std::f64::consts::PI * variance).ln())
        });
    terms.sum::<f64>() / 500.0
}

#[test]
fn ranks_depend_on_no_batch_shard_stop_or_chunk() {
    let folder = folder();
    let at = folder.path();
    let keys = "samples: 12, draws: 40, density: {hutchinson: {probes: 2}}, solver: {heun: {steps: 4}}, \
                tests: [sbc, {tarp: {resamples: 100}}, coverage]";
    write(at, "c.yaml", config(&[entry("exact.yaml", 12, keys)]));
    let run = |out: &str, more: &[&str]| {
        let args = [&["run", "c.yaml", "--out", out, "--quiet"], more].concat();
        flowgauge(at, &args).is(0);
    };
    let tables = |out: &str| {
        ["ranks", "calibration"].map(|name| read(&at.join(out).join(format!("tables/{name}.csv"))))
    };
    // 128 draws per trial: three observations.
    run("whole", &["--set", "chunk=1"]);
    assert_eq!(finished(&at.join("whole"), "journal.jsonl").len(), 4);
    run("one", &[]);
    assert_eq!(finished(&at.join("one"), "journal.jsonl").len(), 1);
    assert_eq!(tables("one"), tables("whole"), "chunk");
    run(
        "small",
        &["--set", "chunk=1", "--batch", "1", "--threads", "1"],
    );
    assert_eq!(tables("small"), tables("whole"), "batch");
    for shard in ["1/2", "2/2"] {
        run("shards", &["--set", "chunk=1", "--shard", shard]);
    }
    assert_eq!(tables("shards"), tables("whole"), "shards");
    // A kill after the second trial, in the middle of a line.
    run("killed", &["--set", "chunk=1"]);
    let journal = at.join("killed/journal.jsonl");
    let text = read(&journal);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    std::fs::write(&journal, lines[..3].concat() + &lines[3][..20]).expect("written");
    run("killed", &["--set", "chunk=1"]);
    assert_eq!(tables("killed"), tables("whole"), "resumed");
    assert_eq!(finished(&at.join("killed"), "journal.jsonl").len(), 4);
    flowgauge(at, &["verify", "whole", "--fraction", "1"]).is(0);
    // Ranks of a parameter do not depend on the other observations.
    run("fewer", &["--set", "calibration.0.samples=5"]);
    let of = |out: &str| {
        let ranks = rows(&at.join(out), "ranks").into_iter();
        ranks
            .filter(|row| {
                row["test"] == "sbc" && row["sample"].parse::<usize>().expect("an index") < 5
            })
            .collect::<Rows>()
    };
    assert_eq!(of("fewer"), of("whole"));
    assert_eq!(of("fewer").len(), 5 * 4);
}

#[test]
fn true_parameters_have_the_log_density_that_likelihood_gives() {
    let folder = folder();
    let at = folder.path();
    let keys = "samples: 8, draws: 3, density: {hutchinson: {probes: 3}}, solver: {heun: {steps: 6}}, \
                tests: [coverage]";
    write(at, "c.yaml", config(&[entry("exact.yaml", 12, keys)]));
    flowgauge(at, &["run", "c.yaml", "--out", "run", "--quiet"]).is(0);
    let condition = format!("observation={}", data("observations.npy"));
    let args = [
        "likelihood",
        "--model",
        &data("exact.yaml"),
        "--data",
        &data("theta.npy"),
        "--condition",
        &condition,
        "--divergence",
        "{hutchinson: {probes: 3}}",
        "--solver",
        "{heun: {steps: 6}}",
        "--seed",
        "3",
        "--out",
        "ll.csv",
        "--quiet",
    ];
    flowgauge(at, &args).is(0);
    let mut reader = csv::Reader::from_path(at.join("ll.csv")).expect("a table");
    let known: Rows = reader
        .deserialize()
        .map(|row| row.expect("a row"))
        .collect();
    let ranks = rows(&at.join("run"), "ranks");
    assert_eq!(ranks.len(), 8);
    for (rank, known) in ranks.iter().zip(&known) {
        let close = |a: &str, b: &str| {
            let (a, b): (f64, f64) = (a.parse().expect(a), b.parse().expect(b));
            assert!((a - b).abs() < 1e-9 * (1.0 + b.abs()), "{a} {b}");
        };
        close(&rank["value"], &known["log_likelihood"]);
        close(&rank["stderr"], &known["stderr"]);
        assert_eq!(rank["estimator"], "hutchinson(probes=3)");
    }
}

#[test]
fn classifiers_find_the_observations_under_which_draws_are_wrong() {
    let folder = folder();
    let at = folder.path();
    let read_rows = |name: &str| -> ndarray::Array2<f32> {
        ndarray_npy::read_npy(data(name)).expect("an array")
    };
    // True parameters are moved by a multiple of the observation's first number.
    let (mut theta, observed) = (read_rows("theta.npy"), read_rows("observations.npy"));
    for (mut row, observed) in theta.rows_mut().into_iter().zip(observed.rows()) {
        row += 1.2 * observed[0];
    }
    ndarray_npy::write_npy(at.join("moved.npy"), &theta).expect("written");
    let keys = "samples: 400, draws: 60, tests: [local-c2st]";
    let exact = entry("exact.yaml", 30, keys);
    let moved = exact.replace(&data("theta.npy"), "moved.npy");
    write(at, "c.yaml", config(&[exact, moved]));
    flowgauge(at, &["run", "c.yaml", "--out", "run", "--quiet"]).is(0);
    let run = at.join("run");
    let found = rows(&run, "calibration");
    let of = |dataset: &str, statistic: &str, column: &str| -> f64 {
        let row = found
            .iter()
            .find(|row| row["dataset"].ends_with(dataset) && row["statistic"] == statistic);
        row.expect("a row")[column].parse().expect(column)
    };
    for (dataset, is_wrong) in [("theta.npy", false), ("moved.npy", true)] {
        let (share, p) = (
            of(dataset, "rejected", "value"),
            of(dataset, "rejected", "p"),
        );
        println!("{dataset}: {share:.3} {p:.3}");
        assert_eq!(share > 0.35, is_wrong, "{dataset}: {share}");
        assert_eq!(p < 0.6, is_wrong, "{dataset}: {p}");
    }
    assert!(of("moved.npy", "deviation", "value") > of("theta.npy", "deviation", "value"));
    let ranks = rows(&run, "ranks");
    // A model that is wrong somewhere can be rejected everywhere; how far it is off is a local matter.
    let mean_deviation = |of: &dyn Fn(f32) -> bool| {
        let values: Vec<f64> = ranks
            .iter()
            .filter(|row| row["dataset"].ends_with("moved.npy"))
            .filter(|row| of(observed[[row["sample"].parse().expect("an index"), 0]].abs()))
            .map(|row| row["value"].parse().expect("a deviation"))
            .collect();
        values.iter().sum::<f64>() / values.len() as f64
    };
    let [far, near] = [mean_deviation(&|x| x > 1.0), mean_deviation(&|x| x < 0.1)];
    println!("{far:.3} {near:.3}");
    assert!(far > 5.0 * near, "{far} {near}");
    let page = read(&run.join("index.html"));
    assert!(page.contains("Observations with the smallest p-values"));
    // Parts of a run train the same classifiers.
    for shard in ["1/2", "2/2"] {
        flowgauge(
            at,
            &[
                "run", "c.yaml", "--out", "parts", "--shard", shard, "--set", "chunk=64", "--quiet",
            ],
        )
        .is(0);
    }
    for table in ["ranks", "calibration"] {
        let path = |out: &str| at.join(out).join(format!("tables/{table}.csv"));
        assert_eq!(read(&path("run")), read(&path("parts")), "{table}");
    }
}

#[test]
fn wrong_entries_are_refused_by_key() {
    let folder = folder();
    let at = folder.path();
    let whole = "samples: 8, draws: 5, density: exact, tests: [sbc, coverage]";
    for (change, words) in [
        ("calibration.0.draws=0", &["draws", "expected 1 to"][..]),
        ("calibration.0.draws=5000000", &["draws", "expected"]),
        ("calibration.0.samples=601", &["samples: 601", "only 600"]),
        ("calibration.0.samples=0", &["samples", "at least 1"]),
        ("calibration.0.tests=[]", &["tests", "at least one"]),
        ("calibration.0.tests=[sbc, sbc]", &["tests", "twice"]),
        ("calibration.0.tests=[spc]", &["spc", "sbc"]),
        (
            "calibration.0.tests=[coverage, local-c2st]",
            &["local-c2st", "5 draws", "at least 20"],
        ),
        (
            "calibration.0.tests=[{sbc: {bins: 1}}, coverage]",
            &["bins is 1"],
        ),
        ("calibration.0.tests=[sbc]", &["density", "coverage"]),
        (
            "calibration.0.sampler={steindiff: {sampler: euler}}",
            &["sampler", "population"],
        ),
        (
            "calibration.0.solver={heun: {steps: auto}}",
            &["solver", "auto"],
        ),
        ("calibration.0.density=closed-form", &["closed_form"]),
        ("calibration.0.conditions={}", &["observation", "no values"]),
        ("calibration.0.drawz=3", &["drawz", "draws"]),
    ] {
        write(at, "c.yaml", config(&[entry("exact.yaml", 12, whole)]));
        let args = ["run", "c.yaml", "--out", "run", "--set", change];
        refused(at, &args, words);
    }
    let without = "samples: 8, draws: 5, tests: [coverage]";
    write(at, "c.yaml", config(&[entry("exact.yaml", 12, without)]));
    refused(
        at,
        &["run", "c.yaml", "--out", "run"],
        &["density", "absent"],
    );
    // Ranks that are listed twice would count twice.
    let other = "samples: 8, draws: 5, tests: [sbc, tarp]";
    write(
        at,
        "c.yaml",
        config(&[
            entry("exact.yaml", 12, whole),
            entry("exact.yaml", 12, other),
        ]),
    );
    refused(
        at,
        &["run", "c.yaml", "--out", "run"],
        &["`sbc`", "earlier entry"],
    );
    // A parameter that does not vary has no spread.
    let bytes: Vec<u8> = (0..16)
        .flat_map(|i: u8| f32::from(i % 4).to_le_bytes())
        .collect();
    write(at, "theta.npy", super::cli::npy("<f4", "(4, 4)", &bytes));
    write(at, "x.npy", super::cli::npy("<f4", "(4, 4)", &bytes));
    let text = config(&[entry("exact.yaml", 12, "draws: 5, tests: [tarp]")]);
    let text = text
        .replace(&data("theta.npy"), "theta.npy")
        .replace(&data("observations.npy"), "x.npy");
    write(at, "c.yaml", text);
    refused(
        at,
        &["run", "c.yaml", "--out", "run"],
        &["parameter 0", "same"],
    );
    // One entry needs no list.
    let single = config(&[entry("exact.yaml", 12, "samples: 4, draws: 5")]).replace("  - {", "  {");
    write(at, "c.yaml", single);
    flowgauge(at, &["plan", "c.yaml"]).is(0);
}
