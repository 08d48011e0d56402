//! Reweighting through the program, against closed forms: samples of N(0, s²) for the energy |x|²/2.

use std::fmt::Write;
use std::path::Path;

use flowgauge::num::key::{Purpose, RngKey};

use crate::cli::{flowgauge, folder, npy, refused, write};

fn file(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/data/reweight")
        .join(name)
        .to_str()
        .expect("a path in UTF-8")
        .to_owned()
}

/// Writes `x.npy` with samples of N(0, s² I) and `q.csv` with their log-densities, whose errors have
/// the standard deviation `noise`.
fn write_samples(folder: &Path, [rows, dim]: [usize; 2], s: f64, noise: f64) {
    let key = RngKey { seed: 21 };
    let mut bytes = Vec::new();
    let mut table = "sample,log_likelihood,stderr\n".to_owned();
    let error = key.normal(Purpose::Check, 1, 1, rows);
    for i in 0..rows {
        let z = key.normal(Purpose::Check, i as u64, 0, dim);
        bytes.extend(z.iter().flat_map(|z| (s * z).to_le_bytes()));
        let unit = (s * (2.0 * std::f64::consts::PI).sqrt()).ln();
        let log_q = -0.5 * z.dot(&z) - dim as f64 * unit + noise * error[i];
        let stderr = if noise > 0.0 {
            noise.to_string()
        } else {
            String::new()
        };
        writeln!(table, "{i},{log_q},{stderr}").expect("a string");
    }
    write(
        folder,
        "x.npy",
        npy("<f8", &format!("({rows}, {dim})"), &bytes),
    );
    write(folder, "q.csv", table);
}

/// A row of the table.
#[derive(Debug, serde::Deserialize)]
struct Row {
    quantity: String,
    value: f64,
    stderr: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
    n: usize,
}

fn rows(file: &Path) -> Vec<Row> {
    let mut reader = csv::Reader::from_path(file).expect("a table");
    reader.deserialize().map(|r| r.expect("a row")).collect()
}

fn row<'a>(rows: &'a [Row], quantity: &str) -> &'a Row {
    rows.iter()
        .find(|row| row.quantity == quantity)
        .unwrap_or_else(|| panic!("no row {quantity}: {rows:?}"))
}

fn within_errors(row: &Row, truth: f64, most: f64) {
    let stderr = row.stderr.expect("an error");
    assert!((row.value - truth).abs() < 4.0 * stderr, "{truth}: {row:?}");
    assert!(stderr < most, "{row:?}");
}

#[test]
fn quantities_agree_with_closed_forms() {
    let folder = folder();
    let folder = folder.path();
    let (dim, s) = (6, 1.2f64);
    let share = ((2.0 * s * s - 1.0).sqrt() / (s * s)).powi(dim);
    let log_z = 0.5 * f64::from(dim) * (2.0 * std::f64::consts::PI).ln();
    for noise in [0.0, 0.4] {
        write_samples(folder, [2000, dim as usize], s, noise);
        for energy in ["quadratic.onnx", "quadratic_float.onnx"] {
            let (energy, square) = (file(energy), file("square.onnx"));
            let done = flowgauge(
                folder,
                &[
                    "reweight",
                    "--samples=x.npy",
                    "--log-density=q.csv",
                    "--energy",
                    &energy,
                    "--observable",
                    &square,
                    "--out=out.csv",
                    "--plots=plots",
                ],
            );
            done.is(0);
            let out = rows(&folder.join("out.csv"));
            let exact = if noise > 0.0 { "ess_corrected" } else { "ess" };
            let exact = row(&out, exact);
            assert!(
                exact.low < Some(share) && Some(share) < exact.high,
                "{exact:?}"
            );
            assert!((exact.value / share - 1.0).abs() < 0.1, "{exact:?} {share}");
            within_errors(row(&out, "log_z"), log_z, 0.05);
            within_errors(row(&out, "free_energy"), -log_z, 0.05);
            within_errors(row(&out, "mean_square"), f64::from(dim), 0.3);
            assert_eq!((exact.n, row(&out, "khat").n), (2000, 135));
            if noise > 0.0 {
                let naive = row(&out, "ess").value;
                assert!(
                    (naive / share / (-0.16f64).exp() - 1.0).abs() < 0.1,
                    "{naive}"
                );
                let shift = row(&out, "log_z_naive").value - log_z;
                assert!((shift - 0.08).abs() < 0.06, "{shift}");
                done.says(&[
                    "variance of the log-densities' error is 0.160",
                    "2 times as many",
                ]);
            } else {
                assert!(!done.stderr.contains("probes"), "{}", done.stderr);
            }
        }
    }
    for name in ["weights-x.svg", "weights-x.png"] {
        let size = std::fs::metadata(folder.join("plots").join(name))
            .expect(name)
            .len();
        assert!(size > 2000, "{name}: {size}");
    }
}

/// The energy of a card gives the same table as its file, and a failed row is left out and counted.
#[test]
fn the_energy_of_a_card_is_that_of_its_file() {
    let folder = folder();
    let folder = folder.path();
    write_samples(folder, [300, 6], 1.1, 0.0);
    let call = |target: [&str; 2], out: &str| {
        let args = [
            "reweight",
            "--samples=x.npy",
            "--log-density=q.csv",
            "--out",
            out,
        ];
        flowgauge(folder, &[&args[..], &target].concat())
    };
    call(["--energy", &file("quadratic.onnx")], "a.csv").is(0);
    call(["--model", &file("card.yaml")], "b.csv").is(0);
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a table");
    assert_eq!(read("a.csv"), read("b.csv"));

    let table = read("q.csv");
    let mut lines: Vec<String> = table.lines().map(str::to_owned).collect();
    lines[0] += ",status";
    for line in &mut lines[1..] {
        *line += ",ok";
    }
    lines[8] = "7,,,max-steps".to_owned();
    write(folder, "q.csv", lines.join("\n"));
    let done = call(["--model", &file("card.yaml")], "c.csv");
    done.is(0).says(&["1 of 300 samples have no log-density"]);
    assert_eq!(row(&rows(&folder.join("c.csv")), "ess").n, 299);
}

#[test]
fn inputs_at_fault_are_refused_in_words() {
    let folder = folder();
    let folder = folder.path();
    write_samples(folder, [40, 6], 1.1, 0.0);
    let table = std::fs::read_to_string(folder.join("q.csv")).expect("a table");
    write(folder, "none.csv", "sample,nll\n0,1\n");
    write(
        folder,
        "short.csv",
        table.rsplit_once("\n39,").expect("row 39").0,
    );
    write(folder, "twice.csv", table.replace("\n5,", "\n4,"));
    write(folder, "many.csv", format!("{table}40,1,\n"));
    write(folder, "text.csv", table.replace("\n5,", "\n5,x"));

    write(
        folder,
        "bound.csv",
        table
            .replace(",stderr", ",stderr,bound")
            .replace(",\n", ",,elbo\n"),
    );
    write(
        folder,
        "failed.csv",
        format!(
            "sample,log_likelihood\n{}",
            (0..40).map(|i| format!("{i},\n")).collect::<String>()
        ),
    );
    write(folder, "bytes.npy", npy("|u1", "(40, 6)", &[7; 240]));
    let good = file("quadratic.onnx");
    let call = |samples: &str, table: &str, more: &[&str], words: &[&str]| {
        let args = ["reweight", "--samples", samples, "--log-density", table];
        let out = if more.contains(&"--out") {
            &[][..]
        } else {
            &["--out", "out.csv"]
        };
        refused(folder, &[&args[..], out, more].concat(), words);
    };
    let energy = &["--energy", &good[..]];
    for (table, words) in [
        ("none.csv", "no column `log_likelihood`"),
        ("short.csv", "no row for sample 39"),
        ("twice.csv", "line 7: sample 4 has two rows"),
        ("many.csv", "line 42: sample 40, but --samples holds 40"),
        ("text.csv", "line 7: log_likelihood"),
        ("bound.csv", "a bound of kind `elbo`"),
        ("failed.csv", "0 of 40 samples have a log-density"),
        ("absent.csv", "absent.csv"),
    ] {
        call("x.npy", table, energy, &[table, words]);
    }
    call("bytes.npy", "q.csv", energy, &["holds integers"]);
    for (graph, words) in [
        ("vector.onnx", "expected one number per sample"),
        ("ball.onnx", "expected a number"),
        ("gaussian.onnx", "input `sigma` has no role"),
        ("card.yaml", "card.yaml"),
    ] {
        let graph = file(graph);
        call("x.npy", "q.csv", &["--energy", &graph], &[&graph, words]);
    }
    let card = file("../closed_forms/gaussian.yaml");
    call(
        "x.npy",
        "q.csv",
        &["--model", &card],
        &["samples have shape [6]"],
    );
    call(
        "x.npy",
        "q.csv",
        &[
            "--energy",
            &good,
            "--observable",
            &good,
            "--observable",
            &good,
        ],
        &["two observables are named `quadratic`"],
    );
    call(
        "x.npy",
        "q.csv",
        &["--energy", &good, "--out", "q.csv"],
        &["also reads"],
    );
    call(
        "x.npy",
        "q.csv",
        &["--energy", &good, "--energy-scale=0"],
        &["expected a number other than 0"],
    );
    call("x.npy", "q.csv", &[], &["--energy"]);
}

/// The samples and their log-densities that `sample --density` writes: `x.npy` in float64.
fn draw(folder: &Path, card: &str, sampler: &str, density: &str, more: &[&str]) -> String {
    let args = [
        "sample",
        "--model",
        card,
        "--sampler",
        sampler,
        "--density",
        density,
        "--seed=4",
        "--out=x.npy",
        "--float64",
        "--quiet",
    ];
    let count = if more.iter().any(|option| option.starts_with("--count")) {
        &[][..]
    } else {
        &["--count=64"]
    };
    let more = [count, more].concat();
    let more = &more[..];
    flowgauge(folder, &[&args[..], more].concat()).is(0);
    std::fs::read_to_string(folder.join("x.csv")).expect("a table")
}

/// The columns `log_likelihood` and `stderr` of a table.
fn log_densities(table: &str) -> Vec<(f64, Option<f64>)> {
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    let headers = reader.headers().expect("a header").clone();
    let column = |name: &str| headers.iter().position(|h| h == name).expect(name);
    let (value, stderr) = (column("log_likelihood"), column("stderr"));
    let number = |text: &str| text.parse().ok();
    reader
        .records()
        .map(|row| {
            let row = row.expect("a row");
            (number(&row[value]).expect("a number"), number(&row[stderr]))
        })
        .collect()
}

/// The states of a .npy of float64 with 64 rows.
fn states(folder: &Path, name: &str) -> Vec<Vec<f64>> {
    let bytes = std::fs::read(folder.join(name)).expect("an array");
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let values: Vec<f64> = bytes[start..]
        .chunks(8)
        .map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes")))
        .collect();
    values
        .chunks(values.len() / 64)
        .map(<[f64]>::to_vec)
        .collect()
}

/// The model's samples are those of a known normal distribution, so that every log-density is known,
/// and so are the weights for the card's energy.
#[test]
fn drawn_samples_have_their_own_log_density() {
    let folder = folder();
    let folder = folder.path();
    let card = file("card.yaml");
    // The prior N(0, 20²) is carried along x(σ) = x(20) √((τ² + σ²)/(τ² + 20²)).
    let variance = 400.0 * (1.44 + 0.02f64.powi(2)) / (1.44 + 400.0);
    let log_q = |x: &[f64]| {
        let square: f64 = x.iter().map(|v| v * v).sum();
        -0.5 * square / variance - 3.0 * (2.0 * std::f64::consts::PI * variance).ln()
    };
    let tight = "{ode: {solver: {dop853: {rtol: 1e-7, atol: 1e-7}}}}";
    for (sampler, tolerance) in [
        (tight, 2e-4),
        ("{ode: {solver: {rk4: {steps: 60, grid: log-snr}}}}", 2e-3),
        ("{heun: {steps: 200, schedule: log-snr}}", 5e-3),
        ("{euler: {steps: 800, schedule: log-snr}}", 0.1),
    ] {
        for density in ["exact", "{hutchinson: {probes: 2}}"] {
            let found = log_densities(&draw(folder, &card, sampler, density, &[]));
            let x = states(folder, "x.npy");
            assert_eq!((found.len(), x.len()), (64, 64));
            let errors = found
                .iter()
                .zip(&x)
                .map(|((value, _), x)| (value - log_q(x)).abs());
            let largest = errors.fold(0.0, f64::max);
            println!("{sampler} {density}: {largest:.1e}");
            assert!(largest < tolerance, "{sampler} {density}: {largest}");
        }
    }
    draw(folder, &card, tight, "exact", &["--count=2000"]);
    let args = [
        "reweight",
        "--samples=x.npy",
        "--log-density=x.csv",
        "--out=out.csv",
        "--model",
    ];
    flowgauge(folder, &[&args[..], &[&card]].concat()).is(0);
    let out = rows(&folder.join("out.csv"));
    let share = ((2.0 * variance - 1.0).sqrt() / variance).powi(6);
    let ess = row(&out, "ess");
    assert!(
        ess.low < Some(share) && Some(share) < ess.high,
        "{ess:?} {share}"
    );
    within_errors(
        row(&out, "log_z"),
        3.0 * (2.0 * std::f64::consts::PI).ln(),
        0.05,
    );
}

/// The log-density of a written sample is that of `likelihood`, within the solvers' errors; the
/// noise of probes is what `stderr` says; and neither batches nor the table change the samples.
#[test]
fn log_densities_of_samples_agree_with_likelihoods() {
    let folder = folder();
    let folder = folder.path();
    let card = crate::cli::card("mixture");
    let solver = "{dop853: {rtol: 1e-5, atol: 1e-5}}";
    let ode = format!("{{ode: {{solver: {solver}}}}}");
    let along = log_densities(&draw(folder, &card, &ode, "exact", &[]));
    let args = [
        "likelihood",
        "--model",
        &card,
        "--data=x.npy",
        "--divergence=exact",
        "--solver",
        solver,
        "--out=l.csv",
        "--quiet",
        "--no-check",
    ];
    flowgauge(folder, &args).is(0);
    let table = std::fs::read_to_string(folder.join("l.csv")).expect("a table");
    for ((a, _), (b, _)) in along.iter().zip(log_densities(&table)) {
        assert!((a - b).abs() < 2e-2, "{a} {b}");
    }

    let fixed = "{heun: {steps: 40, schedule: log-snr}}";
    let exact = draw(folder, &card, fixed, "exact", &[]);
    let x = states(folder, "x.npy");
    let probes = draw(folder, &card, fixed, "{hutchinson: {probes: 6}}", &[]);
    assert!(states(folder, "x.npy") == x, "probes change no sample");
    let scaled: Vec<f64> = log_densities(&exact)
        .iter()
        .zip(log_densities(&probes))
        .map(|((exact, _), (value, stderr))| (value - exact) / stderr.expect("probes"))
        .collect();
    // Student's t with 5 degrees of freedom has the variance 5/3.
    let rms = (scaled.iter().map(|v| v * v).sum::<f64>() / 64.0 * 0.6).sqrt();
    assert!((0.7..1.35).contains(&rms), "{rms}");

    let batched = draw(folder, &card, fixed, "exact", &["--batch=5", "--threads=1"]);
    for ((a, _), (b, _)) in log_densities(&exact).iter().zip(log_densities(&batched)) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
    let args = [
        "sample",
        "--model",
        &card,
        "--sampler",
        fixed,
        "--count=64",
        "--seed=4",
        "--out=y.npy",
        "--float64",
        "--quiet",
    ];
    flowgauge(folder, &args).is(0);
    // The sampler adds the same numbers in another order.
    let again = states(folder, "y.npy");
    let pairs = again.iter().flatten().zip(x.iter().flatten());
    assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-9));
}

/// A sampler without a likelihood path is refused by name, with those that have one.
#[test]
fn samplers_without_a_density_are_refused() {
    let folder = folder();
    let folder = folder.path();
    let card = file("card.yaml");
    let call = |sampler: &str, more: &[&str], words: &[&str]| {
        let args = [
            "sample",
            "--model",
            &card,
            "--count=4",
            "--out=x.npy",
            "--sampler",
            sampler,
        ];
        refused(folder, &[&args[..], more].concat(), words);
    };
    let exact = &["--density=exact"];
    for sampler in [
        "dpmpp-2m",
        "ddim",
        "unipc",
        "{heun: {s_churn: 5}}",
        "euler-ancestral",
    ] {
        call(sampler, exact, &["--density", "no log-density", "`ode`"]);
    }
    call(
        "{ode: {solver: {heun: {steps: auto}}}}",
        &[],
        &["steps is auto"],
    );
    call("ode", &["--steps=5"], &["--steps 5", "dopri5"]);
    call("ode", &["--density={flow-map: {map: m}}"], &["--density"]);
    call("ode", &["--density=closed-form"], &["no `closed_form`"]);
}

/// A config with one entry under `reweight` for the Gaussian card.
fn config(folder: &Path, entry: &str) {
    let text = format!(
        "name: tests\nchunk: 300\nreweight:\n  - {{model: {}, count: 800, {entry}}}\n",
        file("card.yaml")
    );
    write(folder, "c.yaml", text);
}

/// The entry of a config gives the numbers of the verbs, in trials that a shard, a resumed run or
/// `verify` can repeat.
#[test]
fn a_config_reweights_in_trials() {
    let folder = folder();
    let folder = folder.path();
    let (energy, square) = (file("quadratic.onnx"), file("square.onnx"));
    config(
        folder,
        &format!(
            "sampler: {{ode: {{solver: {{rk4: {{steps: 60, grid: log-snr}}}}}}}}, \
             density: [exact, {{hutchinson: {{probes: 3}}}}], energy: {energy}, \
             energy_scale: 1.5, observables: [{square}]"
        ),
    );
    let run = |out: &str, more: &[&str]| {
        let args = [
            "run",
            "c.yaml",
            "--quiet",
            "--threads=2",
            "--no-check",
            "--out",
            out,
        ];
        flowgauge(folder, &[&args[..], more].concat())
    };
    run("whole", &[]).is(0);
    let table = |out: &str, name: &str| {
        let path = folder.join(out).join("tables").join(name);
        std::fs::read_to_string(path).expect(name)
    };
    let out = rows(&folder.join("whole/tables/reweight.csv"));
    let of = |quantity: &str| {
        let found: Vec<&Row> = out.iter().filter(|row| row.quantity == quantity).collect();
        assert_eq!(found.len(), 2, "{quantity}: {out:?}");
        found
    };
    // The target is N(0, 1/1.5) in 6 dimensions.
    let log_z = 3.0 * (2.0 * std::f64::consts::PI / 1.5).ln();
    let variance = 400.0 * (1.44 + 0.02f64.powi(2)) / (1.44 + 400.0);
    let ratio = 1.5 * variance;
    let share = ((2.0 * ratio - 1.0).sqrt() / ratio).powi(6);
    for row in of("log_z") {
        within_errors(row, log_z, 0.1);
    }
    for row in of("mean_square") {
        within_errors(row, 4.0, 0.5);
    }
    for row in of("ess") {
        assert_eq!(row.n, 800);
        assert!(
            row.low < Some(share) && Some(share) < row.high,
            "{row:?} {share}"
        );
    }
    let page = std::fs::read_to_string(folder.join("whole/index.html")).expect("a page");
    assert!(page.contains("Reweighting to quadratic.onnx"), "no section");
    assert!(
        page.contains("weights and energies of reweighted samples"),
        "no figure"
    );

    run("half", &["--shard=1/2"]).is(0);
    run("half", &["--shard=2/2"]).is(0);
    assert_eq!(
        table("whole", "reweight.csv"),
        table("half", "reweight.csv")
    );
    assert_eq!(table("whole", "weights.csv"), table("half", "weights.csv"));
    flowgauge(folder, &["verify", "whole", "--quiet"]).is(0);
}

#[test]
fn configs_at_fault_are_refused_by_key() {
    let folder = folder();
    let folder = folder.path();
    let good = "sampler: ode, density: exact";
    for (entry, words) in [
        ("sampler: dpmpp-2m, density: exact", "no log-density"),
        ("sampler: ode, density: []", "reweight.0.density"),
        ("sampler: ode, density: closed-form", "no `closed_form`"),
        (&format!("{good}, energy: absent.onnx"), "reweight.0.energy"),
        (
            &format!("{good}, energy_scale: 0"),
            "reweight.0.energy_scale",
        ),
        (
            &format!("{good}, energy: {}", file("vector.onnx")),
            "one number per sample",
        ),
        (
            &format!("{good}, observables: [{}]", file("card.yaml")),
            "expected an ONNX file",
        ),
    ] {
        config(folder, entry);
        refused(folder, &["run", "c.yaml", "--out=run"], &[words]);
    }
    write(
        folder,
        "c.yaml",
        format!(
            "name: tests\nreweight:\n  - {{model: {}, count: 8, {good}}}\n",
            crate::cli::card("mixture")
        ),
    );
    refused(
        folder,
        &["run", "c.yaml", "--out=run"],
        &["reweight.0.energy", "the card has no"],
    );
}

/// A row of `mass.csv`.
#[derive(Debug, serde::Deserialize)]
struct Mass {
    estimator: String,
    mass: f64,
    stderr: f64,
    low: f64,
    high: Option<f64>,
    khat: f64,
    noise_variance: Option<f64>,
    n: usize,
}

/// The density of an exact model has mass one, by the exact trace and by probes. That of a head with
/// a wrong divergence has not.
#[test]
fn the_mass_of_an_exact_density_is_one() {
    let folder = folder();
    let folder = folder.path();
    let text = format!(
        "name: tests\nsolvers: [{{rk4: {{steps: 40, grid: log-snr}}}}]\n\
         estimators: [exact, {{hutchinson: {{probes: 40}}}}]\nlikelihood:\n  \
         - {{model: {}, data: {}, samples: 2, profile: 0, budget: false, mass: {{samples: 1500}}}}\n",
        crate::cli::card("mixture"),
        crate::cli::models("mixture/heldout.npy")
    );
    write(folder, "c.yaml", text);
    let args = [
        "run",
        "c.yaml",
        "--quiet",
        "--threads=2",
        "--no-check",
        "--out=run",
    ];
    flowgauge(folder, &args).is(0);
    let mut reader = csv::Reader::from_path(folder.join("run/tables/mass.csv")).expect("mass.csv");
    let found: Vec<Mass> = reader.deserialize().map(|r| r.expect("a row")).collect();
    assert_eq!(found.len(), 2);
    for row in &found {
        println!("{row:?}");
        assert_eq!(row.n, 1500);
        assert!((row.mass - 1.0).abs() < 4.0 * row.stderr, "{row:?}");
        assert!(row.stderr < 0.15 && row.khat < 0.7, "{row:?}");
        assert!(
            row.low < 1.0 && row.high.is_none_or(|high| high > 1.0),
            "{row:?}"
        );
        assert_eq!(
            row.noise_variance.is_some(),
            row.estimator.starts_with("hutchinson")
        );
    }
    let page = std::fs::read_to_string(folder.join("run/index.html")).expect("a page");
    assert!(page.contains("Mass of the density"), "no section");

    let refusal = |model: &str, mass: &str, words: &[&str]| {
        let text = format!(
            "name: tests\nsolvers: [euler]\nestimators: [exact]\nlikelihood:\n  \
             - {{model: {0}/{model}/card.yaml, data: {0}/{model}/heldout.npy, mass: {mass}}}\n",
            crate::cli::models("")
        );
        write(folder, "d.yaml", text);
        refused(folder, &["run", "d.yaml", "--out=other"], words);
    };
    refusal(
        "mixture",
        "{samples: 3}",
        &["likelihood.0.mass.samples", "expected 32"],
    );
    refusal("mixture", "{draws: 300}", &["likelihood.0.mass", "draws"]);
}

/// A flow map gives the log-density of its own samples, which is that of its steps back.
#[test]
fn flow_maps_give_the_log_density_of_their_samples() {
    let folder = folder();
    let folder = folder.path();
    let card = file("../gaussian_map/card.yaml");
    let map = "{flow-map: {map: two-time, steps: 2}}";
    let along = log_densities(&draw(folder, &card, map, map, &[]));
    let args = [
        "likelihood",
        "--model",
        &card,
        "--data=x.npy",
        "--divergence",
        map,
        "--out=l.csv",
        "--quiet",
        "--no-check",
    ];
    flowgauge(folder, &args).is(0);
    let table = std::fs::read_to_string(folder.join("l.csv")).expect("a table");
    for ((a, _), (b, _)) in along.iter().zip(log_densities(&table)) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
    let args = [
        "sample",
        "--model",
        &card,
        "--count=4",
        "--out=y.npy",
        "--sampler",
        map,
    ];
    refused(
        folder,
        &[&args[..], &["--density=exact"]].concat(),
        &["not the log-density of the samples", "two-time"],
    );
}
