//! Networks at the edge of what exporters write: singular points, open axes, batch sizes inside, loops, by the command
//! line. The files are made by `scripts/edge_cases.py`.

use std::path::Path;

use crate::cli::{Done, flowgauge, folder, le, npy, refused, strs, write};

const LOG_2_PI: f64 = 1.837_877_066_409_345_5;

/// A network's card and file in a folder; some of the fields do not depend on time.
fn model(at: &Path, name: &str, shape: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/edges")
        .join(format!("{name}.onnx"));
    write(
        at,
        &format!("{name}.onnx"),
        std::fs::read(file).expect(name),
    );
    let still = [
        "product",
        "powers",
        "batch_of_one",
        "five_by_seven",
        "sequence",
    ]
    .contains(&name);
    let time = if still { ", time: {ignored: true}" } else { "" };
    let card = format!(
        "name: {name}\nshape: {shape}\npath: {{kind: flow-matching}}\n\
         network: {{file: {name}.onnx, inputs: {{x: x, time: t}}, output: y, prediction: velocity{time}}}\n"
    );
    write(at, &format!("{name}.yaml"), card)
}

fn likelihood(card: &str) -> Vec<String> {
    let solver = "--solver={dopri5: {rtol: 1e-7, atol: 1e-7}}";
    [
        "likelihood",
        "--model",
        card,
        "--data",
        "x.npy",
        solver,
        "--divergence",
        "exact",
        "--out",
        "out.csv",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// What `likelihood` gives of `x.npy`.
fn log_likelihoods(at: &Path, card: &str) -> Vec<f64> {
    flowgauge(at, &strs(&likelihood(card))).is(0);
    let mut table = csv::Reader::from_path(at.join("out.csv")).expect("a table");
    let place = table
        .headers()
        .expect("columns")
        .iter()
        .position(|c| c == "log_likelihood")
        .expect("the column");
    table
        .records()
        .map(|row| row.expect("a row")[place].parse().expect("a number"))
        .collect()
}

fn inspect(at: &Path, card: &str) -> Done {
    flowgauge(at, &["inspect", card])
}

#[test]
fn likelihoods_at_singular_points_are_the_closed_forms() {
    let folder = folder();
    let at = folder.path();
    let rows: [[f64; 3]; 4] = [
        [0.0, 0.5, 0.7],
        [0.5, 0.5, 0.7],
        [0.0, 0.0, 0.3],
        [1.0, 0.0, 2.0],
    ];
    let flat: Vec<f32> = rows.iter().flatten().map(|v| *v as f32).collect();
    write(at, "x.npy", npy("<f4", "(4, 3)", &le(&flat)));
    let normal = |end: [f64; 3]| -0.5 * end.iter().map(|v| v * v).sum::<f64>() - 1.5 * LOG_2_PI;
    // dz/dt = 0.3 x y z
    let product = rows.map(|[x, y, z]| normal([x, y, z * (0.3 * x * y).exp()]) + 0.3 * x * y);
    // dx/dt = 0.1, dy/dt = 0.2 y, dz/dt = 0.3 z²
    let power = |[x, y, z]: [f64; 3]| {
        let shrink = 1.0 - 0.3 * z;
        normal([x + 0.1, y * 0.2f64.exp(), z / shrink]) + 0.2 - 2.0 * shrink.ln()
    };
    for (name, right) in [("product", product), ("powers", rows.map(power))] {
        let found = log_likelihoods(at, &model(at, name, "[3]"));
        for (found, right) in found.iter().zip(right) {
            assert!(
                (found - right).abs() <= 1e-5,
                "{name}: {found} is not {right}"
            );
        }
        inspect(at, &format!("{name}.yaml")).is(0);
    }
}

/// A derived graph whose new ports are numbered would be read by the file's own names.
#[test]
fn names_that_a_derivative_needs_are_refused_where_the_network_has_them() {
    let folder = folder();
    let at = folder.path();
    write(
        at,
        "x.npy",
        npy("<f4", "(2, 3)", &le(&[0.1f32, 0.5, 0.7, 0.5, 0.2, 0.3])),
    );
    let card = model(at, "taken", "[3]");
    for estimator in [
        "exact",
        "hutchinson",
        "{hutchinson: {probes: 2}}",
        "{hutch++: {matvecs: 3}}",
        "na-hutch++",
    ] {
        let data = [
            "likelihood",
            "--model",
            &card,
            "--data",
            "x.npy",
            "--solver",
            "dopri5",
        ];
        let call = [&data[..], &["--divergence", estimator, "--out", "out.csv"]].concat();
        refused(
            at,
            &call,
            &["taken.onnx", "its derivative needs the name `", "rename it"],
        );
        assert!(!at.join("out.csv").exists());
    }
}

/// The card's shape fixes what the file leaves open: the same number as from the file that says it all.
#[test]
fn open_axes_are_those_of_the_card() {
    let folder = folder();
    let at = folder.path();
    let pixels: Vec<f32> = (0..128)
        .map(|i| ((i * 37 + 11) % 23) as f32 / 12.0 - 0.9)
        .collect();
    write(at, "x.npy", npy("<f4", "(2, 1, 8, 8)", &le(&pixels)));
    for (closed, open) in [
        ("plane", &["open_plane", "open_square", "unnamed_plane"][..]),
        ("channel", &["open_channel"][..]),
    ] {
        let right = log_likelihoods(at, &model(at, closed, "[1, 8, 8]"));
        for name in open {
            let card = model(at, name, "[1, 8, 8]");
            let found = log_likelihoods(at, &card);
            let gap = found
                .iter()
                .zip(&right)
                .fold(0.0, |m: f64, (a, b)| m.max((a - b).abs()));
            assert!(
                gap <= 1e-6 && found.len() == 2,
                "{name}: {found:?} is not {right:?}"
            );
            let inspected = inspect(at, &card);
            assert!(
                inspected
                    .is(0)
                    .stdout
                    .contains("products with the Jacobian are finite"),
                "{}",
                inspected.stdout
            );
        }
    }
}

/// A loop whose number of steps only the run tells is the same network as its steps one after another.
#[test]
fn a_loop_of_unknown_length_is_what_it_is_unrolled() {
    let folder = folder();
    let at = folder.path();
    write(
        at,
        "x.npy",
        npy("<f4", "(2, 3)", &le(&[0.1, 0.2, 0.3, -0.7, 0.9, 0.4])),
    );
    let right = log_likelihoods(at, &model(at, "unrolled", "[3]"));
    let card = model(at, "loop", "[3]");
    let found = log_likelihoods(at, &card);
    let gap = found
        .iter()
        .zip(&right)
        .fold(0.0, |m: f64, (a, b)| m.max((a - b).abs()));
    assert!(
        gap <= 1e-6 && found.len() == 2,
        "{found:?} is not {right:?}"
    );
    let inspected = inspect(at, &card);
    assert!(
        inspected
            .is(0)
            .stdout
            .contains("products with the Jacobian are finite"),
        "{}",
        inspected.stdout
    );
}

#[test]
fn a_node_without_a_derivative_is_named_by_every_verb() {
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", npy("<f4", "(1, 3)", &le(&[0.1, 0.2, 0.3])));
    let card = model(at, "sequence", "[3]");
    let said = ["(SplitToSequence)", "sequences"];
    for mode in ["jvp", "vjp"] {
        refused(
            at,
            &[
                "differentiate",
                "sequence.onnx",
                "--out",
                "d.onnx",
                "--mode",
                mode,
            ],
            &said,
        );
    }
    refused(at, &strs(&likelihood(&card)), &said);
    let inspected = inspect(at, &card);
    assert!(
        inspected.is(0).stdout.contains("(SplitToSequence)"),
        "{}",
        inspected.stdout
    );
    assert!(
        flowgauge(at, &["inspect", "sequence.onnx"])
            .is(0)
            .stdout
            .contains("(SplitToSequence)")
    );
}

/// The batch size is blamed where one sample alone works, and only there.
#[test]
fn a_batch_size_inside_the_graph_is_told_where_it_is_the_cause() {
    let folder = folder();
    let at = folder.path();
    write(
        at,
        "x.npy",
        npy("<f4", "(3, 2)", &le(&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])),
    );
    for (name, blamed) in [("batch_of_one", true), ("five_by_seven", false)] {
        let card = model(at, name, "[2]");
        let done = flowgauge(at, &strs(&likelihood(&card)));
        done.is(2).says(&[name]);
        assert_eq!(
            done.stderr.contains("baked into the graph"),
            blamed,
            "{name}: {}",
            done.stderr
        );
        let inspected = inspect(at, &card);
        let text = &inspected.is(1).stdout;
        assert!(
            text.contains("FAILED") && text.contains("baked") == blamed,
            "{name}: {text}"
        );
    }
}
