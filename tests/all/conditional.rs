//! Networks as the field has them: conditions, guidance, latents and graphs as exporters leave them,
//! against closed forms, diffusers and sbi. The scripts `make_conditions.py`, `make_ports.py`,
//! `tiny_pipelines.py` and `sbi_references.py` made the references.

use std::fs::File;
use std::path::Path;

use ndarray::{ArrayD, Axis, IxDyn};
use ndarray_npy::{NpzReader, ReadNpyExt};

use crate::cli::{flowgauge, folder, npy, refused, write};

/// The path of a file below `tests/data`.
fn data(name: &str) -> String {
    format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// An array of a reference file below `tests/data`, in f64.
fn truth(file: &str, key: &str) -> ArrayD<f64> {
    let open = || NpzReader::new(File::open(data(file)).expect(file)).expect(file);
    let name = format!("{key}.npy");
    open()
        .by_name::<ndarray::OwnedRepr<f64>, IxDyn>(&name)
        .unwrap_or_else(|_| {
            let single = open().by_name::<ndarray::OwnedRepr<f32>, IxDyn>(&name);
            single.expect(key).mapv(f64::from)
        })
}

/// The columns of `out.csv` after a call of `likelihood` with these flags.
fn likelihood(args: &[(&str, &str)]) -> Vec<std::collections::BTreeMap<String, String>> {
    let folder = folder();
    let mut line = vec!["likelihood", "--out=out.csv", "--quiet"];
    let flags: Vec<String> = args
        .iter()
        .map(|(flag, value)| format!("--{flag}={value}"))
        .collect();
    line.extend(flags.iter().map(String::as_str));
    flowgauge(folder.path(), &line).is(0);
    let mut reader = csv::Reader::from_path(folder.path().join("out.csv")).expect("a table");
    reader
        .deserialize()
        .collect::<Result<_, _>>()
        .expect("rows")
}

/// A column as numbers.
fn column(rows: &[std::collections::BTreeMap<String, String>], name: &str) -> Vec<f64> {
    rows.iter()
        .map(|row| row[name].parse().expect(name))
        .collect()
}

/// The largest |found − expected|/(1 + |expected|) over the found values.
fn worst(found: &[f64], expected: &ArrayD<f64>) -> f64 {
    let gap = |(a, b): (&f64, &f64)| (a - b).abs() / (1.0 + b.abs());
    found.iter().zip(expected).map(gap).fold(0.0, f64::max)
}

/// An adaptive solver that is much finer than the tolerance of the tests.
const FINE: &str = "{dopri5: {rtol: 1e-6, atol: 1e-6}}";

#[test]
fn one_condition_per_sample_gives_its_own_density() {
    let label = |name: &str| format!("label={}", data(name));
    let gaussian = label("conditions/gaussian/labels.npy");
    let onehot = format!("classes={}", data("conditions/gaussian/onehot.npy"));
    let observations = format!(
        "observations={}",
        data("conditions/mixture/observations.npy")
    );
    let flow = label("conditions/flow/labels.npy");
    for (card, array, condition, estimator) in [
        ("gaussian/gaussian.yaml", "gaussian", &gaussian, "exact"),
        ("gaussian/onehot.yaml", "gaussian", &onehot, "exact"),
        ("mixture/card.yaml", "mixture", &observations, "exact"),
        ("flow/card.yaml", "flow", &flow, "exact"),
        ("flow/card.yaml", "flow", &flow, "{learned: {head: exact}}"),
        ("flow/card.yaml", "flow", &flow, "closed-form"),
        (
            "flow/card.yaml",
            "flow",
            &flow,
            "{flow-map: {map: exact, steps: 2}}",
        ),
    ] {
        let expected = truth(&format!("conditions/{array}/truth.npz"), "log_p");
        let rows = likelihood(&[
            ("model", &data(&format!("conditions/{card}"))),
            ("data", &data(&format!("conditions/{array}/data.npy"))),
            ("condition", condition),
            ("divergence", estimator),
            ("solver", FINE),
            ("batch", "64"),
        ]);
        let error = worst(&column(&rows, "log_likelihood"), &expected);
        println!("{card} {estimator}: {error:.1e}");
        assert!(
            rows.len() == 128 && error < 1e-5,
            "{card} {estimator}: {error}"
        );
    }
}

#[test]
fn conditions_depend_on_no_batch_and_no_order() {
    let folder = folder();
    let at = folder.path();
    // The samples in reverse order, with their labels.
    let read = |name: &str| ArrayD::<f64>::read_npy(File::open(data(name)).expect(name));
    let x = read("conditions/gaussian/data.npy").unwrap_or_else(|_| {
        let single =
            ArrayD::<f32>::read_npy(File::open(data("conditions/gaussian/data.npy")).expect("x"));
        single.expect("x").mapv(f64::from)
    });
    let labels = truth_labels();
    let rows: Vec<usize> = (0..x.len_of(Axis(0))).rev().collect();
    let turned = x.select(Axis(0), &rows);
    let bytes: Vec<u8> = turned.iter().flat_map(|v| v.to_le_bytes()).collect();
    write(at, "x.npy", npy("<f8", "(128, 4)", &bytes));
    let bytes: Vec<u8> = rows.iter().flat_map(|i| labels[*i].to_le_bytes()).collect();
    write(at, "labels.npy", npy("<i8", "(128,)", &bytes));
    let expected = truth("conditions/gaussian/truth.npz", "log_p").select(Axis(0), &rows);
    let (x, label) = (at.join("x.npy"), at.join("labels.npy"));
    let label = format!("label={}", label.display());
    for batch in ["1", "7", "64"] {
        let rows = likelihood(&[
            ("model", &data("conditions/gaussian/gaussian.yaml")),
            ("data", &x.display().to_string()),
            ("condition", &label),
            ("divergence", "exact"),
            ("solver", FINE),
            ("batch", batch),
        ]);
        let error = worst(&column(&rows, "log_likelihood"), &expected);
        assert!(error < 1e-5, "batch {batch}: {error}");
    }
}

/// The labels of the conditional Gaussian's samples.
fn truth_labels() -> Vec<i64> {
    truth_labels_of("conditions/gaussian/labels.npy")
}

#[test]
fn guided_likelihoods_are_those_of_the_guided_flow() {
    let folder = "conditions/guided";
    let label = format!("label={}", data("conditions/guided/labels.npy"));
    let evaluate = |card: &str, guidance: Option<&str>, estimator: &str, solver: &str| {
        let (card, array) = (
            data(&format!("{folder}/{card}")),
            data(&format!("{folder}/data.npy")),
        );
        let mut args = vec![
            ("model", card.as_str()),
            ("data", &array),
            ("condition", &label),
            ("divergence", estimator),
            ("solver", solver),
        ];
        args.extend(guidance.map(|guidance| ("guidance", guidance)));
        likelihood(&args)
    };
    let interval = "{scale: 1.5, interval: [0.3, 5.0]}";
    let steps = "{rk4: {steps: 60}}";
    for (card, guidance, key, solver) in [
        ("guided.yaml", Some("1"), "log_p_1", FINE),
        ("guided.yaml", Some("1.5"), "log_p_1.5", FINE),
        ("guided.yaml", Some("4"), "log_p_4", FINE),
        ("autoguided.yaml", None, "log_p_auto_2", FINE),
        ("guided.yaml", Some(interval), "log_p_1.5_interval", FINE),
        ("guided.yaml", Some(interval), "log_p_1.5_interval", steps),
    ] {
        let expected = truth(&format!("{folder}/truth.npz"), key);
        // The field is linear with a multiple of the unit matrix as its Jacobian, so that every
        // probe gives the exact trace.
        for estimator in ["exact", "{hutchinson: {probes: 1}}"] {
            let rows = evaluate(card, guidance, estimator, solver);
            let error = worst(&column(&rows, "log_likelihood"), &expected);
            println!("{card} {guidance:?} {estimator} {solver}: {error:.1e}");
            assert!(
                error < 2e-5,
                "{card} {guidance:?} {estimator} {solver}: {error}"
            );
            let guided = rows[0].get("kind").map(|kind| kind.ends_with("-guided"));
            assert_eq!(guided, (guidance != Some("1")).then_some(true), "{card}");
        }
    }
    // Every evaluation of a guided velocity calls the network with and without conditions.
    let cost = |guidance| {
        let rows = evaluate(
            "guided.yaml",
            Some(guidance),
            "{hutchinson: {probes: 3}}",
            "{heun: {steps: 10}}",
        );
        [column(&rows, "evaluations")[0], column(&rows, "jvps")[0]]
    };
    assert_eq!(cost("1"), [20.0, 60.0]);
    assert_eq!(cost("1.5"), [40.0, 120.0]);
    // Inside the interval alone: at least one and at most two calls for each evaluation.
    let [evaluations, jvps] = cost(interval);
    assert!(
        evaluations > 24.0 && evaluations < 48.0 && jvps > 72.0,
        "{evaluations} {jvps}"
    );
}

#[test]
fn guided_samples_end_at_the_guided_flow() {
    let label = format!("--condition=label={}", data("conditions/guided/labels.npy"));
    for (card, guidance, key) in [
        ("guided.yaml", Some("1.5"), "samples_1.5"),
        ("guided.yaml", Some("4"), "samples_4"),
        ("autoguided.yaml", None, "samples_auto_2"),
    ] {
        let folder = folder();
        let model = format!("--model={}", data(&format!("conditions/guided/{card}")));
        let noise = format!("--noise={}", data("conditions/guided/noise.npy"));
        let mut args = vec!["sample", &model, &noise, &label, "--quiet", "--out=x.npy"];
        args.push("--sampler={heun: {steps: 400}}");
        let guidance = guidance.map(|guidance| format!("--guidance={guidance}"));
        args.extend(guidance.as_deref());
        flowgauge(folder.path(), &args).is(0);
        let found = read_f32(&folder.path().join("x.npy"));
        let expected = truth("conditions/guided/truth.npz", key);
        let error = worst(found.as_slice().expect("standard layout"), &expected);
        println!("{card} {key}: {error:.1e}");
        assert!(error < 5e-4, "{card} {key}: {error}");
    }
}

/// A float32 array as f64.
fn read_f32(path: &Path) -> ArrayD<f64> {
    let array = ArrayD::<f32>::read_npy(File::open(path).expect("a file"));
    array.expect("float32").mapv(f64::from)
}

#[test]
fn wrong_conditions_are_refused_by_name() {
    let folder = folder();
    let at = folder.path();
    let int64 = |values: &[i64]| {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        npy("<i8", &format!("({},)", values.len()), &bytes)
    };
    write(at, "short.npy", int64(&[0; 5]));
    write(at, "wide.npy", npy("<i8", "(128, 2)", &[0; 128 * 16]));
    let mut known = truth_labels();
    known[77] = 9;
    write(at, "unknown.npy", int64(&known));
    known[77] = -1;
    write(at, "negative.npy", int64(&known));
    let card = data("conditions/gaussian/gaussian.yaml");
    let no_null = data("conditions/guided/no-null.yaml");
    let base = |model: &str, array: &str| {
        [
            format!("--model={model}"),
            format!("--data={}", data(&format!("conditions/{array}/data.npy"))),
        ]
    };
    for (options, words) in [
        (
            &[][..],
            &["condition `label` has no values", "--condition label="][..],
        ),
        (
            &["--condition=label=short.npy"],
            &["`label`", "5 values", "128 samples"],
        ),
        (&["--condition=label=wide.npy"], &["`label`", "[2]"]),
        (
            &["--condition=label=unknown.npy"],
            &["label=9", "out of data bounds"],
        ),
        (&["--condition=label=negative.npy"], &["`label`", "-1"]),
        (&["--condition=label=2.5"], &["`label`", "whole numbers"]),
        (
            &["--condition=label=uniform:9"],
            &["label=8", "out of data bounds"],
        ),
        (&["--condition=label=uniform:0"], &["number of classes"]),
        (
            &["--condition=label=missing.npy"],
            &["`label`", "missing.npy"],
        ),
        (
            &["--condition=class=3"],
            &["no condition `class`", "it has label"],
        ),
        (&["--condition=label"], &["NAME=VALUE"]),
        (
            &["--condition=label=1", "--condition=label=2"],
            &["there twice"],
        ),
        (&["--condition=label=1", "--guidance=inf"], &["scale"]),
        (
            &[
                "--condition=label=1",
                "--guidance={scale: 2, interval: [3, 1]}",
            ],
            &["interval"],
        ),
    ] {
        let [model, array] = base(&card, "gaussian");
        let mut args = vec!["likelihood", &model, &array, "--out=out.csv"];
        args.extend(["--divergence=exact", "--solver={heun: {steps: 2}}"]);
        args.extend(options);
        refused(at, &args, words);
    }
    let [model, array] = base(&no_null, "guided");
    let args = [
        "likelihood",
        &model,
        &array,
        "--out=out.csv",
        "--divergence=exact",
        "--solver=heun",
        "--condition=label=1",
    ];
    refused(
        at,
        &[&args[..], &["--guidance=2"]].concat(),
        &["guidance needs", "null"],
    );
    let model = format!("--model={card}");
    let args = [
        "sample",
        &model,
        "--sampler=heun",
        "--count=6",
        "--out=x.npy",
    ];
    refused(
        at,
        &[&args[..], &["--condition=label=short.npy"]].concat(),
        &["`label`", "5 values", "6 samples"],
    );
}

#[test]
fn graphs_are_taken_as_exporters_leave_them() {
    let evaluate = |card: &str, array: &str, solver: &str| {
        likelihood(&[
            ("model", &data(&format!("ports/{card}.yaml"))),
            ("data", &data(&format!("ports/{array}.npy"))),
            ("divergence", "exact"),
            ("solver", solver),
        ])
    };
    for (card, array, key, tolerance) in [
        ("plain", "data", "discrete", 1e-5),
        ("column", "data", "discrete", 1e-5),
        ("scalar", "data", "discrete", 1e-5),
        ("one", "data", "discrete", 1e-5),
        ("batch8", "data", "discrete", 1e-5),
        ("double", "data", "discrete", 1e-6),
        ("half", "data", "discrete", 2e-3),
        ("nhwc", "data_nhwc", "discrete", 1e-5),
        ("variances", "data", "discrete", 1e-5),
        ("variances_first", "data", "discrete", 1e-5),
        ("several", "data", "discrete", 1e-5),
        ("index", "data", "mixed", 5e-5),
        ("index_column", "data", "mixed", 5e-5),
        ("index_scalar", "data", "mixed", 5e-5),
        ("batch8_index", "data", "mixed", 5e-5),
        ("vp999", "data", "vp", 1e-5),
        ("flow1000", "data", "flow", 1e-5),
        ("flow1000_index", "data", "flow", 5e-5),
    ] {
        // Half precision cannot follow a fine tolerance.
        let solver = if card == "half" {
            "{dopri5: {rtol: 1e-3, atol: 1e-3}}"
        } else {
            FINE
        };
        let rows = evaluate(card, array, solver);
        let expected = truth("ports/truth.npz", &format!("log_p_{key}"));
        let error = worst(&column(&rows, "log_likelihood"), &expected);
        println!(
            "{card}: {error:.1e}, {} evaluations",
            rows[0]["evaluations"]
        );
        assert!(error < tolerance, "{card}: {error}");
    }
    // Whole indices alone: a grid that visits others is refused while it runs, one that does not is
    // followed. Euler's method from index to index makes 99 calls, interpolation none more.
    let whole = evaluate("index_whole", "data", "{euler: {steps: 99}}");
    assert_eq!(column(&whole, "evaluations")[0], 99.0);
    let folder = folder();
    let array = format!("--data={}", data("ports/data.npy"));
    for (card, words) in [
        ("baked", &["`t` changes nothing"][..]),
        ("unused", &["`t` changes nothing"]),
        ("unscaled", &["whole numbers", "from 0.001 to 0.999"]),
    ] {
        let model = format!("--model={}", data(&format!("ports/{card}.yaml")));
        let args = [
            "likelihood",
            &model,
            &array,
            "--divergence=exact",
            "--solver=heun",
            "--out=o.csv",
        ];
        refused(folder.path(), &args, words);
    }
}

#[test]
fn endpoint_maps_and_consistency_networks_jump_to_their_ends() {
    let folder = folder();
    let noise = read_any(&data("ports/noise.npy"));
    for (card, steps, key, std) in [
        ("endpoint", 1, "flow", 1.0),
        ("endpoint", 4, "flow", 1.0),
        ("consistency", 1, "edm", 20.0),
    ] {
        let bytes: Vec<u8> = noise.iter().flat_map(|v| (v * std).to_le_bytes()).collect();
        write(
            folder.path(),
            "noise.npy",
            npy("<f8", "(64, 2, 2, 3)", &bytes),
        );
        let model = format!("--model={}", data(&format!("ports/{card}.yaml")));
        let sampler = format!("--sampler={{flow-map: {{map: {card}, steps: {steps}}}}}");
        let args = [
            "sample",
            &model,
            &sampler,
            "--noise=noise.npy",
            "--out=x.npy",
            "--quiet",
        ];
        flowgauge(folder.path(), &args).is(0);
        let found = read_f32(&folder.path().join("x.npy"));
        let expected = truth("ports/truth.npz", &format!("samples_{key}"));
        let error = worst(found.as_slice().expect("standard layout"), &expected);
        assert!(error < 1e-5, "{card} {steps}: {error}");
    }
    std::fs::remove_file(folder.path().join("x.npy")).expect("removed");
    let model = format!("--model={}", data("ports/consistency.yaml"));
    let sampler = "--sampler={flow-map: {map: consistency, steps: 4}}";
    let args = [
        "sample",
        &model,
        sampler,
        "--noise=noise.npy",
        "--out=x.npy",
    ];
    refused(folder.path(), &args, &["one step", "steps: 1"]);
}

/// A float array of either size as f64.
fn read_any(path: &str) -> ArrayD<f64> {
    let open = || File::open(path).expect(path);
    ArrayD::<f64>::read_npy(open())
        .unwrap_or_else(|_| ArrayD::<f32>::read_npy(open()).expect(path).mapv(f64::from))
}

#[test]
fn latent_pipelines_give_diffusers_own_numbers() {
    let context = format!("context={}", data("pipelines/latent_context.npy"));
    let label = format!("label={}", data("pipelines/dit_labels.npy"));
    for (name, condition, guidance, suffix) in [
        ("latent", &context, "1", ""),
        ("latent", &context, "3", "_3"),
        ("dit", &label, "4", "_4"),
        ("dit", &label, "1", ""),
    ] {
        let rows = likelihood(&[
            ("model", &data(&format!("pipelines/{name}.yaml"))),
            ("data", &data(&format!("pipelines/{name}_images.npy"))),
            ("condition", condition),
            ("guidance", guidance),
            ("divergence", "exact"),
            ("solver", "{heun: {steps: 20}}"),
        ]);
        let expected = truth(
            &format!("pipelines/{name}.npz"),
            &format!("heun_log_p{suffix}"),
        );
        let error = worst(&column(&rows[..1], "log_likelihood"), &expected);
        println!("{name} {guidance}: {error:.1e}");
        assert!(error < 1e-6, "{name} {guidance}: {error}");
        assert!(
            rows.iter()
                .all(|row| row["bound"] == "latent" && row["bits_per_dim"].is_empty())
        );
    }
}

#[test]
fn latents_are_drawn_by_address_and_images_of_another_shape_refused() {
    let context = format!("context={}", data("pipelines/latent_context.npy"));
    let evaluate = |seed: &str, encode: &str, batch: &str| {
        let rows = likelihood(&[
            ("model", &data("pipelines/latent.yaml")),
            ("data", &data("pipelines/latent_images.npy")),
            ("condition", &context),
            ("divergence", "{hutchinson: {probes: 1}}"),
            ("solver", "{euler: {steps: 2}}"),
            ("encode", encode),
            ("seed", seed),
            ("batch", batch),
        ]);
        column(&rows, "prior_log_density")
    };
    let close = |a: &[f64], b: &[f64]| {
        a.iter()
            .zip(b)
            .all(|(a, b)| (a - b).abs() < 1e-4 * (1.0 + b.abs()))
    };
    let drawn = evaluate("1", "draw", "4");
    assert!(close(&drawn, &evaluate("1", "draw", "1")));
    assert!(!close(&drawn, &evaluate("2", "draw", "4")));
    assert!(!close(&drawn, &evaluate("1", "mean", "4")));
    let folder = folder();
    write(
        folder.path(),
        "x.npy",
        npy("<f4", "(4, 3, 8, 8)", &[0; 4 * 3 * 64 * 4]),
    );
    let model = format!("--model={}", data("pipelines/latent.yaml"));
    let condition = format!("--condition={context}");
    let args = [
        "likelihood",
        &model,
        "--data=x.npy",
        &condition,
        "--divergence=exact",
        "--solver=heun",
        "--out=o.csv",
    ];
    refused(folder.path(), &args, &["x.npy", "[4, 4, 6]"]);
}

#[test]
fn posteriors_of_sbi_have_sbis_densities() {
    let observation = format!("observation={}", data("sbi/observations.npy"));
    for (name, tolerance) in [
        ("fmpe", 1e-3),
        ("npse_vp", 1e-3),
        ("npse_ve", 1e-3),
        ("npse_z", 1e-3),
    ] {
        let rows = likelihood(&[
            ("model", &data(&format!("sbi/{name}.yaml"))),
            ("data", &data(&format!("sbi/{name}_data.npy"))),
            ("condition", &observation),
            ("divergence", "exact"),
            ("solver", "{dopri5: {rtol: 1e-6, atol: 1e-6}}"),
        ]);
        let file = format!("sbi/{name}.npz");
        let (expected, scale) = (truth(&file, "log_prob_64"), truth(&file, "log_scale"));
        let scale = scale.iter().next().copied().expect("one number");
        let gaps = column(&rows, "log_likelihood");
        let gap = |(a, b): (&f64, &f64)| (a - scale - b).abs();
        let worst = gaps.iter().zip(&expected).map(gap).fold(0.0, f64::max);
        println!("{name}: {worst:.1e} nats");
        assert!(
            rows.len() == 20 && worst < tolerance,
            "{name}: {worst} nats"
        );
    }
}

#[test]
fn a_sweep_of_guidance_is_a_run_with_tables_by_class() {
    let folder = folder();
    let at = folder.path();
    let [card, array, labels] = ["guided.yaml", "data.npy", "labels.npy"]
        .map(|name| data(&format!("conditions/guided/{name}")));
    let config = format!(
        "name: sweep\nchunk: 16\nestimators: [exact]\nsolvers: [{{heun: {{steps: 20}}}}]\n\
         likelihood:\n\
         - {{model: {card}, data: {array}, samples: 32, conditions: {{label: {labels}}}, \
         guidance: [1, 1.5, 4], by: label, profile: 1, budget: false}}\n\
         samples:\n\
         - {{model: {card}, samplers: [{{heun: {{steps: 6}}}}], count: 32, \
         conditions: {{label: 'balanced:4'}}, guidance: [1, 4], reference: {array}, \
         metrics: [energy]}}\n"
    );
    write(at, "sweep.yaml", config);
    let args = ["run", "sweep.yaml", "--out=run", "--quiet", "--no-check"];
    flowgauge(at, &args).is(0);
    let table = |name: &str| -> Vec<std::collections::BTreeMap<String, String>> {
        let path = at.join(format!("run/tables/{name}.csv"));
        let mut reader = csv::Reader::from_path(path).expect(name);
        reader.deserialize().collect::<Result<_, _>>().expect(name)
    };
    let scales = |rows: &[std::collections::BTreeMap<String, String>]| {
        let all = rows.iter().map(|row| row["guidance"].clone());
        all.collect::<std::collections::BTreeSet<_>>()
    };
    let summary = table("summary");
    assert_eq!(
        scales(&summary),
        ["1", "1.5", "4"].map(str::to_owned).into()
    );
    for row in &summary {
        let guided = row["guidance"] != "1";
        assert_eq!(row["kind"].ends_with("-guided"), guided, "{row:?}");
        let evaluations: f64 = row["evaluations"].parse().expect("a number");
        assert_eq!(evaluations, if guided { 80.0 } else { 40.0 });
    }
    assert_eq!(
        scales(&table("metrics")),
        ["1", "4"].map(str::to_owned).into()
    );
    let known = truth_labels_of("conditions/guided/labels.npy");
    let classes = table("conditions");
    for (class, row) in classes.iter().take(4).enumerate() {
        let n = known[..32]
            .iter()
            .filter(|label| **label == class as i64)
            .count();
        assert_eq!(
            (&*row["value"], &*row["n"]),
            (&*class.to_string(), &*n.to_string())
        );
    }
    let samples = table("samples");
    assert_eq!(samples.len(), 3 * 32);
    for row in &samples {
        let label = known[row["sample"].parse::<usize>().expect("a number")];
        assert_eq!(row["conditions"], format!("label={label}"));
    }
    // The run is reopened with its labels and its guidance.
    flowgauge(at, &["verify", "run", "--fraction=0.2", "--quiet"]).is(0);
    let before = std::fs::read(at.join("run/tables/samples.csv")).expect("a table");
    flowgauge(at, &args).is(0);
    assert_eq!(
        std::fs::read(at.join("run/tables/samples.csv")).expect("a table"),
        before
    );
}

/// The labels in a file below `tests/data`.
fn truth_labels_of(name: &str) -> Vec<i64> {
    let labels = ArrayD::<i64>::read_npy(File::open(data(name)).expect(name));
    labels.expect("int64").into_iter().collect()
}

#[test]
fn populations_have_their_conditions_too() {
    let folder = folder();
    let sample = |sampler: &str, batch: &str| {
        let model = format!("--model={}", data("conditions/guided/guided.yaml"));
        let noise = format!("--noise={}", data("conditions/guided/noise.npy"));
        let label = format!("--condition=label={}", data("conditions/guided/labels.npy"));
        let (sampler, batch) = (format!("--sampler={sampler}"), format!("--batch={batch}"));
        let args = [
            "sample",
            &model,
            &noise,
            &label,
            &sampler,
            &batch,
            "--guidance=1.5",
            "--out=x.npy",
            "--quiet",
        ];
        flowgauge(folder.path(), &args).is(0);
        read_f32(&folder.path().join("x.npy"))
    };
    let gap = |a: &ArrayD<f64>, b: &ArrayD<f64>| (a - b).iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let plain = sample("{ddim: {steps: 8}}", "64");
    let around = |batch| {
        sample(
            "{steindiff: {sampler: {ddim: {steps: 8}}, mode: vanilla, population: 128}}",
            batch,
        )
    };
    assert!(gap(&plain, &around("7")) < 1e-5);
    // With its default bound γ is 1 at every step of this flow, and nothing would be seen.
    let scaled = |batch| {
        sample(
            "{steindiff: {sampler: {ddim: {steps: 8}}, gamma_max: 1.5, population: 128}}",
            batch,
        )
    };
    let (one, other) = (scaled("7"), scaled("64"));
    assert!(gap(&one, &other) < 1e-4 && gap(&one, &plain) > 1e-4);
}
